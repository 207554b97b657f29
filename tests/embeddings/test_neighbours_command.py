"""`tfllm neighbours`, as a user types it."""

import re

import pytest
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app
from tfllm.embeddings import WordVectors

SMALL = ["--dim", "8", "--epochs", "1"]


def invoke(*arguments):
    result = CliRunner().invoke(app, ["neighbours", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("neighbours") / "text.txt"
    path.write_text(tfllm.load_text("shakespeare")[:60_000])
    return path


@pytest.mark.parametrize("model", ["skip-gram", "cbow", "fasttext"])
def test_each_word_has_a_line(text, model, tmp_path):
    code, output, error = invoke(text, "You", "my", "--model", model, "--count", 3, *SMALL, "--out", tmp_path / "v.npz")
    assert code == 0, error
    lines = output.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["you", "my", "vectors"]
    vectors = WordVectors.load(tmp_path / "v.npz")
    assert lines[1] == "my: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in vectors.most_similar("my", 3))
    assert (vectors.ngrams is not None) == (model == "fasttext")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hpuse"], "error: word must be one of the .* of the vocabulary; got 'hpuse'"),
        (["king", "--model", "glove"], "error: model must be skip-gram, cbow or fasttext; got 'glove'"),
        (["king", "--count", "0"], "error: count must be at least 1; got 0"),
        (["king", "--dim", "0"], "error: dim must be at least 1; got 0"),
        (["king", "--min-count", "99999"], "error: sentences must hold at least two different words"),
        (["king", "--chinese", "words"], "error: chinese must be 'characters' or 'jieba'; got 'words'"),
        (["king", "--out", "v.model"], "error: path must end in one of"),
        (["king", "--out", "none/v.bin"], "error: out must be the path of a file in a folder that exists; got 'none"),
        (["king", "--out", __file__, "--force"], "error: path must end in one of"),
    ],
)
def test_bad_input_is_one_sentence_before_any_training(text, arguments, message):
    code, output, error = invoke(text, *arguments)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert re.match(message, error)
