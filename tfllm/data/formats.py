"""Readers of the text formats that data sets come in: tables, JSON lines, CoNLL, SQuAD, ABC tunes, n-best lists.

Each is a function from the text of a file to a list of dicts; what does not fit is refused with the number of its line.
Lines end with `\\n` or `\\r\\n` only, because sentences may hold the other characters that Python takes for line ends.
"""

import json
import re


def read_tsv(text, columns=None):
    """Reads a table with tabs between its columns and nothing quoted.

    Args:
        text: str.
        columns: list of str, the names; None where the first line holds them. Empty lines are passed over.

    Returns:
        list of dict from column to str, one for each line.

    Raises:
        ValueError: when a line has another number of columns.

    Example:
        >>> read_tsv("en\\tde\\nyes\\tja\\n")
        [{'en': 'yes', 'de': 'ja'}]
    """
    rows = []
    for number, line in _lines(text):
        cells = line.split("\t")
        if columns is None:
            columns = cells
        elif len(cells) != len(columns):
            raise ValueError(
                f"text must have the {len(columns)} columns {list(columns)} in every line; got {len(cells)} in line {number}"
            )
        else:
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


def read_jsonl(text, fields=()):
    """Reads one JSON object from each line.

    Args:
        text: str; empty lines are passed over.
        fields: names that every object must have.

    Returns:
        list of dict.

    Raises:
        ValueError: when a line is no JSON object or lacks a field.

    Example:
        >>> read_jsonl('{"text": "a"}\\n', ["text"])
        [{'text': 'a'}]
    """
    rows = []
    for number, line in _lines(text):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"text must hold a JSON object in every line; got {line[:40]!r} in line {number}"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"text must hold a JSON object in every line; got {line[:40]!r} in line {number}")
        for field in fields:
            if field not in row:
                raise ValueError(
                    f"text must have the field {field!r} in every line; got {sorted(row)} in line {number}"
                )
        rows.append(row)
    return rows


def read_conll(text):
    """Reads sentences of one token a line, with its BIO tag in the last column and an empty line after each sentence.

    Columns stand apart by tabs, or by spaces in a line without a tab; those between the first and the last are passed over. A
    line `# name = value` before a sentence is a comment on it; `-DOCSTART-` lines are passed over.

    Args:
        text: str.

    Returns:
        list of dict, one for each sentence: `tokens` and `tags`, lists of str of one length, and `comments`, dict of str.

    Raises:
        ValueError: when a line has fewer than two columns or an empty token, a tag is none of `O`, `B-TYPE` and `I-TYPE`, or an
            `I-TYPE` does not go on with a span of its type (as in the IOB1 form of older files).

    Example:
        >>> read_conll("# intent = Greet\\nhello\\tO\\nAda\\tB-PER\\n")
        [{'tokens': ['hello', 'Ada'], 'tags': ['O', 'B-PER'], 'comments': {'intent': 'Greet'}}]

    Source: Ramshaw and Marcus 1995, arXiv:cmp-lg/9505040; the files of CoNLL-2003.
    """
    sentences, tokens, tags, comments = [], [], [], {}
    for number, line in [*_lines(text, empty=True), (0, "")]:
        comment = re.fullmatch(r"# (\w+) = (.*)", line)
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens:
                sentences.append({"tokens": tokens, "tags": tags, "comments": comments})
                tokens, tags, comments = [], [], {}
        elif comment and not tokens:
            comments[comment[1]] = comment[2]
        else:
            columns = line.split("\t") if "\t" in line else line.split()
            if len(columns) < 2 or not columns[0].strip():
                raise ValueError(f"text must have a token and a tag in every line; got {line[:40]!r} in line {number}")
            tag = columns[-1]
            if not re.fullmatch(r"O|[BI]-\S+", tag):
                raise ValueError(f"text must have tags O, B-TYPE or I-TYPE; got {tag[:40]!r} in line {number}")
            if tag.startswith("I-") and (not tags or tags[-1][1:] != tag[1:]):
                raise ValueError(f"text must begin a span with {'B' + tag[1:]!r}; got {tag!r} in line {number}")
            tokens.append(columns[0])
            tags.append(tag)
    return sentences


def read_squad(text):
    """Reads questions in the JSON form of SQuAD v1.1, and checks that every answer stands where the file says.

    Args:
        text: str, the JSON.

    Returns:
        list of dict, one for each question: str `id`, `title`, `context`, `question`, and `answers`, a list of
        `{"text": str, "answer_start": int}`, which counts characters of the context.

    Raises:
        ValueError: when the text is no such JSON, or an answer is not in its context at that place.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250.
    """
    questions = []
    try:
        for article in json.loads(text)["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = [{"text": a["text"], "answer_start": a["answer_start"]} for a in asked["answers"]]
                    question = {"id": asked["id"], "title": article["title"], "context": paragraph["context"]}
                    questions.append({**question, "question": asked["question"], "answers": answers})
    except json.JSONDecodeError as error:
        raise ValueError(f"text must be JSON; got {text[:40]!r}, which is not at line {error.lineno}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"text must have the form of SQuAD v1.1; got JSON without {error}") from error
    for question in questions:
        for answer in question["answers"]:
            start = answer["answer_start"]
            found = question["context"][start : start + len(answer["text"])] if start >= 0 else ""
            if found != answer["text"]:
                raise ValueError(
                    f"answer_start must point at the answer {answer['text']!r} of question {question['id']!r}; "
                    f"got {start}, where {found!r} stands"
                )
    return questions


def split_abc(text):
    """Splits a tune book in ABC notation into its tunes.

    A tune begins with its line `X:` and ends at an empty line; what stands outside tunes is passed over.

    Args:
        text: str.

    Returns:
        list of dict, one for each tune: int `number`; str `title`, `meter`, `unit_length`, `rhythm` and `key`, the values of the
        first T, M, L, R and K of its header, "" where there is none; and str `abc`, the whole tune without an end of line.

    Raises:
        ValueError: when the value of an X is no number, or a tune has no `K:`, which ends its header.

    Example:
        >>> split_abc("X:1\\nT:Scale\\nM:C\\nL:1/8\\nK:G\\nGABc defg |\\n")[0]["title"]
        'Scale'

    Source: the ABC music standard 2.1, sections 2 and 3.
    """
    tunes, lines, first = [], [], 0
    for number, line in [*_lines(text, empty=True), (0, "")]:
        if lines and (not line.strip() or line.startswith("X:")):
            tunes.append(_tune(lines, first))
            lines = []
        if lines or line.startswith("X:"):
            first = first if lines else number
            lines.append(line)
    return tunes


_HEADER = {"title": "T", "meter": "M", "unit_length": "L", "rhythm": "R", "key": "K"}


def _tune(lines, first):
    header = {}
    for line in lines:
        if re.match(r"[A-Za-z]:", line):
            header.setdefault(line[0], line[2:].strip())
        if "K" in header:
            break
    else:
        raise ValueError(f"text must have a line 'K:' in every tune; got none in the tune at line {first}")
    if not header["X"].isdecimal():
        raise ValueError(f"text must have numbers after 'X:'; got {header['X'][:40]!r} in line {first}")
    fields = {name: header.get(letter, "") for name, letter in _HEADER.items()}
    return {"number": int(header["X"]), **fields, "abc": "\n".join(lines)}


def read_nbest(text):
    """Reads lists of what a speech recogniser may have heard, one JSON object a line.

    Args:
        text: str; objects with `id`, `ref` (what was said) and `nbest`, a list of `{"text", "log_score", "wer_edits"}`.
            `log_score` is a natural logarithm, or null for one that the recogniser gave no score; `wer_edits` counts the words to
            insert, delete or replace to reach `ref`.

    Returns:
        list of dict, one for each utterance: all that its object holds.

    Raises:
        ValueError: when a line is no such object, or its list is empty.

    Example:
        >>> line = '{"id": "1", "ref": "a b", "nbest": [{"text": "a", "log_score": -1.5, "wer_edits": 1}]}'
        >>> read_nbest(line)[0]["nbest"][0]["text"]
        'a'
    """
    rows = read_jsonl(text, ["id", "ref", "nbest"])
    wanted = {"text": str, "log_score": int | float | None, "wer_edits": int}
    for row in rows:
        lists = row["nbest"]
        if not isinstance(lists, list) or not lists:
            raise ValueError(
                f"nbest must be a list of at least one hypothesis; got {lists!r} for utterance {row['id']!r}"
            )
        for guess in lists:
            for name, kind in wanted.items():
                if not isinstance(guess, dict) or name not in guess or not isinstance(guess[name], kind):
                    raise ValueError(
                        f"nbest must hold a {name!r} in each hypothesis; got {guess!r} for utterance {row['id']!r}"
                    )
    return rows


def _lines(text, empty=False):
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line or empty:
            yield number, line
