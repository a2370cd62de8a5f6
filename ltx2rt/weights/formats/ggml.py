"""The block types of GGUF files: groups of integers with float16 scales.

Four types stay as they are, for which there are kernels; four become MLX's affine integers, exactly; the others are
expanded when they are loaded.

In the layouts below "low first" means that a byte holds one value in its low bits and one of a later half, quarter or
eighth of the group in the bits above. Every float32 value is what the `gguf` package gives, bit for bit.

Source: ggml-quants.c and ggml-common.h of ggml @ d99724f.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from math import prod
from types import EllipsisType
from typing import ClassVar

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.kernels.host import writable_view
from ltx2rt.types import Array, LinearMode, LinearWeight
from ltx2rt.weights.block_types import BLOCK_TYPES, BlockType
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats.affine import packed_words
from ltx2rt.weights.formats.linear_format import Encoding, Packed, PackedFormat, Stored, slabs
from ltx2rt.weights.tensor_source import Rows, TensorInfo

_LARGEST_HALF = float(np.finfo(np.float16).max)
# What a code of the IQ4 types stands for.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# The same for E2M1 floats, doubled.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


class GgmlBlocks(PackedFormat):
    """One block type. ``name`` is what GGUF calls it, and the dtype of such tensors.

    Attributes:
        mode: of the kernels that take the blocks as they are; None: there are none.
    """

    mode: ClassVar[LinearMode | None] = None

    @staticmethod
    @abstractmethod
    def decode(blocks: Array) -> Array:
        """(n, bytes of a block) uint8 -> (n, values of a block) float32, in memory of their own."""

    @property
    def block(self) -> BlockType:
        """How many values in how many bytes."""
        return BLOCK_TYPES[self.name]

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype == self.name

    def loading_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return super().loading_bytes(encoding, shape) + (0 if _has_rows(encoding.info, shape) else encoding.nbytes)

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        return Packed(encoding.nbytes, 0) if self.mode is not None and _has_rows(encoding.info, shape) else None

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        assert self.mode is not None
        return LinearWeight(self.mode, stored.file.mlx(stored.name, finite=True))

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        values, nbytes = self.block.values, self.block.nbytes
        if _has_rows(stored.info, shape):

            def decode_rows(rows: Rows) -> Array:
                assert not isinstance(rows, EllipsisType)
                items = stored.file.rows(stored.name, rows)
                require_finite(items, stored.info.dtype, stored.where)
                return self.decode(items.reshape(-1, nbytes)).reshape(len(items), *shape[1:])

            return decode_rows
        blocks = stored.file.raw(stored.name, finite=True).reshape(-1, nbytes)
        row_values = prod(shape[1:])

        def decode(rows: Rows) -> Array:
            if not isinstance(rows, slice):
                every: Array = self.decode(blocks).reshape(shape)[rows]
                return every
            begin, end = rows.start * row_values, rows.stop * row_values
            first_block = begin // values
            decoded = self.decode(blocks[first_block : -(-end // values)]).reshape(-1)
            skipped = first_block * values
            part: Array = decoded[begin - skipped : end - skipped].reshape(rows.stop - rows.start, *shape[1:])
            return part

        return decode


def _has_rows(info: TensorInfo, shape: tuple[int, ...]) -> bool:
    """Whether rows are whole blocks; they are not in a tensor that was packed under another shape, or of one axis."""
    return len(shape) > 1 and info.raw.shape[0] == shape[0]


class AffineBlocks(GgmlBlocks):
    """A block type whose values are scale * code + zero, which MLX's affine integers hold in groups of 32.

    Attributes:
        bits: of a code there; scales and zeros are float16.
    """

    bits: ClassVar[int]

    @staticmethod
    @abstractmethod
    def affine(blocks: Array) -> tuple[Array, Array, Array]:
        """The codes (n, 32) uint8 of blocks, and scales and zeros (n, 1) float32."""

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        if not _has_rows(encoding.info, shape):
            return None
        size = prod(shape)
        nbytes = size * self.bits // 8 + 2 * mx.float16.size * size // self.block.values
        return Packed(nbytes, nbytes)

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        groups = (shape[0], shape[1] // self.block.values)
        parts = (
            mx.zeros((shape[0], shape[1] * self.bits // 32), dtype=mx.uint32),
            mx.zeros(groups, dtype=mx.float16),
            mx.zeros(groups, dtype=mx.float16),
        )
        values, scale, zero = (writable_view(part) for part in parts)
        for rows in slabs(shape):
            items = stored.file.rows(stored.name, rows)
            require_finite(items, stored.info.dtype, stored.where)
            codes, scales, zeros = self.affine(items.reshape(-1, self.block.nbytes))
            if np.abs(zeros).max(initial=0.0) > _LARGEST_HALF:
                raise CheckpointError(f"{stored.where}: scales up to {np.abs(scales).max():g}; the file is damaged.")
            values[rows] = packed_words(codes.reshape(len(items), -1), self.bits)
            scale[rows], zero[rows] = scales.reshape(len(items), -1), zeros.reshape(len(items), -1)
        return LinearWeight("affine", *parts, group_size=self.block.values, bits=self.bits)


class Q8_0(GgmlBlocks):
    """32 values: scale d; int8 q. d * q."""

    name = "Q8_0"
    mode = "q8_0"

    @staticmethod
    def decode(blocks: Array) -> Array:
        return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


class Q4_0(AffineBlocks):
    """32 values: d; 16 bytes of nibbles, low first. d * (q - 8)."""

    name = "Q4_0"
    bits = 4

    @staticmethod
    def affine(blocks: Array) -> tuple[Array, Array, Array]:
        scales = _half(blocks, 0)
        return _parts(blocks[:, 2:], 4).reshape(-1, 32), scales, -8 * scales

    @staticmethod
    def decode(blocks: Array) -> Array:
        codes = _float(_parts(blocks[:, 2:], 4))
        codes -= 8
        codes *= _half(blocks, 0)[:, :, None]
        return codes.reshape(len(blocks), 32)


class Q4_1(AffineBlocks):
    """32 values: d, m; 16 bytes of nibbles, low first. d * q + m."""

    name = "Q4_1"
    bits = 4

    @staticmethod
    def affine(blocks: Array) -> tuple[Array, Array, Array]:
        return _parts(blocks[:, 4:], 4).reshape(-1, 32), _half(blocks, 0), _half(blocks, 2)

    @staticmethod
    def decode(blocks: Array) -> Array:
        codes = _float(_parts(blocks[:, 4:], 4)).reshape(-1, 32)
        codes *= _half(blocks, 0)
        codes += _half(blocks, 2)
        return codes


class Q5_0(AffineBlocks):
    """32 values: d; 4 bytes of fifth bits; 16 bytes of nibbles, low first. d * (q - 16)."""

    name = "Q5_0"
    bits = 8

    @staticmethod
    def affine(blocks: Array) -> tuple[Array, Array, Array]:
        scales = _half(blocks, 0)
        return _five_bits(blocks[:, 2:6], blocks[:, 6:]), scales, -16 * scales

    @staticmethod
    def decode(blocks: Array) -> Array:
        codes = _float(_five_bits(blocks[:, 2:6], blocks[:, 6:]))
        codes -= 16
        codes *= _half(blocks, 0)
        return codes


class Q5_1(AffineBlocks):
    """32 values: d, m; 4 bytes of fifth bits; 16 bytes of nibbles, low first. d * q + m."""

    name = "Q5_1"
    bits = 8

    @staticmethod
    def affine(blocks: Array) -> tuple[Array, Array, Array]:
        return _five_bits(blocks[:, 4:8], blocks[:, 8:]), _half(blocks, 0), _half(blocks, 2)

    @staticmethod
    def decode(blocks: Array) -> Array:
        codes = _float(_five_bits(blocks[:, 4:8], blocks[:, 8:]))
        codes *= _half(blocks, 0)
        codes += _half(blocks, 2)
        return codes


class Q2_K(GgmlBlocks):
    """256 values in 16 groups: 16 bytes of scale and minimum; 64 bytes of pairs of bits; d, m. d * sc * q - m * mn."""

    name = "Q2_K"

    @staticmethod
    def decode(blocks: Array) -> Array:
        scales = blocks[:, :16]
        codes = _float(_pairs(blocks[:, 16:80])).reshape(-1, 16, 16)
        codes *= (_half(blocks, 80) * _float(scales & 15))[:, :, None]
        codes -= (_half(blocks, 82) * _float(scales >> 4))[:, :, None]
        return codes.reshape(-1, 256)


class Q3_K(GgmlBlocks):
    """256 values in 16 groups: 32 bytes of third bits; 64 bytes of pairs; 12 bytes of six-bit scales; d.

    d * (sc - 32) * (q - 4), q with its third bit.
    """

    name = "Q3_K"

    @staticmethod
    def decode(blocks: Array) -> Array:
        count = len(blocks)
        third = _parts(blocks[:, :32], 1).reshape(count, 256)
        codes = _float(_pairs(blocks[:, 32:96]).reshape(count, 256) | third << 2).reshape(count, 16, 16)
        low = _parts(blocks[:, 96:104], 4).reshape(count, 16)
        high = _parts(blocks[:, 104:108], 2).reshape(count, 16)
        scales = _float(low | high << 4)
        scales -= 32
        codes -= 4
        codes *= (_half(blocks, 108) * scales)[:, :, None]
        return codes.reshape(-1, 256)


class Q4_K(GgmlBlocks):
    """256 values in 8 groups: d, m; 12 bytes of six-bit scales and minima; 128 bytes, in each 32 of them the nibbles of
    two groups, low first. d * sc * q - m * mn.
    """

    name = "Q4_K"
    mode = "q4_k"

    @staticmethod
    def decode(blocks: Array) -> Array:
        return _scaled_groups(blocks, _parts(blocks[:, 16:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32))


class Q5_K(GgmlBlocks):
    """As Q4_K with 32 bytes of fifth bits before the nibbles: bit s of a byte belongs to group s."""

    name = "Q5_K"
    mode = "q5_k"

    @staticmethod
    def decode(blocks: Array) -> Array:
        nibbles = _parts(blocks[:, 48:].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
        return _scaled_groups(blocks, nibbles | _parts(blocks[:, 16:48], 1) << 4)


class Q6_K(GgmlBlocks):
    """256 values in 16 groups: 128 bytes of nibbles; 64 bytes of pairs above them; 16 int8 scales; d.

    d * sc * (q - 32). Each half of the values has its own 64 and 32 bytes.
    """

    name = "Q6_K"
    mode = "q6_k"

    @staticmethod
    def decode(blocks: Array) -> Array:
        nibbles = _parts(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 256)
        codes = _float(nibbles | _pairs(blocks[:, 128:192]).reshape(-1, 256) << 4).reshape(-1, 16, 16)
        codes -= 32
        codes *= (_half(blocks, 208) * _float(blocks[:, 192:208].view(np.int8)))[:, :, None]
        return codes.reshape(-1, 256)


class IQ4_NL(GgmlBlocks):
    """32 values: d; 16 bytes of nibbles, low first. d * table[q]."""

    name = "IQ4_NL"

    @staticmethod
    def decode(blocks: Array) -> Array:
        values: Array = _IQ4[_parts(blocks[:, 2:], 4)].reshape(-1, 32)
        values *= _half(blocks, 0)
        return values


class IQ4_XS(GgmlBlocks):
    """256 values in 8 groups: d; 2 bytes of upper pairs of scales; 4 bytes of their nibbles; 16 bytes of nibbles a
    group, low first. d * (sc - 32) * table[q].
    """

    name = "IQ4_XS"

    @staticmethod
    def decode(blocks: Array) -> Array:
        count = len(blocks)
        # Neighbours here: the low nibble of byte 0 belongs to group 0, the high one to group 1.
        low = _parts(blocks[:, 4:8], 4).swapaxes(1, 2).reshape(count, 8)
        high = _parts(blocks[:, 2:4], 2).swapaxes(1, 2).reshape(count, 8)
        scales = _float(low | high << 4)
        scales -= 32
        values: Array = _IQ4[_parts(blocks[:, 8:].reshape(count, 8, 16), 4)].reshape(count, 8, 32)
        values *= (_half(blocks, 0) * scales)[:, :, None]
        return values.reshape(count, 256)


class MXFP4(GgmlBlocks):
    """32 values: exponent e; 16 bytes of E2M1 codes, low first. 2^(e - 127) * value."""

    name = "MXFP4"

    @staticmethod
    def decode(blocks: Array) -> Array:
        values: Array = _E2M1[_parts(blocks[:, 1:], 4)].reshape(-1, 32)
        # The table is doubled; the halved powers of the two smallest exponents are subnormal.
        exponents = blocks[:, :1].astype(np.uint32)
        halved = np.where(exponents < 2, np.uint32(0x00200000) << exponents, (exponents - 1) << 23)
        with np.errstate(over="ignore"):  # refused when the blocks are read
            values *= halved.astype(np.uint32).view(np.float32)
        return values


GGML_FORMATS: tuple[GgmlBlocks, ...] = (
    Q8_0(),
    Q4_0(),
    Q4_1(),
    Q5_0(),
    Q5_1(),
    Q2_K(),
    Q3_K(),
    Q4_K(),
    Q5_K(),
    Q6_K(),
    IQ4_NL(),
    IQ4_XS(),
    MXFP4(),
)


def _half(blocks: Array, at: int) -> Array:
    """(n, 1) float32 from the float16 at a byte of every block."""
    scales: Array = blocks[:, at : at + 2].copy().view("<f2").astype(np.float32)
    return scales


def _float(codes: Array) -> Array:
    return codes.astype(np.float32)


def _parts(packed: Array, bits: int) -> Array:
    """(..., w) bytes -> (..., 8 / bits, w) numbers of so many bits, those in the low bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts: Array = packed[..., None, :] >> shifts & np.uint8((1 << bits) - 1)
    return parts


def _pairs(packed: Array) -> Array:
    """(n, 64) bytes -> (n, 2, 4, 32) pairs of bits; each half of the values has its own 32 bytes."""
    return _parts(packed.reshape(-1, 2, 32), 2)


def _five_bits(fifth: Array, nibbles: Array) -> Array:
    """(n, 4) bytes, whose bit i is the fifth bit of value i, and (n, 16) bytes of nibbles -> (n, 32)."""
    high = np.unpackbits(fifth, axis=1, bitorder="little")
    codes: Array = _parts(nibbles, 4).reshape(-1, 32) | high << 4
    return codes


def _scaled_groups(blocks: Array, codes: Array) -> Array:
    """(n, 256) values of (n, 8, 32) codes of Q4_K and Q5_K, whose scales are packed alike."""
    packed = blocks[:, 4:16]
    first, second, last = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, last & 15 | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, last >> 4 | second >> 6 << 4], axis=1)
    values = _float(codes)
    values *= (_half(blocks, 0) * _float(scales))[:, :, None]
    values -= (_half(blocks, 2) * _float(minima))[:, :, None]
    return values.reshape(-1, 256)
