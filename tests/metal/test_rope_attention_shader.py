"""The shaders of rope_attention: clean and accurate for every head size, length, norm, rotation, bias and gate."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from attention_cases import Case, Rope, attention
from shaders_under_test import DTYPES, Operand, assert_accurate


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
    assert_accurate(attention(c, **options), c.dtype, c.formula(), c.formula(c.dtype))


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
    values = attention(c).bits
    assert not values[0, 2:5].any()
    assert np.abs(values[0, 5:]).min() > 0


def test_equally_low_scores_give_the_mean() -> None:
    lowest = float(np.finfo(np.float32).min)
    c = hidden(case(8, 40, 64, "float32"), slice(None), lowest)
    values = attention(c).bits
    mean = c.v.exact[0].mean(0)
    np.testing.assert_allclose(values[0, 2:5], np.broadcast_to(mean, (3, 128)), atol=1e-5)


def test_a_first_block_of_hidden_keys() -> None:
    check(hidden(case(8, 70, 64, "float32"), slice(0, 40), -np.inf))


def test_lowest_scores_weigh_nothing_beside_others() -> None:
    check(hidden(case(8, 70, 64, "float32"), slice(0, 40), float(np.finfo(np.float32).min)))


def test_hidden_keys_are_not_among_equally_low_ones() -> None:
    c = hidden(case(8, 70, 64, "float32"), slice(None), float(np.finfo(np.float32).min))
    c.bias.bits[0, 0, 2:5, 10:50] = -np.inf
    seen = np.r_[0:10, 50:70]
    mean = c.v.exact[0, seen].mean(0)
    np.testing.assert_allclose(attention(c).bits[0, 2:5], np.broadcast_to(mean, (3, 128)), atol=1e-5)


def test_fences_change_no_bit() -> None:
    problem = with_everything(case(70, 37, 64, "bfloat16"))
    plain, fenced = attention(problem), attention(problem, fenced=True)
    np.testing.assert_array_equal(fenced.bits, plain.bits)
    with_fences = [k for k, c in zip(fenced.kernels, fenced.counters, strict=True) if c.simdgroup_barriers]
    assert with_fences == ["rope_attention_bfloat16_64"]
    assert not any(d.simdgroup_barriers for d in plain.counters)


def test_nothing_is_rounded_twice_in_float32() -> None:
    c = with_everything(case(33, 64, 128, "float32"))
    values = attention(c).bits
    assert np.abs(values - c.formula()).max() < 2e-6 * np.abs(c.formula()).max()


def test_what_needs_no_preparation_gets_none() -> None:
    assert attention(case(4, 4, 64, "bfloat16")).kernels == ["rope_attention_bfloat16_64"]
    c = case(4, 4, 64, "bfloat16")
    c.rope_q = Rope.random(4, 64, 2, 4)
    c.q_norm = np.ones(64, np.float32)
    assert attention(c).kernels == ["rope_attention_bfloat16_64"]
    c.q_norm = np.ones(128, np.float32)
    c.rope_k = Rope.random(4, 64, 2, 5)
    assert attention(c).kernels == [
        "rope_attention_keys_bfloat16_64",
        "rope_attention_row_scale_bfloat16",
        "rope_attention_bfloat16_64",
    ]


@pytest.mark.parametrize("keys", [5, 70, 300])
def test_rows_wider_than_a_simdgroup(keys: int) -> None:
    c = case(3, keys, 128, "bfloat16", heads=6, kv_heads=6)
    c.q_norm = c.k_norm = np.linspace(0.5, 1.5, 768).astype(np.float32)
    c.rope_k = Rope.random(keys, 64 * 6, 3, 5)
    check(c)


@pytest.mark.parametrize("axes", [2, 4])
def test_indices_that_count_from_the_end(axes: int) -> None:
    c = with_everything(case(9, 11, 64, "float32"), axes=axes)
    for rope in (c.rope_q, c.rope_k):
        rope.index = np.where(rope.index % 2 == 0, rope.index - rope.angles.shape[0], rope.index).astype(np.int32)
    check(c)


@pytest.mark.parametrize(
    ("stride", "offset", "copies"), [(384, 0, 0), (384, 128, 0), (388, 4, 0), (385, 0, 1), (384, 2, 1)]
)
def test_strided_and_offset_operands_are_copied_only_where_they_must_be(stride: int, offset: int, copies: int) -> None:
    c = with_everything(case(9, 11, 64, "bfloat16", batch=2))
    flat = Operand((2 * 9 * 400,), "bfloat16", 1)
    view = mx.as_strided(flat.mlx, (2, 9, 128), (9 * stride, stride, 1), offset)
    q = Operand((2, 9, 128), "bfloat16", 1)
    q.bits = np.array(view.view(mx.uint16))
    q.exact = np.array(view.astype(mx.float32)).astype(np.float64)
    q.strided = view
    c.q = q
    check(c)
    assert attention(c).kernels.count("strided_copy_2") == copies


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schedules(seed: int) -> None:
    check(with_everything(case(70, 37, 64, "bfloat16")), seed=seed)


def test_parts_of_the_grid_make_the_whole() -> None:
    c = with_everything(case(70, 20, 64, "bfloat16", heads=3, kv_heads=3, batch=2))
    whole, parts = attention(c), attention(c, most_operations=4 * 64 * 20 * 64 * 2)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert parts.kernels.count("rope_attention_bfloat16_64") == 6
    assert len(set(parts.kernels)) == 3 < len(parts.kernels) - 5


def test_operands_beyond_the_reach_of_32_bits_are_copied() -> None:
    """k and v (prepared keys are near), and a bias with rows for each query."""
    c = case(9, 11, 64, "bfloat16", batch=2)
    c.bias = Operand((2, 1, 9, 11), "float32", 9)
    near, far = attention(c), attention(c, reach=1)
    assert near.kernels.count("strided_copy_2") == near.kernels.count("strided_copy_4") == 0
    assert (far.kernels.count("strided_copy_2"), far.kernels.count("strided_copy_4")) == (3, 1)
    np.testing.assert_array_equal(far.bits, near.bits)
