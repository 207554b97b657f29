"""Text by name or by path: the bundled corpora and a user's own files.

Left out: data sets with fields and splits (`datasets.py`) and cleaning. Origin and licence of every bundled corpus are in
`data/README.md`.
"""

import csv
import gzip
import io
import pathlib


def _shakespeare(folder):
    return read_gzip(folder / "shakespeare.txt.gz")


def _wiki(folder):
    return read_gzip(folder / "wiki.txt.gz")


def _poetry(folder):
    lines = []
    for name in ("tang_quatrains", "tang_regulated_8line_sample", "songci_300"):
        table = read_gzip(folder / "poetry" / f"{name}.tsv.gz")
        lines += [row["text"] for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE)]
    return "\n".join(lines) + "\n"


_CORPORA = {"shakespeare": _shakespeare, "poetry": _poetry, "wiki": _wiki}


def corpus_names():
    """Returns list of str, the names that `load_text` knows."""
    return sorted(_CORPORA)


def load_text(source):
    """Reads a bundled corpus, a text file, or every `.txt` file of a folder.

    Args:
        source: str or path. A name of `corpus_names()`, else the path of a UTF-8 file or of a folder, whose `.txt`
            files (those of its subfolders too) are joined in the order of their paths with an empty line between
            them. Write `./shakespeare` for a path that has the name of a corpus.

    Returns:
        str, never empty; a byte order mark is left out and line ends are `\\n`.

    Raises:
        ValueError: when `source` is neither, a file is not UTF-8, or there is no text.

    Example:
        >>> load_text("shakespeare")[:14]
        'First Citizen:'
    """
    if str(source) in _CORPORA:
        return _CORPORA[str(source)](bundled_folder())
    path = pathlib.Path(source)
    if not str(source):
        raise ValueError(f"source must be one of {corpus_names()}, or the path of a file or folder; got {source!r}")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise ValueError(f"source must be a folder with .txt files; got {str(source)!r}, which has none")
    elif path.is_file():
        files = [path]
    else:
        raise ValueError(
            f"source must be one of {corpus_names()}, or the path of a file or folder; got {str(source)!r}"
        )
    text = "\n\n".join(_read_utf8(file) for file in files)
    if not text.strip():
        raise ValueError(f"source must hold text; got {str(source)!r}, which is empty")
    return text


def bundled_folder():
    """Finds the corpora: inside the package when installed from a wheel, else in the checkout around the package."""
    installed = pathlib.Path(__file__).with_name("bundled")
    return installed if installed.is_dir() else pathlib.Path(__file__).parents[2] / "data"


def read_gzip(path):
    """Returns str, the text of a UTF-8 file compressed by gzip."""
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def _read_utf8(path):
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"source must be UTF-8 text; got {str(path)!r}, which is not at byte {error.start}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
