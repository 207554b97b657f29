"""Adam and AdamW in one pass over the weights, with the step's clipping and its refusal of what is not finite.

Keras's Adam is a dozen operations a weight, most of which write a new tensor; on CPUs that takes longer than memory needs.
TensorFlow has the same formula as one operation that changes weights and moments in place. Left out: optimizers with options
of their own (a gradient norm, an average, accumulation, constraints), and several replicas, which Keras applies.
"""

import keras
import tensorflow as tf

_KINDS = (keras.optimizers.Adam, keras.optimizers.AdamW)  # a subclass may compute something else
_NOTHING = 2.0**-60  # a rate that moves no weight
_OPTIONS = (
    "amsgrad",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


def is_fusable(optimizer, variables):
    """Says whether `apply_adam` does what the optimizer does; variables are the Keras variables that it moves."""
    if type(optimizer) not in _KINDS or not optimizer.built or tf.distribute.has_strategy():
        return False
    known = {optimizer._var_key(variable) for variable in optimizer._trainable_variables}
    if not known.issuperset(optimizer._var_key(variable) for variable in variables):
        return False  # Keras says what is wrong
    plain = not any(getattr(optimizer, option) for option in _OPTIONS)
    numbers = all(isinstance(beta, (int, float)) for beta in (optimizer.beta_1, optimizer.beta_2))
    return plain and numbers and all(v.constraint is None and not v.overwrite_with_gradient for v in variables)


def apply_adam(optimizer, gradients, variables, factor, finite):
    """Moves the weights as `optimizer.apply` does with gradients times a factor; moves nothing where they are not finite.

    There is no branch: a step that moves nothing has rates of 0 and moments that keep all of themselves. A branch would cost
    XLA a copy of all weights.

    Args:
        optimizer: `keras.optimizers.Adam` or `AdamW`, built, of which `is_fusable` holds.
        gradients: list of tensors in the shapes of the variables, or None.
        variables: list of Keras variables.
        factor: float32 scalar.
        finite: bool scalar, whether all gradients are.
    """
    rate, step = tf.cast(optimizer.learning_rate, tf.float32), tf.cast(optimizer.iterations.value + 1, tf.float32)
    powers = [tf.pow(tf.cast(beta, tf.float32), step) for beta in (optimizer.beta_1, optimizer.beta_2)]
    rate = tf.where(finite, rate, 0.0)
    betas = [tf.where(finite, tf.cast(beta, tf.float32), 1.0) for beta in (optimizer.beta_1, optimizer.beta_2)]
    factor = tf.where(finite, factor, 0.0)
    slots = zip(optimizer._momentums, optimizer._velocities, strict=True)
    slots = dict(zip((optimizer._var_key(v) for v in optimizer._trainable_variables), slots, strict=True))
    for gradient, variable in zip(gradients, variables, strict=True):
        if gradient is None:
            continue
        dtype = variable.value.dtype
        first, second = slots[optimizer._var_key(variable)]
        numbers = [tf.cast(number, dtype) for number in (*powers, rate, *betas, optimizer.epsilon)]
        # Nothing times 0 is 0, even what is not finite.
        gradient = tf.math.multiply_no_nan(tf.cast(gradient, dtype), tf.cast(factor, dtype))
        if optimizer.weight_decay is not None and optimizer._use_weight_decay(variable):
            _shrink(variable.value, rate * optimizer.weight_decay, gradient)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=first.value.handle,
            v=second.value.handle,
            beta1_power=numbers[0],
            beta2_power=numbers[1],
            lr=numbers[2],
            beta1=numbers[3],
            beta2=numbers[4],
            epsilon=numbers[5],
            grad=gradient,
        )
    optimizer.iterations.assign_add(tf.cast(finite, optimizer.iterations.dtype))


def _shrink(weights, share, gradient):
    """Takes a share (float32 scalar) of weights away from them, in place; a product and an assignment would need a copy.

    There is no operation for this alone, so it is the division of TensorFlow's proximal step: by 1 + s / (1 - s), which is the
    multiplication by 1 - s. What that step moves along the gradient is less than the weights' last digit.
    """
    share = tf.cast(share, weights.dtype)
    if weights.dtype.size == 2:  # in which such numbers do not exist
        weights.assign_sub(weights * share)
        return
    rate = tf.constant(_NOTHING, weights.dtype)
    tf.raw_ops.ResourceApplyProximalGradientDescent(
        var=weights.handle, alpha=rate, l1=tf.zeros_like(rate), l2=share / (1 - share) / rate, delta=gradient
    )
