"""Token automata: the languages against Python's `re` and `jsonschema`, the tables by random walks over cut characters."""

import itertools
import json
import random
import re
import sys
import types

import jsonschema  # nbformat brings it
import numpy as np
import pytest

import tfllm
from tfllm.generation.automaton import TokenAutomaton
from tfllm.generation.json_schema import json_schema
from tfllm.generation.regex import regex
from tfllm.generation.regular import byte_automaton, chars, listed, literal, repeat

LETTERS = 'ab0 \n"é词😀'
BYTES = [bytes([b]) for b in range(256)]
CUT = [
    b"",
    *BYTES,
    b"ab",
    b"ba",
    "é".encode(),
    "词"[:1].encode()[:2],
    "词😀".encode()[1:5],
    b'a"',
    b'": "',
    b"\xa9a",
    b"00",
]


def fake(tokens, end_id=0, first=None):
    """A tokenizer of given bytes; id 0 is its end token."""
    return types.SimpleNamespace(
        vocab_size=len(tokens),
        end_id=end_id,
        token_bytes=lambda *, first=False, other=first: (first and other) or tokens,
    )


def after(automaton, ids, state=0):
    for index in ids:
        state = automaton.next_state[state, index] if state >= 0 else -1
    return state


def accepts(automaton, tokens, text):
    """Whether a text can be written, by every way of cutting it into tokens; all ways must say the same."""
    data = text.encode()
    reached = {0: {0}}  # bytes written: states, -1 among them
    for at in range(len(data)):
        for index, token in enumerate(tokens):
            if token and data.startswith(token, at):
                states = {
                    int(automaton.next_state[state, index]) if state >= 0 else -1 for state in reached.get(at, ())
                }
                reached.setdefault(at + len(token), set()).update(states)
    (state,) = reached[len(data)]
    return state >= 0 and bool(automaton.accepting[state])


def bytes_accept(table, accepting, text):
    state = 0
    for byte in text.encode():
        state = table[state, byte]
        if state < 0:
            return False
    return bool(accepting[state])


def walk(automaton, tokens, draw, longest=60):
    """Writes a text by random tokens, and ends it by the shortest way that there is."""
    distance = np.where(automaton.accepting, 0, 10**6)
    for _ in range(len(distance)):
        through = np.where(automaton.next_state >= 0, distance[automaton.next_state] + 1, 10**6)
        distance = np.minimum(distance, through.min(1))
    assert distance.max() < 10**6  # no state is a dead end
    state, written = 0, b""
    while not (automaton.accepting[state] and (draw.random() < 0.2 or len(written) > longest)):
        allowed = [i for i in np.flatnonzero(automaton.next_state[state] >= 0) if tokens[i]]
        if not allowed:
            break
        if len(written) > longest:
            allowed = [i for i in allowed if distance[automaton.next_state[state, i]] < distance[state]]
        index = draw.choice(allowed)
        written += tokens[index]
        state = automaton.next_state[state, index]
    assert automaton.accepting[state]
    return written.decode()


def random_pattern(draw, depth=3):
    kind = draw.randrange(9 if depth else 3)
    if kind == 0:
        return re.escape(draw.choice(LETTERS))
    if kind == 1:
        return draw.choice(
            [".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "[ab]", "[^a]", "[^é词]", "[0-9a-é]", r"[\s😀]"]
        )
    if kind in (2, 3, 4):
        return "".join(random_pattern(draw, max(depth - 1, 0)) for _ in range(draw.randrange(3)))
    if kind in (5, 6):
        return (
            "("
            + draw.choice(["", "?:"])
            + "|".join(random_pattern(draw, depth - 1) for _ in range(draw.randrange(1, 4)))
            + ")"
        )
    return (
        "(?:"
        + random_pattern(draw, depth - 1)
        + ")"
        + draw.choice(["*", "+", "?", "{2}", "{1,2}", "{,2}", "*?", "+?", "{2,}"])
    )


def random_text(draw):
    return "".join(draw.choice(LETTERS) for _ in range(draw.randrange(7)))


def test_random_patterns_match_what_re_matches():
    draw, matched = random.Random(0), 0
    for _ in range(400):
        pattern = random_pattern(draw)
        table, accepting = byte_automaton(regex(pattern))
        for text in [random_text(draw) for _ in range(25)]:
            expected = re.fullmatch(pattern, text, re.ASCII) is not None
            assert bytes_accept(table, accepting, text) == expected, (pattern, text)
            matched += expected
    assert 1000 < matched < 9000


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a{",
        "a{}",
        "a{x}b",
        "a{,}",
        "{a}",
        "a{0}b",
        "[]a]",
        "[^]a]",
        "[a-]",
        "[-a]",
        "[a^]",
        r"[\]\\]",
        r"[\b\n]",
        r"[\d-]",
        r"[+-.]",
        r"\x61\u8bcd\U0001F600",
        r"\0\07",
        r"\.\*\-\é",
        "(?P<name>a|b)",
        "()|a",
        "(|a)*b",
        "(a*)*",
        "((a?){2,3}b?)*?",
        "^ab$",
        "^a|b$",
        "}a",
        "a]",
    ],
)
def test_syntax_is_that_of_re(pattern):
    table, accepting = byte_automaton(regex(pattern))
    texts = ["".join(some) for size in range(4) for some in itertools.product("ab{}]-\\x", repeat=size)]
    texts += ["a{}", "a{x}b", "{a}", "a\u8bcd😀", "\0\7", ".*-é", "+", "^", "\b", "\n", "5", "aaaa", "aaab"]
    assert [bytes_accept(table, accepting, text) for text in texts] == [
        re.fullmatch(pattern, text, re.ASCII) is not None for text in texts
    ]


def test_ranges_hold_exactly_their_code_points():
    draw = random.Random(1)
    edges = [0x7F, 0x80, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x3FFFF, 0x40000, 0x10FFFF]
    for _ in range(60):
        low, high = sorted(draw.choice(edges) if draw.random() < 0.5 else draw.randrange(0x110000) for _ in range(2))
        table, accepting = byte_automaton(chars([(low, high)]))
        near = {point + by for point in (low, high, *edges) for by in (-65, -64, -1, 0, 1, 63, 64, 4096)}
        for point in (p for p in near if 0 <= p < 0x110000 and not 0xD800 <= p < 0xE000):
            assert bytes_accept(table, accepting, chr(point)) == (low <= point <= high)


def test_every_byte_string_that_is_accepted_is_utf_8():
    table, accepting = byte_automaton(regex("[^a]"))
    for data in itertools.product(
        [0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xEF], repeat=3
    ):
        state = 0
        for byte in data:
            state = table[state, byte] if state >= 0 else -1
        try:
            expected = len(bytes(data).decode()) == 1
        except UnicodeDecodeError:
            expected = False
        assert (state >= 0 and accepting[state]) == expected


def test_the_automaton_is_the_smallest():
    # Known: to remember the last nine letters takes 2**9 states; a length takes one a letter and one before.
    assert len(byte_automaton(regex("[ab]*a[ab]{8}"))[0]) == 512
    assert len(byte_automaton(regex("a{0,40}"))[0]) == 41
    assert len(byte_automaton(regex("(a|b)(c|d)|ac|bc|bd"))[0]) == 3
    draw = random.Random(2)
    for _ in range(100):
        table, accepting = byte_automaton(regex(random_pattern(draw)))
        alike = accepting[:, None] == accepting  # pairs of states that no byte string told apart yet
        wide = np.pad(alike, [0, 1])
        for _ in range(len(table)):
            wide[:-1, :-1], wide[-1, -1] = alike, True
            alike = alike & wide[table[:, None], table[None]].all(-1)
        assert np.array_equal(alike, np.eye(len(table), dtype=bool))


def test_lists_and_repeats_with_something_between():
    comma = literal(",")
    table, accepting = byte_automaton(
        listed([(literal("a"), False), (literal("b"), True), (literal("c"), False)], comma)
    )
    found = {
        "".join(t)
        for n in range(6)
        for t in itertools.product("abc,", repeat=n)
        if bytes_accept(table, accepting, "".join(t))
    }
    assert found == {"b", "a,b", "b,c", "a,b,c"}
    for low, high in ((0, None), (1, None), (3, None), (0, 0), (0, 2), (2, 3)):
        table, accepting = byte_automaton(repeat(literal("a"), low, high, comma))
        counts = [count for count in range(7) if bytes_accept(table, accepting, ",".join("a" * count))]
        assert counts == list(range(low, 7 if high is None else high + 1))
        assert not any(bytes_accept(table, accepting, text) for text in (",", ",a", "a,", "aa", "a,,a"))


def test_random_walks_over_cut_characters_write_texts_of_the_pattern():
    draw, lengths = random.Random(3), set()
    for _ in range(60):
        pattern = random_pattern(draw) + random_pattern(draw)
        automaton = TokenAutomaton.from_regex(pattern, fake(CUT))
        for _ in range(10):
            text = walk(automaton, CUT, draw, longest=20)
            assert re.fullmatch(pattern, text, re.ASCII), (pattern, text)
            lengths.add(len(text))
    assert len(lengths) > 10


def test_every_way_of_cutting_a_text_into_tokens_is_allowed():
    draw, found = random.Random(4), [0, 0]
    for _ in range(60):
        pattern = random_pattern(draw)
        automaton = TokenAutomaton.from_regex(pattern, fake(CUT))
        for text in [random_text(draw) for _ in range(8)]:
            expected = re.fullmatch(pattern, text, re.ASCII) is not None
            assert accepts(automaton, CUT, text) == expected
            found[expected] += 1
    assert min(found) > 50


def test_the_end_token_is_allowed_where_a_text_may_end_and_silent_tokens_never():
    automaton = TokenAutomaton.from_regex("ab?", fake([b"", b"a", b"b", b"", b"ab"]))
    assert (automaton.next_state.dtype, automaton.accepting.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(automaton.next_state, [[-1, 1, -1, -1, 2], [1, -1, 2, -1, -1], [2, -1, -1, -1, -1]])
    np.testing.assert_array_equal(automaton.accepting, [False, True, True])


def test_ways_that_the_vocabulary_cannot_finish_are_closed():
    # Without c, "a" leads nowhere but to "ab"; of three a's, pairs write none.
    automaton = TokenAutomaton.from_regex("ac|abb|bc", fake([b"", b"a", b"b"]))
    np.testing.assert_array_equal(automaton.next_state, [[-1, 1, -1], [-1, -1, 2], [-1, -1, 3], [3, -1, -1]])
    automaton = TokenAutomaton.from_regex("b|(aaa|aaaa)b", fake([b"", b"aa", b"b"]))
    assert accepts(automaton, [b"", b"aa", b"b"], "aaaab")
    with pytest.raises(ValueError, match="the pattern 'aaa' must allow a text that the vocabulary can write"):
        TokenAutomaton.from_regex("aaa", fake([b"", b"aa"]))


def test_the_first_token_counts_by_the_bytes_that_it_has_at_the_beginning():
    later, first = [b"", b" a", b" b", b"s"], [b"", b"a", b"b", b"s"]
    automaton = TokenAutomaton.from_regex("(a|b)s?( as?)*", fake(later, first=first))
    assert automaton.accepting[after(automaton, [2, 3, 1, 1])]
    assert after(automaton, [1, 2]) < 0
    assert after(automaton, [3]) < 0
    with pytest.raises(ValueError, match="a text that the vocabulary can write"):
        TokenAutomaton.from_regex(" a", fake(later, first=first))
    words = tfllm.text.WordTokenizer.train(
        "to be or not to be", vocab_size=20, special_tokens=("<unk>", "<|endoftext|>")
    )
    automaton = TokenAutomaton.from_regex("(to|or)( be){2}", words)
    assert automaton.accepting[after(automaton, words.encode("or be be").numpy())]


@pytest.mark.parametrize("kind", ["characters", "bytes", "merges"])
def test_tokenizers_of_the_package(kind):
    corpus = 'to be or not to be, 词语 😀 {"name": "é", "size": 12}'
    special = ("<unk>", "<|endoftext|>")
    tokenizer = {
        "characters": lambda: tfllm.CharTokenizer.train(corpus, special_tokens=special),
        "bytes": lambda: tfllm.BPETokenizer.train(corpus, vocab_size=257, special_tokens=special[1:]),
        "merges": lambda: tfllm.BPETokenizer.train([corpus] * 9, vocab_size=290, special_tokens=special[1:]),
    }[kind]()
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}
    automaton = TokenAutomaton.from_json_schema(schema, tokenizer)
    assert automaton.next_state.shape[1] == tokenizer.vocab_size
    for text in ('{"name": "é", "size": 12}', '{"name":"词语 😀"}', "{}"):
        assert automaton.accepting[after(automaton, tokenizer.encode(text).numpy())]
    assert after(automaton, tokenizer.encode('{"size": 1, "name').numpy()) < 0
    draw, tokens = random.Random(5), tokenizer.token_bytes()
    for _ in range(20):
        jsonschema.validate(json.loads(walk(automaton, tokens, draw)), schema)


def test_a_large_vocabulary():
    tokenizer = tfllm.data.load_vocabulary("gpt2")
    schema = SCHEMAS["references"]
    automaton, (table, accepting) = (
        TokenAutomaton.from_json_schema(schema, tokenizer),
        byte_automaton(json_schema(schema)),
    )
    np.testing.assert_array_equal(automaton.accepting, accepting)  # with every byte a token, all states stay
    pieces = tokenizer.token_bytes()
    for token in range(0, 50_256, 50):
        state = np.arange(len(table))
        for byte in pieces[token]:
            state = np.where(state >= 0, table[state, byte], -1)
        np.testing.assert_array_equal(automaton.next_state[:, token], state)
    for text in ('{"from": {"city": "北京"}, "to": {"city": "Köln"}}', '{"from":{"city":"Köln"},"to":{"city":"Köln"}}'):
        assert automaton.accepting[after(automaton, tokenizer.encode(text).numpy())]


def test_choices():
    tokenizer = fake(CUT)
    automaton = TokenAutomaton.from_choices(["yes", "no", "é."], tokenizer)
    assert [accepts(automaton, CUT, text) for text in ("yes", "no", "é.", "ye", "e.", "yesno", "")] == [True] * 3 + [
        False
    ] * 4
    for texts in ([], "yes", [b"yes"]):
        with pytest.raises(ValueError, match="texts must be a list of strings that is not empty"):
            TokenAutomaton.from_choices(texts, tokenizer)


SCHEMAS = {
    "scalars": {"type": ["integer", "number", "boolean", "null"]},
    "string": {"type": "string", "minLength": 2, "maxLength": 5},
    "pattern": {"type": "string", "pattern": r'^[a"\\]+\n?$'},
    "pattern within": {"type": "string", "pattern": "b.b|^0"},
    "date": {"type": "string", "format": "date"},
    "date-time": {"type": "string", "format": "date-time"},
    "uuid": {"type": "string", "format": "uuid"},
    "enum": {"enum": ["é", 'a"b', 1, None, True, [1, {"k": "v"}], {}]},
    "typed enum": {"type": ["string", "boolean"], "enum": ["a", 1, False]},
    "const": {"const": {"a": [1.5, -2]}},
    "object": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b/~é": {"type": "null"}, "c": {"type": "boolean"}},
        "required": ["b/~é"],
        "additionalProperties": False,
    },
    "optional": {"type": "object", "properties": {name: {"const": 0} for name in "abcd"}},
    "empty": {"type": "object"},
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    "long array": {"type": "array", "items": {"type": "array", "items": {"type": "null"}}},
    "union": {"anyOf": [{"type": "integer"}, {"oneOf": [{"type": "null"}, {"type": "string", "maxLength": 1}]}]},
    "references": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Order",
        "type": "object",
        "properties": {
            "from": {"$ref": "#/$defs/a~1place"},
            "to": {"$ref": "#/$defs/a~1place", "description": "where"},
        },
        "required": ["from", "to"],
        "$defs": {
            "a/place": {"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"]},
            "city": {"enum": ["Köln", "北京"]},
        },
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_walks_write_documents_that_obey_the_schema(name):
    schema, draw = SCHEMAS[name], random.Random(6)
    automaton = TokenAutomaton.from_json_schema(json.dumps(schema), fake(CUT))
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["date", "uuid"]))
    texts = {walk(automaton, CUT, draw) for _ in range(60)}
    for text in texts:
        checker.validate(json.loads(text))
    assert len(texts) > {"const": 0, "empty": 0, "typed enum": 1}.get(name, 2)


DOCUMENTS = [
    0, -7, 120, 1.25, -0.5, 1e-7, True, None, "", "a", "ab", "é词", "aaaaaa", 'a"\\', "abab", "0b", 'a"b',
    "2024-02-29", "2023-02-29", "2000-02-29", "1900-02-29", "2024-04-31", "9d1d2e0c-0b5c-4c29-8a3f-0123456789ab",
    [], [1, 2], [1], [1, 2, 3, 4, 5], [[], [None]], [1, {"k": "v"}], {}, {"a": 1}, {"a": 1, "b/~é": None},
    {"b/~é": None, "c": False}, {"b/~é": 1}, {"a": 0, "c": 0}, {"d": 0}, {"x": 1}, {"a": [1.5, -2]},
    {"from": {"city": "Köln"}, "to": {"city": "北京"}}, {"from": {"city": "Köln"}, "to": {}},
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in SCHEMAS if name != "date-time"]
)  # which jsonschema does not check by itself
def test_documents_are_accepted_where_jsonschema_accepts_them(name):
    schema = SCHEMAS[name]
    closed = schema | ({"additionalProperties": False} if schema.get("type") == "object" else {})
    checker = jsonschema.Draft202012Validator(closed, format_checker=jsonschema.FormatChecker(["date", "uuid"]))
    table, accepting = byte_automaton(json_schema(schema))
    for document in DOCUMENTS:
        expected = checker.is_valid(document)
        for separators in ((", ", ": "), (",", ":")):
            text = json.dumps(document, ensure_ascii=False, separators=separators)
            assert bytes_accept(table, accepting, text) == expected, document


def test_strings_hold_no_character_that_json_forbids():
    table, accepting = byte_automaton(json_schema({"type": "string"}))
    for point in [*range(0x250), 0x2028, 0x8BCD, 0x1F600]:
        raw, escaped = f'"{chr(point)}"', json.dumps(chr(point), ensure_ascii=False)
        assert bytes_accept(table, accepting, escaped) == (point >= 32 or chr(point) in "\b\f\n\r\t")
        assert bytes_accept(table, accepting, raw) == (raw == escaped)


def test_moments_are_written_as_rfc_3339_has_them():
    table, accepting = byte_automaton(json_schema({"type": "string", "format": "date-time"}))
    for text in ("2024-02-29T23:59:59Z", "1999-12-31T00:00:00.125+05:30"):
        assert bytes_accept(table, accepting, f'"{text}"')
    for text in (
        "2023-02-29T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00Z",
        "2024-1-1T0:0:0Z",
    ):
        assert not bytes_accept(table, accepting, f'"{text}"')


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (3, "pattern must be a str; got 3"),
        ("a(?=b)", r"no look-around.*got 'a\(\?=b\)', position 1"),
        ("(?<!b)a", "no look-around.*position 0"),
        ("(?i)a", "no look-around.*flag.*position 0"),
        (r"(a)\1", "no back reference.*position 3"),
        (r"\bword", r"no escape \\b.*position 0"),
        (r"a\Z", r"no escape \\Z.*position 1"),
        ("a^b", r"\^ and \$ at its ends only.*position 1"),
        ("(^a)", r"\^ and \$ at its ends only.*position 1"),
        ("a$b", r"\^ and \$ at its ends only.*position 1"),
        ("*a", "a part before each repeat.*position 0"),
        ("a|{2}", "a part before each repeat.*position 2"),
        ("a**", "repeat a part once only.*position 2"),
        ("a{2}{3}", "repeat a part once only.*position 4"),
        ("a++", "no possessive repeat.*position 1"),
        ("a{3,2}", "most is below its least.*position 1"),
        ("a{99999999999}", r"below 10\*\*9.*position 2"),
        ("(a", r"close every \(.*position 0"),
        ("a)", r"no \) without its \(.*position 1"),
        ("a[bc", r"close every \[.*position 1"),
        ("[", r"close every \[.*position 0"),
        ("[z-a]", "ranges from a character to one not below it.*position 2"),
        (r"[\d-z]", "ranges from a character to one not below it.*position 3"),
        ("a\\", "a character behind each backslash.*position 2"),
        (r"\x1", "2 hexadecimal digits.*position 0"),
        (r"\U00110000", "8 hexadecimal digits.*position 0"),
        ("(?P<1>a)", "name a group by an identifier.*position 0"),
        ("(" * 60 + ")" * 60, "at most 50 deep.*position 50"),
    ],
)
def test_patterns_that_are_not_regular_are_refused_with_the_position(pattern, message):
    with pytest.raises(ValueError, match=message):
        TokenAutomaton.from_regex(pattern, fake(CUT))


def test_automata_that_grow_too_large_are_refused():
    for pattern in ("a{20000}", "(?:){999999999}", "((a{500}){500}){500}"):
        with pytest.raises(ValueError, match="at most 20000 states before it is made deterministic"):
            byte_automaton(regex(pattern))
    with pytest.raises(ValueError, match="at most 1000000 states in its subsets; got"):
        byte_automaton(regex("(a?){3000}"))
    for pattern in ("a{5000}", "(a|b)*a(a|b){13}"):
        with pytest.raises(ValueError, match="at most 5000 states; got"):
            byte_automaton(regex(pattern))
    with pytest.raises(
        ValueError, match="at most 200,000,000 bytes; got 1001 states for 60000 tokens, 240,240,000 bytes"
    ):
        TokenAutomaton.from_regex("a{1000}", fake([b"", b"a"] * 30_000))
    with pytest.raises(ValueError, match="must allow at least one text; got none"):
        TokenAutomaton.from_regex(r"a[^\s\S]", fake(CUT))


def test_a_vocabulary_without_an_end_token_stops_where_nothing_may_follow():
    tokens = [b"a", b"b"]
    np.testing.assert_array_equal(
        TokenAutomaton.from_regex("ab", fake(tokens, end_id=-1)).next_state, [[1, -1], [-1, 2], [-1, -1]]
    )
    np.testing.assert_array_equal(TokenAutomaton.from_regex("a*", fake(tokens, end_id=-1)).next_state, [[0, -1]])


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (3, "an object at #; got 3"),
        ("{", "schema must be JSON; got '{'"),
        ("[" * 100_000, "schema must be JSON"),
        ({}, "a type of object.*at #; got None"),
        ({"type": "text"}, "at #; got 'text'"),
        ({"type": []}, r"at #; got \[\]"),
        ({"type": "integer", "minimum": 3}, "got minimum at #"),
        ({"type": "array", "items": {"type": "string", "contentEncoding": "x"}}, "got contentEncoding at #/items"),
        ({"allOf": [{"type": "null"}]}, "got None"),
        ({"anyOf": []}, "give anyOf at # at least one schema"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "keywords that are known here, anyOf; got type at #"),
        ({"type": "array"}, "items of the array at #; got none"),
        ({"type": "array", "items": True}, "an object at #/items; got True"),
        (
            {"type": "array", "items": {"type": "null"}, "minItems": -1},
            "0 <= minItems <= maxItems at #; got -1 and None",
        ),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "0 <= minLength <= maxLength at #; got 3 and 2"),
        ({"type": "string", "maxLength": True}, "give maxLength at # as int; got True"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "give pattern at # without another rule"),
        ({"type": "string", "pattern": "(?=a)"}, "pattern must have no look-around"),
        ({"type": "string", "format": "email"}, "a format of date, time, date-time, uuid at #; got 'email'"),
        ({"type": "object", "properties": {"a/b": {"type": "x"}}}, "at #/properties/a~1b; got 'x'"),
        ({"type": "object", "required": ["a"]}, "among the properties at #; got 'a'"),
        ({"type": "object", "additionalProperties": True}, "additionalProperties false or absent at #"),
        ({"type": "string", "enum": [1, 2]}, "allow a value at #"),
        ({"enum": [float("nan")]}, "values of JSON; got nan at #"),
        ({"const": {1, 2}}, "schema must be JSON"),
        ({"type": {}, "enum": [1]}, "a type of object.*got {}"),
        ({"type": "object", "required": [[]]}, r"among the properties at #; got \[\]"),
        ({"$ref": ["#/a"]}, "give .ref at # as str"),
        ({"$ref": "#"}, "not refer back to itself; got .ref '#' at #"),
        ({"$ref": "#/$defs/b"}, "hold what a .ref names; got '#/.defs/b' at #"),
        ({"$ref": "other.json"}, "hold what a .ref names; got 'other.json'"),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
            "not refer back to itself; got .ref '#/.defs/a' at #/.defs/a/items",
        ),
    ],
)
def test_schemas_that_are_not_known_are_refused_with_keyword_and_place(schema, message):
    with pytest.raises(ValueError, match=message):
        TokenAutomaton.from_json_schema(schema, fake(CUT))


def test_deep_schemas_and_references_that_double_are_refused():
    schema = {"type": "null"}
    for _ in range(sys.getrecursionlimit() // 2):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="at most 50 deep"):
        json_schema(schema)
    value = None
    for _ in range(200):
        value = [value]
    with pytest.raises(ValueError, match="at most 50 deep"):
        json_schema({"const": value})
    doubled = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)} | {"d40": {"type": "null"}}
    with pytest.raises(ValueError, match="at most 20000 states before"):
        TokenAutomaton.from_json_schema({"$ref": "#/$defs/d0", "$defs": doubled}, fake(CUT))
