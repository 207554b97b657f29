"""Adam in one pass against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.training.fused import apply_adam, is_fusable
from tfllm.training.schedules import Linear

MAKERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adam with decay": lambda: keras.optimizers.Adam(0.1, weight_decay=0.3),
    "adamw": lambda: keras.optimizers.AdamW(Linear(0.2, 10), weight_decay=0.3, beta_1=0.8, beta_2=0.9, epsilon=1e-3),
}


def make(name):
    optimizer = MAKERS[name]()
    weights = [keras.Variable(np.linspace(-1, 1, 6).reshape(2, 3), dtype="float32"), keras.Variable([1.0, 2.0])]
    if optimizer.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=weights[1:])
    optimizer.build(weights)
    return optimizer, weights


@pytest.mark.parametrize("name", MAKERS)
def test_five_steps_are_those_of_keras(name):
    random = np.random.default_rng(0)
    (ours, our_weights), (theirs, their_weights) = make(name), make(name)
    assert is_fusable(ours, our_weights)
    for _ in range(5):
        gradients = [tf.constant(random.normal(size=weight.shape), tf.float32) for weight in our_weights]
        apply_adam(ours, gradients, our_weights, tf.constant(0.5), tf.constant(True))
        theirs.apply([0.5 * gradient for gradient in gradients], their_weights)
    for one, other in zip([*ours.variables, *our_weights], [*theirs.variables, *their_weights], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)  # 1 - beta_2 ** step is rounded


@pytest.mark.parametrize("jit_compile", [False, True])
def test_what_is_not_finite_moves_nothing(jit_compile):
    optimizer, weights = make("adamw")
    apply = tf.function(
        lambda finite, *gradients: apply_adam(optimizer, gradients, weights, tf.constant(1.0), finite),
        jit_compile=jit_compile,
    )
    apply(tf.constant(True), tf.ones([2, 3]), tf.ones([2]))
    before = [value.numpy().copy() for value in [*optimizer.variables, *weights]]
    apply(tf.constant(False), tf.fill([2, 3], np.nan), tf.constant([np.inf, 1.0]))
    for value, old in zip([*optimizer.variables, *weights], before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(),
        keras.optimizers.Nadam(),  # a kind of Adam with a formula of its own
        keras.optimizers.Adam(amsgrad=True),
        keras.optimizers.Adam(global_clipnorm=1.0),
        keras.optimizers.AdamW(use_ema=True),
        keras.optimizers.AdamW(gradient_accumulation_steps=2),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
    ],
)
def test_optimizers_with_options_go_through_keras(optimizer):
    optimizer.build([])
    assert not is_fusable(optimizer, [])


def test_a_weight_that_the_optimizer_does_not_know_is_left_to_keras():
    optimizer, weights = make("adamw")
    assert not is_fusable(optimizer, [*weights, keras.Variable([1.0])])
