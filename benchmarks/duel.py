"""Times programs in turn (A B C A B C ...), so that a machine whose speed drifts is fair to all of them.

Each program is a process of its own that calls `serve`; `race` starts them, warms each up, and asks for one unit after
another. Only ratios of medians are worth quoting.
"""

import json
import os
import statistics
import subprocess
import sys
import time


def serve(unit, *, tokens):
    """Runs `unit()` twice to warm up, then once for each line on standard input, and prints how long it took."""
    unit()
    unit()
    print(json.dumps({"tokens": tokens}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        unit()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


def race(commands, *, rounds):
    """Returns dict of name -> dict with the median `"tokens_per_second"` and the `"spread"` (lowest, highest).

    Args:
        commands: dict of name -> list of str, each the command line of a program that calls `serve`.
        rounds: int, units that each program runs.
    """
    workers, tokens, seconds = {}, {}, {name: [] for name in commands}
    for name, command in commands.items():
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
        )
        tokens[name] = _answer(workers[name])["tokens"]
        print(f"ready: {name}", file=sys.stderr, flush=True)
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            seconds[name].append(_answer(worker)["seconds"])
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    rates = {name: sorted(tokens[name] / s for s in times) for name, times in seconds.items()}
    return {
        name: {"tokens_per_second": statistics.median(rate), "spread": (rate[0], rate[-1])}
        for name, rate in rates.items()
    }


def _answer(worker):
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"the program ended early: {worker.args}")
