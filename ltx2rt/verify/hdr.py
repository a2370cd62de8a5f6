"""Golden cases of high dynamic range: the curves of ``seams_1_4``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from ltx2rt.media.hdr import hlg_of_light
from ltx2rt.media.transfer import acescct_code, acescct_light, srgb_light
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile

_ATOL, _RTOL = 1e-6, 1e-5

# Result -> what it is computed from, and how.
_CURVES: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "acescct.code": ("acescct.linear", acescct_code),
    "acescct.linear_out": ("acescct.code_in", acescct_light),
    "srgb.linear": ("srgb.code", srgb_light),
    "hlg.signal": ("hlg.rec2020_linear", hlg_of_light),
}


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per curve."""
    if not golden.path.stem.startswith("seams_"):
        return
    for key in _CURVES:
        if key in golden:
            yield Case(f"{golden.name}/{key}", partial(_curve, golden, key))


def _curve(golden: GoldenFile, key: str) -> Iterator[Check]:
    given, curve = _CURVES[key]
    yield golden.check(key, curve(golden.given(given)), _ATOL, _RTOL)
