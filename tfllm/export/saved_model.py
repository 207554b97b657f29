"""One SavedModel with tokenizer, model and compiled decoding: strings in, strings out, in a bare TensorFlow process."""

import pathlib

import tensorflow as tf

from tfllm import files
from tfllm.export.requests import Reader
from tfllm.export.signatures import make_generate
from tfllm.generation import STRATEGIES


def save(generator, path, *, force=False):
    path = pathlib.Path(path)
    check_free(path, force)
    reader = Reader(generator)
    endpoints = {"generate": make_generate(reader, STRATEGIES["sample"](), summary="")}

    module = tf.Module()
    # The variables themselves: a Keras model in here would store every weight twice and break `saved_model_cli`.
    module.model_weights = [weight.value for weight in generator.model.weights]
    module.tokenizer = generator.tokenizer
    for name, endpoint in endpoints.items():
        setattr(module, name, endpoint.function)
    signatures = {name: endpoint.function for name, endpoint in endpoints.items()}
    logger, level = tf.get_logger(), tf.get_logger().level
    with files.whole_folder(path) as partial:
        try:
            logger.setLevel("WARNING")  # it would name the partial folder
            tf.saved_model.save(
                module, str(partial), signatures={"serving_default": signatures["generate"]} | signatures
            )
        finally:
            logger.setLevel(level)


def check_free(path, force=False):
    """Raises FileExistsError unless `path` is free, an empty folder, or with `force` a SavedModel."""
    files.check_free("path", path, _is_saved_model, "a SavedModel", force)


def _is_saved_model(path):
    known = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}
    return (path / "saved_model.pb").is_file() and not {entry.name for entry in path.iterdir()} - known
