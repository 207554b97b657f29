"""Trainings that leave a folder behind: settings, weights, history, pictures."""

from tfllm.runs.curves import draw_curves
from tfllm.runs.folder import Run, check_free, load_run
from tfllm.runs.training import TrainingSettings, describe_scores, train_run

__all__ = ["Run", "TrainingSettings", "check_free", "describe_scores", "draw_curves", "load_run", "train_run"]
