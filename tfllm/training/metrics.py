"""Keras metrics that add up totals and weights, so that batches of any size give the number of their union."""

import keras
import tensorflow as tf

from tfllm.training.losses import mean


@keras.saving.register_keras_serializable("tfllm")
class WeightedMean(keras.metrics.Metric):
    """The mean of all that was added, each with its weight.

    Under a strategy it is updated outside of the replicas, with what they have in all, as the steps here do; so the workers can
    read it, save it and restore it one without the other.

    Example:
        >>> metric = WeightedMean(name="loss")
        >>> metric.update_state(6.0, 3.0)
        >>> metric.update_state(2.0, 1.0)
        >>> float(metric.result())
        2.0
    """

    def __init__(self, name="mean", dtype="float32"):
        super().__init__(name=name, dtype=dtype)
        # `add_variable` would keep a sum for each replica, to be added up at every look.
        with keras.name_scope(self.name):
            self.total = keras.Variable("zeros", (), trainable=False, name="total")
            self.weight = keras.Variable("zeros", (), trainable=False, name="weight")

    def update_state(self, total, weight):
        """Adds a weighted sum (float scalar) and the sum of its weights (float scalar)."""
        self.total.assign_add(total)
        self.weight.assign_add(weight)

    def result(self):
        return mean(self.total.value, self.weight.value)


@keras.saving.register_keras_serializable("tfllm")
class Perplexity(WeightedMean):
    """Two to the power of the bits a token costs: exp of the mean nats a token.

    Example:
        >>> metric = Perplexity()
        >>> metric.update_state(2 * 1.3862944, 2.0)
        >>> print(f"{metric.result():.3f}")
        4.000
    """

    def __init__(self, name="perplexity", dtype="float32"):
        super().__init__(name=name, dtype=dtype)

    def result(self):
        return tf.exp(super().result())
