"""Makes the checkpoints of fixtures/ and what `transformers` answers with them.

    pip install torch transformers && python tests/interop/make_fixtures.py

Not run by the tests: it needs PyTorch. Weights are drawn, so nothing here was trained by anyone. Every checkpoint is saved, read
again by `transformers` in float32, and only then asked.
"""

import json
import pathlib
import string
import sys

import numpy as np
import safetensors.torch
import tokenizers
import torch
import transformers

HERE = pathlib.Path(__file__).parent / "fixtures"
PROMPT = "the cat"
ROTARY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# name: (configuration, dtype of the file, what stands in config.json in the way of older versions, bytes of a shard)
CHECKPOINTS = {
    "gpt2": (
        transformers.GPT2Config(
            vocab_size=40, n_positions=64, n_embd=16, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=1
        ),
        torch.float32,
        {},
        "1GB",
    ),
    "llama": (transformers.LlamaConfig(**ROTARY, eos_token_id=1), torch.float32, {}, "1GB"),
    "llama3": (
        transformers.LlamaConfig(**ROTARY, tie_word_embeddings=True, eos_token_id=[1, 7]),
        torch.float32,
        {"rope_theta": 500.0, "rope_scaling": LLAMA3},
        "10KB",
    ),
    "mistral": (
        transformers.MistralConfig(**ROTARY, head_dim=6, sliding_window=None, eos_token_id=None),
        torch.float16,
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "1GB",
    ),
    "qwen2": (
        transformers.Qwen2Config(**{**ROTARY, "vocab_size": 288}, tie_word_embeddings=True, eos_token_id=0),
        torch.float32,
        {},
        "1GB",
    ),
    "qwen3": (
        transformers.Qwen3Config(**ROTARY, head_dim=6, rms_norm_eps=1e-3, eos_token_id=1),
        torch.bfloat16,
        {},
        "1GB",
    ),
}


def character_tokenizer():
    """Returns a tokenizer of 40 ids, one a character."""
    characters = [*string.ascii_lowercase, *" .,;:!?'-\n()"]
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<end>", *characters])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.add_special_tokens(["<unk>", "<end>"])
    return tokenizer


def byte_tokenizer():
    """Returns a byte-level BPE that cuts words as Qwen 2 does."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    regex = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(regex), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog ran"], trainer)
    return tokenizer


def draw_weights(model, seed):
    """Gives every weight, biases and scales as well, a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        centre = 1.0 if "norm" in name or "ln_" in name else 0.0
        centre = 0.0 if name.endswith("bias") else centre
        weight.data = centre + 0.4 * torch.randn(weight.shape, generator=generator)


def make(name, config, dtype, older, shard):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    model = transformers.AutoModelForCausalLM.from_config(config)
    draw_weights(model, sorted(CHECKPOINTS).index(name))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer = byte_tokenizer() if name == "qwen2" else character_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    if older:
        document = json.loads((folder / "config.json").read_text())
        del document["rope_parameters"]
        (folder / "config.json").write_text(json.dumps(document | older, indent=2) + "\n")

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(0, tokenizer.get_vocab_size(), (1 if name == "qwen2" else 2, 40), np.int32)
    prompt = tokenizer.encode(PROMPT).ids
    with torch.no_grad():
        logits = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
        greedy = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    rows = slice(None, None, 3)  # of the positions, to keep the file small
    text = tokenizer.decode(greedy)
    np.savez_compressed(folder / "expected.npz", ids=ids, logits=logits[:, rows], greedy=greedy, text=text)
    print(name, logits.std(), greedy, repr(text))


BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
# name: (configuration, class); the second one as old files are, with a vocab.txt.
ENCODERS = {
    "bert": (transformers.BertConfig(**BERT), transformers.BertModel),
    "bert_masked": (
        transformers.BertConfig(**BERT, hidden_act="gelu_new", layer_norm_eps=1e-5),
        transformers.BertForMaskedLM,
    ),
}
TEXT = "The cat, \u00c0 la carte!"


def make_encoder(name, config, kind):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    model = kind(config)
    draw_weights(model, sorted(ENCODERS).index(name))
    model.save_pretrained(folder)
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"acehlrt,!",
        *(f"##{c}" for c in "acehlrt"),
        "the",
        "la",
        "##at",
    ]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    theirs = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    if kind is transformers.BertModel:
        theirs.save(str(folder / "tokenizer.json"))
        (folder / "vocab.txt").unlink()
    else:
        path = folder / "model.safetensors"
        old = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for key, tensor in safetensors.torch.load_file(path).items()
        }
        safetensors.torch.save_file(old, path, metadata={"format": "pt"})
    source = np.random.default_rng(0)
    ids, lengths = source.integers(0, 40, (3, 12), np.int32), np.array([12, 7, 1], np.int32)
    segments = source.integers(0, 2, (3, 12), np.int32)
    mask = np.arange(12) < lengths[:, None]
    with torch.no_grad():
        arguments = [torch.tensor(values, dtype=torch.long) for values in (ids, mask, segments)]
        found = model.eval()(*arguments)
    outputs = (found.logits if kind is transformers.BertForMaskedLM else found.last_hidden_state).numpy()
    text_ids = theirs.encode(TEXT).ids
    np.savez_compressed(
        folder / "expected.npz",
        ids=ids,
        lengths=lengths,
        segments=segments,
        outputs=outputs,
        text=TEXT,
        text_ids=text_ids,
    )
    print(name, outputs.std(), text_ids)


if __name__ == "__main__":
    for name in sys.argv[1:] or (*CHECKPOINTS, *ENCODERS):
        if name in ENCODERS:
            make_encoder(name, *ENCODERS[name])
        else:
            make(name, *CHECKPOINTS[name])
