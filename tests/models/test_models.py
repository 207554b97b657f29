"""What single models refuse, and what is left of them in files."""

import keras
import pytest
import tensorflow as tf

import tfllm


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfllm.RecurrentLM(9, cell="lstn"), r"cell must be one of \['gru', 'lstm', 'rnn'\]; got 'lstn'"),
        (lambda: tfllm.RecurrentLM(9, dim=8, embedding_dim=4, tied_embeddings=True), "must equal dim=8 .* got 4"),
        (lambda: tfllm.TransformerLM(9, dim=10, num_heads=4), "divisible by num_heads; got dim=10, num_heads=4"),
        (lambda: tfllm.TransformerLM(9, dim=12, num_heads=4, num_kv_heads=3), "num_kv_heads; got 4 and 3"),
        (lambda: tfllm.TransformerLM(9, dim=12, num_heads=4, positions="rotary"), "must be even for rotary"),
        (lambda: tfllm.TransformerLM(9, dim=9, num_heads=3, positions="sinusoidal"), "dim must be even .* got 9"),
        (lambda: tfllm.TransformerLM(9, positions="alibi"), "positions must be one of .* got 'alibi'"),
        (lambda: tfllm.TransformerLM(9, norm="batch"), "norm must be one of .* got 'batch'"),
        (lambda: tfllm.TransformerLM(9, activation="tanh"), "activation must be one of .* got 'tanh'"),
        (lambda: tfllm.TransformerLM(9, head_dim=0), "head_dim must be at least 1; got 0"),
        (lambda: tfllm.TransformerLM(9, head_dim=3, positions="rotary"), "head_dim must be even .* got 3"),
        (lambda: tfllm.TransformerLM(9, positions="rotary", rotary_factor=0.5), "rotary_factor must be .* got 0.5"),
        (
            lambda: tfllm.TransformerLM(9, positions="rotary", rotary_original_length=8, rotary_low_factor=4.0),
            "rotary_low_factor must be above 0 and below rotary_high_factor; got 4.0 and 4.0",
        ),
        (lambda: tfllm.TransformerLM(9, max_length=1), "max_length must be at least 2; got 1"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_more_tokens_than_positions_are_refused():
    model = tfllm.TransformerLM(9, max_length=4, dim=8, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="at most max_length=4 tokens; got 5"):
        model(tf.zeros([1, 5], tf.int32))
    with pytest.raises(ValueError, match="slots must be at most max_length=4; got 5"):
        model.initial_state(1, 5)
    with pytest.raises(ValueError, match="ids must fit into the state's 4 slots; got 5 tokens"):
        model.step(tf.zeros([2, 5], tf.int32), model.initial_state(2, 4))
    loose = tf.function(model, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most max_length=4 tokens; got"):
        loose(tf.zeros([1, 5], tf.int32))


def test_ids_that_are_not_whole_are_refused():
    for dtype in ("float32", "mixed_bfloat16"):
        with pytest.raises(ValueError, match="ids must be whole numbers; got float32"):
            tfllm.RecurrentLM(9, dim=8, dtype=dtype)(tf.constant([[1.0]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"ids": [[1, 2]], "documents": [[1, 3]]}, r"documents must lie in \[0, T=2\]; got 3"),
        ({"ids": [[1, 2]], "documents": [[1, -1]]}, r"documents must lie in \[0, T=2\]; got -1"),
        ({"ids": [[1, 2]], "documents": [[1, 1, 2]]}, r"in the shape \(1, 2\) of ids; got int32 of shape \(1, 3\)"),
        ({"ids": [[1, 2]], "documents": [[1.0, 1.0]]}, "documents must be whole numbers .* got float32"),
        ({"ids": [[1, 2]]}, r"a dict of 'ids' and 'documents'; got a dict of \['ids'\]"),
        ({"ids": [[1, 9]], "documents": [[1, 1]]}, r"ids must lie in \[0, vocab_size=9\); got 9"),
    ],
)
def test_bad_packed_rows_are_refused(inputs, message):
    model = tfllm.RecurrentLM(9, dim=8)
    with pytest.raises(ValueError, match=message):
        model({name: tf.constant(value) for name, value in inputs.items()})


@pytest.mark.parametrize(
    ("ids", "documents", "targets", "message"),
    [
        ([[1, 9]], [[1, 1]], [[1, 1]], r"inputs must lie in \[0, vocab_size=9\)"),
        ([[1, 1]], [[1, 3]], [[1, 1]], r"documents must lie in \[0, T \+ 1\)"),
        ([[1, 1]], [[1, 1]], [[1, -1]], r"targets must lie in \[0, vocab_size=9\)"),
    ],
)
def test_fit_refuses_bad_packed_rows(ids, documents, targets, message):
    model = tfllm.RecurrentLM(9, dim=8)
    model.compile()
    batch = ({"ids": tf.constant(ids), "documents": tf.constant(documents)}, tf.constant(targets), tf.ones([1, 2]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)


def test_weights_exist_from_the_constructor_on(tmp_path):
    model = tfllm.RecurrentLM(9, dim=8)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tf.debugging.assert_near(loaded(tf.constant([[1, 2]])), model(tf.constant([[1, 2]])))


def test_fewer_key_value_heads_make_a_smaller_cache():
    sizes = {}
    for heads in (4, 1):
        model = tfllm.TransformerLM(9, 16, 16, 1, 4, num_kv_heads=heads)
        sizes[heads] = model.initial_state(2, 16)["layers"][0]["k"].shape
    assert sizes == {4: [2, 4, 16, 4], 1: [2, 1, 16, 4]}
