"""Strategy: what every way to search for a text promises. `Sample`, the simplest, is here too.

A strategy is a frozen dataclass of its settings and one pure function, `search`, over a model's `initial_state` and `step`. It
knows no tokenizer, and what a request may change in every strategy (penalties, bans, stops, lengths, seeds) reaches it as the
dict of `make_settings`.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.loop import copies, generate_ids
from tfllm.generation.settings import MOST_SEQUENCES, take_rows


class Strategy:
    """Base of all strategies.

    Attributes:
        tensors: dict of field name to dtype, the fields that change without a new trace; the others shape the graph.
        refills: bool, whether texts go on beyond the model's `max_length`; a strategy that does not needs room for all
            `max_new_tokens`.
        num_sequences: int, texts for each prompt.
    """

    tensors: ClassVar[dict] = {}
    refills: ClassVar[bool] = False
    num_sequences = 1

    def check(self, model):
        """Raises ValueError when a field is out of its range; for fields that are numbers."""

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        """Continues prompts.

        Args:
            model, prompts, settings, vocabulary, capacity, top, deadline: as for `loop.generate_ids`. The settings have a
                row for each prompt.

        Returns:
            dict as of `loop.generate_ids`, R = B times `num_sequences` rows, those of a prompt next to each other and the
            best first; with `"score"` float32 [R], higher is better. A strategy may add keys of its own.
        """
        raise NotImplementedError

    def split(self):
        """Returns (the strategy with its tensor fields at their defaults, dict of their values as tensors)."""
        defaults = {field.name: field.default for field in dataclasses.fields(self) if field.name in self.tensors}
        values = {name: tf.cast(getattr(self, name), dtype) for name, dtype in self.tensors.items()}
        return dataclasses.replace(self, **defaults), values


@dataclasses.dataclass(frozen=True)
class Sample(Strategy):
    """Chooses one token after the other: the likeliest at temperature 0, else drawn.

    Attributes:
        num_sequences: int, texts drawn for each prompt, which is read once; `search` takes a tensor as well.
    """

    num_sequences: int = 1
    refills: ClassVar[bool] = True

    def check(self, model):
        check_size("num_sequences", self.num_sequences, most=MOST_SEQUENCES)

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        num = self.num_sequences
        settings = for_sequences(settings, num)
        found = generate_ids(
            model, prompts, settings, vocabulary, capacity, num_sequences=num, top=top, deadline=deadline
        )
        known = found["log_probs"] if top is not None else tf.zeros_like(found["count"], tf.float32)[:, None]
        return found | {"score": tf.reduce_sum(known, -1)}


def for_sequences(settings, num):
    """Returns settings with `num` rows for each of theirs, next to each other, that draw each on its own."""
    if isinstance(num, int) and num == 1:
        return settings
    rows = copies(tf.shape(settings["seed"])[0], num)
    settings = take_rows(settings, rows)
    # Sequences of one prompt differ as prompts with far seeds do.
    return settings | {"seed": settings["seed"] + 1_000_003 * (tf.range(tf.size(rows)) % num)}


def check_size(name, value, least=1, most=None):
    """Raises ValueError unless `value` is an int of at least `least`, and at most `most` where it is given."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an int of at least {least}; got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}; got {value}")
