"""Trainings that leave a folder behind: settings, weights, history, pictures."""

from tfllm.runs.curves import draw_curves
from tfllm.runs.folder import Run, check_free, load_run
from tfllm.runs.forecasting import RunForecast, draw_forecast, forecast_runs, save_forecast
from tfllm.runs.training import TrainingSettings, describe_scores, train_run

__all__ = [
    "Run",
    "RunForecast",
    "TrainingSettings",
    "check_free",
    "describe_scores",
    "draw_curves",
    "draw_forecast",
    "forecast_runs",
    "load_run",
    "save_forecast",
    "train_run",
]
