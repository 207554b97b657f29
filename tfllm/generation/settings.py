"""What a request may change: every setting is a tensor with one value a row, so changing one never traces anew.

Settings travel as a dict of arrays. Most hold a number for each row; lists (biases, bans, stops) are padded with -1, and a
list that nobody uses has no column. Only `"next_state"`, the table of a token automaton, is shared by all rows.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

MOST_TOKENS = 1_000_000  # that one prompt may ask for, in all its sequences
MOST_SEQUENCES = 4096  # that one prompt may have

NUMBERS = {  # name: (dtype, default, rule in words, rule), which arrays and tensors alike can be asked
    "max_new_tokens": (np.int32, 128, "at least 1", lambda x: x >= 1),
    "min_new_tokens": (np.int32, 0, "at least 0", lambda x: x >= 0),
    "temperature": (np.float32, 1.0, "finite and at least 0", lambda x: (x >= 0) & (x < np.inf)),
    "top_k": (np.int32, 0, "at least 0", lambda x: x >= 0),
    "top_p": (np.float32, 1.0, "in (0, 1]", lambda x: (x > 0) & (x <= 1)),
    "min_p": (np.float32, 0.0, "in [0, 1]", lambda x: (x >= 0) & (x <= 1)),
    "typical_p": (np.float32, 1.0, "in (0, 1]", lambda x: (x > 0) & (x <= 1)),
    "epsilon_cutoff": (np.float32, 0.0, "in [0, 1)", lambda x: (x >= 0) & (x < 1)),
    "eta_cutoff": (np.float32, 0.0, "in [0, 1)", lambda x: (x >= 0) & (x < 1)),
    "repetition_penalty": (np.float32, 1.0, "finite and above 0", lambda x: (x > 0) & (x < np.inf)),
    "frequency_penalty": (np.float32, 0.0, "finite", lambda x: abs(x) < np.inf),
    "presence_penalty": (np.float32, 0.0, "finite", lambda x: abs(x) < np.inf),
    "no_repeat_ngram_size": (np.int32, 0, "at least 0", lambda x: x >= 0),
    "guidance_scale": (np.float32, 1.0, "finite", lambda x: abs(x) < np.inf),
    "seed": (np.int32, 0, "an int", lambda x: x == x),
}
_LISTS = {  # name: (dtype, axes beside the batch)
    "bias_ids": (np.int32, 1),
    "bias_values": (np.float32, 1),
    "banned": (np.int32, 2),
    "forced": (np.int32, 1),
    "stop_ids": (np.int32, 1),
    "stop": (np.int32, 2),
    "start": (np.int32, 0),
}
_MOST_GRAPHS = 256
REQUESTS = (
    "logit_bias",
    "banned_ids",
    "banned_words",
    "forced_prefix",
    "stop",
    "stop_ids",
    "automaton",
)


def make_settings(num_rows, vocab_size, tokenizer=None, **values):
    """Checks the settings of a request and lays them out row by row.

    A number may be given once for all rows or as a list with one for each. So may a list of words or ids: once, or as a list
    with a list for each row.

    Args:
        num_rows: int B.
        vocab_size: int V, logits of the model.
        tokenizer: `Tokenizer`, needed where words or stop strings are given.
        max_new_tokens: int >= 1, tokens a row gets at most.
        min_new_tokens: int >= 0, neither the end token nor a stop id is chosen before.
        temperature: float >= 0, divides the logits; 0 takes the likeliest token, whatever the cut-offs say.
        top_k: int >= 0, draws from the k likeliest tokens only; 0 means from all.
        top_p: float in (0, 1], draws from the fewest likeliest tokens whose probabilities sum to p (Holtzman et al. 2020,
            arXiv:1904.09751).
        min_p: float in [0, 1], leaves out tokens below this share of the likeliest one's probability (Nguyen et al. 2024,
            arXiv:2407.01082).
        typical_p: float in (0, 1], draws from the tokens whose information is nearest to the entropy, until they sum to p
            (Meister et al. 2023, arXiv:2202.00666).
        epsilon_cutoff: float in [0, 1), leaves out tokens below this probability (Hewitt et al. 2022, arXiv:2210.15191).
        eta_cutoff: float in [0, 1), leaves out tokens below min(eta, sqrt(eta) exp(-entropy)) (the same).
        repetition_penalty: float > 0, divides positive and multiplies negative logits of tokens in prompt or text
            (Keskar et al. 2019, arXiv:1909.05858).
        frequency_penalty: float, taken from a token's logit for each time it occurs in the new text.
        presence_penalty: float, taken once from the logit of every token that occurs in the new text.
        no_repeat_ngram_size: int >= 0, no sequence of so many tokens occurs twice in prompt and text; 0 allows all.
        guidance_scale: float, how far from the second prompt's log-probabilities towards the first's (1: just the first's);
            acts where a second prompt is given.
        seed: int; row b of a request with one seed draws with `seed + b`.
        logit_bias: dict of id or token to float, added to logits.
        banned_ids: list of int, never chosen.
        banned_words: list of str; no text goes on into one of them, as it is encoded alone or behind a blank.
        forced_prefix: str or list of int, what the new text begins with; None in a list of ids leaves a place free.
        stop: str or list of str, texts that end a row; the text ends before them.
        stop_ids: list of int, tokens that end a row and are no part of it.
        automaton: `TokenAutomaton`, whose texts alone may be written; or a list of them (or None), one a row.

    Returns:
        dict of NumPy arrays, the batch on axis 0 of each but `"next_state"`.

    Raises:
        ValueError: on an unknown setting or a value out of its range.
    """
    unknown = sorted(set(values) - set(NUMBERS) - set(REQUESTS))
    if unknown:
        raise ValueError(f"settings must be among {', '.join((*NUMBERS, *REQUESTS))}; got {unknown[0]!r}")
    settings = {name: _number(name, values.get(name), num_rows) for name in NUMBERS}
    if np.ndim(values.get("seed", 0)) == 0:
        settings["seed"] = (settings["seed"].astype(np.int64) + np.arange(num_rows)).astype(np.int32)  # wraps
    settings["bias_ids"], settings["bias_values"] = _biases(values, num_rows, vocab_size, tokenizer)
    words = _lists("banned_words", values.get("banned_words"), num_rows, str)
    settings["banned"] = _padded([_ways_to_write(row, tokenizer) for row in words], 2)
    settings["forced"] = _forced(values.get("forced_prefix"), num_rows, vocab_size, tokenizer)
    stop_ids = _lists("stop_ids", values.get("stop_ids"), num_rows, int)
    for row in stop_ids:
        _check_ids("stop_ids", row, vocab_size)
    settings["stop_ids"] = _padded(stop_ids, 1)
    stops = _lists("stop", values.get("stop"), num_rows, str)
    if tokenizer is None and any(stops):
        raise ValueError(f"stop needs a tokenizer; got {stops[0]!r} and none")
    settings["stop"] = _padded([[list(text.encode()) for text in row] for row in stops], 2, front=True)
    settings["start"], settings["next_state"] = _automata(values.get("automaton"), num_rows, vocab_size)
    return settings


def signature(vocab_size):
    """Returns the `tf.TensorSpec`s of what `make_settings` makes, with any number of rows and columns."""
    specs = {name: tf.TensorSpec([None], dtype, name) for name, (dtype, *_) in NUMBERS.items()}
    specs |= {name: tf.TensorSpec([None] * (1 + axes), dtype, name) for name, (dtype, axes) in _LISTS.items()}
    return specs | {"next_state": tf.TensorSpec([None, vocab_size], tf.int32, "next_state")}


def take_rows(settings, rows):
    """Returns the settings of the rows `rows` (int32 [R]), some of them perhaps several times: one row a beam."""
    return {name: x if name == "next_state" else tf.gather(x, rows) for name, x in settings.items()}


def pad_settings(settings, num_rows):
    """Returns NumPy settings with rows up to `num_rows` and lists up to a power of two, so that few shapes occur."""

    def pad(name, x):
        if name == "next_state":
            rows = power_of_two(len(x)) if len(x) else 0
            return np.pad(x, [(0, rows - len(x)), (0, 0)], constant_values=-1)
        x = np.concatenate([x, np.repeat(x[:1], num_rows - len(x), 0)])
        fill = 0 if name == "bias_values" else -1
        # Words and stop strings are compared from their ends.
        front = [name in ("banned", "stop") and axis == 2 for axis in range(x.ndim)]
        missing = [power_of_two(size) - size if axis and size else 0 for axis, size in enumerate(x.shape)]
        widths = [(n, 0) if at_front else (0, n) for n, at_front in zip(missing, front, strict=True)]
        return np.pad(x, widths, constant_values=fill)

    return {name: pad(name, x) for name, x in settings.items()}


def is_given(values):
    """Returns whether a list of `make_settings` has columns: a bool where its shape is known, else a bool tensor."""
    size = tf.TensorShape(values.shape).num_elements()
    return tf.size(values) > 0 if size is None else size > 0


def power_of_two(size, least=1):
    """Returns the smallest of `least`, 2 `least`, 4 `least`, ... that is not below `size`."""
    while least < size:
        least *= 2
    return least


def check_int32(name, value):
    """Raises ValueError unless `value` is an int that fits into 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not -(2**31) <= value < 2**31:
        raise ValueError(f"{name} must be an int of 32 bits; got {value!r}")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the loop must know of a tokenizer, as plain arrays.

    Attributes:
        end_id: int, the token that ends a text, or -1.
        size: int, ids from here on are never chosen; None means that all may be.
        bytes: int32 [N], the bytes of all tokens one after another, or None where stop strings are not used.
        first: int32 [V + 1], where in them each token begins.
        lead: int32 [V], bytes that a token loses at the beginning of a text.
    """

    end_id: int = -1
    size: int | None = None
    bytes: np.ndarray | None = None
    first: np.ndarray | None = None
    lead: np.ndarray | None = None

    @functools.cached_property
    def tables(self):
        """Returns `bytes` (at least one), `first` and `lead` as tensors outside of every graph, so that graphs share them."""
        with tf.init_scope():
            return tuple(tf.constant(x) for x in (self.bytes if len(self.bytes) else [0], self.first, self.lead))

    def traced_once(self, function, *inputs):
        """Calls `function(*inputs)`; in a graph, as a function that all graphs of this vocabulary share.

        What the processors and cut-offs do takes longer to trace than a small model; it stands in every program at least
        twice, and in an export in every signature.
        """
        if tf.executing_eagerly():
            return function(*inputs)
        shapes = tf.nest.map_structure(lambda x: (x.dtype, str(x.shape)), inputs)
        plain = getattr(function, "func", function)
        key = (plain.__module__, plain.__qualname__, repr(shapes))
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:  # XLA has a graph for every shape; programs keep those they use
                self._graphs.clear()
            with tf.init_scope():
                # A partial, because TensorFlow takes functions of one name for one that retraces, and warns; not inlined,
                # because its copies would all be optimised.
                self._graphs[key] = tf.function(
                    functools.partial(function), autograph=False, experimental_attributes={"_noinline": True}
                )
        return self._graphs[key](*inputs)

    @functools.cached_property
    def _graphs(self):
        return {}

    @classmethod
    def of(cls, tokenizer):
        pieces, firsts = tokenizer.token_bytes(), tokenizer.token_bytes(first=True)
        sizes = np.array([len(piece) for piece in pieces], np.int32)
        lead = sizes - np.array([len(piece) for piece in firsts], np.int32)
        flat = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int32)
        return cls(tokenizer.end_id, tokenizer.vocab_size, flat, np.append(0, np.cumsum(sizes)).astype(np.int32), lead)


def _number(name, value, num_rows):
    dtype, default, words, rule = NUMBERS[name]
    value = default if value is None and name != "seed" else value
    value = default if name == "seed" and value is None else value
    each = list(value) if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1 else [value]
    if len(each) not in (1, num_rows):
        raise ValueError(f"{name} must be one value or one for each of {num_rows} prompts; got {len(each)}")
    for one in each:
        if dtype is np.int32:
            check_int32(name, one)
        elif isinstance(one, bool) or not isinstance(one, int | float | np.integer | np.floating):
            raise ValueError(f"{name} must be a number; got {one!r}")
        with np.errstate(over="ignore"):
            stored = dtype(one)  # what is no number of 32 bits may round to what is out of range
        if not rule(one) or not rule(stored):
            raise ValueError(f"{name} must be {words}; got {one}")
    return np.broadcast_to(np.array(each, dtype), [num_rows]).copy()


def _lists(name, value, num_rows, kind):
    """Returns a list for each row, of what was given for all of them or for each."""
    if value is None:
        return [[]] * num_rows
    value = [value] if isinstance(value, kind) and not isinstance(value, bool) else value
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"{name} must be a list of {kind.__name__}; got {value!r}")
    lists = [isinstance(part, list | tuple | np.ndarray) for part in value]
    nested = any(lists)
    if nested and not all(lists):
        raise ValueError(f"{name} must be one list or one for each prompt; got {value!r}")
    rows = [list(row) for row in value] if nested else [list(value)] * num_rows
    if len(rows) != num_rows:
        raise ValueError(f"{name} must be one list or one for each of {num_rows} prompts; got {len(rows)}")
    for row in rows:
        for item in row:
            good = isinstance(item, str) if kind is str else isinstance(item, int | np.integer)
            if not good or isinstance(item, bool) or item == "":
                rule = "strings that are not empty" if kind is str else "whole numbers"
                raise ValueError(f"{name} must be {rule}; got {item!r}")
    return rows


def _padded(rows, axes, front=False, fill=-1, dtype=np.int32):
    """Lays out lists of rows (of lists, with 2 axes) as one array, padded at the end, or at the front of the last axis."""
    if axes == 1:
        width = max((len(row) for row in rows), default=0)
        out = np.full([len(rows), width], fill, dtype)
        for at, row in enumerate(rows):
            out[at, width - len(row) if front else 0 : width if front else len(row)] = row
        return out
    count = max((len(row) for row in rows), default=0)
    width = max((len(item) for row in rows for item in row), default=0)
    out = np.full([len(rows), count, width], fill, dtype)
    for at, row in enumerate(rows):
        for number, item in enumerate(row):
            out[at, number, width - len(item) :] = item
    return out


def _biases(values, num_rows, vocab_size, tokenizer):
    given = values.get("logit_bias")
    each = given if isinstance(given, list | tuple) else [given] * num_rows
    banned = _lists("banned_ids", values.get("banned_ids"), num_rows, int)
    if len(each) != num_rows:
        raise ValueError(f"logit_bias must be one dict or one for each of {num_rows} prompts; got {len(each)}")
    ids, numbers = [], []
    for row, banned_row in zip(each, banned, strict=True):
        if not isinstance(row, dict | None):
            raise ValueError(f"logit_bias must be a dict of ids or tokens to numbers; got {row!r}")
        biases = {}
        for token, value in (row or {}).items():
            known = tokenizer is not None and isinstance(token, str)
            index = tokenizer.id_of(token) if known else token
            _check_ids("logit_bias", [index], vocab_size)
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value == np.inf:
                raise ValueError(f"logit_bias must give numbers below infinity; got {value!r}")
            biases[index] = value
        _check_ids("banned_ids", banned_row, vocab_size)
        biases |= dict.fromkeys(banned_row, -np.inf)
        ids.append(list(biases))
        numbers.append(list(biases.values()))
    return _padded(ids, 1), _padded(numbers, 1, fill=0, dtype=np.float32)


def _ways_to_write(words, tokenizer):
    if words and tokenizer is None:
        raise ValueError(f"banned_words needs a tokenizer; got {words!r} and none")
    found = []
    for word in words:
        found += [ids for ids in tokenizer.encode([word, f" {word}"]).to_list() if ids and ids not in found]
    return found


def _forced(value, num_rows, vocab_size, tokenizer):
    if value is not None and not isinstance(value, str | list | tuple | np.ndarray):
        raise ValueError(f"forced_prefix must be a str, ids, or a list of them; got {value!r}")
    whole = int | np.integer
    one_for_all = value is None or isinstance(value, str) or all(x is None or isinstance(x, whole) for x in value)
    each = [value] * num_rows if one_for_all else list(value)
    if len(each) != num_rows:
        raise ValueError(f"forced_prefix must be one or one for each of {num_rows} prompts; got {len(each)}")
    rows = []
    for row in each:
        if isinstance(row, str):
            if tokenizer is None:
                raise ValueError(f"forced_prefix needs a tokenizer for a str; got {row!r} and none")
            row = tokenizer.encode(row).numpy().tolist()
        row = [-1 if x is None else x for x in row or []]
        _check_ids("forced_prefix", [x for x in row if x != -1], vocab_size)
        rows.append(row)
    return _padded(rows, 1)


def _automata(value, num_rows, vocab_size):
    each = list(value) if isinstance(value, list | tuple) else [value] * num_rows
    if len(each) != num_rows:
        raise ValueError(f"automaton must be one or one for each of {num_rows} prompts; got {len(each)}")
    tables, starts, size = {}, [], 0
    for automaton in each:
        if automaton is not None and not hasattr(automaton, "next_state"):
            raise ValueError(f"automaton must be a TokenAutomaton or None; got {automaton!r}")
        if automaton is not None and id(automaton) not in tables:
            table = np.asarray(automaton.next_state, np.int32)
            if table.ndim != 2 or table.shape[1] > vocab_size:
                raise ValueError(f"automaton must have at most {vocab_size} tokens a state; got shape {table.shape}")
            if table.shape[1] < vocab_size:
                table = np.pad(table, [(0, 0), (0, vocab_size - table.shape[1])], constant_values=-1)
            tables[id(automaton)] = size, np.where(table < 0, -1, table + size) if size else table
            size += len(table)
        starts.append(-1 if automaton is None else tables[id(automaton)][0])
    joint = [table for _, table in tables.values()] or [np.zeros([0, vocab_size], np.int32)]
    return np.array(starts, np.int32), joint[0] if len(joint) == 1 else np.concatenate(joint)


def _check_ids(name, ids, vocab_size):
    for index in ids:
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < vocab_size:
            raise ValueError(f"{name} must hold ids in [0, {vocab_size}); got {index!r}")
