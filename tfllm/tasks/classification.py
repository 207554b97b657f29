"""Text classification: which kind of thing a definition defines, among ten.

task      a label for a text
data      classification/wordnet-gloss: 9,988 definitions of nouns, in 10 classes, from animal to substance (WordNet)
command   tfllm task classification
baseline  TF-IDF of words and pairs of words, with logistic regression whose strength the validation part chooses
score     accuracy on the test part, higher is better, and macro F1: README.md of this folder
"""

from tfllm.data import load_rows
from tfllm.tasks.task import TaskSettings, some
from tfllm.tasks.text_classification import TextClassificationTask
from tfllm.text.cleaning import comparable


class Classification(TextClassificationTask):
    """Says which kind of thing a definition defines."""

    name = "classification"
    title = "Text classification"
    datasets = ("classification/wordnet-gloss",)
    defaults = TaskSettings(
        steps=800,
        batch_size=64,
        learning_rate=3e-3,
        dim=96,
        num_layers=1,
        sequence_length=128,
        dropout=0.3,
        vocab_size=6000,
    )
    pretraining = 1.0

    def unlabelled(self, train):
        """Returns the definitions of the training part, and those of another data set that no other part holds."""
        splits = self.read()
        held_out = {comparable(row["text"]) for split in ("validation", "test") for row in splits[split]}
        others = [row["query"] for part in load_rows("search/reverse-dictionary").values() for row in part]
        others = [text for text in others if comparable(text) not in held_out]
        return super().unlabelled(train) + some(others, self.settings.limit)
