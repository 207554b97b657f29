"""Normalisation inside the graph: lower case, accents, Unicode's normal forms, and what BERT does to a text.

Most steps map every character by itself, so a chain of them is one table. Normal forms also sort combining marks and, for NFC
and NFKC, join them to the letter before; that happens only where a text needs it.

Source: Unicode Standard Annex 15; the tables are those of the Rust `tokenizers` library (see `characters.py`).
"""

import functools
import json

import numpy as np
import tensorflow as tf

from tfllm.text.characters import BREAK, PointTable, in_class, unicode_tables
from tfllm.text.words import repeat, slices

_HANGUL, _LEADS, _VOWELS, _TAILS = 0xAC00, 0x1100, 0x1161, 0x11A7  # the arithmetic of Unicode 3.12
_NUM_VOWELS, _NUM_TAILS, _NUM_HANGUL = 21, 28, 11172


class Normalizer:
    """Applies the `normalizer` of a tokenizer.json to code points.

    Args:
        document: the normalizer as JSON: dict or None.

    Raises:
        ValueError: when a step is not of a supported kind.
    """

    def __init__(self, document):
        self.steps = _steps_of(json.dumps(document))

    def __call__(self, points):
        """Normalises code points.

        Args:
            points: int32 [N], with breaks and marks, which stay.

        Returns:
            (points int32 [K], origin int32 [K]): the new ones, and which old one each comes from.
        """
        origin = tf.range(tf.size(points))
        for step in self.steps:
            points, source = step(points)
            origin = tf.gather(origin, source)
        return points, origin


@functools.cache
def _steps_of(document):
    """Returns the steps of a normalizer; neighbours that map characters become one."""
    steps = []
    for part in _parts_of(json.loads(document)):
        if isinstance(part, dict) and steps and isinstance(steps[-1], dict):
            before = steps.pop()
            joined = {
                c: text if part.keys().isdisjoint(text) else "".join(part.get(k, k) for k in text)
                for c, text in before.items()
            }
            part = joined | {c: text for c, text in part.items() if c not in before}
        steps.append(part)
    return tuple(_MapCharacters(part) if isinstance(part, dict) else part for part in steps)


def _parts_of(document):
    """Returns list of dicts (characters to strings) and functions, in order."""
    kind = (document or {}).get("type")
    if document is None:
        return []
    if kind == "Sequence":
        return [part for step in document["normalizers"] for part in _parts_of(step)]
    if kind == "Lowercase":
        return [unicode_tables()["lower"]]
    if kind == "StripAccents":
        return [_removed("mark")]
    if kind in ("NFD", "NFKD"):
        return [_decompositions(kind), _sort_marks]
    if kind in ("NFC", "NFKC"):
        return [_decompositions("NFD" if kind == "NFC" else "NFKD"), _sort_marks, _compose]
    if kind == "BertNormalizer":
        parts = []
        if document.get("clean_text", True):
            parts += [_removed("bert_removed") | {chr(c): " " for c in np.flatnonzero(in_class("bert_blank"))}]
        if document.get("handle_chinese_chars", True):
            parts += [{chr(c): f" {chr(c)} " for c in np.flatnonzero(in_class("bert_ideograph"))}]
        lower = document.get("lowercase", True)
        strip = document.get("strip_accents")
        if lower if strip is None else strip:  # all marks that could be out of order are removed
            parts += [_decompositions("NFD"), _removed("nonspacing_mark")]
        return parts + ([unicode_tables()["lower"]] if lower else [])
    raise ValueError(f"tokenizer.json: normalizer must be of a supported type; got {document}")


def _removed(name):
    return {chr(c): "" for c in np.flatnonzero(in_class(name)) if not 0xD800 <= c < 0xE000}


@functools.cache
def _decompositions(form):
    table = dict(unicode_tables()["nfd"])
    if form == "NFKD":
        table |= unicode_tables()["nfkd"]
    for index in range(_NUM_HANGUL):
        lead, rest = divmod(index, _NUM_VOWELS * _NUM_TAILS)
        vowel, tail = divmod(rest, _NUM_TAILS)
        text = chr(_LEADS + lead) + chr(_VOWELS + vowel) + (chr(_TAILS + tail) if tail else "")
        table[chr(_HANGUL + index)] = text
    return table


class _MapCharacters:
    """Maps every character to a string of none, one or several."""

    _STRING = 1 << 22  # an entry from here on names a string; below it, it is added to the code point

    def __init__(self, table):
        entries = np.zeros(0x110000, np.int32)
        targets = []
        for character, text in table.items():
            if len(text) == 1:
                entries[ord(character)] = ord(text) - ord(character)
            else:
                entries[ord(character)] = self._STRING + 32 * len(targets) + len(text)
                targets += map(ord, text)
        self._entries, self._targets = PointTable(entries), np.array(targets or [0], np.int32)

    def __call__(self, points):
        entries = self._entries(points)
        is_string = entries >= self._STRING

        def one_each():
            return points + entries, tf.range(tf.size(points))

        def several():
            lengths = tf.where(is_string, tf.bitwise.bitwise_and(entries, 31), 1)
            begins = tf.bitwise.right_shift(tf.maximum(entries - self._STRING, 0), 5)
            source = repeat(tf.range(tf.size(points)), lengths)
            strings = tf.gather(self._targets, tf.minimum(slices(begins, lengths), len(self._targets) - 1))
            return tf.where(tf.gather(is_string, source), strings, tf.gather(points + entries, source)), source

        return tf.cond(tf.reduce_any(is_string), several, one_each)


@functools.cache
def _combining_values():
    values = np.zeros(0x110000, np.uint8)
    for name, ranges in unicode_tables()["combining_class"].items():
        for first, last in ranges:
            values[first : last + 1] = int(name)
    return values


@functools.cache
def _combining_classes():
    return PointTable(_combining_values())


def _sort_marks(points):
    """Puts the marks between two letters into the order of their combining classes."""
    classes = tf.cast(_combining_classes()(points), tf.int32)
    everyone = tf.range(tf.size(points))

    def sort():
        group = tf.cumsum(tf.cast(classes == 0, tf.int32))
        order = tf.argsort(tf.cast(group, tf.int64) * 256 + tf.cast(classes, tf.int64), stable=True)
        return tf.gather(points, order), order

    disorder = tf.reduce_any((classes[:-1] > classes[1:]) & (classes[1:] > 0))
    return tf.cond(disorder, sort, lambda: (points, everyone))


@functools.cache
def _compositions():
    """Returns (int64 keys, sorted; int32 results; bool table of what may join what stands before it)."""
    pairs = {ord(a) << 32 | ord(b): ord(c) for (a, b), c in unicode_tables()["compositions"].items()}
    keys = np.array(sorted(pairs), np.int64)
    joins = (_combining_values() > 0).astype(np.uint8)
    joins[np.unique(keys & 0xFFFFFFFF)] = 1
    joins[_VOWELS : _VOWELS + _NUM_VOWELS] = 1
    joins[_TAILS + 1 : _TAILS + _NUM_TAILS] = 1
    return keys, np.array([pairs[key] for key in keys], np.int32), PointTable(joins)


def _joined(first, second):
    """Returns int32, the character that two make together, or -1."""
    keys, results, _ = _compositions()
    key = tf.cast(first, tf.int64) * 2**32 + tf.cast(second, tf.int64)
    at = tf.minimum(tf.searchsorted(keys, key), len(keys) - 1)
    made = tf.where(tf.gather(keys, at) == key, tf.gather(results, at), -1)
    lead, vowel = first - _LEADS, second - _VOWELS
    syllable = (lead >= 0) & (lead < 19) & (vowel >= 0) & (vowel < _NUM_VOWELS)
    made = tf.where(syllable, _HANGUL + (lead * _NUM_VOWELS + vowel) * _NUM_TAILS, made)
    open_syllable, tail = first - _HANGUL, second - _TAILS
    closes = (open_syllable >= 0) & (open_syllable < _NUM_HANGUL) & (open_syllable % _NUM_TAILS == 0)
    return tf.where(closes & (tail > 0) & (tail < _NUM_TAILS), first + tail, made)


def _compose(points):
    """Joins letters and the marks behind them, for NFC and NFKC."""
    _, _, joins = _compositions()
    classes = tf.cast(_combining_classes()(points), tf.int32)
    loose = (joins(points) > 0) & (points != BREAK)
    begins = ~loose  # of groups within which characters may join
    group = tf.cumsum(tf.cast(begins, tf.int32)) - 1
    first = tf.cast(tf.where(begins)[:, 0], tf.int32)
    size = tf.math.segment_sum(tf.ones_like(points), group)

    def one_more(turn, points, kept, starter, last_class):
        """Offers every group's character number `turn` to the latest letter of the group."""
        which = tf.cast(tf.where(size > turn)[:, 0], tf.int32)
        at = tf.gather(first, which) + turn
        to, rank = tf.gather(starter, which), tf.gather(last_class, which)
        mine = tf.gather(classes, at)
        made = _joined(tf.gather(points, to), tf.gather(points, at))
        # A mark is blocked by one of the same or a higher class before it; a letter by anything between.
        free = tf.where(rank < 0, True, (rank < mine) & (rank > 0))
        done = free & (made >= 0)
        new = tf.tensor_scatter_nd_update(points, tf.boolean_mask(to, done)[:, None], tf.boolean_mask(made, done))
        gone = tf.boolean_mask(at, done)[:, None]
        kept = tf.tensor_scatter_nd_update(kept, gone, tf.zeros([tf.shape(gone)[0]], tf.bool))
        letter = ~done & (mine == 0)
        to = tf.where(letter, at, to)
        rank = tf.where(done, rank, tf.where(letter, -1, mine))
        starter = tf.tensor_scatter_nd_update(starter, which[:, None], to)
        return turn + 1, new, kept, starter, tf.tensor_scatter_nd_update(last_class, which[:, None], rank)

    def join():
        start = (1, points, tf.ones_like(points, tf.bool), first, tf.fill([tf.size(first)], -1))
        longest = tf.reduce_max(size)
        _, new, kept, _, _ = tf.while_loop(lambda turn, *_: turn < longest, one_more, start)
        return tf.boolean_mask(new, kept), tf.cast(tf.where(kept)[:, 0], tf.int32)

    return tf.cond(tf.reduce_any(loose), join, lambda: (points, tf.range(tf.size(points))))
