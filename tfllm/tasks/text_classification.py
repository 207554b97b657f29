"""What tasks that give texts labels share: an encoder that first fills in hidden words, a head on it, and TF-IDF to beat."""

from tfllm.data import classification_dataset, masked_language_model, text_dataset
from tfllm.evaluation import F1, Accuracy, confusion_matrix, draw_confusion
from tfllm.export import make_predictor, run_predictor, save_predictor
from tfllm.models import TextClassifier
from tfllm.tasks.baselines import fit_tfidf, majority
from tfllm.tasks.ngram_encoder import NGramEncoder
from tfllm.tasks.task import Baseline, Task
from tfllm.tasks.training import Watch, fit_model
from tfllm.text import WordPieceTokenizer


class TextClassificationTask(Task):
    """A task whose rows have a `text` and a `label`.

    Attributes:
        pretraining: float, steps in which the encoder learns to fill in hidden words before it sees a label, as a share of
            `settings.steps`.
        max_ngram: int, see `NGramEncoder`.
        token_dropout: float, see there.
        label_smoothing: float, see `TextClassifier`.
    """

    jit_compile = False  # batches have several shapes
    pretraining = 0.0
    max_ngram, token_dropout, label_smoothing = 3, 0.2, 0.1

    def unlabelled(self, train):
        """Returns list of str, the texts to fill in hidden words of."""
        return [row["text"] for row in train]

    def examples(self, rows):
        """Returns list of (text, label) to train on."""
        return [(row["text"], row["label"]) for row in rows]

    def learn(self, train):
        self.tokenizer = WordPieceTokenizer.train(self.unlabelled(train), vocab_size=self.settings.vocab_size)
        labels = [row["label"] for row in train]
        self.state = {"labels": sorted(set(labels)), "majority": majority(labels)}

    def make_model(self):
        settings = self.settings
        backbone = NGramEncoder(
            self.tokenizer.vocab_size,
            max_length=settings.sequence_length,
            dim=settings.dim,
            num_layers=settings.num_layers,
            num_heads=settings.num_heads,
            max_ngram=self.max_ngram,
            dropout=settings.dropout,
            token_dropout=self.token_dropout,
        )
        return TextClassifier(
            backbone,
            len(self.state["labels"]),
            pooling="mean",
            dropout=settings.dropout,
            label_smoothing=self.label_smoothing,
        )

    def batches(self, rows, training):
        examples = self.examples(rows) if training else [(row["text"], row["label"]) for row in rows]
        unknown = sorted({label for _, label in examples} - set(self.state["labels"]))
        if unknown:
            raise ValueError(f"label must be one of {self.state['labels']}, seen in training; got {unknown[0]!r}")
        options = {"seed": self.settings.seed, "epochs": None} if training else {"shuffle": False}
        return classification_dataset(
            [text for text, _ in examples],
            [label for _, label in examples],
            self.tokenizer,
            label_names=self.state["labels"],
            max_length=self.settings.sequence_length,
            add_special_tokens=False,
            batch_size=self.settings.batch_size,
            **options,
        )

    def train(self, train, validation, watch):
        steps = round(self.pretraining * self.settings.steps)
        if steps:
            self._fill_in(train, validation, steps, watch)
        batches = self.batches(train, True), self.batches(validation, False)
        return self.fit_on(*batches, watch, monitor="val_accuracy")

    def _fill_in(self, train, validation, steps, watch):
        """Trains the backbone as a masked language model."""

        def batches(texts, **options):
            rows = text_dataset(
                texts,
                self.tokenizer,
                max_length=self.settings.sequence_length,
                add_special_tokens=False,
                batch_size=self.settings.batch_size,
                **options,
            )
            return masked_language_model(rows, self.tokenizer, mask_id=self.tokenizer.id_of("[MASK]"))

        fit_model(
            self.model.backbone,
            batches(self.unlabelled(train), seed=self.settings.seed, epochs=None),
            batches([row["text"] for row in validation], shuffle=False),
            steps=steps,
            evaluations=min(self.settings.evaluations, 4),
            learning_rate=self.settings.learning_rate,
            label="filling in hidden words",
            watch=Watch(watch.console),
        )

    def inputs(self, rows):
        return [row["text"] for row in rows]

    def references(self, rows, metric):
        return [row["label"] for row in rows]

    def metrics(self):
        return [Accuracy(), F1(average="macro")]

    def _options(self):
        options = {"max_length": self.settings.sequence_length, "add_special_tokens": False}
        return options | {"labels": self.state["labels"]}

    def predict(self, inputs):
        """Returns list of str, a label for each of a list of texts."""
        self._check_fitted()
        classify = make_predictor(self.model, self.tokenizer, **self._options())["classify"]
        return [found["label"] for found in run_predictor(classify, list(inputs))]

    def baseline(self, train, validation):
        parts = ([row[name] for row in rows] for rows in (train, validation) for name in ("text", "label"))
        label = fit_tfidf(*parts, seed=self.settings.seed)
        return Baseline("TF-IDF + logistic regression", lambda rows: label([row["text"] for row in rows]))

    def others(self, rows):
        return {"majority": [self.state["majority"]] * len(rows)}

    def pictures(self, rows, outputs):
        counts, labels = confusion_matrix([row["label"] for row in rows], outputs, self.state["labels"])
        return {"confusion.png": draw_confusion(counts, labels)}

    def export(self, path, *, force=False):
        """Writes a SavedModel with the signature `classify`, see `tfllm.export.save_predictor`."""
        self._check_fitted()
        save_predictor(self.model, self.tokenizer, path, force=force, **self._options())

    def ask(self, served, inputs):
        return [label.decode() for label in served.classify(list(inputs))["label"].numpy()]
