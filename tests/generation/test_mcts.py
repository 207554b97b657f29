"""Tree search against a plain Python one node by node, on trees whose best branch is known, and beside greedy and a beam."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from reference_mcts import Search, nodes_of

import tfllm
from tfllm.generation import MonteCarloTreeSearch, Sample, ValueBeam, Vocabulary, draw_tree, make_settings, search_tree
from tfllm.generation.history import NAN, NO_TOKEN
from tfllm.generation.mcts import halving_schedule, slot_axes
from tfllm.generation.settings import signature
from tfllm.generation.tree import _readable
from tfllm.noise import gumbel

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
NEW, END = 4, 3


def odd_share(tokens, count, log_prob):
    """A value that a person can check: the share of odd ids in a text, and a little of its log-probability."""
    stands = tf.cast(tf.range(tf.shape(tokens)[1]) < count[:, None], tf.float32)
    return tf.reduce_sum(tf.cast(tokens % 2, tf.float32) * stands, -1) / tf.reduce_sum(stands, -1) + 0.1 * log_prob


def odd_share_of_one(tokens, log_prob):
    return np.float32(np.mean([token % 2 for token in tokens])) + np.float32(0.1) * log_prob


CASES = {
    "log_prob": ({}, {}),
    "function": ({"value": odd_share, "c_puct": 0.7, "max_children": 5}, {"banned_ids": [7, 1], "temperature": 1.5}),
    "shallow, rollouts": ({"max_depth": 2, "rollout_tokens": 2, "max_children": 3, "num_simulations": 12}, {}),
    "gumbel": ({"root_selection": "gumbel", "value": odd_share, "max_children": 6, "num_simulations": 16}, {}),
    "gumbel, few": ({"root_selection": "gumbel", "num_simulations": 3, "value_scale": 0.5}, {}),
}


@functools.cache
def cached_model(name):
    model = make_model(name)
    return model, tf.function(model.step)  # traced for a prompt and for one token


def search(model, prompts, strategy, *, end_id=END, how="graph", new=NEW, seed=5, top=0, **settings):
    """Runs a strategy: eagerly, in a graph of unknown sizes as a generator does, or under XLA."""
    rows = tf.ragged.constant(prompts, tf.int32)
    ids = {"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}
    laid_out = make_settings(len(prompts), model.vocab_size, max_new_tokens=new, seed=seed, **settings)
    plain, tensors = strategy.split()

    def run(ids, settings, tensors, capacity=new):
        whole = dataclasses.replace(plain, **tensors)
        return whole.search(model, ids, settings, Vocabulary(end_id), capacity, top=top)

    inputs = [ids, tf.nest.map_structure(tf.constant, laid_out), tensors]
    if how == "xla":
        run = tf.function(run, autograph=False, jit_compile=True)
    if how == "graph":
        sizes = tf.nest.map_structure(lambda x: tf.TensorSpec([None] * x.shape.rank, x.dtype), ids)
        specs = [sizes, signature(model.vocab_size), tf.nest.map_structure(tf.TensorSpec.from_tensor, tensors)]
        run = tf.function(run, [*specs, tf.TensorSpec([], tf.int32)], autograph=False)
        inputs.append(new)
    return tf.nest.map_structure(lambda x: x.numpy(), run(*inputs))


def reference(model, step, prompt, row, strategy, settings):
    padded = np.pad(prompt, [0, 5 - len(prompt)])[None].astype(np.int32)
    state = model.initial_state(1, 5 + NEW)
    logits, state = step(tf.constant(padded), state, tf.constant([len(prompt)]))

    def read(ids, state):
        return step(tf.constant(ids), state, tf.constant([1]))

    def noise(chosen):
        return strategy.gumbel_scale * gumbel(tf.constant([5 + row]), tf.constant([chosen]), children, 11)[0].numpy()

    children = min(strategy.max_children, model.vocab_size)
    plain = Search(
        read,
        (lambda tokens, log_prob: log_prob) if strategy.value == "log_prob" else odd_share_of_one,
        END,
        len(prompt) + NEW,
        strategy.num_simulations,
        children,
        strategy.max_depth,
        strategy.rollout_tokens,
        strategy.c_puct,
        noise if strategy.root_selection == "gumbel" else None,
        strategy.value_scale,
        tuple(settings.get("banned_ids", ())),
        settings.get("temperature", 1.0),
    )
    return plain.continue_text(prompt, logits[0, len(prompt) - 1].numpy(), state)


def check_against_reference(name, case, how):
    fields, settings = CASES[case]
    strategy = MonteCarloTreeSearch(**{"num_simulations": 12, "return_tree": True} | fields)
    model, step = cached_model(name)
    found = search(model, PROMPTS, strategy, how=how, **settings)
    tree = found["tree"]
    for row, prompt in enumerate(PROMPTS):
        expected, trees = reference(model, step, prompt, row, strategy, settings)
        assert found["ids"][row, : found["count"][row]].tolist() == expected
        root, slot = trees[0]
        assert tree["choice"][row] == slot
        nodes = nodes_of(root)
        for number in range(strategy.num_simulations + 1):
            if number not in nodes:
                assert tree["visits"][row, number] == 0
                continue
            parent, at, visits, value_sum, value = nodes[number]
            found_node = [int(tree[key][row, number]) for key in ("parent", "slot", "visits")]
            assert found_node == [parent, at, visits]
            np.testing.assert_allclose(tree["value_sum"][row, number], value_sum, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(tree["value"][row, number], value, rtol=1e-4, atol=1e-4)
            if parent >= 0:
                assert tree["children"][row, parent, at] == number
        np.testing.assert_array_equal(tree["tokens"][row, 0], root.ids)
        np.testing.assert_allclose(tree["priors"][row, 0], root.priors, atol=1e-5)
        np.testing.assert_allclose(tree["log_probs"][row, 0], root.log_probs, atol=1e-4)
    return found


@pytest.mark.parametrize(("name", "case"), [("gru", "function"), ("gru", "gumbel"), ("llama", "shallow, rollouts")])
def test_it_equals_a_plain_python_search_node_by_node(name, case):
    check_against_reference(name, case, "graph")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["graph", "xla"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["rnn", "lstm-tied", "gpt2", "llama", "qwen3"])
def test_every_case_equals_a_plain_python_search(name, case, how):
    check_against_reference(name, case, how)


def test_graph_and_xla_and_eager_and_rows_alone_agree():
    model, _ = cached_model("gru")
    strategy = MonteCarloTreeSearch(num_simulations=5, max_children=3, root_selection="gumbel", return_tree=True)
    found = {how: search(model, PROMPTS, strategy, how=how, new=2) for how in ("graph", "xla", "eager")}
    for how in ("xla", "eager"):
        for name in ("ids", "count", "finish"):
            np.testing.assert_array_equal(found[how][name], found["graph"][name])
        for name in ("visits", "children", "tokens"):
            np.testing.assert_array_equal(found[how]["tree"][name], found["graph"]["tree"][name])
        for name in ("score", "log_probs", "entropy"):
            np.testing.assert_allclose(found[how][name], found["graph"][name], rtol=1e-4, atol=1e-5)
    for row in (0, 2):
        alone = search(model, PROMPTS[row : row + 1], strategy, how="eager", new=2, seed=5 + row)
        np.testing.assert_array_equal(alone["ids"][0], found["graph"]["ids"][row])
        np.testing.assert_array_equal(alone["tree"]["visits"][0], found["graph"]["tree"]["visits"][row])


def test_sampled_rollouts_of_a_row_are_those_it_has_alone():
    model, _ = cached_model("gru")
    strategy = MonteCarloTreeSearch(num_simulations=3, rollout_tokens=3, rollout="sample", return_tree=True)
    hot = {"how": "eager", "temperature": 3.0, "new": 5}
    together, alone = (search(model, rows, strategy, **hot) for rows in (PROMPTS[:2], PROMPTS[:1]))
    np.testing.assert_array_equal(together["ids"][:1], alone["ids"])
    np.testing.assert_allclose(together["tree"]["value"][:1], alone["tree"]["value"], rtol=1e-4)
    other = search(model, PROMPTS[:1], strategy, **hot, seed=6)
    assert (other["tree"]["value"] != alone["tree"]["value"]).any()


def test_one_simulation_is_greedy():
    model, _ = cached_model("gru")
    one = search(model, PROMPTS, MonteCarloTreeSearch(num_simulations=1), how="eager")
    greedy = search(model, PROMPTS, Sample(), how="eager", temperature=0.0)
    np.testing.assert_array_equal(one["ids"], greedy["ids"])


def test_a_state_that_nodes_cannot_keep_is_read_again_from_the_root():
    model, _ = cached_model("llama")

    class Kept:
        """The same model with a larger leaf in its state, which is not one slot a token."""

        vocab_size, max_length, rewindable = model.vocab_size, model.max_length, True

        def initial_state(self, batch_size, slots):
            state = model.initial_state(batch_size, slots)
            return {"position": state["position"], "state": state, "memory": tf.zeros([batch_size, 2, 2])}

        def step(self, ids, state, lengths=None, *, last=False):
            logits, new = model.step(ids, state["state"], lengths, last=last)
            return logits, {"position": new["position"], "state": new, "memory": state["memory"]}

    assert slot_axes(model, model.initial_state(1, 4))[:2] == [2, 2]
    assert slot_axes(Kept(), Kept().initial_state(1, 4)) is None
    strategy = MonteCarloTreeSearch(num_simulations=5, rollout_tokens=1)
    first, second = (search(one, [*PROMPTS, []], strategy, how="eager", new=2) for one in (model, Kept()))
    assert first["count"].tolist() == [2, 2, 2, 0]
    np.testing.assert_array_equal(first["ids"], second["ids"])
    np.testing.assert_allclose(first["score"], second["score"], rtol=1e-5)


class Table:
    """A model whose next token depends on nothing but the number of tokens read: a row of probabilities for each."""

    max_length, rewindable = None, True

    def __init__(self, shares):
        self.logits, self.vocab_size = tf.math.log(tf.constant(shares, tf.float32)), len(shares[0])

    def initial_state(self, batch_size, slots):
        return {"position": tf.zeros([batch_size], tf.int32)}

    def step(self, ids, state, lengths=None, *, last=False):
        position = state["position"] + lengths
        logits = tf.gather(self.logits, tf.clip_by_value(position - 1, 0, len(self.logits) - 1))
        return logits[:, None], {"position": position}


@pytest.mark.parametrize("root_selection", ["visits", "gumbel"])
def test_the_best_arm_of_a_bandit_wins(root_selection):
    model = Table([[0.4, 0.3, 0.2, 0.1]])
    rewards = tf.constant([[0.1, 0.2, 0.0, 1.0], [0.9, 0.1, 0.5, 0.3]])

    def reward(tokens, count, log_prob):
        arms = tf.gather(rewards, tokens[:, 0])  # the prompt says which bandit it is
        return tf.gather(arms, tokens[:, 1], batch_dims=1)

    strategy = MonteCarloTreeSearch(
        num_simulations=40, value=reward, root_selection=root_selection, value_scale=1.0, return_tree=True
    )
    found = search(model, [[0], [1]], strategy, end_id=-1, new=1, how="eager")
    assert found["ids"][:, 0].tolist() == [3, 0]
    np.testing.assert_allclose(found["score"], [1.0, 0.9])
    tree = found["tree"]
    np.testing.assert_array_equal(tree["visits"][:, 0], [40, 40])
    arms = np.take_along_axis(tree["visits"], tree["children"][:, 0], 1)
    assert arms.sum(1).tolist() == [40, 40] and (arms > 0).all()


def test_many_simulations_find_the_best_of_all_texts():
    worth = 0.5 * np.random.default_rng(0).random([4, 4, 4]).astype(np.float32)
    worth[3, 2, 3] = 1.0  # and no shorter text says so

    def value(tokens, count, log_prob):
        known = tf.gather_nd(worth, tokens[:, 1:4])
        return tf.where(count == 4, known, 0.25)

    strategy = MonteCarloTreeSearch(num_simulations=600, value=value, c_puct=2.0)
    found = search(Table([[0.3, 0.25, 0.25, 0.2]]), [[0]], strategy, end_id=-1, new=3)
    assert found["ids"][0].tolist() == [3, 2, 3]
    assert found["score"][0] == 1.0


def test_it_beats_greedy_and_a_beam_of_as_many_forward_passes_where_values_mislead_at_first():
    # The likeliest token leads to 0.2. Twelve unlikely ones look well for two tokens, more of them than a beam can hold,
    # and turn out worthless. The second likeliest, four times, is worth 1.
    model = Table([[0.5, 0.3] + [0.2 / 12] * 12])

    def value(tokens, count, log_prob):
        ones = tf.reduce_sum(tf.cast(tokens[:, 1:] == 1, tf.int32), 1) == count - 1
        decoy = tokens[:, 1] >= 2
        good = tf.where(ones, tf.where(count == 5, 1.0, 0.4), 0.2)
        return tf.where(decoy, tf.where(count <= 3, 0.6, 0.0), good)

    one, many = (MonteCarloTreeSearch(num_simulations=number, value=value) for number in (1, 32))
    scores = {
        "greedy": search(model, [[0]], one, end_id=-1, how="eager"),
        "beam": search(model, [[0]], ValueBeam(num_beams=33, value=value), end_id=-1, how="eager"),
        "mcts": search(model, [[0]], many, end_id=-1),
    }
    assert {name: round(float(found["score"][0]), 4) for name, found in scores.items()} == {
        "greedy": 0.2,
        "beam": 0.0,
        "mcts": 1.0,
    }


def test_a_value_beam_of_full_width_finds_the_best_mean_log_probability():
    random = np.random.default_rng(3)
    shares = random.dirichlet(np.ones(4), 4)
    found = search(Table(shares), [[0], [0, 0]], ValueBeam(num_beams=64, num_sequences=64), end_id=3, new=3)
    for row in range(2):
        logs, texts = np.log(shares[row:]), {}
        for text in itertools.product(range(4), repeat=3):
            end = text.index(3) + 1 if 3 in text else 3
            terms = [logs[min(at, len(logs) - 1)][token] for at, token in enumerate(text[:end])]
            texts[tuple(x for x in text[:end] if x != 3)] = np.mean(terms)
        best = sorted(texts, key=texts.get, reverse=True)
        rows = slice(row * 64, row * 64 + len(best))
        ids = [tuple(ids[:n]) for ids, n in zip(found["ids"][rows], found["count"][rows], strict=True)]
        np.testing.assert_allclose(found["score"][rows], [texts[text] for text in best], rtol=1e-4)
        assert ids[:5] == best[:5]


@pytest.fixture(scope="module")
def generator():
    return tfllm.TextGenerator(cached_model("gru")[0], tfllm.CharTokenizer("abcdefghijklmno "))


def test_settings_stops_and_weights_of_the_search_trace_nothing_anew(generator):
    settings = {"strategy": "mcts", "num_simulations": 6, "max_new_tokens": 8}
    plain = generator.complete("abc", **settings)[0]
    traces = generator.trace_count
    other = generator.complete("abc", **settings, c_puct=0.3, banned_words=[plain.text[0]], temperature=0.7)[0]
    assert plain.text[0] not in other.text
    stopped = generator.complete(["abc", "cab"], **settings, stop=plain.text[1:3])[0][0]
    assert stopped.finish_reason == "stop_string" and stopped.text == plain.text[: plain.text.index(plain.text[1:3])]
    forced = generator.complete("abc", **settings, forced_prefix="hello")[0]
    assert forced.text.startswith("hello")
    assert generator.trace_count == traces
    assert plain.score == pytest.approx(plain.log_probs.mean(), rel=1e-5)  # no end token here
    assert len(plain.entropy) == len(plain.ids) == 8


def test_a_tree_comes_back_and_is_drawn(generator):
    tree = search_tree(generator, "abc", num_simulations=20)
    number = len(tree.parent)
    assert number == 21 and tree.parent[0] == -1 and tree.visits[0] == 20
    assert (tree.parent[1:] < np.arange(1, number)).all()
    assert tree.depth.tolist() == [0, *(tree.depth[tree.parent[1:]] + 1)]
    below = np.bincount(tree.parent[1:], tree.visits[1:], number)
    np.testing.assert_array_equal(tree.visits, below + (np.arange(number) > 0))  # a node's own visit made it
    assert tree.parent[tree.choice] == 0 and tree.visits[tree.choice] == tree.visits[tree.parent == 0].max()
    below = np.bincount(tree.parent[1:], tree.prior[1:], number)
    assert (below <= 1 + 1e-5).all()
    tokenizer = tfllm.CharTokenizer("ab$\n你defghijklmn ")
    picture = tree.draw(tokenizer, max_nodes=9)
    labels = [text.get_text() for text in picture.axes[0].texts]
    assert len(labels) == 10 and "9 of 21 nodes" in labels[0] and labels[1].startswith("root  n 20")
    assert len(picture.axes[0].patches) == 8  # lines
    boxes = [text.get_window_extent().padded(4) for text in picture.axes[0].texts[1:]]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert _readable("a你\n'") == "'a\\u4f60\\n''"
    with pytest.raises(ValueError, match="max_nodes must be an int of at least 2; got 1"):
        draw_tree(tree, tokenizer, max_nodes=1)


def test_halving_gives_every_round_its_share():
    assert halving_schedule(1, 3) == [0, 1, 2]
    assert halving_schedule(8, 5) == [0] * 5
    assert halving_schedule(4, 8) == [0, 0, 0, 0, 1, 1, 2, 2]
    assert halving_schedule(2, 6) == [0, 0, 1, 1, 2, 2]
    assert halving_schedule(3, 12) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]


def test_what_is_no_number_ends_the_row():
    nan, good = Table([[float("nan"), 0.5]]), Table([[0.5, 0.5]])
    for strategy in (MonteCarloTreeSearch(num_simulations=2), ValueBeam(num_beams=2)):
        assert search(nan, [[0]], strategy, end_id=-1, how="eager")["finish"].tolist() == [NAN]
        wrong = dataclasses.replace(strategy, value=lambda tokens, count, log_prob: log_prob * float("nan"))
        assert search(good, [[0]], wrong, end_id=-1, how="eager")["finish"].tolist() == [NAN]
        stuck = search(good, [[0]], strategy, end_id=-1, how="eager", banned_ids=[0, 1])
        assert (stuck["finish"].tolist(), stuck["count"].tolist()) == ([NO_TOKEN], [0])


def test_bad_settings_are_refused(generator):
    for name, value, words in (
        ("num_simulations", 0, "num_simulations must be an int of at least 1; got 0"),
        ("max_depth", True, "max_depth must be an int of at least 1"),
        ("rollout_tokens", -1, "rollout_tokens must be an int of at least 0; got -1"),
        ("c_puct", -1.0, "c_puct must be finite and at least 0; got -1.0"),
        ("rollout", "best", "rollout must be one of"),
        ("root_selection", "best", "root_selection must be one of"),
        ("value", "bleu", "value must be 'log_prob' or a function"),
        ("negative_prompt", "a", "negative_prompt must be None in tree search"),
    ):
        with pytest.raises(ValueError, match=words):
            generator.generate("abc", strategy="mcts", **{name: value})
    with pytest.raises(ValueError, match="num_sequences must be at most num_beams=4; got 5"):
        generator.generate("abc", strategy="value_beam", num_sequences=5)
    with pytest.raises(ValueError, match=r"value must return float \[R\], one a text; got float32 \(1, 1\)"):
        strategy = MonteCarloTreeSearch(num_simulations=1, value=lambda tokens, count, log_prob: log_prob[:, None])
        search(Table([[0.5, 0.5]]), [[0]], strategy, how="eager")
