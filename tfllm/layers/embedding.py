"""Where a token stands: learned, sinusoidal and rotary positions. Token embeddings are Keras's `ReversibleEmbedding`."""

import keras
import numpy as np
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class LearnedPositions(keras.layers.Layer):
    """Adds a trained vector for each position.

    Args:
        max_length: int, positions that have a vector.
        dim: int D, their size.
        initializer_range: float, standard deviation of the first weights.

    Call:
        x: float [B, T, D]; positions: int32 [B or 1, T]. Returns float [B, T, D]. A position beyond the last one, which only
        padding can have, reads the last vector.
    """

    def __init__(self, max_length, dim, *, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.max_length, self.dim, self.initializer_range = max_length, dim, initializer_range
        initializer = keras.initializers.RandomNormal(stddev=initializer_range)
        self.vectors = self.add_weight(shape=(max_length, dim), initializer=initializer, name="vectors")

    def call(self, x, positions):
        vectors = tf.cast(self.vectors.value, self.compute_dtype)
        return x + tf.gather(vectors, tf.minimum(positions, self.max_length - 1))


@keras.saving.register_keras_serializable("tfllm")
class SinusoidalPositions(keras.layers.Layer):
    """Adds sines and cosines of the position, in wavelengths from 2π to 10000·2π; has no weights.

    Args:
        dim: int D, even.

    Call:
        x: float [B, T, D]; positions: int32 [B or 1, T]. Returns float [B, T, D]: sines in the even places.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        if dim % 2:
            raise ValueError(f"dim must be even for sinusoidal positions; got {dim}")
        self.dim = dim

    def call(self, x, positions):
        rates = 10000.0 ** -(np.arange(0, self.dim, 2, dtype=np.float32) / self.dim)
        angles = tf.cast(positions, tf.float32)[..., None] * rates  # [B or 1, T, D / 2]
        waves = tf.stack([tf.sin(angles), tf.cos(angles)], -1)
        return x + tf.cast(tf.reshape(waves, [tf.shape(angles)[0], tf.shape(angles)[1], self.dim]), x.dtype)


def document_positions(documents):
    """Says where each token of packed rows stands in its own document.

    A document is a run of equal numbers, padding included. From these positions alone follow the mask (a token at position p
    reads p tokens back) and where a recurrent state begins anew (at position 0).

    Args:
        documents: int32 [B, T], the number of each token's document.

    Returns:
        int32 [B, T], 0 at the start of every document.

    Example:
        >>> document_positions(tf.constant([[1, 1, 2, 2, 2, 0]])).numpy()
        array([[0, 1, 0, 1, 2, 0]], dtype=int32)
    """
    changes = tf.cast(documents[:, 1:] != documents[:, :-1], tf.int32)
    runs = tf.pad(tf.cumsum(changes, axis=1), [[0, 0], [1, 0]])  # 0, 1, ... along each row
    return tf.range(tf.shape(runs)[1]) - tf.searchsorted(runs, runs)  # where the run is found first, it begins


def rotary_rates(head_dim, base=10000.0, *, factor=1.0, original_length=None, low_factor=1.0, high_factor=4.0):
    """Says by how many radians each pair of features turns from one position to the next.

    Long texts are reached by turning slower: all pairs by `factor` (Chen et al. 2023), or, with `original_length`, those
    whose wavelength is over `original_length / low_factor` by `factor`, those under `original_length / high_factor` not at
    all, and the ones between in between (Llama 3).

    Args:
        head_dim: int K, features of a head, even.
        base: float, the longest wavelength is about `2 * pi * base` tokens before it is stretched.
        factor: float, at least 1, by how much wavelengths are stretched.
        original_length: int, positions of the model before its context was stretched, or None to stretch all alike.
        low_factor: float, see above.
        high_factor: float above `low_factor`, see above.

    Returns:
        float32 NumPy array [K / 2], the largest first.

    Raises:
        ValueError: on an odd `head_dim`, a `factor` below 1, or factors out of order.

    Example:
        >>> rotary_rates(4, 100.0, factor=2.0).round(3)
        array([0.5 , 0.05], dtype=float32)

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2; Chen et al. 2023, arXiv:2306.15595; Llama Team 2024,
    arXiv:2407.21783, section 3.2, with the stretching of the released Llama 3.1.
    """
    if head_dim < 2 or head_dim % 2:
        raise ValueError(f"head_dim must be even for rotary positions; got {head_dim}")
    if factor < 1:
        raise ValueError(f"rotary_factor must be at least 1; got {factor}")
    rates = base ** -(np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim))
    if original_length is None:
        return (rates / factor).astype(np.float32)
    if not 0 < low_factor < high_factor:
        raise ValueError(
            f"rotary_low_factor must be above 0 and below rotary_high_factor; got {low_factor} and {high_factor}"
        )
    turns = original_length * rates / (2 * np.pi)  # within the original context
    kept = np.clip((turns - low_factor) / (high_factor - low_factor), 0.0, 1.0)
    return (rates * (kept + (1 - kept) / factor)).astype(np.float32)


def rotate(x, positions, rates):
    """Turns each pair of features by an angle that grows with the position, so that products see only distances.

    The pairs are (i, i + K / 2), as in Llama and GPT-NeoX checkpoints. Angles are float32 whatever the dtype of x.

    Args:
        x: float [B, H, T, K], queries or keys; K even.
        positions: int32 [B or 1, T].
        rates: float32 [K / 2], radians from one position to the next, as `rotary_rates` gives them.

    Returns:
        float [B, H, T, K].

    Example:
        >>> rotate(tf.ones([1, 1, 2, 2]), tf.constant([[0, 1]]), rotary_rates(2))[0, 0].numpy().round(3)
        array([[ 1.   ,  1.   ],
               [-0.301,  1.382]], dtype=float32)

    Source: Su et al. 2021, arXiv:2104.09864, equation 34.
    """
    half = x.shape[-1] // 2
    angles = tf.cast(positions, tf.float32)[:, None, :, None] * rates  # [B or 1, 1, T, K / 2]
    sine, cosine = tf.cast(tf.sin(angles), x.dtype), tf.cast(tf.cos(angles), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return tf.concat([first * cosine - second * sine, second * cosine + first * sine], -1)
