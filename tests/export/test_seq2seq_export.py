"""The SavedModel of a Seq2Seq: sources in, texts out, and what Python gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from fuzz import compare

import tfllm
from tfllm.export.saved_model import SIGNATURES
from tfllm.generation import BeamSearch, MonteCarloTreeSearch, Speculative

SPECIAL = ("<unk>", "<s>", "</s>")
TOKENIZER = tfllm.CharTokenizer("abcdefgh ", special_tokens=SPECIAL)
OTHER = tfllm.CharTokenizer("uvwxyz")


def make_generator(model, **arguments):
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(float(weight.path.endswith("gamma")), 0.8, weight.shape))
    return tfllm.TextGenerator(model, TOKENIZER, **arguments)


@pytest.fixture(scope="module")
def generator():
    model = tfllm.TransformerSeq2Seq(TOKENIZER.vocab_size, 32, 8, 1, 2, source_vocab_size=8, max_source_length=10)
    return make_generator(model, source_tokenizer=OTHER)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, generator):
    path = tmp_path_factory.mktemp("export") / "saved"
    tfllm.export.save(generator, path, signatures=["generate", "score"])
    return path


def test_a_saved_model_answers_sources_as_python_does(generator, saved):
    loaded = tf.saved_model.load(str(saved))
    prompts = ["uvw", "z", "xyzzy"]
    for settings in ({"temperature": 0.0}, {"temperature": 0.7, "seed": 3, "forced_prefix": "ba"}):
        texts = loaded.generate(prompts, max_new_tokens=9, **settings)["text"]
        assert [text.decode() for text in texts.numpy()] == generator.generate(prompts, max_new_tokens=9, **settings)
    found = loaded.score(["ab", "c", "h h"], prompts)
    expected = generator.score(["ab", "c", "h h"], contexts=prompts)
    np.testing.assert_allclose(found["total"], [one.total for one in expected], atol=1e-4)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"prompts must have at most the max_source_length=10 tokens"
    ):
        loaded.generate(["uvwxyzuvwxyz"])
    long = loaded.generate(["uvwxyzuvwxyz"], truncate_prompts=True, temperature=0.0, max_new_tokens=5)["text"]
    assert long.numpy()[0].decode() == generator.generate("uvwxyzuvwx", temperature=0, max_new_tokens=5)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"contexts must be as many as texts, 1; got 0"):
        loaded.score(["ab"], tf.constant([], tf.string))


def test_the_card_names_both_tokenizers(saved):
    card = (saved / "assets" / "model_card.md").read_text()
    assert "| tokenizer of sources | `CharTokenizer`, 7 tokens |" in card
    assert "begin after `<s>` and end with `</s>`" in card and "| longest source | 10 tokens |" in card
    assert (saved / "assets" / "source_tokenizer.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("kind", ["two vocabularies", "lstm-copy"])
def test_fuzzed_requests_give_what_python_gives(generator, tmp_path, kind, jit_compile):
    letters, words = "uvwxyz", ["ab", "c", "h", " d"]
    if kind == "lstm-copy":
        generator = make_generator(tfllm.RecurrentSeq2Seq(TOKENIZER.vocab_size, "lstm", 8, copy=True))
        letters = "abcdefgh "
    strategies = {
        "beam_search": BeamSearch(num_beams=3),
        "mcts": MonteCarloTreeSearch(num_simulations=6, max_children=4),
        "speculative": Speculative(draft_tokens=3),
    }
    tfllm.export.save(generator, tmp_path / "saved", jit_compile=jit_compile, **strategies)
    loaded, random = tf.saved_model.load(str(tmp_path / "saved")), np.random.default_rng(1)
    for name in SIGNATURES:
        if name != "score":  # whose contexts must be given
            for _ in range(2 if jit_compile else 6):
                compare(loaded, generator, strategies, name, random, int(random.integers(1, 5)), letters, words)
