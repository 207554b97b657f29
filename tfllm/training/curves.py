"""The picture of a training: losses, what a law forecasts of them, and below them rate and speed."""

import dataclasses

import numpy as np

from tfllm.picture import Picture
from tfllm.training.forecast_fit import Forecast

_BELOW = ("learning_rate", "tokens_per_second")


@dataclasses.dataclass(frozen=True, eq=False)
class ForecastLine:
    """A forecast as a line with its interval.

    Attributes:
        learning_rates: float [T], the rate of every step.
        forecast: `Forecast` of three float [T].
        begin: int, the first step that the law describes, after the warm-up.
        seen: int, the last step whose loss the law was fitted to.
        interval: float in (0, 1), the probability of the interval.
    """

    learning_rates: np.ndarray
    forecast: Forecast
    begin: int
    seen: int
    interval: float

    def draw(self, axes, color="C0"):
        """Draws fit, forecast and interval into a `matplotlib.axes.Axes`, against steps counted from 1."""
        every = np.arange(self.begin, len(self.forecast.loss))
        loss, low, high = (values[self.begin :] for values in self.forecast)
        known = every <= self.seen
        axes.fill_between(every + 1, low, high, color=color, alpha=0.2, lw=0, label=f"{self.interval:.0%} interval")
        axes.plot(every[known] + 1, loss[known], color=color, lw=1.5, label="fit")
        label = f"forecast: {loss[-1]:.4f} at the end"
        axes.plot(every[~known] + 1, loss[~known], color=color, lw=1.5, ls="--", label=label)

    def limits(self, *losses):
        """Returns (float, float), the ends of an axis that shows the line and some losses (float [N] each) well."""
        parts = [self.forecast.loss[self.begin :], *losses]
        low, high = min(np.nanmin(part) for part in parts), max(np.nanmax(part) for part in parts)
        return low - 0.15 * (high - low), high + 0.05 * (high - low)


def draw_curves(history, *, title="Training", forecast=None):
    """Draws the losses of a training against its steps.

    Args:
        history: dict of equally long lists: `"loss"` and, where there are, `"val_loss"`, `"step"` (else the number of
            the row), `"learning_rate"`, `"tokens_per_second"`, NaN where there is no value; the `history` of a Keras
            `History` serves as well.
        title: str.
        forecast: `ForecastLine` of the validation loss, or None; needs a `"step"`.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when there is no loss, or a column has another length.
    """
    losses = list(history.get("loss", []))
    if not losses:
        raise ValueError(f"history must hold at least one loss; got the columns {sorted(history)}")
    lengths = {name: len(history[name]) for name in (*_BELOW, "loss", "val_loss", "step") if name in history}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history must have columns of one length; got {lengths}")
    if forecast is not None and "step" not in history:
        raise ValueError(f"history must hold step where there is a forecast; got the columns {sorted(history)}")
    steps = list(history.get("step", range(1, len(losses) + 1)))
    below = [name for name in _BELOW if np.any(np.nan_to_num(np.array(history.get(name, []), np.float64)))]
    figure = Picture(figsize=(8, 4.5 + 1.3 * len(below)), layout="constrained")
    axes = figure.subplots(1 + len(below), 1, sharex=True, squeeze=False, height_ratios=[4] + [1] * len(below))[:, 0]

    top = axes[0]
    top.plot(steps, losses, color="tab:blue", marker=".", label="training")
    validation = np.array(history.get("val_loss", []), np.float64)
    measured = np.flatnonzero(np.isfinite(validation))  # an epoch need not be validated
    if len(measured):
        steps_then = [steps[row] for row in measured]
        top.plot(steps_then, validation[measured], color="tab:orange", marker=".", label="validation")
        best = measured[np.argmin(validation[measured])]
        label = f"best {validation[best]:.3f} at {'step' if 'step' in history else 'epoch'} {steps[best]}"
        top.scatter(
            [steps[best]], [validation[best]], s=90, facecolors="none", edgecolors="tab:red", zorder=3, label=label
        )
    if forecast is not None:
        forecast.draw(top, color="tab:purple")
        finite = [part[np.isfinite(part)] for part in (np.array(losses, np.float64), validation)]
        top.set_ylim(*forecast.limits(*(part for part in finite if len(part))))
    top.set_title(title)
    top.set_ylabel("loss (nats a token)")
    top.grid(alpha=0.3)
    top.legend()
    perplexity = top.secondary_yaxis("right", functions=(_exp, _log))
    perplexity.set_ylabel("perplexity")

    for axis, name in zip(axes[1:], below, strict=True):
        if name == "learning_rate" and forecast is not None:
            every = np.arange(len(forecast.learning_rates)) + 1
            axis.plot(every, forecast.learning_rates, color="tab:green", ls="--", alpha=0.5)
        axis.plot(steps, history[name], color="tab:green" if name == "learning_rate" else "tab:gray")
        axis.set_ylabel(name.replace("_", "\n"))
        axis.set_ylim(0, 1.1 * max(np.nanmax(line.get_ydata(orig=False)) for line in axis.lines))
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step" if "step" in history else "epoch")
    return figure


def _exp(values):
    return np.exp(np.minimum(values, 700))


def _log(values):
    return np.log(np.maximum(values, 1e-300))
