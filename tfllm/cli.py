"""The command line: `tfllm train`, `generate`, `evaluate`, `compare`, `forecast`, `doctor`, `export`, `task` and others.

Bad input ends with one sentence and exit code 2, without a traceback.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time
from typing import Annotated

import tensorflow as tf
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tfllm.data import corpus_names, load_text, open_shards, tokenize_files
from tfllm.embeddings import FastText, Word2Vec, plain_sentences
from tfllm.embeddings.formats import choose_format
from tfllm.embeddings.vocabulary import check_word, read_corpus
from tfllm.export import check_free as check_export
from tfllm.export import save as save_export
from tfllm.export import save_litert, save_onnx
from tfllm.generation import STRATEGIES, TextGenerator, TokenAutomaton
from tfllm.interop import is_checkpoint, load_checkpoint
from tfllm.runs import (
    TrainingSettings,
    check_free,
    compare_runs,
    describe_scores,
    draw_forecast,
    evaluate_run,
    forecast_runs,
    load_run,
    run_workers,
    save_forecast,
    train_run,
)
from tfllm.runs import doctor as examine
from tfllm.startup import quiet_start
from tfllm.tasks import TASKS, run_task
from tfllm.text import load_tokenizer
from tfllm.training import OPTIMIZERS, SCHEDULES, read_workers

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Language models in Keras on TensorFlow: train, generate, evaluate, export.",
)
data_app = typer.Typer(no_args_is_help=True, help="Texts into shards of ids.")
app.add_typer(data_app, name="data")
console = Console()
_DEFAULTS = TrainingSettings()

Force = Annotated[bool, typer.Option("--force", help="Replace what stands there.")]
RunFolder = Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="A folder that `tfllm train` made.")]
Model = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="RUN", help="A folder that `tfllm train` made, a Hugging Face checkpoint, a .gguf file, or smollm2."
    ),
]


def _panel(title):
    """Makes a function of help, and for a flag its name, that makes an option shown under a title."""
    return lambda help, *names: typer.Option(*names, help=help, rich_help_panel=title)


_of_model, _of_text = _panel("Model"), _panel("Text")
_of_steps, _of_run = _panel("Optimization"), _panel("On the way")


def _plain_errors(command):
    """Turns bad input into one sentence and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except BrokenPipeError as error:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from error
        except tf.errors.UnavailableError as error:  # of a sum that several workers make
            print("error: another worker has left, without which this one cannot go on", file=sys.stderr)
            raise typer.Exit(1) from error
        except (ValueError, OSError, ImportError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print(": ".join(["stopped", *map(str, error.args)]), file=sys.stderr)
            raise typer.Exit(130) from error

    return wrapped


def _load(run):
    """Returns (model, tokenizer) of a run folder or a checkpoint."""
    if is_checkpoint(run):
        return load_checkpoint(run)
    loaded = load_run(run)
    return loaded.model, loaded.tokenizer


def _say(text):
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
@_plain_errors
def train(
    source: Annotated[str, typer.Argument(help=f"One of {', '.join(corpus_names())}, or a text file or folder.")],
    out: Annotated[pathlib.Path, typer.Option(help="The run folder to make, or to finish.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace another run that stands there, or a finished one.")
    ] = False,
    model: Annotated[str, _of_model("transformer, lstm, gru or rnn.")] = _DEFAULTS.model,
    dim: Annotated[int, _of_model("Size of the model's vectors.")] = _DEFAULTS.dim,
    num_layers: Annotated[int, _of_model("Layers.")] = _DEFAULTS.num_layers,
    num_heads: Annotated[int, _of_model("Attention heads (transformer).")] = _DEFAULTS.num_heads,
    dropout: Annotated[float, _of_model("Share of features left out in training.")] = _DEFAULTS.dropout,
    dtype: Annotated[str, _of_model("float32, mixed_bfloat16 or mixed_float16.")] = _DEFAULTS.dtype,
    remat: Annotated[bool, _of_model("Compute blocks twice to save memory (transformer).", "--remat")] = False,
    tokenizer: Annotated[str, _of_text("char or bpe.")] = _DEFAULTS.tokenizer,
    vocab_size: Annotated[int, _of_text("Vocabulary (bpe).")] = _DEFAULTS.vocab_size,
    validation: Annotated[float, _of_text("Share of the text to validate on.")] = _DEFAULTS.validation,
    sequence_length: Annotated[int, _of_text("Tokens that a model looks back on.")] = _DEFAULTS.sequence_length,
    batch_size: Annotated[int, _of_text("Sequences in a batch.")] = _DEFAULTS.batch_size,
    steps: Annotated[int, _of_steps("Optimization steps, at most.")] = _DEFAULTS.steps,
    patience: Annotated[int, _of_steps("End after so many evaluations without progress; 0: never.")] = 0,
    min_delta: Annotated[float, _of_steps("Progress is a validation loss lower by this share.")] = _DEFAULTS.min_delta,
    optimizer: Annotated[str, _of_steps(f"{', '.join(OPTIMIZERS[:-1])} or {OPTIMIZERS[-1]}.")] = _DEFAULTS.optimizer,
    lookahead: Annotated[bool, _of_steps("Go only half the way after the optimizer.", "--lookahead")] = False,
    learning_rate: Annotated[float, _of_steps("Highest rate.")] = _DEFAULTS.learning_rate,
    schedule: Annotated[str, _of_steps(f"{', '.join(SCHEDULES[:-1])} or {SCHEDULES[-1]}.")] = _DEFAULTS.schedule,
    warmup_steps: Annotated[int | None, _of_steps("Steps until the highest rate; else chosen by the schedule.")] = None,
    decay_steps: Annotated[int | None, _of_steps("Steps of the decay (wsd); else a fifth.")] = None,
    final_rate: Annotated[float, _of_steps("Lowest rate, as a share (cosine, linear, wsd).")] = _DEFAULTS.final_rate,
    plateau_patience: Annotated[
        int, _of_steps("Halve the rate after so many evaluations without progress (plateau).")
    ] = _DEFAULTS.plateau_patience,
    weight_decay: Annotated[float | None, _of_steps("Weight decay; else 0.1 for adamw, 0 for others.")] = None,
    clip_norm: Annotated[float, _of_steps("Longest gradient; 0: any.")] = _DEFAULTS.clip_norm,
    accumulate: Annotated[
        int, _of_steps("Parts of a batch, one after another, to save memory.")
    ] = _DEFAULTS.accumulate,
    label_smoothing: Annotated[float, _of_steps("Probability spread over all tokens.")] = _DEFAULTS.label_smoothing,
    z_loss: Annotated[float, _of_steps("Weight of the squared log of the softmax's denominator.")] = _DEFAULTS.z_loss,
    chunk_tokens: Annotated[
        int, _of_steps("Tokens whose logits are computed at a time; 0: all.")
    ] = _DEFAULTS.chunk_tokens,
    average: Annotated[float, _of_steps("Decay of the weights' average to keep; 0: the last weights.")] = 0.0,
    evaluations: Annotated[int, _of_run("Evaluations on the way.")] = _DEFAULTS.evaluations,
    prompt: Annotated[str, _of_run("Beginning of the samples.")] = "",
    checkpoint_every: Annotated[int, _of_run("Steps between two checkpoints; 0: at every evaluation.")] = 0,
    keep_checkpoints: Annotated[int, _of_run("Checkpoints to keep until the end.")] = _DEFAULTS.keep_checkpoints,
    workers: Annotated[int, _of_run("Processes on this machine that share every batch.")] = 1,
    max_restarts: Annotated[int, _of_run("How often workers start again because one died.")] = 3,
    seed: Annotated[int, _of_run("Decides weights, batches and samples.")] = _DEFAULTS.seed,
):
    """Train a model on a text and leave a run folder: weights, tokenizer, history, curves, samples.

    The same command again finishes a run that was cut off, as if it had not been.
    Where TF_CONFIG names the workers of several machines, each runs this command with the same arguments and folder.
    """
    given = dict(locals())
    settings = TrainingSettings(**{field.name: given[field.name] for field in dataclasses.fields(TrainingSettings)})
    for option, value, least in (("--workers", workers, 1), ("--max-restarts", max_restarts, 0)):
        if value < least:
            raise ValueError(f"{option} must be at least {least}; got {value}")
    if workers != 1 and not read_workers().addresses:
        if workers > batch_size:
            raise ValueError(f"--workers must be at most batch_size={batch_size}, the rows to share; got {workers}")
        raise typer.Exit(
            run_workers([sys.executable, "-m", "tfllm", *sys.argv[1:]], workers, max_restarts=max_restarts)
        )
    if train_run(source, out, settings, force=force, console=console) is not None:
        _say(f"run folder: {out}")


@app.command()
@_plain_errors
def generate(
    run: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that sum to this.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the likeliest one.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: less of what was there.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be repeated.")] = None,
    regex: Annotated[str, typer.Option(help="A regular expression that the answer must match.")] = "",
    strategy: Annotated[str, typer.Option(help=f"One of {', '.join(STRATEGIES)}.")] = "sample",
    seed: Annotated[int, typer.Option(help="Decides the draws.")] = 0,
):
    """Continue a text, shown as it is decoded where the strategy decides token by token."""
    generator = TextGenerator(*_load(run))
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    settings |= {"min_p": min_p, "repetition_penalty": repetition_penalty, "stop": stop or None, "seed": seed}
    if regex:
        settings["automaton"] = TokenAutomaton.from_regex(regex, generator.tokenizer)
    if strategy == "greedy":
        settings["temperature"] = 0.0
    if strategy in ("sample", "greedy"):
        pieces = generator.stream(prompt, strategy=strategy, **settings)
    else:
        pieces = [generator.generate(prompt, strategy=strategy, **settings)]
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
@_plain_errors
def evaluate(
    run: Annotated[
        pathlib.Path, typer.Argument(metavar="RUN", help="A folder that `tfllm train` or `tfllm task` made.")
    ],
    source: Annotated[str, typer.Option(help="Another text to score, all of it; else the run's validation part.")] = "",
    samples: Annotated[int, typer.Option(help="Texts to write for the report; 0 for none.")] = 8,
):
    """Score a run and write its report: figures with intervals, pictures, samples. Of a task's run, the page of its examples."""
    scores = evaluate_run(run, source, samples=samples)
    if "loss" in scores:
        _say(f"{describe_scores(scores)} in {scores['seconds']:.1f} s")
    _say(f"report: {scores['report']}")


@app.command()
@_plain_errors
def compare(
    runs: Annotated[
        list[pathlib.Path],
        typer.Argument(metavar="RUN RUN...", help="Folders of `tfllm train`, or of one `tfllm task`."),
    ],
    source: Annotated[
        str, typer.Option(help="The text for language models; else what all have kept for validation.")
    ] = "",
    draws: Annotated[int, typer.Option(help="Draws of the paired test.")] = 1000,
):
    """Put runs side by side and test whether they differ from the first one by more than chance."""
    _say(str(compare_runs(runs, source, samples=draws)))


@app.command()
@_plain_errors
def forecast(
    runs: Annotated[
        list[pathlib.Path],
        typer.Argument(
            metavar="RUN...", help="The run to forecast, and others of the same model and data to learn from."
        ),
    ],
    until: Annotated[int | None, typer.Option(help="Steps of the first run that the law may see; else all.")] = None,
    steps: Annotated[int | None, typer.Option(help="Forecast a run of so many steps instead.")] = None,
    law: Annotated[str, typer.Option(help="multi_power or momentum.")] = "multi_power",
    interval: Annotated[float, typer.Option(help="Probability of the interval.")] = 0.9,
    out: Annotated[pathlib.Path | None, typer.Option(help="The picture; else forecast.png in the first run.")] = None,
    force: Force = False,
):
    """Forecast the validation loss of a run's later steps, or of a longer run, and draw it with its interval."""
    picture = out or runs[0] / "forecast.png"
    if out is not None:
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"out must be the path of a file in a folder that exists; got {str(out)!r}")
        if out.exists() and not force:
            raise FileExistsError(f"out must be free unless force is given; got {str(out)!r}")
    found = forecast_runs(runs, until=until, steps=steps, law=law, interval=interval)
    save_forecast(draw_forecast(found), picture)
    _say(f"{found}\npicture: {picture}")


@app.command()
@_plain_errors
def doctor(
    run: Annotated[
        pathlib.Path | None,
        typer.Argument(
            metavar="RUN", help="A run folder, a .keras file or a checkpoint, to judge the fast paths for it."
        ),
    ] = None,
    measure: Annotated[bool, typer.Option(help="Time memory and matrix products, about a second.")] = True,
):
    """Say which device, libraries and precisions there are, which fast paths apply, and why not the others."""
    report = examine(_load(run)[0] if run is not None and is_checkpoint(run) else run, measure=measure)
    _say(str(report))
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
@_plain_errors
def export(
    run: Model,
    path: Annotated[pathlib.Path, typer.Argument(help="The folder to make, or a .tflite or .onnx file.")],
    force: Force = False,
    xla: Annotated[
        bool, typer.Option("--xla", help="Decode by XLA: faster on CPUs, compiles for seconds at first.")
    ] = False,
):
    """Write a SavedModel that takes and returns strings and needs only TensorFlow; or the forward pass as LiteRT or ONNX."""
    save_forward = {".tflite": save_litert, ".onnx": save_onnx}.get(path.suffix)
    if save_forward:
        if xla:
            raise ValueError(f"path must be a SavedModel's folder for --xla; got {path}")
        save_forward(_load(run)[0], path, force=force)
        _say(f"forward pass: {path}")
        return
    check_export(path, force)
    save_export(TextGenerator(*_load(run)), path, force=force, jit_compile=xla)
    _say(f"SavedModel: {path}")


@app.command()
@_plain_errors
def neighbours(
    source: Annotated[str, typer.Argument(help=f"One of {', '.join(corpus_names())}, or a text file or folder.")],
    words: Annotated[list[str], typer.Argument(metavar="WORD...", help="The words whose neighbours are shown.")],
    model: Annotated[str, typer.Option(help="skip-gram, cbow or fasttext.")] = "skip-gram",
    count: Annotated[int, typer.Option(help="Neighbours of each word.")] = 8,
    dim: Annotated[int, typer.Option(help="Size of a vector.")] = 100,
    window: Annotated[int, typer.Option(help="The farthest distance of two words of a pair.")] = 5,
    min_count: Annotated[int, typer.Option(help="Words that occur less often are left out.")] = 20,
    epochs: Annotated[int, typer.Option(help="Passes over the text.")] = 20,
    chinese: Annotated[str, typer.Option(help="characters, or jieba for its words.")] = "characters",
    seed: Annotated[int, typer.Option(help="Decides everything.")] = 0,
    out: Annotated[pathlib.Path | None, typer.Option(help="Keep the vectors: .txt, .bin or .npz.")] = None,
    force: Force = False,
):
    """Learn word vectors from a text and show the nearest neighbours of words."""
    if model not in ("skip-gram", "cbow", "fasttext"):
        raise ValueError(f"model must be skip-gram, cbow or fasttext; got {model!r}")
    settings = {"dim": dim, "window": window, "min_count": min_count, "epochs": epochs, "seed": seed}
    trainer = FastText(**settings) if model == "fasttext" else Word2Vec(model, **settings)
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    if out is not None:
        choose_format(out)
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"out must be the path of a file in a folder that exists; got {str(out)!r}")
        if out.exists() and not force:
            raise FileExistsError(f"out must be free unless force is given; got {str(out)!r}")
    sentences = plain_sentences(load_text(source), chinese)
    words = [word.lower() for word in words]
    if model != "fasttext":  # which has vectors of unknown words
        known = dict.fromkeys(read_corpus(sentences, min_count).words)
        for word in words:  # before the training, not after it
            check_word(word, known)
    vectors = trainer.train(sentences, console=console)
    for word in words:
        found = ", ".join(f"{name} {cosine:.2f}" for name, cosine in vectors.most_similar(word, count))
        _say(f"{word}: {found}")
    if out is not None:
        vectors.save(out)
        _say(f"vectors: {out}")


@app.command()
@_plain_errors
def demo(
    out: Annotated[pathlib.Path, typer.Option(help="The folder to make.")] = pathlib.Path("tfllm-demo"),
    steps: Annotated[int, typer.Option(help="Optimization steps.")] = 1200,
    force: Force = False,
):
    """Train a small Transformer on Shakespeare, export it, and generate from the export."""
    run, exported = out / "run", out / "saved_model"
    check_free(run, force)
    check_export(exported, force)
    train_run("shakespeare", run, TrainingSettings(steps=steps, prompt="ROMEO:"), force=force, console=console)
    _say(f"curves: {run / 'curves.png'}")
    loaded = load_run(run)
    save_export(TextGenerator(loaded.model, loaded.tokenizer), exported, force=force)
    _say(f"SavedModel: {exported}\n\nFrom the SavedModel, loaded with TensorFlow alone:")
    served, prompts = tf.saved_model.load(str(exported)), ["To be", "ROMEO:"]
    texts = served.generate(prompts, max_new_tokens=160, temperature=0.8, top_p=0.95, seed=1)["text"]
    for prompt, text in zip(prompts, texts.numpy(), strict=True):
        console.rule()
        console.print(prompt, style="bold", end="", markup=False, highlight=False)
        console.print(text.decode(), markup=False, highlight=False)


@app.command()
@_plain_errors
def task(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    out: Annotated[pathlib.Path | None, typer.Option(help="The run folder to make; else tfllm-NAME.")] = None,
    data: Annotated[str, typer.Option(help="Another data set of the task.")] = "",
    steps: Annotated[int | None, typer.Option(help="Optimization steps; else the task's.")] = None,
    dim: Annotated[int | None, typer.Option(help="Size of the model's vectors; else the task's.")] = None,
    limit: Annotated[int, typer.Option(help="Rows of each split to use, to try things out; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides weights, batches and draws.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeat with so many seeds, from --seed on.")] = 1,
    force: Force = False,
):
    """Run an application on real data beside its baseline: train, score with intervals, report, export, and a sample.

    The run folder has a report, scores, examples, pictures, a model card and a SavedModel. The same command again goes on in an
    unfinished folder.
    """
    if name not in TASKS:
        raise ValueError(f"name must be one of {', '.join(TASKS)}; got {name!r}")
    given = {"limit": limit, "seed": seed, "steps": steps, "dim": dim}
    given = {option: value for option, value in given.items() if value is not None}
    settings = dataclasses.replace(TASKS[name].usual(data), **given)
    folder = out or pathlib.Path(f"tfllm-{name}")
    run_task(TASKS[name](settings), folder, force=force, seeds=seeds, console=console)
    _say(f"run folder: {folder}")


@data_app.command()
@_plain_errors
def tokenize(
    files: Annotated[
        list[pathlib.Path], typer.Argument(metavar="FILES", help="Text or JSONL files, or folders of them.")
    ],
    out: Annotated[pathlib.Path, typer.Option(help="The folder of shards to make, or to finish.")],
    tokenizer: Annotated[pathlib.Path | None, typer.Option(help="The tokenizer.json to encode with.")] = None,
    format: Annotated[str, typer.Option(help="raw, tfrecord or arrayrecord.")] = "raw",
    shard_tokens: Annotated[int, typer.Option(help="Ids in a shard, a multiple of 256.")] = 100_000_000,
    field: Annotated[str, typer.Option(help="The entry of a JSON object that holds its text.")] = "text",
    force: Force = False,
):
    """Encode text files of any size into shards of ids; a run that was interrupted goes on where it was."""
    if tokenizer is None:
        raise ValueError(
            "--tokenizer must name a tokenizer.json, such as the one of a run folder or of Tokenizer.save; got none"
        )
    loaded = load_tokenizer(tokenizer)
    began = time.perf_counter()
    with Progress(
        TextColumn("tokenizing"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %  {task.fields[speed]} "),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        task, start = bar.add_task("", total=None, speed="reading files"), {}

        def show(state):
            if not start:  # the first call says where this run begins
                start.update(state, seconds=time.perf_counter())
            seconds = max(time.perf_counter() - start["seconds"], 1e-9)
            megabytes, tokens = (state["bytes"] - start["bytes"]) / 1e6, state["tokens"] - start["tokens"]
            bar.update(
                task,
                total=state["total_bytes"],
                completed=state["bytes"],
                speed=f"{megabytes / seconds:.1f} MB/s  {tokens / seconds:,.0f} tokens/s",
            )

        shards = tokenize_files(
            files, loaded, out, format=format, shard_tokens=shard_tokens, field=field, force=force, progress=show
        )
    _say(f"{_describe_shards(shards)}, {time.perf_counter() - began:.1f} s")


@data_app.command()
@_plain_errors
def verify(folder: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="A folder of shards.")]):
    """Read every shard and compare its SHA-256 with the manifest."""
    _say(f"{_describe_shards(open_shards(folder, verify=True))}: unchanged")


def _describe_shards(shards):
    manifest = shards.manifest
    return (
        f"{shards.folder}: {shards.num_tokens:,} tokens of {manifest['documents']:,} documents in "
        f"{len(manifest['shards']):,} {manifest['format']} shards"
    )


def main():
    """Runs the command line."""
    with quiet_start():
        if not os.environ.get("TF_CONFIG"):  # with it, `make_strategy` must come first
            tf.config.list_logical_devices()  # TensorFlow says here that there is no GPU
    app()
