"""Byte-level byte-pair encoding, as GPT-2, Llama 3, Qwen 2 and SmolLM have it: every text comes back unchanged.

Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2), section 2.2.
"""

import json

import numpy as np
import tensorflow as tf

from tfllm.text.contract import END_TOKEN, Tokenizer, as_texts, check_special_tokens, encode_rest
from tfllm.text.tokenizer_json import (
    BYTE_LEVEL,
    BYTE_PATTERNS,
    check_pattern,
    pre_tokenizer_of,
    read_shared,
    refuse_unless,
    write_document,
)
from tfllm.text.words import WordIndex, repeat


def _byte_characters():
    """Returns 256 printable characters, one a byte, as GPT-2 writes bytes in its vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    codes = dict(zip(printable, printable, strict=True)) | {byte: 256 + i for i, byte in enumerate(others)}
    return [chr(codes[byte]) for byte in range(256)]


_BYTE_CHARACTERS = _byte_characters()
_BYTE_OF = {character: byte for byte, character in enumerate(_BYTE_CHARACTERS)}


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: every text can be encoded and comes back unchanged.

    Args:
        tokens: list of str, the vocabulary in the order of its ids, in GPT-2's writing of bytes as characters.
        merges: list of (str, str), the pairs to merge, the first one first.
        special_tokens: tuple of str, those of `tokens` that no text produces.
        pattern: str, how a text is cut into words: `"gpt2"`, `"gpt2_digits"` (every digit alone, as SmolLM), `"llama3"` or
            `"qwen2"`.
        ignore_merges: bool, whether a word that is a token is taken whole, whatever the merges would make of it.
        added_tokens: tuple of str, those of `tokens` that are not special but stand whole in a text.
        token_flags: dict of str to tuple of str, `lstrip`, `rstrip`, `single_word` of tokens that stand whole.
        normalizer: dict or None, the `normalizer` of a tokenizer.json.
        post_processor: dict or None, the `post_processor` of a tokenizer.json.
        drop_bytes: bool, whether bytes that `tokens` lacks are left out of texts, as the Rust library does; SmolLM's
            vocabulary lacks some control characters. The offsets of a word in which one was left out are too low.

    Raises:
        ValueError: when the product of a merge, or without `drop_bytes` a byte, is missing from `tokens`, or special tokens
            repeat.
    """

    _on_bytes = True

    def __init__(
        self,
        tokens,
        merges,
        *,
        special_tokens=(END_TOKEN,),
        pattern="gpt2",
        ignore_merges=False,
        added_tokens=(),
        token_flags=None,
        normalizer=None,
        post_processor=None,
        drop_bytes=False,
    ):
        check_pattern(pattern, BYTE_PATTERNS)
        id_of = {token: index for index, token in enumerate(tokens)}
        missing = [a + b for a, b in merges if a + b not in id_of]
        missing += [] if drop_bytes else [character for character in _BYTE_CHARACTERS if character not in id_of]
        missing += [part for pair in merges for part in pair if part not in id_of]
        made = {left + right for left, right in merges} | set(_BYTE_CHARACTERS)
        if made & set(special_tokens):
            raise ValueError(
                f"special_tokens must not be what a text makes; got {(made & set(special_tokens)).pop()!r}"
            )
        if missing:
            raise ValueError(f"tokens must hold every byte, merge and special token; got none for {missing[0]!r}")
        token_bytes = [_bytes_of_token(token) for token in tokens]
        super().__init__(
            tokens,
            special_tokens,
            token_bytes,
            pattern=pattern,
            added_tokens=added_tokens,
            token_flags=token_flags,
            normalizer=normalizer,
            post_processor=post_processor,
        )
        self._plain.merges = tuple((left, right) for left, right in merges)
        self.ignore_merges = ignore_merges
        self._lacks_bytes = any(character not in id_of for character in _BYTE_CHARACTERS)
        apart = set(special_tokens) | set(added_tokens)
        self._symbol_counts = tf.constant(
            [1 if token in apart else len(text) for token, text in zip(tokens, token_bytes, strict=True)]
        )
        self._id_of_byte = tf.constant([id_of.get(character, -1) for character in _BYTE_CHARACTERS])
        # Pairs are looked up in a sorted vector: no hash table, so nothing to initialise or track in an export.
        pairs = [(id_of[left], id_of[right], id_of[left + right]) for left, right in merges]
        ranks = {left * self.vocab_size + right: rank for rank, (left, right, _) in enumerate(pairs)}
        keys = np.array(sorted(ranks) or [-1], np.int64)
        self._pair_keys = tf.constant(keys)
        self._pair_ranks = tf.constant([ranks.get(key, -1) for key in keys.tolist()], tf.int32)
        left, right, product = np.array(pairs or [(0, 0, 0)]).T
        self._merged_ids = tf.constant(product, tf.int32)
        lowest = np.full(self.vocab_size, len(pairs))  # rank of a merge with a token in it
        if pairs:
            np.minimum.at(lowest, np.concatenate([left, right]), np.tile(np.arange(len(pairs)), 2))
        # For every rank, the lowest rank that a pair with its product can have; the last entry is for no rank.
        self._next_ranks = tf.constant(np.append(lowest[product], len(pairs)), tf.int32)
        self._whole_words = self._index_whole_words(apart)

    @property
    def merges(self):
        return self._plain.merges

    def _index_whole_words(self, apart):
        """Indexes the tokens that a word of their bytes becomes whole, so that most words need no merging."""
        usable = {}
        for index, token in enumerate(self._plain.tokens):
            if token not in apart and all(character in _BYTE_OF for character in token):
                usable[index] = [_BYTE_OF[character] for character in token]
        if not self.ignore_merges:
            lengths = np.array([len(word) for word in usable.values()], np.int32)
            symbols = tf.constant([byte for word in usable.values() for byte in word])
            ids, counts = self._merge(symbols, tf.constant(lengths))
            whole = counts.numpy() == 1
            first = ids.numpy()[np.minimum(np.cumsum(counts) - counts, len(ids) - 1)]
            usable = {
                index: word
                for (index, word), only, made in zip(usable.items(), whole, first, strict=True)
                if only and made == index
            }
        return WordIndex(list(usable.values()), list(usable))

    @classmethod
    def train(cls, texts, *, vocab_size, special_tokens=(END_TOKEN,), pattern="gpt2"):
        """Learns merges from texts with the Rust `tokenizers` library.

        Args:
            texts: str or iterable of str.
            vocab_size: int, ids wanted, at least 256 and the special tokens; small texts may give fewer.
            special_tokens: tuple of str, at ids 0, 1, ...
            pattern: str, how a text is cut into words, as for the class.

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

        check_pattern(pattern, BYTE_PATTERNS)
        check_special_tokens(special_tokens)
        if vocab_size < 256 + len(special_tokens):
            raise ValueError(
                f"vocab_size must be at least 256 + {len(special_tokens)} special tokens; got vocab_size={vocab_size}"
            )
        learner = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
        learner = tokenizers.Tokenizer.from_str(json.dumps(learner | {"pre_tokenizer": pre_tokenizer_of(pattern)}))
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=sorted(_BYTE_CHARACTERS),
            show_progress=False,
        )
        learner.train_from_iterator(as_texts(texts), trainer)
        return cls.from_json(json.loads(learner.to_str()) | {"decoder": BYTE_LEVEL})

    def _encode_words(self, symbols, first, lengths):
        whole = self._whole_words.find(symbols, first, lengths)
        return encode_rest(whole, symbols, first, lengths, self._merge)

    def _merge(self, symbols, lengths):
        """Merges the pair of lowest rank, the leftmost first, until no word has a pair left.

        A turn of the loop makes all merges, in all words, that nothing can come before: those below every rank that a product
        of the word's pairs could have, and not above their neighbours.

        Args:
            symbols: int32 [M], the bytes of words, one word after another.
            lengths: int32 [W].

        Returns:
            (ids int32 [K], counts int32 [W]).
        """
        none = len(self.merges)

        def pair_ranks(ids, word_of):
            key = tf.cast(ids[:-1], tf.int64) * self.vocab_size + tf.cast(ids[1:], tf.int64)
            at = tf.minimum(tf.searchsorted(self._pair_keys, key), tf.size(self._pair_keys) - 1)
            known = tf.equal(tf.gather(self._pair_keys, at), key) & tf.equal(word_of[:-1], word_of[1:])
            return tf.where(known, tf.gather(self._pair_ranks, at), none)  # [N - 1]

        def merge_some(ids, word_of, ranks):
            word, count = word_of[:-1], word_of[-1] + 1
            least = tf.gather(tf.math.unsorted_segment_min(ranks, word, count), word)
            limit = tf.math.unsorted_segment_min(tf.gather(self._next_ranks, ranks), word, count)
            limit = tf.gather(limit, word)
            before, after = tf.concat([[none], ranks[:-1]], 0), tf.concat([ranks[1:], [none]], 0)
            wanted = (ranks < limit) & (ranks <= before) & (ranks <= after) & (ranks < none)

            def one_a_word():
                # Merges out of the order of training: a product may pair before what made it, so only the first counts.
                place = tf.range(tf.size(ranks))
                candidate = tf.where((ranks == least) & (ranks < none), place, tf.size(ranks))
                first = tf.gather(tf.math.unsorted_segment_min(candidate, word, count), word)
                return tf.where(limit <= least, place == first, wanted)

            wanted = tf.cond(tf.reduce_any((limit <= least) & (least < none)), one_a_word, lambda: wanted)
            overlap = wanted & (ranks == before)  # in "aaa" the pairs overlap: the left one wins
            merged = tf.cond(tf.reduce_any(overlap), lambda: _every_other(wanted, ranks == before), lambda: wanted)
            ids = tf.concat(
                [tf.where(merged, tf.gather(self._merged_ids, tf.minimum(ranks, none - 1)), ids[:-1]), ids[-1:]], 0
            )
            kept = tf.concat([[True], ~merged], 0)
            ids, word_of = tf.boolean_mask(ids, kept), tf.boolean_mask(word_of, kept)
            return ids, word_of, pair_ranks(ids, word_of)

        vector = tf.TensorShape([None])
        ids = tf.gather(self._id_of_byte, symbols)
        word_of = repeat(tf.range(tf.size(lengths)), lengths)
        if self._lacks_bytes:
            ids, word_of = tf.boolean_mask(ids, ids >= 0), tf.boolean_mask(word_of, ids >= 0)
        ids, word_of, _ = tf.while_loop(
            lambda ids, word_of, ranks: tf.reduce_any(ranks < none),
            merge_some,
            (ids, word_of, pair_ranks(ids, word_of)),
            shape_invariants=(vector, vector, vector),
        )
        return ids, tf.math.unsorted_segment_sum(tf.ones_like(ids), word_of, tf.size(lengths))

    def to_json(self):
        """Returns str, the JSON of an equal `tokenizers.Tokenizer`."""
        model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
        model |= {"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": self.ignore_merges}
        return write_document(self, model | {"merges": [list(pair) for pair in self.merges]}, BYTE_LEVEL)

    @classmethod
    def from_json(cls, document):
        tokens, shared = read_shared(document, BYTE_PATTERNS)
        model, empty = document["model"], (None, "", False)
        refuse_unless(model, continuing_subword_prefix=empty, end_of_word_suffix=empty, dropout=(None, 0.0))
        refuse_unless(model, byte_fallback=empty)
        if not set(_BYTE_CHARACTERS) <= set(tokens):  # else unk_token cannot come up
            refuse_unless(model, unk_token=(None,))
        decoder = document.get("decoder") or {}
        if decoder.get("type") == "Sequence" and len(decoder["decoders"]) == 1:
            (decoder,) = decoder["decoders"]
        if decoder.get("type") != "ByteLevel":
            raise ValueError(f"tokenizer.json: decoder must be ByteLevel; got {document.get('decoder')}")
        merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
        if any(len(pair) != 2 for pair in merges):
            raise ValueError("tokenizer.json: merges must be pairs; got others")
        return cls(tokens, merges, ignore_merges=bool(model.get("ignore_merges")), drop_bytes=True, **shared)


def _bytes_of_token(token):
    """Returns the bytes that a token of the vocabulary stands for; added tokens may be written in plain characters."""
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _every_other(flags, like_before):
    """Keeps the first, third, fifth ... flag of every run of True, and none of a run whose first is like the one before it.

    Args:
        flags: bool [N].
        like_before: bool [N]; where the first of a run is so, the run begins farther left than its flags.

    Returns:
        bool [N].
    """
    index = tf.range(tf.size(flags))
    begins = flags & ~tf.concat([[False], flags[:-1]], 0)
    run = tf.cumsum(tf.cast(begins, tf.int32))
    first = tf.gather(tf.concat([[0], tf.boolean_mask(index, begins)], 0), run)
    return flags & ((index - first) % 2 == 0) & ~tf.gather(like_before, first)
