"""What is shown of a training: counted by hand on a clock of the test's, and read back from the files."""

import csv
import itertools
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from matplotlib.image import imread

import tfllm
from tfllm.training import HistoryFile, LivePicture, Resume, TensorBoard, Throughput, Workers, forecast, watching
from tfllm.training.curves import ForecastLine, draw_curves

IDS = np.random.default_rng(0).integers(0, 17, 90)  # 4 batches of 4 rows of 5 targets


def make_data(**options):
    return tfllm.data.lm_dataset(IDS, None, 5, 4, seed=3, **options)


def make_model(**options):
    keras.utils.set_random_seed(1)
    model = tfllm.RecurrentLM(17, cell="rnn", dim=4, dropout=0.3)
    model.compile(keras.optimizers.Adam(0.02), **({"run_eagerly": True} | options))
    return model


class Clock(keras.callbacks.Callback):
    """A clock on which every call of the train function takes a second, and nothing else takes time."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now = 0.0
        monkeypatch.setattr(watching.time, "perf_counter", lambda: self.now)

    def on_train_batch_end(self, batch, logs=None):
        self.now += 1


@pytest.mark.parametrize(
    ("options", "tokens"), [({}, 20), ({"steps_per_execution": 2}, 40), ({"accumulate": 2}, 20)], ids=str
)
def test_throughput_counts_targets_without_the_first_call_and_validation(monkeypatch, options, tokens):
    model, data = make_model(**options), make_data()
    history = model.fit(
        data, epochs=2, validation_data=data, verbose=0, callbacks=[Clock(monkeypatch), Throughput()]
    ).history
    assert history["tokens_per_second"] == [tokens, tokens]


def test_throughput_leaves_padding_out_and_says_nothing_of_a_single_call(monkeypatch):
    inputs, targets, weights = next(iter(make_data()))
    batch = (inputs, targets, weights * tf.constant([1.0, 1.0, 1.0, 0.0, 0.0]))
    data, model = tf.data.Dataset.from_tensors(batch).repeat(3), make_model()
    callbacks = [Clock(monkeypatch), Throughput(every_seconds=0)]
    assert model.fit(data, verbose=0, callbacks=callbacks).history["tokens_per_second"] == [12]
    alone = model.fit(data.take(1), verbose=0, callbacks=[Throughput()]).history
    assert np.isnan(alone["tokens_per_second"]).all()
    again = model.fit(data.take(1), epochs=2, verbose=0, callbacks=[callbacks[0], Throughput()]).history
    np.testing.assert_array_equal(again["tokens_per_second"], [np.nan, 12])


def test_the_progress_bar_shows_loss_perplexity_and_tokens_per_second(capsys):
    make_model().fit(make_data(), epochs=2, verbose=1, callbacks=[Throughput(every_seconds=0)])
    output = capsys.readouterr().out
    first, last = output.index("Epoch 1"), output.rindex("\r")
    assert "tokens_per_second" in output[first : output.index("Epoch 2")]
    for name in ("loss:", "perplexity:", "accuracy:", "tokens_per_second:"):
        assert name in output[last:]


def test_throughput_needs_a_loss_that_counts_tokens():
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"must be given to LanguageModel\.fit.* got Sequential"):
        model.fit(np.ones([2, 1]), np.ones([2, 1]), verbose=0, callbacks=[Throughput()])


class Cut(Exception):
    """What ends a run in its middle."""


def test_history_and_picture_go_on_where_a_killed_run_was(tmp_path):
    def train(name, cut_after=None):
        calls = itertools.count(1)

        def cut(batch, logs):
            if next(calls) == cut_after:
                raise Cut

        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        picture = LivePicture(folder / "curves.png", every_seconds=1e9)
        callbacks = [HistoryFile(folder / "history.csv"), picture, Resume(folder / "checkpoints", every_steps=2)]
        callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=cut))
        held_out = make_data(shuffle=False)
        make_model().fit(make_data(), epochs=2, validation_data=held_out, verbose=0, callbacks=callbacks)
        return (folder / "history.csv").read_text(), picture.columns()

    whole = train("whole")
    with pytest.raises(Cut):
        train("cut", 7)  # in the second epoch, after a checkpoint in its middle
    assert train("cut") == whole
    rows = list(csv.DictReader(whole[0].splitlines()))
    assert [row["step"] for row in rows] == ["4", "8"]
    assert set(rows[0]) == {"epoch", "step", "learning_rate"} | {
        prefix + name for prefix in ("", "val_") for name in ("loss", "perplexity", "accuracy")
    }
    assert float(rows[1]["learning_rate"]) == pytest.approx(0.02)
    assert imread(tmp_path / "cut" / "curves.png").shape[2] == 4


def test_history_has_every_column_that_came_in_any_epoch(tmp_path):
    recorder = HistoryFile(tmp_path / "history.csv")
    make_model().fit(
        make_data(), epochs=2, validation_data=make_data(), validation_freq=2, verbose=0, callbacks=[recorder]
    )
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert rows[0]["val_loss"] == "nan"
    assert float(rows[1]["val_loss"]) > 0


def events(folder):
    """Returns dict of (tag, step) to (plugin, array) of the event files in a folder, by their protocol alone."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found[value.tag, event.step] = plugin, tf.make_ndarray(value.tensor)
    return found


def test_tensorboard_files_hold_scalars_histograms_samples_and_a_profile(tmp_path):
    model = make_model()
    board = TensorBoard(tmp_path, histograms=2, profile=(5, 6), samples=lambda: "a sample")
    history = model.fit(
        make_data(), epochs=2, validation_data=make_data(), verbose=0, callbacks=[Throughput(), board]
    ).history
    train, validation = events(tmp_path / "train"), events(tmp_path / "validation")
    for name in ("loss", "perplexity", "accuracy"):
        for epoch in range(2):
            step = 4 * (epoch + 1)
            assert train[name, step] == ("scalars", np.float32(history[name][epoch]))
            assert validation[name, step] == ("scalars", np.float32(history[f"val_{name}"][epoch]))
    assert train["learning_rate", 8] == ("scalars", np.float32(0.02))
    assert train["skipped_steps", 8] == ("scalars", 0)
    assert train["tokens_per_second", 8][1] > 0
    assert train["samples", 4] == ("text", np.array([b"a sample"]))
    weights = {weight.path: weight for weight in model.trainable_variables}
    assert {key for key, (plugin, _) in train.items() if plugin == "histograms"} == {(path, 8) for path in weights}
    for path, weight in weights.items():
        left, right, count = train[path, 8][1].T
        assert count.sum() == np.size(weight)
        np.testing.assert_allclose([left[0], right[-1]], [np.min(weight), np.max(weight)], rtol=1e-6)
    assert list((tmp_path / "train" / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_a_profile_is_taken_after_a_fit_that_was_interrupted_in_one(tmp_path):
    def interrupt(batch, logs):
        raise KeyboardInterrupt

    model, data = make_model(), make_data().take(1)
    cut = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(data, verbose=0, callbacks=[TensorBoard(tmp_path / "cut", profile=(0, 9)), cut])
    model.fit(data, verbose=0, callbacks=[TensorBoard(tmp_path, profile=(1, 9))])
    assert list((tmp_path / "train" / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_the_chief_of_several_workers_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "workers_of", lambda strategy: Workers(("a:1", "b:1"), 1))
    history, board = HistoryFile(tmp_path / "h.csv"), TensorBoard(tmp_path, histograms=1, profile=(0, 0))
    picture = LivePicture(tmp_path / "curves.png", every_seconds=0)
    make_model().fit(make_data().take(1), verbose=0, callbacks=[history, picture, board])
    assert not list(tmp_path.iterdir())
    assert history.columns()["step"] == picture.columns()["step"] == [1]


def test_a_histogram_by_hand():
    expected = [[0, 2, 2], [2, 4, 1]]
    np.testing.assert_allclose(watching._histogram(np.array([0.0, 1.0, 4.0, np.nan, np.inf]), 2), expected)
    assert watching._histogram(np.array([np.nan]), 2)[:, 2].sum() == 0


class Notebook:
    """Stands in for IPython: remembers what was displayed and what it was replaced by."""

    def __init__(self, monkeypatch):
        self.figures, self.updates = [], []
        shell = types.SimpleNamespace(kernel=None)
        display = types.SimpleNamespace(display=self.display)
        ipython = types.SimpleNamespace(get_ipython=lambda: shell, display=display, version_info=(9, 0))
        monkeypatch.setitem(sys.modules, "IPython", ipython)

    def display(self, figure, display_id):
        self.figures.append(figure)
        return types.SimpleNamespace(update=self.updates.append)


def test_a_notebook_shows_one_picture_that_is_drawn_again_and_leaves_a_file(tmp_path, monkeypatch):
    notebook, path = Notebook(monkeypatch), tmp_path / "curves.png"
    live = LivePicture(path, title="A title", every_seconds=0)
    seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: written.append(path.exists()))
    written = []
    make_model().fit(make_data().take(1), epochs=3, verbose=0, callbacks=[live, seen])
    assert (len(notebook.figures), len(notebook.updates), written) == (1, 3, [False] * 3)  # the last at the end
    last = notebook.updates[-1].axes[0]
    assert last.get_title() == "A title"
    assert len(last.lines[0].get_xdata()) == 3
    assert imread(path).ndim == 3


def test_the_picture_shows_the_forecast_with_its_interval():
    every = np.arange(100)
    whole = forecast.Forecast(3 - every / 100, 2.9 - every / 100, 3.1 - every / 100)
    line = ForecastLine(np.full(100, 1e-3), whole, begin=10, seen=39, interval=0.9)
    history = {"step": [20, 40], "loss": [3.0, 2.7], "val_loss": [np.nan, 2.6], "learning_rate": [1e-3, 1e-3]}
    top, rate = draw_curves(history, forecast=line).axes
    labels = top.get_legend_handles_labels()[1]
    assert {"90% interval", "fit", "forecast: 2.0100 at the end", "best 2.600 at step 40"} <= set(labels)
    fit, rest = (next(part for part in top.lines if part.get_label().startswith(name)) for name in ("fit", "forecast"))
    assert (fit.get_xdata()[0], fit.get_xdata()[-1], rest.get_xdata()[0], rest.get_xdata()[-1]) == (11, 40, 41, 100)
    assert max(part.get_xdata()[-1] for part in rate.lines) == 100
    low, high = top.get_ylim()
    assert low < 2.01
    assert high >= 3.0
    with pytest.raises(ValueError, match="must hold step where there is a forecast"):
        draw_curves({"loss": [1.0]}, forecast=line)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Throughput(-1), ValueError, "every_seconds must be at least 0; got -1"),
        (lambda: HistoryFile("nowhere/history.csv"), FileNotFoundError, "path must lie in a folder that exists"),
        (lambda: LivePicture("nowhere/curves.png"), FileNotFoundError, "path must lie in a folder that exists"),
        (lambda: LivePicture("curves.png", every_seconds=-1), ValueError, "every_seconds must be at least 0; got -1"),
        (lambda: TensorBoard("logs", histograms=True), ValueError, "histograms must be an int of at least 0; got True"),
        (lambda: TensorBoard("logs", profile=(3, 2)), ValueError, r"a last one not before it; got \(3, 2\)"),
        (lambda: TensorBoard("logs", samples="x"), ValueError, "samples must be a function without arguments; got 'x'"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
