"""Workers of one machine: what they are told, what happens when one dies, who hears of signals; and `tfllm train --workers`."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

from tfllm.cli import app
from tfllm.runs import load_run, run_workers, workers
from tfllm.runs.workers import worker_environments
from tfllm.training import read_workers

# What every worker below begins with: who it is, and which life it lives.
HEAD = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
life = len(list(folder.glob(f"{index}.*")))
(folder / f"{index}.{life}").write_text(os.environ["TF_CONFIG"])
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
"""


def run(folder, body, num_workers=2, **options):
    """Runs workers with a body; returns (exit code, what was told, how many lives each had)."""
    told = []
    code = run_workers([sys.executable, "-c", HEAD + body, str(folder)], num_workers, tell=told.append, **options)
    return code, told, [len(list(folder.glob(f"{index}.*"))) for index in range(num_workers)]


def test_workers_are_told_who_they_are(tmp_path):
    assert run(tmp_path, "", 3) == (0, [], [1, 1, 1])
    found = [read_workers((tmp_path / f"{index}.0").read_text()) for index in range(3)]
    assert [each.index for each in found] == [0, 1, 2]
    assert len({each.addresses for each in found}) == 1
    assert found[0].count == len(set(found[0].addresses)) == 3


def test_cores_are_shared_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert [found["TF_NUM_INTRAOP_THREADS"] for found in worker_environments(3)] == ["2", "2", "2"]
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    assert worker_environments(1)[0]["TF_NUM_INTRAOP_THREADS"] == "5"


@pytest.mark.parametrize("victim", [0, 1])
def test_all_start_again_when_one_is_killed(tmp_path, victim, monkeypatch):
    monkeypatch.setattr(workers, "_GRACE", 0.05)
    body = f"""
if life == 0 and index == {victim}:
    wait_for("{1 - victim}.0")
    os.kill(os.getpid(), signal.SIGKILL)
if life == 0:
    wait_for("never")
"""
    code, told, lives = run(tmp_path, body)
    assert (code, lives) == (0, [2, 2])
    assert told == [
        f"worker {victim} was ended by SIGKILL; all 2 start again from the last checkpoint (restart 1 of at most 3)"
    ]
    assert (tmp_path / "0.0").read_text() != (tmp_path / "0.1").read_text()  # on other ports


def test_restarts_come_to_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_GRACE", 0.05)  # the chief will not end
    body = """
if index == 0:
    wait_for("never")
wait_for(f"0.{life}")
print("no luck")
sys.exit(7)
"""
    code, told, lives = run(tmp_path, body, max_restarts=1)
    assert (code, lives) == (7, [2, 2])
    assert len(told) == 2
    assert told[-1] == "worker 1 wrote at last:\nno luck\nworker 1 left with code 7"


def test_bad_input_is_not_tried_again(tmp_path):
    code, told, lives = run(tmp_path, "wait_for('1.0') or sys.exit(2) if index == 0 else wait_for('never')")
    assert (code, lives) == (2, [1, 1])
    assert told == ["worker 0 left with code 2"]


def test_the_chief_decides_whether_a_run_ended_well(tmp_path):
    """Others may break when it has left them."""
    assert run(tmp_path, "sys.exit(index)")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_for_the_chief_to_answer(tmp_path, number):
    """As in a program whose chief saves at SIGTERM; the other worker would not leave by itself."""
    body = """
def leave(number, frame):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave if index == 0 else lambda *_: (folder / "heard").touch())
(folder / f"ready{index}").touch()
wait_for("never")
"""

    def ask():
        while not all((tmp_path / f"ready{index}").exists() for index in range(2)):
            pass
        os.kill(os.getpid(), number)

    asking, earlier = threading.Thread(target=ask), signal.signal(number, signal.SIG_DFL)  # `nohup` ignores SIGHUP
    asking.start()
    code, told, lives = run(tmp_path, body)
    asking.join()
    signal.signal(number, earlier)
    assert (code, told, lives) == (128 + number, [], [1, 1])
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "heard").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_workers": 0}, "num_workers must be an int of at least 1; got 0"),
        ({"num_workers": True}, "num_workers must be an int of at least 1; got True"),
        ({"num_workers": 2, "max_restarts": -1}, "max_restarts must be an int of at least 0; got -1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        run_workers(["true"], **arguments)


def test_more_workers_than_rows_are_refused(tmp_path):
    """By the command, before anything is started."""
    found = CliRunner().invoke(app, ["train", "shakespeare", "--out", str(tmp_path / "run"), "--workers", "17"])
    assert found.exit_code == 2
    assert "error: --workers must be at most batch_size=16, the rows to share; got 17" in found.output


@pytest.mark.slow
def test_the_command_trains_alike_on_two_workers(tmp_path):
    """A Transformer under XLA; the first worker has fewer rows than the second."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question " * 60)
    options = {"dim": 16, "num-layers": 1, "num-heads": 2, "sequence-length": 16, "batch-size": 5}
    options |= {"steps": 20, "evaluations": 2, "learning-rate": 1e-2, "optimizer": "momentum"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    runs = [tmp_path / f"{count}" for count in (1, 2)]
    for count, run in enumerate(runs, 1):
        command = [sys.executable, "-m", "tfllm", "train", str(tmp_path / "text.txt"), "--out", str(run), *words]
        subprocess.run([*command, "--workers", str(count)], check=True)
    weights = [[weight.numpy() for weight in load_run(run).model.trainable_variables] for run in runs]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    tables = [np.genfromtxt(run / "history.csv", delimiter=",", names=True) for run in runs]
    assert tables[0]["val_loss"][1] < tables[0]["val_loss"][0]
    for name in ("loss", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-5)


def test_the_environment_is_json_that_tensorflow_takes():
    cluster = json.loads(worker_environments(2)[1]["TF_CONFIG"])
    assert cluster["task"] == {"type": "worker", "index": 1}
    assert all(address.startswith("127.0.0.1:") for address in cluster["cluster"]["worker"])
    assert pathlib.Path(sys.executable).exists()
