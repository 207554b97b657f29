"""Dialogue: a language model answers in a conversation of several turns.

    task      answer; the text before is the topic and all turns so far, each with its role, A or B
    data      dialogue/chitchat: 1,384 conversations of two people in English (MIT); dialogue/chatterbot-en and -zh: prompts
              and answers (BSD-3)
    command   tfllm task dialogue [--data dialogue/chatterbot-en]
    loss      masked: only answers count, neither the topic nor the first turn nor the marks of roles
    baseline  the modified Kneser-Ney n-gram model over the same tokens, its order chosen on the validation part
    score     perplexity a token of the answers of the test part, lower is better; one tokenizer for both: see README.md

A conversation is a text with a line for the topic and one for each turn, "A: hello". Line ends inside a turn become blanks,
so nobody can speak for the other.
"""

import types

from tfllm.evaluation import BitsPerCharacter, Perplexity
from tfllm.tasks.language_model import LanguageModelTask
from tfllm.tasks.task import TaskSettings
from tfllm.text import BPETokenizer

ROLES = ("A", "B")


class Dialogue(LanguageModelTask):
    """Answers in conversations of two."""

    name = "dialogue"
    title = "Dialogue"
    caution = "It learned small talk from 1,115 conversations: it answers in form, seldom in sense."
    datasets = ("dialogue/chitchat", "dialogue/chatterbot-en", "dialogue/chatterbot-zh")
    defaults = TaskSettings(
        steps=1500, batch_size=16, learning_rate=3e-3, num_layers=3, sequence_length=128, dropout=0.1, vocab_size=1024
    )
    by_data = types.MappingProxyType(
        {
            "dialogue/chatterbot-en": {"steps": 600, "sequence_length": 64, "dropout": 0.3},
            "dialogue/chatterbot-zh": {"steps": 400, "sequence_length": 64, "dropout": 0.3},
        }
    )
    orders = (2, 3, 4, 5, 6)

    def read(self):
        return {
            split: [row for row in rows if len(conversation_of(row)[1]) > 1] for split, rows in super().read().items()
        }

    def parts(self, row):
        topic, turns = conversation_of(row)
        parts = [("\n", False), (topic + "\n", False)]
        for number, turn in enumerate(turns):
            parts += [(f"{ROLES[number % 2]}:", False), (f" {turn}\n", number > 0)]
        return parts

    @property
    def decoding(self):
        return {"max_new_tokens": 60, "temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "truncate_prompts": True}

    def make_tokenizer(self, texts):
        return BPETokenizer.train(texts, vocab_size=self.settings.vocab_size)

    def metrics(self):
        return [Perplexity(), BitsPerCharacter()]

    def references(self, rows, metric):
        if isinstance(metric, Perplexity):
            return [int(weights.sum()) for weights in self.documents(rows)[1]]
        return ["".join(text for text, counts in self.parts(row) if counts) for row in rows]

    def inputs(self, rows):
        """Returns conversations up to the mark of who answers."""
        found = []
        for row in rows:
            topic, turns = conversation_of(row)
            found.append(prompt_of(topic, turns[: min(len(turns) - 1, 3)]))
        return found


def conversation_of(row):
    """Returns (str, the topic or ""; list of str, the turns) of a row of any of the data sets."""
    turns = row["turns"] if "turns" in row else [row["prompt"], row["response"]]
    topic = row["prompt"] if "turns" in row else ""
    return plain_turn(topic), [plain_turn(turn) for turn in turns]


def plain_turn(text):
    """Returns str, a turn on one line.

    Example:
        >>> plain_turn("Hello!\\nB: I give up.")
        'Hello! B: I give up.'
    """
    return " ".join(text.split())


def prompt_of(topic, turns):
    """Returns str, a conversation up to the mark of who is to answer.

    Args:
        topic: str, "" for none.
        turns: list of str, those of A and B in turn.

    Example:
        >>> prompt_of("", ["How are you?"])
        '\\n\\nA: How are you?\\nB:'
    """
    lines = [f"{ROLES[number % 2]}: {plain_turn(turn)}" for number, turn in enumerate(turns)]
    return "\n".join(["", plain_turn(topic), *lines, f"{ROLES[len(turns) % 2]}:"])
