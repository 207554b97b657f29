"""Augmentation: counts within statistical bounds, the same everywhere, row by row, special ids untouched."""

import collections
import math

import numpy as np
import pytest
import tensorflow as tf

from tfllm.data import augmentation
from tfllm.data.augmentation import (
    Compose,
    Lexicon,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SpanMasking,
    SynonymReplacement,
    TokenDropout,
    TokenReplacement,
    augment_dataset,
    back_translate,
    load_lexicon,
)

IDS = Lexicon({i: (i + 1000, i + 2000) for i in range(10, 200, 2)})
WORDS = Lexicon({str(i): (f"{i}a", f"{i}b") for i in range(10, 200, 2)})
SPECIAL = (1, 2)
# Every augmentation, for ids and for strings, at a rate of one's own.
IDS_KINDS = {
    "deletion": lambda rate: RandomDeletion(rate, SPECIAL),
    "swap": lambda rate: RandomSwap(rate, SPECIAL),
    "insertion": lambda rate: RandomInsertion(rate, protected=SPECIAL),
    "insertion of synonyms": lambda rate: RandomInsertion(rate, IDS, SPECIAL),
    "synonyms": lambda rate: SynonymReplacement(IDS, rate, SPECIAL),
    "dropout": lambda rate: TokenDropout(0, rate, SPECIAL),
    "replacement": lambda rate: TokenReplacement(5, 9, rate, SPECIAL),
    "spans": lambda rate: SpanMasking(0, rate, protected=SPECIAL),
    "poisson spans": lambda rate: SpanMasking(0, rate, "poisson", 3.0, 6, SPECIAL),
    "composed": lambda rate: Compose(RandomSwap(rate, SPECIAL), TokenDropout(0, rate, SPECIAL)),
}
STRING_KINDS = {
    "deletion": lambda rate: RandomDeletion(rate, ("1", "2")),
    "swap": lambda rate: RandomSwap(rate, ("1", "2")),
    "insertion": lambda rate: RandomInsertion(rate, protected=("1", "2")),
    "insertion of synonyms": lambda rate: RandomInsertion(rate, WORDS, ("1", "2")),
    "synonyms": lambda rate: SynonymReplacement(WORDS, rate, ("1", "2")),
    "dropout": lambda rate: TokenDropout("?", rate, ("1", "2")),
    "spans": lambda rate: SpanMasking("?", rate, protected=("1", "2")),
}
KINDS = [(make, False) for make in IDS_KINDS.values()] + [(make, True) for make in STRING_KINDS.values()]
every_kind = pytest.mark.parametrize(
    ("make", "strings"), KINDS, ids=[*IDS_KINDS, *(f"{name} of strings" for name in STRING_KINDS)]
)


def make_rows(strings=False, lengths=(40, 1, 0, 7, 25, 2)):
    """Rows that begin with the special token 1 and end with 2, of different tokens between."""
    random = np.random.default_rng(0)
    rows = [[1, *random.permutation(np.arange(10, 200))[: n - 2].tolist(), 2][: max(n, 0)] for n in lengths]
    rows = tf.ragged.constant(rows, tf.int32)
    return tf.strings.as_string(rows) if strings else rows


def listed(result):
    """Lists of what an augmentation returned, tokens alone or with a mask."""
    return tf.nest.map_structure(
        lambda part: part.to_list() if hasattr(part, "to_list") else part.numpy().tolist(), result
    )


def tokens_of(result):
    return result[0] if isinstance(result, tuple) else result


@every_kind
def test_rate_zero_changes_nothing(make, strings):
    rows = make_rows(strings)
    for seed in range(5):
        assert tokens_of(listed(make(0.0)(rows, seed))) == rows.to_list()
        assert tokens_of(listed(make(0.0)(rows[0], seed))) == rows[0].numpy().tolist()


@every_kind
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_special_tokens_stay_first_and_last(make, strings, rate):
    rows = make_rows(strings)
    special = [b"1", b"2"] if strings else [1, 2]
    for seed in range(5):
        for old, new in zip(rows.to_list(), tokens_of(listed(make(rate)(rows, seed))), strict=True):
            assert [token for token in new if token in special] == [token for token in old if token in special]
            assert (new[:1], new[-1:]) == (old[:1], old[-1:])


@every_kind
def test_eager_and_graph_and_every_shape_agree(make, strings):
    rows = make_rows(strings)
    augment = make(0.4)
    spec = tf.RaggedTensorSpec([None, None], rows.dtype)
    traced = tf.function(augment, input_signature=[spec, tf.TensorSpec([2], tf.int32)])
    for seed in ([3, 4], [-5, 2**31 - 1]):
        expected = listed(augment(rows, seed))
        assert listed(traced(rows, tf.constant(seed))) == expected
        assert listed(augment(rows, tf.constant(seed, tf.int64))) == expected
        first = rows[:1]  # a vector is a batch of one row
        assert [tokens_of(listed(augment(first[0], seed)))] == tokens_of(listed(augment(first, seed)))
    assert traced.experimental_get_tracing_count() == 1


@every_kind
def test_a_row_hangs_on_no_other_row(make, strings):
    rows, others = make_rows(strings), make_rows(strings, lengths=(3, 50, 9, 7, 0, 11, 30))
    augment = make(0.4)
    expected = tokens_of(listed(augment(rows, 7)))
    for b in range(rows.shape[0]):
        among = tf.concat([others[:b], rows[b : b + 1], others[b + 1 :]], 0)
        assert tokens_of(listed(augment(among, 7)))[b] == expected[b]


@every_kind
def test_the_seed_decides(make, strings):
    rows = make_rows(strings)
    results = [listed(make(0.4)(rows, seed)) for seed in (0, 0, 1, 2)]
    assert results[0] == results[1]
    assert results[0] != results[2] != results[3] != results[0]


@every_kind
def test_rows_of_the_same_tokens_change_differently(make, strings):
    row = make_rows(strings)[0]
    results = tokens_of(listed(make(0.4)(tf.RaggedTensor.from_row_lengths(tf.tile(row, [4]), [40] * 4), 0)))
    assert len(set(map(tuple, results))) == 4


@every_kind
def test_a_pipeline_gives_each_element_its_own_seed(make, strings):
    row = make_rows(strings)[0]
    dataset = tf.data.Dataset.from_tensors((row, 5)).repeat(6)
    augmented = augment_dataset(dataset, make(0.4), seed=9)
    assert augmented.cardinality() == 6
    passes = [[(listed(tokens), int(label)) for tokens, label in augmented] for _ in range(2)]
    assert passes[0] == passes[1]
    assert passes[0] == [(listed(make(0.4)(row, tf.constant([9, i], tf.int64))), 5) for i in range(6)]
    assert len({str(element) for element in passes[0]}) == 6


@every_kind
def test_no_rows_and_no_tokens(make, strings):
    empty = make_rows(strings)[2:3]
    assert tokens_of(listed(make(1.0)(empty, 0))) == [[]]
    assert tokens_of(listed(make(1.0)(empty[:0], 0))) == []
    assert tokens_of(listed(make(1.0)(empty[0], 0))) == []


# ---------------------------------------------------------------- counts

ROW, ROWS = 50, 400
LONG = tf.RaggedTensor.from_row_lengths(tf.tile(tf.range(10, 10 + ROW), [ROWS]), [ROW] * ROWS)


def within(count, trials, probability):
    """Says whether a count of independent trials lies within five standard deviations."""
    return abs(count - trials * probability) <= 5 * math.sqrt(trials * probability * (1 - probability)) + 1e-9


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_expected_counts(rate):
    total = ROW * ROWS
    old = LONG.values.numpy()
    assert within(total - RandomDeletion(rate)(LONG, 1).values.shape[0], total, rate)
    assert within(RandomInsertion(rate)(LONG, 1).values.shape[0] - total, total, rate)
    assert within((TokenDropout(0, rate)(LONG, 1).values.numpy() == 0).sum(), total, rate)
    assert within((TokenReplacement(1000, 2000, rate)(LONG, 1).values.numpy() >= 1000).sum(), total, rate)
    assert within((SynonymReplacement(IDS, rate)(LONG, 1).values.numpy() != old).sum(), total // 2, rate)
    moved = (RandomSwap(rate)(LONG, 1).values.numpy() != old).reshape(ROWS, ROW).sum(1)
    assert set(moved) <= {2 * math.floor(rate * ROW / 2), 2 * math.ceil(rate * ROW / 2)}
    assert abs(moved.mean() - rate * ROW) <= 5 / math.sqrt(ROWS)


def test_random_numbers_are_uniform_and_independent():
    rows = augmentation._unpack(LONG)
    values = np.stack([augmentation._bits(rows, 3, stream).numpy() for stream in range(3)]).astype(np.float64) / 2**32
    grid = values[0].reshape(ROWS, ROW)
    for sample in (values.ravel(), grid[:, 0], grid[0]):
        counts = np.histogram(sample, 10, (0, 1))[0]
        expected = len(sample) / 10
        assert ((counts - expected) ** 2 / expected).sum() < 35  # chi-square of 9 degrees, one in 17,000
    pairs = [(values[0], values[1]), (grid[:, 1:], grid[:, :-1]), (grid[1:], grid[:-1])]
    assert all(abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size) for a, b in pairs)
    assert len(np.unique(values)) > 0.9999 * values.size


def test_deletion_keeps_the_order_and_one_token():
    for rows in (RandomDeletion(0.5)(LONG, 0), RandomDeletion(1.0)(LONG, 0)):
        assert (np.diff(rows.values.numpy())[np.diff(rows.value_rowids().numpy()) == 0] > 0).all()
        assert rows.row_lengths().numpy().min() >= 1
    assert (RandomDeletion(1.0)(LONG, 0).row_lengths().numpy() == 1).all()
    survivors = collections.Counter(RandomDeletion(1.0)(LONG, 0).values.numpy().tolist())
    assert len(survivors) > ROW / 2  # not always the same


def test_swaps_are_exchanges_of_pairs():
    new = RandomSwap(0.5)(LONG, 0).values.numpy().reshape(ROWS, ROW) - 10
    np.testing.assert_array_equal(np.take_along_axis(new, new, 1), np.tile(np.arange(ROW), (ROWS, 1)))
    assert RandomSwap(1.0)(tf.constant([3, 4]), 0).numpy().tolist() == [4, 3]
    assert RandomSwap(1.0)(tf.constant([3]), 0).numpy().tolist() == [3]
    three = RandomSwap(1.0)(tf.constant([3, 4, 5]), 0).numpy()
    assert (three != [3, 4, 5]).sum() == 2


def test_insertions_come_from_the_row_or_the_lexicon():
    for old, new in zip(LONG.to_list(), RandomInsertion(0.3)(LONG, 0).to_list(), strict=True):
        rest = iter(new)
        assert all(token in rest for token in old)  # the row is still there, in its order
        assert set(new) == set(old)
    words = tf.constant(["a", "12", "14", "c"])
    new = RandomInsertion(1.0, WORDS)(words, 1).numpy().tolist()
    assert new[::2] == words.numpy().tolist()
    assert set(new[1::2]) <= {b"12a", b"12b", b"14a", b"14b"}
    assert RandomInsertion(1.0, WORDS)(tf.constant(["a", "c"]), 1).numpy().tolist() == [b"a", b"c"]
    assert RandomInsertion(1.0, WORDS, ("12",))(tf.constant(["12"]), 1).numpy().tolist() == [b"12"]


def test_every_synonym_and_every_id_comes_equally_often():
    many = tf.fill([9000], 10)
    for new, choices in ((SynonymReplacement(IDS, 1.0)(many, 0), 2), (TokenReplacement(7, 10, 1.0)(many, 0), 3)):
        values, counts = np.unique(new.numpy(), return_counts=True)
        assert len(values) == choices
        assert all(within(count, 9000, 1 / choices) for count in counts)
    assert TokenReplacement(2**31 - 1, 2**31, 1.0)(many[:1], 0).numpy().tolist() == [2**31 - 1]


# ---------------------------------------------------------------- spans


@pytest.mark.parametrize("lengths", ["geometric", "poisson"])
@pytest.mark.parametrize("rate", [0.01, 0.15, 0.5, 0.97, 1.0])
def test_spans_mask_the_requested_share(lengths, rate):
    masked, mask = SpanMasking(0, rate, lengths)(LONG, 2)
    counts = mask.values.numpy().reshape(ROWS, ROW).sum(1)
    assert set(counts) <= {math.floor(rate * ROW + 1e-9), math.ceil(rate * ROW - 1e-9)}
    assert abs(counts.mean() - rate * ROW) <= 2.5 / math.sqrt(ROWS)
    np.testing.assert_array_equal(masked.values, np.where(mask.values, 0, LONG.values))


def test_a_share_of_less_than_a_token_is_right_on_average():
    short = tf.RaggedTensor.from_row_lengths(tf.range(3, 3 + 3 * 3000), [3] * 3000)
    _, mask = SpanMasking(0, 0.1)(short, 0)
    assert within(mask.values.numpy().sum(), 3000, 0.3)


def test_lengths_follow_their_distribution():
    spanbert = SpanMasking(0).length_probabilities()
    np.testing.assert_allclose(spanbert[1:] / spanbert[:-1], 0.8)
    assert round(spanbert @ np.arange(1, 11), 1) == 3.8  # as the paper says
    poisson = SpanMasking(0, lengths="poisson", mean_length=3.0, max_length=30).length_probabilities()
    np.testing.assert_allclose(poisson[:3], [3 / (math.e**3 - 1), 4.5 / (math.e**3 - 1), 4.5 / (math.e**3 - 1)])
    np.testing.assert_allclose([spanbert.sum(), poisson.sum()], 1)

    tokens = 200_000
    augment = SpanMasking(0, 0.02)  # so sparse that few spans touch
    mask = np.pad(augment(tf.range(1, tokens + 1), 0)[1].numpy().astype(int), 1)
    runs = np.flatnonzero(np.diff(mask) == -1) - np.flatnonzero(np.diff(mask) == 1)
    assert abs(np.mean(runs) - 3.8) < 0.35
    shares = np.bincount(runs, minlength=11)[1:11] / len(runs)
    np.testing.assert_allclose(shares, spanbert, atol=0.06)


def test_every_token_is_masked_equally_often():
    _, mask = SpanMasking(0, 0.2)(LONG, 0)
    assert all(within(count, ROWS, 0.2) for count in mask.values.numpy().reshape(ROWS, ROW).sum(0))


def test_spans_need_not_begin_anew_after_a_protected_token():
    row = tf.constant([5, 1, 5, 1, 5])
    assert SpanMasking(0, 1.0, protected=(1,))(row, 0)[0].numpy().tolist() == [0, 1, 0, 1, 0]


# ---------------------------------------------------------------- lexicon, composition, translation


def test_a_lexicon_file(tmp_path):
    path = tmp_path / "lexicon.tsv"
    path.write_bytes("\ufeffbig\tlarge\thuge\r\n\n快乐\t高兴\r\nfast \t quick\n".encode())
    lexicon = load_lexicon(path)
    assert lexicon.synonyms == {"big": ("large", "huge"), "快乐": ("高兴",), "fast": ("quick",)}
    replaced = SynonymReplacement(lexicon, 1.0)(tf.constant(["快乐", "fast", "x"]), 0)
    assert [token.decode() for token in replaced.numpy()] == ["高兴", "quick", "x"]
    ids = lexicon.to_ids(["<unk>", "quick", "fast", "big", "huge"])
    assert ids.synonyms == {3: (4,), 2: (1,)}
    assert SynonymReplacement(ids, 1.0)(tf.constant([0, 1, 2, 3, 4]), 0).numpy().tolist() == [0, 1, 1, 4, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"big\tlarge\nsmall\n", "different synonyms, with tabs between them; got line 2 of .*'small'"),
        (b"big large\n", "got line 1 of .*'big large'"),
        (b"big\t\n", "got line 1"),
        (b"\tbig\n", "got line 1"),
        (b"big\tlarge\t\thuge\n", "got line 1"),
        (b"big\tlarge\tlarge\n", "got line 1"),
        (b"big\tbig\n", "got line 1"),
        (b"a\tb\n\nbig\tlarge\nbig\thuge\n", "every word once; got 'big' again in line 4"),
        (b"a\tb\nbig\t\xff\n", "must be UTF-8; got line 2"),
        (b"\n\n", "at least one word; got .*lexicon.tsv', which is empty"),
        (b"", "which is empty"),
    ],
)
def test_bad_lexicon_files_are_refused(tmp_path, content, message):
    path = tmp_path / "lexicon.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_lexicon(path)


def test_a_missing_lexicon_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_lexicon(tmp_path / "none.tsv")


def test_composition_runs_in_order_with_seeds_of_their_own():
    row = tf.range(10, 60)
    drop = Compose(TokenDropout(0, 0.5), TokenDropout(1, 0.5))(row, 0).numpy()
    assert within((drop == 1).sum(), 50, 0.5) and within((drop == 0).sum(), 50, 0.25)
    assert Compose()(row, 0) is row
    masked, mask = Compose(RandomDeletion(0.5), SpanMasking(0, 0.5))(row, 0)
    assert masked.shape == mask.shape and len(masked) < 50
    assert Compose(RandomSwap(0.1), RandomDeletion(0.1)) == Compose(RandomSwap(0.1), RandomDeletion(0.1))


def test_the_seed_and_the_number_of_an_element_make_its_seed():
    dataset = tf.data.Dataset.from_tensors(tf.range(3)).repeat(3)
    for seed in (0, -7, 2**40):
        seeds = augment_dataset(dataset, lambda tokens, seed: seed, seed)
        assert [own.numpy().tolist() for own in seeds] == [[seed, 0], [seed, 1], [seed, 2]]


def test_repeat_before_augments_every_pass_anew():
    dataset = tf.data.Dataset.from_tensors(tf.range(10, 60))
    before = [tokens.numpy().tolist() for tokens in augment_dataset(dataset.repeat(2), RandomSwap(0.5))]
    after = [tokens.numpy().tolist() for tokens in augment_dataset(dataset, RandomSwap(0.5)).repeat(2)]
    assert before[0] != before[1]
    assert after == [before[0], before[0]]


def test_batches_of_rows_in_a_pipeline():
    rows = make_rows()
    (augmented,) = augment_dataset(tf.data.Dataset.from_tensors(rows), RandomDeletion(0.3))
    assert augmented.to_list() == RandomDeletion(0.3)(rows, tf.constant([0, 0], tf.int64)).to_list()


def test_translation_there_and_back():
    calls = []

    def forward(texts):
        calls.append(texts)
        return [text.upper() + "!" for text in texts]

    answers = {"SAME!": " Same", "OTHER!": "another", "LOST!": " ", "全角!": "ＡＢ", "AB!": "ＡＢ"}
    backward = lambda texts: (answers[text] for text in texts)  # noqa: E731
    texts = ["same", "other", "lost", "全角", "ab"]
    assert back_translate(texts, forward, backward, list("abcde")) == (["another", "ＡＢ"], ["b", "d"])
    assert back_translate(texts, forward, backward) == (["another", "ＡＢ"], [1, 3])
    assert calls == [texts, texts]
    assert back_translate([], forward, backward) == ([], [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomDeletion(1.1), r"rate must lie in \[0, 1\]; got 1.1"),
        (lambda: RandomSwap(-0.1), r"rate must lie in \[0, 1\]; got -0.1"),
        (lambda: RandomInsertion(math.nan), r"rate must lie in \[0, 1\]; got nan"),
        (lambda: TokenReplacement(5, 5), "low < high <= 2.*; got low=5, high=5"),
        (lambda: TokenReplacement(-1, 5), "got low=-1, high=5"),
        (lambda: TokenReplacement(0, 5)(tf.constant(["a"]), 0), "tokens must be int32 ids; got string"),
        (lambda: TokenDropout("?")(tf.constant([1]), 0), r"token must be int32 as the tokens are; got \['\?'\]"),
        (lambda: TokenDropout(0)(tf.constant(["a"]), 0), r"token must be string as the tokens are; got \[0\]"),
        (lambda: RandomSwap(protected=(1,))(tf.constant(["a"]), 0), r"protected must be string .*; got \(1,\)"),
        (
            lambda: RandomSwap()(tf.zeros([2, 3], tf.int32), 0),
            r"a vector \[T\] or a RaggedTensor .*; got int32 of shape \(2, 3\)",
        ),
        (lambda: RandomSwap()(tf.zeros([2]), 0), "tokens must be int32 or strings.* got float32"),
        (lambda: RandomSwap()(tf.constant(1), 0), r"got int32 of shape \(\)"),
        (lambda: SynonymReplacement(IDS)(tf.constant(["a"]), 0), "tokens must be int32 as the lexicon is; got string"),
        (lambda: SpanMasking(0, lengths="normal"), "lengths must be 'geometric' or 'poisson'; got 'normal'"),
        (lambda: SpanMasking(0, mean_length=0.5), "mean_length must be a number of at least 1; got 0.5"),
        (lambda: SpanMasking(0, max_length=0), "max_length must be a number of at least 1; got 0"),
        (lambda: Lexicon({}), "synonyms must hold words with at least one synonym each; got {}"),
        (lambda: Lexicon({"a": ()}), "at least one synonym each"),
        (lambda: Lexicon({"a": (1,)}), "synonyms must all be str or all be int"),
        (lambda: Lexicon({1.5: (2.5,)}), "synonyms must all be str or all be int"),
        (lambda: WORDS.to_ids(["a", "b"]), "tokens must hold a word of the lexicon and a synonym of it; got 2 others"),
        (lambda: Compose(SpanMasking(0), RandomSwap()), "must have SpanMasking at the end; got it at 1"),
        (lambda: Compose("swap"), r"augmentations must be functions of \(tokens, seed\); got 'swap'"),
        (lambda: back_translate("abc", list, list), "texts must be a list of str; got str"),
        (lambda: back_translate(["a"], list, list, []), "labels must be as many as texts, 1; got 0"),
        (lambda: back_translate(["a"], lambda _: [], list), "forward must return as many texts as it gets, 1; got 0"),
        (lambda: back_translate(["a"], list, lambda _: ["b", "c"]), "backward must return .*, 1; got 2"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_single_string_is_no_collection_of_tokens():
    with pytest.raises(ValueError, match="protected must be a tuple of tokens; got 'the'"):
        RandomDeletion(1.0, protected="the")(tf.constant(["the", "cat"]), seed=0)
    with pytest.raises(ValueError, match="synonyms must be tuples, not single strings; got"):
        Lexicon({"big": "large"})
