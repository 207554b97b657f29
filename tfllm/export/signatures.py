"""The signatures of an export: what each takes, with which defaults, and what it returns. Strings in, strings out."""

import dataclasses
import inspect

import tensorflow as tf

from tfllm.export.requests import (
    holds_everywhere,
    optional,
    refuse,
    setting_inputs,
    text_input,
)
from tfllm.generation.history import FINISH_REASONS, NAN

_FIELDS = {  # of strategies, which a call may change: (rule in words, rule)
    "penalty_alpha": ("be a number in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
}


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
    "text": "string [R], what follows each prompt",
    "finish_reason": f"string [R], one of {', '.join(FINISH_REASONS[1:NAN])}",
    "ids": "int32 [R, N], its tokens, 0 behind the end",
    "lengths": "int32 [R], how many they are",
}
_RANKED = _FOUND | {"score": "float32 [R], what the strategy ranks by, the best of a prompt first"}


def make_generate(reader, strategy, *, top=None, summary):
    """Returns the `Endpoint` that continues prompts by a strategy.

    Args:
        reader: `Reader`.
        strategy: `Strategy`; its fields in `tensors` become inputs.
        top: int, how many likeliest tokens are returned beside each chosen one; None returns no details.
        summary: str.
    """
    samples = strategy.refills
    inputs = {
        "prompts": text_input("prompts", "string [B], the texts to continue, none of them empty")
    } | setting_inputs()
    if samples:
        meaning = "texts drawn for each prompt, next to each other"
        inputs["num_sequences"] = optional("num_sequences", tf.int32, [], 1, meaning)
    for name, dtype in strategy.tensors.items():
        inputs[name] = optional(name, tf.as_dtype(dtype), [], getattr(strategy, name), _rule_of(name, dtype)[0])

    def call(inputs):
        own = {name: inputs.pop(name) for name in strategy.tensors}
        rules = [holds_everywhere(name, x, *_held(name, x)) for name, x in own.items()]
        num = inputs.pop("num_sequences", tf.constant(strategy.num_sequences))
        with tf.control_dependencies([refuse(rules)] if rules else []):
            request = reader.read(inputs, num, tf.constant(not strategy.refills))
        chosen = dataclasses.replace(strategy, **own, **({"num_sequences": num} if samples else {}))
        found = chosen.search(
            reader.model,
            request["prompts"],
            request["settings"],
            reader.vocabulary,
            request["capacity"],
            top=top,
            deadline=request["deadline"],
        )
        numbers = found["finish"] != NAN
        places = holds_everywhere("model", found["count"], "give logits that are numbers, not NaN at a token", numbers)
        with tf.control_dependencies([refuse([places])]):
            ids, count = tf.identity(found["ids"]), tf.identity(found["count"])
        results = {
            "text": reader.texts(ids, count, found["kept"]),
            "finish_reason": tf.gather(tf.constant(FINISH_REASONS), found["finish"]),
            "ids": ids,
            "lengths": count,
        }
        names = ("score", "log_probs", "entropy", "top_ids", "top_log_probs") if top is not None else ("score",)
        return results | {name: found[name] for name in names if name in found and (top is not None or not samples)}

    return _endpoint(call, inputs, _FOUND if samples else _RANKED, summary)


def _endpoint(call, inputs, outputs, summary):
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


def _rule_of(name, dtype):
    default = ("be finite", tf.math.is_finite) if tf.as_dtype(dtype).is_floating else ("be a number", lambda x: x == x)
    return _FIELDS.get(name, default)


def _held(name, value):
    words, rule = _rule_of(name, value.dtype)
    return words, rule(value)
