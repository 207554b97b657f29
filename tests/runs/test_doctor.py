"""What the doctor says of machines that are made up, and of this one."""

import importlib.metadata
import re
import zipfile

import pytest
from typer.testing import CliRunner

import tfllm
from tfllm.cli import app
from tfllm.runs import doctor
from tfllm.runs.doctor import Finding, Machine, Report, fast_paths, precisions, read_machine
from tfllm.runs.folder import create_run, save_weights

OLD = Machine("an old processor", frozenset({"avx2"}), onednn=True)
NEW = Machine("a new processor", frozenset({"avx512_bf16", "amx_bf16"}), onednn=True)
A100 = Machine("a new processor", NEW.flags, True, gpus=(("A100", (8, 0)),))
T4 = Machine("a new processor", NEW.flags, True, gpus=(("T4", (7, 5)),))
WITHOUT_ONEDNN = Machine("a new processor", NEW.flags, False)


def recurrent(cell="lstm", dtype="float32"):
    return tfllm.RecurrentLM(8, cell=cell, dim=4, dtype=dtype)


def transformer(dtype="float32"):
    return tfllm.TransformerLM(8, max_length=8, dim=8, num_layers=1, num_heads=2, dtype=dtype)


def verdicts(findings):
    return {finding.name: finding.good for finding in findings}


@pytest.mark.parametrize(
    ("machine", "bfloat16", "float16", "note"),
    [
        (OLD, False, False, "neither amx_bf16 nor avx512_bf16"),
        (NEW, True, False, "amx_bf16 and avx512_bf16 through oneDNN, in the graph only"),
        (WITHOUT_ONEDNN, False, False, "oneDNN, which uses it, is off"),
        (T4, False, True, "from compute capability 8.0 on: T4, compute capability 7.5"),
        (A100, True, True, "A100"),
        (Machine("", frozenset(), True, gpus=(("unknown", None),)), False, False, "of unknown capability"),
    ],
)
def test_precisions(machine, bfloat16, float16, note):
    found = precisions(machine)
    assert verdicts(found) == {"float32": True, "mixed_bfloat16": bfloat16, "mixed_float16": float16}
    assert note in found[1].note


@pytest.mark.parametrize(
    ("machine", "model", "name", "good", "note"),
    [
        (NEW, None, "XLA in training", True, "not for recurrent models, nor for bfloat16 on processors"),
        (NEW, transformer, "XLA in training", True, "jit_compile=True"),
        (NEW, recurrent, "XLA in training", False, "gains recurrent layers nothing"),
        (A100, recurrent, "XLA in training", False, "have no XLA form"),
        (NEW, lambda: transformer("mixed_bfloat16"), "XLA in training", False, "4 to 8 times slower"),
        (A100, lambda: transformer("mixed_bfloat16"), "XLA in training", True, "jit_compile=True"),
        (NEW, None, "XLA in decoding", True, "TextGenerator(jit_compile=True)"),
        (NEW, recurrent, "cuDNN recurrent layers", False, "there is no GPU"),
        (A100, recurrent, "cuDNN recurrent layers", True, "LSTM and GRU in training"),
        (A100, lambda: recurrent("rnn"), "cuDNN recurrent layers", False, "LSTM and GRU alone"),
        (A100, transformer, "cuDNN recurrent layers", False, "no recurrent layers"),
        (NEW, recurrent, "recurrence with a gradient of its own", True, "RNN, LSTM and GRU in training"),
        (NEW, transformer, "recurrence with a gradient of its own", False, "no recurrent layers"),
        (A100, recurrent, "recurrence with a gradient of its own", False, "on processors alone"),
        (NEW, None, "TF32", False, "there is no GPU"),
        (T4, None, "TF32", False, "from compute capability 8.0 on"),
        (A100, None, "TF32", True, "10 bits"),
        (Machine("", frozenset(), True, A100.gpus, tf32=False), None, "TF32", False, "turns it on"),
        (NEW, None, "oneDNN", True, "in the graph"),
        (WITHOUT_ONEDNN, None, "oneDNN", False, "TF_ENABLE_ONEDNN_OPTS is 0"),
        (NEW, None, "prefetch to the device", False, "no GPU to copy to"),
        (A100, None, "prefetch to the device", True, "prefetch_to_device"),
        (A100, None, "fused attention", False, "no such kernel"),
    ],
)
def test_fast_paths(machine, model, name, good, note):
    (found,) = (finding for finding in fast_paths(machine, model and model()) if finding.name == name)
    assert (found.good, note in found.note) == (good, True), found.note


def test_this_machine_is_read_and_measured():
    report = doctor()
    shown = str(report)
    assert read_machine().processor in shown
    for unit in ("GB/s read", "GFLOP/s"):
        rates = [float(rate.replace(",", "")) for rate in re.findall(rf"([\d,.]+) {unit}", shown)]
        assert rates
        assert min(rates) > 0
    assert "tokens/s" not in shown  # which no model was given for


def test_a_report_reads_well():
    findings = (
        Finding("machine", "cores", "2"),
        Finding("libraries", "keras", "3.15", True, needed=True),
        Finding("libraries", "scipy", "not installed", False, needed=True),
        Finding("extras", "gguf", "missing gguf", False),
    )
    lines = ["machine", "       cores  2", "", "libraries", "  yes  keras  3.15", "  BAD  scipy  not installed"]
    assert str(Report(findings)).splitlines() == [*lines, "", "extras", "  no   gguf   missing gguf"]
    assert not Report(findings).healthy
    assert Report(findings[:2]).healthy
    assert Report(findings[3:]).healthy  # an extra is not needed


def test_the_command_fails_where_something_needed_is_too_old_or_missing(monkeypatch):
    asked = ["numpy>=1.26", 'gguf>=0.17; extra == "gguf"', 'nowhere-to-be-found>=1; extra == "other"', "keras>=3.12"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    result = CliRunner().invoke(app, ["doctor", "--no-measure"])
    assert result.exit_code == 0, result.output
    assert "missing nowhere-to-be-found: pip install 'tfllm[other]'" in result.output
    for line, shown in (("numpy>=99.1", "BAD  numpy"), ("nowhere-to-be-found>=1", "BAD  nowhere-to-be-found")):
        monkeypatch.setattr(importlib.metadata, "requires", lambda name, line=line: [*asked, line])
        result = CliRunner().invoke(app, ["doctor", "--no-measure"])
        assert result.exit_code == 1
        assert shown in result.output


def test_a_checkout_that_was_never_installed_is_no_illness(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    for name in ("version", "metadata", "requires"):
        monkeypatch.setattr(importlib.metadata, name, unknown)
    report = doctor(measure=False)
    assert report.healthy
    assert "what it requires is not known" in str(report)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.keras", "nothing.keras', which does not exist"),
        ("nothing", "nothing', which does not exist"),
        ("junk.keras", "junk.keras', which is no zip archive"),
        ("other.keras", "model must be a .keras file that is whole; got "),
    ],
)
def test_the_doctor_says_in_one_sentence_what_it_cannot_look_at(tmp_path, name, message):
    (tmp_path / "junk.keras").write_text("junk")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", "{")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", "")
    found = CliRunner().invoke(app, ["doctor", str(tmp_path / name)])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1), found.stderr
    assert message in found.stderr


def test_the_doctor_looks_at_a_model_in_a_run_folder_and_in_a_keras_file(tmp_path):
    model = recurrent()
    create_run(tmp_path / "run", model, tfllm.CharTokenizer.train("abcdefg"), {})
    save_weights(model, tmp_path / "run")
    model.save(tmp_path / "model.keras")
    weights = 8 * 4 + 4 * (4 + 4 + 1) * 4 + 4 * 8 + 8
    for place in ("run", "model.keras"):
        result = CliRunner().invoke(app, ["doctor", str(tmp_path / place)])
        assert result.exit_code == 0, result.output
        assert f"RecurrentLM, {weights} weights that are trained" in result.output
        assert "no   XLA in training" in result.output
        assert "tokens/s at most" in result.output
    with pytest.raises(ValueError, match="model must be a LanguageModel or a path; got int"):
        doctor(3)
