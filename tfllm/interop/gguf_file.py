"""GGUF files, the format of llama.cpp: weights of any quantisation, and the vocabulary, in one file.

Weights are dequantised to floats when they are read; nothing here computes on 4-bit weights. Left out: SentencePiece
vocabularies (Llama 1 and 2), mixtures of experts.
Source: the format's page, github.com/ggml-org/ggml, docs/gguf.md.
"""

import pathlib

import numpy as np

from tfllm.interop.configuration import arguments_of
from tfllm.interop.huggingface import build, set_end
from tfllm.interop.layouts import GGUF, GGUF_GPT2, Source, fill, placements
from tfllm.layers import rotary_rates
from tfllm.text import BPETokenizer

ARCHITECTURES = ("gpt2", "llama", "qwen2", "qwen3")
_PATTERNS = {  # of `tokenizer.ggml.pre`
    "gpt-2": "gpt2",
    "smollm": "gpt2_digits",
    "starcoder": "gpt2_digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
}
_CONTROL, _USER_DEFINED = 3, 4  # of `tokenizer.ggml.token_type`


def load_gguf(path, dtype=None):
    """Reads a GGUF file of GPT-2, Llama (and Mistral, SmolLM2), Qwen2 or Qwen3 with a byte-level BPE vocabulary.

    Args:
        path: str or path of the file.
        dtype: str, a Keras dtype policy such as "bfloat16"; None means Keras's own, float32 unless set otherwise.

    Returns:
        (`TransformerLM`, `BPETokenizer`), as `load_huggingface` returns them.

    Raises:
        ValueError: naming the setting or tensor, when the file asks for what is not built, or is damaged.
        FileNotFoundError: when there is no such file.
        ImportError: without the package gguf.

    Example:
        >>> model, tokenizer = load_gguf("SmolLM2-135M-Instruct.Q4_1.gguf")  # doctest: +SKIP
    """
    try:
        # Imported where used: only GGUF files need it.
        import gguf
    except ImportError as error:
        raise ImportError("GGUF files need gguf: pip install tfllm[gguf]") from error

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must name a file; got {str(path)!r}, which is none")
    try:
        with np.errstate(all="raise"):  # sizes that overflow are no sizes
            reader = gguf.GGUFReader(path)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"path must name a whole GGUF file; got {str(path)!r}: {error}") from error
    shapes = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in tensors.items()}
    tokenizer = _tokenizer(metadata)
    config = _config(metadata, shapes)
    try:
        arguments = arguments_of(config)
    except ValueError as error:
        raise ValueError(f"{path.name}, read as {error}") from error
    is_llama = metadata["general.architecture"] == "llama"
    heads = {"attn_q": arguments["num_heads"], "attn_k": arguments.get("num_kv_heads")} if is_llama else {}

    def read(name):
        tensor = tensors[name]
        try:
            array = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(f"tensor {name!r} must be of a kind that gguf dequantises; got {error}") from error
        part = name.split(".")[-2]
        return _unpermute(array, heads[part]) if part in heads else array

    stretched = "rope_freqs.weight" in shapes
    if stretched:
        arguments |= _llama3_stretching(read("rope_freqs.weight"), arguments)
    source = Source({name: shape for name, shape in shapes.items() if name != "rope_freqs.weight"}, read)
    model = build(arguments, tokenizer, source, dtype)
    fill(placements(model, GGUF_GPT2 if config["model_type"] == "gpt2" else GGUF, ""), source)
    return model, tokenizer


def _config(metadata, shapes):
    """Returns dict, the config.json that a GGUF file's metadata amount to."""
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"general.architecture must be one of {ARCHITECTURES}; got {kind!r}")

    def get(name, default=None):
        return metadata.get(f"{kind}.{name}", default)

    if get("expert_count", 0):
        raise ValueError(f"{kind}.expert_count must be 0; got {get('expert_count')}")
    dim, heads = get("embedding_length"), get("attention.head_count")
    tokens = metadata["tokenizer.ggml.tokens"]
    shared = {
        "model_type": kind,
        "vocab_size": shapes.get("token_embd.weight", (len(tokens),))[0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    if kind == "gpt2":
        return shared | {
            "n_positions": get("context_length"),
            "n_embd": dim,
            "n_layer": get("block_count"),
            "n_head": heads,
            "n_inner": get("feed_forward_length"),
            "layer_norm_epsilon": get("attention.layer_norm_epsilon"),
        }
    size = get("attention.key_length")
    if size is None and type(dim) is type(heads) is int and heads:
        size = dim // heads
    for name in ("attention.value_length", "rope.dimension_count"):
        if get(name, size) != size:
            raise ValueError(f"{kind}.{name} must be the {size} features of a head; got {get(name)}")
    window, length = get("attention.sliding_window"), get("context_length")
    if window and (type(window) is not int or type(length) is not int or window < length):
        raise ValueError(f"{kind}.attention.sliding_window must be 0 or the context's length; got {window}")
    scaling = get("rope.scaling.type", "none")
    scaling = None if scaling == "none" else {"rope_type": scaling, "factor": get("rope.scaling.factor")}
    return shared | {
        "max_position_embeddings": get("context_length"),
        "hidden_size": dim,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": size,
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "rope_theta": get("rope.freq_base", 10000.0),
        "rope_scaling": scaling,
        "sliding_window": None,
    }


def _llama3_stretching(divisors, arguments):
    """Turns the divisors of Llama 3's rates back into the settings that made them, which the file does not keep.

    Raises:
        ValueError: when they are not those of Llama 3.1 with some factor.
    """
    size = arguments["head_dim"]
    found = {"factor": float(divisors.max()), "original_length": 8192, "low_factor": 1.0, "high_factor": 4.0}
    base = arguments["rotary_base"]
    expected = rotary_rates(size, base) / rotary_rates(size, base, **found)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected, rtol=1e-4):
        raise ValueError("rope_freqs.weight must be the rates of Llama 3.1's context of 8192; got others")
    return {f"rotary_{name}": value for name, value in found.items()}


def _unpermute(array, heads):
    """Undoes llama.cpp's order of query and key rows: its rotation pairs neighbours, this one (i, i + K / 2)."""
    pairs = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _tokenizer(metadata):
    """Makes the tokenizer that a GGUF file's metadata describe."""
    for name in ("model", "pre", "tokens", "merges", "token_type"):
        if f"tokenizer.ggml.{name}" not in metadata:
            raise ValueError(f"path must name a GGUF file with tokenizer.ggml.{name}; got one without")
    kind, pre, tokens, merges, types = (
        metadata[f"tokenizer.ggml.{name}"] for name in ("model", "pre", "tokens", "merges", "token_type")
    )
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model must be 'gpt2', byte-level BPE; got {kind!r}")
    if pre not in _PATTERNS:
        raise ValueError(f"tokenizer.ggml.pre must be one of {tuple(_PATTERNS)}; got {pre!r}")
    if len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type must have {len(tokens)} entries; got {len(types)}")
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    template = None
    if metadata.get("tokenizer.ggml.add_bos_token") and begin is not None:
        if type(begin) is not int or not 0 <= begin < len(tokens):
            raise ValueError(f"tokenizer.ggml.bos_token_id must lie in [0, {len(tokens)}); got {begin}")
        template = _template(tokens[begin], begin)
    tokenizer = BPETokenizer(
        tokens,
        [tuple(merge.split(" ", 1)) for merge in merges],
        special_tokens=tuple(token for token, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL),
        added_tokens=tuple(token for token, type_ in zip(tokens, types, strict=True) if type_ == _USER_DEFINED),
        pattern=_PATTERNS[pre],
        ignore_merges=_PATTERNS[pre] == "llama3",  # as in Llama 3's tokenizer.json; a GGUF file does not say
        post_processor=template,
        drop_bytes=True,
    )
    set_end(tokenizer, metadata.get("tokenizer.ggml.eos_token_id"))
    return tokenizer


def _template(token, index):
    """Returns dict, the post_processor that puts a token before every text."""
    parts = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [*parts, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
