"""Losses beyond the next token of a given text: preferences between texts, and rewards of texts that the model wrote itself.

They are losses like any other (`losses.py`): functions of a model and a batch that return totals, so `fit` and
`make_train_step` take them. Texts come as batches `(inputs int [B, T], targets int [B, T], weights float [B, T])` in which
the weights are 1 on the answer's tokens and 0 on the prompt's and behind the end.
"""

import math

import tensorflow as tf

from tfllm.training.losses import unpack, widen


def sequence_log_probs(model, batch, training=False):
    """The log-probability of every row's answer.

    Args:
        model: a `LanguageModel`, or any function of `(inputs, training=...)` that returns logits.
        batch: `(inputs, targets, weights)`; see above.
        training: bool, whether dropout acts.

    Returns:
        float32 [B], nats: the weighted sum over the tokens.

    Example:
        >>> uniform = lambda ids, training: tf.zeros([1, 2, 4])
        >>> print(f"{sequence_log_probs(uniform, ([[0, 1]], [[1, 2]], [[1.0, 1.0]]))[0]:.4f}")
        -2.7726
    """
    log_probs, weights = token_log_probs(model, batch, training)
    return tf.reduce_sum(log_probs * weights, -1)


def token_log_probs(model, batch, training=False):
    """Returns (float32 [B, T], nats of every target; float32 [B, T], their weights); arguments as `sequence_log_probs`."""
    inputs, targets, weights = unpack(batch)
    logits = widen(model(inputs, training=training))
    log_probs = -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    return log_probs, tf.cast(weights, log_probs.dtype)


def make_dpo_loss(reference, beta=0.1, label_smoothing=0.0):
    """Direct preference optimization: the model learns which of two answers people prefer, without a reward model.

    Args:
        reference: the model before the training, which is not changed: another `LanguageModel` with the same vocabulary.
        beta: float > 0, how much leaving the reference costs.
        label_smoothing: float in [0, 0.5), the share of pairs that are thought to be the wrong way round.

    Returns:
        A loss of a batch `(chosen, rejected)`, each a batch of texts with as many rows. Its totals count pairs: `"loss"` in
        nats, `"accuracy"` the pairs whose chosen answer gained more on the reference, `"margin"` by how many nats, times beta.

    Raises:
        ValueError: when an argument breaks its rule, or the loss is asked of the reference itself.

    Source: Rafailov et al. 2023, arXiv:2305.18290, equation 7; the smoothing is Mitchell 2023, "conservative DPO".
    """
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be a finite number above 0; got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5); got {label_smoothing}")

    def dpo_loss(model, batch, training=True):
        check_reference(model, reference)
        gains = [
            sequence_log_probs(model, texts, training) - tf.stop_gradient(sequence_log_probs(reference, texts))
            for texts in batch
        ]
        margin = beta * (gains[0] - gains[1])
        right, wrong = -tf.math.log_sigmoid(margin), -tf.math.log_sigmoid(-margin)
        nats = (1 - label_smoothing) * right + label_smoothing * wrong
        pairs = tf.cast(tf.size(margin), tf.float32)
        wins = tf.reduce_sum(tf.cast(margin > 0, tf.float32))
        return {
            "loss": (tf.reduce_sum(nats), pairs),
            "accuracy": (wins, pairs),
            "margin": (tf.reduce_sum(margin), pairs),
        }

    return dpo_loss


def check_reference(model, reference):
    """Raises ValueError when a reference is the trained model itself, from which there is no distance."""
    if model is reference:
        raise ValueError(
            f"reference must be another model than the trained one, such as a copy of it; got the same {type(model).__name__}"
        )


def group_advantages(rewards, normalize=True):
    """Compares the rewards of the texts that answer one prompt with each other.

    Args:
        rewards: float [B, G], of G texts for each of B prompts.
        normalize: bool, whether the differences are divided by the group's standard deviation (GRPO); without it they are
            those of REINFORCE with the mean as its baseline.

    Returns:
        float32 [B, G], 0 where a group's rewards are all the same.

    Example:
        >>> group_advantages([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]]).numpy().round(2).tolist()
        [[1.0, -1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.2.
    """
    rewards = tf.convert_to_tensor(rewards, tf.float32)
    centred = rewards - tf.reduce_mean(rewards, -1, keepdims=True)
    # The mean of equal numbers can miss them by a rounding, which the deviation, as small, would blow up to 1.
    centred = tf.where(tf.reduce_all(rewards == rewards[..., :1], -1, keepdims=True), 0.0, centred)
    if not normalize:
        return centred
    return tf.math.divide_no_nan(centred, tf.math.reduce_std(rewards, -1, keepdims=True))


def make_policy_loss(clip=None, reference=None, kl=0.0):
    """The policy gradient: texts that were better than expected become likelier.

    Args:
        clip: float > 0 such as 0.2, how far a token's probability may move from that under which it was drawn before its
            gradient is cut off, as in GRPO; None: REINFORCE, each text used once.
        reference: a model that the trained one should stay near to, or None.
        kl: float >= 0, what a nat of distance from it costs.

    Returns:
        A loss of a batch `(inputs, targets, weights, advantages float [B], log_probs float [B, T])`, where `log_probs` are
        those of the targets when they were drawn (read only where `clip` is given). Its totals count tokens: `"loss"`, and
        `"kl"` in nats where there is a reference.

    Raises:
        ValueError: when an argument breaks its rule, or the loss is asked of the reference itself.

    Source: Williams 1992; Schulman et al. 2017, arXiv:1707.06347, equation 7; Shao et al. 2024, arXiv:2402.03300, equations
    3 and 4.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, or None; got {clip}")
    if not (math.isfinite(kl) and kl >= 0) or (kl and reference is None):
        raise ValueError(f"kl must be a finite number of at least 0, and 0 without a reference; got {kl}")

    def policy_loss(model, batch, training=True):
        check_reference(model, reference)
        *texts, advantages, drawn = batch
        log_probs, weights = token_log_probs(model, texts, training)
        advantages = tf.cast(advantages, log_probs.dtype)[:, None]

        def counted(values):
            # Padding can be anything, and infinity times a weight of 0 is no number.
            return tf.where(weights > 0, values, 0.0)

        log_probs = counted(log_probs)
        if clip is None:
            gain = advantages * log_probs
        else:
            ratio = tf.exp(log_probs - counted(tf.cast(drawn, log_probs.dtype)))
            gain = tf.minimum(ratio * advantages, tf.clip_by_value(ratio, 1 - clip, 1 + clip) * advantages)
        totals, weight = {}, tf.reduce_sum(weights)
        cost = -gain
        if reference is not None:
            gap = counted(tf.stop_gradient(token_log_probs(reference, texts)[0])) - log_probs
            distance = tf.exp(gap) - gap - 1  # an estimate of the divergence that is never below 0
            cost += kl * distance
            totals["kl"] = (tf.reduce_sum(distance * weights), weight)
        return {"loss": (tf.reduce_sum(cost * weights), weight)} | totals

    return policy_loss


def make_risk_loss(sharpness=0.005):
    """Minimum-risk training: the expected cost over a group of texts, each as likely as the model says.

    Args:
        sharpness: float > 0, the power of the probabilities; smaller ones make the texts of a group more alike in weight.

    Returns:
        A loss of a batch `(inputs, targets, weights, costs float [B, G])` whose B * G rows are the groups, those of a prompt
        next to each other; a cost is, for instance, 1 - BLEU of the text. Its totals count prompts. Groups are not cut apart,
        so `accumulate` must be 1.

    Raises:
        ValueError: when `sharpness` is not above 0.

    Source: Shen et al. 2016, arXiv:1512.02433, equations 8 and 9.
    """
    if not (math.isfinite(sharpness) and sharpness > 0):
        raise ValueError(f"sharpness must be a finite number above 0; got {sharpness}")

    def risk_loss(model, batch, training=True):
        *texts, costs = batch
        likely = sequence_log_probs(model, texts, training)
        costs = tf.cast(costs, likely.dtype)
        likely = tf.reshape(likely, tf.shape(costs))
        risk = tf.reduce_sum(tf.nn.softmax(sharpness * likely) * costs, -1)
        return {"loss": (tf.reduce_sum(risk), tf.cast(tf.size(risk), tf.float32))}

    return risk_loss
