"""The work of our kernels: no more than was counted before, and the bars against MLX's kernels hold."""

from __future__ import annotations

import json

import pytest
from work_counters import (
    BEGIN,
    COUNTS,
    DOCUMENT,
    DTYPE,
    END,
    OPTIONS,
    PACKED,
    PROBLEMS,
    TABLE,
    WEIGHTS_BEGIN,
    WEIGHTS_END,
    WINDOWS,
    WINDOWS_BEGIN,
    WINDOWS_END,
    attention,
    convolution,
    counts,
    document_table,
    linear,
    neighborhood_name,
    shown,
    weights_table,
    windows_table,
)

TABLE_NOW = json.loads(TABLE.read_text())
QUICK = [name for name in PROBLEMS if not name.startswith("attention") and "512 channels" not in name]


def compare(problem: str, kernel: str, counted: dict[str, int]) -> None:
    for name, value in counted.items():
        kept = TABLE_NOW[problem][kernel][name]
        message = f"{problem}, {kernel}: {COUNTS[name]} rose from {kept} to {value}; is it worth it? If so, "
        assert value <= kept, message + "run python tests/metal/work_counters.py"


def test_every_problem_is_counted() -> None:
    assert list(TABLE_NOW) == list(PROBLEMS)


@pytest.mark.parametrize("problem", QUICK)
def test_no_count_rises(problem: str) -> None:
    compare(problem, "ours", counts(PROBLEMS[problem].ours()))


@pytest.mark.slow
@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name not in QUICK])
def test_no_count_of_a_large_problem_rises(problem: str) -> None:
    compare(problem, "ours", counts(PROBLEMS[problem].ours()))


@pytest.mark.slow
@pytest.mark.parametrize("problem", [name for name in QUICK if PROBLEMS[name].mlx is not None])
def test_counts_of_mlx(problem: str) -> None:
    mlx = PROBLEMS[problem].mlx
    assert mlx is not None
    assert counts(mlx()) == TABLE_NOW[problem]["MLX"]


@pytest.mark.parametrize("fused", [False, True])
def test_attention_needs_less_than_steel_attention(fused: bool) -> None:
    # Enough tokens that preparing q and k, of which MLX's kernel does nothing, is made up for.
    problem = attention(128, 256 if fused else 64, 1, fused)
    assert problem.mlx is not None
    ours, mlx = counts(problem.ours()), counts(problem.mlx())
    for name in ("device_bytes", "barriers", "threadgroup_bytes_moved", "multiplies"):
        assert ours[name] <= mlx[name], name


@pytest.mark.parametrize("window", WINDOWS)
def test_a_brick_reads_each_key_once(window: tuple[int, int, int]) -> None:
    """And q, writes the result, and of each thread three eights: weights of both norms, and turns of q in time."""
    frames, rows, columns = window
    slab = (frames + 3) * (rows + 3) * (columns + 7)
    necessary = 2 * 64 * (2 * slab + 2 * 128)
    counted = TABLE_NOW[neighborhood_name(window)]["ours"]["device_bytes"]
    turns = 2 * 4 * (8 * (frames + 3) + 12 * (rows + 3) + 12 * (columns + 7))
    listed = 4 * 4 * frames
    assert counted <= necessary + 3 * 256 * 32 + turns + listed


def test_convolution_reads_less_than_implicit_gemm() -> None:
    problem = convolution(64)
    assert problem.mlx is not None
    ours, mlx = counts(problem.ours()), counts(problem.mlx())
    assert ours["device_bytes"] <= 0.7 * mlx["device_bytes"]
    assert ours["multiplies"] <= mlx["multiplies"]


def test_quantised_weights_are_read_once_per_block_of_rows_instead_of_values() -> None:
    dense = counts(linear(128, "bfloat16", "128x64").ours())
    # Codes in place of two bytes; a factor for each thread, or a scale and a zero for every eight codes.
    more = {"e4m3": 128 * 512 * (1 - 2) + 4 * 256 * 2, "int8": 128 * 512 * (1 - 2) + 128 * 512 // 8 * 4}
    for format_, bytes_ in more.items():
        quantised = counts(linear(128, format_, "128x64").ours())
        assert quantised["multiplies"] == dense["multiplies"]
        assert quantised["device_bytes"] - dense["device_bytes"] == bytes_


def test_many_rows_cost_one_pass_over_the_weights_more_than_dense_ones() -> None:
    dense, quantised = (counts(linear(640, format_, "128x64").ours()) for format_ in ("bfloat16", "e4m3"))
    assert quantised["multiplies"] == dense["multiplies"]
    assert quantised["device_bytes"] - dense["device_bytes"] == 128 * 512 * (1 + 2) + 4 * 256 * 2 * 5


def test_the_document_shows_the_table() -> None:
    text = DOCUMENT.read_text()
    assert text == shown(text, BEGIN, END, document_table(TABLE_NOW))
    assert text == shown(text, WEIGHTS_BEGIN, WEIGHTS_END, weights_table(TABLE_NOW))
    assert text == shown(text, WINDOWS_BEGIN, WINDOWS_END, windows_table(TABLE_NOW))


@pytest.mark.parametrize("format_", ["e4m3", *PACKED])
def test_few_rows_request_no_more_of_packed_weights_than_of_dense_ones(format_: str) -> None:
    few = {name: TABLE_NOW[f"linear 4 x 512 x 128, {name}, few"]["ours"]["device_bytes"] for name in (DTYPE, format_)}
    assert few[format_] <= few[DTYPE]


def test_a_risen_count_is_noticed() -> None:
    problem = QUICK[0]
    more = {name: value + 1 for name, value in TABLE_NOW[problem]["ours"].items()}
    with pytest.raises(AssertionError, match="device bytes rose from"):
        compare(problem, "ours", more)


# Integer operations of 64 bits: where operands begin, nothing in loops. Before loops counted with 32 bits, they were
# 61440, 65088, 218112 and 34176.
WIDE = {
    "modulated_norm 16 x 4096": 16384,
    "antialiased_snake 448 x 64": 2560,
    "linear 128 x 512 x 128, bfloat16, tile 128x64": 13312,
    "linear 4 x 512 x 128, int8, few": 4224,
}


@pytest.mark.parametrize("problem", WIDE)
def test_loops_count_with_32_bits(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "arithmetic", True)
    monkeypatch.setitem(OPTIONS, "trace", False)
    assert sum(c.wide_integer_operations for c in PROBLEMS[problem].ours()) <= WIDE[problem]
