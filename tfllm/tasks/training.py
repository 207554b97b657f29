"""The training of a task: `FittedModel.fit` with a progress bar, the best weights by validation, history and curves.

Left out: checkpoints on the way, as `tfllm train` has them, because a task trains for minutes.
"""

import csv
import dataclasses
import io
import math
import pathlib
import time

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tfllm import files
from tfllm.training import make_optimizer, make_schedule
from tfllm.training.curves import draw_curves

HISTORY, CURVES = "history.csv", "curves.png"
_LEAST_FOR_XLA = 50  # steps; compiling takes as long as some dozens of them


@dataclasses.dataclass(frozen=True)
class Watch:
    """Where a training shows what it does.

    Attributes:
        console: `rich.console.Console`.
        folder: path of a folder that exists, for history and curves, or None.
        title: str, of the curves.
    """

    console: Console = dataclasses.field(default_factory=lambda: Console(quiet=True))
    folder: pathlib.Path | None = None
    title: str = "training"


def fit_model(
    model,
    train,
    validation,
    *,
    steps,
    evaluations,
    learning_rate,
    weight_decay=0.1,
    loss_fn=None,
    jit_compile=False,
    monitor="val_loss",
    label="training",
    watch=None,
):
    """Trains a model and leaves it with its best weights.

    Args:
        model: a `FittedModel`.
        train: endless `tf.data.Dataset` of batches.
        validation: `tf.data.Dataset` of batches.
        steps: int >= 1.
        evaluations: int >= 1, on the way; the best weights are those of one of them.
        learning_rate: float > 0, the highest rate; a warm-up leads to it and a cosine from it.
        weight_decay: float >= 0, of AdamW.
        loss_fn: as `compile` takes it, or None.
        jit_compile: bool, whether XLA compiles the steps, where they are many; needs batches of one shape.
        monitor: "val_loss", whose lowest value is best, or another entry of the logs, whose highest is.
        label: str, what the progress bar says.
        watch: `Watch`, or None to show and write nothing.

    Returns:
        dict of lists, the history: `step`, `loss`, `val_loss`, `learning_rate`, ..., a value an evaluation.

    Raises:
        ValueError: when the loss is not finite.
    """
    watch = watch or Watch()
    interval = -(-steps // min(evaluations, steps))
    together = jit_compile and steps >= _LEAST_FOR_XLA
    at_once = next(count for count in (10, 5, 4, 2, 1) if steps % count == interval % count == 0) if together else 1
    schedule = make_schedule("cosine", learning_rate, steps)
    optimizer = make_optimizer(model, "adamw", schedule, weight_decay=weight_decay)
    model.compile(optimizer, loss_fn, jit_compile=together, steps_per_execution=at_once)
    with Progress(
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} steps/s "),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=watch.console,
    ) as progress:
        recorder = _Recorder(watch, progress, steps, monitor)
        try:
            model.fit(
                train,
                steps_per_epoch=interval,
                epochs=-(-steps // interval),  # the recorder ends the last one where `steps` are done
                validation_data=validation,
                callbacks=[recorder],
                verbose=0,
            )
        except FloatingPointError as error:
            raise ValueError(f"learning_rate must leave the loss finite; got {learning_rate}, which did not") from error
    model.set_weights(recorder.weights)
    return recorder.history()


class _Recorder(keras.callbacks.Callback):
    """Shows progress, keeps the best weights in memory, and writes history and curves after every evaluation."""

    def __init__(self, watch, progress, steps, monitor):
        super().__init__()
        self.watch, self.progress, self.steps, self.monitor = watch, progress, steps, monitor
        self.task = progress.add_task("", total=steps, loss="-", speed="-")
        self.rows, self.weights, self.best = [], None, -math.inf

    def history(self):
        return {name: [row.get(name, math.nan) for row in self.rows] for name in self.rows[-1]}

    def on_train_begin(self, logs=None):
        self.done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.before = time.perf_counter(), self.done

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError("the loss is not finite")
        self.done = self.before + batch + 1
        speed = (batch + 1) / (time.perf_counter() - self.began)
        self.progress.update(self.task, completed=self.done, loss=f"{logs['loss']:.3f}", speed=f"{speed:.1f}")
        if self.done >= self.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["val_loss"]):
            raise FloatingPointError("the validation loss is not finite")
        value = -logs["val_loss"] if self.monitor == "val_loss" else logs[self.monitor]
        if self.weights is None or value > self.best:
            self.best, self.weights = value, self.model.get_weights()
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logged = {name: round(float(value), 6) for name, value in logs.items()}
        self.rows.append({"step": self.done} | logged | {"learning_rate": rate})
        line = "  ".join(f"{name} {value:.3f}" for name, value in logged.items())
        self.progress.console.print(f"step {self.done:>6,}  {line}", highlight=False)
        if self.watch.folder is not None:
            self._write(pathlib.Path(self.watch.folder))

    def _write(self, folder):
        table = io.StringIO()
        writer = csv.DictWriter(table, self.rows[-1], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_whole(folder / HISTORY, table.getvalue())
        write_picture(draw_curves(self.history(), title=self.watch.title), folder / CURVES)


def write_picture(figure, path):
    """Writes a `matplotlib.figure.Figure` as a PNG file that appears whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    files.write_whole(path, content.getvalue())
