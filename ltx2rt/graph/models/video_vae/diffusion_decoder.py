"""The diffusion video decoder of LTX-2.5: normalised latents and noise to frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.models.layers.adaln import SINUSOID_WIDTH, sinusoid
from ltx2rt.graph.models.layers.params import Params, linear
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.diffusion_blocks import (
    MODULATION_ROWS,
    NORM_EPS,
    linear_specs,
    stage_blocks,
    upsamplers,
)
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size
from ltx2rt.graph.models.video_vae.diffusion_keyframes import (
    Context,
    Joint,
    KeyFrames,
    joint_block,
    joint_upsampled,
    upsampled_planes,
)
from ltx2rt.graph.models.video_vae.diffusion_schedule import Canvas, needed_frames, stage_frames, stage_limit
from ltx2rt.graph.models.video_vae.diffusion_streams import (
    AheadFrames,
    BlockFrames,
    ClipFrames,
    FinerTile,
    Frames,
    PatchNoise,
    ProjectedFrames,
    Queue,
    QueueFrames,
    SharedFrames,
    SteppedFrames,
    UpsampledFrames,
    frames_before,
)
from ltx2rt.graph.models.video_vae.diffusion_tiling import diffusion_plan, noised_frames, tile_cells
from ltx2rt.graph.models.video_vae.layers import patchify_pixels, unpatchify_pixels
from ltx2rt.graph.models.video_vae.pixel_range import to_unit_range
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics
from ltx2rt.graph.models.video_vae.surroundings import DecoderNoise, FrameDraw
from ltx2rt.graph.models.video_vae.tiling import Tile, Tiling, blend_tiles, to_host
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array, ParamSpec

# Channels of a timestep's embedding.
TIMESTEP_CHANNELS = 384
# Frames that the last stage works on at a time.
FRAMES_PER_PUSH = 5


def diffusion_specs(config: DiffusionDecoderConfig) -> list[ParamSpec]:
    """Tensors of the decoder, named below ``decoder.``."""
    width, patch = config.channels[-1], config.patch_channels
    specs = linear_specs(
        [
            ("conv_in", config.channels[0], config.latent_channels),
            ("t_embedder.mlp.0", TIMESTEP_CHANNELS, SINUSOID_WIDTH),
            ("t_embedder.mlp.2", TIMESTEP_CHANNELS, TIMESTEP_CHANNELS),
            ("shared_adaln.proj", MODULATION_ROWS * width, TIMESTEP_CHANNELS),
            ("conv_in_x_t", width, patch),
            ("conv_out", patch, width),
        ]
    )
    for stage in range(len(config.channels)):
        for block in stage_blocks(config, stage):
            specs += block.specs()
    for upsampler in upsamplers(config):
        specs += upsampler.specs()
    return [
        *specs,
        ParamSpec("norm_out.weight", (width,)),
        ParamSpec("type_emb", (config.latent_channels,), optional=True),
    ]


class DiffusionVideoDecoder:
    """Decodes normalised latents to frames.

    Args:
        config: of the whole VAE; its decoder must be the diffusion decoder.
        params: view of the component ``video_vae`` (``decoder.*`` and ``per_channel_statistics.*``).
        dtype: of the activations.
        frames_per_push: frames that the last stage works on at a time. The results do not depend on it.
        keeps_keys: keys and values of frames that later ones see are kept, else computed again from the frames,
            which takes a third of the memory. Neither do the results depend on this.

    Source: NADiffusionDecoder of Lightricks/LTX-2 ltx_core/model/video_vae/diffusion_video_decoder.py @ v1.2.0, in its
    default mode, which repeats the edge columns around the last stage's volume.
    """

    def __init__(
        self,
        config: VideoVaeConfig,
        params: Params,
        dtype: mx.Dtype = mx.bfloat16,
        frames_per_push: int = FRAMES_PER_PUSH,
        keeps_keys: bool = True,
    ) -> None:
        self.config = config
        self.statistics = LatentStatistics(params)
        self._decoder = config.require_diffusion()
        self._params = params.at("decoder")
        self._dtype = dtype
        self._push = frames_per_push
        self._keeps_keys = keeps_keys
        self._upsamplers = upsamplers(self._decoder)

    def __call__(self, latent: mx.array, noise: DecoderNoise, keyframes: KeyFrames | None = None) -> mx.array:
        """Decode a clip without tiles.

        Args:
            latent: (1, f, h, w, latent_channels) normalised.
            noise: source of the noise that the frames are made from: one draw (1, 3, F, H, W), of the grown clip, and
                one of the key frames.
            keyframes: what the decoder looks at besides the clip.

        Returns:
            (1, F, H, W, 3) float32, about [-1, 1], not clamped.
        """
        frames = [mx.array(chunk) for chunk in self._decoded(latent, None, noise, keyframes)]
        return mx.concatenate(frames, axis=0)[None]

    def stream_frames(
        self, latent: mx.array, tiling: Tiling | None, noise: DecoderNoise, keyframes: KeyFrames | None = None
    ) -> Iterator[Array]:
        """Decode a clip some frames at a time, in memory that does not grow with it.

        Args:
            latent: (1, f, h, w, latent_channels) normalised.
            tiling: None: no tiles. The tiles of one range of frames follow each other.
            noise: as of `__call__`. In tiles each draws its own, in tile order, where one step predicts the frames;
                else all have their part of one draw. The noise of key frames follows that of the clip.
            keyframes: what the decoder looks at besides the clip; its memory then grows with the frames of a tile.

        Yields:
            (frames, H, W, 3) float32 in [0, 1], in order, owned by the consumer.

        Raises:
            UsageError: for a shape or a tiling that does not fit.
        """
        yield from map(to_unit_range, self._decoded(latent, tiling, noise, keyframes))

    def features(self, latent: mx.array) -> mx.array:
        """What enters the fourth stage: (1, f', h', w', C), ghost frames included."""
        canvas = Canvas.of(self._decoder, (latent.shape[1], latent.shape[2], latent.shape[3]))
        frames = self._upsampled(self._features(latent, canvas), len(self._decoder.channels) - 3)
        return frames.read(frames.count)

    def _decoded(
        self, latent: mx.array, tiling: Tiling | None, noise: DecoderNoise, keyframes: KeyFrames | None
    ) -> Iterator[Array]:
        """The frames in the decoder's range."""
        self._check(latent)
        size = (latent.shape[1], latent.shape[2], latent.shape[3])
        canvas = Canvas.of(self._decoder, size)
        if keyframes is not None:
            if keyframes.latents.shape[2:] != latent.shape[2:]:
                raise UsageError(
                    f"key frames must have the height and width of the latent, {latent.shape[2:4]}, got "
                    f"{keyframes.latents.shape[2:4]}."
                )
            chunks = self._with_keyframes(latent, canvas, tiling, noise, keyframes)
        elif tiling is None:
            chunks = self._whole(latent, canvas, noise)
        else:
            chunks = self._tiled(latent, canvas, tiling, noise)
        scale = self.config.spatial_factor
        rows, columns = (
            slice(before * scale, (before + length) * scale)
            for before, length in ((canvas.above, size[1]), (canvas.left, size[2]))
        )
        left = self.config.pixel_frames(size[0])
        for chunk in chunks:
            kept = chunk[:left, rows, columns]
            left -= len(kept)
            yield kept.copy()
            del chunk, kept
            if not left:
                return

    def _whole(self, latent: mx.array, canvas: Canvas, noise: DecoderNoise) -> Iterator[Array]:
        decoder = self._decoder
        cells, count = tile_cells(decoder, canvas.size), canvas.frames(decoder)
        frames = self.config.pixel_frames(latent.shape[1])
        needs = needed_frames(decoder, canvas, frames)
        features = self._upsampled(self._features(latent, canvas, needs), len(decoder.channels) - 3)
        context = self._context(features, needs[-2])
        draw = noise.frames(self._noise_shape(count, cells))
        return self._pixels(self._sampled(context, draw, count), frames)

    def _tiled(self, latent: mx.array, canvas: Canvas, tiling: Tiling, noise: DecoderNoise) -> Iterator[Array]:
        decoder = self._decoder
        plan = diffusion_plan(decoder, canvas.size, tiling)
        source = self._features(latent, canvas)
        cells = tile_cells(decoder, canvas.size)
        shared = noise.normal(self._noise_shape(plan.shape[0], cells)) if self._tiles_share_noise else None
        # Frames before the upsampling wait for their tiles: behind it they are several times larger.
        coarse, dropped = Queue(), 0
        stage = len(decoder.channels) - 2
        entering, piece = stage_frames(decoder, canvas.size[0] + decoder.ghosts)[stage], self._limit(stage - 1)
        upsampler = self._upsamplers[stage - 1]

        def decode(tile: Tile) -> Iterator[Array]:
            nonlocal dropped
            start, stop = tile.frames.source
            stop = entering if stop == cells[0] else stop
            first, last = (frames_before(upsampler, frame + 1) for frame in (start, stop - 1))
            coarse.drop(first - 1 - dropped)
            dropped = first - 1
            while coarse.count < last - dropped:
                coarse.put(source.read(min(piece, last - dropped - coarse.count)))
            finer = FinerTile((start, stop), slice(*tile.height.source), slice(*tile.width.source))
            part = finer.of_clip(coarse, dropped, upsampler, self._params, self._limit(stage))
            length = tile.frames.target[1] - tile.frames.target[0]
            context = self._context(QueueFrames(part, takes=True), part.count, begins=start == 0)
            count = noised_frames(decoder, canvas, tile)
            if shared is None:
                rows, columns = (axis.source[1] - axis.source[0] for axis in (tile.height, tile.width))
                draw = noise.frames(self._noise_shape(count, (0, rows, columns)))
            else:
                draw = _frames_of(shared[:, :, slice(*tile.frames.target)][_of_tile(tile)])
            return self._pixels(self._sampled(context, draw, count), length)

        return blend_tiles(decode, plan, decoder.pixel_channels)

    def _with_keyframes(
        self, latent: mx.array, canvas: Canvas, tiling: Tiling | None, noise: DecoderNoise, keyframes: KeyFrames
    ) -> Iterator[Array]:
        decoder, stage = self._decoder, len(self._decoder.channels) - 2
        cells = tile_cells(decoder, canvas.size)
        plan = diffusion_plan(decoder, canvas.size, tiling or Tiling())
        _, features = deque(self._joint_streams(latent, canvas, keyframes), maxlen=1).pop()
        entering, finer = stage_frames(decoder, canvas.size[0] + decoder.ghosts)[stage], self._upsamplers[stage - 1]
        number = len(keyframes.positions)
        shared = None
        if self._tiles_share_noise:
            shared = [noise.normal(self._noise_shape(frames, cells)) for frames in (plan.shape[0], number)]

        def decode(tile: Tile) -> Iterator[Array]:
            start, stop = tile.frames.source
            stop = entering if stop == cells[0] else stop
            chosen = list(range(number)) if tiling is None else keyframes.near(tile.frames.target)
            rows, columns = slice(*tile.height.source), slice(*tile.width.source)
            if tiling is None:
                streams = joint_upsampled(features, finer, self._params, self._limit(stage))
            else:
                part = FinerTile((start, stop), rows, columns)
                streams = Joint(
                    part.of_clip(features.clip, 0, finer, self._params, self._limit(stage)),
                    part.of_planes(features.planes[:, mx.array(chosen)], finer, self._params),
                )
            streams = self._joint_stage(streams, stage, keyframes.times(decoder, stage, start)[chosen])
            begins, upsampler = start == 0, self._upsamplers[stage]
            planes = upsampled_planes(streams.planes, upsampler, self._params)
            context = Context(streams.clip, upsampler, begins, planes)
            length = tile.frames.target[1] - tile.frames.target[0]
            count = noised_frames(decoder, canvas, tile)
            if shared is None:
                shape = self._noise_shape(count, (0, rows.stop - rows.start, columns.stop - columns.start))
                draw, of_planes = noise.frames(shape), noise.normal((*shape[:2], len(chosen), *shape[3:]))
            else:
                draw = _frames_of(shared[0][:, :, slice(*tile.frames.target)][_of_tile(tile)])
                of_planes = shared[1][:, :, chosen][_of_tile(tile)]
            times = keyframes.times(decoder, stage + 1, tile.frames.target[0])[chosen]
            patches = self._jointly_sampled(context, draw, of_planes, count, times)
            return self._pixels(QueueFrames(patches, takes=True), length)

        if tiling is None:
            return decode(plan.tiles[0])
        return blend_tiles(decode, plan, decoder.pixel_channels)

    def keyframe_taps(self, latent: mx.array, keyframes: KeyFrames) -> Iterator[tuple[str, mx.array]]:
        """The key frames (1, P, h, w, C) behind ``conv_in``, and behind ``stage1`` to ``stage3`` and upsampled."""
        canvas = Canvas.of(self._decoder, (latent.shape[1], latent.shape[2], latent.shape[3]))
        for name, streams in self._joint_streams(latent, canvas, keyframes):
            stage = len(self._decoder.channels) - 3
            if name == f"stage{stage + 1}":
                yield name, upsampled_planes(streams.planes, self._upsamplers[stage], self._params)
            else:
                yield name, streams.planes

    def _joint_streams(self, latent: mx.array, canvas: Canvas, keyframes: KeyFrames) -> Iterator[tuple[str, Joint]]:
        """The clip and its key frames behind ``conv_in`` and behind the first stages, upsampled but for the last."""
        decoder, entry = self._decoder, self._params.at("conv_in")
        clip = Queue()
        x = canvas.grown(self.statistics.un_normalise(latent.astype(self._dtype)), decoder.ghosts)
        clip.put(linear(x, entry))
        streams = Joint(clip, linear(canvas.grown_sides(self._marked(keyframes)), entry))
        yield "conv_in", streams
        last = len(decoder.channels) - 3
        for stage in range(last + 1):
            streams = self._joint_stage(streams, stage, keyframes.times(decoder, stage))
            if stage < last:
                streams = joint_upsampled(streams, self._upsamplers[stage], self._params, self._limit(stage + 1))
            yield f"stage{stage + 1}", streams

    def _marked(self, keyframes: KeyFrames) -> mx.array:
        """The un-normalised latents of key frames, with the mark by which the decoder knows them."""
        planes = self.statistics.un_normalise(keyframes.latents.astype(self._dtype))
        mark = self._params.get("type_emb")
        return planes if mark is None else planes + mark.astype(self._dtype)

    def _joint_stage(self, streams: Joint, stage: int, times: Array) -> Joint:
        """The blocks of one of the first stages."""
        for block in stage_blocks(self._decoder, stage):
            modulation = block.modulation(self._params)
            streams = joint_block(streams, block, times, self._params, modulation, self._limit(stage))
        return streams

    def _jointly_sampled(self, context: Context, draw: FrameDraw, of_planes: Array, count: int, times: Array) -> Queue:
        """Patches of the clip's frames that the sampler ends with."""
        decoder, params, push = self._decoder, self._params, self._push
        entry = params.at("conv_in_x_t")
        source, clip = self._patches(draw, count), Queue()
        while clip.count < count:
            clip.put(source.read(min(push, count - clip.count)))
        planes = self._patches(_frames_of(of_planes), len(times)).read(len(times))
        for now, following in self._steps:
            modulations = self._modulation(now)
            entered = Queue()
            for start in range(0, count, push):
                entered.put(linear(clip.look(start, min(push, count - start)), entry))
            streams = Joint(entered, linear(planes, entry))
            for block in stage_blocks(decoder, len(decoder.channels) - 1):
                modulation = block.modulation(params, modulations)
                streams = joint_block(streams, block, times, params, modulation, push, context)
            update = self._update(now, following)
            stepped = SteppedFrames(
                QueueFrames(streams.clip, takes=True), params, self._last_scale(), NORM_EPS, clip, update
            )
            after = Queue()
            while after.count < count:
                after.put(stepped.read(min(push, count - after.count)))
            if following > 0:
                kept = Queue()
                kept.put(planes)
                last = SteppedFrames(ClipFrames(streams.planes), params, self._last_scale(), NORM_EPS, kept, update)
                planes = last.read(len(times))
            clip = after
        return clip

    def _features(self, latent: mx.array, canvas: Canvas, needs: Sequence[int] | None = None) -> Frames:
        """Of the first three stages, before the upsampling that follows; ``needs``: how many frames of each are read,
        None: all."""
        x = canvas.grown(self.statistics.un_normalise(latent.astype(self._dtype)), self._decoder.ghosts)
        source: Frames = ProjectedFrames(ClipFrames(x), self._params.at("conv_in"))
        for stage in range(len(self._decoder.channels) - 2):
            if stage:
                source = self._upsampled(source, stage - 1)
            source = self._stage(source, stage, source.count if needs is None else needs[stage])
        return source

    def _context(self, features: Frames, needed: int, *, begins: bool = True) -> Frames:
        """What the last stage is told: of the fourth one, of whose blocks ``needed`` frames are read."""
        stage = len(self._decoder.channels) - 2
        return self._upsampled(self._stage(features, stage, needed), stage, begins=begins)

    def _stage(self, source: Frames, stage: int, needed: int) -> Frames:
        """The blocks of one of the first stages, of which ``needed`` frames are read."""
        limit = self._limit(stage)
        for block in stage_blocks(self._decoder, stage):
            modulation, keeps = block.modulation(self._params), self._keeps_keys
            source = BlockFrames(source, block, self._params, modulation, limit, keeps_keys=keeps)
        return AheadFrames(source, limit, needed)

    def _upsampled(self, source: Frames, stage: int, *, begins: bool = True) -> Frames:
        """The frames behind the upsampling after a stage."""
        return UpsampledFrames(source, self._upsamplers[stage], self._params, begins=begins)

    def _sampled(self, context: Frames, draw: FrameDraw, count: int) -> Frames:
        """Patches of the frames that the sampler ends with."""
        decoder, params = self._decoder, self._params
        stage = len(decoder.channels) - 1
        blocks = stage_blocks(decoder, stage)
        shared = SharedFrames(context, len(blocks) * decoder.steps)
        patches: Frames = self._patches(draw, count)
        reader = 0
        for now, following in self._steps:
            modulations = self._modulation(now)
            update = self._update(now, following)
            before = None if update is None else Queue()
            frames: Frames = ProjectedFrames(patches, params.at("conv_in_x_t"), before)
            for block in blocks:
                modulation = block.modulation(params, modulations)
                told = partial(shared.read, reader)
                frames = BlockFrames(frames, block, params, modulation, self._push, told, keeps_keys=self._keeps_keys)
                reader += 1
            patches = SteppedFrames(frames, params, self._last_scale(), NORM_EPS, before, update)
        return patches

    @property
    def _steps(self) -> list[tuple[np.float32, np.float32]]:
        """Timestep and next timestep of every step of the sampler."""
        steps = self._decoder.steps
        times = np.linspace(1.0, 1.0 / steps, steps, dtype=np.float32)
        return list(zip(times, [*times[1:], np.float32(0)], strict=True))

    @property
    def _tiles_share_noise(self) -> bool:
        return tiles_share_noise(self._decoder)

    def _update(self, now: np.float32, following: np.float32) -> Callable[[mx.array, mx.array], mx.array] | None:
        """What makes the patches of a step of those before it and the prediction; None: they are the prediction."""
        if self._decoder.predicts == "x0" and following == 0:
            return None
        return partial(_euler, now, following, self._decoder.predicts)

    def _last_scale(self) -> mx.array:
        return self._params["norm_out.weight"].astype(mx.float32)[None] - 1

    def _patches(self, draw: FrameDraw, count: int) -> PatchNoise:
        return PatchNoise(draw, count, partial(patchify_pixels, size=self._decoder.patch_size), self._dtype)

    def _limit(self, stage: int) -> int:
        return stage_limit(self._decoder, stage, self._push)

    def _modulation(self, time: np.float32) -> mx.array:
        """(7, C) float32 of a timestep, which all blocks share."""
        embedder = self._params.at("t_embedder.mlp")
        multiplied = np.float32(self._decoder.timestep_factor) * from_numbers([time], np.float32)
        embedded = linear(mx.array(sinusoid(multiplied)), embedder.at("0"), activation="silu")
        embedded = linear(embedded, embedder.at("2"))
        rows = linear(embedded * mx.sigmoid(embedded), self._params.at("shared_adaln.proj"))
        rows = rows.reshape(MODULATION_ROWS, -1)
        mx.eval(rows)
        return rows

    def _pixels(self, patches: Frames, count: int) -> Iterator[Array]:
        """The first ``count`` frames, (n, H, W, 3) float32 in the decoder's range."""
        while count:
            part = min(count, self._push)
            count -= part
            pixels = to_host(unpatchify_pixels(patches.read(part), self._decoder.patch_size))[0]
            yield pixels
            del pixels

    def _noise_shape(self, frames: int, cells: Size) -> tuple[int, int, int, int, int]:
        return noise_shape(self._decoder, frames, cells)

    def _check(self, latent: mx.array) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 5 or latent.shape[0] != 1 or latent.shape[4] != channels or min(latent.shape) < 1:
            raise UsageError(f"latent must be (1, f, h, w, {channels}), got {latent.shape}.")


def noise_shape(config: DiffusionDecoderConfig, frames: int, cells: Size) -> tuple[int, int, int, int, int]:
    """Of the noise of so many frames whose fourth stage has (f, h, w) ``cells``."""
    _, tall, wide = config.tile_cell
    return 1, config.pixel_channels, frames, cells[1] * tall, cells[2] * wide


def tiles_share_noise(config: DiffusionDecoderConfig) -> bool:
    """Whether tiles that overlap must start from the same noise, as the steps of a longer trajectory must."""
    return config.predicts != "x0" or config.steps > 1


def decoder_draws(
    config: DiffusionDecoderConfig, latent: Size, tiling: Tiling | None, keyframes: KeyFrames | None = None
) -> list[tuple[int, ...]]:
    """The shapes of the draws that `DiffusionVideoDecoder.stream_frames` makes, in order."""
    canvas = Canvas.of(config, latent)
    cells = tile_cells(config, canvas.size)
    if tiling is None and keyframes is None:
        return [noise_shape(config, canvas.frames(config), cells)]
    plan = diffusion_plan(config, canvas.size, tiling or Tiling())
    number = 0 if keyframes is None else len(keyframes.positions)
    if tiles_share_noise(config):
        return [noise_shape(config, frames, cells) for frames in (plan.shape[0], number) if frames]
    draws: list[tuple[int, ...]] = []
    for tile in plan.tiles:
        rows, columns = (stop - start for start, stop in (tile.height.source, tile.width.source))
        if keyframes is not None and tiling is not None:
            number = len(keyframes.near(tile.frames.target))
        frames = (noised_frames(config, canvas, tile), number)
        draws += [noise_shape(config, count, (0, rows, columns)) for count in frames if count]
    return draws


def _euler(now: np.float32, following: np.float32, predicts: str, before: mx.array, predicted: mx.array) -> mx.array:
    """The patches at the next timestep, in their own dtype."""
    x, out = before.astype(mx.float32), predicted.astype(mx.float32)
    velocity = (x - out) / float(now) if predicts == "x0" else out
    return (x - float(now - following) * velocity).astype(before.dtype)


def _of_tile(tile: Tile) -> tuple[slice, ...]:
    """The rows and columns of a tile in (B, C, F, H, W)."""
    whole = slice(None)
    return whole, whole, whole, slice(*tile.height.target), slice(*tile.width.target)


def _frames_of(draw: Array) -> FrameDraw:
    """The frames of a whole draw, one part after the other."""
    position = 0

    def frames(count: int) -> Array:
        nonlocal position
        position += count
        return draw[:, :, position - count : position]

    return frames
