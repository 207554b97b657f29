"""Decisions that a forecast allows: whether a run is worth going on with, and whether its data lets a law hold at all."""

import numpy as np

from tfllm.training.forecast_fit import LEAST_POINTS, NoForecast, fit

_WIDEST = 0.05  # of the validation loss
_RISE = 0.01


def should_stop(curve, best, *, curves=(), law="multi_power", confidence=0.95):
    """Says whether a run will end worse than the best one known: an early-termination rule for tuning.

    Args:
        curve: `Curve` of the run so far; its `learning_rates` are those of the whole run, to its end.
        best: float, the lowest final loss known.
        curves: list of `Curve`, other runs to fit the law to; only such as share model, data and batch size.
        law: str, as `fit` takes it.
        confidence: float in [0.5, 1), how sure the rule has to be.

    Returns:
        bool; False also where no forecast is possible yet.

    Raises:
        ValueError: when `best` is not finite, or `confidence` lies outside of [0.5, 1).

    Example:
        >>> from tfllm.training.forecast_fit import Curve
        >>> rates, steps = np.full(4000, 1e-3), np.arange(99, 1000, 50)
        >>> run = Curve(rates, steps, 2 + 3 * (steps + 1.0) ** -0.5)
        >>> should_stop(run, best=1.5), should_stop(run, best=2.2)
        (True, False)
    """
    check_best(best, confidence)
    try:
        fitted = fit([*curves, curve], law)
    except NoForecast:
        return False
    return ends_above(fitted, curve.learning_rates, best, confidence)


def ends_above(law, learning_rates, best, confidence):
    """Returns bool, whether a `Law` says with `confidence` that the last loss of a schedule lies above `best`."""
    if confidence == 0.5:
        return bool(law.predict(learning_rates)[-1] > best)
    return bool(law.predict(learning_rates, 2 * confidence - 1).low[-1] > best)


def check_best(best, confidence):
    """Refuses a `best` that is not finite and a `confidence` outside of [0.5, 1)."""
    if not np.isfinite(best):
        raise ValueError(f"best must be finite; got {best}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must lie in [0.5, 1); got {confidence}")


def check_gap(training, validation, passes=None):
    """Refuses a forecast of the validation loss of a run that learns its data by heart.

    The laws describe training on fresh data. Over several passes of small data the training loss goes on falling, the
    validation loss less and less and then not at all, which no law fitted to its beginning can know.

    Args:
        training, validation: float [N], losses at the same steps, in the order of the steps.
        passes: float, how often the data was read, or None where that is not known.

    Raises:
        ValueError: when the lengths differ.
        NoForecast: when there were more passes than one, or an unknown number, and since its first half the gap between
            the two widened by more than 5 % of the validation loss, or the validation loss rose by more than 1 %.

    Example:
        >>> check_gap([3.0, 2.5, 2.2, 2.1, 2.0, 1.9, 1.9, 1.8], [3.1, 2.6, 2.3, 2.2, 2.1, 2.0, 2.0, 1.9])
    """
    training, validation = np.asarray(training, np.float64), np.asarray(validation, np.float64)
    if training.shape != validation.shape or training.ndim != 1:
        raise ValueError(
            f"training and validation must be two lists of one length; got {training.shape} and {validation.shape}"
        )
    if len(training) < LEAST_POINTS or (passes is not None and passes <= 1):
        return
    # Keras reports the training loss as the mean over an epoch, so that it lags behind, and the gap begins below 0.
    gap, quarter = np.maximum(validation - training, 0), len(training) // 4
    before, now = np.median(gap[quarter : 2 * quarter]), np.median(gap[-quarter:])
    lowest = min(np.median(validation[begin : begin + quarter]) for begin in range(len(validation) - quarter + 1))
    final = np.median(validation[-quarter:])
    if now - before > _WIDEST * final or (final > (1 + _RISE) * lowest and now > before):
        raise NoForecast(
            f"validation loss must follow the training loss; got a gap that widened from {before:.2f} to {now:.2f} and a "
            f"validation loss of {final:.3f} after {lowest:.3f}: the run learns its data by heart, over several passes of it"
        )
