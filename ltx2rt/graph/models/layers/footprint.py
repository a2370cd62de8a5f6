"""What running a model takes besides its weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ltx2rt.kernels.working_memory import convolution_bytes
from ltx2rt.types import ParamSpec

_FLOAT32 = 4


@dataclass(frozen=True)
class Footprint:
    """At the moment that takes most.

    Attributes:
        activations: bytes of MLX arrays.
        working: bytes of buffers inside the kernels.
        host: bytes of numpy arrays.
    """

    activations: int
    working: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.working + self.host


def largest(*moments: Footprint) -> Footprint:
    """The moment that takes most."""
    return max(moments, key=lambda moment: moment.total)


def largest_convolution(specs: list[ParamSpec], itemsize: int = _FLOAT32, values: int | None = None) -> int:
    """`convolution_bytes` of the largest weight."""
    return convolution_bytes(max(prod(spec.shape) for spec in specs), itemsize, values)
