"""The main job: a text becomes a trained model in a run folder, with progress, samples and curves on the way.

A run that was cut off goes on where it was when the same is asked of it again, and ends bit for bit as one that was not.
"""

import contextlib
import csv
import dataclasses
import hashlib
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
from tfllm.runs import folder
from tfllm.runs.settings import TrainingSettings, make_model, make_run_optimizer, make_run_schedule
from tfllm.startup import quiet_start
from tfllm.text import BPETokenizer, CharTokenizer, load_tokenizer
from tfllm.training import (
    Converged,
    ReduceOnPlateau,
    Resume,
    ValidateAverage,
    WeightAverage,
    learning_rates,
    make_lm_loss,
    make_strategy,
    workers_of,
)
from tfllm.training.checkpoint import list_steps
from tfllm.training.curves import draw_curves

_INTERIM_TOKENS = (
    16_384  # about so many targets, spread over the validation part, are scored on the way; all in the end
)


def train_run(source, out, settings=None, *, force=False, console=None):
    """Trains a language model on a text and leaves a run folder.

    A run that was cut off goes on from its last checkpoint when it is asked for again, and ends with the weights and the
    history (but for the speeds) that it would have had. On SIGTERM the running step is finished and saved. Where `TF_CONFIG`
    names several workers, each of which calls this, they share every batch; else the GPUs of this machine do.

    Args:
        source: str or path, as `data.load_text` takes it.
        out: str or path of the run folder, which must be free, or hold the same run, unfinished.
        settings: `TrainingSettings`, None for the defaults.
        force: bool, whether another run that stands at `out`, or a finished one, may be replaced; the same one, unfinished, goes
            on all the same.
        console: a `rich.console.Console` to show progress on; None for one on standard output.

    Returns:
        dict, what `evaluate_text` gives for the best weights on the whole validation part; None on workers that are not the
        chief, which alone writes.

    Raises:
        ValueError: on a bad source or setting, one that is not that of the unfinished run, or a loss that is not finite.
        FileExistsError: when `out` is taken, or another process trains in it.
        SystemExit: with code 143, after SIGTERM.
        KeyboardInterrupt: after Ctrl-C, with the step after which the same training goes on.
    """
    settings, console = settings or TrainingSettings(), console or Console()
    with quiet_start():  # several workers are the first to wake TensorFlow here, which then says that there is no GPU
        strategy = make_strategy()
    if not workers_of(strategy).is_chief:
        return _train(source, out, settings, force, Console(quiet=True), strategy, is_chief=False)
    with folder.locked(out):
        return _train(source, out, settings, force, console, strategy, is_chief=True)


def _train(source, out, settings, force, console, strategy, *, is_chief):
    """Does what `train_run` does, in one of its workers."""
    begun = folder.read_unfinished(out) if is_chief else None
    if begun is None and is_chief:
        folder.check_free(out, force)
    text = load_text(source)
    training = _describe(source, text, settings)
    difference = None if begun is None else _find_difference(begun, training, out)
    if difference and not force:
        raise ValueError(difference)
    if difference:
        begun = None
    keras.utils.set_random_seed(settings.seed)
    train_text, validation_text = split_text(text, settings.validation)
    if begun is None:
        tokenizer = make_tokenizer(text, train_text, settings)
    else:
        tokenizer = load_tokenizer(pathlib.Path(out) / folder.TOKENIZER)
    train, validation, tokens = _make_batches(train_text, validation_text, tokenizer, settings)
    with strategy.scope():
        model = make_model(tokenizer.vocab_size, settings)
        interval, rules = _compile(model, settings)
    lines = (validation_text.strip() or text.strip()).split("\n")
    prompt = settings.prompt or lines[0][: max(min(settings.sequence_length // 3, 32), 1)]
    generator = TextGenerator(model, tokenizer)
    generator.generate(prompt, max_new_tokens=1)  # a bad prompt is refused before anything is written

    path = pathlib.Path(out)
    if begun is None and is_chief:
        folder.create_run(path, model, tokenizer, training, force=force)
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
        recorder = RunRecorder(path if is_chief else None, generator, prompt, settings, progress)
        resume = Resume(
            path / folder.CHECKPOINTS,
            settings.checkpoint_every or None,
            keep=settings.keep_checkpoints,
            tokenizer=tokenizer,
            data_name=training["source_sha256"],
        )
        diverged = f"learning_rate must leave the loss finite; got {settings.learning_rate}, which did not"
        try:
            model.fit(
                train,
                steps_per_epoch=interval,
                epochs=-(-settings.steps // interval),  # the recorder ends the last one where `steps` are done
                validation_data=validation,
                callbacks=[*rules, recorder, resume],
                verbose=0,
            )
        except FloatingPointError as error:
            raise ValueError(diverged) from error
        except KeyboardInterrupt as error:
            steps = list_steps(path / folder.CHECKPOINTS)
            if not steps:
                raise
            raise KeyboardInterrupt(f"the same training goes on after step {steps[-1]:,}") from error
    if not is_chief:
        return None
    model.load_weights(path / folder.WEIGHTS)
    scores = evaluate_text(model, tokenizer, validation_text, settings.sequence_length)
    console.print(f"best weights on the whole validation part: {describe_scores(scores)}", highlight=False)
    folder.finish_run(path)
    return scores


def _describe(source, text, settings):
    """Returns dict of plain values that tell a training from others, for the run folder."""
    name = str(source) if str(source) in corpus_names() else str(pathlib.Path(source).resolve())
    return {
        "source": name,
        "source_sha256": hashlib.sha256(text.encode()).hexdigest(),
        **dataclasses.asdict(settings),
    }


def _find_difference(begun, training, out):
    """Returns str, why an unfinished run is not the one that is asked for, or None."""
    place = f"in the unfinished run {str(out)!r}, which force replaces"
    if begun.get("source_sha256") != training["source_sha256"]:
        return f"source must hold the text that it held {place}; got another text in {training['source']!r}"
    for name in training:
        if name != "source" and begun.get(name) != training[name]:
            return f"{name} must be {begun.get(name)!r} as {place}; got {training[name]!r}"
    return None


def _make_batches(train_text, validation_text, tokenizer, settings):
    """Returns (training batches, batches of a part of the validation text, tokens to train on)."""
    length, rows = settings.sequence_length, settings.batch_size
    train_ids, validation_ids = (tokenizer.encode(text).numpy() for text in (train_text, validation_text))
    share = settings.validation
    for part, ids in ((f"first {1 - share:.1%}", train_ids), (f"last {share:.1%}, for validation", validation_ids)):
        if len(ids) <= length:
            raise ValueError(
                f"source must hold more than sequence_length={length} tokens in its {part}; got {len(ids)}"
            )
    train = lm_dataset(train_ids, tokenizer, length, rows, seed=settings.seed)  # `Resume` repeats it
    validation = lm_dataset(validation_ids, tokenizer, length, rows, shuffle=False)
    validation = validation.shard(max(len(validation_ids) // _INTERIM_TOKENS, 1), 0).cache()
    return train, validation, len(train_ids)


def _compile(model, settings):
    """Compiles the model and returns (int, the steps between two evaluations; list of callbacks that rule the run)."""
    interval = -(-settings.steps // settings.evaluations)
    at_once = next(count for count in (10, 5, 4, 2, 1) if settings.steps % count == interval % count == 0)
    schedule = make_run_schedule(dataclasses.asdict(settings))
    average = None
    if settings.average:
        rates = learning_rates(getattr(schedule, "schedule", schedule), settings.steps)
        average = WeightAverage(model, settings.average, int(rates.argmax()))  # weights before are nothing to remember
    model.compile(
        make_run_optimizer(model, schedule, settings),
        make_lm_loss(settings.label_smoothing, settings.z_loss, settings.chunk_tokens or None),
        settings.clip_norm or None,
        accumulate=settings.accumulate,
        average=average,
        jit_compile=settings.model == "transformer",  # recurrent layers gain nothing from XLA, which has no cuDNN ones
        steps_per_execution=at_once,
    )
    rules = [] if average is None else [ValidateAverage(average)]
    if settings.schedule == "plateau":  # before the recorder, which writes down the rate of the step to come
        rules.append(ReduceOnPlateau(schedule, patience=settings.plateau_patience, min_delta=settings.min_delta))
    if settings.patience:
        rules.append(Converged(settings.patience, settings.min_delta))
    return interval, rules


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


class RunRecorder(keras.callbacks.Callback):
    """Keeps a run folder up to date: best weights, history, curves and a sample after every evaluation.

    Where the model has an average of its weights, weights and samples are those of the average. Without a path, it only counts.
    """

    def __init__(self, path, generator, prompt, settings, progress):
        super().__init__()
        self.path, self.generator, self.prompt, self.settings = path, generator, prompt, settings
        self.progress, self.step = progress, 0
        self.task = progress.add_task("training", total=settings.steps, loss="-", speed="-")
        self.rows, self.samples, self.best = [], [], float("inf")

    def get_state(self):
        """Returns what `Resume` keeps: all that was written down, and how far the epoch is."""
        seconds = time.perf_counter() - self.began
        names = ("step", "rows", "samples", "best", "last", "speed")
        return {name: getattr(self, name) for name in names} | {"seconds": seconds}

    def set_state(self, state):
        """Sets what `get_state` returned, and says so the first time."""
        if state["step"] != self.step:
            self.progress.console.print(f"goes on after step {state['step']:,}", highlight=False)
            self.progress.update(self.task, completed=state["step"])
        for name in state.keys() - {"seconds"}:
            setattr(self, name, state[name])
        self.began = time.perf_counter() - state["seconds"]  # the time between the two counts for nothing

    def on_train_begin(self, logs=None):
        self.began, self.last, self.speed = time.perf_counter(), 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.began, self.last = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        # Keras calls this once for every `steps_per_execution` steps.
        if not math.isfinite(logs["loss"]):  # before `Resume` saves what no longer is a model
            raise FloatingPointError("the loss is not finite")
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
            raise FloatingPointError("the validation loss is not finite")
        if self.path is None:
            self.best = min(self.best, logs["val_loss"])
            return  # the chief writes
        step, average = self.step, self.model.average
        with contextlib.nullcontext() if average is None else average.lent():
            if logs["val_loss"] < self.best:
                self.best = logs["val_loss"]
                folder.save_weights(self.model, self.path)
            sample = self.generator.generate(self.prompt, max_new_tokens=96, temperature=0.8, seed=self.settings.seed)
        row = {"step": step} | {name: round(float(value), 6) for name, value in logs.items()}
        self.rows.append(
            row
            | {
                "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "tokens_per_second": round(self.speed, 1),
            }
        )
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
