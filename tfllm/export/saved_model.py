"""One SavedModel with tokenizer, model and every decoder: strings in, strings out, in a bare TensorFlow process."""

import pathlib
import tempfile

import tensorflow as tf

from tfllm import files
from tfllm.export.model_card import model_card
from tfllm.export.requests import Reader
from tfllm.export.signatures import (
    make_decode,
    make_embed,
    make_encode,
    make_generate,
    make_next_token,
    make_score,
)
from tfllm.generation import STRATEGIES, Strategy

_TEXTS = {  # of texts alone
    "score": make_score,
    "next_token": make_next_token,
    "embed": make_embed,
    "encode": make_encode,
    "decode": make_decode,
}
_SUMMARIES = {
    "generate": "continues texts token by token, drawn or greedy (temperature 0); also `serving_default`",
    "complete": "does what `generate` does and says how likely each token was",
    "guided": "does what `generate` does, led away from second prompts",
}
SIGNATURES = ("generate", "complete", "guided", "beam_search", "mcts", "speculative", *_TEXTS)


def save(generator, path, *, signatures=None, top_log_probs=5, jit_compile=False, force=False, **strategies):
    """Writes a SavedModel from strings to strings, with tokenizer, weights and decoders, that needs TensorFlow alone.

    Every signature is also a function of what `tf.saved_model.load` returns: `loaded.generate(["To be"], temperature=0.5)`.
    Texts are the inputs that a call must give; everything else has a default, there, in `saved_model_cli` and in servers.
    (`loaded.signatures[...]` in Python knows no defaults: TensorFlow wants every input there.) Numbers are given once or
    one a prompt. `assets/` holds `tokenizer.json` and `model_card.md`, which lists inputs, defaults and outputs. Weights are
    stored once, and so is what signatures have in common. The folder appears whole or not at all. The `prompts` of a `Seq2Seq`
    are its sources, and so are the `contexts` of its `score` and the texts of `embed`.

    What a signature returns is what `TextGenerator` returns for the same settings. A broken rule raises
    `tf.errors.InvalidArgumentError` with the sentence of Python. One prompt gets at most a million new tokens in all.

    Args:
        generator: a `TextGenerator`.
        path: str or path of a folder that does not exist yet, or is empty.
        signatures: list of str, those to write, `"serving_default"` being the first of them that continues texts, else the
            first; of `SIGNATURES`, the strategies by name, and `strategies`. None writes all of `SIGNATURES`.
        top_log_probs: int >= 0, how many likeliest tokens `complete` returns beside each chosen one.
        jit_compile: bool, whether XLA compiles the decoding: faster on CPUs, after seconds for each new power of two of rows,
            prompt and new tokens; for `tf.saved_model.load`, because sessions, such as those of `saved_model_cli`, take apart the
            loops that XLA wants whole.
        force: bool, whether a SavedModel that stands there may be replaced.
        **strategies: `Strategy` by the name of its signature, where another than the default one is wanted, such as
            `beam_search=BeamSearch(num_beams=8, num_sequences=8)`: sizes shape the graph, so they are chosen here.

    Raises:
        ValueError: on an unknown signature, or a strategy that the model cannot serve.
        FileExistsError: when something stands at `path` and `force` does not allow to replace it.
    """
    path = pathlib.Path(path)
    check_free(path, force)
    endpoints = make_endpoints(generator, signatures, top_log_probs, jit_compile, strategies)

    module = tf.Module()
    # The variables themselves: a Keras model in here would store every weight twice and break `saved_model_cli`.
    models = [generator.model, *(x for strategy in strategies.values() for x in vars(strategy).values())]
    weights = [weight.value for model in models for weight in getattr(model, "weights", ())]  # of drafts, too
    module.model_weights = list({id(weight): weight for weight in weights}.values())
    module.tokenizer = generator.tokenizer
    assets = {"tokenizer.json": generator.tokenizer.to_json()}
    if generator.source_tokenizer not in (None, generator.tokenizer):
        module.source_tokenizer = generator.source_tokenizer
        assets["source_tokenizer.json"] = generator.source_tokenizer.to_json()
    assets["model_card.md"] = model_card(generator, endpoints, jit_compile)
    for name, endpoint in endpoints.items():
        setattr(module, name, endpoint.function)
    functions = {name: endpoint.function for name, endpoint in endpoints.items()}
    functions["serving_default"] = next((functions[name] for name in endpoints if name not in _TEXTS), None)
    functions["serving_default"] = functions["serving_default"] or next(iter(functions.values()))
    write_saved_model(module, functions, assets, path)


def write_saved_model(module, functions, assets, path):
    """Writes a SavedModel, whole or not at all.

    Args:
        module: `tf.Module` that holds all weights and tables.
        functions: dict of `tf.function` by the names of their signatures.
        assets: dict of str, what the files in `assets/` hold, by their names.
        path: `pathlib.Path` that `check_free` lets pass.
    """
    logger, level = tf.get_logger(), tf.get_logger().level
    with tempfile.TemporaryDirectory() as place, files.whole_folder(path) as partial:
        for name, content in assets.items():
            (pathlib.Path(place) / name).write_text(content, encoding="utf-8")
            setattr(module, name.replace(".", "_"), tf.saved_model.Asset(f"{place}/{name}"))
        try:
            logger.setLevel("WARNING")  # it would name the partial folder
            tf.saved_model.save(module, str(partial), signatures=functions)
        finally:
            logger.setLevel(level)


def make_endpoints(generator, signatures, top_log_probs, jit_compile, strategies):
    """Makes the `Endpoint`s of an export by name; arguments as for `save`."""
    known = dict.fromkeys((*SIGNATURES, *STRATEGIES, *strategies))
    names = (*SIGNATURES, *strategies) if signatures is None else signatures
    if isinstance(names, str) or not names:
        raise ValueError(f"signatures must be a list of names; got {names!r}")
    for name in names:
        if name not in known:
            raise ValueError(f"signatures must be among {', '.join(known)}; got {name!r}")
    for name, strategy in strategies.items():
        if name in (*_SUMMARIES, *_TEXTS) or not name.isidentifier() or not isinstance(strategy, Strategy):
            raise ValueError(f"strategies must be Strategy objects under names of their own; got {name}={strategy!r}")
    top = top_log_probs
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= generator.model.vocab_size:
        raise ValueError(f"top_log_probs must be an int in [0, {generator.model.vocab_size}]; got {top!r}")
    reader, endpoints = Reader(generator, jit_compile), {}
    for name in dict.fromkeys(names):
        if name in _TEXTS:
            endpoints[name] = _TEXTS[name](reader)
            continue
        strategy = strategies[name] if name in strategies else STRATEGIES["sample" if name in _SUMMARIES else name]()
        strategy.check(generator.model)
        summary = _SUMMARIES.get(name, f"continues texts by {strategy}")
        details = {"top": top} if name == "complete" else {"guided": name == "guided"}
        endpoints[name] = make_generate(reader, strategy, summary, **details)
    return endpoints


def check_free(path, force=False):
    """Raises FileExistsError unless `path` is free, an empty folder, or with `force` a SavedModel."""
    files.check_free("path", path, _is_saved_model, "a SavedModel", force)


def _is_saved_model(path):
    known = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}
    return (path / "saved_model.pb").is_file() and not {entry.name for entry in path.iterdir()} - known
