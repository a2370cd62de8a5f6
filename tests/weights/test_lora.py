"""LoRA files in every key style, and what fusing them makes of each weight format."""

from __future__ import annotations

import logging
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
from ltx2rt.weights.lora import LoraFile
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
    return LoraFile(path)


def load(base: Checkpoint, loras: list[tuple[LoraFile, float]], dtype: mx.Dtype | None = None) -> LinearWeight:
    weight = base.load("transformer", [SPEC], loras, dtype)[SPEC.name]
    assert isinstance(weight, LinearWeight)
    return weight


@pytest.mark.parametrize(
    "style",
    [
        "diffusion_model.{}.lora_A.weight|diffusion_model.{}.lora_B.weight",
        "diffusion_model.{}.lora_down.weight|diffusion_model.{}.lora_up.weight",
        "model.diffusion_model.{}.lora_A|model.diffusion_model.{}.lora_B",
        "transformer.{}.lora_A.weight|transformer.{}.lora_B.weight",
        "base_model.model.{}.lora_A.default.weight|base_model.model.{}.lora_B.default.weight",
        "{}.lora_A.weight|{}.lora_B.weight",
        "{}.lora.down.weight|{}.lora.up.weight",
        "lora_unet_<>.lora_down.weight|lora_unet_<>.lora_up.weight",
    ],
)
def test_key_styles(tmp_path: Path, style: str) -> None:
    base = checkpoint(tmp_path / "base.safetensors")
    a, b = (part.format(MODULE).replace("<>", MODULE.replace(".", "_")) for part in style.split("|"))
    fused = load(base, [(lora(tmp_path / "lora.safetensors", {a: A, b: B}), 0.5)], mx.float32)
    np.testing.assert_array_equal(np.array(fused.values), bf16(W) + (B * np.float32(0.5)) @ A)


def test_diffusers_module_names(tmp_path: Path) -> None:
    names = {"transformer.proj_in.lora_A.weight": A, "transformer.proj_in.lora_B.weight": B}
    names |= {f"transformer.time_embed.linear.lora_{f}.weight": v for f, v in (("A", A), ("B", B))}
    assert set(lora(tmp_path / "a.safetensors", names).pairs) == {"patchify_proj", "adaln_single.linear"}


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


def test_alpha_scales_by_alpha_over_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {
        f"{MODULE}.lora_A.weight": A,
        f"{MODULE}.lora_B.weight": B,
        f"{MODULE}.alpha": np.float32(8) * np.ones(()),
    }
    with caplog.at_level(logging.WARNING):
        change = lora(tmp_path / "lora.safetensors", tensors)
    assert "alpha tensors multiply the strength by 2" in caplog.text
    fused = load(checkpoint(tmp_path / "base.safetensors"), [(change, 0.5)], mx.float32)
    np.testing.assert_array_equal(np.array(fused.values), bf16(W) + B @ A)


def test_targets_that_the_model_lacks_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {f"{m}.lora_{f}.weight": v for m in (MODULE, "elsewhere.to_q") for f, v in (("A", A), ("B", B))}
    change = lora(tmp_path / "lora.safetensors", tensors)
    base = checkpoint(tmp_path / "base.safetensors")
    with caplog.at_level(logging.WARNING):
        load(base, [(change, 1.0)])
        load(base, [(change, 1.0)])
    assert [record.getMessage().count("1 of 2 LoRA targets are not in") for record in caplog.records] == [1]


def test_metadata(tmp_path: Path) -> None:
    change = lora(tmp_path / "a.safetensors", metadata={"reference_downscale_factor": "2"})
    assert (change.reference_downscale_factor, change.reference_temporal_scale_factor, change.rank) == (2, 1, 4)
    bad = lora(tmp_path / "b.safetensors", metadata={"reference_downscale_factor": "half"})
    with pytest.raises(
        CheckpointError, match="reference_downscale_factor must be a whole number of at least 1, got 'half'"
    ):
        _ = bad.reference_downscale_factor


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.lora_A.weight": A}, r"x has no up \(B\) factor"),
        ({"x.lora_B.weight": B}, r"x has no down \(A\) factor"),
        ({"x.lora_A.weight": A, "x.lora_B.weight": B[:, :3]}, "the ranks of A .* and B .* differ"),
        ({"x.lora_A.weight": A[0], "x.lora_B.weight": B}, "only LoRA factors of linear layers"),
        ({"x.lora_A.weight": A.astype(np.int32), "x.lora_B.weight": B}, "'x.lora_A.weight' is I32"),
        ({"x.lora_A.weight": A, "x.lora_B.weight": B, "x.dora_scale": B}, "only plain LoRA is supported"),
        ({"x.lora_A.weight": A, "transformer.x.lora_A.weight": A, "x.lora_B.weight": B}, "are the same factor of x"),
        ({"x.lora_A.weight": A, "x.lora_B.weight": B, "x.alpha": np.zeros(2)}, "must be one number"),
        ({"x.weight": A}, "not a LoRA file"),
    ],
)
def test_files_that_are_no_usable_lora(tmp_path: Path, tensors: dict[str, Array], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        lora(tmp_path / "bad.safetensors", tensors)


def test_lora_for_another_model(tmp_path: Path) -> None:
    change = lora(tmp_path / "a.safetensors", {f"{MODULE}.lora_A.weight": A[:, :32], f"{MODULE}.lora_B.weight": B})
    with pytest.raises(CheckpointError, match=r"the LoRA is for a weight of \[8, 32\], the model has \[8, 64\]"):
        load(checkpoint(tmp_path / "base.safetensors"), [(change, 1.0)])
