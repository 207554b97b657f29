"""RecurrentLM: embedding, recurrent layers, projection to the vocabulary.

The documents' `Sequential([Embedding(10000, 128), LSTM(128), Dense(10000)])` is `RecurrentLM(10000, dim=128)`, and their
`create_gpt2_model(10000, 256, 1024)`, an LSTM in spite of its name, is `RecurrentLM(10000, embedding_dim=256, dim=1024)`.
Both end in a softmax there and are trained on it with `from_logits=True`; here the output is logits.
"""

import keras
import tensorflow as tf

from tfllm.layers.projection import Projection, TokenEmbedding
from tfllm.layers.recurrent import RecurrentStack
from tfllm.models.contract import LanguageModel


@keras.saving.register_keras_serializable("tfllm")
class RecurrentLM(LanguageModel):
    """A recurrent language model; its state is `[h]` or `[h, c]` of each layer.

    Args:
        vocab_size: int V.
        cell: "lstm" (Hochreiter and Schmidhuber 1997, with forget gates), "gru" (Cho et al. 2014, arXiv:1406.1078, reset
            after the product, as in cuDNN) or "rnn" (Elman 1990).
        dim: int D, units of every recurrent layer.
        num_layers: int.
        embedding_dim: int, size of a token's vector; None means `dim`.
        dropout: float in [0, 1), on the embeddings, between the layers and before the projection.
        tied_embeddings: bool, whether the projection is the transposed embedding (Press and Wolf 2017,
            arXiv:1608.05859); needs `embedding_dim` equal to `dim`.
        **kwargs: `name`, `dtype` (such as "mixed_bfloat16").

    Raises:
        ValueError: on an unknown `cell`, or tied embeddings of another size.

    Example:
        >>> model = RecurrentLM(10000, cell="lstm", dim=128)
        >>> model(tf.constant([[1, 2, 3]])).shape
        TensorShape([1, 3, 10000])
    """

    def __init__(
        self,
        vocab_size,
        cell="lstm",
        dim=128,
        num_layers=1,
        *,
        embedding_dim=None,
        dropout=0.0,
        tied_embeddings=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if tied_embeddings and embedding_dim not in (None, dim):
            raise ValueError(f"embedding_dim must equal dim={dim} for tied_embeddings; got {embedding_dim}")
        self.vocab_size, self.cell, self.dim, self.num_layers = vocab_size, cell, dim, num_layers
        self.embedding_dim, self.dropout, self.tied_embeddings = embedding_dim, dropout, tied_embeddings
        policy = self.dtype_policy
        embedding = TokenEmbedding if tied_embeddings else keras.layers.Embedding
        self.embedding = embedding(vocab_size, embedding_dim or dim, dtype=policy)
        self.recurrence = RecurrentStack(cell, dim, num_layers, dropout=dropout, dtype=policy)
        self.projection = None if tied_embeddings else Projection(vocab_size, dtype=policy, name="dense")
        self.drop = keras.layers.Dropout(dropout, dtype=policy)
        self._create_weights()

    def initial_state(self, batch_size, slots=None, context=None):
        return {"position": tf.zeros([batch_size], tf.int32), "layers": self.recurrence.initial_state(batch_size)}

    def _forward(self, ids, state, lengths, training, positions=None):
        x = self.drop(self.embedding(ids), training=training)
        if state is None:
            return self.drop(self.recurrence(x, positions=positions, training=training), training=training), None
        x, layers = self.recurrence.step(x, state["layers"], lengths)
        return x, {"position": state["position"] + lengths, "layers": layers}

    def _head(self, features):
        return self.embedding(features, reverse=True) if self.tied_embeddings else self.projection(features)
