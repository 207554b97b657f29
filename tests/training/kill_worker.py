"""A short run that is killed again and again by SIGKILL, at random moments and inside saves, until it ends.

    python tests/training/kill_worker.py --kills 50 --seed 0

Its end must be, bit for bit, that of the same run left alone: weights, optimizer, random states, history. The processes are
forks of one that has imported TensorFlow and done nothing with it, because the import takes longer than the run.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfllm
from tfllm.training import Checkpoints, Resume, WeightAverage, make_adamw, make_train_step, stream_from

DOORS = ("fit", "loop")
EPOCHS, STEPS = 4, 20  # and steps of an epoch
SAVE_CALLS = 9  # calls of fsync, rename and rmtree that a save makes


def train(door, folder, result, die_at=None, began=None):
    """Runs or resumes the run and writes its end.

    Args:
        door: one of `DOORS`.
        folder: str, where its checkpoints are.
        result: str, the file for what it ends with.
        die_at: int, the process kills itself before so many calls in saves that reach the disk; None never does.
        began: `multiprocessing.Event` that is set when the first step is done.
    """
    if die_at is not None:
        _die_at(die_at)
    keras.utils.set_random_seed(7)
    model = tfllm.RecurrentLM(17, cell="gru", dim=12, dropout=0.2)
    optimizer = make_adamw(model, EPOCHS * STEPS, learning_rate=0.02, warmup_steps=10)
    data = tfllm.data.lm_dataset(np.random.default_rng(1).integers(0, 17, 8 * 6 * STEPS + 30), None, 6, 8, seed=5)
    run = {"fit": _fit, "loop": _loop}[door]
    ends = run(model, optimizer, data, folder, began)
    variables = {f"{i} {v.path}": v.numpy() for i, v in enumerate([*model.variables, *optimizer.variables])}
    np.savez(result + ".partial.npz", ends=json.dumps(ends), **variables)
    os.replace(result + ".partial.npz", result)


def _fit(model, optimizer, data, folder, began):
    model.compile(optimizer, accumulate=2)
    validation = tfllm.data.lm_dataset(np.arange(200) * 5 % 17, None, 6, 8, shuffle=False)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    tell = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: began and began.set())
    resume = Resume(folder, every_steps=3, keep=2, monitor="val_loss")
    history = model.fit(data, epochs=EPOCHS, validation_data=validation, verbose=0, callbacks=[stop, tell, resume])
    return {"history": history.history, "epoch": history.epoch, "wait": stop.wait, "best": stop.best}


def _loop(model, optimizer, data, folder, began):
    average = WeightAverage(model, 0.9)
    train_step = make_train_step(model, optimizer, accumulate=2, average=average)
    also = [train_step.skipped_steps, average]
    with Checkpoints(folder, model=model, optimizer=optimizer, also=also, data=data, every_steps=3) as checkpoints:
        step = checkpoints.restore()
        history = checkpoints.values.get("history", [])
        for batch in stream_from(data, step).take(EPOCHS * STEPS - step):
            results = train_step(batch)
            history.append([float(results["loss"]), float(results["grad_norm"]), np.random.random(), random.random()])
            step += 1
            if checkpoints.due(step):
                checkpoints.save(step, history=history)
            if began:
                began.set()
        averages = [v.numpy().tolist() for v in average.variables]
    return {"history": history, "averages": averages}


def _die_at(count):
    """Lets the process kill itself before the `count`th call that a save makes to reach the disk."""
    left = [count]

    def deadly(call):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    checkpoint = tfllm.training.checkpoint
    checkpoint.os.fsync = deadly(os.fsync)
    checkpoint.shutil.rmtree = deadly(checkpoint.shutil.rmtree)
    pathlib.Path.rename = deadly(pathlib.Path.rename)


def prove(door, kills, seed, folder, show=lambda line: None):
    """Kills runs until there were so many kills, and compares each run's end with that of an undisturbed one.

    Returns:
        dict of int: `"kills"`, `"in_saves"` (of them), `"runs"` that were ended, `"different"` among them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tfllm"])
    chance = random.Random(seed)
    counts = {"kills": 0, "in_saves": 0, "runs": 0, "different": 0}

    def start(run, **options):
        result = os.path.join(folder, f"{run}.npz")
        process = context.Process(target=train, args=(door, os.path.join(folder, run), result), kwargs=options)
        process.start()
        return process

    start("undisturbed").join()
    while counts["kills"] < kills:
        run = f"run{counts['runs']}"
        while not os.path.exists(os.path.join(folder, run + ".npz")):
            began, how = context.Event(), chance.choice(["save", "training", "any"])
            if counts["kills"] == kills:
                how = "never"
            process = start(run, began=began, die_at=chance.randint(1, 4 * SAVE_CALLS) if how == "save" else None)
            if how == "training":
                while not began.wait(0.02) and process.is_alive():
                    pass
                process.join(chance.uniform(0, 0.3))
            elif how == "any":
                process.join(chance.uniform(0, 3))
            else:
                process.join()
            process.kill()
            process.join()
            if process.exitcode == -signal.SIGKILL:
                counts["kills"] += 1
                counts["in_saves"] += how == "save" or any(
                    name.startswith(".") for name in _names(os.path.join(folder, run))
                )
            elif process.exitcode:
                raise RuntimeError(f"{run} left with {process.exitcode}")
            show(f"{counts['kills']:3} kills, {run}: {how}, {_names(os.path.join(folder, run))}")
        counts["runs"] += 1
        with np.load(os.path.join(folder, "undisturbed.npz")) as a, np.load(os.path.join(folder, run + ".npz")) as b:
            same = a.files == b.files and all(a[name].tobytes() == b[name].tobytes() for name in a.files)
        counts["different"] += not same
    return counts


def _names(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", choices=DOORS, default="fit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        found = prove(arguments.door, arguments.kills, arguments.seed, place, print)
        print(json.dumps(found), f"{time.perf_counter() - start:.0f} seconds")
        sys.exit(found["different"] > 0)
