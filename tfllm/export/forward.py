"""The forward pass alone, ids in and logits out, for LiteRT (phones, browsers) and ONNX (every other runtime).

Texts become ids before it, by the `tokenizer.json` beside the model, and the choice of tokens stays with the caller. Every file
is run before it is kept, and refused unless its logits are those of the model.
"""

import pathlib

import numpy as np
import tensorflow as tf

from tfllm import files
from tfllm.export.model_card import parameters

TOLERANCE = 1e-4  # of the largest logit, or of 1
_LIMIT = 2**31 - 2**24  # bytes; both formats address 2 GiB, and the graph needs some
_OPSET = 18


def save_litert(model, path, *, batch_size=1, length=None, force=False):
    """Writes a model's forward pass as a LiteRT file (`.tflite`): ids int32 [B, T] to logits float32 [B, T, V].

    Needs `tfllm[litert]`. A row shorter than T is padded on the right with any id, which changes no logits before it.

    Args:
        model: a `LanguageModel` that computes in float32.
        path: str or path of the file.
        batch_size: int >= 1, B.
        length: int >= 1, T, at most the model's `max_length`; None for that, or 128 where there is none.
        force: bool, whether a file that stands there may be replaced.

    Raises:
        ValueError: when the model cannot be converted, or its logits would change.
        FileExistsError: when something stands at `path` and `force` does not allow to replace it.
        ImportError: when the extra is not installed.
    """
    _save("LiteRT", ".tflite", _to_litert, _run_litert, model, path, batch_size, length, force)


def save_onnx(model, path, *, batch_size=1, length=None, force=False):
    """Writes a model's forward pass as an ONNX file (`.onnx`): `ids` int32 [B, T] to `logits` float32 [B, T, V].

    Needs `tfllm[onnx]`. The arguments and the errors are those of `save_litert`.
    """
    _save("ONNX", ".onnx", _to_onnx, _run_onnx, model, path, batch_size, length, force)


def _save(kind, suffix, convert, run, model, path, batch_size, length, force):
    path = pathlib.Path(path)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"path must name a {suffix} file; got {str(path)!r}")
    files.check_free("path", path, lambda place: place.suffix == suffix and place.is_file(), f"a {suffix} file", force)
    longest = model.max_length or 128 if length is None else length
    for name, value in (("batch_size", batch_size), ("length", longest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1; got {value!r}")
    if model.max_length is not None and longest > model.max_length:
        raise ValueError(f"length must be at most the model's max_length={model.max_length}; got {longest}")
    size = sum(int(np.prod(weight.shape)) for weight in parameters(model)) * 4
    if size > _LIMIT:
        raise ValueError(f"model must have fewer than {_LIMIT:,} bytes of weights for {kind}; got {size:,}")

    spec = tf.TensorSpec([batch_size, longest], tf.int32, "ids")
    forward = tf.function(lambda ids: {"logits": model(ids)}, input_signature=[spec], autograph=False)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, spec.shape).astype(np.int32)
    expected = forward(tf.constant(ids))["logits"].numpy()
    logger, level = tf.get_logger(), tf.get_logger().level
    try:
        logger.setLevel("ERROR")  # the converters tell of every step
        content = convert(forward, spec)
        found = run(content, ids)
    except ImportError:
        raise
    except Exception as error:  # of what the converters cannot do they say so in every kind of exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"model must be made of what {kind} has; got {type(error).__name__}: {reason[:200]}"
        ) from error
    finally:
        logger.setLevel(level)
    worst = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
    if not worst <= TOLERANCE * max(1, np.abs(expected).max()):  # NaN is refused as well
        raise ValueError(f"model must have the same logits as a {kind} file, within {TOLERANCE}; got {worst:.1e} apart")
    files.write_whole(path, content)


def _to_litert(forward, spec):
    concrete = forward.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], forward).convert()


def _run_litert(content, ids):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError("save_litert needs ai-edge-litert: pip install tfllm[litert]") from error
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], ids)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _to_onnx(forward, spec):
    try:
        import tf2onnx
    except ImportError as error:
        raise ImportError("save_onnx needs tf2onnx and onnxruntime: pip install tfllm[onnx]") from error
    proto, _ = tf2onnx.convert.from_function(forward, input_signature=[spec], opset=_OPSET)
    return proto.SerializeToString()


def _run_onnx(content, ids):
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("save_onnx needs tf2onnx and onnxruntime: pip install tfllm[onnx]") from error
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"ids": ids})
    return logits
