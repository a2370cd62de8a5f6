"""Runs the guidance passes of a sampler step through the transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised, denoised_from_velocity
from ltx2rt.graph.models.transformer.modality import Modality, ModelPass, Perturbation
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.kernels.host import to_numpy

Walk = Literal["together", "forked", "in turn"]
"""Which passes of a step go through the blocks side by side: all of them, so that each block is read once; those that
begin the same, so that what is the same is computed once; or none, which takes the least memory."""
WALKS: tuple[Walk, ...] = get_args(Walk)


def in_walks(passes: Sequence[GuidancePass], walk: Walk) -> list[tuple[int, ...]]:
    """The passes of each way through the blocks, by number."""
    if not passes:
        return []
    if walk == "together":
        return [tuple(range(len(passes)))]
    if walk == "in turn":
        return [(number,) for number in range(len(passes))]
    forked = tuple(number for number, own in enumerate(passes) if own.kind in ("cond", "perturbed"))
    return [forked, *((number,) for number in range(len(passes)) if number not in forked)]


def perturbations_of(guidance_pass: GuidancePass) -> tuple[Perturbation, ...]:
    """What the model leaves out in a pass."""
    perturbations = []
    if guidance_pass.skip_video_self_attention:
        blocks = frozenset(guidance_pass.skip_video_self_attention)
        perturbations.append(Perturbation("skip_video_self_attn", blocks))
    if guidance_pass.skip_audio_self_attention:
        blocks = frozenset(guidance_pass.skip_audio_self_attention)
        perturbations.append(Perturbation("skip_audio_self_attn", blocks))
    if guidance_pass.skip_cross_modal:
        perturbations += [Perturbation("skip_a2v_cross_attn"), Perturbation("skip_v2a_cross_attn")]
    return tuple(perturbations)


class TransformerPasses:
    """The `Predict` of a denoiser: the guidance passes of a step, velocities turned into x0 estimates.

    Args:
        transformer: the loaded model.
        positive: context of the prompt.
        negative: context of the negative prompt; needed when a pass asks for it.
        max_batch_size: how many passes go through a block together, on the batch axis.
        walk: which passes go through the blocks side by side.
    """

    def __init__(
        self,
        transformer: Transformer,
        positive: PromptContext,
        negative: PromptContext | None,
        max_batch_size: int = 1,
        walk: Walk = "together",
    ) -> None:
        self._transformer = transformer
        self._positive = positive
        self._negative = negative
        self._max_batch_size = max_batch_size
        self._walk = walk

    def __call__(self, request: PredictRequest) -> list[Denoised]:
        """One pair of x0 estimates (B, T, C) float32 per pass; None for an absent or disabled stream.

        Raises:
            ValueError: a pass needs the negative prompt and there is none.
        """
        passes = [self._model_pass(own) for own in request.passes]
        video = _modality(request.video, request.sigma, self._positive.video, request.run_video)
        audio = _modality(request.audio, request.sigma, self._positive.audio, request.run_audio)
        found: dict[int, Denoised] = {}
        for numbers in in_walks(request.passes, self._walk):
            together = [passes[number] for number in numbers]
            velocities = self._transformer.guided(video, audio, together, self._max_batch_size)
            for number, (of_video, of_audio) in zip(numbers, velocities, strict=True):
                found[number] = (
                    _denoised(request.video, request.sigma, of_video, request.run_video),
                    _denoised(request.audio, request.sigma, of_audio, request.run_audio),
                )
        return [found[number] for number in range(len(passes))]

    def _model_pass(self, guidance_pass: GuidancePass) -> ModelPass:
        context = self._negative if guidance_pass.negative_prompt else self._positive
        if context is None:
            raise ValueError("Negative context is required for unconditioned denoising; give a negative prompt.")
        return ModelPass(context.video, context.audio, perturbations_of(guidance_pass))


def _modality(state: LatentState | None, sigma: float, context: mx.array, enabled: bool) -> Modality | None:
    if state is None:
        return None
    return Modality(
        latent=mx.array(state.latent),
        sigma=np.full(state.batch, state.model_sigma(sigma), np.float32),
        timesteps=state.timesteps(sigma),
        positions=state.positions,
        context=context,
        attention_mask=state.attention,
        keyframes_mask=state.keyframes_mask,
        enabled=enabled,
    )


def _denoised(state: LatentState | None, sigma: float, velocity: mx.array | None, runs: bool) -> Float32Array | None:
    """The estimate of a pass."""
    if state is None or velocity is None or not runs:
        return None
    values = to_numpy(velocity.astype(mx.float32))
    return denoised_from_velocity(state.latent, values, state.timesteps(sigma), state.dtype)
