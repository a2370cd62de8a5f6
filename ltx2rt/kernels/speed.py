"""How fast the kernels are on this machine, measured in a moment."""

from __future__ import annotations

import functools

from ltx2rt.kernels.selection import ext

_SECONDS = 0.02
# Of what the arithmetic of bfloat16 reaches at most, whole stages get about this much.
_ACHIEVED = 0.5
# Assumed where nothing can be measured: plain MLX on a CPU.
_WITHOUT_KERNELS = 5e9


@functools.cache
def stage_flops() -> float:
    """Floating point operations per second that a stage may be expected to reach."""
    if ext is None:
        return _WITHOUT_KERNELS
    return _ACHIEVED * max(float(ext.calibrate_arithmetic("bfloat16", _SECONDS)) for _ in range(3))
