"""Batches for encoders and heads: texts, texts with classes, words with tags, questions with answers, pairs of texts.

Every data set here takes the options of `pair_dataset` that shape batches (`batch_size`, `tokens_per_batch`, `num_buckets`,
`multiple`) and passes (`seed`, `shuffle`, `epochs`, `start_step`), and goes on at any step as that one does. Rows come in buckets
of similar lengths; where a bucket's last batch lacks rows, some come again with weight 0. `windows.py` turns texts into rows.
"""

import dataclasses
import warnings

import numpy as np
import tensorflow as tf

from tfllm.data.bucketing import Rows, make_buckets, stream_buckets
from tfllm.data.stream import check_stream
from tfllm.data.windows import span_windows, split_words, text_rows, word_windows
from tfllm.layers.crf import bio_parts

_SHAPE = ("batch_size", "tokens_per_batch", "num_buckets", "multiple")


def text_dataset(texts, tokenizer, *, max_length=None, add_special_tokens=True, **options):
    """Makes batches of whole texts, for `masked_language_model`.

    Args:
        texts: list of str, none of them without a token.
        tokenizer: a tokenizer.
        max_length: int, the most ids of a row; longer texts lose their ends, which a warning says. None for no limit.
        add_special_tokens: bool, whether the tokens of the tokenizer's template, such as `[CLS]` and `[SEP]`, are put around.
        **options: of batches and passes, see above.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, T], weights float32 [B, T])`: inputs are a dict of `"ids"`, int32 [B, T],
        0 behind `"lengths"`, int32 [B]; targets are the ids; weights are 1 for ids and 0 for padding.

    Raises:
        ValueError: when there is no text, one has no token, or a number is out of its range.

    Example:
        >>> batches = text_dataset(["ab", "b"], tfllm.CharTokenizer("ab"), batch_size=2, num_buckets=1, multiple=1)
        >>> inputs, _, weights = next(iter(batches))
        >>> sorted(inputs["ids"].numpy().tolist()), int(tf.reduce_sum(weights))
        ([[1, 2], [2, 0]], 3)
    """
    rows = _Texts("texts", texts, tokenizer, max_length, add_special_tokens)

    def gather(row, exists, width, _):
        inputs = rows.inputs(row, width)
        real = tf.sequence_mask(inputs["lengths"], tf.cast(width, tf.int32)) & exists[:, None]
        return inputs, inputs["ids"], tf.cast(real, tf.float32)

    return _batches(rows.lengths, gather, max_length, options)


def classification_dataset(
    texts, labels, tokenizer, *, label_names=None, max_length=None, add_special_tokens=True, **options
):
    """Makes batches of texts and their classes, for `TextClassifier`.

    Args:
        texts, tokenizer, max_length, add_special_tokens: as in `text_dataset`.
        labels: list of str, or of ints, one a text.
        label_names: list, the labels in the order of their numbers; None for all labels given, sorted. Give the training's to
            validation and test: a label that is not among them is refused.
        **options: of batches and passes, see above.

    Returns:
        `tf.data.Dataset` of `(inputs, labels int32 [B], weights float32 [B])`, with inputs as in `text_dataset`; its attribute
        `label_names` is the list of labels.

    Raises:
        ValueError: when texts and labels are not as many, a label is unknown, and as `text_dataset` does.

    Example:
        >>> data = [["ab", "b"], ["good", "bad"], tfllm.CharTokenizer("ab")]
        >>> batches = classification_dataset(*data, batch_size=2, num_buckets=1, multiple=1)
        >>> inputs, labels, weights = next(iter(batches))
        >>> batches.label_names, sorted(zip(inputs["lengths"].numpy().tolist(), labels.numpy().tolist()))
        (['bad', 'good'], [(1, 0), (2, 1)])
    """
    labels = list(labels)
    rows = _Texts("texts", texts, tokenizer, max_length, add_special_tokens)
    _check_number("labels", labels, "texts", rows.lengths)
    names, numbers = _numbered("labels", labels, label_names)
    numbers = tf.constant(numbers, tf.int32)

    def gather(row, exists, width, _):
        return rows.inputs(row, width), tf.gather(numbers, row), tf.cast(exists, tf.float32)

    dataset = _batches(rows.lengths, gather, max_length, options)
    dataset.label_names = names
    return dataset


def tagging_dataset(
    words,
    tags,
    tokenizer,
    *,
    tag_names=None,
    bio=True,
    repair=False,
    max_length=None,
    stride=None,
    separator=" ",
    piece="first",
    add_special_tokens=True,
    **options,
):
    """Makes batches of words and their tags, for `TokenTagger`.

    Args:
        words: list of lists of str, the words of each text, none of them empty.
        tags: list of lists of str, a tag a word.
        tokenizer, max_length, stride, separator, piece, add_special_tokens: as in `word_windows`: longer texts are cut into
            windows.
        tag_names: list of str, the tags in the order of their numbers; None for those of the data, each type with its B and
            its I. Give the training's to validation and test: a tag that is not among them is refused.
        bio: bool, whether tags are BIO: "O", "B-" and a type where an entity begins, "I-" and its type where it goes on.
        repair: bool, whether an I that continues nothing becomes a B; else it is refused.
        **options: of batches and passes, see above.

    Returns:
        `tf.data.Dataset` of `(inputs, tags int32 [B, T], weights float32 [B, T])`: inputs are those of `text_dataset` and
        `"words"`, int32 [B, T], 1 at the one token of each word that carries its tag. Its attribute `tag_names` is the list of
        tags.

    Raises:
        ValueError: when words and tags are not as many, a text has none, a tag is unknown or not valid BIO, and as
            `word_windows` does.

    Example:
        >>> data = [["a", "ba"]], [["O", "B-X"]], tfllm.CharTokenizer("ab ")
        >>> batches = tagging_dataset(*data, batch_size=1, multiple=1)
        >>> inputs, tags, weights = next(iter(batches))
        >>> batches.tag_names, inputs["words"].numpy().tolist(), tags.numpy().tolist()
        (['O', 'B-X', 'I-X'], [[1, 1, 0, 0]], [[0, 1, 0, 0]])
    """
    words, tags = [list(row) for row in words], [list(row) for row in tags]
    _check_number("tags", tags, "words", words)
    for i, (some, own) in enumerate(zip(words, tags, strict=True)):
        if not some or not all(isinstance(word, str) and word for word in some):
            raise ValueError(f"words must be lists of at least one str, none of them empty; got {some!r:.80} at {i}")
        if len(some) != len(own):
            raise ValueError(f"tags must be one a word; got {len(own)} for {len(some)} words at {i}")
    if bio:
        tags = [_valid_bio(own, i, repair) for i, own in enumerate(tags)]
    given = [tag for own in tags for tag in own]
    if bio and tag_names is None:
        kinds = sorted({kind for _, kind in map(bio_parts, given)} - {""})
        tag_names = ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
    names, numbers = _numbered("tags", given, tag_names)
    splits = np.cumsum([0, *map(len, words)])
    cut = word_windows(
        tokenizer,
        tf.RaggedTensor.from_row_splits(tf.constant([word for row in words for word in row]), splits),
        max_length=max_length,
        stride=stride,
        separator=separator,
        piece=piece,
        add_special_tokens=add_special_tokens,
    )
    word, lengths = cut["word"].numpy(), cut["lengths"].numpy().astype(np.int64)
    tagged = word >= 0
    flat = np.where(tagged, np.array(numbers)[np.where(tagged, splits[cut["row"].numpy()][:, None] + word, 0)], -1)
    real = np.arange(word.shape[1]) < lengths[:, None]
    if not real.any():
        raise ValueError("words must give at least one token; got none")
    lengths, cut_ids, flat, kept = lengths, cut["ids"].numpy(), flat.astype(np.int32), lengths > 0
    ids, found = Rows(cut_ids[real], lengths), Rows(flat[real], lengths)

    def gather(row, exists, width, _):
        row_ids, length = ids(row, width)
        row_tags, _ = found(row, width)
        inside = tf.sequence_mask(length, width) & (row_tags >= 0)
        inputs = {"ids": row_ids, "lengths": tf.cast(length, tf.int32), "words": tf.cast(inside, tf.int32)}
        return inputs, tf.where(inside, row_tags, 0), tf.cast(inside & exists[:, None], tf.float32)

    dataset = _batches(lengths, gather, max_length, options, kept)
    dataset.tag_names = names
    return dataset


@dataclasses.dataclass(frozen=True)
class AnswerWindows:
    """Which rows of a `span_dataset` stand for what.

    Attributes:
        question: int64 [K], the question of each row.
        char_starts, char_ends: int32 [K, T], which characters of the context each token stands for.
        spans: int32 [K, 2], first and last token of the answer, -1 for none.
    """

    question: np.ndarray
    char_starts: np.ndarray
    char_ends: np.ndarray
    spans: np.ndarray


def span_dataset(
    questions,
    contexts,
    answers,
    starts,
    tokenizer,
    *,
    max_length=None,
    stride=None,
    max_question=64,
    separator=None,
    **options,
):
    """Makes batches of questions with texts that may answer them, for `SpanExtractor`.

    A text that is too long is cut into windows, a row each; one that does not hold all of the answer has none.

    Args:
        questions: list of str, none of them empty.
        contexts: list of str, a text for each question, none of them empty.
        answers: list of str or None, the words of the text that answer it; None where it does not.
        starts: list of int, the character of the text at which the answer begins; None or -1 where there is none.
        tokenizer, max_length, stride, max_question, separator: as in `span_windows`. A warning says how many questions lose
            their ends.
        **options: of batches and passes, see above.

    Returns:
        `tf.data.Dataset` of `(inputs, spans int32 [B, 2], weights float32 [B])`: inputs are a dict of `"ids"` and `"segments"`,
        int32 [B, T], `"lengths"`, `"context_starts"` and `"context_lengths"`, int32 [B]; spans are first and last token of
        the answer, or -1, -1. Its attribute `windows` is an `AnswerWindows`.

    Raises:
        ValueError: when the lists are not as many, a text is empty, an answer is not what stands at its start, and as
            `span_windows` does.

    Example:
        >>> tokenizer = tfllm.CharTokenizer("abcd?", special_tokens=("<unk>", "<|endoftext|>"))
        >>> batches = span_dataset(["a?"], ["bcd"], ["cd"], [1], tokenizer, batch_size=1, multiple=1)
        >>> inputs, spans, _ = next(iter(batches))
        >>> inputs["ids"].numpy().tolist(), spans.numpy().tolist()
        ([[2, 6, 1, 3, 4, 5]], [[4, 5]])
    """
    questions, contexts, answers, starts = map(list, (questions, contexts, answers, starts))
    for name, values in (("contexts", contexts), ("answers", answers), ("starts", starts)):
        _check_number(name, values, "questions", questions)
    _check_strings("questions", questions)
    _check_strings("contexts", contexts)
    begin = np.array([-1 if start is None else start for start in starts], np.int64)
    for i, (context, answer, start) in enumerate(zip(contexts, answers, begin, strict=True)):
        if (answer is None) != (start < 0):
            raise ValueError(f"starts must be None or -1 where there is no answer, and only there; got {start} at {i}")
        if answer is not None and (not answer or context[start : start + len(answer)] != answer):
            stands = context[start : start + len(answer)]
            raise ValueError(f"answers must stand in their contexts at starts; got {answer!r} for {stands!r} at {i}")
    end = begin + np.array([0 if answer is None else len(answer) for answer in answers])
    cut = span_windows(
        tokenizer,
        questions,
        contexts,
        max_length=max_length,
        stride=stride,
        max_question=max_question,
        separator=separator,
    )
    cut = {name: value.numpy() for name, value in cut.items()}
    if cut["long_questions"].any():
        _say_cut(int(cut["long_questions"].sum()), "questions", len(questions), f"max_question={max_question}")
    row, char_starts, char_ends = cut["row"], cut["char_starts"], cut["char_ends"]
    spans = np.full([len(row), 2], -1, np.int32)
    first, last = begin[row][:, None], end[row][:, None]
    place = np.arange(char_starts.shape[1])
    of_text = place >= cut["context_starts"][:, None]
    of_text &= place < (cut["context_starts"] + cut["context_lengths"])[:, None]
    inside = of_text & (char_starts < last) & (char_ends > first) & (char_ends > char_starts)
    whole = inside.any(1) & (np.where(inside, char_starts, 2**30).min(1, initial=2**30) <= first[:, 0])
    whole &= np.where(inside, char_ends, 0).max(1, initial=0) >= last[:, 0]
    spans[whole, 0] = inside[whole].argmax(1)
    spans[whole, 1] = inside.shape[1] - 1 - inside[whole, ::-1].argmax(1)
    lengths = cut["lengths"].astype(np.int64)
    real = place < lengths[:, None]
    ids, segments = Rows(cut["ids"][real], lengths), Rows(cut["segments"][real], lengths)
    numbers = tf.constant(np.concatenate([spans, cut["context_starts"][:, None], cut["context_lengths"][:, None]], 1))

    def gather(row, exists, width, _):
        row_ids, length = ids(row, width)
        own = tf.gather(numbers, row)
        inputs = {"ids": row_ids, "lengths": tf.cast(length, tf.int32), "segments": segments(row, width)[0]}
        inputs |= {"context_starts": own[:, 2], "context_lengths": own[:, 3]}
        return inputs, own[:, :2], tf.cast(exists, tf.float32)

    dataset = _batches(lengths, gather, max_length, options)
    dataset.windows = AnswerWindows(row.astype(np.int64), char_starts, char_ends, spans)
    return dataset


def text_pair_dataset(firsts, seconds, tokenizer, *, max_length=None, add_special_tokens=True, **options):
    """Makes batches of texts that belong together, for `SentenceEmbedder`.

    Args:
        firsts: list of str, none of them without a token.
        seconds: list of str, the partner of each.
        tokenizer, max_length, add_special_tokens: as in `text_dataset`.
        **options: of batches and passes, see above. The larger the batch, the more partners a text must tell apart.

    Returns:
        `tf.data.Dataset` of `(inputs, inputs of the partners, weights float32 [B])`, with inputs as in `text_dataset`.

    Raises:
        ValueError: when the lists are not as many, and as `text_dataset` does.

    Example:
        >>> data = ["ab", "b"], ["a", "bb"], tfllm.CharTokenizer("ab")
        >>> first, second, weights = next(iter(text_pair_dataset(*data, batch_size=2, num_buckets=1, multiple=1)))
        >>> sorted(zip(first["lengths"].numpy().tolist(), second["lengths"].numpy().tolist())), weights.shape
        ([(1, 2), (2, 1)], TensorShape([2]))
    """
    first = _Texts("firsts", firsts, tokenizer, max_length, add_special_tokens)
    second = _Texts("seconds", seconds, tokenizer, max_length, add_special_tokens)
    _check_number("seconds", second.lengths, "firsts", first.lengths)

    def gather(row, exists, width, second_width):
        return first.inputs(row, width), second.inputs(row, second_width), tf.cast(exists, tf.float32)

    return _batches(first.lengths, gather, max_length, options, second=second.lengths)


def balanced_weights(labels, num_labels):
    """Returns list of float, class weights with which all labels together count alike: rare ones more.

    Args:
        labels: list of int in [0, num_labels).
        num_labels: int L.

    Returns:
        list of L floats: the number of labels, divided by L and by the number of each; 0 for a label that is not there.

    Example:
        >>> balanced_weights([0, 0, 0, 1], 2)
        [0.6666666666666666, 2.0]
    """
    counts = np.bincount(np.asarray(labels, np.int64), minlength=num_labels)
    if len(counts) > num_labels:
        raise ValueError(f"labels must lie in [0, num_labels={num_labels}); got {len(counts) - 1}")
    return [float(counts.sum() / (num_labels * count)) if count else 0.0 for count in counts]


def tag_entities(text, entities, *, pattern="words"):
    """Turns entities with character offsets into words with BIO tags, for `tagging_dataset`.

    Args:
        text: str.
        entities: list of (start, end, type): the entity is `text[start:end]`. They must not overlap, and end where words do.
        pattern: str, how the text is cut into words, see `split_words`.

    Returns:
        (list of str, list of str), words and tags.

    Raises:
        ValueError: when entities overlap, are out of the text, or begin or end inside a word.

    Example:
        >>> tag_entities("Ada Lovelace, London", [(0, 12, "PER"), (14, 20, "LOC")])
        (['Ada', 'Lovelace', ',', 'London'], ['B-PER', 'I-PER', 'O', 'B-LOC'])
    """
    words, starts, ends = (part.to_list()[0] for part in split_words([text], pattern))
    tags, before = ["O"] * len(words), None
    for start, end, kind in sorted(entities):
        if not 0 <= start < end <= len(text):
            raise ValueError(f"entities must lie in the text of {len(text)} characters; got {(start, end, kind)}")
        if before is not None and start < before[1]:
            raise ValueError(f"entities must not overlap; got {before} and {(start, end, kind)}")
        if start not in starts or end not in ends:
            raise ValueError(
                f"entities must begin and end where words do; got {(start, end, kind)}, {text[start:end]!r}"
            )
        first, last = starts.index(start), ends.index(end)
        tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
        before = start, end, kind
    return [word.decode() for word in words], tags


class _Texts:
    """Texts as rows of ids; `inputs(rows, width)` gathers them."""

    def __init__(self, name, texts, tokenizer, max_length, add_special_tokens):
        texts = list(texts) if not isinstance(texts, str) else texts
        _check_strings(name, texts)
        rows, cut = text_rows(
            tokenizer, tf.constant(texts), max_length=max_length, add_special_tokens=add_special_tokens
        )
        specials = int(
            text_rows(tokenizer, tf.constant([""]), add_special_tokens=add_special_tokens)[0].row_lengths()[0]
        )
        self.lengths = rows.row_lengths().numpy().astype(np.int64)
        if (self.lengths <= specials).any():
            i = int(np.flatnonzero(self.lengths <= specials)[0])
            raise ValueError(f"{name} must have at least one token each; got {texts[i]!r} at {i}")
        if cut.numpy().any():
            _say_cut(int(cut.numpy().sum()), name, len(texts), f"max_length={max_length}")
        self._rows = Rows(rows.values.numpy(), self.lengths)

    def inputs(self, rows, width):
        ids, lengths = self._rows(rows, width)
        return {"ids": ids, "lengths": tf.cast(lengths, tf.int32)}


def _batches(lengths, gather, max_length, options, kept=None, *, second=None):
    """Returns the data set of `gather(rows, exists, width, second width)` on buckets of rows of one or two lengths."""
    unknown = set(options) - {*_SHAPE, "seed", "shuffle", "epochs", "start_step"}
    if unknown:
        raise TypeError(f"options must be those of batches and passes of pair_dataset; got {sorted(unknown)}")
    passes = {name: value for name, value in options.items() if name not in _SHAPE}
    shape = {name: value for name, value in options.items() if name in _SHAPE}
    check_stream(shape.get("batch_size", 32), passes.get("epochs", 1), passes.get("start_step", 0))
    if second is None and shape.get("tokens_per_batch") is not None:
        shape["tokens_per_batch"] *= 2  # the buckets count both sides, which are one here
    index = None if kept is None or kept.all() else tf.constant(np.flatnonzero(kept))
    sides = [side if index is None else side[kept] for side in (lengths, lengths if second is None else second)]
    buckets = make_buckets(*sides, **shape)
    if max_length is not None:  # lengths were rounded up
        s, t = (np.minimum(widths, max_length) for widths in (buckets.source_lengths, buckets.target_lengths))
        buckets = dataclasses.replace(buckets, source_lengths=s, target_lengths=t)

    def gather_kept(row, *others):
        return gather(row if index is None else tf.gather(index, row), *others)

    return stream_buckets(buckets, gather_kept, **passes)


def _valid_bio(tags, place, repair):
    """Returns the tags of a text, each I behind a B or an I of its type; refuses others, or makes them B."""
    found, before = [], ("O", "")
    for i, tag in enumerate(tags):
        mark, kind = bio_parts(tag)
        if mark == "I" and (before[0] == "O" or before[1] != kind):
            if not repair:
                behind = tags[i - 1] if i else "nothing"
                raise ValueError(
                    f"tags must be valid BIO, each I behind a B or an I of its type; got {tag!r} behind {behind!r} at {place}; "
                    "repair=True makes it a B"
                )
            tag = f"B-{kind}"
        found.append(tag)
        before = mark, kind
    return found


def _numbered(name, labels, names):
    """Returns (list of the names in the order of their numbers, list of the number of each label)."""
    names = sorted(set(labels)) if names is None else list(names)
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"{name[:-1]}_names must be different names, at least one; got {names!r:.80}")
    number = {label: i for i, label in enumerate(names)}
    for label in labels:
        if label not in number:
            raise ValueError(f"{name} must be among those seen in training, {names!r:.80}; got {label!r}")
    return names, [number[label] for label in labels]


def _check_number(name, values, other, others):
    if len(values) != len(others):
        raise ValueError(f"{name} must be as many as {other}, {len(others)}; got {len(values)}")


def _check_strings(name, texts):
    if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a list of at least one str; got {texts!r:.60}")
    if not all(texts):
        raise ValueError(f"{name} must not be empty; got an empty one at {texts.index('')}")


def _say_cut(count, name, total, limit):
    warnings.warn(f"{count} of {total} {name} are longer than {limit} tokens and lose their ends", stacklevel=4)
