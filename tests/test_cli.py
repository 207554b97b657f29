"""The command line, as a user types it."""

import json
import re
import subprocess
import sys

import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app

SIZES = {
    "dim": 16,
    "num-layers": 1,
    "num-heads": 2,
    "sequence-length": 16,
    "batch-size": 4,
    "steps": 8,
    "evaluations": 2,
}
SMALL = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "text.txt").write_text(tfllm.load_text("shakespeare")[:5000])
    how = ("--optimizer", "momentum", "--schedule", "wsd", "--decay-steps", 2, "--accumulate", 2, "--lookahead")
    code, output, error = invoke("train", path / "text.txt", "--out", path / "run", "--model", "gru", *SMALL, *how)
    assert code == 0, error
    assert "run folder:" in output
    return path


def test_generate_shows_prompt_and_continuation(place):
    code, output, _ = invoke("generate", place / "run", "To be", "--max-new-tokens", 12, "--seed", 3)
    run = tfllm.runs.load_run(place / "run")
    text = tfllm.TextGenerator(run.model, run.tokenizer).generate("To be", max_new_tokens=12, temperature=0.8, seed=3)
    assert (code, output) == (0, f"To be{text}\n")


def test_train_keeps_what_it_was_told(place):
    training = json.loads((place / "run" / "config.json").read_text())["training"]
    told = {"model": "gru", "steps": 8, "optimizer": "momentum", "schedule": "wsd", "decay_steps": 2, "lookahead": True}
    assert told.items() <= training.items()
    settings = tfllm.runs.TrainingSettings(**{k: v for k, v in training.items() if not k.startswith("source")})
    assert (settings.accumulate, settings.average, settings.warmup_steps) == (2, 0.0, None)


def test_generate_takes_a_pattern_a_stop_text_and_a_strategy(place):
    code, output, _ = invoke("generate", place / "run", "To be", "--regex", "[a-c]{3}", "--strategy", "beam_search")
    assert code == 0
    assert re.fullmatch("To be[a-c]{3}\n", output)
    greedy = ("generate", place / "run", "To be", "--max-new-tokens", 12, "--strategy")
    whole = invoke(*greedy, "greedy")[1].rstrip("\n")
    assert invoke(*greedy, "speculative", "--temperature", 0)[1].rstrip("\n") == whole
    stop = whole[len("To be") + 3 :][:2]
    cut = "To be" + whole.removeprefix("To be").split(stop)[0] + "\n"
    assert invoke(*greedy, "greedy", "--stop", "~~", "--stop", stop)[1] == cut


def test_evaluate(place):
    code, output, _ = invoke("evaluate", place / "run", "--samples", 1)
    assert code == 0
    assert "nats a token" in output
    assert (place / "run" / "report.md").read_text().count("model:\n") == 1
    code, other, _ = invoke("evaluate", place / "run", "--source", place / "text.txt", "--samples", 0)
    assert (code, "4,999 tokens" in other.replace("\n", " ")) == (0, True)


def test_export_and_load(place):
    code, _, error = invoke("export", place / "run", place / "saved")
    assert code == 0, error
    assert "serving_default" in tf.saved_model.load(str(place / "saved")).signatures
    code, _, error = invoke("export", place / "run", place / "saved")
    assert (code, error.count("\n")) == (2, 1)
    assert "path must be free unless force is given" in error
    assert invoke("export", place / "run", place / "saved", "--force")[0] == 0
    code, output, error = invoke("export", place / "run", place / "forward.onnx")
    assert (code, "forward pass:" in output) == (0, True), error


def test_demo(tmp_path):
    code, output, error = invoke("demo", "--out", tmp_path / "demo", "--steps", 20)
    assert code == 0, error
    assert "From the SavedModel" in output
    assert "ROMEO:" in output.split("From the SavedModel")[1]
    code, _, error = invoke("demo", "--out", tmp_path / "demo", "--steps", 20)
    assert code == 2
    assert "out must be free unless force is given" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "shakspeare", "--out", "x"], "source must be one of"),
        (["train", "shakespeare", "--out", "x", "--model", "bert"], "model must be one of"),
        (["train", "shakespeare", "--out", "x", "--steps", "0"], "steps must be at least 1; got 0"),
        (
            ["train", "shakespeare", "--out", "x", "--warmup-steps", "1500"],
            "warmup_steps must lie in [0, 1500), below the",
        ),
        (["train", "{text}", "--out", "x", "--workers", "0"], "--workers must be at least 1; got 0"),
        (["train", "{text}", "--out", "x", "--max-restarts", "-1"], "--max-restarts must be at least 0; got -1"),
        (["train", "{text}", "--out", "{run}"], "out must be free unless force is given"),
        (["generate", "{run}", "a", "--regex", "("], "pattern must"),
        (["generate", "{run}", "a", "--strategy", "best"], "strategy must be"),
        (["generate", "{run}", "a", "--stop", ""], "stop must"),
        (["export", "{run}", "x.onnx", "--xla"], "path must be a SavedModel's folder for --xla; got x.onnx"),
        (["train", "{short}", "--out", "x"], "source must hold more than sequence_length=64 tokens"),
        (["train", "{latin}", "--out", "x"], "source must be UTF-8 text"),
        (["train", "{empty}", "--out", "x"], "source must hold text"),
        (["generate", "nowhere", "a"], "run must be a folder that `tfllm train` made; got 'nowhere'"),
        (["generate", "{run}", ""], "prompts must be strings that are not empty; got ''"),
        (["generate", "{run}", "a", "--temperature", "-1"], "temperature must be finite and at least 0; got -1.0"),
        (["generate", "{run}", "a", "--top-p", "0"], "top_p must be in (0, 1]; got 0.0"),
        (["evaluate", "nowhere"], "run must be a folder"),
        (["export", "nowhere", "x"], "run must be a folder"),
    ],
)
def test_bad_input_gives_one_sentence_and_exit_code_2(place, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    (tmp_path / "empty.txt").write_text("")
    files = {name: tmp_path / f"{name}.txt" for name in ("short", "latin", "empty")}
    files |= {"run": place / "run", "text": place / "text.txt"}
    code, output, error = invoke(*(argument.format(**files) for argument in arguments))
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in output + error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("said", "shown"), [((), "stopped\n"), (("goes on",), "stopped: goes on\n")])
def test_ctrl_c_is_no_traceback(tmp_path, monkeypatch, said, shown):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt(*said)

    monkeypatch.setattr("tfllm.cli.train_run", interrupt)
    assert invoke("train", "shakespeare", "--out", tmp_path / "run")[::2] == (130, shown)


def test_python_m_tfllm_is_the_same(tmp_path):
    command = [sys.executable, "-m", "tfllm", "generate", "nowhere", "a"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: run must be a folder")
    assert result.stderr.count("\n") == 1  # and nothing of what TensorFlow writes when it starts
