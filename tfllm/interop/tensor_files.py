"""Safetensors files: one, or several with an index. Every header is checked before anything is read.

Source: the format's page, github.com/huggingface/safetensors: 8 bytes of length, a JSON header, then the tensors without
gaps.
"""

import contextlib
import json
import math
import pathlib

import numpy as np
import tensorflow as tf

from tfllm import files
from tfllm.interop.layouts import Source

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # bytes, as the library has it
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BYTES = _FLOATS | {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}  # of masks that old checkpoints carry


@contextlib.contextmanager
def open_tensors(folder):
    """Opens the safetensors of a checkpoint folder.

    Args:
        folder: `pathlib.Path`.

    Yields:
        A `Source`; its arrays are float16, float32 or float64, bfloat16 becomes float32.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file is damaged or has tensors that are no floats.
        ImportError: without the package safetensors.
    """
    safe_open = _library().safe_open
    place = _find_tensors(folder)
    headers = {path: _header(path) for path in dict.fromkeys(place.values())}
    for name, path in place.items():
        if name not in headers[path]:
            raise ValueError(f"{INDEX}: weight_map must name tensors of its files; got {name!r} in {path.name}")
    kinds = {name: headers[path][name] for name, path in place.items()}
    with contextlib.ExitStack() as stack:
        opened = {path: stack.enter_context(safe_open(path, framework="np")) for path in headers}

        def read(name):
            if kinds[name][0] not in _FLOATS:
                raise ValueError(f"checkpoint must hold {name!r} as one of {tuple(_FLOATS)}; got {kinds[name][0]}")
            array = opened[place[name]].get_tensor(name)
            return array if array.dtype.kind == "f" else array.astype(np.float32)

        yield Source({name: shape for name, (_, shape) in kinds.items()}, read)


def write_tensors(folder, found, max_shard_bytes):
    """Writes weights as safetensors files, one or, above `max_shard_bytes`, several with an index.

    Args:
        folder: `pathlib.Path`, an existing folder.
        found: list of `Placement`.
        max_shard_bytes: int, the most bytes of tensors in a file, unless one weight alone has more.
    """
    save_file = _library().numpy.save_file
    shards, total = [[]], 0
    room = max_shard_bytes
    for part in found:
        size = sum(map(math.prod, part.shapes)) * (4 if part.weight is None else tf.as_dtype(part.weight.dtype).size)
        if size > room and shards[-1]:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(part)
        room -= size
        total += size
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    names = names if len(shards) > 1 else [SINGLE]
    for name, shard in zip(names, shards, strict=True):
        save_file(dict(piece for part in shard for piece in part.pieces()), folder / name, metadata={"format": "pt"})
    if len(shards) > 1:
        where = {
            tensor: name for name, shard in zip(names, shards, strict=True) for part in shard for tensor in part.names
        }
        files.write_whole(
            folder / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2)
        )


def has_tensors(folder):
    """Says whether a folder holds safetensors of a checkpoint."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _find_tensors(folder):
    """Returns dict of tensor names to the paths of the files that hold them."""
    if (folder / SINGLE).is_file():
        return dict.fromkeys(_header(folder / SINGLE), folder / SINGLE)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"folder must hold {SINGLE} or {INDEX}; got {str(folder)!r}, which has neither")
    try:
        place = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{INDEX} must hold a weight_map; got {error!r}") from error
    for name in place.values():
        if not isinstance(name, str) or name != pathlib.PurePath(name).name or "\\" in name:
            raise ValueError(f"{INDEX}: weight_map must name files of its own folder; got {name!r}")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"folder must hold every file of {INDEX}; got {str(folder)!r} without {name!r}")
    return {tensor: folder / name for tensor, name in place.items()}


def _header(path):
    """Returns dict of tensor names to (dtype, shape), after checking that they fill the file without gap or overlap."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{path.name} must begin with the length of its header; got {length} in {size} bytes")
        try:
            entries = json.loads(file.read(length), object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} must have a header of JSON; got {str(error)[:80]}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{path.name} must have a header that is an object; got {type(entries).__name__}")
    notes = entries.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ValueError(f"{path.name} must have texts as its __metadata__; got {str(notes)[:80]}")
    for name, entry in entries.items():
        _check_entry(path.name, name, entry)
    end, room = 0, size - 8 - length
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            raise ValueError(f"{path.name}: {name!r} must begin at byte {end}, without gap or overlap; got {first}")
        if last > room:
            raise ValueError(f"{path.name}: {name!r} must end within the {room} bytes of tensors; got {last}")
        end = last
    if end != room:
        raise ValueError(f"{path.name} must end with its last tensor, after {end} bytes of tensors; got {room}")
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}


def _check_entry(file, name, entry):
    """Refuses an entry of a header whose shape, dtype and offsets do not agree."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str) or entry["dtype"] not in _BYTES:
        found = entry.get("dtype") if isinstance(entry, dict) else entry
        raise ValueError(f"{file}: {name!r} must have a dtype in {tuple(_BYTES)}; got {str(found)[:80]!r}")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    for field, values in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
        if not whole or (values is offsets and len(values) != 2):
            raise ValueError(f"{file}: {name!r} must have a {field} of whole numbers; got {str(values)[:80]}")
    expected = math.prod(shape) * _BYTES[entry["dtype"]]
    if offsets[1] - offsets[0] != expected:
        raise ValueError(
            f"{file}: {name!r} must have {expected} bytes for {entry['dtype']} of shape {tuple(shape)}; "
            f"got {offsets[1] - offsets[0]}"
        )


def _without_repeats(pairs):
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name that is given twice")
    return entries


def _library():
    try:
        # Imported where used: only checkpoints need it.
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install tfllm[huggingface]") from error
    return safetensors
