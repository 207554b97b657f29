"""Character n-grams of words and the buckets they fall into, as fastText numbers them.

Source: Bojanowski et al. 2017, arXiv:1607.04606, section 3.2.
"""

import dataclasses

import numpy as np

_OFFSET, _PRIME, _32_BITS = 2166136261, 16777619, 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class Subwords:
    """Cuts `<word>` into its n-grams of characters and hashes each into a bucket.

    Attributes:
        min_n, max_n: int, 1 <= min_n <= max_n, shortest and longest n-gram in characters, `<` and `>` counted.
        buckets: int >= 1, rows of the table that the n-grams share.

    Example:
        >>> Subwords(3, 4, 1000).ngrams("cat")
        ['<ca', '<cat', 'cat', 'cat>', 'at>']
    """

    min_n: int = 3
    max_n: int = 6
    buckets: int = 200_000

    def __post_init__(self):
        if not 1 <= self.min_n <= self.max_n:
            raise ValueError(f"min_n and max_n must hold 1 <= min_n <= max_n; got {self.min_n} and {self.max_n}")
        if not 1 <= self.buckets < 2**31:
            raise ValueError(f"buckets must lie in [1, 2**31); got {self.buckets}")

    def ngrams(self, word):
        """Returns list of str, the n-grams of a word in the order of their first characters."""
        return [gram for gram, _ in self._hashed(word)]

    def buckets_of(self, word):
        """Returns int32 [n], the bucket of every n-gram of a word."""
        return np.array([hashed % self.buckets for _, hashed in self._hashed(word)], np.int32)

    def _hashed(self, word):
        marked = f"<{word}>"
        codes = [character.encode("utf-8", "surrogatepass") for character in marked]
        for start in range(len(marked)):
            hashed = _OFFSET
            for size in range(1, min(self.max_n, len(marked) - start) + 1):
                for byte in codes[start + size - 1]:
                    # fastText reads a byte as signed: from 128 on, it flips the upper 24 bits as well.
                    hashed = ((hashed ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * _PRIME) & _32_BITS
                alone = size == 1 and start in (0, len(marked) - 1)  # a boundary mark by itself says nothing
                if size >= self.min_n and not alone:
                    yield marked[start : start + size], hashed
