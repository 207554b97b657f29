"""Products cut in pieces equal NumPy's, at every number of rows and for sizes that do not divide."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers import projection
from tfllm.layers.projection import Projection, TokenEmbedding

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def every_product_is_worth_cutting(monkeypatch):
    monkeypatch.setattr(projection, "_SMALL", 1)


def normal(*shape):
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 1)])
@pytest.mark.parametrize("size", [8, 10, 37])  # cut in 4, in 5 and not at all
@pytest.mark.parametrize("xla", [False, True])
def test_a_projection_is_a_product_and_a_bias(rows, size, xla):
    layer, x = Projection(6, bias_initializer="ones", activation="relu"), normal(*rows, size)
    layer.build(x.shape)
    found = tf.function(layer, jit_compile=xla)(tf.constant(x))
    np.testing.assert_allclose(found, np.maximum(x @ layer.kernel.numpy() + 1, 0), **CLOSE)


@pytest.mark.parametrize("rows", [(1, 1), (3, 1), (17, 1)])
@pytest.mark.parametrize("size", [8, 10, 37])
@pytest.mark.parametrize("xla", [False, True])
def test_logits_are_products_with_every_vector_of_the_table(rows, size, xla):
    layer, x = TokenEmbedding(size, 6), normal(*rows, 6)
    layer.build([None])
    found = tf.function(lambda x: layer(x, reverse=True), jit_compile=xla)(tf.constant(x))
    np.testing.assert_allclose(found, x @ layer.embeddings.numpy().T, **CLOSE)


def test_one_row_is_a_batch_of_pieces():
    layer = Projection(6, use_bias=False)
    layer.build([None, 8])
    program = tf.function(layer, jit_compile=True).experimental_get_compiler_ir(tf.ones([1, 8]))(stage="hlo")
    assert "f32[4,1,6]" in program


def test_layers_are_kept_in_a_keras_file(tmp_path):
    inputs = keras.Input([8])
    model = keras.Model(inputs, Projection(6)(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.layers[1], Projection)
    np.testing.assert_allclose(loaded(normal(1, 8)), model(normal(1, 8)), **CLOSE)


def test_bfloat16_weights_give_bfloat16():
    layer = Projection(6, dtype="bfloat16")
    found = layer(tf.ones([1, 8], tf.bfloat16))
    assert found.dtype == tf.bfloat16
    expected = layer.kernel.numpy().astype(np.float32).sum(0)[None]
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, atol=0.05)
