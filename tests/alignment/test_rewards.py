"""Training by a reward: the reward rises, runs go on exactly, and what stands still stands still."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.alignment import rewards, train_on_rewards
from tfllm.training import make_train_step

TOKENIZER = tfllm.CharTokenizer("()", special_tokens=("<unk>", "<|endoftext|>"))
LATE_END = tfllm.CharTokenizer("()", special_tokens=("<unk>", "<pad>", "<s>", "<|endoftext|>"))
QUICK = {"group_size": 4, "prompts_per_step": 3, "max_new_tokens": 4, "verbose": 0}


def make_gru(vocab_size=5, dim=16, seed=0):
    keras.utils.set_random_seed(seed)
    return tfllm.RecurrentLM(vocab_size, "gru", dim)


@pytest.fixture
def eagerly():
    """Tracing takes longer than a few steps do."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def count_threes(prompt, answer):
    return answer.count(3)


@pytest.mark.parametrize("method", rewards.METHODS)
def test_the_reward_rises(method):
    model = make_gru()
    history = train_on_rewards(
        model, [[0], [1, 2], [4]], count_threes, optimizer=keras.optimizers.Adam(0.05), steps=25, method=method, **QUICK
    )
    assert history["step"] == list(range(25))
    first, last = np.mean(history["reward"][:3]), np.mean(history["reward"][-3:])
    assert first < 1.5  # by chance a fifth of 4 tokens
    assert last > 2.5
    assert all(best >= mean for best, mean in zip(history["best_reward"], history["reward"], strict=True))


def test_a_run_that_goes_on_is_the_run_that_was_not_cut(eagerly):
    def run(*ends):
        model, optimizer, begin, history = make_gru(), keras.optimizers.Adam(0.05), 0, {}
        for end in ends:
            part = train_on_rewards(
                model,
                [[0], [1], [2], [3], [4]],
                count_threes,
                optimizer=optimizer,
                steps=end,
                start_step=begin,
                seed=7,
                **QUICK,
            )
            history = {name: history.get(name, []) + values for name, values in part.items()}
            begin = end
        return history, model.get_weights()

    whole, weights = run(4)
    parts, others = run(1, 4)
    assert whole == parts
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_function_sees_every_prompt_with_its_answers_as_text(eagerly):
    seen = []

    def reward(prompt, answer):
        seen.append((prompt, answer))
        return 0.0

    prompts = ["(", "((", "()("]
    model = make_gru(TOKENIZER.vocab_size)
    before = model.get_weights()
    history = train_on_rewards(model, prompts, reward, TOKENIZER, optimizer=keras.optimizers.SGD(1.0), steps=2, **QUICK)
    assert [prompt for prompt, _ in seen[::4]] != prompts  # in random order
    assert sorted(prompt for prompt, _ in seen) == sorted(prompts * 8)  # all of them in each epoch
    assert all(set(answer) <= set("()") and len(answer) <= 4 for _, answer in seen)
    assert len({answer for _, answer in seen}) > 4
    # Where all answers of a group are as good, nothing moves.
    assert history["loss"] == history["grad_norm"] == [0.0, 0.0]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_end_is_learned_like_any_token():
    history = train_on_rewards(
        make_gru(),
        [[0], [1]],
        lambda prompt, answer: -len(answer),
        optimizer=keras.optimizers.Adam(0.05),
        steps=20,
        end_id=3,
        **QUICK,
    )
    assert np.mean(history["tokens"][:3]) > 2
    assert np.mean(history["tokens"][-3:]) < 1.5  # the end alone


def test_the_first_of_several_updates_is_that_of_one(eagerly):
    """Where texts are used once, all ratios are 1: GRPO's gradient is the policy gradient of its advantages."""
    runs = {}
    for updates in (1, 2):
        model = make_gru()
        history = train_on_rewards(
            model, [[0], [1]], count_threes, optimizer=keras.optimizers.SGD(0.0), steps=1, updates=updates, **QUICK
        )
        runs[updates] = history["grad_norm"]
    assert runs[1] == runs[2] != [0.0]


def test_a_reference_holds_the_model_back(eagerly):
    def distance(kl):
        model, start = make_gru(), make_gru()
        history = train_on_rewards(
            model,
            [[0], [1, 2], [4]],
            count_threes,
            optimizer=keras.optimizers.Adam(0.05),
            steps=6,
            kl=kl,
            reference=start,
            **QUICK,
        )
        assert history["kl"][0] == pytest.approx(0, abs=1e-6)
        return history["kl"][-1]

    assert distance(0.0) > 2 * distance(3.0)


def test_without_a_reference_a_copy_is_kept(eagerly):
    model = make_gru()
    history = train_on_rewards(
        model, [[0]], count_threes, optimizer=keras.optimizers.Adam(0.05), steps=4, kl=0.1, method="reinforce", **QUICK
    )
    assert history["kl"][0] == pytest.approx(0, abs=1e-6)
    assert history["kl"][-1] > 1e-4


def test_a_run_whose_last_steps_all_failed_does_not_end_in_silence(eagerly, monkeypatch):
    factors = iter([1.0, np.nan, np.nan])

    def make_broken_loss(sharpness):
        return lambda model, batch, training: {"loss": (model(batch[0])[0, 0, 0] * next(factors), tf.constant(1.0))}

    monkeypatch.setattr(rewards, "make_risk_loss", make_broken_loss)
    monkeypatch.setattr(rewards, "make_train_step", functools.partial(make_train_step, max_skipped=2))
    settings = QUICK | {"method": "minimum_risk", "optimizer": keras.optimizers.SGD(0.1)}
    with pytest.raises(FloatingPointError, match="got 2 in a row"):
        train_on_rewards(make_gru(), [[0]], count_threes, steps=3, **settings)


def test_progress_is_shown(eagerly, capsys):
    settings = QUICK | {"verbose": 1}
    train_on_rewards(make_gru(), [[0]], count_threes, optimizer=keras.optimizers.Adam(), steps=2, **settings)
    shown = capsys.readouterr().out
    assert "2/2" in shown
    assert "reward" in shown


@pytest.mark.slow
def test_xla_learns_the_same():
    found = []
    for jit_compile in (False, True):
        found.append(
            train_on_rewards(
                make_gru(),
                [[0], [1, 2], [4]],
                count_threes,
                optimizer=keras.optimizers.Adam(0.05),
                steps=3,
                jit_compile=jit_compile,
                **QUICK,
            )
        )
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"method": "ppo"}, r"method must be one of \('grpo', 'reinforce', 'minimum_risk'\); got 'ppo'"),
        ({"group_size": 1}, "group_size must be an int of at least 2; got 1"),
        ({"steps": 0}, "steps must be an int of at least 1; got 0"),
        (
            {"method": "reinforce", "updates": 2},
            "updates must be 1 for method='reinforce', which has no clipping; got 2",
        ),
        ({"method": "minimum_risk", "kl": 0.1}, "kl and reference must be left out for minimum_risk; got kl=0.1"),
        ({"clip": 0}, "clip must be above 0, or None; got 0"),
        (
            {"kl": 0.1, "start_step": 1, "steps": 2},
            "reference must be given, as it was before the first step, where kl=0.1 and start_step=1; got None",
        ),
        ({"verbose": 2}, "verbose must be 0 or 1; got 2"),
        ({"steps": 2, "start_step": 2}, "start_step must be below steps=2; got 2"),
        ({"end_id": 5}, r"end_id must lie in \[0, vocab_size=5\), or be -1 for none; got 5"),
        ({"end_id": -2}, "end_id must lie in .*; got -2"),
        (
            {"model": tfllm.RecurrentLM(3, "gru", 4), "tokenizer": LATE_END},
            r"end_id must lie in \[0, vocab_size=3\).* got 3",
        ),
        ({"model": tfllm.RecurrentLM(5, "gru", 4, dropout=0.1)}, "model must have no dropout"),
        (
            {"prompts": ["("], "tokenizer": TOKENIZER},  # of 4 ids
            "tokenizer must have an id for each of the model's vocab_size=5, because all that it writes is read; got 4",
        ),
        ({"prompts": []}, "prompts must be at least one; got none"),
        (
            {"prompts": [[1], []]},
            "prompts must have at least one id each, below the model's vocab_size=5; got .. in number 1",
        ),
        ({"prompts": ["ab"]}, "tokenizer must be given when prompts are text; got None"),
        (
            {"prompts": [[9]]},
            r"prompts must have at least one id each, below the model's vocab_size=5; got .9. in number 0",
        ),
        ({"reward": lambda prompt, answer: np.nan}, r"reward must return finite numbers; got nan for \["),
        (
            {"model": tfllm.TransformerLM(5, 4, 8, 1, 2)},
            "max_new_tokens must leave room for a prompt of 1 tokens in the model's",
        ),
    ],
)
def test_what_cannot_be_is_refused(eagerly, options, rule):
    given = {"model": make_gru(), "prompts": [[1]], "reward": count_threes, "steps": 1} | QUICK | options
    with pytest.raises(ValueError, match=rule):
        train_on_rewards(optimizer=keras.optimizers.SGD(0.1), **given)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_trained_model_is_no_reference(kl):
    model = make_gru()
    with pytest.raises(ValueError, match="reference must be another model than the trained one"):
        train_on_rewards(
            model, [[1]], count_threes, optimizer=keras.optimizers.SGD(0.1), steps=1, kl=kl, reference=model, **QUICK
        )


# ---------------------------------------------------------------- toy proofs


def is_balanced(text):
    depth = 0
    for bracket in text:
        depth += 1 if bracket == "(" else -1
        if depth < 0:
            return False
    return depth == 0


@pytest.mark.slow
def test_brackets_are_balanced_by_reward_alone():
    """A model that knows nothing learns from one bit a text to close what is open."""
    prompts = [text for n in range(1, 6) for text in _beginnings(n)]
    keras.utils.set_random_seed(0)
    model = tfllm.RecurrentLM(TOKENIZER.vocab_size, "gru", 48)
    history = train_on_rewards(
        model,
        prompts,
        lambda prompt, answer: float(is_balanced(prompt + answer)),
        TOKENIZER,
        optimizer=keras.optimizers.Adam(0.01),
        steps=200,
        group_size=16,
        prompts_per_step=8,
        max_new_tokens=8,
        verbose=0,
    )
    first, last = np.mean(history["reward"][:5]), np.mean(history["reward"][-20:])
    print(f"balanced: {first:.3f} of the texts at first, {last:.3f} at the end")
    assert first < 0.2
    assert last > 0.9


def _beginnings(length):
    """The texts of so many brackets that can still be balanced, with something open."""
    found = [""]
    for _ in range(length):
        found = [text + bracket for text in found for bracket in "()" if text.count("(") >= (text + bracket).count(")")]
    return [text for text in found if text.count("(") > text.count(")")]


@pytest.mark.slow
def test_addition_is_practised_by_reward():
    """A few supervised steps teach the form, a reward for right sums the rest; both are told only of other problems."""
    tokenizer = tfllm.CharTokenizer("0123456789+=", special_tokens=("<unk>", "<|endoftext|>"))
    problems = np.random.default_rng(0).permutation(10_000)
    prompts = [f"{n // 100:02d}+{n % 100:02d}=" for n in problems]
    sums = [f"{n // 100 + n % 100:03d}"[::-1] for n in problems]  # the ones first, as one adds
    truth = dict(zip(prompts, sums, strict=True))
    held_out = prompts[:300]
    keras.utils.set_random_seed(0)
    model = tfllm.TransformerLM(tokenizer.vocab_size, 16, 64, 2, 4)
    step = make_train_step(model, keras.optimizers.Adam(3e-3), jit_compile=True)
    for i in range(300):
        rows = slice(300 + 64 * i % 9000, 300 + 64 * i % 9000 + 64)
        step(tfllm.alignment.answer_batch(prompts[rows], sums[rows], tokenizer))
    generator = tfllm.TextGenerator(model, tokenizer)

    def accuracy():
        answers = generator.generate(held_out, strategy="greedy", max_new_tokens=4)
        return np.mean([answer == truth[prompt] for prompt, answer in zip(held_out, answers, strict=True)])

    before = accuracy()
    history = train_on_rewards(
        model,
        prompts[300:],
        lambda prompt, answer: float(answer == truth[prompt]),
        tokenizer,
        optimizer=keras.optimizers.Adam(1e-3),
        steps=300,
        group_size=16,
        prompts_per_step=16,
        max_new_tokens=4,
        verbose=0,
    )
    after = accuracy()
    first, last = np.mean(history["reward"][:5]), np.mean(history["reward"][-20:])
    print(
        f"held-out sums right: {before:.3f} after supervision, {after:.3f} after GRPO; reward {first:.3f} to {last:.3f}"
    )
    assert before < 0.6
    assert after > before + 0.2
