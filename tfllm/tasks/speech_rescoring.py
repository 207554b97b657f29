"""Speech-recognition rescoring: a language model chooses among what a recogniser may have heard.

    task      from 20 hypotheses with the recogniser's scores to the text that was said
    data      speech/pocketsphinx: 900 sentences of one book, synthetic speech, a real recogniser. The language model learns from
              other bundled texts, none of which is the book: Wikipedia, conversations and the World English Bible
    command   tfllm task speech_rescoring
    training  first on texts, then for fewer expected word errors in the lists of the training part, which is kept if the
              validation part gains by it
    weights   of the language model's log-probability and of a bonus for each word, chosen on the lists of the training and
              validation parts by their word errors, for the model and for the baseline alike
    baseline  rescoring by the modified Kneser-Ney n-gram model of the same texts and tokens
    score     word error rate of the test part, lower is better; beside it the first pass, and the oracle, which knows the best
              hypothesis: README.md of this folder

Source: Ostendorf et al. 1991, Integration of Diverse Recognition Methodologies Through Reevaluation of N-Best Sentence
Hypotheses, Speech and Natural Language workshop.
"""

import functools
import re

import numpy as np
import tensorflow as tf

from tfllm import files
from tfllm.data import load_rows, load_text
from tfllm.evaluation import WordErrorRate
from tfllm.export import check_free
from tfllm.generation.scoring import score_ids
from tfllm.tasks.kneser_ney import choose_kneser_ney
from tfllm.tasks.language_model import LanguageModelTask, document_log_probs
from tfllm.tasks.task import Baseline, TaskSettings
from tfllm.tasks.training import Watch
from tfllm.text import BPETokenizer

_WEIGHTS = (0.0, *np.geomspace(1e-4, 0.3, 36).round(6).tolist())  # of the language model, beside the recogniser's score
_BONUSES = tuple(np.linspace(-2, 8, 21).tolist())  # nats for each word, times the weight


class SpeechRescoring(LanguageModelTask):
    """Chooses the likeliest of a recogniser's hypotheses."""

    name = "speech_rescoring"
    title = "Speech-recognition rescoring"
    caution = (
        "The speech is synthetic, and the test part has 98 sentences: small differences are not told apart from chance."
    )
    datasets = ("speech/pocketsphinx",)
    defaults = TaskSettings(
        steps=1500, batch_size=32, learning_rate=3e-3, num_layers=3, sequence_length=64, dropout=0.0, vocab_size=1024
    )
    orders = (3, 4, 5, 6)

    @functools.cached_property
    def texts(self):
        """list of dict of `text`: sentences that the language model learns from, words without case and punctuation."""
        turns = [turn for part in load_rows("dialogue/chitchat").values() for row in part for turn in row["turns"]]
        verses = [row["query"] for part in load_rows("search/bible").values() for row in part]
        articles = load_text("wiki").splitlines()
        limit = 20 * self.settings.limit or None
        sentences = [s for texts in (turns, verses, articles) for text in texts[:limit] for s in plain_sentences(text)]
        return [{"text": text} for text in sentences]

    def parts(self, row):
        return [("\n", False), (row["text" if "text" in row else "reference"] + "\n", True)]

    def make_tokenizer(self, texts):
        return BPETokenizer.train(texts, vocab_size=self.settings.vocab_size)

    def learn(self, train):
        super().learn(self.texts)

    def train(self, train, validation, watch):
        history = self.fit_on(self.batches(self.texts, True), self.batches(validation, False), watch)
        self.state = choose_weights(train + validation, self._log_probs(train + validation, self._by_model))
        if self.state["weight"]:
            self._sharpen(train, validation, watch)
        return history

    def _sharpen(self, train, validation, watch):
        """Trains on for fewer word errors in the lists of the training part, and keeps that where the validation part gains."""
        before = self.model.get_weights(), self.evaluate(validation)["wer"]
        rows = max(self.settings.batch_size // 8, 1)
        lists = self._list_batches(train).shuffle(len(train), seed=self.settings.seed).repeat().batch(rows)
        self.fit_on(
            lists,
            self._list_batches(validation).batch(rows),
            Watch(watch.console),
            steps=-(-self.settings.steps // 10),
            evaluations=min(self.settings.evaluations, 5),
            learning_rate=self.settings.learning_rate / 10,
            loss_fn=expected_errors,
            label="sharpening",
        )
        if self.evaluate(validation)["wer"] >= before[1]:
            self.model.set_weights(before[0])

    def _list_batches(self, rows):
        """Returns a `tf.data.Dataset` of lists: inputs, targets, weights [N, T], and offsets and word edits, float [N]."""
        lists = [hypotheses_of(row) for row in rows]
        weight, bonus = self.state["weight"], self.state["bonus"]
        offsets = _table([one["log_scores"] for one in lists]) / weight + bonus * _words(lists)
        edits = np.maximum(_table([[guess["word_edits"] for guess in row["hypotheses"]] for row in rows]), 0)
        documents, _ = self.documents([{"text": text} for one in lists for text in one["texts"]])
        documents = [document[: self.settings.sequence_length + 1] for document in documents]
        ids = np.zeros([*offsets.shape, max(map(len, documents))], np.int32)
        counts, documents = np.zeros(ids.shape, np.float32), iter(documents)
        for row, one in enumerate(lists):
            for column in range(len(one["texts"])):
                document = next(documents)
                ids[row, column, : len(document)] = document
                counts[row, column, : len(document)] = 1
        parts = ids[..., :-1], ids[..., 1:], counts[..., 1:], offsets.astype(np.float32), edits.astype(np.float32)
        return tf.data.Dataset.from_tensor_slices(parts)

    def inputs(self, rows):
        return [hypotheses_of(row) for row in rows]

    def references(self, rows, metric):
        return [row["reference"] for row in rows]

    def metrics(self):
        return [WordErrorRate()]

    def outputs(self, rows):
        return self.predict(self.inputs(rows))

    def predict(self, inputs):
        """Chooses texts.

        Args:
            inputs: list of dicts of `texts`, list of str, and `log_scores`, list of float, the recogniser's; at least one each.

        Returns:
            list of str.
        """
        self._check_fitted()
        return rescore(inputs, self._log_probs(inputs, self._by_model), **self.state)

    def baseline(self, train, validation):
        self._check_fitted()
        documents, _ = self.documents(self.texts)
        held_out, weights = self.documents(validation)
        model = choose_kneser_ney(documents, held_out, self.tokenizer.vocab_size, self.orders, weights)
        lists = train + validation
        chosen = choose_weights(lists, self._log_probs(lists, model.log_probs))

        def outputs(rows):
            return rescore(self.inputs(rows), self._log_probs(rows, model.log_probs), **chosen)

        return Baseline(f"Kneser-Ney, {model.order}-grams", outputs, model)

    def others(self, rows):
        best = [min(row["hypotheses"], key=lambda guess: guess["word_edits"])["text"] for row in rows]
        return {"first pass": [row["first_pass"] for row in rows], "oracle": best}

    def example(self, row, output, baseline_output):
        return {
            "input": row["first_pass"],
            "reference": row["reference"],
            "prediction": output,
            "baseline": baseline_output,
        }

    def export(self, path, *, force=False):
        """Writes a SavedModel with the signature `rescore`: texts string [N] and log_scores float32 [N] to a text, string []."""
        self._check_fitted()
        check_free(path, force)
        model, tokenizer, weights = self.model, self.tokenizer, dict(self.state)
        module = tf.Module()
        module.model_weights = [weight.value for weight in model.weights]
        module.tokenizer = tokenizer

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.float32)], autograph=False
        )
        def rescore_texts(texts, log_scores):
            rows = tokenizer.encode(tf.strings.join(["\n", texts, "\n"]))
            lengths = tf.cast(rows.row_lengths(), tf.int32)
            log_probs = tf.reduce_sum(score_ids(model, rows.to_tensor(), lengths), 1)
            words = tf.cast(tf.strings.split(texts).row_lengths(), tf.float32)
            total = log_scores + weights["weight"] * (log_probs + weights["bonus"] * words)
            return {"text": texts[tf.argmax(total)]}

        module.rescore = rescore_texts
        with files.whole_folder(path) as partial:
            tf.saved_model.save(module, str(partial), signatures={"rescore": rescore_texts})

    def ask(self, served, inputs):
        asked = [
            served.rescore(tf.constant(one["texts"]), tf.constant(one["log_scores"], tf.float32)) for one in inputs
        ]
        return [found["text"].numpy().decode() for found in asked]

    def _by_model(self, documents):
        return document_log_probs(self.model, documents, self.settings.sequence_length)

    def _log_probs(self, inputs, score):
        """Returns list of float [N], the log-probability of each hypothesis; the same text is scored once."""
        lists = [one["texts"] if "texts" in one else hypotheses_of(one)["texts"] for one in inputs]
        different = list(dict.fromkeys(text for texts in lists for text in texts))
        documents, _ = self.documents([{"text": text} for text in different])
        total = {text: float(terms.sum()) for text, terms in zip(different, score(documents), strict=True)}
        return [np.array([total[text] for text in texts]) for texts in lists]


def expected_errors(model, batch, training=True):
    """Returns the totals of minimum word-error training: the errors of each list, each hypothesis as likely as the scores say.

    Args:
        model: a `LanguageModel`.
        batch: (inputs int32 [B, N, T], targets, weights float32 [B, N, T], offsets float32 [B, N], in nats beside the model's
            log-probability, word edits float32 [B, N]).
        training: bool.

    Source: Prabhavalkar et al. 2018, Minimum Word Error Rate Training, arXiv:1712.01818, equation 3.
    """
    inputs, targets, weights, offsets, edits = batch
    size = tf.shape(inputs)
    logits = model(tf.reshape(inputs, [-1, size[2]]), training=training)
    shares = tf.nn.log_softmax(logits)
    terms = tf.reshape(tf.gather(shares, tf.reshape(targets, [-1, size[2]]), batch_dims=2), size)
    log_probs = tf.reduce_sum(terms * weights, 2)
    risk = tf.reduce_sum(tf.nn.softmax(log_probs + offsets) * edits, 1)
    return {"loss": (tf.reduce_sum(risk), tf.cast(size[0], tf.float32))}


def plain_sentences(text):
    """Returns list of str, the sentences of a text as a recogniser writes them: small letters, no punctuation.

    Example:
        >>> plain_sentences("It's late. Go home, Mr Bell!")
        ["it's late", 'go home mr bell']
    """
    sentences = re.split(r"[.!?;:]+(?=\s|$)", text.replace("’", "'").lower())
    plain = (" ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", sentence)) for sentence in sentences)
    return [sentence for sentence in plain if sentence]


def hypotheses_of(row):
    """Returns dict of `texts` and `log_scores` of a row; what the recogniser gave no score has the lowest of its list."""
    texts = [guess["text"] for guess in row["hypotheses"]]
    scores = np.array([guess["log_score"] for guess in row["hypotheses"]], np.float64)
    lowest = np.nanmin(scores) if np.isfinite(scores).any() else 0.0
    return {"texts": texts, "log_scores": np.where(np.isnan(scores), lowest, scores).tolist()}


def rescore(inputs, log_probs, weight, bonus):
    """Returns list of str, the hypotheses of the highest `log_score + weight * (log_prob + bonus * words)`."""
    totals = _table([one["log_scores"] for one in inputs]) + weight * (_table(log_probs) + bonus * _words(inputs))
    return [one["texts"][at] for one, at in zip(inputs, totals.argmax(1), strict=True)]


def choose_weights(rows, log_probs):
    """Chooses the weight of a language model and the bonus for a word by the word errors of lists.

    Args:
        rows: list of dicts with `hypotheses`.
        log_probs: list of float [N], nats, of the hypotheses.

    Returns:
        dict of float `weight` and `bonus`; among equals the smallest weight.
    """
    lists = [hypotheses_of(row) for row in rows]
    scores, terms, words = _table([one["log_scores"] for one in lists]), _table(log_probs), _words(lists)
    edits = _table([[guess["word_edits"] for guess in row["hypotheses"]] for row in rows])

    def errors(weight, bonus):
        chosen = (scores + weight * (terms + bonus * words)).argmax(1)
        return edits[np.arange(len(edits)), chosen].sum()

    pairs = [(weight, bonus) for weight in _WEIGHTS for bonus in (_BONUSES if weight else (0.0,))]
    weight, bonus = min(pairs, key=lambda pair: errors(*pair))
    return {"weight": weight, "bonus": bonus}


def _words(inputs):
    return _table([[len(text.split()) for text in one["texts"]] for one in inputs])


def _table(lists):
    """Returns float64 [B, N] of lists of numbers; what a shorter list lacks is so low that it is never chosen."""
    table = np.full([len(lists), max(map(len, lists))], -1e9)
    for row, values in zip(table, lists, strict=True):
        row[: len(values)] = values
    return table
