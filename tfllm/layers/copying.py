"""Copying: the next token is written from the vocabulary or taken from the source, which may hold what was never learned.

Source: See et al. 2017, Get To The Point: Summarization with Pointer-Generator Networks, arXiv:1704.04368, section 2.2. Sources
and texts have one vocabulary here, so there are no ids beyond it, and no coverage.
"""

import tensorflow as tf

_LEAST = 1e-30  # a probability that float32 and its logarithm can hold


def copy_probabilities(weights, source, vocab_size):
    """Adds up the attention that every token of the vocabulary gets, wherever it stands in the source.

    Args:
        weights: float [B, T, S], each [S] a distribution over the places of the source.
        source: int32 [B, S].
        vocab_size: int V.

    Returns:
        float [B, T, V].

    Example:
        >>> copy_probabilities(tf.constant([[[0.5, 0.25, 0.25]]]), tf.constant([[2, 0, 2]]), 4)[0, 0].numpy()
        array([0.25, 0.  , 0.75, 0.  ], dtype=float32)

    Source: See et al. 2017, arXiv:1704.04368, equation 9, second term.
    """
    batch, time, slots = tf.unstack(tf.shape(weights))
    places = tf.stack([tf.broadcast_to(tf.range(batch)[:, None], [batch, slots]), source], -1)  # [B, S, 2]
    # All T numbers of a place move together, because scattering costs by the piece.
    added = tf.scatter_nd(places, tf.transpose(weights, [0, 2, 1]), [batch, vocab_size, time])
    return tf.transpose(added, [0, 2, 1])


def mix_copied(logits, log_odds, copied):
    """Mixes what the vocabulary says with what is copied: log(p softmax(logits) + (1 - p) copied), p = sigmoid(log_odds).

    Args:
        logits: float32 [..., V].
        log_odds: float32 [..., 1], of writing against copying.
        copied: float32 [..., V], a distribution.

    Returns:
        float32 [..., V], log-probabilities in nats; what is copied counts as no less than 1e-30.

    Example:
        >>> copied = tf.constant([[0.0, 1.0]])
        >>> print(tf.exp(mix_copied(tf.zeros([1, 2]), tf.zeros([1, 1]), copied))[0].numpy().round(4))
        [0.25 0.75]

    Source: See et al. 2017, arXiv:1704.04368, equation 9.
    """
    written = tf.nn.log_softmax(logits) + tf.math.log_sigmoid(log_odds)
    taken = tf.math.log(tf.maximum(copied, _LEAST)) + tf.math.log_sigmoid(-log_odds)
    return written + tf.math.softplus(taken - written)
