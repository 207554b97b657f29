"""The n-gram model: beside a dictionary of counts written down from the paper, and by what every distribution must be."""

import collections
import math

import numpy as np
import pytest

from tfllm.tasks import KneserNey, choose_kneser_ney


def by_the_book(documents, vocab_size, order):
    """Returns a function of (token, context) to its probability: Chen and Goodman 1998, section 3, with dictionaries."""
    raw = [collections.Counter() for _ in range(order + 1)]
    starts = [collections.Counter() for _ in range(order + 1)]
    for document in documents:
        for length in range(1, order + 1):
            for end in range(max(length, 2), len(document) + 1):
                raw[length][tuple(document[end - length : end])] += 1
            if 2 <= length <= len(document):
                starts[length][tuple(document[:length])] += 1
    levels = {}
    for length in range(1, order + 1):
        counts = raw[length]
        if length < order:
            longer = raw[length + 1]
            counts = collections.Counter(starts[length])
            counts.update(collections.Counter(gram[1:] for gram in longer))
        kinds = collections.Counter(counts.values())
        discounts = [0, 0.75, 0.75, 0.75]
        if all(kinds[n] for n in (1, 2, 3, 4)):
            y = kinds[1] / (kinds[1] + 2 * kinds[2])
            told = [0] + [n - (n + 1) * y * kinds[n + 1] / kinds[n] for n in (1, 2, 3)]
            discounts = told if min(told[1:]) > 0 else discounts
        levels[length] = counts, discounts

    def probability(token, context):
        found = 1 / vocab_size
        for length in range(1, min(order, len(context) + 1) + 1):
            before = tuple(context[len(context) - length + 1 :])
            counts, discounts = levels[length]
            followers = {gram[-1]: n for gram, n in counts.items() if gram[:-1] == before}
            if not followers:
                break
            total, left = sum(followers.values()), sum(discounts[min(n, 3)] for n in followers.values())
            own = followers.get(token, 0)
            found = (own - discounts[min(own, 3)]) / total + left / total * found
        return found

    return probability


@pytest.fixture(scope="module")
def documents():
    random = np.random.default_rng(0)
    return [[0, *random.integers(1, 5, random.integers(0, 12)).tolist()] for _ in range(40)]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_paper_with_dictionaries(documents, order):
    model, expected = KneserNey(documents, 6, order), by_the_book(documents, 6, order)
    held_out = [[0, 3, 5, 1, 1, 2, 4, 3], [0, 1], [4], [0]]
    for document, terms in zip(held_out, model.log_probs(held_out), strict=True):
        wanted = [math.log(expected(document[at], document[:at])) for at in range(1, len(document))]
        np.testing.assert_allclose(terms, wanted, atol=1e-12)


@pytest.mark.parametrize("context", [[0], [0, 1], [0, 3, 2, 4], [2], [5, 5], []])
def test_probabilities_are_above_0_and_sum_to_1(documents, context):
    shares = KneserNey(documents, 6, 4).distribution(context)
    assert shares.min() > 0
    np.testing.assert_allclose(shares.sum(), 1, atol=1e-12)


def test_distribution_is_what_scores_are_made_of(documents):
    model, document = KneserNey(documents, 6, 3), [0, 2, 2, 1, 5, 3]
    (terms,) = model.log_probs([document])
    for at in range(1, len(document)):
        np.testing.assert_allclose(terms[at - 1], np.log(model.distribution(document[:at])[document[at]]), atol=1e-12)


def test_a_bigram_by_hand():
    # Bigrams 0 1, 1 2, 2 1 (twice), 1 1: counts of counts are too few to tell, so 0.75 is taken from each.
    model = KneserNey([[0, 1, 2, 1], [2, 1, 1]], 3, 2)
    # In how many contexts: 1 after 0, 2 and 1; 2 after 1. What is left of the 4: 1.5, over 3 ids.
    unigram = [1.5 / 4 / 3, (3 - 0.75) / 4 + 1.5 / 4 / 3, (1 - 0.75) / 4 + 1.5 / 4 / 3]
    np.testing.assert_allclose(model.distribution([]), unigram)
    after_1 = [0.75 * unigram[0], 0.125 + 0.75 * unigram[1], 0.125 + 0.75 * unigram[2]]
    np.testing.assert_allclose(model.distribution([1]), after_1)


def test_order_is_chosen_on_the_validation_part():
    pattern = [[0] + [1, 1, 2] * 8] * 5
    assert choose_kneser_ney(pattern, pattern[:1], 4, (1, 2, 3)).order == 3
    random = np.random.default_rng(0).integers(1, 9, [2, 200]).tolist()
    assert choose_kneser_ney([[0, *random[0]]], [[0, *random[1]]], 9, (1, 4)).order == 1


def test_draws_follow_the_distribution(documents):
    model = KneserNey(documents, 6, 3)
    drawn = [model.sample([0, 2], 1, seed=seed)[0] for seed in range(2000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 2000, model.distribution([0, 2]), atol=0.04)
    assert 3 not in model.sample([0], 50, end_ids=[3], seed=1)


@pytest.mark.parametrize(
    "documents, order, message",
    [
        ([[0, 7]], 2, r"ids must lie in \[0, vocab_size=4\); got 0 to 7"),
        ([[0, 1]], 0, "order must be an int of at least 1; got 0"),
        ([[0], []], 2, "documents must hold one of at least two ids"),
    ],
)
def test_bad_input_is_refused(documents, order, message):
    with pytest.raises(ValueError, match=message):
        KneserNey(documents, 4, order)
