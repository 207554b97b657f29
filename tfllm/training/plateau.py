"""What a run does when its validation loss falls no more: go on at a lower rate, or end.

Keras's `ReduceLROnPlateau` refuses a rate that is a schedule, and its `EarlyStopping` knows no loss relative to the best one;
where neither matters, they do. The rules here serve `fit` as callbacks and a loop of one's own by `update`, and `Resume` and
`Checkpoints` keep their states: those of the callbacks among `callbacks` or `also`, the schedule's with its optimizer.
"""

import math
import warnings

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class Plateau(keras.optimizers.schedules.LearningRateSchedule):
    """Any schedule times a share that `ReduceOnPlateau` lowers.

    Args:
        schedule: a schedule, or a float > 0 for a constant rate.
        share: float in (0, 1], what the share is at first.

    Attributes:
        share: Keras variable float32 [], the share as it is. An optimizer that holds the schedule follows it at once.

    Raises:
        ValueError: when a number is out of its range.

    Example:
        >>> schedule = Plateau(tfllm.training.Constant(0.4, warmup_steps=1))
        >>> _ = schedule.share.assign(0.5)
        >>> print(schedule(tf.range(3)).numpy())
        [0.1 0.2 0.2]
    """

    def __init__(self, schedule, share=1.0):
        if not callable(schedule) and not (math.isfinite(schedule) and schedule > 0):
            raise ValueError(f"schedule must be a schedule, or a finite rate above 0; got {schedule}")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1]; got {share}")
        self.schedule = schedule
        self.share = keras.Variable(float(share), dtype="float32", trainable=False, name="plateau_share")

    def __call__(self, step):
        """Returns the rate of a step: int or tensor of any shape to float32 of that shape."""
        rate = self.schedule(step) if callable(self.schedule) else tf.fill(tf.shape(step), self.schedule)
        return tf.cast(rate, tf.float32) * self.share.value

    def get_config(self):
        schedule = self.schedule
        if callable(schedule):
            schedule = keras.optimizers.schedules.serialize(schedule)
        return {"schedule": schedule, "share": float(self.share.numpy())}

    @classmethod
    def from_config(cls, config):
        schedule = config["schedule"]
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        return cls(schedule, config["share"])


class _Patience(keras.callbacks.Callback):
    """Watches a value, and does something, `_act`, when it was no better for some times in a row.

    Attributes:
        best: float, the best value so far, or None.
        wait: int, the values since then.
    """

    def __init__(self, patience, min_delta, monitor, mode):
        super().__init__()
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience must be an int of at least 1; got {patience!r}")
        if not 0 <= min_delta < 1:
            raise ValueError(f"min_delta must lie in [0, 1); got {min_delta}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max'; got {mode!r}")
        self.patience, self.min_delta, self.monitor, self.mode = patience, min_delta, monitor, mode
        self._state = ("best", "wait")
        self._reset()

    def update(self, value):
        """Takes a value into account, for a loop of one's own.

        Args:
            value: float; one that is not finite is no better than any other.

        Returns:
            bool, whether it is time to act.
        """
        if self._is_better(value):
            self.best, self.wait = value, 0
        else:
            self.wait += 1
        return self.wait >= self.patience

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            warnings.warn(
                f"monitor must be one of {sorted(logs or {})}; got {self.monitor!r}", RuntimeWarning, stacklevel=2
            )
        elif self.update(float(logs[self.monitor])):
            self._act()

    def get_state(self):
        """Returns dict of plain values: what decides how this goes on."""
        return {name: getattr(self, name) for name in self._state}

    def set_state(self, state):
        """Sets what `get_state` returned."""
        for name in self._state:
            setattr(self, name, state[name])

    def _reset(self):
        self.best, self.wait = None, 0

    def _is_better(self, value):
        if not math.isfinite(value) or self.best is None:
            return math.isfinite(value)
        least = self.min_delta * abs(self.best)
        return value < self.best - least if self.mode == "min" else value > self.best + least

    def _act(self):
        """Is what follows in `fit` when `update` says so; nothing unless a subclass knows better."""


class ReduceOnPlateau(_Patience):
    """Lowers the rate of a `Plateau` schedule when the validation loss has stopped falling.

    Args:
        schedule: the `Plateau` that the model's optimizer has.
        factor: float in (0, 1), times which the rate is taken.
        patience: int >= 1, evaluations in a row that were no better.
        min_delta: float in [0, 1): better is what lies below the best value by more than this share of it.
        cooldown: int >= 0; after a reduction, evaluations count again from this one on: 2 leaves out one, 0 and 1 none, as
            Keras does.
        lowest: float in [0, 1], the lowest share of the schedule's rate.
        monitor: str, what to watch of the logs of an epoch.
        mode: "min" or "max", which value is best.

    Raises:
        ValueError: when an argument breaks its rule.

    Warns:
        RuntimeWarning: in `fit`, when an epoch has no `monitor`.

    Example:
        >>> schedule = Plateau(0.1)
        >>> rule = ReduceOnPlateau(schedule, factor=0.5, patience=2)
        >>> [rule.update(loss) for loss in (3.0, 2.9, 2.9, 2.9)]
        [False, False, False, True]
        >>> round(float(schedule(0)), 3)
        0.05
    """

    def __init__(
        self,
        schedule,
        *,
        factor=0.5,
        patience=3,
        min_delta=0.0,
        cooldown=0,
        lowest=0.01,
        monitor="val_loss",
        mode="min",
    ):
        if not isinstance(schedule, Plateau):
            raise ValueError(f"schedule must be a Plateau; got {type(schedule).__name__}")
        if not 0 < factor < 1:
            raise ValueError(f"factor must lie in (0, 1); got {factor}")
        if isinstance(cooldown, bool) or not isinstance(cooldown, int) or cooldown < 0:
            raise ValueError(f"cooldown must be an int of at least 0; got {cooldown!r}")
        if not 0 <= lowest <= 1:
            raise ValueError(f"lowest must lie in [0, 1]; got {lowest}")
        super().__init__(patience, min_delta, monitor, mode)
        self.schedule, self.factor, self.cooldown, self.lowest = schedule, factor, cooldown, lowest
        self._state = ("best", "wait", "cooling")

    def update(self, value):
        """Takes a value (float) into account and returns bool, whether it lowered the rate."""
        self.cooling = max(self.cooling - 1, 0)
        due, share = super().update(value), float(self.schedule.share.numpy())
        if self.cooling:
            self.wait = 0
        elif due and share > self.lowest:
            self.schedule.share.assign(max(share * self.factor, self.lowest))
            self.wait, self.cooling = 0, self.cooldown
            return True
        return False

    def _reset(self):
        super()._reset()
        self.cooling = 0


class Converged(_Patience):
    """Ends a run that gets no better: in `fit` as a callback, in a loop of one's own when `update` returns True.

    With `epochs` or steps as the other bound, a run lasts until it converges or a set number of steps.

    Args:
        patience: int >= 1, evaluations in a row that were no better.
        min_delta: float in [0, 1): better is what lies below the best value by more than this share of it.
        monitor: str, what to watch of the logs of an epoch.
        mode: "min" or "max", which value is best.

    Raises:
        ValueError: when an argument breaks its rule.

    Warns:
        RuntimeWarning: in `fit`, when an epoch has no `monitor`.

    Example:
        >>> rule = Converged(patience=2, min_delta=0.01)
        >>> [rule.update(loss) for loss in (3.0, 2.0, 1.99, 1.985)]
        [False, False, False, True]
    """

    def __init__(self, patience=5, min_delta=1e-3, *, monitor="val_loss", mode="min"):
        super().__init__(patience, min_delta, monitor, mode)

    def _act(self):
        self.model.stop_training = True
