"""The Transformer block: attention and a feed-forward network, each with a normalisation and a short cut."""

import keras
import tensorflow as tf

from tfllm.layers.attention import CrossAttention, SelfAttention
from tfllm.layers.one_pass import gelu, normalize, pays, swiglu
from tfllm.layers.projection import Projection

NORMS = ("layer", "rms")
ACTIVATIONS = ("gelu", "gelu_exact", "relu", "swiglu")
_IN_ONE_PASS = {"gelu": gelu, "swiglu": swiglu}


@keras.saving.register_keras_serializable("tfllm")
class FeedForward(keras.layers.Layer):
    """Two projections with a nonlinearity between them, or SwiGLU's three.

    Args:
        dim: int D, size of input and output.
        hidden_dim: int, size between the projections.
        activation: "gelu" (GPT-2's tanh form), "gelu_exact" (BERT's error function), "relu" or "swiglu" (Shazeer 2020,
            arXiv:2002.05202).
        use_bias: bool, whether the projections have one.
        initializer_range: float, standard deviation of the first weights.
        output_range: float, the same for the output projection; None means `initializer_range`.

    Call:
        x: float [B, T, D]; training: bool. Returns float [B, T, D].
    """

    def __init__(
        self, dim, hidden_dim, *, activation="gelu", use_bias=True, initializer_range=0.02, output_range=None, **kwargs
    ):
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}; got {activation!r}")
        self.dim, self.hidden_dim, self.activation, self.use_bias = dim, hidden_dim, activation, use_bias
        self.initializer_range, self.output_range = initializer_range, output_range

        def dense(units, deviation, name):
            initializer = keras.initializers.RandomNormal(stddev=deviation)
            return Projection(
                units, use_bias=use_bias, kernel_initializer=initializer, dtype=self.dtype_policy, name=name
            )

        # SwiGLU's gate and value are one product, cut in two afterwards.
        width = 2 * hidden_dim if activation == "swiglu" else hidden_dim
        self.up = dense(width, initializer_range, "up")
        self.down = dense(dim, output_range or initializer_range, "down")

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.hidden_dim))

    def call(self, x, training=False):
        x = self.up(x)
        if self.activation in _IN_ONE_PASS and pays(x, training):
            x = _IN_ONE_PASS[self.activation](x)
        elif self.activation == "swiglu":
            x = keras.ops.silu(x[..., : self.hidden_dim]) * x[..., self.hidden_dim :]
        else:
            x = activate(x, self.activation)
        return self.down(x)


def activate(x, activation):
    """Returns what "gelu", "gelu_exact" or "relu" makes of a tensor."""
    if activation == "relu":
        return keras.ops.relu(x)
    return keras.ops.gelu(x, approximate=activation == "gelu")


@keras.saving.register_keras_serializable("tfllm")
class TransformerBlock(keras.layers.Layer):
    """Self-attention, perhaps attention to another text, and a feed-forward network; see `TransformerLM` for most arguments.

    Args:
        causal: bool, see `SelfAttention`.
        cross_attention: bool, whether it attends to another text, between the two other parts.

    Call:
        x: float [B, T, D]; cache, position, positions, lengths, training as in `SelfAttention.call`; memory, memory_mask and
        return_weights as in `CrossAttention.call`. Returns (float [B, T, D], the new cache or None), with `return_weights` also
        the attention to the other text.
    """

    def __init__(
        self,
        dim,
        num_heads,
        *,
        causal=True,
        cross_attention=False,
        num_kv_heads=None,
        head_dim=None,
        hidden_dim=None,
        dropout=0.0,
        rotary_base=None,
        rotary_factor=1.0,
        rotary_original_length=None,
        rotary_low_factor=1.0,
        rotary_high_factor=4.0,
        norm="layer",
        norm_epsilon=1e-5,
        pre_norm=True,
        activation="gelu",
        use_bias=True,
        qkv_bias=None,
        qk_norm=False,
        initializer_range=0.02,
        output_range=None,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if remat and cross_attention:
            raise ValueError("remat must be False with cross_attention; got True")  # its gradient would miss the memory
        self.remat, self.causal, self.cross_attention = remat, causal, cross_attention
        self.dim, self.num_heads, self.num_kv_heads, self.hidden_dim = dim, num_heads, num_kv_heads, hidden_dim
        self.head_dim, self.qkv_bias, self.qk_norm = head_dim, qkv_bias, qk_norm
        self.rotary_factor, self.rotary_original_length = rotary_factor, rotary_original_length
        self.rotary_low_factor, self.rotary_high_factor = rotary_low_factor, rotary_high_factor
        self.dropout, self.rotary_base, self.norm, self.norm_epsilon = dropout, rotary_base, norm, norm_epsilon
        self.pre_norm, self.activation, self.use_bias = pre_norm, activation, use_bias
        self.initializer_range, self.output_range = initializer_range, output_range
        settings = {"use_bias": use_bias, "initializer_range": initializer_range, "output_range": output_range}
        self.attention = SelfAttention(
            dim,
            num_heads,
            causal=causal,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            dropout=dropout,
            rotary_base=rotary_base,
            rotary_factor=rotary_factor,
            rotary_original_length=rotary_original_length,
            rotary_low_factor=rotary_low_factor,
            rotary_high_factor=rotary_high_factor,
            qk_norm=qk_norm,
            norm_epsilon=norm_epsilon,
            qkv_bias=qkv_bias,
            dtype=self.dtype_policy,
            **settings,
        )
        self.feed_forward = FeedForward(
            dim, hidden_dim or 4 * dim, activation=activation, dtype=self.dtype_policy, **settings
        )
        self.reading = self.reading_norm = None
        if cross_attention:
            self.reading = CrossAttention(dim, num_heads, dropout=dropout, dtype=self.dtype_policy, **settings)
            self.reading_norm = make_norm(norm, norm_epsilon, use_bias, dtype=self.dtype_policy)
        self.attention_norm = make_norm(norm, norm_epsilon, use_bias, dtype=self.dtype_policy)
        self.feed_forward_norm = make_norm(norm, norm_epsilon, use_bias, dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        # Without it, Keras would trace the whole block to find the shapes: most of the time that making a model takes.
        for part in (self.attention, self.feed_forward, self.attention_norm, self.feed_forward_norm):
            part.build(input_shape)
        for part in (self.reading, self.reading_norm) if self.cross_attention else ():
            part.build(input_shape)

    def call(
        self,
        x,
        cache=None,
        position=None,
        positions=None,
        lengths=None,
        memory=None,
        memory_mask=None,
        training=False,
        return_weights=False,
    ):
        settings = {"position": position, "positions": positions, "lengths": lengths, "training": training}
        if self.remat and training and cache is None:
            return _rematerialized(lambda x: self._call(x, **settings)[0], self._seeds())(x), None
        y, cache, weights = self._call(x, cache=cache, memory=memory, memory_mask=memory_mask, **settings)
        return (y, cache, weights) if return_weights else (y, cache)

    def _call(self, x, *, training, cache=None, memory=None, memory_mask=None, **settings):
        y = normalized(self.attention_norm, x, training) if self.pre_norm else x
        y, cache = self.attention(y, cache=cache, training=training, **settings)
        x = x + self.drop(y, training=training)
        if not self.pre_norm:
            x = normalized(self.attention_norm, x, training)
        weights = None
        if self.cross_attention:
            y = normalized(self.reading_norm, x, training) if self.pre_norm else x
            y, weights = self.reading(y, memory, memory_mask, training=training, return_weights=True)
            x = x + self.drop(y, training=training)
            x = x if self.pre_norm else normalized(self.reading_norm, x, training)
        y = normalized(self.feed_forward_norm, x, training) if self.pre_norm else x
        x = x + self.drop(self.feed_forward(y, training=training), training=training)
        return (x if self.pre_norm else normalized(self.feed_forward_norm, x, training)), cache, weights

    def _seeds(self):
        """Returns the variables that dropout draws from: a seed and how often it was drawn from, int [2]."""
        drops = [self.drop, self.attention.drop] if self.dropout else []
        return [drop.seed_generator.state.value for drop in drops]


def _rematerialized(function, seeds):
    """Returns a function of one tensor that forgets all between input and output, and computes it again for its gradient.

    Both runs draw from the same seeds, so dropout leaves out the same features.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    first = [tf.identity(seed) for seed in seeds]

    def run(x):
        now = [tf.identity(seed) for seed in seeds]
        for seed, value in zip(seeds, first, strict=True):
            seed.assign(value)
        y = function(x)
        for seed, value in zip(seeds, now, strict=True):
            seed.assign(tf.maximum(seed, value))  # the second run leaves the count where others have moved it
        return y

    return tf.recompute_grad(run)


def make_norm(norm, epsilon, use_bias, dtype):
    """Returns a Keras normalisation layer.

    Args:
        norm: "layer" (Ba et al. 2016, arXiv:1607.06450) or "rms" (Zhang and Sennrich 2019, arXiv:1910.07467).
        epsilon: float, added to the variance.
        use_bias: bool, whether layer normalisation has a shift; RMS normalisation never has.
        dtype: the dtype policy.

    Raises:
        ValueError: on another `norm`.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}; got {norm!r}")
    if norm == "rms":
        return keras.layers.RMSNormalization(epsilon=epsilon, dtype=dtype)
    return keras.layers.LayerNormalization(epsilon=epsilon, center=use_bias, dtype=dtype)


def normalized(norm, x, training):
    """Returns what a layer of `make_norm` makes of x, float [..., D]; training: bool."""
    if not pays(x, training):
        return norm(x)
    if isinstance(norm, keras.layers.RMSNormalization):
        return normalize(x, norm.scale, None, norm.epsilon, centered=False)
    return normalize(x, norm.gamma, norm.beta if norm.center else None, norm.epsilon)
