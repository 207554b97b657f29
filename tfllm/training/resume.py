"""Runs that cannot be lost: `Resume` for `LanguageModel.fit`, `Checkpoints` for a loop of one's own.

Both save everything that decides how a run goes on (`snapshot.py`) in folders that are whole or not there (`checkpoint.py`),
write them in a thread of their own, and go on at the exact next batch: a killed run ends bit for bit as one that was not. The
data of a run is one stream of batches, and step s takes batch s; `stream_from` starts it anywhere.

On SIGTERM the running step is finished, its checkpoint is written, and the process leaves by `SystemExit(143)`.
"""

import contextlib
import inspect
import math
import pathlib
import signal
import threading
import warnings

import keras
import tensorflow as tf

from tfllm.training import checkpoint, snapshot
from tfllm.training.distribution import gather_numbers, strategy_of, workers_of


class Checkpoints:
    """Saves and restores a run in a loop of one's own.

    Used in a `with` statement it answers SIGTERM (in the main thread) and waits for the last write at the end. Where SIGTERM came
    and no save followed, the end of the statement leaves by `SystemExit(143)`.

    Of several workers, which all call the same methods, the chief alone writes and answers SIGTERM; the others go on until it has
    left. All restore what the chief restores, so all must see the directory.

    Args:
        directory: str or path, one run's own; made when missing.
        model: a built Keras model.
        optimizer: a Keras optimizer; None takes the compiled model's, if it has one.
        also: list of other objects with state: those with `get_state()` and `set_state(state)` (nests of plain values and NumPy
            arrays), and those that hold variables: Keras metrics, `tf.random.Generator`, a `WeightAverage`,
            `train_step.skipped_steps`.
        data: the run's `tf.data.Dataset` of batches, to know it again, or None.
        data_name: str that names the data; None knows it by its first batch, which is read for that. A `tf.data.Dataset.shuffle`
            begins otherwise at every reading, so such data is made anew to go on in the same process.
        tokenizer: a tokenizer, to know it again, or None.
        every_steps: int >= 1, how often `due` says yes; None for SIGTERM alone.
        keep: int >= 1, how many of the last checkpoints stay.
        mode: "min" or "max", which of the values given to `save` is best; its checkpoint stays as well.

    Attributes:
        values: dict, what `save` was given beside the step.
        step: int, the step that was last saved or restored, 0 before.

    Raises:
        ValueError: when a number is out of its range, or `data` is something else.

    Example:
        >>> import keras, tempfile, tfllm
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> train_step = tfllm.training.make_train_step(model, keras.optimizers.Adam())
        >>> data = tfllm.data.lm_dataset(tf.range(100) % 8, sequence_length=4, batch_size=2)
        >>> def train(directory, steps):
        ...     with Checkpoints(directory, model=model, data=data, every_steps=3) as checkpoints:
        ...         step = checkpoints.restore()
        ...         losses = checkpoints.values.get("losses", [])
        ...         for batch in stream_from(data, step).take(steps - step):
        ...             losses.append(float(train_step(batch)["loss"]))
        ...             step += 1
        ...             if checkpoints.due(step) or step == steps:
        ...                 checkpoints.save(step, losses=losses)
        ...     return len(losses)
        >>> folder = tempfile.mkdtemp()
        >>> train(folder, 4), train(folder, 8)
        (4, 8)
    """

    def __init__(
        self,
        directory,
        *,
        model,
        optimizer=None,
        also=(),
        data=None,
        data_name=None,
        tokenizer=None,
        every_steps=None,
        keep=3,
        mode="min",
    ):
        _check_settings(every_steps, keep, mode)
        if not model.built:
            raise ValueError("model must be built, so that its weights exist; got one that was never called")
        self.directory, self.model = pathlib.Path(directory), model
        self.optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        self.also, self.every_steps, self.keep, self.mode = list(also), every_steps, keep, mode
        self.values, self.step, self.terminating = {}, 0, False
        self._strategy = strategy_of(model.trainable_variables)
        self._writes = workers_of(self._strategy).is_chief
        # Each worker reads its first batch, because that moves the order of a `tf.data.Dataset.shuffle` on, which must be the
        # same on all; what it read counts on the chief alone, because the rows of others begin otherwise.
        found = snapshot.fingerprint_data(data, data_name)
        self._identity = {
            "model": snapshot.describe_model(model),
            "optimizer": type(self.optimizer).__name__,
            "data": found if self._writes else snapshot.fingerprint_data(None, data_name),
            "tokenizer": snapshot.fingerprint_tokenizer(tokenizer),
        }
        self._scores, self._damaged, self._loaded = {}, set(), None
        self._restored, self._writer, self._failure = False, None, None

    def __enter__(self):
        self._handles = threading.current_thread() is threading.main_thread()
        if self._handles:
            self._earlier = signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(self, kind, *_):
        try:
            self.wait()
        finally:
            if self._handles:  # a handler that was not set in Python is None and cannot be put back
                signal.signal(signal.SIGTERM, signal.SIG_DFL if self._earlier is None else self._earlier)
        if self.terminating and kind is None:  # it came after the last save
            raise SystemExit(128 + signal.SIGTERM)

    def restore(self, step=None):
        """Sets everything to what the newest whole checkpoint says; without any, changes nothing.

        Args:
            step: int, the checkpoint to take, such as `best`; later ones are removed with the next save. None takes the newest.

        Returns:
            int, the steps that were done, 0 without a checkpoint.

        Raises:
            ValueError: when the checkpoint is of another model, optimizer, tokenizer, data or batch size, or none is whole.

        Warns:
            RuntimeWarning: for every damaged checkpoint that is passed over, with the file and the reason.
        """
        self.wait()  # for the newest, and because the writing removes checkpoints
        self._loaded = self._read_alike(step)
        self._restored = True
        self.recall()
        return self.step

    def recall(self):
        """Sets everything again to what was restored, until `forget`; without a checkpoint, changes nothing."""
        if self._loaded is not None:
            state, arrays = self._loaded
            snapshot.write_variables(self._variables(), arrays)
            snapshot.set_callback_states(self.also, state["also"])
            snapshot.set_random_states(state["random"])
            self.values = state["values"]

    def forget(self):
        """Frees the memory that `recall` needs; a save does so, too."""
        self._loaded = None

    def due(self, step):
        """Says whether to save after a step: SIGTERM came, or `every_steps` passed and the last checkpoint is written."""
        if self.terminating:
            return True
        passed = self.every_steps is not None and step // self.every_steps > self.step // self.every_steps
        return passed and not self.writing

    def save(self, step, *, value=None, **values):
        """Takes a checkpoint: copies everything to the host at once, and writes it while training goes on.

        One write is under way at most; when the one before is not done, this waits for it. After SIGTERM it waits for its own
        and leaves.

        Args:
            step: int, steps done, not below the one last saved.
            value: float, such as a validation loss, by which the best checkpoint is kept; None for none.
            **values: nests of plain values and arrays, which are there again after `restore`, as `values`.

        Raises:
            ValueError: when `step` goes back, a value cannot be kept, or checkpoints stand in the folder and `restore` was
                not called.
            SystemExit: with code 143, after SIGTERM.

        Warns:
            RuntimeWarning: when the last write failed, as on a full disk; the earlier checkpoints stay as they are.
        """
        if step < self.step:
            raise ValueError(f"step must be at least {self.step}, the one last saved; got {step}")
        if self._writes and not self._restored and checkpoint.list_steps(self.directory):
            raise ValueError(
                f"directory must be free of checkpoints unless restore is called; got {str(self.directory)!r}"
            )
        self.wait()  # so that no more than one copy of everything is in memory
        value = None if value is None else float(value)
        if self._writes:
            arrays = snapshot.read_variables(self._variables())
            state = self._identity | {
                "values": checkpoint.pack(values, arrays, "values"),
                "also": checkpoint.pack(snapshot.callback_states(self.also), arrays, "state"),
                "random": checkpoint.pack(snapshot.random_states(), arrays, "random"),
                "value": value,
            }
        self.step, self._restored, self._loaded = step, True, None
        self._scores = {s: old for s, old in self._scores.items() if s < step} | {step: value}
        if not self._writes:
            return
        self._writer = threading.Thread(target=self._write, args=(step, arrays, state), name="checkpoint")
        self._writer.start()
        if self.terminating:
            self.wait()
            raise SystemExit(128 + signal.SIGTERM)

    def wait(self):
        """Waits for the write under way; warns when it failed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            warnings.warn(failure, RuntimeWarning, stacklevel=3)

    @property
    def writing(self):
        """bool, whether a write is under way."""
        return self._writer is not None and self._writer.is_alive()

    @property
    def best(self):
        """int, the step of the checkpoint with the best value, or None."""
        finite = {step: value for step, value in self._scores.items() if value is not None and math.isfinite(value)}
        return (min if self.mode == "min" else max)(finite, key=finite.get) if finite else None

    def is_best(self, value):
        """Says whether a value (float) is better than that of any checkpoint."""
        if not math.isfinite(value):
            return False
        best = None if self.best is None else self._scores[self.best]
        return best is None or (value < best if self.mode == "min" else value > best)

    def _on_sigterm(self, number, frame):
        self.terminating = self._writes

    def _variables(self):
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)
        return snapshot.variables_of(self.model, self.optimizer, self.also)

    def _write(self, step, arrays, state):
        failure = (
            f"the checkpoint of step {step} was not written in {str(self.directory)!r}, earlier ones are as they were"
        )
        try:
            checkpoint.mend(self.directory)
            checkpoint.clean(self.directory)
            checkpoint.write_checkpoint(self.directory, step, arrays, state)
            failure = f"old checkpoints could not be removed from {str(self.directory)!r}"
            steps = checkpoint.list_steps(self.directory)
            self._damaged.discard(step)
            # Those after this step are of a way that was left by restoring an earlier one.
            last = [other for other in steps if other <= step and other not in self._damaged][-self.keep :]
            for other in set(steps) - {*last, self.best}:
                checkpoint.remove_checkpoint(self.directory, other)
        except Exception as error:  # a thread has nobody to raise to; `wait` tells
            self._failure = f"{failure} ({error})"
            if step not in checkpoint.list_steps(self.directory):
                self._scores = {other: value for other, value in self._scores.items() if other != step}

    def _read_alike(self, wanted):
        """Returns what `_read` does; of several workers the chief, which may have to mend the directory, chooses the step."""
        if self._writes:
            loaded = self._read(wanted)
        chosen = int(gather_numbers(self._strategy, [self.step if self._writes and loaded else -1])[0, 0])
        if not self._writes:
            loaded = None if chosen < 0 else self._read(chosen)
        return loaded

    def _read(self, wanted):
        """Returns (state, arrays) of the newest whole checkpoint, or of the one that is wanted; None without any."""
        checkpoint.mend(self.directory)
        steps = checkpoint.list_steps(self.directory)
        if wanted is not None and wanted not in steps:
            raise ValueError(f"step must be one of {steps}, which stand in {str(self.directory)!r}; got {wanted}")
        damage = None
        for step in reversed(steps if wanted is None else [wanted]):
            try:
                state, arrays = checkpoint.read_checkpoint(self.directory, step)
            except checkpoint.DamagedCheckpoint as error:
                damage = error
                self._damaged.add(step)
                warnings.warn(f"a damaged checkpoint is passed over: {error}", RuntimeWarning, stacklevel=4)
                continue
            self._check(state, arrays)
            self._scores, self.step = self._scores_until(step), step
            return state, arrays
        if damage is not None:
            raise ValueError(f"directory must hold a whole checkpoint, or none; got {damage}")
        return None

    def _check(self, state, arrays):
        """Refuses a checkpoint of another run."""
        place = f"as in the checkpoints of {str(self.directory)!r}"
        old, new = state["model"], self._identity["model"]
        for name in old if old.keys() == new.keys() else ("class",):
            if old[name] != new[name]:
                raise ValueError(f"model must have {name}={old[name]!r} {place}; got {new[name]!r}")
        if state["optimizer"] != self._identity["optimizer"]:
            raise ValueError(f"optimizer must be {state['optimizer']} {place}; got {self._identity['optimizer']}")
        saved = {name: array for name, array in arrays.items() if name.startswith(("model/", "optimizer/", "also/"))}
        found = self._variables()
        for group in ("model", "optimizer", "also"):
            difference = snapshot.find_difference(
                *({n: v for n, v in named.items() if n.startswith(group + "/")} for named in (saved, found))
            )
            if difference:
                raise ValueError(
                    f"{group} must have the variables that it has in {str(self.directory)!r}; got {difference}"
                )
        tokenizers = {state["tokenizer"], self._identity["tokenizer"]} - {None}
        if len(tokenizers) > 1:
            raise ValueError(f"tokenizer must be the same {place}; got another one")
        old, new = state["data"], self._identity["data"]
        for name, said in (("batch_size", "batch_size"), ("elements", "data (dtype, shape)"), ("name", "data_name")):
            if None not in (old[name], new[name]) and old[name] != new[name]:
                raise ValueError(f"{said} must be {old[name]!r} {place}; got {new[name]!r}")
        if None not in (old["first_batch"], new["first_batch"]) and old["first_batch"] != new["first_batch"]:
            raise ValueError(f"data must begin with the same batch {place}; got others (or an order without a seed)")

    def _scores_until(self, step):
        scores = {}
        for other in checkpoint.list_steps(self.directory):
            if other <= step:
                with contextlib.suppress(checkpoint.DamagedCheckpoint):
                    scores[other] = checkpoint.read_checkpoint(self.directory, other, arrays=False)[0]["value"]
        return scores


class Resume(keras.callbacks.Callback):
    """Makes `LanguageModel.fit` save its run, and go on where it was when started again with the same arguments.

    A run that is killed and started again, however often, ends with the weights, optimizer, history and callbacks, bit for
    bit, of a run that was not, as far as its data comes in an order that seeds decide: `lm_dataset` and its like, which then
    start at once at the right batch, or any `tf.data` pipeline, whose batches until there are passed over. The states of
    Keras's own callbacks are kept, and of others that have `get_state()` and `set_state(state)`. A `CSVLogger` goes on with its
    file, in which epochs that ended after the last save then stand twice; those of `HistoryFile` stand once.

    In `fit`, the data set is then one stream that is repeated; a look at it before counts for nothing where it is of this
    package. The same holds for `validation_data`: every validation takes the next pass of `lm_dataset` and its like; any other
    must be the same in every pass.

    An epoch has `steps_per_epoch` steps, or as many as the data set has batches. `epochs` may be raised later.

    Args:
        directory: str or path, the run's own.
        every_steps: int >= 1, steps between two saves; None saves at the end of every epoch. A save that falls on the last
            step of an epoch waits until the epoch is validated, one that falls into the writing of another until that is
            done.
        keep: int >= 1, how many of the last checkpoints stay.
        monitor: str, such as "val_loss": the epoch that is best by it is saved, and stays. None for none.
        mode: "min" or "max", which value of `monitor` is best.
        tokenizer: a tokenizer, so that a resume with another one is refused, or None.
        data_name: str that names the data; None knows it by its first batch, which is read for that; see `Checkpoints`.

    Raises:
        ValueError: when a number is out of its range; in `fit`, when the data set's number of batches is neither known nor
            given as `steps_per_epoch`, or the checkpoint is of another model, tokenizer, data or batch size.
        SystemExit: in `fit`, with code 143, when SIGTERM came, after the running step was finished and saved; at its end, when
            SIGTERM came after the last save.

    Example:
        >>> import tempfile, tfllm
        >>> model = tfllm.RecurrentLM(8, cell="gru", dim=8)
        >>> model.compile("adam")
        >>> data = tfllm.data.lm_dataset(tf.range(100) % 8, sequence_length=4, batch_size=2)
        >>> folder = tempfile.mkdtemp()
        >>> history = model.fit(data, verbose=0, callbacks=[Resume(folder, every_steps=5)])
        >>> history = model.fit(data, verbose=0, epochs=2, callbacks=[Resume(folder, every_steps=5)])
        >>> history.epoch
        [0, 1]
    """

    def __init__(
        self, directory, every_steps=None, *, keep=3, monitor=None, mode="min", tokenizer=None, data_name=None
    ):
        super().__init__()
        _check_settings(every_steps, keep, mode)
        self.directory, self.every_steps, self.keep, self.monitor = directory, every_steps, keep, monitor
        self.mode, self.tokenizer, self.data_name = mode, tokenizer, data_name
        self.in_fit = False

    def on_train_begin(self, logs=None):
        if not self.in_fit:
            raise ValueError(
                f"Resume must be given to LanguageModel.fit; got {type(self.model).__name__}, see Checkpoints"
            )

    def on_train_batch_end(self, batch, logs=None):
        """Is here so that Keras calls its callbacks in this thread, one step after another."""


def stream_from(dataset, step):
    """Makes the endless stream of a data set's batches, pass after pass, from one of them on.

    Args:
        dataset: `tf.data.Dataset`. Those of `lm_dataset`, `packed_dataset` and `pair_dataset` start at once; of others the
            batches before are made and passed over.
        step: int >= 0, the batch to begin with.

    Returns:
        `tf.data.Dataset`, the same whenever it is iterated over, where the data set's order is a function of seeds.

    Example:
        >>> [int(x) for x in stream_from(tf.data.Dataset.range(3), 2).take(4)]
        [2, 0, 1, 2]
    """
    if hasattr(dataset, "from_step"):
        return dataset.from_step(step)
    return dataset.repeat().skip(step)


@contextlib.contextmanager
def resuming(model, x, args, kwargs):
    """Turns the arguments of a `fit` with a `Resume` among its callbacks into those of the rest of the run.

    Args:
        model: a compiled `keras.Model`.
        x, args, kwargs: the arguments of its `fit`.

    Yields:
        (x, args, kwargs) for `keras.Model.fit`, as they are without a `Resume`.
    """
    arguments = dict(inspect.signature(keras.Model.fit).bind(model, x, *args, **kwargs).arguments)
    given = arguments.get("callbacks")
    resumes = [part for part in tf.nest.flatten(given) if isinstance(part, Resume)]
    if not resumes:
        yield x, args, kwargs
        return
    if len(resumes) > 1:
        raise ValueError(f"callbacks must hold one Resume; got {len(resumes)}")
    if any(isinstance(part, keras.callbacks.BackupAndRestore) for part in tf.nest.flatten(given)):
        raise ValueError("callbacks must hold Resume or BackupAndRestore; got both")
    (resume,) = resumes
    arguments.pop("self")
    if not isinstance(arguments.pop("x"), tf.data.Dataset):
        raise ValueError(f"x must be a tf.data.Dataset to resume a run; got {type(x).__name__}")
    if arguments.pop("initial_epoch", 0):
        raise ValueError("initial_epoch must be left out, because Resume knows it; got one")
    steps = _steps_of_epoch(x, arguments.get("steps_per_epoch"), model.steps_per_execution)
    checkpoints = Checkpoints(
        resume.directory,
        model=model,
        also=model.metrics,
        data=x,
        data_name=resume.data_name,
        tokenizer=resume.tokenizer,
        every_steps=resume.every_steps,
        keep=resume.keep,
        mode=resume.mode,
    )
    with checkpoints:
        run = _ResumedRun(resume, checkpoints, steps, arguments)
        resume.in_fit = True
        try:
            rest = {"callbacks": run, "steps_per_epoch": steps, "initial_epoch": run.initial_epoch}
            if hasattr(arguments.get("validation_data"), "from_pass"):
                rest["validation_data"] = arguments["validation_data"].from_pass(run.validations)
            yield stream_from(x, run.step), (), arguments | rest
        finally:
            resume.in_fit = False
            run.put_back()


class _EndOfEpoch:
    """What `stop_training` is when an epoch that was resumed in its middle has done its share of steps."""


class _ResumedRun(keras.callbacks.CallbackList):
    """The callbacks of a `fit` that goes on in the middle of an epoch, and that saves after all of them have been called.

    Keras counts the batches of its first epoch from 0 and knows of no shorter one, so the numbers are moved on their way to
    the callbacks, and the epoch is ended by `stop_training`. A run that was saved between the last step of an epoch and the
    epoch's end goes on with a step that does nothing.

    Attributes:
        step: int, steps done in all.
        epoch, done: int, the epoch and the steps done in it.
        over: bool, whether its last step is done, but not its validation.
        validations: int, those done in all.
    """

    def __init__(self, resume, checkpoints, steps, arguments):
        self.resume, self.checkpoints, self.steps = resume, checkpoints, steps
        self.epochs, verbose = arguments.get("epochs", 1), arguments.get("verbose", "auto")
        super().__init__(
            arguments["callbacks"],
            add_history=True,
            add_progbar=verbose != 0,
            verbose=verbose,
            epochs=self.epochs,
            steps=steps,
            model=checkpoints.model,
        )
        self.step, self.recalled = checkpoints.restore(), checkpoints.values
        values = self.recalled or {"epoch": 0, "done": 0, "over": False, "stop": False, "steps": steps, "logs": {}}
        self.epoch, self.done, self.over, self.logs = (values[name] for name in ("epoch", "done", "over", "logs"))
        self.validations = values.get("validations", 0)
        place, at_once = f"as the checkpoints of {str(checkpoints.directory)!r} have it", self.model.steps_per_execution
        if values["steps"] != steps:
            raise ValueError(f"steps_per_epoch must be {values['steps']}, {place}; got {steps}")
        if self.done % at_once and not self.over:
            raise ValueError(f"steps_per_execution must divide {self.done}, steps of an epoch, {place}; got {at_once}")
        self.initial_epoch = max(self.epochs, self.epoch) if values["stop"] and not self.over else self.epoch
        self.first, self.train_function = self.done, None

    def on_train_begin(self, logs=None):
        loggers = [part for part in self.callbacks if isinstance(part, keras.callbacks.CSVLogger) and not part.append]
        for logger in loggers if self.recalled else ():
            logger.append = True  # or else its file would be emptied
        super().on_train_begin(logs)
        for logger in loggers:
            logger.append = False
        if self.recalled:  # callbacks forget everything when training begins
            self._recall()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if self.done or self.over:  # the epoch had begun before, so this beginning, too, is undone
            self._recall()
        if self.over:
            self.train_function, self.model.train_function = self.model.train_function, lambda iterator: self.logs
        self.recalled = None
        self.checkpoints.forget()

    def on_train_batch_begin(self, batch, logs=None):
        if self.train_function is None:
            super().on_train_batch_begin(self.first + batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        if self.train_function is not None:
            self.put_back()
            self.model.stop_training = self.stop or _EndOfEpoch()
            self._end_steps()
            return
        batch += self.first
        super().on_train_batch_end(batch, logs)
        self.step += batch + 1 - self.done
        self.done = batch + 1
        if self.done >= self.steps or self.model.stop_training:
            self.logs = {name: float(value) for name, value in logs.items()}
            self._end_steps()
            if self.first and not self.model.stop_training:
                self.model.stop_training = _EndOfEpoch()
        if self.checkpoints.terminating or (not self.over and self.checkpoints.due(self.step)):
            self._save()

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, logs)
        if self.over and self.checkpoints.terminating:
            super().on_test_end()  # so that a callback that lent the model other weights takes them back
            snapshot.write_variables(self._metric_variables(), self.metrics_then)
            self._save()

    def on_test_end(self, logs=None):
        super().on_test_end(logs)
        self.validations += 1

    def on_epoch_end(self, epoch, logs=None):
        if isinstance(self.model.stop_training, _EndOfEpoch):
            self.model.stop_training = False
        super().on_epoch_end(epoch, logs)
        self.epoch, self.done, self.over, self.first = epoch + 1, 0, False, 0
        score = None if self.resume.monitor is None else logs.get(self.resume.monitor)
        if score is None and self.resume.monitor is not None:
            warnings.warn(
                f"monitor must be one of {sorted(logs)}; got {self.resume.monitor!r}", RuntimeWarning, stacklevel=2
            )
        best = score is not None and self.checkpoints.is_best(score)
        last = bool(self.model.stop_training) or self.epoch == self.epochs or self.resume.every_steps is None
        if best or last or self.checkpoints.due(self.step):
            self._save(score)

    def put_back(self):
        """Gives the model its own train function back."""
        if self.train_function is not None:
            self.model.train_function, self.train_function = self.train_function, None

    def _end_steps(self):
        self.over = True
        self.metrics_then = snapshot.read_variables(self._metric_variables())  # validation resets them

    def _metric_variables(self):
        return {variable.path: variable for metric in self.model.metrics for variable in metric.variables}

    def _recall(self):
        self.checkpoints.recall()
        snapshot.set_callback_states(self.callbacks, self.recalled["callbacks"])
        self._history.history, self._history.epoch = self.recalled["history"], self.recalled["epochs"]
        self.stop = self.recalled["stop"]

    def _save(self, score=None):
        stopped = self.model.stop_training
        self.checkpoints.save(
            self.step,
            value=score,
            epoch=self.epoch,
            done=self.done,
            over=self.over,
            validations=self.validations,
            stop=bool(stopped) and not isinstance(stopped, _EndOfEpoch),
            steps=self.steps,
            logs=self.logs,
            history=self._history.history,
            epochs=self._history.epoch,
            callbacks=snapshot.callback_states(self.callbacks),
        )


def _steps_of_epoch(dataset, steps, at_once):
    """Returns int, the steps of an epoch of `fit`."""
    if steps is None:
        steps = int(dataset.cardinality())
        if steps < 1:
            raise ValueError(
                "steps_per_epoch must be given for a data set that does not know its number of batches; got None"
            )
    if steps % at_once:
        raise ValueError(f"steps_per_execution must divide the {steps} steps of an epoch to resume it; got {at_once}")
    return steps


def _check_settings(every_steps, keep, mode):
    for name, value in (("every_steps", 1 if every_steps is None else every_steps), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an int of at least 1; got {value!r}")
    if mode not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max'; got {mode!r}")
