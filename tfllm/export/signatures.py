"""The signatures of an export: what each takes, with which defaults, and what it returns. Strings in, strings out."""

import dataclasses
import inspect

import numpy as np
import tensorflow as tf

from tfllm.export.buckets import search_in_buckets
from tfllm.export.requests import (
    Input,
    not_empty,
    number_input,
    optional,
    refusal,
    refuse,
    setting_inputs,
    text_input,
)
from tfllm.generation import Sample
from tfllm.generation.history import FINISH_REASONS, NAN
from tfllm.generation.scoring import embed_ids, next_log_probs, score_ids


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One signature.

    Attributes:
        function: `tf.function` with a default for every input but the texts.
        inputs: dict of name to `Input`.
        outputs: dict of name to str, what it means.
        summary: str.
    """

    function: object
    inputs: dict
    outputs: dict
    summary: str


_FOUND = {
    "text": "string [R], what follows each prompt, R being B times the sequences of a prompt",
    "finish_reason": f"string [R], one of {', '.join(FINISH_REASONS[1:NAN])}",
    "ids": "int32 [R, N], its tokens, 0 behind the end",
    "lengths": "int32 [R], how many they are",
}
_RANKED = {"score": "float32 [R], what the strategy ranks by; the best of a prompt comes first"}
_DETAILS = {
    "score": "float32 [R], the sum of log_probs",
    "log_probs": "float32 [R, N], nats, of each token by the model's own distribution",
    "entropy": "float32 [R, N], nats, of that distribution",
    "top_ids": "int32 [R, N, K], its likeliest tokens",
    "top_log_probs": "float32 [R, N, K], nats",
}


def make_generate(reader, strategy, summary, *, top=None, guided=False):
    """Returns the `Endpoint` that continues prompts by a strategy.

    Args:
        reader: `Reader`.
        strategy: `Strategy`; its fields in `tensors` become inputs, and so does the number of samples.
        summary: str.
        top: int, how many likeliest tokens are returned beside each chosen one; None returns no details.
        guided: bool, whether it takes second prompts, which it leads away from.
    """
    samples = isinstance(strategy, Sample)
    if reader.jit_compile and hasattr(strategy, "fixed_width"):
        strategy = dataclasses.replace(strategy, fixed_width=True)
    inputs = {"prompts": text_input("prompts", _prompts(reader))}
    if guided:
        meaning = "texts that the result is led away from; once or one a prompt"
        inputs["negative_prompts"] = Input(tf.TensorSpec(None, tf.string, "negative_prompts"), None, meaning)
        inputs["guidance_scale"] = number_input("guidance_scale")
    inputs |= setting_inputs()
    limit = reader.model.max_length
    if limit is not None and (guided or not strategy.refills):  # a call that gives prompts alone must have room
        new = inputs["max_new_tokens"]
        new = dataclasses.replace(new, default=tf.constant(max(1, min(int(new.default), limit // 2))))
        inputs["max_new_tokens"] = new
    if samples:
        meaning = "texts drawn for each prompt, at least 1"
        inputs["num_sequences"] = optional("num_sequences", tf.int32, [], 1, meaning)
    for name, dtype in strategy.tensors.items():
        words, _ = _rule_of(strategy, name)
        inputs[name] = optional(name, tf.as_dtype(dtype), [], getattr(strategy, name), words)

    def search(model, request, options, deadline=None):
        prompts, settings, capacity = request["prompts"], request["settings"], request["capacity"]
        chosen = dataclasses.replace(strategy, **options)
        return chosen.search(model, prompts, settings, reader.vocabulary, capacity, top=top, deadline=deadline)

    def call(inputs):
        own = {name: inputs.pop(name) for name in strategy.tensors}
        negative, scale = inputs.pop("negative_prompts", None), inputs.pop("guidance_scale", None)
        num = inputs.pop("num_sequences", tf.constant(strategy.num_sequences))
        rules = [refusal(name, value, *_rule_of(strategy, name)) for name, value in own.items()]
        with tf.control_dependencies([refuse(rules)] if rules else []):
            room = tf.constant(guided or not strategy.refills)
            request = reader.read(inputs, num, room)
        if guided:
            request = reader.guided(request, negative, scale)
        options = own | ({"num_sequences": num} if samples else {})
        if reader.jit_compile:
            found = search_in_buckets(search, reader, request, options, always_fits=guided or not strategy.refills)
        else:
            found = search(reader.model, request, options, request["deadline"])
        wrong = refusal("model", found["finish"], "give logits that are numbers", lambda finish: finish != NAN, "NaN")
        with tf.control_dependencies([refuse([wrong])]):
            ids, lengths = tf.identity(found["ids"]), tf.identity(found["count"])
        results = {
            "text": reader.texts(ids, lengths, found["kept"]),
            "finish_reason": tf.gather(tf.constant(FINISH_REASONS), found["finish"]),
            "ids": ids,
            "lengths": lengths,
        }
        return results | {name: found[name] for name in outputs if name in found and name not in results}

    outputs = _FOUND | ({} if strategy.refills else _RANKED) | (_DETAILS if top is not None else {})
    if not top:
        outputs = {name: words for name, words in outputs.items() if not name.startswith("top_")}
    return make_endpoint(call, inputs, outputs, summary)


def make_score(reader):
    """Returns the `Endpoint` of the chain rule: how likely each token of a text is."""

    def call(inputs):
        texts, contexts = inputs["texts"], inputs["contexts"]
        given = (tf.size(contexts) > 0) | reads_sources
        fits = ~given | (tf.size(contexts) == tf.size(texts))
        rule = "contexts must be as many as texts, {}; got {}"
        rules = [(fits, lambda: tf.strings.format(rule, (tf.size(texts), tf.size(contexts))))]
        rules += [not_empty("texts", texts), not_empty("contexts", contexts)]
        num = tf.size(texts)
        if reads_sources:
            with tf.control_dependencies([refuse(rules)]):
                prompts = reader.prompts("contexts", contexts, real=True)
                second = reader.encode(tf.identity(texts))
            first, source = tf.RaggedTensor.from_tensor(prompts["ids"]), (prompts["source"], prompts["source_lengths"])
        else:
            with tf.control_dependencies([refuse(rules)]):
                rows = reader.encode(tf.concat([texts, contexts], 0))
            first, second, source = rows[num:], rows[:num], ()  # a context stands before its text
            none = tf.RaggedTensor.from_row_splits(tf.zeros([0], tf.int32), tf.zeros([num + 1], tf.int64))
            first = tf.cond(given, lambda: first, lambda: none)
        whole = tf.concat([first, second], 1)
        ids, lengths = reader.laid_out("texts and contexts", whole)
        before = tf.where(given, tf.cast(first.row_lengths(), tf.int32), 1)
        log_probs = score_ids(reader.model, ids, lengths, *source)
        at = tf.range(1, tf.shape(ids)[1])
        scored = (at >= before[:, None]) & (at < lengths[:, None])
        count = tf.reduce_sum(tf.cast(scored, tf.int32), -1)
        total = tf.reduce_sum(tf.where(scored, log_probs, 0.0), -1)
        mean = total / tf.cast(tf.maximum(count, 1), tf.float32)
        return {
            "log_probs": tf.ragged.boolean_mask(log_probs, scored).to_tensor(),
            "ids": tf.ragged.boolean_mask(ids[:, 1:], scored).to_tensor(),
            "lengths": count,
            "total": total,
            "perplexity": tf.exp(-mean),
        }

    reads_sources = reader.encode_source is not None
    meaning = "what stands before each text and is not scored, as many as texts; none: the first token is not scored"
    inputs = {"texts": text_input("texts", "texts to score, none of them empty")}
    inputs["contexts"] = optional("contexts", tf.string, [None], [], meaning)
    if reads_sources:
        inputs["contexts"] = text_input("contexts", "the sources of the texts, as many")
    outputs = {
        "log_probs": "float32 [B, T], nats, of each scored token by those before it, 0 behind the end",
        "ids": "int32 [B, T], the scored tokens",
        "lengths": "int32 [B], how many they are",
        "total": "float32 [B], nats, the log-probability of the text",
        "perplexity": "float32 [B], exp of minus the mean",
    }
    return make_endpoint(call, inputs, outputs, "how likely texts are, token by token")


def make_next_token(reader):
    """Returns the `Endpoint` of the next token: the likeliest ones and the whole distribution."""
    size, tokens = reader.model.vocab_size, reader.tokenizer.tokens
    pieces = [piece.decode(errors="replace") for piece in reader.tokenizer.token_bytes()]
    names = tf.constant([piece or token for piece, token in zip(pieces, tokens, strict=True)])

    def call(inputs):
        top = inputs["top"]
        rule = refusal("top", top, f"be an int in [1, {size}]", lambda x: (x >= 1) & (x <= size))
        with tf.control_dependencies([refuse([rule])]):
            prompts = reader.prompts("prompts", inputs["prompts"], real=True)
        shares = tf.exp(next_log_probs(reader.model, **prompts))
        probability, index = tf.math.top_k(shares[:, : len(tokens)], tf.minimum(top, len(tokens)))
        return {"token": tf.gather(names, index), "probability": probability, "id": index, "distribution": shares}

    inputs = {"prompts": text_input("prompts", _prompts(reader))}
    inputs["top"] = optional("top", tf.int32, [], 10, "how many of the likeliest tokens, at least 1")
    outputs = {
        "token": "string [B, K], the likeliest next tokens",
        "probability": "float32 [B, K]",
        "id": "int32 [B, K]",
        "distribution": "float32 [B, V], the probability of every id",
    }
    return make_endpoint(call, inputs, outputs, "what may follow: argmax P(w | prompt) and the distribution")


def make_embed(reader):
    """Returns the `Endpoint` of a text's features, averaged over its tokens."""

    def call(inputs):
        source = reader.encode_source is not None
        return {"embedding": embed_ids(reader.model, *reader.encoded("texts", inputs["texts"], source=source))}

    inputs = {"texts": text_input("texts", "texts, none of them empty")}
    return make_endpoint(call, inputs, {"embedding": "float32 [B, D]"}, "the mean of the model's last features")


def make_encode(reader):
    """Returns the `Endpoint` of the tokenizer's `encode`."""

    def call(inputs):
        rows = reader.encode(inputs["texts"])
        return {"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}

    outputs = {"ids": "int32 [B, T], 0 behind the end", "lengths": "int32 [B]"}
    return make_endpoint(call, {"texts": text_input("texts", "texts")}, outputs, "texts to ids")


def make_decode(reader):
    """Returns the `Endpoint` of the tokenizer's `decode`."""
    size = reader.tokenizer.vocab_size

    def call(inputs):
        ids, lengths = inputs["ids"], inputs["lengths"]
        batch, time = tf.shape(ids)[0], tf.shape(ids)[1]
        given = tf.size(lengths) > 0
        fits = ~given | (tf.size(lengths) == batch)
        rule = "lengths must be one for each of {} rows; got {}"
        rules = [(fits, lambda: tf.strings.format(rule, (batch, tf.size(lengths))))]
        rules.append(refusal("lengths", lengths, "lie in [0, T]", lambda x: (x >= 0) & (x <= time)))
        rules.append(refusal("ids", ids, f"lie in [0, {size})", lambda x: (x >= 0) & (x < size)))
        with tf.control_dependencies([refuse(rules)]):
            lengths = tf.cond(given, lambda: lengths, lambda: tf.fill([batch], time))
        return {"text": reader.texts(ids, lengths, tf.fill([batch], -1))}

    inputs = {"ids": Input(tf.TensorSpec([None, None], tf.int32, "ids"), None, f"in [0, {size})")}
    inputs["lengths"] = optional("lengths", tf.int32, [None], [], "how many ids of each row count; none: all")
    return make_endpoint(call, inputs, {"text": "string [B], without special tokens"}, "ids to texts")


def _prompts(reader):
    what = "texts to continue" if reader.encode_source is None else "sources, which the texts answer"
    return f"{what}, none of them empty"


def make_endpoint(call, inputs, outputs, summary):
    """Makes the `tf.function` of (dict of tensors) -> dict of tensors, whose arguments are the inputs by name."""
    names = list(inputs)

    def function(*values):
        return call(dict(zip(names, values, strict=True)))

    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    parameters = [
        inspect.Parameter(name, kind, default=empty if one.default is None else one.default)
        for name, one in inputs.items()
    ]
    function.__signature__ = inspect.Signature(parameters)  # SavedModels take names and defaults from here
    compiled = tf.function(function, input_signature=[one.spec for one in inputs.values()], autograph=False)
    return Endpoint(compiled, inputs, outputs, summary)


def _rule_of(strategy, name):
    """Returns (rule in words, rule) of a field that a call may change."""
    rules = {
        "length_penalty": ("lie in [-5, 5]", lambda x: abs(x) <= 5),
        "diversity_penalty": ("be finite and at least 0", lambda x: (x >= 0) & (x < np.inf)),
        "penalty_alpha": ("lie in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
    }
    if name == "diversity_penalty" and strategy.num_groups == 1:
        return "be 0 for one group", lambda x: x == 0
    return rules.get(name, ("be finite and at least 0", lambda x: (x >= 0) & (x < np.inf)))
