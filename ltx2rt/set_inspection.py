"""What a folder of weight files is: which part of a model each file holds, and whether they make a whole one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.components import COMPONENTS
from ltx2rt.inspection import ComponentReport, inspect_component
from ltx2rt.types import FilePath, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.finite import NotFinite
from ltx2rt.weights.lora.opening import is_lora_path
from ltx2rt.weights.sets.parts import NEEDED, TEXT_ENCODER, Part, find
from ltx2rt.weights.sets.resolution import ModelSet, resolve
from ltx2rt.weights.sets.units import followed, layout_of, units_of

_LAYOUTS = {
    "diffusers": "diffusers repository",
    "mlx": "pack for MLX programs",
    "comfyui": "ComfyUI models folder",
    "flat": "folder of weight files",
    "gemma": "text encoder folder",
}


@dataclass(frozen=True)
class PartReport:
    """One part of a model in one file.

    Attributes:
        component: as the model calls it: ``spatial_upscaler``.
        path: of the file, or of the folder that is read as one.
        generation: those that it may belong to, joined by ``or``; empty: any.
        variant: ``dev`` or ``distilled``, where that is told.
        resident: bytes in memory when all of it is loaded; None where its tensors cannot be listed.
        formats: how tensors are stored, the dense ones by dtype -> number of them.
        report: its tensors.
    """

    component: str
    path: str
    generation: str
    variant: str | None
    resident: int | None
    formats: dict[str, int]
    report: ComponentReport


@dataclass(frozen=True)
class SetReport:
    """A folder.

    Attributes:
        path: as it was followed.
        kind: of the folder, in words.
        parts: everything that it holds of LTX-2 models.
        refused: file -> why it is not read.
        missing: what a model needs beside these parts, one line each.
        text_encoder: what is said of a missing text encoder, which is often kept elsewhere; empty if there is one.
        error: why a run does not take the folder as a model; empty if it does.
        not_finite: tensors with values that are NaN or infinite; None where nobody looked.
    """

    path: str
    kind: str
    parts: list[PartReport]
    refused: dict[str, str]
    missing: list[str]
    text_encoder: str = ""
    error: str = ""
    not_finite: list[NotFinite] | None = field(default=None)

    @property
    def complete(self) -> bool:
        """Whether a run takes the folder, and no tensor is missing, mis-shaped, unknown or known to hold bad values."""
        reports = [part.report for part in self.parts]
        wrong = any(r.missing or r.misshapen or r.unexpected or r.error for r in reports)
        return not (wrong or self.missing or self.error or self.not_finite)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON, with the flag ``complete``."""
        bad = None if self.not_finite is None else [found._asdict() for found in self.not_finite]
        return {**asdict(self), "not_finite": bad, "complete": self.complete}


def is_set(path: Path) -> bool:
    """Whether a path is a folder that holds more than one model or component in files of their own, and not LoRAs.

    Raises:
        CheckpointError: it is a folder of another model, or files are missing that it names.
    """
    path = followed(path)
    return path.is_dir() and not _holds_loras(path) and len(units_of(path)) > 1


def _holds_loras(folder: Path) -> bool:
    """Whether a folder holds LoRAs and nothing else; one with a file that cannot be read does not."""
    try:
        return is_lora_path(folder)
    except CheckpointError:
        return False


def inspect_set(path: FilePath, *, deep: bool = False) -> SetReport:
    """Look at a folder, as a run would that is given it as its model; only headers are read.

    Args:
        path: a folder, see `is_set`.
        deep: read every tensor, too, and look for values that are NaN or infinite.

    Raises:
        CheckpointError: nothing in it belongs to an LTX-2 model, or files are missing that it names.
    """
    found = find(Path(path))
    model, error = ModelSet({}), ""
    try:
        model = resolve(Path(path), {})
    except CheckpointError as problem:
        error = str(problem)
    chosen = {(name, source.path): source for name, source in model.sources.items()}
    parts = [
        _inspect(part, chosen.get((part.component, part.path), part.checkpoint))
        for part in found.parts
        if part.component != "text_assets"
    ]
    checkpoints = list(dict.fromkeys(part.checkpoint for part in found.parts))
    gaps = [model.gaps[role.setting] for role in NEEDED if role.setting in model.gaps and role is not TEXT_ENCODER]
    return SetReport(
        path=str(found.path),
        kind=_LAYOUTS[layout_of(found.path)] if found.path.is_dir() else "weight file",
        parts=parts,
        refused={str(file): why for file, why in found.refused.items()},
        missing=gaps,
        text_encoder=model.gaps.get(TEXT_ENCODER.setting, ""),
        error=error,
        not_finite=[bad for checkpoint in checkpoints for bad in checkpoint.not_finite()] if deep else None,
    )


def _inspect(part: Part, checkpoint: Checkpoint) -> PartReport:
    report = inspect_component(checkpoint, part.stored)
    resident = None
    specs: Sequence[ParamSpec] = ()
    if part.stored in COMPONENTS and not (report.error or report.missing or report.misshapen):
        specs = COMPONENTS[part.stored].expectation(checkpoint).specs
        resident = checkpoint.loaded_bytes(part.stored, specs).arrays if specs else None
    possible = [generation.name for generation in part.generations]
    return PartReport(
        component=part.component,
        path=str(part.path),
        generation=" or ".join(possible) if len(possible) < 3 else "",
        variant=part.variant,
        resident=resident,
        formats=dict(checkpoint.formats(part.stored, specs, by_dtype=True)),
        report=report,
    )
