"""The block types of GGUF: fixed numbers of values that are stored together in fixed numbers of bytes."""

from __future__ import annotations

import math
from typing import NamedTuple


class BlockType(NamedTuple):
    """How one type packs its values. The values of a tensor row are whole blocks that follow each other.

    ``number`` of the type in a GGUF file; ``values`` in a block; ``nbytes`` of a block; ``halves``: where in a block
    its float16 scales are; ``exponents``: where its scales are that are a byte, the exponent of a power of two.
    """

    number: int
    values: int
    nbytes: int
    halves: tuple[int, ...]
    exponents: tuple[int, ...] = ()


# Source: ggml-common.h and ggml.h of ggml @ d99724f.
BLOCK_TYPES = {
    "Q4_0": BlockType(2, 32, 18, (0,)),
    "Q4_1": BlockType(3, 32, 20, (0, 2)),
    "Q5_0": BlockType(6, 32, 22, (0,)),
    "Q5_1": BlockType(7, 32, 24, (0, 2)),
    "Q8_0": BlockType(8, 32, 34, (0,)),
    "Q2_K": BlockType(10, 256, 84, (80, 82)),
    "Q3_K": BlockType(11, 256, 110, (108,)),
    "Q4_K": BlockType(12, 256, 144, (0, 2)),
    "Q5_K": BlockType(13, 256, 176, (0, 2)),
    "Q6_K": BlockType(14, 256, 210, (208,)),
    "IQ4_NL": BlockType(20, 32, 18, (0,)),
    "IQ4_XS": BlockType(23, 256, 136, (0,)),
    "MXFP4": BlockType(39, 32, 17, (), (0,)),
}


def raw_shape(block: BlockType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the bytes of a tensor of logical ``shape``: (..., bytes of a row).

    Where rows are no whole blocks, as in a tensor that was packed under another shape: (blocks, bytes of a block).
    """
    if shape and shape[-1] % block.values == 0:
        return (*shape[:-1], shape[-1] // block.values * block.nbytes)
    return math.prod(shape) // block.values, block.nbytes
