"""The methods that count, beside hand-worked numbers and plain loops."""

import math

import numpy as np
import pytest

from tfllm.tasks import BM25, WordDictionary, fit_crf, fit_tfidf, lead, majority, most_frequent_answer
from tfllm.tasks.baselines import words_of


def test_bm25_is_its_formula():
    documents = ["the cat sat on the mat", "the dog", "a cat and a dog and a bird", "fish"]
    queries = ["the cat", "dog dog", "whale"]
    rows = [words_of(document) for document in documents]
    mean = np.mean([len(row) for row in rows])
    expected = np.zeros([3, 4])
    for q, query in enumerate(queries):
        for d, row in enumerate(rows):
            for word in words_of(query):
                having, count = sum(word in other for other in rows), row.count(word)
                idf = math.log(1 + (4 - having + 0.5) / (having + 0.5))
                expected[q, d] += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(row) / mean))
    found = BM25(documents)
    np.testing.assert_allclose(found.scores(queries), expected)
    assert found.top(queries, 2).tolist() == [[0, 1], [1, 2], [0, 1]]


def test_ibm_model_1_is_expectation_maximisation():
    pairs = [("b c", "x y"), ("b", "y")]
    share = {(s, t): 0.5 for s in (None, "b", "c") for t in "xy"}
    for _ in range(3):
        counts = dict.fromkeys(share, 0.0)
        for source, target in pairs:
            words = [None, *source.split()]
            for t in target.split():
                total = sum(share[s, t] for s in words)
                for s in words:
                    counts[s, t] += share[s, t] / total
        share = {(s, t): counts[s, t] / sum(counts[s, u] for u in "xy") for s, t in share}
    found = WordDictionary(*zip(*pairs, strict=True), languages=("en", "de"), iterations=3)
    assert found.words == {s: max("xy", key=lambda t: share[s, t]) for s in "bc"}
    assert found.translate("c b unknown") == "x y unknown"


def test_a_dictionary_into_chinese_writes_no_blanks():
    found = WordDictionary(["open file", "close file", "open"], ["打文", "关文", "打"], languages=("en", "zh"))
    assert found.translate("close file") == "关文"


def test_tfidf_learns_what_words_say_and_chinese_signs():
    pytest.importorskip("sklearn")
    texts = [f"{word} thing number {i}" for i in range(20) for word in ("good", "bad")]
    labels = ["pos", "neg"] * 20
    predict = fit_tfidf(texts, labels, texts[:4], labels[:4])
    assert predict(["a good one", "so bad"]) == ["pos", "neg"]


def test_crf_learns_shapes_and_neighbours():
    pytest.importorskip("pycrfsuite")
    names, words = ["Anna", "Bert", "Carla", "Dora"], ["house", "tree", "dog", "sky"]
    sentences = [["in", "the", word] for word in words] + [["met", name, "there"] for name in names]
    tags = [["O", "O", "O"]] * 4 + [["O", "B-PER", "O"]] * 4
    predict = fit_crf(sentences, tags)
    assert predict([["met", "Emil", "there"], ["in", "the", "lake"], []]) == [["O", "B-PER", "O"], ["O"] * 3, []]


def test_the_rest_by_hand():
    assert majority(["x", "y", "y", "x", "y"]) == "y"
    assert lead("One.  Two! Three?", 2) == "One. Two!"
    assert lead("", 3) == ""
    answer = most_frequent_answer(["Ann", "Bob", "Bob", "Eve"])
    assert [answer(text) for text in ("Ann, Ann and Bob", "Ann and Bob", "Bobby", "")] == ["Ann", "Bob", "Bob", "Bob"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: majority([]), "labels must hold at least one; got none"),
        (lambda: BM25([]), "documents must be at least one; got none"),
        (lambda: WordDictionary(["a"], []), "targets must be as many as sources"),
        (lambda: most_frequent_answer([]), "labels must hold at least one"),
    ],
)
def test_nothing_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
