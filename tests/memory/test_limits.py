"""Sizes as users write them, and the limits that a system sets."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ltx2rt.errors import UsageError
from ltx2rt.memory import limits
from ltx2rt.memory.measure import resident_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("12GB", 12 * 10**9),
        ("12gb", 12 * 10**9),
        ("900 MB", 900 * 10**6),
        ("7.5GiB", 7.5 * 2**30),
        ("64K", 64000),
        ("5", 5),
    ],
)
def test_sizes(text: str, nbytes: float) -> None:
    assert limits.parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-3GB", "12 apples", "3iB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="not a memory size"):
        limits.parse_bytes(text)


def test_zero_is_no_size() -> None:
    with pytest.raises(UsageError, match="must be positive"):
        limits.parse_bytes("0GB")


def test_formats() -> None:
    assert [limits.format_bytes(n) for n in (1.5e6, 2.345e9, 4e11)] == ["2 MB", "2.35 GB", "400 GB"]


def test_the_default_is_a_share_of_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = resident_bytes()
    monkeypatch.setattr(limits, "hard_limits", lambda: [limits.Limit(10**10, "other"), limits.Limit(10**9, "test")])
    assert abs(limits.default_budget() - now - limits.DEFAULT_SHARE * 10**9) < 50 * 10**6
    assert limits.tightest_limit().reason == "test"


def test_control_groups_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    (group.parent / "memory.max").write_text(f"{10**12}\n")
    (group.parent / "memory.current").write_text(f"{7 * 10**9}\n")
    (group.parent / "memory.stat").write_text(f"inactive_file {2 * 10**9}\nactive_file {10**9}\nanon 1\n")
    monkeypatch.setattr(limits, "_cgroup_folders", lambda: iter([group, group.parent]))
    # 7 GB are in use, of which 3 GB are file pages that give way.
    assert list(limits._cgroup_spares()) == [10**12 - 4 * 10**9]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's address space limit")
def test_a_limit_of_the_shell_gives_an_error_and_no_abort(tmp_path: Path) -> None:
    """Some limits refuse the plan, some an allocation, some a thread; none may end in a traceback or a signal."""
    outcomes = []
    words = ["--prompt", "circle", "--quiet", "--no-state", "--height", "64", "--width", "64", "--num-frames", "9"]
    for megabytes in (700, 2500):

        def limit(megabytes: int = megabytes) -> None:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

        done = subprocess.run(
            [sys.executable, "-m", "ltx2rt.cli", "generate", *words, "-o", str(tmp_path / f"{megabytes}.mp4")],
            preexec_fn=limit,
            capture_output=True,
            text=True,
            timeout=120,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONSAFEPATH": "1",
                "PYTHONPATH": str(Path(limits.__file__).parents[2]),
                "HOME": str(tmp_path),
            }
            | {"OPENBLAS_NUM_THREADS": "1", "LTX2RT_NUM_THREADS": "2"},
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        if done.returncode == 1:
            assert "error: " in done.stderr
            assert not list(tmp_path.glob(f"*{megabytes}*"))
        outcomes.append(done.returncode)
    assert outcomes[-1] == 0
