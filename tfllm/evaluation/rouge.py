"""ROUGE: how many n-grams, or how long a common subsequence, a summary shares with a reference; as `rouge-score` counts it.

Words are its words, without its stemmer: lower-case runs of a-z and 0-9, so a text in another script has none. For those
`words="unicode"` takes runs of letters and digits of any script, each Chinese or Japanese character as one word.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
"""

import collections
import dataclasses
import re

import numpy as np

from tfllm.evaluation.metric import MeanMetric, check_texts

KINDS = ("1", "2", "3", "4", "L", "Lsum")
MEASURES = ("f1", "precision", "recall")
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = {
    "english": re.compile("[a-z0-9]+"),
    "unicode": re.compile(f"[{_IDEOGRAPHS}]|[^\\W_{_IDEOGRAPHS}]+"),
}


@dataclasses.dataclass(frozen=True)
class Rouge(MeanMetric):
    """The mean ROUGE of summaries, in [0, 1].

    A reference is a str, or a list of them, of which the one of the best F1 counts.

    Args:
        kind: "1" to "4", n-grams; "L", the longest common subsequence of all words; "Lsum", the same by sentences, which are
            lines.
        measure: "f1", "precision" or "recall".
        words: "english" or "unicode", see the top of the file.

    Example:
        >>> Rouge("2")(["the cat is here"], ["the cat sat"])
        0.4
    """

    kind: str = "L"
    measure: str = "f1"
    words: str = "english"

    def __post_init__(self):
        for name, known in (("kind", KINDS), ("measure", MEASURES), ("words", tuple(_WORDS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")

    @property
    def name(self):
        return f"rouge{self.kind}" + ("" if self.measure == "f1" else f"_{self.measure}")

    def values(self, references, predictions):
        references, predictions = check_texts(references, predictions, several=True)
        place, values = MEASURES.index(self.measure), []
        for texts, prediction in zip(references, predictions, strict=True):
            values.append(max((self._scores(text, prediction) for text in texts), key=lambda scores: scores[0])[place])
        return values

    def _scores(self, reference, prediction):
        """Returns (float F1, float precision, float recall)."""
        if self.kind == "Lsum":
            reference, prediction = (
                [self._words(line) for line in text.split("\n") if line] for text in (reference, prediction)
            )
            shared = _shared_by_lines(reference, prediction)
            sizes = sum(map(len, prediction)), sum(map(len, reference))
        else:
            reference, prediction = self._words(reference), self._words(prediction)
            if self.kind == "L":
                shared = int(_subsequence_table(reference, prediction)[-1, -1])
            else:
                reference, prediction = (_ngrams(words, int(self.kind)) for words in (reference, prediction))
                shared = sum((reference & prediction).values())
            sizes = [sum(each.values()) if isinstance(each, dict) else len(each) for each in (prediction, reference)]
        precision, recall = (shared / max(size, 1) for size in sizes)
        return 2 * precision * recall / (precision + recall) if shared else 0.0, precision, recall

    def _words(self, text):
        return _WORDS[self.words].findall(text.lower())


def _ngrams(words, n):
    return collections.Counter(zip(*(words[at:] for at in range(n)), strict=False))


def _subsequence_table(reference, prediction):
    """Returns int [N + 1, M + 1], the lengths of the longest common subsequences of all beginnings."""
    ids = {word: at for at, word in enumerate(dict.fromkeys([*reference, *prediction]))}
    known = np.array([ids[word] for word in prediction], np.int64)
    table = np.zeros([len(reference) + 1, len(prediction) + 1], np.int32)
    for at, word in enumerate(reference):
        before = table[at]
        table[at + 1, 1:] = np.maximum.accumulate(np.maximum(before[1:], before[:-1] + (known == ids[word])))
    return table


def _shared_places(reference, prediction):
    """Returns set of int, the places of one longest common subsequence in the reference.

    Of several, the one that is found from the end by stepping back in the reference where both ways are as good.
    """
    table, places = _subsequence_table(reference, prediction), set()
    row, column = len(reference), len(prediction)
    while row and column:
        if reference[row - 1] == prediction[column - 1]:
            row, column = row - 1, column - 1
            places.add(row)
        elif table[row, column - 1] > table[row - 1, column]:
            column -= 1
        else:
            row -= 1
    return places


def _shared_by_lines(reference, prediction):
    """Returns int, words of the reference's lines that a line of the prediction has in order, none more often than either."""
    left = collections.Counter(word for line in reference for word in line)
    left &= collections.Counter(word for line in prediction for word in line)
    shared = 0
    for line in reference:
        places = set().union(*(_shared_places(line, other) for other in prediction))
        for place in sorted(places):
            if left[line[place]]:
                left[line[place]] -= 1
                shared += 1
    return shared
