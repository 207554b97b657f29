"""NGramEncoder: tokens that know the few before them by heart, for classes of short texts with little data."""

import keras
import tensorflow as tf

from tfllm.layers.projection import TokenEmbedding
from tfllm.layers.transformer import TransformerBlock, make_norm
from tfllm.models import Encoder

_MULTIPLIER = 1_000_003


@keras.saving.register_keras_serializable("tfllm")
class NGramEncoder(Encoder):
    """Adds to each token's vector those of the n-grams that end with it, found by hashing, and lets Transformer blocks mix them.

    Without blocks and with the mean over all tokens, a classifier on it is fastText's. Dropping tokens whole in training keeps it
    from relying on single ones.

    Args:
        vocab_size: int V.
        max_length: int, the most tokens of a text.
        dim: int D.
        num_layers: int >= 0, Transformer blocks.
        num_heads: int.
        max_ngram: int >= 1, tokens of the longest n-grams.
        num_buckets: int >= 1, vectors that all n-grams of two tokens and more share.
        dropout: float in [0, 1), on features.
        token_dropout: float in [0, 1), the share of tokens that are dropped whole.
        **kwargs: `name`, `dtype`.

    Example:
        >>> model = NGramEncoder(65, dim=16, num_layers=0, num_buckets=64)
        >>> model.features({"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])}).shape
        TensorShape([2, 3, 16])

    Source: Joulin et al. 2017, arXiv:1607.01759, section 2.
    """

    def __init__(
        self,
        vocab_size,
        max_length=128,
        dim=64,
        num_layers=1,
        num_heads=4,
        *,
        max_ngram=3,
        num_buckets=2**16,
        dropout=0.1,
        token_dropout=0.2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, least in (("max_ngram", max_ngram, 1), ("num_buckets", num_buckets, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}; got {value!r}")
        self.vocab_size, self.max_length, self.dim, self.num_layers = vocab_size, max_length, dim, num_layers
        self.num_heads, self.max_ngram, self.num_buckets = num_heads, max_ngram, num_buckets
        self.dropout, self.token_dropout = dropout, token_dropout
        policy = self.dtype_policy
        normal = keras.initializers.RandomNormal(stddev=0.05)
        self.embedding = TokenEmbedding(vocab_size, dim, tie_weights=True, embeddings_initializer=normal, dtype=policy)
        self.ngrams = None
        if max_ngram > 1:
            self.ngrams = keras.layers.Embedding(num_buckets, dim, embeddings_initializer=normal, dtype=policy)
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self.drop_tokens = keras.layers.Dropout(token_dropout, dtype=policy)
        self.blocks = [
            TransformerBlock(
                dim, num_heads, causal=False, dropout=dropout, rotary_base=10000.0, dtype=policy, name=f"block_{i}"
            )
            for i in range(num_layers)
        ]
        self.final_norm = make_norm("layer", 1e-5, False, dtype=policy) if num_layers else None
        self._create_weights()

    def _encode(self, ids, lengths, segments, training):
        x, number = self.embedding(ids), tf.cast(ids, tf.int64)
        for length in range(2, self.max_ngram + 1):
            before = tf.pad(ids, [[0, 0], [length - 1, 0]], constant_values=-1)[:, : tf.shape(ids)[1]]
            number = tf.math.floormod(number * _MULTIPLIER + tf.cast(before, tf.int64) + length, 2**40)
            x += self.ngrams(tf.cast(number % self.num_buckets, tf.int32))
        x *= self.drop_tokens(tf.ones_like(x[..., :1]), training=training)
        x = self.drop(x, training=training)
        for block in self.blocks:
            x, _ = block(x, lengths=lengths, training=training)
        return x if self.final_norm is None else self.final_norm(x)
