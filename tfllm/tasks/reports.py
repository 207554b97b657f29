"""What a run of a task says to a person: the table of scores, its picture, the report and the model card. Markdown, no dates."""

import numpy as np

from tfllm.evaluation import examples_markdown
from tfllm.picture import Picture

_PRECISE = 4  # digits of a score


def describe_scores(scores):
    """Returns str, a table of systems and metrics of what scores.json holds, for a terminal."""
    metrics = scores["metrics"]
    lines = [["", *(f"{metric['name']} {_better(metric)}" for metric in metrics)]]
    for system in metrics[0]["systems"]:
        lines.append([system, *(_interval(metric["systems"][system]) for metric in metrics)])
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return text + "\n" + "\n".join(_verdict(metric) for metric in metrics)


def draw_scores(scores):
    """Returns a `Picture`: a bar with its interval for every system, a panel for every metric."""
    metrics = scores["metrics"]
    figure = Picture(figsize=(3.2 * len(metrics) + 1.5, 1.2 + 0.45 * len(metrics[0]["systems"])), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        names = list(metric["systems"])
        found = [
            [np.nan if part is None else part for part in system.values()] for system in metric["systems"].values()
        ]
        value, low, high = np.array(found, np.float64).T
        colors = ["tab:blue", "tab:gray"] + ["lightgray"] * (len(names) - 2)
        axes.barh(range(len(names)), value, color=colors)
        below, above = np.maximum(value - low, 0), np.maximum(high - value, 0)
        axes.errorbar(value, range(len(names)), xerr=[below, above], fmt="none", ecolor="black", capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel(f"{metric['name']} {_better(metric)}")
    panels[0].invert_yaxis()
    return figure


def report(task, scores, sample, command, pictures, examples):
    """Returns str, Markdown: what was done, the scores, pictures, and what the model makes of some rows."""
    lines = [f"# {task.title}", "", f"Data: `{scores['data']}`, {task.origin()['description']}."]
    lines += [f"Rows: {', '.join(f'{count:,} {split}' for split, count in scores['rows'].items())}."]
    lines += [f"Command: `{command}`."]
    seconds = ", ".join(f"{name} {value:g}" for name, value in scores["seconds"].items())
    lines += [f"Seconds: {seconds}. Trained weights: {scores['weights']:,}.", ""]
    if task.caution:
        lines += [f"**Caution**: {task.caution}", ""]
    lines += ["## Scores on the test rows", "", *_table(scores), ""]
    lines += ["Intervals are 95 %, by bootstrap over the test rows; p by approximate randomization.", ""]
    lines += [f"- {_verdict(metric)}" for metric in scores["metrics"]] + [""]
    for name, systems in scores["checks"].items():
        counted = ", ".join(f"{system} {_interval(part)} of {part['of']}" for system, part in systems.items())
        lines += [f"{name[0].upper()}{name[1:]}: {counted}.", ""]
    lines += ["## Pictures", "", *(f"![{name}]({name})" for name in pictures), ""]
    lines += ["## Some test rows", "", "`examples.jsonl` has them all; `tfllm evaluate` makes a page of them.", ""]
    lines += [examples_markdown(examples), ""]
    lines += ["## From the SavedModel", "", "Input:", "", *_quoted(sample["input"]), "", "Output:", ""]
    lines += [*_quoted(sample["output"])]
    return "\n".join(lines) + "\n"


def model_card(task, scores, sample, command):
    """Returns str, Markdown: what the model is for, what it was made of, how good it is, what it cannot do."""
    origin, metric = task.origin(), scores["metrics"][0]
    facts = {
        "task": task.title,
        "model": f"`{type(task.model).__name__}`, {scores['weights']:,} trained weights, from scratch",
        "data": f"`{scores['data']}`: {origin['description']}; {scores['rows']['train']:,} rows to train on",
        "licence of the data": f"{origin['licence']}, {origin['homepage']}",
        "score": f"{metric['name']} {_interval(metric['systems']['model'])} on {scores['rows']['test']:,} test rows",
        "baseline": f"{scores['baseline']}: {_interval(metric['systems'][scores['baseline']])}",
        "made by": f"`{command}`",
        "settings": ", ".join(f"{name} {value}" for name, value in scores["settings"].items()),
    }
    lines = [
        f"# {task.title}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
    ]
    lines += ["## Limits", ""]
    lines += [f"{task.caution} " if task.caution else ""]
    lines[-1] += "It learned from the rows above alone, writes or decides as they do, and is no source of facts."
    lines += ["", "## Use", "", "`saved_model/` takes and returns strings and needs TensorFlow alone.", ""]
    lines += ["Input:", "", *_quoted(sample["input"]), "", "Output:", "", *_quoted(sample["output"])]
    return "\n".join(lines) + "\n"


def seeds_report(task, scores, command):
    """Returns str, Markdown: mean and spread over seeds."""
    count = len(scores["seeds"])
    lines = [f"# {task.title}, {count} seeds", "", f"Command: `{command}`.", ""]
    lines += [f"| metric | mean | spread | {scores['baseline']} | each | p |", "|---|---|---|---|---|---|"]
    for metric in scores["metrics"]:
        each = ", ".join(f"{value:.{_PRECISE}g}" for value in metric["values"])
        chances = ", ".join(f"{value:.3f}" for value in metric["p_values"])
        numbers = (f"{metric[name]:.{_PRECISE}g}" for name in ("mean", "spread", "baseline"))
        lines.append(f"| {metric['name']} {_better(metric)} | {' | '.join(numbers)} | {each} | {chances} |")
    lines += ["", "Spread is the standard deviation over seeds. Each seed has a run folder of its own."]
    return "\n".join(lines) + "\n"


def _table(scores):
    metrics = scores["metrics"]
    lines = ["| | " + " | ".join(f"{metric['name']} {_better(metric)}" for metric in metrics) + " |"]
    lines += ["|---" * (1 + len(metrics)) + "|"]
    for system in metrics[0]["systems"]:
        lines.append(f"| {system} | " + " | ".join(_interval(metric["systems"][system]) for metric in metrics) + " |")
    return lines


def _better(metric):
    return "(higher is better)" if metric["higher_is_better"] else "(lower is better)"


def _interval(found):
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None:
        return "not a number"
    return f"{value:.{_PRECISE}g}" + (
        "" if low is None or high is None else f" [{low:.{_PRECISE}g}, {high:.{_PRECISE}g}]"
    )


def _verdict(metric):
    test = metric["difference"]
    better = test["difference"] > 0 if metric["higher_is_better"] else test["difference"] < 0
    sure = test["low"] > 0 or test["high"] < 0
    words = ("better" if better else "worse") if sure else "not told apart from chance"
    numbers = f"{test['difference']:+.{_PRECISE}g} [{test['low']:+.{_PRECISE}g}, {test['high']:+.{_PRECISE}g}]"
    return f"{metric['name']}: the model less {test['from']} is {numbers}, p = {test['p_value']:.3f}: {words}"


def _quoted(value):
    text = value if isinstance(value, str) else str(value)
    return ["```text", *text.replace("```", "'''").splitlines(), "```"]
