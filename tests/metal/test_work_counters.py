"""The work of our kernels: no more than was counted before, and the bars against MLX's kernels hold."""

from __future__ import annotations

import json

import pytest
from work_counters import BEGIN, COUNTS, DOCUMENT, END, PROBLEMS, TABLE, counts, document_table

TABLE_NOW = json.loads(TABLE.read_text())
QUICK = [name for name in PROBLEMS if not name.startswith("attention") and "512 channels" not in name]
CONVOLUTIONS = [name for name in PROBLEMS if name.startswith("conv")]
ATTENTIONS = [name for name in PROBLEMS if name.startswith("attention")]


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


@pytest.mark.parametrize("problem", ATTENTIONS)
def test_attention_needs_less_than_steel_attention(problem: str) -> None:
    ours, mlx = TABLE_NOW[problem]["ours"], TABLE_NOW[problem]["MLX"]
    for name in ("device_bytes", "barriers", "simdgroup_barriers", "threadgroup_bytes_moved", "multiplies"):
        assert ours[name] <= mlx[name], name


@pytest.mark.parametrize("problem", CONVOLUTIONS)
def test_convolution_reads_less_than_implicit_gemm(problem: str) -> None:
    ours, mlx = TABLE_NOW[problem]["ours"], TABLE_NOW[problem]["MLX"]
    assert ours["device_bytes"] <= 0.7 * mlx["device_bytes"]
    assert ours["multiplies"] <= mlx["multiplies"]


def test_quantised_weights_cost_one_pass_more_than_dense_ones() -> None:
    dense = TABLE_NOW["linear 128 x 512 x 128, bfloat16, tile 128x64"]["ours"]
    # Codes read, values written, and for affine weights a scale and a zero for every eight codes.
    passes = {"E4M3": 128 * 512 * (1 + 2) + 4 * 256 * 2, "int8": 128 * 512 * (1 + 2) + 128 * 512 // 8 * 4}
    for format_, most in passes.items():
        quantised = TABLE_NOW[f"linear 128 x 512 x 128, {format_}, tile 128x64"]["ours"]
        assert quantised["multiplies"] == dense["multiplies"]
        assert quantised["device_bytes"] - dense["device_bytes"] <= most


def test_the_document_shows_the_table() -> None:
    shown = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == document_table(TABLE_NOW)


def test_a_risen_count_is_noticed() -> None:
    problem = QUICK[0]
    more = {name: value + 1 for name, value in TABLE_NOW[problem]["ours"].items()}
    with pytest.raises(AssertionError, match="device bytes rose from"):
        compare(problem, "ours", more)
