"""Preference and reward losses against hand-worked values, and their gradients against known ones."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfllm.training.preference import (
    group_advantages,
    make_dpo_loss,
    make_policy_loss,
    make_risk_loss,
    sequence_log_probs,
    token_log_probs,
)


def table_model(logits):
    """A model whose next token depends on the last one alone, by a table [V, V]."""
    return lambda ids, training: tf.gather(logits, ids)


TABLE = tf.constant(np.log([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]), tf.float32)
FLAT = tf.zeros([3, 3])
CHOSEN = ([[0, 1]], [[1, 2]], [[1.0, 1.0]])  # 0.25 * 0.3
REJECTED = ([[0, 1]], [[1, 0]], [[0.0, 1.0]])  # 0.1, the first token being the prompt's


def test_log_probs_of_answers():
    assert float(sequence_log_probs(table_model(TABLE), CHOSEN)[0]) == pytest.approx(math.log(0.25 * 0.3), rel=1e-6)
    assert float(sequence_log_probs(table_model(TABLE), REJECTED)[0]) == pytest.approx(math.log(0.1), rel=1e-6)
    values, weights = token_log_probs(table_model(TABLE), REJECTED)
    np.testing.assert_allclose(np.exp(values), [[0.25, 0.1]], rtol=1e-6)
    np.testing.assert_array_equal(weights, [[0.0, 1.0]])


def test_dpo_by_hand():
    gain = (math.log(0.25 * 0.3) - math.log(1 / 9)) - (math.log(0.1) - math.log(1 / 3))
    loss = make_dpo_loss(table_model(FLAT), beta=0.5)
    totals = loss(table_model(TABLE), (CHOSEN, REJECTED))
    expected = math.log(1 + math.exp(-0.5 * gain))
    assert [float(x) for x in totals["loss"]] == pytest.approx([expected, 1.0], rel=1e-5)
    assert [float(x) for x in totals["margin"]] == pytest.approx([0.5 * gain, 1.0], rel=1e-5)
    assert [float(x) for x in totals["accuracy"]] == [1.0, 1.0]
    smooth = make_dpo_loss(table_model(FLAT), beta=0.5, label_smoothing=0.25)(table_model(TABLE), (CHOSEN, REJECTED))
    other = math.log(1 + math.exp(0.5 * gain))
    assert float(smooth["loss"][0]) == pytest.approx(0.75 * expected + 0.25 * other, rel=1e-5)


def test_dpo_starts_at_log_2_and_prefers_what_is_chosen():
    weights = tf.Variable(TABLE)
    loss = make_dpo_loss(table_model(TABLE), beta=1.0)
    first = float(loss(table_model(weights), (CHOSEN, REJECTED))["loss"][0])
    assert first == pytest.approx(math.log(2), rel=1e-6)
    for _ in range(30):
        with tf.GradientTape() as tape:
            total, count = loss(table_model(weights), (CHOSEN, REJECTED))["loss"]
        weights.assign_sub(0.5 * tf.convert_to_tensor(tape.gradient(total, weights)))
    assert float(total / count) < 0.2
    assert sequence_log_probs(table_model(weights), CHOSEN) > sequence_log_probs(table_model(TABLE), CHOSEN)


def test_the_reference_gets_no_gradient():
    reference = tf.Variable(FLAT)
    with tf.GradientTape() as tape:
        total = make_dpo_loss(table_model(reference))(table_model(TABLE), (CHOSEN, REJECTED))["loss"][0]
    assert tape.gradient(total, reference) is None


def test_advantages():
    rewards = np.array([[3.0, 1.0, 2.0, 6.0], [0.0, 0.0, 0.0, 0.0]])
    centred = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(group_advantages(rewards, normalize=False), centred)
    np.testing.assert_allclose(group_advantages(rewards)[0], centred[0] / rewards[0].std(), rtol=1e-6)
    np.testing.assert_array_equal(group_advantages(rewards)[1], np.zeros(4))


@pytest.mark.parametrize(("reward", "size"), [(0.9, 3), (0.7, 7), (0.1, 13), (1 / 3, 7)])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_group_whose_rewards_are_all_the_same_has_no_advantages(reward, size, normalize):
    """In float32 the mean of these misses them by a rounding."""
    found = group_advantages([[reward] * size, [reward] * (size - 1) + [0.0]], normalize)
    np.testing.assert_array_equal(found[0], np.zeros(size))
    assert np.abs(found[1]).min() > 0.005


def policy_gradient(loss, batch):
    weights = tf.Variable(TABLE)
    with tf.GradientTape() as tape:
        total, count = loss(table_model(weights), batch)["loss"]
        mean = total / count
    return tf.convert_to_tensor(tape.gradient(mean, weights)).numpy()


def test_reinforce_moves_along_the_log_probability_times_the_advantage():
    probabilities = np.exp(TABLE.numpy())
    batch = ([[0], [1]], [[1], [2]], [[1.0], [1.0]], [2.0, -1.0], [[0.0], [0.0]])
    expected = np.zeros([3, 3])
    for source, target, advantage in ((0, 1, 2.0), (1, 2, -1.0)):
        expected[source] -= advantage * (np.eye(3)[target] - probabilities[source]) / 2
    np.testing.assert_allclose(policy_gradient(make_policy_loss(), batch), expected, atol=1e-6)


def test_clipping_ends_the_gradient_of_what_has_moved_far_enough():
    texts = ([[0], [0]], [[1], [1]], [[1.0], [1.0]])
    far = np.log([[0.25 / 1.3], [0.25 / 1.1]])  # the ratios are 1.3 and 1.1
    both = policy_gradient(make_policy_loss(clip=0.2), (*texts, [1.0, 1.0], far))
    second = policy_gradient(make_policy_loss(clip=0.2), (*texts, [0.0, 1.0], far))
    np.testing.assert_allclose(both, second, atol=1e-7)
    assert np.abs(second).max() > 0.1
    back = policy_gradient(make_policy_loss(clip=0.2), (*texts, [-1.0, 0.0], far))  # the way back stays open
    assert np.abs(back).max() > 0.1


def test_the_distance_from_the_reference_is_counted():
    batch = ([[0]], [[1]], [[1.0]], [0.0], [[0.0]])
    totals = make_policy_loss(reference=table_model(FLAT), kl=0.5)(table_model(TABLE), batch)
    gap = math.log(1 / 3) - math.log(0.25)
    distance = math.exp(gap) - gap - 1
    assert float(totals["kl"][0]) == pytest.approx(distance, rel=1e-5)
    assert float(totals["loss"][0]) == pytest.approx(0.5 * distance, rel=1e-5)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_what_does_not_count_can_be_as_unlikely_as_it_likes(clip):
    """A prompt's token has a probability of e^-200, whose inverse is infinite in float32."""
    table = tf.tensor_scatter_nd_update(TABLE, [[0, 2]], [-200.0])
    longer = ([[0, 1]], [[2, 2]], [[0.0, 1.0]], [1.0], [[-500.0, math.log(0.3)]])
    plain = ([[1]], [[2]], [[1.0]], [1.0], [[math.log(0.3)]])
    found = []
    for batch in (longer, plain):
        weights = tf.Variable(table)
        with tf.GradientTape() as tape:
            totals = make_policy_loss(clip, table_model(FLAT), kl=0.5)(table_model(weights), batch)
        gradient = tf.convert_to_tensor(tape.gradient(totals["loss"][0], weights))
        found.append([gradient, *totals["loss"], *totals["kl"]])
    for padded, alone in zip(*found, strict=True):
        np.testing.assert_allclose(padded, alone, rtol=1e-6)
    assert np.abs(found[0][0]).max() > 0.1


def test_risk_by_hand():
    texts = ([[0], [0], [1], [1]], [[1], [0], [1], [2]], np.ones([4, 1], np.float32))
    costs = [[1.0, 0.0], [0.2, 0.8]]
    total, count = make_risk_loss(sharpness=2.0)(table_model(TABLE), (*texts, costs))["loss"]
    first = 0.25**2 / (0.25**2 + 0.5**2)
    second = (0.2 * 0.6**2 + 0.8 * 0.3**2) / (0.6**2 + 0.3**2)
    assert [float(total), float(count)] == pytest.approx([first + second, 2.0], rel=1e-5)


@pytest.mark.parametrize("make", [make_dpo_loss, lambda reference: make_policy_loss(reference=reference, kl=0.1)])
def test_the_trained_model_is_no_reference(make):
    model = table_model(TABLE)
    with pytest.raises(ValueError, match="reference must be another model than the trained one"):
        make(model)(model, (CHOSEN, REJECTED))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_dpo_loss(None, beta=0), "beta must be a finite number above 0; got 0"),
        (lambda: make_dpo_loss(None, label_smoothing=0.5), r"label_smoothing must lie in \[0, 0.5\); got 0.5"),
        (lambda: make_policy_loss(clip=0), "clip must be above 0, or None; got 0"),
        (
            lambda: make_policy_loss(kl=1.0),
            "kl must be a finite number of at least 0, and 0 without a reference; got 1.0",
        ),
        (lambda: make_risk_loss(0), "sharpness must be a finite number above 0; got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
