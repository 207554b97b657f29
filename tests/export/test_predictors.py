"""Heads as functions of strings: by hand, the same in Python and in a file, and what they refuse."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.export import make_predictor, run_predictor, save_predictor
from tfllm.models import (
    RecurrentEncoder,
    SentenceEmbedder,
    SpanExtractor,
    TextClassifier,
    TokenTagger,
    TransformerEncoder,
)

CHARS = tfllm.CharTokenizer("abcdefgh?XY ,", special_tokens=("<unk>", "<|endoftext|>"))
SIZE = CHARS.vocab_size
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def backbone(kind="transformer"):
    keras.utils.set_random_seed(0)
    make = {"lm": lambda: tfllm.RecurrentLM(SIZE, "gru", 8)}
    model = make.get(kind, lambda: TransformerEncoder(SIZE, 24, 8, 1, 2, positions="rotary"))()
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(float(weight.path.endswith("gamma")), 0.8, weight.shape))
    return model


def larger(model):
    random = np.random.default_rng(1)
    for weight in model.trainable_weights[len(model.backbone.trainable_weights) :]:
        weight.assign(random.normal(size=weight.shape) * 2)
    return model


def predictors():
    """Returns dict of name to (model, settings, columns of texts)."""
    texts = ["ab", "abc abc, h", "é? 词 b", "a" * 40 + " b", "XX ab YY"]
    questions = ["a?", "b", "c?", "h", "abcdefgh"]
    contexts = ["abc h? ab", "h", "ab, 词 ba " * 8, "XX YY", "a b c d e f g h"]
    return {
        "classify": (larger(TextClassifier(backbone(), 3)), {"labels": ["x", "y", "z"]}, [texts]),
        "lm": (larger(TextClassifier(backbone("lm"), 2)), {"labels": [0, 1], "max_length": 24}, [texts]),
        "tag": (
            larger(TokenTagger(backbone(), 5, crf=True, tag_names=TAGS)),
            {"stride": 7, "pattern": "words"},
            [[*texts, "abc " * 20]],
        ),
        "answer": (
            larger(SpanExtractor(backbone())),
            {"max_question": 6, "stride": 5},
            [questions, contexts],
        ),
        "similarity": (SentenceEmbedder(backbone()), {}, [texts, texts[::-1]]),
    }


class Saved(dict):
    """By name: (its endpoints, what `tf.saved_model.load` returns, columns, path), made when first asked for."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __missing__(self, name):
        model, settings, columns = predictors()[name]
        path = self.folder / name
        save_predictor(model, CHARS, path, **settings)
        self[name] = make_predictor(model, CHARS, **settings), tf.saved_model.load(str(path)), columns, path
        return self[name]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("predictors"))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("lm", "similarity")]


@pytest.mark.parametrize("name", ["classify", "tag", "answer", *SLOW])
def test_a_file_gives_what_python_gives_and_a_batch_its_rows_alone(saved, name):
    endpoints, loaded, columns, _ = saved[name]
    for key, endpoint in endpoints.items():
        given = columns[: sum(one.default is None for one in endpoint.inputs.values())]
        expected = endpoint.function(*map(tf.constant, given))
        found = getattr(loaded, key)(*map(tf.constant, given))
        assert expected.keys() == found.keys() == endpoint.outputs.keys()
        for output, values in found.items():
            if values.dtype.is_floating:
                np.testing.assert_allclose(values, expected[output], atol=1e-6)
            else:
                np.testing.assert_array_equal(values, expected[output])
        whole = run_predictor(endpoint, *given)
        alone = [
            row for texts in zip(*given, strict=True) for row in run_predictor(endpoint, *([text] for text in texts))
        ]
        assert len(whole) == len(alone) == len(given[0])
        for first, second in zip(whole, alone, strict=True):
            assert_alike(first, second)


def assert_alike(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_alike(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_alike(one, other)
    else:
        assert first == (pytest.approx(second, abs=1e-3, rel=1e-3) if isinstance(first, float) else second)


def test_entities_are_what_stands_at_their_characters(saved):
    endpoints, _, (texts,), _ = saved["tag"]
    rows = run_predictor(endpoints["tag"], texts)
    assert sum(len(row["entities"]) for row in rows) > 5
    for text, row in zip(texts, rows, strict=True):
        behind = 0
        for entity in row["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"] != ""
            assert behind <= entity["start"] and entity["type"] in ("PER", "LOC") and 0 <= entity["score"] <= 1.001
            behind = entity["end"]


def test_answers_are_what_stands_at_their_characters(saved):
    endpoints, _, columns, _ = saved["answer"]
    rows = run_predictor(endpoints["answer"], *columns, max_answer=4)
    for context, row in zip(columns[1], rows, strict=True):
        assert context[row["start"] : row["end"]] == row["answer"] and len(row["answer"]) <= 4
    assert [row["truncated"] for row in rows] == [False] * 4 + [True]
    assert any(row["answer"] for row in rows)


@pytest.mark.slow
def test_words_are_tagged_as_the_data_has_them():
    """A tagger that tags by the letter alone: X and Y begin persons and places."""
    keras.utils.set_random_seed(0)
    words = [["X", "ab", "Y", "a"], ["b", "X", "c"], ["Y"], ["a", "b", ",", "Y", "Y"], ["ab", "c", "X"]]
    tags = [[{"X": "B-PER", "Y": "B-LOC"}.get(word, "O") for word in row] for row in words]
    batches = tfllm.data.tagging_dataset(words, tags, CHARS, tag_names=TAGS, piece="last", batch_size=5, num_buckets=1)
    model = TokenTagger(RecurrentEncoder(SIZE, "gru", 16), 5, tag_names=TAGS)
    model.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    model.fit(batches.repeat(60), verbose=0)
    tag = make_predictor(model, CHARS, piece="last")["tag"]
    (row,) = run_predictor(tag, ["é X, ab Y"])
    found = [(e["type"], e["text"], e["start"], e["end"]) for e in row["entities"]]
    assert found == [("PER", "X", 2, 3), ("LOC", "Y", 8, 9)]


def test_a_long_document_is_tagged_to_its_end(saved):
    endpoints, _, _, _ = saved["tag"]
    (row,) = run_predictor(endpoints["tag"], ["XX ab, YY h? " * 30])
    places = [entity["start"] for entity in row["entities"]]
    assert places and max(places) > 300


def test_the_first_window_is_not_the_only_one(saved):
    """The best answer of a long text is that of the window where it is best."""
    endpoints, _, _, _ = saved["answer"]
    model, *_ = predictors()["answer"]
    context = "ab, hc ba fe " * 4
    cut = tfllm.data.span_windows(CHARS, ["c?"], [context], max_length=24, max_question=6, stride=5)
    names = ("ids", "lengths", "context_starts", "context_lengths")
    spans = model.spans({name: cut[name] for name in names})
    best = int(tf.argmax(spans["score"]))
    (row,) = run_predictor(endpoints["answer"], ["c?"], [context])
    assert row["score"] == pytest.approx(float(spans["score"][best]), rel=1e-4)
    start = int(cut["char_starts"][best, spans["start"][best]])
    assert row["answer"] == context[start : int(cut["char_ends"][best, spans["end"][best]])].strip()


def test_a_text_without_a_token_and_lists_that_differ_are_refused(saved):
    for name, key, columns, message in (
        ("classify", "classify", [["ab", ""]], "texts must be strings that are not empty; got an empty one"),
        ("tag", "tag", [["ab", "  "]], "texts must have at least one word each"),
        ("answer", "answer", [["a", "b"], ["ab"]], "contexts must be as many as questions"),
        ("answer", "answer", [["a"], [""]], "contexts must be strings that are not empty"),
    ):
        endpoints, loaded, _, _ = saved[name]
        for function in (endpoints[key].function, getattr(loaded, key)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                function(*(tf.constant(column, tf.string) for column in columns))


def test_texts_that_lose_their_ends_are_told(saved):
    endpoints, _, columns, _ = saved["classify"]
    rows = run_predictor(endpoints["classify"], *columns)
    assert [row["truncated"] for row in rows] == [False, False, False, True, False]
    for row in rows:
        assert row["probability"] == max(row["probabilities"]) and sum(row["probabilities"]) == pytest.approx(
            1, abs=1e-5
        )
        assert row["label"] == "xyz"[int(np.argmax(row["probabilities"]))]


@pytest.mark.slow
def test_it_runs_where_only_tensorflow_is(saved, tmp_path):
    *_, path = saved["tag"]
    code = (
        "import sys, tensorflow as tf; model = tf.saved_model.load(sys.argv[1]); "
        "found = model.tag(tf.constant(['XX ab YY'])); assert 'tfllm' not in sys.modules; print(found['count'].numpy())"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    card = (path / "assets" / "model_card.md").read_text()
    assert "# TokenTagger" in card and 'load("PATH").tag(texts=["..."])' in card and "`stride=7`" in card
    tfllm.load_tokenizer(path / "assets" / "tokenizer.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: make_predictor(m.backbone, CHARS), "model must be one of .* got a TransformerEncoder"),
        (lambda m: make_predictor(m, CHARS), "labels must be 2 different names, one a number of the model; got None"),
        (lambda m: make_predictor(m, CHARS, labels=["x"]), r"labels must be 2 different names"),
        (
            lambda m: make_predictor(m, CHARS, labels=["x", "y"], stride=3),
            r"settings of a TextClassifier .* got \['stride'\]",
        ),
        (
            lambda m: run_predictor(make_predictor(m, CHARS, labels=["x", "y"])["classify"], "ab"),
            "columns must be lists",
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    model = TextClassifier(TransformerEncoder(SIZE, 8, 8, 1, 2), 2)
    with pytest.raises(ValueError, match=message):
        make(model)


def test_a_file_that_stands_there_is_kept(saved):
    model, settings, _ = predictors()["classify"]
    *_, path = saved["classify"]
    with pytest.raises(FileExistsError, match="must be free unless force is given"):
        save_predictor(model, CHARS, path, **settings)
