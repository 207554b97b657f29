"""Sentences into a vocabulary with counts, and into one array of ids that knows where each sentence ends."""

import dataclasses
import difflib

import numpy as np

from tfllm.text.cleaning import split_words


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """A text in ids.

    Attributes:
        words: tuple of str, the vocabulary, the most frequent first.
        counts: int64 [V], occurrences of each.
        ids: int32 [N], the text without the words that are too rare.
        sentences: int32 [N], the number of the sentence that each word stands in.
        length: int, words of the text, the rare ones included.
    """

    words: tuple
    counts: np.ndarray
    ids: np.ndarray
    sentences: np.ndarray
    length: int


def read_corpus(sentences, min_count, segment=split_words):
    """Counts words and numbers them.

    Args:
        sentences: iterable of sentences, each a list of str or a str; or one str, whose lines are the sentences.
        min_count: int >= 1, occurrences below which a word is left out.
        segment: function of a str that gives a list of str, for the sentences that are str.

    Returns:
        `Corpus`; words of one count keep the order in which they appear.

    Raises:
        ValueError: when a sentence is neither, or fewer than two words are frequent enough.

    Example:
        >>> corpus = read_corpus(["a b a", ["b", "c", "a"]], min_count=2)
        >>> corpus.words, corpus.ids.tolist(), corpus.sentences.tolist()
        (('a', 'b'), [0, 1, 0, 1, 0], [0, 0, 0, 1, 1])
    """
    if isinstance(sentences, str):
        sentences = sentences.splitlines()
    numbers, found, lengths = {}, [], []  # every word gets a number where it appears first
    for sentence in sentences:
        try:
            words = segment(sentence) if isinstance(sentence, str) else list(sentence)
            found.extend([numbers.setdefault(word, len(numbers)) for word in words])
        except TypeError as error:
            raise ValueError(f"sentences must hold str or lists of str; got {str(sentence)[:60]!r}") from error
        lengths.append(len(words))
    wrong = [word for word in numbers if not isinstance(word, str) or not word]
    if wrong:
        raise ValueError(f"sentences must hold words, each a str that is not empty; got {str(wrong[0])[:60]!r}")
    if len(found) >= 2**31:
        raise ValueError(f"sentences must hold fewer than 2**31 words; got {len(found):,}")

    ids = np.array(found, np.int32)
    counts = np.bincount(ids, minlength=len(numbers))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= min_count]
    if len(order) < 2:
        raise ValueError(
            f"sentences must hold at least two different words that occur min_count={min_count} times or more; "
            f"got {len(order)} of {len(numbers):,} different words"
        )
    new = np.full(len(numbers), -1, np.int32)
    new[order] = np.arange(len(order), dtype=np.int32)
    ids = new[ids]
    words = list(numbers)
    return Corpus(
        words=tuple(words[i] for i in order),
        counts=counts[order],
        ids=ids[ids >= 0],
        sentences=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)[ids >= 0],
        length=len(found),
    )


def plain_sentences(text, chinese="characters"):
    """Cuts a text into sentences of plain words: a line each, in lower case, without punctuation.

    Args:
        text: str.
        chinese: as in `text.cleaning.split_words`.

    Returns:
        list of lists of str, the empty ones left out.

    Example:
        >>> plain_sentences("Well, it's 3!\\n\\n床前，")
        [['well', "it's", '3'], ['床', '前']]
    """
    lines = (split_words(line.lower(), chinese=chinese) for line in text.splitlines())
    return [words for line in lines if (words := [word for word in line if word[0].isalnum()])]


def check_word(word, words):
    """Refuses a word that is none of `words`, and says which are close.

    Raises:
        ValueError: when it is none of them.

    Example:
        >>> check_word("qeen", ["king", "queen"])
        Traceback (most recent call last):
        ValueError: word must be one of the 2 of the vocabulary; got 'qeen' (close: 'queen')
    """
    if word in words:
        return
    name = str(word)
    close = [name.lower()] if name.lower() in words else []
    if not close and len(name) < 100:  # the search takes quadratic time
        close = difflib.get_close_matches(name, words, n=3)
    hint = f" (close: {', '.join(map(repr, close))})" if close else ""
    raise ValueError(f"word must be one of the {len(words):,} of the vocabulary; got {name[:100]!r}{hint}")
