"""Scores, next tokens and embeddings, against the model's own forward pass."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import shared_generator


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_scores_are_the_terms_of_the_chain_rule(name):
    generator = shared_generator(name)
    texts = ["abcdef", "o", "hello mind of a bean"]
    for text, found in zip(texts, generator.score(texts), strict=True):
        ids = generator.tokenizer.encode(text).numpy()
        terms = tf.nn.log_softmax(generator.model(ids[None]))[0].numpy()[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_array_equal(found.ids, ids[1:])
        np.testing.assert_allclose(found.log_probs, terms, atol=1e-4)
        assert found.total == pytest.approx(terms.sum(), abs=1e-4)
        if len(terms):
            assert found.perplexity == pytest.approx(np.exp(-terms.mean()), rel=1e-4)
    assert generator.score("abcdef").total == pytest.approx(generator.score(texts)[0].total, abs=1e-5)
    assert generator.score([]) == []


def test_the_context_is_not_scored():
    generator = shared_generator("llama")
    contexts, texts = ["ab", "hello "], ["cdef", "mind"]
    for context, text, found in zip(contexts, texts, generator.score(texts, contexts=contexts), strict=True):
        whole, before = generator.score(context + text), generator.score(context)
        assert found.total == pytest.approx(whole.total - before.total, abs=1e-4)
        assert len(found.ids) == len(text)


def test_long_texts_are_read_in_chunks():
    generator = shared_generator("gru")
    ids = np.random.default_rng(0).integers(1, 17, 300)
    text = generator.tokenizer.decode(ids).numpy().decode()
    terms = tf.nn.log_softmax(generator.model(ids[None]))[0].numpy()[np.arange(299), ids[1:]]
    np.testing.assert_allclose(generator.score([text, "ab"])[0].log_probs, terms, rtol=1e-4, atol=1e-4)


def test_what_may_follow():
    generator = shared_generator("gpt2")
    shares = generator.next_token_distribution(["abc", "hello"])
    for row, text in zip(shares, ["abc", "hello"], strict=True):
        expected = tf.nn.softmax(generator.model(generator.tokenizer.encode([text]).to_tensor()))[0, -1]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    best = generator.next_token("abc", top=3)
    order = np.argsort(-shares[0])[:3]
    assert [token for token, _ in best] == [generator.tokenizer.tokens[i] for i in order]
    np.testing.assert_allclose([share for _, share in best], shares[0][order], atol=1e-5)
    # argmax P(w | prompt) is what greedy decoding takes.
    assert best[0][0] == generator.generate("abc", max_new_tokens=1, strategy="greedy")


def test_embeddings_are_means_of_features():
    generator = shared_generator("lstm")
    found = generator.embed(["abc", "o"])
    for row, text in zip(found, ["abc", "o"], strict=True):
        ids = generator.tokenizer.encode([text]).to_tensor()
        features, _ = generator.model.read(ids, generator.model.initial_state(1, 8))
        np.testing.assert_allclose(row, tf.reduce_mean(features[0], 0), atol=1e-5)
        np.testing.assert_allclose(generator.model.logits(features), generator.model(ids), atol=1e-5)
    np.testing.assert_allclose(generator.embed("abc"), found[0], atol=1e-6)
