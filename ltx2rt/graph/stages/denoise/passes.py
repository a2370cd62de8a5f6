"""Runs the guidance passes of a sampler step through the transformer."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised, denoised_from_velocity
from ltx2rt.graph.models.transformer.modality import Modality, Perturbation
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.kernels.host import to_numpy


class TransformerPasses:
    """The `Predict` of a denoiser: one transformer call per guidance pass, velocities turned into x0 estimates.

    Args:
        transformer: the loaded model.
        positive: context of the prompt.
        negative: context of the negative prompt; needed when a pass asks for it.
        max_batch_size: how many passes go through the transformer together, on the batch axis.
    """

    def __init__(
        self,
        transformer: Transformer,
        positive: PromptContext,
        negative: PromptContext | None,
        max_batch_size: int = 1,
    ) -> None:
        self._transformer = transformer
        self._positive = positive
        self._negative = negative
        self._max_batch_size = max_batch_size
        # By the passes' prompts: the transformer keeps what it derives from a context by the identity of the array.
        self._joined: dict[tuple[bool, ...], PromptContext] = {}

    def __call__(self, request: PredictRequest) -> list[Denoised]:
        """One pair of x0 estimates (B, T, C) float32 per pass; None for an absent or disabled stream.

        Raises:
            ValueError: a pass needs the negative prompt and there is none.
        """
        size = self._max_batch_size
        groups = [request.passes[start : start + size] for start in range(0, len(request.passes), size)]
        return [pair for group in groups for pair in self._run(request, group)]

    def _run(self, request: PredictRequest, passes: Sequence[GuidancePass]) -> list[Denoised]:
        """The passes of one transformer call."""
        context = self._context(tuple(guidance_pass.negative_prompt for guidance_pass in passes))
        video = _modality(request.video, request.sigma, context.video, len(passes), request.run_video)
        audio = _modality(request.audio, request.sigma, context.audio, len(passes), request.run_audio)
        states = [state for state in (request.video, request.audio) if state is not None]
        perturbations = [_perturbations(guidance_pass) for guidance_pass in passes for _ in range(states[0].batch)]
        velocities = self._transformer(video, audio, perturbations if any(perturbations) else None)
        return [
            (
                _denoised(request.video, request.sigma, velocities[0], request.run_video, index),
                _denoised(request.audio, request.sigma, velocities[1], request.run_audio, index),
            )
            for index in range(len(passes))
        ]

    def _context(self, negative: tuple[bool, ...]) -> PromptContext:
        """The contexts of several passes on the batch axis."""
        if negative not in self._joined:
            given = [self._negative if is_negative else self._positive for is_negative in negative]
            contexts = [context for context in given if context is not None]
            if len(contexts) < len(given):
                raise ValueError("Negative context is required for unconditioned denoising; give a negative prompt.")
            if len(contexts) == 1:
                self._joined[negative] = contexts[0]
            else:
                streams = (mx.concatenate(list(arrays)) for arrays in zip(*contexts, strict=True))
                self._joined[negative] = PromptContext(*streams)
        return self._joined[negative]


def _modality(
    state: LatentState | None, sigma: float, context: mx.array, passes: int, enabled: bool
) -> Modality | None:
    """The state once per pass, on the batch axis."""
    if state is None:
        return None

    def repeated(values: Float32Array) -> Float32Array:
        return values if passes == 1 else np.concatenate([values] * passes)

    return Modality(
        latent=mx.array(repeated(state.latent)),
        sigma=np.full(passes * state.batch, state.model_sigma(sigma), np.float32),
        timesteps=repeated(state.timesteps(sigma)),
        positions=repeated(state.positions),
        context=context,
        attention_mask=None if state.attention is None else repeated(state.attention.dense()),
        keyframes_mask=None if state.keyframes_mask is None else repeated(state.keyframes_mask),
        enabled=enabled,
    )


def _denoised(
    state: LatentState | None, sigma: float, velocity: mx.array | None, runs: bool, index: int
) -> Float32Array | None:
    """The estimate of pass ``index``."""
    if state is None or velocity is None or not runs:
        return None
    values = to_numpy(velocity[index * state.batch : (index + 1) * state.batch].astype(mx.float32))
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
