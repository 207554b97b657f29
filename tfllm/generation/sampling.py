"""From logits to the next token: greedy, or drawn after the cut-offs of temperature, top-k, top-p and their kin."""

import tensorflow as tf

from tfllm.noise import gumbel

_SHORT_LIST = 1024  # as many likeliest tokens are looked at first: sorting a whole vocabulary costs ten times as much


def pick(logits, settings, index):
    """Chooses a token for every row.

    The draw of a row depends on its own seed and index alone, so a row in a batch is drawn as it would be alone.

    Args:
        logits: float32 [B, V], after `process`.
        settings: dict of tensors; see `make_settings`.
        index: int32 [B], the number of each row's token, so that each is a draw of its own.

    Returns:
        int32 [B].

    Example:
        >>> from tfllm.generation import make_settings
        >>> pick(tf.constant([[1.0, 3.0, 2.0]]), make_settings(1, 3, temperature=0), tf.constant([0])).numpy()
        array([1], dtype=int32)
    """
    likeliest = tf.argmax(logits, -1, tf.int32)

    def draw():
        kept = cut_off(logits, settings)
        # The largest of logits plus Gumbel noise is a draw from their softmax (Gumbel 1954).
        drawn = tf.argmax(kept + gumbel(settings["seed"], index, logits.shape[1]), -1, tf.int32)
        return tf.where(settings["temperature"] > 0, drawn, likeliest)

    return tf.cond(tf.reduce_any(settings["temperature"] > 0), draw, lambda: likeliest)


def cut_off(logits, settings):
    """Divides logits by the temperature and leaves out the tokens that the settings cut off; the likeliest one stays.

    The order is top-k, top-p, min-p, typical, epsilon, eta, each acting on what those before it leave. Tokens as likely as the
    last one kept are kept with it. A row of temperature 0 keeps its likeliest token alone.

    Args:
        logits: float32 [B, V].
        settings: dict of tensors; see `make_settings`.

    Returns:
        float32 [B, V], minus infinity for tokens left out: the logits of the distribution that is drawn from.

    Example:
        >>> from tfllm.generation import make_settings
        >>> cut_off(tf.math.log([[0.1, 0.5, 0.4]]), make_settings(1, 3, top_k=2, top_p=0.5))[0].numpy().round(2)
        array([ -inf, -0.69,  -inf], dtype=float32)
    """
    temperature = settings["temperature"][:, None]
    top = tf.reduce_max(logits, -1, keepdims=True)
    logits = logits / tf.where(temperature > 0, tf.maximum(temperature, 1e-30), 1.0)  # so that none becomes infinite
    top_k, top_p, typical = settings["top_k"], settings["top_p"], settings["typical_p"]

    def when(asked, keep, logits):
        """Leaves out what `keep` does not keep, in the rows that ask for it."""

        def cut():
            kept = keep(logits) | ~asked[:, None] | (logits == tf.reduce_max(logits, -1, keepdims=True))
            return tf.where(kept, logits, -float("inf"))

        return tf.cond(tf.reduce_any(asked), cut, lambda: logits)

    def all_of_them(logits):
        logits = when(top_k > 0, lambda x: _likeliest(x, tf.ones_like(x), tf.cast(top_k, tf.float32)), logits)
        logits = when(top_p < 1, lambda x: _likeliest(x, tf.nn.softmax(x), top_p), logits)
        logits = when(settings["min_p"] > 0, lambda x: _above(x, settings["min_p"]), logits)
        logits = when(typical < 1, lambda x: _likeliest(-_surprise(x), tf.nn.softmax(x), typical), logits)
        shares = (settings["epsilon_cutoff"] > 0) | (settings["eta_cutoff"] > 0)
        return when(shares, lambda x: _above_shares(x, settings["epsilon_cutoff"], settings["eta_cutoff"]), logits)

    asked = (top_k > 0) | (top_p < 1) | (settings["min_p"] > 0) | (typical < 1)
    asked |= (settings["epsilon_cutoff"] > 0) | (settings["eta_cutoff"] > 0)
    kept = tf.cond(tf.reduce_any(asked), lambda: all_of_them(logits), lambda: logits)
    # Of equally likely ones the first, as argmax takes it.
    first = tf.range(logits.shape[1]) == tf.argmax(logits, -1, tf.int32)[:, None]
    greedy = tf.where(first, top, -float("inf"))
    return tf.where(temperature > 0, kept, greedy)


def _above(logits, share):
    """Keeps tokens of at least `share` [B] of the likeliest one's probability."""
    return logits >= tf.reduce_max(logits, -1, keepdims=True) + tf.math.log(tf.maximum(share, 1e-38))[:, None]


def _above_shares(logits, epsilon, eta):
    """Keeps tokens of at least the probability `epsilon` [B], and of these those above the entropy's cut-off by `eta` [B]."""
    log_probs = tf.nn.log_softmax(logits)
    kept = (tf.exp(log_probs) >= epsilon[:, None]) | (log_probs == tf.reduce_max(log_probs, -1, keepdims=True))
    log_probs = tf.nn.log_softmax(tf.where(kept, log_probs, -float("inf")))
    cut = tf.minimum(eta, tf.sqrt(eta) * tf.exp(-entropy(log_probs)))
    return kept & (tf.exp(log_probs) >= cut[:, None])


def _surprise(logits):
    """Returns how far each token's information is from the entropy, in nats."""
    log_probs = tf.nn.log_softmax(logits)
    return tf.where(log_probs > -float("inf"), tf.abs(-log_probs - entropy(log_probs)[:, None]), float("inf"))


def entropy(log_probs):
    """Returns float32 [...], the entropy in nats of log-probabilities [..., V], some of them perhaps minus infinity."""
    return -tf.reduce_sum(tf.exp(log_probs) * tf.maximum(log_probs, -1e9), -1)


def _likeliest(scores, weights, target):
    """Keeps the tokens of highest score, the fewest whose weights sum to `target`, and all that tie with the last.

    Args:
        scores: float32 [B, V].
        weights: float32 [B, V], not negative.
        target: float32 [B]; a sum that no tokens reach keeps all.

    Returns:
        bool [B, V].
    """
    size = scores.shape[1]
    best, index = tf.math.top_k(scores, min(size, _SHORT_LIST))
    sums = tf.cumsum(tf.gather(weights, index, batch_dims=1), axis=1)
    reached = sums >= target[:, None]
    enough = tf.reduce_any(reached, -1)
    last = tf.gather(best, tf.argmax(tf.cast(reached, tf.int32), -1, tf.int32)[:, None], batch_dims=1)
    short = scores >= tf.where(enough[:, None], last, -float("inf"))
    if size <= _SHORT_LIST:
        return short
    return tf.cond(tf.reduce_all(enough), lambda: short, lambda: _bisect(scores, weights, target))


def _bisect(scores, weights, target):
    """Does what `_likeliest` does, by finding the lowest score bit by bit; no sorting."""
    bits = tf.bitcast(scores, tf.int32)
    # As unsigned numbers, these keys are ordered as the scores are.
    keys = tf.where(bits < 0, tf.bitwise.invert(bits), tf.bitwise.bitwise_or(bits, tf.int32.min))
    keys = tf.bitcast(keys, tf.uint32)

    def body(bit, threshold):
        one = tf.bitwise.left_shift(tf.constant(1, tf.uint32), tf.cast(bit, tf.uint32))
        higher = tf.bitwise.bitwise_or(threshold, one)
        total = tf.reduce_sum(tf.where(keys >= higher, weights, 0.0), -1, keepdims=True)
        return bit - 1, tf.where(total >= target[:, None], higher, threshold)

    start = tf.zeros([tf.shape(scores)[0], 1], tf.uint32)
    _, threshold = tf.while_loop(lambda bit, _: bit >= 0, body, (tf.constant(31), start), parallel_iterations=1)
    return keys >= threshold
