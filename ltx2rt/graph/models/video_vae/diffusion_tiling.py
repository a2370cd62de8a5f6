"""Tiles of the diffusion video decoder: its last two stages run on parts of the grid that enters them."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae.diffusion_blocks import upsamplers
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size
from ltx2rt.graph.models.video_vae.diffusion_schedule import Canvas, stage_frames
from ltx2rt.graph.models.video_vae.tiling import (
    AxisTile,
    AxisTiling,
    Tile,
    TileCount,
    TilePlan,
    TileSize,
    Tiling,
    split_axis,
)
from ltx2rt.graph.tile_splits import LatentInterval, trapezoid

_AXES = ("temporal", "height", "width")


def tile_cells(config: DiffusionDecoderConfig, latent: Size) -> Size:
    """Cells (f, h, w) before the fourth stage of a latent, without ghost frames."""
    frames, height, width = config.strides_before(len(config.channels) - 2)
    return (latent[0] - 1) * frames + 1, latent[1] * height, latent[2] * width


def diffusion_plan(config: DiffusionDecoderConfig, latent: Size, tiling: Tiling) -> TilePlan:
    """Tiles of a decode: sources on the grid before the fourth stage, targets and masks on the pixel grid.

    Args:
        config: of the decoder.
        latent: (f, h, w) as it is decoded, the smallest one at least.
        tiling: sizes in frames and pixels.

    Raises:
        UsageError: sizes that do not lie on the grid, or overlaps so short that a seam could be seen.

    Source: Lightricks/LTX-2 ltx_core/model/video_vae/diffusion_video_decoder.py @ v1.2.0.
    """
    cells = tile_cells(config, latent)
    coarse = config.strides_before(len(config.channels) - 2)
    split = [
        _split(length, axis_tiling, axis, config, coarse)
        for axis, (length, axis_tiling) in enumerate(
            zip(cells, (tiling.frames, tiling.height, tiling.width), strict=True)
        )
    ]
    growth, tall, wide = config.tile_cell

    def temporal(interval: LatentInterval) -> AxisTile:
        # The first cell of the clip is growth - 1 frames shorter than the others.
        start = growth * interval.start - (growth - 1 if interval.start else 0)
        stop = growth * interval.stop - (growth - 1)
        mask = trapezoid(stop - start, growth * interval.left, growth * interval.right)
        return AxisTile((interval.start, interval.stop), (start, stop), mask)

    def spatial(interval: LatentInterval, cell: int) -> AxisTile:
        start, stop = cell * interval.start, cell * interval.stop
        mask = trapezoid(stop - start, cell * interval.left, cell * interval.right)
        return AxisTile((interval.start, interval.stop), (start, stop), mask)

    return TilePlan(
        shape=(growth * cells[0] - (growth - 1), tall * cells[1], wide * cells[2]),
        frames=tuple(temporal(interval) for interval in split[0]),
        height=tuple(spatial(interval, tall) for interval in split[1]),
        width=tuple(spatial(interval, wide) for interval in split[2]),
    )


def noised_frames(config: DiffusionDecoderConfig, canvas: Canvas, tile: Tile) -> int:
    """Frames of the noise that a tile starts from: those it gives, and at the clip's end as many as a window needs."""
    stage = len(config.channels) - 2
    start, stop = tile.frames.source
    length = tile.frames.target[1] - tile.frames.target[0]
    if stop < tile_cells(config, canvas.size)[0]:
        return length
    entering = stage_frames(config, canvas.size[0] + config.ghosts)[stage] - start
    growth = upsamplers(config)[stage].step.stride[0]
    reached = entering * growth - (growth - 1 if start == 0 else 0)
    return max(length, min(config.windows[-1][0], reached))


def _split(
    length: int, tiling: AxisTiling, axis: int, config: DiffusionDecoderConfig, coarse: Size
) -> list[LatentInterval]:
    cell, margin, smallest = config.tile_cell[axis], config.tile_margins[axis], config.smallest_tile[axis]
    if isinstance(tiling, TileCount):
        tiling = replace(tiling, overlap=tiling.overlap * coarse[axis])  # it is stated in latent cells
        if tiling.count > 1 and tiling.overlap < margin:
            raise UsageError(
                f"{_AXES[axis]} tiles of the diffusion video decoder must overlap by at least "
                f"{-(-margin // coarse[axis])} latent cells, got {tiling.overlap // coarse[axis]}."
            )
    elif isinstance(tiling, TileSize) and tiling.overlap < margin * cell:
        raise UsageError(
            f"{_AXES[axis]} tile overlap must be at least {margin * cell} for the diffusion video decoder, got "
            f"{tiling.overlap}."
        )
    intervals = split_axis(length, tiling, cell, _AXES[axis])
    last = intervals[-1]
    grown = min(smallest, length) - (last.stop - last.start)
    if grown > 0:
        intervals[-1] = replace(last, start=last.start - grown, left=last.left + grown)
    return intervals
