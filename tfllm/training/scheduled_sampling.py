"""Scheduled sampling: a model learns from inputs that it wrote in part itself, as it will when it generates.

With a probability that falls as training goes on, the given token is the next input; else it is one that the model draws. The
inputs are mixed first, without a gradient, and then any loss reads them in one parallel pass with the given targets; that has
the gradient of the paper's step-by-step form, because nothing flows back through a draw.

Sources: Bengio et al. 2015, arXiv:1506.03099; Mihaylova and Martins 2019, arXiv:1906.07651, for the parallel form.
"""

import math

import tensorflow as tf

from tfllm.noise import gumbel, scramble, uniform
from tfllm.training.losses import lm_loss, unpack

DRAWS = ("parallel", "sequential")


def make_scheduled_sampling_loss(
    teacher_share, *, draws="parallel", temperature=1.0, loss_fn=lm_loss, step=None, seed=0
):
    """Returns a loss that mixes the model's own tokens into its inputs.

    An input is replaced only where it is the target of the place before it and that target has a weight above 0: prompts,
    padding and the first token of every document stay. What is drawn is a function of `seed`, the step and the row, so a run
    that is resumed draws what it would have drawn, and an accumulated batch what the whole one draws.

    Args:
        teacher_share: float in [0, 1], the probability that an input stays the given one, or a function of the step (int64
            scalar) to it (float32 scalar), such as `make_inverse_sigmoid_share` returns.
        draws: "parallel": every token is drawn from what the model says after the given inputs, in one more forward pass.
            "sequential": from what it says after the mixed inputs, token by token, through `initial_state` and `step`, as in the
            paper; slower, for rows of one document and models with that contract.
        temperature: float >= 0, divides the logits before a token is drawn; 0 takes the likeliest.
        loss_fn: the loss of the mixed batch, a function `(model, batch, training)` that returns totals.
        step: function without arguments that returns how many optimization steps were done, an int tensor, such as
            `lambda: optimizer.iterations`; None reads the optimizer that the model was compiled with.
        seed: int.

    Returns:
        A loss `(model, batch, training=True)` of next-token batches. Its totals are those of `loss_fn`, and in training
        `"teacher_share"`: the inputs that stayed and those that could have been replaced. Without training it is `loss_fn`.

    Raises:
        ValueError: when an argument breaks its rule; and from the loss, when there is no `step` and the model has no optimizer,
            or rows are packed and draws are sequential.

    Example:
        >>> model = tfllm.RecurrentLM(8, "gru", 8)
        >>> model.compile("adam", make_scheduled_sampling_loss(make_linear_share(1000), draws="sequential"))
        >>> history = model.fit(tfllm.data.lm_dataset(tf.range(200) % 8, None, 8, 4), verbose=0)

    Source: Bengio et al. 2015, arXiv:1506.03099, section 2.4; Mihaylova and Martins 2019, arXiv:1906.07651, section 3.
    """
    if not callable(teacher_share) and not 0 <= teacher_share <= 1:
        raise ValueError(f"teacher_share must lie in [0, 1], or be a function of the step; got {teacher_share}")
    if draws not in DRAWS:
        raise ValueError(f"draws must be one of {DRAWS}; got {draws!r}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature must be a finite number of at least 0; got {temperature}")

    def scheduled_sampling_loss(model, batch, training=True):
        if not training:
            return loss_fn(model, batch, training=False)
        inputs, targets, weights = unpack(batch)
        packed = isinstance(inputs, dict)
        if packed and draws == "sequential":
            raise ValueError("draws must be 'parallel' for packed rows; got 'sequential'")
        ids = tf.cast(inputs["ids"] if packed else inputs, tf.int32)
        done = tf.cast(_iterations(model) if step is None else step(), tf.int64)
        share = tf.cast(teacher_share(done) if callable(teacher_share) else teacher_share, tf.float32)
        may = (weights[:, :-1] > 0) & (ids[:, 1:] == targets[:, :-1])  # [B, T - 1], of the inputs but the first
        if packed:
            may &= inputs["documents"][:, 1:] == inputs["documents"][:, :-1]
        own = _row_seeds(seed, done, ids)  # [B]
        stays = uniform(own, tf.zeros_like(own), ids.shape[1] or tf.shape(ids)[1])[:, 1:] < share
        replaced = tf.pad(may & ~stays, [[0, 0], [1, 0]])  # [B, T]
        if draws == "parallel":
            drawn = _drawn(model(inputs, training=False), own, 0, temperature)
            mixed = tf.where(replaced, tf.pad(drawn[:, :-1], [[0, 0], [1, 0]]), ids)
        else:
            mixed = _mixed_in_turn(model, ids, replaced, own, temperature)
        totals = loss_fn(model, (inputs | {"ids": mixed} if packed else mixed, targets, weights), training=True)
        kept = tf.reduce_sum(tf.cast(may & stays, tf.float32))
        return totals | {"teacher_share": (kept, tf.reduce_sum(tf.cast(may, tf.float32)))}

    return scheduled_sampling_loss


def make_linear_share(steps, final=0.0):
    """Returns a function of the step: the teacher's share falls from 1 to `final` in a straight line of `steps` steps.

    Args:
        steps: int >= 1.
        final: float in [0, 1].

    Raises:
        ValueError: when a number is out of its range.

    Example:
        >>> make_linear_share(4, final=0.5)(tf.range(6)).numpy().tolist()
        [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]

    Source: Bengio et al. 2015, arXiv:1506.03099, section 2.4.
    """
    if not steps >= 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    if not 0 <= final <= 1:
        raise ValueError(f"final must lie in [0, 1]; got {final}")
    return lambda step: tf.maximum(1 - (1 - final) * tf.cast(step, tf.float32) / steps, final)


def make_exponential_share(base):
    """Returns a function of the step i: the teacher's share is `base ** i`, with `base` a float in (0, 1).

    Raises:
        ValueError: when `base` is out of its range.

    Example:
        >>> make_exponential_share(0.5)(tf.range(3)).numpy().tolist()
        [1.0, 0.5, 0.25]

    Source: Bengio et al. 2015, arXiv:1506.03099, section 2.4.
    """
    if not 0 < base < 1:
        raise ValueError(f"base must lie in (0, 1); got {base}")
    return lambda step: tf.exp(math.log(base) * tf.cast(step, tf.float32))


def make_inverse_sigmoid_share(k):
    """Returns a function of the step i: the teacher's share is `k / (k + exp(i / k))`, with `k` a float of at least 1.

    It is a half after `k * log(k)` steps, and falls from three quarters to a quarter within 2.2 k of them.

    Raises:
        ValueError: when `k` is out of its range.

    Example:
        >>> print(" ".join(f"{share:.2f}" for share in make_inverse_sigmoid_share(100.0)([0, 460, 10_000])))
        0.99 0.50 0.00

    Source: Bengio et al. 2015, arXiv:1506.03099, section 2.4.
    """
    if not 1 <= k < math.inf:
        raise ValueError(f"k must be a finite number of at least 1; got {k}")
    return lambda step: tf.sigmoid(math.log(k) - tf.cast(step, tf.float32) / k)


def _iterations(model):
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(f"step must be given for a model that was not compiled; got None for {type(model).__name__}")
    return optimizer.iterations


def _row_seeds(seed, step, ids):
    """Returns int32 [B], a hash of the seed, the step and the ids of each row.

    Of the ids, so that the parts of an accumulated batch and the replicas of a step draw each for themselves.
    """
    place = tf.cast(tf.range(tf.shape(ids)[1]), tf.uint32)
    words = scramble(scramble(tf.cast(ids, tf.uint32)) + place)
    prints = tf.reduce_sum(tf.cast(words, tf.int64), 1) + seed
    low = tf.constant(2**32, tf.int64)
    key = scramble(scramble(tf.cast(prints % low, tf.uint32)) + tf.cast(step % low, tf.uint32))
    return tf.bitcast(key, tf.int32)


def _drawn(logits, seeds, first, temperature):
    """Returns int32 [B, T], tokens drawn from logits [B, T, V]; the draws of places `first`, `first + 1`, ..."""
    if temperature > 0:
        batch, time, vocab_size = tf.shape(logits)[0], tf.shape(logits)[1], logits.shape[2]
        place = tf.tile(first + tf.range(time), [batch])  # [B T]
        seeds = tf.reshape(tf.broadcast_to(seeds[:, None], [batch, time]), [-1])
        noise = tf.reshape(gumbel(seeds, place, vocab_size, stream=1), tf.shape(logits))
        logits = tf.cast(logits, tf.float32) / temperature + noise
    return tf.argmax(logits, -1, tf.int32)


def _mixed_in_turn(model, ids, replaced, seeds, temperature):
    """Returns int32 [B, T], the ids with those that are `replaced` drawn after the mixed ids before them."""
    batch, time = ids.shape[0] or tf.shape(ids)[0], ids.shape[1] or tf.shape(ids)[1]
    rows = tf.TensorArray(tf.int32, time, element_shape=[ids.shape[0]])
    given, changes = tf.transpose(ids), tf.transpose(replaced)  # [T, B]

    def body(t, drawn, state, rows):
        token = tf.where(changes[t], drawn, given[t])
        logits, state = model.step(token[:, None], state)
        return t + 1, _drawn(logits, seeds, t, temperature)[:, 0], state, rows.write(t, token)

    start = tf.constant(0), tf.zeros_like(given[0]), model.initial_state(batch, time), rows
    *_, rows = tf.while_loop(lambda t, *_: t < time, body, start, maximum_iterations=time, parallel_iterations=1)
    return tf.transpose(rows.stack())
