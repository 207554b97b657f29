"""Speed of tokenizers inside a `tf.data` pipeline, beside KerasHub's and beside the Rust library, in turn.

    python benchmarks/tokenizers_speed.py [--rounds 5] [--corpus shakespeare] [--vocab-size 8000]

Every candidate encodes the same lines with the same vocabulary: those in a graph as `Dataset.batch(...).map(encode)` with two
parallel calls, the Rust library as `encode_batch_fast` over 1,024 lines a call. Prints MB/s of text: of the first pass, which
traces, and the median of the others; and the ratio to the peer of each kind. Candidates that make other ids are marked.
"""

import argparse
import json
import statistics
import time

import keras_hub
import tensorflow as tf
import tokenizers

import tfllm


def in_graph(encode, lines, batch_size):
    batches = tf.data.Dataset.from_tensor_slices(lines).batch(batch_size)
    counted = batches.map(lambda rows: tf.size(encode(rows).flat_values, tf.int64), num_parallel_calls=2)
    return lambda: int(counted.reduce(tf.zeros([], tf.int64), lambda a, b: a + b))


def by_rust(tokenizer, lines):
    rust = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    rust.encode_special_tokens = True

    def run():
        parts = (lines[i : i + 1024] for i in range(0, len(lines), 1024))
        return sum(len(row.ids) for part in parts for row in rust.encode_batch_fast(part, add_special_tokens=False))

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--corpus", default="shakespeare")
    parser.add_argument("--vocab-size", type=int, default=8000)
    parser.add_argument("--only", nargs="*", default=["bpe", "wordpiece"], choices=["bpe", "wordpiece"])
    arguments = parser.parse_args()

    lines = [line for line in tfllm.load_text(arguments.corpus).split("\n") if line]
    candidates = {}  # name: (kind, share of the text that it is given, function)
    if "bpe" in arguments.only:
        bpe = tfllm.text.BPETokenizer.train(lines, vocab_size=arguments.vocab_size)
        model = json.loads(bpe.to_json())["model"]
        hub = keras_hub.tokenizers.BytePairTokenizer(model["vocab"], [" ".join(pair) for pair in model["merges"]])
        some = lines[:: max(len(lines) // 1024, 1)]  # all of it would take KerasHub ten seconds a round
        candidates["tfllm BPE, 1,024 lines a batch"] = ("bpe", lines, in_graph(bpe.encode, lines, 1024))
        candidates["tfllm BPE, 8,192 lines a batch"] = ("bpe", lines, in_graph(bpe.encode, lines, 8192))
        candidates["KerasHub BPE, 1,024 lines a batch"] = ("bpe", some, in_graph(hub, some, 1024))
        candidates["Rust BPE, encode_batch_fast"] = ("bpe", lines, by_rust(bpe, lines))
        candidates["tfllm BPE, encode_bulk"] = ("bpe", lines, lambda: sum(map(len, bpe.encode_bulk(lines))))
    if "wordpiece" in arguments.only:
        pieces = tfllm.text.WordPieceTokenizer.train(lines, vocab_size=arguments.vocab_size)
        hub_pieces = keras_hub.tokenizers.WordPieceTokenizer(pieces.tokens, lowercase=True)
        for size in (1024, 8192):
            for name, encode in (("tfllm", pieces.encode), ("KerasHub", hub_pieces)):
                name = f"{name} WordPiece, {size:,} lines a batch"
                candidates[name] = ("wordpiece", lines, in_graph(encode, lines, size))
        candidates["Rust WordPiece, encode_batch_fast"] = ("wordpiece", lines, by_rust(pieces, lines))

    seconds, tokens = {name: [] for name in candidates}, {}
    for round_number in range(arguments.rounds + 1):
        for name, (_, given, run) in candidates.items():
            began = time.perf_counter()
            made = run()
            rate = sum(len(line.encode()) + 1 for line in given) / 1e6 / (time.perf_counter() - began)
            seconds[name].append(rate)
            tokens[name] = made
        print(f"round {round_number} of {arguments.rounds}", flush=True)

    print(f"\n{'':40}{'first MB/s':>12}{'median MB/s':>12}{'to KerasHub':>12}{'to Rust':>10}{'tokens':>12}")
    for name, (kind, _, _) in candidates.items():
        median = {other: statistics.median(rates[1:]) for other, rates in seconds.items()}
        hub = [other for other in candidates if "KerasHub" in other and candidates[other][0] == kind]
        same_size = [other for other in hub if other.split(", ")[1] == name.split(", ")[1]] or hub
        rust = next(other for other in candidates if "Rust" in other and candidates[other][0] == kind)
        print(
            f"{name:40}{seconds[name][0]:12.2f}{median[name]:12.2f}{median[name] / median[same_size[0]]:12.2f}"
            f"{median[name] / median[rust]:10.2f}{tokens[name]:12,}"
        )


if __name__ == "__main__":
    main()
