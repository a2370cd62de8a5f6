"""The simulator reports every seeded defect, passes correct kernels, and computes what Metal defines."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.metal_sim import CompileError, In, Inline, InOut, Out, Result, SimulationError, from_bits, run, to_bits
from tools.metal_sim.build import build_runtime, compile_shader, preprocess
from tools.metal_sim.translate import TranslationError, translate

SHADERS = Path(__file__).parent / "shaders/defects.metal"
X = np.arange(512, dtype=np.float32)
REVERSED = X.reshape(4, 128)[:, ::-1].reshape(-1)

DEFECTS = {
    "kNoBarrier": ("race", "block byte"),
    "kDivergentBarrier": ("divergence", "different threadgroup barriers"),
    "kTooMuchThreadgroupMemory": ("limit", "36000 bytes with block"),
    "kSlotNeverWritten": ("uninitialised", "block byte 20"),
    "kReadsPastTheEnd": ("bounds", "buffer 0: thread 127 of threadgroup 3 reads 4 bytes at 2048 of 2048"),
    "kPartialSimdgroup": ("divergence", "16 of 32 threads are at a simdgroup operation"),
    "kSimdgroupBarrierOnly": ("race", "block byte"),
    "kBarrierWithoutMemory": ("race", "block byte"),
    "kGroupsShareOutput": ("race", "buffer 1 byte 0"),
    "kStoresNan": ("nan", "buffer 1 byte 28: thread 7 of threadgroup 0 stores NaN"),
    "kWritesInput": ("binding", "buffer 0 is an input"),
    "kReadsOutput": ("uninitialised", "reads an output before it is written"),
    "kThreadsShareOutput": ("race", "buffer 1 byte 0: thread 1 of threadgroup 0 overwrites"),
    "kLeavesOutput": ("unwritten", "buffer 1: 16 of 2048 bytes are never written, the first at 36"),
    "kNeverEnds": ("crash", "still running after 1 s"),
    "kWildPointer": ("crash", "wild access at address 0x1234"),
    "kLaneOutOfRange": ("divergence", "shuffles from lane 33"),
    "kOverwritesBeforeRead": ("race", "what thread"),
    "kMisalignedVector": ("alignment", "reads 8 bytes at an address that 8 does not divide"),
}


def reverse(kernel: str, **options: Any) -> Result:
    buffers = {0: In(X), 1: Out((512,), "float32"), 2: Inline(struct.pack("<i", 512))}
    return run(SHADERS, kernel, buffers, (4, 1, 1), (128, 1, 1), timeout_s=1, **options)


def test_a_correct_kernel_is_clean() -> None:
    result = reverse("kNone").check()
    np.testing.assert_array_equal(result.outputs[1], REVERSED)
    counted = result.counters.as_dict()
    assert {name: n for name, n in counted.items() if n} == {
        "device_load_bytes": 2048,
        "device_store_bytes": 2048,
        "threadgroup_load_bytes": 2048,
        "threadgroup_store_bytes": 2048,
        "loads": 1024,
        "stores": 1024,
        "threadgroup_barriers": 4,
        "threadgroups": 4,
        "threadgroup_bytes": 512,
    }


@pytest.mark.parametrize("kernel", DEFECTS)
def test_a_defect_is_reported(kernel: str) -> None:
    kind, message = DEFECTS[kernel]
    result = reverse(kernel)
    assert any(f.kind == kind and message in f.message for f in result.findings), result.findings[:4]
    with pytest.raises(SimulationError, match=kind):
        result.check()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_does_not_matter_to_a_correct_kernel(seed: int) -> None:
    np.testing.assert_array_equal(reverse("kNone", seed=seed).check().outputs[1], REVERSED)


def test_order_shows_a_race_that_the_usual_order_hides() -> None:
    def values(seed: int) -> bytes:
        return reverse("kBarrierWithoutMemory", seed=seed).outputs[1].tobytes()

    def unsynchronised(seed: int) -> bytes:
        return reverse("kNoBarrier", seed=seed).outputs[1].tobytes()

    assert values(0) == REVERSED.tobytes()
    assert len({unsynchronised(seed) for seed in range(4)}) > 1


def test_processes_share_the_work_and_the_checks() -> None:
    one, three = reverse("kNone"), reverse("kNone", processes=3)
    np.testing.assert_array_equal(three.check().outputs[1], REVERSED)
    assert three.counters.as_dict() == one.counters.as_dict()
    assert reverse("kGroupsShareOutput", processes=3).found.get("race")


def test_unchecked_runs_compute_the_same() -> None:
    result = reverse("kNone", mode="unchecked").check()
    np.testing.assert_array_equal(result.outputs[1], REVERSED)
    assert result.counters.device_load_bytes == 0


def test_more_threads_than_the_kernel_is_compiled_for_are_reported() -> None:
    head = (
        "template <int N> [[kernel, max_total_threads_per_threadgroup(32 * N)]] void k(device float* y [[buffer(0)]], "
    )
    body = "uint i [[thread_position_in_grid]]) { y[i] = 1; } "
    last = 'template [[host_name("k2")]] [[kernel]] decltype(k<2>) k<2>;'
    source = "#include <metal_stdlib>\nusing namespace metal;\n" + head + body + last
    run(source, "k2", {0: Out((64,), "float32")}, (1, 1, 1), (64, 1, 1)).check()
    assert only(run(source, "k2", {0: Out((96,), "float32")}, (1, 1, 1), (96, 1, 1))).startswith(
        "limit: a threadgroup of 96 threads, for which the kernel is compiled with at most 64"
    )


def scale(arguments: dict[int, Any] | None = None, n: int = 64, **options: Any) -> Result:
    buffers = {0: In(X[:n]), 1: Out((n,), "float32"), 2: Inline(struct.pack("<ifq", n, 2.0, 0))} | (arguments or {})
    return run(SHADERS, "scale", buffers, (n // 32, 1, 1), (32, 1, 1), **options)


def only(result: Result) -> str:
    assert len(result.findings) == 1, result.findings[:4]
    return f"{result.findings[0].kind}: {result.findings[0].message}"


def test_struct_of_another_size_is_reported() -> None:
    message = only(scale({2: Inline(struct.pack("<if", 64, 2.0))}))
    assert message == "binding: buffer 2: the kernel's struct has 16 bytes but 8 are bound"


def test_wrong_buffer_index_is_reported() -> None:
    result = scale({2: Inline(struct.pack("<ifq", 64, 2.0, 0)), 3: In(X)})
    assert only(result) == "binding: buffer 3 is bound but the kernel has no such argument"
    missing = run(SHADERS, "scale", {0: In(X[:64]), 1: Out((64,), "float32")}, (2, 1, 1), (32, 1, 1))
    assert "uses a buffer that is not bound" in missing.findings[0].message


def test_too_many_inline_bytes_are_reported() -> None:
    message = scale({2: Inline(bytes(4097))}).findings[0].message
    assert message == "buffer 2: 4097 bytes set inline, Metal allows 4096"


def test_buffer_index_31_is_reported() -> None:
    assert "buffer 31 cannot be bound: indices are 0 to 30" in scale({31: In(X)}).findings[0].message


def test_kernel_with_buffer_31_is_reported() -> None:
    source = "kernel void k(device float* y [[buffer(31)]], uint i [[thread_position_in_grid]]) { y[i] = 1; }"
    with pytest.raises(TranslationError, match="buffer 31"):
        run(source, "k", {}, (1, 1, 1), (32, 1, 1))


def test_too_many_threads_are_reported() -> None:
    result = run(SHADERS, "lanes", {0: In(X[:32]), 1: Out((384,), "float32")}, (1, 1, 1), (32, 33, 1))
    assert only(result) == "limit: a threadgroup of 32 x 33 x 1 threads, Metal allows 1 to 1024"


def test_empty_grid_is_reported() -> None:
    result = run(SHADERS, "lanes", {0: In(X[:32]), 1: Out((384,), "float32")}, (1, 0, 1), (32, 1, 1))
    assert only(result) == "limit: the grid is empty: 1 x 0 x 1"


def test_inline_bytes_for_a_device_pointer_are_reported() -> None:
    assert "is a device pointer" in scale({0: Inline(X[:64].tobytes())}).findings[0].message


def test_output_bound_to_a_const_argument_is_reported() -> None:
    found = scale({0: InOut(X[:64])}).findings[0]
    assert found.message == "buffer 0 is bound as an output but is const"


def test_misaligned_offset_is_reported() -> None:
    message = scale({0: In(X[:65], offset=2)}).findings[0].message
    assert message == "buffer 0: offset 2 is not a multiple of 4, the alignment of its elements"


@pytest.mark.parametrize("specialise", [False, True])
def test_function_constants(specialise: bool) -> None:
    def values(constants: dict) -> np.ndarray:
        return scale(constants=constants, specialise=specialise).check().outputs[1]

    np.testing.assert_array_equal(values({}), 2 * X[:64])
    np.testing.assert_array_equal(values({"negate": True}), -2 * X[:64])
    np.testing.assert_array_equal(values({3: True, "shift": 5}), -2 * X[:64] - 5)


def test_unknown_function_constant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no function constant 'sign'; it has: negate \(3\), shift \(4\)"):
        scale(constants={"sign": 1})


def test_offset_moves_the_argument() -> None:
    result = scale({0: In(X[:96], offset=4 * 32)}).check()
    np.testing.assert_array_equal(result.outputs[1], 2 * X[32:96])


def test_grids_of_threads_end_with_a_smaller_threadgroup() -> None:
    buffers = {0: In(X[:70]), 1: Out((70,), "float32"), 2: Inline(struct.pack("<ifq", 70, 2.0, 0))}
    result = run(SHADERS, "scale", buffers, (70, 1, 1), (32, 1, 1), grid_is_threads=True).check()
    np.testing.assert_array_equal(result.outputs[1], 2 * X[:70])
    assert result.counters.threadgroups == 3


def sums(length: int) -> Result:
    buffers = {0: In(X), 1: Out((4,), "float32"), 2: InOut(np.zeros(1, np.int32))}
    return run(SHADERS, "sums", buffers, (4, 1, 1), (128, 1, 1), threadgroup_memory={0: length})


def test_threadgroup_memory_of_the_launch() -> None:
    result = sums(512).check()
    np.testing.assert_array_equal(result.outputs[1], X.reshape(4, 128).sum(1))
    assert result.outputs[2][0] == 512
    assert result.counters.atomics == 512
    assert "bytes 256 to 260 of 256" in sums(256).findings[0].message
    assert "not a multiple of 16" in sums(520).findings[0].message


@pytest.mark.parametrize(
    ("kernel", "left", "right"), [("product_half", "float16", "float16"), ("product_mixed", "float32", "bfloat16")]
)
def test_matrix_product(kernel: str, left: str, right: str) -> None:
    rng = np.random.default_rng(0)
    a, b = to_bits(rng.standard_normal((8, 8)), left), to_bits(rng.standard_normal((8, 8)), right)
    buffers = {0: In(a), 1: In(b), 2: Out((8, 8), "float32"), 3: Out((8, 8), left)}
    result = run(SHADERS, kernel, buffers, (1, 1, 1), (32, 1, 1)).check()
    exact = from_bits(a, left).astype(np.float64) @ from_bits(b, right).astype(np.float64)
    np.testing.assert_allclose(result.outputs[2], exact, atol=1e-5)
    np.testing.assert_array_equal(result.outputs[3], a.T)
    assert result.counters.multiplies == 1
    half = run(SHADERS, kernel, buffers, (1, 1, 1), (16, 1, 1))
    assert any("16 threads multiplies" in f.message for f in half.findings)


def test_simdgroup_functions() -> None:
    x = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    buffers = {0: In(x), 1: Out((12, 32), "float32")}
    y = run(SHADERS, "lanes", buffers, (1, 1, 1), (32, 1, 1)).check().outputs[1]
    lanes = np.arange(32)
    expected = [
        np.full(32, x.sum()),
        np.full(32, x.max()),
        np.full(32, x.min()),
        np.cumsum(x) - x,
        np.cumsum(x),
        x[lanes ^ 5],
        x[np.where(lanes + 3 < 32, lanes + 3, lanes)],
        np.full(32, x[9]),
        np.repeat(x.reshape(8, 4).sum(1), 4),
        np.full(32, 2 * x.sum()),
        np.full(32, float((x > 2).any())),
        np.full(32, 496.0),
    ]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_traced_lines_and_bank_cycles() -> None:
    x = np.zeros(32 * 32, np.float32)
    buffers = {0: In(x), 1: Out((32,), "float32")}
    strided = run(SHADERS, "column", buffers, (1, 1, 1), (32, 1, 1), trace=True).check().counters
    # One 128-byte line per lane and load (hoisted out of the loop), one for the store. All lanes are in one bank in
    # each of 32 stores; the load that follows is forwarded from them.
    assert strided.device_lines == 32 + 1
    assert strided.threadgroup_cycles == 32 * 32
    straight = run(
        SHADERS,
        "kNone",
        {0: In(X[:128]), 1: Out((128,), "float32"), 2: Inline(bytes(4))},
        (1, 1, 1),
        (128, 1, 1),
        trace=True,
    )
    assert straight.check().counters.device_lines == 4 + 4
    assert straight.counters.threadgroup_cycles == 4 + 4


INDEXED = """#include <metal_stdlib>
using namespace metal;
kernel void indexed(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                    constant INDEX& step [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[(INDEX(i) * step) & 127];
}
"""


def indexed(index: str, format_: str, **options: Any) -> Result:
    """512 threads in four groups read the first 128 values."""
    buffers = {0: In(X), 1: Out((512,), "float32"), 2: Inline(struct.pack(format_, 1))}
    defines = {"INDEX": index}
    return run(INDEXED, "indexed", buffers, (4, 1, 1), (128, 1, 1), defines=defines, **options).check()


def test_integer_operations_are_counted_by_their_width() -> None:
    """A multiplication and a mask for each thread."""
    wide, narrow = (indexed(*types, arithmetic=True).counters for types in (("long", "<q"), ("uint", "<I")))
    assert (wide.wide_integer_operations, wide.narrow_integer_operations) == (2 * 512, 0)
    assert (narrow.wide_integer_operations, narrow.narrow_integer_operations) == (0, 2 * 512)
    assert indexed("long", "<q").counters.wide_integer_operations == 0


@pytest.mark.parametrize(("wave", "lines"), [(0, 0), (1, 16), (2, 8), (3, 8), (4, 4), (9, 4)])
def test_a_wave_of_threadgroups_loads_a_line_once(wave: int, lines: int) -> None:
    assert indexed("uint", "<I", wave=wave).counters.wave_lines == lines


def test_waves_are_those_of_one_process_in_order() -> None:
    for options in ({"processes": 2}, {"seed": 1}):
        with pytest.raises(ValueError, match="waves are counted with one process and no seed"):
            indexed("uint", "<I", wave=2, **options)


def test_sources_that_do_not_compile_say_where() -> None:
    with pytest.raises(CompileError, match="undeclared identifier 'missing'"):
        run("kernel void k(device float* y [[buffer(0)]]) {\n  y[0] = missing;\n}\n", "k", {}, (1, 1, 1), (1, 1, 1))
    with pytest.raises(TranslationError, match=r"no kernel is named other; there are: kNone"):
        run(SHADERS, "other", {}, (1, 1, 1), (1, 1, 1))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match='mode must be "checked" or "unchecked"'):
        scale(mode="fast")
    with pytest.raises(ValueError, match="allow must name kinds of findings"):
        scale(allow=["everything"])


def test_allowed_findings_are_left_out() -> None:
    assert reverse("kGroupsShareOutput", allow=["race", "unwritten"]).check().findings == []


@pytest.mark.slow
def test_it_compiles_for_arm64(tmp_path: Path) -> None:
    """Built, not run: the runtime with its arm64 context switch, and a kernel. Slow: a second target to compile."""
    library = build_runtime("aarch64")
    translation = translate(preprocess(SHADERS, [], {}).text)
    compile_shader(translation, "kNone", tmp_path / "kernel.so", checked=True, strict=False, machine="aarch64")
    for made in (library, tmp_path / "kernel.so"):
        header = made.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert struct.unpack("<H", header[18:20]) == (183,)  # AArch64


def test_another_machine_is_refused() -> None:
    with pytest.raises(CompileError, match="runs on x86_64 and aarch64, not on riscv64"):
        build_runtime("riscv64")


def test_compiled_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTX2RT_METAL_SIM_CACHE", str(tmp_path))
    header, shader = tmp_path / "value.h", tmp_path / "k.metal"
    header.write_text("#define VALUE 1\n")
    shader.write_text('#include "value.h"\nkernel void k(device float* y [[buffer(0)]]) { y[0] = VALUE; }\n')

    def value() -> float:
        return float(run(shader, "k", {0: Out((1,), "float32")}, (1, 1, 1), (1, 1, 1)).check().outputs[0][0])

    def made() -> dict[str, float]:
        return {f: os.path.getmtime(tmp_path / f) for f in os.listdir(tmp_path) if f.startswith("kernel")}

    assert value() == 1.0
    first = made()
    assert value() == 1.0
    assert made() == first
    header.write_text("#define VALUE 2\n")
    assert value() == 2.0
