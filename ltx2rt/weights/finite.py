"""Values of weight files that are no finite numbers, found in the stored bits."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.types import Array
from ltx2rt.weights.block_types import BLOCK_TYPES, BlockType

if TYPE_CHECKING:  # that file reads tensors, and asks this one about them
    from ltx2rt.weights.tensor_source import WeightFile


# Tensors of up to so many values are checked whenever they are loaded: norms, biases, tables, scales. Larger ones are
# the matrices and convolutions, which `ltx2rt inspect --deep` looks at. A check takes about 10 microseconds and 0.2 to
# 0.6 ns per value on one core: less than 0.1 s for the some 3000 small tensors of a 19B transformer. The factors of a
# LoRA, which are checked whatever their size, take 1 to 2 % of the time of their product.
SMALL_VALUES = 1 << 20
# Exponent byte of a block, beyond which its values may be above the largest float32.
_LARGEST_EXPONENT = 252
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
    "F8_E8M0": _Bits(np.dtype("u1"), np.uint8(0xFF), 0xFF),  # a power of two without a sign
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
        dtype: safetensors code or block type; 0 for dtypes that hold finite numbers alone. All values of a block with a
            bad scale count.
    """
    if dtype in BLOCK_TYPES:
        return _values_of_bad_blocks(items, BLOCK_TYPES[dtype])
    bits = _BITS.get(dtype)
    if bits is None or items.size == 0:
        return 0
    magnitude = items.view(bits.dtype) & bits.mask
    if magnitude.max() < bits.bound:
        return 0
    return int(np.count_nonzero(magnitude >= bits.bound))


def _values_of_bad_blocks(items: Array, block: BlockType) -> int:
    blocks = items.reshape(-1, block.nbytes)
    half = _BITS["F16"]
    bad = np.zeros(len(blocks), np.bool_)
    for at in block.halves:
        scales = blocks[:, at : at + 2].copy().view(half.dtype).reshape(-1)
        bad |= (scales & half.mask) >= half.bound
    for at in block.exponents:
        bad |= blocks[:, at] > _LARGEST_EXPONENT
    return int(np.count_nonzero(bad)) * block.values


def _values_in(items: Array, dtype: str) -> int:
    block = BLOCK_TYPES.get(dtype)
    return items.size if block is None else items.size // block.nbytes * block.values


def require_finite(items: Array, dtype: str, where: str) -> None:
    """Check stored items; ``where`` names file and tensor.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    count = count_not_finite(items, dtype)
    if count:
        raise CheckpointError(
            f"{where}: {count} of {_values_in(items, dtype)} values are not finite numbers; the file is damaged, "
            "download or convert it again (`ltx2rt inspect --deep` looks at every tensor)."
        )


def find_not_finite(
    file: WeightFile, names: Container[str] | None = None, meant: Mapping[str, str] | None = None
) -> Iterator[NotFinite]:
    """Every tensor of a file that has such values, in the order of the file. It is read once, in bounded memory.

    Args:
        file: to look at.
        names: of the tensors to read; None: all.
        meant: name -> dtype of what tensors of bytes hold.

    Raises:
        CheckpointError: the file shrank or the disk fails.
    """
    buffer = np.empty(_BYTES_AT_A_TIME, np.uint8)
    for name, info in sorted(file.tensors.items(), key=lambda item: item[1].offset):
        dtype = (meant or {}).get(name, info.dtype)
        block = BLOCK_TYPES.get(dtype)
        if (block is None and dtype not in _BITS) or (names is not None and name not in names):
            continue
        step = _BYTES_AT_A_TIME if block is None else _BYTES_AT_A_TIME // block.nbytes * block.nbytes
        count = 0
        for start in range(0, info.nbytes, step):
            part = buffer[: min(step, info.nbytes - start)]
            file.read_into(name, part.data, start)
            items = part if block is not None else part.view(_BITS[dtype].dtype)
            count += count_not_finite(items, dtype)
        if count:
            yield NotFinite(name, count, info.size)
