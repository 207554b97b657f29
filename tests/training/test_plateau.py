"""What follows when a validation loss falls no more: against Keras where Keras has it, by hand where it does not."""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.training import (
    Checkpoints,
    Constant,
    Converged,
    Cosine,
    Plateau,
    ReduceOnPlateau,
    Resume,
    ValidateAverage,
    WeightAverage,
    learning_rates,
    make_optimizer,
    make_schedule,
    optimizers,
)

LOSSES = np.random.default_rng(4).normal(np.linspace(3, 2.6, 40), 0.15).round(3).tolist()


def test_a_plateau_is_its_schedule_times_its_share():
    schedule = Plateau(Cosine(0.3, steps=20, warmup_steps=4))
    np.testing.assert_allclose(learning_rates(schedule, 30), learning_rates(schedule.schedule, 30), rtol=1e-6)
    schedule.share.assign(0.25)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    for each in (schedule, again):
        np.testing.assert_allclose(learning_rates(each, 30), 0.25 * learning_rates(schedule.schedule, 30), rtol=1e-6)
    assert learning_rates(Plateau(0.5, share=0.5), 2).tolist() == [0.25, 0.25]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_compiled_step_follows_the_share(jit_compile):
    weight, schedule = tf.Variable([1.0]), Plateau(0.1)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([weight])
    step = tf.function(lambda: optimizer.apply([tf.ones([1])], [weight]), jit_compile=jit_compile)
    for share in (1.0, 0.5, 0.1):
        schedule.share.assign(share)
        step()
    np.testing.assert_allclose(weight, 1 - 0.1 * (1.0 + 0.5 + 0.1), rtol=1e-6)
    assert step.experimental_get_tracing_count() == 1


class Host(keras.Model):
    """A model that is there to have an optimizer, and to be stopped."""

    def __init__(self, rate):
        super().__init__()
        self.compile(keras.optimizers.SGD(rate), "mse")


def play(callback, model, losses=LOSSES, name="val_loss"):
    """Gives a callback the losses of epochs until it stops training; returns the rate after each."""
    callback.set_model(model)
    model.stop_training, rates = False, []
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {name: loss})
        rates.append(float(model.optimizer.learning_rate))
        if model.stop_training:
            break
    return rates


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (2, 0), (2, 3), (4, 1)])
def test_the_rate_falls_when_keras_s_callback_lets_a_constant_one_fall(patience, cooldown, mode):
    options = {"factor": 0.5, "patience": patience, "cooldown": cooldown, "mode": mode}
    theirs = keras.callbacks.ReduceLROnPlateau("val_loss", min_delta=0.0, min_lr=0.01, **options)
    schedule = Plateau(0.4)
    ours = ReduceOnPlateau(schedule, lowest=0.025, **options)
    expected = play(theirs, Host(0.4))
    np.testing.assert_allclose(play(ours, Host(schedule)), expected, rtol=1e-6)
    assert len(set(expected)) > 3
    play(ours, Host(schedule), LOSSES[:1])
    assert (ours.best, ours.wait, ours.cooling) == (LOSSES[0], 0, 0)  # a training that begins forgets the one before


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_training_ends_when_keras_s_callback_ends_it(patience):
    theirs = keras.callbacks.EarlyStopping("val_loss", patience=patience)
    ours = Converged(patience, min_delta=0.0)
    lengths = [len(play(callback, Host(0.1))) for callback in (theirs, ours)]
    assert lengths[0] == lengths[1] < len(LOSSES)


def test_better_is_relative_to_the_best():
    rule = Converged(patience=2, min_delta=0.1)
    assert [rule.update(value) for value in (10.0, 9.1, 8.9, 8.02, 8.02)] == [False, False, False, False, True]
    assert rule.best == 8.9
    rule = Converged(patience=1, min_delta=0.1, mode="max")
    assert [rule.update(value) for value in (-1.0, -0.8, -0.75)] == [False, False, True]
    rule = Converged(patience=3)  # what is not finite is never the best
    assert [rule.update(value) for value in (float("nan"), float("-inf"), 2.0, float("inf"))] == [False] * 4
    assert (rule.best, rule.wait) == (2.0, 1)


IDS = np.random.default_rng(0).integers(0, 17, 150)


def make_model():
    keras.utils.set_random_seed(1)
    model, schedule = tfllm.RecurrentLM(17, cell="gru", dim=4, dropout=0.3), Plateau(Constant(0.3, warmup_steps=3))
    average = WeightAverage(model, 0.8)
    model.compile(keras.optimizers.Adam(schedule), average=average, run_eagerly=True)
    rules = [ReduceOnPlateau(schedule, patience=1, min_delta=0.02), Converged(3, 0.02), ValidateAverage(average)]
    return model, schedule, rules


class TermAt(keras.callbacks.Callback):
    """Sends SIGTERM to this process after so many batches of training or of validation."""

    def __init__(self, train=None, test=None):
        super().__init__()
        self.left = {"train": train, "test": test}

    def on_train_batch_end(self, batch, logs=None):
        self._count("train")

    def on_test_batch_end(self, batch, logs=None):
        self._count("test")

    def _count(self, kind):
        if self.left[kind] is not None:
            self.left[kind] -= 1
            if self.left[kind] == 0:
                os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_ended_goes_on_with_its_share_its_patience_and_its_average(tmp_path):
    """It is ended inside an epoch after the rate was lowered, and in a validation, while the average is lent."""

    def run(folder, *terms):
        for term in [*terms, TermAt()]:
            model, schedule, rules = make_model()
            data, validation = (tfllm.data.lm_dataset(IDS[:n], None, 5, 4, shuffle=n > 30, seed=3) for n in (90, 30))
            callbacks = [*rules, term, Resume(folder, every_steps=2)]
            try:
                history = model.fit(data, epochs=7, validation_data=validation, verbose=0, callbacks=callbacks).history
            except SystemExit as leave:
                assert leave.code == 143
        weights = [variable.numpy().tobytes() for variable in [*model.variables, *model.average.variables]]
        return history, weights, float(schedule.share.numpy()), [rule.get_state() for rule in rules[:2]]

    straight = run(tmp_path / "a")
    assert run(tmp_path / "b", TermAt(train=10), TermAt(test=2)) == straight
    assert straight[2] < 1 and len(straight[0]["loss"]) < 7


def test_validation_scores_the_average_and_training_goes_on_with_the_weights():
    model, _, (*_, validate) = make_model()
    data = tfllm.data.lm_dataset(IDS[:60], None, 5, 4, shuffle=False)
    history = model.fit(data, validation_data=data, verbose=0, callbacks=[validate]).history
    own = [weight.numpy() for weight in model.trainable_variables]
    last = model.evaluate(data, verbose=0)
    with model.average.lent():
        averaged = model.evaluate(data, verbose=0)
    assert history["val_loss"][0] == pytest.approx(averaged[0], rel=1e-6) != last[0]
    validate.on_test_begin()  # and an exception ends the validation
    assert not np.array_equal(model.trainable_variables[0], own[0])
    validate.on_train_begin()
    for weight, value in zip(model.trainable_variables, own, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_loop_of_one_s_own_keeps_the_rules(tmp_path):
    model, schedule, (reduce, converged, _) = make_model()
    with Checkpoints(tmp_path, model=model, also=[reduce, converged]) as checkpoints:
        checkpoints.restore()
        for loss in (3.0, 2.0, 2.0):
            ended = reduce.update(loss), converged.update(loss)
        checkpoints.save(3)
    assert ended == (True, False)
    model, schedule, (reduce, converged, _) = make_model()
    with Checkpoints(tmp_path, model=model, also=[reduce, converged]) as checkpoints:
        assert checkpoints.restore() == 3
    assert float(schedule.share.numpy()) == 0.5
    assert (reduce.get_state(), converged.get_state()) == (
        {"best": 2.0, "wait": 0, "cooling": 0},
        {"best": 2.0, "wait": 1},
    )


def test_a_missing_value_is_said():
    with pytest.warns(RuntimeWarning, match=r"monitor must be one of \['loss'\]; got 'val_loss'"):
        play(Converged(1), Host(0.1), [1.0], name="loss")


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_by_name_moves_the_weights_and_spares_norms(name):
    model = tfllm.TransformerLM(5, 4, 4, 1, 1, use_bias=True)
    optimizer = make_optimizer(model, name, Constant(0.01), weight_decay=0.5, lookahead=name in ("adamw", "sgd"))
    before = [weight.numpy() for weight in model.trainable_variables]
    zeros = [tf.zeros_like(weight.value) for weight in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    for weight, old in zip(model.trainable_variables, before, strict=True):
        spared = len(weight.shape) < 2
        if name != "ftrl":  # which sets a weight without a gradient to zero
            np.testing.assert_allclose(weight, old * (1 if spared else 1 - 0.01 * 0.5), rtol=1e-5)
    optimizer.apply([zero + 1 for zero in zeros], model.trainable_variables)
    assert int(optimizer.iterations) == 2
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(weight.numpy()).all() and not np.array_equal(weight, old)


def test_schedules_by_name_and_their_warm_ups():
    for name in optimizers.SCHEDULES:
        rates = learning_rates(make_schedule(name, 0.5, 40), 40)
        assert int(rates.argmax()) == (12 if name == "one_cycle" else 20)
        assert rates.max() == pytest.approx(0.5)
    assert learning_rates(make_schedule("cosine", 1.0, 1000), 1000).argmax() == 100
    wsd = learning_rates(make_schedule("wsd", 1.0, 50, warmup_steps=2, decay_steps=10, final=0.5), 51)
    np.testing.assert_allclose(wsd[[0, 2, 40, 45, 50]], [1 / 3, 1, 1, 0.75, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plateau(0.0), "schedule must be a schedule, or a finite rate above 0; got 0.0"),
        (lambda: Plateau(0.1, share=1.5), r"share must lie in \(0, 1\]; got 1.5"),
        (lambda: ReduceOnPlateau(Constant(0.1)), "schedule must be a Plateau; got Constant"),
        (lambda: ReduceOnPlateau(Plateau(0.1), factor=1.0), r"factor must lie in \(0, 1\); got 1.0"),
        (lambda: ReduceOnPlateau(Plateau(0.1), cooldown=-1), "cooldown must be an int of at least 0; got -1"),
        (lambda: ReduceOnPlateau(Plateau(0.1), lowest=-0.1), r"lowest must lie in \[0, 1\]; got -0.1"),
        (lambda: Converged(0), "patience must be an int of at least 1; got 0"),
        (lambda: Converged(2, min_delta=1.0), r"min_delta must lie in \[0, 1\); got 1.0"),
        (lambda: Converged(2, mode="auto"), "mode must be 'min' or 'max'; got 'auto'"),
        (lambda: make_optimizer(None, "adamm"), "optimizer must be one of .* got 'adamm'"),
        (lambda: make_optimizer(None, "adam", 0.0), "learning_rate must be above 0; got 0.0"),
        (lambda: make_optimizer(None, weight_decay=-1.0), "weight_decay must be at least 0; got -1.0"),
        (lambda: make_schedule("cos", 0.1, 9), "schedule must be one of .* got 'cos'"),
        (lambda: make_schedule("cosine", 0.1, 0), "steps must be at least 1; got 0"),
        (
            lambda: make_schedule("cosine", 0.1, 9, warmup_steps=9),
            r"warmup_steps must lie in \[0, 9\), below .*; got 9",
        ),
        (lambda: make_schedule("one_cycle", 0.1, 9, warmup_steps=0), r"warmup_steps must lie in \[1, 9\).*; got 0"),
        (lambda: make_schedule("linear", 0.1, 9, decay_steps=3), "decay_steps must be left out .*; got 3 for 'linear'"),
        (
            lambda: make_schedule("wsd", 0.1, 9, warmup_steps=2, decay_steps=8),
            r"decay_steps must lie in \[1, 7\]; got 8",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
