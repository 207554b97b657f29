"""TransformerLM: a decoder-only Transformer, from GPT-2's layout to Llama's by a few arguments."""

import keras
import tensorflow as tf

from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions
from tfllm.layers.projection import TokenEmbedding
from tfllm.layers.transformer import TransformerBlock, make_norm, normalized
from tfllm.models.contract import LanguageModel

POSITIONS = ("learned", "sinusoidal", "rotary")


@keras.saving.register_keras_serializable("tfllm")
class TransformerLM(LanguageModel):
    """A causal Transformer; its state is one cache of keys and values a layer.

    The defaults are GPT-2's layout without biases. Llama's is `positions="rotary", norm="rms", activation="swiglu"` with
    `num_kv_heads` and `hidden_dim` as wanted; Qwen2's has `qkv_bias=True` besides, Qwen3's `qk_norm=True` and a `head_dim`.

    Args:
        vocab_size: int V.
        max_length: int, the most tokens that one token can look back on, itself included.
        dim: int D, size of a token's vector.
        num_layers: int.
        num_heads: int H, must divide `dim` unless `head_dim` is given.
        num_kv_heads: int, key-value heads, must divide H; None means H.
        head_dim: int, features of an attention head; None means D / H.
        hidden_dim: int, inner size of the feed-forward networks; None means 4 D.
        dropout: float in [0, 1), on embeddings, attention weights and the output of every part.
        positions: "learned" (at most `max_length`), "sinusoidal" or "rotary".
        rotary_base: float, see `layers.rotary_rates`.
        rotary_factor, rotary_original_length, rotary_low_factor, rotary_high_factor: how rotary positions were stretched to a
            longer context; `factor`, `original_length`, `low_factor` and `high_factor` of `layers.rotary_rates`.
        norm: "layer" or "rms".
        norm_epsilon: float, added to the variance.
        pre_norm: bool, whether each part normalises its input (GPT-2, Llama) or the sum behind it (Vaswani et al. 2017).
        activation: "gelu" (tanh form), "gelu_exact", "relu" or "swiglu".
        use_bias: bool, whether projections and layer normalisations have a bias.
        qkv_bias: bool, whether the projections to queries, keys and values have one; None means `use_bias`.
        qk_norm: bool, whether queries and keys are normalised, see `layers.SelfAttention`.
        tied_embeddings: bool, whether the projection to the vocabulary is the transposed embedding.
        initializer_range: float, standard deviation of the first weights; output projections of the blocks take it
            divided by sqrt(2 * num_layers).
        remat: bool, whether training computes each block a second time for its gradient, in place of keeping what is inside
            it: less memory, about a third more work.
        **kwargs: `name`, `dtype` (such as "mixed_bfloat16").

    Raises:
        ValueError: on sizes that do not divide or an unknown `positions`, `norm` or `activation`.

    Example:
        >>> model = TransformerLM(65, max_length=64, dim=32, num_layers=2, num_heads=4)
        >>> model(tf.constant([[1, 2, 3]])).shape
        TensorShape([1, 3, 65])

    Source: Radford et al. 2019 (GPT-2), section 2.3; Touvron et al. 2023 (Llama), arXiv:2302.13971, section 2.2.
    """

    rewindable = True

    def __init__(
        self,
        vocab_size,
        max_length=128,
        dim=128,
        num_layers=4,
        num_heads=4,
        *,
        num_kv_heads=None,
        head_dim=None,
        hidden_dim=None,
        dropout=0.0,
        positions="learned",
        rotary_base=10000.0,
        rotary_factor=1.0,
        rotary_original_length=None,
        rotary_low_factor=1.0,
        rotary_high_factor=4.0,
        norm="layer",
        norm_epsilon=1e-5,
        pre_norm=True,
        activation="gelu",
        use_bias=False,
        qkv_bias=None,
        qk_norm=False,
        tied_embeddings=True,
        initializer_range=0.02,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}; got {positions!r}")
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2; got {max_length}")
        self.vocab_size, self.max_length, self.dim, self.num_layers = vocab_size, max_length, dim, num_layers
        self.num_heads, self.num_kv_heads, self.hidden_dim, self.dropout = num_heads, num_kv_heads, hidden_dim, dropout
        self.positions, self.rotary_base, self.norm, self.norm_epsilon = positions, rotary_base, norm, norm_epsilon
        self.pre_norm, self.activation, self.use_bias = pre_norm, activation, use_bias
        self.tied_embeddings, self.initializer_range = tied_embeddings, initializer_range
        self.head_dim, self.qkv_bias, self.qk_norm, self.remat = head_dim, qkv_bias, qk_norm, remat
        self.rotary_factor, self.rotary_original_length = rotary_factor, rotary_original_length
        self.rotary_low_factor, self.rotary_high_factor = rotary_low_factor, rotary_high_factor
        policy = self.dtype_policy
        normal = keras.initializers.RandomNormal(stddev=initializer_range)
        self.embedding = TokenEmbedding(
            vocab_size, dim, tie_weights=tied_embeddings, embeddings_initializer=normal, dtype=policy
        )
        self.place = None
        if positions == "learned":
            self.place = LearnedPositions(max_length, dim, initializer_range=initializer_range, dtype=policy)
        elif positions == "sinusoidal":
            self.place = SinusoidalPositions(dim, dtype=policy)
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self.blocks = [
            TransformerBlock(
                dim,
                num_heads,
                num_kv_heads=num_kv_heads,
                head_dim=head_dim,
                hidden_dim=hidden_dim,
                dropout=dropout,
                rotary_base=rotary_base if positions == "rotary" else None,
                rotary_factor=rotary_factor,
                rotary_original_length=rotary_original_length,
                rotary_low_factor=rotary_low_factor,
                rotary_high_factor=rotary_high_factor,
                norm=norm,
                norm_epsilon=norm_epsilon,
                pre_norm=pre_norm,
                activation=activation,
                use_bias=use_bias,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                initializer_range=initializer_range,
                output_range=initializer_range / (2 * num_layers) ** 0.5,
                remat=remat,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.final_norm = make_norm(norm, norm_epsilon, use_bias, dtype=policy) if pre_norm else None
        self._create_weights()

    def initial_state(self, batch_size, slots, context=None):
        if isinstance(slots, int) and slots > self.max_length:
            raise ValueError(f"slots must be at most max_length={self.max_length}; got {slots}")
        caches = [block.attention.initial_cache(batch_size, slots) for block in self.blocks]
        return {"position": tf.zeros([batch_size], tf.int32), "layers": caches}

    def _forward(self, ids, state, lengths, training, positions=None):
        position = None if state is None else state["position"]
        if state is not None and tf.executing_eagerly():
            needed, slots = int(tf.reduce_max(position + lengths)), state["layers"][0]["k"].shape[2]
            if needed > slots:
                raise ValueError(f"ids must fit into the state's {slots} slots; got {needed} tokens")
        x = self.embedding(ids)
        if self.place is not None:
            first = tf.zeros([1], tf.int32) if state is None else position
            x = self.place(x, first[:, None] + tf.range(tf.shape(ids)[1]) if positions is None else positions)
        x = self.drop(x, training=training)
        caches = []
        for i, block in enumerate(self.blocks):
            cache = None if state is None else state["layers"][i]
            x, cache = block(x, cache=cache, position=position, positions=positions, training=training)
            caches.append(cache)
        x = normalized(self.final_norm, x, training) if self.pre_norm else x
        return x, (None if state is None else {"position": position + lengths, "layers": caches})

    def _head(self, features):
        return self.embedding(features, reverse=True)
