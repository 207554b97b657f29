r"""Regular expressions to languages: the regular part of the syntax of Python's `re`, read with its ASCII flag.

Characters, `.`, classes, `\d \w \s` and their opposites (of ASCII, as `re.ASCII` has them), groups, `|`, `* + ? {m,n}` (lazy
forms mean the same here), and `^` and `$` at the ends of the pattern or of its outermost alternatives. What is not regular
(look-around, back references) or changes how the rest is read (flags, possessive and atomic groups) is refused.
"""

from tfllm.generation.regular import chars, choice, repeat, sequence

_LAST = 0x10FFFF
_MAX_DEPTH = 50  # of groups
ANY = ((0, _LAST),)
_CLASSES = {
    "d": ((48, 57),),
    "s": ((9, 13), (32, 32)),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
}
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_HEXADECIMAL = {"x": 2, "u": 4, "U": 8}


def regex(pattern, *, leaf=chars, search=False):
    r"""Returns the language of the texts that a regular expression matches as a whole.

    Args:
        pattern: str.
        leaf: function of ranges of code points that makes the language of one character.
        search: bool, whether a match inside of a text is enough where `^` and `$` do not say otherwise.

    Raises:
        ValueError: on a pattern that is not in the syntax of this file; it names the position.

    Example:
        >>> from tfllm.generation.regular import byte_automaton
        >>> table, accepting = byte_automaton(regex(r"\d{4}-\d\d"))
        >>> len(table), accepting.tolist().index(True)
        (8, 7)
    """
    if not isinstance(pattern, str):
        raise ValueError(f"pattern must be a str; got {pattern!r}")
    return _Reader(pattern, leaf, search).read()


def complement(ranges):
    """Returns the ranges of all code points that are in none of `ranges`."""
    gaps, begin = [], 0
    for low, high in sorted(ranges):
        if low > begin:
            gaps.append((begin, low - 1))
        begin = max(begin, high + 1)
    return (*gaps, (begin, _LAST)) if begin <= _LAST else tuple(gaps)


class _Reader:
    """Reads a pattern from left to right; `at` is the position."""

    def __init__(self, pattern, leaf, search):
        self.pattern, self.leaf, self.search, self.at = pattern, leaf, search, 0

    def read(self):
        language = self.choice(0)
        if self.at < len(self.pattern):
            self.refuse("have no ) without its (")
        return language

    def refuse(self, rule, at=None):
        raise ValueError(f"pattern must {rule}; got {self.pattern!r}, position {self.at if at is None else at}")

    def take(self, text):
        """Returns whether `text` comes next, and if so goes behind it."""
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def next(self, rule):
        """Returns the next character and goes behind it."""
        if self.at == len(self.pattern):
            self.refuse(rule)
        self.at += 1
        return self.pattern[self.at - 1]

    def choice(self, depth):
        parts = [self.sequence(depth)]
        while self.take("|"):
            parts.append(self.sequence(depth))
        return choice(*parts) if len(parts) > 1 else parts[0]

    def sequence(self, depth):
        anything = repeat(self.leaf(ANY), 0)
        parts = [anything] if depth == 0 and not self.take("^") and self.search else []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if depth == 0 and self.pattern[self.at] == "$" and self.pattern[self.at + 1 : self.at + 2] in ("", "|"):
                self.at += 1
                return sequence(*parts)
            parts.append(self.counted(self.atom(depth)))
        return sequence(*parts, anything) if depth == 0 and self.search else sequence(*parts)

    def counted(self, part):
        """Returns the part repeated as often as what follows says."""
        begin, count = self.at, self.count()
        if count is None:
            return part
        if not self.take("?") and self.take("+"):
            self.refuse("have no possessive repeat", begin)
        begin = self.at
        if self.count() is not None:
            self.refuse("repeat a part once only", begin)
        return repeat(part, *count)

    def count(self):
        """Returns (low, high or None) of a repeat, or None where none follows."""
        begin = self.at
        if self.take("*"):
            return 0, None
        if self.take("+"):
            return 1, None
        if self.take("?"):
            return 0, 1
        if not self.take("{"):
            return None
        low = high = self.digits()
        comma = self.take(",")
        high = self.digits() if comma else high
        if not self.take("}") or not (low or comma):
            self.at = begin  # as in `re`, a brace that says no number is a character
            return None
        low, high = int(low or 0), int(high) if high else None
        if high is not None and high < low:
            self.refuse("have no repeat whose most is below its least", begin)
        return low, high

    def digits(self):
        begin = self.at
        while self.at < len(self.pattern) and self.pattern[self.at] in "0123456789":
            self.at += 1
        if self.at - begin > 9:
            self.refuse("have repeats below 10**9", begin)
        return self.pattern[begin : self.at]

    def atom(self, depth):
        begin = self.at
        if self.count() is not None:
            self.refuse("have a part before each repeat", begin)
        character = self.next("go on")
        if character == "(":
            return self.group(depth, begin)
        if character == "[":
            return self.leaf(self.members(begin))
        if character == ".":
            return self.leaf(complement([(10, 10)]))
        if character in "^$":
            self.refuse("have ^ and $ at its ends only", begin)
        found = self.escape(inside=False) if character == "\\" else ord(character)
        return self.leaf(((found, found),) if isinstance(found, int) else found)

    def group(self, depth, begin):
        if depth == _MAX_DEPTH:
            self.refuse(f"have groups at most {_MAX_DEPTH} deep", begin)
        if self.take("?P<"):
            name = self.pattern[self.at :].partition(">")[0]
            if not name.isidentifier() or not self.take(name + ">"):
                self.refuse("name a group by an identifier", begin)
        elif self.take("?") and not self.take(":"):
            self.refuse(
                "have no look-around, back reference, flag or other group that begins with (? but (?: and (?P<", begin
            )
        language = self.choice(depth + 1)
        if not self.take(")"):
            self.refuse("close every (", begin)
        return language

    def members(self, begin):
        """Returns the ranges of a class, behind its opening bracket."""
        negated, ranges, first = self.take("^"), [], True
        while first or not self.take("]"):
            low, at = self.member(begin), self.at
            if not self.pattern.startswith("-]", self.at) and self.take("-"):
                high = self.member(begin)
                if not isinstance(low, int) or not isinstance(high, int) or high < low:
                    self.refuse("have ranges from a character to one not below it", at)
                ranges.append((low, high))
            else:
                ranges += [(low, low)] if isinstance(low, int) else low
            first = False
        return complement(ranges) if negated else tuple(ranges)

    def member(self, begin):
        if self.at == len(self.pattern):
            self.refuse("close every [", begin)
        character = self.next("go on")
        return self.escape(inside=True) if character == "\\" else ord(character)

    def escape(self, inside):
        """Returns the code point or the ranges of an escape, behind its backslash."""
        begin = self.at - 1
        name = self.next("have a character behind each backslash")
        if name.lower() in _CLASSES:
            ranges = _CLASSES[name.lower()]
            return ranges if name.islower() else complement(ranges)
        if name in _CONTROLS:
            return _CONTROLS[name]
        if name == "b" and inside:
            return 8
        if name in _HEXADECIMAL:
            return self.hexadecimal(_HEXADECIMAL[name], begin)
        if name == "0":
            more = 0
            while more < 2 and self.pattern[self.at : self.at + 1] in tuple("01234567"):
                self.at, more = self.at + 1, more + 1
            return int(self.pattern[self.at - more : self.at] or "0", 8)
        if name.isascii() and name.isalnum():
            kind = "back reference" if name.isdigit() else f"escape \\{name}"
            self.refuse(f"have no {kind}", begin)
        return ord(name)

    def hexadecimal(self, size, begin):
        digits = self.pattern[self.at : self.at + size]
        if len(digits) < size or not set(digits) <= set("0123456789abcdefABCDEF") or int(digits, 16) > _LAST:
            self.refuse(f"have {size} hexadecimal digits of a code point there", begin)
        self.at += size
        return int(digits, 16)
