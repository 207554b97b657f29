"""The run folder: everything that a training leaves behind, and how it is read again.

    config.json        the model's constructor arguments and the training's settings
    tokenizer.json     the tokenizer
    model.weights.h5   the best weights so far, by validation loss
    history.csv        losses, rate and speed, a row an evaluation
    curves.png         their picture
    samples.txt        what the model wrote on the way
    report.md          and examples, pictures: what `tfllm evaluate` says of it
    checkpoints/       from which a run that was cut off goes on; gone when the run is done

Every file is written beside its place and renamed, so a reader finds a whole one or none. Nothing in it is code.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil

import keras

try:
    import fcntl
except ImportError:  # on Windows, which cannot lock folders
    fcntl = None

from tfllm import files
from tfllm.models import LanguageModel, RecurrentLM, TransformerLM
from tfllm.text import Tokenizer, load_tokenizer

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.weights.h5"
HISTORY, CURVES, SAMPLES = "history.csv", "curves.png", "samples.txt"
REPORT, RELIABILITY, POSITIONS = "report.md", "reliability.png", "positions.png"
EXAMPLES, PAGE = "examples.jsonl", "examples.html"
CHECKPOINTS, _OLD_CHECKPOINTS = "checkpoints", ".checkpoints.removed"
_PARTIAL_WEIGHTS, _PARTIAL_CURVES = "partial.weights.h5", "partial.curves.png"
_KINDS = {kind.__name__: kind for kind in (RecurrentLM, TransformerLM)}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder that was read: the model with its weights, the tokenizer, and the training's settings (a dict)."""

    model: LanguageModel
    tokenizer: Tokenizer
    training: dict


@contextlib.contextmanager
def locked(path):
    """Holds the folder of a run, made when missing, against other processes that train; they let go of it when they die.

    Args:
        path: str or path. What was made of it and is empty at the end is removed.

    Raises:
        FileExistsError: when another process holds it, or something else than a folder stands there.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        check_free(path)
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    held = None if fcntl is None else os.open(path, os.O_RDONLY)
    try:
        if held is not None:
            _lock(held, path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a folder with something in it stays
                for each in missing:
                    each.rmdir()
    finally:
        if held is not None:
            os.close(held)


def _lock(held, path):
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileExistsError(f"out must not be in use; got {str(path)!r}, in which another process trains") from error
    except OSError:
        pass  # some network file systems lock no folders


def create_run(path, model, tokenizer, training, *, force=False):
    """Makes the folder of a run that begins: everything but the weights, and a place for checkpoints.

    Args:
        path: str or path of a folder that does not exist yet, or is empty.
        model: a `RecurrentLM` or a `TransformerLM`.
        tokenizer: a tokenizer.
        training: dict of plain values, the settings of the training.
        force: bool, whether a run that stands there may be replaced.

    Returns:
        `pathlib.Path`, the folder.

    Raises:
        FileExistsError: when something stands at `path` and `force` does not allow to replace it.
    """
    path = pathlib.Path(path)
    check_free(path, force)
    path.mkdir(parents=True, exist_ok=True)
    finish_run(path)
    of_reports = (REPORT, RELIABILITY, POSITIONS, EXAMPLES, PAGE)  # which tell of the weights that are replaced
    for name in (TOKENIZER, WEIGHTS, HISTORY, CURVES, SAMPLES, _PARTIAL_WEIGHTS, _PARTIAL_CURVES, *of_reports):
        (path / name).unlink(missing_ok=True)
    arguments = model.get_config()
    document = {
        "tfllm": _version(),
        "model": {"kind": type(model).__name__, "dtype": model.dtype_policy.name}
        | {name: value for name, value in arguments.items() if name not in ("name", "trainable", "dtype")},
        "training": training,
    }
    files.write_whole(path / CONFIG, json.dumps(document, indent=2, ensure_ascii=False))
    (path / CHECKPOINTS).mkdir()
    tokenizer.save(path / TOKENIZER)
    return path


def read_unfinished(path):
    """Returns dict, the training settings of a run that was cut off, or None where no such run stands."""
    path = pathlib.Path(path)
    names = {CONFIG, TOKENIZER, CHECKPOINTS}
    if not path.is_dir() or not names <= {entry.name for entry in path.iterdir()} or not _is_run(path):
        return None
    return json.loads((path / CONFIG).read_text(encoding="utf-8"))["training"]


def finish_run(path):
    """Removes the checkpoints of a run folder: at once by name, so that a crash leaves all of them or none."""
    path = pathlib.Path(path)
    shutil.rmtree(path / _OLD_CHECKPOINTS, ignore_errors=True)
    if (path / CHECKPOINTS).is_dir():
        (path / CHECKPOINTS).rename(path / _OLD_CHECKPOINTS)
        shutil.rmtree(path / _OLD_CHECKPOINTS, ignore_errors=True)


def check_free(path, force=False):
    """Raises FileExistsError unless `path` is free, an empty folder, or with `force` a run folder."""
    files.check_free("out", path, _is_run, "a run folder", force)


def load_run(path):
    """Reads a run folder.

    Args:
        path: str or path.

    Returns:
        A `Run`.

    Raises:
        ValueError: when the folder is not a run, lacks its weights, or is damaged.
    """
    path = pathlib.Path(path)
    if not (path / CONFIG).is_file():
        raise ValueError(f"run must be a folder that `tfllm train` made; got {str(path)!r}, which has no {CONFIG}")
    if not (path / WEIGHTS).is_file():
        raise ValueError(f"run must hold trained weights; got {str(path)!r}, which has no {WEIGHTS}")
    try:
        document = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        arguments = dict(document["model"])
        model = _KINDS[arguments.pop("kind")](**arguments)
        training = document["training"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"run must hold a {CONFIG} of this version; got {str(path)!r} with {error!r}") from error
    try:
        model.load_weights(path / WEIGHTS)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"run must hold weights that fit its {CONFIG}; got {str(path)!r}: {error}") from error
    if not (path / TOKENIZER).is_file():
        raise ValueError(f"run must hold its tokenizer; got {str(path)!r}, which has no {TOKENIZER}")
    return Run(model, load_tokenizer(path / TOKENIZER), training)


def save_weights(model, path):
    """Writes the weights of a model into a run folder."""
    partial = pathlib.Path(path) / _PARTIAL_WEIGHTS
    model.save_weights(partial)
    with partial.open("rb+") as file:  # the checkpoint that follows relies on them
        os.fsync(file.fileno())
    partial.replace(pathlib.Path(path) / WEIGHTS)


def save_curves(figure, path):
    """Writes a figure as the picture of a run folder."""
    partial = pathlib.Path(path) / _PARTIAL_CURVES
    figure.savefig(partial, dpi=110)
    partial.replace(pathlib.Path(path) / CURVES)


def parameter_count(model):
    """Returns int, the number of trained weights of a Keras model."""
    return sum(int(keras.ops.size(weight)) for weight in model.trainable_weights)


def _is_run(path):
    try:
        document = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"tfllm", "model", "training"} <= set(document)


def _version():
    try:
        return importlib.metadata.version("tfllm")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path that was never installed
        return "unknown"
