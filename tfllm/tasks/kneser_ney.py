"""The n-gram language model with modified Kneser-Ney smoothing: what a neural language model has to beat.

Tables are sorted vectors: an n-gram is the number of its first n - 1 tokens among all (n - 1)-grams, and its last token. So no
key overflows, whatever the vocabulary and the order, and every look-up is a binary search over many tokens at once.

Source: Chen and Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, TR-10-98, section 3.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Level:
    """The n-grams of one length.

    Attributes:
        keys: int64 [N], sorted: context times V plus last token; the context is a number of the level below.
        shares: float64 [N], (count - discount) / total of the context.
        backoff: float64 [C], what is left for the level below, for each of its C n-grams as a context; 1 where none was seen.
    """

    keys: np.ndarray
    shares: np.ndarray
    backoff: np.ndarray

    def find(self, context, tokens, vocab_size):
        """Returns int64 [M], the numbers of n-grams; -1 where there is none or `context` is -1."""
        if not len(self.keys):
            return np.full(len(tokens), -1)
        wanted = context * vocab_size + tokens
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((context >= 0) & (self.keys[at] == wanted), at, -1)


class KneserNey:
    """An interpolated n-gram model with a discount each for n-grams seen once, twice and more often.

    A document's first token is only a context, such as a begin token, and nothing is predicted across documents. Shorter n-grams
    count in how many contexts they were seen, not how often, unless they begin a document.

    Args:
        documents: list of int [N], ids; a document of fewer than two teaches nothing.
        vocab_size: int V; every id in [0, V) has a probability above 0.
        order: int n >= 1, tokens of the longest n-grams.

    Raises:
        ValueError: when an id is out of the vocabulary, `order` is below 1, or no document has two ids.

    Example:
        >>> model = KneserNey([[0, 1, 2, 1, 2, 1]], vocab_size=4, order=2)
        >>> probabilities = model.distribution([0, 1])
        >>> int(probabilities.argmax()), round(float(probabilities.sum()), 6)
        (2, 1.0)
    """

    def __init__(self, documents, vocab_size, order=5):
        if isinstance(order, bool) or not isinstance(order, int) or order < 1:
            raise ValueError(f"order must be an int of at least 1; got {order!r}")
        ids, place = _joined(documents, vocab_size)
        if not (place > 0).any():
            raise ValueError(f"documents must hold one of at least two ids; got {len(documents)} without")
        self.vocab_size, self.order = vocab_size, order
        number = np.zeros(len(ids), np.int64)  # of the n-gram that ends at each token; at first the empty one
        sizes, kinds = [1], []
        for length in range(1, order + 1):
            before = np.concatenate([[0], number[:-1]]) if length > 1 else np.zeros(len(ids), np.int64)
            exists = np.flatnonzero(place >= length - 1)
            keys, first, inverse = np.unique(
                (before * vocab_size + ids)[exists], return_index=True, return_inverse=True
            )
            suffix = number[exists[first]]  # of each n-gram, without its first token
            number = np.full(len(ids), -1)
            number[exists] = inverse.reshape(-1)
            starts = np.bincount(number[place == length - 1], minlength=len(keys))  # how often it begins a document
            kinds.append((keys, np.bincount(number[exists], minlength=len(keys)), starts, suffix))
            sizes.append(len(keys))
        self._levels = []
        for level, (keys, counts, starts, _) in enumerate(kinds):
            if level == 0:  # what stands first in a document is no target
                counts, starts = counts - starts, 0 * starts
            if level + 1 < order:
                counts = starts + np.bincount(kinds[level + 1][3], minlength=len(keys))
            self._levels.append(_make_level(keys, counts, vocab_size, sizes[level]))

    def log_probs(self, documents):
        """Scores every token of documents but the first by those before it.

        Args:
            documents: list of int [N].

        Returns:
            list of float64 [N - 1], nats.

        Raises:
            ValueError: when an id is out of the vocabulary.
        """
        ids, place = _joined(documents, self.vocab_size)
        if not len(ids):
            return [np.zeros(0) for _ in documents]
        context = np.zeros(len(ids), np.int64)  # the n-gram before each token, at first the empty one
        probability = np.full(len(ids), 1 / self.vocab_size)
        for length, level in enumerate(self._levels, 1):
            context = np.where(place >= length - 1, context, -1)
            found = level.find(context, ids, self.vocab_size)
            share = np.where(found >= 0, level.shares[np.maximum(found, 0)], 0.0)
            backoff = np.where(context >= 0, level.backoff[np.maximum(context, 0)], 1.0)
            probability = share + backoff * probability
            context = np.concatenate([[-1], found[:-1]])
        ends = np.cumsum([len(document) for document in documents])
        return [np.log(part)[1:] for part in np.split(probability, ends[:-1])]

    def distribution(self, context):
        """Returns float64 [V], the probability of each id after the ids `context`, the first of which begin a document."""
        probability = np.full(self.vocab_size, 1 / self.vocab_size)
        tokens = np.asarray(context, np.int64)
        numbers = {0: 0}  # length of the context to its number in the level
        for length in range(1, self.order):
            tail = tokens[len(tokens) - length :] if length <= len(tokens) else ()
            number = 0
            for level, token in zip(self._levels, tail, strict=False):
                number = int(level.find(np.array([number]), np.array([token]), self.vocab_size)[0])
            if not len(tail) or number < 0:
                break
            numbers[length] = number
        for length, number in numbers.items():
            level = self._levels[length]
            first, last = np.searchsorted(level.keys, [number * self.vocab_size, (number + 1) * self.vocab_size])
            probability = level.backoff[number] * probability
            probability[level.keys[first:last] - number * self.vocab_size] += level.shares[first:last]
        return probability

    def sample(self, context, max_new_tokens, end_ids=(), seed=0):
        """Draws a continuation.

        Args:
            context: list of int.
            max_new_tokens: int >= 1.
            end_ids: ints that end it and are no part of it.
            seed: int.

        Returns:
            list of int.
        """
        random, ids = np.random.default_rng(seed), list(context)
        while len(ids) < len(context) + max_new_tokens:
            total = np.cumsum(self.distribution(ids[max(len(ids) - self.order + 1, 0) :]))
            token = int(np.searchsorted(total, random.random() * total[-1], side="right"))
            if token in end_ids:
                break
            ids.append(token)
        return ids[len(context) :]


def choose_kneser_ney(train, validation, vocab_size, orders, weights=None):
    """Fits a model of every order and keeps the one that gives the validation part the highest probability.

    Args:
        train, validation: lists of int [N], as `KneserNey` takes them.
        vocab_size: int V.
        orders: ints.
        weights: list of float [N - 1], what each target of `validation` counts, or None for 1.

    Returns:
        `KneserNey`.
    """

    def nats(model):
        log_probs = model.log_probs(validation)
        if weights is None:
            return -sum(terms.sum() for terms in log_probs)
        return -sum((terms * weight).sum() for terms, weight in zip(log_probs, weights, strict=True))

    return min((KneserNey(train, vocab_size, order) for order in orders), key=nats)


def _joined(documents, vocab_size):
    """Returns (ids int64 [N], their places in their documents int64 [N])."""
    rows = [np.asarray(document, np.int64) for document in documents]
    ids = np.concatenate([np.zeros(0, np.int64), *rows])
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise ValueError(f"ids must lie in [0, vocab_size={vocab_size}); got {ids.min()} to {ids.max()}")
    lengths = np.array([len(row) for row in rows], np.int64)
    return ids, np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _make_level(keys, counts, vocab_size, num_contexts):
    """Makes a `_Level` of n-grams [N] and their counts."""
    context = keys // vocab_size
    n1, n2, n3, n4 = (float((counts == count).sum()) for count in (1, 2, 3, 4))
    discounts = np.array([0.0, 0.75, 0.75, 0.75])  # where the counts of counts cannot tell
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        told = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (told[1:] > 0).all():  # tiny data may also tell what makes no sense
            discounts = told
    taken = discounts[np.minimum(counts, 3)]
    total = np.bincount(context, counts, num_contexts)
    left = np.bincount(context, taken, num_contexts)
    safe = np.maximum(total, 1)
    return _Level(keys, (counts - taken) / safe[context], np.where(total > 0, left / safe, 1.0))
