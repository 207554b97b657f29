"""Batches of labelled texts: what stands where, windows over long texts, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import (
    balanced_weights,
    classification_dataset,
    load_vocabulary,
    span_dataset,
    span_windows,
    split_words,
    tag_entities,
    tagging_dataset,
    text_dataset,
    text_pair_dataset,
    word_windows,
)
from tfllm.data.windows import windows

CHARS = tfllm.CharTokenizer("abcdefgh? ", special_tokens=("<unk>", "<|endoftext|>"))


def rows_of(dataset):
    """Returns list of (inputs and others of one row without padding, weight) of one pass."""
    rows = []
    for inputs, *others, weights in dataset:
        for b in range(weights.shape[0]):
            if weights.numpy()[b].any():
                length = int(inputs["lengths"][b])
                ids = inputs["ids"].numpy()[b]
                assert not ids[length:].any()
                rows.append((ids[:length].tolist(), *(other[b] for other in others if not isinstance(other, dict))))
    return rows


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_text_comes_once_an_epoch_with_its_label(shuffle):
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abcdefgh"), random.integers(1, 20))) for _ in range(23)]
    labels = ["long" if len(text) > 9 else "short" for text in texts]
    batches = classification_dataset(texts, labels, CHARS, batch_size=4, num_buckets=3, multiple=4, shuffle=shuffle)
    assert batches.label_names == ["long", "short"]
    found = [(CHARS.decode(ids).numpy().decode(), batches.label_names[int(label)]) for ids, label in rows_of(batches)]
    assert sorted(found) == sorted(zip(texts, labels, strict=True))
    widths = {inputs["ids"].shape[1] for inputs, *_ in batches}
    assert len(widths) <= 3 and all(width % 4 == 0 for width in widths)


def test_batches_go_on_where_they_were_left():
    texts, labels = ["ab", "c", "def", "a", "bb"], [0, 1, 0, 1, 2]
    batches = classification_dataset(texts, labels, CHARS, batch_size=2, num_buckets=1, multiple=1, seed=3, epochs=None)
    whole = [batch[1].numpy().tolist() for batch in batches.take(7)]
    assert [batch[1].numpy().tolist() for batch in batches.from_step(3).take(4)] == whole[3:]


def test_a_row_is_as_long_as_the_model_and_the_rest_is_said_aloud():
    with pytest.warns(UserWarning, match="1 of 2 texts are longer than max_length=3 tokens and lose their ends"):
        batches = classification_dataset(["abcdef", "ab"], [0, 1], CHARS, max_length=3, batch_size=2)
    assert sorted(ids for ids, _ in rows_of(batches)) == [[2, 3], [2, 3, 4]]
    assert next(iter(batches))[0]["ids"].shape[1] == 3  # though lengths are multiples of 8
    bert = load_vocabulary("bert-uncased")
    with pytest.warns(UserWarning, match="lose their ends"):
        batches = text_dataset(["one two three four"], bert, max_length=4, batch_size=1)
    assert [ids for ids, _ in rows_of(batches)] == [[101, 2028, 2048, 102]]


def test_pairs_keep_together():
    firsts, seconds = ["a", "bb", "ccc", "dddd", "e"], ["aa", "b", "c", "d", "ee"]
    found = []
    for first, second, weights in text_pair_dataset(firsts, seconds, CHARS, batch_size=2, num_buckets=2):
        for b in np.flatnonzero(weights.numpy()):
            pair = [CHARS.decode(x["ids"][b, : x["lengths"][b]]).numpy().decode() for x in (first, second)]
            found.append(tuple(pair))
    assert sorted(found) == sorted(zip(firsts, seconds, strict=True))


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("pattern", "text", "words"),
    [
        ("words", "To be, or…", ["To", "be", ",", "or", "…"]),
        ("whitespace", "To be, or\tnot", ["To", "be,", "or", "not"]),
        ("bert", "ab... c", ["ab", ".", ".", ".", "c"]),
        ("characters", "你 好!", ["你", "好", "!"]),
    ],
)
def test_words_and_their_characters(pattern, text, words):
    found, starts, ends = (part.to_list() for part in split_words([text, "", "x"], pattern))
    assert [word.decode() for word in found[0]] == words
    assert [text[i:j] for i, j in zip(starts[0], ends[0], strict=True)] == words
    assert found[1] == [] and found[2] == [b"x"] and starts[2] == [0]


def test_windows_cover_every_token_once_and_none_outside():
    lengths = np.arange(0, 40)
    for room, stride in ((1, 1), (6, 1), (6, 4), (6, 6), (50, None), (7, None)):
        row, start, own_start, own_end = (x.numpy() for x in windows(tf.constant(lengths, tf.int32), room, stride))
        for r, length in enumerate(lengths):
            mine = np.flatnonzero(row == r)
            assert len(mine) >= 1
            owned = [t for k in mine for t in range(own_start[k], own_end[k])]
            assert owned == list(range(length))
            for k in mine:
                assert start[k] <= own_start[k] and own_end[k] <= min(start[k] + room, length)


def test_tags_stand_at_the_first_or_the_last_piece_of_a_word():
    words, tags = [["ab", "c", "def"]], [["B-X", "I-X", "O"]]
    for piece, places in (("first", [0, 2, 4]), ("last", [1, 3, 7])):
        batches = tagging_dataset(words, tags, CHARS, piece=piece, batch_size=1, multiple=1)
        inputs, found, weights = next(iter(batches))
        assert inputs["ids"].numpy().tolist() == [CHARS.encode("ab c def").numpy().tolist()]
        assert np.flatnonzero(inputs["words"][0]).tolist() == places == np.flatnonzero(weights[0]).tolist()
        assert found.numpy()[0][places].tolist() == [1, 2, 0] and batches.tag_names == ["O", "B-X", "I-X"]


def test_long_texts_are_tagged_in_windows_each_word_once():
    random = np.random.default_rng(0)
    words = [["".join(random.choice(list("abc"), random.integers(1, 4))) for _ in range(n)] for n in (1, 12, 30)]
    tags = [[f"B-{len(word)}" for word in row] for row in words]
    batches = tagging_dataset(words, tags, CHARS, max_length=10, stride=4, batch_size=4)
    total, widest = 0, 0
    for inputs, found, weights in batches:
        widest = max(widest, inputs["ids"].shape[1])
        for b, t in np.argwhere(weights.numpy() > 0):
            total += 1
            name = batches.tag_names[int(found[b, t])]
            ids = inputs["ids"].numpy()[b]
            rest = CHARS.decode(ids[t:]).numpy().decode().lstrip(" ")  # a word begins with the blank before it
            if t + int(name[2:]) + 1 < int(inputs["lengths"][b]):
                assert len(rest.split(" ")[0]) >= int(name[2:])
    assert total == 43 and widest <= 10


def test_word_pieces_are_those_of_the_words_alone():
    bert = load_vocabulary("bert-uncased")
    rows = word_windows(bert, tf.ragged.constant([["Tokenization", "!", "\u200d", "x"]]))
    tokens = [bert.tokens[i] for i in rows["ids"].numpy()[0]]
    assert tokens == ["[CLS]", "token", "##ization", "!", "x", "[SEP]"]
    assert rows["word"].numpy().tolist() == [[-1, 0, -1, 1, 3, -1]]  # of what is no token there is no tag


def test_entities_become_tags_and_overlaps_are_refused():
    text = "Ada L., of London"
    assert tag_entities(text, [(11, 17, "LOC"), (0, 5, "PER")]) == (
        ["Ada", "L", ".,", "of", "London"],
        ["B-PER", "I-PER", "O", "O", "B-LOC"],
    )
    for entities, message in (
        ([(0, 5, "PER"), (4, 5, "LOC")], r"must not overlap; got \(0, 5, 'PER'\) and \(4, 5, 'LOC'\)"),
        ([(0, 2, "PER")], r"must begin and end where words do; got \(0, 2, 'PER'\), 'Ad'"),
        ([(0, 18, "PER")], "must lie in the text of 17 characters"),
        ([(3, 3, "PER")], "must lie in the text of 17 characters"),
    ):
        with pytest.raises(ValueError, match=message):
            tag_entities(text, entities)


# ---------------------------------------------------------------- answers


def test_answers_stand_in_the_windows_that_hold_them():
    context = "abcdefgh" * 3
    batches = span_dataset(
        ["a?", "b?"],
        [context, "abc"],
        ["fg", None],
        [13, None],
        CHARS,
        max_length=13,
        max_question=2,
        stride=3,
        batch_size=3,
        multiple=1,
    )
    rows = 0
    for inputs, spans, weights in batches:
        for b in np.flatnonzero(weights.numpy()):
            rows += 1
            ids = inputs["ids"].numpy()[b]
            first, size = int(inputs["context_starts"][b]), int(inputs["context_lengths"][b])
            piece = CHARS.decode(ids[first : first + size]).numpy().decode()
            assert first == 3 and first + size == int(inputs["lengths"][b]) and size <= 10 and piece in context
            s, e = spans.numpy()[b]
            if s >= 0:
                assert CHARS.decode(ids[s : e + 1]).numpy() == b"fg" and s >= first
    found = batches.windows
    starts = [found.char_starts[k, 3] for k in range(len(found.question))]
    held = [found.question[k] == 0 and start <= 13 and start + 10 >= 15 for k, start in enumerate(starts)]
    assert (found.spans[:, 0] >= 0).tolist() == held and sum(held) >= 2
    assert rows == len(found.question) == 7


def test_the_layout_of_bert_and_characters_of_its_pieces():
    bert = load_vocabulary("bert-uncased")
    rows = span_windows(bert, ["Who?"], ["Élodie runs"])
    assert [bert.tokens[i] for i in rows["ids"].numpy()[0]] == [
        *("[CLS]", "who", "?", "[SEP]"),
        *("el", "##od", "##ie", "runs", "[SEP]"),
    ]
    assert rows["segments"].numpy().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1]]
    assert rows["char_starts"].numpy().tolist() == [[0, 0, 0, 0, 0, 2, 4, 7, 0]]
    assert rows["char_ends"].numpy().tolist() == [[0, 0, 0, 0, 2, 4, 6, 11, 0]]
    assert rows["context_starts"].numpy() == [4] and rows["context_lengths"].numpy() == [4]


def test_long_questions_are_said_aloud():
    with pytest.warns(UserWarning, match="1 of 1 questions are longer than max_question=2 tokens and lose their ends"):
        batches = span_dataset(["abc?"], ["ab"], ["b"], [1], CHARS, max_question=2, batch_size=1, multiple=1)
    assert next(iter(batches))[0]["ids"].numpy().tolist() == [[2, 3, 1, 2, 3]]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: classification_dataset(["a"], ["new"], CHARS, label_names=["old"]),
            r"labels must be among those seen in training, \['old'\]; got 'new'",
        ),
        (lambda: classification_dataset(["a", "b"], ["x"], CHARS), "labels must be as many as texts, 2; got 1"),
        (lambda: classification_dataset(["a"], ["x"], CHARS, label_names=["x", "x"]), "must be different names"),
        (lambda: text_dataset([], CHARS), "texts must be a list of at least one str"),
        (lambda: text_dataset("ab", CHARS), "texts must be a list of at least one str"),
        (lambda: text_dataset(["a", ""], CHARS), "texts must not be empty; got an empty one at 1"),
        (
            lambda: text_dataset([" "], load_vocabulary("bert-uncased")),
            "texts must have at least one token each; got ' ' at 0",
        ),
        (lambda: text_dataset(["a"], load_vocabulary("bert-uncased"), max_length=2), "max_length must be above the 2"),
        (lambda: text_dataset(["a"], CHARS, batch_size=0), "batch_size must be at least 1; got 0"),
        (lambda: tagging_dataset([["a"]], [["O", "O"]], CHARS), "tags must be one a word; got 2 for 1 words at 0"),
        (lambda: tagging_dataset([["a"], []], [["O"], []], CHARS), r"words must be lists of at least one str"),
        (
            lambda: tagging_dataset([["a", "b"]], [["O", "I-X"]], CHARS),
            "tags must be valid BIO, .* got 'I-X' behind 'O' at 0; repair=True makes it a B",
        ),
        (lambda: tagging_dataset([["a"]], [["I-X"]], CHARS), "got 'I-X' behind 'nothing' at 0"),
        (lambda: tagging_dataset([["a", "b"]], [["B-Y", "I-X"]], CHARS), "got 'I-X' behind 'B-Y' at 0"),
        (lambda: tagging_dataset([["a"]], [["NOUN"]], CHARS), "tags must be 'O', .* got 'NOUN'"),
        (lambda: tagging_dataset([["a"]], [["B-X"]], CHARS, tag_names=["O"]), "seen in training, .* got 'B-X'"),
        (lambda: tagging_dataset([["a"]], [["O"]], CHARS, max_length=4, stride=5), r"stride must lie in \[1, 4\]"),
        (lambda: tagging_dataset([["a"]], [["O"]], CHARS, piece="middle"), "piece must be one of"),
        (
            lambda: span_dataset(["a"], ["abc"], ["b"], [2], CHARS),
            "must stand in their contexts at starts; got 'b' for 'c'",
        ),
        (
            lambda: span_dataset(["a"], ["abc"], ["b"], [None], CHARS),
            "starts must be None or -1 where there is no answer",
        ),
        (
            lambda: span_dataset(["a"], ["abc"], [None], [1], CHARS),
            "starts must be None or -1 where there is no answer",
        ),
        (lambda: span_dataset(["a"], [""], [None], [None], CHARS), "contexts must not be empty"),
        (lambda: span_dataset(["a"], ["a"], ["a"], [0], CHARS, max_length=9), "max_length must be above the 65 tokens"),
        (
            lambda: span_dataset(["a"], ["a"], ["a"], [0], tfllm.CharTokenizer("ab")),
            "separator must be given for a tokenizer without a template or an end token",
        ),
        (lambda: text_pair_dataset(["a"], ["a", "b"], CHARS), "seconds must be as many as firsts, 1; got 2"),
        (lambda: split_words(["a"], "gpt2"), "pattern must be one of"),
        (lambda: balanced_weights([2], 2), r"labels must lie in \[0, num_labels=2\); got 2"),
    ],
)
def test_bad_data_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(
        TypeError, match=r"options must be those of batches and passes of pair_dataset; got \['batchsize'\]"
    ):
        text_dataset(["a"], CHARS, batchsize=2)


def test_a_lone_i_becomes_a_b_where_asked():
    data = [["a", "b", "c"]], [["I-X", "I-X", "I-Y"]]
    batches = tagging_dataset(*data, CHARS, repair=True, batch_size=1, separator="", multiple=1)
    _, tags, _ = next(iter(batches))
    assert [batches.tag_names[i] for i in tags[0]] == ["B-X", "I-X", "B-Y"]
    plain = tagging_dataset([["a"]], [["NOUN"]], CHARS, bio=False, batch_size=1)
    assert plain.tag_names == ["NOUN"]


def test_balanced_weights_make_labels_count_alike():
    labels = [0, 0, 0, 1, 2, 2]
    weights = balanced_weights(labels, 4)
    sums = [sum(weights[label] for label in labels if label == k) for k in range(4)]
    np.testing.assert_allclose(sums, [1.5, 1.5, 1.5, 0.0])
