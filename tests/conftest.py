"""What several test files need: tiny models, listed once, and a model whose answers a person can read."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm

VOCAB = 17
MODELS = {
    "rnn": lambda **k: tfllm.RecurrentLM(VOCAB, "rnn", 12, 2, **k),
    "gru": lambda **k: tfllm.RecurrentLM(VOCAB, "gru", 12, 2, **k),
    "lstm": lambda **k: tfllm.RecurrentLM(VOCAB, "lstm", 12, 1, embedding_dim=8, **k),
    "lstm-tied": lambda **k: tfllm.RecurrentLM(VOCAB, "lstm", 12, 2, tied_embeddings=True, **k),
    "gpt2": lambda **k: tfllm.TransformerLM(VOCAB, 32, 16, 2, 4, use_bias=True, **k),
    "post-norm": lambda **k: tfllm.TransformerLM(
        VOCAB, 32, 16, 2, 2, positions="sinusoidal", pre_norm=False, activation="relu", use_bias=True, **k
    ),
    "llama": lambda **k: tfllm.TransformerLM(
        VOCAB,
        32,
        16,
        2,
        4,
        num_kv_heads=2,
        hidden_dim=24,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        tied_embeddings=False,
        **k,
    ),
    "qwen3": lambda **k: tfllm.TransformerLM(
        VOCAB,
        32,
        16,
        1,
        4,
        num_kv_heads=2,
        head_dim=6,
        hidden_dim=24,
        positions="rotary",
        rotary_factor=4.0,
        rotary_original_length=8,
        norm="rms",
        activation="swiglu",
        qkv_bias=True,
        qk_norm=True,
        **k,
    ),
}


def make_model(name, seed=0, **arguments):
    """Makes a model of the list with weights large enough that greedy text varies."""
    keras.utils.set_random_seed(seed)
    model = MODELS[name](dropout=0.1, **arguments)
    random = np.random.default_rng(seed)
    for weight in model.trainable_weights:
        centre = np.ones(weight.shape) if weight.path.endswith(("gamma", "scale")) else np.zeros(weight.shape)
        weight.assign(random.normal(centre, 0.6 if "transformer" in weight.path else 1.2))
    return model


_cache = {}


@pytest.fixture(params=MODELS)
def model(request):
    """Every model of the list; tests must not change its weights."""
    if request.param not in _cache:
        _cache[request.param] = make_model(request.param)
    return _cache[request.param]


@pytest.fixture(params=MODELS)
def model_name(request):
    return request.param


@pytest.fixture
def tokenizer():
    """A tokenizer with as many ids as the models of the list."""
    return tfllm.CharTokenizer("abcdefghijklmno ")


def shared_generator(name, jit_compile=False):
    """A generator around a model of the list that keeps its programs from test to test: tracing one takes seconds."""
    key = name, jit_compile
    if key not in _generators:
        tokenizer = tfllm.CharTokenizer("abcdefghijklmno ")
        _generators[key] = tfllm.TextGenerator(make_model(name), tokenizer, jit_compile=jit_compile)
    return _generators[key]


_generators = {}


@pytest.fixture
def ids():
    return tf.constant(np.random.default_rng(1).integers(0, VOCAB, (3, 7)), tf.int32)


class ScriptedModel:
    """A model that always continues with its script: the token at position p is followed by `script[p]`."""

    rewindable = True

    def __init__(self, script, vocab_size, max_length=None):
        self.script, self.vocab_size, self.max_length = tf.constant(script), vocab_size, max_length
        self.calls = []  # (tokens in a call) as traced or run

    def initial_state(self, batch_size, slots, context=None):
        return {"position": tf.zeros([batch_size], tf.int32)}

    def step(self, ids, state, lengths=None, *, last=False):
        lengths = tf.fill([tf.shape(ids)[0]], tf.shape(ids)[1]) if lengths is None else lengths
        at = state["position"][:, None] + tf.range(tf.shape(ids)[1])
        if last:
            at = tf.gather(at, tf.maximum(lengths - 1, 0)[:, None], batch_dims=1)
        following = tf.gather(self.script, tf.minimum(at, len(self.script) - 1))
        return 9.0 * tf.one_hot(following, self.vocab_size), {"position": state["position"] + lengths}


def copy_of(nest):
    return tf.nest.map_structure(lambda leaf: leaf.numpy().copy(), nest)


def assert_same(first, second, **tolerance):
    for a, b in zip(tf.nest.flatten(first), tf.nest.flatten(second), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
