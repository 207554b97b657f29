"""Every loss against central differences in float64, along random directions through all weights of real models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.models import WithDraftHeads, multi_token_loss
from tfllm.training import (
    gradient_step,
    lm_loss,
    make_dpo_loss,
    make_lm_loss,
    make_policy_loss,
    make_risk_loss,
    make_scheduled_sampling_loss,
    token_log_probs,
)

VOCAB = 7
MODELS = {
    "gru": lambda: tfllm.RecurrentLM(VOCAB, "gru", 5, tied_embeddings=True, dtype="float64"),
    "lstm": lambda: tfllm.RecurrentLM(VOCAB, "lstm", 5, dtype="float64"),
    "gpt2": lambda: tfllm.TransformerLM(VOCAB, 8, 8, 1, 2, use_bias=True, dtype="float64"),
    "llama": lambda: tfllm.TransformerLM(
        VOCAB, 8, 8, 1, 4, num_kv_heads=2, positions="rotary", norm="rms", activation="swiglu", dtype="float64"
    ),
}


def make_model(name, seed=0):
    model = MODELS[name]()
    randomize(model, seed)
    return model


def randomize(model, seed):
    random = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(weight.value + random.normal(0, 0.5, weight.shape))


def make_texts(rows=4, length=6, seed=0):
    random = np.random.default_rng(seed)
    ids = random.integers(0, VOCAB, (rows, length + 1)).astype(np.int32)
    weights = random.choice([0.0, 0.5, 1.0], (rows, length)).astype(np.float32)
    weights[:, 0] = 1
    return ids[:, :-1], ids[:, 1:], weights


def packed_texts():
    ids, targets, weights = make_texts()
    documents = np.array([[1, 1, 2, 2, 2, 0], [1] * 6, [1, 2, 3, 3, 3, 3], [1, 1, 1, 1, 2, 2]], np.int32)
    return {"ids": ids, "documents": documents}, targets, weights


def policy_batch(model, shift=0.0):
    """Texts with advantages, drawn at probabilities off by up to `shift` nats, none of them near the edge of the clip."""
    texts, random = make_texts(seed=3), np.random.default_rng(4)
    drawn = token_log_probs(model, texts)[0] + shift * random.choice([-1.0, -0.3, 0.3, 1.0], texts[1].shape)
    return (*texts, random.normal(0, 1, 4), drawn)


def scheduled(draws):
    return make_scheduled_sampling_loss(0.4, draws=draws, step=lambda: tf.constant(5, tf.int64))


LOSSES = {  # name: function of a model to (loss, batch)
    "next token": lambda model: (lm_loss, make_texts()),
    "packed": lambda model: (lm_loss, packed_texts()),
    "label smoothing and z-loss": lambda model: (make_lm_loss(0.1, 0.02), make_texts()),
    "chunks": lambda model: (make_lm_loss(chunk_tokens=5), make_texts()),
    "chunks, label smoothing and z-loss": lambda model: (make_lm_loss(0.1, 0.02, 5), make_texts()),
    "preferences": lambda model: (
        make_dpo_loss(make_model("gru", 1), 0.7, 0.1),
        (make_texts(seed=1), make_texts(seed=2)),
    ),
    "reinforce": lambda model: (make_policy_loss(), policy_batch(model)),
    "clipped": lambda model: (make_policy_loss(clip=0.5), policy_batch(model, 0.9)),
    "near the reference": lambda model: (
        make_policy_loss(clip=0.5, reference=make_model("lstm", 1), kl=0.3),
        policy_batch(model, 0.9),
    ),
    "minimum risk": lambda model: (make_risk_loss(0.5), (*make_texts(), [[0.1, 0.9], [0.4, -0.2]])),
    "scheduled sampling": lambda model: (scheduled("parallel"), make_texts()),
    "scheduled sampling in turn": lambda model: (scheduled("sequential"), make_texts()),
}


def assert_gradient_is_right(model, loss_fn, batch, training=True, h=1e-5):
    variables = list(model.trainable_variables)

    def mean():
        total, weight = loss_fn(model, batch, training=training)["loss"]
        assert total.dtype == tf.float64
        return total / tf.cast(weight, tf.float64)

    with tf.GradientTape() as tape:
        value = mean()
    gradients = [tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(value, variables)]
    assert max(np.abs(gradient).max() for gradient in gradients) > 1e-3
    random, values = np.random.default_rng(0), [variable.numpy() for variable in variables]
    for _ in range(2):
        directions = [random.normal(0, 1, value.shape) for value in values]
        around = []
        for sign in (1, -1):
            for variable, value, direction in zip(variables, values, directions, strict=True):
                variable.assign(value + sign * h * direction)
            around.append(float(mean()))
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        assert (around[0] - around[1]) / (2 * h) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("gpt2", name) for name in LOSSES),
        *(("gru", name) for name in ("packed", "chunks", "scheduled sampling in turn")),
    ],
)
def test_gradients_are_those_of_central_differences(kind, name):
    model = make_model(kind)
    assert_gradient_is_right(model, *LOSSES[name](model))


@pytest.mark.parametrize("kind", ["lstm", "llama", "gru"])
def test_other_models(kind):
    assert_gradient_is_right(make_model(kind), make_lm_loss(0.1, 0.02), make_texts())


def test_chunks_without_training():  # whose gradient is computed when it is asked for
    assert_gradient_is_right(make_model("gru"), make_lm_loss(chunk_tokens=5), make_texts(), training=False)


def test_draft_heads():
    heads = WithDraftHeads(make_model("gpt2"), 2, dtype="float64")
    randomize(heads, 1)
    assert_gradient_is_right(heads, multi_token_loss, make_texts())


def test_a_step_moves_float64_weights_along_the_gradient():
    model, batch = make_model("gru"), make_texts()
    before = [variable.numpy() for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        total, weight = lm_loss(model, batch)["loss"]
        mean = total / tf.cast(weight, tf.float64)
    gradients = tape.gradient(mean, [variable.value for variable in model.trainable_variables])
    gradient_step(model, keras.optimizers.SGD(0.5), batch, clip_norm=None, accumulate=2)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.5 * tf.convert_to_tensor(gradient), rtol=1e-6, atol=1e-8)
