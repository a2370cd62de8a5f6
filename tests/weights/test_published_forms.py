"""The published models in every form that people have: each opens, is complete and can be planned by headers alone."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import pytest
from published_files import FORMS, encoder_specs, specs_of

import ltx2rt
from ltx2rt.graph.pipelines.plan import Plan, Rates
from ltx2rt.inspection import inspect
from ltx2rt.set_inspection import inspect_set
from ltx2rt.weights.sets.units import SUFFIXES, is_text_encoder_folder

# What a model of each generation is published as.
SETS = [
    ("2.3", "ComfyUI, bare"),
    ("19b", "GGUF"),
    ("19b", "diffusers"),
    ("19b", "ComfyUI, bare"),
    ("19b", "ComfyUI, prefixed, fp8"),
    ("19b", "MLX"),
    ("2.3", "ComfyUI, prefixed, fp8"),
    ("2.3", "GGUF"),
    ("2.3", "diffusers"),
    ("2.3", "MLX"),
    ("2.5", "official"),
    ("2.5", "GGUF"),
    ("2.5", "MLX"),
]
ALWAYS = SETS[:1]
RATES = Rates(flops=1e13, read=2e9)
# Everything stays in memory, and what a small machine has.
LARGE, SMALL = "200GB", "12GB"


@pytest.mark.parametrize(
    ("generation", "form"), [pytest.param(*each, marks=[pytest.mark.slow] * (each not in ALWAYS)) for each in SETS]
)
def test_a_published_form(tmp_path: Path, generation: str, form: str) -> None:
    folder = FORMS[form](tmp_path / "models", generation)
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    assert sum(file.stat().st_size for file in files) > 1000 * sum(file.stat().st_blocks * 512 for file in files)
    encoders = [path for path in folder.rglob("*") if path.is_dir() and is_text_encoder_folder(path)]
    for path in [*(file for file in files if file.parent not in encoders), *encoders]:
        report = inspect(path)
        assert (report.missing, report.unexpected) == ([], []), path

    found = inspect_set(folder)
    assert (found.missing, found.error, found.text_encoder, found.refused) == ([], "", "", {})
    assert found.complete
    values = Counter[str]()
    for part in found.parts:
        held = part.report
        assert (held.missing, held.misshapen, held.unexpected, held.unchecked) == ([], [], [], 0)
        values[part.component] += held.parameters
    for upscaler in ("spatial_upscaler", "temporal_upscaler"):
        values.pop(upscaler, None)
    if "text_encoder" not in values:  # that of the folder beside the others, which a run takes
        values["text_encoder"] = inspect(encoders[0]).parameters
    specs = [*specs_of(generation).values(), *encoder_specs(generation)]
    assert sum(values.values()) == sum(prod(spec.shape) for spec in specs)

    pipeline = ltx2rt.load(checkpoint=folder)
    assert pipeline.generation == generation
    large, small = planned(pipeline, LARGE), planned(pipeline, SMALL)
    assert small.peak_bytes < 12e9 < large.peak_bytes
    assert sum(stage.need.streamed for stage in small.stages) > sum(stage.need.streamed for stage in large.stages)


def planned(pipeline: ltx2rt.Pipeline, memory: str) -> Plan:
    """The plan of a clip, in which nothing but upscalers is assumed."""
    plan, assumed = pipeline.plan("a red circle", memory=memory, rates=RATES)
    assert all("upscaler" in text for text in assumed)
    names = {stage.need.name for stage in plan.stages}
    assert {"text encoder", "connectors", "denoise 1", "denoise 2", "video decoder", "audio decoder"} <= names
    return plan
