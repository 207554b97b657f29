"""Objectives: counts within bounds, all of them undone again, and every row the same wherever and whenever it comes."""

import collections
import re

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import (
    fill_in_the_middle,
    fill_in_the_middle_documents,
    lm_dataset,
    masked_language_model,
    packed_dataset,
    span_corruption,
)
from tfllm.training import stream_from

VOCAB, SPECIAL, MASK = 60, (0, 1, 2), 3
SENTINELS, BEGIN, END = list(range(90, 80, -1)), 70, 71
MARKS = {"prefix_id": 75, "suffix_id": 76, "middle_id": 77}
PRE, SUF, MID = MARKS.values()
OBJECTIVES = {
    "masked": lambda data, seed=0: masked_language_model(
        data, mask_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL, rate=0.3, seed=seed
    ),
    "spans": lambda data, seed=0: span_corruption(
        data, sentinel_ids=SENTINELS, begin_id=BEGIN, end_id=END, noise_density=0.3, seed=seed
    ),
    "spans in a row": lambda data, seed=0: span_corruption(
        data, sentinel_ids=SENTINELS, begin_id=BEGIN, end_id=END, noise_density=0.3, decoder_only=True, seed=seed
    ),
    "middle": lambda data, seed=0: fill_in_the_middle(data, **MARKS, end_id=END, rate=0.7, seed=seed),
}
every_objective = pytest.mark.parametrize("change", OBJECTIVES.values(), ids=OBJECTIVES)


def make_ids(count=500, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


def make_data(length=20, batch_size=6, **options):
    return lm_dataset(make_ids(), None, length, batch_size, seed=3, **options)


def rows_of(*rows, length=None):
    """One next-token batch of rows of ids, the last of which is only a target."""
    length = length or max(map(len, rows)) - 1
    inputs, targets, weights = (np.zeros([len(rows), length], d) for d in (np.int32, np.int32, np.float32))
    for row, ids in enumerate(rows):
        inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1], weights[row, : len(ids) - 1] = ids[:-1], ids[1:], 1
    return tf.data.Dataset.from_tensors((inputs, targets, weights))


def listed(batches):
    return [tf.nest.map_structure(lambda leaf: leaf.numpy().tolist(), batch) for batch in batches]


def arrays(dataset):
    """The batches of a data set, one behind the other."""
    return tf.nest.map_structure(lambda *leaves: np.concatenate([x.numpy() for x in leaves]), *dataset)


# ---------------------------------------------------------------- what they all promise


@pytest.mark.parametrize("name", ["masked", "spans"])
def test_resumed_anywhere_the_stream_is_the_same(name):
    data = OBJECTIVES[name](make_data())
    steps = int(data.cardinality())
    stream = listed(stream_from(data, 0).take(2 * steps + 3))
    assert listed(data) == stream[:steps]  # a pass is an epoch
    assert listed(data) == stream[steps : 2 * steps]  # and the next one the next
    assert listed(stream_from(data, steps + 1).take(3)) == stream[steps + 1 : steps + 4]
    begun = OBJECTIVES[name](make_data(epochs=None, start_step=steps - 1))
    assert listed(begun.take(3)) == stream[steps - 1 : steps + 2]


def test_in_order_every_pass_and_the_endless_stream_are_alike():
    data = OBJECTIVES["middle"](make_data(shuffle=False))
    first = listed(data)
    assert listed(data) == first
    assert listed(stream_from(data, len(first) - 1).take(2)) == [first[-1], first[0]]


@every_objective
def test_a_row_is_what_it_is_alone_and_in_other_company(change):
    batch = next(iter(make_data()))
    data = tf.data.Dataset.from_tensors(batch).concatenate(
        tf.data.Dataset.from_tensors(tuple(part[::-1] for part in batch))
    )
    data = data.concatenate(tf.data.Dataset.from_tensor_slices(batch).batch(1))
    together, turned, *alone = change(data)
    alone = arrays(alone)
    tf.nest.map_structure(np.testing.assert_array_equal, together, alone)
    tf.nest.map_structure(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), together, turned)
    others, *_ = change(data, seed=1)
    assert any((a.numpy() != b.numpy()).any() for a, b in zip(*map(tf.nest.flatten, (together, others)), strict=True))


def test_workers_get_the_parts_of_the_same_batch():
    change = OBJECTIVES["masked"]
    whole = next(iter(change(make_data())))
    parts = [next(iter(change(make_data(num_workers=2, worker=worker)))) for worker in (0, 1)]
    tf.nest.map_structure(lambda w, *p: np.testing.assert_array_equal(w, np.concatenate(p)), whole, *parts)


@every_objective
def test_padding_changes_no_draw(change):
    row = make_ids(13)
    short, long = (arrays(change(rows_of(row, length=length))) for length in (12, 20))

    def check(a, b):
        np.testing.assert_array_equal(a, b[:, : a.shape[1]] if a.ndim > 1 else b)

    tf.nest.map_structure(check, short, long)
    assert long[2].sum() == short[2].sum()


def test_epochs_draw_anew():
    row = lm_dataset(make_ids(21), None, 20, 1, seed=0, epochs=8)
    assert len({str(batch) for batch in listed(row)}) == 1
    assert len({str(batch) for batch in listed(OBJECTIVES["masked"](row))}) >= 4


# ---------------------------------------------------------------- masked language model


def test_of_every_row_the_share_is_chosen_and_nothing_special():
    ids = make_ids(40_000)
    ids[::7] = 1
    data = lm_dataset(ids, None, 40, 50, shuffle=False)
    before, _, real = arrays(data)
    inputs, targets, weights = arrays(
        masked_language_model(data, mask_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL, rate=0.15)
    )
    chosen, ordinary = weights > 0, ~np.isin(before, (*SPECIAL, MASK)) & (real > 0)
    np.testing.assert_array_equal(targets, before)
    np.testing.assert_array_equal(inputs[~chosen], before[~chosen])
    assert not (chosen & ~ordinary).any()
    wanted = 0.15 * ordinary.sum(1)
    assert (np.abs(chosen.sum(1) - wanted) < 1).all()
    assert abs(chosen.sum() - wanted.sum()) < 4 * np.sqrt(len(wanted) / 4)  # of the rounding
    # Every place alike, but for chance.
    rates = chosen.sum(0) / ordinary.sum(0)
    assert np.abs(rates - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / ordinary.sum(0).min())
    # 80, 10, 10; a random id is the old one once in so many.
    count, same = chosen.sum(), 1 / (VOCAB - 4)
    shares = {"mask": 0.8, "same": 0.1 + 0.1 * same, "random": 0.1 * (1 - same)}
    mask, kept = (inputs[chosen] == MASK).sum(), (inputs[chosen] == before[chosen]).sum()
    for name, seen in {"mask": mask, "same": kept, "random": count - mask - kept}.items():
        assert abs(seen - shares[name] * count) < 4 * np.sqrt(count * shares[name] * (1 - shares[name])), name
    assert not np.isin(inputs[chosen], SPECIAL).any()
    random = inputs[chosen & (inputs != before) & (inputs != MASK)]
    assert set(random) == set(range(4, VOCAB))


def test_whole_words_are_chosen_whole_and_as_often():
    text = "the quick brown fox, it's 42 years old, jumps over lazy dogs; 床前明月光 is a poem. " * 40
    tokenizer = tfllm.BPETokenizer.train(text, vocab_size=300)
    data = lm_dataset(text, tokenizer, 48, 8, shuffle=False)
    mask = tokenizer.vocab_size
    _, targets, weights = arrays(
        masked_language_model(
            data,
            tokenizer,
            mask_id=mask,
            vocab_size=mask + 1,
            rate=0.3,
            mask_share=1.0,
            random_share=0.0,
            whole_words=True,
        )
    )
    share = weights.sum() / arrays(data)[2].sum()
    assert abs(share - 0.3) < 0.02
    pieces, partial = tokenizer.token_bytes(), 0
    for ids, chosen in zip(targets, weights > 0, strict=True):
        ends = np.cumsum([len(pieces[i]) for i in ids])
        row = b"".join(pieces[i] for i in ids)
        for word in re.finditer(rb"[A-Za-z0-9]+", row):
            inside = [n for n, end in enumerate(ends) if end - len(pieces[ids[n]]) < word.end() and end > word.start()]
            first, last = inside[0], inside[-1]
            clean = re.fullmatch(rb" ?[A-Za-z0-9]+", b"".join(pieces[ids[n]] for n in inside))
            if clean and len(inside) > 1:
                partial += 1
                assert len(set(chosen[first : last + 1])) == 1, row[word.start() : word.end()]
    assert partial > 20


def test_packed_documents_keep_their_numbers():
    documents = [make_ids(n, seed=n).tolist() for n in (5, 9, 3, 12, 7)]
    data = packed_dataset(documents, None, 12, 2, seed=1, shuffle=False)
    hidden = masked_language_model(data, mask_id=MASK, vocab_size=VOCAB, rate=0.5)
    for (inputs, *_), (changed, targets, weights) in zip(data, hidden, strict=True):
        np.testing.assert_array_equal(inputs["documents"], changed["documents"])
        np.testing.assert_array_equal(inputs["ids"], targets)
        assert not weights.numpy()[inputs["documents"].numpy() == 0].any()
        assert weights.numpy().any()


# ---------------------------------------------------------------- span corruption


def restored(source, target):
    """The row that span corruption made these of, by its definition."""
    spans, sentinel = collections.defaultdict(list), None
    for token in target:
        if token in SENTINELS:
            sentinel = token
        elif token != END:
            spans[sentinel].append(token)
    return [token for place in source for token in (spans.pop(place) if place in SENTINELS else [place])], spans


def test_spans_are_undone_and_as_many_and_long_as_t5_says():
    lengths = [1, 2, 3, 5, 8, 13, 21, 30, 30, 30]
    rows = [make_ids(n + 1, seed=n).tolist() for n in lengths]
    options = {"sentinel_ids": SENTINELS, "begin_id": BEGIN, "end_id": END, "noise_density": 0.3}
    inputs, targets, weights = arrays(span_corruption(rows_of(*rows), **options))
    joint = arrays(span_corruption(rows_of(*rows), **options, decoder_only=True))
    for number, length in enumerate(lengths):
        source = inputs["source"][number, : inputs["source_lengths"][number]].tolist()
        target = targets[number][weights[number] > 0].tolist()
        assert restored(source, target) == (rows[number][:length], {})
        noise = 0 if length < 2 else min(max(int(length * 0.3 + 0.5), 1), length - 1)
        spans = 0 if length < 2 else max(int(noise / 3 + 0.5), 1)
        assert target[-1:] == [END] * (length > 1)
        marks = [token for token in target if token in SENTINELS]
        assert marks == SENTINELS[:spans] == [token for token in source if token in SENTINELS]
        assert len(target) == (noise + spans + 1 if length > 1 else 0)
        np.testing.assert_array_equal(inputs["ids"][number][: len(target)], [BEGIN, *target][: len(target)])
        # As one row: the same, one behind the other.
        row_inputs, row_targets, row_weights = (part[number] for part in joint)
        assert row_targets[row_weights > 0].tolist() == target
        if length > 1:
            whole = [*source, BEGIN, *target]
            assert row_inputs[: len(whole) - 1].tolist() == whole[:-1]
            assert row_targets[: len(whole) - 1].tolist() == whole[1:]


def test_every_way_to_cut_is_equally_likely():
    # 6 tokens, 3 of them cut out in 2 spans: both groups of 3 in 2 segments, in 2 ways each.
    rows = rows_of(*np.random.default_rng(0).integers(0, VOCAB, (4000, 7)))
    inputs, targets, _ = arrays(
        span_corruption(
            rows, sentinel_ids=SENTINELS, begin_id=BEGIN, end_id=END, noise_density=0.5, mean_span_length=1.5
        )
    )
    ways = collections.Counter(tuple(np.isin(row, SENTINELS).tolist()) for row in inputs["source"])
    assert set(ways) == {(False, True, False, False, True), (False, False, True, False, True)}
    assert all(abs(seen - 2000) < 4 * np.sqrt(1000) for seen in ways.values())
    first = collections.Counter(
        (tuple(np.isin(row, SENTINELS).tolist()), mask.index(True, 1))
        for row, mask in zip(inputs["source"], np.isin(targets, SENTINELS).tolist(), strict=True)
    )
    assert len(first) == 4
    assert all(abs(seen - 1000) < 4 * np.sqrt(750) for seen in first.values())


# ---------------------------------------------------------------- fill in the middle


def whole_again(row):
    """The text that was cut, by the definition of both forms, and which form it is."""
    if row[:1] != [PRE]:
        return row, "plain"
    middle = row.index(MID)
    if row[1] == SUF:
        return row[middle + 1 :] + row[2:middle], "spm"
    cut = row.index(SUF)
    return row[1:cut] + row[middle + 1 :] + row[cut + 1 : middle], "psm"


@pytest.mark.parametrize("end", [None, END])
def test_the_middle_goes_back_where_it_was(end):
    data = make_data(12, 40, epochs=12)
    inputs, targets, weights = arrays(data)
    changed = arrays(fill_in_the_middle(make_data(12, 40, epochs=12), **MARKS, end_id=end, rate=0.6, spm_rate=0.25))
    forms = collections.Counter()
    for number in range(len(inputs)):
        before = [inputs[number, 0], *targets[number][weights[number] > 0]]
        row = [changed[0][number, 0], *changed[1][number][changed[2][number] > 0]]
        np.testing.assert_array_equal(changed[0][number, 1 : len(row) - 1], row[1:-1])
        ended = row[-1] == END
        found, form = whole_again([int(x) for x in (row[:-1] if ended else row)])
        assert found == before
        assert ended == (end is not None and form != "plain")
        forms[form] += 1
    count = sum(forms.values())
    empty = 1 - (13 / 14) ** 2  # prefixes, with which both forms are the same and count as the second
    for form, share in {"plain": 0.4, "psm": 0.45 * (1 - empty), "spm": 0.15 + 0.45 * empty}.items():
        assert abs(forms[form] - share * count) < 4 * np.sqrt(count * share * (1 - share)), forms


def test_cuts_are_uniform():
    rows = rows_of(*np.random.default_rng(0).integers(0, VOCAB, (6000, 3)))  # places 0 to 3, two draws
    inputs, targets, _ = arrays(fill_in_the_middle(rows, **MARKS, rate=1.0, spm_rate=0.0))
    made = np.concatenate([inputs[:, :1], targets], 1)
    cuts = collections.Counter(
        (row.index(SUF) - 1, row.index(SUF) - 1 + len(row) - 1 - row.index(MID)) for row in made.tolist()
    )
    assert set(cuts) == {(a, b) for b in range(4) for a in range(b + 1)}
    for (a, b), seen in cuts.items():
        share = (1 if a == b else 2) / 16
        assert abs(seen - 6000 * share) < 4 * np.sqrt(6000 * share * (1 - share))


def test_documents_are_cut_between_characters_and_packed_with_an_end():
    text = "To be, or not to be: 床前明月光. "
    tokenizer = tfllm.BPETokenizer.train(text * 9, vocab_size=290)
    marks = dict(zip(MARKS, range(400, 403), strict=True))
    documents = [text * (1 + n % 3) + str(n) for n in range(60)]
    made = fill_in_the_middle_documents(documents, tokenizer, **marks, rate=0.8, spm_rate=0.5)
    names, forms = {400: PRE, 401: SUF, 402: MID}, collections.Counter()
    for document, ids in zip(documents, made, strict=True):
        row = [names.get(i, 1000 + i) for i in ids.tolist()]  # out of the way of the marks of this file
        found, form = whole_again(row)
        forms[form] += 1
        assert tokenizer.decode([i - 1000 for i in found]).numpy().decode() == document
    assert all(forms[form] > 3 for form in ("plain", "psm", "spm"))
    shuffled = fill_in_the_middle_documents(documents[::-1], tokenizer, **marks, rate=0.8, spm_rate=0.5)
    for ids, again in zip(made, shuffled[::-1], strict=True):
        np.testing.assert_array_equal(ids, again)
    lengths = sum(map(len, made))
    assert packed_dataset(made, None, 64, 4).packing.length.sum() == lengths


def test_ids_of_documents_are_cut_too():
    documents = [make_ids(n, seed=n).tolist() for n in range(30)]
    made = fill_in_the_middle_documents(documents, **MARKS, rate=1.0)
    forms = [whole_again(row.tolist()) for row in made]
    assert [text for text, _ in forms] == documents
    assert {form for _, form in forms} == {"psm", "spm"}


# ---------------------------------------------------------------- in fit, and bad input


def test_fit_takes_them():
    model = tfllm.RecurrentLM(100, "gru", 4)
    model.compile("adam", run_eagerly=True)
    history = model.fit(OBJECTIVES["spans in a row"](make_data()).repeat(), steps_per_epoch=2, verbose=0).history
    assert 0 < history["loss"][0] < 10


SPANS = {"sentinel_ids": SENTINELS, "begin_id": BEGIN, "end_id": END}


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda d: masked_language_model(d, mask_id=60, vocab_size=60), r"mask_id must be in \[0, 60\); got 60"),
        (
            lambda d: masked_language_model(d, mask_id=3),
            "vocab_size must be an int of at least 1, or a tokenizer be given",
        ),
        (lambda d: masked_language_model(d, mask_id=3, vocab_size=9, rate=1.5), r"rate must lie in \[0, 1\]; got 1.5"),
        (
            lambda d: masked_language_model(d, mask_id=3, vocab_size=9, random_share=0.3),
            "random_share must be at most 1 - mask_share=0.2; got 0.3",
        ),
        (
            lambda d: masked_language_model(d, mask_id=3, vocab_size=9, whole_words=True),
            "tokenizer must be given for whole_words; got None",
        ),
        (
            lambda d: masked_language_model(d, mask_id=0, vocab_size=2, special_ids=[1]),
            "special_ids must leave at least one of 2 ids; got all of them",
        ),
        (lambda d: span_corruption(d, **SPANS, noise_density=1.0), r"noise_density must lie in \(0, 1\); got 1.0"),
        (
            lambda d: span_corruption(d, **SPANS, mean_span_length=0.5),
            "mean_span_length must be a number of at least 1",
        ),
        (
            lambda d: span_corruption(d, **SPANS | {"sentinel_ids": [END]}),
            "sentinel_ids must be at least 1 ids, all different and not the end",
        ),
        (
            lambda d: span_corruption(
                d.map(lambda *b: tuple(tf.boolean_mask(x, b[2][0] >= 0, axis=1) for x in b)), **SPANS
            ),
            "dataset must have rows of a known length; got batches of any",
        ),
        (lambda d: fill_in_the_middle(d, **MARKS, rate=-1), r"rate must lie in \[0, 1\]; got -1"),
        (lambda d: fill_in_the_middle(d, prefix_id=1, suffix_id=1, middle_id=2), "marks must be all different"),
        (lambda d: fill_in_the_middle(d.map(lambda *b: b[:2]), **MARKS), "dataset must have batches"),
        (
            lambda d: fill_in_the_middle(packed_dataset([[1, 2, 3]], None, 4, 1), **MARKS),
            "dataset must have rows of ids that are not packed; got a dict of",
        ),
        (lambda d: fill_in_the_middle_documents(["abc"], **MARKS), "tokenizer must be given when documents are text"),
        (lambda d: fill_in_the_middle_documents([[0.5]], **MARKS), "documents must be all str, or all ids"),
    ],
)
def test_what_cannot_be_is_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make(make_data())
