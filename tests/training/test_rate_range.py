"""The range of learning rates of a problem whose limit is known."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model

from tfllm.picture import Picture
from tfllm.training import Cosine, Lookahead, find_rate_range


class Valley(keras.Model):
    """A weight that the loss 1 + 4 (w - x)² pulls towards each batch's x: gradient descent converges below a rate of 2 / 8."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="zeros")
        self.built = True


def valley_loss(model, batch, training=True):
    return {"loss": (1 + 4 * (model.weight - batch[0]) ** 2, tf.ones([]))}


def still_loss(model, batch, training=True):
    """Shows the weight, whose gradient is 0."""
    return {"loss": (1 + tf.stop_gradient(model.weight.value) + 0 * model.weight, tf.ones([]))}


DATA = [tf.constant([x]) for x in (2.9, 3.0, 3.1)]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_rate_beyond_which_descent_diverges_is_found(jit_compile):
    model = Valley()
    found = find_rate_range(
        model,
        DATA,
        keras.optimizers.SGD(5.0),
        lowest=1e-4,
        highest=10.0,
        steps=200,
        smoothing=0.5,
        loss_fn=valley_loss,
        clip_norm=None,
        jit_compile=jit_compile,
    )
    assert found.steepest < found.best < 0.3
    assert 0.2 < found.learning_rates[-1] < 1.0  # it ended soon after the limit
    np.testing.assert_allclose(found.learning_rates[1:] / found.learning_rates[:-1], 1e5 ** (1 / 199))
    assert len(found.losses) == len(found.smooth) == len(found.learning_rates)
    weight, expected = 0.0, []  # the losses by hand
    for rate, x in zip(found.learning_rates, [2.9, 3.0, 3.1] * 70, strict=False):
        expected.append(1 + 4 * (weight - x) ** 2)
        weight -= rate * 8 * (weight - x)
    np.testing.assert_allclose(found.losses[:100], expected[:100], rtol=1e-4)
    assert float(model.weight) == 0.0


def test_optimizers_inside_of_others_take_the_rates_and_keep_their_settings():
    def find(optimizer):
        settings = {"lowest": 1e-4, "highest": 0.1, "steps": 12, "loss_fn": valley_loss, "clip_norm": None}
        return find_rate_range(Valley(), DATA, optimizer, **settings).losses

    schedule = Cosine(5.0, 40)
    plain = find(keras.optimizers.SGD(schedule))
    np.testing.assert_allclose(find(Lookahead(keras.optimizers.SGD(schedule), share=1.0)), plain)
    half = find(Lookahead(keras.optimizers.SGD(schedule), period=3, share=0.5))
    np.testing.assert_allclose(half[:3], plain[:3])
    assert half[3] > plain[3]  # it went back by half
    scaled = find(keras.optimizers.LossScaleOptimizer(Lookahead(keras.optimizers.SGD(schedule), period=3)))
    np.testing.assert_allclose(scaled, half, rtol=1e-5)


def test_what_is_spared_from_decay_stays_spared():
    model = Valley()
    settings = {"lowest": 0.1, "highest": 1.0, "steps": 10, "loss_fn": still_loss, "clip_norm": None}
    for spared, fixed in (([model.weight], True), ([], False)):
        optimizer = keras.optimizers.SGD(1.0, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(var_list=spared)
        model.weight.assign(1.0)
        losses = find_rate_range(model, DATA, optimizer, **settings).losses
        assert (losses == losses[0]).all() == fixed


def test_a_model_gets_all_its_weights_back_and_the_picture_is_one():
    model = make_model("gpt2")
    ids = tf.constant(np.random.default_rng(0).integers(0, 17, [4, 9]), tf.int32)
    before = [weight.numpy() for weight in model.variables]
    found = find_rate_range(model, [(ids[:, :-1], ids[:, 1:])], steps=20, highest=100.0)
    for weight, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    assert found.steepest <= found.best
    assert isinstance(found.draw(), Picture)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 0.0}, "lowest and highest must be finite and 0 < lowest < highest; got 0.0 and 1.0"),
        ({"lowest": 2.0}, "lowest and highest must be finite and 0 < lowest < highest; got 2.0 and 1.0"),
        ({"steps": 9}, "steps must be an int of at least 10; got 9"),
        ({"smoothing": 1.0}, r"smoothing must lie in \[0, 1\); got 1.0"),
        ({"dataset": []}, "dataset must have a batch; got none"),
        (
            {"loss_fn": lambda model, batch, training: {"loss": (model.weight * np.nan, tf.ones([]))}},
            r"the loss must be a number at the rates from lowest=1e-06 on; got \[\]",
        ),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        find_rate_range(Valley(), settings.pop("dataset", DATA), **{"loss_fn": valley_loss} | settings)
