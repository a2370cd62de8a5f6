"""Every pipeline under the name a user gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ltx2rt.graph.pipelines import (
    audio_to_video,
    distilled,
    ic_lora,
    keyframe_interpolation,
    one_stage,
    retake,
    text_to_audio,
    two_stage,
    two_stage_hq,
)
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run


@dataclass(frozen=True)
class PipelineEntry:
    """One pipeline.

    Attributes:
        check: raises when a request cannot work; loads nothing.
        generate: runs it.
        two_stage: renders at half size first.
        guided: uses negative prompt, steps and guidance strengths.
        summary: one line for users.
    """

    check: Callable[[Request, ModelFiles], None]
    generate: Callable[[Run], GeneratedClip]
    two_stage: bool
    guided: bool
    summary: str


PIPELINES: dict[str, PipelineEntry] = {
    "distilled": PipelineEntry(
        distilled.check,
        distilled.generate,
        two_stage=True,
        guided=False,
        summary="distilled checkpoint: 8 steps at half size, latent upscaling, 3 steps at full size",
    ),
    "one-stage": PipelineEntry(
        one_stage.check,
        one_stage.generate,
        two_stage=False,
        guided=True,
        summary="dev checkpoint: guided sampling at full size",
    ),
    "two-stage": PipelineEntry(
        two_stage.check,
        two_stage.generate,
        two_stage=True,
        guided=True,
        summary="dev checkpoint and distilled LoRA: guided at half size, refined at full size",
    ),
    "two-stage-hq": PipelineEntry(
        two_stage_hq.check,
        two_stage_hq.generate,
        two_stage=True,
        guided=True,
        summary="as two-stage with the second-order res_2s sampler",
    ),
    "ic-lora": PipelineEntry(
        ic_lora.check,
        ic_lora.generate,
        two_stage=True,
        guided=False,
        summary="distilled checkpoint and IC-LoRA: control videos steer the clip",
    ),
    "keyframe-interpolation": PipelineEntry(
        keyframe_interpolation.check,
        keyframe_interpolation.generate,
        two_stage=True,
        guided=True,
        summary="dev checkpoint and distilled LoRA: a clip between given key frames",
    ),
    "audio-to-video": PipelineEntry(
        audio_to_video.check,
        audio_to_video.generate,
        two_stage=True,
        guided=True,
        summary="dev checkpoint and distilled LoRA: given sound drives the video",
    ),
    "retake": PipelineEntry(
        retake.check,
        retake.generate,
        two_stage=False,
        guided=True,
        summary="a time range of an existing clip is generated anew",
    ),
    "extend": PipelineEntry(
        retake.check,
        retake.generate,
        two_stage=False,
        guided=True,
        summary="an existing clip goes on, forwards or backwards",
    ),
    "text-to-audio": PipelineEntry(
        text_to_audio.check,
        text_to_audio.generate,
        two_stage=False,
        guided=True,
        summary="dev checkpoint: sound alone",
    ),
}
