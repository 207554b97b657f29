"""How well the laws forecast loss curves: public ones of a 25M model, and runs of this project.

    python benchmarks/forecast.py --curves FOLDER [--picture PNG]
    python benchmarks/forecast.py --curves FOLDER --choose-priors
    python benchmarks/forecast.py --runs 10 [--steps 2000 --target-steps 6000] [--picture PNG]

With --curves, both laws are fitted to three of nine public curves and compared with the other six. FOLDER holds nine files
of `step,lr,loss`: constant_24000.csv, constant_72000.csv, cosine_24000.csv, cosine_72000.csv, wsd_20000_24000.csv,
wsdld_20000_24000.csv, wsdcon_3.csv, wsdcon_9.csv and wsdcon_18.csv, published with Luo et al. 2025, arXiv:2503.12811.
With --choose-priors, the weak priors of the laws are chosen instead, and only the three fitted curves are read.

With --runs, small Transformers learn Shakespeare's characters. For each seed three short runs under three schedules are
fitted, and the final validation loss of longer runs is forecast: under WSD, cosine and the schedule that `optimize_schedule`
finds. Short and long runs of a seed begin with the same weights and see the same batches, because seeds differ by more than
forecasts err. Reported are the errors, how often the 90 % interval held, and how the schedules compare.
"""

import argparse
import pathlib
import time

import numpy as np
from scipy.stats import ttest_rel

from tfllm.picture import Picture
from tfllm.training import forecast
from tfllm.training.forecast_laws import LAWS
from tfllm.training.schedules import Constant, Cosine, WarmupStableDecay, learning_rates

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
TESTED = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
PEAK, LOWEST, WARMUP = 3e-4, 3e-5, 2160
CONTEXT, BATCH, WARMUP_STEPS, RATE = 64, 12, 100, 2e-3


def read_curve(folder, name):
    """Reads a public curve; the rates between its points are worked out from the name and checked at them."""
    table = np.genfromtxt(pathlib.Path(folder) / f"{name}.csv", delimiter=",", names=True)
    steps, kind, number = table["step"].astype(int), *name.split("_")[:2]
    every = np.arange(steps[-1] + 1)
    since = (every - int(number)) / 4000
    after = {
        "constant": lambda: np.full(len(every), PEAK),
        "cosine": lambda: (
            LOWEST + (PEAK - LOWEST) * (1 + np.cos(np.pi * (every - WARMUP) / (int(number) - WARMUP))) / 2
        ),
        "wsd": lambda: PEAK * (LOWEST / PEAK) ** np.maximum(since, 0),
        "wsdld": lambda: PEAK + (LOWEST - PEAK) * np.maximum(since, 0),
        "wsdcon": lambda: np.where(every < 8000, PEAK, int(number) * 1e-5),
    }[kind]()
    rates = np.where(every < WARMUP, PEAK * (every + 1) / (WARMUP + 1), after)
    np.testing.assert_allclose(rates[steps], table["lr"], rtol=1e-6)
    return forecast.Curve(rates, steps, table["loss"])


# Candidates of the weak priors: round numbers, fixed before any was tried. The middle of C's is what the paper begins its own
# fit with (C = 2, beta = gamma = 0.5) in the units of `forecast_laws`: 2 * (3e-4) ** (1 - 0.5) = 0.035.
STAGES = {
    "multi_power": {
        "C, beta, gamma": [
            {"own": (np.log(c), np.log(beta), 0.5), "width": width}
            for width in ((0.5, 0.2, 0.1), (1.0, 0.4, 0.2), (2.0, 0.8, 0.4))
            for c in (0.003, 0.01, 0.03, 0.1)
            for beta in (0.3, 0.5, 0.8)
        ],
        "B": [{"fall": (np.log(share), width)} for share in (0.02, 0.05, 0.1) for width in (0.5, 1.0, 2.0)],
        "wild": [{"wild": wild} for wild in (1.345, 2.0, 3.0, 5.0)],
    },
    "momentum": {
        "lambda": [{"own": (np.log(r),), "width": (w,)} for r in (3e-4, 1e-3, 3e-3) for w in (0.75, 1.5, 3.0)],
        "C": [{"fall": (np.log(share), width)} for share in (0.02, 0.05, 0.1) for width in (0.5, 1.0, 2.0)],
        "wild": [{"wild": wild} for wild in (1.345, 2.0, 3.0, 5.0)],
    },
}
SHORT = 8000  # steps of the long curves that one fold sees: a third, as the three curves are of the longest others


def folds(curves):
    """Returns list of (curves to fit, curves to forecast): each left out in turn, and the long ones from their first third."""
    found = [
        ([c for other, c in curves.items() if other != name], [after_warmup(curve)]) for name, curve in curves.items()
    ]
    long = [curve for name, curve in curves.items() if not name.startswith("wsdcon")]
    rest = [part_of(curve, curve.steps >= SHORT) for curve in long]
    begun = [part_of(curve, curve.steps < SHORT) for curve in long]
    return [*found, (begun + [curve for curve in curves.values() if not any(curve is one for one in long)], rest)]


def part_of(curve, kept):
    return forecast.Curve(curve.learning_rates, curve.steps[kept], curve.losses[kept])


def after_warmup(curve):
    return part_of(curve, curve.steps >= WARMUP)


def choose_priors(folder):
    """Chooses the weak priors of both laws on the three curves that they are fitted to, without a look at another one.

    Stage after stage (the law's own parameters, the share of the loss that a fall brings, the threshold of the Huber loss)
    candidates are compared by their mean absolute error in five forecasts: each curve left out in turn, and the last two
    thirds of both long curves from their first third and the third curve. Among those within 2 % of the lowest error the
    widest prior is taken, because it shall decide only what curves leave open, and of equally wide ones the best.
    """
    curves = {name: read_curve(folder, name) for name in FITTED}
    for kind, stages in STAGES.items():
        middle = {name: options[len(options) // 2] for name, options in stages.items()}
        chosen = {key: value for options in middle.values() for key, value in options.items()}
        for stage, options in stages.items():
            print(f"\n{kind}, {stage}\n| candidate | mean absolute error | of each forecast | in the 90 % interval |")
            print("|---|---|---|---|")
            found = []
            for option in options:
                errors, inside = try_candidate(kind, chosen | option, curves)
                found.append(np.mean(errors))
                shown = ", ".join(f"{name} {np.round(value, 4).tolist()}" for name, value in option.items())
                each = ", ".join(f"{error:.4f}" for error in errors)
                print(
                    f"| {shown} | {np.mean(errors):.5f} | {each} | {', '.join(f'{i:.0%}' for i in inside)} |",
                    flush=True,
                )
            near = [number for number, error in enumerate(found) if error <= 1.02 * min(found)]
            chosen |= options[min(near, key=lambda number: (-width_of(options[number]), found[number]))]
        print(f"\n{kind}: chosen {chosen}")


def width_of(option):
    return option["width"][0] if "width" in option else option["fall"][1] if "fall" in option else 0


def try_candidate(kind, chosen, curves):
    """Returns (errors, shares inside of the 90 % interval) of the forecasts of all folds under a candidate's priors."""
    law = LAWS[kind]
    mean, deviation = law.prior_mean.copy(), law.prior_deviation.copy()
    (mean[3], deviation[3]), mean[4:], deviation[4:] = chosen["fall"], chosen["own"], chosen["width"]
    settings = {"prior_mean": mean, "prior_deviation": deviation, "wild": chosen["wild"]}
    LAWS["candidate"] = type("Candidate", (law,), settings)
    errors, inside = [], []
    for seen, unseen in folds(curves):
        fitted = forecast.fit(seen, law="candidate")
        for curve in unseen:
            loss, low, high = (values[curve.steps] for values in fitted.predict(curve.learning_rates, interval=0.9))
            errors.append(np.abs(loss - curve.losses).mean())
            inside.append(np.mean((low <= curve.losses) & (curve.losses <= high)))
    return errors, inside


def public_curves(folder, picture):
    curves = {name: read_curve(folder, name) for name in FITTED + TESTED}
    laws = {}
    for kind in ("multi_power", "momentum"):
        began = time.perf_counter()
        laws[kind] = law = forecast.fit([curves[name] for name in FITTED], law=kind)
        fitted = time.perf_counter()
        found = {name: law.predict(curves[name].learning_rates, interval=0.9) for name in curves}
        predicted = time.perf_counter()
        print(f"\n{law}\nfit {fitted - began:.1f} s, nine forecasts with intervals {predicted - fitted:.1f} s\n")
        print("| curve | | R2 | mean absolute error | worst | final loss off | in the 90 % interval |")
        print("|---|---|---|---|---|---|---|")
        rows = []
        for name, curve in curves.items():
            score, at = law.score(curve), curve.steps
            inside = np.mean((found[name].low[at] <= curve.losses) & (curve.losses <= found[name].high[at]))
            final = found[name].loss[at[-1]] - curve.losses[-1]
            rows.append([score["r2"], score["mae"], score["worst"], abs(final), inside])
            print(
                f"| {name} | {'fitted' if name in FITTED else 'forecast'} | {score['r2']:.4f} | {score['mae']:.4f} | "
                f"{score['worst']:.4f} | {final:+.4f} | {inside:.0%} |"
            )
        r2, mae, worst, final, inside = np.mean(rows[len(FITTED) :], axis=0)
        print(f"| mean of the six | | {r2:.4f} | {mae:.4f} | {worst:.4f} | {final:.4f} | {inside:.0%} |")
        losses = np.concatenate([curves[name].losses for name in TESTED])
        error = np.concatenate([found[name].loss[curves[name].steps] for name in TESTED]) - losses
        r2 = 1 - np.mean(error**2) / np.var(losses)
        print(
            f"| their {len(losses):,} points | | {r2:.4f} | {np.abs(error).mean():.4f} | {np.abs(error).max():.4f} | | |"
        )
    if picture:
        draw(curves, laws["multi_power"], FITTED, picture)


def draw(curves, law, fitted, path):
    """Draws curves with their forecasts and intervals, a panel a curve; loss axes leave out the first tenth."""
    names = list(curves)
    rows = -(-len(names) // 3)
    figure = Picture(figsize=(12, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        curve = curves[name]
        found, every = law.predict(curve.learning_rates, interval=0.9), np.arange(len(curve.learning_rates))
        shown = every >= curve.steps[len(curve.steps) // 10]
        panel.plot(curve.steps / 1000, curve.losses, ".", color="black", ms=3, label="measured")
        panel.fill_between(every[shown] / 1000, found.low[shown], found.high[shown], color="C0", alpha=0.3, lw=0)
        panel.plot(every[shown] / 1000, found.loss[shown], color="C0", label="fit" if name in fitted else "forecast")
        low, high = found.low[shown].min(), curve.losses[curve.steps >= every[shown][0]].max()
        panel.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        panel.set_title(name)
        panel.grid(alpha=0.3)
        panel.legend()
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel("thousand steps")
    figure.supylabel("loss (nats a token)")
    figure.savefig(path, dpi=100)


def train(text, schedule, steps, seed, evaluations):
    """Trains a small Transformer and returns the `Curve` of its validation loss."""
    import keras

    import tfllm

    keras.utils.set_random_seed(seed)
    begin, rest = tfllm.data.split_text(text, 0.1)
    tokenizer = tfllm.CharTokenizer.train(text)
    model = tfllm.TransformerLM(tokenizer.vocab_size, CONTEXT, 64, 2, 4, positions="rotary")
    batches = tfllm.data.lm_dataset(begin, tokenizer, CONTEXT, BATCH, seed=seed).repeat()
    held_out = tfllm.data.lm_dataset(rest[:32_768], tokenizer, CONTEXT, 64, shuffle=False).cache()
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1, beta_2=0.99)
    model.compile(optimizer, jit_compile=True, steps_per_execution=50)
    epoch = steps // evaluations
    history = model.fit(
        batches, validation_data=held_out, steps_per_epoch=epoch, epochs=evaluations, shuffle=False, verbose=0
    ).history
    forecast.check_gap(history["loss"], history["val_loss"])
    measured = epoch * np.arange(1, evaluations + 1) - 1
    return forecast.Curve(learning_rates(schedule, steps), measured, history["val_loss"])


def own_runs(runs, steps, target, evaluations, picture):
    import tfllm

    text = tfllm.load_text("shakespeare")
    schedules = {
        "constant": Constant(RATE, WARMUP_STEPS),
        "cosine": Cosine(RATE, steps, WARMUP_STEPS),
        "WSD": WarmupStableDecay(RATE, steps, steps // 5, WARMUP_STEPS),
    }
    targets = {
        "WSD": WarmupStableDecay(RATE, target, target // 5, WARMUP_STEPS),
        "cosine": Cosine(RATE, target, WARMUP_STEPS),
    }
    finals, held, errors, shown = {name: [] for name in (*targets, "optimized")}, [], [], {}
    print(f"| {target:,} steps under | seed | forecast | 90 % interval | measured | off |\n|---|---|---|---|---|---|")
    for seed in range(1, runs + 1):
        short = {name: train(text, schedule, steps, seed, evaluations) for name, schedule in schedules.items()}
        law = forecast.fit(list(short.values()))
        targets["optimized"] = forecast.optimize_schedule(law, target, peak=RATE, warmup_steps=WARMUP_STEPS)
        for name, schedule in targets.items():
            curve = train(text, schedule, target, seed, evaluations)
            loss, low, high = (values[-1] for values in law.predict(curve.learning_rates, interval=0.9))
            final = curve.losses[-1]
            finals[name].append(final)
            held.append(low <= final <= high)
            errors.append(abs(loss / final - 1))
            if seed == 1:
                shown, shown_law = shown | short | {f"{name}, {target:,} steps": curve}, law
            print(
                f"| {name} | {seed} | {loss:.4f} | {low:.4f} to {high:.4f} | {final:.4f} | {loss / final - 1:+.2%} |",
                flush=True,
            )
    near = np.mean(np.array(errors) < 0.01)
    print(f"\nOff by {np.mean(errors):.2%} in the mean, {np.max(errors):.2%} at most; within 1 %: {near:.0%}")
    print(f"\nThe interval held {sum(held)} of {len(held)} final losses.")
    for name, losses in finals.items():
        line = f"{name}: final validation loss {np.mean(losses):.4f} over {runs} seeds"
        if name != "optimized" and runs > 1:
            test = ttest_rel(finals["optimized"], losses)
            better = np.mean(losses) - np.mean(finals["optimized"])
            line += f"; optimized is {better:+.4f} lower, paired t-test p = {test.pvalue:.3f}"
        print(line)
    if picture:
        draw(shown, shown_law, list(schedules), picture)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", help="the folder of the public curves")
    parser.add_argument("--choose-priors", action="store_true", help="with --curves: choose on the three fitted ones")
    parser.add_argument("--runs", type=int, default=0, help="seeds of runs of one's own")
    parser.add_argument("--steps", type=int, default=2000, help="of each of the three short runs")
    parser.add_argument("--target-steps", type=int, default=6000, help="of each longer run")
    parser.add_argument("--evaluations", type=int, default=40, help="of each run")
    parser.add_argument("--picture", help="a PNG file to write")
    arguments = parser.parse_args()
    if not arguments.curves and not arguments.runs:
        parser.error("give --curves FOLDER or --runs N")
    if arguments.curves and arguments.choose_priors:
        choose_priors(arguments.curves)
    elif arguments.curves:
        public_curves(arguments.curves, arguments.picture)
    if arguments.runs:
        own_runs(arguments.runs, arguments.steps, arguments.target_steps, arguments.evaluations, arguments.picture)


if __name__ == "__main__":
    main()
