"""What a storage format of weights has to say: one object per format, used wherever weights are read or counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import from_numbers, writable_view
from ltx2rt.kernels.uninitialized import uninitialized
from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.finite import SMALL_VALUES, require_finite
from ltx2rt.weights.safetensors import SelectedRows
from ltx2rt.weights.tensor_source import Rows, TensorInfo, TensorSource, check_dimensions

FLOATS = ("BF16", "F16", "F32", "F64")
# Suffix of factors of the activations; whatever the format, a weight is of no use without them.
SMOOTHING = ".pre_quant_scale"
# Rows that are decoded, or changed by a LoRA, at a time.
SLAB_ROWS = 512
# Values of such a slab, unless one row has more: the rows of a text projection have up to 188160.
_SLAB_VALUES = 1 << 22
# How errors about a tensor end.
CURE = "convert or download the file again, or use the bf16 or fp8 file"


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
        return self.info.nbytes + self.companions_nbytes

    @property
    def companions_nbytes(self) -> int:
        return sum(info.nbytes for info in self.companions.values())

    @property
    def declared(self) -> str | None:
        """The format that the marker names; None if there is no marker or it names none."""
        return self.marker.get("format")

    def companion(self, *suffixes: str) -> tuple[str, TensorInfo] | None:
        """Suffix and entry of the first of these companions that is there."""
        return next(((suffix, self.companions[suffix]) for suffix in suffixes if suffix in self.companions), None)


class Stored(NamedTuple):
    """A tensor that can be read.

    ``companions``: suffix -> (file, name) of the tensors that accompany it; ``marker``: as in `Encoding`.
    """

    file: TensorSource
    name: str
    companions: Mapping[str, tuple[TensorSource, str]]
    marker: Mapping[str, Any] = MappingProxyType({})

    @property
    def info(self) -> TensorInfo:
        return self.file.info(self.name)

    @property
    def encoding(self) -> Encoding:
        """What the headers say about it."""
        found = {suffix: file.info(name) for suffix, (file, name) in self.companions.items()}
        return Encoding(self.info, found, self.marker)

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

    def rows(self, rows: Rows) -> Array:
        """The stored items of some rows, checked if the tensor is small; only these are read."""
        items = self.file.rows(self.name, rows)
        if self.info.size <= SMALL_VALUES:
            require_finite(items, self.info.dtype, self.where)
        return items

    def only(self, rows: Sequence[int], count: int) -> Stored:
        """The tensor reduced to some of its ``count`` rows, with those companions that have a row for each."""

        def part(file: TensorSource) -> TensorSource:
            return SelectedRows(file, rows, count)

        companions = {suffix: (part(file), name) for suffix, (file, name) in self.companions.items()}
        return self._replace(file=part(self.file), companions=companions)


class LinearFormat(ABC):
    """How a tensor, most often the matrix of a linear layer, is stored, and in which form the kernels get it.

    Attributes:
        name: for people.
        companions: suffixes of the tensors that are read with a ``.weight`` in this format.
        bias_companions: the same for a ``.bias``.
        unused: suffixes of accompanying tensors that are known and not read.
        markers: the formats that a file may declare for it (`ltx2rt.weights.markers`).
        marked_dtypes: dtypes that a tensor may have of which the file declares one of them.
    """

    name: ClassVar[str]
    companions: ClassVar[Sequence[str]] = ()
    bias_companions: ClassVar[Sequence[str]] = ()
    unused: ClassVar[Sequence[str]] = ()
    markers: ClassVar[Sequence[str]] = ()
    marked_dtypes: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def recognises(self, encoding: Encoding) -> bool:
        """Whether a tensor is stored in this format, as far as dtypes and companions tell."""

    def label(self, encoding: Encoding, shape: tuple[int, ...] | None = None) -> str:
        """The format for people, with what makes this tensor special; ``shape``: the logical one, if it is known."""
        return self.name

    def fault(self, encoding: Encoding) -> str | None:
        """What is wrong with a tensor, its companions and its marker, whatever its logical shape; None for nothing."""
        declared, info = encoding.declared, encoding.info
        if SMOOTHING in encoding.companions:
            return f"{self.name} with pre_quant_scale (activation smoothing) is not supported"
        if declared is not None:
            if declared not in self.markers or info.dtype not in self.marked_dtypes:
                return f"marked {declared} but the weight is {info.dtype}"
            if len(info.shape) != 2:
                return f"marked {declared} but of shape {list(info.shape)}; only matrices can be stored so"
        return self.own_fault(encoding)

    def own_fault(self, encoding: Encoding) -> str | None:
        """`fault` of a tensor that is stored as its marker says, if it has one."""
        return None

    def floats_as_bytes(self, encoding: Encoding) -> Mapping[str, str]:
        """Which stored tensors of U8 hold 8-bit floats: suffix of a companion, or empty for the weight -> their dtype.

        The tensor has no `fault`.
        """
        return {}

    def require_sound(self, stored: Stored, shape: tuple[int, ...]) -> None:
        """Check what the headers say of a tensor that shall be one of the logical ``shape``.

        Raises:
            CheckpointError: it has a `fault`, or cannot have that shape.
        """
        encoding = stored.encoding
        fault = self.fault(encoding)
        if fault is None and not self.fits(encoding, shape):
            fault = f"{self.label(encoding)} of {list(encoding.info.shape)} cannot hold {list(shape)}"
        if fault is not None:
            raise CheckpointError(f"{stored.where}: {fault}; {CURE}.")

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        """Every logical shape that the stored shapes may stand for; most often one.

        Where storage is padded, the padded shape: what `fits` takes may be a little smaller.
        """
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

    def rotation(self, encoding: Encoding) -> int:
        """Size of the groups in which what is multiplied with it, as `load` gives it, is rotated; 0: it is not."""
        return 0

    def as_int8(self, encoding: Encoding) -> bool:
        """Whether `load` gives rows of 8-bit integers, which can be multiplied with activations that are such, too."""
        return False

    def encoded_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        """In memory, as `encode` gives it."""
        return self.weight_bytes(encoding, shape)

    def made_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        """Of `weight_bytes`, those that are not as in the file, which a streamed block has in its slot anyway."""
        return self.weight_bytes(encoding, shape)

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

    def array_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> mx.array:
        """`array` of some rows of a matrix of ``shape``; of the matrix nothing else is read."""
        return self.array(stored.only(rows, shape[0]), (len(rows), *shape[1:]))

    def values_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> mx.array:
        """`values` of some rows of a matrix of ``shape``; of the matrix nothing else is read."""
        return self.values(stored.only(rows, shape[0]), (len(rows), *shape[1:]))

    def load_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> LinearWeight:
        """`load` of some rows of a matrix of ``shape``; of the matrix nothing else is read."""
        return self.load(stored.only(rows, shape[0]), (len(rows), *shape[1:]))


class ExpandedFormat(LinearFormat):
    """A format that no kernel takes: loaded as dense bfloat16, each value rounded once.

    Attributes:
        slab_bytes: most temporary bytes per value of a slab while it is decoded: codes, float32 values, their copies.
    """

    slab_bytes: ClassVar[int] = 13

    @abstractmethod
    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        """Read what accompanies the tensor; what comes back reads some rows and gives their float32 values.

        Errors as of `array`; the tensors have no `fault` and fit the shape.
        """

    def array_dtype(self, encoding: Encoding) -> mx.Dtype:
        return mx.bfloat16

    def encoded_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return self.array_bytes(encoding, shape)

    def loading_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        slab = min(shape[0], slab_rows(shape)) * prod(shape[1:]) if shape else 1
        return 3 * encoding.companions_nbytes + self.slab_bytes * slab

    def array(self, stored: Stored, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> mx.array:
        dense = self._expanded(stored, shape, slabs(shape), shape)
        return dense if axes is None else mx.contiguous(dense.transpose(axes))

    def values(self, stored: Stored, shape: tuple[int, ...]) -> mx.array:
        check_dimensions(shape, stored.where)
        result = uninitialized(shape, mx.float32)
        if result.size:
            self._decode(stored, shape, slabs(shape), writable_view(result))
        return result

    def value_slabs(self, stored: Stored, shape: tuple[int, ...]) -> Iterator[Array]:
        self.require_sound(stored, shape)
        decode = self.decoder(stored, shape)
        yield from (decode(rows) for rows in slabs(shape))

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", self.array(stored, shape))

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        return LinearWeight("dense", values.astype(mx.bfloat16))

    def array_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> mx.array:
        return self._expanded(stored, shape, _some(rows, shape), (len(rows), *shape[1:]))

    def values_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> mx.array:
        check_dimensions(shape, stored.where)
        result = uninitialized((len(rows), *shape[1:]), mx.float32)
        if result.size:
            self._decode(stored, shape, _some(rows, shape), writable_view(result))
        return result

    def load_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> LinearWeight:
        return LinearWeight("dense", self.array_rows(stored, shape, rows))

    def _expanded(
        self, stored: Stored, shape: tuple[int, ...], parts: Sequence[Rows], expanded: tuple[int, ...]
    ) -> mx.array:
        """bfloat16 of ``parts`` of the rows of a tensor of ``shape``, together of shape ``expanded``."""
        check_dimensions(expanded, stored.where)
        result = uninitialized(expanded, mx.uint16)
        if result.size:
            self._decode(stored, shape, parts, writable_view(result).view(ml_dtypes.bfloat16))
        return result.view(mx.bfloat16)

    def _decode(self, stored: Stored, shape: tuple[int, ...], parts: Sequence[Rows], target: Array) -> None:
        """Fill ``target`` with the values of ``parts`` of the rows, one after the other."""
        self.require_sound(stored, shape)
        decode = self.decoder(stored, shape)
        if not shape:
            target[...] = decode(...)
            return
        done = 0
        for rows in parts:
            values = decode(rows)
            target[done : done + len(values)] = values
            done += len(values)
            del values  # before the next ones are made


class Packed(NamedTuple):
    """Bytes of a weight in a form that kernels take: all, and those that are not as in the file."""

    nbytes: int
    made: int


class PackedFormat(ExpandedFormat):
    """A format that kernels take, as it is or after an exact change; where they do not, it is expanded."""

    @abstractmethod
    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        """What the kernels' form of a tensor without `fault` takes; None if it has none."""

    @abstractmethod
    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        """The kernels' form of a tensor for which `packed` says that there is one. Errors as of `array`."""

    def weight_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        form = self._kernel_form(encoding, shape)
        return self.array_bytes(encoding, shape) if form is None else form.nbytes

    def made_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        form = self._kernel_form(encoding, shape)
        return self.array_bytes(encoding, shape) if form is None else form.made

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        self.require_sound(stored, shape)
        return super().load(stored, shape) if self.packed(stored.encoding, shape) is None else self.pack(stored, shape)

    def _kernel_form(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        """`packed`, also for tensors that cannot be used."""
        usable = self.fault(encoding) is None and self.fits(encoding, shape)
        return self.packed(encoding, shape) if usable else None


def _some(rows: Sequence[int], shape: tuple[int, ...]) -> list[Array]:
    """Rows of a tensor of ``shape`` by their numbers, some at a time."""
    step = slab_rows(shape)
    return [from_numbers(rows[first : first + step], np.int64) for first in range(0, len(rows), step)]


def slabs(shape: tuple[int, ...]) -> list[Rows]:
    """The rows of a tensor, some at a time."""
    if not shape:
        return [...]
    if 0 in shape:
        return []  # which may have any number of rows
    step = slab_rows(shape)
    return [slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]


def slab_rows(shape: tuple[int, ...]) -> int:
    """How many rows of a tensor are decoded, or changed by a LoRA, at a time; it may have fewer."""
    return max(1, min(SLAB_ROWS, _SLAB_VALUES // max(1, prod(shape[1:]))))


def wrong_scales(encoding: Encoding, suffix: str, shapes: Sequence[tuple[int, ...]], expected: str = "") -> str | None:
    """What is wrong with floating-point scales, which must have one of ``shapes``; None for nothing.

    ``expected``: the shapes in words; by default they are listed.
    """
    info, name = encoding.companions[suffix], suffix.removeprefix(".")
    if info.dtype not in FLOATS:
        return f"{name} is {info.dtype}; expected one of {', '.join(FLOATS)}"
    if info.shape not in shapes:
        listed = expected or " or ".join(str(list(shape)) for shape in shapes)
        return f"{name} has shape {list(info.shape)}; expected {listed}"
    return None


def made_of_slabs(shape: tuple[int, ...], dtype: mx.Dtype, rows_of: Callable[[Rows], Array]) -> mx.array:
    """An array whose rows a function gives, some at a time."""
    result = uninitialized(shape, dtype)
    if result.size == 0:
        return result
    items = writable_view(result)
    for rows in slabs(shape):
        items[rows] = rows_of(rows)
    return result


def row_scales(stored: Stored, suffix: str, rows: int) -> mx.array:
    """The scales of a tensor as (rows,) float32, checked; one scale becomes that of every row."""
    file, name = stored.companions[suffix]
    info = file.info(name)
    if info.dtype == "F32" and info.size == rows:
        return file.mlx(name, finite=True).reshape(rows)
    return mx.array(np.broadcast_to(companion_values(stored, suffix).reshape(-1), (rows,)).copy())


def companion_values(stored: Stored, suffix: str) -> Array:
    """The values of a floating-point companion, float32, checked to be finite numbers."""
    file, name = stored.companions[suffix]
    return file.numpy(name, finite=True).astype(np.float32, copy=False)


def whole_number(marker: Mapping[str, Any], key: str, default: int) -> int | None:
    """A positive whole number of a marker; None if the marker says something else."""
    value = marker.get(key, default)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return value if valid else None
