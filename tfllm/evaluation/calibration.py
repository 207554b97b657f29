"""Whether probabilities mean what they say: of all that is said with 70 % confidence, 70 % should be right.

Source: Guo et al. 2017, arXiv:1706.04599 (expected calibration error, reliability diagrams, temperature scaling).
"""

import dataclasses

import numpy as np
import scipy.optimize
import scipy.special
import tensorflow as tf

from tfllm.evaluation.metric import Metric, check_pairs, ratio

_TEMPERATURES = 0.02, 50.0


@dataclasses.dataclass(frozen=True)
class CalibrationError(Metric):
    """Expected calibration error: how far, on average, the confidence of answers is from the share of them that is right.

    References are int ids of labels; predictions are probabilities, [N, L], whose largest is the answer's confidence.

    Args:
        bins: int >= 1, equal parts of (0, 1] within which confidences are averaged.

    Raises:
        ValueError: also when a row is no distribution or an id is not below L.

    Example:
        >>> print(f"{CalibrationError()([0, 1], [[0.8, 0.2], [0.8, 0.2]]):.2f}")
        0.30
    """

    bins: int = 15
    higher_is_better = False
    name = "ece"

    def __post_init__(self):
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 1:
            raise ValueError(f"bins must be an int of at least 1; got {self.bins!r}")

    @property
    def num_statistics(self):
        return 3 * self.bins

    def statistics(self, references, predictions):
        """Returns float64 [N, 3 * bins]: whether an answer lies in each bin, and there its confidence and whether it is right."""
        references, predictions = check_pairs(references, predictions)
        shares = np.asarray(predictions, np.float64)
        ids = check_ids(("references", "predictions"), references, shares)
        if not ((shares >= 0).all() and np.allclose(shares.sum(1), 1, atol=1e-3)):
            raise ValueError(
                "predictions must be rows of probabilities that sum to 1; got others (softmax makes logits so)"
            )
        return self.of_confidence(shares.max(1), shares.argmax(1) == ids)

    def of_confidence(self, confidence, right):
        """Returns float64 [N, 3 * bins], the statistics of float [N] confidences and bool [N], whether the answers are right."""
        confidence = np.asarray(confidence, np.float64)
        bins = np.clip(np.ceil(confidence * self.bins).astype(np.int64) - 1, 0, self.bins - 1)
        rows, every = np.zeros([len(confidence), 3, self.bins]), np.arange(len(confidence))
        rows[every, 0, bins] = 1
        rows[every, 1, bins] = confidence
        rows[every, 2, bins] = right
        return rows.reshape(len(rows), -1)

    def tensor_statistics(self, references, predictions):
        confidence = tf.reshape(tf.cast(tf.reduce_max(predictions, -1), tf.float64), [-1])
        right = tf.cast(tf.argmax(predictions, -1, tf.int32) == tf.cast(references, tf.int32), tf.float64)
        bins = tf.clip_by_value(tf.cast(tf.math.ceil(confidence * self.bins), tf.int32) - 1, 0, self.bins - 1)
        place = tf.one_hot(bins, self.bins, dtype=tf.float64)
        return tf.concat([place, place * confidence[:, None], place * tf.reshape(right, [-1, 1])], 1)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        count, confidence, right = (sums[..., at * self.bins : (at + 1) * self.bins] for at in range(3))
        return ratio(np.abs(confidence - right).sum(-1), count.sum(-1))

    def diagram(self, sums):
        """Says what a reliability diagram shows.

        Args:
            sums: float [3 * bins], summed statistics.

        Returns:
            dict of float64 [bins]: `"count"` answers, their mean `"confidence"` and their `"accuracy"`, NaN in empty bins.
        """
        count, confidence, right = np.asarray(sums, np.float64).reshape(3, self.bins)
        with np.errstate(invalid="ignore"):
            return {"count": count, "confidence": confidence / count, "accuracy": right / count}


def fit_temperature(logits, labels):
    """Finds the temperature that makes a classifier's probabilities fit: `softmax(logits / temperature)`.

    It changes no answer, only the confidence. Fit it on examples that the classifier was not trained on.

    Args:
        logits: float [N, L].
        labels: int [N], below L.

    Returns:
        float in [0.02, 50], the temperature at which the labels are likeliest: above 1 for a model that is too sure.

    Raises:
        ValueError: when a logit is not finite, a label not below L, or there are not as many.

    Example:
        >>> sure = [[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [9.0, 0.0]]
        >>> temperature = fit_temperature(sure, [0, 0, 0, 1])
        >>> print(f"{scipy.special.softmax(np.array(sure) / temperature, 1)[0, 0]:.2f}")
        0.75
    """
    logits, labels = check_pairs(logits, labels)
    logits = np.asarray(logits, np.float64)
    labels = check_ids(("labels", "logits"), labels, logits)
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite; got some that are not")

    def nats(log_temperature):
        log_probs = scipy.special.log_softmax(logits / np.exp(log_temperature), 1)
        return -log_probs[np.arange(len(labels)), labels].mean()

    found = scipy.optimize.minimize_scalar(
        nats, bounds=np.log(_TEMPERATURES), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def check_ids(names, ids, rows):
    """Returns int64 [N], ids below the L of rows float [N, L]; ValueError, with their two names, where one is not."""
    if rows.ndim != 2:
        raise ValueError(f"{names[1]} must have the shape [N, L]; got {list(rows.shape)}")
    found = np.asarray(ids)
    if found.shape != (len(rows),) or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{names[0]} must be int ids, [N]; got {found.dtype} of shape {list(found.shape)}")
    if found.min() < 0 or found.max() >= rows.shape[1]:
        raise ValueError(f"{names[0]} must lie in [0, {rows.shape[1]}); got {found.min()} to {found.max()}")
    return found.astype(np.int64)
