"""Regular languages of texts, and the smallest deterministic automaton that reads one byte by byte.

A language is a function `(graph, start) -> end` that adds its own states to a graph of bytes (Thompson 1968): `chars`,
`literal`, `sequence`, `choice`, `repeat` and `listed` make them, and `byte_automaton` turns one into a table by subsets (Rabin
and Scott 1959) and merges states that accept the same endings (Hopcroft 1971). Texts are UTF-8, so characters are paths of
one to four bytes; what is not UTF-8 is in no language. Plain Python and NumPy.
"""

import collections

import numpy as np

MAX_GRAPH_STATES = 20_000  # before subsets are taken
MAX_STATES = 5_000  # after
MAX_SUBSETS = 1_000_000  # states of all the subsets together, which is what takes time and memory
_SURROGATES = (0xD800, 0xDFFF)  # code points that UTF-8 has no bytes for


def chars(ranges):
    """Returns the language of single characters: `ranges` are pairs of first and last code point."""

    def add(graph, start):
        end = graph.new()
        at = {(): end}  # the states from which the same bytes are still to come are one
        for low, high in ranges:
            for path in _utf8_paths(low, high):
                _add_path(graph, start, path, at)
        return end

    return add


def literal(text):
    """Returns the language of one text."""
    return sequence(*(chars([(ord(c), ord(c))]) for c in text))


def sequence(*parts):
    """Returns the language of texts of all parts, one behind the other."""

    def add(graph, start):
        for part in parts:
            start = part(graph, start)
        return start

    return add


def choice(*parts):
    """Returns the language of texts of any of the parts."""

    def add(graph, start):
        end = graph.new()
        for part in parts:
            graph.join(part(graph, start), end)
        return end

    return add


def repeat(part, low, high=None, between=None):
    """Returns the language of `low` to `high` texts of a part, `high` None for any number, parted by `between`."""
    between = between or sequence()

    def add(graph, start):
        end = graph.new()
        if low == 0:
            graph.join(start, end)
        copies = max(low, 1) if high is None else high
        for count in range(1, copies + 1):
            before = graph.after(start)  # a loop must not lead back to a state of others, and every copy must cost one
            start = part(graph, before)
            if count >= low:
                graph.join(start, end)
            if count < copies:
                start = between(graph, start)
            elif high is None:
                graph.join(between(graph, start), before)
        return end

    return add


def listed(parts, between):
    """Returns the language of lists in a fixed order: parts are pairs (language, bool whether it must be there)."""

    def add(graph, start):
        none, some = graph.after(start), graph.new()  # states after no part so far, and after at least one
        for part, required in parts:
            before = graph.after(none)
            graph.join(between(graph, some), before)
            after = graph.after(part(graph, before))
            if not required:
                graph.join(some, after)
            none, some = graph.new() if required else graph.after(none), after
        end = graph.after(none)
        graph.join(some, end)
        return end

    return add


def byte_automaton(language):
    """Makes the smallest deterministic automaton of a language.

    Args:
        language: what a function of this file returns.

    Returns:
        (int32 [S, 256], the state after each byte, -1 where no text of the language goes on so; bool [S], where a text may
        end). State 0 is the start, and an end can be reached from every state; S is 0 where there is no text at all.

    Raises:
        ValueError: when more than `MAX_GRAPH_STATES` or `MAX_STATES` states are needed.

    Example:
        >>> table, accepting = byte_automaton(repeat(literal("ab"), 1))
        >>> table[:, [ord("a"), ord("b")]]
        array([[ 1, -1],
               [-1,  2],
               [ 1, -1]], dtype=int32)
        >>> accepting
        array([False, False,  True])
    """
    graph = _Graph()
    end = language(graph, graph.new())
    table, accepting, class_of = _by_subsets(graph, end)
    table, accepting = _smallest(*trim(table, accepting))
    return table[:, class_of], accepting


def trim(table, accepting):
    """Drops states that the start does not reach or that reach no end, and all ways into them.

    Args:
        table: int32 [S, C], the state after each symbol, or -1; state 0 is the start.
        accepting: bool [S].

    Returns:
        (int32 [K, C], bool [K]) of the states that stay, in their order; K is 0 where the start has to go.
    """
    linked = np.zeros([len(table), len(table) + 1], bool)  # the last column is that of -1
    for state, row in enumerate(table):
        linked[state, row] = True
    linked = linked[:, :-1]
    useful = _reached(linked.T, accepting)
    linked &= useful[:, None] & useful
    start = np.zeros(len(table), bool)
    start[:1] = useful[:1]
    kept = _reached(linked, start)
    if kept.all():
        return table, accepting  # as it is, because tables are large
    number = np.full(len(table) + 1, -1, np.int32)
    number[:-1][kept] = np.arange(np.count_nonzero(kept))
    return number[table[kept]], accepting[kept]


def _reached(linked, begin):
    reached, front = begin.copy(), begin
    while front.any():
        front = linked[front].any(0) & ~reached
        reached |= front
    return reached


class _Graph:
    """States numbered from 0, with edges that read a byte of a range, and edges that read nothing."""

    def __init__(self):
        self.edges, self.free = [], []

    def new(self):
        if len(self.edges) == MAX_GRAPH_STATES:
            raise ValueError(
                f"the automaton must need at most {MAX_GRAPH_STATES} states before it is made deterministic; got a pattern or "
                "schema that needs more"
            )
        self.edges.append({})  # of edges, in their order, each once
        self.free.append([])
        return len(self.edges) - 1

    def join(self, start, end):
        self.free[start].append(end)

    def after(self, start):
        state = self.new()
        self.join(start, state)
        return state


def _add_path(graph, start, path, at):
    """Adds a path of byte ranges; `at` holds the states that earlier ones left, by what is still to come."""
    for index, (low, high) in enumerate(path):
        rest = path[index + 1 :]
        known = rest in at
        if not known:
            at[rest] = graph.new()
        graph.edges[start][low, high, at[rest]] = None
        if known:
            return
        start = at[rest]


def _utf8_paths(low, high):
    """Yields tuples of byte ranges whose products are exactly the code points from `low` to `high` (Cox 2007)."""
    for last in (0x7F, 0x7FF, _SURROGATES[0] - 1, _SURROGATES[1], 0xFFFF):
        if low <= last < high:
            yield from _utf8_paths(low, last)
            yield from _utf8_paths(last + 1, high)
            return
    if low > high or _SURROGATES[0] <= low <= _SURROGATES[1]:
        return
    for bits in (6, 12, 18):
        tail = (1 << bits) - 1
        if high > 0x7F and low & ~tail != high & ~tail:
            if low & tail:
                yield from _utf8_paths(low, low | tail)
                yield from _utf8_paths((low | tail) + 1, high)
                return
            if high & tail != tail:
                yield from _utf8_paths(low, (high & ~tail) - 1)
                yield from _utf8_paths(high & ~tail, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))


def _by_subsets(graph, end):
    """Returns (int32 [S, C], bool [S], int [256] class of each byte) of the deterministic automaton of a graph."""
    bounds = {0} | {bound for edges in graph.edges for low, high, _ in edges for bound in (low, high + 1)}
    class_of = np.cumsum(np.isin(np.arange(257), sorted(bounds))) - 1  # bytes that no edge tells apart share a class
    num_classes = class_of[255] + 1
    edges = [[(class_of[low], class_of[high] + 1, to) for low, high, to in some] for some in graph.edges]

    closures, unions, size = {}, {}, 0

    def grown(more):
        nonlocal size
        size += more
        if size > MAX_SUBSETS:
            raise ValueError(
                f"the automaton must need at most {MAX_SUBSETS} states in its subsets; got a pattern or schema that needs more"
            )

    def union(states):
        """Returns frozenset of the states, of those that read a byte or end, that these reach without reading."""
        if states not in unions:
            for state in states - closures.keys():
                closures[state] = _closure(graph, state, end)
                grown(len(closures[state]))
            unions[states] = frozenset().union(*(closures[state] for state in states))
            grown(len(unions[states]))
        return unions[states]

    subsets = {union(frozenset([0])): 0}
    table, waiting = [], collections.deque(subsets)
    while waiting:
        subset = waiting.popleft()
        targets = [set() for _ in range(num_classes)]
        for state in subset:
            for first, last, to in edges[state]:
                for target in targets[first:last]:
                    target.add(to)
        row = []
        for target in targets:
            following = union(frozenset(target))
            if following and following not in subsets:
                if len(subsets) == MAX_STATES:
                    raise ValueError(
                        f"the automaton must need at most {MAX_STATES} states; got a pattern or schema that needs more"
                    )
                subsets[following] = len(subsets)
                waiting.append(following)
            row.append(subsets[following] if following else -1)
        table.append(row)
    return np.array(table, np.int32), np.array([end in subset for subset in subsets]), class_of[:256]


def _closure(graph, state, end):
    seen, stack = {state}, [state]
    while stack:
        for to in graph.free[stack.pop()]:
            if to not in seen:
                seen.add(to)
                stack.append(to)
    return {state for state in seen if graph.edges[state] or state == end}


def _smallest(table, accepting):
    """Merges states that accept the same endings; every state must reach an end."""
    before = [collections.defaultdict(list) for _ in range(table.shape[1])]  # of each class: target -> sources
    for source, symbol in np.argwhere(table >= 0).tolist():
        before[symbol][int(table[source, symbol])].append(source)
    blocks = [set(np.flatnonzero(flags).tolist()) for flags in (accepting, ~accepting)]
    block_of = (~accepting).astype(int).tolist()
    waiting = [0, 1]
    while waiting:
        splitter = list(blocks[waiting.pop()])
        for sources in before:
            hits = collections.defaultdict(set)  # what reaches the splitter, by its block
            for target in splitter:
                for source in sources.get(target, ()):
                    hits[block_of[source]].add(source)
            for block, hit in hits.items():
                missed = len(blocks[block]) - len(hit)
                if not missed:
                    continue
                small = hit if len(hit) <= missed else blocks[block] - hit
                blocks[block] -= small
                # The block itself either still waits or was already split by, and then the smaller part says it all.
                waiting.append(len(blocks))
                for state in small:
                    block_of[state] = len(blocks)
                blocks.append(small)
    _, first, merged = np.unique(block_of, return_index=True, return_inverse=True)
    order = np.argsort(first)  # by the first state of each, so that the start stays state 0
    rank = np.argsort(order).astype(np.int32)
    number = np.append(rank[merged], np.int32(-1))
    return number[table[first[order]]], accepting[first[order]]
