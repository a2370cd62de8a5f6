"""``--state-folder``: an interrupted run goes on from a folder that the user names, also to another output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx2rt.cli.main import run
from ltx2rt.graph.models.transformer.model import Transformer

SMALL = ["generate", "--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9", "--no-gemma"]
ANY = [*SMALL, "--pipeline", "one-stage", "--steps", "3"]


def interrupt(monkeypatch: pytest.MonkeyPatch, evaluation: int) -> None:
    """Ctrl-C while an evaluation is computed."""
    real, begun = Transformer.guided, []

    def guided(*arguments: Any) -> Any:
        begun.append(None)
        if len(begun) == evaluation:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(Transformer, "guided", guided)


@pytest.mark.parametrize("names_output", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_goes_on_from_the_folder(
    names_output: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, first, state = tmp_path / "whole.mp4", tmp_path / "one" / "clip.mp4", tmp_path / "state"
    other = tmp_path / "two" / "clip.mp4" if names_output else first
    first.parent.mkdir()
    other.parent.mkdir(exist_ok=True)
    assert run([*ANY, "-o", str(whole), "--no-sidecar"]) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        words = [*ANY, "-o", str(first), "--no-sidecar", "--state-folder", str(state), "--resume"]
        assert run(words) == 75
    assert "nothing to resume" in capsys.readouterr().err
    assert list(first.parent.iterdir()) == []
    assert len(list(state.glob("denoise.*.safetensors"))) == 2
    interrupt(monkeypatch, 3)  # one evaluation is left: a run that began anew would reach the third
    named = ["-o", str(other)] if names_output else []
    assert run(["generate", *named, "--state-folder", str(state), "--resume"]) == 0
    assert capsys.readouterr().out == f"{other}\n"
    assert other.read_bytes() == whole.read_bytes()
    assert not state.exists()


REFUSED: dict[str, list[str]] = {
    "holds something else than the state of a run, and would be emptied": [],
    "is not a folder; name one that is new or empty": ["file"],
    "--state-folder and --no-state contradict each other": ["--no-state"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_folder_with_other_things_is_never_emptied(
    message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "run.json").write_text("{}")
    (tmp_path / "file").write_bytes(b"")
    place = tmp_path / "file" if REFUSED[message] == ["file"] else folder
    more = [word for word in REFUSED[message] if word.startswith("-")]
    assert run([*ANY, "-o", str(tmp_path / "clip.mp4"), "--state-folder", str(place), *more]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "clip.mp4").exists()


def test_an_empty_folder_and_one_of_a_run_that_was_killed_at_once_are_taken(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / ".run.json.part").write_text("{")
    assert run([*ANY, "-o", str(tmp_path / "clip.mp4"), "--state-folder", str(state), "--resume"]) == 0
    assert not state.exists()


HOLDER = """
import sys
from pathlib import Path
from ltx2rt.media.output_lock import held
with held([Path(sys.argv[1])]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_never_share_a_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-c", HOLDER, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert run([*ANY, "-o", str(tmp_path / "clip.mp4"), "--state-folder", str(state)]) == 2
        process.communicate("", timeout=20)
    assert f"{state} is being written by another run" in capsys.readouterr().err
