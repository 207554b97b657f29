"""The hand-written gradient of recurrent layers against Keras's own layers, which evaluation still goes through."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers import RecurrentStack, document_positions

CELLS = ("lstm", "gru", "rnn")
DOCUMENTS = [[1, 1, 1, 2, 2, 3, 3], [1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1]]


def make_stack(cell, dtype="float64"):
    """Makes two layers with weights large enough that gates close."""
    stack = RecurrentStack(cell, 5, 2, dtype=dtype)
    stack(np.zeros([1, 1, 4]))
    random = np.random.default_rng(0)
    for weight in stack.trainable_variables:
        weight.assign(random.normal(0, 0.8, weight.shape))
    return stack


def output_and_gradients(stack, x, positions=None, training=True):
    """Returns the output, and the gradients of a sum that weighs every feature in its own way, by x and all weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = stack(x, positions=positions, training=training)
        weights = tf.cast(tf.sin(tf.range(tf.size(y), dtype=tf.float32)), y.dtype)
        total = tf.reduce_sum(tf.reshape(y, [-1]) * weights)
    return y, *tape.gradient(total, [x, *(weight.value for weight in stack.trainable_variables)])


def inputs(dtype="float64"):
    return tf.constant(np.random.default_rng(1).normal(size=(3, 7, 4)), dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_those_of_keras(cell, packed):
    positions = document_positions(tf.constant(DOCUMENTS)) if packed else None
    stack, x = make_stack(cell), inputs()
    found, expected = (output_and_gradients(stack, x, positions, training) for training in (True, False))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert min(float(tf.reduce_max(tf.abs(gradient))) for gradient in found) > 0.1


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_by_finite_differences(cell):
    stack, x = make_stack(cell), inputs()[:2, :3]
    positions = tf.constant([[0, 1, 0], [0, 1, 2]])
    weights = [x, *(weight.value for weight in stack.trainable_variables)]
    _, *gradients = output_and_gradients(stack, x, positions)

    def total():
        y = stack(x, positions=positions, training=True).numpy().ravel()
        return y @ np.sin(np.arange(y.size, dtype=np.float32)).astype(np.float64)

    random = np.random.default_rng(2)
    for weight, gradient in list(zip(weights, gradients, strict=True))[1:]:
        at = tuple(random.integers(0, size) for size in weight.shape)
        step, values = 1e-5, weight.numpy()
        ends = []
        for sign in (1, -1):
            moved = values.copy()
            moved[at] += sign * step
            weight.assign(moved)
            ends.append(total())
        weight.assign(values)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient.numpy()[at], abs=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_graphs_of_any_length_and_xla_compute_the_same(cell):
    stack, x = make_stack(cell, "float32"), inputs("float32")
    expected = output_and_gradients(stack, x, training=False)
    signature = [tf.TensorSpec([None, None, 4])]
    loose = tf.function(lambda x: output_and_gradients(stack, x), input_signature=signature)
    compiled = tf.function(lambda x: output_and_gradients(stack, x), jit_compile=True)
    for found in (loose(x), compiled(x)):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=5e-6)
    for one, other in zip(loose(x[:1, :4]), output_and_gradients(stack, x[:1, :4]), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_rounds_no_more_than_keras_does(cell):
    exact = output_and_gradients(make_stack(cell, "float32"), inputs("float32"))
    stack, errors = make_stack(cell, "mixed_bfloat16"), []
    for training in (True, False):
        rounded = output_and_gradients(stack, inputs("float32"), training=training)
        assert rounded[0].dtype == tf.bfloat16
        pairs = zip(exact, (tf.cast(value, tf.float32) for value in rounded), strict=True)
        errors.append(np.mean([tf.norm(one - other) / tf.norm(one) for one, other in pairs]))
    assert 0 < errors[0] < 1.3 * errors[1] < 0.1


def test_a_stack_that_first_sees_training_makes_the_same_weights():
    stacks = [RecurrentStack("gru", 3, 2, name="stack") for _ in range(2)]
    for stack, training in zip(stacks, (True, False), strict=True):
        stack(tf.zeros([1, 2, 4]), training=training)
    first, second = ([(weight.path, weight.shape) for weight in stack.trainable_variables] for stack in stacks)
    assert first == second
