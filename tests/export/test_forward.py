"""The forward pass as LiteRT and ONNX files: their logits are run and compared, other files are refused."""

import numpy as np
import pytest
from conftest import MODELS, make_model

import tfllm
from tfllm.export import forward

KINDS = {"litert": (tfllm.export.save_litert, ".tflite"), "onnx": (tfllm.export.save_onnx, ".onnx")}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def run(kind, content, ids):
    if kind == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
        assert ([one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]) == (
            ["ids"],
            ["logits"],
        )
        return session.run(None, {"ids": ids})[0]
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=content)
    runner = interpreter.get_signature_runner() if interpreter.get_signature_list() else None
    if runner is not None:
        return next(iter(runner(ids=ids).values()))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], ids)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_the_file_gives_the_model_s_logits(kind, name, tmp_path):
    check(kind, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_files_of_every_model_give_its_logits(kind, name, tmp_path):
    check(kind, name, tmp_path)


def check(kind, name, tmp_path):
    save, suffix = KINDS[kind]
    model, path = make_model(name), tmp_path / f"model{suffix}"
    save(model, path, batch_size=2, length=6)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    ids = np.random.default_rng(5).integers(0, 17, (2, 6)).astype(np.int32)
    logits = model(ids)
    np.testing.assert_allclose(run(kind, path.read_bytes(), ids), logits, atol=1e-4 * np.abs(logits).max())


def test_bad_arguments_are_refused(kind, tmp_path):
    save, suffix = KINDS[kind]
    model, path = make_model("gpt2"), tmp_path / f"model{suffix}"
    for options, message in (
        ({"length": 33}, "length must be at most the model's max_length=32; got 33"),
        ({"length": 0}, "length must be an int of at least 1; got 0"),
        ({"batch_size": True}, "batch_size must be an int of at least 1; got True"),
    ):
        with pytest.raises(ValueError, match=message):
            save(model, path, **options)
    with pytest.raises(ValueError, match=rf"path must name a {suffix} file; got"):
        save(model, tmp_path / "model.keras")
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="path must be free unless force is given"):
        save(model, path)
    assert path.read_text() == "mine"


def test_a_file_with_other_logits_is_not_left(monkeypatch, tmp_path):
    monkeypatch.setattr(forward, "_to_litert", lambda *_: b"")
    monkeypatch.setattr(forward, "_run_litert", lambda content, ids: np.zeros([*ids.shape, 17], np.float32))
    with pytest.raises(
        ValueError, match=r"model must have the same logits as a LiteRT file, within 0\.0001; got .* apart"
    ):
        tfllm.export.save_litert(make_model("gru"), tmp_path / "model.tflite", length=4)
    assert list(tmp_path.iterdir()) == []


def test_what_a_converter_cannot_do_is_one_sentence(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("no such op: Frobnicate\nand much more")

    monkeypatch.setattr(forward, "_to_onnx", fail)
    with pytest.raises(
        ValueError, match=r"model must be made of what ONNX has; got RuntimeError: no such op: Frobnicate$"
    ):
        tfllm.export.save_onnx(make_model("gru"), tmp_path / "model.onnx", length=4)
    assert list(tmp_path.iterdir()) == []
