"""Tables of examples that a person can look through: what was asked, what was right, what came, how good it was.

An example is a dict; its usual entries are `"input"`, `"reference"`, `"prediction"`, `"baseline"` and `"score"`. They are kept as
`examples.jsonl`, one JSON object a line. Tables show what is in them as text: nothing in an example is markup or code.
"""

import html
import json
import math
import pathlib

from tfllm import files


def save_examples(path, examples):
    """Writes examples as JSON Lines, whole.

    Args:
        path: str or path of the file.
        examples: list of dict of what JSON holds, at least one.

    Raises:
        ValueError: when there is none, or JSON cannot hold one, such as a number that is not finite.
    """
    lines = []
    for at, example in enumerate(_check(examples)):
        try:
            lines.append(json.dumps(example, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"examples must be dicts of what JSON holds; got {error} in number {at}") from error
    files.write_whole(path, "\n".join(lines) + "\n")


def load_examples(path):
    """Reads what `save_examples` wrote.

    Args:
        path: str or path of the file.

    Returns:
        list of dict.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when a line is no JSON object, or there is none.
    """
    path, examples = pathlib.Path(path), []
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file of examples; got {str(path)!r}, which is none")
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
        except ValueError as error:
            raise ValueError(f"path must hold a JSON object a line; got {error} in line {number}") from error
        if not isinstance(example, dict):
            raise ValueError(f"path must hold a JSON object a line; got {line!r:.60} in line {number}")
        examples.append(example)
    if not examples:
        raise ValueError(f"path must hold at least one example; got {str(path)!r}, which has none")
    return examples


def sort_examples(examples, *, by="score", higher_is_better=True):
    """Returns list of dict, the worst example first; those without a number come before all, equal ones keep their order.

    Args:
        examples: list of dict.
        by: str, the entry to go by.
        higher_is_better: bool.

    Example:
        >>> sort_examples([{"score": 1.0}, {"score": 0.0}])
        [{'score': 0.0}, {'score': 1.0}]
    """

    def key(example):
        value = example.get(by)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return value if higher_is_better else -value

    return sorted(_check(examples), key=key)


def examples_markdown(examples, *, columns=None, limit=20, width=200):
    """Makes a Markdown table of examples.

    Args:
        examples: list of dict.
        columns: list of str, the entries to show in their order; None for all.
        limit: int >= 1, examples to show.
        width: int >= 1, characters of an entry to show.

    Returns:
        str; lines' ends and what Markdown or HTML would take for markup are written as characters.

    Example:
        >>> print(examples_markdown([{"input": "a|b", "score": 0.5}]))
        | input | score |
        |---|---|
        | a&#124;b | 0.5 |
    """
    columns = _columns(_check(examples), columns)
    lines = ["| " + " | ".join(map(_in_markdown, columns)) + " |", "|---" * len(columns) + "|"]
    for example in examples[:limit]:
        lines.append("| " + " | ".join(_in_markdown(_cut(example.get(name), width)) for name in columns) + " |")
    return "\n".join(lines)


def examples_html(examples, *, title="Examples", columns=None):
    """Makes a web page with all examples, of one file, which runs nothing and loads nothing.

    Args:
        examples: list of dict, in the order in which they are shown.
        title: str.
        columns: list of str, the entries to show in their order; None for all.

    Returns:
        str, HTML.
    """
    columns = _columns(_check(examples), columns)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = []
    for number, example in enumerate(examples, 1):
        cells = "".join(f"<td>{html.escape(_text(example.get(name)))}</td>" for name in columns)
        rows.append(f"<tr><td>{number}</td>{cells}</tr>")
    name = html.escape(title)
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{name}</title>\n<style>{_STYLE}</style></head>\n'
        f"<body><h1>{name}</h1>\n<table><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></body></html>\n"
    )


_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:1.5em}"
    "table{border-collapse:collapse}"
    "th,td{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top;white-space:pre-wrap;max-width:40em;"
    "overflow-wrap:anywhere}"
    "thead th{position:sticky;top:0;background:#eee}"
    "tbody tr:nth-child(even){background:#f8f8f8}"
)
# Characters that begin markup in Markdown; written as numbers they are only characters.
_MARKUP = {ord(character): f"&#{ord(character)};" for character in "\\`*_{}[]()<>#+!|~$&"}


def _check(examples):
    if not isinstance(examples, list | tuple) or not examples or not all(isinstance(one, dict) for one in examples):
        raise ValueError(f"examples must be a list of dict, at least one; got {examples!r:.80}")
    return examples


def _columns(examples, columns):
    return list(dict.fromkeys(name for example in examples for name in example)) if columns is None else list(columns)


def _text(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(value, width):
    text = _text(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def _in_markdown(text):
    return " ⏎ ".join(text.translate(_MARKUP).splitlines())
