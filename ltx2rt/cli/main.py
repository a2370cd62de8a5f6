"""The command line: verbs, exit codes, and how errors reach the user."""

from __future__ import annotations

import argparse
import difflib
import gc
import sys
from collections.abc import Sequence
from typing import Any

import ltx2rt
from ltx2rt.cli import bench, doctor, encode, generate, inspect, plan, upscale, verify
from ltx2rt.errors import Cancelled, Ltx2rtError, UsageError

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

VERBS = (generate, encode, upscale, plan, inspect, verify, bench, doctor)


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors in our form; names of options are never completed from their beginnings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> None:  # type: ignore[override]  # never returns, as in the base class
        self.exit(EXIT_USAGE, f"error: {message}\nhint: {self.prog} --help lists every option\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ltx2rt``."""
    parser = _Parser(prog="ltx2rt", description="Run Lightricks' LTX-2 audio-video models with fused kernels.")
    parser.add_argument("--version", action="version", version=f"ltx2rt {ltx2rt.__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(subparsers)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; deliberate errors become one message on stderr."""
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown_options(arguments.verb, parser, unknown))
    try:
        return int(arguments.run(arguments))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (KeyboardInterrupt, Cancelled):
        print("interrupted", file=sys.stderr)
        return EXIT_FAILED
    except Ltx2rtError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED


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
    gc.freeze()  # What the imports have made stays; every stage ends with a collection, which need not look at it.
    sys.exit(run([*words, *sys.argv[1:]]))


def generate_main() -> None:
    """Entry point of ``ltx2rt-generate``, the same as ``ltx2rt generate``."""
    main(["generate"])
