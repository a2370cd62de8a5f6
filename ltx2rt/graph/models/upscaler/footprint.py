"""Predicts the bytes and the arithmetic of the latent upscaler."""

from __future__ import annotations

from math import prod

from ltx2rt.graph.models.layers.footprint import Footprint, largest_convolution
from ltx2rt.graph.models.upscaler import model as upscaler

_FLOAT32 = 4


def upscaler_footprint(config: upscaler.LatentUpscalerConfig, latent: tuple[int, int, int], itemsize: int) -> Footprint:
    """Of `LatentUpscaler` for latent cells (f, h, w)."""
    unit = prod(config.upscaled(latent)) * config.mid_channels
    # The block's input, a convolution's result, and the norm of it in float32 and as it goes on.
    activations = unit * (3 * itemsize + _FLOAT32)
    return Footprint(activations, largest_convolution(upscaler.param_specs(config), itemsize, unit))


def upscaler_flops(config: upscaler.LatentUpscalerConfig, latent: tuple[int, int, int]) -> float:
    before, after = float(prod(latent)), float(prod(config.upscaled(latent)))
    total = 0.0
    for spec in upscaler.param_specs(config):
        if spec.layout == "conv":
            late = spec.name.startswith(("post_upsample", "final_conv"))
            total += 2.0 * prod(spec.shape) * (after if late else before)
    return total
