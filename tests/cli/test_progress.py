"""What is said while a command works where stderr is no terminal: lines, objects for programs, or nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from command_inputs import one_file

from ltx2rt.cli import progress
from ltx2rt.cli.main import run
from ltx2rt.cli.progress import Progress
from ltx2rt.graph.diffusion.windows import window_plan
from ltx2rt.graph.stages.events import (
    StageFinished,
    StageRestored,
    StageStarted,
    StepDone,
    TileDone,
    WindowStarted,
)

SMALL = ["a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
EDIT = ["--pipeline", "retake", "--start-time", "0.1", "--end-time", "0.3", "--video-path"]


def commands(media: Path, place: Path) -> dict[str, list[str]]:
    clip = str(media / "clip.mp4")
    return {
        "generate": ["generate", *SMALL, "-o", str(place / "o.mp4")],
        "edit": ["generate", "x", *EDIT, clip, "-o", str(place / "o.mp4")],
        "upscale": ["upscale", clip, "-o", str(place / "o.mp4")],
        "encode": ["encode", "a dog", "-o", str(place / "o.safetensors")],
    }


VERBS = ("generate", "edit", "upscale", "encode")


@pytest.mark.parametrize("verb", ["generate", pytest.param("edit", marks=pytest.mark.slow), "upscale", "encode"])
def test_lines_tell_where_a_command_is(
    verb: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(commands(media, tmp_path)[verb]) == 0
    lines = capsys.readouterr().err.splitlines()
    begun = [line.split(":")[0] for line in lines if line.endswith((": begun", " steps"))]
    done = [line.split(":")[0] for line in lines if ": done in " in line]
    assert len(begun + done) >= 4
    assert begun == done
    assert ("denoise 1: 8 steps" in lines) == (verb == "generate")
    assert [line for line in lines if line.startswith("settings: ")]


@pytest.mark.parametrize(
    "verb", [*(pytest.param(verb, marks=pytest.mark.slow) for verb in ("generate", "edit")), "upscale", "encode"]
)
def test_objects_tell_a_program_the_same(
    verb: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*commands(media, tmp_path)[verb], "--progress", "json"]
    preview = tmp_path / "p.png"
    words += ["--preview", str(preview)] if verb == "generate" else []
    assert run(words) == 0
    captured = capsys.readouterr()
    events: list[dict[str, Any]] = [json.loads(line) for line in captured.err.splitlines()]
    kinds = [event["event"] for event in events]
    assert set(kinds) <= {"message", "settings", "stage", "report", "written"}
    assert kinds[-1] == "written"
    assert events[-1]["path"] == captured.out.strip()
    assert [e["elapsed"] for e in events] == sorted(e["elapsed"] for e in events)
    stages = [event for event in events if event["event"] == "stage"]
    assert len(stages) >= 4
    for name in dict.fromkeys(event["stage"] for event in stages):
        own = [event for event in stages if event["stage"] == name]
        assert (own[0]["state"], own[-1]["state"]) == ("started", "finished")
        steps = own[0]["of"]
        assert [event["step"] for event in own] == [0, *range(1, steps + 1), steps]
        assert [event["seconds"] for event in own] == sorted(event["seconds"] for event in own)
        assert own[0]["seconds_left"] is None
        if steps:
            assert own[-1]["seconds_left"] == 0
    if verb == "generate":
        steps = [event for event in stages if event["state"] == "running"]
        assert len(steps) == 8 + 3
        assert {event["preview"] for event in steps if event["stage"] == "denoise 2"} == {str(preview)}
        assert next(event for event in events if event["event"] == "settings")["settings"]["seed"] == 10


@pytest.mark.parametrize(
    ("verb", "form"),
    [
        *((verb, ["--progress", "json"]) for verb in ("upscale", "encode")),
        ("encode", []),
        *(pytest.param(verb, ["--progress", "json"], marks=pytest.mark.slow) for verb in ("generate", "edit")),
        pytest.param("upscale", [], marks=pytest.mark.slow),
    ],
)
def test_quiet_silences_both(
    verb: str, form: list[str], media: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = one_file(weights, "distilled") if verb in ("generate", "edit", "encode") else []
    words = [*commands(media, tmp_path)[verb], *model, *form, "--quiet"]
    if verb == "generate":
        words += ["--spatial-upsampler-path", str(weights / "ltx-2-spatial-upscaler-x2-1.0.safetensors")]
    assert run(words) == 0
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if not line.startswith("ltx2rt: ")] == []


def test_a_long_stage_says_every_few_seconds_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    shown = Progress()
    shown.observe(StageStarted("denoise", 4))
    shown.observe(StepDone("denoise", 0, 4, 1.0, None, None))
    time.sleep(0.3)
    shown.observe(StageFinished("denoise"))
    shown.observe(StageStarted("video decoder"))
    time.sleep(0.3)
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("denoise: step 1 of 4, ") and line.endswith(" s left")]
    assert [line for line in lines if line.startswith("video decoder: ") and line.endswith(" s")]
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_tiles_of_a_step_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    for form in ("text", "json"):
        shown = Progress(form)
        shown.observe(StageStarted("denoise", 2))
        for index in range(2):
            shown.observe(TileDone("denoise", index, 2))
        shown.observe(StepDone("denoise", 0, 2, 1.0, None, None))
        shown.observe(TileDone("denoise", 0, 2))
        time.sleep(0.2 if form == "text" else 0)
        shown.observe(StageFinished("denoise"))
        lines = capsys.readouterr().err.splitlines()
        if form == "text":
            assert [line for line in lines if line.startswith("denoise: step 1 of 2, tile 1 of 2, ")]
        else:
            told = [json.loads(line) for line in lines]
            assert [(event["step"], event["tile"]) for event in told[:-1]] == [(0, None), (0, 1), (1, 0), (1, 1)]
            assert told[0]["seconds_left"] is None
            assert told[1]["tiles"] == 2


WINDOWS = window_plan(81, window=41, carry=17, blend=8, step=8)


def make_windows(said: Progress) -> None:
    """The first window as an interrupted run has left it, and half of the second one."""
    said.observe(WindowStarted(WINDOWS[0], 4))
    said.observe(StageRestored("denoise 1", 4))
    said.observe(WindowStarted(WINDOWS[1], 4))
    said.observe(StageStarted("denoise 1", 4))
    for step in range(2):
        said.observe(StepDone("denoise 1", step, 4, 1.0, None, None))
    said.close()


def test_objects_count_over_the_windows_of_a_clip(capsys: pytest.CaptureFixture[str]) -> None:
    make_windows(Progress("json"))
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    windows = [event for event in events if event["event"] == "window"]
    assert [(e["window"], e["windows"], e["start"], e["frames"]) for e in windows] == [(1, 3, 0, 41), (2, 3, 24, 41)]
    stages = [event for event in events if event["event"] == "stage"]
    assert [e["state"] for e in stages] == ["restored", "started", "running", "running"]
    assert [(e["window"], e["clip_step"], e["clip_of"]) for e in stages] == [
        (1, 4, 12),
        *((2, n, 12) for n in (4, 5, 6)),
    ]
    assert [e["clip_seconds_left"] is None for e in stages] == [True, True, False, False]


def test_lines_name_the_window(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    said = Progress()
    make_windows(said)
    said.observe(StageStarted("denoise 2", 3))
    deadline = time.monotonic() + 5
    found = ""
    while "of the clip" not in found and time.monotonic() < deadline:
        time.sleep(0.01)
        found += capsys.readouterr().err
    said.close()
    assert "window 1 of 3, denoise 1" in found
    assert "window 2 of 3, denoise 1: 4 steps" in found
    assert "; of the clip 6 of 12 steps, " in found
