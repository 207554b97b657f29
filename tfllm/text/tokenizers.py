"""Tokenizers: strings to ids and ids to strings, the same in Python, in a graph and in a SavedModel.

`encode` and `decode` exist once, on core TensorFlow ops, so what `fit` reads, what `generate` reads and what an export does
in a bare TensorFlow process cannot differ. Vocabularies are learned by the Rust `tokenizers` library and files are its
JSON, so both sides can read them. Left out: normalisation (`cleaning.py`) and special tokens written inside a text, which are
encoded as the plain characters that they are.
"""

import functools
import json
import pathlib

import numpy as np
import tensorflow as tf

from tfllm import files

UNKNOWN_TOKEN = "<unk>"
END_TOKEN = "<|endoftext|>"


class Tokenizer(tf.Module):
    """What every tokenizer promises: `encode`, `decode`, `save`, and a fixed vocabulary.

    Concrete tokenizers say how a vector of strings becomes rows of ids (`_encode_rows`), which bytes an id stands for
    (`token_bytes`) and how they are written as JSON (`to_json`).

    Attributes:
        tokens: list of str, the vocabulary in the order of its ids.
        special_tokens: tuple of str, tokens that no text produces and that `decode` leaves out.
        vocab_size: int, how many ids there are; ids run from 0 to `vocab_size - 1`.
        end_id: int, the id of `"<|endoftext|>"`, or -1 where the vocabulary has none.
    """

    def __init__(self, tokens, special_tokens, token_bytes):
        super().__init__()
        self._vocabulary = tuple(tokens)
        self.special_tokens = tuple(special_tokens)
        self.vocab_size = len(self._vocabulary)
        self.end_id = self._vocabulary.index(END_TOKEN) if END_TOKEN in self._vocabulary else -1
        special = set(self.special_tokens)
        self._rust_tokenizer = None  # made when it is first asked for
        self._bytes_of = tf.constant(
            [b"" if token in special else text for token, text in zip(self._vocabulary, token_bytes, strict=True)]
        )

    @property
    def tokens(self):
        return list(self._vocabulary)

    def encode(self, texts):
        """Turns strings into ids; bytes that are not UTF-8 count as U+FFFD.

        Args:
            texts: str, list of str, or a string tensor (dense or ragged) of any shape.

        Returns:
            int32 ids with one more axis than `texts`: a 1-D tensor for a single string, else a `tf.RaggedTensor`.

        Example:
            >>> tokenizer = CharTokenizer.train("abc")
            >>> tokenizer.encode("cab").numpy()
            array([3, 1, 2], dtype=int32)
            >>> tokenizer.encode(["a", "bc"]).to_list()
            [[1], [2, 3]]
        """
        if isinstance(texts, tf.RaggedTensor):
            return texts.with_values(self.encode(texts.values))
        texts = tf.convert_to_tensor(texts, tf.string)
        rows = self._encode_rows(tf.reshape(texts, [-1]))
        if texts.shape.rank == 0:
            return rows.flat_values
        for axis in range(texts.shape.rank - 1, 0, -1):
            rows = tf.RaggedTensor.from_uniform_row_length(
                rows,
                tf.cast(tf.shape(texts)[axis], tf.int64),
                nrows=tf.cast(tf.reduce_prod(tf.shape(texts)[:axis]), tf.int64),
            )
        return rows

    def decode(self, ids):
        """Turns ids into strings; special tokens vanish and bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: int tensor (dense or ragged) or nested lists, rank 1 or more, values in `[0, vocab_size)`.

        Returns:
            string tensor with one axis less than `ids`.

        Raises:
            ValueError: outside a graph, when an id is out of the vocabulary.

        Example:
            >>> tokenizer = CharTokenizer.train("abc")
            >>> tokenizer.decode([3, 1, 2]).numpy()
            b'cab'
        """
        return tf.strings.unicode_transcode(self.decode_bytes(ids), "UTF-8", "UTF-8", errors="replace")

    def decode_bytes(self, ids):
        """Does what `decode` does, but leaves the bytes as they are: a string may end inside a character."""
        if isinstance(ids, list | tuple):
            ids = tf.ragged.constant(ids, tf.int32)
        if isinstance(ids, tf.RaggedTensor):
            if ids.values.shape.rank > 1:
                return ids.with_values(self.decode_bytes(ids.values))
            pieces = ids.with_values(self._lookup(ids.values))
        else:
            pieces = self._lookup(tf.convert_to_tensor(ids))
        return tf.strings.reduce_join(pieces, axis=-1)

    def _lookup(self, ids):
        if tf.executing_eagerly():
            check_ids("ids", ids, self.vocab_size)
        return tf.gather(self._bytes_of, tf.cast(ids, tf.int32))

    def encode_bulk(self, texts):
        """Encodes many strings with the Rust `tokenizers` library, which gives the ids of `encode` on all processors.

        Args:
            texts: list of str, valid Unicode.

        Returns:
            list of int32 NumPy arrays, one a text.

        Example:
            >>> [ids.tolist() for ids in CharTokenizer.train("abc").encode_bulk(["cab", ""])]
            [[3, 1, 2], []]
        """
        return [np.array(row.ids, np.int32) for row in self._rust().encode_batch_fast(list(texts))]

    def _rust(self):
        # Imported where used: reading and running a tokenizer does not need the library.
        import tokenizers

        if self._rust_tokenizer is None:
            self._rust_tokenizer = tokenizers.Tokenizer.from_str(self.to_json())
            self._rust_tokenizer.encode_special_tokens = True  # a text never makes them by accident
        return self._rust_tokenizer

    def save(self, path):
        """Writes the tokenizer as a Hugging Face `tokenizer.json`; the file appears whole or not at all.

        Args:
            path: str or path, the file to write.
        """
        files.write_whole(path, self.to_json())


def check_ids(name, ids, vocab_size):
    """Refuses ids outside `[0, vocab_size)`, which a GPU would read as zeros without a word.

    Args:
        name: str, the argument that the caller names so.
        ids: int tensor or array with values outside a graph.
        vocab_size: int, how many ids there are.

    Raises:
        ValueError: when an id is out of the vocabulary or not a whole number.
    """
    ids = np.asarray(ids)
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} must be whole numbers; got {ids.dtype.name}")
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        wrong = ids[(ids < 0) | (ids >= vocab_size)].flat[0]
        raise ValueError(f"{name} must lie in [0, vocab_size={vocab_size}); got {wrong}")


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

    def __init__(self, characters, *, special_tokens=(UNKNOWN_TOKEN,)):
        _check_special_tokens(special_tokens)
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
        characters = set().union(*_as_texts(texts))
        return cls("".join(sorted(characters)), special_tokens=special_tokens)

    def _encode_rows(self, texts):
        code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        last = tf.size(self._id_of) - 1
        return tf.ragged.map_flat_values(lambda points: tf.gather(self._id_of, tf.minimum(points, last)), code_points)

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        return _to_json(
            {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN_TOKEN},
            vocabulary,
            self.special_tokens,
            pre_tokenizer=_EVERY_CHARACTER,
            decoder={"type": "Fuse"},
        )

    @classmethod
    def from_json(cls, document):
        special = _special_tokens_of(document)
        _refuse_unless(document["model"], unk_token=(UNKNOWN_TOKEN,))
        _refuse_unless(document, pre_tokenizer=(_EVERY_CHARACTER,), normalizer=(None,), post_processor=(None,))
        tokens = _tokens_of(document["model"]["vocab"])
        characters = [token for token in tokens if token not in special]
        if any(len(character) != 1 for character in characters) or tokens[: len(special)] != list(special):
            raise ValueError(
                "tokenizer.json must hold special tokens first, then single characters; got another vocabulary"
            )
        return cls("".join(characters), special_tokens=special)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding with GPT-2's word pattern: every text can be encoded and comes back unchanged.

    Args:
        tokens: list of str, the vocabulary in the order of its ids, in GPT-2's writing of bytes as characters.
        merges: list of (str, str), the pairs to merge, the first one first.
        special_tokens: tuple of str, those of `tokens` that no text produces.

    Raises:
        ValueError: when a byte or the product of a merge is missing from `tokens`, or special tokens repeat.

    Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2), section 2.2.
    """

    def __init__(self, tokens, merges, *, special_tokens=(END_TOKEN,)):
        _check_special_tokens(special_tokens)
        id_of = {token: index for index, token in enumerate(tokens)}
        special = set(special_tokens)
        missing = [c for c in _BYTE_CHARACTERS if c not in id_of] + [a + b for a, b in merges if a + b not in id_of]
        missing += [token for token in special_tokens if token not in id_of]
        if missing:
            raise ValueError(f"tokens must hold every byte, merge and special token; got none for {missing[0]!r}")
        byte_of = {character: byte for byte, character in enumerate(_BYTE_CHARACTERS)}
        super().__init__(
            tokens,
            special_tokens,
            [b"" if token in special else bytes(byte_of[character] for character in token) for token in tokens],
        )
        self.merges = tuple((left, right) for left, right in merges)
        self._id_of_byte = tf.constant([id_of[character] for character in _BYTE_CHARACTERS])
        # Pairs are looked up in a sorted vector: no hash table, so nothing to initialise or track in an export.
        keys = np.array([id_of[a] * self.vocab_size + id_of[b] for a, b in self.merges] or [-1], np.int64)
        order = np.argsort(keys, kind="stable")
        self._pair_keys = tf.constant(keys[order])
        self._pair_ranks = tf.constant(order.astype(np.int32))
        self._merged_ids = tf.constant([id_of[a + b] for a, b in self.merges] or [-1], tf.int32)

    @classmethod
    def train(cls, texts, *, vocab_size, special_tokens=(END_TOKEN,)):
        """Learns merges from texts with the Rust `tokenizers` library.

        Args:
            texts: str or iterable of str.
            vocab_size: int, ids wanted, at least 256 and the special tokens; small texts may give fewer.
            special_tokens: tuple of str, at ids 0, 1, ...

        Returns:
            A `BPETokenizer`.

        Raises:
            ValueError: when there is no text, or `vocab_size` cannot hold the bytes and the special tokens.

        Example:
            >>> tokenizer = BPETokenizer.train("low lower lowest", vocab_size=262)
            >>> tokenizer.decode(tokenizer.encode("slow 词")).numpy().decode()
            'slow 词'
        """
        # Imported where used: reading and running a tokenizer does not need the library.
        import tokenizers

        _check_special_tokens(special_tokens)
        if vocab_size < 256 + len(special_tokens):
            raise ValueError(
                f"vocab_size must be at least 256 + {len(special_tokens)} special tokens; got vocab_size={vocab_size}"
            )
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=sorted(_BYTE_CHARACTERS),
            show_progress=False,
        )
        learner.train_from_iterator(_as_texts(texts), trainer)
        return cls.from_json(json.loads(learner.to_str()) | {"decoder": {"type": "ByteLevel"}})

    def _encode_rows(self, texts):
        code_points = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        characters, row_of = code_points.flat_values, code_points.value_rowids()
        starts = _gpt2_word_starts(characters, row_of)
        values, lengths = _utf8_bytes(characters)
        word_of = tf.repeat(tf.cumsum(tf.cast(starts, tf.int32)), lengths)
        ids, word_of = self._merge(tf.gather(self._id_of_byte, values), word_of)
        row_of_word = tf.boolean_mask(row_of, starts)
        return tf.RaggedTensor.from_value_rowids(ids, tf.gather(row_of_word, word_of - 1), nrows=code_points.nrows())

    def _merge(self, ids, word_of):
        """Merges, in every word at once, the pair of lowest rank wherever it stands, until no word has a pair left."""
        none = len(self.merges)

        def pair_ranks(ids, word_of):
            key = tf.cast(ids[:-1], tf.int64) * self.vocab_size + tf.cast(ids[1:], tf.int64)
            at = tf.minimum(tf.searchsorted(self._pair_keys, key), max(none - 1, 0))
            known = tf.equal(tf.gather(self._pair_keys, at), key) & tf.equal(word_of[:-1], word_of[1:])
            return tf.where(known, tf.gather(self._pair_ranks, at), none)  # [N - 1]

        def merge_once(ids, word_of, ranks):
            best = tf.gather(tf.math.unsorted_segment_min(ranks, word_of[:-1], word_of[-1] + 1), word_of[:-1])
            wanted = (ranks == best) & (ranks < none)
            merged = _every_other(wanted)  # in "aaa" the pairs overlap: the left one wins
            ids = tf.concat(
                [tf.where(merged, tf.gather(self._merged_ids, tf.minimum(ranks, none - 1)), ids[:-1]), ids[-1:]], 0
            )
            kept = tf.concat([[True], ~merged], 0)
            ids, word_of = tf.boolean_mask(ids, kept), tf.boolean_mask(word_of, kept)
            return ids, word_of, pair_ranks(ids, word_of)

        vector = tf.TensorShape([None])
        ids, word_of, _ = tf.while_loop(
            lambda ids, word_of, ranks: tf.reduce_any(ranks < none),
            merge_once,
            (ids, word_of, pair_ranks(ids, word_of)),
            shape_invariants=(vector, vector, vector),
        )
        return ids, word_of

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        vocabulary = {token: index for index, token in enumerate(self.tokens)}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        merges = [list(pair) for pair in self.merges]
        model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
        model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}
        return _to_json(
            model | {"vocab": vocabulary, "merges": merges},
            vocabulary,
            self.special_tokens,
            pre_tokenizer=byte_level,
            decoder=byte_level,
        )

    @classmethod
    def from_json(cls, document):
        model, splitter = document["model"], document.get("pre_tokenizer") or {}
        if splitter.get("type") != "ByteLevel":
            raise ValueError(f"tokenizer.json: pre_tokenizer must be of type ByteLevel; got {splitter or None}")
        _refuse_unless(splitter, add_prefix_space=(False,), use_regex=(True, None))
        empty = (None, "", False)
        _refuse_unless(model, continuing_subword_prefix=empty, end_of_word_suffix=empty, dropout=(None, 0.0))
        _refuse_unless(model, unk_token=(None,), byte_fallback=empty, ignore_merges=empty)
        _refuse_unless(document, normalizer=(None,))
        after = document.get("post_processor") or {}
        if after.get("type") not in (None, "ByteLevel"):  # ByteLevel only trims offsets
            raise ValueError(f"tokenizer.json: post_processor is not supported; got {after}")
        if any(not token.get("special") for token in document.get("added_tokens", [])):
            raise ValueError(
                "tokenizer.json: added_tokens must all be special; got others, which a text would match whole"
            )
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        vocabulary = model["vocab"] | {t["content"]: t["id"] for t in document.get("added_tokens", [])}
        return cls(_tokens_of(vocabulary), merges, special_tokens=_special_tokens_of(document))


def load_tokenizer(path):
    """Reads a `tokenizer.json` that `Tokenizer.save` or the Rust `tokenizers` library wrote.

    Args:
        path: str or path, the file.

    Returns:
        A `CharTokenizer` or a `BPETokenizer`.

    Raises:
        ValueError: when the file is not the JSON of a tokenizer of a supported kind.
        FileNotFoundError: when there is no such file.
    """
    kinds = {"WordLevel": CharTokenizer, "BPE": BPETokenizer}
    try:
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        kind = document["model"]["type"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"path must name a tokenizer.json; got {str(path)!r}, which is not one ({error!r})") from error
    if kind not in kinds:
        raise ValueError(f"path must name a tokenizer of a kind in {sorted(kinds)}; got {kind!r} in {str(path)!r}")
    try:
        return kinds[kind].from_json(document)
    except (KeyError, TypeError) as error:
        raise ValueError(f"path must name a whole tokenizer.json; got {str(path)!r}, which lacks {error}") from error


# ---------------------------------------------------------------- GPT-2's word pattern, without a regular expression

_NONE, _LETTER, _NUMBER, _SPACE, _OTHER = range(5)


@functools.cache
def _class_table():
    """Returns (int32 [4352], uint8 [N, 256]): the row for a block of 256 code points, and the classes in each row.

    The ranges were read off the Rust library's own regular expressions, because Python's and RE2's Unicode tables are
    older than its tables and differ between versions.
    """
    ranges = json.loads(pathlib.Path(__file__).with_name("unicode_classes.json").read_text())
    classes = np.full(0x110000, _OTHER, np.uint8)
    for name, value in (("letter", _LETTER), ("number", _NUMBER), ("space", _SPACE)):
        for first, last in ranges[name]:
            classes[first : last + 1] = value
    rows, block = np.unique(classes.reshape(-1, 256), axis=0, return_inverse=True)
    return block.reshape(-1).astype(np.int32), rows


def _gpt2_word_starts(characters, row_of):
    """Says where the words of GPT-2's pattern begin.

    The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`. RE2 has no
    look-ahead, but whether a word begins at a character depends only on its neighbours, so shifted comparisons decide it.

    Args:
        characters: int32 [N], code points of all rows, one after another.
        row_of: int [N], the row that each belongs to.

    Returns:
        bool [N], True where a word begins.
    """
    block, rows = _class_table()
    kind = tf.cast(tf.gather_nd(rows, tf.stack([tf.gather(block, characters // 256), characters % 256], 1)), tf.int32)
    same_row = tf.equal(row_of[1:], row_of[:-1])

    def before(values, fill):  # the value of the character before, in the same row
        return tf.concat([tf.fill([tf.minimum(tf.size(values), 1)], fill), tf.where(same_row, values[:-1], fill)], 0)

    def after(values, fill):
        return tf.concat([tf.where(same_row, values[1:], fill), tf.fill([tf.minimum(tf.size(values), 1)], fill)], 0)

    previous, following = before(kind, _NONE), after(kind, _NONE)
    after_blank = before(characters, 0) == ord(" ")
    word = (kind != _SPACE) & (previous != kind) & ~after_blank
    # A run of white space gives its last character to the word that follows it, if one does.
    space = (kind == _SPACE) & ((previous != _SPACE) | ((following != _SPACE) & (following != _NONE)))

    free = (previous != _OTHER) & ~after_blank  # an apostrophe inside other signs is one of them
    quote = (characters == ord("'")) & free
    one, two = after(characters, 0), after(after(characters, 0), 0)
    short = quote & tf.reduce_any(one[:, None] == [ord(c) for c in "stmd"], 1)
    long = quote & tf.reduce_any(
        (one[:, None] == [ord(c) for c in "rvl"]) & (two[:, None] == [ord(c) for c in "eel"]), 1
    )
    inside = before(short | long, False) | before(before(long, False), False)
    ended = before(before(short, False), False) | before(before(before(long, False), False), False)
    return ((word | space) & ~inside) | (ended & (kind == _LETTER))


def _utf8_bytes(characters):
    """Returns (int32 [M] bytes, int32 [N] bytes a character) of code points int32 [N], which must be valid."""
    lengths = 1 + tf.add_n([tf.cast(characters >= first, tf.int32) for first in (0x80, 0x800, 0x10000)])
    shifted = [tf.bitwise.right_shift(characters, tf.maximum(6 * (lengths - 1 - i), 0)) for i in range(4)]
    lead = tf.gather([0x00, 0xC0, 0xE0, 0xF0], lengths - 1) + shifted[0]
    tail = [0x80 + later % 0x40 for later in shifted[1:]]
    return tf.boolean_mask(tf.stack([lead, *tail], 1), tf.sequence_mask(lengths, 4)), lengths


def _every_other(flags):
    """Keeps the first, third, fifth ... flag of every run of True; bool [N] -> bool [N]."""
    index = tf.range(tf.size(flags))
    begins = flags & ~tf.concat([[False], flags[:-1]], 0)
    run = tf.cumsum(tf.cast(begins, tf.int32))
    first = tf.concat([[0], tf.boolean_mask(index, begins)], 0)
    return flags & ((index - tf.gather(first, run)) % 2 == 0)


# ---------------------------------------------------------------- files and arguments


def _byte_characters():
    """Returns 256 printable characters, one a byte, as GPT-2 writes bytes in its vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = dict(zip(printable, printable, strict=True)) | {byte: 256 + i for i, byte in enumerate(others)}
    return [chr(codes[byte]) for byte in range(256)]


_BYTE_CHARACTERS = _byte_characters()


def _as_texts(texts):
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not any(texts):
        raise ValueError(f"texts must hold at least one character; got {len(texts)} empty texts")
    return texts


def _check_special_tokens(special_tokens):
    if isinstance(special_tokens, str) or len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special_tokens must be a tuple of different strings; got {special_tokens!r}")


def _to_json(model, vocabulary, special_tokens, *, pre_tokenizer, decoder):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in special_tokens],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(document, ensure_ascii=False, indent=1)


# What `tokenizers` calls a splitter that makes every character a word.
_EVERY_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}


def _refuse_unless(part, **allowed):
    """Refuses a part of a tokenizer.json that asks for what is not built here, rather than encode differently."""
    for name, values in allowed.items():
        if part.get(name) not in values:
            raise ValueError(f"tokenizer.json: {name} must be one of {values}; got {part.get(name)!r}")


def _special_tokens_of(document):
    added = sorted(document.get("added_tokens", []), key=lambda token: token["id"])
    return tuple(token["content"] for token in added if token.get("special"))


def _tokens_of(vocabulary):
    tokens = sorted(vocabulary, key=vocabulary.get)
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"tokenizer.json: ids must run from 0 to {len(tokens) - 1} without a gap; got others")
    return tokens
