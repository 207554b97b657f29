"""Tokenizers by kind and by file: characters, the kinds of `bpe.py` and `wordpiece.py`, and `tokenizer.json`."""

import json
import pathlib

import numpy as np
import tensorflow as tf

from tfllm.text.bpe import BPETokenizer
from tfllm.text.characters import BREAK, MARK
from tfllm.text.contract import UNKNOWN_TOKEN, Tokenizer, as_texts, check_ids, check_special_tokens
from tfllm.text.tokenizer_json import kind_of, pattern_of, read_shared, refuse_unless, write_document
from tfllm.text.wordpiece import WordPieceTokenizer, WordTokenizer

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "check_ids",
    "load_tokenizer",
]


class CharTokenizer(Tokenizer):
    """One id a character (Unicode code point); characters that training did not see become `"<unk>"`.

    Args:
        characters: str, the characters of the vocabulary, each once.
        special_tokens: tuple of str, at ids 0, 1, ...; the first must be `"<unk>"`.

    Raises:
        ValueError: on no characters, a repeated character, or special tokens that do not begin with `"<unk>"`.

    Example:
        >>> tokenizer = CharTokenizer("bn ao")
        >>> tokenizer.encode("no banana?").numpy()
        array([2, 5, 3, 1, 4, 2, 4, 2, 4, 0], dtype=int32)
    """

    _on_bytes = False

    def __init__(self, characters, *, special_tokens=(UNKNOWN_TOKEN,)):
        check_special_tokens(special_tokens)
        if UNKNOWN_TOKEN not in special_tokens[:1]:
            raise ValueError(f"special_tokens must begin with {UNKNOWN_TOKEN!r}; got {tuple(special_tokens)}")
        if not characters or len(set(characters)) != len(characters):
            raise ValueError(f"characters must be at least one and all different; got {characters!r}")
        tokens = [*special_tokens, *characters]
        if len(set(tokens)) != len(tokens):
            raise ValueError(f"special_tokens must not be characters of the vocabulary; got {tuple(special_tokens)}")
        super().__init__(tokens, special_tokens, [token.encode() for token in tokens])
        code_points = np.array([ord(character) for character in characters])
        ids = np.zeros(code_points.max() + 2, np.int32)  # the last entry answers for all that lies above
        ids[code_points] = np.arange(len(characters)) + len(special_tokens)
        self._id_of = tf.constant(ids)

    @classmethod
    def train(cls, texts, *, special_tokens=(UNKNOWN_TOKEN,)):
        """Makes a tokenizer of the characters of a text, in the order of their code points.

        Args:
            texts: str or iterable of str.
            special_tokens: tuple of str, beginning with `"<unk>"`.

        Returns:
            A `CharTokenizer`.

        Raises:
            ValueError: when there is no text.
        """
        characters = set().union(*as_texts(texts))
        return cls("".join(sorted(characters)), special_tokens=special_tokens)

    def _encode_points(self, points, symbols, at, num_rows, marked, offsets):
        is_break = points == BREAK
        where = tf.where(~is_break)[:, 0]
        kept = tf.gather(points, where)
        ids = tf.gather(self._id_of, tf.minimum(kept, tf.size(self._id_of) - 1))
        mark = tf.clip_by_value(kept - MARK, 0, tf.size(self._ids_of_marks) - 1)
        ids = tf.where(kept >= MARK, tf.gather(self._ids_of_marks, mark), ids)
        breaks = tf.cast(tf.where(is_break)[:, 0], tf.int32)[: num_rows + 1]
        place = tf.cast(where, tf.int32)
        return ids, breaks - tf.range(tf.size(breaks)), place, place

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        return write_document(self, {"type": "WordLevel", "unk_token": UNKNOWN_TOKEN}, {"type": "Fuse"})

    @classmethod
    def from_json(cls, document):
        tokens, shared = read_shared(document, ("characters",))
        special = shared["special_tokens"]
        refuse_unless(document["model"], unk_token=(UNKNOWN_TOKEN,))
        refuse_unless(document, normalizer=(None,), post_processor=(None,), decoder=({"type": "Fuse"},))
        characters = [token for token in tokens if token not in special]
        if any(len(character) != 1 for character in characters) or tokens[: len(special)] != list(special):
            raise ValueError(
                "tokenizer.json must hold special tokens first, then single characters; got another vocabulary"
            )
        return cls("".join(characters), special_tokens=special)


def load_tokenizer(path):
    """Reads a `tokenizer.json` that `Tokenizer.save`, the Rust `tokenizers` library or `transformers` wrote.

    Its `truncation` and `padding` are left out: they belong to batches, not to texts.

    Args:
        path: str or path, the file.

    Returns:
        A `CharTokenizer`, `WordTokenizer`, `BPETokenizer` or `WordPieceTokenizer`.

    Raises:
        ValueError: when the file is not the JSON of a tokenizer of a supported kind.
        FileNotFoundError: when there is no such file.
    """
    kinds = {"WordLevel": WordTokenizer, "BPE": BPETokenizer, "WordPiece": WordPieceTokenizer}
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"path must name a file; got {str(path)!r}, which is none")
    try:
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        kind = kind_of(document)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(
            f"path must name a tokenizer.json; got {str(path)!r}, which is not one ({type(error).__name__})"
        ) from error
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"path must name a tokenizer of a kind in {sorted(kinds)}; got {kind!r} in {str(path)!r}")
    try:
        if kind == "WordLevel" and _cuts_characters(document):
            return CharTokenizer.from_json(document)
        return kinds[kind].from_json(document)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"path must name a whole tokenizer.json; got {str(path)!r}, which lacks {error}") from error


def _cuts_characters(document):
    try:
        return pattern_of(document, ("characters",)) == "characters"
    except ValueError:
        return False
