"""From the range of the decoder's output, [-1, 1], to that of frames, [0, 1]."""

from __future__ import annotations

import numpy as np

from ltx2rt.types import Array


def to_unit_range(decoded: Array) -> Array:
    """Decoder output, about [-1, 1] float32 -> [0, 1] clamped. Works in place and returns its argument.

    Infinities become NaN, like everything that is no number: clamped, they would pass as black and white.
    """
    if decoded.size and not (np.isfinite(decoded.min()) and np.isfinite(decoded.max())):
        decoded[~np.isfinite(decoded)] = np.nan
    decoded += np.float32(1)
    decoded *= np.float32(0.5)
    return np.clip(decoded, 0.0, 1.0, out=decoded)
