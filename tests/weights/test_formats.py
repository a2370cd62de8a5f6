"""Storage formats: which tensor is in which, and what a file with fp8 row scales gives wherever weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.formats import companion_of, encoding_of, format_of
from ltx2rt.weights.inferred_config import _rows, _shape
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.tensor_source import TensorInfo, entry

ROWS, COLUMNS = 600, 64  # more than one slab
MODULE = "transformer_blocks.0.attn1.to_q"
PREFIX = f"model.diffusion_model.{MODULE}"
SPEC = ParamSpec(f"{MODULE}.weight", (ROWS, COLUMNS), layout="linear")
GENERATOR = np.random.default_rng(5)
CODES = encode_e4m3(GENERATOR.normal(size=(ROWS, COLUMNS)).astype(np.float32) * np.float32(60))
SCALES = np.abs(GENERATOR.normal(size=ROWS)).astype(np.float32) / np.float32(300) + np.float32(1e-4)


def e4m3(code: int) -> float:
    """The value of a finite code by the definition of the format."""
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = 2.0**-9 * mantissa if exponent == 0 else 2.0 ** (exponent - 7) * (1 + mantissa / 8)
    return -magnitude if code & 0x80 else magnitude


TABLE = np.array([e4m3(code) for code in range(256)], np.float32)
VALUES = TABLE[CODES] * SCALES[:, None]


def to_bf16(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 values of finite ``values`` rounded to bfloat16, ties to even, in integers."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def write(path: Path, scales: Any = SCALES, suffix: str = "weight_scale", **others: Any) -> Path:
    tensors: dict[str, Any] = {f"{PREFIX}.weight": RawTensor("F8_E4M3", CODES), f"{PREFIX}.{suffix}": scales}
    write_safetensors(path, tensors | {f"{PREFIX}.{name}": value for name, value in others.items()})
    return path


def float32(values: mx.array) -> np.ndarray[Any, Any]:
    return np.array(values.astype(mx.float32))


def loaded(path: Path) -> LinearWeight:
    weight = Checkpoint.open(path).load("transformer", [SPEC])[SPEC.name]
    assert isinstance(weight, LinearWeight)
    return weight


@pytest.mark.parametrize("suffix", ["weight_scale", "scale_weight"])
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
def test_fp8_with_row_scales_stays_as_it_is(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    weight = loaded(write(tmp_path / "a.safetensors", SCALES.reshape(shape), suffix))
    assert (weight.mode, weight.values.dtype, weight.scale.shape) == ("e4m3", mx.uint8, (ROWS,))
    np.testing.assert_array_equal(float32(dequantise(weight)), VALUES)


def test_fp8_with_row_scales_as_an_array(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors"))
    array = checkpoint.load("transformer", [ParamSpec(SPEC.name, SPEC.shape)])[SPEC.name]
    assert isinstance(array, mx.array)
    np.testing.assert_array_equal(float32(array), to_bf16(VALUES))


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)])
@pytest.mark.parametrize("rows", [[7], [3, 4, 5, 0, 599, 3]])
def test_some_rows_of_it_come_with_their_scales(tmp_path: Path, shape: tuple[int, ...], rows: list[int]) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", SCALES.reshape(shape)))
    some = checkpoint.load_rows("transformer", SPEC, rows)
    assert isinstance(some, LinearWeight)
    np.testing.assert_array_equal(float32(some.values), to_bf16(VALUES[rows]))


def test_it_streams(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors"))
    stream = checkpoint.stream("transformer", [[SPEC]])
    for _ in range(3):
        weight = stream(0)[SPEC.name]
        assert isinstance(weight, LinearWeight)
        np.testing.assert_array_equal(float32(dequantise(weight)), VALUES)
    assert stream.nbytes == CODES.nbytes + SCALES.nbytes
    stream.clear()


@pytest.mark.parametrize("dtype", [None, mx.float32])
def test_a_lora_is_added_before_the_one_rounding(tmp_path: Path, dtype: mx.Dtype | None) -> None:
    a = GENERATOR.normal(size=(4, COLUMNS)).astype(np.float32)
    b = GENERATOR.normal(size=(ROWS, 4)).astype(np.float32)
    path = tmp_path / "lora.safetensors"
    write_safetensors(path, {f"{MODULE}.lora_A.weight": a, f"{MODULE}.lora_B.weight": b})
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors"))
    fused = checkpoint.load("transformer", [SPEC], [(open_lora(path), 0.5)], dtype)[SPEC.name]
    assert isinstance(fused, LinearWeight)
    delta = np.concatenate([(b * np.float32(0.5))[rows] @ a for rows in (slice(512), slice(512, None))])
    exact = VALUES + delta
    assert fused.values.dtype == (dtype or mx.bfloat16)
    np.testing.assert_array_equal(float32(fused.values), exact if dtype else to_bf16(exact))


def test_the_plan_counts_it_as_it_is_held(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors"))
    counted = checkpoint.loaded_bytes("transformer", [SPEC])
    assert counted.stored == CODES.nbytes + SCALES.nbytes
    assert counted.arrays == loaded(checkpoint.path).nbytes == counted.stored
    assert counted.made == counted.loading == counted.working == 0


def test_inspect_knows_it(tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "a.safetensors"))
    (component,) = report.components
    assert component.formats == {"fp8 with row scales": 1}
    assert component.parameters == ROWS * COLUMNS


def test_scales_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    scales = SCALES.copy()
    scales[[3, 9]] = np.nan, np.inf
    with pytest.raises(CheckpointError, match=r"to_q\.weight_scale': 2 of 600 values are not finite numbers"):
        loaded(write(tmp_path / "a.safetensors", scales))


def marker(content: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def test_a_marker_goes_with_what_is_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", comfy_quant=marker({"format": "float8_e4m3fn_rowwise"}))
    np.testing.assert_array_equal(float32(dequantise(loaded(path))), VALUES)


@pytest.mark.parametrize(
    ("declared", "scales", "message"),
    [
        ("float8_e4m3fn_rowwise", np.ones((), np.float32), r"weight_scale has shape \[\]; expected \[600\] or"),
        (
            "float8_e5m2",
            np.ones((), np.float32),
            "marked float8_e5m2 but the weight is F8_E4M3",
        ),
        ("float8_e5m2", SCALES, "marked float8_e5m2 but the weight is F8_E4M3"),
        ("float8_e4m3fn_blockwise", SCALES, "600 x 64 cannot be divided into blocks of 64 x 64"),
    ],
)
def test_a_marker_that_contradicts_it(tmp_path: Path, declared: str, scales: Any, message: str) -> None:
    path = write(tmp_path / "a.safetensors", scales, comfy_quant=marker({"format": declared}))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize(
    ("tensors", "name"),
    [
        ({"x.weight": entry("BF16", (8, 64))}, "dense"),
        ({"x.weight": entry("F8_E4M3", (8, 64))}, "fp8"),
        ({"x.weight": entry("F8_E4M3", (8, 64)), "x.weight_scale": entry("F32", ())}, "fp8"),
        ({"x.weight": entry("F8_E4M3", (1, 64)), "x.weight_scale": entry("F32", (1,))}, "fp8"),
        ({"x.weight": entry("F8_E4M3", (8, 64)), "x.scale_weight": entry("F32", (8, 1))}, "fp8 with row scales"),
        ({"x.weight": entry("F8_E5M2", (8, 64)), "x.weight_scale": entry("F32", (8,))}, "fp8 with row scales"),
        ({"x.weight": entry("F8_E5M2", (8, 64))}, "fp8 E5M2"),
        ({"x.weight": entry("U32", (8, 8)), "x.scales": entry("F16", (8, 2))}, "MLX int"),
        ({"x.weight": entry("U32", (8, 8))}, "dense"),
        ({"x.weight": entry("F8_E4M3", (8, 64)), "x.bias_scale": entry("F32", (8,))}, "fp8"),
    ],
)
def test_formats_are_recognised(tensors: dict[str, TensorInfo], name: str) -> None:
    assert format_of(encoding_of("x.weight", tensors)).name == name


@pytest.mark.parametrize(
    ("name", "accompanied"),
    [
        ("a.weight_scale", "a.weight"),
        ("a.scale_weight", "a.weight"),
        ("a.bias_scale", "a.bias"),
        ("a.scales", "a.weight"),
        ("a.biases", "a.weight"),
        ("a.input_scale", "a.weight"),
        ("a.comfy_quant", "a.weight"),
        ("a.scale_shift_table", "a.scale_shift_table"),
    ],
)
def test_what_a_tensor_accompanies(name: str, accompanied: str) -> None:
    assert companion_of(name) == accompanied


def test_bits_are_named_where_shapes_tell_them() -> None:
    encoding = encoding_of("x.weight", {"x.weight": entry("U32", (8, 48)), "x.scales": entry("BF16", (8, 4))})
    form = format_of(encoding)
    assert [form.label(encoding, shape) for shape in (None, (8, 256), (8, 512))] == ["MLX int", "MLX int6", "MLX int3"]


def test_packed_columns_are_inferred_or_said_to_be_in_doubt() -> None:
    packed = {"x.weight": entry("U32", (8, 16)), "x.scales": entry("BF16", (8, 8))}  # 2 bits in groups of 32
    assert _shape(packed, "x.weight", 2, "a file") == (8, 256)
    packed["x.scales"] = entry("BF16", (8, 4))  # or 2 bits in groups of 64
    assert _rows(packed, "x.weight", "a file") == 8
    assert _shape(packed, "x.weight", 2, "a file", [None, 3, 128]) == (8, 128)
    with pytest.raises(CheckpointError, match=r"may be \[8, 256\] or \[8, 128\] as it is packed"):
        _shape(packed, "x.weight", 2, "a file", [64])


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_weights_that_are_not_held_as_stored_are_counted(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {f"{PREFIX}.weight": RawTensor(dtype, CODES & 0x77)})
    counted = Checkpoint.open(path).loaded_bytes("transformer", [SPEC])
    assert counted.arrays == loaded(path).nbytes
    assert counted.made == (0 if dtype == "F8_E4M3" else counted.arrays)
