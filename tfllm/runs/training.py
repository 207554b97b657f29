"""The main job: a text becomes a trained model in a run folder, with progress, samples and curves on the way."""

import csv
import dataclasses
import io
import math
import pathlib
import time

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tfllm import files
from tfllm.data import corpus_names, lm_dataset, load_text, split_text
from tfllm.evaluation import evaluate_text
from tfllm.generation import TextGenerator
from tfllm.models import RecurrentLM, TransformerLM
from tfllm.runs import folder
from tfllm.runs.curves import draw_curves
from tfllm.text import BPETokenizer, CharTokenizer
from tfllm.training import make_adamw

MODELS = ("transformer", "lstm", "gru", "rnn")
TOKENIZERS = ("char", "bpe")
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
_INTERIM_TOKENS = (
    16_384  # about so many targets, spread over the validation part, are scored on the way; all in the end
)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What `train_run` does; the defaults train a small Transformer on characters.

    Attributes:
        model: "transformer", "lstm", "gru" or "rnn".
        dim, num_layers: int, size of the model.
        num_heads: int, for the Transformer.
        dropout: float in [0, 1).
        dtype: "float32", "mixed_bfloat16" or "mixed_float16".
        tokenizer: "char" or "bpe".
        vocab_size: int, for "bpe".
        sequence_length: int, tokens a model looks back on in training.
        batch_size: int, sequences in a batch.
        steps: int, optimization steps.
        learning_rate: float, after warm-up; decays to a tenth by a cosine.
        validation: float in (0, 1), share of the text, from its end, that is kept for validation.
        evaluations: int, how often validation loss, sample and curves are taken on the way.
        patience: int, evaluations without a better validation loss after which training ends; 0 for never.
        prompt: str, beginning of the samples; empty takes the first line of the validation part.
        seed: int, decides weights, batches, dropout and samples.
    """

    model: str = "transformer"
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.0
    dtype: str = "float32"
    tokenizer: str = "char"
    vocab_size: int = 4096
    sequence_length: int = 64
    batch_size: int = 16
    steps: int = 1500
    learning_rate: float = 2e-3
    validation: float = 0.1
    evaluations: int = 10
    patience: int = 0
    prompt: str = ""
    seed: int = 1337

    def __post_init__(self):
        for name, choices in (("model", MODELS), ("tokenizer", TOKENIZERS), ("dtype", DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}; got {getattr(self, name)!r}")
        least = {"dim": 1, "num_layers": 1, "num_heads": 1, "sequence_length": 2, "batch_size": 1, "steps": 1}
        for name, bound in (least | {"evaluations": 1, "patience": 0, "vocab_size": 1, "seed": 0}).items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be at least {bound}; got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2**31; got {self.seed}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0; got {self.learning_rate}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must lie in (0, 1); got {self.validation}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {self.dropout}")


def train_run(source, out, settings=None, *, force=False, console=None):
    """Trains a language model on a text and leaves a run folder.

    Args:
        source: str or path, as `data.load_text` takes it.
        out: str or path of the run folder, which must be free.
        settings: `TrainingSettings`, None for the defaults.
        force: bool, whether a run that stands at `out` may be replaced.
        console: a `rich.console.Console` to show progress on; None for one on standard output.

    Returns:
        dict, what `evaluate_text` gives for the best weights on the whole validation part.

    Raises:
        ValueError: on a bad source or setting.
        FileExistsError: when `out` is taken.
    """
    settings, console = settings or TrainingSettings(), console or Console()
    folder.check_free(out, force)
    text = load_text(source)
    keras.utils.set_random_seed(settings.seed)
    train_text, validation_text = split_text(text, settings.validation)
    tokenizer = make_tokenizer(text, train_text, settings)
    train, validation, tokens = _make_batches(train_text, validation_text, tokenizer, settings)
    model = make_model(tokenizer.vocab_size, settings)
    interval = _compile(model, settings)
    lines = (validation_text.strip() or text.strip()).split("\n")
    prompt = settings.prompt or lines[0][: max(min(settings.sequence_length // 3, 32), 1)]
    generator = TextGenerator(model, tokenizer)
    generator.generate(prompt, max_new_tokens=1)  # a bad prompt is refused before anything is written

    name = str(source) if str(source) in corpus_names() else str(pathlib.Path(source).resolve())
    path = folder.create_run(out, model, tokenizer, {"source": name, **dataclasses.asdict(settings)}, force=force)
    console.print(
        f"{len(text):,} characters, {tokens:,} tokens to train on, {tokenizer.vocab_size:,} in the vocabulary; "
        f"{type(model).__name__} with {folder.parameter_count(model):,} weights",
        highlight=False,
    )
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s "),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        recorder = RunRecorder(path, generator, prompt, settings, progress)
        callbacks = [recorder, keras.callbacks.TerminateOnNaN()]
        if settings.patience:
            callbacks.append(keras.callbacks.EarlyStopping(monitor="val_loss", patience=settings.patience))
        diverged = f"learning_rate must leave the loss finite; got {settings.learning_rate}, which did not"
        try:
            model.fit(
                train,
                steps_per_epoch=interval,
                epochs=-(-settings.steps // interval),  # the recorder ends the last one where `steps` are done
                validation_data=validation,
                callbacks=callbacks,
                verbose=0,
            )
        except FloatingPointError as error:
            raise ValueError(diverged) from error
    if recorder.best == float("inf"):
        raise ValueError(diverged)
    model.load_weights(path / folder.WEIGHTS)
    scores = evaluate_text(model, tokenizer, validation_text, settings.sequence_length)
    console.print(f"best weights on the whole validation part: {describe_scores(scores)}", highlight=False)
    return scores


def _make_batches(train_text, validation_text, tokenizer, settings):
    """Returns (endless training batches, batches of a part of the validation text, tokens to train on)."""
    length, rows = settings.sequence_length, settings.batch_size
    train_ids, validation_ids = (tokenizer.encode(text).numpy() for text in (train_text, validation_text))
    share = settings.validation
    for part, ids in ((f"first {1 - share:.1%}", train_ids), (f"last {share:.1%}, for validation", validation_ids)):
        if len(ids) <= length:
            raise ValueError(
                f"source must hold more than sequence_length={length} tokens in its {part}; got {len(ids)}"
            )
    train = lm_dataset(train_ids, tokenizer, length, rows, seed=settings.seed).repeat()
    validation = lm_dataset(validation_ids, tokenizer, length, rows, shuffle=False)
    validation = validation.shard(max(len(validation_ids) // _INTERIM_TOKENS, 1), 0).cache()
    return train, validation, len(train_ids)


def _compile(model, settings):
    """Compiles the model and returns int, the steps between two evaluations."""
    interval = -(-settings.steps // settings.evaluations)
    at_once = next(count for count in (10, 5, 4, 2, 1) if settings.steps % count == interval % count == 0)
    model.compile(
        make_adamw(model, settings.steps, learning_rate=settings.learning_rate),
        jit_compile=settings.model == "transformer",  # XLA slows recurrent layers down and has no cuDNN ones
        steps_per_execution=at_once,
    )
    return interval


def describe_scores(scores):
    """Returns str, one line of what `evaluate_text` gave."""
    return (
        f"loss {scores['loss']:.4f} nats a token, perplexity {scores['perplexity']:.2f}, "
        f"accuracy {scores['accuracy']:.1%}, {scores['bits_per_character']:.3f} bits a character, "
        f"{scores['tokens']:,.0f} tokens"
    )


def make_tokenizer(text, train_text, settings):
    """Makes the tokenizer of a run: all the text's characters, or pairs learned from the training part alone."""
    if settings.tokenizer == "char":
        return CharTokenizer.train(text)
    return BPETokenizer.train(train_text, vocab_size=settings.vocab_size)


def make_model(vocab_size, settings):
    """Makes the untrained model of a run."""
    common = {
        "dim": settings.dim,
        "num_layers": settings.num_layers,
        "dropout": settings.dropout,
        "dtype": settings.dtype,
    }
    if settings.model == "transformer":
        return TransformerLM(
            vocab_size, max_length=settings.sequence_length, num_heads=settings.num_heads, positions="rotary", **common
        )
    return RecurrentLM(vocab_size, cell=settings.model, **common)


class RunRecorder(keras.callbacks.Callback):
    """Keeps a run folder up to date: best weights, history, curves and a sample after every evaluation."""

    def __init__(self, path, generator, prompt, settings, progress):
        super().__init__()
        self.path, self.generator, self.prompt, self.settings = path, generator, prompt, settings
        self.progress, self.step = progress, 0
        self.task = progress.add_task("training", total=settings.steps, loss="-", speed="-")
        self.rows, self.samples, self.best = [], [], float("inf")

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.last = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        # Keras calls this once for every `steps_per_execution` steps.
        done = batch + 1
        tokens = done * self.settings.batch_size * self.settings.sequence_length
        speed = tokens / (time.perf_counter() - self.began)
        self.step += done - self.last
        self.last, self.speed = done, speed
        self.progress.update(self.task, completed=self.step, loss=f"{logs['loss']:.3f}", speed=f"{speed:,.0f}")
        if self.step >= self.settings.steps:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["val_loss"]):
            return  # the logits are no numbers: there is nothing to draw a sample from
        step = self.step
        if logs["val_loss"] < self.best:
            self.best = logs["val_loss"]
            folder.save_weights(self.model, self.path)
        row = {"step": step} | {name: round(float(value), 6) for name, value in logs.items()}
        self.rows.append(
            row
            | {
                "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "tokens_per_second": round(self.speed, 1),
            }
        )
        sample = self.generator.generate(self.prompt, max_new_tokens=96, temperature=0.8, seed=self.settings.seed)
        self.samples.append(
            f"step {step}, loss {logs['loss']:.4f}, validation {logs['val_loss']:.4f}\n{self.prompt}{sample}\n"
        )
        self._write()
        line = Text(f"step {step:>6,}  loss {logs['loss']:.3f}  validation {logs['val_loss']:.3f}\n")
        line.append((self.prompt + sample).replace("\n", " ⏎ "), style="italic dim")
        self.progress.console.print(line)

    def _write(self):
        table = io.StringIO()
        writer = csv.DictWriter(table, self.rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_whole(self.path / folder.HISTORY, table.getvalue())
        files.write_whole(self.path / folder.SAMPLES, "\n".join(self.samples))
        history = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        folder.save_curves(draw_curves(history, title=f"{self.path.name}: {self.settings.model}"), self.path)
