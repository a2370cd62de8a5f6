"""MLX's affine integers: packed codes with a scale and a zero per group of columns."""

from __future__ import annotations

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.types import LinearWeight
from ltx2rt.weights.formats.linear_format import Encoding, LinearFormat, Stored
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, entry

_BITS = (4, 8)
_GROUPS = (32, 64, 128)
_SCALES, _ZEROS = ".scales", ".biases"


class Affine(LinearFormat):
    """W = scale * code + zero; a LoRA keeps bits and groups. The bits follow from the logical shape."""

    name = "int8/int4"
    companions = (_SCALES, _ZEROS)

    def recognises(self, encoding: Encoding) -> bool:
        return encoding.info.dtype == "U32" and _SCALES in encoding.companions

    def shapes(self, encoding: Encoding) -> list[tuple[int, ...]]:
        """One per number of bits that makes groups of a known size."""
        packed, groups = encoding.info.shape, encoding.companions[_SCALES].shape
        if len(packed) != 2 or len(groups) != 2:
            return []
        columns = [packed[1] * 32 // bits for bits in _BITS]
        return [(packed[0], n) for n in columns if n in [size * groups[1] for size in _GROUPS]]

    def fits(self, encoding: Encoding, shape: tuple[int, ...]) -> bool:
        packed = encoding.info.shape
        is_matrix = len(packed) == len(shape) == 2 and shape[1] > 0
        return is_matrix and packed[0] == shape[0] and packed[1] * 32 % shape[1] == 0

    def array_dtype(self, encoding: Encoding) -> mx.Dtype:
        return _mlx_dtype(encoding.companions[_SCALES])

    def weight_bytes(self, encoding: Encoding, shape: tuple[int, ...]) -> int:
        return encoding.nbytes

    def is_held_as_stored(self, encoding: Encoding) -> bool:
        return True

    def array(self, stored: Stored, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> mx.array:
        packed = self.load(stored, shape)
        dense = mx.dequantize(packed.values, packed.scale, packed.zero, group_size=packed.group_size, bits=packed.bits)
        return dense if axes is None else mx.contiguous(dense.transpose(axes))

    def values(self, stored: Stored, shape: tuple[int, ...]) -> mx.array:
        values = self.array(stored, shape).astype(mx.float32)
        mx.eval(values)
        return values

    def load(self, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        bits, group_size = self._form(stored, shape)
        (scales_file, scales_name), (zeros_file, zeros_name) = (stored.companions[key] for key in (_SCALES, _ZEROS))
        return LinearWeight(
            "affine",
            stored.file.mlx(stored.name),
            scales_file.mlx(scales_name, finite=True),
            zeros_file.mlx(zeros_name, finite=True),
            group_size=group_size,
            bits=bits,
        )

    def encode(self, values: mx.array, stored: Stored, shape: tuple[int, ...]) -> LinearWeight:
        bits, group_size = self._form(stored, shape)
        file, name = stored.companions[_SCALES]
        dtype = _mlx_dtype(file.info(name))
        parts = mx.quantize(values.astype(dtype), group_size=group_size, bits=bits)
        return LinearWeight("affine", *parts, group_size=group_size, bits=bits)

    def _form(self, stored: Stored, shape: tuple[int, ...]) -> tuple[int, int]:
        """(bits, group size); `CheckpointError` when the tensors are no such form of ``shape``."""
        if _ZEROS not in stored.companions:
            raise CheckpointError(
                f"{stored.where}: has '.scales' but no '.biases'; the file is damaged or of another format."
            )
        scales_file, scales_name = stored.companions[_SCALES]
        zeros_file, zeros_name = stored.companions[_ZEROS]
        scales, zeros = scales_file.info(scales_name), zeros_file.info(zeros_name)
        rows, columns = shape
        packed = stored.info.shape
        bits = packed[1] * 32 // columns
        groups = scales.shape[1] if len(scales.shape) == 2 else 0
        group_size = columns // groups if groups else 0
        consistent = (
            packed == (rows, columns * bits // 32)
            and scales.shape == zeros.shape == (rows, groups)
            and group_size * groups == columns
            and scales.dtype == zeros.dtype
            and scales.dtype in ("BF16", "F16", "F32")
        )
        if not consistent or bits not in _BITS or group_size not in _GROUPS:
            raise CheckpointError(
                f"{stored.where}: packed {list(packed)} with scales {scales.dtype} {list(scales.shape)} and biases "
                f"{zeros.dtype} {list(zeros.shape)} is not an MLX int4/int8 form of {list(shape)} "
                "(groups of 32, 64 or 128)."
            )
        return bits, group_size

    def entries(self, base: str, shape: tuple[int, int], bits: int, group_size: int) -> dict[str, TensorInfo]:
        """The tensors, with bfloat16 scales, that a matrix ``base`` of ``shape`` would be stored as."""
        rows, columns = shape
        groups = (rows, columns // group_size)
        return {
            f"{base}.weight": entry("U32", (rows, columns * bits // 32)),
            **{base + suffix: entry("BF16", groups) for suffix in self.companions},
        }


def _mlx_dtype(info: TensorInfo) -> mx.Dtype:
    return mx.bfloat16 if info.dtype == "BF16" else DTYPES[info.dtype].mlx or mx.float32
