"""Tree search against a plain Python one node by node, on trees whose best branch is known, and beside greedy and a beam."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from reference_mcts import Search, nodes_of

from tfllm.generation import MonteCarloTreeSearch, Vocabulary, make_settings
from tfllm.generation.sampling import gumbel
from tfllm.generation.settings import signature

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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["gru", "llama"])
def test_it_equals_a_plain_python_search_node_by_node(name, case):
    check_against_reference(name, case, "graph")
