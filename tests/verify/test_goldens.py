"""Every golden file of the project's corpus, and of the folders that LTX2RT_GOLDENS names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.verify import runner
from ltx2rt.verify.golden import GoldenFile
from ltx2rt.verify.saved_run import pipeline_of

CORPUS = Path(__file__).parents[1] / "goldens"
FURTHER = [Path(folder) for folder in os.environ.get("LTX2RT_GOLDENS", "").split(os.pathsep) if folder]


def files() -> list[tuple[Path, Path]]:
    """Every golden file, with its corpus."""
    return [(root, path) for root in (CORPUS, *FURTHER) for path in runner.golden_files(root)]


# Whole clips of a pipeline that another one compares as well; `ltx2rt verify`, which CI runs, compares all of them.
ALIKE = ("23_distilled_i2v_tiled.safetensors", "23_ic_lora.safetensors", "14_ltx2_ti2vid_two_stages.safetensors")


@pytest.mark.parametrize(
    ("root", "path"),
    [pytest.param(*each, marks=pytest.mark.slow if each[1].name in ALIKE else ()) for each in files()],
    ids=lambda path: path.name,
)
def test_golden_file(root: Path, path: Path) -> None:
    results = list(runner.run_file(path, root))
    assert any(result.status == "pass" for result in results)
    assert [result for result in results if result.status == "fail"] == []


def test_the_corpus_is_complete() -> None:
    listed = set(json.loads((CORPUS / "INDEX.json").read_text()))
    assert listed == {path.relative_to(CORPUS).as_posix() for path in runner.golden_files(CORPUS)}
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= 16_000_000


def test_the_corpus_has_every_pipeline_of_which_results_were_saved() -> None:
    goldens = [GoldenFile(path, CORPUS) for path in (CORPUS / "pipelines").glob("*.safetensors")]
    compared = {pipeline_of(golden) for golden in goldens}
    assert PIPELINES.keys() - compared == {"extend", "dub-it", "dfr", "alpha-gen", "hdr"}
