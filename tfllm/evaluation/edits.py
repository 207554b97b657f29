"""Word and character error rates: how many words are to be changed, left out or put in to make the reference.

Source: Levenshtein 1966; the rates are those of speech recognition, and of the Python package jiwer.
"""

import abc
import dataclasses

import numpy as np

from tfllm.evaluation.metric import Metric, check_texts

_EDIT = (
    2**32
)  # what an edit costs; a substitution 1 more, so that of alignments with as few edits most words are matched


def edit_counts(reference, prediction):
    """Counts the fewest edits that lead from a reference to a prediction.

    Of several such alignments, the one with the most words that are the same counts.

    Args:
        reference, prediction: sequences of hashable items, such as words.

    Returns:
        (int, int, int): substitutions, deletions (items of the reference that are missing) and insertions.

    Example:
        >>> edit_counts("the cat sat".split(), "a cat sat down".split())
        (1, 0, 1)
    """
    ids = {item: at for at, item in enumerate(dict.fromkeys([*reference, *prediction]))}
    known = np.array([ids[item] for item in prediction], np.int64)
    inserted = _EDIT * np.arange(len(prediction) + 1, dtype=np.int64)
    costs = inserted.copy()
    for item in reference:
        changed = costs[:-1] + np.where(known == ids[item], 0, _EDIT + 1)
        deleted = costs + _EDIT
        best = np.concatenate([deleted[:1], np.minimum(deleted[1:], changed)])
        costs = np.minimum.accumulate(best - inserted) + inserted  # an insertion costs the same wherever it stands
    edits, substitutions = divmod(int(costs[-1]), _EDIT)
    longer = len(reference) - len(prediction)
    return substitutions, (edits - substitutions + longer) // 2, (edits - substitutions - longer) // 2


@dataclasses.dataclass(frozen=True)
class _ErrorRate(Metric):
    higher_is_better = False
    num_statistics = 4

    @abc.abstractmethod
    def split(self, text):
        """Returns the units of a text that are compared."""

    def statistics(self, references, predictions):
        """Returns float64 [N, 4]: substitutions, deletions, insertions, and units of the reference."""
        references, predictions = check_texts(references, predictions)
        rows = []
        for texts in zip(references, predictions, strict=True):
            reference, prediction = map(self.split, texts)
            rows.append([*edit_counts(reference, prediction), len(reference)])
        return np.array(rows, np.float64)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        return sums[..., :3].sum(-1) / np.maximum(sums[..., 3], 1)  # one empty reference alone counts its insertions


@dataclasses.dataclass(frozen=True)
class WordErrorRate(_ErrorRate):
    """Edits a word of the references, at least 0 and with many insertions above 1; words stand between white space.

    Example:
        >>> WordErrorRate()(["the cat sat on"], ["a cat sat"])
        0.5
    """

    name = "wer"

    def split(self, text):
        return text.split()


@dataclasses.dataclass(frozen=True)
class CharacterErrorRate(_ErrorRate):
    """Edits a character of the references; white space counts but at both ends.

    Example:
        >>> CharacterErrorRate()(["cats"], ["hat"])
        0.5
    """

    name = "cer"

    def split(self, text):
        return text.strip()
