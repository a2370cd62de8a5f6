"""What `.ci/check-tree` accepts and refuses, in small repositories of their own; and this repository's own files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / ".ci" / "check-tree"

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or shutil.which("bash") is None, reason="needs git and bash; install them"
)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def check(folder: Path) -> tuple[int, str]:
    done = subprocess.run(["bash", str(CHECK), str(folder)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "py.typed").touch()
    (tmp_path / "name with spaces.txt").write_text("text\n")
    (tmp_path / ".gitignore").write_text("*.o\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_clean_tree_passes(repository: Path) -> None:
    (repository / "ignored.o").touch()
    assert check(repository) == (0, "")


def test_files_that_tests_left_or_changed_are_named(repository: Path) -> None:
    (repository / "left.mp4").write_text("x")
    (repository / "name with spaces.txt").write_text("other\n")
    code, said = check(repository)
    assert code == 1
    assert "?? left.mp4" in said
    assert "name with spaces.txt" in said


def test_an_empty_tracked_file_is_named(repository: Path) -> None:
    (repository / "kernel.cpp").touch()
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    code, said = check(repository)
    assert code == 1
    assert said.splitlines()[1:] == ["kernel.cpp"]


def test_no_file_of_this_repository_is_empty() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout: the tests run outside of one")
    names = [Path(name) for name in git(ROOT, "ls-files", "-z").split("\0") if name]
    held = [ROOT / name for name in names if name.name not in ("__init__.py", "py.typed") and (ROOT / name).exists()]
    assert [path for path in held if path.stat().st_size == 0] == []
