"""Music creation: a language model writes tunes in ABC notation.

task      write a tune for a given rhythm, meter, unit length and key
data      music/irish-american: 1,949 dance tunes of 1883 and 1903; titles, books and numbers are left out, and so what is
          learned is the rhythm, the meter, the unit length, the key and the notes
command   tfllm task music
baseline  the modified Kneser-Ney n-gram model over the same characters, its order chosen on the validation part
score     bits a character of the test tunes, lower is better; and how many of 100 tunes written from nothing our own parser
          (abc_notation.py) accepts, beside those of the baseline and of people: README.md of this folder
"""

import re

from tfllm.evaluation import BitsPerCharacter
from tfllm.tasks.abc_notation import tune_problem
from tfllm.tasks.language_model import LanguageModelTask
from tfllm.tasks.task import TaskSettings
from tfllm.text import CharTokenizer

_KEPT = ("R", "M", "L", "K")
_TUNES = 100  # that are written to check them
_LONGEST = 800  # characters


class Music(LanguageModelTask):
    """Writes dance tunes in ABC notation, character by character."""

    name = "music"
    title = "Music creation"
    caution = "The parser checks meter, symbols and repeats, not whether a tune is good."
    datasets = ("music/irish-american",)
    defaults = TaskSettings(
        steps=1500, batch_size=8, learning_rate=3e-3, dim=128, num_layers=4, sequence_length=320, dropout=0.1
    )
    orders = (4, 6, 8, 10, 12, 14)

    def parts(self, row):
        return [("\n", False), (plain_tune(row["abc"]) + "\n\n", True)]

    @property
    def decoding(self):
        longest = 60 if self.settings.limit else _LONGEST
        return {"max_new_tokens": longest, "temperature": 0.8, "stop": ["\n\n"]}

    def make_tokenizer(self, texts):
        return CharTokenizer.train(texts)

    def metrics(self):
        return [BitsPerCharacter()]

    def references(self, rows, metric):
        return [self.parts(row)[1][0] for row in rows]

    def inputs(self, rows):
        """Returns the headers of tunes, up to the key."""
        return ["\n" + re.split("(?<=\nK:)", plain_tune(row["abc"]))[0] for row in rows]

    def checks(self, rows, baseline):
        options, count = self.decoding | {"temperature": 1.0}, min(_TUNES, self.settings.limit or _TUNES)
        written = self.generator.generate(["\n"] * count, seed=self.settings.seed, **options)
        begin = self.tokenizer.encode("\n").numpy().tolist()
        drawn = [self._draw(baseline.model, begin, seed) for seed in range(count)]
        systems = {"model": written, baseline.name: drawn, "people": [plain_tune(row["abc"]) for row in rows]}
        return {
            "tunes written from nothing that the parser accepts": {
                name: [not tune_problem(whole_tune(text)) for text in texts] for name, texts in systems.items()
            }
        }

    def _draw(self, n_grams, begin, seed):
        ids = n_grams.sample(begin, self.decoding["max_new_tokens"], seed=seed)
        return self.tokenizer.decode(ids).numpy().decode().partition("\n\n")[0]


def plain_tune(abc):
    """Returns str, a tune without the fields that do not tell how it sounds.

    Example:
        >>> plain_tune("X:1\\nT:Scale\\nM:C\\nL:1/8\\nK:G\\nGABc defg |")
        'M:C\\nL:1/8\\nK:G\\nGABc defg |'
    """
    lines = [line.rstrip() for line in abc.strip().split("\n")]
    end = next(number for number, line in enumerate(lines) if line.startswith("K:")) + 1
    header = {line[0]: line for line in lines[:end] if line[:1] in _KEPT and line[1:2] == ":"}
    return "\n".join([header[name] for name in _KEPT if name in header] + [line for line in lines[end:] if line])


def whole_tune(text, title="Written by a model"):
    """Returns str, a tune with the number and the title that ABC wants."""
    return f"X:1\nT:{title}\n{text.strip()}\n"
