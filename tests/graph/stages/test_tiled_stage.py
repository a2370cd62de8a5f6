"""A denoising stage whose steps are cut into tiles: what it plans, what it tells, and that it goes on after a break."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ltx2rt import embedded
from ltx2rt.errors import Cancelled
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.conditioning import AppendReferenceVideo
from ltx2rt.graph.diffusion.denoising import PredictRequest
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.diffusion.tiles import TileGrid, cut_tokens
from ltx2rt.graph.models.transformer.footprint import CallShape, call_footprint
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.denoise.needs import TOKEN_LIMITS
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import audio_state, video_state
from ltx2rt.graph.stages.events import Event, Observer, StepDone, TileDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.journal import Journal
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.weights.checkpoint import Checkpoint

WEIGHTS = WeightSet(sources_of(Checkpoint.open(embedded.CHECKPOINT)))
SIGMAS = np.array([1.0, 0.7, 0.3, 0.0], np.float32)
TILES = 4


def run_of(observer: Observer | None = None, journal: Journal | None = None, *, planning: bool = False) -> Run:
    inputs = GenerationInputs(Settings(seed=3), 128, 128, 9, Fraction(24))
    return Run(WEIGHTS, inputs, observer, journal=journal, planning=planning)


def states(run: Run) -> tuple[LatentState, LatentState, TileGrid]:
    """A video of 2 x 4 x 4 cells with 2 x 2 x 2 reference tokens, its sound, and a tile for every corner."""
    video_target, audio_target = targets(run, 128, 128)
    reference = np.random.default_rng(1).standard_normal((1, 2, 2, 2, 128)).astype(np.float32)
    items = [AppendReferenceVideo(reference, downscale=2)]
    video = video_state(run, video_target, noise_scale=1.0, items=items)
    return video, audio_state(run, audio_target, noise_scale=1.0), TileGrid.by_count(video_target.shape, 2, 2, 0)


def sampled(run: Run) -> tuple[np.ndarray, np.ndarray]:
    video, audio, grid = states(run)
    ends = denoise(run, "denoise 1", Sampling(SIGMAS, tiles=grid), video, audio, zero_context(WEIGHTS))
    assert ends[0] is not None
    assert ends[1] is not None
    return ends[0].latent, ends[1].latent


def test_every_tile_of_every_step_is_told() -> None:
    events: list[Event] = []
    sampled(run_of(events.append))
    told = [event for event in events if isinstance(event, (TileDone, StepDone))]
    assert len(told) == 3 * (TILES + 1)
    assert [event.index for event in told if isinstance(event, TileDone)] == [0, 1, 2, 3] * 3
    assert {event.tiles for event in told if isinstance(event, TileDone)} == {TILES}


def test_an_interrupted_stage_goes_on_with_the_next_tile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = sampled(run_of())
    calls = 0
    evaluate = TransformerPasses.__call__

    def counted(passes: TransformerPasses, request: PredictRequest) -> list[Denoised]:
        nonlocal calls
        calls += 1
        return evaluate(passes, request)

    monkeypatch.setattr(TransformerPasses, "__call__", counted)

    def stop_in_the_second_step(event: Event) -> None:
        if isinstance(event, TileDone) and event.index == 1 and calls > TILES:
            raise Cancelled

    journal = Journal(tmp_path)
    with pytest.raises(Cancelled):
        sampled(run_of(stop_in_the_second_step, journal))
    assert calls == TILES + 2
    assert len(list(tmp_path.iterdir())) == 1 + 2  # the first step, and two tiles of the second
    calls = 0
    for resumed, uninterrupted in zip(sampled(run_of(journal=journal)), whole, strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)
    assert calls == TILES * 2 - 2
    assert len(list(tmp_path.iterdir())) == 1  # the result of the stage


def test_the_plan_is_that_of_the_largest_tile() -> None:
    run = run_of(planning=True)
    video, audio, grid = states(run)
    assert [len(tile.tokens) for tile in cut_tokens(video.positions, grid)] == [8 + 2] * TILES
    denoise(run, "whole", Sampling(SIGMAS), video, audio, zero_context(WEIGHTS))
    denoise(run, "tiled", Sampling(SIGMAS, tiles=grid), video, audio, zero_context(WEIGHTS))
    whole, tiled = run.ledger.needs
    assert tiled.choice["tiles"] == "4 in every step, the largest of 10 tokens"
    config = WEIGHTS.config(TRANSFORMER)
    text = zero_context(WEIGHTS).video.shape[1]
    footprints = {
        tokens: call_footprint(config, CallShape(tokens, audio.tokens, text), TOKEN_LIMITS[0]) for tokens in (10, 40)
    }
    assert tiled.activations == footprints[10].activations
    assert whole.activations == footprints[40].activations
    # The states of the whole video are there, too.
    assert footprints[10].host + 3 * 4 * 40 * 128 < tiled.host < footprints[10].host + footprints[40].host
    assert tiled.flops > 0.9 * whole.flops
