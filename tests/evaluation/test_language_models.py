"""What language models think of texts: token by token, in parts, and for the outside harness."""

import collections
import json
import sys

import numpy as np
import pytest
import scipy.special
from conftest import ScriptedModel, shared_generator

import tfllm
from tfllm.evaluation import (
    BitsPerByte,
    BitsPerCharacter,
    HarnessModel,
    Perplexity,
    as_harness_model,
    evaluate_text,
    score_tokens,
)

TEXT = "to be, or not to be: that is the 问题 — whether 'tis nobler in the mind to suffer\n" * 6
Request = collections.namedtuple("Request", "args")


@pytest.fixture(scope="module")
def scored():
    """A model and the scores of a text, for tokenizers of characters and of bytes."""
    found = []
    for tokenizer in (tfllm.CharTokenizer.train(TEXT), tfllm.BPETokenizer.train(TEXT, vocab_size=290)):
        model = tfllm.RecurrentLM(tokenizer.vocab_size, "gru", 8)
        found.append((model, tokenizer, score_tokens(model, tokenizer, TEXT, 16, 4)))
    return found


def test_tokens_and_parts_sum_to_the_scores_of_the_text(scored):
    for model, tokenizer, found in scored:
        expected = evaluate_text(model, tokenizer, TEXT, 16)
        ids = tokenizer.encode(TEXT).numpy()
        assert len(found.nats) == len(ids) - 1 == expected["tokens"]
        assert found.nats.mean() == pytest.approx(expected["loss"], rel=1e-5)
        assert found.right.mean() == pytest.approx(expected["accuracy"])
        parts = found.segments(50)
        first = tokenizer.decode(ids[:1]).numpy().decode()
        assert "".join(parts.texts) == TEXT[len(first) :]
        assert parts.tokens.sum() == len(found.nats)
        for metric, count in ((Perplexity(), "tokens"), (BitsPerByte(), "bytes"), (BitsPerCharacter(), "characters")):
            score = metric.score(parts.statistics(count).sum(0))
            assert score == pytest.approx(expected[metric.name], rel=1e-5)
    first, second = (found.segments(50) for _, _, found in scored)
    assert first.texts[1:] == second.texts[1:]


def test_confidence_is_that_of_the_likeliest_token(scored):
    model, tokenizer, found = scored[0]
    ids = tokenizer.encode(TEXT).numpy()[:17]
    logits = model(ids[None, :-1]).numpy()[0].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(found.confidence[:16], shares.max(-1), rtol=1e-5)
    np.testing.assert_array_equal(found.right[:16], shares.argmax(-1) == ids[1:])
    np.testing.assert_allclose(found.nats[:16], -np.log(shares[np.arange(16), ids[1:]]), rtol=1e-4)


def test_bad_texts_are_refused(scored):
    model, tokenizer, found = scored[0]
    with pytest.raises(ValueError, match="text must have at least two tokens; got 1 in 't'"):
        score_tokens(model, tokenizer, "t", 16)
    with pytest.raises(ValueError, match="size must be an int of at least 1; got 0"):
        found.segments(0)
    assert len(score_tokens(model, tokenizer, "to be", 16).nats) == 4  # shorter than a row


@pytest.fixture(scope="module")
def harness():
    return HarnessModel(shared_generator("gpt2"), batch_size=2, max_new_tokens=5)


def test_log_likelihoods_are_those_of_score(harness):
    generator = harness.generator
    contexts, texts = ["abc", "a", "hello", "nobody"], ["de", "fghij", "k", "me"]
    found = harness.loglikelihood([Request(pair) for pair in zip(contexts, texts, strict=True)])
    scores = generator.score(texts, contexts=contexts)
    np.testing.assert_allclose([total for total, _ in found], [score.total for score in scores], atol=1e-4)
    assert all(isinstance(total, float) and isinstance(greedy, bool) for total, greedy in found)
    (alone, _), plain = harness.loglikelihood([Request(("", "abc"))])[0], generator.score("abc")
    assert alone == pytest.approx(plain.total, abs=1e-4)  # without an end token the first one is not scored
    long = "abcdefghijklmno" * 2  # 30 tokens, of which with 10 more the model reads the last 32
    (cut, _) = harness.loglikelihood([Request((long, "abcdefghij"))])[0]
    ids = generator.tokenizer.encode(long[-23:] + "abcdefghij").numpy()
    logits = generator.model(ids[None, :-1]).numpy()[0, -10:]
    assert cut == pytest.approx(np.sum(scipy.special.log_softmax(logits, 1)[np.arange(10), ids[-10:]]), abs=1e-4)


def test_greedy_is_what_greedy_decoding_writes(harness):
    texts = harness.generator.generate(["abc", "de"], strategy="greedy", temperature=0, max_new_tokens=4)
    requests = [Request(("abc", texts[0])), Request(("de", texts[1])), Request(("abc", texts[0][:-1] + "o"))]
    greedy = [flag for _, flag in harness.loglikelihood(requests)]
    assert greedy[:2] == [True, True]
    assert greedy[2] == (texts[0][-1] == "o")


def test_rolling_reads_rows_as_evaluate_text_does(harness):
    texts = ["abc def " * 10, "ab", "a"]
    found = harness.loglikelihood_rolling([Request((text,)) for text in texts])
    model, tokenizer = harness.generator.model, harness.generator.tokenizer
    ids, total = tokenizer.encode(texts[0]).numpy(), 0.0
    for at in range(0, len(ids) - 1, model.max_length):  # the rows of evaluate_text
        row = ids[at : at + model.max_length + 1]
        log_probs = scipy.special.log_softmax(model(row[None, :-1]).numpy()[0], 1)
        total += log_probs[np.arange(len(row) - 1), row[1:]].sum()
    assert found[0] == pytest.approx(total, rel=1e-4)
    assert found[1] == pytest.approx(harness.generator.score("ab").total, abs=1e-4)
    assert found[2] == 0


def test_generation_stops_where_it_is_told_and_answers_each_in_its_place():
    tokenizer = tfllm.CharTokenizer("abcdefghijklmno ")
    script = tokenizer.encode("abcdefghijklmno").numpy()  # behind p + 1 tokens comes letter p
    generator = tfllm.TextGenerator(ScriptedModel(script, tokenizer.vocab_size, max_length=8), tokenizer)
    harness = HarnessModel.__new__(HarnessModel)  # a scripted model has no whole-sequence pass to compile
    harness.generator, harness.batch_size, harness.max_new_tokens = generator, 2, 3
    requests = [
        Request(("ab", {"until": ["d", ""], "max_gen_toks": 4})),
        Request(("abc", {"until": []})),
        Request(("a", {"until": "~", "max_gen_toks": 4})),
        Request(("abcd", {"do_sample": False, "temperature": 0.7, "max_new_tokens": 2})),
        Request(("o" * 20, {"max_gen_toks": 1})),  # of which the model holds the last 8
        Request(("ab", {"until": ["d", ""], "max_gen_toks": 4})),
    ]
    assert harness.generate_until(requests) == ["bc", "cde", "abcd", "de", "h", "bc"]
    settings = harness._settings({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7})
    assert settings == {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "stop": None}
    assert harness._settings({})["strategy"] == "greedy"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model: model.loglikelihood([Request(("a", ""))]),
            "must have continuations of 1 to the model's max_length=32",
        ),
        (lambda model: model.loglikelihood([Request(("a", "b" * 33))]), "continuations of 1 to .* got 33"),
        (
            lambda model: model.generate_until([Request(("a", {"num_beams": 2}))]),
            "settings among until, .*; got 'num_beams'",
        ),
        (lambda model: model.generate_until([Request(("", {}))]), "not empty"),
        (lambda model: HarnessModel(model.generator, batch_size=0), "batch_size must be an int of at least 1; got 0"),
    ],
)
def test_bad_requests_are_refused(harness, call, message):
    with pytest.raises(ValueError, match=message):
        call(harness)


def test_the_harness_itself_on_tasks_of_local_files(tmp_path, monkeypatch):
    """Its own scores of a choice task, a perplexity task and an answer task are those worked out without it."""
    lm_eval = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    generator = shared_generator("gpt2")
    texts = ("ab", "mno", "c d e", "j")
    rows = [{"text": text, "choices": ["def", "o", "abc no"], "answer": at % 3} for at, text in enumerate(texts)]
    for row in rows:
        row["greedy"] = generator.generate(row["text"], strategy="greedy", temperature=0, max_new_tokens=3)
    rows[0]["greedy"] = "xyz"  # one wrong answer of four
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
    (tmp_path / "choice.yaml").write_text(
        f"task: tfllm_choice\n{head}output_type: multiple_choice\ndoc_to_text: '{{{{text}}}}'\ntarget_delimiter: ''\n"
        "doc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n  - metric: acc\n"
    )
    (tmp_path / "rolling.yaml").write_text(
        f"task: tfllm_rolling\n{head}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{text}}}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n"
    )
    (tmp_path / "answer.yaml").write_text(
        f"task: tfllm_answer\n{head}output_type: generate_until\ndoc_to_text: '{{{{text}}}}'\ndoc_to_target: '{{{{greedy}}}}'\n"
        "generation_kwargs:\n  until: ['~']\n  max_gen_toks: 3\nmetric_list:\n  - metric: exact_match\n"
    )
    names = ["tfllm_choice", "tfllm_rolling", "tfllm_answer"]
    found = lm_eval.simple_evaluate(
        as_harness_model(generator),
        tasks=names,
        task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    right = [
        int(np.argmax([score.total for score in generator.score(row["choices"], contexts=[row["text"]] * 3)]))
        == row["answer"]
        for row in rows
    ]
    assert found["tfllm_choice"]["acc,none"] == pytest.approx(np.mean(right))
    nats = sum(-generator.score(row["text"]).total for row in rows)
    size = sum(len(row["text"].encode()) for row in rows)
    assert found["tfllm_rolling"]["bits_per_byte,none"] == pytest.approx(nats / np.log(2) / size, rel=1e-4)
    assert found["tfllm_answer"]["exact_match,none"] == pytest.approx(3 / 4)


def test_without_the_harness_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match=r'as_harness_model needs lm-eval: pip install "tfllm\[eval\]"'):
        as_harness_model(shared_generator("gpt2"))
