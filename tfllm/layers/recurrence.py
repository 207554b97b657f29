"""A whole sequence through a recurrent layer, with the gradient of the recurrence written by hand.

Keras's layers multiply the inputs of every step for itself, and their gradient adds up the weights' gradient step by step.
Here all that does not wait for the state is done for all steps at once: the products with the inputs, the derivatives of the
gates, and the gradients of weights and inputs. What is left of a step is one product and a few gates. In half precision
products are of half precision, gates and states of float32. Left out: states that come in or go out, second derivatives.

Source: the chain rule through time is Werbos 1990, doi:10.1109/5.58337; the products taken out of the loop are those of
Appleyard et al. 2016, arXiv:1604.01946, sections 3.1 and 4.
"""

import tensorflow as tf


def lstm_sequence(x, kernel, recurrent_kernel, bias, keep=None):
    """Runs an LSTM layer of Keras over whole sequences, from states of zero.

    Args:
        x: float [T, B, E], time first.
        kernel: float [E, 4 D], recurrent_kernel: float [D, 4 D], bias: float [4 D], in Keras's order of gates.
        keep: float [T, B, 1], 0 where a row begins anew with a state of zero and 1 elsewhere; None where no row does.

    Returns:
        float [T, B, D].

    Source: Gers et al. 2000, doi:10.1162/089976600300015015, equations 1 to 7 (forget gates).
    """

    @tf.custom_gradient
    def run(x, kernel, recurrent_kernel, bias):
        def step(state, inputs):
            joint, *kept = inputs
            hidden, cell = (kept[0] * leaf for leaf in state) if kept else state
            parts = tf.split(tf.cast(joint, wide) + _product(hidden, recurrent_kernel), 4, axis=1)
            enter, forget, leave = (tf.sigmoid(parts[i]) for i in (0, 1, 3))
            new = tf.tanh(parts[2])
            cell = forget * cell + enter * new
            bounded = tf.tanh(cell)
            hidden = leave * bounded
            return (hidden, cell), (hidden, cell, bounded, enter, forget, new, leave)

        wide = tf.float32 if x.dtype.size == 2 else x.dtype
        zero = tf.zeros([tf.shape(x)[1], recurrent_kernel.shape[0]], wide)
        inputs = [_project(x, kernel, bias)] + ([] if keep is None else [keep])
        hidden, cell, bounded, enter, forget, new, leave = _scan(step, (zero, zero), inputs, [zero.shape[1]] * 7)

        def gradient(upstream):
            before = _before(cell, keep)
            # The gates' gradients are those of cell (the first three) and hidden state (the last) times these.
            slopes = [_sigmoid_slope(enter, new), _sigmoid_slope(forget, before), _tanh_slope(new, enter)]
            slopes = tf.concat([*slopes, _sigmoid_slope(leave, bounded)], 2)

            back_kernel = _turned(recurrent_kernel)

            def back(state, inputs):
                from_hidden, from_cell = state
                upstream, slope, through, forget, *kept = inputs
                from_hidden = from_hidden + tf.cast(upstream, wide)
                from_cell = from_cell + from_hidden * through
                gates = tf.concat([from_cell, from_cell, from_cell, from_hidden], 1) * slope
                from_hidden = _product(gates, back_kernel)
                return (kept[0] * from_hidden if kept else from_hidden, from_cell * forget), (gates,)

            inputs = [upstream, slopes, _tanh_slope(bounded, leave), forget if keep is None else forget * keep] + (
                [] if keep is None else [keep]
            )
            (gates,) = _scan(back, (zero, zero), inputs, [bias.shape[0]], reverse=True)
            grads = _product_gradients(x, kernel, gates)
            return *grads[:2], _weights_gradient(_before(hidden, keep), gates, kernel), grads[2]

        return tf.cast(hidden, x.dtype), gradient

    return run(x, kernel, recurrent_kernel, bias)


def gru_sequence(x, kernel, recurrent_kernel, bias, keep=None):
    """Runs a GRU layer of Keras (reset after the product) over whole sequences, from states of zero.

    Args:
        x, keep: as for `lstm_sequence`.
        kernel: float [E, 3 D], recurrent_kernel: float [D, 3 D], bias: float [2, 3 D], of inputs and of states.

    Returns:
        float [T, B, D].

    Source: Cho et al. 2014, arXiv:1406.1078, equations 5 to 8, with the reset after the product.
    """

    @tf.custom_gradient
    def run(x, kernel, recurrent_kernel, bias):
        dim = recurrent_kernel.shape[0]

        def step(state, inputs):
            joint, *kept = inputs
            hidden = kept[0] * state[0] if kept else state[0]
            joint, states = tf.cast(joint, wide), _product(hidden, recurrent_kernel) + tf.cast(bias[1], wide)
            gates = tf.sigmoid(joint[:, : 2 * dim] + states[:, : 2 * dim])
            update, reset = tf.split(gates, 2, axis=1)
            candidate = states[:, 2 * dim :]
            new = tf.tanh(joint[:, 2 * dim :] + reset * candidate)
            hidden = new + update * (hidden - new)
            return (hidden,), (hidden, update, reset, candidate, new)

        wide = tf.float32 if x.dtype.size == 2 else x.dtype
        zero = tf.zeros([tf.shape(x)[1], dim], wide)
        inputs = [_project(x, kernel, bias[0])] + ([] if keep is None else [keep])
        hidden, update, reset, candidate, new = _scan(step, (zero,), inputs, [dim] * 5)

        def gradient(upstream):
            before = _before(hidden, keep)
            # The gates' gradients are that of the hidden state times these.
            of_new = _tanh_slope(new, 1 - update)
            of_reset = _sigmoid_slope(reset, candidate) * of_new
            slopes = tf.concat([_sigmoid_slope(update, before - new), of_reset, of_new * reset], 2)

            back_kernel = _turned(recurrent_kernel)

            def back(state, inputs):
                upstream, slope, update, *kept = inputs
                whole = state[0] + tf.cast(upstream, wide)
                gates = tf.concat([whole, whole, whole], 1) * slope
                state = whole * update + _product(gates, back_kernel)
                return (kept[0] * state if kept else state,), (gates, whole)

            inputs = [upstream, slopes, update] + ([] if keep is None else [keep])
            gates, whole = _scan(back, (zero,), inputs, [3 * dim, dim], reverse=True)
            of_inputs = tf.concat([gates[:, :, : 2 * dim], whole * of_new], 2)
            grads = _product_gradients(x, kernel, of_inputs)
            of_bias = tf.stack([grads[2], _bias_gradient(gates, kernel)])
            return *grads[:2], _weights_gradient(before, gates, kernel), of_bias

        return tf.cast(hidden, x.dtype), gradient

    return run(x, kernel, recurrent_kernel, bias)


def rnn_sequence(x, kernel, recurrent_kernel, bias, keep=None):
    """Runs Keras's `SimpleRNN` over whole sequences, from states of zero.

    Args:
        x, keep: as for `lstm_sequence`.
        kernel: float [E, D], recurrent_kernel: float [D, D], bias: float [D].

    Returns:
        float [T, B, D].

    Source: Elman 1990, doi:10.1207/s15516709cog1402_1.
    """

    @tf.custom_gradient
    def run(x, kernel, recurrent_kernel, bias):
        def step(state, inputs):
            joint, *kept = inputs
            hidden = kept[0] * state[0] if kept else state[0]
            hidden = tf.tanh(tf.cast(joint, wide) + _product(hidden, recurrent_kernel))
            return (hidden,), (hidden,)

        wide = tf.float32 if x.dtype.size == 2 else x.dtype
        zero = tf.zeros([tf.shape(x)[1], recurrent_kernel.shape[0]], wide)
        inputs = [_project(x, kernel, bias)] + ([] if keep is None else [keep])
        (hidden,) = _scan(step, (zero,), inputs, [zero.shape[1]])

        def gradient(upstream):
            back_kernel = _turned(recurrent_kernel)

            def back(state, inputs):
                upstream, hidden, *kept = inputs
                gates = _tanh_slope(hidden, state[0] + tf.cast(upstream, wide))
                state = _product(gates, back_kernel)
                return (kept[0] * state if kept else state,), (gates,)

            inputs = [upstream, hidden] + ([] if keep is None else [keep])
            (gates,) = _scan(back, (zero,), inputs, [zero.shape[1]], reverse=True)
            grads = _product_gradients(x, kernel, gates)
            return *grads[:2], _weights_gradient(_before(hidden, keep), gates, kernel), grads[2]

        return tf.cast(hidden, x.dtype), gradient

    return run(x, kernel, recurrent_kernel, bias)


def _scan(step, state, inputs, widths, reverse=False):
    """Calls `step(state, one step's inputs) -> (state, outputs)` for every step.

    Args:
        inputs: list of float [T, B, ...].
        widths: list of int, features of each output [B, width].
        reverse: bool, whether the last step comes first.

    Returns:
        list of float [T, B, width], in the order of the inputs.
    """
    time, rows = tf.shape(inputs[0])[0], inputs[0].shape[1]
    columns = [tf.TensorArray(x.dtype, time, element_shape=x.shape[1:]).unstack(x) for x in inputs]
    outputs = [tf.TensorArray(state[0].dtype, time, element_shape=[rows, width]) for width in widths]

    def body(i, state, outputs):
        t = time - 1 - i if reverse else i
        state, values = step(state, [column.read(t) for column in columns])
        return i + 1, state, [array.write(t, value) for array, value in zip(outputs, values, strict=True)]

    loop = tf.constant(0), state, outputs
    _, _, outputs = tf.while_loop(lambda i, *_: i < time, body, loop, maximum_iterations=time, parallel_iterations=1)
    return [array.stack() for array in outputs]


def _project(x, kernel, bias):
    """Returns x [T, B, E] times the kernel [E, N] and the bias, as one product: [T, B, N]."""
    joint = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, x.shape[2]]), kernel), bias)
    return tf.reshape(joint, [tf.shape(x)[0], tf.shape(x)[1], bias.shape[0]])


def _product(state, weights):
    """Returns a product in the precision of the weights, as wide as the state."""
    return tf.cast(tf.matmul(tf.cast(state, weights.dtype), weights), state.dtype)


def _turned(weights):
    """Returns the transpose for the products of a loop, which would turn it at every step."""
    return tf.transpose(weights)


def _product_gradients(x, kernel, gradient):
    """Returns the gradients of x, kernel and bias of `_project`, given that of its result."""
    of_x = tf.matmul(tf.reshape(tf.cast(gradient, kernel.dtype), [-1, kernel.shape[1]]), kernel, transpose_b=True)
    return tf.reshape(of_x, tf.shape(x)), _weights_gradient(x, gradient, kernel), _bias_gradient(gradient, kernel)


def _weights_gradient(x, gradient, weights):
    x, gradient = (tf.reshape(tf.cast(value, weights.dtype), [-1, value.shape[2]]) for value in (x, gradient))
    return tf.matmul(x, gradient, transpose_a=True)


def _bias_gradient(gradient, weights):
    return tf.cast(tf.reduce_sum(gradient, [0, 1]), weights.dtype)


def _before(states, keep):
    """Returns the state that each step started from; states [T, B, D]."""
    shifted = tf.concat([tf.zeros_like(states[:1]), states[:-1]], 0)
    return shifted if keep is None else shifted * keep


def _sigmoid_slope(y, factor):
    """Returns the slope of the sigmoid where it is y, times a factor, in one pass."""
    return tf.raw_ops.SigmoidGrad(y=y, dy=factor)


def _tanh_slope(y, factor):
    return tf.raw_ops.TanhGrad(y=y, dy=factor)
