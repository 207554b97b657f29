"""Heads: what they compute, by hand and by brute force, on every kind of backbone; and that they learn."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.models import (
    RecurrentEncoder,
    SentenceEmbedder,
    SpanExtractor,
    TextClassifier,
    TokenTagger,
    TransformerEncoder,
)
from tfllm.models.heads import best_spans, info_nce, pool

VOCAB = 12
BACKBONES = {
    "transformer": lambda: TransformerEncoder(VOCAB, 12, 8, 1, 2),
    "recurrent": lambda: RecurrentEncoder(VOCAB, "gru", 8),
    "transformer-lm": lambda: tfllm.TransformerLM(VOCAB, 12, 8, 1, 2),
    "recurrent-lm": lambda: tfllm.RecurrentLM(VOCAB, "lstm", 8),
}
HEADS = {
    "classifier": lambda backbone: TextClassifier(
        backbone, 3, dropout=0.1, label_smoothing=0.1, class_weights=[1, 2, 1]
    ),
    "tagger": lambda backbone: TokenTagger(backbone, 3, class_weights=(1.0, 2.0, 2.0)),
    "crf": lambda backbone: TokenTagger(backbone, 3, crf=True, tag_names=["O", "B-X", "I-X"]),
    "spans": lambda backbone: SpanExtractor(backbone),
    "embedder": lambda backbone: SentenceEmbedder(backbone, symmetric=True),
}
IDS = np.random.default_rng(0).integers(0, VOCAB, (4, 6)).astype(np.int32)
LENGTHS = np.array([6, 4, 3, 1], np.int32)
INPUTS = {"ids": tf.constant(IDS), "lengths": tf.constant(LENGTHS)}
_cache = {}


def make_head(head, backbone):
    keras.utils.set_random_seed(0)
    model = HEADS[head](BACKBONES[backbone]())
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(float(weight.path.endswith("gamma")), 0.7, weight.shape))
    return model


@pytest.fixture(params=itertools.product(HEADS, BACKBONES), ids="-".join)
def head(request):
    if request.param not in _cache:
        _cache[request.param] = make_head(*request.param)
    return _cache[request.param]


def batch_of(head):
    """Returns inputs and targets of a head, without weights."""
    random = np.random.default_rng(1)
    if isinstance(head, TextClassifier):
        return INPUTS, tf.constant([0, 2, 1, 1])
    if isinstance(head, TokenTagger):
        return INPUTS, tf.constant(random.integers(0, 2, (4, 6)), tf.int32)
    if isinstance(head, SpanExtractor):
        return INPUTS, tf.constant([[1, 3], [0, 0], [-1, -1], [0, 0]])
    return INPUTS, {"ids": tf.constant(IDS[:, ::-1].copy()), "lengths": tf.constant([6, 6, 6, 6])}


def means_of(head, batch, training=False):
    return {k: float(a) / float(b) for k, (a, b) in head.batch_totals(batch, training=training).items()}


def test_padding_changes_nothing(head):
    behind = np.arange(6) >= LENGTHS[:, None]
    other = INPUTS | {"ids": tf.constant(np.where(behind, 7, IDS))}
    first, second = head(INPUTS).numpy(), head(other).numpy()
    if isinstance(head, TokenTagger):
        first, second = first[~behind], second[~behind]
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_a_file_gives_the_same_model(head, tmp_path):
    head.save(tmp_path / "head.keras")
    again = keras.models.load_model(tmp_path / "head.keras")
    assert type(again) is type(head) and type(again.backbone) is type(head.backbone)
    np.testing.assert_array_equal(again(INPUTS), head(INPUTS))
    assert again.get_config().keys() == head.get_config().keys()


def test_rows_of_weight_zero_count_nothing(head):
    batch = batch_of(head)
    weights = np.ones((4, 6) if isinstance(head, TokenTagger) else 4, np.float32)
    weights[3] = 0
    found = means_of(head, (*batch, tf.constant(weights)))
    expected = means_of(head, tf.nest.map_structure(lambda x: x[:3], batch))
    assert found.keys() == expected.keys() == {"loss", "accuracy"}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_step_of_fit_moves_head_and_backbone(name):
    model = make_head(name, "transformer")
    model.compile("sgd", run_eagerly=True)
    before = [weight.numpy() for weight in model.trainable_weights]
    model.fit(tf.data.Dataset.from_tensors(batch_of(model)), verbose=0)
    moved = [
        np.abs(weight.numpy() - old).max() > 0 for weight, old in zip(model.trainable_weights, before, strict=True)
    ]
    assert np.mean(moved) > 0.9  # what the data does not touch, such as tags that are not there, stays
    assert set(model.evaluate(tf.data.Dataset.from_tensors(batch_of(model)), return_dict=True, verbose=0)) >= {"loss"}


def test_values_out_of_range_are_refused_on_the_host():
    for name, targets, message in (
        ("classifier", [0, 3, 1, 1], r"labels must lie in \[0, num_labels=3\); got"),
        ("crf", np.full((4, 6), 3), r"tags must lie in \[0, num_labels=3\); got"),
        ("spans", [[0, 6]] * 4, r"spans must lie in \[-1, T\); got"),
        ("embedder", INPUTS | {"ids": np.full((4, 6), VOCAB)}, r"ids must lie in \[0, vocab_size=12\); got"),
        ("embedder", INPUTS | {"lengths": np.full(4, 7)}, r"lengths must lie in \[0, T \+ 1\); got"),
    ):
        model = make_head(name, "transformer")
        model.compile(run_eagerly=True)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            model.fit(tf.data.Dataset.from_tensors((INPUTS, targets)), verbose=0)


# ---------------------------------------------------------------- what each computes


def test_pooling_is_that_of_numpy():
    features = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    wild = features.copy()
    wild[np.arange(6) >= LENGTHS[:, None]] = np.nan
    rows = [row[:length] for row, length in zip(features, LENGTHS, strict=True)]
    for kind, reduce in (("mean", np.mean), ("max", np.max)):
        expected = [reduce(row, 0) for row in rows]
        np.testing.assert_allclose(pool(tf.constant(wild), tf.constant(LENGTHS), kind), expected, atol=1e-6)
    np.testing.assert_array_equal(pool(tf.constant(wild), tf.constant(LENGTHS), "last"), [row[-1] for row in rows])
    np.testing.assert_array_equal(pool(tf.constant(wild), tf.constant(LENGTHS), "first"), features[:, 0])
    for kind in ("mean", "max"):
        assert not pool(tf.constant(wild), tf.zeros([4], tf.int32), kind).numpy().any()
        np.testing.assert_allclose(pool(tf.constant(features), None, kind), getattr(features, kind)(1), atol=1e-6)


def test_label_smoothing_and_class_weights_act_in_training_alone():
    model = make_head("classifier", "transformer")
    model.drop.rate = 0.0
    inputs, labels = batch_of(model)
    logits = model(inputs).numpy().astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nats = -log_probs[np.arange(4), labels]
    assert means_of(model, (inputs, labels))["loss"] == pytest.approx(nats.mean(), rel=1e-5)
    smooth = 0.9 * nats - 0.1 * log_probs.mean(1)
    weights = np.array([1.0, 2.0, 1.0])[labels]
    trained = means_of(model, (inputs, labels), training=True)
    assert trained["loss"] == pytest.approx((smooth * weights).sum() / weights.sum(), rel=1e-5)
    assert trained["accuracy"] == pytest.approx((logits.argmax(1) == labels.numpy()).mean())


def test_a_crf_reads_the_words_and_no_other_token():
    model = make_head("crf", "recurrent")
    words = np.array([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    tags = np.array([[1, 9, 2, 9, 9, 0], [9, 0, 1, 0, 9, 9], [9] * 6, [0, 9, 9, 9, 9, 9]], np.int32) % 9
    inputs = INPUTS | {"words": tf.constant(words)}
    logits = model(inputs).numpy()
    expected, count = 0.0, 0
    found = model.tags(inputs).numpy()
    for b, places in enumerate(([0, 2, 5], [1, 2, 3], [], [0])):  # real tokens that are words
        if places:
            lengths = tf.constant([len(places)])
            row, own = tf.constant(logits[b : b + 1, places]), tf.constant(tags[b : b + 1, places])
            expected -= float(model.chain(row, own, lengths)[0])
            count += len(places)
            np.testing.assert_array_equal(found[b, places], model.chain.best(row, lengths)[0][0])
        others = [t for t in range(6) if t not in places]
        assert not found[b, others].any()
    totals = model.batch_totals((inputs, tf.constant(tags)), training=True)
    np.testing.assert_allclose(totals["loss"], (expected, count), rtol=1e-5)


@pytest.mark.parametrize("crf", [False, True])
def test_only_valid_bio_comes_out(crf):
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    model = TokenTagger(BACKBONES["transformer"](), 5, crf=crf, tag_names=names)
    logits = tf.constant(np.random.default_rng(0).normal(size=(50, 7, 5)) * 4, tf.float32)
    lengths = tf.constant(np.random.default_rng(1).integers(1, 8, 50), tf.int32)
    for row, length in zip(model.decode(logits, lengths).numpy(), lengths.numpy(), strict=True):
        before = "O"
        for tag in (names[i] for i in row[:length]):
            assert tag[0] != "I" or before[1:] == tag[1:]
            before = tag
        assert not row[length:].any()
    best = logits.numpy().argmax(2)
    plain = TokenTagger(BACKBONES["transformer"](), 5)
    np.testing.assert_array_equal(plain.decode(logits, tf.fill([50], 7)), best)
    shares = model.shares(logits, tf.fill([50], 7)).numpy()
    np.testing.assert_allclose(shares.sum(2), 1.0, atol=1e-4)


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_the_best_span_is_that_of_all_spans(max_length):
    random = np.random.default_rng(0)
    logits = random.normal(size=(20, 9, 2)).astype(np.float32)
    logits[np.arange(9) >= random.integers(1, 10, 20)[:, None]] = -1e9
    found = [values.numpy() for values in best_spans(tf.constant(logits), max_length)]
    for b, row in enumerate(logits):
        spans = [(s, e) for s in range(9) for e in range(s, min(s + max_length, 9))]
        best = max(spans, key=lambda span: row[span[0], 0] + row[span[1], 1])
        assert (found[0][b], found[1][b]) == best
        assert found[2][b] == pytest.approx(row[best[0], 0] + row[best[1], 1])
    nowhere = best_spans(tf.fill([1, 4, 2], -1e9), max_length)
    assert [int(values[0]) for values in nowhere[:2]] == [-1, -1]


def test_answers_lie_in_the_context_and_compare_with_none():
    model = make_head("spans", "transformer")
    inputs = INPUTS | {"context_starts": tf.constant([2, 1, 2, 1]), "context_lengths": tf.constant([3, 3, 1, 0])}
    logits = model(inputs).numpy()
    assert logits.shape == (4, 7, 2)
    for b, allowed in enumerate(([2, 3, 4], [1, 2, 3], [2], [])):
        assert [t for t in range(6) if logits[b, t, 0] > -1e8] == allowed
    found = model.spans(inputs, max_length=2)
    for b in range(3):
        s, e = int(found["start"][b]), int(found["end"][b])
        assert e - s < 2
        expected = logits[b, s, 0] + logits[b, e, 1] - logits[b, 6].sum()
        assert float(found["score"][b]) == pytest.approx(expected, rel=1e-5)
    assert int(found["start"][3]) == -1 and float(found["score"][3]) < -1e8
    spans = tf.constant([[2, 3], [1, 1], [-1, -1], [-1, -1]])
    log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    places = [[2, 3], [1, 1], [6, 6], [6, 6]]
    expected = -np.mean([log_probs[b, place, i] for b, pair in enumerate(places) for i, place in enumerate(pair)])
    assert means_of(model, (inputs, spans))["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_contrastive_loss_is_that_of_numpy(symmetric):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 4))
    weights = np.array([1.0, 2.0, 0.0, 1.0, 0.5])
    totals = info_nce(*(tf.constant(x) for x in (a, b)), tf.constant(weights), temperature=0.5, symmetric=symmetric)
    scores, kept = a @ b.T / 0.5, weights > 0
    losses = []
    for table in (scores, scores.T):
        table = table[kept][:, kept]
        losses.append(np.log(np.exp(table).sum(1)) - np.diag(table))
    expected = np.mean(losses, 0) if symmetric else losses[0]
    np.testing.assert_allclose(totals["loss"], ((expected * weights[kept]).sum(), weights.sum()), rtol=1e-6)


def test_vectors_of_texts_have_length_one_unless_asked():
    backbone = BACKBONES["transformer"]()
    lengths = tf.norm(SentenceEmbedder(backbone)(INPUTS), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    plain = SentenceEmbedder(backbone, normalize=False)(INPUTS)
    np.testing.assert_allclose(plain, pool(backbone.features(INPUTS), tf.constant(LENGTHS), "mean"), atol=1e-6)


def test_the_vector_of_a_language_model_is_that_of_its_last_token():
    backbone = BACKBONES["transformer-lm"]()
    model = SentenceEmbedder(backbone, normalize=False)
    assert model.pooling == "last"
    for b, length in enumerate(LENGTHS):
        state = backbone.initial_state(1, 6)
        expected, _ = backbone.read(IDS[b : b + 1, :length], state, last=True)
        np.testing.assert_allclose(model(INPUTS)[b], expected[0, 0], atol=1e-5)


# ---------------------------------------------------------------- that they learn


def fitted(model, batch, steps=40, rate=0.03):
    model.compile(keras.optimizers.Adam(rate), jit_compile=False)
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(steps), verbose=0)
    return model.evaluate(tf.data.Dataset.from_tensors(batch), return_dict=True, verbose=0)


def drawn(rows=24, seed=3):
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, rows).astype(np.int32)
    ids = random.integers(0, VOCAB, (rows, 8)).astype(np.int32)
    return {"ids": ids, "lengths": lengths}


@pytest.mark.parametrize("backbone", ["recurrent-lm", pytest.param("transformer", marks=pytest.mark.slow)])
def test_a_class_is_learned(backbone):
    keras.utils.set_random_seed(0)
    inputs = drawn()
    labels = inputs["ids"][np.arange(24), inputs["lengths"] - 1] % 3  # of the last token
    assert fitted(TextClassifier(BACKBONES[backbone](), 3), (inputs, labels), 80)["accuracy"] > 0.9


def test_tags_that_need_the_next_token_and_their_order_are_learned():
    keras.utils.set_random_seed(0)
    inputs = drawn()
    begins = inputs["ids"] == 3
    tags = np.where(begins, 1, np.where(np.pad(begins[:, :-1], [[0, 0], [1, 0]]), 2, 0))  # an entity of two tokens
    model = TokenTagger(BACKBONES["recurrent"](), 3, crf=True, tag_names=["O", "B-X", "I-X"])
    found = fitted(model, (inputs, tags.astype(np.int32)))
    assert found["accuracy"] > 0.95


@pytest.mark.slow
def test_the_place_of_an_answer_is_learned():
    keras.utils.set_random_seed(0)
    inputs = drawn(16)
    inputs["ids"] = np.where(inputs["ids"] == 5, 6, inputs["ids"])
    place = np.random.default_rng(0).integers(0, inputs["lengths"]).astype(np.int32)
    place[::4] = -1
    inputs["ids"][place >= 0, place[place >= 0]] = 5  # the answer is the token 5
    spans = np.stack([place, place], 1)
    found = fitted(SpanExtractor(BACKBONES["recurrent"]()), (inputs, spans), 60, 0.05)
    assert found["accuracy"] > 0.9


@pytest.mark.slow
def test_partners_are_learned():
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    first = np.argsort(random.random((12, VOCAB)), 1)[:, :6].astype(np.int32)
    second = np.stack([random.permutation(row) for row in first])  # the same tokens in another order
    lengths = np.full(12, 6, np.int32)
    batch = ({"ids": first, "lengths": lengths}, {"ids": second, "lengths": lengths}, np.ones(12, np.float32))
    model = SentenceEmbedder(TransformerEncoder(VOCAB, 8, 16, 1, 2), symmetric=True)
    assert fitted(model, batch)["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: TextClassifier(keras.layers.Dense(1), 2), "backbone must be an Encoder or a LanguageModel; got"),
        (lambda b: TextClassifier(b, 0), "num_labels must be an int of at least 1; got 0"),
        (
            lambda b: TextClassifier(b, 2, pooling="cls"),
            r"pooling must be one of .* for a TransformerEncoder; got 'cls'",
        ),
        (lambda b: TextClassifier(b, 2, label_smoothing=1.0), r"label_smoothing must be in \[0, 1\); got 1.0"),
        (lambda b: TextClassifier(b, 2, class_weights=[1.0]), "class_weights must be num_labels=2 numbers"),
        (lambda b: TextClassifier(b, 2, class_weights=[1.0, -1.0]), r"at least 0; got \[1.0, -1.0\]"),
        (lambda b: TokenTagger(b, 2, tag_names=["O"]), "tag_names must be a list of num_labels=2 names; got"),
        (lambda b: TokenTagger(b, 2, tag_names=["O", "X"]), "tags must be 'O', 'B-' and a type .* got 'X'"),
        (lambda b: TokenTagger(b, 2, crf=True, label_smoothing=0.1), "must be left out with a CRF"),
        (lambda b: SentenceEmbedder(b, temperature=0), "temperature must be above 0; got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    if "encoder" not in _cache:
        _cache["encoder"] = BACKBONES["transformer"]()
    with pytest.raises(ValueError, match=message):
        make(_cache["encoder"])


def test_a_language_model_has_no_first_token_that_saw_the_text():
    with pytest.raises(ValueError, match=r"pooling must be one of \('mean', 'max', 'last'\) for a RecurrentLM"):
        TextClassifier(BACKBONES["recurrent-lm"](), 2, pooling="first")
