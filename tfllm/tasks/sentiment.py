"""Sentiment analysis: whether a short message is negative, neutral or positive.

task      a label for a text
data      sentiment/vader: 4,200 short messages, each rated by 20 people (MIT)
command   tfllm task sentiment
baseline  TF-IDF of words and pairs of words, with logistic regression whose strength the validation part chooses
score     accuracy on the test part, higher is better, and macro F1: README.md of this folder
"""

from tfllm.data import load_rows
from tfllm.tasks.task import TaskSettings, some
from tfllm.tasks.text_classification import TextClassificationTask

_ERRORS = (-0.4, -0.15, 0.15, 0.4)  # of the mean of 20 ratings, each from -4 to 4


class Sentiment(TextClassificationTask):
    """Says whether a message is negative, neutral or positive."""

    name = "sentiment"
    title = "Sentiment analysis"
    datasets = ("sentiment/vader",)
    defaults = TaskSettings(
        steps=300,
        batch_size=64,
        learning_rate=3e-3,
        dim=96,
        num_layers=0,
        sequence_length=128,
        dropout=0.3,
        vocab_size=4000,
    )

    def examples(self, rows):
        """Returns every message as often as there are `_ERRORS`, so that one whose mean is near a border has both labels."""
        return [(row["text"], label_of(row["score"] + error)) for row in rows for error in _ERRORS]

    def unlabelled(self, train):
        """Returns what the tokenizer learns from: the messages, and what people say to each other in another data set."""
        turns = [
            " ".join(turn.split()[:40]) for row in load_rows("dialogue/chitchat")["train"] for turn in row["turns"]
        ]
        return super().unlabelled(train) + some([turn for turn in turns if turn], self.settings.limit)


def label_of(score):
    """Returns str, the label of a mean rating.

    Example:
        >>> [label_of(score) for score in (-0.5, 0.4, 3.0)]
        ['neg', 'neu', 'pos']
    """
    return "neu" if abs(score) < 0.5 else "pos" if score > 0 else "neg"
