"""One stored tensor, brought into the form that a model asks for."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.types import ParamSpec
from ltx2rt.weights.formats.linear_format import LinearFormat, Stored


def load_array(stored: Stored, form: LinearFormat, spec: ParamSpec) -> mx.array:
    """The dense values in the layout of ``spec``.

    Returns:
        ``spec.shape`` for ``as_stored``; ``conv`` (O, *kernel, I); ``conv_transpose1d`` (O, k, I).

    Raises:
        CheckpointError: the layout does not go with the rank, or as `LinearFormat.array`.
    """
    return form.array(stored, spec.shape, _axes(spec, stored.where))


def require_matrix(spec: ParamSpec, where: str) -> None:
    """Raise `CheckpointError` when the weight of a linear layer is no matrix; ``where`` names it."""
    if len(spec.shape) != 2:
        raise CheckpointError(f"{where}: shape {list(spec.shape)} is not a matrix.")


def _axes(spec: ParamSpec, where: str) -> tuple[int, ...] | None:
    """The transposition that ``spec.layout`` means for its rank; None for none."""
    rank = len(spec.shape)
    if spec.layout == "conv" and rank >= 3:
        return (0, *range(2, rank), 1)
    if spec.layout == "conv_transpose1d" and rank == 3:
        return (1, 2, 0)
    if spec.layout in ("conv", "conv_transpose1d"):
        raise CheckpointError(f"{where}: shape {list(spec.shape)} does not fit the layout {spec.layout}.")
    return None
