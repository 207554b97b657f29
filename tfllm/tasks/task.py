"""Task: what every application shares, from its data to its SavedModel.

A concrete task says how its rows are read, what its model is, what its batches are, how it predicts, and what it has to beat; all
else is here and in `running.py`. Its file is meant to be read: at the top stand the task, the data, the command, the time and the
score to expect.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import types
from collections.abc import Callable

import keras
import numpy as np

from tfllm import files
from tfllm.data import load_rows
from tfllm.data.catalogue import CATALOGUE
from tfllm.runs.folder import parameter_count
from tfllm.tasks.training import Watch, fit_model
from tfllm.text import load_tokenizer

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.weights.h5"


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """What a task does; each task has defaults of its own.

    Attributes:
        data: str, one of the task's data sets; "" for the first.
        limit: int, rows of every split that are used, evenly spaced; 0 for all.
        steps: int >= 1, optimization steps.
        evaluations: int >= 1, validations on the way; the best weights are kept.
        batch_size: int >= 1, rows in a batch.
        learning_rate: float > 0, the highest rate.
        weight_decay: float >= 0.
        dim, num_heads: int >= 1, size of the model.
        num_layers: int >= 0, its layers.
        dropout: float in [0, 1).
        sequence_length: int >= 2, tokens that the model reads at once.
        vocab_size: int, of tokenizers that learn theirs.
        seed: int in [0, 2**31), decides weights, batches and draws.

    Raises:
        ValueError: when a value breaks its rule.
    """

    data: str = ""
    limit: int = 0
    steps: int = 1000
    evaluations: int = 10
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.1
    sequence_length: int = 128
    vocab_size: int = 2048
    seed: int = 0

    def __post_init__(self):
        for least, names in (
            (2, ("sequence_length",)),
            (1, ("steps", "evaluations", "batch_size", "dim", "num_heads", "vocab_size")),
            (0, ("num_layers", "limit", "seed", "weight_decay")),
        ):
            for name in names:
                if not getattr(self, name) >= least:
                    raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2**31; got {self.seed}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0 and finite; got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a task has to beat.

    Attributes:
        name: str.
        outputs: function of a list of rows to a list of what the task's metrics take.
        model: what computes them, for the checks of a task, or None.
    """

    name: str
    outputs: Callable
    model: object = None


class Task:
    """An application of a language model: data, model, prediction, score and baseline.

    Concrete tasks set the attributes and supply `learn`, `make_model`, `batches`, `predict`, `references`, `metrics`, `baseline`,
    `export` and `ask`.

    Args:
        settings: `TaskSettings`, None for the task's defaults.

    Attributes:
        name: str, what `tfllm task` calls it.
        title: str, a line on what it does.
        caution: str, what a reader of its score must know, or "".
        datasets: tuple of str, data sets that it runs on; the first is the usual one.
        defaults: `TaskSettings`.
        by_data: dict from data sets to dicts of what their settings have different.
        jit_compile: bool, whether XLA compiles its training steps; needs batches of one shape.
        tokenizer, model: made by `fit` or `load`.
        state: dict of plain values, what else `fit` learns: names of labels, weights of a mixture.

    Raises:
        ValueError: when `settings.data` is none of `datasets`.
    """

    name = title = caution = ""
    datasets = ()
    defaults = TaskSettings()
    by_data = types.MappingProxyType({})
    jit_compile = True

    def __init__(self, settings=None):
        settings = settings or self.usual()
        if settings.data not in self.datasets:
            settings = dataclasses.replace(settings, data=self.usual(settings.data).data)
        self.settings, self.tokenizer, self.model, self.state = settings, None, None, {}

    @classmethod
    def usual(cls, data=""):
        """Returns the task's `TaskSettings` for one of its data sets; "" takes the first."""
        data = data or cls.datasets[0]
        if data not in cls.datasets:
            raise ValueError(f"data must be one of {list(cls.datasets)} for the task {cls.name!r}; got {data!r}")
        return dataclasses.replace(cls.defaults, data=data, **cls.by_data.get(data, {}))

    # ------------------------------------------------------------ what a concrete task supplies

    def read(self):
        """Returns dict from "train", "validation" and "test" to lists of dicts."""
        return load_rows(self.settings.data)

    def origin(self):
        """Returns dict of str: `description`, `licence`, `homepage` of the data."""
        entry = CATALOGUE[self.settings.data]
        return {name: getattr(entry, name) for name in ("description", "licence", "homepage")}

    def learn(self, train):
        """Sets `tokenizer`, and what `state` must hold before there is a model, from rows."""
        raise NotImplementedError

    def make_model(self):
        """Returns the untrained model, a `FittedModel` that `settings`, `tokenizer` and `state` alone decide."""
        raise NotImplementedError

    def batches(self, rows, training):
        """Returns a `tf.data.Dataset` of batches: endless and in random order for training, else every row once."""
        raise NotImplementedError

    def train(self, train, validation, watch):
        """Trains `model` and returns the history."""
        return self.fit_on(self.batches(train, True), self.batches(validation, False), watch)

    def predict(self, inputs):
        """Returns list, what the model makes of each of a list of inputs."""
        raise NotImplementedError

    def inputs(self, rows):
        """Returns list, what `predict` takes of each row."""
        raise NotImplementedError

    def references(self, rows, metric):
        """Returns list, what a `Metric` compares with."""
        raise NotImplementedError

    def outputs(self, rows):
        """Returns list, what the metrics take of the model for each row."""
        return self.predict(self.inputs(rows))

    def metrics(self):
        """Returns list of `Metric`, the first of which decides."""
        raise NotImplementedError

    def baseline(self, train, validation):
        """Returns the `Baseline`, fitted to rows, after `fit`."""
        raise NotImplementedError

    def others(self, rows):
        """Returns dict from names to outputs of systems that stand in the table for comparison."""
        return {}

    def checks(self, rows, baseline):
        """Returns dict from what was counted to a dict from systems to lists of bool."""
        return {}

    def pictures(self, rows, outputs):
        """Returns dict from file names to figures."""
        return {}

    def example(self, row, output, baseline_output):
        """Returns dict of `input`, `reference`, `prediction` and `baseline`, plain values that show one row."""
        return {
            "input": self.inputs([row])[0],
            "reference": self.references([row], self.metrics()[0])[0],
            "prediction": output,
            "baseline": baseline_output,
        }

    def export(self, path, *, force=False):
        """Writes a SavedModel that takes and returns strings."""
        raise NotImplementedError

    def ask(self, served, inputs):
        """Returns what `predict` returns for inputs, by what `tf.saved_model.load` gave of an export."""
        raise NotImplementedError

    # ------------------------------------------------------------ what all tasks share

    def rows(self):
        """Returns dict from splits to lists of dicts, as many as the settings say."""
        splits = {split: some(rows, self.settings.limit) for split, rows in self.read().items()}
        for split, rows in splits.items():
            if not rows:
                raise ValueError(f"data must have rows in each split; got none for {split!r} of {self.settings.data!r}")
        return splits

    def fit(self, train, validation, *, watch=None):
        """Learns from rows; the best weights on the validation rows are kept.

        Args:
            train, validation: lists of dicts, as `rows` gives them.
            watch: `Watch`, or None to show and write nothing.

        Returns:
            dict of lists, the history of the training.

        Raises:
            ValueError: when there are no rows, or the loss is not finite.
        """
        for name, rows in (("train", train), ("validation", validation)):
            if not rows:
                raise ValueError(f"{name} must hold at least one row; got none")
        keras.utils.set_random_seed(self.settings.seed)
        self.state = {}
        self.learn(train)
        self.model = self.make_model()
        watch = watch or Watch()
        watch.console.print(
            f"{len(train):,} rows to train on; {type(self.model).__name__} with {parameter_count(self.model):,} weights",
            highlight=False,
        )
        return self.train(train, validation, watch)

    def fit_on(self, batches, validation, watch, **changes):
        """Runs `fit_model` on batches with the settings, but for the changes."""
        names = ("steps", "evaluations", "learning_rate", "weight_decay")
        options = {name: getattr(self.settings, name) for name in names} | {"jit_compile": self.jit_compile}
        return fit_model(self.model, batches, validation, watch=watch, **(options | changes))

    def evaluate(self, rows):
        """Returns dict from names of metrics to floats, on all rows together.

        Raises:
            ValueError: when there are no rows.
        """
        self._check_fitted()
        if not rows:
            raise ValueError("rows must hold at least one row; got none")
        outputs = self.outputs(rows)
        return {metric.name: float(metric(self.references(rows, metric), outputs)) for metric in self.metrics()}

    def save(self, path, **facts):
        """Writes weights, tokenizer and settings into a folder; config.json, which says that all is there, comes last.

        Args:
            path: str or path of a folder that exists.
            **facts: plain values to keep in config.json as well.
        """
        self._check_fitted()
        path = pathlib.Path(path)
        partial = path / "partial.weights.h5"
        self.model.save_weights(partial)
        with partial.open("rb+") as file:  # config.json relies on them
            os.fsync(file.fileno())
        partial.replace(path / WEIGHTS)
        if self.tokenizer is not None:
            self.tokenizer.save(path / TOKENIZER)
        write_config(path, self, trained=True, **facts)

    @classmethod
    def load(cls, path):
        """Reads what `save` wrote. Nothing in the folder is run as code.

        Raises:
            ValueError: when the folder holds no trained task of this name, or is damaged.
        """
        path = pathlib.Path(path)
        document = read_config(path)
        if document is None or document.get("task") != cls.name or not document.get("trained"):
            raise ValueError(f"path must be a run folder of the task {cls.name!r}, trained; got {str(path)!r}")
        try:
            task = cls(TaskSettings(**document["settings"]))
            task.state = dict(document["state"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"path must hold a {CONFIG} of this version; got {str(path)!r} with {error!r}") from error
        if (path / TOKENIZER).is_file():
            task.tokenizer = load_tokenizer(path / TOKENIZER)
        task.model = task.make_model()
        try:
            task.model.load_weights(path / WEIGHTS)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"path must hold weights that fit its {CONFIG}; got {str(path)!r}: {error}") from error
        return task

    def _check_fitted(self):
        if self.model is None:
            raise ValueError(f"task must be fitted or loaded first; got {self.name!r}, which is not")


def some(rows, limit):
    """Returns at most `limit` of a list's rows, evenly spaced; all for 0.

    Example:
        >>> some([1, 2, 3, 4, 5], 2)
        [1, 3]
    """
    return rows[:: max(len(rows) // limit, 1)][:limit] if limit else rows


def write_config(path, task, *, trained, **facts):
    """Writes config.json: the task, its settings, what it learned beside weights, and whether the weights are there."""
    document = {
        "tfllm": _version(),
        "task": task.name,
        "settings": dataclasses.asdict(task.settings),
        "state": _plain(task.state),
        "trained": trained,
        **facts,
    }
    files.write_whole(pathlib.Path(path) / CONFIG, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def read_config(path):
    """Returns dict, the config.json of a task's run folder, or None where there is none."""
    try:
        document = json.loads((pathlib.Path(path) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and {"tfllm", "task", "settings"} <= set(document) else None


def _plain(value):
    """Returns a value with NumPy's numbers and arrays as Python's."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _version():
    try:
        return importlib.metadata.version("tfllm")
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path that was never installed
        return "unknown"
