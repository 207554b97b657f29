"""Characters: strings to code points, what kind each one is, and their UTF-8 bytes; vectors only, no regular expression.

All rows of a batch stand in one vector, with a `BREAK` before the first and after every row, so that a shifted copy of the
vector never mixes two rows. The tables of `unicode_tables.json` were read off the Rust `tokenizers` library, because Python's,
ICU's and RE2's Unicode versions all differ from the ones inside it; a test compares every code point.
"""

import functools
import json
import pathlib

import numpy as np
import tensorflow as tf

BREAK = 0x110000  # above every code point
MARK = BREAK + 1  # MARK + k stands for the added token k
BREAK_BYTE = 0xFF  # a byte that UTF-8 never uses
MARK_BYTE = 0x100
_CODES = 0x110000
_BLOCKS = (_CODES >> 8) + 256  # room for 65,535 added tokens


def read_characters(texts):
    """Turns strings into one vector of code points; what is not UTF-8 becomes U+FFFD.

    Args:
        texts: string [R].

    Returns:
        (points int32 [N], symbols int32 [M], at int32 [N]): the code points with their breaks, the bytes with breaks as
        `BREAK_BYTE`, and where in the bytes each code point begins.
    """

    def joined(texts):
        rows = tf.strings.reduce_join(texts, separator=b"\xff")
        data = tf.strings.join([b"\xff", rows, tf.where(tf.size(texts) > 0, b"\xff", b"")])
        return tf.cast(tf.io.decode_raw(data, tf.uint8), tf.int32)

    def ascii():
        return tf.where(symbols == BREAK_BYTE, BREAK, symbols), symbols, tf.range(tf.size(symbols))

    def unicode():
        whole = joined(tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace"))
        at = tf.cast(tf.where(tf.bitwise.bitwise_and(whole, 0xC0) != 0x80)[:, 0], tf.int32)
        first = tf.gather(whole, at)
        padded = tf.concat([whole, [0, 0, 0]], 0)
        later = [tf.bitwise.bitwise_and(tf.gather(padded, at + i), 0x3F) for i in (1, 2, 3)]
        two = (first & 0x1F) * 64 + later[0]
        three = (first & 0x0F) * 4096 + later[0] * 64 + later[1]
        four = (first & 0x07) * 262144 + later[0] * 4096 + later[1] * 64 + later[2]
        wide = tf.where(first < 0xE0, two, tf.where(first < 0xF0, three, four))
        points = tf.where(first < 0x80, first, wide)
        return tf.where(first == BREAK_BYTE, BREAK, points), whole, at

    symbols = joined(texts)
    high = tf.math.count_nonzero(symbols >= 0x80)
    return tf.cond(high == tf.cast(tf.size(texts) + 1, tf.int64), ascii, unicode)


def utf8_symbols(points):
    """Returns (symbols int32 [M], at int32 [N]): the UTF-8 bytes of code points, breaks and marks one symbol each."""
    lengths = 1 + tf.add_n([tf.cast(points >= first, tf.int32) for first in (0x80, 0x800, 0x10000)])
    alone = points >= BREAK
    lengths = tf.where(alone, 1, lengths)
    shifted = [tf.bitwise.right_shift(points, tf.maximum(6 * (lengths - 1 - i), 0)) for i in range(4)]
    lead = tf.gather([0x00, 0xC0, 0xE0, 0xF0], lengths - 1) + shifted[0]
    lead = tf.where(alone, tf.where(points == BREAK, BREAK_BYTE, points - MARK + MARK_BYTE), lead)
    tail = [0x80 + later % 0x40 for later in shifted[1:]]
    symbols = tf.boolean_mask(tf.stack([lead, *tail], 1), tf.sequence_mask(lengths, 4))
    return symbols, tf.cumsum(lengths, exclusive=True)


@functools.cache
def unicode_tables():
    """Returns dict of the shipped tables: ranges of code points by name, and maps of characters to strings."""
    return json.loads(pathlib.Path(__file__).with_name("unicode_tables.json").read_text(encoding="utf-8"))


def in_class(name):
    """Returns bool [0x110000], True for the code points of a named range of the tables."""
    member = np.zeros(_CODES, bool)
    for first, last in unicode_tables()[name]:
        member[first : last + 1] = True
    return member


class PointTable:
    """A value for every code point, stored by blocks of 256 of which equal ones stand once.

    Args:
        values: array [0x110000]; breaks and marks get `other`.
        other: the value of everything above.
    """

    def __init__(self, values, other=0):
        whole = np.full(_BLOCKS << 8, other, values.dtype)
        whole[:_CODES] = values
        rows, block = np.unique(whole.reshape(-1, 256), axis=0, return_inverse=True)
        self.block = (block.reshape(-1) << 8).astype(np.int32)
        self.values = rows.reshape(-1)

    def __call__(self, points):
        """Returns the values [N] of code points int32 [N]."""
        row = tf.gather(self.block, tf.bitwise.right_shift(points, 8))
        return tf.gather(self.values, row + tf.bitwise.bitwise_and(points, 0xFF))


@functools.cache
def class_table(name):
    """Returns a `PointTable` that is 1 for the code points of a named range of the tables."""
    return PointTable(in_class(name).astype(np.uint8))
