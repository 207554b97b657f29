"""LanguageModel: what every trainer and every decoder may rely on.

`call(ids)` (training, scoring) and `step(ids, state)` (decoding) are two doors to one forward pass. Four promises let every
decoder work with every model: T is free (prompt, single token or draft); the batch is the first axis of every leaf of the
state; `step` mutates nothing, so the old state is a snapshot; and `lengths` says how many ids of a row count, so a row in a
batch decodes as it would alone.
"""

import collections.abc
import dataclasses

import keras
import tensorflow as tf

from tfllm.layers.embedding import document_positions
from tfllm.models.fitting import FittedModel, checked_ids, checked_on_host
from tfllm.training.losses import LMLoss, lm_loss, widen
from tfllm.training.metrics import Perplexity
from tfllm.training.optimizers import innermost


class LanguageModel(FittedModel):
    """A model of the next token. Concrete models supply `initial_state`, `_forward` and `_head`.

    Attributes:
        vocab_size: int V, ids run from 0 to V - 1.
        max_length: int, the most tokens a state can hold, or None for no limit.
        rewindable: bool, True where moving `position` back is enough to forget tokens.
    """

    max_length = None
    rewindable = False

    def _make_trackers(self):
        return [*super()._make_trackers(), Perplexity()]

    def batch_totals(self, batch, training=True):
        return lm_loss(self, batch, training=training)

    def _default_loss(self):
        return lm_loss

    def initial_state(self, batch_size, slots, context=None):
        """Makes the state before the first token.

        Args:
            batch_size: int or int32 scalar B.
            slots: int or int32 scalar, tokens that the state must hold, at most `max_length`.
            context: what an encoder gave, for models that have one.

        Returns:
            A nest of tensors, batch on axis 0 of every leaf, with `"position"`: int32 [B], tokens read so far; and for a
            model with an encoder `"context"`, which no step changes.
        """
        raise NotImplementedError

    def _forward(self, ids, state, lengths, training, positions=None):
        """Returns (float [B, T, D], new state or None): features before the head; state None means whole sequences.

        With `positions`, int32 [B, T], rows are packed: a token reads as many tokens back as its position says.
        """
        raise NotImplementedError

    def _head(self, features):
        """Returns logits float [B, T, V] of features float [B, T, D]."""
        raise NotImplementedError

    def call(self, inputs, training=False):
        """Scores whole sequences, or rows into which several documents are packed.

        Args:
            inputs: int32 [B, T] ids, T at most `max_length`; or a dict of them, `"ids"`, and of `"documents"`, int32 [B, T]:
                the number of each token's document, counted 1, 2, ... within a row, and 0 for padding. A document then gets
                the logits that it gets alone.
            training: bool, whether dropout acts.

        Returns:
            float32 [B, T, V], logits of the token after each id.

        Raises:
            ValueError: when T is above `max_length`, ids are not whole numbers, or documents and ids differ in shape, and
                outside a graph, when an id is out of the vocabulary or a document's number out of [0, T].
        """
        return self.logits(self.features(inputs, training))

    def features(self, inputs, training=False):
        """Returns what the head makes logits of: float [B, T, D]. Arguments and errors are those of `call`."""
        ids, documents = _ids_and_documents(inputs)
        ids = self._checked(ids)
        positions = None if documents is None else document_positions(_checked_documents(documents, ids))
        return self._forward(ids, None, None, training, positions)[0]

    def _checked(self, ids):
        """Returns int32 ids of whole sequences, which must lie in the vocabulary and be at most `max_length`."""
        ids = checked_ids(ids, self.vocab_size)
        rule = f"ids must have at most max_length={self.max_length} tokens; got"
        if self.max_length is not None and ids.shape[1] is None:
            length = tf.shape(ids)[1]
            with tf.control_dependencies([tf.debugging.Assert(length <= self.max_length, [rule, length])]):
                ids = tf.identity(ids)
        elif self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(f"{rule} {ids.shape[1]}")
        return ids

    def step(self, ids, state, lengths=None, *, last=False):
        """Reads tokens from a state on and returns what comes next, and the new state; the old one stays as it is.

        Args:
            ids: int32 [B, T]; T may be a prompt, one token or a draft.
            state: what `initial_state` or an earlier `step` returned.
            lengths: int32 [B] in [0, T]; row b reads only its first `lengths[b]` ids. None means T.
            last: bool, whether only the logits after each row's last read id are wanted. A long prompt then needs no
                [B, T, V] tensor.

        Returns:
            (float32 [B, T, V], or [B, 1, V] with `last`; the new state). Logits after ids that a row does not read mean
            nothing.
        """
        features, state = self.read(ids, state, lengths, last=last)
        return self.logits(features), state

    def read(self, ids, state, lengths=None, *, last=False):
        """Does what `step` does, but returns what the head makes logits of, for searches and embeddings that want it.

        Args:
            ids, state, lengths, last: as for `step`.

        Returns:
            (float [B, T, D], or [B, 1, D] with `last`; the new state).
        """
        ids = checked_ids(ids, self.vocab_size)
        lengths = tf.fill([tf.shape(ids)[0]], tf.shape(ids)[1]) if lengths is None else tf.cast(lengths, tf.int32)
        features, state = self._forward(ids, state, lengths, False)
        if last:
            features = tf.gather(features, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)
        return features, state

    def logits(self, features):
        """Returns float32 [B, T, V] (float64 in a float64 model), logits of features [B, T, D] that `features` or `read` gave."""
        return widen(self._head(features))

    def _check_batch(self, *batch):
        """Returns a batch as it is, after its inputs, documents and targets were checked."""
        rules, limit = [], f"vocab_size={self.vocab_size}"
        for texts in batch if isinstance(batch[0], tuple) else [batch]:  # a pair of texts is two batches
            rules += self._rules_of(texts[0])
            rules += [("targets", targets, 0, self.vocab_size, limit) for targets in texts[1:2]]
        return checked_on_host(batch, rules)

    def _rules_of(self, inputs):
        """Returns what must hold for the inputs of a batch, for `checked_on_host`."""
        ids, documents = _ids_and_documents(inputs)
        rules = [("inputs", ids, 0, self.vocab_size, f"vocab_size={self.vocab_size}")]
        if documents is not None:
            rules.append(("documents", documents, 0, tf.shape(documents)[1] + 1, "T + 1"))
        return rules

    def get_compile_config(self):
        if not isinstance(getattr(self, "loss_fn", None), LMLoss):
            return None  # a function of the user's own is code, and code is never read from a file
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            # Keras does not keep which weights an optimizer spares from decay.
            "decays": [bool(innermost(self.optimizer)._use_weight_decay(v)) for v in self.trainable_variables],
            "loss_fn": dataclasses.asdict(self.loss_fn),
            "clip_norm": self.clip_norm,
            "accumulate": self.accumulate,
            "max_skipped": self.skipped_steps.max_skipped,
            **self._compile_options,
        }

    def compile_from_config(self, config):
        config = dict(config)
        optimizer, decays = keras.saving.deserialize_keras_object(config.pop("optimizer")), config.pop("decays")
        spared = [weight for weight, decayed in zip(self.trainable_variables, decays, strict=True) if not decayed]
        if spared:
            innermost(optimizer).exclude_from_weight_decay(var_list=spared)
        self.compile(optimizer, LMLoss(**config.pop("loss_fn", {})), **config)


def _ids_and_documents(inputs):
    """Returns (ids, documents or None) of what `LanguageModel.call` takes."""
    if not isinstance(inputs, collections.abc.Mapping):
        return inputs, None
    if set(inputs) != {"ids", "documents"}:
        raise ValueError(f"inputs must be ids, or a dict of 'ids' and 'documents'; got a dict of {sorted(inputs)}")
    return inputs["ids"], inputs["documents"]


def _checked_documents(documents, ids):
    documents = tf.convert_to_tensor(documents)
    if not documents.dtype.is_integer or not documents.shape.is_compatible_with(ids.shape):
        found = f"{documents.dtype.name} of shape {documents.shape}"
        raise ValueError(f"documents must be whole numbers in the shape {ids.shape} of ids; got {found}")
    if tf.executing_eagerly():
        wrong = documents[(documents < 0) | (documents > documents.shape[1])].numpy()
        if wrong.size:
            raise ValueError(f"documents must lie in [0, T={documents.shape[1]}]; got {wrong[0]}")
    return tf.cast(documents, tf.int32)
