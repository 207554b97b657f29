"""A stack of RNN, LSTM or GRU layers: whole sequences for training, state in and state out for decoding.

Whole sequences go through Keras's layers, which use cuDNN on a GPU. Decoding calls the same layers' cells one step at a
time, because cuDNN kernels have no XLA form and refuse rows that read nothing.
"""

import keras
import tensorflow as tf

CELLS = {"rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}


@keras.saving.register_keras_serializable("tfllm")
class RecurrentStack(keras.layers.Layer):
    """Recurrent layers on top of each other, with dropout between them.

    Args:
        cell: "rnn", "gru" or "lstm".
        dim: int D, units of every layer.
        num_layers: int.
        dropout: float in [0, 1), on the input of every layer but the first.

    Call:
        x: float [B, T, E]. Returns float [B, T, D], from states of zero.

    Raises:
        ValueError: on another `cell`.
    """

    def __init__(self, cell, dim, num_layers=1, *, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {sorted(CELLS)}; got {cell!r}")
        self.cell, self.dim, self.num_layers, self.dropout = cell, dim, num_layers, dropout
        self.stack = [
            CELLS[cell](dim, return_sequences=True, dtype=self.dtype_policy, name=f"{cell}_{i}")
            for i in range(num_layers)
        ]
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def call(self, x, training=False):
        for i, layer in enumerate(self.stack):
            x = layer(self.drop(x, training=training) if i else x, training=training)
        return x

    def initial_state(self, batch_size):
        """Returns a list with a list of float [B, D] for each layer: `[h]`, or `[h, c]` for an LSTM; all zero."""
        leaves = 2 if self.cell == "lstm" else 1
        return [
            [tf.zeros([batch_size, self.dim], self.compute_dtype) for _ in range(leaves)]
            for _ in range(self.num_layers)
        ]

    def step(self, x, state, lengths):
        """Goes on from a state; row b reads only its first `lengths[b]` inputs and then stands still.

        Args:
            x: float [B, T, E].
            state: as `initial_state` gives it.
            lengths: int32 [B], in [0, T].

        Returns:
            (float [B, T, D], the new state).
        """
        states = []
        for layer, old in zip(self.stack, state, strict=True):
            x, new = _run_cell(layer.cell, x, old, lengths)
            states.append(new)
        return x, states


def _run_cell(cell, x, state, lengths):
    def advance(t, state):
        y, new = cell(x[:, t], state)
        reads = (t < lengths)[:, None]
        return y, [tf.where(reads, after, before) for after, before in zip(new, state, strict=True)]

    if x.shape[1] == 1:  # decoding: no loop
        y, state = advance(0, state)
        return y[:, None], state
    time = tf.shape(x)[1]
    outputs = tf.TensorArray(x.dtype, time, element_shape=[None, cell.units])

    def body(t, outputs, state):
        y, state = advance(t, state)
        return t + 1, outputs.write(t, y), state

    _, outputs, state = tf.while_loop(
        lambda t, *_: t < time, body, (tf.constant(0), outputs, state), maximum_iterations=time, parallel_iterations=1
    )
    return tf.transpose(outputs.stack(), [1, 0, 2]), state
