"""Speed, memory and time to resume of `lm_dataset` on mapped shards, beside NumPy's way and the textbook's `tf.data`; and speed
of `tokenize_files` beside the Rust library.

    python benchmarks/input_pipeline.py

Random ids (uint16, 1 GB and 10 MB) are written as shards to a temporary folder; every program is a process of its own on two
cores, and they run in turn. A batch is consumed when its tensors exist and one value of each was read.

- `graph`: batches are taken inside a `tf.function`, as `fit` with several steps a call does.
- `python`: batches are taken by a `for` loop in Python.
- `numpy`: nanoGPT's `get_batch`: random places of a `np.memmap`, `np.stack` of rows as int64. It has no epochs and no weights.
- `window`, `shuffle`: the pipelines of the tutorials, on the first 20 MB of the ids held in memory, taken in a graph.

`tokenize_files` from a text file to a folder of shards stands beside `encode_batch_fast` of the Rust library on the same texts,
held in memory, its ids left inside the library.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
import tokenizers
from duel import race, serve

import tfllm
from tfllm.data import lm_dataset, tokenize_files
from tfllm.data.shards import ShardWriter, make_manifest
from tfllm.data.sources import read_pieces

SHAPES = ((256, 16), (1024, 32))  # tokens in a row, rows in a batch
SIZES = {"10 MB": 5_000_000, "1 GB": 500_000_000}  # ids
SHARD_TOKENS = 100_000_000
PROGRAMS = ("graph", "python", "numpy", "window", "shuffle")
UNIT_TOKENS = {"graph": 2**24, "python": 2**23, "numpy": 2**23, "window": 2**19, "shuffle": 2**20}
ENCODERS = ("encode_batch_fast", "tokenize_files")
COPIES = 6  # of the bundled wiki in the text to encode: 15 MB
FEW = 10_000_000  # ids that the textbook's pipelines hold


def write_shards(folder, count):
    """Writes `count` random ids below 50,000 and their manifest."""
    folder.mkdir()
    rng, shards = np.random.default_rng(0), []
    for first in range(0, count, SHARD_TOKENS):
        writer = ShardWriter(folder / f"shard-{len(shards):05d}.bin", "raw", "uint16")
        for _ in range(0, min(SHARD_TOKENS, count - first), 2_500_000):
            writer.write(rng.integers(0, 50_000, 2_500_000, np.uint16))
        shards.append(writer.finish())
    plan = {
        "format": "raw",
        "dtype": "uint16",
        "record_tokens": 256,
        "shard_tokens": SHARD_TOKENS,
        "vocab_size": 50_000,
    }
    (folder / "manifest.json").write_text(json.dumps(make_manifest(plan, shards, documents=1)))


def drain_in_graph(dataset, batches):
    """Returns a function that takes `batches` batches of an endless data set in one call."""
    iterator = iter(dataset)

    @tf.function
    def drain():
        read = tf.constant(0, tf.int64)
        for _ in tf.range(batches):
            read += tf.add_n([tf.cast(tensor[0, 0], tf.int64) for tensor in next(iterator)])
        return read

    return drain


def make_unit(program, folder, length, rows, batches):
    """Returns a function that makes and consumes `batches` batches."""
    if program in ("graph", "python"):
        dataset = lm_dataset(folder, None, length, rows).repeat()
        if program == "graph":
            return drain_in_graph(dataset, batches)
        iterator = iter(dataset)
        return lambda: [next(iterator) for _ in range(batches)][-1][0][0, 0]
    files = sorted(folder.glob("*.bin"))
    if program == "numpy":
        mapped = [np.memmap(file, np.uint16, "r") for file in files]

        def get_batch():
            data = mapped[np.random.randint(len(mapped))]
            places = np.random.randint(len(data) - length, size=rows)
            inputs = np.stack([data[i : i + length].astype(np.int64) for i in places])
            targets = np.stack([data[i + 1 : i + 1 + length].astype(np.int64) for i in places])
            return inputs[0, 0], targets[0, 0]

        return lambda: [get_batch() for _ in range(batches)][-1]
    ids = tf.data.Dataset.from_tensor_slices(np.fromfile(files[0], np.uint16, FEW).astype(np.int32))
    if program == "window":
        chunks = ids.window(length + 1, shift=length, drop_remainder=True).flat_map(lambda row: row.batch(length + 1))
    else:
        chunks = ids.batch(length + 1, drop_remainder=True)
    pairs = chunks.map(lambda row: (row[:-1], row[1:]), num_parallel_calls=tf.data.AUTOTUNE)
    # A buffer of 1,000 rows, where the tutorials' 10,000 would spend the benchmark on filling it; and few batches ahead, or
    # they would be made while the other programs have their turn.
    batched = pairs.shuffle(1000).repeat().batch(rows, drop_remainder=True).prefetch(2)
    return drain_in_graph(batched, batches)


def write_text(folder):
    """Writes a text and a tokenizer of 8,192 tokens that was trained on it."""
    text = tfllm.load_text("wiki")
    (folder / "text.txt").write_text(text * COPIES)
    tfllm.BPETokenizer.train(text, vocab_size=8192).save(folder / "tokenizer.json")


def serve_encoder(program, folder):
    tokenizer = tfllm.load_tokenizer(folder / "tokenizer.json")
    pieces = [piece.text for piece in read_pieces([folder / "text.txt"])]
    tokens = sum(map(len, tokenizer.encode_bulk(pieces)))
    if program == "tokenize_files":
        outs = (folder / f"{program}{number}" for number in range(10**6))  # a finished folder would be left as it is
        serve(lambda: tokenize_files(folder / "text.txt", tokenizer, next(outs)), tokens=tokens)
    else:
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        serve(lambda: library.encode_batch_fast(pieces, add_special_tokens=False), tokens=tokens)


def report_memory(folder):
    """Prints the resident size before a data set exists and after 2,000 batches of it, in MB."""
    warm = drain_in_graph(lm_dataset(np.arange(100_000) % 50_000, None, 256, 16).repeat(), 2000)
    warm()
    before = resident()
    drain_in_graph(lm_dataset(folder, None, 256, 16).repeat(), 2000)()
    print(json.dumps({"before": before, "after": resident()}))


def resident():
    """Returns dict of the kernel's figures for this process, in MB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":") for line in lines if ":" in line)
    return {name: round(int(found[name].split()[0]) / 1e3) for name in ("VmRSS", "RssAnon", "RssFile")}


def report_resuming(folder):
    """Prints the seconds from the call of `lm_dataset` to its first batch, at step 0 and at step 1,000,000."""
    seconds = {}
    for name, step in (
        ("first of the process, step 1,000,000", 1_000_000),
        ("step 0", 0),
        ("step 1,000,000", 1_000_000),
    ):
        began = time.perf_counter()
        next(iter(lm_dataset(folder, None, 256, 16, start_step=step)))
        seconds[name] = round(time.perf_counter() - began, 3)
    print(json.dumps(seconds))


def worker_command(program, folder, length=256, rows=16):
    place = ["--folder", str(folder), "--length", str(length), "--rows", str(rows)]
    return [sys.executable, __file__, "--program", program, *place]


def answer_of(program, folder):
    result = subprocess.run(
        worker_command(program, folder), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--program", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if arguments.program in PROGRAMS:
        batches = max(UNIT_TOKENS[arguments.program] // (arguments.length * arguments.rows), 1)
        unit = make_unit(arguments.program, arguments.folder, arguments.length, arguments.rows, batches)
        serve(unit, tokens=batches * arguments.length * arguments.rows)
        return
    if arguments.program in ENCODERS:
        serve_encoder(arguments.program, arguments.folder)
        return
    if arguments.program:
        {"memory": report_memory, "resuming": report_resuming}[arguments.program](arguments.folder)
        return
    with tempfile.TemporaryDirectory(prefix="tfllm-benchmark-") as place:
        folders = {name: pathlib.Path(place) / name.replace(" ", "") for name in SIZES}
        for name, count in SIZES.items():
            write_shards(folders[name], count)
        for name, folder in folders.items():
            print(f"resident size, {name} of ids, MB: {json.dumps(answer_of('memory', folder))}")
        print(f"seconds to the first batch, 1 GB of ids: {json.dumps(answer_of('resuming', folders['1 GB']))}")
        for length, rows in SHAPES:
            commands = {name: worker_command(name, folders["1 GB"], length, rows) for name in PROGRAMS}
            print(
                f"\n{length} tokens in a row, {rows} rows in a batch: million tokens a second, median (lowest, highest)"
            )
            show(race(commands, rounds=arguments.rounds), "numpy")
        write_text(pathlib.Path(place))
        print("\ntext to ids: million tokens a second, median (lowest, highest)")
        commands = {name: worker_command(name, place) for name in ENCODERS}
        show(race(commands, rounds=arguments.rounds), "encode_batch_fast")


def show(results, base):
    for name, result in results.items():
        rate, (low, high) = result["tokens_per_second"], result["spread"]
        ratio = rate / results[base]["tokens_per_second"]
        print(f"{name:18} {rate / 1e6:7.2f} ({low / 1e6:.2f}, {high / 1e6:.2f})  {ratio:6.3f} of {base}")


if __name__ == "__main__":
    main()
