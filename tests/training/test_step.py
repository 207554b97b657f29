"""The optimization step: in parts, without the broken ones, with averaged weights, and with blocks computed twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, make_model

import tfllm
from tfllm.training import (
    SkippedSteps,
    WeightAverage,
    exclude_from_decay,
    gradient_step,
    lm_loss,
    make_risk_loss,
    make_train_step,
)


def make_batch(rows=4, length=6, seed=0, packed=False):
    """Makes a batch whose rows count 1, 2, ... tokens."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, VOCAB, (rows, length + 1)).astype(np.int32)
    weights = (np.arange(length) <= np.arange(rows)[:, None]).astype(np.float32)
    inputs = (
        {"ids": ids[:, :-1], "documents": np.sort(random.integers(1, 4, (rows, length)))} if packed else ids[:, :-1]
    )
    return tf.nest.map_structure(tf.constant, (inputs, ids[:, 1:], weights))


def broken(batch):
    return *batch[:2], batch[2] * np.nan


def still(name, **arguments):
    """Makes a model of the list without dropout."""
    model = make_model(name, **arguments)
    model.drop.rate = 0.0
    if hasattr(model, "recurrence"):
        model.recurrence.drop.rate = 0.0
    for block in getattr(model, "blocks", []):
        block.drop.rate = block.attention.drop.rate = 0.0
    return model


def weights_of(model):
    return [weight.numpy().copy() for weight in model.trainable_variables]


def as_dataset(batches):
    return tf.data.Dataset.from_tensor_slices(tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *batches))


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    ("name", "rows", "accumulate", "way"),
    [
        ("gru", 4, 4, "eager"),
        ("gru", 5, 2, "graph"),
        ("rnn", 4, 2, "xla"),
        ("rnn", 3, 8, "fit"),
        ("gpt2", 4, 2, "packed"),
    ],
)
def test_accumulated_parts_give_the_step_of_the_big_batch(name, rows, accumulate, way):
    found, batch = [], make_batch(rows, packed=way == "packed")
    for parts in (1, accumulate):
        model = still(name)
        start = weights_of(model)
        optimizer = keras.optimizers.SGD(1e-2)
        if way == "eager":
            totals, norm = gradient_step(model, optimizer, batch, clip_norm=None, accumulate=parts)
            loss = totals["loss"][0] / totals["loss"][1]
        elif way == "fit":
            model.compile(optimizer, clip_norm=None, accumulate=parts)
            loss, norm = model.fit(as_dataset([batch]), verbose=0).history["loss"][0], 0.0
        else:
            step = make_train_step(model, optimizer, clip_norm=None, accumulate=parts, jit_compile=way == "xla")
            results = step(batch)
            loss, norm = results["loss"], results["grad_norm"]
        steps = [(new - old) / -1e-2 for new, old in zip(weights_of(model), start, strict=True)]
        found.append((float(loss), float(norm), weights_of(model), steps))
    (loss, norm, weights, steps), (loss_of_parts, norm_of_parts, weights_of_parts, _) = found
    assert loss_of_parts == pytest.approx(loss, rel=1e-6)
    assert norm_of_parts == pytest.approx(norm, rel=1e-5)
    assert max(np.abs(step).max() for step in steps) > 0.1
    for one, other in zip(weights, weights_of_parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_a_mean_of_means_would_be_another_step():
    """The parts above count 1 + 2 and 3 + 4 tokens; means weighted alike would not pass for the big batch."""
    model, batch = still("gru"), make_batch()
    whole, *halves = (
        float(tf.divide(*lm_loss(model, [leaf[rows] for leaf in batch], training=False)["loss"]))
        for rows in (slice(None), slice(2), slice(2, None))
    )
    assert abs(np.mean(halves) - whole) > 1e-2
    assert np.average(halves, weights=[3, 7]) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_accumulation_in_mixed_precision(dtype):
    found = []
    for parts in (1, 2):
        model = still("lstm-tied", dtype=dtype)
        start = weights_of(model)
        optimizer = keras.optimizers.SGD(1.0)
        if dtype == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
        results = make_train_step(model, optimizer, clip_norm=0.5, accumulate=parts)(make_batch())
        steps = np.concatenate([(old - new).ravel() for new, old in zip(weights_of(model), start, strict=True)])
        assert np.linalg.norm(steps) == pytest.approx(0.5, rel=1e-3)
        found.append((float(results["loss"]), float(results["grad_norm"]), steps))
    rounding = 3e-2 if dtype == "mixed_bfloat16" else 3e-3
    assert found[0][:2] == pytest.approx(found[1][:2], rel=rounding)
    assert np.linalg.norm(found[0][2] - found[1][2]) < 0.5 * rounding


def test_parts_are_traced_once_and_dropout_differs_between_them():
    traces = []

    def counted(model, batch, training=True):
        traces.append(1)
        return lm_loss(model, batch, training)

    model = make_model("gpt2")
    step = make_train_step(model, keras.optimizers.SGD(0.0), counted, accumulate=2)
    row = make_batch(1)
    batch = [tf.repeat(leaf, 2, axis=0) for leaf in row]
    losses = {round(float(step(batch)["loss"]), 4) for _ in range(4)}
    assert (len(traces), len(losses)) == (1, 4)
    assert model.drop.seed_generator.state.numpy()[1] == 8  # two masks a step


def test_groups_are_not_cut_apart():
    """Of a batch for `make_risk_loss` the costs have a row a prompt, the rest one a text."""
    model = still("rnn")
    batch = (*(leaf[:4] for leaf in make_batch()), tf.zeros([2, 2]))
    with pytest.raises(ValueError, match=r"accumulate must be 1 where .* differ in rows; got 2 for 4 and 2 rows"):
        gradient_step(model, keras.optimizers.SGD(0.1), batch, make_risk_loss(), accumulate=2)


# ---------------------------------------------------------------- gradients that are not finite


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_gradient_that_is_not_finite_moves_nothing(jit_compile):
    model = still("rnn")
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    average = WeightAverage(model, decay=0.5)
    step = make_train_step(model, optimizer, average=average, jit_compile=jit_compile)
    batch = make_batch()
    step(batch)
    state = [*model.trainable_variables, *optimizer.variables, *average.variables]
    before = [value.numpy().copy() for value in state]
    results = step(broken(batch))
    assert np.isnan(float(results["loss"]))
    assert int(results["skipped"]) == 1
    for value, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert np.isfinite(float(step(batch)["loss"]))
    assert int(optimizer.iterations) == 2
    np.testing.assert_array_equal(step.skipped_steps.counts, [1, 0, 1])


def test_one_broken_part_skips_the_whole_step():
    model, batch = still("rnn"), make_batch()
    before = weights_of(model)
    weights = batch[2].numpy()
    weights[3, 0] = np.inf
    gradient_step(model, keras.optimizers.SGD(1.0), (*batch[:2], weights), accumulate=4)
    for weight, old in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_an_overflow_lowers_the_loss_scale_and_moves_nothing():
    model, batch = still("rnn"), make_batch()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1), initial_scale=1024.0)
    average = WeightAverage(model, decay=0.5)
    step = make_train_step(model, optimizer, average=average)
    before = weights_of(model)
    assert int(step(broken(batch))["skipped"]) == 1
    assert (float(optimizer.dynamic_scale), int(optimizer.iterations)) == (512.0, 0)
    for weight, held, old in zip(weights_of(model), average.variables[1:], before, strict=True):
        np.testing.assert_array_equal(weight, old)
        np.testing.assert_array_equal(held, old)
    step(batch)
    assert (int(optimizer.iterations), int(average.variables[0])) == (1, 1)
    np.testing.assert_array_equal(step.skipped_steps.counts, [1, 0, 1])


@pytest.mark.parametrize("way", ["loop", "fit", "fit, several steps a call"])
def test_a_run_ends_after_too_many_in_a_row(way):
    model, batch = still("rnn"), make_batch()
    before, message = weights_of(model), r"finite in one of max_skipped=3 steps; got \d in a row that were not"
    good_and_bad = [batch, broken(batch), broken(batch)]
    if way == "loop":
        step = make_train_step(model, keras.optimizers.SGD(0.0), max_skipped=3)

        def run(batches):
            for one in batches:
                step(one)

        counts = step.skipped_steps.counts
    else:
        model.compile(keras.optimizers.SGD(0.0), max_skipped=3, steps_per_execution=2 if "several" in way else 1)

        def run(batches):
            model.fit(as_dataset(batches), verbose=0)

        counts = model.skipped_steps.counts
    run(good_and_bad * 4)  # never three in a row
    np.testing.assert_array_equal(counts, [8, 2, 2])
    run([batch] * 3)
    with pytest.raises(FloatingPointError, match=message):
        run([broken(batch)] * 8)
    run([batch] * 4)  # whoever has mended the cause goes on
    for weight, old in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(weight, old)


# ---------------------------------------------------------------- averaged weights and weight decay


def test_the_average_against_its_formula_and_in_generation():
    model, batch = still("gru"), make_batch()
    average = WeightAverage(model, decay=0.75, start=2)
    model.compile(keras.optimizers.SGD(1.0), average=average, run_eagerly=True)
    expected = None
    for i in range(5):
        model.fit(as_dataset([batch]), verbose=0)
        decay = 0.0 if i < 2 else 0.75
        now = weights_of(model)
        expected = (
            now
            if expected is None
            else [decay * old + (1 - decay) * new for old, new in zip(expected, now, strict=True)]
        )
    last = weights_of(model)
    tokenizer = tfllm.CharTokenizer("abcdefghijklmno ")
    settings = {"max_new_tokens": 12, "temperature": 0.0}
    generate = tfllm.TextGenerator(model, tokenizer).generate
    own = generate("a", **settings)
    with average.lent():
        for weight, value in zip(weights_of(model), expected, strict=True):
            np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)
        averaged = generate("a", **settings)
    assert generate("a", **settings) == own != averaged
    with pytest.raises(KeyboardInterrupt), average.lent():
        raise KeyboardInterrupt
    for weight, value in zip(weights_of(model), last, strict=True):
        np.testing.assert_array_equal(weight, value)
    for weight, value in zip(model.trainable_variables, expected, strict=True):
        weight.assign(value)
    assert generate("a", **settings) == averaged


@pytest.mark.parametrize("start", [0, 1])
def test_the_average_forgets_the_weights_that_it_was_made_with(start):
    model = still("rnn")
    average = WeightAverage(model, decay=0.5, start=start)
    values = []
    for value in (3.0, 5.0):  # weights are loaded, and moved by two steps
        for weight in model.trainable_variables:
            weight.assign(tf.fill(weight.shape, value))
        average.update()
        values.append({float(x) for held in average.variables[1:] for x in held.numpy().flat})
    assert values == [{3.0}, {4.0}]


@pytest.mark.parametrize("scaled", [False, True])
def test_any_optimizer_spares_biases_and_norms_from_decay(scaled):
    model = still("gpt2")
    optimizer = keras.optimizers.SGD(0.5, weight_decay=0.2)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    exclude_from_decay(model, optimizer)
    before = weights_of(model)
    optimizer.apply([tf.zeros_like(weight.value) for weight in model.trainable_variables], model.trainable_variables)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        spared = weight.path.endswith(("bias", "gamma", "beta", "scale"))
        np.testing.assert_allclose(weight, old * (1.0 if spared else 1 - 0.5 * 0.2), rtol=1e-6)
    with pytest.raises(ValueError, match="optimizer must not be built before"):
        exclude_from_decay(model, optimizer)


# ---------------------------------------------------------------- blocks computed twice


@pytest.mark.parametrize(
    "way", ["eager", "accumulated", *(pytest.param(way, marks=pytest.mark.slow) for way in ("graph", "xla"))]
)
def test_remat_gives_the_same_steps_with_the_same_dropout(way):
    batch, found = make_batch(packed=way == "accumulated"), []

    def twice(model, batch, training=True):  # two calls before one gradient, as in losses of preference
        totals = [lm_loss(model, batch, training)["loss"] for _ in range(2)]
        return {"loss": (totals[0][0] + 2 * totals[1][0], totals[0][1])}

    for remat in (False, True):
        model = make_model("qwen3" if way == "accumulated" else "gpt2", remat=remat)
        for state in model.non_trainable_variables:
            state.assign(tf.constant([3, 0], tf.int64))
        optimizer = keras.optimizers.SGD(0.1)
        if way == "eager":
            losses = [float(gradient_step(model, optimizer, batch, twice)[0]["loss"][0]) for _ in range(2)]
        else:
            step = make_train_step(
                model, optimizer, twice, accumulate=2 if way == "accumulated" else 1, jit_compile=way == "xla"
            )
            losses = [float(step(batch)["loss"]) for _ in range(2)]
        found.append((losses, weights_of(model), [state.numpy().copy() for state in model.non_trainable_variables]))
    (losses, weights, seeds), (same_losses, same_weights, same_seeds) = found
    assert same_losses == pytest.approx(losses, rel=1e-5)
    for one, other in zip(weights, same_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(seeds, same_seeds)


def test_remat_is_kept_in_the_config():
    model = make_model("gpt2", remat=True)
    copy = type(model).from_config(model.get_config())
    assert copy.remat
    assert all(block.remat for block in copy.blocks)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: model.compile(accumulate=0), "accumulate must be an int of at least 1; got 0"),
        (lambda model: make_train_step(model, keras.optimizers.SGD(), accumulate=2.0), "accumulate must be .* got 2.0"),
        (lambda model: model.compile(max_skipped=0), "max_skipped must be an int of at least 1; got 0"),
        (lambda model: SkippedSteps(True), "max_skipped must be an int of at least 1; got True"),
        (lambda model: WeightAverage(model, decay=1.0), r"decay must be in \[0, 1\); got 1.0"),
        (lambda model: WeightAverage(model, start=-1), "start must be an int of at least 0; got -1"),
    ],
)
def test_bad_settings_are_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act(make_model("gru"))
