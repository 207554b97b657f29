"""Losses, metrics, optimizers and the GradientTape step; they see a model as a function and a list of weights."""

from tfllm.training import forecast
from tfllm.training.averaging import WeightAverage
from tfllm.training.losses import LMLoss, lm_loss, make_lm_loss
from tfllm.training.metrics import Perplexity, WeightedMean
from tfllm.training.optimizers import exclude_from_decay, make_adamw
from tfllm.training.preference import (
    group_advantages,
    make_dpo_loss,
    make_policy_loss,
    make_risk_loss,
    sequence_log_probs,
    token_log_probs,
)
from tfllm.training.rate_range import RateRange, find_rate_range
from tfllm.training.resume import Checkpoints, Resume, stream_from
from tfllm.training.schedules import (
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    OneCycle,
    WarmupStableDecay,
    learning_rates,
)
from tfllm.training.step import SkippedSteps, gradient_step, make_train_step
from tfllm.training.update_rules import Adam, Lookahead

__all__ = [
    "Adam",
    "Checkpoints",
    "Constant",
    "Cosine",
    "InverseSquareRoot",
    "LMLoss",
    "Linear",
    "Lookahead",
    "OneCycle",
    "Perplexity",
    "RateRange",
    "Resume",
    "SkippedSteps",
    "WarmupStableDecay",
    "WeightAverage",
    "WeightedMean",
    "exclude_from_decay",
    "find_rate_range",
    "forecast",
    "gradient_step",
    "group_advantages",
    "learning_rates",
    "lm_loss",
    "make_adamw",
    "make_dpo_loss",
    "make_lm_loss",
    "make_policy_loss",
    "make_risk_loss",
    "make_train_step",
    "sequence_log_probs",
    "stream_from",
    "token_log_probs",
]
