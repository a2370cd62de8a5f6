"""Runs the guidance passes of a sampler step through the transformer."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.denoising import Denoised, GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import denoised_from_velocity
from ltx2rt.graph.models.modality import Modality, Perturbation
from ltx2rt.graph.models.transformer import Transformer
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext


class TransformerPasses:
    """The `Predict` of a denoiser: one transformer call per guidance pass, velocities turned into x0 estimates.

    Args:
        transformer: the loaded model.
        positive: context of the prompt.
        negative: context of the negative prompt; needed when a pass asks for it.
    """

    def __init__(self, transformer: Transformer, positive: PromptContext, negative: PromptContext | None) -> None:
        self._transformer = transformer
        self._positive = positive
        self._negative = negative

    def __call__(self, request: PredictRequest) -> list[Denoised]:
        """One pair of x0 estimates (B, T, C) float32 per pass; None for an absent or disabled stream.

        Raises:
            ValueError: a pass needs the negative prompt and there is none.
        """
        return [self._run(request, guidance_pass) for guidance_pass in request.passes]

    def _run(self, request: PredictRequest, guidance_pass: GuidancePass) -> Denoised:
        context = self._negative if guidance_pass.negative_prompt else self._positive
        if context is None:
            raise ValueError("Negative context is required for unconditioned denoising; give a negative prompt.")
        video = _modality(request.video, request.sigma, context.video, request.run_video)
        audio = _modality(request.audio, request.sigma, context.audio, request.run_audio)
        states = [state for state in (request.video, request.audio) if state is not None]
        perturbations = _perturbations(guidance_pass)
        velocities = self._transformer(video, audio, [perturbations] * states[0].batch if perturbations else None)
        return (
            _denoised(request.video, request.sigma, velocities[0], request.run_video),
            _denoised(request.audio, request.sigma, velocities[1], request.run_audio),
        )


def _modality(state: LatentState | None, sigma: float, context: mx.array, enabled: bool) -> Modality | None:
    if state is None:
        return None
    return Modality(
        latent=mx.array(state.latent),
        sigma=np.full(state.batch, state.model_sigma(sigma), np.float32),
        timesteps=state.timesteps(sigma),
        positions=state.positions,
        context=context,
        attention_mask=state.attention_mask,
        keyframes_mask=state.keyframes_mask,
        enabled=enabled,
    )


def _denoised(state: LatentState | None, sigma: float, velocity: mx.array | None, runs: bool) -> Float32Array | None:
    if state is None or velocity is None or not runs:
        return None
    values = np.array(velocity.astype(mx.float32))
    return denoised_from_velocity(state.latent, values, state.timesteps(sigma), state.dtype)


def _perturbations(guidance_pass: GuidancePass) -> list[Perturbation]:
    perturbations = []
    if guidance_pass.skip_video_self_attention:
        blocks = frozenset(guidance_pass.skip_video_self_attention)
        perturbations.append(Perturbation("skip_video_self_attn", blocks))
    if guidance_pass.skip_audio_self_attention:
        blocks = frozenset(guidance_pass.skip_audio_self_attention)
        perturbations.append(Perturbation("skip_audio_self_attn", blocks))
    if guidance_pass.skip_cross_modal:
        perturbations += [Perturbation("skip_a2v_cross_attn"), Perturbation("skip_v2a_cross_attn")]
    return perturbations
