"""Transfer curves: between light and the signal or code that stands for it."""

from __future__ import annotations

import math

import numpy as np

from ltx2rt.types import Array

# ITU-R BT.2100. PQ's signal 1 is so many nits.
PQ_PEAK_NITS = 10000.0
_HLG_A = 0.17883277
_HLG_B = 1.0 - 4.0 * _HLG_A
_HLG_C = 0.5 - _HLG_A * math.log(4.0 * _HLG_A)

# S-2016-001, ACEScct: below a code, and the light that it stands for, the curve is a line.
_CCT_BREAK_CODE, _CCT_BREAK_LIGHT = 0.155251141552511, 0.0078125
_CCT_SLOPE, _CCT_OFFSET = 10.5402377416545, 0.0729055341958355
_CCT_STOPS, _CCT_MIDDLE = 17.52, 9.72

_TINY = 1e-12  # keeps logarithms finite where another branch is taken


def srgb_light(signal: Array) -> Array:
    """IEC 61966-2-1: the light of a signal; both are 1 for white."""
    result: Array = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return result


def srgb_signal(light: Array) -> Array:
    """The inverse of `srgb_light`."""
    result: Array = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, _TINY) ** (1 / 2.4) - 0.055)
    return result


def hlg_light(signal: Array) -> Array:
    """ITU-R BT.2100, inverse OETF of HLG: the light of the scene, 1 for the signal 1."""
    above = (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12.0
    result: Array = np.where(signal <= 0.5, signal**2 / 3.0, above)
    return result


def hlg_signal(light: Array) -> Array:
    """ITU-R BT.2100, OETF of HLG: the inverse of `hlg_light`, from 0 to 1."""
    above = _HLG_A * np.log(np.maximum(12.0 * light - _HLG_B, _TINY)) + _HLG_C
    result: Array = np.clip(np.where(light <= 1.0 / 12.0, np.sqrt(3.0 * np.maximum(light, 0.0)), above), 0.0, 1.0)
    return result


def pq_light(signal: Array) -> Array:
    """ITU-R BT.2100, EOTF of PQ: 1 is `PQ_PEAK_NITS`."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    result: Array = (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1 / m1)
    return result


def acescct_code(light: Array) -> Array:
    """ACEScct of light of AP1, clamped to [0, 1]: 0 and less are 0.0729, 222.9 and more are 1."""
    positive = np.maximum(light, 0.0)
    above = (np.log2(np.maximum(positive, _CCT_BREAK_LIGHT)) + _CCT_MIDDLE) / _CCT_STOPS
    below = _CCT_SLOPE * np.minimum(positive, _CCT_BREAK_LIGHT) + _CCT_OFFSET
    code = np.where(positive > _CCT_BREAK_LIGHT, above, below)
    result: Array = np.clip(code, 0.0, 1.0)
    return result


def acescct_light(code: Array) -> Array:
    """The inverse of `acescct_code`; codes below 0.0729 are light below 0."""
    above = np.exp2(_CCT_STOPS * code - _CCT_MIDDLE)
    result: Array = np.where(code > _CCT_BREAK_CODE, above, (code - _CCT_OFFSET) / _CCT_SLOPE)
    return result
