"""The tiny decoder of latents that previews are made with: small, fast, and less sharp than the video VAE's.

Source: madebyollin/taehv taehv.py (MIT): ``taeltx_2`` and ``taeltx2_3`` @ 1f14a56, ``taeltx2_3_wide`` @ 32ac014.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.kernels import conv2d
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array, ParamSpec

# Frames that a latent frame becomes, and how many of the first ones belong to the time before the clip.
FRAMES_PER_LATENT = 8
_EARLY_FRAMES = FRAMES_PER_LATENT - 1
_PATCH = 4
_RGB = 3
# Of a wide block: channels of a group in its 3x3 convolutions.
_GROUP = 64
# Where the layers stand in the file: blocks, the convolution that doubles the frames, and the one after it.
_LEVELS = (((3, 4, 5), 7, 8), ((9, 10, 11), 13, 14), ((15, 16, 17), 19, 20))
_FIRST, _LAST = 1, 22
_SAME = ((1, 1), (1, 1))


@dataclass(frozen=True)
class PreviewDecoderConfig:
    """What the tensors of a file tell.

    Attributes:
        latent_channels: of a cell of the latent.
        widths: channels of the three levels, and at the end.
        is_wide: the blocks have four convolutions, two of them 1x1 and two in groups.
    """

    latent_channels: int
    widths: tuple[int, int, int, int]
    is_wide: bool

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> PreviewDecoderConfig | None:
        """The configuration of a file by the shapes of its tensors; None: it is no such decoder of LTX-2."""
        first = shapes.get(f"decoder.{_FIRST}.weight", ())
        ends = [shapes.get(f"decoder.{index}.weight", ()) for _, _, index in _LEVELS]
        if len(first) != 4 or any(len(shape) != 4 for shape in ends):
            return None
        widths = (first[0], ends[0][0], ends[1][0], ends[2][0])
        return cls(first[1], widths, f"decoder.{_LEVELS[0][0][0]}.conv.6.weight" in shapes)


class PreviewDecoder:
    """The decoder without its weights.

    Args:
        config: of its file.
    """

    def __init__(self, config: PreviewDecoderConfig) -> None:
        self.config = config

    def specs(self) -> list[ParamSpec]:
        """Its tensors."""
        widths = self.config.widths
        found = [*_conv(f"decoder.{_FIRST}", widths[0], self.config.latent_channels, 3, bias=True)]
        for (blocks, grow, after), width, following in zip(_LEVELS, widths[:3], widths[1:], strict=True):
            for block in blocks:
                found += self._block_specs(f"decoder.{block}.conv", width)
            found += _conv(f"decoder.{grow}.conv", 2 * width, width, 1, bias=False)
            found += _conv(f"decoder.{after}", following, width, 3, bias=False)
        return [*found, *_conv(f"decoder.{_LAST}", _RGB * _PATCH**2, widths[3], 3, bias=True)]

    def _block_specs(self, name: str, width: int) -> list[ParamSpec]:
        if not self.config.is_wide:
            inner = [*_conv(f"{name}.2", width, width, 3, bias=True), *_conv(f"{name}.4", width, width, 3, bias=True)]
            return [*_conv(f"{name}.0", width, 2 * width, 3, bias=True), *inner]
        group = min(width, _GROUP)
        return [
            *_conv(f"{name}.0", width, 2 * width, 1, bias=True),
            *_conv(f"{name}.2", width, group, 3, bias=True),
            *_conv(f"{name}.4", width, width, 1, bias=True),
            *_conv(f"{name}.6", width, group, 3, bias=True),
        ]

    def footprint(self, height: int, width: int, itemsize: int) -> Footprint:
        """Of decoding a latent of ``height`` x ``width`` cells, one latent frame at a time."""
        cells, most = height * width, 0
        for level, channels in enumerate(self.config.widths[:3]):
            here = cells * 8**level
            # The input, the one before and both together, a value inside the block; what the level hands on.
            most = max(
                most, 5 * here * channels, here * channels + 8 * here * (channels + self.config.widths[level + 1])
            )
        kept = sum(3 * cells * 4**level * channels for level, channels in enumerate(self.config.widths[:3]))
        pixels = FRAMES_PER_LATENT * cells * 32**2 * _RGB
        return Footprint(activations=(most + kept + pixels) * itemsize, host=2 * pixels * 4)

    def frames(self, params: Params, dtype: mx.Dtype, latent: Array) -> Iterator[Array]:
        """Chunks of float32 (F, H, W, 3) in [0, 1], one for each latent frame: one frame first, then eight each.

        Args:
            params: the tensors of `specs`.
            dtype: of activations.
            latent: (f, h, w, C), normalised.
        """
        memory: dict[int, mx.array] = {}
        at = params.at("decoder")
        for index in range(latent.shape[0]):
            cell = mx.array(latent[index : index + 1]).astype(dtype)
            x = conv2d(mx.tanh(cell / 3) * 3, at["1.weight"], at["1.bias"], padding=_SAME)
            x = mx.maximum(x, 0)
            for blocks, grow, after in _LEVELS:
                for block in blocks:
                    x = self._block(at.at(f"{block}.conv"), x, memory, block)
                # The 1x1 convolution and the repetition of pixels commute: this order is four times cheaper.
                x = _in_time(conv2d(x, at[f"{grow}.conv.weight"]))
                x = conv2d(_doubled(x), at[f"{after}.weight"], padding=_SAME)
                mx.eval(x)
            x = conv2d(mx.maximum(x, 0), at[f"{_LAST}.weight"], at[f"{_LAST}.bias"], padding=_SAME)
            pixels = to_numpy(_shuffled(x).astype(mx.float32)).clip(0, 1)
            yield pixels[_EARLY_FRAMES:] if index == 0 else pixels

    def _block(self, params: Params, x: mx.array, memory: dict[int, mx.array], key: int) -> mx.array:
        """A residual block that sees the frame before each, which ``memory`` keeps from call to call."""
        before = memory.get(key, mx.zeros_like(x[:1]))
        memory[key] = x[-1:]
        y = mx.concatenate([x, mx.concatenate([before, x[:-1]])], axis=-1)
        if self.config.is_wide:
            y = conv2d(y, params["0.weight"], params["0.bias"])
            y = _grouped(mx.maximum(y, 0), params.at("2"))
            y = conv2d(mx.maximum(y, 0), params["4.weight"], params["4.bias"])
            y = _grouped(mx.maximum(y, 0), params.at("6"))
            return mx.maximum(y + x, 0)
        y = conv2d(y, params["0.weight"], params["0.bias"], padding=_SAME)
        y = conv2d(mx.maximum(y, 0), params["2.weight"], params["2.bias"], padding=_SAME)
        y = conv2d(mx.maximum(y, 0), params["4.weight"], params["4.bias"], padding=_SAME, residual=x)
        return mx.maximum(y, 0)


def _conv(name: str, out: int, channels: int, side: int, *, bias: bool) -> list[ParamSpec]:
    weight = ParamSpec(f"{name}.weight", (out, channels, side, side), "F16", "conv")
    return [weight, ParamSpec(f"{name}.bias", (out,), "F16")] if bias else [weight]


def _grouped(x: mx.array, params: Params) -> mx.array:
    """A 3x3 convolution within groups of channels."""
    weight, bias = params["weight"], params["bias"]
    groups = x.shape[-1] // weight.shape[-1]
    parts = zip(mx.split(x, groups, -1), mx.split(weight, groups), mx.split(bias, groups), strict=True)
    return mx.concatenate([conv2d(part, w, b, padding=_SAME) for part, w, b in parts], axis=-1)


def _in_time(x: mx.array) -> mx.array:
    """(T, H, W, 2 C) -> (2 T, H, W, C): the halves of the channels are frames that follow each other."""
    frames, height, width, channels = x.shape
    halves = x.reshape(frames, height, width, 2, channels // 2).transpose(0, 3, 1, 2, 4)
    return halves.reshape(2 * frames, height, width, channels // 2)


def _doubled(x: mx.array) -> mx.array:
    """Every pixel four times."""
    return mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)


def _shuffled(x: mx.array) -> mx.array:
    """(T, H, W, 3 * 4 * 4) -> (T, 4 H, 4 W, 3): channels are a patch of pixels, colour by colour."""
    frames, height, width, _ = x.shape
    patches = x.reshape(frames, height, width, _RGB, _PATCH, _PATCH).transpose(0, 1, 4, 2, 5, 3)
    return patches.reshape(frames, height * _PATCH, width * _PATCH, _RGB)
