"""``ltx2rt verify``: kernels and golden cases computed with our code, each with its error and tolerance."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.kernels.selection import use_reference
from ltx2rt.paths import expanded
from ltx2rt.verify.kernels import KernelResult, run_kernels
from ltx2rt.verify.runner import Result, run


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "verify",
        help="check the kernels on this machine, and compare with saved results of the official code",
        description="Compare every kernel with its reference on this machine; on a Metal GPU also time it and keep the "
        "outcome. With --goldens, compute every golden case of a folder in float32 and compare. Exit code 0 only if "
        "nothing fails; a saved result that no case compares is a failure, unless it is listed as not covered.",
    )
    parser.add_argument(
        "--goldens",
        type=expanded,
        action="append",
        default=[],
        metavar="DIR",
        help="folder with components/ and pipelines/; may be given several times",
    )
    parser.add_argument(
        "--kernels", action="store_true", help="check the kernels also when --goldens is given; alone, the default"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains TEXT")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run_verify)


def run_verify(arguments: argparse.Namespace) -> int:
    """Exit code: 0 nothing failed, 1 something failed or nothing was run."""
    for folder in arguments.goldens:
        if not folder.is_dir():
            raise UsageError(f"--goldens must be an existing folder, got {folder}; give the golden folder.")
    kernels: list[KernelResult] = []
    results: list[Result] = []
    if arguments.kernels or not arguments.goldens:
        if use_reference():
            raise UsageError("LTX2RT_KERNELS=reference leaves no kernel to check; unset it, or give --goldens alone.")
        for kernel in run_kernels(arguments.only):
            kernels.append(kernel)
            if not arguments.json:
                print(_kernel_row(kernel), flush=True)
    for folder in arguments.goldens:
        for result in run(folder, arguments.only):
            results.append(result)
            if not arguments.json:
                print(_row(result), flush=True)
    counts = {s: sum(r.status == s for r in results) for s in ("pass", "fail", "not-covered")}
    counts["pass"] += sum(k.passed for k in kernels)
    counts["fail"] += sum(bool(k.outcome.fault) for k in kernels)
    counts["not-covered"] += sum(bool(k.skipped) for k in kernels)
    if arguments.json:
        report = {"kernels": [k.as_dict() for k in kernels], "cases": [r.as_dict() for r in results]}
        print(json.dumps(report, indent=1))
    summary = f"{counts['pass']} passed, {counts['fail']} failed, {counts['not-covered']} not covered"
    print(summary, file=sys.stderr if arguments.json else sys.stdout)
    return 0 if counts["fail"] == 0 and (kernels or results) else 1


def _kernel_row(result: KernelResult) -> str:
    outcome = result.outcome
    if result.skipped:
        return f"{'not-covered':<12}{'':>22}  {result.variant}  ({result.skipped})"
    if outcome.fault:
        return f"{'fail':<12}{'':>22}  {result.variant}  ({outcome.fault}; {outcome.choice} is used)"
    times = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in (outcome.seconds or {}).items())
    note = f"  ({times}; {outcome.choice} is used)" if times else ""
    return f"{'pass':<12}{outcome.error:>10.2e} <= {outcome.tolerance:<8.1e}  {result.variant}{note}"


def _row(result: Result) -> str:
    if result.error is None:
        return f"{result.status:<12}{'':>22}  {result.name}  ({result.detail})"
    return f"{result.status:<12}{result.error:>10.2e} <= {result.tolerance:<8.1e}  {result.name}  ({result.detail})"
