"""What a text is worth to a search, and the beam that is guided by it."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.history import NAN, NO_TOKEN, extend, new_tokens, out_of_time, start_history
from tfllm.generation.loop import copies, read_prompts, reorder_state, take_state
from tfllm.generation.processors import process
from tfllm.generation.sampling import cut_off
from tfllm.generation.settings import take_rows
from tfllm.generation.strategy import Strategy, check_size

VALUE = "log_prob"


@dataclasses.dataclass(frozen=True)
class ValueBeam(Strategy):
    """Keeps the texts of highest value among all continuations of those that it kept before.

    It asks for the value of every candidate, `num_beams * max_children` a token, where tree search asks for that of one text a
    simulation; forward passes of the model are `num_beams` a token, so `num_beams = num_simulations + 1` compares the two. With
    the value "log_prob" it is beam search by mean log-probability.

    Attributes:
        num_beams: int >= 1, texts that are kept of each prompt.
        max_children: int >= 1, likeliest tokens that each may go on with; by what sampling would draw from.
        value: as of `MonteCarloTreeSearch`. A value that is not a number ends the prompt's rows.
        num_sequences: int in [1, `num_beams`], texts that are returned.

    The score of a text is its value.
    """

    num_beams: int = 4
    max_children: int = 16
    value: str | Callable = VALUE
    num_sequences: int = 1
    tensors: ClassVar[dict] = {}

    def check(self, model):
        for name in ("num_beams", "max_children", "num_sequences"):
            check_size(name, getattr(self, name))
        if self.num_sequences > self.num_beams:
            raise ValueError(f"num_sequences must be at most num_beams={self.num_beams}; got {self.num_sequences}")
        check_value(self.value)

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        if "guide_ids" in prompts:
            raise ValueError("negative_prompt must be None in a value beam; got one")

        def goes_on(loop):
            on = tf.reduce_any(loop["history"]["finish"] == 0)
            return on if deadline is None else on & (tf.timestamp() < deadline)

        def body(loop):
            return (self._advance(model, loop, rows_settings, vocabulary),)

        logits, state, tokens, count = read_prompts(model, prompts, capacity)
        rows = copies(tf.shape(count)[0], self.num_beams)
        rows_settings = take_rows(settings, rows)
        loop = {"logits": logits, "state": state, "tokens": tokens, "count": count}
        loop = take_state(loop | {"log_prob": tf.zeros_like(count, tf.float32), "chosen": tf.zeros_like(count)}, rows)
        loop["history"] = start_history(loop.pop("tokens"), loop.pop("count"), rows_settings)
        # One beam stands for the prompt, the others are empty until it has several continuations.
        empty = (tf.range(tf.shape(rows)[0]) % self.num_beams > 0) & (loop["history"]["finish"] == 0)
        loop["history"] |= {"finish": tf.where(empty, NO_TOKEN, loop["history"]["finish"])}
        loop["score"] = tf.where(empty, -math.inf, tf.zeros_like(loop["log_prob"]))
        (loop,) = tf.while_loop(goes_on, body, (loop,), parallel_iterations=1)
        history, num = loop["history"], self.num_sequences
        history = history if deadline is None else out_of_time(history)
        found = {"ids": new_tokens(history, capacity), "count": history["new"], "finish": history["finish"]}
        found |= {"kept": history["kept"], "score": loop["score"]}
        return take_state(
            found, copies(tf.shape(count)[0], num) * self.num_beams + tf.range(tf.shape(count)[0] * num) % num
        )

    def _advance(self, model, loop, settings, vocabulary):
        """Reads the best of all beams' continuations."""
        history, logits, beams = loop["history"], loop["logits"], self.num_beams
        goes = history["finish"] == 0
        allowed = process(logits, history, settings, vocabulary)
        shares, tokens = tf.math.top_k(
            tf.nn.softmax(cut_off(allowed, settings)), min(self.max_children, logits.shape[1])
        )
        num = tokens.shape[1]
        rows = copies(tf.shape(goes)[0], num)
        token = tf.reshape(tokens, [-1])
        text = take_state({name: loop[name] for name in ("history", "log_prob", "chosen")}, rows)
        grows = tf.gather(goes, rows) & (tf.reshape(shares, [-1]) > 0)
        log_probs = tf.gather(tf.nn.log_softmax(logits), tokens, batch_dims=1)
        text = {
            "history": extend(text["history"], token, grows, take_rows(settings, rows), vocabulary),
            "log_prob": text["log_prob"] + tf.where(grows, tf.reshape(log_probs, [-1]), 0.0),
            "chosen": text["chosen"] + tf.cast(grows, tf.int32),
        }
        value = value_of(self.value, text["history"], text["log_prob"], text["chosen"])
        wrong = grows & tf.math.is_nan(value)
        # A text that ended goes on as the one candidate that it is.
        ended = tf.where(tf.range(tf.shape(rows)[0]) % num == 0, tf.gather(loop["score"], rows), -math.inf)
        score = tf.where(grows, tf.where(wrong, -math.inf, value), tf.where(tf.gather(goes, rows), -math.inf, ended))

        score, chosen = tf.math.top_k(tf.reshape(score, [-1, beams * num]), beams)  # [B, M]
        first = tf.range(tf.shape(score)[0])[:, None] * beams
        chosen = tf.reshape(chosen + first * num, [-1])
        score = tf.reshape(score, [-1])
        text = take_state(text, chosen)
        broken = tf.reduce_any(tf.math.is_nan(logits), -1) & goes
        broken |= tf.reduce_any(tf.reshape(wrong, [-1, num]), -1)
        broken = tf.gather(tf.reduce_any(tf.reshape(broken, [-1, beams]), -1), copies(tf.shape(first)[0], beams))
        finish = text["history"]["finish"]
        finish = tf.where((finish == 0) & (score == -math.inf), NO_TOKEN, finish)
        text["history"] |= {"finish": tf.where(broken, NAN, finish)}
        reads = text["history"]["finish"] == 0
        state = reorder_state(loop["state"], chosen // num)
        logits, state = model.step(tf.gather(token, chosen)[:, None], state, tf.cast(reads, tf.int32))
        logits = tf.where(reads[:, None], logits[:, 0], 0.0)
        return text | {"score": score, "logits": logits, "state": state}


def check_value(value):
    """Raises ValueError unless `value` names a value or can be called."""
    if value != VALUE and not callable(value):
        raise ValueError(f"value must be {VALUE!r} or a function of tokens, count and log_prob; got {value!r}")


def value_of(value, history, log_prob, chosen):
    """Asks for the value of texts.

    Args:
        value: "log_prob" or a function; see `MonteCarloTreeSearch`.
        history: dict; see `history.py`.
        log_prob: float32 [R], nats, the sum over the tokens chosen so far, end tokens among them.
        chosen: int32 [R], how many they are.

    Returns:
        float32 [R].
    """
    mean = log_prob / tf.cast(tf.maximum(chosen, 1), tf.float32)
    if value == VALUE:
        return mean
    found = tf.convert_to_tensor(value(history["tokens"], history["count"], mean))
    if found.shape.rank not in (None, 1) or not found.dtype.is_floating:
        raise ValueError(f"value must return float [R], one a text; got {found.dtype.name} {found.shape}")
    return tf.ensure_shape(tf.cast(found, tf.float32), mean.shape)
