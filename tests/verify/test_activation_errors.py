"""What 8-bit weights and 8-bit activations lose is measured, and told where it is too much."""

from __future__ import annotations

from typing import get_args

import mlx.core as mx
import pytest

from ltx2rt.cli.main import run
from ltx2rt.kernels import quantized_linear
from ltx2rt.types import Activations, LinearWeight
from ltx2rt.verify import activation_errors
from ltx2rt.verify.activation_errors import ROTATIONS


@pytest.mark.parametrize("form", ROTATIONS)
def test_codes_add_an_error_like_that_of_the_weights(form: str) -> None:
    (_, floats), (_, codes) = activation_errors.activation_errors(form)
    assert floats.fault == codes.fault == ""
    # A step is the largest value / 127, an error its share of 12 ** -0.5; the errors of both sides add up as squares.
    assert 0.006 < floats.error < 0.009
    assert 1.3 < codes.error / floats.error < 1.6


@pytest.mark.parametrize("faulty", get_args(Activations))
def test_a_product_that_loses_more_is_a_fault(monkeypatch: pytest.MonkeyPatch, faulty: Activations) -> None:
    def lossy(x: mx.array, weight: LinearWeight) -> mx.array:
        return quantized_linear(x, weight) * (1.02 if weight.activations == faulty else 1.0)

    monkeypatch.setattr(activation_errors, "quantized_linear", lossy)
    faults = {activations: outcome.fault for activations, outcome in activation_errors.activation_errors("int8")}
    assert faults[faulty].startswith("error ")


def test_verify_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "--only", "activations"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [f"--activations {activations}: {form}" for form in ROTATIONS for activations in get_args(Activations)]
    assert [line.split("  ")[-1].strip() for line in lines[:-1]] == names
    assert lines[-1] == "4 passed, 0 failed, 0 not covered"
