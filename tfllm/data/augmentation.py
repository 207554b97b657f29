"""Augmentation of token sequences inside the graph: deletion, swap, insertion, synonyms, dropout, replacement, span masks.

Each is a frozen dataclass of settings, called as `augmentation(tokens, seed)` with the tokens of one text [T] or of a batch
of texts as a `tf.RaggedTensor` [B, (T)], int32 ids or strings alike. What happens to row b is a function of the row, the
seed and b: not of the other rows, of padding, of eager mode or graph, or of how many threads map. Left out: padded batches
(make them ragged) and paraphrases by a model other than a translation there and back.

Source: Wei and Zou 2019, "EDA", arXiv:1901.11196, for deletion, swap, insertion and synonyms.
"""

import dataclasses
import math
import pathlib
import typing

import numpy as np
import tensorflow as tf

from tfllm.data.order import mix_bits
from tfllm.text.cleaning import comparable


@dataclasses.dataclass(frozen=True)
class RandomDeletion:
    """Deletes each token with probability `rate`, but never all tokens of a row.

    Args:
        rate: float in [0, 1].
        protected: tuple of int or str, tokens to leave alone.

    Raises:
        ValueError: on a rate outside [0, 1].

    Source: Wei and Zou 2019, arXiv:1901.11196, section 2.

    Example:
        >>> RandomDeletion(1.0, protected=(1, 2))(tf.constant([1, 7, 8, 9, 2]), seed=0).numpy()
        array([1, 2], dtype=int32)
    """

    rate: float = 0.1
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to fewer tokens."""
        rows = _unpack(tokens)
        chance = _uniform(_bits(rows, seed, 0))
        kept = (chance >= self.rate) | ~_touchable(rows, self.protected)
        luckiest = tf.gather(tf.math.unsorted_segment_max(chance, rows.row, _count(rows)), rows.row)
        kept |= (chance == luckiest) & (tf.gather(_sums(rows, kept), rows.row) == 0)
        return _keep(rows, kept)


@dataclasses.dataclass(frozen=True)
class RandomSwap:
    """Exchanges tokens in pairs, so that a share `rate` of the tokens of a row moves.

    The pairs are disjoint. Their number is `rate * tokens / 2`, rounded up or down at random so that the mean is right.

    Args:
        rate: float in [0, 1], the share of tokens that change places.
        protected: tuple of int or str, tokens that stay where they are.

    Raises:
        ValueError: on a rate outside [0, 1].

    Source: Wei and Zou 2019, arXiv:1901.11196, section 2, where one token may be swapped several times.

    Example:
        >>> RandomSwap(1.0)(tf.constant(["there", "hello"]), seed=0).numpy()
        array([b'hello', b'there'], dtype=object)
    """

    rate: float = 0.1
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to as many tokens."""
        rows = _unpack(tokens)
        may = _touchable(rows, self.protected)
        order, rank = _shuffled(rows, _bits(rows, seed, 0), may)
        pairs = tf.minimum(_share(rows, seed, self.rate / 2, _sums(rows, may)), _sums(rows, may) // 2)
        partner = tf.minimum(_starts(rows.lengths, rows.row) + tf.bitwise.bitwise_xor(rank, 1), tf.size(rank) - 1)
        place = tf.where(rank < 2 * tf.gather(pairs, rows.row), tf.gather(order, partner), tf.range(tf.size(rank)))
        return _pack(rows, tf.gather(rows.values, place), rows.lengths)


@dataclasses.dataclass(frozen=True)
class RandomInsertion:
    """Inserts, after each token with probability `rate`, a synonym or a copy of a random token of the row.

    Nothing is inserted after a protected token, and protected tokens are not copied.

    Args:
        rate: float in [0, 1].
        lexicon: `Lexicon` or None. With one, a synonym of a random token that has any is inserted; rows without such a
            token stay as they are.
        protected: tuple of int or str.

    Raises:
        ValueError: on a rate outside [0, 1].

    Source: Wei and Zou 2019, arXiv:1901.11196, section 2.

    Example:
        >>> RandomInsertion(1.0, Lexicon({"big": ("large",)}))(tf.constant(["a", "big", "cat"]), seed=0).numpy()
        array([b'a', b'large', b'big', b'large', b'cat', b'large'], dtype=object)
    """

    rate: float = 0.1
    lexicon: "Lexicon | None" = None
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to as many tokens or more."""
        rows = _unpack(tokens)
        touchable = _touchable(rows, self.protected)
        source = touchable
        if self.lexicon is not None:
            first, choices = self.lexicon.find(rows.values)
            source &= choices > 0
        sources = _sums(rows, source)
        inserts = touchable & (_uniform(_bits(rows, seed, 0)) < self.rate) & (tf.gather(sources, rows.row) > 0)

        at = tf.where(inserts)[:, 0]
        row = tf.gather(rows.row, at)
        chosen = _below(tf.gather(_bits(rows, seed, 1), at), tf.gather(sources, row))
        chosen = tf.gather(tf.where(source)[:, 0], _starts(sources, row) + chosen)  # [inserted]
        inserted = tf.gather(rows.values, chosen)
        if self.lexicon is not None:
            pick = _below(tf.gather(_bits(rows, seed, 2), at), tf.gather(choices, chosen))
            inserted = tf.gather(self.lexicon.entries, tf.gather(first, chosen) + pick)
        order = tf.argsort(tf.concat([2 * tf.range(tf.size(rows.row), dtype=tf.int64), 2 * at + 1], 0))
        values = tf.gather(tf.concat([rows.values, inserted], 0), order)
        return _pack(rows, values, rows.lengths + _sums(rows, inserts))


@dataclasses.dataclass(frozen=True)
class SynonymReplacement:
    """Replaces each token that has synonyms by one of them with probability `rate`.

    Args:
        lexicon: `Lexicon`, of strings for strings and of ids for ids.
        rate: float in [0, 1].
        protected: tuple of int or str, tokens to leave alone.

    Raises:
        ValueError: on a rate outside [0, 1].

    Source: Wei and Zou 2019, arXiv:1901.11196, section 2.

    Example:
        >>> SynonymReplacement(Lexicon({"big": ("large",)}), 1.0)(tf.constant(["a", "big", "cat"]), seed=0).numpy()
        array([b'a', b'large', b'cat'], dtype=object)
    """

    lexicon: "Lexicon"
    rate: float = 0.1
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to as many tokens."""
        rows = _unpack(tokens)
        first, choices = self.lexicon.find(rows.values)
        replaced = _touchable(rows, self.protected) & (_uniform(_bits(rows, seed, 0)) < self.rate) & (choices > 0)
        pick = tf.where(replaced, first + _below(_bits(rows, seed, 1), choices), 0)
        return _pack(rows, tf.where(replaced, tf.gather(self.lexicon.entries, pick), rows.values), rows.lengths)


@dataclasses.dataclass(frozen=True)
class TokenDropout:
    """Replaces each token by `token`, such as a mask or the unknown token, with probability `rate`.

    Args:
        token: int or str, what stands in the place.
        rate: float in [0, 1].
        protected: tuple of int or str, tokens to leave alone.

    Raises:
        ValueError: on a rate outside [0, 1].

    Example:
        >>> TokenDropout(0, 1.0, protected=(1,))(tf.constant([1, 7, 8]), seed=0).numpy()
        array([1, 0, 0], dtype=int32)
    """

    token: int | str
    rate: float = 0.1
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to as many tokens."""
        rows = _unpack(tokens)
        dropped = _touchable(rows, self.protected) & (_uniform(_bits(rows, seed, 0)) < self.rate)
        return _pack(rows, tf.where(dropped, _like("token", [self.token], rows.values), rows.values), rows.lengths)


@dataclasses.dataclass(frozen=True)
class TokenReplacement:
    """Replaces each id by a random id of [low, high), which may be the same one, with probability `rate`.

    Args:
        low: int, the least id.
        high: int, one more than the greatest.
        rate: float in [0, 1].
        protected: tuple of int, ids to leave alone.

    Raises:
        ValueError: on a rate outside [0, 1], an empty range, or strings.

    Example:
        >>> TokenReplacement(5, 6, 1.0, protected=(1,))(tf.constant([1, 7, 8]), seed=0).numpy()
        array([1, 5, 5], dtype=int32)
    """

    low: int
    high: int
    rate: float = 0.1
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)
        if not 0 <= self.low < self.high <= 2**31:
            raise ValueError(f"low and high must be 0 <= low < high <= 2**31; got low={self.low}, high={self.high}")

    def __call__(self, tokens, seed):
        """Ids [T] or [B, (T)] and a seed (int or int [2]) to as many ids."""
        rows = _unpack(tokens)
        if rows.values.dtype != tf.int32:
            raise ValueError(f"tokens must be int32 ids; got {rows.values.dtype.name}")
        replaced = _touchable(rows, self.protected) & (_uniform(_bits(rows, seed, 0)) < self.rate)
        random = self.low + _below(_bits(rows, seed, 1), self.high - self.low)
        return _pack(rows, tf.where(replaced, random, rows.values), rows.lengths)


@dataclasses.dataclass(frozen=True)
class SpanMasking:
    """Masks runs of tokens until a share `rate` of the row is masked, and says which were.

    Lengths of spans are drawn until their sum reaches `rate * tokens` (rounded up or down at random so that the mean is
    right), the last is cut to fit, and the spans are laid between the other tokens in random places; two may touch. A
    span goes on behind a protected token, and at the row's beginning when it runs over the end, so that every token is
    masked equally often.

    Args:
        token: int or str, the mask.
        rate: float in [0, 1], the share of the unprotected tokens to mask.
        lengths: `"geometric"` (SpanBERT) or `"poisson"` (BART), the distribution of the length of a span.
        mean_length: float >= 1, the mean of that distribution before it is cut to 1..`max_length`; the default gives
            SpanBERT's, whose mean after the cut is 3.8.
        max_length: int >= 1.
        protected: tuple of int or str, tokens never to mask.

    Raises:
        ValueError: on arguments outside these ranges.

    Source: Joshi et al. 2020, "SpanBERT", arXiv:1907.10529, section 3.1; Lewis et al. 2020, "BART", arXiv:1910.13461.

    Example:
        >>> masked, mask = SpanMasking(0, 0.5, protected=(1,))(tf.constant([1, 7, 8, 9, 6]), seed=1)
        >>> masked.numpy(), mask.numpy()
        (array([1, 0, 0, 9, 6], dtype=int32), array([False,  True,  True, False, False]))
    """

    token: int | str
    rate: float = 0.15
    lengths: str = "geometric"
    mean_length: float = 5.0
    max_length: int = 10
    protected: tuple = ()

    def __post_init__(self):
        _check_rate(self.rate)
        if self.lengths not in ("geometric", "poisson"):
            raise ValueError(f"lengths must be 'geometric' or 'poisson'; got {self.lengths!r}")
        for name in ("mean_length", "max_length"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 1; got {getattr(self, name)}")

    def length_probabilities(self):
        """Returns float64 [max_length], the probability of a span of 1, 2, ... tokens."""
        lengths = np.arange(1, self.max_length + 1)
        if self.lengths == "geometric":
            weights = (1 - 1 / self.mean_length) ** (lengths - 1)
        else:
            weights = np.exp(np.cumsum(np.log(self.mean_length / lengths)))
        return weights / weights.sum()

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to (as many tokens, bool mask of the same shape)."""
        rows = _unpack(tokens)
        at = tf.where(_touchable(rows, self.protected))  # [M, 1], the tokens that may be masked, called slots from here
        row = tf.gather(rows.row, at[:, 0])
        slots = _sums(rows, _touchable(rows, self.protected))
        rows_of_slots = _Rows(at[:, 0], row, tf.range(tf.size(row)) - _starts(slots, row), slots, rows.splits)
        budget = _share(rows, seed, self.rate, slots)

        bounds = tf.constant(np.cumsum(self.length_probabilities())[:-1], tf.float32)
        length = 1 + tf.searchsorted(bounds, _uniform(_bits(rows_of_slots, seed, 0)), side="right")  # [M]
        begin = tf.cumsum(length, exclusive=True)
        begin -= tf.gather(begin, _starts(slots, row))
        spent = begin < tf.gather(budget, row)
        length = tf.minimum(length, tf.gather(budget, row) - begin)  # of those that are spent, at least 1

        # A row is now a line of items, spans and single tokens, of which the spans get random places.
        spans = tf.math.unsorted_segment_sum(tf.cast(spent, tf.int32), row, _count(rows))
        is_item = rows_of_slots.column < tf.gather(slots - budget + spans, row)
        _, rank = _shuffled(rows_of_slots, _bits(rows_of_slots, seed, 1), is_item)
        is_span = is_item & (rank < tf.gather(spans, row))
        number = tf.cumsum(tf.cast(is_span, tf.int32), exclusive=True)
        number -= tf.gather(number, _starts(slots, row))
        width = tf.where(is_span, tf.gather(length, tf.where(is_span, _starts(slots, row) + number, 0)), 1)
        mask = tf.repeat(tf.boolean_mask(is_span, is_item), tf.boolean_mask(width, is_item))  # [M]
        turn = tf.gather(_below(_row_bits(rows, seed, 1), slots), row)  # without it, few spans would cover the ends
        mask = tf.gather(mask, _starts(slots, row) + (rows_of_slots.column + turn) % tf.gather(slots, row))

        mask = tf.scatter_nd(at, mask, tf.shape(rows.values, tf.int64))
        masked = tf.where(mask, _like("token", [self.token], rows.values), rows.values)
        return _pack(rows, masked, rows.lengths), _pack(rows, mask, rows.lengths)


@dataclasses.dataclass(frozen=True, init=False)
class Compose:
    """Applies augmentations one after another, each with its own random numbers.

    Args:
        *augmentations: callables `(tokens, seed) -> tokens`; the last may return more, such as `SpanMasking`.

    Raises:
        ValueError: when one is no function, or `SpanMasking` is not the last.

    Example:
        >>> both = Compose(RandomSwap(1.0), TokenDropout(0, 1.0, protected=(7,)))
        >>> both(tf.constant([7, 8]), seed=3).numpy()
        array([0, 7], dtype=int32)
    """

    augmentations: tuple

    def __init__(self, *augmentations):
        for place, augmentation in enumerate(augmentations, 1):
            if not callable(augmentation):
                raise ValueError(f"augmentations must be functions of (tokens, seed); got {augmentation!r}")
            if isinstance(augmentation, SpanMasking) and place < len(augmentations):
                raise ValueError(f"augmentations must have SpanMasking at the end; got it at {place}")
        object.__setattr__(self, "augmentations", augmentations)

    def __call__(self, tokens, seed):
        """Tokens [T] or [B, (T)] and a seed (int or int [2]) to what the last augmentation returns."""
        for number, augmentation in enumerate(self.augmentations):
            tokens = augmentation(tokens, tf.random.experimental.stateless_fold_in(_as_seed(seed), number))
        return tokens


def augment_dataset(dataset, augmentation, seed=0):
    """Augments every element of a pipeline with its own seed, a function of `seed` and of its number alone.

    Call it after `repeat()` and every pass is augmented anew; before, and every pass is the same.

    Args:
        dataset: `tf.data.Dataset` of tokens [T] or `tf.RaggedTensor` [B, (T)], or of tuples that begin with them.
        augmentation: function `(tokens, seed) -> tokens`, such as those here.
        seed: int.

    Returns:
        `tf.data.Dataset` of the same order and cardinality; labels and whatever follows the tokens stay.

    Example:
        >>> dataset = tf.data.Dataset.from_tensor_slices([[5, 6, 7], [5, 6, 7]])
        >>> [ids.tolist() for ids in augment_dataset(dataset, TokenDropout(0, 0.5), seed=1).as_numpy_iterator()]
        [[5, 6, 7], [5, 0, 0]]
    """

    def augment(number, element):
        own_seed = tf.stack([tf.constant(seed, tf.int64), number])
        if isinstance(element, tuple):
            return augmentation(element[0], own_seed), *element[1:]
        return augmentation(element, own_seed)

    return dataset.enumerate().map(augment, num_parallel_calls=tf.data.AUTOTUNE)


def back_translate(texts, forward, backward, labels=None):
    """Paraphrases texts by translating them there and back, and keeps those that came back as something else.

    Args:
        texts: list of str.
        forward: function of a list of str that returns their translations, as many, such as the `generate` of a
            `tfllm.TextGenerator`.
        backward: function that translates back.
        labels: list of N labels; None means the places in `texts`, 0, 1, ...

    Returns:
        (list of str, list), the paraphrases and their labels. A text that came back empty, or the same but for case,
        white space and width, is left out.

    Raises:
        ValueError: when the sizes differ or `texts` is no list of str.

    Source: Sennrich et al. 2016, arXiv:1511.06709; Edunov et al. 2018, arXiv:1808.09381.

    Example:
        >>> there, back = {"a big cat": "eine Katze", "hi": "hallo"}, {"eine Katze": "a cat", "hallo": "Hi"}
        >>> back_translate(["a big cat", "hi"], lambda t: [there[x] for x in t], lambda t: [back[x] for x in t], [1, 0])
        (['a cat'], [1])
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts must be a list of str; got {type(texts).__name__}")
    labels = range(len(texts)) if labels is None else labels
    if len(labels) != len(texts):
        raise ValueError(f"labels must be as many as texts, {len(texts)}; got {len(labels)}")
    returned = list(texts)
    for name, translate in (("forward", forward), ("backward", backward)):
        returned = list(translate(returned)) if returned else []
        if len(returned) != len(texts):
            raise ValueError(f"{name} must return as many texts as it gets, {len(texts)}; got {len(returned)}")
    kept = [i for i in range(len(texts)) if comparable(returned[i]) not in ("", comparable(texts[i]))]
    return [returned[i] for i in kept], [labels[i] for i in kept]


# ---------------------------------------------------------------- synonyms


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """Synonyms of words as a table inside the graph.

    Args:
        synonyms: dict from a str to a tuple of str, or from an id to a tuple of ids.

    Attributes:
        entries: string or int32 [E], the synonyms of all words, one word's after another's.

    Raises:
        ValueError: when there is no word, a word has no synonym, or strings and ids are mixed.
    """

    synonyms: dict

    def __post_init__(self):
        entries = [entry for row in self.synonyms.values() for entry in row]
        if any(isinstance(row, str | bytes) for row in self.synonyms.values()):
            raise ValueError(f"synonyms must be tuples, not single strings; got {self.synonyms!r:.100}")
        if not self.synonyms or not all(self.synonyms.values()):
            raise ValueError(f"synonyms must hold words with at least one synonym each; got {self.synonyms!r:.100}")
        if {type(word) for word in (*self.synonyms, *entries)} not in ({str}, {int}):
            raise ValueError(f"synonyms must all be str or all be int; got {self.synonyms!r:.100}")
        words = list(self.synonyms)
        counts = [len(row) for row in self.synonyms.values()]
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(words, tf.string if isinstance(words[0], str) else tf.int64),
                tf.range(len(words), dtype=tf.int64),
            ),
            default_value=len(words),
        )
        object.__setattr__(self, "entries", tf.constant(entries))
        object.__setattr__(self, "_row_of", table)
        object.__setattr__(self, "_counts", tf.constant([*counts, 0]))
        object.__setattr__(self, "_firsts", tf.constant(np.cumsum([0, *counts]), tf.int32))

    def find(self, values):
        """Looks tokens up.

        Args:
            values: string or int32 [N].

        Returns:
            (int32 [N] place in `entries` of the first synonym, int32 [N] number of synonyms, 0 for unknown words).

        Raises:
            ValueError: when the lexicon is of strings and `values` are ids, or the other way round.
        """
        if values.dtype != self.entries.dtype:
            raise ValueError(f"tokens must be {self.entries.dtype.name} as the lexicon is; got {values.dtype.name}")
        row = self._row_of.lookup(values if values.dtype == tf.string else tf.cast(values, tf.int64))
        return tf.gather(self._firsts, row), tf.gather(self._counts, row)

    def to_ids(self, tokens):
        """Makes the same lexicon of ids; words and synonyms that are no tokens are left out.

        Args:
            tokens: list of str, the vocabulary in the order of its ids, such as a tokenizer's `tokens`.

        Returns:
            `Lexicon`.

        Raises:
            ValueError: when nothing is left.

        Example:
            >>> Lexicon({"big": ("large", "huge")}).to_ids(["<unk>", "large", "big"]).synonyms
            {2: (1,)}
        """
        id_of = {token: index for index, token in enumerate(tokens)}
        rows = {id_of.get(word): tuple(id_of[s] for s in row if s in id_of) for word, row in self.synonyms.items()}
        rows = {word: row for word, row in rows.items() if word is not None and row}
        if not rows:
            raise ValueError(f"tokens must hold a word of the lexicon and a synonym of it; got {len(id_of)} others")
        return Lexicon(rows)


def load_lexicon(path):
    """Reads a lexicon: UTF-8, a line a word, `word<TAB>synonym<TAB>synonym...`; empty lines are skipped.

    Args:
        path: str or path.

    Returns:
        `Lexicon` of strings.

    Raises:
        ValueError: on a line that is not of this form or repeats a word, with its number.
        FileNotFoundError: when there is no such file.
    """
    synonyms = {}
    for number, line in enumerate(pathlib.Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            word, *row = (field.strip() for field in line.decode("utf-8").split("\t"))
        except UnicodeDecodeError as error:
            raise ValueError(f"path must be UTF-8; got line {number} of {str(path)!r}, which is not") from error
        if not word and not row:
            continue
        if not word or not row or not all(row) or word in row or len(set(row)) < len(row):
            raise ValueError(
                f"path must hold lines of a word and its different synonyms, with tabs between them; "
                f"got line {number} of {str(path)!r}: {line.decode()!r:.100}"
            )
        if word in synonyms:
            raise ValueError(f"path must hold every word once; got {word!r} again in line {number} of {str(path)!r}")
        synonyms[word] = tuple(row)
    if not synonyms:
        raise ValueError(f"path must hold at least one word; got {str(path)!r}, which is empty")
    return Lexicon(synonyms)


# ---------------------------------------------------------------- rows and random numbers


class _Rows(typing.NamedTuple):
    values: tf.Tensor  # [N], the tokens of all rows, one after another
    row: tf.Tensor  # int32 [N], the row that each belongs to
    column: tf.Tensor  # int32 [N], its place there
    lengths: tf.Tensor  # int32 [B]
    splits: tf.DType | None  # of the row splits of a ragged tensor; None for a single row


def _unpack(tokens):
    tokens = tf.convert_to_tensor(tokens) if not isinstance(tokens, tf.RaggedTensor) else tokens
    ragged = isinstance(tokens, tf.RaggedTensor)
    if tokens.dtype not in (tf.int32, tf.string) or tokens.shape.rank != 1 + ragged:
        raise ValueError(
            f"tokens must be int32 or strings, a vector [T] or a RaggedTensor [B, (T)]; "
            f"got {tokens.dtype.name} of shape {tokens.shape}"
        )
    if not ragged:
        count = tf.size(tokens)
        return _Rows(tokens, tf.zeros([count], tf.int32), tf.range(count), count[None], None)
    row = tf.cast(tokens.value_rowids(), tf.int32)
    lengths = tf.cast(tokens.row_lengths(), tf.int32)
    return _Rows(tokens.values, row, tf.range(tf.size(row)) - _starts(lengths, row), lengths, tokens.row_splits.dtype)


def _pack(rows, values, lengths):
    if rows.splits is None:
        return values
    return tf.RaggedTensor.from_row_lengths(values, tf.cast(lengths, rows.splits), validate=False)


def _keep(rows, kept):
    return _pack(rows, tf.boolean_mask(rows.values, kept), _sums(rows, kept))


def _count(rows):
    return tf.size(rows.lengths)


def _sums(rows, flags):
    """Returns int32 [B], how many flags of bool [N] are set in each row."""
    return tf.math.unsorted_segment_sum(tf.cast(flags, tf.int32), rows.row, _count(rows))


def _starts(lengths, row):
    """Returns int32, where the rows `row` begin when rows of these lengths lie one after another."""
    return tf.gather(tf.cumsum(lengths, exclusive=True), row)


def _touchable(rows, protected):
    if not isinstance(protected, list | tuple):
        raise ValueError(f"protected must be a tuple of tokens; got {protected!r}")
    if not protected:
        return tf.ones_like(rows.row, tf.bool)
    return tf.reduce_all(rows.values[:, None] != _like("protected", protected, rows.values), 1)


def _like(name, tokens, values):
    if any(isinstance(token, str) != (values.dtype == tf.string) for token in tokens):
        raise ValueError(f"{name} must be {values.dtype.name} as the tokens are; got {tokens!r}")
    return tf.constant(tokens, values.dtype)


def _as_seed(seed):
    seed = tf.convert_to_tensor(seed)
    return tf.stack([seed, tf.zeros_like(seed)]) if seed.shape.rank == 0 else seed


# A `tf.random.stateless_*` call numbers its draws through the whole tensor, so a row's would hang on the lengths of the rows
# before it. These are a hash of the seed, the row and the place instead; the seed itself goes through such a call.


def _bits(rows, seed, stream):
    """Returns uint64 [N] in [0, 2**32), random numbers of stream 0, 1 or 2, one a token."""
    return _hash(seed, stream, rows.row, rows.column)


def _row_bits(rows, seed, number):
    """Returns uint64 [B] in [0, 2**32), random numbers, one a row."""
    row = tf.range(_count(rows))
    return _hash(seed, 3, row, tf.fill([_count(rows)], number))


def _share(rows, seed, rate, counts):
    """Returns int32 [B], `rate * counts` rounded up or down at random so that the mean is right."""
    chance = tf.cast(_row_bits(rows, seed, 0), tf.float64) / 2.0**32
    return tf.cast(tf.floor(rate * tf.cast(counts, tf.float64) + chance), tf.int32)


def _hash(seed, stream, row, column):
    key = tf.random.stateless_uniform([4], _as_seed(seed), None, None, tf.uint64)[stream]
    hashed = mix_bits(mix_bits(key + tf.cast(row, tf.uint64)) + tf.cast(column, tf.uint64))
    return tf.bitwise.right_shift(hashed, tf.constant(32, tf.uint64))


def _uniform(bits):
    """Returns float32 in [0, 1), of 24 bits, so that none rounds up to 1."""
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint64)), tf.float32) / 2.0**24


def _below(bits, bound):
    """Returns int32 in [0, bound), or 0 where bound is 0."""
    product = bits * tf.cast(bound, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.int32)


def _shuffled(rows, bits, first):
    """Puts the tokens of each row in random order, those of bool [N] `first` before the others.

    Returns:
        (int32 [N] the tokens in this order, row after row; int32 [N] the rank of each token in its row).
    """
    key = tf.bitwise.left_shift(2 * tf.cast(rows.row, tf.int64) + tf.cast(~first, tf.int64), tf.constant(32, tf.int64))
    order = tf.argsort(key + tf.cast(bits, tf.int64))
    return order, tf.math.invert_permutation(order) - _starts(rows.lengths, rows.row)


def _check_rate(rate):
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1]; got {rate}")
