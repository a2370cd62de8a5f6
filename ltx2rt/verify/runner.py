"""Runs the golden cases of a folder: per case the worst error, its tolerance, and pass, fail or not covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2rt.errors import Ltx2rtError, UsageError
from ltx2rt.verify import audio, diffusion, media, pipelines, text, transformer, upscaler, video_vae
from ltx2rt.verify.golden import Case, CaseFinder, Check, GoldenFile

FINDERS: tuple[CaseFinder, ...] = (
    transformer.find_cases,
    text.find_cases,
    video_vae.find_cases,
    upscaler.find_cases,
    audio.find_cases,
    media.find_cases,
    diffusion.find_cases,
    pipelines.find_cases,
)


@dataclass(frozen=True)
class Result:
    """Outcome of one case.

    Attributes:
        name: golden file name, a slash, the case.
        status: ``pass``, ``fail`` or ``not-covered``.
        error: largest relative error of the case's worst tensor; None when not covered.
        tolerance: what that error may be at most; None when not covered.
        detail: the worst tensor's name, the failure, or what is not covered.
    """

    name: str
    status: str
    error: float | None = None
    tolerance: float | None = None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        finite = self.error is None or np.isfinite(self.error)
        return {
            "name": self.name,
            "status": self.status,
            "error": self.error if finite else None,
            "tolerance": self.tolerance,
            "detail": self.detail,
        }


def golden_files(root: Path) -> list[Path]:
    """The golden files of a folder: everything below ``components`` and ``pipelines``."""
    files = [
        path
        for folder in ("components", "pipelines")
        for path in sorted((root / folder).glob("*"))
        if path.suffix in (".safetensors", ".json")
    ]
    if not files:
        raise UsageError(
            f"no golden files below {root}: expected components/*.safetensors or pipelines/*.safetensors; "
            "give the folder that holds both."
        )
    return files


def run(root: Path, only: str = "") -> Iterator[Result]:
    """Results of every case whose name contains ``only``, in file order, each as soon as it is known."""
    for path in golden_files(root):
        golden = GoldenFile(path, root)
        cases = [case for finder in FINDERS for case in finder(golden)]
        chosen = [case for case in cases if only in case.name]
        for case in chosen:
            yield run_case(case)
        if not cases:
            if only in golden.name:
                yield Result(golden.name, "not-covered", detail="no case of ltx2rt knows this file")
        elif len(chosen) == len(cases) and golden.unread:
            names = golden.unread
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield Result(f"{golden.name}/unread", "not-covered", detail=f"{len(names)} tensors nobody reads: {shown}")


def run_case(case: Case) -> Result:
    """Compute one case; the reported tensor is the one that comes closest to, or exceeds, its tolerance most."""
    worst: Check | None = None
    try:
        for check in case.run():
            if worst is None or _badness(check) > _badness(worst):
                worst = check
    except (Ltx2rtError, ValueError, KeyError) as error:
        return Result(case.name, "fail", float("inf"), 0.0, f"{type(error).__name__}: {error}")
    if worst is None:
        return Result(case.name, "not-covered", detail="the case compares nothing")
    status = "pass" if worst.passed else "fail"
    return Result(case.name, status, worst.error, worst.tolerance, worst.name)


def _badness(check: Check) -> float:
    return check.error / check.tolerance if check.tolerance > 0 else (float("inf") if check.error > 0 else 0.0)
