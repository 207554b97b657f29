"""The one contract of all scores: a score is a function of a sum of statistics, of which every example gives a row.

So corpus BLEU, F1, perplexity and error rates are one thing. What is added up over uneven batches is the number of their
union; a bootstrap draws rows instead of texts, and never scores a text twice; two systems are compared by swapping rows.

Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Koehn 2004, "Statistical Significance
Tests for Machine Translation Evaluation"; Riezler and Maxwell 2005, "On Some Pitfalls in Automatic Evaluation and Significance
Testing for MT" (approximate randomization).
"""

import abc
import dataclasses

import keras
import numpy as np
import tensorflow as tf

_MOST_DRAWS = 2**22  # numbers in a block of resamples: 32 MB


@dataclasses.dataclass(frozen=True)
class Metric(abc.ABC):
    """A score of predictions beside references.

    Concrete metrics are frozen dataclasses, whose fields are their settings. All say here what they take; unless they say
    otherwise, references and predictions are lists of equal length, at least 1.

    Attributes:
        name: str, such as "f1_macro".
        higher_is_better: bool.
        num_statistics: int K, numbers that an example gives.
    """

    higher_is_better = True

    @property
    @abc.abstractmethod
    def name(self):
        """str, such as "f1_macro"."""

    @property
    @abc.abstractmethod
    def num_statistics(self):
        """int K, numbers that an example gives."""

    @abc.abstractmethod
    def statistics(self, references, predictions):
        """Returns float64 [N, K], what every example adds to the sum that `score` reads."""

    @abc.abstractmethod
    def score(self, sums):
        """Returns float64 [...], the scores of sums float64 [..., K]."""

    def settled(self, references, *systems):
        """Returns the metric with what was left open found in references and the predictions of systems, such as labels.

        Rows of statistics can be put together only if one metric made them, so what is open must be settled first.
        """
        return self

    def __call__(self, references, predictions):
        """Returns float, the score of all examples together."""
        metric = self.settled(references, predictions)
        return float(metric.score(metric.statistics(references, predictions).sum(0)))

    def examples(self, references, predictions):
        """Returns float64 [N], the score of every example alone."""
        metric = self.settled(references, predictions)
        return metric.score(metric.statistics(references, predictions))

    def tensor_statistics(self, references, predictions):
        """Returns float64 [N, K] of tensors, for `KerasMetric`: by a call to the host, where a metric has no graph of its own."""

        def on_host(references, predictions):
            return self.statistics(_plain(references), _plain(predictions))

        rows = tf.numpy_function(on_host, [references, predictions], tf.float64)
        return tf.ensure_shape(rows, [None, self.num_statistics])

    def get_config(self):
        """Returns dict, the settings, for Keras to save."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config):
        """Makes the metric of a `get_config`, as JSON gives it back."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()})

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable("tfllm.evaluation")(cls)


@dataclasses.dataclass(frozen=True)
class MeanMetric(Metric):
    """A metric that is the mean of what every example has alone; concrete ones supply `name` and `values`."""

    num_statistics = 2

    @abc.abstractmethod
    def values(self, references, predictions):
        """Returns float64 [N], the score of every example."""

    def statistics(self, references, predictions):
        values = np.asarray(self.values(references, predictions), np.float64)
        return np.stack([values, np.ones_like(values)], 1)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        return ratio(sums[..., 0], sums[..., 1])


@dataclasses.dataclass(frozen=True)
class Mean(MeanMetric):
    """The mean of numbers, such as scores of examples: the predictions; references are only counted.

    Example:
        >>> Mean()(["a", "b"], [1.0, 0.5])
        0.75
    """

    name = "mean"

    def values(self, references, predictions):
        return check_pairs(references, predictions)[1]


def ratio(above, below):
    """Returns float64, `above / below` of arrays, and 0 where `below` is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)


def check_pairs(references, predictions):
    """Refuses what cannot be set beside one another.

    Args:
        references, predictions: lists, tuples or arrays.

    Returns:
        (list, list), both as lists.

    Raises:
        ValueError: when one is no list, there is none, or they are not as many.
    """
    pair = []
    for name, values in (("references", references), ("predictions", predictions)):
        if (
            isinstance(values, str | bytes | dict)
            or not hasattr(values, "__len__")
            or not hasattr(values, "__getitem__")
        ):
            raise ValueError(f"{name} must be a list, one entry an example; got {type(values).__name__}")
        pair.append(list(values))
    if len(pair[0]) != len(pair[1]):
        raise ValueError(f"predictions must be as many as references, {len(pair[0])}; got {len(pair[1])}")
    if not pair[0]:
        raise ValueError("references must be at least one; got none")
    return tuple(pair)


def check_texts(references, predictions, *, several=False):
    """Refuses what are no texts beside one another.

    Args:
        references: list of str; with `several` its entries may be lists of str, any of which is right.
        predictions: list of str.
        several: bool.

    Returns:
        (list, list): the references, with `several` all as lists, and the predictions.

    Raises:
        ValueError: as `check_pairs`, when an entry is no str, or a list of references is empty.
    """
    references, predictions = check_pairs(references, predictions)
    for at, prediction in enumerate(predictions):
        if not isinstance(prediction, str):
            raise ValueError(f"predictions must be str; got {type(prediction).__name__} in number {at}")
    if not several:
        for at, reference in enumerate(references):
            if not isinstance(reference, str):
                raise ValueError(f"references must be str; got {type(reference).__name__} in number {at}")
        return references, predictions
    lists = [[each] if isinstance(each, str) else each for each in references]
    for at, each in enumerate(lists):
        if not isinstance(each, list | tuple) or not each or not all(isinstance(text, str) for text in each):
            rule = "str, or lists of str that are not empty"
            raise ValueError(f"references must be {rule}; got {references[at]!r:.80} in number {at}")
    return lists, predictions


def bootstrap_interval(metric, statistics, *, level=0.95, samples=1000, seed=0):
    """Says how far the score of as many other examples of the same kind may lie away: a percentile interval.

    Args:
        metric: `Metric`.
        statistics: float [N, K], its statistics; of several batches, their rows one after another.
        level: float in (0, 1), the probability of the interval.
        samples: int >= 1, how many times N rows are drawn with replacement.
        seed: int >= 0.

    Returns:
        (float, float), its ends.

    Raises:
        ValueError: when an argument breaks its rule.

    Example:
        >>> from tfllm.evaluation import Accuracy
        >>> metric = Accuracy()
        >>> low, high = bootstrap_interval(metric, metric.statistics(["a", "b"] * 50, ["a", "c"] * 50))
        >>> 0.35 < low < 0.5 < high < 0.65
        True
    """
    statistics = _check_rows("statistics", metric, statistics)
    _check_draws(level, samples, seed)
    sums = [counts @ statistics for counts in _resamples(len(statistics), samples, seed)]
    low, high = _interval(metric.score(np.concatenate(sums)), level)
    return low, high


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """How two systems differ on the same examples.

    Attributes:
        difference: float, the score of the first less that of the second.
        low, high: float, the ends of its interval, by the paired bootstrap.
        p_value: float in (0, 1], how often chance alone makes as large a difference, either way: approximate randomization.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_test(metric, statistics_a, statistics_b, *, level=0.95, samples=1000, seed=0):
    """Says whether two systems differ by more than chance.

    If they did not, it would not matter which of the two gave which answer: the p-value is the share of random swaps, row by row,
    that part the scores as far as they are.

    Args:
        metric: `Metric`.
        statistics_a, statistics_b: float [N, K], its statistics of both systems for the same examples in the same order.
        level: float in (0, 1), the probability of the interval.
        samples: int >= 1, draws of each kind; p-values below 1 / (samples + 1) are not told apart.
        seed: int >= 0.

    Returns:
        `PairedTest`.

    Raises:
        ValueError: when an argument breaks its rule, or the two have not as many rows.

    Example:
        >>> from tfllm.evaluation import Accuracy
        >>> metric, right = Accuracy(), ["a"] * 40
        >>> a, b = metric.statistics(right, right), metric.statistics(right, ["a"] * 30 + ["b"] * 10)
        >>> found = paired_test(metric, a, b)
        >>> found.difference, found.low > 0, found.p_value < 0.01
        (0.25, True, True)
    """
    a, b = _check_rows("statistics_a", metric, statistics_a), _check_rows("statistics_b", metric, statistics_b)
    if len(a) != len(b):
        raise ValueError(f"statistics_b must have as many rows as statistics_a, {len(a)}; got {len(b)}")
    _check_draws(level, samples, seed)
    difference = float(metric.score(a.sum(0)) - metric.score(b.sum(0)))
    drawn = [metric.score(counts @ a) - metric.score(counts @ b) for counts in _resamples(len(a), samples, seed)]
    low, high = _interval(np.concatenate(drawn), level)

    random, extreme = np.random.default_rng([seed, 1]), 0
    for size in _blocks(len(a), samples):
        moved = random.integers(0, 2, [size, len(a)]).astype(np.float64) @ (b - a)
        by_chance = metric.score(a.sum(0) + moved) - metric.score(b.sum(0) - moved)
        extreme += int(
            np.sum(np.abs(by_chance) >= abs(difference) * (1 - 1e-9))
        )  # sums in another order differ a little
    return PairedTest(difference, low, high, (extreme + 1) / (samples + 1))


@keras.saving.register_keras_serializable("tfllm.evaluation")
class KerasMetric(keras.metrics.Metric):
    """Any `Metric` as a Keras one: it adds up statistics, so batches of any size give the number of their union.

    Classification and calibration metrics count in the graph; there `y_true` are int ids of labels and `y_pred` ids, or logits
    with one more axis (calibration: probabilities). Others call their Python from the graph, which XLA cannot: compile with
    `jit_compile=False`. Weights multiply the rows.

    Args:
        metric: `Metric`, settled: labels must be given, as `range(L)` where ids are compared.
        name: str, None for the metric's.

    Example:
        >>> from tfllm.evaluation import F1
        >>> metric = KerasMetric(F1(labels=range(3)))
        >>> metric.update_state([0, 1, 2], [0, 1, 1])
        >>> metric.update_state([1], [1])
        >>> print(f"{metric.result():.3f}")
        0.600
    """

    def __init__(self, metric, name=None, dtype="float64"):
        super().__init__(name=name or metric.name, dtype=dtype)
        self.metric = metric
        with keras.name_scope(self.name):
            self.sums = keras.Variable("zeros", (metric.num_statistics,), trainable=False, dtype="float64", name="sums")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch: `y_true` and `y_pred` as the metric takes them, `sample_weight` float, one number a row, or None."""
        rows = self.metric.tensor_statistics(tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred))
        if sample_weight is not None:
            rows *= tf.reshape(tf.cast(sample_weight, tf.float64), [-1, 1])
        self.sums.assign_add(tf.reduce_sum(rows, 0))

    def result(self):
        """Returns float64, the score of all that was added."""
        found = tf.numpy_function(lambda sums: np.float64(self.metric.score(sums)), [self.sums.value], tf.float64)
        return tf.ensure_shape(found, [])

    def get_config(self):
        return super().get_config() | {"metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"metric": keras.saving.deserialize_keras_object(config["metric"])})


def _plain(values):
    """Returns nested lists of an array, its bytes as str."""

    def text(value):
        if isinstance(value, list):
            return [text(each) for each in value]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    return text(values.tolist())


def _check_rows(name, metric, rows):
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != metric.num_statistics:
        raise ValueError(
            f"{name} must have the shape [N, {metric.num_statistics}] with N of at least 1; got {list(rows.shape)}"
        )
    return rows


def _check_draws(level, samples, seed):
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); got {level}")
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}; got {value!r}")


def _blocks(rows, samples):
    """Yields ints that sum to `samples`, so many resamples at a time as fit into the memory."""
    size = max(_MOST_DRAWS // rows, 1)
    for at in range(0, samples, size):
        yield min(size, samples - at)


def _resamples(rows, samples, seed):
    """Yields float64 [.., N], how often every row is drawn; the same draws for one seed."""
    random = np.random.default_rng([seed, 0])
    for size in _blocks(rows, samples):
        yield random.multinomial(rows, np.full(rows, 1 / rows), size=size).astype(np.float64)


def _interval(scores, level):
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
