"""What a request forbids, prefers or forces, against answers worked out by hand and plain Python."""

import numpy as np
import pytest
import tensorflow as tf

from tfllm.generation import Vocabulary, history, make_settings, process

V = 8
LOGITS = np.array([[1.0, -1.0, 2.0, 0.5, -2.0, 3.0, 0.0, 1.5]], np.float32)


def after(prompt, new, *, end_id=-1, size=None, **settings):
    """The processed logits after a prompt and new tokens."""
    given = make_settings(1, V, **settings)
    vocabulary = Vocabulary(end_id, size)
    tokens = np.zeros([1, len(prompt) + len(new) + 2], np.int32)
    tokens[0, : len(prompt)] = prompt
    rows = history.start_history(tf.constant(tokens), tf.constant([len(prompt)]), given)
    for token in new:
        rows = history.extend(rows, tf.constant([token]), tf.constant([True]), given, vocabulary)
    return process(tf.constant(LOGITS), rows, given, vocabulary).numpy()[0]


def banned(logits):
    return np.flatnonzero(logits == -np.inf).tolist()


def test_nothing_asked_changes_nothing():
    np.testing.assert_array_equal(after([1, 2], [3]), LOGITS[0])


def test_repetition_penalty_looks_at_prompt_and_text():
    expected = LOGITS[0].copy()
    expected[[1, 4]] *= 2  # negative logits are multiplied, positive divided
    expected[2] /= 2
    np.testing.assert_allclose(after([1, 2, 2], [4], repetition_penalty=2.0), expected)


def test_frequency_and_presence_penalties_look_at_the_text_alone():
    expected = LOGITS[0].copy()
    expected[3] -= 2 * 0.5 + 0.25
    expected[4] -= 0.5 + 0.25
    np.testing.assert_allclose(after([1, 2], [3, 4, 3], frequency_penalty=0.5, presence_penalty=0.25), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_ngram_occurs_twice(size):
    random = np.random.default_rng(size)
    for _ in range(12):
        text = random.integers(0, 3, random.integers(1, 9)).tolist()
        cut = int(random.integers(1, len(text) + 1))
        seen = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
        context = tuple(text[len(text) - size + 1 :]) if size > 1 else ()
        expected = [t for t in range(V) if len(context) == size - 1 and (*context, t) in seen]
        assert banned(after(text[:cut], text[cut:], no_repeat_ngram_size=size)) == expected, (text, size)


def test_biases_and_bans():
    found = after([1], [], logit_bias={2: -1.5, 4: 7.0, 6: -np.inf}, banned_ids=[5])
    expected = LOGITS[0] + [0, 0, -1.5, 0, 7, -np.inf, -np.inf, 0]
    np.testing.assert_allclose(found, expected)


def test_banned_words_end_nowhere(tokenizer):
    """Checked against Python on every pair of ids before the next token."""
    words = ["a", "bc", "bca", "dd"]
    given = make_settings(1, tokenizer.vocab_size, tokenizer, banned_words=words)
    ids = [tokenizer.encode(word).numpy().tolist() for word in words]
    ids += [tokenizer.encode(f" {word}").numpy().tolist() for word in words]
    vocabulary = Vocabulary(-1)
    for first in range(6):
        for second in range(6):
            tokens = tf.constant([[first, second, 0]])
            rows = history.start_history(tokens, tf.constant([2]), given)
            found = process(tf.zeros([1, tokenizer.vocab_size]), rows, given, vocabulary)[0].numpy()
            expected = {w[-1] for w in ids if [first, second][2 - (len(w) - 1) :] == w[:-1] or len(w) == 1}
            assert set(banned(found)) == expected


def test_no_end_before_the_minimum_length():
    settings = {"min_new_tokens": 2, "stop_ids": [3], "end_id": 5}
    assert banned(after([1], [], **settings)) == [3, 5]
    assert banned(after([1], [2], **settings)) == [3, 5]
    assert banned(after([1], [2, 2], **settings)) == []


def test_the_forced_prefix_is_followed_and_then_all_is_free():
    forced = [4, None, 1]
    assert banned(after([1], [], forced_prefix=forced)) == [0, 1, 2, 3, 5, 6, 7]
    assert banned(after([1], [4], forced_prefix=forced)) == []
    assert banned(after([1], [4, 0], forced_prefix=forced)) == [0, 2, 3, 4, 5, 6, 7]
    assert banned(after([1], [4, 0, 1], forced_prefix=forced)) == []
    # What is forced wins over what is banned.
    assert banned(after([1], [], forced_prefix=[4], banned_ids=[4])) == [0, 1, 2, 3, 5, 6, 7]


def test_an_automaton_says_what_may_follow():
    class Alternating:
        """2 and 5 in turn; 7 ends."""

        next_state = np.full([2, V], -1)
        next_state[0, 2], next_state[1, 5], next_state[0, 7] = 1, 0, 0

    allowed = lambda new: sorted(set(range(V)) - set(banned(after([1], new, automaton=Alternating()))))  # noqa: E731
    assert allowed([]) == [2, 7]
    assert allowed([2]) == [5]
    assert allowed([2, 5]) == [2, 7]


@pytest.mark.parametrize("jit", [False, True])
def test_graph_and_xla_equal_eager(jit):
    everything = {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.2,
        "presence_penalty": [0.1, 0.0],
        "no_repeat_ngram_size": [2, 0],
        "logit_bias": {3: 2.0},
        "banned_ids": [[6], []],
        "min_new_tokens": 3,
        "stop_ids": [1],
        "forced_prefix": [4],
    }
    given, vocabulary = make_settings(2, V, **everything), Vocabulary(5)
    rows = history.start_history(tf.constant([[1, 2, 1, 0, 0], [3, 0, 0, 0, 0]]), tf.constant([3, 1]), given)
    rows = history.extend(rows, tf.constant([2, 4]), tf.constant([True, True]), given, vocabulary)
    logits = tf.constant(np.repeat(LOGITS, 2, 0))
    compiled = tf.function(lambda *x: process(*x, vocabulary), jit_compile=jit, autograph=False)
    np.testing.assert_allclose(compiled(logits, rows, given), process(logits, rows, given, vocabulary), rtol=1e-6)


def test_ids_that_the_tokenizer_lacks_are_never_chosen():
    assert banned(after([1], [], size=6)) == [6, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temprature": 1.0}, "settings must be among .*; got 'temprature'"),
        ({"top_p": 0}, r"top_p must be in \(0, 1\]; got 0"),
        ({"min_p": 1.5}, r"min_p must be in \[0, 1\]; got 1.5"),
        ({"typical_p": 0.0}, r"typical_p must be in \(0, 1\]; got 0.0"),
        ({"epsilon_cutoff": 1.0}, r"epsilon_cutoff must be in \[0, 1\); got 1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be finite and above 0; got 0.0"),
        ({"frequency_penalty": np.inf}, "frequency_penalty must be finite; got inf"),
        ({"temperature": "hot"}, "temperature must be a number; got 'hot'"),
        ({"temperature": [1.0, 2.0]}, "temperature must be one value or one for each of 3 prompts; got 2"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0; got -1"),
        ({"logit_bias": {99: 1.0}}, r"logit_bias must hold ids in \[0, 17\); got 99"),
        ({"logit_bias": {"q": 1.0}}, "token must be one of the vocabulary's 17; got 'q'"),
        ({"logit_bias": {1: np.nan}}, "logit_bias must give numbers below infinity; got nan"),
        ({"logit_bias": [1, 2, 3]}, "logit_bias must be a dict of ids or tokens to numbers; got 1"),
        ({"banned_ids": [-1]}, r"banned_ids must hold ids in \[0, 17\); got -1"),
        ({"banned_words": [""]}, "banned_words must be strings that are not empty; got ''"),
        ({"forced_prefix": [17]}, r"forced_prefix must hold ids in \[0, 17\); got 17"),
        ({"stop": ""}, "stop must be strings that are not empty; got ''"),
        ({"stop": [3]}, "stop must be strings that are not empty; got 3"),
        ({"stop": 3}, "stop must be a list of str; got 3"),
        ({"stop": [["a"], ["b"]]}, "stop must be one list or one for each of 3 prompts; got 2"),
        ({"stop_ids": 2.5}, "stop_ids must be a list of int; got 2.5"),
    ],
)
def test_bad_settings_are_refused(tokenizer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_settings(3, 17, tokenizer, **settings)
