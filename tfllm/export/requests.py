"""A request in the graph: what `TextGenerator` checks and lays out in Python, on TensorFlow ops alone.

Everything that requests share (the tokenizer's tables, the checks, the layout of settings) is one function each, which all
signatures call, so that a SavedModel holds it once. A broken rule ends a call with the sentence that Python gives, as
`InvalidArgumentError`, before anything is allocated.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfllm.generation import Vocabulary
from tfllm.generation.settings import NUMBERS

MOST_TOKENS = 1_000_000  # that one prompt may ask for, in all its sequences


@dataclasses.dataclass(frozen=True)
class Input:
    """What a signature takes.

    Attributes:
        spec: `tf.TensorSpec`; a shape of None takes one value or one for each prompt.
        default: tensor, or None where a call must give it.
        meaning: str, for the model card.
    """

    spec: tf.TensorSpec
    default: tf.Tensor | None
    meaning: str


def text_input(name, meaning):
    """Returns the `Input` of string [B] that a call must give."""
    return Input(tf.TensorSpec([None], tf.string, name), None, meaning)


def optional(name, dtype, shape, value, meaning):
    """Returns an `Input` with a default; `value` [] means none of a list."""
    default = tf.zeros([0] * len(shape), dtype) if value == [] else tf.constant(value, dtype)
    return Input(tf.TensorSpec(shape, dtype, name), default, meaning)


def setting_inputs():
    """Returns dict of name to `Input` of everything that a request may set, with the defaults of `make_settings`."""
    numbers = {
        name: optional(name, tf.as_dtype(dtype), None, default, f"{words}; once or one a prompt")
        for name, (dtype, default, words, _) in NUMBERS.items()
        if name != "guidance_scale"
    }
    others = [
        ("max_time", tf.float32, [], np.inf, "seconds after which all rows end, above 0"),
        ("truncate_prompts", tf.bool, [], False, "prompts that are too long lose their beginning"),
        ("stop", tf.string, [None], [], "texts that end a row; the text ends before them"),
        ("stop_ids", tf.int32, [None], [], "tokens that end a row"),
        ("banned_words", tf.string, [None], [], "no text goes on into one of them"),
        ("banned_ids", tf.int32, [None], [], "tokens that are never chosen"),
        ("bias_ids", tf.int32, [None], [], "tokens whose logits are changed"),
        ("bias_values", tf.float32, [None], [], "by so much, one a token of bias_ids, below infinity"),
        ("forced_prefix", tf.string, None, "", "what the text begins with; once or one a prompt"),
        ("automaton", tf.int32, [None, None], [], "`next_state` of a TokenAutomaton, whose texts alone are written"),
    ]
    return numbers | {name: optional(name, *rest) for name, *rest in others}


class Reader:
    """What the signatures of one export share: functions of tensors, each stored once.

    Args:
        generator: a `TextGenerator`.

    Attributes:
        encode: function of string [N] to a ragged int32 [N, (T)].
        texts: function of ids int32 [R, N], count int32 [R] and kept int32 [R] to string [R].
        read: function of (dict of `prompts` and the inputs of `setting_inputs`, num_sequences int32, room bool) to a dict of
            the prompts, the settings of `make_settings`, the capacity and the deadline; with `room` all new tokens must fit
            into the model. `guidance_scale` is 1 in it.
        encoded: function of string [B], room int32 and truncates bool to (ids int32 [B, P], lengths int32 [B]).
        vocabulary: `Vocabulary`.
    """

    def __init__(self, generator):
        self.model, self.tokenizer, self.vocabulary = (
            generator.model,
            generator.tokenizer,
            Vocabulary.of(generator.tokenizer),
        )
        rows, whole, flag = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.bool)
        texts = tf.TensorSpec([None], tf.string)

        def shared(function, *signature):
            return tf.function(function, input_signature=signature, autograph=False)

        self.encode = shared(lambda texts: generator.tokenizer.encode(texts), texts)
        self.texts = shared(lambda *found: generator.texts(*found), tf.TensorSpec([None, None], tf.int32), rows, rows)
        specs = {"prompts": texts} | {name: one.spec for name, one in setting_inputs().items()}
        self.read = shared(self._read, specs, whole, flag)

    def encoded(self, name, texts, room=0, truncates=None):
        """Returns (ids int32 [B, P], lengths int32 [B]) of texts string [B], P at least 1.

        Args:
            name: str, how the sentences of refusals call them.
            texts: string [B].
            room: int or int32, tokens that must fit behind them.
            truncates: bool scalar, whether texts that are too long lose their beginning; None for never.
        """
        with tf.control_dependencies([refuse([not_empty(name, texts)])]):
            rows = self.encode(tf.identity(texts))
        return self.laid_out(name, rows, room, truncates)

    def laid_out(self, name, rows, room=0, truncates=None):
        """Does what `encoded` does, of a ragged int32 [B, (T)]."""
        lengths, limit = tf.cast(rows.row_lengths(), tf.int32), self.model.max_length
        starts = tf.cast(rows.row_starts(), tf.int32)
        if limit is not None:
            room = tf.convert_to_tensor(room)
            longest = tf.reduce_max(tf.concat([lengths, [0]], 0))
            if truncates is not None:
                kept = tf.where(truncates & (room < limit), limit - room, tf.int32.max)
                starts += tf.maximum(lengths - kept, 0)
                lengths = tf.minimum(lengths, kept)
            fits = tf.reduce_all(lengths <= limit - room)
            less = tf.where(room > 0, tf.strings.format(" less {} for what else must fit", room), "")
            rule = f"{name} must have at most the model's max_length={limit} tokens"
            sentence = lambda: tf.strings.join([rule, less, "; got ", tf.strings.as_string(longest)])  # noqa: E731
            with tf.control_dependencies([refuse([(fits, sentence)])]):
                lengths = tf.identity(lengths)
        width = tf.reduce_max(tf.concat([lengths, [1]], 0))
        real = tf.sequence_mask(lengths, width)
        at = tf.where(real, starts[:, None] + tf.range(width), 0)
        ids = tf.gather(tf.pad(rows.flat_values, [[0, 1]]), at)
        return tf.where(real, ids, 0), lengths

    def _read(self, inputs, num_sequences, room):
        prompts, size = inputs["prompts"], self.model.vocab_size
        batch = tf.shape(prompts)[0]
        with tf.control_dependencies([refuse(_rules(inputs, batch, num_sequences, size))]):
            values = {name: tf.identity(value) for name, value in inputs.items()}
        words, forced = values["banned_words"], tf.reshape(values["forced_prefix"], [-1])
        # One call for all texts: a call costs more than the texts.
        rows = self.encode(tf.concat([values["prompts"], forced, words, tf.strings.join([" ", words])], 0))
        known = batch + tf.size(forced)
        settings = _layout(values, batch, size)
        settings["banned"] = _each(_distinct(rows[known:], tf.size(words)), batch)
        settings["forced"] = tf.broadcast_to(rows[batch:known].to_tensor(-1), [batch, _width(rows[batch:known])])
        capacity = tf.reduce_max(tf.concat([settings["max_new_tokens"], [1]], 0))
        ids, lengths = self.laid_out("prompts", rows[:batch], tf.where(room, capacity, 0), values["truncate_prompts"])
        return {
            "prompts": {"ids": ids, "lengths": lengths},
            "settings": settings,
            "capacity": capacity,
            "deadline": tf.timestamp() + tf.cast(values["max_time"], tf.float64),
        }


def refuse(rules):
    """Ends the call with the sentence of the first rule that is broken.

    Args:
        rules: list of (bool scalar, whether the rule holds; function without arguments that returns the sentence, string
            scalar, which may be asked where the rule holds, too).

    Returns:
        an operation, for `tf.control_dependencies`.
    """
    hold = tf.stack([holds for holds, _ in rules])

    def fail():
        sentences = tf.stack([sentence() for _, sentence in rules])
        first = tf.argmin(tf.cast(hold, tf.int32))
        with tf.control_dependencies([tf.debugging.Assert(False, [sentences[first]])]):
            return tf.constant(True)

    return tf.cond(tf.reduce_all(hold), lambda: tf.constant(True), fail)  # one question where all is well


def not_empty(name, texts):
    """Returns the rule that no string is empty."""
    rule = f"{name} must be strings that are not empty; got ''"
    return tf.reduce_all(tf.strings.length(texts) > 0), lambda: tf.constant(rule)


def holds_everywhere(name, values, words, holds):
    """Returns the rule that `holds` (bool, of the shape of `values`) everywhere; `words` say what it is."""

    def sentence():
        shown = tf.boolean_mask(tf.reshape(values, [-1]), ~tf.reshape(holds, [-1]))[:1]
        shown = tf.strings.as_string(shown, shortest=True) if values.dtype.is_floating else tf.strings.as_string(shown)
        return tf.strings.join([f"{name} must {words}; got ", tf.strings.reduce_join(shown)])

    return tf.reduce_all(holds), sentence


def _rules(inputs, batch, num_sequences, vocab_size):
    """Returns the rules of a request, for `refuse`."""
    rules = []
    for name in (*(name for name in NUMBERS if name in inputs), "forced_prefix"):
        value = inputs[name]
        given = tf.size(value)
        fits = (tf.rank(value) <= 1) & ((given == 1) | (given == batch))

        def sentence(name=name, given=given):
            words = f"{name} must be one value or one for each of {{}} prompts; got {{}}"
            return tf.strings.format(words, (batch, given))

        rules.append((fits, sentence))
        if name in NUMBERS:
            *_, words, rule = NUMBERS[name]
            rules.append(holds_everywhere(name, value, f"be {words}", rule(value)))
    new = tf.cast(inputs["max_new_tokens"], tf.int64) * tf.cast(num_sequences, tf.int64)
    words = f"be at most {MOST_TOKENS} in all sequences of a prompt"
    rules.append(holds_everywhere("num_sequences", num_sequences, "be at least 1", num_sequences >= 1))
    rules.append(holds_everywhere("max_new_tokens", new, words, new <= MOST_TOKENS))
    rules.append(holds_everywhere("max_time", inputs["max_time"], "be above 0 seconds", inputs["max_time"] > 0))
    for name in ("stop_ids", "banned_ids", "bias_ids"):
        ids = inputs[name]
        rules.append(holds_everywhere(name, ids, f"hold ids in [0, {vocab_size})", (ids >= 0) & (ids < vocab_size)))
    values, table = inputs["bias_values"], inputs["automaton"]
    rules.append(holds_everywhere("bias_values", values, "be numbers below infinity", values < np.inf))
    many = tf.size(inputs["bias_ids"])
    words = "bias_values must be as many as bias_ids, {}; got {}"
    rules.append((tf.size(values) == many, lambda: tf.strings.format(words, (many, tf.size(values)))))
    columns = tf.shape(table)[1]
    rules.append(
        holds_everywhere("automaton", columns, f"have at most {vocab_size} tokens a state", columns <= vocab_size)
    )
    states = tf.shape(table)[0]
    rules.append(holds_everywhere("automaton", table, "lead to its own states", table < states))
    return rules + [not_empty(name, inputs[name]) for name in ("prompts", "stop", "banned_words")]


def _layout(values, batch, vocab_size):
    """Returns the settings of `make_settings` but for the words, which a tokenizer reads."""
    settings = {name: tf.broadcast_to(tf.reshape(values[name], [-1]), [batch]) for name in NUMBERS if name in values}
    settings["guidance_scale"] = tf.ones([batch])
    settings["seed"] += tf.where(tf.rank(values["seed"]) == 0, tf.range(batch), 0)
    banned, table = values["banned_ids"], values["automaton"]
    never = tf.fill(tf.shape(banned), -np.inf)
    settings["bias_ids"] = _each(tf.concat([values["bias_ids"], banned], 0), batch)
    settings["bias_values"] = _each(tf.concat([values["bias_values"], tf.cast(never, tf.float32)], 0), batch)
    settings["stop_ids"] = _each(values["stop_ids"], batch)
    settings["stop"] = _each(_bytes_of(values["stop"]), batch)
    settings["start"] = tf.fill([batch], tf.where(tf.size(table) > 0, 0, -1))
    table = tf.pad(table, [[0, 0], [0, vocab_size - tf.shape(table)[1]]], constant_values=-1)
    settings["next_state"] = tf.ensure_shape(table, [None, vocab_size])
    return settings


def _each(values, batch):
    """Returns values [...] for each of a batch: [B, ...]."""
    return tf.broadcast_to(values, tf.concat([[batch], tf.shape(values)], 0))


def _bytes_of(texts):
    """Returns int32 [K, S], the bytes of strings, padded in front with -1."""
    sizes = tf.strings.length(texts)
    longest = tf.reduce_max(tf.concat([sizes, [0]], 0))
    table = tf.cast(tf.io.decode_raw(texts, tf.uint8, fixed_length=tf.maximum(longest, 1)), tf.int32)
    at = tf.range(longest) - longest + sizes[:, None]
    return tf.where(at >= 0, tf.gather(table, tf.maximum(at, 0), batch_dims=1), -1)


def _distinct(rows, num_words):
    """Returns int32 [M, L], padded in front with -1: the ways to write words, those of a word beside each other, each once.

    Args:
        rows: ragged int32 [2 K, (T)], first each word alone, then each behind a blank.
        num_words: int32, K.
    """
    order = tf.reshape(tf.stack([tf.range(num_words), num_words + tf.range(num_words)], 1), [-1])
    rows = tf.gather(rows, order)
    kinds = tf.unique(tf.strings.reduce_join(tf.strings.as_string(rows), axis=-1, separator=" "))
    first = tf.math.unsorted_segment_min(tf.range(tf.size(kinds.idx)), kinds.idx, tf.size(kinds.y))
    rows = tf.gather(rows, first)
    rows = tf.ragged.boolean_mask(rows, rows.row_lengths() > 0)
    sizes = tf.cast(rows.row_lengths(), tf.int32)
    width = _width(rows)
    at = tf.range(width) - width + sizes[:, None]
    table = rows.to_tensor()
    return tf.where(at >= 0, tf.gather(table, tf.maximum(at, 0), batch_dims=1), -1)


def _width(rows):
    return tf.cast(tf.reduce_max(tf.concat([rows.row_lengths(), [0]], 0)), tf.int32)
