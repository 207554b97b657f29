"""The arithmetic of two laws of the loss under a learning-rate schedule, with gradients, fast for long schedules.

Rates are counted in units of one peak rate and their sums in steps at that peak, so parameters are of the order of 1 and
mean the same at every scale. What both laws leave out is the warm-up: the rates of a warm-up are added up, but their rises
count as no drops (section 3 of the source).

Sources: Luo et al. 2025, arXiv:2503.12811, equation 1 (multi-power law); Tissue et al. 2024, arXiv:2408.11029, equation 1
(momentum law).
"""

import dataclasses

import numpy as np
from scipy.signal import lfilter

_BLOCKS = 512  # groups of drops on the way from the peak to 0
_MOST_BLOCKS, _MOST_STEPS = 2048, 4096  # for schedules that go up and down many times, where both cost seconds
_LOWEST = (
    1e-4  # of the peak: a rate of 0 has no finite power, and at rate 0 nothing is learned that the power could scale
)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What the laws read of a schedule at some of its steps.

    Attributes:
        total: float64 [N], the sum of the rates of all steps up to and with each of the steps, in steps at the peak.
        drop, level, place: float64 [K], blocks of steps in which the rate moved: by how much it fell, the rate after it,
            and the sum of rates before it, means over the block weighted by drop.
        last: int [K], the step in which each block ends.
        own_drop, own_level, own_place: float64 [N], the same of the block that is not over at each of the steps, so far.
        steps: int [N].
        falls: float64 [T], by how much the rate fell in each step of the schedule, 0 in the warm-up.
    """

    total: np.ndarray
    drop: np.ndarray
    level: np.ndarray
    place: np.ndarray
    last: np.ndarray
    own_drop: np.ndarray
    own_level: np.ndarray
    own_place: np.ndarray
    steps: np.ndarray
    falls: np.ndarray


def warmup_of(rates):
    """Returns int, the step in which the warm-up is over: where the rates first stand at the top of their first rise.

    Example:
        >>> warmup_of([0.1, 0.2, 0.2, 0.3, 0.3, 0.2, 0.9]), warmup_of([0.3, 0.2])
        (3, 0)
    """
    falls = np.flatnonzero(np.diff(rates) < 0)
    rise = np.asarray(rates)[: falls[0] + 1 if len(falls) else len(rates)]
    return int(np.argmax(rise))


def make_plan(rates, steps, blocks=None):
    """Sums a schedule up for the laws.

    Args:
        rates: float64 [T], the rate of every step, in units of the peak.
        steps: int [N], steps below T.
        blocks: int, the number of groups that the drops are put into when there are more; None chooses.

    Returns:
        `Plan`.
    """
    rates, steps = np.asarray(rates, np.float64), np.asarray(steps)
    sums = np.cumsum(rates)
    falls = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    falls[: warmup_of(rates) + 1] = 0
    moved = np.flatnonzero(falls)
    size, before, after = np.abs(falls), np.concatenate([[0.0], sums[:-1]]), np.maximum(rates, _LOWEST)
    if blocks is None:
        blocks = int(np.clip(_BLOCKS * size.sum() / rates.max(), _BLOCKS, _MOST_BLOCKS))
    if len(moved) > blocks:
        # A block takes an equal share of all that the rate moves, and never a rise together with a fall.
        passed = np.cumsum(size[moved])
        share = np.floor((passed - size[moved]) / passed[-1] * blocks)
        new = (np.diff(share) != 0) | (np.diff(np.sign(falls[moved])) != 0)
        block_of_move = np.concatenate([[0], np.cumsum(new)])
    else:
        block_of_move = np.arange(len(moved))
    starts = np.flatnonzero(np.diff(block_of_move, prepend=-1))
    first = moved[starts]
    last = moved[np.append(starts[1:], len(moved)) - 1] if len(moved) else moved

    sum_drop, sum_size = np.cumsum(falls), np.cumsum(size)
    sum_level, sum_place = np.cumsum(size * after), np.cumsum(size * before)

    def of_span(begin, end):
        """Drop and means over the steps from `begin` up to and with `end`."""
        drop, weight = sum_drop[end] - sum_drop[begin - 1], sum_size[end] - sum_size[begin - 1]
        weight = np.maximum(weight, 1e-300)
        level = (sum_level[end] - sum_level[begin - 1]) / weight
        return drop, np.maximum(level, _LOWEST), (sum_place[end] - sum_place[begin - 1]) / weight

    drop, level, place = of_span(first, last)
    own_drop, own_level, own_place = np.zeros(len(steps)), np.ones(len(steps)), np.zeros(len(steps))
    if len(moved):
        block = np.searchsorted(first, steps, side="right") - 1
        inside = np.flatnonzero((block >= 0) & (steps < last[block]))
        own_drop[inside], own_level[inside], own_place[inside] = of_span(first[block[inside]], steps[inside])
    return Plan(sums_of(rates)[steps], drop, level, place, last, own_drop, own_level, own_place, steps, falls)


def sums_of(rates):
    """Returns float64 [T], the sums of rates up to and with every step; above 0 from the start, where rates begin at 0."""
    sums = np.cumsum(rates)
    return np.maximum(sums, sums[sums > 0][0])


def power_of(total, theta, scale):
    """Returns float64 [N], what is left of the power law of the sum of rates; arguments as in `loss_of`."""
    return np.exp(theta[1]) * (total / scale) ** -np.exp(theta[2])


class MultiPower:
    """Every drop of the rate lowers the loss by a power law of the rates that follow it."""

    names = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    # Means and standard deviations of weak priors of log L0, A, alpha, B, C, beta, and of gamma; those of L0, A and B as
    # shares of the lowest loss. They decide only what the curves leave open: curves whose rate never falls say nothing about
    # falls, and then the interval is wide but finite. Those of B, C, beta and gamma, and `wild`, were chosen among 49 candidates
    # by `benchmarks/forecast.py --choose-priors`: on three public curves of a model of 25 million parameters, of which each
    # is forecast from the two others, and two from their first third. The curves that its figures are of had no part in it.
    prior_mean = np.append(np.log([0.9, 0.1, 0.5, 0.02, 0.1, 0.3]), 0.5)
    prior_deviation = np.array([1.0, 2.0, 0.7, 2.0, 0.5, 0.2, 0.1])
    wild = 2.0  # standard deviations of the noise, beyond which a point counts less, by the Huber loss
    starts = tuple(
        np.array([np.log(c), np.log(beta), gamma])
        for c in (0.003, 0.03, 0.3)
        for beta in (0.25, 0.7)
        for gamma in (0.2, 0.7)
    )

    @staticmethod
    def share(level, since, steps, theta):
        """Returns what share of a drop to `level` has become lower loss after a sum of rates `since`, which took `steps`.

        With it, its derivatives by log level and by log since; all of one shape.
        """
        beta, gamma = np.exp(theta[1]), theta[2]
        learned = np.exp(theta[0]) * np.maximum(level, _LOWEST) ** -gamma * since
        left = (1 + learned) ** -beta
        slope = beta * left * learned / (1 + learned)
        return 1 - left, -gamma * slope, slope

    @staticmethod
    def natural(theta, scale, peak):
        """Returns float64 [7], the parameters as the source counts them."""
        alpha, gamma = np.exp(theta[2]), theta[6]
        amount, rate = np.exp(theta[1]) * (scale * peak) ** alpha, np.exp(theta[4]) * peak ** (gamma - 1)
        return np.array([np.exp(theta[0]), amount, alpha, np.exp(theta[3]) / peak, rate, np.exp(theta[5]), gamma])

    @staticmethod
    def gains(plan, theta):
        """Returns the drops times their shares, summed, float64 [N], and its gradient [N, 3]."""
        log_c, log_beta, gamma = theta
        beta = np.exp(log_beta)
        gain, gradient = np.zeros(len(plan.total)), np.zeros([len(plan.total), 3])
        chunk = max(1, 2_000_000 // max(len(plan.drop), 1))
        for begin in range(0, len(plan.total), chunk):
            rows = slice(begin, begin + chunk)
            total = plan.total[rows, None]
            since = np.concatenate([total - plan.place, total - plan.own_place[rows, None]], 1)  # [n, K + 1]
            drop = np.where(plan.last <= plan.steps[rows, None], plan.drop, 0.0)
            drop = np.concatenate([drop, plan.own_drop[rows, None]], 1)
            log_level = np.concatenate(
                [np.broadcast_to(np.log(plan.level), [len(total), len(plan.drop)]), np.log(plan.own_level[rows, None])],
                1,
            )
            learned = np.exp(log_c - gamma * log_level) * np.maximum(since, 0.0)
            log_left = np.log1p(learned)
            left = np.exp(-beta * log_left)
            slope = drop * beta * left * learned / (1 + learned)
            gain[rows] = (drop * (1 - left)).sum(1)
            gradient[rows, 0] = slope.sum(1)
            gradient[rows, 1] = (drop * beta * left * log_left).sum(1)
            gradient[rows, 2] = -(slope * log_level).sum(1)
        return gain, gradient


class Momentum:
    """Every drop of the rate lowers the loss by a share that grows with the steps since, as a momentum does."""

    names = ("L0", "A", "alpha", "C", "lambda")
    prior_mean = np.log(
        [0.9, 0.1, 0.5, 0.02, 3e-3]
    )  # of log L0, A, alpha, what C brings in all, and 1 - lambda; as above
    prior_deviation = np.array([1.0, 2.0, 0.7, 2.0, 3.0])
    wild = 1.345
    starts = tuple(np.array([np.log(rest)]) for rest in (3e-4, 1e-3, 3e-3, 1e-2))

    @staticmethod
    def share(level, since, steps, theta):
        """As that of `MultiPower`; the rates play no part here."""
        none = np.zeros(np.broadcast_shapes(np.shape(level), np.shape(since)))
        return 1 - (1 - np.exp(theta[0])) ** steps + none, none, none

    @staticmethod
    def natural(theta, scale, peak):
        """Returns float64 [5], the parameters as the source counts them."""
        alpha, rest = np.exp(theta[2]), np.exp(theta[4])
        amount = np.exp(theta[1]) * (scale * peak) ** alpha
        return np.array([np.exp(theta[0]), amount, alpha, np.exp(theta[3]) * rest / peak, 1 - rest])

    @staticmethod
    def gains(plan, theta):
        """As those of `MultiPower`: float64 [N] and [N, 1]."""
        rest = np.exp(theta[0])  # 1 - lambda
        decay = np.array([1.0, rest - 1])
        momentum = lfilter([1.0], decay, plan.falls)
        # The derivative by lambda of a filtered signal is the same filter on the signal one step late.
        change = lfilter([0.0, 1.0], decay, momentum)
        gain = rest * np.cumsum(momentum)
        gradient = rest * np.cumsum(momentum - rest * change)
        return gain[plan.steps], gradient[plan.steps, None]


LAWS = {"multi_power": MultiPower, "momentum": Momentum}


def loss_of(law, plan, theta, scale):
    """Computes the loss and its gradient.

    Args:
        law: `MultiPower` or `Momentum`.
        plan: `Plan`.
        theta: float64 [P]: log L0, log A, log alpha, log B, then the law's own. A is what the power law leaves when the
            sum of rates is `scale`; B is what a fall from the peak to 0 brings in the end.
        scale: float, in steps at the peak.

    Returns:
        (float64 [N], float64 [N, P]).
    """
    lowest, _, alpha, drop = np.exp(theta[:4])
    power, logs = power_of(plan.total, theta, scale), np.log(plan.total / scale)
    gain, gradient = law.gains(plan, theta[4:])
    loss = lowest + power - drop * gain
    columns = [np.full_like(loss, lowest), power, -alpha * logs * power, -drop * gain]
    return loss, np.concatenate([np.stack(columns, 1), -drop * gradient], 1)


def grid_of(law, rates, theta, tolerance):
    """Finds steps between which a straight line follows the loss, but for the power of the sum of rates; some thousands at most.

    Args:
        law: `MultiPower` or `Momentum`.
        rates: float64 [T], in units of the peak.
        theta: float64 [P], as in `loss_of`.
        tolerance: float, how far off a line may be.

    Returns:
        int [G], rising, the first 0 and the last T - 1.
    """
    last = len(rates) - 1
    falls = np.abs(np.diff(rates, prepend=rates[0]))
    # After a large drop the loss bends quickly, then ever more slowly.
    large = np.flatnonzero(falls > falls.sum() / _BLOCKS)
    doubling = 2 ** np.arange(int(np.log2(last + 1)) + 1)
    steps = np.concatenate(
        [[0, last], large - 1, large, (large[:, None] + doubling).ravel(), warmup_of(rates) + doubling]
    )
    steps = np.unique(np.clip(steps, 0, last))
    values = np.exp(theta[3]) * law.gains(make_plan(rates, steps), theta[4:])[0]
    open_ = np.flatnonzero(np.diff(steps) > 1)
    while len(open_) and len(steps) < _MOST_STEPS:
        begin, end = steps[open_], steps[open_ + 1]
        middle = (begin + end) // 2
        found = np.exp(theta[3]) * law.gains(make_plan(rates, middle), theta[4:])[0]
        share = (middle - begin) / (end - begin)
        off = np.abs(found - (values[open_] * (1 - share) + values[open_ + 1] * share)) > tolerance
        steps, order = np.unique(np.concatenate([steps, middle]), return_index=True)
        values = np.concatenate([values, found])[order]
        halves = np.concatenate([np.stack([begin, middle], 1)[off], np.stack([middle, end], 1)[off]])
        halves = halves[halves[:, 1] - halves[:, 0] > 1]
        open_ = np.searchsorted(steps, np.sort(halves[:, 0]))
    return steps
