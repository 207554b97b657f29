"""Encoders: tokens see the whole text and nothing behind it, and masked tokens are learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import masked_language_model, text_dataset
from tfllm.layers import BidirectionalStack, SelfAttention
from tfllm.models import RecurrentEncoder, TransformerEncoder

VOCAB = 17
ENCODERS = {
    "learned": lambda **k: TransformerEncoder(VOCAB, 16, 8, 2, 2, use_bias=True, **k),
    "bert": lambda **k: TransformerEncoder(
        VOCAB,
        16,
        8,
        2,
        2,
        num_segments=2,
        embedding_norm=True,
        prediction_head=True,
        pre_norm=False,
        activation="gelu_exact",
        use_bias=True,
        **k,
    ),
    "rotary": lambda **k: TransformerEncoder(VOCAB, 16, 8, 1, 2, positions="rotary", norm="rms", **k),
    "sinusoidal": lambda **k: TransformerEncoder(VOCAB, 16, 8, 1, 2, positions="sinusoidal", **k),
    "lstm": lambda **k: RecurrentEncoder(VOCAB, "lstm", 8, 2, **k),
    "gru": lambda **k: RecurrentEncoder(VOCAB, "gru", 8, **k),
    "rnn": lambda **k: RecurrentEncoder(VOCAB, "rnn", 8, **k),
}
_cache = {}


def make_encoder(name, **arguments):
    keras.utils.set_random_seed(0)
    model = ENCODERS[name](**arguments)
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(float(weight.path.endswith(("gamma", "scale"))), 0.5, weight.shape))
    return model


@pytest.fixture(params=ENCODERS)
def encoder(request):
    if request.param not in _cache:
        _cache[request.param] = make_encoder(request.param, dropout=0.1)
    return _cache[request.param]


IDS = np.random.default_rng(1).integers(0, VOCAB, (3, 6)).astype(np.int32)
LENGTHS = np.array([6, 3, 1], np.int32)


def test_padding_changes_nothing_and_a_batch_is_its_rows_alone(encoder):
    features = encoder.features({"ids": IDS, "lengths": LENGTHS}).numpy()
    other = np.where(np.arange(6) < LENGTHS[:, None], IDS, 5)
    padded = np.pad(other, [[0, 0], [0, 2]], constant_values=7)
    again = encoder.features({"ids": padded, "lengths": LENGTHS}).numpy()
    for b, length in enumerate(LENGTHS):
        np.testing.assert_allclose(again[b, :length], features[b, :length], atol=1e-5)
        alone = encoder.features(IDS[b : b + 1, :length])
        np.testing.assert_allclose(alone[0], features[b, :length], atol=1e-5)


def test_every_token_sees_those_before_and_behind_it(encoder):
    before = encoder.features(IDS[:1]).numpy()
    for place in (0, 5):
        changed = IDS[:1].copy()
        changed[0, place] = (changed[0, place] + 1) % VOCAB
        assert (np.abs(encoder.features(changed).numpy() - before).max(2) > 1e-4).all()


def test_a_file_gives_the_same_model(encoder, tmp_path):
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(again({"ids": IDS, "lengths": LENGTHS}), encoder({"ids": IDS, "lengths": LENGTHS}))


def test_attention_both_ways_is_that_of_numpy():
    layer = SelfAttention(6, 2, causal=False, dtype="float64")
    layer.build((None, None, 6))
    random = np.random.default_rng(0)
    for weight in layer.weights:
        if weight.trainable:
            weight.assign(random.normal(size=weight.shape))
    x = random.normal(size=(2, 4, 6))
    found, _ = layer(tf.constant(x), lengths=tf.constant([4, 2]))
    joint = x @ layer.query_key_value.kernel.numpy() + layer.query_key_value.bias.numpy()
    for b, length in enumerate((4, 2)):
        query, key, value = np.split(joint[b, :length], 3, 1)  # [T, 6] each, two heads of 3 side by side
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            scores = np.exp(query[:, head] @ key[:, head].T / np.sqrt(3))
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, head])
        expected = np.concatenate(heads, 1) @ layer.output_projection.kernel.numpy()
        np.testing.assert_allclose(
            found[b, :length], expected + layer.output_projection.bias.numpy(), atol=1e-9, rtol=0
        )


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("training", [False, True])
def test_both_ways_are_those_of_keras(cell, training):
    stack = BidirectionalStack(cell, 8)
    stack.build((None, None, 5))
    kind = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "rnn": keras.layers.SimpleRNN}[cell]
    theirs = keras.layers.Bidirectional(kind(4, return_sequences=True))
    x = np.random.default_rng(0).normal(size=(3, 6, 5)).astype(np.float32)
    mask = np.arange(6) < LENGTHS[:, None]
    theirs(x, mask=mask)
    for ours, their in ((stack.forwards, theirs.forward_layer), (stack.backwards, theirs.backward_layer)):
        their.set_weights([weight.numpy() for weight in ours[0].stack[0].weights])
    expected = theirs(x, mask=mask).numpy()
    found = stack(x, lengths=tf.constant(LENGTHS), training=training).numpy()
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        pytest.param(lambda: RecurrentEncoder(10, "gru", 16), 0.05, marks=pytest.mark.slow),
        pytest.param(lambda: TransformerEncoder(10, 16, 16, 1, 2), 0.02, marks=pytest.mark.slow),
    ],
)
def test_masked_tokens_are_learned(make, rate):
    tokenizer = tfllm.CharTokenizer("abcdefgh", special_tokens=("<unk>", "<mask>"))
    texts = ["abcdefgh"[i:] + "abcdefgh"[:i] for i in range(8)] + ["abc", "efgh"]  # the next letter of the alphabet
    texts = text_dataset(texts, tokenizer, batch_size=10, num_buckets=1, multiple=1, epochs=200)
    batches = masked_language_model(texts, tokenizer, mask_id=1, rate=0.25)
    inputs, targets, weights = next(iter(batches))
    real = np.arange(8) < inputs["lengths"].numpy()[:, None]
    assert not weights.numpy()[~real].any() and not targets.numpy()[~real].any()
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(keras.optimizers.Adam(rate), jit_compile=False)
    history = model.fit(batches, verbose=0).history
    assert set(history) == {"loss", "accuracy"}
    found = model.evaluate(batches.take(8), return_dict=True, verbose=0)
    assert found["accuracy"] > 0.7 and found["loss"] < 1 < np.log(8)  # nats of a guess among the letters


def test_bad_ids_are_refused_before_they_are_read():
    model = TransformerEncoder(VOCAB, 4, 8, 1, 2)
    with pytest.raises(ValueError, match=r"must lie in \[0, vocab_size=17\); got 17"):
        model.features([[17]])
    with pytest.raises(ValueError, match="at most max_length=4 tokens; got 5"):
        model.features(np.zeros((1, 5), np.int32))
    with pytest.raises(
        ValueError, match=r"a dict of 'ids', 'lengths' and 'segments'; got one of \['documents', 'ids'\]"
    ):
        model.features({"ids": [[1]], "documents": [[1]]})
    loose = tf.function(model.features, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most max_length=4 tokens; got"):
        loose(tf.zeros([1, 5], tf.int32))
    model.compile(run_eagerly=True)
    inputs = {"ids": [[1, 2]], "lengths": [2]}
    for change, message in (
        (({"ids": [[1, 17]], "lengths": [2]}, [[1, 2]], [[1.0, 0.0]]), r"inputs must lie in \[0, vocab_size=17\); got"),
        (({"ids": [[1, 2]], "lengths": [3]}, [[1, 2]], [[1.0, 0.0]]), r"lengths must lie in \[0, T \+ 1\); got"),
        ((inputs, [[-1, 2]], [[1.0, 0.0]]), r"targets must lie in \[0, vocab_size=17\); got"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            model.fit(tf.data.Dataset.from_tensors(change), verbose=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecurrentEncoder(9, dim=7), "dim must be even, half of it for each direction; got 7"),
        (lambda: RecurrentEncoder(9, cell="lstn"), "cell must be one of"),
        (lambda: TransformerEncoder(9, positions="alibi"), "positions must be one of"),
        (lambda: TransformerEncoder(9, max_length=0), "max_length must be at least 1"),
        (
            lambda: TransformerEncoder(9, activation="swiglu", prediction_head=True),
            "one projection with a prediction_head",
        ),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
