"""What becomes of a weight to which LoRAs are added: decoded, changed in float32, and encoded as its format says."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.types import FLOAT32_BYTES, Array, LinearWeight
from ltx2rt.weights.formats.linear_format import LinearFormat, Stored, slab_rows
from ltx2rt.weights.lora.file import LoraFile
from ltx2rt.weights.lora.kinds import Change, Delta

# What changes one tensor, with its strength, in the order in which it is added.
Changes = Sequence[tuple[Change, float]]


def changes_of(component: str, name: str, loras: Sequence[tuple[LoraFile, float]]) -> Changes:
    """What LoRAs make of the tensor ``name`` of a component; those of strength 0 make nothing of it."""
    found = ((lora.change(component, name), strength) for lora, strength in loras if strength)
    return [(change, strength) for change, strength in found if change is not None]


def is_changed(component: str, name: str, loras: Sequence[tuple[LoraFile, float]]) -> bool:
    """Whether one of the LoRAs changes the tensor ``name`` of a component."""
    return bool(changes_of(component, name, loras))


def fuse(
    stored: Stored, form: LinearFormat, shape: tuple[int, ...], changes: Changes, dtype: mx.Dtype | None = None
) -> LinearWeight:
    """The stored matrix plus all deltas.

    Deltas are summed in list order in float32 and added to the float32 weight, which is rounded once, to ``dtype`` as a
    dense weight, or with None as the format encodes it.

    Raises:
        CheckpointError: a change is for a tensor of another shape, or as `Change.begin` and `LinearFormat.values`.
    """
    changed = _changed(stored, form, shape, changes)
    result = LinearWeight("dense", changed.astype(dtype)) if dtype else form.encode(changed, stored, shape)
    mx.eval([part for part in result if isinstance(part, mx.array)])  # so that the float32 values go now
    return result


def fuse_array(
    stored: Stored,
    form: LinearFormat,
    shape: tuple[int, ...],
    changes: Changes,
    dtype: mx.Dtype | None = None,
    rows: Sequence[int] | None = None,
) -> mx.array:
    """The same for a tensor that is held as an array (a bias, a norm, a table, a projection).

    Args:
        stored, form, shape, changes, dtype: as for `fuse`.
        rows: numbers of those that are wanted, which follow each other; None: all.
    """
    result = _changed(stored, form, shape, changes, rows).astype(dtype or form.array_dtype(stored.encoding))
    mx.eval(result)
    return result


def fusing_bytes(shape: tuple[int, ...], changes: Changes) -> int:
    """Most bytes of temporary arrays while a tensor is changed: its float32 values, the factors, and slabs of what is
    added."""
    slab = prod(shape[1:]) * min(shape[0], slab_rows(shape)) if shape else 1
    arrays = 1 + max(change.slab_arrays for change, _ in changes)
    held = sum(change.held_bytes for change, _ in changes)
    return FLOAT32_BYTES * (prod(shape) + arrays * slab) + held


def _changed(
    stored: Stored, form: LinearFormat, shape: tuple[int, ...], changes: Changes, rows: Sequence[int] | None = None
) -> mx.array:
    """The float32 values of a tensor, or of some rows that follow each other, with all deltas."""
    fused = form.values(stored, shape) if rows is None else form.values_rows(stored, shape, rows)
    values = writable_view(fused)
    first = rows[0] if rows else 0
    deltas = []
    for change, strength in changes:
        if change.shape != shape:
            raise CheckpointError(
                f"{stored.where}: a change of {list(change.shape)} does not fit {list(shape)}; use a LoRA made for "
                "this model."
            )
        deltas.append((change.begin(strength, values, first), change.replaces))
    # What grows too large is found where the model has computed with it.
    with np.errstate(over="ignore", invalid="ignore"):
        _add(values, deltas)
    return fused


def _add(values: Array, deltas: Sequence[tuple[Delta, bool]]) -> None:
    """Add to every slab of ``values`` what each delta is for it; those that replace are put in its place first."""
    step = slab_rows(values.shape)
    for start in range(0, len(values), step):
        slab = slice(start, min(start + step, len(values)))
        total = None
        for delta, replaces in deltas:
            part = delta(slab)
            if replaces:
                values[slab] = part
            elif total is None:
                total = part
            else:
                total += part
        if total is not None:
            values[slab] += total
