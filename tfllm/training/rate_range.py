"""The range of learning rates that a model can take, found by trying rates that grow step by step."""

import dataclasses
import itertools

import keras
import numpy as np

from tfllm.picture import Picture
from tfllm.training.losses import lm_loss
from tfllm.training.step import make_train_step
from tfllm.training.update_rules import Lookahead

_DIVERGED = 4.0  # times the lowest loss so far


@dataclasses.dataclass(frozen=True)
class RateRange:
    """What `find_rate_range` found.

    Attributes:
        learning_rates: float64 [S], the rate of every step.
        losses: float64 [S], the loss of every step's batch before its update.
        smooth: float64 [S], their exponential average, without the bias of its beginning.
        steepest: float, the rate at which the smooth loss falls fastest: a good peak of a schedule.
        best: float, the rate at which it is lowest: above it, training gets worse.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    steepest: float
    best: float

    def draw(self):
        """Returns a `Picture`: loss against rate, with both rates marked."""
        figure = Picture(figsize=(8, 4.5), layout="constrained")
        axis = figure.subplots()
        axis.plot(self.learning_rates, self.losses, color="tab:blue", alpha=0.3, label="each batch")
        axis.plot(self.learning_rates, self.smooth, color="tab:blue", label="smooth")
        for rate, color, words in ((self.steepest, "tab:green", "steepest"), (self.best, "tab:red", "lowest")):
            axis.axvline(rate, color=color, linestyle="--", label=f"{words} at {rate:.2g}")
        low, high = self.losses.min(), self.smooth[0]
        axis.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
        axis.set_xscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel("loss")
        axis.set_title("Learning rates that this model can take")
        axis.grid(alpha=0.3)
        axis.legend()
        return figure


def find_rate_range(
    model,
    dataset,
    optimizer=None,
    *,
    lowest=1e-6,
    highest=1.0,
    steps=100,
    smoothing=0.9,
    loss_fn=lm_loss,
    clip_norm=1.0,
    jit_compile=False,
):
    """Trains for some steps whose rate grows by the same factor from one to the next, and gives the model its weights back.

    Args:
        model: a built Keras model.
        dataset: batches that `loss_fn` reads; gone through again where there are fewer than `steps`.
        optimizer: a Keras optimizer, whose settings but the rate are taken, not its state; None means AdamW.
        lowest, highest: floats, 0 < lowest < highest, the first and the last rate.
        steps: int >= 10. It ends before where the loss is four times its lowest, or no number.
        smoothing: float in [0, 1), how much of the average the steps before make up.
        loss_fn, clip_norm, jit_compile: as for `make_train_step`.

    Returns:
        `RateRange`.

    Raises:
        ValueError: on an argument out of its range, a data set without a batch, or a loss that is no number at the lowest
            rate.

    Source: Smith 2017, arXiv:1506.01186, section 3.3.
    """
    if not 0 < lowest < highest < float("inf"):
        raise ValueError(f"lowest and highest must be finite and 0 < lowest < highest; got {lowest} and {highest}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise ValueError(f"steps must be an int of at least 10; got {steps!r}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must lie in [0, 1); got {smoothing}")
    optimizer = _renew(keras.optimizers.AdamW() if optimizer is None else optimizer, model, lowest)
    before = [weight.numpy() for weight in model.variables]
    step = make_train_step(
        model, optimizer, loss_fn, clip_norm=clip_norm, max_skipped=steps + 1, jit_compile=jit_compile
    )
    rates, losses, smooth, average = lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1)), [], [], 0.0
    batches = itertools.chain.from_iterable(itertools.repeat(dataset))
    if next(iter(dataset), None) is None:
        raise ValueError("dataset must have a batch; got none")
    try:
        for number, rate in enumerate(rates, 1):
            optimizer.learning_rate = rate
            loss = float(step(next(batches))["loss"])
            if not np.isfinite(loss):
                break
            average = smoothing * average + (1 - smoothing) * loss
            losses.append(loss)
            smooth.append(average / (1 - smoothing**number))
            if smooth[-1] > _DIVERGED * min(smooth):
                break
    finally:
        for weight, value in zip(model.variables, before, strict=True):
            weight.assign(value)
    if len(losses) < 3:
        raise ValueError(f"the loss must be a number at the rates from lowest={lowest} on; got {losses}")
    smooth, rates = np.array(smooth), rates[: len(losses)]
    lowest_at = int(np.argmin(smooth))
    fall = np.gradient(smooth)[: max(lowest_at, 1)]
    return RateRange(rates, np.array(losses), smooth, float(rates[int(np.argmin(fall))]), float(rates[lowest_at]))


def _renew(optimizer, model, rate):
    """Returns an optimizer of the same settings without its state, at a constant rate; those around one hold a new one."""
    config = optimizer.get_config()
    if isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, Lookahead)):
        name = "optimizer" if isinstance(optimizer, Lookahead) else "inner_optimizer"
        del config[name]
        return type(optimizer)(_renew(getattr(optimizer, name), model, rate), **config)
    new = type(optimizer).from_config(config | {"learning_rate": rate})
    spared = [weight for weight in model.trainable_variables if not optimizer._use_weight_decay(weight)]
    new.exclude_from_weight_decay(var_list=spared)  # which the settings lack
    return new
