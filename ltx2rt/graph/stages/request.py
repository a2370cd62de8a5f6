"""What a user asks a pipeline for, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.inputs import (
    AttentionMask,
    ImageCondition,
    ReferenceVideo,
    SoundInput,
    SourceClip,
    TimeRange,
)


class PromptContext(NamedTuple):
    """What the transformer reads: video (B, 1024, Cv) and audio (B, 1024, Ca)."""

    video: mx.array
    audio: mx.array


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
        references, attention_mask, skip_stage_2: ic-lora only.
        sound: the sound that drives audio-to-video.
        source, region: the clip that retake edits, and where.
        distilled: retake runs the distilled schedule without guidance.
        distilled_lora_strengths: of the two stages of two-stage-hq.
        gradient_gamma: gradient estimation in place of Euler steps in the guided stage; 0 = off.
        max_batch_size: how many guidance passes go through the transformer together.
        upscale_spatial, upscale_temporal: enlarge the final video latent without refinement.
        decode: whether the final latents become frames and sound.
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
    references: tuple[ReferenceVideo, ...] = ()
    attention_mask: AttentionMask | None = None
    skip_stage_2: bool = False
    sound: SoundInput | None = None
    source: SourceClip | None = None
    region: TimeRange | None = None
    distilled: bool = False
    distilled_lora_strengths: tuple[float, float] = (0.25, 0.5)
    context: PromptContext | None = None
    negative_context: PromptContext | None = None
    gradient_gamma: float = 0.0
    max_batch_size: int = 1
    upscale_spatial: bool = False
    upscale_temporal: bool = False
    decode: bool = True
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
