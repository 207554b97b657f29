"""Text files and JSONL files of any size as pieces of text, in bounded memory.

A text file is one document. It is cut behind line ends that stand between two characters that are not white space, the first
one after 16 KiB: byte-level BPE, WordPiece, words and characters give the pieces the ids that they give the whole text. The
places depend on the file alone, not on how much is read at a time. Only where 1 MiB has no such line end does a piece end
at a space, or else inside a word. A JSONL file holds one document a line. Byte order marks and `\\r\\n` are taken away as
`load_text` does it.
"""

import dataclasses
import hashlib
import json
import pathlib
import re

_SHORTEST, _LONGEST = 2**14, 2**20  # bytes of a piece
_BLOCK = 2**22  # bytes read at a time
_AROUND = 8  # bytes that decide whether a line end stands between words
_JSON_SUFFIXES = (".jsonl", ".ndjson")
_TEXT_SUFFIXES = (".txt", *_JSON_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a document.

    Attributes:
        file: int, the number of the file.
        start, end: int, bytes of the file that the piece covers.
        text: str, never empty.
        ends_document: bool, whether the document ends with it.
    """

    file: int
    start: int
    end: int
    text: str
    ends_document: bool


def list_files(paths):
    """Finds the files that a path, or a list of paths, means.

    Args:
        paths: str or path of a file, or of a folder, whose `.txt`, `.jsonl` and `.ndjson` files (those of its subfolders
            too) count in the order of their paths; or a list of such.

    Returns:
        list of `pathlib.Path`, not empty.

    Raises:
        FileNotFoundError: when there is no such file or folder, or a folder holds none of them.
        ValueError: when `paths` is empty.
    """
    paths = [paths] if isinstance(paths, str | pathlib.PurePath) else list(paths)
    if not paths:
        raise ValueError("files must name at least one file; got none")
    files = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in _TEXT_SUFFIXES and file.is_file())
            if not found:
                raise FileNotFoundError(
                    f"files must be files, or folders with {', '.join(_TEXT_SUFFIXES)} files; got {str(path)!r}, "
                    "which has none"
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"files must name files or folders; got {str(path)!r}, which does not exist")
    return files


def describe_files(files):
    """Returns list of dict with `"name"` (without its folder), `"bytes"` and `"sha256"`, one a file."""
    return [{"name": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files]


def sha256_of(path):
    """Returns str, the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_pieces(files, field="text", first_file=0, offset=0):
    """Reads text and JSONL files piece by piece.

    Args:
        files: list of paths; those that end in `.jsonl` or `.ndjson` hold a JSON object a line.
        field: str, the entry of a JSON object that holds its text.
        first_file, offset: int, where to begin: a file's number, and the byte at which one of its pieces starts.

    Yields:
        `Piece`, in the order of the files. Empty files, empty lines and empty texts give none.

    Raises:
        ValueError: when a file is not UTF-8 text, or a line is not a JSON object with a text in `field`; the sentence names
            the file and the byte.
    """
    for number in range(first_file, len(files)):
        path = pathlib.Path(files[number])
        is_json = path.suffix in _JSON_SUFFIXES
        pieces = _json_lines(path, field, offset) if is_json else _text_pieces(path, offset)
        for start, end, text, ends_document in pieces:
            if text:
                yield Piece(number, start, end, text, ends_document)
        offset = 0


def _text_pieces(path, offset):
    with open(path, "rb") as file:
        file.seek(offset)
        data, at, whole = b"", 0, False
        while True:
            while len(data) - at < _LONGEST and not whole:
                block = file.read(_BLOCK)
                data, at, whole = data[at:] + block, 0, not block
            if at == len(data):
                return
            cut = _cut(data, at, whole)
            text = _decode(path, data[at:cut], offset).replace("\r\n", "\n").replace("\r", "\n")
            yield offset, offset + cut - at, text, whole and cut == len(data)
            offset, at = offset + cut - at, cut


def _cut(data, at, whole):
    """Says where the piece that begins at `at` ends; `whole` says that the file ends where `data` ends."""
    limit = min(at + _LONGEST, len(data)) - _AROUND
    line_end = data.find(b"\n", at + _SHORTEST, max(limit, 0))
    while line_end >= 0:
        before = line_end - (data[line_end - 1] == 0x0D)
        if _is_word(data[before - 4 : before], -1) and _is_word(data[line_end + 1 : line_end + 5], 0):
            return line_end + 1
        line_end = data.find(b"\n", line_end + 1, limit)
    if whole and len(data) - at <= _LONGEST:
        return len(data)
    space = data.rfind(b" ", at + _SHORTEST, limit)
    if space >= 0 and _is_word(data[space - 4 : space], -1) and _is_word(data[space + 1 : space + 5], 0):
        return space
    while 0x80 <= data[limit] < 0xC0 or data[limit] == 0x0A:  # inside a character, or between "\r" and "\n"
        limit -= 1
    return limit


def _is_word(around, place):
    """Says whether the first (0) or last (-1) character of a few bytes is neither white space nor a control character."""
    text = around.decode("utf-8", "ignore")
    return bool(text) and text[place].isprintable() and not text[place].isspace()


def _json_lines(path, field, offset):
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            start, offset = offset, offset + len(line)
            text = _decode(path, line, start)
            if not text.strip():
                continue
            try:
                text = json.loads(text)[field]
            except (ValueError, KeyError, TypeError, IndexError):
                text = None
            if not isinstance(text, str):
                raise ValueError(
                    f"files: {str(path)!r} must hold on every line a JSON object with a text in {field!r}; got another "
                    f"line at byte {start}"
                )
            yield start, offset, re.sub("[\ud800-\udfff]", "\ufffd", text), True


def _decode(path, data, offset):
    zero = data.find(0)
    if zero >= 0:
        raise ValueError(
            f"files must be UTF-8 text; got {str(path)!r}, which has a NUL byte at byte {offset + zero} "
            "(a binary file, or UTF-16)"
        )
    try:
        return data.decode("utf-8" if offset else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"files must be UTF-8 text; got {str(path)!r}, which is not at byte {offset + error.start}"
        ) from error
