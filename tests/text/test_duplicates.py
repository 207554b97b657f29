"""Duplicates: MinHash against every pair compared in full."""

import random

import numpy as np
import pytest

from tfllm.text import duplicates, near_duplicates, remove_duplicates, remove_near_duplicates

RANDOM = random.Random(0)
VOCABULARY = [f"w{i}" for i in range(300)]


def corpus(count=150, length=40):
    """Texts of which every other one is an earlier one with up to a third of its words changed."""
    texts = []
    for index in range(count):
        words = RANDOM.choices(VOCABULARY, k=length)
        if index % 2:
            words = RANDOM.choice(texts).split()
            for _ in range(RANDOM.randrange(length // 3)):
                words[RANDOM.randrange(len(words))] = RANDOM.choice(VOCABULARY)
        texts.append(" ".join(words))
    return texts


def jaccard(first, second, size):
    sets = [{tuple(u[i : i + size]) for i in range(max(len(u) - size + 1, 1))} for u in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def every_pair(texts, threshold, size):
    copied = []
    for index, text in enumerate(texts):
        kept = (i for i in range(index) if copied[i] < 0 and jaccard(texts[i], text, size) >= threshold)
        copied.append(next(kept, -1))
    return copied


@pytest.mark.parametrize(("threshold", "size"), [(0.2, 1), (0.5, 1), (0.5, 2), (0.7, 2), (0.8, 3), (0.95, 3), (1.0, 3)])
def test_words_against_every_pair(threshold, size):
    texts = corpus()
    expected = every_pair([text.split() for text in texts], threshold, size)
    assert len(set(expected)) > 1
    assert near_duplicates(texts, threshold, size=size).tolist() == expected


def test_characters_against_every_pair():
    poems = ["".join(RANDOM.choices("春眠不觉晓处闻啼鸟夜来风雨声花落知多少", k=60)) for _ in range(40)]
    texts = poems + [poem[:50] + "月" * RANDOM.randrange(20) for poem in poems]
    for size in (2, 4):
        expected = every_pair(texts, 0.6, size)
        assert near_duplicates(texts, 0.6, unit="character", size=size).tolist() == expected
        assert near_duplicates(texts, 0.6, unit="word", size=size).tolist() == expected  # a character is a word


def test_the_seed_changes_the_hashes_but_not_the_answer():
    texts = corpus(60)
    answers = [near_duplicates(texts, 0.6, seed=seed).tolist() for seed in (0, 0, 1, 2)]
    assert answers.count(answers[0]) == 4


def test_signatures_estimate_the_index():
    random_numbers = np.random.default_rng(0).integers(0, 2**63, 3000).astype(np.uint64)
    sets = [np.unique(random_numbers[start : start + 2000]) for start in (0, 500, 1000)]
    bounds = np.cumsum([0, *map(len, sets)])
    signatures = duplicates._signatures(np.concatenate(sets), bounds, 4096, seed=0)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        index = len(np.intersect1d(sets[first], sets[second])) / len(np.union1d(sets[first], sets[second]))
        estimate = (signatures[first] == signatures[second]).mean()
        assert abs(estimate - index) < 5 * (index * (1 - index) / 4096) ** 0.5


def test_blocks_of_any_size_give_the_same_signatures(monkeypatch):
    texts = corpus(40)
    expected = near_duplicates(texts, 0.5).tolist()
    monkeypatch.setattr(duplicates, "_BLOCK", 50)
    assert near_duplicates(texts, 0.5).tolist() == expected


@pytest.mark.parametrize("threshold", [0.06, 0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_bands_miss_one_in_a_thousand_at_most(threshold):
    rows = duplicates._rows_of_a_band(threshold, 128)
    assert (1 - threshold**rows) ** (128 // rows) <= 1e-3
    assert rows == 128 or (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) > 1e-3


def test_no_pair_below_the_threshold_is_dropped_with_few_hashes():
    texts = corpus(80)
    for hashes in (1, 2, 8):
        copied = near_duplicates(texts, 0.6, size=1, num_hashes=hashes)
        for index in np.flatnonzero(copied >= 0):
            assert jaccard(texts[index].split(), texts[copied[index]].split(), 1) >= 0.6


def test_case_width_and_punctuation_do_not_count():
    assert near_duplicates(["Hello, big world", "ｈｅｌｌｏ big: WORLD!"], 1.0).tolist() == [-1, 0]
    assert near_duplicates(["你好，世界", "你好世界！"], 1.0).tolist() == [-1, 0]


def test_short_and_empty_texts():
    assert near_duplicates(["", "a", " \n", "a", "a b", "!", "?", "!", "\ud800"]).tolist() == [
        -1,
        -1,
        0,
        1,
        -1,
        -1,
        -1,
        5,
        -1,
    ]
    assert near_duplicates([]).tolist() == []
    assert near_duplicates([]).dtype == np.int32
    assert near_duplicates(["", ""]).tolist() == [-1, 0]
    assert near_duplicates(["a"], unit="character", size=9).tolist() == [-1]


def test_many_copies_cost_no_more_than_many_texts():
    texts = [f"the same template number {i} of this document with many words in it" for i in range(3000)]
    assert (near_duplicates(texts, 0.5) == np.r_[-1, np.zeros(2999)]).all()


def test_lists_keep_the_first():
    assert remove_duplicates(["B", "a", "b ", "", " "]) == ["B", "a", ""]
    assert remove_duplicates([]) == []
    assert remove_near_duplicates(["a b c", "x", "A b c."]) == ["a b c", "x"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("abc",), {}, "texts must be a list of str; got str"),
        (([b"abc"],), {}, "texts must be a list of str; got list"),
        ((["a"], 0), {}, r"threshold must lie in \(0, 1\]; got 0"),
        ((["a"], 1.1), {}, r"threshold must lie in \(0, 1\]; got 1.1"),
        ((["a"],), {"unit": "line"}, "unit must be 'word' or 'character'; got 'line'"),
        ((["a"],), {"size": 0}, "size must be at least 1; got 0"),
        ((["a"],), {"num_hashes": 0}, "num_hashes must be at least 1; got 0"),
        ((["a"],), {"seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        near_duplicates(*arguments, **options)
    if len(arguments) == 1 and not options:
        with pytest.raises(ValueError, match=message):
            remove_duplicates(*arguments)
