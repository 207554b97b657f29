"""Ids into batches `(inputs, targets, weights)` with `tf.data`, without Python in the loop.

A batch is one gather of indices that are computed, not buffered: rows are shuffled by a seeded permutation of their
numbers, at constant memory.
"""

import numpy as np
import tensorflow as tf

from tfllm.text.tokenizers import check_ids


def split_text(text, validation=0.1):
    """Cuts a text into a training part and, from its end, a validation part.

    Args:
        text: str.
        validation: float in (0, 1), the share of characters in the second part.

    Returns:
        (str, str), training and validation.

    Raises:
        ValueError: when `validation` is outside (0, 1).

    Example:
        >>> split_text("0123456789", 0.2)
        ('01234567', '89')
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must lie in (0, 1); got {validation}")
    cut = int(len(text) * (1 - validation))
    return text[:cut], text[cut:]


def lm_dataset(source, tokenizer=None, sequence_length=128, batch_size=32, *, seed=0, shuffle=True):
    """Makes batches for next-token prediction: inputs, and the same ids shifted by one as targets.

    With `shuffle`, one pass cuts the ids into rows at a random offset and visits the rows in random order; every pass
    over the data set is another one, in an order that `seed` and `tf.random.set_seed` decide. The last incomplete row
    and batch of a pass are left out. Without, the rows cover every target exactly once, in order: the form for
    evaluation. What fills up a row or a batch has weight 0.

    Args:
        source: str, or int ids [N] (array, tensor or list).
        tokenizer: a tokenizer; needed for a str. With ids, it says which ids are allowed.
        sequence_length: int T >= 1, tokens in a row.
        batch_size: int B >= 1, rows in a batch.
        seed: int, decides offsets and orders.
        shuffle: bool, whether a pass is random (training) or in order (evaluation).

    Returns:
        `tf.data.Dataset` of `(inputs int32 [B, T], targets int32 [B, T], weights float32 [B, T])`, all batches of the
        same shape, of known cardinality.

    Raises:
        ValueError: when there are fewer than T + 1 ids, an id is out of the vocabulary, or a size is below 1.

    Example:
        >>> for inputs, targets, weights in lm_dataset([5, 6, 7, 8], None, 2, 2, shuffle=False):
        ...     print(inputs.numpy().tolist(), targets.numpy().tolist(), weights.numpy().tolist())
        [[5, 6], [7, 8]] [[6, 7], [8, 8]] [[1.0, 1.0], [1.0, 0.0]]
    """
    for name, value in (("sequence_length", sequence_length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    ids = _as_ids(source, tokenizer)
    if len(ids) <= sequence_length:
        raise ValueError(f"source must hold more than sequence_length={sequence_length} tokens; got {len(ids)}")

    targets = len(ids) - 1
    if shuffle:
        rows = max((targets - sequence_length + 1) // sequence_length, 1)
        batches = max(rows // batch_size, 1)
    else:
        rows = -(-targets // sequence_length)
        batches = -(-rows // batch_size)
    spare = targets - rows * sequence_length if shuffle else 0  # how far the rows of a pass may be moved
    ids = tf.constant(ids, tf.int32)

    def batch(index, pass_seed):
        row = index * batch_size + tf.range(batch_size, dtype=tf.int64)  # [B]
        exists = row < rows  # a text of fewer rows than a batch fills it up
        start = tf.zeros([], tf.int64)
        if shuffle:
            shuffled = tf.random.experimental.index_shuffle(row % rows, pass_seed, tf.cast(rows - 1, tf.int64))
            row = tf.cast(shuffled, tf.int64)
            start = tf.random.stateless_uniform([], pass_seed, 0, spare + 1, tf.int64)
        at = start + row[:, None] * sequence_length + tf.range(sequence_length, dtype=tf.int64)  # [B, T]
        last = tf.constant(targets, tf.int64)
        weights = tf.cast((at < last) & exists[:, None], tf.float32)
        return tf.gather(ids, tf.minimum(at, last)), tf.gather(ids, tf.minimum(at + 1, last)), weights

    def one_pass(pass_seed):
        return tf.data.Dataset.range(batches).map(
            lambda index: batch(index, tf.stack([pass_seed, seed])), num_parallel_calls=tf.data.AUTOTUNE
        )

    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)  # a new one for every pass
    dataset = seeds.flat_map(one_pass).apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _as_ids(source, tokenizer):
    if isinstance(source, str):
        if tokenizer is None:
            raise ValueError("tokenizer must be given when source is text; got None")
        return tokenizer.encode(source).numpy()
    ids = np.asarray(source)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"source must be a str or ids of shape [N]; got {ids.dtype} of shape {list(ids.shape)}")
    check_ids("source", ids, np.iinfo(np.int32).max if tokenizer is None else tokenizer.vocab_size)
    return ids
