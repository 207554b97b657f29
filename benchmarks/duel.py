"""Times programs in turn (A B C A B C ...), so that a machine whose speed drifts is fair to all of them.

Each program is a process of its own that calls `serve`; `race` starts them, warms each up, and asks for one unit after
another. Only ratios of medians are worth quoting. On Linux a unit during which other processes used the processors can be
timed again (`tries`).
"""

import json
import os
import statistics
import subprocess
import sys
import time

BUSY = 0.15  # processors that others may use during a unit that counts as undisturbed
STALLED = 1.15  # times the median that a unit takes, with as much less of the processors used, to count as stalled


def serve(unit, *, tokens, **facts):
    """Runs `unit()` twice to warm up, then once for each line on standard input, and prints how long it took.

    Args:
        unit: function without arguments.
        tokens: int, how many tokens it handles.
        facts: what else is to be known of the program; the seconds of the first unit are added.
    """
    began = time.perf_counter()
    unit()
    facts["first_seconds"] = time.perf_counter() - began
    unit()
    print(json.dumps({"tokens": tokens} | facts), flush=True)
    for _ in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        unit()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "used": (time.process_time() - busy) / seconds}), flush=True)


def race(commands, *, rounds, tries=1, lenient=False):
    """Returns dict of name -> dict with the median `"tokens_per_second"`, the `"spread"` (lowest, highest), how many units
    `"stalled"`, which count in neither, and the facts.

    Args:
        commands: dict of name -> list of str, each the command line of a program that calls `serve`.
        rounds: int, units that each program runs.
        tries: int, how often a unit is timed until others leave it undisturbed; the least disturbed one counts.
        lenient: bool, whether a program that does not start is named and left out, not an error.
    """
    workers, tokens, facts, seconds = {}, {}, {}, {name: [] for name in commands}
    for name, command in commands.items():
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
        )
        try:
            facts[name] = _answer(workers[name])
        except RuntimeError:
            if not lenient:
                raise
            print(f"left out, because it did not start: {name}", file=sys.stderr, flush=True)
            del workers[name], seconds[name]
            continue
        tokens[name] = facts[name].pop("tokens")
        print(f"ready: {name}", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for name, worker in workers.items():
            found = []
            while len(found) < tries and not (found and min(found)[0] < BUSY):
                found.append(_timed(worker))
            seconds[name].append(min(found))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    results = {}
    for name, units in seconds.items():
        kept = _not_stalled(units)
        rate = sorted(tokens[name] / s for s in kept)
        results[name] = {"tokens_per_second": statistics.median(rate), "spread": (rate[0], rate[-1])}
        results[name] |= {"stalled": len(units) - len(kept)} | facts[name]
    return results


def _not_stalled(units):
    """Returns the seconds of the units, but for those that were long because the program slept, not because others worked.

    Args:
        units: list of (processors that others used, seconds, processors that the program used).
    """
    seconds, used = (statistics.median(unit[i] for unit in units) for i in (1, 2))
    kept = []
    for others, taken, own in units:
        slept = taken > STALLED * seconds and STALLED * own < used and others * taken < (taken - seconds) / 2
        kept += [] if slept else [taken]
    return kept


def _timed(worker):
    """Returns (processors that others used meanwhile, seconds, processors that it used) of one unit."""
    before, began = _others(worker.pid), time.perf_counter()
    worker.stdin.write("go\n")
    worker.stdin.flush()
    answer = _answer(worker)
    others = max(_others(worker.pid) - before, 0) / (time.perf_counter() - began)
    return others, answer["seconds"], answer["used"]


def _others(pid):
    """Returns the seconds that all processors spent on other processes than this one so far; 0 where it is not known."""
    if not os.path.exists("/proc/stat"):
        return 0.0
    with open("/proc/stat") as whole, open(f"/proc/{pid}/stat") as own:
        times = [int(field) for field in whole.readline().split()[1:8]]
        mine = own.read().rsplit(")", 1)[1].split()[11:13]
    return (sum(times) - times[3] - times[4] - sum(map(int, mine))) / os.sysconf("SC_CLK_TCK")  # less idle and waiting


def _answer(worker):
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"the program ended early: {worker.args}")
