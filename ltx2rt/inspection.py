"""What a weight file is: its generation, components, sizes, and which tensors the models miss or do not know."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import COMPONENTS, NOTHING_KNOWN, TEXT_ENCODER
from ltx2rt.graph.preview_decoder_file import PreviewDecoderFile
from ltx2rt.hub.weight_path import resolve_weight_path
from ltx2rt.paths import expanded
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.file_kind import file_kind
from ltx2rt.weights.finite import NotFinite, find_not_finite
from ltx2rt.weights.formats import companion_of
from ltx2rt.weights.generations import Generation
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.generation import shown, stated
from ltx2rt.weights.lora.keys import component_of
from ltx2rt.weights.lora.opening import is_lora_path, open_lora
from ltx2rt.weights.names import is_unused
from ltx2rt.weights.sets.pairing import check_declared
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile
from ltx2rt.weights.tokenizer import GemmaTokenizer, require_vocabulary
from ltx2rt.weights.weight_file import open_weight_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComponentReport:
    """One component of a file.

    Attributes:
        tensors, parameters, bytes: how many tensors, values (scales of quantised weights not counted) and bytes.
        dtypes: safetensors dtype -> number of tensors.
        formats: how tensors are stored -> number of them; scales and the like belong to a tensor.
        missing: tensors the model needs and the file lacks.
        misshapen: tensors of another shape than the model needs, with both shapes.
        unexpected: tensors the model does not know.
        ignored: how many tensors are known and not used.
        unchecked: how many tensors belong to a model that this version does not have.
        error: why the model's tensors could not be listed; empty if they could.
    """

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    formats: dict[str, int]
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: int = 0
    unchecked: int = 0
    error: str = ""


@dataclass(frozen=True)
class LoraReport:
    """What a LoRA or one of its relatives changes.

    Attributes:
        targets: how many weights and biases.
        rank: the largest; 0 if nothing has one.
        metadata: of its header.
        methods: method (LoRA, LoKr, full difference) -> how many of the targets.
        components: component -> how many of the targets; ``unknown`` for what belongs to no model of ours.
        unknown: those modules.
        text_encoder: modules of a text encoder, which are not applied.
        strangers: tensors that are part of no change.
        scales: what products are multiplied by besides the strength -> what states it.
        reference_downscale_factor: of an IC-LoRA; None where nothing is stated.
    """

    targets: int
    rank: int
    metadata: dict[str, str]
    methods: dict[str, int] = field(default_factory=dict)
    components: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    text_encoder: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    scales: dict[str, str] = field(default_factory=dict)
    reference_downscale_factor: int | None = None


@dataclass(frozen=True)
class Report:
    """A whole file. ``kind`` is ``checkpoint``, ``lora`` or, for names without data, the same with `` manifest``, or
    ``preview decoder``.

    ``not_finite``: tensors with values that are NaN or infinite; None where nobody looked.
    """

    path: str
    kind: str
    generation: str | None
    variant: str | None
    model_version: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    components: list[ComponentReport]
    unknown: list[str]
    ignored: int
    lora: LoraReport | None = None
    not_finite: list[NotFinite] | None = None

    @property
    def missing(self) -> list[str]:
        """``component: name`` of every missing tensor."""
        return [f"{c.name}: {name}" for c in self.components for name in c.missing]

    @property
    def unexpected(self) -> list[str]:
        """Every tensor that no model knows, ``component: name`` or the bare name."""
        return [f"{c.name}: {name}" for c in self.components for name in c.unexpected] + self.unknown

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, mis-shaped, unexpected, unreadable or known to hold bad values."""
        wrong = any(c.misshapen or c.error for c in self.components)
        return not (self.missing or self.unexpected or self.not_finite or wrong)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON, with the joined lists ``missing`` and ``unexpected`` and the flag ``complete``."""
        return {
            **asdict(self),
            "not_finite": None if self.not_finite is None else [bad._asdict() for bad in self.not_finite],
            "missing": self.missing,
            "unexpected": self.unexpected,
            "complete": self.complete,
        }


def inspect(path: str | os.PathLike[str], *, deep: bool = False) -> Report:
    """Look at a weight file, Gemma folder or manifest without reading its tensors.

    Args:
        path: what to look at.
        deep: read every tensor, too, and look for values that are NaN or infinite; takes as long as reading the file
            and 32 MB of memory.

    Raises:
        CheckpointError: it cannot be opened, is damaged, or is of a kind that is not supported.
        UsageError: a deep look at a manifest, which has no values.
    """
    path = resolve_weight_path(expanded(path))
    found = _inspect_lora(path)
    if found is not None:
        report, lora = found
        files: list[WeightFile] = [] if lora.file is None else [lora.file]
    elif (decoder := _preview_decoder(path)) is not None:
        report, files = _inspect_preview_decoder(decoder), [decoder.file]
    else:
        checkpoint = Checkpoint.open(path)
        report, files = _inspect_checkpoint(checkpoint), checkpoint.files
        if deep and files:
            return replace(report, not_finite=list(checkpoint.not_finite()))
    if not deep:
        return report
    if not files:
        raise UsageError(f"{path} is a manifest, which lists tensors without their values; give the weight file.")
    return replace(report, not_finite=[bad for file in files for bad in find_not_finite(file)])


def _inspect_checkpoint(checkpoint: Checkpoint) -> Report:
    reports = [inspect_component(checkpoint, name) for name in sorted(checkpoint.components)]
    dtypes = sum((Counter(report.dtypes) for report in reports), Counter())
    return Report(
        path=str(checkpoint.path),
        kind="checkpoint manifest" if checkpoint.is_manifest else "checkpoint",
        generation=_name(checkpoint.generation),
        variant=checkpoint.variant,
        model_version=checkpoint.metadata.get("model_version", ""),
        tensors=sum(report.tensors for report in reports) + len(checkpoint.ignored) + len(checkpoint.unknown),
        parameters=sum(report.parameters for report in reports),
        bytes=sum(report.bytes for report in reports),
        dtypes=dict(dtypes),
        components=reports,
        unknown=checkpoint.unknown,
        ignored=len(checkpoint.ignored) + sum(report.ignored for report in reports),
    )


def inspect_component(checkpoint: Checkpoint, component: str) -> ComponentReport:
    tensors = checkpoint.names(component)
    specs: dict[str, ParamSpec] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    unexpected: list[str] = []
    unused = [name for name in tensors if is_unused(component, name)]
    unchecked: list[str] = []
    error = ""
    try:
        if component == TEXT_ENCODER.name:
            require_vocabulary(checkpoint)
        expected = COMPONENTS[component].expectation(checkpoint) if component in COMPONENTS else NOTHING_KNOWN
        if component == TEXT_ENCODER.name and not checkpoint.is_manifest:
            GemmaTokenizer.of(checkpoint)  # as a run would, which needs one inside or beside the file
    except CheckpointError as problem:
        error = str(problem)
    else:
        if component == TEXT_ENCODER.name:
            _tell_undeclared(checkpoint)
        specs = {spec.name: spec for spec in expected.specs}
        missing, misshapen = checkpoint.problems(component, expected.specs)
        unchecked = [name for name in tensors if name not in specs and name.startswith(expected.unchecked)]
        known = {*unused, *unchecked}
        unexpected = [name for name in checkpoint.unexpected(component, expected.specs) if name not in known]
    return ComponentReport(
        name=component,
        tensors=len(tensors),
        parameters=sum(_parameters(name, info, specs) for name, info in tensors.items()),
        bytes=sum(info.nbytes for info in tensors.values()),
        dtypes=dict(Counter(info.dtype for info in tensors.values())),
        formats=dict(checkpoint.formats(component, specs.values())),
        missing=missing,
        misshapen=misshapen,
        unexpected=unexpected,
        ignored=len(unused),
        unchecked=len(unchecked),
        error=error,
    )


def _name(generation: Generation | None) -> str | None:
    return None if generation is None else generation.name


def _tell_undeclared(text_encoder: Checkpoint) -> None:
    """Warn of a text encoder that does not say which one it is, where a model reads only one."""
    said = check_declared(text_encoder.section(TEXT_ENCODER.name), str(text_encoder.path))
    if said:
        log.warning("%s: %s", text_encoder.path, said)


def _parameters(name: str, info: TensorInfo, specs: Mapping[str, ParamSpec]) -> int:
    """Values of the model in one tensor: a packed weight counts its unpacked values, its scales count nothing."""
    if companion_of(name) != name:
        return 0
    spec = specs.get(name)
    return TensorInfo(info.dtype, spec.shape).size if spec is not None else info.size


def _preview_decoder(path: Path) -> PreviewDecoderFile | None:
    """The preview decoder in a file; None for anything else (whose errors `Checkpoint.open` raises)."""
    if path.suffix == ".json" or not path.is_file() or file_kind(path) != "safetensors":
        return None
    return PreviewDecoderFile.find(open_weight_file(path))


def _inspect_preview_decoder(found: PreviewDecoderFile) -> Report:
    tensors = found.file.tensors
    dtypes, nbytes = dict(Counter(info.dtype for info in tensors.values())), sum(i.nbytes for i in tensors.values())
    encoder = sum(name.removeprefix(found.prefix).startswith("encoder.") for name in tensors)
    component = ComponentReport(
        name="preview_decoder",
        tensors=len(tensors),
        parameters=sum(info.size for info in tensors.values()),
        bytes=nbytes,
        dtypes=dtypes,
        formats={"dense": len(tensors)},
        missing=found.missing,
        misshapen=found.misshapen,
        unexpected=found.unexpected,
        ignored=encoder,
    )
    return Report(
        path=str(found.path),
        kind="preview decoder",
        generation=None,
        variant=None,
        model_version="",
        tensors=component.tensors,
        parameters=component.parameters,
        bytes=nbytes,
        dtypes=dtypes,
        components=[component],
        unknown=[],
        ignored=encoder,
    )


def _inspect_lora(path: Path) -> tuple[Report, LoraFile] | None:
    """The report of a LoRA; None for anything else (whose errors `Checkpoint.open` raises)."""
    if not is_lora_path(path):
        return None
    lora = open_lora(path)
    names = path.name.lower()
    evidence = stated(lora) or shown(lora.modules)
    report = Report(
        path=str(lora.path),
        kind="lora manifest" if lora.is_manifest else "lora",
        generation=None if evidence is None else evidence.named,
        variant="distilled" if "distilled" in names else None,
        model_version=lora.metadata.get("model_version", ""),
        tensors=len(lora.tensors),
        parameters=sum(info.size for info in lora.tensors.values()),
        bytes=sum(info.nbytes for info in lora.tensors.values()),
        dtypes=dict(Counter(info.dtype for info in lora.tensors.values())),
        components=[],
        unknown=[],
        ignored=len(lora.strangers) + len(lora.of_text_encoder),
        lora=LoraReport(
            targets=len(lora.changes),
            rank=lora.rank,
            metadata=dict(lora.metadata),
            methods=lora.methods,
            components=dict(Counter(component_of(place.module) or "unknown" for place in lora.changes)),
            unknown=[lora.label(module) for module in lora.modules if component_of(module) is None],
            text_encoder=lora.text_encoder,
            strangers=lora.strangers,
            scales={f"{scale.value:g}": scale.source for scale in lora.scales},
            reference_downscale_factor=lora.stated_factor("spatial"),
        ),
    )
    return report, lora
