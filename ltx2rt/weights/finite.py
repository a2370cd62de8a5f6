"""Values of weight files that are no finite numbers, found in the stored bits."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array

if TYPE_CHECKING:  # that file reads tensors, and asks this one about them
    from ltx2rt.weights.tensor_source import WeightFile


# Tensors of up to so many values are checked whenever they are loaded: norms, biases, tables, scales. Larger ones are
# the matrices and convolutions, which `ltx2rt inspect --deep` looks at. A check takes about 10 microseconds and 0.2 to
# 0.6 ns per value on one core: less than 0.1 s for the some 3000 small tensors of a 19B transformer. The factors of a
# LoRA, which are checked whatever their size, take 1 to 2 % of the time of their product.
SMALL_VALUES = 1 << 20
# Of a large tensor, in memory at a time.
_BYTES_AT_A_TIME = 16 << 20


class _Bits(NamedTuple):
    """Items as unsigned integers: under ``mask``, without its sign, a value is finite when it is below ``bound``."""

    dtype: np.dtype[Any]
    mask: np.unsignedinteger[Any]
    bound: int


def _bits(dtype: str, bound: int) -> _Bits:
    unsigned = np.dtype(dtype)
    return _Bits(unsigned, unsigned.type(np.iinfo(unsigned).max >> 1), bound)


_BITS = {
    "F64": _bits("<u8", 0x7FF0_0000_0000_0000),
    "F32": _bits("<u4", 0x7F80_0000),
    "F16": _bits("<u2", 0x7C00),
    "BF16": _bits("<u2", 0x7F80),
    "F8_E4M3": _bits("u1", 0x7F),  # has NaN and no infinity
    "F8_E5M2": _bits("u1", 0x7C),
}


class NotFinite(NamedTuple):
    """A tensor with values that are NaN or infinite: its name, how many they are, of how many."""

    name: str
    values: int
    size: int


def count_not_finite(items: Array, dtype: str) -> int:
    """How many values are NaN or infinite.

    Args:
        items: as stored, of any shape (see `TensorSource.raw`).
        dtype: safetensors code; 0 for dtypes that hold finite numbers alone.
    """
    bits = _BITS.get(dtype)
    if bits is None or items.size == 0:
        return 0
    magnitude = items.view(bits.dtype) & bits.mask
    if magnitude.max() < bits.bound:
        return 0
    return int(np.count_nonzero(magnitude >= bits.bound))


def require_finite(items: Array, dtype: str, where: str) -> None:
    """Check stored items; ``where`` names file and tensor.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    count = count_not_finite(items, dtype)
    if count:
        raise not_finite_error(where, count, items.size)


def not_finite_error(where: str, count: int, size: int) -> CheckpointError:
    """The error of a tensor with such values; ``where`` names file and tensor."""
    return CheckpointError(
        f"{where}: {count} of {size} values are not finite numbers; the file is damaged, download or convert "
        "it again (`ltx2rt inspect --deep` looks at every tensor)."
    )


def find_not_finite(file: WeightFile, names: Container[str] | None = None) -> Iterator[NotFinite]:
    """Every tensor of a file that has such values, in the order of the file. It is read once, in bounded memory.

    Args:
        file: to look at.
        names: of the tensors to read; None: all.

    Raises:
        CheckpointError: the file shrank or the disk fails.
    """
    buffer = np.empty(_BYTES_AT_A_TIME, np.uint8)
    for name, info in sorted(file.tensors.items(), key=lambda item: item[1].offset):
        bits = _BITS.get(info.dtype)
        if bits is None or (names is not None and name not in names):
            continue
        count = 0
        for start in range(0, info.nbytes, _BYTES_AT_A_TIME):
            part = buffer[: min(_BYTES_AT_A_TIME, info.nbytes - start)]
            file.read_into(name, part.data, start)
            count += count_not_finite(part.view(bits.dtype), info.dtype)
        if count:
            yield NotFinite(name, count, info.size)
