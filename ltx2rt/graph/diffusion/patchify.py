"""Between latent grids, channels last, and the token sequences of the transformer (patches of one cell)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.latent_geometry import AudioLatentShape, VideoLatentShape


def patchify_video(latent: NDArray[Any]) -> NDArray[Any]:
    """Video latent (B, F, H, W, C) -> tokens (B, F*H*W, C), width fastest.

    Raises:
        ValueError: if the latent does not have five axes.
    """
    if latent.ndim != 5:
        raise ValueError(f"A video latent must be (B, F, H, W, C), got shape {latent.shape}.")
    return latent.reshape(latent.shape[0], -1, latent.shape[-1])


def unpatchify_video(tokens: NDArray[Any], shape: VideoLatentShape) -> NDArray[Any]:
    """Tokens (B, T, C) -> video latent (B, F, H, W, C).

    Raises:
        ValueError: if the tokens are not exactly those of ``shape``.
    """
    expected = (shape.batch, shape.tokens, shape.channels)
    if tokens.shape != expected:
        raise ValueError(f"Tokens of a latent {shape.array_shape} must be {expected}, got shape {tokens.shape}.")
    return tokens.reshape(shape.array_shape)


def patchify_audio(latent: NDArray[Any]) -> NDArray[Any]:
    """Audio latent (B, L, mel, C) -> tokens (B, L, C*mel), feature = channel*mel_bins + mel.

    Raises:
        ValueError: if the latent does not have four axes.
    """
    if latent.ndim != 4:
        raise ValueError(f"An audio latent must be (B, L, mel, C), got shape {latent.shape}.")
    return np.ascontiguousarray(latent.swapaxes(2, 3)).reshape(latent.shape[0], latent.shape[1], -1)


def unpatchify_audio(tokens: NDArray[Any], shape: AudioLatentShape) -> NDArray[Any]:
    """Tokens (B, L, C*mel) -> audio latent (B, L, mel, C).

    Raises:
        ValueError: if the tokens are not exactly those of ``shape``.
    """
    expected = (shape.batch, shape.frames, shape.features)
    if tokens.shape != expected:
        raise ValueError(f"Tokens of this audio latent must be {expected}, got shape {tokens.shape}.")
    grid = tokens.reshape(shape.batch, shape.frames, shape.channels, shape.mel_bins)
    return np.ascontiguousarray(grid.swapaxes(2, 3))
