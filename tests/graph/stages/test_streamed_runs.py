"""Streamed, in parts, batched: whatever the ledger chooses, the clip has the same bits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from streamed_files import write_checkpoint, write_lora

from ltx2rt import api, embedded
from ltx2rt.graph.stages.run import Run
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need

SMALL = {"height": 64, "width": 64, "num_frames": 9, "seed": 3}
GUIDED = {"num_inference_steps": 1}
Wanted = Callable[[Need], bool]


class Chooser(Ledger):
    """Takes the first option that is wanted, where a stage has one."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self._wanted = wanted

    def choose(self, options: Iterable[Need]) -> Need:
        ways = list(options)
        return super().choose([need for need in ways if self._wanted(need)] or ways)


def made(pipeline: api.Pipeline, wanted: Wanted, **settings: object) -> tuple[list[np.ndarray], Run]:
    """Latents, sound and frames of a run that takes the wanted options."""
    inputs, _ = pipeline._prepare({"prompt": "a red circle", **SMALL, **settings}, pipeline._files)
    run = Run(pipeline._files, inputs, ledger=Chooser(wanted))
    clip = pipeline.entry.generate(run)
    assert clip.frames is not None
    frames = np.concatenate(list(clip.frames()))
    return [value for value in (clip.video_latent, clip.audio_latent, clip.audio, frames) if value is not None], run


def resident(need: Need) -> bool:
    return need.settings.get("depth", 0) == 0


@cache
def resident_values() -> list[np.ndarray]:
    """Latents, sound and frames of the embedded model whose blocks stay in memory."""
    return made(api.load("distilled"), resident)[0]


@cache
def values_in_turn() -> list[np.ndarray]:
    """The same with guidance, one pass after the other."""
    return made(api.load("one-stage"), lambda need: need.settings.get("walk", "in turn") == "in turn", **GUIDED)[0]


def depth(slots: int) -> Wanted:
    return lambda need: need.settings.get("depth", slots) == slots


def load(name: str, checkpoint: Path, **files: object) -> api.Pipeline:
    return api.load(
        name,
        checkpoint=checkpoint,
        text_encoder=embedded.TEXT_ENCODER,
        spatial_upscaler=embedded.SPATIAL_UPSCALER,
        **files,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("precision", "with_lora"),
    [
        pytest.param(precision, with_lora, marks=pytest.mark.slow)  # by default as below, of the embedded model
        for precision, with_lora in (("fp8", True), ("bf16", False), ("bf16", True), ("int8", False), ("int8", True))
    ],
)
def test_streamed_blocks_give_the_bits_of_resident_ones(tmp_path: Path, precision: str, with_lora: bool) -> None:
    loras = [(write_lora(tmp_path), 0.8)] if with_lora else []
    pipeline = load("distilled", write_checkpoint(tmp_path, precision), loras=loras)
    expected, run = made(pipeline, resident)
    assert all(report.streamed_bytes == 0 for report in run.stages.reports if report.name.startswith("denoise"))
    streamed, run = made(pipeline, depth(2))
    for report in run.stages.reports:
        if report.name.startswith("denoise"):
            assert report.streamed_bytes > 0
    for value, same in zip(streamed, expected, strict=True):
        np.testing.assert_array_equal(value, same)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(depth(1), marks=pytest.mark.slow, id="a single slot"),
        pytest.param(lambda need: not need.settings.get("keep_text_keys"), id="no kept text keys"),
    ],
)
def test_other_ways_give_the_same_bits(wanted: Wanted) -> None:
    values, _ = made(api.load("distilled"), wanted)
    for value, same in zip(values, resident_values(), strict=True):
        np.testing.assert_array_equal(value, same)


def partly(need: Need) -> bool:
    """A way with some blocks resident and others streamed."""
    return 0 < len(need.settings.get("streamed", (0,))) < 4


@pytest.mark.parametrize("slots", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_some_blocks_resident_and_others_streamed_give_the_same_bits(tmp_path: Path, slots: int) -> None:
    pipeline = load("distilled", write_checkpoint(tmp_path, "fp8"), loras=[(write_lora(tmp_path), 0.8)])
    expected, _ = made(pipeline, resident)
    values, run = made(pipeline, lambda need: partly(need) and depth(slots)(need))
    stages = [need for need in run.ledger.needs if need.name.startswith("denoise")]
    reports = {report.name: report for report in run.stages.reports}
    assert len(stages) == 2
    for need in stages:
        assert 0 < len(need.settings["streamed"]) < 4
        assert reports[need.name].streamed_bytes == need.streamed == need.steps * need.streamed_per_step
    for value, same in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, same)


@pytest.mark.parametrize(
    ("walk", "batch"),
    [
        *(("together", 2), ("forked", 2)),
        *(
            pytest.param(*both, marks=pytest.mark.slow)
            for both in (("in turn", 1), ("together", 1), ("forked", 1), ("in turn", 2))
        ),
    ],
)
def test_guidance_passes_side_by_side_and_in_turn_give_the_same_bits(walk: str, batch: int) -> None:
    def way(need: Need) -> bool:
        return (need.settings.get("walk", walk), need.settings.get("batch", batch)) == (walk, batch)

    values, run = made(api.load("one-stage"), way, **GUIDED)
    if not (walk == "in turn" and batch == 2):
        assert any(need.settings.get("walk") == walk and way(need) for need in run.ledger.needs)
    for value, same in zip(values, values_in_turn(), strict=True):
        np.testing.assert_array_equal(value, same)


@pytest.mark.slow
def test_the_lora_of_these_tests_changes_something(tmp_path: Path) -> None:
    changed = load("distilled", embedded.CHECKPOINT, loras=[(write_lora(tmp_path), 0.8)])
    assert np.abs(resident_values()[0] - made(changed, resident)[0][0]).max() > 1e-3


@pytest.mark.parametrize("push", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_fewer_frames_at_a_time_give_the_same_bits(push: int) -> None:
    expected = resident_values()
    pieces, run = made(api.load("distilled"), lambda need: need.settings.get("push", push) == push)
    assert run.ledger.needs[-1].settings["push"] == push
    np.testing.assert_array_equal(pieces[-1], expected[-1])


def test_streamed_blocks_give_the_same_bits_and_are_gone_after_their_stage() -> None:
    expected = resident_values()
    gc.collect()
    before = mx.get_active_memory()  # of other tests
    streamed, run = made(api.load("distilled"), depth(2))
    for value, same in zip(streamed, expected, strict=True):
        np.testing.assert_array_equal(value, same)
    assert all(report.streamed_bytes > 0 for report in run.stages.reports if report.name.startswith("denoise"))
    held = sum(report.weight_bytes for report in run.stages.reports)
    # What remains are the prompt's contexts.
    assert max(report.left_bytes for report in run.stages.reports) < before + run.ledger.carried + 1_000_000
    assert held > 2_000_000
