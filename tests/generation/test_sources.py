"""Decoding with a source: every strategy on a Seq2Seq, and the strings around it."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.generation import (
    STRATEGIES,
    BeamSearch,
    MonteCarloTreeSearch,
    Sample,
    Speculative,
    ValueBeam,
    Vocabulary,
    draw_attention,
    generate_ids,
    make_settings,
    read_attention,
)

SPECIAL = ("<unk>", "<s>", "</s>")
TOKENIZER = tfllm.CharTokenizer("abcdefgh ", special_tokens=SPECIAL)
OTHER = tfllm.CharTokenizer("uvwxyz")
BEGIN, END, V = 1, 2, TOKENIZER.vocab_size
MODELS = {
    "transformer": lambda: tfllm.TransformerSeq2Seq(V, 12, 8, 1, 2),
    "lstm-copy": lambda: tfllm.RecurrentSeq2Seq(V, "lstm", 8, copy=True),
    "two vocabularies": lambda: tfllm.TransformerSeq2Seq(
        V, 32, 8, 1, 2, source_vocab_size=OTHER.vocab_size, max_source_length=10, positions="rotary"
    ),
}
SOURCES = [[3, 4, 5, 6], [7], [8, 3, 3]]
_cache = {}


def model_named(name):
    if name not in _cache:
        keras.utils.set_random_seed(0)
        model, random = MODELS[name](), np.random.default_rng(0)
        for weight in model.trainable_weights:
            weight.assign(random.normal(float(weight.path.endswith("gamma")), 0.8, weight.shape))
        _cache[name] = model
    return _cache[name]


def as_prompts(sources, begin=BEGIN):
    rows = tf.ragged.constant(sources, tf.int32)
    return {
        "ids": tf.fill([len(sources), 1], begin),
        "lengths": tf.ones([len(sources)], tf.int32),
        "source": rows.to_tensor(),
        "source_lengths": tf.cast(rows.row_lengths(), tf.int32),
    }


def search(model, sources, strategy, new=5, end_id=END, top=None, **settings):
    """Searches without a graph; returns [(tuple of ids, score)]."""
    strategy.check(model)
    settings = make_settings(len(sources), model.vocab_size, max_new_tokens=new, **settings)
    settings = {name: tf.constant(x) for name, x in settings.items()}
    found = strategy.search(model, as_prompts(sources), settings, Vocabulary(end_id), new, top=top)
    ids, count, score = (found[name].numpy() for name in ("ids", "count", "score"))
    return [(tuple(row[:size].tolist()), float(x)) for row, size, x in zip(ids, count, score, strict=True)]


def log_probs_after(model, source, ids):
    """Returns float [T + 1, V], log P of the token after BEGIN and after each of `ids`, by one call of the model."""
    inputs = {"source": tf.constant([source]), "source_lengths": tf.constant([len(source)])}
    return tf.nn.log_softmax(model(inputs | {"ids": tf.constant([[BEGIN, *ids]])}))[0].numpy()


# -------------------------------------------------------------------- strategies

WAYS = {
    "greedy": (Sample(), {"temperature": 0.0}),
    "sample": (Sample(num_sequences=2), {"seed": [3, 4, 5]}),
    "beam_search": (BeamSearch(3, 2), {}),
    "contrastive_search": (STRATEGIES["contrastive_search"](num_candidates=3), {}),
    "speculative": (Speculative(draft_tokens=3), {"temperature": 0.0}),
    "mcts": (MonteCarloTreeSearch(num_simulations=4, max_children=3), {}),
    "value_beam": (ValueBeam(3, 3), {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["transformer", "lstm-copy"])
def test_a_batch_of_ragged_sources_decodes_as_its_rows_alone(name, way):
    model, (strategy, settings) = model_named(name), WAYS[way]
    new, num = 2 if way == "mcts" else 5, strategy.num_sequences
    together = search(model, SOURCES, strategy, new, **settings)
    for row, source in enumerate(SOURCES):
        own = {key: value[row] if isinstance(value, list) else value for key, value in settings.items()}
        alone = search(model, [source], strategy, new, **own)
        assert [text for text, _ in alone] == [text for text, _ in together[row * num : (row + 1) * num]]
        np.testing.assert_allclose(
            [s for _, s in alone], [s for _, s in together[row * num : (row + 1) * num]], atol=1e-4
        )
    assert len({text for text, _ in together}) > 1  # the source matters


@pytest.mark.parametrize("name", ["transformer", "lstm-copy"])
def test_greedy_and_speculative_equal_the_likeliest_token_of_whole_calls(name):
    model = model_named(name)
    for source in SOURCES[:2]:
        expected = []
        while len(expected) < 6:
            expected.append(int(log_probs_after(model, source, expected)[-1].argmax()))
            if expected[-1] == END:
                break
        expected = tuple(token for token in expected if token != END)
        for strategy in (Sample(), Speculative(draft_tokens=2)):
            assert search(model, [source], strategy, 6, temperature=0.0)[0][0] == expected


@pytest.mark.parametrize("name", ["transformer", "lstm-copy"])
def test_beams_as_many_as_texts_find_the_best_of_all(name):
    model, new, allowed = model_named(name), 3, [END, 3, 4, 5]
    banned = [token for token in range(V) if token not in allowed]
    strategy = BeamSearch(27, 5, length_penalty=0.0, early_stopping="never")
    found = search(model, SOURCES[:2], strategy, new, banned_ids=banned)
    for row, source in enumerate(SOURCES[:2]):
        texts, after, every = [], {}, list(itertools.product(allowed[1:], repeat=new))
        ids = tf.constant([[BEGIN, *whole[:-1]] for whole in every])
        context = {"source": tf.constant([source] * len(every)), "source_lengths": tf.fill([len(every)], len(source))}
        rows = iter(tf.nn.log_softmax(model(context | {"ids": ids})).numpy())
        for whole in every:
            log_probs = next(rows)[:, allowed]
            log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))  # where only some tokens may come
            after |= {whole[:at]: log_probs[at] for at in range(new)}
        for size in range(new + 1):
            for text in itertools.product(allowed[1:], repeat=size):
                ended = text if size == new else (*text, END)
                total = sum(after[ended[:at]][allowed.index(token)] for at, token in enumerate(ended))
                texts.append((text, total))
        best = sorted(texts, key=lambda pair: -pair[1])[:5]
        assert [text for text, _ in found[row * 5 : row * 5 + 5]] == [text for text, _ in best]
        np.testing.assert_allclose(
            [score for _, score in found[row * 5 : row * 5 + 5]], [s for _, s in best], atol=1e-4
        )


def test_a_text_beyond_the_model_keeps_its_source():
    """12 positions: when they are full, a new state reads the last 6 tokens, and the same source."""
    model = model_named("transformer")
    (text, _), *_ = search(model, SOURCES[:1], Sample(), 16, end_id=-1, temperature=0.0)
    window = [BEGIN, *text[:12]][-6:]
    inputs = {"source": tf.constant(SOURCES[:1]), "source_lengths": tf.constant([4]), "ids": tf.constant([window])}
    assert int(tf.argmax(model(inputs)[0, -1])) == text[12]
    (other, _), *_ = search(model, [SOURCES[2]], Sample(), 16, end_id=-1, temperature=0.0)
    assert other[12:] != text[12:]


def test_guidance_leads_away_from_another_source():
    model = model_named("transformer")
    prompts = as_prompts(SOURCES[:1])
    prompts |= {f"guide_{name}": x for name, x in as_prompts(SOURCES[1:2]).items()}
    settings = make_settings(1, V, max_new_tokens=1, temperature=0.0, guidance_scale=3.0)
    found = generate_ids(model, prompts, settings, Vocabulary(), 1)
    first, second = (log_probs_after(model, source, [])[0] for source in SOURCES[:2])
    assert found["ids"][0, 0] == np.argmax(second + 3 * (first - second))


def test_a_draft_model_with_a_source_of_its_own_is_refused():
    model = model_named("transformer")
    with pytest.raises(ValueError, match=r"draft must be a model without an encoder; got TransformerSeq2Seq"):
        Speculative(draft=model).check(model)


# -------------------------------------------------------------------- strings


@pytest.fixture(scope="module")
def generator():
    return tfllm.TextGenerator(model_named("two vocabularies"), TOKENIZER, source_tokenizer=OTHER)


PROMPTS = ["uvw", "z", "xyzzy"]


def test_strings_in_and_strings_out(generator):
    texts = generator.generate(PROMPTS, max_new_tokens=7, temperature=0)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        source = OTHER.encode(prompt).numpy().tolist()
        ((ids, _),) = search(generator.model, [source], Sample(), 7, temperature=0.0)
        assert TOKENIZER.decode(list(ids)) == text == generator.generate(prompt, max_new_tokens=7, temperature=0)
    assert generator.trace_count == 3  # encode, the loop, decode
    assert "".join(generator.stream(PROMPTS[0], max_new_tokens=7, temperature=0)) == texts[0]
    assert generator.generate([], max_new_tokens=7) == []


def test_a_forced_prefix_begins_the_text(generator):
    settings = {"max_new_tokens": 6, "temperature": 0, "forced_prefix": "ab", "banned_ids": [END]}
    text, source = generator.generate(PROMPTS[0], **settings), OTHER.encode(PROMPTS[0]).numpy().tolist()
    assert text.startswith("ab")
    ids = TOKENIZER.encode("ab").numpy().tolist()
    for _ in range(4):
        log_probs = log_probs_after(generator.model, source, ids)[-1]
        log_probs[END] = -np.inf
        ids.append(int(log_probs.argmax()))
    assert text == TOKENIZER.decode(ids)


def test_scores_and_next_tokens_are_those_of_the_model(generator):
    texts = ["abc", "h", "ba ab"]
    for text, prompt, score in zip(texts, PROMPTS, generator.score(texts, contexts=PROMPTS), strict=True):
        ids, source = (one.encode(x).numpy().tolist() for one, x in ((TOKENIZER, text), (OTHER, prompt)))
        expected = log_probs_after(generator.model, source, ids[:-1])[np.arange(len(ids)), ids]
        np.testing.assert_allclose(score.log_probs, expected, atol=1e-4)
        np.testing.assert_array_equal(score.ids, ids)
        np.testing.assert_allclose(score.total, expected.sum(), atol=1e-4)
    shares = generator.next_token_distribution(PROMPTS)
    for prompt, share in zip(PROMPTS, shares, strict=True):
        expected = log_probs_after(generator.model, OTHER.encode(prompt).numpy().tolist(), [])[0]
        np.testing.assert_allclose(np.log(share), expected, atol=1e-4)
    (token, share), *_ = generator.next_token("uvw", top=2)
    assert share == shares[0].max() and len(token) >= 1
    features = generator.model.encoder.features(OTHER.encode(["uvw"]).to_tensor())
    np.testing.assert_allclose(generator.embed("uvw"), tf.reduce_mean(features[0], 0), atol=1e-5)


def test_long_sources_are_refused_or_lose_their_end(generator):
    long = "uvwxyzuvwxyz"
    with pytest.raises(ValueError, match=r"prompts must have at most the model's max_source_length=10 tokens; got 12"):
        generator.generate(long)
    settings = {"max_new_tokens": 7, "temperature": 0}
    assert generator.generate(long, truncate_prompts=True, **settings) == generator.generate(long[:10], **settings)


def test_what_begins_and_ends_texts_is_taken_from_the_tokenizer_or_given():
    model = model_named("transformer")
    found = tfllm.TextGenerator(model, TOKENIZER)
    assert (found.begin_id, found.vocabulary.end_id, found.source_tokenizer) == (BEGIN, END, TOKENIZER)
    only_end = tfllm.CharTokenizer("ab", special_tokens=("<unk>", "[SEP]"))
    found = tfllm.TextGenerator(model, only_end)
    assert (found.begin_id, found.vocabulary.end_id) == (1, 1)
    plain = tfllm.CharTokenizer("ab")
    found = tfllm.TextGenerator(model, plain, begin_id=5, end_id=6)
    assert (found.begin_id, found.vocabulary.end_id) == (5, 6)
    with pytest.raises(
        ValueError, match=r"begin_id and end_id must be given where the tokenizer has none; got None and"
    ):
        tfllm.TextGenerator(model, plain)
    with pytest.raises(ValueError, match=rf"begin_id must be an id in \[0, {V}\); got {V}"):
        tfllm.TextGenerator(model, TOKENIZER, begin_id=V)
    with pytest.raises(ValueError, match=r"source_tokenizer must be None for a model without an encoder"):
        tfllm.TextGenerator(tfllm.RecurrentLM(V, dim=4), TOKENIZER, source_tokenizer=TOKENIZER)
    with pytest.raises(
        ValueError, match=rf"source_tokenizer must have at most the model's {OTHER.vocab_size} source ids"
    ):
        tfllm.TextGenerator(model_named("two vocabularies"), TOKENIZER)


def test_what_needs_no_source_is_refused(generator):
    with pytest.raises(ValueError, match=r"model must have no encoder for a prefix; got TransformerSeq2Seq"):
        generator.prefill("ab")
    with pytest.raises(
        ValueError, match=r"contexts must be the sources of the texts, for a model with an encoder; got"
    ):
        generator.score("ab")
    with pytest.raises(
        ValueError, match=r"the beginnings of texts must have at most the model's max_length=32 tokens less"
    ):
        generator.generate("uvw", strategy="beam_search", max_new_tokens=32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "lstm-copy"])
def test_xla_gives_the_same_texts_and_pads_sources_to_buckets(name):
    model = model_named(name)
    settings = {"max_new_tokens": 9, "temperature": 0.8, "seed": 5}
    fast = tfllm.TextGenerator(model, TOKENIZER, jit_compile=True)
    for prompts in (["ab", "hello abc", "g"], ["c d e f", "a"] * 2):
        assert fast.generate(prompts, **settings) == tfllm.TextGenerator(model, TOKENIZER).generate(prompts, **settings)
    assert fast.program_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["transformer", "lstm-copy"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_strategy_runs_compiled_as_it_runs_eagerly(name, way, jit_compile):
    model, (strategy, settings) = model_named(name), WAYS[way]
    generator = tfllm.TextGenerator(model, TOKENIZER, jit_compile=jit_compile)
    prompts = [TOKENIZER.decode(source) for source in SOURCES]
    found = generator.complete(prompts, strategy=strategy, max_new_tokens=5, **settings)
    found = [tuple(completion.ids.tolist()) for row in found for completion in row]
    assert found == [text for text, _ in search(model, SOURCES, strategy, **settings)]


# -------------------------------------------------------------------- pictures


def test_attention_of_a_pair_and_its_picture(generator):
    attention = read_attention(generator, "xyz", "ab")
    assert attention.source_tokens == ["'x'", "'y'", "'z'"] and attention.target_tokens == ["'a'", "'b'", "</s>"]
    inputs = {
        "source": OTHER.encode(["xyz"]).to_tensor(),
        "source_lengths": tf.constant([3]),
        "ids": tf.constant([[BEGIN, 3, 4]]),
    }
    np.testing.assert_allclose(attention.weights, generator.model.attention(inputs)[0, 0].numpy().mean(0), atol=1e-6)
    picture = draw_attention(attention)
    assert picture._repr_png_()[:4] == b"\x89PNG"
    (axes,) = picture.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == attention.source_tokens
    np.testing.assert_array_equal(axes.images[0].get_array(), attention.weights)
    assert draw_attention(attention, max_tokens=2).axes[0].images[0].get_array().shape == (2, 2)
    with pytest.raises(ValueError, match=r"layer must be an int in \[-1, 1\); got 1"):
        read_attention(generator, "xyz", "ab", layer=1)
