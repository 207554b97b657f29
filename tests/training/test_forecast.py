"""The loss forecast, on curves made from the laws themselves: the truth is known, with and without noise."""

import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfllm.training import forecast
from tfllm.training.forecast_callback import schedule_of
from tfllm.training.forecast_laws import LAWS, Momentum, MultiPower, grid_of, loss_of, make_plan, warmup_of
from tfllm.training.plateau import Plateau
from tfllm.training.schedules import Cosine, Linear, WarmupStableDecay, learning_rates
from tfllm.training.update_rules import Lookahead

PEAK, WARMUP = 1e-3, 40
TRUTH = {"L0": 2.5, "A": 0.5, "alpha": 0.5, "B": 200.0, "C": 2.0, "beta": 0.6, "gamma": 0.5}
MOMENTUM = {"L0": 2.5, "A": 0.5, "alpha": 0.5, "C": 0.4, "lambda": 0.995}


def schedules(steps):
    """Schedules of several shapes, one of them with rates that rise again."""
    rates = {
        "constant": np.full(steps, PEAK),
        "cosine": learning_rates(Cosine(PEAK, steps, WARMUP), steps),
        "linear": learning_rates(Linear(PEAK, steps, WARMUP, final=0.0), steps),
        "wsd": learning_rates(WarmupStableDecay(PEAK, steps, steps // 4, WARMUP), steps),
        "two-stage": np.where(np.arange(steps) < steps // 2, PEAK, 0.3 * PEAK),
        "cyclic": PEAK * (0.6 + 0.4 * np.cos(np.arange(steps) / 60)),
    }
    for curve in rates.values():
        curve[:WARMUP] = PEAK * (np.arange(WARMUP) + 1) / (WARMUP + 1)
    return rates


def naive_multi_power(rates, L0, A, alpha, B, C, beta, gamma):
    """The law as the paper writes it: a sum over all drops for every step."""
    sums, loss = np.cumsum(rates), np.zeros(len(rates))
    for t in range(len(rates)):
        gain = 0.0
        for k in range(warmup_of(rates) + 1, t + 1):
            if rates[k] != rates[k - 1]:
                level = max(rates[k], 1e-4 * PEAK)
                since = sums[t] - sums[k - 1]
                gain += (rates[k - 1] - rates[k]) * (1 - (C * level**-gamma * since + 1) ** -beta)
        loss[t] = L0 + A * sums[t] ** -alpha - B * gain
    return loss


def naive_momentum(rates, values):
    sums, area, momentum, loss = np.cumsum(rates), 0.0, 0.0, np.zeros(len(rates))
    for t in range(len(rates)):
        drop = rates[t - 1] - rates[t] if t > warmup_of(rates) else 0.0
        momentum = values["lambda"] * momentum + drop
        area += momentum
        loss[t] = values["L0"] + values["A"] * sums[t] ** -values["alpha"] - values["C"] * area
    return loss


def theta_of(values, scale):
    """The parameters of a paper in the units of `forecast_laws`."""
    lead = [np.log(values["L0"]), np.log(values["A"] * (scale * PEAK) ** -values["alpha"]), np.log(values["alpha"])]
    if "lambda" in values:
        rest = 1 - values["lambda"]
        return np.array([*lead, np.log(values["C"] * PEAK / rest), np.log(rest)])
    speed = np.log(values["C"] * PEAK ** (1 - values["gamma"]))
    return np.array([*lead, np.log(values["B"] * PEAK), speed, np.log(values["beta"]), values["gamma"]])


def law_of(values, curves=()):
    """A law that was not fitted but is known."""
    kind, name = (Momentum, "momentum") if "lambda" in values else (MultiPower, "multi_power")
    problem = type("Problem", (), {"curves": curves, "peak": PEAK, "kind": kind, "scale": 1000.0})
    theta = theta_of(values, 1000.0)
    return forecast.Law(name, problem, theta, np.zeros([len(theta)] * 2), 0.0)


def measured(rates, seed=0, noise=2e-3, every=20, law=None):
    """A curve of the known law, measured with noise; `noise` is the deviation of the logarithm."""
    steps = np.arange(WARMUP + every, len(rates), every)
    losses = (law or law_of(TRUTH)).predict(rates)[steps]
    return forecast.Curve(rates, steps, losses * np.exp(noise * np.random.default_rng(seed).normal(size=len(steps))))


@pytest.fixture(scope="module")
def fitted():
    rates = schedules(3000)
    return forecast.fit([measured(rates[name], seed) for seed, name in enumerate(["constant", "cosine", "two-stage"])])


@pytest.mark.parametrize("name", schedules(100))
def test_prediction_is_the_sum_over_all_drops(name):
    rates = schedules(700)[name]
    found = law_of(TRUTH).predict(rates)
    np.testing.assert_allclose(found[WARMUP:], naive_multi_power(rates, **TRUTH)[WARMUP:], atol=1e-5)
    found = law_of(MOMENTUM).predict(rates)
    np.testing.assert_allclose(found[WARMUP:], naive_momentum(rates, MOMENTUM)[WARMUP:], atol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "wsd", "linear", "cyclic"])
def test_groups_of_drops_and_lines_between_steps_stay_close_on_long_schedules(name):
    rates = schedules(4_000)[name] / PEAK
    theta = theta_of(TRUTH, 1000.0)
    some = np.linspace(WARMUP, 3_999, 25).astype(int)
    exact = loss_of(MultiPower, make_plan(rates, some, blocks=4_000), theta, 1000.0)[0]
    tolerance = 2e-4 if name == "cyclic" else 3e-5  # 10 rises and falls are grouped more coarsely
    np.testing.assert_allclose(law_of(TRUTH).predict(rates * PEAK)[some], exact, atol=tolerance)
    grid = grid_of(MultiPower, rates, theta, 2.5e-6)
    assert (grid[0], grid[-1], len(grid) < 4000) == (0, 3_999, True)


@pytest.mark.parametrize("kind", LAWS.values())
def test_gradients_against_finite_differences(kind):
    rates = schedules(300)["cyclic"] / PEAK
    plan = make_plan(rates, np.array([60, 150, 299]))
    theta = theta_of(TRUTH if kind is MultiPower else MOMENTUM, 200.0)
    moves = 1e-6 * np.eye(len(theta))
    expected = [
        (loss_of(kind, plan, theta + m, 200.0)[0] - loss_of(kind, plan, theta - m, 200.0)[0]) / 2e-6 for m in moves
    ]
    np.testing.assert_allclose(loss_of(kind, plan, theta, 200.0)[1], np.transpose(expected), rtol=1e-5, atol=1e-8)


def test_a_fit_predicts_other_and_longer_schedules(fitted):
    truth = law_of(TRUTH)
    for steps in (3000, 9000):
        for name in ("wsd", "cosine"):
            rates = schedules(steps)[name]
            difference = fitted.predict(rates) - truth.predict(rates)
            assert np.abs(difference[WARMUP:]).max() < 0.01, name


def test_the_law_of_momentum_recovers_itself():
    rates, truth = schedules(3000), law_of(MOMENTUM)
    law = forecast.fit([measured(rates[name], law=truth) for name in ("constant", "two-stage")], law="momentum")
    value, error = law.parameters()["lambda"]
    assert abs(value - MOMENTUM["lambda"]) < 3 * error
    assert error < 0.002
    np.testing.assert_allclose(law.predict(rates["wsd"])[WARMUP:], truth.predict(rates["wsd"])[WARMUP:], atol=0.006)


def test_wild_points_hardly_matter():
    rates = schedules(3000)
    curves = [measured(rates[name], noise=1e-3) for name in ("constant", "cosine")]
    wild = [
        forecast.Curve(c.learning_rates, c.steps, c.losses * np.where(np.arange(len(c.steps)) % 12, 1, 1.3))
        for c in curves
    ]
    clean, dirty = (forecast.fit(some).predict(rates["wsd"])[-1] for some in (curves, wild))
    assert dirty == pytest.approx(clean, abs=0.02)  # where one point in twelve is 0.8 too high


def test_intervals_hold_measured_losses_and_grow_where_nothing_was_seen(fitted):
    rates = schedules(6000)["wsd"]
    new = measured(rates, seed=9)
    loss, low, high = fitted.predict(rates, interval=0.9)
    inside = (low[new.steps] <= new.losses) & (new.losses <= high[new.steps])
    assert 0.8 < inside.mean() <= 1
    np.testing.assert_array_equal(loss, fitted.predict(rates))
    wider = fitted.predict(rates, interval=0.99)
    assert np.all((wider.low < low) & (wider.high > high))
    flat = forecast.fit(measured(schedules(3000)["constant"]))  # has seen no fall
    spread = {
        name: np.diff(flat.predict(schedules(3000)[name], 0.9)[1:], axis=0)[0, -1] for name in ("constant", "wsd")
    }
    assert spread["wsd"] > 3 * spread["constant"]


def test_the_interval_of_a_few_points_knows_that_the_law_is_not_the_truth():
    rates = learning_rates(Cosine(PEAK, 3000, 100, 0.1), 3000)
    truth = 1.2 + 3 * (np.arange(3000) + 51.0) ** -0.35 + 0.25 * (rates / PEAK - 1)  # of neither family
    steps = np.linspace(110, 1499, 8).astype(int)
    held = []
    for seed in range(6):
        losses = truth[steps] * np.exp(0.004 * np.random.default_rng(seed).normal(size=8))
        _, low, high = forecast.fit(forecast.Curve(rates, steps, losses)).predict(rates, 0.9)
        held.append(low[-1] < truth[-1] < high[-1])
    assert sum(held) >= 5


@pytest.mark.parametrize("counts", [[8], [1, 7], [4, 4], [2, 3, 3]])
def test_the_law_is_tried_on_what_it_was_not_fitted_to_however_few_points_there_are(counts):
    rates = np.full(1000, PEAK)
    curves = []
    for number, count in enumerate(counts):
        steps = np.linspace(100 + number, 990 + number, count).astype(int)
        curves.append(forecast.Curve(rates, steps, 2 + 3 * (steps + 1.0) ** -0.3))
    law = forecast.fit(curves)
    assert law._times >= 1
    assert law._missed > 0


def test_the_law_shows_its_error_and_not_its_parameters(fitted):
    assert repr(fitted).startswith("Law('multi_power', fitted to 3 curves with 441 points: R2 0.9")
    assert "alpha" not in repr(fitted)
    assert set(fitted.parameters()) == set(TRUTH)
    for name, (value, error) in fitted.parameters().items():
        assert error > 0
        assert abs(value - TRUTH[name]) < 4 * error, name


def test_score_is_worked_out_by_hand(fitted):
    curve = measured(schedules(3000)["wsd"])
    error = curve.losses - fitted.predict(curve.learning_rates)[curve.steps]
    score = fitted.score(curve)
    assert score["mae"] == pytest.approx(np.abs(error).mean())
    assert score["worst"] == pytest.approx(np.abs(error).max())
    assert score["r2"] == pytest.approx(1 - (error**2).sum() / ((curve.losses - curve.losses.mean()) ** 2).sum())


def test_the_optimized_schedule_beats_the_usual_ones_under_the_true_law():
    steps, truth = 3000, law_of(TRUTH, curves=[measured(schedules(3000)["cosine"])])
    schedule = forecast.optimize_schedule(truth, steps, peak=PEAK, warmup_steps=WARMUP)
    rates = learning_rates(schedule, steps)
    assert warmup_of(rates) == WARMUP
    assert np.all(np.diff(rates[WARMUP:]) <= 1e-9)
    assert rates.max() == pytest.approx(PEAK)
    assert rates[-1] >= 0.0999 * PEAK  # the lowest rate that was seen
    others = [truth.predict(schedules(steps)[name])[-1] for name in ("constant", "cosine", "wsd", "two-stage")]
    assert truth.predict(rates)[-1] < min(others) - 1e-3
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.Adam(schedule)))
    np.testing.assert_array_equal(learning_rates(copy._learning_rate, steps), rates)


def test_no_small_change_improves_the_optimized_schedule():
    truth = law_of(TRUTH, curves=[measured(schedules(3000)["cosine"])])
    schedule = forecast.optimize_schedule(truth, 2000)
    best = truth.predict(learning_rates(schedule, 2000))[-1]
    for knot in (10, 30, 50, 60):
        for change in (-0.03, 0.03):
            shares = np.array(schedule.shares)
            shares[knot] = np.clip(shares[knot] + change, shares[knot + 1], shares[knot - 1])
            other = forecast.OptimizedSchedule(PEAK, 2000, shares)
            assert truth.predict(learning_rates(other, 2000))[-1] > best - 2e-5


def test_should_stop():
    rates, truth = schedules(3000)["cosine"], law_of(TRUTH)
    others = [measured(schedules(3000)[name], seed) for seed, name in enumerate(["constant", "cosine"])]
    whole = measured(rates, seed=5)
    begun = forecast.Curve(rates, whole.steps[:40], whole.losses[:40])
    final = truth.predict(rates)[-1]
    assert forecast.should_stop(begun, final - 0.05, curves=others)
    assert not forecast.should_stop(begun, final + 0.05, curves=others)
    assert not forecast.should_stop(begun, final - 0.002, curves=others)  # worse, but who could be sure
    few = forecast.Curve(rates, whole.steps[:3], whole.losses[:3])
    assert not forecast.should_stop(few, 0.1)


class Scripted(keras.Model):
    """A model whose losses are those of a curve, whatever it sees."""

    def __init__(self, losses, gap=0.0):
        super().__init__()
        self.script, self.gap = tf.constant(losses, tf.float32), gap
        self.weight = self.add_weight(shape=(), initializer="zeros")

    def train_step(self, data):
        self.optimizer.apply([tf.zeros([])], [self.weight])
        return self._script_at(gap=0.0)

    def test_step(self, data):
        return self._script_at(self.gap)

    def _script_at(self, gap):
        step = tf.cast(self.optimizer.iterations, tf.int32) - 1
        # Had these the names of Keras's own metrics and no others, Keras would report those.
        return {"loss": self.script[step] + gap * tf.cast(step, tf.float32), "step": step}


def scripted_fit(steps, callback, losses, rate, per_epoch=20, gap=0.0):
    model = Scripted(losses, gap)
    model.compile(keras.optimizers.SGD(rate))
    data = tf.data.Dataset.from_tensors(0.0).repeat(per_epoch)
    epochs = steps // per_epoch
    return model.fit(
        data, validation_data=data.take(1), epochs=epochs, shuffle=False, verbose=0, callbacks=[callback]
    ).history


def test_the_callback_logs_the_forecast_of_the_last_step():
    steps, schedule = 600, Cosine(PEAK, 600, WARMUP)
    losses = law_of(TRUTH).predict(learning_rates(schedule, steps))
    callback = forecast.LossForecast(steps, curves=[measured(schedules(600)["two-stage"], every=10)])
    history = scripted_fit(steps, callback, losses, schedule)
    assert len(history["final_loss"]) == 30
    for at, tolerance in ((10, 0.05), (29, 0.01)):
        assert history["final_loss"][at] == pytest.approx(losses[-1], abs=tolerance)
        assert history["final_loss_low"][at] < losses[-1] < history["final_loss_high"][at]
    assert callback.stopped_at is None
    assert callback.reason is None


def test_the_callback_waits_for_points_and_stops_a_bad_run():
    steps = 600
    losses = law_of(TRUTH).predict(np.full(steps, PEAK))
    callback = forecast.LossForecast(steps, best=float(losses[-1]) - 0.3)
    history = scripted_fit(steps, callback, losses, PEAK)
    assert np.isnan(history["final_loss"][:7]).all()
    assert callback.stopped_at < 400
    assert len(history["loss"]) == (callback.stopped_at + 1) // 20
    late = forecast.LossForecast(steps, monitor="loss")
    assert np.isnan(scripted_fit(40, late, losses, PEAK)["final_loss"]).all()
    assert "at least 8 losses" in late.reason


def test_a_resumed_callback_forecasts_exactly_what_an_undisturbed_one_does():
    steps, rates = 400, schedules(400)["cosine"]
    losses = law_of(TRUTH).predict(rates)

    def drive(callback, epochs):
        optimizer = types.SimpleNamespace(iterations=0, learning_rate=rates[0])
        callback.set_model(types.SimpleNamespace(optimizer=optimizer, stop_training=False))
        for epoch in epochs:
            optimizer.iterations = 20 * (epoch + 1)
            optimizer.learning_rate = rates[min(optimizer.iterations, steps - 1)]
            loss = float(losses[optimizer.iterations - 1])
            logs = {"loss": loss, "val_loss": loss}
            callback.on_epoch_end(epoch, logs)
            yield [logs["final_loss"], logs["final_loss_low"], logs["final_loss_high"]]

    def make():
        return forecast.LossForecast(steps, rates, curves=[measured(schedules(400)["two-stage"], every=10)], best=0.1)

    whole, first, second = make(), make(), make()
    found = list(drive(whole, range(18)))
    begun = list(drive(first, range(13)))
    second.set_state(json.loads(json.dumps(first.get_state())))
    np.testing.assert_array_equal(begun + list(drive(second, range(13, 18))), found)
    for one, other in zip(second.line().forecast, whole.line().forecast, strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole.line().begin == WARMUP
    assert whole.line().seen <= 20 * 18 - 1
    assert make().line() is None


def test_the_callback_begins_anew_with_another_run_and_goes_on_with_the_same_one():
    losses = law_of(TRUTH).predict(np.full(400, PEAK))
    data = tf.data.Dataset.from_tensors(0.0).repeat(20)
    callback = forecast.LossForecast(400)

    def fit(model, **settings):
        return model.fit(
            data, validation_data=data.take(1), shuffle=False, verbose=0, callbacks=[callback], **settings
        ).history

    models = [Scripted(losses), Scripted(losses)]
    for model, rate in zip(models, (PEAK, 2 * PEAK), strict=True):
        model.compile(keras.optimizers.SGD(rate), run_eagerly=True)
    first, second = (fit(model, epochs=9) for model in models)
    assert callback.learning_rates[0] == pytest.approx(2 * PEAK)
    np.testing.assert_allclose(second["final_loss"], first["final_loss"], rtol=1e-5)  # laws know shares of the peak
    assert np.isnan(second["final_loss"]).tolist() == 7 * [True] + 2 * [False]
    model = Scripted(losses)
    model.compile(keras.optimizers.SGD(PEAK), run_eagerly=True)
    parts = fit(model, epochs=5), fit(model, initial_epoch=5, epochs=9)
    np.testing.assert_array_equal(parts[0]["final_loss"] + parts[1]["final_loss"], first["final_loss"])


def test_the_callback_bears_an_epoch_without_a_step():
    callback = forecast.LossForecast(40)
    callback.set_model(types.SimpleNamespace(optimizer=keras.optimizers.SGD(PEAK), stop_training=False))
    callback.on_train_begin()
    logs = {"loss": 3.0, "val_loss": 3.0}
    callback.on_epoch_end(0, logs)
    assert callback.reason == "no step was taken yet"
    assert np.isnan(logs["final_loss"])
    callback.model.optimizer.iterations.assign(20)
    callback.on_epoch_end(1, logs)
    assert "at least 8 losses measured after the warm-up; got 1" in callback.reason


def test_the_callback_gives_no_forecast_of_rates_that_the_losses_decide():
    def drive(callback, optimizer, losses, change=lambda epoch: None):
        callback.set_model(types.SimpleNamespace(optimizer=optimizer, stop_training=False))
        callback.on_train_begin()
        for epoch, loss in enumerate(losses):
            optimizer.iterations.assign(10 * epoch + 10)
            logs = {"loss": loss, "val_loss": loss}
            change(epoch)
            callback.on_epoch_end(epoch, logs)
        return logs["final_loss"]

    fall = (2 + np.arange(10.0, 110, 10) ** -0.5).tolist()
    known = forecast.LossForecast(200)
    assert np.isfinite(drive(known, keras.optimizers.SGD(PEAK), fall))
    plateau = forecast.LossForecast(200)
    assert np.isnan(drive(plateau, keras.optimizers.SGD(Plateau(PEAK)), fall))
    assert "must be known ahead; got a Plateau" in plateau.reason
    lowered, optimizer = forecast.LossForecast(200), keras.optimizers.SGD(PEAK)  # as Keras's ReduceLROnPlateau does

    def reduce(epoch):
        if epoch == 9:
            optimizer.learning_rate = PEAK / 2

    assert np.isnan(drive(lowered, optimizer, fall, reduce))
    assert lowered.reason.endswith("got 0.001 for the step after 99, and the optimizer has 0.0005")
    set_late, optimizer = forecast.LossForecast(200, np.linspace(2, 1, 200) * PEAK), keras.optimizers.SGD(PEAK)

    def follow(epoch):  # as a callback does that sets the rate when a step begins
        optimizer.learning_rate = set_late.learning_rates[10 * epoch + 9]

    assert np.isfinite(drive(set_late, optimizer, fall, follow))


@pytest.mark.parametrize("wrap", [Lookahead, lambda inner: keras.optimizers.LossScaleOptimizer(Lookahead(inner))])
def test_the_schedule_is_found_inside_of_other_optimizers(wrap):
    schedule = Cosine(PEAK, 40, 4)
    found = schedule_of(wrap(keras.optimizers.SGD(schedule)), 40)
    np.testing.assert_array_equal(found, learning_rates(schedule, 40))


def test_the_callback_gives_no_forecast_of_what_is_learned_by_heart():
    callback = forecast.LossForecast(200)
    history = scripted_fit(200, callback, np.linspace(3.0, 2.9, 200), PEAK, per_epoch=10, gap=0.01)
    assert np.isnan(history["final_loss"]).all()
    assert "learns its data by heart" in callback.reason


def test_check_gap():
    fall = 2 + np.arange(1.0, 25) ** -0.5
    forecast.check_gap(fall, fall + 0.1)
    forecast.check_gap(fall + 0.5 * np.linspace(1, 0, 24), fall)  # means over epochs lag behind
    widening = fall + np.linspace(0, 0.6, 24)
    forecast.check_gap(fall, widening, passes=0.8)
    with pytest.raises(forecast.NoForecast, match=r"widened from .* learns its data by heart"):
        forecast.check_gap(fall, widening)
    with pytest.raises(forecast.NoForecast, match="learns its data by heart"):
        forecast.check_gap(fall, fall + np.where(np.arange(24) < 15, 0, 0.1), passes=4)
    with pytest.raises(ValueError, match="two lists of one length"):
        forecast.check_gap([1.0], [1.0, 2.0])


RATES, STEPS = np.full(100, 1e-3), np.arange(0, 100, 10)
FALL = 3 - np.arange(10) / 10


@pytest.mark.parametrize(
    ("rates", "steps", "losses", "kind", "message"),
    [
        (RATES, [50], [3.0], forecast.NoForecast, "at least 8 losses measured after the warm-up; got 1"),
        (np.linspace(0.1, 1, 100), STEPS, FALL, forecast.NoForecast, "after the warm-up; got 0"),
        (RATES, STEPS, np.full(10, 3.0), forecast.NoForecast, "losses must fall; those of curve 0 went from 3.0000"),
        (RATES, STEPS, FALL[::-1], forecast.NoForecast, "losses must fall"),
        (RATES, STEPS, np.where(STEPS < 80, FALL, 7.5), forecast.NoForecast, "to 7.5000: the run diverged"),
        (
            RATES,
            STEPS,
            np.where(STEPS == 50, np.nan, FALL),
            forecast.NoForecast,
            "got nan at step 50: the run diverged",
        ),
        (RATES, STEPS, np.where(STEPS == 50, np.inf, FALL), forecast.NoForecast, "got inf at step 50"),
        (RATES[:60], STEPS, FALL, ValueError, "up to the last measured one, 90, .* got 60 rates"),
        (-RATES, STEPS, FALL, ValueError, r"finite and at least 0; got -0.001 at step 0"),
        (RATES * np.nan, STEPS, FALL, ValueError, "finite and at least 0; got nan"),
        (RATES * 0, STEPS, FALL, ValueError, "must hold a rate above 0"),
        ([], STEPS, FALL, ValueError, "the rate of every step"),
        (RATES, STEPS[:5], FALL, ValueError, "two lists of one length"),
        (RATES, STEPS[::-1], FALL, ValueError, "each above the one before"),
        (RATES, STEPS - 5, FALL, ValueError, "steps start at 0 or later"),
    ],
)
def test_curves_that_no_law_holds_for_are_refused_with_the_reason(rates, steps, losses, kind, message):
    with pytest.raises(kind, match=message):
        forecast.fit(forecast.Curve(rates, steps, losses))


def test_bad_arguments_are_refused(fitted):
    curve = measured(schedules(1000)["constant"])
    with pytest.raises(ValueError, match="law must be one of"):
        forecast.fit(curve, law="power")
    with pytest.raises(ValueError, match=r"interval must lie in \(0, 1\)"):
        fitted.predict(RATES, interval=1.5)
    with pytest.raises(ValueError, match="finite and at least 0"):
        fitted.predict([1e-3, np.inf])
    with pytest.raises(ValueError, match="one rate for each of steps=90; got 100"):
        forecast.LossForecast(90, RATES)
    with pytest.raises(ValueError, match="best must be finite"):
        forecast.LossForecast(100, best=np.nan)
    with pytest.raises(ValueError, match=r"confidence must lie in \[0.5, 1\)"):
        forecast.should_stop(curve, 2.0, confidence=1.0)
    with pytest.raises(ValueError, match="monitor must be one of the logs"):
        scripted_fit(40, forecast.LossForecast(40, monitor="bleu"), np.ones(40), PEAK)
    absent = forecast.LossForecast(40, monitor="val_bleu")  # validation may come every few epochs
    assert np.isnan(scripted_fit(40, absent, np.ones(40), PEAK)["final_loss"]).all()
    assert "no val_bleu" in absent.reason
    with pytest.raises(ValueError, match="length of the whole run; got 30"):
        scripted_fit(40, forecast.LossForecast(30), np.linspace(2, 1, 40), PEAK)
    with pytest.raises(forecast.NoForecast, match="one whose rate falls"):
        forecast.optimize_schedule([curve], 1000)
    for arguments, message in (
        ({"steps": 10, "warmup_steps": 9}, "steps must be at least 2 above warmup_steps"),
        ({"steps": 100, "peak": np.inf}, "peak must be finite"),
        ({"steps": 100, "lowest": 1.0}, "above lowest"),
    ):
        with pytest.raises(ValueError, match=message):
            forecast.optimize_schedule(fitted, **arguments)
