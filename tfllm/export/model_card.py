"""The card that goes with an export: what the model is, and how to call it."""

import hashlib
import importlib.metadata
import json

import numpy as np
import tensorflow as tf


def model_card(generator, endpoints, jit_compile):
    """Returns str, Markdown: the model, its tokenizer, every signature with its inputs, defaults and outputs.

    It has no date and no path, so that equal exports have equal cards.

    Args:
        generator: a `TextGenerator`.
        endpoints: dict of name to `Endpoint`.
        jit_compile: bool, whether XLA compiles the decoding.
    """
    model, tokenizer = generator.model, generator.tokenizer
    numbers = sum(int(np.prod(weight.shape)) for weight in parameters(model))
    config = getattr(model, "get_config", dict)()
    dtypes = sorted({str(weight.dtype) for weight in parameters(model)})
    special = ", ".join(f"`{token}`" for token in tokenizer.special_tokens) or "none"
    facts = {
        "model": f"`{type(model).__name__}`",
        "parameters": f"{numbers:,} ({', '.join(dtypes)}, {_bytes(model):,} bytes)",
        "computes in": f"{getattr(getattr(model, 'dtype_policy', None), 'name', 'float32')}",
        "vocabulary": f"{model.vocab_size:,} ids",
        "longest text": _limit(model.max_length),
        "tokenizer": f"`{type(tokenizer).__name__}`, {tokenizer.vocab_size:,} tokens; special: {special}",
        "weights": f"SHA-256 `{fingerprint(model)}`",
        "decoding": "compiled by XLA for each power of two of sizes" if jit_compile else "in the graph",
        "made with": f"tfllm {_version('tfllm')}, TensorFlow {tf.__version__}, Keras {_version('keras')}",
    }
    if generator.reads_sources:
        source, ends = generator.source_tokenizer, (generator.begin_id, generator.vocabulary.end_id)
        facts["longest source"] = _limit(model.max_source_length)
        facts["tokenizer of sources"] = f"`{type(source).__name__}`, {source.vocab_size:,} tokens"
        facts["texts"] = "begin after `{}` and end with `{}`".format(*(tokenizer.tokens[token] for token in ends))
    lines = ["# Language model", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "```json", json.dumps(config, indent=1, sort_keys=True, default=str), "```", "", _CALLS]
    return "\n".join([*lines, *describe_endpoints(endpoints)]) + "\n"


def describe_endpoints(endpoints):
    """Returns list of str, lines of Markdown: every signature with its inputs, defaults and outputs; `Endpoint`s by name."""
    lines = []
    for name, endpoint in endpoints.items():
        lines += ["", f"## `{name}`", "", f"{endpoint.summary[0].upper()}{endpoint.summary[1:]}.", ""]
        lines += ["| input | dtype | shape | default | |", "|---|---|---|---|---|"]
        lines += [_row(key, one) for key, one in endpoint.inputs.items()]
        lines += ["", "| output | |", "|---|---|"]
        lines += [f"| `{key}` | {words} |" for key, words in endpoint.outputs.items()]
    return lines


def parameters(model):
    """Returns list of a model's weights, frozen ones too, but not the whole numbers of its random generators."""
    return [weight for weight in getattr(model, "weights", ()) if tf.as_dtype(weight.dtype).is_floating]


def fingerprint(model):
    """Returns str, the SHA-256 of a model's weights: names of dtypes, shapes and bytes, in their order."""
    digest = hashlib.sha256()
    for weight in parameters(model):
        values = np.asarray(weight.value)
        digest.update(f"{values.dtype.name} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


_CALLS = """\
It needs TensorFlow alone. In Python, with defaults for all that is left out:

```python
import tensorflow as tf

model = tf.saved_model.load("PATH")
print(model.generate(["Once upon a time"], max_new_tokens=40, temperature=0.8)["text"].numpy()[0].decode())
```

On the command line, where what is left out has its default as well:

```sh
saved_model_cli run --dir PATH --tag_set serve --signature_def serving_default --input_exprs 'prompts=["Once upon a time"]'
```

B is the number of texts in a call. An input of the shape "one or B" is given once for all of them or once for each. A call
that breaks a rule ends with `InvalidArgumentError` and one sentence.
"""


def _row(name, one):
    shape = "one or B" if one.spec.shape.rank is None else str(one.spec.shape.as_list()).replace("None", "?")
    default = ""
    if one.default is not None:
        value = one.default.numpy()
        value = value.decode() if isinstance(value, bytes) else value.tolist()
        default = f"`{round(value, 6) if isinstance(value, float) else value!r}`"
    return f"| `{name}` | {one.spec.dtype.name} | {shape} | {default} | {one.meaning} |"


def _limit(size):
    return "no limit" if size is None else f"{size:,} tokens"


def _bytes(model):
    return sum(int(np.prod(weight.shape)) * tf.as_dtype(weight.dtype).size for weight in parameters(model))


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path that was never installed
        return "unknown"
