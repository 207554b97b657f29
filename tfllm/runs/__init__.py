"""Trainings that leave a folder behind: settings, weights, history, pictures."""

from tfllm.runs.doctor import Report, doctor
from tfllm.runs.folder import Run, check_free, load_run
from tfllm.runs.forecasting import RunForecast, draw_forecast, forecast_runs, save_forecast
from tfllm.runs.reports import Comparison, compare_runs, evaluate_run
from tfllm.runs.settings import TrainingSettings
from tfllm.runs.training import describe_scores, train_run
from tfllm.runs.workers import run_workers
from tfllm.training.curves import draw_curves

__all__ = [
    "Comparison",
    "Report",
    "Run",
    "RunForecast",
    "TrainingSettings",
    "check_free",
    "compare_runs",
    "describe_scores",
    "doctor",
    "draw_curves",
    "draw_forecast",
    "evaluate_run",
    "forecast_runs",
    "load_run",
    "run_workers",
    "save_forecast",
    "train_run",
]
