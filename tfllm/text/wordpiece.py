"""Words and pieces of words: WordLevel and WordPiece, the tokenizers of BERT and of every tutorial's `Tokenizer`.

Source: Schuster and Nakajima 2012 (WordPiece); Devlin et al. 2019, arXiv:1810.04805; Wu et al. 2016, arXiv:1609.08144.
"""

import json
import pathlib

import tensorflow as tf

from tfllm.text.contract import UNKNOWN_TOKEN, Tokenizer, as_texts, check_special_tokens, encode_rest, put_together
from tfllm.text.tokenizer_json import (
    WORD_PATTERNS,
    check_pattern,
    pre_tokenizer_of,
    read_shared,
    write_document,
)
from tfllm.text.words import WordIndex, hash_slices, repeat, running_hashes

BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What BERT's decoder does to the pieces of a text, each by itself.
_CLEANED = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"))
_CLEANED += ((" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


_INSIDE = 0x5851F42D4C957F2D  # tells the hashes of pieces inside a word from those at its beginning


def _characters(text):
    return [ord(character) for character in text]


class WordTokenizer(Tokenizer):
    """One id a word; words that training did not see become the unknown token.

    Decoding puts one blank between words, because the blanks of the text are not kept.

    Args:
        words: list of str, the vocabulary in the order of its ids, special tokens included.
        special_tokens: tuple of str, those of `words` that no text produces; with the unknown token.
        unknown_token: str, what other words become.
        pattern: str, how a text is cut into words: `"words"` (words, and runs of signs), `"whitespace"` or `"bert"`.
        added_tokens: tuple of str, those of `words` that are not special but stand whole in a text.
        token_flags: dict of str to tuple of str, `lstrip`, `rstrip`, `single_word` of tokens that stand whole.
        normalizer: dict or None, the `normalizer` of a tokenizer.json.
        post_processor: dict or None, the `post_processor` of a tokenizer.json.

    Raises:
        ValueError: when words repeat or the unknown token is not one of them.

    Example:
        >>> tokenizer = WordTokenizer.train("to be, or not to be", vocab_size=4)
        >>> tokenizer.tokens
        ['<unk>', 'be', 'to', ',']
        >>> tokenizer.encode("not to be").numpy()
        array([0, 2, 1], dtype=int32)
    """

    _on_bytes = False

    def __init__(
        self,
        words,
        *,
        special_tokens=(UNKNOWN_TOKEN,),
        unknown_token=UNKNOWN_TOKEN,
        pattern="words",
        added_tokens=(),
        token_flags=None,
        normalizer=None,
        post_processor=None,
    ):
        check_pattern(pattern, WORD_PATTERNS)
        _check_words("words", words, unknown_token)
        super().__init__(
            words,
            special_tokens,
            [f" {word}".encode() for word in words],
            first_bytes=[word.encode() for word in words],
            pattern=pattern,
            added_tokens=added_tokens,
            token_flags=token_flags,
            normalizer=normalizer,
            post_processor=post_processor,
        )
        self.unknown_token, self.unknown_id = unknown_token, self.id_of(unknown_token)
        self._words = _index_of(self._plain.tokens, self.special_tokens + self.added_tokens)

    @classmethod
    def train(cls, texts, *, vocab_size, special_tokens=(UNKNOWN_TOKEN,), pattern="words", lowercase=False):
        """Counts the words of texts with the Rust `tokenizers` library and keeps the most frequent ones.

        Args:
            texts: str or iterable of str.
            vocab_size: int, ids wanted, special tokens included; small texts may give fewer.
            special_tokens: tuple of str, at ids 0, 1, ...; with `"<unk>"`.
            pattern: str, how a text is cut into words, as for the class.
            lowercase: bool, whether texts are written in lower case first.

        Returns:
            A `WordTokenizer`.

        Raises:
            ValueError: when there is no text, or no room for a word.
        """
        # Imported where used: reading and running a tokenizer does not need the library.
        import tokenizers

        check_pattern(pattern, WORD_PATTERNS)
        _check_size(vocab_size, special_tokens, UNKNOWN_TOKEN)
        document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer_of(pattern)}
        document["normalizer"] = {"type": "Lowercase"} if lowercase else None
        document["model"] = {"type": "WordLevel", "vocab": {}, "unk_token": UNKNOWN_TOKEN}
        learner = tokenizers.Tokenizer.from_str(json.dumps(document))
        trainer = tokenizers.trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=list(special_tokens), show_progress=False
        )
        learner.train_from_iterator(as_texts(texts), trainer)
        return cls.from_json(json.loads(learner.to_str()))

    def _encode_words(self, symbols, first, lengths):
        ids = self._words.find(symbols, first, lengths)
        return tf.where(ids < 0, self.unknown_id, ids), tf.ones_like(ids)

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        return write_document(self, {"type": "WordLevel", "unk_token": self.unknown_token}, None)

    @classmethod
    def from_json(cls, document):
        words, shared = read_shared(document, WORD_PATTERNS)
        if document.get("decoder") is not None:
            raise ValueError(f"tokenizer.json: decoder of words must be null; got {document['decoder']}")
        return cls(words, unknown_token=document["model"]["unk_token"], **shared)


class WordPieceTokenizer(Tokenizer):
    """The longest known piece from the left, again and again; a word that cannot be cut so becomes the unknown token.

    Args:
        tokens: list of str, the vocabulary in the order of its ids; pieces that continue a word begin with the prefix.
        special_tokens: tuple of str, those of `tokens` that no text produces; with the unknown token.
        unknown_token: str, what a word becomes that cannot be cut into pieces.
        prefix: str, what pieces inside a word begin with.
        longest_word: int, characters; a longer word becomes the unknown token.
        cleanup: bool, whether decoding leaves out the blank before a full stop and the like.
        pattern: str, how a text is cut into words: `"bert"`, `"words"` or `"whitespace"`.
        added_tokens: tuple of str, those of `tokens` that are not special but stand whole in a text.
        token_flags: dict of str to tuple of str, `lstrip`, `rstrip`, `single_word` of tokens that stand whole.
        normalizer: dict or None, the `normalizer` of a tokenizer.json.
        post_processor: dict or None, the `post_processor` of a tokenizer.json.

    Raises:
        ValueError: when tokens repeat or the unknown token is not one of them.

    Example:
        >>> tokens = ["[UNK]", "un", "##aff", "##able"]
        >>> tokenizer = WordPieceTokenizer(tokens, special_tokens=("[UNK]",))
        >>> tokenizer.encode("unaffable unknown").numpy()
        array([1, 2, 3, 0], dtype=int32)
        >>> tokenizer.decode([1, 2, 3]).numpy()
        b'unaffable'
    """

    _on_bytes = False

    def __init__(
        self,
        tokens,
        *,
        special_tokens=BERT_TOKENS,
        unknown_token="[UNK]",
        prefix="##",
        longest_word=100,
        cleanup=True,
        pattern="bert",
        added_tokens=(),
        token_flags=None,
        normalizer=None,
        post_processor=None,
    ):
        check_pattern(pattern, WORD_PATTERNS)
        _check_words("tokens", tokens, unknown_token)
        if isinstance(longest_word, bool) or longest_word < 1:
            raise ValueError(f"longest_word must be at least 1; got {longest_word}")
        if not prefix:
            raise ValueError("prefix must not be empty; got ''")
        inside = [token.startswith(prefix) for token in tokens]
        later = [token[len(prefix) :] if more else f" {token}" for token, more in zip(tokens, inside, strict=True)]
        first = list(tokens)
        if cleanup:
            first, later = ([_clean(text) for text in texts] for texts in (first, later))
        super().__init__(
            tokens,
            special_tokens,
            [text.encode() for text in later],
            first_bytes=[text.encode() for text in first],
            pattern=pattern,
            added_tokens=added_tokens,
            token_flags=token_flags,
            normalizer=normalizer,
            post_processor=post_processor,
        )
        self.unknown_token, self.unknown_id = unknown_token, self.id_of(unknown_token)
        self.prefix, self.longest_word, self.cleanup = prefix, longest_word, cleanup
        apart = self.special_tokens + self.added_tokens
        self._words = _index_of(self._plain.tokens, apart)
        pieces = [token[len(prefix) :] if more else "" for token, more in zip(tokens, inside, strict=True)]
        every = list(range(len(tokens)))
        salts = [0] * len(tokens) + [_INSIDE] * len(tokens)
        self._cuts = _index_of([*tokens, *pieces], apart, every + every, salts)
        self._symbol_counts = tf.constant(
            [
                1 if token in set(apart) else max(len(piece or token), 1)
                for token, piece in zip(tokens, pieces, strict=True)
            ]
        )

    @classmethod
    def train(cls, texts, *, vocab_size, special_tokens=BERT_TOKENS, lowercase=True):
        """Learns pieces from texts with the Rust `tokenizers` library, normalised and cut as BERT's are.

        Args:
            texts: str or iterable of str.
            vocab_size: int, ids wanted, special tokens included; small texts may give fewer.
            special_tokens: tuple of str, at ids 0, 1, ...; with `"[UNK]"`.
            lowercase: bool, whether texts lose capital letters and accents first.

        Returns:
            A `WordPieceTokenizer`; with `[CLS]` and `[SEP]` among its special tokens, `add_special_tokens` adds them.

        Raises:
            ValueError: when there is no text, or no room for a piece.
        """
        # Imported where used: reading and running a tokenizer does not need the library.
        import tokenizers

        _check_size(vocab_size, special_tokens, "[UNK]")
        document = {"version": "1.0", "added_tokens": [], "pre_tokenizer": pre_tokenizer_of("bert")}
        document["normalizer"] = bert_normalizer(lowercase)
        document["model"] = {"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
        document["model"] |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
        learner = tokenizers.Tokenizer.from_str(json.dumps(document))
        trainer = tokenizers.trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=list(special_tokens), show_progress=False
        )
        learner.train_from_iterator(as_texts(texts), trainer)
        learned = json.loads(learner.to_str())
        learned["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
        ids = {token["content"]: token["id"] for token in learned["added_tokens"]}
        if "[CLS]" in ids and "[SEP]" in ids:
            learned["post_processor"] = _cls_and_sep(ids.get)
        return cls.from_json(learned)

    @classmethod
    def from_vocabulary(cls, path, *, lowercase=True):
        """Reads a `vocab.txt` as BERT's models have it, one token a line.

        Args:
            path: str or path of a UTF-8 file.
            lowercase: bool, True for the "uncased" models.

        Returns:
            A `WordPieceTokenizer`.

        Raises:
            ValueError: when the file lacks one of BERT's special tokens, or is not UTF-8.
        """
        try:
            tokens = pathlib.Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"path must name a UTF-8 file; got {str(path)!r}, which is not one") from error
        missing = [token for token in BERT_TOKENS if token not in tokens]
        if missing:
            raise ValueError(f"path must name a vocabulary with {missing[0]}; got {str(path)!r}, which has none")
        return cls.from_tokens(tokens, lowercase=lowercase)

    @classmethod
    def from_tokens(cls, tokens, *, lowercase=True):
        """Makes a tokenizer that normalises and cuts as BERT's do, and adds `[CLS]` and `[SEP]` where asked.

        Args:
            tokens: list of str, the vocabulary in the order of its ids, with BERT's five special tokens.
            lowercase: bool, True for the "uncased" models.

        Returns:
            A `WordPieceTokenizer`.

        Raises:
            ValueError: when one of the special tokens is missing.
        """
        missing = [token for token in BERT_TOKENS if token not in tokens]
        if missing:
            raise ValueError(f"tokens must hold BERT's special tokens; got none for {missing[0]!r}")
        return cls(tokens, normalizer=bert_normalizer(lowercase), post_processor=_cls_and_sep(tokens.index))

    def _encode_words(self, symbols, first, lengths):
        whole = self._words.find(symbols, first, lengths)
        whole = tf.where(lengths > self.longest_word, self.unknown_id, whole)
        return encode_rest(whole, symbols, first, lengths, self._cut)

    def _cut(self, symbols, lengths):
        """Cuts words of at most `longest_word` characters into pieces; returns (ids int32 [K], counts int32 [W])."""
        first = tf.cumsum(lengths, exclusive=True)
        word_of = repeat(tf.range(tf.size(lengths)), lengths)
        running = running_hashes(symbols)

        def cut_once(word, begin, limit, out, bad):
            """Takes the longest piece of at most `limit` characters from `begin` on, of every word that has a rest."""
            at = tf.gather(first, word) + begin
            rest = tf.minimum(tf.gather(lengths, word) - begin, limit)
            size = tf.range(max(self._cuts.longest, 1), 0, -1)  # the longest first
            salt = tf.where(begin > 0, _INSIDE, tf.zeros([], tf.int64))
            hashes = hash_slices(running, at[:, None], at[:, None] + tf.minimum(size, rest[:, None])) + salt[:, None]
            place, found = self._cuts.candidates(hashes)
            found &= size <= rest[:, None]
            best = tf.argmax(found, 1, output_type=tf.int32)
            size = tf.where(tf.reduce_any(found, 1), tf.gather(size, best), 0)
            place = tf.gather(place, best, batch_dims=1)
            taken = self._cuts.equal(place, symbols, at, size) & (size > 0)
            ids = tf.boolean_mask(tf.gather(self._cuts.ids, place), taken)
            out = tf.tensor_scatter_nd_update(out, tf.boolean_mask(at, taken)[:, None], ids + 1)
            failed = tf.boolean_mask(word, ~taken & (size == 0))
            bad = tf.tensor_scatter_nd_update(bad, failed[:, None], tf.ones_like(failed, tf.bool))
            # A piece of which only the hash was right is tried again, one character shorter.
            begin, limit = tf.where(taken, begin + size, begin), tf.where(taken, self.longest_word, size - 1)
            more = (size > 0) & (begin < tf.gather(lengths, word))
            return *(tf.boolean_mask(values, more) for values in (word, begin, limit)), out, bad

        words = tf.range(tf.size(lengths))
        vector = tf.TensorShape([None])
        *_, out, bad = tf.while_loop(
            lambda word, *_: tf.size(word) > 0,
            cut_once,
            (
                words,
                tf.zeros_like(words),
                tf.fill([tf.size(words)], self.longest_word),
                tf.zeros_like(symbols),
                tf.zeros_like(words, tf.bool),
            ),
            shape_invariants=(vector,) * 5,
        )

        kept = (out > 0) & ~tf.gather(bad, word_of)
        counts = tf.math.unsorted_segment_sum(tf.cast(kept, tf.int32), word_of, tf.size(lengths))
        good, lost = (tf.cast(tf.where(flags)[:, 0], tf.int32) for flags in (~bad, bad))
        unknown = tf.fill([tf.size(lost)], self.unknown_id)
        return put_together(
            [(good, tf.boolean_mask(out, kept) - 1, tf.gather(counts, good)), (lost, unknown, tf.ones_like(lost))],
            tf.size(lengths),
        )

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        model = {"type": "WordPiece", "unk_token": self.unknown_token, "continuing_subword_prefix": self.prefix}
        model["max_input_chars_per_word"] = self.longest_word
        return write_document(self, model, {"type": "WordPiece", "prefix": self.prefix, "cleanup": self.cleanup})

    @classmethod
    def from_json(cls, document):
        tokens, shared = read_shared(document, WORD_PATTERNS)
        model, decoder = document["model"], document.get("decoder") or {}
        prefix = model["continuing_subword_prefix"]
        if decoder.get("type") != "WordPiece" or decoder.get("prefix") != prefix:
            raise ValueError(f"tokenizer.json: decoder must be WordPiece with prefix {prefix!r}; got {decoder or None}")
        return cls(
            tokens,
            unknown_token=model["unk_token"],
            prefix=prefix,
            longest_word=model.get("max_input_chars_per_word", 100),
            cleanup=bool(decoder.get("cleanup", True)),
            **shared,
        )


def bert_normalizer(lowercase):
    """Returns dict, the `normalizer` of a tokenizer.json for BERT's models."""
    flags = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lowercase}
    return {"type": "BertNormalizer", **flags}


def _cls_and_sep(id_of):
    return {"type": "BertProcessing", "sep": ["[SEP]", id_of("[SEP]")], "cls": ["[CLS]", id_of("[CLS]")]}


def _index_of(words, apart, ids=None, salts=None):
    """Indexes words by their code points; special ones are left out, so that no text makes them by accident."""
    apart = set(apart)
    known = [place for place, word in enumerate(words) if word and word not in apart]
    return WordIndex(
        [_characters(words[place]) for place in known],
        known if ids is None else [ids[place] for place in known],
        None if salts is None else [salts[place] for place in known],
    )


def _clean(text):
    for old, new in _CLEANED:
        text = text.replace(old, new)
    return text


def _check_words(name, words, unknown_token):
    if len(set(words)) != len(words):
        raise ValueError(f"{name} must be all different; got {len(words) - len(set(words))} repeated")
    if unknown_token not in words:
        raise ValueError(f"{name} must hold the unknown token; got none for {unknown_token!r}")


def _check_size(vocab_size, special_tokens, unknown_token):
    check_special_tokens(special_tokens)
    if unknown_token not in special_tokens:
        raise ValueError(f"special_tokens must hold {unknown_token!r}; got {tuple(special_tokens)}")
    if vocab_size <= len(special_tokens):
        raise ValueError(
            f"vocab_size must be more than the {len(special_tokens)} special tokens; got vocab_size={vocab_size}"
        )
