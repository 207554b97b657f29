"""Update rules, ten steps by hand in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.training import Cosine
from tfllm.training.update_rules import Adam, Lookahead

START = np.array([1.0, -2.0, 0.5])
GRADIENTS = np.random.default_rng(0).normal(size=[10, 3])


def run(optimizer, jit_compile=False):
    weight = keras.Variable(START, dtype="float64")
    optimizer.build([weight])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [weight]), jit_compile=jit_compile)
    found = []
    for gradient in GRADIENTS:
        step(tf.constant(gradient))
        found.append(weight.numpy())
    return np.array(found)


def by_hand(rule):
    weight, state, found = START.copy(), {}, []
    for t, gradient in enumerate(GRADIENTS, 1):
        weight = rule(weight, gradient, t, state)
        found.append(weight.copy())
    return np.array(found)


def descent(w, g, t, state):
    return w - 0.1 * g


def momentum(w, g, t, state):
    state["v"] = 0.9 * state.get("v", 0) + 0.1 * g
    return w - state["v"]


def adam(w, g, t, state):
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * g**2
    return w - 0.1 * (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.99**t)) + 0.01)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: keras.optimizers.SGD(0.1), descent),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9), momentum),
        (lambda: Adam(0.1, beta_2=0.99, epsilon=0.01), adam),
    ],
    ids=["descent", "momentum", "adam"],
)
def test_ten_steps_by_hand(make, rule, jit_compile):
    np.testing.assert_allclose(run(make(), jit_compile), by_hand(rule), rtol=1e-6)


def test_the_sum_without_a_decay_is_another_rule():
    """Averages that forget nothing, as one finds them printed, go elsewhere."""

    def plain_sums(w, g, t, state):
        state["m"], state["v"] = state.get("m", 0) + 0.1 * g, state.get("v", 0) + 0.01 * g**2
        return w - 0.1 * (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.99**t)) + 0.01)

    assert np.abs(by_hand(plain_sums) - by_hand(adam)).max() > 0.03


@pytest.mark.parametrize("jit_compile", [False, True])
def test_lookahead_by_hand(jit_compile):
    def rule(w, g, t, state):
        fast = momentum(w, g, t, state)
        if t % 3:
            return fast
        state["slow"] = state.get("slow", START) + 0.25 * (fast - state.get("slow", START))
        return state["slow"]

    optimizer = Lookahead(keras.optimizers.SGD(0.1, momentum=0.9), period=3, share=0.25)
    np.testing.assert_allclose(run(optimizer, jit_compile), by_hand(rule), rtol=1e-6)
    assert int(optimizer.iterations) == 10


def test_lookahead_begins_with_the_weights_of_the_first_step():
    """They may be loaded after the optimizer was built."""
    weight = keras.Variable([7.0, 7.0], dtype="float64")
    optimizer = Lookahead(keras.optimizers.SGD(1.0), period=2, share=0.25)
    optimizer.build([weight])
    weight.assign([1.0, 2.0])
    for _ in range(2):
        optimizer.apply([tf.constant([1.0, -1.0], tf.float64)], [weight])
    np.testing.assert_allclose(weight, [1.0 - 0.25 * 2, 2.0 + 0.25 * 2])


def test_the_schedule_is_that_of_the_inner_optimizer():
    optimizer = Lookahead(Adam(Cosine(0.5, steps=9)), period=2)
    run(optimizer)
    assert float(optimizer.learning_rate) == pytest.approx(0.05)


@pytest.mark.parametrize("optimizer", [Adam(0.3, 0.8, 0.9, 0.02), Lookahead(Adam(0.3), period=4, share=0.8)])
def test_comes_back_from_its_config(optimizer):
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    np.testing.assert_array_equal(run(again), run(optimizer))


@pytest.mark.parametrize(
    "option", [{"learning_rate": 0.1}, {"clipnorm": 1.0}, {"weight_decay": 0.1}, {"use_ema": True}]
)
def test_lookahead_takes_no_option_that_it_would_ignore(option):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(option))}'"):
        Lookahead(keras.optimizers.SGD(0.1), **option)


def test_the_config_is_left_as_it_was():
    config = Lookahead(keras.optimizers.SGD(0.1), period=2, share=0.3, name="far").get_config()
    for _ in range(2):
        again = Lookahead.from_config(config)
        assert (again.period, again.share, again.name) == (2, 0.3, "far")


def test_every_random_and_slow_value_is_among_the_variables():
    optimizer = Lookahead(Adam(0.1))
    run(optimizer)
    assert len(optimizer.variables) == 2 + 2 + 3  # two counts and rates, m and v and slow


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(beta_1=1.0), r"beta_1 must lie in \[0, 1\); got 1.0"),
        (lambda: Adam(epsilon=0.0), "epsilon must be above 0; got 0.0"),
        (lambda: Lookahead(keras.optimizers.SGD(), period=0), "period must be an int of at least 1; got 0"),
        (lambda: Lookahead(keras.optimizers.SGD(), share=0), r"share must lie in \(0, 1\]; got 0"),
        (
            lambda: Lookahead(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())),
            "a LossScaleOptimizer around it; got one inside",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
