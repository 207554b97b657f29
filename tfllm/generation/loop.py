"""The decoding loop: prompt in, tokens out, over nothing but a model's `initial_state`, `step` and `max_length`.

The functions here are pure and run eagerly, in a graph and under XLA. `begin` and `advance` cut the loop where a caller wants
to look in between (streaming); `generate_ids` is the two in one. A decoding in progress is a dict of tensors:

    tokens  int32 [B, P + N]  each row's prompt and what followed
    count   int32 [B]         how many of them there are; the last one is not yet read by the model
    new     int32 [B]         how many of them are new
    index   int32 []          tokens chosen so far in the rows that go on
    done    bool [B]          rows that ended
    state   nest              the model's
"""

import tensorflow as tf

from tfllm.generation.sampling import pick


def generate_ids(model, ids, lengths, sampling, max_new_tokens, *, end_id=-1, capacity=None):
    """Continues every prompt of a batch until it ends or is long enough.

    A model that can hold `max_length` tokens goes on beyond them: when a row is full, its state is made anew from the last
    `max_length // 2` tokens.

    Args:
        model: a `LanguageModel`, or anything with its `initial_state`, `step`, `vocab_size` and `max_length`.
        ids: int32 [B, P], prompts, padded on the right with any id.
        lengths: int32 [B] in [0, P]; a row of length 0 ends at once.
        sampling: `Sampling` of tensors.
        max_new_tokens: int32 scalar >= 1.
        end_id: int, the token that ends a row and is not part of it; -1 for none.
        capacity: int >= max_new_tokens, room for new tokens where shapes must be static; None means max_new_tokens.

    Returns:
        (int32 [B, capacity] new ids, 0 behind the end; int32 [B], how many of them count).
    """
    capacity = max_new_tokens if capacity is None else capacity
    loop = begin(model, ids, lengths, sampling, capacity, end_id=end_id)
    return new_tokens(advance(model, loop, sampling, max_new_tokens - 1, end_id=end_id), capacity)


def begin(model, ids, lengths, sampling, capacity, *, end_id=-1):
    """Reads the prompts and chooses the first token of every row; see `generate_ids`."""
    batch, size = ids.shape[0] or tf.shape(ids)[0], ids.shape[1] or tf.shape(ids)[1]
    slots = size + capacity
    if model.max_length is not None:
        slots = min(slots, model.max_length) if isinstance(slots, int) else tf.minimum(slots, model.max_length)
    logits, state = model.step(ids, model.initial_state(batch, slots), lengths, last=True)
    loop = {
        "tokens": tf.pad(ids, [[0, 0], [0, capacity]]),
        "count": lengths,
        "new": tf.zeros_like(lengths),
        "index": tf.constant(0),
        "done": lengths == 0,
        "state": state,
    }
    return _choose(loop, logits[:, 0], sampling, end_id)


def advance(model, loop, sampling, steps, *, end_id=-1):
    """Chooses up to `steps` (int32 scalar) more tokens for every row that has not ended; see `generate_ids`."""

    def body(count, loop):
        token = tf.gather(loop["tokens"], tf.maximum(loop["count"] - 1, 0)[:, None], batch_dims=1)  # [B, 1]
        full = tf.zeros_like(loop["done"])
        if model.max_length is not None:
            full = (loop["state"]["position"] >= model.max_length) & ~loop["done"]
        logits, state = model.step(token, loop["state"], tf.where(loop["done"] | full, 0, 1))
        if model.max_length is not None:
            logits, state = _refill(model, loop, full, logits, state)
        return count + 1, _choose(loop | {"state": state}, logits[:, 0], sampling, end_id)

    def goes_on(count, loop):
        return (count < steps) & ~tf.reduce_all(loop["done"])

    return tf.while_loop(goes_on, body, (tf.constant(0), loop), parallel_iterations=1)[1]


def new_tokens(loop, capacity):
    """Returns (int32 [B, capacity] new ids, 0 behind the end; int32 [B], how many count) of a decoding."""
    tokens, new = loop["tokens"], loop["new"]
    at = (loop["count"] - new)[:, None] + tf.range(capacity)
    ids = tf.gather(tokens, tf.minimum(at, tf.shape(tokens)[1] - 1), batch_dims=1)
    return tf.where(tf.range(capacity) < new[:, None], ids, 0), new


def _choose(loop, logits, sampling, end_id):
    token = pick(logits, sampling, loop["index"])
    done = loop["done"] | (token == end_id)
    grows = tf.cast(~done, tf.int32)
    rows = tf.range(tf.shape(token)[0])
    width = tf.shape(loop["tokens"])[1]
    column = tf.where(done, width, loop["count"])  # a row that ended writes nowhere
    tokens = tf.raw_ops.TensorScatterUpdate(
        tensor=loop["tokens"], indices=tf.stack([rows, column], 1), updates=token, bad_indices_policy="IGNORE"
    )
    count, new = loop["count"] + grows, loop["new"] + grows
    return loop | {"tokens": tokens, "count": count, "new": new, "index": loop["index"] + 1, "done": done}


def _refill(model, loop, full, logits, state):
    """Replaces logits and state of full rows by what a new state gives that reads only their latest tokens."""

    def refill():
        kept = model.max_length // 2
        at = tf.maximum(loop["count"] - kept, 0)[:, None] + tf.range(kept)
        window = tf.gather(loop["tokens"], tf.minimum(at, tf.shape(loop["tokens"])[1] - 1), batch_dims=1)
        empty = tf.nest.map_structure(tf.zeros_like, state)
        fresh_logits, fresh = model.step(window, empty, tf.where(full, kept, 0), last=True)
        return _by_row(full, (fresh_logits, fresh), (logits, state))

    return tf.cond(tf.reduce_any(full), refill, lambda: (logits, state))


def _by_row(flags, yes, no):
    def choose(a, b):
        return tf.where(tf.reshape(flags, [-1] + [1] * (a.shape.rank - 1)), a, b)

    return tf.nest.map_structure(choose, yes, no)
