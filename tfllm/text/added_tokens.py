"""Tokens that stand whole in a text, such as `<|endoftext|>`: found where asked for, never by accident."""

import functools

import numpy as np
import tensorflow as tf

from tfllm.text.characters import MARK, PointTable, in_class

FLAGS = ("lstrip", "rstrip", "single_word")


class AddedTokens:
    """Finds added tokens in code points; of overlapping ones the leftmost, then the longest counts.

    Args:
        contents: list of str, the tokens; none empty.
        flags: dict of str to tuple of str: tokens that take the white space before them (`"lstrip"`) or behind them
            (`"rstrip"`) with them, or count only between what are no letters and digits (`"single_word"`).
    """

    def __init__(self, contents, flags):
        self._has = {name: np.array([name in flags.get(token, ()) for token in contents], bool) for name in FLAGS}
        width = max(map(len, contents), default=1)
        self._table = np.full([len(contents), width], -1, np.int32)
        for row, content in zip(self._table, contents, strict=True):
            row[: len(content)] = [ord(character) for character in content]
        self._lengths = np.array([len(content) for content in contents], np.int32)
        self._first = np.unique(self._table[:, 0])

    def mark(self, points, allowed):
        """Replaces every token by one mark.

        Args:
            points: int32 [N].
            allowed: bool array [number of tokens], which of them count.

        Returns:
            (points int32 [K], origin int32 [K], covered int32 [K]): `MARK + k` for token k, where each comes from, and
            how many old points each stands for.
        """
        width = self._table.shape[1]
        candidate = tf.reduce_any(points[:, None] == self._first, 1) if len(self._first) < 8 else points >= 0
        at = tf.cast(tf.where(candidate)[:, 0], tf.int32)
        padded = tf.concat([points, tf.fill([width], -2)], 0)
        # One column at a time keeps [candidates, tokens] the largest tensor.
        fits = tf.tile(allowed[None, :], [tf.size(at), 1])
        for column in range(width):
            symbol = tf.gather(padded, at + column)[:, None]
            fits &= (symbol == self._table[:, column]) | (self._table[:, column] < 0)
        size = tf.reduce_max(tf.where(fits, self._lengths, 0), 1)
        token = tf.argmax(tf.where(fits, self._lengths, 0), 1, output_type=tf.int32)
        hit = size > 0
        at, size, token = (tf.boolean_mask(values, hit) for values in (at, size, token))

        def next_hit(index, end, kept):
            free = at[index] >= end
            kept = tf.tensor_scatter_nd_update(kept, [[index]], [free])
            return index + 1, tf.where(free, at[index] + size[index], end), kept

        def one_by_one():
            start = (0, 0, tf.zeros_like(at, tf.bool))
            return tf.while_loop(lambda index, *_: index < tf.size(at), next_hit, start)[2]

        overlap = tf.reduce_any(at[1:] < at[:-1] + size[:-1])
        kept = tf.cond(overlap, one_by_one, lambda: tf.ones_like(at, tf.bool))
        at, size, token = (tf.boolean_mask(values, kept) for values in (at, size, token))
        if self._has["single_word"].any():
            word = _is_word()(points) > 0
            joined = tf.gather(word, at - 1) | tf.gather(word, at + size)  # a break stands at both ends
            kept = ~(joined & tf.gather(self._has["single_word"], token))
            at, size, token = (tf.boolean_mask(values, kept) for values in (at, size, token))
        if self._has["lstrip"].any() or self._has["rstrip"].any():
            solid = tf.cast(tf.where(_is_white()(points) == 0)[:, 0], tf.int32)
            before = tf.gather(solid, tf.searchsorted(solid, at) - 1) + 1
            behind = tf.gather(solid, tf.searchsorted(solid, at + size))
            end = tf.where(tf.gather(self._has["rstrip"], token), behind, at + size)
            begin = tf.where(tf.gather(self._has["lstrip"], token), before, at)
            at = tf.maximum(begin, tf.concat([tf.zeros([tf.minimum(tf.size(end), 1)], tf.int32), end[:-1]], 0))
            size = end - at

        marked = tf.tensor_scatter_nd_update(points, at[:, None], MARK + token)
        covered = tf.tensor_scatter_nd_update(tf.ones_like(points), at[:, None], size)
        level = tf.concat([tf.ones_like(points), [0]], 0)  # falls by one inside a token
        inside = tf.math.unsorted_segment_sum(tf.ones_like(at), at + 1, tf.size(level))
        inside -= tf.math.unsorted_segment_sum(tf.ones_like(at), at + size, tf.size(level))
        left = tf.cumsum(inside)[:-1] == 0
        origin = tf.boolean_mask(tf.range(tf.size(points)), left)
        return tf.gather(marked, origin), origin, tf.gather(covered, origin)


@functools.cache
def _is_white():
    return PointTable(in_class("white").astype(np.uint8))


@functools.cache
def _is_word():
    return PointTable(in_class("word").astype(np.uint8))
