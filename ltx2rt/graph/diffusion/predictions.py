"""Between what the model predicts (velocity) and what samplers use (the denoised estimate)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype, round_to

# Clean estimates (B, T, C) of the video and the audio stream, None for an absent one.
Denoised = tuple[Float32Array | None, Float32Array | None]


def denoised_from_velocity(
    latent: Float32Array, velocity: Float32Array, timesteps: Float32Array, dtype: StateDtype = "float32"
) -> Float32Array:
    """``latent - velocity * t`` per token in float32, rounded to ``dtype``.

    Args:
        latent: (B, T, C) tokens the model saw.
        velocity: (B, T, C) its output.
        timesteps: (B, T) noise level of each token (``denoise_mask * sigma``).
        dtype: dtype of the latents.
    """
    return round_to(latent - velocity * timesteps[..., None], dtype)


def velocity_from_denoised(
    latent: Float32Array, denoised: Float32Array, sigma: float, dtype: StateDtype = "float32"
) -> Float32Array:
    """``(latent - denoised) / sigma`` in float32, rounded to ``dtype`` before anything uses it.

    Raises:
        ValueError: if ``sigma`` is 0.
    """
    if sigma == 0:
        raise ValueError("There is no velocity at sigma 0; the latent is already clean.")
    return round_to((latent - denoised) / np.float32(sigma), dtype)


def keep_clean(denoised: NDArray[Any], state: LatentState) -> NDArray[Any]:
    """``denoised*mask + clean*(1 - mask)``, in the precision of ``denoised`` (float32 or float64), not rounded.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/helpers.py (post_process_latent) @ v1.2.0.
    """
    mask = state.denoise_mask[..., None]
    return denoised * mask + state.clean_latent * (1 - mask)


def post_process(denoised: Float32Array, state: LatentState) -> Float32Array:
    """A prediction with its kept tokens put back, rounded to the dtype of the state."""
    return round_to(keep_clean(denoised, state), state.dtype)
