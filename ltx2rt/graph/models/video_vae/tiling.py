"""Tiled VAE decoding and encoding: tile plans, blend masks, and the loops that run and blend the tiles.

Source: Lightricks/LTX-2 ltx_core/tiling.py and ltx_core/model/video_vae/{video_vae,conv_video_decoder}.py @ v1.2.0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.tile_splits import LatentInterval, split_by_count, split_by_size, trapezoid
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array

Interval = tuple[int, int]
FrameGrid = tuple[int, int, int]

MIN_ENCODE_OVERLAP_PX = 64
MIN_ENCODE_OVERLAP_FRAMES = 16
_LONG_SIDE_PX, _OVERLAP_PX = 768, 64
_TILE_FRAMES, _OVERLAP_FRAMES = 80, 24


@dataclass(frozen=True)
class TileSize:
    """Tiles of a given size along one axis; both numbers in pixels (height, width) or frames (time)."""

    tile: int
    overlap: int


@dataclass(frozen=True)
class TileCount:
    """A given number of tiles along one axis; the overlap is in latent cells."""

    count: int
    overlap: int = 0


AxisTiling = TileSize | TileCount | None


@dataclass(frozen=True)
class Tiling:
    """How a clip is cut, per axis; None leaves an axis whole."""

    frames: AxisTiling = None
    height: AxisTiling = None
    width: AxisTiling = None

    @classmethod
    def auto(cls, height: int, width: int, spatial_factor: int) -> Tiling:
        """What the official pipelines choose: 768/64 pixels on the long side, the short side in proportion.

        Args:
            height, width: of the clip in pixels.
            spatial_factor: pixels per latent cell.
        """
        if min(height, width) < spatial_factor:
            raise UsageError(f"height and width must be at least {spatial_factor}, got {height}x{width}.")
        long_cells = max(height, width) // spatial_factor
        smallest = max(2, _OVERLAP_PX // spatial_factor + 1)

        def side(length: int) -> TileSize:
            share = round(_LONG_SIDE_PX // spatial_factor * (length // spatial_factor) / long_cells)
            return TileSize(spatial_factor * max(smallest, share), _OVERLAP_PX)

        return cls(TileSize(_TILE_FRAMES, _OVERLAP_FRAMES), side(height), side(width))

    @classmethod
    def default(cls) -> Tiling:
        """What the official code encodes in where nothing else is chosen: 768/64 pixels, 80/24 frames."""
        return cls.of(spatial=(_LONG_SIDE_PX, _OVERLAP_PX), temporal=(_TILE_FRAMES, _OVERLAP_FRAMES))

    @classmethod
    def of(cls, *, spatial: Interval | None = None, temporal: Interval | None = None) -> Tiling:
        """From (tile, overlap) pairs, the spatial one for both axes: ``Tiling.of(spatial=(64, 32))``."""
        side = TileSize(*spatial) if spatial is not None else None
        return cls(TileSize(*temporal) if temporal is not None else None, side, side)


def described_tiles(tiling: Tiling | None) -> str:
    """For people: tile and overlap of every axis that is cut."""
    if tiling is None:
        return "none"
    axes = {"frames": tiling.frames, "height": tiling.height, "width": tiling.width}
    return ", ".join(
        f"{axis} {size.tile}/{size.overlap}" if isinstance(size, TileSize) else f"{axis} in {size.count}"
        for axis, size in axes.items()
        if size is not None
    )


@dataclass(frozen=True)
class AxisTile:
    """One tile along one axis: [start, stop) of the input and of the output, and the output's blend mask."""

    source: Interval
    target: Interval
    mask: Array


@dataclass(frozen=True)
class Tile:
    """One tile of a plan."""

    frames: AxisTile
    height: AxisTile
    width: AxisTile


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a clip, as the cross product of three axes.

    Attributes:
        shape: (frames, height, width) of the output.
        frames, height, width: the tiles along each axis, in order.
    """

    shape: FrameGrid
    frames: tuple[AxisTile, ...]
    height: tuple[AxisTile, ...]
    width: tuple[AxisTile, ...]

    @property
    def tiles(self) -> list[Tile]:
        """All tiles, time slowest, width fastest."""
        return [Tile(f, h, w) for f in self.frames for h in self.height for w in self.width]

    @property
    def chunk_frames(self) -> list[int]:
        """Frames that become final with each temporal group; 0 where the next group starts at the same frame."""
        starts = [tile.target[0] for tile in self.frames] + [self.shape[0]]
        return [stop - start for start, stop in pairwise(starts)]

    def weights(self) -> tuple[Array, Array, Array] | None:
        """Per axis the sum of the masks, float32; None when each of them is 1 everywhere within 1e-5."""
        sums = []
        for length, tiles in zip(self.shape, (self.frames, self.height, self.width), strict=True):
            total = np.zeros(length, np.float32)
            for tile in tiles:
                total[tile.target[0] : tile.target[1]] += tile.mask
            sums.append(total)
        if all(np.allclose(total, 1.0, rtol=0.0, atol=1e-5) for total in sums):
            return None
        return sums[0], sums[1], sums[2]


def split_axis(length: int, tiling: AxisTiling, factor: int, axis: str) -> list[LatentInterval]:
    """Cut ``length`` latent cells.

    Args:
        length: latent cells along the axis.
        tiling: how; None is one interval.
        factor: pixels or frames per cell.
        axis: its name, for messages.

    Raises:
        UsageError: for sizes that do not lie on the latent grid, or overlaps that leave no progress.
    """
    if tiling is None:
        return [LatentInterval(0, length)]
    if isinstance(tiling, TileCount):
        return split_by_count(length, tiling.count, tiling.overlap, axis)
    tile, overlap = tiling.tile, tiling.overlap
    if tile < 2 * factor or tile % factor:
        raise UsageError(f"{axis} tile must be a multiple of {factor}, at least {2 * factor}, got {tile}.")
    if overlap < 0 or overlap % factor or overlap >= tile:
        raise UsageError(
            f"{axis} tile overlap must be a multiple of {factor} from 0 to {tile - factor}, got {overlap}."
        )
    return split_by_size(length, tile // factor, overlap // factor)


def _causal(intervals: list[LatentInterval]) -> list[LatentInterval]:
    """Every tile but the first starts one latent frame earlier: its first frame decodes to a single pixel frame."""
    return intervals[:1] + [LatentInterval(i.start - 1, i.stop, i.left + 1, i.right) for i in intervals[1:]]


def _pixel_frames(interval: LatentInterval, factor: int) -> Interval:
    return interval.start * factor, 1 + (interval.stop - 1) * factor


def decode_plan(latent: FrameGrid, tiling: Tiling, *, temporal_factor: int, spatial_factor: int) -> TilePlan:
    """Tiles of a decode: sources on the latent grid (f, h, w), targets and masks on the pixel grid."""
    frames, height, width = _split(latent, tiling, temporal_factor, spatial_factor)

    def temporal(interval: LatentInterval) -> AxisTile:
        target = _pixel_frames(interval, temporal_factor)
        left = 1 + (interval.left - 1) * temporal_factor if interval.left else 0
        mask = trapezoid(target[1] - target[0], left, interval.right * temporal_factor, left_from_zero=True)
        return AxisTile((interval.start, interval.stop), target, mask)

    def spatial(interval: LatentInterval) -> AxisTile:
        target = (interval.start * spatial_factor, interval.stop * spatial_factor)
        mask = trapezoid(target[1] - target[0], interval.left * spatial_factor, interval.right * spatial_factor)
        return AxisTile((interval.start, interval.stop), target, mask)

    return TilePlan(
        shape=((latent[0] - 1) * temporal_factor + 1, latent[1] * spatial_factor, latent[2] * spatial_factor),
        frames=tuple(temporal(interval) for interval in frames),
        height=tuple(spatial(interval) for interval in height),
        width=tuple(spatial(interval) for interval in width),
    )


def encode_plan(pixels: FrameGrid, tiling: Tiling, *, temporal_factor: int, spatial_factor: int) -> TilePlan:
    """Tiles of an encode: sources on the pixel grid (F, H, W), targets and masks on the latent grid.

    Raises:
        UsageError: also for overlaps too short to hide the tiles' borders.
    """
    for axis, minimum, size in (
        ("temporal", MIN_ENCODE_OVERLAP_FRAMES, tiling.frames),
        ("height", MIN_ENCODE_OVERLAP_PX, tiling.height),
        ("width", MIN_ENCODE_OVERLAP_PX, tiling.width),
    ):
        if isinstance(size, TileSize) and size.overlap < minimum:
            raise UsageError(f"{axis} tile overlap must be at least {minimum} for encoding, got {size.overlap}.")
    latent = ((pixels[0] - 1) // temporal_factor + 1, pixels[1] // spatial_factor, pixels[2] // spatial_factor)
    frames, height, width = _split(latent, tiling, temporal_factor, spatial_factor)

    def tile(interval: LatentInterval, source: Interval, left_from_zero: bool) -> AxisTile:
        mask = trapezoid(interval.stop - interval.start, interval.left, interval.right, left_from_zero=left_from_zero)
        return AxisTile(source, (interval.start, interval.stop), mask)

    def spatial(interval: LatentInterval) -> AxisTile:
        return tile(interval, (interval.start * spatial_factor, interval.stop * spatial_factor), False)

    return TilePlan(
        shape=latent,
        frames=tuple(tile(interval, _pixel_frames(interval, temporal_factor), True) for interval in frames),
        height=tuple(spatial(interval) for interval in height),
        width=tuple(spatial(interval) for interval in width),
    )


def _split(
    latent: FrameGrid, tiling: Tiling, temporal_factor: int, spatial_factor: int
) -> tuple[list[LatentInterval], list[LatentInterval], list[LatentInterval]]:
    return (
        _causal(split_axis(latent[0], tiling.frames, temporal_factor, "temporal")),
        split_axis(latent[1], tiling.height, spatial_factor, "height"),
        split_axis(latent[2], tiling.width, spatial_factor, "width"),
    )


def decode_tiled(
    decode: Callable[[mx.array], mx.array], latent: mx.array, plan: TilePlan, channels: int = 3
) -> Iterator[Array]:
    """Decode tile by tile and blend.

    Args:
        decode: maps a latent (1, f, h, w, C) to frames (1, F, H, W, 3).
        latent: (1, f, h, w, C).
        plan: made by `decode_plan` for this latent's grid.
        channels: of a pixel.

    Yields:
        As `blend_tiles`.
    """

    def frames(tile: Tile) -> Iterator[Array]:
        yield to_host(decode(_cut(latent, tile)))[0]

    return blend_tiles(frames, plan, channels)


def blend_tiles(decode: Callable[[Tile], Iterator[Array]], plan: TilePlan, channels: int = 3) -> Iterator[Array]:
    """Blend tiles that are decoded one after the other.

    The tiles of one temporal group are added up in float32, frame by frame; what the next group does not touch is final
    and leaves at once, one frame at a time, the rest is carried over. So at most the frames of one group exist.

    Args:
        decode: the frames of a tile, as chunks (n, H, W, 3) float32 which may be changed.
        plan: of the tiles.
        channels: of a pixel.

    Yields:
        (1, H, W, 3) float32 in the decoder's range, in order, owned by the consumer.
    """
    weights = plan.weights()
    held: deque[Array] = deque()
    for group, final_frames in zip(plan.frames, plan.chunk_frames, strict=True):
        start, stop = group.target
        held.extend(np.zeros((1, *plan.shape[1:], channels), np.float32) for _ in range(stop - start - len(held)))
        for height in plan.height:
            for width in plan.width:
                rows, columns, done = slice(*height.target), slice(*width.target), 0
                for chunk in decode(Tile(group, height, width)):
                    after = done + len(chunk)
                    _weigh(chunk, group.mask[done:after], height.mask, width.mask)
                    for place, part in enumerate(chunk, done):
                        held[place][0, rows, columns] += part
                    done = after
                    del chunk
        for place in range(start, start + final_frames):
            frame = held.popleft()
            if weights is not None:
                _unweigh(frame, (weights[0][place : place + 1], *weights[1:]))
            yield frame
            del frame


def blend_streams(
    stream: Callable[[mx.array], Iterator[Array]], latent: mx.array, plan: TilePlan, channels: int = 3
) -> Iterator[Array]:
    """`decode_tiled` for tiles of height and width that are decoded side by side, a few frames of each at a time.

    Args:
        stream: maps a latent (1, f, h, w, C) to its frames, as chunks (n, H, W, 3) of the same n for every tile.
        latent: (1, f, h, w, C).
        plan: made by `decode_plan` for this latent's grid, with one tile in time.
        channels: of a pixel.

    Yields:
        As `decode_tiled`, the same bits.
    """
    weights = plan.weights()
    tiles = plan.tiles
    streams = [stream(_cut(latent, tile)) for tile in tiles]
    start = 0
    for first in streams[0]:
        stop = start + first.shape[0]
        buffer = np.zeros((stop - start, *plan.shape[1:], channels), np.float32)
        for tile, chunks in zip(tiles, streams, strict=True):
            values = first if chunks is streams[0] else next(chunks)
            _weigh(values, tile.frames.mask[start:stop], tile.height.mask, tile.width.mask)
            buffer[:, slice(*tile.height.target), slice(*tile.width.target)] += values
            del values
        del first
        if weights is not None:
            _unweigh(buffer, (weights[0][start:stop], *weights[1:]))
        start = stop
        yield buffer
        del buffer


def encode_tiled(
    encode: Callable[[mx.array], mx.array], frames: mx.array | Array, plan: TilePlan, channels: int = 128
) -> mx.array:
    """Encode tile by tile and blend on the latent grid.

    Args:
        encode: maps frames (B, F, H, W, 3) to a latent (B, f, h, w, C).
        frames: (B, F, H, W, 3); may stay in numpy, only one tile at a time is handed on.
        plan: made by `encode_plan` for these frames' grid.
        channels: of a latent cell.

    Returns:
        (B, f, h, w, C) float32.
    """
    blended = np.zeros((frames.shape[0], *plan.shape, channels), np.float32)
    for tile in plan.tiles:
        latent = to_host(encode(mx.array(_cut(frames, tile))))
        _weigh(latent, tile.frames.mask, tile.height.mask, tile.width.mask)
        blended[:, slice(*tile.frames.target), slice(*tile.height.target), slice(*tile.width.target)] += latent
    return _normalised(blended, plan)


def encode_tiled_stream(
    encode: Callable[[Iterator[mx.array]], mx.array],
    frames: Iterator[mx.array],
    plan: TilePlan,
    channels: int = 128,
) -> mx.array:
    """`encode_tiled` for a clip that is read once, frame by frame: only frames of one temporal group are held.

    Args:
        encode: maps frames (H, W, 3) of a tile, which it takes one by one, to a latent (1, f, h, w, C).
        frames: (H, W, 3) each, at least as many as the plan wants.
        plan: made by `encode_plan` for these frames' grid.
        channels: of a latent cell.

    Returns:
        (1, f, h, w, C) float32.
    """
    blended = np.zeros((1, *plan.shape, channels), np.float32)
    held: list[mx.array] = []
    first = 0  # the place of the first frame that is held
    for group in plan.frames:
        start, stop = group.source
        del held[: start - first]
        first = start
        held += islice(frames, stop - start - len(held))
        for height in plan.height:
            for width in plan.width:
                rows, columns = slice(*height.source), slice(*width.source)
                latent = to_host(encode(frame[rows, columns] for frame in held))
                _weigh(latent, group.mask, height.mask, width.mask)
                blended[:, slice(*group.target), slice(*height.target), slice(*width.target)] += latent
    return _normalised(blended, plan)


def _normalised(blended: Array, plan: TilePlan) -> mx.array:
    """A blended latent (B, f, h, w, C), divided by what the masks add up to."""
    weights = plan.weights()
    if weights is not None:
        along_f, along_h, along_w = weights
        volume = along_f[:, None, None] * along_h[:, None] * along_w
        blended /= np.maximum(volume, np.float32(1e-8))[..., None]
    return mx.array(blended)


def to_host(x: mx.array) -> Array:
    """Evaluate and copy to a float32 numpy array that the caller may change."""
    return to_numpy(x.astype(mx.float32))


def _cut(x: Any, tile: Tile) -> Any:
    return x[:, slice(*tile.frames.source), slice(*tile.height.source), slice(*tile.width.source)]


def _unweigh(values: Array, weights: tuple[Array, Array, Array]) -> None:
    """Divide (F, H, W, C) by the product of the three sums of masks, in place."""
    for frame, weight in zip(values, weights[0], strict=True):
        plane = np.float32(weight) * weights[1][:, None] * weights[2][None]
        frame /= np.maximum(plane, np.float32(1e-8))[..., None]


def _weigh(values: Array, frames: Array, height: Array, width: Array) -> None:
    """Multiply (..., F, H, W, C) by the product of the three masks, in place."""
    values *= frames[:, None, None, None]
    values *= height[:, None, None]
    values *= width[:, None]
