"""What a user names as input of a run: image and video files with their strengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageInput:
    """An image file as a condition.

    Attributes:
        path: PNG, JPEG or anything Pillow reads.
        frame_index: pixel frame at which the image appears.
        strength: 1 keeps it exactly, 0 ignores it.
        crf: H.264 quality of the round trip it goes through first; 0 = none, None = by model generation.
    """

    path: Path
    frame_index: int = 0
    strength: float = 1.0
    crf: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True)
class VideoInput:
    """A video file as a reference (control video) of an IC-LoRA.

    Attributes:
        path: anything PyAV reads; its frame rate must be that of the clip.
        strength: 1 keeps it clean.
    """

    path: Path
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
