"""Packing: nothing is lost, little is wasted, and a batch is a function of (seed, epoch, index)."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import pack_documents, packed_dataset

DOCUMENTS = [[5, 6, 7], list(range(20, 41)), [], [8], [9, 10], [11, 12, 13, 14, 15, 16, 17, 18]]


def rows_of(packing):
    return [packing.length[a:b].tolist() for a, b in zip(packing.row_splits[:-1], packing.row_splits[1:], strict=True)]


def fewest_rows(lengths, capacity):
    """The best there is, by trying every way to open rows."""
    best = len(lengths)

    def place(i, rooms):
        nonlocal best
        if len(rooms) >= best:
            return
        if i == len(lengths):
            best = len(rooms)
            return
        for j in range(len(rooms)):
            if rooms[j] >= lengths[i]:
                place(i + 1, [room - lengths[i] * (k == j) for k, room in enumerate(rooms)])
        place(i + 1, [*rooms, capacity - lengths[i]])

    place(0, [])
    return best


def naive_best_fit(lengths, capacity):
    """Best-fit decreasing, one piece after another, as the textbook writes it."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fits = [i for i, room in enumerate(rooms) if room >= length]
        if fits:
            best = min(fits, key=lambda i: rooms[i])
            rooms[best] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@pytest.mark.parametrize("strategy", ["best_fit", "concat"])
def test_every_token_has_exactly_one_place(strategy):
    random = np.random.default_rng(0)
    for capacity in (2, 7, 16, 50):
        lengths = random.integers(0, 60, 40)
        packing = pack_documents(lengths, capacity, strategy=strategy)
        places = [
            (document, start + i)
            for document, start, length in zip(packing.document, packing.start, packing.length, strict=True)
            for i in range(length)
        ]
        assert sorted(places) == [(d, i) for d, length in enumerate(lengths) for i in range(length)]
        assert all(1 <= sum(row) <= capacity for row in rows_of(packing))
        assert packing.fill_rate == pytest.approx(lengths.sum() / (len(rows_of(packing)) * capacity))


def test_best_fit_is_the_textbooks():
    random = np.random.default_rng(1)
    for capacity, count in itertools.product((5, 16, 100), (1, 30, 200)):
        lengths = random.integers(1, capacity + 1, count)
        packing = pack_documents(lengths, capacity)
        assert sorted(capacity - sum(row) for row in rows_of(packing)) == naive_best_fit(lengths, capacity)


def test_best_fit_is_close_to_the_best_there_is():
    random = np.random.default_rng(2)
    equal = 0
    for _ in range(40):
        lengths = random.integers(1, 11, 9).tolist()
        best = fewest_rows(sorted(lengths, reverse=True), 10)
        found = pack_documents(lengths, 10).rows
        assert best <= found <= 11 / 9 * best + 6 / 9  # the bound of Dosa 2007
        equal += found == best
    assert equal >= 36


def test_concat_fills_every_row_but_the_last():
    packing = pack_documents([3, 9, 1, 4], 8, strategy="concat")
    assert rows_of(packing) == [[3, 5], [4, 1, 3], [1]]
    assert packing.document.tolist() == [0, 1, 1, 2, 3, 3]


def test_best_fit_cuts_long_documents_only():
    packing = pack_documents([3, 20, 8], 8)
    assert sorted(zip(packing.document, packing.start, packing.length, strict=True)) == [
        (0, 0, 3), (1, 0, 8), (1, 8, 8), (1, 16, 4), (2, 0, 8),
    ]  # fmt: skip


def test_real_lines_fill_the_rows():
    lines = tfllm.load_text("poetry").splitlines()
    packing = pack_documents([len(line) for line in lines], 128)
    assert packing.fill_rate > 0.99


@pytest.mark.slow
def test_a_million_documents():
    lengths = np.random.default_rng(0).lognormal(5, 1, 1_000_000).astype(int) + 1
    packing = pack_documents(lengths, 2048)
    assert packing.fill_rate > 0.995
    assert packing.length.sum() == lengths.sum()


def targets_of(batches):
    """The (input, target) pairs that count, and every input that is not padding."""
    pairs, tokens = [], []
    for inputs, targets, weights in batches:
        ids, documents = inputs["ids"].numpy(), inputs["documents"].numpy()
        assert set(np.unique(weights)) <= {0.0, 1.0}
        assert not ids[documents == 0].any() and not targets.numpy()[weights.numpy() == 0].any()
        pairs += list(zip(ids[weights.numpy() > 0], targets.numpy()[weights.numpy() > 0], strict=True))
        tokens += ids[documents > 0].tolist()
        for row in documents:
            filled = row[row > 0]
            assert (np.diff(filled) >= 0).all() and set(filled) == set(range(1, filled.max(initial=0) + 1))
            assert (row[len(filled) :] == 0).all()
    return sorted(pairs), sorted(tokens)


@pytest.mark.parametrize("strategy", ["best_fit", "concat"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_pass_has_every_token_and_every_target_once(strategy, shuffle, batch_size):
    batches = packed_dataset(DOCUMENTS, None, 8, batch_size, strategy=strategy, shuffle=shuffle)
    expected = sorted(pair for document in DOCUMENTS for pair in itertools.pairwise(document))
    for _ in range(2):
        pairs, tokens = targets_of(batches)
        assert tokens == sorted(id for document in DOCUMENTS for id in document)
        assert pairs == expected
    assert len(batches) == len(list(batches)) == -(-batches.packing.rows // batch_size)


def test_shapes_and_dtypes():
    (inputs, targets, weights) = packed_dataset(DOCUMENTS, None, 8, 3).element_spec
    assert {name: (spec.shape, spec.dtype) for name, spec in inputs.items()} == {
        "ids": ((3, 8), tf.int32),
        "documents": ((3, 8), tf.int32),
    }
    assert (targets.shape, targets.dtype, weights.shape, weights.dtype) == ((3, 8), tf.int32, (3, 8), tf.float32)


def first_ids(batches):
    return [inputs["ids"].numpy().tolist() for inputs, _, _ in batches]


def test_passes_are_epochs_and_any_step_can_be_the_first():
    documents = [list(range(i, i + 3)) for i in range(1, 90, 3)]

    def make(**options):
        return packed_dataset(documents, None, 6, 2, seed=3, **options)

    batches = make()
    passes = [first_ids(batches) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    assert [sorted(np.ravel(p)) for p in passes] == [sorted(np.ravel(passes[0]))] * 3
    stream = [*itertools.chain(*passes)]
    for step in (0, 1, 8, 13, 19):
        resumed = first_ids(make(epochs=None, start_step=step).take(5))
        assert resumed == stream[step : step + 5]
    assert first_ids(make().repeat(3)) == stream
    assert first_ids(packed_dataset(documents, None, 6, 2, seed=4)) != passes[0]


def test_workers_take_their_rows_of_the_same_batches():
    whole = first_ids(packed_dataset(DOCUMENTS, None, 8, 4))
    parts = [first_ids(packed_dataset(DOCUMENTS, None, 8, 4, num_workers=2, worker=w)) for w in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_text_gets_the_end_of_the_tokenizer(tokenizer):
    batches = packed_dataset(["abc", "de f"], tokenizer, 16, 1, shuffle=False)
    (inputs, _, _) = next(iter(batches))
    assert tokenizer.decode(inputs["ids"][0, :7]).numpy().decode() == "abcde f"

    class Ended:
        vocab_size, end_id, encode = tokenizer.vocab_size, 4, staticmethod(tokenizer.encode)

    (inputs, targets, weights) = next(iter(packed_dataset([[1, 2], [3, 4], []], Ended(), 8, 1, shuffle=False)))
    assert inputs["ids"].numpy().tolist() == [[1, 2, 4, 3, 4, 4, 0, 0]]
    assert inputs["documents"].numpy().tolist() == [[1, 1, 1, 2, 2, 3, 0, 0]]
    assert targets.numpy().tolist() == [[2, 4, 0, 4, 0, 0, 0, 0]]
    assert weights.numpy().tolist() == [[1, 1, 0, 1, 0, 0, 0, 0]]


def test_lists_arrays_and_ragged_ids_are_the_same():
    forms = [DOCUMENTS, [np.array(d, np.int64) for d in DOCUMENTS], tf.ragged.constant(DOCUMENTS, dtype=tf.int32)]
    batches = [first_ids(packed_dataset(form, None, 8, 2)) for form in forms]
    assert batches[0] == batches[1] == batches[2]


def test_packed_loss_is_the_loss_of_the_documents_alone():
    keras.utils.set_random_seed(0)
    model = tfllm.TransformerLM(64, 16, 16, 1, 2)
    documents = [document[:16] for document in DOCUMENTS]
    packed = tfllm.evaluation.evaluate_lm(model, packed_dataset(documents, None, 16, 2))
    nats = tokens = 0.0
    for document in documents:
        if len(document) > 1:
            ids = tf.constant([document])
            alone = tfllm.training.lm_loss(model, (ids[:, :-1], ids[:, 1:]), training=False)["loss"]
            nats, tokens = nats + float(alone[0]), tokens + float(alone[1])
    assert packed["tokens"] == tokens
    assert packed["loss"] == pytest.approx(nats / tokens, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "documents must hold at least one document; got none"),
        (([[], []],), {}, "at least one token; got 2 documents without any"),
        (("text",), {}, "documents must be a list of str or of ids; got one str"),
        ((["text"],), {}, "tokenizer must be given when documents are text; got None"),
        (([[1, -1]],), {}, "documents must lie in .* got -1"),
        (([[0.5]],), {}, "documents must be str, or ids .* got float64"),
        (([[1, 99]], tfllm.CharTokenizer("abc")), {}, r"documents must lie in \[0, vocab_size=4\); got 99"),
        (([[1]], None, 1), {}, "sequence_length must be at least 2; got 1"),
        (([[1]], None, 8, 0), {}, "batch_size must be at least 1; got 0"),
        (([[1]],), {"strategy": "worst_fit"}, "strategy must be one of .* got 'worst_fit'"),
        (([[1]],), {"start_step": -1}, "start_step must be at least 0; got -1"),
        (([[1]],), {"epochs": 0}, "epochs must be at least 1; got 0"),
        (([[1]],), {"num_workers": 3}, "batch_size must be a multiple of num_workers=3; got 32"),
        (([[1]],), {"num_workers": 2, "worker": 2}, r"worker must lie in \[0, num_workers=2\); got 2"),
    ],
)
def test_bad_documents_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        packed_dataset(*arguments, **options)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([3, -1], "at least 0; got -1"), ([[1]], r"whole numbers \[N\]; got int64 of shape \[1, 1\]"), ([0.5], "float64")],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        pack_documents(lengths, 8)
