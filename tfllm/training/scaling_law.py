"""The loss of models of several sizes after several amounts of data, and how to divide a budget between the two.

L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv:2203.15556, equation 2), fitted as there (section 3.3,
approach 3) to the final losses of runs that each ended with their learning rate decayed.
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import logsumexp, stdtrit

from tfllm.training.forecast_fit import Forecast, NoForecast

_LEAST_RUNS = 6  # one more than the law has parameters
_HUBER = 1e-3  # of the logarithm of a loss, as in the source
_FLOPS = 6  # a parameter and a token, forward and back


class Split(NamedTuple):
    """How a budget is best spent: float `parameters` and `tokens`, and the float `loss` that is expected of it."""

    parameters: float
    tokens: float
    loss: float


class ScalingLaw:
    """A fitted scaling law: what `fit_scaling_law` returns."""

    def __init__(self, theta, covariance, noise, centre, errors):
        self._theta, self._covariance, self._noise, self._centre, self._errors = (
            theta,
            covariance,
            noise,
            centre,
            errors,
        )

    def predict(self, parameters, tokens, interval=None):
        """Predicts the loss of a model after so many tokens.

        Args:
            parameters: float > 0, or an array, the size of the model.
            tokens: float > 0, or an array of the same shape.
            interval: float in (0, 1), the probability of the interval, or None for none.

        Returns:
            float64 of that shape, nats a token, or with `interval` a `Forecast` of three of them.

        Raises:
            ValueError: when a size is not finite and above 0, or `interval` lies outside of (0, 1).
        """
        if interval is not None and not 0 < interval < 1:
            raise ValueError(f"interval must lie in (0, 1), or be None; got {interval}")
        parameters, tokens = np.broadcast_arrays(_sizes("parameters", parameters), _sizes("tokens", tokens))
        logs = np.log(np.stack([parameters, tokens], -1)) - self._centre
        log_loss, gradient = _log_loss(self._theta, logs[..., 0], logs[..., 1])
        if interval is None:
            return np.exp(log_loss)
        variance = np.einsum("...p,pq,...q->...", gradient, self._covariance, gradient) + self._noise**2
        freedom = max(len(self._errors) - 5, 1)  # of the noise, which is known from so few runs only
        reach = stdtrit(freedom, 0.5 + interval / 2) * np.sqrt(variance)
        return Forecast(np.exp(log_loss), np.exp(log_loss - reach), np.exp(log_loss + reach))

    def compute_optimal(self, flops):
        """Divides a budget of training between size and data.

        Args:
            flops: float > 0, floating-point operations of the training, counted as 6 a parameter and token.

        Returns:
            `Split`.

        Source: Hoffmann et al. 2022, equation 4.
        """
        flops = float(_sizes("flops", flops))
        _, amount_n, alpha, amount_d, beta = self._values()
        balance = (alpha * amount_n / (beta * amount_d)) ** (1 / (alpha + beta))
        parameters = balance * (flops / _FLOPS) ** (beta / (alpha + beta))
        tokens = flops / _FLOPS / parameters
        return Split(float(parameters), float(tokens), float(self.predict(parameters, tokens)))

    def parameters(self):
        """Returns dict of E, A, alpha, B and beta: name to (value, standard error), floats; errors are often large."""
        values, (log_n, log_d) = self._values(), self._centre
        slopes = np.diag(values)  # by the logarithms of the fit; A and B depend on the exponents as well
        slopes[1, 2], slopes[3, 4] = values[1] * values[2] * log_n, values[3] * values[4] * log_d
        errors = np.sqrt(np.einsum("np,pq,nq->n", slopes, self._covariance, slopes))
        names = ("E", "A", "alpha", "B", "beta")
        return {name: (float(v), float(e)) for name, v, e in zip(names, values, errors, strict=True)}

    def _values(self):
        lowest, amount_n, alpha, amount_d, beta = np.exp(self._theta)
        log_n, log_d = self._centre
        return np.array([lowest, amount_n * np.exp(alpha * log_n), alpha, amount_d * np.exp(beta * log_d), beta])

    def __repr__(self):
        return (
            f"ScalingLaw(fitted to {len(self._errors)} runs: mean absolute error {np.mean(self._errors):.4f}, "
            f"worst {np.max(self._errors):.4f})"
        )


def fit_scaling_law(parameters, tokens, losses):
    """Fits the loss of finished runs to the size of their models and the tokens they read.

    Args:
        parameters: float [R], the parameters of each run's model.
        tokens: float [R], the tokens that each run was trained on.
        losses: float [R], its final loss, nats a token.

    Returns:
        `ScalingLaw`.

    Raises:
        ValueError: when lengths differ or a size is not finite and above 0.
        NoForecast: when there are fewer than 6 runs, one size or one amount of data only, a loss that is not finite and
            above 0, or losses that do not fall with either.

    Example:
        >>> sizes, data = np.repeat([1e6, 1e7, 1e8], 3), np.tile([1e8, 1e9, 1e10], 3)
        >>> law = fit_scaling_law(sizes, data, 1.69 + 406.4 / sizes**0.34 + 410.7 / data**0.28)
        >>> print(f"{law.predict(7e10, 1.4e12):.2f}")
        1.94

    Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3 and appendix D.3.
    """
    parameters, tokens = _sizes("parameters", parameters), _sizes("tokens", tokens)
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 1 or not parameters.shape == tokens.shape == losses.shape:
        raise ValueError(
            "parameters, tokens and losses must be lists of one length; got the shapes "
            f"{parameters.shape}, {tokens.shape} and {losses.shape}"
        )
    if len(losses) < _LEAST_RUNS:
        raise NoForecast(f"losses must hold those of at least {_LEAST_RUNS} runs; got {len(losses)}")
    if not np.all(np.isfinite(losses) & (losses > 0)):
        raise NoForecast(f"losses must be finite and above 0; got {losses[~(np.isfinite(losses) & (losses > 0))][0]}")
    for name, sizes in (("parameters", parameters), ("tokens", tokens)):
        if len(np.unique(sizes)) < 2:
            raise NoForecast(
                f"{name} must differ between runs to tell what they bring; got {sizes[0]:g} in all of them"
            )
    both = np.log(np.stack([parameters, tokens]))
    centre = both.mean(1)
    log_n, log_d = both - centre[:, None]
    slopes = np.linalg.lstsq(np.stack([log_n, log_d, np.ones_like(log_n)], 1), np.log(losses), rcond=None)[0]
    if slopes[0] > 0 or slopes[1] > 0:
        raise NoForecast(
            "losses must fall with parameters and with tokens; got a slope of their logarithms of "
            f"{slopes[0]:+.4f} and {slopes[1]:+.4f}"
        )
    # Weak priors keep finite what the runs do not tell, such as an exponent seen at two sizes only.
    mean = np.log([0.7 * losses.min(), 0.3 * np.median(losses), 0.35, 0.3 * np.median(losses), 0.35])
    deviation, sigma = np.array([1.0, 2.0, 0.7, 2.0, 0.7]), _HUBER
    starts = [
        np.log([share * losses.min(), amount, alpha, amount, beta])
        for share, alpha, beta in itertools.product((0.3, 0.8), (0.2, 0.6), (0.2, 0.6))
        for amount in (0.2 * losses.min(),)
    ]

    def descend(theta, sigma):
        return least_squares(
            lambda t: np.concatenate(
                [(_log_loss(t, log_n, log_d)[0] - np.log(losses)) / sigma, (t - mean) / deviation]
            ),
            theta,
            lambda t: np.concatenate([_log_loss(t, log_n, log_d)[1] / sigma, np.diag(1 / deviation)]),
            loss="huber",
        )

    theta = min((descend(start, sigma) for start in starts), key=lambda found: found.cost).x
    freedom = max(len(losses) - 5, 1) / len(losses)
    for _ in range(2):
        residual = _log_loss(theta, log_n, log_d)[0] - np.log(losses)
        sigma = max(float(np.sqrt(np.mean(residual**2) / freedom)), 1e-5)
        theta = descend(theta, sigma).x
    found, gradient = _log_loss(theta, log_n, log_d)
    covariance = np.linalg.inv(gradient.T @ gradient / sigma**2 + np.diag(1 / deviation**2))
    return ScalingLaw(theta, covariance, sigma, centre, np.abs(np.exp(found) - losses))


def _log_loss(theta, log_n, log_d):
    """Returns the logarithm of the loss, [...], and its gradient [..., 5], of log E, log A, log alpha, log B, log beta."""
    alpha, beta = np.exp(theta[2]), np.exp(theta[4])
    terms = np.stack(np.broadcast_arrays(theta[0], theta[1] - alpha * log_n, theta[3] - beta * log_d), -1)
    total = logsumexp(terms, axis=-1)
    share = np.exp(terms - total[..., None])
    gradient = [
        share[..., 0],
        share[..., 1],
        -share[..., 1] * alpha * log_n,
        share[..., 2],
        -share[..., 2] * beta * log_d,
    ]
    return total, np.stack(gradient, -1)


def _sizes(name, values):
    values = np.asarray(values, np.float64)
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise ValueError(f"{name} must be finite and above 0; got {values[bad].ravel()[0]}")
    return values
