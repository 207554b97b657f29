"""Tokens that stand whole in a text, such as `<|endoftext|>`: found where asked for, never by accident."""

import numpy as np
import tensorflow as tf

from tfllm.text.characters import MARK, PointTable, class_table
from tfllm.text.words import WordIndex, hash_slices, running_hashes

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
        self._index = WordIndex([[ord(character) for character in token] for token in contents], range(len(contents)))
        self._lengths = sorted({len(token) for token in contents}, reverse=True)
        begins = np.zeros(0x110000, np.uint8)
        begins[[ord(token[0]) for token in contents]] = 1
        self._begins = PointTable(begins)

    def mark(self, points, allowed):
        """Replaces every token by one mark.

        Args:
            points: int32 [N].
            allowed: bool array [number of tokens], which of them count.

        Returns:
            (points int32 [K], origin int32 [K], covered int32 [K]): `MARK + k` for token k, where each comes from, and
            how many old points each stands for.
        """
        at = tf.cast(tf.where(self._begins(points) > 0)[:, 0], tf.int32)
        running, total = running_hashes(points), tf.size(points)
        token, size = tf.fill([tf.size(at)], -1), tf.zeros_like(at)
        for length in self._lengths:  # the longest first
            place, found = self._index.candidates(hash_slices(running, at, tf.minimum(at + length, total)))
            found &= (token < 0) & (at + length <= total) & tf.gather(allowed, tf.gather(self._index.ids, place))
            likely = tf.cast(tf.where(found)[:, 0], tf.int32)
            place, lengths = tf.gather(place, likely), tf.fill([tf.size(likely)], length)
            sure = self._index.equal(place, points, tf.gather(at, likely), lengths)
            likely, place = tf.boolean_mask(likely, sure)[:, None], tf.boolean_mask(place, sure)
            token = tf.tensor_scatter_nd_update(token, likely, tf.gather(self._index.ids, place))
            size = tf.tensor_scatter_nd_update(size, likely, tf.fill([tf.size(place)], length))
        at, size, token = (tf.boolean_mask(values, token >= 0) for values in (at, size, token))
        overlap = tf.reduce_any(at[1:] < at[:-1] + size[:-1])
        kept = tf.cond(overlap, lambda: _first_come(at, size), lambda: tf.ones_like(at, tf.bool))
        at, size, token = (tf.boolean_mask(values, kept) for values in (at, size, token))
        if self._has["single_word"].any():
            word = class_table("word")(points) > 0
            joined = tf.gather(word, at - 1) | tf.gather(word, at + size)  # a break stands at both ends
            kept = ~(joined & tf.gather(self._has["single_word"], token))
            at, size, token = (tf.boolean_mask(values, kept) for values in (at, size, token))
        if self._has["lstrip"].any() or self._has["rstrip"].any():
            solid = tf.cast(tf.where(class_table("white")(points) == 0)[:, 0], tf.int32)
            before = tf.gather(solid, tf.searchsorted(solid, at) - 1) + 1
            behind = tf.gather(solid, tf.searchsorted(solid, at + size))
            end = tf.where(tf.gather(self._has["rstrip"], token), behind, at + size)
            begin = tf.where(tf.gather(self._has["lstrip"], token), before, at)
            at = tf.maximum(begin, tf.concat([tf.zeros([tf.minimum(tf.size(end), 1)], tf.int32), end[:-1]], 0))
            size = end - at

        marked = tf.tensor_scatter_nd_update(points, at[:, None], MARK + token)
        covered = tf.tensor_scatter_nd_update(tf.ones_like(points), at[:, None], size)
        inside = tf.math.unsorted_segment_sum(tf.ones_like(at), at + 1, total + 1)
        inside -= tf.math.unsorted_segment_sum(tf.ones_like(at), at + size, total + 1)
        left = tf.cumsum(inside)[:-1] == 0
        origin = tf.boolean_mask(tf.range(tf.size(points)), left)
        return tf.gather(marked, origin), origin, tf.gather(covered, origin)


def _first_come(at, size):
    """Says which of sorted slices stand when each that begins inside a standing one before it falls: bool [N]."""
    count = tf.size(at)
    # From every slice to the next that it leaves free; doubling the steps finds all that the first one leads to.
    following = tf.concat([tf.searchsorted(at, at + size), [count]], 0)
    reached = tf.range(count + 1) == 0

    def double(step, reached, following):
        more = tf.boolean_mask(following, reached)[:, None]
        reached = tf.tensor_scatter_nd_update(reached, more, tf.ones([tf.size(more)], tf.bool))
        return 2 * step, reached, tf.gather(following, following)

    return tf.while_loop(lambda step, *_: step <= count, double, (1, reached, following))[1][:-1]
