"""The command line: verbs, exit codes, and how errors reach the user."""

from __future__ import annotations

import argparse
import difflib
import functools
import gc
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import ltx2rt
from ltx2rt.cli import bench, convert, doctor, download, encode, generate, inspect, plan, serve, upscale, verify
from ltx2rt.cli.exit_codes import EXPECTED, ExitCode, exit_code, table
from ltx2rt.cli.flags import spelling
from ltx2rt.cli.terminal import make_streams_safe
from ltx2rt.errors import Cancelled
from ltx2rt.spelling import spelled_as

VERBS = (generate, encode, upscale, plan, serve, inspect, convert, download, verify, bench, doctor)


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors in our form; names of options are never completed from their beginnings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> None:  # type: ignore[override]  # never returns, as in the base class
        self.exit(ExitCode.USAGE, f"error: {message}\nhint: {self.prog} --help lists every option\n")


@functools.cache
def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ltx2rt``."""
    parser = _Parser(
        prog="ltx2rt",
        description="Run Lightricks' LTX-2 audio-video models with fused kernels.",
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ltx2rt {ltx2rt.__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(subparsers)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code, see `ExitCode`; expected errors become one message on stderr."""
    try:
        parser = build_parser()
        arguments, unknown = parser.parse_known_args(argv)
        if unknown:
            parser.error(_unknown_options(arguments.verb, parser, unknown))
        arguments.words = tuple(argv)
        with spelled_as(spelling()):
            return int(arguments.run(arguments))
    except EXPECTED as error:
        _say(error)
        return exit_code(error)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the run ends as after Ctrl-C, so that it cleans up and can be resumed."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _say(error: BaseException) -> None:
    if isinstance(error, BrokenPipeError):
        return  # nobody reads what we write
    text = f"error: {error}"
    if isinstance(error, (KeyboardInterrupt, Cancelled)):
        text = "interrupted"
    elif isinstance(error, MemoryError):
        text = f"error: the system refused memory ({str(error) or 'none is left'}); give --memory or a smaller size."
    print(text, file=sys.stderr)


def _flush_stdout(code: int) -> int:
    """Write what is left for stdout; a failure, as on a full disk, has its exit code like any other."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _say(error)
        with open(os.devnull, "w") as nowhere:  # so that Python does not try once more when it ends
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return code or exit_code(error)
    return code


def _unknown_options(verb: str, parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """What to say about words that no option took, with the nearest names."""
    chosen = next(a.choices[verb] for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [name for action in chosen._actions for name in action.option_strings]
    hints = []
    for word in unknown:
        name = word.split("=", 1)[0]
        near = difflib.get_close_matches(name, known, n=1) if name.startswith("-") else []
        hints += [f"did you mean {near[0]} instead of {name}?"] if near else []
    return f"unrecognized arguments: {' '.join(unknown)}" + "".join(f"; {hint}" for hint in hints)


def main(words: Sequence[str] = ()) -> None:
    """Entry point of ``ltx2rt``; ``words`` come before those of the command line."""
    make_streams_safe()
    gc.freeze()  # What the imports have made stays; every stage ends with a collection, which need not look at it.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_flush_stdout(run([*words, *sys.argv[1:]])))


def generate_main() -> None:
    """Entry point of ``ltx2rt-generate``, the same as ``ltx2rt generate``."""
    main(["generate"])
