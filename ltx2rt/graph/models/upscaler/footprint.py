"""Predicts the bytes and the arithmetic of the latent upscaler."""

from __future__ import annotations

from math import prod

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.kernels.working_memory import convolution_bytes
from ltx2rt.types import FLOAT32_BYTES, ParamSpec


def upscaler_footprint(config: upscaler.LatentUpscalerConfig, latent: tuple[int, int, int], itemsize: int) -> Footprint:
    """Of `LatentUpscaler` for latent cells (f, h, w)."""
    frames, height, width = config.upscaled(latent)
    picture = height * width * config.mid_channels
    # The block's input, a convolution's result, its norm frame by frame, and these joined or one in float32.
    whole = frames * picture * itemsize
    activations = max(4 * whole, 3 * whole + 3 * picture * FLOAT32_BYTES)
    if config.down > 1:
        finer = prod(latent) * prod(config.stride) * config.mid_channels
        # The finer latent that is blurred and thinned out: as the convolution gives it and in order, or beside a frame
        # of it in float32, for each of the taps.
        thinning = finer * itemsize + whole + 7 * (finer // frames) * FLOAT32_BYTES
        activations = max(activations, 2 * finer * itemsize, thinning)
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
