"""Weights that a stage leaves to a later one of the same run, where those between have room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt import api, embedded
from ltx2rt.errors import Cancelled
from ltx2rt.graph.pipelines.plan import plan
from ltx2rt.graph.stages.events import Event, StepDone
from ltx2rt.graph.stages.handover import Handover, Use, planned_handover
from ltx2rt.graph.stages.run import Run
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.kept_weights import StageWeights
from ltx2rt.weights.safetensors import write_safetensors

SMALL: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 9, "seed": 3}
MIB = 1 << 20


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Three tensors of 1 MiB."""
    values = {f"model.diffusion_model.transformer_blocks.{i}.scale": np.full(MIB // 4, i, np.float32) for i in range(3)}
    write_safetensors(tmp_path / "model.safetensors", values)
    return Checkpoint.open(tmp_path / "model.safetensors")


def weights(checkpoint: Checkpoint, *numbers: int) -> StageWeights:
    specs = [ParamSpec(f"transformer_blocks.{i}.scale", (MIB // 4,), "F32") for i in numbers]
    return StageWeights(checkpoint, "transformer", specs)


def uses(checkpoint: Checkpoint, *stages: tuple[str, Sequence[int], int]) -> list[Use]:
    """Stages of a name, the tensors that they hold, and what they take besides in MiB."""
    return [
        Use(Need(name, weights=len(held) * MIB, activations=mib * MIB), (weights(checkpoint, *held),))
        for name, held, mib in stages
    ]


def handed(stages: Iterable[Any], which: str) -> list[int]:
    """MiB of each stage."""
    return [sum(getattr(stage, which).values()) // MIB for stage in stages]


STAGES = (("first", (0, 1, 2), 10), ("between", (), 8), ("second", (1, 2), 10))


def test_a_stage_keeps_what_the_next_one_needs(checkpoint: Checkpoint) -> None:
    stages = planned_handover(uses(checkpoint, *STAGES), Ledger(None, 0))
    assert handed(stages, "left") == [2, 2, 0]
    assert handed(stages, "beside") == [0, 2, 0]
    assert handed(stages, "taken") == [0, 0, 2]
    need = stages[1].applied(Need("between", activations=8 * MIB))
    assert (need.kept, need.present, need.left) == (2 * MIB, 0, 2 * MIB)
    assert need.total == 10 * MIB
    assert stages[0].applied(Need("first")).choice["hands on"] == "2 MB to second"
    assert stages[2].applied(Need("second")).choice["weights"] == "2 MB there already"


@pytest.mark.parametrize(("spare", "kept"), [(2.5, 2), (1.5, 1), (0.5, 0)])
def test_only_as_much_as_the_stages_between_have_room_for(checkpoint: Checkpoint, spare: float, kept: int) -> None:
    accounts = Ledger(int(1.02 * (13 + spare) * MIB), 0)
    stages = planned_handover(uses(checkpoint, STAGES[0], ("between", (), 13), STAGES[2]), accounts)
    assert handed(stages, "left")[0] == kept


def test_stages_in_a_row_need_no_room(checkpoint: Checkpoint) -> None:
    stages = planned_handover(uses(checkpoint, STAGES[0], STAGES[2], ("third", (2,), 10)), Ledger(14 * MIB, 0))
    assert handed(stages, "left") == [2, 1, 0]
    assert handed(stages, "taken") == [0, 2, 1]


def test_stages_find_what_was_left_and_others_nothing(checkpoint: Checkpoint) -> None:
    found = uses(checkpoint, *STAGES)
    handover = Handover(planned_handover(found, Ledger(None, 0)))
    read = []
    for use in found:
        handover.begin(use.need)
        read.append(handover.load(use.weights[0])[1] // MIB)
        handover.end()
    assert read == [3, 0, 0]

    handover = Handover(planned_handover(found, Ledger(None, 0)))
    handover.begin(found[0].need)
    handover.load(found[0].weights[0])
    handover.end()
    handover.begin(Need("a stage that nobody planned"))
    handover.end()
    need = handover.begin(found[2].need)
    assert need.present == 0
    assert handover.load(found[2].weights[0])[1] == 2 * MIB


def run_of(pipeline: api.Pipeline, budget: int | None, *, hands_on: bool) -> tuple[list[np.ndarray], Run]:
    inputs, _ = pipeline._prepare({"prompt": "a red circle", **SMALL}, pipeline._files)
    accounts = Ledger(budget)
    planned = plan(pipeline.entry.generate, pipeline._files, inputs, accounts.unused())
    handover = Handover(planned.handover) if hands_on else None
    run = Run(pipeline._files, inputs, ledger=accounts, handover=handover)
    clip = pipeline.entry.generate(run)
    assert clip.frames is not None
    frames = np.concatenate(list(clip.frames()))
    return [value for value in (clip.video_latent, clip.audio_latent, clip.audio, frames) if value is not None], run


def test_the_second_stage_of_a_run_finds_the_blocks_of_the_first() -> None:
    pipeline = api.load("distilled")
    expected, apart = run_of(pipeline, None, hands_on=False)
    values, run = run_of(pipeline, None, hands_on=True)
    for value, same in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, same)
    before = {report.name: report for report in apart.stages.reports}
    after = {report.name: report for report in run.stages.reports}
    assert after["denoise 1"].loaded_bytes == before["denoise 1"].loaded_bytes > 10**6
    assert after["denoise 2"].loaded_bytes == 0
    for name in ("denoise 1", "spatial upscaler"):
        assert after[name].kept_bytes >= before["denoise 2"].loaded_bytes
    assert after["denoise 2"].kept_bytes == 0


def test_a_call_that_keeps_nothing_hands_on_and_leaves_nothing() -> None:
    pipeline = api.load("distilled", keep_loaded=False)
    found, _ = pipeline.plan("a red circle", **SMALL)
    assert any("there already" in stage.need.choice.get("weights", "") for stage in found.stages)
    clip = pipeline("a red circle", **SMALL)
    reports = {report.name: report for report in clip.report}
    assert reports["denoise 2"].loaded_bytes == 0
    assert reports["denoise 1"].kept_bytes > 0
    assert pipeline.kept_bytes == 0


def test_other_loras_make_other_weights() -> None:
    pipeline = api.load("two-stage-hq", distilled_lora=embedded.DISTILLED_LORA, keep_loaded=False)
    found, _ = pipeline.plan("a red circle", num_inference_steps=2, **SMALL)
    needs = {stage.need.name: stage.need for stage in found.stages}
    assert 0 < needs["denoise 2"].present < needs["denoise 2"].weights  # what no LoRA changes


def test_a_run_that_is_stopped_keeps_nothing() -> None:
    pipeline = api.load("distilled", keep_loaded=False)
    inputs, _ = pipeline._prepare({"prompt": "a red circle", **SMALL}, pipeline._files)

    def stop(event: Event) -> None:
        if isinstance(event, StepDone):
            raise Cancelled("enough")

    planned = plan(pipeline.entry.generate, pipeline._files, inputs, Ledger())
    handover = Handover(planned.handover)
    with pytest.raises(Cancelled):
        pipeline.entry.generate(Run(pipeline._files, inputs, stop, handover=handover))
    assert handover._store.nbytes == 0
