"""Predicts the activation bytes of decoding and encoding video, from the list of layers.

What is counted: MLX arrays besides the weights and the caller's own latent or frames, the numpy frames that the
decoder makes, and the working memory of the convolutions. MLX's cache of free buffers and the weights are the
caller's to add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layer import FLOAT32, ClipShape, Layer
from ltx2rt.graph.models.video_vae.tiling import FrameGrid, Tile, TilePlan, Tiling, decode_plan, encode_plan


@dataclass(frozen=True)
class ActivationBytes:
    """Peaks in bytes.

    Attributes:
        arrays: of the MLX arrays: what ``mx.get_peak_memory`` shows beyond the weights.
        footprint: at the moment that takes most of everything, which need not be that of the arrays.
    """

    arrays: int
    footprint: Footprint


class _Moment(NamedTuple):
    """Bytes of MLX arrays, numpy arrays and buffers inside kernels that are there at one time."""

    arrays: float
    host: float = 0.0
    working: int = 0

    @property
    def total(self) -> float:
        return self.arrays + self.host + self.working


def _peaks(moments: Sequence[_Moment]) -> ActivationBytes:
    most = max(moments, key=lambda moment: moment.total)
    footprint = Footprint(int(most.arrays), most.working, int(most.host))
    return ActivationBytes(int(max(moment.arrays for moment in moments)), footprint)


def decode_bytes(
    config: VideoVaeConfig,
    latent: FrameGrid,
    itemsize: int = 2,
    tiling: Tiling | None = None,
    frames_per_push: int | None = None,
) -> ActivationBytes:
    """Of `VideoDecoder.decode_frames`, or with ``frames_per_push`` of `VideoDecoder.stream_frames`.

    Args:
        config: of the whole VAE.
        latent: (f, h, w) cells.
        itemsize: bytes of an activation.
        tiling: as for the decoder.
        frames_per_push: None: not streamed.

    Raises:
        CheckpointError: no convolutional decoder.
        UsageError: a tiling that does not fit.
    """
    decoder = config.require_decoder()
    layers = decoder_layers(decoder)
    plan = decode_plan(
        latent,
        tiling or Tiling(),
        temporal_factor=config.temporal_factor,
        spatial_factor=config.spatial_factor,
    )
    pixel = decoder.pixel_channels * FLOAT32
    plane = plan.shape[1] * plan.shape[2] * pixel  # a frame as numpy keeps it

    def start(tile: Tile) -> ClipShape:
        return ClipShape(*_source(tile), decoder.latent_channels)

    if frames_per_push is not None:
        clips = [start(tile) for tile in plan.tiles]
        return _streamed_decode(clips, layers, itemsize, frames_per_push, plane, config.spatial_factor**2 * pixel)
    buffers = 0.0
    if tiling is not None:
        buffers = plane * blended_frames(plan)
    moments = []
    for tile in plan.tiles:
        run, out = _whole(start(tile), layers, itemsize)
        moments += [moment._replace(host=buffers) for moment in run]
        tile_plane = _length(tile.height.target) * _length(tile.width.target) * pixel
        moments += _to_pixels(out, itemsize, out.frames * tile_plane, buffers)
    return _peaks(moments)


def encode_bytes(
    config: VideoVaeConfig,
    frames: FrameGrid,
    itemsize: int = 2,
    tiling: Tiling | None = None,
    frames_per_push: int | None = None,
) -> ActivationBytes:
    """Of `VideoEncoder.encode_frames`, or with ``frames_per_push`` of `VideoEncoder.encode_stream` and, with tiles, of
    `VideoEncoder.encode_tiles`.

    Args:
        config: of the whole VAE.
        frames: (F, H, W) pixels; F is 1 + k * temporal_factor.
        itemsize: bytes of an activation.
        tiling: as for the encoder.
        frames_per_push: None: not streamed.

    Raises:
        CheckpointError: no encoder.
        UsageError: a tiling that does not fit.
    """
    encoder = config.require_encoder()
    layers = encoder_layers(encoder)
    factors = {"temporal_factor": config.temporal_factor, "spatial_factor": config.spatial_factor}
    plan = encode_plan(frames, tiling or Tiling(), **factors)
    patched = encoder.pixel_channels * encoder.patch_size**2

    def start(tile: Tile) -> ClipShape:
        count, height, width = _source(tile)
        return ClipShape(count, height // encoder.patch_size, width // encoder.patch_size, patched)

    blended = prod(plan.shape) * config.latent_channels * FLOAT32 if tiling is not None else 0
    if frames_per_push is not None:
        moments = []
        for tile in plan.tiles:
            moments += _streamed_encode(config, layers, start(tile), itemsize, frames_per_push)
        held = 0
        if tiling is not None:
            most = max(_length(group.source) for group in plan.frames)
            held = most * prod(frames[1:]) * encoder.pixel_channels * itemsize
        return _peaks([_Moment(held + m.arrays, blended + m.host, m.working) for m in moments])
    moments = []
    for tile in plan.tiles:
        clip = start(tile)
        run, _ = _whole(clip, layers, itemsize)
        # The frames as float32 and in the activations' dtype, and then patchified.
        given = clip.bytes(itemsize) + clip.bytes(FLOAT32)
        moments += [_Moment(given, blended), *(moment._replace(host=blended) for moment in run)]
    return _peaks(moments)


def _streamed_encode(
    config: VideoVaeConfig, layers: Sequence[Layer], clip: ClipShape, itemsize: int, limit: int
) -> list[_Moment]:
    """Of `VideoEncoder.encode_stream` for a patchified clip."""
    streamed = _streamed(clip, layers, itemsize, limit, _kept_before_the_end(clip, layers, itemsize, limit))
    if clip.frames == 1:
        return [_Moment(clip.bytes(itemsize) + m.arrays, working=m.working) for m in streamed.moments]
    # Frames come in groups. While the last piece of one is read, the next one is there too, and before it is put
    # together of its frames.
    group = config.temporal_factor * clip.plane(itemsize)
    reading = layers[0].share(clip, itemsize, limit)[0].work
    moments = [_Moment(group + m.arrays, working=m.working) for m in streamed.moments]
    return [*moments, _Moment(streamed.kept + 2 * group + max(reading, group))]


def _length(interval: tuple[int, int]) -> int:
    return interval[1] - interval[0]


def _source(tile: Tile) -> FrameGrid:
    """Frames, height and width that a tile reads."""
    return _length(tile.frames.source), _length(tile.height.source), _length(tile.width.source)


def blended_frames(plan: TilePlan) -> int:
    """Frames of `blend_tiles` that there are in numpy: those of a group, and one that has left it with its copy."""
    return max(_length(tile.target) for tile in plan.frames) + 2


def _to_pixels(out: ClipShape, itemsize: int, pixels: int, host: float) -> list[_Moment]:
    """conv_out's result, unpatchified, as float32, and then in numpy (``pixels`` bytes)."""
    cast = pixels if itemsize != FLOAT32 else 0
    return [_Moment(2 * out.bytes(itemsize) + cast, host), _Moment(pixels, host + pixels)]


def _whole(clip: ClipShape, layers: Sequence[Layer], itemsize: int) -> tuple[list[_Moment], ClipShape]:
    """The moments of running the layers one after the other, and the result."""
    moments = []
    for layer in layers:
        held = clip.bytes(itemsize)
        completed = layer.completed(clip)
        if completed.frames > clip.frames:  # in a copy
            held += completed.bytes(itemsize)
        clip = completed._replace(kept=0)
        moments.append(_Moment(held + layer.work(clip, itemsize), working=layer.kernel_bytes(clip, itemsize)))
        clip = layer.after(clip)
    return moments, clip


class _Streamed(NamedTuple):
    """A streamed run: bytes kept between pieces, those while each layer works, the longest piece of the result, and
    whether that is all of it."""

    kept: int
    moments: list[_Moment]
    result: ClipShape
    at_once: bool


def _kept_before_the_end(clip: ClipShape, layers: Sequence[Layer], itemsize: int, limit: int) -> list[int]:
    """Bytes that each layer of the encoder keeps before the last piece of a clip comes to it.

    One that makes one frame of two hands on whole pieces alone: of short clips the last layers see nothing until then.
    """
    found, seen = [], max(0, clip.frames - limit)
    for layer in layers:
        found.append(layer.share(clip._replace(frames=seen), itemsize, limit)[0].recent)
        after = layer.after(layer.completed(clip))
        if after.frames < clip.frames:
            seen = (seen + 1) // 2 // limit * limit
        clip = after
    return found


def _streamed(
    clip: ClipShape, layers: Sequence[Layer], itemsize: int, limit: int, earlier: Sequence[int] | None = None
) -> _Streamed:
    """``earlier``: bytes that each layer keeps while the last piece is worked on before it; None: all that it will.

    While a layer works on a clip that comes to it as one piece, later ones keep nothing yet.
    """
    shares, working, at_once = [], [], []
    for layer in layers:
        at_once.append(clip.frames <= limit)
        working.append(layer.kernel_bytes(clip.piece(limit), itemsize))
        share, limit = layer.share(clip, itemsize, limit)
        shares.append(share)
        clip = layer.after(layer.completed(clip))
    recent = sum(share.recent for share in shares)
    still = [share.recent for share in shares] if earlier is None else earlier
    to_come, all_to_come = recent - sum(still), recent
    before = 0
    after = sum(share.ready for share in shares)
    moments = []
    for share, inside, own, whole in zip(shares, working, still, at_once, strict=True):
        after -= share.ready
        to_come -= share.recent - own
        all_to_come -= share.recent
        absent = all_to_come if whole else to_come
        moments.append(_Moment(recent - absent + before + share.work + after, working=inside))
        before += share.rest
    return _Streamed(recent + before, moments, clip.piece(limit), clip.frames <= limit)


def _streamed_decode(
    tiles: Sequence[ClipShape], layers: Sequence[Layer], itemsize: int, limit: int, plane: int, cell: int
) -> ActivationBytes:
    """Tiles side by side: all of them keep their frames, one of them works.

    ``plane`` and ``cell`` are the bytes of a frame and of one latent cell's share of it in numpy.
    """
    runs = [_streamed(clip, layers, itemsize, limit) for clip in tiles]
    latents = sum(clip.bytes(itemsize) for clip in tiles)
    kept = latents + sum(run.kept for run in runs)
    moments = []
    for clip, run in zip(tiles, runs, strict=True):
        out = run.result
        chunk = out.frames * plane
        # The consumer still holds a chunk, if there was one before; tiles are put together in another.
        buffers = chunk * (not run.at_once) + chunk * (len(tiles) > 1)
        moments += [_Moment(kept - run.kept + m.arrays, buffers, m.working) for m in run.moments]
        pixels = out.frames * clip.cells * cell
        moments += [_Moment(kept + m.arrays, m.host) for m in _to_pixels(out, itemsize, pixels, buffers)]
    return _peaks(moments)
