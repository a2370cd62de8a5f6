"""MLX's affine integers: packed codes with a scale and a zero per group of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from ltx2rt.types import Array, LinearWeight
from ltx2rt.weights.finite import require_finite
from ltx2rt.weights.formats.linear_format import Encoding, Packed, PackedFormat, Stored, made_of_slabs
from ltx2rt.weights.tensor_source import Rows, TensorInfo, TensorSource, entry, widen

_BITS = (2, 3, 4, 5, 6, 8)
# Bits of a code -> bits in the kernels' form.
_KERNEL_BITS = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 8: 8}
# Those in which the sum of a weight and a LoRA is stored.
_ENCODED_BITS = 8
GROUPS = (32, 64, 128)
_SCALES, ZEROS = ".scales", ".biases"
_SCALE_DTYPES = ("BF16", "F16", "F32")


class Affine(PackedFormat):
    """W = scale * code + zero; bits and groups follow from the logical shape.

    Kernels take codes of 4 and 8 bits; others are widened to these. A LoRA keeps the form of 8 bits; with fewer the sum
    is dense.
    """

    name = "MLX int"
    companions = (_SCALES, ZEROS)

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype == "U32" and _SCALES in encoding.companions

    def label(self, encoding: Encoding, shape: tuple[int, ...] | None = None) -> str:
        """With the number of bits, where the shapes tell it."""
        bits = {bits for bits, _, columns in _forms(encoding) if shape is None or columns == shape[-1]}
        return f"MLX int{bits.pop()}" if len(bits) == 1 else self.name

    def own_fault(self, encoding: Encoding) -> str | None:
        if ZEROS not in encoding.companions:
            return "has '.scales' but no '.biases'"
        info, scales, zeros = encoding.info, encoding.companions[_SCALES], encoding.companions[ZEROS]
        alike = scales.shape == zeros.shape and scales.dtype == zeros.dtype and scales.dtype in _SCALE_DTYPES
        if alike and _forms(encoding):
            return None
        return (
            f"packed {list(info.shape)} with scales {scales.dtype} {list(scales.shape)} and biases {zeros.dtype} "
            f"{list(zeros.shape)} is no MLX form of 2 to 8 bits in groups of 32, 64 or 128"
        )

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        """One per number of bits that makes groups of a known size."""
        return [(encoding.info.shape[0], columns) for _, _, columns in _forms(encoding)]

    def encoded_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return encoding.nbytes if self._keeps_form(encoding, shape) else self.array_bytes(encoding, shape)

    def packed(self, encoding: Encoding, shape: tuple[int, ...]) -> Packed | None:
        bits, _ = _form(encoding, shape)
        widened = _KERNEL_BITS[bits]
        values = shape[0] * shape[1] * widened // 8
        return Packed(values + encoding.companions_nbytes, 0 if widened == bits else values)

    def decoder(self, stored: Stored, shape: tuple[int, ...]) -> Callable[[Rows], Array]:
        bits, group_size = _form(stored.encoding, shape)
        (scales_file, scales_name), (zeros_file, zeros_name) = (stored.companions[key] for key in (_SCALES, ZEROS))

        def groups(file: TensorSource, name: str, rows: Rows) -> Array:
            items, dtype = file.rows(name, rows), file.info(name).dtype
            require_finite(items, dtype, file.where(name))
            return widen(items, dtype).astype(np.float32, copy=False)[:, :, None]

        def decode(rows: Rows) -> Array:
            codes = _unpacked(stored.rows(rows), bits).astype(np.float32)
            values = codes.reshape(len(codes), -1, group_size)
            values *= groups(scales_file, scales_name, rows)
            values += groups(zeros_file, zeros_name, rows)
            return values.reshape(-1, shape[1])

        return decode

    def pack(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        bits, group_size = _form(stored.encoding, shape)
        (scales_file, scales_name), (zeros_file, zeros_name) = (stored.companions[key] for key in (_SCALES, ZEROS))
        widened = _KERNEL_BITS[bits]
        if widened == bits:
            values = stored.mlx()
        else:
            words = (shape[0], shape[1] * widened // 32)
            values = made_of_slabs(
                words, mx.uint32, lambda rows: packed_words(_unpacked(stored.rows(rows), bits), widened)
            )
        return LinearWeight(
            "affine",
            values,
            scales_file.mlx(scales_name, finite=True),
            zeros_file.mlx(zeros_name, finite=True),
            group_size=group_size,
            bits=widened,
        )

    def load_rows(self, stored: Stored, shape: tuple[int, ...], rows: Sequence[int]) -> LinearWeight:
        return self.load(stored.only(rows, shape[0]), (len(rows), *shape[1:]))

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        encoding = stored.encoding
        if not self._keeps_form(encoding, shape):
            return super().encode(values, stored, shape)
        bits, group_size = _form(encoding, shape)
        scales = encoding.companions[_SCALES]
        dtype = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}[scales.dtype]
        parts = mx.quantize(values.astype(dtype), group_size=group_size, bits=bits)
        return LinearWeight("affine", *parts, group_size=group_size, bits=bits)

    def entries(self, base: str, shape: tuple[int, int], bits: int, group_size: int) -> dict[str, TensorInfo]:
        """The tensors, with bfloat16 scales, that a matrix ``base`` of ``shape`` would be stored as."""
        rows, columns = shape
        groups = (rows, columns // group_size)
        return {
            f"{base}.weight": entry("U32", (rows, columns * bits // 32)),
            **{base + suffix: entry("BF16", groups) for suffix in self.companions},
        }

    def _keeps_form(self, encoding: Encoding, shape: tuple[int, ...]) -> bool:
        """Whether a LoRA leaves the weight in this form: with fewer than 8 bits too little of the LoRA would stay."""
        return self.fits(encoding, shape) and _form(encoding, shape)[0] == _ENCODED_BITS


def _forms(encoding: Encoding) -> list[tuple[int, int, int]]:
    """(bits, group size, columns) of every form that the stored shapes may be; fewest bits first."""
    packed, scales = encoding.info.shape, encoding.companions[_SCALES].shape
    if len(packed) != 2 or len(scales) != 2 or packed[0] != scales[0] or 0 in packed:
        return []
    return [
        (bits, group_size, group_size * scales[1])
        for bits in _BITS
        for group_size in GROUPS
        if bits * group_size * scales[1] == packed[1] * 32
    ]


def _form(encoding: Encoding, shape: tuple[int, ...]) -> tuple[int, int]:
    """(bits, group size) of a matrix that fits ``shape``; the columns leave one form."""
    return next((bits, group_size) for bits, group_size, columns in _forms(encoding) if columns == shape[1])


def packed_words(codes: Array, bits: int) -> Array:
    """Rows of codes, the first in the lowest bits of a word."""
    in_bytes: Array = codes.astype(np.uint8)
    if bits == 4:
        in_bytes = in_bytes[:, 0::2] | in_bytes[:, 1::2] << 4
    return in_bytes.view(np.uint32)


def _unpacked(packed: Array, bits: int) -> Array:
    """The codes of rows of words: each row is one string of bits, the first code lowest."""
    if bits in (2, 4, 8):
        in_word = np.arange(0, 32, bits, dtype=np.uint32)
        codes: Array = packed[:, :, None] >> in_word & np.uint32(2**bits - 1)
        return codes.reshape(len(packed), -1)
    # Eight codes are `bits` bytes, whatever the number of bits.
    data = packed.view(np.uint8).reshape(-1, bits)
    eight = np.zeros(len(data), np.uint64)
    for byte in range(bits):
        eight |= data[:, byte].astype(np.uint64) << np.uint64(8 * byte)
    codes = eight[:, None] >> np.arange(0, 8 * bits, bits, dtype=np.uint64) & np.uint64(2**bits - 1)
    return codes.reshape(len(packed), -1)
