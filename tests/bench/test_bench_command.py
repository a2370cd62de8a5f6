"""``ltx2rt bench`` as a command: output, plot and rejected arguments."""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ltx2rt import _ext
from ltx2rt.bench import report, runner, table
from ltx2rt.bench.case import Work
from ltx2rt.bench.machine import Machine
from ltx2rt.bench.plot import draw, write_plot
from ltx2rt.bench.runner import Row
from ltx2rt.cli.bench import _show_position
from ltx2rt.cli.main import run
from ltx2rt.errors import MediaError

QUICK = ["bench", "--only", "modulated_norm/f32", "--rounds", "1"]


def row(name: str, percent: float, bound: str) -> Row:
    return Row(name, Work(1e9, 1e6, "float32"), bound, seconds=[1.0], percent=[percent])


def test_json_holds_the_machine_and_the_cases(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run([*QUICK, "--json", "--plot", str(tmp_path / "plot.png")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["float32_gflops"] > 0
    (case,) = result["cases"]
    assert case["name"] == "modulated_norm/f32/1024x4096"
    assert case["seconds"] > 0
    assert case["ratio_mlx"] > 0
    assert case["ratio_torch"] is None
    assert case["relative_error"] < 1e-5
    assert {"gflops", "gbytes_per_s", "percent_of_ceiling", "bound", "spread", "rounds", "notes"} <= set(case)
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"


def test_text_has_a_line_per_case_and_names_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    threads = _ext.num_threads()
    try:
        assert run([*QUICK, "--compare", "none", "--threads", "1"]) == 0
    finally:
        _ext.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("case")
    assert lines[1].startswith("modulated_norm/f32/1024x4096")
    assert "1 threads of" in lines[2]
    assert "GB memory" in lines[2]
    assert [line.split()[0] for line in lines[3:6]] == ["float32", "bfloat16", "read"]


def test_the_text_states_what_the_kernels_do_not_use(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = copy(machine)
    machine.best = replace(machine.best, tiles=2.5e12)
    monkeypatch.setattr("ltx2rt.bench.machine.unmeasured_units", lambda: ["SME"])
    line = report.text_machine(machine).splitlines()[2]
    assert line.endswith("; SME not measured; AMX tiles, which quantized_linear and neighborhood_attention use: 2500.0")


def test_a_run_without_a_choice_is_the_short_one_and_says_what_it_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, object] = {}

    def run_some(cases: list[Any], *arguments: object, seconds: float | None, **more: object) -> tuple[Machine, list]:
        asked.update(names=[case.name for case in cases], seconds=seconds)
        return machine, [row(case.name, 50.0, "read") for case in cases[:-1]]

    monkeypatch.setattr(runner, "run", run_some)
    assert run(["bench"]) == 0
    assert asked["names"] == list(table.SHORT)
    assert asked["seconds"] <= 240  # type: ignore[operator]
    assert f"not run, for time: {table.SHORT[-1]}; --all or --only runs them" in capsys.readouterr().err
    assert run(["bench", "--all"]) == 0
    assert asked["names"] == [case.name for case in table.all_cases()]
    assert asked["seconds"] is None


def test_a_terminal_shows_the_case_and_the_time_left(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "Machine", lambda: machine)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert run([*QUICK, "--compare", "none"]) == 0
    assert "[1/1] modulated_norm/f32/1024x4096" in capsys.readouterr().err
    _show_position(runner.Position(3, 17, "linear/bf16", 125.4))
    assert capsys.readouterr().err.endswith("[3/17] linear/bf16, about 2:05 left")


def test_the_names_of_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--list", "--only", "transformer_block/bf16"]) == 0
    assert "transformer_block/bf16/v1024-a126-t1024" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing of this name"], "no benchmark case contains"),
        (["--profile", "--only", "linear"], "--profile needs a model part"),
        (["--profile", "--plot", "x.png"], "--plot and --profile exclude each other"),
        (["--all", "--only", "linear"], "--all and --only exclude each other"),
        (["--rounds", "0"], "must be a number from 1 to 1024, got '0'"),
        (["--compare", "jax"], "invalid choice"),
    ],
)
def test_rejected_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = run(["bench", *arguments])
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err


def test_bars_are_as_long_as_their_percentage() -> None:
    image = draw("title", [row("a", 50.0, "arithmetic"), row("b", 100.0, "read")])

    def length(colour: tuple[int, int, int], y: int) -> int:
        return sum(image.getpixel((x, y)) == colour for x in range(image.width))

    first, second = length((0x34, 0x65, 0xA4), 48), length((0xC1, 0x7D, 0x11), 68)
    assert second == pytest.approx(2 * first, abs=3)
    assert length((0xC1, 0x7D, 0x11), 48) == 0


def test_a_plot_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="choose another file"):
        write_plot(tmp_path / "absent" / "plot.png", "title", [row("a", 50.0, "read")])
