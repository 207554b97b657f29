"""Formulas in one pass equal TensorFlow's own, values and gradients, and are taken only where they pay."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.layers import one_pass
from tfllm.layers.transformer import TransformerBlock, make_norm, normalized


def formulas():
    mask = tf.constant(np.tril(np.ones([3, 3], bool)))

    def masked(scores, mask):
        return tf.nn.softmax(tf.where(mask, scores, -1e9)) if mask is not None else tf.nn.softmax(scores)

    def normal(x, scale, shift=None):
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, shift, scale, 1e-3)

    def rms(x, scale):
        return x / tf.sqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-3) * scale

    yield "softmax", lambda x: one_pass.masked_softmax(x, None), lambda x: masked(x, None), [(2, 3, 3)]
    yield "masked softmax", lambda x: one_pass.masked_softmax(x, mask), lambda x: masked(x, mask), [(2, 3, 3)]

    def bent(x):  # TensorFlow's own has a constant in float32
        return 0.5 * x * (1 + tf.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    yield "gelu", one_pass.gelu, bent, [(2, 5)]
    yield "swiglu", one_pass.swiglu, lambda x: tf.nn.silu(x[..., :3]) * x[..., 3:], [(2, 6)]
    yield "layer norm", lambda x, *w: one_pass.normalize(x, *w, 1e-3), normal, [(2, 2, 4), (4,), (4,)]
    yield "without shift", lambda x, w: one_pass.normalize(x, w, None, 1e-3), normal, [(2, 2, 4), (4,)]
    yield "rms norm", lambda x, w: one_pass.normalize(x, w, None, 1e-3, centered=False), rms, [(2, 2, 4), (4,)]


@pytest.mark.parametrize(("ours", "plain", "shapes"), [x[1:] for x in formulas()], ids=[x[0] for x in formulas()])
def test_values_and_gradients_equal_those_of_tensorflow(ours, plain, shapes):
    rng = np.random.default_rng(0)
    values = [tf.constant(rng.normal(size=shape) * 2) for shape in shapes]  # float64

    def with_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = function(*values)
            total = tf.reduce_sum(y * np.arange(float(y.shape.num_elements())).reshape(y.shape))
        return [y, *tape.gradient(total, values)]

    for got, wanted in zip(with_gradients(ours), with_gradients(plain), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_norm_equals_its_layer_in_half_precision(norm, monkeypatch):
    layer = make_norm(norm, 1e-5, use_bias=True, dtype="mixed_bfloat16")
    x = tf.cast(np.random.default_rng(0).normal(size=[2, 3, 8]), tf.bfloat16)
    wanted = layer(x)
    monkeypatch.setattr("tfllm.layers.transformer.pays", lambda x, training: True)
    got = normalized(layer, x, training=True)
    assert got.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(got, tf.float32), tf.cast(wanted, tf.float32), atol=0.02)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_a_block_in_one_pass_is_the_same_block(activation, remat, monkeypatch):
    keras.utils.set_random_seed(0)
    block = TransformerBlock(
        8, 2, activation=activation, norm="rms" if activation == "swiglu" else "layer", remat=remat
    )
    x = tf.constant(np.random.default_rng(0).normal(size=[2, 5, 8]), tf.float32)
    block(x)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(block(x, training=True)[0] ** 2)
        return tape.gradient(loss, [weight.value for weight in block.trainable_variables])

    plain = gradients(x)
    monkeypatch.setattr(one_pass, "_LARGE", 1)
    monkeypatch.setattr(one_pass, "_PROGRAMS", {})
    found = tf.function(gradients.python_function)(x)
    assert len(one_pass._PROGRAMS) == 6  # softmax, activation, norm, each there and back
    for got, wanted in zip(found, plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_it_pays_in_training_graphs_for_large_tensors_of_known_shape():
    found = {}

    @tf.function
    def look(known, unknown):
        found["known"], found["small"] = one_pass.pays(known, True), one_pass.pays(known[:1], True)
        found["unknown"], found["decoding"] = one_pass.pays(unknown, True), one_pass.pays(known, False)
        return known

    large = tf.TensorSpec([1024, 256])
    look.get_concrete_function(large, tf.TensorSpec([None, 256]))
    assert found == {"known": True, "small": False, "unknown": False, "decoding": False}
    assert not one_pass.pays(tf.zeros([1024, 256]), True)  # not in a graph


def test_a_fit_in_one_pass_ends_where_a_plain_one_does(monkeypatch):
    def fitted():
        keras.utils.set_random_seed(0)
        model = tfllm.TransformerLM(11, max_length=8, dim=8, num_layers=1, num_heads=2)
        model.compile(keras.optimizers.SGD(0.1))
        ids = np.random.default_rng(0).integers(0, 11, [4, 9])
        model.fit(ids[:, :-1], ids[:, 1:], batch_size=4, epochs=3, verbose=0)
        return model.get_weights()

    plain = fitted()
    monkeypatch.setattr(one_pass, "_LARGE", 1)
    for got, wanted in zip(fitted(), plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
