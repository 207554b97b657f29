"""How much of the batches is padding, and what packing does for training: padded, bucketed and packed rows, timed in turn.

python benchmarks/packing.py [--rounds N]
"""

import argparse
import gzip
import pathlib
import sys
import time

import numpy as np
from duel import race, serve

FORMS = ("padded, one document a row", "bucketed, 8 shapes", "packed, best fit")
LENGTH, BATCH, STEPS = 256, 16, 3
PAIRS = pathlib.Path(__file__).parents[1] / "data" / "translation" / "lohelp.train.tsv.gz"


def poems():
    import tfllm

    return tfllm.load_text("poetry").splitlines()


def speeches():
    import tfllm

    return tfllm.load_text("shakespeare").strip().split("\n\n")


def paragraphs():
    import tfllm

    return [line for line in tfllm.load_text("wiki").splitlines() if line.strip()]


def shares(lengths, capacity):
    """Returns dict of name -> share of padding, for documents of these lengths in rows of at most `capacity`."""
    from tfllm.data import make_buckets, pack_documents

    packing = pack_documents(lengths, capacity)
    pieces = np.random.default_rng(0).permutation(packing.length)  # long documents are cut for every form
    batches = pieces[: len(pieces) // BATCH * BATCH].reshape(-1, BATCH)
    return {
        "every row of one length": 1 - pieces.mean() / capacity,
        "each batch as long as its longest": 1 - batches.sum() / (batches.max(1).sum() * BATCH),
        "bucketed, 8 shapes": make_buckets(pieces, pieces, multiple=1).padding,
        "packed, best fit": 1 - packing.fill_rate,
        "packed, concat": 1 - pack_documents(lengths, capacity, strategy="concat").fill_rate,
    }


def pair_shares(sources, targets):
    """The same for pairs; packing is for single documents."""
    from tfllm.data import make_buckets

    both = np.random.default_rng(0).permutation(np.stack([sources, targets], 1))
    batches = both[: len(both) // BATCH * BATCH].reshape(-1, BATCH, 2)
    return {
        "every row of one length": 1 - both.sum() / (both.max(0).sum() * len(both)),
        "each batch as long as its longest": 1 - batches.sum() / (batches.max(1).sum() * BATCH),
        "bucketed, 8 shapes": make_buckets(sources, targets, multiple=1).padding,
    }


def print_shares():
    with gzip.open(PAIRS, "rt", encoding="utf-8") as file:
        pairs = [line.rstrip("\n").split("\t")[:2] for line in file if line.strip()]
    columns = {
        "Chinese poems, rows of 128": shares([len(line) for line in poems()], 128),
        f"Shakespeare's speeches, rows of {LENGTH}": shares([len(speech) for speech in speeches()], LENGTH),
        "Wikipedia paragraphs, rows of 512": shares([len(line) for line in paragraphs()], 512),
        "English and German, bytes": pair_shares(
            *(np.array([len(pair[side].encode()) + 1 for pair in pairs]) for side in (0, 1))
        ),
    }
    print(f"| share of padding | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in next(iter(columns.values())):
        cells = [f"{column[name]:.2%}" if name in column else "-" for column in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |")


def print_planning():
    from tfllm.data import pack_documents

    lengths = np.random.default_rng(0).lognormal(5, 1, 1_000_000).astype(int) + 1
    pack_documents(lengths[:1000], 2048)
    began = time.perf_counter()
    packing = pack_documents(lengths, 2048)
    print(f"planned 1,000,000 documents in {time.perf_counter() - began:.2f} s, fill rate {packing.fill_rate:.4%}\n")


def batches_of(form, documents):
    """Returns batches with about as many places in each form."""
    import tensorflow as tf

    from tfllm.data import packed_dataset, pair_dataset

    if form.startswith("packed"):
        return packed_dataset(documents, None, LENGTH, BATCH, epochs=None)
    pieces = [piece[i : i + LENGTH] for piece in documents for i in range(0, len(piece), LENGTH)]
    pieces = [piece for piece in pieces if len(piece) > 1]
    if form.startswith("bucketed"):
        sizes = {"tokens_per_batch": 2 * LENGTH * BATCH, "multiple": 1, "max_length": LENGTH, "epochs": None}
        pairs = pair_dataset(pieces, [piece[:-1] for piece in pieces], begin_id=0, end_id=0, **sizes)
        return pairs.map(lambda inputs, targets, weights: (inputs["ids"], targets, weights))
    order = np.random.default_rng(0).permutation(len(pieces))
    ids = tf.ragged.constant([pieces[i] for i in order], dtype=tf.int32).to_tensor(shape=[None, LENGTH])
    counts = np.array([len(pieces[i]) for i in order])
    weights = (np.arange(LENGTH) < counts[:, None] - 1).astype(np.float32)
    targets = tf.concat([ids[:, 1:], tf.zeros_like(ids[:, :1])], 1)
    rows = tf.data.Dataset.from_tensor_slices((ids, targets, weights)).repeat()
    return rows.batch(BATCH, drop_remainder=True).prefetch(2)


def work(form):
    import tfllm

    tokenizer = tfllm.CharTokenizer.train(tfllm.load_text("shakespeare"))
    documents = tokenizer.encode(speeches()).to_list()
    batches = batches_of(form, documents)
    model = tfllm.TransformerLM(tokenizer.vocab_size, LENGTH, 128, 4, 4, positions="rotary")
    step = tfllm.training.make_train_step(model, tfllm.training.make_adamw(model, 2000), jit_compile=True)
    compiled, useful = set(), []
    for batch in batches.take(200):  # XLA compiles a step for each shape
        useful.append(float(np.sum(batch[2])))
        if batch[1].shape not in compiled:
            compiled.add(batch[1].shape)
            step(batch)
    iterator = iter(batches)
    serve(lambda: float([step(next(iterator)) for _ in range(STEPS)][-1]["loss"]), tokens=STEPS * np.mean(useful))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    print_shares()
    print_planning()
    results = race({form: [sys.executable, __file__, "--work", form] for form in FORMS}, rounds=arguments.rounds)
    first = next(iter(results.values()))["tokens_per_second"]
    print("| program | targets that count a second, median | lowest to highest | ratio |\n|---|---|---|---|")
    for name, row in results.items():
        low, high = row["spread"]
        rate = row["tokens_per_second"]
        print(f"| {name} | {rate:,.0f} | {low:,.0f} to {high:,.0f} | {rate / first:.2f} |")


if __name__ == "__main__":
    main()
