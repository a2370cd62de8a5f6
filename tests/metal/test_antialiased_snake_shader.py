"""The shader antialiased_snake: clean and accurate for every dtype, length and width, in parts and in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shaders_under_test import DTYPES, Launched, Operand, assert_accurate, launched, rounded

from ltx2rt.kernels import antialiased_snake

RUN, GROUP = 56, 4 * 56  # samples of a thread and of a threadgroup


def snake(x: Operand, parameters: list[Operand], **options: Any) -> Launched:
    return launched(lambda: antialiased_snake(x.mlx, *(p.mlx for p in parameters)), **options)


def operands(samples: int, channels: int, dtype: str, side: str, batch: int = 1) -> tuple[Operand, list[Operand]]:
    x = Operand((batch, samples, channels), dtype, 0, 0.5)
    parameters = [Operand((channels,), side, seed, 0.3) for seed in (1, 2)]
    return x, parameters + [Operand((12,), side, seed, 0.3) for seed in (3, 4)]


def formula(x: np.ndarray, parameters: list[Operand], dtype: str | None = None) -> np.ndarray:
    """In float64, or as plain code that rounds every array to ``dtype``."""

    def step(values: np.ndarray) -> np.ndarray:
        return values if dtype is None else rounded(values, dtype)

    alpha, beta, rise, fall = (p.exact for p in parameters)
    samples = x.shape[1]
    at = np.arange(samples)

    def shifted(values: np.ndarray, by: int, scale: int = 1) -> np.ndarray:
        return values[:, np.clip(scale * at + by, 0, values.shape[1] - 1)]

    doubled = np.zeros((x.shape[0], 2 * samples, x.shape[2]))
    for j in range(6):
        doubled[:, 0::2] += 2 * rise[11 - 2 * j] * shifted(x, j - 3)
        doubled[:, 1::2] += 2 * rise[10 - 2 * j] * shifted(x, j - 2)
    doubled = step(doubled)
    doubled = step(doubled + step(step(np.sin(step(np.exp(alpha) * doubled))) ** 2 / step(np.exp(beta) + 1e-9)))
    return step(sum(fall[t] * shifted(doubled, t - 5, 2) for t in range(12)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("samples", "channels"), [(1, 32), (5, 3), (RUN, 32), (RUN + 1, 40), (GROUP + 9, 17)])
def test_lengths_and_widths(samples: int, channels: int, dtype: str) -> None:
    x, parameters = operands(samples, channels, dtype, dtype)
    exact = formula(x.exact, parameters)
    assert_accurate(snake(x, parameters), dtype, exact, formula(x.exact, parameters, dtype))


@pytest.mark.parametrize("side", DTYPES)
def test_parameters_of_any_type(side: str) -> None:
    x, parameters = operands(20, 33, "bfloat16", side, batch=2)
    exact = formula(x.exact, parameters)
    assert_accurate(snake(x, parameters), "bfloat16", exact, formula(x.exact, parameters, "bfloat16"))


@pytest.mark.parametrize("seed", [1, 2])
def test_any_order_and_any_parts_give_the_same_bits(seed: int) -> None:
    x, parameters = operands(GROUP + 60, 40, "float16", "float32", batch=2)
    whole = snake(x, parameters)
    np.testing.assert_array_equal(snake(x, parameters, seed=seed).bits, whole.bits)
    parts = snake(x, parameters, most_operations=1)
    np.testing.assert_array_equal(parts.bits, whole.bits)
    assert (len(whole.dispatches), len(parts.dispatches)) == (1, 2 * 2 * 2)


def test_a_sample_is_read_little_more_than_once() -> None:
    x, parameters = operands(GROUP, 32, "bfloat16", "float32")
    counters = snake(x, parameters).counters[0]
    sound = GROUP * 32 * 2
    assert counters.device_store_bytes == sound
    assert counters.device_load_bytes < sound * (1 + 12 / RUN) + 4 * 128 * 4
    assert counters.threadgroup_barriers == 0
