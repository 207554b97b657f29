"""Speculative decoding beside greedy: tokens for each pass through the model, and time, the programs in turn.

    python benchmarks/speculation.py [--steps N] [--dim D] [--rounds N] [--case repetition drama]

Two cases, both of Tiny Shakespeare, one id a character, one prompt a call, greedy, in graph mode:

- repetition: the model is trained on pieces of 32 to 96 characters that stand again and again, and goes on with pieces of the
  validation part that it has read once; prompt lookup drafts from there.
- drama: the model is trained on the plays as they are. Prompt lookup, a GRU of a third of the width, and four heads of the
  model itself draft.

The models are trained here, for `--steps` steps of 8 x 256 characters each, and thrown away. Whether the texts are the same is
part of the table. For the draft model it also says how likely a draft drawn at temperature 1 is kept, along sampled texts: by
the coupling used here, and by the rule of Leviathan et al. (2023, arXiv:2211.17192), which is the most that is possible.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from duel import race, serve

CONTEXT, NEW, BATCH, HEADS = 256, 128, 8, 4
CASES = {"repetition": ("greedy", "prompt lookup"), "drama": ("greedy", "prompt lookup", "draft model", "heads")}
DRAFTS = {
    "prompt lookup": {"max_ngram": 6, "min_ngram": 3},
    "draft model": {"draft_tokens": 4},
    "heads": {"draft": "heads"},
}


def make_models(vocab_size, dim):
    import tfllm

    large = tfllm.TransformerLM(vocab_size, CONTEXT, dim, 4, dim // 64, positions="rotary")
    return large, tfllm.RecurrentLM(vocab_size, "gru", dim // 3)


def prompts(case, ids):
    """Returns int32 [8, P], prompts from the last tenth of the text."""
    random = np.random.default_rng(1)
    rows = np.stack([ids[at : at + 64] for at in random.integers(int(0.9 * len(ids)), len(ids) - 64, 8)])
    return np.concatenate([rows, rows[:, :8]], 1) if case == "repetition" else rows


def batches(case, ids):
    """Yields (inputs, targets); in the case of repetition a row says its beginning again and again."""
    random, size = np.random.default_rng(0), CONTEXT + 1
    while True:
        rows = np.stack([ids[at : at + size] for at in random.integers(0, int(0.9 * len(ids)) - size, BATCH)])
        if case == "repetition":
            rows = rows[:, np.arange(size) % random.integers(32, 97)]
        yield rows[:, :-1], rows[:, 1:]


def train(folder, steps, dim):
    import tfllm

    text = tfllm.load_text("shakespeare")
    tokenizer = tfllm.CharTokenizer.train(text)
    ids = tokenizer.encode(text).numpy()
    for case, ways in CASES.items():
        keras.utils.set_random_seed(0)
        large, small = make_models(tokenizer.vocab_size, dim)
        fit(large, batches(case, ids), steps, folder / f"{case}-large.weights.h5")
        if "draft model" in ways:
            fit(small, batches(case, ids), steps, folder / f"{case}-small.weights.h5", jit_compile=False)
        if "heads" in ways:
            heads = tfllm.models.WithDraftHeads(large, HEADS)
            loss = {"loss_fn": tfllm.models.multi_token_loss}
            fit(heads, batches(case, ids), max(steps // 2, 1), folder / f"{case}-heads.weights.h5", **loss)


def fit(model, data, steps, path, jit_compile=True, **options):
    import tfllm

    model.compile(tfllm.training.make_adamw(model, steps), jit_compile=jit_compile, **options)
    loss = model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False).history["loss"][0]
    model.save_weights(path)
    print(f"trained {path.stem}: {loss:.3f} nats a target on average", file=sys.stderr, flush=True)


def load(case, way, folder, dim):
    """Returns (tokenizer, model, the small model, fields of `Speculative`, prompts)."""
    import tfllm

    text = tfllm.load_text("shakespeare")
    tokenizer = tfllm.CharTokenizer.train(text)
    model, small = make_models(tokenizer.vocab_size, dim)
    model.load_weights(folder / f"{case}-large.weights.h5")
    if way == "heads":
        model = tfllm.models.WithDraftHeads(model, HEADS)
        model.load_weights(folder / f"{case}-heads.weights.h5")
    if case == "drama":
        small.load_weights(folder / f"{case}-small.weights.h5")
    fields = DRAFTS.get(way, {}) | ({"draft": small} if way == "draft model" else {})
    return tokenizer, model, small, fields, prompts(case, tokenizer.encode(text).numpy())


def work(case, way, folder, dim):
    import tfllm

    tokenizer, model, _, fields, rows = load(case, way, folder, dim)
    generator = tfllm.TextGenerator(model, tokenizer)
    texts = [text.decode() for text in tokenizer.decode(rows).numpy()]
    request = {"strategy": "greedy" if way == "greedy" else "speculative", "temperature": 0.0, "max_new_tokens": NEW}
    serve(lambda: [generator.generate(text, **request, **fields) for text in texts], tokens=NEW * len(texts))


def count(case, way, folder, dim):
    """Prints what the search of one way counts, as JSON."""
    import tensorflow as tf

    from tfllm.generation import Sample, Speculative, Vocabulary, make_settings

    _, model, small, fields, rows = load(case, way, folder, dim)
    inputs = {"ids": rows, "lengths": np.full(len(rows), rows.shape[1], np.int32)}

    def search(strategy, temperature):
        settings = make_settings(len(rows), model.vocab_size, max_new_tokens=NEW, temperature=temperature)
        run = tf.function(lambda i, s: strategy.search(model, i, s, Vocabulary(), tf.constant(NEW)), autograph=False)
        found = run(*tf.nest.map_structure(tf.constant, (inputs, settings)))
        return {name: x.numpy() for name, x in found.items()}

    found = search(Sample() if way == "greedy" else Speculative(**fields), 0.0)
    result = {"ids": found["ids"].tolist(), "tokens_per_pass": 1.0}
    if way != "greedy":
        result["tokens_per_pass"] = float(found["count"].sum() / found["passes"].sum())
        result["kept"] = float(found["accepted"].sum() / found["drafted"].sum())
    if way == "draft model":
        text = np.concatenate([rows, search(Sample(), 1.0)["ids"]], 1)
        p, q = (
            tf.nn.softmax(x(text))[:, rows.shape[1] - 1 : -1].numpy().reshape(-1, x.vocab_size) for x in (model, small)
        )
        ratios = np.maximum(p[:, None] / p[..., None], q[:, None] / q[..., None])  # [N, i, j]
        result["coupled"] = float((1 / ratios.sum(-1)).sum(-1).mean())
        result["leviathan"] = float(np.minimum(p, q).sum(-1).mean())
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--run", nargs=4, metavar=("WHAT", "CASE", "WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        what, case, way, folder = arguments.run
        {"work": work, "count": count}[what](case, way, pathlib.Path(folder), arguments.dim)
        return
    print("| case | draft | tokens a pass | drafted tokens kept | text as greedy | tokens a second | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        train(pathlib.Path(place), arguments.steps, arguments.dim)
        for case in arguments.case:
            ways = CASES[case]

            def command(what, way, case=case):
                here = [sys.executable, __file__, "--dim", str(arguments.dim)]
                return [*here, "--run", what, case, way, place]

            counted = {}
            for way in ways:
                lines = subprocess.run(
                    command("count", way), check=True, stdout=subprocess.PIPE, text=True
                ).stdout.splitlines()
                counted[way] = json.loads(lines[-1])
            speeds = race({way: command("work", way) for way in ways}, rounds=arguments.rounds)
            plain = speeds["greedy"]["tokens_per_second"]
            for way in ways:
                row, speed = counted[way], speeds[way]["tokens_per_second"]
                kept = f"{row['kept']:.0%}" if "kept" in row else ""
                same = sum(a == b for a, b in zip(row["ids"], counted["greedy"]["ids"], strict=True))
                print(
                    f"| {case} | {way} | {row['tokens_per_pass']:.2f} | {kept} | {same} of {len(row['ids'])} | "
                    f"{speed:,.0f} | {speed / plain:.2f} |",
                    flush=True,
                )
    if "draft model" not in counted:
        return
    row = counted["draft model"]
    print(
        f"\nAt temperature 1 the draft model's token is kept with probability {row['coupled']:.3f}; the rule of Leviathan et al. "
        f"keeps {row['leviathan']:.3f}."
    )


if __name__ == "__main__":
    main()
