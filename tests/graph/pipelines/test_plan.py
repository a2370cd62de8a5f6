"""Plans: the stages that really run, budgets that choose and refuse, manifests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ltx2rt import api, embedded
from ltx2rt.api.planning import ledger
from ltx2rt.errors import CheckpointError, MemoryBudgetError, UsageError
from ltx2rt.graph.diffusion.noise import TorchCpuNoise
from ltx2rt.graph.pipelines.plan import Plan, Rates, StagePlan
from ltx2rt.graph.stages.denoise import stage as denoise_stage
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.graph.stages.events import Evaluated
from ltx2rt.memory.need import Need
from ltx2rt.weights.safetensors import SafetensorsFile

RATES = Rates(1e9, 1e9)
SMALL: dict[str, Any] = {"height": 128, "width": 128, "num_frames": 9}


@pytest.mark.parametrize(
    ("name", "more"), [("distilled", {}), pytest.param("one-stage", {"num_inference_steps": 1}, marks=pytest.mark.slow)]
)
def test_the_planned_stages_are_those_that_run(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    pipeline = api.load(name)
    plan, assumed = pipeline.plan("a red circle", rates=RATES, **SMALL, **more)
    clip = pipeline("a red circle", **SMALL, **more)
    clip.save(tmp_path / "clip.mp4", sidecar=False)
    assert [stage.need.name for stage in plan.stages] == [report.name for report in clip.report]
    assert assumed == []
    for stage, report in zip(plan.stages, clip.report, strict=True):
        # The process may have grown since; what a stage adds may not be more than was planned.
        assert report.weight_bytes <= stage.need.resident
        assert abs(stage.need.total - (report.planned_peak_bytes - plan.base_bytes)) < 64 << 20


def test_json_has_exactly_the_documented_keys() -> None:
    plan, _ = api.load("distilled").plan("a red circle", rates=RATES, **SMALL)
    found = json.loads(json.dumps(plan.as_dict()))
    assert set(found) == {"windows", "stages", "steps", "seconds", "peak_bytes"}
    keys = {
        "name",
        "window",
        "steps",
        "resident_bytes",
        "streamed_bytes",
        "streamed_bytes_per_step",
        "peak_bytes",
        "flops",
        "received_bytes",
        "exchanges",
        "seconds",
    }
    assert found["windows"] == [{"start": 0, "frames": 9, "carried": 0, "blended": 0}]
    assert found["steps"] == 8 + 3
    assert all(set(stage) == keys for stage in found["stages"])
    assert found["peak_bytes"] == max(stage["peak_bytes"] for stage in found["stages"])


def manifest(folder: Path) -> Path:
    """The embedded checkpoint as a manifest."""
    source = SafetensorsFile(embedded.CHECKPOINT)
    tensors = {name: [info.dtype, list(info.shape)] for name, info in source.tensors.items()}
    path = folder / "model.json"
    path.write_text(json.dumps({"tensors": tensors, "metadata": source.metadata}))
    return path


def test_a_manifest_is_planned_like_the_file(tmp_path: Path) -> None:
    files = {"text_encoder": embedded.TEXT_ENCODER, "spatial_upscaler": embedded.SPATIAL_UPSCALER}
    of_file, _ = api.load("distilled").plan("a red circle", memory=10**9, rates=RATES, **SMALL)
    of_manifest, _ = api.load("distilled", checkpoint=manifest(tmp_path), **files).plan(  # type: ignore[arg-type]
        "a red circle", memory=10**9, rates=RATES, **SMALL
    )
    assert [stage.need for stage in of_file.stages] == [stage.need for stage in of_manifest.stages]


def test_missing_files_are_assumed_and_named(tmp_path: Path) -> None:
    pipeline = api.load("distilled", checkpoint=manifest(tmp_path), keep_loaded=False)
    plan, assumed = pipeline.plan("a red circle", memory=10**12, rates=RATES, **SMALL)
    assert [text.split(":")[0] for text in assumed] == ["text encoder", "spatial upscaler"]
    # Gemma 3 12B: 48 layers of 0.45 GB, of which two are in memory.
    assert 21e9 < plan.stages[0].need.streamed < 22e9
    assert 0.85e9 < plan.stages[0].need.slots < 0.95e9


def test_a_budget_chooses_and_too_small_a_one_is_refused() -> None:
    pipeline = api.load("distilled")
    wide, _ = pipeline.plan("a red circle", memory=10**11, rates=RATES, **SMALL)
    denoise = next(stage for stage in wide.stages if stage.need.name == "denoise 1")
    assert denoise.need.settings["depth"] == 0
    with pytest.raises(MemoryBudgetError, match=r"stage 'text encoder' needs .* more than the budget of 20 MB; .*"):
        pipeline.plan("a red circle", memory="20MB", rates=RATES, **SMALL)
    with pytest.raises(MemoryBudgetError, match="--memory"):
        pipeline("a red circle", memory="20MB", **SMALL)
    with pytest.raises(UsageError, match="not a memory size"):
        pipeline.plan("a red circle", memory="lots", rates=RATES, **SMALL)
    with pytest.raises(UsageError, match="must be positive"):
        ledger(-1)


def test_seconds_overlap_reading_and_computing() -> None:
    need = Need("x", weights=10**9, streamed=4 * 10**9, flops=3e9, settings={"depth": 2})
    assert RATES.seconds(need) == 1.0 + 4.0
    assert RATES.seconds(Need("x", streamed=4 * 10**9, flops=3e9, settings={"depth": 1})) == 7.0
    plan = Plan((StagePlan(need, 7, 5.0), StagePlan(need, 9, 2.0)), 1, None)
    assert (plan.peak_bytes, plan.seconds) == (9, 7.0)


ENHANCED: dict[str, Any] = {"enhance_prompt": True, "enhance_max_tokens": 6}


@pytest.mark.slow
def test_prompt_enhancement_stands_in_the_plan(tmp_path: Path) -> None:
    pipeline = api.load("distilled")
    plan, _ = pipeline.plan("a red circle", rates=RATES, **SMALL, **ENHANCED)
    clip = pipeline("a red circle", **SMALL, **ENHANCED)
    clip.save(tmp_path / "clip.mp4", sidecar=False)
    assert [stage.need.name for stage in plan.stages] == [report.name for report in clip.report]
    assert plan.stages[0].need.name == "prompt enhancement"
    assert clip.report[0].weight_bytes <= plan.stages[0].need.resident
    short, _ = pipeline.plan("a red circle", rates=RATES, **SMALL)
    # The text encoder is planned for the longest prompt that may be written.
    assert plan.stages[1].need.flops >= short.stages[0].need.flops
    long, _ = pipeline.plan("a red circle", rates=RATES, **SMALL, enhance_prompt=True, enhance_max_tokens=400)
    assert long.stages[1].need.total > plan.stages[1].need.total


@pytest.mark.parametrize("planned", [True, False])
def test_what_is_wrong_with_the_enhancement_surfaces_before_anything_runs(planned: bool, tmp_path: Path) -> None:
    events: list[object] = []

    def use(pipeline: api.Pipeline, **more: Any) -> None:
        settings = {**SMALL, **ENHANCED, **more}
        if planned:
            pipeline.plan("a red circle", rates=RATES, **settings)
        else:
            pipeline("a red circle", observer=events.append, **settings)

    with pytest.raises(UsageError, match="enhance_top_p must be 0 to 1, got 2"):
        use(api.load("distilled"), enhance_top_p=2.0)
    shutil.copytree(embedded.TEXT_ENCODER, tmp_path / "gemma")
    (tmp_path / "gemma" / "chat_template.jinja").write_text("{% for x %}")
    files = {"checkpoint": embedded.CHECKPOINT, "spatial_upscaler": embedded.SPATIAL_UPSCALER}
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: the chat template cannot be used"):
        use(api.load("distilled", text_encoder=tmp_path / "gemma", **files))
    assert events == []


def test_an_assumed_text_encoder_enhances_in_a_plan(tmp_path: Path) -> None:
    files = {"checkpoint": manifest(tmp_path), "spatial_upscaler": embedded.SPATIAL_UPSCALER}
    pipeline = api.load("distilled", **files)
    wide, assumed = pipeline.plan("a red circle", memory=10**12, rates=RATES, **SMALL, **ENHANCED)
    assert assumed == ["text encoder: Gemma 3 12B, bf16"]
    need = wide.stages[0].need
    assert need.choice["layers"] == "resident"
    assert 23e9 < need.weights < 24.5e9
    # The embedding, which is the head, stays: 2 GB; two layers of 0.45 GB.
    narrow, _ = pipeline.plan("a red circle", memory=8 * 10**9, rates=RATES, **SMALL, **ENHANCED)
    need = narrow.stages[0].need
    assert need.choice["layers"] == "streamed, read ahead, for every token"
    assert 1.9e9 < need.weights < 2.1e9
    assert 0.85e9 < need.slots < 0.95e9
    assert need.streamed > 6 * 21e9


def load(name: str) -> api.Pipeline:
    """A pipeline of the embedded model, with the distilled LoRA where it needs one."""
    return api.load(name, distilled_lora=embedded.DISTILLED_LORA if name == "two-stage-hq" else None)


def test_a_plan_draws_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*arguments: object) -> None:
        raise AssertionError("a plan needs no noise")

    monkeypatch.setattr(TorchCpuNoise, "normal", draw)
    for name in ("distilled", "two-stage-hq", "one-stage"):
        load(name).plan("a red circle", rates=RATES, **SMALL)


@pytest.mark.parametrize(("name", "steps"), [("two-stage-hq", 2), pytest.param("one-stage", 3, marks=pytest.mark.slow)])
def test_evaluations_are_those_that_run(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def recording(*arguments: Any) -> DenoiseTask:
        task = make_task(*arguments)
        planned.append(task.evaluations)
        return task

    make_task = denoise_stage._task
    monkeypatch.setattr(denoise_stage, "_task", recording)
    pipeline, evaluated = load(name), []
    settings = {"height": 64, "width": 64, "num_frames": 1, "num_inference_steps": steps, "latents_only": True}
    pipeline.plan("a red circle", rates=RATES, **settings)
    pipeline("a red circle", observer=lambda e: evaluated.append(e) if isinstance(e, Evaluated) else None, **settings)
    stages = 1 if name == "one-stage" else 2
    assert len(planned) == 3 * stages  # the plan, the plan before the run, and the run
    assert sum(planned[:stages]) == len(evaluated)
