"""One optimization step as a GradientTape function: what `model.fit` runs, and what a loop of one's own calls."""

import tensorflow as tf

from tfllm.training.losses import lm_loss, mean


def gradient_step(model, optimizer, batch, loss_fn=lm_loss, clip_norm=1.0):
    """Computes the loss of a batch and moves the weights against its gradient.

    Args:
        model: a Keras model; its `trainable_variables` move.
        optimizer: a Keras optimizer, a `LossScaleOptimizer` included.
        batch: what `loss_fn` reads.
        loss_fn: `(model, batch, training=True) -> {"loss": (sum, weight), ...}`.
        clip_norm: float > 0, the longest gradient (Euclidean norm over all weights), or None for no limit.

    Returns:
        (the totals of `loss_fn`, float32 scalar: the norm of the gradient before clipping).

    Source: clipping is Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
    """
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        totals = loss_fn(model, batch, training=True)
        loss = mean(*totals["loss"])
        scaled = optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, [variable.value for variable in variables])
    # A sparse gradient can name a row twice, and its norm would then be wrong.
    gradients = [tf.convert_to_tensor(gradient) if gradient is not None else None for gradient in gradients]
    norm = tf.linalg.global_norm(gradients)
    scale = tf.cast(optimizer.scale_loss(1.0), tf.float32)  # 1 but for a LossScaleOptimizer, which unscales in `apply`
    if clip_norm is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, clip_norm * scale, use_norm=norm)
    optimizer.apply(gradients, variables)
    return totals, norm / scale


def make_train_step(model, optimizer, loss_fn=lm_loss, *, clip_norm=1.0, jit_compile=False):
    """Compiles `gradient_step` for a loop of one's own.

    Args:
        model, optimizer, loss_fn, clip_norm: as in `gradient_step`.
        jit_compile: bool, whether XLA compiles the step: faster for small models, needs batches of one shape, and has
            no cuDNN recurrent layers.

    Returns:
        A function of a batch that returns a dict of float32 scalars: the mean of every total of `loss_fn` (`"loss"` in
        nats a token, `"accuracy"`), `"perplexity"`, and `"grad_norm"` before clipping.

    Raises:
        ValueError: when `clip_norm` is not above 0.

    Example:
        >>> import keras, tfllm
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> step = make_train_step(model, keras.optimizers.Adam(0.03))
        >>> batch = (tf.constant([[1, 2, 3]]), tf.constant([[2, 3, 4]]), tf.ones([1, 3]))
        >>> losses = [float(step(batch)["loss"]) for _ in range(20)]
        >>> losses[-1] < losses[0]
        True
    """
    check_clip_norm(clip_norm)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile, reduce_retracing=True)
    def train_step(batch):
        totals, norm = gradient_step(model, optimizer, batch, loss_fn, clip_norm)
        means = {name: mean(*total) for name, total in totals.items()}
        return means | {"perplexity": tf.exp(means["loss"]), "grad_norm": norm}

    return train_step


def check_clip_norm(clip_norm):
    """Refuses a `clip_norm` that is neither None nor above 0."""
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0, or None for no clipping; got {clip_norm}")
