"""Every task, tiny, through the command line: a folder that can be loaded, whose SavedModel says what Python says."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app
from tfllm.tasks import TASKS, KneserNey
from tfllm.tasks.dialogue import Dialogue, conversation_of, plain_turn, prompt_of
from tfllm.tasks.generation import Generation, quatrain_form
from tfllm.tasks.language_model import document_log_probs
from tfllm.tasks.speech_rescoring import choose_weights, hypotheses_of, rescore
from tfllm.tasks.task import TaskSettings
from tfllm.tasks.text_classification import TextClassificationTask


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


QUICK = ("music", "sentiment")  # a language model and a head; the others are run with the slow proofs


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TASKS])
def test_a_task_runs_from_the_command_line(name, tmp_path, monkeypatch):
    path, task = tmp_path / "run", TASKS[name]
    length = 512 if issubclass(task, TextClassificationTask) else 64  # a text that is cut would warn
    small = dataclasses.replace(task.defaults, num_layers=1, num_heads=2, sequence_length=length, vocab_size=500)
    monkeypatch.setattr(task, "defaults", small)
    if hasattr(task, "orders"):
        monkeypatch.setattr(task, "orders", (2, 3))
    rows = 200 if name == "classification" else 12  # all ten labels
    code, output, error = invoke("task", name, "--out", path, "--steps", 2, "--dim", 16, "--limit", rows)
    assert code == 0, error
    assert f"run folder: {path}" in output and "from the SavedModel" in output
    scores = json.loads((path / "scores.json").read_text())
    for metric in scores["metrics"]:
        for system in ("model", scores["baseline"]):
            found = metric["systems"][system]
            assert found["low"] <= found["value"] <= found["high"]
    assert len((path / "examples.jsonl").read_text().splitlines()) == scores["rows"]["test"] == rows
    task, served = TASKS[name].load(path), tf.saved_model.load(str(path / "saved_model"))
    asked = task.inputs(task.rows()["test"][:2])
    assert task.ask(served, asked) == task.predict(asked)


def test_an_unknown_task_is_refused_with_the_list():
    code, _, error = invoke("task", "cooking")
    assert code == 2 and error.startswith("error: name must be one of generation, ") and "'cooking'" in error
    code, _, error = invoke("task", "music", "--data", "shakespeare")
    assert code == 2 and "data must be one of ['music/irish-american']" in error


def test_texts_longer_than_the_model_are_scored_once_from_half_a_window_at_least():
    model = tfllm.RecurrentLM(11, "gru", 6)
    random = np.random.default_rng(0)
    documents = [random.integers(0, 11, size).astype(np.int32) for size in (14, 1, 2, 0, 6, 7)]
    for ids, terms in zip(documents, document_log_probs(model, documents, 6), strict=True):
        expected = []
        for at in range(1, len(ids)):
            first = 0 if at <= 6 else 3 * -(-(at - 6) // 3)  # windows of 6 that move by 3
            logits = model(tf.constant(ids[None, first:at]))[0, -1]
            expected.append(float(tf.nn.log_softmax(logits)[ids[at]]))
        np.testing.assert_allclose(terms, expected, atol=1e-5)


def test_what_does_not_count_costs_nothing():
    task = Dialogue(TaskSettings(vocab_size=300, sequence_length=16, dim=8, num_layers=1, num_heads=2, batch_size=2))
    rows = [{"prompt": "Weather?", "turns": ["It rains.", "Oh no!", "Oh yes."]}]
    task.learn(rows * 3)
    (ids,), (weights,) = task.documents(rows)
    shown = task.tokenizer.decode([ids[1:][weights > 0]]).numpy()[0].decode()
    assert shown == " Oh no!\n Oh yes.\n"
    assert task.references(rows, task.metrics()[1]) == [shown]
    batches = list(task.batches(rows, training=False))
    assert sum(float(tf.reduce_sum(batch[2])) for batch in batches) == weights.sum()
    for inputs, targets, counts in batches:
        assert int(tf.reduce_max(inputs)) < task.tokenizer.vocab_size > int(tf.reduce_max(targets))
        assert set(np.unique(counts)) <= {0.0, 1.0}


def test_nobody_speaks_for_the_other():
    assert plain_turn("Hi\nB: I owe you money.") == "Hi B: I owe you money."
    assert prompt_of("Money", ["Hi\nB: yes", "no"]) == "\nMoney\nA: Hi B: yes\nB: no\nA:"
    assert conversation_of({"topic": "x", "prompt": "a", "response": "b"}) == ("", ["a", "b"])


@pytest.mark.parametrize(
    "text, form",
    [
        ("白日依山尽，黄河入海流。欲穷千里目，更上一层楼。", 5),
        ("朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。", 7),
        ("白日依山尽，黄河入海流。欲穷千里目，更上一层楼", 0),
        ("白日依山尽，黄河入海流。欲穷千里目，更上楼。", 0),
        ("", 0),
    ],
)
def test_the_form_of_a_quatrain(text, form):
    assert quatrain_form(text) == form


def test_weights_are_those_that_make_the_fewest_word_errors():
    rows = [
        {
            "hypotheses": [
                {"text": "a b", "log_score": -1.0, "word_edits": 1},
                {"text": "a", "log_score": -1.01, "word_edits": 0},
            ]
        },
        {
            "hypotheses": [
                {"text": "c", "log_score": -1.0, "word_edits": 0},
                {"text": "d", "log_score": np.nan, "word_edits": 3},
            ]
        },
    ]
    log_probs = [np.array([-9.0, -1.0]), np.array([-1.0, -1.0])]
    assert hypotheses_of(rows[1])["log_scores"] == [-1.0, -1.0]
    chosen = choose_weights(rows, log_probs)
    assert chosen["weight"] > 0
    assert rescore([hypotheses_of(row) for row in rows], log_probs, **chosen) == ["a", "c"]


@pytest.mark.slow
def test_a_language_model_task_beats_its_n_grams_where_what_counts_is_far_back():
    """Rows repeat a letter of their beginning at their end; 3-grams cannot know it."""

    class Recall(Generation):
        name = "recall"
        orders = (2, 3)

    letters = "abcd"
    rows = [{"text": f"{letters[i % 4]}xyxyxyx{letters[i % 4]}"} for i in range(64)]
    settings = TaskSettings(
        steps=120, batch_size=16, sequence_length=24, dim=32, num_layers=2, num_heads=2, dropout=0.0, learning_rate=5e-3
    )
    task = Recall(settings)
    task.fit(rows, rows[:8])
    baseline = task.baseline(rows, rows[:8])
    assert isinstance(baseline.model, KneserNey)
    assert sum(task.outputs(rows[:4])) < sum(baseline.outputs(rows[:4])) - 2
