"""Every quantised form of a linear layer: its values wherever weights are read, its bytes, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from format_encoders import CASES, Encoded, encoded, int8, marker, nvfp4, rotation, w4a8

from ltx2rt.errors import CheckpointError
from ltx2rt.inspection import inspect
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import encoding_of, format_of
from ltx2rt.weights.formats.linear_format import Stored
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.rotation import is_rotation_group, rotate
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors

MODULE = "transformer_blocks.0.attn1.to_q"
PREFIX = f"model.diffusion_model.{MODULE}"
OTHER = {f"{PREFIX.removesuffix('to_q')}to_k.weight": np.ones((2, 4), np.float32)}
# Rounding of float32 where the order of additions is free; what rounds to bfloat16 once adds half of its last bit.
EXACT, ROUNDED = 2e-6, 2.0**-8
# Of MLX's integers by default each number of bits and each size of groups.
SELDOM = {
    f"affine {bits} {group}"
    for index, bits in enumerate((2, 3, 4, 5, 6, 8))
    for place, group in enumerate((32, 64, 128))
    if index % 3 != place
}
EACH = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case in SELDOM else ()) for case in CASES]
)


# Name of a format -> how the kernels get it, where that is not dense, and the exceptions among the cases.
MODES = {
    "fp8": "e4m3",
    "int8": "int8",
    "int8 convrot": "int8",
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "w4a8": "w4a8",
    "w6a8": "int8",
    "w4a4": "int8",
    "awq int4": "affine",
    "MLX int": "affine",
    "MLX nvfp4": "nvfp4",
    "MLX mxfp8": "mxfp8",
}
EXCEPTIONS = {
    "nvfp4 padded": "dense",
    "mxfp8 padded": "dense",  # columns that are added, which no kernel takes
    "w4a8 group 4": "int8",
    "w4a8 correction": "dense",  # scales of 32 bits; a correction
}


def write(path: Path, form: Encoded, **others: Any) -> Path:
    write_safetensors(path, form.named(PREFIX) | OTHER | {f"{PREFIX}.{key}": value for key, value in others.items()})
    return path


def spec_of(form: Encoded, layout: Any = "linear") -> ParamSpec:
    return ParamSpec(f"{MODULE}.weight", form.values.shape, layout=layout)


def float32(values: mx.array) -> np.ndarray[Any, Any]:
    return np.array(values.astype(mx.float32))


def assert_close(values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], relative: float = 0.0) -> None:
    """Equal up to float32 rounding of the largest value, and ``relative`` of each."""
    assert values.shape == expected.shape
    allowed = EXACT * np.abs(expected).max() + relative * np.abs(expected)
    assert (np.abs(values - expected) <= allowed).all()


@EACH
def test_values(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    file = SafetensorsFile(write(tmp_path / "a.safetensors", form))
    name = f"{PREFIX}.weight"
    encoding = encoding_of(name, file.tensors, form.marker)
    companions = {suffix: (file, PREFIX + suffix) for suffix in encoding.companions}
    values = format_of(encoding).values(Stored(file, name, companions, form.marker), form.values.shape)
    assert values.dtype == mx.float32
    assert_close(np.array(values), form.values)
    is_one_product = not any(word in case for word in ("rot", "w4a8", "w6a8", "w4a4", "awq", "affine", "nvfp4"))
    if is_one_product:
        np.testing.assert_array_equal(np.array(values), form.values)


@EACH
def test_a_matrix_and_its_bytes(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form))
    weight = checkpoint.load("transformer", [spec_of(form)])[f"{MODULE}.weight"]
    assert isinstance(weight, LinearWeight)
    assert_close(float32(dequantise(weight)), form.values, ROUNDED)
    counted = checkpoint.loaded_bytes("transformer", [spec_of(form)])
    assert (counted.arrays, counted.rotation) == (weight.nbytes, weight.rotation)
    in_file = [SafetensorsFile(checkpoint.path).bytes(name) for name in form.named(PREFIX)]
    made = [part.nbytes for part in weight.arrays if bytes(memoryview(part.reshape(-1).view(mx.uint8))) not in in_file]
    assert counted.made == sum(made)
    assert weight.mode == EXCEPTIONS.get(case, MODES.get(form.label, "dense"))
    array = checkpoint.load("transformer", [spec_of(form, "as_stored")])[f"{MODULE}.weight"]
    assert isinstance(array, mx.array)
    assert_close(float32(array), form.values, ROUNDED)
    assert checkpoint.loaded_bytes("transformer", [spec_of(form, "as_stored")]).arrays == array.nbytes


@EACH
def test_some_rows(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form))
    last = len(form.values) - 1
    for rows in ([2], [last, 0, 1, 2, 2, last]):
        some = checkpoint.load_rows("transformer", spec_of(form), rows)
        assert isinstance(some, LinearWeight)
        assert_close(float32(dequantise(some)), form.values[rows], ROUNDED)
        array = checkpoint.load_rows("transformer", spec_of(form, "as_stored"), rows)
        assert isinstance(array, mx.array)
        assert_close(float32(array), form.values[rows], ROUNDED)


@EACH
def test_rows_of_a_matrix_in_memory(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    weight = Checkpoint.open(write(tmp_path / "a.safetensors", form)).load("transformer", [spec_of(form)])
    (matrix,) = weight.values()
    assert isinstance(matrix, LinearWeight)
    rows = [len(form.values) - 1, 0, 0, 3]
    assert_close(float32(dequantise(matrix.rows(mx.array(rows)))), form.values[rows], ROUNDED)


@EACH
def test_streaming_gives_the_same(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form))
    loaded = checkpoint.load("transformer", [spec_of(form)])[f"{MODULE}.weight"]
    stream = checkpoint.stream("transformer", [[spec_of(form)]])
    for _ in range(2):
        streamed = stream(0)[f"{MODULE}.weight"]
        assert isinstance(streamed, LinearWeight)
        assert isinstance(loaded, LinearWeight)
        assert streamed.mode == loaded.mode
        np.testing.assert_array_equal(float32(dequantise(streamed)), float32(dequantise(loaded)))
    stream.clear()


@EACH
def test_a_lora_makes_it_dense_or_8_bits(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    rows, columns = form.values.shape
    generator = np.random.default_rng(8)
    a, b = generator.normal(size=(2, columns)).astype(np.float32), generator.normal(size=(rows, 2)).astype(np.float32)
    path = tmp_path / "lora.safetensors"
    write_safetensors(path, {f"{MODULE}.lora_A.weight": a, f"{MODULE}.lora_B.weight": b})
    checkpoint, change = Checkpoint.open(write(tmp_path / "a.safetensors", form)), open_lora(path)
    exact = form.values + b @ a
    dense = checkpoint.load("transformer", [spec_of(form)], [(change, 1.0)], mx.float32)[f"{MODULE}.weight"]
    assert isinstance(dense, LinearWeight)
    assert_close(np.array(dense.values), exact)
    fused = checkpoint.load("transformer", [spec_of(form)], [(change, 1.0)])[f"{MODULE}.weight"]
    assert isinstance(fused, LinearWeight)
    assert (fused.mode, fused.bits) in [("dense", 0), ("e4m3", 0), ("affine", 8)]
    if fused.mode == "dense":
        assert fused.values.dtype == mx.bfloat16
        assert_close(float32(fused.values), exact, ROUNDED)
    assert checkpoint.loaded_bytes("transformer", [spec_of(form)], [(change, 1.0)]).arrays == fused.nbytes


@EACH
def test_inspect_names_it(tmp_path: Path, case: str) -> None:
    form = encoded(case)
    (component,) = inspect(write(tmp_path / "a.safetensors", form)).components
    formats = dict(component.formats)
    assert formats.pop("dense") == 1
    ((label, count),) = formats.items()
    assert count == 1
    assert label.startswith(form.label)


def test_memory_while_loading_is_within_what_the_plan_says(tmp_path: Path) -> None:
    for case in ("convrot 16", "nvfp4", "mxfp8", "w4a8", "w6a8", "w4a4", "awq", "affine 6 halves", "fp8 tiles"):
        encoder, _, columns = CASES[case]
        form = encoder(1024, columns * 8, 1)
        checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form))
        checkpoint.load("transformer", [spec_of(form)])
        tracemalloc.start()
        checkpoint.load("transformer", [spec_of(form)])
        peak = tracemalloc.get_traced_memory()[1]  # of numpy; MLX's arrays are the result
        tracemalloc.stop()
        planned = checkpoint.loaded_bytes("transformer", [spec_of(form)]).loading
        assert peak <= planned + 200_000, case


@pytest.mark.parametrize("group", [4, 16, 64, 256, 1024])
def test_the_rotation_is_its_own_inverse(group: int) -> None:
    values = np.random.default_rng(group).normal(size=(3, 2 * group)).astype(np.float32)
    turned = rotate(values, group)
    np.testing.assert_allclose(turned, (values.reshape(-1, group) @ rotation(group)).reshape(3, -1), atol=1e-5)
    np.testing.assert_allclose(rotate(turned, group), values, atol=1e-5)


def test_rotation_groups_are_powers_of_4() -> None:
    assert [n for n in range(2000) if is_rotation_group(n)] == [4, 16, 64, 256, 1024]


def plain(**tensors: Any) -> Encoded:
    return Encoded(tensors, np.zeros((8, 64), np.float32))


def changed(form: Encoded, drop: str = "", declare: dict[str, Any] | None = None, **tensors: Any) -> Encoded:
    """A form with other tensors or another marker."""
    kept = {name: value for name, value in (form.tensors | tensors).items() if name != drop}
    return Encoded(kept, form.values, form.marker if declare is None else declare)


I8, U8 = np.zeros((8, 64), np.int8), np.zeros((8, 64), np.uint8)
E8 = RawTensor("F8_E4M3", U8)
ONES = np.ones((8, 1), np.float32)
ROTATED = {"format": "int8_tensorwise", "convrot": True}
LEVELS = w4a8(8, 64, 1, table=True)
NVFP4 = nvfp4(16, 64, 1)
BAD: dict[str, tuple[Encoded, str]] = {
    "int8 without scale": (plain(weight=I8), "8-bit integer weight without weight_scale"),
    "int8 convolution": (plain(weight=I8[..., None], weight_scale=ONES), "only matrices can be stored so"),
    "int8 scale rows": (
        plain(weight=I8, weight_scale=ONES[:5]),
        r"weight_scale has shape \[5, 1\]; expected one value, \[8\] or \[8, 1\]",
    ),
    "int8 scale dtype": (
        plain(weight=I8, weight_scale=ONES.astype(np.int32)),
        "weight_scale is I32; expected one of BF16",
    ),
    "group of 128": (
        changed(int8(8, 256, 1), declare={**ROTATED, "convrot_groupsize": 128}),
        "rotation group 128 is not a power of 4",
    ),
    "group of 8": (changed(int8(8, 64, 1), declare={**ROTATED, "convrot_groupsize": 8}), "rotation group 8 is not"),
    "group of 2": (changed(int8(8, 64, 1), declare={**ROTATED, "convrot_groupsize": 2}), "rotation group 2 is not"),
    "group of text": (changed(int8(8, 64, 1), declare={**ROTATED, "convrot_groupsize": "64"}), "group '64' is not"),
    "group of 0": (changed(int8(8, 64, 1), declare={**ROTATED, "convrot_groupsize": 0}), "rotation group 0 is not"),
    "group below 0": (
        changed(int8(8, 64, 1), declare={**ROTATED, "convrot_groupsize": -4}),
        "rotation group -4 is not",
    ),
    "rotation width": (
        changed(int8(8, 320, 1), declare=ROTATED),
        "320 inputs cannot be un-rotated in groups of 256",
    ),
    "convrot of text": (
        changed(int8(8, 64, 1), declare={"format": "int8_tensorwise", "convrot": "yes"}),
        "convrot must be true or false, is 'yes'",
    ),
    "unknown format": (
        changed(int8(8, 64, 1), declare={"format": "int3_magic"}),
        "unknown quantisation format 'int3_magic'",
    ),
    "marker and dtype": (
        plain(weight=np.zeros((8, 64), np.float32), comfy_quant=marker({"format": "int8_tensorwise"})),
        "marked int8_tensorwise but the weight is F32",
    ),
    "marker nvfp4 on int8": (
        changed(int8(8, 64, 1), declare={"format": "nvfp4"}),
        "marked nvfp4 but the weight is I8",
    ),
    "marker on a vector": (
        plain(weight=I8[0], weight_scale=ONES[:1], comfy_quant=marker({"format": "int8_tensorwise"})),
        r"marked int8_tensorwise but of shape \[64\]; only matrices",
    ),
    "marker is a list": (
        plain(weight=I8, weight_scale=ONES, comfy_quant=marker([1])),
        "holds a JSON list, not an object",
    ),
    "marker is cut": (
        plain(weight=I8, weight_scale=ONES, comfy_quant=marker({"format": "nvfp4"})[:-1].copy()),
        "comfy_quant.* is not readable as JSON",
    ),
    "marker is deep": (
        plain(weight=I8, weight_scale=ONES, comfy_quant=np.frombuffer(b"[" * 60000, np.uint8)),
        "comfy_quant.* is not readable as JSON",
    ),
    "marker is long": (
        plain(weight=I8, weight_scale=ONES, comfy_quant=np.full(65537, 32, np.uint8)),
        "comfy_quant.* holds 65537 bytes; at most 65536",
    ),
    "format is a number": (
        plain(weight=I8, weight_scale=ONES, comfy_quant=marker({"format": 8})),
        "names the format 8, which is no text",
    ),
    "marker alone": (plain(comfy_quant=marker({"format": "int8_tensorwise"})), "to_q.weight', which is missing"),
    "fp8 scale": (
        plain(weight=E8, weight_scale=np.ones((8, 2), np.float32)),
        r"weight_scale has shape \[8, 2\]; expected one value, \[8\] or \[8, 1\]",
    ),
    "fp8 scale is NaN": (
        plain(weight=E8, weight_scale=np.array(np.nan, np.float32)),
        "weight_scale': 1 of 1 values are not",
    ),
    "fp8 scale is infinite": (
        plain(weight=E8, scale_weight=np.full(1, np.inf, np.float32)),
        "scale_weight': 1 of 1 values",
    ),
    "fp8 bytes alone": (plain(weight=U8), "U8 without the scales of a known format"),
    "fp8 tiles": (
        changed(
            plain(weight=E8, weight_scale=np.ones((1, 1), np.float32)),
            declare={"format": "float8_e4m3fn_blockwise", "group_size": 64},
        ),
        "8 x 64 cannot be divided into blocks of 64 x 64",
    ),
    "fp8 runs": (
        changed(plain(weight=E8, weight_scale=ONES), declare={"format": "float8_e4m3fn_block3d", "group_size": 64}),
        r"weight_scale has shape \[8, 1\]; expected \[8, 1, 1\]",
    ),
    "nvfp4 without whole": (changed(NVFP4, "weight_scale_2"), "nvfp4 needs weight_scale_2"),
    "nvfp4 without whole or marker": (changed(NVFP4, "weight_scale_2", declare={}), "nvfp4 needs weight_scale_2"),
    "nvfp4 without scales": (changed(NVFP4, "weight_scale"), "nvfp4 needs weight_scale$|nvfp4 needs weight_scale;"),
    "nvfp4 in rows": (
        changed(NVFP4, weight_scale=RawTensor("F8_E4M3", np.ones((16, 4), np.uint8))),
        r"nvfp4 block scales \(weight_scale\) have shape \[16, 4\]; expected \[128, 4\] in tile order",
    ),
    "nvfp4 float scales": (
        changed(NVFP4, weight_scale=np.ones((128, 4), np.float32)),
        r"nvfp4 block scales \(weight_scale\) are F32",
    ),
    "nvfp4 smoothed": (changed(NVFP4, pre_quant_scale=ONES), "pre_quant_scale"),
    "fp8 smoothed": (plain(weight=E8, weight_scale=ONES, pre_quant_scale=ONES), "fp8.* with pre_quant_scale"),
    "nvfp4 not padded": (changed(NVFP4, weight=U8), r"not padded to multiples of 16"),
    "nvfp4 two wholes": (
        changed(NVFP4, weight_scale_2=ONES[:2, 0]),
        r"weight_scale_2 has shape \[2\]; expected one value",
    ),
    "nvfp4 whole is NaN": (
        changed(NVFP4, weight_scale_2=np.array(np.nan, np.float32)),
        "weight_scale_2': 1 of 1 values",
    ),
    "mxfp8 without scales": (changed(plain(weight=E8), declare={"format": "mxfp8"}), "mxfp8 needs weight_scale"),
    "mxfp8 in rows": (
        plain(weight=RawTensor("F8_E4M3", np.zeros((32, 64), np.uint8)), weight_scale=RawTensor("F8_E8M0", U8[:, :2])),
        r"mxfp8 block scales \(weight_scale\) have shape \[8, 2\]; expected \[128, 4\] in tile order",
    ),
    "mxfp8 not padded": (
        plain(weight=E8, weight_scale=RawTensor("F8_E8M0", np.zeros((128, 4), np.uint8))),
        "not padded to multiples of 32",
    ),
    "w4a8 without channels": (changed(LEVELS, "weight_s_channel"), "asym_w4a8_int8 needs weight_s_channel"),
    "w4a8 without groups": (changed(LEVELS, "weight_s_rel"), "asym_w4a8_int8 needs weight_s_rel"),
    "w4a8 codebook": (changed(LEVELS, weight_codebook=ONES[:, 0]), "weight_codebook has 8 entries, expected 16"),
    "w4a8 width": (
        changed(LEVELS, weight=np.zeros((8, 33), np.int8)),
        "33 bytes per row fit neither 4 nor 6 bits for 64 inputs",
    ),
    "w4a8 rotation": (
        changed(LEVELS, declare={"format": "asym_w4a8_int8"}),
        "64 inputs cannot be un-rotated in groups of 256",
    ),
    "w4a8 group": (changed(LEVELS, declare={**LEVELS.marker, "group_size": 12}), "group_size 12; expected"),
    "w4a8 rows": (changed(LEVELS, weight_s_rel=RawTensor("F8_E4M3", U8[:5, :4])), "weight_s_rel has shape"),
    "w4a8 channel rows": (changed(LEVELS, weight_s_channel=ONES[:5, 0]), r"weight_s_channel has shape \[5\]"),
    "w4a8 correction": (
        changed(LEVELS, weight_correction=ONES),
        r"weight_correction has shape \[8, 1\]; expected \[4, 8\]",
    ),
    "w4a4 without scale": (
        changed(plain(weight=I8), declare={"format": "convrot_w4a4"}),
        "convrot_w4a4 needs weight_scale",
    ),
    "w4a4 group": (
        changed(plain(weight=I8, weight_scale=ONES), declare={"format": "convrot_w4a4", "convrot_groupsize": 32}),
        "rotation group 32 is not a power of 4",
    ),
    "w4a4 activations": (
        changed(plain(weight=I8, weight_scale=ONES), declare={"format": "convrot_w4a4", "quant_group_size": 32}),
        "quant_group_size 32; expected 64",
    ),
    "awq without zeros": (
        changed(plain(weight=I8, weight_scale=np.ones((2, 8), np.float32)), declare={"format": "awq_w4a16"}),
        "awq_w4a16 needs weight_zero",
    ),
    "awq in rows": (
        plain(weight=I8, weight_scale=np.ones((8, 2), np.float32), weight_zero=np.ones((8, 2), np.float32)),
        r"weight_scale has shape \[8, 2\]; expected \[2, 8\]",
    ),
    "awq groups": (
        changed(
            plain(weight=I8, weight_scale=np.ones((2, 8), np.float32), weight_zero=np.ones((2, 8), np.float32)),
            declare={"format": "awq", "group_size": 100},
        ),
        "128 inputs cannot be divided into groups of 100",
    ),
    "MLX groups": (
        plain(
            weight=np.zeros((8, 32), np.uint32), scales=np.ones((8, 7), np.float32), biases=np.ones((8, 7), np.float32)
        ),
        r"packed \[8, 32\] with scales F32 \[8, 7\] .* is no MLX form",
    ),
    "MLX without zeros": (plain(weight=np.zeros((8, 8), np.uint32), scales=ONES), "no '.biases'"),
    "MLX integer scales": (
        plain(weight=np.zeros((8, 8), np.uint32), scales=ONES.astype(np.int32), biases=ONES.astype(np.int32)),
        "scales I32",
    ),
    "MLX floats": (
        plain(weight=np.zeros((8, 8), np.uint32), scales=U8[:, :3].copy()),
        "none of MLX's modes mxfp4, nvfp4",
    ),
    "MLX words alone": (plain(weight=np.zeros((8, 8), np.uint32)), "U32 without the scales of a known format"),
    "SVDQuant": (plain(weight=I8, weight_proj_down=ONES, weight_smooth_factor=ONES), "SVDQuant W4A4"),
    "quanto": (Encoded({"weight._data": I8, "weight._scale": ONES}, ONES), "optimum-quanto"),
    "bitsandbytes nf4": (
        Encoded({"weight": U8, "weight.absmax": U8, "weight.quant_state.bitsandbytes__nf4": U8}, ONES),
        r"bitsandbytes \(nf4\)",
    ),
    "bitsandbytes int8": (plain(weight=I8, SCB=ONES), "bitsandbytes"),
    "GPTQ": (plain(qweight=I8, qzeros=I8, scales=ONES, g_idx=I8), "GPTQ"),
    "torchao": (Encoded({"weight:qdata": I8, "weight:scale": ONES}, ONES), "torchao"),
    "nf4": (plain(weight=U8, nf4=ONES), "nf4"),
    "SDNQ": (plain(weight=I8, svd_up=ONES, svd_down=ONES), "SDNQ"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_when_a_file_is_opened(tmp_path: Path, kind: str) -> None:
    form, message = BAD[kind]
    path = write(tmp_path / "a.safetensors", form)
    for look in (Checkpoint.open, inspect):
        with pytest.raises(CheckpointError, match=message) as caught:
            look(path)
        assert "to_q" in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("named", ["sdnq", "torchao", "svdquant"])
def test_a_quantiser_that_metadata_names_is_refused(tmp_path: Path, named: str) -> None:
    stated = {"quantization_config": json.dumps({"quant_method": named})}
    write_safetensors(tmp_path / "a.safetensors", OTHER, stated)
    with pytest.raises(CheckpointError, match=f"(?i)metadata 'quantization_config': quantised with {named}"):
        Checkpoint.open(tmp_path / "a.safetensors")


SPOILED = {
    "nvfp4": (
        "weight_scale",
        RawTensor("F8_E4M3", np.full((640, 8), 0x7F, np.uint8)),
        "weight_scale': .* values are not finite numbers",
    ),
    "mxfp8": (
        "weight_scale",
        RawTensor("F8_E8M0", np.full((640, 4), 255, np.uint8)),
        "weight_scale': scales of code 255",
    ),
    "w4a8": (
        "weight_s_rel",
        RawTensor("F8_E4M3", np.full((530, 4), 0xFF, np.uint8)),
        "weight_s_rel': .* values are not finite numbers",
    ),
    "int8 row": (
        "weight_scale",
        np.full((530, 1), np.inf, np.float32),
        "weight_scale': 530 of 530 values are not finite",
    ),
    "awq": ("weight_zero", np.full((2, 530), np.nan, np.float32), "weight_zero': 1060 of 1060 values are not finite"),
    "nvfp4 of MLX": ("scales", np.full((530, 3), 0x7F, np.uint8), "scales': .* values are not finite numbers"),
    "affine 6 halves": ("biases", np.full((530, 2), np.nan, np.float16), "biases': .* values are not finite"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_scales_that_are_no_numbers_are_named_when_they_are_read(tmp_path: Path, case: str) -> None:
    name, tensor, message = SPOILED[case]
    form = encoded(case)
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form, **{name: tensor}))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load("transformer", [spec_of(form)])
    bad = [f"{PREFIX}.{name}"]
    assert [found.name for found in checkpoint.not_finite()] == bad
    if isinstance(tensor, RawTensor):
        as_bytes = Checkpoint.open(write(tmp_path / "b.safetensors", form, **{name: RawTensor("U8", tensor.items)}))
        assert [found.name for found in as_bytes.not_finite()] == bad


def test_another_logical_shape_is_refused(tmp_path: Path) -> None:
    form = nvfp4(13, 72, 1)
    checkpoint = Checkpoint.open(write(tmp_path / "a.safetensors", form))
    name = f"{MODULE}.weight"
    for shape in ((16, 80), (1, 65)):  # whatever is padded to the stored shape
        assert checkpoint.problems("transformer", [ParamSpec(name, shape, layout="linear")]) == ([], [])
    for shape in ((17, 72), (13, 81), (13, 64)):
        assert checkpoint.problems("transformer", [ParamSpec(name, shape, layout="linear")])[1]
    with pytest.raises(CheckpointError, match=r"to_q\.weight is U8 \[16, 40\], expected \[13, 64\]"):
        checkpoint.load("transformer", [ParamSpec(name, (13, 64), layout="linear")])


def test_one_file_may_hold_every_format(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {}
    specs, expected = [], {}
    for index, case in enumerate(CASES):
        form = encoded(case, index)
        module = f"transformer_blocks.{index}.attn1.to_q"
        tensors |= form.named(f"model.diffusion_model.{module}")
        specs.append(ParamSpec(f"{module}.weight", form.values.shape, layout="linear"))
        expected[f"{module}.weight"] = form.values
    dense = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    tensors |= {
        "model.diffusion_model.proj_out.weight": dense,
        "model.diffusion_model.proj_out.weight_scale": dense[0, :1],
    }
    specs.append(ParamSpec("proj_out.weight", (5, 6), layout="linear"))
    expected["proj_out.weight"] = dense  # a scale beside a dense weight means nothing
    path = tmp_path / "mixed.safetensors"
    write_safetensors(path, tensors)
    checkpoint = Checkpoint.open(path)
    for name, weight in checkpoint.load("transformer", specs).items():
        assert isinstance(weight, LinearWeight)
        assert_close(float32(dequantise(weight)), expected[name], ROUNDED)
    assert sum(checkpoint.formats("transformer").values()) == len(specs)
    assert checkpoint.unexpected("transformer", specs) == []
