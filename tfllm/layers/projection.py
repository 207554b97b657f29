"""Products of features and large weights, arranged so that decoding one token runs at the speed of memory.

Decoding reads every weight once a token, so its speed is that of memory, and one core cannot use all of it. XLA computes a
vector times a matrix on one core of a CPU, but spreads the members of a batch of products over all of them. A product of
one row is therefore cut into a few pieces that are such a batch: along the inputs for a kernel [K, N], along the outputs for
a table [V, D], because both are then views of the weights as they lie. All other products are Keras's own.
"""

import keras
import tensorflow as tf

_SMALL = 100_000  # weights below which a product is not worth cutting
_FEW = 16  # rows for which a table is multiplied as it lies, [V, D] by [D, rows]


@keras.saving.register_keras_serializable("tfllm")
class Projection(keras.layers.Dense):
    """Keras's `Dense`; a single row is multiplied in pieces."""

    def call(self, x, training=None):
        kernel = keras.ops.convert_to_tensor(self.kernel)
        parts = _parts(kernel, axis=0)
        if x.shape[:-1].num_elements() != 1 or parts == 1:
            return super().call(x, training=training)
        pieces = tf.reshape(x, [parts, 1, -1]) @ tf.reshape(kernel, [parts, -1, kernel.shape[1]])
        y = tf.add_n(tf.unstack(pieces))  # [1, N]
        y = y if self.bias is None else y + self.bias
        y = y if self.activation is None else self.activation(y)
        return tf.reshape(y, [*x.shape[:-1], kernel.shape[1]])


@keras.saving.register_keras_serializable("tfllm")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """Keras's `ReversibleEmbedding`; for few rows the tied table is read as it lies, in pieces."""

    def __init__(self, *sizes, name="reversible_embedding", **kwargs):
        super().__init__(*sizes, name=name, **kwargs)

    def call(self, x, reverse=False):
        rows = x.shape[:-1].num_elements() if reverse else None
        if rows is None or rows > _FEW or not self.tie_weights or self.logit_soft_cap is not None:
            return super().call(x, reverse=reverse)
        table = keras.ops.convert_to_tensor(self.embeddings)
        parts = _parts(table, axis=0)
        features = tf.transpose(tf.reshape(tf.cast(x, table.dtype), [rows, -1]))  # [D, rows]
        pieces = tf.reshape(table, [parts, -1, table.shape[1]]) @ tf.broadcast_to(features, [parts, *features.shape])
        return tf.reshape(tf.transpose(tf.reshape(pieces, [-1, rows])), [*x.shape[:-1], table.shape[0]])


def _parts(weights, axis):
    """Returns into how many pieces an axis is cut: 4, or the next number up to 32 that divides it, or 1."""
    size = weights.shape[axis]
    if size * weights.shape[1 - axis] < _SMALL:
        return 1
    return next((parts for parts in range(4, 33) if size % parts == 0), 1)
