"""Sentiment analysis: whether a short message is negative, neutral or positive.

task      a label for a text
data      sentiment/vader: 4,200 short messages, each rated by 20 people (MIT)
command   tfllm task sentiment
baseline  TF-IDF of words and pairs of words, with logistic regression whose strength the validation part chooses
score     accuracy on the test part, higher is better, and macro F1: README.md of this folder
"""

from tfllm.tasks.task import TaskSettings
from tfllm.tasks.text_classification import TextClassificationTask


class Sentiment(TextClassificationTask):
    """Says whether a message is negative, neutral or positive."""

    name = "sentiment"
    title = "Sentiment analysis"
    datasets = ("sentiment/vader",)
    defaults = TaskSettings(
        steps=600,
        batch_size=64,
        learning_rate=3e-3,
        dim=96,
        num_layers=1,
        sequence_length=64,
        dropout=0.3,
        vocab_size=4000,
    )
    pretraining = 1.0
