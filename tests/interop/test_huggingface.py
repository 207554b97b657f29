"""Checkpoints in Hugging Face's layout: logits of `transformers`, round trips, and what is refused."""

import json
import pathlib
import random
import shutil
import struct

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from conftest import make_model

import tfllm
from tfllm.interop import load_huggingface, save_huggingface
from tfllm.interop.tensor_files import open_tensors

FIXTURES = pathlib.Path(__file__).parent / "fixtures"  # made by make_fixtures.py
NAMES = ("gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3")
_cache = {}


def loaded(name):
    """Returns a checkpoint of fixtures/, read once; tests must not change its weights."""
    if name not in _cache:
        _cache[name] = load_huggingface(FIXTURES / name)
    return _cache[name]


def expected(name):
    return np.load(FIXTURES / name / "expected.npz")


def tensors_of(folder):
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in safetensors.numpy.load_file(path).items()
    }


@pytest.fixture
def copied(tmp_path):
    """A function that copies a fixture, changes its config.json, and returns the folder."""

    def copy(name, **changes):
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


def rewrite(folder, change):
    """Changes the tensors of a checkpoint of one file with a function of their dict."""
    tensors = tensors_of(folder)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


# ---------------------------------------------------------------- the same answers


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    model, _ = loaded(name)
    answers = expected(name)
    np.testing.assert_allclose(model(answers["ids"])[:, ::3], answers["logits"], atol=5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids_are_those_of_transformers(name):
    model, tokenizer = loaded(name)
    answers = expected(name)
    ids = tokenizer.encode("the cat").numpy()
    logits, state = model.step(ids[None], model.initial_state(1, 40), last=True)
    found = []
    while len(found) < len(answers["greedy"]):
        found.append(int(tf.argmax(logits[0, 0])))
        logits, state = model.step(tf.constant([[found[-1]]]), state)
    assert found == answers["greedy"].tolist()
    assert tokenizer.decode(found).numpy().decode() == str(answers["text"])


def test_vocabularies_and_end_tokens():
    model, tokenizer = loaded("qwen2")
    assert (model.vocab_size, tokenizer.vocab_size, tokenizer.pattern) == (288, 270, "qwen2")
    ends = {"gpt2": 1, "llama": 1, "llama3": 1, "mistral": -1, "qwen2": 0, "qwen3": 1}
    assert {name: loaded(name)[1].end_id for name in NAMES} == ends


def test_the_generation_config_decides_the_end_token(copied):
    folder = copied("llama", eos_token_id=3)
    assert load_huggingface(folder)[1].end_id == 1
    (folder / "generation_config.json").unlink()
    assert load_huggingface(folder)[1].end_id == 3


def test_names_without_prefix_and_constants_of_old_files(copied):
    folder = copied("gpt2", architectures=["GPT2LMHeadModel"])

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.tri(64, dtype=np.uint8)
        tensors["lm_head.weight"] = tensors["wte.weight"]

    rewrite(folder, change)
    ids = expected("gpt2")["ids"]
    np.testing.assert_array_equal(load_huggingface(folder)[0](ids), loaded("gpt2")[0](ids))


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_bfloat16"])
def test_weights_of_16_bits(dtype):
    model, _ = load_huggingface(FIXTURES / "qwen3", dtype)
    assert model.dtype_policy.name == dtype
    for found, wanted in zip(model.weights, loaded("qwen3")[0].weights, strict=True):
        # The file is bfloat16, so nothing is lost.
        np.testing.assert_array_equal(tf.cast(found.value, tf.float32), wanted)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_was_read(name, tmp_path):
    model, tokenizer = loaded(name)
    save_huggingface(model, tokenizer, tmp_path / "new")
    before, after = tensors_of(FIXTURES / name), tensors_of(tmp_path / "new")
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(before[tensor].astype(np.float32), after[tensor])
    again, tokenizer_again = load_huggingface(tmp_path / "new")
    plain = {"name": "", "head_dim": None}  # which is written even where it follows from the rest
    assert again.get_config() | plain == model.get_config() | plain
    assert (tokenizer_again.tokens, tokenizer_again.end_id) == (tokenizer.tokens, tokenizer.end_id)
    for found, wanted in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_models_made_here(name, tokenizer, ids, tmp_path):
    model = make_model(name)
    save_huggingface(model, tokenizer, tmp_path / "new")
    np.testing.assert_allclose(load_huggingface(tmp_path / "new")[0](ids), model(ids), atol=1e-5)


def test_a_gpt2_without_biases_gets_zeros(tokenizer, ids, tmp_path):
    keras.utils.set_random_seed(0)
    model = tfllm.TransformerLM(17, 32, 16, 2, 4)
    save_huggingface(model, tokenizer, tmp_path / "new")
    np.testing.assert_allclose(load_huggingface(tmp_path / "new")[0](ids), model(ids), atol=1e-6)


def test_a_model_in_bfloat16_stays_so(tmp_path):
    model, tokenizer = load_huggingface(FIXTURES / "qwen3", "bfloat16")
    save_huggingface(model, tokenizer, tmp_path / "new")
    before, after = tensors_of(FIXTURES / "qwen3"), tensors_of(tmp_path / "new")
    assert {str(tensor.dtype) for tensor in after.values()} == {"bfloat16"}
    for name in before:
        np.testing.assert_array_equal(before[name].view(np.uint16), after[name].view(np.uint16))


def test_shards(tmp_path):
    model, tokenizer = loaded("llama3")
    save_huggingface(model, tokenizer, tmp_path / "new", max_shard_bytes=8000)
    files = sorted(tmp_path.glob("new/*.safetensors"))
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert len(files) > 2
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_of(tmp_path / "new").values())
    np.testing.assert_array_equal(load_huggingface(tmp_path / "new")[0].weights[0], model.weights[0])


def test_a_folder_that_stands_there_is_replaced_only_when_asked(tmp_path, monkeypatch):
    model, tokenizer = loaded("llama")
    folder = tmp_path / "new"
    save_huggingface(model, tokenizer, folder)
    with pytest.raises(FileExistsError, match=r"folder must be free unless force is given; got .* a checkpoint"):
        save_huggingface(model, tokenizer, folder)
    save_huggingface(loaded("gpt2")[0], tokenizer, folder, force=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    monkeypatch.setattr(type(tokenizer), "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_huggingface(model, tokenizer, folder, force=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "gpt2"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"folder must be free or a checkpoint .* something else"):
        save_huggingface(model, tokenizer, folder, force=True)


def test_models_that_no_type_describes(tokenizer, tmp_path):
    for name, layout in (("post-norm", "pre_norm=False"), ("qwen3", "qkv_bias=True, qk_norm=True")):
        with pytest.raises(ValueError, match=f"layout of a model type in .*{layout}"):
            save_huggingface(make_model(name), tokenizer, tmp_path / "new")
    with pytest.raises(ValueError, match="model must be a TransformerLM or a TransformerEncoder; got a RecurrentLM"):
        save_huggingface(make_model("gru"), tokenizer, tmp_path / "new")
    with pytest.raises(ValueError, match="tokenizer must have at most the model's 17 ids; got 40"):
        save_huggingface(make_model("llama"), loaded("llama")[1], tmp_path / "new")
    with pytest.raises(ValueError, match="max_shard_bytes must be at least 1; got 0"):
        save_huggingface(make_model("llama"), tokenizer, tmp_path / "new", max_shard_bytes=0)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"model_type": "bert"}, r"config.json: model_type must be one of .*; got 'bert'"),
        ("llama", {"model_type": ["llama"]}, "model_type must be one of"),
        ("llama", {"hidden_act": "gelu"}, 'hidden_act must be "silu"; got "gelu"'),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "must name a causal language model; got"),
        ("llama", {"attention_bias": True}, "attention_bias and mlp_bias must be equal; got True and the contrary"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be one of .*; got 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor must be a number above 0; got null"),
        ("llama", {"rope_parameters": [1]}, r"rope_scaling must be an object or null; got \[1\]"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1; got 0.5"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved must be one of null, false; got true"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config must be null; got"),
        ("llama", {"auto_map": {"AutoModel": "a.B"}}, "auto_map must be null; got"),
        ("llama", {"hidden_size": "16"}, 'hidden_size must be a whole number of at least 1; got "16"'),
        ("llama", {"hidden_size": -16}, "hidden_size must be a whole number of at least 1; got -16"),
        ("llama", {"num_attention_heads": None}, "num_attention_heads must be a whole number .* got null"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0; got 0"),
        ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps must be a number above 0; got 1000"),
        ("llama", {"architectures": 5}, "architectures must be a list or null; got 5"),
        ("qwen2", {"layer_types": 5}, "layer_types must be a list or null; got 5"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false; got 1"),
        ("llama", {"vocab_size": 10**12}, "weights at least that its settings ask for; got 5200"),
        ("llama", {"intermediate_size": 10**12}, "weights at least that its settings ask for; got 5200"),
        ("llama", {"vocab_size": 39}, "tokenizer must have at most the model's 39 ids; got 40"),
        ("llama", {"num_hidden_layers": 1}, "no tensors that the model has no place for; got 'model.layers.1."),
        (
            "llama",
            {"tie_word_embeddings": True, "vocab_size": 41},
            "must hold 'model.embed_tokens.weight' in the shape",
        ),
        (
            "mistral",
            {"sliding_window": 32},
            "sliding_window must be null or max_position_embeddings=64 at least; got 32",
        ),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window must be false; got true"),
        ("qwen2", {"layer_types": ["sliding_attention"]}, "layer_types must all be 'full_attention'; got"),
        ("qwen3", {"attention_bias": True}, "attention_bias must be false; got true"),
        ("gpt2", {"activation_function": "gelu"}, 'activation_function must be one of "gelu_new", .*; got "gelu"'),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be false; got true"),
    ],
)
def test_settings_that_are_not_built_are_refused(copied, name, changes, message):
    folder = copied(name, **changes)
    with pytest.raises(ValueError, match=message):
        load_huggingface(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"must hold the tensor 'model.norm.weight' of shape \(16,\); got none"),
        (lambda t: t.update(score=np.zeros(3)), "no tensors that the model has no place for; got 'score'"),
        (
            lambda t: t.update({"model.layers.1.mlp.up_proj.weight": np.zeros([16, 24], np.float32)}),
            r"'model.layers.1.mlp.up_proj.weight' in the shape \(24, 16\); got \(16, 24\)",
        ),
        (
            lambda t: t.update({"model.norm.weight": np.zeros(16, np.int32)}),
            r"must hold 'model.norm.weight' as one of \('F64', .*\); got I32",
        ),
        (lambda t: t.clear(), "must hold the tensor 'embed_tokens.weight' of shape .*; got none"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copied, change, message):
    folder = copied("llama")
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load_huggingface(folder)


def write_header(folder, header, room):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(room))


def entry(first, last, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "room", "message"),
    [
        ({"a": entry(0, 8)}, 7, "'a' must end within the 7 bytes of tensors; got 8"),
        ({"a": entry(0, 8)}, 9, "must end with its last tensor, after 8 bytes of tensors; got 9"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' must begin at byte 8, without gap or overlap; got 4"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "'b' must begin at byte 8, without gap or overlap; got 12"),
        ({"a": entry(0, 12)}, 12, r"'a' must have 8 bytes for F32 of shape \(2,\); got 12"),
        ({"a": entry(8, 0)}, 8, r"'a' must have 8 bytes for F32 of shape \(2,\); got -8"),
        ({"a": entry(0, 8, (-2,))}, 8, "'a' must have a shape of whole numbers; got"),
        ({"a": entry(0, 8, (2.0,))}, 8, "'a' must have a shape of whole numbers; got"),
        ({"a": entry(0, 8, None)}, 8, "'a' must have a shape of whole numbers; got None"),
        (
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8]}},
            8,
            "'a' must have a data_offsets of whole numbers",
        ),
        ({"a": entry(0, 8, (2**40, 2**40))}, 8, "'a' must have 4835703278458516698824704 bytes"),
        ({"a": entry(0, 8, dtype="Q4")}, 8, "'a' must have a dtype in .*; got 'Q4'"),
        ({"a": 3}, 8, "'a' must have a dtype in"),
        ({"a": entry(0, 8, dtype=[])}, 8, "'a' must have a dtype in"),
        ({"a": entry(0, 8), "__metadata__": 5}, 8, "must have texts as its __metadata__; got 5"),
        ({"a": entry(0, 8), "__metadata__": {"b": 5}}, 8, "must have texts as its __metadata__; got {'b': 5}"),
        ([1], 8, "must have a header that is an object; got list"),
        (b"{", 8, "must have a header of JSON; got"),
        (b'{"a": 1, "a": 2}', 8, "must have a header of JSON; got a name that is given twice"),
        (b"[" * 100_000, 8, "must have a header of JSON; got"),
    ],
)
def test_headers_that_lie_are_refused(copied, header, room, message):
    folder = copied("llama")
    write_header(folder, header, room)
    with pytest.raises(ValueError, match=f"model.safetensors.*{message}"):
        load_huggingface(folder)


@pytest.mark.parametrize("content", [b"", b"short", struct.pack("<Q", 2**63), struct.pack("<Q", 10) + b"{}"])
def test_files_that_are_cut_are_refused(copied, content):
    folder = copied("llama")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="must begin with the length of its header; got"):
        load_huggingface(folder)


def test_damaged_headers_are_refused_or_still_describe_the_file(copied):
    folder = copied("llama")
    whole = (folder / "model.safetensors").read_bytes()
    end, source, sound = 8 + struct.unpack("<Q", whole[:8])[0], random.Random(0), 0
    for _ in range(1000):
        damaged = bytearray(whole)
        for _ in range(source.choice([1, 1, 2, 5])):
            damaged[source.randrange(end)] = source.choice([source.randrange(256), *b'0123456789,:"[]{}'])
        if source.random() < 0.2:
            del damaged[source.randrange(len(damaged)) :]
        (folder / "model.safetensors").write_bytes(damaged)
        try:
            with open_tensors(folder) as tensors:  # a changed name or order of a shape is for `fill` to see
                assert sum(tensors.read(name).nbytes for name in tensors.shapes) == len(damaged) - end
                sound += 1
        except ValueError as error:
            assert "\n" not in str(error)
            assert str(error).startswith("model.safetensors")
    assert 0 < sound < 500


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "folder must hold config.json; got"),
        ("tokenizer.json", "path must name a file; got .*tokenizer.json"),
        ("model.safetensors", "folder must hold model.safetensors or model.safetensors.index.json; got"),
    ],
)
def test_missing_files(copied, missing, message):
    folder = copied("llama")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load_huggingface(folder)


def test_bad_indices(copied):
    folder = copied("llama3")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))

    def load_with(value):
        path.write_text(json.dumps(value))
        load_huggingface(folder)

    with pytest.raises(ValueError, match="must hold a weight_map; got"):
        load_with({})
    for escape in ("../config.json", "/etc/passwd", "a\\b", 3):
        with pytest.raises(ValueError, match="weight_map must name files of its own folder; got"):
            load_with({"weight_map": {name: escape}})
    with pytest.raises(
        FileNotFoundError, match=r"must hold every file of model.safetensors.index.json; got .* 'other'"
    ):
        load_with({"weight_map": {name: "other"}})
    wrong = index["weight_map"] | {"extra": index["weight_map"][name]}
    with pytest.raises(ValueError, match="weight_map must name tensors of its files; got 'extra'"):
        load_with({"weight_map": wrong})


def test_end_tokens_out_of_the_vocabulary_are_refused(copied):
    folder = copied("llama")
    for wrong in (40, -1, "1", [1, 99]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
        with pytest.raises(ValueError, match=r"eos_token_id must lie in \[0, vocab_size=40\); got"):
            load_huggingface(folder)
