"""High dynamic range: between the ACEScct that models work in, linear light, the HLG master and usual screens.

Everything here takes and gives float32 (..., 3) R, G, B. Light 1 is diffuse white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltx2rt.media.colour import shown_on_screen
from ltx2rt.media.primaries import AP1, REC709, REC2020, Primaries, matrix
from ltx2rt.media.transfer import acescct_code, acescct_light, hlg_light, hlg_signal, srgb_light
from ltx2rt.types import Array

# The signal of HLG that shows diffuse white (ITU-R BT.2408), and the light that it stands for.
WHITE_SIGNAL = 0.75
WHITE_LIGHT = float(hlg_light(np.float64(WHITE_SIGNAL)))
_ROLL_OFF = WHITE_LIGHT / (1.0 - WHITE_LIGHT)  # with which the slope does not change at white
_BRIGHTEST = 65504.0  # of half floats, far above what ACEScct tells apart


@dataclass(frozen=True)
class HdrSpace:
    """What the numbers of EXR frames are.

    Attributes:
        name: as users give it.
        tag: as the header of a file has it.
        primaries: of the light.
        is_log: they are ACEScct codes; else linear light.
    """

    name: str
    tag: str
    primaries: Primaries
    is_log: bool = False

    def to_acescct(self, values: Array) -> Array:
        """ACEScct codes in [0, 1]; light below 0 and what is no number becomes 0."""
        values = np.nan_to_num(values, nan=0.0, posinf=_BRIGHTEST, neginf=0.0)
        return np.clip(values, 0.0, 1.0) if self.is_log else acescct_of_light(values, self.primaries)

    def of_acescct(self, codes: Array) -> Array:
        """What the frames of this space hold for ACEScct codes; other primaries than AP1's give values below 0."""
        return codes if self.is_log else light_of_acescct(codes, self.primaries)


SRGB_LINEAR = HdrSpace("srgb_linear", "sRGB", REC709)
ACESCG = HdrSpace("acescg", "ACEScg", AP1)
ACESCCT = HdrSpace("acescct", "ACEScct", AP1, is_log=True)
HDR_SPACES = {space.name: space for space in (ACESCG, ACESCCT, SRGB_LINEAR)}


def acescct_of_light(light: Array, primaries: Primaries) -> Array:
    """ACEScct codes in [0, 1] of linear light."""
    return acescct_code(_converted(light, primaries, AP1))


def acescct_of_srgb(signal: Array) -> Array:
    """ACEScct codes of R'G'B' in [0, 1] as clips and pictures have it."""
    return acescct_of_light(srgb_light(signal), REC709)


def light_of_acescct(codes: Array, primaries: Primaries) -> Array:
    """Linear light of ACEScct codes."""
    return _converted(acescct_light(codes), AP1, primaries)


def hlg_of_acescct(codes: Array) -> Array:
    """The R'G'B' of BT.2020 in [0, 1] of the HLG master."""
    return hlg_of_light(_converted(light_of_acescct(codes, REC709), REC709, REC2020))


def hlg_of_light(light: Array) -> Array:
    """The HLG signal of linear light of BT.2020: white becomes `WHITE_SIGNAL`, what is brighter is rolled off."""
    light = np.maximum(light, 0.0)
    above = 1.0 - (1.0 - WHITE_LIGHT) * np.exp(-_ROLL_OFF * np.maximum(light - 1.0, 0.0))
    return hlg_signal(np.where(light <= 1.0, WHITE_LIGHT * light, above))


def srgb_of_acescct(codes: Array) -> Array:
    """R'G'B' of BT.709 in [0, 1] for pictures on a usual screen, as a reader would show the HLG master."""
    return shown_on_screen(light_of_acescct(codes, REC709), 1.0 / WHITE_LIGHT)


def _converted(light: Array, source: Primaries, target: Primaries) -> Array:
    result: Array = light if source == target else light @ matrix(source, target).T.astype(light.dtype)
    return result
