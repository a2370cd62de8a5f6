"""Which weights may be multiplied as float16, and what variants that makes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.kernels import half_operands
from ltx2rt.kernels.gpu_device import GpuDevice
from ltx2rt.kernels.proof_problems import packed_weight
from ltx2rt.kernels.variants import LinearVariant
from ltx2rt.types import GGML_BLOCKS, LinearWeight


@pytest.mark.parametrize(
    ("architecture", "slow"),
    [("applegpu_g13s", True), ("applegpu_g14d", True), ("applegpu_g15s", False), ("applegpu_g17p", False), ("", False)],
)
def test_gpus_before_the_m3_are_slow_with_bfloat16(architecture: str, slow: bool) -> None:
    assert half_operands.is_slow_with_bfloat16(GpuDevice("GPU", architecture, "15.0")) == slow
    assert not half_operands.is_slow_with_bfloat16(None)


def dense(largest: float, dtype: mx.Dtype) -> LinearWeight:
    values = np.random.default_rng(1).uniform(-1, 1, (6, 40)).astype(np.float32)
    values[3, 17] = largest
    return LinearWeight("dense", mx.array(values).astype(dtype))


@pytest.mark.parametrize(
    ("largest", "dtype", "fits"),
    [
        (65280.0, mx.bfloat16, True),
        (-65280.0, mx.bfloat16, True),
        (65536.0, mx.bfloat16, False),
        (-65536.0, mx.bfloat16, False),
        (65504.0, mx.float32, True),
        (-65505.0, mx.float32, False),
        (float("nan"), mx.bfloat16, False),
        (float("inf"), mx.float32, False),
        (65504.0, mx.float16, True),
    ],
)
def test_range_of_dense_weights(largest: float, dtype: mx.Dtype, fits: bool) -> None:
    assert half_operands.fits(dense(largest, dtype)) == fits


@pytest.mark.parametrize("kind", ["int8_rows", "nvfp4", "w4a8", "mxfp8", *GGML_BLOCKS])
def test_ordinary_packed_weights_fit(kind: str) -> None:
    assert half_operands.fits(packed_weight(kind, 5, 512, 1))


@pytest.mark.parametrize("mode", list(GGML_BLOCKS))
def test_large_factors_of_blocks_do_not_fit(mode: str) -> None:
    """The bound holds for the largest value that each factor can make."""
    weight = packed_weight(mode, 3, 512, 1)
    weights, size = GGML_BLOCKS[mode]
    for byte, multiplied in half_operands._FACTORS[mode]:
        for factor, fits in ((0.99 * half_operands.LARGEST_HALF / multiplied, True), (66000 / multiplied, False)):
            blocks = np.array(weight.values).reshape(3, 512 // weights, size)
            for other, _ in half_operands._FACTORS[mode]:
                blocks[..., other : other + 2] = 0
            blocks[2, -1, byte : byte + 2] = np.array([-factor], np.float16).view(np.uint8)
            assert half_operands.fits(weight._replace(values=mx.array(blocks.reshape(3, -1)))) == fits


def test_scales_that_are_too_large_do_not_fit() -> None:
    affine = LinearWeight("affine", *mx.quantize(mx.random.normal((4, 64)), 32, 8), group_size=32, bits=8)
    assert half_operands.fits(affine)
    assert not half_operands.fits(affine._replace(scale=affine.scale + 260.0))
    assert not half_operands.fits(affine._replace(zero=affine.zero - 70000.0))
    floats = packed_weight("mxfp8", 5, 64, 1)
    codes = np.array(floats.scale)
    codes[1, 1] = 134
    assert half_operands.fits(floats._replace(scale=mx.array(codes)))
    codes[1, 1] = 135
    assert not half_operands.fits(floats._replace(scale=mx.array(codes)))


def variant(rows: int, columns: int, depth: int, dtype: mx.Dtype = mx.bfloat16, **weight: bool) -> LinearVariant:
    values = LinearWeight("dense", mx.zeros((columns, depth), mx.bfloat16))._replace(**weight)
    return LinearVariant.of(mx.zeros((rows, depth), dtype), values, None, None, None, None, None)


def test_variants_know_halves_and_parts() -> None:
    assert variant(40, 64, 96) == LinearVariant("bfloat16", rows=64)
    assert variant(40, 64, 96, fits_half=True) == LinearVariant("bfloat16", rows=64, half=True)
    assert not variant(40, 64, 96, mx.float32, fits_half=True).half
    assert not variant(4, 64, 96, fits_half=True).half  # no matrices
    assert variant(40, 64, 8192).in_parts
    assert variant(40, 64, 8192).key == "quantized_linear bfloat16 weight=bfloat16 rows=64 in_parts"
    assert not variant(40, 64, 8191).in_parts
    assert not variant(4, 64, 8192).in_parts
