"""Loaders look at weights where float16 operands may be used, and remember what they saw."""

from __future__ import annotations

import logging
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.kernels import half_operands
from ltx2rt.types import LinearWeight, ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import write_safetensors

NAME = "transformer_blocks.0.attn1.to_q.weight"
LINEAR = ParamSpec(NAME, (8, 64), layout="linear")


def checkpoint(folder: Path, largest: float) -> Checkpoint:
    values = np.random.default_rng(1).normal(size=(8, 64)).astype(np.float32)
    values[3, 7] = largest
    path = folder / "model.safetensors"
    write_safetensors(path, {"model.diffusion_model." + NAME: values}, {})
    return Checkpoint.open(path)


def weight(arrays: dict[str, mx.array | LinearWeight]) -> LinearWeight:
    found = arrays[NAME]
    assert isinstance(found, LinearWeight)
    return found


@pytest.mark.parametrize(("largest", "fits"), [(60000.0, True), (-70000.0, False)])
def test_weights_are_looked_at_once(
    largest: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked_at = []

    def look(weight: LinearWeight) -> bool:
        looked_at.append(weight)
        return real(weight)

    real = half_operands.fits
    monkeypatch.setattr(half_operands, "are_tried", lambda: True)
    monkeypatch.setattr(half_operands, "fits", look)
    source = checkpoint(tmp_path, largest)
    with caplog.at_level(logging.INFO):
        assert weight(source.load("transformer", [LINEAR])).fits_half == fits
        stream = source.stream("transformer", [[LINEAR]])
        assert weight(stream(0)).fits_half == fits
        stream.release()
    assert len(looked_at) == 1
    named = [record.message for record in caplog.records if NAME in record.message]
    assert len(named) == (0 if fits else 1)
    assert all("its products stay in bfloat16" in message for message in named)


def test_elsewhere_nothing_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_operands, "fits", lambda weight: pytest.fail("looked at a weight"))
    assert not weight(checkpoint(tmp_path, 1.0).load("transformer", [LINEAR])).fits_half
