"""A checkpoint: the components, configuration and tensors of one weight file or folder."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels import half_operands
from ltx2rt.spelling import spelled
from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight, ParamSpec
from ltx2rt.weights.block_stream import BlockLayout, BlockStream, Wanted
from ltx2rt.weights.config import complete_config, config_section, is_stated, parse_config
from ltx2rt.weights.finite import NotFinite, find_not_finite
from ltx2rt.weights.formats import DENSE, accompanied, companion_of, companions, fault_of, format_of
from ltx2rt.weights.formats.linear_format import CURE, FLOATS, Encoding, LinearFormat, Stored
from ltx2rt.weights.generations import Generation, generation_of
from ltx2rt.weights.gguf import GgufFile
from ltx2rt.weights.gguf_config import gemma_config
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.fusing import changes_of, fuse, fuse_array, fusing_bytes
from ltx2rt.weights.lora.keys import is_lora
from ltx2rt.weights.manifest import read_manifest
from ltx2rt.weights.names.llama_cpp import is_gemma
from ltx2rt.weights.names.origin import OfficialTensors
from ltx2rt.weights.places import Places
from ltx2rt.weights.sets.description import Description
from ltx2rt.weights.sets.units import Unit, followed, pack_metadata, text_encoder_config, unit_of, units_of
from ltx2rt.weights.tensor_loading import load_array, require_matrix
from ltx2rt.weights.tensor_source import TensorInfo, TensorSource, WeightFile, entry
from ltx2rt.weights.weight_file import open_weight_files

log = logging.getLogger(__name__)

Loaded = mx.array | LinearWeight

_MAX_NAMES_IN_ERROR = 10
# What is compared of two files to tell whether they hold the same.
_SAMPLED_TENSORS, _SAMPLED_BYTES = 32, 4096
# Metadata that may say whether a model is distilled.
_VARIANT_KEYS = ("model_variant", "variant", "modelspec.title", "general.finetune", "general.name")

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


# Components whose tensors are no weights.
_WITHOUT_FORMATS = ("text_assets",)


class LoadedBytes(NamedTuple):
    """What some tensors take.

    ``stored`` in the file; ``arrays`` once loaded; ``made``: the part of ``arrays`` that LoRAs change or that is not
    held as it is stored, which a streamed block has beside its slot; ``working``: temporary arrays while one of these
    is made; ``loading``: by how much the peak while all are loaded, in order, is above ``arrays``; ``rotation``: the
    largest groups in which one of them rotates what it is multiplied with, 0 where none does; ``int8``: whether one of
    them is held as rows of 8-bit integers.
    """

    stored: int
    arrays: int
    made: int
    working: int
    loading: int
    rotation: int = 0
    int8: bool = False


def loading_together(parts: Iterable[LoadedBytes]) -> int:
    """By how much the peak while these are loaded, one after the other, is above all their arrays."""
    held = peak = 0
    for part in parts:
        peak = max(peak, held + part.arrays + part.loading)
        held += part.arrays
    return max(0, peak - held)


class Checkpoint:
    """One weight file, Gemma folder or tensor manifest. Opening it reads headers only; `load` reads tensors.

    Args:
        path: what was opened.
        groups: weight files; the names in those of one group, the shards of a model, belong together.
        metadata: the ``__metadata__`` strings that count.
        hf_config: the Hugging Face configuration of a text encoder beside the files.
        listed: name -> entry, in place of files: a manifest.

    Attributes:
        path: what was opened.
        metadata: the ``__metadata__`` strings of the (first) file.
        ignored: names of tensors that are known and not used.
        unknown: names of tensors that fit no component.
    """

    def __init__(
        self,
        path: Path,
        groups: Sequence[Sequence[WeightFile]],
        metadata: Mapping[str, str],
        hf_config: Mapping[str, Any] | None = None,
        listed: Mapping[str, TensorInfo] | None = None,
    ) -> None:
        self.path = path
        self.metadata = dict(metadata)
        self._hf_config = dict(hf_config) if hf_config else None
        self._description: Description | None = None
        self._encodings: dict[tuple[str, str, tuple[int, ...] | None], Encoding] = {}
        self._half_ranges: dict[tuple[Any, ...], bool] = {}
        self._unchanged_bytes: dict[tuple[str, ParamSpec], LoadedBytes] = {}  # of tensors as they are, without LoRAs
        places = Places(path, self.metadata)
        names: dict[str, TensorInfo] = dict(listed or {})
        if listed is not None:
            places.add((), listed)
        for files in groups:
            tensors = {name: info for file in reversed(files) for name, info in file.tensors.items()}
            places.add(files, tensors)
            names |= tensors
        self.ignored, self.unknown, self._components = places.ignored, places.unknown, places.components
        self._accompanied = {component: accompanied(held) for component, held in self._components.items()}
        if is_lora(names):
            raise CheckpointError(
                f"{path}: a LoRA file, not a checkpoint; give it with {spelled('loras')}, beside a checkpoint."
            )
        if not self._components:
            raise CheckpointError(
                f"{path}: none of its {len(names)} tensors belongs to an LTX-2 model"
                + (f" (the first is {next(iter(names))!r})" if names else "")
                + "; use a file of LTX-2, 2.3 or 2.5."
            )
        self._check_formats()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a weight file (safetensors or GGUF), a Gemma folder, or a manifest (``.json``: names and shapes alone).

        Raises:
            CheckpointError: missing, damaged, or of a kind that is not supported; the message says which.
        """
        path = followed(Path(path))
        if path.is_dir():
            return cls.of_units(path, units_of(path))
        if path.suffix == ".json":
            tensors, metadata = read_manifest(path)
            return cls(path, (), metadata, listed=tensors)
        files = open_weight_files([path])
        single = files[0]
        metadata = _merged(dict(unit_of(path).metadata), single.metadata, str(path))
        if not is_stated(metadata, "config"):  # of a pack files state nothing
            metadata |= pack_metadata(path)
        checkpoint = cls(path, [files], metadata)
        if "text_encoder" in checkpoint.components and not is_stated(metadata, "gemma_config"):
            checkpoint._hf_config = text_encoder_config(path)
        return checkpoint

    def _check_formats(self) -> None:
        """Refuse, naming the tensor, what no format takes, and scales of one value that are no finite numbers."""
        for component, places in self._components.items():
            for local, place in places.items():
                if component in _WITHOUT_FORMATS or not local.endswith((".weight", ".bias")):
                    continue
                encoding = self._encoding(component, local)
                fault = fault_of(encoding)
                if fault is not None:
                    where = f"{place.file.path if place.file else self.path}: tensor {place.name!r}"
                    raise CheckpointError(f"{where}: {fault}; {CURE}.")
                for suffix in encoding.companions:
                    scale = places[local.rpartition(".")[0] + suffix]
                    if scale.file is not None and scale.info.size == 1 and scale.info.dtype in FLOATS:
                        scale.file.raw(scale.name, finite=True)

    @classmethod
    def of_units(cls, path: Path, units: Sequence[Unit]) -> Checkpoint:
        """Several files as one; what files beside them state counts more than their headers.

        Raises:
            CheckpointError: as `open`, or two files hold the same tensor of a component.
        """
        if len(units) == 1 and units[0].files == (units[0].path,) and not units[0].metadata:
            return cls.open(units[0].path)
        opened = [open_weight_files(group) for unit in units for group in unit.groups]
        files = _without_loras(path, [file for group in opened for file in group])
        groups = [[file for file in group if file in files] for group in opened]
        metadata: dict[str, str] = {}
        for found in (*(unit.metadata for unit in units), *(file.metadata for file in files)):
            metadata = _merged(metadata, found, str(path))
        hf_config = next((unit.hf_config for unit in units if unit.hf_config is not None), None)
        return cls(path, [group for group in groups if group], metadata, hf_config)

    def described(self, description: Description) -> Checkpoint:
        """The same checkpoint, whose configuration is that of the set of files that it belongs to."""
        other = copy.copy(self)
        other._description = description
        return other

    @property
    def is_described(self) -> bool:
        """Whether its configuration is that of a set of files."""
        return self._description is not None

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
        return dict(self._infos.get(component, {}))

    @cached_property
    def _infos(self) -> dict[str, dict[str, TensorInfo]]:
        return {
            component: {local: place.info for local, place in places.items()}
            for component, places in self._components.items()
        }

    @cached_property
    def config(self) -> dict[str, Any]:
        """The official configuration: from the metadata where it is stated, else inferred from names and shapes.

        For an upscaler it is the flat module configuration, for a Gemma folder its ``config.json``.
        """
        if self._text_config is not None and not self.stated:
            return self._text_config
        return complete_config(self.stated, self._tensors, str(self.path))

    @cached_property
    def _text_config(self) -> dict[str, Any] | None:
        """The Hugging Face configuration of the text encoder, where it is beside the file or in a GGUF header."""
        if self._hf_config is None:
            for file in self.files:
                if isinstance(file, GgufFile) and is_gemma(file.metadata):
                    every = {name: info for one in self.files for name, info in one.tensors.items()}
                    return gemma_config(file, self.stated.get("text_encoder"), every)
        return self._hf_config

    @cached_property
    def stated(self) -> dict[str, Any]:
        """The configuration as far as the metadata states it."""
        return parse_config(self.metadata, str(self.path))

    @cached_property
    def _tensors(self) -> dict[str, dict[str, TensorInfo]]:
        """Component -> tensors, those that are packed or padded with their logical shape where that is told."""
        return {component: self._logical(component) for component in self._components}

    def _logical(self, component: str) -> dict[str, TensorInfo]:
        tensors = self.names(component)
        for name in [name for name in tensors if name in self._accompanied[component]]:
            encoding = self._encoding(component, name)
            form = format_of(encoding)
            shapes = form.shapes(encoding)
            if len(shapes) != 1 or shapes[0] == encoding.info.shape:
                continue
            bias = tensors.get(f"{name.removesuffix('.weight')}.bias")
            unpadded = (*bias.shape, *shapes[0][1:]) if bias is not None else shapes[0]
            tensors[name] = entry("BF16", unpadded if form.fits(encoding, unpadded) else shapes[0])
        return tensors

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
        if component == "text_encoder" and self._text_config is not None:
            return self._text_config
        if component not in _SECTIONS:
            return self.config
        if self._description is not None:
            return self._description.section(component, _SECTIONS[component], str(self.path))
        return config_section(self.stated, self._tensors, _SECTIONS[component], str(self.path))

    @property
    def generation(self) -> Generation | None:
        """From the model version or else the tensors; None where neither tells."""
        return generation_of(self.metadata, self._tensors)

    @property
    def variant(self) -> str | None:
        """``dev`` or ``distilled``, as the metadata, the file name or the folder's name tells; None if none does."""
        texts = [self.metadata.get(key, "") for key in _VARIANT_KEYS] + [self.path.name]
        if self.path.is_dir():
            texts += [" ".join(file.path.name for file in self.files), self.path.parent.name]
        for text in texts:
            words = re.split(r"[^a-z]+", text.lower())
            found = [variant for variant in ("distilled", "dev") if variant in words]
            if len(found) == 1:
                return found[0]
        return None

    @property
    def files(self) -> list[WeightFile]:
        """The weight files, several in a folder of shards; none for a manifest."""
        places = (place for places in self._components.values() for place in places.values())
        return list(dict.fromkeys(place.file for place in places if place.file is not None))

    @property
    def is_manifest(self) -> bool:
        """Whether only names, dtypes and shapes are known."""
        return any(place.file is None for places in self._components.values() for place in places.values())

    def not_finite(self) -> Iterator[NotFinite]:
        """Every tensor with values that are NaN or infinite, scales stored as bytes included; reads all files once."""
        meant: dict[WeightFile, dict[str, str]] = {}
        for component, places in self._components.items():
            for local in places:
                encoding = self._encoding(component, local)
                if companion_of(local) != local or component in _WITHOUT_FORMATS:
                    continue
                for suffix, dtype in format_of(encoding).floats_as_bytes(encoding).items():
                    other = local.rpartition(".")[0] + suffix if suffix else local
                    place = places.get(other)
                    if place is not None and place.file is not None and place.info.dtype == "U8":
                        meant.setdefault(place.file, {})[place.name] = dtype
        for file in self.files:
            yield from find_not_finite(file, meant=meant.get(file))

    def holds_the_same(self, other: Checkpoint, component: str) -> bool:
        """Whether both have the same tensors of a component, by their headers and by the beginnings of some of them."""
        mine, theirs = self._components.get(component, {}), other._components.get(component, {})
        if [(n, p.info.dtype, p.info.shape) for n, p in sorted(mine.items())] != [
            (n, p.info.dtype, p.info.shape) for n, p in sorted(theirs.items())
        ]:
            return False
        names = sorted(mine)
        for name in names[:: max(1, len(names) // _SAMPLED_TENSORS)]:
            sampled = [(p.file, p.name) for p in (mine[name], theirs[name]) if p.file is not None]
            values = [file.bytes(stored, 0, _SAMPLED_BYTES) for file, stored in sampled]
            if len(values) < 2 or values[0] != values[1]:
                return False
        return True

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
            fuse_dtype: dtype of the weights that a LoRA changed. None keeps an 8-bit form in which they are held: dense
                weights are rounded once to their dtype, FP8 gets a fresh per-tensor scale, affine of 8 bits keeps its
                groups, everything else becomes dense bfloat16. The quantised forms round the sum again (E4M3: up to
                1/16 of each value), so small deltas are partly lost there; a dtype gives dense weights without that
                loss.

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
        stored = self._stored_tensor(component, spec.name, spec.shape)
        require_matrix(spec, stored.where)
        form = format_of(stored.encoding)
        changes = changes_of(component, spec.name, loras)
        if changes and spec.layout != "linear":
            return fuse_array(stored, form, spec.shape, changes, fuse_dtype, rows)
        return (form.load_rows if spec.layout == "linear" else form.array_rows)(stored, spec.shape, rows)

    def value_slabs(self, component: str, spec: ParamSpec) -> Iterator[Array]:
        """The exact float32 values of one tensor, in the shape of ``spec``, some rows at a time.

        Raises:
            CheckpointError: as `load`.
        """
        self._ready(component, [spec])
        stored = self._stored_tensor(component, spec.name, spec.shape)
        yield from format_of(stored.encoding).value_slabs(stored, spec.shape)

    def stream(
        self,
        component: str,
        blocks: Sequence[Sequence[ParamSpec]],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
        depth: int = 2,
        uses: int | None = None,
    ) -> BlockStream:
        """The tensors of each of ``blocks`` as `load` gives them, read from disk whenever a block is asked for.

        Args:
            component, loras, fuse_dtype: as for `load`. LoRAs are added each time a block arrives.
            blocks: specs of the blocks, in the order in which they will be asked for.
            depth: blocks in memory at a time.
            uses: how many blocks will be asked for in all, after which none is read ahead; None: unknown.

        Raises:
            CheckpointError: as `load`; nothing is read yet.
        """
        self._ready(component, [spec for block in blocks for spec in block])
        places = self._components[component]
        present = [[spec for spec in block if spec.name in places] for block in blocks]

        def build(index: int, source: Callable[[WeightFile], TensorSource]) -> dict[str, Loaded]:
            return {spec.name: self._materialise(component, spec, loras, fuse_dtype, source) for spec in present[index]}

        return BlockStream([self._layout(component, block) for block in present], build, depth, uses)

    def loaded_bytes(
        self,
        component: str,
        specs: Iterable[ParamSpec],
        loras: Sequence[tuple[LoraFile, float]] = (),
        fuse_dtype: mx.Dtype | None = None,
    ) -> LoadedBytes:
        """What `load` and `stream` with the same arguments would take; nothing is read, tensors may be missing."""
        places = self._components.get(component, {})
        stored = arrays = made = working = peak = rotation = 0
        int8 = False
        for spec in specs:
            if spec.name not in places:
                continue
            one = self._loaded_bytes_of(component, spec, loras, fuse_dtype)
            stored += one.stored
            made += one.made
            working = max(working, one.working)
            rotation = max(rotation, one.rotation)
            int8 = int8 or one.int8
            arrays += one.arrays
            peak = max(peak, arrays + one.loading)
        return LoadedBytes(stored, arrays, made, working, max(0, peak - arrays), rotation, int8)

    def _loaded_bytes_of(
        self, component: str, spec: ParamSpec, loras: Sequence[tuple[LoraFile, float]], fuse_dtype: mx.Dtype | None
    ) -> LoadedBytes:
        """What one tensor takes that is there; ``loading`` is what it has beside its array while it is made."""
        changes = changes_of(component, spec.name, loras)
        known = None if changes else self._unchanged_bytes.get((component, spec))
        if known is not None:
            return known
        encoding = self._encoding(component, spec.name, spec.shape)
        form, is_plain = format_of(encoding), self._components[component][spec.name].origin.is_plain
        as_weight = spec.layout == "linear"
        own = form.weight_bytes(encoding, spec.shape) if as_weight else form.array_bytes(encoding, spec.shape)
        made = form.made_bytes(encoding, spec.shape) if as_weight else own * (own != encoding.nbytes)
        temporary = form.loading_bytes(encoding, spec.shape) if made else 0
        if not is_plain:
            made, temporary = own, temporary + encoding.nbytes
        elif spec.layout.startswith("conv"):
            temporary += encoding.nbytes  # it is read in the order of the file first
        working = temporary if made else 0
        if changes:
            decoding = prod(spec.shape) * FLOAT32_BYTES + form.loading_bytes(encoding, spec.shape)
            working = max(fusing_bytes(spec.shape, changes), decoding)
            temporary = encoding.nbytes + working
            fused = None if fuse_dtype is None else prod(spec.shape) * fuse_dtype.size
            encoded = form.encoded_bytes(encoding, spec.shape) if as_weight else own
            own = made = encoded if fused is None else fused
        rotation, int8 = 0, False
        if as_weight and is_plain:
            rotation, int8 = form.rotation(encoding), form.as_int8(encoding)
        found = LoadedBytes(encoding.nbytes, own, made, working, temporary, rotation, int8)
        if not changes:
            self._unchanged_bytes[component, spec] = found
        return found

    def stored_form(
        self, component: str, name: str, shape: Sequence[int] | None = None
    ) -> tuple[LinearFormat, Encoding]:
        """How a tensor of a component is stored: its format and its entries; ``shape`` is what the model needs."""
        encoding = self._encoding(component, name, shape)
        return format_of(encoding), encoding

    def formats(self, component: str, specs: Iterable[ParamSpec] = (), *, by_dtype: bool = False) -> Counter[str]:
        """Name of a format -> how many tensors of a component are stored so; what accompanies them is not counted.

        Args:
            component: whose tensors.
            specs: what the model needs, as far as it is known; some formats need the shapes to be named exactly.
            by_dtype: dense tensors count under their dtype, ``bf16``.
        """
        names = [name for name in self._components.get(component, {}) if companion_of(name) == name]
        found: Counter[str] = Counter()
        shapes = {spec.name: spec.shape for spec in specs}
        for name in names:
            encoding = self._encoding(component, name)
            form, shape = format_of(encoding), shapes.get(name)
            found[encoding.info.dtype.lower() if by_dtype and form is DENSE else form.label(encoding, shape)] += 1
        return found

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

    def require(self, component: str, specs: Iterable[ParamSpec]) -> None:
        """Raise CheckpointError, which names up to ten, when tensors are missing or of another shape; reads nothing."""
        specs = list(specs)
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
        self.require(component, specs)
        return specs

    def _fits(self, component: str, spec: ParamSpec) -> bool:
        """Whether the stored tensor can be the one that the model needs."""
        encoding = self._encoding(component, spec.name, spec.shape)
        return format_of(encoding).fits(encoding, spec.shape)

    def _encoding(self, component: str, name: str, shape: Sequence[int] | None = None) -> Encoding:
        """How a tensor is stored; ``shape`` is what the model needs."""
        key = (component, name, None if shape is None else tuple(shape))
        if key not in self._encodings:
            places = self._components[component]
            found = {suffix: places[other].info for suffix, other in self._companions(component, name).items()}
            self._encodings[key] = Encoding(places[name].as_needed(shape), found, places[name].marker)
        return self._encodings[key]

    def _companions(self, component: str, name: str) -> dict[str, str]:
        """Suffix -> local name of what accompanies a tensor."""
        return companions(name, self._components[component]) if name in self._accompanied[component] else {}

    def _stored_tensor(
        self,
        component: str,
        name: str,
        shape: Sequence[int],
        source: Callable[[WeightFile], TensorSource] = lambda file: file,
    ) -> Stored:
        """A tensor of ``shape`` to read; ``source`` says where the tensors of a file are read from."""
        (file, stored_name), *others = self._wanted(component, name)
        place = self._components[component][name]
        tensors: TensorSource = source(file)
        if not place.origin.is_plain:
            tensors = OfficialTensors([source(of) for of in place.files], place.origin, shape)
        found = self._companions(component, name)
        accompanying = {suffix: (source(of), other) for suffix, (of, other) in zip(found, others, strict=False)}
        return Stored(tensors, stored_name, accompanying, place.marker)

    def _materialise(
        self,
        component: str,
        spec: ParamSpec,
        loras: Sequence[tuple[LoraFile, float]],
        fuse_dtype: mx.Dtype | None,
        source: Callable[[WeightFile], TensorSource] = lambda file: file,
    ) -> Loaded:
        """One tensor in the form its spec asks for; ``source`` says where the tensors of a file are read from."""
        stored = self._stored_tensor(component, spec.name, spec.shape, source)
        form = format_of(self._encoding(component, spec.name, spec.shape))
        changes = changes_of(component, spec.name, loras)
        if spec.layout == "as_stored" and changes:
            return fuse_array(stored, form, spec.shape, changes, fuse_dtype)
        if spec.layout != "linear":
            return load_array(stored, form, spec)
        require_matrix(spec, stored.where)
        weight = fuse(stored, form, spec.shape, changes, fuse_dtype) if changes else form.load(stored, spec.shape)
        if not half_operands.are_tried():
            return weight
        # A streamed block arrives many times: it is looked at once.
        key = (component, spec.name, tuple((lora.path, strength) for lora, strength in loras), fuse_dtype)
        fits = self._half_ranges.get(key)
        if fits is None:
            fits = self._half_ranges[key] = half_operands.fits(weight)
            if not fits:
                log.info("%s: values beyond the range of float16; its products stay in bfloat16", stored.where)
        return weight._replace(fits_half=fits)

    def _layout(self, component: str, block: Sequence[ParamSpec]) -> BlockLayout:
        return BlockLayout.of([wanted for spec in block for wanted in self._wanted(component, spec.name)])

    def _wanted(self, component: str, name: str) -> list[Wanted]:
        """Where a tensor is, then its quantisation companions."""
        places = self._components[component]
        found = [places[name], *(places[companion] for companion in self._companions(component, name).values())]
        wanted = [(place.file, place.name) for place in found if place.file is not None]
        if len(wanted) < len(found):
            raise CheckpointError(f"{self.path}: a manifest lists tensors without their data; give the weight file.")
        return wanted + [part for place in found for part in zip(place.files[1:], place.origin.joined, strict=True)]


def _without_loras(path: Path, files: Sequence[WeightFile]) -> Sequence[WeightFile]:
    """The files of a folder but for LoRAs among them, of which a warning tells; all where there is nothing else."""
    loras = [file for file in files if is_lora(file.tensors)]
    if len(loras) == len(files):
        return files
    for lora in loras:
        log.warning(
            "%s: a LoRA among the files of %s; it is left aside (%s adds it)", lora.path, path, spelled("loras")
        )
    return [file for file in files if file not in loras]


def _merged(metadata: dict[str, str], more: Mapping[str, str], where: str) -> dict[str, str]:
    """Metadata with what ``more`` adds, and the configuration with the sections, and their entries, that it adds."""
    result = {**more, **metadata}
    if "config" in metadata and "config" in more:
        config, other = parse_config(metadata, where), parse_config(more, where)
        for section, values in other.items():
            here = config.get(section)
            if isinstance(values, dict) and (here is None or isinstance(here, dict)):
                config[section] = {**values, **(here or {})}
        config.pop("text_encoder", None)
        result["config"] = json.dumps(config)
    return result


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES_IN_ERROR
    return ", ".join(names[:_MAX_NAMES_IN_ERROR]) + (f" and {more} more" if more > 0 else "")
