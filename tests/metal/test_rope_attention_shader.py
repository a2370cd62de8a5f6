"""The shaders of rope_attention: clean and accurate for every head size, length, norm, rotation, bias and gate."""

from __future__ import annotations

import numpy as np
import pytest
from attention_launcher import Case, Rope, attention, prepare_keys, row_scales
from shaders_under_test import DTYPES, Operand, assert_accurate

from tools.metal_sim import from_bits


def case(queries: int, keys: int, size: int, dtype: str, *, heads: int = 2, kv_heads: int = 2, batch: int = 1) -> Case:
    return Case(
        Operand((batch, queries, heads * size), dtype, 1, 1.5),
        Operand((batch, keys, kv_heads * size), dtype, 2, 1.5),
        Operand((batch, keys, kv_heads * size), dtype, 3),
        heads,
        kv_heads,
    )


def with_everything(c: Case, *, axes: int = 3, interleaved: bool = False, shared: bool = False) -> Case:
    """Whole-row norms, rotation of both sides, bias and gate, as in a transformer block."""
    rng = np.random.default_rng(9)
    batch, queries, width = c.q.exact.shape
    keys, kv_width = c.k.exact.shape[1:]
    c.q_norm, c.k_norm = (rng.uniform(0.5, 1.5, n).astype(np.float32) for n in (width, kv_width))

    def rope(tokens: int, heads: int, seed: int) -> Rope:
        pairs = c.head_size // 2 if shared else heads * c.head_size // 2
        return Rope.random(tokens, pairs, axes, seed, interleaved=interleaved)

    c.rope_q, c.rope_k = rope(queries, c.heads, 4), rope(keys, c.kv_heads, 5)
    c.bias = Operand((1, 1, 1, keys), "float32", 6)
    c.gate = Operand((batch, queries, c.heads), c.dtype, 7)
    return c


def check(c: Case, **options: object) -> None:
    result, _ = attention(c, **options)
    assert_accurate(result, 3, c.dtype, c.formula(), c.formula(c.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), [(64, 32), (70, 45)])
def test_plain(queries: int, keys: int, size: int, dtype: str) -> None:
    check(case(queries, keys, size, dtype, heads=1, kv_heads=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_everything_fused(size: int, dtype: str) -> None:
    check(with_everything(case(19, 37, size, dtype)))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("axes", [1, 3])
def test_rotations(axes: int, interleaved: bool, shared: bool) -> None:
    check(with_everything(case(9, 17, 64, "bfloat16"), axes=axes, interleaved=interleaved, shared=shared))


def test_positions_of_each_batch_item() -> None:
    c = case(9, 10, 64, "float32", batch=2)
    c.rope_q = Rope.random(9, 64, 2, 4, batch=2)
    c.rope_k = Rope.random(10, 64, 2, 5, batch=2)
    check(c)


def test_only_keys_are_rotated() -> None:
    c = case(9, 10, 128, "float16")
    c.rope_k = Rope.random(10, 64, 2, 5)
    check(c)


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_per_head_and_grouped_keys(dtype: str, size: int) -> None:
    c = case(12, 33, size, dtype, heads=4, kv_heads=2, batch=2)
    rng = np.random.default_rng(1)
    c.q_norm, c.k_norm = (rng.uniform(0.5, 1.5, size).astype(np.float32) for _ in range(2))
    check(c)


@pytest.mark.parametrize(("queries", "keys"), [(40, 40), (20, 50), (50, 20), (1, 70)])
def test_causal(queries: int, keys: int) -> None:
    c = case(queries, keys, 64, "bfloat16")
    c.causal = True
    check(c)


@pytest.mark.parametrize("shape", [(1, 1, 1, 40), (2, 1, 9, 40), (1, 2, 1, 40), (2, 2, 9, 40), (2, 1, 9, 1)])
@pytest.mark.parametrize("bias_type", DTYPES)
def test_bias_of_any_shape_and_type(shape: tuple[int, ...], bias_type: str) -> None:
    c = case(9, 40, 64, "bfloat16", batch=2)
    c.bias = Operand(shape, bias_type, 8, 2.0)
    check(c)


def hidden(c: Case, keys: slice, low: float) -> Case:
    c.bias = Operand((1, 1, c.q.exact.shape[1], c.k.exact.shape[1]), "float32", 8)
    c.bias.bits[:] = 0
    c.bias.bits[0, 0, 2:5, keys] = low
    c.bias.exact = c.bias.bits.astype(np.float64)
    return c


def test_a_query_without_keys_gives_zeros() -> None:
    c = hidden(case(8, 40, 64, "float32"), slice(None), -np.inf)
    values = attention(c)[0].check().outputs[3]
    assert not values[0, 2:5].any()
    assert np.abs(values[0, 5:]).min() > 0


def test_equally_low_scores_give_the_mean() -> None:
    lowest = float(np.finfo(np.float32).min)
    c = hidden(case(8, 40, 64, "float32"), slice(None), lowest)
    values = attention(c)[0].check().outputs[3]
    mean = c.v.exact[0].mean(0)
    np.testing.assert_allclose(values[0, 2:5], np.broadcast_to(mean, (3, 128)), atol=1e-5)


def test_a_first_block_of_hidden_keys() -> None:
    check(hidden(case(8, 70, 64, "float32"), slice(0, 40), -np.inf))


def test_nothing_is_rounded_twice_in_float32() -> None:
    c = with_everything(case(33, 64, 128, "float32"))
    values = attention(c)[0].check().outputs[3]
    assert np.abs(values - c.formula()).max() < 2e-6 * np.abs(c.formula()).max()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotated_keys(dtype: str) -> None:
    c = with_everything(case(4, 11, 64, dtype))
    keys = from_bits(prepare_keys(c).check().outputs[5], dtype).astype(np.float64)
    scale = 1 / np.sqrt((c.k.exact**2).mean(-1, keepdims=True) + 1e-6)
    exact = c.rope_k.turn(c.k.exact * scale * c.k_norm, 2, lambda x: x)
    exact = exact.reshape(1, 11, 2, 64).transpose(0, 2, 1, 3)
    step = {"float32": 2**-21, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    np.testing.assert_allclose(keys, exact, atol=step * np.abs(exact).max())


def test_rows_wider_than_a_simdgroup() -> None:
    c = case(3, 4, 128, "bfloat16", heads=6, kv_heads=6)
    c.q_norm = c.k_norm = np.linspace(0.5, 1.5, 768).astype(np.float32)
    scales = row_scales(c).check().outputs[1]
    np.testing.assert_allclose(scales, 1 / np.sqrt((c.q.exact[0] ** 2).mean(-1) + 1e-6), rtol=1e-6)
    prepared = prepare_keys(c).check()
    assert prepared.counters.threadgroup_barriers == 4
    check(c)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    check(with_everything(case(70, 37, 64, "bfloat16")), seed=seed)


def test_a_slice_of_the_heads_and_blocks() -> None:
    c = case(70, 20, 64, "bfloat16", heads=3, kv_heads=3, batch=2)
    whole, part = (attention(c, first)[0].check().outputs[3] for first in ((0, 0, 0), (1, 2, 1)))
    np.testing.assert_array_equal(part[1, 64:, 128:], whole[1, 64:, 128:])
    part[1, 64:, 128:] = 0xFFFF
    assert (part == 0xFFFF).all()
