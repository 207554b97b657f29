"""Near-duplicate documents a second: `tfllm.text.near_duplicates` beside the package datasketch, and against itself as N grows.

    python benchmarks/near_duplicates.py --documents 2000 --rounds 3

Documents are 200 words drawn from Zipf's law; every fourth one is an earlier one with up to 20 words changed. Both use 128
hashes over shingles of 3 words at a threshold of 0.8. datasketch reports candidates without comparing them in full.
"""

import argparse
import pathlib
import sys

import duel
import numpy as np


def corpus(count):
    random = np.random.default_rng(0)
    documents = []
    for index in range(count):
        words = [f"w{rank % 20_000}" for rank in random.zipf(1.3, 200)]
        if index % 4 == 3:
            words = documents[random.integers(len(documents))].split()
            for place in random.integers(len(words), size=random.integers(20)):
                words[place] = f"x{random.integers(1000)}"
        documents.append(" ".join(words))
    return documents


def ours(documents):
    from tfllm.text import near_duplicates

    return int((near_duplicates(documents, 0.8) >= 0).sum())


def datasketch(documents):
    from datasketch import MinHash, MinHashLSH

    index, copies = MinHashLSH(threshold=0.8, num_perm=128), 0
    for number, document in enumerate(documents):
        words = document.split()
        signature = MinHash(num_perm=128)
        signature.update_batch({" ".join(words[i : i + 3]).encode() for i in range(len(words) - 2)})
        if index.query(signature):
            copies += 1
        else:
            index.insert(number, signature)
    return copies


PROGRAMS = {"tfllm": ours, "datasketch": datasketch}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--program", choices=PROGRAMS)
    arguments = parser.parse_args()
    if arguments.program:
        documents = corpus(arguments.documents)
        duel.serve(lambda: PROGRAMS[arguments.program](documents), tokens=len(documents))
        return
    here = [sys.executable, str(pathlib.Path(__file__))]
    commands = {
        f"{name}, {count}": [*here, "--program", name, "--documents", str(count)]
        for name, count in (
            ("tfllm", arguments.documents),
            ("datasketch", arguments.documents),
            ("tfllm", 2 * arguments.documents),
            ("tfllm", 4 * arguments.documents),
        )
    }
    documents = corpus(arguments.documents)
    print({name: program(documents) for name, program in PROGRAMS.items()}, "copies found")
    for name, result in duel.race(commands, rounds=arguments.rounds).items():
        low, high = result["spread"]
        print(f"{name} documents: {result['tokens_per_second']:.0f} documents/s ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
