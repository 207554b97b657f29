"""Losses against NumPy, central differences, and each other: in chunks and all at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, make_model

import tfllm
from tfllm.training import lm_loss, make_lm_loss

SETTINGS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "z-loss": {"z_loss": 0.05},
    "both": {"label_smoothing": 0.1, "z_loss": 0.01},
}


class Tiny:
    """Embedding, tanh and head in any precision: a function with `features` and `logits`, as far as a loss knows."""

    def __init__(self, dtype="float64", seed=0):
        random = np.random.default_rng(seed)
        table, head = random.normal(0, 1, (5, 3)), random.normal(0, 1, (3, 5))
        self.weights = [tf.Variable(value, dtype=dtype) for value in (table, head, random.normal(0, 1, 5))]

    def features(self, ids, training=False):
        return tf.tanh(tf.gather(self.weights[0], ids))

    def logits(self, features):
        return features @ self.weights[1] + self.weights[2]

    def __call__(self, ids, training=False):
        return self.logits(self.features(ids))


def tiny_batch():
    random = np.random.default_rng(1)
    ids = random.integers(0, 5, (2, 4))
    return ids[:, :-1], ids[:, 1:], np.array([[1, 0.5, 0], [2, 1, 1]], np.float32)


def make_batch(rows=3, length=8, seed=0):
    random = np.random.default_rng(seed)
    ids = random.integers(0, VOCAB, (rows, length + 1)).astype(np.int32)
    return tuple(map(tf.constant, (ids[:, :-1], ids[:, 1:], random.integers(0, 2, (rows, length)).astype(np.float32))))


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_values_against_numpy(name, chunk):
    settings = {"label_smoothing": 0.0, "z_loss": 0.0} | SETTINGS[name]
    model, (inputs, targets, weights) = Tiny(), tiny_batch()
    logits = model(inputs).numpy()
    log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = np.eye(5)[targets] * (1 - settings["label_smoothing"]) + settings["label_smoothing"] / 5
    per_token = (wanted * (log_z - logits)).sum(-1) + settings["z_loss"] * log_z[..., 0] ** 2
    nats = (np.eye(5)[targets] * (log_z - logits)).sum(-1)
    loss = make_lm_loss(**settings, chunk_tokens=chunk)
    trained, scored = (loss(model, tiny_batch(), training=training) for training in (True, False))
    assert float(trained["loss"][0]) == pytest.approx((per_token * weights).sum(), rel=1e-12)
    assert float(scored["loss"][0]) == pytest.approx((nats * weights).sum(), rel=1e-12)
    assert ("nats" in trained, "nats" in scored) == (name != "plain", False)
    if name != "plain":
        assert float(trained["nats"][0]) == pytest.approx((nats * weights).sum(), rel=1e-12)
    for totals in (trained, scored):
        assert float(totals["accuracy"][0]) == ((logits.argmax(-1) == targets) * weights).sum()
        assert {float(weight) for _, weight in totals.values()} == {weights.sum()}


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_against_central_differences(name, chunk):
    """In float64, with steps of 1e-5, the differences are right to about 1e-9."""
    loss, model, batch = make_lm_loss(**SETTINGS[name], chunk_tokens=chunk), Tiny(), tiny_batch()
    with tf.GradientTape() as tape:
        total = loss(model, batch)["loss"][0]
    for gradient, weight in zip(tape.gradient(total, model.weights), model.weights, strict=True):
        gradient, value = tf.convert_to_tensor(gradient).numpy(), weight.numpy()
        for place in np.ndindex(*value.shape):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[place] += sign * 1e-5
                weight.assign(moved)
                ends.append(float(loss(model, batch)["loss"][0]))
            weight.assign(value)
            assert gradient[place] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def totals_and_gradients(loss, model, batch, training, *, jit_compile=False):
    """Returns what a loss gives, and the gradient of a third of it, so that a factor lost on the way would show."""

    @tf.function(jit_compile=jit_compile)
    def run(batch):
        with tf.GradientTape() as tape:
            totals = loss(model, batch, training=training)
            third = totals["loss"][0] / 3
        weights = model.weights if isinstance(model, Tiny) else [weight.value for weight in model.trainable_weights]
        gradients = tape.gradient(third, weights)
        return totals, [tf.convert_to_tensor(gradient) for gradient in gradients]

    return run(batch)


def without_dropout(model):
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    if hasattr(model, "recurrence"):
        model.recurrence.drop.rate = 0.0
    return model


@pytest.mark.parametrize(
    ("name", "chunk", "training", "jit_compile"),
    [
        ("gru", 5, True, False),
        ("lstm-tied", 24, False, False),
        ("gpt2", 7, True, False),
        ("llama", 100, True, False),
        ("tiny", 1, True, True),
        ("tiny", 4, False, True),
    ],
)
def test_chunks_give_value_and_gradient_of_the_whole(name, chunk, training, jit_compile):
    tiny = name == "tiny"
    model, batch = (Tiny("float32"), tiny_batch()) if tiny else (without_dropout(make_model(name)), make_batch())
    (totals, gradients), (chunked, chunk_gradients) = (
        totals_and_gradients(make_lm_loss(0.1, 0.01, size), model, batch, training, jit_compile=jit_compile)
        for size in (None, chunk)
    )
    assert totals.keys() == chunked.keys()
    for key in totals:
        np.testing.assert_allclose(chunked[key], totals[key], rtol=1e-5)
    for found, expected in zip(chunk_gradients, gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_chunks_in_mixed_precision(dtype):
    model = without_dropout(make_model("lstm-tied", dtype=dtype))
    (totals, gradients), (chunked, chunk_gradients) = (
        totals_and_gradients(make_lm_loss(chunk_tokens=size), model, make_batch(), True) for size in (None, 6)
    )
    rounding = 2e-2 if dtype == "mixed_bfloat16" else 2e-3  # products of other sizes are rounded otherwise
    np.testing.assert_allclose(chunked["loss"], totals["loss"], rtol=rounding)
    for found, expected in zip(chunk_gradients, gradients, strict=True):
        assert np.linalg.norm(found - expected) < rounding * np.linalg.norm(expected)


def sizes_in(function, *arguments):
    """Returns the shapes of all tensors of a graph, those inside loops included."""
    graph = tf.function(function).get_concrete_function(*arguments).graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
    shapes = [shape for node in nodes for shape in node.attr["_output_shapes"].list.shape]
    return [[dimension.size for dimension in shape.dim] for shape in shapes if not shape.unknown_rank]


def test_no_tensor_holds_the_logits_of_all_tokens():
    model, batch = make_model("gpt2"), make_batch(3, 8)

    def largest(loss):
        def gradients(*batch):
            with tf.GradientTape() as tape:
                total = loss(model, batch)["loss"][0]
            return [tf.convert_to_tensor(g) for g in tape.gradient(total, [w.value for w in model.trainable_weights])]

        sizes = [size for size in sizes_in(gradients, *batch) if VOCAB in size and model.dim not in size]
        return max(int(np.prod(size)) for size in sizes)

    assert largest(lm_loss) == 3 * 8 * VOCAB
    assert largest(make_lm_loss(chunk_tokens=4)) == 4 * VOCAB


def test_perplexity_is_that_of_the_plain_loss_and_settings_are_saved(tmp_path):
    model, batch = without_dropout(make_model("gru")), make_batch()
    loss = make_lm_loss(0.3, 0.1, 8)
    model.compile(keras.optimizers.SGD(0.0), loss, accumulate=3, max_skipped=4)
    dataset = tf.data.Dataset.from_tensors(batch)
    fitted = {name: values[0] for name, values in model.fit(dataset, verbose=0).history.items()}
    scored = model.evaluate(dataset, verbose=0, return_dict=True)
    plain = tfllm.evaluation.evaluate_lm(model, [batch])
    assert fitted["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-4)
    assert fitted["loss"] > plain["loss"] + 0.1
    assert scored == pytest.approx({name: plain[name] for name in scored}, rel=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.loss_fn, loaded.accumulate, loaded.skipped_steps.max_skipped) == (loss, 3, 4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: make_lm_loss(label_smoothing=1.0), r"label_smoothing must be in \[0, 1\); got 1.0"),
        (lambda: make_lm_loss(z_loss=-1e-4), "z_loss must be at least 0; got -0.0001"),
        (lambda: make_lm_loss(chunk_tokens=0), "chunk_tokens must be an int of at least 1, or None; got 0"),
        (
            lambda: make_lm_loss(chunk_tokens=4)(lambda ids, training: 0, tiny_batch()),
            "model must have features and logits for chunk_tokens; got <function",
        ),
    ],
)
def test_bad_settings_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()
