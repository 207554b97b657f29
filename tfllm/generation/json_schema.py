"""JSON schemas to languages: the documents that obey a schema, each value written in one way.

Documents are written as `json.dumps(value, ensure_ascii=False)` writes them, with the blank after `,` and `:` left free.
Within that:

    object   `properties`, in their order; those not in `required` may be missing; no others (so `additionalProperties` must be
             absent or false, and absent means false)
    array    `items`, `minItems`, `maxItems`
    string   `minLength` and `maxLength` in code points, or `pattern` (of `regex.py`, found anywhere unless it has ^ and $), or
             `format` "date" (from the year 1000 on), "time", "date-time" or "uuid"; no control characters but \\b \\f \\n \\r \\t
    integer, number (exponents of at most two digits), boolean, null; several types in a list
    `enum`, `const`; `anyOf`, and `oneOf` read as `anyOf`; `$ref` into the schema itself, if it does not come back to itself

Whatever only describes (`title`, `description`, `default`, ...) is passed over, and every other keyword refused.
Source: JSON Schema, draft 2020-12.
"""

import json

from tfllm.generation.regex import ANY, complement, regex
from tfllm.generation.regular import chars, choice, listed, literal, repeat, sequence

_MAX_DEPTH = 50
_DESCRIPTIONS = {
    "$comment",
    "$id",
    "$schema",
    "$defs",
    "definitions",
    "default",
    "deprecated",
    "description",
    "examples",
}
_DESCRIPTIONS |= {"readOnly", "title", "writeOnly"}
_KEYWORDS = {  # of each type
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": set(),
    "number": set(),
    "boolean": set(),
    "null": set(),
}
_CLASSES = {"object": dict, "array": list, "string": str, "integer": int, "number": int | float, "null": type(None)}
_ESCAPES = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_UNESCAPED = complement([(0, 31), (34, 34), (92, 92)])
_INTEGER = "-?(?:0|[1-9][0-9]*)"
_DAY = (
    r"(?:[1-9]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?:[1-9]\d(?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_FORMATS = {  # RFC 3339 and RFC 4122
    "date": _DAY,
    "time": _TIME,
    "date-time": f"{_DAY}T{_TIME}",
    "uuid": "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


def json_schema(schema):
    """Returns the language of the JSON documents that obey a schema.

    Args:
        schema: dict, or str that holds it as JSON.

    Raises:
        ValueError: on what is no schema, or uses a keyword that this file does not know; it names keyword and place.

    Example:
        >>> from tfllm.generation.regular import byte_automaton
        >>> table, accepting = byte_automaton(json_schema({"enum": [True, None]}))
        >>> "".join(sorted(map(chr, (table[0] >= 0).nonzero()[0])))
        'nt'
    """
    try:
        schema = json.loads(schema if isinstance(schema, str) else json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"schema must be JSON; got {str(schema)[:80]!r}: {error}") from None
    return _Schema(schema).language(schema, "#", ())


class _Schema:
    """Makes languages of the parts of one schema; a part has a place, such as `#/properties/name`."""

    def __init__(self, root):
        self.root, self.referred = root, {}

    def language(self, schema, place, within):
        """Returns the language of a part; `within` holds the references that led to it."""
        if not isinstance(schema, dict):
            raise ValueError(f"schema must have an object at {place}; got {schema!r}")
        _check_depth(place, within)
        keywords = schema.keys() - _DESCRIPTIONS
        for keyword in ("$ref", "anyOf", "oneOf"):
            if keyword in keywords:
                self.only(schema, keywords, {keyword}, place)
                if keyword == "$ref":
                    return self.reference(self.checked(schema, keyword, str, place), place, within)
                parts = self.checked(schema, keyword, list, place)
                if not parts:
                    raise ValueError(f"schema must give {keyword} at {place} at least one schema; got none")
                return choice(*(self.language(part, f"{place}/{keyword}/{i}", within) for i, part in enumerate(parts)))
        types = schema.get("type")
        types = types if isinstance(types, list) and types else [types]
        for name in types if keywords.isdisjoint({"enum", "const"}) or "type" in keywords else []:
            if not isinstance(name, str) or name not in _KEYWORDS:
                raise ValueError(f"schema must give a type of {', '.join(_KEYWORDS)} at {place}; got {name!r}")
        if "enum" in keywords or "const" in keywords:
            self.only(schema, keywords, {"type", "enum" if "enum" in keywords else "const"}, place)
            return self.values(schema, types, place)
        self.only(schema, keywords, {"type"}.union(*(_KEYWORDS[name] for name in types)), place)
        return choice(*(getattr(self, name)(schema, place, within) for name in types))

    def only(self, schema, keywords, known, place):
        for keyword in sorted(keywords - known):
            raise ValueError(
                f"schema must use the keywords that are known here, {', '.join(sorted(known))}; got {keyword} at {place}"
            )

    def checked(self, schema, keyword, kind, place, default=None):
        value = schema.get(keyword, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"schema must give {keyword} at {place} as {kind.__name__}; got {value!r}")
        return value

    def bounds(self, schema, least, most, place):
        """Returns (int, int or None), the values of the keywords `least` and `most`."""
        low = self.checked(schema, least, int, place, 0)
        high = self.checked(schema, most, int, place) if most in schema else None
        if low < 0 or (high is not None and high < low):
            raise ValueError(f"schema must have 0 <= {least} <= {most} at {place}; got {low} and {high}")
        return low, high

    def reference(self, reference, place, within):
        if reference in within or reference == "#":
            raise ValueError(f"schema must not refer back to itself; got $ref {reference!r} at {place}")
        if reference not in self.referred:
            part = self.root
            for name in reference.split("/")[1:] if reference.startswith("#/") else [None]:
                name = name and name.replace("~1", "/").replace("~0", "~")
                part = part.get(name) if isinstance(part, dict) else None
            if part is None:
                raise ValueError(f"schema must hold what a $ref names; got {reference!r} at {place}")
            self.referred[reference] = self.language(part, reference, (*within, reference))
        return self.referred[reference]

    def values(self, schema, types, place):
        values = self.checked(schema, "enum", list, place) if "enum" in schema else [schema["const"]]
        if types != [None]:
            values = [value for value in values if any(_is_of(value, name) for name in types)]
        if not values:
            raise ValueError(f"schema must allow a value at {place}; got {schema!r}")
        return choice(*(_written(value, place) for value in values))

    def object(self, schema, place, within):
        properties = self.checked(schema, "properties", dict, place, {})
        required = self.checked(schema, "required", list, place, [])
        if schema.get("additionalProperties", False) is not False:
            raise ValueError(f"schema must have additionalProperties false or absent at {place}")
        unknown = [name for name in required if not isinstance(name, str) or name not in properties]
        if unknown:
            raise ValueError(
                f"schema must have every name of required among the properties at {place}; got {unknown[0]!r}"
            )
        members = []
        for name, value in properties.items():
            value = self.language(value, f"{place}/properties/{name.replace('/', '~1')}", within)
            members.append((sequence(_written(name, place), _COLON, value), name in required))
        return sequence(literal("{"), listed(members, _COMMA), literal("}"))

    def array(self, schema, place, within):
        if "items" not in schema:
            raise ValueError(f"schema must say the items of the array at {place}; got none")
        item = self.language(schema["items"], f"{place}/items", within)
        return sequence(
            literal("["), repeat(item, *self.bounds(schema, "minItems", "maxItems", place), _COMMA), literal("]")
        )

    def string(self, schema, place, within):
        low, high = self.bounds(schema, "minLength", "maxLength", place)
        given = [name for name in ("pattern", "format") if name in schema]
        if given and (len(given) > 1 or low or high is not None):
            raise ValueError(f"schema must give {given[0]} at {place} without another rule for the string")
        if "pattern" in schema:
            return _quoted(regex(schema["pattern"], leaf=_string_chars, search=True))
        if "format" in schema:
            known = self.checked(schema, "format", str, place)
            if known not in _FORMATS:
                raise ValueError(f"schema must give a format of {', '.join(_FORMATS)} at {place}; got {known!r}")
            return _quoted(regex(_FORMATS[known]))
        return _quoted(repeat(_string_chars(ANY), low, high))

    def integer(self, schema, place, within):
        return regex(_INTEGER)

    def number(self, schema, place, within):
        return regex(_INTEGER + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")

    def boolean(self, schema, place, within):
        return regex("true|false")

    def null(self, schema, place, within):
        return literal("null")


def _is_of(value, name):
    if name == "boolean" or isinstance(value, bool):
        return name == "boolean" and isinstance(value, bool)
    return isinstance(value, _CLASSES.get(name, ()))


def _check_depth(place, within=()):
    if max(place.count("/"), len(within)) > _MAX_DEPTH:
        raise ValueError(f"schema must be at most {_MAX_DEPTH} deep; got more at {place}")


def _written(value, place):
    """Returns the language of the ways to write one value."""
    _check_depth(place)
    place += "/value"
    if isinstance(value, dict):
        members = [
            (sequence(_written(name, place), _COLON, _written(part, place)), True) for name, part in value.items()
        ]
        return sequence(literal("{"), listed(members, _COMMA), literal("}"))
    if isinstance(value, list):
        return sequence(literal("["), listed([(_written(part, place), True) for part in value], _COMMA), literal("]"))
    try:
        return literal(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        raise ValueError(f"schema must hold values of JSON; got {value!r} at {place}") from None


def _string_chars(ranges):
    """Returns the language that writes one character of the ranges inside a string."""
    plain = complement((*complement(ranges), *complement(_UNESCAPED)))
    escaped = [literal(text) for point, text in _ESCAPES.items() if any(low <= point <= high for low, high in ranges)]
    return choice(chars(plain), *escaped)


def _quoted(language):
    return sequence(literal('"'), language, literal('"'))


_COMMA, _COLON = (sequence(literal(mark), repeat(literal(" "), 0, 1)) for mark in ",:")
