"""What `tfllm task NAME` does: data, baseline, training, scores with intervals, report, SavedModel, and a sample from it.

A run folder holds, in the order in which it is written:

    config.json        the task, its settings and what it learned beside weights; says whether the weights are there
    history.csv, curves.png
    tokenizer.json, model.weights.h5
    examples.jsonl     a line a test row: input, reference, prediction, baseline, score
    scores.json        every system, metric, interval and test
    scores.png         and the task's own pictures
    saved_model/
    model_card.md
    report.md          the last: a folder without it is unfinished

Every file appears whole or not at all. The same command again goes on in an unfinished folder: what was trained is not trained
again.
"""

import dataclasses
import json
import pathlib
import shlex
import time

import numpy as np
import tensorflow as tf
from rich.console import Console

from tfllm import files
from tfllm.evaluation import Accuracy, bootstrap_interval, load_examples, paired_test, save_examples
from tfllm.runs.folder import locked, parameter_count
from tfllm.tasks.reports import describe_scores, draw_scores, model_card, report, seeds_report
from tfllm.tasks.task import TOKENIZER, WEIGHTS, read_config, write_config
from tfllm.tasks.training import CURVES, HISTORY, Watch, write_picture

_SHOWN = 8  # test rows that the report shows
EXAMPLES, SCORES, SAVED_MODEL = "examples.jsonl", "scores.json", "saved_model"
REPORT, CARD, BARS = "report.md", "model_card.md", "scores.png"


def run_task(task, out, *, force=False, seeds=1, console=None):
    """Runs a task from data to SavedModel and leaves a run folder.

    Args:
        task: a `Task`, not fitted.
        out: str or path of the run folder, which must be free, or hold the same run, unfinished.
        force: bool, whether another run of a task, or a finished one, may be replaced.
        seeds: int >= 1; with several, each has a run folder inside of `out`, from the settings' seed on, and `out` the summary.
        console: `rich.console.Console`, None for one on standard output.

    Returns:
        dict, what scores.json holds.

    Raises:
        ValueError: when `seeds` is below 1, or a loss is not finite.
        FileExistsError: when `out` is taken, or another process writes there.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be an int of at least 1; got {seeds!r}")
    path, console = pathlib.Path(out), console or Console()
    with locked(path):
        _check_free(path, task, seeds, force)
        if seeds == 1:
            return _run(task, path, force, console)
        return _run_seeds(task, path, seeds, force, console)


def is_finished(path):
    """Says whether a folder is the finished run of a task."""
    return read_config(path) is not None and (pathlib.Path(path) / REPORT).is_file()


def _check_free(path, task, seeds, force):
    """Refuses a folder that is no run of a task, and without `force` one that is finished or another's."""
    if _goes_on(path, task, seeds):
        return
    files.check_free("out", path, lambda place: read_config(place) is not None, "a task's run folder", force)


def _goes_on(path, task, seeds=1):
    """Says whether the same run stands at a path, unfinished."""
    document = read_config(path)
    same = document is not None and document["task"] == task.name
    same = same and document["settings"] == dataclasses.asdict(task.settings) and document.get("seeds", 1) == seeds
    return same and not is_finished(path)


def _run(task, path, force, console):
    """Runs a task once in a folder that may be taken."""
    goes_on = _goes_on(path, task)
    trained = goes_on and read_config(path).get("trained")
    if not goes_on:
        _clear(path)
        write_config(path, task, trained=False)
    seconds = {}
    with _timed(seconds, "data"):
        splits = task.rows()
    console.print(
        f"{task.title}: {task.settings.data}, " + ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items()),
        highlight=False,
    )
    if trained:
        task = type(task).load(path)
        seconds |= read_config(path).get("seconds", {})
        console.print("the weights are there: goes on after the training", highlight=False)
    else:
        with _timed(seconds, "training"):
            watch = Watch(console, path, f"{path.name}: {task.name}")
            task.fit(splits["train"], splits["validation"], watch=watch)
        task.save(path, seconds={"training": seconds["training"]})
    with _timed(seconds, "baseline"):
        baseline = task.baseline(splits["train"], splits["validation"])
    with _timed(seconds, "evaluation"):
        scores, pictures = _evaluate(task, baseline, splits, path)
    with _timed(seconds, "export"):
        task.export(path / SAVED_MODEL, force=True)
    scores |= {"weights": parameter_count(task.model), "seconds": {name: round(s, 1) for name, s in seconds.items()}}
    files.write_whole(path / SCORES, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    write_picture(draw_scores(scores), path / BARS)
    sample = _sample(task, splits["test"], path)
    command = describe_command(task, path)
    files.write_whole(path / CARD, model_card(task, scores, sample, command))
    examples = load_examples(path / EXAMPLES)[:_SHOWN]
    files.write_whole(path / REPORT, report(task, scores, sample, command, [BARS, CURVES, *pictures], examples))
    console.print(describe_scores(scores), highlight=False, markup=False)
    console.print("from the SavedModel, loaded with TensorFlow alone:", highlight=False)
    console.print(f"{sample['input']}\n-> {sample['output']}", highlight=False, markup=False, soft_wrap=True)
    return scores


def describe_command(task, path, seeds=1):
    """Returns str, the command that makes the run of a task again."""
    words = ["tfllm", "task", task.name, "--out", str(path)]
    usual = task.usual(task.settings.data)
    for name in ("data", "limit", "steps", "dim", "seed"):  # the options that the command has
        value = getattr(task.settings, name)
        if value != (task.datasets[0] if name == "data" else getattr(usual, name)):
            words += [f"--{name}", str(value)]
    return shlex.join([*words, *(["--seeds", str(seeds)] if seeds > 1 else [])])


def _evaluate(task, baseline, splits, path):
    """Scores all systems on the test rows and writes examples and pictures.

    Returns (dict, what scores.json begins with; list of the names of the pictures).
    """
    rows = splits["test"]
    outputs = {"model": task.outputs(rows), baseline.name: baseline.outputs(rows)} | task.others(rows)
    found, decisive = [], None
    for metric in task.metrics():
        references = task.references(rows, metric)
        metric = metric.settled(references, *outputs.values())
        statistics = {name: metric.statistics(references, output) for name, output in outputs.items()}
        test = paired_test(metric, statistics["model"], statistics[baseline.name])
        found.append(
            {
                "name": metric.name,
                "higher_is_better": metric.higher_is_better,
                "systems": {name: _interval(metric, part) for name, part in statistics.items()},
                "difference": {"from": baseline.name, **dataclasses.asdict(test)},
            }
        )
        if decisive is None:
            decisive = metric.score(statistics["model"])
    examples = []
    for row, output, other, score in zip(rows, outputs["model"], outputs[baseline.name], decisive, strict=True):
        examples.append(task.example(row, output, other) | {"score": _number(score)})
    save_examples(path / EXAMPLES, examples)
    pictures = task.pictures(rows, outputs["model"])
    for name, figure in pictures.items():
        write_picture(figure, path / name)
    checks, accuracy = {}, Accuracy()
    for name, systems in task.checks(rows, baseline).items():
        counted = {}
        for system, passed in systems.items():
            statistics = accuracy.statistics([True] * len(passed), passed)
            counted[system] = _interval(accuracy, statistics) | {"of": len(passed)}
        checks[name] = counted
    scores = {
        "task": task.name,
        "data": task.settings.data,
        "baseline": baseline.name,
        "rows": {split: len(part) for split, part in splits.items()},
        "settings": dataclasses.asdict(task.settings),
        "state": task.state,
        "metrics": found,
        "checks": checks,
    }
    return scores, list(pictures)


def _interval(metric, statistics):
    low, high = bootstrap_interval(metric, statistics)
    return {"value": _number(metric.score(statistics.sum(0))), "low": _number(low), "high": _number(high)}


def _number(value):
    """Returns a float that JSON can hold, or None."""
    value = float(value)
    return value if np.isfinite(value) else None


def _sample(task, rows, path):
    """Returns dict of one input and what the SavedModel, loaded from its folder, makes of it."""
    served = tf.saved_model.load(str(path / SAVED_MODEL))
    (given,) = task.inputs(rows[:1])
    (output,) = task.ask(served, [given])
    return {"input": given, "output": output}


def _run_seeds(task, path, seeds, force, console):
    """Runs a task with several seeds and summarises them."""
    if not _goes_on(path, task, seeds):
        _clear(path)
        write_config(path, task, trained=False, seeds=seeds)
    runs = {}
    for seed in range(task.settings.seed, task.settings.seed + seeds):
        one = type(task)(dataclasses.replace(task.settings, seed=seed))
        place = path / f"seed_{seed}"
        if is_finished(place) and read_config(place)["settings"] == dataclasses.asdict(one.settings):
            runs[seed] = json.loads((place / SCORES).read_text(encoding="utf-8"))
            continue
        console.rule(f"seed {seed}")
        place.mkdir(exist_ok=True)
        runs[seed] = _run(one, place, force, console)
    first = next(iter(runs.values()))
    summary = []
    for number, metric in enumerate(first["metrics"]):
        values = [run["metrics"][number]["systems"]["model"]["value"] for run in runs.values()]
        others = [run["metrics"][number]["systems"][first["baseline"]]["value"] for run in runs.values()]
        summary.append(
            {
                "name": metric["name"],
                "higher_is_better": metric["higher_is_better"],
                "values": values,
                "mean": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)),
                "baseline": float(np.mean(others)),
                "p_values": [run["metrics"][number]["difference"]["p_value"] for run in runs.values()],
            }
        )
    scores = {"task": task.name, "data": task.settings.data, "baseline": first["baseline"], "seeds": list(runs)}
    scores |= {"rows": first["rows"], "metrics": summary, "seconds": [run["seconds"] for run in runs.values()]}
    files.write_whole(path / SCORES, json.dumps(scores, indent=2, ensure_ascii=False) + "\n")
    text = seeds_report(task, scores, describe_command(task, path, seeds))
    files.write_whole(path / REPORT, text)
    console.rule()
    console.print(text, highlight=False, markup=False)
    return scores


def _clear(path):
    """Removes the files of another run, the one that says it is finished first; what it does not know stays."""
    path.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, CARD, SCORES, EXAMPLES, WEIGHTS, TOKENIZER, HISTORY, CURVES, BARS):
        (path / name).unlink(missing_ok=True)


class _timed:
    """Adds the seconds of a block to a dict."""

    def __init__(self, seconds, name):
        self.seconds, self.name = seconds, name

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *error):
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.began
