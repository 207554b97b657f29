"""FittedModel: what every model here that is trained has in common, `fit` on one GradientTape step.

A language model and an encoder with its head each say what a batch costs; all else (accumulation, clipping, replicas, workers,
resuming) is the same.
"""

import functools
import inspect
import itertools

import keras
import tensorflow as tf

from tfllm.text.tokenizers import check_ids
from tfllm.training.distribution import (
    check_agreement,
    check_optimizer,
    check_outside,
    scope_of,
    shard_rows,
    strategy_of,
    workers_of,
)
from tfllm.training.metrics import WeightedMean
from tfllm.training.resume import resuming
from tfllm.training.step import SkippedSteps, check_step_settings, gradient_step, score_batch


class FittedModel(keras.Model):
    """A Keras model whose `fit` runs `training.gradient_step`. Concrete models supply `batch_totals`."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)  # Keras would turn ids that are not whole into others
        self._distribute_strategy = None  # Keras is shown one device; the step knows of the others
        self._trackers = self._make_trackers()

    def batch_totals(self, batch, training=True):
        """Returns `{"loss": (sum, weight), ...}` of a batch, float32 scalars; `"accuracy"` is shown where it is given."""
        raise NotImplementedError

    def _default_loss(self):
        """Returns the `loss_fn` of a model that is compiled without one."""
        return own_loss

    def _make_trackers(self):
        """Returns list of metrics, which take the totals of their names."""
        return [WeightedMean("loss"), WeightedMean("accuracy")]

    def _check_batch(self, *batch):
        """Returns a batch of `fit` as it is, after its values were checked on the host."""
        return batch

    def _create_weights(self):
        """Makes every weight; a constructor ends with it, because a model saved before its first call loses its weights."""
        self(tf.zeros([1, 1], tf.int32))

    def build(self, input_shape=None):
        self.built = True  # the constructor makes the weights; Keras would trace the whole model

    def get_config(self):
        parameters = inspect.signature(type(self).__init__).parameters.values()
        names = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        return super().get_config() | {name: getattr(self, name) for name in names}

    def compile(
        self,
        optimizer="adam",
        loss_fn=None,
        clip_norm=1.0,
        *,
        accumulate=1,
        max_skipped=10,
        average=None,
        **kwargs,
    ):
        """Prepares `fit` and `evaluate`, which report the loss and what else `loss_fn` gives.

        Args:
            optimizer: a Keras optimizer or its name.
            loss_fn: `(model, batch, training) -> {"loss": (sum, weight), ...}`; `"accuracy"` is shown where it is given. None for
                what the model's `batch_totals` gives.
            clip_norm: float > 0, the longest gradient, or None.
            accumulate: int >= 1, micro-batches that each batch is cut into, see `training.gradient_step`.
            max_skipped: int >= 1, steps in a row whose gradient may be not finite, see `training.make_train_step`.
            average: `training.WeightAverage` of this model, or None. A `.keras` file does not hold it.
            **kwargs: `run_eagerly`, `steps_per_execution`, `jit_compile`, `auto_scale_loss`, as in `keras.Model.compile`;
                with both of the middle ones, as many steps are one program.

        Raises:
            ValueError: when `clip_norm` is not above 0 and finite, `accumulate` or `max_skipped` is below 1, `average` is not of
                this model, `loss_fn` is not a function, a `loss` or `metrics` is given, which `loss_fn` replaces, or the
                optimizer was not made in the scope of the model's strategy.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            value = kwargs.pop(name, None)
            if value is not None:
                raise ValueError(f"{name} must be left out, because loss_fn gives loss and metrics; got {value!r}")
        loss_fn = self._default_loss() if loss_fn is None else loss_fn
        if not callable(loss_fn):
            raise ValueError(f"loss_fn must be a function of (model, batch, training); got {loss_fn!r}")
        check_step_settings(self, clip_norm, accumulate, average)
        self.skipped_steps = SkippedSteps(max_skipped)
        strategy = strategy_of(self.trainable_variables)
        with scope_of(strategy):
            super().compile(optimizer=optimizer, **kwargs)
            check_optimizer(strategy, self.optimizer)
            self.optimizer.build(self.trainable_variables)
        self._jit_replicas = self.jit_compile
        if strategy is not None:  # XLA then compiles what each replica does, and not the sum over them
            self.jit_compile = False
        self.loss_fn, self.clip_norm, self.accumulate, self.average = loss_fn, clip_norm, accumulate, average
        self._compile_options = kwargs

    def fit(self, x=None, *args, **kwargs):
        """Trains; the arguments and the result are those of `keras.Model.fit`. With a `training.Resume` among the callbacks, x
        is a `tf.data.Dataset`, and the run goes on where it was saved.

        A model made in the scope of a strategy trains on all its devices. With several workers each calls this with the same
        arguments; x and a `validation_data` are data sets of whole batches, of which each worker takes its rows.

        Raises:
            ValueError: when the scope of a strategy is open, or several workers have arrays or differ in the number of steps.
            tf.errors.InvalidArgumentError: when a batch of a `tf.data.Dataset` has ids out of the vocabulary. The check runs
                on the host, because XLA and GPUs would read zeros without a word.
            FloatingPointError: after `max_skipped` steps in a row whose gradient was not finite.
        """
        strategy = strategy_of(self.trainable_variables)
        check_outside(strategy, "fit")
        with resuming(self, x, args, kwargs) as (x, args, kwargs):
            if workers_of(strategy).count > 1:
                x, args, kwargs = self._share(strategy, x, args, kwargs)
            if isinstance(x, tf.data.Dataset):
                kwargs.setdefault("shuffle", False)  # Keras warns of its own default otherwise
                x = x.map(self._check_batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
                x = x.with_options(_without_autotune())
            history = super().fit(x, *args, **kwargs)
        self.skipped_steps.check(self.skipped_steps.max_skipped)  # of the last steps too
        return history

    def _share(self, strategy, x, args, kwargs):
        """Returns the arguments of `fit`, with this worker's rows for data, when all workers agree on the number of steps."""
        arguments = dict(inspect.signature(keras.Model.fit).bind(self, x, *args, **kwargs).arguments)
        del arguments["self"]
        steps = arguments.get("steps_per_epoch")
        for name in ("x", "validation_data"):
            data = arguments.get(name)
            if name == "x" and not isinstance(data, tf.data.Dataset):
                raise ValueError(f"x must be a tf.data.Dataset for several workers; got {type(data).__name__}")
            if isinstance(data, tf.data.Dataset):
                arguments[name] = shard_rows(data, strategy)
        check_agreement(
            strategy,
            steps_per_epoch=int(arguments["x"].cardinality()) if steps is None else steps,
            epochs=arguments.get("epochs", 1) - arguments.get("initial_epoch", 0),
        )
        return arguments.pop("x"), (), arguments

    def make_train_function(self, force=False):
        if self.train_function is None or force:
            super().make_train_function(force=True)
            run, steps = (
                self._by_batches(self.train_step, self.jit_compile) or self.train_function,
                self.steps_per_execution,
            )

            def run_and_check(iterator):
                results = run(iterator)
                self.skipped_steps.check(steps)
                return results

            self.train_function = run_and_check
        return self.train_function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force=True)
            self.test_function = self._by_batches(self.test_step) or self.test_function
        return self.test_function

    def _by_batches(self, step, in_xla=False):
        """Returns a function that takes the batches of an execution out of the loop that Keras has around them; None for Keras's.

        With a strategy that loop breaks when TensorFlow spreads it over devices. With XLA it is around the program, so every step
        hands over all weights and slots; here the loop is in the program, unless batches differ in shape or fill no execution.
        """
        together = in_xla and not self.run_eagerly and self.steps_per_execution > 1
        if strategy_of(self.trainable_variables) is None and not together:
            return None
        all_at_once = tf.function(functools.partial(_loop, step), jit_compile=True) if together else None
        one = step if self.run_eagerly else tf.function(step, jit_compile=together, reduce_retracing=True)

        def run(iterator):
            batches = list(itertools.islice(iterator, self.steps_per_execution))
            if not batches:
                raise StopIteration
            shapes = {tuple(leaf.shape for leaf in tf.nest.flatten(batch)) for batch in batches}
            if together and len(batches) == self.steps_per_execution and len(shapes) == 1:
                return all_at_once(batches)
            for batch in batches:
                results = one(batch)
            return results

        return run

    def get_compile_config(self):
        return None  # a loss is code, and code is never read from a file

    @property
    def metrics(self):
        return list(self._trackers)

    def train_step(self, batch):
        """Runs one GradientTape step; the same function as `training.make_train_step`."""
        totals, _ = gradient_step(
            self,
            self.optimizer,
            batch,
            self.loss_fn,
            self.clip_norm,
            accumulate=self.accumulate,
            skipped_steps=self.skipped_steps,
            average=self.average,
            jit_compile=self._jit_replicas,
        )
        return self._track(totals)

    def test_step(self, batch):
        """Adds a batch to the metrics."""
        return self._track(score_batch(self, batch, self.loss_fn, jit_compile=self._jit_replicas))

    def _track(self, totals):
        nats = "nats" if "nats" in totals else "loss"
        sources = {tracker: nats if tracker.name == "perplexity" else tracker.name for tracker in self._trackers}
        given = [tracker for tracker in self._trackers if sources[tracker] in totals]
        for tracker in given:
            tracker.update_state(*totals[sources[tracker]])
        return {tracker.name: tracker.result() for tracker in given}


def own_loss(model, batch, training=True):
    """Returns the `batch_totals` of a model: the `loss_fn` of those that have them."""
    return model.batch_totals(batch, training=training)


def checked_on_host(batch, rules):
    """Returns a batch as it is, after its values were checked: the last chance, because XLA and GPUs read anything out of range.

    Args:
        batch: nest of tensors.
        rules: list of (name, int tensor, the least value, the end, what the end is called): values lie in [least, end).

    Raises:
        tf.errors.InvalidArgumentError: when a rule is broken.
    """
    checks = []
    for name, values, least, end, shown in rules:
        values = tf.cast(values, tf.int64)
        inside = tf.reduce_all((values >= least) & (values < tf.cast(end, tf.int64)))
        checks.append(tf.debugging.Assert(inside, [f"{name} must lie in [{least}, {shown}); got", values]))
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, batch)


def checked_ids(ids, vocab_size):
    """Returns int32 ids, which must be whole numbers, and outside of a graph lie in [0, vocab_size)."""
    ids = tf.convert_to_tensor(ids)
    if not ids.dtype.is_integer:
        raise ValueError(f"ids must be whole numbers; got {ids.dtype.name}")
    if tf.executing_eagerly():
        check_ids("ids", ids, vocab_size)
    return tf.cast(ids, tf.int32)


def _loop(step, batches):
    """Takes one step after another in a loop of the graph, on batches of one shape; returns what the last step returned."""
    stacked = tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *batches)
    spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec(leaf.shape[1:], leaf.dtype), stacked)
    traced = tf.function(step).get_concrete_function(spec)
    _, results = tf.while_loop(
        lambda i, _: i < len(batches),
        lambda i, _: (i + 1, traced(tf.nest.map_structure(lambda leaf: leaf[i], stacked))),
        (0, tf.nest.map_structure(lambda out: tf.zeros(out.shape, out.dtype), traced.structured_outputs)),
    )
    return results


def _without_autotune():
    """Returns options of a data set whose iterator can be dropped at once.

    TensorFlow tunes a data set in a thread that sleeps twice as long every time, 10 ms at first. An iterator that is dropped, as
    at the end of `fit`, tells the thread so before it writes down that it is over; a thread that looks in between sleeps on,
    and the iterator waits for it: calls last until 2.55 or 5.11 seconds after their start.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
