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
        window: of a clip that is made in several, from 1; 0: of all of it.
        steps: of a sampler.
        weights: arrays held for the whole stage.
        present: the part of ``weights`` that is there already, from earlier stages or calls.
        kept: weights of other stages and calls that stay in memory meanwhile.
        slots: buffers that streamed blocks are read into.
        streamed: bytes read from disk during the stage besides ``weights``.
        streamed_per_step: the part of ``streamed`` that each evaluation of a denoising stage reads.
        caches: values kept between calls of a model (keys and values of the prompt), and what earlier stages left.
        activations: most bytes of values between layers that exist at a time.
        working: buffers inside kernels, and copies made while weights are changed.
        host: numpy arrays and the buffers of encoders.
        flops: floating point operations, a multiplication and an addition counting as two.
        choice: what was chosen, for people: ``{"blocks": "streamed, 2 slots"}``.
        settings: the same for the stage itself.
        advice: what a user may change to need less.
        can_be_kept: the weights are held whole and the result is that of every other way, so that they may stay after
            the stage.
        keeps: they do stay.
        handed_on: weights of this and earlier stages that stay for a later stage of the run.
        received: bytes that other machines send to this one.
        exchanges: operations in which they do.
    """

    name: str
    window: int = 0
    steps: int = 0
    weights: int = 0
    present: int = 0
    kept: int = 0
    slots: int = 0
    streamed: int = 0
    streamed_per_step: int = 0
    caches: int = 0
    activations: int = 0
    working: int = 0
    host: int = 0
    flops: float = 0.0
    choice: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    advice: str = ""
    can_be_kept: bool = True
    keeps: bool = False
    handed_on: int = 0
    received: int = 0
    exchanges: int = 0

    def while_loading(self, excess: int) -> Need:
        """The need of a stage whose peak may lie where its weights are loaded, ``excess`` bytes above them."""
        running = self.activations + self.working + self.host
        return self if excess <= running else replace(self, working=self.working + excess - running)

    @property
    def parts(self) -> dict[str, int]:
        """The bytes that are there at the peak, by kind."""
        return {
            "weights": self.weights,
            "kept weights": self.kept,
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
    def left(self) -> int:
        """Weights that stay when the stage has ended."""
        return self.kept + self.weights if self.keeps else self.handed_on

    @property
    def total(self) -> int:
        """Peak of the stage, without what the process takes anyway."""
        return sum(self.parts.values())
