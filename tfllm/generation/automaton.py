"""TokenAutomaton: which tokens may follow, for texts of a regular expression, a JSON schema or a list of choices.

A deterministic automaton over bytes (`regular.py`) is walked by every token of a vocabulary from every state at once, along
the tokens' common beginnings, so decoding needs one row of a table a step (Willard and Louf 2023, arXiv:2307.09702). States
from which the vocabulary cannot reach an end are dropped: decoding never runs into one.
"""

import dataclasses

import numpy as np

from tfllm.generation.json_schema import json_schema
from tfllm.generation.regex import regex
from tfllm.generation.regular import byte_automaton, choice, literal, trim

_MAX_BYTES = 200_000_000  # of the table


@dataclasses.dataclass(frozen=True, eq=False)  # arrays neither compare nor hash
class TokenAutomaton:
    """What may follow: a deterministic automaton over token ids; state 0 is the start.

    Attributes:
        next_state: int32 [S, V], the state after each token, -1 where the token is not allowed. The tokenizer's `end_id` is
            allowed exactly where the text may end, and stays; other tokens that add no bytes are never allowed. Without an end
        token a text ends where nothing may follow, for the reason "no_token".
        accepting: bool [S], whether the text may end here.

    Example:
        >>> tokenizer = tfllm.BPETokenizer.train("ab", vocab_size=257, special_tokens=("<|endoftext|>",))
        >>> automaton = TokenAutomaton.from_regex("a+b", tokenizer)
        >>> ids = tokenizer.encode("aab").numpy()
        >>> state = 0
        >>> for index in ids:
        ...     state = automaton.next_state[state, index]
        >>> bool(automaton.accepting[state]), int(automaton.next_state[0, ids[-1]])  # "b" cannot come first
        (True, -1)
    """

    next_state: np.ndarray
    accepting: np.ndarray

    @classmethod
    def from_regex(cls, pattern, tokenizer):
        """Makes the automaton of the texts that a regular expression matches as a whole.

        Args:
            pattern: str, of the syntax in `regex.py`.
            tokenizer: `Tokenizer`; of it, `token_bytes` and `end_id` count.

        Raises:
            ValueError: on a pattern that is not regular or needs too many states, or where the vocabulary cannot write any
                text of it.
        """
        return _over_tokens(regex(pattern), tokenizer, f"the pattern {pattern!r}")

    @classmethod
    def from_json_schema(cls, schema, tokenizer):
        """Makes the automaton of the JSON documents that obey a schema, as `json_schema.py` reads and writes them.

        Args:
            schema: dict, or str that holds it as JSON.
            tokenizer: as for `from_regex`.

        Raises:
            ValueError: on a keyword that is not known, and as `from_regex`.
        """
        return _over_tokens(json_schema(schema), tokenizer, "the schema")

    @classmethod
    def from_choices(cls, texts, tokenizer):
        """Makes the automaton of some texts.

        Args:
            texts: list of str, at least one.
            tokenizer: as for `from_regex`.

        Raises:
            ValueError: on anything but strings, and as `from_regex`.
        """
        if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a list of strings that is not empty; got {texts!r}")
        return _over_tokens(choice(*map(literal, texts)), tokenizer, "the choices")


def _over_tokens(language, tokenizer, name):
    later, first = tokenizer.token_bytes(), tokenizer.token_bytes(first=True)
    table, accepting = byte_automaton(language)
    if not len(table):
        raise ValueError(f"{name} must allow at least one text; got none")
    size = 4 * len(table) * len(later)
    if size > _MAX_BYTES:
        raise ValueError(
            f"{name} must need a table of at most {_MAX_BYTES:,} bytes; got {len(table)} states for {len(later)} tokens, "
            f"{size:,} bytes"
        )
    tokens = _token_table(table, later, np.arange(len(table)))
    if first != later:  # the first token stands for other bytes, so the start is a state of its own
        begin = _token_table(table, first, np.arange(1))
        tokens = np.concatenate([np.where(begin < 0, -1, begin + 1), np.where(tokens < 0, -1, tokens + 1)])
        accepting = np.concatenate([accepting[:1], accepting])
    tokens, accepting = trim(tokens, accepting)
    if not len(tokens):
        raise ValueError(f"{name} must allow a text that the vocabulary can write; got a vocabulary that writes none")
    if tokenizer.end_id >= 0:
        tokens[:, tokenizer.end_id] = np.where(accepting, np.arange(len(tokens)), -1)
    return TokenAutomaton(tokens, accepting)


def _token_table(table, tokens, states):
    """Returns int32 [len(states), V], where each token leads from each state of a byte automaton, or -1."""
    dead = len(table)
    step = np.full([dead + 1, 256], dead, np.int32)
    step[:-1] = np.where(table < 0, dead, table)
    lengths = np.array([len(token) for token in tokens])
    begins = np.cumsum(lengths) - lengths
    data = np.frombuffer(b"".join(tokens), np.uint8)

    found = np.full([len(tokens), len(states)], dead, np.int32)
    ids = np.flatnonzero(lengths)
    # Tokens that begin alike share a node; `reached` holds where each node's bytes lead from every state.
    node, reached, depth = np.zeros(len(ids), np.int64), np.asarray(states, np.int32)[None], 0
    while ids.size:
        kinds, node = np.unique(node << 8 | data[begins[ids] + depth], return_inverse=True)
        reached = step[reached[kinds >> 8], (kinds & 255)[:, None]]
        depth += 1
        whole = lengths[ids] == depth
        found[ids[whole]] = reached[node[whole]]
        going = ~whole & (reached != dead).any(1)[node]
        ids, node = ids[going], node[going]
    found[found == dead] = -1
    return np.ascontiguousarray(found.T)
