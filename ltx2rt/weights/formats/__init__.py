"""The formats in which weights are stored. A new one is a file here and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.formats.affine import Affine
from ltx2rt.weights.formats.dense import Dense
from ltx2rt.weights.formats.float8 import E4M3, E5M2
from ltx2rt.weights.formats.float8_rows import Float8Rows
from ltx2rt.weights.formats.ggml import GGML_FORMATS
from ltx2rt.weights.formats.linear_format import MARKER, Encoding, LinearFormat
from ltx2rt.weights.tensor_source import TensorInfo

DENSE, AFFINE = Dense(), Affine()
# The first that recognises a tensor is its format; the last one takes everything.
FORMATS: tuple[LinearFormat, ...] = (AFFINE, Float8Rows(), E4M3(), E5M2(), *GGML_FORMATS, DENSE)

# Suffix of every accompanying tensor that is read -> ``weight`` or ``bias``.
_COMPANIONS = {suffix: "weight" for known in FORMATS for suffix in known.companions} | {
    suffix: "bias" for known in FORMATS for suffix in known.bias_companions
}
# Of those that are not read as tensors.
UNUSED_SUFFIXES = (MARKER, *dict.fromkeys(suffix for known in FORMATS for suffix in known.unused))
MARKERS = tuple(dict.fromkeys(marker for known in FORMATS for marker in known.markers))


def format_of(encoding: Encoding) -> LinearFormat:
    """The format of a stored tensor."""
    return next(known for known in FORMATS if known.recognises(encoding))


def require_marker(encoding: Encoding, where: str) -> None:
    """Check that what the file declares about a tensor goes with how it is stored.

    Raises:
        CheckpointError: it does not; ``where`` names the tensor.
    """
    declared, found = encoding.marker.get("format"), format_of(encoding)
    if declared is not None and declared not in found.markers:
        raise CheckpointError(
            f"{where}: declared as {declared!r}, but stored as {found.name} ({encoding.info.dtype} "
            f"{list(encoding.info.shape)}); the file is damaged, convert or download it again."
        )


def encoding_of(name: str, tensors: Mapping[str, TensorInfo]) -> Encoding:
    """The tensor ``name`` with those that accompany it, without a marker."""
    return Encoding(tensors[name], {suffix: tensors[other] for suffix, other in companions(name, tensors).items()})


def companions(name: str, names: Container[str]) -> dict[str, str]:
    """Suffix -> name of the tensors among ``names`` that accompany ``name`` and are read with it."""
    base, _, kind = name.rpartition(".")
    found = (suffix for suffix, accompanied in _COMPANIONS.items() if accompanied == kind)
    return {suffix: base + suffix for suffix in found if base + suffix in names}


def companion_of(name: str) -> str:
    """The weight or bias that a tensor accompanies; the name itself for anything else."""
    for suffix, kind in {**_COMPANIONS, **dict.fromkeys(UNUSED_SUFFIXES, "weight")}.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}.{kind}"
    return name
