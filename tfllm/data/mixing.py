"""Several corpora in one stream, by weight: which one gives element k is computed, so going on at any step is exact.

The order of turns repeats with a period of at most 65,536 elements and keeps every corpus within one element of its share,
always; how many elements each has given before step k is one look into a table.
"""

import dataclasses
import fractions
import functools
import heapq
import math

import numpy as np
import tensorflow as tf

_LONGEST_PERIOD = 2**16


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Whose turn it is in a mixture of M corpora.

    Weights are taken as the fractions that they are written as: 0.7 and 0.3 make a period of 10. Where their common
    denominator is above 65,536, shares are rounded to multiples of 1/65,536.

    Args:
        weights: tuple of M numbers above 0; only their ratios count.
        seed: int, decides whose turn it is where several are due at once.

    Raises:
        ValueError: when there are no weights, one is not above 0 and finite, or one has a share below 1/65,536.

    Example:
        >>> mixture = Mixture((3, 1))
        >>> mixture.order.tolist()
        [0, 0, 1, 0]
        >>> mixture.counts(1_000_001).tolist()
        [750001, 250000]

    Source: turns and deadlines are those of Baruah et al. 1996, Proportionate progress, Algorithmica 15, section 3, for one
    processor, where the earliest deadline first keeps them all (Tijdeman 1980, The chairman assignment problem).
    """

    weights: tuple
    seed: int = 0

    def __post_init__(self):
        if not len(self.weights):
            raise ValueError("weights must hold at least one number; got none")
        for weight in self.weights:
            if not 0 < weight < math.inf:
                raise ValueError(f"weights must be above 0 and finite; got {weight}")
        whole = self._whole
        if min(whole) * _LONGEST_PERIOD < sum(whole):
            least = f"{min(self.weights)} of {sum(self.weights)}"
            raise ValueError(f"weights must each be at least 1/{_LONGEST_PERIOD} of their sum; got {least}")

    @property
    def _whole(self):
        """Whole numbers without a common divisor, in the ratios of the weights."""
        exact = [fractions.Fraction(str(weight)) for weight in self.weights]
        unit = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * unit) for weight in exact]
        return [number // math.gcd(*whole) for number in whole]

    @functools.cached_property
    def turns(self):
        """int64 [M], turns of each corpus in a period."""
        whole = self._whole
        total, period = sum(whole), min(sum(whole), _LONGEST_PERIOD)
        turns = [number * period // total for number in whole]
        missing = sorted(range(len(whole)), key=lambda corpus: -(whole[corpus] * period % total))[: period - sum(turns)]
        return np.array([count + (corpus in missing) for corpus, count in enumerate(turns)], np.int64)

    @functools.cached_property
    def order(self):
        """int64 [P], the corpus of each element of a period."""
        turns = self.turns.tolist()
        period = sum(turns)
        order, ties = np.empty(period, np.int64), np.random.default_rng(self.seed).permutation(period).tolist()
        # Turn n of a corpus with c turns may not come before n P / c, and must come before (n + 1) P / c.
        coming = [(0, corpus, 0) for corpus in range(len(turns))]  # (first place, corpus, turn)
        due = []  # (place that it must be before, tie, corpus, turn)
        for place in range(period):
            while coming and coming[0][0] <= place:
                _, corpus, turn = heapq.heappop(coming)
                tie = ties[(place + corpus) % period]
                heapq.heappush(due, (-(-(turn + 1) * period // turns[corpus]), tie, corpus, turn))
            _, _, corpus, turn = heapq.heappop(due)
            order[place] = corpus
            if turn + 1 < turns[corpus]:
                heapq.heappush(coming, ((turn + 1) * period // turns[corpus], corpus, turn + 1))
        return order

    @functools.cached_property
    def _before(self):
        """int64 [P + 1, M], elements of each corpus before each place of a period."""
        given = self.order[:, None] == np.arange(len(self.turns))
        return np.concatenate([np.zeros([1, len(self.turns)], np.int64), np.cumsum(given, axis=0)])

    def counts(self, step):
        """Returns int64 [M], how many of the elements 0 to `step - 1` each corpus gives."""
        periods, rest = divmod(step, len(self.order))
        return periods * self.turns + self._before[rest]


def mix_datasets(datasets, weights, *, seed=0, start_step=0):
    """Mixes corpora into one endless stream in fixed proportions: batches, or rows, as the data sets give them.

    Which corpus gives element k is a function of `(seed, k)`; each goes on in its own order, pass after pass. After any number
    of elements every corpus has given its share within one element (see `Mixture`).

    Args:
        datasets: list of `tf.data.Dataset`, or of functions of an int step that make one which goes on there, such as
            `lambda step: lm_dataset(ids, epochs=None, start_step=step)`. With functions, `start_step` is instant; a
            data set is read through up to there.
        weights: numbers above 0, one for each data set; only their ratios count.
        seed: int, decides whose turn it is where several are due at once.
        start_step: int >= 0, elements to pass over.

    Returns:
        `tf.data.Dataset` of the elements of the data sets, endless.

    Raises:
        ValueError: when there are no data sets or not as many weights, a weight is not above 0, elements differ in structure,
            dtype or rank, a data set is empty, or `start_step` is below 0.

    Example:
        >>> letters = [tf.data.Dataset.from_tensor_slices(list(word)) for word in ("abc", "XY")]
        >>> b"".join(mix_datasets(letters, [2, 1]).take(9).as_numpy_iterator())
        b'abXcaYbcX'
    """
    datasets, weights = list(datasets), list(weights)
    if not datasets or len(datasets) != len(weights):
        raise ValueError(f"weights must be as many as datasets, at least one; got {len(weights)} for {len(datasets)}")
    if start_step < 0:
        raise ValueError(f"start_step must be at least 0; got {start_step}")
    mixture = Mixture(tuple(weights), seed)
    parts = []
    for dataset, count in zip(datasets, mixture.counts(start_step).tolist(), strict=True):
        part = dataset(count) if callable(dataset) else dataset.repeat().skip(count)
        if part.cardinality() == 0:
            raise ValueError(f"datasets must hold at least one element each; got none in number {len(parts)}")
        parts.append(part.repeat())
    _check_alike(parts)
    order, period = tf.constant(mixture.order), len(mixture.order)
    turns = tf.data.Dataset.counter(start_step).map(lambda step: tf.gather(order, step % period))
    return tf.data.Dataset.choose_from_datasets(parts, turns)


def _check_alike(datasets):
    first = datasets[0].element_spec
    for number, dataset in enumerate(datasets):
        try:
            alike = all(
                a.dtype == b.dtype and a.shape.rank == b.shape.rank
                for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(dataset.element_spec), strict=True)
            )
            tf.nest.assert_same_structure(first, dataset.element_spec)
        except (TypeError, ValueError):
            alike = False
        if not alike:
            raise ValueError(
                f"datasets must have elements of one kind, {first}; got {dataset.element_spec} in number {number}"
            )
