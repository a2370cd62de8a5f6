"""Schedules of noise levels (sigmas), from about 1 down to exactly 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.precision import Float32Array

DEFAULT_TOKENS = 4096

_DISTILLED = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
_DISTILLED_STAGE_2 = (0.909375, 0.725, 0.421875, 0.0)

# The shift grows linearly with the number of tokens through these two points.
_SHIFT_TOKENS = (1024, 4096)


def distilled_sigmas() -> Float32Array:
    """The 9 sigmas (8 model evaluations) of a distilled model's first or only stage; the table is never cut short."""
    return np.array(_DISTILLED, np.float32)


def distilled_stage_2_sigmas() -> Float32Array:
    """The 4 sigmas (3 model evaluations) of the second stage."""
    return np.array(_DISTILLED_STAGE_2, np.float32)


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
    result: Float32Array = one / (factor + (one / levels - one)) * factor
    return result
