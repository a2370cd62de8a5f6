"""Where tensors are read from: their entries, and their items as numpy or MLX arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import NamedTuple

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.types import Array
from ltx2rt.weights.block_types import BLOCK_TYPES, raw_shape
from ltx2rt.weights.finite import require_finite

# Part of the first axis of a tensor: a range without a step, or the numbers of some rows; ``...`` for all there is.
Rows = slice | Array | EllipsisType

_MAX_MLX_DIMENSION = 2**31 - 1


class _Dtype(NamedTuple):
    itemsize: int
    numpy: str  # of the raw items; those of BF16 and 8-bit floats are their codes, which MLX can share
    mlx: mx.Dtype | None  # the same for MLX; None: it has none


class RawItems(NamedTuple):
    """Form of the stored items of a tensor: their numpy dtype, MLX dtype (None: it has none), and shape."""

    numpy: str
    mlx: mx.Dtype | None
    shape: tuple[int, ...]


DTYPES: dict[str, _Dtype] = {
    "F64": _Dtype(8, "<f8", None),
    "F32": _Dtype(4, "<f4", mx.float32),
    "F16": _Dtype(2, "<f2", mx.float16),
    "BF16": _Dtype(2, "<u2", mx.uint16),
    "F8_E4M3": _Dtype(1, "u1", mx.uint8),
    "F8_E5M2": _Dtype(1, "u1", mx.uint8),
    "F8_E8M0": _Dtype(1, "u1", mx.uint8),
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


_CODES = np.arange(256, dtype=np.uint8)
# The float32 value of every code.
_FLOAT8 = {
    "F8_E4M3": _CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    "F8_E5M2": _CODES.view(ml_dtypes.float8_e5m2).astype(np.float32),
    "F8_E8M0": _CODES.view(ml_dtypes.float8_e8m0fnu).astype(np.float32),
}


class TensorInfo(NamedTuple):
    """Where one tensor lies in its file.

    ``dtype`` safetensors code (``BF16``) or block type of a GGUF file (``Q4_K``); ``shape`` as stored, of a block type
    that of the values; ``offset`` absolute byte position in the file; ``nbytes`` length in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    nbytes: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def raw(self) -> RawItems:
        """Form of the stored items; of a block type they are the bytes of each row."""
        block = BLOCK_TYPES.get(self.dtype)
        if block is not None:
            return RawItems("u1", mx.uint8, raw_shape(block, self.shape))
        return RawItems(DTYPES[self.dtype].numpy, DTYPES[self.dtype].mlx, self.shape)


def entry(dtype: str, shape: tuple[int, ...], offset: int = 0) -> TensorInfo:
    """The entry of a tensor, its length from dtype and shape."""
    block = BLOCK_TYPES.get(dtype)
    size = math.prod(shape)
    nbytes = size * DTYPES[dtype].itemsize if block is None else size // block.values * block.nbytes
    return TensorInfo(dtype, shape, offset, nbytes)


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
    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        """Fill ``target`` with the bytes of a tensor from byte ``start`` on."""

    def where(self, name: str) -> str:
        """How errors name a tensor."""
        return f"{self.path}: tensor {name!r}"

    def raw(self, name: str, *, finite: bool = False) -> Array:
        """The stored items; BF16 appears as uint16, 8-bit floats as uint8, block types as bytes (see `TensorInfo.raw`).

        Args:
            name: of the tensor.
            finite: check the values.

        Raises:
            CheckpointError: there is no such tensor, it cannot be read, or (``finite``) a value is NaN or infinite.
        """
        info = self.info(name)
        items = np.empty(info.raw.shape, dtype=info.raw.numpy)
        self.read_into(name, bytes_of(items))
        if finite:
            require_finite(items, info.dtype, self.where(name))
        return items

    def rows(self, name: str, rows: Rows) -> Array:
        """The stored items of some rows; nothing else is read."""
        if isinstance(rows, EllipsisType):
            return self.raw(name)
        form = self.info(name).raw
        numbers = range(*rows.indices(form.shape[0])) if isinstance(rows, slice) else rows
        items = np.empty((len(numbers), *form.shape[1:]), dtype=form.numpy)
        if items.size == 0:
            return items
        target, row_bytes = bytes_of(items), items.nbytes // len(numbers)
        done = 0
        for run in _runs(numbers):
            here = len(run) * row_bytes
            self.read_into(name, target[done : done + here], int(run[0]) * row_bytes)
            done += here
        return items

    def numpy(self, name: str, *, finite: bool = False) -> Array:
        """The tensor as numpy; BF16 and 8-bit floats are widened to float32. Arguments and errors as of `raw`."""
        return widen(self.raw(name, finite=finite), self.info(name).dtype)

    def mlx(self, name: str, *, finite: bool = False) -> mx.array:
        """The tensor as an MLX array in the dtype of the file. Arguments and errors as of `raw`.

        8-bit floats give their uint8 codes, block types their bytes. F64 is narrowed to float32, all that GPUs have.
        """
        info = self.info(name)
        where = self.where(name)
        _, dtype, shape = info.raw
        if dtype is None or info.size == 0:
            return to_mlx(self.raw(name, finite=finite), info.dtype, where)
        check_dimensions(shape, where)
        # The file is read straight into the array's own memory, so that a weight never exists twice.
        array = uninitialized(shape, dtype)
        items = writable_view(array)
        self.read_into(name, bytes_of(items))
        if finite:
            require_finite(items, info.dtype, where)
        return array.view(mx.bfloat16) if info.dtype == "BF16" else array


class WeightFile(TensorSource):
    """A whole file of tensors.

    Attributes:
        tensors: name -> entry, in the order of the header.
        metadata: strings of the header.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def info(self, name: str) -> TensorInfo:
        """The entry of ``name``; `CheckpointError` when the file has no such tensor."""
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"{self.path}: no tensor named {name!r} ({len(self.tensors)} tensors in the file)."
            ) from None

    def bytes(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """The raw bytes [start, stop) of a tensor."""
        start, stop, _ = slice(start, stop).indices(self.info(name).nbytes)
        result = np.empty(max(0, stop - start), np.uint8)
        self.read_into(name, bytes_of(result), start)
        return result.tobytes()

    def read_neighbours(self, names: Sequence[str], targets: Sequence[memoryview]) -> None:
        """Fill each of ``targets`` with the bytes of a tensor; they follow each other in the file without a gap."""
        for name, target in zip(names, targets, strict=True):
            self.read_into(name, target)

    @abstractmethod
    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""


def _runs(numbers: range | Array) -> Sequence[range | Array]:
    """Row numbers, cut where one does not follow the one before: each part is one read."""
    if isinstance(numbers, range):
        return [numbers]
    return np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)


def bytes_of(items: Array) -> memoryview:
    """The writable bytes of a contiguous array."""
    return items.reshape(-1).view(np.uint8).data


def widen(raw: Array, dtype: str) -> Array:
    """float32 values of raw BF16 or 8-bit float items; other dtypes unchanged (still a view)."""
    if dtype == "BF16":
        result: Array = raw.view(ml_dtypes.bfloat16).astype(np.float32)
        return result
    return _FLOAT8[dtype][raw] if dtype in _FLOAT8 else raw


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
