"""Word vectors learned from a text: Word2Vec, and FastText, which also reads the n-grams of a word.

The loop over steps, the drawing of words, windows and negatives and the update run in one graph; Python sees a few calls a
second. Left out: hierarchical softmax, and texts whose ids do not fit in memory (8 bytes a word).

Source: Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546; Bojanowski et al. 2017, arXiv:1607.04606.
"""

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tfllm.embeddings.negative_sampling import (
    ARCHITECTURES,
    BLOCK,
    NegativeSamplingModel,
    count_blocks,
    keep_probabilities,
    make_batch,
    make_thinning,
    sparse_step,
)
from tfllm.embeddings.subwords import Subwords
from tfllm.embeddings.vocabulary import read_corpus
from tfllm.embeddings.word_vectors import WordVectors
from tfllm.text.cleaning import split_words

_STEPS_A_CALL = 64
_LAST_RATE = 1e-4  # the learning rate falls to it, as in word2vec
_WORDS_A_STEP = {"skip-gram": 1024, "cbow": 4096}  # words whose gradients are summed before any vector moves
# The moves of a step do not know of each other; where too many of them go one way, they overshoot and the vectors grow
# without end. So a step takes at most so many words for each word of the vocabulary, and bounds what it adds up for the
# most frequent one: learning rate times scores. (Seen: 4 times that bound is too much for skip-gram.)
_WORDS_A_VECTOR = 4
_MOST_MOVED = {"skip-gram": 15, "cbow": 60}


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What both models share."""

    architecture: str = "skip-gram"
    dim: int = 100
    window: int = 5
    negatives: int = 5
    threshold: float = 1e-3
    min_count: int = 5
    epochs: int = 5
    learning_rate: float = 0.025
    seed: int = 0

    def __post_init__(self):
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {ARCHITECTURES}; got {self.architecture!r}")
        least = {"dim": 1, "window": 1, "negatives": 1, "threshold": 0, "min_count": 1, "epochs": 1, "seed": 0}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} must be at least {bound}; got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2**31; got {self.seed}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")

    def _train(self, sentences, segment, quiet, console, subwords=None):
        corpus = read_corpus(sentences, self.min_count, segment)
        size, num_ngrams = len(corpus.words), subwords.buckets if subwords else 0
        model = NegativeSamplingModel(size, self.dim, self.architecture, num_ngrams, self.seed)
        if subwords:
            grams = [subwords.buckets_of(word) + size for word in corpus.words]
            model.rows = tf.ragged.constant(
                [[i, *row] for i, row in enumerate(grams)], dtype=tf.int32, row_splits_dtype=tf.int32
            )
        _optimize(model, corpus, self, quiet, console)
        table = model.inputs_table.numpy()
        if not np.isfinite(table).all():
            raise ValueError(f"learning_rate must leave the vectors finite; got {self.learning_rate}, which did not")
        if not subwords:
            return WordVectors(corpus.words, table)
        unseen = np.ones(num_ngrams, bool)
        unseen[np.concatenate(grams) - size] = False
        table[size:][unseen] = 0  # n-grams of no word of the vocabulary say nothing
        sums, counts = model.sums_of(tf.range(size))
        return WordVectors(corpus.words, (sums / counts).numpy(), subwords, table[size:])


@dataclasses.dataclass(frozen=True)
class Word2Vec(_Settings):
    """Learns a vector for every word that is frequent enough, by skip-gram or CBOW with negative sampling.

    Attributes:
        architecture: "skip-gram", better for small texts and rare words, or "cbow", faster.
        dim: int, size of a vector.
        window: int, the farthest distance between two words of a pair; each word draws its own from 1 to this.
        negatives: int, drawn words that stand against every pair.
        threshold: float, share of the text above which a word is thinned out; 0 keeps every word.
        min_count: int, occurrences below which a word is left out.
        epochs: int, passes over the text.
        learning_rate: float, at the start; it falls in a line to 0.0001.
        seed: int, decides everything: two trainings on one machine's processor give the same vectors.

    Raises:
        ValueError: when a setting is out of its range.

    Example:
        >>> sentences = ["the cat sat", "the dog sat", "the cat ran", "the dog ran"] * 50
        >>> vectors = Word2Vec(dim=8, threshold=0, epochs=2).train(sentences, quiet=True)
        >>> vectors.words, vectors.vectors.shape
        (('the', 'cat', 'sat', 'dog', 'ran'), (5, 8))
    """

    def train(self, sentences, *, segment=split_words, quiet=False, console=None):
        """Learns the vectors of a text.

        Args:
            sentences: iterable of sentences, each a list of str or a str that `segment` cuts; or one str, whose lines
                are the sentences. No pair spans two of them.
            segment: function of a str that gives a list of str; the default cuts at blanks and punctuation and takes
                each Chinese character for a word.
            quiet: bool, whether no progress is shown.
            console: a `rich.console.Console` to show progress on; None for one on standard output.

        Returns:
            `WordVectors`, the most frequent word first.

        Raises:
            ValueError: when fewer than two words are frequent enough, or the vectors do not stay finite.
        """
        return self._train(sentences, segment, quiet, console)


@dataclasses.dataclass(frozen=True)
class FastText(_Settings):
    """Learns vectors of words and of their n-grams of characters, so that unknown words get a vector too.

    The vector of a word is the mean of its own and those of its n-grams, with marks at both ends of the word.

    Attributes:
        architecture, dim, window, negatives, threshold, min_count, epochs, learning_rate, seed: as in `Word2Vec`.
        min_n, max_n: int, shortest and longest n-gram in characters.
        buckets: int, rows of the table that the n-grams share by their FNV-1a hash.

    Raises:
        ValueError: when a setting is out of its range.

    Example:
        >>> sentences = ["the cat sat", "the dog sat", "the cat ran", "the dog ran"] * 50
        >>> vectors = FastText(dim=8, threshold=0, epochs=2, buckets=100).train(sentences, quiet=True)
        >>> "cats" in vectors, vectors["cats"].shape
        (False, (8,))
    """

    min_n: int = 3
    max_n: int = 6
    buckets: int = 200_000

    def __post_init__(self):
        super().__post_init__()
        Subwords(self.min_n, self.max_n, self.buckets)

    def train(self, sentences, *, segment=split_words, quiet=False, console=None):
        """Learns the vectors of a text; arguments, result and errors are those of `Word2Vec.train`."""
        return self._train(sentences, segment, quiet, console, Subwords(self.min_n, self.max_n, self.buckets))


def _optimize(model, corpus, settings, quiet, console):
    thin = make_thinning(corpus, settings.threshold, settings.window, settings.seed)
    run = make_run(model, corpus, settings)
    with Progress(
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} words/s "),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console or Console(),
        disable=quiet,
    ) as progress:
        task = progress.add_task("training", total=settings.epochs, loss="-", speed="-")
        began = None
        for epoch in range(settings.epochs):
            for share, nats, pairs in run_epoch(run, thin, epoch):
                done = epoch + share
                if began is None:
                    began, skipped = time.perf_counter(), done  # the first call waited for the graph
                else:
                    speed = (done - skipped) * corpus.length / (time.perf_counter() - began)
                    progress.update(task, completed=done, loss=f"{nats / max(pairs, 1):.3f}", speed=f"{speed:,.0f}")


def run_epoch(run, thin, epoch):
    """Goes through an epoch in a few calls a second.

    Args:
        run, thin: what `make_run` and `negative_sampling.make_thinning` gave.
        epoch: int.

    Yields:
        After each call, (float in (0, 1], the share of the epoch that is done; float nats and float pairs of the call).
    """
    words = thin(epoch)
    done, steps = 0, 1
    while done < steps:
        nats, pairs, steps = run(*words, epoch, done, _STEPS_A_CALL)
        done, steps = done + _STEPS_A_CALL, int(steps)
        yield min(done / steps, 1.0), float(nats), float(pairs)


def make_run(model, corpus, settings):
    """Compiles many steps into one call.

    Args:
        model: `NegativeSamplingModel`.
        corpus: `Corpus`.
        settings: `Word2Vec` or `FastText`.

    Returns:
        A function `(ids, left, right, epoch, first, count)` that does the steps `first` to `first + count - 1` of an
        epoch and gives (float32 nats and float32 pairs of these steps, int32 number of steps of the whole epoch).
    """
    kept = keep_probabilities(corpus.counts, settings.threshold) * corpus.counts
    moved = settings.learning_rate * settings.window * (1 + settings.negatives)  # by a word once in a step
    often = _MOST_MOVED[settings.architecture] / moved
    words = [_WORDS_A_STEP[settings.architecture], _WORDS_A_VECTOR * len(corpus.words), often * kept.sum() / kept.max()]
    blocks_per_batch = max(int(min(*words, kept.sum())) // BLOCK, 1)
    batch = make_batch(settings.architecture, settings.window, blocks_per_batch, corpus.counts, settings.seed)
    optimizer = keras.optimizers.SGD(settings.learning_rate)
    optimizer.build(model.trainable_variables)

    numbers = tf.TensorSpec([None], tf.int32)
    scalar = tf.TensorSpec([], tf.int32)

    @tf.function(input_signature=[numbers, numbers, numbers, scalar, scalar, scalar])
    def run(ids, left, right, epoch, first, count):
        steps = -(-count_blocks(tf.size(ids), settings.window) // blocks_per_batch)

        def one(step, nats, pairs):
            done = tf.cast((tf.cast(epoch, tf.float64) + step / steps) / settings.epochs, tf.float32)
            rate = settings.learning_rate * (1 - done)
            optimizer.learning_rate.assign(tf.maximum(rate, min(_LAST_RATE, settings.learning_rate)))
            totals = sparse_step(model, optimizer, batch(ids, left, right, epoch, step), settings.negatives)
            return step + 1, nats + totals["loss"][0], pairs + totals["loss"][1]

        last = tf.minimum(first + count, steps)
        _, nats, pairs = tf.while_loop(lambda step, *_: step < last, one, [first, 0.0, 0.0])
        return nats, pairs, steps

    return run
