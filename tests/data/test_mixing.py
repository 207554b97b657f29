"""Mixtures keep their shares at every step and go on anywhere; delivery brings every element."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfllm.data import Mixture, distribute, lm_dataset, mix_datasets, packed_dataset, prefetch_to_device

WEIGHTS = [(1,), (1, 1), (3, 1), (0.7, 0.2, 0.1), (5, 4, 3, 2, 1), (0.5, 0.25, 0.125, 0.0625, 0.0625), (997, 2, 1)]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_corpus_has_its_share_within_one_at_every_step(weights, seed):
    mixture = Mixture(weights, seed)
    steps = np.arange(3 * len(mixture.order) + 1)
    given = np.tile(mixture.order, 3)[:, None] == np.arange(len(weights))
    counts = np.concatenate([np.zeros([1, len(weights)], int), np.cumsum(given, 0)])
    shares = np.array(weights) / sum(weights)
    assert np.abs(counts - steps[:, None] * shares).max() < 1
    for step in (0, 1, 3, len(steps) - 1, len(mixture.order)):
        assert mixture.counts(step).tolist() == counts[step].tolist()


def test_a_million_steps_on_the_counts_are_exact():
    for step in (1_000_000, 10**9 + 7):
        counts = Mixture((0.7, 0.2, 0.1), 3).counts(step)
        assert counts.sum() == step
        assert np.abs(counts - step * np.array([0.7, 0.2, 0.1])).max() < 1


def test_weights_without_a_short_period_are_rounded():
    weights = (1_115_394, 543_210, 77_777)
    mixture = Mixture(weights)
    assert len(mixture.order) == 2**16
    assert np.abs(mixture.turns / 2**16 - np.array(weights) / sum(weights)).max() < 2**-16
    third = Mixture((1 / 3, 1 / 3, 1 / 3))
    assert third.turns.tolist() == [1, 1, 1]


def test_the_seed_decides_between_corpora_that_are_due_at_once():
    orders = {tuple(Mixture((1, 1, 1, 1), seed).order) for seed in range(20)}
    assert len(orders) > 5
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)


def counting(start, count=None):
    """Endless, or `count` elements; from step on."""
    return lambda step: tf.data.Dataset.range(start + step, start + (count or 10**6))


@pytest.mark.parametrize("step", [0, 1, 17, 100])
def test_going_on_at_any_step_is_going_on(step):
    weights = [0.7, 0.2, 0.1]
    corpora = [counting(0), counting(10**7), counting(2 * 10**7)]
    whole = list(mix_datasets(corpora, weights, seed=2).take(160).as_numpy_iterator())
    resumed = mix_datasets(corpora, weights, seed=2, start_step=step).take(60)
    assert list(resumed.as_numpy_iterator()) == whole[step : step + 60]
    plain = [corpus(0) for corpus in corpora]
    resumed = mix_datasets(plain, weights, seed=2, start_step=step).take(60)
    assert list(resumed.as_numpy_iterator()) == whole[step : step + 60]
    assert [sum(x // 10**7 == i for x in whole[:100]) for i in range(3)] == [70, 20, 10]


def test_corpora_go_on_pass_after_pass():
    corpora = [tf.data.Dataset.range(2), tf.data.Dataset.range(10, 13)]
    found = list(mix_datasets(corpora, [1, 1]).take(12).as_numpy_iterator())
    assert [x for x in found if x < 10] == [0, 1, 0, 1, 0, 1]
    assert [x for x in found if x >= 10] == [10, 11, 12, 10, 11, 12]


def test_a_mixture_of_shuffled_corpora_goes_on_at_a_million():
    def corpus(low):
        ids = np.arange(low, low + 500)
        return lambda step: lm_dataset(ids, None, 8, 2, epochs=None, start_step=step)

    corpora = [corpus(0), corpus(1000)]
    first = mix_datasets(corpora, [3, 1], start_step=1_000_000).take(8)
    again = mix_datasets(corpora, [3, 1], start_step=1_000_004).take(4)
    first, again = ([inputs.numpy().tolist() for inputs, _, _ in part] for part in (first, again))
    assert first[4:] == again
    assert sum(np.max(inputs) < 1000 for inputs in first) == 6


@pytest.mark.parametrize(
    ("datasets", "weights", "message"),
    [
        ([], [], "weights must be as many as datasets, at least one; got 0 for 0"),
        ([tf.data.Dataset.range(3)], [1, 2], "weights must be as many as datasets, at least one; got 2 for 1"),
        ([tf.data.Dataset.range(3)] * 2, [1, 0], "weights must be above 0 and finite; got 0"),
        ([tf.data.Dataset.range(3)] * 2, [1, -2.5], "weights must be above 0 and finite; got -2.5"),
        ([tf.data.Dataset.range(3)] * 2, [1, float("nan")], "weights must be above 0 and finite; got nan"),
        ([tf.data.Dataset.range(3)] * 2, [1, 1e-6], "at least 1/65536 of their sum; got 1e-06"),
        (
            [tf.data.Dataset.range(3), tf.data.Dataset.range(0)],
            [1, 1],
            "at least one element each; got none in number 1",
        ),
        ([tf.data.Dataset.range(3), tf.data.Dataset.range(3).batch(2)], [1, 1], "elements of one kind, .* in number 1"),
        ([tf.data.Dataset.range(3), tf.data.Dataset.from_tensors(1.0)], [1, 1], "elements of one kind, .* in number 1"),
        ([tf.data.Dataset.range(3), tf.data.Dataset.from_tensors((1, 2))], [1, 1], "elements of one kind, .* number 1"),
    ],
)
def test_bad_mixtures_are_refused(datasets, weights, message):
    with pytest.raises(ValueError, match=message):
        mix_datasets(datasets, weights)


def test_a_step_below_zero_is_refused():
    with pytest.raises(ValueError, match="start_step must be at least 0; got -1"):
        mix_datasets([tf.data.Dataset.range(3)], [1], start_step=-1)


def test_prefetching_changes_nothing():
    batches = packed_dataset([[1, 2, 3], [4, 5], [6]], None, 4, 1, shuffle=False)
    for found, expected in zip(prefetch_to_device(batches), batches, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ValueError, match="buffer must be at least 1; got 0"):
        prefetch_to_device(batches, 0)


@pytest.fixture
def serve():
    """A function of a number of workers that starts them and a dispatcher in this process, and returns its address."""
    servers, service = [], tf.data.experimental.service

    def start(workers):
        servers.append(service.DispatchServer())
        config = service.WorkerConfig(dispatcher_address=servers[0].target.split("://")[1])
        servers.extend(service.WorkerServer(config) for _ in range(workers))
        return servers[0].target

    yield start
    while servers:
        servers.pop()  # the workers before their dispatcher


def test_the_service_brings_every_element_once(serve):
    elements = distribute(tf.data.Dataset.range(50).map(lambda x: x * x), serve(workers=2))
    assert sorted(elements.as_numpy_iterator()) == [x * x for x in range(50)]


def test_the_service_brings_every_batch_of_a_pass_once(serve):
    documents = [list(range(i, i + 3)) for i in range(1, 60, 3)]
    batches = distribute(packed_dataset(documents, None, 6, 2), serve(workers=1))
    for _ in range(2):
        ids = np.concatenate([inputs["ids"].numpy().ravel() for inputs, _, _ in batches])
        assert sorted(ids[ids > 0]) == list(itertools.chain(*documents))


def test_two_workers_of_the_service_share_an_endless_pass(serve):
    documents = [list(range(i, i + 3)) for i in range(1, 60, 3)]
    batches = packed_dataset(documents, None, 6, 2, epochs=None)
    expected = {tuple(a + b) for a, b in itertools.product(documents, documents)}
    found = [inputs["ids"].numpy() for inputs, _, _ in distribute(batches, serve(workers=2)).take(20)]
    assert len(found) == 20
    assert {tuple(row) for batch in found for row in batch.tolist()} <= expected


def test_bad_addresses_are_refused():
    for wrong in ("localhost:5000", "", None):
        with pytest.raises(ValueError, match="service must be an address such as 'grpc://host:5000'; got"):
            distribute(tf.data.Dataset.range(3), wrong)
