"""Files of word vectors: word2vec's text and binary formats, and an npz file that keeps n-grams too.

What is written is byte for byte what gensim writes; word2vec.c's files, which have a line end after each vector, are read
as well. Nothing is unpickled.
"""

import io
import json
import pathlib
import zipfile
import zlib

import numpy as np

from tfllm.files import write_whole

_BY_SUFFIX = {".txt": "text", ".vec": "text", ".bin": "binary", ".npz": "npz"}
_LONGEST = 100_000  # bytes of a word; a reader that finds no blank before has not found a word


def write(path, format, words, vectors, subwords=None, ngrams=None):
    """Writes words and vectors; arguments as in `WordVectors.save`, `subwords` a dict or None."""
    format = choose_format(path, format)
    if format == "npz":
        config = json.dumps(
            {"format": "tfllm word vectors 1", "words": words, "subwords": subwords}, ensure_ascii=False
        )
        parts = {"config": np.frombuffer(config.encode("utf-8", "surrogatepass"), np.uint8), "vectors": vectors}
        content = io.BytesIO()
        np.savez_compressed(content, **parts, **({} if ngrams is None else {"ngrams": ngrams}))
        write_whole(path, content.getvalue())
        return
    wrong = [word for word in words if word.split() != [word]]
    if wrong:
        raise ValueError(f"format must be 'npz' for words that hold white space; got {format!r} and {wrong[0]!r}")
    rows = [f"{len(words)} {vectors.shape[1]}\n".encode()]
    for word, vector in zip(words, vectors, strict=True):
        numbers = " ".join(map(str, vector)).encode() + b"\n" if format == "text" else vector.astype("<f4").tobytes()
        rows.append(word.encode() + b" " + numbers)
    write_whole(path, b"".join(rows))


def read(path, format=None):
    """Reads words and vectors; arguments and errors as in `WordVectors.load`.

    Returns:
        (list of str, float32 [V, D], dict or None, float32 [buckets, D] or None).
    """
    format, path = choose_format(path, format), pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file of word vectors; got {str(path)!r}, which is none")
    try:
        if format == "npz":
            return _read_npz(path)
        with path.open("rb") as file:
            count, dim = _read_header(file, path.stat().st_size)
            return *(_read_text if format == "text" else _read_binary)(file, count, dim), None, None
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"path must be a sound file in {format} format; got {str(path)!r}: {reason}") from error


def choose_format(path, format=None):
    """Returns str, the format that is asked for or that the suffix says; arguments and errors as in `WordVectors.save`."""
    if format is None:
        format = _BY_SUFFIX.get(pathlib.Path(path).suffix)
        if format is None:
            raise ValueError(f"path must end in one of {list(_BY_SUFFIX)} unless format is given; got {str(path)!r}")
    if format not in _BY_SUFFIX.values():
        raise ValueError(f"format must be 'text', 'binary' or 'npz'; got {format!r}")
    return format


def _read_header(file, size):
    fields = file.readline(100).split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        raise ValueError("its first line is not the number of words and of dimensions")
    count, dim = map(int, fields)
    if not count or not dim:
        raise ValueError(f"its first line says {count} words of {dim} dimensions")
    if count * (2 * dim + 1) > size:  # a number takes two bytes at least
        raise ValueError(f"{size:,} bytes are too few for {count:,} words of {dim} dimensions")
    return count, dim


def _read_text(file, count, dim):
    words, vectors = [], np.empty([count, dim], np.float32)
    for number in range(count):
        line = file.readline().decode()
        word, *fields = line.rstrip(" \r\n").split(" ")
        if not line.endswith("\n"):  # else a number that lost its last digits would go unnoticed
            raise ValueError(f"it ends within line {number + 2} of {count + 1}")
        if len(fields) != dim:
            raise ValueError(f"line {number + 2} has {len(fields)} numbers in place of {dim}")
        words.append(word)
        vectors[number] = fields
    if file.read().strip():
        raise ValueError(f"it goes on after its {count:,} words")
    return words, vectors


def _read_binary(file, count, dim):
    data, at = file.read(), 0
    words, vectors = [], np.empty([count, dim], np.float32)
    for number in range(count):
        blank = data.find(b" ", at, at + _LONGEST)
        end = blank + 1 + 4 * dim
        if blank < 0 or end > len(data):
            raise ValueError(f"it ends within word {number + 1:,} of {count:,}")
        words.append(data[at:blank].lstrip(b"\n").decode())
        vectors[number] = np.frombuffer(data, "<f4", dim, blank + 1)
        at = end
    if data[at:].strip(b"\n"):
        raise ValueError(f"it goes on after its {count:,} words")
    return words, vectors


def _read_npz(path):
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no whole zip file")
    with np.load(path, allow_pickle=False) as parts:
        config = json.loads(parts["config"].tobytes().decode("utf-8", "surrogatepass"))
        ngrams = parts.get("ngrams")
        return config["words"], parts["vectors"], config["subwords"], ngrams
