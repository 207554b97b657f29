"""One optimization step as a GradientTape function: what `model.fit` runs, and what a loop of one's own calls.

Under a strategy (`distribution.py`) the gradients of all replicas are added up first, weighted by what each counts; then the norm
is clipped and looked at, and they are applied: what one device does with the whole batch.
"""

import math

import keras
import tensorflow as tf

from tfllm.training.averaging import WeightAverage
from tfllm.training.distribution import (
    add_up,
    apply_reduced,
    check_optimizer,
    check_outside,
    first_values,
    on_replicas,
    scope_of,
    seeds_apart,
    strategy_of,
)
from tfllm.training.fused import apply_adam, is_fusable
from tfllm.training.losses import lm_loss, mean


def gradient_step(
    model,
    optimizer,
    batch,
    loss_fn=lm_loss,
    clip_norm=1.0,
    *,
    accumulate=1,
    skipped_steps=None,
    average=None,
    jit_compile=False,
):
    """Computes the loss of a batch and moves the weights against its gradient.

    A gradient that is not finite moves nothing: no weight, no slot of the optimizer, no count of its steps. Only the scale of
    a `LossScaleOptimizer` then goes down.

    Args:
        model: a Keras model; its `trainable_variables` move. Where it was made in the scope of a strategy, the step is that of
            the batches of all workers together.
        optimizer: a Keras optimizer, a `LossScaleOptimizer` included, made in the same scope.
        batch: what `loss_fn` reads; with `accumulate` or a strategy, a nest of tensors with rows on their first axis, those of
            this worker.
        loss_fn: `(model, batch, training=True) -> {"loss": (sum, weight), ...}`.
        clip_norm: float > 0, the longest gradient (Euclidean norm over all weights), or None for no limit.
        accumulate: int >= 1, micro-batches that the rows are cut into, in order; on each replica its own rows. They are computed
            one after another, so only one is in memory, and give the gradient of the whole batch: sums are added and divided
            by the sum of all weights.
        skipped_steps: `SkippedSteps`, which counts the steps that moved nothing, or None.
        average: `WeightAverage`, brought up to date when the weights have moved, or None.
        jit_compile: bool, whether XLA compiles the gradient of each replica under a strategy; without one, whoever compiles the
            step decides.

    Returns:
        (the totals of `loss_fn`, float32 scalar: the norm of the gradient before clipping).

    Source: clipping is Pascanu et al. 2013, arXiv:1211.5063, algorithm 1.
    """
    variables = model.trainable_variables
    strategy = strategy_of(variables)
    fused = strategy is None and is_fusable(optimizer, variables)

    def totals_and_gradients(rows):
        with tf.GradientTape() as tape:
            totals = loss_fn(model, rows, training=True)
            scaled = optimizer.scale_loss(mean(*totals["loss"]))
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        return totals, [_dense(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]

    def own_gradients(rows):
        if accumulate == 1:
            return totals_and_gradients(rows)
        return _accumulated(totals_and_gradients, rows, accumulate)

    def clipped_gradients(rows):
        if strategy is None:
            totals, gradients = own_gradients(rows)
        else:
            with seeds_apart(model):
                totals, gradients = _compiled(own_gradients, jit_compile)(rows)
            totals, gradients = add_up(totals, gradients)
        norm = tf.linalg.global_norm(gradients)
        # 1 but for a LossScaleOptimizer, which unscales in `apply`.
        scale = tf.cast(optimizer.scale_loss(1.0), norm.dtype)
        if clip_norm is not None and not fused:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm * scale, use_norm=norm)
        return totals, gradients, norm, scale

    totals, gradients, norm, scale = on_replicas(strategy, clipped_gradients, batch)
    totals, norm, scale = first_values(strategy, (totals, norm, scale))  # all replicas have the same
    moved = tf.math.is_finite(norm)
    if fused:
        factor = 1.0 if clip_norm is None else clip_norm / tf.maximum(norm, clip_norm)
        apply_adam(optimizer, gradients, variables, factor, moved)
        if average is not None:
            tf.cond(moved, lambda: average.update(), lambda: None)
    else:
        moved = _apply_if_finite(strategy, optimizer, gradients, variables, moved, average)
    if skipped_steps is not None:
        skipped_steps.update(moved)
    return totals, norm / scale


def score_batch(model, batch, loss_fn=lm_loss, *, jit_compile=False):
    """Computes the totals of a batch without training; under a strategy, of the batches of all workers together.

    Args:
        model, batch, loss_fn, jit_compile: as in `gradient_step`.

    Returns:
        dict of (float32 scalar, float32 scalar), the totals of `loss_fn`.
    """
    strategy = strategy_of(model.trainable_variables)

    def totals_of(rows):
        return loss_fn(model, rows, training=False)

    if strategy is None:
        return totals_of(batch)
    totals = on_replicas(strategy, lambda rows: add_up(_compiled(totals_of, jit_compile)(rows))[0], batch)
    return first_values(strategy, totals)


def make_train_step(
    model,
    optimizer,
    loss_fn=lm_loss,
    *,
    clip_norm=1.0,
    accumulate=1,
    max_skipped=10,
    average=None,
    jit_compile=False,
):
    """Compiles `gradient_step` for a loop of one's own.

    Args:
        model, optimizer, loss_fn, clip_norm, accumulate, average: as in `gradient_step`.
        max_skipped: int >= 1, steps in a row whose gradient may be not finite. The host looks at the count once in so many
            steps, so that it need not wait for every step, and the loop goes on for at most so many more.
        jit_compile: bool, whether XLA compiles the step, under a strategy the gradient of each replica: faster for small models,
            needs batches of one shape, with `accumulate` rows that divide evenly, and has no cuDNN recurrent layers.

    Returns:
        A function of a batch that returns a dict of scalars: float32, the mean of every total of `loss_fn` (`"loss"` in nats
        a token, `"accuracy"`), `"perplexity"`, and `"grad_norm"` before clipping; int64, `"skipped"`, the steps that moved
        nothing so far. Its attribute `skipped_steps` is the `SkippedSteps` that counts them. It raises `FloatingPointError`
        after `max_skipped` of them in a row.

    Raises:
        ValueError: when `clip_norm` is not above 0, `accumulate` or `max_skipped` is below 1, `average` is not of the model,
            or the optimizer was not made in the scope of the model's strategy or scales no loss in float16.

    Example:
        >>> import keras, tfllm
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> step = make_train_step(model, keras.optimizers.Adam(0.03))
        >>> batch = (tf.constant([[1, 2, 3]]), tf.constant([[2, 3, 4]]), tf.ones([1, 3]))
        >>> losses = [float(step(batch)["loss"]) for _ in range(20)]
        >>> losses[-1] < losses[0]
        True
    """
    check_step_settings(model, clip_norm, accumulate, average)
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if model.dtype_policy.compute_dtype == "float16" and not scaled:
        raise ValueError(
            "optimizer must be a keras.optimizers.LossScaleOptimizer for a model that computes in float16; got "
            f"{type(optimizer).__name__}"
        )
    skipped_steps, strategy = SkippedSteps(max_skipped), strategy_of(model.trainable_variables)
    check_optimizer(strategy, optimizer)
    with scope_of(strategy):
        optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile and strategy is None, reduce_retracing=True)
    def run(batch):
        totals, norm = gradient_step(
            model,
            optimizer,
            batch,
            loss_fn,
            clip_norm,
            accumulate=accumulate,
            skipped_steps=skipped_steps,
            average=average,
            jit_compile=jit_compile,
        )
        means = {name: mean(*total) for name, total in totals.items()}
        nats = means.get("nats", means["loss"])
        return means | {"perplexity": tf.exp(nats), "grad_norm": norm, "skipped": skipped_steps.counts.value[0]}

    def train_step(batch):
        check_outside(strategy, "a train step")
        results = run(batch)
        skipped_steps.check()
        return results

    train_step.skipped_steps = skipped_steps
    return train_step


class SkippedSteps:
    """Counts the steps that moved nothing because their gradient was not finite, and ends a run that has too many in a row.

    Args:
        max_skipped: int >= 1, how many in a row are too many.

    Attributes:
        counts: Keras variable int64 [3]: steps skipped so far, the last of them in a row, the longest row of them.

    Raises:
        ValueError: when `max_skipped` is below 1.

    Example:
        >>> skipped_steps = SkippedSteps(max_skipped=2)
        >>> for moved in (False, True, False, False):
        ...     skipped_steps.update(tf.constant(moved))
        >>> skipped_steps.counts.numpy()
        array([3, 2, 2])
    """

    def __init__(self, max_skipped=10):
        if isinstance(max_skipped, bool) or not isinstance(max_skipped, int) or max_skipped < 1:
            raise ValueError(f"max_skipped must be an int of at least 1; got {max_skipped!r}")
        self.max_skipped = max_skipped
        # int64, because TensorFlow keeps int32 variables off a GPU, where XLA could not reach them.
        self.counts = keras.Variable([0, 0, 0], dtype="int64", trainable=False, name="skipped_steps")
        self._unseen = 0  # steps since the host last looked

    def update(self, moved):
        """Counts one step, on the device; bool scalar, whether the weights moved."""
        counts = self.counts.value
        skipped = tf.cast(tf.logical_not(moved), tf.int64)
        row = (counts[1] + 1) * skipped
        self.counts.assign(tf.stack([counts[0] + skipped, row, tf.maximum(counts[2], row)]))

    def check(self, steps=1):
        """Looks at the counts, on the host, once in `max_skipped` steps.

        Args:
            steps: int, how many steps were run since the last call.

        Raises:
            FloatingPointError: when `max_skipped` steps in a row or more were skipped since the last such error.
        """
        self._unseen += steps
        if self._unseen < self.max_skipped:
            return
        self._unseen = 0
        total, _, longest = (int(count) for count in self.counts.numpy())
        if longest >= self.max_skipped:
            self.counts.assign([total, 0, 0])  # whoever mends the cause can go on
            raise FloatingPointError(
                f"gradients must be finite in one of max_skipped={self.max_skipped} steps; got {longest} in a row that were "
                "not (a lower learning rate or gradient clipping may help, or a batch is broken)"
            )


def check_step_settings(model, clip_norm, accumulate, average):
    """Refuses a `clip_norm` that is neither None nor finite and above 0, an `accumulate` that is not an int of at least 1, and
    an `average` that is neither None nor of this model.
    """
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(f"clip_norm must be above 0 and finite, or None for no clipping; got {clip_norm}")
    if average is not None and not (isinstance(average, WeightAverage) and average.is_of(model)):
        raise ValueError(f"average must be a WeightAverage of the model that is trained, or None; got {average!r}")
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate must be an int of at least 1; got {accumulate!r}")


def _dense(gradient, variable):
    """Returns a gradient as a tensor: a sparse one can name a row twice, and its norm would then be wrong."""
    if gradient is not None:
        gradient = tf.convert_to_tensor(gradient)
        gradient.set_shape(variable.shape)
    return gradient


def _compiled(function, jit_compile):
    return tf.function(function, jit_compile=True) if jit_compile and not tf.executing_eagerly() else function


def _apply_if_finite(strategy, optimizer, gradients, variables, finite, average):
    """Applies finite gradients, others not; returns bool scalar, whether the weights moved."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        before = tf.identity(optimizer.iterations.value)
        apply_reduced(strategy, optimizer, gradients, variables)  # looks for itself, because it must learn of overflows
        moved = tf.not_equal(optimizer.iterations.value, before)
        if average is not None:
            tf.cond(moved, lambda: average.update(), lambda: None)
        return moved

    if not optimizer.built:
        with scope_of(strategy):
            optimizer.build(variables)  # a branch can make no variables

    def move():
        apply_reduced(strategy, optimizer, gradients, variables)
        if average is not None:
            average.update()

    tf.cond(finite, move, lambda: None)
    return finite


def _accumulated(totals_and_gradients, batch, accumulate):
    """Returns (totals, gradients of the mean loss) of a batch, computed on one part of its rows after another.

    The loop is inside the step, so nothing but weights and optimizer outlasts it: a step stays a step for the schedule, the
    checkpoint and the history, whatever the number of parts.
    """
    batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
    part, count, rows = _cut(batch, accumulate)

    def weighted(totals, gradients):
        # Times the weight here and not in the loss, so that half precision sees gradients of the size it always sees.
        weight = totals["loss"][1]
        gradients = [None if g is None else g * tf.cast(weight, g.dtype) for g in gradients]
        return tf.nest.map_structure(tf.convert_to_tensor, totals), gradients

    if tf.executing_eagerly():
        totals, gradients = weighted(*totals_and_gradients(part(0)))
        for i in range(1, int(count)):
            more = weighted(*totals_and_gradients(part(i)))
            totals, gradients = tf.nest.map_structure(_plus, (totals, gradients), more)
    else:
        spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec([rows, *leaf.shape[1:]], leaf.dtype), batch)
        traced = tf.function(lambda rows: weighted(*totals_and_gradients(rows))).get_concrete_function(spec)
        # What the parts return is known before the first one runs, and the part is traced once.
        zeros = tf.nest.map_structure(
            lambda out: None if out is None else tf.zeros(out.shape, out.dtype), traced.structured_outputs
        )
        _, (totals, gradients) = tf.while_loop(
            lambda i, sums: i < count,
            lambda i, sums: (i + 1, tf.nest.map_structure(_plus, sums, traced(part(i)))),
            (0, zeros),
            parallel_iterations=1,
        )
    share = tf.math.divide_no_nan(1.0, tf.cast(totals["loss"][1], tf.float32))
    return totals, [None if g is None else g * tf.cast(share, g.dtype) for g in gradients]


def _plus(first, second):
    return None if first is None else first + second


def _cut(batch, accumulate):
    """Returns (function of i that gives the i-th part of the rows, the number of parts, the rows of each or None).

    The parts are equal, but for a smaller last one where the rows do not divide evenly.
    """
    first, *others = tf.nest.flatten(batch)
    rows = first.shape[0]
    for leaf in others:
        if None not in (rows, leaf.shape[0]) and leaf.shape[0] != rows:
            raise ValueError(
                f"accumulate must be 1 where the tensors of a batch differ in rows; got {accumulate} for "
                f"{rows} and {leaf.shape[0]} rows"
            )
    if rows is not None and rows % accumulate == 0:  # shapes stay known, as XLA needs them

        def cut(leaf):
            sizes = tf.shape(leaf)
            rest = [sizes[axis] if size is None else size for axis, size in enumerate(leaf.shape)][1:]
            return tf.reshape(leaf, [accumulate, rows // accumulate, *rest])

        parts = tf.nest.map_structure(cut, batch)
        return lambda i: tf.nest.map_structure(lambda leaf: leaf[i], parts), accumulate, rows // accumulate
    rows = tf.shape(first)[0]
    size = -(-rows // accumulate)

    def part(i):
        return tf.nest.map_structure(lambda leaf: leaf[i * size : tf.minimum((i + 1) * size, rows)], batch)

    return part, -(-rows // size), None
