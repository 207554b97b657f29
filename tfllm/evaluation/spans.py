"""Scores of entities: spans with a label, given as such or as BIO tags; as the Python package seqeval counts them.

Two ways to read tags. The default is that of the CoNLL-2000 script: I-X after something else than B-X or I-X begins an entity.
The strict one takes BIO at its word: an entity is a B-X with the I-X that follow it, and an I-X elsewhere is nothing.

Sources: Tjong Kim Sang and Buchholz 2000 (the task and its script); Nakayama 2018, seqeval.
"""

import dataclasses

import numpy as np

from tfllm.evaluation.classification import AVERAGES, check_labels
from tfllm.evaluation.metric import Metric, check_pairs, ratio

MEASURES = ("f1", "precision", "recall")


def spans_of_tags(tags, *, strict=False):
    """Reads the entities of one sequence of BIO tags.

    Args:
        tags: list of str, each "O", "B-TYPE" or "I-TYPE"; their order may be invalid.
        strict: bool, see the top of the file.

    Returns:
        list of (start int, end int, type str), tokens from `start` up to, not with, `end`.

    Raises:
        ValueError: on a tag of another form.

    Example:
        >>> spans_of_tags(["B-PER", "I-PER", "O", "I-LOC"])
        [(0, 2, 'PER'), (3, 4, 'LOC')]
        >>> spans_of_tags(["B-PER", "I-PER", "O", "I-LOC"], strict=True)
        [(0, 2, 'PER')]
    """
    spans, start, kind = [], None, None
    for at, tag in enumerate([*tags, "O"]):
        if not isinstance(tag, str) or (tag != "O" and not (tag[:2] in ("B-", "I-") and len(tag) > 2)):
            raise ValueError(f"tags must be 'O', 'B-TYPE' or 'I-TYPE'; got {tag!r} at {at}")
        goes_on = start is not None and tag[0] == "I" and tag[2:] == kind
        if goes_on:
            continue
        if start is not None:
            spans.append((start, at, kind))
        begins = tag[0] == "B" or (tag[0] == "I" and not strict)
        start, kind = (at, tag[2:]) if begins else (None, None)
    return spans


@dataclasses.dataclass(frozen=True)
class SpanF1(Metric):
    """F1, precision or recall of entities; one counts as right when its start, its end and its type are.

    References and predictions are lists with a list for every text: BIO tags, or spans `(start, end, type)`, which may overlap.

    Args:
        measure: "f1", "precision" or "recall".
        average: "micro", over all entities; "macro", the mean over types; "weighted", the mean by how many are of a type.
        strict: bool, how tags are read, see `spans_of_tags`.
        types: the types of entities there are; None finds them. "micro" does not need them.

    Raises:
        ValueError: also when tags of a text are not as many in both, or a type is not among `types`.

    Example:
        >>> SpanF1()([["B-PER", "I-PER", "O"]], [[(0, 2, "PER"), (2, 3, "LOC")]])
        0.6666666666666666
    """

    measure: str = "f1"
    average: str = "micro"
    strict: bool = False
    types: tuple | None = None

    def __post_init__(self):
        for name, known in (("measure", MEASURES), ("average", AVERAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if self.types is not None:
            object.__setattr__(self, "types", check_labels(self.types))

    @property
    def name(self):
        return f"span_{self.measure}" + ("" if self.average == "micro" else f"_{self.average}")

    @property
    def num_statistics(self):
        return 3 * len(self._columns())

    def settled(self, references, *systems):
        if self.types is not None or self.average == "micro":
            return self
        found = {kind for texts in (references, *systems) for each in texts for *_, kind in self._read(each)}
        return dataclasses.replace(self, types=tuple(sorted(found)) or ("none",))

    def statistics(self, references, predictions):
        references, predictions = check_pairs(references, predictions)
        columns = {kind: at for at, kind in enumerate(self._columns())}
        rows = np.zeros([len(references), 3, len(columns)])
        for row, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
            if _are_tags(reference) and _are_tags(prediction) and len(reference) != len(prediction):
                rule = f"as many tags as references, {len(reference)}"
                raise ValueError(f"predictions must have {rule}; got {len(prediction)} in number {row}")
            there, predicted = set(self._read(reference)), set(self._read(prediction))
            for place, spans in enumerate((there & predicted, predicted, there)):
                for *_, kind in spans:
                    if self.types is not None and kind not in self.types:
                        raise ValueError(
                            f"types must hold all there are; got {kind!r} in number {row}, not one of {self.types}"
                        )
                    rows[row, place, columns.get(kind, 0)] += 1
        return rows.reshape(len(rows), -1)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        counts = sums.reshape(*sums.shape[:-1], 3, -1)
        if self.average == "micro":
            counts = counts.sum(-1, keepdims=True)
        right, predicted, there = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
        above, below = {
            "f1": (2 * right, predicted + there),
            "precision": (right, predicted),
            "recall": (right, there),
        }[self.measure]
        scores = ratio(above, below)
        if self.average == "weighted":
            return ratio((scores * there).sum(-1), there.sum(-1))
        return scores.mean(-1)

    def _columns(self):
        if self.types is not None:
            return self.types
        if self.average != "micro":
            raise ValueError("types must be given where statistics are added up (see Metric.settled); got None")
        return ("all",)

    def _read(self, given):
        """Returns list of (start, end, type) of tags or spans."""
        if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
            raise ValueError(f"references and predictions must be lists of tags or of spans; got {given!r:.80}")
        if _are_tags(given):
            return spans_of_tags(given, strict=self.strict)
        for span in given:
            if not isinstance(span, list | tuple) or len(span) != 3 or not 0 <= span[0] < span[1]:
                raise ValueError(f"spans must be (start, end, type) with 0 <= start < end; got {span!r:.80}")
        return [tuple(span) for span in given]


def _are_tags(given):
    return len(given) > 0 and all(isinstance(each, str) for each in given)
