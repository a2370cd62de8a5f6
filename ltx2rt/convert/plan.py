"""What becomes of every tensor of a file, decided from its header."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod

from ltx2rt.convert.containers import GGUF
from ltx2rt.convert.encoders.cast import Cast
from ltx2rt.convert.encoders.encoder import Encoder, Entry
from ltx2rt.convert.formats import Target
from ltx2rt.convert.layer_choice import depth_of, layer_class
from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import COMPONENTS, NOTHING_KNOWN, Expected
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.formats import DENSE, companion_of
from ltx2rt.weights.formats.linear_format import FLOATS
from ltx2rt.weights.names.official import IGNORED, TRANSFORMER, full_name, locate
from ltx2rt.weights.tensor_source import WeightFile
from ltx2rt.weights.tokenizer import GemmaTokenizer

_TEXT_ENCODER, _TEXT_ASSETS = "text_encoder", "text_assets"
# A file that holds one of these states its configuration.
_CONFIGURED = frozenset(("transformer", "video_vae", "audio_vae", "vocoder", "upscaler"))
_PACKED_TOKENIZERS = frozenset(("tokenizer_json", "spiece_model"))
# What some programs declare about the formats of a whole file.
_STALE_METADATA = ("_quantization_metadata",)
_TABLE = "scale_shift_table"
# A marker of what the whole file was, and a second copy of the embedding.
_NOT_COPIED = ("scaled_fp8", "lm_head.weight")
_MOST_SMALL_VALUES = 1024


@dataclass(frozen=True)
class Write:
    """One tensor and how it is written.

    Attributes:
        component: that it belongs to.
        spec: its name there and its logical shape.
        name: in the new file; the name of its companions begins as this without ``.weight``.
        encoder: None: its bytes are copied.
        entries: suffix -> the tensors it becomes.
        layers: class of layers, for the report.
        stored_as: name of the format that it has now.
        source_bytes: its size now, companions included.
    """

    component: str
    spec: ParamSpec
    name: str
    encoder: Encoder | None
    entries: Mapping[str, Entry]
    layers: str
    stored_as: str
    source_bytes: int

    def written_name(self, suffix: str) -> str:
        """In the new file, of the tensor with ``suffix`` of `entries`."""
        return self.name.removesuffix(".weight") + suffix if suffix.startswith(".") else self.name


@dataclass(frozen=True)
class Plan:
    """What a conversion does.

    Attributes:
        writes: every tensor.
        files: tensor -> bytes that come from beside the weights: the tokenizer.
        copies: tensors that no model here uses and that other programs may, copied byte by byte, with their files.
        metadata: of the new file.
        left_out: components, and numbers of tensors that belong to none, that are not written.
    """

    writes: list[Write]
    files: Mapping[str, bytes]
    copies: Mapping[str, WeightFile]
    metadata: Mapping[str, str]
    left_out: list[str] = field(default_factory=list)

    @property
    def entries(self) -> dict[str, Entry]:
        """Name -> every tensor of the new file."""
        packed = {name: Entry("U8", (len(data),), len(data)) for name, data in self.files.items()}
        infos = {name: file.tensors[name] for name, file in self.copies.items()}
        copied = {name: Entry(info.dtype, info.shape, info.nbytes) for name, info in infos.items()}
        written = {w.written_name(suffix): entry for w in self.writes for suffix, entry in w.entries.items()}
        return written | packed | copied

    @property
    def source_bytes(self) -> int:
        """What is read."""
        copied = sum(file.tensors[name].nbytes for name, file in self.copies.items())
        return sum(write.source_bytes for write in self.writes) + copied


def make_plan(checkpoint: Checkpoint, format_name: str, target: Target, only: Collection[str] = ()) -> Plan:
    """Decide about every tensor of ``checkpoint``.

    Args:
        checkpoint: what is converted.
        format_name: of ``target``, for errors.
        target: the format.
        only: components to write; empty: all that such files hold.

    Raises:
        UsageError: a component that the file does not have, or nothing to convert.
        CheckpointError: a tensor has another shape than its model needs, or one that nothing tells.
    """
    held = sorted(checkpoint.components)
    for name in only:
        if name not in held:
            raise UsageError(f"{checkpoint.path} has no component {name!r}; it holds {', '.join(held)}.")
    wanted = [name for name in held if not only or name in only or (name == _TEXT_ASSETS and _TEXT_ENCODER in only)]
    chosen = [name for name in wanted if not target.components or name in target.components]
    if not chosen:
        raise UsageError(
            f"{format_name} files hold {', '.join(target.components)}; {checkpoint.path} gives "
            f"{', '.join(wanted)}. Choose another format."
        )
    writes = [write for name in chosen for write in _component_writes(checkpoint, name, target)]
    if target.encoder is not None and not any(write.encoder is target.encoder for write in writes):
        raise UsageError(
            f"{format_name} changes no tensor of {checkpoint.path} ({', '.join(chosen)}): it is for "
            f"{target.choice.words}. Give a file that has them, or choose another format."
        )
    left_out = [name for name in held if name not in chosen]
    copies = {} if only or target.container is GGUF else _copies(checkpoint)
    spare = len(checkpoint.ignored) + len(checkpoint.unknown) - len(copies)
    if spare:
        left_out.append(f"{spare} tensors that no model here uses")
    return Plan(writes, _tokenizer(checkpoint, chosen, left_out), copies, _metadata(checkpoint, chosen), left_out)


def _copies(checkpoint: Checkpoint) -> dict[str, WeightFile]:
    """The tensors with official names that are known and not used here, such as a vision tower."""
    ignored = {
        name for name in checkpoint.ignored if (locate(name) or ("",))[0] == IGNORED and not name.endswith(_NOT_COPIED)
    }
    return {name: file for file in checkpoint.files for name in file.tensors if name in ignored}


def _component_writes(checkpoint: Checkpoint, component: str, target: Target) -> list[Write]:
    expected = _expected(checkpoint, component)
    specs = {spec.name: spec for spec in expected.specs}
    _, wrong = checkpoint.problems(component, expected.specs)
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path}: {component}: {wrong[0]}"
            + (f" and {len(wrong) - 1} more like it" if len(wrong) > 1 else "")
            + "; the file is damaged or not for this model."
        )
    names = [name for name in checkpoint.names(component) if companion_of(name) == name]
    depth = depth_of(names) if component == "transformer" else 0
    return [_write(checkpoint, component, name, specs.get(name), target, depth) for name in names]


def _expected(checkpoint: Checkpoint, component: str) -> Expected:
    """The tensors of the component's model; none where there is no model, or nothing tells the configuration."""
    if component not in COMPONENTS:
        return NOTHING_KNOWN
    try:
        return COMPONENTS[component].expectation(checkpoint)
    except CheckpointError:
        if checkpoint.stated:
            raise
        return NOTHING_KNOWN  # what is stored is known all the same


def _write(
    checkpoint: Checkpoint, component: str, name: str, spec: ParamSpec | None, target: Target, depth: int
) -> Write:
    form, encoding = checkpoint.stored_form(component, name, spec.shape if spec else None)
    shapes = form.shapes(encoding) if spec is None else [spec.shape]
    if len(shapes) != 1:
        raise CheckpointError(
            f"{checkpoint.path}: {component}: {name} is stored as {form.name} {list(encoding.info.shape)}, which "
            "leaves its shape open, and this version has no model that would tell; it cannot be converted."
        )
    shape, dtype = shapes[0], encoding.info.dtype
    encoder: Encoder | None
    if target.encoder and target.choice.includes(component, name, shape, spec, depth) and target.encoder.takes(shape):
        encoder = target.encoder
    elif form is DENSE and dtype not in FLOATS:
        encoder = None
    elif target.container is GGUF:
        small = len(shape) < 2 or prod(shape) <= _MOST_SMALL_VALUES or _TABLE in name
        encoder = Cast("F32" if small else "BF16")
    elif spec is not None:
        encoder = Cast(spec.dtype)
    else:
        encoder = Cast(dtype if form is DENSE and dtype in ("BF16", "F16", "F32") else "BF16")
    full = full_name(component, name)
    return Write(
        component,
        spec or ParamSpec(name, shape),
        full.removeprefix(TRANSFORMER) if target.container is GGUF else full,
        encoder,
        {"": Entry(dtype, shape, encoding.info.nbytes)} if encoder is None else encoder.entries(shape),
        layer_class(component, name) if encoder is target.encoder or form is not DENSE else component,
        form.name,
        encoding.nbytes,
    )


def _tokenizer(checkpoint: Checkpoint, chosen: Collection[str], left_out: list[str]) -> dict[str, bytes]:
    """The tokenizer of a text encoder as the tensor that carries it in a single file, if it is not one already."""
    if _TEXT_ENCODER not in chosen or not _PACKED_TOKENIZERS.isdisjoint(checkpoint.names(_TEXT_ASSETS)):
        return {}
    path = checkpoint.path / "tokenizer.json"
    if checkpoint.path.is_dir() and path.is_file():
        return {"tokenizer_json": path.read_bytes()}
    try:
        return {"tokenizer_json": GemmaTokenizer.of(checkpoint).to_json()}
    except CheckpointError:
        left_out.append("the tokenizer, which is neither in the file nor beside it")
        return {}


def _metadata(checkpoint: Checkpoint, chosen: Collection[str]) -> dict[str, str]:
    """The strings of the header, and the configuration where it was stated elsewhere or only the tensors told it."""
    metadata = {key: text for key, text in checkpoint.metadata.items() if key not in _STALE_METADATA}
    if _TEXT_ENCODER in chosen and "gemma_config" not in metadata:
        metadata["gemma_config"] = json.dumps(checkpoint.section(_TEXT_ENCODER))
    if "config" not in metadata and not _CONFIGURED.isdisjoint(chosen):
        with contextlib.suppress(CheckpointError):  # nothing tells it: the new file states as little as the old one
            metadata["config"] = json.dumps(checkpoint.config)
    return metadata
