"""Runs the golden cases of a folder: per case the worst error, its tolerance, and pass, fail or not covered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.errors import UsageError
from ltx2rt.verify import (
    audio,
    dfr,
    diffusion,
    formats,
    hdr,
    keyframe_decode,
    media,
    pipelines,
    stage_passes,
    text,
    tiles,
    transformer,
    upscaler,
    video_vae,
    windows,
)
from ltx2rt.verify.collected_warnings import collected_warnings
from ltx2rt.verify.coverage import result_not_covered
from ltx2rt.verify.golden import Case, CaseFinder, Check, GoldenFile

FINDERS: tuple[CaseFinder, ...] = (
    transformer.find_cases,
    text.find_cases,
    video_vae.find_cases,
    keyframe_decode.find_cases,
    upscaler.find_cases,
    audio.find_cases,
    media.find_cases,
    hdr.find_cases,
    diffusion.find_cases,
    tiles.find_cases,
    pipelines.find_cases,
    stage_passes.find_cases,
    dfr.find_cases,
    windows.find_cases,
    formats.find_cases,
)
# The table of contents that a golden folder may have: per file its tensors with dtype and shape.
INDEX = "INDEX.json"
Index = dict[str, dict[str, tuple[str, tuple[int, ...]]]]


@dataclass(frozen=True)
class Result:
    """Outcome of one case.

    Attributes:
        name: golden file name, a slash, the case.
        status: ``pass``, ``fail`` or ``not-covered``.
        error: largest relative error of the case's worst tensor; None where nothing was compared.
        tolerance: what that error may be at most; None where nothing was compared.
        detail: the worst tensor's name, the failure, or why it is not covered.
        said: warnings of the runs that were compared.
    """

    name: str
    status: str
    error: float | None = None
    tolerance: float | None = None
    detail: str = ""
    said: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        finite = self.error is None or np.isfinite(self.error)
        return {
            "name": self.name,
            "status": self.status,
            "error": self.error if finite else None,
            "tolerance": self.tolerance,
            "detail": self.detail,
            "said": list(self.said),
        }


def golden_files(root: Path) -> list[Path]:
    """The golden files of a folder: what lies in ``components`` and ``pipelines``, and the table of weight formats.

    That table is in ``formats``, or in the folder itself if it is such a folder. Everything else is weights, inputs or
    text.

    Raises:
        UsageError: there are none.
    """
    files = [
        path
        for folder in ("components", "pipelines")
        for path in sorted((root / folder).glob("*"))
        if path.is_file() and path.suffix != ".md"
    ]
    files += [folder / formats.INDEX for folder in (root / "formats", root) if formats.is_formats_folder(folder)]
    if not files:
        raise UsageError(
            f"no golden files below {root}: expected components/*.safetensors, pipelines/*.safetensors or "
            "formats/INDEX.json; give the folder that holds them."
        )
    return files


def run(root: Path, only: str = "") -> Iterator[Result]:
    """Results of every case whose name contains ``only``, in file order, each as soon as it is known.

    Of a file whose cases were all run, every saved result that none of them used is a failure, too; so is what
    the folder's table of contents lists and the folder lacks.
    """
    index = _read_index(root)
    paths = golden_files(root)
    for path in paths:
        yield from run_file(path, root, only, index)
    present = {path.relative_to(root).as_posix() for path in paths}
    for name in sorted(index):
        if name.startswith(("components/", "pipelines/")) and name not in present and only in name:
            yield _failure(Path(name).name, f"{INDEX} lists this file, but it is missing")


def run_file(path: Path, root: Path, only: str = "", index: Index | None = None) -> Iterator[Result]:
    """As `run`, for one golden file of the folder ``root`` (with its index, or None to read it)."""
    try:
        golden = GoldenFile(path, root)
        cases = [case for finder in FINDERS for case in finder(golden)]
    # A damaged or foreign golden file can make anything of a case; the other cases still run.
    except Exception as error:
        if only in path.name:
            yield _failure(path.name, _described(error))
        return
    if not cases:
        if only in path.name:
            yield _failure(path.name, "no case knows this file")
        return
    chosen = [case for case in cases if only in case.name]
    for case in chosen:
        yield run_case(case)
    if len(chosen) == len(cases):
        yield from _completeness(
            golden, path.relative_to(root).as_posix(), _read_index(root) if index is None else index
        )


def _completeness(golden: GoldenFile, name: str, index: Index) -> Iterator[Result]:
    """Failures for what the file holds and no case used, or what it should hold and does not."""
    skipped: dict[str, list[str]] = {}
    unused = []
    for key in golden.unread:
        reason = result_not_covered(name, key)
        if reason is None:
            unused.append(key)
        else:
            skipped.setdefault(reason, []).append(key)
    for reason, keys in skipped.items():
        yield Result(f"{golden.name}/{_listed(keys, 1)}", "not-covered", detail=reason)
    if unused:
        yield _failure(f"{golden.name}/unread", f"saved, but compared with nothing: {_listed(unused)}")
    if name in index:
        listed, present = index[name], golden.shapes()
        odd = [key for key in sorted(listed.keys() | present.keys()) if listed.get(key) != present.get(key)]
        if odd:
            detail = f"missing, added or of another shape than in {INDEX}: {_listed(odd)}"
            yield _failure(f"{golden.name}/contents", detail)


def _read_index(root: Path) -> Index:
    """The table of contents of a folder; empty where it has none, or is a folder of weight formats.

    Raises:
        UsageError: it cannot be read.
    """
    path = root / INDEX
    if not path.exists() or formats.is_formats_folder(root):
        return {}
    try:
        return {
            file: {key: (dtype, tuple(shape)) for key, (dtype, shape) in entry.get("tensors", {}).items()}
            for file, entry in json.loads(path.read_text()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: cannot be read as a table of golden files ({error}); restore it, or delete it to compare what "
            "is there."
        ) from error


def _listed(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def run_case(case: Case) -> Result:
    """Compute one case; the reported tensor is the one that comes closest to, or exceeds, its tolerance most."""
    if case.not_covered:
        return Result(case.name, "not-covered", detail=case.not_covered)
    with collected_warnings() as said:
        result = _compared(case)
    return replace(result, said=tuple(said))


def _compared(case: Case) -> Result:
    worst: Check | None = None
    try:
        for check in case.run():
            if worst is None or _badness(check) > _badness(worst):
                worst = check
    except Exception as error:  # see `run_file`
        return _failure(case.name, _described(error))
    if worst is None:
        return _failure(case.name, "the case compares nothing")
    status = "pass" if worst.passed else "fail"
    return Result(case.name, status, worst.error, worst.tolerance, worst.name)


def _failure(name: str, detail: str) -> Result:
    return Result(name, "fail", detail=detail)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error.args[0] if isinstance(error, KeyError) and error.args else error}"


def _badness(check: Check) -> float:
    return check.error / check.tolerance if check.tolerance > 0 else (float("inf") if check.error > 0 else 0.0)
