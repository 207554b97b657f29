"""Data sets by name: those that ship with the package, and all of TensorFlow Datasets.

`load("translation/en-de")` reads the bundled files (see `catalogue.py`, `builders.py`); `load("wmt14_translate/de-en")` is
`tfds.load` with quick and plain errors. TensorFlow Datasets is imported where used, so that importing the package stays quick.
"""

import atexit
import contextlib
import difflib
import functools
import json
import logging
import math
import os
import pathlib
import re
import shutil
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import warnings

import tensorflow as tf

from tfllm.data.catalogue import CATALOGUE, SPLITS
from tfllm.files import check_free

_NETWORK_SECONDS = 10.0  # how long to wait for a first answer of the place that a data set comes from


def dataset_names():
    """Returns dict from the names of the bundled data sets to a line on each.

    Example:
        >>> dataset_names()["translation/en-de"]
        'paragraphs of office help, English and German'
    """
    return {name: entry.description for name, entry in CATALOGUE.items()}


def load(name, split="train", *, data_dir=None, **options):
    """Loads a data set, bundled or of TensorFlow Datasets, as dicts of tensors.

    A bundled data set needs no network. On first use its prepared form is written, within seconds, to a folder of the user's
    cache (or that of `TFDS_DATA_DIR`); where that cannot be written, to a temporary folder, with a warning. Any other name goes
    to `tfds.load`, which downloads on first use.

    Args:
        name: str, of `dataset_names()` (the first part is enough where it has one data set, as in "sentiment"), or a name of TFDS
            such as "imdb_reviews", "wmt14_translate/de-en" or "squad:3.0.0".
        split: str, such as "train", "validation", "test", "train[:10%]" or "train+test".
        data_dir: str or path, where prepared data sets are kept; None for the folders above, and that of TFDS for its own.
        **options: for `tfds.load`: `as_supervised=True` for pairs, `with_info=True` to get its `DatasetInfo` as well (names of
            labels), `shuffle_files`, `read_config`, `download=False`, ...

    Returns:
        `tf.data.Dataset` of dicts from field to tensor, in an order that is always the same unless `shuffle_files` is given.

    Raises:
        ValueError: when there is no such data set, config or split (with the names that there are), or `data_dir` cannot be
            written.
        ConnectionError: when a data set of TFDS is not prepared and no network was reached.
        FileNotFoundError: when it is not prepared and `download=False`.

    Example:
        >>> folder = tempfile.mkdtemp()  # in the user's cache when nothing is said
        >>> for example in load("translation/en-de", split="validation", data_dir=folder).take(1):
        ...     print(sorted(example), example["en"].dtype)
        ['de', 'en'] <dtype: 'string'>
    """
    import tensorflow_datasets as tfds

    if not isinstance(name, str):
        raise ValueError(f"name must be a str; got {name!r}")
    if split is None or isinstance(split, list | tuple | dict):  # TFDS would return a structure of data sets
        raise ValueError(f"split must name one data set, as 'train' or 'train[:10%]+test' do; got {split!r}")
    # In one process and file, TFDS would keep the data in memory, and TensorFlow would complain of every pass that ends early.
    options.setdefault("read_config", tfds.ReadConfig(try_autocache=False))
    entry = _bundled(name)
    with _quiet_warnings():
        if entry is None:
            return _load_tfds(name, split, data_dir, options)
        _check_split(split)
        folder = _prepared(entry, data_dir)
        return tfds.load(f"tfllm_{entry.task}/{entry.config}", split=split, data_dir=folder, **options)


def load_rows(name):
    """Reads the rows of a bundled data set as plain dicts, at once and without TensorFlow Datasets.

    Args:
        name: str, of `dataset_names()`; the first part is enough where it has one data set.

    Returns:
        dict from "train", "validation" and "test" to lists of dicts with the fields of `load`: strings, numbers and lists.

    Raises:
        ValueError: when there is no such data set.

    Example:
        >>> rows = load_rows("sentiment")
        >>> {split: len(part) for split, part in rows.items()}
        {'train': 3373, 'validation': 428, 'test': 399}
    """
    if not isinstance(name, str):
        raise ValueError(f"name must be a str; got {name!r}")
    entry = _bundled(name)
    if entry is None:
        near = _question(_nearest(name, list(CATALOGUE)))
        raise ValueError(f"name must be one of dataset_names(); got {name!r}{near}")
    return entry.read()


def iterate_texts(dataset, field="text"):
    """Yields the texts of one field of a data set, for training a tokenizer or a language model.

    Args:
        dataset: `tf.data.Dataset` of dicts, as `load` returns.
        field: str, the name of a field of strings, with "/" into a field of fields: "text", "answers/text". A field that holds
            several strings yields each.

    Yields:
        str; invalid UTF-8 is replaced by U+FFFD.

    Raises:
        ValueError: when there is no such field of strings.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices({"text": ["a", "b"], "label": [0, 1]})
        >>> list(iterate_texts(dataset))
        ['a', 'b']
    """
    fields = _string_fields(dataset.element_spec)
    if field not in fields:
        raise ValueError(f"field must be one of {sorted(fields)}; got {field!r}")

    def flat(texts):
        return tf.reshape(texts.flat_values if isinstance(texts, tf.RaggedTensor) else texts, [-1])

    def of(example):
        for part in field.split("/"):
            example = example[part]
        return flat(example)

    many = dataset.map(of, num_parallel_calls=tf.data.AUTOTUNE).ragged_batch(64).map(flat)  # few steps of Python
    return (text.decode("utf-8", "replace") for texts in many.as_numpy_iterator() for text in texts)


def write_jsonl(dataset, path, *, force=False):
    """Writes a data set as one JSON object a line, at constant memory.

    Args:
        dataset: `tf.data.Dataset` of dicts, as `load` returns.
        path: str or path of the file, which appears whole or not at all.
        force: bool, whether a file that stands there is replaced.

    Returns:
        int, the number of lines. What is not a number (NaN) is null; invalid UTF-8 is replaced by U+FFFD.

    Raises:
        FileExistsError: when `path` is taken.
        ValueError: when the elements are no dicts.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices({"text": ["a", "b"], "label": [0, 1]})
        >>> folder = tempfile.mkdtemp()
        >>> write_jsonl(dataset, folder + "/lines.jsonl")
        2
        >>> print(pathlib.Path(folder, "lines.jsonl").read_text().splitlines()[0])
        {"text": "a", "label": 0}
    """
    if not isinstance(dataset.element_spec, dict):
        raise ValueError(f"dataset must have dicts as elements; got {dataset.element_spec}")
    check_free("path", path, lambda file: pathlib.Path(file).is_file(), "a file", force)
    path, lines = pathlib.Path(path), 0
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for example in dataset.as_numpy_iterator():
                lines += 1
                file.write(json.dumps(_plain(example), ensure_ascii=False) + "\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return lines


def _bundled(name):
    """Finds the entry of a bundled data set; None for the name of another."""
    plain = name.removeprefix("tfllm_")
    task, _, config = plain.partition("/")
    configs = [entry.config for entry in CATALOGUE.values() if entry.task == task]
    if plain in CATALOGUE:
        return CATALOGUE[plain]
    if not configs:
        return None
    if len(configs) == 1 and not config:
        return CATALOGUE[f"{task}/{configs[0]}"]
    names = [f"{task}/{known}" for known in configs]
    question = _question(_nearest(plain, names)) if config else ""
    raise ValueError(f"name must be one of {names}; got {name!r}{question}")


def _check_split(split):
    for part in split.split("+") if isinstance(split, str) else ():
        if part.partition("[")[0].strip() not in (*SPLITS, "all"):
            raise ValueError(f"split must be made of {list(SPLITS)}; got {split!r}")


_building = threading.Lock()


def _prepared(entry, data_dir):
    """Returns the folder where a bundled data set is prepared, and prepares it there when it is not."""
    from tfllm.data.builders import prepare

    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = pathlib.Path(chosen).expanduser() if chosen else _cache_folder()
    with _building:
        try:
            prepare(entry, folder)
        except (OSError, tf.errors.OpError) as error:
            reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
            if chosen:
                raise ValueError(
                    f"data_dir must be a folder that can be written; got {str(folder)!r}: {reason}"
                ) from error
            folder = _temporary_folder()
            warnings.warn(
                f"{str(_cache_folder())!r} cannot be written ({reason}), so the prepared data goes to {str(folder)!r} until this "
                "process ends; give data_dir or set TFDS_DATA_DIR to keep it",
                stacklevel=3,
            )
            prepare(entry, folder)
    return folder


def _cache_folder():
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError:  # no home
        cache = pathlib.Path(os.sep, "nonexistent")
    return cache / "tfllm" / "datasets"


@functools.cache
def _temporary_folder():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tfllm_datasets_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _load_tfds(name, split, data_dir, options):
    import tensorflow_datasets as tfds

    if not re.fullmatch(r"\w[\w:./,=*+-]*", name):  # TFDS would answer with its grammar of names
        raise ValueError(_unknown(name))
    download = options.pop("download", True)
    arguments = {"split": split, "data_dir": data_dir, **options}
    try:
        return tfds.load(name, download=False, **arguments)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_unknown(name)) from error
    except ValueError as error:
        configs = _configs(name)
        config = name.partition("/")[2].partition(":")[0]
        if configs and config and config not in configs:
            shown = [f"{name.partition('/')[0]}/{known}" for known in configs]
            more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
            question = _question(_nearest(name, shown))
            raise ValueError(f"name must be one of {shown[:12]}{more}; got {name!r}{question}") from error
        raise
    except AssertionError:  # the way of TFDS to say that a data set is not prepared, among other things
        builder = _builder(name, data_dir, options.get("builder_kwargs"))
        if builder.is_prepared():
            raise
    if not download:
        raise FileNotFoundError(
            f"{name!r} must be prepared in {str(builder.data_path)!r} when download=False; it is not"
        )
    _check_network(name, builder)
    return tfds.load(name, **arguments)


def _builder(name, data_dir, builder_kwargs):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, **(builder_kwargs or {}))
    except AssertionError as error:
        raise ValueError(f"name must be of a data set and version that TFDS has; got {name!r}: {error}") from error


def _configs(name):
    import tensorflow_datasets as tfds

    try:
        return list(tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs)
    except ValueError:
        return []


def _unknown(name):
    import tensorflow_datasets as tfds

    base, slash, config = name.partition("/")
    tasks = {entry.task for entry in CATALOGUE.values()}
    near = _nearest(base, [*sorted(tasks), *tfds.list_builders(with_community_datasets=False)])
    if near and slash and (f"{near}/{config}" in CATALOGUE or config.partition(":")[0] in _configs(near)):
        near = f"{near}/{config}"
    return f"name must be one of dataset_names() or a data set of TFDS; got {name!r}{_question(near)}"


def _nearest(name, known):
    """Returns the name that a mistyped or shortened one may mean, or None."""
    wanted = name.lower()
    near = difflib.get_close_matches(wanted, known, 1, 0.7) or [k for k in known if wanted and k.startswith(wanted)]
    return near[0] if near else None


def _question(near):
    return f"; did you mean {near!r}?" if near else ""


def _check_network(name, builder):
    """Refuses when the place that a data set comes from gives no sign within seconds; TFDS alone would try for minutes."""
    files = builder.url_infos or {}
    address = max(files, key=lambda url: files[url].size) if files else builder.info.homepage
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return
    reached = []

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_NETWORK_SECONDS).close()
            reached.append(True)
        except urllib.error.HTTPError:  # an answer, if not a kind one
            reached.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=ask, daemon=True)  # its timeout does not count the search for the host's address
    thread.start()
    thread.join(_NETWORK_SECONDS)
    if not reached:
        size = sum(info.size for info in files.values())
        what = f"at most {size / 1e6:,.0f} MB" if 0 < len(files) < 10 else "its files"  # more are of many languages
        raise ConnectionError(
            f"{name!r} is not prepared in {str(builder.data_path)!r}, and no network was reached to download {what} from "
            f"{parts.hostname}; put a prepared copy there or name its folder by data_dir"
        )


@contextlib.contextmanager
def _quiet_warnings():
    """Keeps back what TFDS logs as warnings in the course of ordinary work; errors are shown."""

    def severe(record):
        return record.levelno > logging.WARNING

    logger = logging.getLogger("absl")
    logger.addFilter(severe)
    try:
        yield
    finally:
        logger.removeFilter(severe)


def _string_fields(spec, prefix=""):
    if isinstance(spec, dict):
        return [name for key, value in spec.items() for name in _string_fields(value, f"{prefix}{key}/")]
    return [prefix[:-1]] if getattr(spec, "dtype", None) == tf.string else []


def _plain(value):
    """Turns what NumPy gives for an example into what JSON takes."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and math.isnan(value):
        return None
    if hasattr(value, "dtype"):  # a ragged value, an array or a NumPy number
        return _plain(value.to_list() if hasattr(value, "to_list") else value.tolist())
    return value
