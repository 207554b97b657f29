"""Shards: a folder of token ids on disk, read at any place without loading it.

`manifest.json` lists the files with their token counts and SHA-256, the dtype and the tokenizer, which stands beside it as
`tokenizer.json`. Together the shards hold one stream of ids, `shard_tokens` in every one but the last. Three formats:

- `raw`: the ids one after another, memory-mapped.
- `tfrecord`: records of 256 ids, so that a record's place in the file can be computed; memory-mapped too, and readable by
  `tf.data.TFRecordDataset` and `tf.io.decode_raw`.
- `arrayrecord`: records of 256 ids, read by the extra `array_record`, in Python.

The last record is filled up with zeros, which `num_tokens` does not count.
"""

import dataclasses
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from tfllm.data.sources import sha256_of
from tfllm.text import load_tokenizer

FORMATS = {"raw": ".bin", "tfrecord": ".tfrecord", "arrayrecord": ".array_record"}
RECORD_TOKENS = 256
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
KIND, _VERSION = "tfllm shards", 1
_DTYPES = {"uint16": tf.uint16, "int32": tf.int32}
_WRITTEN_AT_ONCE = 2**18  # ids
_ANONYMOUS = (
    "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's name for a resource that ends with its last reference
)
_FRAME = (12, 4)  # bytes before and after a TFRecord's content: length and its checksum, checksum of the content


@dataclasses.dataclass(frozen=True)
class Shards:
    """An open folder of shards; `open_shards` makes it.

    Attributes:
        folder: `pathlib.Path`.
        manifest: dict, the content of `manifest.json`.
    """

    folder: pathlib.Path
    manifest: dict

    @property
    def num_tokens(self):
        """int, ids in all shards together."""
        return self.manifest["tokens"]

    @property
    def vocab_size(self):
        """int, ids lie in `[0, vocab_size)`."""
        return self.manifest["vocab_size"]

    def load_tokenizer(self):
        """Returns the tokenizer that made the ids."""
        return load_tokenizer(self.folder / TOKENIZER)

    def make_gather(self, unit):
        """Makes a function that reads ids anywhere; it runs in a graph and maps the files, so that memory stays constant.

        Args:
            unit: int, a divisor of 256, ids in a unit.

        Returns:
            function of int64 [N], numbers of units counted from the beginning of the stream, to ids [N, unit] in the
            dtype of the shards (uint16 or int32).
        """
        paths = [str((self.folder / shard["file"]).resolve()) for shard in self.manifest["shards"]]
        records = [-(-shard["tokens"] // RECORD_TOKENS) for shard in self.manifest["shards"]]
        dtype = _DTYPES[self.manifest["dtype"]]
        if self.manifest["format"] == "raw":
            return gather_over(
                [_map(path, dtype, [n * RECORD_TOKENS // unit, unit]) for path, n in zip(paths, records, strict=True)]
            )
        if self.manifest["format"] == "tfrecord":
            before, after = (size // dtype.size for size in _FRAME)
            width = before + RECORD_TOKENS + after
            gather = gather_over([_map(path, dtype, [n, width]) for path, n in zip(paths, records, strict=True)])

            def read_records(numbers):
                return gather(numbers)[:, before : before + RECORD_TOKENS]
        else:
            read_records = _array_record_gather(paths, records[0], dtype)
        per_record = RECORD_TOKENS // unit

        def gather_units(numbers):
            found = tf.reshape(read_records(numbers // per_record), [-1, per_record, unit])
            return tf.gather(found, numbers % per_record, batch_dims=1)

        return gather_units

    def read(self, start, stop):
        """Reads a part of the stream.

        Args:
            start, stop: int, `0 <= start <= stop <= num_tokens`.

        Returns:
            int32 NumPy array [stop - start].

        Raises:
            ValueError: when the part is not in the stream.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise ValueError(f"start and stop must lie in [0, {self.num_tokens}] in order; got {start} and {stop}")
        first = start // RECORD_TOKENS
        with tf.device("CPU:0"):
            records = self.make_gather(RECORD_TOKENS)(tf.range(first, -(-stop // RECORD_TOKENS), dtype=tf.int64))
        ids = records.numpy().reshape(-1)[start - first * RECORD_TOKENS :]
        return ids[: stop - start].astype(np.int32)


def _map(path, dtype, shape):
    """Maps a file as a tensor without a copy; the mapping lives as long as the tensor.

    The operation `ImmutableConst` would read the whole file once when it is first run. DLPack has no word for "read only", so
    the mapping is private ("c"): what nobody writes is never copied, and the file cannot change.
    """
    mapped = np.memmap(path, dtype.as_numpy_dtype, "c", shape=tuple(shape))
    with tf.device("CPU:0"):
        return tf.experimental.dlpack.from_dlpack(mapped.__dlpack__())


def gather_over(tables):
    """Makes a function that gathers rows of tables as if they stood under each other; all but the last are of one height.

    Args:
        tables: list of tensors [rows, width].

    Returns:
        function of int64 [N] to the rows [N, width]; it runs in a graph and does not copy the tables.
    """
    height = int(tables[0].shape[0])
    readers = [_share(table) for table in tables]
    if len(readers) == 1:
        return lambda numbers: tf.gather(readers[0](), numbers)

    def gather(numbers):
        table_of = tf.cast(numbers // height, tf.int32)
        wanted = tf.dynamic_partition(numbers % height, table_of, len(readers))
        places = tf.dynamic_partition(tf.range(tf.size(numbers)), table_of, len(readers))
        return tf.dynamic_stitch(places, [tf.gather(read(), rows) for read, rows in zip(readers, wanted, strict=True)])

    return gather


def _share(tensor):
    """Makes a function that gives a tensor to any graph without a copy.

    `tf.data` writes the tensors that a function captures into the graph when it rewrites one, which doubles the memory and
    fails at 2 GB; a variable is captured as a handle, and shares its tensor with its readers. It is made by hand because
    `tf.Variable` would be mirrored in the scope of a strategy.
    """
    shape, dtype = tensor.shape, tensor.dtype
    with tf.init_scope(), tf.device("CPU:0"):
        handle = tf.raw_ops.VarHandleOp(dtype=dtype, shape=shape, shared_name=_ANONYMOUS)
        tf.raw_ops.AssignVariableOp(resource=handle, value=tensor)
    return lambda: tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), shape)


def _array_record_gather(paths, height, dtype):
    readers = [open_array_record(path) for path in paths]

    def read(numbers):
        content = np.empty([len(numbers), RECORD_TOKENS], dtype.as_numpy_dtype)
        for shard in np.unique(numbers // height):
            places = np.flatnonzero(numbers // height == shard)
            found = readers[shard].read((numbers[places] % height).tolist())
            content[places] = np.frombuffer(b"".join(found), content.dtype).reshape(-1, RECORD_TOKENS)
        return content

    def gather(numbers):
        content = tf.numpy_function(read, [numbers], dtype, stateful=False)
        return tf.ensure_shape(content, [None, RECORD_TOKENS])

    return gather


def open_array_record(path, mode="r"):
    """Opens an ArrayRecord file to read, or to write with one record a group, which is what random access wants."""
    try:
        # Imported where used: an extra.
        from array_record.python import array_record_module
    except ImportError as error:
        raise ValueError("format arrayrecord needs the extra: pip install tfllm[arrayrecord]") from error
    if mode == "w":
        return array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
    return array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")


def open_shards(folder, *, verify=False):
    """Opens a folder of shards that `tokenize_files` or `tfllm data tokenize` wrote.

    Args:
        folder: str or path.
        verify: bool, whether to read every file and compare its SHA-256; sizes are always compared.

    Returns:
        `Shards`.

    Raises:
        FileNotFoundError: when there is no finished folder of shards, or a shard is missing.
        ValueError: when the manifest is not one, or a file is not the one that the manifest describes.
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"folder must be a finished folder of shards; got {str(folder)!r}, which has no {MANIFEST}"
        )
    manifest = _read_manifest(folder)
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise FileNotFoundError(
                f"folder must hold every shard of its manifest; got {str(folder)!r} without {path.name}"
            )
        if path.stat().st_size != shard["bytes"]:
            raise ValueError(
                f"folder must hold whole shards; got {str(path)!r} of {path.stat().st_size} bytes, where the manifest "
                f"says {shard['bytes']}"
            )
    if verify:
        digests = [(folder / shard["file"], shard["sha256"]) for shard in manifest["shards"]]
        for path, digest in [*digests, (folder / TOKENIZER, manifest["tokenizer_sha256"])]:
            if sha256_of(path) != digest:
                raise ValueError(f"folder must hold unchanged files; got {str(path)!r}, whose SHA-256 is another one")
    return Shards(folder, manifest)


def make_manifest(plan, shards, documents):
    """Returns dict, what `manifest.json` says of finished shards."""
    tokens = sum(shard["tokens"] for shard in shards)
    return {"kind": KIND, "version": _VERSION, **plan, "tokens": tokens, "documents": documents, "shards": shards}


def _read_manifest(folder):
    foreign = f"folder must hold a {MANIFEST} of {KIND}; got {str(folder)!r}"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["kind"] != KIND or manifest["version"] != _VERSION:
            raise ValueError(f"{foreign}, whose kind is {manifest['kind']!r}, version {manifest['version']!r}")
        known = manifest["format"] in FORMATS and manifest["dtype"] in _DTYPES
        known = known and manifest["record_tokens"] == RECORD_TOKENS and manifest["vocab_size"] > 0
        counts = [shard["tokens"] for shard in manifest["shards"]]
        full = manifest["shard_tokens"]
        fits = counts and all(count == full for count in counts[:-1]) and 0 < counts[-1] <= full
        fits = fits and full % RECORD_TOKENS == 0 and sum(counts) == manifest["tokens"]
        sizes = all(_is_right_size(shard, manifest) for shard in manifest["shards"])
        # a name with a folder in it could lead out of this one
        names = all(pathlib.PurePath(shard["file"]).name == shard["file"] for shard in manifest["shards"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{foreign}, which is not one ({error!r})") from error
    if not (known and fits and names and sizes):
        raise ValueError(f"{foreign}, whose entries contradict each other")
    return manifest


def _is_right_size(shard, manifest):
    records, width = -(-shard["tokens"] // RECORD_TOKENS), RECORD_TOKENS * _DTYPES[manifest["dtype"]].size
    sizes = {"raw": records * width, "tfrecord": records * (width + sum(_FRAME))}
    return shard["bytes"] == sizes.get(manifest["format"], shard["bytes"])


class ShardWriter:
    """Writes one shard beside its place; `finish` renames it when it is whole and on disk.

    Args:
        path: `pathlib.Path` of the shard.
        format: str, one of `FORMATS`.
        dtype: str, "uint16" or "int32".
    """

    def __init__(self, path, format, dtype):
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._dtype, self._waiting, self._count = np.dtype(dtype), [], 0
        self._format = format
        openers = {
            "raw": lambda partial: open(partial, "wb"),  # noqa: SIM115, closed by finish
            "tfrecord": tf.io.TFRecordWriter,
            "arrayrecord": lambda partial: open_array_record(partial, "w"),
        }
        self._file = openers[format](str(self._partial))
        self.num_tokens = 0

    def write(self, ids):
        """Appends ids, an int array [N]."""
        self._waiting.append(ids)
        self._count += len(ids)
        self.num_tokens += len(ids)
        if self._count >= _WRITTEN_AT_ONCE:
            ids = np.concatenate(self._waiting)
            whole = len(ids) - len(ids) % RECORD_TOKENS
            self._write_records(ids[:whole])
            self._waiting, self._count = [ids[whole:]], len(ids) - whole

    def finish(self):
        """Ends the shard and returns dict, its entry in the manifest."""
        ids = np.concatenate([np.zeros(0, self._dtype), *self._waiting])
        self._write_records(np.pad(ids, (0, -len(ids) % RECORD_TOKENS)))
        self._file.close()
        with open(self._partial, "rb+") as file:
            os.fsync(file.fileno())
        entry = {
            "file": self._path.name,
            "tokens": self.num_tokens,
            "bytes": self._partial.stat().st_size,
            "sha256": sha256_of(self._partial),
        }
        self._partial.replace(self._path)
        return entry

    def abandon(self):
        """Closes the file and leaves what is there of it beside its place."""
        self._file.close()

    def _write_records(self, ids):
        content = ids.astype(self._dtype).tobytes()
        if self._format == "raw":
            self._file.write(content)
            return
        width = RECORD_TOKENS * self._dtype.itemsize
        for start in range(0, len(content), width):
            self._file.write(content[start : start + width])
