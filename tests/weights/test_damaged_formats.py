"""A damaged header or marker gives a format and a fault in words, or logical shapes: never another error."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from format_encoders import CASES, encoded

from ltx2rt.weights.formats import FORMATS, MARKERS, fault_of, format_of
from ltx2rt.weights.formats.linear_format import Encoding
from ltx2rt.weights.safetensors import RawTensor
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo, entry

SUFFIXES = sorted({suffix for known in FORMATS for suffix in (*known.companions, *known.bias_companions)})
SIZES = (0, 1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 144, 256, 320, 512)
VALUES = (0, 1, -1, 4, 12, 16, 32, 64, 100, 128, 256, 1.5, True, False, None, "16", [], {}, 2**40, float("inf"))
KEYS = ("convrot_groupsize", "group_size", "quant_group_size", "convrot")
OF_NUMPY = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8", "uint32": "U32"}


def info_of(tensor: Any) -> TensorInfo:
    items = tensor.items if isinstance(tensor, RawTensor) else tensor
    return entry(tensor.dtype if isinstance(tensor, RawTensor) else OF_NUMPY[items.dtype.name], items.shape)


@cache
def sound(case: str) -> Encoding:
    """A case as headers describe it."""
    form = encoded(case)
    companions = {f".{name}": info_of(tensor) for name, tensor in form.tensors.items() if name != "weight"}
    return Encoding(info_of(form.tensors["weight"]), companions, form.marker)


def damaged_info(info: TensorInfo, source: random.Random) -> TensorInfo:
    shape = list(info.shape)
    kind = source.randrange(4)
    if kind == 0:
        return entry(source.choice(list(DTYPES)), info.shape)
    if kind == 1 and shape:
        shape[source.randrange(len(shape))] = source.choice(SIZES)
    elif kind == 2 and shape:
        shape.pop()
    else:
        shape.append(source.choice(SIZES))
    return entry(info.dtype, tuple(shape))


def damaged(encoding: Encoding, source: random.Random) -> Encoding:
    """One thing about it is another."""
    companions, marker = dict(encoding.companions), dict(encoding.marker)
    kind, named = source.randrange(6), list(companions)
    if kind == 0:
        return replace(encoding, info=damaged_info(encoding.info, source))
    if kind == 1 and named:
        suffix = source.choice(named)
        companions[suffix] = damaged_info(companions[suffix], source)
    elif kind == 2 and named:
        del companions[source.choice(named)]
    elif kind == 3:
        companions[source.choice(SUFFIXES)] = entry(source.choice(("F32", "U8", "F8_E4M3")), (source.choice(SIZES),))
    elif kind == 4:
        marker["format"] = source.choice((*MARKERS, "strange"))
    else:
        marker[source.choice(KEYS)] = source.choice(VALUES)
    return replace(encoding, companions=companions, marker=marker)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_damaged_headers(seed: int) -> None:
    source = random.Random(seed)
    faults = 0
    for _ in range(4000):
        encoding = sound(source.choice(list(CASES)))
        for _ in range(source.randrange(4)):
            encoding = damaged(encoding, source)
        form, fault = format_of(encoding), fault_of(encoding)
        assert form.label(encoding)
        shapes = form.shapes(encoding)
        for shape in [*shapes, (8, 64), (0, 0), encoding.info.shape]:
            assert form.weight_bytes(encoding, shape) >= form.made_bytes(encoding, shape) >= 0
            assert form.array_bytes(encoding, shape) >= 0
            assert form.loading_bytes(encoding, shape) >= 0
            assert form.encoded_bytes(encoding, shape) >= 0
        if fault is None:
            assert all(form.fits(encoding, shape) for shape in shapes)
        else:
            faults += 1
            assert fault.strip()
            assert "\n" not in fault
    assert 1000 < faults < 3000


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_wrong_with_the_cases(case: str) -> None:
    assert fault_of(sound(case)) is None
    assert format_of(sound(case)).fits(sound(case), encoded(case).values.shape)
