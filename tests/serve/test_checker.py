"""The checks of requests: with the embedded model in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ltx2rt import embedded
from ltx2rt.errors import MediaError, MemoryBudgetError, UsageError
from ltx2rt.serve.asked import Served, read_asked
from ltx2rt.serve.checker import Checker

SMALL = {"prompt": "a red circle", "size": "64x64", "num_frames": 9}


@pytest.fixture(scope="module")
def checker() -> Checker:
    loras = {"silhouette": str(embedded.IC_LORA)}
    return Checker({"files": {}, "loras": loras, "model": None, "preview_decoder": None})


def asked(**fields: Any) -> dict[str, Any]:
    return read_asked({**SMALL, **fields}, Served("toy", ("silhouette",))).as_dict()


def test_pipelines_are_offered_with_what_they_take(checker: Checker) -> None:
    offered = checker.offered()
    assert offered["model"] == "ltx2rt-embedded"
    found = {pipeline["name"]: pipeline for pipeline in offered["pipelines"]}
    assert "text-to-video" in found
    assert found["two-stage"]["defaults"]["video_cfg_guidance_scale"] == 3.0
    assert "video_cfg_guidance_scale" not in found["distilled"]["settings"]
    assert {"video_path", "start_time"} <= set(found["retake"]["settings"])
    assert "crf" not in found["text-to-audio"]["settings"]
    assert all(pipeline["reason"] == "" for pipeline in found.values())


def test_a_request_is_decided_and_planned(checker: Checker, tmp_path: Path) -> None:
    found = checker.check(asked(seed="random", seconds=0.4, num_frames=None), tmp_path, 10**10)
    assert (found["width"], found["height"], found["num_frames"], found["seconds"]) == (64, 64, 9, 0.375)
    assert 0 <= found["seed"] < 2**31
    assert found["pipeline"] == "distilled"
    assert [stage["name"] for stage in found["plan"]["stages"]][-1] == "video decoder"
    assert found["plan"]["peak_bytes"] < found["plan"]["budget_bytes"] == 10**10
    assert found["notices"] == []
    assert "does not know: dragon" in checker.check(asked(prompt="a red dragon"), tmp_path, 10**10)["notices"][0]


def test_what_does_not_fit_is_planned_with_what_it_needs(checker: Checker, tmp_path: Path) -> None:
    question = {"asked": asked(), "folder": str(tmp_path), "budget": 1000}
    with pytest.raises(MemoryBudgetError) as error:
        checker.check(question["asked"], tmp_path, 1000)
    refused = checker.unfitting(question, error.value)
    assert refused["code"] == "memory"
    plan = refused["more"]["plan"]
    assert plan["budget_bytes"] == 1000
    assert plan["peak_bytes"] <= plan["needed_bytes"]
    assert len(plan["stages"]) > 5


def test_files_of_a_request_are_opened_here(checker: Checker, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "input-0.png")
    (tmp_path / "input-1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    right = {**asked(), "settings": asked()["settings"] | {"images": [["input-0.png", 0, 1.0]]}}
    assert checker.check(right, tmp_path, 10**10)["seconds"] == 0.375
    wrong = {**asked(), "settings": asked()["settings"] | {"images": [["input-1.png", 0, 1.0]]}}
    with pytest.raises(MediaError):
        checker.check(wrong, tmp_path, 10**10)


def test_clips_whose_plan_alone_would_take_minutes_are_refused(checker: Checker, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ask for a smaller or shorter clip"):
        checker.check(asked(size="16384x12800", num_frames=505), tmp_path, 10**15)


def test_loras_are_those_of_the_request_alone(checker: Checker, tmp_path: Path) -> None:
    checker.check(asked(loras=[{"name": "silhouette", "strength": 0.5}]), tmp_path, 10**10)
    assert [strength for _, strength in checker._pipelines.get("text-to-video", [["silhouette", 0.5]]).loras] == [0.5]
    assert checker._pipelines.get("text-to-video", []).loras == ()
