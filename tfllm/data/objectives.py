"""Objectives beyond the next token: masked language model, span corruption, fill in the middle, as changes of batches.

Each takes a data set of `(inputs, targets, weights)` and returns another one. What becomes of a row is a function of the seed,
the epoch and the row's own ids: not of its place in the batch, of padding, of workers, or of where a run was interrupted. So
what comes from `lm_dataset` and `packed_dataset` keeps its `from_step`, and every epoch is drawn anew; other data sets get
the same draws in every pass.

Sources: Devlin et al. 2019, arXiv:1810.04805; Raffel et al. 2020, arXiv:1910.10683; Bavarian et al. 2022, arXiv:2207.14255.
"""

import hashlib
import math

import numpy as np
import tensorflow as tf

from tfllm.data.order import epoch_key, mix_bits
from tfllm.text.tokenizers import check_ids


def masked_language_model(
    dataset,
    tokenizer=None,
    *,
    mask_id,
    vocab_size=None,
    special_ids=(),
    rate=0.15,
    mask_share=0.8,
    random_share=0.1,
    whole_words=False,
    seed=0,
):
    """Hides a share of the tokens, which the model guesses from those around them.

    In a row with n tokens that may be chosen, `rate * n` are, rounded up or down at random so that the mean is right. Of the
    chosen, a share becomes the mask, another a random id, and the rest stays as it is. Special ids are neither chosen nor put
    in a random place.

    Args:
        dataset: `tf.data.Dataset` of next-token batches, as `lm_dataset` and `packed_dataset` make them, or of whole texts,
            as `text_dataset` makes them. Ids where weights (or, in packed rows, documents) are 0 are padding.
        tokenizer: a tokenizer, which knows `vocab_size` and its special tokens, or None.
        mask_id: int, the mask; special as well.
        vocab_size: int V; None asks the tokenizer.
        special_ids: ints, special ids beside those of the tokenizer.
        rate: float in [0, 1], the share of tokens that are chosen.
        mask_share: float in [0, 1], the share of the chosen that become the mask.
        random_share: float in [0, 1 - mask_share], the share of them that become a random id.
        whole_words: bool, whether the parts of a word are chosen together; needs a tokenizer. A word is what stands without a
            blank or punctuation inside; Chinese and Japanese characters are words of their own. The mean stays right.
        seed: int.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, T], weights float32 [B, T])`: inputs with what was hidden, the ids as
        they were, and 1 where a token was chosen.

    Raises:
        ValueError: when an id or a share is out of its range, there is no id that is not special, or the batches are others.

    Example:
        >>> rows = tf.data.Dataset.from_tensors(([[5, 6, 7, 8]], [[6, 7, 8, 0]], [[1.0, 1.0, 1.0, 1.0]]))
        >>> for inputs, targets, weights in masked_language_model(rows, mask_id=0, vocab_size=9, rate=0.5, mask_share=1.0,
        ...                                                       random_share=0.0, seed=2):
        ...     print(inputs.numpy().tolist(), targets.numpy().tolist(), weights.numpy().tolist())
        [[0, 6, 7, 0]] [[5, 6, 7, 8]] [[1.0, 0.0, 0.0, 1.0]]

    Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1; whole words are of their later release.
    """
    vocab_size = _check_vocab_size(vocab_size, tokenizer)
    _check_shares(rate=rate, mask_share=mask_share, random_share=random_share)
    if mask_share + random_share > 1 + 1e-6:
        raise ValueError(f"random_share must be at most 1 - mask_share={1 - mask_share:g}; got {random_share}")
    if whole_words and tokenizer is None:
        raise ValueError("tokenizer must be given for whole_words; got None")
    special = [mask_id, *special_ids] + (
        [] if tokenizer is None else [tokenizer.id_of(t) for t in tokenizer.special_tokens]
    )
    _check_ids(vocab_size, mask_id=[mask_id], special_ids=list(special_ids))
    is_special = np.isin(np.arange(vocab_size), special)
    if is_special.all():
        raise ValueError(f"special_ids must leave at least one of {vocab_size} ids; got all of them")
    ordinary, is_special = tf.constant(np.flatnonzero(~is_special), tf.int32), tf.constant(is_special)
    _check_batches(dataset)
    inside = tf.constant(_inside_words(tokenizer.token_bytes())) if whole_words else None  # [2, V]

    def change(epoch, inputs, targets, weights):
        ids, real, documents = _read(inputs, weights)
        keys = _row_keys(seed, epoch, ids, real)
        may = real & ~tf.gather(is_special, ids)
        chosen = _choose(keys, may, _word_begins(ids, may, documents, inside), rate)
        length = ids.shape[1] or tf.shape(ids)[1]
        fate = _chances(keys, 2, length)
        random = tf.gather(ordinary, _below(_bits(keys, 3, length), len(ordinary)))
        hidden = tf.where(fate < mask_share, mask_id, tf.where(fate < mask_share + random_share, random, ids))
        changed = tf.where(chosen, hidden, ids)
        inputs = inputs | {"ids": changed} if isinstance(inputs, dict) else changed
        return inputs, tf.where(real, ids, 0), tf.cast(chosen, tf.float32)

    return _changed(dataset, change)


def span_corruption(
    dataset,
    *,
    sentinel_ids,
    begin_id,
    end_id,
    noise_density=0.15,
    mean_span_length=3.0,
    decoder_only=False,
    seed=0,
):
    """Cuts spans out of every row, which the model writes down in their order.

    In the source, sentinel k stands in the place of span k; the target is sentinel 0, span 0, sentinel 1, span 1, and so on,
    and the end. A row of n tokens loses `noise_density * n` of them, rounded, in `that / mean_span_length` spans, rounded, at
    least one of each; lengths of spans and of what stands between them are uniform among all that have these sums. As in T5,
    a row begins with a token that stays and ends with a span.

    Args:
        dataset: `tf.data.Dataset` of next-token batches of known T, as `lm_dataset` makes them. Ids of weight 0 are padding.
        sentinel_ids: ints, all different, as many as a row has spans.
        begin_id: int, the decoder's first input.
        end_id: int, the last target.
        noise_density: float in (0, 1), the share of tokens that are cut out.
        mean_span_length: float >= 1, tokens in a span.
        decoder_only: bool, whether source, begin, target and end become one row, of which the target and the end count.
        seed: int.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, O], weights float32 [B, O])`, padded with 0 on the right, with
        inputs as `pair_dataset` gives them, a dict of `"source"`, int32 [B, S], `"source_lengths"`, int32 [B], and `"ids"`, int32
        [B, O]; or with `decoder_only` of `(inputs, targets int32 [B, L], weights float32 [B, L])`. Rows of fewer than 2 tokens
        get weight 0.

    Raises:
        ValueError: when a number is out of its range, ids are not all different or too few, or the batches are others.

    Example:
        >>> rows = tf.data.Dataset.from_tensors((tf.range(1, 9)[None], tf.range(2, 10)[None], tf.ones([1, 8])))
        >>> options = {"sentinel_ids": [20, 21], "begin_id": 0, "end_id": 9, "noise_density": 0.5, "mean_span_length": 2.0}
        >>> for inputs, targets, _ in span_corruption(rows, **options, seed=1):
        ...     print(inputs["source"].numpy().tolist(), targets.numpy().tolist())
        [[1, 2, 20, 4, 5, 21]] [[20, 3, 21, 6, 7, 8, 9]]
        >>> for inputs, targets, weights in span_corruption(rows, **options, decoder_only=True, seed=1):
        ...     print(inputs.numpy().tolist(), weights.numpy().astype(int).tolist())
        [[1, 2, 20, 4, 5, 21, 0, 20, 3, 21, 6, 7, 8]] [[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]

    Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4 and the released preprocessors.
    """
    if not 0 < noise_density < 1:
        raise ValueError(f"noise_density must lie in (0, 1); got {noise_density}")
    if not 1 <= mean_span_length < math.inf:
        raise ValueError(f"mean_span_length must be a number of at least 1; got {mean_span_length}")
    _check_batches(dataset, packed=False)
    length = _known_length(dataset)
    count = np.arange(length + 1)  # tokens in a row
    noise = np.clip(np.floor(count * noise_density + 0.5), 1, np.maximum(count - 1, 1)) * (count > 1)
    spans = np.clip(np.floor(noise / mean_span_length + 0.5), 1, np.maximum(np.minimum(noise, count - noise), 1))
    spans *= noise > 0
    most = int(spans.max(initial=0))
    _check_ids(2**31, sentinel_ids=list(sentinel_ids), begin_id=[begin_id], end_id=[end_id])
    if len(sentinel_ids) < max(most, 1) or len({*sentinel_ids, end_id}) <= len(sentinel_ids):
        raise ValueError(
            f"sentinel_ids must be at least {most} ids, all different and not the end; got {list(sentinel_ids)!r:.80}"
        )
    source_width, target_width = int((count - noise + spans).max()), int((noise + spans).max())
    width = int((count + 2 * spans).max()) + 2
    table = tf.constant(np.stack([noise, spans], 1), tf.int32)
    sentinels = tf.constant(list(sentinel_ids), tf.int32)

    def change(epoch, inputs, targets, weights):
        ids, real, _ = _read(inputs, weights)
        tokens = tf.reduce_sum(tf.cast(real, tf.int32), 1)  # [B]
        lost, spans = tf.unstack(tf.gather(table, tokens), axis=1)
        cut, first = _spans(_row_keys(seed, epoch, ids, real), tokens, lost, spans, length)
        number = tf.maximum(tf.cumsum(tf.cast(first, tf.int32), axis=1) - 1, 0)
        marks = tf.gather(sentinels, tf.minimum(number, len(sentinels) - 1))  # [B, T]
        source, source_lengths = _compact(tf.where(first, marks, ids), real & (first | ~cut), source_width)
        both = [tf.reshape(tf.stack(pair, 2), [-1, 2 * length]) for pair in ((marks, ids), (first, cut))]
        spoken, spoken_lengths = _compact(*both, target_width)  # sentinels and spans
        counts = (spans > 0)[:, None]
        begin, end = (tf.fill([tf.shape(ids)[0], 1], tf.constant(one, tf.int32)) for one in (begin_id, end_id))
        if not decoder_only:
            place = tf.range(target_width + 1)
            targets = tf.where(place == spoken_lengths[:, None], end, tf.pad(spoken, [[0, 0], [0, 1]]))
            inputs = {"source": source, "source_lengths": source_lengths, "ids": tf.concat([begin, spoken], 1)}
            weights = (place <= spoken_lengths[:, None]) & counts
            return inputs, tf.where(counts, targets, 0), tf.cast(weights, tf.float32)
        kept = [
            tf.range(source_width) < source_lengths[:, None],
            counts,
            tf.range(target_width) < spoken_lengths[:, None],
            counts,
        ]
        row, total = _compact(tf.concat([source, begin, spoken, end], 1), tf.concat(kept, 1), width)
        place = tf.range(1, width)  # of the targets
        weights = (place > source_lengths[:, None]) & (place < total[:, None])
        return row[:, :-1], row[:, 1:], tf.cast(weights, tf.float32)

    return _changed(dataset, change)


def fill_in_the_middle(dataset, *, prefix_id, suffix_id, middle_id, end_id=None, rate=0.5, spm_rate=0.5, seed=0):
    """Moves the middle of rows to their end, so that a model of the next token learns to fill it in.

    A row is cut at two random places. It becomes prefix mark, prefix, suffix mark, suffix, middle mark, middle (PSM); or prefix
    mark, suffix mark, suffix, middle mark, prefix, middle (SPM, the paper's variant 2). To fill in, give the model all up to the
    middle mark, and let it write until the end.

    A row here is what stands in the context, whatever documents it is made of; `fill_in_the_middle_documents` cuts documents.

    Args:
        dataset: `tf.data.Dataset` of next-token batches of known T, as `lm_dataset` makes them. Ids of weight 0 are padding.
        prefix_id, suffix_id, middle_id: ints, the marks, all different.
        end_id: int, what stands behind the middle, or None for nothing. Rows that are not cut do not get it.
        rate: float in [0, 1], the share of rows that are cut.
        spm_rate: float in [0, 1], the share of those in the form SPM.
        seed: int.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, T + 3], weights float32 [B, T + 3])`, of T + 4 with an end; no token is
        lost, and rows that are not cut are padded.

    Raises:
        ValueError: when a share is out of its range, the ids are not all different, or the batches are others.

    Example:
        >>> rows = tf.data.Dataset.from_tensors((tf.range(1, 6)[None], tf.range(2, 7)[None], tf.ones([1, 5])))
        >>> marks = {"prefix_id": 20, "suffix_id": 21, "middle_id": 22}
        >>> for spm_rate in (0.0, 1.0):
        ...     inputs, targets, _ = next(iter(fill_in_the_middle(rows, **marks, rate=1.0, spm_rate=spm_rate)))
        ...     print(inputs.numpy().tolist(), int(targets[0, -1]))
        [[20, 1, 2, 3, 21, 6, 22, 4]] 5
        [[20, 21, 6, 22, 1, 2, 3, 4]] 5

    Source: Bavarian et al. 2022, arXiv:2207.14255, sections 3 and 3.1 (context level).
    """
    _check_shares(rate=rate, spm_rate=spm_rate)
    marks = [prefix_id, suffix_id, middle_id, *([] if end_id is None else [end_id])]
    _check_marks(marks)
    _check_batches(dataset, packed=False)
    width = _known_length(dataset) + 1 + len(marks)

    def change(epoch, inputs, targets, weights):
        inputs, real, _ = _read(inputs, weights)
        ids = tf.concat([inputs[:, :1], tf.cast(targets, tf.int32)], 1)  # [B, T + 1]
        real = tf.concat([real[:, :1], real], 1)
        tokens = tf.reduce_sum(tf.cast(real, tf.int32), 1, keepdims=True)  # [B, 1]
        keys = _row_keys(seed, epoch, ids, real)
        draws = _chances(keys, 0, 2)
        cut, spm = (draws[:, :1] < rate) & (tokens > 0), draws[:, 1:] < spm_rate
        cuts = tf.sort(_below(_bits(keys, 1, 2), tokens + 1), axis=1)  # [B, 2]
        place = tf.range(width - len(marks))
        part = tf.cast(place >= cuts[:, :1], tf.int32) + tf.cast(
            place >= cuts[:, 1:], tf.int32
        )  # prefix, middle, suffix
        # The order of the parts: marks of prefix, suffix, middle (and end), then what each part of the text gets.
        psm, spm_order, plain = [0, 2, 4, 6, 1, 5, 3], [0, 1, 3, 6, 4, 5, 2], [7, 7, 7, 7, 5, 5, 5]
        order = tf.where(cut, tf.where(spm, [spm_order], [psm]), [plain])  # [B, 7]
        texts = tf.where(real, tf.gather(order[:, 4:], part, batch_dims=1), 7)
        rank = tf.concat([order[:, : len(marks)], texts], 1)  # [B, W]
        moved = tf.sort(rank * width + tf.range(width), axis=1) % width
        row = tf.concat([tf.tile([marks], [tf.shape(ids)[0], 1]), ids], 1)
        total = tokens + tf.where(cut, len(marks), 0)
        row = tf.where(tf.range(width) < total, tf.gather(row, moved, batch_dims=1), 0)
        return row[:, :-1], row[:, 1:], tf.cast(tf.range(1, width) < total, tf.float32)

    return _changed(dataset, change)


def fill_in_the_middle_documents(
    documents, tokenizer=None, *, prefix_id, suffix_id, middle_id, rate=0.5, spm_rate=0.5, seed=0
):
    """Does what `fill_in_the_middle` does for whole documents, before they are packed; texts are cut between characters.

    Give what it returns to `packed_dataset`, whose end token then stands behind every middle.

    Args:
        documents: list of str, or list of int ids [N].
        tokenizer: a tokenizer; needed for str.
        prefix_id, suffix_id, middle_id, rate, spm_rate: as for `fill_in_the_middle`.
        seed: int; what becomes of a document is a function of it and of the document.

    Returns:
        list of int32 arrays, as many as documents.

    Raises:
        ValueError: when a share is out of its range, the ids are not all different, or the documents are neither.

    Example:
        >>> marks = {"prefix_id": 20, "suffix_id": 21, "middle_id": 22, "rate": 1.0, "spm_rate": 0.0}
        >>> fill_in_the_middle_documents([[1, 2, 3, 4, 5]], **marks)[0].tolist()
        [20, 21, 3, 4, 5, 22, 1, 2]

    Source: Bavarian et al. 2022, arXiv:2207.14255, section 3 (document level) and appendix B.1 (characters).
    """
    _check_shares(rate=rate, spm_rate=spm_rate)
    _check_marks([prefix_id, suffix_id, middle_id])
    documents = list(documents)
    texts = bool(documents) and all(isinstance(document, str) for document in documents)
    if texts and tokenizer is None:
        raise ValueError("tokenizer must be given when documents are text; got None")
    parts, forms = [], []
    for document in documents:
        if not texts:
            document = np.asarray(document)
            if document.ndim != 1 or (document.size and not np.issubdtype(document.dtype, np.integer)):
                raise ValueError(f"documents must be all str, or all ids [N]; got {document.dtype} of {document.shape}")
            check_ids("documents", document, 2**31 if tokenizer is None else tokenizer.vocab_size)
        known = document.encode() if texts else document.astype("<i4").tobytes()
        random = np.random.default_rng([seed % 2**64, *hashlib.sha256(known).digest()])
        cut, spm = random.random(2) < (rate, spm_rate)
        first, second = sorted(random.integers(0, len(document) + 1, 2).tolist()) if cut else (0, len(document))
        parts += [document[:first], document[first:second], document[second:]]
        forms.append(("spm" if spm else "psm") if cut else "plain")
    if texts:
        parts = np.split(*_flat(tokenizer.encode(parts)))
    made = []
    for form, prefix, middle, suffix in zip(forms, parts[::3], parts[1::3], parts[2::3], strict=True):
        if form == "psm":
            middle = [[prefix_id], prefix, [suffix_id], suffix, [middle_id], middle]
        elif form == "spm":
            middle = [[prefix_id], [suffix_id], suffix, [middle_id], prefix, middle]
        made.append(np.asarray(middle if form == "plain" else np.concatenate(middle), np.int32))
    return made


def _flat(ragged):
    """Returns (values, where the rows but the first begin) of a ragged tensor, for `np.split`."""
    return ragged.values.numpy(), ragged.row_splits.numpy()[1:-1]


# ---------------------------------------------------------------- batches


def _changed(dataset, change):
    """Returns the data set whose batches go through `change(epoch, inputs, targets, weights)`."""
    change = tf.autograph.experimental.do_not_convert(change)  # conversion takes longer than all of the tracing
    if hasattr(dataset, "changed"):
        return dataset.changed(change)
    epoch = tf.constant(0, tf.int64)
    return dataset.map(lambda *batch: change(epoch, *batch), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _read(inputs, weights):
    """Returns (ids int32 [B, T], bool [B, T] which of them are no padding, documents int32 [B, T] or None)."""
    if isinstance(inputs, dict) and "lengths" in inputs:
        real = tf.sequence_mask(inputs["lengths"], tf.shape(inputs["ids"])[1])
        return inputs["ids"], real & (weights > 0), None
    if isinstance(inputs, dict):
        return inputs["ids"], inputs["documents"] > 0, inputs["documents"]
    return tf.cast(inputs, tf.int32), weights > 0, None


def _check_batches(dataset, packed=True):
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 3 or tf.nest.is_nested(spec[1]):
        raise ValueError(f"dataset must have batches (inputs, targets, weights); got {spec}")
    if isinstance(spec[0], dict) and (not packed or set(spec[0]) not in ({"ids", "documents"}, {"ids", "lengths"})):
        rows = "rows of ids, packed or not, or with lengths" if packed else "rows of ids that are not packed"
        raise ValueError(f"dataset must have {rows}; got a dict of {sorted(spec[0])}")


def _known_length(dataset):
    length = dataset.element_spec[1].shape[1]
    if length is None:
        raise ValueError("dataset must have rows of a known length; got batches of any")
    return length


def _compact(values, keep, width):
    """Moves what is kept of each row to its front.

    Args:
        values: int32 [B, N].
        keep: bool [B, N].
        width: int, at most N, the most that a row keeps.

    Returns:
        (int32 [B, width], 0 behind what was kept; int32 [B], how much that is).
    """
    size = values.shape[1]
    order = tf.sort(tf.range(size) + tf.where(keep, 0, size), axis=1)[:, :width] % size
    count = tf.reduce_sum(tf.cast(keep, tf.int32), 1)
    return tf.where(tf.range(width) < count[:, None], tf.gather(values, order, batch_dims=1), 0), count


# ---------------------------------------------------------------- choices


def _choose(keys, may, begins, rate):
    """Chooses tokens, or words whole, in random order until a row's share is reached.

    Args:
        keys: uint64 [B] of `_row_keys`.
        may: bool [B, T], the tokens that may be chosen.
        begins: bool [B, T], where a word begins, or None where every token is one.
        rate: float.

    Returns:
        bool [B, T].
    """
    length = may.shape[1] or tf.shape(may)[1]
    draws = _chances(keys, 0, 2)
    count = tf.reduce_sum(tf.cast(may, tf.int32), 1, keepdims=True)
    budget = tf.cast(tf.floor(rate * tf.cast(count, tf.float64) + draws[:, :1]), tf.int32)  # [B, 1]
    slot, luck = tf.range(length), _bits(keys, 1, length)
    if begins is None:
        return may & (_ranks(luck, may) < budget)
    row = tf.range(tf.shape(may)[0])[:, None] * length
    word = row + tf.cumsum(tf.cast(begins, tf.int32), axis=1) - 1  # [B, T], never a number twice in a batch
    flat, total = tf.reshape(word, [-1]), tf.size(word)
    first = tf.math.unsorted_segment_min(tf.reshape(tf.broadcast_to(slot, tf.shape(word)), [-1]), flat, total)
    size = tf.gather(tf.math.unsorted_segment_sum(tf.reshape(tf.cast(may, tf.int32), [-1]), flat, total), word)
    first = tf.gather(first, word)  # [B, T], the slot where a token's word begins
    before = tf.gather(_ranks(tf.gather(luck, first, batch_dims=1), may), first, batch_dims=1)
    # The word that does not fit wholly comes in as often as its part that fits says.
    part = tf.cast(budget - before, tf.float64) / tf.cast(tf.maximum(size, 1), tf.float64)
    return may & ((part >= 1) | (draws[:, 1:] < part))


def _ranks(luck, may):
    """Returns int32 [B, T], the places of the tokens that may be chosen in the order of int64 `luck`, then of their slots."""
    length = luck.shape[1] or tf.shape(luck)[1]
    key = luck * tf.cast(length, tf.int64) + tf.range(tf.cast(length, tf.int64))
    return tf.argsort(tf.argsort(tf.where(may, key, tf.int64.max), axis=1), axis=1)


def _word_begins(ids, may, documents, inside):
    """Returns bool [B, T], whether a word begins at each token, by tables [2, V] of `_inside_words`; None for no tables."""
    if inside is None:
        return None
    goes_on = tf.gather(inside[0], ids[:, 1:]) & tf.gather(inside[1], ids[:, :-1]) & may[:, 1:] & may[:, :-1]
    if documents is not None:
        goes_on &= documents[:, 1:] == documents[:, :-1]
    return tf.pad(~goes_on, [[0, 0], [1, 0]], constant_values=True)


def _inside_words(pieces):
    """Returns bool [2, V]: whether each token begins as a word goes on, and whether it ends as a word that may go on."""

    def of_word(character):
        # Kana and Chinese characters stand without blanks between words.
        return character.isalnum() and not (0x3040 <= ord(character) <= 0x9FFF or ord(character) >= 0xF900)

    found = []
    for piece in pieces:
        text = piece.decode(errors="surrogateescape")
        ends = [text[:1], text[-1:]]
        # What is no whole character goes on with one, or is gone on with.
        found.append([bool(end) and (0xDC80 <= ord(end) <= 0xDCFF or of_word(end)) for end in ends])
    return np.array(found, bool).T


def _spans(keys, tokens, lost, spans, length):
    """Draws which tokens are cut out.

    Args:
        keys: uint64 [B] of `_row_keys`.
        tokens, lost, spans: int32 [B], tokens of each row, how many of them are cut out, and in how many spans.
        length: int T.

    Returns:
        (bool [B, T] cut out, bool [B, T] first of a span).
    """
    slot, tokens, stay, spans = tf.range(length), tokens[:, None], (tokens - lost)[:, None], spans[:, None]
    # First all tokens that stay, then all that go; each group is cut into as many segments as there are spans.
    stays, exists, luck = slot < stay, slot < tokens, _bits(keys, 1, length)
    number = tf.zeros_like(stays, tf.int32)
    for group in (stays, exists & ~stays):
        may = group & (slot > 0) & (slot != stay)  # a group's first token always begins a segment
        begins = may & (_ranks(luck, may) < spans - 1)
        number += tf.where(group, tf.cumsum(tf.cast(begins, tf.int32), axis=1), 0)
    # Sorted by number, a segment that stays before one that goes, they stand as they do in the row.
    segment = tf.sort(tf.where(exists, 2 * number + tf.cast(~stays, tf.int32), 2 * length), axis=1)
    cut = exists & (segment % 2 == 1)
    return cut, cut & (segment != tf.pad(segment[:, :-1], [[0, 0], [1, 0]], constant_values=-1))


# ---------------------------------------------------------------- random numbers of rows


def _row_keys(seed, epoch, ids, real):
    """Returns uint64 [B], a hash of the seed, the epoch and the ids of each row that are no padding."""
    place = tf.cast(tf.range(tf.shape(ids)[1]), tf.uint64)
    terms = mix_bits(mix_bits(tf.cast(ids, tf.uint64)) + place)
    prints = tf.reduce_sum(tf.where(real, terms, tf.zeros([], tf.uint64)), 1)
    return mix_bits(tf.bitcast(epoch_key(seed, epoch)[0], tf.uint64) + mix_bits(prints))


def _bits(keys, stream, length):
    """Returns int64 [B, length] in [0, 2**32), random numbers of a stream, for each row its own."""
    place = tf.cast(tf.range(length), tf.uint64)
    bits = mix_bits(mix_bits(keys + tf.constant(stream, tf.uint64))[:, None] + place)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(32, tf.uint64)), tf.int64)


def _chances(keys, stream, length):
    """Returns float64 [B, length] in [0, 1); the rest as `_bits`."""
    return tf.cast(_bits(keys, stream, length), tf.float64) / 2.0**32


def _below(bits, bound):
    """Returns int32 in [0, bound) of bits as `_bits` gives them."""
    return tf.cast(tf.bitwise.right_shift(bits * tf.cast(bound, tf.int64), tf.constant(32, tf.int64)), tf.int32)


# ---------------------------------------------------------------- settings


def _check_shares(**shares):
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1]; got {share}")


def _check_ids(vocab_size, **groups):
    for name, ids in groups.items():
        for one in ids:
            if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 0 <= one < vocab_size:
                raise ValueError(f"{name} must be in [0, {vocab_size}); got {one!r}")


def _check_marks(marks):
    _check_ids(2**31, marks=marks)
    if len(set(marks)) < len(marks):
        raise ValueError(f"marks must be all different; got {marks}")


def _check_vocab_size(vocab_size, tokenizer):
    vocab_size = tokenizer.vocab_size if vocab_size is None and tokenizer is not None else vocab_size
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < 1:
        raise ValueError(f"vocab_size must be an int of at least 1, or a tokenizer be given; got {vocab_size!r}")
    if tokenizer is not None and vocab_size < tokenizer.vocab_size:
        raise ValueError(f"vocab_size must be at least the tokenizer's {tokenizer.vocab_size}; got {vocab_size}")
    return vocab_size
