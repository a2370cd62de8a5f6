"""The layers of the video VAE: each states the tensors it needs and maps one clip to the next.

Encoder and decoder are flat lists of these layers. Along time nothing but the 3x3x3 convolutions looks beyond its own
frame, and each of them one frame to either side (two back when causal): `streaming` keeps two frames of input per
convolution and runs the same list over successive ranges of frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.layers.adaln import SINUSOID_WIDTH
from ltx2rt.graph.models.layers.group_norm import group_norm
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.video_vae.config import Block, Stride
from ltx2rt.kernels import causal_conv3d, conv2d, rope_attention
from ltx2rt.types import ParamSpec

PIXEL_NORM_EPS = 1e-8

NoiseDraw = Callable[[tuple[int, ...]], "np.ndarray[Any, np.dtype[Any]]"]
"""Draws standard normal numbers of the given shape, float32; called in the order of the official code."""


@dataclass(frozen=True)
class Neighbours:
    """What a convolution sees around its input along time.

    Attributes:
        halo: (B, 1 or 2, H, W, C) frames before the input; None when it begins the clip.
        before: copies of the first frame in front of halo and input.
        after: copies of the last frame behind the input.
    """

    halo: mx.array | None
    before: int
    after: int

    @classmethod
    def of_clip(cls, causal: bool) -> Neighbours:
        """What surrounds a whole clip."""
        return cls(None, 2, 0) if causal else cls(None, 1, 1)


@dataclass(frozen=True)
class Conditions:
    """What a layer may need besides its input.

    Attributes:
        timestep: (B, 256) sinusoid of the scaled decode timestep, compute dtype; None without timestep conditioning.
        noise: source of the injected noise; None where no layer injects any.
    """

    timestep: mx.array | None = None
    noise: NoiseDraw | None = None


class Layer(Protocol):
    """One step of the encoder or decoder."""

    @property
    def path(self) -> str:
        """Name in the file below ``encoder.`` or ``decoder.``."""

    def specs(self) -> list[ParamSpec]:
        """The tensors the layer needs, named below ``encoder.`` or ``decoder.``."""

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        """(B, F, H, W, C) -> (B, F', H', W', C')."""


def time_embedder_specs(path: str, width: int) -> list[ParamSpec]:
    """Two linear layers 256 -> width -> width below ``path``."""
    inner = f"{path}.timestep_embedder"
    return [
        ParamSpec(f"{inner}.linear_1.weight", (width, SINUSOID_WIDTH), layout="linear"),
        ParamSpec(f"{inner}.linear_1.bias", (width,)),
        ParamSpec(f"{inner}.linear_2.weight", (width, width), layout="linear"),
        ParamSpec(f"{inner}.linear_2.bias", (width,)),
    ]


def scale_shift(params: Params, table: str, embedder: str, timestep: mx.array) -> list[mx.array]:
    """The rows of a scale/shift table (R, C) plus the timestep's embedding: R arrays (B, C) float32."""
    inner = params.at(f"{embedder}.timestep_embedder")
    embedded = linear(linear(timestep, inner.at("linear_1"), activation="silu"), inner.at("linear_2"))
    rows = params[table].astype(mx.float32)
    values = rows[None] + embedded.astype(mx.float32).reshape(-1, *rows.shape)
    return [values[:, row] for row in range(rows.shape[0])]


def space_to_depth(x: mx.array, stride: Stride) -> mx.array:
    """(B, F, H, W, C) -> (B, F/st, H/sh, W/sw, C*st*sh*sw), packed index c*P + it*(sh*sw) + ih*sw + iw."""
    batch, frames, height, width, channels = x.shape
    st, sh, sw = stride
    x = x.reshape(batch, frames // st, st, height // sh, sh, width // sw, sw, channels)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, frames // st, height // sh, width // sw, channels * st * sh * sw)


def depth_to_space(x: mx.array, stride: Stride) -> mx.array:
    """The inverse of `space_to_depth`."""
    batch, frames, height, width, packed = x.shape
    st, sh, sw = stride
    channels = packed // (st * sh * sw)
    x = x.reshape(batch, frames, height, width, channels, st, sh, sw)
    x = x.transpose(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, frames * st, height * sh, width * sw, channels)


def patchify_pixels(x: mx.array, size: int) -> mx.array:
    """(B, F, H, W, C) -> (B, F, H/p, W/p, C*p*p), packed index c*p*p + (width offset)*p + (height offset)."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames, height // size, size, width // size, size, channels)
    # The width offset is the slower index here, unlike in space_to_depth.
    x = x.transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(batch, frames, height // size, width // size, channels * size * size)


def unpatchify_pixels(x: mx.array, size: int) -> mx.array:
    """The inverse of `patchify_pixels`."""
    batch, frames, height, width, packed = x.shape
    channels = packed // (size * size)
    x = x.reshape(batch, frames, height, width, channels, size, size)
    x = x.transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(batch, frames, height * size, width * size, channels)


@dataclass(frozen=True)
class Convolution:
    """3x3x3 convolution: time padded by repeating border frames, space by ``padding_mode``.

    Attributes:
        path: the tensors are ``path.conv.weight`` and ``path.conv.bias``.
        causal: two frames of padding in front, else one on either side.
        padding_mode: the kernels' name of the spatial mode.
        activated: PixelNorm and SiLU come first.
    """

    path: str
    in_channels: int
    out_channels: int
    causal: bool
    padding_mode: str
    stride: Stride = (1, 1, 1)
    activated: bool = False

    def specs(self) -> list[ParamSpec]:
        return [
            ParamSpec(f"{self.path}.conv.weight", (self.out_channels, self.in_channels, 3, 3, 3), layout="conv"),
            ParamSpec(f"{self.path}.conv.bias", (self.out_channels,)),
        ]

    def __call__(
        self, x: mx.array, params: Params, conditions: Conditions, neighbours: Neighbours | None = None
    ) -> mx.array:
        return self.modulated(x, params, neighbours=neighbours)

    def modulated(
        self,
        x: mx.array,
        params: Params,
        *,
        scale: mx.array | None = None,
        shift: mx.array | None = None,
        residual: mx.array | None = None,
        neighbours: Neighbours | None = None,
    ) -> mx.array:
        """The convolution with an optional scale and shift (B, C) after its norm, and an optional residual.

        Without ``neighbours`` x is the whole clip.
        """
        own = params.at(f"{self.path}.conv")
        around = neighbours or Neighbours.of_clip(self.causal)
        return causal_conv3d(
            x,
            own["weight"],
            own["bias"],
            stride=self.stride,
            padding=((around.before, around.after), (1, 1), (1, 1)),
            padding_mode=("edge", self.padding_mode, self.padding_mode),
            pixel_norm_eps=PIXEL_NORM_EPS if self.activated else None,
            scale=scale,
            shift=shift,
            activation="silu" if self.activated else None,
            residual=residual,
            halo=around.halo,
        )


@dataclass(frozen=True)
class OutputConvolution:
    """The decoder's conv_out behind PixelNorm, the last timestep modulation where there is one, and SiLU."""

    path: str
    in_channels: int
    out_channels: int
    causal: bool
    padding_mode: str
    conditioned: bool

    def _convolution(self) -> Convolution:
        return Convolution(
            self.path, self.in_channels, self.out_channels, self.causal, self.padding_mode, activated=True
        )

    def specs(self) -> list[ParamSpec]:
        specs = self._convolution().specs()
        if self.conditioned:
            specs += [
                ParamSpec("timestep_scale_multiplier", ()),
                ParamSpec("last_scale_shift_table", (2, self.in_channels), dtype="F32"),
                *time_embedder_specs("last_time_embedder", 2 * self.in_channels),
            ]
        return specs

    def __call__(
        self, x: mx.array, params: Params, conditions: Conditions, neighbours: Neighbours | None = None
    ) -> mx.array:
        shift = scale = None
        if conditions.timestep is not None:
            shift, scale = scale_shift(params, "last_scale_shift_table", "last_time_embedder", conditions.timestep)
        return self._convolution().modulated(x, params, scale=scale, shift=shift, neighbours=neighbours)


@dataclass(frozen=True)
class ResidualLayer:
    """x + conv2(silu(norm(conv1(silu(norm(x)))))), with optional timestep modulation and injected noise.

    Attributes:
        path: of the layer (``up_blocks.0.res_blocks.1``).
        embedder: path of the timestep embedder that the layer's group shares; None without conditioning.
        first: the first layer of a group states the shared embedder's tensors.
        inject_noise: noise of shape (H, W), scaled per channel, is added after each convolution.
    """

    path: str
    in_channels: int
    out_channels: int
    causal: bool
    padding_mode: str
    embedder: str | None = None
    first: bool = True
    inject_noise: bool = False

    def _convolutions(self) -> tuple[Convolution, Convolution]:
        wide, causal, mode = self.out_channels, self.causal, self.padding_mode
        return (
            Convolution(f"{self.path}.conv1", self.in_channels, wide, causal, mode, activated=True),
            Convolution(f"{self.path}.conv2", wide, wide, causal, mode, activated=True),
        )

    def specs(self) -> list[ParamSpec]:
        first, second = self._convolutions()
        specs = [*first.specs(), *second.specs()]
        if self.embedder is not None:
            specs.append(ParamSpec(f"{self.path}.scale_shift_table", (4, self.in_channels), dtype="F32"))
            if self.first:
                specs += time_embedder_specs(self.embedder, 4 * self.in_channels)
        if self.inject_noise:
            specs += [ParamSpec(f"{self.path}.per_channel_scale{n}", (self.out_channels, 1, 1)) for n in (1, 2)]
        if self.in_channels != self.out_channels:
            specs += [
                ParamSpec(f"{self.path}.norm3.weight", (self.in_channels,)),
                ParamSpec(f"{self.path}.norm3.bias", (self.in_channels,)),
                ParamSpec(
                    f"{self.path}.conv_shortcut.weight", (self.out_channels, self.in_channels, 1, 1, 1), layout="conv"
                ),
                ParamSpec(f"{self.path}.conv_shortcut.bias", (self.out_channels,)),
            ]
        return specs

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        planes = self.draw_noise(conditions, (x.shape[2], x.shape[3]))
        hidden = self.inner(x, params, conditions, planes)
        return self.outer(hidden, self._shortcut(x, params), params, conditions, planes)

    @property
    def looks_at_whole_clip(self) -> bool:
        """Whether the shortcut normalises over all frames."""
        return self.in_channels != self.out_channels

    def draw_noise(self, conditions: Conditions, size: tuple[int, int]) -> tuple[mx.array, mx.array] | None:
        """The two planes (H, W, 1) that the layer adds, one draw each for all frames, channels and batch items."""
        if not self.inject_noise or conditions.noise is None:
            return None
        first, second = (mx.array(conditions.noise(size))[..., None] for _ in range(2))
        return first, second

    def inner(
        self,
        x: mx.array,
        params: Params,
        conditions: Conditions,
        planes: tuple[mx.array, mx.array] | None = None,
        neighbours: Neighbours | None = None,
    ) -> mx.array:
        """The first convolution and its noise."""
        shift, scale = self._modulation(params, conditions)[:2]
        out = self._convolutions()[0].modulated(x, params, scale=scale, shift=shift, neighbours=neighbours)
        return out if planes is None else self._noised(out, planes[0], params, 1)

    def outer(
        self,
        hidden: mx.array,
        residual: mx.array,
        params: Params,
        conditions: Conditions,
        planes: tuple[mx.array, mx.array] | None = None,
        neighbours: Neighbours | None = None,
    ) -> mx.array:
        """The second convolution, the residual and the second noise."""
        shift, scale = self._modulation(params, conditions)[2:]
        out = self._convolutions()[1].modulated(
            hidden, params, scale=scale, shift=shift, residual=residual, neighbours=neighbours
        )
        return out if planes is None else self._noised(out, planes[1], params, 2)

    def _modulation(self, params: Params, conditions: Conditions) -> list[mx.array] | list[None]:
        if self.embedder is None or conditions.timestep is None:
            return [None] * 4
        return scale_shift(params, f"{self.path}.scale_shift_table", self.embedder, conditions.timestep)

    def _shortcut(self, x: mx.array, params: Params) -> mx.array:
        if self.in_channels == self.out_channels:
            return x
        own = params.at(self.path)
        normed = group_norm(x, own["norm3.weight"], own["norm3.bias"], groups=1, eps=1e-6)
        return causal_conv3d(normed.astype(x.dtype), own["conv_shortcut.weight"], own["conv_shortcut.bias"])

    def _noised(self, x: mx.array, plane: mx.array, params: Params, number: int) -> mx.array:
        scale = params[f"{self.path}.per_channel_scale{number}"].astype(mx.float32).reshape(-1)
        return (x.astype(mx.float32) + plane.astype(mx.float32) * scale).astype(x.dtype)


@dataclass(frozen=True)
class Downsample:
    """Space-to-depth of a convolution, plus the mean over groups of channels of the space-to-depth of the input."""

    path: str
    in_channels: int
    out_channels: int
    stride: Stride
    causal: bool
    padding_mode: str

    def _convolution(self) -> Convolution:
        width = self.out_channels // math.prod(self.stride)
        return Convolution(f"{self.path}.conv", self.in_channels, width, self.causal, self.padding_mode)

    def specs(self) -> list[ParamSpec]:
        return self._convolution().specs()

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        return self.fold(self.begun(x), params, conditions)

    def begun(self, x: mx.array) -> mx.array:
        """The first frames of a clip with what stands in front of them.

        With stride 2 in time 1 + 2k frames become 2 + 2k: the first one stands alone in its pair.
        """
        return mx.concatenate([x[:, :1], x], axis=1) if self.stride[0] == 2 else x

    def fold(
        self, x: mx.array, params: Params, conditions: Conditions, neighbours: Neighbours | None = None
    ) -> mx.array:
        """Whole groups of frames -> one frame for each."""
        skip = space_to_depth(x, self.stride)
        skip = skip.reshape(*skip.shape[:4], self.out_channels, -1).astype(mx.float32).mean(axis=-1)
        mx.eval(skip)  # what it took is free before the convolution begins
        folded = space_to_depth(self._convolution()(x, params, conditions, neighbours), self.stride)
        return (folded.astype(mx.float32) + skip).astype(x.dtype)


@dataclass(frozen=True)
class Upsample:
    """Depth-to-space of a convolution; with stride 2 in time the first frame of the result is dropped.

    Attributes:
        residual: the depth-to-space of the input, its channels repeated as whole copies, is added.
    """

    path: str
    in_channels: int
    out_channels: int
    stride: Stride
    causal: bool
    padding_mode: str
    residual: bool = False

    def _convolution(self) -> Convolution:
        width = self.out_channels * math.prod(self.stride)
        return Convolution(f"{self.path}.conv", self.in_channels, width, self.causal, self.padding_mode)

    def specs(self) -> list[ParamSpec]:
        return self._convolution().specs()

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        return self.unfold(x, x, params, conditions, begins=True)

    def unfold(
        self,
        x: mx.array,
        residual: mx.array,
        params: Params,
        conditions: Conditions,
        neighbours: Neighbours | None = None,
        *,
        begins: bool,
    ) -> mx.array:
        """One group of frames for each frame.

        Args:
            x: what the convolution reads.
            residual: the frames of the input that its results belong to; read by a residual layer only.
            begins: the results begin the clip.
        """
        out = depth_to_space(self._convolution()(x, params, conditions, neighbours), self.stride)
        if self.residual:
            mx.eval(out)  # the convolution's result is free before the sum begins
            added = depth_to_space(residual, self.stride)
            copies = self.out_channels // added.shape[4]
            out = (out.reshape(*out.shape[:4], copies, -1) + added[..., None, :]).reshape(out.shape)
        return out[:, 1:] if begins and self.stride[0] == 2 else out


@dataclass(frozen=True)
class FrameAttention:
    """Single-head attention over the cells of each frame, added to the input."""

    path: str
    channels: int

    def specs(self) -> list[ParamSpec]:
        width = self.channels
        return [
            ParamSpec(f"{self.path}.norm.gamma", (width, 1, 1)),
            ParamSpec(f"{self.path}.to_qkv.weight", (3 * width, width, 1, 1), layout="conv"),
            ParamSpec(f"{self.path}.to_qkv.bias", (3 * width,)),
            ParamSpec(f"{self.path}.proj.weight", (width, width, 1, 1), layout="conv"),
            ParamSpec(f"{self.path}.proj.bias", (width,)),
        ]

    def __call__(self, x: mx.array, params: Params, conditions: Conditions) -> mx.array:
        own = params.at(self.path)
        batch, frames, height, width, channels = x.shape
        flat = x.reshape(batch * frames, height, width, channels)
        length = mx.sqrt(mx.sum(mx.square(flat.astype(mx.float32)), axis=-1, keepdims=True))
        gain = math.sqrt(channels) * own["norm.gamma"].astype(mx.float32).reshape(-1)
        normed = (flat.astype(mx.float32) / mx.maximum(length, 1e-12) * gain).astype(x.dtype)
        qkv = conv2d(normed, own["to_qkv.weight"], own["to_qkv.bias"])
        q, k, v = mx.split(qkv.reshape(batch * frames, height * width, 3 * channels), 3, axis=-1)
        mixed = rope_attention(q, k, v, num_heads=1).reshape(flat.shape)
        return conv2d(mixed, own["proj.weight"], own["proj.bias"], residual=flat).reshape(x.shape)


def block_layers(
    block: Block, *, causal: bool, padding_mode: str, timestep_conditioning: bool = False, upsample: bool = False
) -> list[Layer]:
    """The flat layers of one entry of a block list."""
    if block.kind == "attention":
        return [FrameAttention(block.path, block.in_channels)]
    if block.kind == "strided":
        return [Convolution(block.path, block.in_channels, block.out_channels, causal, padding_mode, block.stride)]
    if block.kind == "resample" and upsample:
        return [
            Upsample(
                block.path,
                block.in_channels,
                block.out_channels,
                block.stride,
                causal,
                padding_mode,
                residual=block.residual,
            )
        ]
    if block.kind == "resample":
        return [Downsample(block.path, block.in_channels, block.out_channels, block.stride, causal, padding_mode)]
    if block.num_layers == 0:
        return [ResidualLayer(block.path, block.in_channels, block.out_channels, causal, padding_mode)]
    embedder = f"{block.path}.time_embedder" if timestep_conditioning else None
    return [
        ResidualLayer(
            f"{block.path}.res_blocks.{index}",
            block.in_channels,
            block.out_channels,
            causal,
            padding_mode,
            embedder=embedder,
            first=index == 0,
            inject_noise=block.inject_noise,
        )
        for index in range(block.num_layers)
    ]


def can_stream(layers: Sequence[Layer]) -> bool:
    """Whether the layers can run piece by piece."""
    return not any(isinstance(layer, ResidualLayer) and layer.looks_at_whole_clip for layer in layers)
