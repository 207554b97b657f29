"""Encoders: features of every token that see the whole text, before and behind.

Inputs are a dict of `"ids"`, int32 [B, T], padded on the right with any id, and `"lengths"`, int32 [B], how many of them are
real; models of texts in two parts also read `"segments"`, int32 [B, T]. Features of padding mean nothing, and what stands there
changes no other. Pre-training is masked language modelling: `data.masked_language_model` makes the batches, `fit` the rest.
"""

import collections.abc

import keras
import tensorflow as tf

from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions
from tfllm.layers.projection import Projection, TokenEmbedding
from tfllm.layers.recurrent import BidirectionalStack
from tfllm.layers.transformer import TransformerBlock, activate, make_norm, normalized
from tfllm.models.fitting import FittedModel, checked_ids, checked_on_host
from tfllm.models.transformer import POSITIONS
from tfllm.training.losses import lm_loss, widen


class Encoder(FittedModel):
    """A model of whole texts. Concrete encoders supply `_encode`.

    Attributes:
        vocab_size: int V, ids run from 0 to V - 1.
        max_length: int, the most tokens of a text, or None for no limit.
        dim: int D, size of the features.
    """

    max_length = None

    def features(self, inputs, training=False):
        """Reads texts.

        Args:
            inputs: dict of tensors, see above; or int32 [B, T] ids, all of them real.
            training: bool, whether dropout acts.

        Returns:
            float [B, T, D].

        Raises:
            ValueError: when T is above `max_length`, or inputs are not such a dict; outside a graph, also on an id out of the
                vocabulary.
        """
        ids, lengths, segments = _parts_of(inputs)
        lengths = None if lengths is None else tf.cast(lengths, tf.int32)
        ids = checked_ids(ids, self.vocab_size)
        rule = f"ids must have at most max_length={self.max_length} tokens; got"
        if self.max_length is not None and ids.shape[1] is None:
            time = tf.shape(ids)[1]
            with tf.control_dependencies([tf.debugging.Assert(time <= self.max_length, [rule, time])]):
                ids = tf.identity(ids)
        elif self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(f"{rule} {ids.shape[1]}")
        return self._encode(ids, lengths, segments, training)

    def call(self, inputs, training=False):
        """Says which token stands at every place; the arguments are those of `features`.

        Returns:
            float32 [B, T, V], logits of the token at each place, for masked language modelling.
        """
        return self.logits(self.features(inputs, training))

    def logits(self, features):
        """Returns float32 [B, T, V] (float64 in a float64 model), logits of features [B, T, D]."""
        return widen(self.embedding(features, reverse=True))

    def _encode(self, ids, lengths, segments, training):
        """Returns float [B, T, D]; lengths int32 [B] and segments int32 [B, T] may be None."""
        raise NotImplementedError

    def batch_totals(self, batch, training=True):
        """Returns the totals of `training.lm_loss`: nats and accuracy of the tokens that have weight, the masked ones."""
        return lm_loss(self, batch, training=training)

    def _check_batch(self, *batch):
        inputs, *targets = batch[:2]
        ids, lengths, _ = _parts_of(inputs)
        limit = f"vocab_size={self.vocab_size}"
        rules = [("inputs", ids, 0, self.vocab_size, limit)]
        rules += [("targets", values, 0, self.vocab_size, limit) for values in targets]
        if lengths is not None:
            rules.append(("lengths", lengths, 0, tf.shape(ids)[1] + 1, "T + 1"))
        return checked_on_host(batch, rules)


@keras.saving.register_keras_serializable("tfllm")
class TransformerEncoder(Encoder):
    """A Transformer whose tokens see each other both ways; the head is the transposed embedding.

    The defaults are those of `TransformerLM`. BERT's layout is `pre_norm=False, num_segments=2, embedding_norm=True,
    activation="gelu_exact", norm_epsilon=1e-12, use_bias=True`, and `prediction_head=True` where the checkpoint has its head.

    Args:
        vocab_size: int V.
        max_length: int, the most tokens of a text.
        dim, num_layers, num_heads, hidden_dim, dropout, norm, norm_epsilon, pre_norm, activation, use_bias, initializer_range: as
            in `TransformerLM`.
        positions: "learned", "sinusoidal" or "rotary".
        num_segments: int, parts that a text may have, each with a vector of its own, added to its tokens; 0 for no such vectors.
        embedding_norm: bool, whether the sum of token, position and segment vectors is normalised.
        prediction_head: bool, whether features go through a projection, the activation and a normalisation before the transposed
            embedding, which then has a bias, as in BERT.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: on sizes that do not divide or an unknown `positions`, `norm` or `activation`.

    Example:
        >>> model = TransformerEncoder(65, max_length=64, dim=32, num_layers=2, num_heads=4)
        >>> inputs = {"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])}
        >>> model.features(inputs).shape
        TensorShape([2, 3, 32])

    Source: Devlin et al. 2019 (BERT), arXiv:1810.04805, section 3.
    """

    def __init__(
        self,
        vocab_size,
        max_length=128,
        dim=128,
        num_layers=4,
        num_heads=4,
        *,
        hidden_dim=None,
        dropout=0.0,
        positions="learned",
        num_segments=0,
        embedding_norm=False,
        prediction_head=False,
        norm="layer",
        norm_epsilon=1e-5,
        pre_norm=True,
        activation="gelu",
        use_bias=False,
        initializer_range=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}; got {positions!r}")
        if max_length < 1 or num_segments < 0:
            raise ValueError(
                f"max_length must be at least 1 and num_segments at least 0; got {max_length} and {num_segments}"
            )
        self.vocab_size, self.max_length, self.dim, self.num_layers = vocab_size, max_length, dim, num_layers
        self.num_heads, self.hidden_dim, self.dropout, self.positions = num_heads, hidden_dim, dropout, positions
        self.num_segments, self.embedding_norm, self.norm = num_segments, embedding_norm, norm
        self.norm_epsilon, self.pre_norm, self.activation = norm_epsilon, pre_norm, activation
        self.use_bias, self.initializer_range, self.prediction_head = use_bias, initializer_range, prediction_head
        policy = self.dtype_policy
        normal = keras.initializers.RandomNormal(stddev=initializer_range)
        self.embedding = TokenEmbedding(vocab_size, dim, tie_weights=True, embeddings_initializer=normal, dtype=policy)
        self.place = self.segment = self.first_norm = None
        if positions == "learned":
            self.place = LearnedPositions(max_length, dim, initializer_range=initializer_range, dtype=policy)
        elif positions == "sinusoidal":
            self.place = SinusoidalPositions(dim, dtype=policy)
        if num_segments:
            self.segment = keras.layers.Embedding(num_segments, dim, embeddings_initializer=normal, dtype=policy)
        if embedding_norm:
            self.first_norm = make_norm(norm, norm_epsilon, use_bias, dtype=policy)
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self.blocks = [
            TransformerBlock(
                dim,
                num_heads,
                causal=False,
                hidden_dim=hidden_dim,
                dropout=dropout,
                rotary_base=10000.0 if positions == "rotary" else None,
                norm=norm,
                norm_epsilon=norm_epsilon,
                pre_norm=pre_norm,
                activation=activation,
                use_bias=use_bias,
                initializer_range=initializer_range,
                output_range=initializer_range / (2 * num_layers) ** 0.5 if pre_norm else None,
                dtype=policy,
                name=f"block_{i}",
            )
            for i in range(num_layers)
        ]
        self.final_norm = make_norm(norm, norm_epsilon, use_bias, dtype=policy) if pre_norm else None
        self.prediction = None
        if prediction_head:
            self.prediction = PredictionHead(
                vocab_size, dim, activation=activation, norm=norm, norm_epsilon=norm_epsilon, dtype=policy
            )
        self._create_weights()

    def logits(self, features):
        if self.prediction is None:
            return super().logits(features)
        return widen(self.embedding(self.prediction(features), reverse=True)) + widen(self.prediction.bias.value)

    def _encode(self, ids, lengths, segments, training):
        x = self.embedding(ids)
        if self.place is not None:
            x = self.place(x, tf.range(tf.shape(ids)[1])[None])
        if self.segment is not None:
            x = x + self.segment(tf.zeros_like(ids) if segments is None else segments)
        x = x if self.first_norm is None else self.first_norm(x)
        x = self.drop(x, training=training)
        for block in self.blocks:
            x, _ = block(x, lengths=lengths, training=training)
        return normalized(self.final_norm, x, training) if self.pre_norm else x


@keras.saving.register_keras_serializable("tfllm")
class PredictionHead(keras.layers.Layer):
    """What BERT does to features before the transposed embedding makes logits of them, and the bias of those.

    Args:
        vocab_size: int V.
        dim: int D.
        activation, norm, norm_epsilon: as in `TransformerEncoder`, but not "swiglu".

    Call:
        x: float [B, T, D]. Returns float [B, T, D].

    Source: Devlin et al. 2019, arXiv:1810.04805, the released `run_pretraining`.
    """

    def __init__(self, vocab_size, dim, *, activation="gelu_exact", norm="layer", norm_epsilon=1e-12, **kwargs):
        super().__init__(**kwargs)
        if activation == "swiglu":
            raise ValueError("activation must be of one projection with a prediction_head; got 'swiglu'")
        self.vocab_size, self.dim, self.activation = vocab_size, dim, activation
        self.norm, self.norm_epsilon = norm, norm_epsilon
        self.dense = Projection(dim, dtype=self.dtype_policy, name="dense")
        self.scale = make_norm(norm, norm_epsilon, True, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.scale.build(input_shape)
        self.bias = self.add_weight(shape=(self.vocab_size,), initializer="zeros", name="bias")

    def call(self, x):
        return self.scale(activate(self.dense(x), self.activation))


@keras.saving.register_keras_serializable("tfllm")
class RecurrentEncoder(Encoder):
    """Recurrent layers that read every text forwards and backwards; the head is the transposed embedding.

    Args:
        vocab_size: int V.
        cell: "lstm", "gru" or "rnn".
        dim: int D, even: each direction has half of it.
        num_layers: int, pairs of layers.
        dropout: float in [0, 1), on the embeddings and between the layers.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: on an unknown `cell` or an odd `dim`.

    Example:
        >>> model = RecurrentEncoder(65, cell="gru", dim=32)
        >>> model.features({"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])}).shape
        TensorShape([2, 3, 32])

    Source: Schuster and Paliwal 1997, Bidirectional Recurrent Neural Networks, IEEE Transactions on Signal Processing 45(11).
    """

    def __init__(self, vocab_size, cell="lstm", dim=128, num_layers=1, *, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.cell, self.dim, self.num_layers, self.dropout = vocab_size, cell, dim, num_layers, dropout
        policy = self.dtype_policy
        self.embedding = TokenEmbedding(vocab_size, dim, tie_weights=True, dtype=policy)
        self.recurrence = BidirectionalStack(cell, dim, num_layers, dropout=dropout, dtype=policy)
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self._create_weights()

    def _encode(self, ids, lengths, segments, training):
        x = self.drop(self.embedding(ids), training=training)
        return self.recurrence(x, lengths=lengths, training=training)


def _parts_of(inputs):
    """Returns (ids, lengths or None, segments or None) of an encoder's inputs."""
    if not isinstance(inputs, collections.abc.Mapping):
        return inputs, None, None
    unknown = set(inputs) - {"ids", "lengths", "segments"}
    if "ids" not in inputs or unknown:
        raise ValueError(f"inputs must be a dict of 'ids', 'lengths' and 'segments'; got one of {sorted(inputs)}")
    return inputs["ids"], inputs.get("lengths"), inputs.get("segments")
