"""The CRF against sums and maxima over all rows of tags, one by one."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.layers import CRF, bio_forbidden

LENGTHS = np.array([4, 2, 1, 0], np.int32)


def make_crf(num_tags=3, forbidden=(), dtype="float64", seed=0):
    crf = CRF(num_tags, forbidden=forbidden, dtype=dtype)
    crf.build()
    random = np.random.default_rng(seed)
    for weight in crf.weights:
        weight.assign(random.normal(size=weight.shape))
    return crf


def emissions_of(num_tags=3, seed=1):
    return np.random.default_rng(seed).normal(size=(4, 4, num_tags))


def score(crf, emissions, tags):
    """Adds up the score of one row of tags, in NumPy; minus infinity for what is forbidden."""
    first, last, steps = (weight.numpy().copy() for weight in (crf.first, crf.last, crf.transitions))
    for before, after in crf.forbidden:
        (first if before < 0 else steps[before])[after] = -np.inf
    total = first[tags[0]] + last[tags[-1]] + sum(emissions[t, tag] for t, tag in enumerate(tags))
    return total + sum(steps[pair] for pair in itertools.pairwise(tags))


def all_scores(crf, emissions, length):
    rows = list(itertools.product(range(crf.num_tags), repeat=length))
    return rows, np.array([score(crf, emissions, row) for row in rows])


@pytest.mark.parametrize("forbidden", [[], [(-1, 2), (0, 2)]])
def test_probabilities_best_rows_and_marginals_are_those_of_all_rows(forbidden):
    crf, emissions = make_crf(forbidden=forbidden), emissions_of()
    best, best_scores = crf.best(tf.constant(emissions), tf.constant(LENGTHS))
    marginals = crf.marginals(tf.constant(emissions), tf.constant(LENGTHS)).numpy()
    for b, length in enumerate(LENGTHS[:3]):
        rows, scores = all_scores(crf, emissions[b], length)
        total = np.log(np.exp(scores).sum())
        shares = np.exp(scores - total)
        np.testing.assert_array_equal(best[b], [*rows[scores.argmax()], *[0] * (4 - length)])
        np.testing.assert_allclose(best_scores[b], scores.max(), atol=1e-9)
        for t, tag in itertools.product(range(4), range(3)):
            expected = sum(shares[i] for i, row in enumerate(rows) if t < length and row[t] == tag)
            np.testing.assert_allclose(marginals[b, t, tag], expected, atol=1e-9)
        for row, expected in zip(rows[::5], (scores - total)[::5], strict=True):
            tags = np.zeros((4, 4), np.int32)
            tags[b, :length] = row
            found = crf(tf.constant(emissions), tf.constant(tags), tf.constant(LENGTHS))[b]
            np.testing.assert_allclose(max(found, -1e3), max(expected, -1e3), atol=1e-9)  # forbidden: as good as never


def test_a_row_without_tags_costs_nothing_and_padding_changes_nothing():
    crf, emissions, tags = make_crf(), emissions_of(), np.zeros((4, 4), np.int32)
    found = crf(tf.constant(emissions), tf.constant(tags), tf.constant(LENGTHS)).numpy()
    assert found[3] == 0
    behind = np.arange(4) >= LENGTHS[:, None]
    emissions[behind], tags[behind] = 1e3, 2
    np.testing.assert_array_equal(crf(tf.constant(emissions), tf.constant(tags), tf.constant(LENGTHS)), found)
    alone = crf(tf.constant(emissions[1:2, :2]), tf.constant(tags[1:2, :2]), tf.constant([2]))
    np.testing.assert_allclose(alone[0], found[1], atol=1e-12)


def test_gradients_are_finite_differences():
    crf, emissions = make_crf(), tf.Variable(emissions_of())
    tags = tf.constant(np.random.default_rng(2).integers(0, 3, (4, 4)), tf.int32)

    def loss():
        return tf.reduce_sum(crf(tf.convert_to_tensor(emissions), tags, tf.constant(LENGTHS)))

    with tf.GradientTape() as tape:
        total = loss()
    variables = [emissions, *(weight.value for weight in crf.weights)]
    for variable, gradient in zip(variables, tape.gradient(total, variables), strict=True):
        values, gradient = variable.numpy(), tf.convert_to_tensor(gradient).numpy()
        for place in list(np.ndindex(values.shape))[::7]:
            around = []
            for step in (1e-5, -1e-5):
                moved = values.copy()
                moved[place] += step
                variable.assign(moved)
                around.append(float(loss()))
            variable.assign(values)
            np.testing.assert_allclose(gradient[place], (around[0] - around[1]) / 2e-5, atol=1e-8)


def test_graphs_of_any_length_give_the_same():
    crf, emissions = make_crf(dtype="float32"), emissions_of().astype(np.float32)
    specs = [tf.TensorSpec([None, None, 3]), tf.TensorSpec([None], tf.int32)]
    graph = tf.function(lambda *x: (*crf.best(*x), crf.marginals(*x)), input_signature=specs)
    for eager, traced in zip(
        (*crf.best(tf.constant(emissions), tf.constant(LENGTHS)), crf.marginals(tf.constant(emissions), LENGTHS)),
        graph(emissions, LENGTHS),
        strict=True,
    ):
        np.testing.assert_allclose(eager, traced, atol=1e-5)


def test_bio_tags():
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    allowed = {("B-A", "I-A"), ("I-A", "I-A"), ("B-B", "I-B"), ("I-B", "I-B")}
    behind_i = {(x, y) for x in (None, *names) for y in ("I-A", "I-B")} - allowed
    found = {(None if i < 0 else names[i], names[j]) for i, j in bio_forbidden(names)}
    assert found == behind_i
    for wrong in ("X-A", "B", "B-", "I-", "", 3):
        with pytest.raises(ValueError, match="tags must be 'O', 'B-' and a type or 'I-' and a type; got"):
            bio_forbidden(["O", wrong])
    with pytest.raises(ValueError, match=r"forbidden must hold pairs of \[-1, L=2\) and \[0, L\); got \(0, 2\)"):
        CRF(2, forbidden=[(0, 2)])


def test_the_layer_is_rebuilt_from_its_config():
    crf = make_crf(forbidden=[(-1, 2), (0, 2)], dtype="float32")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(crf))
    assert again.forbidden == [[-1, 2], [0, 2]] and again.num_tags == 3
