"""``ltx2rt bench``: kernels and model parts against this machine's measured ceilings, alternatives beside them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from ltx2rt.api.output_files import PICTURE, WrittenFile, check_files
from ltx2rt.bench import observation, report, runner, table
from ltx2rt.bench.case import GGML, MLX, REFERENCE, TORCH, TORCH_DENSE, Case
from ltx2rt.bench.plot import write_plot
from ltx2rt.bench.rivals import EXTRAS, Rivals, load_rivals
from ltx2rt.bench.stage import StageCase
from ltx2rt.cli.outputs import free_path
from ltx2rt.errors import UsageError
from ltx2rt.kernels.selection import ext
from ltx2rt.paths import expanded

# Of the four minutes that a run without a choice may take; the last case may pass it by its first calls.
SHORT_SECONDS = 210.0
_CLEARED = "\r\x1b[K"
_COMPARED = {
    "none": (),
    "mlx": (REFERENCE, MLX),
    "torch": (REFERENCE, MLX, TORCH, TORCH_DENSE),
    "ggml": (REFERENCE, MLX, GGML),
}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure the kernels against this machine's ceilings",
        description="Calibrate this machine (products in registers, reading from memory), then time kernels and model "
        "parts at the sizes of LTX-2 19B, each beside the reference formula, plain MLX and, if asked for, torch or "
        "ggml. Weights are random; nothing is downloaded. Without a choice a short selection takes at most four "
        "minutes; all cases together take half an hour and up to 8 GB of memory.",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only cases whose name contains TEXT; repeatable"
    )
    parser.add_argument("--all", action="store_true", help="every case, without a limit of time")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--rounds", type=_count, default=5, metavar="N", help="rounds per case (default: 5)")
    parser.add_argument("--threads", type=_count, metavar="N", help="threads of our kernels and of other libraries")
    parser.add_argument(
        "--compare",
        choices=tuple(_COMPARED),
        default="mlx",
        help="what to time beside our kernels: nothing, the reference and plain MLX (default), or also torch or ggml, "
        "which must be installed; the root of a checkout must be the current folder",
    )
    parser.add_argument(
        "--profile", action="store_true", help="instead: where the time of each model part goes, kernel by kernel"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a plot that exists, which else gets the next free name"
    )
    parser.add_argument("--plot", type=expanded, metavar="FILE.png", help="draw the share of the ceiling per case")
    parser.set_defaults(run=run_bench)


def run_bench(arguments: argparse.Namespace) -> int:
    """Exit code 0."""
    if arguments.all and arguments.only:
        raise UsageError("--all and --only exclude each other; --only chooses among all cases.")
    short = not (arguments.all or arguments.only)
    cases = table.short_cases() if short and not arguments.list else table.select(arguments.only)
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    if arguments.plot is not None and arguments.profile:
        raise UsageError("--plot and --profile exclude each other; draw the plot in a run without --profile.")
    if arguments.plot is not None:
        check_files([WrittenFile("--plot", arguments.plot, PICTURE)], [], overwrite=True)
        if not arguments.overwrite:
            arguments.plot = free_path(arguments.plot)
    rivals = _set_up(arguments)
    if arguments.profile:
        return _profile(cases, arguments.json)
    say: Callable[[runner.Row], None] = lambda row: None  # noqa: E731  # the other value is a named function
    if not arguments.json:
        print(report.HEADER, flush=True)
        say = _print_row
    machine, rows = runner.run(
        cases,
        _COMPARED[arguments.compare],
        arguments.rounds,
        say,
        begins=_show_position,
        rivals=rivals,
        seconds=SHORT_SECONDS if short else None,
    )
    if len(rows) < len(cases):
        left_out = ", ".join(case.name for case in cases[len(rows) :])
        print(f"ltx2rt: not run, for time: {left_out}; --all or --only runs them", file=sys.stderr)
    if sys.stderr.isatty():
        print(_CLEARED, end="", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(report.as_json(machine, rows), indent=1))
    else:
        print(report.text_machine(machine), report.LEGEND, sep="\n")
    if arguments.plot is not None:
        write_plot(arguments.plot, report.title(machine), rows)
        print(f"ltx2rt: drawn to {arguments.plot}", file=sys.stderr)
    return 0


def _show_position(position: runner.Position) -> None:
    """On a terminal: the case that runs now and the time left, until its row replaces it."""
    if not sys.stderr.isatty():
        return
    left = ""
    if position.seconds_left is not None:
        minutes, seconds = divmod(round(position.seconds_left), 60)
        left = f", about {minutes}:{seconds:02} left"
    text = f"[{position.number}/{position.count}] {position.name}{left}"
    print(f"{_CLEARED}{text}", end="", file=sys.stderr, flush=True)


def _print_row(row: runner.Row) -> None:
    if sys.stderr.isatty():
        print(_CLEARED, end="", file=sys.stderr, flush=True)
    print(report.text_row(row), flush=True)


def _profile(cases: list[Case], as_json: bool) -> int:
    parts = [case for case in cases if isinstance(case, StageCase)]
    if not parts:
        raise UsageError("--profile needs a model part, such as --only transformer_block or --only video_decoder.")
    results = []
    for case in parts:
        part = case.part()
        part.build()
        result = observation.profile(part.build)
        results.append(report.profile_json(case.name, result))
        if not as_json:
            print(report.text_profile(case.name, result), flush=True)
    if as_json:
        print(json.dumps({"profiles": results}, indent=1))
    return 0


def _set_up(arguments: argparse.Namespace) -> Rivals | None:
    """The number of threads, and what another library computes if one was asked for."""
    if ext is None:
        raise UsageError("the compiled kernels are not installed, so there is nothing to measure; reinstall ltx2rt.")
    if arguments.threads is not None:
        ext.set_num_threads(arguments.threads)
    if arguments.compare not in EXTRAS:
        return None
    rivals = load_rivals(arguments.compare)
    rivals.set_threads(ext.num_threads())
    return rivals


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 1024, got {text!r}")
    return int(text)
