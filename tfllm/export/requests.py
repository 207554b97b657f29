"""A request in the graph: what `TextGenerator` checks and lays out in Python, on TensorFlow ops alone.

Everything that requests share (the tokenizer's tables, the checks, the layout of settings) is one function each, which all
signatures call, so that a SavedModel holds it once. A broken rule ends a call with the sentence that Python gives, as
`InvalidArgumentError`, before anything is allocated.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tfllm.generation.generator import Within
from tfllm.generation.settings import MOST_SEQUENCES, MOST_TOKENS, NUMBERS

_SEQUENCES = f"lie in [1, {MOST_SEQUENCES}]"


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


def number_input(name):
    """Returns the `Input` of a number of `make_settings`."""
    dtype, default, words, _ = NUMBERS[name]
    return optional(name, tf.as_dtype(dtype), None, default, f"{words}; once or one a prompt")


def setting_inputs():
    """Returns dict of name to `Input` of everything that a request may set, with the defaults of `make_settings`."""
    numbers = {name: number_input(name) for name in NUMBERS if name != "guidance_scale"}
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


class SharedModel:
    """A model that reads by functions of their own, for one token and for several, so that graphs share them.

    Args:
        model: a `LanguageModel`.
    """

    def __init__(self, model):
        self._model, self._graphs = model, {}
        if hasattr(model, "encode"):
            specs = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
            self.encode = tf.function(lambda *source: model.encode(*source), input_signature=specs, autograph=False)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def step(self, ids, state, lengths=None, *, last=False):
        features, state = self.read(ids, state, lengths, last=last)
        return self._model.logits(features), state

    def read(self, ids, state, lengths=None, *, last=False):
        inputs = (ids, state, tf.fill(tf.shape(ids)[:1], tf.shape(ids)[1]) if lengths is None else lengths)
        rows, time = 1 if ids.shape[0] == 1 else None, ids.shape[1]  # one row has a faster product
        specs = tf.nest.map_structure(lambda x: tf.TensorSpec([rows, *x.shape[1:]], x.dtype), inputs)
        specs = (tf.TensorSpec([rows, time], ids.dtype), *specs[1:])
        key = last, repr(specs)
        if key not in self._graphs:
            with tf.init_scope():
                function = functools.partial(self._model.read, last=last)
                self._graphs[key] = tf.function(function, input_signature=specs, autograph=False)
        return self._graphs[key](*inputs)


class Reader:
    """What the signatures of one export share: functions of tensors, each stored once.

    Args:
        generator: a `TextGenerator`.
        jit_compile: bool, whether XLA compiles the searches.

    Attributes:
        encode: function of string [N] to a ragged int32 [N, (T)].
        encode_source: the same for the sources of a model with an encoder; None for other models.
        texts: function of ids int32 [R, N], count int32 [R] and kept int32 [R] to string [R].
        read: function of (dict of `prompts` and the inputs of `setting_inputs`, num_sequences int32, room bool) to a dict of
            the prompts, the settings of `make_settings`, the capacity and the deadline; with `room` all new tokens must fit
            into the model. `guidance_scale` is 1 in it.
        model: the model, whose steps are traced once.
        within: the same for texts that all fit into the model.
        vocabulary: `Vocabulary`.
    """

    def __init__(self, generator, jit_compile=False):
        self.model, self.tokenizer = SharedModel(generator.model), generator.tokenizer
        self.within = Within(self.model)
        self.vocabulary = dataclasses.replace(generator.vocabulary)  # a copy has graphs of its own
        self.jit_compile = jit_compile
        rows, whole, flag = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.bool)
        texts = tf.TensorSpec([None], tf.string)

        def shared(function, *signature):
            return tf.function(function, input_signature=signature, autograph=False)

        self.encode = shared(lambda texts: generator.tokenizer.encode(texts), texts)
        self.encode_source, self._begin_id = None, generator.begin_id
        if generator.reads_sources:
            same = generator.source_tokenizer is generator.tokenizer
            self.encode_source = self.encode
            if not same:
                self.encode_source = shared(lambda texts: generator.source_tokenizer.encode(texts), texts)
        self.texts = shared(lambda *found: generator.texts(*found), tf.TensorSpec([None, None], tf.int32), rows, rows)
        specs = {"prompts": texts} | {name: one.spec for name, one in setting_inputs().items()}
        self.read = shared(self._read, specs, whole, flag)

    def prompts(self, name, texts, room=0, *, real=False):
        """Returns the dict of prompts (`generation/loop.py`) that texts string [B] are; for the rest see `encoded`."""
        if self.encode_source is None:
            ids, lengths = self.encoded(name, texts, room, real=real)
            return {"ids": ids, "lengths": lengths}
        return self._begun(*self.encoded(name, texts, real=real, source=True), room)

    def _begun(self, source, source_lengths, room):
        """Returns the prompts of texts that answer sources: each begins with one token."""
        begin = tf.fill([tf.shape(source)[0], 1], self._begin_id)
        rows = tf.RaggedTensor.from_tensor(begin, tf.minimum(source_lengths, 1))  # one without a token has no answer
        ids, lengths = self.laid_out("the beginnings of texts", rows, room)
        return {"ids": ids, "lengths": lengths, "source": source, "source_lengths": source_lengths}

    def encoded(self, name, texts, room=0, *, real=False, source=False):
        """Returns (ids int32 [B, P], lengths int32 [B]) of texts string [B], P at least 1.

        Args:
            name: str, how the sentences of refusals call them.
            texts: string [B].
            room: int or int32, tokens that must fit behind them.
            real: bool, whether each text must have a token.
            source: bool, whether they are sources.
        """
        with tf.control_dependencies([refuse([not_empty(name, texts)])]):
            rows = (self.encode_source if source else self.encode)(tf.identity(texts))
        if real:
            sizes = rows.row_lengths()

            def sentence():
                without = tf.boolean_mask(texts, sizes == 0)[:1]
                return tf.strings.join(
                    [f"{name} must have a token each; got '", tf.strings.reduce_join(without), "', which has none"]
                )

            with tf.control_dependencies([refuse([(tf.reduce_all(sizes > 0), sentence)])]):
                rows = rows.with_flat_values(tf.identity(rows.flat_values))
        return self.laid_out(name, rows, room, source=source)

    def laid_out(self, name, rows, room=0, truncates=None, source=False):
        """Does what `encoded` does, of a ragged int32 [B, (T)]; where `truncates` (bool scalar) says so, rows that are too long
        lose their beginning, or their end if they are sources."""
        limit = self.model.max_source_length if source else self.model.max_length
        lengths, starts = tf.cast(rows.row_lengths(), tf.int32), tf.cast(rows.row_starts(), tf.int32)
        if limit is not None:
            room = tf.convert_to_tensor(room)
            longest = tf.reduce_max(tf.concat([lengths, [0]], 0))
            if truncates is not None:
                kept = tf.where(truncates & (room < limit), limit - room, tf.int32.max)
                starts += 0 if source else tf.maximum(lengths - kept, 0)
                lengths = tf.minimum(lengths, kept)
            fits = tf.reduce_all(lengths <= limit - room)
            less = tf.where(room > 0, tf.strings.format(" less {} for what else must fit", room), "")
            rule = f"{name} must have at most the max_{'source_' if source else ''}length={limit} tokens of the model"
            sentence = functools.partial(tf.strings.join, [rule, less, "; got ", tf.strings.as_string(longest)])
            with tf.control_dependencies([refuse([(fits, sentence)])]):
                lengths = tf.identity(lengths)
        width = tf.reduce_max(tf.concat([lengths, [1]], 0))
        real = tf.sequence_mask(lengths, width)
        at = tf.where(real, starts[:, None] + tf.range(width), 0)
        ids = tf.gather(tf.pad(rows.flat_values, [[0, 1]]), at)
        return tf.where(real, ids, 0), lengths

    def guided(self, request, texts, scale):
        """Returns a request of `read` with second prompts, which the scale leads away from; each once or one a prompt."""
        batch = tf.shape(request["prompts"]["ids"])[0]
        *_, words, rule = NUMBERS["guidance_scale"]
        rules = [one_or_each("negative_prompts", texts, batch), one_or_each("guidance_scale", scale, batch)]
        with tf.control_dependencies([refuse([*rules, refusal("guidance_scale", scale, f"be {words}", rule)])]):
            texts = tf.broadcast_to(tf.reshape(texts, [-1]), [batch])
            scale = tf.broadcast_to(tf.reshape(scale, [-1]), [batch])
        second = self.prompts("negative_prompts", texts, request["capacity"], real=True)
        prompts = request["prompts"] | {f"guide_{name}": x for name, x in second.items()}
        return request | {"prompts": prompts, "settings": request["settings"] | {"guidance_scale": scale}}

    def _read(self, inputs, num_sequences, room):
        prompts, size = inputs["prompts"], self.model.vocab_size
        batch = tf.shape(prompts)[0]
        with tf.control_dependencies([refuse(_rules(inputs, batch, num_sequences, size))]):
            values = {name: tf.identity(value) for name, value in inputs.items()}
        words, forced = values["banned_words"], tf.reshape(values["forced_prefix"], [-1])
        # One call for all texts: a call costs more than the texts.
        one, texts = self.encode_source in (None, self.encode), [forced, words, tf.strings.join([" ", words])]
        rows = self.encode(tf.concat([values["prompts"], *texts] if one else texts, 0))
        known, rows = (rows[:batch], rows[batch:]) if one else (self.encode_source(values["prompts"]), rows)
        forced, words = rows[: tf.size(forced)], rows[tf.size(forced) :]
        settings = _layout(values, batch, size)
        settings["banned"] = _each(_distinct(words, tf.size(values["banned_words"])), batch)
        settings["forced"] = tf.broadcast_to(forced.to_tensor(-1), [batch, _width(forced)])
        capacity = tf.reduce_max(tf.concat([settings["max_new_tokens"], [1]], 0))
        room, truncates = tf.where(room, capacity, 0), values["truncate_prompts"]
        if self.encode_source is None:
            prompts = dict(zip(("ids", "lengths"), self.laid_out("prompts", known, room, truncates), strict=True))
        else:
            prompts = self._begun(*self.laid_out("prompts", known, 0, truncates, source=True), room)
        return {
            "prompts": prompts,
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
    rule = f"{name} must be strings that are not empty; got an empty one"
    return tf.reduce_all(tf.strings.length(texts) > 0), lambda: tf.constant(rule)


def refusal(name, values, words, rule, shown=None):
    """Returns, for `refuse`, the rule that must hold for all of `values`.

    Args:
        name: str, what is ruled.
        values: tensor.
        words: str, what it must do.
        rule: function of a tensor to a bool tensor.
        shown: str, what the sentence says was received; None for the first value that breaks the rule.
    """
    holds = rule(values)

    def sentence():
        wrong = tf.boolean_mask(tf.reshape(values, [-1]), ~tf.reshape(holds, [-1]))[:1]
        wrong = tf.strings.as_string(wrong, shortest=True) if values.dtype.is_floating else tf.strings.as_string(wrong)
        return tf.strings.join(
            [f"{name} must {words}; got ", tf.strings.reduce_join(wrong) if shown is None else shown]
        )

    return tf.reduce_all(holds), sentence


def one_or_each(name, values, batch):
    """Returns, for `refuse`, the rule that there is one value for all prompts or one for each."""
    given = tf.size(values)
    words = f"{name} must be one value or one for each of {{}} prompts; got {{}}"
    fits = (tf.rank(values) <= 1) & ((given == 1) | (given == batch))
    return fits, lambda: tf.strings.format(words, (batch, given))


def _rules(inputs, batch, num_sequences, vocab_size):
    """Returns the rules of a request, for `refuse`."""
    rules = [one_or_each("forced_prefix", inputs["forced_prefix"], batch)]
    for name in (name for name in NUMBERS if name in inputs):
        *_, words, rule = NUMBERS[name]
        rules += [one_or_each(name, inputs[name], batch), refusal(name, inputs[name], f"be {words}", rule)]
    table, many = inputs["automaton"], tf.size(inputs["bias_ids"])
    states, columns = tf.shape(table)[0], tf.shape(table)[1]
    new = tf.cast(inputs["max_new_tokens"], tf.int64) * tf.cast(num_sequences, tf.int64)
    most = f"be at most {MOST_TOKENS} in all sequences of a prompt"
    rules += [
        refusal("num_sequences", num_sequences, _SEQUENCES, lambda x: (x >= 1) & (x <= MOST_SEQUENCES)),
        refusal("max_new_tokens", new, most, lambda x: x <= MOST_TOKENS),
        refusal("max_time", inputs["max_time"], "be above 0 seconds", lambda x: x > 0),
        refusal("bias_values", inputs["bias_values"], "be numbers below infinity", lambda x: x < np.inf),
        refusal("bias_values", tf.size(inputs["bias_values"]), "be as many as bias_ids", lambda x: x == many),
        refusal("automaton", columns, f"have at most {vocab_size} tokens a state", lambda x: x <= vocab_size),
        refusal("automaton", table, "lead to its own states", lambda x: x < states),
    ]
    for name in ("stop_ids", "banned_ids", "bias_ids"):
        words = f"hold ids in [0, {vocab_size})"
        rules.append(refusal(name, inputs[name], words, lambda x: (x >= 0) & (x < vocab_size)))
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
