"""The self-proof of Metal kernels and what it decides, on a device that is only told about: failures included."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.cli import doctor
from ltx2rt.cli import verify as verify_command
from ltx2rt.cli.main import run as run_command
from ltx2rt.kernels import kernel_choice, modulated_norm, proof, proof_problems, quantized_linear, reference, selection
from ltx2rt.kernels.gpu_device import GpuDevice, advice, metal_device
from ltx2rt.kernels.kernel_choice import KernelChoice, built
from ltx2rt.kernels.proof import DeviceRunner, prove
from ltx2rt.kernels.proof_problems import check_problems, exact_arguments, timing_problem
from ltx2rt.kernels.proof_store import Outcome, ProofStore, cache_folder
from ltx2rt.kernels.selection import forced
from ltx2rt.kernels.variants import AttentionVariant, ConvVariant, LinearVariant, NormVariant, dtype_of
from ltx2rt.types import LinearWeight
from ltx2rt.verify import kernels as verify_kernels
from ltx2rt.verify.kernels import variants

M3 = GpuDevice("Apple M3 Max", "applegpu_g15s", "15.3.1", 64 * 10**9, 48 * 10**9, "0.32.4", "macosx_15_0_arm64")
NORM = NormVariant("bfloat16")
FAST, SLOW = 1e-3, 2e-3


class Device(DeviceRunner):
    """Computes on the CPU and makes times up; ``spoil`` changes what our kernel gives."""

    def __init__(self, spoil: Callable[[np.ndarray], np.ndarray] | None = None, **seconds: float) -> None:
        self.spoil = spoil
        self.times = {"kernel": FAST, "mlx": SLOW} | seconds
        self.calls: list[str] = []

    def compute(self, front_end: Any, implementation: Any, problem: Any) -> np.ndarray:
        self.calls.append(implementation)
        values = super().compute(front_end, implementation, problem)
        return self.spoil(values) if self.spoil and implementation == "kernel" else values

    def seconds(self, front_end: Any, implementation: Any, problem: Any) -> float:
        return self.times[implementation]


@pytest.fixture(autouse=True)
def _made_up_times_need_no_large_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltx2rt.kernels.proof.timing_problem", lambda variant: check_problems(variant)[0])


def raising(error: BaseException) -> Callable[[np.ndarray], np.ndarray]:
    def spoil(values: np.ndarray) -> np.ndarray:
        raise error

    return spoil


def one_wrong(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed.flat[changed.size // 2] += 0.1 * np.abs(values).max()
    return changed


def nan(values: np.ndarray) -> np.ndarray:
    return np.where(np.arange(values.size).reshape(values.shape) == 7, np.nan, values)


NO_COMPILER = raising(RuntimeError("[metal::Device] Unable to build metal library from source\nline 7: error: bad\n"))
FAULTS = {
    "does not run: [metal::Device] Unable to build metal library from source line 7: error: bad": NO_COMPILER,
    "differs from the reference by": one_wrong,
    "differs from the reference by inf": nan,
    "differs from the reference by inf,": lambda values: values[:-1],
}


def choice(folder: Path, runner: DeviceRunner, device: GpuDevice = M3) -> KernelChoice:
    return KernelChoice(device, folder, runner)


def test_a_sound_and_fast_kernel_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chooser = choice(tmp_path, Device())
    assert chooser.choose(modulated_norm, NORM) == "kernel"
    outcome = chooser.outcome(modulated_norm, NORM)
    assert 0 <= outcome.error <= outcome.tolerance
    assert outcome.seconds == {"kernel": FAST, "mlx": SLOW}
    assert caplog.records == []


def test_an_outcome_is_kept_for_later_processes(tmp_path: Path) -> None:
    first, second = Device(), Device(NO_COMPILER)
    outcome = choice(tmp_path, first).outcome(modulated_norm, NORM)
    assert first.calls
    assert choice(tmp_path, second).outcome(modulated_norm, NORM) == outcome
    assert second.calls == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_kernel_gives_way_with_one_warning(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chooser = choice(tmp_path, Device(FAULTS[fault]))
    for _ in range(3):
        assert chooser.choose(modulated_norm, NORM) == "reference"
    assert chooser.choose(modulated_norm, NormVariant("float16")) == "reference"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the Metal kernel modulated_norm is replaced by the reference graph" in record.getMessage()
    assert fault in record.getMessage()
    caplog.clear()
    later = choice(tmp_path, Device())
    assert later.choose(modulated_norm, NORM) == "reference"
    assert len(caplog.records) == 1


def test_kernels_are_judged_one_by_one(tmp_path: Path) -> None:
    class LinearIsBroken(Device):
        def compute(self, front_end: Any, implementation: Any, problem: Any) -> np.ndarray:
            if implementation == "kernel" and front_end is quantized_linear:
                raise RuntimeError("no such kernel")
            return super().compute(front_end, implementation, problem)

    chooser = choice(tmp_path, LinearIsBroken())
    assert chooser.choose(quantized_linear, LinearVariant("bfloat16")) == "reference"
    assert chooser.choose(modulated_norm, NORM) == "kernel"


def test_mlx_is_used_where_it_is_clearly_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert choice(tmp_path / "a", Device(mlx=0.5 * FAST)).choose(modulated_norm, NORM) == "mlx"
    assert choice(tmp_path / "b", Device(mlx=0.95 * FAST)).choose(modulated_norm, NORM) == "kernel"
    assert caplog.records == []


def test_mlx_is_not_used_where_it_is_wrong(tmp_path: Path) -> None:
    class MlxIsWrong(Device):
        def compute(self, front_end: Any, implementation: Any, problem: Any) -> np.ndarray:
            values = super().compute(front_end, implementation, problem)
            return one_wrong(values) if implementation == "mlx" else values

    assert choice(tmp_path, MlxIsWrong(mlx=0.1 * FAST)).choose(modulated_norm, NORM) == "kernel"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 0, "identity": {}, "outcomes": {}, "started": {}}',
        "OUTCOMES:[1]",
        'OUTCOMES:{"modulated_norm bfloat16 norm=rms": {"choice": "anything"}}',
        'OUTCOMES:{"modulated_norm bfloat16 norm=rms": {"choice": "kernel", "error": "small"}}',
        'OUTCOMES:{"modulated_norm bfloat16 norm=rms": {"unknown": 1}}',
        "BYTES",
    ],
)
def test_a_damaged_file_means_checking_again(text: str, tmp_path: Path) -> None:
    store = choice(tmp_path, Device()).store
    whole = {"format": 2, "identity": store.identity, "started": {}}
    if text.startswith("OUTCOMES:"):
        text = json.dumps({**whole, "outcomes": json.loads(text.removeprefix("OUTCOMES:"))})
    store.path.write_bytes(b"\xff\xfe\x00" if text == "BYTES" else text.encode())
    device = Device()
    assert choice(tmp_path, device).choose(modulated_norm, NORM) == "kernel"
    assert device.calls
    assert list(json.loads(store.path.read_text())["outcomes"]) == [NORM.key]


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every process checks again, and does not choose by time, which could differ from process to process."""
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    device = Device(mlx=0.1 * FAST)
    chooser = choice(folder, device)
    assert chooser.choose(modulated_norm, NORM) == chooser.choose(modulated_norm, NORM) == "kernel"
    assert device.calls == ["kernel"] * len(check_problems(NORM))  # once for each problem
    assert chooser.outcome(modulated_norm, NORM).seconds is None
    assert "every process checks again: " in doctor.gpu_facts(chooser)[-1][1]
    assert choice(folder, Device(one_wrong)).choose(modulated_norm, NORM) == "reference"
    assert len(caplog.records) == 1


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = choice(tmp_path, Device())
    chooser.choose(modulated_norm, NORM)
    before = chooser.store.path.read_text()

    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    assert chooser.choose(modulated_norm, NormVariant("float16")) == "kernel"
    assert chooser.store.path.read_text() == before
    assert list(tmp_path.iterdir()) == [chooser.store.path]


def test_processes_add_to_each_others_outcomes(tmp_path: Path) -> None:
    one, other = choice(tmp_path, Device()), choice(tmp_path, Device())
    one.choose(modulated_norm, NORM)
    other.choose(modulated_norm, NormVariant("float16"))
    assert len(choice(tmp_path, Device()).store.outcomes()) == 2


@pytest.mark.parametrize("field", ["name", "architecture", "macos", "mlx_version", "wheel"])
def test_another_device_or_system_is_proven_anew(field: str, tmp_path: Path) -> None:
    choice(tmp_path, Device()).choose(modulated_norm, NORM)
    device = Device()
    choice(tmp_path, device, replace(M3, **{field: "other"})).choose(modulated_norm, NORM)
    assert device.calls


def test_another_build_is_proven_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice(tmp_path, Device()).choose(modulated_norm, NORM)
    monkeypatch.setattr(kernel_choice, "build_digest", lambda: "other")
    device = Device()
    choice(tmp_path, device).choose(modulated_norm, NORM)
    assert device.calls


def test_a_check_that_ended_its_process_is_not_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import os, sys\n"
        "from ltx2rt.kernels import modulated_norm\n"
        "from ltx2rt.kernels.gpu_device import GpuDevice\n"
        "from ltx2rt.kernels.kernel_choice import KernelChoice\n"
        "from ltx2rt.kernels.proof import DeviceRunner\n"
        "from ltx2rt.kernels.variants import NormVariant\n"
        "from pathlib import Path\n"
        "class Ends(DeviceRunner):\n"
        "    def compute(self, *arguments):\n"
        "        os._exit(9)\n"
        f"KernelChoice(eval({repr(M3)!r}), Path(sys.argv[1]), Ends()).choose(modulated_norm, NormVariant('bfloat16'))\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    device = Device()
    chooser = choice(tmp_path, device)
    assert chooser.choose(modulated_norm, NORM) == "reference"
    assert device.calls == []
    assert "the process that checked it was ended" in caplog.text
    assert chooser.outcome(modulated_norm, NORM, again=True).choice == "kernel"
    assert choice(tmp_path, Device(NO_COMPILER)).choose(modulated_norm, NORM) == "kernel"


def test_an_interrupted_check_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        choice(tmp_path, Device(raising(KeyboardInterrupt()))).choose(modulated_norm, NORM)
    chooser = choice(tmp_path, Device())
    assert not chooser.store.ended_the_process(NORM.key)
    assert chooser.choose(modulated_norm, NORM) == "kernel"


def test_a_check_that_another_process_is_at_is_made_here_too(tmp_path: Path) -> None:
    ProofStore(choice(tmp_path, Device()).store.identity, tmp_path).start(NORM.key)  # this process, still running
    assert choice(tmp_path, Device()).choose(modulated_norm, NORM) == "kernel"


def test_cache_folders_follow_the_platform() -> None:
    assert cache_folder({"HOME": "/h"}, "darwin") == Path("/h/Library/Caches/ltx2rt")
    assert cache_folder({"HOME": "/h"}, "linux") == Path("/h/.cache/ltx2rt")
    assert cache_folder({"HOME": "/h", "XDG_CACHE_HOME": "/c"}, "linux") == Path("/c/ltx2rt")
    assert cache_folder({"HOME": "/h", "LTX2RT_CACHE": "/own"}, "darwin") == Path("/own")


@pytest.fixture
def on_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DeviceRunner], KernelChoice]:
    """Makes ops believe that the default device is a Metal GPU."""

    def use(device: DeviceRunner) -> KernelChoice:
        chooser = choice(tmp_path, device)
        monkeypatch.setattr(kernel_choice, "metal_kernels", lambda: chooser)
        monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
        return chooser

    return use


X = mx.random.normal((3, 5, 64), key=mx.random.key(0)).astype(mx.bfloat16)


def built_as(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects how the extension is asked to build modulated_norm."""
    asked: list[Any] = []

    class Extension:
        @staticmethod
        def modulated_norm(x: mx.array, *, reference: Any, use_reference: bool, **options: Any) -> mx.array:
            asked.append("kernel" if not use_reference else reference(x))
            return x

    monkeypatch.setattr(sys.modules["ltx2rt.kernels.modulated_norm"], "ext", Extension)
    return asked


@pytest.mark.parametrize(
    ("device", "expected"), [(Device(), "kernel"), (Device(mlx=1e-4), "mlx"), (Device(one_wrong), "reference")]
)
def test_ops_are_built_as_chosen(device: Device, expected: str, on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu(device).choose(modulated_norm, NORM)
    asked = built_as(monkeypatch)
    modulated_norm(X)
    assert asked.pop(0) == "kernel"  # for its checks of the arguments
    if expected == "kernel":
        assert asked == []
        return
    with forced(expected):  # type: ignore[arg-type]
        options = {"scale": None, "shift": None, "index": None, "norm": "rms", "eps": 1e-6}
        formula = reference.modulated_norm if expected == "reference" else kernel_mlx_norm
        assert mx.array_equal(asked[0], formula(X, **options))


def kernel_mlx_norm(x: mx.array, **options: Any) -> mx.array:
    assert options["norm"] == "rms"
    return mx.fast.rms_norm(x, None, options["eps"])


def way(variant: Callable[[], Any] = lambda: NORM) -> str:
    """How an op is built now."""
    asked: list[str] = []

    def build(implementation: str) -> mx.array:
        asked.append(implementation)
        return X

    built(modulated_norm, build, variant)
    return asked[-1]


def test_ways_without_a_proof(on_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert way() == "kernel"  # the CPU
    on_gpu(Device(one_wrong))
    assert way() == "reference"
    with forced("kernel"):
        assert way() == "kernel"
    monkeypatch.setattr(kernel_choice, "metal_kernels", lambda: None)
    assert way() == "reference"  # CUDA, or a build without launch code
    monkeypatch.setenv("LTX2RT_KERNELS", "reference")
    assert way() == "reference"


def test_bad_arguments_are_refused_by_the_op_and_nothing_is_proven(on_gpu: Any) -> None:
    device = Device()
    on_gpu(device)
    with pytest.raises(ValueError, match=r"\[quantized_linear\]"):
        quantized_linear(mx.array(1.0), LinearWeight("dense", mx.ones((4, 4))))
    assert device.calls == []


def test_a_mistake_in_a_variant_is_not_hidden(on_gpu: Any) -> None:
    on_gpu(Device())
    with pytest.raises(AttributeError):
        way(lambda: NORM.nothing)  # type: ignore[attr-defined]


LINEAR = LinearVariant("bfloat16")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"fenced": 0.99 * FAST}, "fenced"),
        ({"fenced": 1.01 * FAST}, "kernel"),
        ({"fenced": 0.7 * FAST, "mlx": 0.8 * FAST}, "fenced"),
        ({"fenced": 0.7 * FAST, "mlx": 0.5 * FAST}, "mlx"),
    ],
)
def test_fences_are_used_where_they_help(seconds: dict[str, float], expected: str, tmp_path: Path) -> None:
    assert choice(tmp_path, Device(**seconds)).choose(quantized_linear, LINEAR) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"half": 0.85 * FAST}, "half"),
        ({"half": 0.95 * FAST}, "kernel"),  # other bits: it must be clearly faster
        ({"half": 0.85 * FAST, "half_fenced": 0.8 * FAST}, "half_fenced"),
        ({"fenced": 0.7 * FAST, "half": 0.68 * FAST}, "fenced"),
        ({"half": 0.5 * FAST, "mlx": 0.4 * FAST}, "mlx"),
    ],
)
def test_half_operands_are_used_where_they_help(seconds: dict[str, float], expected: str, tmp_path: Path) -> None:
    times = {"fenced": FAST, "half": FAST, "half_fenced": FAST} | seconds
    variant = replace(LINEAR, half=True)
    assert choice(tmp_path, Device(**times)).choose(quantized_linear, variant) == expected


def test_half_operands_are_tried_for_weights_that_fit(tmp_path: Path) -> None:
    device = Device(fenced=FAST, half=0.5 * FAST)
    assert choice(tmp_path, device).choose(quantized_linear, LINEAR) == "kernel"
    assert "half" not in device.calls


def test_only_matrix_kernels_have_fences(tmp_path: Path) -> None:
    device = Device(fenced=0.5 * FAST)
    assert choice(tmp_path, device).choose(modulated_norm, NORM) == "kernel"
    assert choice(tmp_path, device).choose(quantized_linear, LinearVariant("bfloat16", "e4m3", rows=16)) == "kernel"
    assert "fenced" not in device.calls


REFUSALS = [
    MemoryError(),
    RuntimeError("[malloc] Unable to allocate 99 bytes."),
    RuntimeError(
        "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size"
    ),
    RuntimeError(
        "[METAL] Command buffer execution failed: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    ),
    RuntimeError("[METAL] Command buffer execution failed: (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_refused_memory_is_no_fault_of_the_kernel(
    refusal: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported, with what it interrupted; nothing is noted, and the next check decides."""
    with pytest.raises(type(refusal)):
        choice(tmp_path, Device(raising(refusal))).choose(modulated_norm, NORM)
    (record,) = caplog.records
    assert f"the check of the Metal kernel {NORM.key} was ended by: " in record.getMessage()
    chooser = choice(tmp_path, Device())
    assert chooser.store.outcomes() == {}
    assert not chooser.store.ended_the_process(NORM.key)
    assert chooser.choose(modulated_norm, NORM) == "kernel"


def test_memory_refused_to_mlx_ops_does_not_decide_either(tmp_path: Path) -> None:
    class Refused(Device):
        def compute(self, front_end: Any, implementation: Any, problem: Any) -> np.ndarray:
            if implementation == "mlx":
                raise RuntimeError("[malloc] Unable to allocate 99 bytes.")
            return super().compute(front_end, implementation, problem)

    with pytest.raises(RuntimeError, match="Unable to allocate"):
        choice(tmp_path, Refused()).choose(modulated_norm, NORM)
    assert choice(tmp_path, Device()).store.outcomes() == {}


@pytest.mark.parametrize(
    ("dtype", "every"),
    [("float32", False), *(pytest.param(dtype, True, marks=pytest.mark.slow) for dtype in ("bfloat16", "float32"))],
)
def test_every_variant_that_verify_checks_passes_here(dtype: str, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU kernels, and MLX's own ops in float32, agree with the reference on all problems of the proof.

    By default on the last problem of those variants in which each value of each field occurs; how weights are packed
    is in the tests of quantized_linear. Numbers of rows choose a Metal kernel; those of the CPU are tests of their own.
    """
    if not every:
        monkeypatch.setattr(proof, "check_problems", lambda variant, metal: check_problems(variant, metal=metal)[-1:])
    met: set[tuple[str, str, object]] = set()
    for front_end, variant in variants(dtype):
        if isinstance(variant, LinearVariant) and variant.rows and not every:
            continue
        packing = ("weight", "groups", "scale") if isinstance(variant, LinearVariant) else ()
        values = {(variant.op, name, value) for name, value in vars(variant).items() if name not in packing}
        if values <= met and not every:
            continue
        met |= values
        outcome = prove(front_end, variant, DeviceRunner(), timed=False, metal=False)
        assert not outcome.fault, variant.key
        if dtype == "float32":
            problems = check_problems(variant, metal=False)
            for problem in problems if every else problems[-1:]:  # MLX has no paths of its own for their sizes
                with forced("reference"):
                    exact = np.array(front_end(**problem))
                with forced("mlx"):
                    values = np.array(front_end(**problem))
                seen = np.isfinite(values)  # MLX gives NaN for a query that sees nothing
                assert seen.mean() > 0.9
                assert np.abs(values - exact)[seen].max() <= 2e-5 * np.abs(exact).max(), variant.key


def test_exact_arguments_are_the_same_values() -> None:
    variant = LinearVariant("bfloat16", "int8", 32, "float16", bias="bfloat16", residual=True)
    problem = check_problems(variant)[0]
    exact = exact_arguments(problem)
    assert exact["x"].dtype == exact["bias"].dtype == exact["weight"].scale.dtype == mx.float32
    assert exact["weight"].values.dtype == mx.uint32
    assert mx.array_equal(exact["x"], problem["x"])


def test_a_variant_describes_the_problem_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Front-ends see the variant they were given a problem for, or the proof would prove something else."""
    monkeypatch.setattr(
        proof_problems._Values, "array", lambda self, shape, dtype, scale=1.0: mx.zeros(shape, dtype_of(dtype))
    )
    seen: list[Any] = []

    def record(front_end: Any, build: Callable[[str], mx.array], variant: Callable[[], Any]) -> mx.array:
        seen.append(variant())
        return build("reference")

    attentions = ("rope_attention", "neighborhood_attention")
    for op in ("modulated_norm", "quantized_linear", *attentions, "causal_conv3d", "antialiased_snake"):
        monkeypatch.setattr(sys.modules[f"ltx2rt.kernels.{op}"], "built", record)
    extra = [
        (
            quantized_linear,
            LinearVariant("float16", "int4", 64, "bfloat16", 16, "float32", "silu", True, "float16", True),
        )
    ]
    for front_end, variant in variants("bfloat16") + extra:
        for problem in [*check_problems(variant, metal=False), timing_problem(variant)]:
            seen.clear()
            front_end(**problem)
            assert seen == [variant]


def test_keys_tell_variants_apart() -> None:
    everything = [variant for dtype in ("bfloat16", "float16") for _, variant in variants(dtype)]
    assert len({variant.key for variant in everything}) == len(everything)
    assert ConvVariant("float16", "float16", (1, 3, 3)).key.startswith(
        "causal_conv3d float16 weight=float16 kernel=1x3x3"
    )
    assert AttentionVariant("float32", 64, causal=True).key == "rope_attention float32 head=64 causal"


M5 = replace(M3, name="Apple M5", architecture="applegpu_g17g", macos="26.2", wheel="macosx_26_0_arm64")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (M5, "used by MLX's own kernels"),
        (replace(M5, wheel="macosx_14_0_arm64"), "come with its macosx_26_0 wheel only"),
        (replace(M5, wheel=""), "come with its macosx_26_0 wheel only"),
        (replace(M5, macos="26.1"), "they need macOS 26.2 or later"),
    ],
)
def test_advice_on_matrix_units(device: GpuDevice, expected: str) -> None:
    rows = dict(advice(device, {}))
    assert expected in rows["matrix units"]
    assert ("pip install" in rows["matrix units"]) == (device.wheel != "macosx_26_0_arm64")


def test_advice_on_older_devices() -> None:
    rows = dict(advice(M3, {}))
    assert rows["gpu"] == "Apple M3 Max, applegpu_g15s (generation 15), macOS 15.3.1"
    assert "matrix units" not in rows
    assert rows["wired memory"].startswith("Metal keeps at most 48.0 of 64.0 GB resident")
    assert "set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1" in rows["watchdog"]
    assert "display off" in rows["watchdog"]
    relaxed = dict(advice(M3, {"AGX_RELAX_CDM_CTXSTORE_TIMEOUT": "1"}))
    assert "is set already" in relaxed["watchdog"]
    assert "unknown" in dict(advice(replace(M3, wheel=""), {}))["mlx wheel"]


def test_there_is_no_metal_device_here() -> None:
    assert mx.metal.is_available() or metal_device() is None
    on_apple = sys.platform == "darwin"
    assert on_apple == selection.ext.METAL


def test_doctor_shows_what_was_proven(tmp_path: Path) -> None:
    chooser = choice(tmp_path, Device())
    assert "no variant was used yet" in doctor.gpu_facts(chooser)[-1][1]
    chooser.choose(modulated_norm, NORM)
    chooser.store.finish("modulated_norm float16", Outcome("mlx", 0.0, 0.1, {"kernel": 0.002, "mlx": 0.001}))
    chooser.store.finish("rope_attention float16", Outcome("reference", fault="does not run: no"))
    rows = doctor.gpu_facts(chooser)
    assert rows[-3][1].startswith("1 variants use our kernel, 1 MLX's own op, 1 the reference graph (")
    assert rows[-2] == ("MLX's op", "modulated_norm float16: faster here (kernel 2.00 ms, mlx 1.00 ms)")
    assert rows[-1] == ("replaced", "rope_attention float16: does not run: no; the reference graph is used")


def test_verify_checks_kernels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, on_gpu: Any, monkeypatch: Any
) -> None:
    assert run_command(["verify", "--only", "modulated_norm float32"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 passed, 0 failed, 0 not covered"
    assert run_command(["verify", "--only", "nothing is named so"]) == 1
    capsys.readouterr()
    chooser = choice(tmp_path, Device(one_wrong))
    monkeypatch.setattr(verify_kernels, "metal_kernels", lambda: chooser)
    assert run_command(["verify", "--only", "modulated_norm float32", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert len(report["kernels"]) == 4
    assert all(k["choice"] == "reference" and "differs" in k["fault"] for k in report["kernels"])
    row = verify_command._kernel_row(verify_kernels.KernelResult("k", Outcome("mlx", 0.0, 0.1, {"kernel": 0.002})))
    assert row.endswith("k  (kernel 2.00 ms; mlx is used)")
    monkeypatch.setenv("LTX2RT_KERNELS", "reference")
    assert run_command(["verify"]) == 2
    assert "LTX2RT_KERNELS=reference leaves no kernel" in capsys.readouterr().err
