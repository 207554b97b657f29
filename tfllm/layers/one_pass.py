"""Softmax, activations and normalisations in one pass over memory each, and their gradients in one more, for training on CPUs.

A graph runs every operation of a formula by itself: a GELU reads and writes its features eight times, its gradient some twenty,
and all that lies in between is kept. Here gradients are written by hand and keep the input alone (the output, of a softmax), and
XLA compiles each formula for itself, while the products around them stay TensorFlow's, which in bfloat16 are several times
faster on CPUs than XLA's. Inside, numbers are float32 or wider. Left out: GPUs, whose kernels are not measured here; decoding,
whose shapes change; and second derivatives.
"""

import tensorflow as tf

_LARGE = 1 << 18  # numbers in a tensor below which a call of a program costs more than it saves
_GELU = (2.0 / 3.141592653589793) ** 0.5, 0.044715


def pays(x, training):
    """Says whether a formula over x is to be one program: in the graph of a training step, on CPUs, for a large x of a known
    shape, because XLA compiles anew for every shape."""
    size = None if tf.executing_eagerly() or not training else x.shape.num_elements()
    return size is not None and size >= _LARGE and not tf.config.list_logical_devices("GPU")


def masked_softmax(scores, mask):
    """Returns the softmax over the last axis of float [..., S], in its dtype, of what a mask lets through.

    Args:
        scores: float [..., S].
        mask: bool, broadcast to the shape of scores, True for what counts; None for all.
    """

    def forward(scores, *mask):
        wide = _widen(scores)
        wide = wide - tf.cast(tf.where(mask[0], 0.0, 1e9), wide.dtype) if mask else wide
        return tf.cast(tf.nn.softmax(wide), scores.dtype)

    def backward(weights, upstream):
        wide = _widen(weights)
        product = wide * _widen(upstream)
        return tf.cast(product - wide * tf.reduce_sum(product, -1, keepdims=True), weights.dtype)

    @tf.custom_gradient
    def run(scores):
        weights = _compiled("softmax", forward, scores, *(() if mask is None else (mask,)))
        return weights, lambda upstream: _compiled("softmax back", backward, weights, upstream)

    return run(scores)


def gelu(x):
    """Returns the tanh form of GELU of float [...].

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
    """
    rate, cubic = _GELU

    def forward(x):
        wide = _widen(x)
        return tf.cast(0.5 * wide * (1 + tf.tanh(rate * wide * (1 + cubic * wide * wide))), x.dtype)

    def backward(x, upstream):
        wide = _widen(x)
        bounded = tf.tanh(rate * wide * (1 + cubic * wide * wide))
        slope = 0.5 * (1 + bounded) + 0.5 * wide * (1 - bounded * bounded) * rate * (1 + 3 * cubic * wide * wide)
        return tf.cast(slope * _widen(upstream), x.dtype)

    return _elementwise("gelu", forward, backward, x)


def swiglu(x):
    """Returns float [..., D] of x [..., 2 D]: its first half through SiLU, times its second.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """

    def forward(x):
        gate, value = tf.split(_widen(x), 2, -1)
        return tf.cast(gate * tf.sigmoid(gate) * value, x.dtype)

    def backward(x, upstream):
        gate, value = tf.split(_widen(x), 2, -1)
        opened, upstream = tf.sigmoid(gate), _widen(upstream)
        of_gate = upstream * value * opened * (1 + gate * (1 - opened))
        return tf.cast(tf.concat([of_gate, upstream * gate * opened], -1), x.dtype)

    return _elementwise("swiglu", forward, backward, x)


def normalize(x, scale, shift, epsilon, centered=True):
    """Normalises the last axis of float [..., D], by mean and variance or, not `centered`, by the mean square.

    Args:
        x: float [..., D].
        scale: float [D].
        shift: float [D], or None.
        epsilon: float, added to the variance.
        centered: bool.

    Returns:
        float [..., D], in the dtype of x.

    Source: Ba et al. 2016, arXiv:1607.06450; Zhang and Sennrich 2019, arXiv:1910.07467.
    """

    def whitened(x):
        wide = _widen(x)
        wide = wide - tf.reduce_mean(wide, -1, keepdims=True) if centered else wide
        rate = tf.math.rsqrt(tf.reduce_mean(wide * wide, -1, keepdims=True) + epsilon)
        return wide * rate, rate

    def forward(x, scale, *shift):
        y = whitened(x)[0] * _widen(scale)
        return tf.cast(y + _widen(shift[0]) if shift else y, x.dtype)

    def backward(x, scale, upstream):
        white, rate = whitened(x)
        wide = _widen(upstream)
        rows = list(range(x.shape.rank - 1))
        inner = wide * _widen(scale)
        through = inner - white * tf.reduce_mean(inner * white, -1, keepdims=True)
        through = through - tf.reduce_mean(inner, -1, keepdims=True) if centered else through
        sums = [tf.reduce_sum(wide * white, rows)] + ([] if shift is None else [tf.reduce_sum(wide, rows)])
        return tf.cast(rate * through, x.dtype), *(tf.cast(total, scale.dtype) for total in sums)

    name = f"normalize {epsilon} {centered} {shift is None}"

    @tf.custom_gradient
    def run(x, scale, *shift):
        def gradient(upstream):
            return _compiled(f"{name} back", backward, x, scale, upstream)

        return _compiled(name, forward, x, scale, *shift), gradient

    return run(x, *(tf.convert_to_tensor(part) for part in (scale, shift) if part is not None))


def _elementwise(name, forward, backward, x):
    @tf.custom_gradient
    def run(x):
        return _compiled(name, forward, x), lambda upstream: _compiled(f"{name} back", backward, x, upstream)

    return run(x)


def _widen(values):
    return tf.cast(values, tf.float32) if values.dtype.size == 2 else values


def _compiled(name, function, *values):
    """Returns what a function makes of tensors, as one program, which all calls by that name with such tensors share."""
    return _program(name, function, tuple((tuple(value.shape), value.dtype) for value in values))(*values)


_PROGRAMS = {}


def _program(name, function, kinds):
    if (name, kinds) not in _PROGRAMS:
        _PROGRAMS[name, kinds] = tf.function(function, jit_compile=True, autograph=False)
    return _PROGRAMS[name, kinds]
