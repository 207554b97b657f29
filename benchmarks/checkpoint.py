"""What saving costs training: steps a second without checkpoints, with them, and with a wait for each, timed in turn.

    python benchmarks/checkpoint.py [--layers N] [--dim N] [--steps N] [--rounds N] [--folder FOLDER]

One checkpoint falls into every unit of `--steps` steps. The first row is the one that the ratios are taken against.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

from duel import race, serve

FORMS = ("no checkpoints", "saved beside training", "saved and waited for")
CONTEXT, BATCH = 64, 12


def work(form, arguments):
    import tfllm
    from tfllm.training import Checkpoints, make_adamw, make_train_step

    text = tfllm.load_text("shakespeare")
    tokenizer = tfllm.CharTokenizer.train(text)
    model = tfllm.TransformerLM(tokenizer.vocab_size, CONTEXT, arguments.dim, arguments.layers, 4)
    optimizer = make_adamw(model, 2000)
    train_step = make_train_step(model, optimizer, jit_compile=True)
    batches = iter(tfllm.data.lm_dataset(text, tokenizer, CONTEXT, BATCH, epochs=None))
    place = tempfile.TemporaryDirectory(dir=arguments.folder)
    done = [0]

    with place, Checkpoints(place.name, model=model, optimizer=optimizer, keep=1) as checkpoints:
        checkpoints.restore()

        def step():
            float(train_step(next(batches))["loss"])
            done[0] += 1

        def save():
            """Returns the seconds that a save holds the loop, and those until it is on the disk."""
            began = time.perf_counter()
            checkpoints.save(done[0])
            held = time.perf_counter() - began
            checkpoints.wait()
            return held, time.perf_counter() - began

        def unit():
            for number in range(arguments.steps):
                step()
                if number == arguments.steps // 2 and form == FORMS[1]:
                    checkpoints.save(done[0])
                elif number == arguments.steps // 2 and form == FORMS[2]:
                    save()

        step()
        held, whole = (statistics.median(seconds) for seconds in zip(*[save() for _ in range(5)], strict=True))
        size = sum(path.stat().st_size for path in pathlib.Path(place.name).rglob("*") if path.is_file())
        serve(unit, tokens=arguments.steps, held=held, whole=whole, megabytes=size / 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--folder", help="where checkpoints are written; a temporary folder otherwise")
    parser.add_argument("--work", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments)
        return
    results = race(
        {form: [sys.executable, str(pathlib.Path(__file__)), *sys.argv[1:], "--work", form] for form in FORMS},
        rounds=arguments.rounds,
    )
    first = results[FORMS[0]]["tokens_per_second"]
    print("| | steps a second, median | lowest to highest | ratio |\n|---|---|---|---|")
    for name, row in results.items():
        low, high = row["spread"]
        rate = row["tokens_per_second"]
        print(f"| {name} | {rate:,.1f} | {low:,.1f} to {high:,.1f} | {rate / first:.3f} |")
    row = results[FORMS[0]]
    print(
        f"A checkpoint of {row['megabytes']:.1f} MB holds the loop {1000 * row['held']:.1f} ms and is on the disk after "
        f"{1000 * row['whole']:.1f} ms."
    )


if __name__ == "__main__":
    main()
