"""Training tokens per second: tfllm in its forms beside its peers, on the same ids, timed in turn.

    python benchmarks/training.py --json FILE --torch-python PYTHON --nanogpt FOLDER
        [--size nano base gpt2 lstm gru] [--dtype float32 bfloat16] [--only WORD ...] [--rounds N] [--tries N]

A cell is a size and a dtype, and a table of its own. `nano` is nanoGPT's CPU recipe (4 layers, 4 heads, 128 wide, 12 rows of
64), `base` 6 layers, 6 heads, 384 wide with 16 rows of 256, `gpt2` GPT-2's shape of 124 million weights with 2 rows of 256;
`lstm` and `gru` are two layers 512 wide over a vocabulary of 10,000 with 32 rows of 64. bfloat16 is Keras's `mixed_bfloat16`
and PyTorch's autocast. Every program runs AdamW (betas 0.9 and 0.99, decay 0.1) on gradients clipped at norm 1, without
dropout, on ids that were drawn beforehand, two threads. Programs that are not installed are named and left out:

    tfllm, Keras, KerasHub        this Python
    nanoGPT, torch.nn             --torch-python, with torch and numpy; nanoGPT also --nanogpt, a checkout of it

"floor" is the time that the step's products of matrices take at the rate of large products, plus that of reading and writing
what the optimizer keeps, at the bandwidth of memory, both measured here. "stalled" counts units that took longer because the
program slept, not because it computed; they count neither for nor against it.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np
from duel import race, serve

SIZES = {
    "nano": {"num_layers": 4, "num_heads": 4, "dim": 128, "time": 64, "rows": 12, "vocab_size": 65, "steps": 200},
    "base": {"num_layers": 6, "num_heads": 6, "dim": 384, "time": 256, "rows": 16, "vocab_size": 65, "steps": 6},
    "gpt2": {"num_layers": 12, "num_heads": 12, "dim": 768, "time": 256, "rows": 2, "vocab_size": 50257, "steps": 6},
    "lstm": {"num_layers": 2, "num_heads": None, "dim": 512, "time": 64, "rows": 32, "vocab_size": 10000, "steps": 8},
    "gru": {"num_layers": 2, "num_heads": None, "dim": 512, "time": 64, "rows": 32, "vocab_size": 10000, "steps": 8},
}
RECURRENT = ("lstm", "gru")
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
OURS = {
    "tfllm fit, graph": ("fit", False),
    "tfllm fit, XLA": ("fit", True),
    "tfllm own loop, graph": ("loop", False),
    "tfllm own loop, XLA": ("loop", True),
}
PEERS = {  # name: (program of training_peers.py, whose Python, whether recurrent)
    "nanoGPT, eager": ("nanogpt", "torch", False),
    "nanoGPT, compiled": ("nanogpt_compiled", "torch", False),
    "Keras fit, KerasHub layers": ("keras_hub", "own", False),
    "Keras fit, KerasHub layers, XLA": ("keras_hub_xla", "own", False),
    "torch.nn": ("torch_recurrent", "torch", True),
    "Keras fit, its own layer": ("keras", "own", True),
    "Keras fit, its own layer, XLA": ("keras_xla", "own", True),
    "Keras fit, its own layer, unrolled": ("keras_unrolled", "own", True),
}
PEER_FILE = pathlib.Path(__file__).with_name("training_peers.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--only", nargs="+", help="run only programs whose name has one of these words")
    parser.add_argument("--skip", nargs="+", default=[], help="leave out programs whose name has one of these words")
    parser.add_argument("--nanogpt", default="", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--torch-python", help="a Python that has torch and numpy")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--tries", type=int, default=1, help="how often a unit is timed until others leave it undisturbed"
    )
    parser.add_argument("--work", nargs=3, metavar=("PROGRAM", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    found = {"ceilings": ceilings(), "cells": []}
    for size in arguments.size:
        for dtype in arguments.dtype:
            programs = race(
                commands(arguments, size, dtype), rounds=arguments.rounds, tries=arguments.tries, lenient=True
            )
            cell = {"size": size, "dtype": dtype, "programs": programs} | floor(size, found["ceilings"])
            found["cells"].append(cell)
            show(cell)
            if arguments.json:  # after every cell, because all of them take an hour
                pathlib.Path(arguments.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def commands(arguments, size, dtype):
    """Returns dict of name -> the command line of each program of a cell."""
    own = [sys.executable, str(pathlib.Path(__file__))]
    pythons = {"own": sys.executable, "torch": arguments.torch_python}
    cell = json.dumps(SIZES[size] | {"cell": size, "dtype": dtype, "nanogpt": arguments.nanogpt})
    found = {name: [*own, "--work", name, size, dtype] for name in OURS}
    for name, (program, whose, recurrent) in PEERS.items():
        needs = pythons[whose] and (arguments.nanogpt or "nanogpt" not in program)
        if recurrent == (size in RECURRENT) and needs:
            found[name] = [pythons[whose], str(PEER_FILE), program, cell]
    only = arguments.only or [""]
    chosen = [name for name in found if any(word in name for word in only)]
    return {name: found[name] for name in chosen if not any(word in name for word in arguments.skip)}


def work(program, size, dtype):
    import keras
    import tensorflow as tf

    import tfllm

    way, jit_compile = OURS[program]
    shape = SIZES[size]
    keras.config.set_dtype_policy(DTYPES[dtype])
    if size in RECURRENT:
        model = tfllm.RecurrentLM(shape["vocab_size"], size, shape["dim"], shape["num_layers"])
    else:
        model = tfllm.TransformerLM(
            shape["vocab_size"], shape["time"], shape["dim"], shape["num_layers"], shape["num_heads"]
        )
    ids, steps = draw(shape), shape["steps"]
    batches = tf.data.Dataset.from_tensor_slices((ids[:, :, :-1], ids[:, :, 1:])).repeat()
    optimizer = tfllm.training.make_adamw(model, 100_000)
    facts = {"tokens": steps * shape["rows"] * shape["time"], "parameters": parameters(model.trainable_variables)}
    if way == "fit":
        model.compile(optimizer, jit_compile=jit_compile, steps_per_execution=min(steps, 10))
        serve(lambda: model.fit(batches, steps_per_epoch=steps, verbose=0), **facts)
        return
    step = tfllm.training.make_train_step(model, optimizer, jit_compile=jit_compile)
    iterator = iter(batches)
    serve(lambda: float([step(next(iterator)) for _ in range(steps)][-1]["loss"]), **facts)


def draw(shape):
    """Returns int32 [steps, rows, time + 1], the same for every program."""
    sizes = shape["steps"], shape["rows"], shape["time"] + 1
    return np.random.default_rng(0).integers(0, shape["vocab_size"], sizes).astype(np.int32)


def parameters(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def ceilings():
    """Returns dict of the rate of large float32 products, operations a second, and the bandwidth of memory, bytes a second."""
    side = np.ones([2048, 2048], np.float32)
    wide = np.ones(64_000_000, np.float32)
    target = np.empty_like(wide)
    product = min(_seconds(lambda: side @ side) for _ in range(5))
    copy = min(_seconds(lambda: np.copyto(target, wide)) for _ in range(5))
    return {"operations": 2 * 2048**3 / product, "bytes": 2 * wide.nbytes / copy, "processors": os.cpu_count()}


def _seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def floor(size, limits):
    """Returns dict of the operations and bytes of a step, and the tokens a second that they allow in float32."""
    shape = SIZES[size]
    dim, tokens = shape["dim"], shape["rows"] * shape["time"]
    if size in RECURRENT:
        layer = 2 * dim * dim * (4 if size == "lstm" else 3)
        tables = 2 * dim * shape["vocab_size"]
        mixing = 0
    else:
        layer = 12 * dim * dim
        tables = dim * shape["vocab_size"]
        mixing = 2 * shape["time"] * dim * shape["num_layers"]  # scores and weighted values: multiplications a token
    products = shape["num_layers"] * layer + dim * shape["vocab_size"] + mixing
    operations = 3 * 2 * tokens * products  # once forward, twice backward, a multiplication and a sum each
    kept = shape["num_layers"] * layer + tables
    moved = 4 * 7 * kept  # weights and two moments read and written, gradients read
    seconds = operations / limits["operations"] + moved / limits["bytes"]
    return {"operations": operations, "bytes": moved, "floor_tokens_per_second": tokens / seconds}


def show(cell):
    best = cell["floor_tokens_per_second"]
    print(
        f"\n## {cell['size']}, {cell['dtype']}: {cell['operations'] / 1e9:,.1f} GFLOP and {cell['bytes'] / 1e6:,.0f} MB"
    )
    print(f"floor in float32: {best:,.0f} tokens a second\n")
    print("| program | tokens a second, median | lowest to highest | of the floor | stalled | parameters |")
    print("|---|---|---|---|---|---|")
    for name, row in cell["programs"].items():
        low, high = row["spread"]
        print(
            f"| {name} | {row['tokens_per_second']:,.0f} | {low:,.0f} to {high:,.0f} | "
            f"{row['tokens_per_second'] / best:.0%} | {row['stalled']} | {row['parameters']:,} |"
        )
    groups = {}
    for name, row in cell["programs"].items():
        for word in ("tfllm fit", "tfllm own loop", "nanoGPT", "torch.nn", "Keras fit"):
            if name.startswith(word):
                groups[word] = max(groups.get(word, 0.0), row["tokens_per_second"])
    for ours in ("tfllm fit", "tfllm own loop"):
        if ours in groups:
            ratios = [f"{groups[ours] / rate:.2f} of {peer}" for peer, rate in groups.items() if "tfllm" not in peer]
            print(f"{ours}, best form: {', '.join(ratios)} (their best form)")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
