"""The GradientTape step, under `fit` and in a loop of one's own, against sums worked out in NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, make_model

import tfllm
from tfllm.training import (
    Lookahead,
    Perplexity,
    WeightAverage,
    WeightedMean,
    exclude_from_decay,
    gradient_step,
    lm_loss,
    make_adamw,
    make_train_step,
)
from tfllm.training.optimizers import innermost


def make_batches(count=3, rows=2, length=5, seed=0):
    random = np.random.default_rng(seed)
    ids = random.integers(0, VOCAB, (count, rows, length + 1)).astype(np.int32)
    weights = random.integers(0, 2, (count, rows, length)).astype(np.float32)
    weights[:, 0, 0] = 1
    return [(ids[i, :, :-1], ids[i, :, 1:], weights[i]) for i in range(count)]


def as_dataset(batches):
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches),
        output_signature=tuple(tf.TensorSpec([None, None], kind) for kind in (tf.int32, tf.int32, tf.float32)),
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))


def numpy_scores(model, batches):
    nats = right = weight = 0.0
    for inputs, targets, weights in batches:
        logits = np.asarray(model(inputs), np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= (np.take_along_axis(log_probs, targets[..., None], -1)[..., 0] * weights).sum()
        right += ((logits.argmax(-1) == targets) * weights).sum()
        weight += weights.sum()
    return {"loss": nats / weight, "accuracy": right / weight, "perplexity": np.exp(nats / weight)}


def test_loss_and_accuracy_against_numpy(model):
    batch = make_batches(1, 3, 7)[0]
    totals = lm_loss(model, batch, training=False)
    expected = numpy_scores(model, [batch])
    for name in ("loss", "accuracy"):
        assert float(totals[name][0] / totals[name][1]) == pytest.approx(expected[name], rel=1e-4)


def test_uneven_batches_give_the_number_of_their_union():
    model = make_model("gru")
    batches = [*make_batches(1, 3, 9), *make_batches(1, 1, 2, seed=1)]
    expected = numpy_scores(model, batches)
    model.compile("sgd")
    found = model.evaluate(as_dataset(batches), verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-4)
    scores = tfllm.evaluation.evaluate_lm(model, batches, characters=10)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert scores["tokens"] == sum(batch[2].sum() for batch in batches)
    assert scores["bits_per_character"] == pytest.approx(expected["loss"] * scores["tokens"] / np.log(2) / 10, rel=1e-4)


def test_batches_of_numpy_s_own_types_and_without_weights():
    inputs, targets, _ = make_batches(1)[0]
    expected = numpy_scores(make_model("gru"), [(inputs, targets, np.ones(targets.shape))])
    wide = (inputs.astype(np.int64), targets.astype(np.int64))
    for batch in (wide, (*wide, np.ones(targets.shape))):
        model = make_model("gru")
        model.compile(keras.optimizers.SGD(0.0))
        found = model.evaluate(
            *batch[:2], sample_weight=batch[2] if len(batch) > 2 else None, verbose=0, return_dict=True
        )
        assert found == pytest.approx(expected, rel=1e-4)
        model.fit(*batch[:2], verbose=0)
        step = make_train_step(model, keras.optimizers.SGD(0.0))
        assert np.isfinite(float(step(batch)["loss"]))
        assert tfllm.evaluation.evaluate_lm(model, [batch])["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_refuses_ids_out_of_the_vocabulary(jit_compile):
    model = make_model("gpt2")
    model.compile("adam", jit_compile=jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"targets must lie in \[0, vocab_size=17\); got"):
        model.fit(tfllm.data.lm_dataset([1, 2, 17], None, 2, 1, shuffle=False), verbose=0)


def test_fit_and_a_loop_of_ones_own_do_the_same():
    def make_adam():  # with an epsilon that does not blow up the rounding of gradients near zero
        return keras.optimizers.Adam(0.01, epsilon=1e-3)

    batches = make_batches(4)
    fitted, looped = make_model("gpt2"), make_model("gpt2")
    for model in (fitted, looped):
        np.testing.assert_array_equal(model(batches[0][0]), make_model("gpt2")(batches[0][0]))
    for model in (fitted, looped):  # dropout draws from the weights' own seeds: start both alike
        for weight in model.non_trainable_variables:
            weight.assign(tf.zeros_like(weight.value))
    fitted.compile(make_adam(), clip_norm=0.5)
    history = fitted.fit(as_dataset(batches), verbose=0).history
    step = make_train_step(looped, make_adam(), clip_norm=0.5)
    results = [step(batch) for batch in batches]
    for a, b in zip(fitted.trainable_weights, looped.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    counts = [batch[2].sum() for batch in batches]
    assert history["loss"][0] == pytest.approx(
        np.average([float(r["loss"]) for r in results], weights=counts), rel=1e-5
    )


def test_xla_trains_as_the_graph_does():
    batches = make_batches(4)
    models = [make_model("llama") for _ in range(2)]
    for model, jit in zip(models, (False, True), strict=True):
        for weight in model.non_trainable_variables:
            weight.assign(tf.zeros_like(weight.value))
        model.drop.rate = 0.0
        for block in model.blocks:
            block.drop.rate = block.attention.drop.rate = 0.0
        step = make_train_step(model, keras.optimizers.SGD(0.05), jit_compile=jit)
        for batch in batches:
            step(batch)
    for a, b in zip(models[0].trainable_weights, models[1].trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


class Linear(keras.Model):
    """Logits are one row of weights, so gradients can be worked out by hand."""

    def __init__(self, values):
        super().__init__()
        self.row = self.add_weight(shape=(len(values),), name="row")
        self.row.assign(values)
        self.built = True

    def call(self, ids, training=False):
        return tf.broadcast_to(self.row.value, [*ids.shape, *self.row.shape])


def test_the_gradient_has_the_right_sign_and_length():
    """The documents write y - y_hat; the gradient of cross-entropy is y_hat - y (times the input)."""
    start = np.array([0.5, -1.0, 2.0], np.float32)
    probabilities = np.exp(start) / np.exp(start).sum()
    gradient = probabilities - np.array([0.75, 0.25, 0.0])  # targets 0, 0, 0, 1
    batch = (np.zeros([2, 2], np.int32), np.array([[0, 0], [0, 1]]), np.ones([2, 2], np.float32))
    for clip, length in ((None, np.linalg.norm(gradient)), (0.1, 0.1), (100.0, np.linalg.norm(gradient))):
        model = Linear(start)
        _, norm = gradient_step(model, keras.optimizers.SGD(1.0), batch, clip_norm=clip)
        assert float(norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        np.testing.assert_allclose(start - model.row, gradient * length / np.linalg.norm(gradient), atol=1e-6)


def test_adam_and_momentum_against_their_formulas():
    start = np.array([0.5, -1.0, 2.0])
    batch = (np.zeros([1, 1], np.int32), np.array([[1]]), np.ones([1, 1], np.float32))
    target = np.array([0.0, 1.0, 0.0])

    def run(optimizer, update):
        model, x, memory = Linear(start), start.copy(), [np.zeros(3), np.zeros(3)]
        for t in range(1, 11):
            gradient_step(model, optimizer, batch, clip_norm=None)
            x = update(x, np.exp(x) / np.exp(x).sum() - target, memory, t)
        np.testing.assert_allclose(model.row, x, atol=2e-5)

    def sgd(x, g, memory, t):
        return x - 0.1 * g

    def momentum(x, g, memory, t):
        memory[0] = 0.9 * memory[0] - 0.1 * g
        return x + memory[0]

    def adam(x, g, memory, t):  # Kingma and Ba 2015, with both corrections
        memory[0] = 0.9 * memory[0] + 0.1 * g
        memory[1] = 0.999 * memory[1] + 0.001 * g**2
        return x - 0.1 * memory[0] / (1 - 0.9**t) / (np.sqrt(memory[1] / (1 - 0.999**t)) + 1e-7)

    run(keras.optimizers.SGD(0.1), sgd)
    run(keras.optimizers.SGD(0.1, momentum=0.9), momentum)
    run(keras.optimizers.Adam(0.1), adam)


def test_a_sparse_gradient_is_clipped_by_its_true_length():
    """An embedding row named four times has one gradient, not four; the step must be the dense one."""
    model = make_model("gru")
    batch = (np.full([1, 4], 3), np.array([[1, 2, 3, 4]]), np.ones([1, 4], np.float32))
    with tf.GradientTape() as tape:
        total, weight = lm_loss(model, batch, training=False)["loss"]
        loss = total / weight
    dense = [tf.convert_to_tensor(g) for g in tape.gradient(loss, [w.value for w in model.trainable_weights])]
    model.drop.rate = model.recurrence.drop.rate = 0.0
    _, norm = gradient_step(model, keras.optimizers.SGD(0.0), batch, clip_norm=1.0)
    assert float(norm) == pytest.approx(float(tf.linalg.global_norm(dense)), rel=1e-4)


def test_loss_scaling_leaves_the_step_as_it_is():
    batch = make_batches(1)[0]
    plain, scaled = Linear(np.zeros(VOCAB)), Linear(np.zeros(VOCAB))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    _, norm = gradient_step(plain, keras.optimizers.SGD(1.0), batch, clip_norm=0.05)
    _, scaled_norm = gradient_step(scaled, optimizer, batch, clip_norm=0.05)
    assert float(norm) == pytest.approx(float(scaled_norm), rel=1e-5)
    np.testing.assert_allclose(plain.row, scaled.row, atol=1e-7)


def test_adamw_warms_up_decays_and_spares_biases(model_name, tmp_path):
    model = make_model(model_name)
    optimizer = make_adamw(model, 1000, learning_rate=1e-3, warmup_steps=100, weight_decay=0.1)
    rates = [float(optimizer._learning_rate(step)) for step in (0, 50, 100, 550, 1000, 2000)]
    expected = [1e-3 / 101, 1e-3 * 51 / 101, 1e-3, 0.55e-3, 1e-4, 1e-4]  # nanoGPT's schedule
    np.testing.assert_allclose(rates, expected, rtol=2e-2)
    before = [np.asarray(weight).copy() for weight in model.trainable_weights]
    optimizer.apply([tf.zeros_like(w.value) for w in model.trainable_weights], model.trainable_weights)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        spared = any(name in weight.path for name in ("bias", "gamma", "beta", "scale"))
        np.testing.assert_allclose(weight, old * (1 if spared else 1 - rates[0] * 0.1), rtol=1e-5)

    model.compile(optimizer, steps_per_execution=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    decays = [[m.optimizer._use_weight_decay(w) for w in m.trainable_weights] for m in (model, loaded)]
    assert decays[0] == decays[1]
    assert True in decays[0]
    assert loaded.steps_per_execution == 3


def test_early_stopping_and_checkpoints_through_keras_callbacks(tmp_path):
    model, batches = make_model("lstm"), make_batches(4)
    model.compile(keras.optimizers.SGD(0.0))  # never gets better
    path = tmp_path / "best.keras"
    history = model.fit(
        as_dataset(batches),
        validation_data=as_dataset(batches[:1]),
        epochs=20,
        callbacks=[
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=2),
            keras.callbacks.ModelCheckpoint(path, monitor="val_perplexity", mode="min", save_best_only=True),
        ],
        verbose=0,
    ).history
    assert len(history["loss"]) == 3
    assert set(history) == {n for m in ("loss", "accuracy", "perplexity") for n in (m, f"val_{m}")}
    ids = batches[0][0]
    np.testing.assert_allclose(keras.models.load_model(path)(ids), model(ids), atol=1e-6)


UNEVEN = [*make_batches(2), *make_batches(2, length=3, seed=1), *make_batches(1, rows=1, seed=2)]


@pytest.mark.parametrize(
    ("batches", "accumulate"), [(make_batches(4), 2), (UNEVEN, 1)], ids=["accumulated", "uneven and one left"]
)
def test_steps_in_one_program_of_xla_are_the_steps_one_by_one(batches, accumulate):
    found = []
    for steps in (1, 2):
        model = make_model("gpt2")
        optimizer = keras.optimizers.Adam(0.01, epsilon=1e-3)
        model.compile(optimizer, accumulate=accumulate, jit_compile=True, steps_per_execution=steps)
        history = model.fit(as_dataset(batches), epochs=2, shuffle=False, verbose=0).history
        assert int(optimizer.iterations) == 2 * len(batches)
        found.append(([np.asarray(v) for v in [*model.variables, *optimizer.variables]], history))
    for value, expected in zip(found[1][0], found[0][0], strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-5, rtol=1e-4)
    for key, expected in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key], expected, rtol=1e-4)


def test_steps_in_one_program_of_xla_are_traced_once_a_shape_and_stopped_when_not_finite():
    traces = []

    def counted(model, batch, training=True):
        traces.append(1)
        return lm_loss(model, batch, training)

    model = make_model("gpt2")
    model.compile("adam", counted, jit_compile=True, steps_per_execution=3)
    model.fit(as_dataset(make_batches(6)), epochs=4, shuffle=False, verbose=0)
    assert len(traces) == 1
    model.fit(as_dataset(make_batches(3, length=4)), epochs=2, shuffle=False, verbose=0)
    assert len(traces) == 2

    model.compile(keras.optimizers.SGD(math.inf), jit_compile=True, steps_per_execution=3, max_skipped=3)
    with pytest.raises(FloatingPointError, match="max_skipped=3"):
        model.fit(as_dataset(make_batches(6)), epochs=4, shuffle=False, verbose=0)


def test_a_train_step_is_traced_once_for_one_shape():
    traces = []

    def counted(model, batch, training=True):
        traces.append(1)
        return lm_loss(model, batch, training)

    step = make_train_step(make_model("gru"), keras.optimizers.Adam(), counted)
    for batch in make_batches(5):
        step(batch)
    assert len(traces) == 1


def test_metrics_add_up():
    mean, perplexity = WeightedMean("loss"), Perplexity()
    for metric in (mean, perplexity):
        metric.update_state(3.0, 1.0)
        metric.update_state(1.0, 3.0)
    assert float(mean.result()) == 1.0
    assert float(perplexity.result()) == pytest.approx(np.e)
    mean.reset_state()
    assert float(mean.result()) == 0.0


def test_a_loss_of_ones_own(tmp_path):
    def last_token_loss(model, batch, training=True):
        inputs, targets, weights = batch
        last = tf.one_hot(tf.shape(weights)[1] - 1, tf.shape(weights)[1])
        return lm_loss(model, (inputs, targets, last * tf.ones_like(weights)), training)

    model = make_model("gru")
    model.compile("adam", loss_fn=last_token_loss)
    assert set(model.fit(as_dataset(make_batches(2)), verbose=0).history) == {"loss", "accuracy", "perplexity"}
    model.compile("adam", loss_fn=lambda *arguments, **options: {"loss": lm_loss(*arguments, **options)["loss"]})
    assert set(model.fit(as_dataset(make_batches(2)), verbose=0).history) == {"loss", "perplexity"}
    model.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").compiled  # no code is read from a file


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: model.compile(clip_norm=0), "clip_norm must be above 0 and finite, .* got 0"),
        (lambda model: model.compile(clip_norm=float("inf")), "clip_norm must be above 0 and finite, .* got inf"),
        (lambda model: model.compile(average=0.99), "average must be a WeightAverage of the model .* got 0.99"),
        (
            lambda model: model.compile(average=WeightAverage(make_model("lstm"))),
            "average must be a WeightAverage of the",
        ),
        (lambda model: model.compile(loss="mse"), "loss must be left out, .* got 'mse'"),
        (lambda model: model.compile(metrics=["accuracy"]), r"metrics must be left out, .* got \['accuracy'\]"),
        (lambda model: model.compile("adam", "mse"), "loss_fn must be a function of .* got 'mse'"),
        (lambda model: make_train_step(model, keras.optimizers.SGD(), clip_norm=-1), "clip_norm must be above 0"),
        (lambda model: make_adamw(model, 0), "steps must be at least 1; got 0"),
        (lambda model: make_adamw(model, 5, learning_rate=0.0), "learning_rate must be above 0; got 0.0"),
        (lambda model: tfllm.evaluation.evaluate_lm(model, []), "at least one target"),
    ],
)
def test_bad_settings_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act(make_model("gru"))


def test_float16_needs_a_loss_that_is_scaled():
    model = tfllm.RecurrentLM(8, "gru", 4, dtype="mixed_float16")
    with pytest.raises(ValueError, match=r"optimizer must be a keras\.optimizers\.LossScaleOptimizer .* got SGD"):
        make_train_step(model, keras.optimizers.SGD())


@pytest.mark.parametrize("wrap", [keras.optimizers.LossScaleOptimizer, Lookahead])
def test_a_saved_model_spares_what_it_spared_also_inside_of_another_optimizer(wrap, tmp_path):
    model = tfllm.RecurrentLM(8, "gru", 4)
    optimizer = wrap(keras.optimizers.AdamW(0.1, weight_decay=0.1))
    exclude_from_decay(model, optimizer)
    model.compile(optimizer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    made, found = ([innermost(m.optimizer)._use_weight_decay(w) for w in m.trainable_weights] for m in (model, loaded))
    assert made == found
    assert {True, False} == set(made)
