"""ABC notation: reads a tune as bars of notes and says what is wrong with it, if anything.

Checked is what makes a tune playable and whole: the header's meter, unit length and key, symbols that ABC knows, bars as long as
the meter says, and repeats that are balanced. A bar may be shorter than the meter, but not longer, where a part begins or ends,
because of pickups. Left out: several voices, words, and what macros and stylesheets of the standard can do.

Source: the ABC music standard 2.1, sections 3 and 4.
"""

import dataclasses
import re
from fractions import Fraction

_LENGTH = r"(\d*)(/*)(\d*)"
_NOTE = r"[\^_=]*[A-Ga-g][,']*"
_TOKENS = re.compile(
    rf"""
    (?P<blank>[\s\\`]+)
    |(?P<comment>%[^\n]*)
    |(?P<words>"[^"\n]*")
    |(?P<decoration>![^!\n]+!|\+[^+\n]+\+|[~.H-Wh-w])
    |(?P<field>\[(?P<field_name>[A-Za-z]):(?P<field_value>[^\]\n]*)\])
    |(?P<ending>\[[1-9](?:[,-][1-9])*)
    |(?P<bar>:*(?:\[\||\|+\]?):*|::)(?P<number>[1-9](?:[,-][1-9])*)?
    |(?P<grace>\{{[^}}\n]*\}})
    |\((?P<tuplet>[2-9])(?::(?P<q>[1-9])?(?::(?P<r>[1-9])?)?)?
    |(?P<slur>[()])
    |\[(?P<chord>(?:{_NOTE}{_LENGTH}-?\ ?)+)\](?P<chord_length>\d*/*\d*)
    |(?P<note>{_NOTE}|[zx])(?P<note_length>\d*/*\d*)
    |(?P<rests>Z)(?P<count>\d*)
    |(?P<broken><+|>+)
    |(?P<tie>-)
    |(?P<spacer>y\d*)
    """,
    re.VERBOSE,
)
_MODES = "m|min(or)?|maj(or)?|mix(olydian)?|dor(ian)?|phr(ygian)?|lyd(ian)?|loc(rian)?|aeo(lian)?|ion(ian)?"
_KEY = re.compile(rf"([A-G][#b]?\s*({_MODES})?(\s.*)?|none|HP|Hp)$", re.IGNORECASE)
_TUPLETS = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}


@dataclasses.dataclass(frozen=True)
class Tune:
    """A tune that was read.

    Attributes:
        fields: dict from letters to str, the header.
        bars: list of `Fraction`, the length of each bar in whole notes.
        notes: int, how many notes, chords and rests there are.
    """

    fields: dict
    bars: list
    notes: int


def parse_tune(text):
    """Reads one tune.

    Args:
        text: str, its header, the last line of which is `K:`, and its music.

    Returns:
        `Tune`.

    Raises:
        ValueError: with what is wrong, when it is no whole tune.

    Example:
        >>> tune = parse_tune("X:1\\nM:6/8\\nL:1/8\\nK:G\\nD | GAB c2 d | G3 G2 :|")
        >>> [str(bar) for bar in tune.bars]
        ['1/8', '3/4', '5/8']
    """
    fields, body = _split_header(text)
    reader = _Reader(fields["M"], _unit_length(fields))
    for line in body.split("\n"):
        field = re.match(r"([A-Za-z]):(?![|:])(.*)$", line)
        if field:
            reader.field(*field.groups())
        else:
            reader.line(line)
    return Tune(fields, *reader.finish())


def tune_problem(text):
    """Returns str, what is wrong with a tune, or "" when nothing is.

    Example:
        >>> tune_problem("X:1\\nM:C\\nL:1/8\\nK:G\\nGABc defg |\\nGABc def |\\nGABc defg |]")
        'bar 2 must last 1 as the meter says; got 7/8'
    """
    try:
        parse_tune(text)
    except ValueError as error:
        return str(error)
    return ""


def _split_header(text):
    """Returns (dict of the header's fields, str, the music)."""
    fields, lines = {}, text.strip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        field = re.match(r"([A-Za-z]):\s*(.*?)\s*(%.*)?$", line)
        if not field:
            raise ValueError(f"the header must be of fields, up to K:; got {line[:40]!r} in line {number}")
        fields.setdefault(field[1], field[2])
        if field[1] == "K":
            break
    for name in ("M", "K"):
        if name not in fields:
            raise ValueError(f"the header must have {name}:; got the fields {sorted(fields)}")
    if not _KEY.match(fields["K"]):
        raise ValueError(f"K: must name a key; got {fields['K'][:40]!r}")
    return fields, "\n".join(lines[number:])


def _meter(text):
    """Returns the `Fraction` of a whole note that a bar lasts; C is 4/4 and C| is 2/2."""
    text = {"C": "4/4", "C|": "2/2"}.get(text.strip(), text.strip())
    found = re.fullmatch(r"([1-9]\d?)/([1-9]\d?)", text)
    if not found:
        raise ValueError(f"M: must be C, C| or as 6/8; got {text[:40]!r}")
    return Fraction(int(found[1]), int(found[2]))


def _unit_length(fields):
    if "L" not in fields:  # section 3.1.7
        return Fraction(1, 16 if _meter(fields["M"]) < Fraction(3, 4) else 8)
    return _as_unit(fields["L"])


def _as_unit(text):
    found = re.fullmatch(r"1(?:/([1-9]\d?\d?))?", text.strip())
    if not found:
        raise ValueError(f"L: must be as 1/8; got {text[:40]!r}")
    return Fraction(1, int(found[1] or 1))


class _Reader:
    """Reads music token by token; a bar is checked when it is known whether it stands at the edge of a part."""

    def __init__(self, meter, unit):
        self.unit = unit
        self.field("M", meter)
        self.lengths, self.bars, self.notes = [], [], 0
        self.edge, self.is_open = (
            True,
            False,
        )  # whether the bar begins a part; whether a repeat was opened and not closed
        self.broken, self.tuplet = None, (1, 0)  # what the next note is multiplied by; (factor, notes left)

    def field(self, name, value):
        if name == "M":
            self.meter = _meter(value)
            self.is_compound = value.strip().startswith(("6/", "9/", "12/"))  # three beats to a part of the bar
        elif name == "L":
            self.unit = _as_unit(value)
        elif name == "K" and not _KEY.match(value.strip()):
            raise ValueError(f"K: must name a key; got {value[:40]!r}")

    def line(self, line):
        at = 0
        while at < len(line):
            token = _TOKENS.match(line, at)
            if not token:
                raise ValueError(f"the music must be of symbols that ABC knows; got {line[at : at + 10]!r}")
            self._read(token)
            at = token.end()

    def finish(self):
        self._end_bar(edge=True)
        if self.broken:
            raise ValueError("a broken rhythm must stand between two notes; got one at the end")
        if self.is_open:
            raise ValueError("every |: must have its :|; got one that is left open")
        if not self.bars:
            raise ValueError("the music must have at least one bar; got none")
        return self.bars, self.notes

    def _read(self, token):
        if token["note"] is not None:
            self._note(_multiple(token["note_length"]))
        elif token["chord"] is not None:
            inner = re.match(rf"{_NOTE}(\d*/*\d*)", token["chord"])[1]
            self._note(_multiple(inner) * _multiple(token["chord_length"]))
        elif token["rests"] is not None:
            self.bars += [self.meter] * (int(token["count"] or 1) - 1)
            self._note(self.meter / self.unit)
        elif token["tuplet"] is not None:
            count = int(token["tuplet"])
            within = int(token["q"] or _TUPLETS.get(count, 3 if self.is_compound else 2))
            self.tuplet = (Fraction(within, count), int(token["r"] or count))
        elif token["broken"] is not None:
            self._break(token["broken"])
        elif token["field"] is not None:
            self.field(token["field_name"], token["field_value"])
        elif token["bar"] is not None:
            self._bar(token["bar"], token["number"])
        elif token["ending"] is not None:
            self.edge = True

    def _note(self, multiple):
        factor, left = self.tuplet
        if left:
            multiple, self.tuplet = multiple * factor, (factor, left - 1)
        if self.broken:
            multiple, self.broken = multiple * self.broken, None
        self.lengths.append(multiple * self.unit)
        self.notes += 1

    def _break(self, signs):
        if not self.lengths or self.broken:
            raise ValueError(f"a broken rhythm must stand between two notes; got {signs!r}")
        short = Fraction(1, 2 ** len(signs))
        first, second = (2 - short, short) if signs[0] == ">" else (short, 2 - short)
        self.lengths[-1] *= first
        self.broken = second

    def _bar(self, bar, number):
        edge = ":" in bar or "]" in bar or "[" in bar or "||" in bar or number is not None
        self._end_bar(edge)
        closes, opens = bar.startswith(":"), bar.endswith(":")
        if closes:
            self.is_open = False
        if opens:
            if self.is_open:
                raise ValueError("every |: must have its :|; got two in a row")
            self.is_open = True

    def _end_bar(self, edge):
        total, number = sum(self.lengths, Fraction(0)), len(self.bars) + 1
        if self.tuplet[1] and self.lengths:
            raise ValueError(f"a tuplet must end in its bar; got one that lacks {self.tuplet[1]} notes in bar {number}")
        if self.lengths:  # two bar lines in a row, as at the end of a line, are one
            whole = total == self.meter or (total < self.meter and (edge or self.edge))
            if not whole:
                raise ValueError(f"bar {number} must last {self.meter} as the meter says; got {total}")
            self.bars.append(total)
            self.edge = edge
        else:
            self.edge = self.edge or edge
        self.lengths = []


def _multiple(text):
    """Returns the `Fraction` that a length such as "3/2", "/" or "2" stands for."""
    count, slashes, below = re.fullmatch(_LENGTH, text).groups()
    if below == "0" or (below and len(slashes) != 1):
        raise ValueError(f"a length must be as 2, /2 or 3/2; got {text!r}")
    divisor = int(below) if below else 2 ** len(slashes)
    multiple = Fraction(int(count or 1), divisor)
    if not multiple:
        raise ValueError(f"a length must be above 0; got {text!r}")
    return multiple
