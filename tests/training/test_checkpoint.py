"""Checkpoints on disk: whole or not there, found out when damaged, and none lost to a crash or a full disk."""

import errno
import json
import os
import pathlib
import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest

from tfllm.training import checkpoint

ARRAYS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    "steps": np.int64(2**40),
    "mask": np.array([True, False]),
    "seed": np.array([7, 2**32 - 1], np.uint32),
    "nothing": np.zeros([0, 4], np.float16),
}
STATE = {"epoch": 3, "best": 0.1, "worst": float("-inf"), "name": "größe", "wait": None}


def write(directory, step, **more):
    return checkpoint.write_checkpoint(directory, step, ARRAYS, STATE | more)


def assert_whole(directory, step):
    state, arrays = checkpoint.read_checkpoint(directory, step)
    assert {name: state[name] for name in STATE} == STATE
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_what_is_written_is_read(tmp_path):
    folder = write(tmp_path / "new", 1200)
    assert folder == tmp_path / "new" / "step-00001200"
    assert sorted(path.name for path in folder.iterdir()) == ["arrays.safetensors", "manifest.json", "state.json"]
    assert_whole(tmp_path / "new", 1200)
    assert checkpoint.list_steps(tmp_path / "new") == [1200]
    assert os.listdir(tmp_path / "new") == ["step-00001200"]


def test_the_manifest_is_that_of_other_tools(tmp_path):
    folder = write(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (folder / name).stat().st_size
        if shutil.which("sha256sum"):
            found = subprocess.run(["sha256sum", folder / name], capture_output=True, text=True, check=True).stdout
            assert found.split()[0] == entry["sha256"]


def test_the_library_reads_the_arrays(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    found = library.load_file(write(tmp_path, 1) / "arrays.safetensors")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name].astype(np.float64), np.asarray(array).astype(np.float64))


def test_every_flipped_bit_is_found(tmp_path):
    folder = write(tmp_path, 5)
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in range(0, len(content), 7):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                state, arrays = checkpoint.read_checkpoint(tmp_path, 5)
            except checkpoint.DamagedCheckpoint as error:
                assert str(folder) in str(error)
            else:  # white space of the manifest, or the letters of its numbers, say nothing else
                assert path.name == "manifest.json" and state == STATE and set(arrays) == set(ARRAYS)
        path.write_bytes(content)
    assert_whole(tmp_path, 5)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_missing_and_cut_files_are_found(tmp_path, name):
    path = write(tmp_path, 5) / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(checkpoint.DamagedCheckpoint, match=name):
        checkpoint.read_checkpoint(tmp_path, 5)
    path.unlink()
    with pytest.raises(checkpoint.DamagedCheckpoint, match=rf"{name} cannot be read \(No such file"):
        checkpoint.read_checkpoint(tmp_path, 5)


def test_a_checkpoint_under_another_name_is_found(tmp_path):
    write(tmp_path, 5).rename(tmp_path / "step-00000006")
    with pytest.raises(checkpoint.DamagedCheckpoint, match="is not of step 6"):
        checkpoint.read_checkpoint(tmp_path, 6)


def test_right_sums_of_a_wrong_layout(tmp_path):
    write(tmp_path, 5)
    folder = checkpoint.folder_of(tmp_path, 5)
    header = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,900]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(12)
    (folder / "arrays.safetensors").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    sums = {"bytes": len(content), "sha256": __import__("hashlib").sha256(content).hexdigest()}
    manifest["files"]["arrays.safetensors"] = sums
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="'x' does not fit"):
        checkpoint.read_checkpoint(tmp_path, 5)


class Crash(BaseException):
    """As sudden as a kill: no handler of errors sees it, and nothing is cleaned up after it."""


@pytest.mark.parametrize("replaced", [False, True])
def test_a_crash_at_any_moment_of_a_save_loses_nothing(tmp_path, monkeypatch, replaced):
    step = 9 if replaced else 10
    for moment in range(1, 20):
        directory = tmp_path / str(moment)
        write(directory, 8)
        write(directory, 9)
        with monkeypatch.context() as patch:
            _crash_at(patch, moment)
            try:
                write(directory, step, new=True)
            except Crash:
                crashed = True
            else:
                crashed = False
        checkpoint.mend(directory)
        assert {8, 9} <= set(checkpoint.list_steps(directory)) <= {8, 9, 10}
        for known in checkpoint.list_steps(directory):
            assert_whole(directory, known)
        checkpoint.clean(directory)
        assert not [name for name in os.listdir(directory) if name.startswith(".")]
        if not crashed:
            assert "new" in checkpoint.read_checkpoint(directory, step)[0]
            assert moment > 6
            return
    raise AssertionError("a save makes fewer calls")


def _crash_at(patch, moment):
    calls = []

    def deadly(call):
        def wrapped(*args, **kwargs):
            calls.append(call)
            if len(calls) >= moment:  # later calls, such as those that clean up, do not come to pass either
                raise Crash
            return call(*args, **kwargs)

        return wrapped

    patch.setattr(checkpoint.os, "fsync", deadly(os.fsync))
    patch.setattr(pathlib.Path, "rename", deadly(pathlib.Path.rename))
    patch.setattr(checkpoint.shutil, "rmtree", deadly(shutil.rmtree))


def test_a_crash_at_any_moment_of_a_removal_leaves_no_damaged_checkpoint(tmp_path, monkeypatch):
    for moment in range(1, 4):
        write(tmp_path, 1)
        with monkeypatch.context() as patch:
            _crash_at(patch, moment)
            with pytest.raises(Crash) if moment < 3 else pytest.raises(StopIteration):
                checkpoint.remove_checkpoint(tmp_path, 1)
                raise StopIteration
        for step in checkpoint.list_steps(tmp_path):
            assert_whole(tmp_path, step)
        checkpoint.clean(tmp_path)
        assert set(os.listdir(tmp_path)) <= {"step-00000001"}


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, 1)
    for call in range(1, 4):
        calls = []

        def full(handle, call=call, calls=calls):
            calls.append(handle)
            if len(calls) == call:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint.os, "fsync", full)
        for step in (1, 2):
            calls.clear()
            with pytest.raises(OSError, match="No space left"):
                write(tmp_path, step)
            assert os.listdir(tmp_path) == ["step-00000001"]
            assert_whole(tmp_path, 1)


def test_a_real_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system can only be mounted as root")
    try:
        written = 0
        with pytest.raises(OSError, match="No space left"):
            while True:
                checkpoint.write_checkpoint(disk, written + 1, {"a": np.arange(2000.0)}, {})
                written += 1
        assert written >= 1
        assert sorted(os.listdir(disk)) == [f"step-{step:08d}" for step in range(1, written + 1)]
        for step in range(1, written + 1):
            np.testing.assert_array_equal(checkpoint.read_checkpoint(disk, step)[1]["a"], np.arange(2000.0))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_nests_with_arrays():
    arrays = {}
    nest = {"best": [np.float32(0.1), None], "weights": (np.ones([2, 2]), 3), "on": True, "x": {"y": "z"}}
    packed = checkpoint.pack(nest, arrays, "state")
    found = checkpoint.unpack(json.loads(json.dumps(packed)), arrays)
    assert found["best"][0] == np.float32(0.1) and found["best"][0].dtype == np.float32
    np.testing.assert_array_equal(found["weights"][0], np.ones([2, 2]))
    assert (found["weights"][1], found["on"], found["x"]) == (3, True, {"y": "z"})


@pytest.mark.parametrize("value", [{1: 2}, {"$array": "x"}, object(), np.array([object()]), {"a": {1, 2}}])
def test_nests_that_json_and_arrays_cannot_hold(value):
    with pytest.raises(ValueError, match=r"^state.* must "):
        checkpoint.pack(value, {}, "state")


def test_arrays_are_packed_as_they_are_now():
    history, arrays = np.zeros(3), {}
    checkpoint.pack({"history": history}, arrays, "state")
    history += 1  # as training does while the arrays are written
    np.testing.assert_array_equal(arrays["state/history"], np.zeros(3))


def test_keys_that_would_share_a_name_keep_their_arrays():
    arrays = {}
    nest = {"a": {"b": np.ones(2)}, "a/b": np.zeros(3), "a/b~": np.full(1, 2.0)}
    found = checkpoint.unpack(checkpoint.pack(nest, arrays, "values"), arrays)
    assert (found["a"]["b"].tolist(), found["a/b"].tolist(), found["a/b~"].tolist()) == ([1, 1], [0, 0, 0], [2])
