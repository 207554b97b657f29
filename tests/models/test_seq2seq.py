"""Encoder-decoders: the promises of the contract, attention and copying against NumPy, and that they learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, assert_same, copy_of

import tfllm
from tfllm.data import pair_dataset
from tfllm.layers import CrossAttention, copy_probabilities, length_mask
from tfllm.training import lm_loss

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SOURCE_VOCAB = 11
MODELS = {
    "transformer": lambda **k: tfllm.TransformerSeq2Seq(VOCAB, 16, 8, 2, 2, num_encoder_layers=1, **k),
    "post-norm": lambda **k: tfllm.TransformerSeq2Seq(
        VOCAB,
        16,
        8,
        1,
        2,
        source_vocab_size=SOURCE_VOCAB,
        max_source_length=9,
        positions="sinusoidal",
        pre_norm=False,
        activation="relu",
        use_bias=True,
        tied_embeddings=False,
        **k,
    ),
    "transformer-copy": lambda **k: tfllm.TransformerSeq2Seq(VOCAB, 16, 8, 1, 2, positions="rotary", copy=True, **k),
    "gru": lambda **k: tfllm.RecurrentSeq2Seq(VOCAB, "gru", 8, 2, source_vocab_size=SOURCE_VOCAB, **k),
    "lstm-copy": lambda **k: tfllm.RecurrentSeq2Seq(
        VOCAB, "lstm", 8, 2, num_encoder_layers=1, tied_embeddings=True, copy=True, **k
    ),
}
_cache = {}


def make_seq2seq(name, seed=0, **arguments):
    """Makes a model of the list with weights large enough that texts vary."""
    keras.utils.set_random_seed(seed)
    model = MODELS[name](**arguments)
    random = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        centre = np.ones(weight.shape) if weight.path.endswith(("gamma", "scale")) else np.zeros(weight.shape)
        weight.assign(random.normal(centre, 0.6 if "transformer" in name or name == "post-norm" else 1.0))
    return model


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    """Every model of the list; tests must not change its weights."""
    if name not in _cache:
        _cache[name] = make_seq2seq(name)
    return _cache[name]


@pytest.fixture
def inputs():
    """Three texts of 6 tokens for sources of 5, 3 and 1, behind which stands anything."""
    random = np.random.default_rng(1)
    return {
        "source": tf.constant(random.integers(0, SOURCE_VOCAB, (3, 5)), tf.int32),
        "source_lengths": tf.constant([5, 3, 1]),
        "ids": tf.constant(random.integers(0, VOCAB, (3, 6)), tf.int32),
    }


def begun(model, inputs, slots=9):
    context = model.encode(inputs["source"], inputs["source_lengths"])
    return model.initial_state(len(inputs["ids"]), slots, context)


# -------------------------------------------------------------------- the contract


@pytest.mark.parametrize("chunks", [[1] * 6, [3, 1, 2]])
def test_steps_of_any_size_equal_one_call(model, inputs, chunks):
    state, pieces, at = begun(model, inputs), [], 0
    for size in chunks:
        logits, state = model.step(inputs["ids"][:, at : at + size], state)
        pieces.append(logits)
        at += size
    whole = model(inputs)
    assert (whole.shape, whole.dtype) == ((3, 6, VOCAB), tf.float32)
    np.testing.assert_allclose(tf.concat(pieces, 1), whole, **CLOSE)
    np.testing.assert_array_equal(state["position"], [6, 6, 6])


def test_a_ragged_row_equals_the_row_alone(model, inputs):
    """Neither the padding of a source nor that of a text, nor another row, changes anything."""
    lengths = [6, 2, 4]
    logits, state = model.step(inputs["ids"], begun(model, inputs), tf.constant(lengths))
    following, _ = model.step(inputs["ids"][:, :1], state)
    whole = model(inputs)
    for row, length in enumerate(lengths):
        size = int(inputs["source_lengths"][row])
        ids, source = inputs["ids"][row : row + 1], inputs["source"][row : row + 1, :size]
        alone = {"ids": ids, "source": source, "source_lengths": tf.constant([size])}
        np.testing.assert_allclose(whole[row], model(alone)[0], **CLOSE)
        expected, state = model.step(ids[:, :length], begun(model, alone))
        np.testing.assert_allclose(logits[row, :length], expected[0], **CLOSE)
        np.testing.assert_allclose(following[row], model.step(ids[:, :1], state)[0][0], **CLOSE)


def test_logits_see_no_later_token_but_the_whole_source(model, inputs):
    ids, source = inputs["ids"], inputs["source"]
    changed = model(inputs | {"ids": tf.concat([ids[:, :4], (ids[:, 4:] + 1) % VOCAB], 1)})
    np.testing.assert_allclose(changed[:, :4], model(inputs)[:, :4], **CLOSE)
    other = model(inputs | {"source": tf.concat([source[:, :4], (source[:, 4:] + 1) % SOURCE_VOCAB], 1)})
    different = np.abs(other - model(inputs)).max(-1)
    assert (different[0] > 1e-4).all() and (different[1:] < 1e-4).all()  # the others end before that place


def test_step_leaves_the_old_state_untouched_and_rows_of_length_zero_stand_still(model, inputs):
    ids = inputs["ids"]
    _, state = model.step(ids[:, :2], begun(model, inputs))
    before = copy_of(state)
    _, moved = model.step(ids[:, 2:4], state, tf.constant([2, 0, 1]))
    assert_same(before, state, rtol=0)
    found, expected = (model.step(ids[:, 4:5], one)[0] for one in (moved, state))
    np.testing.assert_allclose(found[1], expected[1], **CLOSE)
    np.testing.assert_array_equal(moved["position"], [4, 2, 3])


def test_gradients_reach_every_weight(model, inputs):
    with tf.GradientTape() as tape:
        total, _ = lm_loss(model, (inputs, inputs["ids"], tf.ones([3, 6])))["loss"]
    gradients = tape.gradient(total, [weight.value for weight in model.trainable_weights])
    silent = [w.path for w, g in zip(model.trainable_weights, gradients, strict=True) if g is None or not np.any(g)]
    assert not silent


def test_the_encoder_s_own_head_adds_no_weights_and_one_vocabulary_is_one_embedding(model):
    tables = [tuple(w.shape) for w in model.weights if w.path.endswith("embeddings")]
    separate = model.source_vocab_size is not None
    assert sorted(tables) == sorted([(VOCAB, 8)] + [(SOURCE_VOCAB, 8)] * separate)
    assert (model.encoder.embedding is model.embedding) == (not separate)


@pytest.mark.parametrize("name", ["post-norm", "lstm-copy"])
def test_keras_file_round_trip(name, model, inputs, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_allclose(loaded(inputs), model(inputs), atol=1e-6)


@pytest.mark.slow
def test_mixed_precision_stays_close_and_xla_trains(name, inputs):
    mixed = make_seq2seq(name, dtype="mixed_bfloat16")
    exact = np.asarray(make_seq2seq(name)(inputs))
    assert np.mean(np.abs(mixed(inputs) - exact)) < 0.1 * np.std(exact)
    model = make_seq2seq(name, dropout=0.1)
    step = tfllm.training.make_train_step(model, keras.optimizers.Adam(0.03), jit_compile=True)
    batch = inputs, inputs["ids"], tf.ones([3, 6])
    first = float(lm_loss(model, batch, training=False)["loss"][0])
    for _ in range(20):
        step(batch)
    assert float(lm_loss(model, batch, training=False)["loss"][0]) < 0.7 * first


# -------------------------------------------------------------------- attention and copying


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_cross_attention_against_numpy():
    layer, random = CrossAttention(6, 2), np.random.default_rng(0)
    x, features = random.normal(size=(2, 3, 6)).astype("f"), random.normal(size=(2, 4, 6)).astype("f")
    layer.build((2, 3, 6))
    for weight in layer.trainable_weights:
        weight.assign(random.normal(size=weight.shape))
    lengths = [4, 2]
    found, weights = layer(x, layer.read(features), length_mask(tf.constant(lengths), 4), return_weights=True)

    def project(part, inputs):
        return inputs @ np.asarray(part.kernel.value) + np.asarray(part.bias.value)

    for row, length in enumerate(lengths):
        query = project(layer.query, x[row])
        key, value = np.split(project(layer.key_value, features[row, :length]), 2, 1)
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            shares = softmax(query[:, head] @ key[:, head].T / np.sqrt(3))
            np.testing.assert_allclose(weights[row, head.start // 3, :, :length], shares, atol=1e-5)
            heads.append(shares @ value[:, head])
        np.testing.assert_allclose(found[row], project(layer.output_projection, np.concatenate(heads, 1)), atol=1e-4)
    assert not np.any(weights[1, :, :, 2:])


def test_the_recurrent_decoder_against_numpy(inputs):
    """Luong et al. 2015, section 3, one token after the other, on the encoder's features of each row alone."""
    keras.utils.set_random_seed(3)
    model = tfllm.RecurrentSeq2Seq(VOCAB, "rnn", 6, 1)
    recurrence = model.recurrence
    (layer,) = recurrence.recurrence.stack
    kernel, recurrent, bias = (np.asarray(weight.value) for weight in layer.cell.weights)
    begin, key, combine = recurrence.begin, *(np.asarray(p.kernel.value) for p in (recurrence.key, recurrence.combine))
    logits, attention = model(inputs), model.attention(inputs)[:, 0, 0]
    for row in range(3):
        size = int(inputs["source_lengths"][row])
        memory = model.encoder.features(inputs["source"][row : row + 1, :size])[0].numpy()
        first = np.concatenate([memory[-1, :3], memory[0, 3:]])  # what each direction gave last
        hidden = np.tanh(first @ np.asarray(begin.kernel.value) + np.asarray(begin.bias.value))
        fed = np.zeros(6)
        for t, token in enumerate(inputs["ids"][row].numpy()):
            x = np.concatenate([np.asarray(model.embedding.embeddings.value)[token], fed])
            hidden = np.tanh(x @ kernel + hidden @ recurrent + bias)
            shares = softmax(hidden @ (memory @ key).T)
            fed = np.tanh(np.concatenate([shares @ memory, hidden]) @ combine)
            np.testing.assert_allclose(attention[row, t, :size], shares, atol=1e-5)
            np.testing.assert_allclose(logits[row, t], fed @ np.asarray(model.projection.kernel.value), atol=1e-5)


@pytest.mark.parametrize("name", ["transformer-copy", "lstm-copy"])
def test_the_mixture_of_writing_and_copying_against_numpy(name, model, inputs):
    features = model.features(inputs).numpy()
    own, log_odds, copied = np.split(features, [8, 9], -1)
    if name == "lstm-copy":  # its copies come from the attention that it shows
        attention = model.attention(inputs).numpy()[:, 0, 0]
        expected = np.zeros([3, 6, VOCAB], "f")
        for row in range(3):
            for t in range(6):
                np.add.at(expected[row, t], inputs["source"][row].numpy(), attention[row, t])
        np.testing.assert_allclose(copied, expected, atol=1e-6)
    np.testing.assert_allclose(copied.sum(-1), 1, atol=1e-5)
    for row, size in enumerate(inputs["source_lengths"].numpy()):
        absent = set(range(VOCAB)) - set(inputs["source"][row, :size].numpy())
        assert not copied[row][:, list(absent)].any()
    written = softmax(own @ np.asarray(model.embedding.embeddings.value).T)
    share = 1 / (1 + np.exp(-log_odds))
    found = np.exp(model(inputs).numpy())
    np.testing.assert_allclose(found, share * written + (1 - share) * copied, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-4)


def test_places_of_one_token_add_up():
    random = np.random.default_rng(0)
    weights, source = random.random((2, 3, 5)).astype("f"), random.integers(0, 4, (2, 5)).astype("i")
    expected = np.einsum("bts,bsv->btv", weights, np.eye(7)[source])
    np.testing.assert_allclose(copy_probabilities(tf.constant(weights), tf.constant(source), 7), expected, atol=1e-6)


def test_attention_is_over_the_real_places(model, inputs):
    attention = model.attention(inputs).numpy()
    assert attention.shape[0] == 3 and attention.shape[3:] == (6, 5)
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    assert not attention[1, ..., 3:].any() and not attention[2, ..., 1:].any()


# -------------------------------------------------------------------- bad input


def test_bad_input_is_refused():
    model = tfllm.TransformerSeq2Seq(VOCAB, 6, 8, 1, 2, source_vocab_size=5, max_source_length=4)
    good = {"source": [[1, 2]], "source_lengths": [2], "ids": [[1]]}
    for wrong, sentence in (
        (
            {"ids": [[1]], "source": [[1]]},
            r"inputs must be a dict of 'ids', 'source' and 'source_lengths'; got a dict of",
        ),
        ([[1, 2]], r"'source_lengths'; got list"),
        (good | {"source": [[5]], "source_lengths": [1]}, r"ids must lie in \[0, vocab_size=5\); got 5"),
        (good | {"ids": [[VOCAB]]}, rf"ids must lie in \[0, vocab_size={VOCAB}\); got {VOCAB}"),
        (good | {"ids": [[1] * 7]}, r"at most max_length=6 tokens; got 7"),
        (good | {"source": [[1] * 5]}, r"at most max_length=4 tokens; got 5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            model.features(wrong)
    with pytest.raises(ValueError, match=r"context must be what encode returned; got None"):
        model.initial_state(1, 4)
    with pytest.raises(ValueError, match=r"source_vocab_size must be None for copy, which needs one vocabulary; got 5"):
        tfllm.RecurrentSeq2Seq(VOCAB, dim=4, source_vocab_size=5, copy=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="source must lie in"):
        model._check_batch(good | {"source": tf.constant([[9, 2]])}, tf.constant([[1]]))


# -------------------------------------------------------------------- learning

BEGIN, END = 1, 2


def reversals(random, count, low, high):
    """Returns (sources, the same the other way round), lists of ids in [low, high)."""
    sources = [random.integers(low, high, random.integers(2, 6)).tolist() for _ in range(count)]
    return sources, [source[::-1] for source in sources]


def answers(model, sources, **settings):
    rows = tf.ragged.constant(sources)
    prompts = {"ids": tf.fill([len(sources), 1], BEGIN), "lengths": tf.ones([len(sources)], tf.int32)}
    prompts |= {"source": tf.cast(rows.to_tensor(), tf.int32), "source_lengths": tf.cast(rows.row_lengths(), tf.int32)}
    settings = tfllm.generation.make_settings(len(sources), model.vocab_size, temperature=0, max_new_tokens=8)
    found = tfllm.generation.generate_ids(model, prompts, settings, tfllm.generation.Vocabulary(END), 8)
    return [row[:size].tolist() for row, size in zip(found["ids"].numpy(), found["count"].numpy(), strict=True)]


LEARNERS = {
    "transformer": lambda: tfllm.TransformerSeq2Seq(13, 16, 32, 1, 4),
    "lstm": lambda: tfllm.RecurrentSeq2Seq(13, "lstm", 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LEARNERS)
def test_it_learns_to_turn_sequences_round(kind):
    keras.utils.set_random_seed(0)
    model, random = LEARNERS[kind](), np.random.default_rng(0)
    batches = pair_dataset(
        *reversals(random, 2000, 3, 13), begin_id=BEGIN, end_id=END, batch_size=50, num_buckets=1, multiple=1, epochs=30
    )
    model.compile(keras.optimizers.Adam(0.005))
    loss = model.fit(batches, verbose=0).history["loss"]
    assert loss[0] < np.log(13)
    sources, targets = reversals(random, 50, 3, 13)
    right = np.mean([found == target for found, target in zip(answers(model, sources), targets, strict=True)])
    print(kind, "turned round:", right)
    assert right >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_copying_reaches_tokens_that_were_never_learned(kind, copy):
    """Sources are repeated; half of the vocabulary comes in no text of the training.

    Measured: 64 % of them by the Transformer, which finds places by their positions, and 20 % by the recurrent decoder, whose
    attention knows nothing but features, which new tokens change.
    """
    keras.utils.set_random_seed(0)
    if kind == "transformer":
        model = tfllm.TransformerSeq2Seq(23, 16, 32, 1, 4, copy=copy)
    else:
        model = tfllm.RecurrentSeq2Seq(23, "gru", 32, copy=copy)
    random = np.random.default_rng(0)
    sources, _ = reversals(random, 2000, 3, 13)
    batches = pair_dataset(
        sources, sources, begin_id=BEGIN, end_id=END, batch_size=50, num_buckets=1, multiple=1, epochs=20
    )
    model.compile(keras.optimizers.Adam(0.005))
    model.fit(batches, verbose=0)
    new = [[*source, int(random.integers(13, 23))] for source in reversals(random, 50, 3, 13)[0]]
    right = np.mean([source[-1] in found for found, source in zip(answers(model, new), new, strict=True)])
    print(kind, copy, "unseen tokens copied:", right)
    assert right >= {"transformer": 0.5, "recurrent": 0.1}[kind] if copy else right == 0
