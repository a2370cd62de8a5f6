"""What a layer reads besides its input: neighbouring frames, the timestep, noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

NoiseDraw = Callable[[tuple[int, ...]], "np.ndarray[Any, np.dtype[Any]]"]
"""Draws standard normal numbers of the given shape, float32; called in the order of the official code."""

FrameDraw = Callable[[int], "np.ndarray[Any, np.dtype[Any]]"]
"""Gives the next n frames (B, C, n, H, W) of a draw, float32."""


class DecoderNoise(Protocol):
    """Where decoders get random numbers from."""

    def normal(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
        """See `NoiseDraw`."""

    def frames(self, shape: tuple[int, int, int, int, int]) -> FrameDraw:
        """The same numbers for (B, C, F, H, W), given some frames at a time."""


@dataclass(frozen=True)
class Neighbours:
    """What a convolution sees around its input along time.

    Attributes:
        halo: (B, 1 or 2, H, W, C) frames before the input; None when it begins the clip.
        before: copies of the first frame in front of halo and input.
        after: copies of the last frame behind the input.
    """

    halo: mx.array | None
    before: int
    after: int

    @classmethod
    def of_clip(cls, causal: bool) -> Neighbours:
        """What surrounds a whole clip."""
        return cls(None, 2, 0) if causal else cls(None, 1, 1)


@dataclass(frozen=True)
class Conditions:
    """What a layer may need besides its input.

    Attributes:
        timestep: (B, 256) sinusoid of the scaled decode timestep, compute dtype; None without timestep conditioning.
        noise: source of the injected noise; None where no layer injects any.
    """

    timestep: mx.array | None = None
    noise: NoiseDraw | None = None
