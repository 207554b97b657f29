"""The optimizer that language models are usually trained with, its parameter groups for any other Keras optimizer, and both
optimizers and schedules by their names.
"""

import keras

from tfllm.training.plateau import Plateau
from tfllm.training.schedules import Constant, Cosine, InverseSquareRoot, Linear, OneCycle, WarmupStableDecay
from tfllm.training.update_rules import Lookahead

SCHEDULES = ("cosine", "constant", "linear", "wsd", "one_cycle", "inverse_square_root", "plateau")
_KINDS = {
    "adamw": (keras.optimizers.AdamW, {"beta_2": 0.99}),
    "adam": (keras.optimizers.Adam, {}),
    "sgd": (keras.optimizers.SGD, {}),
    "momentum": (keras.optimizers.SGD, {"momentum": 0.9}),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "nadam": (keras.optimizers.Nadam, {}),
    "adamax": (keras.optimizers.Adamax, {}),
    "adagrad": (keras.optimizers.Adagrad, {}),
    "adadelta": (keras.optimizers.Adadelta, {}),
    "adafactor": (keras.optimizers.Adafactor, {}),
    "ftrl": (keras.optimizers.Ftrl, {}),
    "lamb": (keras.optimizers.Lamb, {}),
    "lion": (keras.optimizers.Lion, {}),
}
OPTIMIZERS = tuple(_KINDS)


def make_adamw(model, steps, *, learning_rate=1e-3, final_rate=0.1, warmup_steps=100, weight_decay=0.1, beta_2=0.99):
    """Returns AdamW with warm-up and cosine decay, and no weight decay on biases and norms.

    Args:
        model: a built Keras model.
        steps: int, optimization steps until the lowest rate is reached.
        learning_rate: float, the rate after the warm-up.
        final_rate: float in [0, 1], the lowest rate as a share of `learning_rate`.
        warmup_steps: int, steps of linear warm-up; at most half of `steps` are used.
        weight_decay: float, for weights of two or more axes.
        beta_2: float, decay of the second moment.

    Returns:
        `keras.optimizers.AdamW`, built.

    Raises:
        ValueError: when `steps` is below 1 or `learning_rate` is not above 0.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101; the schedule and the choice of weights follow GPT-3 (Brown et al.
    2020, arXiv:2005.14165, appendix B).
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0; got {learning_rate}")
    warmup_steps = min(warmup_steps, steps // 2)
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate / (warmup_steps + 1),  # the first step already moves
        decay_steps=max(steps - warmup_steps, 1),
        alpha=final_rate,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, beta_1=0.9, beta_2=beta_2)
    exclude_from_decay(model, optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def exclude_from_decay(model, optimizer):
    """Makes an optimizer's weight decay spare the biases and norms of a model.

    Args:
        model: a built Keras model.
        optimizer: a Keras optimizer that is not built yet, or a `LossScaleOptimizer` around one.

    Raises:
        ValueError: when the optimizer is built already, because Keras then takes no exclusion.

    Example:
        >>> import keras
        >>> model, optimizer = tfllm.RecurrentLM(8, "gru", 4), keras.optimizers.Lion(weight_decay=0.1)
        >>> exclude_from_decay(model, optimizer)
        >>> model.compile(optimizer)
    """
    if optimizer.built:
        raise ValueError(f"optimizer must not be built before its weight decay is set up; got {optimizer.name}, built")
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    # A GRU's bias has two axes, so the name decides as well.
    names = ("bias", "gamma", "beta", "scale")
    spared = [v for v in model.trainable_variables if len(v.shape) < 2 or v.path.endswith(names)]
    innermost(optimizer).exclude_from_weight_decay(var_list=spared)


def innermost(optimizer):
    """Returns the optimizer that decays the weights: what a `LossScaleOptimizer`, a `Lookahead` or both are around.

    Example:
        >>> type(innermost(keras.optimizers.LossScaleOptimizer(Lookahead(keras.optimizers.Lion())))).__name__
        'Lion'
    """
    while isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, Lookahead)):
        optimizer = optimizer.optimizer if isinstance(optimizer, Lookahead) else optimizer.inner_optimizer
    return optimizer


def make_optimizer(model, name="adamw", learning_rate=1e-3, *, weight_decay=0.0, lookahead=False):
    """Makes an optimizer by its name, with no weight decay on biases and norms.

    Args:
        model: a built Keras model.
        name: str, one of `OPTIMIZERS`: Keras's own with their defaults, but for "adamw", whose beta_2 is 0.99, and
            "momentum", which is SGD with a momentum of 0.9.
        learning_rate: float > 0 or schedule.
        weight_decay: float >= 0, for weights of two or more axes, times the rate and apart from the gradient.
        lookahead: bool, whether `Lookahead` goes around it.

    Returns:
        A Keras optimizer, built.

    Raises:
        ValueError: on another name, or a number out of its range.

    Example:
        >>> model = tfllm.RecurrentLM(8, "gru", 4)
        >>> make_optimizer(model, "momentum", 0.1).momentum
        0.9
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {OPTIMIZERS}; got {name!r}")
    if not callable(learning_rate) and not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0; got {learning_rate}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0; got {weight_decay}")
    kind, options = _KINDS[name]
    if weight_decay or name == "adamw":  # which must have one, if of 0
        options = options | {"weight_decay": weight_decay}
    optimizer = kind(learning_rate, **options)
    exclude_from_decay(model, optimizer)
    if lookahead:
        optimizer = Lookahead(optimizer)
    optimizer.build(model.trainable_variables)
    return optimizer


def make_schedule(name, peak, steps, *, warmup_steps=None, decay_steps=None, final=0.1):
    """Makes a schedule by its name.

    Args:
        name: str, one of `SCHEDULES`; "plateau" is a constant rate after the warm-up, for `ReduceOnPlateau` to lower.
        peak: float > 0, the highest rate.
        steps: int >= 1, steps of the run.
        warmup_steps: int in [0, steps), until the peak is reached; None means 100, at most half of the steps, and 30 % of
            them for "one_cycle".
        decay_steps: int, for "wsd" alone, steps of the decay at the end; None means a fifth of the steps.
        final: float in [0, 1], the lowest rate of "cosine", "linear" and "wsd" as a share of `peak`.

    Returns:
        A Keras `LearningRateSchedule`.

    Raises:
        ValueError: on another name, or a number out of its range.

    Example:
        >>> print(make_schedule("linear", 1.0, 4, warmup_steps=0, final=0.0)(tf.range(5)).numpy())
        [1.   0.75 0.5  0.25 0.  ]
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {SCHEDULES}; got {name!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    least = int(name in ("one_cycle", "inverse_square_root"))
    if warmup_steps is None:
        warmup_steps = max(round(0.3 * steps) if name == "one_cycle" else min(100, steps // 2), least)
    if not least <= warmup_steps < steps:
        raise ValueError(f"warmup_steps must lie in [{least}, {steps}), below the steps of the run; got {warmup_steps}")
    if decay_steps is not None and name != "wsd":
        raise ValueError(f"decay_steps must be left out but for schedule='wsd'; got {decay_steps} for {name!r}")
    if name == "wsd":
        decay_steps = max(min(steps // 5, steps - warmup_steps), 1) if decay_steps is None else decay_steps
        return WarmupStableDecay(peak, steps, decay_steps, warmup_steps, final)
    makers = {
        "cosine": lambda: Cosine(peak, steps, warmup_steps, final),
        "linear": lambda: Linear(peak, steps, warmup_steps, final),
        "constant": lambda: Constant(peak, warmup_steps),
        "one_cycle": lambda: OneCycle(peak, steps, warmup_steps),
        "inverse_square_root": lambda: InverseSquareRoot(peak, warmup_steps),
        "plateau": lambda: Plateau(Constant(peak, warmup_steps)),
    }
    return makers[name]()
