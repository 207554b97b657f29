"""Learning-rate schedules against their formulas in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.training import schedules
from tfllm.training.schedules import Constant, Cosine, InverseSquareRoot, Linear, OneCycle, WarmupStableDecay

ALL = {
    "constant": Constant(0.3, warmup_steps=2),
    "cosine": Cosine(0.3, steps=20, warmup_steps=4),
    "linear": Linear(0.3, steps=20, warmup_steps=4),
    "wsd": WarmupStableDecay(0.3, steps=20, decay_steps=5, warmup_steps=4, shape="sqrt"),
    "one cycle": OneCycle(0.3, steps=20),
    "inverse square root": InverseSquareRoot(0.3, warmup_steps=4),
}


def rates(schedule, steps):
    return schedules.learning_rates(schedule, steps)


def test_the_warm_up_rises_from_the_first_step_to_the_peak():
    for schedule in (ALL["constant"], ALL["cosine"], ALL["linear"], ALL["wsd"], ALL["inverse square root"]):
        count = schedule.warmup_steps
        expected = 0.3 * (np.arange(count + 1) + 1) / (count + 1)
        np.testing.assert_allclose(rates(schedule, count + 1), expected, rtol=1e-6)


def test_each_falls_as_its_formula_says():
    done = np.arange(17) / 16  # of the 16 steps behind the warm-up
    np.testing.assert_allclose(rates(ALL["cosine"], 21)[4:], 0.3 * (0.1 + 0.45 * (1 + np.cos(np.pi * done))), rtol=1e-5)
    np.testing.assert_allclose(rates(ALL["linear"], 21)[4:], 0.3 * (1 - done), atol=1e-7)
    stable_then = np.concatenate([np.ones(11), 1 - 0.9 * np.sqrt(np.arange(6) / 5)])
    np.testing.assert_allclose(rates(ALL["wsd"], 21)[4:], 0.3 * stable_then, rtol=1e-5)
    steps = np.arange(4, 30)
    np.testing.assert_allclose(rates(ALL["inverse square root"], 30)[4:], 0.3 * np.sqrt(4 / steps), rtol=1e-5)
    cycle = rates(ALL["one cycle"], 21)
    assert np.argmax(cycle) == 6
    np.testing.assert_allclose(cycle[[0, 6, 20]], [0.012, 0.3, 3e-5], rtol=1e-3)


def test_shapes_of_the_decay():
    def middle(shape):
        return rates(WarmupStableDecay(1.0, steps=8, decay_steps=4, final=0.25, shape=shape), 9)[[4, 6, 8]]

    np.testing.assert_allclose(middle("linear"), [1, 0.625, 0.25])
    np.testing.assert_allclose(middle("exponential"), [1, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(middle("sqrt"), [1, 1 - 0.75 * 0.5**0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_stays_after_the_end_and_comes_back_from_its_config(name):
    schedule = ALL[name]
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    np.testing.assert_array_equal(rates(again, 40), rates(schedule, 40))
    if schedule.steps is not None:
        assert np.ptp(rates(schedule, 40)[20:]) == 0
    assert (rates(schedule, 40) >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_an_optimizer_follows_it(name):
    weight = tf.Variable([1.0])
    optimizer = keras.optimizers.SGD(ALL[name])
    optimizer.build([weight])
    step = tf.function(lambda: optimizer.apply([tf.ones([1])], [weight]))
    for _ in range(8):
        step()
    np.testing.assert_allclose(weight.numpy(), 1 - rates(ALL[name], 8).sum(), rtol=1e-5)


def test_rates_of_a_number_and_of_a_schedule_of_keras():
    np.testing.assert_array_equal(rates(0.5, 3), [0.5, 0.5, 0.5])
    decay = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
    np.testing.assert_allclose(rates(decay, 3), [1, 0.5, 0.25])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "peak must be a finite number above 0; got 0.0"),
        (lambda: Constant(float("nan")), "peak must be a finite number above 0; got nan"),
        (lambda: Constant(1.0, -1), "warmup_steps must be at least 0; got -1"),
        (lambda: Cosine(1.0, steps=10, warmup_steps=10), "steps must be above warmup_steps=10; got 10"),
        (lambda: Linear(1.0, steps=0), "steps must be above warmup_steps=0; got 0"),
        (lambda: Cosine(1.0, steps=10, final=1.5), r"final must lie in \[0, 1\]; got 1.5"),
        (lambda: WarmupStableDecay(1.0, 10, 9, warmup_steps=2), r"decay_steps must lie in \[1, 8\]; got 9"),
        (
            lambda: WarmupStableDecay(1.0, 10, 2, shape="cubic"),
            "shape must be linear, exponential or sqrt; got 'cubic'",
        ),
        (
            lambda: WarmupStableDecay(1.0, 10, 2, final=0.0, shape="exponential"),
            "final must be above 0 for an exponential decay; got 0.0",
        ),
        (lambda: OneCycle(1.0, steps=10, rising_steps=10), "steps must be above rising_steps=10; got 10"),
        (lambda: OneCycle(1.0, steps=10, rising_steps=0), "rising_steps must be at least 1; got 0"),
        (lambda: InverseSquareRoot(1.0, 0), "warmup_steps must be at least 1; got 0"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
