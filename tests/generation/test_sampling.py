"""Choosing a token: the cut-offs against NumPy, draws against their distribution."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm import noise
from tfllm.generation import cut_off, make_settings, pick

LOGITS = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32) * 2


def softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def reference(
    row, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, epsilon_cutoff=0.0, eta_cutoff=0.0
):
    """The tokens that stay, one filter after the other, by sorting."""
    row, alive = row / temperature, np.arange(len(row))
    if top_k:
        alive = alive[np.argsort(-row[alive])[:top_k]]

    def shares():
        return softmax(row[alive])

    def entropy(p):
        return -(p * np.log(p)).sum()

    def until(order, p, target):
        before = np.cumsum(p[order]) - p[order]
        return order[before < target]

    best = row.argmax()
    for kind, value in (
        ("top_p", top_p),
        ("min_p", min_p),
        ("typical", typical_p),
        ("eps", epsilon_cutoff),
        ("eta", eta_cutoff),
    ):
        p = shares()
        if kind == "top_p" and value < 1:
            keep = until(np.argsort(-p), p, value)
        elif kind == "min_p" and value:
            keep = np.flatnonzero(p >= value * p.max())
        elif kind == "typical" and value < 1:
            keep = until(np.argsort(np.abs(-np.log(p) - entropy(p))), p, value)
        elif kind == "eps" and value:
            keep = np.flatnonzero(p >= value)
        elif kind == "eta" and value:
            keep = np.flatnonzero(p >= min(value, np.sqrt(value) * np.exp(-entropy(p))))
        else:
            continue
        alive = np.union1d(alive[keep], [best])
    return set(alive.tolist())


CASES = [
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 50},
    {"top_p": 0.9},
    {"top_p": 0.5},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"typical_p": 0.8},
    {"typical_p": 0.2},
    {"epsilon_cutoff": 0.05},
    {"eta_cutoff": 0.3},
    {"temperature": 0.5, "top_k": 5, "top_p": 0.8, "min_p": 0.02, "typical_p": 0.95},
    {"temperature": 2.0, "top_k": 7, "eta_cutoff": 0.1, "epsilon_cutoff": 0.02},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cut_offs_against_numpy(case):
    found = cut_off(tf.constant(LOGITS), make_settings(4, 9, **case)).numpy()
    for row, kept in zip(LOGITS, np.isfinite(found), strict=True):
        assert set(np.flatnonzero(kept)) == reference(row, **case)
    kept = np.isfinite(found)
    np.testing.assert_allclose(found[kept], (LOGITS / case.get("temperature", 1.0))[kept], rtol=1e-6)


@pytest.mark.parametrize(
    "case", [{"top_k": 40}, {"top_k": 1500}, {"top_p": 0.3}, {"top_p": 0.99}, {"typical_p": 0.9}], ids=str
)
def test_cut_offs_of_large_vocabularies(case):
    """Beyond the short list, the threshold is found bit by bit."""
    logits = np.random.default_rng(1).normal(size=(2, 3000)).astype(np.float32)
    found = tf.function(cut_off)(tf.constant(logits), make_settings(2, 3000, **case)).numpy()
    for row, kept in zip(logits, np.isfinite(found), strict=True):
        expected = reference(row.astype(np.float64), **case)
        # Sums of float32 may take in or leave out the very last token.
        assert len(set(np.flatnonzero(kept)) ^ expected) <= 1


def test_rows_have_settings_of_their_own():
    cases = [{"top_k": 2}, {"temperature": 0.0}, {}, {"temperature": 0.5, "top_p": 0.6}]
    names = {"top_k": 0, "temperature": 1.0, "top_p": 1.0}
    columns = {name: [case.get(name, default) for case in cases] for name, default in names.items()}
    found = cut_off(tf.constant(LOGITS), make_settings(4, 9, **columns))
    for row, case in enumerate(cases):
        alone = cut_off(tf.constant(LOGITS[row : row + 1]), make_settings(1, 9, **case))
        np.testing.assert_array_equal(found[row : row + 1], alone)
    assert np.isfinite(found[1]).sum() == 1


@pytest.mark.parametrize("case", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.7, "temperature": 2.0}], ids=str)
def test_draws_follow_the_distribution(case):
    """Chi-square of 20,000 draws against the exact probabilities; 16.3 is passed by one in a thousand with 3 degrees."""
    logits, count = tf.math.log([[0.5, 0.3, 0.15, 0.05]]), 20_000
    expected = tf.nn.softmax(cut_off(logits, make_settings(1, 4, **case)))[0].numpy() * count
    tokens = pick(tf.repeat(logits, count, 0), make_settings(count, 4, seed=3, **case), tf.fill([count], 7)).numpy()
    found = np.bincount(tokens, minlength=4)
    possible = expected > 0
    assert found[~possible].sum() == 0
    assert ((found - expected)[possible] ** 2 / expected[possible]).sum() < 16.3


def test_random_numbers_are_even_and_independent():
    for axis, numbers in (
        ("places", noise.uniform(tf.constant([5]), tf.constant([3]), 200_000)),
        ("rows", noise.uniform(tf.range(200_000), tf.fill([200_000], 3), 1)),
        ("draws", noise.uniform(tf.fill([200_000], 5), tf.range(200_000), 1)),
        (
            "streams",
            tf.concat([noise.uniform(tf.constant([5]), tf.constant([3]), 1, stream) for stream in range(2000)], 0),
        ),
    ):
        flat = tf.reshape(numbers, [-1]).numpy()
        counts = np.bincount((flat * 64).astype(int), minlength=64)
        expected = len(flat) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 110, axis  # 63 degrees: passed by one in 5,000
        correlation = np.corrcoef(flat[1:], flat[:-1])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(len(flat)), axis


def test_draws_differ_by_seed_and_token_and_not_by_row():
    logits = tf.zeros([64, 1000])
    draws = [
        pick(logits, make_settings(64, 1000, seed=seed), tf.fill([64], index)).numpy()
        for seed, index in ((0, 0), (0, 1), (1000, 0), (1000, 1))
    ]
    assert len({tuple(draw) for draw in draws}) == 4
    assert all(len(set(draw)) > 32 for draw in draws)
    alone = pick(logits[:1], make_settings(1, 1000, seed=5), tf.constant([0]))
    assert int(alone[0]) == draws[0][5]  # row 5 of seed 0 is row 0 of seed 5


def test_graph_xla_and_eager_draw_alike():
    settings = make_settings(4, 9, temperature=1.5, top_p=0.9, seed=11)
    index = tf.constant([0, 5, 2, 2])
    eager = pick(tf.constant(LOGITS), settings, index).numpy()
    for jit in (False, True):
        compiled = tf.function(lambda *inputs: pick(*inputs), jit_compile=jit, autograph=False)
        np.testing.assert_array_equal(compiled(tf.constant(LOGITS), settings, index), eager)


def test_temperature_0_is_greedy_whatever_the_rest_says():
    logits = tf.constant([[1.0, 5.0, 2.0, 5.0]])
    for seed in range(5):
        settings = make_settings(1, 4, temperature=0, top_k=2, top_p=0.1, seed=seed)
        assert int(pick(logits, settings, tf.constant([0]))[0]) == 1
        np.testing.assert_array_equal(np.isfinite(cut_off(logits, settings)), [[False, True, False, False]])
