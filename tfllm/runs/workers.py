"""Several workers on one machine: processes that are started together, watched, and started anew when one of them dies.

A worker that dies takes the others with it, because they wait for its part of a sum that never comes. So all are stopped and
started again, and go on from the last checkpoint, which makes the run end as if nothing had happened (`training.Resume`). On
several machines the same is done by whoever runs the workers there: start all with `TF_CONFIG`, and all again when one has died.

The workers of TensorFlow trust everyone who reaches their ports: only a network of one's own is a place for them.
"""

import collections
import contextlib
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading

_BAD_INPUT = 2  # how `tfllm` leaves after bad input, which another start would not mend
_SHOWN_LINES = 20  # of what a worker wrote before it died
_PATIENCE = 30.0  # seconds that the other workers have to leave when the chief has ended well
_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none
_GRACE = 2.0  # seconds in which the end of a chief is known that another worker saw


def run_workers(command, num_workers, *, max_restarts=3, tell=None):
    """Runs a command in several processes, each a worker of one training, until it is done.

    Every process finds in its environment a `TF_CONFIG` with free ports of this machine, its share of the cores, and in
    `TFLLM_RESTART` how often all were started again. The first, the chief, writes to this process's output; what the others
    write is shown when they die. SIGTERM and SIGINT are passed on to the chief, which saves (`training.Resume` does so at
    SIGTERM) and leaves, and then the others are ended. SIGHUP, when a terminal is closed, reaches it as SIGTERM, unless it is
    ignored, as under `nohup`.

    Args:
        command: list of str, a program and its arguments, the same for all; it goes on from its last checkpoint by itself.
        num_workers: int >= 1.
        max_restarts: int >= 0, how often all are started again because one died. One that leaves with code 2, bad input, is not
            started again.
        tell: function of a line (str) that says what happens; None writes to standard error.

    Returns:
        int, 0 when the chief has ended well; else the code of the worker that failed (128 + n when signal n ended it), or
        128 + n after the signal n.

    Raises:
        ValueError: on a number out of its range.

    Example:
        >>> show = "import json, os; print(json.loads(os.environ['TF_CONFIG'])['task'])"
        >>> run_workers([sys.executable, "-c", show], 2)
        0
    """
    for name, value, least in (("num_workers", num_workers, 1), ("max_restarts", max_restarts, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of at least {least}; got {value!r}")
    tell = _tell if tell is None else tell
    with _signals() as events:
        for restart in range(max_restarts + 1):
            code, reason = _run_once(list(command), num_workers, restart, events)
            if reason is None or code == _BAD_INPUT or restart == max_restarts:
                break
            tell(
                f"{reason}; all {num_workers} start again from the last checkpoint "
                f"(restart {restart + 1} of at most {max_restarts})"
            )
    if reason is not None:
        tell(reason)
    return code


def worker_environments(num_workers, restart=0):
    """Returns list of dict: what the environment of each of several workers on this machine has beside that of this process."""
    with contextlib.ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(num_workers)]
        for each in bound:
            each.bind(("127.0.0.1", 0))  # all at once, so that they differ
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in bound]
    cluster, cores = {"worker": addresses}, max((os.cpu_count() or 1) // num_workers, 1)
    return [
        {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", str(cores)),
            "TFLLM_RESTART": str(restart),
        }
        for index in range(num_workers)
    ]


def _run_once(command, num_workers, restart, events):
    """Runs all workers until they have ended; returns (exit code, str: why one died, or None)."""
    with tempfile.TemporaryDirectory(prefix="tfllm-workers-") as folder:
        logs = [pathlib.Path(folder, f"{index}.log") for index in range(num_workers)]
        processes = []
        try:
            for index, environment in enumerate(worker_environments(num_workers, restart)):
                with logs[index].open("wb") as log:
                    processes.append(
                        subprocess.Popen(
                            command,
                            env=os.environ | environment,
                            stdin=subprocess.DEVNULL,
                            stdout=None if index == 0 else log,
                            stderr=None if index == 0 else subprocess.STDOUT,
                            start_new_session=True,  # so that Ctrl-C reaches this process alone, which passes it on
                        )
                    )
            return _watch(processes, logs, events)
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _watch(processes, logs, events):
    for index, process in enumerate(processes):
        threading.Thread(target=_report, args=(process, index, events), daemon=True).start()
    running, stopped = set(processes), None
    while running:
        try:
            event = events.get(timeout=None if processes[0] in running else _PATIENCE)
        except queue.Empty:
            break  # the chief has ended well, and with it the run
        if isinstance(event, int):
            if stopped is None:
                processes[0].send_signal(signal.SIGTERM if event == _HANGUP else event)
                stopped = event
            elif event != _HANGUP:  # which a terminal may send more than once
                break  # asked twice, it does not wait
            continue
        process, index = event
        if process not in processes:
            continue  # of an earlier start
        running.discard(process)
        code = process.returncode
        if stopped is not None:
            if index == 0:
                break
        elif code and not (index and _ends_well(processes[0])):
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with code {code}"
            return code if code > 0 else 128 - code, f"{_last_lines(logs[index], index)}worker {index} {how}"
    return (0 if stopped is None else 128 + stopped), None


def _ends_well(chief):
    """Says whether the chief has done its work, whose end the others may see before this process does."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        chief.wait(_GRACE)
    return chief.returncode == 0


def _report(process, index, events):
    process.wait()
    events.put((process, index))


def _last_lines(log, index):
    with log.open("rb") as file:
        lines = collections.deque(file, _SHOWN_LINES)
    text = b"".join(lines).decode("utf-8", "replace").strip()
    return f"worker {index} wrote at last:\n{text}\n" if text else ""


@contextlib.contextmanager
def _signals():
    """Yields a queue that signals arrive in; outside the main thread, which alone can handle signals, none do."""
    events, earlier = queue.SimpleQueue(), {}
    if threading.current_thread() is threading.main_thread():
        hangup = () if _HANGUP is None or signal.getsignal(_HANGUP) == signal.SIG_IGN else (_HANGUP,)
        for number in (signal.SIGTERM, signal.SIGINT, *hangup):
            earlier[number] = signal.signal(number, lambda number, frame: events.put(int(number)))
    try:
        yield events
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _tell(line):
    print(line, file=sys.stderr, flush=True)
