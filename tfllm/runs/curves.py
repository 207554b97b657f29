"""The picture of a training: losses, and below them rate and speed."""

import numpy as np

from tfllm.picture import Picture

_BELOW = ("learning_rate", "tokens_per_second")


def draw_curves(history, *, title="Training"):
    """Draws the losses of a training against its steps.

    Args:
        history: dict of equally long lists: `"loss"` and, where there are, `"val_loss"`, `"step"` (else the number of
            the row), `"learning_rate"`, `"tokens_per_second"`; the `history` of a Keras `History` serves as well.
        title: str.

    Returns:
        `Picture`, a `matplotlib.figure.Figure`: a notebook shows it, `savefig` writes it.

    Raises:
        ValueError: when there is no loss, or a column has another length.
    """
    losses = list(history.get("loss", []))
    if not losses:
        raise ValueError(f"history must hold at least one loss; got the columns {sorted(history)}")
    lengths = {name: len(history[name]) for name in (*_BELOW, "loss", "val_loss", "step") if name in history}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history must have columns of one length; got {lengths}")
    steps = list(history.get("step", range(1, len(losses) + 1)))
    below = [name for name in _BELOW if any(history.get(name, []))]
    figure = Picture(figsize=(8, 4.5 + 1.3 * len(below)), layout="constrained")
    axes = figure.subplots(1 + len(below), 1, sharex=True, squeeze=False, height_ratios=[4] + [1] * len(below))[:, 0]

    top = axes[0]
    top.plot(steps, losses, color="tab:blue", marker=".", label="training")
    if "val_loss" in history:
        validation = list(history["val_loss"])
        top.plot(steps, validation, color="tab:orange", marker=".", label="validation")
        best = min(range(len(validation)), key=validation.__getitem__)
        label = f"best {validation[best]:.3f} at {'step' if 'step' in history else 'epoch'} {steps[best]}"
        top.scatter(
            [steps[best]], [validation[best]], s=90, facecolors="none", edgecolors="tab:red", zorder=3, label=label
        )
    top.set_title(title)
    top.set_ylabel("loss (nats a token)")
    top.grid(alpha=0.3)
    top.legend()
    perplexity = top.secondary_yaxis("right", functions=(_exp, _log))
    perplexity.set_ylabel("perplexity")

    for axis, name in zip(axes[1:], below, strict=True):
        axis.plot(steps, history[name], color="tab:green" if name == "learning_rate" else "tab:gray")
        axis.set_ylabel(name.replace("_", "\n"))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step" if "step" in history else "epoch")
    return figure


def _exp(values):
    return np.exp(np.minimum(values, 700))


def _log(values):
    return np.log(np.maximum(values, 1e-300))
