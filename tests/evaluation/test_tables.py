"""Tables that a person can look through, and pictures."""

import html.parser
import io

import numpy as np
import pytest

import tfllm
from tfllm.evaluation import (
    CalibrationError,
    class_scores,
    confusion_matrix,
    draw_class_scores,
    draw_confusion,
    draw_positions,
    draw_reliability,
    examples_html,
    examples_markdown,
    load_examples,
    save_examples,
    score_tokens,
    sort_examples,
)

EVIL = "<script>alert('x')</script> | *bold* [a](b) `c` &lt;\nsecond line\u2028third \\| $x$"
EXAMPLES = [
    {"input": EVIL, "reference": ["a", "b"], "prediction": "a", "score": 1.0},
    {"input": "词", "reference": "b", "prediction": None, "score": 0.25},
    {"input": "no score", "other": {"k": 1}},
]


def test_examples_come_back_as_they_were(tmp_path):
    path = tmp_path / "examples.jsonl"
    save_examples(path, EXAMPLES)
    assert load_examples(path) == EXAMPLES
    assert path.read_text(encoding="utf-8").count("\n") == 3
    assert not list(tmp_path.glob("*.partial"))


def test_the_worst_come_first():
    assert [example.get("score") for example in sort_examples(EXAMPLES)] == [None, 0.25, 1.0]
    assert [example.get("score") for example in sort_examples(EXAMPLES, higher_is_better=False)] == [None, 1.0, 0.25]


class Reader(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.cells = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_a_page_shows_text_and_nothing_else():
    page = examples_html(EXAMPLES, title="a <b> c")
    read = Reader(page)
    assert read.tags <= {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert EVIL in read.cells
    assert "a &lt;b&gt; c" in page
    assert "0.25" in read.cells
    assert len(read.cells) == 3 * 6  # the number and five entries


def test_a_markdown_table_keeps_its_cells_apart():
    table = examples_markdown(EXAMPLES, columns=["input", "score"], limit=2)
    lines = table.split("\n")
    assert len(lines) == 4
    assert all(line.count("|") == 3 for line in lines)
    assert not set("<>*`[]$\\") & set(table)
    assert "second line ⏎ third" in lines[2]
    assert examples_markdown([{"a": "x" * 50}], width=10).endswith("| xxxxxxxxx… |")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]\n", "JSON object a line; got '\\[1\\]' in line 1"),
        ('{"a": 1}\n{"a"\n', "in line 2"),
        ("\n", "at least one"),
    ],
)
def test_a_file_that_holds_no_examples_is_refused(tmp_path, content, message):
    (tmp_path / "examples.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_examples(tmp_path / "examples.jsonl")


def test_bad_examples_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="path must be a file of examples"):
        load_examples(tmp_path / "none.jsonl")
    for examples, message in (([], "at least one"), ([{"score": np.nan}], "in number 0"), (["a"], "list of dict")):
        with pytest.raises(ValueError, match=message):
            save_examples(tmp_path / "examples.jsonl", examples)
    assert not list(tmp_path.iterdir())


def test_pictures_are_drawn():
    draw = np.random.default_rng(0)
    there = draw.choice(["sports", "world", "a label that is far too long to show"], 60).tolist()
    predicted = [label if draw.random() < 0.7 else "world" for label in there]
    metric = CalibrationError(10)
    answers = metric.of_confidence(draw.random(200), draw.random(200) < 0.5)
    tokenizer = tfllm.CharTokenizer.train("to be or not")
    scores = score_tokens(tfllm.RecurrentLM(tokenizer.vocab_size, "rnn", 4), tokenizer, "to be or not " * 9, 16)
    pictures = [
        draw_confusion(*confusion_matrix(there, predicted)),
        draw_class_scores(class_scores(there, predicted)),
        draw_reliability(metric, answers.sum(0)),
        draw_positions(scores),
    ]
    for picture in pictures:
        data = io.BytesIO()
        picture.savefig(data, format="png")
        assert data.getvalue().startswith(b"\x89PNG")
    assert len(pictures[0].axes[0].texts) == np.count_nonzero(confusion_matrix(there, predicted)[0])
    for call, message in (
        (lambda: draw_confusion([[1]], ["a", "b"]), r"counts must have the shape \[2, 2\]; got \[1, 1\]"),
        (lambda: draw_class_scores({}), "at least one class"),
        (lambda: draw_reliability(metric, np.zeros(30)), "at least one answer"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
