"""Monte Carlo tree search over tokens; `value.py` has the beam that is guided by the same values.

Before every token a tree is grown from the text so far. A simulation goes down from its root by PUCT, adds the text that it
ends at as a leaf, asks for its value, and adds that value to every node it came through. The trees of a batch grow side by
side: one call of the model a simulation, whatever the number of prompts. When a token is chosen the next tree starts anew; what
was known below the chosen child is not carried over.

A tree is flat arrays, its nodes numbered as they are made: node 0 is the root, node n + 1 is the leaf of simulation n, and a
simulation that ends where nothing can be added (an ended text, or `max_depth`) leaves its node empty. Children are
numbered by slot, the likeliest token first.

What a node keeps of the model's state is what its own token wrote: vectors (a recurrent model's) whole, of a cache of keys and
values the one slot. A leaf then costs one token: the slots of the nodes above it are written into one cache a row, behind the
prompt's. B times N slots are what it takes, a cache of N more tokens. What an encoder gave, which no step changes, stays at the
root. So does a state of another kind, and then the tokens from there to the leaf are read again, in one call as well.
Source: Silver et al. 2017, "Mastering the game of Go without human knowledge" (PUCT); Chaffin et al. 2022, arXiv:2109.13582
(on text); Danihelka et al. 2022, "Policy improvement by planning with Gumbel" (Gumbel root).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.history import NAN, NO_TOKEN, extend, new_tokens, out_of_time, start_history
from tfllm.generation.loop import add_to_record, part_state, read_prompts, start_record
from tfllm.generation.processors import process
from tfllm.generation.sampling import cut_off
from tfllm.generation.strategy import Strategy, check_size
from tfllm.generation.value import VALUE, check_value, value_of
from tfllm.noise import gumbel

_ROOT, _ROLLOUT = 11, 1000  # streams of draws, see `noise.gumbel`


@dataclasses.dataclass(frozen=True)
class MonteCarloTreeSearch(Strategy):
    """Tries continuations in a tree and takes the next token that proved best.

    The prior of a token is what sampling would draw it with, after penalties, bans, temperature and cut-offs, among the
    `max_children` likeliest. A child is visited where

        q + c_puct prior sqrt(visits of the parent) / (1 + visits of the child)

    is highest. q is the mean value of the simulations through it (its parent's, as long as there was none), stretched to [0, 1]
    between the lowest and the highest value in the tree, so that values may be of any size (Schrittwieser et al. 2020,
    arXiv:1911.08265, equation 5).

    Attributes:
        num_simulations: int >= 1, leaves tried before each token, a forward pass each; one more reads the token itself.
        max_children: int >= 1, likeliest tokens that a node may try.
        max_depth: int >= 1, tokens below the root where a tree ends.
        rollout_tokens: int >= 0, tokens by which a leaf's text goes on before it is valued, a forward pass each.
        rollout: "greedy" or "sample", how they are chosen.
        value: what a text is worth: "log_prob", the mean log-probability of its new tokens by the model itself, in nats; or
            a function (tokens int32 [R, W], count int32 [R], log_prob float32 [R]) -> float [R] that TensorFlow can trace,
            of any scale, higher is better. `tokens` are prompt and text, of which the first `count` stand; `log_prob` is
            that mean. A Keras model is one in a lambda. Texts that ended are valued as they stand. A value that is not a
            number ends a row as logits that are not numbers do.
        root_selection: "visits" takes the most visited child (of those, the best); "gumbel" draws the children that are
            tried without replacement from the prior, halves them step by step, and takes the best of those left.
        return_tree: bool, whether `search` also returns `"tree"`, the first tree of every prompt; see `search_tree`.
        c_puct: float >= 0, weight of the prior.
        gumbel_scale: float >= 0, of the noise at a Gumbel root; 0 takes the likeliest children.
        value_scale: float >= 0, weight of the values at a Gumbel root.

    The score of a text is its value.
    """

    num_simulations: int = 32
    max_children: int = 16
    max_depth: int = 16
    rollout_tokens: int = 0
    rollout: str = "greedy"
    value: str | Callable = VALUE
    root_selection: str = "visits"
    return_tree: bool = False
    c_puct: float | tf.Tensor = 1.25
    gumbel_scale: float | tf.Tensor = 1.0
    value_scale: float | tf.Tensor = 0.1
    tensors: ClassVar[dict] = {"c_puct": tf.float32, "gumbel_scale": tf.float32, "value_scale": tf.float32}

    def check(self, model):
        for name in ("num_simulations", "max_children", "max_depth"):
            check_size(name, getattr(self, name))
        check_size("rollout_tokens", self.rollout_tokens, 0)
        for name in self.tensors:
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise ValueError(f"{name} must be finite and at least 0; got {number!r}")
        for name, known in (("rollout", ("greedy", "sample")), ("root_selection", ("visits", "gumbel"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        check_value(self.value)

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        def goes_on(loop):
            on = tf.reduce_any(loop["history"]["finish"] == 0)
            return on if deadline is None else on & (tf.timestamp() < deadline)

        def body(loop):
            return (self._advance(model, loop, settings, vocabulary, capacity),)

        loop = _begin(model, prompts, settings, capacity, top)
        if self.return_tree:
            loop["tree"] = _public(self._plant(loop, settings, vocabulary, None), loop["chosen"])
        (loop,) = tf.while_loop(goes_on, body, (loop,), parallel_iterations=1)
        history = loop["history"]
        history = history if deadline is None else out_of_time(history)
        found = {"ids": new_tokens(history, capacity), "count": history["new"], "finish": history["finish"]}
        found |= {"kept": history["kept"], "score": value_of(self.value, history, loop["log_prob"], loop["chosen"])}
        found |= {"tree": loop["tree"]} if self.return_tree else {}
        return found | loop.get("record", {})

    def _advance(self, model, loop, settings, vocabulary, capacity):
        """Grows a tree for every row that goes on, and reads the token that it speaks for."""
        history, logits = loop["history"], loop["logits"]
        axes = slot_axes(model, loop["state"])
        tree = self._plant(loop, settings, vocabulary, axes)
        history = history | {"finish": tree["history"]["finish"][:, 0]}  # nothing may follow, or NaN
        noise = self.gumbel_scale * gumbel(settings["seed"], history["new"], tree["priors"].shape[2], _ROOT)

        def simulate(simulation, tree):
            fixed = isinstance(capacity, int)  # as under XLA, which takes no size that depends on values
            rest = (noise, axes, settings, vocabulary, fixed)
            return simulation + 1, self._simulate(model, loop, tree, simulation, *rest)

        def more(simulation, tree):
            return (simulation < self.num_simulations) & tf.reduce_any(history["finish"] == 0)

        tree = tf.while_loop(more, simulate, (tf.constant(0), tree), parallel_iterations=1)[1]
        history = history | {"finish": tf.where((history["finish"] == 0) & tree["wrong"], NAN, history["finish"])}
        slot = self._choose(tree, noise)
        token, log_prob = (_pick(tree[name][:, 0], slot) for name in ("tokens", "log_probs"))
        goes = history["finish"] == 0
        after = extend(history, token, goes, settings, vocabulary)
        next_logits, state = model.step(token[:, None], loop["state"], tf.cast(after["finish"] == 0, tf.int32))
        following = loop | {
            "history": after,
            "state": state,
            "logits": tf.where((after["finish"] == 0)[:, None], next_logits[:, 0], logits),
            "log_prob": loop["log_prob"] + tf.where(goes, log_prob, 0.0),
            "chosen": loop["chosen"] + tf.cast(goes, tf.int32),
        }
        if "tree" in loop:
            first = tf.reduce_all(loop["chosen"] == 0)
            new = _public(tree, slot)
            following["tree"] = {name: tf.where(first, new[name], old) for name, old in loop["tree"].items()}
        if "record" in loop:
            grew = after["new"] > history["new"]
            following["record"] = add_to_record(loop["record"], logits, token, history["new"], grew)
        return following

    def _plant(self, loop, settings, vocabulary, axes):
        """Returns the tree of a root alone; a dict of tensors, see `_simulate`."""
        history = {name: x for name, x in loop["history"].items() if name != "tokens"}
        batch, zeros = tf.shape(history["count"])[0], tf.zeros_like(history["count"])
        edges = self._edges(loop["logits"], loop["history"], settings, vocabulary)
        node = {"slot": zeros, "depth": zeros, "value": tf.zeros_like(loop["log_prob"]), "log_prob": loop["log_prob"]}
        node |= {"history": history} | edges
        node["history"]["finish"] = tf.where(history["finish"] == 0, node.pop("finish"), history["finish"])
        work = {}
        if axes is not None:
            leaves = tf.nest.flatten(part_state(loop["state"])[0])
            node["state"] = [_slot(x, zeros, axis) for x, axis in zip(leaves, axes, strict=True)]
            work = {"work": [x for x, axis in zip(leaves, axes, strict=True) if axis is not None]}
        nodes = self.num_simulations + 1

        def first(values):
            return tf.pad(values[:, None], [[0, 0], [0, nodes - 1]] + [[0, 0]] * (values.shape.rank - 1))

        tree = tf.nest.map_structure(first, node)
        tree |= {
            "parent": tf.fill([batch, nodes], -1),
            "children": tf.fill([batch, nodes, edges["tokens"].shape[1]], -1),
            "visits": tf.zeros([batch, nodes], tf.int32),
            "value_sum": tf.zeros([batch, nodes]),
            "low": tf.fill([batch], math.inf),
            "high": tf.fill([batch], -math.inf),
            "wrong": tf.zeros([batch], tf.bool),
        }
        return tree | work

    def _edges(self, logits, history, settings, vocabulary):
        """Returns dict of what may follow texts: `"tokens"`, `"priors"`, `"log_probs"` [B, K], `"finish"` [B] if nothing may."""
        allowed = process(logits, history, settings, vocabulary)
        wrong, stuck = tf.reduce_any(tf.math.is_nan(logits), -1), tf.reduce_max(allowed, -1) == -math.inf
        shares = tf.where((wrong | stuck)[:, None], 0.0, tf.nn.softmax(cut_off(allowed, settings)))
        priors, tokens = tf.math.top_k(shares, min(self.max_children, logits.shape[1]))
        return {
            "tokens": tokens,
            "priors": tf.math.divide_no_nan(priors, tf.reduce_sum(priors, -1, keepdims=True)),
            "log_probs": tf.gather(tf.nn.log_softmax(logits), tokens, batch_dims=1),
            "finish": tf.where(wrong, NAN, tf.where(stuck, NO_TOKEN, 0)),
        }

    def _simulate(self, model, loop, tree, simulation, noise, axes, settings, vocabulary, fixed):
        """Adds a leaf to each row's tree and its value to all nodes above it.

        The tree is a dict, B rows of N nodes with K slots. A node has `"parent"`, `"slot"`, `"depth"` and `"value"` [B, N],
        `"log_prob"` [B, N], the sum since the prompt, its `"history"` without the tokens, and perhaps `"state"`; its edges
        have `"tokens"`, `"priors"` and `"log_probs"` [B, N, K]. What changes later are `"children"` int32 [B, N, K], -1 for none
        yet, `"visits"` and `"value_sum"` [B, N], and of the whole tree `"low"`, `"high"` and `"wrong"` (NaN was met) [B].
        """
        goes = tree["history"]["finish"][:, 0] == 0
        way = self._descend(tree, goes, self._root_scores(tree, simulation, noise))
        node, slot, depth, new = way["node"], way["slot"], way["depth"], way["new"]
        parent = tf.nest.map_structure(
            lambda x: _at(x, node), {"history": tree["history"], "log_prob": tree["log_prob"]}
        )
        token, log_prob = (_pick(_at(tree[name], node), slot) for name in ("tokens", "log_probs"))
        history = loop["history"]
        tokens = _lay(history["tokens"], history["count"], way["path"], depth - 1)
        history = extend(parent["history"] | {"tokens": tokens}, token, new, settings, vocabulary)
        log_prob += parent["log_prob"]

        reads = new & (history["finish"] == 0)
        longest = way["path"].shape[1] if fixed else tf.reduce_max(depth)
        if axes is None:
            path = way["path"][:, :longest]
            logits, state = model.step(path, loop["state"], tf.where(reads, depth, 0), last=True)
        else:
            state = _state_at(tree, way, loop["state"], longest - 1, axes)
            logits, state = model.step(token[:, None], state, tf.cast(reads, tf.int32))
        logits = tf.where(reads[:, None], logits[:, 0], 0.0)
        edges = self._edges(logits, history, settings, vocabulary)
        finish = tf.where(history["finish"] == 0, edges.pop("finish"), history["finish"])
        leaf = {"parent": node, "slot": slot, "depth": depth, "log_prob": log_prob} | edges
        leaf["history"] = {name: x for name, x in history.items() if name != "tokens"} | {"finish": finish}
        work = {}
        if axes is not None:
            leaves, here = tf.nest.flatten(part_state(state)[0]), loop["state"]["position"] + depth - 1
            leaf["state"] = [_slot(x, here, axis) for x, axis in zip(leaves, axes, strict=True)]
            work = {"work": [x for x, axis in zip(leaves, axes, strict=True) if axis is not None]}
        text = {"history": history | {"finish": finish}, "log_prob": log_prob, "chosen": loop["chosen"] + depth}
        if self.rollout_tokens:
            draw = _ROLLOUT + loop["chosen"] * self.num_simulations + simulation
            text = self._roll_out(model, text | {"state": state, "logits": logits}, draw, settings, vocabulary)
        value = value_of(self.value, text["history"], text["log_prob"], text["chosen"])
        leaf["value"] = value

        old = {name: tree[name] for name in leaf}
        made = _put(old, simulation + 1, leaf, new)
        value = tf.where(new, value, _at(tree["value"], node))
        wrong = (finish == NAN) | (tf.math.is_nan(value) & goes)
        passed = way["passed"] | ((tf.range(self.num_simulations + 1) == simulation + 1) & new[:, None])
        made |= {
            "children": _link(tree["children"], node, slot, simulation + 1, new),
            "visits": tree["visits"] + tf.cast(passed, tf.int32),
            "value_sum": tree["value_sum"] + tf.where(passed, value[:, None], 0.0),
            "low": tf.where(goes, tf.minimum(tree["low"], value), tree["low"]),
            "high": tf.where(goes, tf.maximum(tree["high"], value), tree["high"]),
            "wrong": tree["wrong"] | wrong,
        }
        return tree | work | made

    def _descend(self, tree, goes, root_scores):
        """Walks down from the roots of rows that go on.

        Returns:
            dict of `"node"` int32 [B], the parent of the leaf to make, or the node of an ended text; `"slot"` int32 [B];
            `"depth"` int32 [B] of the leaf; `"new"` bool [B], whether it is to be made; `"path"` int32 [B, D], the tokens from
            the root to it; `"nodes"` int32 [B, D], the nodes above it;
            `"passed"` bool [B, N], all nodes on the way.
        """
        longest = min(self.max_depth, self.num_simulations)
        nodes, zeros = self.num_simulations + 1, tf.zeros_like(tree["visits"][:, 0])
        way = {
            "node": zeros,
            "slot": zeros,
            "depth": zeros,
            "new": tf.zeros_like(goes),
            "path": tf.zeros([tf.shape(zeros)[0], longest], tf.int32),
            "nodes": tf.zeros([tf.shape(zeros)[0], longest], tf.int32),
            "passed": (tf.range(nodes) == 0) & goes[:, None],
        }

        def body(depth, going, way):
            node = way["node"]
            scores = self._puct(tree, node)
            if root_scores is not None:
                scores = tf.where(depth == 0, root_scores, scores)
            slot = tf.argmax(scores, -1, tf.int32)
            token, child = _pick(_at(tree["tokens"], node), slot), _pick(_at(tree["children"], node), slot)
            here = tf.range(longest) == depth
            moves = going & (child >= 0)
            node = tf.where(moves, child, node)
            way = {
                "node": node,
                "slot": tf.where(going, slot, way["slot"]),
                "depth": tf.where(going, depth + 1, way["depth"]),
                "new": way["new"] | (going & (child < 0)),
                "path": tf.where(here & going[:, None], token[:, None], way["path"]),
                "nodes": tf.where(here & moves[:, None], node[:, None], way["nodes"]),
                "passed": way["passed"] | ((tf.range(nodes) == node[:, None]) & moves[:, None]),
            }
            return depth + 1, moves & (_at(tree["history"]["finish"], node) == 0) & (depth + 1 < longest), way

        start = (tf.constant(0), goes, way)
        return tf.while_loop(lambda depth, going, way: tf.reduce_any(going), body, start, parallel_iterations=1)[2]

    def _puct(self, tree, node):
        """Returns float32 [B, K], how much every child of the nodes int32 [B] deserves a visit."""
        visits, q = _children(tree, node)
        priors, above = _at(tree["priors"], node), tf.cast(_at(tree["visits"], node), tf.float32)
        explore = self.c_puct * priors * tf.sqrt(above)[:, None] / (1.0 + tf.cast(visits, tf.float32))
        return tf.where(priors > 0, q + explore, -math.inf)

    def _root_scores(self, tree, simulation, noise):
        """Returns float32 [B, K], how much a root's children deserve the next simulation, or None for PUCT there too."""
        if self.root_selection == "visits":
            return None
        visits, scores = self._gumbel_scores(tree, noise)
        most = min(scores.shape[1], self.num_simulations)
        table = tf.constant([halving_schedule(num, self.num_simulations) for num in range(1, most + 1)])
        possible = tf.reduce_sum(tf.cast(tree["priors"][:, 0] > 0, tf.int32), -1)
        wanted = tf.gather(tf.gather(table, simulation, axis=1), tf.clip_by_value(possible, 1, most) - 1)
        return tf.where(visits == wanted[:, None], scores, -math.inf)

    def _gumbel_scores(self, tree, noise):
        """Returns (visits int32 [B, K] of the roots' children, their scores: noise plus log prior plus value)."""
        visits, q = _children(tree, tf.zeros_like(tree["visits"][:, 0]))
        most = tf.cast(tf.reduce_max(visits, -1, keepdims=True), tf.float32)
        priors = tree["priors"][:, 0]
        scores = noise + tf.math.log(priors) + (50.0 + most) * self.value_scale * q
        return visits, tf.where(priors > 0, scores, -math.inf)

    def _choose(self, tree, noise):
        """Returns int32 [B], the slot that each tree speaks for."""
        if self.root_selection == "gumbel":
            visits, scores = self._gumbel_scores(tree, noise)
            most = tf.reduce_max(visits, -1, keepdims=True)
            return tf.argmax(tf.where(visits == most, scores, -math.inf), -1, tf.int32)
        visits, q = _children(tree, tf.zeros_like(tree["visits"][:, 0]))
        return tf.argmax(tf.cast(visits, tf.float32) + 0.5 * q, -1, tf.int32)  # q only decides between equal visits

    def _roll_out(self, model, text, draw, settings, vocabulary):
        """Continues texts by `rollout_tokens`; those that ended stay."""

        def choose(text):
            history, logits = text["history"], text["logits"]
            kept = process(logits, history, settings, vocabulary)
            if self.rollout == "sample":
                kept = cut_off(kept, settings) + gumbel(settings["seed"], history["new"], logits.shape[1], draw)
            token, log_probs = tf.argmax(kept, -1, tf.int32), tf.nn.log_softmax(logits)
            stuck = tf.reduce_max(kept, -1) == -math.inf
            goes = (history["finish"] == 0) & ~stuck
            history = history | {"finish": tf.where((history["finish"] == 0) & stuck, NO_TOKEN, history["finish"])}
            return text | {
                "history": extend(history, token, goes, settings, vocabulary),
                "log_prob": text["log_prob"] + tf.where(goes, _pick(log_probs, token), 0.0),
                "chosen": text["chosen"] + tf.cast(goes, tf.int32),
                "token": token,
            }

        def body(step, text):
            reads = tf.cast(text["history"]["finish"] == 0, tf.int32)
            logits, state = model.step(text["token"][:, None], text["state"], reads)
            return step + 1, choose(text | {"logits": logits[:, 0], "state": state})

        def more(step, text):
            return (step < self.rollout_tokens) & tf.reduce_any(text["history"]["finish"] == 0)

        return tf.while_loop(more, body, (tf.constant(1), choose(text)), parallel_iterations=1)[1]


def halving_schedule(num_considered, num_simulations):
    """Plans sequential halving: how often the child of each simulation was visited before.

    Every considered child gets the same number of visits, then the better half of them, down to two.

    Args:
        num_considered: int >= 1, children that are tried.
        num_simulations: int >= 1.

    Returns:
        list of int, one a simulation.

    Example:
        >>> halving_schedule(4, 10)
        [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]

    Source: Karnin et al. 2013, "Almost optimal exploration in multi-armed bandits"; Danihelka et al. 2022, algorithm 1.
    """
    if num_considered == 1:
        return list(range(num_simulations))
    rounds, left, visits, schedule = math.ceil(math.log2(num_considered)), num_considered, 0, []
    while len(schedule) < num_simulations:
        for _ in range(max(1, num_simulations // (rounds * left))):
            schedule += [visits] * left
            visits += 1
        left = max(2, left // 2)
    return schedule[:num_simulations]


def _begin(model, prompts, settings, capacity, top):
    """Reads the prompts; returns the loop, the sums of log-probabilities and the number of chosen tokens with it."""
    if "guide_ids" in prompts:
        raise ValueError("negative_prompt must be None in tree search; got one")
    logits, state, tokens, count = read_prompts(model, prompts, capacity)
    loop = {"logits": logits, "state": state, "history": start_history(tokens, count, settings)}
    loop |= {"log_prob": tf.zeros_like(count, tf.float32), "chosen": tf.zeros_like(count)}
    return loop if top is None else loop | {"record": start_record(tf.shape(count)[0], capacity, top)}


def _public(tree, choice):
    """Returns what others may see of a tree and of the slot int32 [B] that was chosen at its root."""
    names = ("parent", "slot", "children", "tokens", "priors", "log_probs", "visits", "value", "value_sum", "depth")
    return {name: tree[name] for name in names} | {"finish": tree["history"]["finish"], "choice": choice}


def slot_axes(model, state):
    """Finds where the leaves of a state hold one slot a token, so that a token's part of it can be kept by itself.

    Slots are what there are more of when `initial_state` is asked for more. That slot p of a model that is `rewindable` holds
    the token at position p, and that a step writes no other, is what `rewindable` rests on.

    Returns:
        list of int or None, of each leaf but those of the `"context"` the axis of its slots; or None for a state of another
        kind: one with slots in a model that is not rewindable, or with larger leaves without slots.
    """
    own, context = part_state(state)
    batch = tf.shape(state["position"])[0] if context else 1

    def leaves(slots):
        return tf.nest.flatten(part_state(model.initial_state(batch, slots, **context))[0])

    axes = []
    for leaf, one, two in zip(tf.nest.flatten(own), leaves(1), leaves(2), strict=True):
        differ = [axis for axis in range(one.shape.rank) if one.shape[axis] != two.shape[axis]]
        if not getattr(model, "rewindable", False) if differ else leaf.shape.rank > 2:
            return None
        axes.append(differ[0] if differ else None)
    return axes


def _state_at(tree, way, root_state, longest, axes):
    """Returns the state after the last node on each row's way, of at most `longest` nodes: what they keep, put together."""
    work, leaves, places = iter(tree["work"]), [], {}
    own, context = part_state(root_state)
    nodes, above = way["nodes"][:, :longest], tf.where(way["new"], way["depth"] - 1, 0)
    at = tf.range(tf.shape(nodes)[1])
    # Behind the last node nothing is written.
    at = tf.where(at < above[:, None], root_state["position"][:, None] + at, tf.int32.max)
    for kept, axis in zip(tree["state"], axes, strict=True):
        if axis is None:
            leaves.append(_at(kept, way["node"]))
            continue
        slots = tf.gather(kept, nodes, batch_dims=1)  # [B, D, ...]
        slots = tf.transpose(slots, [0, *range(2, axis + 1), 1, *range(axis + 1, slots.shape.rank)])  # [B, ..., D, ...]
        between = tuple(slots.shape[1:axis])
        if between not in places or None in between:  # those of all layers are alike
            places[between] = _places(at, tf.shape(slots)[: axis + 1], axis)
        leaves.append(
            tf.raw_ops.TensorScatterUpdate(
                tensor=next(work), indices=places[between], updates=slots, bad_indices_policy="IGNORE"
            )
        )
    return tf.nest.pack_sequence_as(own, leaves) | context


def _places(at, shape, axis):
    """Returns int32 [B, ..., D, axis + 1], the indices of the slots `at` int32 [B, D] in a leaf [B, ..., S, ...]."""
    grid = [tf.reshape(tf.range(shape[i]), [-1] + [1] * (axis - i)) for i in range(axis)]
    grid.append(tf.reshape(at, [-1] + [1] * (axis - 1) + [tf.shape(at)[1]]))
    return tf.stack([tf.broadcast_to(x, shape) for x in grid], -1)


def _slot(leaf, position, axis):
    """Returns of a state's leaf [B, ..., S, ...] each row's slot int32 [B] alone; without slots, all of it."""
    if axis is None:
        return leaf
    position = tf.clip_by_value(position, 0, tf.shape(leaf)[axis] - 1)  # rows that stand still may point anywhere
    return tf.squeeze(tf.gather(leaf, position[:, None], axis=axis, batch_dims=1), axis)


def _children(tree, node):
    """Returns (visits int32 [B, K], q float32 [B, K] in [0, 1]) of all children of the nodes int32 [B]."""
    child = _at(tree["children"], node)
    made = child >= 0
    visits = tf.where(made, tf.gather(tree["visits"], tf.maximum(child, 0), batch_dims=1), 0)
    sums = tf.where(made, tf.gather(tree["value_sum"], tf.maximum(child, 0), batch_dims=1), 0.0)
    own = _at(tree["value_sum"], node) / tf.cast(tf.maximum(_at(tree["visits"], node), 1), tf.float32)
    mean = tf.where(made, sums / tf.cast(tf.maximum(visits, 1), tf.float32), own[:, None])
    low, high = tree["low"][:, None], tree["high"][:, None]
    return visits, tf.where(high > low, (mean - low) / (high - low), 0.0)


def _at(values, node):
    """Returns [B, ...], the entry of each row's node int32 [B] in values [B, N, ...]."""
    return tf.gather(values, node, batch_dims=1)


def _pick(values, slot):
    """Returns [B], the entry of each row's slot int32 [B] in values [B, K]."""
    return tf.gather(values, slot, batch_dims=1)


def _put(arrays, node, values, wanted):
    """Writes a nest of [B, ...] as node `node` of a nest of [B, N, ...], in the rows that are wanted."""
    rows = tf.range(tf.shape(wanted)[0])

    def write(array, new):
        if not array.shape[
            2:
        ].num_elements():  # perhaps empty, as without stop strings, and then nothing to scatter into
            here = (tf.range(array.shape[1]) == node) & wanted[:, None]
            return tf.where(here[:, :, None], new[:, None], array)
        at = tf.stack([rows, tf.where(wanted, node, array.shape[1])], 1)  # elsewhere nothing is written
        return tf.raw_ops.TensorScatterUpdate(tensor=array, indices=at, updates=new, bad_indices_policy="IGNORE")

    return tf.nest.map_structure(write, arrays, values)


def _link(children, node, slot, child, wanted):
    """Writes `child` into the slot of each row's node, in the rows that are wanted."""
    at = tf.stack([tf.range(tf.shape(node)[0]), tf.where(wanted, node, tf.shape(children)[1]), slot], 1)
    updates = tf.fill([tf.shape(node)[0]], child)
    return tf.raw_ops.TensorScatterUpdate(tensor=children, indices=at, updates=updates, bad_indices_policy="IGNORE")


def _lay(tokens, count, path, length):
    """Writes the first `length` (int32 [B]) tokens of path [B, D] behind the first `count` of tokens [B, W]."""
    at = tf.range(tf.shape(tokens)[1]) - count[:, None]
    laid = tf.gather(path, tf.clip_by_value(at, 0, path.shape[1] - 1), batch_dims=1)
    return tf.where((at >= 0) & (at < length[:, None]), laid, tokens)
