"""Random numbers of rows: each row draws from its own seed, alike in a graph, under XLA and on every device.

TensorFlow's stateless generators take one seed a call, and give other numbers under XLA than in a graph.
"""

import tensorflow as tf


def gumbel(seed, index, size, stream=0):
    """Draws Gumbel noise for each row from its own seed.

    It is a hash of (seed, index, place).

    Args:
        seed: int32 [B].
        index: int32 [B], the number of the draw.
        size: int V.
        stream: int or int32, numbers draws of another kind, such as those of a draft.

    Returns:
        float32 [B, V].
    """
    return -tf.math.log(-tf.math.log(uniform(seed, index, size, stream)))


def uniform(seed, index, size, stream=0):
    """Draws float32 [B, size] evenly from (0, 1); arguments as for `gumbel`."""
    key = scramble(tf.bitcast(tf.cast(seed, tf.int32), tf.uint32) + tf.cast(stream, tf.uint32) * _word(0x632BE5AB))
    key = scramble(key + tf.cast(index, tf.uint32) * _word(0x9E3779B9))
    bits = scramble(key[:, None] + tf.cast(tf.range(size), tf.uint32) * _word(0x85EBCA6B))
    bits = scramble(bits + scramble(key + _word(0xC2B2AE35))[:, None])
    return (tf.cast(tf.bitwise.right_shift(bits, _word(9)), tf.float32) + 0.5) * 2.0**-23


def scramble(bits):
    """Scrambles uint32 values so that each bit depends on all (Mueller's and Wellons' two rounds of multiply and shift)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _word(shift))) * _word(factor)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _word(16)))


def _word(value):
    return tf.constant(value, tf.uint32)
