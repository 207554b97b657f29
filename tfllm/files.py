"""Files and folders that appear whole or not at all."""

import contextlib
import pathlib
import shutil
import tempfile


def write_whole(path, content):
    """Writes a file beside its place and renames it, so that a reader finds the old one, the new one or none.

    Args:
        path: str or path of the file.
        content: str, written as UTF-8, or bytes.
    """
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


@contextlib.contextmanager
def whole_folder(path):
    """Makes a folder beside its place and renames it at the end, so that a reader finds the old one, the new one or none.

    Args:
        path: str or path of the folder; one that stands there is replaced (see `check_free`).

    Yields:
        `pathlib.Path`, the empty folder to fill. When that fails, nothing is left of it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (partial / "new").mkdir()
        yield partial / "new"
        if path.exists():
            path.rename(partial / "old")
        try:
            (partial / "new").rename(path)
        except BaseException:
            if (partial / "old").exists():
                (partial / "old").rename(path)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(name, path, is_ours, kind, force=False):
    """Refuses to write where something stands that is not ours to replace.

    Args:
        name: str, the argument that the caller names so.
        path: str or path.
        is_ours: function of a path that says whether what stands there is of `kind`.
        kind: str, such as "a run folder".
        force: bool, whether what is of that kind may be replaced.

    Raises:
        FileExistsError: unless `path` is free, an empty folder, or with `force` of that kind.
    """
    path = pathlib.Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not is_ours(path):
        raise FileExistsError(f"{name} must be free or {kind} to replace; got {str(path)!r}, which is something else")
    if not force:
        raise FileExistsError(f"{name} must be free unless force is given; got {str(path)!r}, which is {kind}")
