"""Schedules of noise levels (sigmas), from about 1 down to exactly 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.beta_quantile import beta_quantile
from ltx2rt.graph.diffusion.precision import Float32Array

DEFAULT_TOKENS = 4096

_DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
_DISTILLED_STAGE_2 = (0.909375, 0.725, 0.421875, 0.0)

# The shift grows linearly with the number of tokens through these two points.
_SHIFT_TOKENS = (1024, 4096)
_BETA_SHIFT = 2.37
_BETA_TABLE = 10000


def distilled_sigmas() -> Float32Array:
    """The 9 sigmas (8 model evaluations) of a distilled model's first or only stage; the table is never cut short."""
    return np.array(_DISTILLED, np.float32)


def distilled_stage_2_sigmas() -> Float32Array:
    """The 4 sigmas (3 model evaluations) of the second stage."""
    return np.array(_DISTILLED_STAGE_2, np.float32)


def check_distilled_steps(steps: int, *, stage: int = 1) -> None:
    """Raise `UsageError` unless ``steps`` is what the distilled table of the stage has: 8, or 3 in stage 2."""
    expected = len(_DISTILLED if stage == 1 else _DISTILLED_STAGE_2) - 1
    if steps != expected:
        raise UsageError(
            f"A distilled model takes exactly {expected} steps in stage {stage}, got {steps}; leave the step count "
            f"out or use {expected}. A shorter run would end with noise left in the picture."
        )


def ltx2_sigmas(
    steps: int,
    *,
    tokens: int = DEFAULT_TOKENS,
    max_shift: float = 2.05,
    base_shift: float = 0.95,
    stretch: bool = True,
    terminal: float = 0.1,
) -> Float32Array:
    """Schedule of the undistilled models: shifted by the token count, then stretched to end at ``terminal`` and 0.

    Args:
        steps: model evaluations, at least 1.
        tokens: video tokens; every pipeline uses the default but the high-quality one.
        max_shift: shift at 4096 tokens (not a limit).
        base_shift: shift at 1024 tokens.
        stretch: whether the last sigma above 0 becomes ``terminal``.
        terminal: that sigma.

    Returns:
        (steps + 1,) float32; the first value is 1 up to float32 rounding and the last exactly 0.

    Raises:
        UsageError: if ``steps`` or ``tokens`` is below 1.

    Source: Lightricks/LTX-2 ltx_core/components/schedulers.py @ v1.2.0.
    """
    _check_steps(steps)
    if tokens < 1:
        raise UsageError(f"The schedule needs at least 1 token, got {tokens}.")
    slope = (max_shift - base_shift) / (_SHIFT_TOKENS[1] - _SHIFT_TOKENS[0])
    shift = tokens * slope + (base_shift - slope * _SHIFT_TOKENS[0])
    shifted = _shift_time(_unit_ramp(steps)[:-1], shift)
    if stretch:
        clean = np.float32(1) - shifted
        # With one step the only sigma is 1 already and cannot be moved to the terminal value.
        scale = clean[-1] / np.float32(1 - terminal)
        if scale == 0:
            raise UsageError(f"{steps} step(s) cannot be stretched to end at {terminal}; use at least 2 steps.")
        shifted = np.float32(1) - clean / scale
    return np.append(shifted, np.float32(0))


def linear_quadratic_sigmas(steps: int, *, threshold: float = 0.025, linear_steps: int | None = None) -> Float32Array:
    """Sigmas that fall linearly by ``threshold`` over the first half of the steps and quadratically after it.

    Args:
        steps: model evaluations, at least 1.
        threshold: how far the linear part goes.
        linear_steps: length of the linear part; half of the steps when None.

    Returns:
        (steps + 1,) float32 from 1 to 0.

    Raises:
        UsageError: if ``steps`` is below 1 or ``linear_steps`` is not within [1, steps].

    Source: Lightricks/LTX-2 ltx_core/components/schedulers.py @ v1.2.0.
    """
    _check_steps(steps)
    if steps == 1:
        return np.array([1, 0], np.float32)
    linear = steps // 2 if linear_steps is None else linear_steps
    if not 1 <= linear <= steps:
        raise UsageError(f"linear_steps must be within [1, {steps}], got {linear}.")
    travelled = [i * threshold / linear for i in range(linear)]
    quadratic = steps - linear
    if quadratic:
        excess = linear - threshold * steps
        square = excess / (linear * quadratic**2)
        slope = threshold / linear - 2 * excess / quadratic**2
        travelled += [square * i**2 + slope * i + square * linear**2 for i in range(linear, steps)]
    return np.array([1 - y for y in [*travelled, 1.0]], np.float32)


def beta_sigmas(steps: int, *, alpha: float = 0.6, beta: float = 0.6) -> Float32Array:
    """Sigmas at quantiles of a beta distribution over a table of 10000 shifted noise levels.

    Args:
        steps: quantiles to take, at least 1; ones that fall on the same table entry are merged.
        alpha: first shape parameter of the distribution.
        beta: second shape parameter.

    Returns:
        (at most steps + 1,) float32, ending in 0.

    Raises:
        UsageError: if ``steps`` is below 1 or a shape parameter is not positive.

    Source: Lightricks/LTX-2 ltx_core/components/schedulers.py @ v1.2.0.
    """
    _check_steps(steps)
    if alpha <= 0 or beta <= 0:
        raise UsageError(f"The beta schedule needs positive alpha and beta, got {alpha} and {beta}.")
    levels = np.arange(1, _BETA_TABLE + 1, dtype=np.float32) / np.float32(_BETA_TABLE)
    table = _shift_time(levels, _BETA_SHIFT)
    quantiles = 1 - np.linspace(0, 1, steps, endpoint=False)
    entries = [round(beta_quantile(float(q), alpha, beta) * (_BETA_TABLE - 1)) for q in quantiles]
    return np.append(table[list(dict.fromkeys(entries))], np.float32(0))


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise UsageError(f"The number of steps must be at least 1, got {steps}.")


def _unit_ramp(steps: int) -> Float32Array:
    """1 to 0 in equal float32 steps, each value rounded once and counted from the nearer end (as torch.linspace)."""
    step = float(np.float32(-1) / np.float32(steps))
    index = np.arange(steps + 1, dtype=np.float64)
    return np.where(index < (steps + 1) // 2, 1 + step * index, -step * (steps - index)).astype(np.float32)


def _shift_time(levels: NDArray[Any], shift: float) -> Float32Array:
    """``e^shift / (e^shift + 1/t - 1)`` in float32; the division is a reciprocal and a product, as in torch."""
    factor = np.float32(math.exp(shift))
    one = np.float32(1)
    return one / (factor + (one / levels - one)) * factor
