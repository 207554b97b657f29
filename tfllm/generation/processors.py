"""Logits processors: what a request forbids, prefers or forces, as functions of the logits and of what was written so far.

`process` applies those that some row asks for; it is what every strategy calls before it chooses. The sources of the
settings stand at `make_settings`. Histories are those of `history.py`.
"""

import functools

import tensorflow as tf

from tfllm.generation.history import when
from tfllm.generation.settings import is_given

BANNED = -float("inf")


def process(logits, history, settings, vocabulary):
    """Returns logits float32 [B, V] after bias, penalties, bans and constraints; minus infinity where a token may not follow.

    Args:
        logits: float32 [B, V].
        history: dict, what rows hold so far; see `history.py`.
        settings: dict of tensors; see `make_settings`.
        vocabulary: `Vocabulary`.
    """
    return vocabulary.traced_once(functools.partial(_process, vocabulary), logits, history, settings)


def _process(vocabulary, logits, history, settings):
    size = logits.shape[1]
    if vocabulary.size is not None and vocabulary.size < size:  # a padded vocabulary
        logits = tf.where(tf.range(size) < vocabulary.size, logits, BANNED)

    def changed(logits):
        logits = when(is_given(settings["bias_ids"]), lambda x=logits: x + _bias(settings, x), logits)
        penalized = settings["repetition_penalty"] != 1
        penalized |= (settings["frequency_penalty"] != 0) | (settings["presence_penalty"] != 0)
        logits = when(penalized, lambda x=logits: _penalize(x, history, settings), logits)
        logits = when(settings["no_repeat_ngram_size"] > 0, lambda x=logits: _ban_ngrams(x, history, settings), logits)
        logits = when(is_given(settings["banned"]), lambda x=logits: _ban_words(x, history, settings), logits)
        logits = _ban_ends(logits, history["new"] < settings["min_new_tokens"], settings, vocabulary)
        logits = when(is_given(settings["forced"]), lambda x=logits: _force(x, history, settings), logits)
        return when(is_given(settings["next_state"]), lambda x=logits: _follow(x, history, settings), logits)

    return tf.cond(_any_asked(settings), lambda: changed(logits), lambda: logits)


def _any_asked(settings):
    """Returns bool: one question in place of nine where nothing is asked, which is the usual case."""
    lists = sum(tf.size(settings[name]) for name in ("bias_ids", "banned", "forced", "next_state"))
    numbers = (settings["repetition_penalty"] != 1) | (settings["no_repeat_ngram_size"] > 0)
    numbers |= (settings["frequency_penalty"] != 0) | (settings["presence_penalty"] != 0)
    return (lists > 0) | tf.reduce_any(numbers | (settings["min_new_tokens"] > 0))


def _marks(ids, values, size):
    """Returns [B, V], the sum of `values` [B, K] at `ids` int32 [B, K]; negative ids are left out."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
    values = tf.where(ids >= 0, values, tf.zeros_like(values))
    shape = [tf.shape(ids)[0], size]
    return tf.scatter_nd(tf.stack([rows, tf.maximum(ids, 0)], -1), values, shape)


def _ban(logits, ids, banned):
    """Forbids ids [B, K] where `banned` bool [B, K]."""
    marks = _marks(ids, tf.cast(banned, tf.int32), logits.shape[1])
    return tf.where(marks > 0, BANNED, logits)


def _bias(settings, logits):
    values, ids = settings["bias_values"], settings["bias_ids"]
    finite = tf.where(tf.math.is_finite(values), values, 0.0)  # minus infinity times zero is no number
    banned = _marks(ids, tf.cast(values == BANNED, tf.int32), logits.shape[1]) > 0
    return tf.where(banned, BANNED, _marks(ids, finite, logits.shape[1]))


def _penalize(logits, history, settings):
    tokens, size = history["tokens"], logits.shape[1]
    at = tf.range(tf.shape(tokens)[1])
    seen = tf.cast(at < history["count"][:, None], tf.float32)
    new = tf.cast(at >= (history["count"] - history["new"])[:, None], tf.float32) * seen
    ever, counts = _marks(tokens, seen, size) > 0, _marks(tokens, new, size)
    penalty = settings["repetition_penalty"][:, None]
    logits = tf.where(ever, tf.where(logits > 0, logits / penalty, logits * penalty), logits)
    logits -= settings["frequency_penalty"][:, None] * counts
    return logits - settings["presence_penalty"][:, None] * tf.cast(counts > 0, tf.float32)


def _ban_ngrams(logits, history, settings):
    tokens, count, length = history["tokens"], history["count"], settings["no_repeat_ngram_size"]
    width = tf.shape(tokens)[1]
    at = tf.range(width)

    def compare(back, same):
        """Keeps the places whose token `back` before equals the row's `back`-th last."""
        last = tf.gather(tokens, tf.maximum(count - back, 0)[:, None], batch_dims=1)
        earlier = tf.gather(tokens, tf.maximum(at - back, 0), axis=1)
        return back + 1, same & ((back >= length[:, None]) | ((earlier == last) & (at >= back)))

    same = (at < count[:, None]) & (length > 0)[:, None] & (at >= length[:, None] - 1)
    same &= (count >= length - 1)[:, None]
    longest = tf.minimum(tf.reduce_max(length), width + 1)  # of longer ones no row has two
    _, same = tf.while_loop(lambda back, same: back < longest, compare, (tf.constant(1), same), parallel_iterations=1)
    return _ban(logits, tokens, same)


def _ban_words(logits, history, settings):
    words = settings["banned"]  # [B, M, L], padded in front
    length = tf.shape(words)[2]
    at = history["count"][:, None] + tf.range(1 - length, 0)
    before = tf.gather(history["tokens"], tf.maximum(at, 0), batch_dims=1)  # [B, L - 1]
    before = tf.where(at >= 0, before, -2)
    matches = tf.reduce_all((words[:, :, :-1] == before[:, None]) | (words[:, :, :-1] == -1), -1)
    return _ban(logits, words[:, :, -1], matches)


def _ban_ends(logits, early, settings, vocabulary):
    ends = settings["stop_ids"]
    if vocabulary.end_id >= 0:
        ends = tf.pad(ends, [[0, 0], [0, 1]], constant_values=vocabulary.end_id)
    return _ban(logits, ends, tf.broadcast_to(early[:, None], tf.shape(ends)))


def _force(logits, history, settings):
    forced = settings["forced"]
    at = tf.minimum(history["new"], tf.shape(forced)[1] - 1)
    token = tf.where(history["new"] < tf.shape(forced)[1], tf.gather(forced, at, batch_dims=1), -1)
    keep = (token < 0)[:, None] | (tf.range(logits.shape[1]) == token[:, None])
    return tf.where(keep, tf.where((token >= 0)[:, None], tf.maximum(logits, logits.dtype.min), logits), BANNED)


def _follow(logits, history, settings):
    state = history["automaton"]
    allowed = tf.gather(settings["next_state"], tf.maximum(state, 0)) >= 0
    return tf.where(allowed | (state < 0)[:, None], logits, BANNED)
