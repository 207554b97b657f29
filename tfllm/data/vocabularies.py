"""Ready tokenizers: the vocabularies of GPT-2 and of BERT's uncased models, bundled with their licences."""

import json

from tfllm.data.corpora import bundled_folder, read_gzip
from tfllm.text import BPETokenizer, WordPieceTokenizer


def _gpt2(folder):
    ids = json.loads(read_gzip(folder / "gpt2.json.gz"))
    merges = read_gzip(folder / "gpt2.merges.gz").splitlines()[1:]  # the first line names the format
    return BPETokenizer(sorted(ids, key=ids.get), [tuple(line.split(" ")) for line in merges])


def _bert_uncased(folder):
    tokens = read_gzip(folder / "bert-uncased.txt.gz").removesuffix("\n").split("\n")
    return WordPieceTokenizer.from_tokens(tokens, lowercase=True)


_VOCABULARIES = {"bert-uncased": _bert_uncased, "gpt2": _gpt2}


def load_vocabulary(name):
    """Makes a tokenizer of a bundled vocabulary.

    Args:
        name: str, `"gpt2"` (50,257 ids, the very ids of OpenAI's models) or `"bert-uncased"` (30,522 ids).

    Returns:
        A `BPETokenizer` or a `WordPieceTokenizer`.

    Raises:
        ValueError: when there is no such vocabulary.

    Example:
        >>> load_vocabulary("gpt2").encode("Hello world").numpy()
        array([15496,   995], dtype=int32)
        >>> load_vocabulary("bert-uncased").encode("Hello, world!", add_special_tokens=True).numpy()
        array([ 101, 7592, 1010, 2088,  999,  102], dtype=int32)
    """
    if name not in _VOCABULARIES:
        raise ValueError(f"name must be one of {sorted(_VOCABULARIES)}; got {name!r}")
    return _VOCABULARIES[name](bundled_folder() / "vocabularies")
