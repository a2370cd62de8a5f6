"""A second run with the same prompt skips the text stages, with the same bits; the plan knows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltx2rt import api, embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines.open_inputs import prompt_cache
from ltx2rt.graph.pipelines.plan import Rates

SMALL: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 9, "seed": 3, "latents_only": True}
GUIDED = {**SMALL, "num_inference_steps": 1}
TEXT_STAGES = ["text encoder", "text projection", "connectors"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTX2RT_CACHE", str(tmp_path))
    monkeypatch.delenv("LTX2RT_PROMPT_CACHE", raising=False)
    return tmp_path / "prompts"


def stages(clip: api.Clip) -> list[str]:
    return [report.name for report in clip.report if report.name in TEXT_STAGES]


def planned(pipeline: api.Pipeline, prompt: str, **settings: Any) -> list[str]:
    plan, _ = pipeline.plan(prompt, rates=Rates(1e9, 1e9), **settings)
    return [stage.need.name for stage in plan.stages if stage.need.name in TEXT_STAGES]


def test_the_second_run_skips_the_text_stages(folder: Path) -> None:
    pipeline = api.load("one-stage", keep_loaded=False)
    assert planned(pipeline, "a red circle", **GUIDED) == TEXT_STAGES
    first = pipeline("a red circle", **GUIDED)
    assert stages(first) == TEXT_STAGES
    assert len(list(folder.iterdir())) == 2  # prompt and negative prompt
    assert planned(pipeline, "a red circle", **GUIDED) == []
    again = api.load("one-stage", keep_loaded=False)("a red circle", **GUIDED)
    assert stages(again) == []
    np.testing.assert_array_equal(again.video_latent, first.video_latent)
    np.testing.assert_array_equal(again.audio_latent, first.audio_latent)

    other = pipeline("a blue square", **GUIDED)  # with the same negative prompt
    assert stages(other) == TEXT_STAGES
    assert len(list(folder.iterdir())) == 3
    alone = pipeline("a blue square", **GUIDED, prompt_cache=False)
    assert stages(alone) == TEXT_STAGES
    np.testing.assert_array_equal(other.video_latent, alone.video_latent)


def test_what_decides_the_bits_makes_another_entry(folder: Path, tmp_path: Path) -> None:
    expected = 0
    for files in (
        {},
        {"dtype": "float32"},
        {"loras": [(embedded.DISTILLED_LORA, 1.0)]},  # which changes nothing of the text path
    ):
        api.load("one-stage", keep_loaded=False, **files)("a red circle", **GUIDED)  # type: ignore[arg-type]  # files by name
        expected += 2 * ("loras" not in files)  # prompt and negative prompt
        assert len(list(folder.iterdir())) == expected


def test_a_run_without_it_neither_keeps_nor_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = api.load("one-stage", keep_loaded=False)
    pipeline("a red circle", **GUIDED, prompt_cache=False)
    assert not folder.exists()
    monkeypatch.setenv("LTX2RT_PROMPT_CACHE", "0")
    pipeline("a red circle", **GUIDED)
    assert not folder.exists()


def test_a_damaged_entry_is_encoded_again(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = api.load("distilled", keep_loaded=False)
    first = pipeline("a red circle", **SMALL)
    (entry,) = folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = pipeline("a red circle", **SMALL)
    assert "is encoded again" in caplog.text
    assert stages(again) == TEXT_STAGES
    np.testing.assert_array_equal(again.video_latent, first.video_latent)


def test_the_size_is_what_the_variable_says(tmp_path: Path) -> None:
    store = prompt_cache({"LTX2RT_CACHE": str(tmp_path), "LTX2RT_PROMPT_CACHE": "20MB"})
    assert store is not None
    assert (store.folder, store.most_bytes) == (tmp_path / "prompts", 20_000_000)
    assert prompt_cache({"LTX2RT_CACHE": str(tmp_path), "LTX2RT_PROMPT_CACHE": "0"}) is None
    with pytest.raises(UsageError, match="LTX2RT_PROMPT_CACHE: 'much' is not a memory size"):
        prompt_cache({"LTX2RT_PROMPT_CACHE": "much"})
