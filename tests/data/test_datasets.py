"""Data sets by name: the readers, the splits of the bundled corpora, their builders, and the way to TFDS."""

import collections
import json
import logging
import pathlib
import re
import shutil
import subprocess
import sys
import unicodedata

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import tfllm
from tfllm.data import builders, dataset_names, datasets, iterate_texts, lm_dataset, load, write_jsonl
from tfllm.data.catalogue import CATALOGUE, SPLITS, split_by_hash, without_shared
from tfllm.data.formats import read_conll, read_jsonl, read_nbest, read_squad, read_tsv, split_abc
from tfllm.text.cleaning import comparable

README = (pathlib.Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
FIXTURE = (pathlib.Path(__file__).parent / "squad_v1" / "fixture.json").read_text(encoding="utf-8")


# The readers.


def test_conll_by_hand():
    text = (
        "-DOCSTART- -X- -X- O\n\n# article = Ada\nAda NNP I-NP B-PER\nLovelace NNP I-NP I-PER\r\n\n\n"
        "# intent = A b\n#\tO\n1 2\tB-time\nParis\tB-LOC\nRome\tB-LOC"
    )
    assert read_conll(text) == [
        {"tokens": ["Ada", "Lovelace"], "tags": ["B-PER", "I-PER"], "comments": {"article": "Ada"}},
        {
            "tokens": ["#", "1 2", "Paris", "Rome"],
            "tags": ["O", "B-time", "B-LOC", "B-LOC"],
            "comments": {"intent": "A b"},
        },
    ]
    assert read_conll("") == read_conll("\n\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tO\nb\n", "a token and a tag in every line; got 'b' in line 2"),
        ("\tO\n", r"a token and a tag in every line; got '\\tO' in line 1"),
        ("a\tX-PER", "tags O, B-TYPE or I-TYPE; got 'X-PER' in line 1"),
        ("a\tB-", "tags O, B-TYPE or I-TYPE; got 'B-' in line 1"),
        ("a\tO\n\nb\tI-PER", "begin a span with 'B-PER'; got 'I-PER' in line 3"),
        ("a\tB-PER\n\nb\tI-PER", "begin a span with 'B-PER'; got 'I-PER' in line 3"),
        ("a\tB-LOC\nb\tI-PER", "begin a span with 'B-PER'; got 'I-PER' in line 2"),
    ],
)
def test_malformed_conll_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_conll(text)


def test_squad_reads_the_genuine_questions():
    questions = read_squad(FIXTURE)
    assert [q["id"][-3:] for q in questions] == ["182", "17e", "068", "06b", "067"]
    assert {q["title"] for q in questions} == {"University_of_Notre_Dame"}
    assert questions[0]["question"].startswith("To whom did the Virgin Mary allegedly appear")
    assert questions[0]["answers"] == [{"text": "Saint Bernadette Soubirous", "answer_start": 515}]
    assert [len(q["answers"]) for q in questions] == [1, 3, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FIXTURE.replace('"answer_start": 515', '"answer_start": 514'), "answer_start must point at the answer 'Saint"),
        (FIXTURE.replace('"answer_start": 515', '"answer_start": -1'), "answer_start must point .* got -1, where ''"),
        (FIXTURE.replace('"answers"', '"answer"', 1), "form of SQuAD v1.1; got JSON without 'answers'"),
        ("[]", "form of SQuAD v1.1"),
        ("{", "text must be JSON; got '{', which is not at line 1"),
    ],
)
def test_wrong_squad_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_squad(text)


def test_abc_by_hand():
    first = "X:1\nT:The Lark\nT:Another Name\nM:6/8\nL:1/8\nR:jig\nK:Em\nGEEF | GAB^c |\nK:D\nDEF |"
    second = "X: 22\nT:Short\nK:C\nC"
    tunes = split_abc(f"free text\n\n{first}\n\nmore text\n{second}")
    assert [tune["abc"] for tune in tunes] == [first, second]
    assert tunes[0] | {"abc": ""} == {
        "number": 1,
        "title": "The Lark",
        "meter": "6/8",
        "unit_length": "1/8",
        "rhythm": "jig",
        "key": "Em",
        "abc": "",
    }
    assert (tunes[1]["number"], tunes[1]["meter"]) == (22, "")
    assert [tune["number"] for tune in split_abc("X:1\nK:C\nC\nX:2\nK:D\nD\n")] == [1, 2]  # no empty line between


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nX:1\nT:No key\n\nX:2\nK:C\n", "a line 'K:' in every tune; got none in the tune at line 2"),
        ("X:one\nK:C\n", "numbers after 'X:'; got 'one' in line 1"),
    ],
)
def test_wrong_abc_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        split_abc(text)


def test_tables_and_json_lines_by_hand():
    assert read_tsv('a\tb\n1\t"x\n\n2\tx\u2028y\r\n') == [{"a": "1", "b": '"x'}, {"a": "2", "b": "x\u2028y"}]
    assert read_tsv("1\t2", ["a", "b"]) == [{"a": "1", "b": "2"}]
    assert read_jsonl('{"a": 1}\n\n{"a": "x\u2028\u0085"}\r\n', ["a"]) == [{"a": 1}, {"a": "x\u2028\u0085"}]
    for read, text, message in (
        (read_tsv, "a\tb\n1\n", r"the 2 columns \['a', 'b'\] in every line; got 1 in line 2"),
        (read_jsonl, "{}\n[1]", r"JSON object in every line; got '\[1\]' in line 2"),
        (read_jsonl, "{}\n{", "JSON object in every line; got '{' in line 2"),
    ):
        with pytest.raises(ValueError, match=message):
            read(text)
    with pytest.raises(ValueError, match=r"the field 'b' in every line; got \['a'\] in line 1"):
        read_jsonl('{"a": 1}', ["b"])


def test_wrong_nbest_lists_are_refused():
    guess = {"text": "a", "log_score": None, "wer_edits": 1}
    line = {"id": "u1", "ref": "a b", "nbest": [guess]}
    assert read_nbest(json.dumps(line)) == [line]
    for nbest, message in (
        ([], r"at least one hypothesis; got \[\] for utterance 'u1'"),
        ([{"text": "a"}], "a 'log_score' in each hypothesis"),
        ([guess | {"wer_edits": "1"}], "a 'wer_edits' in each hypothesis"),
        (["a"], "a 'text' in each hypothesis"),
    ):
        with pytest.raises(ValueError, match=message):
            read_nbest(json.dumps(line | {"nbest": nbest}))


# The splits.


def test_rows_that_share_a_name_stay_together_and_the_rest_follow_the_hash():
    rows = [(f"a{i:03d}", f"b{i % 400}") for i in range(1000)]  # chains of two or three rows
    split_of = {row: split for split, kept in split_by_hash(rows, list).items() for row in kept}
    assert set(split_of) == set(rows)
    assert all(split_of[rows[i]] == split_of[rows[i % 400]] for i in range(1000))
    sizes = collections.Counter(split_of.values())
    assert 700 < sizes["train"] < 900
    backwards = split_by_hash(rows[::-1], list)
    assert {split: set(kept) for split, kept in backwards.items()} == {
        split: {row for row in rows if split_of[row] == split} for split in SPLITS
    }
    fewer = split_by_hash(rows[:400], list)  # the first of each chain, whose least name is the chain's
    assert all(split_of[row] == split for split, kept in fewer.items() for row in kept)
    # SHA-256 of "abc" begins with ba7816bf: at 0.73 of the way.
    assert split_by_hash([("abc",)], list)["train"] == [("abc",)]
    assert split_by_hash([("abc",)], list, (0.72, 0.02, 0.26))["validation"] == [("abc",)]
    assert split_by_hash([("abc",)], list, (0.72, 0.0, 0.28))["test"] == [("abc",)]


def test_without_shared_and_comparable():
    assert without_shared(["Aa", "b"], lambda row: [row.lower()], ["aA"]) == ["b"]
    assert comparable(" \uff21\u00a0b\nC ") == "a b c"


TEXTS = {  # what is read as text of each task; a few words of chat alone are no text
    "translation": lambda row: row.values(),
    "sentiment": lambda row: [row["text"]],
    "classification": lambda row: [row["text"], row["headword"]],
    "ner": lambda row: [" ".join(row["tokens"])],
    "question_answering": lambda row: [row["context"], row["question"]],
    "summarization": lambda row: [row["document"], row["summary"]],
    "dialogue": lambda row: [" ".join(row["turns"])] if "turns" in row else [row["prompt"], row["response"]],
    "music": lambda row: [row["abc"].partition("\n")[2], row["title"]],
    "speech": lambda row: [row["reference"]],
    "search": lambda row: [row["query"], row["document" if "document" in row else "headword"]],
}


def documented():
    """Reads the table of data/README.md: name -> examples in train, validation, test."""
    rows = re.findall(r"^\| `([a-z_]+/[\w-]+)` \|.*?\| ([\d,]+) / ([\d,]+) / ([\d,]+) \|", README, re.MULTILINE)
    return {name: tuple(int(n.replace(",", "")) for n in counts) for name, *counts in rows}


def test_the_page_lists_every_data_set():
    assert list(documented()) == list(CATALOGUE) == list(dataset_names())
    assert all(dataset_names().values())


@pytest.mark.parametrize("name", CATALOGUE)
def test_counts_are_those_of_the_page_and_no_text_is_in_two_splits(name):
    splits = CATALOGUE[name].read()
    assert tuple(len(splits[split]) for split in SPLITS) == documented()[name]
    seen = {}
    for split, rows in splits.items():
        for row in rows:
            for text in TEXTS[CATALOGUE[name].task](row):
                assert text.strip()
                plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
                assert seen.setdefault(plain, split) == split, text


def test_pages_and_sentences_are_in_the_same_split_in_every_language():
    split_of = {}
    for language in ("en", "de", "fr", "zh"):
        for split, rows in CATALOGUE[f"summarization/{language}"].read().items():
            assert all(split_of.setdefault(row["id"], split) == split for row in rows)
    english = {row["en"]: split for split, rows in CATALOGUE["translation/en-de"].read().items() for row in rows}
    for split, rows in CATALOGUE["translation/en-zh"].read().items():
        assert all(english[row["en"]] == split for row in rows)


def test_word_error_rates_are_those_of_the_page():
    rows = [row for rows in CATALOGUE["speech/pocketsphinx"].read().values() for row in rows]
    words = sum(len(row["reference"].split()) for row in rows)
    first_pass = [levenshtein(row["reference"].split(), row["first_pass"].split()) for row in rows]
    lists = [[guess["word_edits"] for guess in row["hypotheses"]] for row in rows]
    first_of_list = [edits[0] for edits in lists]
    best = [min(edits) for edits in lists]
    best_of_all = [min(pair) for pair in zip(first_pass, best, strict=True)]
    rates = [f"{100 * sum(edits) / words:.1f} %" for edits in (first_pass, first_of_list, best, best_of_all)]
    assert rates == ["30.6 %", "34.1 %", "21.9 %", "19.9 %"]
    assert all(rate in README for rate in rates)
    for row in rows[:10]:
        for guess in row["hypotheses"]:
            assert levenshtein(row["reference"].split(), guess["text"].split()) == guess["word_edits"]


def levenshtein(first, second):
    distances = list(range(len(second) + 1))
    for i, word in enumerate(first, 1):
        previous, distances = distances, [i]
        for j, other in enumerate(second, 1):
            distances.append(min(previous[j] + 1, distances[j - 1] + 1, previous[j - 1] + (word != other)))
    return distances[-1]


# The builders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_example_fits_the_fields_of_its_builder(name, folder):
    entry = CATALOGUE[name]
    builder = builders.BUILDERS[entry.task](config=entry.config, data_dir=folder)
    assert entry.licence in str(builder.info.redistribution_info)
    assert builder.info.homepage == entry.homepage
    for rows in entry.read().values():
        for row in rows[:200]:
            builder.info.features.encode_example(row)
        assert set(rows[0]) == set(builder.info.features)


def test_translation_reads_back_what_the_catalogue_says(folder):
    dataset = load("translation/en-de", split="validation", data_dir=folder)
    assert dataset.element_spec == {"en": tf.TensorSpec([], tf.string), "de": tf.TensorSpec([], tf.string)}
    found = [(pair["en"].decode(), pair["de"].decode()) for pair in dataset.as_numpy_iterator()]
    wanted = [(pair["en"], pair["de"]) for pair in CATALOGUE["translation/en-de"].read()["validation"]]
    assert sorted(found) == sorted(wanted)
    again = [(pair["en"].decode(), pair["de"].decode()) for pair in dataset.as_numpy_iterator()]
    assert found == again


def test_fields_of_other_tasks_come_back_typed(folder):
    (example,) = load("ner/home-zh", "test", data_dir=folder).take(1)
    assert example["ner"].shape == example["tokens"].shape
    assert (example["ner"].dtype, example["intent"].dtype) == (tf.int64, tf.int64)
    dataset, info = load("sentiment", "train[:3]", data_dir=folder, with_info=True)
    names = info.features["label"].names
    assert names == ["neg", "neu", "pos"]
    for row in dataset:
        assert names[row["label"]] == ("pos" if row["score"] >= 0.5 else "neg" if row["score"] <= -0.5 else "neu")
    (question,) = load("question_answering", "test", data_dir=folder).take(1)
    (answer,) = question["answers"]["text"].numpy()
    start = question["answers"]["answer_start"].numpy()[0]
    assert question["context"].numpy().decode()[start:].startswith(answer.decode())
    inputs, targets = next(iter(load("dialogue/chatterbot-zh", "test", data_dir=folder, as_supervised=True)))
    assert inputs.dtype == targets.dtype == tf.string
    (heard,) = load("speech", "test", data_dir=folder).take(1)
    assert heard["hypotheses"]["text"].shape == heard["hypotheses"]["log_score"].shape == (20,)


def test_parts_of_splits_add_up(folder):
    def count(split):
        return sum(1 for _ in load("dialogue/chatterbot-zh", split, data_dir=folder))

    assert count("train+test") == count("train") + count("test")
    assert count("train[:10%]") + count("train[10%:]") == count("train")


def test_plain_tfds_finds_the_builders_and_no_cache_is_left_half_full(folder, capfd):
    load("music", "validation", data_dir=folder)
    dataset = tfds.load("tfllm_music/irish-american", split="validation", data_dir=folder, download=False)
    assert sum(1 for _ in dataset) == documented()["music/irish-american"][1]
    next(iter(load("music", "validation", data_dir=folder).take(1)))
    out, err = capfd.readouterr()
    assert out == ""
    assert "cache" not in err


def test_preparing_is_silent_and_leaves_the_progress_bars_as_they_were(tmp_path, capfd, caplog):
    tfds.enable_progress_bar()
    with caplog.at_level(logging.WARNING):
        load("dialogue/chatterbot-zh", data_dir=tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    assert builders.tqdm_utils._active is True


def test_a_copy_is_whole_or_not_there(tmp_path, monkeypatch):
    generate = builders._Builder._generate_examples

    def interrupted(self, rows):
        yield from generate(self, rows[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(builders._Builder, "_generate_examples", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("dialogue/chatterbot-zh", "test", data_dir=tmp_path)
    assert not (tmp_path / "tfllm_dialogue" / "chatterbot-zh" / "1.0.0").exists()
    monkeypatch.undo()
    assert sum(1 for _ in load("dialogue/chatterbot-zh", "test", data_dir=tmp_path)) == 39


def test_of_two_that_build_at_once_one_is_first(folder, tmp_path, monkeypatch):
    load("dialogue/chatterbot-zh", "test", data_dir=folder)
    place = pathlib.Path("tfllm_dialogue", "chatterbot-zh", "1.0.0")
    generate = builders._Builder._generate_examples

    def overtaken(self, rows):
        yield from generate(self, rows)
        if not (tmp_path / place).exists():
            shutil.copytree(folder / place, tmp_path / place)  # the other one ends here

    monkeypatch.setattr(builders._Builder, "_generate_examples", overtaken)
    assert sum(1 for _ in load("dialogue/chatterbot-zh", "test", data_dir=tmp_path)) == 39
    assert [path.name for path in (tmp_path / place).parent.iterdir()] == ["1.0.0"]


@pytest.mark.slow
def test_a_killed_process_and_two_at_once_leave_a_whole_copy(tmp_path):
    load_it = "print(len(list(tfllm.data.load('search/bible', 'test', data_dir=sys.argv[1]))))"
    start = "import sys, tfllm; assert 'tensorflow_datasets' not in sys.modules\n"
    stall = "import time; from tfllm.data import builders as b; keep = b._Builder._generate_examples\n" + (
        "def slow(self, rows):\n    yield from keep(self, rows[:1000])\n    print('half', flush=True)\n    time.sleep(60)\n"
        "b._Builder._generate_examples = slow\n"
    )
    command = [sys.executable, "-c"]
    killed = subprocess.Popen([*command, start + stall + load_it, tmp_path], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "half\n"
    killed.kill()
    killed.communicate()
    both = [
        subprocess.Popen([*command, start + load_it, tmp_path], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    wanted = f"{documented()['search/bible'][2]}\n"
    assert [process.communicate()[0] for process in both] == [wanted, wanted]
    assert [process.returncode for process in both] == [0, 0]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(ValueError, match=r"data_dir must be a folder that can be written; got '.*file'"):
        load("dialogue/chatterbot-zh", data_dir=taken)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(taken))
    with pytest.warns(
        UserWarning, match=r"file/tfllm/datasets' cannot be written .* give data_dir or set TFDS_DATA_DIR"
    ):
        dataset = load("dialogue/chatterbot-zh", "test")
    assert sum(1 for _ in dataset) == 39
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "chosen"))
    assert sum(1 for _ in load("dialogue/chatterbot-zh", "test")) == 39
    assert (tmp_path / "chosen" / "tfllm_dialogue").is_dir()


# The way to TFDS.


@pytest.mark.parametrize(
    ("name", "split", "fields"),
    [
        ("wmt14_translate/de-en", "test", {"de", "en"}),
        ("imdb_reviews", "train", {"label", "text"}),
        ("ag_news_subset", "train", {"description", "label", "title"}),
        ("squad", "validation", {"answers", "context", "id", "question", "title"}),
        ("cnn_dailymail", "train", {"article", "highlights", "id", "publisher"}),
        ("conll2003", "train", {"chunks", "ner", "pos", "tokens"}),
        ("wikipedia/20230601.en", "train", {"text", "title"}),
        ("lm1b", "train", {"text"}),
        ("tiny_shakespeare", "train", {"text"}),
    ],
)
def test_data_sets_of_tfds_load_through_their_own_code(name, split, fields):
    with tfds.testing.mock_data(num_examples=3):
        dataset = load(name, split=split)
        assert set(dataset.element_spec) == fields
        assert len(list(dataset)) == 3


def test_a_prepared_copy_is_read_where_it_stands(tmp_path):
    pairs = [{"de": "ja", "en": "yes"}, {"de": "nein", "en": "no"}]
    tfds.dataset_builders.AdhocBuilder(
        name="wmt14_translate",
        config="de-en",
        version="1.0.0",
        features=tfds.features.Translation(languages=("de", "en")),
        split_datasets={"train": list(enumerate(pairs))},
        data_dir=tmp_path,
    ).download_and_prepare()
    dataset = load("wmt14_translate/de-en", "train", data_dir=tmp_path)
    assert sorted(iterate_texts(dataset, "de")) == ["ja", "nein"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wmt14Translations",), "got 'wmt14Translations'; did you mean 'wmt14_translate'"),
        (("wmt14Translations/de-en",), "did you mean 'wmt14_translate/de-en'"),
        (("imdb",), "did you mean 'imdb_reviews'"),
        (("translations/en-de",), "did you mean 'translation/en-de'"),
        (("qqqqq",), "a data set of TFDS; got 'qqqqq'$"),
        (("",), "a data set of TFDS; got ''$"),
        (
            ("translation",),
            r"name must be one of \['translation/en-de', .*'translation/bible-en-ja'\]; got 'translation'",
        ),
        (("translation/en-d",), "got 'translation/en-d'; did you mean 'translation/en-de'"),
        (("sentiment/wader",), r"one of \['sentiment/vader'\]; got 'sentiment/wader'; did you mean 'sentiment/vader'"),
        (("wmt14_translate/en-de",), r"one of \['wmt14_translate/cs-en', 'wmt14_translate/de-en', .*got 'wmt14_tr"),
        (("wikipedia/klingon",), r"'wikipedia/20230601.arc'\] and 1720 more; got 'wikipedia/klingon'"),
        (("imdb_reviews:9.9.9",), "got 'imdb_reviews:9.9.9': .*only: 1.0.0"),
        ((None,), "name must be a str; got None"),
        (("sentiment", None), "split must name one data set, as 'train' or .* do; got None"),
        (("sentiment", ["train"]), r"split must name one data set, .*; got \['train'\]"),
        (("sentiment", "valid"), r"split must be made of \['train', 'validation', 'test'\]; got 'valid'"),
        (("sentiment", "train[:1%]+dev"), r"got 'train\[:1%\]\+dev'"),
    ],
)
def test_mistyped_names_get_the_right_one(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(*arguments, data_dir=tmp_path)


def test_without_a_network_one_sentence_says_what_is_missing(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(datasets.urllib.request, "urlopen", unreachable)
    with pytest.raises(
        ConnectionError,
        match=r"^'imdb_reviews' is not prepared in '.*imdb_reviews/plain_text/1.0.0', and no network was reached to "
        r"download at most 84 MB from ai.stanford.edu; put a prepared copy there or name its folder by data_dir$",
    ):
        load("imdb_reviews", data_dir=tmp_path)
    with pytest.raises(ConnectionError, match="download its files from"):  # hundreds of them, of all languages
        load("wikipedia/20230601.en", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'squad' must be prepared in .* when download=False; it is not"):
        load("squad", data_dir=tmp_path, download=False)
    assert list(tmp_path.iterdir()) == []


def test_a_silent_network_is_not_waited_for(tmp_path, monkeypatch):
    asked, go = [], datasets.threading.Event()

    def silent(request, timeout):
        asked.append((request.host, request.get_method()))
        go.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(datasets.urllib.request, "urlopen", silent)
    monkeypatch.setattr(datasets, "_NETWORK_SECONDS", 0.01)
    with pytest.raises(ConnectionError, match="no network was reached"):
        load("imdb_reviews", data_dir=tmp_path)
    go.set()
    assert asked == [("ai.stanford.edu", "HEAD")]


# Texts out of data sets.


def test_texts_of_fields_deep_and_many():
    examples = [
        {"text": "a\u2028b", "answers": {"text": ["x", "y"]}, "label": 1},
        {"text": "c", "answers": {"text": []}, "label": 2},
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(examples),
        output_signature={
            "text": tf.TensorSpec([], tf.string),
            "answers": {"text": tf.TensorSpec([None], tf.string)},
            "label": tf.TensorSpec([], tf.int64),
        },
    )
    assert list(iterate_texts(dataset)) == ["a\u2028b", "c"]
    assert list(iterate_texts(dataset, "answers/text")) == ["x", "y"]
    for field in ("label", "answers", "nothing"):
        with pytest.raises(ValueError, match=rf"field must be one of \['answers/text', 'text'\]; got '{field}'"):
            iterate_texts(dataset, field)
    broken = tf.data.Dataset.from_tensors({"text": b"caf\xe9"})
    assert list(iterate_texts(broken)) == ["caf\ufffd"]


def test_json_lines_of_a_data_set(tmp_path, folder):
    path = tmp_path / "pairs.jsonl"
    assert write_jsonl(load("dialogue/chatterbot-zh", "test", data_dir=folder), path) == 39
    rows = read_jsonl(path.read_text(encoding="utf-8"), ["topic", "prompt", "response"])
    wanted = CATALOGUE["dialogue/chatterbot-zh"].read()["test"]
    assert sorted(map(str, rows)) == sorted(str({key: row[key] for key in rows[0]}) for row in wanted)
    with pytest.raises(FileExistsError, match="path must be free unless force is given"):
        write_jsonl(load("dialogue/chatterbot-zh", "test", data_dir=folder), path)
    tagged = load("ner/home-zh", "test[:2]", data_dir=folder)
    assert write_jsonl(tagged, path, force=True) == 2
    for row in read_jsonl(path.read_text(encoding="utf-8")):
        assert len(row["tokens"]) == len(row["ner"])
        assert {type(tag) for tag in row["ner"]} == {int}
    ragged = tf.data.Dataset.from_tensors({"turns": tf.ragged.constant([["a"], ["b", "c"]]), "scores": [0.5, np.nan]})
    assert write_jsonl(ragged, path, force=True) == 1
    assert path.read_text() == '{"turns": [["a"], ["b", "c"]], "scores": [0.5, null]}\n'
    with pytest.raises(ValueError, match="dataset must have dicts as elements; got TensorSpec"):
        write_jsonl(tf.data.Dataset.range(3), path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_language_model_trains_on_a_data_set(folder):
    texts = list(iterate_texts(load("translation/en-de", "validation", data_dir=folder), "de"))
    assert len(texts) == 500
    tokenizer = tfllm.CharTokenizer.train("\n".join(texts))
    batches = lm_dataset("\n".join(texts), tokenizer, sequence_length=32, batch_size=16)
    keras.utils.set_random_seed(0)
    model = tfllm.RecurrentLM(tokenizer.vocab_size, "gru", 32)
    model.compile(tfllm.training.make_adamw(model, steps=60, learning_rate=1e-2))
    history = model.fit(batches, epochs=1, steps_per_epoch=60, verbose=0).history["loss"]
    assert history[-1] < np.log(tokenizer.vocab_size) - 0.8
