"""One SavedModel with tokenizer, model and compiled decoding: strings in, strings out, in a bare TensorFlow process."""

import pathlib
import shutil
import tempfile

import tensorflow as tf

from tfllm import files


def save(generator, path, *, force=False):
    """Writes a SavedModel whose `serving_default` continues texts.

    Its inputs are `prompts` string [B], `max_new_tokens` int32, `temperature` float32, `top_k` int32, `top_p` float32 and
    `seed` int32 (scalars); its output is `text` string [B], the continuations. Weights are stored once. The folder appears
    whole or not at all.

    Args:
        generator: a `TextGenerator`.
        path: str or path of a folder that does not exist yet, or is empty.
        force: bool, whether a SavedModel that stands there may be replaced.

    Raises:
        FileExistsError: when something stands at `path` and `force` does not allow to replace it.
    """
    path = pathlib.Path(path)
    check_free(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)

    module = tf.Module()
    # The variables themselves: a Keras model in here would store every weight twice and break `saved_model_cli`.
    module.model_weights = [weight.value for weight in generator.model.weights]
    module.tokenizer = generator.tokenizer
    scalar, real = tf.int32, tf.float32
    kinds = {"max_new_tokens": scalar, "temperature": real, "top_k": scalar, "top_p": real, "seed": scalar}
    signature = [tf.TensorSpec([None], tf.string, "prompts")]
    signature += [tf.TensorSpec([], dtype, name) for name, dtype in kinds.items()]
    generate = tf.function(lambda *inputs: {"text": generator.serve(*inputs)}, input_signature=signature)

    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    logger, level = tf.get_logger(), tf.get_logger().level
    try:
        logger.setLevel("WARNING")  # it would name the partial folder
        tf.saved_model.save(module, str(partial / "new"), signatures={"serving_default": generate})
        if path.exists():
            path.rename(partial / "old")
        try:
            (partial / "new").rename(path)
        except BaseException:
            if (partial / "old").exists():
                (partial / "old").rename(path)
            raise
    finally:
        logger.setLevel(level)
        shutil.rmtree(partial, ignore_errors=True)


def check_free(path, force=False):
    """Raises FileExistsError unless `path` is free, an empty folder, or with `force` a SavedModel."""
    files.check_free("path", path, _is_saved_model, "a SavedModel", force)


def _is_saved_model(path):
    known = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}
    return (path / "saved_model.pb").is_file() and not {entry.name for entry in path.iterdir()} - known
