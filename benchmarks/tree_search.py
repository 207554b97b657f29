"""Simulations of Monte Carlo tree search a second: compiled, 16 prompts at once, beside the same search in plain Python.

python benchmarks/tree_search.py [--rounds N] [--models NAME ...] [--simulations N]

The reference is `tests/generation/reference_mcts.py`, which the tests compare node by node: objects and NumPy, one prompt at a
time, over a `tf.function` of the model's step; it keeps the state of every node, so a leaf costs it one token. All programs
run in turn. A unit is 16 new tokens behind prompts of 64.
"""

import argparse
import pathlib
import sys

import numpy as np
from duel import race, serve

PROMPT, NEW, CHARACTERS = 64, 16, "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
MODELS = {
    "GRU, 1 layer of 354": ("gru", 354, 1),
    "Transformer, 4 layers of 128": ("transformer", 128, 4),
    "Transformer, 6 layers of 384": ("transformer", 384, 6),
}
PROGRAMS = ("plain Python, batch 1", "graph, batch 16", "XLA, batch 16", "graph, batch 1")


def make_model(name):
    import keras

    import tfllm

    kind, dim, num_layers = MODELS[name]
    vocab_size = tfllm.CharTokenizer(CHARACTERS).vocab_size
    keras.utils.set_random_seed(0)
    if kind == "gru":
        model = tfllm.RecurrentLM(vocab_size, "gru", dim, num_layers)
    else:
        model = tfllm.TransformerLM(vocab_size, 128, dim, num_layers, dim // 32, positions="rotary")
    for weight in model.trainable_weights:  # sharpened, so that the trees are as deep as a trained model's
        if weight.shape.rank == 2:
            weight.assign(weight * 4)
    return model


def make_prompts(num):
    return ["".join(row) for row in np.random.default_rng(0).choice(list(CHARACTERS), (num, PROMPT))]


def run_compiled(model, batch, simulations, jit_compile):
    import tfllm

    generator = tfllm.TextGenerator(model, tfllm.CharTokenizer(CHARACTERS), jit_compile=jit_compile)
    prompts = make_prompts(batch)
    serve(
        lambda: generator.generate(prompts, strategy="mcts", num_simulations=simulations, max_new_tokens=NEW),
        tokens=batch * NEW * simulations,
    )


def run_plain(model, simulations):
    import tensorflow as tf

    import tfllm

    sys.path.append(str(pathlib.Path(__file__).parents[1] / "tests" / "generation"))
    from reference_mcts import Search

    step = tf.function(model.step)
    ids = tfllm.CharTokenizer(CHARACTERS).encode(make_prompts(1)[0]).numpy()
    length, one = tf.constant([PROMPT]), tf.constant([1])
    search = Search(
        lambda ids, state: step(tf.constant(ids), state, one),
        lambda tokens, log_prob: log_prob,
        end_id=-1,
        max_tokens=PROMPT + NEW,
        num_simulations=simulations,
        max_children=16,
        max_depth=16,
    )

    def unit():
        state = model.initial_state(1, PROMPT + NEW)
        logits, state = step(tf.constant(ids[None]), state, length)
        search.continue_text(ids.tolist(), logits[0, -1].numpy(), state)

    serve(unit, tokens=NEW * simulations)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        program, name = options.worker
        model = make_model(name)
        if program == PROGRAMS[0]:
            run_plain(model, options.simulations)
        else:
            batch = int(program.split()[-1])
            run_compiled(model, batch, options.simulations, program.startswith("XLA"))
        return
    base = [sys.executable, __file__, "--simulations", str(options.simulations), "--worker"]
    print("| model | program | simulations a second, median | lowest to highest | ratio |\n|---|---|---|---|---|")
    for name in options.models:
        found = race({program: [*base, program, name] for program in PROGRAMS}, rounds=options.rounds)
        plain = found[PROGRAMS[0]]["tokens_per_second"]
        for program, result in found.items():
            low, high = result["spread"]
            rate = result["tokens_per_second"]
            print(f"| {name} | {program} | {rate:,.0f} | {low:,.0f} to {high:,.0f} | {rate / plain:.1f} |", flush=True)


if __name__ == "__main__":
    main()
