"""Coordinates of tokens for the rotary embedding: start and end of each token in seconds and pixels."""

from __future__ import annotations

import numpy as np

from ltx2rt.graph.diffusion.latent_geometry import (
    AudioLatentShape,
    AudioScale,
    VideoLatentShape,
    VideoScale,
    check_frame_rate,
)
from ltx2rt.graph.diffusion.precision import Float32Array


def video_grid_bounds(shape: VideoLatentShape) -> Float32Array:
    """Bounds of each latent cell in latent units, (B, 3, T, 2) float32 as (frame, row, column) and (start, end)."""
    cells = np.indices((shape.frames, shape.height, shape.width), dtype=np.float32).reshape(3, -1)
    bounds = np.stack([cells, cells + 1], axis=-1)
    result: Float32Array = np.broadcast_to(bounds, (shape.batch, *bounds.shape)).copy()
    return result


def video_pixel_bounds(shape: VideoLatentShape, scale: VideoScale, *, causal: bool = True) -> Float32Array:
    """Bounds of each latent cell in frames and pixels, (B, 3, T, 2) float32.

    Args:
        shape: the latent grid.
        scale: frames and pixels per latent cell.
        causal: the first latent frame holds a single frame, so all others start ``scale.time - 1`` frames earlier.
    """
    bounds = video_grid_bounds(shape) * np.array([scale.time, scale.height, scale.width], np.float32)[:, None, None]
    if causal:
        bounds[:, 0] = np.maximum(bounds[:, 0] + np.float32(1 - scale.time), 0)
    return bounds


def video_positions(
    shape: VideoLatentShape, frame_rate: float, scale: VideoScale, *, causal: bool = True
) -> Float32Array:
    """Token coordinates of a video latent.

    Args:
        shape: the latent grid.
        frame_rate: frames per second; turns the time axis into seconds.
        scale: frames and pixels per latent cell.
        causal: see `video_pixel_bounds`.

    Returns:
        (B, 3, T, 2) float32: start and end of each token along (time s, y px, x px).

    Raises:
        UsageError: if ``frame_rate`` is not positive.

    Source: Lightricks/LTX-2 ltx_core/components/patchifiers.py, ltx_core/tools.py @ v1.2.0.
    """
    check_frame_rate(frame_rate)
    return frames_to_seconds(video_pixel_bounds(shape, scale, causal=causal), frame_rate)


def frames_to_seconds(bounds: Float32Array, frame_rate: float) -> Float32Array:
    """Pixel bounds (B, 3, T, 2) with the time axis divided by ``frame_rate``, in float32 (never bfloat16)."""
    positions: Float32Array = bounds.copy()
    positions[:, 0] /= np.float32(frame_rate)
    return positions


def audio_positions(shape: AudioLatentShape, scale: AudioScale) -> Float32Array:
    """Token coordinates of an audio latent, (B, 1, L, 2) float32 seconds; of the published audio VAE [0, 0.01),
    [0.01, 0.05), [0.05, 0.09) ...

    Source: Lightricks/LTX-2 ltx_core/components/patchifiers.py @ v1.2.0.
    """
    edges = np.arange(shape.frames + 1, dtype=np.float32) * np.float32(scale.time)
    mel_frames = np.maximum(edges + np.float32(1 - scale.time), 0)
    seconds = mel_frames * np.float32(scale.hop) / np.float32(scale.sample_rate)
    bounds = np.stack([seconds[:-1], seconds[1:]], axis=-1)
    result: Float32Array = np.broadcast_to(bounds, (shape.batch, 1, shape.frames, 2)).copy()
    return result
