"""Scores of search: references say which documents answer each query, predictions are ranked lists of documents, best first.

Source: Järvelin and Kekäläinen 2002, "Cumulated Gain-Based Evaluation of IR Techniques" (nDCG, here with the gains as they are).
"""

import abc
import dataclasses

import numpy as np

from tfllm.evaluation.metric import MeanMetric, check_pairs


@dataclasses.dataclass(frozen=True)
class _OfRanks(MeanMetric):
    k: int = 10

    def __post_init__(self):
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k must be an int of at least 1; got {self.k!r}")

    @abc.abstractmethod
    def of_query(self, gains, best):
        """Returns float of the gains [..] of the first k documents and those [..] of all that are relevant, falling."""

    def values(self, references, predictions):
        references, predictions = check_pairs(references, predictions)
        values = []
        for at, (relevant, ranked) in enumerate(zip(references, predictions, strict=True)):
            if isinstance(relevant, str | bytes) or not hasattr(relevant, "__len__"):
                relevant = [relevant]
            gains = dict(relevant) if isinstance(relevant, dict) else dict.fromkeys(relevant, 1.0)
            gains = {document: float(gain) for document, gain in gains.items() if gain}
            if not gains or min(gains.values()) < 0:
                raise ValueError(
                    f"references must name a relevant document, gains above 0; got {relevant!r:.80} in number {at}"
                )
            if isinstance(ranked, str | bytes) or not hasattr(ranked, "__len__"):
                raise ValueError(f"predictions must be lists of documents; got {ranked!r:.80} in number {at}")
            ranked = list(ranked)
            if len(set(ranked)) < len(ranked):
                raise ValueError(f"predictions must name a document once; got {ranked!r:.80} in number {at}")
            found = np.array([gains.get(document, 0.0) for document in ranked[: self.k]])
            values.append(self.of_query(found, np.sort(list(gains.values()))[::-1]))
        return values


@dataclasses.dataclass(frozen=True)
class ReciprocalRank(_OfRanks):
    """Mean reciprocal rank: 1 over the place of the first relevant document among the first k, else 0.

    References are a document, or a list of them, for every query; predictions its ranked documents.

    Args:
        k: int >= 1.

    Example:
        >>> ReciprocalRank()([3, [5, 6]], [[3, 1], [2, 6]])
        0.75
    """

    @property
    def name(self):
        return f"mrr@{self.k}"

    def of_query(self, gains, best):
        return 1 / (1 + np.argmax(gains > 0)) if (gains > 0).any() else 0.0


@dataclasses.dataclass(frozen=True)
class RecallAt(_OfRanks):
    """The share of relevant documents that is among the first k; references and predictions as for `ReciprocalRank`.

    Args:
        k: int >= 1.

    Example:
        >>> RecallAt(2)([[5, 6]], [[2, 6, 5]])
        0.5
    """

    @property
    def name(self):
        return f"recall@{self.k}"

    def of_query(self, gains, best):
        return (gains > 0).sum() / len(best)


@dataclasses.dataclass(frozen=True)
class NDCG(_OfRanks):
    """Normalized discounted cumulative gain of the first k: their gains over log2(1 + place), beside the best order's.

    References are as for `ReciprocalRank`, or dicts of documents to gains above 0.

    Args:
        k: int >= 1.

    Example:
        >>> print(f"{NDCG()([{3: 2.0, 4: 1.0}], [[4, 3]]):.4f}")
        0.8597
    """

    @property
    def name(self):
        return f"ndcg@{self.k}"

    def of_query(self, gains, best):
        return _discounted(gains) / _discounted(best[: self.k])


def _discounted(gains):
    return (gains / np.log2(np.arange(len(gains)) + 2)).sum()
