"""Intervals, paired tests and calibration, beside what can be worked out another way."""

import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from tfllm.evaluation import (
    F1,
    Accuracy,
    CalibrationError,
    KerasMetric,
    Mean,
    bootstrap_interval,
    fit_temperature,
    paired_test,
)


def rows(values):
    return Mean().statistics(values, values)


def test_an_interval_is_as_wide_as_theory_says():
    draw = np.random.default_rng(0)
    values = draw.normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(Mean(), rows(values), samples=4000)
    error = values.std() / np.sqrt(len(values))
    np.testing.assert_allclose([low, high], values.mean() + error * np.array([-1.96, 1.96]), atol=0.1 * error)
    assert bootstrap_interval(Mean(), rows(values), samples=4000) == (low, high)
    assert bootstrap_interval(Mean(), rows(values), samples=4000, seed=1) != (low, high)
    narrow = bootstrap_interval(Mean(), rows(values), level=0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high


def test_an_interval_of_a_score_that_is_no_mean_holds_it():
    draw = np.random.default_rng(1)
    there = draw.integers(0, 3, 300)
    predicted = np.where(draw.random(300) < 0.7, there, draw.integers(0, 3, 300))
    metric = F1(range(3))
    low, high = bootstrap_interval(metric, metric.statistics(there, predicted))
    assert low < metric(there, predicted) < high
    assert high - low < 0.15


def test_the_chance_of_a_difference_is_that_of_all_swaps():
    """Of ten pairs there are 1,024 ways to swap; the draws come near to their share."""
    a, b = np.array([5, 7, 6, 8, 9, 4, 6, 7, 8, 5.0]), np.array([4, 7, 5, 8, 7, 5, 5, 6, 8, 4.0])
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    exact = np.mean(np.abs((signs * (a - b)).mean(1)) >= np.abs((a - b).mean()) - 1e-12)
    found = paired_test(Mean(), rows(a), rows(b), samples=10_000)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.p_value == pytest.approx(exact, abs=0.01)
    other = paired_test(Mean(), rows(b), rows(a), samples=10_000)
    assert other.difference == -found.difference
    assert other.p_value == pytest.approx(found.p_value, abs=0.01)


def test_equal_systems_do_not_differ_and_pairs_tell_more_than_intervals():
    draw = np.random.default_rng(2)
    a = draw.normal(0, 10, 100)
    same = paired_test(Mean(), rows(a), rows(a))
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    b = a + 0.5 + draw.normal(0, 0.5, 100)  # far within each interval, but better nearly everywhere
    found = paired_test(Mean(), rows(b), rows(a))
    assert found.low > 0.3
    assert found.p_value == 1 / 1001
    low, high = bootstrap_interval(Mean(), rows(a))
    assert low < b.mean() < high


def test_one_in_twenty_tests_of_equal_systems_is_wrong():
    draw, wrong = np.random.default_rng(3), 0
    for seed in range(200):
        right = draw.random((2, 60)) < 0.7
        metric = Accuracy()
        pair = [metric.statistics([True] * 60, each.tolist()) for each in right]
        wrong += paired_test(metric, *pair, samples=199, seed=seed).p_value <= 0.05
    assert wrong <= 16  # one in twenty of 200 is 10; 17 or more have a chance of 2 %


def test_calibration_error_by_hand_and_in_the_graph():
    draw = np.random.default_rng(4)
    shares = scipy.special.softmax(draw.normal(0, 2, (500, 4)), 1)
    labels = draw.integers(0, 4, 500)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    expected = 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, 11)):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    metric = CalibrationError(10)
    assert metric(labels, shares) == pytest.approx(expected)
    tracker = KerasMetric(metric)
    for part in (slice(0, 3), slice(3, None)):
        tracker.update_state(tf.constant(labels[part]), tf.constant(shares[part]))
    assert float(tracker.result()) == pytest.approx(expected)
    diagram = metric.diagram(metric.statistics(labels, shares).sum(0))
    assert diagram["count"].sum() == 500
    assert np.isnan(diagram["accuracy"][0])  # of four labels the likeliest has at least a quarter


def test_temperature_is_found_and_makes_the_likelihood_highest():
    draw = np.random.default_rng(5)
    true = draw.normal(0, 1.5, (4000, 5))
    labels = np.array([draw.choice(5, p=row) for row in scipy.special.softmax(true, 1)])
    for scale in (0.5, 3.0):
        found = fit_temperature(true * scale, labels)
        assert found == pytest.approx(scale, rel=0.06)
        nats = [
            -scipy.special.log_softmax(true * scale / (found * factor), 1)[np.arange(4000), labels].mean()
            for factor in (0.99, 1, 1.01)
        ]
        assert nats[1] == min(nats)
    before = CalibrationError()(labels, scipy.special.softmax(true * 3, 1))
    after = CalibrationError()(labels, scipy.special.softmax(true * 3 / fit_temperature(true * 3, labels), 1))
    assert after < before / 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(Mean(), [[1.0]]), r"statistics must have the shape \[N, 2\] .*; got \[1, 1\]"),
        (lambda: bootstrap_interval(Mean(), np.zeros([0, 2])), r"with N of at least 1; got \[0, 2\]"),
        (lambda: bootstrap_interval(Mean(), rows([1.0]), level=1), r"level must lie in \(0, 1\); got 1"),
        (lambda: bootstrap_interval(Mean(), rows([1.0]), samples=0), "samples must be an int of at least 1; got 0"),
        (lambda: bootstrap_interval(Mean(), rows([1.0]), seed=-1), "seed must be an int of at least 0; got -1"),
        (lambda: paired_test(Mean(), rows([1.0, 2.0]), rows([1.0])), "as many rows as statistics_a, 2; got 1"),
        (lambda: fit_temperature([[np.nan, 0.0]], [0]), "logits must be finite"),
        (lambda: fit_temperature([[0.0, 1.0]], [2]), r"labels must lie in \[0, 2\)"),
        (lambda: fit_temperature([0.0, 1.0], [0, 1]), r"must have the shape \[N, L\]; got \[2\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
