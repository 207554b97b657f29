"""Which of the phrases that a text must have it has so far: a deterministic automaton over tokens, as small tables.

A state is how much of some phrase the text ends with (Aho and Corasick 1975) and the set of phrases it already has, as in
Anderson et al. 2017, arXiv:1612.00576. Phrases may overlap in the text.
"""

import dataclasses
import functools

import numpy as np

MAX_PHRASES = 8  # every one may double the states
_MAX_STATES = 20_000


@dataclasses.dataclass(frozen=True)
class PhraseTable:
    """The automaton; state 0 is the start.

    Attributes:
        tokens: int32 [U], the tokens that occur in phrases, each once.
        next_state: int32 [S, U + 1], the state after each of them, and after any other token.
        needed: int32 [S], the fewest tokens after which the text has all phrases; 0 where it has.
    """

    tokens: np.ndarray
    next_state: np.ndarray
    needed: np.ndarray


@functools.lru_cache(maxsize=64)
def phrase_table(phrases):
    """Makes the table of phrases.

    Args:
        phrases: tuple of phrases, each a tuple of ways to write it, each a tuple of ids.

    Returns:
        `PhraseTable`.

    Raises:
        ValueError: on too many phrases.

    Example:
        >>> table = phrase_table((((3, 4),), ((4, 5),)))
        >>> table.tokens, int(table.needed[0])  # 3 4 5 has both
        (array([3, 4, 5], dtype=int32), 3)
    """
    if len(phrases) > MAX_PHRASES:
        raise ValueError(f"required must have at most {MAX_PHRASES} phrases; got {len(phrases)}")
    written = [(way, 1 << number) for number, ways in enumerate(phrases) for way in ways]
    beginnings = {way[:size] for way, _ in written for size in range(len(way) + 1)}
    complete = {text: sum({bit for way, bit in written if text[len(text) - len(way) :] == way}) for text in beginnings}
    tokens = sorted({token for way, _ in written for token in way})
    everything = (1 << len(phrases)) - 1

    def follow(text, has, token):
        text = (*text, token)
        text = next(text[cut:] for cut in range(len(text) + 1) if text[cut:] in beginnings)
        has |= complete[text]
        return ((), has) if has == everything else (text, has)  # what follows the last phrase does not matter

    numbers, order, table = {((), 0): 0}, [((), 0)], []
    for text, has in order:  # grows on the way
        after = [follow(text, has, token) for token in tokens] + [((), has)]
        for state in after:
            if state not in numbers:
                numbers[state] = len(order)
                order.append(state)
        table.append([numbers[state] for state in after])
        if len(order) > _MAX_STATES:
            raise ValueError(f"required must need at most {_MAX_STATES} states; got more for {len(phrases)} phrases")
    table = np.array(table, np.int32)
    needed = np.array([0 if has == everything else len(order) for _, has in order], np.int32)
    while (better := np.minimum(needed, 1 + needed[table].min(1))).tobytes() != needed.tobytes():
        needed = better
    return PhraseTable(np.array(tokens, np.int32), table, needed)
