"""What a request is in the graph: the settings of Python, field by field."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from fuzz import as_inputs, random_settings

import tfllm
from tfllm.export.requests import Reader, setting_inputs
from tfllm.export.saved_model import make_endpoints
from tfllm.generation import make_settings

CHARACTERS = tfllm.CharTokenizer("abcdefghijklmno ")
BPE = tfllm.BPETokenizer.train("low lower lowest newest widest 词语词", vocab_size=280)


def make_generator(kind):
    return tfllm.TextGenerator(make_model(kind), CHARACTERS)


@pytest.mark.parametrize(
    ("tokenizer", "words"), [(CHARACTERS, ["ab", "c", "no", "é?"]), (BPE, ["low", "词", "e", "st n"])]
)
def test_settings_are_those_of_python_field_by_field(tokenizer, words):
    size = tokenizer.vocab_size
    model = tfllm.RecurrentLM(size, dim=4)
    reader, random = Reader(tfllm.TextGenerator(model, tokenizer)), np.random.default_rng(0)
    for batch in (1, 2, 5, 0):
        for _ in range(6):
            settings = random_settings(random, batch, words, size)
            expected = make_settings(batch, size, tokenizer, **settings)
            inputs = {name: one.default for name, one in setting_inputs().items()}
            for name, value in as_inputs(settings).items():
                inputs[name] = tf.constant(value, inputs[name].dtype)
            inputs["prompts"] = tf.constant(["a"] * batch, tf.string)
            request = reader.read(inputs, tf.constant(1), tf.constant(False))
            assert request["settings"].keys() == expected.keys()
            for name, value in request["settings"].items():
                assert value.dtype == expected[name].dtype, name
                if batch:
                    np.testing.assert_array_equal(value, expected[name], err_msg=name)
            assert request["capacity"] == max(1, expected["max_new_tokens"].max(initial=1))


def test_an_automaton_is_a_table():
    reader = Reader(make_generator("gru"))
    table = np.array([[1] * 16, [-1] * 15 + [0]], np.int32)
    inputs = {name: one.default for name, one in setting_inputs().items()}
    inputs |= {"prompts": tf.constant(["a", "b"]), "automaton": tf.constant(table)}
    settings = reader.read(inputs, tf.constant(1), tf.constant(False))["settings"]
    assert settings["start"].numpy().tolist() == [0, 0]
    np.testing.assert_array_equal(settings["next_state"], np.pad(table, [(0, 0), (0, 1)], constant_values=-1))


def test_logits_that_are_not_numbers_are_an_error():
    model = make_model("gru")
    model.trainable_weights[0].assign(np.full(model.trainable_weights[0].shape, np.nan))
    generate = make_endpoints(tfllm.TextGenerator(model, CHARACTERS), ["generate"], 0, False, {})["generate"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="model must give logits that are numbers; got NaN"):
        generate.function(["a"])


def test_a_text_that_has_to_have_a_token_has_one():
    words = tfllm.text.WordTokenizer.train("the cat sat on the mat " * 3, vocab_size=17)
    reader = Reader(tfllm.TextGenerator(make_model("gru"), words))
    assert reader.encoded("texts", tf.constant(["cat", " "]))[1].numpy().tolist() == [1, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="texts must have a token each; got '  ', which has none"):
        reader.encoded("texts", tf.constant(["the cat", "  "]), real=True)
