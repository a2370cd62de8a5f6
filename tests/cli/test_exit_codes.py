"""One table of exit codes: 0 good, 1 files and failures, 2 usage, 75 for what can work another time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from ltx2rt import atomic_file, errors
from ltx2rt.cli.exit_codes import ExitCode, exit_code
from ltx2rt.cli.main import Terminated, build_parser, run
from ltx2rt.graph.models.transformer.model import Transformer
from ltx2rt.weights import embedding_file, safetensors

SMALL = ["--prompt", "a red circle", "--height", "64", "--width", "64", "--num-frames", "9"]
# The quickest clip, where any will do.
ANY = [*SMALL, "--no-gemma", "--pipeline", "one-stage", "--steps", "1"]
FULL = (errno.ENOSPC, errno.EDQUOT)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.CheckpointError("x"), 1),
        (errors.MediaError("x"), 1),
        (errors.StateError("x"), 1),
        (errors.NotFiniteError("x"), 1),
        (errors.MemoryBudgetError("x"), 1),
        (OSError(errno.EACCES, "x"), 1),
        (BrokenPipeError(), 1),
        (errors.OutOfMemory("x"), 75),
        (MemoryError(), 75),
        (errors.OutOfSpace("x"), 75),
        (errors.DownloadError("x"), 1),
        (errors.BrokenDownload("x"), 75),
        *((OSError(number, "x"), 75) for number in FULL),
        (errors.Cancelled("x"), 75),
        (KeyboardInterrupt(), 75),
        (Terminated(), 75),
    ],
    ids=lambda value: value.__class__.__name__ if isinstance(value, BaseException) else None,
)
def test_every_kind_of_error_has_its_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_every_error_class_of_the_package_is_in_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Ltx2rtError)]
    assert len(kinds) > 8
    assert all(exit_code(kind("x")) in set(ExitCode) - {ExitCode.GOOD} for kind in kinds)


def test_help_shows_the_table() -> None:
    text = build_parser().format_help()
    for code in ("   0  done", "   1  a file", "   2  options", "  75  interrupted"):
        assert f"\n{code}" in text


def ran(*words: str, **options: Any) -> tuple[int, str]:
    """Exit code and stderr of a command in a process of its own."""
    command = [sys.executable, "-m", "ltx2rt.cli", *words]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120, **options)
    return done.returncode, done.stderr


def test_the_codes_of_whole_commands(tmp_path: Path) -> None:
    assert run(["doctor"]) == 0
    assert run(["generate"]) == 2
    assert run(["inspect", str(tmp_path / "missing.safetensors")]) == 1


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interruption_is_75_and_the_run_can_be_resumed(tmp_path: Path, number: int) -> None:
    output, state = tmp_path / "clip.mp4", tmp_path / ".clip.mp4.state"
    words = [*SMALL, "--height", "128", "--width", "128", "-o", str(output)]
    command = [sys.executable, "-m", "ltx2rt.cli", "generate", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(state.glob("denoise*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "--resume continues" in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [state]
    if number == signal.SIGTERM:  # test_resume.py has the rest
        assert run(["generate", *words, "--quiet", "--resume"]) == 0


# The command, interrupted when it begins to load a module.
INTERRUPTED = """
import os, runpy, sys
module, number = sys.argv[1:]
class Finder:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Finder())
runpy.run_module("ltx2rt.cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        pytest.param("mlx", signal.SIGINT, marks=pytest.mark.slow),
        ("mlx", signal.SIGTERM),
        ("ltx2rt.graph.components", signal.SIGINT),
    ],
)
def test_an_interruption_while_loading_is_75_too(module: str, number: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "interrupted\n")


def test_stdout_on_a_full_disk_is_75() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    with open("/dev/full", "w") as full:
        code, error = ran("plan", *SMALL, stdout=full)
    assert code == 75, error
    assert error.strip().splitlines()[-1] == "error: [Errno 28] No space left on device"


def test_a_reader_that_went_away_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, error = ran("plan", *SMALL, stdout=writing)
    finally:
        os.close(writing)
    assert code == 1
    assert "Traceback" not in error
    assert "BrokenPipe" not in error


# What each command writes, all of it beside {d}.
WRITES = {
    "a clip": ["generate", *ANY, "-o", "{d}/clip.mp4"],
    "sound": ["generate", *ANY, "-o", "{d}/clip.wav"],
    "latents": ["generate", *ANY, "--no-state", "--skip-vae", "--save-latents", "{d}/latents.safetensors"],
    "a report": ["generate", *ANY, "--no-state", "-o", "{t}/clip.mp4", "--report", "{d}/report.json"],
    "an embedding": ["encode", "--prompt", "a red circle", "-o", "{d}/text.safetensors"],
    "an npz embedding": ["encode", "--prompt", "a red circle", "-o", "{d}/text.npz"],
}


def filled(words: list[str], **places: Path) -> list[str]:
    return [word.format(**places) for word in words]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for nothing but names."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to mount a small file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip(f"mount is not permitted here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "a clip" else pytest.mark.slow) for name in WRITES]
)
def test_a_full_disk_is_75_and_leaves_no_half_file(
    name: str, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "filling").write_bytes(bytes(4096))
    assert run(filled(WRITES[name], d=small_disk, t=tmp_path)) == 75
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filling"]


class RefusingFile(FileIO):
    """A file on a disk that takes no more bytes."""

    number = errno.ENOSPC

    def write(self, data: Any) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(("name", "number"), [*((name, FULL[0]) for name in WRITES), ("sound", FULL[1])])
def test_every_write_that_is_refused_is_75(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same without a small disk, for both errors that mean that there is no room."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(RefusingFile, "number", number)
    monkeypatch.setattr(safetensors.os, "replace", refused)
    monkeypatch.setattr(embedding_file.np, "savez", refused)
    if "latents" not in name and "embedding" not in name:
        real = atomic_file.FileIO

        def open_file(path: Path, mode: str) -> FileIO:
            wanted = {"a clip": ".mp4", "sound": ".wav", "a report": "report.json"}[name]
            return (RefusingFile if wanted in path.name and "run.json" not in path.name else real)(path, mode)

        monkeypatch.setattr(atomic_file, "FileIO", open_file)
    assert run(filled(WRITES[name], d=tmp_path, t=tmp_path)) == 75
    assert os.strerror(number) in capsys.readouterr().err


def test_memory_that_is_refused_while_running_is_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("[malloc] Unable to allocate 1000 bytes.")

    monkeypatch.setattr(Transformer, "guided", refused)
    assert run(["generate", *SMALL, "-o", str(tmp_path / "clip.mp4")]) == 75
    assert "stage 'denoise 1' ran out of memory" in capsys.readouterr().err
    assert not (tmp_path / "clip.mp4").exists()


def test_a_budget_that_is_too_small_from_the_start_is_1(tmp_path: Path) -> None:
    assert run(["generate", *SMALL, "--memory", "1MB", "-o", str(tmp_path / "clip.mp4")]) == 1


def test_memory_refused_outside_of_a_stage_is_75_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ltx2rt.api.clip.VideoWriter", refused)
    assert run(["generate", *ANY, "-o", str(tmp_path / "clip.mp4")]) == 75
    assert "the system refused memory (none is left)" in capsys.readouterr().err
