"""Speed of tokenizers inside a `tf.data` pipeline, beside KerasHub's and beside the Rust library, in turn.

    python benchmarks/tokenizers_speed.py [--rounds 5] [--corpus shakespeare] [--vocab-size 8000] [--copies 10]

Every candidate encodes the same lines with the same vocabulary: those in a graph as `Dataset.batch(...).map(encode)` with four
parallel calls, the Rust library as `encode_batch_fast` over 1,024 lines a call. A pass reads the text several times over, because
making an iterator takes 0.2 s, in which TensorFlow rewrites the graph. Prints MB/s of text: of the first pass, and the median of
the others; and the ratio to the peer of each kind. The number of tokens shows which candidates make other ids.
"""

import argparse
import json
import statistics
import time

import keras_hub
import tensorflow as tf
import tokenizers

import tfllm


def in_graph(encode, lines, batch_size, copies):
    batches = tf.data.Dataset.from_tensor_slices(lines).batch(batch_size).cache().repeat(copies)
    counted = batches.map(lambda rows: tf.size(encode(rows).flat_values, tf.int64), num_parallel_calls=4)
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
    parser.add_argument("--copies", type=int, default=10, help="times that those in a graph read the text in a pass")
    parser.add_argument("--only", nargs="*", default=["bpe", "wordpiece"], choices=["bpe", "wordpiece"])
    arguments = parser.parse_args()

    lines = [line for line in tfllm.load_text(arguments.corpus).split("\n") if line]
    candidates, copies = {}, arguments.copies  # name: (kind, the text of a pass, function)
    if "bpe" in arguments.only:
        bpe = tfllm.text.BPETokenizer.train(lines, vocab_size=arguments.vocab_size)
        model = json.loads(bpe.to_json())["model"]
        hub = keras_hub.tokenizers.BytePairTokenizer(model["vocab"], [" ".join(pair) for pair in model["merges"]])
        some = lines[:: max(len(lines) // 1024, 1)]  # all of it would take KerasHub ten seconds a round
        candidates["tfllm BPE, 1,024 lines a batch"] = (
            "bpe",
            lines * copies,
            in_graph(bpe.encode, lines, 1024, copies),
        )
        candidates["tfllm BPE, 8,192 lines a batch"] = (
            "bpe",
            lines * copies,
            in_graph(bpe.encode, lines, 8192, copies),
        )
        candidates["KerasHub BPE, 1,024 lines a batch"] = ("bpe", some * copies, in_graph(hub, some, 1024, copies))
        candidates["Rust BPE, encode_batch_fast"] = ("bpe", lines, by_rust(bpe, lines))
        candidates["tfllm BPE, encode_bulk"] = ("bpe", lines, lambda: sum(map(len, bpe.encode_bulk(lines))))
    if "wordpiece" in arguments.only:
        pieces = tfllm.text.WordPieceTokenizer.train(lines, vocab_size=arguments.vocab_size)
        hub_pieces = keras_hub.tokenizers.WordPieceTokenizer(pieces.tokens, lowercase=True)
        for size in (1024, 8192):
            for name, encode in (("tfllm", pieces.encode), ("KerasHub", hub_pieces)):
                name = f"{name} WordPiece, {size:,} lines a batch"
                candidates[name] = ("wordpiece", lines * copies, in_graph(encode, lines, size, copies))
        candidates["Rust WordPiece, encode_batch_fast"] = ("wordpiece", lines, by_rust(pieces, lines))

    rates, tokens = {name: [] for name in candidates}, {}
    for round_number in range(arguments.rounds + 1):
        for name, (_, given, run) in candidates.items():
            began = time.perf_counter()
            made = run()
            took = time.perf_counter() - began
            rates[name].append(sum(len(line.encode()) + 1 for line in given) / 1e6 / took)
            tokens[name] = made
        print(f"round {round_number} of {arguments.rounds}", flush=True)

    print(f"\n{'':40}{'first MB/s':>12}{'median MB/s':>12}{'to KerasHub':>12}{'to Rust':>10}{'tokens':>12}")
    for name, (kind, _, _) in candidates.items():
        median = {other: statistics.median(found[1:]) for other, found in rates.items()}
        hub = [other for other in candidates if "KerasHub" in other and candidates[other][0] == kind]
        same_size = [other for other in hub if other.split(", ")[1] == name.split(", ")[1]] or hub
        rust = next(other for other in candidates if "Rust" in other and candidates[other][0] == kind)
        print(
            f"{name:40}{rates[name][0]:12.2f}{median[name]:12.2f}{median[name] / median[same_size[0]]:12.2f}"
            f"{median[name] / median[rust]:10.2f}{tokens[name]:12,}"
        )


if __name__ == "__main__":
    main()
