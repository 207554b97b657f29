"""When a row ends, and where its text does: against cutting the whole text in Python."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import ScriptedModel, make_model

import tfllm
from tfllm.generation import history


@pytest.fixture(scope="module")
def bpe():
    text = "the cat sat on the mat, the end. é词😀 " * 20
    return tfllm.BPETokenizer.train(text, vocab_size=320)


@pytest.fixture(scope="module")
def generator(bpe):
    return scripted(bpe, TEXT)[0]


def scripted(tokenizer, text, prompt="the"):
    script = tokenizer.encode(text).numpy().tolist()
    count = len(tokenizer.encode(prompt).numpy())
    return tfllm.TextGenerator(ScriptedModel([0] * (count - 1) + script + [0], tokenizer.vocab_size), tokenizer), len(
        script
    )


TEXT = "the cat sat on the mat, the end. é词😀 the mat"
STOPS = [
    ["mat"],
    ["sat on", "zzz"],
    ["the end"],
    ["at o", "cat s"],
    ["词"],
    ["😀 t"],
    [" "],
    ["q"],
    ["e", "the"],
    ["é词😀 the mat"],
    ["t"],
]


@pytest.mark.parametrize("stops", STOPS, ids=str)
def test_stop_strings_cut_the_text_where_python_would(bpe, generator, stops):
    size = len(bpe.encode(TEXT).numpy())
    (found,) = generator.complete("the", max_new_tokens=size, strategy="greedy", stop=stops)
    # The first stop string that is complete decides; of several that end in one token, the one that begins first.
    ids = bpe.encode(TEXT).numpy()
    ends = (n for n in range(1, size + 1) if any(s.encode() in bpe.decode_bytes(ids[:n]).numpy() for s in stops))
    written = next(ends, None)
    if written is None:
        assert (found.text, found.finish_reason) == (TEXT, "length")
    else:
        text = bpe.decode_bytes(ids[:written]).numpy()
        cut = min(text.find(s.encode()) for s in stops if s.encode() in text)
        assert (found.text.encode(), found.finish_reason) == (text[:cut], "stop_string")
        np.testing.assert_array_equal(found.ids, ids[:written])
    assert "".join(generator.stream("the", max_new_tokens=size, temperature=0, stop=stops)) == found.text


def test_stop_strings_of_words_count_the_blank_that_a_first_word_loses():
    tokenizer = tfllm.text.WordTokenizer.train("one two three four two", vocab_size=6)
    generator, size = scripted(tokenizer, "one two three four", prompt="one")
    (found,) = generator.complete("one", max_new_tokens=size, strategy="greedy", stop=["three"])
    assert found.text == "one two "
    (found,) = generator.complete("one", max_new_tokens=size, strategy="greedy", stop=["o thr"])
    assert (found.text, found.finish_reason) == ("one tw", "stop_string")


def test_rows_end_for_reasons_of_their_own():
    tokenizer = tfllm.BPETokenizer.train("abc " * 9, vocab_size=258)
    end = tokenizer.end_id
    ids = [int(tokenizer.encode(c).numpy()[0]) for c in "abcabc"]
    assert end >= 0
    generator = tfllm.TextGenerator(ScriptedModel([*ids[1:], end], 258), tokenizer)
    found = generator.complete(
        ["a"] * 4,
        strategy="greedy",
        max_new_tokens=[9, 9, 3, 9],
        stop_ids=[[], [ids[2]], [], []],
        stop=[[], [], [], ["ca"]],
    )
    assert [(c.text, c.finish_reason) for (c,) in found] == [
        ("bcabc", "end"),
        ("b", "stop_id"),
        ("bca", "length"),
        ("b", "stop_string"),
    ]
    assert found[0][0].ids.tolist() == ids[1:]


def test_time_ends_a_text():
    tokenizer = tfllm.CharTokenizer("abcdefghijklmno ")
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    for strategy in (
        "speculative",
        "mcts",
        "value_beam",
        "greedy",
    ):  # traced, so that the clock runs out while it decodes
        generator.generate("abc", strategy=strategy, max_new_tokens=4, max_time=60.0)
        (found,) = generator.complete("abc", strategy=strategy, max_new_tokens=100_000, max_time=0.2)
        assert found.finish_reason == "time"
    (found,) = generator.complete("abc", strategy="greedy", max_new_tokens=10_000_000 // 17, max_time=0.2)
    assert found.finish_reason == "time"
    assert 0 < len(found.ids) < 10_000_000 // 17
    (same,) = generator.complete("abc", strategy="greedy", max_new_tokens=20)
    np.testing.assert_array_equal(found.ids[:20], same.ids[: len(found.ids)])
    compiled = tfllm.TextGenerator(make_model("gru"), tokenizer, jit_compile=True)
    (other,) = compiled.complete("abc", strategy="greedy", max_new_tokens=20, max_time=60)
    np.testing.assert_array_equal(other.ids, same.ids)


WORDS = tfllm.text.WordTokenizer.train("the cat sat on the mat to be or not " * 3, vocab_size=20)


@pytest.mark.parametrize(
    ("script", "stop", "text"),
    [
        ("the cat sat", " ", "the"),  # not the blank that the first word loses
        ("the cat sat", " cat", "the"),
        ("<unk> the cat", " cat", "the"),  # a special token has no text, so "the" is the first word
        ("<unk> <unk> the cat", "the", ""),
    ],
)
def test_the_first_word_has_no_blank_to_stop_at(script, stop, text):
    ids = [WORDS.id_of(word) for word in script.split()]
    model = ScriptedModel([*ids, *[WORDS.id_of("mat")] * 5], WORDS.vocab_size)
    generator = tfllm.TextGenerator(model, WORDS)
    (found,) = generator.complete("or", strategy="greedy", max_new_tokens=len(ids), stop=stop)
    assert found.text == text


def test_a_stream_is_cut_where_the_text_is_also_behind_bytes_that_are_no_characters():
    tokenizer = tfllm.BPETokenizer.train("xyz", vocab_size=257)
    ids = tokenizer.encode("xy").numpy().tolist()
    bad = [token for token, piece in enumerate(tokenizer.token_bytes()) if piece in (b"\xc3", b"\xff", b"\xe4")]
    script = [bad[0], bad[1], ids[0], bad[2], ids[1], ids[0]]
    generator = tfllm.TextGenerator(ScriptedModel([*script, *[ids[0]] * 5], tokenizer.vocab_size), tokenizer)
    settings = {"max_new_tokens": 6, "temperature": 0.0, "stop": ["y"]}
    whole = generator.generate("z", **settings)
    assert whole.count("x") == 1
    assert "".join(generator.stream("z", **settings)) == whole


def test_a_row_whose_every_token_is_banned_says_so(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    (found,) = generator.complete("abc", banned_ids=list(range(17)))
    assert (found.text, found.finish_reason) == ("", "no_token")


@pytest.mark.parametrize("jit", [False, True])
def test_logits_that_are_no_numbers_are_an_error(tokenizer, jit):
    class Broken(ScriptedModel):
        def step(self, ids, state, lengths=None, *, last=False):
            logits, state = super().step(ids, state, lengths, last=last)
            return tf.where((state["position"] == 5)[:, None, None], np.nan, logits), state

    generator = tfllm.TextGenerator(Broken([1] * 20, 17), tokenizer, jit_compile=jit)
    with pytest.raises(ValueError, match="model must give logits that are numbers; got NaN for prompt 1 at token 2"):
        generator.generate(["a", "abc"], max_new_tokens=3)
    if not jit:
        with pytest.raises(ValueError, match="model must give logits that are numbers; got NaN at token 4"):
            list(generator.stream("a", max_new_tokens=9))


def test_every_reason_has_a_name():
    codes = (
        history.END,
        history.STOP_ID,
        history.STOP_STRING,
        history.LENGTH,
        history.TIME,
        history.NO_TOKEN,
        history.NAN,
    )
    assert [history.FINISH_REASONS[code] for code in codes] == list(history.FINISH_REASONS[1:])
