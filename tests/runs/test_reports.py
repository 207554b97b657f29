"""Reports of runs and runs side by side."""

import hashlib
import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app
from tfllm.evaluation import BitsPerByte, evaluate_text, load_examples, paired_test, save_examples, score_tokens
from tfllm.runs import compare_runs, evaluate_run, folder

MADE = {"report.md", "reliability.png", "positions.png", "examples.jsonl", "examples.html"}


def make_run(path, source, tokenizer, *, seed=0, **training):
    """Makes the folder of a run that was never trained."""
    text = source.read_text()
    keras.utils.set_random_seed(seed)
    model = tfllm.RecurrentLM(tokenizer.vocab_size, "rnn", 8)
    known = hashlib.sha256(text.encode()).hexdigest()
    settings = {"source": str(source), "source_sha256": known, "validation": 0.5, "sequence_length": 16} | training
    folder.create_run(path, model, tokenizer, settings)
    folder.save_weights(model, path)
    folder.finish_run(path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("reports")
    source = path / "text.txt"
    source.write_text(tfllm.load_text("shakespeare")[:6000])
    text = source.read_text()
    make_run(path / "characters", source, tfllm.CharTokenizer.train(text))
    make_run(path / "pairs", source, tfllm.BPETokenizer.train(text, vocab_size=300), seed=1, validation=0.3)
    return path


def test_a_report_has_figures_pictures_and_samples(place):
    run = place / "characters"
    scores = evaluate_run(run, samples=2, max_new_tokens=12)
    assert {file.name for file in run.iterdir()} >= MADE
    loaded = tfllm.runs.load_run(run)
    text = tfllm.data.split_text((place / "text.txt").read_text(), 0.5)[1]
    expected = evaluate_text(loaded.model, loaded.tokenizer, text, 16)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    report = (run / "report.md").read_text()
    for name in ("loss", "perplexity", "accuracy", "bits_per_character", "bits_per_byte", "ece"):
        (line,) = (line for line in report.split("\n") if line.startswith(f"| {name} |"))
        low, high = map(float, line.split("|")[3].split(" to "))
        assert low <= float(f"{scores[name]:.4g}") <= high
    assert "![confidence beside truth](reliability.png)" in report
    assert "curves.png" not in report  # there is none
    assert report.count("model:\n") == 2
    assert "self-BLEU" in report
    examples = load_examples(run / "examples.jsonl")
    assert "".join(example["input"] for example in examples) == text[1:]
    assert sum(example["tokens"] for example in examples) == scores["tokens"]


def test_a_run_that_is_made_anew_loses_its_report(place):
    make_run(place / "again", place / "text.txt", tfllm.CharTokenizer.train((place / "text.txt").read_text()))
    (place / "again" / "report.md").write_text("of old weights")
    run = tfllm.runs.load_run(place / "again")
    folder.create_run(place / "again", run.model, run.tokenizer, run.training, force=True)
    assert not (place / "again" / "report.md").exists()


def test_two_tokenizers_are_compared_by_the_byte(place):
    found = compare_runs([place / "characters", place / "pairs"], samples=200)
    text = tfllm.data.split_text((place / "text.txt").read_text(), 0.3)[1]  # what both have not trained on
    rows, metric = [], BitsPerByte()
    for name in ("characters", "pairs"):
        run = tfllm.runs.load_run(place / name)
        rows.append(score_tokens(run.model, run.tokenizer, text, 16).segments(256).statistics("bytes"))
    expected = paired_test(metric, rows[1], rows[0], samples=200)
    assert found.tests == [expected]
    assert found.scores["bits_per_byte"] == pytest.approx([metric.score(part.sum(0)) for part in rows])
    assert found.examples == -(-len(text) // 256)
    shown = str(found)
    assert "bits a byte (lower is better), less that of characters" in shown
    assert f"{expected.difference:+.4f} [{expected.low:+.4f}, {expected.high:+.4f}]" in shown


def test_a_run_does_not_differ_from_itself_on_another_text(place):
    (place / "other.txt").write_text("to be, or not to be. " * 40)
    runs = [str(place / "characters")] * 2
    result = CliRunner().invoke(app, ["compare", *runs, "--draws", "50", "--source", str(place / "other.txt")])
    assert result.exit_code == 0, result.stderr
    assert "+0.0000 [+0.0000, +0.0000], p = 1.0000: not told apart" in result.stdout
    assert "language models, 4 examples" in result.stdout


def make_task_run(path, scores, *, task="sentiment", better=True, inputs=("a", "b", "c", "d")):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"tfllm": "0", "task": task, "settings": {}}))
    examples = [
        {"input": text, "reference": "x", "prediction": "y<", "score": score}
        for text, score in zip(inputs, scores, strict=True)
    ]
    save_examples(path / "examples.jsonl", examples)
    known = [score for score in scores if score is not None]
    metric = {"name": "accuracy", "higher_is_better": better, "systems": {"model": {"value": float(np.mean(known))}}}
    (path / "scores.json").write_text(json.dumps({"task": task, "metrics": [metric]}))
    return path


def test_runs_of_a_task_are_compared_example_by_example(tmp_path):
    first = make_task_run(tmp_path / "first", [1.0, 1.0, 0.0, None])
    second = make_task_run(tmp_path / "second", [0.0, 1.0, 0.0, 1.0])
    found = compare_runs([first, second])
    assert (found.kind, found.examples) == ("task sentiment", 3)  # one has no score
    assert found.scores["mean of examples"] == pytest.approx([2 / 3, 1 / 3])
    assert found.scores["accuracy"] == pytest.approx([2 / 3, 1 / 2])
    assert found.tests[0].difference == pytest.approx(-1 / 3)
    assert found.tests[0].p_value > 0.5  # one swap alone decides
    evaluate_run(first)
    page = (first / "examples.html").read_text()
    assert page.index("<td>d</td>") < page.index("<td>c</td>") < page.index("<td>a</td>")
    assert "y&lt;" in page


def test_what_cannot_be_compared_is_refused(place, tmp_path):
    one = make_task_run(tmp_path / "one", [1.0] * 4)
    other = make_task_run(tmp_path / "other", [1.0] * 4, task="ner")
    asked = make_task_run(tmp_path / "asked", [1.0] * 4, inputs=("a", "b", "d", "c"))
    text = place / "short.txt"
    text.write_text("other text, longer than a row of the model, which is of 16 tokens")
    stranger = make_run(tmp_path / "stranger", text, tfllm.CharTokenizer.train(text.read_text()))
    changed = place / "changed.txt"
    changed.write_text("as it was when it was learned from. " * 9)
    moved = make_run(tmp_path / "moved", changed, tfllm.CharTokenizer.train(changed.read_text()))
    changed.write_text("and as it is now. " * 9)
    run = place / "characters"
    for paths, source, message in (
        ([run], "", "runs must be at least two to compare; got 1"),
        ([one, run], "", "must all be of language models or all of one task; got '.*characters' beside '.*one'"),
        ([one, other], "", "runs must be of one task; got 'sentiment', 'ner'"),
        ([one, asked], "", "runs must have been asked the same in the same order; got others in '.*asked'"),
        ([one, one], "shakespeare", "source must be left out for runs of tasks"),
        ([run, stranger], "", "source must be given for runs that were trained on different texts"),
        ([moved, moved], "", "source must be given where the training's text is not what it was"),
        ([run, tmp_path / "nowhere"], "", "run must be a folder that `tfllm train` made"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_runs(paths, source)
    with pytest.raises(ValueError, match="samples must be an int of at least 0; got -1"):
        evaluate_run(run, samples=-1)
