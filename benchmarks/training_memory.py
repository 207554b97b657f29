"""Peak resident memory of training GPT-2 124M at 2 x 256 tokens: plain, with chunked cross-entropy, with remat, with both.

    python benchmarks/training_memory.py [--rows N] [--time N] [--num-layers N] [--vocab-size N] [--jit-compile] [--json FILE]

Each form is a process of its own that runs two optimizer steps in float32 on random ids. The last column is what the form
saves of what the plain one needs beyond weights, gradients and AdamW's two slots, which no form changes.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time

FORMS = {
    "plain": {},
    "chunked loss": {"chunk_tokens": 64},
    "remat": {"remat": True},
    "chunked loss and remat": {"chunk_tokens": 64, "remat": True},
}
STEPS = 2


def work(arguments):
    import numpy as np
    import tensorflow as tf

    import tfllm

    form = dict(FORMS[arguments.work])
    model = tfllm.TransformerLM(
        arguments.vocab_size, 1024, 768, arguments.num_layers, 12, use_bias=True, remat=form.pop("remat", False)
    )
    step = tfllm.training.make_train_step(
        model,
        tfllm.training.make_adamw(model, 2000),
        tfllm.training.make_lm_loss(**form),
        jit_compile=arguments.jit_compile,
    )
    shape = (arguments.rows, arguments.time + 1)
    ids = np.random.default_rng(0).integers(0, arguments.vocab_size, shape).astype(np.int32)
    batch = tf.constant(ids[:, :-1]), tf.constant(ids[:, 1:])
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        loss = float(step(batch)["loss"])
        seconds.append(time.perf_counter() - began)
    weights = sum(weight.value.shape.num_elements() for weight in model.trainable_weights) * 4
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"peak_bytes": peak, "kept_bytes": 4 * weights, "loss": loss, "step_seconds": min(seconds)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--time", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--jit-compile", action="store_true")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--work", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments)
        return
    results = {}
    for form in FORMS:
        output = subprocess.run(
            [sys.executable, *sys.argv, "--work", form], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        ).stdout
        results[form] = json.loads(output.splitlines()[-1])
    plain = results["plain"]["peak_bytes"] - results["plain"]["kept_bytes"]
    print("| form | peak, MB | saved of the rest | fastest step, seconds | loss |\n|---|---|---|---|---|")
    for form, row in results.items():
        saved = (results["plain"]["peak_bytes"] - row["peak_bytes"]) / plain
        print(
            f"| {form} | {row['peak_bytes'] / 1e6:,.0f} | {saved:.0%} | {row['step_seconds']:.2f} | {row['loss']:.4f} |"
        )
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
