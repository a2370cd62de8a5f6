"""``ltx2rt inspect``: what a weight file is, and whether the models find what they need in it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ltx2rt.hub.weight_path import resolve_weight_path
from ltx2rt.inspection import ComponentReport, LoraReport, Report, inspect
from ltx2rt.paths import expanded
from ltx2rt.set_inspection import PartReport, SetReport, inspect_set, is_set
from ltx2rt.weights.formats import DENSE

_NAMES_SHOWN = 10


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="say what a weight file is",
        description="Show generation, variant, components, dtypes and sizes of a weight file, Gemma folder or tensor "
        "manifest, and the tensors that our models miss in it or do not know; of a folder with the parts of a model, "
        "which file holds which part and what is missing. Reads only headers, unless --deep is given. Exit code 1 if "
        "anything is missing, of a wrong shape, unexpected or no finite number, or if a run would not take it.",
    )
    parser.add_argument("path", type=expanded, metavar="PATH", help="weight file, folder, or tensor manifest .json")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, with all names")
    parser.add_argument(
        "--deep", action="store_true", help="read every tensor and name those with values that are NaN or infinite"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code: 0 if the file is complete, 1 if not."""
    path = resolve_weight_path(args.path)
    report = inspect_set(path, deep=args.deep) if is_set(path) else inspect(path, deep=args.deep)
    if args.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print("\n".join(_lines(report) if isinstance(report, Report) else _set_lines(report)))
    return 0 if report.complete else 1


def _set_lines(report: SetReport) -> Iterator[str]:
    yield f"{'folder':<12}{report.path}"
    yield f"{'kind':<12}{report.kind}"
    yield f"{'size':<12}{_size(sum(part.report.bytes for part in report.parts))}"
    if report.not_finite is not None:
        yield f"{'values':<12}{'all finite' if not report.not_finite else 'not all finite, see below'}"
    yield ""
    rows: list[tuple[str, ...]] = [("component", "file", "generation", "size", "in memory", "missing", "formats")]
    rows += [_set_row(part, Path(report.path)) for part in report.parts]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    parts = {f"{part.component} in {Path(part.path).name}": part.report for part in report.parts}
    titles = {
        "missing": [f"{where}: {name}" for where, found in parts.items() for name in found.missing],
        "wrong shape": [f"{where}: {text}" for where, found in parts.items() for text in found.misshapen],
        "unexpected": [f"{where}: {name}" for where, found in parts.items() for name in found.unexpected],
        "not finite": [f"{bad.name}: {bad.values} of {bad.size} values" for bad in report.not_finite or ()],
        "not readable as a model": [f"{where}: {found.error}" for where, found in parts.items() if found.error],
        "not read": list(report.refused.values()),
        "to be given with it": [text for text in (report.text_encoder,) if text],
        "missing parts": report.missing,
        "not taken as a model": [text for text in (report.error,) if text],
    }
    yield from _listed(titles)


def _set_row(part: PartReport, folder: Path) -> tuple[str, ...]:
    path = Path(part.path)
    variant = f" {part.variant}" if part.variant else ""
    return (
        part.component.replace("_", " "),
        str(path.relative_to(folder)) if path.is_relative_to(folder) and path != folder else path.name,
        (part.generation or "any") + variant,
        _size(part.report.bytes),
        "-" if part.resident is None else _size(part.resident),
        "error" if part.report.error else str(len(part.report.missing)),
        _counts(part.formats),
    )


def _lines(report: Report) -> Iterator[str]:
    yield f"{'file':<12}{report.path}"
    yield f"{'kind':<12}{report.kind}"
    version = f" (model version {report.model_version})" if report.model_version else ""
    yield f"{'generation':<12}{report.generation or 'not stated in the file'}{version}"
    yield f"{'variant':<12}{report.variant or 'not stated in the file name'}"
    yield f"{'tensors':<12}{report.tensors} ({_counts(report.dtypes)}; {report.ignored} known and not used)"
    yield f"{'parameters':<12}{report.parameters:,} in {_size(report.bytes)}"
    formats = sum((Counter(component.formats) for component in report.components), Counter())
    if set(formats) - {DENSE.name}:
        yield f"{'formats':<12}{_counts(formats)}"
    if report.not_finite is not None:
        yield f"{'values':<12}{'all finite' if not report.not_finite else 'not all finite, see below'}"
    if report.lora is not None:
        yield from _lora_lines(report.lora)
        for key, value in report.lora.metadata.items():
            yield f"{'metadata':<12}{key} = {value}"
    if report.components:
        yield ""
        yield (
            f"{'component':<17}{'tensors':>8}{'parameters':>17}{'size':>11}  {'missing':>7}  {'unexpected':>10}  dtypes"
        )
    for component in report.components:
        yield _row(component)
    yield from _listed(_findings(report))


def _listed(findings: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every list that is not empty, under its title."""
    for title, names in findings.items():
        if not names:
            continue
        yield ""
        yield f"{title} ({len(names)}):"
        yield from (f"  {name}" for name in names[:_NAMES_SHOWN])
        if len(names) > _NAMES_SHOWN:
            yield f"  and {len(names) - _NAMES_SHOWN} more (--json lists all)"


def _lora_lines(lora: LoraReport) -> Iterator[str]:
    rank = f", rank {lora.rank}" if lora.rank else ""
    yield f"{'lora':<12}{lora.targets} weights{rank}"
    yield f"{'method':<12}{_counts(lora.methods)}"
    yield f"{'changes':<12}{_counts(lora.components)}"
    scales = [f"{value} ({source or 'nothing states another'})" for value, source in lora.scales.items()]
    if scales:
        yield f"{'scale':<12}{', '.join(scales[:_NAMES_SHOWN])}"
    if lora.reference_downscale_factor is not None:
        yield f"{'references':<12}{lora.reference_downscale_factor} times smaller than the clip"


def _row(component: ComponentReport) -> str:
    checked = f"{len(component.missing):>7}  {len(component.unexpected):>10}"
    if component.error:
        checked = f"{'error':>7}  {'':>10}"
    elif component.unchecked == component.tensors:
        checked = f"{'-':>7}  {'-':>10}"
    return (
        f"{component.name:<17}{component.tensors:>8}{component.parameters:>17,}{_size(component.bytes):>11}  {checked}"
        f"  {_counts(component.dtypes)}"
    )


def _findings(report: Report) -> Mapping[str, Sequence[str]]:
    """What is to be said about the tensors, by title."""
    misshapen = [f"{c.name}: {text}" for c in report.components for text in c.misshapen]
    errors = [f"{c.name}: {c.error}" for c in report.components if c.error]
    unchecked = [f"{c.name}: {c.unchecked} of {c.tensors} tensors" for c in report.components if c.unchecked]
    return {
        "missing": report.missing,
        "wrong shape": misshapen,
        "unexpected": report.unexpected,
        "not finite": [f"{bad.name}: {bad.values} of {bad.size} values" for bad in report.not_finite or ()],
        "not readable as a model": errors,
        "not of a model of ours": [] if report.lora is None else report.lora.unknown,
        "not applied, of a text encoder": [] if report.lora is None else report.lora.text_encoder,
        "not applied, part of no LoRA": [] if report.lora is None else report.lora.strangers,
        "not checked, no model for them in this version": unchecked,
    }


def _counts(dtypes: Mapping[str, int]) -> str:
    return ", ".join(f"{dtype} {count}" for dtype, count in sorted(dtypes.items(), key=lambda item: -item[1]))


def _size(count: int) -> str:
    """Decimal units, as weight files are listed."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"
