"""The house: imports point down, examples in docstrings run, every folder is packaged."""

import ast
import configparser
import doctest
import importlib
import pathlib
import pkgutil
import shutil
import subprocess
import sys
import zipfile

import pytest

import tfllm

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tfllm"
# A folder may import folders of lower rank, and itself. `training` stands below `models`, because a step sees a model as a
# function and a list of weights, while `LanguageModel.train_step` is that step.
RANKS = {
    "startup": 0,
    "files": 0,
    "noise": 0,
    "picture": 0,
    "text": 1,
    "layers": 1,
    "training": 2,
    "data": 2,
    "models": 3,
    "embeddings": 3,
    "generation": 3,
    "evaluation": 3,
    "alignment": 4,
    "export": 4,
    "interop": 4,
    "runs": 4,
    "tasks": 5,
    "cli": 6,
}
OPTIONAL = {
    "tokenizers",
    "tensorflow_datasets",
    "jieba",
    "array_record",
    "gensim",
    "gguf",
    "safetensors",
    "ai_edge_litert",
    "tf2onnx",
    "onnxruntime",
    "sacrebleu",
    "lm_eval",
    "sklearn",
    "pycrfsuite",
}  # imported where used
LAZY = {"tfllm.data.builders"}  # of ours, imported where used, because TensorFlow Datasets is
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def rank_of(module):
    return RANKS[module.split(".")[1]]


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tfllm":
            yield from ((f"tfllm.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[1] in ("__init__", "__main__"):
        return  # these stand above everything
    for module, node in imports_of(ast.parse(path.read_text())):
        assert not module.startswith("."), f"{path.name}:{node.lineno} imports {module}: write the whole name"
        if module.startswith("tfllm.") and module.split(".")[1] != parts[1]:
            assert rank_of(module) < RANKS[parts[1]], f"{path.name}:{node.lineno} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_hides_in_a_function_and_no_assert_in_the_package(path):
    tree = ast.parse(path.read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.Lambda):
            for module, node in imports_of(function):
                assert module in LAZY or module.split(".")[0] in OPTIONAL, (
                    f"{path.name}:{node.lineno} imports {module} in a function"
                )
        assert not isinstance(function, ast.Assert), f"{path.name}:{function.lineno} asserts"


def test_every_folder_has_a_rank_and_is_packaged():
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert {folder.split(".")[1] for folder in folders if "." in folder} | files == set(RANKS)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    folders_of_data = [path.name for path in (ROOT / "data").iterdir() if path.is_dir()]
    bundled = {"tfllm.data.bundled", *(f"tfllm.data.bundled.{name}" for name in folders_of_data)}
    assert packages == folders | bundled


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.walk_packages(tfllm.__path__, "tfllm.") if not m.name.endswith("__main__")]
)
def test_examples_in_docstrings(name):
    failed, _ = doctest.testmod(
        importlib.import_module(name),
        optionflags=doctest.NORMALIZE_WHITESPACE,
        extraglobs={"tf": __import__("tensorflow"), "tfllm": tfllm},
    )
    assert not failed


@pytest.mark.parametrize(
    "name",
    [
        "alignment",
        "data",
        "embeddings",
        "evaluation",
        "export",
        "generation",
        "interop",
        "layers",
        "models",
        "runs",
        "tasks",
        "text",
        "training",
    ],
)
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(f"tfllm.{name}")
    for public in module.__all__:
        assert getattr(module, public).__doc__, f"{name}.{public}"


def test_a_wheel_carries_the_corpora(tmp_path):
    source = tmp_path / "source"  # a copy, because a build leaves files where it runs
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "data").rglob("*"):
        assert path.is_dir() or f"tfllm/data/bundled/{path.relative_to(ROOT / 'data').as_posix()}" in names
    assert "tfllm/text/unicode_tables.json" in names
