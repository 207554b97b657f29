"""The moving average of a model's weights, which usually scores better than the last weights do.

Keras optimizers keep one too (`use_ema`), but `fit` ends by overwriting the weights with it, so training cannot go on from
where it was, and it begins with the first weights, which a short run never forgets.
"""

import contextlib

import keras
import tensorflow as tf


class WeightAverage:
    """Keeps the exponential moving average of the weights that a model trains.

    `compile` and `make_train_step` take it as `average` and bring it up to date after every step that moved the weights.

    Args:
        model: a built Keras model.
        decay: float in [0, 1), what is left of the average in each step: it reaches back about 1 / (1 - decay) steps.
        start: int >= 0, steps after which averaging begins; before, the average is the last weights. The first step is never
            averaged with what was there before, because that may be random weights, or others than were loaded later.

    Attributes:
        variables: list of Keras variables, the state, for a checkpoint.

    Raises:
        ValueError: on a `decay` or `start` out of range.

    Example:
        >>> model = tfllm.RecurrentLM(8, "gru", 4)
        >>> average = WeightAverage(model, decay=0.99)
        >>> model.compile("adam", average=average)
        >>> _ = model.fit(tf.zeros([4, 3], tf.int32), tf.zeros([4, 3], tf.int32), verbose=0)
        >>> with average.lent():
        ...     logits = model(tf.zeros([1, 3], tf.int32))

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046, in the exponential form of Kingma and Ba 2015, arXiv:1412.6980,
    section 7.2.
    """

    def __init__(self, model, decay=0.999, start=0):
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise ValueError(f"start must be an int of at least 0; got {start!r}")
        self.decay, self.start = decay, start
        self._weights = list(model.trainable_variables)
        self._updates = keras.Variable(0, dtype="int64", trainable=False, name="updates")
        self._averages = [
            keras.Variable(tf.identity(weight.value), dtype=weight.dtype, trainable=False, name="average")
            for weight in self._weights
        ]
        self.variables = [self._updates, *self._averages]

    def is_of(self, model):
        """Says whether this is the average of all weights that a model trains."""
        trained = model.trainable_variables
        return len(trained) == len(self._weights) and all(
            one is other for one, other in zip(trained, self._weights, strict=True)
        )

    def update(self):
        """Takes the weights as they are into the average."""
        decay = tf.where(self._updates.value < max(self.start, 1), 0.0, self.decay)
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.assign(weight.value + tf.cast(decay, weight.dtype) * (average.value - weight.value))
        self._updates.assign_add(1)

    @contextlib.contextmanager
    def lent(self):
        """Gives the model the averaged weights for as long as the context lasts, to evaluate, generate or save it."""
        own = self._lend()
        try:
            yield
        finally:
            self._take_back(own)

    def _lend(self):
        """Gives the model the averaged weights and returns its own."""
        own = [tf.identity(weight.value) for weight in self._weights]
        self._take_back(self._averages)
        return own

    def _take_back(self, values):
        for weight, value in zip(self._weights, values, strict=True):
            weight.assign(value)


class ValidateAverage(keras.callbacks.Callback):
    """Makes `fit` validate the averaged weights in place of the last ones.

    Args:
        average: `WeightAverage` of the model.

    Example:
        >>> model = tfllm.RecurrentLM(8, "gru", 4)
        >>> average, data = WeightAverage(model, decay=0.9), tfllm.data.lm_dataset(tf.range(90) % 8, None, 4, 2)
        >>> model.compile(keras.optimizers.SGD(0.1), average=average)
        >>> history = model.fit(data, validation_data=data, verbose=0, callbacks=[ValidateAverage(average)]).history
        >>> sorted(history)[-1]
        'val_perplexity'
    """

    def __init__(self, average):
        super().__init__()
        self.average, self._own = average, None

    def on_train_begin(self, logs=None):
        self.on_test_end()  # of a validation that an exception ended

    def on_test_begin(self, logs=None):
        self._own = self.average._lend()

    def on_test_end(self, logs=None):
        if self._own is not None:
            self.average._take_back(self._own)
            self._own = None
