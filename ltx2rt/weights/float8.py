"""Conversion between float32 and the 8-bit floating formats of weight files."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

E4M3_MAX = 448.0


def _decode_table(exponent_bits: int, mantissa_bits: int) -> Array:
    """All 256 values of a sign-exponent-mantissa format with IEEE bias and subnormals, ignoring special codes."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << mantissa_bits) - 1)) / float(1 << mantissa_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    magnitude = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1.0 + fraction) * 2.0 ** (exponent - bias))
    return (sign * magnitude).astype(np.float32)


def _e4m3_table() -> Array:
    table = _decode_table(4, 3)
    table[[0x7F, 0xFF]] = np.nan  # the only special codes: E4M3 "fn" has no infinity
    return table


def _e5m2_table() -> Array:
    table = _decode_table(5, 2)
    table[0x7C], table[0xFC] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


_E4M3 = _e4m3_table()
_E5M2 = _e5m2_table()


def decode_e4m3(codes: Array) -> Array:
    """float32 values of uint8 E4M3 (fn) codes: bias 7, largest 448, 0x7F and 0xFF are NaN."""
    return _E4M3[codes]


def decode_e5m2(codes: Array) -> Array:
    """float32 values of uint8 E5M2 codes: bias 15, with infinities and NaNs."""
    return _E5M2[codes]


def encode_e4m3(values: Array) -> Array:
    """uint8 E4M3 (fn) codes of float32 values, rounded to nearest even; beyond 448 saturates, NaN stays NaN."""
    values = values.astype(np.float32, order="C", copy=False)
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    # Normal results: keep three mantissa bits, round the other twenty to nearest even, move the bias from 127 to 7.
    rounded = (magnitude + np.uint32(0x7FFFF) + ((magnitude >> np.uint32(20)) & np.uint32(1))) >> np.uint32(20)
    normal = np.minimum(rounded, np.uint32((120 << 3) + 0x7E)) - np.uint32(120 << 3)
    subnormal = np.rint(np.fmin(np.abs(values), 1.0) * 512.0).astype(np.uint32)
    code = np.where(magnitude < np.uint32(0x3C800000), subnormal, normal)  # 2**-6, the smallest normal
    code = np.where(magnitude > np.uint32(0x7F800000), np.uint32(0x7F), code)
    result: Array = (code | (bits >> np.uint32(24)) & np.uint32(0x80)).astype(np.uint8)
    return result
