"""Terminals that are closed, that nobody reads, or that speak ASCII: they cost words, never a clip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ltx2rt.media.clip_reader import ClipReader

COMMAND = f"{sys.executable} -m ltx2rt.cli generate 'a red circle' --height 64 --width 64 --num-frames 9"


def shell(words: str, place: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/bin/sh", "-c", words], cwd=place, env={**os.environ, **environment}, capture_output=True, check=False
    )


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "redirection",
    [
        "<&- >&- 2>&-",
        *map(slow, ("2>&1 >/dev/null | head -c 9", "2>&-", ">&-", "2>/dev/full", "--progress json 2>&-")),
    ],
)
def test_a_clip_is_made_whatever_becomes_of_the_words(redirection: str, tmp_path: Path) -> None:
    if "/dev/full" in redirection and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    result = shell(f"{COMMAND} -o o.mp4 {redirection}", tmp_path)
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr + result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"o.mp4", "o.mp4.json"}
    assert ClipReader(tmp_path / "o.mp4").num_frames == 9


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        slow("kreis-ä.mp4".encode(), "ascii"),
        slow(b"kreis-\xe4.mp4", "ascii"),
        slow("kreis-ä.mp4".encode(), "utf-8"),
        slow(b"kreis-\xe4.mp4", "utf-8"),
    ],
)
def test_names_that_the_terminal_cannot_show_are_written_as_they_are(
    name: bytes, encoding: str, tmp_path: Path
) -> None:
    try:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT))
    except OSError:
        pytest.skip("needs a file system that takes any bytes as a name")
    os.unlink(os.path.join(os.fsencode(tmp_path), name))
    words = COMMAND.replace("a red circle", "ein roter Kreis für Ä")
    result = subprocess.run(
        ["/bin/sh", "-c", f'{words} -o "$1"', "sh", name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
    assert result.stdout == name + b"\n"
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [name, name + b".json"]
