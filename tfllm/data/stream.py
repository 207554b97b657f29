"""Batches of epochs as one stream: where a pass begins, and what the next pass goes on with."""

import tensorflow as tf


def check_stream(batch_size, epochs, start_step, num_workers=1, worker=0):
    """Raises ValueError when one of the numbers that data sets of batches share is out of its range."""
    least = {
        "batch_size": (batch_size, 1),
        "epochs": (1 if epochs is None else epochs, 1),
        "start_step": (start_step, 0),
        "num_workers": (num_workers, 1),
    }
    for name, (value, bound) in least.items():
        if value < bound:
            raise ValueError(f"{name} must be at least {bound}; got {value}")
    if batch_size % num_workers:
        raise ValueError(f"batch_size must be a multiple of num_workers={num_workers}; got {batch_size}")
    if not 0 <= worker < num_workers:
        raise ValueError(f"worker must lie in [0, num_workers={num_workers}); got {worker}")


def stream_epochs(part_of_epoch, batches, epochs, start_step, counted, change=None):
    """Joins the parts of epochs to passes.

    Args:
        part_of_epoch: function of (epoch, begin, end), int64 scalars, to the data set of those batches of the epoch.
        batches: int, how many an epoch has.
        epochs: int, epochs in a pass, or None for one endless pass.
        start_step: int, the batch of the endless stream at which the first pass begins.
        counted: bool, whether every pass goes on where the one before it ended; else all begin at `start_step`, and all epochs
            are alike.
        change: function of (epoch, *batch), what becomes of every batch; None leaves them as they are. Where all epochs are
            alike, it is told that they are epoch 0.

    Returns:
        `tf.data.Dataset`.
    """
    changed = part_of_epoch if change is None else _change_parts(part_of_epoch, change, counted)
    first_epoch, begin = start_step // batches, start_step % batches
    if epochs is None:
        return tf.data.Dataset.counter(first_epoch).flat_map(
            lambda epoch: changed(epoch, tf.where(epoch == first_epoch, tf.constant(begin, tf.int64), 0), batches)
        )

    def one_pass(number):
        def part(index):  # a pass of n epochs that begins inside one has parts of n + 1
            return changed(
                first_epoch + number * epochs + index,
                tf.where(index == 0, tf.constant(begin, tf.int64), 0),
                tf.where(index == epochs, tf.constant(begin, tf.int64), batches),
            )

        return tf.data.Dataset.range(epochs + (begin > 0)).flat_map(part)

    passes = tf.data.Dataset.range(1).map(_make_counter()) if counted else tf.data.Dataset.range(1)
    return passes.flat_map(one_pass).apply(tf.data.experimental.assert_cardinality(epochs * batches))


def with_starts(make, epochs, start_step, change=None, num_workers=1):
    """Makes a data set that can be started anywhere.

    Args:
        make: function of (epochs, start_step, change), as `stream_epochs` takes them, to a data set.
        epochs: int or None.
        start_step: int.
        change: function of (epoch, *batch), or None.
        num_workers: int; of several, the batches are one worker's rows, and are marked so that nothing shares them out again.

    Returns:
        `make(epochs, start_step, change)` with three attributes, which what you chain behind a data set does not have:
        `from_step`, a function of an int s to the endless stream of its batches from batch s on, as `repeat().skip(s)` gives
        it where no pass was begun before, but at once; `from_pass`, a function of an int p to the data set whose first pass is
        pass p; and `changed`, a function of a `change` to the data set whose batches go through that as well.
    """

    def made(epochs, start_step):
        if num_workers == 1:
            return make(epochs, start_step, change)
        mark = tf.data.Options()
        mark.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return make(epochs, start_step, change).with_options(mark)

    dataset = made(epochs, start_step)
    dataset.from_step = lambda step: made(None, start_step + step)

    def from_pass(number):
        first = made(epochs, start_step)
        if epochs is None:  # there is one pass
            return first
        return made(epochs, start_step + number * int(first.cardinality()))

    dataset.from_pass = from_pass

    def changed(more):
        both = more if change is None else lambda epoch, *batch: more(epoch, *change(epoch, *batch))
        return with_starts(make, epochs, start_step, both, num_workers)

    dataset.changed = changed
    return dataset


def _change_parts(part_of_epoch, change, counted):
    def part(epoch, begin, end):
        number = epoch if counted else tf.zeros_like(epoch)
        return part_of_epoch(epoch, begin, end).map(
            lambda *batch: change(number, *batch), num_parallel_calls=4, deterministic=True
        )

    return part


def _make_counter():
    """Makes a function that returns 0, 1, 2, ... A table, because a variable would be mirrored in a strategy's scope."""
    with tf.device("CPU:0"):
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)

    def count(key):
        number = table.lookup(key)
        with tf.control_dependencies([table.insert(key, number + 1)]):
            return tf.identity(number)

    return count
