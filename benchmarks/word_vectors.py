"""Word2Vec of tfllm beside gensim's on the bundled Wikipedia articles: words a second, timed in turn, and quality.

    python benchmarks/word_vectors.py [--rounds N] [--epochs N]

Both read the same lists of words with the same settings; gensim has 2 workers. A unit of the race is one epoch: thinning,
windows, negatives and updates, without reading the text and without the first trace. Quality is taken after `--epochs`:
- agreement: Spearman's correlation of the cosines of all pairs of the 2,000 most frequent words, between two trainings;
  two seeds of gensim are the ceiling;
- categories: mean average precision of finding the words of one category among those of CATEGORIES, a list of our own;
- articles: share of paragraphs whose nearest article (by means of unit vectors, every other paragraph of each article
  being known) is their own.
"""

import argparse
import os
import pathlib
import re
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from duel import race, serve

PROGRAMS = ("gensim", "tfllm")
ARCHITECTURES = ("skip-gram", "cbow")
SETTINGS = {"window": 5, "min_count": 5}
DIM, NEGATIVES, THRESHOLD = 100, 5, 1e-3
CATEGORIES = {
    "numbers": "one two three four five six seven eight nine ten",
    "months": "january february march april june july august september october november december",
    "countries": "france germany italy spain england russia china japan india egypt greece mexico canada",
    "languages": "english french german latin greek arabic hebrew spanish russian chinese",
    "family": "father mother son daughter brother wife king queen husband children",
    "science": "physics chemistry biology mathematics astronomy geology psychology philosophy economics",
    "metals": "iron copper gold silver aluminium lead zinc tin",
    "body": "head hand eye blood brain heart skin bone",
    "directions": "north south east west northern southern eastern western",
    "religion": "christian jewish muslim church bible god catholic pope",
    "animals": "dog cat horse fish birds cattle sheep animals",
    "time": "day week month year century hour decade season",
    "food": "milk meat bread wine fruit sugar rice wheat",
    "war": "army battle troops soldiers navy war forces military",
}


def read():
    import tfllm

    text = tfllm.load_text("wiki")
    return text, tfllm.embeddings.plain_sentences(text)


def make_gensim(sentences, architecture, seed=1, epochs=5):
    from gensim.models import Word2Vec

    model = Word2Vec(
        vector_size=DIM, sg=int(architecture == "skip-gram"), negative=NEGATIVES, sample=THRESHOLD, workers=2,
        seed=seed, epochs=epochs, **SETTINGS,
    )  # fmt: skip
    model.build_vocab(sentences)
    return model


def make_tfllm(architecture, seed=0, epochs=5):
    from tfllm.embeddings import Word2Vec

    return Word2Vec(architecture, DIM, negatives=NEGATIVES, threshold=THRESHOLD, seed=seed, epochs=epochs, **SETTINGS)


def work(program, architecture):
    """Is one program of the race: a unit is one epoch."""
    _, sentences = read()
    words = sum(map(len, sentences))
    if program == "gensim":
        model = make_gensim(sentences, architecture)
        serve(
            lambda: model.train(sentences, total_examples=len(sentences), epochs=1, start_alpha=0.02, end_alpha=0.02),
            tokens=words,
        )
        return
    from tfllm.embeddings.negative_sampling import NegativeSamplingModel, make_thinning
    from tfllm.embeddings.vocabulary import read_corpus
    from tfllm.embeddings.word2vec import make_run, run_epoch

    settings = make_tfllm(architecture, epochs=1000)  # the rate hardly falls, as in gensim's units
    corpus = read_corpus(sentences, settings.min_count)
    model = NegativeSamplingModel(len(corpus.words), DIM, architecture)
    thin = make_thinning(corpus, settings.threshold, settings.window, settings.seed)
    run, epochs = make_run(model, corpus, settings), iter(range(1000))
    serve(lambda: list(run_epoch(run, thin, next(epochs))), tokens=words)


def train(program, architecture, sentences, seed, epochs):
    """Returns (dict of word -> unit vector, the most frequent first; seconds of the whole training)."""
    began = time.perf_counter()
    if program == "gensim":
        model = make_gensim(sentences, architecture, seed, epochs)
        model.train(sentences, total_examples=len(sentences), epochs=epochs)
        words, vectors = model.wv.index_to_key, model.wv.vectors
    else:
        result = make_tfllm(architecture, seed, epochs).train(sentences, quiet=True)
        words, vectors = result.words, result.vectors
    seconds = time.perf_counter() - began
    return dict(zip(words, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True)), seconds


def agreement(first, second, count=2000):
    ranks = []
    for vectors in (first, second):
        table = np.stack([vectors[word] for word in list(first)[:count]])
        ranks.append(np.argsort(np.argsort((table @ table.T)[np.triu_indices(count, 1)])))
    return np.corrcoef(*ranks)[0, 1]


def categories(vectors):
    category, twice = {}, set()
    for name, words in CATEGORIES.items():
        for word in words.split():
            twice |= {word} & set(category)
            category[word] = name
    words = [word for word in category if word in vectors and word not in twice]
    table, names = np.stack([vectors[word] for word in words]), np.array([category[word] for word in words])
    precision = []
    for number, row in enumerate(table @ table.T):
        order = np.argsort(-row)
        hits = names[order[order != number]] == names[number]
        precision.append(np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)))
    return np.mean(precision)


def articles(vectors, text):
    import tfllm

    centre, paragraphs = np.mean(list(vectors.values()), axis=0), []
    for part in re.split(r"(?m)^ = [^=].* = $", text)[1:]:
        lines = [line for line in tfllm.embeddings.plain_sentences(part) if len(line) >= 20]
        means = [np.mean([vectors[word] for word in line if word in vectors], axis=0) - centre for line in lines]
        if len(means) >= 4:
            paragraphs.append(np.stack([mean / np.linalg.norm(mean) for mean in means]))
    known = np.stack([rows[::2].mean(axis=0) for rows in paragraphs])
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    return np.mean(np.concatenate([(rows[1::2] @ known.T).argmax(1) == i for i, rows in enumerate(paragraphs)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    print("| architecture | program | words a second, median | lowest to highest | ratio |\n|---|---|---|---|---|")
    for architecture in ARCHITECTURES:
        here = [sys.executable, str(pathlib.Path(__file__)), "--work"]
        results = race({program: [*here, program, architecture] for program in PROGRAMS}, rounds=arguments.rounds)
        for program, row in results.items():
            rate, (low, high) = row["tokens_per_second"], row["spread"]
            ratio = rate / results["gensim"]["tokens_per_second"]
            print(f"| {architecture} | {program} | {rate:,.0f} | {low:,.0f} to {high:,.0f} | {ratio:.2f} |", flush=True)

    text, sentences = read()
    print(
        f"\nafter {arguments.epochs} epochs of {sum(map(len, sentences)):,} words\n\n"
        "| architecture | program | agreement with gensim | categories | articles | whole training, s |\n"
        "|---|---|---|---|---|---|"
    )
    for architecture in ARCHITECTURES:
        first = None
        for program, seed in (("gensim", 1), ("gensim", 2), ("tfllm", 1), ("tfllm", 2)):
            vectors, seconds = train(program, architecture, sentences, seed, arguments.epochs)
            first = first or vectors
            same = "" if first is vectors else f"{agreement(first, vectors):.3f}"
            print(
                f"| {architecture} | {program}, seed {seed} | {same} | {categories(vectors):.3f} | "
                f"{articles(vectors, text):.3f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
