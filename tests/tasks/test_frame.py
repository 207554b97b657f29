"""The frame of the tasks, with a task whose model has one weight: what a run leaves, how it goes on, what it refuses."""

import json

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tfllm.evaluation import Accuracy, WordErrorRate
from tfllm.export import check_free
from tfllm.models.fitting import FittedModel
from tfllm.tasks import Baseline, Task, TaskSettings, run_task
from tfllm.tasks.running import describe_command, is_finished

QUIET = Console(quiet=True)


class OneWeight(FittedModel):
    """Learns that its weight is to be 1."""

    def __init__(self):
        super().__init__()
        self.one = self.add_weight(shape=(), initializer="zeros", name="one")
        self.built = True

    def call(self, inputs, training=False):
        return inputs * self.one

    def batch_totals(self, batch, training=True):
        return {"loss": (tf.reduce_sum((batch[0] - self.one) ** 2), tf.cast(tf.size(batch[0]), tf.float32))}


class Echo(Task):
    """Says a text again, in small letters once it has learned to."""

    name, title, caution = "echo", "Echo", "It only echoes."
    datasets = ("echoes", "more echoes")
    defaults = TaskSettings(steps=8, evaluations=2, learning_rate=0.5, weight_decay=0.0)
    fits = exports = 0
    breaks = ""

    def read(self):
        rows = [{"text": f"Row {number}"} for number in range(30)]
        return {"train": rows[:10], "validation": rows[10:15], "test": rows[15:]}

    def origin(self):
        return {"description": "made up", "licence": "none", "homepage": "nowhere"}

    def learn(self, train):
        type(self).fits += 1
        self.state = {"seen": len(train)}

    def make_model(self):
        return OneWeight()

    def batches(self, rows, training):
        if training and self.breaks == "fit":
            raise KeyboardInterrupt
        batches = tf.data.Dataset.from_tensors((tf.ones([len(rows)]), tf.ones([len(rows)])))
        return batches.repeat() if training else batches

    def predict(self, inputs):
        return [text.lower() if float(self.model.one) > 0.5 else text for text in inputs]

    def inputs(self, rows):
        return [row["text"] for row in rows]

    def references(self, rows, metric):
        return [row["text"].lower() for row in rows]

    def metrics(self):
        return [Accuracy(), WordErrorRate()]

    def baseline(self, train, validation):
        return Baseline("as it is", lambda rows: [row["text"] for row in rows])

    def checks(self, rows, baseline):
        return {"rows that end": {"model": [True] * 3, "people": [True, False]}}

    def export(self, path, *, force=False):
        if self.breaks == "export":
            raise KeyboardInterrupt
        check_free(path, force)
        module = tf.Module()
        module.say = tf.function(tf.strings.lower, input_signature=[tf.TensorSpec([None], tf.string)])
        tf.saved_model.save(module, str(path))

    def ask(self, served, inputs):
        return [text.decode() for text in served.say(tf.constant(inputs)).numpy()]


@pytest.fixture
def echo(monkeypatch):
    monkeypatch.setattr(Echo, "breaks", "")
    monkeypatch.setattr(Echo, "fits", 0)
    return Echo


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("echo") / "run"
    return path, run_task(Echo(), path, console=QUIET)


def test_a_run_leaves_scores_with_intervals_and_a_test(finished):
    path, scores = finished
    assert scores == json.loads((path / "scores.json").read_text())
    accuracy, wer = scores["metrics"]
    assert accuracy["systems"]["model"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert wer["systems"]["as it is"]["value"] == 0.5
    assert (accuracy["difference"]["from"], accuracy["difference"]["difference"]) == ("as it is", 1.0)
    assert accuracy["difference"]["p_value"] < 0.01 and not wer["higher_is_better"]
    checked = scores["checks"]["rows that end"]["people"]
    assert (checked["value"], checked["low"], checked["high"], checked["of"]) == (0.5, 0.0, 1.0, 2)
    assert scores["rows"] == {"train": 10, "validation": 5, "test": 15} and scores["weights"] == 1


def test_a_run_leaves_every_file(finished):
    path, _ = finished
    names = {
        "config.json",
        "model.weights.h5",
        "history.csv",
        "curves.png",
        "examples.jsonl",
        "scores.json",
        "scores.png",
    }
    assert {place.name for place in path.iterdir()} == names | {"saved_model", "model_card.md", "report.md"}
    lines = [json.loads(line) for line in (path / "examples.jsonl").read_text().splitlines()]
    assert len(lines) == 15
    assert lines[0] == {
        "input": "Row 15",
        "reference": "row 15",
        "prediction": "row 15",
        "baseline": "Row 15",
        "score": 1.0,
    }
    report, card = (path / "report.md").read_text(), (path / "model_card.md").read_text()
    for words in ("**Caution**: It only echoes.", "better", "rows that end: model", "Row 15", "row 15"):
        assert words.lower() in report.lower()
    assert "made up" in card and "| licence of the data | none, nowhere |" in card
    rows = (path / "history.csv").read_text().splitlines()
    assert rows[0].startswith("step,loss,val_loss") and [row.split(",")[0] for row in rows[1:]] == ["4", "8"]


def test_a_saved_task_predicts_the_same(finished):
    path, _ = finished
    loaded = Echo.load(path)
    assert loaded.state == {"seen": 10} and loaded.settings == Echo().settings
    assert loaded.predict(["A B"]) == ["a b"] == loaded.ask(tf.saved_model.load(str(path / "saved_model")), ["A B"])
    assert loaded.evaluate([{"text": "A"}, {"text": "B"}]) == {"accuracy": 1.0, "wer": 0.0}


def test_a_run_that_was_cut_off_in_the_training_begins_again(echo, tmp_path):
    echo.breaks = "fit"
    with pytest.raises(KeyboardInterrupt):
        run_task(Echo(), tmp_path / "run", console=QUIET)
    echo.breaks = ""
    run_task(Echo(), tmp_path / "run", console=QUIET)
    assert echo.fits == 2 and is_finished(tmp_path / "run")


def test_a_run_that_was_cut_off_later_does_not_train_again(echo, tmp_path):
    echo.breaks = "export"
    with pytest.raises(KeyboardInterrupt):
        run_task(Echo(), tmp_path / "run", console=QUIET)
    assert not is_finished(tmp_path / "run") and not (tmp_path / "run" / "report.md").exists()
    echo.breaks = ""
    scores = run_task(Echo(), tmp_path / "run", console=QUIET)
    assert echo.fits == 1 and is_finished(tmp_path / "run")
    assert scores["seconds"]["training"] > 0 and scores["metrics"][0]["systems"]["model"]["value"] == 1.0


def test_what_stands_there_is_kept(echo, tmp_path):
    path = tmp_path / "run"
    echo.breaks = "fit"
    with pytest.raises(KeyboardInterrupt):
        run_task(Echo(), path, console=QUIET)
    echo.breaks = ""
    other = Echo(TaskSettings(data="more echoes", steps=4, evaluations=1))
    with pytest.raises(FileExistsError, match="out must be free unless force is given"):
        run_task(other, path, console=QUIET)
    run_task(other, path, console=QUIET, force=True)
    with pytest.raises(FileExistsError, match="which is a task's run folder"):
        run_task(other, path, console=QUIET)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="which is something else"):
        run_task(Echo(), tmp_path / "mine", console=QUIET, force=True)


def test_seeds_are_repeated_and_summarised(echo, tmp_path):
    path = tmp_path / "run"
    scores = run_task(Echo(), path, seeds=2, console=QUIET)
    assert scores["seeds"] == [0, 1] and is_finished(path / "seed_0") and is_finished(path / "seed_1")
    (accuracy, wer) = scores["metrics"]
    assert (accuracy["mean"], accuracy["spread"], wer["baseline"]) == (1.0, 0.0, 0.5)
    assert "| accuracy (higher is better) | 1 | 0 | 0 | 1, 1 |" in (path / "report.md").read_text()
    (path / "report.md").unlink()  # as if it had been cut off before the summary
    assert run_task(Echo(), path, seeds=2, console=QUIET)["metrics"] == scores["metrics"]
    assert echo.fits == 2


def test_a_command_makes_a_run_again(tmp_path):
    settings = TaskSettings(data="more echoes", steps=9, evaluations=2, learning_rate=0.5, weight_decay=0.0, limit=4)
    assert describe_command(Echo(settings), "a b", 3) == (
        "tfllm task echo --out 'a b' --data 'more echoes' --limit 4 --steps 9 --seeds 3"
    )


def test_a_damaged_folder_is_refused(finished, tmp_path):
    path, _ = finished
    with pytest.raises(ValueError, match="path must be a run folder of the task 'echo', trained"):
        Echo.load(tmp_path)
    document = json.loads((path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="path must hold weights that fit"):
        Echo.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(document | {"settings": {"pace": 1}}))
    with pytest.raises(ValueError, match=r"path must hold a config.json of this version"):
        Echo.load(tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Echo(TaskSettings(data="silence")), r"data must be one of \['echoes', 'more echoes'\].*got 'silence'"),
        (lambda: Echo().evaluate([{"text": "a"}]), "task must be fitted or loaded first; got 'echo'"),
        (lambda: Echo().fit([], [{"text": "a"}]), "train must hold at least one row; got none"),
        (lambda: run_task(Echo(), "nowhere", seeds=0), "seeds must be an int of at least 1; got 0"),
        (lambda: TaskSettings(steps=0), "steps must be at least 1; got 0"),
        (lambda: TaskSettings(dropout=1.0), r"dropout must lie in \[0, 1\); got 1.0"),
        (lambda: TaskSettings(learning_rate=float("nan")), "learning_rate must be above 0 and finite; got nan"),
        (lambda: TaskSettings(seed=2**31), r"seed must be below 2\*\*31"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_loss_that_is_no_number_is_refused(echo, monkeypatch):
    monkeypatch.setattr(
        OneWeight, "batch_totals", lambda self, batch, training=True: {"loss": (self.one * np.nan, tf.constant(1.0))}
    )
    task = Echo()
    with pytest.raises(ValueError, match=r"learning_rate must leave the loss finite; got 0\.5"):
        task.fit(*[task.rows()[name] for name in ("train", "validation")])
