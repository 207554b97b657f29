"""Corpora by name and path, and the batches made of them."""

import hashlib

import keras
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


def first_ids(batches):
    """Reads the first id of every row; the ids count up, so this says which rows a batch holds."""
    return [inputs.numpy()[:, 0].tolist() for inputs, _, _ in batches]


def test_repeat_and_new_iterators_go_through_the_same_epochs():
    batches = lm_dataset(np.arange(200), None, 7, 5)
    twice = first_ids(batches.repeat(2))
    assert twice[: len(batches)] != twice[len(batches) :]
    again = lm_dataset(np.arange(200), None, 7, 5)
    assert first_ids(again) + first_ids(again) == twice
    assert first_ids(lm_dataset(np.arange(200), None, 7, 5, epochs=2)) == twice
    assert first_ids(lm_dataset(np.arange(200), None, 7, 5, epochs=None).take(len(twice))) == twice


def test_neither_the_global_seed_nor_other_data_sets_change_the_batches():
    tf.random.set_seed(1)
    expected = first_ids(lm_dataset(np.arange(200), None, 7, 5, seed=3).repeat(3))
    tf.random.set_seed(2)
    batches, other = (lm_dataset(np.arange(200), None, 7, 5, seed=3) for _ in range(2))
    first_ids(other)
    assert first_ids(batches.repeat(3)) == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_step_of_the_stream_can_be_begun_at(shuffle):
    def make(**settings):
        return lm_dataset(np.arange(100), None, 3, 5, shuffle=shuffle, **settings)

    stream, epoch = first_ids(make().repeat(5)), len(make())
    assert epoch > 5
    for start in (1, epoch, 2 * epoch - 1):
        batches = make(start_step=start)
        assert first_ids(batches) == stream[start : start + epoch]
        assert len(batches) == epoch
        if shuffle:  # the next pass goes on
            assert first_ids(batches) == stream[start + epoch : start + 2 * epoch]
        assert first_ids(make(start_step=start, epochs=2)) == stream[start : start + 2 * epoch]
        assert first_ids(make(start_step=start, epochs=None).take(2 * epoch)) == stream[start : start + 2 * epoch]


def test_a_million_steps_ahead_is_the_batch_that_its_epoch_has_there():
    ids = np.arange(20_000)
    epoch = len(lm_dataset(ids, None, 16, 8))
    ahead = lm_dataset(ids, None, 16, 8, start_step=1_000_000).take(3)
    index = 1_000_000 % epoch
    whole = lm_dataset(ids, None, 16, 8, start_step=1_000_000 - index)
    assert first_ids(ahead) == first_ids(whole)[index : index + 3]


@pytest.mark.parametrize("settings", [{}, {"shuffle": False}, {"start_step": 5}])
def test_the_workers_batches_joined_are_those_of_one(settings):
    ids = np.arange(300)
    parts = [lm_dataset(ids, None, 7, 6, num_workers=3, worker=worker, **settings).repeat(2) for worker in range(3)]
    for whole, *shares in zip(lm_dataset(ids, None, 7, 6, **settings).repeat(2), *parts, strict=True):
        for tensor, pieces in zip(whole, zip(*shares, strict=True), strict=True):
            assert pieces[0].shape == (2, 7)
            np.testing.assert_array_equal(np.concatenate(pieces), tensor)


def test_every_epoch_of_fit_is_another_one():
    seen = []

    class Recorder(keras.Model):
        def train_step(self, batch):
            tf.py_function(lambda ids: seen.append(ids.numpy().tolist()), [batch[0][:, 0]], [])
            return {"loss": tf.constant(0.0)}

    def epochs_of(batches, **settings):
        seen.clear()
        model = Recorder()
        model.compile(run_eagerly=True)
        model.fit(batches, epochs=3, shuffle=False, verbose=0, **settings)
        count = len(seen) // 3
        return [seen[i * count : (i + 1) * count] for i in range(3)]

    stream = first_ids(lm_dataset(np.arange(200), None, 7, 5).repeat(4))
    for batches, settings in (
        (lm_dataset(np.arange(200), None, 7, 5), {}),
        (lm_dataset(np.arange(200), None, 7, 5).repeat(), {"steps_per_epoch": 5}),
        (lm_dataset(np.arange(200), None, 7, 5, epochs=None), {"steps_per_epoch": 5}),
    ):
        first, second, third = epochs_of(batches, **settings)
        assert len(first) == 5
        assert stream[:15] == first + second + third or stream[5:20] == first + second + third  # a look ahead is a pass
        assert first != second != third


def test_an_iterator_of_the_endless_form_is_saved_and_restored_exactly(tmp_path):
    iterator = iter(lm_dataset(np.arange(200), None, 7, 5, epochs=None))
    for _ in range(7):
        next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    path = checkpoint.save(str(tmp_path / "iterator"))
    expected = first_ids(next(iterator) for _ in range(9))
    checkpoint.restore(path)
    assert first_ids(next(iterator) for _ in range(9)) == expected
    counted = iter(lm_dataset(np.arange(200), None, 7, 5).repeat())
    next(counted)
    with pytest.raises(tf.errors.FailedPreconditionError, match="is stateful"):
        tf.train.Checkpoint(iterator=counted).save(str(tmp_path / "counted"))


def test_files_are_encoded_and_mapped(tmp_path):
    tokenizer = tfllm.BPETokenizer.train("to be or not to be", vocab_size=260)
    (tmp_path / "a.txt").write_text("to be or not " * 300)
    (tmp_path / "b.jsonl").write_text('{"text": "to be"}\n' * 100)
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    ids = tfllm.data.tokenize_files(files, tokenizer, tmp_path / "shards").read(0, 500)
    for source in (tmp_path / "a.txt", files, tmp_path / "shards"):
        batches = lm_dataset(source, tokenizer, 16, 4, shuffle=False)
        inputs = np.concatenate([inputs.numpy().ravel() for inputs, _, _ in batches])
        np.testing.assert_array_equal(inputs[:500], ids)
    kept = lm_dataset(files, tokenizer, 16, 4, cache=tmp_path / "cache")
    assert first_ids(kept) == first_ids(lm_dataset(tmp_path / "cache", None, 16, 4))
    with pytest.raises(ValueError, match="tokenizer must be given when source is a file; got None"):
        lm_dataset(files)
    with pytest.raises(FileNotFoundError, match=r"files or folders; got '.*c.txt'"):
        lm_dataset(tmp_path / "c.txt", tokenizer)


def test_a_data_set_can_be_made_in_the_scope_of_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        batches = lm_dataset(np.arange(200), None, 7, 5)
    assert first_ids(batches.repeat(2)) == first_ids(lm_dataset(np.arange(200), None, 7, 5, epochs=2))


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"start_step": -1}, "start_step must be at least 0; got -1"),
        ({"num_workers": 0}, "num_workers must be at least 1; got 0"),
        ({"num_workers": 3}, "batch_size must be a multiple of num_workers=3; got 4"),
        ({"num_workers": 2, "worker": 2}, r"worker must lie in \[0, num_workers=2\); got 2"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        lm_dataset([1, 2, 3], None, 1, 4, **settings)


def test_split_text():
    assert split_text("abcdefghij", 0.3) == ("abcdefg", "hij")
    with pytest.raises(ValueError, match=r"validation must lie in \(0, 1\); got 1"):
        split_text("abc", 1)


def test_documents_are_joined_by_the_end_token():
    tokenizer = tfllm.CharTokenizer("ab", special_tokens=("<unk>", "<|endoftext|>"))
    for source in (["ab", "", "b"], iter(["ab", "", "b"]), tf.data.Dataset.from_tensor_slices(["ab", "", "b"])):
        ((inputs, targets, _),) = lm_dataset(source, tokenizer, 5, 1, shuffle=False)
        assert inputs.numpy().tolist() == [[2, 3, 1, 1, 3]]
        assert targets.numpy().tolist() == [[3, 1, 1, 3, 1]]
    with pytest.raises(ValueError, match=r"a data set of single strings .iterate_texts makes them of others.; got"):
        lm_dataset(tf.data.Dataset.from_tensors({"text": "a"}), tokenizer, 5, 1)
    with pytest.raises(ValueError, match="tokenizer must be given when source is text"):
        lm_dataset(["ab"], None, 5, 1)


def test_a_path_that_is_a_str_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 100)
    with pytest.raises(ValueError, match=r"source must be a pathlib.Path to name a file; got the str '.*a.txt'"):
        lm_dataset(str(tmp_path / "a.txt"), tfllm.CharTokenizer("ab"), 5, 1)
