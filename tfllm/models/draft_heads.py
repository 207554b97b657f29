"""WithDraftHeads: a language model with further heads that say what comes after the next token, for speculative decoding.

A head is one residual block on the model's last features, followed by the model's own head, so it costs D x D weights and not
D x V. The block begins at zero: an untrained head says what the model says of the next token. The model itself stays as it is;
only the heads learn, from its features. Left out: training trunk and heads together, and trees of drafts.

Sources: Gloeckle et al. 2024, arXiv:2404.19737 (heads that share the projection to the vocabulary); Cai et al. 2024,
arXiv:2401.10774 (heads on a frozen model, the residual block).
"""

import keras
import tensorflow as tf

from tfllm.models.contract import LanguageModel
from tfllm.training.losses import unpack, widen


@keras.saving.register_keras_serializable("tfllm")
class WithDraftHeads(LanguageModel):
    """A language model that drafts its own continuation: `Speculative(draft="heads")`.

    Args:
        model: a `LanguageModel`. It is frozen: its `trainable` becomes False.
        num_draft_heads: int n >= 1; head i guesses the token i + 2 places after the one just read, i from 0 on.
        **kwargs: `name`, `dtype`.

    Raises:
        ValueError: when `num_draft_heads` is below 1.

    Example:
        >>> model = WithDraftHeads(tfllm.RecurrentLM(10, "gru", 8), 3)
        >>> model.compile(keras.optimizers.Adam(0.01), loss_fn=multi_token_loss)
        >>> features, _ = model.read(tf.constant([[1, 2]]), model.initial_state(1, 2), last=True)
        >>> model.draft_logits(features[:, 0]).shape
        TensorShape([1, 3, 10])
    """

    def __init__(self, model, num_draft_heads=3, **kwargs):
        super().__init__(**kwargs)
        if isinstance(num_draft_heads, bool) or not isinstance(num_draft_heads, int) or num_draft_heads < 1:
            raise ValueError(f"num_draft_heads must be an int of at least 1; got {num_draft_heads!r}")
        self.model, self.num_draft_heads = model, num_draft_heads
        self.vocab_size, self.max_length, self.rewindable = model.vocab_size, model.max_length, model.rewindable
        model.trainable = False
        features, _ = model.read(tf.zeros([1, 1], tf.int32), model.initial_state(1, 1))
        self.blocks = [
            keras.layers.Dense(
                features.shape[-1], kernel_initializer="zeros", dtype=self.dtype_policy, name=f"draft_{i}"
            )
            for i in range(num_draft_heads)
        ]
        self.draft_logits(features)  # makes the weights of the heads
        self._create_weights()

    def initial_state(self, batch_size, slots, context=None):
        return self.model.initial_state(batch_size, slots, context)

    def _forward(self, ids, state, lengths, training, positions=None):
        return self.model._forward(ids, state, lengths, training, positions)

    def _head(self, features):
        return self.model._head(features)

    def draft_logits(self, features):
        """Returns float32 [..., n, V], of features float [..., D]: what each head makes of them."""
        drafts = tf.stack([features + tf.nn.silu(block(features)) for block in self.blocks], -2)
        return widen(self._head(drafts))

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("model")), **config)


def multi_token_loss(model, batch, training=True):
    """Cross-entropy and accuracy of the draft heads, for `compile(loss_fn=multi_token_loss)`; the model's own head is left out.

    Args:
        model: `WithDraftHeads`.
        batch: `(inputs, targets, weights)` as for `training.lm_loss`, rows of one document each.
        training: bool; the model's dropout stays off, because a draft is made without it.

    Returns:
        dict as of `training.lm_loss`, summed over the heads.

    Raises:
        ValueError: when rows are packed with several documents.
    """
    inputs, targets, weights = unpack(batch)
    if isinstance(inputs, dict):
        raise ValueError(f"inputs must be ids of one document a row; got a dict of {sorted(inputs)}")
    features, _ = model._forward(inputs, None, None, False)
    logits = model.draft_logits(tf.stop_gradient(features))  # [B, T, n, V]
    heads = range(model.num_draft_heads)
    later = tf.stack([_shifted(targets, i + 1) for i in heads], -1)  # [B, T, n]
    # A guess counts where all the tokens up to it do.
    counted = tf.math.cumprod(tf.stack([_shifted(tf.cast(weights, logits.dtype), i + 1) for i in heads], -1), -1)
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=later, logits=logits)
    right = tf.cast(tf.argmax(logits, -1, tf.int32) == later, logits.dtype)
    weight = tf.reduce_sum(counted)
    return {"loss": (tf.reduce_sum(nats * counted), weight), "accuracy": (tf.reduce_sum(right * counted), weight)}


def _shifted(values, by):
    """Moves values [B, T] to the front, zeros behind them."""
    return tf.pad(values[:, by:], [[0, 0], [0, tf.minimum(by, tf.shape(values)[1])]])
