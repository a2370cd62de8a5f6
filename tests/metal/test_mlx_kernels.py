"""Credibility: MLX's kernels, unmodified, run clean in the simulator and agree with float64."""

from __future__ import annotations

import mlx.core as mx
import mlx_kernels
import numpy as np
import pytest

from tools.metal_sim import Result, from_bits, to_bits

# Against float64, relative to the largest value: a few roundings of the output, a float32 sum for float32.
TOLERANCE = {"float32": 2e-6, "bfloat16": 6e-3, "float16": 8e-4}
DTYPES = ["float32", "bfloat16"]


def random(shape: tuple[int, ...], dtype: str, seed: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Stored values and the same as float64."""
    bits = to_bits(scale * np.random.default_rng(seed).standard_normal(shape), dtype)
    return bits, from_bits(bits, dtype).astype(np.float64)


def agree(result: Result, output: int, dtype: str, exact: np.ndarray) -> None:
    values = from_bits(result.check().outputs[output], dtype)
    assert np.abs(values - exact).max() <= TOLERANCE[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [128, 100])
def test_softmax(dtype: str, width: int) -> None:
    x, exact = random((3, width), dtype, 0)
    powers = np.exp(exact - exact.max(-1, keepdims=True))
    agree(mlx_kernels.softmax(x, dtype), 1, dtype, powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [100, 4103])
def test_logsumexp(dtype: str, width: int) -> None:
    """A reduction over rows, in registers and in a loop, as RMSNorm is, whose source the wheel's headers lack."""
    x, exact = random((2, width), dtype, 0)
    largest = exact.max(-1, keepdims=True)
    agree(mlx_kernels.logsumexp(x, dtype), 1, dtype, np.log(np.exp(exact - largest).sum(-1)) + largest[:, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "keys", "width"), [(64, 64, 128), (50, 77, 128), (40, 40, 64)])
def test_steel_attention(dtype: str, queries: int, keys: int, width: int) -> None:
    q, q_exact = random((2, queries, width), dtype, 1)
    k, k_exact = random((2, keys, width), dtype, 2)
    v, v_exact = random((2, keys, width), dtype, 3)
    scores = np.exp(q_exact @ k_exact.transpose(0, 2, 1) * width**-0.5)
    exact = scores / scores.sum(-1, keepdims=True) @ v_exact
    result = mlx_kernels.attention(q, k, v, dtype)
    agree(result, 3, dtype, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (33, 40)])
def test_quantised_matmul(dtype: str, rows: int, columns: int) -> None:
    x, x_exact = random((rows, 64), dtype, 1)
    weight = np.random.default_rng(2).standard_normal((columns, 64)).astype(np.float32)
    codes, scales, biases = (np.array(a) for a in mx.quantize(mx.array(weight), group_size=32, bits=8))
    scales, biases = to_bits(scales, dtype), to_bits(biases, dtype)
    spread = codes.view(np.uint8).reshape(columns, 2, 32).astype(np.float64)
    exact = spread * from_bits(scales, dtype)[..., None].astype(np.float64) + from_bits(biases, dtype)[..., None]
    result = mlx_kernels.quantised_matmul(x, codes, scales, biases, dtype, 32, 8)
    # MLX rounds each dequantised weight to the dtype of x.
    values = from_bits(result.check().outputs[4], dtype)
    product = x_exact @ exact.reshape(columns, 64).T
    assert np.abs(values - product).max() <= 2 * TOLERANCE[dtype] * np.abs(product).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns", "depth"), [(64, 64, 64), (70, 40, 50)])
def test_steel_gemm(dtype: str, rows: int, columns: int, depth: int) -> None:
    a, a_exact = random((rows, depth), dtype, 1)
    b, b_exact = random((columns, depth), dtype, 2)
    agree(mlx_kernels.matmul(a, b, dtype), 3, dtype, a_exact @ b_exact.T)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile_rows", [32, 64])
def test_implicit_gemm_conv3d(dtype: str, tile_rows: int) -> None:
    x, x_exact = random((1, 3, 6, 5, 16), dtype, 1)
    weight, w_exact = random((64, 3, 3, 3, 16), dtype, 2)
    padded = np.pad(x_exact[0], ((1, 1), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3), axis=(0, 1, 2))
    exact = np.einsum("dhwcijk,oijkc->dhwo", windows, w_exact)[None]
    agree(mlx_kernels.conv3d(x, weight, dtype, 1, tile_rows), 2, dtype, exact)


def test_an_overrun_of_mlx_is_found() -> None:
    """MLX's tiles of 64 rows load 64 output channels even where there are fewer."""
    x, _ = random((1, 3, 5, 5, 16), "float32", 1)
    weight, _ = random((32, 3, 3, 3, 16), "float32", 2)
    result = mlx_kernels.conv3d(x, weight, "float32", 1, 64)
    assert result.found.keys() == {"bounds"}
    assert "buffer 1" in result.findings[0].message
