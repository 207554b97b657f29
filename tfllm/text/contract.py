"""Tokenizers: strings to ids and ids to strings, the same in Python, in a graph and in a SavedModel.

`encode` and `decode` exist once, on core TensorFlow ops, so what `fit` reads, what `generate` reads and what an export does
in a bare TensorFlow process cannot differ. Vocabularies are learned by the Rust `tokenizers` library and files are its
JSON, so both sides can read them. This file holds what all kinds share: text to words and words to ids, each word once.
"""

import codecs
import copy
import types

import numpy as np
import tensorflow as tf

from tfllm import files
from tfllm.text.added_tokens import FLAGS, AddedTokens
from tfllm.text.characters import BREAK, MARK, MARK_BYTE, read_characters, utf8_symbols
from tfllm.text.normalizers import Normalizer
from tfllm.text.tokenizer_json import WORD_PATTERNS, splitter_named, template_of, trims_offsets
from tfllm.text.words import distinct_words, lengths_of, repeat, slices

UNKNOWN_TOKEN = "<unk>"
END_TOKEN = "<|endoftext|>"
_END_TOKENS = (END_TOKEN, "<|end_of_text|>", "</s>")


class Tokenizer(tf.Module):
    """What every tokenizer promises: `encode`, `decode`, `save`, and a fixed vocabulary.

    Concrete tokenizers say how different words become ids (`_encode_words`), whether on UTF-8 bytes or on code points
    (`_on_bytes`), which bytes an id stands for, and how they are written as JSON (`to_json`).

    Args:
        tokens: list of str, the vocabulary in the order of its ids.
        special_tokens: tuple of str, those of `tokens` that no text produces and that `decode` leaves out.
        token_bytes: list of bytes, what each token stands for.
        first_bytes: list of bytes, the same at the beginning of a text, where that differs.
        pattern: str, how a text is cut into words, a name of `tokenizer_json.py`.
        added_tokens: tuple of str, those of `tokens` that are not special but stand whole in a text.
        token_flags: dict of str to tuple of str, `lstrip`, `rstrip` and `single_word` of those tokens that have them.
        normalizer: dict or None, the `normalizer` of a tokenizer.json.
        post_processor: dict or None, the `post_processor` of a tokenizer.json: what `add_special_tokens` adds.

    Attributes:
        tokens: list of str, the vocabulary in the order of its ids.
        special_tokens: tuple of str, tokens that no text produces and that `decode` leaves out.
        vocab_size: int, how many ids there are; ids run from 0 to `vocab_size - 1`.
        end_id: int, the id of `"<|endoftext|>"` (or `"<|end_of_text|>"`, `"</s>"`), or -1 where the vocabulary has none.
    """

    def __init__(
        self,
        tokens,
        special_tokens,
        token_bytes,
        *,
        first_bytes=None,
        pattern="characters",
        added_tokens=(),
        token_flags=None,
        normalizer=None,
        post_processor=None,
    ):
        super().__init__()
        check_special_tokens(special_tokens)
        self.pattern = pattern
        self._split, self._drops_blanks = splitter_named(pattern), pattern in WORD_PATTERNS
        # Held apart, because a module wraps every list, tuple and dict of its own, one object an element.
        self._plain = types.SimpleNamespace(
            tokens=tuple(tokens), special=tuple(special_tokens), added=tuple(added_tokens)
        )
        self._plain.normalizer, self._plain.post_processor = normalizer, post_processor
        self._plain.flags = dict(token_flags or {})
        self.vocab_size = len(self._plain.tokens)
        self._plain.ids = ids = {token: index for index, token in enumerate(self._plain.tokens)}
        self.end_id = next((ids[token] for token in _END_TOKENS if token in ids), -1)
        self._normalizer = Normalizer(normalizer)
        self._plain.around = [[self.id_of(token) for token in part] for part in template_of(post_processor)]

        whole = self.special_tokens + self.added_tokens
        for name, some in (("tokens", self._plain.tokens), ("special_tokens and added_tokens", whole)):
            if len(set(some)) != len(some):
                repeated = next(token for token in some if some.count(token) > 1)
                raise ValueError(f"{name} must be all different; got {repeated!r} more than once")
        for token, flags in self._plain.flags.items():
            if token not in whole or isinstance(flags, str) or not set(flags) <= set(FLAGS):
                raise ValueError(f"token_flags must give tuples of {FLAGS} to whole tokens; got {token!r}: {flags!r}")
        missing = [token for token in whole if not token or token not in ids]
        if missing:
            raise ValueError(f"tokens must hold every special and added token; got none for {missing[0]!r}")
        self._whole_tokens = AddedTokens(whole, self._plain.flags)
        self._ids_of_marks = tf.constant([ids[token] for token in whole] or [0], tf.int32)
        self._plain.rust = ()  # made when it is first asked for

        special = set(self.special_tokens)
        self._symbol_counts = tf.ones([self.vocab_size], tf.int32)  # that an id in the middle of a word stands for
        self._trims = trims_offsets(post_processor)
        if self._trims is not None:
            sizes = [(len(token), len(_trim_left(token)), len(_trim_left(token[::-1]))) for token in self._plain.tokens]
            self._blanks = tf.constant([[size - left, size - right] for size, left, right in sizes])
        self._is_special = tf.constant([token in special for token in self._plain.tokens])

        def silence(pieces):  # special tokens are no text
            return tf.constant([b"" if t in special else p for t, p in zip(self._plain.tokens, pieces, strict=True)])

        self._bytes_of = silence(token_bytes)
        self._first_bytes_of = None if first_bytes is None else silence(first_bytes)

    @property
    def tokens(self):
        return list(self._plain.tokens)

    @property
    def special_tokens(self):
        return self._plain.special

    @property
    def added_tokens(self):
        return self._plain.added

    @property
    def token_flags(self):
        return dict(self._plain.flags)

    @property
    def normalizer(self):
        return copy.deepcopy(self._plain.normalizer)

    @property
    def post_processor(self):
        return copy.deepcopy(self._plain.post_processor)

    def id_of(self, token):
        """Returns int, the id of a token of the vocabulary.

        Raises:
            ValueError: when the vocabulary has no such token.
        """
        if token not in self._plain.ids:
            raise ValueError(f"token must be one of the vocabulary's {self.vocab_size}; got {token!r}")
        return self._plain.ids[token]

    def encode(self, texts, *, allow_special=False, add_special_tokens=False):
        """Turns strings into ids; bytes that are not UTF-8 count as U+FFFD.

        Args:
            texts: str, list of str, or a string tensor (dense or ragged) of any shape.
            allow_special: bool, whether special tokens written in a text become their ids. By default they are the
                plain characters that they are, so that a user's text cannot end a document or open another role.
            add_special_tokens: bool, whether the tokens of the vocabulary's template, such as `[CLS]` and `[SEP]`, are
                put around every text.

        Returns:
            int32 ids with one more axis than `texts`: a 1-D tensor for a single string, else a `tf.RaggedTensor`.

        Example:
            >>> tokenizer = tfllm.CharTokenizer.train("abc")
            >>> tokenizer.encode("cab").numpy()
            array([3, 1, 2], dtype=int32)
            >>> tokenizer.encode(["a", "bc"]).to_list()
            [[1], [2, 3]]
        """
        ids, *_ = self._encode(texts, allow_special, add_special_tokens, offsets=False)
        return ids

    def encode_with_offsets(self, texts, *, allow_special=False, add_special_tokens=False):
        """Does what `encode` does, and says which characters of its string each id stands for.

        Args:
            texts: as for `encode`.
            allow_special: as for `encode`.
            add_special_tokens: as for `encode`; what is added stands for no characters, (0, 0).

        Returns:
            (ids, starts, ends), three int32 tensors of one shape: id k of a string covers its characters `starts[k]` up to,
            but not including, `ends[k]`. A token inside a character covers all of it.

        Example:
            >>> ids, starts, ends = tfllm.CharTokenizer.train("abc").encode_with_offsets("cab")
            >>> starts.numpy().tolist(), ends.numpy().tolist()
            ([0, 1, 2], [1, 2, 3])
        """
        return self._encode(texts, allow_special, add_special_tokens, offsets=True)

    def _encode(self, texts, allow_special, add_special_tokens, offsets):
        if isinstance(texts, tf.RaggedTensor):
            return [
                texts.with_values(values)
                for values in self._encode(texts.values, allow_special, add_special_tokens, offsets)
            ]
        texts = tf.convert_to_tensor(texts, tf.string)
        if texts.shape.rank is None:
            raise ValueError("texts must have a known number of axes; got a tensor of unknown rank")
        flat = tf.reshape(texts, [-1])
        results = self._encode_rows(flat, allow_special, offsets)
        if add_special_tokens:
            ends = [[0] * len(part) for part in self._plain.around]
            results = [_surround(results[0], *self._plain.around), *(_surround(rows, *ends) for rows in results[1:])]
        if texts.shape.rank == 0:
            return [rows.flat_values for rows in results]
        for axis in range(texts.shape.rank - 1, 0, -1):
            size = tf.cast(tf.shape(texts)[axis], tf.int64)
            count = tf.cast(tf.reduce_prod(tf.shape(texts)[:axis]), tf.int64)
            results = [tf.RaggedTensor.from_uniform_row_length(rows, size, nrows=count) for rows in results]
        return results

    def _encode_rows(self, texts, allow_special, offsets):
        """Turns string [R] into a list of ragged int32 [R, (T)]: ids, and with `offsets` starts and ends."""
        whole = (allow_special and self.special_tokens) or self.added_tokens
        if self._drops_blanks and not offsets and not whole:
            return [self._encode_by_chunks(texts)]
        return self._encode_whole_rows(texts, allow_special, offsets)

    def _encode_by_chunks(self, texts):
        """Encodes what stands between blanks once for every different chunk; blanks always part words here."""
        chunks = tf.strings.split(texts, " ")
        kinds = tf.unique(chunks.values)
        (rows,) = self._encode_whole_rows(kinds.y, allow_special=False, offsets=False)
        splits = tf.cast(rows.row_splits, tf.int32)
        first, end = tf.gather(splits, kinds.idx), tf.gather(splits, kinds.idx + 1)
        ids = tf.gather(rows.values, slices(first, end - first))
        before = tf.concat([[0], tf.cumsum(end - first)], 0)
        row_splits = tf.cast(tf.gather(before, chunks.row_splits), tf.int64)
        return tf.RaggedTensor.from_row_splits(ids, row_splits, validate=False)

    def _encode_whole_rows(self, texts, allow_special, offsets):
        points, symbols, at = read_characters(texts)
        original, origin, covered = points, None, None
        whole = np.array([allow_special] * len(self.special_tokens) + [True] * len(self.added_tokens), bool)
        changed = marked = bool(whole.any())
        if marked:
            points, origin, covered = self._whole_tokens.mark(points, whole)
        if self._normalizer.steps:
            points, source = self._normalizer(points)
            origin = source if origin is None else tf.gather(origin, source)
            covered = None if covered is None else tf.gather(covered, source)
            changed = True

        if changed and self._on_bytes:
            symbols, at = utf8_symbols(points)
        ids, row_splits, begin, end = self._encode_points(points, symbols, at, tf.size(texts), marked, offsets)
        row_splits = tf.cast(row_splits, tf.int64)
        results = [ids]
        if offsets:
            extent = tf.ones_like(end) if covered is None else tf.gather(covered, end)
            if origin is not None:
                begin, end = tf.gather(origin, begin), tf.gather(origin, end)
            sizes = tf.cast(row_splits[1:] - row_splits[:-1], tf.int32)
            shift = repeat(tf.cast(tf.where(original == BREAK)[:, 0], tf.int32)[: tf.size(sizes)] + 1, sizes)
            begin, end = begin - shift, end + extent - shift
            if self._trims is not None:
                leading, trailing = tf.unstack(tf.gather(self._blanks, ids), axis=1)
                leading -= tf.cast((leading > 0) & (begin == 0) & self._trims, tf.int32)
                begin = tf.minimum(begin + leading, end)
                end = tf.where(end >= trailing, tf.maximum(end - trailing, begin), end)
            results += [begin, end]
        return [tf.RaggedTensor.from_row_splits(values, row_splits, validate=False) for values in results]

    def _encode_points(self, points, symbols, at, num_rows, marked, offsets):
        """Encodes code points word by word.

        Args:
            points: int32 [N], normalised and marked.
            symbols: int32 [M], their bytes.
            at: int32 [N], where in the bytes each begins.
            num_rows: int32, R.
            marked: bool, whether there may be marks among the points.
            offsets: bool, whether to say what each id stands for.

        Returns:
            (ids int32 [K], row_splits int32 [R + 1], begin int32 [K], end int32 [K]): the first and the last point that an
            id stands for, or None without `offsets`.
        """
        starts, blank = self._split(points)
        begins = tf.cast(tf.where(starts)[:, 0], tf.int32)
        symbols, first = (symbols, tf.gather(at, begins)) if self._on_bytes else (points, begins)
        lengths = lengths_of(first, tf.size(symbols))
        is_word = ~tf.gather(blank, begins)
        words_before = tf.boolean_mask(tf.cumsum(tf.cast(is_word, tf.int32)), tf.gather(points, begins) == BREAK)
        first, lengths = tf.boolean_mask(first, is_word), tf.boolean_mask(lengths, is_word)
        which, example = distinct_words(symbols, first, lengths)

        # The work is done for one word of every kind.
        kind_lengths = tf.gather(lengths, example)
        encode = self._encode_marked_words if marked else self._encode_words
        ids, counts = encode(symbols, tf.gather(first, example), kind_lengths)
        word_counts = tf.gather(counts, which)
        picked = slices(tf.gather(tf.cumsum(counts, exclusive=True), which), word_counts)
        splits = tf.concat([[0], tf.cumsum(word_counts)], 0)
        row_splits = tf.gather(splits, words_before[: num_rows + 1])
        if not offsets:
            return tf.gather(ids, picked), row_splits, None, None

        alone = repeat(tf.where(counts == 1, kind_lengths, 0), counts)  # one id stands for its whole word
        sizes = tf.gather(tf.where(alone > 0, alone, tf.gather(self._symbol_counts, ids)), picked)
        begin = tf.cumsum(sizes, exclusive=True)
        word_of = repeat(tf.range(tf.size(first)), word_counts)
        begin += tf.gather(first, word_of) - tf.gather(begin, tf.gather(splits, word_of))
        end = begin + sizes - 1
        if self._on_bytes:
            begin, end = (tf.searchsorted(at, symbol, side="right") - 1 for symbol in (begin, end))
        return tf.gather(ids, picked), row_splits, begin, end

    def _encode_marked_words(self, symbols, first, lengths):
        """Does what `_encode_words` does where some words are marks, which are ids already."""
        mark = tf.gather(symbols, first) - (MARK_BYTE if self._on_bytes else MARK)
        word, marked = (tf.cast(tf.where(which)[:, 0], tf.int32) for which in (mark < 0, mark >= 0))
        ids, counts = self._encode_words(symbols, tf.gather(first, word), tf.gather(lengths, word))
        mark_ids = tf.gather(self._ids_of_marks, tf.gather(mark, marked))
        return put_together([(word, ids, counts), (marked, mark_ids, tf.ones_like(marked))], tf.size(first))

    def encode_bulk(self, texts):
        """Encodes many strings with the Rust `tokenizers` library, which gives the ids of `encode` on all processors.

        Args:
            texts: list of str, valid Unicode.

        Returns:
            list of int32 NumPy arrays, one a text.

        Example:
            >>> [ids.tolist() for ids in tfllm.CharTokenizer.train("abc").encode_bulk(["cab", ""])]
            [[3, 1, 2], []]
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a list of str; got {type(texts).__name__}")
        rust = self._rust()
        if rust is None:
            rows = self.encode(list(texts))
            return np.split(rows.values.numpy(), rows.row_splits.numpy()[1:-1]) if len(texts) else []
        return [np.array(row.ids, np.int32) for row in rust.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _rust(self):
        """Returns the same tokenizer of the Rust library, or None where it would make other ids."""
        # Imported where used: reading and running a tokenizer does not need the library.
        import tokenizers

        if self._plain.rust == ():
            rust = tokenizers.Tokenizer.from_str(self.to_json())
            rust.encode_special_tokens = True
            # Where words are cut at white space alone, the library makes special tokens of words that look like them.
            expected = self.encode(list(self.special_tokens)).to_list() if self.special_tokens else []
            found = [rust.encode(token, add_special_tokens=False).ids for token in self.special_tokens]
            self._plain.rust = rust if found == expected else None
        return self._plain.rust

    def decode(self, ids):
        """Turns ids into strings; special tokens vanish and bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: int tensor (dense or ragged) or nested lists, rank 1 or more, values in `[0, vocab_size)`.

        Returns:
            string tensor with one axis less than `ids`.

        Raises:
            ValueError: outside a graph, when an id is out of the vocabulary.

        Example:
            >>> tokenizer = tfllm.CharTokenizer.train("abc")
            >>> tokenizer.decode([3, 1, 2]).numpy()
            b'cab'
        """
        return tf.strings.unicode_transcode(self.decode_bytes(ids), "UTF-8", "UTF-8", errors="replace")

    def decode_bytes(self, ids):
        """Does what `decode` does, but leaves the bytes as they are: a string may end inside a character."""
        if isinstance(ids, list | tuple):
            try:
                ids = tf.ragged.constant(ids, tf.int64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"ids must be whole numbers, in rows; got {str(ids)[:60]}") from error
        ids = ids if isinstance(ids, tf.RaggedTensor) else tf.convert_to_tensor(ids)
        if not ids.dtype.is_integer or ids.shape.rank == 0:
            raise ValueError(f"ids must be whole numbers, in rows; got {ids.dtype.name} of shape {ids.shape}")
        if isinstance(ids, tf.RaggedTensor):
            if ids.values.shape.rank > 1:
                return ids.with_values(self.decode_bytes(ids.values))
            return tf.strings.reduce_join(self._pieces(ids), axis=-1)
        if self._first_bytes_of is None:
            return tf.strings.reduce_join(tf.gather(self._bytes_of, self._checked(ids)), axis=-1)
        shape = tf.shape(ids)
        rows = tf.reshape(ids, [tf.reduce_prod(shape[:-1]), shape[-1]])
        pieces = self._pieces(tf.RaggedTensor.from_tensor(rows))
        texts = tf.reshape(tf.strings.reduce_join(pieces, axis=-1), shape[:-1])
        texts.set_shape(ids.shape[:-1])
        return texts

    def _pieces(self, rows):
        """Returns string [R, (T)], what the ids of int [R, (T)] stand for."""
        ids = self._checked(rows.values)
        pieces = tf.gather(self._bytes_of, ids)
        if self._first_bytes_of is not None:
            seen = tf.cumsum(tf.cast(~tf.gather(self._is_special, ids), tf.int32))
            before = tf.gather(tf.concat([[0], seen], 0), rows.row_starts())
            is_first = seen - tf.gather(before, rows.value_rowids()) == 1
            is_first &= ~tf.gather(self._is_special, ids)
            pieces = tf.where(is_first, tf.gather(self._first_bytes_of, ids), pieces)
        return rows.with_values(pieces)

    def _checked(self, ids):
        """Returns ids that a gather takes; outside a graph it refuses those out of the vocabulary."""
        if tf.executing_eagerly():
            check_ids("ids", ids, self.vocab_size)
        return ids if ids.dtype in (tf.int32, tf.int64) else tf.cast(ids, tf.int64)

    def token_bytes(self, *, first=False):
        """Returns list of bytes, what each id adds to a text (nothing for special tokens): `decode_bytes` joins them.

        Args:
            first: bool, whether to give what an id stands for at the beginning of a text, where words lose their blank.

        Example:
            >>> tfllm.CharTokenizer("ab").token_bytes()
            [b'', b'a', b'b']
        """
        table = self._first_bytes_of if first and self._first_bytes_of is not None else self._bytes_of
        return table.numpy().tolist()

    def decode_stream(self, ids):
        """Decodes ids as they come, in whole characters: the pieces together are what `decode` gives.

        Args:
            ids: iterable of int or of int arrays.

        Yields:
            str, never empty; a character split over several ids comes with its last one.

        Example:
            >>> tokenizer = tfllm.BPETokenizer.train("abc", vocab_size=257)
            >>> list(tokenizer.decode_stream(tokenizer.encode("a词").numpy()))
            ['a', '词']
        """
        # As `decode` does: the second rule of Unicode 3.9 for what is not UTF-8, which Python's decoder keeps as well.
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        special, later, table = self._is_special.numpy(), self.token_bytes(), self.token_bytes(first=True)
        for some in ids:
            some = np.atleast_1d(np.asarray(some))
            check_ids("ids", some, self.vocab_size)
            some = some.astype(np.int64)  # an empty list is of no whole number
            for index in some[~special[some]]:
                piece, table = decoder.decode(table[index]), later
                if piece:
                    yield piece
        piece = decoder.decode(b"", final=True)
        if piece:
            yield piece

    def save(self, path):
        """Writes the tokenizer as a Hugging Face `tokenizer.json`; the file appears whole or not at all.

        Args:
            path: str or path, the file to write.
        """
        files.write_whole(path, self.to_json())


def as_texts(texts):
    """Returns list of str of a str or an iterable of str; raises ValueError when there is no text in it."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not any(texts):
        raise ValueError(f"texts must hold at least one character; got {len(texts)} empty texts")
    return texts


def check_special_tokens(special_tokens):
    """Raises ValueError unless `special_tokens` is a collection of different strings."""
    if isinstance(special_tokens, str) or len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special_tokens must be a tuple of different strings; got {special_tokens!r}")


def _trim_left(token):
    return token.lstrip().lstrip("\u0120")  # GPT-2's writing of a blank


def put_together(parts, total):
    """Joins the ids of words that were encoded in groups.

    Args:
        parts: list of (word int32 [W], ids int32 [K], counts int32 [W]): which words, their ids one after another, and how
            many each has. No word is in two groups.
        total: int32, how many words there are.

    Returns:
        (ids int32 [sum of K], counts int32 [total]), in the order of the words; words in no group have none.
    """
    counts = tf.add_n([tf.math.unsorted_segment_sum(count, word, total) for word, _, count in parts])
    begins = tf.cumsum(counts, exclusive=True)
    size = tf.reduce_sum(counts)
    ids = tf.add_n(
        [tf.math.unsorted_segment_sum(ids, slices(tf.gather(begins, word), count), size) for word, ids, count in parts]
    )
    return ids, counts


def encode_rest(whole, symbols, first, lengths, encode):
    """Encodes the words that are no token as a whole.

    Args:
        whole: int32 [W], the id of each word that is one token, -1 for the rest.
        symbols: int32 [M].
        first: int32 [W], where each word begins.
        lengths: int32 [W].
        encode: function of (symbols int32 [K], lengths int32 [V]) of the rest, one word after another, that gives (ids,
            counts int32 [V]).

    Returns:
        (ids int32, counts int32 [W]) of all words, in their order.
    """
    known, rest = (tf.cast(tf.where(which)[:, 0], tf.int32) for which in (whole >= 0, whole < 0))
    rest_lengths = tf.gather(lengths, rest)
    ids, counts = encode(tf.gather(symbols, slices(tf.gather(first, rest), rest_lengths)), rest_lengths)
    return put_together([(known, tf.gather(whole, known), tf.ones_like(known)), (rest, ids, counts)], tf.size(first))


def _surround(rows, before, after):
    """Puts the same ids before and after every row of int32 [R, (T)]."""
    count = rows.nrows()
    parts = [
        tf.RaggedTensor.from_tensor(tf.tile([tf.constant(part, tf.int32)], [count, 1])) for part in (before, after)
    ]
    return tf.concat([parts[0], rows, parts[1]], 1)


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
