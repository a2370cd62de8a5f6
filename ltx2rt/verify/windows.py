"""Golden cases of long clips: where windows and key frames lie, and how pictures and sound are joined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.conditioning import evenly_spaced_keyframes
from ltx2rt.graph.diffusion.seams import FramesInMemory, PictureJoin, crossfaded
from ltx2rt.graph.diffusion.windows import Window, reference_prefix, window_keyframes, window_plan
from ltx2rt.kernels.host import from_numbers
from ltx2rt.spelling import spelled_as
from ltx2rt.verify.golden import Case, Check, GoldenFile

_STEP = 8
# How the official code names what its errors are about.
_OFFICIAL = {
    "chunk_pixel_frames": "chunk_pixel_frames",
    "chunk_carry_frames": "next_video_carry_frames",
    "chunk_blend_frames": "overlap_blend_frames",
    "num_generated_keyframes": "generated_keyframes",
}
# Two names of the same there.
_BLEND = ("next_video_blend_frames", "overlap_blend_frames")
_EXACT = {"atol": 1e-6}


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of the files that hold plans and seams of release 1.4."""
    if golden.name == "plans_1_4.json":
        yield Case(f"{golden.name}/chunks", lambda: _plans(golden))
        yield Case(f"{golden.name}/chunk_keyframes", lambda: _keyframes(golden))
        yield Case(f"{golden.name}/reference_prefix_latents", lambda: _prefixes(golden))
    if golden.name == "seams_1_4.safetensors":
        yield Case(f"{golden.name}/video", lambda: _pictures(golden))
        yield Case(f"{golden.name}/audio", lambda: _sound(golden))


def plan_rows(windows: tuple[Window, ...]) -> list[list[int]]:
    """Windows as the golden files have them."""
    return [[window.start, window.frames, window.carry, window.carry_out, window.blend] for window in windows]


def saved_rows(plan: list[dict[str, int]]) -> list[list[int]]:
    """The same of a saved plan."""
    return [[row[key] for key in ("start", "frames", "carry_in", "carry_out", "blend")] for row in plan]


def _windows(case: dict[str, Any]) -> tuple[Window, ...]:
    blend = case.get("blend")
    carry = case["carry"]
    blend = carry if blend is None else blend
    return window_plan(case["frames"], window=case["window"], carry=carry, blend=blend, step=_STEP)


def _plans(golden: GoldenFile) -> Iterator[Check]:
    for case in golden.entry("chunks"):
        name = " ".join(f"{key}={case[key]}" for key in ("frames", "window", "carry", "blend"))
        if isinstance(case["plan"], dict):
            yield _refused(name, case["plan"]["error"], lambda case=case: _windows(case))
        else:
            yield Check(name, from_numbers(plan_rows(_windows(case))), from_numbers(saved_rows(case["plan"])), atol=0)


def _keyframes(golden: GoldenFile) -> Iterator[Check]:
    for case in golden.entry("chunk_keyframes"):
        windows, budget = _windows(case), case["budget"]
        name = f"frames={case['frames']} budget={budget}"
        if isinstance(case["positions"], dict):
            error = case["positions"]["error"]
            yield _refused(name, error, lambda windows=windows, budget=budget: window_keyframes(windows, budget))
            continue
        if len(windows) == 1:
            found = evenly_spaced_keyframes(budget, case["frames"])
        else:
            found = window_keyframes(windows, budget)
        yield Check(name, from_numbers(found), from_numbers(case["positions"]), atol=0)


def _prefixes(golden: GoldenFile) -> Iterator[Check]:
    for case in golden.entry("reference_prefix_latents"):
        found = reference_prefix(case["carry"], case["temporal_scale"], _STEP)
        name = f"carry={case['carry']} scale={case['temporal_scale']}"
        yield Check(name, from_numbers(found), from_numbers(case["latents"]), atol=0)


def _refused(name: str, error: str, attempt: Any) -> Check:
    """Whether we refuse the same in the same words, which advice may follow."""
    said = ""
    with spelled_as(_OFFICIAL):
        try:
            attempt()
        except UsageError as refusal:
            said = str(refusal)
    return Check(name, from_numbers(said.startswith(error.replace(*_BLEND))), from_numbers(True), atol=0)


def _pictures(golden: GoldenFile) -> Iterator[Check]:
    tail, overlap = golden.given("video.tail"), golden.given("video.decoded_overlap")
    join = PictureJoin(FramesInMemory())
    blend, carry = len(tail), len(overlap)
    before = Window(0, 2, 0, 2 * carry, 0, carry, blend)
    padding = np.zeros((before.frames - blend, *tail.shape[1:]), np.float32)
    for _ in join.frames(before, [padding, tail]):
        pass
    after = Window(1, 2, carry, 2 * carry, carry)
    found = np.concatenate(list(join.frames(after, [overlap, np.zeros_like(overlap)])))
    yield golden.check("video.blended", found[:blend], **_EXACT)


def _sound(golden: GoldenFile) -> Iterator[Check]:
    left, right = golden.given("audio.left").T, golden.given("audio.right").T
    for count in (96, 1):
        faded, rest = crossfaded(left, right, count)
        yield golden.check(f"audio.fade{count}.left", faded.T, **_EXACT)
        yield golden.check(f"audio.fade{count}.right", rest.T, **_EXACT)
