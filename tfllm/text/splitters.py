"""Pre-tokenizers: where words begin, as the patterns of GPT-2, Llama 3, Qwen 2, BERT and others have it.

RE2 has no look-ahead, which those patterns need; but whether a word begins at a character depends only on what stands near
it, so comparisons of shifted vectors decide it. A splitter maps code points int32 [N] (see `characters.py`) to
`(starts, blank)`, both bool [N]: where a piece begins, and which characters are thrown away. Pieces cover everything; one that
begins with a thrown-away character is no word.
"""

import functools

import numpy as np
import tensorflow as tf

from tfllm.text.characters import BREAK, PointTable, class_table, in_class

_NONE, _LETTER, _NUMBER, _SPACE, _NEWLINE, _OTHER, _ALONE = range(7)


def split_characters(points):
    """Every character is a word."""
    return tf.ones_like(points, tf.bool), points == BREAK


def split_gpt2(points, *, digits=False):
    """The pattern of GPT-2; with `digits`, every digit stands alone first (StarCoder, SmolLM).

    The pattern: `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`.
    """
    kind = _gpt2_kinds(digits)(points)
    before, after = _before(kind), _after(kind)
    after_blank = _before(points, BREAK) == ord(" ")
    word = (kind >= _LETTER) & (kind != _SPACE) & (before != kind) & ~after_blank
    # A run of white space gives its last character to the word that follows it, if one does.
    space = (kind == _SPACE) & ((before != _SPACE) | ((after != _SPACE) & (after >= _LETTER) & (after != _ALONE)))
    starts = word | space | (kind == _NONE) | (kind == _ALONE)

    quote = tf.where((points == ord("'")) & (before != _OTHER) & ~after_blank)[:, 0]
    inside, ended = _contractions(points, quote, "stmd", ("re", "ve", "ll"))
    starts = _put(starts, inside, False)
    return _put(starts, tf.boolean_mask(ended, tf.gather(kind, ended) == _LETTER), True), points == BREAK


def split_llama3(points, *, digits=3):
    """The pattern of Llama 3 and cl100k; with `digits=1`, that of Qwen 2.

    The pattern: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|
    \\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`.
    """
    kind = _llama3_kinds()(points)
    before, after = _before(kind), _after(kind)
    character_before = _before(points, BREAK)
    other = (kind == _OTHER) & (before != _OTHER) & (character_before != ord(" "))
    # One sign, or a blank, joins the letters behind it, unless the sign already belongs to a blank before it.
    joined = (before == _SPACE) | ((before == _OTHER) & _before(other, False))
    letter = (kind == _LETTER) & (before != _LETTER) & ~joined
    starts = letter | other | (kind == _NONE)

    quote = tf.where(other & (points == ord("'")))[:, 0]
    _, ended = _contractions(points, quote, "stmdSTMD\u017f", ("re", "ve", "ll"), fold=True)
    starts = _put(starts, tf.boolean_mask(ended, tf.gather(kind, ended) == _LETTER), True)

    number = tf.where(kind == _NUMBER)[:, 0]
    run = _runs(number)
    place = tf.range(tf.size(run)) - tf.gather(tf.cast(tf.where(_first(run))[:, 0], tf.int32), run)
    starts = _put(starts, tf.boolean_mask(number, place % digits == 0), True)

    space = tf.where((kind == _SPACE) | (kind == _NEWLINE))[:, 0]
    run = _runs(space)
    newline = tf.gather(kind, space) == _NEWLINE
    blanks = tf.cumsum(tf.cast(~newline, tf.int32))
    first = tf.boolean_mask(tf.range(tf.size(run)), _first(run))  # of every run
    blanks -= tf.gather(tf.gather(blanks, first) - tf.cast(~tf.gather(newline, first), tf.int32), run)
    after_sign = tf.gather(tf.gather(before, tf.gather(space, first)) == _OTHER, run)
    taken = newline & (blanks == 0) & after_sign  # signs take the line ends right behind them
    line_end = tf.math.segment_max(tf.where(newline & ~taken, space, -1), run)  # the last of every run, or -1
    line_end = tf.gather(line_end, run)
    begins = _first(run) | tf.concat([[False], taken[:-1]], 0)[: tf.size(taken)]
    follower = tf.gather(after, space)
    last = (follower != _SPACE) & (follower != _NEWLINE) & (follower != _NONE) & (space > line_end)
    begins = ~taken & (begins | (space == line_end + 1) | last)
    return _put(starts, tf.boolean_mask(space, begins), True), points == BREAK


def split_whitespace(points):
    """Words are runs without white space."""
    white = class_table("white")(points) > 0
    return _change(white) | (points >= BREAK) | (_before(points, BREAK) >= BREAK), white | (points == BREAK)


def split_words_and_signs(points):
    """Words are runs of word characters, and runs of what is neither word nor white space: `\\w+|[^\\w\\s]+`."""
    kind = _word_kinds()(points)
    starts = (kind != _before(kind)) | (kind == _NONE)
    return starts, (kind == _SPACE) | (points == BREAK)


def split_bert(points):
    """Words are runs without white space and punctuation; every punctuation sign is one."""
    kind = _bert_kinds()(points)
    starts = (kind != _before(kind)) | (kind == _NONE) | (kind == _ALONE)
    return starts, (kind == _SPACE) | (points == BREAK)


def _before(values, fill=_NONE):
    return tf.concat([[tf.cast(fill, values.dtype)], values[:-1]], 0)


def _after(values, fill=_NONE):
    return tf.concat([values[1:], [tf.cast(fill, values.dtype)]], 0)


def _change(flags):
    return tf.math.logical_xor(flags, _before(flags, False))


def _put(flags, at, value):
    return tf.tensor_scatter_nd_update(flags, at[:, None], tf.fill([tf.size(at)], value))


def _runs(positions):
    """Returns int32 [K], which run of neighbours each of sorted positions int64 [K] belongs to."""
    apart = tf.cast(positions[1:] != positions[:-1] + 1, tf.int32)
    return tf.cumsum(tf.concat([tf.zeros([tf.minimum(tf.size(positions), 1)], tf.int32), apart], 0))


def _first(run):
    return tf.concat([tf.ones([tf.minimum(tf.size(run), 1)], tf.bool), run[1:] != run[:-1]], 0)


def _contractions(points, quote, short, long, fold=False):
    """Finds `'s`, `'re` and their like behind apostrophes at int64 [Q]: their letters, and what comes after them."""
    end = tf.size(points, tf.int64) - 1
    one, two = (tf.gather(points, tf.minimum(quote + i, end)) for i in (1, 2))
    is_short = tf.reduce_any(one[:, None] == [ord(c) for c in short], 1)
    if fold:
        one, two = one | 0x20, two | 0x20
    is_long = tf.reduce_any(
        (one[:, None] == [ord(c[0]) for c in long]) & (two[:, None] == [ord(c[1]) for c in long]), 1
    )
    short_at, long_at = tf.boolean_mask(quote, is_short), tf.boolean_mask(quote, is_long)
    return tf.concat([short_at + 1, long_at + 1, long_at + 2], 0), tf.concat([short_at + 2, long_at + 3], 0)


def _kinds(**classes):
    values = np.full(0x110000, _OTHER, np.uint8)
    for name, value in classes.items():
        values[in_class(name)] = value
    return values


@functools.cache
def _gpt2_kinds(digits):
    values = _kinds(letter=_LETTER, number=_NUMBER, space=_SPACE)
    if digits:
        values[in_class("numeric")] = _ALONE
    return PointTable(values)


@functools.cache
def _llama3_kinds():
    values = _kinds(letter=_LETTER, number=_NUMBER, space=_SPACE)
    values[[ord("\r"), ord("\n")]] = _NEWLINE
    return PointTable(values)


@functools.cache
def _word_kinds():
    return PointTable(_kinds(word=_LETTER, white=_SPACE))


@functools.cache
def _bert_kinds():
    return PointTable(_kinds(bert_punctuation=_ALONE, white=_SPACE))
