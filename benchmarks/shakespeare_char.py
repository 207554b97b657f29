"""Trains nanoGPT's CPU recipe on Tiny Shakespeare and scores the whole validation part.

    python benchmarks/shakespeare_char.py                                       # Transformer, LSTM, GRU of about equal size
    python benchmarks/shakespeare_char.py --nanogpt FOLDER --torch-python PYTHON  # and nanoGPT itself beside them

The recipe (README of karpathy/nanoGPT): 4 layers, 4 heads, 128 wide, context 64, batch 12, 2000 steps, no dropout, AdamW
1e-3 to 1e-4 by a cosine after 100 steps of warm-up, betas 0.9 and 0.99, weight decay 0.1 on matrices, gradients clipped at
1, one id a character, the first 90 % of the text to train on. Every model is scored by the same windows of 64 targets,
which cover the validation part once.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import keras
import numpy as np

import tfllm

CONTEXT, BATCH, STEPS = 64, 12, 2000
MODELS = {
    "transformer": lambda v: tfllm.TransformerLM(v, CONTEXT, 128, 4, 4),
    "transformer, rotary": lambda v: tfllm.TransformerLM(v, CONTEXT, 128, 4, 4, positions="rotary"),
    "lstm": lambda v: tfllm.RecurrentLM(v, "lstm", 308, 1),
    "gru": lambda v: tfllm.RecurrentLM(v, "gru", 354, 1),
}


def train_and_score(name, seed):
    text = tfllm.load_text("shakespeare")
    train_text, validation_text = tfllm.data.split_text(text)
    tokenizer = tfllm.CharTokenizer.train(text)
    keras.utils.set_random_seed(seed)
    model = MODELS[name](tokenizer.vocab_size)
    batches = tfllm.data.lm_dataset(train_text, tokenizer, CONTEXT, BATCH, seed=seed).repeat()
    model.compile(
        tfllm.training.make_adamw(model, STEPS), jit_compile=name.startswith("transformer"), steps_per_execution=10
    )
    model.fit(batches, steps_per_epoch=STEPS, verbose=0)
    validation = tfllm.data.lm_dataset(validation_text, tokenizer, CONTEXT, 64, shuffle=False)
    scores = tfllm.evaluation.evaluate_lm(model, validation, characters=len(validation_text))
    return {"parameters": model.count_params(), "loss": scores["loss"], "tokens": scores["tokens"]}


def run_nanogpt(folder, python, seed):
    text = tfllm.load_text("shakespeare")
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "input.txt"
        path.write_text(text, encoding="utf-8")
        worker = pathlib.Path(__file__).with_name("nanogpt_worker.py")
        command = [python, str(worker), folder, str(path), str(seed)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1337])
    parser.add_argument("--nanogpt", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--torch-python", help="a Python that has torch and numpy")
    arguments = parser.parse_args()
    jobs = [(name, lambda seed, name=name: train_and_score(name, seed)) for name in arguments.models]
    if arguments.nanogpt:
        jobs.append(("nanoGPT", lambda seed: run_nanogpt(arguments.nanogpt, arguments.torch_python, seed)))
    print("| model | parameters | validation loss, nats a character | seeds | targets scored |\n|---|---|---|---|---|")
    for name, job in jobs:
        rows = [job(seed) for seed in arguments.seeds]
        losses = [row["loss"] for row in rows]
        spread = f" ± {np.std(losses, ddof=1):.4f}" if len(losses) > 1 else ""
        print(
            f"| {name} | {rows[0]['parameters']:,} | {np.mean(losses):.4f}{spread} | {len(rows)} | {rows[0]['tokens']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
