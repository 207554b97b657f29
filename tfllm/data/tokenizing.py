"""Text files into shards of ids, once, so that training maps them: what `tfllm data tokenize` runs.

The ids of a document are followed by the tokenizer's end token where it has one. A shard appears when it is whole; then
`progress.json` says at which byte of which file to go on. A run that was killed continues behind its last whole shard and
leaves the bytes that it would have left without the interruption, because every cut depends on the texts alone.
`manifest.json` comes last.
"""

import collections
import concurrent.futures
import hashlib
import json
import pathlib
import re

import numpy as np

from tfllm import files as whole_files
from tfllm.data.shards import FORMATS, KIND, MANIFEST, RECORD_TOKENS, TOKENIZER, ShardWriter, make_manifest, open_shards
from tfllm.data.sources import describe_files, list_files, read_pieces, sha256_of

_PROGRESS = "progress.json"
_PARTIAL = _PROGRESS + ".partial"
_CHARACTERS = 2**21  # encoded in one call of the library
_START = {"file": 0, "byte": 0, "skip": 0, "documents": 0}


def tokenize_files(
    files, tokenizer, out, *, format="raw", shard_tokens=100_000_000, field="text", force=False, progress=None
):
    """Encodes text and JSONL files of any size into a folder of shards, or finishes what an interrupted call began.

    A text file is one document; a JSONL file holds one a line. Memory does not grow with the files. A finished folder of
    the same files, tokenizer and settings is left as it is.

    Args:
        files: path of a file or of a folder of `.txt`, `.jsonl` and `.ndjson` files, or a list of such.
        tokenizer: a tokenizer of `tfllm.text`.
        out: str or path of the folder to make.
        format: str, "raw", "tfrecord" or "arrayrecord".
        shard_tokens: int, ids in every shard but the last, a multiple of 256.
        field: str, the entry of a JSON object that holds its text.
        force: bool, whether shards that stand in `out` may be replaced, and made again even when they are the same.
        progress: None, or a function that is called before the first and after every piece with a dict of `"bytes"` done,
            `"total_bytes"` and `"tokens"` done.

    Returns:
        `Shards`, as `open_shards` gives them.

    Raises:
        ValueError: when a file is not UTF-8 text, there is no text, or a setting is wrong.
        FileNotFoundError: when a file does not exist.
        FileExistsError: when `out` holds something else.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {list(FORMATS)}; got {format!r}")
    if shard_tokens < RECORD_TOKENS or shard_tokens % RECORD_TOKENS:
        raise ValueError(f"shard_tokens must be a multiple of {RECORD_TOKENS}; got {shard_tokens}")
    out, files = pathlib.Path(out), list_files(files)
    content = tokenizer.to_json()
    plan = {
        "format": format,
        "dtype": "uint16" if tokenizer.vocab_size <= 2**16 else "int32",
        "record_tokens": RECORD_TOKENS,
        "shard_tokens": shard_tokens,
        "vocab_size": tokenizer.vocab_size,
        "end_id": tokenizer.end_id,
        "tokenizer_sha256": hashlib.sha256(content.encode()).hexdigest(),
        "field": field,
        "files": describe_files(files),
    }
    shards, position = _begin(out, plan, force)
    if shards is None:
        return open_shards(out)
    whole_files.write_whole(out / TOKENIZER, content)
    documents = _write_shards(files, tokenizer, out, plan, shards, position, progress or (lambda state: None))
    if not shards:
        _clear(out)
        raise ValueError(f"files must hold text; got {[str(file) for file in files]}, which are empty")
    whole_files.write_whole(out / MANIFEST, _to_json(make_manifest(plan, shards, documents)))
    (out / _PROGRESS).unlink()
    return open_shards(out)


def _begin(out, plan, force):
    """Returns (entries of the shards that stand, position to go on at), or (None, None) when nothing is left to do."""
    found = next((path for path in (out / MANIFEST, out / _PROGRESS) if path.exists()), None)
    # a run that was killed in its first step leaves no more than a part of its first file
    if found is None and out.exists() and (not out.is_dir() or {path.name for path in out.iterdir()} - {_PARTIAL}):
        raise FileExistsError(f"out must be free or a folder of shards; got {str(out)!r}, which is something else")
    state = _read_ours(found) if found else None
    different = [key for key in plan if state and state["plan"].get(key) != plan[key]]
    if different and state["shards"] and not force:  # with no shard yet, nothing is lost
        raise FileExistsError(
            f"out must be free unless force is given; got {str(out)!r}, which holds shards made with "
            f"{_DIFFERENCES.get(different[0], f'another {different[0]}')}"
        )
    if state and not different and not force:
        if found.name == MANIFEST:
            (out / _PROGRESS).unlink(missing_ok=True)  # left by a run that was killed in its last step
            return None, None
        if all(_stands(out / shard["file"], shard["sha256"]) for shard in state["shards"]):
            return state["shards"], state["position"]
    if state:  # to be replaced, or begun but damaged since
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    _note_progress(out, plan, [], _START)
    return [], dict(_START)


def _stands(path, digest):
    return path.is_file() and sha256_of(path) == digest


def _note_progress(out, plan, shards, position):
    document = {"kind": KIND, "plan": plan, "shards": shards, "position": position}
    whole_files.write_whole(out / _PROGRESS, _to_json(document))


def _read_ours(path):
    """Reads a manifest or a progress file, either one as dict with `"plan"`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["kind"] != KIND:
            raise KeyError("kind")
        state = document if path.name == _PROGRESS else {"plan": document, "shards": document["shards"]}
        digests = [(shard["file"], shard["sha256"]) for shard in state["shards"]]
        if not isinstance(state["plan"], dict) or (path.name == _PROGRESS and set(state["position"]) != set(_START)):
            raise TypeError(f"plan or position beside {len(digests)} shards")
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"out must be free or a folder of shards; got {str(path.parent)!r}, whose {path.name} is of something else"
        ) from error
    return state


_DIFFERENCES = {"tokenizer_sha256": "another tokenizer", "files": "other files, or with files that have changed"}
_DIFFERENCES |= {"vocab_size": "another tokenizer", "end_id": "another tokenizer", "dtype": "another tokenizer"}


def _write_shards(files, tokenizer, out, plan, shards, position, progress):
    """Appends to `shards` and returns int, the documents of all files."""
    sizes = [entry["bytes"] for entry in plan["files"]]
    tokens = sum(shard["tokens"] for shard in shards)
    skip, documents, writer = position["skip"], position["documents"], None

    def finish(position):
        shards.append(writer.finish())
        _note_progress(out, plan, shards, position)

    def show(file, byte):
        progress({"bytes": sum(sizes[:file]) + byte, "total_bytes": sum(sizes), "tokens": tokens})

    show(position["file"], position["byte"])
    pieces = read_pieces(files, plan["field"], position["file"], position["byte"])
    try:
        for piece, ids in _encode_all(pieces, tokenizer, plan["dtype"]):
            used, skip = skip, 0
            while used < len(ids):
                if writer is None:
                    path = out / f"shard-{len(shards):05d}{FORMATS[plan['format']]}"
                    writer = ShardWriter(path, plan["format"], plan["dtype"])
                part = ids[used : used + plan["shard_tokens"] - writer.num_tokens]
                writer.write(part)
                used += len(part)
                tokens += len(part)
                if writer.num_tokens == plan["shard_tokens"]:
                    finish({"file": piece.file, "byte": piece.start, "skip": used, "documents": documents})
                    writer = None
            documents += piece.ends_document
            show(piece.file, piece.end)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is not None:
        finish({"file": len(files), "byte": 0, "skip": 0, "documents": documents})
    return documents


def _encode_all(pieces, tokenizer, dtype):
    """Yields (piece, its ids with the end token); the library encodes the next texts while the caller writes these."""
    end = np.array([tokenizer.end_id] if tokenizer.end_id >= 0 else [], dtype)

    def encode(batch):
        rows = [ids.astype(dtype) for ids in tokenizer.encode_bulk([piece.text for piece in batch])]
        return [np.append(ids, end) if piece.ends_document else ids for piece, ids in zip(batch, rows, strict=True)]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = collections.deque()
        for batch in _batches(pieces):
            waiting.append((batch, pool.submit(encode, batch)))
            if len(waiting) > 2:
                batch, rows = waiting.popleft()
                yield from zip(batch, rows.result(), strict=True)
        for batch, rows in waiting:
            yield from zip(batch, rows.result(), strict=True)


def _batches(pieces):
    batch, characters = [], 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _clear(out):
    """Removes what `tokenize_files` writes, and nothing else."""
    shard = re.compile(r"shard-\d{5,}(" + "|".join(map(re.escape, FORMATS.values())) + ")")
    ours = {MANIFEST, TOKENIZER, _PROGRESS}
    for path in out.iterdir():
        name = path.name.removesuffix(".partial")
        if name in ours or shard.fullmatch(name):
            path.unlink()


def _to_json(document):
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
