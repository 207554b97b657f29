"""The computed order: a permutation for every size, another one for every seed and epoch, and no trace of the old places."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.data.order import epoch_key, offset_with, shuffle_index, shuffle_with

# 65537 and 262145 are sizes at which the kernel alone loses a row
SIZES = (1, 2, 3, 4, 5, 10, 17, 257, 1000, 7919, 65535, 65536, 65537, 65538, 131073, 262145)


def order(size, seed, epoch=0):
    return shuffle_index(tf.range(size), size, seed, epoch).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_every_row_stands_at_exactly_one_place(size):
    for seed, epoch in ((0, 0), (1, 7), (2**62, 10**12)):
        np.testing.assert_array_equal(np.sort(order(size, seed, epoch)), np.arange(size))


def test_seeds_and_epochs_give_other_orders():
    orders = {tuple(order(100, seed, epoch)) for seed in (0, 1, 2, 256, -1) for epoch in (0, 1, 2, 256, 65536)}
    assert len(orders) == 25


def test_every_row_comes_first_equally_often():
    firsts = np.bincount([shuffle_index(0, 6, 3, epoch).numpy() for epoch in range(1200)], minlength=6)
    assert ((firsts - 200) ** 2 / 200).sum() < 20.5  # chi-squared with 5 degrees of freedom, p = 0.001


@pytest.mark.parametrize("size", [70_000, 10**6, 10**9, 2**40])
def test_neighbours_are_strangers(size):
    sixteenth = shuffle_index(tf.range(50_000), size, 1).numpy() * 16 // size
    pairs = np.bincount(sixteenth[:-1] * 16 + sixteenth[1:], minlength=256)
    expected = pairs.sum() / 256
    assert ((pairs - expected) ** 2 / expected).sum() < 331  # chi-squared with 255 degrees of freedom, p = 0.001


def test_a_billion_rows_need_no_buffer():
    places = np.unique(np.random.default_rng(0).integers(0, 10**9, 100_000))
    rows = shuffle_index(places, 10**9, 5).numpy()
    assert len(np.unique(rows)) == len(places)
    assert 0 <= rows.min() < 10**5 and 10**9 - 10**5 < rows.max() < 10**9


def test_the_global_seed_changes_nothing_and_a_graph_gives_the_same():
    tf.random.set_seed(1)
    first = order(50, 3, 4)
    tf.random.set_seed(2)
    in_graph = tf.function(lambda size, epoch: shuffle_index(tf.range(50), size, 3, epoch))
    np.testing.assert_array_equal(in_graph(tf.constant(50), tf.constant(4)), first)
    np.testing.assert_array_equal(shuffle_with(epoch_key(3, 4), tf.range(50), 50), first)


def test_offsets_lie_below_their_limit():
    offsets = [int(offset_with(epoch_key(1, epoch), 4)) for epoch in range(100)]
    assert set(offsets) == {0, 1, 2, 3}
    assert int(offset_with(epoch_key(1, 0), 1)) == 0


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        shuffle_index([], 0, 1)
