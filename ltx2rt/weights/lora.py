"""LoRA files: reading them in every published key style, and adding them to weights as these are loaded."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.formats.linear_format import SLAB_ROWS, LinearFormat, Stored, slabs
from ltx2rt.weights.tensor_source import TensorInfo, WeightFile
from ltx2rt.weights.weight_file import open_weight_file

logger = logging.getLogger(__name__)


# Longest first. A is (rank, in), B is (out, rank).
_SUFFIXES = {
    ".lora_A.default.weight": "A",
    ".lora_B.default.weight": "B",
    ".lora.down.weight": "A",
    ".lora.up.weight": "B",
    ".lora_down.weight": "A",
    ".lora_up.weight": "B",
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_down": "A",
    ".lora_up": "B",
    ".lora_A": "A",
    ".lora_B": "B",
    ".alpha": "alpha",
}

# Other ways of changing a weight that such files may contain.
_OTHER_METHODS = re.compile(r"\.(dora_scale|lora_magnitude_vector|lokr_w\w+|hada_w\w+|diff|diff_b|lora_mid)(\.|$)")

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_")

# diffusers name of a top-level module -> official name.
_DIFFUSERS_MODULES = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}


class LoraPair(NamedTuple):
    """The two factors of one module: tensor names in the file, the rank, and alpha / rank (1 without an alpha)."""

    a: str
    b: str
    rank: int
    scale: float


class LoraFile:
    """One LoRA file. Opening it reads the header; the factors of a module are read when it is fused.

    Attributes:
        path: the file.
        metadata: the ``__metadata__`` strings.
        pairs: module -> `LoraPair`. A module is an official transformer path (``transformer_blocks.0.attn1.to_q``),
            or for files with flattened names (``lora_unet_...``) that path with dots turned into underscores.

    Raises:
        CheckpointError: not a LoRA, factors missing or of contradicting shapes, or another method than LoRA.

    Source: Lightricks/LTX-2 ltx_core/loader/fuse_loras.py @ v1.2.0; an explicit alpha tensor, which that code
    ignores, scales by alpha / rank here as in the tools that write it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open_weight_file(self.path)
        self.metadata = self._file.metadata
        self.pairs = lora_pairs(self.path, self._file.tensors, self._file)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Entry of every tensor of the file."""
        return self._file.tensors

    @property
    def rank(self) -> int:
        """The largest rank in the file."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def reference_downscale_factor(self) -> int:
        """How much smaller reference videos are than the output (IC-LoRA); 1 if not stated."""
        return self._factor("reference_downscale_factor")

    @property
    def reference_temporal_scale_factor(self) -> int:
        """How much slower reference videos are than the output (IC-LoRA); 1 if not stated."""
        return self._factor("reference_temporal_scale_factor")

    def _factor(self, key: str) -> int:
        text = self.metadata.get(key, "1")
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if value < 1 or value != int(value):
            raise CheckpointError(f"{self.path}: metadata {key} must be a whole number of at least 1, got {text!r}.")
        return int(value)

    def pair(self, module: str) -> LoraPair | None:
        """The factors for an official module path, whatever the style of the file."""
        return self.pairs.get(module) or self.pairs.get(_flattened(module))

    def delta_shape(self, module: str) -> tuple[int, int] | None:
        """(out, in) of what the file adds to a module; None if the file does not change it."""
        pair = self.pair(module)
        if pair is None:
            return None
        return self._file.tensors[pair.b].shape[0], self._file.tensors[pair.a].shape[1]

    def factors(self, module: str, strength: float) -> tuple[Array, Array] | None:
        """(strength * B, A) float32 of a module, whose product is its delta; None if the file does not change it.

        Raises:
            CheckpointError: a factor holds values that are not finite.
        """
        pair = self.pair(module)
        if pair is None:
            return None
        a, b = (_matrix(self._file.numpy(name, finite=True)) for name in (pair.a, pair.b))
        return b * np.float32(strength * pair.scale), a

    def delta(self, module: str, strength: float) -> Array | None:
        """``(strength * B) @ A`` (out, in) float32 for a module; None if the file does not change it."""
        factors = self.factors(module, strength)
        return None if factors is None else np.matmul(*factors)

    def unmatched(self, components: Mapping[str, Collection[str]]) -> list[str]:
        """Modules of this file without a weight among the tensor names of ``components``."""
        modules: set[str] = set()
        for component, names in components.items():
            prefix = _module_prefix(component)
            if prefix is not None:
                modules.update(prefix + name.removesuffix(".weight") for name in names if name.endswith(".weight"))
        flattened = {_flattened(module) for module in modules}
        return [module for module in self.pairs if module not in modules and module not in flattened]


def lora_pairs(path: Path, tensors: Mapping[str, TensorInfo], file: WeightFile | None) -> dict[str, LoraPair]:
    """Module -> factors, checked; ``file`` gives the alpha values and may be None for a manifest."""
    parts: dict[str, dict[str, str]] = {}
    strangers = []
    for name in tensors:
        if _OTHER_METHODS.search(name):
            raise CheckpointError(
                f"{path}: tensor {name!r}: only plain LoRA is supported (not DoRA, LoKr, LoHa or full differences)."
            )
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None:
            strangers.append(name)
            continue
        kind, module = _SUFFIXES[suffix], module_path(name.removesuffix(suffix))
        if kind in parts.setdefault(module, {}):
            raise CheckpointError(
                f"{path}: tensors {parts[module][kind]!r} and {name!r} are the same factor of {module}."
            )
        parts[module][kind] = name
    pairs = {module: _pair(path, module, names, tensors, file) for module, names in parts.items()}
    if not pairs:
        raise CheckpointError(f"{path}: not a LoRA file: no tensor ends in lora_A/lora_B or lora_down/lora_up.")
    if strangers:
        logger.warning("%s: %d tensors are not part of a LoRA and are skipped (%s)", path, len(strangers), strangers[0])
    scales = {pair.scale for pair in pairs.values()} - {1.0}
    if scales:
        logger.warning(
            "%s: its alpha tensors multiply the strength by %s", path, ", ".join(f"{s:g}" for s in sorted(scales))
        )
    return pairs


def module_path(name: str) -> str:
    """The official module path of a LoRA key without its suffix."""
    if name.startswith(_FLAT_PREFIXES):
        return name.split("_", 2)[2]
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    first, dot, rest = name.partition(".")
    if first in _DIFFUSERS_MODULES:
        return _DIFFUSERS_MODULES[first] + dot + rest
    return name


def _flattened(module: str) -> str:
    return module.replace(".", "_")


def _matrix(values: Array) -> Array:
    """A factor as float32 matrix; 1x1 convolution factors lose their trailing axes."""
    result: Array = values.reshape(values.shape[:2]).astype(np.float32)
    return result


def _pair(
    path: Path, module: str, names: Mapping[str, str], tensors: Mapping[str, TensorInfo], file: WeightFile | None
) -> LoraPair:
    if "A" not in names or "B" not in names:
        lacking = "down (A)" if "A" not in names else "up (B)"
        raise CheckpointError(f"{path}: {module} has no {lacking} factor; the LoRA file is incomplete.")
    a, b = tensors[names["A"]], tensors[names["B"]]
    for name, info in ((names["A"], a), (names["B"], b)):
        if info.dtype not in ("BF16", "F16", "F32", "F64", "F8_E4M3"):
            raise CheckpointError(f"{path}: tensor {name!r} is {info.dtype}; LoRA factors must be floating point.")
        if len(info.shape) < 2 or any(n != 1 for n in info.shape[2:]):
            raise CheckpointError(
                f"{path}: tensor {name!r} is {list(info.shape)}; only LoRA factors of linear layers are supported."
            )
    if a.shape[0] != b.shape[1] or a.shape[0] == 0:
        raise CheckpointError(
            f"{path}: {module}: the ranks of A {list(a.shape)} and B {list(b.shape)} differ; the LoRA file is damaged."
        )
    rank = a.shape[0]
    scale = 1.0
    if "alpha" in names and file is not None:
        alpha = file.numpy(names["alpha"], finite=True)
        if alpha.size != 1:
            raise CheckpointError(
                f"{path}: tensor {names['alpha']!r} must be one number, has shape {list(alpha.shape)}."
            )
        scale = float(alpha.reshape(())) / rank
    return LoraPair(names["A"], names["B"], rank, scale)


def _module_prefix(component: str) -> str | None:
    """What precedes a component's local names in LoRA module paths; None where LoRAs do not reach."""
    return {
        "transformer": "",
        "video_connector": "video_embeddings_connector.",
        "audio_connector": "audio_embeddings_connector.",
    }.get(component)


def fuse(
    stored: Stored,
    form: LinearFormat,
    shape: tuple[int, ...],
    component: str,
    name: str,
    loras: Sequence[tuple[LoraFile, float]],
    fuse_dtype: mx.Dtype | None = None,
) -> LinearWeight:
    """The stored matrix plus the deltas of all LoRAs that name it; as `LinearFormat.load` gives it if none does.

    Deltas are summed in list order in float32 and added to the float32 weight, which is rounded once, to
    ``fuse_dtype`` as a dense weight, or with None as the format encodes it.

    Raises:
        CheckpointError: a delta has another shape than the weight (a LoRA for another model), or as
            `LinearFormat.load`.
    """
    module = _module(component, name)
    if module is None:
        return form.load(stored, shape)
    changes = []
    for lora, strength in loras:
        factors = lora.factors(module, strength)
        if factors is None:
            continue
        b, a = factors
        if (b.shape[0], a.shape[1]) != shape:
            raise CheckpointError(
                f"{lora.path}: {module}: the LoRA is for a weight of {[b.shape[0], a.shape[1]]}, the model has "
                f"{list(shape)}; use a LoRA made for this model."
            )
        changes.append(factors)
    if not changes:
        return form.load(stored, shape)
    fused = form.values(stored, shape)
    values = writable_view(fused)
    for rows in slabs(shape):
        total = np.matmul(changes[0][0][rows], changes[0][1])
        for b, a in changes[1:]:
            total += np.matmul(b[rows], a)
        values[rows] += total
    result = LinearWeight("dense", fused.astype(fuse_dtype)) if fuse_dtype else form.encode(fused, stored, shape)
    mx.eval([part for part in result if isinstance(part, mx.array)])  # so that the float32 values go now
    return result


def is_changed(component: str, name: str, loras: Sequence[tuple[LoraFile, float]]) -> bool:
    """Whether one of the LoRAs changes the weight ``name`` of a component."""
    module = _module(component, name)
    return module is not None and any(strength and lora.pair(module) is not None for lora, strength in loras)


def fusing_bytes(rows: int, columns: int) -> int:
    """Most bytes of temporary arrays while a weight is changed: its float32 values, and slabs of what is added."""
    return 4 * columns * (rows + 2 * min(rows, SLAB_ROWS))


def _module(component: str, name: str) -> str | None:
    """The module path that LoRA files use for a weight; None where LoRAs do not reach."""
    prefix = _module_prefix(component)
    return None if prefix is None else prefix + name.removesuffix(".weight")
