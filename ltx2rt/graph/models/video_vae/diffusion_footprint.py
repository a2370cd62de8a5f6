"""Predicts what the diffusion video decoder takes and computes, from its stages.

What is counted: MLX arrays besides the weights and the caller's latent, the numpy frames and noise, and the working
memory of the kernels.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ltx2rt.graph.models.layers.footprint import Footprint, largest
from ltx2rt.graph.models.video_vae.diffusion_blocks import AttentionBlock, stage_blocks, upsamplers
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size
from ltx2rt.graph.models.video_vae.diffusion_schedule import Canvas, needed_frames, stage_frames, stage_limit
from ltx2rt.graph.models.video_vae.diffusion_streams import ring_frames
from ltx2rt.graph.models.video_vae.diffusion_tiling import diffusion_plan, tile_cells
from ltx2rt.graph.models.video_vae.footprint import blended_frames
from ltx2rt.graph.models.video_vae.tiling import Interval, TilePlan, Tiling
from ltx2rt.kernels.working_memory import linear_bytes, neighborhood_bytes
from ltx2rt.types import FLOAT32_BYTES


class _Stage(NamedTuple):
    """A stage that runs frame by frame: bytes that stay between its pieces, and most that it takes while it works."""

    kept: int
    work: int
    kernels: int


def diffusion_decode_bytes(
    config: DiffusionDecoderConfig,
    latent: Size,
    itemsize: int,
    tiling: Tiling | None,
    push: int,
    *,
    keeps_keys: bool = True,
) -> Footprint:
    """Of `DiffusionVideoDecoder.stream_frames`.

    Args:
        config: of the decoder.
        latent: (f, h, w) cells.
        itemsize: bytes of an activation.
        tiling: as for the decoder.
        push: frames that the last stage works on at a time.
        keeps_keys: as for the decoder.
    """
    canvas = Canvas.of(config, latent)
    cells = tile_cells(config, canvas.size)
    last = len(config.channels) - 1
    counts = stage_frames(config, canvas.size[0] + config.ghosts)
    first = []
    for stage in range(last - 1):
        _, height, width = config.strides_before(stage)
        grid = (counts[stage], height * canvas.size[1], width * canvas.size[2])
        upsamples = tiling is None or stage < last - 2
        first.append(_stage(config, stage, grid, itemsize, push, keeps_keys, upsamples=upsamples))
    kept = prod(canvas.size) * config.latent_channels * itemsize + sum(stage.kept for stage in first)
    pixel = config.pixel_channels * FLOAT32_BYTES
    _, tall, wide = config.tile_cell
    plane = cells[1] * tall * cells[2] * wide * pixel  # a frame in numpy
    moments = []
    if tiling is None:
        part, fifth_frames = (counts[last - 1], cells[1], cells[2]), canvas.frames(config)
        # The consumer holds some frames while others are made.
        buffers = 2 * push * plane
    else:
        plan = diffusion_plan(config, canvas.size, tiling)
        part = _largest_tile(plan, counts[last - 1] - cells[0], cells[0])
        fifth_frames = max(_length(tile.target) for tile in plan.frames)
        buffers = plane * blended_frames(plan)
        # What the parts of one range of frames are made of is all there before the first is.
        kept += _coarser_bytes(config, canvas, part[0], itemsize)
        moments = [Footprint(kept + stage.work, stage.kernels, buffers) for stage in first]
        kept += prod(part) * config.channels[last - 1] * itemsize
        moments.append(Footprint(kept + _cutting_bytes(config, part, itemsize, push), 0, buffers))
        first = []
    stride = config.upsamplings[-1].stride
    grid = (fifth_frames, stride[1] * part[1], stride[2] * part[2])
    stages = [
        *first,
        _stage(config, last - 1, part, itemsize, push, keeps_keys),
        _stage(config, last, grid, itemsize, push, keeps_keys),
    ]
    kept += stages[-2].kept + stages[-1].kept
    kept += _context_frames(config, grid[0], push) * grid[1] * grid[2] * config.channels[last] * itemsize
    pixels = push * part[1] * tall * part[2] * wide * pixel
    moments += [Footprint(kept + stage.work, stage.kernels, buffers) for stage in stages]
    return largest(*moments, Footprint(kept + 2 * pixels, 0, buffers + 2 * pixels))


def keyframe_decode_bytes(
    config: DiffusionDecoderConfig, latent: Size, planes: int, itemsize: int, tiling: Tiling | None, push: int
) -> Footprint:
    """As `diffusion_decode_bytes`, of a decode that looks at ``planes`` key frames: block after block."""
    canvas = Canvas.of(config, latent)
    cells = tile_cells(config, canvas.size)
    last = len(config.channels) - 1
    counts = stage_frames(config, canvas.size[0] + config.ghosts)
    moments = []
    for stage in range(last - 1):
        _, height, width = config.strides_before(stage)
        grid = (counts[stage], height * canvas.size[1], width * canvas.size[2])
        upsamples = tiling is None or stage < last - 2
        moments += _joint_stage(config, stage, grid, planes, itemsize, push, upsamples=upsamples)
    pixel = config.pixel_channels * FLOAT32_BYTES
    _, tall, wide = config.tile_cell
    plane = cells[1] * tall * cells[2] * wide * pixel
    part, fifth_frames, buffers = (counts[last - 1], cells[1], cells[2]), canvas.frames(config), 2 * push * plane
    features = 0
    if tiling is not None:
        plan = diffusion_plan(config, canvas.size, tiling)
        part = _largest_tile(plan, counts[last - 1] - cells[0], cells[0])
        fifth_frames, buffers = max(_length(tile.target) for tile in plan.frames), plane * blended_frames(plan)
        features = _coarser_bytes(config, canvas, counts[last - 1], itemsize, planes)
        planes = min(planes, fifth_frames + 2)
        cut = (part[0] + planes) * part[1] * part[2] * config.channels[last - 1] * itemsize
        cutting = _cutting_bytes(config, part, itemsize, max(push, planes))
        moments.append(Footprint(features + cut + cutting, 0, buffers))
    moments += [
        Footprint(features + moment.activations, moment.working, buffers)
        for moment in _joint_stage(config, last - 1, part, planes, itemsize, push, upsamples=False)
    ]
    stride = config.upsamplings[-1].stride
    grid = (fifth_frames, stride[1] * part[1], stride[2] * part[2])
    fine = grid[1] * grid[2] * itemsize
    coarse = prod(part) * config.channels[last - 1] * itemsize + planes * fine * config.channels[last]
    patches = (fifth_frames + planes) * fine * config.patch_channels
    moments += [
        Footprint(features + coarse + patches + moment.activations, moment.working, buffers)
        for moment in _joint_stage(config, last, grid, planes, itemsize, push)
    ]
    # The patches before and after a step of the sampler, and what they are made from.
    width = (fifth_frames + planes) * fine * config.channels[last]
    moments.append(Footprint(features + coarse + 2 * patches + width, 0, buffers))
    return largest(*moments)


def diffusion_decode_flops(config: DiffusionDecoderConfig, latent: Size, planes: int = 0) -> float:
    """Operations of decoding latent cells (f, h, w) without tiles, with ``planes`` key frames."""
    canvas = Canvas.of(config, latent)
    needs = needed_frames(config, canvas, config.factors[0] * (latent[0] - 1) + 1)
    last = len(config.channels) - 1
    total = 2.0 * prod(canvas.size) * config.latent_channels * config.channels[0]
    for stage, frames in enumerate(needs):
        _, height, width = config.strides_before(stage)
        cells = (frames + planes) * height * canvas.size[1] * width * canvas.size[2]
        of_a_cell = sum(_block_flops(block) for block in stage_blocks(config, stage))
        if stage < last:
            total += cells * (of_a_cell + 2.0 * prod(upsamplers(config)[stage].specs()[0].shape))
        else:
            total += config.steps * cells * (of_a_cell + 4.0 * config.patch_channels * config.channels[last])
    return total


def _block_flops(block: AttentionBlock) -> float:
    """Of a cell."""
    matrices = sum(prod(spec.shape) for spec in block.specs() if spec.layout == "linear")
    return 2.0 * matrices + 4.0 * block.channels * prod(block.window)


def _stage(
    config: DiffusionDecoderConfig,
    stage: int,
    grid: Size,
    itemsize: int,
    push: int,
    keeps_keys: bool,
    *,
    upsamples: bool = True,
) -> _Stage:
    frames, height, width = grid
    cells = height * width
    plane = cells * config.channels[stage] * itemsize
    limit = stage_limit(config, stage, push)
    piece = min(limit, frames)
    blocks = stage_blocks(config, stage)
    block = blocks[0]
    window = block.window[0]
    lag = min(frames, window - 1 - window // 2)
    ring = ring_frames(window, frames, limit)
    repeats = config.steps if block.denoises else 1
    work = 4 * piece * plane
    every = repeats * len(blocks)
    if keeps_keys:
        # A frame waits before one block at a time.
        kept = (every * 2 * ring + min(every * lag, frames + piece)) * plane
    else:
        # What is left of a piece that does not end with the frames that windows look ahead is kept with it. While a
        # block works the frames of its windows are there once more, and normed, and their keys and values.
        kept = every * min(frames, window - 1 + (piece - 1 if lag % piece else 0)) * plane
        work = max(work, (3 * piece + 4 * ring) * plane)
    hidden = min(piece * cells, block.mlp_cells(itemsize))
    mlp = hidden * (2 * block.hidden + 2 * block.channels) * itemsize
    work = max(work, 2 * piece * plane + mlp)
    if not block.denoises:
        kept += piece * plane  # read ahead of the upsampling
    if not block.denoises and upsamples:
        step = config.upsamplings[stage]
        finer = prod(step.stride) * cells * step.channels * itemsize
        # The finer grid's cells before and after they are moved to their places.
        following = stage_limit(config, stage + 1, push) // step.stride[0] + 1
        work = max(work, 2 * min(following, frames) * finer)
        kept += finer
    kernels = max(
        neighborhood_bytes(
            (1, piece, height, width, block.channels),
            key_frames=ring,
            slots=window,
            heads=block.channels // block.head_dim,
            window=(block.window[1], block.window[2]),
            borders=("shift", "replicate" if block.denoises else "shift"),
            itemsize=itemsize,
        ),
        linear_bytes(piece * cells, block.channels, 3 * block.channels, itemsize),
        linear_bytes(hidden, block.channels, block.hidden, itemsize),
        linear_bytes(hidden, block.hidden, block.channels, itemsize),
    )
    return _Stage(kept, work, kernels)


def _joint_stage(
    config: DiffusionDecoderConfig,
    stage: int,
    grid: Size,
    planes: int,
    itemsize: int,
    push: int,
    *,
    upsamples: bool = True,
) -> list[Footprint]:
    """A block of a stage over the whole clip with its key frames, and the upsampling after it, of the key frames alone
    or (``upsamples``) of the clip, too."""
    frames, height, width = grid
    one = _stage(config, stage, grid, itemsize, push, keeps_keys=True)
    block = stage_blocks(config, stage)[0]
    plane = height * width * block.channels * itemsize
    ring = ring_frames(block.window[0], frames, stage_limit(config, stage, push))
    # The clip, of which frames before and after the block add up to one, and the key frames: before and after it, their
    # keys and values, and those of the frames that they see.
    held = (frames + stage_limit(config, stage, push)) * plane + planes * 4 * plane
    moments = [
        Footprint(held + (2 * ring + 2 * planes) * plane + one.work, one.kernels),
        Footprint(held + 2 * 3 * 2 * plane, one.kernels),
    ]
    if not block.denoises:
        step = config.upsamplings[stage]
        finer = prod(step.stride[1:]) * step.channels * height * width * itemsize
        clip = step.stride[0] * frames if upsamples else 0
        moments.append(Footprint(held + (clip + planes * (1 + step.stride[0])) * finer))
    return moments


def _coarser_bytes(config: DiffusionDecoderConfig, canvas: Canvas, frames: int, itemsize: int, planes: int = 0) -> int:
    """Of what so many frames before the fourth stage, and key frames, are upsampled from."""
    stage = len(config.channels) - 3
    _, height, width = config.strides_before(stage)
    cells = height * canvas.size[1] * width * canvas.size[2]
    coarser = frames // config.upsamplings[stage].stride[0] + 1
    return (coarser + planes) * cells * config.channels[stage] * itemsize


def _cutting_bytes(config: DiffusionDecoderConfig, part: Size, itemsize: int, push: int) -> int:
    """While some frames of a tile are upsampled: as they are made, in their places, and in memory of their own."""
    stage = len(config.channels) - 2
    growth = config.upsamplings[stage - 1].stride[0]
    frames = min(part[0], max(growth, stage_limit(config, stage, push)))
    return 3 * frames * part[1] * part[2] * config.channels[stage] * itemsize


def _largest_tile(plan: TilePlan, ghosts: int, cells: int) -> Size:
    """Cells of a tile along each axis; those that end the clip have ghost frames."""
    frames = max(_length(tile.source) + ghosts * (tile.source[1] == cells) for tile in plan.frames)
    height, width = (max(_length(tile.source) for tile in axis) for axis in (plan.height, plan.width))
    return frames, height, width


def _context_frames(config: DiffusionDecoderConfig, frames: int, push: int) -> int:
    """Frames of the context between the first and the last block that reads it."""
    window = config.windows[-1][0]
    return min(frames, config.steps * config.depths[-1] * (window - 1 - window // 2) + push + 1)


def _length(interval: Interval) -> int:
    return interval[1] - interval[0]
