"""Default settings by model generation and pipeline, as the official v1.2.0 command line has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.settings.settings import DEFAULT_NEGATIVE_PROMPT
from ltx2rt.weights.generations import Generation


@dataclass(frozen=True)
class GenerationDefaults:
    """What a user who names nothing gets.

    Attributes:
        seed: of the noise generator.
        height, width: final size in pixels of one-stage pipelines; two-stage pipelines use twice that.
        num_frames, frame_rate: clip length and frames per second.
        num_inference_steps: of guided pipelines.
        video_guider, audio_guider: guidance strengths of guided pipelines.
        image_crf: H.264 quality of the round trip that image conditions go through; 0 = none.
        negative_prompt: what guided pipelines avoid.
    """

    seed: int
    height: int
    width: int
    num_frames: int
    frame_rate: Fraction
    num_inference_steps: int
    video_guider: GuiderParams
    audio_guider: GuiderParams
    image_crf: int
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT


def high_quality(defaults: GenerationDefaults) -> GenerationDefaults:
    """Defaults of two-stage-hq: few steps of a second-order sampler need no perturbed passes."""
    return replace(
        defaults,
        height=544,
        width=960,
        num_inference_steps=15,
        video_guider=replace(defaults.video_guider, stg_scale=0.0, rescale_scale=0.45, stg_blocks=()),
        audio_guider=replace(defaults.audio_guider, stg_scale=0.0, rescale_scale=1.0, stg_blocks=()),
    )


def defaults_for(generation: Generation) -> GenerationDefaults:
    """Defaults of a generation.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/constants.py @ v1.2.0.
    """
    return GenerationDefaults(
        seed=10,
        height=512,
        width=768,
        num_frames=121,
        frame_rate=Fraction(24),
        num_inference_steps=generation.num_inference_steps,
        video_guider=GuiderParams(
            cfg_scale=3.0,
            stg_scale=1.0,
            rescale_scale=0.7,
            modality_scale=3.0,
            skip_step=0,
            stg_blocks=(generation.stg_block,),
        ),
        audio_guider=GuiderParams(
            cfg_scale=7.0,
            stg_scale=1.0,
            rescale_scale=0.7,
            modality_scale=3.0,
            skip_step=0,
            stg_blocks=(generation.stg_block,),
        ),
        image_crf=generation.image_crf,
    )
