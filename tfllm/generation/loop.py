"""The decoding loop: prompts in, tokens out, over nothing but a model's `initial_state`, `step` and `max_length`.

The functions here are pure and run eagerly, in a graph and under XLA. `begin` and `advance` cut the loop where a caller wants
to look in between (streaming); `generate_ids` is the two in one. Prompts are a dict of tensors:

    ids, lengths               int32 [B, P], int32 [B]: prompts, padded on the right with any id
    source, source_lengths     the same for what a model with an encoder reads first; its prompts are then what texts begin with
    guide_...                  all of these for second prompts, which guidance leads away from; or left out
    prefix, state              int32 [1, Q] and a state of one row that has read it: what stands before every prompt; or left out

A decoding in progress is a dict of the history (`history.py`), the model's state, the second prompt's state and the record of
log-probabilities, each where it is wanted.
"""

import tensorflow as tf

from tfllm.generation.history import NAN, NO_TOKEN, extend, new_tokens, out_of_time, start_history
from tfllm.generation.processors import process
from tfllm.generation.sampling import entropy, pick


def generate_ids(model, prompts, settings, vocabulary, capacity, *, num_sequences=1, top=None, deadline=None):
    """Continues every prompt of a batch until it ends or is long enough.

    A model that can hold `max_length` tokens goes on beyond them: when a row is full, its state is made anew from the last
    `max_length // 2` tokens.

    Args:
        model: a `LanguageModel`, or anything with its `initial_state`, `step`, `vocab_size` and `max_length`.
        prompts: dict of tensors; see above.
        settings: dict of tensors; see `make_settings`.
        vocabulary: `Vocabulary`.
        capacity: int or int32 scalar N >= every row's `max_new_tokens`.
        num_sequences: int or int32 scalar; so many rows follow one prompt, next to each other, read once. The settings
            have a row for each.
        top: int, how many of the likeliest tokens are recorded beside each chosen one; None records nothing.
        deadline: float64 scalar, seconds since 1970 when all rows end; not under XLA. None for never.

    Returns:
        dict of `"ids"` int32 [R, N], 0 behind the end, `"count"` int32 [R], `"finish"` and `"kept"` int32 [R] (`history.py`),
        R being B times `num_sequences`; and where they are recorded `"log_probs"` and `"entropy"` float32 [R, N], in nats, of
        the model's own distribution, `"top_ids"` int32 and `"top_log_probs"` float32 [R, N, top].
    """
    loop = begin(model, prompts, settings, vocabulary, capacity, num_sequences=num_sequences, top=top)
    loop = advance(model, loop, settings, vocabulary, deadline=deadline)
    return outcome(loop, capacity)


def read_prompts(model, prompts, capacity):
    """Reads the prompts, behind the prefix where there is one.

    Args:
        model: as for `generate_ids`.
        prompts: dict of tensors.
        capacity: int or int32 scalar, room for new tokens.

    Returns:
        (logits float32 [B, V] after each row's last token; the state; tokens int32 [B, W] with room for new ones; their
        count int32 [B]).
    """
    ids, lengths = prompts["ids"], prompts["lengths"]
    batch, size = ids.shape[0] or tf.shape(ids)[0], ids.shape[1] or tf.shape(ids)[1]
    prefix = prompts.get("prefix")
    before = 0 if prefix is None else prefix.shape[1] or tf.shape(prefix)[1]
    slots = before + size + capacity
    if model.max_length is not None:
        slots = min(slots, model.max_length) if isinstance(slots, int) else tf.minimum(slots, model.max_length)
    state = model.initial_state(batch, slots, **read_sources(model, prompts))
    tokens, count = tf.pad(ids, [[0, 0], [0, capacity]]), lengths
    if prefix is not None:
        state = tf.nest.map_structure(_fill, state, prompts["state"])
        tokens = tf.concat([tf.broadcast_to(prefix, [batch, before]), tokens], 1)
        count += tf.where(lengths > 0, before, 0)
    logits, state = model.step(ids, state, lengths, last=True)
    return logits[:, 0], state, tokens, count


def read_sources(model, prompts):
    """Returns dict of the `context` that the encoder makes of the sources among the prompts, empty where there are none."""
    return {"context": model.encode(prompts["source"], prompts["source_lengths"])} if "source" in prompts else {}


def second_prompts(prompts):
    """Returns the prompts that guidance leads away from, an empty dict where there are none."""
    return {name.removeprefix("guide_"): x for name, x in prompts.items() if name.startswith("guide_")}


def take_state(state, rows):
    """Returns the rows `rows` (int32 [R]) of a nest of tensors, some of them perhaps several times.

    What an encoder gave is repeated with its rows: a step wants it row by row, and a product that reads it once for all beams of
    a prompt would need a second kind of step in every model.
    """
    return tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), state)


def part_state(state):
    """Returns (what the steps of a model change of a state, a dict of the rest: what an encoder gave, or nothing)."""
    own = {name: part for name, part in state.items() if name != "context"}
    return own, {name: part for name, part in state.items() if name not in own}


def reorder_state(state, rows):
    """Does what `take_state` does for rows that come from rows of the same prompt, which have the same source."""
    own, context = part_state(state)
    return take_state(own, rows) | context


def copies(batch, num):
    """Returns int32 [batch * num]: every row's number `num` times, next to each other."""
    return tf.range(batch * num) // num


def begin(model, prompts, settings, vocabulary, capacity, *, num_sequences=1, top=None):
    """Reads the prompts and chooses the first token of every row; see `generate_ids`."""
    logits, state, tokens, count = read_prompts(model, prompts, capacity)
    loop = {"state": state, "tokens": tokens, "count": count, "logits": logits}
    second = second_prompts(prompts)
    if second:
        loop["guide_logits"], loop["guide"], _, _ = read_prompts(model, second, capacity)
    if not isinstance(num_sequences, int) or num_sequences > 1:
        loop = take_state(loop, copies(tf.shape(count)[0], num_sequences))
    logits, guide_logits = loop.pop("logits"), loop.pop("guide_logits", None)
    loop["history"] = start_history(loop.pop("tokens"), loop.pop("count"), settings)
    if top is not None:
        loop["record"] = start_record(tf.shape(logits)[0], capacity, top)
    return choose(loop, logits, guide_logits, settings, vocabulary)


def advance(model, loop, settings, vocabulary, steps=None, *, deadline=None):
    """Chooses up to `steps` (int32 scalar; None: as many as it takes) more tokens for every row that goes on."""

    def body(count, loop):
        history = loop["history"]
        token = tf.gather(history["tokens"], tf.maximum(history["count"] - 1, 0)[:, None], batch_dims=1)  # [B, 1]
        goes = history["finish"] == 0
        full = tf.zeros_like(goes)
        if model.max_length is not None:
            full = (loop["state"]["position"] >= model.max_length) & goes
        reads = tf.cast(goes & ~full, tf.int32)
        logits, state = model.step(token, loop["state"], reads)
        logits = logits[:, 0]
        if model.max_length is not None:
            logits, state = refill(model, history, full, logits, state)
        loop, guide_logits = loop | {"state": state}, None
        if "guide" in loop:
            guide_logits, guide = model.step(token, loop["guide"], reads)
            loop, guide_logits = loop | {"guide": guide}, guide_logits[:, 0]
        return count + 1, choose(loop, logits, guide_logits, settings, vocabulary)

    def goes_on(count, loop):
        on = tf.reduce_any(loop["history"]["finish"] == 0)
        on = on if steps is None else on & (count < steps)
        return on if deadline is None else on & (tf.timestamp() < deadline)

    loop = tf.while_loop(goes_on, body, (tf.constant(0), loop), parallel_iterations=1)[1]
    if deadline is None or steps is not None:  # rows may go on in the next call
        return loop
    return loop | {"history": out_of_time(loop["history"])}


def outcome(loop, capacity):
    """Returns what `generate_ids` does, of a decoding that ended or goes on."""
    history = loop["history"]
    found = {"ids": new_tokens(history, capacity), "count": history["new"]}
    found |= {"finish": history["finish"], "kept": history["kept"]}
    return found | loop.get("record", {})


def guided(logits, guide_logits, scale):
    """Leads logits [B, V] away from those of a second prompt: classifier-free guidance, for text.

    Source: Sanchez et al. 2023, arXiv:2306.17806, equation 7.
    """
    if guide_logits is None:
        return logits
    first, second = tf.nn.log_softmax(logits), tf.nn.log_softmax(guide_logits)
    return tf.where(scale[:, None] == 1, logits, second + scale[:, None] * (first - second))


def choose(loop, logits, guide_logits, settings, vocabulary, rows=True):
    """Chooses the next token of every row that goes on, or says why there is none.

    Args:
        loop: dict with the history, and the record where there is one.
        logits: float32 [B, V].
        guide_logits: float32 [B, V] after the second prompts, or None.
        settings, vocabulary: as for `generate_ids`.
        rows: bool [B]; the others stay as they are. True stands for all.

    Returns:
        dict, the new loop.
    """
    history = loop["history"]
    goes = (history["finish"] == 0) & rows
    logits = guided(logits, guide_logits, settings["guidance_scale"])
    allowed = process(logits, history, settings, vocabulary)
    token = vocabulary.traced_once(pick, allowed, settings, history["new"])
    wrong = tf.reduce_any(tf.math.is_nan(logits), -1)
    stuck = tf.reduce_max(allowed, -1) == -float("inf")
    reason = tf.where(wrong, NAN, tf.where(stuck, NO_TOKEN, 0))
    history = history | {"finish": tf.where(goes, reason, history["finish"])}
    after = extend(history, token, goes, settings, vocabulary)
    if "record" in loop:
        loop = loop | {
            "record": add_to_record(loop["record"], logits, token, history["new"], after["new"] > history["new"])
        }
    return loop | {"history": after}


def start_record(rows, capacity, top):
    """Returns the empty record of so many rows: dict of what `generate_ids` returns beside the tokens."""
    record = {"log_probs": tf.zeros([rows, capacity]), "entropy": tf.zeros([rows, capacity])}
    if top:
        record["top_ids"] = tf.zeros([rows, capacity, top], tf.int32)
        record["top_log_probs"] = tf.zeros([rows, capacity, top])
    return record


def add_to_record(record, logits, token, column, grew):
    """Notes what the model thought of `token` int32 [B], by its logits [B, V], at each row's column, where the row `grew`."""
    log_probs = tf.nn.log_softmax(logits)
    new = {"log_probs": tf.gather(log_probs, token, batch_dims=1), "entropy": entropy(log_probs)}
    if "top_ids" in record:
        new["top_log_probs"], new["top_ids"] = tf.math.top_k(log_probs, record["top_ids"].shape[2])
    here = (tf.range(tf.shape(record["entropy"])[1]) == column[:, None]) & grew[:, None]  # [B, N]
    return {
        name: tf.where(here if old.shape.rank == 2 else here[..., None], new[name][:, None], old)
        for name, old in record.items()
    }


def _fill(empty, filled):
    """Copies a state's leaf [1, ...] with fewer slots into every row of an empty one, shaped as that is."""
    room = tf.shape(empty)[1:] - tf.shape(filled)[1:]
    paddings = tf.concat([[[0, 0]], tf.stack([tf.zeros_like(room), room], 1)], 0) if empty.shape.rank > 1 else [[0, 0]]
    return tf.ensure_shape(tf.broadcast_to(tf.pad(filled, paddings), tf.shape(empty)), empty.shape)


def refill(model, history, full, logits, state, unread=0):
    """Replaces logits and state of full rows by what a new state gives that reads only their latest tokens.

    Args:
        model, history: as elsewhere.
        full: bool [B].
        logits: float32 [B, V].
        state: the model's state.
        unread: int, how many of the very last tokens are left for the next step to read.
    """

    def renew():
        kept = model.max_length // 2
        at = tf.maximum(history["count"] - kept, 0)[:, None] + tf.range(max(kept - unread, 1))
        window = tf.gather(history["tokens"], tf.minimum(at, tf.shape(history["tokens"])[1] - 1), batch_dims=1)
        own, context = part_state(state)
        empty = tf.nest.map_structure(tf.zeros_like, own)
        fresh, fresh_state = model.step(window, empty | context, tf.where(full, kept - unread, 0), last=True)
        renewed, own = _by_row(full, (fresh[:, 0], part_state(fresh_state)[0]), (logits, own))
        return renewed, own | context

    return tf.cond(tf.reduce_any(full), renew, lambda: (logits, state))


def _by_row(flags, yes, no):
    def choose(a, b):
        return tf.where(tf.reshape(flags, [-1] + [1] * (a.shape.rank - 1)), a, b)

    return tf.nest.map_structure(choose, yes, no)
