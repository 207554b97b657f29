"""Models of this package as models of EleutherAI's `lm-evaluation-harness`, whose tasks then score them.

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    model = as_harness_model(generator)
    simple_evaluate(model, tasks=["my_task"], task_manager=TaskManager(include_path="folder/of/yaml"))

Three decisions a reader of its numbers must know:
- A context and its continuation are encoded apart and their ids joined, as by `TextGenerator.score`. The harness's own models
  encode both at once, so a token may straddle the border there; the blank between words belongs to the continuation in both.
- An empty context stands for the tokenizer's end token. Where there is none, the first token of a continuation has nothing
  before it and is not scored.
- Rolling log-likelihoods cut a text into rows of `sequence_length` tokens, each read on its own, as `evaluate_text` does.

Left out: chat templates, several choices of a model at once, caches on disk.
"""

import numpy as np

from tfllm.evaluation.perplexity import make_scorer, score_tokens

_LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def as_harness_model(generator, *, batch_size=16, max_new_tokens=256, sequence_length=None):
    """Makes a model of the harness, to give to `lm_eval.simple_evaluate`.

    Args:
        generator, batch_size, max_new_tokens, sequence_length: as for `HarnessModel`.

    Returns:
        A `HarnessModel` that is also a `lm_eval.api.model.LM`.

    Raises:
        ImportError: without the harness: `pip install "tfllm[eval]"`.
        ValueError: as `HarnessModel`.
    """
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise ImportError('as_harness_model needs lm-eval: pip install "tfllm[eval]"') from error

    class TfllmModel(HarnessModel, LM):
        """Both; made here, because the harness is imported only where it is used."""

    return TfllmModel(generator, batch_size=batch_size, max_new_tokens=max_new_tokens, sequence_length=sequence_length)


class HarnessModel:
    """Answers the three kinds of requests of the harness, in batches.

    Args:
        generator: a `TextGenerator`.
        batch_size: int >= 1, rows at a time.
        max_new_tokens: int >= 1, the longest answer where a task does not say.
        sequence_length: int >= 1, tokens in a row of rolling log-likelihoods; None for the model's `max_length`, or 512.

    Raises:
        ValueError: when a number is below 1.
    """

    def __init__(self, generator, *, batch_size=16, max_new_tokens=256, sequence_length=None):
        super().__init__()
        sequence_length = sequence_length or generator.model.max_length or 512
        sizes = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "sequence_length": sequence_length}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an int of at least 1; got {size!r}")
        self.generator, self.batch_size = generator, batch_size
        self.max_new_tokens, self.sequence_length = max_new_tokens, sequence_length
        self._score = make_scorer(generator.model)

    def loglikelihood(self, requests, disable_tqdm=True):
        """Scores continuations.

        Args:
            requests: list of objects whose `args` is (context str, continuation str). Of a context that is too long for the
                model the end counts.
            disable_tqdm: the harness gives it; nothing is shown.

        Returns:
            list of (float, bool): the log-probability of the continuation in nats, and whether greedy decoding writes it.

        Raises:
            ValueError: when a continuation has no token, or more than the model can hold.
        """
        pairs, limit = [request.args for request in requests], self.generator.model.max_length
        rows, sizes = [], []
        for context, continuation in pairs:
            before, after = self._ids(context), self._ids(continuation)
            if not after or (limit is not None and len(after) > limit):
                rule = "at least one token" if limit is None else f"1 to the model's max_length={limit} tokens"
                raise ValueError(
                    f"requests must have continuations of {rule}; got {len(after)} in {continuation!r:.60}"
                )
            if not before and self.generator.tokenizer.end_id >= 0:
                before = [self.generator.tokenizer.end_id]
            row = [*before, *after]
            rows.append(row if limit is None else row[-limit - 1 :])
            sizes.append(min(len(after), len(rows[-1]) - 1))
        found = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]))  # rows of one batch are about equally long
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            longest = max(max(len(rows[at]) for at in batch), 2)
            ids = np.zeros([len(batch), longest], np.int32)
            for line, at in enumerate(batch):
                ids[line, : len(rows[at])] = rows[at]
            log_probs, _, right = (part.numpy() for part in self._score(ids[:, :-1], ids[:, 1:]))
            for line, at in enumerate(batch):
                end = len(rows[at]) - 1
                mine = slice(end - sizes[at], end)
                found[at] = float(log_probs[line, mine].sum(dtype=np.float64)), bool(right[line, mine].all())
        return found

    def loglikelihood_rolling(self, requests, disable_tqdm=True):
        """Scores whole texts.

        Args:
            requests: list of objects whose `args` is (text str,).
            disable_tqdm: the harness gives it; nothing is shown.

        Returns:
            list of float, the log-probability of every token but the first, in nats: what `evaluate_text` makes a loss of.
        """
        model, tokenizer = self.generator.model, self.generator.tokenizer
        found = []
        for (text,) in (request.args for request in requests):
            if len(self._ids(text)) < 2:
                found.append(0.0)  # a token alone has none before it
                continue
            scores = score_tokens(model, tokenizer, text, self.sequence_length, self.batch_size)
            found.append(-float(scores.nats.sum()))
        return found

    def generate_until(self, requests, disable_tqdm=True):
        """Continues texts until a stop string.

        Args:
            requests: list of objects whose `args` is (context str, dict): `"until"`, str or list of str; `"max_gen_toks"`, int;
                `"do_sample"`, bool; `"temperature"`, `"top_k"`, `"top_p"`, `"min_p"` and `"repetition_penalty"`. Without
                `do_sample` and temperature the likeliest token is taken. Of a context that is too long the end counts.
            disable_tqdm: the harness gives it; nothing is shown.

        Returns:
            list of str, what follows, without the stop string.

        Raises:
            ValueError: when a setting is none of these, or a context is empty.
        """
        alike = {}
        for at, (_, given) in enumerate(request.args for request in requests):
            settings = self._settings(given)
            alike.setdefault(repr(sorted(settings.items())), (settings, []))[1].append(at)
        found = [None] * len(requests)
        for settings, places in alike.values():
            places = sorted(places, key=lambda at: len(requests[at].args[0]))
            for first in range(0, len(places), self.batch_size):
                batch = places[first : first + self.batch_size]
                contexts = [requests[at].args[0] for at in batch]
                texts = self.generator.generate(contexts, truncate_prompts=True, **settings)
                for at, text in zip(batch, texts, strict=True):
                    found[at] = text
        return found

    def _settings(self, given):
        """Returns dict, settings of `generate` of those of a request."""
        given = dict(given)
        lengths = [given.pop(name) for name in _LENGTH_NAMES if name in given]
        until = given.pop("until", None) or []
        samples, temperature = given.pop("do_sample", None), float(given.pop("temperature", 0.0) or 0.0)
        unknown = sorted(set(given) - set(_NUMBERS))
        if unknown:
            known = ", ".join(("until", *_LENGTH_NAMES[:1], "do_sample", *_NUMBERS))
            raise ValueError(f"requests must have settings among {known}; got {unknown[0]!r}")
        settings = {name: value for name, value in given.items() if value is not None}
        settings["max_new_tokens"] = int(
            next((length for length in lengths if length is not None), self.max_new_tokens)
        )
        settings["stop"] = [text for text in ([until] if isinstance(until, str) else until) if text] or None
        samples = temperature > 0 if samples is None else samples
        return settings | (
            {"temperature": temperature or 1.0} if samples else {"strategy": "greedy", "temperature": 0.0}
        )

    def _ids(self, text):
        return self.generator.tokenizer.encode(text).numpy().tolist() if text else []
