"""A linear-chain conditional random field: the probability of a whole row of tags, and the likeliest row.

What a model says of each place ("emissions") and how tags follow each other are added up; a softmax over all rows of tags makes a
probability of the sum. Both sums over rows run along the row once, in L x L steps. Everything is float32 at least.
Source: Lafferty, McCallum and Pereira 2001, Conditional Random Fields, ICML; Lample et al. 2016, arXiv:1603.01360, section 2.2.
"""

import keras
import tensorflow as tf

_NEVER = -1e4  # added to the score of what is forbidden: no emission outweighs it, and sums of it stay exact enough


@keras.saving.register_keras_serializable("tfllm")
class CRF(keras.layers.Layer):
    """Scores of tags that follow each other, with scores for the first and the last tag.

    Args:
        num_tags: int L.
        forbidden: list of (int, int), tags that never follow each other; -1 stands for what is before the first tag.
            `bio_forbidden` gives those of BIO tags.

    Call:
        emissions: float [B, T, L]; tags: int32 [B, T]; lengths: int32 [B], in [0, T]. Returns float [B], the log-probability of
        the first `lengths` tags of each row, in nats; 0 for a row without any.

    Raises:
        ValueError: when a forbidden tag does not exist.

    Example:
        >>> crf = CRF(2)
        >>> crf.build()
        >>> log_probs = crf(tf.zeros([1, 3, 2]), tf.constant([[0, 1, 1]]), tf.constant([3]))
        >>> print(f"{float(tf.exp(log_probs[0])):.3f}")  # one of 8 rows that are all alike
        0.125
    """

    def __init__(self, num_tags, *, forbidden=(), **kwargs):
        super().__init__(**kwargs)
        self.num_tags, self.forbidden = num_tags, [list(pair) for pair in forbidden]
        for before, after in self.forbidden:
            if not (-1 <= before < num_tags and 0 <= after < num_tags):
                raise ValueError(f"forbidden must hold pairs of [-1, L={num_tags}) and [0, L); got {(before, after)}")

    def build(self, emissions_shape=None, *_):
        size = self.num_tags
        self.transitions = self.add_weight(shape=(size, size), initializer="zeros", name="transitions")
        self.first = self.add_weight(shape=(size,), initializer="zeros", name="first")
        self.last = self.add_weight(shape=(size,), initializer="zeros", name="last")
        self.built = True

    def call(self, emissions, tags, lengths):
        emissions, first, transitions, last = self._scores(emissions)
        size = self.num_tags
        real = tf.sequence_mask(lengths, tf.shape(emissions)[1], emissions.dtype)  # [B, T]
        own = tf.gather(emissions, tags, batch_dims=2)  # [B, T]
        steps = tf.gather(tf.reshape(transitions, [-1]), tags[:, :-1] * size + tags[:, 1:])
        final = tf.gather(tags, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)[:, 0]
        score = tf.reduce_sum(own * real, 1) + tf.reduce_sum(steps * real[:, 1:], 1)
        score += tf.gather(first, tags[:, 0]) + tf.gather(last, final)
        total = _log_normalizer(emissions, lengths, first, transitions, last)
        return tf.where(lengths > 0, score - total, tf.zeros([], score.dtype))

    def best(self, emissions, lengths):
        """Finds the likeliest tags (Viterbi 1967).

        Args:
            emissions: float [B, T, L].
            lengths: int32 [B], in [0, T].

        Returns:
            (int32 [B, T] tags, 0 behind each row's length; float [B], the score of each row, before normalisation).
        """
        return best_tags(*self._scores(emissions), lengths)

    def marginals(self, emissions, lengths):
        """Returns float [B, T, L], the probability of each tag at each place, whatever the others are; 0 behind the lengths."""
        emissions, *rest = self._scores(emissions)
        with tf.GradientTape() as tape:
            tape.watch(emissions)
            total = _log_normalizer(emissions, lengths, *rest)
        # The derivative of log Z by an emission is the probability of its tag.
        shares = tape.gradient(total, emissions)
        return shares * tf.sequence_mask(lengths, tf.shape(emissions)[1], shares.dtype)[:, :, None]

    def _scores(self, emissions):
        """Returns emissions, scores of first tags [L], of transitions [L, L] and of last tags [L], float32 or float64."""
        wide = tf.float64 if emissions.dtype == tf.float64 else tf.float32
        first, transitions, last = (tf.cast(w.value, wide) for w in (self.first, self.transitions, self.last))
        never = forbidden_scores(self.num_tags, self.forbidden, wide)
        return tf.cast(emissions, wide), first + never[0], transitions + never[1:], last


def _log_normalizer(emissions, lengths, first, transitions, last):
    """Returns float [B], the logarithm of the sum of exp(score) over all rows of tags (forward algorithm)."""
    alpha = first + emissions[:, 0]  # [B, L]
    time = tf.shape(emissions)[1]
    # An array of steps, because the gradient of a slice is as large as the whole.
    steps = tf.TensorArray(emissions.dtype, time, element_shape=[None, emissions.shape[2]])
    steps = steps.unstack(tf.transpose(emissions, [1, 0, 2]))

    def step(t, alpha):
        new = tf.reduce_logsumexp(alpha[:, :, None] + transitions, 1) + steps.read(t)
        return t + 1, tf.where((t < lengths)[:, None], new, alpha)

    _, alpha = tf.while_loop(lambda t, _: t < time, step, (1, alpha), maximum_iterations=emissions.shape[1])
    return tf.reduce_logsumexp(alpha + last, 1)


def best_tags(emissions, first, transitions, last, lengths):
    """Finds the likeliest rows of tags.

    Args:
        emissions: float [B, T, L].
        first, transitions, last: float [L], [L, L] and [L], scores of the first tag, of each tag behind each, and of the last.
        lengths: int32 [B], in [0, T].

    Returns:
        (int32 [B, T], 0 behind each row's length; float [B], their scores).

    Source: Viterbi 1967, IEEE Transactions on Information Theory 13(2).
    """
    batch, time, size = tf.shape(emissions)[0], tf.shape(emissions)[1], emissions.shape[2]
    steps, alpha = tf.transpose(emissions, [1, 0, 2]), first + emissions[:, 0]
    pointers = tf.TensorArray(tf.int32, time, element_shape=[None, size])
    stay = tf.tile(tf.range(size)[None], [batch, 1])

    def forward(t, alpha, pointers):
        scores = alpha[:, :, None] + transitions  # [B, before, after]
        inside = (t < lengths)[:, None]
        pointers = pointers.write(t, tf.where(inside, tf.argmax(scores, 1, tf.int32), stay))
        return t + 1, tf.where(inside, tf.reduce_max(scores, 1) + steps[t], alpha), pointers

    pointers = pointers.write(0, stay)
    _, alpha, pointers = tf.while_loop(lambda t, *_: t < time, forward, (1, alpha, pointers))
    tag = tf.argmax(alpha + last, 1, tf.int32)
    found = tf.TensorArray(tf.int32, time, element_shape=[None]).write(time - 1, tag)

    def backward(t, tag, found):
        tag = tf.gather(pointers.read(t), tag, batch_dims=1)
        return t - 1, tag, found.write(t - 1, tag)

    _, _, found = tf.while_loop(lambda t, *_: t > 0, backward, (time - 1, tag, found))
    tags = tf.transpose(found.stack())
    return tf.where(tf.sequence_mask(lengths, time), tags, 0), tf.reduce_max(alpha + last, 1)


def forbidden_scores(num_tags, forbidden, dtype=tf.float32):
    """Returns float [1 + L, L], what is added to the score of each tag behind nothing (row 0) and behind each tag.

    Example:
        >>> (forbidden_scores(2, [(-1, 1)]).numpy() < 0).astype(int)
        array([[0, 1],
               [0, 0],
               [0, 0]])
    """
    if not forbidden:
        return tf.zeros([1 + num_tags, num_tags], dtype)
    places = [[before + 1, after] for before, after in forbidden]
    return tf.tensor_scatter_nd_update(
        tf.zeros([1 + num_tags, num_tags], dtype), places, tf.fill([len(places)], tf.constant(_NEVER, dtype))
    )


def bio_forbidden(names):
    """Says which BIO tags never follow each other: an I-X stands behind a B-X or an I-X alone.

    Args:
        names: list of str, the tags in the order of their ids: "O", "B-X", "I-X".

    Returns:
        list of (int, int) for `CRF`, -1 for what is before the first tag.

    Raises:
        ValueError: on a name that is no BIO tag.

    Example:
        >>> bio_forbidden(["O", "B-PER", "I-PER"])
        [(-1, 2), (0, 2)]
    """
    parts = [bio_parts(name) for name in names]
    before = [(-1, ("O", "")), *enumerate(parts)]
    return [
        (i, j)
        for i, (mark, kind) in before
        for j, (next_mark, next_kind) in enumerate(parts)
        if next_mark == "I" and (mark == "O" or kind != next_kind)
    ]


def bio_parts(tag):
    """Returns (mark, type) of a BIO tag: ("B", "PER") of "B-PER", ("O", "") of "O".

    Raises:
        ValueError: when it is no BIO tag.
    """
    mark, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    if tag == "O" or (mark in ("B", "I") and kind):
        return mark, kind
    raise ValueError(f"tags must be 'O', 'B-' and a type or 'I-' and a type; got {tag!r}")
