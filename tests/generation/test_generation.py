"""Decoding on a scripted model, sampling against NumPy, and the strings around them."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import ScriptedModel, make_model

import tfllm
from tfllm.generation import Sampling, generate_ids, keep_likeliest, pick

GREEDY = Sampling(temperature=0.0).tensors()
SCRIPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def decode(model, prompts, new, *, end_id=-1, **options):
    rows = tf.ragged.constant(prompts, tf.int32)
    lengths = tf.cast(rows.row_lengths(), tf.int32)
    ids, counts = generate_ids(model, rows.to_tensor(), lengths, GREEDY, new, end_id=end_id, **options)
    return [row[:count].tolist() for row, count in zip(ids.numpy(), counts.numpy(), strict=True)]


def test_the_script_is_followed_from_every_row_s_own_position():
    found = decode(ScriptedModel(SCRIPT, 10), [[0], [0, 3, 1], [0, 3]], 5)
    assert found == [[3, 1, 4, 1, 5], [4, 1, 5, 9, 2], [1, 4, 1, 5, 9]]


def test_a_row_ends_before_the_end_token_and_others_go_on():
    found = decode(ScriptedModel(SCRIPT, 10), [[0], [0, 3, 1], [0] * 6], 7, end_id=5)
    assert found == [[3, 1, 4, 1], [4, 1], [9, 2, 6]]


def test_the_loop_stops_when_all_rows_have_ended():
    model, steps = ScriptedModel(SCRIPT, 10), []
    step = model.step
    model.step = lambda *a, **k: (steps.append(1), step(*a, **k))[1]
    decode(model, [[0], [0]], 100, end_id=4)
    assert len(steps) == 3  # the prompt, 3 and 1


def test_an_empty_row_stays_empty():
    assert decode(ScriptedModel(SCRIPT, 10), [[0], []], 2) == [[3, 1], []]


def test_room_for_more_tokens_changes_nothing():
    assert decode(ScriptedModel(SCRIPT, 10), [[0], [0, 3]], 3, capacity=8) == [[3, 1, 4], [1, 4, 1]]


class Echo:
    """Continues with the number of tokens that its state has read since it was made, so a new state shows."""

    vocab_size, rewindable = 50, True

    def __init__(self, max_length):
        self.max_length = max_length

    def initial_state(self, batch_size, slots, context=None):
        return {"position": tf.zeros([batch_size], tf.int32)}

    def step(self, ids, state, lengths=None, *, last=False):
        position = state["position"] + lengths
        return tf.one_hot(position[:, None], self.vocab_size), {"position": position}


def test_a_full_row_goes_on_from_its_latest_half():
    # 8 positions: full after 8 tokens, then a new state reads the last 4, the row's newest token among them.
    assert decode(Echo(8), [[0] * 3, [0] * 6], 12) == [
        [3, 4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4],
        [6, 7, 8, 4, 5, 6, 7, 8, 4, 5, 6, 7],
    ]
    assert decode(Echo(None), [[0] * 3], 7) == [[3, 4, 5, 6, 7, 8, 9]]


def test_a_transformer_beyond_its_positions_equals_reading_the_window_anew():
    model = make_model("llama")  # 32 positions
    ids = [1, 2, 3, 4, 5]
    found = decode(model, [ids], 60)[0]
    window, position = list(ids), len(ids)
    for token in found:
        logits = model(tf.constant([window]))[0, -1]
        assert int(tf.argmax(logits)) == token
        window, position = [*window, token], position + 1
        if position > 32:
            window, position = window[-16:], 16


def test_top_k_and_top_p_against_numpy():
    logits = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32) * 2
    for top_k in (0, 1, 3, 9, 50):
        for top_p in (1.0, 0.9, 0.5, 1e-6):
            found = keep_likeliest(tf.constant(logits), tf.constant(top_k), tf.constant(top_p)).numpy()
            for row, kept in zip(logits, np.isfinite(found), strict=True):
                order = np.argsort(-row)[: top_k or None]
                shares = np.exp(row[order]) / np.exp(row[order]).sum()
                before = np.cumsum(shares) - shares
                expected = {token for token, share in zip(order, before, strict=True) if share < top_p}
                assert set(np.flatnonzero(kept)) == expected | {order[0]}
            np.testing.assert_array_equal(found[np.isfinite(found)], logits[np.isfinite(found)])


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.7, "temperature": 2.0}])
def test_draws_follow_the_distribution(settings):
    logits = tf.math.log([[0.5, 0.3, 0.15, 0.05]])
    sampling = Sampling(**settings).tensors()
    kept = keep_likeliest(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    expected = tf.nn.softmax(kept)[0].numpy()
    count = 20_000
    tokens = pick(tf.repeat(logits, count, 0), sampling, tf.constant(7)).numpy()
    found = np.bincount(tokens, minlength=4) / count
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / count)  # four standard deviations


def test_draws_differ_by_seed_token_and_row():
    logits = tf.zeros([64, 1000])
    draws = {
        tuple(pick(logits, Sampling(seed=seed).tensors(), tf.constant(index)).numpy())
        for seed, index in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    assert len(draws) == 4
    assert all(len(set(rows)) > 32 for rows in draws)
    again = pick(logits[:1], Sampling(seed=1).tensors(), tf.constant(1))
    assert int(again[0]) in {rows[0] for rows in draws}  # a row draws the same in a batch and alone


def test_temperature_0_is_greedy_whatever_the_rest_says():
    logits = tf.constant([[1.0, 5.0, 2.0]])
    for seed in range(5):
        assert int(pick(logits, Sampling(0.0, 2, 0.1, seed).tensors(), tf.constant(0))[0]) == 1


def test_strings_in_strings_out(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    several = generator.generate(["abc", "hello"], max_new_tokens=6, temperature=0)
    assert several == [generator.generate(text, max_new_tokens=6, temperature=0) for text in ("abc", "hello")]
    assert all(isinstance(text, str) for text in several)
    assert generator.generate([]) == []


def test_equal_prompts_in_a_batch_give_different_texts(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    texts = generator.generate(["abc"] * 4, max_new_tokens=20, temperature=2.0)
    assert len(set(texts)) == 4
    assert texts[0] == generator.generate("abc", max_new_tokens=20, temperature=2.0)


@pytest.mark.parametrize("name", ["lstm", "llama"])
@pytest.mark.parametrize("new", [1, 2, 4, 5, 40])
def test_a_stream_is_the_same_text(tokenizer, name, new):
    generator = tfllm.TextGenerator(make_model(name), tokenizer)
    for settings in ({"temperature": 0.0}, {"seed": 4, "top_k": 6}):
        pieces = list(generator.stream("abc d", max_new_tokens=new, **settings))
        assert "".join(pieces) == generator.generate("abc d", max_new_tokens=new, **settings)
        assert new < 6 or len(pieces) > 2


def test_a_stream_never_splits_a_character():
    tokenizer = tfllm.BPETokenizer.train("abc", vocab_size=257)
    text = "é词😀é"
    script = tokenizer.encode("a" + text).numpy().tolist()[1:]
    generator = tfllm.TextGenerator(ScriptedModel(script, 257), tokenizer)
    pieces = list(generator.stream("a", max_new_tokens=len(script), temperature=0))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert len(pieces) > 1


def test_how_often_generate_is_traced(tokenizer, capsys):
    """10 prompt lengths x 5 batch sizes x 5 settings."""
    generator = tfllm.TextGenerator(make_model("gpt2"), tokenizer)
    settings = [
        {"temperature": 0.0},
        {"temperature": 0.7, "seed": 1},
        {"top_k": 3},
        {"top_p": 0.5, "max_new_tokens": 7},
        {"temperature": 1.3, "top_k": 4, "top_p": 0.9, "seed": 2},
    ]
    calls = 0
    for length in range(1, 11):
        for batch in range(1, 6):
            for setting in settings:
                generator.generate(["a" * length] * batch, **({"max_new_tokens": 3} | setting))
                calls += 1
    with capsys.disabled():
        print(f"\n{calls} calls of generate: {generator.trace_count} traces (encode, loop)")
    assert (calls, generator.trace_count) == (250, 2)


def test_how_often_a_stream_is_traced(tokenizer):
    generator = tfllm.TextGenerator(make_model("gpt2"), tokenizer)
    for length in range(1, 6):
        list(generator.stream("a" * length, max_new_tokens=5 + length, temperature=length / 4))
    assert generator.trace_count == 3  # encode, begin, advance


def test_many_generators_are_not_taken_for_one_that_retraces(tokenizer, caplog):
    model = make_model("gru")
    for _ in range(8):
        tfllm.TextGenerator(model, tokenizer).generate("a", max_new_tokens=2)
    assert "retracing" not in caplog.text


def test_how_often_xla_compiles(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer, jit_compile=True)
    for length in (1, 5, 16):
        for batch in (3, 4):
            generator.generate(["a" * length] * batch, max_new_tokens=length, temperature=length / 4)
    assert generator.trace_count == 2  # encode, and one bucket: 4 rows, 16 tokens, 16 new


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ("", {}, "prompts must be strings that are not empty; got ''"),
        (["a", ""], {}, "prompts must be strings that are not empty; got ''"),
        (b"a", {}, "prompts must be a str or a list of str; got bytes"),
        (np.array(["a"]), {}, "prompts must be a str or a list of str; got ndarray"),
        ([b"a"], {}, "prompts must be strings that are not empty; got b'a'"),
        ("a" * 33, {}, "prompts must have at most the model's max_length=32 tokens; got 33"),
        ("a", {"temperature": -0.1}, "temperature must be at least 0; got -0.1"),
        ("a", {"temperature": float("nan")}, "temperature must be at least 0; got nan"),
        ("a", {"top_p": 0.0}, r"top_p must lie in \(0, 1\]; got 0.0"),
        ("a", {"top_p": 1.1}, r"top_p must lie in \(0, 1\]; got 1.1"),
        ("a", {"top_k": -1}, "top_k must be at least 0; got -1"),
        ("a", {"top_k": 1.5}, "top_k must be an int of 32 bits; got 1.5"),
        ("a", {"seed": 2**31}, "seed must be an int of 32 bits; got 2147483648"),
        ("a", {"seed": None}, "seed must be an int of 32 bits; got None"),
        ("a", {"max_new_tokens": 3.0}, "max_new_tokens must be an int of 32 bits; got 3.0"),
        ("a", {"max_new_tokens": 2**31 - 1}, "must stay below 2\\*\\*31 tokens"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
    ],
)
def test_bad_requests_are_refused(tokenizer, prompts, settings, message):
    generator = tfllm.TextGenerator(make_model("gpt2"), tokenizer)
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts, **settings)
    if isinstance(prompts, str):
        with pytest.raises(ValueError, match=message):
            generator.stream(prompts, **settings)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="tokenizer must have the model's vocab_size=17; got 27"):
        tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghijklmnopqrstuvwxyz"))
