"""From logits to the next token: greedy, or drawn with temperature, top-k and top-p. Every setting is a tensor."""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; numbers or scalar tensors, so that changing them never traces anew.

    Attributes:
        temperature: float >= 0, divides the logits; 0 takes the likeliest token, whatever the rest says.
        top_k: int >= 0, draws from the k likeliest tokens only; 0 means from all.
        top_p: float in (0, 1], draws from the fewest likeliest tokens whose probabilities sum to at least p (Holtzman et
            al. 2020, arXiv:1904.09751); acts on what temperature and top-k leave.
        seed: int, decides the draws.
    """

    temperature: float | tf.Tensor = 1.0
    top_k: int | tf.Tensor = 0
    top_p: float | tf.Tensor = 1.0
    seed: int | tf.Tensor = 0

    def check(self):
        """Raises ValueError when a setting is out of its range; for settings that are numbers."""
        for name in ("top_k", "seed"):
            check_int32(name, getattr(self, name))
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0; got {self.temperature}")
        if not self.top_k >= 0:
            raise ValueError(f"top_k must be at least 0; got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p}")

    def tensors(self):
        """Returns the same settings as scalar tensors: float32, int32, float32, int32."""
        kinds = {"temperature": tf.float32, "top_k": tf.int32, "top_p": tf.float32, "seed": tf.int32}
        return Sampling(**{name: tf.cast(getattr(self, name), dtype) for name, dtype in kinds.items()})


def check_int32(name, value):
    """Raises ValueError unless `value` is an int that fits into 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -(2**31) <= value < 2**31:
        raise ValueError(f"{name} must be an int of 32 bits; got {value!r}")


def pick(logits, sampling, index):
    """Chooses a token for every row.

    The draw of row b depends on the seed, the index and b alone, so the first row of a batch is drawn as it would be
    alone, and equal prompts in one batch give different texts.

    Args:
        logits: float32 [B, V].
        sampling: `Sampling` of tensors.
        index: int32 scalar, the number of the token, so that each is a draw of its own.

    Returns:
        int32 [B].

    Example:
        >>> logits = tf.constant([[1.0, 3.0, 2.0]])
        >>> pick(logits, Sampling(temperature=0.0).tensors(), tf.constant(0)).numpy()
        array([1], dtype=int32)
    """

    def draw():
        kept = keep_likeliest(logits / sampling.temperature, sampling.top_k, sampling.top_p)
        # A named generator and a conversion of our own, because XLA's would give other numbers.
        seed = tf.stack([sampling.seed, index])
        bits = tf.random.stateless_uniform(tf.shape(logits), seed, None, None, tf.uint32, alg="philox")
        uniform = (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32) + 0.5) * 2.0**-23
        # The largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954).
        return tf.argmax(kept - tf.math.log(-tf.math.log(uniform)), -1, tf.int32)

    return tf.cond(sampling.temperature > 0, draw, lambda: tf.argmax(logits, -1, tf.int32))


def keep_likeliest(logits, top_k, top_p):
    """Sets the logits of all but the likeliest tokens to minus infinity; the likeliest one always stays.

    Args:
        logits: float32 [B, V].
        top_k: int32 scalar, tokens to keep; 0 means all.
        top_p: float32 scalar in (0, 1], probability to keep, of what top-k leaves.

    Returns:
        float32 [B, V].

    Example:
        >>> logits = tf.math.log([[0.1, 0.5, 0.4]])
        >>> keep_likeliest(logits, tf.constant(2), tf.constant(0.5))[0].numpy().round(2)
        array([ -inf, -0.69,  -inf], dtype=float32)
    """

    def keep():
        size = logits.shape[1]
        ordered, order = tf.math.top_k(logits, size)
        allowed = tf.range(size) < tf.where(top_k > 0, top_k, size)
        share = tf.nn.softmax(tf.where(allowed, ordered, logits.dtype.min))
        before = tf.cumsum(share, axis=1, exclusive=True)  # what is kept ahead of each token
        kept = allowed & ((before < top_p) | (tf.range(size) == 0))
        rows = tf.broadcast_to(tf.range(tf.shape(logits)[0])[:, None], tf.shape(order))
        kept = tf.scatter_nd(tf.stack([rows, order], -1), tf.cast(kept, tf.int32), tf.shape(logits))
        return tf.where(kept > 0, logits, -float("inf"))

    return tf.cond((top_k > 0) | (top_p < 1), keep, lambda: logits)  # sorting costs: only where it is asked for
