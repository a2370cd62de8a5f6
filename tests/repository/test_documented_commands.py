"""Programs that the documents name: they are there, and say what they do when started in the root of a checkout.

They are started as a reader does, in the root and without PYTHONPATH, so that the installed ltx2rt is found and not the
folder of its sources, which holds no compiled module.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/LOG.md", "tools/train_tiny/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Programs name themselves in their first lines.
PROGRAMS = sorted(path for name in ("tools", "benchmarks") for path in (ROOT / name).rglob("*.py"))
SCRIPT = re.compile(r"python3? ((?:tools|benchmarks)/[\w/]+\.py)")
MODULE = re.compile(r"python3? -m ((?:tools|benchmarks)(?:\.\w+)+)")
CI = re.compile(r"(?<![\w./])\.ci/([\w-]+)")
VERB = re.compile(r"`make (\w+)`")
NEEDED = {"tools.train_tiny": "torch", "tools.cross_macos": "ziglang", "tools.check_apple_sources": "ziglang"}


def texts() -> list[str]:
    return [path.read_text() for path in DOCUMENTS] + ["\n".join(p.read_text().splitlines()[:12]) for p in PROGRAMS]


def found(pattern: re.Pattern[str]) -> list[str]:
    """What a pattern names, but for NAME, which stands for any."""
    return sorted({name for text in texts() for name in pattern.findall(text) if "NAME" not in name})


def installed() -> str:
    """Why the programs cannot be started as a reader does; empty when they can."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    words = [sys.executable, "-c", "from ltx2rt import _ext"]
    done = subprocess.run(words, cwd=Path(sys.executable).parent, env=environment, capture_output=True, check=False)
    return "" if done.returncode == 0 else "ltx2rt is not installed in this environment: pip install '.[test]'"


@pytest.fixture(scope="module")
def reader() -> dict[str, str]:
    """The environment of a reader."""
    reason = installed()
    if reason:
        pytest.skip(reason)
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}


def test_the_documents_name_programs() -> None:
    assert "benchmarks/real_scale.py" in found(SCRIPT)
    assert "tools.train_tiny.train" in found(MODULE)
    assert "run" in found(CI)
    assert "verify" in found(VERB)


@pytest.mark.parametrize("name", found(SCRIPT) + [f"{n.replace('.', '/')}" for n in found(MODULE)])
def test_a_named_program_exists(name: str) -> None:
    path = ROOT / name
    assert path.is_file() or path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("name", found(CI))
def test_a_named_check_exists(name: str) -> None:
    assert os.access(ROOT / ".ci" / name, os.X_OK)


def test_named_verbs_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(found(VERB)) <= targets
    assert "python -m pytest" not in (ROOT / "Makefile").read_text()  # would take the sources, see its first lines


COMMANDS = [[name] for name in found(SCRIPT)] + [["-m", name] for name in found(MODULE)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_named_program_tells_what_it_does(command: list[str], reader: dict[str, str]) -> None:
    for prefix, package in NEEDED.items():
        if command[-1].startswith(prefix) and importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    words = [sys.executable, *command, "--help"]
    done = subprocess.run(words, cwd=ROOT, env=reader, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert len(done.stdout.splitlines()) >= 3
