"""The SavedModel as a file: its size, its place, its refusals, TensorFlow's own tool."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_model
from fuzz import compare

import tfllm
from tfllm.export.model_card import fingerprint, parameters
from tfllm.export.requests import setting_inputs
from tfllm.export.saved_model import SIGNATURES, make_endpoints
from tfllm.generation import BeamSearch, MonteCarloTreeSearch, Speculative

TOKENIZER = tfllm.CharTokenizer("abcdefghijklmno ")
STRATEGIES = {"beam_search": BeamSearch(num_beams=3), "mcts": MonteCarloTreeSearch(num_simulations=6, max_children=4)}
STRATEGIES["speculative"] = Speculative(draft_tokens=3)


@pytest.fixture(scope="module")
def generator():
    return tfllm.TextGenerator(make_model("gpt2"), TOKENIZER)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, generator):
    path = tmp_path_factory.mktemp("export") / "saved"
    tfllm.export.save(generator, path, top_log_probs=2, **STRATEGIES)
    return path


@pytest.fixture(scope="module")
def loaded(saved):
    return tf.saved_model.load(str(saved))


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_signature_gives_what_python_gives(loaded, generator, name):
    random = np.random.default_rng(SIGNATURES.index(name))
    for _ in range(2):
        compare(loaded, generator, STRATEGIES, name, random, 12, "abcdefghijklmno zé词", ["ab", "c", "mm", " m"])


def kinds():
    """Returns dict of name to (generator, letters, words), tokenizers of all kinds among them."""
    text = "low lower lowest newest widest 词语词 hello world, the end"
    bpe = tfllm.BPETokenizer.train(text, vocab_size=280)
    words = tfllm.text.WordPieceTokenizer.train(text, vocab_size=60)
    found = {name: (make_model(name), TOKENIZER) for name in ("lstm", "gpt2", "llama")}
    found["bpe"] = tfllm.TransformerLM(bpe.vocab_size, 64, 16, 1, 2, initializer_range=0.6), bpe
    found["wordpiece"] = tfllm.RecurrentLM(words.vocab_size + 3, cell="gru", dim=16), words
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "gpt2", "llama", "bpe", "wordpiece"])
def test_2000_fuzzed_requests_give_what_python_gives(tmp_path, kind):
    """10,000 prompts with all kinds, every signature among them, settings that differ by row."""
    model, tokenizer = kinds()[kind]
    generator = tfllm.TextGenerator(model, tokenizer)
    tfllm.export.save(generator, tmp_path / "saved", **STRATEGIES)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    random, count = np.random.default_rng(7), 0
    while count < 2000:
        name = SIGNATURES[int(random.integers(len(SIGNATURES)))]
        batch = int(random.integers(1, 50))
        compare(
            loaded, generator, STRATEGIES, name, random, batch, "abdehlnorstw ,zé词语", ["lo", "e", "wi", " n", "词"]
        )
        count += batch


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name not in ("encode", "decode")])
def test_texts_are_checked(loaded, name):
    texts = "texts" if name in ("score", "embed") else "prompts"
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"{texts}.* must be strings that are not empty; got an empty one"
    ):
        call(loaded, name, ["a", ""])
    words = r"must have at most the max_length=32 tokens of the model.*; got 99"
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        call(loaded, name, ["a" * 99, "b"])


def call(loaded, name, texts, **inputs):
    given = {"negative_prompts": "a"} if name == "guided" else {}
    return getattr(loaded, name)(texts, **(given | inputs))


BAD = [
    ({"temperature": -1.0}, "temperature must be finite and at least 0; got -1"),
    ({"temperature": [1.0, float("nan")]}, "temperature must be finite and at least 0; got nan"),
    ({"temperature": [1.0, 1.0, 1.0]}, "temperature must be one value or one for each of 2 prompts; got 3"),
    ({"temperature": [[1.0, 1.0]]}, "temperature must be one value or one for each of 2 prompts"),
    ({"top_p": 0.0}, r"top_p must be in \(0, 1\]; got 0"),
    ({"top_k": -1}, "top_k must be at least 0; got -1"),
    ({"max_new_tokens": 0}, "max_new_tokens must be at least 1; got 0"),
    ({"max_new_tokens": -(2**31)}, "max_new_tokens must be at least 1; got -2147483648"),
    (
        {"max_new_tokens": 2**31 - 1},
        "max_new_tokens must be at most 1000000 in all sequences of a prompt; got 2147483647",
    ),
    ({"max_time": 0.0}, "max_time must be above 0 seconds; got 0"),
    ({"max_time": float("nan")}, "max_time must be above 0 seconds; got nan"),
    ({"repetition_penalty": 0.0}, "repetition_penalty must be finite and above 0; got 0"),
    ({"stop": ["a", ""]}, "stop must be strings that are not empty; got an empty one"),
    ({"banned_words": [""]}, "banned_words must be strings that are not empty; got an empty one"),
    ({"stop_ids": [17]}, r"stop_ids must hold ids in \[0, 17\); got 17"),
    ({"banned_ids": [-1]}, r"banned_ids must hold ids in \[0, 17\); got -1"),
    ({"bias_ids": [1, 2], "bias_values": [1.0]}, "bias_values must be as many as bias_ids; got 1"),
    ({"bias_ids": [1], "bias_values": [float("inf")]}, "bias_values must be numbers below infinity; got inf"),
    ({"automaton": [[2] * 17]}, "automaton must lead to its own states; got 2"),
    ({"automaton": [[0] * 18]}, "automaton must have at most 17 tokens a state; got 18"),
    ({"num_sequences": 0}, r"num_sequences must lie in \[1, 4096\]; got 0"),
    ({"num_sequences": 4097}, r"num_sequences must lie in \[1, 4096\]; got 4097"),
    ({"num_sequences": 4096, "max_new_tokens": 1000}, "max_new_tokens must be at most 1000000 in all sequences"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD)
def test_bad_numbers_are_refused(loaded, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.generate(["a", "b"], **inputs)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("beam_search", {"length_penalty": 6.0}, r"length_penalty must lie in \[-5, 5\]; got 6"),
        ("beam_search", {"diversity_penalty": 1.0}, "diversity_penalty must be 0 for one group; got 1"),
        (
            "beam_search",
            {"max_new_tokens": 32},
            "max_length=32 tokens of the model less 32 for what else must fit; got 1",
        ),
        ("mcts", {"c_puct": -1.0}, "c_puct must be finite and at least 0; got -1"),
        ("guided", {"guidance_scale": float("inf")}, "guidance_scale must be finite; got inf"),
        (
            "guided",
            {"negative_prompts": ["a", "b", "c"]},
            "negative_prompts must be one value or one for each of 2 prompts",
        ),
        ("guided", {"negative_prompts": ""}, "negative_prompts must be strings that are not empty"),
        ("score", {"contexts": ["a"]}, "contexts must be as many as texts, 2; got 1"),
        ("next_token", {"top": 0}, r"top must be an int in \[1, 17\]; got 0"),
    ],
)
def test_bad_inputs_of_other_signatures_are_refused(loaded, name, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(loaded, name, ["a", "b"], **inputs)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([[1, 17]], [], r"ids must lie in \[0, 17\); got 17"),
        ([[1, -1]], [], r"ids must lie in \[0, 17\); got -1"),
        ([[1, 2]], [3], r"lengths must lie in \[0, T\]; got 3"),
        ([[1, 2]], [1, 1], "lengths must be one for each of 1 rows; got 2"),
    ],
)
def test_ids_that_stand_for_nothing_are_refused(loaded, ids, lengths, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.decode(ids, lengths)


def test_long_prompts_lose_their_beginning_on_request(loaded, generator):
    prompts, settings = ["abcdefgh" * 9, "ab"], {"max_new_tokens": 5, "truncate_prompts": True, "temperature": 0.0}
    for name in ("generate", "beam_search"):
        texts = getattr(loaded, name)(prompts, **settings)["text"]
        expected = generator.generate(prompts, strategy=STRATEGIES.get(name, "sample"), **settings)
        assert [text.decode() for text in texts.numpy()] == expected


def test_time_ends_every_row(loaded):
    for name in ("generate", "beam_search", "mcts", "speculative"):
        found = getattr(loaded, name)(["a", "b"], max_time=1e-9, max_new_tokens=20)
        assert found["finish_reason"].numpy().tolist() == [b"time"] * 2


def test_time_runs_out_while_it_decodes(loaded):
    loaded.generate(["a"], max_time=60.0, max_new_tokens=2)
    found = loaded.generate(["a"], max_time=0.1, max_new_tokens=100_000)
    assert found["finish_reason"].numpy().tolist() == [b"time"]
    assert found["lengths"].numpy()[0] > 0


def test_the_card_counts_frozen_weights():
    model, other = make_model("gru"), make_model("gru")
    count = model.count_params()
    for one in (model, other):
        one.trainable = False
    other.weights[0].assign_add(tf.ones_like(other.weights[0]))
    assert sum(int(np.prod(weight.shape)) for weight in parameters(model)) == count
    assert fingerprint(model) != fingerprint(other)


def test_weights_are_stored_once(saved, generator):
    weights = 4 * sum(int(np.prod(w.shape)) for w in generator.model.trainable_weights)
    stored = sum(file.stat().st_size for file in (saved / "variables").iterdir())
    assert weights < stored < 1.5 * weights + 10_000


def test_further_signatures_repeat_no_tables(tmp_path):
    """BERT's kind of tokenizer has 1.6 MB of tables of characters."""
    tokenizer = tfllm.text.WordPieceTokenizer.train("hello world", vocab_size=40)
    generator = tfllm.TextGenerator(tfllm.RecurrentLM(tokenizer.vocab_size, dim=8), tokenizer)
    sizes = []
    for names in (["encode"], ["encode", "score", "embed", "next_token"]):
        tfllm.export.save(generator, tmp_path / "saved", signatures=names, force=True)
        sizes.append((tmp_path / "saved" / "saved_model.pb").stat().st_size)
    assert sizes[1] - sizes[0] < 0.2 * sizes[0]


def test_its_assets_are_the_tokenizer_and_a_card(saved, generator):
    assert {file.name for file in (saved / "assets").iterdir()} == {"tokenizer.json", "model_card.md"}
    tokenizer = tfllm.load_tokenizer(saved / "assets" / "tokenizer.json")
    assert tokenizer.tokens == generator.tokenizer.tokens
    card = (saved / "assets" / "model_card.md").read_text(encoding="utf-8")
    weights = 4 * sum(int(np.prod(w.shape)) for w in generator.model.trainable_weights)
    assert f"{weights // 4:,} (float32, {weights:,} bytes)" in card
    assert "| `temperature` | float32 | one or B | `1.0` | finite and at least 0; once or one a prompt |" in card
    assert all(f"## `{name}`" in card for name in SIGNATURES)


BARE = """
import sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
texts = tf.constant(["abc", "o"])
for name in sys.argv[2].split(","):
    given = {"ids": tf.constant([[1, 2]])} if name == "decode" else {"texts": texts}
    if name in ("generate", "complete", "guided", "beam_search", "mcts", "speculative", "next_token"):
        given = {"prompts": texts} | ({"negative_prompts": tf.constant("a")} if name == "guided" else {})
    found = getattr(model, name)(**given)
    print(name, sorted(found), *found.get("text", tf.constant([])).numpy().tolist(), sep="|")
print([name for name in ("tfllm", "keras_nlp", "keras_hub", "tensorflow_text") if name in sys.modules])
"""


def call_in_tensorflow_alone(saved, loaded, names, place):
    command = [sys.executable, "-c", BARE, str(saved), ",".join(names)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=place).stdout.splitlines()
    lines = output[-1 - len(names) : -1]
    assert [line.split("|")[0] for line in lines] == list(names)
    texts = loaded.generate(tf.constant(["abc", "o"]))["text"].numpy()
    assert lines[0].endswith(f"|{texts[0]}|{texts[1]}")
    assert output[-1] == "[]"


def test_a_process_with_tensorflow_alone_calls_it_with_its_defaults(saved, loaded, tmp_path):
    call_in_tensorflow_alone(saved, loaded, ["generate", "score", "encode"], tmp_path)


@pytest.mark.slow
def test_a_process_with_tensorflow_alone_calls_every_signature(saved, loaded, tmp_path):
    call_in_tensorflow_alone(saved, loaded, SIGNATURES, tmp_path)


def run_tool(path, signature, inputs):
    command = [str(pathlib.Path(sys.executable).with_name("saved_model_cli")), "run", "--dir", str(path)]
    command += ["--tag_set", "serve", "--signature_def", signature, "--input_exprs", inputs]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_tensorflows_own_tool_runs_it_with_prompts_alone(saved, loaded):
    output = run_tool(saved, "serving_default", "prompts=['abc']")
    assert str(loaded.generate(tf.constant(["abc"]))["text"].numpy()) in output


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNATURES)
def test_tensorflows_own_tool_runs_every_signature(saved, name):
    given = {"decode": "ids=[[1,2]]", "guided": "prompts=['abc'];negative_prompts='a'"}
    texts = "texts" if name in ("score", "embed", "encode") else "prompts"
    assert "Result for output key" in run_tool(saved, name, given.get(name, f"{texts}=['abc']"))


def test_signatures_take_settings_by_name(loaded, generator):
    """As servers see them: every input is given, numbers for all prompts or for each."""
    signature = loaded.signatures["serving_default"]
    inputs = {name: one.default for name, one in setting_inputs().items()}
    inputs |= {"prompts": tf.constant(["ab", "c"]), "num_sequences": tf.constant(1)}
    inputs |= {"temperature": tf.constant([0.0, 0.7]), "max_new_tokens": tf.constant(5)}
    texts = signature(**inputs)["text"].numpy()
    expected = generator.generate(["ab", "c"], temperature=[0.0, 0.7], max_new_tokens=5)
    assert [text.decode() for text in texts] == expected


def test_no_prompts_give_no_texts(loaded):
    lstm = make_endpoints(tfllm.TextGenerator(make_model("lstm"), TOKENIZER), ["generate"], 0, False, {})[
        "generate"
    ].function
    for function in (lstm, loaded.generate, loaded.score, loaded.embed, loaded.next_token, loaded.encode):
        found = function(tf.zeros([0], tf.string))
        assert all(value.shape[0] == 0 for value in found.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signatures": ["generate", "sing"]}, "signatures must be among generate, .*; got 'sing'"),
        ({"signatures": []}, r"signatures must be a list of names; got \[\]"),
        ({"signatures": "generate"}, "signatures must be a list of names; got 'generate'"),
        ({"top_log_probs": 18}, r"top_log_probs must be an int in \[0, 17\]; got 18"),
        ({"beam_search": 4}, "strategies must be Strategy objects under names of their own; got beam_search=4"),
        ({"encode": BeamSearch()}, "strategies must be Strategy objects under names of their own; got encode="),
        ({"mcts": MonteCarloTreeSearch(num_simulations=0)}, "num_simulations must be an int of at least 1; got 0"),
    ],
)
def test_bad_exports_are_refused(tmp_path, generator, options, message):
    with pytest.raises(ValueError, match=message):
        tfllm.export.save(generator, tmp_path / "saved", **options)
    assert list(tmp_path.iterdir()) == []


def check_xla(kind, names, place):
    generator = tfllm.TextGenerator(make_model(kind), TOKENIZER)
    tfllm.export.save(generator, place / "saved", signatures=names, jit_compile=True, **STRATEGIES)
    loaded = tf.saved_model.load(str(place / "saved"))
    for name in names:
        for prompts, settings in (
            (["abc", "d", "e f"], {"max_new_tokens": 9, "seed": 3, "stop": ["m"]}),
            (["no"], {"max_new_tokens": 2, "max_time": 100.0}),
            (["no"], {"max_new_tokens": 9, "seed": 4}),
            *(
                [(["a", "b"], {"max_new_tokens": 40, "seed": 5})] * (name in ("generate", "complete"))
            ),  # beyond the model
        ):
            texts = getattr(loaded, name)(prompts, **settings)["text"].numpy()
            expected = generator.generate(prompts, strategy=STRATEGIES.get(name, "sample"), **settings)
            assert [text.decode() for text in texts] == expected
        assert getattr(loaded, name)(tf.zeros([0], tf.string))["text"].shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rnn", "gpt2"])
@pytest.mark.parametrize("name", ["generate", "complete", "beam_search", "mcts", "speculative"])
def test_xla_decodes_the_same_texts(tmp_path, kind, name):
    check_xla(kind, [name], tmp_path)


@pytest.mark.slow
def test_a_strategy_of_one_s_own_is_a_signature(tmp_path, generator):
    tfllm.export.save(generator, tmp_path / "saved", signatures=["wide"], wide=BeamSearch(num_beams=5, num_sequences=2))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    found = loaded.wide(["ab"], max_new_tokens=6)
    expected = generator.complete("ab", strategy=BeamSearch(num_beams=5, num_sequences=2), max_new_tokens=6)
    assert [text.decode() for text in found["text"].numpy()] == [one.text for one in expected]


def test_nothing_is_overwritten_unasked(saved, tmp_path):
    generator = tfllm.TextGenerator(make_model("gru"), TOKENIZER)
    with pytest.raises(FileExistsError, match=r"path must be free unless force is given; got .*a SavedModel"):
        tfllm.export.save(generator, saved)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"path must be free or a SavedModel to replace; got"):
        tfllm.export.save(generator, tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"path must be free or a SavedModel to replace; got"):
        tfllm.export.save(generator, saved, force=True)
    (saved / "notes.txt").unlink()


def test_force_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "saved"
    for name in ("gru", "rnn"):
        generator = tfllm.TextGenerator(make_model(name), TOKENIZER)
        tfllm.export.save(generator, path, signatures=["embed"], force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    loaded = tf.saved_model.load(str(path))
    np.testing.assert_allclose(loaded.embed(["ab"])["embedding"], generator.embed(["ab"]), atol=1e-5)


def test_a_failed_export_leaves_no_file(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        tfllm.export.save(tfllm.TextGenerator(make_model("gru"), TOKENIZER), tmp_path / "saved", signatures=["encode"])
    assert list(tmp_path.iterdir()) == []
