"""Seq2Seq: a language model whose texts answer a source, which an encoder reads first.

Inputs of training and scoring are those of `data.pair_dataset`: a dict of `"source"`, int32 [B, S], padded on the right with any
id, `"source_lengths"`, int32 [B], and `"ids"`, int32 [B, T], what the decoder reads. For decoding, `encode` gives the context,
from which `initial_state` makes a state that carries it; from there on `step` is that of every language model.

With `copy`, a token may be taken from the source (`layers/copying.py`). What the head reads is then wider than `dim`: it holds
the features, the log-odds of writing against copying, and the probability of copying every token of the vocabulary.
"""

import collections.abc

import keras
import tensorflow as tf

from tfllm.layers.attention import CrossAttention, length_mask
from tfllm.layers.attentive import AttentiveRecurrence
from tfllm.layers.copying import copy_probabilities, mix_copied
from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions
from tfllm.layers.projection import Projection, TokenEmbedding
from tfllm.layers.transformer import TransformerBlock, make_norm, normalized
from tfllm.models.contract import LanguageModel
from tfllm.models.encoder import RecurrentEncoder, TransformerEncoder
from tfllm.models.transformer import POSITIONS
from tfllm.training.losses import widen

_INPUTS = ("ids", "source", "source_lengths")


class Seq2Seq(LanguageModel):
    """An encoder and a decoder that looks at what it made. Concrete models supply `_read`, `initial_state` and `_decode`.

    Attributes:
        encoder: `Encoder` of the sources.
        source_vocab_size: int, ids of the sources, or None where they have the vocabulary of the texts.
        max_source_length: int, the most tokens of a source, or None for no limit.
        copy: bool, whether tokens may be taken from the source; logits are then log-probabilities.
    """

    max_source_length = None

    def _make_ends(self, encoder, source_vocab_size, tied_embeddings, copy, initializer):
        """Makes embedding, head and the gate of copying; sources of the same vocabulary have the same embedding."""
        self.encoder, self.source_vocab_size, self.copy = encoder, source_vocab_size, copy
        self.tied_embeddings = tied_embeddings
        policy, self.embedding = self.dtype_policy, encoder.embedding
        if source_vocab_size is not None:
            self.embedding = TokenEmbedding(
                self.vocab_size, self.dim, tie_weights=True, embeddings_initializer=initializer, dtype=policy
            )
        self.projection = self.gate = None
        if not tied_embeddings:
            self.projection = Projection(self.vocab_size, use_bias=False, dtype=policy, name="dense")
        if copy:
            self.gate = Projection(1, dtype=policy, name="gate")
        self.drop = keras.layers.Dropout(self.dropout, dtype=policy)

    def _create_weights(self):
        zeros = tf.zeros([1, 1], tf.int32)
        self({"ids": zeros, "source": zeros, "source_lengths": tf.ones([1], tf.int32)})

    def read_source(self, source, lengths, training=False):
        """Returns float [B, S, D], the encoder's features of sources int32 [B, S] of which `lengths` int32 [B] ids are real."""
        return self.encoder.features({"ids": source, "lengths": tf.cast(lengths, tf.int32)}, training)

    def encode(self, source, lengths, training=False):
        """Reads sources, once for all tokens of their texts.

        Args:
            source: int32 [B, S], padded on the right with any id.
            lengths: int32 [B], how many ids of each are real.
            training: bool, whether dropout acts.

        Returns:
            The context, a dict of tensors (and nests of them), batch on axis 0 of every leaf.

        Raises:
            ValueError: when S is above `max_source_length`, ids are not whole numbers, and outside a graph, when an id is out of
                the vocabulary.
        """
        source, lengths = tf.convert_to_tensor(source), tf.cast(lengths, tf.int32)
        features = self.read_source(source, lengths, training)
        copied = {"source": tf.cast(source, tf.int32)} if self.copy else {}
        return {"lengths": lengths, "memory": self._read(features, lengths)} | copied

    def _read(self, features, lengths):
        """Returns what the decoder wants of a source's features float [B, S, D]: a nest, batch first."""
        raise NotImplementedError

    def _decode(self, ids, context, state, lengths, training):
        """Returns (what the head reads, the new state or None, list of attention float32 [B, H, T, S]).

        A state of None means whole texts. The new state is without the context, which `state` may hold.
        """
        raise NotImplementedError

    def features(self, inputs, training=False):
        """Returns what the head makes logits of: float [B, T, D], or with `copy` float32 [B, T, D + 1 + V].

        Args:
            inputs: dict of tensors, see above.
            training: bool, whether dropout acts.

        Raises:
            ValueError: when inputs are not such a dict, a text is longer than `max_length` or a source than
                `max_source_length`; outside a graph, also on an id out of the vocabulary.
        """
        return self._whole(inputs, training)[0]

    def attention(self, inputs):
        """Returns float32 [B, L, H, T, S], how much the token after each id looks at every place of the source.

        Args:
            inputs: dict as for `features`. L are the layers that attend and H their heads.
        """
        return tf.stack(self._whole(inputs, False)[2], 1)

    def _whole(self, inputs, training):
        source, lengths, ids = _parts_of(inputs)
        return self._decode(self._checked(ids), self.encode(source, lengths, training), None, None, training)

    def _forward(self, ids, state, lengths, training, positions=None):
        features, new, _ = self._decode(ids, state["context"], state, lengths, training)
        return features, new | {"context": state["context"]}

    def _head(self, features):
        return self.embedding(features, reverse=True) if self.projection is None else self.projection(features)

    def logits(self, features):
        if not self.copy:
            return super().logits(features)
        features, log_odds, copied = tf.split(features, [self.dim, 1, self.vocab_size], -1)
        return mix_copied(super().logits(features), log_odds, copied)

    def _with_copies(self, features, seen, weights, source):
        """Packs what the head reads: features float [B, T, D], what the gate is to see float [B, T, 3 D], weights [B, T, S]."""
        log_odds = self.gate(seen)
        copied = copy_probabilities(weights, source, self.vocab_size)
        return tf.concat([widen(features), widen(log_odds), copied], -1)

    def _rules_of(self, inputs):
        source, lengths, ids = _parts_of(inputs)
        size = self.source_vocab_size or self.vocab_size
        return [
            ("ids", ids, 0, self.vocab_size, f"vocab_size={self.vocab_size}"),
            ("source", source, 0, size, f"vocab_size={size}"),
            ("source_lengths", lengths, 0, tf.shape(source)[1] + 1, "S + 1"),
        ]


@keras.saving.register_keras_serializable("tfllm")
class TransformerSeq2Seq(Seq2Seq):
    """A Transformer encoder and a Transformer decoder that attends to it in every block.

    Its state is one cache of keys and values a layer; the context is the keys and values of the source, computed once for each
    layer.

    Args:
        vocab_size: int V.
        max_length: int, the most tokens that the decoder can look back on, its first one included.
        dim, num_heads, hidden_dim, dropout, norm, norm_epsilon, pre_norm, activation, use_bias, initializer_range: as in
            `TransformerLM`, for encoder and decoder.
        num_layers: int, blocks of the decoder.
        num_encoder_layers: int, blocks of the encoder; None means `num_layers`.
        source_vocab_size: int, ids of the sources; None: they have the vocabulary of the texts, and the same embedding.
        max_source_length: int, the most tokens of a source; None means `max_length`.
        positions: "learned", "sinusoidal" or "rotary".
        tied_embeddings: bool, whether the projection to the vocabulary is the transposed embedding.
        copy: bool, whether tokens may be taken from the source, by an attention of one head between the last features of both
            sides; needs one vocabulary.
        **kwargs: `name`, `dtype` (such as "mixed_bfloat16").

    Raises:
        ValueError: on sizes that do not divide, an unknown `positions`, `norm` or `activation`, or `copy` with two vocabularies.

    Example:
        >>> model = TransformerSeq2Seq(65, max_length=64, dim=32, num_layers=2, num_heads=4)
        >>> source, lengths = tf.constant([[5, 6, 7], [8, 0, 0]]), tf.constant([3, 1])
        >>> model({"source": source, "source_lengths": lengths, "ids": tf.constant([[1, 9], [1, 9]])}).shape
        TensorShape([2, 2, 65])
        >>> state = model.initial_state(2, 10, model.encode(source, lengths))
        >>> logits, state = model.step(tf.constant([[1], [1]]), state)

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; with normalisation before each part: Xiong et al. 2020,
    arXiv:2002.04745.
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
        num_encoder_layers=None,
        source_vocab_size=None,
        max_source_length=None,
        hidden_dim=None,
        dropout=0.0,
        positions="learned",
        norm="layer",
        norm_epsilon=1e-5,
        pre_norm=True,
        activation="gelu",
        use_bias=False,
        tied_embeddings=True,
        copy=False,
        initializer_range=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_copy(copy, source_vocab_size)
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {POSITIONS}; got {positions!r}")
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2; got {max_length}")
        self.vocab_size, self.max_length, self.dim, self.num_layers = vocab_size, max_length, dim, num_layers
        self.num_heads, self.num_encoder_layers, self.hidden_dim = num_heads, num_encoder_layers, hidden_dim
        self.max_source_length = max_length if max_source_length is None else max_source_length
        self.dropout, self.positions, self.norm, self.norm_epsilon = dropout, positions, norm, norm_epsilon
        self.pre_norm, self.activation, self.use_bias = pre_norm, activation, use_bias
        self.initializer_range = initializer_range
        policy = self.dtype_policy
        alike = {
            "hidden_dim": hidden_dim,
            "dropout": dropout,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            "pre_norm": pre_norm,
            "activation": activation,
            "use_bias": use_bias,
            "initializer_range": initializer_range,
            "dtype": policy,
        }
        encoder = TransformerEncoder(
            source_vocab_size or vocab_size,
            self.max_source_length,
            dim,
            num_layers if num_encoder_layers is None else num_encoder_layers,
            num_heads,
            positions=positions,
            name="encoder",
            **alike,
        )
        normal = keras.initializers.RandomNormal(stddev=initializer_range)
        self._make_ends(encoder, source_vocab_size, tied_embeddings, copy, normal)
        self.place = None
        if positions == "learned":
            self.place = LearnedPositions(max_length, dim, initializer_range=initializer_range, dtype=policy)
        elif positions == "sinusoidal":
            self.place = SinusoidalPositions(dim, dtype=policy)
        self.blocks = [
            TransformerBlock(
                dim,
                num_heads,
                cross_attention=True,
                rotary_base=10000.0 if positions == "rotary" else None,
                output_range=initializer_range / (3 * num_layers) ** 0.5,  # a block adds three parts
                name=f"block_{i}",
                **alike,
            )
            for i in range(num_layers)
        ]
        self.final_norm = make_norm(norm, norm_epsilon, use_bias, dtype=policy) if pre_norm else None
        self.pointer = None
        if copy:
            self.pointer = CrossAttention(
                dim, 1, use_bias=use_bias, initializer_range=initializer_range, dtype=policy, name="pointer"
            )
        for part in (*self.blocks, *([self.pointer] if copy else [])):
            part.build((None, None, dim))  # they read the source before they are called
        self._create_weights()

    def _read(self, features, lengths):
        memory = {"blocks": [block.reading.read(features) for block in self.blocks]}
        return memory | ({"pointer": self.pointer.read(features)} if self.copy else {})

    def initial_state(self, batch_size, slots, context=None):
        _check_context(context)
        if isinstance(slots, int) and slots > self.max_length:
            raise ValueError(f"slots must be at most max_length={self.max_length}; got {slots}")
        caches = [block.attention.initial_cache(batch_size, slots) for block in self.blocks]
        return {"position": tf.zeros([batch_size], tf.int32), "layers": caches, "context": context}

    def _decode(self, ids, context, state, lengths, training):
        position = None if state is None else state["position"]
        if state is not None and tf.executing_eagerly():
            needed, slots = int(tf.reduce_max(position + lengths)), state["layers"][0]["k"].shape[2]
            if needed > slots:
                raise ValueError(f"ids must fit into the state's {slots} slots; got {needed} tokens")
        memory = context["memory"]
        mask = length_mask(context["lengths"], tf.shape(memory["blocks"][0]["k"])[2])
        embedded = x = self.embedding(ids)
        if self.place is not None:
            first = tf.zeros([1], tf.int32) if state is None else position
            x = self.place(x, first[:, None] + tf.range(tf.shape(ids)[1]))
        x = self.drop(x, training=training)
        caches, attention = [], []
        for i, block in enumerate(self.blocks):
            x, cache, weights = block(
                x,
                cache=None if state is None else state["layers"][i],
                position=position,
                memory=memory["blocks"][i],
                memory_mask=mask,
                training=training,
                return_weights=True,
            )
            caches.append(cache)
            attention.append(weights)
        x = normalized(self.final_norm, x, training) if self.pre_norm else x
        if self.copy:
            heard, weights = self.pointer(x, memory["pointer"], mask, training=training, return_weights=True)
            x = self._with_copies(x, tf.concat([heard, x, embedded], -1), weights[:, 0], context["source"])
        return x, (None if state is None else {"position": position + lengths, "layers": caches}), attention


@keras.saving.register_keras_serializable("tfllm")
class RecurrentSeq2Seq(Seq2Seq):
    """A recurrent encoder that reads both ways, and a recurrent decoder that attends to it at every step.

    Its state is that of each layer and what the last step gave, which the next one reads; the context holds the encoder's
    features, their keys and the decoder's first state.

    Args:
        vocab_size: int V.
        cell: "lstm", "gru" or "rnn".
        dim: int D, even, units of every decoder layer and size of embeddings; each direction of the encoder has half of it.
        num_layers: int, layers of the decoder.
        num_encoder_layers: int, pairs of layers of the encoder; None means `num_layers`.
        source_vocab_size: int, ids of the sources; None: they have the vocabulary of the texts, and the same embedding.
        dropout: float in [0, 1), on embeddings, between the encoder's layers and before the projection.
        tied_embeddings: bool, whether the projection to the vocabulary is the transposed embedding.
        copy: bool, whether tokens may be taken from the source, by the attention of every step; needs one vocabulary.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: on an unknown `cell`, an odd `dim`, or `copy` with two vocabularies.

    Example:
        >>> model = RecurrentSeq2Seq(65, cell="gru", dim=32)
        >>> source, lengths = tf.constant([[5, 6, 7], [8, 0, 0]]), tf.constant([3, 1])
        >>> model({"source": source, "source_lengths": lengths, "ids": tf.constant([[1, 9], [1, 9]])}).shape
        TensorShape([2, 2, 65])

    Source: Luong et al. 2015, arXiv:1508.04025; see `layers.AttentiveRecurrence`.
    """

    def __init__(
        self,
        vocab_size,
        cell="lstm",
        dim=128,
        num_layers=1,
        *,
        num_encoder_layers=None,
        source_vocab_size=None,
        dropout=0.0,
        tied_embeddings=False,
        copy=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_copy(copy, source_vocab_size)
        self.vocab_size, self.cell, self.dim, self.num_layers = vocab_size, cell, dim, num_layers
        self.num_encoder_layers, self.dropout = num_encoder_layers, dropout
        encoder = RecurrentEncoder(
            source_vocab_size or vocab_size,
            cell,
            dim,
            num_layers if num_encoder_layers is None else num_encoder_layers,
            dropout=dropout,
            dtype=self.dtype_policy,
            name="encoder",
        )
        self._make_ends(encoder, source_vocab_size, tied_embeddings, copy, "uniform")
        self.recurrence = AttentiveRecurrence(cell, dim, num_layers, dtype=self.dtype_policy)
        self.recurrence.build((None, None, dim))  # it reads the source before it is called
        self._create_weights()

    def _read(self, features, lengths):
        return self.recurrence.read(features, lengths)

    def initial_state(self, batch_size, slots=None, context=None):
        _check_context(context)
        state = {"position": tf.zeros([batch_size], tf.int32), "context": context}
        return state | self.recurrence.initial_state(context["memory"])

    def _decode(self, ids, context, state, lengths, training):
        memory = context["memory"]
        embedded = self.embedding(ids)
        before = self.recurrence.initial_state(memory) if state is None else {k: state[k] for k in ("layers", "fed")}
        x, hidden, weights, after = self.recurrence(
            self.drop(embedded, training=training), memory, context["lengths"], before, lengths
        )
        x = self.drop(x, training=training)
        if self.copy:
            heard = tf.matmul(tf.cast(weights, hidden.dtype), memory["values"])
            seen = tf.concat([heard, hidden, embedded], -1)
            x = self._with_copies(x, seen, weights, context["source"])
        return x, (None if state is None else after | {"position": state["position"] + lengths}), [weights[:, None]]


def _parts_of(inputs):
    """Returns (source, source_lengths, ids) of a Seq2Seq's inputs."""
    if not isinstance(inputs, collections.abc.Mapping) or set(inputs) != set(_INPUTS):
        got = f"a dict of {sorted(inputs)}" if isinstance(inputs, collections.abc.Mapping) else type(inputs).__name__
        raise ValueError(f"inputs must be a dict of 'ids', 'source' and 'source_lengths'; got {got}")
    return inputs["source"], inputs["source_lengths"], inputs["ids"]


def _check_copy(copy, source_vocab_size):
    if copy and source_vocab_size is not None:
        raise ValueError(
            f"source_vocab_size must be None for copy, which needs one vocabulary; got {source_vocab_size}"
        )


def _check_context(context):
    if context is None:
        raise ValueError("context must be what encode returned; got None")
