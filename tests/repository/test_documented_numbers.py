"""Numbers in the documents that follow from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ltx2rt.api import PIPELINE_NAMES
from ltx2rt.bench import observation
from ltx2rt.cli import bench

ROOT = Path(__file__).parents[2]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def text(name: str) -> str:
    return (ROOT / name).read_text()


def required(package: str) -> str:
    found = re.search(rf'"{package}(?:\[\w+\])?==([\d.]+)', text("pyproject.toml"))
    assert found is not None
    return found[1]


def test_the_readme_counts_the_pipelines() -> None:
    assert f"| pipelines | {len(PIPELINE_NAMES)}: " in text("README.md")


def test_the_oldest_python_is_the_required_one() -> None:
    found = re.search(r'requires-python = ">=([\d.]+)"', text("pyproject.toml"))
    assert found is not None
    assert f"Python {found[1]} or newer" in text("README.md")


def test_the_kernels_are_counted_and_named() -> None:
    assert f"{WORDS[len(observation.KERNELS)]} fused operations" in text("docs/architecture.md")
    for name in observation.KERNELS:
        assert f"`{name}`" in text("README.md")


def test_the_time_of_bench_is_what_it_keeps_to() -> None:
    assert bench.SHORT_SECONDS < 4 * 60
    for name in ("README.md", "docs/benchmarks.md"):
        assert re.search(r"four minutes", text(name))


def test_the_glossary_stays_short() -> None:
    glossary = text("CONTRIBUTING.md").split("### Words")[1].split("##")[0]
    rows = [line for line in glossary.splitlines() if line.startswith("|")][2:]
    assert 0 < len(rows) <= 20


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_a_named_version_of_mlx_is_the_required_one(document: Path) -> None:
    for version in re.findall(r"(?i)(?<![\w-])mlx (?:==)?(\d+\.\d+\.\d+)", document.read_text()):
        assert version == required("mlx")
