"""Pictures of scores: the confusion matrix, the reliability diagram, the bars of every class, the loss by position."""

import numpy as np

from tfllm.evaluation.metric import ratio
from tfllm.picture import Picture

_MOST_NUMBERS = 20  # labels up to which every cell of a confusion matrix shows its count


def draw_confusion(counts, labels, *, title="Confusion matrix"):
    """Draws which label is taken for which.

    Args:
        counts: int [L, L] and
        labels: list of L labels, as `confusion_matrix` gives them.
        title: str.

    Returns:
        `Picture`: rows are the labels that are there, columns those that were predicted; colours are shares of a row.

    Raises:
        ValueError: when the two do not fit together.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(labels), len(labels)) or not len(labels):
        raise ValueError(f"counts must have the shape [{len(labels)}, {len(labels)}]; got {list(counts.shape)}")
    size = len(labels)
    figure = Picture(figsize=(3 + 0.45 * min(size, 40), 2.4 + 0.4 * min(size, 40)), layout="constrained")
    axes = figure.subplots()
    shares = ratio(counts, counts.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [_short(label) for label in labels]
    axes.set_xticks(range(size), names, rotation=90 if size > 5 else 0)
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("is")
    axes.set_title(title)
    if size <= _MOST_NUMBERS:
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, label="share of the row", shrink=0.8)
    return figure


def draw_reliability(metric, sums, *, title="Reliability"):
    """Draws how often answers are right beside how sure the model is of them.

    Args:
        metric: `CalibrationError`.
        sums: float [3 * bins], its summed statistics.
        title: str.

    Returns:
        `Picture`: bars on the diagonal are calibrated, bars below it belong to a model that is too sure.
    """
    found = metric.diagram(sums)
    if not found["count"].sum():
        raise ValueError("sums must hold at least one answer; got none")
    edges = np.arange(metric.bins) / metric.bins
    figure = Picture(figsize=(5.2, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    real = found["count"] > 0
    top.bar(edges[real], found["accuracy"][real], 1 / metric.bins, align="edge", edgecolor="white", label="right")
    top.plot(found["confidence"][real], found["accuracy"][real], ".", color="black", label="mean confidence of a bin")
    top.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    top.set_ylim(0, 1)
    top.set_ylabel("share that is right")
    top.set_title(f"{title}: expected calibration error {metric.score(sums):.3f}")
    top.legend(loc="upper left")
    bottom.bar(
        edges, found["count"] / found["count"].sum(), 1 / metric.bins, align="edge", color="gray", edgecolor="white"
    )
    bottom.set_ylabel("share of\nanswers")
    bottom.set_xlabel("confidence")
    bottom.set_xlim(0, 1)
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def draw_class_scores(scores, *, title="Scores of every class"):
    """Draws precision, recall and F1 of every class.

    Args:
        scores: dict, as `class_scores` gives it.
        title: str.

    Returns:
        `Picture`, a group of bars for every class, with the number of its examples.
    """
    if not scores:
        raise ValueError("scores must hold at least one class; got none")
    figure = Picture(figsize=(7, 1.4 + 0.5 * len(scores)), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(scores))
    for at, name in enumerate(("precision", "recall", "f1")):
        axes.barh(places + 0.27 * (at - 1), [of[name] for of in scores.values()], 0.27, label=name)
    axes.set_yticks(places, [f"{_short(label)} ({of['support']:,})" for label, of in scores.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.set_title(title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_positions(scores, *, title="Loss by position"):
    """Draws what the tokens before it are worth: the loss of a token by how many the model has read.

    Args:
        scores: `TokenScores`.
        title: str.

    Returns:
        `Picture`: the mean nats at each position of a row, and their mean over neighbours.
    """
    place = np.arange(len(scores.nats)) % scores.sequence_length
    mean = np.bincount(place, scores.nats) / np.bincount(place)
    figure = Picture(figsize=(7, 3.6), layout="constrained")
    axes, positions = figure.subplots(), np.arange(len(mean)) + 1
    axes.plot(positions, mean, ".", color="tab:blue", alpha=0.4, label="position")
    width = max(len(mean) // 16, 1)
    parts = np.array_split(np.arange(len(mean)), max(len(mean) // width, 1))
    axes.plot(
        [positions[part].mean() for part in parts], [mean[part].mean() for part in parts], label="neighbours' mean"
    )
    axes.axhline(scores.nats.mean(), color="gray", ls="--", label=f"all: {scores.nats.mean():.3f}")
    axes.set_xlabel("tokens read before")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _short(label):
    text = str(label)
    return text if len(text) <= 24 else text[:23] + "…"
