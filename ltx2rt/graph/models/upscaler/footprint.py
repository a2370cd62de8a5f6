"""Predicts the bytes and the arithmetic of the latent upscaler."""

from __future__ import annotations

from math import prod

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.kernels.working_memory import convolution_bytes
from ltx2rt.types import FLOAT32_BYTES, ParamSpec


def upscaler_footprint(config: upscaler.LatentUpscalerConfig, latent: tuple[int, int, int], itemsize: int) -> Footprint:
    """Of `LatentUpscaler` for latent cells (f, h, w)."""
    unit = prod(config.upscaled(latent)) * config.mid_channels
    # The block's input, a convolution's result, and the norm of it in float32 and as it goes on.
    activations = unit * (3 * itemsize + FLOAT32_BYTES)
    after = config.upscaled(latent)
    working = max(
        _convolution_bytes(spec, after if _follows_resampling(spec) else latent, itemsize)
        for spec in upscaler.param_specs(config)
        if spec.layout == "conv"
    )
    return Footprint(activations, working)


def _convolution_bytes(spec: ParamSpec, grid: tuple[int, int, int], itemsize: int) -> int:
    out, channels, *taps = spec.shape
    if len(taps) == 3:
        return convolution_bytes(grid, (out, taps[0], taps[1], taps[2], channels), itemsize)
    frames, height, width = grid  # one picture after the other
    return convolution_bytes((1, height, width), (out, 1, taps[0], taps[1], channels), itemsize, batch=frames)


def _follows_resampling(spec: ParamSpec) -> bool:
    return spec.name.startswith(("post_upsample", "final_conv"))


def upscaler_flops(config: upscaler.LatentUpscalerConfig, latent: tuple[int, int, int]) -> float:
    before, after = float(prod(latent)), float(prod(config.upscaled(latent)))
    total = 0.0
    for spec in upscaler.param_specs(config):
        if spec.layout == "conv":
            total += 2.0 * prod(spec.shape) * (after if _follows_resampling(spec) else before)
    return total
