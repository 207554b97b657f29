"""Speculative decoding writes what plain decoding writes, in fewer passes."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import MODELS, VOCAB, ScriptedModel, make_model, shared_generator

import tfllm
from tfllm.generation import Sample, Speculative, TokenAutomaton, Vocabulary, cut_off, make_settings, pick
from tfllm.generation.speculative import look_up

COUNTS = ("passes", "drafted", "accepted")


def decode(strategy, model, prompts, top=None, end_id=-1, inputs=(), deadline=None, **settings):
    """Runs a search eagerly, where a state that is too small is refused; returns a dict of arrays."""
    rows = tf.ragged.constant(prompts, tf.int32)
    ids = {"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}
    laid_out = make_settings(len(prompts), model.vocab_size, **settings)
    laid_out = {name: tf.constant(x) for name, x in laid_out.items()}
    capacity, vocabulary = int(laid_out["max_new_tokens"].numpy().max()), Vocabulary(end_id)
    found = strategy.search(model, ids | dict(inputs), laid_out, vocabulary, capacity, top=top, deadline=deadline)
    return {name: x.numpy() for name, x in found.items()}


def assert_same_texts(found, expected):
    for name in ("ids", "count", "finish", "kept"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in set(expected) & {"log_probs", "entropy", "score"}:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)


# ---------------------------------------------------------------- passes, counted by hand


def test_a_perfect_draft_saves_all_passes_but_one_in_five():
    model = ScriptedModel(np.arange(1, 30) % 7, 10)
    found = decode(Speculative(ScriptedModel(model.script, 10), 4), model, [[0]], temperature=0, max_new_tokens=11)
    assert found["ids"][0].tolist() == [1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert [int(found[name][0]) for name in COUNTS] == [3, 8, 8]  # the prompt's 1 token, and twice 4 + 1


def test_a_useless_draft_costs_only_itself():
    model, draft = ScriptedModel(np.arange(1, 30) % 7, 10), ScriptedModel([9] * 30, 10)
    found = decode(Speculative(draft, 4), model, [[0]], temperature=0, max_new_tokens=11)
    assert found["ids"][0].tolist() == [1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]
    assert [int(found[name][0]) for name in COUNTS] == [11, 6 * 4 + 3 + 2 + 1, 0]  # no draft goes beyond the end


def test_prompt_lookup_drafts_a_loop_in_full():
    model = ScriptedModel([1, 2, 3] * 9, 10)
    found = decode(Speculative(draft_tokens=4), model, [[0]], temperature=0, max_new_tokens=16)
    assert found["ids"][0].tolist() == ([1, 2, 3] * 6)[:16]
    # 1; 2; 3; 1, which was there before: 2 3 1 2 and a 3; 1 2 3 1 and a 2; 3 and a 1.
    assert [int(found[name][0]) for name in COUNTS] == [7, 9, 9]


def test_rows_advance_by_counts_of_their_own_and_ended_rows_stand_still():
    model = ScriptedModel([1, 2, 3, 1, 2, 3, 1, 2, 3, 4, 8, 5, 5, 5, 5, 5, 6, 7, 9, 9], 10)
    prompts = [[0], [0, 1, 2, 3, 1, 2], [], [0] * 12]
    strategy, settings = Speculative(draft_tokens=4), {"temperature": 0, "max_new_tokens": [17, 9, 5, 6]}
    found = decode(strategy, model, prompts, end_id=8, **settings)
    assert [row[:n].tolist() for row, n in zip(found["ids"], found["count"], strict=True)] == [
        [1, 2, 3, 1, 2, 3, 1, 2, 3, 4],
        [3, 1, 2, 3, 4],
        [],
        [5, 5, 5, 5, 5, 6],
    ]
    for row in (0, 1, 3):
        settings["max_new_tokens"] = [17, 9, 5, 6][row]
        alone = decode(strategy, model, prompts[row : row + 1], end_id=8, **settings)
        assert [alone[name][0] for name in COUNTS] == [found[name][row] for name in COUNTS]


def latest_continuation(tokens, size, longest, shortest):
    for n in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 2, n - 2, -1):
            if len(tokens) > n and tokens[end - n + 1 : end + 1] == tokens[-n:]:
                text = list(tokens)
                for _ in range(size):
                    text.append(text[end + 1 + len(text) - len(tokens)])
                return text[len(tokens) :]
    return None


@pytest.mark.parametrize(("longest", "shortest"), [(3, 1), (1, 1), (5, 2)])
def test_look_up_finds_what_a_plain_search_finds(longest, shortest):
    random = np.random.default_rng(0)
    tokens = random.integers(0, 3, (200, 24)).astype(np.int32)
    count = random.integers(0, 25, 200).astype(np.int32)
    draft, found = look_up(tf.constant(tokens), tf.constant(count), 7, longest, shortest)
    for row, size, text, any_found in zip(tokens.tolist(), count, draft.numpy().tolist(), found.numpy(), strict=True):
        expected = latest_continuation(row[:size], 7, longest, shortest)
        assert any_found == (expected is not None)
        assert expected is None or text == expected


# ---------------------------------------------------------------- equal to plain decoding


def random_requests(seed, count, tokenizer):
    """Returns prompts and settings of which each row has its own."""
    random = np.random.default_rng(seed)
    letters = list("abcdefghijklmno ")

    def text(least, most):
        return "".join(random.choice(letters, random.integers(least, most)))

    def some(make, share=0.3):
        return [make() if random.random() < share else [] for _ in range(count)]

    def numbers(choices):
        return [random.choice(choices).item() for _ in range(count)]

    automata = [TokenAutomaton.from_regex(p, tokenizer) for p in ("([a-h]+ )+", "(ab|ba|o)+", "(n[a-k]*o)+")]
    prompts = [text(1, 20) for _ in range(count)]
    return prompts, {
        "max_new_tokens": [int(n) for n in random.integers(1, 41, count)],
        "min_new_tokens": numbers([0, 5]),
        "temperature": numbers([0.0, 0.0, 0.5, 1.0]),
        "top_k": numbers([0, 5]),
        "top_p": numbers([1.0, 0.9]),
        "repetition_penalty": numbers([1.0, 1.3]),
        "frequency_penalty": numbers([0.0, 0.5]),
        "presence_penalty": numbers([0.0, -0.4]),
        "no_repeat_ngram_size": numbers([0, 0, 3]),
        "seed": [int(n) for n in random.integers(0, 10**6, count)],
        "logit_bias": [{int(random.integers(VOCAB)): 1.5} for _ in range(count)],
        "banned_ids": some(lambda: [int(random.integers(VOCAB))]),
        "banned_words": some(lambda: [text(2, 4)]),
        "stop_ids": some(lambda: [int(random.integers(VOCAB))]),
        "stop": some(lambda: [text(1, 4), text(2, 3)]),
        "forced_prefix": [[int(random.integers(VOCAB)), None] if random.random() < 0.2 else [] for _ in range(count)],
        "automaton": [random.choice(automata) if random.random() < 0.3 else None for _ in range(count)],
    }


def rows_that_differ(generator, draft, prompts, settings, **options):
    plain = generator.complete(prompts, top_log_probs=1, **settings)
    speculative = generator.complete(
        prompts, strategy="speculative", draft=draft, top_log_probs=1, **options, **settings
    )
    different = 0
    for (expected,), (found,) in zip(plain, speculative, strict=True):
        same = found.text == expected.text and found.finish_reason == expected.finish_reason
        different += not (same and found.ids.tolist() == expected.ids.tolist())
        if same:
            np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=2e-3)
            np.testing.assert_allclose(found.entropy, expected.entropy, atol=2e-3)
    return different


@pytest.mark.parametrize(("target", "draft"), [("llama", "lstm"), ("gru", "gpt2"), ("gpt2", "prompt_lookup")])
def test_every_setting_gives_the_text_of_plain_decoding(target, draft, tokenizer):
    generator = shared_generator(target)
    draft = make_model(draft, seed=1) if draft in MODELS else draft
    prompts, settings = random_requests(0, 32, tokenizer)
    assert not rows_that_differ(generator, draft, prompts, settings)
    traces = generator.trace_count
    prompts, settings = random_requests(1, 13, tokenizer)
    assert not rows_that_differ(generator, draft, prompts, settings)
    request = {"strategy": "speculative", "draft": draft, "top_log_probs": 1}
    together = generator.complete(prompts, **request, **settings)
    beyond = [row for row in range(13) if len(prompts[row]) + settings["max_new_tokens"][row] > 32]
    for row in beyond[:2]:  # others have a program of their own
        alone = {name: values[row : row + 1] for name, values in settings.items()}
        (found,) = generator.complete(prompts[row : row + 1], **request, **alone)
        assert found[0].ids.tolist() == together[row][0].ids.tolist()
    assert generator.trace_count == traces


@pytest.mark.slow
@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("draft", [*MODELS, "prompt_lookup"])
def test_every_pair_of_families_on_a_thousand_prompts(target, draft, tokenizer):
    generator = shared_generator(target)
    # The same weights and others make good and bad drafts.
    draft = make_model(draft, seed=int(draft != target)) if draft in MODELS else draft
    different = 0
    for seed in range(8):
        prompts, settings = random_requests(seed, 125, tokenizer)
        if seed % 2:
            settings = {"temperature": 0.0, "max_new_tokens": settings["max_new_tokens"]}
        different += rows_that_differ(generator, draft, prompts, settings)
    # A step of several tokens rounds otherwise than one of a single token, so two tokens that tie may change places.
    assert different <= 1


PROMPTS = [[3, 1, 4, 1, 5, 3, 1], [2], [6, 2, 6, 2, 6]]
DRAWN = {"temperature": [0.0, 0.7, 1.0], "max_new_tokens": 7, "seed": [5, 6, 7]}


@pytest.mark.parametrize("name", ["gru", "llama"])
def test_guidance_prefixes_and_several_sequences(name):
    model, draft = make_model(name), make_model("gru" if name == "llama" else "gpt2", seed=2)
    prefix = tf.constant([[7, 8, 9, 7]])
    _, state = model.step(prefix, model.initial_state(1, 4), last=True)
    guide = {"guide_ids": tf.constant([[4], [0], [9]]), "guide_lengths": tf.constant([1, 1, 1])}
    for inputs in (guide, {"prefix": prefix, "state": state}):
        settings = DRAWN | {"guidance_scale": 1.7}
        expected = decode(Sample(2), model, PROMPTS, top=1, inputs=inputs, **settings)
        found = decode(Speculative(draft, 3, num_sequences=2), model, PROMPTS, top=1, inputs=inputs, **settings)
        assert_same_texts(found, expected)
        assert found["drafted"].min() > 0


@pytest.mark.parametrize(("positions", "limit"), [("rotary", 5), ("learned", 2)])
def test_a_draft_model_may_hold_fewer_tokens_than_the_prompt(positions, limit):
    model, draft = make_model("gru"), tfllm.TransformerLM(VOCAB, limit, 8, 1, 2, positions=positions)
    found = decode(Speculative(draft, 4), model, PROMPTS, **DRAWN)
    assert_same_texts(found, decode(Sample(), model, PROMPTS, **DRAWN))
    assert found["drafted"].min() > 0


def test_a_model_as_its_own_draft_is_accepted_across_its_last_position():
    model = make_model("llama")  # 32 positions
    prompts, settings = [list(range(15)) + list(range(15)), [1] * 27], {"temperature": 0, "max_new_tokens": [3, 12]}
    found = decode(Speculative(model, 5), model, prompts, **settings)
    assert_same_texts(found, decode(Sample(), model, prompts, **settings))
    # 30 tokens and one are read, and the last token is not; of the other row, 27 and 5, and then the last 15 anew.
    assert found["passes"].tolist() == [2, 1 + 1 + 1 + 1]
    np.testing.assert_array_equal(found["accepted"], found["drafted"])


@pytest.mark.parametrize("draft", [pytest.param("prompt_lookup", marks=pytest.mark.slow), "gru"])
def test_xla_equals_the_graph(draft, tokenizer):
    draft = make_model(draft, seed=1) if draft in MODELS else draft
    prompts, settings = random_requests(3, 4, tokenizer)
    settings = {name: settings[name] for name in ("temperature", "seed", "repetition_penalty", "max_new_tokens")}
    expected = shared_generator("llama").generate(prompts, strategy="sample", **settings)
    found = shared_generator("llama", jit_compile=True).generate(
        prompts, strategy="speculative", draft=draft, draft_tokens=3, **settings
    )
    assert found == expected


def test_what_comes_is_streamed_as_it_is_written():
    generator, request = shared_generator("llama"), {"max_new_tokens": 9, "temperature": 0.9, "seed": 3}
    assert "".join(generator.stream("abc", strategy="speculative", **request)) == generator.generate("abc", **request)


def test_time_that_is_up_ends_rows_after_their_first_token():
    model, past = ScriptedModel([1, 2, 3] * 9, 10), tf.constant(0.0, tf.float64)
    found = decode(Speculative(), model, [[0], [0, 1]], end_id=1, temperature=0, max_new_tokens=5, deadline=past)
    assert found["ids"][:, :2].tolist() == [[0, 0], [2, 0]]
    history = tfllm.generation.history
    assert found["finish"].tolist() == [history.END, history.TIME]


# ---------------------------------------------------------------- distribution


def test_drafts_drawn_with_the_model_s_noise_are_kept_as_often_as_theory_says():
    p, q = np.array([0.5, 0.3, 0.15, 0.05], np.float32), np.array([0.25, 0.25, 0.1, 0.4], np.float32)
    settings = {name: tf.constant(x) for name, x in make_settings(40_000, 4).items()}
    index = tf.zeros([40_000], tf.int32)
    first, second = (pick(tf.repeat(tf.math.log(shares)[None], 40_000, 0), settings, index) for shares in (p, q))
    kept = np.mean(first.numpy() == second.numpy())
    # Of the races of exponentials that both win: the sum over i of 1 / sum_j max(p_j / p_i, q_j / q_i).
    expected = (1 / np.maximum(p / p[:, None], q / q[:, None]).sum(1)).sum()
    distance = np.abs(p - q).sum() / 2
    assert abs(kept - expected) < 4 * np.sqrt(0.25 / 40_000)
    assert (1 - distance) / (1 + distance) < expected < 1 - distance  # Leviathan's rule reaches the upper bound


def test_drawn_texts_are_distributed_as_the_model_says_for_drafts_from_perfect_to_awful():
    count, size, vocab = 20_000, 4, 4
    model, draft = (tfllm.RecurrentLM(vocab, "gru", 6) for _ in range(2))
    random = np.random.default_rng(0)
    weights = [random.normal(0, 0.8, weight.shape) for weight in model.weights]
    model.set_weights(weights)
    settings = make_settings(count, vocab, max_new_tokens=size, temperature=0.8, top_p=0.97)
    settings = {name: tf.constant(x) for name, x in settings.items()}

    @tf.function(autograph=False)
    def search(strategy):
        prompts = {"ids": tf.fill([count, 1], 1), "lengths": tf.ones([count], tf.int32)}
        return strategy.search(model, prompts, settings, Vocabulary(), size)

    texts = np.array(list(itertools.product(range(vocab), repeat=size)), np.int32)  # all there are
    rows = tf.concat([tf.ones([len(texts), 1], tf.int32), texts[:, :-1]], 1)
    logits = tf.reshape(model(rows), [-1, vocab])
    same = make_settings(len(logits), vocab, temperature=0.8, top_p=0.97)
    shares = tf.reshape(tf.nn.softmax(cut_off(logits, same)), [len(texts), size, vocab])
    expected = np.prod(tf.gather(shares, texts, batch_dims=2).numpy().astype(np.float64), 1) * count
    assert expected.sum() == pytest.approx(count, rel=1e-5)

    kept = []
    for noise in (0.0, 0.5, None, "prompt_lookup"):
        strategy = Speculative(draft, 2) if noise != "prompt_lookup" else Speculative(draft_tokens=2)
        if noise != "prompt_lookup":
            changed = [random.normal(w * (noise is not None), noise or 1.0 * (noise is None)) for w in weights]
            draft.set_weights(changed)
        found = search(strategy)
        written = np.ravel_multi_index(found["ids"].numpy().T, [vocab] * size)
        seen = np.bincount(written, minlength=len(texts))
        assert not seen[expected == 0].any()
        rare = expected < 5  # these count as one
        seen, wanted = (np.append(x[~rare], x[rare].sum()) for x in (seen, expected))
        chi, free = ((seen - wanted) ** 2 / wanted).sum(), len(wanted) - 1
        assert free > 30
        assert chi < free + 4 * np.sqrt(2 * free)
        if noise != "prompt_lookup":
            kept.append(found["accepted"].numpy().sum() / found["drafted"].numpy().sum())
    assert kept[0] == 1 > kept[1] > kept[2] > 0


# ---------------------------------------------------------------- heads


def test_heads_draft_what_they_learned_and_change_nothing():
    text = "the cat sat on the mat. the dog sat on the cat. " * 30
    tokenizer = tfllm.CharTokenizer.train(text)
    tf.keras.utils.set_random_seed(0)
    model = tfllm.TransformerLM(tokenizer.vocab_size, 64, 32, 1, 2)
    batches = tfllm.data.lm_dataset(text, tokenizer, 24, 16, seed=0).repeat()
    model.compile(tf.keras.optimizers.Adam(0.01))
    model.fit(batches, steps_per_epoch=60, verbose=0)
    before = [weight.numpy().copy() for weight in model.weights]
    heads = tfllm.models.WithDraftHeads(model, 3)
    heads.compile(tf.keras.optimizers.Adam(0.01), loss_fn=tfllm.models.multi_token_loss)
    losses = heads.fit(batches, steps_per_epoch=30, epochs=2, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    prompts = [tokenizer.encode(piece).numpy().tolist() for piece in ("the cat", "mat. ", "s")]
    settings = {"temperature": [0.0, 0.5, 0.9], "max_new_tokens": 24}
    found = decode(Speculative("heads", 8), heads, prompts, top=1, **settings)
    assert_same_texts(found, decode(Sample(), model, prompts, top=1, **settings))
    assert found["accepted"].sum() >= 5  # of about a hundred; how many exactly, rounding in training decides
    np.testing.assert_array_equal(found["passes"] + found["accepted"], found["count"])


# ---------------------------------------------------------------- bad input


class Broken(ScriptedModel):
    def step(self, ids, state, lengths=None, *, last=False):
        logits, after = super().step(ids, state, lengths, last=last)
        at = state["position"][:, None] + tf.range(tf.shape(ids)[1])
        at = after["position"][:, None] - 1 if last else at
        return tf.where(at[..., None] == 6, np.nan, logits), after


def test_nan_is_told_where_plain_decoding_tells_it():
    tokenizer = tfllm.CharTokenizer("abcdefgh")
    script = [1, 2, 3] * 9
    model = Broken(script, tokenizer.vocab_size)
    found = decode(Speculative(ScriptedModel(script, model.vocab_size), 4), model, [[1]], temperature=0)
    assert (found["count"][0], found["finish"][0]) == (6, tfllm.generation.history.NAN)
    generator = tfllm.TextGenerator(model, tokenizer)
    with pytest.raises(ValueError, match="got NaN for prompt 0 at token 6"):
        generator.generate("a", strategy="speculative")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"draft": "nothing"}, "draft must be one of prompt_lookup, heads, or a model; got 'nothing'"),
        ({"draft": None}, "draft must be one of"),
        ({"draft": ScriptedModel([1], 5)}, "draft must have the model's vocab_size=17; got 5"),
        ({"draft": "heads"}, "model must have draft_logits for draft='heads'; got TransformerLM"),
        ({"draft_tokens": 0}, "draft_tokens must be an int of at least 1; got 0"),
        ({"max_ngram": 2, "min_ngram": 3}, "min_ngram must be at most max_ngram=2; got 3"),
        ({"min_ngram": True}, "min_ngram must be an int"),
    ],
)
def test_what_cannot_be_is_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        shared_generator("llama").generate("abc", strategy="speculative", **settings)
