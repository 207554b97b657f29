"""Speculative decoding: a cheap draft of several tokens, which the model reads in one step and keeps as far as it agrees.

A draft is what followed earlier in the text (prompt lookup), what a smaller model writes, or what further heads of the model
itself say. The model then chooses as it always does, token after token with every setting in force, and a draft lives as long
as it says the same. Draws are coupled: the noise of a token comes from the row's seed and the token's number alone, so that
drafter and model draw with the same noise. What comes out is therefore not only distributed as without a draft, which is what
the acceptance rule of Leviathan et al. (2023, arXiv:2211.17192) gives: it is the very text that `Sample` gives for the seed,
whatever the draft, up to rounding. A draft drawn from q is kept with a probability of at least (1 - d) / (1 + d), d being the
total variation distance of q and the model's p, where their rule reaches 1 - d; for prompt lookup the two are equal.

Sources: Leviathan et al. 2023 and Chen et al. 2023, arXiv:2302.01318 (draft and verification); Daliri et al. 2024,
arXiv:2408.07978 (coupling by Gumbel noise); Saxena 2023 (prompt lookup); Cai et al. 2024, arXiv:2401.10774 (heads). Left out:
trees of drafts.
"""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfllm.generation.history import out_of_time
from tfllm.generation.loop import begin, choose, outcome, refill
from tfllm.generation.strategy import Strategy, check_size, for_sequences

DRAFTS = ("prompt_lookup", "heads")


@dataclasses.dataclass(frozen=True)
class Speculative(Strategy):
    """Does what `Sample` does, in fewer steps of the model where its drafts are good.

    Attributes:
        draft: "prompt_lookup", "heads" (for a model with `draft_logits`, such as `models.WithDraftHeads`), or a model of
            the same vocabulary and of any family and `max_length`.
        draft_tokens: int >= 1, the most tokens of a draft.
        max_ngram: int, for prompt lookup: as many of the last tokens are looked for first, then fewer.
        min_ngram: int in [1, `max_ngram`], the fewest that are looked for.
        num_sequences: int, texts drawn for each prompt.
        fixed_width: bool, whether every step reads `draft_tokens` + 1 tokens even where the drafts are shorter, as XLA wants it;
            so it is in any case where `capacity` is an int in a graph.
    """

    draft: object = "prompt_lookup"
    draft_tokens: int = 8
    max_ngram: int = 3
    min_ngram: int = 1
    num_sequences: int = 1
    fixed_width: bool = False
    refills: ClassVar[bool] = True

    def check(self, model):
        for name in ("draft_tokens", "max_ngram", "min_ngram", "num_sequences"):
            check_size(name, getattr(self, name))
        if self.min_ngram > self.max_ngram:
            raise ValueError(f"min_ngram must be at most max_ngram={self.max_ngram}; got {self.min_ngram}")
        if self.draft == "heads" and not hasattr(model, "draft_logits"):
            raise ValueError(f"model must have draft_logits for draft='heads'; got {type(model).__name__}")
        if isinstance(self.draft, str) and self.draft in DRAFTS:
            return
        if not all(hasattr(self.draft, name) for name in ("initial_state", "step", "vocab_size")):
            raise ValueError(f"draft must be one of {', '.join(DRAFTS)}, or a model; got {self.draft!r}")
        if hasattr(self.draft, "encode"):  # it would need the source read by its own encoder
            raise ValueError(f"draft must be a model without an encoder; got {type(self.draft).__name__}")
        if self.draft.vocab_size != model.vocab_size:
            raise ValueError(f"draft must have the model's vocab_size={model.vocab_size}; got {self.draft.vocab_size}")

    def search(self, model, prompts, settings, vocabulary, capacity, *, top=None, deadline=None):
        """Continues prompts.

        Returns:
            dict as of `loop.generate_ids`, the ids those of `Sample`, with `"score"`, and int32 [R] `"passes"` (times that a
            row went through the model, its prompt and the replays of a model that cannot be rewound among them),
            `"drafted"` (tokens that were proposed) and `"accepted"` (those of them that were kept).
        """
        num = self.num_sequences
        settings = for_sequences(settings, num)
        loop = begin(model, prompts, settings, vocabulary, capacity, num_sequences=num, top=top)
        history = loop["history"]
        zeros = tf.zeros_like(history["count"])
        loop |= {"passes": zeros + 1, "drafted": zeros, "accepted": zeros}
        loop["drafter"] = self._start(model, history, capacity)
        fixed = self.fixed_width or (isinstance(capacity, int) and not tf.executing_eagerly())

        def goes_on(loop):
            on = tf.reduce_any(loop["history"]["finish"] == 0)
            return on if deadline is None else on & (tf.timestamp() < deadline)

        def body(loop):
            loop = _make_room(model, loop)
            draft, sizes, drafter = self._propose(
                loop, _room(model, loop, settings, self.draft_tokens), settings, vocabulary
            )
            width = 1 + (self.draft_tokens if fixed else tf.reduce_max(sizes))
            return (self._verify(model, loop | {"drafter": drafter}, draft, sizes, width, settings, vocabulary),)

        (loop,) = tf.while_loop(goes_on, body, (loop,), parallel_iterations=1)
        if deadline is not None:
            loop |= {"history": out_of_time(loop["history"])}
        found = outcome(loop, capacity) | {name: loop[name] for name in ("passes", "drafted", "accepted")}
        known = found["log_probs"] if top is not None else tf.zeros_like(found["count"], tf.float32)[:, None]
        return found | {"score": tf.reduce_sum(known, -1)}

    def _start(self, model, history, capacity):
        """Returns what the drafter knows after the prompts, a dict of tensors, batch first."""
        if self.draft == "prompt_lookup":
            return {}
        tokens, count = history["tokens"], history["count"]
        batch = tokens.shape[0] or tf.shape(tokens)[0]
        if self.draft == "heads":  # nothing, before the model has read a token more
            heads = tf.zeros([batch, model.num_draft_heads, model.vocab_size])
            return {"logits": heads, "ready": tf.zeros_like(count, tf.bool)}
        width = (tokens.shape[1] or tf.shape(tokens)[1]) - capacity  # of the prompts
        limit = self.draft.max_length
        slots = width + capacity
        if limit is not None:
            slots, width = (
                min(size, limit) if isinstance(size, int) else tf.minimum(size, limit) for size in (slots, width)
            )
        # The token behind the prompt is for the first draft to read, and prompts that are too long wait to be refilled.
        reads = tf.maximum(count - 1, 0)
        reads = reads if limit is None else tf.where(reads > limit, 0, reads)
        _, state = self.draft.step(tokens[:, :width], self.draft.initial_state(batch, slots), reads, last=True)
        return {"state": state, "read": reads}

    def _propose(self, loop, room, settings, vocabulary):
        """Writes a draft of at most `room` (int32 [B]) tokens for each row.

        Returns:
            (int32 [B, `draft_tokens`], int32 [B] how many of them count, what the drafter knows then).
        """
        history, drafter, size = loop["history"], loop["drafter"], self.draft_tokens
        if self.draft == "prompt_lookup":
            draft, found = look_up(history["tokens"], history["count"], size, self.max_ngram, self.min_ngram)
            return draft, tf.where(found, room, 0), drafter
        if self.draft == "heads":
            logits = drafter["logits"]
            room = tf.where(drafter["ready"], tf.minimum(room, logits.shape[1]), 0)
            draft, sizes, _ = _write(
                logits[:, 0],
                lambda at, *_: (tf.gather(logits, at, axis=1), ()),
                (),
                room,
                size,
                history,
                settings,
                vocabulary,
            )
            return draft, sizes, drafter
        return self._propose_by_model(history, drafter, room, settings, vocabulary)

    def _propose_by_model(self, history, drafter, room, settings, vocabulary):
        model, size = self.draft, self.draft_tokens
        goes, count = history["finish"] == 0, history["count"]
        state, read = drafter["state"], drafter["read"]
        # What was kept or chosen since: as a model that is rewound has read all but the last token of its draft, one or two.
        width = 2 if model.rewindable else size + 1
        behind = count - read
        if model.max_length is not None:
            full = goes & ((behind > width) | (state["position"] + behind > model.max_length))
            nothing = tf.zeros([tf.shape(count)[0], model.vocab_size])
            _, state = refill(model, history, full, nothing, state, unread=1)
            behind = tf.where(full, 1, behind)
            read = count - behind
        at = tf.minimum(read[:, None] + tf.range(width), tf.shape(history["tokens"])[1] - 1)
        latest = tf.gather(history["tokens"], at, batch_dims=1)
        logits, state = model.step(latest, state, tf.where(goes, behind, 0), last=True)
        if model.max_length is not None:
            room = tf.minimum(room, model.max_length - state["position"] + 1)

        def following(_, token, on, state):
            logits, state = model.step(token[:, None], state, tf.cast(on, tf.int32))
            return logits[:, 0], state

        draft, sizes, after = _write(logits[:, 0], following, state, room, size, history, settings, vocabulary)
        # A model that cannot be rewound forgets its draft, which it wrote on a copy.
        state, ahead = (after, after["position"] - state["position"]) if model.rewindable else (state, 0)
        return draft, sizes, {"state": state, "read": tf.where(goes, count, read) + ahead}

    def _verify(self, model, loop, draft, sizes, width, settings, vocabulary):
        """Reads the drafts in one step of `width` tokens and keeps what the model agrees with, and a token more."""
        goes = loop["history"]["finish"] == 0
        ids = tf.concat([_last(loop["history"])[:, None], draft], 1)[:, :width]
        lengths = tf.where(goes, 1 + sizes, 0)
        states = {name: loop[name] for name in ("state", "guide") if name in loop}
        if self.draft == "heads":
            features, state = model.read(ids, loop["state"], lengths)
            logits = model.logits(features)
        else:
            logits, state = model.step(ids, loop["state"], lengths)
        after, guide_logits = {"state": state}, None
        if "guide" in loop:
            guide_logits, after["guide"] = model.step(ids, loop["guide"], lengths)

        def body(at, on, accepted, written):
            guide = None if guide_logits is None else tf.gather(guide_logits, at, axis=1)
            new = choose(written, tf.gather(logits, at, axis=1), guide, settings, vocabulary, rows=on)
            grew = new["history"]["new"] > written["history"]["new"]
            drafted = tf.gather(draft, tf.minimum(at, self.draft_tokens - 1), axis=1)
            kept = on & grew & (at < sizes) & (_last(new["history"]) == drafted)
            return at + 1, kept & (new["history"]["finish"] == 0), accepted + tf.cast(kept, tf.int32), new

        written = {name: loop[name] for name in ("history", "record") if name in loop}
        first = (tf.constant(0), goes, loop["accepted"], written)
        on = tf.while_loop(lambda at, on, *_: tf.reduce_any(on), body, first, parallel_iterations=1)
        accepted, written = on[2:]
        taken = written["history"]["new"] - loop["history"]["new"]  # ids that were right, the first of them always
        replays = goes & (written["history"]["finish"] == 0) & (taken < lengths) & (not model.rewindable)
        settled = {name: _settle(model, old, after[name], ids, taken, replays) for name, old in states.items()}
        passes = loop["passes"] + tf.cast(goes, tf.int32) + tf.cast(replays, tf.int32)
        drafter = loop["drafter"]
        if self.draft == "heads":
            last = tf.gather(features, tf.maximum(taken - 1, 0), batch_dims=1)
            drafter = {"logits": model.draft_logits(last), "ready": taken > 0}
        elif self.draft != "prompt_lookup" and self.draft.rewindable:
            drafter = _rewind(drafter, written["history"]["count"] - 1)
        counts = {"passes": passes, "drafted": loop["drafted"] + sizes, "accepted": accepted}
        return loop | written | settled | counts | {"drafter": drafter}


def look_up(tokens, count, size, max_ngram=3, min_ngram=1):
    """Drafts what followed the latest earlier occurrence of each row's last tokens, of as many as occurred together.

    A draft that reaches the end of its row goes on with itself, so that a loop is drafted in full.

    Args:
        tokens: int32 [B, W], rows padded with anything.
        count: int32 [B], tokens that count.
        size: int K, tokens of a draft.
        max_ngram: int, the most last tokens that are compared.
        min_ngram: int in [1, `max_ngram`], the fewest.

    Returns:
        (int32 [B, K], bool [B] whether anything was found).

    Example:
        >>> draft, found = look_up(tf.constant([[1, 2, 3, 9, 2, 3, 0], [7, 8, 9, 0, 0, 0, 0]]), tf.constant([6, 3]), 3)
        >>> draft[0].numpy(), found.numpy()
        (array([9, 2, 3], dtype=int32), array([ True, False]))
    """
    width = tf.shape(tokens)[1]
    at = tf.range(width)
    same = (at < count[:, None] - 1) & (count > 0)[:, None]
    longest = tf.zeros_like(tokens)
    for back in range(max_ngram):
        last = tf.gather(tokens, tf.maximum(count - 1 - back, 0)[:, None], batch_dims=1)
        same &= (tf.gather(tokens, tf.maximum(at - back, 0), axis=1) == last) & (at >= back)
        longest += tf.cast(same, tf.int32)
    ranked = tf.where(longest >= min_ngram, longest * width + at, -1)
    place = tf.argmax(ranked, -1, tf.int32)
    period = tf.maximum(count - 1 - place, 1)
    places = place[:, None] + 1 + tf.range(size) % period[:, None]
    return tf.gather(tokens, tf.minimum(places, width - 1), batch_dims=1), tf.reduce_max(ranked, -1) >= 0


def _write(first, following, state, room, size, history, settings, vocabulary):
    """Writes a draft token by token, as the strategy itself would if the drafter were the model.

    Args:
        first: float32 [B, V], logits of the first token.
        following: `(int32 scalar, last token int32 [B], bool [B], state) -> (logits float32 [B, V], state)` of the token of
            that number, in the rows that go on.
        state: a nest of tensors.
        room: int32 [B], tokens that a row may get.
        size: int K, no room is larger.
        history, settings, vocabulary: as for `extend`.

    Returns:
        (int32 [B, K], int32 [B] how many of them count, the state).
    """
    begun = history["new"]

    def add(written, logits, rows):
        return choose({"history": written}, logits, None, settings, vocabulary, rows=rows)["history"]

    def on(at, written):
        return (at < room) & (written["new"] - begun == at) & (written["finish"] == 0)

    def body(at, written, state):
        rows = on(at, written)
        logits, state = following(at, _last(written), rows, state)
        return at + 1, add(written, logits, rows), state

    loop = (tf.constant(1), add(history, first, room > 0), state)
    _, written, state = tf.while_loop(
        lambda at, written, _: tf.reduce_any(on(at, written)), body, loop, parallel_iterations=1
    )
    at = tf.minimum(history["count"][:, None] + tf.range(size), tf.shape(written["tokens"])[1] - 1)
    return tf.gather(written["tokens"], at, batch_dims=1), written["new"] - begun, state


def _last(history):
    """Returns int32 [B], each row's last token."""
    return tf.gather(history["tokens"], tf.maximum(history["count"] - 1, 0), batch_dims=1)


def _room(model, loop, settings, size):
    """Returns int32 [B], tokens that a draft may have: the model adds one, and reads no more than it can hold."""
    history = loop["history"]
    room = tf.minimum(settings["max_new_tokens"] - history["new"] - 1, size)
    if model.max_length is not None:
        room = tf.minimum(room, model.max_length - 1 - loop["state"]["position"])
    return tf.where(history["finish"] == 0, tf.maximum(room, 0), 0)


def _make_room(model, loop):
    """Starts the state of a full row anew, from its latest tokens but the very last, as `loop.advance` does with that one."""
    if model.max_length is None:
        return loop
    history = loop["history"]
    full = (history["finish"] == 0) & (loop["state"]["position"] >= model.max_length)
    nothing = tf.zeros([tf.shape(full)[0], model.vocab_size])
    _, state = refill(model, history, full, nothing, loop["state"], unread=1)
    return loop | {"state": state, "passes": loop["passes"] + tf.cast(full, tf.int32)}


def _settle(model, old, after, ids, taken, replays):
    """Returns the state that has read only the first `taken` (int32 [B]) ids; `after` has read them all."""
    if model.rewindable:
        return after | {"position": old["position"] + taken}
    # A row that ended is never read again.
    return tf.cond(tf.reduce_any(replays), lambda: model.step(ids, old, taken, last=True)[1], lambda: after)


def _rewind(drafter, known):
    """Forgets what a drafter has read beyond the first `known` (int32 [B]) tokens."""
    state, read = drafter["state"], drafter["read"]
    kept = tf.minimum(read, tf.maximum(known, 0))
    return {"state": state | {"position": state["position"] - (read - kept)}, "read": kept}
