"""AttentiveRecurrence: recurrent layers whose every step looks at another text.

What a step found there goes into the next one, so steps wait for each other in training, too; what does not wait (keys of the
other text, the projection to the vocabulary) stays outside of the loop.
"""

import keras
import tensorflow as tf

from tfllm.layers.attention import length_mask
from tfllm.layers.projection import Projection
from tfllm.layers.recurrent import RecurrentStack


@keras.saving.register_keras_serializable("tfllm")
class AttentiveRecurrence(keras.layers.Layer):
    """Recurrent layers with attention to another text, and input feeding.

    With m_s the features of the other text, and f_t what a step gives:

        h_t = layers([x_t; f_(t-1)], h_(t-1))
        a_t = softmax over s of (h_t W m_s)
        f_t = tanh(F [sum_s a_ts m_s; h_t])

    Args:
        cell: "lstm", "gru" or "rnn".
        dim: int D, units of every layer, and size of the other text's features.
        num_layers: int.

    Raises:
        ValueError: on another `cell`.

    Source: Luong et al. 2015, arXiv:1508.04025, equations 5, 7 and 8 with the score "general", section 3.3 (input feeding).
    The state before the first token is tanh of a projection of the encoder's last features: Bahdanau et al. 2014,
    arXiv:1409.0473, appendix A.2.2.
    """

    def __init__(self, cell, dim, num_layers=1, **kwargs):
        super().__init__(**kwargs)
        self.cell, self.dim, self.num_layers = cell, dim, num_layers
        policy = self.dtype_policy
        self.recurrence = RecurrentStack(cell, dim, num_layers, dtype=policy)
        self.key = Projection(dim, use_bias=False, dtype=policy, name="key")
        self.combine = Projection(dim, use_bias=False, activation="tanh", dtype=policy, name="combine")
        self._leaves = 2 if cell == "lstm" else 1
        self.begin = Projection(num_layers * self._leaves * dim, activation="tanh", dtype=policy, name="begin")

    def build(self, input_shape):
        self.recurrence.build((None, None, input_shape[-1] + self.dim))
        self.key.build((None, None, self.dim))
        self.combine.build((None, None, 2 * self.dim))
        self.begin.build((None, self.dim))

    def read(self, features, lengths):
        """Returns what the steps need of another text: a dict of its features, their keys and the first state.

        Args:
            features: float [B, S, D] of a `BidirectionalStack`.
            lengths: int32 [B], places that are real.
        """
        last = tf.gather(features, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)[:, 0]
        ahead, _ = tf.split(last, 2, -1)  # that direction has read all by then
        _, back = tf.split(features[:, 0], 2, -1)
        return {"values": features, "keys": self.key(features), "begin": self.begin(tf.concat([ahead, back], -1))}

    def initial_state(self, memory):
        """Returns the state before the first token: a dict of `"layers"`, as of `RecurrentStack`, and `"fed"` float [B, D]."""
        parts = iter(tf.split(memory["begin"], self.num_layers * self._leaves, -1))
        layers = [[next(parts) for _ in range(self._leaves)] for _ in range(self.num_layers)]
        return {"layers": layers, "fed": tf.zeros_like(memory["values"][:, 0])}

    def call(self, x, memory, memory_lengths, state, lengths=None):
        """Reads tokens one after the other.

        Args:
            x: float [B, T, E].
            memory: what `read` gave.
            memory_lengths: int32 [B], places of the other text that are real.
            state: what `initial_state` or an earlier call gave.
            lengths: int32 [B] in [0, T]; row b reads only its first `lengths[b]` inputs and then stands still. None for all.

        Returns:
            (float [B, T, D], what the steps give; float [B, T, D], the layers' own outputs h; float32 [B, T, S], attention;
            the new state).
        """
        mask = length_mask(memory_lengths, tf.shape(memory["keys"])[1])[:, 0]

        def advance(t, x, state):
            reads = None if lengths is None else tf.cast(t < lengths, tf.int32)
            joint = tf.concat([x, state["fed"]], -1)[:, None]
            hidden, layers = self.recurrence.step(joint, state["layers"], reads)  # [B, 1, D]
            scores = tf.matmul(hidden, memory["keys"], transpose_b=True)  # [B, 1, S]
            scores = scores if scores.dtype == tf.float64 else tf.cast(scores, tf.float32)
            weights = tf.nn.softmax(scores - tf.cast(tf.where(mask, 0.0, 1e9), scores.dtype))
            heard = tf.matmul(tf.cast(weights, hidden.dtype), memory["values"])
            found = self.combine(tf.concat([heard, hidden], -1))[:, 0]
            fed = found if reads is None else tf.where((reads > 0)[:, None], found, state["fed"])
            return (found, hidden[:, 0], weights[:, 0]), {"layers": layers, "fed": fed}

        if x.shape[1] == 1:  # decoding: no loop
            outputs, state = advance(0, x[:, 0], state)
            return (*(y[:, None] for y in outputs), state)
        time = tf.shape(x)[1]
        # Arrays of steps, because the gradient of a slice is as large as the whole.
        steps = tf.TensorArray(x.dtype, time, element_shape=[None, x.shape[2]]).unstack(tf.transpose(x, [1, 0, 2]))
        wide = tf.float64 if x.dtype == tf.float64 else tf.float32
        arrays = [
            tf.TensorArray(dtype, time, element_shape=[None, size])
            for dtype, size in ((x.dtype, self.dim), (x.dtype, self.dim), (wide, None))
        ]

        def body(t, arrays, state):
            outputs, state = advance(t, steps.read(t), state)
            return t + 1, [array.write(t, y) for array, y in zip(arrays, outputs, strict=True)], state

        _, arrays, state = tf.while_loop(
            lambda t, *_: t < time,
            body,
            (tf.constant(0), arrays, state),
            maximum_iterations=time,
            parallel_iterations=1,
        )
        return (*(tf.transpose(array.stack(), [1, 0, 2]) for array in arrays), state)
