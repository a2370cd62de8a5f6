"""8-bit floats against their defining formula."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.weights.float8 import encode_e4m3
from ltx2rt.weights.tensor_source import widen

CODES = np.arange(256, dtype=np.uint8)


def formula(code: int, exponent_bits: int, mantissa_bits: int) -> float:
    """The value of a code by the definition of an IEEE-style format, special codes aside."""
    sign = -1.0 if code >> 7 else 1.0
    exponent = (code >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = code & (2**mantissa_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    if exponent == 0:
        return sign * 2.0 ** (1 - bias) * mantissa / 2**mantissa_bits
    return sign * 2.0 ** (exponent - bias) * (1 + mantissa / 2**mantissa_bits)


def test_every_e4m3_code() -> None:
    expected = np.array([np.nan if code & 0x7F == 0x7F else formula(code, 4, 3) for code in range(256)], np.float32)
    np.testing.assert_array_equal(widen(CODES, "F8_E4M3"), expected)
    assert widen(CODES, "F8_E4M3")[0x7E] == 448.0
    assert widen(CODES, "F8_E4M3")[1] == 2.0**-9


def test_every_e5m2_code() -> None:
    special = {0x7C: np.inf, 0xFC: -np.inf} | dict.fromkeys((0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF), np.nan)
    expected = np.array([special.get(code, formula(code, 5, 2)) for code in range(256)], np.float32)
    np.testing.assert_array_equal(widen(CODES, "F8_E5M2"), expected)


def test_encoding_undoes_decoding() -> None:
    finite = CODES[(CODES & 0x7F) != 0x7F]
    np.testing.assert_array_equal(encode_e4m3(widen(finite, "F8_E4M3")), finite)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (1.0625, 0x38),  # half way between 1 and 1.125: to the even code
        (1.1875, 0x3A),  # half way between 1.125 and 1.25: to the even code
        (1.06251, 0x39),
        (2.0**-10, 0x00),  # half of the smallest subnormal
        (1.5 * 2.0**-9, 0x02),
        (0.0155, 0x08),  # a subnormal that rounds up to the smallest normal
        (448.0, 0x7E),
        (464.0, 0x7E),
        (1e9, 0x7E),
        (-np.inf, 0xFE),
        (np.nan, 0x7F),
        (-0.0, 0x80),
    ],
)
def test_rounding_to_nearest_even_and_saturation(value: float, code: int) -> None:
    assert encode_e4m3(np.array([value], np.float32))[0] == code


def test_mlx_agrees() -> None:
    values = np.random.default_rng(0).normal(size=20000).astype(np.float32) * np.float32(20)
    values = np.clip(values, -448, 448)
    np.testing.assert_array_equal(np.array(mx.to_fp8(mx.array(values))), encode_e4m3(values))
    np.testing.assert_array_equal(np.array(mx.from_fp8(mx.array(CODES), mx.float32)), widen(CODES, "F8_E4M3"))


def test_every_bfloat16_code() -> None:
    codes = np.arange(1 << 16, dtype=np.uint16)
    expected = (codes.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widen(codes, "BF16").view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(widen(codes[::2], "BF16"), expected[::2])
