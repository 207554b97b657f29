"""Pairs of texts into batches of similar lengths, so that little is padding and there are few shapes.

For sequence-to-sequence models. The pairs are sorted by length once and cut into buckets where that pads least; a batch has
pairs of one bucket and the bucket's shape.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfllm.data.order import shuffle_with
from tfllm.data.packing import join_documents, stream_batches
from tfllm.data.stream import check_stream

_CANDIDATES = 256  # places at which a bucket may end


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Which pairs are padded to which shape.

    Attributes:
        source_lengths: int64 [K], S of each bucket.
        target_lengths: int64 [K], T of each bucket.
        batch_sizes: int64 [K], pairs in a batch of each bucket.
        splits: int64 [K + 1]; bucket b has the pairs `order[splits[b]:splits[b + 1]]`.
        order: int64 [N], the pairs by length.
        padding: float in [0, 1), the share of source and target places of all pairs that hold no token.
        left_out: int, pairs with a side above `max_length`.
    """

    source_lengths: np.ndarray
    target_lengths: np.ndarray
    batch_sizes: np.ndarray
    splits: np.ndarray
    order: np.ndarray
    padding: float
    left_out: int


def pair_dataset(
    sources,
    targets,
    source_tokenizer=None,
    target_tokenizer=None,
    *,
    begin_id,
    end_id,
    batch_size=32,
    tokens_per_batch=None,
    num_buckets=8,
    multiple=8,
    max_length=None,
    seed=0,
    shuffle=True,
    epochs=1,
    start_step=0,
):
    """Makes batches of pairs for sequence-to-sequence models, every pair once an epoch.

    A target `a b` becomes the decoder's input `begin a b` and the targets `a b end`; sources stay as they are. All is padded
    on the right with 0. Where a bucket's last batch lacks pairs, some come again with weight 0. The plan of the buckets, with
    its share of padding, is the attribute `buckets` of the data set that is returned.

    With `shuffle`, `seed` and the number of the epoch decide the order of the batches and of the pairs in every bucket; batch i
    of epoch e is a function of `(seed, e, i)` alone. Without, pairs come from short to long. Passes, epochs and steps are
    those of `lm_dataset`.

    Args:
        sources: list of str, or list of int ids [N], or `tf.RaggedTensor` of ids; none of them empty.
        targets: the same, as many as `sources`.
        source_tokenizer: a tokenizer; needed for str. With ids, it says which ids are allowed.
        target_tokenizer: the same for the targets; None means `source_tokenizer`.
        begin_id: int, the decoder's first input.
        end_id: int, the last target.
        batch_size: int >= 1, pairs in a batch.
        tokens_per_batch: int, the most source and target places in a batch, padding included, or None. It takes the place of
            `batch_size`, so short pairs come in larger batches.
        num_buckets: int >= 1, the most shapes that there may be.
        multiple: int >= 1, lengths of buckets are multiples of it.
        max_length: int, the longest side (begin or end included) that is kept, or None for no limit.
        seed: int, decides the orders.
        shuffle: bool, whether an epoch is in random order.
        epochs: int >= 1, epochs in a pass, or None for one endless pass.
        start_step: int >= 0, the batch of the endless stream at which the first pass begins.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, T], weights float32 [B, T])`, with inputs a dict of `"source"`, int32
        [B, S], `"source_lengths"`, int32 [B], and `"ids"`, int32 [B, T].

    Raises:
        ValueError: when sources and targets are not as many, one is empty, an id is out of the vocabulary, no pair is short
            enough, or a number is out of its range.

    Example:
        >>> pairs = [[5, 6], [7]], [[8], [9, 9]]
        >>> batches = pair_dataset(*pairs, begin_id=1, end_id=2, batch_size=2, num_buckets=1, multiple=1)
        >>> inputs, targets, weights = next(iter(batches))
        >>> sorted(zip(inputs["source"].numpy().tolist(), inputs["ids"].numpy().tolist(), targets.numpy().tolist()))
        [([5, 6], [1, 8, 0], [8, 2, 0]), ([7, 0], [1, 9, 9], [9, 9, 2])]
        >>> print(f"{batches.buckets.padding:.2f}")
        0.20
    """
    check_stream(batch_size, epochs, start_step)
    target_tokenizer = source_tokenizer if target_tokenizer is None else target_tokenizer
    source = join_documents("sources", sources, source_tokenizer)
    target = join_documents("targets", targets, target_tokenizer)
    if len(source[1]) != len(target[1]):
        raise ValueError(f"targets must be as many as sources, {len(source[1])}; got {len(target[1])}")
    for name, (_, lengths) in (("sources", source), ("targets", target)):
        if not lengths.all():
            raise ValueError(f"{name} must hold at least one id each; got none at {np.flatnonzero(lengths == 0)[0]}")
    vocab_size = np.iinfo(np.int32).max if target_tokenizer is None else target_tokenizer.vocab_size
    for name, value in (("begin_id", begin_id), ("end_id", end_id)):
        if not 0 <= value < vocab_size:
            raise ValueError(f"{name} must lie in [0, vocab_size={vocab_size}); got {value}")
    buckets = make_buckets(
        source[1],
        target[1] + 1,
        batch_size=batch_size,
        tokens_per_batch=tokens_per_batch,
        num_buckets=num_buckets,
        multiple=multiple,
        max_length=max_length,
    )
    gather = _pair_gather(source, target, begin_id, end_id)
    return stream_buckets(buckets, gather, seed=seed, shuffle=shuffle, epochs=epochs, start_step=start_step)


def stream_buckets(buckets, gather, *, seed=0, shuffle=True, epochs=1, start_step=0):
    """Makes a data set of batches of buckets, each pair once an epoch.

    Args:
        buckets: `Buckets`.
        gather: function of pairs int64 [B], bool [B], whether each is in its place and not one that fills up a last batch, and
            int64 scalars S and T, that gives their batch.
        seed, shuffle, epochs, start_step: as in `pair_dataset`.

    Returns:
        `tf.data.Dataset`, with the attribute `buckets`.
    """
    pairs = np.diff(buckets.splits)
    steps = -(-pairs // buckets.batch_sizes)  # [K], batches of each bucket
    columns = [np.cumsum(steps) - steps, buckets.splits[:-1], pairs, buckets.batch_sizes]
    table = tf.constant(np.stack([*columns, buckets.source_lengths, buckets.target_lengths], 1))  # [K, 6]
    last_steps, order, total = tf.constant(np.cumsum(steps)), tf.constant(buckets.order), int(steps.sum())

    def batch(key, index):
        index = shuffle_with(key, index, total) if shuffle else index
        bucket = tf.searchsorted(last_steps, [index], side="right")[0]
        first_step, first_pair, count, size, source_length, target_length = tf.unstack(table[bucket])
        place = (index - first_step) * size + tf.range(size)  # [B], in the bucket
        exists = place < count
        place = tf.math.floormod(place, count)
        place = shuffle_with(key + tf.cast(bucket, tf.int64) + 1, place, count) if shuffle else place
        return gather(tf.gather(order, first_pair + place), exists, source_length, target_length)

    dataset = stream_batches(batch, total, seed, shuffle, epochs, start_step)
    dataset.buckets = buckets
    return dataset


def make_buckets(
    source_lengths,
    target_lengths,
    *,
    batch_size=32,
    tokens_per_batch=None,
    num_buckets=8,
    multiple=8,
    max_length=None,
):
    """Sorts pairs by length and cuts them into the buckets that pad least, among ends at every 1/256 of the pairs.

    Args:
        source_lengths: int [N], tokens of each source, at least 1.
        target_lengths: int [N], tokens of each target, at least 1.
        batch_size, tokens_per_batch, num_buckets, multiple, max_length: as in `pair_dataset`.

    Returns:
        `Buckets`.

    Raises:
        ValueError: when no pair is short enough, or a number is out of its range.

    Example:
        >>> buckets = make_buckets([3, 30, 4, 32], [5, 28, 8, 30], num_buckets=2)
        >>> buckets.source_lengths.tolist(), buckets.target_lengths.tolist(), buckets.order.tolist()
        ([8, 32], [8, 32], [0, 2, 1, 3])
    """
    for name, value in (("num_buckets", num_buckets), ("multiple", multiple)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    source, target = np.asarray(source_lengths, np.int64), np.asarray(target_lengths, np.int64)
    if source.shape != target.shape or source.ndim != 1 or not len(source) or min(source.min(), target.min()) < 1:
        raise ValueError(f"lengths must be numbers above 0, two [N]; got {source.shape} and {target.shape}")
    kept = np.arange(len(source)) if max_length is None else np.flatnonzero(np.maximum(source, target) <= max_length)
    if not len(kept):
        raise ValueError(f"max_length must leave at least one pair; got {max_length} for {len(source)} longer ones")
    # A pair is as long as its longer side, each side measured by its own mean: both decide what is padded.
    size = np.maximum(source[kept] / source[kept].mean(), target[kept] / target[kept].mean())
    order = kept[np.lexsort((source[kept] + target[kept], size))]
    source_shapes, target_shapes = (-(-lengths[order] // multiple) * multiple for lengths in (source, target))
    splits = _cheapest_cuts(source_shapes, target_shapes, num_buckets)
    s, t = (np.maximum.reduceat(shapes, splits[:-1]) for shapes in (source_shapes, target_shapes))
    batch_sizes = np.full(len(s), batch_size, np.int64)
    if tokens_per_batch is not None:
        if tokens_per_batch < (s + t).max():
            raise ValueError(f"tokens_per_batch must hold the longest pair, {(s + t).max()}; got {tokens_per_batch}")
        batch_sizes = tokens_per_batch // (s + t)
    used, places = source[order].sum() + target[order].sum(), (np.diff(splits) * (s + t)).sum()
    return Buckets(s, t, batch_sizes, splits, order, float(1 - used / places), len(source) - len(kept))


def _cheapest_cuts(source, target, num_buckets):
    """Returns int64 [K + 1], where to cut sorted pairs so that their padded places are fewest, by dynamic programming."""
    ends = np.unique(np.linspace(0, len(source), min(_CANDIDATES, len(source)) + 1).astype(np.int64))
    widest = [np.maximum.reduceat(lengths, ends[:-1]) for lengths in (source, target)]
    steps = len(ends) - 1
    cost = np.full([steps + 1, steps + 1], np.inf)  # places of the pairs from end i to end j
    for i in range(steps):
        width = np.maximum.accumulate(widest[0][i:]) + np.maximum.accumulate(widest[1][i:])
        cost[i, i + 1 :] = (ends[i + 1 :] - ends[i]) * width
    best, chosen = cost[0], []
    for _ in range(min(num_buckets, steps) - 1):
        total = best[:, None] + cost
        chosen.append(total.argmin(0))
        best, before = total.min(0), best
        if best[-1] >= before[-1]:  # one more bucket saves nothing
            chosen.pop()
            break
    cuts = [steps]
    for choice in reversed(chosen):
        cuts.append(int(choice[cuts[-1]]))
    return ends[[0, *reversed(cuts)]]


class Rows:
    """Rows of ids that stand one behind the other, as `join_documents` gives them, to be gathered and padded.

    Args:
        ids: int32 [N].
        lengths: int64 [D].

    Call:
        rows: int64 [B]; width: int64 scalar. Returns (int32 [B, width], 0 behind each row; int64 [B], their lengths).
    """

    def __init__(self, ids, lengths):
        self.ids, self.begins, self.lengths = map(tf.constant, (ids, np.cumsum(lengths) - lengths, lengths))

    def __call__(self, rows, width):
        length = tf.gather(self.lengths, rows)
        inside = tf.range(width) < length[:, None]  # [B, width]
        at = tf.where(inside, tf.gather(self.begins, rows)[:, None] + tf.range(width), 0)
        return tf.where(inside, tf.gather(self.ids, at), 0), length


def _pair_gather(source, target, begin_id, end_id):
    """Returns a function of pairs int64 [B], bool [B] and the lengths S and T, that gives their batch."""
    source_rows, target_rows = Rows(*source), Rows(*target)

    def gather(pair, exists, source_length, target_length):
        source_ids, lengths = source_rows(pair, source_length)
        ids, inner = target_rows(pair, target_length - 1)
        begin, nothing = tf.fill([tf.shape(ids)[0], 1], begin_id), tf.zeros([tf.shape(ids)[0], 1], tf.int32)
        place = tf.range(target_length)
        targets = tf.where(place == inner[:, None], end_id, tf.concat([ids, nothing], 1))
        weights = tf.cast((place <= inner[:, None]) & exists[:, None], tf.float32)
        inputs = {
            "source": source_ids,
            "source_lengths": tf.cast(lengths, tf.int32),
            "ids": tf.concat([begin, ids], 1),
        }
        return inputs, targets, weights

    return gather
