"""Scores of short answers: exact match, F1 of words, and METEOR of words that are the same.

Exact match and F1 are those of SQuAD, with its normalization: lower case, without punctuation (that of ASCII) and without the
articles a, an and the. METEOR is that of 2005 with its first module alone: no stems, no synonyms.

Sources: Rajpurkar et al. 2016, arXiv:1606.05250, and 2018, arXiv:1806.03822; Banerjee and Lavie 2005, "METEOR: An Automatic
Metric for MT Evaluation with Improved Correlation with Human Judgments", section 2.2.
"""

import collections
import dataclasses
import re
import string

import numpy as np

from tfllm.evaluation.metric import MeanMetric, Metric, check_texts, ratio

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text):
    """Makes answers equal that differ in case, ASCII punctuation, articles or white space.

    Example:
        >>> normalize_answer("The  Eiffel-Tower!")
        'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


@dataclasses.dataclass(frozen=True)
class ExactMatch(MeanMetric):
    """The share of predictions that are one of their references.

    A reference is a str, or a list of them.

    Args:
        normalize: bool, whether both go through `normalize_answer` first.

    Example:
        >>> ExactMatch()([["the cat", "a dog"], "mat"], ["Dog.", "the hat"])
        0.5
    """

    normalize: bool = True
    name = "exact_match"

    def values(self, references, predictions):
        references, predictions = check_texts(references, predictions, several=True)
        clean = normalize_answer if self.normalize else str
        return [
            clean(prediction) in {clean(text) for text in texts}
            for texts, prediction in zip(references, predictions, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class TokenF1(MeanMetric):
    """The mean F1 of the words that a prediction shares with the reference that fits best, both normalized.

    A reference is a str, or a list of them. Where one of the two has no words, equality decides, as in SQuAD 2.0.

    Args:
        unit: "word", or "character" for Chinese.

    Example:
        >>> TokenF1()(["the black cat"], ["a cat"])
        0.6666666666666666
    """

    unit: str = "word"
    name = "token_f1"

    def __post_init__(self):
        check_unit(self.unit)

    def values(self, references, predictions):
        references, predictions = check_texts(references, predictions, several=True)
        return [
            max(self._f1(text, prediction) for text in texts)
            for texts, prediction in zip(references, predictions, strict=True)
        ]

    def _f1(self, reference, prediction):
        reference, prediction = (split_units(normalize_answer(text), self.unit) for text in (reference, prediction))
        if not reference or not prediction:
            return float(reference == prediction)
        shared = sum((collections.Counter(reference) & collections.Counter(prediction)).values())
        return 2 * shared / (len(reference) + len(prediction))


@dataclasses.dataclass(frozen=True)
class Meteor(Metric):
    """METEOR of words that are the same, of a whole corpus: precision, recall and order, in [0, 1].

    `F = 10 P R / (R + 9 P)`, less half of its share `(chunks / matches)^3`; counts of all examples are added up first. Words are
    matched as often as they can be; the longest runs that both have are matched first, which makes few chunks, though not always
    the fewest. Words are separated by white space; case counts nothing.

    Args:
        unit: "word", or "character" for Chinese.

    Example:
        >>> print(f'{Meteor()(["the cat sat"], ["the cat sat"]):.4f}')
        0.9815
    """

    unit: str = "word"
    num_statistics = 4
    name = "meteor_exact"

    def __post_init__(self):
        check_unit(self.unit)

    def statistics(self, references, predictions):
        references, predictions = check_texts(references, predictions)
        rows = []
        for texts in zip(references, predictions, strict=True):
            reference, prediction = (split_units(text.lower(), self.unit) for text in texts)
            matches, chunks = _align(reference, prediction)
            rows.append([matches, len(prediction), len(reference), chunks])
        return np.array(rows, np.float64)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        matches, predicted, there, chunks = (sums[..., at] for at in range(4))
        precision, recall = ratio(matches, predicted), ratio(matches, there)
        return ratio(10 * precision * recall, recall + 9 * precision) * (1 - 0.5 * ratio(chunks, matches) ** 3)


def check_unit(unit):
    """Raises ValueError unless a unit of text is "word" or "character"."""
    if unit not in ("word", "character"):
        raise ValueError(f"unit must be 'word' or 'character'; got {unit!r}")


def split_units(text, unit):
    """Returns list of str: the words between white space, or the characters but white space."""
    return text.split() if unit == "word" else [character for character in text if not character.isspace()]


def _align(reference, prediction):
    """Returns (int, int): words of the prediction that are matched, each with one of the reference, and the runs they make."""
    free_rows, free_columns = np.ones(len(reference), bool), np.ones(len(prediction), bool)
    ids = {word: at for at, word in enumerate(dict.fromkeys([*reference, *prediction]))}
    rows, columns = (np.array([ids[word] for word in words], np.int64) for words in (reference, prediction))
    partner = np.full(len(prediction), -2)
    while True:
        same = (rows[:, None] == columns) & free_rows[:, None] & free_columns
        if not same.any():
            break
        runs = np.zeros([len(reference) + 1, len(prediction) + 1], np.int64)  # lengths of the runs that end there
        for at in range(len(reference)):
            runs[at + 1, 1:] = (runs[at, :-1] + 1) * same[at]
        row, column = np.unravel_index(int(runs.argmax()), runs.shape)
        size = int(runs[row, column])
        free_rows[row - size : row] = False
        free_columns[column - size : column] = False
        partner[column - size : column] = np.arange(row - size, row)
    matched = partner >= 0
    goes_on = matched[1:] & (partner[1:] == partner[:-1] + 1)
    return int(matched.sum()), int(matched.sum() - goes_on.sum())
