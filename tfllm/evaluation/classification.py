"""Accuracy, precision, recall and F1 of labels, one an example; the confusion matrix; the scores of every class.

What would be divided by 0 (the precision of a label that is never predicted) is 0, as in scikit-learn with `zero_division=0`.
Left out: several labels an example.
"""

import abc
import dataclasses
from collections.abc import Hashable

import numpy as np
import tensorflow as tf

from tfllm.evaluation.metric import MeanMetric, Metric, check_pairs, ratio

AVERAGES = ("macro", "micro", "weighted")


@dataclasses.dataclass(frozen=True)
class Accuracy(MeanMetric):
    """The share of examples whose label is right.

    Args:
        labels: the labels there are, or None for any.

    Example:
        >>> Accuracy()(["a", "b", "b"], ["a", "b", "a"])
        0.6666666666666666
    """

    labels: tuple | None = None
    name = "accuracy"

    def __post_init__(self):
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels))

    def values(self, references, predictions):
        references, predictions = check_pairs(references, predictions)
        if self.labels is not None:
            return np.equal(*encode_labels(references, predictions, self.labels))
        return [a == b for a, b in zip(references, predictions, strict=True)]

    def tensor_statistics(self, references, predictions):
        references, predictions = label_ids(references, predictions)
        right = tf.cast(references == predictions, tf.float64)
        return tf.stack([right, tf.ones_like(right)], 1)


@dataclasses.dataclass(frozen=True)
class _OfLabels(Metric):
    """A score of counts: of every label, how often it is right, predicted and there."""

    labels: tuple | None = None
    average: str = "macro"
    label: Hashable | None = None

    def __post_init__(self):
        if self.average not in AVERAGES:
            raise ValueError(f"average must be one of {AVERAGES}; got {self.average!r}")
        if self.labels is not None:
            object.__setattr__(self, "labels", check_labels(self.labels))
            if self.label is not None and self.label not in self.labels:
                raise ValueError(f"label must be among labels, {_some(self.labels)}; got {self.label!r}")

    @property
    @abc.abstractmethod
    def measure(self):
        """str, the name without that of the average."""

    @abc.abstractmethod
    def of_counts(self, right, predicted, there):
        """Returns float64, the score of counts of any shape."""

    @property
    def name(self):
        return f"{self.measure}_{self.average}" if self.label is None else f"{self.measure}[{self.label}]"

    @property
    def num_statistics(self):
        return 3 * len(self._known())

    def settled(self, references, *systems):
        if self.labels is not None:
            return self
        found = find_labels(references, *systems)
        if self.label is not None and self.label not in found:
            found = (*found, self.label)
        return dataclasses.replace(self, labels=found)

    def statistics(self, references, predictions):
        labels, (references, predictions) = self._known(), check_pairs(references, predictions)
        references, predictions = encode_labels(references, predictions, labels)
        rows, every = np.zeros([len(references), 3, len(labels)]), np.arange(len(references))
        rows[every, 0, references] = references == predictions
        rows[every, 1, predictions] = 1
        rows[every, 2, references] = 1
        return rows.reshape(len(rows), -1)

    def tensor_statistics(self, references, predictions):
        labels = self._known()
        if labels != tuple(range(len(labels))):
            raise ValueError(f"labels must be range(L) where ids are compared; got {_some(labels)}")
        references, predictions = label_ids(references, predictions)
        for ids in (references, predictions):
            tf.debugging.assert_less(ids, len(labels), "ids of labels must be below their number")
        there, predicted = (tf.one_hot(ids, len(labels), dtype=tf.float64) for ids in (references, predictions))
        return tf.concat([there * predicted, predicted, there], 1)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        counts = sums.reshape(*sums.shape[:-1], 3, -1)
        if self.label is not None:
            counts = counts[..., [self._known().index(self.label)]]
        if self.label is None and self.average == "micro":
            counts = counts.sum(-1, keepdims=True)
        right, predicted, there = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
        scores = self.of_counts(right, predicted, there)
        if self.label is None and self.average == "weighted":
            return ratio((scores * there).sum(-1), there.sum(-1))
        return scores.mean(-1)

    def _known(self):
        if self.labels is None:
            raise ValueError("labels must be given where statistics are added up (see Metric.settled); got None")
        return self.labels


@dataclasses.dataclass(frozen=True)
class Precision(_OfLabels):
    """How many of those that were given a label have it.

    Args:
        labels: the labels there are, of any kind that is hashable; None finds them in what is compared.
        average: "macro", the mean over labels; "micro", of all labels' counts together; "weighted", the mean by how often a label
            is there.
        label: one of the labels, whose own score this is; None for the average.

    Example:
        >>> Precision(label="a")(["a", "b", "b"], ["a", "a", "b"])
        0.5
    """

    measure = "precision"

    def of_counts(self, right, predicted, there):
        return ratio(right, predicted)


@dataclasses.dataclass(frozen=True)
class Recall(_OfLabels):
    """How many of those that have a label were given it.

    Args:
        labels, average, label: as for `Precision`.

    Example:
        >>> Recall(label="b")(["a", "b", "b"], ["a", "a", "b"])
        0.5
    """

    measure = "recall"

    def of_counts(self, right, predicted, there):
        return ratio(right, there)


@dataclasses.dataclass(frozen=True)
class F1(_OfLabels):
    """The harmonic mean of precision and recall.

    Args:
        labels, average, label: as for `Precision`.

    Example:
        >>> print(f'{F1()(["a", "b", "b"], ["a", "a", "b"]):.4f}')
        0.6667
    """

    measure = "f1"

    def of_counts(self, right, predicted, there):
        return ratio(2 * right, predicted + there)


def confusion_matrix(references, predictions, labels=None):
    """Counts which label is taken for which.

    Args:
        references, predictions: lists of labels.
        labels: the labels in the order wanted; None finds them.

    Returns:
        (int64 [L, L], tuple of labels): examples by the label they have (rows) and the one they were given (columns).

    Example:
        >>> confusion_matrix(["a", "b", "b"], ["a", "a", "b"])
        (array([[1, 0],
               [1, 1]]), ('a', 'b'))
    """
    references, predictions = check_pairs(references, predictions)
    labels = find_labels(references, predictions) if labels is None else check_labels(labels)
    counts = np.zeros([len(labels), len(labels)], np.int64)
    np.add.at(counts, encode_labels(references, predictions, labels), 1)
    return counts, labels


def class_scores(references, predictions, labels=None):
    """Says how well every class is told.

    Args:
        references, predictions, labels: as for `confusion_matrix`.

    Returns:
        dict of label to `{"precision", "recall", "f1"}` in [0, 1] and `"support"`, int, how often the label is there.
    """
    counts, labels = confusion_matrix(references, predictions, labels)
    right, predicted, there = counts.diagonal(), counts.sum(0), counts.sum(1)
    scores = [ratio(right, predicted), ratio(right, there), ratio(2 * right, predicted + there)]
    names = ("precision", "recall", "f1")
    return {
        label: {name: float(values[at]) for name, values in zip(names, scores, strict=True)}
        | {"support": int(there[at])}
        for at, label in enumerate(labels)
    }


def check_labels(labels):
    """Returns tuple of labels, or raises ValueError where there is none, or one twice."""
    found = tuple(labels)
    if isinstance(labels, str) or not found or len(set(found)) < len(found):
        raise ValueError(f"labels must be at least one, each once; got {labels!r:.80}")
    return found


def find_labels(*lists):
    """Returns tuple of the different labels of lists, numbers before texts, each in its order."""
    found = {label for labels in lists for label in labels}
    return tuple(sorted(found, key=lambda label: (isinstance(label, str), type(label).__name__, label)))


def encode_labels(references, predictions, labels):
    """Returns (int [N], int [N]), places among labels; ValueError on one that is not there."""
    place, pair = {label: at for at, label in enumerate(labels)}, []
    for name, values in (("references", references), ("predictions", predictions)):
        unknown = [value for value in values if value not in place]
        if unknown:
            raise ValueError(f"{name} must be among labels, {_some(labels)}; got {unknown[0]!r}")
        pair.append(np.array([place[value] for value in values], np.int64))
    return tuple(pair)


def label_ids(references, predictions):
    """Returns (int32 [N], int32 [N]) of tensors of any shape: ids, or float predictions with one more axis for the labels."""
    if predictions.dtype.is_floating:
        predictions = tf.argmax(predictions, -1)
    return tuple(tf.reshape(tf.cast(ids, tf.int32), [-1]) for ids in (references, predictions))


def _some(labels):
    return ", ".join(map(repr, labels[:8])) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
