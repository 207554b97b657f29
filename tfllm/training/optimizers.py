"""The optimizer that language models are usually trained with, and its parameter groups for any other Keras optimizer."""

import keras


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
    optimizer.exclude_from_weight_decay(var_list=spared)
