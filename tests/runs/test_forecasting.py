"""The forecast of run folders, made by hand from a law that is known."""

import csv
import json

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from tfllm.cli import app
from tfllm.runs import draw_forecast, forecast_runs
from tfllm.runs.forecasting import _rates
from tfllm.training import forecast


def losses_of(rates):
    """The law of momentum with L0 = 1.2, A = 3, alpha = 0.5, C = 0.2 (1 - lambda), lambda = 0.99, in units of the peak."""
    rates = rates / rates.max()
    falls, momentum, gain, gains = np.maximum(rates[:-1] - rates[1:], 0), 0.0, 0.0, [0.0]
    for fall in falls:
        momentum = 0.99 * momentum + fall
        gain += 0.01 * momentum
        gains.append(gain)
    return 1.2 + 3 * np.cumsum(rates) ** -0.5 - 0.2 * np.array(gains)


def make_run(path, steps, every=50, until=None, settings=None, **changes):
    """Writes the two files that a forecast reads."""
    path.mkdir()
    training = {"steps": steps, "learning_rate": 2e-3} | (settings or {})
    (path / "config.json").write_text(json.dumps({"tfllm": "0", "model": {}, "training": training}))
    rates = _rates(training)
    losses, done = losses_of(rates), np.arange(every, (until or steps) + 1, every)
    columns = {
        "step": done,
        "loss": losses[done - 1],
        "val_loss": losses[done - 1] + 0.01,
        "learning_rate": rates[np.minimum(done, steps - 1)],
    } | changes
    with open(path / "history.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def invoke(*arguments):
    result = CliRunner().invoke(app, ["forecast", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_first_run_is_forecast_from_its_beginning_and_another_run(tmp_path):
    half, other = make_run(tmp_path / "half", 2000, until=1000), make_run(tmp_path / "other", 1200)
    found = forecast_runs([half, other], law="momentum")
    truth = losses_of(_rates({"steps": 2000, "learning_rate": 2e-3}))[-1] + 0.01
    assert found.forecast.loss[-1] == pytest.approx(truth, abs=0.005)
    assert found.forecast.low[-1] < truth < found.forecast.high[-1]
    assert len(found.forecast.loss) == 2000
    assert "loss 1." in str(found)
    assert "measured" not in str(found)
    whole = forecast_runs([make_run(tmp_path / "whole", 2000), other], until=1000, law="momentum")
    np.testing.assert_allclose(whole.forecast.loss, found.forecast.loss)  # what comes later is not looked at
    assert f"measured {truth:.4f}" in str(whole)
    assert len(forecast_runs([other], steps=5000).learning_rates) == 5000


def test_rates_are_those_of_the_settings():
    linear = {"schedule": "linear", "warmup_steps": 0, "decay_steps": None, "final_rate": 0.0}
    found = _rates({"steps": 5, "learning_rate": 1.0} | linear)
    np.testing.assert_allclose(found, [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)
    # Runs made before there was a choice took a cosine to a tenth after 100 steps, at most half of all.
    early = _rates({"steps": 400, "learning_rate": 1.0})
    np.testing.assert_allclose(early[[0, 100, 250]], [1 / 101, 1, 0.55], rtol=1e-5)


def test_the_picture_shows_every_part(tmp_path):
    run, other = make_run(tmp_path / "run", 2000), make_run(tmp_path / "other", 1200)
    figure = draw_forecast(forecast_runs([run, other], until=1200))
    top, bottom = figure.axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels[0] == "other, measured"
    assert {"90% interval", "fit", "measured", "measured later, not used"} < set(labels)
    assert any(label.startswith("forecast: 1.") for label in labels)
    assert bottom.get_ylabel() == "learning\nrate"


def test_the_command_writes_the_picture(tmp_path):
    run = make_run(tmp_path / "run", 1000)
    code, output, error = invoke(run, "--until", 600, "--law", "momentum")
    assert code == 0, error
    assert "Law('momentum', fitted to 1 curve" in output
    assert matplotlib.image.imread(run / "forecast.png").shape[:2] == (660, 880)
    assert invoke(run)[0] == 0  # its own picture is replaced
    assert invoke(run, "--out", run / "forecast.png")[::2] == (
        2,
        f"error: out must be free unless force is given; got '{run / 'forecast.png'}'\n",
    )
    assert invoke(run, "--out", run / "forecast.png", "--force")[0] == 0
    for place in (tmp_path / "nowhere" / "f.png", tmp_path):  # refused before the run is read
        assert invoke(tmp_path / "no run", "--out", place, "--force")[::2] == (
            2,
            f"error: out must be the path of a file in a folder that exists; got '{place}'\n",
        )


def test_runs_that_are_not_alike_teach_nothing(tmp_path):
    shared = {"model": "lstm", "dim": 64, "num_heads": 4, "source": "a.txt", "source_sha256": "ab", "batch_size": 16}
    first = make_run(tmp_path / "first", 1000, settings=shared)
    for number, (change, message) in enumerate(
        [
            ({"model": "gru"}, "have the same model; got 'lstm' in "),
            ({"dim": 128}, "have the same dim; got 64 in "),
            ({"batch_size": 8}, "have the same batch_size; got 16 in "),
            ({"source_sha256": "cd"}, "be trained on one text; got "),
        ]
    ):
        other = make_run(tmp_path / f"other{number}", 1000, settings=shared | change)
        code, _, error = invoke(first, other)
        assert (code, error.count("\n")) == (2, 1)
        assert error.startswith(f"error: runs must {message}")
        assert str(other) in error
    heads = make_run(tmp_path / "heads", 1000, settings=shared | {"num_heads": 8})  # which an LSTM has none of
    early = make_run(tmp_path / "early", 1000)  # of a version that wrote down less
    assert len(forecast_runs([first, heads, early], law="momentum").curves) == 3


def test_runs_that_cannot_be_forecast_are_refused_in_one_sentence(tmp_path):
    ones = np.ones(20)
    run = make_run(tmp_path / "run", 1000)
    by_heart = make_run(tmp_path / "heart", 1000, loss=np.linspace(2, 0.5, 20), val_loss=np.linspace(2, 2.2, 20))
    nan = make_run(tmp_path / "nan", 1000, val_loss=np.where(np.arange(20) < 15, np.linspace(3, 2, 20), np.nan))
    for arguments, message in (
        ([tmp_path / "nowhere"], "run must be a folder that `tfllm train` made"),
        ([by_heart], "learns its data by heart"),
        ([nan], "got nan at step 799: the run diverged"),
        ([make_run(tmp_path / "flat", 1000, loss=ones, val_loss=ones)], "losses must fall"),
        ([make_run(tmp_path / "few", 1000, every=250)], "at least 8 losses"),
        ([make_run(tmp_path / "rates", 1000, learning_rate=ones)], "run must have taken the rates of its settings"),
        ([make_run(tmp_path / "long", 1000, step=np.arange(20) * 100 + 100)], "run must end within its steps=1000"),
        ([make_run(tmp_path / "text", 1000, step=["a"] * 20)], "run must hold a config.json and a history.csv"),
        ([run, "--until", 10], "until must come after the first measured loss, at step 50; got 10"),
        ([run, "--steps", 1], "steps must be at least 2; got 1"),
        ([run, "--interval", 2], r"interval must lie in (0, 1)"),
        ([run, "--law", "moore"], "law must be one of"),
    ):
        code, _, error = invoke(*arguments)
        assert (code, error.count("\n")) == (2, 1), error
        assert error.startswith("error: ")
        assert message in error
    document = json.loads((run / "config.json").read_text())
    for schedule, message in (
        ("plateau", "run must have rates that are known ahead"),
        ("linear", "rates of its settings"),
    ):
        changed = document | {"training": document["training"] | {"schedule": schedule}}
        (run / "config.json").write_text(json.dumps(changed))
        assert message in invoke(run)[2]
    (run / "history.csv").unlink()
    assert "run must have been evaluated at least once" in invoke(run)[2]
    assert isinstance(forecast.NoForecast("why"), ValueError)
