"""Corpora by name and path, and the batches made of them."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import corpus_names, lm_dataset, load_text, split_text


def test_shakespeare_is_the_file_of_nanogpt():
    text = load_text("shakespeare")
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert (len(text), len(set(text))) == (1_115_394, 65)


def test_poems_stand_one_a_line():
    lines = load_text("poetry").splitlines()
    assert len(lines) == 13_951 + 6_000 + 280
    assert lines[0] == "四时运灰琯，一夕变冬春。送寒余雪尽，迎岁早梅新。"
    assert all(lines)


def test_every_named_corpus_is_text():
    assert corpus_names() == ["poetry", "shakespeare", "wiki"]
    assert load_text("wiki").startswith(" = Anarchism = \n")


def test_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_bytes("\ufeffsecond\r\nline\r".encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.txt").write_text("third")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    assert load_text(tmp_path) == "first\n\nsecond\nline\n\n\nthird"
    assert load_text(str(tmp_path / "b.txt")) == "second\nline\n"


def test_bad_sources_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"source must be one of \['poetry', 'shakespeare', 'wiki'\].*got 'shakspeare'"
    ):
        load_text("shakspeare")
    with pytest.raises(ValueError, match=r"source must be one of .* got ''"):
        load_text("")
    with pytest.raises(ValueError, match=r"folder with .txt files; got"):
        load_text(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"must hold text; got .*empty.txt"):
        load_text(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"UTF-8 text; got .*latin.txt', which is not at byte 3"):
        load_text(tmp_path / "latin.txt")


def test_targets_are_the_inputs_shifted_by_one():
    for inputs, targets, weights in lm_dataset(np.arange(1000), None, 8, 4, seed=1):
        assert inputs.shape == targets.shape == weights.shape == (4, 8)
        np.testing.assert_array_equal(targets, inputs + 1)  # the ids count up
        np.testing.assert_array_equal(weights, 1)
        assert (inputs.dtype, targets.dtype, weights.dtype) == (tf.int32, tf.int32, tf.float32)


def test_in_order_every_target_counts_exactly_once():
    for count in (9, 10, 63, 64, 65, 100):
        batches = lm_dataset(np.arange(count), None, 8, 3, shuffle=False)
        targets = np.concatenate([t.numpy()[w.numpy() > 0] for _, t, w in batches])
        np.testing.assert_array_equal(targets, np.arange(1, count))
        assert len(batches) == len(list(batches))


def test_a_shuffled_pass_visits_no_target_twice_and_leaves_out_little():
    batches = lm_dataset(np.arange(1000), None, 7, 5)
    targets = np.concatenate([t.numpy().ravel() for _, t, _ in batches])
    assert len(np.unique(targets)) == len(targets)
    assert len(targets) > 1000 - (2 + 5) * 7
    assert len(batches) == len(list(batches))


def test_what_fills_up_a_batch_has_no_weight():
    ((inputs, _, weights),) = lm_dataset(np.arange(10), None, 3, 8)
    rows = inputs.numpy()[weights.numpy()[:, 0] > 0]
    assert len({tuple(row) for row in rows}) == len(rows) == 2
    assert weights.numpy().sum() == 6


def test_every_pass_is_another_one_and_the_seed_decides_it():
    def passes(seed, count=3):
        batches = lm_dataset(np.arange(1000), None, 7, 5, seed=seed)
        return [np.concatenate([inputs.numpy().ravel() for inputs, _, _ in batches]) for _ in range(count)]

    first, again, other = passes(1), passes(1), passes(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])
    assert not np.array_equal(first[0], other[0])


def test_repeat_shuffles_anew():
    batches = lm_dataset(np.arange(200), None, 7, 5)
    twice = [inputs.numpy()[0, 0] for inputs, _, _ in batches.repeat(2)]
    assert twice[: len(batches)] != twice[len(batches) :]


def test_text_goes_through_the_tokenizer():
    tokenizer = tfllm.CharTokenizer.train("abcdef")
    inputs, targets, _ = next(iter(lm_dataset("abcdef", tokenizer, 5, 1, shuffle=False)))
    assert tokenizer.decode(inputs).numpy().tolist() == [b"abcde"]
    assert tokenizer.decode(targets).numpy().tolist() == [b"bcdef"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc", tfllm.CharTokenizer("abc"), 3, 1), "more than sequence_length=3 tokens; got 3"),
        (("", tfllm.CharTokenizer("abc"), 3, 1), "more than sequence_length=3 tokens; got 0"),
        (([], None, 3, 1), "more than sequence_length=3 tokens; got 0"),
        (("abc", None, 1, 1), "tokenizer must be given"),
        (([1, 2, 9], tfllm.CharTokenizer("abc"), 1, 1), r"source must lie in \[0, vocab_size=4\); got 9"),
        (([1, -2, 3], None, 1, 1), "source must lie in .* got -2"),
        (([[1, 2]], None, 1, 1), r"ids of shape \[N\]; got"),
        (([0.5, 1.5], None, 1, 1), r"ids of shape \[N\]; got float64"),
        (([1, 2, 3], None, 0, 1), "sequence_length must be at least 1; got 0"),
        (([1, 2, 3], None, 1, 0), "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lm_dataset(*arguments)


def test_split_text():
    assert split_text("abcdefghij", 0.3) == ("abcdefg", "hij")
    with pytest.raises(ValueError, match=r"validation must lie in \(0, 1\); got 1"):
        split_text("abc", 1)
