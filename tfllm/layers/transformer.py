"""The Transformer block: attention and a feed-forward network, each with a normalisation and a short cut."""

import keras
import tensorflow as tf

from tfllm.layers.attention import CausalSelfAttention
from tfllm.layers.one_pass import gelu, normalize, pays, swiglu
from tfllm.layers.projection import Projection

NORMS = ("layer", "rms")
ACTIVATIONS = ("gelu", "relu", "swiglu")
_IN_ONE_PASS = {"gelu": gelu, "swiglu": swiglu}


@keras.saving.register_keras_serializable("tfllm")
class FeedForward(keras.layers.Layer):
    """Two projections with a nonlinearity between them, or SwiGLU's three.

    Args:
        dim: int D, size of input and output.
        hidden_dim: int, size between the projections.
        activation: "gelu" (GPT-2's tanh form), "relu" or "swiglu" (Shazeer 2020, arXiv:2002.05202).
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
        elif self.activation == "gelu":
            x = keras.ops.gelu(x, approximate=True)
        else:
            x = keras.ops.relu(x)
        return self.down(x)


@keras.saving.register_keras_serializable("tfllm")
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network; see `TransformerLM` for the arguments.

    Call:
        x: float [B, T, D]; cache, position, positions, training as in `CausalSelfAttention.call`.
        Returns (float [B, T, D], the new cache or None).
    """

    def __init__(
        self,
        dim,
        num_heads,
        *,
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
        self.remat = remat
        self.dim, self.num_heads, self.num_kv_heads, self.hidden_dim = dim, num_heads, num_kv_heads, hidden_dim
        self.head_dim, self.qkv_bias, self.qk_norm = head_dim, qkv_bias, qk_norm
        self.rotary_factor, self.rotary_original_length = rotary_factor, rotary_original_length
        self.rotary_low_factor, self.rotary_high_factor = rotary_low_factor, rotary_high_factor
        self.dropout, self.rotary_base, self.norm, self.norm_epsilon = dropout, rotary_base, norm, norm_epsilon
        self.pre_norm, self.activation, self.use_bias = pre_norm, activation, use_bias
        self.initializer_range, self.output_range = initializer_range, output_range
        settings = {"use_bias": use_bias, "initializer_range": initializer_range, "output_range": output_range}
        self.attention = CausalSelfAttention(
            dim,
            num_heads,
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
        self.attention_norm = make_norm(norm, norm_epsilon, use_bias, dtype=self.dtype_policy)
        self.feed_forward_norm = make_norm(norm, norm_epsilon, use_bias, dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        # Without it, Keras would trace the whole block to find the shapes: most of the time that making a model takes.
        for part in (self.attention, self.feed_forward, self.attention_norm, self.feed_forward_norm):
            part.build(input_shape)

    def call(self, x, cache=None, position=None, positions=None, training=False):
        if self.remat and training and cache is None:
            return _rematerialized(lambda x: self._call(x, None, position, positions, training)[0], self._seeds())(
                x
            ), None
        return self._call(x, cache, position, positions, training)

    def _call(self, x, cache, position, positions, training):
        y = normalized(self.attention_norm, x, training) if self.pre_norm else x
        y, cache = self.attention(y, cache=cache, position=position, positions=positions, training=training)
        x = x + self.drop(y, training=training)
        if not self.pre_norm:
            x = normalized(self.attention_norm, x, training)
        y = normalized(self.feed_forward_norm, x, training) if self.pre_norm else x
        x = x + self.drop(self.feed_forward(y, training=training), training=training)
        return (x if self.pre_norm else normalized(self.feed_forward_norm, x, training)), cache

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
