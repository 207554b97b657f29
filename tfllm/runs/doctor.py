"""What this machine can do for the package and why not more: devices, versions, precisions, fast paths, measured speed.

`Machine` is what was found out, `fast_paths` judges it. Left out are machines of a cluster other than this one.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
import time
import zipfile

import keras
import tensorflow as tf

from tfllm.models import LanguageModel, RecurrentLM
from tfllm.runs.folder import load_run, parameter_count

_PACKAGE = "tfllm"
_REQUIREMENT = re.compile(r"^([\w.-]+)\s*(?:>=\s*([\w.]+))?[^;]*(?:;.*extra\s*==\s*[\"']([\w-]+)[\"'])?")
_EXTRAS_OF_DEVELOPERS = {"dev"}
_MATRIX_BYTES = 2**28
_SECONDS = 0.25  # of each measurement


@dataclasses.dataclass(frozen=True)
class Machine:
    """What decides which fast paths there are.

    Attributes:
        processor: str, its name.
        flags: frozenset of str, the processor's instruction sets as Linux names them; empty where that is not known.
        onednn: bool, whether TensorFlow computes with oneDNN on the processor.
        gpus: tuple of (str, the name; (int, int), the compute capability, or None).
        tf32: bool, whether TensorFlow may round factors of float32 products to 10 bits on a GPU.
        hidden_gpu: bool, whether there is a GPU that TensorFlow does not see.
    """

    processor: str
    flags: frozenset
    onednn: bool
    gpus: tuple = ()
    tf32: bool = True
    hidden_gpu: bool = False


@dataclasses.dataclass(frozen=True)
class Finding:
    """A line of a report.

    Attributes:
        topic, name, note: str, the heading that it stands under, what it is about, and what is to say of it.
        good: bool, whether it is there or applies, or None where that is no question.
        needed: bool, whether the package does not work without.
    """

    topic: str
    name: str
    note: str
    good: bool | None = None
    needed: bool = False


@dataclasses.dataclass(frozen=True)
class Report:
    """What `doctor` found; `print` shows it.

    Attributes:
        findings: tuple of `Finding`.
    """

    findings: tuple

    @property
    def healthy(self):
        """bool, whether nothing that the package needs is missing or too old."""
        return all(finding.good is not False for finding in self.findings if finding.needed)

    def __str__(self):
        lines, topic, width = [], None, max(len(finding.name) for finding in self.findings)
        for finding in self.findings:
            if finding.topic != topic:
                lines += ["", finding.topic] if lines else [finding.topic]
                topic = finding.topic
            bad = "BAD" if finding.needed else "no"
            mark = "" if finding.good is None else "yes" if finding.good else bad
            lines.append(f"  {mark:3}  {finding.name:{width}}  {finding.note}".rstrip())
        return "\n".join(lines)


def doctor(model=None, *, measure=True):
    """Finds out what device, libraries and precisions there are, which fast paths apply, and why not the others.

    Args:
        model: `LanguageModel`, or str or path of a run folder or a `.keras` file, to judge the paths for that model; None
            judges them for any.
        measure: bool, whether memory and matrix products are timed, which takes about a second.

    Returns:
        `Report`.

    Raises:
        ValueError: when `model` is something else, or its files are damaged.

    Example:
        >>> report = doctor(measure=False)
        >>> sorted({finding.topic for finding in report.findings})
        ['extras', 'fast paths', 'libraries', 'machine', 'precision']
    """
    if isinstance(model, str | pathlib.Path):
        model = _load(pathlib.Path(model))
    if model is not None and not isinstance(model, LanguageModel):
        raise ValueError(f"model must be a LanguageModel or a path; got {type(model).__name__}")
    machine = read_machine()
    findings = [
        *_about_machine(machine),
        *_about_libraries(),
        *precisions(machine),
        *fast_paths(machine, model),
        *_about_extras(),
    ]
    if model is not None:
        findings += _about_model(model)
    if measure:
        findings += _measured(machine, model)
    return Report(tuple(findings))


def precisions(machine):
    """Judges the precisions that models compute in; returns list of `Finding`."""
    found = [Finding("precision", "float32", "the default", True)]
    if machine.gpus:
        name, capability = machine.gpus[0]
        known = capability or (0, 0)
        shown = f"{name}, compute capability {known[0]}.{known[1]}" if capability else f"{name}, of unknown capability"
        return [
            *found,
            Finding("precision", "mixed_bfloat16", f"from compute capability 8.0 on: {shown}", known >= (8, 0)),
            Finding("precision", "mixed_float16", f"from compute capability 7.0 on: {shown}", known >= (7, 0)),
        ]
    have = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in machine.flags]
    if have and machine.onednn:
        note, good = f"by {' and '.join(have)} through oneDNN, in the graph only: not with jit_compile=True", True
    elif have:
        note, good = f"the processor has {' and '.join(have)}, but oneDNN, which uses it, is off", False
    else:
        note, good = "the processor has neither amx_bf16 nor avx512_bf16: slower than float32", False
    return [
        *found,
        Finding("precision", "mixed_bfloat16", note, good),
        Finding("precision", "mixed_float16", "there is no GPU, and TensorFlow has no fast path on processors", False),
    ]


def fast_paths(machine, model=None):
    """Judges which fast paths apply.

    Args:
        machine: `Machine`.
        model: `LanguageModel` for which they are judged, or None.

    Returns:
        list of `Finding`.
    """
    recurrent = isinstance(model, RecurrentLM)
    half = model is not None and model.dtype_policy.name == "mixed_bfloat16"
    if recurrent:
        training = False, "XLA gains recurrent layers nothing, and those of cuDNN have no XLA form"
    elif half and not machine.gpus:
        training = False, "on processors XLA multiplies bfloat16 4 to 8 times slower than the graph does"
    else:
        rest = "" if model is not None else "; not for recurrent models, nor for bfloat16 on processors"
        training = True, f"compile(jit_compile=True), which gains most where a step is small{rest}"
    onednn = "" if machine.onednn else "TF_ENABLE_ONEDNN_OPTS is 0, or this processor is none that it is built for"
    capability = (machine.gpus[0][1] or (0, 0)) if machine.gpus else None
    return [
        Finding("fast paths", "XLA in training", training[1], training[0]),
        Finding(
            "fast paths", "XLA in decoding", "TextGenerator(jit_compile=True); compiles for seconds at first", True
        ),
        Finding("fast paths", "oneDNN", onednn or "products on the processor, in the graph", machine.onednn),
        _cudnn(machine, model, recurrent),
        _recurrence(machine, model, recurrent),
        _tf32(machine, capability),
        Finding(
            "fast paths",
            "prefetch to the device",
            "data.prefetch_to_device in a loop of one's own; fit copies by itself"
            if machine.gpus
            else "there is no GPU to copy to; batches are made ahead of time all the same",
            bool(machine.gpus),
        ),
        Finding(
            "fast paths",
            "fused attention",
            "TensorFlow has no such kernel: the scores [B, H, T, T] are held in memory; remat=True holds one block's",
            False,
        ),
    ]


def _cudnn(machine, model, recurrent):
    if not machine.gpus:
        note, good = "there is no GPU", False
    elif model is not None and not recurrent:
        note, good = "the model has no recurrent layers", False
    elif recurrent and model.cell == "rnn":
        note, good = "cuDNN is used for LSTM and GRU alone", False
    else:
        note, good = "LSTM and GRU in training, on rows that are not packed, without jit_compile", True
    return Finding("fast paths", "cuDNN recurrent layers", note, good)


def _recurrence(machine, model, recurrent):
    if machine.gpus:
        note, good = "on processors alone", False
    elif model is not None and not recurrent:
        note, good = "the model has no recurrent layers", False
    else:
        note, good = (
            "RNN, LSTM and GRU in training: all products that wait for no state are made for all steps at once",
            True,
        )
    return Finding("fast paths", "recurrence with a gradient of its own", note, good)


def _tf32(machine, capability):
    if capability is None:
        note, good = "there is no GPU", False
    elif capability < (8, 0):
        note, good = "from compute capability 8.0 on", False
    elif not machine.tf32:
        note, good = "tf.config.experimental.enable_tensor_float_32_execution(True) turns it on", False
    else:
        note, good = "float32 products read 10 bits of their factors", True
    return Finding("fast paths", "TF32", note, good)


def read_machine():
    """Returns the `Machine` that this process runs on."""
    text = _read("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    gpus = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        gpus.append((details.get("device_name", device.name), details.get("compute_capability")))
    return Machine(
        processor=found[1] if found else platform.processor() or platform.machine(),
        flags=frozenset(flags[1].split()) if flags else frozenset(),
        onednn=platform.machine().lower() in ("x86_64", "amd64", "aarch64")
        and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") not in ("0", "false"),
        gpus=tuple(gpus),
        tf32=tf.config.experimental.tensor_float_32_execution_enabled(),
        hidden_gpu=not gpus and pathlib.Path("/dev/nvidia0").exists(),
    )


def _about_machine(machine):
    yield Finding("machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = re.match(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))
    limit = f", time of {int(quota[1]) / int(quota[2]):g} of them" if quota else ""
    yield Finding("machine", "processor", f"{machine.processor}; {cores} cores{limit}")
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    yield Finding("machine", "threads of an operation", f"{threads}" if threads else "as many as there are cores")
    memory = {
        name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo"))
    }
    if "MemTotal" in memory:
        free = memory.get("MemAvailable", memory["MemFree"]) / 1e9
        yield Finding("machine", "memory", f"{memory['MemTotal'] / 1e9:.1f} GB, {free:.1f} GB of them free")
    if machine.hidden_gpu:
        note = "there is one that TensorFlow does not see: pip install 'tensorflow[and-cuda]', or mend the driver"
        yield Finding("machine", "GPU", note, False)
    elif not machine.gpus:
        yield Finding("machine", "GPU", "none")
    for name, capability in machine.gpus:
        shown = f", compute capability {capability[0]}.{capability[1]}" if capability else ""
        yield Finding("machine", "GPU", f"{name}{shown}")


def _about_libraries():
    here = platform.python_version()
    try:
        own, metadata = importlib.metadata.version(_PACKAGE), importlib.metadata.metadata(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("libraries", "Python", here)
        yield Finding("libraries", _PACKAGE, "on the path, but not installed: what it requires is not known")
        return
    rule = metadata.get("Requires-Python") or ""
    inside = all(
        _compare(sys.version_info[:2], sign, _numbers(bound)) for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", rule)
    )
    yield Finding("libraries", "Python", f"{here}, required {rule}", inside, needed=True)
    yield Finding("libraries", _PACKAGE, own)
    for name, least, extra in _requirements():
        if extra is None:
            found = {"tensorflow": tf.__version__, "keras": keras.__version__}.get(name) or _version(name)
            good = found is not None and _numbers(found) >= _numbers(least)
            yield Finding("libraries", name, f"{found or 'not installed'}, required >={least}", good, needed=True)
    build = tf.sysconfig.get_build_info()
    if build.get("is_cuda_build"):
        note = f"CUDA {build.get('cuda_version', 'unknown')}, cuDNN {build.get('cudnn_version', 'unknown')}"
        yield Finding("libraries", "TensorFlow is built for", note)


def _about_extras():
    extras = {}
    for name, least, extra in _requirements():
        if extra is not None and extra not in _EXTRAS_OF_DEVELOPERS:
            extras.setdefault(extra, []).append((name, least, _version(name)))
    for extra, packages in sorted(extras.items()):
        missing = [name for name, least, found in packages if found is None or _numbers(found) < _numbers(least)]
        note = f"missing {', '.join(missing)}: pip install '{_PACKAGE}[{extra}]'" if missing else ""
        yield Finding("extras", extra, note or ", ".join(f"{name} {found}" for name, _, found in packages), not missing)


def _about_model(model):
    weights = parameter_count(model)
    yield Finding("model", "kind", f"{type(model).__name__}, {weights:,} weights that are trained")
    yield Finding("model", "precision in use", model.dtype_policy.name)
    yield Finding("model", "memory of its weights", f"{_bytes(model) / 1e6:,.1f} MB")


def _measured(machine, model):
    device = "/GPU:0" if machine.gpus else "/CPU:0"
    with tf.device(device):
        bandwidth, rate = _bandwidth(), _matmul_rate(tf.float32)
        half = _matmul_rate(tf.bfloat16)
    topic = f"measured on {device[1:]}"
    yield Finding(topic, "memory", f"{bandwidth / 1e9:,.1f} GB/s read")
    yield Finding(topic, "float32 products", f"{rate / 1e9:,.0f} GFLOP/s")
    yield Finding(topic, "bfloat16 products", f"{half / 1e9:,.0f} GFLOP/s in the graph")
    if model is not None:
        best = half if model.dtype_policy.name == "mixed_bfloat16" else rate
        decoding, training = bandwidth / _bytes(model), best / (6 * parameter_count(model))
        note = "tokens/s at most from memory: each reads all weights once (what fits into caches is faster)"
        yield Finding(topic, "decoding of one text", f"{decoding:,.0f} {note}")
        note = "tokens/s at most: 6 operations a weight and token, and those of attention on top"
        yield Finding(topic, "training", f"{training:,.0f} {note}")


def _bandwidth():
    """Returns float, bytes a second that a sum over a tensor larger than all caches reads."""
    values = tf.ones([_MATRIX_BYTES // 4])
    return _MATRIX_BYTES / _fastest(tf.function(lambda: tf.reduce_sum(values), autograph=False))


def _matmul_rate(dtype, size=2048):
    """Returns float, floating-point operations a second of a product of two square matrices."""
    factor = tf.cast(tf.random.stateless_uniform([size, size], [0, 0]), dtype)
    return 2 * size**3 / _fastest(tf.function(lambda: tf.linalg.matmul(factor, factor)[0, 0], autograph=False))


def _fastest(function):
    """Returns float, the seconds of the fastest call among those that fit into `_SECONDS`; at least one."""
    function().numpy()  # traces
    seconds, end = [], time.perf_counter() + _SECONDS
    while not seconds or time.perf_counter() < end:
        began = time.perf_counter()
        function().numpy()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _load(path):
    if not path.exists():
        raise ValueError(f"model must be a run folder or a .keras file; got {str(path)!r}, which does not exist")
    if path.suffix != ".keras":
        return load_run(path).model
    whole = f"model must be a .keras file that is whole; got {str(path)!r}"
    if not zipfile.is_zipfile(path):  # of which Keras says that it was not found
        raise ValueError(f"{whole}, which is no zip archive")
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{whole}: {reason}") from error


def _requirements():
    """Yields (name, least version, extra or None) of everything that the installed package asks for."""
    try:
        lines = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    for line in lines:
        name, least, extra = _REQUIREMENT.match(line).groups()
        yield name, least or "0", extra


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version):
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _compare(found, sign, bound):
    return found >= bound if sign == ">=" else found < bound


def _bytes(model):
    return sum(int(keras.ops.size(weight)) * tf.as_dtype(weight.dtype).size for weight in model.weights)


def _read(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
