"""What a user asks a pipeline for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ImageCondition:
    """An image that the clip shows at a pixel frame.

    Attributes:
        pixels: called with (height, width), returns float32 (height, width, 3) in [-1, 1].
        frame_index: pixel frame; 0 replaces the first latent frame, others are appended as key frames.
        strength: 1 keeps the image exactly, 0 leaves the frame free.
    """

    pixels: Callable[[int, int], Array]
    frame_index: int = 0
    strength: float = 1.0


@dataclass(frozen=True)
class Request:
    """A text/image-to-video request with every setting resolved.

    Attributes:
        prompt: positive prompt; not needed when ``context`` is given.
        negative_prompt: used by guided pipelines.
        context, negative_context: precomputed text contexts in place of the text encoder.
        seed: of the noise.
        height, width: final size in pixels.
        num_frames: 8*k + 1.
        frame_rate: frames per second.
        images: conditions, applied in order.
        num_inference_steps, video_guider, audio_guider: guided pipelines only.
        tiling: of the video decoder: ``auto`` (by size), explicit, or None (one tile).
        dtype: of activations.
    """

    prompt: str
    negative_prompt: str
    seed: int
    height: int
    width: int
    num_frames: int
    frame_rate: Fraction
    num_inference_steps: int
    video_guider: GuiderParams
    audio_guider: GuiderParams
    images: tuple[ImageCondition, ...] = ()
    context: PromptContext | None = None
    negative_context: PromptContext | None = None
    tiling: Tiling | Literal["auto"] | None = "auto"
    dtype: mx.Dtype = mx.bfloat16

    def check(self) -> None:
        """Raise UsageError for values no pipeline can work with; sizes are checked by each pipeline."""
        if self.context is None and not self.prompt.strip():
            raise UsageError("the prompt is empty; say what to generate with --prompt, or give --embedding.")
        if not 1 <= self.num_inference_steps <= 1000:
            raise UsageError(f"num_inference_steps must be 1 to 1000, got {self.num_inference_steps}.")
        for image in self.images:
            if not 0 <= image.frame_index < self.num_frames:
                raise UsageError(
                    f"image frame index must be 0 to {self.num_frames - 1} for this clip, got {image.frame_index}."
                )
            if not 0.0 <= image.strength <= 1.0:
                raise UsageError(f"image strength must be between 0 and 1, got {image.strength}.")
