"""The learning-rate schedule that a law of the loss promises the lowest final loss of."""

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import minimize

from tfllm.training.forecast_fit import Law, NoForecast, fit
from tfllm.training.forecast_laws import warmup_of
from tfllm.training.schedules import Schedule

_KNOTS = 64
_PIECES = 32  # of the sum between two knots


@keras.saving.register_keras_serializable("tfllm")
class OptimizedSchedule(Schedule):
    """Warm-up, then straight lines between given rates: what `optimize_schedule` returns.

    Args:
        peak: float > 0, the rate after the warm-up.
        steps: int > `warmup_steps`, the length of the run; later steps keep the last rate.
        shares: list of at least two floats in [0, 1], rates as shares of `peak` at evenly spaced steps from the end of the
            warm-up to the last step.
        warmup_steps: int >= 0.

    Example:
        >>> OptimizedSchedule(1.0, 5, [1.0, 0.8, 0.2])(tf.range(5)).numpy().round(2).tolist()
        [1.0, 0.8999999761581421, 0.800000011920929, 0.5, 0.20000000298023224]
    """

    def __init__(self, peak, steps, shares, warmup_steps=0):
        self._begin(peak, warmup_steps, steps)
        shares = [float(share) for share in shares]
        if len(shares) < 2 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"shares must be at least two numbers in [0, 1]; got {shares}")
        self.shares = shares

    def after(self, step):
        last = max(self.steps - 1 - self.warmup_steps, 1)
        place = tf.clip_by_value(step / last, 0.0, 1.0) * (len(self.shares) - 1)
        left = tf.minimum(tf.cast(place, tf.int32), len(self.shares) - 2)
        shares, part = tf.constant(self.shares, tf.float32), place - tf.cast(left, tf.float32)
        return tf.gather(shares, left) * (1 - part) + tf.gather(shares, left + 1) * part


def optimize_schedule(curves_or_law, steps, peak=None, warmup_steps=0, *, lowest=None):
    """Finds the falling schedule with the lowest final loss under a law.

    The law is an extrapolation, so the rates stay where curves were seen: from their peak down to their lowest rate.

    Args:
        curves_or_law: a `Law`, or a list of `Curve` to fit the multi-power law to.
        steps: int, the length of the run.
        peak: float > 0, the rate after the warm-up; None takes the peak of the curves.
        warmup_steps: int >= 0 and below `steps`.
        lowest: float in (0, `peak`), the lowest rate; None takes the lowest one of the curves after their warm-ups.

    Returns:
        `OptimizedSchedule`, a Keras `LearningRateSchedule` that is saved with its optimizer.

    Raises:
        ValueError: when `steps`, `peak` or `lowest` is out of range.
        NoForecast: when no curve has a falling rate, so that nothing is known of what a fall brings; or as `fit`.

    Example:
        >>> rates = np.repeat([1e-3, 1e-4], [700, 300])
        >>> steps = np.arange(9, 1000, 10)
        >>> losses = 2 + (steps + 1.0) ** -0.5 - np.where(steps < 700, 0, 0.1 * (1 - np.exp((700 - steps) / 50)))
        >>> from tfllm.training.forecast_fit import Curve
        >>> schedule = optimize_schedule([Curve(rates, steps, losses)], 2000)
        >>> print(f"{float(schedule(0)):.4f} {float(schedule(1999)):.4f}")
        0.0010 0.0001

    Source: Luo et al. 2025, arXiv:2503.12811, section 5.
    """
    law = curves_or_law if isinstance(curves_or_law, Law) else fit(curves_or_law)
    seen = [curve.learning_rates[warmup_of(curve.learning_rates) : curve.steps[-1] + 1] for curve in law.curves]
    if not any(rates.min() < rates.max() for rates in seen):
        raise NoForecast("curves must hold one whose rate falls; got none, so what a fall brings is not known")
    peak = law.peak if peak is None else float(peak)
    lowest = min(rates[rates > 0].min() for rates in seen) if lowest is None else float(lowest)
    if not (np.isfinite(peak) and 0 < lowest < peak):
        raise ValueError(f"peak must be finite and above lowest, and lowest above 0; got peak={peak}, lowest={lowest}")
    if not 0 <= warmup_steps < steps - 1:
        raise ValueError(
            f"steps must be at least 2 above warmup_steps, and that at least 0; got {steps}, {warmup_steps}"
        )
    aim = _FinalLoss(law, steps - warmup_steps, peak / law.peak, lowest / peak, warmup_steps)
    done = np.linspace(0, 1, _KNOTS + 1)
    starts = 1 - done, np.where(done < 0.7, 1.0, (1 - done) / 0.3), np.sqrt(1 - done)
    found = min((aim.descend(start) for start in starts), key=lambda result: result.fun)
    return OptimizedSchedule(peak, steps, aim.shares(found.x)[0].tolist(), warmup_steps)


class _FinalLoss:
    """The final loss as a function of how the way from peak to lowest rate is divided between the knots."""

    def __init__(self, law, steps, peak, lowest, warmup_steps):
        self.law, self.peak, self.lowest = law, peak, lowest
        points = _KNOTS * _PIECES
        self.width = (steps - 1) / points  # steps
        place = np.arange(points + 1) / _PIECES
        self.left = np.minimum(place.astype(int), _KNOTS - 1)
        self.part = place - self.left
        self.before = peak * (warmup_steps / 2 + 1)
        self.age = (points - np.arange(points) - 0.5) * self.width + 1  # steps since the middle of each piece

    def shares(self, ways):
        """Returns the shares of the peak at the knots [K + 1] and the softmax [K + 1] that they come from; falls by design."""
        softmax = np.exp(ways - ways.max())
        softmax /= softmax.sum()
        return 1 - (1 - self.lowest) * np.concatenate([[0.0], np.cumsum(softmax[:-1])]), softmax

    def descend(self, start):
        """Minimizes from the shares of a given shape, float [K + 1] from 1 to 0."""
        ways = np.log(np.append(np.maximum(-np.diff(start), 0), 0) + 1e-4)
        return minimize(self, ways, jac=True, method="L-BFGS-B", options={"maxiter": 500})

    def __call__(self, ways):
        """Returns (float, the final loss; float64 [K + 1], its gradient)."""
        shares, softmax = self.shares(ways)
        rates = self.peak * (shares[self.left] * (1 - self.part) + shares[self.left + 1] * self.part)
        drop, middle = rates[:-1] - rates[1:], (rates[:-1] + rates[1:]) / 2
        piece = middle * self.width
        since = np.cumsum(piece[::-1])[::-1] - piece / 2
        theta, total = self.law.theta, self.before + piece.sum()
        share, by_level, by_since = self.law.kind.share(middle, since, self.age, theta[4:])
        power, bring = np.exp(theta[1]) * (total / self.law.scale) ** -np.exp(theta[2]), np.exp(theta[3])
        loss = np.exp(theta[0]) + power - bring * np.sum(drop * share)

        to_since = -bring * drop * by_since / since
        to_piece = np.cumsum(to_since) - to_since / 2 - np.exp(theta[2]) * power / total
        to_middle = to_piece * self.width - bring * drop * by_level / middle
        to_rates = np.zeros(len(rates))
        to_rates[:-1] += to_middle / 2 - bring * share
        to_rates[1:] += to_middle / 2 + bring * share
        to_shares = np.zeros(_KNOTS + 1)
        np.add.at(to_shares, self.left, self.peak * to_rates * (1 - self.part))
        np.add.at(to_shares, self.left + 1, self.peak * to_rates * self.part)
        # A share falls by every part of the softmax before it.
        to_softmax = np.append(-(1 - self.lowest) * np.cumsum(to_shares[:0:-1])[::-1], 0.0)
        return loss, softmax * (to_softmax - softmax @ to_softmax)
