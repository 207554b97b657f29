"""The SavedModel as a file: its size, its place, its refusals, TensorFlow's own tool."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model

import tfllm


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved"
    generator = tfllm.TextGenerator(make_model("gpt2"), tfllm.CharTokenizer("abcdefghijklmno "))
    tfllm.export.save(generator, path)
    return path


def serve(path, prompts, **settings):
    values = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0} | settings
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    return signature(prompts=tf.constant(prompts), **{name: tf.constant(v) for name, v in values.items()})["text"]


def test_weights_are_stored_once(saved):
    model = make_model("gpt2")
    weights = 4 * sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    stored = sum(file.stat().st_size for file in (saved / "variables").iterdir())
    assert weights < stored < 1.5 * weights + 10_000


def test_a_bpe_tokenizer_goes_with_the_model(tmp_path):
    tokenizer = tfllm.BPETokenizer.train("low lower lowest 词", vocab_size=262)
    model = tfllm.TransformerLM(tokenizer.vocab_size, 32, 16, 1, 2, initializer_range=0.5)
    generator = tfllm.TextGenerator(model, tokenizer)
    tfllm.export.save(generator, tmp_path / "saved")
    prompts = ["the lowest 词", "x"]
    texts = [text.decode() for text in serve(tmp_path / "saved", prompts, max_new_tokens=6, temperature=0.0).numpy()]
    assert texts == generator.generate(prompts, max_new_tokens=6, temperature=0)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        (["a", ""], {}, "prompts must not be empty"),
        (["a" * 33], {}, "prompts must have at most 32 tokens"),
        (["a"], {"temperature": -1.0}, "temperature must be at least 0"),
        (["a"], {"top_p": 0.0}, "top_p must lie in"),
        (["a"], {"top_k": -1}, "top_k must be at least 0"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_bad_requests_are_refused(saved, prompts, settings, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(saved, prompts, **settings)


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_no_prompts_give_no_texts(tmp_path, tokenizer, name):
    tfllm.export.save(tfllm.TextGenerator(make_model(name), tokenizer), tmp_path / "saved")
    assert serve(tmp_path / "saved", tf.zeros([0], tf.string)).shape == (0,)


def test_tensorflows_own_tool_runs_it(saved):
    inputs = "prompts=[b'abc'];max_new_tokens=3;temperature=0.0;top_k=0;top_p=1.0;seed=0"
    command = [str(pathlib.Path(sys.executable).with_name("saved_model_cli")), "run", "--dir", str(saved)]
    command += ["--tag_set", "serve", "--signature_def", "serving_default", "--input_exprs", inputs]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Result for output key text" in output


def test_nothing_is_overwritten_unasked(saved, tmp_path):
    generator = tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghijklmno "))
    with pytest.raises(FileExistsError, match=r"path must be free unless force is given; got .*a SavedModel"):
        tfllm.export.save(generator, saved)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"path must be free or a SavedModel to replace; got"):
        tfllm.export.save(generator, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"path must be free or a SavedModel to replace; got"):
        tfllm.export.save(generator, saved, force=True)
    (saved / "notes.txt").unlink()


def test_force_replaces_and_leaves_nothing_behind(tmp_path):
    path, tokenizer = tmp_path / "saved", tfllm.CharTokenizer("abcdefghijklmno ")
    for name in ("gru", "rnn"):
        tfllm.export.save(tfllm.TextGenerator(make_model(name), tokenizer), path, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    expected = tfllm.TextGenerator(make_model("rnn"), tokenizer).generate("ab", max_new_tokens=4, temperature=0)
    assert serve(path, ["ab"], temperature=0.0).numpy()[0].decode() == expected


def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        tfllm.export.save(
            tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghijklmno ")), tmp_path / "saved"
        )
    assert list(tmp_path.iterdir()) == []
