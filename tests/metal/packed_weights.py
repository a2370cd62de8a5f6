"""What packed weights mean, byte by byte: written apart from the kernels and from their reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Bytes = np.ndarray
Values = np.ndarray


def e4m3(codes: Bytes) -> Values:
    """Values of float8 E4M3 codes that are numbers."""
    sign, exponent, mantissa = codes >> 7, codes >> 3 & 15, (codes & 7).astype(np.float64)
    magnitude = np.where(exponent > 0, (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7), mantissa * 2.0**-9)
    return np.where(sign, -magnitude, magnitude)


def int8_rows(values: np.ndarray, scale: np.ndarray) -> Values:
    return values.astype(np.float64) * scale.astype(np.float64)[:, None]


def nvfp4(values: Bytes, scale: Bytes, all_of_it: float) -> Values:
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    out = np.empty((values.shape[0], 2 * values.shape[1]))
    for column in range(out.shape[1]):
        byte = values[:, column // 2]
        code = byte >> 4 if column % 2 == 0 else byte & 15
        out[:, column] = np.where(code & 8, -1, 1) * magnitudes[code & 7] * e4m3(scale[:, column // 16])
    return out * np.float64(all_of_it)


def mxfp8(values: Bytes, scale: Bytes) -> Values:
    factors = np.where(scale == 0, 0.0, 2.0 ** (scale.astype(np.float64) - 127))
    return e4m3(values) * np.repeat(factors, 32, axis=1)


def w4a8(values: Bytes, scale: Bytes, of_rows: np.ndarray, table: np.ndarray, group_size: int) -> Values:
    out = np.empty((values.shape[0], 2 * values.shape[1]))
    for column in range(out.shape[1]):
        code = values[:, column // 2] >> 4 * (column % 2) & 15
        # In float32, as the format is defined: a product may lie between two levels.
        level = np.rint(table[code] * e4m3(scale[:, column // group_size]).astype(np.float32))
        out[:, column] = np.clip(level, -127, 127)
    return out * of_rows.astype(np.float64)[:, None]


def _half(block: Bytes, at: int) -> float:
    return float(block[at : at + 2].view(np.float16)[0])


def _q8_0(block: Bytes) -> Values:
    return _half(block, 0) * block[2:].view(np.int8).astype(np.float64)


def _scale_and_minimum(s: Bytes, sub: int) -> tuple[int, int]:
    if sub < 4:
        return int(s[sub]) & 63, int(s[sub + 4]) & 63
    high = int(s[sub - 4]) >> 6, int(s[sub]) >> 6
    return (int(s[sub + 4]) & 15) | high[0] << 4, int(s[sub + 4]) >> 4 | high[1] << 4


def _q45_k(block: Bytes, codes_at: int) -> Values:
    out = np.empty(256)
    for i in range(256):
        sub, byte = i // 32, block[codes_at + i // 64 * 32 + i % 32]
        code = int(byte) >> (4 if sub % 2 else 0) & 15
        if codes_at == 48:
            code |= (int(block[16 + i % 32]) >> sub & 1) << 4
        scale, minimum = _scale_and_minimum(block[4:16], sub)
        out[i] = _half(block, 0) * scale * code - _half(block, 2) * minimum
    return out


def _q6_k(block: Bytes) -> Values:
    out = np.empty(256)
    scales = block[192:208].view(np.int8)
    for i in range(256):
        half, t, place = i // 128, i % 128 // 32, i % 32
        byte = int(block[64 * half + 32 * (t % 2) + place])
        code = (byte >> 4 if t >= 2 else byte & 15) | (int(block[128 + 32 * half + place]) >> 2 * t & 3) << 4
        out[i] = _half(block, 208) * int(scales[i // 16]) * (code - 32)
    return out


_BLOCKS: dict[str, tuple[int, Callable[[Bytes], Values]]] = {
    "q8_0": (34, _q8_0),
    "q4_k": (144, lambda block: _q45_k(block, 16)),
    "q5_k": (176, lambda block: _q45_k(block, 48)),
    "q6_k": (210, _q6_k),
}


def ggml(mode: str, values: Bytes) -> Values:
    size, decoded = _BLOCKS[mode]
    rows = values.reshape(values.shape[0], -1, size)
    return np.stack([np.concatenate([decoded(block) for block in row]) for row in rows])


def rotation_matrix(group: int) -> Values:
    """The Kronecker power of the four-by-four matrix, over its square root."""
    four = 1.0 - 2.0 * np.fliplr(np.eye(4))
    matrix = np.ones((1, 1))
    while matrix.shape[0] < group:
        matrix = np.kron(matrix, four / 2)
    return matrix
