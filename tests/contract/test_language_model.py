"""Every model of the list keeps every promise of the contract."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB, assert_same, copy_of, make_model

import tfllm
from tfllm.generation import Vocabulary, generate_ids, make_settings

CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def greedy(model, ids, lengths, new, *, capacity=None):
    prompts = {"ids": tf.convert_to_tensor(ids), "lengths": tf.convert_to_tensor(lengths)}
    settings = make_settings(len(ids), model.vocab_size, temperature=0, max_new_tokens=new)
    return generate_ids(model, prompts, settings, Vocabulary(), capacity or new)["ids"]


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 1, 3]])
def test_steps_of_any_size_equal_one_call(model, ids, chunks):
    state, pieces, at = model.initial_state(3, 9), [], 0
    for size in chunks:
        logits, state = model.step(ids[:, at : at + size], state)
        pieces.append(logits)
        at += size
    np.testing.assert_allclose(tf.concat(pieces, 1), model(ids), **CLOSE)
    np.testing.assert_array_equal(state["position"], [7, 7, 7])


def test_logits_see_no_later_token(model, ids):
    changed = tf.concat([ids[:, :4], (ids[:, 4:] + 1) % VOCAB], 1)
    np.testing.assert_allclose(model(changed)[:, :4], model(ids)[:, :4], **CLOSE)
    assert np.abs(model(changed)[:, 4] - model(ids)[:, 4]).max() > 1e-3


def test_a_ragged_row_equals_the_row_alone(model, ids):
    lengths = [7, 4, 2]
    batch_logits, batch_state = model.step(ids, model.initial_state(3, 9), tf.constant(lengths))
    next_logits, _ = model.step(ids[:, :1], batch_state)
    for row, length in enumerate(lengths):
        alone, state = model.step(ids[row : row + 1, :length], model.initial_state(1, 9))
        np.testing.assert_allclose(batch_logits[row, :length], alone[0], **CLOSE)
        np.testing.assert_allclose(next_logits[row], model.step(ids[row : row + 1, :1], state)[0][0], **CLOSE)


DOCUMENTS = [[1, 1, 1, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1, 1], [1, 2, 2, 0, 0, 0, 0]]


@pytest.mark.parametrize("way", ["eager", "graph", "xla"])
def test_a_packed_row_gives_each_document_the_logits_that_it_gets_alone(model, ids, way):
    inputs = {"ids": ids, "documents": tf.constant(DOCUMENTS)}
    loose = tf.TensorSpec([None, None], tf.int32)
    call = {
        "eager": model,
        "graph": tf.function(model, input_signature=[{"ids": loose, "documents": loose}]),
        "xla": tf.function(model, jit_compile=True),
    }[way]
    logits = call(inputs)
    assert (logits.shape, logits.dtype) == ((3, 7, VOCAB), tf.float32)
    for row, documents in enumerate(np.array(DOCUMENTS)):
        for document in set(documents):  # 0 too: padding must reach nobody, and it stays finite
            at = np.flatnonzero(documents == document)
            alone = model(ids[row : row + 1, at[0] : at[-1] + 1])[0]
            np.testing.assert_allclose(logits[row, at[0] : at[-1] + 1], alone, atol=1e-5, rtol=1e-4)


def test_a_row_of_one_document_is_a_plain_row(model, ids):
    inputs = {"ids": ids, "documents": tf.ones([3, 7], tf.int32)}
    np.testing.assert_allclose(model(inputs), model(ids), **CLOSE)


def test_packed_rows_give_the_gradient_of_their_documents(model, ids):
    def gradients(batches):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tfllm.training.lm_loss(model, batch, training=False)["loss"][0] for batch in batches])
        return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

    ids, documents = ids[:1], tf.constant(DOCUMENTS[:1])
    packed = [({"ids": ids, "documents": documents}, ids, tf.cast(documents > 0, tf.float32))]
    alone = [(ids[:, a:b], ids[:, a:b], tf.ones([1, b - a])) for a, b in ((0, 3), (3, 5), (5, 6))]
    for found, expected in zip(gradients(packed), gradients(alone), strict=True):
        expected = tf.convert_to_tensor(expected)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(tf.convert_to_tensor(found), expected, atol=1e-4 * max(scale, 1.0), rtol=1e-3)


@pytest.mark.parametrize("way", ["fit in bfloat16", "step by XLA"])
def test_packed_rows_train(model_name, ids, way):
    model = make_model(model_name, dtype="float32" if "XLA" in way else "mixed_bfloat16")
    weights = tf.constant([[1, 1, 0, 1, 0, 0], [1] * 6, [0, 1, 0, 0, 0, 0]], tf.float32)
    inputs = {"ids": ids[:, :-1], "documents": tf.constant(DOCUMENTS)[:, :-1]}
    batches = tf.data.Dataset.from_tensors((inputs, ids[:, 1:], weights)).repeat(12)
    first = tfllm.evaluation.evaluate_lm(model, batches.take(1))
    optimizer = keras.optimizers.Adam(0.03)
    if "XLA" in way:
        step = tfllm.training.make_train_step(model, optimizer, jit_compile=True)
        for batch in batches:
            step(batch)
    else:
        model.compile(optimizer)
        model.fit(batches, verbose=0)
    last = tfllm.evaluation.evaluate_lm(model, batches.take(1))["loss"]  # the steps' own losses are those of dropout
    assert first["tokens"] == 10
    assert last < 0.8 * first["loss"]


def test_last_gives_the_logits_after_the_last_read_id(model, ids):
    lengths = tf.constant([7, 1, 3])
    every, _ = model.step(ids, model.initial_state(3, 8), lengths)
    last, _ = model.step(ids, model.initial_state(3, 8), lengths, last=True)
    np.testing.assert_allclose(last[:, 0], tf.gather(every, lengths - 1, batch_dims=1), **CLOSE)


def test_a_row_of_length_zero_stands_still(model, ids):
    _, state = model.step(ids[:, :3], model.initial_state(3, 9))
    _, moved = model.step(ids[:, 3:5], state, tf.constant([2, 0, 1]))
    expected, _ = model.step(ids[:, 5:6], state)
    found, _ = model.step(ids[:, 5:6], moved)
    np.testing.assert_allclose(found[1], expected[1], **CLOSE)
    np.testing.assert_array_equal(moved["position"], [5, 3, 4])


def test_step_leaves_the_old_state_untouched(model, ids):
    _, state = model.step(ids[:, :3], model.initial_state(3, 9))
    before = copy_of(state)
    model.step(ids[:, 3:], state)
    assert_same(before, state, rtol=0)


def test_a_state_is_reordered_by_gathering_rows(model, ids):
    _, state = model.step(ids[:, :4], model.initial_state(3, 9))
    order = [2, 0, 0]
    reordered = tf.nest.map_structure(lambda leaf: tf.gather(leaf, order), state)
    expected = tf.gather(model.step(ids[:, 4:5], state)[0], order)
    found, _ = model.step(tf.gather(ids[:, 4:5], order), reordered)
    np.testing.assert_allclose(found[1:], tf.stack([expected[1], expected[2]]), **CLOSE)


def test_graph_equals_eager(model, ids):
    signature = [tf.TensorSpec([None, None], tf.int32)]
    np.testing.assert_allclose(tf.function(model, input_signature=signature)(ids), model(ids), **CLOSE)

    @tf.function(input_signature=signature)
    def stepped(ids):
        return model.step(ids, model.initial_state(tf.shape(ids)[0], tf.shape(ids)[1]))[0]

    np.testing.assert_allclose(stepped(ids), model(ids), **CLOSE)


def test_greedy_equals_recomputing_everything(model, ids):
    expected = ids
    for _ in range(20):
        expected = tf.concat([expected, tf.argmax(model(expected)[:, -1:], -1, tf.int32)], 1)
    found = greedy(model, ids, tf.fill([3], 7), 20)
    np.testing.assert_array_equal(found, expected[:, 7:])
    assert np.sum(found[:, 1:] != found[:, :-1]) > 5  # a text of one token would prove little


def test_a_batch_decodes_as_its_rows_alone(model, ids):
    lengths = tf.constant([7, 4, 2])
    found = tf.function(lambda: greedy(model, ids, lengths, 30))()  # past the 32 positions of the Transformers
    for row, length in enumerate(lengths.numpy()):
        alone = greedy(model, ids[row : row + 1, :length], tf.constant([length]), 30)
        np.testing.assert_array_equal(found[row], alone[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_xla_gives_the_same_texts(model, tokenizer, temperature):
    settings = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 5}
    prompts = ["abc", "a", "hello again"]
    expected = tfllm.TextGenerator(model, tokenizer).generate(prompts, **settings)
    assert tfllm.TextGenerator(model, tokenizer, jit_compile=True).generate(prompts, **settings) == expected


def test_keras_file_round_trip(model_name, ids, tmp_path):
    model = make_model(model_name)
    model.compile(keras.optimizers.Adam(0.01), clip_norm=0.5)
    model.fit(tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:], tf.ones([3, 6]))), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_allclose(loaded(ids), model(ids), atol=1e-6)
    assert (float(loaded.optimizer.learning_rate), loaded.clip_norm) == (pytest.approx(0.01), 0.5)
    assert_same([v.value for v in loaded.optimizer.variables], [v.value for v in model.optimizer.variables], rtol=1e-6)


def test_an_export_gives_the_same_texts(model, tokenizer, tmp_path):
    generator = tfllm.TextGenerator(model, tokenizer)
    tfllm.export.save(generator, tmp_path / "saved", signatures=["generate"])
    served = tf.saved_model.load(str(tmp_path / "saved"))
    prompts = ["abc", "a b c d", "o"]
    for settings in ({"temperature": 0.0}, {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 3}):
        texts = served.generate(prompts, max_new_tokens=9, **settings)["text"]
        assert [text.decode() for text in texts.numpy()] == generator.generate(prompts, max_new_tokens=9, **settings)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_stays_close_and_trains(model_name, ids, policy):
    exact, mixed = make_model(model_name), make_model(model_name, dtype=policy)
    logits = mixed(ids)
    assert logits.dtype == tf.float32
    assert {weight.dtype for weight in mixed.weights if "seed" not in weight.path} == {"float32"}
    assert np.mean(np.abs(logits - exact(ids))) < 0.05 * np.std(exact(ids))
    assert greedy(mixed, ids, tf.fill([3], 7), 3).shape == (3, 3)
    batches = tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:], tf.ones([3, 6]))).repeat(20)
    mixed.compile(keras.optimizers.Adam(0.02))
    first = mixed.evaluate(batches.take(1), verbose=0, return_dict=True)["loss"]
    mixed.fit(batches, verbose=0)
    assert mixed.evaluate(batches.take(1), verbose=0, return_dict=True)["loss"] < 0.7 * first


def test_gradients_reach_every_weight(model, ids):
    with tf.GradientTape() as tape:
        total, _ = tfllm.training.lm_loss(model, (ids[:, :-1], ids[:, 1:], tf.ones([3, 6])))["loss"]
    weights = model.trainable_weights
    gradients = tape.gradient(total, [weight.value for weight in weights])
    silent = [weight.path for weight, gradient in zip(weights, gradients, strict=True) if gradient is None]
    assert not silent
    assert all(np.abs(tf.convert_to_tensor(gradient)).max() > 0 for gradient in gradients)


def test_nothing_is_traced_in_steady_use(model, tokenizer):
    generator = tfllm.TextGenerator(model, tokenizer)
    for count, prompt in enumerate(["a", "ab", "abc d", "hello", "bad cab"], 1):
        generator.generate([prompt] * count, max_new_tokens=count, temperature=count / 4, top_k=count, seed=count)
    assert generator.trace_count == 3  # encode, the loop, decode


def test_ids_out_of_the_vocabulary_are_refused(model):
    for wrong in (VOCAB, -1):
        with pytest.raises(ValueError, match=rf"ids must lie in \[0, vocab_size=17\); got {wrong}"):
            model(tf.constant([[1, wrong]]))


def test_every_model_memorises_a_sentence(model_name):
    text = "the cat sat on the mat and the dog ran"
    tokenizer = tfllm.CharTokenizer.train(text)
    keras.utils.set_random_seed(1)
    rotary = ("gpt2", "llama", "post-norm", "qwen3")
    sizes = {"max_length": 64, "positions": "rotary"} if model_name in rotary else {}
    kinds = {"rnn": "rnn", "gru": "gru", "lstm": "lstm", "lstm-tied": "lstm"}
    if sizes:
        norms = {"pre_norm": model_name == "gpt2"}
        if model_name in ("llama", "qwen3"):
            norms = {"norm": "rms", "activation": "swiglu", "qk_norm": model_name == "qwen3"}
        model = tfllm.TransformerLM(tokenizer.vocab_size, dim=32, num_layers=2, num_heads=2, **sizes, **norms)
    else:
        tied = model_name == "lstm-tied"
        model = tfllm.RecurrentLM(tokenizer.vocab_size, kinds[model_name], 48, 1, tied_embeddings=tied)
    batch = tfllm.data.lm_dataset(text, tokenizer, len(text) - 1, 1, shuffle=False)
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(batch.repeat(200), verbose=0).history
    assert history["loss"][-1] < 1.5
    continuation = tfllm.TextGenerator(model, tokenizer).generate("the c", max_new_tokens=len(text) - 5, temperature=0)
    assert continuation == text[5:]


def test_bare_tensorflow_runs_an_export(tokenizer, tmp_path):
    """One model is enough: the process is what is proven."""
    generator = tfllm.TextGenerator(make_model("llama"), tokenizer)
    tfllm.export.save(generator, tmp_path / "saved", signatures=["generate"])
    program = """
import sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
out = served.generate(["abc", "o"], max_new_tokens=8, temperature=0.8, seed=1)
print([text.decode() for text in out["text"].numpy()])
print([name for name in ("tfllm", "keras_nlp", "keras_hub", "tensorflow_text") if name in sys.modules])
"""
    command = [sys.executable, "-c", program, str(tmp_path / "saved")]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.splitlines()
    assert output[-2] == str(generator.generate(["abc", "o"], max_new_tokens=8, temperature=0.8, seed=1))
    assert output[-1] == "[]"
