"""Progress of a running job, by the times of its plan."""

from __future__ import annotations

from scripted_child import PLAN

from ltx2rt.serve.live import Live


def said(stage: str, state: str, step: int = 0, of: int = 0) -> dict[str, object]:
    return {"stage": stage, "state": state, "step": step, "of": of, "seconds_left": None}


def test_progress_follows_the_planned_time() -> None:
    live, found = Live(PLAN), []
    for message in (
        said("denoise 1", "started", 0, 4),
        said("denoise 1", "running", 2, 4),
        said("denoise 1", "finished", 4, 4),
        said("something else", "started"),
        said("video decoder", "started"),
        said("video decoder", "finished"),
    ):
        live.observe(message)
        found.append(live.progress)
    assert found == [0, 37, 75, 75, 75, 99]
    assert live.moved


def test_frames_that_are_decoded_are_progress_that_no_later_run_finds() -> None:
    live, found = Live(PLAN), []
    for message in (
        said("denoise 1", "restored"),
        said("video decoder", "started"),
        said("video decoder", "decoding", 9, 25),
        said("video decoder", "decoding", 25, 25),
    ):
        live.observe(message)
        found.append(live.progress)
    assert found == [75, 75, 84, 99]
    assert (live.step, live.of, live.moved) == (25, 25, False)


def test_stages_of_one_name_are_told_apart() -> None:
    stage = {"name": "denoise", "seconds": 1.0}
    live, found = Live({"stages": [stage, stage]}), []
    for state in ("started", "finished", "started", "finished"):
        live.observe(said("denoise", state))
        found.append(live.progress)
    assert found == [0, 50, 50, 99]


def test_what_an_interrupted_run_has_left_counts_and_is_no_progress_of_this_one() -> None:
    live = Live(PLAN)
    live.observe(said("denoise 1", "restored"))
    assert (live.progress, live.moved) == (75, False)
