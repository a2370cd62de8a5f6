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
from ltx2rt.graph.models.video_vae.config import Stride, VideoVaeConfig
from ltx2rt.graph.models.video_vae.decoder import decoder_layers
from ltx2rt.graph.models.video_vae.encoder import encoder_layers
from ltx2rt.graph.models.video_vae.layers import (
    Convolution,
    Downsample,
    FrameAttention,
    Layer,
    OutputConvolution,
    ResidualLayer,
    Upsample,
)
from ltx2rt.graph.models.video_vae.tiling import FrameGrid, Tile, TilePlan, Tiling, decode_plan, encode_plan
from ltx2rt.kernels.working_memory import convolution_bytes

_FLOAT32 = 4


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


class _Clip(NamedTuple):
    """Frames between two layers; ``kept`` counts those that their buffer holds besides."""

    frames: int
    height: int
    width: int
    channels: int
    kept: int = 0

    @property
    def cells(self) -> int:
        """Of one frame."""
        return self.height * self.width

    def plane(self, itemsize: int) -> int:
        """Bytes of one frame."""
        return self.cells * self.channels * itemsize

    def bytes(self, itemsize: int) -> int:
        return (self.frames + self.kept) * self.plane(itemsize)


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
    pixel = decoder.pixel_channels * _FLOAT32
    plane = plan.shape[1] * plan.shape[2] * pixel  # a frame as numpy keeps it

    def start(tile: Tile) -> _Clip:
        return _Clip(*_source(tile), decoder.latent_channels)

    if frames_per_push is not None:
        clips = [start(tile) for tile in plan.tiles]
        return _streamed_decode(clips, layers, itemsize, frames_per_push, plane, config.spatial_factor**2 * pixel)
    buffers = 0.0
    if tiling is not None:
        # The group being filled, the one whose frames the consumer still holds, and what is carried between them.
        groups = [_length(tile.target) for tile in plan.frames]
        buffers = plane * (sum(sorted(groups)[-2:]) + max(_carried(plan), default=0))
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
    """Of `VideoEncoder.encode_frames`, or with ``frames_per_push`` of `VideoEncoder.encode_stream`.

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

    def start(tile: Tile) -> _Clip:
        count, height, width = _source(tile)
        return _Clip(count, height // encoder.patch_size, width // encoder.patch_size, patched)

    if frames_per_push is not None:
        clip = start(plan.tiles[0])
        streamed = _streamed(clip, layers, itemsize, frames_per_push)
        if clip.frames == 1:
            return _peaks([_Moment(clip.bytes(itemsize) + m.arrays, working=m.working) for m in streamed.moments])
        # Frames come in groups. While the last piece of one is read, the next one is there too, and before it is put
        # together of its frames.
        group = config.temporal_factor * clip.plane(itemsize)
        reading = _share(layers[0], clip, itemsize, frames_per_push)[0].work
        moments = [_Moment(group + m.arrays, working=m.working) for m in streamed.moments]
        return _peaks([*moments, _Moment(streamed.kept + 2 * group + max(reading, group))])
    moments = []
    blended = prod(plan.shape) * config.latent_channels * _FLOAT32 if tiling is not None else 0
    for tile in plan.tiles:
        clip = start(tile)
        run, _ = _whole(clip, layers, itemsize)
        # The frames as float32 and in the activations' dtype, and then patchified.
        given = clip.bytes(itemsize) + clip.bytes(_FLOAT32)
        moments += [_Moment(given, blended), *(moment._replace(host=blended) for moment in run)]
    return _peaks(moments)


def _length(interval: tuple[int, int]) -> int:
    return interval[1] - interval[0]


def _source(tile: Tile) -> FrameGrid:
    """Frames, height and width that a tile reads."""
    return _length(tile.frames.source), _length(tile.height.source), _length(tile.width.source)


def _carried(plan: TilePlan) -> list[int]:
    return [_length(tile.target) - final for tile, final in zip(plan.frames, plan.chunk_frames, strict=True)]


def _to_pixels(out: _Clip, itemsize: int, pixels: int, host: float) -> list[_Moment]:
    """conv_out's result, unpatchified, as float32, and then in numpy (``pixels`` bytes)."""
    cast = pixels if itemsize != _FLOAT32 else 0
    return [_Moment(2 * out.bytes(itemsize) + cast, host), _Moment(pixels, host + pixels)]


def _whole(clip: _Clip, layers: Sequence[Layer], itemsize: int) -> tuple[list[_Moment], _Clip]:
    """The moments of running the layers one after the other, and the result."""
    moments = []
    for layer in layers:
        held = clip.bytes(itemsize)
        if isinstance(layer, Downsample) and layer.stride[0] == 2:
            # The frame in front is added in a copy.
            clip = clip._replace(frames=clip.frames + 1, kept=0)
            held += clip.bytes(itemsize)
        clip = clip._replace(kept=0)
        moments.append(_Moment(held + _work(layer, clip, itemsize), working=_inside_kernels(layer, clip, itemsize)))
        clip = _after(layer, clip)
    return moments, clip


def _inside_kernels(layer: Layer, clip: _Clip, itemsize: int) -> int:
    """Working memory of the kernel of a layer that takes most; the clip is what the results belong to."""
    sizes = []
    for spec in layer.specs():
        if spec.layout != "conv":
            continue
        out, channels, *taps = spec.shape
        if isinstance(layer, FrameAttention):  # one frame after the other
            outputs, weight = (1, clip.height, clip.width), (out, 1, taps[0], taps[1], channels)
            sizes.append(convolution_bytes(outputs, weight, itemsize, batch=clip.frames))
            continue
        stride = layer.stride if isinstance(layer, Convolution) else (1, 1, 1)
        outputs = _strided(clip, stride)
        shortcut = taps == [1, 1, 1]
        silu = isinstance(layer, OutputConvolution) or (isinstance(layer, ResidualLayer) and not shortcut)
        silu = silu or (isinstance(layer, Convolution) and layer.activated)
        sizes.append(
            convolution_bytes(
                outputs,
                (out, taps[0], taps[1], taps[2], channels),
                itemsize,
                stride=stride,
                activation="silu" if silu else None,
            )
        )
    return max(sizes, default=0)


def _strided(clip: _Clip, stride: Stride) -> FrameGrid:
    """Frames, height and width after a step of ``stride``; what does not fill one is padded."""
    return -(-clip.frames // stride[0]), -(-clip.height // stride[1]), -(-clip.width // stride[2])


def _after(layer: Layer, clip: _Clip) -> _Clip:
    """The result of a layer; for a `Downsample` the clip has its frame in front."""
    if isinstance(layer, Upsample):
        growth, height, width = layer.stride
        # The first frame is dropped, but its place in the buffer remains.
        drop = growth - 1
        return _Clip(clip.frames * growth - drop, clip.height * height, clip.width * width, layer.out_channels, drop)
    if isinstance(layer, FrameAttention):
        return clip
    if isinstance(layer, Downsample) or (isinstance(layer, Convolution) and layer.stride != (1, 1, 1)):
        return _Clip(*_strided(clip, layer.stride), layer.out_channels)
    assert isinstance(layer, (Convolution, OutputConvolution, ResidualLayer))
    return _Clip(clip.frames, clip.height, clip.width, layer.out_channels)


def _work(layer: Layer, clip: _Clip, itemsize: int) -> int:
    """Most bytes that a layer takes besides its input, its result included."""
    inner, out = clip.bytes(itemsize), _after(layer, clip).bytes(itemsize)
    if isinstance(layer, Upsample):
        # The convolution's result and its unfolding, then the sum and the unfolded input in place of the former.
        return 2 * out + (inner if layer.residual else 0)
    if isinstance(layer, Downsample):
        mean = out // itemsize * _FLOAT32
        folding = inner + clip.bytes(_FLOAT32) + mean
        return max(folding, mean + 3 * out + mean)
    if isinstance(layer, ResidualLayer):
        noise = 2 * clip.bytes(_FLOAT32) if layer.inject_noise else 0
        shortcut = 2 * clip.bytes(_FLOAT32) + inner + out if layer.looks_at_whole_clip else 0
        return max(2 * out + noise, shortcut)
    if isinstance(layer, FrameAttention):
        return 2 * clip.bytes(_FLOAT32) + 8 * inner
    return out


class _Share(NamedTuple):
    """What one layer of a streamed run takes.

    Attributes:
        recent: frames that it keeps between pieces.
        rest: of a piece longer than a step, kept while later layers work.
        ready: results too few for a piece, kept while earlier layers work.
        work: while it works, besides ``recent``.
    """

    recent: int = 0
    rest: int = 0
    ready: int = 0
    work: int = 0


class _Streamed(NamedTuple):
    """A streamed run: bytes kept between pieces, those while each layer works, the longest piece of the result."""

    kept: int
    moments: list[_Moment]
    result: _Clip


def _streamed(clip: _Clip, layers: Sequence[Layer], itemsize: int, limit: int) -> _Streamed:
    shares, working = [], []
    for layer in layers:
        piece = clip._replace(frames=min(limit, clip.frames), kept=0)
        working.append(_inside_kernels(layer, piece, itemsize))
        share, limit = _share(layer, clip, itemsize, limit)
        shares.append(share)
        if isinstance(layer, Downsample):
            clip = clip._replace(frames=clip.frames + layer.stride[0] - 1)
        clip = _after(layer, clip)
    recent = sum(share.recent for share in shares)
    before = 0
    after = sum(share.ready for share in shares)
    moments = []
    for share, inside in zip(shares, working, strict=True):
        after -= share.ready
        moments.append(_Moment(recent + before + share.work + after, working=inside))
        before += share.rest
    return _Streamed(recent + before, moments, clip._replace(frames=min(limit, clip.frames), kept=0))


def _share(layer: Layer, clip: _Clip, itemsize: int, limit: int) -> tuple[_Share, int]:
    """What a layer takes that reads pieces of up to ``limit`` frames, and the longest pieces that it gives."""
    plane = clip.plane(itemsize)
    # Of a single frame, what its buffer holds besides is kept with it.
    recent = min(2, clip.frames + clip.kept) * plane
    piece = clip._replace(frames=min(limit, clip.frames), kept=0)
    if isinstance(layer, FrameAttention):
        return _Share(work=piece.bytes(itemsize) + _work(layer, piece, itemsize)), limit
    if isinstance(layer, Upsample):
        step = max(1, limit // layer.stride[0])
        rest = piece.bytes(itemsize) if piece.frames > step else 0
        piece = piece._replace(frames=min(step, clip.frames))
        joined = min(piece.frames + 2, clip.frames) * plane
        work = rest + joined + _work(layer, piece, itemsize)
        return _Share(recent, rest=rest, work=work), step * layer.stride[0]
    if isinstance(layer, ResidualLayer):
        joined = min(piece.frames + 2, clip.frames) * plane
        hidden = min(2, clip.frames) * _after(layer, piece).plane(itemsize)
        joining = piece.bytes(itemsize) + joined + recent
        work = max(joining, joined + _work(layer, piece, itemsize) + hidden)
        return _Share(recent + hidden, work=work), limit if layer.causal else max(limit, 2)
    if isinstance(layer, Downsample) or (isinstance(layer, Convolution) and layer.stride != (1, 1, 1)):
        # A frame may wait for its partner, if pieces are odd; results arrive by half pieces.
        waiting = piece.frames % layer.stride[0]
        whole = piece._replace(frames=(piece.frames + waiting) // layer.stride[0] * layer.stride[0])
        after = _after(layer, clip)
        ready = min(limit - max(1, limit // layer.stride[0]), after.frames) * after.plane(itemsize)
        work = (piece.frames + waiting) * plane + recent + _work(layer, whole, itemsize) + ready
        return _Share(recent + waiting * plane, ready=ready, work=work), limit
    return _Share(recent, work=piece.bytes(itemsize) + recent + _work(layer, piece, itemsize)), limit


def _streamed_decode(
    tiles: Sequence[_Clip], layers: Sequence[Layer], itemsize: int, limit: int, plane: int, cell: int
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
        # The consumer still holds a chunk; tiles are put together in another.
        buffers = chunk if len(tiles) == 1 else 2 * chunk
        moments += [_Moment(kept - run.kept + m.arrays, buffers, m.working) for m in run.moments]
        pixels = out.frames * clip.cells * cell
        moments += [_Moment(kept + m.arrays, m.host) for m in _to_pixels(out, itemsize, pixels, buffers)]
    return _peaks(moments)
