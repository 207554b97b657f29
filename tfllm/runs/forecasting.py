"""The forecast of a run's validation loss, from its history and schedule, and the picture of it."""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np

from tfllm import files
from tfllm.picture import Picture
from tfllm.runs.folder import CONFIG, HISTORY
from tfllm.runs.settings import make_run_schedule
from tfllm.training import forecast, learning_rates
from tfllm.training.curves import ForecastLine

# What the loss depends on but for the rates and the steps.
_ALIKE = (
    "model",
    "dim",
    "num_layers",
    "num_heads",
    "dropout",
    "tokenizer",
    "vocab_size",
    "source_sha256",
    "validation",
)
_ALIKE += ("sequence_length", "batch_size", "optimizer", "lookahead", "weight_decay", "average")


@dataclasses.dataclass(frozen=True, eq=False)
class RunForecast:
    """What `forecast_runs` found.

    Attributes:
        law: `forecast.Law`, fitted to the curves.
        curves: list of `forecast.Curve`, all validation losses of the runs; the first is the run that is forecast.
        used: `forecast.Curve`, what the law has seen of that run.
        learning_rates: float64 [T], the rate of every step of the forecast.
        forecast: `forecast.Forecast` of three float64 [T].
        interval: float, its probability.
        names: list of str, the runs' folders.
    """

    law: forecast.Law
    curves: list
    used: forecast.Curve
    learning_rates: np.ndarray
    forecast: forecast.Forecast
    interval: float
    names: list

    def __str__(self):
        loss, low, high = (values[-1] for values in self.forecast)
        steps, curve = len(self.learning_rates), self.curves[0]
        text = (
            f"{self.law!r}\n{self.names[0]}: loss {loss:.4f} after {steps:,} steps, by what it did in the first "
            f"{self.used.steps[-1] + 1:,}; with {self.interval:.0%} between {low:.4f} and {high:.4f}"
        )
        if steps == curve.steps[-1] + 1 > self.used.steps[-1] + 1:
            text += f"; measured {curve.losses[-1]:.4f}, {abs(loss / curve.losses[-1] - 1):.2%} off"
        return text


def forecast_runs(runs, *, until=None, steps=None, law="multi_power", interval=0.9):
    """Forecasts the validation loss of a run from what it and others did so far.

    Args:
        runs: list of str or path, folders that `tfllm train` made. The first is forecast; others, of the same model, data
            and batch size, teach the law what schedules bring.
        until: int, steps of the first run that the law may see; None for all that it made.
        steps: int, the length of the run to forecast, under a schedule like the first run's; None for its own length.
        law: str, "multi_power" or "momentum".
        interval: float in (0, 1).

    Returns:
        `RunForecast`.

    Raises:
        ValueError: when a folder is no run, its history is damaged, another run is not like the first, or an argument is out
            of range.
        forecast.NoForecast: when the law does not hold for the runs.
    """
    paths = [pathlib.Path(run) for run in runs]
    read = [_read(path) for path in paths]
    curves, (_, training) = [curve for curve, _ in read], read[0]
    for path, (_, other) in zip(paths[1:], read[1:], strict=True):
        _check_alike(training, other, paths[0], path)
    if steps is not None and steps < 2:
        raise ValueError(f"steps must be at least 2; got {steps}")
    used = curves[0]
    if until is not None:
        seen = used.steps < until
        if not seen.any():
            raise forecast.NoForecast(
                f"until must come after the first measured loss, at step {used.steps[0] + 1}; got {until}"
            )
        used = forecast.Curve(used.learning_rates, used.steps[seen], used.losses[seen])
    fitted = forecast.fit([used, *curves[1:]], law)
    rates = used.learning_rates if steps is None else _rates(training | {"steps": steps})
    return RunForecast(fitted, curves, used, rates, fitted.predict(rates, interval), interval, [p.name for p in paths])


def draw_forecast(found):
    """Draws what was measured, the law's fit, and its forecast with the interval.

    Args:
        found: `RunForecast`.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`.
    """
    figure = Picture(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    curve, seen, steps = found.curves[0], found.used.steps[-1], len(found.learning_rates)
    begin = found.law.curves[0].steps[0]  # the law does not describe the warm-up
    line = ForecastLine(found.learning_rates, found.forecast, begin, seen, found.interval)
    for number, (name, other) in enumerate(zip(found.names[1:], found.law.curves[1:], strict=False), start=1):
        colour = f"C{number % 9 + 1}"
        top.plot(other.steps + 1, other.losses, ".", color=colour, alpha=0.6, label=f"{name}, measured")
        top.plot(other.steps + 1, found.law.predict(other.learning_rates)[other.steps], color=colour, lw=1)
        bottom.plot(np.arange(len(other.learning_rates)) + 1, other.learning_rates, color=colour, alpha=0.6)
    line.draw(top)
    after_warmup = curve.steps >= begin
    for chosen, face, name in (
        (after_warmup & (curve.steps <= seen), "black", "measured"),
        (curve.steps > seen, "none", "measured later, not used"),
    ):
        if chosen.any():
            top.scatter(
                curve.steps[chosen] + 1,
                curve.losses[chosen],
                s=18,
                facecolors=face,
                edgecolors="black",
                zorder=3,
                label=name,
            )
    top.set_ylim(*line.limits(curve.losses[after_warmup], *(other.losses for other in found.law.curves[1:])))
    top.set_title(f"{found.names[0]}: forecast of the validation loss")
    top.set_ylabel("loss (nats a token)")
    top.legend()
    bottom.plot(np.arange(steps) + 1, found.learning_rates, color="C0")
    bottom.set_ylabel("learning\nrate")
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("step")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    return figure


def save_forecast(figure, path):
    """Writes a figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    files.write_whole(path, data.getvalue())


def _read(path):
    """Returns (`Curve` of the validation losses, dict of settings) of a run folder; a loss learned by heart is refused."""
    if not (path / CONFIG).is_file():
        raise ValueError(f"run must be a folder that `tfllm train` made; got {str(path)!r}, which has no {CONFIG}")
    if not (path / HISTORY).is_file():
        raise ValueError(f"run must have been evaluated at least once; got {str(path)!r}, which has no {HISTORY}")
    try:
        training = json.loads((path / CONFIG).read_text(encoding="utf-8"))["training"]
        with open(path / HISTORY, encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        table = {
            name: np.array([float(row[name]) for row in rows]) for name in ("step", "loss", "val_loss", "learning_rate")
        }
        rates = _rates(training)
    except forecast.NoForecast:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"run must hold a {CONFIG} and a {HISTORY} of this version; got {str(path)!r} with {error!r}"
        ) from error
    steps = table["step"].astype(np.int64) - 1  # the history counts steps that are done
    if len(steps) and steps[-1] >= len(rates):
        raise ValueError(f"run must end within its steps={len(rates)}; got {str(path)!r}, which took {steps[-1] + 1}")
    inside = steps + 1 < len(rates)  # the rate written down is that of the step to come
    if not np.allclose(table["learning_rate"][inside], rates[steps[inside] + 1], rtol=1e-3):
        raise ValueError(
            f"run must have taken the rates of its settings; got {str(path)!r}, whose {HISTORY} has others"
        )
    forecast.check_gap(table["loss"], table["val_loss"])
    return forecast.Curve(rates, steps, table["val_loss"]), training


def _check_alike(first, other, path, other_path):
    """Refuses a run that tells nothing of the first one; settings that an earlier version did not know are left out."""
    names = [name for name in _ALIKE if name in first and name in other]
    unused = {"num_heads": first.get("model") != "transformer", "vocab_size": first.get("tokenizer") != "bpe"}
    for name in names:
        if first[name] != other[name] and not unused.get(name):
            if name == "source_sha256":
                raise ValueError(
                    f"runs must be trained on one text; got {str(path)!r} on that of {first.get('source')!r}, and "
                    f"{str(other_path)!r} on another one of {other.get('source')!r}"
                )
            raise ValueError(
                f"runs must have the same {name}; got {first[name]!r} in {str(path)!r} and {other[name]!r} in "
                f"{str(other_path)!r}"
            )


def _rates(training):
    """Returns float64 [T], the rates that a run of these settings takes."""
    if training.get("schedule") == "plateau":
        raise forecast.NoForecast("run must have rates that are known ahead; got one with schedule='plateau'")
    return learning_rates(make_run_schedule(training), training["steps"])
