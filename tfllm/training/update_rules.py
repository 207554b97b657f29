"""Update rules that Keras does not have: Adam exactly as published, and Lookahead around any optimizer.

Gradient descent and momentum as the textbooks write them are `keras.optimizers.SGD(rate)` and `keras.optimizers.SGD(rate,
momentum=...)`: v = momentum v + rate g, w = w - v, with the rate inside.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfllm")
class Adam(keras.optimizers.Optimizer):
    """Adam as algorithm 1 of its paper has it: m / (1 - beta_1^t) over sqrt(v / (1 - beta_2^t)) + epsilon.

    `keras.optimizers.Adam` adds epsilon before it corrects v (the paper's faster form), which makes a larger epsilon of it in
    the first steps.

    Args:
        learning_rate: float or schedule.
        beta_1: float in [0, 1), decay of the mean of gradients, m = beta_1 m + (1 - beta_1) g.
        beta_2: float in [0, 1), the same for their squares, v.
        epsilon: float > 0.
        **kwargs: of `keras.optimizers.Optimizer`: weight_decay, clipnorm, use_ema, ...

    Raises:
        ValueError: when an argument breaks its rule.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-8, name="adam", **kwargs):
        for label, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(f"{label} must lie in [0, 1); got {value}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0; got {epsilon}")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._m, self._v = self.add_optimizer_variables(variables, ["mean", "square"])

    def update_step(self, gradient, variable, learning_rate):
        index, ops = self._get_variable_index(variable), keras.ops
        step = ops.cast(self.iterations + 1, variable.dtype)
        rate, gradient = ops.cast(learning_rate, variable.dtype), ops.cast(gradient, variable.dtype)
        m, v = self._m[index], self._v[index]
        self.assign(m, self.beta_1 * m + (1 - self.beta_1) * gradient)
        self.assign(v, self.beta_2 * v + (1 - self.beta_2) * ops.square(gradient))
        first = m / (1 - ops.power(ops.cast(self.beta_1, variable.dtype), step))
        second = v / (1 - ops.power(ops.cast(self.beta_2, variable.dtype), step))
        self.assign_sub(variable, rate * first / (ops.sqrt(second) + self.epsilon))

    def get_config(self):
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("tfllm")
class Lookahead(keras.optimizers.Optimizer):
    """Lets an optimizer run ahead, and every few steps goes only a part of the way after it.

    Args:
        optimizer: any Keras optimizer but a `LossScaleOptimizer`, which goes around this one.
        period: int >= 1, steps that the inner optimizer runs ahead.
        share: float in (0, 1], of the way that is kept; the inner optimizer goes on from there.

    Decay, clipping and averages of weights are options of the inner optimizer.

    Raises:
        ValueError: when an argument breaks its rule.

    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1.
    """

    def __init__(self, optimizer, period=6, share=0.5, name="lookahead"):
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "optimizer must go inside of Lookahead, and a LossScaleOptimizer around it; got one inside"
            )
        if isinstance(period, bool) or not isinstance(period, int) or period < 1:
            raise ValueError(f"period must be an int of at least 1; got {period!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1]; got {share}")
        super().__init__(learning_rate=0.0, name=name)
        self.optimizer, self.period, self.share = optimizer, period, share

    def build(self, variables):
        if self.built:
            return
        self.optimizer.build(variables)
        super().build(variables)
        self._slow = self.add_optimizer_variables(variables, "slow")

    def apply(self, grads, trainable_variables=None):
        """Lets the inner optimizer take its step, and takes back a share of the last ones in every `period`-th."""
        if trainable_variables is not None and not self.built:
            self.build(trainable_variables)
        variables = self._trainable_variables if trainable_variables is None else trainable_variables

        def begin():
            for slow, variable in zip(self._slow, self._trainable_variables, strict=True):
                slow.assign(variable)

        def meet():
            for variable in variables:
                slow = self._slow[self._get_variable_index(variable)]
                slow.assign(slow + self.share * (variable - slow))
                variable.assign(slow)

        # In the first step and not in `build`: weights may be loaded after that.
        tf.cond(tf.equal(self.optimizer.iterations.value, 0), begin, lambda: None)
        self.optimizer.apply(grads, trainable_variables)
        tf.cond(self.optimizer.iterations.value % self.period == 0, meet, lambda: None)
        self._iterations.assign(self.optimizer.iterations)

    @property
    def variables(self):
        return super().variables + self.optimizer.variables

    @property
    def learning_rate(self):
        return self.optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.optimizer.learning_rate = learning_rate

    def finalize_variable_values(self, var_list):
        self.optimizer.finalize_variable_values(var_list)

    def get_config(self):
        inner = keras.optimizers.serialize(self.optimizer)
        return {"optimizer": inner, "period": self.period, "share": self.share, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"optimizer": keras.optimizers.deserialize(config["optimizer"])})
