"""What a run needs to go on exactly: every variable, every random state, what callbacks remember, and whose run it is.

Left out: the counters inside TensorFlow's random operations with state (`tf.random.normal`, `tf.random.shuffle`), which nothing
can read and neither Keras's layers nor this package call in training; and `tf.random.get_global_generator()`, which whoever
uses it hands over as one of `also`.
"""

import copy
import hashlib
import random
import re

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute  # Keras has no public door to its generator
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

# What the callbacks of Keras remember from epoch to epoch. Others say it themselves, by `get_state` and `set_state`.
_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "epochs_since_last_save",
        "_current_epoch",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}


def variables_of(model, optimizer=None, also=()):
    """Finds what changes in training, states of random generators included (Keras saves those as they began).

    Args:
        model: a Keras model. What plain objects at its attributes hold counts as well.
        optimizer: a built Keras optimizer, or None.
        also: list of other objects that hold variables, such as Keras metrics or a `tf.random.Generator`.

    Returns:
        dict of str to variable: "model/0003/lm/embedding/table". Numbers that Keras adds to make names unique in a process
        are left out of the names.
    """
    groups = {
        "model": [*model.variables, *(v for part in vars(model).values() if _is_plain(part) for v in _held(part))],
        "optimizer": [] if optimizer is None else [*optimizer.variables, *_held(vars(optimizer))],
        "also": _held(list(also)),
    }
    named, seen = {}, set()
    for group, variables in groups.items():
        for number, variable in enumerate(variable for variable in variables if id(variable) not in seen):
            seen.add(id(variable))
            name = getattr(variable, "path", variable.name)
            named[f"{group}/{number:04d}/{re.sub(r'_[0-9]+', '', name)}"] = variable
    return named


def read_variables(variables):
    """Copies a dict of variables to a dict of arrays on the host."""
    return {name: _tensor_of(variable).numpy() for name, variable in variables.items()}


def write_variables(variables, arrays):
    """Sets every variable of a dict to the array of its name."""
    for name, variable in variables.items():
        variable.assign(arrays[name])


def describe_model(model):
    """Returns dict of plain values that tell a model from others: its class, precision and constructor arguments."""
    try:
        config = model.get_config()
    except NotImplementedError:  # a subclassed Keras model of the user's own
        config = {}
    plain = {name: value for name, value in config.items() if type(value) in (bool, int, float, str, type(None))}
    return {"class": type(model).__name__, "precision": model.dtype_policy.name, **plain} | {"name": None}


def find_difference(saved, found):
    """Says in words in what the arrays of a checkpoint (dict) and the variables of a run (dict) differ, or None."""
    for (old, array), (new, variable) in zip(saved.items(), found.items(), strict=False):
        old_is = f"{old} {array.dtype.name} {list(array.shape)}"
        new_is = f"{new} {tf.as_dtype(variable.dtype).name} {list(variable.shape)}"
        if old_is != new_is:
            return f"{new_is} instead of {old_is}"
    if len(saved) != len(found):
        return f"{len(found)} variables instead of {len(saved)}"
    return None


def fingerprint_data(data, name=None):
    """Finds what tells data from other data.

    Args:
        data: `tf.data.Dataset` of batches, or None.
        name: str that the caller vouches for, or None to read the first batch instead.

    Returns:
        dict of plain values, None where something is not known.

    Raises:
        ValueError: when the data set has no batch, or `data` is something else.
    """
    found = {"name": name, "batch_size": None, "elements": None, "first_batch": None}
    if data is None:
        return found
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"data must be a tf.data.Dataset or None; got {type(data).__name__}")
    if name is None:
        batch = next(iter(data.from_step(0) if hasattr(data, "from_step") else data), None)
        if batch is None:
            raise ValueError("data must have at least one batch; got an empty data set")
        digest = hashlib.sha256()
        for leaf in tf.nest.flatten(batch, expand_composites=True):
            digest.update(tf.io.serialize_tensor(leaf).numpy())
        found["first_batch"] = digest.hexdigest()
        found["batch_size"] = next((leaf.shape[0] for leaf in tf.nest.flatten(batch) if leaf.shape.rank), None)
    specs = tf.nest.flatten(data.element_spec)
    sizes = [spec.shape[0] for spec in specs if spec.shape.rank]
    return found | {
        "batch_size": found["batch_size"] or (sizes[0] if sizes else None),
        "elements": [
            [spec.dtype.name, None if spec.shape.rank is None else spec.shape[1:].as_list()] for spec in specs
        ],
    }


def fingerprint_tokenizer(tokenizer):
    """Returns str, the SHA-256 of a tokenizer's file, or None for None."""
    return None if tokenizer is None else hashlib.sha256(tokenizer.to_json().encode()).hexdigest()


def random_states():
    """Returns a nest of the states of the global random generators of Python, NumPy and Keras."""
    version, words, gauss = random.getstate()
    generator = get_global_attribute(GLOBAL_SEED_GENERATOR)  # to make one would draw from Python's
    return {
        "python": [version, np.array(words, np.int64), gauss],
        "numpy": np.random.get_state(legacy=False),
        "keras": None if generator is None else _tensor_of(generator.state).numpy(),
    }


def set_random_states(states):
    """Sets what `random_states` returned."""
    if states["keras"] is not None:
        global_seed_generator().state.assign(states["keras"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(states["numpy"])


def callback_states(callbacks):
    """Returns dict of str to nest, what the callbacks of a list remember: "EarlyStopping 0" for the first of that class."""
    return {name: _state_of(callback) for name, callback in _named(callbacks) if _state_of(callback) is not None}


def set_callback_states(callbacks, states):
    """Sets what `callback_states` returned; callbacks that were not there then stay as they are."""
    for name, callback in _named(callbacks):
        if name in states and hasattr(callback, "set_state"):
            callback.set_state(copy.deepcopy(states[name]))  # which the callback may take for its own and change
        elif name in states:
            for attribute, value in copy.deepcopy(states[name]).items():
                setattr(callback, attribute, value)


def _named(callbacks):
    counts = {}
    for callback in callbacks:
        kind = type(callback).__name__
        yield f"{kind} {counts.get(kind, 0)}", callback
        counts[kind] = counts.get(kind, 0) + 1


def _state_of(callback):
    if hasattr(callback, "get_state") and hasattr(callback, "set_state"):
        return callback.get_state()
    names = [name for kind, names in _REMEMBERED.items() if isinstance(callback, kind) for name in names]
    return {name: getattr(callback, name) for name in names if hasattr(callback, name)} or None


def _tensor_of(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _held(part, seen=None):
    """Returns list of the variables in containers and plain objects; not those of layers, which their model counts."""
    seen = set() if seen is None else seen  # numbers of the objects that were looked into, which may hold one another
    if isinstance(part, keras.Variable | tf.Variable):
        return [part]
    if isinstance(part, keras.random.SeedGenerator | tf.random.Generator):
        return [part.state]
    if isinstance(part, keras.metrics.Metric):
        return list(part.variables)
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list | tuple):
        return [variable for value in part for variable in _held(value, seen)]
    is_optimizer = isinstance(part, keras.optimizers.Optimizer)
    if id(part) in seen or not (is_optimizer or _is_plain(part)):
        return []
    seen.add(id(part))
    return [*(part.variables if is_optimizer else ()), *_held(list(vars(part).values()), seen)]


def _is_plain(part):
    """Says whether an object is neither a container nor of Keras, TensorFlow or Python itself."""
    if isinstance(part, keras.Layer | keras.metrics.Metric | keras.optimizers.Optimizer | tf.Module | type):
        return False
    return hasattr(part, "__dict__") and type(part).__module__.split(".")[0] not in ("keras", "tensorflow", "builtins")
