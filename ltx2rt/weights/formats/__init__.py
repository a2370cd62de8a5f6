"""The formats in which weights are stored. A new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from ltx2rt.weights.formats.affine import Affine
from ltx2rt.weights.formats.awq import Awq
from ltx2rt.weights.formats.dense import Dense
from ltx2rt.weights.formats.float8 import E4M3, E5M2
from ltx2rt.weights.formats.float8_blocks import Float8Blocks
from ltx2rt.weights.formats.float8_rows import Float8Rows
from ltx2rt.weights.formats.ggml import GGML_FORMATS
from ltx2rt.weights.formats.int8 import Int8, Int8Blocks
from ltx2rt.weights.formats.linear_format import FLOATS, Encoding, LinearFormat
from ltx2rt.weights.formats.mlx_floats import MlxFloats
from ltx2rt.weights.formats.mxfp8 import Mxfp8
from ltx2rt.weights.formats.nvfp4 import Nvfp4
from ltx2rt.weights.formats.w4a4 import W4A4
from ltx2rt.weights.formats.w4a8 import W4A8
from ltx2rt.weights.markers import MARKER
from ltx2rt.weights.tensor_source import TensorInfo

DENSE, AFFINE = Dense(), Affine()
# The first that recognises a tensor is its format; the last one takes everything.
FORMATS: tuple[LinearFormat, ...] = (
    Awq(),
    W4A8(),
    Nvfp4(),
    Mxfp8(),
    W4A4(),
    Int8Blocks(),
    Int8(),
    MlxFloats(),
    AFFINE,
    Float8Blocks(),
    Float8Rows(),
    E4M3(),
    E5M2(),
    *GGML_FORMATS,
    DENSE,
)

# Suffix of every accompanying tensor that is read -> ``weight`` or ``bias``.
_COMPANIONS = {suffix: "weight" for known in FORMATS for suffix in known.companions} | {
    suffix: "bias" for known in FORMATS for suffix in known.bias_companions
}
_READ_SUFFIXES = tuple(_COMPANIONS)
_SUFFIXES = {kind: [suffix for suffix, of in _COMPANIONS.items() if of == kind] for kind in ("weight", "bias")}
# Of those that are not read as tensors.
UNUSED_SUFFIXES = (
    MARKER,
    ".comfy_attention.config",
    *dict.fromkeys(suffix for known in FORMATS for suffix in known.unused),
)
# Both, with what it is that they stand beside.
_ACCOMPANYING = {**_COMPANIONS, **dict.fromkeys(UNUSED_SUFFIXES, "weight")}
# The formats that a file may declare.
MARKERS = tuple(dict.fromkeys(marker for known in FORMATS for marker in known.markers))


def format_of(encoding: Encoding) -> LinearFormat:
    """The format of a stored tensor: of those that its marker may mean, the one that its companions show.

    A marker that contradicts the tensors gives a format whose `fault` says so.
    """
    declared = encoding.declared
    if declared is None and encoding.info.dtype in FLOATS:
        return DENSE  # as most tensors of a file are
    meant = FORMATS if declared is None else [known for known in FORMATS if declared in known.markers]
    return next((known for known in meant if known.recognises(encoding)), meant[-1] if meant else DENSE)


def fault_of(encoding: Encoding) -> str | None:
    """What is wrong with a stored tensor, as far as headers and marker tell; None for nothing."""
    if encoding.declared is not None and encoding.declared not in MARKERS:
        return f"unknown quantisation format {encoding.declared!r}; supported are {', '.join(MARKERS)}"
    return format_of(encoding).fault(encoding)


def encoding_of(name: str, tensors: Mapping[str, TensorInfo], marker: Mapping[str, Any] | None = None) -> Encoding:
    """The tensor ``name`` with those that accompany it, and what the file declares about it."""
    found = {suffix: tensors[other] for suffix, other in companions(name, tensors).items()}
    return Encoding(tensors[name], found, marker or {})


def companions(name: str, names: Container[str]) -> dict[str, str]:
    """Suffix -> name of the tensors among ``names`` that accompany ``name`` and are read with it."""
    base, _, kind = name.rpartition(".")
    return {suffix: base + suffix for suffix in _SUFFIXES.get(kind, ()) if base + suffix in names}


def accompanied(names: Iterable[str]) -> frozenset[str]:
    """The names that have `companions` among ``names``, whether they are there or not: in most files none."""
    found = [name for name in names if name.endswith(_READ_SUFFIXES)]
    return frozenset(
        f"{name.removesuffix(suffix)}.{kind}"
        for name in found
        for suffix, kind in _COMPANIONS.items()
        if name.endswith(suffix)
    )


def companion_of(name: str) -> str:
    """The weight or bias that a tensor accompanies; the name itself for anything else."""
    for suffix, kind in _ACCOMPANYING.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}.{kind}"
    return name
