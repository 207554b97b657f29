"""TextGenerator: strings in, strings out, around a model, a tokenizer and the compiled strategies.

With a model that has an encoder (`Seq2Seq`), prompts are sources: the encoder reads them, and a text begins with `begin_id`.
"""

import collections
import dataclasses
import time

import numpy as np
import tensorflow as tf

from tfllm.generation.history import FINISH_REASONS, NAN, STOP_STRING, out_of_time
from tfllm.generation.loop import advance, begin, outcome
from tfllm.generation.scoring import embed_ids, next_log_probs, score_ids
from tfllm.generation.settings import (
    MOST_TOKENS,
    NUMBERS,
    REQUESTS,
    Vocabulary,
    make_settings,
    pad_settings,
    power_of_two,
    signature,
)
from tfllm.generation.strategies import make_strategy
from tfllm.generation.strategy import check_size

_STREAM_CHUNK = 4  # tokens a call: few enough to look alive, enough to hide the cost of a call
_XLA_CHUNK = 16  # tokens between two looks at the clock, which XLA does not have
_TABLE = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]  # ids and their lengths
_BEGIN_TOKENS = ("<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>", "[CLS]")
_END_TOKENS = ("</s>", "<eos>", "[EOS]", "[SEP]")  # beside those that a tokenizer knows as its end


@dataclasses.dataclass(frozen=True)
class Completion:
    """One text that follows a prompt, and what the model thought of it.

    Attributes:
        text: str, without the prompt.
        finish_reason: str, why it ended: "end" (the end token), "stop_id", "stop_string", "length", "time" or "no_token"
            (every token was forbidden).
        score: float, what the strategy ranks by; for samples the sum of `log_probs`.
        ids: int32 [T], its tokens, without an end token; a token that completes a stop string is among them.
        log_probs: float32 [T], nats, of these tokens by the model's own distribution, before any setting; None where the
            strategy does not give them.
        entropy: float32 [T], nats, of that distribution, or None.
        top_ids: int32 [T, K], its likeliest tokens, or None.
        top_log_probs: float32 [T, K], or None.
    """

    text: str
    finish_reason: str
    score: float
    ids: np.ndarray
    log_probs: np.ndarray | None = None
    entropy: np.ndarray | None = None
    top_ids: np.ndarray | None = None
    top_log_probs: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """Log-probabilities of a given text.

    Attributes:
        ids: int32 [T], the tokens that are scored.
        log_probs: float32 [T], nats, of each by those before it.
        total: float, their sum: the log-probability of the text by the chain rule.
        perplexity: float, exp of minus their mean.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    total: float
    perplexity: float


@dataclasses.dataclass(frozen=True)
class Prefix:
    """A text that was read once, to be continued many times; made by `TextGenerator.prefill`.

    Attributes:
        text: str.
        ids: int32 [Q], its tokens.
        state: the model's state, of one row, after all of them but the last.
        model: the model that read it.
    """

    text: str
    ids: np.ndarray
    state: object
    model: object


class TextGenerator:
    """Continues texts with a language model; compiled once, for prompts, lengths and settings of any kind.

    Args:
        model: a `LanguageModel`. The prompts of a `Seq2Seq` are sources, and what is generated answers them.
        tokenizer: the tokenizer that it was trained with; of a `Seq2Seq`, that of the texts.
        source_tokenizer: the tokenizer of a `Seq2Seq`'s sources; None means `tokenizer`.
        begin_id: int, what the decoder of a `Seq2Seq` reads first. None means the tokenizer's `<s>`, `<bos>`, `[BOS]`,
            `<|startoftext|>`, `<|begin_of_text|>` or `[CLS]`, the first that it has, else the end token.
        end_id: int, the token that ends a text. None means the tokenizer's own end token; for a `Seq2Seq` also `<eos>`, `[EOS]`
            or `[SEP]`.
        jit_compile: bool, whether XLA compiles the loop. It needs fixed shapes, so batch, prompt and new tokens are padded
            to powers of two and each new combination compiles once, which takes seconds.
        max_programs: int, the most compiled programs that are kept; the one that was not used for longest goes first.

    Attributes:
        trace_count: int, how often a function was traced so far: it stays put in steady use.
        program_count: int, compiled programs that are kept.

    Raises:
        ValueError: when a tokenizer has more ids than the model, an id is out of the vocabulary, a model without an encoder is
            given a `source_tokenizer` or `begin_id`, or one with an encoder has no `begin_id` or `end_id`.

    Example:
        >>> import tfllm
        >>> tokenizer = tfllm.CharTokenizer.train("to be or not")
        >>> model = tfllm.RecurrentLM(tokenizer.vocab_size, cell="gru", dim=8)
        >>> text = tfllm.TextGenerator(model, tokenizer).generate("to be", max_new_tokens=5)
        >>> len(text) <= 5
        True
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        source_tokenizer=None,
        begin_id=None,
        end_id=None,
        jit_compile=False,
        max_programs=64,
    ):
        if tokenizer.vocab_size > model.vocab_size:
            raise ValueError(
                f"tokenizer must have at most the model's vocab_size={model.vocab_size}; got {tokenizer.vocab_size}"
            )
        if isinstance(max_programs, bool) or not isinstance(max_programs, int) or max_programs < 1:
            raise ValueError(f"max_programs must be an int of at least 1; got {max_programs!r}")
        self.model, self.tokenizer, self.jit_compile = model, tokenizer, jit_compile
        self.reads_sources = hasattr(model, "encode")
        self.source_tokenizer, self.begin_id, end_id = self._ends(source_tokenizer, begin_id, end_id)
        self.vocabulary = dataclasses.replace(Vocabulary.of(tokenizer), end_id=end_id)
        self.max_programs, self.trace_count = max_programs, 0
        self._programs = collections.OrderedDict()
        self._within = Within(model)
        self._encode = self._compile(tokenizer.encode, [tf.TensorSpec([None], tf.string)])
        self._encode_source = self._encode
        if self.source_tokenizer not in (None, tokenizer):
            self._encode_source = self._compile(self.source_tokenizer.encode, [tf.TensorSpec([None], tf.string)])
        rows = tf.TensorSpec([None], tf.int32)
        self._texts = self._compile(self.texts, [tf.TensorSpec([None, None], tf.int32), rows, rows])

    @property
    def program_count(self):
        return len(self._programs)

    def generate(self, prompts, *, strategy="sample", prefix=None, **settings):
        """Continues one text or several.

        Args:
            prompts: str, or list of str, none of them empty unless there is a prefix; the sources of a `Seq2Seq`.
            strategy: one of "sample", "greedy", "beam_search", ..., or a `Strategy`.
            prefix: `Prefix`, what stands before every prompt, or None.
            **settings: the fields of the strategy and the settings of `make_settings`, each once or one a prompt; the
                usual ones are `max_new_tokens` (128), `temperature` (1), `top_k`, `top_p`, `stop` and `seed`. Also
                `negative_prompt`, str or list of str, which `guidance_scale` leads away from; `max_time`, float > 0,
                seconds after which all rows end; `truncate_prompts`, bool, whether prompts that are too long for the
                model lose their beginning (sources their end) instead of being refused.

        Returns:
            str for a str, else list of str: what follows each prompt, without the prompt; the best where there are several.

        Raises:
            ValueError: on an empty prompt, a prompt of more tokens than the model can hold, an unknown strategy or setting, a
                setting out of its range, or a model whose logits are not numbers.
        """
        found, single = self._run(prompts, strategy, prefix, settings)
        texts = self._decoded(found)[:: found["num_sequences"]]
        return texts[0] if single else texts

    def complete(self, prompts, *, strategy="sample", prefix=None, top_log_probs=0, best_of=None, **settings):
        """Does what `generate` does and returns all there is to know.

        Args:
            prompts, strategy, prefix, settings: as for `generate`. `num_sequences` asks for several texts a prompt.
            top_log_probs: int >= 0, how many of the likeliest tokens stand beside each chosen one.
            best_of: int >= `num_sequences`, texts that are drawn, of which those of the highest mean log-probability
                are returned; None draws as many as are returned.

        Returns:
            for a str list of `Completion`, one a sequence, the best first where the strategy ranks them (and with
            `best_of`); for a list of str, a list of them for each.

        Raises:
            ValueError: as `generate`.
        """
        if isinstance(top_log_probs, bool) or not isinstance(top_log_probs, int):
            raise ValueError(f"top_log_probs must be an int; got {top_log_probs!r}")
        if not 0 <= top_log_probs <= self.model.vocab_size:
            raise ValueError(f"top_log_probs must lie in [0, {self.model.vocab_size}]; got {top_log_probs}")
        wanted = settings.get("num_sequences", getattr(strategy, "num_sequences", 1))
        check_size("num_sequences", wanted)
        if best_of is not None:
            if isinstance(best_of, bool) or not isinstance(best_of, int) or best_of < wanted:
                raise ValueError(f"best_of must be an int of at least num_sequences={wanted}; got {best_of!r}")
            settings["num_sequences"] = best_of
        found, single = self._run(prompts, strategy, prefix, settings, top=top_log_probs)
        if best_of is not None and "log_probs" not in found and len(found["ids"]):
            raise ValueError(f"strategy must tell the log-probabilities of its tokens for best_of; got {strategy!r}")
        rows = self._completions(found)
        num = found["num_sequences"]
        groups = [rows[at : at + num] for at in range(0, len(rows), num)]
        if best_of is not None:
            groups = [sorted(group, key=_mean_log_prob, reverse=True)[:wanted] for group in groups]
        return groups[0] if single else groups

    def stream(self, prompt, *, prefix=None, **settings):
        """Yields the continuation of one text piece by piece, as it is decoded.

        Args:
            prompt: str; the rest as in `generate`, for sampling and greedy decoding.

        Yields:
            str, never a part of a character; joined, the pieces are what `generate` returns.

        Raises:
            ValueError: as `generate`.
        """
        if not isinstance(prompt, str):
            raise ValueError(f"prompt must be a str; got {type(prompt).__name__}")
        request = self._request(prompt, settings.pop("strategy", "sample"), prefix, settings)
        if not request.strategy.refills or request.strategy.num_sequences != 1:
            raise ValueError(f"strategy must choose one token after the other to stream; got {request.strategy}")
        stops = [bytes(stop[stop >= 0].tolist()).decode() for stop in request.settings["stop"][0]]
        return self._stream(request, [stop for stop in stops if stop])

    def prefill(self, prefix):
        """Reads a text once, so that many prompts can follow it: `generate(prompts, prefix=...)`.

        A prompt is encoded on its own, as it stands behind the prefix, and may then be empty.

        Args:
            prefix: str, not empty.

        Returns:
            `Prefix`.

        Raises:
            ValueError: on an empty text, or for a model with an encoder, whose texts `forced_prefix` begins.
        """
        if self.reads_sources:
            raise ValueError(f"model must have no encoder for a prefix; got {type(self.model).__name__}")
        ids, lengths = self._encoded("prefix", [prefix], room=1, real=True)

        def read(ids):
            state = self.model.initial_state(1, tf.maximum(tf.shape(ids)[1], 1))
            return self.model.step(ids, state, tf.shape(ids)[1][None], last=True)[1]

        program = self._program(("prefill",), read, [tf.TensorSpec([1, None], tf.int32)])
        state = program(tf.constant(ids[:, :-1])) if lengths[0] > 1 else self.model.initial_state(1, 1)
        return Prefix(prefix, ids[0], state, self.model)

    def score(self, texts, *, contexts=None):
        """Says how likely texts are: the terms of the chain rule, token by token.

        Args:
            texts: str or list of str. Without a context the first token has none before it and is not scored.
            contexts: str or list of str, one for each text: what stands before it and is not scored, encoded on its own. The
                sources of a `Seq2Seq`, which must be given; all tokens of its texts are scored, and the end token is not.

        Returns:
            `Score` for a str, else list of `Score`.

        Raises:
            ValueError: on an empty text or context, no contexts for a `Seq2Seq`, or more tokens than the model can hold.
        """
        single = isinstance(texts, str)
        texts = self._as_prompts("texts", texts)
        if not texts:
            return []
        ids, lengths = self._encoded("texts", texts)
        before, sources = np.ones(len(texts), np.int32), ()
        if contexts is None and self.reads_sources:
            raise ValueError("contexts must be the sources of the texts, for a model with an encoder; got None")
        if contexts is not None:
            contexts = [contexts] * len(texts) if isinstance(contexts, str) else self._as_prompts("contexts", contexts)
            if len(contexts) != len(texts):
                raise ValueError(f"contexts must be as many as texts, {len(texts)}; got {len(contexts)}")
            if self.reads_sources:
                sources = self._encoded("contexts", contexts, real=True, source=True)
                known = np.full([len(texts), 1], self.begin_id, np.int32)
            else:
                known, before = self._encoded("contexts", contexts)
            rows = [[*a[:m], *b[:n]] for a, m, b, n in zip(known, before, ids, lengths, strict=True)]
            ids, lengths = _padded_rows(rows)
            self._check_length("texts and contexts", lengths)
        specs = _TABLE * 2 if sources else _TABLE
        program = self._program(("score",), lambda *inputs: score_ids(self.model, *inputs), specs)
        log_probs = program(ids, lengths, *sources).numpy()
        scores = []
        for row, terms, first, end in zip(ids, log_probs, before, lengths, strict=True):
            first = max(first, 1)  # a context of blanks may have no token, and so may a text
            end = max(first, end)
            terms = terms[first - 1 : end - 1]
            mean = terms.mean() if len(terms) else np.float32(0)
            scores.append(Score(row[first:end], terms, float(terms.sum()), float(np.exp(-mean))))
        return scores[0] if single else scores

    def next_token(self, prompts, *, top=10):
        """Says what may follow: the likeliest next tokens, argmax P(w | prompt) first.

        Args:
            prompts: str or list of str, not empty.
            top: int >= 1, how many.

        Returns:
            list of (token str, probability float) for a str, else a list of them for each.
        """
        if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= self.model.vocab_size:
            raise ValueError(f"top must be an int in [1, {self.model.vocab_size}]; got {top!r}")
        single, shares = isinstance(prompts, str), self.next_token_distribution(prompts)
        pieces = self.tokenizer.token_bytes()
        found = []
        for row in shares[None] if single else shares:
            best = np.argsort(-row[: self.tokenizer.vocab_size], kind="stable")[:top]
            found.append(
                [(pieces[i].decode(errors="replace") or self.tokenizer.tokens[i], float(row[i])) for i in best]
            )
        return found[0] if single else found

    def next_token_distribution(self, prompts):
        """Returns float32 [V] for a str, else [B, V]: the probability of each id after the prompt."""
        single, prompts = isinstance(prompts, str), self._as_prompts("prompts", prompts)
        if not prompts:
            return np.zeros([0, self.model.vocab_size], np.float32)
        inputs = self._laid_out("prompts", prompts, real=True)
        specs = _TABLE * (len(inputs) // 2)
        program = self._program(("next",), lambda *inputs: next_log_probs(self.model, *inputs), specs)
        shares = np.exp(program(*inputs.values()).numpy())
        return shares[0] if single else shares

    def embed(self, texts):
        """Returns float32 [D] for a str, else [B, D]: the mean of the model's last features over each text's tokens.

        Of a `Seq2Seq`, texts are sources, and the features those of the encoder.
        """
        single, texts = isinstance(texts, str), self._as_prompts("texts", texts)
        program = self._program(("embed",), lambda *inputs: embed_ids(self.model, *inputs), _TABLE)
        vectors = program(*self._encoded("texts", texts, source=self.reads_sources)).numpy()
        return vectors[0] if single else vectors

    def warm_up(self, batch_sizes=(1,), prompt_lengths=(16,), max_new_tokens=(128,), *, strategy="sample", **settings):
        """Compiles ahead of the first request, so that none has to wait.

        Args:
            batch_sizes, prompt_lengths, max_new_tokens: ints, the sizes to expect; every combination runs once.
            strategy, settings: as for `generate`.

        Returns:
            float, the seconds it took.
        """
        began = time.perf_counter()
        tokenizer = self.source_tokenizer or self.tokenizer
        token = int(np.argmax([len(piece) > 0 for piece in tokenizer.token_bytes()]))
        for batch in batch_sizes:
            for length in prompt_lengths:
                for new in max_new_tokens:
                    ids = _Ids(np.full([batch, length], token, np.int32), np.full([batch], length, np.int32))
                    self._run(ids, strategy, None, settings | {"max_new_tokens": new})
        return time.perf_counter() - began

    def texts(self, ids, count, kept):
        """Turns what a strategy found into string [R]: ids int32 [R, N], of which `count` stand, cut after `kept` bytes.

        A function for graphs, which exports use; `kept` -1 cuts nothing.
        """
        whole = self.tokenizer.decode_bytes(tf.RaggedTensor.from_tensor(ids, lengths=count))
        size = tf.strings.length(whole)
        cut = tf.strings.substr(whole, tf.zeros_like(size), tf.where(kept >= 0, tf.minimum(kept, size), size))
        return tf.strings.unicode_transcode(cut, "UTF-8", "UTF-8", errors="replace")

    # ---------------------------------------------------------------- requests

    def _request(self, prompts, strategy, prefix, settings):
        """Checks everything and lays it out: a namespace of prompts, settings, strategy, capacity, deadline, single."""
        settings = dict(settings)
        strategy, settings = make_strategy(strategy, settings)
        own = ("negative_prompt", "max_time", "truncate_prompts")
        negative, max_time, truncates = (settings.pop(name, None) for name in own)
        unknown = sorted(set(settings) - set(NUMBERS) - set(REQUESTS))
        if unknown:
            fields = [field.name for field in dataclasses.fields(strategy)]
            known = ", ".join((*NUMBERS, *REQUESTS, *own, *fields))
            raise ValueError(f"settings must be among {known}; got {unknown[0]!r}")
        if max_time is not None and (isinstance(max_time, str) or not max_time > 0):
            raise ValueError(f"max_time must be above 0 seconds; got {max_time!r}")
        strategy.check(self.model)
        if prefix is not None and getattr(prefix, "model", None) is not self.model:
            raise ValueError(f"prefix must be what prefill of a generator of this model returned; got {prefix!r:.80}")
        if isinstance(prompts, _Ids):
            single, num_rows = False, len(prompts.ids)
        else:
            single, prompts = isinstance(prompts, str), self._as_prompts("prompts", prompts, empty=prefix is not None)
            num_rows = len(prompts)
        laid_out = make_settings(num_rows, self.model.vocab_size, self.tokenizer, **settings)
        new = int(laid_out["max_new_tokens"].max(initial=1))
        if new * strategy.num_sequences > MOST_TOKENS:
            total = new * strategy.num_sequences
            raise ValueError(f"max_new_tokens must be at most {MOST_TOKENS} in all sequences of a prompt; got {total}")
        room = 0 if strategy.refills and negative is None else new
        room += 0 if prefix is None else len(prefix.ids) - 1
        last = None if prefix is None else prefix.ids[-1:].tolist()
        inputs = self._laid_out("prompts", prompts, room, bool(truncates), last)
        if negative is not None:
            negative = (
                [negative] * num_rows if isinstance(negative, str) else self._as_prompts("negative_prompt", negative)
            )
            if len(negative) != num_rows:
                raise ValueError(
                    f"negative_prompt must be one or one for each of {num_rows} prompts; got {len(negative)}"
                )
            second = self._laid_out("negative_prompt", negative, room, real=True)
            inputs |= {f"guide_{name}": x for name, x in second.items()}
        if prefix is not None:
            inputs |= {"prefix": prefix.ids[None, :-1], "state": prefix.state}
        limit, before = self.model.max_length, 0 if prefix is None else len(prefix.ids) - 1
        model = self.model
        if limit is not None and before + int(inputs["lengths"].max(initial=0)) + new <= limit:
            model = self._within
        return _Request(model, inputs, laid_out, strategy, new, max_time, single)

    def _as_prompts(self, name, prompts, empty=False):
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(prompts, list | tuple):
            raise ValueError(f"{name} must be a str or a list of str; got {type(prompts).__name__}")
        for prompt in prompts:
            if not isinstance(prompt, str) or not (prompt or empty):
                raise ValueError(f"{name} must be strings that are not empty; got {prompt!r}")
        return list(prompts)

    def _laid_out(self, name, texts, room=0, truncates=False, first=None, real=False):
        """Returns the dict of prompts (`loop.py`) that texts are, or `_Ids`; the other arguments are those of `_encoded`."""
        source = self.reads_sources
        behind = 0 if source else room  # what follows a source does not stand behind it
        if isinstance(texts, _Ids):
            ids, lengths = texts.ids, texts.lengths
            self._check_length("prompt_lengths", lengths, behind, source)
        else:
            ids, lengths = self._encoded(name, texts, behind, truncates, first, real, source)
        if not source:
            return {"ids": ids, "lengths": lengths}
        begin = np.full([len(ids), 1], self.begin_id, np.int32)
        ones = np.minimum(lengths, 1)  # a source without a token has no answer
        self._check_length("the beginnings of texts", ones, room)
        return {"ids": begin, "lengths": ones, "source": ids, "source_lengths": lengths}

    def _encoded(self, name, texts, room=0, truncates=False, first=None, real=False, source=False):
        """Returns (int32 [B, P], int32 [B]) of texts, each behind the ids `first`, P at least 1; `real` ones have a token."""
        texts = self._as_prompts(name, texts, empty=first is not None)
        if not texts:
            return np.zeros([0, 1], np.int32), np.zeros([0], np.int32)
        rows = (self._encode_source if source else self._encode)(tf.constant(texts)).to_list()
        limit, start = self._limit(source), list(first or [])
        kept = None if limit is None else limit - room - len(start)
        if truncates and kept is not None and kept > 0:
            rows = [row[:kept] if source else row[-kept:] for row in rows]
        ids, lengths = _padded_rows([[*start, *row] for row in rows])
        if real and not lengths.all():
            raise ValueError(f"{name} must have a token each; got {texts[int(np.argmin(lengths))]!r}, which has none")
        self._check_length(name, lengths, room, source)
        return ids.astype(np.int32), lengths

    def _limit(self, source):
        return self.model.max_source_length if source else self.model.max_length

    def _check_length(self, name, lengths, room=0, source=False):
        limit, longest = self._limit(source), int(lengths.max(initial=0))
        if limit is not None and longest + room > limit:
            why = f" less {room} for what else must fit" if room else ""
            size = f"max_{'source_' if source else ''}length={limit}"
            raise ValueError(f"{name} must have at most the model's {size} tokens{why}; got {longest}")

    def _ends(self, source_tokenizer, begin_id, end_id):
        """Returns (tokenizer of sources or None, begin_id or None, end_id or -1), after they were checked."""
        model, tokenizer = self.model, self.tokenizer

        def known(names):
            return next((tokenizer.id_of(name) for name in names if name in tokenizer.special_tokens), None)

        for name, value in (("begin_id", begin_id), ("end_id", end_id)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if value is not None and not (whole and 0 <= value < model.vocab_size):
                raise ValueError(f"{name} must be an id in [0, {model.vocab_size}); got {value!r}")
        end_id = tokenizer.end_id if end_id is None else int(end_id)
        if not self.reads_sources:
            for name, value in (("source_tokenizer", source_tokenizer), ("begin_id", begin_id)):
                if value is not None:
                    raise ValueError(f"{name} must be None for a model without an encoder; got {value!r}")
            return None, None, end_id
        end_id = known(_END_TOKENS) if end_id < 0 else end_id
        begin_id = known(_BEGIN_TOKENS) if begin_id is None else int(begin_id)
        begin_id = end_id if begin_id is None else begin_id
        if begin_id is None or end_id is None:
            raise ValueError(
                f"begin_id and end_id must be given where the tokenizer has none; got {begin_id} and {end_id}"
            )
        source_tokenizer = tokenizer if source_tokenizer is None else source_tokenizer
        limit = model.source_vocab_size or model.vocab_size
        if source_tokenizer.vocab_size > limit:
            raise ValueError(
                f"source_tokenizer must have at most the model's {limit} source ids; got {source_tokenizer.vocab_size}"
            )
        return source_tokenizer, begin_id, end_id

    def _run(self, prompts, strategy, prefix, settings, top=None):
        """Returns (dict of NumPy arrays, what the strategy found and `num_sequences`; whether there was one prompt)."""
        request = self._request(prompts, strategy, prefix, settings)
        num = request.strategy.num_sequences
        rows = len(request.inputs["lengths"])
        if not rows:
            empty = {"ids": np.zeros([0, 1], np.int32), "score": np.zeros([0], np.float32)}
            empty |= dict.fromkeys(("count", "finish", "kept"), np.zeros([0], np.int32))
            return empty | {"num_sequences": num}, False
        found = self._run_xla(request, top) if self.jit_compile else self._run_graph(request, top)
        # A picture of a tree and the like stay as they are.
        found = {name: x.numpy() if tf.is_tensor(x) else x for name, x in found.items()}
        wrong = np.flatnonzero(found["finish"] == NAN)
        if len(wrong):
            token = int(found["count"][wrong[0]])
            raise ValueError(
                f"model must give logits that are numbers; got NaN for prompt {wrong[0] // num} at token {token}"
            )
        return found | {"num_sequences": num}, request.single

    def _run_graph(self, request, top):
        plain, tensors = request.strategy.split()
        timed = request.max_time is not None
        specs = {
            name: tf.TensorSpec([None] * np.ndim(x), tf.int32) for name, x in request.inputs.items() if name != "state"
        }
        if "state" in request.inputs:
            specs["state"] = tf.nest.map_structure(
                lambda leaf: tf.TensorSpec([None] * leaf.shape.rank, leaf.dtype), request.inputs["state"]
            )
        whole, clock = tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.float64)
        own = {name: tf.TensorSpec([], x.dtype) for name, x in tensors.items()}

        def search(inputs, settings, tensors, capacity, deadline):
            strategy = dataclasses.replace(plain, **tensors)
            end = {"deadline": deadline} if timed else {}
            return strategy.search(request.model, inputs, settings, self.vocabulary, capacity, top=top, **end)

        key = ("graph", id(request.model), plain, tuple(sorted(specs)), top, timed)
        program = self._program(key, search, [specs, signature(self.model.vocab_size), own, whole, clock])
        deadline = time.time() + (request.max_time or 0.0)
        return program(request.inputs, request.settings, tensors, request.capacity, tf.constant(deadline, tf.float64))

    def _run_xla(self, request, top):
        plain, tensors = request.strategy.split()
        inputs, batch = request.inputs, len(request.inputs["lengths"])
        rows, capacity = power_of_two(batch), power_of_two(request.capacity, 16)
        kept = ("prefix", "state")
        padded = {name: inputs[name] for name in kept if name in inputs}
        for name, x in inputs.items():
            if name not in kept:
                widths = [(0, rows - batch)]  # length 0 ends at once
                if x.ndim == 2:
                    source = name.endswith("source")
                    least = 1 if self.reads_sources and not source else 16  # texts begin with one token
                    width = power_of_two(x.shape[1], least)
                    # A model forgets what it can no longer hold, but an encoder refuses it.
                    limit = self._limit(True) if source else None
                    widths.append((0, (width if limit is None else min(width, limit)) - x.shape[1]))
                padded[name] = np.pad(x, widths)
        settings = pad_settings(request.settings, rows)
        shapes = tf.nest.map_structure(lambda x: tuple(x.shape), (padded, settings))
        key = ("xla", id(request.model), plain, repr(shapes), capacity, top)
        if request.max_time is None:

            def search(inputs, settings, tensors):
                strategy = dataclasses.replace(plain, **tensors)
                return strategy.search(request.model, inputs, settings, self.vocabulary, capacity, top=top)

            found = self._program(key, search, jit_compile=True)(padded, settings, tensors)
        else:
            found = self._run_by_the_clock(request, key, padded, settings, capacity, top)
        num = request.strategy.num_sequences
        per_row = {name for name, x in found.items() if tf.is_tensor(x) and x.shape.rank and x.shape[0] == rows * num}
        return {name: x[: batch * num] if name in per_row else x for name, x in found.items()}

    def _run_by_the_clock(self, request, key, inputs, settings, capacity, top):
        if not request.strategy.refills or request.strategy.num_sequences > 1:
            raise ValueError(f"max_time must be None under XLA but for one sample a prompt; got {request.max_time}")
        end = time.time() + request.max_time

        def start(inputs, settings):
            return begin(request.model, inputs, settings, self.vocabulary, capacity, top=top)

        def go_on(loop, settings):
            return advance(request.model, loop, settings, self.vocabulary, _XLA_CHUNK)

        loop = self._program((*key, "begin"), start, jit_compile=True)(inputs, settings)
        while time.time() < end and bool(tf.reduce_any(loop["history"]["finish"] == 0)):
            loop = self._program((*key, "advance"), go_on, jit_compile=True)(loop, settings)
        found = outcome(loop | {"history": out_of_time(loop["history"])}, capacity)
        known = found["log_probs"] if top is not None else tf.zeros([len(found["count"]), 1])
        return found | {"score": tf.reduce_sum(known, -1)}

    def _stream(self, request, stops):
        """Yields str of one request; what may turn out to begin a stop string is held back."""
        text, shown, reason, ids = "", 0, [], []

        def noted(parts):
            for part in parts:
                ids.extend(part)
                yield part

        for piece in self.tokenizer.decode_stream(noted(self._new_ids(request, reason))):
            text += piece
            # The cut decides where a stop string was completed; before it, only what cannot begin one is shown.
            safe = len(text) - max((_overlap(text[shown:], stop) for stop in stops), default=0)
            if safe > shown and not reason:
                yield text[shown:safe]
                shown = safe
        if reason and reason[0][0] == STOP_STRING:  # the cut is a number of bytes, also of those that are no characters
            text = self._texts(np.array([ids], np.int32), [len(ids)], [reason[0][1]]).numpy()[0].decode()
        if text[shown:]:
            yield text[shown:]

    def _new_ids(self, request, reason):
        """Yields int32 [T], the ids of one text as they are decoded, some at a time; `reason` gets why it ended."""
        inputs, settings = request.inputs, request.settings
        kinds = id(request.model), *sorted(inputs)

        def start(inputs, settings, capacity):
            return begin(request.model, inputs, settings, self.vocabulary, capacity)

        def go_on(loop, settings, steps):
            return advance(request.model, loop, settings, self.vocabulary, steps)

        whole, specs = tf.TensorSpec([], tf.int32), signature(self.model.vocab_size)
        shapes = tf.nest.map_structure(lambda x: tf.TensorSpec([None] * len(x.shape), tf.as_dtype(x.dtype)), inputs)
        first = self._program(("begin", kinds), start, [shapes, specs, whole])
        loop = first(inputs, settings, request.capacity)
        loop_specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, first.get_concrete_function().structured_outputs)
        second = self._program(("advance", kinds), go_on, [loop_specs, specs, whole])
        end = None if request.max_time is None else time.time() + request.max_time
        shown = 0
        while True:
            found = {name: x.numpy()[0] for name, x in outcome(loop, request.capacity).items()}
            finish = found["finish"]
            if finish == NAN:
                raise ValueError(f"model must give logits that are numbers; got NaN at token {found['count']}")
            if finish:
                reason.append((finish, found["kept"]))
            yield found["ids"][shown : found["count"]]
            shown = found["count"]
            if finish or (end is not None and time.time() >= end):
                return
            loop = second(loop, settings, _STREAM_CHUNK)

    def _decoded(self, found):
        texts = (
            self._texts(found["ids"], found["count"], found["kept"])
            if len(found["ids"])
            else tf.constant([], tf.string)
        )
        return [text.decode() for text in texts.numpy()]

    def _completions(self, found):
        texts = self._decoded(found)
        recorded = [name for name in ("log_probs", "entropy", "top_ids", "top_log_probs") if name in found]
        completions = []
        for at, text in enumerate(texts):
            size = found["count"][at]
            details = {name: found[name][at, :size] for name in recorded}
            reason, score = FINISH_REASONS[found["finish"][at]], float(found["score"][at])
            completions.append(Completion(text, reason, score, found["ids"][at, :size], **details))
        return completions

    # ---------------------------------------------------------------- programs

    def _program(self, key, function, specs=None, **options):
        """Returns the compiled function of a key, made when it is first asked for."""
        if key not in self._programs:
            self._programs[key] = self._compile(function, specs, **options)
            if len(self._programs) > self.max_programs:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]

    def _compile(self, function, specs=None, **options):
        return tf.function(_Traced(self, function), input_signature=specs, autograph=False, **options)


class _Traced:
    """A function that counts its traces; an object, because TensorFlow takes closures of one line of code for one function
    that retraces, and warns."""

    def __init__(self, generator, function):
        self.generator, self.function = generator, function

    def __call__(self, *inputs):
        self.generator.trace_count += 1
        return self.function(*inputs)


class Within:
    """A model for texts that all fit into it: it has no `max_length`, so nothing is built for going on beyond."""

    max_length = None

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def initial_state(self, batch_size, slots, context=None):
        limit = self._model.max_length  # which padding may pass
        if limit is not None:
            slots = min(slots, limit) if isinstance(slots, int) else tf.minimum(slots, limit)
        return self._model.initial_state(batch_size, slots, context)


@dataclasses.dataclass(frozen=True)
class _Ids:
    """Prompts that are encoded already."""

    ids: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Request:
    model: object
    inputs: dict
    settings: dict
    strategy: object
    capacity: int
    max_time: float | None
    single: bool


def _overlap(text, stop):
    """Returns int, the length of the longest end of `text` that `stop` begins with, short of all of it."""
    return next((n for n in range(min(len(text), len(stop)), 0, -1) if text.endswith(stop[:n])), 0)


def _mean_log_prob(completion):
    return float(completion.log_probs.mean()) if len(completion.log_probs) else -np.inf


def _padded_rows(rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros([len(rows), max(lengths.max(initial=0), 1)], np.int32)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row
    return ids, lengths
