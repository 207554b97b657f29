"""Words as slices of one vector: found again, looked up and put together without a hash table.

Text repeats its words, so the work of a tokenizer is done once for every different word of a batch. Words are compared by a
64-bit polynomial hash and then symbol by symbol, so an unlucky hash costs time but never a wrong id.
"""

import numpy as np
import tensorflow as tf

_FACTOR = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
LONGEST = 4096  # positions after which the powers of the hash begin again


def _powers(factor, count):
    values, power = [], 1
    for _ in range(count):
        values.append(power)
        power = power * factor % 2**64
    return np.array(values, np.uint64).astype(np.int64)


POWERS = _powers(_FACTOR, LONGEST)
INVERSE_POWERS = _powers(pow(_FACTOR, -1, 2**64), LONGEST)


def slices(first, lengths):
    """Returns int32 [sum(lengths)], the indices first[0], first[0] + 1, ..., first[1], ... of slices of a vector."""
    begins = tf.cumsum(lengths, exclusive=True)
    return tf.repeat(first - begins, lengths) + tf.range(tf.reduce_sum(lengths))


def lengths_of(first, total):
    """Returns int32 [W], the lengths of slices that begin at `first` and cover `total` symbols."""
    return tf.concat([first[1:], tf.fill([tf.minimum(tf.size(first), 1)], total)], 0) - first


def terms(symbols, place):
    """Returns int64 [M], what each symbol at its place in a word adds to the word's hash."""
    return tf.cast(symbols + 1, tf.int64) * tf.gather(POWERS, place)


def hash_words(symbols, first, lengths):
    """Returns int64 [W], the hashes of words, sum over i of (symbol_i + 1) * factor^i modulo 2^64."""
    word_of = tf.repeat(tf.range(tf.size(first)), lengths)
    place = tf.range(tf.size(symbols)) - tf.gather(first, word_of)
    return tf.math.segment_sum(terms(symbols, place % LONGEST), word_of)


def distinct_words(symbols, first, lengths):
    """Finds the different words of a vector.

    Args:
        symbols: int32 [M].
        first: int32 [W], where each word begins; every word has at least one symbol.
        lengths: int32 [W].

    Returns:
        (which int32 [W], example int32 [U]): for every word the number of its kind, and for every kind one word.
    """
    words = tf.range(tf.size(first))

    def alone():
        return words, words

    def merged():
        kinds = tf.unique(hash_words(symbols, first, lengths))
        which = kinds.idx
        example = tf.math.unsorted_segment_min(words, which, tf.size(kinds.y))
        copy = tf.gather(example, which)
        shift = tf.gather(first, copy) - first
        at = tf.minimum(tf.repeat(shift, lengths) + tf.range(tf.size(symbols)), tf.size(symbols) - 1)
        same = tf.reduce_all(tf.gather(lengths, copy) == lengths) & tf.reduce_all(tf.gather(symbols, at) == symbols)
        return tf.cond(same, lambda: (which, example), alone)

    return tf.cond(tf.size(first) > 0, merged, alone)


class WordIndex:
    """Finds words among known ones.

    Args:
        words: list of sequences of int, all different and none empty.
        ids: list of int, what `find` gives for each.

    Raises:
        ValueError: when two words have the same hash.
    """

    def __init__(self, words, ids):
        self.longest = max((len(word) for word in words), default=0)
        symbols = np.array([symbol for word in words for symbol in word] or [0], np.int64)
        lengths = np.array([len(word) for word in words] or [1])
        first = np.cumsum(lengths) - lengths
        with np.errstate(over="ignore"):
            place = np.arange(len(symbols)) - np.repeat(first, lengths)
            keys = np.add.reduceat((symbols + 1) * POWERS[place % LONGEST], first)
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():
            raise ValueError("words must have different hashes; got two with the same one, which is one chance in 2^40")
        self.keys = tf.constant(keys[order])
        self.ids = tf.constant(np.array(ids if len(words) else [-1], np.int32)[order])
        self.lengths = tf.constant(lengths[order].astype(np.int32) if len(words) else np.array([-1], np.int32))
        self.first = tf.constant(first[order].astype(np.int32))
        self.symbols = tf.constant(symbols.astype(np.int32))

    def candidates(self, hashes):
        """Returns (place int32, found bool) of hashes int64 of any shape: known words with the same hash."""
        flat = tf.reshape(hashes, [-1])
        place = tf.minimum(tf.searchsorted(self.keys, flat), tf.size(self.keys) - 1)
        place = tf.reshape(place, tf.shape(hashes))
        return place, tf.gather(self.keys, place) == hashes

    def equal(self, place, symbols, first, lengths):
        """Says which words are, symbol by symbol, the known words at `place`: bool [W]."""
        fits = tf.gather(self.lengths, place) == lengths
        compared = tf.where(fits, lengths, 0)
        mine = tf.gather(symbols, slices(first, compared))
        known = tf.gather(self.symbols, slices(tf.gather(self.first, place), compared))
        word_of = tf.repeat(tf.range(tf.size(first)), compared)
        wrong = tf.math.unsorted_segment_sum(tf.cast(mine != known, tf.int32), word_of, tf.size(first))
        return fits & (wrong == 0)

    def find(self, symbols, first, lengths):
        """Returns int32 [W], the ids of words, -1 for unknown ones."""
        place, found = self.candidates(hash_words(symbols, first, lengths))
        found &= self.equal(place, symbols, first, lengths)
        return tf.where(found, tf.gather(self.ids, place), -1)
