"""Every pipeline under the name a user gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ltx2rt.graph.pipelines import distilled, one_stage
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.request import Request
from ltx2rt.graph.pipelines.run import GeneratedClip, Run


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
}
