"""Runs that are cut off and started again end bit for bit as runs that were not, by both doors; others are refused."""

import json
import os
import pathlib
import signal
import threading

import keras
import kill_worker
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.training import Checkpoints, Resume, checkpoint, make_train_step, resume, snapshot, stream_from

IDS = np.random.default_rng(0).integers(0, 17, 300)


def make_data(**options):
    return tfllm.data.lm_dataset(IDS, None, 5, 4, seed=3, **options)  # 14 batches an epoch


def make_model(optimizer=None, dim=8, **options):
    keras.utils.set_random_seed(1)
    model = tfllm.RecurrentLM(17, cell="gru", dim=dim, dropout=0.3)
    model.compile(optimizer or keras.optimizers.Adam(0.02, use_ema=True), **options)
    return model


_begun = {}


def begin(name, make):
    """Makes the model of a name, or sets it back to its beginning, random states included: tracing it anew takes seconds."""
    if name not in _begun:
        model = make()
        keras.random.uniform([])  # makes Keras's own generator, whose state can then be set back
        variables = snapshot.variables_of(model, model.optimizer, model.metrics)
        _begun[name] = model, variables, snapshot.read_variables(variables), snapshot.random_states()
    model, variables, first, random_states = _begun[name]
    snapshot.write_variables(variables, first)
    snapshot.set_random_states(random_states)
    return model


def begin_model():
    return begin("gru", make_model)


class Cut(Exception):
    """What ends a run in its middle."""


class CutAt(keras.callbacks.Callback):
    """Ends a run at some event, counted in this process: ("train_batch", 5) after the fifth batch."""

    def __init__(self, event, count, cut=None):
        super().__init__()
        self.count, self.cut = count, cut or self._raise
        setattr(self, f"on_{event}_end", self._tick)

    def _tick(self, *_, **__):
        self.count -= 1
        if self.count == 0:
            self.cut()

    def _raise(self):
        raise Cut


class Memory(keras.callbacks.Callback):
    """A callback of one's own with a state: the sum of what it saw, and how often each hook was called."""

    def on_train_begin(self, logs=None):
        self.total, self.calls = np.zeros(2), {"epoch_begin": 0, "batch_begin": 0, "batch_end": 0, "batches": []}

    def on_epoch_begin(self, epoch, logs=None):
        self.calls["epoch_begin"] += 1

    def on_train_batch_begin(self, batch, logs=None):
        self.calls["batch_begin"] += 1

    def on_train_batch_end(self, batch, logs=None):
        self.calls["batch_end"] += 1
        self.calls["batches"].append(batch)
        self.total += logs["loss"]

    def get_state(self):
        return {"total": self.total, "calls": self.calls}

    def set_state(self, state):
        self.total, self.calls = state["total"], state["calls"]


def plateau():
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0),
        keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),  # would count a second beginning twice
        Memory(),
    ]


def run(folder, data, cuts=(), make=begin_model, callbacks=plateau, **options):
    """Trains until nothing cuts the run off, each time from its beginning; returns all that it ends with, as plain values."""
    options = {"epochs": 3, "verbose": 0, "validation_data": make_data()} | options  # other rows in every pass
    for cut in [*cuts, None]:
        model, given = make(), callbacks()
        more = [] if cut is None else [CutAt(*cut)]
        if folder is not None:
            more.append(Resume(folder, every_steps=3))
        try:
            history = model.fit(data(), callbacks=[*given, *more], **options)
        except Cut:
            continue
        except SystemExit as leave:
            assert leave.code == 143
    variables = [*model.variables, *model.optimizer.variables]
    return {
        "history": history.history,
        "epoch": history.epoch,
        "variables": {variable.path: variable.numpy().tobytes() for variable in variables},
        "callbacks": checkpoint.pack(snapshot.callback_states(given), {}, ""),
        "batches": given[-1].calls["batches"],
    }


_undisturbed = {}


def undisturbed():
    """The end of the run that nothing cuts off and nothing saves, made once."""
    if not _undisturbed:
        _undisturbed.update(run(None, lambda: make_data(epochs=1)))
    return _undisturbed


def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "cuts",
    [
        [("train_batch", 5), ("train_batch", 17)],
        [("test_batch", 2), ("train", 1)],
        [("train_batch", 8, sigterm), ("test_batch", 2, sigterm), ("train_batch", 14, sigterm), ("epoch", 1, sigterm)],
    ],
    ids=["in an epoch", "in validation and at ends", "by SIGTERM"],
)
def test_a_fit_that_is_cut_off_ends_as_one_that_is_not(tmp_path, cuts):
    assert run(tmp_path, make_data, cuts) == undisturbed()


def test_any_pipeline_with_steps_of_its_own_and_several_steps_at_once(tmp_path):
    def data():
        examples = tf.data.Dataset.from_tensor_slices((np.resize(IDS, [36, 5]), np.resize(IDS, [36, 5])))
        return examples.shuffle(36, seed=2).batch(3).repeat()

    def make():
        return make_model(keras.optimizers.Adam(0.02, gradient_accumulation_steps=3), steps_per_execution=2)

    options = {
        "make": lambda: begin("several steps", make),
        "callbacks": lambda: [Memory()],
        "steps_per_epoch": 8,
        "validation_data": None,
    }
    straight = run(tmp_path / "a", data, **options)
    again = run(tmp_path / "b", data, [("train_batch", 3), ("train_batch", 6)], **options)
    assert straight == again
    # Keras numbers its batches by the last of those that it runs at once.
    assert straight["batches"] == [1, 3, 5, 7] * 3


def train_loop(folder, steps, cut=None, other_beginning=False):
    model, data = begin("loop", lambda: make_model(keras.optimizers.AdamW(0.02))), make_data()
    optimizer, loss, noise = model.optimizer, keras.metrics.Mean(), tf.random.Generator.from_seed(3)
    train_step = _begun.setdefault("train_step", make_train_step(model, optimizer))
    if other_beginning:
        keras.utils.set_random_seed(2)
        for weight in model.trainable_variables:
            weight.assign(np.random.normal(size=weight.shape))
    with Checkpoints(
        folder, model=model, optimizer=optimizer, data=data, every_steps=2, also=[loss, noise, train_step.skipped_steps]
    ) as checkpoints:
        step = checkpoints.restore()
        history = checkpoints.values.get("history", [])
        for batch in stream_from(data, step).take(steps - step):
            loss.update_state(train_step(batch)["loss"])
            draws = [float(noise.normal([])), float(keras.random.normal([])), np.random.normal()]
            history.append([float(loss.result()), *draws])
            step += 1
            if checkpoints.due(step):
                checkpoints.save(step, history=history)
            if step == cut:
                raise Cut
    return [variable.numpy().tobytes() for variable in [*model.variables, *optimizer.variables]], history


def test_a_loop_that_is_cut_off_ends_as_one_that_is_not(tmp_path):
    for cut in (3, 8, 9):
        with pytest.raises(Cut):
            train_loop(tmp_path / "cut", 12, cut)
    weights, history = train_loop(tmp_path / "cut", 12, other_beginning=True)
    straight, straight_history = train_loop(tmp_path / "straight", 12)
    assert history == straight_history and len(history) == 12
    assert weights == straight


@pytest.mark.slow
def test_a_kill_in_a_save(tmp_path):
    found = kill_worker.prove("fit", 1, 4, str(tmp_path))
    assert found == {"kills": 1, "in_saves": 1, "runs": 1, "different": 0}


@pytest.mark.slow
@pytest.mark.parametrize("door", kill_worker.DOORS)
def test_kill_at_random_moments(tmp_path, door):
    kills, seed = int(os.environ.get("TFLLM_KILLS", "50")), int(os.environ.get("TFLLM_KILL_SEED", "0"))
    found = kill_worker.prove(door, kills, seed, str(tmp_path))
    assert found["kills"] == kills and found["in_saves"] and not found["different"]


def test_sigterm_leaves_by_143_and_the_earlier_handler_is_back(tmp_path):
    heard = []
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit) as leave:
            begin_model().fit(make_data(), verbose=0, callbacks=[CutAt("train_batch", 4, sigterm), Resume(tmp_path)])
        assert leave.value.code == 143 and checkpoint.list_steps(tmp_path) == [4] and not heard
        sigterm()
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_sigterm_after_the_last_save_is_answered(tmp_path):
    with pytest.raises(SystemExit) as leave, small(tmp_path) as checkpoints:
        checkpoints.save(10)
        sigterm()
    assert leave.value.code == 143 and checkpoint.list_steps(tmp_path) == [10]
    with pytest.raises(Cut), small(tmp_path):  # what went wrong is not hidden
        sigterm()
        raise Cut


def small(folder, **options):
    """Checkpoints of a model that is not trained."""
    options = {"model": shared_model(), "every_steps": 10} | options
    return Checkpoints(folder, **options)


def shared_model(_made=[]):  # noqa: B006
    if not _made:
        _made.append(make_model())
    return _made[0]


def test_the_last_and_the_best_stay(tmp_path):
    with small(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore() == 0 and checkpoints.best is None
        for step, value in ((10, 3.0), (20, 1.0), (30, None), (40, 2.0), (50, float("nan"))):
            assert checkpoints.due(step) or checkpoints.writing
            checkpoints.save(step, value=value)
        checkpoints.wait()
        assert checkpoint.list_steps(tmp_path) == [20, 40, 50] and checkpoints.best == 20
    with small(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(20) == 20 and checkpoints.best == 20
        assert not checkpoints.is_best(1.0) and checkpoints.is_best(0.9) and not checkpoints.is_best(float("nan"))
        checkpoints.save(25)  # another way from step 20 on
    assert checkpoint.list_steps(tmp_path) == [20, 25]
    with small(tmp_path, mode="max") as checkpoints:
        assert checkpoints.restore() == 25 and checkpoints.is_best(1.5)


def test_fit_keeps_the_best_epoch(tmp_path):
    history = begin_model().fit(
        make_data(),
        epochs=3,
        verbose=0,
        validation_data=make_data(shuffle=False),
        callbacks=[Resume(tmp_path, every_steps=100, keep=1, monitor="val_loss", mode="max")],
    )
    best = 14 * (1 + int(np.argmax(history.history["val_loss"])))
    assert best < 42 and checkpoint.list_steps(tmp_path) == [best, 42]


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    model = shared_model()
    with small(tmp_path, keep=3) as checkpoints:
        checkpoints.restore()
        for step in (10, 20):
            checkpoints.save(step, told=step)
    path = tmp_path / "step-00000020" / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (tmp_path / ".step-00000030.abc" / "new").mkdir(parents=True)  # what a crash leaves
    before = [variable.numpy() for variable in model.variables]
    with small(tmp_path) as checkpoints:
        with pytest.warns(RuntimeWarning, match="step-00000020/arrays.safetensors has another SHA-256"):
            assert checkpoints.restore() == 10
        assert checkpoints.values == {"told": 10}
        with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="must hold a whole checkpoint"):
            checkpoints.restore(20)
        checkpoints.save(15)
    assert os.listdir(tmp_path) == ["step-00000010", "step-00000015"] or set(os.listdir(tmp_path)) == {
        "step-00000010",
        "step-00000015",
    }
    for array, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(array, variable.numpy())


def test_a_full_disk_is_told_and_training_goes_on(tmp_path, monkeypatch):
    with small(tmp_path) as checkpoints:
        checkpoints.restore()
        checkpoints.save(10, value=2.0)
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, "fsync", _no_space)
            checkpoints.save(20, value=1.0)
            with pytest.warns(RuntimeWarning, match=r"step 20 was not written .*\(.*No space left on device\)"):
                checkpoints.wait()
        assert checkpoint.list_steps(tmp_path) == [10] and checkpoints.best == 10
        checkpoints.save(30)
    assert checkpoint.list_steps(tmp_path) == [10, 30]


def _no_space(handle):
    raise OSError(28, "No space left on device")


def test_saves_are_written_beside_training_one_at_a_time(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint.write_checkpoint

    def slow_disk(*arguments):
        assert threading.current_thread() is not threading.main_thread()
        may_write.wait()
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow_disk)
    variable = shared_model().optimizer.learning_rate
    before = float(variable)
    with small(tmp_path) as checkpoints:
        checkpoints.restore()
        checkpoints.save(10)  # returns while the disk stands still
        assert checkpoints.writing and not checkpoints.due(20)
        variable.assign(0.5)  # is not in the checkpoint, which was taken before
        may_write.set()
        checkpoints.wait()
        assert checkpoints.due(20)
        checkpoints.restore()
    assert float(variable) == before


def test_restoring_waits_for_the_write_under_way(tmp_path, monkeypatch):
    may_write, write = threading.Event(), checkpoint.write_checkpoint

    def slow_disk(*arguments):
        may_write.wait()
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow_disk)
    with small(tmp_path) as checkpoints:
        checkpoints.save(10, told=1)
        wait = checkpoints.wait
        monkeypatch.setattr(checkpoints, "wait", lambda: (may_write.set(), wait()))
        assert checkpoints.restore() == 10 and checkpoints.values == {"told": 1}


def test_another_run_is_refused(tmp_path):
    tokenizer, other = tfllm.CharTokenizer("abc"), tfllm.CharTokenizer("abcd")
    with small(tmp_path, data=make_data(), tokenizer=tokenizer) as checkpoints:
        checkpoints.restore()
        checkpoints.save(10)
    cases = [
        ({"model": make_model(dim=12)}, "model must have dim=8 as in the checkpoints of .*; got 12"),
        ({"model": tfllm.RecurrentLM(17, cell="gru", dim=8)}, "model must have dropout=0.3 .*; got 0.0"),
        ({"optimizer": keras.optimizers.SGD()}, "optimizer must be Adam .*; got SGD"),
        ({"optimizer": keras.optimizers.Adam()}, "optimizer must have the variables .*; got .* instead of"),
        ({"also": [keras.metrics.Mean()]}, "also must have the variables .*; got 2 variables instead of 0"),
        ({"tokenizer": other}, "tokenizer must be the same .*; got another"),
        ({"data": tfllm.data.lm_dataset(IDS, None, 5, 2)}, "batch_size must be 4 .*; got 2"),
        ({"data": tfllm.data.lm_dataset(IDS, None, 6, 4)}, r"data \(dtype, shape\) must be .*5.* got .*6"),
        ({"data": tfllm.data.lm_dataset(IDS[::-1], None, 5, 4, seed=3)}, "data must begin with the same batch"),
    ]
    before = [variable.numpy() for variable in shared_model().variables]
    for change, message in cases:
        checkpoints = small(tmp_path, **{"data": make_data(), "tokenizer": tokenizer} | change)
        with pytest.raises(ValueError, match=message):
            checkpoints.restore()
    with small(tmp_path, data=make_data(), data_name="mine") as checkpoints:
        assert checkpoints.restore() == 10  # whoever names data vouches for it
    for array, variable in zip(before, shared_model().variables, strict=True):
        np.testing.assert_array_equal(array, variable.numpy())


def test_workers_read_the_same_batches_of_a_shuffle(tmp_path, monkeypatch):
    found = []
    for index in range(2):
        workers = tfllm.training.distribution.Workers(("a:1", "b:1"), index)
        monkeypatch.setattr(resume, "workers_of", lambda strategy, workers=workers: workers)
        data = tf.data.Dataset.range(40).shuffle(40, seed=1).batch(4)
        small(tmp_path, data=data)
        found.append([batch.tolist() for batch in data.repeat().take(12).as_numpy_iterator()])
    assert found[0] == found[1]


def test_weights_of_another_shape_are_refused(tmp_path):
    def make(units):
        return keras.Sequential([keras.Input([1]), keras.layers.Dense(units)])

    with small(tmp_path, model=make(2)) as checkpoints:
        checkpoints.restore()
        checkpoints.save(1)
    message = r"model must have the variables .* got .*kernel float32 \[1, 3\] instead of .*kernel float32 \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        small(tmp_path, model=make(3)).restore()


def test_fit_refuses_what_it_cannot_resume(tmp_path):
    model, data = begin_model(), make_data()
    with small(tmp_path / "x", model=model, also=model.metrics, data=data) as checkpoints:
        checkpoints.restore()
        checkpoints.save(
            3, epoch=0, done=3, over=False, stop=False, steps=9, logs={}, history={}, epochs=[], callbacks={}
        )
    resumed = Resume(tmp_path / "x")
    unknown = data.filter(lambda *batch: True)
    cases = [
        (model, (data,), {"callbacks": [resumed]}, "steps_per_epoch must be 9, as .*; got 14"),
        (model, (IDS[None], IDS[None]), {"callbacks": [resumed]}, "x must be a tf.data.Dataset .*; got ndarray"),
        (model, (data,), {"callbacks": [resumed, resumed]}, "callbacks must hold one Resume; got 2"),
        (model, (data,), {"callbacks": [resumed], "initial_epoch": 1}, "initial_epoch must be left out"),
        (model, (unknown,), {"callbacks": [resumed]}, "steps_per_epoch must be given"),
        (
            make_model(steps_per_execution=4),
            (data,),
            {"callbacks": [resumed]},
            "steps_per_execution must divide the 14",
        ),
        (
            make_model(steps_per_execution=2),
            (data,),
            {"callbacks": [Resume(tmp_path / "x")], "steps_per_epoch": 9 * 2},
            "18",
        ),
        (
            model,
            (data,),
            {"callbacks": [resumed, keras.callbacks.BackupAndRestore(str(tmp_path / "y"))]},
            "callbacks must hold Resume or BackupAndRestore; got both",
        ),
    ]
    for wrong, arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            wrong.fit(*arguments, verbose=0, **options)
    plain = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Resume must be given to LanguageModel.fit; got Sequential"):
        plain.fit(np.ones([1, 1]), np.ones([1, 1]), verbose=0, callbacks=[resumed])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps must be an int of at least 1; got 0"),
        ({"keep": True}, "keep must be an int of at least 1; got True"),
        ({"mode": "auto"}, "mode must be 'min' or 'max'; got 'auto'"),
    ],
)
def test_settings_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Resume(tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        small(tmp_path, **options)


def test_checkpoints_refuse_what_would_lose_others(tmp_path):
    with small(tmp_path) as checkpoints:
        checkpoints.save(10)
        with pytest.raises(ValueError, match="step must be at least 10, the one last saved; got 9"):
            checkpoints.save(9)
        with pytest.raises(ValueError, match="values/x must be made of numbers"):
            checkpoints.save(11, x=object())
    with (
        small(tmp_path) as checkpoints,
        pytest.raises(ValueError, match="free of checkpoints unless restore is called"),
    ):
        checkpoints.save(20)
    with (
        small(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"step must be one of \[10\], which stand .*; got 7"),
    ):
        checkpoints.restore(7)
    with pytest.raises(ValueError, match="data must have at least one batch"):
        small(tmp_path, data=make_data().take(0))
    with pytest.raises(ValueError, match=r"data must be a tf.data.Dataset or None; got list"):
        small(tmp_path, data=[1])
    with pytest.raises(ValueError, match="model must be built"):
        small(tmp_path, model=keras.Sequential([keras.layers.Dense(1)]))


def test_resuming_traces_nothing_twice(tmp_path):
    traced = []

    def loss_fn(model, batch, training=True):
        traced.append(training)
        return tfllm.training.lm_loss(model, batch, training)

    def fit(epochs, cut=None):
        cuts = [] if cut is None else [CutAt("train_batch", cut)]
        model.fit(make_data(), epochs=epochs, verbose=0, callbacks=[*cuts, Resume(tmp_path, every_steps=2)])

    model = make_model(loss_fn=loss_fn)
    with pytest.raises(Cut):
        fit(2, cut=5)
    before = len(traced)
    fit(2)
    fit(3)
    assert before == 1 and len(traced) == 1


def test_callbacks_may_stand_in_their_place(tmp_path):
    model = begin("eager", lambda: make_model(run_eagerly=True))
    model.fit(make_data(), None, None, 1, 0, [Resume(tmp_path)], steps_per_epoch=1)
    assert checkpoint.list_steps(tmp_path) == [1]


def test_logs_of_keras_go_on(tmp_path):
    model = begin("eager", lambda: make_model(run_eagerly=True))
    for epochs in (1, 3):
        logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
        callbacks = [logger, Resume(tmp_path / "run")]
        model.fit(make_data(), epochs=epochs, steps_per_epoch=1, verbose=0, callbacks=callbacks)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2"] and not logger.append
    before, after = keras.callbacks.TensorBoard(tmp_path), keras.callbacks.TensorBoard(tmp_path)
    before._global_train_batch, before._global_test_batch = 7, 3
    snapshot.set_callback_states([after], snapshot.callback_states([before]))
    assert (after._global_train_batch, after._global_test_batch) == (7, 3)


def test_a_run_that_stopped_early_stays_so(tmp_path):
    def fit():
        model = begin("sgd", lambda: make_model(keras.optimizers.SGD(0.0)))
        stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1.0)
        return model.fit(make_data(), epochs=5, verbose=0, callbacks=[stop, Resume(tmp_path, every_steps=4)])

    first = fit()
    assert first.epoch == [0, 1]
    second = fit()
    assert (second.epoch, second.history) == (first.epoch, first.history)


def test_every_random_state_is_kept(tmp_path):
    model = begin_model()
    seeds = [variable for variable in model.variables if "seed_generator_state" in variable.path]
    model.fit(make_data(), verbose=0, callbacks=[Resume(tmp_path)])
    after = [seed.numpy().tolist() for seed in seeds]
    assert any(counter > 0 for _, counter in after)
    model = begin_model()
    assert [seed.numpy().tolist() for seed in seeds] != after
    with Checkpoints(tmp_path, model=model, also=model.metrics) as checkpoints:
        assert checkpoints.restore() == 14
    assert [v.numpy().tolist() for v in model.variables if "seed_generator_state" in v.path] == after


def test_an_optimizer_s_own_random_generator_is_found():
    class Noisy(keras.optimizers.SGD):
        def __init__(self):
            super().__init__()
            self.noise = keras.random.SeedGenerator(3)

    model = shared_model()
    for optimizer in (Noisy(), keras.optimizers.LossScaleOptimizer(Noisy())):
        optimizer.build(model.trainable_variables)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        found = snapshot.variables_of(model, optimizer).values()
        assert any(variable is inner.noise.state for variable in found)


def test_a_schedule_s_variable_is_found_however_deep_its_optimizer_is():
    model, schedule = shared_model(), tfllm.training.Plateau(0.1)
    schedule.myself = schedule  # what holds itself is looked into once
    inner = tfllm.training.Lookahead(keras.optimizers.Adam(schedule))
    for optimizer in (inner, keras.optimizers.LossScaleOptimizer(inner)):
        optimizer.build(model.trainable_variables)
        assert any(variable is schedule.share for variable in snapshot.variables_of(model, optimizer).values())


def test_validation_by_steps_goes_on_with_the_next_rows(tmp_path):
    def validate(folder, ends):
        model = begin("still", lambda: make_model(keras.optimizers.SGD(0.0), run_eagerly=True))
        options = {"steps_per_epoch": 1, "validation_steps": 1, "verbose": 0}
        for epochs in ends:
            data = tfllm.data.lm_dataset(IDS[:50], None, 5, 4, seed=3)  # 2 batches a pass
            more = [] if folder is None else [Resume(tmp_path / folder)]
            history = model.fit(make_data(), validation_data=data, epochs=epochs, callbacks=more, **options)
        return history.history["val_loss"]

    whole = validate(None, [3])
    assert len(set(whole)) == 3  # of other rows each time
    assert validate("cut", [1, 3]) == whole


def test_data_sets_begin_with_any_pass():
    for options in ({"start_step": 5, "epochs": 2}, {"shuffle": False}, {"epochs": None}):
        data = tfllm.data.lm_dataset(IDS[:50], None, 5, 4, seed=3, **options)
        passes = [[ids.tolist() for ids, *_ in data.take(5).as_numpy_iterator()] for _ in range(3)]
        again = data.from_pass(2)
        assert [ids.tolist() for ids, *_ in again.take(5).as_numpy_iterator()] == passes[2]
        assert int(again.cardinality()) == int(data.cardinality())


@pytest.mark.parametrize(
    "make",
    [
        lambda **k: tfllm.data.lm_dataset(IDS, None, 5, 4, seed=3, **k),
        lambda **k: tfllm.data.lm_dataset(IDS, None, 5, 4, shuffle=False, **k),
        lambda **k: tfllm.data.packed_dataset([IDS[:7], IDS[7:20], IDS[20:90]], None, 5, 2, seed=1, **k),
        lambda **k: tfllm.data.pair_dataset(
            [[1, 2], [3], [4]], [[5], [6, 7], [8]], begin_id=9, end_id=10, batch_size=1, **k
        ),
    ],
    ids=["lm", "lm in order", "packed", "pairs"],
)
@pytest.mark.parametrize(("start", "step"), [(0, 0), (0, 37), (5, 2)])
def test_streams_begin_anywhere(make, start, step):
    slow = make(start_step=start).repeat().skip(step).take(3)
    for expected, found in zip(slow, stream_from(make(start_step=start), step), strict=False):
        tf.nest.map_structure(np.testing.assert_array_equal, expected, found)


def test_only_plain_files_are_written(tmp_path):
    with small(tmp_path) as checkpoints:
        checkpoints.save(1, told={"deep": [1, np.ones(2)]})
    for path in pathlib.Path(tmp_path).rglob("*.json"):
        json.loads(path.read_text())
    assert not [name for name in ("pickle", "marshal", "dill") if name in vars(resume) or name in vars(checkpoint)]
