"""What files declare about the formats of their weights: tensors, header metadata, GGUF entries, scaled_fp8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from format_encoders import E4M3, int8, marker, rotated

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.markers import read_markers
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile, entry

MODULE = "transformer_blocks.0.attn1.to_q"
WRAPPER = "model.diffusion_model."
SPEC = ParamSpec(f"{MODULE}.weight", (8, 256), layout="linear")
PLAIN = int8(8, 256, 3)


def write(path: Path, declared: Any = None, *, in_tensor: Any = None, prefix: str = WRAPPER, **tensors: Any) -> Path:
    """The plain int8 matrix, with ``_quantization_metadata`` and a marker tensor."""
    named = {f"{prefix}{MODULE}.{name}": value for name, value in (PLAIN.tensors | tensors).items()}
    if in_tensor is not None:
        named[f"{prefix}{MODULE}.comfy_quant"] = marker(in_tensor)
    text = declared if isinstance(declared, str) else json.dumps({"format_version": "1.0", "layers": declared})
    write_safetensors(path, named, {} if declared is None else {"_quantization_metadata": text})
    return path


def assert_rotated(path: Path, group: int) -> None:
    """The file gives the matrix rotated in groups of this size; 0: as it is."""
    checkpoint = Checkpoint.open(path)
    (label,) = checkpoint.formats("transformer")
    assert label == ("int8 convrot" if group else "int8")
    weight = checkpoint.load("transformer", [SPEC], fuse_dtype=mx.float32)[SPEC.name]
    assert isinstance(weight, LinearWeight)
    expected = rotated(PLAIN.values, group) if group else PLAIN.values
    assert np.abs(np.array(dequantise(weight).astype(mx.float32)) - expected).max() < 0.01 * np.abs(expected).max()


ROTATED = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16}


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("model.diffusion_model.", "model.diffusion_model."),
        ("model.diffusion_model.", ""),
        ("diffusion_model.", "diffusion_model."),
        ("diffusion_model.", ""),
        ("", "model.diffusion_model."),
        ("", "diffusion_model."),
        ("", ""),
    ],
)
def test_metadata_names_layers_with_or_without_the_prefix(tmp_path: Path, stored: str, named: str) -> None:
    path = write(tmp_path / "a.safetensors", {f"{named}{MODULE}": ROTATED}, prefix=stored)
    assert_rotated(path, 16)


def test_metadata_may_name_just_the_format(tmp_path: Path) -> None:
    assert_rotated(write(tmp_path / "a.safetensors", {MODULE: "int8_tensorwise"}), 0)


def test_parameters_may_stand_below_and_those_above_win(tmp_path: Path) -> None:
    below = {"format": "int8_tensorwise", "params": {"convrot": True, "convrot_groupsize": 64}}
    assert_rotated(write(tmp_path / "a.safetensors", in_tensor=below), 64)
    assert_rotated(write(tmp_path / "a.safetensors", in_tensor={**below, "convrot_groupsize": 4}), 4)


def test_the_group_is_256_unless_stated(tmp_path: Path) -> None:
    assert_rotated(write(tmp_path / "a.safetensors", in_tensor={"format": "int8_tensorwise", "convrot": True}), 256)


def test_a_tensor_wins_over_the_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {MODULE: ROTATED}, in_tensor={**ROTATED, "convrot_groupsize": 64})
    assert_rotated(path, 64)
    assert_rotated(write(path, {MODULE: ROTATED}, in_tensor={"format": "int8_tensorwise", "convrot": False}), 0)


def test_the_format_may_be_left_to_the_tensors(tmp_path: Path) -> None:
    assert_rotated(write(tmp_path / "a.safetensors", in_tensor={}), 0)
    assert_rotated(write(tmp_path / "a.safetensors", in_tensor={"convrot": True, "convrot_groupsize": 16}), 16)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("int8", "int8_tensorwise"),
        ("fp8", "float8_e4m3fn"),
        ("fp8_e4m3", "float8_e4m3fn"),
        ("fp8_e5m2", "float8_e5m2"),
        ("nvfp4_mixed", "nvfp4"),
        ("w4a8", "asym_w4a8_int8"),
        ("w4a8_int8", "asym_w4a8_int8"),
        ("w4a16", "awq_w4a16"),
        ("awq", "awq_w4a16"),
    ],
)
def test_aliases(tmp_path: Path, alias: str, name: str) -> None:
    file = SafetensorsFile(write(tmp_path / "a.safetensors", in_tensor={"format": alias}))
    assert read_markers([file]) == {f"{WRAPPER}{MODULE}.weight": {"format": name}}


def test_what_accompanies_a_weight_and_is_not_read(tmp_path: Path) -> None:
    one = np.ones((), np.float32)
    others = {"input_scale": one, "scale_input": one, "weight_scale_2": one}
    path = write(tmp_path / "a.safetensors", in_tensor={"format": "int8"}, **others)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.unexpected("transformer", [SPEC]) == []
    assert_rotated(path, 0)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("{", "_quantization_metadata is not readable as JSON"),
        ("[1]", "_quantization_metadata holds no JSON object of layers"),
        ('{"layers": [1]}', "_quantization_metadata holds no JSON object of layers"),
        (
            {"transformer_blocks.7.attn1.to_q": "int8"},
            r"names the layer 'transformer_blocks.7.attn1.to_q', whose weight is m",
        ),
        ({MODULE: ["int8"]}, "attn1.to_q holds a JSON list, not an object"),
        ({MODULE: "int3_magic"}, "attn1.to_q.weight': unknown quantisation format 'int3_magic'"),
        ({MODULE: {"format": None}}, None),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path: Path, declared: Any, message: str | None) -> None:
    path = write(tmp_path / "a.safetensors", declared)
    if message is None:
        assert_rotated(path, 0)
        return
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(path)


def scaled(
    path: Path, tensors: Mapping[str, Any], kind: RawTensor | np.ndarray[Any, Any], prefix: str = WRAPPER
) -> Path:
    write_safetensors(path, {f"{prefix}{name}": value for name, value in {**tensors, "scaled_fp8": kind}.items()})
    return path


CODES = np.arange(8 * 256, dtype=np.uint32).reshape(8, 256).astype(np.uint8) & 0x7E
EMPTY = np.zeros(0, np.uint8)
SCALE = np.float32(0.25)


@pytest.mark.parametrize("prefix", [WRAPPER, ""])
@pytest.mark.parametrize(
    "kind", [RawTensor("F8_E4M3", EMPTY), RawTensor("F8_E4M3", np.zeros(2, np.uint8)), np.zeros(2, "f4")]
)
def test_scaled_fp8(tmp_path: Path, kind: Any, prefix: str) -> None:
    weights = {
        f"{MODULE}.weight": RawTensor("F8_E4M3", CODES),
        f"{MODULE}.scale_weight": np.full(1, SCALE),
        "transformer_blocks.0.attn1.to_k.weight": np.ones((2, 4), np.float32),
        "transformer_blocks.0.attn1.to_k.scale_weight": np.full(1, 3, np.float32),
    }
    checkpoint = Checkpoint.open(scaled(tmp_path / "a.safetensors", weights, kind, prefix))
    dense = ParamSpec("transformer_blocks.0.attn1.to_k.weight", (2, 4), layout="linear")
    loaded = checkpoint.load("transformer", [SPEC, dense])
    weight, other = loaded[SPEC.name], loaded[dense.name]
    assert isinstance(weight, LinearWeight)
    assert isinstance(other, LinearWeight)
    assert (weight.mode, float(weight.scale.item())) == ("e4m3", 0.25)
    np.testing.assert_array_equal(E4M3[np.array(weight.values)], E4M3[CODES])
    np.testing.assert_array_equal(np.array(other.values), 1)  # its scale means nothing


@pytest.mark.parametrize("prefix", [WRAPPER, ""])
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_scaled_fp8_without_a_scale(tmp_path: Path, prefix: str, dtype: str) -> None:
    weights = {f"{MODULE}.weight": RawTensor(dtype, CODES & 0x77), f"{MODULE}.bias": RawTensor(dtype, CODES[0] & 0x77)}
    path = scaled(tmp_path / "a.safetensors", weights, RawTensor(dtype, EMPTY), prefix)
    with pytest.raises(CheckpointError, match=r"to_q\.weight': the file is marked scaled_fp8, but .* no scale_weight"):
        Checkpoint.open(path)


def test_scaled_fp8_names_the_kind_of_bytes(tmp_path: Path) -> None:
    weights = {f"{MODULE}.weight": CODES & 0x77, f"{MODULE}.scale_weight": np.array(SCALE)}
    checkpoint = Checkpoint.open(scaled(tmp_path / "a.safetensors", weights, RawTensor("F8_E5M2", EMPTY)))
    assert checkpoint.formats("transformer") == {"fp8 E5M2": 1}


class GgufLike(WeightFile):
    """Names, shapes and strings of a GGUF file."""

    path = Path("a.gguf")

    def __init__(self, shape: tuple[int, ...], declared: Any, name: str = f"{MODULE}.weight") -> None:
        self.tensors: dict[str, TensorInfo] = {f"{MODULE}.weight": entry("I8", shape)}
        self.metadata = {f"comfy.gguf.quant.{name}": declared if isinstance(declared, str) else json.dumps(declared)}

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        raise AssertionError("nothing is read")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("declared", "rotated_group"),
    [
        ({"convrot": True, "convrot_groupsize": 64, "weight_rotated": True}, 64),
        ({"convrot": True, "weight_rotated": True}, None),
        ({"convrot": True, "convrot_groupsize": 64}, False),  # older files state it and did not rotate
        ({"convrot": True, "convrot_groupsize": 64, "weight_rotated": False}, False),
        ({"convrot": True, "convrot_groupsize": 256, "weight_rotated": True}, False),  # 192 columns
        ({"convrot": False, "weight_rotated": True}, False),
    ],
)
def test_gguf_entries(declared: dict[str, Any], rotated_group: int | bool | None) -> None:
    shape = (8, 192) if rotated_group is not None else (8, 256)
    found = read_markers([GgufLike(shape, {"format": "int8_tensorwise", **declared})])[f"{MODULE}.weight"]
    assert found["format"] == "int8_tensorwise"
    assert found["convrot"] is (rotated_group is not False)
    if rotated_group:
        assert found["convrot_groupsize"] == rotated_group


def test_gguf_entries_of_4_bits() -> None:
    declared = {"format": "int4_cr", "backing": "w4a4", "orig_shape": [8, 256], "convrot_groupsize": 64}
    found = read_markers([GgufLike((8, 128), declared)])[f"{MODULE}.weight"]
    assert (found["format"], found["convrot_groupsize"]) == ("convrot_w4a4", 64)
    retired = read_markers([GgufLike((8, 128), {"format": "int4_cr"})])[f"{MODULE}.weight"]
    assert retired["format"] == "int4_cr"


@pytest.mark.parametrize(
    ("declared", "name", "message"),
    [
        ("{", f"{MODULE}.weight", "to_q.weight is not readable as JSON"),
        ({}, "other.weight", "other.weight belongs to no tensor"),
        (" " * 70000, f"{MODULE}.weight", "holds 70000 bytes; at most 65536"),
    ],
)
def test_gguf_entries_that_cannot_be_used(declared: Any, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_markers([GgufLike((8, 128), declared, name)])
