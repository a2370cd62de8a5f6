"""What a stage needs: the bytes of each kind, the arithmetic, and the choices that lead to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Need:
    """What one stage needs under one set of choices.

    Attributes:
        name: of the stage.
        weights: arrays held for the whole stage.
        slots: buffers that streamed blocks are read into.
        streamed: bytes read from disk during the stage besides ``weights``.
        caches: values kept between calls of a model (keys and values of the prompt), and what earlier stages left.
        activations: most bytes of values between layers that exist at a time.
        working: buffers inside kernels, and copies made while weights are changed.
        host: numpy arrays and the buffers of encoders.
        flops: floating point operations, a multiplication and an addition counting as two.
        choice: what was chosen, for people: ``{"blocks": "streamed, 2 slots"}``.
        settings: the same for the stage itself.
        advice: what a user may change to need less.
    """

    name: str
    weights: int = 0
    slots: int = 0
    streamed: int = 0
    caches: int = 0
    activations: int = 0
    working: int = 0
    host: int = 0
    flops: float = 0.0
    choice: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""

    def while_loading(self, excess: int) -> Need:
        """The need of a stage whose peak may lie where its weights are loaded, ``excess`` bytes above them."""
        running = self.activations + self.working + self.host
        return self if excess <= running else replace(self, working=self.working + excess - running)

    @property
    def parts(self) -> dict[str, int]:
        """The bytes that are there at the peak, by kind."""
        return {
            "weights": self.weights,
            "slots": self.slots,
            "caches": self.caches,
            "activations": self.activations,
            "working": self.working,
            "host": self.host,
        }

    @property
    def resident(self) -> int:
        """What is held for the whole stage."""
        return self.weights + self.slots

    @property
    def total(self) -> int:
        """Peak of the stage, without what the process takes anyway."""
        return sum(self.parts.values())
