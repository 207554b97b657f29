"""Texts, words and questions as rows of ids, the same in Python, in a graph and in a SavedModel.

A text that is longer than a model is cut into windows that overlap, a row each; every token belongs to the one window in which
it stands farthest from both ends, or nearest to the text's own end. Left out: windows that end where words do.
"""

import tensorflow as tf

from tfllm.text.characters import BREAK, read_characters
from tfllm.text.tokenizer_json import WORD_PATTERNS, check_pattern, splitter_named, template_of
from tfllm.text.words import lengths_of, repeat, slices

PATTERNS = (*WORD_PATTERNS, "characters")
PIECES = ("first", "last")
_ENDLESS = 2**30  # tokens that a model without a longest text has room for


def split_words(texts, pattern="words"):
    """Cuts texts into words.

    Args:
        texts: string [R].
        pattern: str, "words" (words, and runs of signs), "bert" (the same, each sign alone),
            "whitespace", or "characters" (each character but white space).

    Returns:
        (words string, starts int32, ends int32), ragged [R, (W)]: word w is the characters `starts[w]` up to, but not including,
        `ends[w]` of its text.

    Raises:
        ValueError: on another `pattern`.

    Example:
        >>> words, starts, ends = split_words(["To be, 你好"])
        >>> [word.decode() for word in words.to_list()[0]], starts.to_list()
        (['To', 'be', ',', '你好'], [[0, 3, 5, 7]])
    """
    check_pattern(pattern, PATTERNS)
    texts = tf.strings.unicode_transcode(tf.convert_to_tensor(texts, tf.string), "UTF-8", "UTF-8", errors="replace")
    points, _, at = read_characters(texts)  # a break before the first and behind every text
    begins_word, blank = splitter_named(pattern)(points)
    first = tf.cast(tf.where(begins_word)[:, 0], tf.int32)
    sizes = lengths_of(first, tf.size(points))
    kept = tf.boolean_mask(tf.range(tf.size(first)), ~tf.gather(blank, first))
    first, sizes = tf.gather(first, kept), tf.gather(sizes, kept)
    breaks = tf.cast(tf.where(points == BREAK)[:, 0], tf.int32)  # [R + 1], or none for no text
    row = tf.searchsorted(breaks, first, side="right") - 1
    before = tf.gather(breaks, row) + 1  # where the text begins
    begin = tf.gather(at, first) - tf.gather(at, before)  # bytes
    words = tf.strings.substr(tf.gather(texts, row), begin, tf.gather(at, first + sizes) - tf.gather(at, first))
    found = [words, first - before, first + sizes - before]
    real = tf.strings.strip(words) != ""
    row = tf.cast(tf.boolean_mask(row, real), tf.int64)
    rows = tf.shape(texts, tf.int64)[0]
    return [tf.RaggedTensor.from_value_rowids(tf.boolean_mask(values, real), row, rows) for values in found]


def special_ids(tokenizer):
    """Returns (list of int, list of int), what a tokenizer's template puts before and behind a text."""
    return [[tokenizer.id_of(token) for token in part] for part in template_of(tokenizer.post_processor)]


def text_rows(tokenizer, texts, *, max_length=None, add_special_tokens=True):
    """Turns texts into ids; those that are too long lose their ends, but not the special token there.

    Args:
        tokenizer: a tokenizer.
        texts: string [R].
        max_length: int, the most ids of a row, or None for no limit.
        add_special_tokens: bool, whether the tokens of the tokenizer's template, such as `[CLS]` and `[SEP]`, are put around.

    Returns:
        (ragged int32 [R, (T)] ids, bool [R], which texts lost their ends).

    Raises:
        ValueError: when `max_length` has no room for a token of text.
    """
    before, after = special_ids(tokenizer) if add_special_tokens else ([], [])
    ids = tokenizer.encode(texts)
    room = _room(max_length, len(before) + len(after))
    cut = ids.row_lengths() > room
    return _join([before, ids[:, :room], after], ids.nrows()), cut


def word_windows(
    tokenizer, words, *, max_length=None, stride=None, separator=" ", piece="first", add_special_tokens=True
):
    """Turns texts that are cut into words into rows of ids, and says at which token each word is to be tagged.

    Args:
        tokenizer: a tokenizer. It reads each word by itself, all but the first of a text behind the separator.
        words: ragged string [R, (W)].
        max_length: int, the most ids of a row, or None for no limit. Longer texts are cut into windows.
        stride: int, tokens from a window's beginning to the next one's; None for half of a window.
        separator: str, what stands between words; "" for Chinese.
        piece: str, "first" or "last" piece of a word, where its tag is; a language model has seen the whole word at the last.
        add_special_tokens: bool, see `text_rows`.

    Returns:
        dict of `"ids"`, int32 [K, T], 0 behind `"lengths"`, int32 [K]; `"row"`, int32 [K], the text of each window; and `"word"`,
        int32 [K, T], the number of the word that is tagged at a token, -1 elsewhere. A word is tagged in one window; one of which
        the tokenizer makes nothing in none.

    Raises:
        ValueError: when `stride` or `max_length` leaves out tokens, or on another `piece`.

    Example:
        >>> tokenizer = tfllm.CharTokenizer("ab c")
        >>> rows = word_windows(tokenizer, tf.ragged.constant([["ab", "c"]]), max_length=3, stride=1, separator="")
        >>> rows["ids"].numpy().tolist(), rows["word"].numpy().tolist()
        ([[1, 2, 4]], [[0, -1, 1]])
    """
    if piece not in PIECES:
        raise ValueError(f"piece must be one of {PIECES}; got {piece!r}")
    before, after = special_ids(tokenizer) if add_special_tokens else ([], [])
    room = _room(max_length, len(before) + len(after))
    flat, row_of_word = words.values, tf.cast(words.value_rowids(), tf.int32)
    number = tf.range(tf.size(flat)) - tf.gather(tf.cast(words.row_starts(), tf.int32), row_of_word)  # in its text
    pieces = tokenizer.encode(tf.strings.join([tf.where(number > 0, separator, ""), flat]))
    counts = tf.cast(pieces.row_lengths(), tf.int32)
    first = tf.cumsum(counts, exclusive=True)
    place = first if piece == "first" else first + counts - 1
    has = counts > 0
    word = tf.tensor_scatter_nd_update(  # [N], of each token
        tf.fill([tf.size(pieces.values)], -1),
        tf.boolean_mask(place, has)[:, None],
        tf.boolean_mask(number, has),
    )
    lengths = tf.math.unsorted_segment_sum(counts, row_of_word, tf.cast(words.nrows(), tf.int32))
    begins = tf.cumsum(lengths, exclusive=True)
    row, start, own_start, own_end = windows(lengths, room, stride)
    size = tf.minimum(tf.gather(lengths, row) - start, room)
    at = slices(tf.gather(begins, row) + start, size)
    inside = at - repeat(tf.gather(begins, row), size)  # place in its text
    owned = (inside >= repeat(own_start, size)) & (inside < repeat(own_end, size))
    sizes = tf.cast(size, tf.int64)
    bodies = [
        tf.RaggedTensor.from_row_lengths(values, sizes)
        for values in (tf.gather(pieces.values, at), tf.where(owned, tf.gather(word, at), -1))
    ]
    count = tf.cast(tf.size(row), tf.int64)
    ids = _join([before, bodies[0], after], count)
    word = _join([[-1] * len(before), bodies[1], [-1] * len(after)], count)
    return {
        "ids": ids.to_tensor(),
        "lengths": tf.cast(ids.row_lengths(), tf.int32),
        "row": row,
        "word": word.to_tensor(-1),
    }


def span_windows(tokenizer, questions, contexts, *, max_length=None, stride=None, max_question=64, separator=None):
    """Turns questions and the texts that may answer them into rows: special tokens, question, separator, text, separator.

    Args:
        tokenizer: a tokenizer.
        questions: string [R].
        contexts: string [R].
        max_length: int, the most ids of a row, or None for no limit. Longer texts are cut into windows, each with the question.
        stride: int, tokens of text from a window's beginning to the next one's; None for half of the shortest window.
        max_question: int, the most tokens of a question, which loses its end.
        separator: str, a token of the vocabulary; None for that of the template (BERT's `[SEP]`) or the tokenizer's end.

    Returns:
        dict of `"ids"`, int32 [K, T], 0 behind `"lengths"`, int32 [K]; `"segments"`, int32 [K, T], 1 from the text on;
        `"context_starts"` and `"context_lengths"`, int32 [K], the tokens of the text; `"row"`, int32 [K], the question of each
        window; `"char_starts"` and `"char_ends"`, int32 [K, T], which characters of the text a token stands for, 0 elsewhere;
        and `"long_questions"`, bool [R], which questions lost their ends.

    Raises:
        ValueError: when there is no separator, or `max_length` has no room for a question and a token of text.

    Example:
        >>> tokenizer = tfllm.CharTokenizer("abcd?", special_tokens=("<unk>", "<|endoftext|>"))
        >>> rows = span_windows(tokenizer, ["a?"], ["bcd"])
        >>> rows["ids"].numpy().tolist(), rows["char_ends"].numpy().tolist()
        ([[2, 6, 1, 3, 4, 5]], [[0, 0, 0, 1, 2, 3]])
    """
    before, after = special_ids(tokenizer)
    if separator is not None:
        between = [tokenizer.id_of(separator)]
    else:
        between = after or ([tokenizer.end_id] if tokenizer.end_id >= 0 else [])
    if not between:
        raise ValueError("separator must be given for a tokenizer without a template or an end token; got None")
    if max_question < 1:
        raise ValueError(f"max_question must be at least 1; got {max_question}")
    specials = len(before) + len(between) + len(after)
    shortest = _room(max_length, specials + max_question)  # of text, behind the longest question
    asked = tokenizer.encode(questions)
    long_questions = asked.row_lengths() > max_question
    asked = asked[:, :max_question]
    ids, char_starts, char_ends = tokenizer.encode_with_offsets(contexts)
    lengths, begins = tf.cast(ids.row_lengths(), tf.int32), tf.cast(ids.row_starts(), tf.int32)
    row, start, *_ = windows(lengths, shortest, stride)
    size = tf.minimum(tf.gather(lengths, row) - start, shortest)
    at, sizes, count = slices(tf.gather(begins, row) + start, size), tf.cast(size, tf.int64), tf.size(row, tf.int64)
    heads = _join([before, tf.gather(asked, row), between], count)

    def joined(head, values, tail):
        body = tf.RaggedTensor.from_row_lengths(tf.gather(values, at), sizes)
        return _join([head, body, [tail] * len(after) if isinstance(tail, int) else tail], count)

    nothing = tf.zeros_like(heads)
    ids = joined(heads, ids.values, after)
    return {
        "ids": ids.to_tensor(),
        "lengths": tf.cast(ids.row_lengths(), tf.int32),
        "segments": joined(nothing, tf.ones_like(char_starts.values), 1).to_tensor(),
        "context_starts": tf.cast(heads.row_lengths(), tf.int32),
        "context_lengths": size,
        "row": row,
        "char_starts": joined(nothing, char_starts.values, 0).to_tensor(),
        "char_ends": joined(nothing, char_ends.values, 0).to_tensor(),
        "long_questions": long_questions,
    }


def windows(lengths, room, stride=None):
    """Cuts rows of tokens into windows.

    Args:
        lengths: int32 [R], tokens of each row.
        room: int >= 1, the most tokens of a window.
        stride: int in [1, room], tokens from a window's beginning to the next one's; None for half of the room.

    Returns:
        (row, start, own_start, own_end), int32 [K] each: window k is the tokens of its row from `start` on, at most `room`, and
        those from `own_start` up to `own_end` are its own, as every token is of one window. A row without tokens has one, too.

    Raises:
        ValueError: when `stride` is out of its range.

    Example:
        >>> [values.numpy().tolist() for values in windows(tf.constant([3, 10]), 6, 4)]
        [[0, 1, 1], [0, 0, 4], [0, 0, 5], [3, 5, 10]]
    """
    stride = max(room // 2, 1) if stride is None else stride
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride <= room:
        raise ValueError(f"stride must lie in [1, {room}], the tokens of a window; got {stride!r}")
    counts = 1 + (tf.maximum(lengths - room, 0) + stride - 1) // stride
    row = repeat(tf.range(tf.size(lengths)), counts)
    number = tf.range(tf.size(row)) - tf.gather(tf.cumsum(counts, exclusive=True), row)
    start, margin = number * stride, (room - stride) // 2
    own_start = tf.where(number > 0, start + margin, 0)
    own_end = tf.where(number == tf.gather(counts, row) - 1, tf.gather(lengths, row), start + stride + margin)
    return row, start, own_start, own_end


def _room(max_length, specials):
    """Returns int, the tokens of text that fit into a row beside others."""
    room = _ENDLESS if max_length is None else max_length - specials
    if room < 1:
        raise ValueError(f"max_length must be above the {specials} tokens that stand around a text; got {max_length}")
    return room


def _join(parts, count):
    """Joins ragged int32 [K, (T)] and lists of ids, which stand in each of `count` (int64) rows, along the rows."""
    ragged = []
    for part in parts:
        if isinstance(part, list):
            if not part:
                continue
            part = tf.RaggedTensor.from_tensor(tf.tile(tf.constant([part], tf.int32, [1, len(part)]), [count, 1]))
        ragged.append(part)
    return tf.concat(ragged, 1)
