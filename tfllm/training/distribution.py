"""Training on several devices and several machines, on TensorFlow's own engine.

`tf.distribute.MirroredStrategy` (devices of one machine) and `MultiWorkerMirroredStrategy` (machines, named by `TF_CONFIG`) keep
a copy of every weight on each device and add up over them. Each copy is a replica; each process is a worker. Here stands who
the workers are and what each computes; what is done with it is `step.py`'s affair.

Keras's own use of strategies is left out: it clips the gradient of each replica, takes the mean of metrics whatever they count,
and its `fit` fails on several workers (Keras 3.15). Keras is shown one device, and the step alone knows of the others.

All workers go through the same batches, and each computes on its rows of every one. So the number of replicas changes nothing
but rounding, and which features dropout leaves out.

Source: the form of `TF_CONFIG` is that of tensorflow.org/guide/distributed_training.
"""

import contextlib
import dataclasses
import json
import os

import keras
import numpy as np
import tensorflow as tf

_TYPES = ("chief", "worker")
_SEED_STEP = 1_000_003  # between the seeds that replicas draw from; prime, so that no small numbers of layers meet


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes of one training, and which of them this is.

    Attributes:
        addresses: tuple of str, "host:port" of every worker, empty for one that is alone. The first is the chief, which writes
            the checkpoints.
        index: int, this worker's place among them.

    Example:
        >>> workers = Workers(("10.0.0.1:2222", "10.0.0.2:2222"), 1)
        >>> workers.count, workers.is_chief
        (2, False)
    """

    addresses: tuple = ()
    index: int = 0

    @property
    def count(self):
        """int, how many there are."""
        return max(len(self.addresses), 1)

    @property
    def is_chief(self):
        """bool, whether this is the one that writes."""
        return self.index == 0


def read_workers(config=None):
    """Reads and checks a list of workers.

    Args:
        config: str, JSON of the form `{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}`; one
            of the workers may stand under `"chief"` instead. None takes the environment's `TF_CONFIG`.

    Returns:
        `Workers`; one that is alone where nothing is set.

    Raises:
        ValueError: when the list contradicts itself.

    Example:
        >>> read_workers('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
        Workers(addresses=('a:1', 'b:1'), index=1)
    """
    text = os.environ.get("TF_CONFIG", "") if config is None else config
    if not text.strip():
        return Workers()
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"TF_CONFIG must be JSON; got {text!r}") from error
    if not isinstance(found, dict) or not isinstance(found.get("cluster", {}), dict):
        raise ValueError(f"TF_CONFIG must be an object with the objects 'cluster' and 'task'; got {text!r}")
    cluster, task = found.get("cluster", {}), found.get("task")
    if not cluster:
        return Workers()
    for kind, addresses in cluster.items():
        if kind not in _TYPES:
            raise ValueError(f"TF_CONFIG's cluster must be made of {list(_TYPES)}; got {kind!r}")
        if not isinstance(addresses, list) or not addresses:
            raise ValueError(f"TF_CONFIG's {kind!r} must be a list of addresses; got {addresses!r}")
        for address in addresses:
            host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
            if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
                raise ValueError(f"TF_CONFIG's addresses must be of the form 'host:port'; got {address!r}")
    if len(cluster.get("chief", [])) > 1:
        raise ValueError(f"TF_CONFIG must have one chief at most; got {cluster['chief']}")
    addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
    if len(set(addresses)) < len(addresses):
        twice = next(address for address in addresses if addresses.count(address) > 1)
        raise ValueError(f"TF_CONFIG must name every address once; got {twice!r} more often")
    if not isinstance(task, dict) or {"type", "index"} - set(task):
        raise ValueError(f"TF_CONFIG must have a task with 'type' and 'index'; got {task!r}")
    kind, index = task["type"], task["index"]
    if kind not in cluster:
        raise ValueError(f"TF_CONFIG's task must have a type of its cluster, {list(cluster)}; got {kind!r}")
    number = int(index) if isinstance(index, str) and index.isdecimal() else index
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(cluster[kind]):
        raise ValueError(f"TF_CONFIG's task must have an index in [0, {len(cluster[kind])}); got {index!r}")
    return Workers(tuple(addresses), _place(cluster, kind, number))


def make_strategy():
    """Chooses how a training is spread: over the workers of `TF_CONFIG`, else over the GPUs of this machine, else not at all.

    Model and optimizer are made in its `scope()`; `fit` and the steps of a loop of one's own are called outside of it. With
    several workers this is the first thing that a program does with TensorFlow, and every worker runs the same program.

    Returns:
        `tf.distribute.Strategy`.

    Raises:
        ValueError: when `TF_CONFIG` contradicts itself, or several workers are named and TensorFlow is in use already.

    Example:
        >>> strategy = make_strategy()
        >>> with strategy.scope():
        ...     model = tfllm.RecurrentLM(8, "gru", 4)
        ...     model.compile("adam")
        >>> strategy.num_replicas_in_sync
        1
    """
    workers = read_workers()
    if workers.count > 1:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(f"make_strategy must be called before TensorFlow is used; got {error}") from error
    return tf.distribute.MirroredStrategy() if len(tf.config.list_logical_devices("GPU")) > 1 else _one_device()


def workers_of(strategy):
    """Returns the `Workers` of a `tf.distribute.Strategy`; one that is alone for strategies of one process, and for None."""
    resolver = getattr(strategy, "cluster_resolver", None)
    cluster = {} if resolver is None else resolver.cluster_spec().as_dict()
    if not cluster:
        return Workers()
    addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
    return Workers(tuple(addresses), _place(cluster, resolver.task_type, resolver.task_id))


def strategy_of(variables):
    """Returns the `tf.distribute.Strategy` in whose scope a list of Keras or TensorFlow variables was made, or None."""
    first = next(iter(variables), None)
    value = first.value if isinstance(first, keras.Variable) else first
    return value.distribute_strategy if isinstance(value, tf.distribute.DistributedValues) else None


def scope_of(strategy):
    """Returns the scope of a strategy, or a context that does nothing for None or a scope that is open."""
    if strategy is None or tf.distribute.get_strategy() is strategy:
        return contextlib.nullcontext()
    return strategy.scope()


def check_outside(strategy, name):
    """Raises ValueError when the scope of a strategy is open, in which steps cannot run."""
    if strategy is not None and tf.distribute.has_strategy():
        raise ValueError(
            f"{name} must be called outside the scope of its strategy; got a call in one of {type(strategy).__name__}"
        )


def check_optimizer(strategy, optimizer):
    """Raises ValueError when an optimizer was made elsewhere than the model, whose strategy this is."""
    found = strategy_of([optimizer.iterations])
    if found is not strategy:
        place, other = (
            "outside of any" if each is None else f"in that of {type(each).__name__}" for each in (strategy, found)
        )
        raise ValueError(
            f"optimizer must be made in the scope that the model was made in, {place}; got one made {other}"
        )


def shard_rows(dataset, strategy):
    """Keeps this worker's rows of every batch of a data set, of which every worker has the same.

    `fit` does so itself; a loop of one's own calls it. A data set whose `auto_shard_policy` is `OFF` has this worker's rows
    already, as `lm_dataset` with `num_workers` does, and stays as it is.

    Args:
        dataset: `tf.data.Dataset` of batches, rows on the first axis.
        strategy: `tf.distribute.Strategy`, or None.

    Returns:
        `tf.data.Dataset`, with `from_step` where `dataset` has it.

    Example:
        >>> data = tf.data.Dataset.range(6).batch(3)
        >>> [rows.numpy().tolist() for rows in shard_rows(data, make_strategy())]
        [[0, 1, 2], [3, 4, 5]]
    """
    workers = workers_of(strategy)
    policy = dataset.options().experimental_distribute.auto_shard_policy
    if workers.count == 1 or policy == tf.data.experimental.AutoShardPolicy.OFF:
        return dataset

    def cut(*batch):
        return rows_of(batch if isinstance(dataset.element_spec, tuple) else batch[0], workers.index, workers.count)

    sharded = dataset.map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if hasattr(dataset, "from_step"):
        sharded.from_step = lambda step: shard_rows(dataset.from_step(step), strategy)
    return sharded


def rows_of(batch, index, count):
    """Returns the rows of a batch that are the share of one of several; shares differ by one row at most.

    Args:
        batch: nest of tensors, rows on the first axis.
        index: int in [0, count).
        count: int >= 1.

    Raises:
        ValueError: when the number of rows is known and there is none for each.

    Example:
        >>> [rows_of(tf.range(5), index, 2).numpy().tolist() for index in range(2)]
        [[0, 1], [2, 3, 4]]
    """

    def cut(leaf):
        leaf = tf.convert_to_tensor(leaf)
        rows = tf.shape(leaf)[0] if leaf.shape[0] is None else leaf.shape[0]
        if leaf.shape[0] is not None and rows < count:
            raise ValueError(f"batches must have a row for each of {count} that share them; got {rows}")
        return leaf[index * rows // count : (index + 1) * rows // count]

    return tf.nest.map_structure(cut, batch)


def on_replicas(strategy, function, batch):
    """Calls a function on every replica of this worker, each with its rows.

    Args:
        strategy: `tf.distribute.Strategy`, or None for a plain call.
        function: of a batch.
        batch: nest of tensors, this worker's rows, or of `tf.distribute.DistributedValues`, each replica's.

    Returns:
        What the function returned, values of several replicas in `tf.distribute.DistributedValues`.
    """
    if strategy is None:
        return function(batch)
    if any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in tf.nest.flatten(batch)):
        return strategy.run(function, args=(batch,))
    batch, first, count = tf.nest.map_structure(tf.convert_to_tensor, batch), *_replicas_of(strategy)
    # Slicing is left to the replica, because a batch is small and one process has few replicas.
    return strategy.run(lambda: function(rows_of(batch, replica_index() - first, count) if count > 1 else batch))


def replica_index():
    """Returns int, the number of the running replica among those of all workers; 0 without a strategy."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


def first_values(strategy, nest):
    """Returns a nest with the values of this worker's first replica; for values that are the same on all."""
    if strategy is None:
        return nest
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], nest)


def add_up(totals, gradients=()):
    """Adds up over the replicas of all workers; called on each of them.

    Args:
        totals: `{"loss": (sum, weight), ...}` of the replica's rows.
        gradients: list of tensors or None, of the mean loss of these rows.

    Returns:
        (totals of all rows, gradients of the mean loss of all rows), the same on every replica.
    """
    weight, context = totals["loss"][1], tf.distribute.get_replica_context()
    totals = tf.nest.map_structure(tf.convert_to_tensor, totals)
    # Times the weight here, and not in the loss, so that half precision sees gradients of the size it always sees.
    parts = [gradient * tf.cast(weight, gradient.dtype) for gradient in gradients if gradient is not None]
    sums = list(context.all_reduce(tf.distribute.ReduceOp.SUM, [*tf.nest.flatten(totals), *parts]))
    count = len(tf.nest.flatten(totals))
    totals = tf.nest.pack_sequence_as(totals, sums[:count])
    share = tf.math.divide_no_nan(1.0, tf.cast(totals["loss"][1], tf.float32))
    means = iter([part * tf.cast(share, part.dtype) for part in sums[count:]])
    return totals, [None if gradient is None else next(means) for gradient in gradients]


@contextlib.contextmanager
def seeds_apart(model):
    """Lets dropout on a replica draw from seeds of its own, in the block; called on each replica.

    The seeds of all replicas are the same outside of the block, so that a checkpoint of one is a checkpoint of all.
    """
    index = replica_index()
    states = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    offset = tf.constant([index * _SEED_STEP, 0], tf.int64)
    for state in states if index else ():
        state.assign(state.value + tf.cast(offset, state.value.dtype))
    yield
    for state in states if index else ():
        state.assign(state.value - tf.cast(offset, state.value.dtype))


def apply_reduced(strategy, optimizer, gradients, variables):
    """Applies gradients that are the same on every replica; Keras would add them up once more.

    Args:
        strategy: `tf.distribute.Strategy`, or None.
        optimizer: a built Keras optimizer.
        gradients: list of what `on_replicas` returned, or None.
        variables: list of Keras variables.
    """
    if strategy is None:
        optimizer.apply(gradients, variables)
        return
    parts = [optimizer]
    for name in ("inner_optimizer", "optimizer"):  # of a LossScaleOptimizer, of Lookahead
        parts += [getattr(part, name) for part in parts if hasattr(part, name)]
    for part in parts:
        part._all_reduce_sum_gradients = list  # Keras has no public door; this one it has kept since it has strategies
    try:
        strategy.run(lambda gradients: optimizer.apply(gradients, variables), args=(gradients,))
    finally:
        for part in parts:
            del part._all_reduce_sum_gradients


def gather_numbers(strategy, numbers):
    """Lets every worker know the numbers of all; a call that each of them has to make.

    Args:
        strategy: `tf.distribute.Strategy`, or None.
        numbers: list of int.

    Returns:
        int64 array [workers, numbers].
    """
    workers = workers_of(strategy)
    mine = np.zeros([workers.count, len(numbers)], np.int64)
    mine[workers.index] = numbers
    if workers.count == 1:
        return mine
    first, _ = _replicas_of(strategy)

    def add():
        value = tf.constant(mine if replica_index() == first else np.zeros_like(mine))
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    return tf.function(lambda: first_values(strategy, strategy.run(add)))().numpy()  # eagerly, TensorFlow warns


def check_agreement(strategy, **numbers):
    """Raises ValueError when workers, each of which calls this, name different numbers (int) under the same names."""
    found = gather_numbers(strategy, list(numbers.values()))
    for name, column in zip(numbers, found.T, strict=True):
        if len(set(column.tolist())) > 1:
            raise ValueError(f"{name} must be the same on every worker; got {column.tolist()}")


def _replicas_of(strategy):
    """Returns (int, the number of this worker's first replica; int, how many it has)."""
    workers = workers_of(strategy)
    count = strategy.num_replicas_in_sync // workers.count
    return workers.index * count, count


def _place(cluster, kind, index):
    return index + (len(cluster.get("chief", [])) if kind == "worker" else 0)


def _one_device():
    """Returns TensorFlow's default strategy, which is what it gives a thread that opened no scope."""
    if tf.distribute.has_strategy():
        raise ValueError("make_strategy must be called outside of the scope of another strategy; got a call in one")
    return tf.distribute.get_strategy()
