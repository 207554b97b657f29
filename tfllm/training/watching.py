"""Callbacks that show a training while it runs: tokens a second, a live picture, `history.csv`, TensorBoard.

They read the device once an epoch, `Throughput` also about once a second, none of them once a step. (Keras itself
waits for the loss of every call of the train function, which `steps_per_execution` makes fewer of.) What they remember is
kept by `Resume`, so that files and pictures of a run that was killed go on where they were. Of several workers the chief alone
writes and draws.
"""

import csv
import io
import math
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from tfllm import files
from tfllm.training.curves import draw_curves
from tfllm.training.distribution import strategy_of, workers_of
from tfllm.training.metrics import WeightedMean


class Throughput(keras.callbacks.Callback):
    """Adds `tokens_per_second` to the logs of `LanguageModel.fit`: to the progress bar, the history, and later callbacks.

    Counted are the targets by their weights, so padding does not count, over the seconds that training took in the epoch so
    far, without validation and without the first call, in which the step is compiled. NaN in an epoch of one call.

    Args:
        every_seconds: float >= 0, for how long a value is shown before the next one is taken.

    Raises:
        ValueError: when `every_seconds` is negative; in `fit`, when the model is no `LanguageModel`.

    Example:
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> model.compile("adam")
        >>> data = tfllm.data.lm_dataset(tf.range(100) % 8, sequence_length=4, batch_size=2)
        >>> history = model.fit(data, verbose=0, callbacks=[Throughput()]).history
        >>> history["tokens_per_second"][0] > 0
        True
    """

    def __init__(self, every_seconds=1.0):
        super().__init__()
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0; got {every_seconds}")
        self.every_seconds = every_seconds
        self._counting, self._start, self._speed = False, None, None

    def on_train_begin(self, logs=None):
        found = [metric for metric in self.model.metrics if isinstance(metric, WeightedMean) and metric.name == "loss"]
        if not found:
            raise ValueError(
                f"Throughput must be given to LanguageModel.fit, whose loss counts tokens; got {type(self.model).__name__}"
            )
        self._loss, self._compiled = found[0], False

    def on_epoch_begin(self, epoch, logs=None):
        self._start = (time.perf_counter(), 0.0) if self._compiled else None
        self._due, self._counting = time.perf_counter() + self.every_seconds, True

    def on_train_batch_end(self, batch, logs=None):
        if self._start is None:
            tokens = self._tokens()
            self._start, self._compiled = (time.perf_counter(), tokens), True
        elif time.perf_counter() >= self._due:
            self._measure()
        if self._speed is not None:
            logs["tokens_per_second"] = self._speed

    def on_test_begin(self, logs=None):  # which sets the count back
        self._stop()

    def on_epoch_end(self, epoch, logs=None):
        self._stop()
        logs["tokens_per_second"] = math.nan if self._speed is None else self._speed

    def get_state(self):
        """Returns dict, what `Resume` keeps."""
        return {"speed": self._speed}

    def set_state(self, state):
        """Sets what `get_state` returned."""
        self._speed = state["speed"]

    def _stop(self):
        if self._counting and self._start is not None:
            self._measure()
        self._counting = False

    def _measure(self):
        began, before = self._start
        tokens = self._tokens() - before
        now = time.perf_counter()  # after the read, which waits for the steps under way
        if tokens > 0:
            self._speed = tokens / (now - began)
        self._due = now + self.every_seconds

    def _tokens(self):
        return float(keras.ops.convert_to_numpy(self._loss.weight))


class _Rows(keras.callbacks.Callback):
    """Gathers a row an epoch: epoch and step, counted from 1, all logs, and the learning rate of the step to come."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch + 1, "step": _steps_done(self.model)}
        self.rows.append(row | {name: float(value) for name, value in logs.items()} | {"learning_rate": rate})
        if _writes(self.model):
            self.show()

    def columns(self):
        """Returns dict of equally long lists, NaN where a row has no value."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: [row.get(name, math.nan) for row in self.rows] for name in names}

    def show(self):
        raise NotImplementedError

    def get_state(self):
        """Returns dict, what `Resume` keeps."""
        return {"rows": self.rows}

    def set_state(self, state):
        """Sets what `get_state` returned."""
        self.rows = state["rows"]


class HistoryFile(_Rows):
    """Writes the history of `fit` to a CSV file, whole after every epoch.

    Columns are `epoch` and `step`, counted from 1, all that the logs hold, and `learning_rate`, that of the step to come. Under
    `Resume` a run that was killed goes on with the rows that it had (Keras's `CSVLogger` writes epochs twice that were done
    again).

    Args:
        path: str or path of the file, `history.csv` for instance; one that stands there is replaced.

    Raises:
        FileNotFoundError: when its folder does not exist.

    Example:
        >>> import pathlib, tempfile
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> model.compile("adam")
        >>> data = tfllm.data.lm_dataset(tf.range(100) % 8, sequence_length=4, batch_size=2)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "history.csv"
        >>> _ = model.fit(data, epochs=2, verbose=0, callbacks=[HistoryFile(path)])
        >>> path.read_text().splitlines()[0]
        'epoch,step,accuracy,loss,perplexity,learning_rate'
    """

    def __init__(self, path):
        super().__init__()
        self.path = _in_a_folder(path)

    def show(self):
        table, columns = io.StringIO(), self.columns()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        files.write_whole(self.path, table.getvalue())


class LivePicture(_Rows):
    """Draws losses, learning rate and speed while `fit` runs, and leaves a PNG file at the end.

    In a notebook one picture is shown and drawn again after an epoch; elsewhere the file is. What it is drawn from comes from
    callbacks before it: `Throughput`, `LossForecast`.

    Args:
        path: str or path of the PNG file; one that stands there is replaced.
        forecast: the `LossForecast` among the callbacks, whose forecast is drawn with its interval, or None.
        title: str.
        every_seconds: float >= 0, how long a picture stands at least, as drawing takes some tenths of a second.

    Raises:
        FileNotFoundError: when the folder of the file does not exist.
        ValueError: when `every_seconds` is negative.

    Example:
        >>> import tempfile
        >>> picture = LivePicture(tempfile.mkdtemp() + "/curves.png")  # model.fit(..., callbacks=[Throughput(), picture])
    """

    def __init__(self, path, *, forecast=None, title="Training", every_seconds=2.0):
        super().__init__()
        if not every_seconds >= 0:
            raise ValueError(f"every_seconds must be at least 0; got {every_seconds}")
        self.path, self.forecast, self.title = _in_a_folder(path), forecast, title
        self.every_seconds, self._shown, self._due = every_seconds, None, 0.0

    def on_train_begin(self, logs=None):
        self._shown, self._due = None, 0.0

    def on_train_end(self, logs=None):
        if self.rows and _writes(self.model):
            self._redraw(last=True)

    def show(self):
        if time.perf_counter() >= self._due:
            self._redraw()

    def draw(self):
        """Returns a `Picture` of what was seen so far.

        Raises:
            ValueError: before the end of the first epoch.
        """
        line = None if self.forecast is None else self.forecast.line()
        return draw_curves(self.columns(), title=self.title, forecast=line)

    def _redraw(self, last=False):
        display, figure = _notebook_display(), self.draw()
        if display is not None and self._shown is None:
            self._shown = display(figure, display_id=True)
        elif display is not None:
            self._shown.update(figure)
        if display is None or last:
            data = io.BytesIO()
            figure.savefig(data, format="png", dpi=110)
            files.write_whole(self.path, data.getvalue())
        self._due = time.perf_counter() + self.every_seconds


class TensorBoard(keras.callbacks.Callback):
    """Writes what TensorBoard shows: scalars after every epoch; on request histograms, samples of text, a profile.

    Scalars are all that the logs hold (with `Throughput` before it, `tokens_per_second`; with `LossForecast`, its
    forecast), `learning_rate` and `skipped_steps`; those of the validation stand under the same names in a folder of their
    own, so that both curves share a chart. The horizontal axis counts optimization steps. Writing does not
    take the package `tensorboard`, as Keras's callback of this name does; looking does: `pip install tfllm[tensorboard]`, then
    `tensorboard --logdir DIRECTORY`.

    Args:
        directory: str or path; each `fit` adds files to it. An epoch that `Resume` does again is written again.
        histograms: int >= 0, epochs between two histograms of every weight that is trained; 0 for none.
        profile: (int, int), the first and the last optimization step, counted from 0, to be profiled, or None. With
            `steps_per_execution` the calls that begin in between are. To look at it takes the package
            `tensorboard-plugin-profile`.
        samples: function without arguments that returns a str or a list of them, called after every epoch, such as
            `lambda: generator.generate("ROMEO:", max_new_tokens=100)`, or None.

    Raises:
        ValueError: when an argument is out of range.

    Example:
        >>> callback = TensorBoard("logs", histograms=5, profile=(10, 14))  # model.fit(..., callbacks=[Throughput(), callback])
    """

    def __init__(self, directory, *, histograms=0, profile=None, samples=None):
        super().__init__()
        if isinstance(histograms, bool) or not isinstance(histograms, int) or histograms < 0:
            raise ValueError(f"histograms must be an int of at least 0; got {histograms!r}")
        if profile is not None and not (len(profile) == 2 and 0 <= profile[0] <= profile[1]):
            raise ValueError(f"profile must be a first step of at least 0 and a last one not before it; got {profile}")
        if samples is not None and not callable(samples):
            raise ValueError(f"samples must be a function without arguments; got {samples!r}")
        self.directory, self.histograms, self.profile, self.samples = (
            pathlib.Path(directory),
            histograms,
            profile,
            samples,
        )
        self._profiling = self._profiled = False

    def on_train_begin(self, logs=None):
        self._profiling, self._writers = False, {}

    def on_epoch_begin(self, epoch, logs=None):
        self._first_batch, self._before = None, None

    def on_train_batch_begin(self, batch, logs=None):
        if self.profile is None or self._profiled or not _writes(self.model):
            return
        if self._before is None:  # one look at the device an epoch
            self._first_batch, self._before = batch, _steps_done(self.model)
        step = self._before + batch - self._first_batch
        if self._profiling and step > self.profile[1]:
            self._stop_profile()
        elif not self._profiling and self.profile[0] <= step <= self.profile[1]:
            self._start_profile()

    def on_epoch_end(self, epoch, logs=None):
        step = _steps_done(self.model)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        scalars = {name: float(value) for name, value in logs.items()} | {"learning_rate": rate}
        if hasattr(self.model, "skipped_steps"):
            scalars["skipped_steps"] = float(self.model.skipped_steps.counts.numpy()[0])
        if not _writes(self.model):
            return
        for name, value in scalars.items():
            part = "validation" if name.startswith("val_") else "train"
            self._write(part, "scalars", name.removeprefix("val_"), np.float32(value), step)
        if self.histograms and (epoch + 1) % self.histograms == 0:
            for weight in self.model.trainable_variables:
                self._write("train", "histograms", weight.path, _histogram(keras.ops.convert_to_numpy(weight)), step)
        if self.samples is not None:
            texts = self.samples()
            self._write("train", "text", "samples", [texts] if isinstance(texts, str) else list(texts), step)
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs=None):
        if self._profiling:
            self._stop_profile()
        for writer in self._writers.values():
            writer.close()

    def _start_profile(self):
        directory = str(self.directory / "train")
        try:
            tf.profiler.experimental.start(directory)
        except tf.errors.AlreadyExistsError:  # of a fit that was interrupted, which ends without `on_train_end`
            tf.profiler.experimental.stop(save=False)
            tf.profiler.experimental.start(directory)
        self._profiling = True

    def _stop_profile(self):
        tf.profiler.experimental.stop()
        self._profiling, self._profiled = False, True

    def _write(self, part, kind, tag, value, step):
        if part not in self._writers:
            self._writers[part] = tf.summary.create_file_writer(str(self.directory / part))
        with self._writers[part].as_default():
            tf.summary.write(tag, tf.constant(value), step, _METADATA[kind])


def _metadata(plugin, data_class):
    plugin_data = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
    return tf.compat.v1.SummaryMetadata(plugin_data=plugin_data, data_class=data_class)


# What `tf.summary.scalar` and its like add to a tensor; they are part of the package tensorboard.
_METADATA = {kind: _metadata(kind, 1 if kind == "scalars" else 2) for kind in ("scalars", "histograms", "text")}


def _histogram(values, buckets=30):
    """Returns float64 [buckets, 3]: the left and right end of every bucket and the number of finite values in it."""
    values = values[np.isfinite(values)].astype(np.float64)
    counts, ends = np.histogram(values, buckets) if values.size else (np.zeros(buckets), np.linspace(0, 1, buckets + 1))
    return np.stack([ends[:-1], ends[1:], counts], 1)


def _notebook_display():
    """Returns IPython's `display` in a notebook, else None."""
    # Whoever runs in a notebook has imported IPython; to import it for a look would cost all others half a second.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return ipython.display.display if hasattr(shell, "kernel") else None


def _in_a_folder(path):
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must lie in a folder that exists; got {str(path)!r}")
    return path


def _writes(model):
    """Says whether this process is the one that writes, of those that train a model."""
    return workers_of(strategy_of(model.trainable_variables)).is_chief


def _steps_done(model):
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))
