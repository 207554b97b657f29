"""The loss of optimization steps that no run has taken yet, under any learning-rate schedule.

    law = forecast.fit([forecast.Curve(learning_rates, steps, losses), ...])
    law.predict(learning_rates_of_another_run, interval=0.9)

A law is fitted to one to three loss curves with their schedules and predicts the curve of another schedule for the same
model, data and batch size: `Law.predict`, the `LossForecast` callback, `should_stop` for tuning, and `optimize_schedule`,
which finds the schedule that the law promises most of. Beside it stands `fit_scaling_law` for runs of several sizes. Where
the law does not hold, `NoForecast` says why.

Sources: Luo et al. 2025, arXiv:2503.12811; Tissue et al. 2024, arXiv:2408.11029; Hoffmann et al. 2022, arXiv:2203.15556.
"""

from tfllm.training.forecast_callback import LossForecast, schedule_of
from tfllm.training.forecast_fit import Curve, Forecast, Law, NoForecast, fit
from tfllm.training.forecast_rules import check_gap, should_stop
from tfllm.training.forecast_schedule import OptimizedSchedule, optimize_schedule
from tfllm.training.scaling_law import ScalingLaw, Split, fit_scaling_law

__all__ = [
    "Curve",
    "Forecast",
    "Law",
    "LossForecast",
    "NoForecast",
    "OptimizedSchedule",
    "ScalingLaw",
    "Split",
    "check_gap",
    "fit",
    "fit_scaling_law",
    "optimize_schedule",
    "schedule_of",
    "should_stop",
]
