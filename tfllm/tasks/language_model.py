"""What tasks that train a language model share: texts of which parts count, batches, scores, and the n-gram model to beat.

A text is a list of parts, each with the word whether the model is to learn it: in a conversation the answers count, and what they
answer is only read. Both the model and the n-gram model score the same tokens, each from what stands before it in its text.
"""

import types

import numpy as np
import tensorflow as tf

from tfllm.data import lm_dataset
from tfllm.export import save as save_export
from tfllm.generation import TextGenerator
from tfllm.models import TransformerLM
from tfllm.tasks.kneser_ney import choose_kneser_ney
from tfllm.tasks.task import Baseline, Task

_FEW_TOKENS = 1024
_SCORED_AT_ONCE = 2**23  # logits of a batch


class LanguageModelTask(Task):
    """A task whose model writes texts. Concrete tasks supply `read`, `parts`, `make_tokenizer` and `metrics`.

    Attributes:
        orders: ints, the lengths of n-grams among which the baseline is chosen on the validation rows.
        decoding: dict, the settings of `TextGenerator.generate` by which `predict` writes.
    """

    orders = (3, 4, 5)
    decoding = types.MappingProxyType({"max_new_tokens": 128, "temperature": 0.8})
    _generator = None

    def parts(self, row):
        """Returns list of (str, bool): the text of a row, and whether each part counts. The first token never does."""
        raise NotImplementedError

    def make_tokenizer(self, texts):
        """Returns the tokenizer, learned from a list of str."""
        raise NotImplementedError

    def learn(self, train):
        self.tokenizer = self.make_tokenizer(["".join(text for text, _ in self.parts(row)) for row in train])

    def make_model(self):
        settings = self.settings
        return TransformerLM(
            self.tokenizer.vocab_size,
            max_length=settings.sequence_length,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            dropout=settings.dropout,
            positions="rotary",
        )

    @property
    def jit_compile(self):
        """bool: with many tokens XLA's gradient of the cross-entropy, a row at a time, costs more than the rest gains."""
        return self.tokenizer is not None and self.tokenizer.vocab_size <= _FEW_TOKENS

    def documents(self, rows):
        """Returns (list of int32 [N], the ids of each row; list of float32 [N - 1], 1 where a target counts)."""
        parts = [self.parts(row) for row in rows]
        texts = [text for row in parts for text, _ in row]
        encoded = iter(self.tokenizer.encode_bulk(texts))
        documents, weights = [], []
        for row in parts:
            pieces = [(np.asarray(next(encoded), np.int32), counts) for _, counts in row]
            documents.append(np.concatenate([ids for ids, _ in pieces]))
            weights.append(np.concatenate([np.full(len(ids), counts, np.float32) for ids, counts in pieces])[1:])
        return documents, weights

    def batches(self, rows, training):
        """Cuts all texts, one behind the other, into rows of `sequence_length`."""
        documents, weights = self.documents(rows)
        size, settings = self.tokenizer.vocab_size, self.settings
        # A target that counts travels as its id + V, so that ids and weights are cut and shuffled as one.
        counts = [np.concatenate([[0], weight]).astype(np.int32) for weight in weights]
        stream = np.concatenate(documents) + size * np.concatenate(counts)
        length = min(settings.sequence_length, len(stream) - 1)
        options = {"seed": settings.seed, "epochs": None} if training else {"shuffle": False}
        stream = lm_dataset(stream, None, length, settings.batch_size, **options)

        def apart(inputs, targets, weights):
            return inputs % size, targets % size, weights * tf.cast(targets // size, tf.float32)

        return stream.map(apart, num_parallel_calls=tf.data.AUTOTUNE)

    def nats(self, rows):
        """Returns list of float, minus the log-probability of what counts in each row."""
        documents, weights = self.documents(rows)
        scored = document_log_probs(self.model, documents, self.settings.sequence_length)
        return [float(-(terms * weight).sum()) for terms, weight in zip(scored, weights, strict=True)]

    def outputs(self, rows):
        return self.nats(rows)

    def baseline(self, train, validation):
        """Chooses the n-gram model, over the tokens of the model, on the validation rows."""
        self._check_fitted()
        documents, _ = self.documents(train)
        held_out, weights = self.documents(validation)
        model = choose_kneser_ney(documents, held_out, self.tokenizer.vocab_size, self.orders, weights)

        def nats(rows):
            documents, weights = self.documents(rows)
            scored = model.log_probs(documents)
            return [float(-(terms * weight).sum()) for terms, weight in zip(scored, weights, strict=True)]

        return Baseline(f"Kneser-Ney, {model.order}-grams", nats, model)

    @property
    def generator(self):
        """`TextGenerator` of the model, which keeps its programs."""
        self._check_fitted()
        if self._generator is None or self._generator.model is not self.model:
            self._generator = TextGenerator(self.model, self.tokenizer)
        return self._generator

    def predict(self, inputs):
        """Continues texts; a list of str to a list of str, each what follows."""
        return self.generator.generate(list(inputs), seed=self.settings.seed, **self.decoding)

    def export(self, path, *, force=False):
        """Writes a SavedModel with the signatures `generate` and `score`, see `tfllm.export.save`."""
        save_export(self.generator, path, signatures=["generate", "score"], force=force)

    def ask(self, served, inputs):
        found = served.generate(list(inputs), seed=self.settings.seed, **self.decoding)["text"]
        return [text.decode() for text in found.numpy()]

    def example(self, row, output, baseline_output):
        text = "".join(text for text, _ in self.parts(row))
        return {
            "input": self.inputs([row])[0],
            "reference": text,
            "prediction": f"{output:.2f} nats",
            "baseline": f"{baseline_output:.2f} nats",
        }


def document_log_probs(model, documents, length):
    """Scores every token of texts but the first by those before it, of which it reads at least half of `length`.

    Args:
        model: a `LanguageModel`.
        documents: list of int32 [N].
        length: int >= 2, the most tokens that the model reads at once. Longer texts are read in windows that overlap by half.

    Returns:
        list of float64 [N - 1], nats.
    """
    stride, windows = length // 2, []  # (document, first input, targets, those that an earlier window scored)
    for number, ids in enumerate(documents):
        first = done = 0
        while done < len(ids) - 1:
            end = min(first + length, len(ids) - 1)
            windows.append((number, first, end, done))
            first, done = first + stride, end
    windows.sort(key=lambda window: window[2] - window[1])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def score(ids):
        shares = tf.nn.log_softmax(model(ids[:, :-1], training=False))
        return tf.gather(shares, ids[:, 1:], batch_dims=2)

    found = [np.zeros(max(len(ids) - 1, 0)) for ids in documents]
    rows = max(_SCORED_AT_ONCE // (length * model.vocab_size), 1)
    for at in range(0, len(windows), rows):
        batch = windows[at : at + rows]
        width = batch[-1][2] - batch[-1][1] + 1
        ids = np.zeros([len(batch), width], np.int32)
        for row, (number, first, end, _) in zip(ids, batch, strict=True):
            row[: end - first + 1] = documents[number][first : end + 1]
        for (number, first, end, done), terms in zip(batch, score(ids).numpy(), strict=True):
            found[number][done:end] = terms[done - first : end - first]
    return found
