"""The tree of a search as NumPy arrays, and its picture."""

import dataclasses

import matplotlib
import numpy as np
from matplotlib import font_manager

from tfllm.generation.history import FINISH_REASONS
from tfllm.generation.mcts import MonteCarloTreeSearch
from tfllm.picture import Picture


@dataclasses.dataclass(frozen=True)
class SearchTree:
    """What Monte Carlo tree search tried before it chose the first token; nodes in the order in which they were made.

    Attributes:
        prompt: str.
        parent: int32 [N], of each node; -1 for the root, node 0.
        token: int32 [N], the id that leads to it; -1 for the root.
        depth: int32 [N], tokens below the root.
        visits: int32 [N], simulations that came through.
        value: float32 [N], of the node's own text; 0 for the root, which is not valued.
        mean: float32 [N], of the values of all simulations that came through.
        prior: float32 [N], probability of the token among its siblings; 1 for the root.
        log_prob: float32 [N], nats, of the token by the model's own distribution; 0 for the root.
        finish_reason: list of str, why the text ends there, "" where it goes on.
        choice: int, the child of the root that the tree speaks for, or -1.
    """

    prompt: str
    parent: np.ndarray
    token: np.ndarray
    depth: np.ndarray
    visits: np.ndarray
    value: np.ndarray
    mean: np.ndarray
    prior: np.ndarray
    log_prob: np.ndarray
    finish_reason: list
    choice: int

    def draw(self, tokenizer, *, max_nodes=40):
        """Returns the picture that `draw_tree` makes."""
        return draw_tree(self, tokenizer, max_nodes=max_nodes)


def search_tree(generator, prompt, *, prefix=None, **settings):
    """Searches once and returns the tree that was grown before the first token.

    Args:
        generator: `TextGenerator`.
        prompt: str.
        prefix: `Prefix` or None.
        **settings: as for `TextGenerator.generate` with the strategy "mcts"; `strategy` may be a `MonteCarloTreeSearch`.
            `max_new_tokens` (16) bounds how far the tree looks.

    Returns:
        `SearchTree`.

    Raises:
        ValueError: as `TextGenerator.generate`, or when several prompts are given.
    """
    if not isinstance(prompt, str):
        raise ValueError(f"prompt must be a str; got {type(prompt).__name__}")
    strategy = settings.pop("strategy", MonteCarloTreeSearch())
    if not isinstance(strategy, MonteCarloTreeSearch):
        raise ValueError(f"strategy must be a MonteCarloTreeSearch; got {strategy!r}")
    strategy = dataclasses.replace(strategy, return_tree=True)
    found, _ = generator._run(prompt, strategy, prefix, {"max_new_tokens": 16} | settings)
    tree = {name: np.asarray(x)[0] for name, x in found["tree"].items()}
    kept = np.flatnonzero((tree["visits"] > 0) | (np.arange(len(tree["visits"])) == 0))
    number = np.full(len(tree["visits"]) + 1, -1, np.int32)  # the last stands for the root's parent
    number[kept] = np.arange(len(kept))
    parent, slot, choice = tree["parent"][kept], tree["slot"][kept], tree["children"][0, tree["choice"]]

    def of_edge(name, root):
        return np.where(parent < 0, root, tree[name][parent, slot])

    return SearchTree(
        prompt,
        number[parent],
        of_edge("tokens", -1),
        tree["depth"][kept],
        tree["visits"][kept],
        tree["value"][kept],
        tree["value_sum"][kept] / np.maximum(tree["visits"][kept], 1),
        of_edge("priors", np.float32(1)),
        of_edge("log_probs", np.float32(0)),
        [FINISH_REASONS[reason] for reason in tree["finish"][kept]],
        int(number[choice]),
    )


def draw_tree(tree, tokenizer, *, max_nodes=40):
    """Draws a search tree, the root on the left: tokens, visits, mean values and priors.

    Lines are as wide as their share of the visits; boxes are the greener the higher their mean value; a thick frame is the child
    that was chosen, and a square corner a text that ended. Characters that the font lacks are written as escapes.

    Args:
        tree: `SearchTree`.
        tokenizer: the tokenizer of its ids.
        max_nodes: int >= 2, the most visited nodes are drawn.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when `max_nodes` is not an int of at least 2.
    """
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int) or max_nodes < 2:
        raise ValueError(f"max_nodes must be an int of at least 2; got {max_nodes!r}")
    # A parent has at least its child's visits and a lower number, so what is drawn hangs together.
    drawn = sorted(np.argsort(-tree.visits, kind="stable")[:max_nodes].tolist())
    rows, num_rows = _rows(tree, drawn)
    depth = int(tree.depth[drawn].max())
    labels = {node: _label(tree, node, tokenizer) for node in drawn}
    widths = [max(len(labels[n]) for n in drawn if tree.depth[n] == d) * 0.075 + 0.55 for d in range(depth + 1)]
    left = np.concatenate([[0], np.cumsum(widths)])  # inches
    title = (
        f"{_readable(tree.prompt[-60:])}   n visits, v mean value, p prior; {len(drawn)} of {len(tree.visits)} nodes"
    )
    width, height = max(left[-1], len(title) * 0.075) + 0.3, num_rows * 0.3 + 0.75
    figure = Picture(figsize=(width, height))  # one unit is one inch
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.15, width - 0.15), ylim=(height - 0.7, -0.7))
    axes.axis("off")
    axes.text(0, -0.45, title, fontsize=9, va="center", parse_math=False)
    low, high = tree.mean[drawn].min(), tree.mean[drawn].max()
    colours = matplotlib.colormaps["YlGn"]
    for node in drawn:
        x, y = left[tree.depth[node]], rows[node] * 0.3
        parent = tree.parent[node]
        if parent >= 0:
            _edge(axes, tree, node, left[tree.depth[node]] - 0.5, rows[parent] * 0.3, x, y, labels[parent], left)
        style = "square" if tree.finish_reason[node] else "round"
        chosen = node == tree.choice
        box = {
            "boxstyle": f"{style},pad=0.3",
            "facecolor": colours(0.6 * float((tree.mean[node] - low) / max(high - low, 1e-9))),
            "edgecolor": "black" if chosen else "gray",
            "linewidth": 2.0 if chosen else 0.6,
        }
        axes.text(x, y, labels[node], fontsize=8, va="center", family="monospace", bbox=box, parse_math=False, zorder=3)
    return figure


def _rows(tree, drawn):
    """Returns (dict of node -> its row, number of rows): leaves below each other, parents amid their children."""
    children = {node: [] for node in drawn}
    for node in drawn[1:]:
        children[int(tree.parent[node])].append(node)
    rows, free = {}, 0
    stack = [(drawn[0], False)]
    while stack:
        node, done = stack.pop()
        below = sorted(children[node], key=lambda child: -tree.visits[child])
        if not below:
            rows[node], free = float(free), free + 1
        elif done:
            rows[node] = (rows[below[0]] + rows[below[-1]]) / 2
        else:
            stack += [(node, True), *((child, False) for child in reversed(below))]
    return rows, free


def _edge(axes, tree, node, turn, parent_y, x, y, label, left):
    """Draws a line from the end of the parent's box, level at first and last."""
    begin = left[tree.depth[node] - 1] + len(label) * 0.0655
    width = 0.4 + 5.0 * tree.visits[node] / max(tree.visits[0], 1)
    path = matplotlib.path.Path(
        [(begin, parent_y), (turn + 0.25, parent_y), (turn + 0.25, y), (x, y)],
        [matplotlib.path.Path.MOVETO] + [matplotlib.path.Path.CURVE4] * 3,
    )
    line = matplotlib.patches.PathPatch(path, facecolor="none", edgecolor="tab:blue", linewidth=width, alpha=0.6)
    axes.add_patch(line)


def _label(tree, node, tokenizer):
    numbers = f"n {tree.visits[node]}  v {tree.mean[node]:.2f}"
    if tree.parent[node] < 0:
        return f"root  {numbers}"
    return f"{token_label(tokenizer, int(tree.token[node]))}  {numbers}  p {tree.prior[node]:.2f}"


def token_label(tokenizer, index):
    """Returns str, a token as pictures show it: in quotes, or as it is called where it has no text."""
    piece = tokenizer.token_bytes()[index]
    if not piece:  # an end token and its kin have no text
        return _readable(tokenizer.tokens[index], "")
    try:
        return _readable(piece.decode())
    except UnicodeDecodeError:  # a part of a character
        return repr(piece)


def _readable(text, quote="'"):
    """Returns text in quotes, what the font lacks and what cannot be seen as escapes."""
    font = font_manager.get_font(font_manager.findfont("monospace"))
    known = font.get_charmap()

    def show(character):
        escaped = repr(character)[1:-1] if character != "'" else character
        return escaped if all(ord(c) in known for c in escaped) else ascii(character)[1:-1]

    return quote + "".join(map(show, text)) + quote
