"""The diffusion video decoder's part of ``config.vae``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from ltx2rt.errors import CheckpointError

Size = tuple[int, int, int]

_STAGES = 5
_MOST_LAYERS = 1000
# What the published file states, and what holds where a file says nothing.
_CHANNELS = (2048, 1024, 512, 512, 256)
_DEPTHS = (4, 6, 4, 2, 8)
_WINDOWS = ((3, 7, 7), (3, 7, 7), (3, 5, 5), (3, 5, 5), (11, 11, 11))
_UPSAMPLES = (((1, 2, 2), 2), ((2, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2))


@dataclass(frozen=True)
class Upsampling:
    """A linear layer and a depth-to-space step: ``stride`` cells of ``channels`` for each cell."""

    stride: Size
    channels: int


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Five stages of attention within windows; an upsampling stands between two of them.

    The first four turn latents into the context of the last one, which takes noise to pixels.

    Attributes:
        latent_channels, pixel_channels: of a latent cell and of a pixel.
        patch_size: pixels along H and W that are one cell of the last stage.
        head_dim: channels of a head; all widths are multiples of it.
        channels, depths, windows: per stage its width, its blocks and the (F, H, W) of its windows.
        upsamplings: behind the first four stages.
        predicts: what the last stage gives: ``x0``, the frames, or ``v``, noise minus frames.
        steps: of the sampler.
        timestep_factor: timesteps are multiplied by it.
    """

    latent_channels: int
    pixel_channels: int
    patch_size: int
    head_dim: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    windows: tuple[Size, ...]
    upsamplings: tuple[Upsampling, ...]
    predicts: str
    steps: int
    timestep_factor: float

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> DiffusionDecoderConfig:
        """Read ``config["vae"]`` of a file whose class is CausalDiffusionVAE.

        Raises:
            CheckpointError: values that contradict each other, or that this code does not implement.

        Source: NADiffusionDecoder of Lightricks/LTX-2 ltx_core/model/video_vae @ v1.2.0.
        """
        own = section.get("decoder", {})
        if not isinstance(own, Mapping):
            raise CheckpointError(f"config.vae.decoder must be an object, got {type(own).__name__}.")
        kind = own.get("_class_name", "NADiffusionDecoder")
        if kind != "NADiffusionDecoder":
            raise CheckpointError(f"config.vae.decoder._class_name is {kind!r}; supported is NADiffusionDecoder.")
        resampler = own.get("resampler_kind", "linear")
        if resampler != "linear":
            raise CheckpointError(f"config.vae.decoder.resampler_kind is {resampler!r}; supported is linear.")
        predicts = section.get("model_output_type", own.get("model_output_type", "x0"))
        if predicts not in ("x0", "v"):
            raise CheckpointError(f"config.vae.model_output_type is {predicts!r}; supported are x0 and v.")
        head_dim = _whole(own, "head_dim", 64)
        if head_dim % 16:
            raise CheckpointError(f"config.vae.decoder.head_dim must be a multiple of 16, got {head_dim}.")
        channels = _stages(own, "stage_channels", _CHANNELS)
        for width in channels:
            if width % head_dim:
                raise CheckpointError(f"config.vae.decoder: {width} channels cannot be split into heads of {head_dim}.")
        depths = _stages(own, "stage_depths", _DEPTHS)
        if max(depths) > _MOST_LAYERS:
            raise CheckpointError(f"config.vae.decoder.stage_depths has {max(depths)} blocks; at most {_MOST_LAYERS}.")
        upsamplings = _upsamplings(own, channels)
        steps = _whole(own, "default_num_inference_steps", 1)
        factor = own.get("timestep_scale_multiplier", 1000.0)
        if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 0 < factor < 1e12:
            raise CheckpointError(f"config.vae.decoder.timestep_scale_multiplier must be positive, got {factor!r}.")
        return cls(
            latent_channels=_whole(own, "in_channels", 128),
            pixel_channels=_whole(own, "out_channels", 3),
            patch_size=_whole(own, "patch_size", 4),
            head_dim=head_dim,
            channels=channels,
            depths=depths,
            windows=_windows(own),
            upsamplings=upsamplings,
            predicts=predicts,
            steps=steps,
            timestep_factor=float(factor),
        )

    @property
    def patch_channels(self) -> int:
        """Values of a patch of pixels."""
        return self.pixel_channels * self.patch_size**2

    @property
    def factors(self) -> Size:
        """(frames, pixels, pixels) for a latent cell."""
        frames, height, width = self.strides_before(_STAGES - 1)
        return frames, height * self.patch_size, width * self.patch_size

    def strides_before(self, stage: int) -> Size:
        """Cells of ``stage`` for a latent cell along (F, H, W)."""
        before = [upsampling.stride for upsampling in self.upsamplings[:stage]]
        return (prod(s[0] for s in before), prod(s[1] for s in before), prod(s[2] for s in before))

    @property
    def smallest_latent(self) -> Size:
        """(f, h, w) of the smallest latent in whose grids every window fits."""
        least = [1, 1, 1]
        for stage, window in enumerate(self.windows):
            for axis, stride in enumerate(self.strides_before(stage)):
                least[axis] = max(least[axis], -(-window[axis] // stride))
        return least[0], least[1], least[2]

    @property
    def ghosts(self) -> int:
        """Latent frames that follow the last one as copies, so that it is no border."""
        return 2 * (self.windows[0][0] // 2)

    @property
    def tile_margins(self) -> Size:
        """Cells before the fourth stage over which tiles must overlap, so that each is right in its middle."""
        fourth, fifth = self.windows[-2:]
        stride = self.upsamplings[-1].stride
        margins = [
            max(self.depths[-2] * (near // 2), -(-self.depths[-1] * (far // 2) // step))
            for near, far, step in zip(fourth, fifth, stride, strict=True)
        ]
        return margins[0], margins[1], margins[2]

    @property
    def smallest_tile(self) -> Size:
        """Cells before the fourth stage of the smallest tile in which every window fits."""
        fourth, fifth = self.windows[-2:]
        stride = self.upsamplings[-1].stride
        sizes = [max(near, -(-far // step)) for near, far, step in zip(fourth, fifth, stride, strict=True)]
        return sizes[0], sizes[1], sizes[2]

    @property
    def tile_cell(self) -> Size:
        """(frames, pixels, pixels) of a cell before the fourth stage."""
        frames, height, width = self.upsamplings[-1].stride
        return frames, height * self.patch_size, width * self.patch_size

    @property
    def rope_lanes(self) -> Size:
        """Lanes of a head that turn with the position along F, H and W."""
        time = self.head_dim // 4 // 2 * 2
        side = (self.head_dim - time) // 2
        if side % 2:
            time -= 2
            side = (self.head_dim - time) // 2
        return time, side, side


def _windows(own: Mapping[str, Any]) -> tuple[Size, ...]:
    stated = own.get("stage_kernels", _WINDOWS)
    if not isinstance(stated, Sequence) or len(stated) not in (_STAGES - 1, _STAGES):
        raise CheckpointError(f"config.vae.decoder.stage_kernels must list {_STAGES} windows, got {stated!r}.")
    windows = [_size(window, "stage_kernels") for window in stated]
    last = own.get("stage5_kernel", stated[_STAGES - 1] if len(stated) == _STAGES else _WINDOWS[-1])
    return (*windows[: _STAGES - 1], _size(last, "stage5_kernel"))


def _upsamplings(own: Mapping[str, Any], channels: tuple[int, ...]) -> tuple[Upsampling, ...]:
    stated = own.get("upsamples", _UPSAMPLES)
    if not isinstance(stated, Sequence) or len(stated) != _STAGES - 1:
        raise CheckpointError(f"config.vae.decoder.upsamples must list {_STAGES - 1} steps, got {stated!r}.")
    result = []
    for entry, (before, after) in zip(stated, pairwise(channels), strict=True):
        if not isinstance(entry, Sequence) or len(entry) != 2 or not isinstance(entry[1], int):
            raise CheckpointError(f"config.vae.decoder.upsamples must list [stride, reduction], got {entry!r}.")
        stride = _size(entry[0], "upsamples")
        if any(step not in (1, 2) for step in stride):
            raise CheckpointError(f"config.vae.decoder.upsamples: strides are 1 or 2, got {list(stride)}.")
        if entry[1] < 1 or before != after * entry[1]:
            raise CheckpointError(
                f"config.vae.decoder.upsamples: {before} channels reduced by {entry[1]} are not the next {after}."
            )
        result.append(Upsampling(stride, after))
    return tuple(result)


def _stages(own: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    stated = own.get(key, default)
    if not isinstance(stated, Sequence) or len(stated) != _STAGES or not all(_is_whole(value) for value in stated):
        raise CheckpointError(f"config.vae.decoder.{key} must list {_STAGES} positive integers, got {stated!r}.")
    return tuple(stated)


def _size(value: Any, key: str) -> Size:
    if not isinstance(value, Sequence) or len(value) != 3 or not all(_is_whole(number) for number in value):
        raise CheckpointError(f"config.vae.decoder.{key} must hold three positive integers, got {value!r}.")
    return value[0], value[1], value[2]


def _whole(own: Mapping[str, Any], key: str, default: int) -> int:
    value = own.get(key, default)
    if not _is_whole(value):
        raise CheckpointError(f"config.vae.decoder.{key} must be a positive integer, got {value!r}.")
    number: int = value
    return number


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
