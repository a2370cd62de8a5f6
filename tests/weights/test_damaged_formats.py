"""Any header and any marker gives a format and either a fault in words or logical shapes: never another error."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ltx2rt.weights.formats import FORMATS, MARKERS, fault_of, format_of
from ltx2rt.weights.formats.linear_format import Encoding
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, entry

SUFFIXES = sorted({suffix for known in FORMATS for suffix in (*known.companions, *known.bias_companions)})
SIZES = (0, 1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 144, 256, 320, 512)
NUMBERS = (0, 1, -1, 4, 12, 16, 32, 64, 100, 128, 256, 1.5, True, None, "16", [], 2**40, float("inf"))


def tensor(random: random.Random, usual: tuple[str, ...], rank: int) -> TensorInfo:
    dtype = random.choice(usual) if random.random() < 0.8 else random.choice(list(DTYPES))
    ranks = [rank] if random.random() < 0.8 else range(5)
    return entry(dtype, tuple(random.choice(SIZES) for _ in range(random.choice(list(ranks)))))


def stored(random: random.Random) -> Encoding:
    known = random.choice(FORMATS)
    info = tensor(random, known.marked_dtypes or ("I8", "U8", "U32", "F8_E4M3", "F8_E5M2", "BF16"), 2)
    scales = ("F32", "F16", "F8_E4M3", "F8_E8M0", "U8")
    suffixes = known.companions if random.random() < 0.5 else random.sample(SUFFIXES, random.randrange(4))
    found = {suffix: tensor(random, scales, 2) for suffix in suffixes}
    if len(info.shape) == 2 and random.random() < 0.5:  # shapes that go with each other
        rows, columns = info.shape
        fitting = [(rows,), (rows, 1), (), (1,), (rows, columns // 16), (128, columns // 32), (columns // 32, rows)]
        found = {suffix: entry(part.dtype, random.choice(fitting)) for suffix, part in found.items()}
    marker: dict[str, Any] = {}
    if random.random() < 0.7:
        marker["format"] = random.choice(known.markers or MARKERS) if random.random() < 0.95 else "strange"
    for key in ("convrot_groupsize", "group_size", "quant_group_size", "convrot"):
        if random.random() < 0.4:
            marker[key] = random.choice((*NUMBERS, True, False)) if key == "convrot" else random.choice(NUMBERS)
    return Encoding(info, found, marker)


@pytest.mark.parametrize("seed", range(8))
def test_any_header(seed: int) -> None:
    source = random.Random(seed)
    sound: set[str] = set()
    for _ in range(4000):
        encoding = stored(source)
        form, fault = format_of(encoding), fault_of(encoding)
        assert form.label(encoding)
        shapes = form.shapes(encoding)
        for shape in [*shapes, (8, 64), (0, 0), encoding.info.shape]:
            assert form.weight_bytes(encoding, shape) >= form.made_bytes(encoding, shape) >= 0
            assert form.array_bytes(encoding, shape) >= 0
            assert form.loading_bytes(encoding, shape) >= 0
            assert form.encoded_bytes(encoding, shape) >= 0
        if fault is None:
            sound.add(form.name)
            assert all(form.fits(encoding, shape) for shape in shapes)
        else:
            assert fault.strip(), encoding
            assert "\n" not in fault
    assert {"int8", "fp8", "dense"} <= sound
    assert len(sound) > 5
