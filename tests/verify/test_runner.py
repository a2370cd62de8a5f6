"""The golden runner: what passes, what fails, and that nothing unknown is called passed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from ltx2rt.cli.main import run as run_command
from ltx2rt.errors import UsageError
from ltx2rt.verify import runner
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.safetensors import write_safetensors


def check(actual: float, expected: float, atol: float) -> Check:
    return Check("x", np.array([actual]), np.array([expected]), atol)


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([check(1.0, 1.0, 0.0)], "pass"),
        ([check(1.0, 1.0, 1e-3), check(1.1, 1.0, 1e-3)], "fail"),
        ([check(float("nan"), 1.0, 1e9)], "fail"),
        ([Check("x", np.zeros(3), np.zeros(4), 1.0)], "fail"),
        ([], "fail"),
    ],
)
def test_status_of_a_case(checks: list[Check], status: str) -> None:
    assert runner.run_case(Case("file/case", lambda: checks)).status == status


def test_the_worst_tensor_is_reported() -> None:
    result = runner.run_case(
        Case("c", lambda: [check(2.1, 2.0, 1.0), Check("y", np.array([5.0]), np.array([4.0]), 0.5)])
    )
    assert (result.detail, result.error, result.tolerance) == ("y", 0.25, 0.125)


@pytest.mark.parametrize("kind", [UsageError, TypeError, AssertionError, OSError, OverflowError])
def test_an_error_of_any_kind_fails_the_case(kind: type[Exception]) -> None:
    def broken() -> Iterable[Check]:
        raise kind("no such thing")

    result = runner.run_case(Case("c", broken))
    assert result.status == "fail"
    assert "no such thing" in result.detail


def test_a_file_in_which_no_case_can_be_found_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(golden: GoldenFile) -> Iterable[Case]:
        raise TypeError(f"{golden.name} is not what it should be")

    monkeypatch.setattr(runner, "FINDERS", (broken,))
    (result,) = runner.run(folder(tmp_path, a=np.zeros(1, np.float32)))
    assert result.status == "fail"
    assert "is not what it should be" in result.detail


@pytest.mark.parametrize("text", ["{", "[1]", '{"components/x": 3}', '{"components/x": {"tensors": {"a": 3}}}'])
def test_a_damaged_table_of_contents_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    root = folder(tmp_path, a=np.zeros(1, np.float32))
    (root / "INDEX.json").write_text(text)
    assert run_command(["verify", "--goldens", str(root)]) == 2
    assert "INDEX.json: cannot be read as a table of golden files" in capsys.readouterr().err


def test_what_a_run_says_is_in_the_report_and_not_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def wordy() -> Iterable[Check]:
        logging.getLogger("ltx2rt.graph").warning("made anew: frame %d", 3)
        yield check(1.0, 1.0, 1.0)

    result = runner.run_case(Case("c", wordy))
    assert result.as_dict()["said"] == ["made anew: frame 3"]
    assert capsys.readouterr().err == ""


def folder(tmp_path: Path, name: str = "unheard_of", **tensors: np.ndarray) -> Path:
    (tmp_path / "components").mkdir()
    write_safetensors(tmp_path / "components" / f"{name}.safetensors", tensors, {})
    return tmp_path


def test_a_file_that_no_case_knows_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, a=np.zeros(3, np.float32))
    assert run_command(["verify", "--goldens", str(root), "--json"]) == 1
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["name"] == "unheard_of.safetensors"
    assert case["status"] == "fail"
    assert "no case knows this file" in case["detail"]


def test_a_result_that_no_case_uses_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path, a=np.ones(3, np.float32), b=np.ones(3, np.float32))

    def finder(golden: GoldenFile) -> Iterable[Case]:
        yield Case(f"{golden.name}/a", lambda: [golden.check("a", np.ones(3), 0.0)])

    monkeypatch.setattr(runner, "FINDERS", (finder,))
    statuses = {result.name: result.status for result in runner.run(root)}
    assert statuses == {"unheard_of.safetensors/a": "pass", "unheard_of.safetensors/unread": "fail"}


def test_several_folders_are_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = folder(tmp_path / "one", "unknown", a=np.zeros(1, np.float32))
    two = folder(tmp_path / "two", a=np.zeros(1, np.float32))
    assert run_command(["verify", "--goldens", str(one), "--goldens", str(two)]) == 1
    assert "0 passed, 2 failed, 0 not covered" in capsys.readouterr().out


def test_a_folder_without_goldens_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["verify", "--goldens", str(tmp_path)]) == 2
    assert "no golden files" in capsys.readouterr().err
    assert run_command(["verify", "--goldens", str(tmp_path / "missing")]) == 2
