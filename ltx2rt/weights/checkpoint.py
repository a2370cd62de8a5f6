"""A checkpoint: the components, configuration and tensors of one weight file or folder."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.block_stream import BlockLayout, BlockStream, Wanted
from ltx2rt.weights.components import assign
from ltx2rt.weights.config import complete_config, config_section, parse_config
from ltx2rt.weights.detection import (
    read_json,
    read_markers,
    refuse_foreign_file,
    refuse_foreign_tensors,
    weight_files,
)
from ltx2rt.weights.formats import companion_of, companions, format_of, require_marker
from ltx2rt.weights.formats.linear_format import Encoding, Stored
from ltx2rt.weights.generations import Generation, generation_of
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.fusing import Changes, changes_of, fuse, fuse_array, fusing_bytes
from ltx2rt.weights.lora.keys import is_lora
from ltx2rt.weights.safetensors import SafetensorsFile, SelectedRows
from ltx2rt.weights.tensor_loading import load_array, require_matrix
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, TensorSource, WeightFile, entry

Loaded = mx.array | LinearWeight

_MAX_NAMES_IN_ERROR = 10

# Component -> section of the official configuration that describes it.
_SECTIONS = {
    "transformer": "transformer",
    "video_connector": "transformer",
    "audio_connector": "transformer",
    "text_projection": "transformer",
    "video_vae": "vae",
    "audio_vae": "audio_vae",
    "vocoder": "vocoder",
    "duration_head": "duration_head",
    "text_encoder": "text_encoder",
}


class _Place(NamedTuple):
    """A tensor of a component: the file that holds it (None for a manifest), its name there, entry and marker."""

    file: WeightFile | None
    name: str
    info: TensorInfo
    marker: Mapping[str, Any]


class LoadedBytes(NamedTuple):
    """What some tensors take.

    ``stored`` in the file; ``arrays`` once loaded; ``made``: the part of ``arrays`` that LoRAs change or that is not
    held as it is stored, which a streamed block has beside its slot; ``working``: temporary arrays while one of these
    is made; ``loading``: by how much the peak while all are loaded, in order, is above ``arrays``.
    """

    stored: int
    arrays: int
    made: int
    working: int
    loading: int


class Checkpoint:
    """One weight file, Gemma folder or tensor manifest. Opening it reads headers only; `load` reads tensors.

    Attributes:
        path: what was opened.
        metadata: the ``__metadata__`` strings of the (first) file.
        ignored: names of tensors that are known and not used.
        unknown: names of tensors that fit no component.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[tuple[WeightFile | None, Mapping[str, TensorInfo]]],
        metadata: Mapping[str, str],
        hf_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._hf_config = dict(hf_config) if hf_config else None
        places: dict[str, _Place] = {}
        for file, tensors in sources:
            refuse_foreign_tensors(file.path if file else path, tensors)
            markers = read_markers(file) if file else {}
            for name, info in tensors.items():
                if name in places:
                    raise CheckpointError(f"{path}: tensor {name!r} is in more than one file of the folder.")
                places[name] = _Place(file, name, info, markers.get(name, {}))
        if is_lora(places):
            raise CheckpointError(f"{path}: a LoRA file, not a checkpoint; give it with --lora, beside a checkpoint.")
        assignment = assign(places, str(path))
        self.ignored = assignment.ignored
        self.unknown = assignment.unknown
        self._components = {
            component: {local: places[name] for local, name in names.items()}
            for component, names in assignment.components.items()
        }
        if not self._components:
            raise CheckpointError(
                f"{path}: none of its {len(places)} tensors belongs to an LTX-2 model"
                + (f" (the first is {next(iter(places))!r})." if places else ".")
            )
        for component, names in self._components.items():
            for local, place in names.items():
                if place.marker:
                    require_marker(self._encoding(component, local), f"{path}: tensor {place.name!r}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a safetensors file, a Gemma folder, or a manifest (``.json``: names, dtypes and shapes without data).

        Raises:
            CheckpointError: missing, damaged, or of a kind that is not supported; the message says which.
        """
        path = Path(path)
        if path.is_dir():
            files = [SafetensorsFile(file) for file in weight_files(path)]
            config = path / "config.json"
            hf_config = read_json(config) if config.exists() else None
            return cls(path, [(file, file.tensors) for file in files], files[0].metadata, hf_config)
        if path.suffix == ".json":
            tensors, metadata = read_manifest(path)
            return cls(path, [(None, tensors)], metadata)
        refuse_foreign_file(path)
        single = SafetensorsFile(path)
        checkpoint = cls(path, [(single, single.tensors)], single.metadata)
        beside = path.with_name("config.json")
        if "text_encoder" in checkpoint.components and "gemma_config" not in single.metadata and beside.exists():
            checkpoint._hf_config = read_json(beside)
        return checkpoint

    @property
    def components(self) -> frozenset[str]:
        """The components the file has tensors of."""
        return frozenset(self._components)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Entry of every tensor that belongs to a component, under its name in the file."""
        return {place.name: place.info for places in self._components.values() for place in places.values()}

    def names(self, component: str) -> dict[str, TensorInfo]:
        """Local name -> entry for every tensor of a component, quantisation companions included; empty if absent."""
        return {local: place.info for local, place in self._components.get(component, {}).items()}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The official configuration: from the metadata where it is stated, else inferred from names and shapes.

        For an upscaler it is the flat module configuration, for a Gemma folder its ``config.json``.
        """
        if self._hf_config is not None and not self._stated:
            return self._hf_config
        return complete_config(self._stated, self._tensors, str(self.path))

    @cached_property
    def _stated(self) -> dict[str, Any]:
        return parse_config(self.metadata, str(self.path))

    @cached_property
    def _tensors(self) -> dict[str, dict[str, TensorInfo]]:
        return {component: self.names(component) for component in self._components}

    def section(self, component: str) -> dict[str, Any]:
        """The part of `config` that describes ``component``.

        Raises:
            CheckpointError: the file does not hold that component.
        """
        if component not in self._components:
            raise CheckpointError(
                f"{self.path}: has no {component}; it holds {', '.join(sorted(self._components))}. "
                "Give the file that has it."
            )
        if component == "text_encoder" and self._hf_config is not None:
            return self._hf_config
        if component not in _SECTIONS:
            return self.config
        return config_section(self._stated, self._tensors, _SECTIONS[component], str(self.path))

    @property
    def generation(self) -> Generation | None:
        """From the model version or else the tensors; None where neither tells."""
        return generation_of(self.metadata, self._tensors)

    @property
    def variant(self) -> str | None:
        """``dev`` or ``distilled``, which only the file name tells; None if it does not."""
        words = re.split(r"[^a-z]+", self.path.name.lower())
        return next((variant for variant in ("distilled", "dev") if variant in words), None)

    @property
    def files(self) -> list[WeightFile]:
        """The weight files, several in a folder of shards; none for a manifest."""
        places = (place for places in self._components.values() for place in places.values())
        return list(dict.fromkeys(place.file for place in places if place.file is not None))

    @property
    def is_manifest(self) -> bool:
        """Whether only names, dtypes and shapes are known."""
        return any(place.file is None for places in self._components.values() for place in places.values())

    def bytes(self, component: str, name: str) -> bytes:
        """A copy of the raw bytes of one tensor (packed tokenizers and templates)."""
        place = self._components.get(component, {}).get(name)
        if place is None or place.file is None:
            raise CheckpointError(f"{self.path}: no tensor {name!r} in the {component}.")
        return place.file.bytes(place.name)

    def load(
        self,
        component: str,
        specs: Iterable[ParamSpec],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
    ) -> dict[str, Loaded]:
        """Read the tensors named in ``specs`` and nothing else; a subset of a model's specs reads one block.

        Args:
            component: whose tensors to read.
            specs: what the model needs; ``layout`` decides what becomes of each tensor.
            loras: (file, strength) pairs, added to the linear weights in this order.
            fuse_dtype: dtype of the weights that a LoRA changed. None keeps the form in which they are held: dense
                weights are rounded once to their dtype, FP8 gets a fresh per-tensor scale, affine keeps its groups
                and bits, what is expanded when loaded becomes dense. The quantised forms round the sum again (E4M3:
                up to 1/16 of each value), so small deltas are partly lost there; a dtype gives dense weights without
                that loss.

        Returns:
            local name -> ``mx.array``, or `LinearWeight` for the layout ``linear``. Values are copies.

        Raises:
            CheckpointError: tensors missing or mis-shaped (up to ten are named), or not usable.
        """
        specs = self._ready(component, specs)
        places = self._components[component]
        return {
            spec.name: self._materialise(component, spec, loras, fuse_dtype) for spec in specs if spec.name in places
        }

    def load_rows(
        self,
        component: str,
        spec: ParamSpec,
        rows: Sequence[int],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
    ) -> Loaded:
        """The tensor of ``spec`` (a matrix) reduced to ``rows``; only these are read.

        Args:
            component, loras, fuse_dtype: as for `load`. With LoRAs the rows must follow each other.
            spec: of the whole matrix.
            rows: indices.

        Raises:
            CheckpointError: as `load`.
        """
        self._ready(component, [spec])
        count = spec.shape[0]
        part = replace(spec, shape=(len(rows), *spec.shape[1:]))
        return self._materialise(
            component,
            part,
            loras,
            fuse_dtype,
            lambda file: SelectedRows(file, rows, count),
            first=rows[0] if len(rows) else 0,
        )

    def stream(
        self,
        component: str,
        blocks: Sequence[Sequence[ParamSpec]],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
        depth: int = 2,
    ) -> BlockStream:
        """The tensors of each of ``blocks`` as `load` gives them, read from disk whenever a block is asked for.

        Args:
            component, loras, fuse_dtype: as for `load`. LoRAs are added each time a block arrives.
            blocks: specs of the blocks, in the order in which they will be asked for.
            depth: blocks in memory at a time.

        Raises:
            CheckpointError: as `load`; nothing is read yet.
        """
        self._ready(component, [spec for block in blocks for spec in block])
        places = self._components[component]
        present = [[spec for spec in block if spec.name in places] for block in blocks]

        def build(index: int, source: Callable[[WeightFile], TensorSource]) -> dict[str, Loaded]:
            return {spec.name: self._materialise(component, spec, loras, fuse_dtype, source) for spec in present[index]}

        return BlockStream([self._layout(component, block) for block in present], build, depth)

    def loaded_bytes(
        self,
        component: str,
        specs: Iterable[ParamSpec],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
    ) -> LoadedBytes:
        """What `load` and `stream` with the same arguments would take; nothing is read, tensors may be missing."""
        places = self._components.get(component, {})
        stored = arrays = made = working = peak = 0
        for spec in specs:
            if spec.name not in places:
                continue
            encoding = self._encoding(component, spec.name)
            form = format_of(encoding)
            stored += encoding.nbytes
            as_weight = spec.layout == "linear"
            own = form.weight_bytes(encoding, spec.shape) if as_weight else form.array_bytes(encoding, spec.shape)
            expanded = not form.is_held_as_stored(encoding) if as_weight else own != encoding.nbytes
            temporary = form.loading_bytes(encoding, spec.shape) if expanded else 0
            if spec.layout.startswith("conv"):
                temporary += encoding.nbytes  # it is read in the order of the file first
            changes = changes_of(component, spec.name, loras)
            if changes:
                fusing = fusing_bytes(spec.shape, changes)
                temporary = encoding.nbytes + fusing
                working = max(working, fusing)
                own = own if fuse_dtype is None else prod(spec.shape) * fuse_dtype.size
                made += own
            elif expanded:
                made += own
                working = max(working, temporary)
            arrays += own
            peak = max(peak, arrays + temporary)
        return LoadedBytes(stored, arrays, made, working, max(0, peak - arrays))

    def formats(self, component: str) -> Counter[str]:
        """Name of a format -> how many tensors of a component are stored so; what accompanies them is not counted."""
        names = [name for name in self._components.get(component, {}) if companion_of(name) == name]
        return Counter(format_of(self._encoding(component, name)).name for name in names)

    def problems(self, component: str, specs: Iterable[ParamSpec]) -> tuple[list[str], list[str]]:
        """(missing names, descriptions of wrong shapes) of a component against ``specs``."""
        tensors = self.names(component)
        missing, wrong = [], []
        for spec in specs:
            info = tensors.get(spec.name)
            if info is None:
                if not spec.optional:
                    missing.append(spec.name)
            elif not self._fits(component, spec):
                wrong.append(f"{spec.name} is {info.dtype} {list(info.shape)}, expected {list(spec.shape)}")
        return missing, wrong

    def unexpected(self, component: str, specs: Iterable[ParamSpec]) -> list[str]:
        """Names of a component that no spec asks for and that do not accompany a weight that one asks for."""
        wanted = {spec.name for spec in specs}
        return [name for name in self.names(component) if name not in wanted and companion_of(name) not in wanted]

    def _check(self, component: str, specs: Sequence[ParamSpec]) -> None:
        if component not in self._components:
            self.section(component)  # raises, naming what the file does hold
        missing, wrong = self.problems(component, specs)
        lists = (("missing", missing), ("of the wrong shape", wrong))
        found = [f"{len(names)} tensors {what}: {_shortened(names)}" for what, names in lists if names]
        if found:
            raise CheckpointError(
                f"{self.path}: {component}: {'; '.join(found)}. The file is incomplete or not for this model."
            )

    def _ready(self, component: str, specs: Iterable[ParamSpec]) -> list[ParamSpec]:
        """The specs, checked against the file."""
        specs = list(specs)
        self._check(component, specs)
        return specs

    def _fits(self, component: str, spec: ParamSpec) -> bool:
        """Whether the stored tensor can be the one that the model needs."""
        encoding = self._encoding(component, spec.name)
        return format_of(encoding).fits(encoding, spec.shape)

    def _encoding(self, component: str, name: str) -> Encoding:
        """How a tensor is stored."""
        places = self._components[component]
        found = {suffix: places[other].info for suffix, other in companions(name, places).items()}
        return Encoding(places[name].info, found, places[name].marker)

    def _materialise(
        self,
        component: str,
        spec: ParamSpec,
        loras: Sequence[tuple[LoraFile, float]],
        fuse_dtype: mx.Dtype | None,
        source: Callable[[WeightFile], TensorSource] = lambda file: file,
        first: int = 0,
    ) -> Loaded:
        """One tensor in the form its spec asks for, or its rows from ``first`` on; ``source`` says where the tensors of
        a file are read from."""
        (file, name), *others = self._wanted(component, spec.name)
        base = name.rpartition(".")[0]
        stored = Stored(
            source(file), name, {other.removeprefix(base): (source(place), other) for place, other in others}
        )
        encoding = self._encoding(component, spec.name)
        form = format_of(encoding)
        changes: Changes = changes_of(component, spec.name, loras)
        if spec.layout == "as_stored" and changes:
            return fuse_array(stored, form, spec.shape, encoding, changes, fuse_dtype, first)
        if spec.layout != "linear":
            return load_array(stored, form, spec)
        require_matrix(spec, stored.where)
        return fuse(stored, form, spec.shape, changes, fuse_dtype) if changes else form.load(stored, spec.shape)

    def _layout(self, component: str, block: Sequence[ParamSpec]) -> BlockLayout:
        return BlockLayout.of([wanted for spec in block for wanted in self._wanted(component, spec.name)])

    def _wanted(self, component: str, name: str) -> list[Wanted]:
        """Where a tensor is, then its quantisation companions."""
        places = self._components[component]
        found = [places[name], *(places[companion] for companion in companions(name, places).values())]
        wanted = [(place.file, place.name) for place in found if place.file is not None]
        if len(wanted) < len(found):
            raise CheckpointError(f"{self.path}: a manifest lists tensors without their data; give the weight file.")
        return wanted


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES_IN_ERROR
    return ", ".join(names[:_MAX_NAMES_IN_ERROR]) + (f" and {more} more" if more > 0 else "")


def read_manifest(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Tensors and metadata of a manifest: ``{"tensors": {name: [dtype, shape]}, "metadata": {...}}``.

    Raises:
        CheckpointError: not such a file.
    """
    manifest = read_json(path)
    listed = manifest.get("tensors")
    if not isinstance(listed, dict):
        raise CheckpointError(f"{path}: not a tensor manifest: it has no object named 'tensors'.")
    tensors = {}
    for name, listing in listed.items():
        valid = (
            isinstance(listing, list)
            and len(listing) == 2
            and listing[0] in DTYPES
            and isinstance(listing[1], list)
            and all(isinstance(n, int) and n >= 0 for n in listing[1])
        )
        if not valid:
            raise CheckpointError(f"{path}: tensor {name!r} must be [dtype, shape], got {listing!r}.")
        tensors[name] = entry(listing[0], tuple(listing[1]))
    metadata = manifest.get("metadata") or {}
    return tensors, {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
