"""``ltx2rt convert``: a weight file in another format."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltx2rt.api.output_files import RECORD, WrittenFile, check_files
from ltx2rt.atomic_file import AtomicFile
from ltx2rt.cli.outputs import free_path, said
from ltx2rt.convert.conversion import ConversionReport, convert
from ltx2rt.convert.formats import TARGETS
from ltx2rt.errors import write_failure
from ltx2rt.media.output_lock import held

_SECONDS_BETWEEN_LINES = 10.0


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="write a weight file in another format",
        description="Write a weight file in another format, a few rows at a time: a 42 GB file takes less than 2 GB of "
        "memory. The input is whatever the other verbs read. The output appears complete or not at all, and the error "
        "of every class of layers, measured against the input, is printed. Where it exists the next free name "
        "is taken, unless --overwrite is given.",
        epilog="formats:\n" + "\n".join(f"  {name:<13} {target.summary}" for name, target in TARGETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="a weight file or folder")
    parser.add_argument("target", type=Path, metavar="OUT", help="the file to write: .safetensors, for gguf-q8_0 .gguf")
    parser.add_argument("--format", required=True, choices=list(TARGETS), help="of the output")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="COMPONENT",
        help="write this component alone, by the name that inspect shows; may be given several times",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write sizes, errors and seconds as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist, but never the input")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run_convert)


def run_convert(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the file has been written."""
    files = [WrittenFile("OUT", arguments.target, (TARGETS[arguments.format].container.suffix,))]
    if arguments.report is not None:
        files.append(WrittenFile("--report", arguments.report, RECORD))
    check_files(files, [arguments.source], overwrite=True)
    if not arguments.overwrite:
        for name in ("target", "report"):
            asked = getattr(arguments, name)
            if asked is not None and (found := free_path(asked)) != asked:
                print(f"ltx2rt: {said(asked, found)}", file=sys.stderr)
                setattr(arguments, name, found)
    with held(path for path in (arguments.target, arguments.report) if path is not None):
        return _converted(arguments)


def _converted(arguments: argparse.Namespace) -> int:
    progress = None if arguments.quiet else _Progress()
    report = convert(
        arguments.source, arguments.target, arguments.format, only=tuple(arguments.only), observer=progress
    )
    print("\n".join(_lines(report)))
    if arguments.report is not None:
        try:
            with AtomicFile(arguments.report) as file:
                file.write((json.dumps(report.as_dict(), indent=1) + "\n").encode())
        except OSError as error:
            raise write_failure(arguments.report, error) from error
    return 0


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = (now - self._start) * (total - done) / max(done, 1)
        print(
            f"convert: {done / 1e9:.2f} of {total / 1e9:.2f} GB ({100 * done // max(total, 1)} %), {left:.0f} s left",
            file=sys.stderr,
        )


def _lines(report: ConversionReport) -> Iterator[str]:
    yield f"{'layers':<36}{'written as':<14}{'tensors':>8}{'error':>10}{'worst':>10}"
    for row in report.classes:
        error, worst = (f"{value:.4f}" if value else "exact" for value in (row.error, row.worst))
        yield f"{row.layers:<36}{row.written_as:<14}{row.tensors:>8}{error:>10}{worst:>10}"
    for name, count in report.requantised.items():
        yield f"{count} of these were stored as {name}: the errors come on top of what that had lost."
    if report.left_out:
        yield f"left out: {', '.join(report.left_out)}"
    peak = "" if report.peak_bytes is None else f", peak memory {report.peak_bytes / 1e9:.2f} GB"
    yield (
        f"{report.target}: {report.source_bytes / 1e6:,.1f} MB became {report.target_bytes / 1e6:,.1f} MB "
        f"in {report.seconds:.1f} s{peak}"
    )
