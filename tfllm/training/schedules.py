"""Learning-rate schedules: the rate of every optimization step as a function of its number.

Each is a `keras.optimizers.schedules.LearningRateSchedule` for any Keras optimizer. Rates rise linearly from
`peak / (warmup_steps + 1)` in step 0, so the first step already moves, to `peak` in step `warmup_steps`.
"""

import inspect
import math

import keras
import numpy as np
import tensorflow as tf


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A warm-up and what comes after it; a subclass says what, in `after`.

    Attributes:
        peak: float, the rate after the warm-up.
        warmup_steps: int, steps before it is reached.
    """

    def _begin(self, peak, warmup_steps, steps=None):
        if not (math.isfinite(peak) and peak > 0):
            raise ValueError(f"peak must be a finite number above 0; got {peak}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0; got {warmup_steps}")
        if steps is not None and steps <= warmup_steps:
            raise ValueError(f"steps must be above warmup_steps={warmup_steps}; got {steps}")
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps

    def __call__(self, step):
        """Returns the rate of a step: int or tensor of any shape to float32 of that shape."""
        step = tf.cast(step, tf.float32)
        rising = (step + 1) / (self.warmup_steps + 1)
        return self.peak * tf.where(step < self.warmup_steps, rising, self.after(step - self.warmup_steps))

    def after(self, step):
        """Returns the share of `peak` (float32) of a step (float32) counted from the end of the warm-up, at least 0."""
        raise NotImplementedError

    def get_config(self):
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }


@keras.saving.register_keras_serializable("tfllm")
class Constant(Schedule):
    """Warm-up, then one rate for good.

    Args:
        peak: float > 0, the rate.
        warmup_steps: int >= 0.

    Example:
        >>> Constant(0.4, warmup_steps=3)(tf.range(5)).numpy().tolist()
        [0.10000000149011612, 0.20000000298023224, 0.30000001192092896, 0.4000000059604645, 0.4000000059604645]
    """

    def __init__(self, peak, warmup_steps=0):
        self._begin(peak, warmup_steps)

    def after(self, step):
        return tf.ones_like(step)


@keras.saving.register_keras_serializable("tfllm")
class Cosine(Schedule):
    """Warm-up, then half a cosine down to `final` of the peak in step `steps`, where it stays.

    Args:
        peak: float > 0, the rate after the warm-up.
        steps: int > `warmup_steps`, after so many the lowest rate is reached.
        warmup_steps: int >= 0.
        final: float in [0, 1], the lowest rate as a share of `peak`.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """

    def __init__(self, peak, steps, warmup_steps=0, final=0.1):
        self._begin(peak, warmup_steps, steps)
        self.final = _share("final", final)

    def after(self, step):
        done = tf.clip_by_value(step / (self.steps - self.warmup_steps), 0.0, 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * done))


@keras.saving.register_keras_serializable("tfllm")
class Linear(Schedule):
    """Warm-up, then a straight line down to `final` of the peak in step `steps`; arguments as for `Cosine`.

    Example:
        >>> Linear(1.0, steps=4, final=0.0)(tf.range(6)).numpy().tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    def __init__(self, peak, steps, warmup_steps=0, final=0.0):
        self._begin(peak, warmup_steps, steps)
        self.final = _share("final", final)

    def after(self, step):
        done = tf.clip_by_value(step / (self.steps - self.warmup_steps), 0.0, 1.0)
        return 1 - (1 - self.final) * done


@keras.saving.register_keras_serializable("tfllm")
class WarmupStableDecay(Schedule):
    """Warm-up, a stable phase, and a short decay at the end: WSD.

    A stable run can be decayed at any time, so its length need not be known when it starts.

    Args:
        peak: float > 0, the stable rate.
        steps: int > `warmup_steps`, after so many the lowest rate is reached.
        decay_steps: int in [1, steps - warmup_steps], steps of the decay.
        warmup_steps: int >= 0.
        final: float in [0, 1], the lowest rate as a share of `peak`; above 0 for "exponential".
        shape: str, "linear", "exponential" or "sqrt" (1 - sqrt, Hägele et al. 2024, arXiv:2405.18392).

    Source: Hu et al. 2024, arXiv:2404.06395, section 4.
    """

    def __init__(self, peak, steps, decay_steps, warmup_steps=0, final=0.1, shape="linear"):
        self._begin(peak, warmup_steps, steps)
        if not 1 <= decay_steps <= steps - warmup_steps:
            raise ValueError(f"decay_steps must lie in [1, {steps - warmup_steps}]; got {decay_steps}")
        if shape not in ("linear", "exponential", "sqrt"):
            raise ValueError(f"shape must be linear, exponential or sqrt; got {shape!r}")
        if shape == "exponential" and not final > 0:
            raise ValueError(f"final must be above 0 for an exponential decay; got {final}")
        self.decay_steps, self.final, self.shape = decay_steps, _share("final", final), shape

    def after(self, step):
        stable = self.steps - self.warmup_steps - self.decay_steps
        done = tf.clip_by_value((step - stable) / self.decay_steps, 0.0, 1.0)
        if self.shape == "exponential":
            return self.final**done
        return 1 - (1 - self.final) * (tf.sqrt(done) if self.shape == "sqrt" else done)


@keras.saving.register_keras_serializable("tfllm")
class OneCycle(Schedule):
    """Half a cosine up from `first` of the peak, and half a cosine down to `final` of it.

    Args:
        peak: float > 0, the highest rate.
        steps: int > `rising_steps`, the length of the cycle.
        rising_steps: int >= 1, steps up to the peak; None takes 30 % of `steps`.
        first: float in [0, 1], the first rate as a share of `peak`.
        final: float in [0, 1], the last one.

    Source: Smith and Topin 2018, arXiv:1708.07120.
    """

    def __init__(self, peak, steps, rising_steps=None, first=0.04, final=1e-4):
        rising = max(1, round(0.3 * steps)) if rising_steps is None else rising_steps
        if rising < 1:
            raise ValueError(f"rising_steps must be at least 1; got {rising_steps}")
        self._begin(peak, 0, steps)
        if steps <= rising:
            raise ValueError(f"steps must be above rising_steps={rising}; got {steps}")
        self.rising_steps, self.first, self.final = rising, _share("first", first), _share("final", final)

    def after(self, step):
        up = tf.clip_by_value(step / self.rising_steps, 0.0, 1.0)
        down = tf.clip_by_value((step - self.rising_steps) / (self.steps - self.rising_steps), 0.0, 1.0)
        rising = self.first + (1 - self.first) * 0.5 * (1 - tf.cos(math.pi * up))
        falling = self.final + (1 - self.final) * 0.5 * (1 + tf.cos(math.pi * down))
        return tf.where(step < self.rising_steps, rising, falling)


@keras.saving.register_keras_serializable("tfllm")
class InverseSquareRoot(Schedule):
    """Warm-up, then the peak times sqrt(warmup / step).

    Args:
        peak: float > 0, the rate after the warm-up.
        warmup_steps: int >= 1.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
    """

    def __init__(self, peak, warmup_steps):
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps must be at least 1; got {warmup_steps}")
        self._begin(peak, warmup_steps)

    def after(self, step):
        return tf.math.rsqrt(tf.maximum(step + self.warmup_steps, 1) / self.warmup_steps)


def learning_rates(schedule, steps):
    """Returns float64 [steps]: the rate of every step, as an array, of a schedule or of a constant rate (float).

    Example:
        >>> learning_rates(Linear(1.0, steps=4), 3).tolist()
        [1.0, 0.75, 0.5]
    """
    if not callable(schedule):
        return np.full([steps], float(schedule))
    return (
        np.array([float(schedule(step)) for step in range(steps)])
        if not isinstance(schedule, Schedule)
        else (schedule(tf.range(steps)).numpy().astype(np.float64))
    )


def _share(name, value):
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {value}")
    return value
