"""Forward passes written a second time, in plain NumPy from the formulas of the papers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model

import tfllm
from tfllm.layers import rotary_rates, rotate


def weights_of(model):
    """Returns dict of the trained weights by the end of their path, which the references name."""
    return {weight.path.split("/", 1)[1]: np.asarray(weight, np.float64) for weight in model.trainable_weights}


def find(weights, *parts):
    (found,) = [value for path, value in weights.items() if all(part in path for part in parts)]
    return found


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def attention(x, qkv, out, heads, kv_heads, turn=None):
    time, dim = x.shape
    size = dim // heads
    joint = x @ qkv[0] + qkv[1]
    q, k, v = np.split(joint, [heads * size, (heads + kv_heads) * size], axis=1)
    results = []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        q_head, k_head, v_head = (m[:, i * size : (i + 1) * size] for m, i in ((q, head), (k, shared), (v, shared)))
        if turn:
            q_head, k_head = turn(q_head), turn(k_head)
        scores = q_head @ k_head.T / np.sqrt(size)
        scores[np.triu_indices(time, 1)] = -np.inf
        results.append(softmax(scores) @ v_head)
    return np.concatenate(results, 1) @ out[0] + out[1]


def test_gpt2_layout():
    model = make_model("gpt2")
    w = weights_of(model)
    ids = np.array([3, 1, 4, 1, 5])

    def norm(x, path):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * find(w, path, "gamma") + find(w, path, "beta")

    table = find(w, "reversible_embedding")
    x = table[ids] + find(w, "vectors")[: len(ids)]
    for i in range(2):
        block = f"block_{i}/"
        norms = sorted({path.split("/")[1] for path in w if path.startswith(block) and "gamma" in path})
        qkv, out, up, down = (
            (find(w, block, name, "kernel"), find(w, block, name, "bias"))
            for name in ("query_key_value", "output_projection", "up", "down")
        )
        x = x + attention(norm(x, block + norms[0] + "/"), qkv, out, 4, 4)
        y = norm(x, block + norms[1] + "/") @ up[0] + up[1]
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + y @ down[0] + down[1]
    (final,) = {path.split("/")[0] for path in w if "gamma" in path and not path.startswith("block")}
    expected = norm(x, final + "/") @ table.T
    np.testing.assert_allclose(model(ids[None])[0], expected, atol=1e-4)


def test_llama_layout():
    model = make_model("llama")
    w = weights_of(model)
    ids = np.array([3, 1, 4, 1, 5])

    def norm(x, path):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * find(w, path, "scale")

    def turn(x):  # the pair (i, i + 2) of 4 features, angle position * 10000^(-2 i / 4)
        result = np.zeros_like(x)
        for position, row in enumerate(x):
            for i in range(2):
                angle = position * 10000.0 ** (-2 * i / 4)
                a, b = row[i], row[i + 2]
                result[position, i] = a * np.cos(angle) - b * np.sin(angle)
                result[position, i + 2] = a * np.sin(angle) + b * np.cos(angle)
        return result

    tables = [value for path, value in w.items() if "reversible_embedding" in path]
    x = tables[0][ids]
    for i in range(2):
        block = f"block_{i}/"
        norms = sorted({path.split("/")[1] for path in w if path.startswith(block) and "scale" in path})
        qkv, out, up, down = (
            find(w, block, name, "kernel") for name in ("query_key_value", "output_projection", "up", "down")
        )
        x = x + attention(norm(x, block + norms[0] + "/"), (qkv, 0), (out, 0), 4, 2, turn)
        gate, value = np.split(norm(x, block + norms[1] + "/") @ up, 2, axis=1)
        x = x + (gate * sigmoid(gate) * value) @ down
    (final,) = {path.split("/")[0] for path in w if "scale" in path and not path.startswith("block")}
    np.testing.assert_allclose(model(ids[None])[0], norm(x, final + "/") @ tables[1], atol=1e-4)


def test_rotation_keeps_products_at_equal_distance():
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 1, 2, 8)), tf.float32)

    def product(a, b):
        turned = rotate(x, tf.constant([[a, b]]), rotary_rates(8))
        return float(tf.reduce_sum(turned[0, 0, 0] * turned[0, 0, 1]))

    assert product(3, 7) == pytest.approx(product(103, 107), abs=1e-4)
    assert abs(product(3, 7) - product(3, 8)) > 1e-3


def lstm(x, kernel, recurrent, bias, units):
    h = c = np.zeros(units)
    outputs = []
    for row in x:
        i, f, g, o = np.split(row @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)  # the output gate that the documents' pseudo-code lacks
        outputs.append(h)
    return np.array(outputs)


def gru(x, kernel, recurrent, bias, units):
    h = np.zeros(units)
    outputs = []
    for row in x:
        xz, xr, xn = np.split(row @ kernel + bias[0], 3)
        hz, hr, hn = np.split(h @ recurrent + bias[1], 3)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        h = z * h + (1 - z) * np.tanh(xn + r * hn)
        outputs.append(h)
    return np.array(outputs)


def rnn(x, kernel, recurrent, bias, units):
    h = np.zeros(units)
    outputs = []
    for row in x:
        h = np.tanh(row @ kernel + h @ recurrent + bias)
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize(("name", "layer"), [("lstm", lstm), ("gru", gru), ("rnn", rnn)])
def test_recurrent_layout(name, layer):
    model = make_model(name)
    w = weights_of(model)
    ids = np.array([3, 1, 4, 1, 5])
    x = find(w, "embedding")[ids]
    for i in range(model.num_layers):
        path = f"/{name}_{i}/"
        parts = {key: value for key, value in w.items() if path in key}
        recurrent = find(parts, "recurrent_kernel")
        (kernel,) = [value for key, value in parts.items() if key.endswith("/kernel")]
        x = layer(x, kernel, recurrent, find(parts, "bias"), model.dim)
    expected = x @ find(w, "dense", "kernel") + find(w, "dense", "bias")
    np.testing.assert_allclose(model(ids[None])[0], expected, atol=1e-4)


def test_the_documents_models_in_one_line():
    first = keras.Sequential(
        [keras.layers.Embedding(10000, 128), keras.layers.LSTM(128, return_sequences=True), keras.layers.Dense(10000)]
    )
    second = keras.Sequential(
        [keras.layers.Embedding(10000, 256), keras.layers.LSTM(1024, return_sequences=True), keras.layers.Dense(10000)]
    )
    mine = [tfllm.RecurrentLM(10000, dim=128), tfllm.RecurrentLM(10000, embedding_dim=256, dim=1024)]
    ids = np.array([[5, 9999, 0, 17]])
    for theirs, ours in zip((first, second), mine, strict=True):
        theirs(ids)
        ours.set_weights([*theirs.get_weights(), *ours.get_weights()[len(theirs.weights) :]])
        assert ours.count_params() == theirs.count_params() + sum(
            v.shape.num_elements() or 1 for v in ours.non_trainable_weights
        )
        np.testing.assert_allclose(ours(ids), theirs(ids), atol=1e-5)


def test_the_transformer_of_document_003_in_one_line():
    model = tfllm.TransformerLM(1000, max_length=64, dim=512, num_heads=8, num_layers=6)
    block = 4 * 512 * 512 + 8 * 512 * 512 + 2 * 512  # attention, feed-forward, two norms
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 6 * block + 512 + (1000 + 64) * 512
