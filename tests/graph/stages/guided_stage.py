"""A denoising stage of four guided passes, as plans describe it."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.stages.denoise.task import DenoiseTask


def guided_task(video: int, audio: int, stg_block: int, evaluations: int = 1) -> DenoiseTask:
    """A stage of so many tokens and evaluations whose perturbed pass differs from `stg_block` on."""
    guided = GuiderParams(cfg_scale=3, stg_scale=1, modality_scale=3, stg_blocks=(stg_block,))
    return DenoiseTask(
        name="denoise",
        video=video,
        audio=audio,
        tiles=(),
        masked=False,
        text=1024,
        given_contexts=0,
        prompts=2,
        evaluations=evaluations,
        video_guider=guided,
        audio_guider=guided,
        max_batch_size=None,
        loras=(),
        dtype=mx.bfloat16,
        activations="float",
        advice="",
    )
