"""LanguageModel: what every trainer and every decoder may rely on.

`call(ids)` (training, scoring) and `step(ids, state)` (decoding) are two doors to one forward pass. Four promises let every
decoder work with every model: T is free (prompt, single token or draft); the batch is the first axis of every leaf of the
state; `step` mutates nothing, so the old state is a snapshot; and `lengths` says how many ids of a row count, so a row in a
batch decodes as it would alone.
"""

import collections.abc
import dataclasses
import functools
import inspect
import itertools

import keras
import tensorflow as tf

from tfllm.layers.embedding import document_positions
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
from tfllm.training.losses import LMLoss, lm_loss, widen
from tfllm.training.metrics import Perplexity, WeightedMean
from tfllm.training.optimizers import innermost
from tfllm.training.resume import resuming
from tfllm.training.step import SkippedSteps, check_step_settings, gradient_step, score_batch


class LanguageModel(keras.Model):
    """A model of the next token. Concrete models supply `initial_state`, `_forward` and `_head`.

    Attributes:
        vocab_size: int V, ids run from 0 to V - 1.
        max_length: int, the most tokens a state can hold, or None for no limit.
        rewindable: bool, True where moving `position` back is enough to forget tokens.
    """

    max_length = None
    rewindable = False

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)  # Keras would turn ids that are not whole into others
        self._distribute_strategy = None  # Keras is shown one device; the step knows of the others
        self._trackers = [WeightedMean("loss"), WeightedMean("accuracy"), Perplexity()]

    def initial_state(self, batch_size, slots, context=None):
        """Makes the state before the first token.

        Args:
            batch_size: int or int32 scalar B.
            slots: int or int32 scalar, tokens that the state must hold, at most `max_length`.
            context: what an encoder gave, for models that have one.

        Returns:
            A nest of tensors, batch on axis 0 of every leaf, with `"position"`: int32 [B], tokens read so far.
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
        rule = f"ids must have at most max_length={self.max_length} tokens; got"
        if self.max_length is not None and ids.shape[1] is None:
            length = tf.shape(ids)[1]
            with tf.control_dependencies([tf.debugging.Assert(length <= self.max_length, [rule, length])]):
                ids = tf.identity(ids)
        elif self.max_length is not None and ids.shape[1] > self.max_length:
            raise ValueError(f"{rule} {ids.shape[1]}")
        positions = None if documents is None else document_positions(_checked_documents(documents, ids))
        return self._forward(ids, None, None, training, positions)[0]

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
        ids = self._checked(ids)
        lengths = tf.fill([tf.shape(ids)[0]], tf.shape(ids)[1]) if lengths is None else tf.cast(lengths, tf.int32)
        features, state = self._forward(ids, state, lengths, False)
        if last:
            features = tf.gather(features, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)
        return features, state

    def logits(self, features):
        """Returns float32 [B, T, V] (float64 in a float64 model), logits of features [B, T, D] that `features` or `read` gave."""
        return widen(self._head(features))

    def _checked(self, ids):
        ids = tf.convert_to_tensor(ids)
        if not ids.dtype.is_integer:
            raise ValueError(f"ids must be whole numbers; got {ids.dtype.name}")
        if tf.executing_eagerly():
            check_ids("ids", ids, self.vocab_size)
        return tf.cast(ids, tf.int32)

    def _create_weights(self):
        """Makes every weight; a constructor ends with it, because a model saved before its first call loses its weights."""
        self(tf.zeros([1, 1], tf.int32))

    def build(self, input_shape=None):
        self.built = True  # the constructor makes the weights; Keras would trace the whole model

    def get_config(self):
        parameters = inspect.signature(type(self).__init__).parameters.values()
        names = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        return super().get_config() | {name: getattr(self, name) for name in names}

    # ---------------------------------------------------------------- training with fit

    def compile(
        self,
        optimizer="adam",
        loss_fn=lm_loss,
        clip_norm=1.0,
        *,
        accumulate=1,
        max_skipped=10,
        average=None,
        **kwargs,
    ):
        """Prepares `fit` and `evaluate`, which report the loss (nats a token), perplexity and accuracy.

        Args:
            optimizer: a Keras optimizer or its name.
            loss_fn: `(model, batch, training) -> {"loss": (sum, weight), ...}`; `"accuracy"` is shown where it is given.
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

    def _check_batch(self, *batch):
        """Returns a batch as it is, after its inputs, documents and targets were checked."""
        rules, limit = [], f"vocab_size={self.vocab_size}"
        for texts in batch if isinstance(batch[0], tuple) else [batch]:  # a pair of texts is two batches
            ids, documents = _ids_and_documents(texts[0])
            rules.append(("inputs", ids, self.vocab_size, limit))
            rules += [("targets", targets, self.vocab_size, limit) for targets in texts[1:2]]
            if documents is not None:
                rules.append(("documents", documents, tf.shape(documents, tf.int64)[1] + 1, "T + 1"))
        checks = []
        for name, values, end, shown in rules:
            inside = tf.reduce_all((values >= 0) & (tf.cast(values, tf.int64) < end))
            checks.append(tf.debugging.Assert(inside, [f"{name} must lie in [0, {shown}); got", values]))
        with tf.control_dependencies(checks):
            return tf.nest.map_structure(tf.identity, batch)

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
