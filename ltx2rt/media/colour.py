"""What the colour tags of a clip mean, and the table that takes other colours than BT.709's to BT.709.

Clips are read as R'G'B' of BT.709 for a usual (SDR) screen, because that is what models were trained on and what is
written. Most clips need nothing but the right matrix and range. HDR (HLG and PQ) and wide gamuts go through a table of
`TABLE_SIZE` cubed colours, which FFmpeg's ``lut3d`` interpolates, made in four steps:

1. The signal becomes light, 1 is reference white at 203 nits (ITU-R BT.2408): PQ by its EOTF; HLG by its inverse OETF,
   where reference white is the signal 0.75. HLG's light is that of the scene: its system gamma is 1 on a screen of
   334 nits, as usual screens are, and HLG masters of scene light come back as they were.
2. A matrix takes it to the primaries of BT.709. Colours outside are mixed with the grey of their luminance until they
   lie inside.
3. Light above `KNEE` is rolled off towards 1 by the largest of the three components, so that hues stay.
4. The light is encoded with the curve of sRGB.

SDR transfers keep their values: what a screen makes of them is what it makes of BT.709.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ltx2rt.errors import UsageError
from ltx2rt.media.primaries import D65, REC709, REC2020, Primaries, to_xyz
from ltx2rt.media.transfer import PQ_PEAK_NITS, hlg_light, pq_light, srgb_light, srgb_signal
from ltx2rt.types import Array

# Codes of ISO/IEC 23091-2 (H.273), as FFmpeg has them.
UNSPECIFIED = 2
RGB_MATRIX, BT709, BT470BG, BT601, BT2020, IPT_C2 = 0, 1, 5, 6, 9, 15
LINEAR, PQ, SMPTE428, HLG = 8, 16, 17, 18
DCI_P3, DISPLAY_P3 = 11, 12
GAMMA28 = 5
LIMITED, FULL = 1, 2

TABLE_SIZE = 49
KNEE = 0.92  # reference white comes out at 248 of 255, highlights share the rest
_REFERENCE_NITS = 203.0
_HLG_REFERENCE = 0.265  # scene light of the signal 0.75, which is 203 nits of 1000

HD_LINES, HD_COLUMNS = 720, 1280

# Matrices that FFmpeg's scaler knows, by its names.
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
_SCALER_CODES = {"bt709": 1, "fcc": 4, "bt601": 5, "smpte240m": 7, "bt2020": 9}
_BT2020_CONSTANT_LUMINANCE = 10

# x, y of red, green, blue, white. SD's primaries are not among them: encoders write the tags of SD by habit, and
# players change nothing.
_CHROMATICITIES = {
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), (0.310, 0.316)),
    BT2020: REC2020,
    DCI_P3: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    DISPLAY_P3: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
_PRIMARIES_NAMES = {4: "NTSC 1953", 8: "film", BT2020: "BT.2020", DCI_P3: "DCI-P3", DISPLAY_P3: "Display P3"}
_TRANSFER_NAMES = {GAMMA28: "gamma 2.8", LINEAR: "linear light", PQ: "HDR (PQ)", SMPTE428: "DCI", HLG: "HDR (HLG)"}

SOURCE_COLORS = ("bt601", "bt709", "bt2020", "display-p3", "hlg", "pq")
RANGES = ("limited", "full")
SOURCE_COLOR_CHOICES = (*SOURCE_COLORS, *(f"{name}-{suffix}" for name in SOURCE_COLORS for suffix in RANGES))


@dataclass(frozen=True)
class ClipColour:
    """The colours of a clip's pictures.

    Attributes:
        matrix: name of the matrix between R'G'B' and Y'CbCr, for FFmpeg's ``scale``; None: pictures are stored as RGB
            or grey.
        full_range: luma is 0 to 255, not 16 to 235.
        primaries, transfer: codes.
        remark: what could not be honoured; empty: everything was.
    """

    matrix: str | None
    full_range: bool
    primaries: int = BT709
    transfer: int = BT709
    remark: str = ""

    @property
    def scaler_code(self) -> int:
        """The matrix as the scaler's number."""
        return _SCALER_CODES[self.matrix or "bt709"]

    @property
    def needs_table(self) -> bool:
        return self.primaries in _CHROMATICITIES or self.transfer in _TRANSFER_NAMES

    @property
    def words(self) -> str:
        """What a table converts, for messages: "HDR (HLG)"; empty: nothing."""
        names = (_TRANSFER_NAMES.get(self.transfer), _PRIMARIES_NAMES.get(self.primaries))
        return ", ".join(name for name in names if name)

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    def cube(self) -> str:
        """The table as a .cube file: R'G'B' of BT.709 for signals of 0 to 1 in equal steps, red changing fastest."""
        return _cube(self.primaries, self.transfer)


_OVERRIDES = {
    "bt601": ClipColour("bt601", False, BT601, BT601),
    "bt709": ClipColour("bt709", False),
    "bt2020": ClipColour("bt2020", False, BT2020, 14),
    "display-p3": ClipColour("bt709", False, DISPLAY_P3, 13),
    "hlg": ClipColour("bt2020", False, BT2020, HLG),
    "pq": ClipColour("bt2020", False, BT2020, PQ),
}


def colour_of(context: VideoCodecContext, frame: VideoFrame, override: str | None = None) -> ClipColour:
    """The colours of a decoded picture by its tags; where there are none, by its size as players do.

    Untagged pictures are BT.709 from 720 lines or 1280 columns on, BT.601 below.

    Args:
        context: of the stream; it has decoded ``frame``.
        frame: a picture as stored, not turned.
        override: one of `SOURCE_COLOR_CHOICES` in place of the tags; without a suffix the range stays the tagged one.

    Raises:
        UsageError: an override that does not exist.
    """
    tagged_full = context.color_range == FULL or frame.format.name.startswith("yuvj")
    stored_as_rgb = frame.format.is_rgb or frame.format.has_palette or len(frame.format.components) < 3
    if override is not None:
        if override not in SOURCE_COLOR_CHOICES:
            raise UsageError(
                f"unknown source colour {override!r}; use one of {', '.join(SOURCE_COLORS)}, "
                "with -full or -limited behind it to say the range too."
            )
        name, _, suffix = override.rpartition("-")
        chosen = _OVERRIDES[name if suffix in RANGES else override]
        full = tagged_full if suffix not in RANGES else suffix == "full"
        return replace(chosen, matrix=None if stored_as_rgb else chosen.matrix, full_range=full)
    primaries, transfer = int(context.color_primaries), int(context.color_trc)
    if stored_as_rgb:
        # Grey and RGB fill their range unless they say otherwise.
        return ClipColour(None, frame.format.is_rgb or context.color_range != LIMITED, primaries, transfer)
    code = int(frame.colorspace)
    likely = _likely_matrix(primaries, transfer, frame.width, frame.height)
    return stated_colour(
        likely if code in (RGB_MATRIX, UNSPECIFIED) else code, tagged_full, primaries, transfer, likely
    )


def stated_colour(matrix: int, full_range: bool, primaries: int, transfer: int, likely: int = BT709) -> ClipColour:
    """The colours that codes stand for; a matrix that the scaler does not know is replaced by the likely one."""
    remark = ""
    if matrix == _BT2020_CONSTANT_LUMINANCE:
        matrix, remark = BT2020, "constant luminance is read as non-constant"
    elif matrix not in _MATRICES:
        matrix, remark = likely, f"the colour matrix {matrix} is not known"
    if remark:
        remark += f"; colours are read as {_MATRICES[matrix]} and may be wrong"
    return ClipColour(_MATRICES[matrix], full_range, primaries, transfer, remark)


def _likely_matrix(primaries: int, transfer: int, width: int, height: int) -> int:
    if primaries == BT2020 or transfer in (PQ, HLG):
        return BT2020
    if primaries in (BT709, DCI_P3, DISPLAY_P3):
        return BT709
    if primaries in (BT470BG, BT601):
        return BT601
    return BT709 if height >= HD_LINES or width >= HD_COLUMNS else BT601


@functools.lru_cache(maxsize=2)
def _cube(primaries: int, transfer: int) -> str:
    values = _table(primaries, transfer).transpose(2, 1, 0, 3).ravel().tolist()
    return f"LUT_3D_SIZE {TABLE_SIZE}\n" + "%.5f %.5f %.5f\n" * (TABLE_SIZE**3) % tuple(values)


def _table(primaries: int, transfer: int) -> Array:
    """(n, n, n, 3) float32 for signals red, green, blue."""
    to_light, peak = _LIGHT.get(transfer, (srgb_light, 1.0))
    steps = to_light(np.linspace(0.0, 1.0, TABLE_SIZE))
    light = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    if primaries in _CHROMATICITIES:
        # Without adaptation: DCI's white stays as greenish as it is.
        light = light @ np.linalg.solve(to_xyz(REC709), to_xyz(_CHROMATICITIES[primaries])).T
    return shown_on_screen(light, peak).astype(np.float32)


def shown_on_screen(light: Array, peak: float) -> Array:
    """The R'G'B' of BT.709 in [0, 1] that shows light on a usual screen: steps 2 to 4 of the table.

    Args:
        light: (..., 3) linear, of the primaries of BT.709; 1 is reference white, values below 0 lie outside of them.
        peak: the largest light that is told from less.
    """
    luminance = (light @ to_xyz(REC709)[1].astype(light.dtype))[..., None]
    lowest = light.min(axis=-1, keepdims=True)
    share = np.where(lowest < 0, luminance / np.maximum(luminance - lowest, 1e-12), 1.0)
    light = luminance + (light - luminance) * share
    largest = light.max(axis=-1, keepdims=True)
    if peak > 1.0:
        light = light * (_rolled_off(largest, peak) / np.maximum(largest, 1e-12))
    return srgb_signal(np.clip(light, 0.0, 1.0))


def _rolled_off(light: Array, peak: float) -> Array:
    """Identity up to the knee, then a logarithm, which begins with slope 1 and reaches 1 at ``peak``."""
    steepness = 1.0
    for _ in range(100):  # the fixed point of: slope at the knee = 1
        steepness = float(np.log1p(steepness * (peak - KNEE))) / (1.0 - KNEE)
    above = np.maximum(np.minimum(light, peak) - KNEE, 0.0)
    result: Array = np.where(light <= KNEE, light, KNEE + np.log1p(steepness * above) / steepness)
    return result


# Transfer -> (signal to light, largest light). SDR transfers that are not here take sRGB's curve both ways.
_LIGHT: dict[int, tuple[Callable[[Array], Array], float]] = {
    GAMMA28: (lambda signal: signal**2.8, 1.0),
    LINEAR: (lambda signal: signal, 1.0),
    PQ: (lambda signal: pq_light(signal) * (PQ_PEAK_NITS / _REFERENCE_NITS), PQ_PEAK_NITS / _REFERENCE_NITS),
    SMPTE428: (lambda signal: signal**2.6 * (52.37 / 48.0), 1.0),
    HLG: (lambda signal: hlg_light(signal) / _HLG_REFERENCE, 1.0 / _HLG_REFERENCE),
}
