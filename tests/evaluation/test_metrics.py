"""Scores beside the tools of the field on 1,000 random cases each, beside hand-worked numbers, and in uneven batches."""

import json
import pathlib
import random

import jiwer
import numpy as np
import pytest
import sacrebleu
import sklearn
import sklearn.metrics
import tensorflow as tf
from rouge_score import rouge_scorer

from tfllm.evaluation import (
    F1,
    NDCG,
    Accuracy,
    BitsPerByte,
    BitsPerCharacter,
    Bleu,
    CalibrationError,
    CharacterErrorRate,
    ChrF,
    ExactMatch,
    KerasMetric,
    Mean,
    Meteor,
    Perplexity,
    Precision,
    Recall,
    RecallAt,
    ReciprocalRank,
    Rouge,
    SpanF1,
    TokenF1,
    WordErrorRate,
    class_scores,
    confusion_matrix,
    distinct_n,
    edit_counts,
    normalize_answer,
    self_bleu,
    spans_of_tags,
)

CASES = 1000
WORDS = ["the", "a", "cat", "Dog", "sat,", "on", "mat.", "2", "blue-green", "it's", "词", "ran"]


def make_text(draw, least=1, most=9):
    return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def make_corpus(draw, references=1):
    """Returns (references, predictions), a few sentences of which some are near one another."""
    predictions = [make_text(draw) for _ in range(draw.randint(1, 4))]
    right = []
    for text in predictions:
        near = [word if draw.random() < 0.7 else draw.choice(WORDS) for word in text.split()]
        right.append([" ".join(near), *(make_text(draw) for _ in range(references - 1))])
    return ([each[0] for each in right] if references == 1 else right), predictions


def test_classification_is_scikit_learn_s():
    draw = np.random.default_rng(0)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for case in range(CASES):
            there, predicted = draw.integers(0, draw.integers(2, 6), (2, draw.integers(1, 13)))
            average = (None, "macro", "micro", "weighted")[case % 4]
            outside = sklearn.metrics.precision_recall_fscore_support(
                there, predicted, average=average, zero_division=0
            )
            if average is None:
                found = class_scores(there, predicted)
                ours = [[of[name] for of in found.values()] for name in ("precision", "recall", "f1", "support")]
                counts, labels = confusion_matrix(there, predicted)
                assert labels == tuple(sorted({*there, *predicted}))
                if len(labels) > 1:  # of one it warns
                    np.testing.assert_array_equal(counts, sklearn.metrics.confusion_matrix(there, predicted))
            else:
                outside = outside[:3]
                ours = [kind(average=average)(there, predicted) for kind in (Precision, Recall, F1)]
            np.testing.assert_allclose(ours, outside, atol=1e-6)
            assert Accuracy()(there, predicted) == pytest.approx(np.mean(there == predicted), abs=1e-6)


def test_a_label_has_its_own_score_and_unseen_ones_count_nothing():
    there, predicted = ["a", "b", "b", "c"], ["a", "b", "a", "a"]
    assert F1(label="b")(there, predicted) == class_scores(there, predicted)["b"]["f1"] == 2 / 3
    labels = ("d", "c", "b", "a")
    assert F1(labels, label="b")(there, predicted) == 2 / 3
    assert F1(labels)(there, predicted) == pytest.approx(F1()(there, predicted) * 3 / 4)
    assert confusion_matrix(there, predicted, labels)[0].tolist()[2] == [0, 0, 1, 1]
    assert F1(label="z")(there, predicted) == 0
    first, second = F1().settled(there, predicted), F1().settled(there, ["d"] * 4)
    assert (first.labels, second.labels) == (("a", "b", "c"), ("a", "b", "c", "d"))


@pytest.mark.parametrize("strict", [False, True])
def test_spans_are_seqeval_s(strict):
    cases = json.loads((pathlib.Path(__file__).parent / "fixtures" / "seqeval.json").read_text())
    assert len(cases) == CASES
    names = {"O": "O", "P": "B-PER", "p": "I-PER", "L": "B-LOC", "l": "I-LOC"}
    for there, predicted, average, *scores in cases:
        sides = [[[names[letter] for letter in text] for text in side.split()] for side in (there, predicted)]
        ours = [SpanF1(measure, average, strict=strict)(*sides) for measure in ("precision", "recall", "f1")]
        assert ours == pytest.approx(scores[strict], abs=1e-6), (there, predicted, average)


def test_tags_of_any_order_are_read_in_two_ways():
    tags = ["I-A", "I-A", "I-B", "B-B", "I-B", "O", "I-B"]
    assert spans_of_tags(tags) == [(0, 2, "A"), (2, 3, "B"), (3, 5, "B"), (6, 7, "B")]
    assert spans_of_tags(tags, strict=True) == [(3, 5, "B")]
    assert spans_of_tags([]) == []
    there = [[(0, 4, "PER"), (2, 6, "LOC")], []]  # overlapping ones, and a text without any
    assert SpanF1()(there, [[(0, 4, "PER"), (0, 4, "LOC")], []]) == 0.5
    assert SpanF1()(there, [[], []]) == 0
    assert SpanF1("recall", "macro", types=("PER", "LOC"))(there, [[(0, 4, "PER")], []]) == 0.5


@pytest.mark.parametrize("references", [1, 2])
def test_bleu_and_chrf_are_sacrebleu_s(references):
    draw = random.Random(2)
    for case in range(CASES // 2):
        right, predictions = make_corpus(draw, references)
        streams = [right] if references == 1 else list(zip(*right, strict=True))
        tokenize = ("13a", "char", "intl", "zh")[case % 4]
        ours = Bleu(tokenize, lowercase=case % 3 == 0, smoothing=("exp", "floor", "add-k", "none")[case % 5 % 4])
        outside = sacrebleu.corpus_bleu(
            predictions,
            streams,
            smooth_method=ours.smoothing,
            lowercase=ours.lowercase,
            tokenize=tokenize,
            force=True,
        )
        assert ours(right, predictions) == pytest.approx(outside.score, abs=1e-6)
        order = case % 3
        outside = sacrebleu.corpus_chrf(predictions, streams, word_order=order)
        assert ChrF(word_order=order)(right, predictions) == pytest.approx(outside.score, abs=1e-6)


def test_references_of_unequal_number():
    right, predictions = [["the cat sat on a mat", "a cat"], ["the dog"]], ["the cat sat on a mat", "the dog"]
    assert Bleu()(right, predictions) == pytest.approx(100)
    assert ChrF()(right, predictions) == pytest.approx(100)


def test_rouge_is_rouge_score_s():
    kinds = ("1", "2", "L", "Lsum")
    outside, draw = rouge_scorer.RougeScorer([f"rouge{kind}" for kind in kinds]), random.Random(3)
    for _ in range(CASES):
        right, text = ("\n".join(make_text(draw, 0, 6) for _ in range(draw.randint(1, 3))) for _ in range(2))
        scores = outside.score(right, text)
        for kind in kinds:
            expected = scores[f"rouge{kind}"]
            for measure, value in (
                ("f1", expected.fmeasure),
                ("precision", expected.precision),
                ("recall", expected.recall),
            ):
                ours = Rouge(kind, measure)([right], [text])
                assert ours == pytest.approx(value, abs=1e-6), (kind, measure, right, text)


def test_rouge_of_several_references_and_other_scripts():
    assert Rouge("1")([["a b c d", "a x"]], ["a x"]) == 1
    assert Rouge("1")(["床前明月光"], ["床前明月光"]) == 0
    assert Rouge("2", words="unicode")(["床前明月光"], ["床前看月光"]) == 0.5
    assert Rouge("1", words="unicode")(["Straße_ist naß"], ["straße ist"]) == pytest.approx(0.8)


def test_error_rates_are_jiwer_s():
    draw = random.Random(4)
    for _ in range(CASES):
        right, predictions = make_corpus(draw)
        predictions = [text if draw.random() < 0.9 else "" for text in predictions]
        assert WordErrorRate()(right, predictions) == pytest.approx(jiwer.wer(right, predictions), abs=1e-6)
        assert CharacterErrorRate()(right, predictions) == pytest.approx(jiwer.cer(right, predictions), abs=1e-6)


def test_edits_are_counted_by_kind():
    assert edit_counts("kitten", "sitting") == (2, 0, 1)
    assert edit_counts("abcd", "") == (0, 4, 0)
    assert edit_counts("", "ab") == (0, 0, 2)
    assert edit_counts("ab", "ba") == (0, 1, 1)  # two edits either way; this one matches a letter
    draw = random.Random(5)
    for _ in range(100):
        a, b = (draw.choices("abc", k=draw.randint(0, 8)) for _ in range(2))
        substitutions, deletions, insertions = edit_counts(a, b)
        assert len(a) - deletions + insertions == len(b)
        assert edit_counts(b, a) == (substitutions, insertions, deletions)


def test_answers_by_the_rules_of_squad():
    assert normalize_answer("An  apple, the PEAR!\n") == "apple pear"
    right, predictions = [["Paris", "the city of Paris"], "42", "no"], ["City of paris.", "43", "No!"]
    assert ExactMatch()(right, predictions) == 2 / 3
    assert ExactMatch(normalize=False)(right, predictions) == 0
    assert TokenF1()(["a big red apple"], ["red apple pie"]) == pytest.approx(2 * (2 / 3) * (2 / 3) / (4 / 3))
    assert TokenF1()(["the"], ["an"]) == 1  # neither has words
    assert TokenF1()(["the"], ["pear"]) == 0
    assert TokenF1("character")(["明月光"], ["明月"]) == pytest.approx(0.8)


def test_meteor_by_hand():
    # 5 of 6 words match in 2 runs: P = 5/6, R = 5/7, F = 10 P R / (R + 9 P), penalty 0.5 (2/5)^3
    precision, recall = 5 / 6, 5 / 7
    by_hand = 10 * precision * recall / (recall + 9 * precision) * (1 - 0.5 * (2 / 5) ** 3)
    right, prediction = ["the cat sat on the old mat"], ["the cat lay on the old"]
    assert Meteor()(right, prediction) == pytest.approx(by_hand)
    assert Meteor()(["a b"], ["c d"]) == 0
    # Runs are kept together: the second "a" belongs to "a c", so there are two runs, not three.
    assert Meteor().statistics(["a b a c"], ["a c a b"]).tolist() == [[4, 4, 4, 2]]
    assert Meteor().statistics(["a a"], ["a"]).tolist() == [[1, 1, 2, 1]]


def test_search_is_scored_as_by_hand_and_by_scikit_learn():
    right, ranked = [7, [1, 2], ["x"]], [[3, 7, 5], [1, 9, 2], ["y", "z"]]
    assert ReciprocalRank()(right, ranked) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert ReciprocalRank(1)(right, ranked) == pytest.approx(1 / 3)
    assert RecallAt(2)(right, ranked) == pytest.approx((1 + 0.5 + 0) / 3)
    draw = np.random.default_rng(6)
    for _ in range(200):
        size = int(draw.integers(2, 9))
        gains, order, k = draw.integers(0, 4, size), draw.permutation(size), int(draw.integers(1, 6))
        if not gains.any():
            continue
        scores = np.empty(size)
        scores[order] = np.arange(size, 0, -1)
        outside = sklearn.metrics.ndcg_score([gains], [scores], k=k)
        ours = NDCG(k)([{at: int(gain) for at, gain in enumerate(gains)}], [order.tolist()])
        assert ours == pytest.approx(outside, abs=1e-6)


def test_diversity_by_hand():
    assert distinct_n(["a b a", "b a"]) == 2 / 5
    assert distinct_n(["a b a", "b a"], 2) == 2 / 3
    assert distinct_n(["明月明"], 1, unit="character") == 2 / 3
    assert distinct_n(["a"], 2) == 0
    texts = ["the cat sat on the mat", "the cat sat on a mat", "dogs bark"]
    expected = [sacrebleu.sentence_bleu(text, [other for other in texts if other != text]).score for text in texts]
    assert self_bleu(texts) == pytest.approx(np.mean(expected), abs=1e-6)


def test_perplexity_is_weighted_by_tokens():
    tokens, nats, texts = [1, 9], [3.0, 9.0], ["a", "bc词"]
    assert Perplexity()(tokens, nats) == pytest.approx(np.exp(12 / 10))
    assert BitsPerByte()(texts, nats) == pytest.approx(12 / np.log(2) / 6)
    assert BitsPerByte()([1, 5], nats) == BitsPerByte()(texts, nats)
    assert BitsPerCharacter()(texts, nats) == pytest.approx(12 / np.log(2) / 4)


TEXTS = [["the cat sat on a mat", "a dog ran", "it's blue"], ["the cat sat on mat", "the dog ran off", "blue"]]
TAGS = [[["B-A", "I-A", "O"], ["O"], ["I-B"]], [["B-A", "O", "O"], ["B-B"], ["B-B"]]]
LABELS, RANKS = [[0, 2, 1], [0, 1, 1]], [[1, [2, 3], 4], [[1, 2], [3, 1], [1, 2]]]
SHARES = [[0, 1, 1], [[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]]
EVERY = [
    (Accuracy(), LABELS),
    (Precision(range(3)), LABELS),
    (Recall(range(3), "weighted"), LABELS),
    (F1(range(3)), LABELS),
    (F1(range(3), "micro"), LABELS),
    (F1(range(3), label=1), LABELS),
    (SpanF1(), TAGS),
    (SpanF1("f1", "macro", types=("A", "B")), TAGS),
    (Bleu(), TEXTS),
    (ChrF(), TEXTS),
    (Rouge("1"), TEXTS),
    (Rouge("Lsum", "recall"), TEXTS),
    (ExactMatch(), TEXTS),
    (TokenF1(), TEXTS),
    (Meteor(), TEXTS),
    (WordErrorRate(), TEXTS),
    (CharacterErrorRate(), TEXTS),
    (CalibrationError(4), SHARES),
    (ReciprocalRank(2), RANKS),
    (RecallAt(2), RANKS),
    (NDCG(2), RANKS),
    (Perplexity(), [[2, 3, 4], [1.0, 2.0, 3.0]]),
    (BitsPerByte(), [["a", "词", "b"], [1.0, 2.0, 3.0]]),
    (BitsPerCharacter(), [["a", "词", "b"], [1.0, 2.0, 3.0]]),
    (Mean(), [["a", "b", "c"], [1.0, 2.0, 6.0]]),
]


@pytest.mark.parametrize(("metric", "pair"), EVERY, ids=[repr(metric) for metric, _ in EVERY])
def test_two_uneven_batches_give_the_number_of_their_union(metric, pair):
    references, predictions = pair
    whole = metric.statistics(references, predictions)
    assert whole.shape == (3, metric.num_statistics)
    assert whole.dtype == np.float64
    parts = [metric.statistics(references[part], predictions[part]) for part in (slice(0, 1), slice(1, 3))]
    np.testing.assert_allclose(np.concatenate(parts), whole)
    score = metric(references, predictions)
    assert metric.score(parts[0].sum(0) + parts[1].sum(0)) == pytest.approx(score)
    assert metric.score(np.stack([whole.sum(0), whole[0]])).shape == (2,)
    assert metric.examples(references, predictions)[0] == pytest.approx(metric(references[:1], predictions[:1]))
    assert isinstance(metric.name, str)


@pytest.mark.parametrize(
    ("metric", "pair"), [EVERY[number] for number in (0, 3, 8, 13, 15, 17)], ids=lambda part: getattr(part, "name", "")
)
def test_keras_metrics_are_right_over_uneven_batches(metric, pair):
    tracker = KerasMetric(metric)
    update = tf.function(tracker.update_state)
    for part in (slice(0, 1), slice(1, 3)):
        update(*(tf.constant(each[part]) for each in pair))
    assert float(tf.function(tracker.result)()) == pytest.approx(metric(*pair))
    again = KerasMetric.from_config(tracker.get_config())
    assert (again.metric, again.name) == (metric, metric.name)
    tracker.reset_state()
    tracker.update_state(*(tf.constant(each) for each in pair), sample_weight=[1.0, 0.0, 0.0])
    assert float(tracker.result()) == pytest.approx(metric(pair[0][:1], pair[1][:1]))


def test_keras_metrics_take_logits_of_tokens():
    metric = KerasMetric(F1(range(3)))
    there = np.array([[0, 1], [2, 1]])
    logits = np.eye(3)[[[0, 1], [1, 1]]] * 5.0
    metric.update_state(there, logits)
    assert float(metric.result()) == pytest.approx(F1(range(3))([0, 1, 2, 1], [0, 1, 1, 1]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids of labels must be below"):
        metric.update_state([3], [0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Accuracy()(["a"], ["a", "b"]), "predictions must be as many as references, 1; got 2"),
        (lambda: Accuracy()([], []), "references must be at least one; got none"),
        (lambda: Accuracy()("ab", ["a", "b"]), "references must be a list, one entry an example; got str"),
        (lambda: F1(("a", "b"))(["a"], ["c"]), "predictions must be among labels, 'a', 'b'; got 'c'"),
        (lambda: Accuracy(("a",))(["b"], ["a"]), "references must be among labels, 'a'; got 'b'"),
        (lambda: F1(()), r"labels must be at least one, each once; got \(\)"),
        (lambda: F1(("a", "a")), "labels must be at least one, each once"),
        (lambda: F1(average="mean"), r"average must be one of \('macro', 'micro', 'weighted'\); got 'mean'"),
        (lambda: F1(("a",), label="b"), "label must be among labels, 'a'; got 'b'"),
        (lambda: F1().statistics(["a"], ["a"]), "labels must be given where statistics are added up"),
        (lambda: KerasMetric(F1(("a",))).update_state([0], [0]), r"labels must be range\(L\)"),
        (lambda: SpanF1()([["B-A", "X"]], [["O", "O"]]), "tags must be 'O', 'B-TYPE' or 'I-TYPE'; got 'X' at 1"),
        (lambda: SpanF1()([["B-"]], [["O"]]), "tags must be 'O', 'B-TYPE' or 'I-TYPE'; got 'B-' at 0"),
        (
            lambda: SpanF1()([["O", "O"]], [["O"]]),
            "predictions must have as many tags as references, 2; got 1 in number 0",
        ),
        (lambda: SpanF1()([[(3, 3, "A")]], [[]]), r"spans must be \(start, end, type\) with 0 <= start < end"),
        (lambda: SpanF1(types=("A",))([[(0, 1, "B")]], [[]]), "types must hold all there are; got 'B' in number 0"),
        (lambda: Bleu()(["a"], [5]), "predictions must be str; got int in number 0"),
        (
            lambda: Bleu()([[]], ["a"]),
            r"references must be str, or lists of str that are not empty; got \[\] in number 0",
        ),
        (lambda: Bleu()([" "], ["a"]), "references must not be empty texts"),
        (lambda: Bleu("moses"), "tokenize must be one of"),
        (lambda: ChrF(word_order=-1), "word_order must be at least 0; got -1"),
        (lambda: Rouge("W"), "kind must be one of"),
        (lambda: WordErrorRate()([None], ["a"]), "references must be str; got NoneType in number 0"),
        (lambda: TokenF1("token"), "unit must be 'word' or 'character'; got 'token'"),
        (lambda: Perplexity()([1], [-1.0]), "predictions must be finite numbers of at least 0; got others"),
        (lambda: Perplexity()(["a"], [1.0]), "references must be finite numbers of at least 0; got others"),
        (lambda: RecallAt(0), "k must be an int of at least 1; got 0"),
        (lambda: NDCG()([[]], [[1]]), "references must name a relevant document"),
        (lambda: NDCG()([[1]], [[2, 2]]), "predictions must name a document once"),
        (lambda: distinct_n([]), "texts must be a list of str, at least one"),
        (lambda: distinct_n(["a"], 0), "n must be an int of at least 1; got 0"),
        (lambda: self_bleu(["a"]), "texts must be at least two that are not empty; got 1"),
        (lambda: CalibrationError()([0], [[2.0, -1.0]]), "predictions must be rows of probabilities that sum to 1"),
        (lambda: CalibrationError()([2], [[0.5, 0.5]]), r"references must lie in \[0, 2\); got 2 to 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
