"""Short trainings that one device, two devices of a process, or two workers can do; what they end with goes into a file.

    python tests/training/distribution_worker.py compare RESULT [--devices 2]
    python tests/training/distribution_worker.py train RESULT --door fit --checkpoints DIR --die 1:7

With a `TF_CONFIG` in the environment it is one of several workers, and `RESULT` ends with its index.
"""

import argparse
import os
import pathlib
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import tfllm
from tfllm.training import (
    Checkpoints,
    Resume,
    WeightAverage,
    exclude_from_decay,
    make_strategy,
    make_train_step,
    read_workers,
    shard_rows,
    stream_from,
)
from tfllm.training.distribution import on_replicas, seeds_apart, strategy_of

VOCAB, STEPS = 11, 5


def make_model(dropout=0.0, **options):
    keras.utils.set_random_seed(3)
    return tfllm.RecurrentLM(VOCAB, "gru", 8, dropout=dropout, **options)


def make_batches(rows=5, length=4, broken=None):
    """Makes batches whose rows count 1, 2, ... tokens; those of number `broken` have a last row that is not finite."""
    random, batches = np.random.default_rng(0), []
    for number in range(STEPS):
        ids = random.integers(0, VOCAB, (rows, length + 1)).astype(np.int32)
        weights = (np.arange(length) <= np.arange(rows)[:, None]).astype(np.float32)
        if number == broken:
            weights[-1] = np.inf
        batches.append((ids[:, :-1], ids[:, 1:], weights))
    return tf.data.Dataset.from_tensor_slices(tuple(np.stack(leaves) for leaves in zip(*batches, strict=True)))


def values_of(variables):
    return np.concatenate([variable.numpy().astype(np.float64).ravel() for variable in variables])


def loop(strategy, scaled=False, jit_compile=False):
    """Trains with AdamW, accumulation, clipping, an average, and a batch that only one of the replicas cannot use."""
    with strategy.scope():
        model = make_model()
        optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.1)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0, dynamic_growth_steps=3)
        exclude_from_decay(model, optimizer)
        average = WeightAverage(model, 0.5)
    step = make_train_step(
        model, optimizer, clip_norm=0.2, accumulate=2, average=average, jit_compile=jit_compile, max_skipped=4
    )
    rows = 4 if jit_compile else 5
    seen = []
    for batch in shard_rows(make_batches(rows, broken=2), strategy):
        results = step(batch)
        seen.append([float(results[name]) for name in ("loss", "accuracy", "perplexity", "grad_norm", "skipped")])
    variables = [*model.trainable_variables, *average.variables, *optimizer.variables]
    return {"seen": np.nan_to_num(seen, nan=-1.0, posinf=-1.0), "variables": values_of(variables)}


def fit(strategy, optimizer="adam", accumulate=1):
    """Trains by `fit`, two steps in a call, and validates on data whose last batch is smaller than the others."""
    with strategy.scope():
        model = make_model()
        model.compile(
            keras.optimizers.get({"class_name": optimizer, "config": {"learning_rate": 0.02}}),
            clip_norm=0.2,
            accumulate=accumulate,
            steps_per_execution=2,
        )
    validation = make_batches(7).unbatch().batch(6)
    history = model.fit(make_batches().repeat(2), epochs=2, verbose=0, validation_data=validation).history
    return {"variables": values_of(model.variables), **{name: np.array(value) for name, value in history.items()}}


def dropout(strategy):
    """Shows each replica the same row, and takes slow steps of Lookahead."""
    with strategy.scope():
        model = make_model(dropout=0.5)
        optimizer = tfllm.training.Lookahead(keras.optimizers.SGD(0.1), period=2)
    ids = np.tile(np.arange(6, dtype=np.int32), (2, 1))

    def features(rows):
        with seeds_apart(model):
            return model.features(rows, training=True)

    seen = strategy.experimental_local_results(on_replicas(strategy_of(model.variables), features, ids))
    step = make_train_step(model, optimizer)
    for batch in shard_rows(tf.data.Dataset.from_tensors((ids, ids, np.ones([2, 6], np.float32))).repeat(3), strategy):
        step(batch)
    seeds = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    return {"features": np.concatenate(seen), "seeds": values_of(seeds), "slow": values_of([optimizer.iterations])}


def distributed(strategy):
    """Trains on what TensorFlow itself makes of a data set for a strategy."""
    with strategy.scope():
        model = make_model()
        optimizer = keras.optimizers.SGD(0.5)
    step, data = make_train_step(model, optimizer), make_batches(6).unbatch().batch(6, drop_remainder=True)
    losses = [float(step(batch)["loss"]) for batch in strategy.experimental_distribute_dataset(data)]
    return {"losses": np.array(losses), "variables": values_of(model.variables)}


CASES = {
    "loop": loop,
    "scaled": lambda strategy: loop(strategy, scaled=True),
    "xla": lambda strategy: loop(strategy, jit_compile=True),
    "fit": fit,
    "dropout": dropout,
    "distributed": distributed,
}


def compare(strategy, cases=CASES):
    """Returns dict of str to array, what all cases end with."""
    return {f"{case}/{name}": value for case in cases for name, value in CASES[case](strategy).items()}


def train(strategy, door, folder, die=None):
    """Trains with dropout, shuffling and checkpoints, and lets a worker kill itself after a step of its first life.

    Args:
        strategy: `tf.distribute.Strategy`.
        door: "fit" or "loop".
        folder: str, where its checkpoints are.
        die: (int, int), the worker and the step, or None.
    """
    data = tfllm.data.lm_dataset(np.random.default_rng(1).integers(0, VOCAB, 8 * 4 * 8 + 20), None, 4, 8, seed=5)
    validation, done = tfllm.data.lm_dataset(np.arange(90) * 5 % VOCAB, None, 4, 8, shuffle=False), [0]

    def count(*_, **__):
        done[0] += 1
        mark = pathlib.Path(folder, "died")
        if die and die == (read_workers().index, done[0]) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with strategy.scope():
        model = make_model(dropout=0.3)
        optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.05, 24))
        average = WeightAverage(model, 0.9)
    if door == "fit":
        with strategy.scope():
            model.compile(optimizer, accumulate=2, average=average)
        tell = keras.callbacks.LambdaCallback(on_train_batch_end=count)
        resume = Resume(os.path.join(folder, "checkpoints"), every_steps=3)
        history = model.fit(data, epochs=3, validation_data=validation, verbose=0, callbacks=[tell, resume]).history
    else:
        step_of, history = make_train_step(model, optimizer, accumulate=2, average=average), {"loss": []}
        also = [average, step_of.skipped_steps]
        place = os.path.join(folder, "checkpoints")
        with Checkpoints(place, model=model, optimizer=optimizer, also=also, data=data, every_steps=3) as checkpoints:
            step = checkpoints.restore()
            history = checkpoints.values or history
            for batch in shard_rows(stream_from(data, step).take(24 - step), strategy):
                history["loss"].append(float(step_of(batch)["loss"]))
                step += 1
                if checkpoints.due(step):
                    checkpoints.save(step, **history)
                count()
    variables = values_of([*model.variables, *optimizer.variables, *average.variables])
    return {"variables": variables, **{name: np.array(value) for name, value in history.items()}}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["compare", "train"])
    parser.add_argument("result")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--door", choices=["fit", "loop"], default="fit")
    parser.add_argument("--checkpoints")
    parser.add_argument("--die", type=lambda text: tuple(map(int, text.split(":"))))
    arguments = parser.parse_args()
    if arguments.devices > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.devices)
        chosen = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(arguments.devices)])
    else:
        chosen = make_strategy()
    if arguments.what == "compare":
        found = compare(chosen, arguments.cases)
    else:
        found = train(chosen, arguments.door, arguments.checkpoints, arguments.die)
    np.savez(f"{arguments.result}-{read_workers().index}.npz", **found)
