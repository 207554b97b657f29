"""The peers of `generation.py`, each run by a Python that has it; they read the weights that `generation.py` made.

generation_peers.py FOLDER prepare                    writes the weights in the peers' formats: needs torch, transformers
                                                      and, for their formats, ctranslate2 and gguf
generation_peers.py FOLDER lengths                    prints how KerasHub takes shapes that change, as JSON
generation_peers.py FOLDER serve PROGRAM BATCH IDS    serves timed units of `duel.py`; the ids go to the file IDS
"""

import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
from duel import serve

NEW = 128


def main():
    folder, job = pathlib.Path(sys.argv[1]), sys.argv[2]
    sizes = json.loads((folder / "sizes.json").read_text())
    if job == "prepare":
        prepare(folder, sizes)
        return
    if job == "lengths":
        keras_hub_lengths(folder, sizes)
        return
    program, batch, found = sys.argv[3], int(sys.argv[4]), pathlib.Path(sys.argv[5])
    prompts = np.load(folder / "prompts.npy")[:batch]
    generate = PROGRAMS[program](folder, sizes, prompts)

    def unit():
        ids[0] = generate()

    ids = [None]
    serve(unit, tokens=batch * NEW)
    np.save(found, np.asarray(ids[0], np.int32))  # after the last unit


def report_calls(folder, call, traces):
    """Prints JSON: calls, traces and milliseconds for ten batch sizes, ten lengths and a chat whose prompt grows.

    Args:
        folder: path with the prompts.
        call: function of int32 [B, P], prompts that get 16 new tokens.
        traces: function that says how many programs were traced so far.
    """
    prompts = np.resize(np.load(folder / "prompts.npy"), [10, 128])
    shapes = {
        "ten batch sizes": [(rows, 32) for rows in range(1, 11)],
        "ten prompt lengths": [(1, length) for length in range(12, 102, 9)],
        "chat, 20 turns": [(1, 7 + 6 * turn) for turn in range(20)],
    }
    found = {}
    for name, calls in shapes.items():
        before, times = traces(), []
        for rows, length in calls * 2:
            began = time.perf_counter()
            call(prompts[:rows, :length])
            times.append(1e3 * (time.perf_counter() - began))
        first, again = times[: len(calls)], times[len(calls) :]
        found[name] = {"calls": len(calls), "traces": traces() - before, "median_ms": statistics.median(first)}
        found[name] |= {"longest_ms": max(first), "again_ms": statistics.median(again)}
    print(json.dumps(found))


def prepare(folder, sizes):
    weights = None
    if (folder / "weights.npz").exists():
        weights = dict(np.load(folder / "weights.npz"))
        write_huggingface(folder, sizes, weights)
    for write in (write_ctranslate2, write_gguf):
        try:
            write(folder, sizes, weights)
        except (ImportError, ValueError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)
    (folder / "prepared").touch()


def write_huggingface(folder, sizes, weights):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=sizes["num_layers"],
        n_head=sizes["num_heads"],
        n_embd=sizes["dim"],
        vocab_size=sizes["vocab_size"],
        n_positions=sizes["max_length"],
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    model.load_state_dict({f"transformer.{k}": torch.tensor(v) for k, v in weights.items()}, strict=False)
    model.save_pretrained(folder / "huggingface")
    tokens = [f"t{i}" for i in range(sizes["vocab_size"])]
    (folder / "huggingface/vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "huggingface/merges.txt").write_text("#version: 0.2\n")
    names = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "t0", "eos_token": "t0", "unk_token": "t0"}
    (folder / "huggingface/tokenizer_config.json").write_text(json.dumps(names))


def write_ctranslate2(folder, sizes, weights):
    import ctranslate2

    converter = ctranslate2.converters.TransformersConverter(str(folder / "huggingface"))
    converter.convert(str(folder / "ctranslate2"), force=True)
    path, words = folder / "ctranslate2/config.json", json.loads((folder / "ctranslate2/vocabulary.json").read_text())
    settings = json.loads(path.read_text())  # it refuses special tokens that are not set, and none of them is used
    path.write_text(json.dumps({name: words[0] if value is None else value for name, value in settings.items()}))


def write_gguf(folder, sizes, weights):
    import gguf

    if weights is None:
        widen_gguf(folder)
        return
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), "gpt2")
    writer.add_block_count(sizes["num_layers"])
    writer.add_context_length(sizes["max_length"])
    writer.add_embedding_length(sizes["dim"])
    writer.add_feed_forward_length(4 * sizes["dim"])
    writer.add_head_count(sizes["num_heads"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(sizes["vocab_size"])
    writer.add_tokenizer_model("none")
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
    names |= {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    names |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    for key, value in weights.items():
        where, what = key.rsplit(".", 1)
        if where.startswith("h."):
            _, layer, part = where.split(".", 2)
            name = f"blk.{layer}.{names[part]}"
            value = value.T if value.ndim == 2 else value
        else:
            name = names[where]
        writer.add_tensor(f"{name}.{what}", np.ascontiguousarray(value))
    writer.add_tensor("output.weight", weights["wte.weight"])
    finish_gguf(writer)


def finish_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def widen_gguf(folder):
    """Writes the pretrained model's own file with all its tensors in float32."""
    import gguf

    reader = gguf.GGUFReader(str(folder / "shipped.gguf"))
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), reader.fields["general.architecture"].contents())
    kept = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
    for name, field in reader.fields.items():
        if not name.startswith(kept):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values.reshape(tensor.shape[::-1])))
    finish_gguf(writer)


def transformers(mode, folder, sizes, prompts):
    import torch
    from transformers import AutoModelForCausalLM, CompileConfig

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder / "huggingface", dtype=torch.float32).eval()
    ids = torch.tensor(prompts).long()
    settings = {
        "do_sample": False,
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    settings["attention_mask"] = torch.ones_like(ids)
    if mode == "compile":
        compiling = CompileConfig(fullgraph=False, mode="default", dynamic=False)
        compiling._compile_all_devices = True  # it would not compile for processors otherwise
        settings |= {"cache_implementation": "static", "compile_config": compiling}

    def generate():
        with torch.inference_mode():
            return model.generate(ids, **settings)[:, prompts.shape[1] :].numpy()

    return generate


def ctranslate2(folder, sizes, prompts):
    import ctranslate2

    model = ctranslate2.Generator(
        str(folder / "ctranslate2"), device="cpu", compute_type="float32", intra_threads=2, inter_threads=1
    )
    names = [f"t{i}" for i in range(sizes["vocab_size"])]
    if (folder / "huggingface/tokenizer.json").exists():
        words = json.loads((folder / "huggingface/tokenizer.json").read_text())
        words = words["model"]["vocab"] | {token["content"]: token["id"] for token in words["added_tokens"]}
        names = sorted(words, key=words.get)
    tokens = [[names[i] for i in row] for row in prompts]
    settings = {"max_length": NEW, "min_length": NEW, "sampling_topk": 1, "beam_size": 1, "end_token": []}
    return lambda: [
        row.sequences_ids[0] for row in model.generate_batch(tokens, include_prompt_in_result=False, **settings)
    ]


def llama_cpp(cache_type, folder, sizes, prompts):
    import llama_cpp as llama

    batch, length = prompts.shape
    llama.llama_backend_init()
    options = llama.llama_model_default_params()
    options.use_mmap = False
    model = llama.llama_model_load_from_file(str(folder / "model.gguf").encode(), options)
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 256 * batch, length * batch, 512
    options.n_threads = options.n_threads_batch = 2
    options.n_seq_max, options.no_perf = batch, True
    options.type_k = options.type_v = cache_type
    if cache_type == 0:
        options.flash_attn_type = 0  # it would round them to 16 bits
    context = llama.llama_init_from_model(model, options)
    memory = llama.llama_get_memory(context)
    whole, single = llama.llama_batch_init(length * batch, 0, 1), llama.llama_batch_init(batch, 0, 1)

    def read(space, tokens, first):
        """Reads int [B, T] from position `first` on and returns the likeliest next token of every row."""
        rows, times = tokens.shape
        for at, (row, place) in enumerate(np.ndindex(rows, times)):
            space.token[at], space.pos[at], space.logits[at] = (
                int(tokens[row, place]),
                first + place,
                int(place == times - 1),
            )
            space.n_seq_id[at], space.seq_id[at][0] = 1, row
        space.n_tokens = tokens.size
        if llama.llama_decode(context, space):
            raise RuntimeError("llama_decode failed")
        ends = [row * times + times - 1 for row in range(rows)]
        shape = (sizes["vocab_size"],)
        return [int(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, end), shape).argmax()) for end in ends]

    def generate():
        llama.llama_memory_clear(memory, True)
        found = [read(whole, prompts, 0)]
        while len(found) < NEW:
            found.append(read(single, np.array(found[-1])[:, None], length + len(found) - 1))
        return np.array(found).T

    return generate


def keras_hub_model(folder, sizes, jit):
    """Returns KerasHub's GPT-2 with these weights, compiled for greedy decoding."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras_hub

    weights, dim, heads = np.load(folder / "weights.npz"), sizes["dim"], sizes["num_heads"]
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=sizes["vocab_size"],
        num_layers=sizes["num_layers"],
        num_heads=heads,
        hidden_dim=dim,
        intermediate_dim=4 * dim,
        dropout=0.0,
        max_sequence_length=sizes["max_length"],
    )
    backbone.get_layer("token_embedding").embeddings.assign(weights["wte.weight"])
    backbone.get_layer("position_embedding").position_embeddings.assign(weights["wpe.weight"])
    backbone.get_layer("layer_norm").set_weights([weights["ln_f.weight"], weights["ln_f.bias"]])
    for i in range(sizes["num_layers"]):

        def pair(name, i=i):
            return [weights[f"h.{i}.{name}.weight"], weights[f"h.{i}.{name}.bias"]]

        layer = backbone.get_layer(f"transformer_layer_{i}")
        attention = layer._self_attention_layer
        parts = zip(*(np.split(value, 3, axis=-1) for value in pair("attn.c_attn")), strict=True)
        for dense, (kernel, bias) in zip(
            (attention._query_dense, attention._key_dense, attention._value_dense), parts, strict=True
        ):
            dense.set_weights([kernel.reshape(dim, heads, -1), bias.reshape(heads, -1)])
        kernel, bias = pair("attn.c_proj")
        attention._output_dense.set_weights([kernel.reshape(heads, -1, dim), bias])
        layer._self_attention_layer_norm.set_weights(pair("ln_1"))
        layer._feedforward_layer_norm.set_weights(pair("ln_2"))
        layer._feedforward_intermediate_dense.set_weights(pair("mlp.c_fc"))
        layer._feedforward_output_dense.set_weights(pair("mlp.c_proj"))
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy", jit_compile=jit)
    return model


def keras_hub_call(model, prompts, new):
    room = [[0, 0], [0, new]]
    inputs = {"token_ids": np.pad(prompts, room), "padding_mask": np.pad(np.ones_like(prompts), room)}
    return np.asarray(model.generate(inputs, stop_token_ids=None)["token_ids"])[:, prompts.shape[1] :]


def keras_hub(jit, folder, sizes, prompts):
    model = keras_hub_model(folder, sizes, jit)
    return lambda: keras_hub_call(model, prompts, NEW)


def keras_hub_lengths(folder, sizes):
    model, traced = keras_hub_model(folder, sizes, False), []
    step = model.generate_step

    def counted(*inputs, **options):
        traced.append(1)
        return step(*inputs, **options)

    model.generate_step = counted
    report_calls(folder, lambda ids: keras_hub_call(model, ids, 16), lambda: len(traced))


PROGRAMS = {
    "keras_hub": lambda *a: keras_hub(False, *a),
    "keras_hub_xla": lambda *a: keras_hub(True, *a),
    "transformers": lambda *a: transformers("eager", *a),
    "transformers_compile": lambda *a: transformers("compile", *a),
    "ctranslate2": ctranslate2,
    "llama_cpp": lambda *a: llama_cpp(1, *a),  # GGML_TYPE_F16, its default
    "llama_cpp_float32": lambda *a: llama_cpp(0, *a),
}

if __name__ == "__main__":
    main()
