"""Training by a reward: the model writes texts, a function of Python says how good they are, and the better become likelier.

REINFORCE, GRPO and minimum risk are one loop with three losses (`training/preference.py`). Texts are drawn from the model's own
distribution, at temperature 1 and without cut-offs, because that is the one whose gradient is taken. Left out: a learned
critic, and rewards for single tokens.

Sources: Williams 1992, doi:10.1007/BF00992696; Shen et al. 2016, arXiv:1512.02433; Shao et al. 2024, arXiv:2402.03300.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfllm.alignment.answers import encode_all, rows_of
from tfllm.data.order import shuffle_index
from tfllm.generation.history import END, NAN
from tfllm.generation.settings import Vocabulary, make_settings
from tfllm.generation.strategy import Sample, check_size
from tfllm.training.preference import (
    check_reference,
    group_advantages,
    make_policy_loss,
    make_risk_loss,
    token_log_probs,
)
from tfllm.training.step import make_train_step

METHODS = ("grpo", "reinforce", "minimum_risk")


def train_on_rewards(
    model,
    prompts,
    reward,
    tokenizer=None,
    *,
    optimizer,
    steps,
    method="grpo",
    group_size=8,
    prompts_per_step=8,
    max_new_tokens=32,
    end_id=None,
    updates=1,
    clip=0.2,
    kl=0.0,
    reference=None,
    sharpness=1.0,
    clip_norm=1.0,
    seed=0,
    start_step=0,
    jit_compile=False,
    verbose=1,
):
    """Trains a model on the rewards of texts that it writes.

    In every step it continues some prompts, each several times, and moves towards the texts that did better than the others of
    their prompt. What is drawn in step s is a function of `seed`, s and the weights, so a run goes on exactly with
    `start_step` where weights and optimizer were saved.

    Args:
        model: a `LanguageModel`; without dropout, which would make its texts those of another model.
        prompts: list of str, or of lists of ids; all are visited in random order, again and again.
        reward: function of (prompt, answer) that returns a number, the more the better. The prompt is as it was given; the
            answer, what was written without an end, is a str with a tokenizer and else a list of ids.
        tokenizer: the tokenizer, with as many ids as the model or more, or None for ids.
        optimizer: a Keras optimizer.
        steps: int >= 1, steps of the whole run, those before `start_step` included.
        method: "grpo": rewards are compared within a prompt's group and divided by its standard deviation, the policy gradient
            is clipped, every text counts alike. "reinforce": compared with the group's mean, every token counts alike.
            "minimum_risk": the expected cost (the negative reward) over the group.
        group_size: int >= 2, texts for each prompt.
        prompts_per_step: int >= 1.
        max_new_tokens: int >= 1, tokens a text has at most, the end included.
        end_id: int, the token that ends a text; None for the tokenizer's, -1 for none. The model learns when to write it.
        updates: int >= 1, optimization steps on the same texts; above 1 only where they are clipped (GRPO).
        clip: float > 0, see `training.make_policy_loss`; for GRPO.
        kl: float >= 0, what a nat of distance from the reference costs; for GRPO and REINFORCE.
        reference: the model to stay near to; None takes a copy of the model as it is, where `kl` is above 0. A run that goes on
            needs the one that it began with.
        sharpness: float > 0, see `training.make_risk_loss`; for minimum risk.
        clip_norm: float > 0, the longest gradient, or None.
        seed: int.
        start_step: int >= 0 and below `steps`, steps that were done before.
        jit_compile: bool, whether XLA compiles decoding and optimization; they have one shape, so once.
        verbose: 0 or 1, whether progress is shown.

    Returns:
        dict of lists, one number a step: `"step"`, counted from 0; `"reward"`, the mean of the step's texts; `"best_reward"`, of
        the best of every group; `"loss"`; `"kl"` in nats a token where there is a reference; `"tokens"`, the mean length of the
        texts with their ends; and `"grad_norm"`.

    Raises:
        ValueError: when an argument breaks its rule, a prompt leaves no room, or a reward is no finite number.
        FloatingPointError: when 10 optimization steps in a row had a gradient that is not finite.

    Example:
        >>> model = tfllm.RecurrentLM(4, "gru", 8)
        >>> def count_threes(prompt, answer):
        ...     return answer.count(3)
        >>> history = train_on_rewards(model, [[0], [1]], count_threes, optimizer=keras.optimizers.Adam(0.05), steps=2,
        ...                            group_size=4, prompts_per_step=2, max_new_tokens=4, verbose=0)
        >>> sorted(history)
        ['best_reward', 'grad_norm', 'loss', 'reward', 'step', 'tokens']

    Source: see the top of the file; Shao et al. 2024, arXiv:2402.03300, equation 3 and algorithm 1, with one reference.
    """
    for name, size, least in (
        ("group_size", group_size, 2),
        ("prompts_per_step", prompts_per_step, 1),
        ("updates", updates, 1),
        ("steps", steps, 1),
        ("max_new_tokens", max_new_tokens, 1),
        ("start_step", start_step, 0),
    ):
        check_size(name, size, least)
    if start_step >= steps:
        raise ValueError(f"start_step must be below steps={steps}; got {start_step}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}; got {method!r}")
    if updates > 1 and method != "grpo":
        raise ValueError(f"updates must be 1 for method={method!r}, which has no clipping; got {updates}")
    if method == "minimum_risk" and (kl or reference is not None):
        raise ValueError(f"kl and reference must be left out for minimum_risk; got kl={kl}")
    check_reference(model, reference)
    if verbose not in (0, 1):
        raise ValueError(f"verbose must be 0 or 1; got {verbose!r}")
    if kl and reference is None and start_step:
        raise ValueError(
            f"reference must be given, as it was before the first step, where kl={kl} and start_step={start_step}; got None"
        )
    prompts = list(prompts)
    rows = encode_all("prompts", prompts, tokenizer)
    writer = _Writer(model, rows, tokenizer, end_id, max_new_tokens, group_size, jit_compile)
    if kl and reference is None:
        reference = type(model).from_config(model.get_config())
        reference.set_weights(model.get_weights())
    clip = clip if method == "grpo" else None
    loss_fn = make_risk_loss(sharpness) if method == "minimum_risk" else make_policy_loss(clip, reference, kl)
    train_step = make_train_step(model, optimizer, loss_fn, clip_norm=clip_norm, jit_compile=jit_compile)
    recall = tf.function(lambda *texts: token_log_probs(model, texts)[0], jit_compile=jit_compile, autograph=False)

    history = {}
    progress = keras.utils.Progbar(steps, verbose=verbose, stateful_metrics=["reward"], unit_name="step")
    for step in range(start_step, steps):
        places = range(step * prompts_per_step, (step + 1) * prompts_per_step)
        chosen = [int(shuffle_index(place % len(rows), len(rows), seed, place // len(rows))) for place in places]
        answers, texts = writer.write(chosen, [seed, step])
        rewards = _rewards(reward, [prompts[number] for number in chosen], answers, tokenizer, group_size)
        batch = _batch(method, texts, rewards)
        if clip is not None:
            batch = (*batch[:4], recall(*batch[:3]))  # before the weights move
        for _ in range(updates):
            results = train_step(batch)
        logs = {"step": step, "reward": rewards.mean(), "best_reward": rewards.max(1).mean()}
        logs |= {name: results[name] for name in ("loss", "kl", "grad_norm") if name in results}
        logs["tokens"] = (texts[2] > 0).sum(1).mean()
        for name, value in logs.items():
            history.setdefault(name, []).append(int(value) if name == "step" else float(value))
        shown = [(name, history[name][-1]) for name in ("reward", "loss", "kl") if name in history]
        progress.update(step + 1, shown, finalize=step + 1 == steps)
    train_step.skipped_steps.check(train_step.skipped_steps.max_skipped)  # of the last steps too
    return history


class _Writer:
    """Lets a model continue prompts, as the batches of ids that losses read.

    All batches have one shape, so everything is traced once.
    """

    def __init__(self, model, rows, tokenizer, end_id, max_new_tokens, group_size, jit_compile):
        if any(isinstance(layer, keras.layers.Dropout) and layer.rate for layer in model._flatten_layers()):
            raise ValueError(
                "model must have no dropout, which would make its texts those of another; got one with some"
            )
        if not rows:
            raise ValueError("prompts must be at least one; got none")
        longest = max(len(row) for row in rows)
        for number, row in enumerate(rows):
            if not 0 <= max(row, default=-1) < model.vocab_size:
                rule = f"at least one id each, below the model's vocab_size={model.vocab_size}"
                raise ValueError(f"prompts must have {rule}; got {row} in number {number}")
        if model.max_length is not None and longest + max_new_tokens > model.max_length:
            raise ValueError(
                f"max_new_tokens must leave room for a prompt of {longest} tokens in the model's "
                f"max_length={model.max_length}; got {max_new_tokens}"
            )
        vocabulary = Vocabulary() if tokenizer is None else Vocabulary.of(tokenizer)
        if end_id is not None:
            vocabulary = dataclasses.replace(vocabulary, end_id=end_id)
        if tokenizer is not None and model.vocab_size > tokenizer.vocab_size:
            raise ValueError(
                f"tokenizer must have an id for each of the model's vocab_size={model.vocab_size}, because all that it writes "
                f"is read; got {tokenizer.vocab_size}"
            )
        if not -1 <= vocabulary.end_id < model.vocab_size:
            raise ValueError(
                f"end_id must lie in [0, vocab_size={model.vocab_size}), or be -1 for none; got {vocabulary.end_id}"
            )
        self.rows, self.end_id, self.max_new_tokens, self.longest = rows, vocabulary.end_id, max_new_tokens, longest
        self.vocab_size, self.group_size = model.vocab_size, group_size

        def search(ids, lengths, settings):
            found = Sample(group_size).search(
                model, {"ids": ids, "lengths": lengths}, settings, vocabulary, max_new_tokens
            )
            return found["ids"], found["count"], found["finish"]

        self.search = tf.function(search, jit_compile=jit_compile, autograph=False)

    def write(self, chosen, seeds):
        """Continues the prompts of these numbers.

        Returns:
            (lists of ids of the answers, those of a prompt next to each other; the batch).
        """
        asked = [self.rows[number] for number in chosen]
        ids = np.zeros([len(asked), self.longest], np.int32)
        for row, prompt in enumerate(asked):
            ids[row, : len(prompt)] = prompt
        lengths = np.array([len(prompt) for prompt in asked], np.int32)
        draws = np.random.SeedSequence([seed % 2**64 for seed in seeds]).generate_state(len(asked)) >> 1
        settings = make_settings(
            len(asked), self.vocab_size, max_new_tokens=self.max_new_tokens, seed=draws.astype(np.int32).tolist()
        )
        new, count, finish = (found.numpy() for found in self.search(ids, lengths, settings))
        if (finish == NAN).any():
            raise ValueError(f"model must give logits that are numbers; got NaN after prompt {chosen[0]}")
        answers = [row[:size].tolist() for row, size in zip(new, count, strict=True)]
        ended = [[*row, self.end_id] if why == END else row for row, why in zip(answers, finish, strict=True)]
        asked = [prompt for prompt in asked for _ in range(self.group_size)]
        return answers, rows_of(asked, ended, self.longest + self.max_new_tokens - 1)


def _rewards(reward, prompts, answers, tokenizer, group_size):
    """Returns float64 [B, G], what the function says of every answer."""
    asked = [prompt for prompt in prompts for _ in range(group_size)]
    if tokenizer is not None:
        texts = tokenizer.decode(tf.ragged.constant(answers, tf.int32, ragged_rank=1)).numpy()
        answers = [text.decode("utf-8", "replace") for text in texts]
    rewards = np.array([reward(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)], np.float64)
    wrong = np.flatnonzero(~np.isfinite(rewards))
    if len(wrong):
        raise ValueError(f"reward must return finite numbers; got {rewards[wrong[0]]} for {answers[wrong[0]]!r}")
    return rewards.reshape(-1, group_size)


def _batch(method, texts, rewards):
    """Returns what the method's loss reads; the place of the drawn log-probabilities is empty."""
    inputs, targets, weights = texts
    if method == "minimum_risk":
        return inputs, targets, weights, -rewards.astype(np.float32)
    advantages = group_advantages(rewards, normalize=method == "grpo").numpy().reshape(-1)
    if method == "grpo":  # every text counts alike, however long it is
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1)
    return inputs, targets, weights, advantages, np.zeros_like(weights)
