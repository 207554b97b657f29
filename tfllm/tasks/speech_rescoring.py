"""Speech-recognition rescoring: a language model chooses among what a recogniser may have heard.

    task      from 20 hypotheses with the recogniser's scores to the text that was said
    data      speech/pocketsphinx: 900 sentences of one book, synthetic speech, a real recogniser. The language model learns from
              other bundled texts, none of which is the book: Wikipedia, conversations and the World English Bible
    command   tfllm task speech_rescoring
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
        steps=1500, batch_size=32, learning_rate=2e-3, dim=128, num_layers=3, sequence_length=64, dropout=0.05
    )
    orders = (2, 3, 4)

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
        return history

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
