"""Where the tensors of a checkpoint stand in a Transformer of ours, causal or not: one list of names, read in both directions.

A model here holds queries, keys and values side by side in one product, and SwiGLU's gate and value in another. PyTorch's
linear layers store [out, in], Keras's and GPT-2's [in, out].
"""

import collections.abc
import dataclasses
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of tensors without `.weight` and `.bias`; `block` holds `{}` for the number of the layer.

    `transposed` says that matrices are stored [out, in]; `biased` that every projection and normalisation has a bias.
    """

    prefix: str
    embedding: str
    places: str
    head: str
    final_norm: str
    block: str
    attention_norm: str
    query_key_value: tuple
    query_norm: str
    key_norm: str
    attention_output: str
    feed_forward_norm: str
    up: tuple
    down: str
    transposed: bool = True
    biased: bool = False
    segments: str = ""
    first_norm: str = ""
    prediction: str = ""


LLAMA = Layout(
    prefix="model.",
    embedding="embed_tokens",
    places="",
    head="lm_head",
    final_norm="norm",
    block="layers.{}.",
    attention_norm="input_layernorm",
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    attention_output="self_attn.o_proj",
    feed_forward_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
)
GPT2 = Layout(
    prefix="transformer.",
    embedding="wte",
    places="wpe",
    head="lm_head",
    final_norm="ln_f",
    block="h.{}.",
    attention_norm="ln_1",
    query_key_value=("attn.c_attn",),
    query_norm="",
    key_norm="",
    attention_output="attn.c_proj",
    feed_forward_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    transposed=False,
    biased=True,
)
BERT = Layout(
    prefix="bert.",
    embedding="embeddings.word_embeddings",
    places="embeddings.position_embeddings",
    head="",
    final_norm="",
    block="encoder.layer.{}.",
    attention_norm="attention.output.LayerNorm",
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    query_norm="",
    key_norm="",
    attention_output="attention.output.dense",
    feed_forward_norm="output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    biased=True,
    segments="embeddings.token_type_embeddings",
    first_norm="embeddings.LayerNorm",
    prediction="cls.predictions.",
)
GGUF = Layout(
    prefix="",
    embedding="token_embd",
    places="position_embd",
    head="output",
    final_norm="output_norm",
    block="blk.{}.",
    attention_norm="attn_norm",
    query_key_value=("attn_q", "attn_k", "attn_v"),
    query_norm="attn_q_norm",
    key_norm="attn_k_norm",
    attention_output="attn_output",
    feed_forward_norm="ffn_norm",
    up=("ffn_gate", "ffn_up"),
    down="ffn_down",
)
GGUF_GPT2 = dataclasses.replace(GGUF, query_key_value=("attn_qkv",), up=("ffn_up",), biased=True)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Tensors of a checkpoint that stand side by side, along the last axis, in one weight of a model.

    Attributes:
        weight: the `keras.Variable`, or None where the model has none because it is zero.
        names: tuple of str, the tensors.
        shapes: tuple of tuples of int, their shapes in the checkpoint.
        transposed: bool, whether they are stored transposed.
    """

    weight: Any
    names: tuple
    shapes: tuple
    transposed: bool

    def pieces(self):
        """Yields (name, NumPy array in the dtype of the weight), the tensors as a checkpoint stores them."""
        if self.weight is None:
            yield from (
                (name, np.zeros(shape, np.float32)) for name, shape in zip(self.names, self.shapes, strict=True)
            )
            return
        joint = self.weight.numpy()
        if self.transposed:
            joint = joint.T
        axis = 0 if self.transposed else -1
        ends = np.cumsum([shape[axis] for shape in self.shapes])
        for name, piece in zip(self.names, np.split(joint, ends[:-1], axis), strict=True):
            yield name, np.ascontiguousarray(piece)


@dataclasses.dataclass(frozen=True)
class Source:
    """The tensors of an open checkpoint.

    Attributes:
        shapes: dict of str to tuple of int.
        read: function of a name that gives the tensor, a NumPy array of floats.
    """

    shapes: dict
    read: collections.abc.Callable


def placements(model, layout, prefix):
    """Lists where every weight of a model stands in a checkpoint.

    Args:
        model: a `TransformerLM`, or for `BERT` a `TransformerEncoder`.
        layout: a `Layout`.
        prefix: str, what stands before every name but the head's.

    Returns:
        list of `Placement`.
    """
    found = []

    def place(weight, names, shapes, transposed=False):
        found.append(Placement(weight, tuple(names), tuple(shapes), transposed))

    def norm(layer, stem):
        is_rms = isinstance(layer, keras.layers.RMSNormalization)
        scale, beta = (layer.scale, None) if is_rms else (layer.gamma, layer.beta)
        place(scale, [f"{stem}.weight"], [tuple(scale.shape)])
        if beta is not None or layout.biased:
            place(beta, [f"{stem}.bias"], [tuple(scale.shape)])

    def dense(layer, stems, widths):
        rows = layer.kernel.shape[0]
        shapes = [(width, rows) if layout.transposed else (rows, width) for width in widths]
        place(layer.kernel, [f"{stem}.weight" for stem in stems], shapes, layout.transposed)
        if layer.use_bias or layout.biased:
            place(layer.bias if layer.use_bias else None, [f"{stem}.bias" for stem in stems], [(w,) for w in widths])

    table = model.embedding.embeddings
    place(table, [f"{prefix}{layout.embedding}.weight"], [tuple(table.shape)])
    if model.positions == "learned":
        place(model.place.vectors, [f"{prefix}{layout.places}.weight"], [tuple(model.place.vectors.shape)])
    if layout.segments:
        table = None if model.segment is None else model.segment.embeddings
        shape = (1, model.dim) if table is None else tuple(table.shape)
        place(table, [f"{prefix}{layout.segments}.weight"], [shape])
    if layout.first_norm:
        norm(model.first_norm, prefix + layout.first_norm)
    for i, block in enumerate(model.blocks):
        stem, attention, feed_forward = prefix + layout.block.format(i), block.attention, block.feed_forward
        norm(block.attention_norm, stem + layout.attention_norm)
        size = attention.head_dim or model.dim // model.num_heads
        heads, kv_heads = model.num_heads * size, (attention.num_kv_heads or model.num_heads) * size
        widths = [heads, kv_heads, kv_heads]
        names = [stem + name for name in layout.query_key_value]
        dense(attention.query_key_value, names, widths if len(names) == 3 else [sum(widths)])
        if attention.qk_norm:
            norm(attention.query_norm, stem + layout.query_norm)
            norm(attention.key_norm, stem + layout.key_norm)
        dense(attention.output_projection, [stem + layout.attention_output], [model.dim])
        norm(block.feed_forward_norm, stem + layout.feed_forward_norm)
        names, hidden = [stem + name for name in layout.up], feed_forward.hidden_dim
        dense(feed_forward.up, names, [hidden] * len(names))
        dense(feed_forward.down, [stem + layout.down], [model.dim])
    if layout.final_norm:
        norm(model.final_norm, prefix + layout.final_norm)
    if layout.prediction and model.prediction is not None:
        dense(model.prediction.dense, [f"{layout.prediction}transform.dense"], [model.dim])
        norm(model.prediction.scale, f"{layout.prediction}transform.LayerNorm")
        place(model.prediction.bias, [f"{layout.prediction}bias"], [(model.vocab_size,)])
    if not model.embedding.tie_weights:
        head = model.embedding.reverse_embeddings
        place(head, [f"{layout.head}.weight"], [tuple(head.shape)[::-1]], True)
    return found


def fill(found, source, ignorable=()):
    """Reads a checkpoint into the weights of a model, tensor by tensor.

    Args:
        found: list of `Placement`.
        source: a `Source`.
        ignorable: tuple of str, ends of the names of tensors that a checkpoint may hold besides.

    Raises:
        ValueError: naming the tensor, when one is missing, is too many, or has another shape; no weight is changed then.
    """
    wanted = {name: shape for part in found for name, shape in zip(part.names, part.shapes, strict=True)}
    for name, shape in wanted.items():
        if name not in source.shapes:
            raise ValueError(f"checkpoint must hold the tensor {name!r} of shape {shape}; got none")
        if source.shapes[name] != shape:
            raise ValueError(f"checkpoint must hold {name!r} in the shape {shape}; got {source.shapes[name]}")
    for name in source.shapes:
        if name not in wanted and not name.endswith(tuple(ignorable)):
            raise ValueError(f"checkpoint must hold no tensors that the model has no place for; got {name!r}")
    for part in found:
        arrays = [source.read(name) for name in part.names]
        if part.transposed:
            arrays = [array.T for array in arrays]
        part.weight.assign(arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1))
