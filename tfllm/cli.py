"""The command line: `tfllm train`, `generate`, `evaluate`, `export` and `demo`.

Bad input ends with one sentence and exit code 2, without a traceback.
"""

import functools
import os
import pathlib
import sys
import time
from typing import Annotated

import tensorflow as tf
import typer
from rich.console import Console

from tfllm.data import corpus_names, load_text, split_text
from tfllm.evaluation import evaluate_text
from tfllm.export import check_free as check_export
from tfllm.export import save as save_export
from tfllm.generation import TextGenerator
from tfllm.runs import TrainingSettings, check_free, describe_scores, load_run, train_run
from tfllm.startup import quiet_start

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Language models in Keras on TensorFlow: train, generate, evaluate, export.",
)
console = Console()
_DEFAULTS = TrainingSettings()

Force = Annotated[bool, typer.Option("--force", help="Replace what stands there.")]
RunFolder = Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="A folder that `tfllm train` made.")]


def _plain_errors(command):
    """Turns bad input into one sentence and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except BrokenPipeError as error:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from error
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print("stopped", file=sys.stderr)
            raise typer.Exit(130) from error

    return wrapped


def _say(text):
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
@_plain_errors
def train(
    source: Annotated[str, typer.Argument(help=f"One of {', '.join(corpus_names())}, or a text file or folder.")],
    out: Annotated[pathlib.Path, typer.Option(help="The run folder to make.")],
    model: Annotated[str, typer.Option(help="transformer, lstm, gru or rnn.")] = _DEFAULTS.model,
    dim: Annotated[int, typer.Option(help="Size of the model's vectors.")] = _DEFAULTS.dim,
    num_layers: Annotated[int, typer.Option(help="Layers.")] = _DEFAULTS.num_layers,
    num_heads: Annotated[int, typer.Option(help="Attention heads (transformer).")] = _DEFAULTS.num_heads,
    dropout: Annotated[float, typer.Option(help="Share of features left out in training.")] = _DEFAULTS.dropout,
    dtype: Annotated[str, typer.Option(help="float32, mixed_bfloat16 or mixed_float16.")] = _DEFAULTS.dtype,
    tokenizer: Annotated[str, typer.Option(help="char or bpe.")] = _DEFAULTS.tokenizer,
    vocab_size: Annotated[int, typer.Option(help="Vocabulary (bpe).")] = _DEFAULTS.vocab_size,
    sequence_length: Annotated[
        int, typer.Option(help="Tokens that a model looks back on.")
    ] = _DEFAULTS.sequence_length,
    batch_size: Annotated[int, typer.Option(help="Sequences in a batch.")] = _DEFAULTS.batch_size,
    steps: Annotated[int, typer.Option(help="Optimization steps.")] = _DEFAULTS.steps,
    learning_rate: Annotated[float, typer.Option(help="Highest rate.")] = _DEFAULTS.learning_rate,
    validation: Annotated[float, typer.Option(help="Share of the text to validate on.")] = _DEFAULTS.validation,
    evaluations: Annotated[int, typer.Option(help="Evaluations on the way.")] = _DEFAULTS.evaluations,
    patience: Annotated[int, typer.Option(help="End after so many evaluations without progress; 0: never.")] = 0,
    prompt: Annotated[str, typer.Option(help="Beginning of the samples.")] = "",
    seed: Annotated[int, typer.Option(help="Decides weights, batches and samples.")] = _DEFAULTS.seed,
    force: Force = False,
):
    """Train a model on a text and leave a run folder: weights, tokenizer, history, curves, samples."""
    settings = TrainingSettings(
        model=model,
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        dropout=dropout,
        dtype=dtype,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        sequence_length=sequence_length,
        batch_size=batch_size,
        steps=steps,
        learning_rate=learning_rate,
        validation=validation,
        evaluations=evaluations,
        patience=patience,
        prompt=prompt,
        seed=seed,
    )
    train_run(source, out, settings, force=force, console=console)
    _say(f"run folder: {out}")


@app.command()
@_plain_errors
def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(help="Longest continuation.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that sum to this.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides the draws.")] = 0,
):
    """Continue a text, shown as it is decoded."""
    loaded = load_run(run)
    pieces = TextGenerator(loaded.model, loaded.tokenizer).stream(
        prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


@app.command()
@_plain_errors
def evaluate(
    run: RunFolder,
    source: Annotated[str, typer.Option(help="Another text to score, all of it; else the run's validation part.")] = "",
):
    """Score a run: loss, perplexity, accuracy and bits a character."""
    loaded = load_run(run)
    if source:
        text = load_text(source)
    else:
        _, text = split_text(load_text(loaded.training["source"]), loaded.training["validation"])
    began = time.perf_counter()
    scores = evaluate_text(loaded.model, loaded.tokenizer, text, loaded.training["sequence_length"])
    _say(f"{describe_scores(scores)} in {time.perf_counter() - began:.1f} s")


@app.command()
@_plain_errors
def export(
    run: RunFolder, path: Annotated[pathlib.Path, typer.Argument(help="The folder to make.")], force: Force = False
):
    """Write a SavedModel that takes and returns strings and needs only TensorFlow."""
    check_export(path, force)
    loaded = load_run(run)
    save_export(TextGenerator(loaded.model, loaded.tokenizer), path, force=force)
    _say(f"SavedModel: {path}")


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
    serve = tf.saved_model.load(str(exported)).signatures["serving_default"]
    prompts = ["To be", "ROMEO:"]
    settings = {"max_new_tokens": 160, "temperature": 0.8, "top_k": 0, "top_p": 0.95, "seed": 1}
    texts = serve(prompts=tf.constant(prompts), **{name: tf.constant(value) for name, value in settings.items()})[
        "text"
    ]
    for prompt, text in zip(prompts, texts.numpy(), strict=True):
        console.rule()
        console.print(prompt, style="bold", end="", markup=False, highlight=False)
        console.print(text.decode(), markup=False, highlight=False)


def main():
    """Runs the command line."""
    with quiet_start():
        tf.config.list_logical_devices()  # TensorFlow says here that there is no GPU
    app()
