"""Pairs in buckets: every pair once, little padding, few shapes, exact resume."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import pair_dataset
from tfllm.data.bucketing import make_buckets

BEGIN, END = 1, 2


def some_pairs(count=60, longest=40, seed=0):
    random = np.random.default_rng(seed)
    lengths = np.minimum(random.lognormal(2, 0.8, count).astype(int) + 1, longest)
    sources = [random.integers(3, 50, n).tolist() for n in lengths]
    targets = [random.integers(3, 50, max(1, n + random.integers(-2, 3))).tolist() for n in lengths]
    return sources, targets


def pairs_of(batches):
    found = []
    for inputs, targets, weights in batches:
        source, lengths, ids = (inputs[name].numpy() for name in ("source", "source_lengths", "ids"))
        targets, counts = targets.numpy(), weights.numpy().sum(1).astype(int)
        assert ids.shape == targets.shape == weights.shape
        for row in range(len(ids)):
            assert not source[row, lengths[row] :].any()
            if counts[row] == 0:
                continue
            assert (weights[row].numpy() > 0).tolist() == [i < counts[row] for i in range(len(ids[row]))]
            assert (ids[row, 0], targets[row, counts[row] - 1]) == (BEGIN, END)
            assert ids[row, 1 : counts[row]].tolist() == targets[row, : counts[row] - 1].tolist()
            assert not ids[row, counts[row] :].any() and not targets[row, counts[row] :].any()
            found.append((source[row, : lengths[row]].tolist(), targets[row, : counts[row] - 1].tolist()))
    return found


@pytest.mark.parametrize("sizes", [{"batch_size": 7}, {"tokens_per_batch": 200}])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_pair_comes_once_a_pass(sizes, shuffle):
    sources, targets = some_pairs()
    batches = pair_dataset(sources, targets, begin_id=BEGIN, end_id=END, shuffle=shuffle, num_buckets=4, **sizes)
    expected = sorted(zip(sources, targets, strict=True))
    for _ in range(2):
        assert sorted(pairs_of(batches)) == expected
    assert len(batches) == len(list(batches))


def test_a_pair_by_hand():
    batches = pair_dataset([[5, 6, 7]], [[8, 9]], begin_id=BEGIN, end_id=END, batch_size=2, multiple=4)
    ((inputs, targets, weights),) = batches
    assert inputs["source"].numpy().tolist() == [[5, 6, 7, 0]] * 2
    assert inputs["source_lengths"].numpy().tolist() == [3, 3]
    assert inputs["ids"].numpy().tolist() == [[1, 8, 9, 0]] * 2
    assert targets.numpy().tolist() == [[8, 9, 2, 0]] * 2
    assert weights.numpy().tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]  # the pair stands in for one that lacks
    assert batches.buckets.padding == pytest.approx(1 - 6 / 8)


def test_there_are_few_shapes_and_few_traces():
    sources, targets = some_pairs()
    batches = pair_dataset(sources, targets, begin_id=BEGIN, end_id=END, tokens_per_batch=160, num_buckets=3)
    traces = []

    @tf.function
    def step(batch):
        traces.append(batch[0]["ids"].shape)
        return tf.reduce_sum(batch[2])

    total = sum(float(step(batch)) for batch in batches.repeat(3))
    assert total == 3 * sum(len(target) + 1 for target in targets)
    assert len(traces) == len(set(traces)) == len(batches.buckets.batch_sizes) <= 3


def test_a_batch_keeps_its_budget():
    sources, targets = some_pairs()
    batches = pair_dataset(sources, targets, begin_id=BEGIN, end_id=END, tokens_per_batch=160, num_buckets=4)
    places = [inputs["source"].shape.num_elements() + t.shape.num_elements() for inputs, t, _ in batches]
    assert max(places) <= 160
    assert min(places) > 80  # a batch with room for one more pair would be smaller than need be


def test_the_cuts_are_the_cheapest():
    random = np.random.default_rng(3)
    source, target = random.integers(1, 30, 12), random.integers(1, 30, 12)
    for count in (1, 2, 3, 4):
        buckets = make_buckets(source, target, num_buckets=count, multiple=1)
        s, t = source[buckets.order], target[buckets.order]

        def places(cuts, s=s, t=t):
            return sum((b - a) * (s[a:b].max() + t[a:b].max()) for a, b in itertools.pairwise(cuts))

        ways = ([0, *cuts, 12] for k in range(count) for cuts in itertools.combinations(range(1, 12), k))
        assert places(buckets.splits) == min(places(way) for way in ways)
        assert buckets.padding == pytest.approx(1 - (s + t).sum() / places(buckets.splits))


def test_buckets_pad_far_less_than_one_shape():
    random = np.random.default_rng(0)
    lengths = random.lognormal(3, 0.6, 5000).astype(int) + 1
    target = np.maximum(1, lengths * random.normal(1.1, 0.1, 5000)).astype(int)
    one, eight = (make_buckets(lengths, target, num_buckets=n).padding for n in (1, 8))
    assert one > 0.7
    assert eight < 0.25


def test_passes_are_epochs_and_any_step_can_be_the_first():
    sources, targets = some_pairs(30)

    def make(**options):
        options = {"begin_id": BEGIN, "end_id": END, "batch_size": 4, "num_buckets": 3, "seed": 5} | options
        return pair_dataset(sources, targets, **options)

    def first_ids(batches):
        return [inputs["source"].numpy().tolist() for inputs, _, _ in batches]

    batches = make()
    passes = [first_ids(batches) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    stream = [*itertools.chain(*passes)]
    for step in (0, 3, len(passes[0]), 2 * len(passes[0]) + 1):
        assert first_ids(make(epochs=None, start_step=step).take(4)) == stream[step : step + 4]
    assert first_ids(make(seed=6)) != passes[0]


def test_long_pairs_are_left_out_and_counted():
    sources, targets = [[5], [6] * 9, [7]], [[8], [9], [10] * 9]
    batches = pair_dataset(sources, targets, begin_id=BEGIN, end_id=END, max_length=9)
    assert pairs_of(batches) == [([5], [8]), ([6] * 9, [9])] or pairs_of(batches) == [([6] * 9, [9]), ([5], [8])]
    assert batches.buckets.left_out == 1  # its ten targets, the end included, are more than nine


def test_text_goes_through_two_tokenizers():
    english, chinese = tfllm.CharTokenizer.train("some cats"), tfllm.CharTokenizer.train("一些猫")
    batches = pair_dataset(["cats"], ["猫"], english, chinese, begin_id=0, end_id=0, batch_size=1)
    ((inputs, targets, _),) = batches
    assert english.decode(inputs["source"][0, :4]).numpy().decode() == "cats"
    assert chinese.decode(targets[0, :1]).numpy().decode() == "猫"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[3]], [[4], [5]]), {}, "targets must be as many as sources, 1; got 2"),
        (([[3], []], [[4], [5]]), {}, "sources must hold at least one id each; got none at 1"),
        (([[3]], [[]]), {}, "targets must hold at least one id each; got none at 0"),
        (([], []), {}, "sources must hold at least one document; got none"),
        ((["a"], ["b"]), {}, "tokenizer must be given when sources are text"),
        (([[3]], [[4]]), {"begin_id": -1}, "begin_id must lie in .* got -1"),
        (([[3]], [[4]], tfllm.CharTokenizer("abcde")), {"end_id": 6}, r"end_id must lie in \[0, vocab_size=6\); got 6"),
        (([[3]], [[4]]), {"batch_size": 0}, "batch_size must be at least 1; got 0"),
        (([[3]], [[4]]), {"num_buckets": 0}, "num_buckets must be at least 1; got 0"),
        (([[3]], [[4]]), {"multiple": 0}, "multiple must be at least 1; got 0"),
        (([[3]], [[4]]), {"tokens_per_batch": 15}, "tokens_per_batch must hold the longest pair, 16; got 15"),
        (([[3, 3]], [[4, 4]]), {"max_length": 1}, "max_length must leave at least one pair; got 1 for 1 longer ones"),
    ],
)
def test_bad_pairs_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pair_dataset(*arguments, **{"begin_id": BEGIN, "end_id": END} | options)
