"""What a checkpoint's config.json says, as arguments of `TransformerLM` or `TransformerEncoder`, and back.

Every setting that changes a model's answers is either built here or refused by name. Missing settings have the value that the
configuration classes of `transformers` give them. Dropout is not read: a checkpoint says how it was trained, not how it is to
be trained on.
"""

import json
import sys

_ROTARY = ("llama", "mistral", "qwen2", "qwen3")
MODEL_TYPES = ("gpt2", *_ROTARY)
ENCODERS = ("BertModel", "BertForMaskedLM", "BertForPreTraining")

# By model_type, the values of settings that are built here; the first one is meant where config.json has none.
_GELU = ("gelu_new", "gelu_pytorch_tanh")
_ALLOWED = {
    "gpt2": {
        "activation_function": (*_GELU, "relu"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": ("silu",), "attention_bias": (False, True), "mlp_bias": (False, True)},
    "mistral": {"hidden_act": ("silu",)},
    "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
    "qwen3": {"hidden_act": ("silu",), "use_sliding_window": (False,), "attention_bias": (False,)},
}
_ALLOWED_BERT = {
    "hidden_act": ("gelu", *_GELU, "relu"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "embedding_size": (None,),
}
_ALLOWED_ANYWHERE = {
    "quantization_config": (None,),
    "auto_map": (None,),  # names code of the checkpoint's own
    "partial_rotary_factor": (None, 1.0),
    "rope_interleaved": (None, False),
}


def arguments_of(config):
    """Turns a config.json into the arguments of a `TransformerLM`.

    Args:
        config: dict, what config.json holds.

    Returns:
        dict of plain values.

    Raises:
        ValueError: naming the setting, when a setting is missing, is of the wrong kind, or asks for what is not built.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        hint = ", an encoder, which load_encoder reads" if kind == "bert" else ""
        raise ValueError(f"config.json: model_type must be one of {MODEL_TYPES}; got {kind!r}{hint}")
    _check_allowed(config, _ALLOWED[kind])
    for name in _list(config, "architectures"):
        if name != "GPT2LMHeadModel" and not str(name).endswith("ForCausalLM"):
            raise ValueError(f"config.json: architectures must name a causal language model; got {name!r}")
    return _gpt2_arguments(config) if kind == "gpt2" else _rotary_arguments(config, kind)


def encoder_arguments_of(config):
    """Turns the config.json of a BERT into the arguments of a `TransformerEncoder`, all but `prediction_head`.

    Args:
        config: dict, what config.json holds.

    Returns:
        dict of plain values.

    Raises:
        ValueError: naming the setting, as `arguments_of` does.
    """
    if config.get("model_type") != "bert":
        raise ValueError(f"config.json: model_type must be 'bert' for an encoder; got {config.get('model_type')!r}")
    _check_allowed(config, _ALLOWED_BERT)
    for name in _list(config, "architectures"):
        if name not in ENCODERS:
            raise ValueError(f"config.json: architectures must be among {ENCODERS}; got {name!r}")
    activation = config.get("hidden_act", "gelu")
    return {
        "vocab_size": _whole(config, "vocab_size"),
        "max_length": _whole(config, "max_position_embeddings"),
        "dim": _whole(config, "hidden_size"),
        "num_layers": _whole(config, "num_hidden_layers"),
        "num_heads": _whole(config, "num_attention_heads"),
        "hidden_dim": _whole(config, "intermediate_size"),
        "num_segments": _whole({"type_vocab_size": 2} | config, "type_vocab_size"),
        "embedding_norm": True,
        "norm_epsilon": _real(config, "layer_norm_eps", 1e-12),
        "pre_norm": False,
        "activation": {"gelu": "gelu_exact", "relu": "relu"}.get(activation, "gelu"),
        "use_bias": True,
        "initializer_range": _real(config, "initializer_range", 0.02),
    }


def encoder_config_of(model):
    """Returns dict, the config.json of a `TransformerEncoder`.

    Raises:
        ValueError: when a BERT does not compute what the model computes.
    """
    wanted = {"positions": "learned", "norm": "layer", "pre_norm": False, "embedding_norm": True}
    settings = model.get_config()
    activations = {"gelu_exact": "gelu", "gelu": _GELU[0], "relu": "relu"}
    if any(settings[name] != value for name, value in wanted.items()) or model.activation not in activations:
        found = ", ".join(f"{name}={settings[name]!r}" for name in (*wanted, "activation"))
        raise ValueError(f"model must have BERT's layout; got {found}")
    return {
        "architectures": ["BertForMaskedLM" if model.prediction_head else "BertModel"],
        "model_type": "bert",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_length,
        "hidden_size": model.dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.hidden_dim or 4 * model.dim,
        "type_vocab_size": max(model.num_segments, 1),
        "hidden_act": activations[model.activation],
        "layer_norm_eps": model.norm_epsilon,
        "initializer_range": model.initializer_range,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.dropout,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }


def config_of(model):
    """Returns dict, the config.json of a `TransformerLM`.

    Raises:
        ValueError: when no model type of `transformers` that is known here computes what the model computes.
    """
    settings = model.get_config()
    shared = {
        "vocab_size": model.vocab_size,
        "initializer_range": model.initializer_range,
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": True,
    }

    def fits(**wanted):
        return all(settings[name] in values for name, values in wanted.items())

    if fits(
        positions=["learned"],
        norm=["layer"],
        pre_norm=[True],
        activation=["gelu", "relu"],
        num_kv_heads=[None, model.num_heads],
        head_dim=[None, model.dim / model.num_heads],
        qk_norm=[False],
    ):
        return shared | {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": model.max_length,
            "n_embd": model.dim,
            "n_layer": model.num_layers,
            "n_head": model.num_heads,
            "n_inner": model.hidden_dim,
            "activation_function": "relu" if model.activation == "relu" else _GELU[0],
            "layer_norm_epsilon": model.norm_epsilon,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.dropout,
        }
    biases = (model.use_bias if model.qkv_bias is None else model.qkv_bias, model.use_bias)
    llama = ("llama", "LlamaForCausalLM")
    whole = model.dim % model.num_heads == 0  # which `transformers` asks of a Llama; a Mistral computes the same
    kinds = {
        ((False, False), False): llama if whole else ("mistral", "MistralForCausalLM"),
        ((True, True), False): llama if whole else None,
        ((True, False), False): ("qwen2", "Qwen2ForCausalLM"),
        ((False, False), True): ("qwen3", "Qwen3ForCausalLM"),
    }
    kind = kinds.get((biases, model.qk_norm))
    if kind is None or not fits(positions=["rotary"], norm=["rms"], pre_norm=[True], activation=["swiglu"]):
        names = ("positions", "norm", "pre_norm", "activation", "use_bias", "qkv_bias", "qk_norm")
        found = ", ".join(f"{name}={settings[name]!r}" for name in names)
        raise ValueError(f"model must have the layout of a model type in {MODEL_TYPES}; got {found}")
    scaling = None
    if model.rotary_original_length is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": model.rotary_factor,
            "low_freq_factor": model.rotary_low_factor,
            "high_freq_factor": model.rotary_high_factor,
            "original_max_position_embeddings": model.rotary_original_length,
        }
    elif model.rotary_factor != 1:
        scaling = {"rope_type": "linear", "factor": model.rotary_factor}
    document = shared | {
        "architectures": [kind[1]],
        "model_type": kind[0],
        "max_position_embeddings": model.max_length,
        "hidden_size": model.dim,
        "intermediate_size": model.hidden_dim or 4 * model.dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads or model.num_heads,
        "head_dim": model.head_dim or model.dim // model.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary_base,
        "rope_scaling": scaling,
        "attention_dropout": model.dropout,
    }
    if kind[0] == "llama":
        document |= {"attention_bias": biases[0], "mlp_bias": biases[1]}
    elif kind[0] == "mistral":
        document |= {"sliding_window": None}
    elif kind[0] == "qwen2":
        document |= {"use_sliding_window": False}
    else:
        document |= {"use_sliding_window": False, "attention_bias": False}
    return document


def _check_allowed(config, allowed):
    for name, values in (_ALLOWED_ANYWHERE | allowed).items():
        value = config.get(name, values[0])
        if value not in values:
            raise ValueError(f"config.json: {name} must be {_one_of(values)}; got {json.dumps(value)[:80]}")


def _gpt2_arguments(config):
    dim, hidden = _whole(config, "n_embd"), config.get("n_inner")
    return {
        "vocab_size": _whole(config, "vocab_size"),
        "max_length": _whole(config, "n_positions"),
        "dim": dim,
        "num_layers": _whole(config, "n_layer"),
        "num_heads": _whole(config, "n_head"),
        "hidden_dim": None if hidden is None else _whole(config, "n_inner"),
        "norm_epsilon": _real(config, "layer_norm_epsilon", 1e-5),
        "activation": "relu" if config.get("activation_function") == "relu" else "gelu",
        "use_bias": True,
        "tied_embeddings": _flag(config, "tie_word_embeddings", True),
        "initializer_range": _real(config, "initializer_range", 0.02),
    }


def _rotary_arguments(config, kind):
    heads, head_dim = _whole(config, "num_attention_heads"), config.get("head_dim")
    kv_heads = config.get("num_key_value_heads")
    if kind == "qwen3" and head_dim is None:
        head_dim = 128
    max_length = _whole(config, "max_position_embeddings")
    window = config.get("sliding_window", 4096)
    if kind == "mistral" and window is not None and _whole({"sliding_window": window}, "sliding_window") < max_length:
        raise ValueError(
            f"config.json: sliding_window must be null or max_position_embeddings={max_length} at least; got {window}"
        )
    layers = _list(config, "layer_types")
    if any(layer != "full_attention" for layer in layers):
        raise ValueError(f"config.json: layer_types must all be 'full_attention'; got {sorted(set(map(str, layers)))}")
    biases = {"use_bias": _flag(config, "attention_bias", False)}
    if kind == "llama" and biases["use_bias"] != _flag(config, "mlp_bias", False):
        raise ValueError(
            f"config.json: attention_bias and mlp_bias must be equal; got {biases['use_bias']} and the contrary"
        )
    if kind == "qwen2":
        biases = {"use_bias": False, "qkv_bias": True}
    return {
        "vocab_size": _whole(config, "vocab_size"),
        "max_length": max_length,
        "dim": _whole(config, "hidden_size"),
        "num_layers": _whole(config, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": heads if kv_heads is None and kind == "llama" else _whole(config, "num_key_value_heads"),
        "head_dim": None if head_dim is None else _whole({"head_dim": head_dim}, "head_dim"),
        "hidden_dim": _whole(config, "intermediate_size"),
        "positions": "rotary",
        **_rotary_positions(config),
        "norm": "rms",
        "norm_epsilon": _real(config, "rms_norm_eps", 1e-6),
        "activation": "swiglu",
        **biases,
        "qk_norm": kind == "qwen3",
        "tied_embeddings": _flag(config, "tie_word_embeddings", False),
        "initializer_range": _real(config, "initializer_range", 0.02),
    }


def _rotary_positions(config):
    """Reads `rope_theta` and `rope_scaling`, or `rope_parameters`, which holds both since transformers 5."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise ValueError(f"config.json: rope_scaling must be an object or null; got {json.dumps(given)[:80]}")
    given = {"rope_theta": config.get("rope_theta", 10000.0)} | given
    kind = given.get("rope_type", given.get("type", "default"))
    arguments = {"rotary_base": _real(given, "rope_theta", None)}
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"config.json: partial_rotary_factor must be 1; got {given['partial_rotary_factor']!r}")
    if kind in ("linear", "llama3"):
        arguments |= {"rotary_factor": _real(given, "factor", None)}
    if kind == "llama3":
        arguments |= {
            "rotary_original_length": _whole(given, "original_max_position_embeddings"),
            "rotary_low_factor": _real(given, "low_freq_factor", None),
            "rotary_high_factor": _real(given, "high_freq_factor", None),
        }
    elif kind not in ("default", "linear"):
        raise ValueError(f"config.json: rope_type must be one of ('default', 'linear', 'llama3'); got {kind!r}")
    return arguments


def _whole(config, name):
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"config.json: {name} must be a whole number of at least 1; got {json.dumps(value)[:80]}")
    return value


def _real(config, name, default):
    value = config.get(name, default)
    if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"config.json: {name} must be a number above 0; got {json.dumps(value)[:80]}")
    return float(value)


def _list(config, name):
    value = config.get(name)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"config.json: {name} must be a list or null; got {json.dumps(value)[:80]}")
    return value or []


def _flag(config, name, default):
    value = config.get(name, default)
    if type(value) is not bool:
        raise ValueError(f"config.json: {name} must be true or false; got {json.dumps(value)[:80]}")
    return value


def _one_of(values):
    shown = [json.dumps(value) for value in values]
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"
