"""Ids into batches `(inputs, targets, weights)` with `tf.data`, without Python in the loop and without a buffer.

Every batch is a function of `(seed, step)`: the order of an epoch is computed (`order.py`), and its rows are gathered from
ids in memory or from shards that are mapped (`shards.py`). So memory is constant, going on at any step is instant, and
several workers take their parts of the same batches.
"""

import collections.abc
import math
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from tfllm.data.order import epoch_key, offset_with, shuffle_with
from tfllm.data.shards import MANIFEST, RECORD_TOKENS, Shards, gather_over, open_shards
from tfllm.data.stream import check_stream, stream_epochs, with_starts
from tfllm.data.tokenizing import tokenize_files
from tfllm.text.tokenizers import check_ids

# Batches are made so many tokens at a time, because a call of the map costs as much as 10,000 tokens.
_BLOCK_TOKENS = 2**16


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


def lm_dataset(
    source,
    tokenizer=None,
    sequence_length=128,
    batch_size=32,
    *,
    seed=0,
    shuffle=True,
    epochs=1,
    start_step=0,
    num_workers=1,
    worker=0,
    cache=None,
):
    """Makes batches for next-token prediction: inputs, and the same ids shifted by one as targets.

    With `shuffle`, an epoch cuts the ids into rows at a random offset and visits the rows in random order, both decided by
    `seed` and the number of the epoch alone. The last incomplete row and batch of an epoch are left out. Without, the rows
    cover every target exactly once, in order: the form for evaluation. What fills up a row or a batch has weight 0.

    Every pass over the data set (a new iterator, a turn of `repeat()`, an epoch of `fit`) is the next one: pass p of
    `epochs=1` is epoch p, however little of the pass before was read, so a look at one batch counts as a pass.
    With `epochs=None` there is one endless pass, and every iterator begins at `start_step`: the form for a loop that counts
    its own steps, and for checkpoints of iterators. (`tf.train.Checkpoint` refuses an iterator of the other form, because
    what counts its passes is outside of it; of what you chain behind the endless form, it does not save random states.)

    Args:
        source: what to read.
            - str: a text.
            - list or other iterable of str, or a data set of strings: documents, each followed by the tokenizer's end
              token where it has one; their ids are held in memory.
            - int ids [N] (array, tensor or list).
            - `pathlib.Path` of a folder of shards, or `Shards`: mapped, not loaded.
            - `pathlib.Path` of a text or JSONL file, or of a folder of them, or a list of paths: encoded into shards first.
        tokenizer: a tokenizer; needed for texts and files. Elsewhere it says which ids are allowed.
        sequence_length: int T >= 1, tokens in a row; mapping is fastest for multiples of 64.
        batch_size: int B >= 1, rows in a batch of all workers together.
        seed: int, decides offsets and orders.
        shuffle: bool, whether an epoch is random (training) or in order (evaluation).
        epochs: int >= 1, epochs in a pass, or None.
        start_step: int >= 0, the batch of the endless stream at which the first pass begins: step s is batch
            `s % len` of epoch `s // len`.
        num_workers: int, a divisor of B; every worker gets B / num_workers rows of every batch.
        worker: int in `[0, num_workers)`, whose rows to make.
        cache: path of the folder for the shards of files, kept and used again; None encodes into a temporary one.

    Returns:
        `tf.data.Dataset` of `(inputs int32 [B, T], targets int32 [B, T], weights float32 [B, T])`, all batches of the
        same shape, of known cardinality; with workers, `B / num_workers` rows. Its attribute `from_step(s)` is the endless
        stream from batch s on, `from_pass(p)` the data set whose first pass is pass p.

    Raises:
        ValueError: when there are fewer than T + 1 ids, an id is out of the vocabulary, or a number out of its range.
        FileNotFoundError: when a path does not exist.

    Example:
        >>> for inputs, targets, weights in lm_dataset([5, 6, 7, 8], None, 2, 2, shuffle=False):
        ...     print(inputs.numpy().tolist(), targets.numpy().tolist(), weights.numpy().tolist())
        [[5, 6], [7, 0]] [[6, 7], [8, 0]] [[1.0, 1.0], [1.0, 0.0]]
    """
    if sequence_length < 1:
        raise ValueError(f"sequence_length must be at least 1; got {sequence_length}")
    check_stream(batch_size, epochs, start_step, num_workers, worker)
    unit = math.gcd(sequence_length, RECORD_TOKENS)
    num_ids, gather = _open(source, tokenizer, unit, cache)
    if num_ids <= sequence_length:
        raise ValueError(f"source must hold more than sequence_length={sequence_length} tokens; got {num_ids}")

    rows = _Rows(num_ids, sequence_length, batch_size, shuffle)
    local = batch_size // num_workers
    at_once = max(min(_BLOCK_TOKENS // (local * sequence_length), rows.batches), 1)  # batches made in one call

    def block(key, first):
        """Makes the batches from number `first` of the epoch on, as many as `at_once`."""
        batch = first + tf.range(at_once, dtype=tf.int64)
        place = batch[:, None] * batch_size + (worker * local + tf.range(local, dtype=tf.int64))
        inputs, targets, weights = rows.read(gather, unit, key, tf.reshape(place, [-1]))
        shape = [at_once, local, sequence_length]
        return tf.reshape(inputs, shape), tf.reshape(targets, shape), tf.reshape(weights, shape)

    def part_of_epoch(epoch, begin, end):
        key = epoch_key(seed, epoch)
        blocks = tf.data.Dataset.range(begin, end, at_once).map(
            lambda first: block(key, first), num_parallel_calls=4, deterministic=True
        )
        return blocks.unbatch().take(end - begin)

    def make(epochs, start_step, change):
        options = tf.data.Options()
        # The tuner's bookkeeping, and a last prefetch, cost as much as a small batch, and rewriting the graph for every pass
        # as much as a small epoch; the parallel map already works ahead.
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        counted = shuffle and epochs is not None
        if not counted:  # an iterator can be saved: its only outside state is the ids, which do not change
            options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        return stream_epochs(part_of_epoch, rows.batches, epochs, start_step, shuffle, change).with_options(options)

    return with_starts(make, epochs, start_step, num_workers=num_workers)


class _Rows:
    """Where the rows of an epoch lie in a stream of ids, and how they are read.

    Attributes:
        batches: int, batches in an epoch.
    """

    def __init__(self, num_ids, length, batch_size, shuffle):
        self.length, self.targets, self.shuffle = length, num_ids - 1, shuffle
        if shuffle:
            self.count = max((self.targets - length + 1) // length, 1)
            self.batches = max(self.count // batch_size, 1)
        else:
            self.count = -(-self.targets // length)
            self.batches = -(-self.count // batch_size)
        self.spare = self.targets - self.count * length if shuffle else 0  # how far the rows of an epoch may be moved
        self.all_whole = shuffle and self.count >= batch_size

    def read(self, gather, unit, key, place):
        """Reads the rows that stand at places of an epoch.

        Args:
            gather: function of int64 [M], numbers of units, to their ids [M, unit].
            unit: int, ids in a unit, a divisor of the length of a row.
            key: int64 [4] of `epoch_key`.
            place: int64 [N], places; those that no row stands at give weight 0.

        Returns:
            (inputs int32 [N, T], targets int32 [N, T], weights float32 [N, T]).
        """
        length, row = self.length, tf.math.floormod(place, self.count)
        start = tf.zeros([], tf.int64)
        if self.shuffle:
            row, start = shuffle_with(key, row, self.count), offset_with(key, self.spare + 1)
        # All rows begin at the same place of a unit, so whole units are read and then cut: far fewer, longer copies.
        first, shift = start // unit, tf.cast(start % unit, tf.int32)
        number = first + row[:, None] * (length // unit) + tf.range(length // unit + 1, dtype=tf.int64)
        number = tf.minimum(number, self.targets // unit)
        ids = tf.reshape(gather(tf.reshape(number, [-1])), [-1, length + unit])
        inputs = tf.cast(ids[:, shift : shift + length], tf.int32)
        targets = tf.cast(ids[:, shift + 1 : shift + 1 + length], tf.int32)
        if self.all_whole:
            return inputs, targets, tf.ones([place.shape[0], length])
        left = tf.where(place < self.count, self.targets - start - row * length, 0)
        keep = tf.sequence_mask(tf.minimum(left, length), length)
        return tf.where(keep, inputs, 0), tf.where(keep, targets, 0), tf.cast(keep, tf.float32)


def _open(source, tokenizer, unit, cache):
    """Returns (int, how many ids there are; function that gathers units of them)."""
    if isinstance(source, os.PathLike):
        source = pathlib.Path(source)
        if (source / MANIFEST).is_file():
            source = open_shards(source)
    if isinstance(source, os.PathLike) or _is_paths(source):
        if tokenizer is None:
            raise ValueError("tokenizer must be given when source is a file; got None")
        if cache is not None:
            source = tokenize_files(source, tokenizer, cache)
        else:
            # What is mapped stays readable after its folder is gone (on Windows the folder stays).
            with tempfile.TemporaryDirectory(prefix="tfllm-", ignore_cleanup_errors=True) as folder:
                shards = tokenize_files(source, tokenizer, folder)
                return shards.num_tokens, shards.make_gather(unit)
    if isinstance(source, Shards):
        if tokenizer is not None and source.load_tokenizer().to_json() != tokenizer.to_json():
            raise ValueError(
                f"tokenizer must be the one that made the shards, or None; got another one for {str(source.folder)!r}"
            )
        return source.num_tokens, source.make_gather(unit)
    ids = _as_ids(source, tokenizer)
    small = ids.size == 0 or ids.max() < 2**16
    table = np.zeros([-(-len(ids) // unit), unit], np.uint16 if small else np.int32)
    table.reshape(-1)[: len(ids)] = ids
    with tf.device("CPU:0"):
        return len(ids), gather_over([tf.constant(table)])


def _is_paths(source):
    return (
        isinstance(source, list | tuple) and len(source) > 0 and all(isinstance(path, os.PathLike) for path in source)
    )


def _as_ids(source, tokenizer):
    if isinstance(source, str):
        if len(source) < 4096 and "\n" not in source and os.path.exists(source):
            raise ValueError(f"source must be a pathlib.Path to name a file; got the str {source!r}, which is a text")
        return _tokenizer_of(tokenizer).encode(source).numpy()
    documents = _as_documents(source)
    if documents is not None:
        tokenizer = _tokenizer_of(tokenizer)
        end = [tokenizer.end_id] if tokenizer.end_id >= 0 else []
        rows = [np.append(ids, np.array(end, np.int32)) for ids in tokenizer.encode_bulk(documents)]
        return np.concatenate([np.zeros(0, np.int32), *rows])
    ids = np.asarray(source)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"source must be a str, strings, pathlib.Paths or ids of shape [N]; got {ids.dtype} of shape {list(ids.shape)}"
        )
    check_ids("source", ids, np.iinfo(np.int32).max if tokenizer is None else tokenizer.vocab_size)
    return ids


def _as_documents(source):
    """Returns list of str of an iterable of strings, or None when `source` is something else."""
    if isinstance(source, tf.data.Dataset):
        if source.element_spec != tf.TensorSpec([], tf.string):
            raise ValueError(
                f"source must be a data set of single strings (iterate_texts makes them of others); got {source.element_spec}"
            )
        return [text.decode("utf-8", "replace") for text in source.as_numpy_iterator()]
    if isinstance(source, list | tuple) and source and all(isinstance(text, str) for text in source):
        return list(source)
    if isinstance(source, collections.abc.Iterator):
        return list(source)
    return None


def _tokenizer_of(tokenizer):
    if tokenizer is None:
        raise ValueError("tokenizer must be given when source is text; got None")
    return tokenizer
