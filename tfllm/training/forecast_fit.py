"""Loss curves in, a law out: the fit, its error, and the loss of every step of a schedule that no run has taken yet.

The parameters of the laws are badly determined (very different ones describe the same curves), so a law shows how well it
fits and how far off its forecasts may be; `Law.parameters` gives them together with their standard errors.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls
from scipy.special import ndtri, stdtrit

from tfllm.training.forecast_laws import LAWS, grid_of, loss_of, make_plan, power_of, sums_of, warmup_of

LEAST_POINTS = 8
_FARTHEST = 4.5  # standard deviations of the prior; farther off numbers overflow
_TOLERANCE = 1e-6  # of the lowest loss, what interpolation between steps may add
_LEAST_LOSS = 1e-9  # where a law, taken too far, falls below 0


class NoForecast(ValueError):
    """The law does not hold for these curves; the message says why."""


class Forecast(NamedTuple):
    """What a law says of a schedule: float64 [T], or of one step: floats.

    Attributes:
        loss: the loss after every step.
        low, high: the ends of the interval in which a measured loss is expected.
    """

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The measured losses of a run, and the learning rate of each of its steps.

    Attributes:
        learning_rates: float [T], the rate of every step from step 0 on, the warm-up included; the run may be at any
            step of it.
        steps: int [N], the steps after which the loss was measured, rising, each below T.
        losses: float [N], above 0; nats a token where intervals and messages shall make sense.

    Raises:
        ValueError: when lengths disagree, a rate is negative or not finite, or a step lies outside of the schedule.
        NoForecast: when a loss is not finite or not above 0.

    Example:
        >>> Curve([0.1, 0.1, 0.05], [0, 2], [4.0, 3.5])
        Curve(2 losses from 4.0000 in step 0 to 3.5000 in step 2; 3 learning rates)
    """

    learning_rates: np.ndarray
    steps: np.ndarray
    losses: np.ndarray

    def __post_init__(self):
        steps, losses = np.asarray(self.steps), np.asarray(self.losses, np.float64)
        rates = check_rates(self.learning_rates)
        if steps.ndim != 1 or steps.shape != losses.shape:
            raise ValueError(f"steps and losses must be two lists of one length; got {steps.shape} and {losses.shape}")
        if len(steps) and (np.any(steps != np.floor(steps)) or np.any(np.diff(steps) <= 0)):
            raise ValueError("steps must be whole numbers, each above the one before; got others")
        if len(steps) and not 0 <= steps[0] <= steps[-1] < len(rates):
            raise ValueError(
                f"learning_rates must hold the rate of every step up to the last measured one, {int(steps[-1])}, and "
                f"steps start at 0 or later; got {len(rates)} rates and a first step of {int(steps[0])}"
            )
        bad = np.flatnonzero(~(np.isfinite(losses) & (losses > 0)))
        if len(bad):
            raise NoForecast(
                f"losses must be finite and above 0; got {losses[bad[0]]} at step {int(steps[bad[0]])}: the run diverged"
            )
        for name, value in (("learning_rates", rates), ("steps", steps.astype(np.int64)), ("losses", losses)):
            object.__setattr__(self, name, value)

    def __repr__(self):
        if not len(self.steps):
            return f"Curve(no losses; {len(self.learning_rates):,} learning rates)"
        return (
            f"Curve({len(self.steps):,} losses from {self.losses[0]:.4f} in step {self.steps[0]:,} to "
            f"{self.losses[-1]:.4f} in step {self.steps[-1]:,}; {len(self.learning_rates):,} learning rates)"
        )


def fit(curves, law="multi_power"):
    """Fits a law of the loss to the curves of one to many runs of one model on one kind of data.

    Losses measured during the warm-up are left out, as the law does not hold there. Two or three curves under different
    schedules tell what falling rates bring; from one curve at a constant rate nothing can be learned of it, and the
    intervals of other schedules are wide.

    Args:
        curves: list of `Curve`, or one.
        law: str, "multi_power" (Luo et al. 2025) or "momentum" (Tissue et al. 2024).

    Returns:
        `Law`.

    Raises:
        ValueError: when `law` is unknown.
        NoForecast: when there are too few points after the warm-up, or losses that do not fall or diverge in the end.

    Example:
        >>> rates = np.full(2000, 1e-3)
        >>> steps = np.arange(99, 2000, 100)
        >>> law = fit(Curve(rates, steps, 2 + (steps + 1.0) ** -0.5))
        >>> print(f"{law.predict(np.full(8000, 1e-3))[-1]:.3f}")
        2.011

    Source: the multi-power law is equation 1 of Luo et al. 2025, arXiv:2503.12811, the Huber loss on logarithms of losses
    its section 3.3; the momentum law is equation 1 of Tissue et al. 2024, arXiv:2408.11029.
    """
    if law not in LAWS:
        raise ValueError(f"law must be one of {tuple(LAWS)}; got {law!r}")
    curves = [_after_warmup(curve) for curve in ([curves] if isinstance(curves, Curve) else list(curves))]
    curves = [curve for curve in curves if len(curve.steps)]
    _check_curves(curves)
    problem = _Problem(LAWS[law], curves)
    theta, sigma = problem.solve()
    covariance, noise = problem.uncertainty(theta, sigma)
    return Law(law, problem, theta, covariance, noise, *_missed(problem, theta))


class Law:
    """A fitted law: what `fit` returns.

    Attributes:
        name: str, "multi_power" or "momentum".
        curves: tuple of `Curve`, what it was fitted to, without the warm-ups.
        peak: float, the highest rate of the curves.
        kind, theta, scale: the law's arithmetic, its parameters and the sum of rates that they refer to, as
            `forecast_laws.loss_of` takes them.
    """

    def __init__(self, name, problem, theta, covariance, noise, missed=0.0, times=1):
        self.name, self.curves, self.peak = name, tuple(problem.curves), problem.peak
        self.kind, self.theta, self.scale = problem.kind, theta, problem.scale
        self._covariance, self._noise, self._missed, self._times = covariance, noise, missed, times

    def predict(self, learning_rates, interval=None):
        """Predicts the loss after every step of a schedule.

        In the steps of the warm-up, which the law does not describe, the values are the continuation of its power.

        Args:
            learning_rates: float [T], the rate of every step from step 0 on, the warm-up included.
            interval: float in (0, 1), the probability with which a measured loss lies in the interval, or None for none.

        Returns:
            float64 [T], or with `interval` a `Forecast` of three of them.

        Raises:
            ValueError: when a rate is negative or not finite, or `interval` lies outside of (0, 1).
        """
        if interval is not None and not 0 < interval < 1:
            raise ValueError(f"interval must lie in (0, 1), or be None; got {interval}")
        rates = check_rates(learning_rates) / self.peak
        steps = grid_of(self.kind, rates, self.theta, _TOLERANCE * np.exp(self.theta[0]))
        plan, every = make_plan(rates, steps), np.arange(len(rates))
        on_grid, gradient = loss_of(self.kind, plan, self.theta, self.scale)
        power = power_of(plan.total, self.theta, self.scale)
        loss = np.interp(every, steps, on_grid - power) + power_of(sums_of(rates), self.theta, self.scale)
        loss = np.maximum(loss, _LEAST_LOSS)
        if interval is None:
            return loss
        gradient = gradient / np.maximum(on_grid, _LEAST_LOSS)[:, None]  # of the logarithm
        tail = 0.5 + interval / 2
        known = np.einsum("np,pq,nq->n", gradient, self._covariance, gradient) + self._noise**2
        missed = stdtrit(self._times, tail) * self._missed  # a few times are no sure measure: Student's distribution
        reach = np.interp(every, steps, np.hypot(ndtri(tail) * np.sqrt(known), missed))
        return Forecast(loss, loss * np.exp(-reach), loss * np.exp(reach))

    def score(self, curve):
        """Compares the law with a curve, after its warm-up.

        Args:
            curve: `Curve`, of the fit or another.

        Returns:
            dict of floats: `"r2"`, the share of the losses' variance that the law explains; `"mae"` and `"worst"`, the
            mean and the largest absolute error, in the unit of the losses.

        Raises:
            NoForecast: when no point lies after the warm-up.
        """
        curve = _after_warmup(curve)
        if not len(curve.steps):
            raise NoForecast("curve must hold a loss measured after the warm-up; got none")
        return _score(self.predict(curve.learning_rates)[curve.steps], curve.losses)

    def parameters(self):
        """Returns dict of the law's parameters, as its source counts them: name to (value, standard error), floats.

        Errors are often as large as values: quite other parameters would describe the curves as well.
        """
        values = self.kind.natural(self.theta, self.scale, self.peak)
        moves = 1e-5 * np.eye(len(self.theta))
        slopes = [
            self.kind.natural(self.theta + move, self.scale, self.peak)
            - self.kind.natural(self.theta - move, self.scale, self.peak)
            for move in moves
        ]
        slopes = np.array(slopes) / 2e-5  # [P, P], of every value by every parameter of the fit
        errors = np.sqrt(np.einsum("pn,pq,qn->n", slopes, self._covariance, slopes))
        return {name: (float(v), float(e)) for name, v, e in zip(self.kind.names, values, errors, strict=True)}

    def __repr__(self):
        found = [self.predict(curve.learning_rates)[curve.steps] for curve in self.curves]
        score = _score(np.concatenate(found), np.concatenate([curve.losses for curve in self.curves]))
        count, points = len(self.curves), sum(len(curve.steps) for curve in self.curves)
        return (
            f"Law({self.name!r}, fitted to {count} curve{'s'[: count - 1]} with {points:,} points: "
            f"R2 {score['r2']:.4f}, mean absolute error {score['mae']:.4f})"
        )


class _Problem:
    """The curves in the units of the laws, and what has to become small."""

    def __init__(self, kind, curves, peak=None, scale=None):
        self.kind, self.curves = kind, curves
        self.peak = peak or float(max(curve.learning_rates.max() for curve in curves))
        # A long schedule of which little was measured is cut: what follows has no influence.
        self.plans = [make_plan(c.learning_rates[: c.steps[-1] + 1] / self.peak, c.steps) for c in curves]
        self.scale = scale or float(np.median(np.concatenate([plan.total for plan in self.plans])))
        self.logs = np.log(np.concatenate([curve.losses for curve in curves]))
        final = min(curve.losses.min() for curve in curves)
        self.mean, self.deviation = kind.prior_mean.copy(), kind.prior_deviation
        self.mean[[0, 1, 3]] += np.log(final)
        self.bounds = self.mean - _FARTHEST * self.deviation, self.mean + _FARTHEST * self.deviation

    def residuals(self, theta):
        """Returns (float64 [N], float64 [N, P]): logarithms of losses, found minus measured, and their gradient."""
        parts = [loss_of(self.kind, plan, theta, self.scale) for plan in self.plans]
        loss = np.maximum(np.concatenate([part[0] for part in parts]), _LEAST_LOSS)
        return np.log(loss) - self.logs, np.concatenate([part[1] for part in parts]) / loss[:, None]

    def solve(self):
        """Returns (float64 [P], the likeliest parameters; float, the standard deviation of the noise)."""
        starts = [self._linear(alpha, own) for alpha in (0.25, 0.6) for own in self.kind.starts]
        starts = [theta for _, theta in sorted(starts, key=lambda start: start[0])][:3]
        sigma = _spread(self.residuals(starts[0])[0])
        theta = min((self._descend(start, sigma) for start in starts), key=lambda found: found.cost).x
        return self.refine(theta)

    def refine(self, theta):
        """Returns what `solve` does, from parameters that are near."""
        for _ in range(2):  # the noise is known better after a fit than before it
            residual = self.residuals(theta)[0]
            sigma = _spread(residual)
            theta = self._descend(theta, sigma, self._repeats(residual)).x
        return theta, sigma

    def _linear(self, alpha, own):
        """Solves for the parameters that the loss is linear in, given the others; returns (the cost, [P])."""
        theta = np.concatenate([[0.0, 0.0, np.log(alpha), 0.0], own])
        columns = np.concatenate([loss_of(self.kind, plan, theta, self.scale)[1] for plan in self.plans])[:, [0, 1, 3]]
        values, cost = nnls(columns * np.exp(-self.logs)[:, None], np.ones(len(columns)))
        theta[[0, 1, 3]] = np.maximum(np.log(np.maximum(values, _LEAST_LOSS)), self.mean[[0, 1, 3]] - 3)
        return cost, theta

    def _descend(self, theta, sigma, repeats=1.0):
        prior, known = np.sqrt(repeats) / self.deviation, {}

        def both(theta):  # scipy asks for residuals and gradients apart, though each costs as much as both
            key = theta.tobytes()
            if key not in known:
                known.clear()
                known[key] = self.residuals(theta)
            return known[key]

        return least_squares(
            lambda theta: np.concatenate([both(theta)[0] / sigma, (theta - self.mean) * prior]),
            np.clip(theta, *self.bounds),
            lambda theta: np.concatenate([both(theta)[1] / sigma, np.diag(prior)]),
            loss="huber",
            f_scale=self.kind.wild,
            bounds=self.bounds,
            max_nfev=100,
        )

    def _repeats(self, residual):
        """Returns float >= 1, how many neighbouring points say the same: residuals that go together are no fresh evidence."""
        times = [_correlation_time(part) for part in self._by_curve(residual) if len(part) >= LEAST_POINTS]
        return float(np.median(times or [1.0]))

    def uncertainty(self, theta, sigma):
        """Returns (float64 [P, P], the covariance of the parameters; float, the deviation of a single late measurement).

        A Laplace approximation, in which residuals that go together count once.
        """
        residual, gradient = self.residuals(theta)
        weight = np.minimum(1, self.kind.wild * sigma / np.maximum(np.abs(residual), 1e-300))
        weight /= sigma**2 * self._repeats(residual)
        covariance = np.linalg.inv((gradient * weight[:, None]).T @ gradient + np.diag(1 / self.deviation**2))
        late = np.concatenate([part[len(part) // 2 :] for part in self._by_curve(residual)])
        return covariance, max(float(np.quantile(np.abs(late), 0.9) / ndtri(0.95)), _spread(late))

    def _by_curve(self, residual):
        return np.split(residual, np.cumsum([len(curve.steps) for curve in self.curves])[:-1])


def _missed(problem, theta):
    """Returns (float, by how much the law misses what it was not fitted to; int, how often it was tried).

    A law is not the truth, and no residual of the fit shows by how much another schedule or a longer run will differ. So each
    curve is left out in turn, and then the later halves of all curves; what the late mean is off then is added to every
    interval. A part of it is what the fit knows of its uncertainty, so intervals are rather too wide than too narrow.
    """
    curves = problem.curves
    tries = [([other for other in curves if other is not curve], [curve]) for curve in curves if len(curves) > 1]
    tries.append(([_part(curve, slice(None, len(curve.steps) // 2)) for curve in curves], curves))
    misses = []
    for seen, unseen in tries:
        seen = [curve for curve in seen if len(curve.steps)]
        if sum(len(curve.steps) for curve in seen) < LEAST_POINTS // 2:  # which at least one try has
            continue
        rest = _Problem(problem.kind, seen, problem.peak, problem.scale)
        found, _ = rest.refine(theta)
        for curve in unseen:
            residual = _Problem(problem.kind, [curve], problem.peak, problem.scale).residuals(found)[0]
            misses.append(residual[len(residual) // 2 :].mean())
    return float(np.sqrt(np.mean(np.square(misses)))), len(misses)


def _part(curve, kept):
    return Curve(curve.learning_rates, curve.steps[kept], curve.losses[kept])


def check_rates(learning_rates):
    """Returns float64 [T], the rates of a schedule; ValueError unless they are finite, at least 0 and some above it."""
    rates = np.asarray(learning_rates, np.float64)
    if rates.ndim != 1 or not len(rates):
        raise ValueError(f"learning_rates must be a list with the rate of every step; got the shape {rates.shape}")
    bad = np.flatnonzero(~(np.isfinite(rates) & (rates >= 0)))
    if len(bad):
        raise ValueError(f"learning_rates must be finite and at least 0; got {rates[bad[0]]} at step {bad[0]}")
    if not rates.any():
        raise ValueError("learning_rates must hold a rate above 0; got only zeros")
    return rates


def _after_warmup(curve):
    kept = curve.steps >= warmup_of(curve.learning_rates)
    return _part(curve, kept)


def _check_curves(curves):
    points = sum(len(curve.steps) for curve in curves)
    if points < LEAST_POINTS:
        raise NoForecast(f"curves must hold at least {LEAST_POINTS} losses measured after the warm-up; got {points}")
    for number, curve in enumerate(curves):
        third = len(curve.losses) // 3
        if not third:
            continue
        before, after, end = (
            np.median(part) for part in (curve.losses[:third], curve.losses[-third:], curve.losses[-3:])
        )
        if after >= before or end > before:
            what = "diverged" if end > before else "learned nothing"
            raise NoForecast(
                f"losses must fall; those of curve {number} went from {before:.4f} (median of the first third) to "
                f"{max(after, end):.4f}: the run {what}"
            )


def _score(found, losses):
    error = np.abs(found - losses)
    variance = np.mean((losses - losses.mean()) ** 2)
    return {
        "r2": 1 - float(np.mean(error**2) / variance) if variance else math.nan,
        "mae": float(error.mean()),
        "worst": float(error.max()),
    }


def _correlation_time(residual):
    """Returns float >= 1: so many neighbours tell as much as one independent value would."""
    centred = residual - residual.mean()
    centred = np.clip(centred, *np.quantile(centred, [0.05, 0.95]))
    lags = range(1, len(centred) // 3)
    correlation = np.array([np.sum(centred[:-lag] * centred[lag:]) for lag in lags]) / max(np.sum(centred**2), 1e-300)
    gone = np.flatnonzero(correlation < 0)
    return 1 + 2 * float(correlation[: gone[0] if len(gone) else None].sum())


def _spread(residual):
    """Returns float, the standard deviation of residuals, of which some may be wild, and of the losses' rounding at least."""
    return max(1.4826 * float(np.median(np.abs(residual))), 1e-5)
