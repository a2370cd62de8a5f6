"""Files and pictures that a user gives a run, with their strengths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.errors import MediaError, UsageError
from ltx2rt.media.images import ImageSource
from ltx2rt.paths import expanded, read_text

VideoSource = str | os.PathLike[str] | np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PromptFile:
    """A text file that holds a prompt.

    Attributes:
        path: of the file.
    """

    path: Path

    def read(self) -> str:
        """The prompt.

        Raises:
            MediaError: the file cannot be read.
            UsageError: it is empty.
        """
        try:
            text = read_text(self.path).strip()
        except OSError as error:
            raise MediaError(
                f"the prompt file {self.path} cannot be read: {error.strerror}; check the path."
            ) from error
        except UnicodeDecodeError as error:
            raise MediaError(
                f"the prompt file {self.path} is not UTF-8 text: {error.reason}; save it as UTF-8."
            ) from error
        if not text:
            raise UsageError(f"the prompt file {self.path} is empty; write what to generate into it.")
        return text


@dataclass(frozen=True)
class ImageInput:
    """An image as a condition.

    Attributes:
        image: a picture file, a PIL image, or an array (H, W, 3): uint8, or floating point in [0, 1].
        frame_index: pixel frame at which the image appears.
        strength: 1 keeps it exactly, 0 ignores it.
        crf: H.264 quality of the round trip it goes through first; 0 = none, None = by model generation.
    """

    image: ImageSource
    frame_index: int = 0
    strength: float = 1.0
    crf: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", _stored(self.image))


@dataclass(frozen=True)
class VideoInput:
    """A video as a reference (control video) of an IC-LoRA.

    Attributes:
        video: a file that PyAV reads, whose frame rate is that of the clip or varies; or the clip's frames as an array
            (F, H, W, 3), uint8, or floating point in [0, 1].
        strength: 1 keeps it clean.
    """

    video: VideoSource
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "video", _stored(self.video))


@dataclass(frozen=True)
class IcLoraStage:
    """One denoising stage of ic-lora.

    Attributes:
        divisor: how many times smaller than the clip it works; that of the stage before, or half of it.
        with_reference: the IC-LoRA and the reference videos take part.
        sigmas: falling noise levels, one more than steps; None: the distilled schedule, the short one but for the first
            stage.
        tile: (height, width) in pixels of the tiles that the model sees in every step; None: all at once.
    """

    divisor: int
    with_reference: bool = True
    sigmas: tuple[float, ...] | None = None
    tile: tuple[int, int] | None = None


def _stored(source: Any) -> Any:
    return expanded(source) if isinstance(source, str) else source
