"""Training tokens per second of nanoGPT's CPU recipe: tfllm in its forms, and nanoGPT, timed in turn.

    python benchmarks/training_speed.py --nanogpt FOLDER --torch-python PYTHON [--rounds N]

The first program of the table is the one that the ratios are taken against.
"""

import argparse
import pathlib
import sys
import tempfile

from duel import race, serve

FORMS = {
    "tfllm fit, XLA": ("fit", True),
    "tfllm fit, graph": ("fit", False),
    "tfllm own loop, XLA": ("loop", True),
}
CONTEXT, BATCH, STEPS = 64, 12, 40


def work(form):
    import tfllm

    way, jit = FORMS[form]
    text = tfllm.load_text("shakespeare")
    tokenizer = tfllm.CharTokenizer.train(text)
    model = tfllm.TransformerLM(tokenizer.vocab_size, CONTEXT, 128, 4, 4)
    batches = tfllm.data.lm_dataset(text, tokenizer, CONTEXT, BATCH).repeat()
    optimizer = tfllm.training.make_adamw(model, 2000)
    if way == "fit":
        model.compile(optimizer, jit_compile=jit, steps_per_execution=10)
        serve(lambda: model.fit(batches, steps_per_epoch=STEPS, verbose=0), tokens=STEPS * BATCH * CONTEXT)
        return
    step, iterator = tfllm.training.make_train_step(model, optimizer, jit_compile=jit), iter(batches)
    serve(lambda: float([step(next(iterator)) for _ in range(STEPS)][-1]["loss"]), tokens=STEPS * BATCH * CONTEXT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--torch-python", help="a Python that has torch and numpy")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    here = pathlib.Path(__file__)
    commands = {}
    with tempfile.TemporaryDirectory() as place:
        if arguments.nanogpt:
            import tfllm

            text = pathlib.Path(place) / "input.txt"
            text.write_text(tfllm.load_text("shakespeare"), encoding="utf-8")
            worker = [
                arguments.torch_python,
                str(here.with_name("nanogpt_worker.py")),
                arguments.nanogpt,
                "speed",
                str(text),
            ]
            commands |= {"nanoGPT, eager": [*worker, "eager"], "nanoGPT, compiled": [*worker, "compiled"]}
        commands |= {form: [sys.executable, str(here), "--work", form] for form in FORMS}
        results = race(commands, rounds=arguments.rounds)
    first = next(iter(results.values()))["tokens_per_second"]
    print("| program | tokens a second, median | lowest to highest | ratio |\n|---|---|---|---|")
    for name, row in results.items():
        low, high = row["spread"]
        print(
            f"| {name} | {row['tokens_per_second']:,.0f} | {low:,.0f} to {high:,.0f} | "
            f"{row['tokens_per_second'] / first:.2f} |"
        )


if __name__ == "__main__":
    main()
