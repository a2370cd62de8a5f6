"""Golden cases of the media layer: image resizing and colour conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ltx2rt.kernels.host import from_numbers
from ltx2rt.media.resize import resize_to_cover, resize_to_fit
from ltx2rt.media.stills import to_uint8
from ltx2rt.media.yuv import yuv420_bt709
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile

_ATOL, _RTOL = 2e-5, 1e-4
_BYTE_ATOL = 1.0
_BYTES_OFF = 0.01


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per resized image and per pixel format of ``media*`` files."""
    if not re.fullmatch(r"media.*", golden.path.stem):
        return
    resizers = {"resize_center_crop": resize_to_cover, "resize_reflect_pad": resize_to_fit}
    keys = golden.keys()
    for key in keys:
        size = re.fullmatch(r"(resize_center_crop|resize_reflect_pad)\.(\d+)x(\d+)", key)
        if size:
            run = partial(_resize, golden, key, resizers[size[1]], int(size[2]), int(size[3]))
            yield Case(f"{golden.name}/{key}", run)
        elif key == "frames.rgb24":
            yield Case(f"{golden.name}/{key}", partial(_rgb, golden, key))
        elif key == "frames.yuv420p_bt709_i420":
            yield Case(f"{golden.name}/{key}", partial(_yuv, golden, key))


def _resize(
    golden: GoldenFile, key: str, resizer: Callable[[Array, int, int], Array], height: int, width: int
) -> Iterator[Check]:
    image = resizer(golden.given("image_hwc"), height, width)
    yield golden.check(key, image.transpose(2, 0, 1)[None, :, None], _ATOL, _RTOL)


def _rgb(golden: GoldenFile, key: str) -> Iterator[Check]:
    frames = golden.given("frames_chw_0_1").transpose(0, 2, 3, 1)
    yield from _bytes(key, np.stack([to_uint8(frame) for frame in frames]), golden.expected(key))


def _yuv(golden: GoldenFile, key: str) -> Iterator[Check]:
    frames = golden.given("frames_chw_0_1").transpose(0, 2, 3, 1)
    packed = np.stack([np.concatenate([plane.ravel() for plane in yuv420_bt709(frame)]) for frame in frames])
    expected = golden.expected(key)
    yield from _bytes(key, packed.reshape(expected.shape), expected)


def _bytes(key: str, actual: Array, expected: Array) -> Iterator[Check]:
    """At most one level off, and few bytes at all."""
    yield Check(key, actual, expected, _BYTE_ATOL)
    same = from_numbers([np.mean(actual == expected)])
    yield Check(f"{key} (share of equal bytes)", same, np.ones(1), _BYTES_OFF)
