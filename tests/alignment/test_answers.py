"""Prompts and answers as batches, and preferences learned from them under fit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.alignment import answer_batch
from tfllm.training import make_dpo_loss, sequence_log_probs

TOKENIZER = tfllm.CharTokenizer("ab ", special_tokens=("<unk>", "<|endoftext|>"))


def test_rows_by_hand():
    inputs, targets, weights = answer_batch(["ab", "b"], ["a", ""], TOKENIZER, length=5)
    np.testing.assert_array_equal(inputs, [[2, 3, 2, 1, 0], [3, 1, 0, 0, 0]])
    np.testing.assert_array_equal(targets, [[3, 2, 1, 0, 0], [1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(weights, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    assert (inputs.dtype, targets.dtype, weights.dtype) == (np.int32, np.int32, np.float32)
    bare = answer_batch(["ab"], ["a"], TOKENIZER, end_id=-1)
    assert [part.tolist() for part in bare] == [[[2, 3]], [[3, 2]], [[0, 1]]]


def test_the_weights_take_the_answers_and_their_ends_alone():
    model = tfllm.RecurrentLM(TOKENIZER.vocab_size, "gru", 4)
    scores = sequence_log_probs(model, answer_batch(["ab ", "b"], ["ba", "abb"], TOKENIZER))
    for row, text in enumerate(["ab ba", "babb"]):
        ids = [*TOKENIZER.encode(text).numpy(), TOKENIZER.end_id]
        log_probs = tf.nn.log_softmax(model(tf.constant([ids])))[0].numpy()
        first = len(ids) - (3, 4)[row]
        expected = sum(log_probs[place - 1, ids[place]] for place in range(first, len(ids)))
        assert float(scores[row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: answer_batch([[1]], []), "answers must be as many as prompts, at least one; got 0 for 1"),
        (lambda: answer_batch([[]], [[1]]), "prompts must have at least one id each; got none in number 0"),
        (lambda: answer_batch(["a"], ["b"]), "tokenizer must be given when prompts are text; got None"),
        (lambda: answer_batch("a", ["b"], TOKENIZER), "prompts must be a list of str or of ids; got one str"),
        (lambda: answer_batch([[1]], [[9]], TOKENIZER), "answers must"),
        (lambda: answer_batch([[1, 2]], [[3]], length=1), "length must be at least that of the longest row, 2; got 1"),
        (lambda: answer_batch([[0.5]], [[1]]), "prompts must be all str, or all ids"),
    ],
)
def test_what_cannot_be_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


def test_fit_learns_which_answers_are_preferred():
    """The letter that the prompt does not end with is preferred, also after prompts that training did not show."""
    prompts = ["".join("ab"[n >> i & 1] for i in range(5)) for n in range(32)]
    bad = [prompt[-1] * 2 for prompt in prompts]
    good = [("b" if prompt[-1] == "a" else "a") * 2 for prompt in prompts]

    def pairs(rows):
        return tuple(answer_batch(prompts[rows], answers[rows], TOKENIZER) for answers in (good, bad))

    keras.utils.set_random_seed(0)
    model = tfllm.RecurrentLM(TOKENIZER.vocab_size, "gru", 16)
    reference = tfllm.RecurrentLM(TOKENIZER.vocab_size, "gru", 16)
    reference.set_weights(model.get_weights())
    before = [weight.copy() for weight in reference.get_weights()]

    def preferred():
        chosen, rejected = (sequence_log_probs(model, texts) for texts in pairs(slice(24, 32)))
        return float(tf.reduce_mean(tf.cast(chosen > rejected, tf.float32)))

    first = preferred()
    model.compile(keras.optimizers.Adam(0.02), make_dpo_loss(reference, beta=0.5))
    data = tf.data.Dataset.from_tensor_slices(pairs(slice(24))).batch(8)
    history = model.fit(data, epochs=20, verbose=0).history
    assert history["loss"][0] > 0.5
    assert history["loss"][-1] < 0.2
    assert history["accuracy"][-1] == 1
    assert first < 0.8
    assert preferred() == 1
    for old, weight in zip(before, reference.get_weights(), strict=True):
        np.testing.assert_array_equal(old, weight)


def test_pairs_with_ids_out_of_the_vocabulary_are_refused():
    model = tfllm.RecurrentLM(5, "gru", 4)
    model.compile("adam", make_dpo_loss(tfllm.RecurrentLM(5, "gru", 4)), run_eagerly=True)
    good, bad = answer_batch([[1]], [[2]]), answer_batch([[1]], [[7]])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"targets must lie in \[0, vocab_size=5\)"):
        model.fit(tf.data.Dataset.from_tensors((good, bad)), verbose=0)
