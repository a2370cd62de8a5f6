"""MLX's affine 4-bit integers in groups of 64 columns, scales and zeros in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import mlx.core as mx

from ltx2rt.convert.encoders.encoder import Encoder, Entry, Piece, Reader, energy, largest
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import Array

_BITS, _GROUP = 4, 64


class Affine4(Encoder):
    """W = scale * code + zero, by MLX's own quantiser."""

    name = "mlx-int4"

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2 and shape[1] > 0 and shape[1] % _GROUP == 0

    def entries(self, shape: tuple[int, ...]) -> dict[str, Entry]:
        rows, columns = shape
        groups = columns // _GROUP
        packed = columns * _BITS // 32
        return {
            ".weight": Entry("U32", (rows, packed), 4 * rows * packed),
            ".scales": Entry("BF16", (rows, groups), 2 * rows * groups),
            ".biases": Entry("BF16", (rows, groups), 2 * rows * groups),
        }

    def pieces(self, read: Reader, shape: tuple[int, ...], where: str) -> Iterator[Piece]:
        for values in read():
            largest(values, where)  # finite numbers only
            packed, scales, zeros = mx.quantize(mx.array(values).astype(mx.bfloat16), group_size=_GROUP, bits=_BITS)
            decoded = mx.dequantize(
                packed, scales.astype(mx.float32), zeros.astype(mx.float32), group_size=_GROUP, bits=_BITS
            )
            error = to_numpy(decoded) - values
            items = {".weight": to_numpy(packed), ".scales": _codes(scales), ".biases": _codes(zeros)}
            yield Piece(items, energy(values), energy(error))


def _codes(values: mx.array) -> Array:
    """The stored items of bfloat16 values."""
    return to_numpy(values).astype(ml_dtypes.bfloat16).view("<u2")
