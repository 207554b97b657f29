"""Decoding on a scripted model, and the strings around it."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import ScriptedModel, make_model, shared_generator
from tensorflow.python.platform import tf_logging

import tfllm
from tfllm.generation import Sample, Vocabulary, generate_ids, make_settings

SCRIPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def decode(model, prompts, new, *, end_id=-1, capacity=None):
    rows = tf.ragged.constant(prompts, tf.int32)
    inputs = {"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}
    settings = make_settings(len(prompts), model.vocab_size, max_new_tokens=new, temperature=0)
    found = generate_ids(model, inputs, settings, Vocabulary(end_id), capacity or new)
    return [row[:count].tolist() for row, count in zip(found["ids"].numpy(), found["count"].numpy(), strict=True)]


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


def test_strings_in_strings_out():
    generator = shared_generator("gru")
    several = generator.generate(["abc", "hello"], max_new_tokens=6, temperature=0)
    assert several == [generator.generate(text, max_new_tokens=6, strategy="greedy") for text in ("abc", "hello")]
    assert all(isinstance(text, str) for text in several)
    assert generator.generate([]) == []
    assert generator.complete([]) == []


def test_equal_prompts_in_a_batch_give_different_texts():
    generator = shared_generator("gru")
    texts = generator.generate(["abc"] * 4, max_new_tokens=20, temperature=2.0)
    assert len(set(texts)) == 4
    assert texts == [generator.generate("abc", max_new_tokens=20, temperature=2.0, seed=row) for row in range(4)]


RANDOM = np.random.default_rng(5)
REQUESTS = [
    {"temperature": 0.0},
    {"temperature": 1.5, "top_k": 4, "repetition_penalty": 1.3},
    {"top_p": 0.8, "no_repeat_ngram_size": 2, "stop": ["a", " b"]},
    {"min_p": 0.05, "min_new_tokens": 4, "stop_ids": [3, 7], "frequency_penalty": 0.5},
    {"typical_p": 0.7, "logit_bias": {"e": 3.0}, "banned_words": ["ab", "c"], "presence_penalty": 0.3},
    {"eta_cutoff": 0.1, "epsilon_cutoff": 0.01, "forced_prefix": "de", "seed": 9},
]


@pytest.mark.parametrize(
    ("name", "jit", "requests"), [("gru", False, REQUESTS), ("gpt2", False, REQUESTS), ("gru", True, REQUESTS[1:3])]
)
def test_a_batch_equals_its_rows_alone(name, jit, requests):
    """Rows with settings of their own, in one batch and one by one."""
    generator = shared_generator(name, jit)
    prompts = ["".join(RANDOM.choice(list("abcdefghijklmno "), RANDOM.integers(1, 16))) for _ in requests]
    defaults = {"seed": 0, "stop": [], "stop_ids": [], "logit_bias": {}, "banned_words": [], "forced_prefix": None}
    numbers = {name for request in requests for name in request} - set(defaults)
    plain = make_settings(1, 17)
    joint = {name: [request.get(name, plain[name][0].item()) for request in requests] for name in numbers}
    joint |= {name: [request.get(name, default) for request in requests] for name, default in defaults.items()}
    together = generator.complete(prompts, max_new_tokens=9, **joint)
    for prompt, request, (found,) in zip(prompts, requests, together, strict=True):
        (alone,) = generator.complete(prompt, max_new_tokens=9, **request)
        assert (alone.text, alone.finish_reason) == (found.text, found.finish_reason)
        np.testing.assert_array_equal(alone.ids, found.ids)
        np.testing.assert_allclose(alone.log_probs, found.log_probs, atol=1e-4)


def test_graph_xla_and_eager_agree():
    for request in (REQUESTS[2], REQUESTS[4]):
        graph, xla = (shared_generator("gru", jit) for jit in (False, True))
        (expected,) = graph.complete("abc d", max_new_tokens=9, **request)
        assert xla.generate("abc d", max_new_tokens=9, **request) == expected.text
        settings = make_settings(1, 17, graph.tokenizer, max_new_tokens=9, **request)
        inputs = {"ids": tf.constant([[1, 2, 3, 16, 4]]), "lengths": tf.constant([5])}
        eager = generate_ids(graph.model, inputs, settings, graph.vocabulary, 9)
        assert eager["ids"][0, : eager["count"][0]].numpy().tolist() == expected.ids.tolist()


def test_what_comes_back_is_what_the_model_thinks():
    generator = shared_generator("gpt2")
    prompt = "abc d"
    found = generator.complete(prompt, max_new_tokens=6, top_log_probs=3, num_sequences=3, temperature=2.0, top_k=5)
    assert len({tuple(one.ids) for one in found}) == 3
    for one in found:
        ids = tf.concat([generator.tokenizer.encode(prompt), one.ids], 0)
        log_probs = tf.nn.log_softmax(generator.model(ids[None]))[0, 4:-1].numpy()
        at = np.arange(6)
        np.testing.assert_allclose(one.log_probs, log_probs[at, one.ids], atol=1e-5)
        np.testing.assert_allclose(one.entropy, -(np.exp(log_probs) * log_probs).sum(-1), atol=1e-5)
        order = np.argsort(-log_probs, -1)[:, :3]
        np.testing.assert_array_equal(one.top_ids, order)
        np.testing.assert_allclose(one.top_log_probs, np.take_along_axis(log_probs, order, -1), atol=1e-5)
        assert one.score == pytest.approx(one.log_probs.sum(), abs=1e-5)
    batch = generator.complete([prompt, "e"], max_new_tokens=6, num_sequences=3, temperature=2.0, top_k=5)
    assert [one.text for one in batch[0]] == [one.text for one in found]


def test_best_of_several_is_the_likeliest():
    generator = shared_generator("gpt2")
    settings = {"max_new_tokens": 6, "temperature": 2.0}
    drawn = generator.complete("abc", num_sequences=5, **settings)
    best = generator.complete("abc", num_sequences=2, best_of=5, **settings)
    means = sorted((one.log_probs.mean() for one in drawn), reverse=True)
    np.testing.assert_allclose([one.log_probs.mean() for one in best], means[:2], atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_a_prefix_is_read_once_and_changes_nothing(name):
    generator = shared_generator(name)
    prefix = generator.prefill("abc def")
    ends = ["", "g", " hij", "klmno"]
    for settings in ({"temperature": 0.0}, {"seed": 3, "repetition_penalty": 1.2}):
        expected = generator.generate(["abc def" + end for end in ends], max_new_tokens=7, **settings)
        assert generator.generate(ends, prefix=prefix, max_new_tokens=7, **settings) == expected
    assert "".join(generator.stream("g", prefix=prefix, max_new_tokens=7, temperature=0)) == generator.generate(
        "abc defg", max_new_tokens=7, temperature=0
    )
    assert generator.generate("", prefix=generator.prefill("a"), max_new_tokens=3) == generator.generate(
        "a", max_new_tokens=3
    )


def test_a_prefix_under_xla():
    graph, xla = shared_generator("gru"), shared_generator("gru", True)
    prefix = xla.prefill("abc d")
    assert xla.generate(["", "e"], prefix=prefix, max_new_tokens=5, temperature=0) == graph.generate(
        ["abc d", "abc de"], max_new_tokens=5, temperature=0
    )


def test_guidance_leads_away_from_the_second_prompt():
    """The first token against the formula; scale 1 changes nothing."""
    generator = shared_generator("gpt2")
    plain = generator.generate("abc", max_new_tokens=8, temperature=0)
    settings = {"max_new_tokens": 8, "temperature": 0, "negative_prompt": "hello"}
    assert generator.generate("abc", guidance_scale=1.0, **settings) == plain
    first, second = (
        tf.nn.log_softmax(generator.model(generator.tokenizer.encode([text]).to_tensor()))[0, -1]
        for text in ("abc", "hello")
    )
    for scale in (0.0, 3.0, -2.0):
        (found,) = generator.complete("abc", guidance_scale=scale, **settings)
        assert found.ids[0] == int(tf.argmax(second + scale * (first - second)))
    both = generator.generate(["abc", "abc"], guidance_scale=[3.0, 1.0], **settings)
    assert both == [generator.generate("abc", guidance_scale=3.0, **settings), plain]


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_a_stream_is_the_same_text(name):
    generator = shared_generator(name)
    for new in (1, 2, 4, 5, 40):
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
    """10 prompt lengths x 10 batch sizes x 5 settings, among them some of every kind."""
    generator = tfllm.TextGenerator(make_model("gpt2"), tokenizer)
    settings = [
        {"temperature": 0.0},
        {"temperature": 0.7, "seed": 1, "stop": ["a", "bc"]},
        {"top_k": 3, "banned_words": ["abc"], "logit_bias": {1: 2.0}},
        {"top_p": 0.5, "max_new_tokens": 7, "repetition_penalty": 1.1, "stop_ids": [4]},
        {"temperature": 1.3, "top_k": 4, "top_p": 0.9, "min_p": 0.1, "no_repeat_ngram_size": 3, "forced_prefix": "ab"},
    ]
    calls = 0
    for length in range(1, 11):
        for batch in range(1, 11):
            for setting in settings:
                generator.generate(["a" * length] * batch, **({"max_new_tokens": 3} | setting))
                calls += 1
    with capsys.disabled():
        print(f"\n{calls} calls of generate: {generator.trace_count} traces (encode, search, decode)")
    assert (calls, generator.trace_count, generator.program_count) == (500, 3, 1)


def test_how_often_a_stream_is_traced(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    for length in range(1, 6):
        list(generator.stream("a" * length, max_new_tokens=5 + length, temperature=length / 4))
    assert generator.trace_count == 3  # encode, begin, advance


def test_many_generators_are_not_taken_for_one_that_retraces(tokenizer, monkeypatch):
    warnings, model = [], make_model("gru")
    monkeypatch.setattr(tf_logging, "warning", lambda *words: warnings.append(words))
    for _ in range(6):
        tfllm.TextGenerator(model, tokenizer).next_token("a")
    assert not [words for words in warnings if "retracing" in str(words)]


def test_how_often_xla_compiles(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer, jit_compile=True, max_programs=2)
    for length in (1, 5, 16):
        for batch in (3, 4):
            generator.generate(["a" * length] * batch, max_new_tokens=length, temperature=length / 4)
    assert (generator.trace_count, generator.program_count) == (
        3,
        1,
    )  # encode, decode, a bucket: 4 rows, 16 tokens, 16 new
    assert generator.warm_up(batch_sizes=(1, 2), prompt_lengths=(9,), max_new_tokens=(5,)) > 0
    assert (generator.trace_count, generator.program_count) == (5, 2)
    generator.generate(["abc", "d"], max_new_tokens=12)
    assert generator.trace_count == 5
    generator.generate(["a"] * 4, max_new_tokens=3)  # the program that went first is made anew
    assert (generator.trace_count, generator.program_count) == (6, 2)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ("", {}, "prompts must be strings that are not empty; got ''"),
        (["a", ""], {}, "prompts must be strings that are not empty; got ''"),
        (b"a", {}, "prompts must be a str or a list of str; got bytes"),
        (np.array(["a"]), {}, "prompts must be a str or a list of str; got ndarray"),
        ([b"a"], {}, "prompts must be strings that are not empty; got b'a'"),
        ("a" * 33, {}, "prompts must have at most the model's max_length=32 tokens; got 33"),
        ("a", {"temperature": -0.1}, "temperature must be finite and at least 0; got -0.1"),
        ("a", {"temperature": float("nan")}, "temperature must be finite and at least 0; got nan"),
        ("a", {"top_p": 0.0}, r"top_p must be in \(0, 1\]; got 0.0"),
        ("a", {"top_p": 1.1}, r"top_p must be in \(0, 1\]; got 1.1"),
        ("a", {"top_k": -1}, "top_k must be at least 0; got -1"),
        ("a", {"top_k": 1.5}, "top_k must be an int of 32 bits; got 1.5"),
        ("a", {"seed": 2**31}, "seed must be an int of 32 bits; got 2147483648"),
        ("a", {"max_new_tokens": 3.0}, "max_new_tokens must be an int of 32 bits; got 3.0"),
        (
            "a",
            {"max_new_tokens": 2**31 - 1},
            "max_new_tokens must be at most 1000000 in all sequences of a prompt; got",
        ),
        ("a", {"num_sequences": 5000, "max_new_tokens": 1}, "num_sequences must be at most 4096; got 5000"),
        ("a", {"frequency_penalty": 1e39}, "frequency_penalty must be finite; got 1e\\+39"),
        ("a", {"max_time": "1"}, "max_time must be above 0 seconds; got '1'"),
        ("a", {"strategy": "greedy", "temperature": 5.0}, "temperature must be 0 for greedy decoding; got 5.0"),
        ("a", {"forced_prefix": 5}, "forced_prefix must be a str, ids, or a list of them; got 5"),
        ("a", {"automaton": "a+"}, r"automaton must be a TokenAutomaton or None; got 'a\+'"),
        (["a", "b"], {"stop": ["no", ["z"]]}, r"stop must be one list or one for each prompt; got \['no', \['z'\]\]"),
        ("a", {"negative_prompt": 5, "max_new_tokens": 3}, "negative_prompt must be a str or a list of str; got int"),
        ("a", {"prefix": "b"}, "prefix must be what prefill of a generator of this model returned; got 'b'"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
        ("a", {"max_time": 0.0}, "max_time must be above 0 seconds; got 0.0"),
        ("a", {"temperture": 0.5}, "settings must be among .*num_sequences; got 'temperture'"),
        ("a", {"strategy": "hope"}, "strategy must be one of sample, greedy.*; got 'hope'"),
        ("a", {"num_sequences": 0}, "num_sequences must be an int of at least 1; got 0"),
        (
            "a",
            {"negative_prompt": ["b", "c"], "max_new_tokens": 5},
            "negative_prompt must be one or one for each of 1 prompts; got 2",
        ),
        (
            "a" * 30,
            {"negative_prompt": "b", "max_new_tokens": 9},
            "max_length=32 tokens less 9 for what else must fit; got 30",
        ),
    ],
)
def test_bad_requests_are_refused(prompts, settings, message):
    generator = shared_generator("gpt2")
    with pytest.raises(ValueError, match=message):
        generator.generate(prompts, **settings)
    if isinstance(prompts, str) and "num_sequences" not in settings:
        with pytest.raises(ValueError, match=message):
            generator.stream(prompts, **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.complete("a", top_log_probs=18), r"top_log_probs must lie in \[0, 17\]; got 18"),
        (
            lambda g: g.complete("a", best_of=1, num_sequences=2),
            "best_of must be an int of at least num_sequences=2; got 1",
        ),
        (lambda g: g.stream(["a"]), "prompt must be a str; got list"),
        (lambda g: g.stream("a", num_sequences=2), "strategy must choose one token after the other to stream"),
        (lambda g: g.prefill(""), "prefix must be strings that are not empty; got ''"),
        (lambda g: g.score(["a", ""]), "texts must be strings that are not empty; got ''"),
        (lambda g: g.score(["a"], contexts=["b", "c"]), "contexts must be as many as texts, 1; got 2"),
        (
            lambda g: g.score("a" * 20, contexts="b" * 20),
            "texts and contexts must have at most the model's max_length=32",
        ),
        (
            lambda g: g.complete("a", strategy="value_beam", best_of=2, max_new_tokens=2),
            "strategy must tell the log-probabilities of its tokens for best_of; got 'value_beam'",
        ),
        (
            lambda g: g.complete("a", best_of=3, num_sequences="2"),
            "num_sequences must be an int of at least 1; got '2'",
        ),
        (
            lambda g: g.generate("a", prefix=shared_generator("llama").prefill("b")),
            "prefix must be what prefill of a generator of this model returned; got Prefix",
        ),
        (lambda g: g.score("a", contexts=5), "contexts must be a str or a list of str; got int"),
        (
            lambda g: g.warm_up(prompt_lengths=(33,)),
            "prompt_lengths must have at most the model's max_length=32 tokens; got 33",
        ),
        (lambda g: g.next_token("a", top=0), r"top must be an int in \[1, 17\]; got 0"),
        (lambda g: g.embed(""), "texts must be strings that are not empty; got ''"),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(shared_generator("gpt2"))


def test_prompts_that_are_too_long_lose_their_beginning_when_asked():
    generator = shared_generator("gpt2")
    text = "abcdefghij" * 4
    found = generator.generate([text, "abc"], truncate_prompts=True, max_new_tokens=5, temperature=0)
    assert found == [generator.generate(t, max_new_tokens=5, temperature=0) for t in (text[-32:], "abc")]


def test_long_prompts_behind_a_prefix_lose_their_own_beginning():
    generator = shared_generator("gpt2")
    prefix, settings = generator.prefill("abcdefgh"), {"max_new_tokens": 5, "temperature": 0.0}
    found = generator.generate("ijklmno " * 5, prefix=prefix, truncate_prompts=True, **settings)
    assert found == generator.generate("abcdefgh" + ("ijklmno " * 5)[-24:], **settings)


def test_a_prompt_may_be_a_tuple_of_texts_but_must_have_a_token():
    words = tfllm.text.WordTokenizer.train("the cat sat on the mat " * 3, vocab_size=17)
    for name in ("gru", "gpt2"):
        generator = tfllm.TextGenerator(make_model(name), words)
        both = generator.generate(("the cat", "on"), max_new_tokens=3)
        assert both == generator.generate(["the cat", "on"], max_new_tokens=3)
        (nothing,) = generator.complete(" ", max_new_tokens=3)
        assert (nothing.text, nothing.finish_reason) == ("", "length")
        np.testing.assert_array_equal(generator.embed(" "), np.zeros_like(generator.embed("cat")))
        assert generator.next_token([]) == []
        for call in (generator.next_token, generator.prefill):
            with pytest.raises(ValueError, match="must have a token each; got ' ', which has none"):
                call(" ")


def test_several_sequences_of_a_strategy_are_wanted_with_best_of():
    generator = shared_generator("gpt2")
    assert len(generator.complete("a", strategy=Sample(num_sequences=3), best_of=4, max_new_tokens=2)) == 3


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="tokenizer must have at most the model's vocab_size=17; got 27"):
        tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghijklmnopqrstuvwxyz"))


def test_ids_that_the_tokenizer_lacks_are_never_chosen():
    generator = tfllm.TextGenerator(make_model("gru"), tfllm.CharTokenizer("abcdefghij"))
    (found,) = generator.complete("abc", max_new_tokens=60, temperature=5.0)
    assert max(found.ids) < 11
    assert len(set(found.ids)) > 5
