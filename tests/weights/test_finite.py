"""NaN and infinity in weight files: found in the bits of every dtype, named at load where that is cheap."""

from __future__ import annotations

import json
import os
import tracemalloc
from contextlib import closing
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_files import CONFIG_19B, model_specs, tensors_of

from ltx2rt.cli.main import run
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.inspection import inspect
from ltx2rt.types import ParamSpec
from ltx2rt.weights import finite
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.finite import NotFinite, count_not_finite, find_not_finite
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors
from ltx2rt.weights.tensor_source import widen

NAN, INF = float("nan"), float("inf")
BLOCK = "model.diffusion_model.transformer_blocks.0"


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_every_code_of_eight_bits(code: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    for one in range(256):
        assert count_not_finite(codes[one : one + 1], code) == (not np.isfinite(widen(codes[one : one + 1], code))[0])
    assert count_not_finite(codes, code) == np.count_nonzero(~np.isfinite(widen(codes, code)))


def test_every_code_of_sixteen_bits() -> None:
    codes = np.arange(2**16, dtype=np.uint16)
    assert count_not_finite(codes, "F16") == np.count_nonzero(~np.isfinite(codes.view(np.float16))) == 2048
    wide = (codes.astype(np.uint32) << 16).view(np.float32)
    assert count_not_finite(codes, "BF16") == np.count_nonzero(~np.isfinite(wide)) == 256


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_wide_floats_agree_with_numpy(values: list[float]) -> None:
    with np.errstate(over="ignore"):
        for dtype, code in ((np.float32, "F32"), (np.float64, "F64")):
            items = np.array(values, dtype)
            assert count_not_finite(items, code) == np.count_nonzero(~np.isfinite(items))


def test_integers_are_always_finite() -> None:
    for code, dtype in (("I32", np.int32), ("U32", np.uint32), ("U8", np.uint8), ("BOOL", np.bool_)):
        assert count_not_finite(np.full(3, -1 if code == "I32" else 1, dtype), code) == 0


def test_items_that_do_not_lie_in_order() -> None:
    values = np.ones((4, 6), np.float32)
    values[2, 3] = NAN
    assert count_not_finite(values.T, "F32") == 1
    assert count_not_finite(values[:, ::2], "F32") == 0


def spoiled(value: mx.array, bad: float) -> mx.array:
    flat = value.reshape(-1).astype(mx.float32)
    return mx.concatenate([mx.array([bad]), flat[1:]]).reshape(value.shape).astype(value.dtype)


SMALL = {
    "norm": f"{BLOCK}.attn1.q_norm.weight",
    "bias": f"{BLOCK}.attn1.to_q.bias",
    "table": f"{BLOCK}.scale_shift_table",
    "small matrix": f"{BLOCK}.attn1.to_q.weight",
}


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("name", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32], ids=str)
def test_small_tensors_are_named_at_load(tmp_path: Path, name: str, bad: float, dtype: mx.Dtype) -> None:
    specs = model_specs(CONFIG_19B)
    values = spoiled(mx.ones(specs[name].shape, dtype), bad)
    write_safetensors(tmp_path / "a.safetensors", {name: values})
    checkpoint = Checkpoint.open(tmp_path / "a.safetensors")
    local = name.removeprefix("model.diffusion_model.")
    wanted = [ParamSpec(local, specs[name].shape, specs[name].layout)]
    said = rf"a\.safetensors: tensor '{name}': 1 of {values.size} values are not finite"
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load("transformer", wanted)
    stream = checkpoint.stream("transformer", [wanted])
    try:
        with pytest.raises(CheckpointError, match=said):
            stream(0)
    finally:
        stream.clear()


def test_scales_and_codes_of_quantised_weights_are_named(tmp_path: Path) -> None:
    name, shape = f"{BLOCK}.attn1.to_q", (64, 64)
    spec = [ParamSpec("transformer_blocks.0.attn1.to_q.weight", shape, "linear")]
    codes = np.zeros(shape, np.uint8)
    codes[3, 4:6] = 0x7F, 0xFF
    packed, scales, biases = mx.quantize(mx.ones(shape), group_size=64, bits=8)
    cases = {
        "weight': 2 of 4096": {"weight": RawTensor("F8_E4M3", codes), "weight_scale": mx.array(1.0)},
        "weight_scale': 1 of 1": {"weight": RawTensor("F8_E4M3", codes * 0), "weight_scale": mx.array(NAN)},
        "scales': 1 of 64": {"weight": packed, "scales": spoiled(scales, INF), "biases": biases},
        "biases': 1 of 64": {"weight": packed, "scales": scales, "biases": spoiled(biases, NAN)},
    }
    for index, (said, tensors) in enumerate(cases.items()):
        path = tmp_path / f"{index}.safetensors"
        write_safetensors(path, {f"{name}.{part}": value for part, value in tensors.items()})
        with pytest.raises(CheckpointError, match=rf"{index}\.safetensors: tensor '.*to_q\.{said}"):
            Checkpoint.open(path).load("transformer", spec)


def test_large_weights_wait_for_the_deep_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ltx2rt.weights.formats.linear_format.SMALL_VALUES", 100)
    monkeypatch.setattr(finite, "_BYTES_AT_A_TIME", 1024)  # several reads per tensor
    specs = model_specs(CONFIG_19B)
    tensors = dict(tensors_of(specs))
    name = f"{BLOCK}.attn1.to_q.weight"
    values = np.ones(specs[name].shape, np.float32)
    values[5, 7], values[-1, -1] = NAN, -INF
    tensors[name] = mx.array(values)
    codes = np.zeros(specs[f"{BLOCK}.attn1.to_k.weight"].shape, np.uint8)
    codes[0, 0] = 0x7F
    tensors[f"{BLOCK}.attn1.to_k.weight"] = RawTensor("F8_E4M3", codes)
    path = tmp_path / "a-dev.safetensors"
    write_safetensors(path, tensors, {"config": json.dumps(CONFIG_19B)})
    checkpoint = Checkpoint.open(path)
    local = name.removeprefix("model.diffusion_model.")
    checkpoint.load("transformer", [ParamSpec(local, specs[name].shape, "linear")])  # not looked at
    assert run(["inspect", str(path)]) == 0
    assert "values" not in capsys.readouterr().out.split("component")[0]
    assert run(["inspect", "--deep", str(path)]) == 1
    text = capsys.readouterr().out
    assert "values      not all finite, see below" in text
    assert "not finite (2):" in text
    assert f"  {name}: 2 of {values.size} values" in text
    assert f"  {BLOCK}.attn1.to_k.weight: 1 of {codes.size} values" in text
    assert run(["inspect", "--deep", "--json", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)["not_finite"]
    assert {"name": name, "values": 2, "size": values.size} in found


def test_a_deep_look_at_a_good_file_a_lora_and_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = model_specs(CONFIG_19B)
    path = tmp_path / "a-dev.safetensors"
    write_safetensors(path, dict(tensors_of(specs)), {"config": json.dumps(CONFIG_19B)})
    assert run(["inspect", "--deep", str(path)]) == 0
    assert "values      all finite" in capsys.readouterr().out
    assert inspect(path).not_finite is None
    assert inspect(path, deep=True).not_finite == []
    lora = lora_file(tmp_path, NAN)
    assert inspect(lora, deep=True).not_finite == [NotFinite("transformer_blocks.0.attn1.to_q.lora_A.weight", 1, 128)]
    assert run(["inspect", "--deep", str(lora)]) == 1
    (tmp_path / "m.json").write_text('{"tensors": {"vocoder.conv_pre.bias": ["F32", [64]]}}')
    with pytest.raises(UsageError, match="is a manifest, which lists tensors without their values"):
        inspect(tmp_path / "m.json", deep=True)


def lora_file(folder: Path, bad: float, **more: mx.array) -> Path:
    module = "transformer_blocks.0.attn1.to_q"
    a = np.ones((2, 64), np.float32)
    a[1, 2] = bad
    tensors = {f"{module}.lora_A.weight": mx.array(a), f"{module}.lora_B.weight": mx.ones((64, 2))}
    write_safetensors(folder / "lora.safetensors", tensors | {f"{module}.{name}": v for name, v in more.items()})
    return folder / "lora.safetensors"


@pytest.mark.parametrize("bad", [NAN, INF], ids=str)
def test_a_lora_names_its_bad_factor_when_it_is_read(tmp_path: Path, bad: float) -> None:
    lora = open_lora(lora_file(tmp_path, bad))
    change = lora.change("transformer", "transformer_blocks.0.attn1.to_q.weight")
    assert change is not None
    message = r"lora\.safetensors: tensor '.*to_q\.lora_A\.weight': 1 of 128 values"
    with pytest.raises(CheckpointError, match=message):
        change.begin(1.0, np.zeros((64, 64), np.float32))
    with pytest.raises(CheckpointError, match=message):
        lora.require_finite()


def test_a_lora_names_its_bad_alpha_when_it_is_opened(tmp_path: Path) -> None:
    path = lora_file(tmp_path, 1.0, alpha=mx.array(NAN))
    with pytest.raises(CheckpointError, match=r"tensor '.*to_q\.alpha': 1 of 1 values are not finite"):
        open_lora(path)


def test_a_large_file_is_looked_through_in_bounded_memory(tmp_path: Path) -> None:
    """A sparse file: 256 MB of zeros and one NaN at its end."""
    path, size = tmp_path / "large.safetensors", 64 << 20
    header = json.dumps({"x": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * size)
        file.seek(-4, os.SEEK_END)
        file.write(np.float32(NAN).tobytes())
    tracemalloc.start()
    try:
        with closing(SafetensorsFile(path)) as opened:
            assert list(find_not_finite(opened)) == [NotFinite("x", 1, size)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert finite._BYTES_AT_A_TIME < peak < 3 * finite._BYTES_AT_A_TIME
