"""Runs that survive: after Ctrl-C and SIGKILL the same bits come from what is left, and the end leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from command_inputs import distilled_lora, one_file, upscaler

from ltx2rt import api
from ltx2rt.api.run_state import RunState
from ltx2rt.cli.main import run
from ltx2rt.errors import Cancelled, NotFiniteError, StateError
from ltx2rt.graph.stages.events import Event, StepDone
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
# The quickest clip, where any will do.
ANY = [*SMALL, "--no-gemma", "--no-audio", "--pipeline", "one-stage", "--steps", "1"]


def stop_at(stage: str, index: int) -> Callable[[Event], None]:
    def observe(event: Event) -> None:
        if isinstance(event, StepDone) and (event.stage, event.index) == (stage, index):
            raise Cancelled("stopped by the test")

    return observe


def generate(arguments: list[str]) -> None:
    """Body of a child process."""
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        raise SystemExit(run(["generate", *SMALL, *arguments]))


def started(output: Path, *arguments: str) -> BaseProcess:
    """A run in a process of its own; a server that has imported everything forks it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ltx2rt.cli.main"])
    process = context.Process(target=generate, args=([*arguments, "-o", str(output)],))
    process.start()
    return process


WINDOWS = [
    "--num-frames",
    "65",
    "--chunk-pixel-frames",
    "33",
    "--chunk-carry-frames",
    "17",
    "--chunk-blend-frames",
    "8",
]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], WINDOWS], ids=["whole", "in windows"])
def test_killed_at_random_moments_and_resumed_gives_the_same_bits(words: list[str], tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole.mp4", tmp_path / "killed"
    killed = folder / "clip.mp4"
    folder.mkdir()
    started(whole, *words).join()  # Also starts the server, which takes longer than a run.
    begin = time.monotonic()
    process = started(whole, *words, "--overwrite")
    process.join()
    assert process.exitcode == 0
    duration = time.monotonic() - begin
    rng = random.Random(5)
    kills = 0
    while kills < 10:
        process = started(killed, *words, "--resume")
        process.join(timeout=duration * rng.uniform(0.02, 0.7))
        if process.is_alive():
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            continue
        # It was faster than the clock this time; the next one begins anew.
        assert process.exitcode == 0
        assert killed.read_bytes() == whole.read_bytes()
        shutil.rmtree(folder)
        folder.mkdir()
    process = started(killed, *words, "--resume")
    process.join()
    assert process.exitcode == 0
    assert killed.read_bytes() == whole.read_bytes()
    assert {path.name for path in folder.iterdir()} == {"clip.mp4", "clip.mp4.json"}


# (pipeline, stage and step after which it is interrupted): what each sampler and guider must carry over.
INTERRUPTIONS = [
    ("two-stage", "denoise 1", 1, {"video_skip_step": 1, "apg_scale": 2.0, "apg_momentum": 0.5}),
    ("two-stage", "denoise 2", 0, {"ge_gamma": 2.0}),
    ("two-stage-hq", "denoise 1", 1, {}),
    ("one-stage", "denoise", 1, {"ge_gamma": 2.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("pipeline", "stage", "index", "more"), INTERRUPTIONS)
def test_every_sampler_continues_with_the_same_bits(
    pipeline: str, stage: str, index: int, more: dict[str, object], tmp_path: Path, weights: Path
) -> None:
    names = {"--checkpoint-path": "checkpoint", "--gemma-root": "text_encoder"}
    names |= {"--spatial-upsampler-path": "spatial_upscaler", "--distilled-lora": "distilled_lora"}
    words = [*one_file(weights, "dev"), *upscaler(weights)]
    words += [] if pipeline == "one-stage" else distilled_lora(weights)
    files = {names[option]: path for option, path in zip(words[::2], words[1::2], strict=True)}
    loaded = api.load(pipeline, **files)
    settings = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3, "zero_text": True, **more}
    whole = loaded(**settings)
    with pytest.raises(Cancelled):
        loaded(**settings, state_folder=tmp_path / "state", observer=stop_at(stage, index))
    evaluations: list[Event] = []
    resumed = loaded(**settings, state_folder=tmp_path / "state", resume=True, observer=evaluations.append)
    assert (resumed.video_latent == whole.video_latent).all()
    assert (resumed.audio_latent == whole.audio_latent).all()
    assert (resumed.audio == whole.audio).all()
    resumed.save(tmp_path / "clip.mp4", sidecar=False)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4"}


def test_other_settings_do_not_continue_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / ".clip.mp4.state"
    settings = {"height": 64, "width": 64, "num_frames": 9}
    with pytest.raises(Cancelled):
        api.load()("a red circle", **settings, state_folder=state, observer=stop_at("denoise 1", 3))
    assert (state / "run.json").is_file()
    clip = ["-o", str(tmp_path / "clip.mp4")]
    assert run(["generate", *SMALL, *clip, "--resume", "--seed", "5"]) == 2
    assert "seed (was 10, is 5)" in capsys.readouterr().err
    # The saved run brings its own options.
    assert run(["generate", *clip, "--resume"]) == 0
    error = capsys.readouterr().err
    assert "nothing to resume" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.mp4.json"}
    assert run(["generate", *ANY, *clip, "--resume", "--no-state", "--overwrite"]) == 0
    assert "nothing to resume" in capsys.readouterr().err


def test_without_resume_an_interrupted_run_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / ".clip.mp4.state"
    with pytest.raises(Cancelled):
        api.load()("x", height=64, width=64, num_frames=9, state_folder=state, observer=stop_at("denoise 1", 0))
    assert run(["generate", *ANY, "-o", str(tmp_path / "clip.mp4")]) == 0
    assert "starting over" in capsys.readouterr().err
    assert not state.exists()


SETTINGS = {"height": 64, "width": 64, "num_frames": 9}


def interrupted(state: Path, stage: str = "denoise 1", index: int = 3) -> None:
    with pytest.raises(Cancelled):
        api.load()("a red circle", **SETTINGS, state_folder=state, observer=stop_at(stage, index))


@pytest.fixture(scope="module")
def an_interrupted_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that tests copy."""
    state = tmp_path_factory.mktemp("interrupted") / "state"
    interrupted(state)
    return state


def test_a_damaged_entry_is_computed_again_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline, state = api.load(), tmp_path / "state"
    whole = pipeline("a red circle", **SETTINGS)
    interrupted(state)
    entry = state / "denoise-1.0002.safetensors"
    entry.write_bytes(entry.read_bytes()[:-100])
    resumed = pipeline("a red circle", **SETTINGS, state_folder=state, resume=True)
    assert (resumed.video_latent == whole.video_latent).all()
    assert caplog.text.count("a result of the interrupted run is damaged and is computed again") == 1
    assert "denoise-1.0002.safetensors: truncated" in caplog.text


# What is done to the state of an interrupted run, and what --resume says of it.
DAMAGES = {
    "cut off": (lambda record: record.write_text(record.read_text()[:200]), "run.json is not JSON"),
    "emptied": (lambda record: record.write_text(""), "run.json is not JSON"),
    "no text": (lambda record: record.write_bytes(b"\xff\xfe\x00"), "run.json is not JSON"),
    "of something else": (lambda record: record.write_text('{"format": "x"}'), "is not a sidecar file"),
    "without weights": (
        lambda record: record.write_text(record.read_text().replace('"weights"', '"weight"')),
        "lacks weights",
    ),
    "with a strange result": (
        lambda record: record.write_text(record.read_text().replace('"result": {}', '"result": 5')),
        "lacks result",
    ),
    "gone": (lambda record: record.unlink(), "has lost its run.json"),
}


ALIKE = ("emptied", "no text", "without weights", "with a strange result")  # told as others


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in DAMAGES]
)
def test_a_damaged_state_is_an_error_with_resume_and_said_without(
    name: str, tmp_path: Path, an_interrupted_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, said = DAMAGES[name]
    state, words = tmp_path / ".clip.mp4.state", ["generate", *SMALL, "-o", str(tmp_path / "clip.mp4")]
    shutil.copytree(an_interrupted_state, state)
    damage(state / "run.json")
    kept = sorted(path.name for path in state.iterdir())
    assert run([*words, "--resume"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "start over without --resume" in error.lower()
    assert sorted(path.name for path in state.iterdir()) == kept
    with pytest.raises(StateError, match="without resume"):
        api.load()("a red circle", **SETTINGS, state_folder=state, resume=True)
    assert run([*words, *ANY[len(SMALL) :]]) == 0
    assert "an interrupted run of" in (error := capsys.readouterr().err)
    assert "its state was damaged" in error
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.mp4.json"}


def test_a_state_without_results_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".clip.mp4.state").mkdir()  # killed before anything was written
    assert run(["generate", *ANY, "-o", str(tmp_path / "clip.mp4"), "--resume"]) == 0
    assert "nothing to resume" in capsys.readouterr().err


def test_a_finished_stage_without_its_latent_is_an_error(tmp_path: Path) -> None:
    interrupted(tmp_path / "state", "denoise 2", 0)
    entry = tmp_path / "state" / "denoise-1.safetensors"
    with closing(SafetensorsFile(entry)) as file:
        kept = {name: file.mlx(name) for name in file.tensors}
    assert set(kept) == {"video", "audio"}
    for wrong in ({"audio": kept["audio"]}, {**kept, "video": kept["video"][:, :1]}):
        write_safetensors(entry, wrong)
        with pytest.raises(StateError, match="has kept no video latent of"):
            api.load()("a red circle", **SETTINGS, state_folder=tmp_path / "state", resume=True)
    write_safetensors(entry, {**kept, "video": kept["video"] * float("nan")})
    with pytest.raises(NotFiniteError, match=r"stage denoise 1: .* the video latent that was kept"):
        api.load()("a red circle", **SETTINGS, state_folder=tmp_path / "state", resume=True)


@pytest.mark.slow
def test_a_kill_while_the_state_is_removed_leaves_one_that_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path / "state")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ltx2rt.api.run_state.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            RunState(tmp_path / "state", continued=True).remove()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["run.json"]
    api.load()("a red circle", **SETTINGS, state_folder=tmp_path / "state", resume=True)


def test_a_state_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltx2rt.graph.stages import journal

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write_safetensors", full)
    clip = api.load()("x", height=64, width=64, num_frames=9, state_folder=tmp_path / "state")
    assert caplog.text.count("this run cannot be resumed beyond this point") == 1
    clip.save(tmp_path / "clip.mp4", sidecar=False)
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4"}
