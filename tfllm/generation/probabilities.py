"""What the model thought of each token of a text, as a picture."""

import matplotlib
import numpy as np

from tfllm.generation.tree import token_label
from tfllm.picture import Picture


def draw_probabilities(completion, tokenizer, *, max_tokens=96, columns=16):
    """Draws a text token by token, with the tokens that were likelier or nearly as likely.

    Every column is a place in the text: on top its token, coloured by its probability, below it the likeliest tokens of that
    place in their order; the one that was chosen has a thick frame. Probabilities are those of the model's own distribution.

    Args:
        completion: `Completion`, made by `TextGenerator.complete` with `top_log_probs`.
        tokenizer: the tokenizer of its ids.
        max_tokens: int >= 1, no more than the first so many are drawn.
        columns: int >= 1, tokens in a row.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when the completion has no token, or was made without `top_log_probs`.
    """
    if completion.top_ids is None:
        raise ValueError("completion must be made with top_log_probs of at least 1; got none")
    if not len(completion.ids):
        raise ValueError("completion must have at least one token; got none")
    for name, value in (("max_tokens", max_tokens), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1; got {value!r}")
    count, ranks = min(len(completion.ids), max_tokens), completion.top_ids.shape[1]
    labels = [token_label(tokenizer, int(index)) for index in completion.ids[:count]]
    others = [[token_label(tokenizer, int(index)) for index in row] for row in completion.top_ids[:count]]
    columns = min(columns, count)
    wide = max(len(label) for row in [labels, *others] for label in row)
    width, height, lines = 0.075 * wide + 0.4, 0.24, -(-count // columns)
    figure = Picture(figsize=(columns * width + 1.2, lines * (ranks + 2) * height + 0.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.85, columns * width + 0.35), ylim=(lines * (ranks + 2) * height, -0.5))
    axes.axis("off")
    axes.text(-0.8, -0.3, "the text, and below it what else was likely: probability in %", fontsize=9, va="center")
    colours = matplotlib.colormaps["YlGn"]

    def cell(x, y, label, share, chosen):
        box = matplotlib.patches.Rectangle(
            (x, y),
            width,
            height,
            facecolor=colours(0.55 * float(share)),
            edgecolor="black" if chosen else "lightgray",
            linewidth=1.6 if chosen else 0.4,
            zorder=2 if chosen else 1,
        )
        axes.add_patch(box)
        text = {"fontsize": 7.5, "va": "center", "parse_math": False, "zorder": 3}
        axes.text(x + 0.05, y + height / 2, label, family="monospace", **text)
        axes.text(x + width - 0.04, y + height / 2, f"{100 * share:.0f}", ha="right", color="0.3", **text)

    for at in range(count):
        x, y = at % columns * width, at // columns * (ranks + 2) * height
        cell(x, y, labels[at], np.exp(completion.log_probs[at]), True)
        for rank in range(ranks):
            share = np.exp(completion.top_log_probs[at, rank])
            cell(
                x, y + (rank + 1) * height, others[at][rank], share, completion.top_ids[at, rank] == completion.ids[at]
            )
        if at % columns == 0:
            axes.text(-0.1, y + height / 2, "text", fontsize=8, va="center", ha="right")
            for rank in range(ranks):
                axes.text(-0.1, y + (rank + 1.5) * height, f"{rank + 1}.", fontsize=8, va="center", ha="right")
    return figure
