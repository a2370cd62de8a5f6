"""One stored tensor with its quantisation companions, brought into the form that the kernels take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.finite import SMALL_VALUES
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, TensorSource, check_dimensions, to_mlx, widen

Array = np.ndarray[Any, np.dtype[Any]]

_DENSE = ("BF16", "F16", "F32", "F64")
FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = (".weight_scale", ".bias_scale", ".scale_weight")
_AFFINE_BITS = (4, 8)
_AFFINE_GROUPS = (32, 64, 128)


class Stored(NamedTuple):
    """A tensor in a file. ``companions``: suffix (``.weight_scale``) -> (file, name) of its quantisation tensors."""

    file: TensorSource
    name: str
    companions: Mapping[str, tuple[TensorSource, str]]

    @property
    def info(self) -> TensorInfo:
        return self.file.info(self.name)

    @property
    def where(self) -> str:
        """How errors name the tensor."""
        return self.file.where(self.name)

    def mlx(self) -> mx.array:
        """The stored tensor as an MLX array, checked if it is small."""
        return self.file.mlx(self.name, finite=self.info.size <= SMALL_VALUES)

    def raw(self) -> Array:
        """The stored items, checked if they are few."""
        return self.file.raw(self.name, finite=self.info.size <= SMALL_VALUES)


def load_array(stored: Stored, spec: ParamSpec) -> mx.array:
    """The tensor in the dtype of the file and the layout of ``spec``; 8-bit and affine values become dense.

    Returns:
        ``spec.shape`` for ``as_stored``; ``conv`` (O, *kernel, I); ``conv_transpose1d`` (O, k, I).

    Raises:
        CheckpointError: the layout does not go with the rank, the dtype has no dense form, or the tensor is small
            (`SMALL_VALUES`) and holds values that are not finite.
    """
    axes = _axes(spec, stored.where)
    dtype = stored.info.dtype
    if dtype == "U32" and ".scales" in stored.companions:
        dense = dequantize(_affine(stored, spec))
        return dense if axes is None else mx.contiguous(dense.transpose(axes))
    if axes is None and dtype not in FLOAT8:
        return stored.mlx()
    raw = stored.raw()
    if dtype in FLOAT8:
        values = widen(raw, dtype)
        scale = _scale(stored)
        raw = values if scale is None else values * np.float32(scale)
        dtype = "F32"
    array = to_mlx(raw, dtype, stored.where) if axes is None else _rearranged(raw.transpose(axes), dtype, stored.where)
    return array.astype(mx.bfloat16) if stored.info.dtype in FLOAT8 else array


def _rearranged(raw: Array, dtype: str, where: str) -> mx.array:
    """`to_mlx` of items that do not lie in order, without an ordered copy between."""
    kind = DTYPES[dtype].mlx
    if kind is None or raw.size == 0:
        return to_mlx(raw.copy(), dtype, where)
    check_dimensions(raw.shape, where)
    array = mx.zeros(raw.shape, dtype=kind)
    writable_view(array)[...] = raw
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def load_linear(stored: Stored, spec: ParamSpec) -> LinearWeight:
    """The weight matrix in the format of the file: dense, E4M3 with its scale, or MLX affine.

    Raises:
        CheckpointError: not a matrix, a dtype or quantisation that the kernels do not take, or scales, biases or a
            small matrix with values that are not finite.
    """
    if len(spec.shape) != 2:
        raise CheckpointError(f"{stored.where}: shape {list(spec.shape)} is not a matrix.")
    dtype = stored.info.dtype
    if dtype == "F8_E4M3":
        scale = _scale(stored)
        return LinearWeight("e4m3", stored.mlx(), mx.array(1.0 if scale is None else scale, dtype=mx.float32))
    if dtype == "F8_E5M2":
        return LinearWeight("dense", load_array(stored, spec))
    if dtype in _DENSE:
        return LinearWeight("dense", stored.mlx())
    if dtype == "U32" and ".scales" in stored.companions:
        return _affine(stored, spec)
    raise CheckpointError(
        f"{stored.where}: dtype {dtype} cannot be used as a weight matrix; "
        "supported are BF16, F16, F32, F8_E4M3 and MLX int4/int8."
    )


def dequantize(weight: LinearWeight) -> mx.array:
    """The dense (N, K) values: float32 for E4M3, else the dtype of the weight or its scales."""
    if weight.mode == "e4m3":
        expanded: mx.array = mx.from_fp8(weight.values, mx.float32) * weight.scale
        return expanded
    if weight.mode == "affine":
        return mx.dequantize(weight.values, weight.scale, weight.zero, group_size=weight.group_size, bits=weight.bits)
    values: mx.array = weight.values
    return values


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


def _scale(stored: Stored) -> float | None:
    """The per-tensor scale of an 8-bit tensor; None if the file has none."""
    found = next((stored.companions[key] for key in _SCALES if key in stored.companions), None)
    if found is None:
        return None
    file, name = found
    values = file.numpy(name)
    if values.size != 1 or file.info(name).dtype not in _DENSE:
        raise CheckpointError(
            f"{file.path}: tensor {name!r} is {file.info(name).dtype} {list(values.shape)}; "
            "only one float scale per tensor is supported."
        )
    scale = float(values.reshape(()))
    if not np.isfinite(scale):
        raise CheckpointError(f"{file.path}: tensor {name!r} is {scale}; the file is damaged, download it again.")
    return scale


def _affine(stored: Stored, spec: ParamSpec) -> LinearWeight:
    """The MLX affine triple; bits and group size follow from the shapes."""
    if ".biases" not in stored.companions:
        raise CheckpointError(
            f"{stored.where}: has '.scales' but no '.biases'; the file is damaged or of another format."
        )
    scales_file, scales_name = stored.companions[".scales"]
    zero_file, zero_name = stored.companions[".biases"]
    rows, columns = spec.shape
    scales, zeros = scales_file.info(scales_name), zero_file.info(zero_name)
    packed = stored.info.shape
    bits = packed[1] * 32 // columns
    groups = scales.shape[1] if len(scales.shape) == 2 else 0
    group_size = columns // groups if groups else 0
    consistent = (
        packed == (rows, columns * bits // 32)
        and scales.shape == zeros.shape == (rows, groups)
        and group_size * groups == columns
        and scales.dtype == zeros.dtype
        and scales.dtype in ("BF16", "F16", "F32")
    )
    if not consistent or bits not in _AFFINE_BITS or group_size not in _AFFINE_GROUPS:
        raise CheckpointError(
            f"{stored.where}: packed {list(packed)} with scales {scales.dtype} {list(scales.shape)} and biases "
            f"{zeros.dtype} {list(zeros.shape)} is not an MLX int4/int8 form of {list(spec.shape)} "
            "(groups of 32, 64 or 128)."
        )
    return LinearWeight(
        "affine",
        stored.file.mlx(stored.name),
        scales_file.mlx(scales_name, finite=True),
        zero_file.mlx(zero_name, finite=True),
        group_size=group_size,
        bits=bits,
    )
