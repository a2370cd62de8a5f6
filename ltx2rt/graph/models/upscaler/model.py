"""Latent upscalers: twice or 1.5 times the cells in space, twice the frames in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import mlx.core as mx

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.layers.group_norm import group_norm
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import Stride
from ltx2rt.graph.models.video_vae.layers import depth_to_space
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics
from ltx2rt.kernels import causal_conv3d, conv2d
from ltx2rt.types import ParamSpec

GROUPS = 32
GROUP_NORM_EPS = 1e-5
# Supported factors as (times up by pixel shuffle, times down by blurred decimation).
_RATIONAL_SCALES = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}
_BLUR_TAPS = (1.0, 4.0, 6.0, 4.0, 1.0)


@dataclass(frozen=True)
class LatentUpscalerConfig:
    """The ``config`` of an upscaler file.

    Attributes:
        in_channels: latent channels.
        mid_channels: width inside.
        num_blocks_per_stage: residual blocks before and after the resampling.
        kind: ``spatial``, ``rational`` (spatial by ``up / down``), ``temporal`` or ``spatiotemporal``.
        up, down: spatial factors of the rational resampler; (2, 1) otherwise.
    """

    in_channels: int
    mid_channels: int
    num_blocks_per_stage: int
    kind: Literal["spatial", "rational", "temporal", "spatiotemporal"]
    up: int = 2
    down: int = 1

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> LatentUpscalerConfig:
        """Read an official upscaler config; missing keys take the official code's defaults.

        Raises:
            CheckpointError: for another class, two-dimensional convolutions, an unsupported scale, or no axis at all.

        Source: Lightricks/LTX-2 ltx_core/model/upsampler/{model_configurator,model}.py @ v1.2.0.
        """
        name = section.get("_class_name", "LatentUpsampler")
        if name != "LatentUpsampler":
            raise CheckpointError(f"config is of class {name!r}, not LatentUpsampler; give an upscaler file.")
        if section.get("dims", 3) != 3:
            raise CheckpointError(f"upscaler config: dims is {section['dims']!r}; only 3 is supported.")
        numbers: dict[str, int] = {}
        for key, default in (("in_channels", 128), ("mid_channels", 512), ("num_blocks_per_stage", 4)):
            value = section.get(key, default)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(f"upscaler config: {key} must be a positive integer, got {value!r}.")
            numbers[key] = value
        if numbers["mid_channels"] % GROUPS:
            raise CheckpointError(
                f"upscaler config: mid_channels must be a multiple of {GROUPS}, got {numbers['mid_channels']}."
            )
        spatial, temporal = bool(section.get("spatial_upsample", True)), bool(section.get("temporal_upsample", False))
        if not spatial and not temporal:
            raise CheckpointError("upscaler config: neither spatial_upsample nor temporal_upsample is set.")
        if temporal:
            return cls(**numbers, kind="spatiotemporal" if spatial else "temporal")
        if not section.get("rational_resampler", False):
            return cls(**numbers, kind="spatial")
        scale = section.get("spatial_scale", 2.0)
        if scale not in _RATIONAL_SCALES:
            raise CheckpointError(
                f"upscaler config: spatial_scale is {scale!r}; supported are {sorted(_RATIONAL_SCALES)}."
            )
        up, down = _RATIONAL_SCALES[scale]
        return cls(**numbers, kind="rational", up=up, down=down)

    @property
    def stride(self) -> Stride:
        """Cells per cell that the pixel shuffle makes along (f, h, w)."""
        frames = 2 if self.kind in ("temporal", "spatiotemporal") else 1
        side = 1 if self.kind == "temporal" else self.up
        return frames, side, side

    def upscaled(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """Latent grid (f, h, w) of the result."""
        frames, height, width = (cells * factor for cells, factor in zip(grid, self.stride, strict=True))
        return frames - (self.stride[0] - 1), -(-height // self.down), -(-width // self.down)


def param_specs(config: LatentUpscalerConfig) -> list[ParamSpec]:
    """Tensors of an upscaler file (no prefix)."""
    mid, latent = config.mid_channels, config.in_channels

    def convolution(name: str, out: int, channels: int, rank: int = 3) -> list[ParamSpec]:
        kernel = (3,) * rank
        return [ParamSpec(f"{name}.weight", (out, channels, *kernel), layout="conv"), ParamSpec(f"{name}.bias", (out,))]

    def norm(name: str) -> list[ParamSpec]:
        return [ParamSpec(f"{name}.weight", (mid,)), ParamSpec(f"{name}.bias", (mid,))]

    specs = [*convolution("initial_conv", mid, latent), *norm("initial_norm")]
    for stage in ("res_blocks", "post_upsample_res_blocks"):
        for index in range(config.num_blocks_per_stage):
            for number in (1, 2):
                specs += convolution(f"{stage}.{index}.conv{number}", mid, mid)
                specs += norm(f"{stage}.{index}.norm{number}")
    per_frame = config.kind in ("spatial", "rational")
    specs += convolution(_resampler(config), prod(config.stride) * mid, mid, 2 if per_frame else 3)
    if config.kind == "rational":
        # Always the same binomial filter, so that nothing depends on it being stored.
        specs.append(ParamSpec("upsampler.blur_down.kernel", (1, 1, 5, 5), optional=True))
    return [*specs, *convolution("final_conv", latent, mid)]


def _resampler(config: LatentUpscalerConfig) -> str:
    return "upsampler.conv" if config.kind == "rational" else "upsampler.0"


class LatentUpscaler:
    """Upsamples video latents.

    Args:
        config: of the upscaler file.
        params: view of the component ``upscaler``.
        dtype: of the activations and the result; group norm statistics are float32.

    Source: LatentUpsampler of Lightricks/LTX-2 ltx_core/model/upsampler/model.py @ v1.2.0.
    """

    def __init__(self, config: LatentUpscalerConfig, params: Params, dtype: mx.Dtype = mx.bfloat16) -> None:
        self.config = config
        self._params = params
        self._dtype = dtype

    def upscale(self, latent: mx.array, statistics: LatentStatistics) -> mx.array:
        """Upsample a normalised latent: the network works on the VAE's own scale.

        Args:
            latent: (B, f, h, w, in_channels) normalised.
            statistics: of the video VAE that the latent belongs to.

        Returns:
            (B, *config.upscaled((f, h, w)), in_channels) normalised.
        """
        return statistics.normalise(self(statistics.un_normalise(latent)))

    def __call__(self, latent: mx.array) -> mx.array:
        """Upsample an un-normalised latent (B, f, h, w, in_channels).

        Raises:
            UsageError: for a shape that does not fit.
        """
        channels = self.config.in_channels
        if latent.ndim != 5 or latent.shape[4] != channels or min(latent.shape) < 1:
            raise UsageError(f"latent must be (B, f, h, w, {channels}), got {latent.shape}.")
        x = _convolve(latent.astype(self._dtype), self._params.at("initial_conv"))
        x = _norm_and_activate(x, self._params.at("initial_norm"))
        for index in range(self.config.num_blocks_per_stage):
            x = _residual_block(x, self._params.at(f"res_blocks.{index}"))
        x = self._resample(x)
        for index in range(self.config.num_blocks_per_stage):
            x = _residual_block(x, self._params.at(f"post_upsample_res_blocks.{index}"))
        return _convolve(x, self._params.at("final_conv"))

    def _resample(self, x: mx.array) -> mx.array:
        params = self._params.at(_resampler(self.config))
        if self.config.kind in ("spatial", "rational"):
            batch, frames, height, width, channels = x.shape
            flat = x.reshape(batch * frames, height, width, channels)
            shuffled = conv2d(flat, params["weight"], params["bias"], padding=((1, 1), (1, 1)))
            x = shuffled.reshape(batch, frames, height, width, -1)
            del flat, shuffled
        else:
            x = _convolve(x, params)
        mx.eval(x)
        x = depth_to_space(x, self.config.stride)
        if self.config.stride[0] == 2:
            # The first latent frame stands for a single pixel frame and must not be doubled.
            x = mx.contiguous(x[:, 1:])  # not a view, of which each convolution would make a copy
        mx.eval(x)
        if self.config.down == 1:
            return x
        thinned = [_blur_down(x[:, frame : frame + 1], self.config.down) for frame in range(x.shape[1])]
        return mx.concatenate(thinned, axis=1)


def _convolve(x: mx.array, params: Params) -> mx.array:
    """3x3x3 convolution with zeros around every axis, time included."""
    one = (1, 1)
    return causal_conv3d(
        x, params["weight"], params["bias"], padding=(one, one, one), padding_mode=("zeros", "zeros", "zeros")
    )


def _norm_and_activate(x: mx.array, params: Params, residual: mx.array | None = None) -> mx.array:
    """Group norm, plus ``residual``, then SiLU, in the dtype of x."""

    def finish(y: mx.array, picture: slice) -> mx.array:
        return _silu(y if residual is None else y + residual[:, picture].astype(mx.float32)).astype(x.dtype)

    return group_norm(x, params["weight"], params["bias"], groups=GROUPS, eps=GROUP_NORM_EPS, finish=finish)


def _silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _residual_block(x: mx.array, params: Params) -> mx.array:
    out = _convolve(_norm_and_activate(_convolve(x, params.at("conv1")), params.at("norm1")), params.at("conv2"))
    # The activation follows the sum.
    return _norm_and_activate(out, params.at("norm2"), residual=x)


def _blur_down(x: mx.array, factor: int) -> mx.array:
    """5x5 binomial blur per channel with zeros around the frame, keeping every ``factor``-th cell of both axes."""
    out = x.astype(mx.float32)
    for axis in (2, 3):
        size = -(-out.shape[axis] // factor)
        widths = [(2, 2) if a == axis else (0, 0) for a in range(5)]
        padded = mx.pad(out, widths)
        positions = factor * mx.arange(size)
        out = mx.zeros((), dtype=mx.float32)
        for offset, tap in enumerate(_BLUR_TAPS):
            out = out + (tap / sum(_BLUR_TAPS)) * mx.take(padded, positions + offset, axis=axis)
    out = out.astype(x.dtype)
    mx.eval(out)
    return out
