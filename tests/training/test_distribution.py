"""Several devices and workers end with what one ends with; lists of workers that cannot be are refused."""

import json
import os
import pathlib
import subprocess
import sys

import distribution_worker
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.runs import run_workers
from tfllm.training import Workers, make_strategy, make_train_step, read_workers, shard_rows, workers_of
from tfllm.training.distribution import check_optimizer, rows_of

WORKER = str(pathlib.Path(distribution_worker.__file__))


def start(folder, *arguments, workers=1):
    """Runs the worker script to its end; returns list of what each worker ended with."""
    command = [sys.executable, WORKER, arguments[0], str(folder / "result"), *map(str, arguments[1:])]
    told = []
    if workers > 1:
        assert run_workers(command, workers, tell=told.append) == 0, told
    else:
        subprocess.run(command, check=True)
    return [dict(np.load(folder / f"result-{index}.npz")) for index in range(workers)], told


@pytest.fixture(autouse=True, scope="module")
def paths():
    """Lets the processes find the package where it is tested from a checkout."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(pathlib.Path(tfllm.__file__).parents[1]), *filter(None, [before])])
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


# ---------------------------------------------------------------- as one device


def test_two_workers_are_one_with_the_whole_batch(tmp_path):
    """AdamW, uneven rows and weights, accumulation, clipping, an average, a batch that one of them cannot use; both doors."""
    cases = ["loop", "fit"]
    found, _ = start(tmp_path, "compare", "--cases", *cases, workers=2)
    expected = distribution_worker.compare(make_strategy(), cases)
    assert expected["loop/seen"][2:, -1].tolist() == [1, 1, 1]  # the third batch was skipped
    assert (expected["loop/seen"][[0, 1, 3, 4], 3] > 0.2).all()  # and the others were clipped
    for each in found:
        check_same(each, expected)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["devices", "workers"])
def test_every_case_on_two_replicas(tmp_path, way):
    if way == "devices":
        found, _ = start(tmp_path, "compare", "--devices", 2)
    else:
        found, _ = start(tmp_path, "compare", workers=2)
    expected = distribution_worker.compare(make_strategy())
    seen = [each.pop("dropout/features") for each in found]
    if way == "devices":
        (seen,) = [np.split(seen[0], 2)]
    assert not np.array_equal(seen[0], seen[1])  # dropout left out other features of the same rows
    np.testing.assert_array_equal(seen[0], expected.pop("dropout/features")[: len(seen[0])])
    for each in found:
        check_same(each, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("door", "victim"), [("fit", 1), ("loop", 0)])
def test_kill_of_a_worker_does_not_change_where_the_run_ends(tmp_path, door, victim):
    ends = []
    for name, more in (("undisturbed", []), ("killed", ["--die", f"{victim}:8"])):
        folder = tmp_path / name
        folder.mkdir()
        found, told = start(folder, "train", "--door", door, "--checkpoints", folder, *more, workers=2)
        assert len(told) == (name == "killed")
        ends += found
    for end in ends:  # of both workers of both runs
        assert end.keys() == ends[0].keys()
        for name, value in ends[0].items():
            np.testing.assert_array_equal(end[name], value, err_msg=name)
    assert ends[0]["loss"][-1] < ends[0]["loss"][0]


def test_rows_are_shared_out_and_none_twice():
    batch = {"ids": tf.reshape(tf.range(14), [7, 2]), "lengths": tf.range(7)}
    parts = [rows_of(batch, index, 3) for index in range(3)]
    assert [part["lengths"].shape[0] for part in parts] == [2, 2, 3]
    for name, whole in batch.items():
        np.testing.assert_array_equal(tf.concat([part[name] for part in parts], 0), whole)


class Resolver(tf.distribute.cluster_resolver.SimpleClusterResolver):
    """What a strategy of several workers has; to be one takes several processes."""

    def __init__(self, index, **cluster):
        kind = "chief" if "chief" in cluster and index == 0 else "worker"
        place = index - len(cluster.get("chief", [])) if kind == "worker" else 0
        super().__init__(tf.train.ClusterSpec(cluster), task_type=kind, task_id=place)

    @property
    def cluster_resolver(self):
        return self


def test_a_data_set_is_shared_by_rows_wherever_it_begins():
    data = tfllm.data.lm_dataset(tf.range(100) % 7, None, 4, 6, seed=2)
    shards = [shard_rows(data, Resolver(index, worker=["a:1", "b:1"])) for index in range(2)]
    whole = data.from_step(3).take(2)
    parts = [shard.from_step(3).take(2) for shard in shards]
    for batch, *rows in zip(whole, *parts, strict=True):
        for leaf, *pieces in zip(batch, *rows, strict=True):
            np.testing.assert_array_equal(tf.concat(pieces, 0), leaf)
    assert all(shard.element_spec[0].shape == [3, 4] for shard in shards)


@pytest.mark.parametrize("make", [tfllm.data.lm_dataset, tfllm.data.packed_dataset])
def test_rows_of_one_worker_are_not_shared_out_again(make):
    source = tf.range(60) % 7 if make is tfllm.data.lm_dataset else [[1, 2, 3]] * 9
    own = make(source, None, 4, 6, num_workers=2, worker=1)
    for data in (own, own.map(lambda *batch: batch), own.from_step(1)):
        assert shard_rows(data, Resolver(1, worker=["a:1", "b:1"])) is data
    whole = make(source, None, 4, 6)
    assert shard_rows(whole, Resolver(1, worker=["a:1", "b:1"])) is not whole


def test_a_chief_is_the_first_worker():
    cluster = {"chief": ["c:1"], "worker": ["a:1", "b:1"]}
    assert workers_of(Resolver(0, **cluster)) == Workers(("c:1", "a:1", "b:1"), 0)
    assert workers_of(Resolver(2, **cluster)) == Workers(("c:1", "a:1", "b:1"), 2)
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    assert read_workers(config) == Workers(("c:1", "a:1", "b:1"), 2)
    assert workers_of(None) == workers_of(make_strategy()) == Workers()


# ---------------------------------------------------------------- refusals


TWO = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "TF_CONFIG must be JSON; got '{'"),
        ([1], r"TF_CONFIG must be an object with the objects 'cluster' and 'task'; got '\[1\]'"),
        ({"cluster": {"ps": ["a:1"]}}, r"TF_CONFIG's cluster must be made of \['chief', 'worker'\]; got 'ps'"),
        ({"cluster": {"worker": []}}, r"TF_CONFIG's 'worker' must be a list of addresses; got \[\]"),
        ({"cluster": {"worker": ["a:1", "b"]}}, "TF_CONFIG's addresses must be of the form 'host:port'; got 'b'"),
        ({"cluster": {"worker": ["a:1", "b:x"]}}, "TF_CONFIG's addresses must be of the form 'host:port'; got 'b:x'"),
        ({"cluster": {"worker": ["a:1", "b:70000"]}}, "must be of the form 'host:port'; got 'b:70000'"),
        ({"cluster": {"worker": ["a:1", "b:1", "a:1"]}}, "TF_CONFIG must name every address once; got 'a:1'"),
        ({"cluster": {"chief": ["a:1"], "worker": ["a:1"]}}, "TF_CONFIG must name every address once; got 'a:1'"),
        ({"cluster": {"chief": ["a:1", "b:1"]}}, r"TF_CONFIG must have one chief at most; got \['a:1', 'b:1'\]"),
        ({"cluster": TWO}, "TF_CONFIG must have a task with 'type' and 'index'; got None"),
        ({"cluster": TWO, "task": {"type": "worker"}}, "TF_CONFIG must have a task with 'type' and 'index'"),
        (
            {"cluster": TWO, "task": {"type": "chief", "index": 0}},
            r"must have a type of its cluster, \['worker'\]; got 'chief'",
        ),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, r"must have an index in \[0, 2\); got 2"),
        ({"cluster": TWO, "task": {"type": "worker", "index": -1}}, r"must have an index in \[0, 2\); got -1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": True}}, r"must have an index in \[0, 2\); got True"),
    ],
)
def test_lists_of_workers_that_contradict_themselves_are_refused(config, message, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(ValueError, match=message):
        make_strategy()


def test_without_a_list_a_worker_is_alone(monkeypatch):
    for text in ("", " ", "{}", '{"cluster": {}}'):
        monkeypatch.setenv("TF_CONFIG", text)
        assert read_workers() == Workers()
    assert read_workers(json.dumps({"cluster": TWO, "task": {"type": "worker", "index": "1"}})).index == 1


def test_several_workers_must_come_first(monkeypatch):
    tf.zeros([])  # TensorFlow is in use
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(ValueError, match="make_strategy must be called before TensorFlow is used; got"):
        make_strategy()


def test_model_and_optimizer_belong_to_one_scope():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model, optimizer = tfllm.RecurrentLM(5, "gru", 4), keras.optimizers.SGD()
    with pytest.raises(ValueError, match="in that of MirroredStrategy; got one made outside of any"):
        make_train_step(model, keras.optimizers.SGD())
    with pytest.raises(ValueError, match="outside of any; got one made in that of MirroredStrategy"):
        check_optimizer(None, optimizer)
    with pytest.raises(ValueError, match="optimizer must be made in the scope that the model was made in"):
        model.compile(keras.optimizers.SGD())
    model.compile("sgd", run_eagerly=True)
    ids = tf.zeros([2, 3], tf.int32)
    with strategy.scope(), pytest.raises(ValueError, match="fit must be called outside the scope of its strategy; got"):
        model.fit(ids, ids)
    step = make_train_step(model, optimizer)
    with strategy.scope(), pytest.raises(ValueError, match="a train step must be called outside the scope"):
        step((ids, ids))
