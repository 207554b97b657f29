"""What the rows of a decoding hold so far, and when they end: end token, stop ids, stop strings, length.

A history is a dict of tensors, the batch on axis 0 of each, so that a search reorders it as it reorders the state:

    tokens     int32 [B, W]  each row's prompt and what followed
    count      int32 [B]     how many of them there are
    new        int32 [B]     how many of them are new
    finish     int32 [B]     why the row ended, an index of FINISH_REASONS; 0 while it goes on
    automaton  int32 [B]     the row's state in the table of its automaton; negative for none
    tail       int32 [B, S]  the last bytes of the new text, as many as the longest stop string has
    bytes      int32 [B]     how many bytes the new text has
    kept       int32 [B]     how many of them stand before a stop string, or -1 where there was none
"""

import functools

import tensorflow as tf

from tfllm.generation.settings import is_given

FINISH_REASONS = ("", "end", "stop_id", "stop_string", "length", "time", "no_token", "nan")
END, STOP_ID, STOP_STRING, LENGTH, TIME, NO_TOKEN, NAN = range(1, 8)


def start_history(tokens, count, settings):
    """Returns the history of prompts: tokens int32 [B, W], of which the first `count` (int32 [B]) stand.

    A row without a token ends at once.
    """
    zeros = tf.zeros_like(count)
    return {
        "tokens": tokens,
        "count": count,
        "new": zeros,
        "finish": tf.where(count == 0, LENGTH, 0),
        "automaton": tf.identity(settings["start"]),
        "tail": tf.fill([tf.shape(count)[0], tf.shape(settings["stop"])[2]], -2),
        "bytes": zeros,
        "kept": zeros - 1,
    }


def extend(history, token, grows, settings, vocabulary):
    """Adds a token to the rows that grow, or ends them with it.

    An end token and a stop id are no part of the text. The token that completes a stop string is; `kept` says where the
    text ends.

    Args:
        history: dict; see above.
        token: int32 [B].
        grows: bool [B]; other rows stay as they are, and so do those that have ended.
        settings: dict of tensors; see `make_settings`.
        vocabulary: `Vocabulary`.

    Returns:
        dict, the new history.
    """
    return vocabulary.traced_once(functools.partial(_extend, vocabulary), history, token, grows, settings)


def _extend(vocabulary, history, token, grows, settings):
    grows = grows & (history["finish"] == 0)
    finish = tf.where(tf.reduce_any(settings["stop_ids"] == token[:, None], -1), STOP_ID, 0)
    finish = tf.where(token == vocabulary.end_id, END, finish)
    added = grows & (finish == 0)
    one = tf.cast(added, tf.int32)
    width = tf.shape(history["tokens"])[1]
    column = tf.where(added, history["count"], width)  # elsewhere nothing is written
    tokens = tf.raw_ops.TensorScatterUpdate(
        tensor=history["tokens"],
        indices=tf.stack([tf.range(tf.shape(token)[0]), column], 1),
        updates=token,
        bad_indices_policy="IGNORE",
    )
    table, state = settings["next_state"], history["automaton"]

    def follow():
        places = tf.maximum(state, 0) * table.shape[1] + token
        return tf.where(added & (state >= 0), tf.gather(tf.reshape(table, [-1]), places), state)

    new = history["new"] + one
    finish = tf.where(added & (new >= settings["max_new_tokens"]), LENGTH, finish)
    changed = history | {
        "tokens": tokens,
        "count": history["count"] + one,
        "new": new,
        "finish": tf.where(grows, finish, history["finish"]),
        "automaton": when(is_given(table), follow, state),
    }
    if vocabulary.bytes is None:
        return changed
    old = {name: changed[name] for name in ("finish", "tail", "bytes", "kept")}
    return changed | when(is_given(settings["stop"]), lambda: _watch(changed, token, added, settings, vocabulary), old)


def when(asked, change, value):
    """Returns `change()` where `asked` (bool or bool tensor), else `value`."""
    if isinstance(asked, bool):
        return change() if asked else value
    return tf.cond(tf.reduce_any(asked), change, lambda: value)


def _watch(history, token, added, settings, vocabulary):
    """Looks for stop strings that end within the bytes of the token just added."""
    stops = settings["stop"]  # [B, K, S], padded in front with -1, which is any byte
    longest = stops.shape[2] or tf.shape(stops)[2]
    most = max(int((vocabulary.first[1:] - vocabulary.first[:-1]).max(initial=0)), 1)
    flat, first, lead = vocabulary.tables
    begin, end = tf.gather(first, token), tf.gather(first, token + 1)
    at = begin[:, None] + tf.range(most)
    size = tf.where(added, end - begin, 0)
    last = max(len(vocabulary.bytes) - 1, 0)
    text = tf.concat([history["tail"], tf.gather(flat, tf.minimum(at, last))], 1)  # [B, S + L]
    places = tf.range(most)[:, None] + 1 + tf.range(longest)
    windows = tf.gather(text, places, axis=1)  # [B, L, S], one that ends at each byte
    same = (stops[:, None] == windows[:, :, None]) | (stops == -1)[:, None]
    lengths = tf.reduce_sum(tf.cast(stops >= 0, tf.int32), -1)  # [B, K]
    found = tf.reduce_all(same, -1) & (lengths > 0)[:, None] & (tf.range(most) < size[:, None])[:, :, None]
    # The first token that has a text, which special ones do not, may lose a blank.
    before = history["bytes"] - tf.where(history["bytes"] == 0, tf.gather(lead, token), 0)
    before = tf.where(added, before, history["bytes"])
    begins = before[:, None, None] + tf.range(1, most + 1)[:, None] - lengths[:, None]
    begins = tf.reduce_min(tf.where(found & (begins >= 0), begins, tf.int32.max), [1, 2])
    stopped = begins < tf.int32.max
    tail = tf.gather(text, size[:, None] + tf.range(longest), batch_dims=1)
    return {
        "finish": tf.where(stopped, STOP_STRING, history["finish"]),
        "tail": tf.where(added[:, None], tail, history["tail"]),
        "bytes": before + size,
        "kept": tf.where(stopped, begins, history["kept"]),
    }


def out_of_time(history):
    """Ends the rows that still go on, as what else but a deadline ended the loop; the clock is not asked again."""
    finish = history["finish"]
    return history | {"finish": tf.where(finish == 0, TIME, finish)}


def new_tokens(history, capacity):
    """Returns int32 [B, capacity], the new tokens of each row, 0 behind its end."""
    tokens, new = history["tokens"], history["new"]
    at = (history["count"] - new)[:, None] + tf.range(capacity)
    ids = tf.gather(tokens, tf.minimum(at, tf.shape(tokens)[1] - 1), batch_dims=1)
    return tf.where(tf.range(capacity) < new[:, None], ids, 0)
