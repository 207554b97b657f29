"""Texts that are there twice, or nearly: exact comparison, and MinHash with locality-sensitive hashing.

MinHash only proposes pairs; each is then compared in full, so nothing is dropped by chance. Everything is held in memory,
about 8 bytes a shingle and 512 bytes a text.
"""

import hashlib

import numpy as np

from tfllm.text.cleaning import comparable, split_words

_MISSED = 1e-3  # the probability to miss a pair that lies exactly at the threshold
_BLOCK = 1 << 20  # shingles hashed at a time


def remove_duplicates(texts):
    """Keeps the first of the texts that are the same but for case, white space and full-width forms.

    Args:
        texts: list of str.

    Returns:
        list of str, in the same order.

    Raises:
        ValueError: when `texts` is no list of str.

    Example:
        >>> remove_duplicates(["A b", "c", "a  B", ""])
        ['A b', 'c', '']
    """
    first = {}
    for text in _as_list(texts):
        first.setdefault(comparable(text), text)
    return list(first.values())


def remove_near_duplicates(texts, threshold=0.8, *, unit="word", size=3, num_hashes=128, seed=0):
    """Keeps the texts that `near_duplicates` finds to be no copies of earlier ones.

    Args:
        texts, threshold, unit, size, num_hashes, seed: as in `near_duplicates`.

    Returns:
        list of str, in the same order.

    Example:
        >>> story = "once upon a time there was a king who had three daughters"
        >>> remove_near_duplicates([story, "a tale", story + "!", story.replace("three", "3")], 0.5)
        ['once upon a time there was a king who had three daughters', 'a tale']
    """
    copied = near_duplicates(texts, threshold, unit=unit, size=size, num_hashes=num_hashes, seed=seed)
    return [text for text, original in zip(texts, copied, strict=True) if original < 0]


def near_duplicates(texts, threshold=0.8, *, unit="word", size=3, num_hashes=128, seed=0):
    """Says of every text which earlier one it nearly repeats.

    Texts are compared by the Jaccard index of their sets of shingles (runs of `size` words or characters, without regard
    to case, white space and full-width forms; words leave out punctuation unless
    there is nothing else, and a Chinese character is a word). A text is
    a copy when its index with an earlier text that is no copy itself is at least `threshold`. Time grows with the text,
    not with the square of the number of texts, unless most texts are half alike.

    Args:
        texts: list of str.
        threshold: float in (0, 1]. Pairs at the threshold are missed with a probability of at most 0.001 where
            `threshold >= 0.06`, those above it more rarely; no pair below it is ever reported.
        unit: `"word"` or `"character"`.
        size: int >= 1, units in a shingle; a shorter text is one shingle.
        num_hashes: int >= 1, numbers in a MinHash signature; fewer are faster and compare more pairs in full.
        seed: int >= 0, chooses the hash functions.

    Returns:
        int32 [N], -1 for a text to keep, else the index of the first kept text that it repeats.

    Raises:
        ValueError: on bad arguments.

    Source: Broder 1997, "On the resemblance and containment of documents"; Indyk and Motwani 1998 for the bands.

    Example:
        >>> near_duplicates(["a b c d e f", "x y", "A b c d e, f!", "X  Y"]).tolist()
        [-1, -1, 0, 1]
    """
    texts = _as_list(texts)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1]; got {threshold}")
    if unit not in ("word", "character"):
        raise ValueError(f"unit must be 'word' or 'character'; got {unit!r}")
    for name, value, least in (("size", size, 1), ("num_hashes", num_hashes, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")
    shingles, starts = _shingle_sets(texts, unit, size)
    copied = np.full(len(texts), -1, np.int32)
    empty = np.flatnonzero(starts[1:] == starts[:-1])
    copied[empty[1:]] = empty[:1]  # texts of nothing are the same
    full = np.flatnonzero(starts[1:] > starts[:-1])
    if full.size:
        bounds = starts[np.append(full, len(texts))]
        signatures = _signatures(shingles, bounds, num_hashes, seed)
        copied[full] = _originals(shingles, bounds, signatures, threshold)
        copied[full] = np.where(copied[full] < 0, -1, full[copied[full]])
    return copied


def _as_list(texts):
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a list of str; got {type(texts).__name__}")
    return texts


def _shingle_sets(texts, unit, size):
    """Returns (uint64 [S] sorted shingles, text after text, int64 [N + 1] where each text's begin)."""
    seen, pieces = {}, []
    for text in map(comparable, texts):
        if unit == "character":
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
        else:
            marks = split_words(text)
            words = [word for word in marks if word[0].isalnum() or len(word) > 1]
            codes = np.array([seen.setdefault(word, len(seen)) for word in words or marks], np.int64)
        pieces.append(np.pad(codes + 1, (0, max(size - len(codes), 0) if len(codes) else 0)))
    units, lengths = np.concatenate([np.zeros(0, np.int64), *pieces]), np.array([len(piece) for piece in pieces], int)
    names = [hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in seen]
    units = (
        _mix(units.astype(np.uint64))
        if unit == "character"
        else np.frombuffer(b"\0" * 8 + b"".join(names), "<u8")[units]
    )
    text_of = np.repeat(np.arange(len(texts)), lengths)

    count = max(len(units) - size + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for offset, factor in enumerate(_odd_numbers(size, seed=0)):
        hashes += factor * units[offset : offset + count]
    inside = text_of[:count] == text_of[size - 1 :]
    hashes, text_of = _mix(hashes[inside]), text_of[:count][inside]
    order = np.lexsort((hashes, text_of))
    hashes, text_of = hashes[order], text_of[order]
    new = np.append(True, (hashes[1:] != hashes[:-1]) | (text_of[1:] != text_of[:-1]))[: len(hashes)]
    return hashes[new], np.searchsorted(text_of[new], np.arange(len(texts) + 1))


def _signatures(shingles, bounds, num_hashes, seed):
    """Returns uint32 [N, num_hashes], the smallest value of every hash function over each set, none of them empty."""
    factors, terms = _odd_numbers(num_hashes, seed + 1), _odd_numbers(num_hashes, seed + 2)
    signatures = np.empty((len(bounds) - 1, num_hashes), np.uint32)
    first = 0
    while first < len(signatures):
        last = min(max(np.searchsorted(bounds, bounds[first] + _BLOCK), first + 1), len(signatures))
        block, begins = shingles[bounds[first] : bounds[last]], bounds[first:last] - bounds[first]
        for i in range(num_hashes):
            hashed = ((block * factors[i] + terms[i]) >> np.uint64(32)).astype(np.uint32)
            signatures[first:last, i] = np.minimum.reduceat(hashed, begins)
        first = last
    return signatures


def _originals(shingles, bounds, signatures, threshold):
    """Returns int64 [N], -1 or the first kept set whose Jaccard index with this one reaches the threshold."""
    count, num_hashes = signatures.shape
    rows = _rows_of_a_band(threshold, num_hashes)
    originals = np.full(count, -1)
    buckets = [[] for _ in range(count)]  # of each set, those that it shares with another one
    for band in range(num_hashes // rows):
        part = signatures[:, band * rows : (band + 1) * rows].astype(np.uint64)
        key = (_mix(part) * _odd_numbers(rows, seed=band)).sum(1, dtype=np.uint64)
        _, bucket, sizes = np.unique(key, return_inverse=True, return_counts=True)
        for member in np.flatnonzero(sizes[bucket] > 1):
            buckets[member].append((band, bucket[member]))
    kept = {}
    slack = 2.5 / num_hashes**0.5  # five standard deviations of the share of equal numbers, which estimates the index
    for index in range(count):
        near = sorted({other for bucket in buckets[index] for other in kept.get(bucket, ())})
        alike = (signatures[near] == signatures[index]).mean(1) >= threshold - slack if near else []
        mine = shingles[bounds[index] : bounds[index + 1]]
        for other in np.array(near, int)[alike]:
            if _jaccard(mine, shingles[bounds[other] : bounds[other + 1]]) >= threshold:
                originals[index] = other
                break
        else:
            for bucket in buckets[index]:
                kept.setdefault(bucket, []).append(index)
    return originals


def _rows_of_a_band(threshold, num_hashes):
    """Returns int, as many rows as miss a pair at the threshold with a probability of at most `_MISSED`."""
    fits = (r for r in range(num_hashes, 1, -1) if (1 - threshold**r) ** (num_hashes // r) <= _MISSED)
    return next(fits, 1)


def _jaccard(first, second):
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _odd_numbers(count, seed):
    return np.random.default_rng(seed).integers(0, 2**63, count, np.uint64) * np.uint64(2) + np.uint64(1)


def _mix(values):
    """Spreads uint64 values over all bits, one to one (Stafford's variant 13, the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
