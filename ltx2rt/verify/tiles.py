"""Golden cases of tiles inside a sampler step: how axes are cut, and evaluations of the model tile by tile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.denoising import GuidancePass, Predict, PredictRequest
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.tiles import TiledPredict, TileGrid, cut_tokens
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import Transformer, param_specs
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.tile_splits import LatentInterval, split_pinned
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint

_ATOL, _RTOL = 2e-5, 1e-4
_TABLE_ATOL = 1e-6


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of ``*_tiled_model`` files, and of the tile splits in ``plans_*``."""
    stem = golden.path.stem
    if re.fullmatch(r"\w+_tiled_model", stem):
        keys = golden.keys()
        for split in sorted({key.split(".")[0] for key in keys if key.endswith("_x0")}):
            yield Case(f"{golden.name}/{split}", partial(_evaluation, golden, split))
    elif stem.startswith("plans_"):
        names = golden.keys()
        for name, run in (("tiles_by_count", _by_count), ("tiles_pinned", _pinned)):
            if name in names:
                yield Case(f"{golden.name}/{name}", partial(run, golden))


def _by_count(golden: GoldenFile) -> Iterator[Check]:
    for entry in golden.entry("tiles_by_count"):
        cells, tiles, overlap = entry["cells"], entry["tiles"], entry["overlap"]
        intervals = TileGrid.by_count(VideoLatentShape(1, cells, 1), tiles, 1, overlap).height
        name = f"{cells} cells in {tiles}, overlap {overlap}"
        yield _intervals(name, intervals, entry["intervals"])
        for index, (interval, saved) in enumerate(zip(intervals, entry["weights"], strict=True)):
            yield Check(f"{name}: weights of {index}", interval.weights, from_numbers(saved), _TABLE_ATOL)


def _pinned(golden: GoldenFile) -> Iterator[Check]:
    for entry in golden.entry("tiles_pinned"):
        cells, size, overlap = entry["cells"], entry["size"], entry["overlap"]
        intervals = split_pinned(cells, size, overlap)
        yield _intervals(f"{cells} cells, tiles of {size}, overlap {overlap}", intervals, entry["intervals"])


def _intervals(name: str, intervals: list[LatentInterval] | tuple[LatentInterval, ...], saved: Array) -> Check:
    actual = from_numbers([(i.start, i.stop, i.left, i.right) for i in intervals])
    return Check(name, actual, from_numbers(saved), 0.0)


def _evaluation(golden: GoldenFile, split: str) -> Iterator[Check]:
    """One evaluation of the model, whole or in tiles."""
    checkpoint = Checkpoint.open(golden.root / golden.metadata["checkpoint"])
    config = TRANSFORMER.parse(checkpoint)
    transformer = Transformer(config, Params(checkpoint.load("transformer", param_specs(config))), mx.float32)
    states = {stream: _state(golden, stream) for stream in ("video", "audio")}
    context = PromptContext(*(mx.array(golden.given(f"{stream}.context")) for stream in states))
    sigma = float(golden.given("video.sigma")[0])
    yield golden.check("audio.sigma", golden.given("video.sigma"), 0.0)
    predict: Predict = TransformerPasses(transformer, context, None)
    grid = _grid(golden, split)
    if grid is not None:
        predict = TiledPredict(predict, grid)
        tiles = cut_tokens(states["video"].positions, grid)
        kept, positions = f"{split}.kept_tokens_first_tile", f"{split}.positions_last_tile"
        yield golden.check(kept, tiles[0].tokens, 0.0)
        yield golden.check(positions, tiles[-1].part(states["video"]).positions, _TABLE_ATOL)
    request = PredictRequest(
        (GuidancePass("cond"),), states["video"], states["audio"], sigma, run_video=True, run_audio=True
    )
    (estimates,) = predict(request)
    for stream, estimate in zip(states, estimates, strict=True):
        assert estimate is not None
        yield golden.check(f"{split}.{stream}_x0", estimate, _ATOL, _RTOL)


def _state(golden: GoldenFile, stream: str) -> LatentState:
    """A state whose timesteps are the saved ones."""
    latent, sigma = golden.given(f"{stream}.latent"), golden.given(f"{stream}.sigma")[0]
    marks = f"{stream}.keyframes_mask"
    return LatentState(
        latent=latent,
        denoise_mask=golden.given(f"{stream}.timesteps")[..., 0] / sigma,
        positions=golden.given(f"{stream}.positions"),
        clean_latent=np.zeros_like(latent),
        keyframes_mask=golden.given(marks)[..., 0] if marks in golden else None,
    )


def _grid(golden: GoldenFile, split: str) -> TileGrid | None:
    """``count_ROWSxCOLUMNS_overlap_CELLS`` and ``pinned_HxW_overlap_HxW``, in cells; None for ``whole``."""
    cells = re.match(r"(\d+)x(\d+)x(\d+) cells", golden.metadata["grid"])
    match = re.fullmatch(r"whole|(count|pinned)_(\d+)x(\d+)_overlap_(\d+)(?:x(\d+))?", split)
    if cells is None or match is None:
        raise CheckpointError(f"{golden.path}: cannot read the grid or the tiles of {split!r}.")
    shape = VideoLatentShape(*(int(number) for number in cells.groups()))
    if match[1] is None:
        return None
    size, overlap = (int(match[2]), int(match[3])), int(match[4])
    if match[1] == "count":
        return TileGrid.by_count(shape, *size, overlap)
    return TileGrid.by_size(shape, size, (overlap, int(match[5] or overlap)))
