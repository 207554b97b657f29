"""The scaling law over runs of several sizes, against the published one and sums worked out by hand."""

import numpy as np
import pytest

from tfllm.training import forecast

# The law of the source, as published: Hoffmann et al. 2022, arXiv:2203.15556, equation 10.
PUBLISHED = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
SIZES, TOKENS = (grid.ravel() for grid in np.meshgrid([1e7, 1e8, 1e9, 1e10], [1e9, 1e10, 1e11]))


def published(sizes, tokens):
    p = PUBLISHED
    return p["E"] + p["A"] / sizes ** p["alpha"] + p["B"] / tokens ** p["beta"]


def noisy(seed=0, deviation=1e-3):
    return published(SIZES, TOKENS) * np.exp(deviation * np.random.default_rng(seed).normal(size=len(SIZES)))


def test_the_published_law_is_found_again():
    law = forecast.fit_scaling_law(SIZES, TOKENS, published(SIZES, TOKENS))
    for name, (value, _) in law.parameters().items():
        assert value == pytest.approx(PUBLISHED[name], rel=0.01), name
    assert law.predict(7e10, 1.4e12) == pytest.approx(published(7e10, 1.4e12), abs=1e-3)
    assert law.predict([7e10, 1e9], 1.4e12).shape == (2,)


def test_the_compute_optimal_split_is_the_best_of_many():
    law = forecast.fit_scaling_law(SIZES, TOKENS, published(SIZES, TOKENS))
    flops = 1e21
    split = law.compute_optimal(flops)
    assert 6 * split.parameters * split.tokens == pytest.approx(flops)
    sizes = split.parameters * np.geomspace(0.1, 10, 2001)
    losses = published(sizes, flops / 6 / sizes)
    assert sizes[losses.argmin()] == pytest.approx(split.parameters, rel=0.03)
    assert split.loss == pytest.approx(losses.min(), abs=1e-3)


def test_noise_one_wild_run_and_the_interval():
    law = forecast.fit_scaling_law(SIZES, TOKENS, noisy())
    loss, low, high = law.predict(1e11, 1e12, interval=0.95)
    assert low < published(1e11, 1e12) < high
    assert loss == law.predict(1e11, 1e12)
    assert high - low > np.subtract(*law.predict(1e9, 1e10, interval=0.95)[:0:-1])  # farther from what was seen
    assert repr(law).startswith("ScalingLaw(fitted to 12 runs: mean absolute error 0.00")
    assert "alpha" not in repr(law)


def test_intervals_know_that_few_runs_show_their_noise_badly():
    sizes, tokens = (grid.ravel() for grid in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    noise = 0.01 * np.random.default_rng(0).normal(size=9)
    law = forecast.fit_scaling_law(sizes, tokens, published(sizes, tokens) * np.exp(noise))
    loss = law.predict(1e9, 3e10)
    wide, narrow = (np.log(law.predict(1e9, 3e10, interval).high / loss) for interval in (0.9, 0.5))
    assert wide / narrow == pytest.approx(2.132 / 0.741, rel=1e-3)  # Student's table, 9 runs less 5 parameters


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((SIZES[:4], TOKENS[:4], noisy()[:4]), forecast.NoForecast, "at least 6 runs; got 4"),
        ((SIZES, TOKENS, -noisy()), forecast.NoForecast, "finite and above 0"),
        ((SIZES, TOKENS, noisy() * np.nan), forecast.NoForecast, "finite and above 0; got nan"),
        ((SIZES * 0 + 1e8, TOKENS, noisy()), forecast.NoForecast, "parameters must differ between runs"),
        ((SIZES, TOKENS * 0 + 1e8, noisy()), forecast.NoForecast, "tokens must differ between runs"),
        ((SIZES, TOKENS, 1 / noisy()), forecast.NoForecast, "losses must fall with parameters and with tokens"),
        ((SIZES, TOKENS[:3], noisy()), ValueError, "lists of one length"),
        ((SIZES * 0, TOKENS, noisy()), ValueError, "parameters must be finite and above 0; got 0"),
    ],
)
def test_runs_that_tell_nothing_are_refused(arguments, kind, message):
    with pytest.raises(kind, match=message):
        forecast.fit_scaling_law(*arguments)


def test_bad_questions_are_refused():
    law = forecast.fit_scaling_law(SIZES, TOKENS, noisy())
    with pytest.raises(ValueError, match="tokens must be finite and above 0; got -1"):
        law.predict(1e8, -1)
    with pytest.raises(ValueError, match="flops must be finite and above 0"):
        law.compute_optimal(0)
    with pytest.raises(ValueError, match=r"interval must lie in \(0, 1\)"):
        law.predict(1e8, 1e9, interval=0)
