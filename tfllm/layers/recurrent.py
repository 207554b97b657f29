"""A stack of RNN, LSTM or GRU layers: whole sequences for training, state in and state out for decoding; and one both ways.

Training on CPUs goes through `recurrence.py`, with the weights of Keras's layers. All other whole sequences go through these
layers, which use cuDNN on a GPU. Decoding calls the same layers' cells one step at a time, because cuDNN kernels have no XLA
form and refuse rows that read nothing; so do packed rows, whose state begins anew within a row.
"""

import keras
import tensorflow as tf

from tfllm.layers.recurrence import gru_sequence, lstm_sequence, rnn_sequence

CELLS = {"rnn": keras.layers.SimpleRNN, "gru": keras.layers.GRU, "lstm": keras.layers.LSTM}
SEQUENCES = {"rnn": rnn_sequence, "gru": gru_sequence, "lstm": lstm_sequence}


@keras.saving.register_keras_serializable("tfllm")
class RecurrentStack(keras.layers.Layer):
    """Recurrent layers on top of each other, with dropout between them.

    Args:
        cell: "rnn", "gru" or "lstm".
        dim: int D, units of every layer.
        num_layers: int.
        dropout: float in [0, 1), on the input of every layer but the first.

    Call:
        x: float [B, T, E]; positions: int32 [B, T], where each token stands in its document, or None for rows of one
        document. Returns float [B, T, D], from states of zero at the start of every document.

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

    def build(self, input_shape):
        for layer in self.stack:
            layer.build(input_shape)
            input_shape = (*input_shape[:-1], self.dim)

    def call(self, x, positions=None, training=False):
        if training and not tf.config.list_logical_devices("GPU"):
            return self._train(x, positions)
        for i, layer in enumerate(self.stack):
            x = self.drop(x, training=training) if i else x
            if positions is None:
                x = layer(x, training=training)
            else:
                zeros = self.initial_state(tf.shape(x)[0])[i]
                x, _ = _run_cell(layer.cell, x, zeros, begins=positions == 0)
        return x

    def _train(self, x, positions):
        """Returns what `call` returns in training, in less time on CPUs."""
        x = tf.transpose(x, [1, 0, 2])  # [T, B, E]
        wide = tf.float32 if x.dtype.size == 2 else x.dtype
        keep = None if positions is None else tf.cast(tf.transpose(positions) > 0, wide)[:, :, None]
        for i, layer in enumerate(self.stack):
            x = self.drop(x, training=True) if i else x
            weights = (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias)
            x = SEQUENCES[self.cell](x, *(tf.cast(weight.value, x.dtype) for weight in weights), keep)
        return tf.transpose(x, [1, 0, 2])

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
            x, new = _run_cell(layer.cell, x, old, lengths=lengths)
            states.append(new)
        return x, states


@keras.saving.register_keras_serializable("tfllm")
class BidirectionalStack(keras.layers.Layer):
    """Pairs of recurrent layers on top of each other, one that reads forwards and one that reads backwards.

    Args:
        cell: "rnn", "gru" or "lstm".
        dim: int D, even; each direction has half of it.
        num_layers: int, pairs.
        dropout: float in [0, 1), on the input of every pair but the first.

    Call:
        x: float [B, T, E]; lengths: int32 [B], how many places of each row are real, None for all. Returns float [B, T, D]: what
        has been read forwards up to each place, and backwards. What stands behind a row's length changes nothing before it.

    Raises:
        ValueError: on another `cell` or an odd `dim`.
    """

    def __init__(self, cell, dim, num_layers=1, *, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if dim % 2:
            raise ValueError(f"dim must be even, half of it for each direction; got {dim}")
        self.cell, self.dim, self.num_layers, self.dropout = cell, dim, num_layers, dropout
        self.forwards, self.backwards = (
            [RecurrentStack(cell, dim // 2, dtype=self.dtype_policy, name=f"{way}_{i}") for i in range(num_layers)]
            for way in ("forwards", "backwards")
        )
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        for ahead, back in zip(self.forwards, self.backwards, strict=True):
            ahead.build(input_shape)
            back.build(input_shape)
            input_shape = (*input_shape[:-1], self.dim)

    def call(self, x, lengths=None, training=False):
        for i, (ahead, back) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            x = self.drop(x, training=training) if i else x
            behind = _turned(back(_turned(x, lengths), training=training), lengths)
            x = tf.concat([ahead(x, training=training), behind], -1)
        return x


def _turned(x, lengths):
    """Returns x [B, T, E] with the first `lengths` (int32 [B], None for all) places of every row the other way round."""
    return tf.reverse(x, [1]) if lengths is None else tf.reverse_sequence(x, lengths, seq_axis=1)


def _run_cell(cell, x, state, *, begins=None, lengths=None):
    """Runs a cell over x: from zero wherever `begins` (bool [B, T]) says so, and no further than `lengths` (int32 [B])."""

    def advance(t, x, state):
        if begins is not None:
            state = [tf.where(begins[:, t, None], tf.zeros([], leaf.dtype), leaf) for leaf in state]
        y, new = cell(x, state)
        if lengths is None:
            return y, new
        reads = (t < lengths)[:, None]
        return y, [tf.where(reads, after, before) for after, before in zip(new, state, strict=True)]

    if x.shape[1] == 1:  # decoding: no loop
        y, state = advance(0, x[:, 0], state)
        return y[:, None], state
    time = tf.shape(x)[1]
    # An array of steps, because the gradient of a slice is as large as the whole.
    steps = tf.TensorArray(x.dtype, time, element_shape=[None, x.shape[2]]).unstack(tf.transpose(x, [1, 0, 2]))
    outputs = tf.TensorArray(x.dtype, time, element_shape=[None, cell.units])

    def body(t, outputs, state):
        y, state = advance(t, steps.read(t), state)
        return t + 1, outputs.write(t, y), state

    _, outputs, state = tf.while_loop(
        lambda t, *_: t < time, body, (tf.constant(0), outputs, state), maximum_iterations=time, parallel_iterations=1
    )
    return tf.transpose(outputs.stack(), [1, 0, 2]), state
