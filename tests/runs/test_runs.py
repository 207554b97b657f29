"""Run folders, curves, and the trainings that fill them."""

import contextlib
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

import tfllm
from tfllm import CharTokenizer
from tfllm.runs import TrainingSettings, draw_curves, folder, load_run, train_run, training
from tfllm.training import checkpoint

SMALL = {
    "model": "rnn",
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 4,
    "steps": 12,
    "evaluations": 3,
}
WITH_ALL = {  # that changes the step of a Transformer, compiled by XLA
    "remat": True,
    "chunk_tokens": 24,
    "accumulate": 2,
    "label_smoothing": 0.1,
    "z_loss": 1e-4,
    "clip_norm": 0,
    "weight_decay": 0.01,
    "optimizer": "lion",
    "schedule": "wsd",
}
FILES = {"config.json", "tokenizer.json", "model.weights.h5", "history.csv", "curves.png", "samples.txt"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "text.txt"
    path.write_text(tfllm.load_text("shakespeare")[:6000])
    return path


def train(source, out, *, force=False, **settings):
    console = Console(file=io.StringIO(), width=200)
    scores = train_run(source, out, TrainingSettings(**SMALL | settings), force=force, console=console)
    return scores, console.file.getvalue()


def history_of(path):
    return list(csv.DictReader(io.StringIO((path / "history.csv").read_text())))


@pytest.mark.parametrize(
    ("model", "tokenizer"), [("transformer", "char"), ("lstm", "bpe"), ("gru", "char"), ("rnn", "char")]
)
def test_a_training_leaves_a_run_that_can_be_read(source, tmp_path, model, tokenizer):
    more = WITH_ALL if model == "transformer" else {}
    scores, shown = train(source, tmp_path / "run", model=model, tokenizer=tokenizer, vocab_size=300, **more)
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == FILES
    rows = history_of(tmp_path / "run")
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert {"loss", "val_loss", "accuracy", "perplexity", "learning_rate", "tokens_per_second"} <= set(rows[0])
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "samples.txt").read_text().count("step ") == 3
    assert "step     12" in shown
    assert "best weights on the whole validation part" in shown

    run = load_run(tmp_path / "run")
    text = tfllm.data.split_text(source.read_text(), 0.1)[1]
    assert tfllm.evaluation.evaluate_text(run.model, run.tokenizer, text, 16) == pytest.approx(scores)
    assert scores["tokens"] == len(run.tokenizer.encode(text)) - 1
    assert run.training["model"] == model


def test_exactly_so_many_steps_are_made(source, tmp_path):
    train(source, tmp_path / "run", steps=13, evaluations=4)
    rows = history_of(tmp_path / "run")
    assert [row["step"] for row in rows] == ["4", "8", "12", "13"]


def test_patience_ends_a_training_that_gets_no_better(source, tmp_path):
    train(source, tmp_path / "run", steps=40, evaluations=20, learning_rate=1e-12, patience=2)
    assert len(history_of(tmp_path / "run")) < 20


def test_mixed_precision_is_kept_in_the_run(source, tmp_path):
    train(source, tmp_path / "run", dtype="mixed_bfloat16")
    assert load_run(tmp_path / "run").model.dtype_policy.name == "mixed_bfloat16"


def test_an_interrupted_training_leaves_whole_files(source, tmp_path, monkeypatch):
    """Killed during the second evaluation: what the first one left can be used."""
    drawn = []

    def interrupt(*arguments, **options):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(1)
        return draw_curves(*arguments, **options)

    monkeypatch.setattr(training, "draw_curves", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"^the same training goes on after step 4$"):
        train(source, tmp_path / "run")
    assert np.isfinite(load_run(tmp_path / "run").model(np.array([[1, 2]]))).all()
    assert not [file for file in (tmp_path / "run").iterdir() if "partial" in file.name]


class Cut(Exception):
    """What ends a training in its middle."""


def cut_at(monkeypatch, calls, cut):
    """Lets `cut` happen after so many calls of the recorder, one for every step here."""
    recorder, left = training.RunRecorder, [calls]
    on_train_batch_end = recorder.on_train_batch_end

    def counted(self, batch, logs=None):
        on_train_batch_end(self, batch, logs)
        left[0] -= 1
        if left[0] == 0:
            cut()

    monkeypatch.setattr(recorder, "on_train_batch_end", counted)


def raise_cut():
    raise Cut


def end_of(path):
    """Returns what a training left: weights, history but for its speeds, samples."""
    rows = [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in history_of(path)]
    weights = [weight.numpy().tobytes() for weight in load_run(path).model.trainable_variables]
    return weights, rows, (path / "samples.txt").read_text()


GOES_ON = {  # what must be kept: dropout, accumulation, a schedule that depends on the losses, an average, the slow weights
    "model": "gru",
    "dim": 8,
    "dropout": 0.2,
    "steps": 13,
    "checkpoint_every": 2,
    "schedule": "plateau",
    "plateau_patience": 1,
    "min_delta": 0.5,
    "warmup_steps": 3,
    "patience": 9,
    "accumulate": 2,
    "average": 0.8,
    "lookahead": True,
}


def test_the_same_training_again_finishes_one_that_was_cut_off(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(folder, "finish_run", lambda path: None)
        scores, _ = train(source, tmp_path / "straight", **GOES_ON)
    _, arrays = checkpoint.read_checkpoint(tmp_path / "straight" / "checkpoints", 13)
    averages = [array.tobytes() for name, array in arrays.items() if name.endswith("/average")]
    assert end_of(tmp_path / "straight")[0] == averages  # the last were the best here

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        cut_at(patch, 12, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(source, tmp_path / "cut", **GOES_ON)
    assert ended.value.code == 143
    found, shown = train(source, tmp_path / "cut", **GOES_ON)
    assert "goes on after step 12" in shown
    assert (end_of(tmp_path / "cut"), found) == (end_of(tmp_path / "straight"), scores)
    assert {file.name for file in (tmp_path / "cut").iterdir()} == FILES
    rows = history_of(tmp_path / "cut")
    assert len({row["learning_rate"] for row in rows}) == 3
    assert float(rows[-1]["val_loss"]) == pytest.approx(found["loss"], rel=1e-4)
    assert train(source, tmp_path / "other", **GOES_ON, seed=2)[0]["loss"] != scores["loss"]


def test_an_unfinished_training_goes_on_as_it_was_or_not_at_all(source, tmp_path, monkeypatch):
    run, tiny = tmp_path / "run", {"dim": 4}
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(patch, 1, raise_cut)
        train(source, run, **tiny)
    before = sorted(path.name for path in run.rglob("*"))
    other = tmp_path / "text.txt"
    other.write_text(source.read_text() + "!")
    for text, changes, message in (
        (source, {"model": "gru"}, "model must be 'rnn' as in the unfinished run .*, which force replaces; got 'gru'"),
        (source, {"tokenizer": "bpe"}, "tokenizer must be 'char' as in the unfinished run .* got 'bpe'"),
        (source, {"batch_size": 2}, "batch_size must be 4 as in the unfinished run .* got 2"),
        (source, {"dropout": 0.5}, r"dropout must be 0\.0 as in the unfinished run .* got 0\.5"),
        (
            other,
            {},
            r"source must hold the text that it held in the unfinished run .*; got another text in .*text\.txt",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            train(text, run, **tiny | changes)
    assert sorted(path.name for path in run.rglob("*")) == before
    (run / "checkpoints" / "step-00000001").mkdir()
    model, tokenizer = tfllm.RecurrentLM(5, "rnn", 4), CharTokenizer("abcde")
    with pytest.raises(FileExistsError, match="out must be free unless force is given"):
        folder.create_run(run, model, tokenizer, {})
    folder.create_run(run, model, tokenizer, {}, force=True)
    assert {file.name for file in run.iterdir()} == {"config.json", "tokenizer.json", "checkpoints"}
    assert not list((run / "checkpoints").iterdir())


def test_force_finishes_the_same_training_and_replaces_another(source, tmp_path, monkeypatch):
    run, settings = tmp_path / "run", TrainingSettings(**SMALL)
    described = training._describe(source, source.read_text(), settings)
    folder.create_run(run, tfllm.RecurrentLM(5, "rnn", 4), CharTokenizer.train(source.read_text()), described)
    (run / "checkpoints" / "step-00000001").mkdir()
    monkeypatch.setattr(training, "Resume", lambda *arguments, **options: raise_cut())
    for seed, left in ((settings.seed, 1), (3, 0)):
        with pytest.raises(Cut):
            train(source, run, force=True, seed=seed)
        assert len(list((run / "checkpoints").iterdir())) == left


@pytest.mark.slow
def test_kills_of_the_command(source, tmp_path):
    """Killed by SIGKILL at random moments until it ends: a Transformer under XLA, with all that can go wrong."""
    options = {"steps": 60, "evaluations": 6, "dim": 16, "num-layers": 1, "num-heads": 2, "sequence-length": 16}
    options |= {"batch-size": 4, "dropout": 0.2, "checkpoint-every": 3, "accumulate": 2, "average": 0.9}
    options |= {"schedule": "wsd", "optimizer": "lion", "learning-rate": 1e-3, "z-loss": 1e-4, "label-smoothing": 0.1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    chance, kills = random.Random(1), 0
    for name in ("straight", "killed"):
        command = [sys.executable, "-m", "tfllm", "train", str(source), "--out", str(tmp_path / name), *words]
        while True:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            begun = tmp_path / name / "checkpoints"
            while name == "killed" and kills < 5 and process.poll() is None and not list(begun.glob("step-*")):
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 8) if name == "killed" and kills < 5 else None)
            process.kill()
            error = process.communicate()[1].decode()
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, error
            kills += 1
    assert kills >= 3
    assert end_of(tmp_path / "killed") == end_of(tmp_path / "straight")


def test_a_run_is_never_overwritten_unasked(source, tmp_path):
    train(source, tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"out must be free unless force is given; got .*is a run folder"):
        train_run(source, tmp_path / "run", TrainingSettings(**SMALL))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out must be free or a run folder to replace; got .*something else"):
        train_run(source, tmp_path / "home", TrainingSettings(**SMALL), force=True)
    (tmp_path / "home" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(FileExistsError, match=r"out must be free or a run folder to replace"):
        train_run(source, tmp_path / "home", TrainingSettings(**SMALL), force=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="prompts must have"):
        train_run(
            source,
            tmp_path / "run",
            TrainingSettings(**SMALL | {"model": "transformer", "prompt": "a" * 20}),
            force=True,
        )
    assert load_run(tmp_path / "run").tokenizer.vocab_size > 20  # what is refused leaves the old run as it is
    train_run(source, tmp_path / "run", TrainingSettings(**SMALL), force=True, console=Console(file=io.StringIO()))


def test_two_trainings_do_not_share_a_folder(source, tmp_path):
    run = tmp_path / "new" / "run"
    with (
        folder.locked(run),
        pytest.raises(FileExistsError, match=r"out must not be in use; got .*run', in which another process trains"),
    ):
        train(source, run, force=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match=r"out must be free or a run folder to replace; got .*text\.txt"):
        train(source, source)
    with folder.locked(run):  # which the one before has let go
        (run / "config.json").write_text("{}")
    assert (run / "config.json").exists()


def test_what_is_not_a_run_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match=r"run must be a folder that `tfllm train` made; got .*no config.json"):
        load_run(tmp_path)
    train(source, tmp_path / "run")
    weights = tmp_path / "run" / "model.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"run must hold weights that fit its config.json; got"):
        load_run(tmp_path / "run")
    weights.unlink()
    with pytest.raises(ValueError, match=r"run must hold trained weights; got .*no model.weights.h5"):
        load_run(tmp_path / "run")
    weights.write_bytes(whole)
    config = tmp_path / "run" / "config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps(document | {"model": document["model"] | {"dim": 8}}))
    with pytest.raises(ValueError, match=r"run must hold weights that fit its config.json; got"):
        load_run(tmp_path / "run")
    config.write_text(json.dumps(document | {"model": document["model"] | {"kind": "os.system"}}))
    with pytest.raises(ValueError, match=r"run must hold a config.json of this version"):
        load_run(tmp_path / "run")
    config.write_text("{")
    with pytest.raises(ValueError, match=r"run must hold a config.json of this version"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "bert"}, "model must be one of .* got 'bert'"),
        ({"tokenizer": "word"}, "tokenizer must be one of .* got 'word'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\); got 1.0"),
        ({"sequence_length": 1}, "sequence_length must be at least 2; got 1"),
        ({"dtype": "float64"}, "dtype must be one of .* got 'float64'"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and finite; got 0.0"),
        ({"validation": 1.0}, r"validation must lie in \(0, 1\); got 1.0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**31}, r"seed must be below 2\*\*31; got 2147483648"),
        ({"patience": -1}, "patience must be at least 0; got -1"),
        ({"min_delta": 1.0}, r"min_delta must lie in \[0, 1\); got 1.0"),
        ({"optimizer": "adamm"}, "optimizer must be one of .* got 'adamm'"),
        ({"schedule": "cos"}, "schedule must be one of .* got 'cos'"),
        ({"steps": 50, "warmup_steps": 50}, r"warmup_steps must lie in \[0, 50\), below the steps of the run; got 50"),
        ({"warmup_steps": -1}, r"warmup_steps must lie in \[0, 1500\), below the steps of the run; got -1"),
        ({"decay_steps": 5}, "decay_steps must be left out but for schedule='wsd'; got 5 for 'cosine'"),
        ({"schedule": "wsd", "decay_steps": 1450}, r"decay_steps must lie in \[1, 1400\]; got 1450"),
        ({"final_rate": 1.5}, r"final_rate must lie in \[0, 1\]; got 1.5"),
        ({"plateau_patience": 0}, "plateau_patience must be at least 1; got 0"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite; got -0.1"),
        ({"clip_norm": float("nan")}, "clip_norm must be at least 0; got nan"),
        ({"accumulate": 3}, "accumulate must divide batch_size=16; got 3"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\); got 1.0"),
        ({"z_loss": -1e-4}, "z_loss must be at least 0; got -0.0001"),
        ({"chunk_tokens": -1}, "chunk_tokens must be at least 0; got -1"),
        ({"average": 1.0}, r"average must lie in \[0, 1\); got 1.0"),
        ({"model": "gru", "remat": True}, "remat must be left out but for model='transformer'; got model='gru'"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0; got -1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)


def test_a_loss_that_is_not_finite_is_said(source, tmp_path):
    with pytest.raises(ValueError, match=r"learning_rate must leave the loss finite; got 1e\+30, which did not"):
        train(source, tmp_path / "run", model="transformer", learning_rate=1e30)


@pytest.mark.parametrize("where", ["loss", "val_loss"])
def test_a_training_that_diverges_late_is_not_finished(source, tmp_path, monkeypatch, where):
    """After its first evaluation, which was a good one."""
    recorder = training.RunRecorder

    def spoil(told):
        nothing = {where: float("nan")}
        return lambda self, i, logs: told(self, i, logs | nothing if where in logs and self.step >= 8 else logs)

    for name in ("on_train_batch_end", "on_epoch_end"):
        monkeypatch.setattr(recorder, name, spoil(getattr(recorder, name)))
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"learning_rate must leave the loss finite; got 0\.002, which did not"):
        train(source, run, dim=4)
    assert [row["step"] for row in history_of(run)] == (["4", "8"] if where == "loss" else ["4"])
    steps = checkpoint.list_steps(run / "checkpoints")
    assert steps[0] == 4
    assert np.isfinite(load_run(run).model(np.array([[1, 2]]))).all()


def test_a_bad_text_or_prompt_leaves_no_folder(source, tmp_path):
    with pytest.raises(ValueError, match=r"prompts must have at most the model's max_length=16 tokens; got 20"):
        train(source, tmp_path / "run", model="transformer", prompt="a" * 20)
    assert not (tmp_path / "run").exists()
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(
        ValueError, match=r"source must hold more than sequence_length=16 tokens in its first 90.0%; got 2"
    ):
        train(tmp_path / "short.txt", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_curves_show_what_they_are_given():
    history = {
        "step": [10, 20, 30],
        "loss": [3.0, 2.0, 1.5],
        "val_loss": [3.1, 2.2, 2.4],
        "learning_rate": [0.1, 0.2, 0.1],
    }
    with pytest.raises(ValueError, match=r"history must have columns of one length; got .*'val_loss': 2"):
        draw_curves({"loss": [1.0, 2.0, 3.0, 4.0], "val_loss": [1.0, 2.0]})
    figure = draw_curves(history, title="a title")
    top, rate = figure.axes
    assert [list(line.get_ydata()) for line in top.get_lines()] == [history["loss"], history["val_loss"]]
    assert list(rate.get_lines()[0].get_ydata()) == history["learning_rate"]
    assert top.get_title() == "a title"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "best 2.200 at step 20" in [text.get_text() for text in top.get_legend().get_texts()]
    with pytest.raises(ValueError, match="history must hold at least one loss"):
        draw_curves({})
