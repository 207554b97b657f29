"""A map of words: their vectors seen from the side on which they differ most."""

import matplotlib
import numpy as np
from matplotlib import font_manager

from tfllm.picture import Picture


def draw_map(vectors, words, *, title="Words"):
    """Draws words as points, near where their vectors point the same way.

    The two axes are the first two principal components of the chosen words' unit vectors; the titles of the axes say
    how much of the words' differences they show.

    Args:
        vectors: `WordVectors`.
        words: list of at least 3 str. Chinese ones need a font with their characters on the machine.
        title: str.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when a word is unknown, there are fewer than 3 different ones, or no font can draw them.
    """
    words = list(dict.fromkeys([words] if isinstance(words, str) else words))
    if len(words) < 3:
        raise ValueError(f"words must be at least 3 different words; got {words}")
    rows = np.stack([vectors[word] for word in words])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows = rows - rows.mean(axis=0)
    left, spread, _ = np.linalg.svd(rows, full_matrices=False)
    left, spread = np.pad(left, [(0, 0), (0, 1)])[:, :2], np.pad(spread, [0, 1])  # vectors of one dimension have a line
    points, share = left * spread[:2], spread[:2] ** 2 / max((spread**2).sum(), 1e-12)
    figure = Picture(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=12, color="tab:blue")
    family = _family(title + "".join(words))
    for word, point in zip(words, points, strict=True):
        axes.annotate(_plain(word), point, xytext=(4, 3), textcoords="offset points", fontsize=10, family=family)
    axes.margins(0.12)
    axes.set_title(_plain(title), family=family)
    axes.set_xlabel(f"first component ({share[0]:.0%} of the differences)")
    axes.set_ylabel(f"second component ({share[1]:.0%})")
    axes.grid(alpha=0.3)
    return figure


def _plain(text):
    return text.replace("$", r"\$")  # else matplotlib reads formulas


def _family(text):
    """Finds the fonts that together can draw a text: the usual one, and one more for what it lacks.

    matplotlib's own last resort is no help: it draws a box for every character.
    """
    codes = {ord(character) for character in text if not character.isspace()}
    usual = font_manager.findfont(font_manager.FontProperties())
    missing = codes - set(font_manager.get_font(usual).get_charmap())
    if not missing:
        return matplotlib.rcParams["font.family"]
    for font in font_manager.fontManager.ttflist:
        if "Last Resort" not in font.name and missing <= set(font_manager.get_font(font.fname).get_charmap()):
            return [*matplotlib.rcParams["font.family"], font.name]
    raise ValueError(
        f"words must be ones that a font of this machine can draw; got {chr(min(missing))!r}, "
        f"which needs another font, such as Noto Sans CJK"
    )
