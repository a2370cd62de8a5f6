"""Media that condition a run, as arrays or as functions that give them at the size a stage needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ImageCondition:
    """An image that the clip shows at a pixel frame.

    Attributes:
        pixels: called with (height, width), returns float32 (height, width, 3) in [-1, 1].
        frame_index: pixel frame of the clip.
        strength: 1 keeps the image exactly, 0 leaves the frame free.
    """

    pixels: Callable[[int, int], Array]
    frame_index: int = 0
    strength: float = 1.0


@dataclass(frozen=True)
class ReferenceVideo:
    """A control video of an IC-LoRA.

    Attributes:
        frames: called with (height, width, count), returns at most ``count`` frames, float32 (F, height, width, 3) in
            [-1, 1].
        strength: 1 keeps the reference clean.
    """

    frames: Callable[[int, int, int], Array]
    strength: float = 1.0


@dataclass(frozen=True)
class AttentionMask:
    """How strongly the clip attends to its reference videos, place by place.

    Attributes:
        weights: called with (height, width, count), returns float32 (F, height, width) in [0, 1]; None = 1 everywhere.
        strength: factor in [0, 1].
    """

    weights: Callable[[int, int, int], Array] | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class SoundInput:
    """A waveform.

    Attributes:
        waveform: float32 (S, 2) in [-1, 1].
        sample_rate: Hz.
    """

    waveform: Array
    sample_rate: int


@dataclass(frozen=True)
class SourceClip:
    """A clip that is edited.

    Attributes:
        frames: uint8 or float32 in [-1, 1], (F, H, W, 3); F is 8*k + 1, H and W are multiples of 32.
        sound: its sound, if any.
    """

    frames: Array
    sound: SoundInput | None = None


@dataclass(frozen=True)
class TimeRange:
    """Seconds [start, end) of a clip that are generated anew, and in which streams."""

    start_s: float
    end_s: float
    video: bool = True
    audio: bool = True
