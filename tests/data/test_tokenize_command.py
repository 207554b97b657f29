"""`tfllm data tokenize` and `verify`: a folder of shards, one sentence on bad input, the same bytes after a SIGKILL."""

import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app


@pytest.fixture
def corpus(tmp_path):
    tokenizer = tfllm.BPETokenizer.train("to be or not to be", vocab_size=260)
    tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "a.txt").write_text("".join(f"to be or not to be {n}\n" for n in range(20_000)))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_become_shards(corpus):
    settings = ["--tokenizer", corpus / "tokenizer.json", "--out", corpus / "out", "--shard-tokens", 51_200]
    result = run("tokenize", corpus / "a.txt", *settings)
    assert result.exit_code == 0, result.output
    shards = tfllm.data.open_shards(corpus / "out", verify=True)
    assert f"{shards.num_tokens:,} tokens" in result.output
    before = contents(corpus / "out")
    assert run("tokenize", corpus / "a.txt", *settings).exit_code == 0
    assert contents(corpus / "out") == before
    result = run("verify", corpus / "out")
    assert (result.exit_code, "unchanged" in result.output) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt", "--out", "new"], "--tokenizer must name a tokenizer.json"),
        (["a.txt", "--out", "new", "--tokenizer", "a.txt"], "which is not one"),
        (["missing.txt", "--out", "new", "--tokenizer", "tokenizer.json"], "does not exist"),
        (["a.txt", "--out", ".", "--tokenizer", "tokenizer.json"], "something else"),
        (["a.txt", "--out", "new", "--tokenizer", "tokenizer.json", "--format", "csv"], "format must be one of"),
    ],
)
def test_bad_input_is_one_sentence(corpus, monkeypatch, arguments, message):
    monkeypatch.chdir(corpus)
    result = run("tokenize", *arguments)
    assert result.exit_code == 2
    assert "error: " in result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_verify_names_the_changed_file(corpus):
    run("tokenize", corpus / "a.txt", "--tokenizer", corpus / "tokenizer.json", "--out", corpus / "out")
    content = bytearray((corpus / "out" / "shard-00000.bin").read_bytes())
    content[100] ^= 1
    (corpus / "out" / "shard-00000.bin").write_bytes(content)
    result = run("verify", corpus / "out")
    assert result.exit_code == 2
    assert "shard-00000.bin', whose SHA-256 is another one" in result.output


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("wanted", ["progress.json", "shard-00000.bin", "shard-00003.bin", "shard-00011.bin.partial"])
def test_a_command_killed_from_outside_ends_with_the_same_bytes(corpus, wanted):
    command = [sys.executable, "-m", "tfllm", "data", "tokenize", "a.txt", "--tokenizer", "tokenizer.json"]
    command += ["--shard-tokens", "1024"]
    subprocess.run([*command, "--out", "whole"], cwd=corpus, check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", "killed"], cwd=corpus, stdout=subprocess.DEVNULL)
    while not (corpus / "killed" / wanted).exists() and process.poll() is None:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (corpus / "killed" / "manifest.json").exists()
    subprocess.run([*command, "--out", "killed"], cwd=corpus, check=True, capture_output=True)
    assert contents(corpus / "killed") == contents(corpus / "whole")
