"""Contrastive search: of the likeliest tokens the one whose features repeat least what was read before.

Every candidate is read before one is chosen, those of a whole batch in one step of B times `num_candidates` rows, so a token
costs one forward pass, as in greedy decoding, of a larger batch.
Source: Su et al. 2022, arXiv:2202.06417, section 3.2.
"""

import dataclasses
import types
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.history import NAN, NO_TOKEN, extend, out_of_time, start_history
from tfllm.generation.loop import (
    add_to_record,
    copies,
    guided,
    outcome,
    part_state,
    read_prompts,
    second_prompts,
    start_record,
    take_state,
)
from tfllm.generation.processors import process
from tfllm.generation.sampling import cut_off
from tfllm.generation.strategy import Strategy, check_size


@dataclasses.dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """Chooses the token v of highest (1 - a) p(v) - a max_j cos(h_v, h_j) among the likeliest ones.

    h_j are the model's last features at every token so far, those of prompt and prefix among them, and h_v at the candidate. p is
    the distribution that sampling would draw from, after penalties, bans, temperature and cut-offs. The score of a text is the
    sum over its tokens.

    Attributes:
        num_candidates: int k >= 1, how many of the likeliest tokens are compared; 1 is greedy.
        penalty_alpha: float a in [0, 1]; 0 is greedy.
    """

    num_candidates: int = 4
    penalty_alpha: float | tf.Tensor = 0.6
    tensors: ClassVar[dict] = {"penalty_alpha": tf.float32}

    def check(self, model):
        check_size("num_candidates", self.num_candidates)
        if self.num_candidates > model.vocab_size:
            raise ValueError(f"num_candidates must be at most vocab_size={model.vocab_size}; got {self.num_candidates}")
        alpha = self.penalty_alpha
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise ValueError(f"penalty_alpha must be a number in [0, 1]; got {alpha!r}")
        if not hasattr(model, "read"):
            raise ValueError(f"model must give features, by `read`, for contrastive search; got {type(model).__name__}")

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        def goes_on(loop):
            on = tf.reduce_any(loop["history"]["finish"] == 0)
            return on if deadline is None else on & (tf.timestamp() < deadline)

        def body(loop):
            return (self._advance(model, loop, settings, vocabulary),)

        loop = _begin(model, prompts, settings, capacity)
        if top is not None:
            loop["record"] = start_record(tf.shape(loop["score"])[0], capacity, top)
        (loop,) = tf.while_loop(goes_on, body, (loop,), parallel_iterations=1)
        if deadline is not None:
            loop = loop | {"history": out_of_time(loop["history"])}
        return outcome(loop, capacity) | {"score": loop["score"]}

    def _advance(self, model, loop, settings, vocabulary):
        """Reads every row's candidates and goes on with the best of them."""
        history, num = loop["history"], self.num_candidates
        logits = guided(loop["logits"], loop.get("guide_logits"), settings["guidance_scale"])
        allowed = process(logits, history, settings, vocabulary)
        wrong = tf.reduce_any(tf.math.is_nan(logits), -1)
        stuck = tf.reduce_max(allowed, -1) == -float("inf")
        reason = tf.where(wrong, NAN, tf.where(stuck, NO_TOKEN, 0))
        history = history | {"finish": tf.where(history["finish"] == 0, reason, history["finish"])}
        kept = vocabulary.traced_once(cut_off, allowed, settings)
        candidates = tf.math.top_k(kept, num).indices  # [B, K]
        shares = tf.gather(tf.nn.softmax(kept), candidates, batch_dims=1)

        goes = history["finish"] == 0
        rows = copies(tf.shape(goes)[0], num)
        reads = tf.gather(tf.cast(goes, tf.int32), rows)
        features, state = model.read(tf.reshape(candidates, [-1, 1]), take_state(loop["state"], rows), reads)
        directions = _directions(features)  # [B K, 1, D]
        written = tf.range(tf.shape(loop["read"])[1]) < history["count"][:, None]  # [B, W]
        cosines = tf.einsum("bkd,bwd->bkw", tf.reshape(directions, [-1, num, directions.shape[2]]), loop["read"])
        likeness = tf.reduce_max(tf.where(written[:, None], cosines, -1.0), -1)  # [B, K]
        alpha = self.penalty_alpha
        scores = tf.where(shares > 0, (1 - alpha) * shares - alpha * likeness, -float("inf"))

        best = tf.argmax(scores, -1, tf.int32)
        token = tf.gather(candidates, best, batch_dims=1)
        chosen = tf.range(tf.shape(goes)[0]) * num + best
        after = extend(history, token, goes, settings, vocabulary)
        grew = after["new"] > history["new"]
        loop = loop | {
            "history": after,
            "state": take_state(part_state(state)[0], chosen) | part_state(loop["state"])[1],
            "logits": model.logits(tf.gather(features, chosen))[:, 0],
            "read": _put(loop["read"], history["count"], tf.gather(directions, chosen)[:, 0]),
            "score": loop["score"] + tf.where(grew, tf.reduce_max(scores, -1), 0.0),
        }
        if "record" in loop:
            loop["record"] = add_to_record(loop["record"], logits, token, history["new"], grew)
        if "guide" in loop:
            guide_logits, guide = model.step(token[:, None], loop["guide"], tf.cast(goes, tf.int32))
            loop |= {"guide": guide, "guide_logits": guide_logits[:, 0]}
        return loop


def _begin(model, prompts, settings, capacity):
    """Reads the prompts, and keeps the directions of their features beside their tokens: `"read"` float32 [B, W, D]."""

    def read_all(ids, state, lengths, *, last):
        features, state = model.read(ids, state, lengths)
        return features[:, None], state  # where `read_prompts` expects the logits of one token

    reader = types.SimpleNamespace(max_length=model.max_length, initial_state=model.initial_state, step=read_all)
    reader.encode = getattr(model, "encode", None)  # of a model that reads sources
    features, state, tokens, count = read_prompts(reader, prompts, capacity)
    last = tf.gather(features, tf.maximum(prompts["lengths"] - 1, 0)[:, None], batch_dims=1)
    read = tf.pad(_directions(features), [[0, 0], [0, capacity], [0, 0]])
    prefix = prompts.get("prefix")
    if prefix is not None:  # its state is known, its features are not; a model reads one id at least
        length = tf.shape(prefix)[1]
        ids = tf.ensure_shape(tf.pad(prefix, [[0, 0], [0, 1]]), [1, None])
        before, _ = model.read(ids, model.initial_state(1, length + 1), length[None])
        before = tf.repeat(_directions(before)[:, :length], tf.shape(count)[0], axis=0)
        read = tf.concat([before, read], 1)
    loop = {"state": state, "read": read, "logits": model.logits(last)[:, 0], "score": tf.zeros(tf.shape(count))}
    second = second_prompts(prompts)
    if second:
        loop["guide_logits"], loop["guide"], _, _ = read_prompts(model, second, capacity)
    return loop | {"history": start_history(tokens, count, settings)}


def _directions(features):
    return tf.math.l2_normalize(tf.cast(features, tf.float32), -1)


def _put(values, column, row):
    """Returns values [B, W, D] with `row` [B, D] at each row's `column` int32 [B]; behind the end nothing is written."""
    at = tf.stack([tf.range(tf.shape(column)[0]), column], 1)
    return tf.raw_ops.TensorScatterUpdate(tensor=values, indices=at, updates=row, bad_indices_policy="IGNORE")
