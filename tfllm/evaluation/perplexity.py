"""How well a model predicts a text: loss, perplexity, accuracy, and units that do not depend on the tokenizer."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfllm.data import lm_dataset
from tfllm.evaluation.metric import Metric, check_pairs
from tfllm.training.losses import lm_loss, widen


@dataclasses.dataclass(frozen=True)
class Perplexity(Metric):
    """exp of the nats that a token costs; each token counts once, however the text was cut.

    References are how many tokens each text has (int [N]), predictions how many nats it cost (float [N]).

    Example:
        >>> print(f"{Perplexity()([2, 1], [2 * 0.6931472, 0.6931472]):.3f}")
        2.000
    """

    higher_is_better = False
    num_statistics = 2
    name = "perplexity"

    def statistics(self, references, predictions):
        return _nats_and_counts(references, predictions)

    def score(self, sums):
        sums = np.asarray(sums, np.float64)
        return np.exp(np.minimum(sums[..., 0] / np.maximum(sums[..., 1], 1), 700))


@dataclasses.dataclass(frozen=True)
class BitsPerByte(Metric):
    """Bits that a byte of text (UTF-8) costs, which compares models of different tokenizers.

    References are texts, or their numbers of bytes; predictions how many nats each cost (float [N]).

    Example:
        >>> print(f'{BitsPerByte()(["ab", "é"], [0.6931472, 0.6931472]):.3f}')
        0.500
    """

    higher_is_better = False
    num_statistics = 2
    name = "bits_per_byte"

    def statistics(self, references, predictions):
        return _nats_and_counts(references, predictions, lambda text: len(text.encode()))

    def score(self, sums):
        return _bits(sums)


@dataclasses.dataclass(frozen=True)
class BitsPerCharacter(Metric):
    """Bits that a character of text costs; see `BitsPerByte`.

    Example:
        >>> print(f'{BitsPerCharacter()(["ab", "é"], [0.6931472, 0.6931472]):.3f}')
        0.667
    """

    higher_is_better = False
    num_statistics = 2
    name = "bits_per_character"

    def statistics(self, references, predictions):
        return _nats_and_counts(references, predictions, len)

    def score(self, sums):
        return _bits(sums)


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
        dict as `evaluate_lm` gives it, with `"bits_per_character"` and `"bits_per_byte"`.

    Raises:
        ValueError: when the text has no more than `sequence_length` tokens.
    """
    ids = tokenizer.encode(text).numpy()
    batches = lm_dataset(ids, tokenizer, sequence_length, batch_size, shuffle=False)
    first = tokenizer.decode(ids[:1]).numpy().decode()
    scores = evaluate_lm(model, batches, characters=max(len(text) - len(first), 1))
    size = max(len(text.encode()) - len(first.encode()), 1)
    return scores | {"bits_per_byte": scores["loss"] * scores["tokens"] / math.log(2) / size}


@dataclasses.dataclass(frozen=True, eq=False)
class TokenScores:
    """What a model thinks of every token of a text but the first.

    Attributes:
        text: str.
        sequence_length: int, tokens in a row: token k has `k % sequence_length + 1` tokens before it.
        starts: int64 [N], the character at which each token begins.
        nats: float64 [N], what each costs.
        confidence: float64 [N], the probability of the likeliest token there.
        right: bool [N], whether the token is that one.
    """

    text: str
    sequence_length: int
    starts: np.ndarray
    nats: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def segments(self, size=256):
        """Cuts the text into parts of `size` characters, the same for every tokenizer, and adds up what they cost.

        A token counts for the part in which it begins. The characters of the first token count for none.

        Returns:
            `Segments`; the last one may be shorter.

        Raises:
            ValueError: when `size` is below 1.
        """
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be an int of at least 1; got {size!r}")
        begin = int(self.starts[0])
        texts = [self.text[max(at, begin) : at + size] for at in range(0, len(self.text), size)]
        place = np.minimum(self.starts // size, len(texts) - 1)  # an id may stand behind the last character

        def total(values):
            return np.bincount(place, values, len(texts))

        return Segments(
            texts,
            total(self.nats),
            total(np.ones(len(place))),
            total(self.right),
            np.array([len(text.encode()) for text in texts], np.float64),
            np.array([len(text) for text in texts], np.float64),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Parts of a text, and what a model's predictions of them cost.

    Attributes:
        texts: list of S str.
        nats, tokens, right, bytes, characters: float64 [S], sums over each part; `right` counts the tokens that were likeliest.
    """

    texts: list
    nats: np.ndarray
    tokens: np.ndarray
    right: np.ndarray
    bytes: np.ndarray
    characters: np.ndarray

    def statistics(self, count):
        """Returns float64 [S, 2], nats and one of "tokens", "bytes" and "characters": what the metrics of this file add up."""
        return np.stack([self.nats, getattr(self, count)], 1)


def score_tokens(model, tokenizer, text, sequence_length, batch_size=32):
    """Scores every token of a text but the first, in the rows of `evaluate_text`.

    Args:
        model, tokenizer, text, sequence_length, batch_size: as for `evaluate_text`; a shorter text is one row.

    Returns:
        `TokenScores`.

    Raises:
        ValueError: when the text has fewer than two tokens.

    Example:
        >>> tokenizer = tfllm.CharTokenizer.train("to be or not")
        >>> scores = score_tokens(tfllm.RecurrentLM(tokenizer.vocab_size, "gru", 8), tokenizer, "to be", 3)
        >>> scores.nats.shape, scores.starts
        ((4,), array([1, 2, 3, 4]))
    """
    ids, starts, _ = (part.numpy() for part in tokenizer.encode_with_offsets(text))
    if len(ids) < 2:
        raise ValueError(f"text must have at least two tokens; got {len(ids)} in {text!r:.40}")
    length = min(sequence_length, len(ids) - 1)
    score, parts = make_scorer(model), []
    for inputs, targets, weights in lm_dataset(ids, tokenizer, length, batch_size, shuffle=False):
        real = weights.numpy() > 0
        parts.append([part.numpy()[real] for part in score(inputs, targets)])
    log_probs, confidence, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    return TokenScores(
        text, length, starts[1:].astype(np.int64), -log_probs.astype(np.float64), confidence.astype(np.float64), right
    )


def make_scorer(model):
    """Makes the compiled function that scores rows of ids.

    Args:
        model: a `LanguageModel`.

    Returns:
        A function of (inputs int32 [B, T], targets int32 [B, T]) that returns (float32 [B, T], nats of each target's
        log-probability; float32 [B, T], the probability of the likeliest id; bool [B, T], whether that is the target).
    """

    def score(inputs, targets):
        log_probs = tf.nn.log_softmax(widen(model(inputs, training=False)))
        best = tf.argmax(log_probs, -1, tf.int32)
        confidence = tf.exp(tf.reduce_max(log_probs, -1))
        return tf.gather(log_probs, targets, batch_dims=2), confidence, best == targets

    rows = tf.TensorSpec([None, None], tf.int32)
    return tf.function(score, input_signature=[rows, rows], autograph=False)


def _nats_and_counts(references, predictions, size=None):
    """Returns float64 [N, 2] of nats and counts, which are given or the sizes of texts."""
    references, predictions = check_pairs(references, predictions)
    counts = [size(each) if size is not None and isinstance(each, str) else each for each in references]
    for name, values in (("references", counts), ("predictions", predictions)):
        if any(isinstance(value, str | bool) or not np.isreal(value) or not 0 <= value < np.inf for value in values):
            rule = "texts, or finite numbers of at least 0" if size is not None and name == "references" else None
            raise ValueError(f"{name} must be {rule or 'finite numbers of at least 0'}; got others")
    return np.stack([np.asarray(predictions, np.float64), np.asarray(counts, np.float64)], 1)


def _bits(sums):
    sums = np.asarray(sums, np.float64)
    return sums[..., 0] / math.log(2) / np.maximum(sums[..., 1], 1)
