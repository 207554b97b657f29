"""Scheduled sampling: which inputs are replaced, by what, how often, and the same again in every run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, make_model

import tfllm
from tfllm.training import (
    lm_loss,
    make_exponential_share,
    make_inverse_sigmoid_share,
    make_linear_share,
    make_scheduled_sampling_loss,
)

TABLE = np.random.default_rng(0).normal(0, 1.5, (6, 6)).astype(np.float32)
BEST = TABLE.argmax(1)


class Chain:
    """A model whose next token depends on the last one alone, by a table of logits."""

    max_length = None

    def __call__(self, inputs, training=False):
        return tf.gather(TABLE, inputs["ids"] if isinstance(inputs, dict) else inputs)

    def initial_state(self, batch_size, slots):
        return {"position": tf.zeros([batch_size], tf.int32)}

    def step(self, ids, state):
        return self(ids), {"position": state["position"] + 1}


def mixed_by(batch, share, model=None, step=3, **options):
    """The inputs that the inner loss is given, and the totals."""
    seen = []

    def loss_fn(model, batch, training):
        seen.append(batch[0])
        return lm_loss(model, batch, training)

    loss = make_scheduled_sampling_loss(share, loss_fn=loss_fn, step=lambda: tf.constant(step, tf.int64), **options)
    totals = loss(model or Chain(), batch)
    return tf.nest.map_structure(np.asarray, seen[0]), totals


def make_rows(rows=4, length=9, vocab=6, seed=1):
    ids = np.random.default_rng(seed).integers(0, vocab, (rows, length + 1)).astype(np.int32)
    return ids[:, :-1], ids[:, 1:], np.ones([rows, length], np.float32)


@pytest.mark.parametrize("draws", ["parallel", "sequential"])
def test_a_teacher_who_says_all_is_the_plain_loss(draws):
    batch = make_rows()
    mixed, totals = mixed_by(batch, 1.0, draws=draws)
    np.testing.assert_array_equal(mixed, batch[0])
    assert float(totals["loss"][0]) == float(lm_loss(Chain(), batch)["loss"][0])
    assert [float(x) for x in totals["teacher_share"]] == [32.0, 32.0]


def test_without_a_teacher_the_model_reads_what_it_writes():
    batch = make_rows()
    mixed, totals = mixed_by(batch, 0.0, temperature=0)
    np.testing.assert_array_equal(mixed[:, 0], batch[0][:, 0])
    np.testing.assert_array_equal(mixed[:, 1:], BEST[batch[0][:, :-1]])  # each after what was given
    assert float(totals["teacher_share"][0]) == 0
    mixed, _ = mixed_by(batch, 0.0, temperature=0, draws="sequential")
    np.testing.assert_array_equal(mixed[:, 1:], BEST[mixed[:, :-1]])  # each after what was drawn


@pytest.mark.parametrize("draws", ["parallel", "sequential"])
def test_prompts_and_padding_stay(draws):
    inputs, targets, weights = make_rows(seed=2)
    weights[:, :3] = 0  # a prompt of 4 tokens
    weights[1, 5:] = 0
    mixed, totals = mixed_by((inputs, targets, weights), 0.0, draws=draws)
    np.testing.assert_array_equal(mixed[:, :4], inputs[:, :4])
    np.testing.assert_array_equal(mixed[1, 6:], inputs[1, 6:])
    assert (mixed[[0, 2, 3], 4:] != inputs[[0, 2, 3], 4:]).mean() > 0.5
    assert float(totals["teacher_share"][1]) == 5 * 3 + 2


def test_documents_of_a_packed_row_begin_as_given():
    ids, targets, weights = make_rows(2, 8)
    documents = np.array([[1, 1, 1, 2, 2, 3, 3, 0], [1] * 8], np.int32)
    targets[0, [2, 4, 6]], weights[0, [2, 4, 6, 7]] = 0, 0
    mixed, _ = mixed_by(({"ids": ids, "documents": documents}, targets, weights), 0.0, temperature=0)
    np.testing.assert_array_equal(mixed["documents"], documents)
    begins = np.array([[1, 0, 0, 1, 0, 1, 0, 1], [1] + [0] * 7], bool)
    expected = np.where(begins, ids, np.pad(BEST[ids[:, :-1]], [[0, 0], [1, 0]]))
    np.testing.assert_array_equal(mixed["ids"], expected)
    with pytest.raises(ValueError, match="draws must be 'parallel' for packed rows; got 'sequential'"):
        mixed_by(({"ids": ids, "documents": documents}, targets, weights), 0.0, draws="sequential")


@pytest.mark.parametrize("draws", ["parallel", "sequential"])
def test_as_often_as_the_share_says_and_as_the_model_says(draws):
    batch = make_rows(400, 11)
    mixed, totals = mixed_by(batch, 0.25, draws=draws, temperature=2.0)
    kept, count = (float(x) for x in totals["teacher_share"])
    assert count == 4000
    assert abs(kept - 1000) < 4 * np.sqrt(750)
    # What follows each token of the mixed inputs is three quarters the model's, and a quarter the given ones', alike often.
    before = mixed[:, :-1] if draws == "sequential" else batch[0][:, :-1]
    shares = np.exp(TABLE / 2) / np.exp(TABLE / 2).sum(1, keepdims=True)
    seen, wanted = np.zeros([6, 6]), np.zeros([6, 6])
    np.add.at(seen, (before.reshape(-1), mixed[:, 1:].reshape(-1)), 1)
    np.add.at(wanted, before.reshape(-1), 1)
    wanted *= 0.75 * shares + 0.25 / 6
    assert ((seen - wanted) ** 2 / wanted).sum() < 30 + 4 * np.sqrt(60)


def test_draws_are_a_function_of_seed_step_and_batch():
    batch = make_rows()
    first, _ = mixed_by(batch, 0.5)
    np.testing.assert_array_equal(first, mixed_by(batch, 0.5)[0])
    assert (first != mixed_by(batch, 0.5, step=4)[0]).any()
    assert (first != mixed_by(batch, 0.5, seed=1)[0]).any()
    halves = [mixed_by(tuple(part[rows] for part in batch), 0.5)[0] for rows in (slice(2), slice(2, 4))]
    np.testing.assert_array_equal(np.concatenate(halves), first)  # an accumulated batch is the whole one


@pytest.mark.parametrize("draws", ["parallel", "sequential"])
def test_xla_draws_the_same(draws):
    model, batch = make_model("gru"), make_rows(2, 6, VOCAB)

    def both(jit_compile):
        seen = []

        @tf.function(jit_compile=jit_compile)
        def run(inputs, targets, weights):
            def loss_fn(model, batch, training):
                seen.append(batch[0])
                return {"loss": (tf.constant(0.0), tf.constant(1.0))}

            loss = make_scheduled_sampling_loss(
                0.3, draws=draws, loss_fn=loss_fn, step=lambda: tf.constant(7, tf.int64)
            )
            loss(model, (inputs, targets, weights))
            return seen[0]

        return run(*map(tf.constant, batch)).numpy()

    np.testing.assert_array_equal(both(True), both(False))
    assert (both(False) != batch[0]).any()


def test_fit_counts_its_steps_and_a_run_goes_on_as_it_would_have():
    data = tfllm.data.lm_dataset(np.arange(200) % VOCAB, None, 8, 4, seed=1, epochs=None)

    def run(*parts):
        shares = []

        def share(step):
            shares.append(int(step))
            return 0.5

        keras.utils.set_random_seed(0)
        model = tfllm.RecurrentLM(VOCAB, "gru", 8)
        model.compile(
            keras.optimizers.SGD(0.5),
            make_scheduled_sampling_loss(share, draws="sequential", seed=3),
            run_eagerly=True,
        )
        done = 0
        for steps in parts:
            model.fit(tfllm.training.stream_from(data, done), steps_per_epoch=steps, verbose=0)
            done += steps
        return shares, model.get_weights()

    shares, weights = run(4)
    assert shares == [0, 1, 2, 3]
    again, parted = run(1, 3)
    assert again == shares
    for a, b in zip(weights, parted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_is_without_draws():
    model, batch = make_model("gru"), make_rows(2, 6, VOCAB)
    totals = make_scheduled_sampling_loss(0.0)(model, batch, training=False)
    assert float(totals["loss"][0]) == float(lm_loss(model, batch, training=False)["loss"][0])


def test_shares_by_hand():
    np.testing.assert_allclose(make_linear_share(10, final=0.25)(tf.constant([0, 5, 10, 99])), [1, 0.625, 0.25, 0.25])
    np.testing.assert_allclose(make_exponential_share(0.9)(tf.constant([0, 1, 20])), [1, 0.9, 0.9**20], rtol=1e-6)
    steps = np.array([0, 7, 50, 1000])
    np.testing.assert_allclose(make_inverse_sigmoid_share(10.0)(steps), 10 / (10 + np.exp(steps / 10)), 1e-4, 1e-9)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (
            lambda: make_scheduled_sampling_loss(1.5),
            r"teacher_share must lie in \[0, 1\], or be a function of the step; got 1.5",
        ),
        (
            lambda: make_scheduled_sampling_loss(0.5, draws="none"),
            r"draws must be one of \('parallel', 'sequential'\); got 'none'",
        ),
        (
            lambda: make_scheduled_sampling_loss(0.5, temperature=-1),
            "temperature must be a finite number of at least 0; got -1",
        ),
        (lambda: make_linear_share(0), "steps must be at least 1; got 0"),
        (lambda: make_linear_share(5, 2.0), r"final must lie in \[0, 1\]; got 2.0"),
        (lambda: make_exponential_share(1.0), r"base must lie in \(0, 1\); got 1.0"),
        (lambda: make_inverse_sigmoid_share(0.5), "k must be a finite number of at least 1; got 0.5"),
        (
            lambda: make_scheduled_sampling_loss(0.5)(make_model("gru"), make_rows(vocab=VOCAB)),
            "step must be given for a model that was not compiled; got None for RecurrentLM",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
