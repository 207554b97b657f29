"""Heads: what a model of texts is trained for beside writing: classes, tags, spans, and vectors that compare texts.

A head's backbone is an `Encoder`, whose tokens see the whole text, or a `LanguageModel`, whose tokens see those before them.
Inputs are those of an encoder, a dict of `"ids"`, int32 [B, T], padded on the right, and `"lengths"`, int32 [B]; what stands
behind a row's length changes nothing. `data/labelled.py` makes the batches, `fit` trains, and `backbone.trainable = False`
trains the head alone. Left out: several labels for one text, and numbers in place of labels.
"""

import collections.abc

import keras
import tensorflow as tf

from tfllm.layers.crf import CRF, best_tags, bio_forbidden, forbidden_scores
from tfllm.models.contract import LanguageModel
from tfllm.models.encoder import Encoder
from tfllm.models.fitting import FittedModel, checked_on_host
from tfllm.training.losses import cross_entropy, widen

POOLINGS = ("mean", "max", "first", "last")
_NONE = -1e9  # the logit of what cannot be an answer


class Head(FittedModel):
    """A model on a backbone. Concrete heads supply `_outputs` and `batch_totals`.

    Attributes:
        backbone: the `Encoder` or `LanguageModel`.
        vocab_size, max_length: those of the backbone.
    """

    def __init__(self, backbone, **kwargs):
        if not isinstance(backbone, Encoder | LanguageModel):
            raise ValueError(f"backbone must be an Encoder or a LanguageModel; got {backbone!r}")
        super().__init__(**{"dtype": backbone.dtype_policy} | kwargs)
        self.backbone, self.vocab_size, self.max_length = backbone, backbone.vocab_size, backbone.max_length

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("backbone")), **config)

    def features(self, inputs, training=False):
        """Returns float [B, T, D], what the backbone makes of inputs; arguments and errors are those of `call`."""
        inputs = _as_dict(inputs)
        if isinstance(self.backbone, LanguageModel):
            return self.backbone.features(inputs["ids"], training=training)
        parts = {name: inputs[name] for name in ("ids", "lengths", "segments") if name in inputs}
        return self.backbone.features(parts, training=training)

    def call(self, inputs, training=False):
        """Returns the logits of a head (of `SentenceEmbedder`, vectors), float32; its class says of which shape."""
        inputs = _as_dict(inputs)
        return self._outputs(self.features(inputs, training), inputs, training)

    def _outputs(self, features, inputs, training):
        """Returns what `call` returns, of the backbone's features [B, T, D] and the inputs, a dict."""
        raise NotImplementedError

    def _dense(self, units, name):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        return keras.layers.Dense(units, kernel_initializer=normal, dtype=self.dtype_policy, name=name)

    def _input_rules(self, inputs):
        """Returns what `checked_on_host` reads, for inputs."""
        inputs = _as_dict(inputs)
        rules = [("ids", inputs["ids"], 0, self.vocab_size, f"vocab_size={self.vocab_size}")]
        if "lengths" in inputs:
            rules.append(("lengths", inputs["lengths"], 0, tf.shape(inputs["ids"])[1] + 1, "T + 1"))
        return rules


@keras.saving.register_keras_serializable("tfllm")
class TextClassifier(Head):
    """Says to which class a text belongs: the features of its tokens become one vector, and that logits.

    Args:
        backbone: an `Encoder` or a `LanguageModel`.
        num_labels: int L >= 1, labels run from 0 to L - 1.
        pooling: str, how features become one vector: "mean", "max", "first" (BERT's `[CLS]`; for encoders alone) or "last";
            None means "mean" for an encoder, and "last", which alone has seen the whole text, for a language model.
        dropout: float in [0, 1), on that vector.
        label_smoothing: float in [0, 1), the share of a label's probability that is spread over all labels alike, in training.
        class_weights: list of L floats, by which the loss of a text of each label is multiplied in training, or None; accuracy
            stays as it is. `data.balanced_weights` gives those that make all labels count alike.
        **kwargs: `name`, `dtype`.

    Call:
        inputs: see above. Returns float32 [B, L], logits.

    Batches of `fit`:
        (inputs, labels int32 [B]), or with weights float32 [B] behind them.

    Raises:
        ValueError: on settings out of range.

    Example:
        >>> model = TextClassifier(tfllm.models.TransformerEncoder(65, dim=16, num_layers=1), 3)
        >>> model({"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])}).shape
        TensorShape([2, 3])

    Source: Howard and Ruder 2018, arXiv:1801.06146; Devlin et al. 2019, arXiv:1810.04805, section 4.1.
    """

    def __init__(
        self,
        backbone,
        num_labels,
        *,
        pooling=None,
        dropout=0.0,
        label_smoothing=0.0,
        class_weights=None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.num_labels, self.dropout, self.label_smoothing = num_labels, dropout, label_smoothing
        self.pooling, self.class_weights = _pooling(pooling, backbone), _checked_weights(class_weights, num_labels)
        _check_settings(num_labels, label_smoothing)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.dense = self._dense(num_labels, "labels")
        self._create_weights()

    def _outputs(self, features, inputs, training):
        vectors = pool(features, inputs.get("lengths"), self.pooling)
        return widen(self.dense(self.drop(vectors, training=training)))

    def batch_totals(self, batch, training=True):
        inputs, labels, *weights = batch
        logits = self(inputs, training=training)
        labels = tf.cast(labels, tf.int32)
        weights = _weights_of(weights, tf.shape(labels), logits.dtype)
        return _class_totals(self, logits, labels, weights, training)

    def _check_batch(self, *batch):
        inputs, labels = batch[:2]
        return checked_on_host(
            batch, [*self._input_rules(inputs), ("labels", labels, 0, self.num_labels, f"num_labels={self.num_labels}")]
        )


@keras.saving.register_keras_serializable("tfllm")
class TokenTagger(Head):
    """Gives every word a tag, each by itself, or with a `CRF` all tags of a text together.

    Args:
        backbone: an `Encoder` or a `LanguageModel`.
        num_labels: int L >= 1, tags run from 0 to L - 1.
        crf: bool, whether a `layers.CRF` on top learns which tags follow each other.
        tag_names: list of L str, the names of BIO tags, or None. With them no I-X comes out behind anything but a B-X or an I-X,
            with a CRF or without, and a CRF gives such rows no probability.
        dropout: float in [0, 1), on the features.
        label_smoothing, class_weights: as in `TextClassifier`, for each tag; not with a CRF, which scores whole rows.
        **kwargs: `name`, `dtype`.

    Call:
        inputs: see above, and `"words"`, int32 [B, T], 1 at the token of each word that stands for the word (its first one, say)
        and 0 elsewhere; where it is left out, each token is a word. Returns float32 [B, T, L], logits of each token's tag.

    Batches of `fit`:
        (inputs, tags int32 [B, T]), or with weights float32 [B, T] behind them, of which a CRF reads only that of each row's
        first word. Tags count where words are. `"loss"` is nats a word; with a CRF `"accuracy"` comes from `evaluate` alone.

    Raises:
        ValueError: on settings out of range.

    Example:
        >>> model = TokenTagger(tfllm.models.RecurrentEncoder(65, dim=16), 3, crf=True, tag_names=["O", "B-X", "I-X"])
        >>> inputs = {"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])}
        >>> model.tags(inputs).shape
        TensorShape([2, 3])

    Source: Lample et al. 2016, arXiv:1603.01360; Devlin et al. 2019, arXiv:1810.04805, section 5.3 (first pieces of words).
    """

    def __init__(
        self,
        backbone,
        num_labels,
        *,
        crf=False,
        tag_names=None,
        dropout=0.0,
        label_smoothing=0.0,
        class_weights=None,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        _check_settings(num_labels, label_smoothing)
        if tag_names is not None and (isinstance(tag_names, str) or len(tag_names) != num_labels):
            raise ValueError(f"tag_names must be a list of num_labels={num_labels} names; got {tag_names!r}")
        if crf and (label_smoothing or class_weights is not None):
            raise ValueError("label_smoothing and class_weights must be left out with a CRF, which scores whole rows")
        self.num_labels, self.crf, self.dropout = num_labels, crf, dropout
        self.tag_names = None if tag_names is None else [str(name) for name in tag_names]
        self.label_smoothing, self.class_weights = label_smoothing, _checked_weights(class_weights, num_labels)
        self._forbidden = [] if tag_names is None else bio_forbidden(self.tag_names)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.dense = self._dense(num_labels, "tags")
        self.chain = None
        if crf:
            self.chain = CRF(num_labels, forbidden=self._forbidden, dtype="float32", name="crf")
            self.chain.build()
        self._create_weights()

    def _outputs(self, features, inputs, training):
        return widen(self.dense(self.drop(features, training=training)))

    def tags(self, inputs, training=False):
        """Returns int32 [B, T], the likeliest tag of each word where it stands, 0 elsewhere; inputs as for `call`."""
        inputs = _as_dict(inputs)
        words, rows, lengths = self._rows_of_words(self(inputs, training=training), inputs)
        found = self.decode(rows, lengths)
        number = tf.maximum(tf.cumsum(tf.cast(words, tf.int32), axis=1) - 1, 0)
        return tf.where(words, tf.gather(found, number, batch_dims=1), 0)

    def decode(self, logits, lengths):
        """Returns int32 [B, W], the likeliest tags of rows of words, float [B, W, L] and int32 [B]; 0 behind the lengths."""
        if self.chain is not None:
            return self.chain.best(logits, lengths)[0]
        if not self._forbidden:
            return tf.where(tf.sequence_mask(lengths, tf.shape(logits)[1]), tf.argmax(logits, 2, tf.int32), 0)
        logits = widen(logits)
        nothing = tf.zeros([self.num_labels], logits.dtype)
        never = forbidden_scores(self.num_labels, self._forbidden, logits.dtype)
        return best_tags(tf.nn.log_softmax(logits), never[0], never[1:], nothing, lengths)[0]

    def shares(self, logits, lengths):
        """Returns float [B, W, L], the probability of each tag of each word, of logits as in `decode`."""
        return tf.nn.softmax(widen(logits)) if self.chain is None else self.chain.marginals(logits, lengths)

    def batch_totals(self, batch, training=True):
        inputs, tags, *weights = batch
        inputs, tags = _as_dict(inputs), tf.cast(tags, tf.int32)
        logits = self(inputs, training=training)
        words = self._words(inputs)
        weights = _weights_of(weights, tf.shape(tags), logits.dtype) * tf.cast(words, logits.dtype)
        if self.chain is None:
            return _class_totals(self, logits, tags, weights, training)
        order, lengths = _front(words)
        logits, tags = (tf.gather(values, order, batch_dims=1) for values in (logits, tags))
        weights = tf.gather(weights, order, batch_dims=1)[:, 0]  # of a row
        weight = tf.reduce_sum(weights * tf.cast(lengths, weights.dtype))
        totals = {"loss": (-tf.reduce_sum(self.chain(logits, tags, lengths) * weights), weight)}
        if not training:
            real = tf.sequence_mask(lengths, tf.shape(tags)[1])
            right = tf.cast((self.decode(logits, lengths) == tags) & real, weights.dtype)
            totals["accuracy"] = tf.reduce_sum(right * weights[:, None]), weight
        return totals

    def _words(self, inputs):
        """Returns bool [B, T], the tokens that stand for words."""
        time = tf.shape(inputs["ids"])[1]
        real = tf.sequence_mask(_lengths_of(inputs), time)
        return real & (tf.cast(inputs["words"], tf.int32) > 0) if "words" in inputs else real

    def _rows_of_words(self, logits, inputs):
        """Returns bool [B, T] words, float [B, T, L] their logits in front of each row, and int32 [B] how many they are."""
        words = self._words(inputs)
        order, lengths = _front(words)
        return words, tf.gather(logits, order, batch_dims=1), lengths

    def _check_batch(self, *batch):
        inputs, tags = batch[:2]
        return checked_on_host(
            batch, [*self._input_rules(inputs), ("tags", tags, 0, self.num_labels, f"num_labels={self.num_labels}")]
        )


@keras.saving.register_keras_serializable("tfllm")
class SpanExtractor(Head):
    """Finds in a text the words that answer a question, which stands before it in the same row.

    Each token may begin or end an answer; beside them stands "there is none here", of which the features of the whole row say how
    likely it is. A long text is cut into windows, a row each: the best answer is that of the row where it is most likelier than
    none.

    Args:
        backbone: an `Encoder` or a `LanguageModel`.
        pooling: str, see `TextClassifier`, for the features of the whole row.
        dropout: float in [0, 1), on the features.
        **kwargs: `name`, `dtype`.

    Call:
        inputs: see above, and `"context_starts"` and `"context_lengths"`, int32 [B]: an answer lies within so many tokens from
        there; without them, anywhere. Returns float32 [B, T + 1, 2], logits of first and last tokens of the answer, -1e9 where
        none can be; place T is for no answer.

    Batches of `fit`:
        (inputs, spans int32 [B, 2]), or with weights float32 [B] behind them: first and last token of the answer, or -1, -1
        for none. `"loss"` is nats, the mean of both; `"accuracy"` the share of rows whose two are the likeliest ones.

    Raises:
        ValueError: on settings out of range.

    Example:
        >>> model = SpanExtractor(tfllm.models.TransformerEncoder(65, dim=16, num_layers=1))
        >>> inputs = {"ids": tf.constant([[1, 2, 3, 4]]), "lengths": tf.constant([4])}
        >>> inputs |= {"context_starts": tf.constant([2]), "context_lengths": tf.constant([2])}
        >>> sorted(model.spans(inputs))
        ['end', 'score', 'start']

    Source: Rajpurkar et al. 2016, arXiv:1606.05250; Devlin et al. 2019, arXiv:1810.04805, sections 4.2 and 4.3.
    """

    def __init__(self, backbone, *, pooling=None, dropout=0.0, **kwargs):
        super().__init__(backbone, **kwargs)
        self.pooling, self.dropout = _pooling(pooling, backbone), dropout
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.dense, self.nothing = self._dense(2, "ends"), self._dense(2, "no_answer")
        self._create_weights()

    def _outputs(self, features, inputs, training):
        features = self.drop(features, training=training)
        logits = widen(self.dense(features))
        lengths = _lengths_of(inputs)
        start = tf.cast(inputs.get("context_starts", tf.zeros_like(lengths)), tf.int32)
        end = tf.minimum(start + tf.cast(inputs.get("context_lengths", lengths), tf.int32), lengths)
        place = tf.range(tf.shape(logits)[1])
        allowed = (place >= start[:, None]) & (place < end[:, None])  # [B, T]
        logits = tf.where(allowed[:, :, None], logits, tf.constant(_NONE, logits.dtype))
        nothing = widen(self.nothing(pool(features, lengths, self.pooling)))
        return tf.concat([logits, nothing[:, None]], 1)

    def spans(self, inputs, *, max_length=30):
        """Finds the likeliest answer of each row.

        Args:
            inputs: as for `call`.
            max_length: int >= 1, the most tokens of an answer.

        Returns:
            dict of `"start"` and `"end"`, int32 [B], the first and the last token, and `"score"`, float32 [B], how much
            likelier than no answer it is, in nats. Where no token may be an answer, both are -1 and the score is -1e9 or below.
        """
        logits = self(inputs)
        start, end, score = best_spans(logits[:, :-1], max_length)
        return {"start": start, "end": end, "score": score - tf.reduce_sum(logits[:, -1], 1)}

    def batch_totals(self, batch, training=True):
        inputs, spans, *weights = batch
        logits = self(inputs, training=training)
        spans = tf.cast(spans, tf.int32)
        weights = _weights_of(weights, tf.shape(spans)[:1], logits.dtype)
        targets = tf.where(spans < 0, tf.shape(logits)[1] - 1, spans)  # [B, 2]
        nats, right = cross_entropy(tf.transpose(logits, [0, 2, 1]), targets)
        weight = tf.reduce_sum(weights)
        return {
            "loss": (tf.reduce_sum(tf.reduce_mean(nats, 1) * weights), weight),
            "accuracy": (tf.reduce_sum(tf.reduce_prod(right, 1) * weights), weight),
        }

    def _check_batch(self, *batch):
        inputs, spans = batch[:2]
        rules = [*self._input_rules(inputs), ("spans", spans, -1, tf.shape(_as_dict(inputs)["ids"])[1], "T")]
        return checked_on_host(batch, rules)


@keras.saving.register_keras_serializable("tfllm")
class SentenceEmbedder(Head):
    """Makes a vector of a text, such that texts that belong together have vectors of a high cosine.

    It learns from pairs: each text must find its partner among the partners of all texts of the batch.

    Args:
        backbone: an `Encoder` or a `LanguageModel`.
        pooling: str, see `TextClassifier`.
        normalize: bool, whether vectors have length 1, so that products are cosines.
        temperature: float > 0, by which cosines are divided in the loss.
        symmetric: bool, whether each partner must find its text, too.
        **kwargs: `name`, `dtype`.

    Call:
        inputs: see above. Returns float32 [B, D], vectors.

    Batches of `fit`:
        (inputs, inputs of the partners), or with weights float32 [B] behind them: `data.text_pair_dataset`. A row of weight 0
        is no partner of any. Partners are those of one replica and, with `accumulate`, of one of its parts. `"loss"` is nats a
        text; `"accuracy"` the share of texts that find their partner.

    Raises:
        ValueError: on settings out of range.

    Example:
        >>> model = SentenceEmbedder(tfllm.models.TransformerEncoder(65, dim=16, num_layers=1))
        >>> vectors = model({"ids": tf.constant([[1, 2, 3], [4, 0, 0]]), "lengths": tf.constant([3, 1])})
        >>> print(tf.norm(vectors, axis=1).numpy().round(3))
        [1. 1.]

    Source: van den Oord et al. 2018, arXiv:1807.03748, section 2.3 (InfoNCE); Henderson et al. 2017, arXiv:1705.00652, section
    4 (the other answers of the batch); Reimers and Gurevych 2019, arXiv:1908.10084 (pooling).
    """

    def __init__(self, backbone, *, pooling=None, normalize=True, temperature=0.05, symmetric=False, **kwargs):
        super().__init__(backbone, **kwargs)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; got {temperature}")
        self.pooling, self.normalize = _pooling(pooling, backbone), normalize
        self.temperature, self.symmetric = temperature, symmetric
        self._create_weights()

    def _outputs(self, features, inputs, training):
        vectors = widen(pool(features, inputs.get("lengths"), self.pooling))
        return tf.math.l2_normalize(vectors, 1, 1e-24) if self.normalize else vectors

    def batch_totals(self, batch, training=True):
        first, second, *weights = batch
        vectors = [self(inputs, training=training) for inputs in (first, second)]
        weights = _weights_of(weights, tf.shape(vectors[0])[:1], vectors[0].dtype)
        return info_nce(*vectors, weights, temperature=self.temperature, symmetric=self.symmetric)

    def _check_batch(self, *batch):
        rules = [rule for inputs in batch[:2] for rule in self._input_rules(inputs)]
        return checked_on_host(batch, rules)


def pool(features, lengths, pooling):
    """Makes one vector of the features of each text.

    Args:
        features: float [B, T, D].
        lengths: int32 [B], tokens of each text; None for all. A text without any gets zeros from "mean" and "max".
        pooling: str, "mean", "max", "first" or "last".

    Returns:
        float [B, D], of the dtype of the features.

    Example:
        >>> features = tf.constant([[[1.0], [3.0], [9.0]]])
        >>> [float(pool(features, tf.constant([2]), kind)[0, 0]) for kind in ("mean", "max", "first", "last")]
        [2.0, 3.0, 1.0, 3.0]
    """
    if pooling == "first":
        return features[:, 0]
    time = tf.shape(features)[1]
    lengths = tf.fill([tf.shape(features)[0]], time) if lengths is None else tf.cast(lengths, tf.int32)
    if pooling == "last":
        return tf.gather(features, tf.maximum(lengths - 1, 0), batch_dims=1)
    real = tf.sequence_mask(lengths, time)[:, :, None]
    if pooling == "max":
        best = tf.reduce_max(tf.where(real, features, features.dtype.min), 1)
        return tf.where(lengths[:, None] > 0, best, tf.zeros([], features.dtype))
    total = tf.reduce_sum(tf.where(real, widen(features), 0.0), 1)  # what is no number in padding does not count
    return tf.cast(total / tf.cast(tf.maximum(lengths, 1), total.dtype)[:, None], features.dtype)


def best_spans(logits, max_length=30):
    """Finds the first and the last token whose logits have the largest sum, with start <= end < start + max_length.

    Args:
        logits: float32 [B, T, 2], of first and last tokens; -1e9 or below where none may be.
        max_length: int or int32 scalar >= 1, the most tokens between the two, both included.

    Returns:
        (start int32 [B], end int32 [B], score float32 [B]); start and end are -1 where no token may be.

    Example:
        >>> logits = tf.constant([[[0.0, 4.0], [3.0, 1.0], [1.0, 2.0]]])
        >>> [int(found[0]) for found in best_spans(logits)]
        [1, 2, 5]
    """
    batch, time = tf.shape(logits)[0], tf.shape(logits)[1]
    width = tf.minimum(max_length, time)
    ends = tf.pad(logits[:, :, 1], [[0, 0], [0, width]], constant_values=2 * _NONE)
    ends = tf.gather(ends, tf.range(time)[:, None] + tf.range(width), axis=1)  # [B, T, width]
    scores = tf.reshape(logits[:, :, :1] + ends, [batch, time * width])
    best = tf.argmax(scores, 1, tf.int32)
    score = tf.gather(scores, best, batch_dims=1)
    found = score > _NONE / 2
    return tf.where(found, best // width, -1), tf.where(found, best // width + best % width, -1), score


def info_nce(first, second, weights=None, *, temperature=0.05, symmetric=False):
    """Cross-entropy of finding each vector's partner among all partners of the batch.

    Args:
        first: float [B, D].
        second: float [B, D], the partners.
        weights: float [B], what each pair counts; a pair of weight 0 is no partner of any. None for 1.
        temperature: float > 0, by which products are divided.
        symmetric: bool, whether the mean of both directions is taken.

    Returns:
        dict of (float scalar, float scalar): `"loss"`, nats, and `"accuracy"`, each a sum and the sum of weights.

    Example:
        >>> totals = info_nce(tf.eye(2), tf.eye(2), temperature=1.0)
        >>> print(f"{totals['loss'][0] / totals['loss'][1]:.4f}")  # log(1 + e) - 1
        0.3133

    Source: van den Oord et al. 2018, arXiv:1807.03748, equation 4.
    """
    count = tf.shape(first)[0]
    weights = tf.ones([count], first.dtype) if weights is None else tf.cast(weights, first.dtype)
    own, never = tf.range(count), tf.where(weights > 0, tf.zeros([], first.dtype), tf.constant(_NONE, first.dtype))
    scores = tf.matmul(first, second, transpose_b=True) / temperature  # [B, B]
    nats, right = cross_entropy(scores + never, own)
    if symmetric:
        back, right_back = cross_entropy(tf.transpose(scores) + never, own)
        nats, right = (nats + back) / 2, (right + right_back) / 2
    # A pair without weight has itself shut out.
    nats = tf.where(weights > 0, nats * weights, tf.zeros([], nats.dtype))
    weight = tf.reduce_sum(weights)
    return {"loss": (tf.reduce_sum(nats), weight), "accuracy": (tf.reduce_sum(right * weights), weight)}


def _class_totals(model, logits, labels, weights, training):
    """Returns totals of logits [..., L], labels int32 [...] and weights [...]; a model's smoothing acts in training alone."""
    nats, right = cross_entropy(logits, labels)
    loss, counted = nats, weights
    if training and model.label_smoothing:
        uniform = tf.reduce_logsumexp(logits, -1) - tf.reduce_mean(logits, -1)
        loss = (1 - model.label_smoothing) * nats + model.label_smoothing * uniform
    if training and model.class_weights is not None:
        counted = weights * tf.gather(tf.constant(list(model.class_weights), logits.dtype), labels)
    return {
        "loss": (tf.reduce_sum(loss * counted), tf.reduce_sum(counted)),
        "accuracy": (tf.reduce_sum(right * weights), tf.reduce_sum(weights)),
    }


def _front(keep):
    """Returns (int32 [B, T], the places that are kept before the others, each in their order; int32 [B], how many those are)."""
    time = tf.shape(keep)[1]
    order = tf.sort(tf.range(time) + tf.where(keep, 0, time), axis=1) % tf.maximum(time, 1)
    return order, tf.reduce_sum(tf.cast(keep, tf.int32), 1)


def _as_dict(inputs):
    return inputs if isinstance(inputs, collections.abc.Mapping) else {"ids": inputs}


def _lengths_of(inputs):
    """Returns int32 [B], all tokens where a dict of inputs has no lengths."""
    if "lengths" in inputs:
        return tf.cast(inputs["lengths"], tf.int32)
    ids = tf.convert_to_tensor(inputs["ids"])
    return tf.fill([tf.shape(ids)[0]], tf.shape(ids)[1])


def _weights_of(weights, shape, dtype):
    return tf.cast(weights[0], dtype) if weights else tf.ones(shape, dtype)


def _pooling(pooling, backbone):
    causal = isinstance(backbone, LanguageModel)
    if pooling is None:
        return "last" if causal else "mean"
    if pooling not in POOLINGS or (causal and pooling == "first"):
        known = POOLINGS if not causal else tuple(kind for kind in POOLINGS if kind != "first")
        raise ValueError(f"pooling must be one of {known} for a {type(backbone).__name__}; got {pooling!r}")
    return pooling


def _check_settings(num_labels, label_smoothing):
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise ValueError(f"num_labels must be an int of at least 1; got {num_labels!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1); got {label_smoothing}")


def _checked_weights(weights, num_labels):
    """Returns class weights as a list of floats, or None."""
    if weights is None:
        return None
    weights = [float(weight) for weight in weights]
    if len(weights) != num_labels or not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise ValueError(f"class_weights must be num_labels={num_labels} numbers of at least 0; got {weights}")
    return weights
