"""Attention: of tokens to those before them, with a cache that goes in and comes out as a value; to all tokens of their text;
and to what an encoder made of another text.

The cache, and what is read of another text, is `{"k", "v"}`, each [B, G, S, K]: G key-value heads, S slots. That order lets one
batched product read it as it lies. Left out: attention over a part of the cache.
"""

import keras
import tensorflow as tf

from tfllm.layers.embedding import rotary_rates, rotate
from tfllm.layers.one_pass import masked_softmax, pays
from tfllm.layers.projection import Projection


@keras.saving.register_keras_serializable("tfllm")
class SelfAttention(keras.layers.Layer):
    """Every token looks at itself and at the tokens before it, or at all tokens of its text.

    Args:
        dim: int D, size of input and output.
        num_heads: int H, must divide `dim` unless `head_dim` is given.
        causal: bool, whether a token sees only those before it; without, there is no cache.
        num_kv_heads: int G, key-value heads, must divide H; None means H. Fewer make a smaller cache (Ainslie et al. 2023,
            arXiv:2305.13245).
        head_dim: int K, features of a head; None means D / H.
        dropout: float in [0, 1), share of attention weights left out in training.
        rotary_base: float, or None for no rotary positions.
        rotary_factor, rotary_original_length, rotary_low_factor, rotary_high_factor: `factor`, `original_length`,
            `low_factor` and `high_factor` of `layers.rotary_rates`.
        qk_norm: bool, whether every head's queries and keys go through RMS normalisation before they are turned (Henry et
            al. 2020, arXiv:2010.04245; so in Qwen3).
        norm_epsilon: float, of these normalisations.
        use_bias: bool, whether the two projections have one.
        qkv_bias: bool, whether the projection to queries, keys and values has one; None means `use_bias`.
        initializer_range: float, standard deviation of the first weights.
        output_range: float, the same for the output projection; None means `initializer_range`.

    Raises:
        ValueError: when the heads do not divide, or `rotary_rates` refuses.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(
        self,
        dim,
        num_heads,
        *,
        causal=True,
        num_kv_heads=None,
        head_dim=None,
        dropout=0.0,
        rotary_base=None,
        rotary_factor=1.0,
        rotary_original_length=None,
        rotary_low_factor=1.0,
        rotary_high_factor=4.0,
        qk_norm=False,
        norm_epsilon=1e-5,
        use_bias=True,
        qkv_bias=None,
        initializer_range=0.02,
        output_range=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or (head_dim is None and dim % num_heads):
            raise ValueError(f"dim must be divisible by num_heads; got dim={dim}, num_heads={num_heads}")
        if num_kv_heads is not None and (num_kv_heads < 1 or num_heads % num_kv_heads):
            raise ValueError(f"num_heads must be divisible by num_kv_heads; got {num_heads} and {num_kv_heads}")
        if head_dim is not None and head_dim < 1:
            raise ValueError(f"head_dim must be at least 1; got {head_dim}")
        self.dim, self.num_heads, self.num_kv_heads, self.dropout = dim, num_heads, num_kv_heads, dropout
        self.causal, self.head_dim, self.rotary_base, self.rotary_factor = causal, head_dim, rotary_base, rotary_factor
        self.rotary_original_length, self.rotary_low_factor = rotary_original_length, rotary_low_factor
        self.rotary_high_factor, self.qk_norm, self.norm_epsilon = rotary_high_factor, qk_norm, norm_epsilon
        self.use_bias, self.qkv_bias = use_bias, qkv_bias
        self.initializer_range, self.output_range = initializer_range, output_range
        self._kv_heads = num_kv_heads or num_heads
        self._head_dim = head_dim or dim // num_heads
        self._rates = None
        if rotary_base is not None:
            self._rates = rotary_rates(
                self._head_dim,
                rotary_base,
                factor=rotary_factor,
                original_length=rotary_original_length,
                low_factor=rotary_low_factor,
                high_factor=rotary_high_factor,
            )
        normal = keras.initializers.RandomNormal(stddev=initializer_range)
        narrow = keras.initializers.RandomNormal(stddev=output_range or initializer_range)
        self.query_key_value = Projection(
            (num_heads + 2 * self._kv_heads) * self._head_dim,
            use_bias=use_bias if qkv_bias is None else qkv_bias,
            kernel_initializer=normal,
            dtype=self.dtype_policy,
            name="query_key_value",
        )
        self.output_projection = Projection(
            dim, use_bias=use_bias, kernel_initializer=narrow, dtype=self.dtype_policy, name="output_projection"
        )
        self.query_norm = self.key_norm = None
        if qk_norm:
            self.query_norm = keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=self.dtype_policy)
            self.key_norm = keras.layers.RMSNormalization(epsilon=norm_epsilon, dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.query_key_value.build(input_shape)
        self.output_projection.build((*input_shape[:-1], self.num_heads * self._head_dim))
        for norm in (self.query_norm, self.key_norm) if self.qk_norm else ():
            norm.build((*input_shape[:-1], self._head_dim))

    def initial_cache(self, batch_size, slots):
        """Returns an empty cache of `slots` tokens for each of `batch_size` rows; ints or int32 scalars."""
        shape = [batch_size, self._kv_heads, slots, self._head_dim]
        return {"k": tf.zeros(shape, self.compute_dtype), "v": tf.zeros(shape, self.compute_dtype)}

    def call(self, x, cache=None, position=None, positions=None, lengths=None, training=False):
        """Attends within x, within each document of x, or within the cache after x is written to it.

        Args:
            x: float [B, T, D].
            cache: what `initial_cache` or an earlier call returned, or None.
            position: int32 [B], tokens already in each row's cache; needed with a cache.
            positions: int32 [B, T], where each token stands in its document (`layers.document_positions`), or None for
                rows of one document; not with a cache.
            lengths: int32 [B], how many tokens of each row are real, where attention is not causal; None for all.
            training: bool, whether dropout acts.

        Returns:
            (float [B, T, D], the new cache or None).
        """
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        heads, kv_heads = self.num_heads, self._kv_heads
        joint = tf.reshape(self.query_key_value(x), [batch, time, heads + 2 * kv_heads, self._head_dim])
        joint = tf.transpose(joint, [0, 2, 1, 3])  # [B, H + 2 G, T, K]
        # Split, because the gradient of a slice is as large as the whole.
        turned, value = tf.split(joint, [heads + kv_heads, kv_heads], 1)
        if self.qk_norm:
            turned = tf.concat([self.query_norm(turned[:, :heads]), self.key_norm(turned[:, heads:])], 1)
        position = tf.zeros([1], tf.int32) if cache is None else position
        if self.rotary_base is not None:
            places = position[:, None] + tf.range(time) if positions is None else positions
            turned = rotate(turned, places, self._rates)
        query, key = tf.split(turned, [heads, kv_heads], 1)
        query = query * self._head_dim**-0.5
        if cache is not None:
            cache = {"k": write_cache(cache["k"], key, position), "v": write_cache(cache["v"], value, position)}
            key, value = cache["k"], cache["v"]

        slots = tf.shape(key)[2]
        # The query heads that share a key-value head become more rows of one product.
        query = tf.reshape(query, [batch, kv_heads, heads // kv_heads * time, self._head_dim])
        scores = tf.reshape(tf.matmul(query, key, transpose_b=True), [batch, heads, time, slots])
        if self.causal:
            mask = causal_mask(position, time, slots) if positions is None else document_mask(positions)
        else:
            mask = None if lengths is None else length_mask(lengths, slots)
        weights = tf.cast(_softmax(scores, mask, training), self.compute_dtype)
        weights = self.drop(weights, training=training)
        weights = tf.reshape(weights, [batch, kv_heads, heads // kv_heads * time, slots])
        y = tf.reshape(tf.matmul(weights, value), [batch, heads, time, self._head_dim])
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [batch, time, heads * self._head_dim])
        return self.output_projection(y), cache


@keras.saving.register_keras_serializable("tfllm")
class CrossAttention(keras.layers.Layer):
    """Every token looks at all tokens of another text, as an encoder gave them.

    `read` turns those into keys and values, once a text; `call` attends to them, as often as tokens come.

    Args:
        dim: int D, size of input and output.
        num_heads: int H, must divide `dim`.
        dropout: float in [0, 1), share of attention weights left out in training.
        use_bias: bool, whether the projections have one.
        initializer_range: float, standard deviation of the first weights.
        output_range: float, the same for the output projection; None means `initializer_range`.

    Raises:
        ValueError: when the heads do not divide.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """

    def __init__(
        self, dim, num_heads, *, dropout=0.0, use_bias=True, initializer_range=0.02, output_range=None, **kwargs
    ):
        super().__init__(**kwargs)
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads; got dim={dim}, num_heads={num_heads}")
        self.dim, self.num_heads, self.dropout, self.use_bias = dim, num_heads, dropout, use_bias
        self.initializer_range, self.output_range = initializer_range, output_range

        def dense(units, deviation, name):
            normal = keras.initializers.RandomNormal(stddev=deviation)
            return Projection(units, use_bias=use_bias, kernel_initializer=normal, dtype=self.dtype_policy, name=name)

        self.query = dense(dim, initializer_range, "query")
        self.key_value = dense(2 * dim, initializer_range, "key_value")
        self.output_projection = dense(dim, output_range or initializer_range, "output_projection")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.query.build(input_shape)
        self.key_value.build((None, None, self.dim))  # the encoder's features are as wide
        self.output_projection.build(input_shape)

    def read(self, features):
        """Returns `{"k", "v"}`, float [B, H, S, K], of another text's features, float [B, S, D]."""
        batch, slots = tf.shape(features)[0], tf.shape(features)[1]
        joint = tf.reshape(self.key_value(features), [batch, slots, 2 * self.num_heads, self.dim // self.num_heads])
        key, value = tf.split(tf.transpose(joint, [0, 2, 1, 3]), 2, 1)
        return {"k": key, "v": value}

    def call(self, x, memory, mask, training=False, return_weights=False):
        """Attends to another text.

        Args:
            x: float [B, T, D].
            memory: what `read` gave.
            mask: bool, broadcast to [B, H, T, S], True where a token may be read; `length_mask` makes it.
            training: bool, whether dropout acts.
            return_weights: bool, whether the weights come back, too.

        Returns:
            float [B, T, D]; with `return_weights`, that and float [B, H, T, S], the weights before dropout.
        """
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        query = tf.reshape(self.query(x), [batch, time, self.num_heads, self.dim // self.num_heads])
        query = tf.transpose(query, [0, 2, 1, 3]) * (self.dim // self.num_heads) ** -0.5
        scores = tf.matmul(query, memory["k"], transpose_b=True)  # [B, H, T, S]
        weights = _softmax(scores, mask, training)
        y = tf.matmul(self.drop(tf.cast(weights, self.compute_dtype), training=training), memory["v"])
        y = self.output_projection(tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [batch, time, self.dim]))
        return (y, weights) if return_weights else y


def _softmax(scores, mask, training):
    """Returns the softmax of scores [..., S] over what a mask (bool, broadcast; None for all) lets through; float32 or wider, but
    in the dtype of scores where one pass pays."""
    if pays(scores, training):
        return masked_softmax(scores, mask)
    scores = scores if scores.dtype == tf.float64 else tf.cast(scores, tf.float32)
    if mask is None:
        return tf.nn.softmax(scores)
    # Subtracting is cheaper than choosing; a sum would be fused with the product, into a kernel that is very slow on CPUs.
    return tf.nn.softmax(scores - tf.cast(tf.where(mask, 0.0, 1e9), scores.dtype))


def length_mask(lengths, num_slots):
    """Says which tokens are real: the first of every row.

    Args:
        lengths: int32 [B].
        num_slots: int S, tokens of a row with its padding.

    Returns:
        bool [B, 1, 1, S], True where a token is real.

    Example:
        >>> length_mask(tf.constant([1, 3]), 3)[:, 0, 0].numpy().astype(int)
        array([[1, 0, 0],
               [1, 1, 1]])
    """
    return (tf.range(num_slots) < lengths[:, None])[:, None, None]


def causal_mask(position, num_queries, num_slots):
    """Says which cache slots each query may read.

    A query at absolute position p reads slots 0..p. Slots written beyond a row's position (padding, rejected drafts)
    therefore stay invisible.

    Args:
        position: int32 [B], tokens already in each row's cache.
        num_queries: int T, tokens in this call.
        num_slots: int S, slots in the cache.

    Returns:
        bool [B, 1, T, S], True where the query may read the slot.

    Example:
        >>> causal_mask(tf.constant([1]), 2, 4)[0, 0].numpy().astype(int)
        array([[1, 1, 0, 0],
               [1, 1, 1, 0]])

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """
    queries = position[:, None] + tf.range(num_queries)  # [B, T]
    return (tf.range(num_slots) <= queries[:, :, None])[:, None]  # [B, 1, T, S]


def document_mask(positions):
    """Says which tokens of a packed row each token may read: those of its own document, up to itself.

    Args:
        positions: int32 [B, T], where each token stands in its document, as `layers.document_positions` gives it.

    Returns:
        bool [B, 1, T, T], True where the query (third axis) may read the key (fourth axis).

    Example:
        >>> document_mask(tf.constant([[0, 1, 0, 1]]))[0, 0].numpy().astype(int)
        array([[1, 0, 0, 0],
               [1, 1, 0, 0],
               [0, 0, 1, 0],
               [0, 0, 1, 1]])

    Source: Raffel et al. 2020, arXiv:1910.10683, packs documents; Krell et al. 2021, arXiv:2107.02027, masks them.
    """
    keys = tf.range(tf.shape(positions)[1])
    begins = keys - positions  # [B, T], where the document of each query begins
    return ((begins[:, :, None] <= keys) & (keys <= keys[:, None]))[:, None]


def write_cache(cache, new, position):
    """Writes the tokens of one call into the cache of every row, from that row's position on.

    What would fall beyond the last slot is left out: only padding and rows that stand still can reach there.

    Args:
        cache: float [B, G, S, K].
        new: float [B, G, T, K].
        position: int32 [B], the first slot to write.

    Returns:
        float [B, G, S, K], a new tensor.

    Example:
        >>> cache, new = tf.zeros([2, 1, 3, 1]), tf.ones([2, 1, 2, 1])
        >>> write_cache(cache, new, tf.constant([0, 2]))[:, 0, :, 0].numpy()
        array([[1., 1., 0.],
               [0., 0., 1.]], dtype=float32)
    """
    batch, heads, time = tf.shape(new)[0], new.shape[1], tf.shape(new)[2]
    shape = [batch, heads, time]
    rows = tf.broadcast_to(tf.range(batch)[:, None, None], shape)
    columns = tf.broadcast_to(tf.range(heads)[None, :, None], shape)
    slots = tf.broadcast_to((position[:, None] + tf.range(time))[:, None], shape)
    return tf.raw_ops.TensorScatterUpdate(
        tensor=cache,
        indices=tf.stack([rows, columns, slots], -1),
        updates=tf.cast(new, cache.dtype),
        bad_indices_policy="IGNORE",
    )
