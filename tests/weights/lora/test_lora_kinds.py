"""The delta of every kind of adapter against its formula, written out in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.kinds import Change
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.safetensors import RawTensor, write_safetensors
from ltx2rt.weights.tensor_source import widen

Array = np.ndarray[Any, np.dtype[Any]]
MODULE = "diffusion_model.transformer_blocks.0.attn1.to_q"
NAME = "transformer_blocks.0.attn1.to_q.weight"
SHAPE = (12, 8)
RNG = np.random.default_rng(5)
T = 0.7


def values(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


W = values(*SHAPE)
A, B = values(3, 8), values(12, 3)


def opened(folder: Path, **parts: Any) -> LoraFile:
    tensors = {f"{MODULE}.{part.replace('__', '.')}": value for part, value in parts.items()}
    write_safetensors(folder / "a.safetensors", tensors)
    return open_lora(folder / "a.safetensors")


def change_of(folder: Path, **parts: Any) -> Change:
    change = opened(folder, **parts).change("transformer", NAME)
    assert change is not None
    assert change.shape == SHAPE
    return change


def delta(change: Change, strength: float = T, base: Array = W) -> Array:
    """In two slabs of different sizes."""
    begun = change.begin(strength, base.copy())
    return np.concatenate([begun(slice(0, 5)), begun(slice(5, len(base)))])


def close(found: Array, expected: Array) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


def product(b: Array, a: Array) -> Array:
    return b.astype(np.float64) @ a.astype(np.float64)


@pytest.mark.parametrize("alpha", [None, 6.0, 6], ids=str)
def test_lora(tmp_path: Path, alpha: float | None) -> None:
    more = {} if alpha is None else {"alpha": np.array(alpha)}
    change = change_of(tmp_path, lora_A__weight=A, lora_B__weight=B, **more)
    assert (change.method, change.rank) == ("LoRA", 3)
    close(delta(change), T * (1 if alpha is None else alpha / 3) * product(B, A))


def test_factors_of_1x1_convolutions(tmp_path: Path) -> None:
    change = change_of(tmp_path, lora_down__weight=A[:, :, None, None], lora_up__weight=B[:, :, None, None])
    close(delta(change), T * product(B, A))


def test_loha(tmp_path: Path) -> None:
    parts = {
        "hada_w1_a": values(12, 2),
        "hada_w1_b": values(2, 8),
        "hada_w2_a": values(12, 4),
        "hada_w2_b": values(4, 8),
    }
    change = change_of(tmp_path, **parts, alpha=np.ones((), np.float32))
    assert (change.method, change.rank) == ("LoHa", 2)
    first, second = product(*list(parts.values())[:2]), product(*list(parts.values())[2:])
    close(delta(change), T / 2 * first * second)


LOKR = {
    "whole": ({"lokr_w1": (3, 2), "lokr_w2": (4, 4)}, 0),
    "second in factors": ({"lokr_w1": (4, 4), "lokr_w2_a": (3, 2), "lokr_w2_b": (2, 2)}, 2),
    "first in factors": ({"lokr_w1_a": (4, 3), "lokr_w1_b": (3, 4), "lokr_w2": (3, 2)}, 3),
    "both in factors": ({"lokr_w1_a": (4, 3), "lokr_w1_b": (3, 4), "lokr_w2_a": (3, 5), "lokr_w2_b": (5, 2)}, 3),
}


@pytest.mark.parametrize("case", LOKR)
def test_lokr(tmp_path: Path, case: str) -> None:
    """The rank is that of the factors, the first matrix's if both have some; of two whole ones alpha means nothing."""
    shapes, rank = LOKR[case]
    parts = {name: values(*shape) for name, shape in shapes.items()}
    change = change_of(tmp_path, **parts, alpha=np.full((), 6, np.float32))
    assert (change.method, change.rank) == ("LoKr", rank)
    w1, w2 = (
        parts[name] if name in parts else product(parts[f"{name}_a"], parts[f"{name}_b"])
        for name in ("lokr_w1", "lokr_w2")
    )
    close(delta(change), T * (6 / rank if rank else 1) * np.kron(w1, w2).astype(np.float64))


MAGNITUDES = {"rows": (12, 1), "rows of PEFT": (12,), "columns": (1, 8)}


@pytest.mark.parametrize("case", MAGNITUDES)
@pytest.mark.parametrize("name", ["dora_scale", "lora_magnitude_vector", "magnitude"])
def test_dora(tmp_path: Path, case: str, name: str) -> None:
    magnitude = np.abs(values(*MAGNITUDES[case])) + 1
    change = change_of(tmp_path, lora_A__weight=A, lora_B__weight=B, **{name: magnitude})
    assert change.method == "DoRA"
    changed = W + product(B, A)
    axis = 0 if case == "columns" else 1
    m = magnitude if case == "columns" else magnitude.reshape(-1, 1)
    close(delta(change), T * (m * changed / np.sqrt((changed**2).sum(axis, keepdims=True)) - W))


def test_dora_over_lokr(tmp_path: Path) -> None:
    magnitude, w1, w2 = np.abs(values(12, 1)) + 1, values(3, 2), values(4, 4)
    change = change_of(tmp_path, lokr_w1=w1, lokr_w2=w2, dora_scale=magnitude)
    assert change.method == "DoRA over LoKr"
    changed = W + np.kron(w1, w2).astype(np.float64)
    close(delta(change), T * (magnitude * changed / np.linalg.norm(changed, axis=1, keepdims=True) - W))


def test_dora_of_a_row_without_direction_is_zero(tmp_path: Path) -> None:
    magnitude = np.ones(12, np.float32)
    change = change_of(tmp_path, lora_A__weight=A, lora_B__weight=0 * B, dora_scale=magnitude)
    base = W.copy()
    base[3] = 0
    found = delta(change, 1.0, base)
    assert np.isfinite(found).all()
    assert (found[3] == 0).all()


def test_full_difference_and_bias(tmp_path: Path) -> None:
    diff, bias = values(*SHAPE), values(12)
    lora = opened(tmp_path, diff=diff, diff_b=bias)
    assert lora.methods == {"full difference": 2}
    change, of_bias = lora.change("transformer", NAME), lora.change("transformer", NAME.replace("weight", "bias"))
    assert change is not None
    assert of_bias is not None
    close(delta(change), T * diff.astype(np.float64))
    close(delta(of_bias, T, bias), T * bias.astype(np.float64))


def test_bias_of_a_factor(tmp_path: Path) -> None:
    bias = values(12)
    lora = opened(tmp_path, lora_A__weight=A, lora_B__weight=B, lora_B__bias=bias, alpha=np.full((), 6, np.float32))
    change = lora.change("transformer", NAME.replace("weight", "bias"))
    assert change is not None
    close(delta(change, T, bias), T * 6 / 3 * bias.astype(np.float64))


def test_set_weight_knows_no_strength(tmp_path: Path) -> None:
    new = values(*SHAPE)
    change = change_of(tmp_path, set_weight=new)
    assert change.replaces
    np.testing.assert_array_equal(delta(change), new)


@pytest.mark.parametrize("scale_name", ["weight_scale", "scale_weight"])
def test_factors_in_fp8_with_scales(tmp_path: Path, scale_name: str) -> None:
    parts: dict[str, Any] = {}
    exact = {}
    for letter, factor in (("A", A), ("B", B)):
        scale = np.abs(factor).max() / np.float32(448)
        codes = encode_e4m3(factor / scale)
        exact[letter] = widen(codes, "F8_E4M3") * scale
        parts[f"lora_{letter}__weight"] = RawTensor("F8_E4M3", codes)
        parts[f"lora_{letter}__{scale_name}"] = np.array(scale)
    lora = opened(tmp_path, **parts)
    assert lora.strangers == []
    change = lora.change("transformer", NAME)
    assert change is not None
    close(delta(change), T * product(exact["B"], exact["A"]))


def test_a_scale_in_an_unknown_place_is_no_stranger(tmp_path: Path) -> None:
    codes = {f"lora_{x}__weight": RawTensor("F8_E4M3", encode_e4m3(f)) for x, f in (("A", A), ("B", B))}
    with pytest.raises(CheckpointError, match=r"to_q.lora_A.scale' looks like a scale of '.*to_q.lora_A.weight'"):
        opened(tmp_path, **codes, lora_A__scale=np.ones((), np.float32))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lora_A__weight": A}, r"to_q has no up \(B\) factor: '.*lora_A.weight' comes without lora_B"),
        ({"diff_b": W[0], "lora_A": A}, r"has no up \(B\) factor: '.*lora_A' comes without lora_B"),
        ({"lora_up__weight": B}, r"to_q has no down \(A\) factor: '.*lora_up.weight' comes without lora_down"),
        (
            {"lora_A__weight": A, "lora_B__weight": B[:, :2]},
            "the ranks of A .* and B .* differ: 3 in lora_A, 2 in lora_B",
        ),
        ({"lora_A__weight": A[:0], "lora_B__weight": B[:, :0]}, "the ranks of A"),
        ({"lora_A__weight": A[0], "lora_B__weight": B}, r"is \[8\]; only LoRA factors of linear layers"),
        ({"lora_A__weight": A[..., None] * np.ones(3), "lora_B__weight": B}, "only LoRA factors of linear layers"),
        ({"lora_A__weight": A.astype(np.int32), "lora_B__weight": B}, "I32 without the scales of a known format"),
        ({"lora_A__weight": A, "lora_B__weight": B, "alpha": np.zeros(2)}, "must be one number"),
        (
            {"lora_A__weight": A, "lora_B__weight": B, "alpha": np.full((), np.nan)},
            "alpha': 1 of 1 values are not finite",
        ),
        ({"lora_A__weight": A, "lora_B__weight": B, "diff": W}, "changed in two ways, LoRA and diff"),
        ({"lora_A__weight": A, "lora_B__weight": B, "lokr_w1": W}, "changed in two ways, LoRA and LoKr"),
        ({"lora_A__weight": A, "lora_B__weight": B, "dora_scale": W}, r"is \[12, 8\]; expected are \[12\], \[12, 1\]"),
        ({"dora_scale": W[:, :1]}, "comes without a LoRA"),
        ({"hada_w1_a": B, "hada_w1_b": A, "hada_w2_a": B}, "comes without hada_w2_b"),
        ({"hada_w1_a": B, "hada_w1_b": A, "hada_w2_a": B[:4], "hada_w2_b": A}, "have different shapes"),
        ({"lokr_w1": A}, "comes without lokr_w2"),
        ({"lokr_w1": A, "lokr_w2_a": B}, "comes without lokr_w2_b"),
        ({"lokr_w1": A, "lokr_w2": A, "lokr_w2_a": A}, "lokr_w2 is there whole and in factors"),
        ({"diff_b": W[0], "lora_A__weight": A, "lora_B__weight": B, "lora_B__bias": W[0]}, "its bias is changed twice"),
    ],
)
def test_parts_that_do_not_go_together(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"a\.safetensors.*{message}"):
        opened(tmp_path, **parts)


def test_factors_in_int8_with_markers(tmp_path: Path) -> None:
    """Rows of integers with a scale each, as ComfyUI's tools store weights."""
    parts: dict[str, Any] = {}
    exact = {}
    marker = np.frombuffer(b'{"format": "int8_tensorwise"}', np.uint8)
    for name, factor in (("lora_down", A), ("lora_up", B)):
        scale = np.abs(factor).max(1, keepdims=True) / np.float32(127)
        codes = np.rint(factor / scale).astype(np.int8)
        exact[name] = codes * scale
        parts |= {f"{name}__weight": codes, f"{name}__weight_scale": scale, f"{name}__comfy_quant": marker}
    lora = opened(tmp_path, **parts)
    assert lora.strangers == []
    change = lora.change("transformer", NAME)
    assert change is not None
    assert change.held_bytes == 4 * (A.size + B.size)
    close(delta(change), T * product(exact["lora_up"], exact["lora_down"]))
    lora.require_finite()


@pytest.mark.parametrize("shape", [(12, 1), (1, 8)], ids=["rows", "columns"])
def test_dora_of_large_values(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Their squares are beyond float32."""
    magnitude = np.abs(values(*shape)) + 1
    change = change_of(tmp_path, lora_A__weight=1e15 * A, lora_B__weight=1e15 * B, dora_scale=magnitude)
    changed = W + 1e30 * product(B, A)
    close(delta(change), T * (magnitude * changed / np.linalg.norm(changed, axis=shape.index(1), keepdims=True) - W))
