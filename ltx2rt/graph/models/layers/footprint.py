"""What running a model takes besides its weights."""

from __future__ import annotations

from dataclasses import dataclass


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
