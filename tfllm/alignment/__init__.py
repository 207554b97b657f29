"""Training on what the model writes itself, by a reward, and on answers that people prefer; above generation."""

from tfllm.alignment.answers import answer_batch
from tfllm.alignment.rewards import train_on_rewards

__all__ = ["answer_batch", "train_on_rewards"]
