"""Where tensors are read from: their entries, and their items as numpy or MLX arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.float8 import decode_e4m3, decode_e5m2

Array = np.ndarray[Any, np.dtype[Any]]

_MAX_MLX_DIMENSION = 2**31 - 1


class _Dtype(NamedTuple):
    itemsize: int
    numpy: str  # how the raw items look to numpy; BF16 and 8-bit floats have no numpy type of their own
    mlx: mx.Dtype | None  # the same for MLX; None: it has none


DTYPES: dict[str, _Dtype] = {
    "F64": _Dtype(8, "<f8", None),
    "F32": _Dtype(4, "<f4", mx.float32),
    "F16": _Dtype(2, "<f2", mx.float16),
    "BF16": _Dtype(2, "<u2", mx.uint16),
    "F8_E4M3": _Dtype(1, "u1", mx.uint8),
    "F8_E5M2": _Dtype(1, "u1", mx.uint8),
    "I64": _Dtype(8, "<i8", mx.int64),
    "I32": _Dtype(4, "<i4", mx.int32),
    "I16": _Dtype(2, "<i2", mx.int16),
    "I8": _Dtype(1, "i1", mx.int8),
    "U64": _Dtype(8, "<u8", mx.uint64),
    "U32": _Dtype(4, "<u4", mx.uint32),
    "U16": _Dtype(2, "<u2", mx.uint16),
    "U8": _Dtype(1, "u1", mx.uint8),
    "BOOL": _Dtype(1, "?", mx.bool_),
}


class TensorInfo(NamedTuple):
    """Where one tensor lies in its file.

    ``dtype`` safetensors code (``BF16``); ``shape`` as stored; ``offset`` absolute byte position in the file;
    ``nbytes`` length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    nbytes: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorSource(ABC):
    """Named tensors that can be read.

    Attributes:
        path: the file they are in.
    """

    path: Path

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """The entry of ``name``; `CheckpointError` when there is no such tensor."""

    @abstractmethod
    def read_into(self, name: str, target: memoryview) -> None:
        """Fill ``target`` with the bytes of a tensor."""

    def where(self, name: str) -> str:
        """How errors name a tensor."""
        return f"{self.path}: tensor {name!r}"

    def raw(self, name: str, *, finite: bool = False) -> Array:
        """The stored items; BF16 appears as uint16, 8-bit floats as uint8.

        Args:
            name: of the tensor.
            finite: check the values.

        Raises:
            CheckpointError: there is no such tensor, it cannot be read, or (``finite``) a value is NaN or infinite.
        """
        info = self.info(name)
        items = np.empty(info.shape, dtype=DTYPES[info.dtype].numpy)
        self.read_into(name, bytes_of(items))
        if finite:
            require_finite(items, info.dtype, self.where(name))
        return items

    def numpy(self, name: str, *, finite: bool = False) -> Array:
        """The tensor as numpy; BF16, F8_E4M3 and F8_E5M2 are widened to float32. Arguments and errors as of `raw`."""
        return widen(self.raw(name, finite=finite), self.info(name).dtype)

    def mlx(self, name: str, *, finite: bool = False) -> mx.array:
        """The tensor as an MLX array in the dtype of the file. Arguments and errors as of `raw`.

        F8_E4M3 and F8_E5M2 give their uint8 codes. F64 is narrowed to float32, which is all that GPUs have.
        """
        info = self.info(name)
        where = self.where(name)
        dtype = DTYPES[info.dtype].mlx
        if dtype is None or info.size == 0:
            return to_mlx(self.raw(name, finite=finite), info.dtype, where)
        check_dimensions(info.shape, where)
        # The file is read straight into the array's own memory, so that a weight never exists twice.
        array = mx.zeros(info.shape, dtype=dtype)
        items = writable_view(array)
        self.read_into(name, bytes_of(items))
        if finite:
            require_finite(items, info.dtype, where)
        return array.view(mx.bfloat16) if info.dtype == "BF16" else array


def bytes_of(items: Array) -> memoryview:
    """The writable bytes of a contiguous array."""
    return items.reshape(-1).view(np.uint8).data


def widen(raw: Array, dtype: str) -> Array:
    """float32 values of raw BF16 or 8-bit float items; other dtypes unchanged (still a view)."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        return decode_e4m3(raw)
    if dtype == "F8_E5M2":
        return decode_e5m2(raw)
    return raw


def check_dimensions(shape: tuple[int, ...], where: str) -> None:
    """Raise `CheckpointError` for what MLX cannot hold; ``where`` names the tensor."""
    if any(n > _MAX_MLX_DIMENSION for n in shape):
        raise CheckpointError(
            f"{where}: a dimension of {list(shape)} is above {_MAX_MLX_DIMENSION}, which MLX cannot hold."
        )


def to_mlx(raw: Array, dtype: str, where: str) -> mx.array:
    """MLX array (a copy) of raw items of safetensors ``dtype``; ``where`` names the tensor in errors."""
    check_dimensions(raw.shape, where)
    if dtype == "F64":
        raw = raw.astype(np.float32)
    array = mx.array(raw if raw.flags.c_contiguous and raw.flags.aligned else raw.copy())
    return array.view(mx.bfloat16) if dtype == "BF16" else array
