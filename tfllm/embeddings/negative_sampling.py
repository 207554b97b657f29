"""Skip-gram and CBOW with negative sampling: the model, its loss, its batches and its step, all inside a graph.

A batch is made of blocks, each a run of consecutive words. The words of a block share the words around them and their
negatives, so that all scores of a block are one matrix product, and its gradients two more (Ji et al. 2016,
arXiv:1604.04661). A negative weighs so much that every pair has as many of them as was asked for.

Source: Mikolov et al. 2013, arXiv:1310.4546, sections 2.2 and 2.3.
"""

import keras
import numpy as np
import tensorflow as tf

BLOCK = 32  # consecutive words that share their negatives
_DRAWN = {
    "skip-gram": 32,
    "cbow": 16,
}  # negatives of a block; CBOW has one pair a word, skip-gram as many as neighbours
ARCHITECTURES = ("skip-gram", "cbow")


class NegativeSamplingModel(keras.Model):
    """Two tables of vectors: of words as inputs, which is what remains of it, and of words as targets.

    Args:
        vocab_size: int V, words.
        dim: int D, size of a vector.
        architecture: "skip-gram" (a word predicts each word around it) or "cbow" (the mean of the words around a word
            predicts it).
        num_ngrams: int, rows for n-grams after those of the words.
        seed: int, decides the vectors at the start.
    """

    def __init__(self, vocab_size, dim, architecture="skip-gram", num_ngrams=0, seed=0):
        super().__init__()
        self.vocab_size, self.dim, self.architecture = vocab_size, dim, architecture
        self.num_ngrams, self.seed = num_ngrams, seed
        at_start = keras.initializers.RandomUniform(-1 / dim, 1 / dim, seed)
        self.inputs_table = self.add_weight(shape=[vocab_size + num_ngrams, dim], initializer=at_start, name="inputs")
        self.targets_table = self.add_weight(shape=[vocab_size, dim], initializer="zeros", name="targets")
        self.rows = None  # ragged int32 [V, n], the rows of the input table that make up each word; None: its own only

    def call(self, window, near):
        """Makes what is compared with the targets.

        Args:
            window: int32 [G, C], ids of the words of a block, with those before and behind them.
            near: float32 [G, L, C], 1 where a word lies around a word of the block.

        Returns:
            float32 [G, L, D].
        """
        if self.architecture == "skip-gram":
            sums, counts = self.sums_of(_centres(window, near))
            return sums if counts is None else _mean(sums, counts)
        sums, counts = self.sums_of(window)
        counts = tf.reduce_sum(near, axis=2, keepdims=True) if counts is None else near @ counts
        return _mean(near @ sums, tf.maximum(counts, 1.0))

    def sums_of(self, words):
        """Returns (float32 [..., D], float32 [..., 1]), the sum of the vectors that make up each word, and how many.

        The second is None where every word has but its own.
        """
        table = self.inputs_table.value
        if self.rows is None:
            return tf.gather(table, words), None
        distinct, at = tf.unique(tf.reshape(words, [-1]))
        rows = tf.gather(self.rows, distinct)
        sums = tf.math.segment_sum(tf.gather(table, rows.values), rows.value_rowids())
        shape = tf.shape(words)
        counts = tf.cast(tf.gather(rows.row_lengths(), at), tf.float32)
        return (
            tf.reshape(tf.gather(sums, at), tf.concat([shape, [self.dim]], 0)),
            tf.reshape(counts, tf.concat([shape, [1]], 0)),
        )


@tf.custom_gradient
def _mean(sums, counts):
    """Divides on the way forward only: as in word2vec and fastText, each part of a mean gets its whole gradient."""
    return sums / counts, lambda gradient: (gradient, None)


def _centres(window, near):
    reach = (near.shape[2] - near.shape[1]) // 2
    return window[:, reach : reach + near.shape[1]]


def negative_sampling_loss(model, batch, training=True, *, negatives=5):
    """Scores how well pairs that occur are told from pairs that are drawn.

    Args:
        model: `NegativeSamplingModel`.
        batch: (window int32 [G, C], near float32 [G, L, C], drawn int32 [G, N]): as in the model's `call`, and the
            negatives of each block.
        training: bool, of no effect; a loss of this package takes it.
        negatives: int K, how many negatives stand against a pair. A drawn word that is the pair's own target is left
            out.

    Returns:
        dict with `"loss"`: (float32 sum in nats, float32 number of pairs).
    """
    window, near, drawn = batch
    hidden, table = model(window, near), model.targets_table.value  # [G, L, D]
    if model.architecture == "skip-gram":
        targets, pairs = window, near  # [G, C], [G, L, C]
        scores = tf.matmul(hidden, tf.gather(table, tf.concat([targets, drawn], 1)), transpose_b=True)
        scores, drawn_scores = tf.split(scores, [targets.shape[1], drawn.shape[1]], axis=2)
        against = pairs @ _differ(targets, drawn)  # [G, L, N]
    else:
        targets, pairs = _centres(window, near), tf.reduce_max(near, axis=2)  # [G, L], [G, L]
        scores = tf.reduce_sum(hidden * tf.gather(table, targets), axis=2)
        drawn_scores = tf.matmul(hidden, tf.gather(table, drawn), transpose_b=True)
        against = pairs[:, :, None] * _differ(targets, drawn)
    against *= negatives / drawn.shape[1]
    # -log sigmoid(s) is softplus(-s), and -log(1 - sigmoid(s)) is softplus(s).
    nats = tf.reduce_sum(pairs * tf.nn.softplus(-scores)) + tf.reduce_sum(against * tf.nn.softplus(drawn_scores))
    return {"loss": (nats, tf.reduce_sum(pairs))}


def _differ(targets, drawn):
    return tf.cast(targets[:, :, None] != drawn[:, None, :], tf.float32)


def sparse_step(model, optimizer, batch, negatives=5):
    """Moves the rows that a batch names against the gradient of the batch's sum, and no others.

    `training.gradient_step` would make each gradient as large as its table. The sum of the pairs, not their mean, is
    what word2vec's learning rate is meant for.

    Args:
        model: `NegativeSamplingModel`.
        optimizer: a built Keras optimizer that takes sparse gradients, such as SGD.
        batch, negatives: as in `negative_sampling_loss`.

    Returns:
        What `negative_sampling_loss` gives.
    """
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        totals = negative_sampling_loss(model, batch, negatives=negatives)
        loss = totals["loss"][0]
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    optimizer.apply([_add_up(gradient) for gradient in gradients], variables)
    return totals


def _add_up(gradient):
    """Sums the parts of a row in their order, because scattered additions of one row come in any order."""
    order = tf.argsort(gradient.indices, stable=True)
    indices = tf.gather(gradient.indices, order)
    rows, place = tf.unique(indices)
    return tf.IndexedSlices(tf.math.segment_sum(tf.gather(gradient.values, order), place), rows, gradient.dense_shape)


def keep_probabilities(counts, threshold):
    """Says how often a word is kept, so that the most frequent do not drown the rest.

    Args:
        counts: int [V], occurrences of each word.
        threshold: float >= 0, share of the text above which a word is thinned out; 0 keeps everything.

    Returns:
        float32 [V] in (0, 1].

    Example:
        >>> print(keep_probabilities([900, 100], 0.1).round(3))
        [0.444 1.   ]

    Source: word2vec.c, which keeps sqrt(t / f) + t / f where the paper has sqrt(t / f).
    """
    counts = np.asarray(counts, np.float64)
    if not threshold:
        return np.ones(len(counts), np.float32)
    ratio = threshold * counts.sum() / counts
    return np.minimum(np.sqrt(ratio) + ratio, 1).astype(np.float32)


def make_thinning(corpus, threshold, window, seed):
    """Makes a function of int32 scalar `epoch` that draws the words an epoch keeps.

    Returns:
        A compiled function that gives (ids int32 [M], left int32 [M], right int32 [M]): the words that are kept, and
        how many words of its sentence stand on either side of each, `window` at most. All are filled up with 0 at
        both ends, so that every block has its window.
    """
    keep = tf.constant(keep_probabilities(corpus.counts, threshold))
    ids, sentences = tf.constant(corpus.ids), tf.constant(corpus.sentences)
    ends = [[window, window + BLOCK]]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def thin(epoch):
        drawn = tf.random.stateless_uniform(tf.shape(ids), [seed, epoch])
        kept = drawn < tf.gather(keep, ids)
        own, length = sentences[kept], tf.math.count_nonzero(kept, dtype=tf.int32)
        around = tf.pad(own, [[window, window]], constant_values=-1)
        same = [tf.cast(own == around[at : at + length], tf.int32) for at in range(2 * window + 1)]
        left, right = tf.add_n(same[:window]), tf.add_n(same[window + 1 :])
        return tf.pad(ids[kept], ends), tf.pad(left, ends), tf.pad(right, ends)

    return thin


def make_batch(architecture, window, blocks_per_batch, counts, seed):
    """Makes the function that computes a batch from its number.

    Args:
        architecture: str, as in `NegativeSamplingModel`; it decides N.
        window: int, the farthest distance of two words of a pair.
        blocks_per_batch: int G.
        counts: int64 [V], occurrences of each word; negatives are drawn by their power 0.75.
        seed: int.

    Returns:
        A function `(ids, left, right, epoch, step) -> batch` of what `make_thinning` gives and int32 scalars, with the
        batch of `negative_sampling_loss`. The blocks of an epoch come in a random order.
    """
    shape = [blocks_per_batch, _DRAWN[architecture]]
    share = np.cumsum(np.asarray(counts, np.float64) ** 0.75)
    ladder = tf.constant((share / share[-1] * (2**31 - 1)).astype(np.int32))
    # Which words lie around the word at a place of its block, when so many of them count: looked up, not compared.
    offsets = np.arange(-window, BLOCK + window) - np.arange(BLOCK)[:, None, None]  # [L, 1, C]
    reaches = np.arange(window + 1)[:, None]  # [window + 1, 1]
    before = tf.constant((-reaches <= offsets) & (offsets < 0), tf.float32)  # [L, window + 1, C]
    behind = tf.constant((offsets <= reaches) & (offsets > 0), tf.float32)
    places = tf.range(BLOCK) * (window + 1)

    def batch(ids, left, right, epoch, step):
        blocks = count_blocks(tf.size(ids), window)
        number = step * blocks_per_batch + tf.range(blocks_per_batch)
        key = tf.stack([seed, epoch])
        shuffled = tf.random.experimental.index_shuffle(tf.minimum(number, blocks - 1), key, blocks - 1)
        at = shuffled[:, None] * BLOCK + tf.range(BLOCK + 2 * window)  # [G, C]
        centres = at[:, window : window + BLOCK]
        random = tf.random.split(tf.random.fold_in(key, step), 2)
        reach = tf.random.stateless_uniform(tf.shape(centres), random[0], 1, window + 1, tf.int32)
        reach = tf.where((number < blocks)[:, None], reach, 0)  # [G, L]
        near = [
            tf.gather(tf.reshape(table, [-1, BLOCK + 2 * window]), places + tf.minimum(reach, tf.gather(room, centres)))
            for table, room in ((before, left), (behind, right))
        ]
        draws = tf.random.stateless_uniform([np.prod(shape)], random[1], 0, 2**31 - 1, tf.int32)
        return tf.gather(ids, at), near[0] + near[1], tf.reshape(tf.searchsorted(ladder, draws, side="right"), shape)

    return batch


def count_blocks(length, window):
    """Returns the blocks of what `make_thinning` gave, at least 1; `length` counts what fills up too."""
    return tf.maximum((length - 2 * window - 1) // BLOCK, 1)
