"""Tiles inside a sampler step: every evaluation of the model sees a part of the video at a time, and the parts are
blended.

The sampler, its noise and its latent stay those of the whole video; the model's memory is that of the largest tile.

Source: Lightricks/LTX-2 1.4 (TiledDiffusionModel).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.denoising import Predict, PredictRequest
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array, round_to
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.tile_splits import LatentInterval, fitting_count, split_by_count, split_pinned


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a video latent: every combination of an interval of frames, one of rows and one of columns."""

    frames: tuple[LatentInterval, ...]
    height: tuple[LatentInterval, ...]
    width: tuple[LatentInterval, ...]

    @classmethod
    def by_count(cls, shape: VideoLatentShape, rows: int, columns: int, overlap: int) -> TileGrid:
        """So many tiles along height and width with ``overlap`` cells in common, or as many as `fitting_count` says;
        time stays whole."""
        return cls(
            (LatentInterval(0, shape.frames),),
            tuple(split_by_count(shape.height, *fitting_count(shape.height, rows, overlap), "height")),
            tuple(split_by_count(shape.width, *fitting_count(shape.width, columns, overlap), "width")),
        )

    @classmethod
    def by_size(cls, shape: VideoLatentShape, size: tuple[int, int], overlap: tuple[int, int]) -> TileGrid:
        """Tiles of (rows, columns) cells that share at least ``overlap`` cells where that needs not too many of them;
        time stays whole."""
        return cls(
            (LatentInterval(0, shape.frames),),
            tuple(split_pinned(shape.height, size[0], overlap[0])),
            tuple(split_pinned(shape.width, size[1], overlap[1])),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width) in cells."""
        return self.frames[-1].stop, self.height[-1].stop, self.width[-1].stop

    def __len__(self) -> int:
        """How many tiles there are."""
        return len(self.frames) * len(self.height) * len(self.width)


@dataclass(frozen=True, eq=False)
class Tile:
    """The tokens of a state that one tile sees.

    Attributes:
        tokens: (N,) int64 places in the state: those of the video first, then those that conditions have appended.
        weights: (N,) float32: how much each estimate counts for the whole.
        origin: (3,) float32: where the tile begins, in seconds and pixels; the model sees positions from there.
    """

    tokens: NDArray[np.int64]
    weights: Float32Array
    origin: Float32Array

    def part(self, state: LatentState) -> LatentState:
        """The state of the tile alone."""
        return replace(
            state,
            latent=state.latent[:, self.tokens],
            denoise_mask=state.denoise_mask[:, self.tokens],
            positions=state.positions[:, :, self.tokens] - self.origin[:, None, None],
            clean_latent=state.clean_latent[:, self.tokens],
            attention=None if state.attention is None else state.attention.of(self.tokens),
            keyframes_mask=None if state.keyframes_mask is None else state.keyframes_mask[:, self.tokens],
            keyframe_slots=None,
        )


def cut_tokens(positions: Float32Array, grid: TileGrid) -> list[Tile]:
    """Which tokens each tile sees: time slowest, width fastest.

    A tile sees its own tokens of the video, and of the appended ones those that overlap it on all three axes or begin
    before the clip does.

    Args:
        positions: (B, 3, T, 2) of the whole state, the same for every sample.
        grid: of the video, whose tokens come first.

    Raises:
        ValueError: there are fewer tokens than cells.
    """
    count = prod(grid.shape)
    starts, ends = positions[0, ..., 0], positions[0, ..., 1]
    if starts.shape[1] < count:
        raise ValueError(f"Tiles of {grid.shape} cells need {count} tokens, the state has {starts.shape[1]}.")
    cells = np.arange(count).reshape(grid.shape)
    before = starts[0, count:] < 0
    found = []
    for frames in grid.frames:
        for height in grid.height:
            for width in grid.width:
                own = cells[frames.start : frames.stop, height.start : height.stop, width.start : width.stop].ravel()
                origin, end = starts[:, own].min(axis=1), ends[:, own].max(axis=1)
                inside = (starts[:, count:] < end[:, None]) & (ends[:, count:] > origin[:, None])
                seen = count + np.flatnonzero(inside.all(axis=0) | before)
                weights = frames.weights[:, None, None] * height.weights[:, None] * width.weights
                found.append((own, seen, weights.ravel(), origin))
    seen_by = np.bincount(np.concatenate([seen for _, seen, _, _ in found]), minlength=starts.shape[1])
    return [
        Tile(
            np.concatenate([own, seen]),
            np.concatenate([weights, np.float32(1) / seen_by[seen].astype(np.float32)]),
            origin,
        )
        for own, seen, weights, origin in found
    ]


# Computes the estimates of tile ``index`` of ``count``, or takes them from where they were kept.
TileRunner = Callable[[int, int, Callable[[], Sequence[Denoised]]], Sequence[Denoised]]


class TiledPredict:
    """The `Predict` of a denoiser that hands the model one tile of the video after the other, each with all sound.

    The video's estimate is the weighted sum of the tiles', the sound's their mean. A request without video passes
    through. What no tile sees is 0.

    Args:
        predict: runs the model.
        grid: the tiles.
        run_tile: called for every tile; None: each is computed.
    """

    def __init__(self, predict: Predict, grid: TileGrid, run_tile: TileRunner | None = None) -> None:
        self._predict = predict
        self._grid = grid
        self._run_tile = run_tile

    def __call__(self, request: PredictRequest) -> Sequence[Denoised]:
        """One pair of estimates (B, T, C) per pass, rounded to the dtype of the states."""
        video, audio = request.video, request.audio
        if video is None:
            return self._predict(request)
        tiles = cut_tokens(video.positions, self._grid)
        sums = [_Sum(video, audio) for _ in request.passes]
        for index, tile in enumerate(tiles):

            def compute(tile: Tile = tile) -> Sequence[Denoised]:
                return self._predict(replace(request, video=tile.part(video)))

            estimates = compute() if self._run_tile is None else self._run_tile(index, len(tiles), compute)
            for total, estimate in zip(sums, estimates, strict=True):
                total.add(tile, estimate)
        return [total.result(len(tiles)) for total in sums]


class _Sum:
    """The estimates of one pass, added up in float32."""

    def __init__(self, video: LatentState, audio: LatentState | None) -> None:
        self._states = (video, audio)
        self._video: Float32Array | None = None
        self._audio: Float32Array | None = None

    def add(self, tile: Tile, estimate: Denoised) -> None:
        video, audio = estimate
        if video is not None:
            if self._video is None:
                self._video = np.zeros_like(self._states[0].latent)
            self._video[:, tile.tokens] += video * tile.weights[:, None]  # each token is there once
        if audio is not None:
            self._audio = audio.copy() if self._audio is None else self._audio + audio

    def result(self, tiles: int) -> Denoised:
        video, audio = self._states
        return (
            None if self._video is None else round_to(self._video, video.dtype),
            None if self._audio is None or audio is None else round_to(self._audio / np.float32(tiles), audio.dtype),
        )
