"""Every golden case in reach, when the golden folder lies beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltx2rt.verify import runner
from ltx2rt.verify.golden import Case, GoldenFile

ROOT = Path(__file__).parents[3] / "shared" / "goldens"


def cases() -> list[Case]:
    if not ROOT.is_dir():
        return []
    files = [GoldenFile(path, ROOT) for path in runner.golden_files(ROOT)]
    return [case for golden in files for finder in runner.FINDERS for case in finder(golden)]


def test_goldens_are_present() -> None:
    if not ROOT.is_dir():
        pytest.skip("put the golden folder at ../shared/goldens to compare with the official code's results")
    assert len(cases()) > 50


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_golden(case: Case) -> None:
    result = runner.run_case(case)
    assert result.status == "pass", f"{result.detail}: error {result.error} > {result.tolerance}"
