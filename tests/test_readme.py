"""The README's Python runs, in order, as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    names, place = {"__name__": "readme"}, tmp_path / "block.py"
    for block in blocks:
        place.write_text(block)  # a file, because tf.function reads its source
        exec(compile(block, str(place), "exec"), names)
    shown = capsys.readouterr().out
    assert "loss after 100 steps" in shown
    assert "rows hold tokens" in shown
    assert len(names["texts"]) == 2


def test_the_two_commands_stand_where_ci_reads_them():
    for mark, command in (("main job", "tfllm demo"), ("tests", "python -m pytest")):
        (found,) = re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)\n```", README)
        install, run = found.split(" && ")
        assert install.startswith("pip install -e ")
        assert run == command
