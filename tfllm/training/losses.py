"""Losses. A loss is a function of a model and a batch, so one training step serves every task.

A loss returns totals, not means: `{"loss": (sum, weight), ...}`. Whoever has all the batches of a step, an epoch or a
validation part divides, so uneven batches never bias a number.
"""

import tensorflow as tf


def lm_loss(model, batch, training=True):
    """Next-token cross-entropy and accuracy, weighted by tokens.

    Args:
        model: a `LanguageModel`, or any function of `(inputs, training=...)` that returns logits.
        batch: `(inputs, targets int [B, T], weights float [B, T])`, or the first two, for weights of one. Inputs are what
            the model takes: int [B, T], or for packed rows a dict `{"ids", "documents"}` of them.
        training: bool, whether dropout acts.

    Returns:
        dict of (float32 scalar, float32 scalar): `"loss"` is the sum of nats and the sum of weights, `"accuracy"` the
        weight of the targets that are the likeliest token and the sum of weights.

    Example:
        >>> uniform = lambda ids, training: tf.zeros([1, 2, 4])
        >>> nats, weight = lm_loss(uniform, ([[0, 1]], [[1, 2]], [[1.0, 0.0]]))["loss"]
        >>> print(f"{nats:.4f} nats over {weight:.0f} token")
        1.3863 nats over 1 token
    """
    inputs, targets, weights = unpack(batch)
    logits = tf.cast(model(inputs, training=training), tf.float32)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    right = tf.cast(tf.equal(tf.argmax(logits, -1, tf.int32), targets), tf.float32)
    weight = tf.reduce_sum(weights)
    return {"loss": (tf.reduce_sum(nats * weights), weight), "accuracy": (tf.reduce_sum(right * weights), weight)}


def unpack(batch):
    """Returns (inputs, int32 targets, float32 weights) of a batch with or without weights."""
    inputs, targets, *weights = batch
    targets = tf.cast(targets, tf.int32)
    return inputs, targets, tf.cast(weights[0], tf.float32) if weights else tf.ones(tf.shape(targets))


def mean(total, weight):
    """Divides a total by its weight; 0 where nothing counts."""
    return tf.math.divide_no_nan(total, weight)
