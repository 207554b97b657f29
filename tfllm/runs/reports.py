"""Reports on run folders: one run with its figures, intervals, pictures and samples; several runs side by side, tested.

    report.md          the figures, the pictures and what the model writes
    reliability.png    whether its probabilities mean what they say
    positions.png      what the tokens before are worth
    examples.jsonl     the text in parts, with what each cost
    examples.html      the same as a page to look through, the most expensive part first

Two language models are compared on the same text in parts of equal numbers of characters, in bits a byte, so that tokenizers
compare; two runs of a task on their `examples.jsonl`.
"""

import dataclasses
import hashlib
import importlib.util
import io
import json
import math
import pathlib
import shlex
import time

import numpy as np

from tfllm import files
from tfllm.data import load_text, split_text
from tfllm.evaluation.calibration import CalibrationError
from tfllm.evaluation.classification import Accuracy
from tfllm.evaluation.diversity import distinct_n, self_bleu
from tfllm.evaluation.metric import Mean, bootstrap_interval, paired_test
from tfllm.evaluation.perplexity import BitsPerByte, BitsPerCharacter, Perplexity, score_tokens
from tfllm.evaluation.pictures import draw_positions, draw_reliability
from tfllm.evaluation.table import (
    examples_html,
    examples_markdown,
    load_examples,
    save_examples,
    sort_examples,
)
from tfllm.generation import TextGenerator
from tfllm.runs.folder import (
    CONFIG,
    CURVES,
    EXAMPLES,
    PAGE,
    POSITIONS,
    RELIABILITY,
    REPORT,
    load_run,
    parameter_count,
)

SCORES = "scores.json"  # of a task
_SEGMENT = 256  # characters of a part of a text: long enough to be a passage, short enough that there are many
_BLOCK = 65_536  # tokens whose calibration is counted at once


@dataclasses.dataclass(frozen=True)
class Figure:
    """A score with its interval: name str, unit str, value, low and high float."""

    name: str
    unit: str
    value: float
    low: float
    high: float


def evaluate_run(path, source="", *, samples=8, max_new_tokens=128, seed=0):
    """Scores a run of `tfllm train` and writes its report into its folder; of a run of a task, the page of its examples.

    Args:
        path: str or path of the run folder.
        source: str, another text to score, all of it, as `data.load_text` takes it; "" takes the run's validation part.
        samples: int >= 0, texts to write.
        max_new_tokens: int >= 1, their length in tokens.
        seed: int >= 0, of samples and intervals.

    Returns:
        dict: of a language model what `evaluate_text` gives, and `"report"`, the path of report.md; of a task what its
        scores.json holds, and `"report"`, the path of examples.html.

    Raises:
        ValueError: when the folder is no run, or the text is too short.
    """
    path = pathlib.Path(path)
    if _is_task(path):
        return _page_of_task(path)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise ValueError(f"samples must be an int of at least 0; got {samples!r}")
    run = load_run(path)
    text = load_text(source) if source else _validation(run)
    began = time.perf_counter()
    found = score_tokens(run.model, run.tokenizer, text, run.training["sequence_length"])
    seconds = time.perf_counter() - began
    segments = found.segments(_SEGMENT)
    metric = CalibrationError()
    answers = _answers(metric, found, len(segments.texts))
    figures = [*_figures(segments, seed), _calibration(metric, answers, seed)]
    written = _samples(run, text, samples, max_new_tokens, seed)

    _save(draw_reliability(metric, answers.sum(0), title="Next token"), path / RELIABILITY)
    _save(draw_positions(found), path / POSITIONS)
    bits = np.round(segments.nats / np.log(2) / np.maximum(segments.characters, 1), 4)
    examples = [
        {"input": part, "score": float(score), "tokens": int(tokens), "right": int(right)}
        for part, score, tokens, right in zip(segments.texts, bits, segments.tokens, segments.right, strict=True)
    ]
    save_examples(path / EXAMPLES, examples)
    worst = sort_examples(examples, higher_is_better=False)
    files.write_whole(
        path / PAGE, examples_html(worst, title=f"{path.name}: bits a character, the most expensive first")
    )
    what = (
        f"`{source}`, all of it"
        if source
        else f"the last {run.training['validation']:.0%} of `{run.training['source']}`"
    )
    report = _report(path, run, what, text, figures, written, worst, source)
    files.write_whole(path / REPORT, report)
    scores = {figure.name: figure.value for figure in figures}
    return scores | {"tokens": float(len(found.nats)), "seconds": seconds, "report": path / REPORT}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        kind: str, "language models" or the name of a task.
        measure: str, what the test is about, with its direction.
        names: list of str, of the run folders.
        scores: dict from measures to lists of float, or None where a run has none.
        tests: list of `PairedTest`, of every run but the first against the first.
        examples: int, on how many examples.
    """

    kind: str
    measure: str
    names: list
    scores: dict
    tests: list
    examples: int

    def __str__(self):
        width = max(map(len, ("run", *self.names)))
        columns = {name: [_number(value) for value in values] for name, values in self.scores.items()}
        heads = [max(len(name), *map(len, values)) for name, values in columns.items()]
        lines = [
            f"{self.kind}, {self.examples:,} examples",
            "  ".join(["run".ljust(width), *(name.rjust(size) for name, size in zip(columns, heads, strict=True))]),
        ]
        for at, run in enumerate(self.names):
            cells = (values[at].rjust(size) for values, size in zip(columns.values(), heads, strict=True))
            lines.append("  ".join([run.ljust(width), *cells]))
        lines.append(f"{self.measure}, less that of {self.names[0]} (95 % interval by paired bootstrap):")
        for run, test in zip(self.names[1:], self.tests, strict=True):
            sure = "" if test.low > 0 or test.high < 0 else ": not told apart"
            lines.append(
                f"{run.ljust(width)}  {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}], p = {test.p_value:.4f}{sure}"
            )
        return "\n".join(lines)


def compare_runs(paths, source="", *, samples=1000, seed=0):
    """Puts runs side by side: language models on one text, or runs of one task on its test rows.

    Args:
        paths: list of at least two paths of run folders.
        source: str, the text for language models; "" takes what none of them was trained on: the shortest validation
            part, where all were trained on one text.
        samples: int >= 1, draws of the paired test.
        seed: int >= 0.

    Returns:
        `Comparison`.

    Raises:
        ValueError: when there are fewer than two, or they cannot be compared.
    """
    paths = [pathlib.Path(path) for path in paths]
    if len(paths) < 2:
        raise ValueError(f"runs must be at least two to compare; got {len(paths)}")
    tasks = [_is_task(path) for path in paths]
    if any(tasks) and not all(tasks):
        odd = paths[tasks.index(not tasks[0])]
        raise ValueError(
            f"runs must all be of language models or all of one task; got {str(odd)!r} beside {str(paths[0])!r}"
        )
    names = [path.name for path in paths] if len({path.name for path in paths}) == len(paths) else list(map(str, paths))
    if all(tasks):
        if source:
            raise ValueError(f"source must be left out for runs of tasks, which have their test rows; got {source!r}")
        return _compare_tasks(paths, names, samples, seed)
    return _compare_models(paths, names, source, samples, seed)


# ---------------------------------------------------------------- language models


def _compare_models(paths, names, source, samples, seed):
    runs = [load_run(path) for path in paths]
    if source:
        text = load_text(source)
    else:
        known = [run.training.get("source_sha256") for run in runs]
        if len(set(known)) > 1 or None in known:
            raise ValueError(
                "source must be given for runs that were trained on different texts, of which one may have learned what the "
                f"other has not; got none for {', '.join(map(repr, names))}"
            )
        text = min((_validation(run) for run in runs), key=len)
    metric, statistics, rows = BitsPerByte(), [], {}
    for run in runs:
        found = score_tokens(run.model, run.tokenizer, text, run.training["sequence_length"])
        segments = found.segments(_SEGMENT)
        statistics.append(segments.statistics("bytes"))
        summary = {figure.name: figure.value for figure in _figures(segments, seed, samples=1)}
        for name in ("bits_per_byte", "bits_per_character", "perplexity", "accuracy"):
            rows.setdefault(name, []).append(summary[name])
        rows.setdefault("tokens", []).append(float(len(found.nats)))
    tests = [paired_test(metric, each, statistics[0], samples=samples, seed=seed) for each in statistics[1:]]
    measure = "bits a byte (lower is better)"
    return Comparison("language models", measure, names, rows, tests, len(statistics[0]))


def _validation(run):
    """Returns str, the validation part of a run's text."""
    text = load_text(run.training["source"])
    known = run.training.get("source_sha256")
    if known is not None and hashlib.sha256(text.encode()).hexdigest() != known:
        raise ValueError(
            f"source must be given where the training's text is not what it was; got another in {run.training['source']!r}"
        )
    return split_text(text, run.training["validation"])[1]


def _figures(segments, seed, samples=1000):
    """Returns list of `Figure`, the scores of parts of a text with their intervals."""
    figures = []
    for metric, unit, rows in (
        (Perplexity(), "", segments.statistics("tokens")),
        (Accuracy(), "of the next tokens", np.stack([segments.right, segments.tokens], 1)),
        (BitsPerCharacter(), "bits", segments.statistics("characters")),
        (BitsPerByte(), "bits", segments.statistics("bytes")),
    ):
        value = float(metric.score(rows.sum(0)))
        low, high = bootstrap_interval(metric, rows, samples=samples, seed=seed)
        if metric.name == "perplexity":
            figures.append(Figure("loss", "nats a token", *map(math.log, (value, low, high))))
        figures.append(Figure(metric.name, unit, value, low, high))
    return figures


def _answers(metric, found, count):
    """Returns float64 [S, 3 * bins], the statistics of calibration of every part, from those of its tokens."""
    rows, place = np.zeros([count, metric.num_statistics]), np.minimum(found.starts // _SEGMENT, count - 1)
    for at in range(0, len(place), _BLOCK):
        block = slice(at, at + _BLOCK)
        np.add.at(rows, place[block], metric.of_confidence(found.confidence[block], found.right[block]))
    return rows


def _calibration(metric, rows, seed):
    low, high = bootstrap_interval(metric, rows, seed=seed)
    return Figure("ece", "expected calibration error of the next token", float(metric.score(rows.sum(0))), low, high)


def _samples(run, text, count, max_new_tokens, seed):
    """Returns list of (prompt, what the model writes, how the text goes on), from places spread over a text."""
    size = min(max(run.training["sequence_length"] // 2, 8), 64, len(text) // 2)  # characters
    starts = [max(len(text) * at // (count + 1), 1) for at in range(1, count + 1)]
    prompts = [text[max(start - size, 0) : start] for start in starts]
    settings = {"max_new_tokens": max_new_tokens, "temperature": 0.8, "seed": seed, "truncate_prompts": True}
    written = TextGenerator(run.model, run.tokenizer).generate(prompts, **settings) if count else []
    return [
        (prompt, one, text[start : start + max(len(one), 1)])
        for prompt, one, start in zip(prompts, written, starts, strict=True)
    ]


def _report(path, run, what, text, figures, written, worst, source):
    """Returns str, Markdown."""
    command = shlex.join(["tfllm", "evaluate", str(path), *(["--source", source] if source else [])])
    model = f"`{type(run.model).__name__}` with {parameter_count(run.model):,} weights"
    lines = [f"# {path.name}", "", f"{model}, scored on {what}: {len(text):,} characters. Command: `{command}`.", ""]
    lines += ["## Figures", "", "| | | 95 % interval | |", "|---|---|---|---|"]
    lines += [f"| {f.name} | {f.value:.4g} | {f.low:.4g} to {f.high:.4g} | {f.unit} |" for f in figures]
    lines += [
        "",
        f"Intervals by bootstrap over parts of {_SEGMENT} characters: what another text of this kind may give.",
        "",
    ]
    lines += ["## Pictures", ""]
    pictures = {"training": CURVES, "confidence beside truth": RELIABILITY, "what context is worth": POSITIONS}
    lines += [f"![{name}]({file})" for name, file in pictures.items() if (path / file).is_file()]
    lines += [""]
    if written:
        lines += ["## Samples", "", f"{_diversity(written)} Temperature 0.8.", ""]
    for prompt, one, real in written:
        for name, part in (("prompt", prompt), ("model", one), ("text", real)):
            lines += [f"{name}:", "", "````text", *part.replace("````", "'''").splitlines(), "````", ""]
    lines += ["## Most expensive parts", "", f"In bits a character; all parts are in `{EXAMPLES}` and `{PAGE}`.", ""]
    return "\n".join([*lines, examples_markdown(worst, limit=8, width=_SEGMENT)]) + "\n"


def _diversity(written):
    texts = [one for _, one, _ in written if one.strip()]
    if not texts:
        return "The model wrote nothing."
    blanks = sum(character.isspace() for text in texts for character in text)
    unit = "word" if 10 * blanks > sum(map(len, texts)) else "character"  # Chinese has few blanks
    shares = " and ".join(f"{distinct_n(texts, n, unit=unit):.3f} (distinct-{n})" for n in (1, 2))
    said = f"Of the samples' {unit} n-grams a share of {shares} is different"
    if len(texts) > 1 and importlib.util.find_spec("sacrebleu"):
        tokenize = "13a" if unit == "word" else "char"
        said += f"; self-BLEU is {self_bleu(texts, tokenize=tokenize):.1f}"
    return said + "."


# ---------------------------------------------------------------- tasks


def _is_task(path):
    return isinstance(_read_json(path / CONFIG).get("task"), str)


def _page_of_task(path):
    """Writes the page of a task's examples and returns its scores."""
    scores, examples = _read_json(path / SCORES), load_examples(path / EXAMPLES)
    metric = _main_metric(path, scores)
    direction = "higher" if metric["higher_is_better"] else "lower"
    worst = sort_examples(examples, higher_is_better=metric["higher_is_better"])
    title = f"{path.name}: {metric['name']} ({direction} is better), the worst first"
    files.write_whole(path / PAGE, examples_html(worst, title=title))
    return scores | {"report": path / PAGE}


def _compare_tasks(paths, names, samples, seed):
    kinds = [_read_json(path / CONFIG)["task"] for path in paths]
    if len(set(kinds)) > 1:
        raise ValueError(f"runs must be of one task; got {', '.join(map(repr, kinds))}")
    examples, scores = [load_examples(path / EXAMPLES) for path in paths], [_read_json(path / SCORES) for path in paths]
    asked = [[(one.get("input"), one.get("reference")) for one in each] for each in examples]
    for path, other in zip(paths[1:], asked[1:], strict=True):
        if other != asked[0]:
            raise ValueError(f"runs must have been asked the same in the same order; got others in {str(path)!r}")
    main = [_main_metric(path, one) for path, one in zip(paths, scores, strict=True)]
    if len({metric["name"] for metric in main}) > 1:
        raise ValueError(f"runs must have one main metric; got {', '.join(repr(metric['name']) for metric in main)}")
    values = [[one.get("score") for one in each] for each in examples]
    kept = [row for row in zip(*values, strict=True) if all(isinstance(value, int | float) for value in row)]
    if not kept:
        raise ValueError(f"runs must have a score for at least one example; got none in {str(paths[0])!r}")
    columns = np.array(kept, np.float64).T
    metric, rows = Mean(), {"mean of examples": columns.mean(1).tolist()}
    for known in main[0]["all"]:
        rows[known] = [one["all"].get(known) for one in main]
    statistics = [metric.statistics(column, column) for column in columns]
    tests = [paired_test(metric, each, statistics[0], samples=samples, seed=seed) for each in statistics[1:]]
    direction = "higher" if main[0]["higher_is_better"] else "lower"
    measure = f"mean {main[0]['name']} of an example ({direction} is better)"
    return Comparison(f"task {kinds[0]}", measure, names, rows, tests, len(kept))


def _main_metric(path, scores):
    """Returns dict of the first metric of a task's scores: `name`, `higher_is_better`, and `all` values of the model by name."""
    try:
        first = scores["metrics"][0]
        values = {metric["name"]: metric["systems"]["model"]["value"] for metric in scores["metrics"]}
        return {"name": first["name"], "higher_is_better": bool(first["higher_is_better"]), "all": values}
    except (KeyError, IndexError, TypeError) as error:
        rule = f"a finished {SCORES} of one seed"
        raise ValueError(f"run must hold {rule}; got {str(path)!r}, which lacks {error}") from error


def _read_json(path):
    """Returns dict of a JSON file; empty where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _save(figure, path):
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    files.write_whole(path, data.getvalue())


def _number(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.4f}"
