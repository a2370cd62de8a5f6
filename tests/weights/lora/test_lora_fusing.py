"""What becomes of weights to which LoRAs and their relatives are added, in each weight format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.reference import dequantise
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.tensor_source import widen

Array = np.ndarray[Any, np.dtype[Any]]
MODULE = "transformer_blocks.0.attn1.to_q"
SPEC = ParamSpec(f"{MODULE}.weight", (8, 64), layout="linear")
GENERATOR = np.random.default_rng(3)
W = GENERATOR.normal(size=(8, 64)).astype(np.float32)
A = GENERATOR.normal(size=(4, 64)).astype(np.float32)
B = GENERATOR.normal(size=(8, 4)).astype(np.float32)


def bf16(values: Array) -> Array:
    """float32 values rounded to bfloat16."""
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def checkpoint(path: Path, weight: Any = None, **companions: Any) -> Checkpoint:
    name = f"model.diffusion_model.{MODULE}"
    tensors = {f"{name}.weight": mx.array(W).astype(mx.bfloat16) if weight is None else weight}
    tensors |= {f"{name}.{key}": value for key, value in companions.items()}
    write_safetensors(path, tensors)
    return Checkpoint.open(path)


def lora(path: Path, tensors: dict[str, Any] | None = None, metadata: dict[str, str] | None = None) -> LoraFile:
    names = {f"diffusion_model.{MODULE}.lora_A.weight": A, f"diffusion_model.{MODULE}.lora_B.weight": B}
    write_safetensors(path, names if tensors is None else tensors, metadata)
    return open_lora(path)


def load(base: Checkpoint, loras: list[tuple[LoraFile, float]], dtype: mx.Dtype | None = None) -> LinearWeight:
    weight = base.load("transformer", [SPEC], loras, dtype)[SPEC.name]
    assert isinstance(weight, LinearWeight)
    return weight


def test_connector_targets(tmp_path: Path) -> None:
    path, module = tmp_path / "base.safetensors", "transformer_1d_blocks.0.attn1.to_q"
    write_safetensors(path, {f"model.diffusion_model.video_embeddings_connector.{module}.weight": W})
    prefix = f"diffusion_model.video_embeddings_connector.{module}"
    change = lora(tmp_path / "lora.safetensors", {f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B})
    spec = ParamSpec(f"{module}.weight", W.shape, layout="linear")
    fused = Checkpoint.open(path).load("video_connector", [spec], [(change, 1.0)])[spec.name]
    assert isinstance(fused, LinearWeight)
    np.testing.assert_array_equal(np.array(fused.values), W + B @ A)


def test_deltas_are_summed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    first = lora(tmp_path / "1.safetensors")
    second = lora(
        tmp_path / "2.safetensors",
        {
            f"diffusion_model.{MODULE}.lora_A.weight": mx.array(A[:2]).astype(mx.bfloat16),
            f"diffusion_model.{MODULE}.lora_B.weight": mx.array(B[:, :2]).astype(mx.bfloat16),
        },
    )
    exact = bf16(W) + ((B * np.float32(0.6)) @ A + (bf16(B[:, :2]) * np.float32(-0.5)) @ bf16(A[:2]))
    sets = [(first, 0.6), (second, -0.5)]
    np.testing.assert_array_equal(np.array(load(base, sets, mx.float32).values), exact)
    default = load(base, sets).values
    assert default.dtype == mx.bfloat16
    np.testing.assert_array_equal(np.array(default.astype(mx.float32)), bf16(exact))


def test_the_base_is_never_changed(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    change = lora(tmp_path / "lora.safetensors")
    before = np.array(load(base, []).values.astype(mx.float32))
    load(base, [(change, 1.0)])
    np.testing.assert_array_equal(np.array(load(base, []).values.astype(mx.float32)), before)
    np.testing.assert_array_equal(np.array(load(base, [(change, 0.0)]).values.astype(mx.float32)), before)


@pytest.mark.parametrize("scaled", [True, False])
def test_fp8_gets_a_fresh_scale(tmp_path: Path, scaled: bool) -> None:
    scale = np.float32(np.abs(W).max() / 448) if scaled else np.float32(1)
    codes = encode_e4m3(W / scale)
    companions = {"weight_scale": np.array(scale), "input_scale": np.array(np.float32(3))} if scaled else {}
    base = checkpoint(tmp_path / "base.safetensors", RawTensor("F8_E4M3", codes), **companions)
    change = lora(tmp_path / "lora.safetensors")
    exact = widen(codes, "F8_E4M3") * scale + B @ A
    fused = load(base, [(change, 1.0)])
    assert fused.mode == "e4m3"
    np.testing.assert_allclose(float(fused.scale.item()), np.abs(exact).max() / 448, rtol=1e-6)
    error = np.abs(np.array(dequantise(fused)) - exact)
    # Half a step of the three mantissa bits, or of the subnormals.
    assert (error <= np.maximum(np.abs(exact) / 16, float(fused.scale.item()) * 2.0**-10) * 1.001).all()
    np.testing.assert_array_equal(np.array(load(base, [(change, 1.0)], mx.float32).values), exact)


def test_affine_of_8_bits_keeps_its_form(tmp_path: Path) -> None:
    bits = 8
    packed, scales, biases = mx.quantize(mx.array(W).astype(mx.bfloat16), group_size=32, bits=bits)
    base = checkpoint(tmp_path / "base.safetensors", packed, scales=scales, biases=biases)
    plain = np.array(dequantise(load(base, [])).astype(mx.float32))
    exact = plain + B @ A
    fused = load(base, [(lora(tmp_path / "lora.safetensors"), 1.0)])
    assert (fused.mode, fused.bits, fused.group_size) == ("affine", bits, 32)
    groups = exact.reshape(8, 2, 32)
    step = (groups.max(-1) - groups.min(-1)) / (2**bits - 1)
    error = np.abs(np.array(dequantise(fused).astype(mx.float32)) - exact).reshape(8, 2, 32).max(-1)
    # One step of the group, and the bfloat16 rounding of values, scales and biases.
    assert (error <= step + np.abs(groups).max(-1) * 2.0**-6).all()


def test_affine_of_4_bits_becomes_dense(tmp_path: Path) -> None:
    packed, scales, biases = mx.quantize(mx.array(W), group_size=32, bits=4)
    base = checkpoint(tmp_path / "base.safetensors", packed, scales=scales, biases=biases)
    exact = np.array(mx.dequantize(packed, scales, biases, group_size=32, bits=4)) + B @ A
    fused = load(base, [(lora(tmp_path / "lora.safetensors"), 1.0)])
    assert (fused.mode, fused.values.dtype) == ("dense", mx.bfloat16)
    np.testing.assert_allclose(np.array(fused.values.astype(mx.float32)), exact, rtol=2.0**-8)


def test_biases_norms_and_tables_take_differences(tmp_path: Path) -> None:
    values = {f"{MODULE}.bias": W[0], "transformer_blocks.0.attn1.q_norm.weight": W[1], "scale_shift_table": W[:2]}
    path = tmp_path / "base.safetensors"
    write_safetensors(
        path, {f"model.diffusion_model.{name}": mx.array(value).astype(mx.bfloat16) for name, value in values.items()}
    )
    change = lora(
        tmp_path / "lora.safetensors",
        {
            f"diffusion_model.{MODULE}.diff_b": A[0],
            "diffusion_model.transformer_blocks.0.attn1.norm_q.diff": A[1],
            "lora_unet_scale_shift_table.diff": A[2:],
        },
    )
    deltas = dict(zip(values, (A[0], A[1], A[2:]), strict=True))
    base, specs = Checkpoint.open(path), [ParamSpec(name, value.shape) for name, value in values.items()]
    for dtype, rounded in ((None, bf16), (mx.float32, np.asarray)):
        loaded = base.load("transformer", specs, [(change, -0.5)], dtype)
        for name, value in values.items():
            array = loaded[name]
            assert isinstance(array, mx.array)
            assert array.dtype == (dtype or mx.bfloat16)
            expected = rounded(bf16(value) - np.float32(0.5) * deltas[name])
            np.testing.assert_array_equal(np.array(array.astype(mx.float32)), expected)


def test_rows_of_a_projection_are_those_of_the_whole(tmp_path: Path) -> None:
    path, name = tmp_path / "base.safetensors", "video_aggregate_embed.weight"
    write_safetensors(path, {f"text_embedding_projection.{name}": mx.array(W).astype(mx.bfloat16)})
    module = "connectors.video_text_proj_in"
    tensors = {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B, f"{module}.lora_magnitude_vector": W[:, 0]}
    change, spec, base = lora(tmp_path / "lora.safetensors", tensors), ParamSpec(name, W.shape), Checkpoint.open(path)
    whole = base.load("text_projection", [spec], [(change, 1.0)], mx.float32)[name]
    parts = [
        base.load_rows("text_projection", spec, rows, [(change, 1.0)], mx.float32)
        for rows in (range(3), range(3, 7), range(7, 8))
    ]
    assert isinstance(whole, mx.array)
    assert not np.allclose(np.array(whole), bf16(W))
    np.testing.assert_allclose(np.concatenate([np.array(part) for part in parts]), np.array(whole), rtol=1e-6)


def test_a_replaced_weight_is_the_stored_one(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    change = lora(tmp_path / "lora.safetensors", {f"{MODULE}.set_weight": 1e-3 * W})
    np.testing.assert_array_equal(np.array(load(base, [(change, 1.0)], mx.float32).values), np.float32(1e-3) * W)


def test_slabs_of_large_weights(tmp_path: Path) -> None:
    """More rows than are changed at a time, with every kind on top of each other."""
    rng = np.random.default_rng(8)
    shape, name = (1200, 8), f"{MODULE}.weight"
    weight, a, b = (rng.normal(size=size).astype(np.float32) for size in (shape, (2, 8), (1200, 2)))
    small, large, diff = (rng.normal(size=size).astype(np.float32) for size in ((3, 2), (400, 4), shape))
    write_safetensors(tmp_path / "base.safetensors", {f"model.diffusion_model.{name}": weight})
    files = [
        lora(tmp_path / "1.safetensors", {f"{MODULE}.lora_A.weight": a, f"{MODULE}.lora_B.weight": b}),
        lora(tmp_path / "2.safetensors", {f"{MODULE}.lokr_w1": small, f"{MODULE}.lokr_w2": large}),
        lora(tmp_path / "3.safetensors", {f"{MODULE}.diff": diff}),
        lora(
            tmp_path / "4.safetensors",
            {f"{MODULE}.lora_A.weight": a, f"{MODULE}.lora_B.weight": b, f"{MODULE}.dora_scale": weight[:1]},
        ),
    ]
    v = weight.astype(np.float64) + b.astype(np.float64) @ a
    dora = weight[:1] * v / np.sqrt((v**2).sum(0, keepdims=True)) - weight
    exact = weight + b.astype(np.float64) @ a + 0.5 * np.kron(small, large) + 2 * diff - dora
    spec = ParamSpec(name, shape, layout="linear")
    strengths = zip(files, (1.0, 0.5, 2.0, -1.0), strict=True)
    fused = Checkpoint.open(tmp_path / "base.safetensors").load("transformer", [spec], list(strengths))[name]
    assert isinstance(fused, LinearWeight)
    np.testing.assert_allclose(np.array(fused.values), exact, atol=1e-5)


def test_a_change_of_another_shape_is_refused(tmp_path: Path) -> None:
    change = lora(tmp_path / "a.safetensors", {f"{MODULE}.lora_A.weight": A[:, :32], f"{MODULE}.lora_B.weight": B})
    with pytest.raises(CheckpointError, match=r"a change of \[8, 32\] does not fit \[8, 64\]; use a LoRA made for"):
        load(checkpoint(tmp_path / "base.safetensors"), [(change, 1.0)])


def test_bytes_of_the_plan_count_what_each_kind_holds(tmp_path: Path) -> None:
    """float32 values, factors, and slabs: of a product two, of a normalised one three."""
    base = checkpoint(tmp_path / "base.safetensors")
    factors = {f"{MODULE}.lora_A.weight": A, f"{MODULE}.lora_B.weight": B}
    plain = lora(tmp_path / "1.safetensors", factors)
    normalised = lora(tmp_path / "2.safetensors", {**factors, f"{MODULE}.dora_scale": W[:, 0]})
    value, held = W.size * 4, (A.size + B.size) * 4
    for change, working in ((plain, 3 * value + held), (normalised, 4 * value + held + 8 * 4)):
        loaded = base.loaded_bytes("transformer", [SPEC], [(change, 1.0)])
        assert loaded.working == working
        assert (loaded.arrays, loaded.made) == (W.size * 2, W.size * 2)
    assert base.loaded_bytes("transformer", [SPEC], [(plain, 0.0)]).working == 0


def test_streamed_blocks_have_the_same_changes(tmp_path: Path) -> None:
    modules = [f"transformer_blocks.{index}.attn1.to_q" for index in range(3)]
    path = tmp_path / "base.safetensors"
    tensors = {f"model.diffusion_model.{module}.weight": mx.array(W).astype(mx.bfloat16) for module in modules}
    tensors |= {f"model.diffusion_model.{module}.bias": mx.array(W[:, 0]).astype(mx.bfloat16) for module in modules}
    write_safetensors(path, tensors)
    change = lora(
        tmp_path / "lora.safetensors",
        {
            f"{modules[0]}.lora_A.weight": A,
            f"{modules[0]}.lora_B.weight": B,
            f"{modules[0]}.dora_scale": W[:, :1],
            f"{modules[2]}.diff": W,
            f"{modules[2]}.diff_b": B[:, 0],
        },
    )
    blocks = [
        [ParamSpec(f"{module}.weight", W.shape, layout="linear"), ParamSpec(f"{module}.bias", (8,))]
        for module in modules
    ]
    base = Checkpoint.open(path)
    stream = base.stream("transformer", blocks, [(change, 0.5)])
    for _ in range(2):
        for index, block in enumerate(blocks):
            whole, part = base.load("transformer", block, [(change, 0.5)]), stream(index)
            weights = [np.array(dequantise(arrays[block[0].name]).astype(mx.float32)) for arrays in (whole, part)]
            biases = [np.array(arrays[block[1].name].astype(mx.float32)) for arrays in (whole, part)]
            np.testing.assert_array_equal(*weights)
            np.testing.assert_array_equal(*biases)
            assert np.array_equal(weights[1], bf16(W)) == (index == 1)
            assert np.array_equal(biases[1], bf16(W[:, 0])) == (index != 2)
    stream.clear()
