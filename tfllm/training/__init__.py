"""Losses, metrics, optimizers and the GradientTape step; they see a model as a function and a list of weights."""

from tfllm.training import forecast
from tfllm.training.losses import lm_loss
from tfllm.training.metrics import Perplexity, WeightedMean
from tfllm.training.optimizers import make_adamw
from tfllm.training.preference import (
    group_advantages,
    make_dpo_loss,
    make_policy_loss,
    make_risk_loss,
    sequence_log_probs,
    token_log_probs,
)
from tfllm.training.schedules import (
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    OneCycle,
    WarmupStableDecay,
    learning_rates,
)
from tfllm.training.step import gradient_step, make_train_step

__all__ = [
    "Constant",
    "Cosine",
    "InverseSquareRoot",
    "Linear",
    "OneCycle",
    "Perplexity",
    "WarmupStableDecay",
    "WeightedMean",
    "forecast",
    "gradient_step",
    "group_advantages",
    "learning_rates",
    "lm_loss",
    "make_adamw",
    "make_dpo_loss",
    "make_policy_loss",
    "make_risk_loss",
    "make_train_step",
    "sequence_log_probs",
    "token_log_probs",
]
