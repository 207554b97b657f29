"""Checkpoints on disk: a folder per save that is whole or not there, and that says itself whether it is damaged.

    DIR/step-00001200/
        arrays.safetensors    every array
        state.json            everything else, in plain values
        manifest.json         bytes and SHA-256 of these two

A folder is filled under a hidden name, its files and itself are forced to the disk, and then it is renamed; so a crash or a
full disk at any moment leaves the earlier checkpoints as they are, and at worst a hidden folder that the next save removes.
Nothing is unpickled. What goes into a checkpoint is `resume.py`'s affair.

Source: the layout of the arrays is that of github.com/huggingface/safetensors: 8 bytes of length, a JSON header, then the
arrays without gaps; any reader of safetensors reads them.
"""

import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import tempfile

import numpy as np
import tensorflow as tf

ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"
_FORMAT = "tfllm-checkpoint-1"
_MARK = "$array"  # the key that stands in state.json where an array was
_KINDS = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bool": "BOOL",
}
_DTYPES = {kind: name for name, kind in _KINDS.items()}


class DamagedCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message says which file and why."""


def write_checkpoint(directory, step, arrays, state):
    """Writes a checkpoint, which appears whole or not at all.

    Args:
        directory: str or path, made when missing.
        step: int >= 0; a checkpoint of the same step is replaced.
        arrays: dict of str to array of numbers.
        state: what JSON takes, as `pack` makes it.

    Returns:
        `pathlib.Path`, the folder.

    Raises:
        OSError: when the disk is full or cannot be written; nothing is left of the attempt.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    place = folder_of(directory, step)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=directory))
    try:
        new = partial / "new"
        new.mkdir()  # `mkdtemp` makes folders that only their owner can read
        written = {
            ARRAYS: _write(new / ARRAYS, _layout(arrays)),
            STATE: _write(new / STATE, [json.dumps(state).encode()]),
        }
        manifest = {"format": _FORMAT, "step": step, "files": written}
        _write(new / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        _sync(new)
        if place.exists():
            place.rename(partial / "old")  # a crash before the next line is mended by `mend`
        try:
            new.rename(place)
        except BaseException:
            if (partial / "old").exists():
                (partial / "old").rename(place)
            raise
        _sync(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def read_checkpoint(directory, step, *, arrays=True):
    """Reads a checkpoint after checking its sums.

    Args:
        directory: str or path.
        step: int.
        arrays: bool; False leaves the arrays unread and unchecked, and marks in the state where they are.

    Returns:
        (the state, dict of str to array), as they were written.

    Raises:
        DamagedCheckpoint: when a file is missing or is not what the manifest says.
    """
    folder = folder_of(directory, step)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        written = manifest["format"], manifest["step"]
        sums = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"]) for name in (ARRAYS, STATE)}
    except OSError as error:
        raise DamagedCheckpoint(f"{folder / MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder / MANIFEST} is not a manifest") from error
    if written != (_FORMAT, step):
        raise DamagedCheckpoint(f"{folder / MANIFEST} is not of step {step} in {_FORMAT}")
    state = _checked(folder / STATE, *sums[STATE])
    content = _checked(folder / ARRAYS, *sums[ARRAYS]) if arrays else None
    try:
        state = json.loads(state)
        if not arrays:
            return state, {}
        found = _parse(content)
        return unpack(state, found), found
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # right sums, and yet not what is written here
        raise DamagedCheckpoint(f"{folder} is not laid out as {_FORMAT} ({error})") from error


def list_steps(directory):
    """Returns sorted list of int, the steps of the checkpoints in a folder, damaged ones included."""
    found = pathlib.Path(directory).glob("step-*") if pathlib.Path(directory).is_dir() else ()
    return sorted(int(path.name[5:]) for path in found if re.fullmatch(r"step-\d{8,}", path.name) and path.is_dir())


def folder_of(directory, step):
    """Returns `pathlib.Path`, the folder of a step's checkpoint."""
    return pathlib.Path(directory) / f"step-{step:08d}"


def remove_checkpoint(directory, step):
    """Removes a checkpoint in a way that a crash in the middle leaves none that is damaged."""
    hidden = pathlib.Path(tempfile.mkdtemp(prefix=".removed.", dir=directory))
    folder_of(directory, step).rename(hidden / "old")
    shutil.rmtree(hidden, ignore_errors=True)


def mend(directory):
    """Finishes the replacement of a checkpoint that a crash cut in two, where there is one."""
    for partial in pathlib.Path(directory).glob(".step-*"):
        place = partial.with_name(partial.name.split(".")[1])
        if (partial / "old").exists() and (partial / "new").exists() and not place.exists():
            (partial / "new").rename(place)  # the old one made way only after the new one was on the disk


def clean(directory):
    """Removes what crashes left: folders that were never renamed, or were being removed."""
    for pattern in (".step-*", ".removed.*"):
        for partial in pathlib.Path(directory).glob(pattern):
            shutil.rmtree(partial, ignore_errors=True)


def pack(nest, arrays, name):
    """Takes the arrays out of a nest, so that JSON takes the rest.

    Args:
        nest: dicts with str keys, lists and tuples of numbers, strings, bools, None and arrays.
        arrays: dict, to which the arrays are added.
        name: str, how their names begin.

    Returns:
        The nest with marks instead of arrays; tuples have become lists.

    Raises:
        ValueError: when the nest holds something else.

    Example:
        >>> arrays = {}
        >>> pack({"wait": 2, "best": np.zeros(3)}, arrays, "stop")
        {'wait': 2, 'best': {'$array': 'stop/best'}}
        >>> unpack({"wait": 2, "best": {"$array": "stop/best"}}, arrays)
        {'wait': 2, 'best': array([0., 0., 0.])}
    """
    if nest is None or type(nest) in (bool, int, float, str):
        return nest
    if isinstance(nest, list | tuple):
        return [pack(part, arrays, f"{name}/{i}") for i, part in enumerate(nest)]
    if isinstance(nest, dict):
        if not all(type(key) is str and key != _MARK for key in nest):
            raise ValueError(f"{name} must have keys that are strings other than {_MARK!r}; got {list(nest)}")
        return {key: pack(part, arrays, f"{name}/{key}") for key, part in nest.items()}
    if isinstance(nest, np.ndarray | np.generic) or tf.is_tensor(nest):
        array = np.array(nest)  # a copy, because training changes its own while this is written
        if array.dtype.name in _KINDS:
            while name in arrays:  # {"a": {"b": ...}} and {"a/b": ...} would share one
                name += "~"
            arrays[name] = array
            return {_MARK: name}
    raise ValueError(
        f"{name} must be made of numbers, strings, bools, None, arrays, lists and dicts; got {type(nest).__name__}"
    )


def unpack(nest, arrays):
    """Puts the arrays back that `pack` took out; those without axes come back as NumPy numbers."""
    if isinstance(nest, list):
        return [unpack(part, arrays) for part in nest]
    if isinstance(nest, dict):
        return (
            arrays[nest[_MARK]].copy()[()] if set(nest) == {_MARK} else {k: unpack(v, arrays) for k, v in nest.items()}
        )
    return nest


def _layout(arrays):
    """Yields the bytes of a safetensors file."""
    header, end = {}, 0
    for name, array in arrays.items():
        if array.dtype.name not in _KINDS:
            raise ValueError(f"{name!r} must be an array of one of {sorted(_KINDS)}; got {array.dtype}")
        header[name] = {
            "dtype": _KINDS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        yield memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _parse(content):
    """Returns dict of str to array, views of the bytes of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), memoryview(content)[8 + size :]
    arrays = {}
    for name, entry in header.items():
        dtype, (first, last) = tf.as_dtype(_DTYPES[entry["dtype"]]).as_numpy_dtype, entry["data_offsets"]
        if not 0 <= first <= last <= len(body) or last - first != math.prod(entry["shape"]) * np.dtype(dtype).itemsize:
            raise ValueError(f"{name!r} does not fit its place")
        arrays[name] = np.frombuffer(body[first:last], np.uint8).view(dtype).reshape(entry["shape"])
    return arrays


def _write(path, pieces):
    """Writes pieces of bytes, forces them to the disk, and returns dict of their number and SHA-256."""
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            count += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": count, "sha256": digest.hexdigest()}


def _checked(path, size, digest):
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error.strerror})") from error
    if len(content) != size:
        raise DamagedCheckpoint(f"{path} has {len(content)} bytes, not {size}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedCheckpoint(f"{path} has another SHA-256 than its manifest says")
    return content


def _sync(folder):
    """Forces to the disk which names a folder holds; Windows does so by itself and has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
