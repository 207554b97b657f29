"""Losses. A loss is a function of a model and a batch, so one training step serves every task.

A loss returns totals, not means: `{"loss": (sum, weight), ...}`. Whoever has all the batches of a step, an epoch or a
validation part divides, so uneven batches never bias a number.
"""

import dataclasses
import math

import tensorflow as tf

# A vocabulary of which a table of ones and zeros is cheaper than a scatter, which XLA runs row by row.
_FEW_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class LMLoss:
    """Next-token cross-entropy and accuracy, weighted by tokens; `make_lm_loss` says what the settings are.

    A loss is called as `loss(model, batch, training=True)`:
        model: a `LanguageModel`, or any function of `(inputs, training=...)` that returns logits.
        batch: `(inputs, targets int [B, T], weights float [B, T])`, or the first two, for weights of one. Inputs are what
            the model takes: int [B, T], or for packed rows a dict `{"ids", "documents"}` of them.
        training: bool, whether dropout, label smoothing and z-loss act.

    It returns a dict of (float32 scalar, float32 scalar): `"loss"` is the sum of nats and the sum of weights, `"accuracy"`
    the weight of the targets that are the likeliest token and the sum of weights. While label smoothing or z-loss act,
    `"nats"` is the loss without them, of which perplexity is made; it has no gradient.

    Example:
        >>> uniform = lambda ids, training: tf.zeros([1, 2, 4])
        >>> nats, weight = lm_loss(uniform, ([[0, 1]], [[1, 2]], [[1.0, 0.0]]))["loss"]
        >>> print(f"{nats:.4f} nats over {weight:.0f} token")
        1.3863 nats over 1 token
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk_tokens: int | None = None

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1); got {self.label_smoothing}")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss must be at least 0; got {self.z_loss}")
        chunk = self.chunk_tokens
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise ValueError(f"chunk_tokens must be an int of at least 1, or None; got {chunk!r}")

    def __call__(self, model, batch, training=True):
        inputs, targets, weights = unpack(batch)
        if self.chunk_tokens is None:
            sums = self._sums(model(inputs, training=training), targets, weights, training)
        elif not (hasattr(model, "features") and hasattr(model, "logits")):
            raise ValueError(f"model must have features and logits for chunk_tokens; got {model!r}")
        else:
            sums = self._sums_by_chunks(model, model.features(inputs, training=training), targets, weights, training)
        weight = tf.reduce_sum(weights)
        return {name: (total, weight) for name, total in sums.items()}

    def _sums(self, logits, targets, weights, training):
        """Returns the weighted sums over all targets; logits [..., V], targets and weights [...]."""
        logits = widen(logits)
        weights = tf.cast(weights, logits.dtype)
        nats, right = cross_entropy(logits, targets)
        sums = {"loss": tf.reduce_sum(nats * weights), "accuracy": tf.reduce_sum(right * weights)}
        if training and (self.label_smoothing or self.z_loss):
            log_z = tf.reduce_logsumexp(logits, -1)
            uniform = log_z - tf.reduce_mean(logits, -1)  # cross-entropy with every token alike
            loss = (1 - self.label_smoothing) * nats + self.label_smoothing * uniform + self.z_loss * log_z**2
            sums |= {"loss": tf.reduce_sum(loss * weights), "nats": tf.stop_gradient(sums["loss"])}
        return sums

    def _sums_by_chunks(self, model, features, targets, weights, training):
        """Returns what `_sums` does, from features [B, T, D], holding the logits of `chunk_tokens` tokens at a time.

        In training the gradient of a chunk is computed along with its loss, while the logits are there: a loss is a sum, so
        what flows back to it is one number, which can be multiplied later. Float16 is the exception, because it needs that
        number, the loss scale, before it rounds; there, as in evaluation, logits are computed anew if a gradient is wanted.
        """
        dim = features.shape[-1]
        flat = tf.reshape(features, [-1, dim])
        size = tf.minimum(self.chunk_tokens, tf.maximum(tf.shape(flat)[0], 1))
        padding = -tf.shape(flat)[0] % size  # tokens without weight make the last chunk as large as the others
        chunks = tf.reshape(tf.pad(flat, [[0, padding], [0, 0]]), [-1, size, dim])
        targets = tf.reshape(tf.pad(tf.reshape(targets, [-1]), [[0, padding]]), [-1, 1, size])
        weights = tf.reshape(tf.pad(tf.reshape(weights, [-1]), [[0, padding]]), [-1, 1, size])
        with tf.GradientTape() as probe:
            example = self._sums(model.logits(features[:1, :1]), targets[:1, :, 0], weights[:1, :, 0], training)

        def sums_of(chunk, i):
            return self._sums(model.logits(chunk[None]), targets[i], weights[i], training)

        zeros, head = tf.nest.map_structure(tf.zeros_like, example), list(probe.watched_variables())
        ahead = training and features.dtype != tf.float16
        return _sum_over_chunks(sums_of, chunks, zeros, head, ahead)


@tf.custom_gradient
def cross_entropy(logits, targets):
    """Returns (nats of the targets, 1 where the target is the first of the likeliest tokens), both float [...].

    Twice as fast on CPUs as TensorFlow's own cross-entropy, whose passes over the vocabulary have no fast kernel as the
    softmax has. The logarithm of the softmax's denominator is read off at the likeliest token, whose probability never
    underflows. A target out of [0, V) gives NaN, or an error on a CPU without XLA. There is no second derivative.

    Args:
        logits: float [..., V].
        targets: int32 [...].

    Example:
        >>> nats, right = cross_entropy(tf.constant([[0.0, 0.0], [30.0, 0.0]]), tf.constant([0, 1]))
        >>> print(nats.numpy().round(2), right.numpy())
        [ 0.69 30.  ] [1. 0.]
    """
    best, axes = tf.argmax(logits, -1, tf.int32), targets.shape.rank
    probabilities = tf.nn.softmax(logits)
    log_z = tf.gather(logits, best, batch_dims=axes) - tf.math.log(tf.gather(probabilities, best, batch_dims=axes))
    # Read from outside of the vocabulary, XLA and GPUs give anything; what is no number stops the step instead.
    missing = (targets < 0) | (targets >= tf.shape(logits, targets.dtype)[-1])
    nan = tf.constant(math.nan, logits.dtype)
    nats = tf.where(missing, nan, log_z - tf.gather(logits, targets, batch_dims=axes))

    def gradient(upstream, _):
        upstream = tf.where(missing, nan, upstream)
        size = tf.shape(logits)[-1] if logits.shape[-1] is None else logits.shape[-1]
        if logits.shape[-1] is not None and size <= _FEW_TOKENS:
            return (probabilities - tf.one_hot(targets, size, dtype=logits.dtype)) * upstream[..., None], None
        rows = tf.reshape(probabilities * upstream[..., None], [-1, size])  # changed in place below
        places = tf.stack([tf.range(tf.size(targets)), tf.reshape(targets, [-1])], 1)
        rows = tf.tensor_scatter_nd_sub(rows, places, tf.reshape(upstream, [-1]))
        return tf.reshape(rows, tf.shape(logits)), None

    return (nats, tf.cast(tf.equal(best, targets), logits.dtype)), gradient


def _sum_over_chunks(sums_of, chunks, zeros, head, ahead):
    """Returns the sums over all chunks, as a function whose gradient, of "loss" alone, never holds more than one chunk.

    Args:
        sums_of: function of a chunk [size, D] and its number that returns what `zeros` looks like.
        chunks: float [C, size, D].
        zeros: dict of scalars.
        head: list of the variables that `sums_of` reads.
        ahead: bool, whether gradients are computed along with the sums, or only when they are asked for.
    """
    count = tf.shape(chunks)[0]

    def plain(chunks):
        def body(i, sums):
            return i + 1, tf.nest.map_structure(tf.add, sums, sums_of(chunks[i], i))

        return tf.while_loop(lambda i, _: i < count, body, (0, zeros), parallel_iterations=1)[1]

    def with_gradients(chunks, factor):
        def body(i, sums, rows, tables):
            chunk = chunks[i]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([chunk, *head])
                more = sums_of(chunk, i)
            row, *added = tape.gradient(more["loss"], [chunk, *head], factor)
            tables = [table + tf.convert_to_tensor(gradient) for table, gradient in zip(tables, added, strict=True)]
            return i + 1, tf.nest.map_structure(tf.add, sums, more), rows.write(i, row), tables

        rows = tf.TensorArray(chunks.dtype, count, element_shape=chunks.shape[1:])
        tables = [tf.zeros(variable.shape, variable.dtype) for variable in head]
        start = 0, zeros, rows, tables
        _, sums, rows, tables = tf.while_loop(lambda i, *_: i < count, body, start, parallel_iterations=1)
        return sums, rows.stack(), tables

    @tf.custom_gradient
    def run(chunks):
        done = with_gradients(chunks, tf.ones_like(zeros["loss"])) if ahead else None
        sums = done[0] if ahead else plain(chunks)

        def backward(*upstream, variables=()):
            factor = upstream[sorted(zeros).index("loss")]
            _, rows, tables = done or with_gradients(chunks, factor)
            if ahead:
                rows = tf.cast(tf.cast(rows, factor.dtype) * factor, rows.dtype)
                tables = [tf.cast(factor, table.dtype) * table for table in tables]
            found = {variable.ref(): table for variable, table in zip(head, tables, strict=True)}
            return (rows, [found[variable.ref()] for variable in variables]) if variables else rows

        return [sums[name] for name in sorted(zeros)], backward

    return dict(zip(sorted(zeros), run(chunks), strict=True))


def make_lm_loss(label_smoothing=0.0, z_loss=0.0, chunk_tokens=None):
    """Returns a next-token loss; `lm_loss` is the one of all defaults.

    Args:
        label_smoothing: float in [0, 1), the share of a target's probability that is spread over all tokens alike.
        z_loss: float >= 0, times the squared logarithm of the softmax's denominator; keeps logits from drifting. PaLM: 1e-4.
        chunk_tokens: int >= 1, tokens whose logits are computed at a time, forward and backward, so that no [B, T, V] tensor
            is held; None computes all at once, which is faster as long as they fit. The model must have `features` and
            `logits`, as a `LanguageModel` has. Only `"loss"` then has a gradient.

    Returns:
        `LMLoss`, a function `(model, batch, training=True)` that returns totals.

    Raises:
        ValueError: on settings out of range.

    Example:
        >>> loss = make_lm_loss(label_smoothing=0.1, z_loss=1e-4, chunk_tokens=1024)
        >>> model = tfllm.RecurrentLM(50000, "gru", 8)
        >>> model.compile("adam", loss)

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing); Chowdhery et al. 2022, arXiv:2204.02311,
    section 5 (z-loss).
    """
    return LMLoss(label_smoothing, z_loss, chunk_tokens)


lm_loss = LMLoss()


def unpack(batch):
    """Returns (inputs, int32 targets, float32 weights) of a batch with or without weights."""
    inputs, targets, *weights = batch
    targets = tf.cast(targets, tf.int32)
    return inputs, targets, tf.cast(weights[0], tf.float32) if weights else tf.ones(tf.shape(targets))


def widen(values):
    """Returns floats as float32, or as float64 where they are: losses are exact enough there to check their gradients."""
    return values if values.dtype == tf.float64 else tf.cast(values, tf.float32)


def mean(total, weight):
    """Divides a total by its weight; 0 where nothing counts."""
    total = tf.convert_to_tensor(total)
    return tf.math.divide_no_nan(total, tf.cast(weight, total.dtype))
