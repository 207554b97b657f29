"""The forecast of the final loss while `model.fit` runs, and the end of a run that will not be the best."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfllm.training.curves import ForecastLine
from tfllm.training.forecast_fit import Curve, Forecast, NoForecast, check_rates, fit
from tfllm.training.forecast_laws import warmup_of
from tfllm.training.forecast_rules import check_best, check_gap, ends_above
from tfllm.training.optimizers import innermost
from tfllm.training.plateau import Plateau
from tfllm.training.schedules import Schedule
from tfllm.training.schedules import learning_rates as rates_of

_GROWTH = 1.1  # the law is fitted again when there are so many times the points


class LossForecast(keras.callbacks.Callback):
    """Puts a forecast of the final loss into the logs of `fit`, after every epoch.

    `fit`'s logs, its `History`, and every callback after this one get `final_loss`, `final_loss_low` and
    `final_loss_high`, of the loss after the last step; they are NaN until there are enough points, and where the law does
    not hold (`reason` says why).

    Args:
        steps: int, the optimization steps of the whole run.
        learning_rates: float [steps], the rate of every step; None asks the optimizer of the model.
        curves: list of `Curve`, earlier runs of the same model, data and batch size: with them the forecast is good from
            the beginning, without them only once the rate has fallen for a while.
        law: str, as `fit` takes it.
        monitor: str, the entry of the logs to forecast. "loss" is the mean over an epoch and lags behind.
        interval: float in (0, 1), the probability of the interval.
        best: float, the lowest final loss known; a run that will with `confidence` end above it is stopped. None: never.
        confidence: float in [0.5, 1).
        passes: float, how often the run reads its data; see `check_gap`.

    Attributes:
        forecast: `Forecast` of floats, the last one, or None.
        reason: str, why there is none, or None.
        stopped_at: int, the step after which the run was stopped as too bad, or None.

    Raises:
        ValueError: when an argument is out of range, or the schedule is not as long as the run.

    Example:
        >>> callback = LossForecast(steps=1000, best=1.52)  # model.fit(..., callbacks=[callback])
    """

    def __init__(
        self,
        steps,
        learning_rates=None,
        *,
        curves=(),
        law="multi_power",
        monitor="val_loss",
        interval=0.9,
        best=None,
        confidence=0.95,
        passes=None,
    ):
        super().__init__()
        if learning_rates is not None and len(check_rates(learning_rates)) != steps:
            raise ValueError(f"learning_rates must hold one rate for each of steps={steps}; got {len(learning_rates)}")
        if best is not None:
            check_best(best, confidence)
        if not 0 < interval < 1:
            raise ValueError(f"interval must lie in (0, 1); got {interval}")
        self.steps, self.learning_rates, self.curves, self.law = steps, learning_rates, list(curves), law
        self.monitor, self.interval, self.best, self.confidence = monitor, interval, best, confidence
        self.passes = passes
        self._given = learning_rates
        self._begin()

    def on_train_begin(self, logs=None):
        if self._points and self._step() < self._points[-1][0]:  # another run, not the next epochs of the last one
            self._begin()
        try:
            self._ask_rates()
        except NoForecast as error:
            self.reason = str(error)

    def on_epoch_end(self, epoch, logs=None):
        step = self._step()
        if step >= self.steps:
            raise ValueError(
                f"steps must be the length of the whole run; got {self.steps}, and the run took step {step}"
            )
        if step < 0:  # every gradient was left out
            self.reason = "no step was taken yet"
        elif self.monitor in logs:
            self._add(step, logs)
            self._forecast(step)
        elif not self.monitor.startswith("val_"):
            raise ValueError(f"monitor must be one of the logs {sorted(logs)}; got {self.monitor!r}")
        elif not self._points:
            self.reason = f"there was no {self.monitor} yet"
        names = ("final_loss", "final_loss_low", "final_loss_high")
        logs.update(zip(names, self.forecast or (math.nan,) * 3, strict=True))
        going_on = self.forecast and self.best is not None and step + 1 < self.steps
        if going_on and ends_above(self._fitted(), self.learning_rates, self.best, self.confidence):
            self.stopped_at, self.model.stop_training = step, True

    def line(self):
        """Returns the last forecast of every step, a `curves.ForecastLine` for pictures, or None where there is none."""
        if self.forecast is None:
            return None
        rates, (first, *_), (last, *_) = self.learning_rates, self._used[0], self._used[-1]
        whole = self._fitted().predict(rates, self.interval)
        return ForecastLine(rates, whole, max(first, warmup_of(rates)), last, self.interval)

    def get_state(self):
        """Returns dict, what `Resume` keeps."""
        return {
            "points": self._points,
            "both": self._both,
            "used": self._used,
            "forecast": self.forecast,
            "reason": self.reason,
            "stopped_at": self.stopped_at,
        }

    def set_state(self, state):
        """Sets what `get_state` returned."""
        self._points, self._both, self._used = ([tuple(p) for p in state[name]] for name in ("points", "both", "used"))
        self.forecast = None if state["forecast"] is None else Forecast(*state["forecast"])
        self.reason, self.stopped_at, self._law = state["reason"], state["stopped_at"], None

    def _begin(self):
        self.learning_rates = self._given
        self._points, self._both, self._used, self._law = [], [], [], None  # `_used`: the points of the last fit
        self.forecast = self.reason = self.stopped_at = None

    def _step(self):
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) - 1

    def _add(self, step, logs):
        if self._points and step <= self._points[-1][0]:  # every gradient of the epoch was left out
            self._points.pop()
        self._points.append((step, float(logs[self.monitor])))
        if "val_loss" in logs and "loss" in logs:
            self._both.append((float(logs["loss"]), float(logs["val_loss"])))

    def _ask_rates(self):
        if self.learning_rates is None:
            self.learning_rates = schedule_of(self.model.optimizer, self.steps)

    def _check_rate(self, step):
        """Refuses a run whose optimizer has another rate than the schedule: a callback changed it."""
        # A schedule has the next step's rate already, a callback may set that only when the step begins.
        expected, rate = self.learning_rates[step : step + 2], float(self.model.optimizer.learning_rate)
        if len(expected) == 2 and not np.isclose(expected, rate, 1e-3, 1e-6 * np.max(self.learning_rates)).any():
            raise NoForecast(
                f"learning_rates must be those that the optimizer takes; got {expected[1]:.3g} for the step after {step}, "
                f"and the optimizer has {rate:.3g}"
            )

    def _forecast(self, step):
        try:
            self._ask_rates()
            self._check_rate(step)
            if len(self._points) < _GROWTH * len(self._used):
                return
            if self._both and self.monitor == "val_loss":
                check_gap(*zip(*self._both, strict=True), self.passes)
            found = self._fit(self._points)
        except NoForecast as error:
            self.forecast, self.reason = None, str(error)
            return
        self._used, self._law = list(self._points), found
        whole = found.predict(self.learning_rates, self.interval)
        self.forecast, self.reason = Forecast(*(float(values[-1]) for values in whole)), None

    def _fit(self, points):
        return fit([*self.curves, Curve(self.learning_rates, *zip(*points, strict=True))], self.law)

    def _fitted(self):
        if self._law is None:  # after a resume
            self._law = self._fit(self._used)
        return self._law


def schedule_of(optimizer, steps):
    """Returns float64 [steps], the rates that a Keras optimizer will take; the present one throughout without a schedule.

    Raises:
        NoForecast: when the schedule is a `Plateau`, whose rates nobody knows ahead.
    """
    inner = innermost(optimizer)
    schedule = getattr(inner, "_learning_rate", None)
    if isinstance(schedule, Plateau):
        raise NoForecast("learning_rates must be known ahead; got a Plateau, which waits for the losses to come")
    if isinstance(schedule, Schedule):
        return rates_of(schedule, steps)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):  # which takes one step at a time
        every = tf.data.Dataset.range(steps).map(lambda step: tf.cast(schedule(step), tf.float32)).batch(steps)
        return every.get_single_element().numpy().astype(np.float64)
    return np.full([steps], float(keras.ops.convert_to_numpy(inner.learning_rate)))
