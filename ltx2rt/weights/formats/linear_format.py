"""What a storage format of weights has to say: one object per format, used wherever weights are read or counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import EllipsisType
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.finite import SMALL_VALUES
from ltx2rt.weights.tensor_source import TensorInfo, TensorSource, check_dimensions

# Part of the first axis of a tensor; ``...`` for a scalar.
Rows = slice | EllipsisType

# The U8 tensor with the JSON in which ComfyUI's tools declare the format of a weight.
MARKER = ".comfy_quant"
FLOATS = ("BF16", "F16", "F32", "F64")
# Rows that are decoded, or changed by a LoRA, at a time.
SLAB_ROWS = 512


@dataclass(frozen=True)
class Encoding:
    """A stored tensor as the header of its file describes it.

    Attributes:
        info: its entry.
        companions: suffix (``.weight_scale``) -> entry of the tensors that accompany it.
        marker: what the file declares about it; empty if nothing.
    """

    info: TensorInfo
    companions: Mapping[str, TensorInfo] = field(default_factory=dict)
    marker: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """In the file, companions included."""
        return self.info.nbytes + sum(info.nbytes for info in self.companions.values())


class Stored(NamedTuple):
    """A tensor that can be read. ``companions``: suffix -> (file, name) of the tensors that accompany it."""

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


class LinearFormat(ABC):
    """How a tensor, most often the matrix of a linear layer, is stored, and in which form the kernels get it.

    Attributes:
        name: for people.
        companions: suffixes of the tensors that are read with a ``.weight`` in this format.
        bias_companions: the same for a ``.bias``.
        unused: suffixes of accompanying tensors that are known and not read.
        markers: the formats that a `MARKER` may declare for it.
    """

    name: ClassVar[str]
    companions: ClassVar[Sequence[str]] = ()
    bias_companions: ClassVar[Sequence[str]] = ()
    unused: ClassVar[Sequence[str]] = ()
    markers: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def recognises(self, encoding: Encoding) -> bool:
        """Whether a tensor is stored in this format."""

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        """Every logical shape that the stored shapes may stand for; most often one."""
        return [encoding.info.shape]

    def fits(self, encoding: Encoding, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may be one of the logical ``shape``; `load` may still refuse it, saying why."""
        return shape in self.shapes(encoding)

    @abstractmethod
    def array_dtype(self, encoding: Encoding) -> mx.Dtype:
        """Of the dense values that `array` gives."""

    def array_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        """In memory, as an array of dense values."""
        return prod(shape) * self.array_dtype(encoding).size

    def weight_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        """In memory, as `load` gives it."""
        return self.array_bytes(encoding, shape)

    def loading_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        """Most bytes of temporary arrays while it is loaded."""
        return 0

    def is_held_as_stored(self, encoding: Encoding) -> bool:
        """Whether the arrays of `load` are those of the file, which a streamed block has in its slot anyway."""
        return False

    @abstractmethod
    def array(self, stored: Stored, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> mx.array:
        """The dense values of ``shape``, transposed by ``axes`` (None: not).

        Raises:
            CheckpointError: damaged or contradictory tensors; small ones, scales included, are checked for values
                that are not finite.
        """

    @abstractmethod
    def values(self, stored: Stored, shape: tuple[int, ...]) -> mx.array:
        """The exact float32 values, evaluated, in memory of their own. Errors as of `array`."""

    def value_slabs(self, stored: Stored, shape: tuple[int, ...]) -> Iterator[Array]:
        """The exact float32 values, some rows at a time. Errors as of `array`."""
        items = writable_view(self.values(stored, shape))
        yield from (items[rows] for rows in slabs(shape))

    @abstractmethod
    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        """The matrix in a form that the kernels take. Errors as of `array`."""

    @abstractmethod
    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        """Changed float32 ``values`` of a matrix in the form in which `load` would give it."""


class ExpandedFormat(LinearFormat):
    """A format that no kernel takes: loaded as dense bfloat16, each value rounded once."""

    @abstractmethod
    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        """Read the tensors; what comes back gives the float32 values of some rows. Errors as of `array`."""

    def array_dtype(self, encoding: Encoding) -> mx.Dtype:
        return mx.bfloat16

    def loading_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        slab = min(shape[0], SLAB_ROWS) * prod(shape[1:]) if shape else 1
        return encoding.nbytes + 2 * 4 * slab  # its float32 values, before and after the scale

    def array(self, stored: Stored, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> mx.array:
        check_dimensions(shape, stored.where)
        result = mx.zeros(shape, dtype=mx.uint16)
        if result.size:
            self._decode(stored, shape, writable_view(result).view(ml_dtypes.bfloat16))
        dense = result.view(mx.bfloat16)
        return dense if axes is None else mx.contiguous(dense.transpose(axes))

    def values(self, stored: Stored, shape: tuple[int, ...]) -> mx.array:
        check_dimensions(shape, stored.where)
        result = mx.zeros(shape, dtype=mx.float32)
        if result.size:
            self._decode(stored, shape, writable_view(result))
        return result

    def value_slabs(self, stored: Stored, shape: tuple[int, ...]) -> Iterator[Array]:
        decode = self.decoder(stored, shape)
        yield from (decode(rows) for rows in slabs(shape))

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", self.array(stored, shape))

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", values.astype(mx.bfloat16))

    def _decode(self, stored: Stored, shape: tuple[int, ...], target: Array) -> None:
        decode = self.decoder(stored, shape)
        for rows in slabs(shape):
            target[rows] = decode(rows)


def slabs(shape: tuple[int, ...]) -> list[Rows]:
    """The rows of a tensor, some at a time."""
    if not shape:
        return [...]
    return [slice(first, min(first + SLAB_ROWS, shape[0])) for first in range(0, shape[0], SLAB_ROWS)]


def scales(stored: Stored, suffix: str, shapes: Sequence[tuple[int, ...]], expected: str) -> Array:
    """The scales of a tensor, float32.

    Args:
        stored: the tensor.
        suffix: of the scales.
        shapes: that they may have.
        expected: the same in words, for the error.

    Raises:
        CheckpointError: they have another shape, are not floating point, or hold values that are not finite.
    """
    file, name = stored.companions[suffix]
    info = file.info(name)
    if info.shape not in shapes or info.dtype not in FLOATS:
        raise CheckpointError(f"{file.path}: tensor {name!r} is {info.dtype} {list(info.shape)}; {expected}.")
    return file.numpy(name, finite=True).astype(np.float32)
