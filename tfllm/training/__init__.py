"""Losses, metrics, optimizers and the GradientTape step; they see a model as a function and a list of weights."""

from tfllm.training.losses import lm_loss
from tfllm.training.metrics import Perplexity, WeightedMean
from tfllm.training.optimizers import make_adamw
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
    "gradient_step",
    "learning_rates",
    "lm_loss",
    "make_adamw",
    "make_train_step",
]
