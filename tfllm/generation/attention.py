"""Where a Seq2Seq looks in the source for each token of a text, as numbers and as a picture."""

import dataclasses

import matplotlib
import numpy as np

from tfllm.generation.tree import token_label
from tfllm.picture import Picture


@dataclasses.dataclass(frozen=True)
class Attention:
    """How much each token of a text looks at each token of its source.

    Attributes:
        source_tokens: list of str [S], as pictures show them.
        target_tokens: list of str [T], the same; the last is the end token.
        weights: float32 [T, S], each row a distribution: attention before the row's token is written, averaged over heads.
    """

    source_tokens: list
    target_tokens: list
    weights: np.ndarray

    def draw(self):
        """Returns the picture that `draw_attention` makes."""
        return draw_attention(self)


def read_attention(generator, source, target, *, layer=-1):
    """Returns the `Attention` of one pair of texts.

    Args:
        generator: `TextGenerator` of a `Seq2Seq`.
        source: str, not empty.
        target: str, not empty: what the model would write, or a text to look at.
        layer: int, of the layers that attend; -1 is the last.

    Raises:
        ValueError: when the model has no encoder or no such layer, a text is empty, or one is longer than the model can hold.
    """
    if not generator.reads_sources:
        raise ValueError(f"generator must be of a model with an encoder; got one of {type(generator.model).__name__}")
    for name, text in (("source", source), ("target", target)):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name} must be a str that is not empty; got {text!r}")
    source_ids = generator.source_tokenizer.encode([source]).to_tensor()
    if not source_ids.shape[1]:
        raise ValueError(f"source must have a token; got {source!r}, which has none")
    ids = generator.tokenizer.encode(target).numpy().tolist()
    inputs = {"source": source_ids, "source_lengths": [source_ids.shape[1]], "ids": [[generator.begin_id, *ids]]}
    weights = generator.model.attention(inputs).numpy()[0]  # [L, H, T, S]
    if isinstance(layer, bool) or not isinstance(layer, int) or not -len(weights) <= layer < len(weights):
        raise ValueError(f"layer must be an int in [{-len(weights)}, {len(weights)}); got {layer!r}")
    ids.append(generator.vocabulary.end_id)
    return Attention(
        [token_label(generator.source_tokenizer, index) for index in source_ids[0].numpy().tolist()],
        [token_label(generator.tokenizer, index) for index in ids],
        weights[layer].mean(0),
    )


def draw_attention(attention, *, max_tokens=64):
    """Draws attention as a table: a row for each token of the text, a column for each of the source, the greener the more.

    Args:
        attention: `Attention`.
        max_tokens: int >= 1, no more than the first so many of either side are drawn.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when `max_tokens` is not an int of at least 1.
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(f"max_tokens must be an int of at least 1; got {max_tokens!r}")
    columns, rows = attention.source_tokens[:max_tokens], attention.target_tokens[:max_tokens]
    weights, cell = attention.weights[: len(rows), : len(columns)], 0.26  # inches
    left, top = (0.075 * max(map(len, labels)) + 0.3 for labels in (rows, columns))
    width, height = left + len(columns) * cell + 0.2, top + len(rows) * cell + 0.2
    figure = Picture(figsize=(width, height))
    axes = figure.add_axes((left / width, 0.2 / height, len(columns) * cell / width, len(rows) * cell / height))
    axes.imshow(weights, cmap=matplotlib.colormaps["YlGn"], vmin=0, vmax=1, aspect="auto")
    font = {"fontsize": 8, "family": "monospace", "parse_math": False}
    axes.set_xticks(range(len(columns)), columns, rotation=90, **font)
    axes.set_yticks(range(len(rows)), rows, **font)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=2)
    for row, column in zip(*np.nonzero(weights >= 0.1), strict=True):  # smaller ones would hide the picture
        shade = "black" if weights[row, column] < 0.6 else "white"
        percent = f"{100 * weights[row, column]:.0f}"
        axes.text(column, row, percent, ha="center", va="center", fontsize=6, color=shade)
    return figure
