"""The layers of the video VAE: each states the tensors it needs and maps one clip to the next.

Encoder and decoder are flat lists of these layers. Along time nothing but the 3x3x3 convolutions looks beyond its own
frame, and each of them one frame to either side (two back when causal): `streaming` keeps two frames of input per
convolution and runs the same list over successive ranges of frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.adaln import SINUSOID_WIDTH
from ltx2rt.graph.models.layers.group_norm import group_norm
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.video_vae.config import Block, Stride
from ltx2rt.graph.models.video_vae.layer import (
    FLOAT32,
    WHOLE,
    ClipShape,
    Layer,
    Share,
    convolution_kernel_bytes,
    folding_share,
    matrix_values,
)
from ltx2rt.graph.models.video_vae.streaming import (
    Context,
    ConvolutionStream,
    FoldingStream,
    FrameStream,
    FrameWiseStream,
    ResidualStream,
    UpsampleStream,
)
from ltx2rt.graph.models.video_vae.surroundings import Conditions, Neighbours
from ltx2rt.kernels import causal_conv3d, conv2d, rope_attention
from ltx2rt.kernels.working_memory import convolution_bytes
from ltx2rt.types import ParamSpec

PIXEL_NORM_EPS = 1e-8


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
class Convolution(Layer):
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
    stride: Stride = WHOLE
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

    def begun(self, x: mx.array) -> mx.array:
        """The first frames of a clip with what stands in front of them: nothing."""
        return x

    def fold(
        self, x: mx.array, params: Params, conditions: Conditions, neighbours: Neighbours | None = None
    ) -> mx.array:
        """Whole groups of frames -> one frame for each."""
        return self(x, params, conditions, neighbours)

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        if self.stride != WHOLE:
            return FoldingStream(source, self, context)
        return ConvolutionStream(source, self, context)

    def after(self, clip: ClipShape) -> ClipShape:
        return clip.folded(self.stride, self.out_channels)

    def flops(self, clip: ClipShape) -> float:
        # A strided convolution works on the cells it gives.
        after = self.after(clip)
        return 2.0 * matrix_values(self.specs()) * (after.frames * after.cells)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        return convolution_kernel_bytes(self.specs(), clip, itemsize, self.stride, activated=self.activated)

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        if self.stride != WHOLE:
            return folding_share(self, self.stride, clip, itemsize, limit)
        return super().share(clip, itemsize, limit)

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
class OutputConvolution(Layer):
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

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        return ConvolutionStream(source, self, context)

    def after(self, clip: ClipShape) -> ClipShape:
        return clip._replace(channels=self.out_channels, kept=0)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        return convolution_kernel_bytes(self.specs(), clip, itemsize, activated=True)


@dataclass(frozen=True)
class ResidualLayer(Layer):
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

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        if self.looks_at_whole_clip:
            raise UsageError(
                f"{self.path} normalises over the whole clip, so this model cannot run piece by piece; "
                "run it in one piece or in tiles."
            )
        return ResidualStream(source, self, context, size)

    def after(self, clip: ClipShape) -> ClipShape:
        return clip._replace(channels=self.out_channels, kept=0)

    def work(self, clip: ClipShape, itemsize: int) -> int:
        inner, out = clip.bytes(itemsize), self.after(clip).bytes(itemsize)
        noise = 2 * clip.bytes(FLOAT32) if self.inject_noise else 0
        shortcut = 2 * clip.bytes(FLOAT32) + inner + out if self.looks_at_whole_clip else 0
        return max(2 * out + noise, shortcut)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        return convolution_kernel_bytes(self.specs(), clip, itemsize, activated=True)

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        recent, piece = clip.recent(itemsize), clip.piece(limit)
        joined = min(piece.frames + 2, clip.frames) * clip.plane(itemsize)
        hidden = min(2, clip.frames) * self.after(piece).plane(itemsize)
        joining = piece.bytes(itemsize) + joined + recent
        work = max(joining, joined + self.work(piece, itemsize) + hidden)
        return Share(recent + hidden, work=work), limit if self.causal else max(limit, 2)

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
class Downsample(Layer):
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

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        return FoldingStream(source, self, context)

    def completed(self, clip: ClipShape) -> ClipShape:
        return clip._replace(frames=clip.frames + self.stride[0] - 1, kept=0) if self.stride[0] > 1 else clip

    def after(self, clip: ClipShape) -> ClipShape:
        return clip.folded(self.stride, self.out_channels)

    def work(self, clip: ClipShape, itemsize: int) -> int:
        out = self.after(clip).bytes(itemsize)
        mean = out // itemsize * FLOAT32
        # The groups are gone when their values are there as float32, and these are what the mean is made of.
        folding = clip.bytes(FLOAT32) + max(clip.bytes(itemsize), mean)
        return max(folding, mean + 3 * out + mean)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        return convolution_kernel_bytes(self.specs(), clip, itemsize)

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        return folding_share(self, self.stride, clip, itemsize, limit)

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
class Upsample(Layer):
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

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        return UpsampleStream(source, self, context)

    def after(self, clip: ClipShape) -> ClipShape:
        growth, height, width = self.stride
        # The first frame is dropped, but its place in the buffer remains.
        drop = growth - 1
        frames = clip.frames * growth - drop
        return ClipShape(frames, clip.height * height, clip.width * width, self.out_channels, drop)

    def work(self, clip: ClipShape, itemsize: int) -> int:
        # The convolution's result and its unfolding, then the sum and the unfolded input in place of the former.
        return 2 * self.after(clip).bytes(itemsize) + (clip.bytes(itemsize) if self.residual else 0)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        return convolution_kernel_bytes(self.specs(), clip, itemsize)

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        piece = clip.piece(limit)
        step = max(1, limit // self.stride[0])
        rest = piece.bytes(itemsize) if piece.frames > step else 0
        piece = clip.piece(step)
        joined = min(piece.frames + 2, clip.frames) * clip.plane(itemsize)
        work = rest + joined + self.work(piece, itemsize)
        return Share(clip.recent(itemsize), rest=rest, work=work), step * self.stride[0]

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
class FrameAttention(Layer):
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

    def stream(self, source: FrameStream, context: Context, size: tuple[int, int]) -> FrameStream:
        return FrameWiseStream(source, self, context)

    def after(self, clip: ClipShape) -> ClipShape:
        return clip

    def work(self, clip: ClipShape, itemsize: int) -> int:
        return 2 * clip.bytes(FLOAT32) + 8 * clip.bytes(itemsize)

    def kernel_bytes(self, clip: ClipShape, itemsize: int) -> int:
        # One frame after the other.
        frame = (1, clip.height, clip.width)
        matrices = [spec.shape for spec in self.specs() if spec.layout == "conv"]
        return max(
            convolution_bytes(frame, (out, 1, taps, more, channels), itemsize, batch=clip.frames)
            for out, channels, taps, more in matrices
        )

    def share(self, clip: ClipShape, itemsize: int, limit: int) -> tuple[Share, int]:
        piece = clip.piece(limit)
        return Share(work=piece.bytes(itemsize) + self.work(piece, itemsize)), limit

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
    return not any(layer.looks_at_whole_clip for layer in layers)
