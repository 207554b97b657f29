"""Beam search: the best few beginnings of a text are kept and grow together; also in diverse groups, and with phrases to contain.

A prompt's beams stand in groups, usually one. A group is a search of its own, with its own pool of finished texts, which sees
only what tokens the groups before it chose. Finished texts wait in the pool, where nothing changes them any more.
Definitions of scores and of early stopping are those of `transformers` 5.
Source: Vijayakumar et al. 2016, arXiv:1610.02424, for groups; Post and Vilar 2018, arXiv:1804.06609, for required phrases.
"""

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.history import NAN, NO_TOKEN, TIME, extend, new_tokens, start_history
from tfllm.generation.loop import copies, guided, read_prompts, reorder_state, second_prompts, take_state
from tfllm.generation.phrases import phrase_table
from tfllm.generation.processors import process
from tfllm.generation.sampling import entropy
from tfllm.generation.settings import take_rows
from tfllm.generation.strategy import Strategy, check_size

DEAD = -float("inf")  # the score of a beam that does not go on, and of a place in a pool that is free


@dataclasses.dataclass(frozen=True)
class BeamSearch(Strategy):
    """Searches for the texts of highest score: the sum of log p over their tokens, divided by length ** length_penalty.

    p is the model's distribution after penalties, bans and constraints; what concerns drawing (temperature, cut-offs, seed) does
    not act. The length counts new tokens and the token that ended the text. At each step the best `num_beams` continuations
    stay, and those among them that end go to the pool of the `num_beams` best finished texts. A text that ends because every
    token is forbidden counts as finished. A single beam is greedy decoding.

    Attributes:
        num_beams: int >= 1, over all groups.
        num_sequences: int in [1, `num_beams`], texts returned for each prompt, the best first. Where there are fewer, the rest
            is empty, of score minus infinity.
        length_penalty: float in [-5, 5]; above 0 favours long texts, 0 ranks by probability alone.
        early_stopping: when a prompt's search ends: True, as soon as the pool is full; False, when besides no beam's score is
            better than the pool's worst, at the length it has now, which may miss a better text; "never", when none can become
            better at any length.
        num_groups: int >= 1, divides `num_beams`.
        diversity_penalty: float >= 0, nats that a choice loses for each beam of an earlier group that chose the same token at
            this step; it steers the choice and is no part of the score.
        required: tuple of phrases, each a tuple of ids or a tuple of such ways to write it, that every text must contain among
            its new tokens. The beams are shared among texts that need 0, 1, 2, ... further tokens for it, and when room
            gets short only those are chosen. Where that is impossible the text is empty.

    Example:
        >>> strategy = BeamSearch(num_beams=3, required=((7, 2), (5,)))
        >>> strategy.num_sequences
        1
    """

    num_beams: int = 4
    num_sequences: int = 1
    length_penalty: float | tf.Tensor = 1.0
    early_stopping: bool | str = False
    num_groups: int = 1
    diversity_penalty: float | tf.Tensor = 0.0
    required: tuple = ()
    tensors: ClassVar[dict] = {"length_penalty": tf.float32, "diversity_penalty": tf.float32}

    def __post_init__(self):
        object.__setattr__(self, "required", _as_tuple(self.required))

    @classmethod
    def requiring(cls, tokenizer, words, **fields):
        """Makes a search whose texts contain words, as they are encoded alone or behind a blank.

        Args:
            tokenizer: `Tokenizer`.
            words: list of str, words or phrases.
            **fields: the other attributes.

        Returns:
            `BeamSearch`.

        Raises:
            ValueError: on a word that is empty or that the tokenizer cannot write.
        """
        if isinstance(words, str) or not all(isinstance(word, str) and word for word in words):
            raise ValueError(f"words must be strings that are not empty; got {words!r}")
        pieces = tokenizer.token_bytes()
        required = []
        for word in words:
            ways = [tuple(ids) for ids in tokenizer.encode([word, f" {word}"]).to_list()]
            ways = [ids for ids in ways if word.encode() in b"".join(pieces[i] for i in ids)]
            if not ways:
                raise ValueError(f"words must be such as the tokenizer can write; got {word!r}")
            required.append(tuple(dict.fromkeys(ways)))
        return cls(required=tuple(required), **fields)

    def check(self, model):
        check_size("num_beams", self.num_beams)
        check_size("num_sequences", self.num_sequences)
        check_size("num_groups", self.num_groups)
        if self.num_sequences > self.num_beams:
            raise ValueError(f"num_sequences must be at most num_beams={self.num_beams}; got {self.num_sequences}")
        if self.num_beams % self.num_groups:
            raise ValueError(f"num_groups must divide num_beams={self.num_beams}; got {self.num_groups}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(f'early_stopping must be True, False or "never"; got {self.early_stopping!r}')
        _check_number("length_penalty", self.length_penalty, -5, 5)
        _check_number("diversity_penalty", self.diversity_penalty, 0, math.inf)
        if self.diversity_penalty and self.num_groups == 1:
            raise ValueError(f"diversity_penalty must be 0 for one group; got {self.diversity_penalty}")
        for way in (way for ways in _phrases(self.required) for way in ways):
            for token in way:
                if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < model.vocab_size:
                    raise ValueError(f"required must hold ids in [0, {model.vocab_size}); got {token!r}")
        phrase_table(_phrases(self.required))

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        num, size = self.num_groups, self.num_beams // self.num_groups
        reading, tokens, count = _read(model, prompts, capacity)
        group = _Group(self, size, settings, vocabulary, model.vocab_size, tf.shape(count)[0])
        rows = copies(group.batch, size)
        first = group.start(tf.gather(tokens, rows), tf.gather(count, rows), capacity, top)
        loop = take_state(reading, tf.tile(rows, [num]))
        wrong = tf.zeros_like(count, tf.bool)
        loop |= {"groups": [first] * num, "wrong": wrong, "parents": tf.range(tf.shape(rows)[0] * num)}

        def choose(loop, logits, guide_logits):
            groups, parents, used = [], [], None
            parts = tf.split(logits, num)
            guides = tf.split(guide_logits, num) if guide_logits is not None else [None] * num
            scale = group.settings["guidance_scale"]
            parts = [guided(part, guide, scale) for part, guide in zip(parts, guides, strict=True)]
            wrong = loop["wrong"]
            for old, part in zip(loop["groups"], parts, strict=True):
                nan = tf.reshape(tf.reduce_any(tf.math.is_nan(part), -1), [-1, size])
                wrong |= tf.reduce_any(nan & (old["total"] > DEAD), -1)
            for at, (old, part) in enumerate(zip(loop["groups"], parts, strict=True)):
                new, chosen, used = group.grow(old, part, wrong, used)
                groups.append(new)
                parents.append(chosen + at * tf.shape(chosen)[0])
            return loop | {"groups": groups, "wrong": wrong, "parents": tf.concat(parents, 0)}

        def goes(loop):
            """Returns bool [G B S], the rows that go on."""
            alive = tf.concat([part["total"] > DEAD for part in loop["groups"]], 0)
            return tf.reshape(alive & ~tf.tile(loop["wrong"], [num])[:, None], [-1])

        def goes_on(loop):
            on = tf.reduce_any(goes(loop))
            return on if deadline is None else on & (tf.timestamp() < deadline)

        def body(loop):
            token = tf.concat([_last_token(part["rows"]["history"]) for part in loop["groups"]], 0)
            reads = tf.cast(goes(loop), tf.int32)
            states = {name: loop[name] for name in ("state", "guide") if name in loop}
            if size > 1:
                states = {name: reorder_state(state, loop["parents"]) for name, state in states.items()}
            logits = {}
            for name in states:
                logits[name], states[name] = model.step(token, states[name], reads)
            guide_logits = logits["guide"][:, 0] if "guide" in logits else None
            return (choose(loop | states, logits["state"][:, 0], guide_logits),)

        loop = choose(loop, loop.pop("logits"), loop.pop("guide_logits", None))
        (loop,) = tf.while_loop(goes_on, body, (loop,), parallel_iterations=1)
        return group.outcome(loop["groups"], loop["wrong"], capacity, self.num_sequences)


class _Group:
    """A group of S beams for each of B prompts, and how it grows.

    What changes is a dict:

        rows    history and what else belongs to a beam, B * S rows
        total   float32 [B, S], each beam's sum of log p; DEAD where none goes on
        pool    rows of finished texts, B * S of them
        best    float32 [B, S], their scores, the highest first; DEAD where the place is free
    """

    def __init__(self, strategy, size, settings, vocabulary, vocab_size, batch):
        self.strategy, self.size, self.vocabulary, self.batch = strategy, size, vocabulary, batch
        self.table = phrase_table(_phrases(strategy.required)) if strategy.required else None
        special = 0 if self.table is None else len(self.table.tokens)
        if special and vocabulary.end_id in self.table.tokens:
            raise ValueError(f"required must not have the end token; got id {vocabulary.end_id}")
        # So many tokens end a text at once; beside them there must be S that do not. Where stop strings end more, fewer beams
        # go on and have offspring enough to be S again.
        stops = settings["stop_ids"]
        ends = 1 + (tf.shape(stops)[1] if stops.shape[1] is None else stops.shape[1])
        self.width = _minimum(size + ends, vocab_size)  # likeliest tokens that are looked at for each beam
        self.num_candidates = size * _minimum(1 + ends, self.width + special)  # K
        self.settings = take_rows(settings, copies(batch, size))
        self.wide_settings = take_rows(settings, copies(batch, self.num_candidates))

    def start(self, tokens, count, capacity, top):
        """Returns the group before its first token: one beam a prompt, for all would grow alike."""
        rows = {"history": start_history(tokens, count, self.settings)}
        finish = rows["history"]["finish"]
        if self.table is not None:
            rows["phrases"] = tf.zeros_like(count)
        if top is not None:
            real = tf.zeros([tf.shape(count)[0], capacity])
            rows["record"] = {"log_probs": real, "entropy": real}
            if top:
                rows["record"]["top_ids"] = tf.zeros([tf.shape(count)[0], capacity, top], tf.int32)
                rows["record"]["top_log_probs"] = tf.zeros([tf.shape(count)[0], capacity, top])
        first = (tf.range(tf.shape(count)[0]) % self.size == 0) & (finish == 0)
        total = tf.reshape(tf.where(first, 0.0, DEAD), [-1, self.size])
        pool = _text(rows)
        pool["history"]["finish"] = tf.where(finish == 0, NO_TOKEN, finish)
        return {"rows": rows, "total": total, "pool": pool, "best": tf.fill(tf.shape(total), DEAD)}

    def grow(self, group, logits, wrong, used):
        """Chooses one token more for every beam.

        Args:
            group: dict; see above.
            logits: float32 [B * S, V].
            wrong: bool [B], prompts that stand still.
            used: float32 [B, V], how often earlier groups chose each token at this step, or None.

        Returns:
            (the new group; int32 [B * S], the row from which each beam grew; `used` with the tokens of this group, or None
            where there is one group only).
        """
        size, history = self.size, group["rows"]["history"]
        allowed = process(logits, history, self.settings, self.vocabulary)
        stuck = tf.reduce_max(allowed, -1) == DEAD
        norm = tf.where(stuck, 0.0, tf.reduce_logsumexp(allowed, -1))
        scores = allowed
        if used is not None:
            scores -= tf.repeat(self.strategy.diversity_penalty * used, size, axis=0)
        values, tokens, phrases = self._candidates(scores, group["rows"], stuck)
        totals = self._by_prompt(tf.reshape(group["total"], [-1, 1]) + values - norm[:, None])  # [B, S * width]
        if self.table is None:
            total, index = tf.math.top_k(totals, self.num_candidates)  # [B, K]
        else:
            index = self._share_out(totals, self._by_prompt(tf.gather(self.table.needed, phrases)))
            total = tf.gather(totals, index, batch_dims=1)
        token = tf.gather(self._by_prompt(tokens), index, batch_dims=1)
        if used is not None:
            total += self.strategy.diversity_penalty * tf.gather(used, token, batch_dims=1)
        parents = self._rows(index // tf.shape(values)[1], size)  # [B * K]

        found = take_state(group["rows"], parents)
        alive = (total > DEAD) & ~wrong[:, None]
        grows = ~tf.gather(stuck, parents)
        before = found["history"]["new"]
        flat = tf.reshape(token, [-1])
        after = extend(found["history"], flat, tf.reshape(alive, [-1]) & grows, self.wide_settings, self.vocabulary)
        finish = tf.where(grows, after["finish"], NO_TOKEN)
        found["history"] = after | {"finish": finish}
        if self.table is not None:
            found["phrases"] = tf.reshape(tf.gather(self._by_prompt(phrases), index, batch_dims=1), [-1])
        if "record" in found:
            found["record"] = _record(found["record"], logits, parents, flat, before, after["new"] > before)

        ended = self._by_prompt(finish, self.num_candidates) != 0
        places = tf.broadcast_to(tf.range(self.num_candidates), tf.shape(ended))
        good = ended & alive & (places < size) & self._has_all(found, alive)  # from place S on they are there to go on
        pool, best = self._keep(group, found, tf.where(good, total, DEAD), before + tf.cast(grows, tf.int32))

        _, going = tf.math.top_k(-tf.where(ended, places + self.num_candidates, places), size)
        total = tf.gather(tf.where(ended, DEAD, total), going, batch_dims=1)
        rows = self._rows(going, self.num_candidates)
        chosen = take_state(found, rows)
        total = tf.where(self._is_over(total, best, chosen["history"]["new"])[:, None], DEAD, total)
        total = tf.where(wrong[:, None], group["total"], total)
        new = {"rows": chosen, "total": tf.ensure_shape(total, [None, size]), "pool": pool, "best": best}
        if self.strategy.num_groups > 1:
            marks = tf.one_hot(token[:, :size], logits.shape[1])
            chose = (alive & self._by_prompt(grows, self.num_candidates))[:, :size]
            marks = tf.reduce_sum(tf.where(chose[..., None], marks, 0.0), 1)
            used = marks if used is None else used + marks
        return new, tf.gather(parents, rows), used

    def outcome(self, groups, wrong, capacity, num_sequences):
        """Returns what `Strategy.search` does; beams that still go on end by the clock, or because a logit was no number."""
        pools, bests = [], []
        for group in groups:
            rows, new = group["rows"], group["rows"]["history"]["new"]
            reason = tf.where(tf.repeat(wrong, self.size), NAN, TIME)
            rows = rows | {"history": rows["history"] | {"finish": reason}}
            group = group | {"best": tf.where(wrong[:, None], DEAD, group["best"])}
            good = wrong[:, None] | self._has_all(rows, group["total"])
            pool, best = self._keep(group, rows, tf.where(good, group["total"], DEAD), new)
            pools.append(pool)
            bests.append(best)
        score, index = tf.math.top_k(tf.concat(bests, 1), num_sequences)
        rows = (
            index // self.size * (self.batch * self.size)
            + tf.range(self.batch)[:, None] * self.size
            + index % self.size
        )
        pool = tf.nest.map_structure(lambda *leaves: tf.concat(leaves, 0), *pools)
        pool = take_state(pool, tf.reshape(rows, [-1]))
        history = pool["history"]
        found = {"ids": new_tokens(history, capacity), "count": history["new"], "score": tf.reshape(score, [-1])}
        return found | {"finish": history["finish"], "kept": history["kept"]} | pool.get("record", {})

    def _candidates(self, scores, rows, stuck):
        """Returns (values float32, tokens int32, states of the phrases' automaton int32 or None), each [B * S, width]."""
        table = self.table
        # A beam that has no token left stays, unchanged, for it competes as a finished text.
        stays = stuck[:, None] & (tf.range(self.width) == 0)
        if table is None:
            values, tokens = tf.math.top_k(scores, self.width)
            return tf.where(stays, 0.0, values), tokens, None
        special = tf.scatter_nd(table.tokens[:, None], tf.ones(len(table.tokens), tf.bool), [scores.shape[1]])
        values, tokens = tf.math.top_k(tf.where(special, DEAD, scores), self.width)
        values = tf.concat([values, tf.gather(scores, table.tokens, axis=1)], 1)
        beside = tf.broadcast_to(table.tokens, [tf.shape(tokens)[0], len(table.tokens)])
        tokens = tf.concat([tokens, beside], 1)
        old = rows["phrases"][:, None]
        after = tf.gather(table.next_state, rows["phrases"])  # [B * S, U + 1]
        after = tf.concat([tf.repeat(after[:, -1:], self.width, axis=1), after[:, :-1]], 1)
        ends = tf.reduce_any(tokens[:, :, None] == self.settings["stop_ids"][:, None], -1)
        ends |= tokens == self.vocabulary.end_id
        after = tf.where(ends, old, after)
        room = (self.settings["max_new_tokens"] - rows["history"]["new"])[:, None] - 1
        possible = tf.gather(table.needed, after) <= tf.where(ends, 0, room)
        values = tf.where(possible, values, DEAD)
        stays = tf.pad(stays, [[0, 0], [0, len(table.tokens)]])
        values = tf.where(stays & (tf.gather(table.needed, old) == 0), 0.0, values)
        return values, tokens, tf.where(stays, old, after)

    def _share_out(self, totals, needed):
        """Orders candidates so that texts that need 0, 1, 2, ... tokens get equal shares of the beams, as far as there are any.

        Args:
            totals: float32 [B, C].
            needed: int32 [B, C], tokens that each still needs to have all phrases.

        Returns:
            int32 [B, K], of the candidates: the best of each bank, then the second best of each, and so on; within a round
            those first that need least.
        """
        totals, order = tf.math.top_k(totals, tf.shape(totals)[1])
        bank = tf.gather(needed, order, batch_dims=1)
        num_banks = int(self.table.needed[0]) + 1
        better = tf.cumsum(tf.one_hot(bank, num_banks, dtype=tf.int32), axis=1, exclusive=True)
        round_of = tf.gather(better, bank, batch_dims=2)
        key = tf.where(totals > DEAD, round_of * num_banks + bank, tf.int32.max)
        _, first = tf.math.top_k(-key, self.num_candidates)
        return tf.gather(order, first, batch_dims=1)

    def _keep(self, group, found, total, length):
        """Adds texts to the pool and keeps the best S.

        Args:
            group: dict.
            found: rows, C a prompt.
            total: float32 [B, C], DEAD for those that are not to be added.
            length: int32 [B * C], tokens by which the score is measured.

        Returns:
            (pool, float32 [B, S], their scores).
        """
        length = tf.cast(tf.reshape(tf.maximum(length, 1), tf.shape(total)), tf.float32)
        added = total > DEAD
        score = tf.where(added, total / length**self.strategy.length_penalty, DEAD)

        def merge():
            best, index = tf.math.top_k(tf.concat([group["best"], score], 1), self.size)
            num = tf.shape(total)[1]
            old = self._rows(index, self.size)
            new = self._rows(index - self.size, num) + tf.shape(old)[0]
            rows = tf.where(tf.reshape(index < self.size, [-1]), old, new)
            both = tf.nest.map_structure(lambda a, b: tf.concat([a, b], 0), group["pool"], _text(found))
            return take_state(both, rows), best

        return tf.cond(tf.reduce_any(added), merge, lambda: (group["pool"], group["best"]))

    def _has_all(self, rows, like):
        """Returns bool of the shape of `like`, the texts that have all required phrases."""
        if self.table is None:
            return tf.ones_like(like, tf.bool)
        return tf.reshape(tf.gather(self.table.needed, rows["phrases"]), tf.shape(like)) == 0

    def _is_over(self, total, best, new):
        """Returns bool [B]: whether the pool is full and, unless that is enough, no beam may still get into it."""
        full = tf.reduce_min(best, -1) > DEAD
        if self.strategy.early_stopping is True or self.size == 1:
            return full
        penalty = self.strategy.length_penalty
        length = tf.reshape(new, [-1, self.size])[:, 0]
        if self.strategy.early_stopping == "never":  # the length at which a sum of so much is worth most
            longest = tf.reshape(self.settings["max_new_tokens"], [-1, self.size])[:, 0]
            length = tf.where(penalty > 0, longest, length)
        length = tf.cast(tf.maximum(length, 1), tf.float32)
        return full & (tf.reduce_max(total, -1) / length**penalty <= tf.reduce_min(best, -1))

    def _by_prompt(self, x, columns=None):
        """Reshapes [B * S, width] to [B, S * width]; or anything to [B, columns]."""
        return tf.reshape(x, [-1, self.size * tf.shape(x)[1] if columns is None else columns])

    def _rows(self, index, num):
        """Returns int32 [B * n], places among all rows of indices [B, n] among the `num` rows of each prompt."""
        return tf.reshape(tf.range(tf.shape(index)[0])[:, None] * num + index, [-1])


def _read(model, prompts, capacity):
    """Reads the prompts, and second prompts where there are any, as `loop.begin` does."""
    logits, state, tokens, count = read_prompts(model, prompts, capacity)
    reading = {"state": state, "logits": logits}
    second = second_prompts(prompts)
    if second:
        reading["guide_logits"], reading["guide"], _, _ = read_prompts(model, second, capacity)
    return reading, tokens, count


def _text(rows):
    """Returns what is kept of a finished text."""
    history = {name: rows["history"][name] for name in ("tokens", "count", "new", "finish", "kept")}
    return {"history": history} | ({"record": rows["record"]} if "record" in rows else {})


def _last_token(history):
    return tf.gather(history["tokens"], tf.maximum(history["count"] - 1, 0)[:, None], batch_dims=1)


def _record(record, logits, parents, token, column, grew):
    """Notes what the model thought of each candidate's token; `logits` are those of the beams they grow from."""
    log_probs = tf.nn.log_softmax(logits)
    new = {"entropy": tf.gather(entropy(log_probs), parents)}
    new["log_probs"] = tf.gather_nd(log_probs, tf.stack([parents, token], 1))
    if "top_ids" in record:
        top_log_probs, top_ids = tf.math.top_k(log_probs, record["top_ids"].shape[2])
        new |= {"top_log_probs": tf.gather(top_log_probs, parents), "top_ids": tf.gather(top_ids, parents)}
    here = (tf.range(tf.shape(record["entropy"])[1]) == column[:, None]) & grew[:, None]  # [B * K, N]
    return {
        name: tf.where(here if old.shape.rank == 2 else here[..., None], new[name][:, None], old)
        for name, old in record.items()
    }


def _minimum(a, b):
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else tf.minimum(a, b)


def _as_tuple(value):
    return tuple(_as_tuple(part) for part in value) if isinstance(value, list | tuple) else value


def _phrases(required):
    """Returns the phrases, each as a tuple of ways to write it."""
    if not isinstance(required, tuple) or not all(isinstance(phrase, tuple) and phrase for phrase in required):
        raise ValueError(f"required must be phrases, each a tuple of ids; got {required!r}")
    phrases = tuple(phrase if isinstance(phrase[0], tuple) else (phrase,) for phrase in required)
    if not all(isinstance(way, tuple) and way for phrase in phrases for way in phrase):
        raise ValueError(f"required must be phrases, each a tuple of ids; got {required!r}")
    return phrases


def _check_number(name, value, least, most):
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value == math.inf:
        raise ValueError(f"{name} must be a number in [{least}, {most}]; got {value!r}")
