"""How well a model predicts a text: loss, perplexity, accuracy, and units that do not depend on the tokenizer."""

import math

import tensorflow as tf

from tfllm.data import lm_dataset
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
    perplexity = math.exp(loss) if loss < 700 else math.inf
    scores = {"loss": loss, "perplexity": perplexity, "accuracy": right / weight, "tokens": weight}
    return scores if characters is None else scores | {"bits_per_character": nats / math.log(2) / characters}


def evaluate_text(model, tokenizer, text, sequence_length, batch_size=32):
    """Scores a model on a whole text, cut into rows that it reads one by one; each token but the first is a target once.

    Args:
        model: a `LanguageModel`.
        tokenizer: its tokenizer.
        text: str.
        sequence_length: int, tokens in a row: what the model looks back on.
        batch_size: int, rows at a time.

    Returns:
        dict as `evaluate_lm` gives it, with `"bits_per_character"`.

    Raises:
        ValueError: when the text has no more than `sequence_length` tokens.
    """
    ids = tokenizer.encode(text).numpy()
    batches = lm_dataset(ids, tokenizer, sequence_length, batch_size, shuffle=False)
    characters = len(text) - len(tokenizer.decode(ids[:1]).numpy().decode())
    return evaluate_lm(model, batches, characters=max(characters, 1))
