"""Products of 16-bit operands as float16: on which GPUs they are tried, and which weights allow them."""

from __future__ import annotations

import functools

import mlx.core as mx

from ltx2rt.kernels.gpu_device import GpuDevice, metal_device
from ltx2rt.kernels.host import to_numpy
from ltx2rt.types import GGML_BLOCKS, LinearWeight

# The first GPU generation (M3) with instructions for bfloat16: those before convert each operand by arithmetic.
FIRST_WITH_BFLOAT16 = 15
LARGEST_HALF = 65504.0
# The largest E8M0 code b whose block of E4M3 values, 448 * 2^(b - 127) at most, fits.
_LARGEST_EXPONENT = 134
# Of GGML's blocks: where the float16 factors lie, and the largest magnitude of what each multiplies.
_FACTORS = {
    "q8_0": ((0, 128),),
    "q4_k": ((0, 63 * 15), (2, 63)),
    "q5_k": ((0, 63 * 31), (2, 63)),
    "q6_k": ((208, 128 * 32),),
}


@functools.cache
def are_tried() -> bool:
    """Whether this machine's GPU is one that is slow with bfloat16 (M1, M2), so that loaders should look at weights."""
    return is_slow_with_bfloat16(metal_device())


def is_slow_with_bfloat16(device: GpuDevice | None) -> bool:
    return device is not None and 0 < device.generation < FIRST_WITH_BFLOAT16


def fits(weight: LinearWeight) -> bool:
    """Whether every value of a weight lies within the range of float16, but for factors of a row or of all of it.

    Values that are not finite do not. All of the weight is read, unless its format has no other values.
    """
    mode = weight.mode
    if mode in ("e4m3", "int8", "nvfp4", "w4a8") or (mode == "dense" and weight.values.dtype == mx.float16):
        return True
    if mode == "dense":
        return _within(mx.max(weight.values)) and _within(mx.min(weight.values))
    if mode == "affine":
        largest = mx.abs(weight.scale.astype(mx.float32)) * (2**weight.bits - 1) + mx.abs(weight.zero)
        return _within(mx.max(largest))
    if mode == "mxfp8":
        return int(to_numpy(mx.max(weight.scale))) <= _LARGEST_EXPONENT
    blocks = weight.values.reshape(weight.out_features, -1, GGML_BLOCKS[mode][1])
    largest = mx.array(0.0)
    for byte, multiplied in _FACTORS[mode]:
        factor = mx.contiguous(blocks[..., byte : byte + 2]).view(mx.float16).astype(mx.float32)
        largest = largest + mx.abs(factor) * multiplied
    return _within(mx.max(largest))


def _within(largest: mx.array) -> bool:
    # NaN compares as false with everything.
    return abs(float(to_numpy(largest))) <= LARGEST_HALF
