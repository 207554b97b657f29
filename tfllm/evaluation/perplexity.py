"""How well a model predicts a text: loss, perplexity, accuracy, and units that do not depend on the tokenizer."""

import math

import tensorflow as tf

from tfllm.training.losses import lm_loss


def evaluate_lm(model, dataset, *, characters=None):
    """Scores a model on every batch of a data set; each token counts once, whatever the batches.

    Args:
        model: a `LanguageModel`.
        dataset: batches `(inputs, targets, weights)`, such as `lm_dataset(..., shuffle=False)` gives.
        characters: int, how many characters the targets stand for, or None.

    Returns:
        dict: `"loss"` nats a token, `"perplexity"`, `"accuracy"` in [0, 1], `"tokens"` the sum of weights, and with
        `characters` `"bits_per_character"`, which compares models of different tokenizers.

    Raises:
        ValueError: when no target has a weight.

    Example:
        >>> import tfllm
        >>> model = tfllm.RecurrentLM(4, cell="rnn", dim=2)
        >>> scores = evaluate_lm(model, tfllm.data.lm_dataset([0, 1, 2, 3], None, 2, 1, shuffle=False))
        >>> scores["tokens"]
        3.0
    """
    score = tf.function(lambda batch: lm_loss(model, batch, training=False), reduce_retracing=True)
    nats = right = weight = 0.0
    for batch in dataset:
        totals = score(batch)
        nats += float(totals["loss"][0])
        right += float(totals["accuracy"][0])
        weight += float(totals["loss"][1])
    if not weight:
        raise ValueError("dataset must hold at least one target of weight above 0; got none")
    loss = nats / weight
    scores = {"loss": loss, "perplexity": math.exp(loss), "accuracy": right / weight, "tokens": weight}
    return scores if characters is None else scores | {"bits_per_character": nats / math.log(2) / characters}
