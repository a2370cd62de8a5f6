"""Where a tensor of a model comes from: its name in a file, and what makes the official tensor of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.types import Array
from ltx2rt.weights.block_types import BLOCK_TYPES
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.tensor_source import (
    DTYPES,
    Rows,
    TensorInfo,
    TensorSource,
    bytes_of,
    check_dimensions,
    to_mlx,
    widen,
)

Axes = tuple[int, ...]

# Sizes of the kernels of one-dimensional convolutions in every published vocoder.
_KERNELS = (3, 5, 7, 11)


class Origin(NamedTuple):
    """The stored tensor, and the steps to the official one, in this order.

    Attributes:
        name: in the file.
        joined: further tensors of the file, whose rows follow.
        minus_one: the stored values are one too large; the result is float32.
        channels_last: the file keeps the channels of convolutions last, so that the axes may have to be exchanged.
        transposed: it is the weight of a transposed convolution, (I, O, K) officially and (O, K, I) with channels last.
    """

    name: str
    joined: tuple[str, ...] = ()
    minus_one: bool = False
    channels_last: bool = False
    transposed: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the stored tensor is the official one."""
        return not (self.joined or self.minus_one or self.channels_last)

    def axes(self, stored: Sequence[int], official: Sequence[int] | None = None) -> Axes | None:
        """The transposition that makes the official tensor; None: none.

        Args:
            stored: shape in the file.
            official: the shape that the model needs; None: not known yet. Where several orders of axes fit it, as for
                cubes, the one of the file's other tensors is taken.
        """
        if not self.channels_last or len(stored) < 3:
            return None
        usual = self._usual_axes(stored)
        if official is None:
            return usual
        return next((axes for axes in (usual, *_orders(len(stored))) if _permuted(stored, axes) == official), usual)

    def info(self, infos: Sequence[TensorInfo], official: Sequence[int] | None = None) -> TensorInfo:
        """The entry of the official tensor, from those of the stored ones; arguments as of `axes`."""
        first = infos[0]
        if self.is_plain:
            return first
        dtype, shape = first.dtype, first.shape
        if self.joined:
            shape = (sum(info.shape[0] if info.shape else 0 for info in infos), *first.shape[1:])
        shape = _permuted(shape, self.axes(shape, official))
        if self.minus_one:
            dtype = "F32"
        itemsize = DTYPES[dtype].itemsize if dtype in DTYPES else 0
        nbytes = math.prod(shape) * itemsize if self.minus_one else sum(info.nbytes for info in infos)
        return TensorInfo(dtype, shape, first.offset, nbytes)

    def _usual_axes(self, stored: Sequence[int]) -> Axes | None:
        if len(stored) == 3 and stored[1] == 1 < stored[2]:
            return None  # a kernel of one channel that was left as it is
        if self.transposed and len(stored) == 3:
            return (2, 0, 1)
        return (0, len(stored) - 1, *range(1, len(stored) - 1))


def keeps_channels_last(shapes: Iterable[Sequence[int]]) -> bool:
    """Whether most of these shapes are those of convolutions with the channels last: (O, k, k, I), not (O, I, k, k)."""
    votes = 0
    for shape in shapes:
        if len(shape) >= 4:
            last, first = len(set(shape[1:-1])) == 1, len(set(shape[2:])) == 1
            votes += int(last) - int(first)
        elif len(shape) == 3:
            votes += int(shape[1] in _KERNELS) - int(shape[2] in _KERNELS)
    return votes > 0


class OfficialTensors(TensorSource):
    """The tensors of a file, one of them as its `Origin` makes it.

    Args:
        sources: what holds the tensor as it is stored, then what holds each of those that are joined to it.
        origin: of the tensor.
        official: its official shape.
    """

    def __init__(self, sources: Sequence[TensorSource], origin: Origin, official: Sequence[int]) -> None:
        self._tensors = sources[0]
        self.path = self._tensors.path
        self._origin = origin
        self._names = (origin.name, *origin.joined)
        self._sources = sources
        self._stored = [source.info(name) for source, name in zip(sources, self._names, strict=True)]
        self._info = origin.info(self._stored, official)
        self._axes = origin.axes(self._stored[0].shape, official)

    def info(self, name: str) -> TensorInfo:
        return self._info if name == self._origin.name else self._tensors.info(name)

    def read_into(self, name: str, target: memoryview, start: int = 0) -> None:
        if name != self._origin.name:
            self._tensors.read_into(name, target, start)
            return
        target[:] = bytes_of(self.raw(name).copy())[start : start + len(target)]

    def raw(self, name: str, *, finite: bool = False) -> Array:
        """As of `TensorSource`; the items may be a transposed view."""
        if name != self._origin.name:
            return self._tensors.raw(name, finite=finite)
        if self._stored[0].dtype in BLOCK_TYPES and (self._origin.minus_one or self._axes is not None):
            raise CheckpointError(
                f"{self.where(name)}: is stored as {self._stored[0].dtype}, which cannot be transposed or changed; "
                "expected is F32, F16 or BF16."
            )
        items = self._joined(name)
        if self._origin.minus_one:
            items = widen(items, self._stored[0].dtype).astype(np.float32) - np.float32(1)
        if finite:
            require_finite(items, self._info.dtype, self.where(name))
        return items if self._axes is None else items.transpose(self._axes)

    def rows(self, name: str, rows: Rows) -> Array:
        if name != self._origin.name:
            return self._tensors.rows(name, rows)
        part: Array = self.raw(name)[rows]
        return part

    def mlx(self, name: str, *, finite: bool = False) -> mx.array:
        if name != self._origin.name:
            return self._tensors.mlx(name, finite=finite)
        raw, info = self.raw(name, finite=finite), self._info
        dtype = DTYPES[info.dtype].mlx
        if dtype is None or info.size == 0:
            return to_mlx(raw, info.dtype, self.where(name))
        check_dimensions(info.shape, self.where(name))
        array = uninitialized(info.shape, dtype)
        writable_view(array)[...] = raw
        return array.view(mx.bfloat16) if info.dtype == "BF16" else array

    def _joined(self, name: str) -> Array:
        first = self._stored[0]
        if len(self._names) == 1:
            return self._tensors.raw(name)
        if any(info.dtype != first.dtype or info.shape[1:] != first.shape[1:] for info in self._stored):
            raise CheckpointError(
                f"{self.where(name)}: cannot be joined with {', '.join(self._names[1:])}, which have other dtypes or "
                "widths; the file is damaged."
            )
        rows = [info.raw.shape[0] for info in self._stored]
        items = np.empty((sum(rows), *first.raw.shape[1:]), first.raw.numpy)
        done = 0
        for source, part, count in zip(self._sources, self._names, rows, strict=True):
            source.read_into(part, bytes_of(items[done : done + count]))
            done += count
        return items


def _permuted(shape: Sequence[int], axes: Axes | None) -> tuple[int, ...]:
    return tuple(shape) if axes is None else tuple(shape[axis] for axis in axes)


def _orders(rank: int) -> tuple[Axes | None, ...]:
    """The orders in which files keep the axes of a convolution."""
    moved = (0, rank - 1, *range(1, rank - 1))
    return (None, moved, (moved[1], moved[0], *moved[2:]))
