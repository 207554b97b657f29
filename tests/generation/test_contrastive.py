"""Contrastive search against a plain reference that reads every candidate's whole text anew."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, ScriptedModel, make_model

import tfllm
from tfllm.generation import Vocabulary, make_settings
from tfllm.generation.contrastive import ContrastiveSearch
from tfllm.generation.settings import signature

ROWS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [7]]


@functools.cache
def compiled(name, seed, num):
    """Returns (search, features and logits of whole texts) of a model, compiled once."""
    model = make_model(name, seed)

    def run(prompts, settings, capacity, alpha):
        return ContrastiveSearch(num, alpha).search(model, prompts, settings, Vocabulary(), capacity)

    def features(ids):
        found, _ = model.read(ids, model.initial_state(tf.shape(ids)[0], tf.shape(ids)[1]))
        return found, model.logits(found)

    whole = tf.TensorSpec([], tf.int32)
    specs = {"ids": tf.TensorSpec([None, None], tf.int32), "lengths": tf.TensorSpec([None], tf.int32)}
    specs = [specs, signature(VOCAB), whole, tf.TensorSpec([], tf.float32)]
    ids = tf.TensorSpec([None, None], tf.int32)
    return tf.function(run, specs, autograph=False), tf.function(features, [ids], autograph=False)


def search(program, rows, new, alpha=0.6, **settings):
    """Returns (list of lists of ids, float32 [B] scores)."""
    ragged = tf.ragged.constant(rows, tf.int32)
    prompts = {"ids": ragged.to_tensor(), "lengths": tf.cast(ragged.row_lengths(), tf.int32)}
    found = program(prompts, make_settings(len(rows), VOCAB, max_new_tokens=new, **settings), new, alpha)
    ids = [row[:count].tolist() for row, count in zip(found["ids"].numpy(), found["count"].numpy(), strict=True)]
    return ids, found["score"].numpy()


def reference(features, ids, new, num, alpha, end_id=-1):
    """The rule of the paper, every text read anew: (new ids, their summed scores)."""
    ids, total, before = list(ids), 0.0, len(ids)
    while len(ids) < before + new:
        logits = features(tf.constant([ids]))[1][0, -1].numpy().astype(np.float64)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        candidates = np.argsort(-shares, kind="stable")[:num].tolist()
        read = features(tf.constant([[*ids, token] for token in candidates]))[0].numpy().astype(np.float64)
        scores = {}
        for token, (*known, last) in zip(candidates, read, strict=True):
            cosines = [last @ old / np.linalg.norm(last) / np.linalg.norm(old) for old in known]
            scores[token] = (1 - alpha) * shares[token] - alpha * max(cosines)
        best = max(scores, key=scores.get)
        if best == end_id:
            break
        ids.append(best)
        total += scores[best]
    return ids[before:], total


@pytest.mark.parametrize("name", ["gru", "lstm-tied", "gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_it_chooses_what_the_rule_chooses(name):
    for seed, num in ((0, 4), (1, VOCAB)) if name == "gru" else ((0, 4),):
        program, features = compiled(name, seed, num)
        for alpha in (0.25, 0.6, 1.0):
            ids, scores = search(program, ROWS, 8, alpha)
            for row, found, score in zip(ROWS, ids, scores, strict=True):
                expected, total = reference(features, row, 8, num, alpha)
                assert found == expected
                assert score == pytest.approx(total, abs=1e-4)


def test_texts_end_before_a_token_that_ends_them():
    program, features = compiled("gru", 0, 4)
    ended = 0
    for end_id in range(0, VOCAB, 4):
        ids, _ = search(program, ROWS, 7, stop_ids=[end_id])
        assert ids == [reference(features, row, 7, 4, 0.6, end_id)[0] for row in ROWS]
        ended += sum(len(row) < 7 for row in ids)
    assert ended > 0


def test_alpha_0_and_temperature_0_are_greedy():
    program, features = compiled("gru", 0, 4)
    expected = [reference(features, row, 12, 1, 0.0)[0] for row in ROWS]  # one candidate: the likeliest
    assert len({token for row in expected for token in row}) > 4
    assert search(program, ROWS, 12, 0.0)[0] == expected
    assert search(program, ROWS, 12, 0.6, temperature=0.0)[0] == expected
    assert search(program, ROWS, 12, 0.6)[0] != expected


OPTIONS = {"strategy": "contrastive_search", "max_new_tokens": 9, "repetition_penalty": 1.2}


@pytest.mark.parametrize("name", ["gru", "llama"])
def test_a_batch_equals_its_rows_alone_also_behind_a_prefix(name):
    generator = tfllm.TextGenerator(make_model(name), tfllm.CharTokenizer("abcdefghijklmno "))
    prompts = ["abc", "abcde d", "abc"]
    texts = generator.generate(prompts, **OPTIONS)
    assert [generator.generate(prompt, **OPTIONS) for prompt in prompts] == texts
    traces = generator.trace_count
    assert generator.generate(prompts, **OPTIONS, penalty_alpha=0.1) != texts
    assert generator.trace_count == traces  # alpha is a tensor
    for prefix in ("ab", "a"):  # the state of a prefix of one token has read nothing
        rest = [prompt.removeprefix(prefix) for prompt in prompts]
        assert generator.generate(rest, **OPTIONS, prefix=generator.prefill(prefix)) == texts


@pytest.mark.parametrize("name", ["gru", pytest.param("llama", marks=pytest.mark.slow)])
def test_xla_gives_the_same_and_log_probabilities_are_the_model_s(name):
    generators = [
        tfllm.TextGenerator(make_model(name), tfllm.CharTokenizer("abcdefghijklmno "), jit_compile=jit_compile)
        for jit_compile in (False, True)
    ]
    plain, compiled = (generator.complete("abc", **OPTIONS, banned_ids=[0])[0] for generator in generators)
    assert compiled.text == plain.text
    score = generators[0].score(plain.text, contexts="abc")
    for completion in (plain, compiled):
        np.testing.assert_allclose(completion.log_probs, score.log_probs, atol=1e-4)


def test_settings_hold():
    program, _ = compiled("gpt2", 0, 4)
    free, _ = search(program, ROWS, 8)
    banned = sorted({token for row in free for token in row})[:3]
    ids, _ = search(program, ROWS, 8, banned_ids=banned, no_repeat_ngram_size=1)
    for prompt, row in zip(ROWS, ids, strict=True):
        assert not set(row) & {*banned, *prompt}
        assert len(set(row)) == len(row)
    ids, _ = search(program, ROWS, 8, forced_prefix=[2, 2])
    assert [row[:2] for row in ids] == [[2, 2]] * 3
    assert search(program, [[1], []], 4)[0][1] == []  # an empty row stays empty


def test_guidance_towards_the_prompt_alone_changes_nothing():
    generator = tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghijklmno "))
    texts = [
        generator.generate("abc", **OPTIONS, negative_prompt=other, guidance_scale=scale)
        for other, scale in (("hello", 1.0), ("no", 1.0), ("hello", 4.0), ("no", 4.0))
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_bad_input():
    model = make_model("gru")
    for strategy, message in (
        (ContrastiveSearch(0), "num_candidates must be an int of at least 1; got 0"),
        (ContrastiveSearch(VOCAB + 1), "num_candidates must be at most vocab_size=17; got 18"),
        (ContrastiveSearch(2, 1.5), r"penalty_alpha must be a number in \[0, 1\]; got 1.5"),
        (ContrastiveSearch(2, float("nan")), "penalty_alpha must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy.check(model)
    with pytest.raises(
        ValueError, match="model must give features, by `read`, for contrastive search; got ScriptedModel"
    ):
        ContrastiveSearch().check(ScriptedModel([1, 2], 10))
