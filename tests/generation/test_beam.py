"""Beam search against all texts there are, against `transformers`, and against a plain search written out in Python."""

import functools
import itertools
import json
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, make_model
from make_beam_fixture import (
    DIM,
    END,
    FILE,
    HEADS,
    LAYERS,
    MAX_LENGTH,
    NEW,
    PENALTIES,
    PROMPTS,
    SEARCHES,
    SEEDS,
    make_weights,
)
from make_beam_fixture import VOCAB as FIXTURE_VOCAB

import tfllm
from tfllm.generation import Sample, Vocabulary, beam, make_settings
from tfllm.generation.beam import BeamSearch
from tfllm.generation.phrases import phrase_table
from tfllm.generation.settings import signature

V, T = 4, 4  # of the model whose texts can be counted


class TreeModel:
    """A model that gives every text of up to T + 1 tokens logits of its own, drawn once."""

    vocab_size, max_length, rewindable = V, None, False

    def __init__(self, seed, scale=1.5):
        self.table = np.random.default_rng(seed).normal(size=[2 * V ** (T + 2), V]).astype(np.float32) * scale

    def initial_state(self, batch_size, slots, context=None):
        return {"position": tf.zeros([batch_size], tf.int32), "code": tf.ones([batch_size], tf.int32)}

    def step(self, ids, state, lengths=None, *, last=False):
        code = tf.where(lengths > 0, state["code"] * V + ids[:, 0], state["code"])
        return tf.gather(self.table, code)[:, None], {"position": state["position"] + lengths, "code": code}

    def log_probs(self, text):
        """Returns float64 [V] after a tuple of tokens."""
        logits = self.table[functools.reduce(lambda code, token: code * V + token, text, 1)].astype(np.float64)
        return logits - np.log(np.exp(logits).sum())


def texts_of(found, num=1):
    """Returns for each prompt [(tuple of ids, score)], and checks that they stand in order."""
    ids, count, score = (found[name].numpy() for name in ("ids", "count", "score"))
    rows = [(tuple(row[:size].tolist()), float(x)) for row, size, x in zip(ids, count, score, strict=True)]
    groups = [rows[at : at + num] for at in range(0, len(rows), num)]
    assert all(row == sorted(row, key=lambda pair: -pair[1]) for row in groups)
    return groups


def search(model, rows, strategy, end_id=-1, top=None, deadline=None, **settings):
    """Searches without a graph; returns what the strategy found."""
    ragged = tf.ragged.constant(rows, tf.int32)
    prompts = {"ids": ragged.to_tensor(), "lengths": tf.cast(ragged.row_lengths(), tf.int32)}
    settings = make_settings(len(rows), model.vocab_size, **settings)
    strategy.check(model)
    settings = {name: tf.constant(x) for name, x in settings.items()}
    new = int(max(settings["max_new_tokens"]))
    return strategy.search(model, prompts, settings, Vocabulary(end_id), new, top=top, deadline=deadline)


def all_texts(model, prompt, end_id, length_penalty):
    """Returns [(text, score)] of all texts of up to T tokens, the best first."""
    found = []
    for size in range(T + 1):
        for text in itertools.product([token for token in range(V) if token != end_id], repeat=size):
            whole = text if size == T else (*text, end_id)
            total = sum(model.log_probs((*prompt, *whole[:at]))[whole[at]] for at in range(len(whole)))
            found.append((text, total / len(whole) ** length_penalty))
    return sorted(found, key=lambda pair: -pair[1])


def assert_found(found, expected):
    assert [text for text, _ in found] == [text for text, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=1e-4)


# -------------------------------------------------------------------- all texts


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 2.0, -1.0])
def test_beams_as_many_as_texts_find_the_best_of_all(length_penalty):
    for seed in range(2):
        model = TreeModel(seed)
        strategy = BeamSearch(81, 10, length_penalty, "never")  # 3 ** 4 texts of 4 tokens, and the end token
        found = texts_of(search(model, [[2], [1]], strategy, end_id=0, max_new_tokens=T), 10)
        for prompt, best in zip((2, 1), found, strict=True):
            assert_found(best, all_texts(model, [prompt], 0, length_penalty)[:10])


def has(text, phrases):
    windows = {text[at : at + size] for at in range(len(text)) for size in range(1, len(text) - at + 1)}
    return all(any(way in windows for way in ways) for ways in phrases)


@pytest.mark.parametrize(
    "required",
    [
        ((3,),),
        ((1, 2),),
        ((1, 2), (2, 3)),  # which may overlap
        ((1, 2, 3), (2, 1)),  # which needs all the room
        (((1, 1), (3, 2, 3)), (2,)),  # in one of two ways
        ((1, 1), (1, 1), (1,)),
    ],
)
def test_the_best_of_all_texts_that_contain_phrases(required):
    phrases = [ways if isinstance(ways[0], tuple) else (ways,) for ways in required]
    for seed in range(2):
        model = TreeModel(seed)
        expected = [pair for pair in all_texts(model, [2], 0, 1.0) if has(pair[0], phrases)][:5]
        strategy = BeamSearch(81, len(expected), 1.0, "never", required=required)
        assert_found(texts_of(search(model, [[2]], strategy, 0, max_new_tokens=T), len(expected))[0], expected)


def test_tokens_still_needed_against_trying_all_texts():
    phrases = (((0, 1), (1, 2, 0)), ((2, 2),), ((1, 0),))
    table = phrase_table(phrases)

    def needed(text):
        return next(
            size
            for size in range(6)
            if any(has(text + more, phrases) for more in itertools.product(range(3), repeat=size))
        )

    for text in itertools.product(range(4), repeat=4):
        state = 0
        for token in text:
            state = table.next_state[state, token if token < 3 else -1]
        assert table.needed[state] == needed(text)


@pytest.mark.parametrize("num_beams", [1, 5])
def test_few_beams_write_required_phrases_too(num_beams):
    model = make_model("gru")
    required = ((9, 4), (4, 4), (11,))
    strategy = BeamSearch(num_beams, num_beams, required=required)
    for new in (4, 9):
        found = search(model, [[1, 2], [3]], strategy, max_new_tokens=new, no_repeat_ngram_size=3)
        for row in texts_of(found, num_beams):
            texts = [text for text, score in row if score > -np.inf]
            assert len(texts) == (num_beams if new == 9 else min(num_beams, 2))  # 9 4 4 11 and 11 9 4 4
            assert all(has(text, [(way,) for way in required]) for text in texts)


def test_phrases_without_room_leave_the_text_empty():
    found = search(TreeModel(0), [[1], [2]], BeamSearch(3, 2, required=((1, 2),)), max_new_tokens=[1, 2])
    assert texts_of(found, 2)[0] == [((), -np.inf)] * 2
    assert texts_of(found, 2)[1][0][0] == (1, 2)
    assert found["finish"].numpy().tolist()[:2] == [beam.NO_TOKEN] * 2


def test_words_are_required_in_every_way_they_are_written(eagerly):
    tokenizer = tfllm.BPETokenizer.train("the cat and the dog and the cat", vocab_size=270)
    strategy = BeamSearch.requiring(tokenizer, ["cat", "dog"], num_beams=3)
    ways = tokenizer.encode(["cat", " cat", "dog", " dog"]).to_list()
    assert strategy.required == tuple(tuple(tuple(ids) for ids in ways[at : at + 2]) for at in (0, 2))
    model = tfllm.RecurrentLM(tokenizer.vocab_size, cell="gru", dim=8)
    generator = tfllm.TextGenerator(model, tokenizer)
    assert all(word in generator.generate("the", strategy=strategy, max_new_tokens=9) for word in ("cat", "dog"))
    with pytest.raises(ValueError, match="words must be such as the tokenizer can write; got 'xyz'"):
        BeamSearch.requiring(tfllm.CharTokenizer("abc "), ["ab", "xyz"])
    with pytest.raises(ValueError, match="words must be strings that are not empty; got 'cat'"):
        BeamSearch.requiring(tokenizer, "cat")


# ------------------------------------------------------------ other programs


def test_texts_and_scores_are_those_of_transformers():
    """Four models x five kinds of search x five length penalties x four prompts, which go through as one batch."""
    model = tfllm.TransformerLM(FIXTURE_VOCAB, MAX_LENGTH, DIM, LAYERS, HEADS, use_bias=True)
    names = ["wte.weight", "wpe.weight"]
    for layer in range(LAYERS):
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "ln_1", "ln_2"):
            names += [f"h.{layer}.{part}.{kind}" for kind in ("weight", "bias")]
    names += ["ln_f.weight", "ln_f.bias"]
    weights = [model.embedding.embeddings, model.place.weights[0]]
    for block in model.blocks:
        layers = [block.attention.query_key_value, block.attention.output_projection]
        layers += [block.feed_forward.up, block.feed_forward.down, block.attention_norm, block.feed_forward_norm]
        weights += [weight for layer in layers for weight in layer.weights]
    weights += model.final_norm.weights
    assert len(weights) == len(names) == len(model.weights)

    rows = tf.ragged.constant(PROMPTS)
    prompts = {"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}
    settings = make_settings(len(PROMPTS), FIXTURE_VOCAB, max_new_tokens=NEW)

    def compiled(num_beams, early_stopping):
        def run(penalty):
            strategy = BeamSearch(num_beams, num_beams, penalty, early_stopping)
            return strategy.search(model, prompts, settings, Vocabulary(END), NEW)

        return tf.function(run, [tf.TensorSpec([], tf.float32)], autograph=False)

    programs = [compiled(*search) for search in SEARCHES]
    known = iter(json.loads(FILE.read_text())["found"])
    texts = 0
    for seed in SEEDS:
        values = make_weights(seed)
        for name, weight in zip(names, weights, strict=True):
            weight.assign(values[name])
        for (num_beams, _), program in zip(SEARCHES, programs, strict=True):
            for penalty in PENALTIES:
                for found in texts_of(program(penalty), num_beams):
                    ids, scores = next(known)
                    assert_found(found, list(zip(map(tuple, ids), scores, strict=True)))
                    texts += len(found)
    assert next(known, None) is None
    assert texts == 1520


def in_groups(model, prompt, end_id, num_beams, num_groups, diversity, length_penalty, new):
    """Diverse beam search as Vijayakumar et al. write it, on lists: the finished texts of all groups, the best first."""
    size = num_beams // num_groups
    groups = [{"beams": [((), 0.0)], "pool": [], "over": False} for _ in range(num_groups)]
    for step in range(1, new + 1):
        used = np.zeros(V)
        for group in groups:
            if group["over"]:
                continue
            grown, before = [], used.copy()
            for text, total in group["beams"]:
                for token, log_prob in enumerate(model.log_probs((*prompt, *text))):
                    grown.append((total + log_prob - diversity * before[token], text, token, total + log_prob))
            grown.sort(key=lambda item: -item[0])
            for _, text, token, total in grown[:size]:
                used[token] += 1
                if token == end_id or step == new:
                    done = text if token == end_id else (*text, token)
                    group["pool"].append((done, total / step**length_penalty))
            group["pool"] = sorted(group["pool"], key=lambda pair: -pair[1])[:size]
            going = [item for item in grown if item[2] != end_id][:size]
            group["beams"] = [((*text, token), total) for _, text, token, total in going]
            if len(group["pool"]) == size:
                best = max(total for _, total in group["beams"]) / step**length_penalty
                group["over"] = size == 1 or best <= group["pool"][-1][1]
    return sorted(itertools.chain(*(group["pool"] for group in groups)), key=lambda pair: -pair[1])


@pytest.mark.parametrize("diversity", [0.0, 0.3, 2.0])
@pytest.mark.parametrize(("num_beams", "num_groups"), [(4, 2), (3, 3), (6, 3), (2, 1)])
def test_groups_against_lists(num_beams, num_groups, diversity):
    diversity = diversity if num_groups > 1 else 0.0
    for seed in range(4):
        model = TreeModel(seed)
        strategy = BeamSearch(num_beams, num_beams, 0.8, num_groups=num_groups, diversity_penalty=diversity)
        found = texts_of(search(model, [[3], [1]], strategy, 0, max_new_tokens=T), num_beams)
        for prompt, best in zip((3, 1), found, strict=True):
            assert_found(best, in_groups(model, [prompt], 0, num_beams, num_groups, diversity, 0.8, T))


def test_much_diversity_begins_every_group_differently():
    strategy = BeamSearch(4, 4, num_groups=4, diversity_penalty=100.0)
    found = texts_of(search(TreeModel(5), [[1]], strategy, max_new_tokens=3), 4)[0]
    assert len({text[0] for text, _ in found}) == 4


def test_one_beam_is_greedy(model):
    rows = [[3, 1, 4], [1, 5], [9]]
    settings = {"max_new_tokens": 5, "repetition_penalty": [1.0, 1.7, 1.0]}
    settings |= {"stop_ids": [[], [], [0, 1, 16]], "min_new_tokens": [0, 0, 2]}
    greedy = search(model, rows, Sample(), top=0, temperature=0.0, **settings)
    found = search(model, rows, BeamSearch(1), top=0, **settings)
    for name in ("ids", "count", "finish", "kept"):
        np.testing.assert_array_equal(found[name], greedy[name])
    for name in ("log_probs", "entropy"):
        np.testing.assert_allclose(found[name], greedy[name], atol=1e-5)


def test_one_beam_writes_the_text_of_greedy(generator):
    request = {"max_new_tokens": 9, "stop": ["nn", "c"]}
    greedy = generator.complete(["abc", "h", "kl mn"], strategy="greedy", **request)
    assert list(map(told, generator.complete(["abc", "h", "kl mn"], strategy=BeamSearch(1), **request))) == list(
        map(told, greedy)
    )


# -------------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def tokenizer():
    return tfllm.CharTokenizer("abcdefghijklmno ")


@pytest.fixture(scope="module")
def generator(tokenizer):
    return tfllm.TextGenerator(make_model("gru"), tokenizer)


@pytest.fixture
def eagerly():
    """Runs a test without graphs: making one takes longer than what it would save."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


KINDS = {
    "plain": {"num_beams": 3, "num_sequences": 3},
    "groups": {
        "num_beams": 4,
        "num_sequences": 3,
        "num_groups": 2,
        "diversity_penalty": 0.7,
        "required": ((4, 7), (9,)),
    },
}
REQUEST = {"max_new_tokens": [7, 4, 9], "stop": [["c"], [], ["nn", "ab"]], "banned_words": [[], ["m"], ["mm"]]}


def told(completions):
    return [(x.text, x.ids.tolist(), x.finish_reason) for x in completions]


@pytest.mark.parametrize("kind", ["plain", pytest.param("groups", marks=pytest.mark.slow)])
def test_a_batch_equals_its_rows_alone_in_a_graph_under_xla_and_eagerly(generator, tokenizer, kind):
    prompts = ["abc", "h", "kl mn"]
    request = KINDS[kind] | REQUEST
    together = generator.complete(prompts, strategy="beam_search", **request)
    for at, prompt in enumerate(prompts):
        own = {name: x[at] if name in REQUEST else x for name, x in request.items()}
        alone = generator.complete(prompt, strategy="beam_search", **own)
        assert told(alone) == told(together[at])
        np.testing.assert_allclose([x.score for x in alone], [x.score for x in together[at]], atol=1e-5)
    assert len({x.text for row in together for x in row}) > 4
    compiled = tfllm.TextGenerator(generator.model, tokenizer, jit_compile=True)
    assert list(map(told, compiled.complete(prompts, strategy="beam_search", **request))) == list(map(told, together))
    tf.config.run_functions_eagerly(True)
    try:
        eager = generator.complete(prompts, strategy="beam_search", **request)
    finally:
        tf.config.run_functions_eagerly(False)
    assert list(map(told, eager)) == list(map(told, together))


def test_nothing_traces_anew(tokenizer):
    generator = tfllm.TextGenerator(make_model("gru"), tokenizer)
    for length in range(1, 8):
        generator.generate(
            ["a" * length] * (length % 3 + 1),
            strategy="beam_search",
            max_new_tokens=2 * length,
            length_penalty=length / 3 - 1,
            stop_ids=list(range(length % 3)),
            banned_words=["b"] * (length % 2),
        )
    assert generator.trace_count == 3  # encode, search, decode


def test_log_probabilities_are_the_models_and_scores_their_mean(generator, eagerly):
    found = generator.complete("abc", strategy="beam_search", num_sequences=4, max_new_tokens=6, top_log_probs=3)
    assert len({x.text for x in found}) == 4
    for x in found:
        np.testing.assert_allclose(x.score, x.log_probs.mean(), atol=1e-5)
        whole = tf.concat([generator.tokenizer.encode("abc"), x.ids], 0)[None]
        known = tf.nn.log_softmax(generator.model(whole))[0, 2:-1]
        np.testing.assert_allclose(x.log_probs, tf.gather(known, x.ids, batch_dims=1), atol=1e-5)
        assert (x.top_log_probs[:, 0] >= x.log_probs - 1e-6).all()
        assert all(np.isclose(p, q).any() for p, q in zip(x.log_probs, x.top_log_probs, strict=True) if p > q[-1])


def test_penalties_change_the_score_but_not_the_log_probabilities(generator, eagerly):
    request = {"strategy": "beam_search", "max_new_tokens": 5, "length_penalty": 0.0}
    (free,) = generator.complete("abc", **request)
    (banned,) = generator.complete("abc", banned_ids=free.ids[:1].tolist(), **request)
    assert free.ids[0] not in banned.ids
    np.testing.assert_allclose(free.score, free.log_probs.sum(), atol=1e-5)
    assert banned.score > banned.log_probs.sum() + 1e-3  # what is left is shared out anew


def test_an_automaton_holds_for_every_beam():
    table = np.full([4, V], -1, np.int32)
    table[0, [1, 3]], table[1, 2], table[2, [1, 2]] = (1, 2), 3, (3, 2)  # 1 2, 3 1 or 3 2 ... 2 1; nothing follows
    model, automaton = TreeModel(0), types.SimpleNamespace(next_state=table)
    found = search(model, [[2]], BeamSearch(4, 4, 0.0), max_new_tokens=4, automaton=automaton)
    (row,) = texts_of(found, 4)
    assert [reason == beam.NO_TOKEN for reason in found["finish"]] == [len(text) < 4 for text, _ in row]
    after = {text: model.log_probs((2, *text)) for text in ((), (3,), (3, 2), (3, 2, 2))}
    first, *others = (np.exp(x) for x in after.values())
    begin = first[3] / (first[1] + first[3])
    go_on = [x[2] / (x[1] + x[2]) for x in others]
    shares = {(1, 2): 1 - begin, (3, 1): begin * (1 - go_on[0])}
    shares[3, 2, 1] = begin * go_on[0] * (1 - go_on[1])
    shares[3, 2, 2, 1] = begin * go_on[0] * go_on[1] * (1 - go_on[2])
    shares[3, 2, 2, 2] = begin * go_on[0] * go_on[1] * go_on[2]
    best = sorted(shares.items(), key=lambda pair: -pair[1])[:4]
    assert_found(row, [(text, np.log(share)) for text, share in best])


def test_fewer_texts_than_asked_for_leave_the_rest_empty():
    table = np.array([[-1, 1, -1, 1], [-1] * 4], np.int32)  # 1 or 3
    automaton = types.SimpleNamespace(next_state=table)
    (row,) = texts_of(search(TreeModel(0), [[2]], BeamSearch(4, 4), max_new_tokens=3, automaton=automaton), 4)
    assert {text for text, _ in row[:2]} == {(1,), (3,)}
    assert row[2:] == [((), -np.inf)] * 2


def test_behind_a_prefix_and_with_guidance(generator, eagerly):
    request = {"strategy": "beam_search", "num_sequences": 2, "max_new_tokens": 6}
    whole = generator.complete(["abcd", "abcef"], **request)
    behind = generator.complete(["d", "ef"], prefix=generator.prefill("abc"), **request)
    assert list(map(told, behind)) == list(map(told, whole))
    idle = generator.complete(["abcd", "abcef"], negative_prompt=["h", "ij"], **request)
    assert list(map(told, idle)) == list(map(told, whole))
    guided = {"negative_prompt": "hij", "guidance_scale": 2.5, "max_new_tokens": 6}
    greedy = generator.generate(["abcd", "e"], strategy="greedy", **guided)
    assert generator.generate(["abcd", "e"], strategy="beam_search", num_beams=1, **guided) == greedy
    assert greedy != generator.generate(["abcd", "e"], strategy="greedy", max_new_tokens=6)


def test_the_clock_ends_beams_as_they_are():
    found = search(TreeModel(0), [[1], [2]], BeamSearch(3, 2), deadline=tf.constant(0.0, tf.float64))
    assert found["finish"].numpy().tolist() == [beam.TIME] * 4
    assert found["count"].numpy().tolist() == [1] * 4
    for prompt, row in zip((1, 2), texts_of(found, 2), strict=True):
        best = np.sort(TreeModel(0).log_probs([prompt]))[::-1][:2]
        np.testing.assert_allclose([score for _, score in row], best, atol=1e-5)


def test_logits_that_are_no_numbers_are_reported():
    model = TreeModel(0)
    model.table[4 * 4 + 2 * 4 : 4 * 4 + 2 * 4 + 4] = np.nan  # after a prompt of 2 and any token
    found = search(model, [[1], [2], [3]], BeamSearch(3, 2, num_groups=1), max_new_tokens=3)
    reasons = found["finish"].numpy().tolist()
    assert reasons[2] == beam.NAN
    assert found["count"].numpy()[2] == 1
    alone = search(model, [[1], [3]], BeamSearch(3, 2), max_new_tokens=3)
    assert texts_of(found, 2)[::2] == texts_of(alone, 2)


def test_an_empty_row_stays_empty():
    found = search(TreeModel(0), [[1], []], BeamSearch(2, 2), max_new_tokens=2)
    assert found["count"].numpy().tolist() == [2, 2, 0, 0]
    assert found["finish"].numpy().tolist() == [4] * 4


def test_the_state_is_reordered_once_a_step(monkeypatch):
    model, taken = make_model("llama"), []

    def counted(take):
        def counting(nest, rows):
            taken.extend(leaf for leaf in tf.nest.flatten(nest) if leaf.shape.rank == 4)
            return take(nest, rows)

        return counting

    for name in ("take_state", "reorder_state"):
        monkeypatch.setattr(beam, name, counted(getattr(beam, name)))

    def run(ids, lengths, settings):
        return BeamSearch(3).search(model, {"ids": ids, "lengths": lengths}, settings, Vocabulary(), 4)

    specs = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32), signature(VOCAB)]
    tf.function(run, specs, autograph=False).get_concrete_function()
    caches = 2 * model.num_layers
    assert len(taken) == 2 * caches  # once behind the prompt and once in the loop


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_beams": 0}, "num_beams must be an int of at least 1; got 0"),
        ({"num_beams": 2.0}, r"num_beams must be an int of at least 1; got 2\.0"),
        ({"num_sequences": 5}, "num_sequences must be at most num_beams=4; got 5"),
        ({"num_groups": 3}, "num_groups must divide num_beams=4; got 3"),
        ({"early_stopping": "always"}, "early_stopping must be True, False or \"never\"; got 'always'"),
        ({"length_penalty": float("nan")}, r"length_penalty must be a number in \[-5, 5\]; got nan"),
        ({"length_penalty": "1"}, r"length_penalty must be a number in \[-5, 5\]; got '1'"),
        ({"num_groups": 2, "diversity_penalty": -1}, r"diversity_penalty must be a number in \[0, inf\]; got -1"),
        ({"diversity_penalty": 0.5}, "diversity_penalty must be 0 for one group; got 0.5"),
        ({"required": "cat"}, "required must be phrases, each a tuple of ids; got 'cat'"),
        ({"required": (3, 4)}, r"required must be phrases, each a tuple of ids; got \(3, 4\)"),
        ({"required": [[3], []]}, r"required must be phrases, each a tuple of ids; got \(\(3,\), \(\)\)"),
        ({"required": [[17]]}, r"required must hold ids in \[0, 17\); got 17"),
        ({"required": [[1]] * 9}, "required must have at most 8 phrases; got 9"),
    ],
)
def test_bad_fields_are_refused(generator, fields, message):
    with pytest.raises(ValueError, match=message):
        generator.generate("a", strategy="beam_search", **fields)


def test_the_end_token_cannot_be_required():
    with pytest.raises(ValueError, match="required must not have the end token; got id 3"):
        search(TreeModel(0), [[1]], BeamSearch(2, required=((1, 3),)), end_id=3, max_new_tokens=2)
