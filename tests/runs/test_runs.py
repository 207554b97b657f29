"""Run folders, curves, and the trainings that fill them."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

import tfllm
from tfllm.runs import TrainingSettings, draw_curves, load_run, train_run

SMALL = {
    "dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 4,
    "steps": 12,
    "evaluations": 3,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "text.txt"
    path.write_text(tfllm.load_text("shakespeare")[:6000])
    return path


def train(source, out, **settings):
    console = Console(file=io.StringIO(), width=200)
    scores = train_run(source, out, TrainingSettings(**SMALL | settings), console=console)
    return scores, console.file.getvalue()


def history_of(path):
    return list(csv.DictReader(io.StringIO((path / "history.csv").read_text())))


@pytest.mark.parametrize(
    ("model", "tokenizer"), [("transformer", "char"), ("lstm", "bpe"), ("gru", "char"), ("rnn", "char")]
)
def test_a_training_leaves_a_run_that_can_be_read(source, tmp_path, model, tokenizer):
    scores, shown = train(source, tmp_path / "run", model=model, tokenizer=tokenizer, vocab_size=300)
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.weights.h5", "history.csv", "curves.png", "samples.txt"}
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


def test_the_seed_decides_a_run(source, tmp_path):
    scores = [
        train(source, tmp_path / name, dropout=0.1, seed=seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert scores[0]["loss"] != scores[2]["loss"]


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
    from tfllm.runs import training

    drawn = []

    def interrupt(*arguments, **options):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(1)
        return draw_curves(*arguments, **options)

    monkeypatch.setattr(training, "draw_curves", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(source, tmp_path / "run")
    assert np.isfinite(load_run(tmp_path / "run").model(np.array([[1, 2]]))).all()
    assert not [file for file in (tmp_path / "run").iterdir() if "partial" in file.name]


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
        train_run(source, tmp_path / "run", TrainingSettings(**SMALL | {"prompt": "a" * 20}), force=True)
    assert load_run(tmp_path / "run").tokenizer.vocab_size > 20  # what is refused leaves the old run as it is
    train_run(source, tmp_path / "run", TrainingSettings(**SMALL), force=True, console=Console(file=io.StringIO()))


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
        ({"learning_rate": 0.0}, "learning_rate must be above 0; got 0.0"),
        ({"validation": 1.0}, r"validation must lie in \(0, 1\); got 1.0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**31}, r"seed must be below 2\*\*31; got 2147483648"),
        ({"patience": -1}, "patience must be at least 0; got -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)


def test_a_loss_that_is_not_finite_is_said(source, tmp_path):
    with pytest.raises(ValueError, match=r"learning_rate must leave the loss finite; got 1e\+30, which did not"):
        train(source, tmp_path / "run", learning_rate=1e30)


def test_a_bad_text_or_prompt_leaves_no_folder(source, tmp_path):
    with pytest.raises(ValueError, match=r"prompts must have at most the model's max_length=16 tokens; got 20"):
        train(source, tmp_path / "run", prompt="a" * 20)
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
