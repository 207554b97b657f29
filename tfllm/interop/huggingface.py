"""Checkpoints in the layout of Hugging Face: a folder of config.json, model.safetensors and tokenizer.json.

Nothing is unpickled and no code of a checkpoint runs. Weights of 16 bits become those of the model's dtype.
"""

import json
import math
import pathlib

from tfllm import files
from tfllm.interop.configuration import arguments_of, config_of, encoder_arguments_of, encoder_config_of
from tfllm.interop.layouts import BERT, GPT2, LLAMA, Source, fill, placements
from tfllm.interop.tensor_files import has_tensors, open_tensors, write_tensors
from tfllm.models import TransformerEncoder, TransformerLM
from tfllm.text import WordPieceTokenizer, load_tokenizer

CONFIG, GENERATION, TOKENIZER = "config.json", "generation_config.json", "tokenizer.json"
TOKENIZER_CONFIG, VOCABULARY = "tokenizer_config.json", "vocab.txt"
# What old checkpoints carry besides: constants that their code once stored.
_CONSTANTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
# What encoders carry besides: a projection of the first token and a head for pairs of sentences, which nothing here reads; and
# what is tied to other tensors.
_BESIDES = ("pooler.dense.weight", "pooler.dense.bias", "position_ids", "cls.seq_relationship.weight")
_BESIDES += ("cls.seq_relationship.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias")


def load_huggingface(folder, dtype=None):
    """Reads a checkpoint of GPT-2, Llama, Mistral, Qwen2 or Qwen3, or of another family with one of these model types.

    Args:
        folder: str or path of a folder with `config.json`, `model.safetensors` (or its shards and their index) and
            `tokenizer.json`.
        dtype: str, a Keras dtype policy such as "bfloat16" or "mixed_bfloat16"; None means Keras's own, float32 unless set
            otherwise. The checkpoint may be of another.

    Returns:
        (`TransformerLM`, `Tokenizer`). Where the checkpoint's vocabulary is padded, the model has more ids than the
        tokenizer. The tokenizer's `end_id` is the first one that the checkpoint ends a text with. Dropout is 0. What the
        tokenizer's template puts before a text (as Llama 3's does) comes only with `encode(..., add_special_tokens=True)`:
        `TextGenerator` reads prompts as they are.

    Raises:
        ValueError: naming the setting or tensor, when the checkpoint asks for what is not built, or is damaged.
        FileNotFoundError: when a file is missing.
        ImportError: without the package safetensors.

    Example:
        >>> model, tokenizer = load_huggingface("SmolLM2-135M")  # doctest: +SKIP
        >>> tfllm.TextGenerator(model, tokenizer).generate("The capital of France is", temperature=0)  # doctest: +SKIP
    """
    folder = pathlib.Path(folder)
    config = _read_json(folder / CONFIG)
    arguments = arguments_of(config)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    with open_tensors(folder) as source:
        generation = _read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
        end = generation.get("eos_token_id")
        set_end(tokenizer, config.get("eos_token_id") if end is None else end)
        layout = GPT2 if config["model_type"] == "gpt2" else LLAMA
        prefix = layout.prefix if any(name.startswith(layout.prefix) for name in source.shapes) else ""
        ignorable = _CONSTANTS + ((f"{layout.head}.weight",) if arguments["tied_embeddings"] else ())
        model = build(arguments, tokenizer, source, dtype)
        fill(placements(model, layout, prefix), source, ignorable)
    return model, tokenizer


def load_huggingface_encoder(folder, dtype=None):
    """Reads the checkpoint of an encoder in BERT's layout.

    Args:
        folder: str or path of a folder with `config.json`, `model.safetensors` (or its shards and their index) and
            `tokenizer.json`, or `vocab.txt`.
        dtype: as for `load_huggingface`.

    Returns:
        (`TransformerEncoder`, `Tokenizer`). The encoder has a prediction head where the checkpoint has one. BERT's "pooler" and
        its head for pairs of sentences are left out. Dropout is 0. `[CLS]` and `[SEP]` come with `add_special_tokens=True`, as
        the data sets of `data/labelled.py` have it.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_huggingface` does.

    Example:
        >>> encoder, tokenizer = load_huggingface_encoder("all-MiniLM-L6-v2")  # doctest: +SKIP
    """
    folder = pathlib.Path(folder)
    arguments = encoder_arguments_of(_read_json(folder / CONFIG))
    if (folder / TOKENIZER).is_file() or not (folder / VOCABULARY).is_file():
        tokenizer = load_tokenizer(folder / TOKENIZER)
    else:
        about = _read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
        lowercase = about.get("do_lower_case", True) is not False
        tokenizer = WordPieceTokenizer.from_vocabulary(folder / VOCABULARY, lowercase=lowercase)
    with open_tensors(folder) as source:
        source = _with_new_names(source)
        arguments["prediction_head"] = f"{BERT.prediction}bias" in source.shapes
        model = build(arguments, tokenizer, source, dtype, TransformerEncoder)
        prefix = BERT.prefix if any(name.startswith(BERT.prefix) for name in source.shapes) else ""
        fill(placements(model, BERT, prefix), source, _BESIDES)
    return model, tokenizer


def save_huggingface(model, tokenizer, folder, *, force=False, max_shard_bytes=5 * 10**9):
    """Writes a model and its tokenizer as a checkpoint that `transformers` and `load_huggingface` read.

    A model in GPT-2's layout becomes a GPT-2, with zeros for the biases that it may lack; one in Llama's layout becomes a
    Llama, Qwen2 or Qwen3; an encoder in BERT's layout becomes a BERT. The folder appears whole or not at all.

    Args:
        model: a `TransformerLM` or a `TransformerEncoder`.
        tokenizer: its tokenizer.
        folder: str or path of a folder that does not exist yet, or is empty.
        force: bool, whether a checkpoint that stands there may be replaced.
        max_shard_bytes: int, the most bytes of tensors in one file.

    Raises:
        ValueError: when no model type of `transformers` computes what the model computes, the tokenizer has more ids than the
            model, or `max_shard_bytes` is below 1.
        FileExistsError: when something stands at `folder` and `force` does not allow to replace it.
        ImportError: without the package safetensors.

    Example:
        >>> save_huggingface(model, tokenizer, "checkpoint")  # doctest: +SKIP
    """
    if not isinstance(model, TransformerLM | TransformerEncoder):
        raise ValueError(f"model must be a TransformerLM or a TransformerEncoder; got a {type(model).__name__}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1; got {max_shard_bytes}")
    _check_vocabulary(tokenizer, model.vocab_size)
    is_encoder, folder = isinstance(model, TransformerEncoder), pathlib.Path(folder)
    config = encoder_config_of(model) if is_encoder else config_of(model)
    files.check_free("folder", folder, _is_saved, "a checkpoint", force)
    end = tokenizer.end_id if tokenizer.end_id >= 0 else None
    config |= {"dtype": model.variable_dtype, "bos_token_id": None, "eos_token_id": end, "pad_token_id": None}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model.max_length}
    if end is not None:
        about["eos_token"] = tokenizer.tokens[end]
    layout = BERT if is_encoder else GPT2 if config["model_type"] == "gpt2" else LLAMA
    prefix = "" if is_encoder and not model.prediction_head else layout.prefix
    with files.whole_folder(folder) as new:
        write_tensors(new, placements(model, layout, prefix), max_shard_bytes)
        tokenizer.save(new / TOKENIZER)
        for name, document in ((CONFIG, config), (GENERATION, {"eos_token_id": end}), (TOKENIZER_CONFIG, about)):
            files.write_whole(new / name, json.dumps(document, indent=2, ensure_ascii=False))


def is_huggingface(path):
    """Says whether a path is a checkpoint folder: its config.json names a model type."""
    try:
        return "model_type" in _read_json(pathlib.Path(path) / CONFIG)
    except (OSError, ValueError):
        return False


def build(arguments, tokenizer, source, dtype, kind=TransformerLM):
    """Makes a model that a checkpoint can fill, after refusing sizes that it cannot.

    Args:
        arguments: dict, of the model.
        tokenizer: the checkpoint's tokenizer.
        source: `layouts.Source`, its tensors.
        dtype: str or None, the dtype policy.
        kind: `TransformerLM` or `TransformerEncoder`.

    Raises:
        ValueError: when the tokenizer has more ids than the model, or the model far more weights than the checkpoint.
    """
    _check_vocabulary(tokenizer, arguments["vocab_size"])
    # A model is made before `fill` names the tensors that are missing; sizes far beyond the files would take all memory.
    needed, found = _least_weights(**arguments), sum(map(math.prod, source.shapes.values()))
    if needed > 2 * found + 10**6:
        raise ValueError(f"checkpoint must hold the {needed} weights at least that its settings ask for; got {found}")
    return kind(**arguments, dtype=dtype)


def set_end(tokenizer, end):
    """Gives a tokenizer the end token of a checkpoint: None for none of its own, an id, or a list whose first one counts."""
    ids = [] if end is None else end if isinstance(end, list) else [end]
    for index in ids:
        if type(index) is not int or not 0 <= index < tokenizer.vocab_size:
            raise ValueError(f"eos_token_id must lie in [0, vocab_size={tokenizer.vocab_size}); got {index!r}")
    if ids:
        tokenizer.end_id = ids[0]


def _check_vocabulary(tokenizer, vocab_size):
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(f"tokenizer must have at most the model's {vocab_size} ids; got {tokenizer.vocab_size}")


def _least_weights(
    *, vocab_size, dim, num_layers, num_heads, hidden_dim=None, num_kv_heads=None, head_dim=None, **rest
):
    """Returns int, how many weights the embeddings and matrices of a `TransformerLM` have."""
    size, hidden = head_dim or dim // num_heads, hidden_dim or 4 * dim
    attention = 2 * dim * size * (num_heads + (num_kv_heads or num_heads))
    feed_forward = (3 if rest["activation"] == "swiglu" else 2) * dim * hidden
    tables = vocab_size * (1 if rest.get("tied_embeddings", True) else 2)
    tables += rest["max_length"] if rest.get("positions", "learned") == "learned" else 0
    return tables * dim + num_layers * (attention + feed_forward)


def _with_new_names(source):
    """Returns a `Source` whose normalisations have the names of today, where an old BERT has `gamma` and `beta`."""

    def renamed(name):
        return (
            name.removesuffix("gamma") + "weight"
            if name.endswith("LayerNorm.gamma")
            else name.removesuffix("beta") + "bias"
        )

    old = {renamed(name): name for name in source.shapes if name.endswith(("LayerNorm.gamma", "LayerNorm.beta"))}
    names = {name: name for name in source.shapes if name not in old.values()} | old
    return Source({new: source.shapes[name] for new, name in names.items()}, lambda name: source.read(names[name]))


def _is_saved(path):
    known = {CONFIG, GENERATION, TOKENIZER, TOKENIZER_CONFIG}
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    others = {name for name in names - known if not (name.startswith("model") and ".safetensors" in name)}
    return not others and CONFIG in names and has_tensors(path)


def _read_json(path):
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold {path.name}; got {str(path.parent)!r}, which has none")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} must be JSON; got {str(error)[:80]}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} must be an object; got {type(document).__name__}")
    return document
