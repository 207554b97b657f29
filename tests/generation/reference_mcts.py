"""Monte Carlo tree search as a person would write it: nodes that hold their children, one text at a time, numbers in NumPy.

It shares nothing with `tfllm.generation.mcts` but the model and the noise of a Gumbel root, which are arguments.
"""

import dataclasses
import math

import numpy as np

ZERO = np.float32(0)


@dataclasses.dataclass
class Node:
    tokens: list  # the whole text
    state: object
    log_prob: np.float32  # of the new tokens
    chosen: int  # tokens chosen since the prompt, an end token among them
    ended: bool
    logits: np.ndarray | None = None
    ids: list | None = None  # what may follow, the likeliest first
    priors: np.ndarray | None = None
    log_probs: np.ndarray | None = None
    children: dict = dataclasses.field(default_factory=dict)  # slot: Node
    visits: int = 0
    value_sum: np.float32 = ZERO
    value: np.float32 = ZERO
    number: int = 0


@dataclasses.dataclass
class Search:
    """`step(ids [1, 1], state) -> (logits [1, 1, V], state)`; `value(tokens, mean log-probability) -> float`."""

    step: object
    value: object
    end_id: int
    max_tokens: int  # prompt and text
    num_simulations: int
    max_children: int
    max_depth: int
    rollout_tokens: int = 0
    c_puct: float = 1.25
    noise: object = None  # of a Gumbel root: new tokens so far -> float32 [K]
    value_scale: float = 0.1
    banned: tuple = ()
    temperature: float = 1.0

    def continue_text(self, prompt, logits, state):
        """Returns (new tokens, the trees of all roots)."""
        root, trees = Node(list(prompt), state, np.float32(0), 0, False, logits), []
        while not root.ended:
            self.expand(root)
            self.low, self.high = math.inf, -math.inf
            for simulation in range(self.num_simulations):
                self.number = simulation + 1
                wanted = None if self.noise is None else self.wanted_slot(root, simulation, root.chosen)
                self.simulate(root, 0, wanted)
            slot = self.best_slot(root)
            trees.append((root, slot))
            root = self.child(root, slot)
        return root.tokens[len(prompt) :], trees

    def expand(self, node):
        logits = node.logits.astype(np.float32).copy()
        shifted = logits - logits.max()
        every = shifted - np.log(np.exp(shifted).sum())
        logits[list(self.banned)] = -np.inf
        shares = np.exp((logits - logits.max()) / np.float32(self.temperature))
        shares /= shares.sum()
        node.ids = np.argsort(-shares, kind="stable")[: self.max_children].tolist()
        node.priors = shares[node.ids] / shares[node.ids].sum()
        node.log_probs = every[node.ids]

    def child(self, node, slot):
        token = node.ids[slot]
        ends = token == self.end_id
        tokens = node.tokens if ends else [*node.tokens, token]
        ended = ends or len(tokens) >= self.max_tokens
        made = Node(tokens, node.state, node.log_prob + node.log_probs[slot], node.chosen + 1, ended)
        if not ended:
            logits, made.state = self.step(np.array([[token]], np.int32), node.state)
            made.logits = np.asarray(logits)[0, 0]
        return made

    def simulate(self, node, depth, slot=None):
        if depth > 0 and (node.ended or depth == self.max_depth):
            value = node.value
        else:
            slot = self.best_puct(node) if slot is None else slot
            if slot in node.children:
                value = self.simulate(node.children[slot], depth + 1)
            else:
                leaf = node.children[slot] = self.child(node, slot)
                if not leaf.ended:
                    self.expand(leaf)
                value = leaf.value = leaf.value_sum = np.float32(self.roll_out(leaf))
                leaf.visits, leaf.number = 1, self.number
                self.low, self.high = min(self.low, value), max(self.high, value)
        node.visits += 1
        node.value_sum = np.float32(node.value_sum + value)
        return value

    def roll_out(self, node):
        for _ in range(self.rollout_tokens):
            if not node.ended:
                self.expand(node)
                node = self.child(node, 0)
        return self.value(node.tokens, node.log_prob / np.float32(max(node.chosen, 1)))

    def q(self, node, slot):
        child = node.children.get(slot)
        mean = child.value_sum / child.visits if child else node.value_sum / max(node.visits, 1)
        return (mean - self.low) / (self.high - self.low) if self.high > self.low else 0.0

    def visits(self, node, slot):
        return node.children[slot].visits if slot in node.children else 0

    def best_puct(self, node):
        root = math.sqrt(node.visits)

        def score(slot):
            explore = self.c_puct * node.priors[slot] * root / (1 + self.visits(node, slot))
            return self.q(node, slot) + explore if node.priors[slot] > 0 else -math.inf

        return max(range(len(node.ids)), key=score)  # of equal ones the first

    def gumbel_score(self, node, slot):
        if node.priors[slot] <= 0:
            return -math.inf
        most = max((child.visits for child in node.children.values()), default=0)
        noise = self.noise(node.chosen)[slot] + np.log(node.priors[slot])
        return noise + (50 + most) * self.value_scale * self.q(node, slot)

    def wanted_slot(self, root, simulation, chosen):
        """Sequential halving, told by its rounds: all children as often, then the better half of them as often again."""
        possible = min(int((root.priors > 0).sum()), len(root.ids), self.num_simulations)
        rounds, left, plan, seen = max(1, math.ceil(math.log2(possible))), possible, [], 0
        while len(plan) < self.num_simulations:
            for _ in range(max(1, self.num_simulations // (rounds * left))):
                plan += [seen] * left
                seen += 1
            left = max(2, left // 2) if possible > 1 else 1
        slots = [slot for slot in range(len(root.ids)) if self.visits(root, slot) == plan[simulation]]
        return max(slots, key=lambda slot: self.gumbel_score(root, slot))

    def best_slot(self, root):
        slots = range(len(root.ids))
        if self.noise is None:
            return max(slots, key=lambda slot: (self.visits(root, slot), self.q(root, slot)))
        most = max(self.visits(root, slot) for slot in slots)
        return max((s for s in slots if self.visits(root, s) == most), key=lambda slot: self.gumbel_score(root, slot))


def nodes_of(root):
    """Returns dict of a node's number -> (parent's number, slot, visits, sum of values, value)."""
    found = {}

    def visit(node, parent, slot):
        found[node.number] = (parent, slot, node.visits, float(node.value_sum), float(node.value))
        for at, child in node.children.items():
            visit(child, node.number, at)

    visit(root, -1, 0)
    return found
