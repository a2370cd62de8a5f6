"""``ltx2rt verify``: golden cases computed with our code, each with its error and tolerance."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.verify.runner import Result, run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="compare this installation with saved results of the official code",
        description="Compute every golden case of a folder in float32 and compare. Exit code 0 only if no case fails.",
    )
    parser.add_argument(
        "--goldens", type=Path, required=True, metavar="DIR", help="folder with components/ and pipelines/"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """Exit code: 0 all passed, 1 a case failed or nothing was compared."""
    if not arguments.goldens.is_dir():
        raise UsageError(f"--goldens must be an existing folder, got {arguments.goldens}; give the golden folder.")
    results = []
    for result in run(arguments.goldens, arguments.only):
        results.append(result)
        if not arguments.json:
            print(_row(result), flush=True)
    counts = {s: sum(r.status == s for r in results) for s in ("pass", "fail", "not-covered")}
    if arguments.json:
        print(json.dumps({"cases": [r.as_dict() for r in results]}, indent=1))
    summary = f"{counts['pass']} passed, {counts['fail']} failed, {counts['not-covered']} not covered"
    print(summary, file=sys.stderr if arguments.json else sys.stdout)
    return 0 if counts["fail"] == 0 and counts["pass"] > 0 else 1


def _row(result: Result) -> str:
    if result.error is None:
        return f"{result.status:<12}{'':>22}  {result.name}  ({result.detail})"
    return f"{result.status:<12}{result.error:>10.2e} <= {result.tolerance:<8.1e}  {result.name}  ({result.detail})"
