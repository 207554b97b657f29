"""Text generation: a language model writes on from a beginning.

    task      continue a text; English plays, or Chinese quatrains, whose form can be checked
    data      shakespeare: Tiny Shakespeare in passages of 600 characters or more, the first 80 % to train on and the last
              10 % to test;
              poetry: 13,900 Tang quatrains of 5 or 7 characters a line, split by the hash of the poem
    command   tfllm task generation [--data poetry]
    baseline  the modified Kneser-Ney n-gram model over the same characters, its order chosen on the validation part
    score     bits a character of the test part, lower is better: README.md of this folder

Characters that the training part lacks count as one, `<unk>`, for the model and the baseline alike.
"""

import re
import types

from tfllm.data import load_text
from tfllm.data.catalogue import split_by_hash
from tfllm.evaluation import BitsPerCharacter
from tfllm.tasks.language_model import LanguageModelTask
from tfllm.tasks.task import TaskSettings
from tfllm.text import CharTokenizer
from tfllm.text.cleaning import comparable

_PASSAGE = 600  # characters, at least
_POEMS = 200  # that are written to check their form
_ORIGINS = {
    "shakespeare": ("40,000 lines of Shakespeare's plays", "public domain", "https://github.com/karpathy/char-rnn"),
    "poetry": ("Tang quatrains", "texts public domain; collection MIT", "https://www.npmjs.com/package/chinese-poetry"),
}


class Generation(LanguageModelTask):
    """Writes English plays or Chinese quatrains, character by character."""

    name = "generation"
    title = "Text generation"
    datasets = ("shakespeare", "poetry")
    defaults = TaskSettings(
        steps=2500, batch_size=16, learning_rate=3e-3, dim=128, num_layers=4, sequence_length=128, dropout=0.05
    )
    by_data = types.MappingProxyType(
        {"poetry": {"steps": 1000, "batch_size": 64, "sequence_length": 32, "num_layers": 3, "dropout": 0.2}}
    )
    orders = (2, 3, 4, 5, 6, 7, 8)

    def read(self):
        text = load_text(self.settings.data)
        if self.settings.data == "poetry":
            poems = [{"text": line} for line in text.splitlines() if quatrain_form(line)]
            return split_by_hash(poems, lambda row: [comparable(row["text"])])
        passages = [{"text": passage} for passage in cut_passages(text, _PASSAGE)]
        first, second = int(0.8 * len(passages)), int(0.9 * len(passages))
        return {"train": passages[:first], "validation": passages[first:second], "test": passages[second:]}

    def origin(self):
        return dict(zip(("description", "licence", "homepage"), _ORIGINS[self.settings.data], strict=True))

    def parts(self, row):
        return [("\n", False), (row["text"] + self.end, True)]

    @property
    def end(self):
        """str, what ends a text."""
        return "\n" if self.settings.data == "poetry" else "\n\n"

    @property
    def decoding(self):
        return {
            "max_new_tokens": 64 if self.settings.data == "poetry" or self.settings.limit else 300,
            "temperature": 0.8,
            "stop": [self.end],
        }

    def make_tokenizer(self, texts):
        return CharTokenizer.train(texts)

    def metrics(self):
        return [BitsPerCharacter()]

    def references(self, rows, metric):
        return [row["text"] + self.end for row in rows]

    def inputs(self, rows):
        """Returns the beginnings of texts: who speaks, or the first line of a poem."""
        if self.settings.data == "poetry":
            return ["\n" + re.split("(?<=，)", row["text"])[0] for row in rows]
        return ["\n" + row["text"].partition("\n")[0] + "\n" for row in rows]

    def checks(self, rows, baseline):
        if self.settings.data != "poetry":
            return {}
        options, count = self.decoding | {"temperature": 1.0}, min(_POEMS, self.settings.limit or _POEMS)
        written = self.generator.generate(["\n"] * count, seed=self.settings.seed, **options)
        (begin,) = end_ids = self.tokenizer.encode("\n").numpy().tolist()
        drawn = [baseline.model.sample([begin], 64, end_ids, seed) for seed in range(count)]
        drawn = [text.decode() for text in self.tokenizer.decode(drawn).numpy()]
        systems = {"model": written, baseline.name: drawn, "people": [row["text"] for row in rows]}
        return {
            "poems written from nothing that keep the form": {
                name: [bool(quatrain_form(text)) for text in texts] for name, texts in systems.items()
            }
        }


def quatrain_form(text):
    """Returns int, the characters in each of the four lines of a quatrain, 5 or 7; 0 for what is none.

    Example:
        >>> quatrain_form("床前明月光，疑是地上霜。举头望明月，低头思故乡。")
        5
        >>> quatrain_form("床前明月光，疑是地上霜。")
        0
    """
    for size in (5, 7):
        if re.fullmatch(rf"(\w{{{size}}}[，。？！；、]){{4}}", text):
            return size
    return 0


def cut_passages(text, size):
    """Cuts a text at empty lines into passages of at least `size` characters; the last may be shorter.

    Example:
        >>> cut_passages("ab\\n\\ncd\\n\\nef", 5)
        ['ab\\n\\ncd', 'ef']
    """
    passages, open_parts = [], []
    for part in filter(None, (part.strip("\n") for part in text.split("\n\n"))):
        open_parts.append(part)
        if len("\n\n".join(open_parts)) >= size:
            passages.append("\n\n".join(open_parts))
            open_parts = []
    return passages + ["\n\n".join(open_parts)] * bool(open_parts)
