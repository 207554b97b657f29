"""Cross-entropy by the softmax against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.training.losses import cross_entropy


@pytest.mark.parametrize(
    ("vocab", "way"), [(5, "eager"), (2000, "eager"), (2000, "any size"), (2000, "xla"), (5, "xla")]
)
def test_value_gradient_and_hits_are_those_of_tensorflow(vocab, way):
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 4, vocab)).astype(np.float32)
    logits[0, 0] *= 100  # probabilities that underflow
    logits[0, 1, 1:3] = -np.inf
    logits[0, 2] = 0.0  # all alike
    targets = random.integers(3, vocab, (2, 4)).astype(np.int32)
    targets[0, 3] = logits[0, 3].argmax()
    weights = tf.constant(random.random((2, 4)), tf.float32)

    def gradient_and_values(logits, targets):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            nats, right = cross_entropy(logits, targets)
            total = tf.reduce_sum(nats * weights)
        return nats, right, tape.gradient(total, logits)

    run = gradient_and_values
    if way == "any size":
        run = tf.function(
            run, input_signature=[tf.TensorSpec([None, None, None]), tf.TensorSpec([None, None], tf.int32)]
        )
    elif way == "xla":
        run = tf.function(run, jit_compile=True)
    nats, right, gradient = run(tf.constant(logits), tf.constant(targets))
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)
    one_hot = np.eye(vocab, dtype=np.float32)[targets]
    np.testing.assert_allclose(gradient, (tf.nn.softmax(logits) - one_hot) * weights[..., None], atol=1e-6)
    np.testing.assert_array_equal(right, logits.argmax(-1) == targets)
    assert 0 < np.sum(right) < right.shape.num_elements()


def test_a_target_out_of_the_vocabulary_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        cross_entropy(tf.zeros([1, 5]), tf.constant([5]))


@pytest.mark.parametrize("vocab", [5, 2000])
def test_a_target_out_of_the_vocabulary_is_no_number_under_xla(vocab):
    def gradient_and_nats(logits, targets):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            nats, _ = cross_entropy(logits, targets)
        return tape.gradient(nats, logits), nats

    run = tf.function(gradient_and_nats, jit_compile=True)
    gradient, nats = run(tf.zeros([1, 3, vocab]), tf.constant([[-100, 1, vocab]]))
    np.testing.assert_array_equal(np.isnan(nats), [[True, False, True]])
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), [[True, False, True]])
