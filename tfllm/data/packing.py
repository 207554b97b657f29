"""Documents into rows without waste: several share a row, each under a number of its own, and none sees another.

`pack_documents` plans with lengths alone (NumPy, once); `packed_dataset` makes batches of a plan, each one a few gathers of
computed indices. A `LanguageModel` gives every document of a packed row the logits that it gets alone.
"""

import bisect
import dataclasses

import numpy as np
import tensorflow as tf

from tfllm.data.order import epoch_key, shuffle_with
from tfllm.data.stream import check_stream, stream_epochs, with_starts
from tfllm.text.tokenizers import check_ids

STRATEGIES = ("best_fit", "concat")


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which piece of which document stands in which row; the pieces of a row stand in order, one behind the other.

    Attributes:
        sequence_length: int T, tokens that a row holds.
        document: int64 [P], the document of each piece.
        start: int64 [P], where in its document a piece begins.
        length: int64 [P], tokens of each piece, 1 to T.
        row_splits: int64 [R + 1], row r has the pieces `row_splits[r]` to `row_splits[r + 1] - 1`.
    """

    sequence_length: int
    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    row_splits: np.ndarray

    @property
    def rows(self):
        """int R, how many rows there are."""
        return len(self.row_splits) - 1

    @property
    def fill_rate(self):
        """float in (0, 1], the share of the rows that tokens fill; the rest is padding."""
        return float(self.length.sum()) / (self.rows * self.sequence_length)


def pack_documents(lengths, sequence_length, *, strategy="best_fit"):
    """Plans the rows.

    `"best_fit"` cuts only documents longer than a row, into pieces of `sequence_length` and a rest, and then puts one piece
    after another, the longest first, into the fullest row that still has room. `"concat"` writes the documents one behind the
    other and cuts wherever a row is full: it fills all rows but the last, and cuts about as many documents as there are rows.

    Args:
        lengths: int [N], tokens of each document; one of 0 gets no place.
        sequence_length: int T >= 2, tokens in a row.
        strategy: "best_fit" or "concat".

    Returns:
        `Packing`.

    Raises:
        ValueError: when there is no token at all, a length is below 0, `sequence_length` is below 2 or the strategy unknown.

    Example:
        >>> packing = pack_documents([3, 9, 1, 4], 8)
        >>> packing.rows, round(packing.fill_rate, 3)
        (3, 0.708)
        >>> [packing.document[a:b].tolist() for a, b in zip(packing.row_splits, packing.row_splits[1:])]
        [[1], [0, 1, 3], [2]]

    Source: best-fit decreasing is of Johnson 1973, Near-optimal bin packing algorithms; for documents, Ding et al. 2024,
    arXiv:2404.10830, algorithm 1. Rows with the same room left are one group here, so a million documents take seconds.
    """
    if sequence_length < 2:
        raise ValueError(f"sequence_length must be at least 2; got {sequence_length}")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}; got {strategy!r}")
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or (lengths.size and not np.issubdtype(lengths.dtype, np.integer)):
        raise ValueError(f"lengths must be whole numbers [N]; got {lengths.dtype} of shape {list(lengths.shape)}")
    if lengths.size and lengths.min() < 0:
        raise ValueError(f"lengths must be at least 0; got {lengths.min()}")
    if not lengths.sum():
        raise ValueError(f"documents must hold at least one token; got {len(lengths)} documents without any")
    lengths = lengths.astype(np.int64)
    begins = np.cumsum(lengths) - lengths  # in the stream of all documents
    # How much of a row stands before the document: only "concat" lets it begin where the last one ended.
    before = begins % sequence_length if strategy == "concat" else np.zeros_like(begins)
    pieces = np.where(lengths > 0, -(-(before + lengths) // sequence_length), 0)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of a piece in its document
    start = np.maximum(number * sequence_length - before[document], 0)
    end = np.minimum((number + 1) * sequence_length - before[document], lengths[document])
    length = end - start
    row = (
        _best_fit(length, sequence_length) if strategy == "best_fit" else (begins[document] + start) // sequence_length
    )
    order = np.argsort(row, kind="stable")
    row_splits = np.concatenate([[0], np.cumsum(np.bincount(row))])
    return Packing(sequence_length, document[order], start[order], length[order], row_splits)


def _best_fit(lengths, capacity):
    """Returns int64 [P], the row of each piece, by best-fit decreasing: one round for each pair of length and room left."""
    row = np.empty(len(lengths), np.int64)
    opened, rooms, groups = 0, [], {}  # rooms: sorted keys of groups, which has the rows with that room left

    def give(room, rows):
        if room and len(rows):
            if room not in groups:
                bisect.insort(rooms, room)
            groups.setdefault(room, []).append(rows)

    order = np.argsort(-lengths, kind="stable")
    for pieces in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):  # all of one length
        size = int(lengths[pieces[0]])
        while len(pieces):
            fits = bisect.bisect_left(rooms, size)
            if fits < len(rooms):
                room = rooms.pop(fits)
                rows = np.concatenate(groups.pop(room))
            else:
                room = capacity
                rows = opened + np.arange(-(-len(pieces) // (room // size)))
                opened += len(rows)
            each = room // size  # a row that took a piece is the fullest with room for the next one, while it has room
            full = min(len(rows), len(pieces) // each)
            row[pieces[: full * each]] = np.repeat(rows[:full], each)
            give(room - each * size, rows[:full])
            pieces, rows = pieces[full * each :], rows[full:]
            if len(pieces) and len(rows):  # too few are left to fill a row
                row[pieces] = rows[0]
                give(room - len(pieces) * size, rows[:1])
                pieces, rows = pieces[:0], rows[1:]
            give(room, rows)
    return row


def packed_dataset(
    documents,
    tokenizer=None,
    sequence_length=128,
    batch_size=32,
    *,
    strategy="best_fit",
    seed=0,
    shuffle=True,
    epochs=1,
    start_step=0,
    num_workers=1,
    worker=0,
):
    """Makes batches of packed rows: every token of every document once a pass, and no target across documents.

    Documents that are longer than a row are cut (see `pack_documents`); the last token of such a piece has the next piece's
    first as its target, so every token but a document's first is a target once. The plan of the rows, with its
    `fill_rate`, is the attribute `packing` of the data set that is returned.

    With `shuffle`, the rows of an epoch come in an order that `seed` and the number of the epoch decide; batch i of epoch e
    is therefore a function of `(seed, e, i)` alone. Which documents share a row stays the same. Passes, epochs and steps
    are those of `lm_dataset`. Places behind the last row are filled up with padding.

    Args:
        documents: list of str, or list of int ids [N] (lists, arrays), or `tf.RaggedTensor` of ids.
        tokenizer: a tokenizer; needed for str. With ids, it says which ids are allowed. Where its `end_id` is not -1, each
            document gets it at its end, unless it ends so.
        sequence_length: int T >= 2, tokens in a row.
        batch_size: int B >= 1, rows in a batch of all workers together.
        strategy: "best_fit" or "concat".
        seed: int, decides the orders.
        shuffle: bool, whether an epoch is in random order (training) or in that of the plan (evaluation).
        epochs: int >= 1, epochs in a pass, or None for one endless pass.
        start_step: int >= 0, the batch of the endless stream at which the first pass begins.
        num_workers: int, a divisor of B; every worker gets B / num_workers rows of every batch.
        worker: int in `[0, num_workers)`, whose rows to make.

    Returns:
        `tf.data.Dataset` of `(inputs, targets int32 [B, T], weights float32 [B, T])`, with inputs a dict of `"ids"`, int32
        [B, T], and `"documents"`, int32 [B, T], that counts a row's documents 1, 2, ... and is 0 for padding.

    Raises:
        ValueError: when there is no document or no token, an id is out of the vocabulary, or a number out of its range.

    Example:
        >>> batches = packed_dataset([[5, 6, 7], [8, 9], [4]], None, 5, 1, shuffle=False)
        >>> inputs, targets, weights = next(iter(batches))
        >>> inputs["ids"].numpy().tolist(), inputs["documents"].numpy().tolist()
        ([[5, 6, 7, 8, 9]], [[1, 1, 1, 2, 2]])
        >>> targets.numpy().tolist(), weights.numpy().tolist()
        ([[6, 7, 0, 9, 0]], [[1.0, 1.0, 0.0, 1.0, 0.0]])
        >>> batches.packing.fill_rate
        0.6
    """
    check_stream(batch_size, epochs, start_step, num_workers, worker)
    ids, lengths = join_documents("documents", documents, tokenizer)
    ids, lengths = _with_ends(ids, lengths, -1 if tokenizer is None else tokenizer.end_id)
    packing = pack_documents(lengths, sequence_length, strategy=strategy)
    row_batch = _row_gather(ids, lengths, packing)
    rows, local = packing.rows, batch_size // num_workers

    def batch(key, index):
        place = index * batch_size + worker * local + tf.range(local, dtype=tf.int64)  # [B]
        row = tf.minimum(place, rows - 1)
        row = shuffle_with(key, row, rows) if shuffle else row
        return row_batch(tf.where(place < rows, row, rows))

    dataset = stream_batches(batch, -(-rows // batch_size), seed, shuffle, epochs, start_step, num_workers)
    dataset.packing = packing
    return dataset


def stream_batches(batch, steps, seed, shuffle, epochs, start_step, num_workers=1):
    """Returns the data set of `batch(key of the epoch, number of the batch)`, `steps` of them an epoch."""

    def part_of_epoch(epoch, begin, end):
        key = epoch_key(seed, epoch)
        return tf.data.Dataset.range(begin, end).map(
            lambda index: batch(key, index), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )

    def make(epochs, start_step, change):
        return stream_epochs(part_of_epoch, steps, epochs, start_step, shuffle, change).prefetch(tf.data.AUTOTUNE)

    return with_starts(make, epochs, start_step, num_workers=num_workers)


def _row_gather(ids, lengths, packing):
    """Returns a function of int64 [B] rows that gives their batch; row R, one too far, is all padding."""
    begins = np.cumsum(lengths) - lengths
    ends_document = packing.start + packing.length == lengths[packing.document]
    table = np.stack([begins[packing.document] + packing.start, packing.length, packing.length - ends_document], 1)
    table = tf.constant(np.concatenate([table, [[0, 0, 0]]]))  # [P + 1, 3]: first id, ids, ids with a target; none at P
    splits = tf.constant(np.append(packing.row_splits, packing.row_splits[-1]))
    ids = tf.constant(ids, tf.int32)
    most = int(np.diff(packing.row_splits).max())
    slot = tf.range(packing.sequence_length, dtype=tf.int64)  # [T]

    def gather(row):
        piece = tf.gather(splits, row)[:, None] + tf.range(most, dtype=tf.int64)  # [B, M]
        piece = tf.where(piece < tf.gather(splits, row + 1)[:, None], piece, len(packing.length))
        first, length, counted = tf.unstack(tf.gather(table, piece), axis=-1)
        end = tf.cumsum(length, axis=1)  # [B, M], the slot behind each piece
        slots = tf.broadcast_to(slot, [tf.shape(row)[0], packing.sequence_length])  # [B, T]
        number = tf.searchsorted(end, slots, side="right")  # [B, T], pieces that end before the slot
        filled = number < most
        number = tf.minimum(number, most - 1)
        inside = slots - tf.gather(end - length, number, batch_dims=1)  # place in the piece
        at = tf.where(filled, tf.gather(first, number, batch_dims=1) + inside, 0)
        has_target = filled & (inside < tf.gather(counted, number, batch_dims=1))
        inputs = {
            "ids": tf.where(filled, tf.gather(ids, at), 0),
            "documents": tf.where(filled, number + 1, 0),
        }
        targets = tf.where(has_target, tf.gather(ids, tf.where(has_target, at + 1, 0)), 0)
        return inputs, targets, tf.cast(has_target, tf.float32)

    return gather


def join_documents(name, documents, tokenizer):
    """Puts documents one behind the other.

    Args:
        name: str, what the caller calls them.
        documents: list of str, list of int ids [N], or `tf.RaggedTensor` of ids [D, None].
        tokenizer: a tokenizer, or None for ids.

    Returns:
        (int32 [N] ids, int64 [D] lengths).

    Raises:
        ValueError: when there are none, they are neither, or an id is out of the vocabulary.
    """
    if isinstance(documents, str):
        raise ValueError(f"{name} must be a list of str or of ids; got one str")
    if not isinstance(documents, tf.RaggedTensor):
        documents = list(documents)
        if not documents:
            raise ValueError(f"{name} must hold at least one document; got none")
        if all(isinstance(document, str) for document in documents):
            if tokenizer is None:
                raise ValueError(f"tokenizer must be given when {name} are text; got None")
            documents = tokenizer.encode(documents)
    if isinstance(documents, tf.RaggedTensor):
        if documents.ragged_rank != 1 or documents.shape.rank != 2:
            raise ValueError(f"{name} must have shape [D, None]; got {documents.shape}")
        ids, lengths = documents.values.numpy(), documents.row_lengths().numpy().astype(np.int64)
    else:
        parts = [np.asarray(document) for document in documents]
        for part in parts:
            if part.ndim != 1 or (part.size and not np.issubdtype(part.dtype, np.integer)):
                raise ValueError(f"{name} must be str, or ids [N] each; got {part.dtype} of shape {list(part.shape)}")
        lengths = np.array([len(part) for part in parts], np.int64)
        ids = np.concatenate([part for part in parts if part.size] or [np.zeros(0, np.int32)])
    if not len(lengths):
        raise ValueError(f"{name} must hold at least one document; got none")
    check_ids(name, ids, np.iinfo(np.int32).max if tokenizer is None else tokenizer.vocab_size)
    return ids.astype(np.int32), lengths


def _with_ends(ids, lengths, end_id):
    """Appends `end_id` to every document that does not end with it; nothing where it is below 0."""
    if end_id < 0:
        return ids, lengths
    ends = np.cumsum(lengths)
    lacks = np.ones(len(lengths), bool)
    filled = lengths > 0
    lacks[filled] = ids[ends[filled] - 1] != end_id
    return np.insert(ids, ends[lacks], end_id), lengths + lacks
