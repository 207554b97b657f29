"""Losses, metrics, optimizers and the GradientTape step; they see a model as a function and a list of weights."""

from tfllm.training import forecast
from tfllm.training.averaging import ValidateAverage, WeightAverage
from tfllm.training.distribution import Workers, make_strategy, read_workers, shard_rows, workers_of
from tfllm.training.losses import LMLoss, lm_loss, make_lm_loss
from tfllm.training.metrics import Perplexity, WeightedMean
from tfllm.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    exclude_from_decay,
    make_adamw,
    make_optimizer,
    make_schedule,
)
from tfllm.training.plateau import Converged, Plateau, ReduceOnPlateau
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
from tfllm.training.scheduled_sampling import (
    make_exponential_share,
    make_inverse_sigmoid_share,
    make_linear_share,
    make_scheduled_sampling_loss,
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
from tfllm.training.step import SkippedSteps, gradient_step, make_train_step, score_batch
from tfllm.training.update_rules import Adam, Lookahead
from tfllm.training.watching import HistoryFile, LivePicture, TensorBoard, Throughput

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Adam",
    "Checkpoints",
    "Constant",
    "Converged",
    "Cosine",
    "HistoryFile",
    "InverseSquareRoot",
    "LMLoss",
    "Linear",
    "LivePicture",
    "Lookahead",
    "OneCycle",
    "Perplexity",
    "Plateau",
    "RateRange",
    "ReduceOnPlateau",
    "Resume",
    "SkippedSteps",
    "TensorBoard",
    "Throughput",
    "ValidateAverage",
    "WarmupStableDecay",
    "WeightAverage",
    "WeightedMean",
    "Workers",
    "exclude_from_decay",
    "find_rate_range",
    "forecast",
    "gradient_step",
    "group_advantages",
    "learning_rates",
    "lm_loss",
    "make_adamw",
    "make_dpo_loss",
    "make_exponential_share",
    "make_inverse_sigmoid_share",
    "make_linear_share",
    "make_lm_loss",
    "make_optimizer",
    "make_policy_loss",
    "make_risk_loss",
    "make_schedule",
    "make_scheduled_sampling_loss",
    "make_strategy",
    "make_train_step",
    "read_workers",
    "score_batch",
    "sequence_log_probs",
    "shard_rows",
    "stream_from",
    "token_log_probs",
    "workers_of",
]
