"""The order of an epoch as a function: which row stands at a place is computed from `(seed, epoch, place)`, not buffered.

So shuffling takes constant memory for any number of rows, and going on at any step is exact and instant. Nothing here
depends on `tf.random.set_seed`. The permutation is the block cipher Simon on numbers below a power of two, walked along its
cycles until a number falls below `size` (the kernel of `tf.random.experimental.index_shuffle`).
"""

import tensorflow as tf

# The kernel's default of 4 rounds leaves neighbours together (correlation 0.4 to 0.6 between consecutive places at 10**6
# to 10**12 rows); at 16 none is left that a chi-squared test over pairs finds.
_ROUNDS = 16


def epoch_key(seed, epoch):
    """Draws the random numbers that decide an epoch.

    The cipher reads only the low 8 to 32 bits of each word of its key, so `seed` and `epoch` must not be given to it as they
    are: epochs 0 and 256 of a small corpus would be the same.

    Args:
        seed: int or int64 [].
        epoch: int or int64 [], from 0.

    Returns:
        int64 [4], for `shuffle_with` and `offset_with`.
    """
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    # Philox by name, because the default algorithm differs between devices.
    return tf.random.stateless_uniform([4], pair, minval=None, maxval=None, dtype=tf.int64, alg="philox")


def shuffle_index(index, size, seed, epoch=0):
    """Says which row stands at a place of an epoch: a permutation of `0 .. size - 1` for every `(seed, epoch)`.

    Args:
        index: int tensor [] or [N], places in `[0, size)`.
        size: int or int64 [], rows, at least 1.
        seed: int or int64 [].
        epoch: int or int64 [], from 0.

    Returns:
        int64 of the shape of `index`, rows in `[0, size)`.

    Raises:
        ValueError: when `size` is an int below 1.

    Example:
        >>> shuffle_index(tf.range(8), 8, seed=1, epoch=0).numpy()
        array([7, 0, 5, 4, 3, 1, 6, 2])
        >>> int(shuffle_index(3, 10**9, seed=1, epoch=0))
        334722415

    Source: Beaulieu et al. 2013, The Simon and Speck families of lightweight block ciphers, eprint 2013/404; cycle walking is
    of Black and Rogaway 2002, Ciphers with arbitrary finite domains, method 2.
    """
    if isinstance(size, int) and size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    return shuffle_with(epoch_key(seed, epoch), index, size)


def shuffle_with(key, index, size):
    """Does what `shuffle_index` does, with the key that `epoch_key` drew: the form for many calls in one epoch."""
    size = tf.cast(size, tf.int64)
    # For 4**k + 1 rows the kernel takes a block of 2k bits: it never gives the last row, and gives another one twice. Sizes
    # of the form 2**k + 1 therefore go through a permutation of one row more, and the place that finds that row walks on.
    before = tf.bitwise.bitwise_and(size - 1, size - 2)
    spare = tf.cast((before == 0) & (size > 4), tf.int64)
    rows = _simon(key, index, size - 1 + spare)
    return tf.where(rows < size, rows, _simon(key, size - 1 + spare, size - 1 + spare))


def _simon(key, index, last):
    return tf.raw_ops.RandomIndexShuffle(index=tf.cast(index, tf.int64), seed=key[:3], max_index=last, rounds=_ROUNDS)


def offset_with(key, limit):
    """Draws one number of an epoch, by how much its rows are moved.

    Args:
        key: int64 [4] of `epoch_key`.
        limit: int or int64 [], at least 1.

    Returns:
        int64 [] in `[0, limit)`, as good as uniform for limits far below 2**63.
    """
    return tf.math.floormod(key[3], tf.cast(limit, tf.int64))


def mix_bits(values):
    """Spreads uint64 values over all bits, one to one (the step and the finaliser of SplitMix64)."""
    values *= tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        values = tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, tf.constant(shift, tf.uint64)))
        values *= tf.constant(factor, tf.uint64)
    return values
