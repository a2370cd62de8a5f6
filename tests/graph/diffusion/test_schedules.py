"""Schedules against the values of the reference, and the arguments they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.graph.diffusion.schedules import (
    distilled_sigmas,
    distilled_stage_2_sigmas,
    ltx2_sigmas,
)

STEPS_8 = [0.9999999, 0.9657117, 0.9218748, 0.8638561, 0.7834455, 0.6645793, 0.4710027, 0.1, 0]
STEPS_8_PLAIN = [0.9999999, 0.9819415, 0.9588540, 0.9282974, 0.8859477, 0.8233447, 0.7213942, 0.5259990, 0]
STEPS_30 = [
    0.9999999, 0.9949570, 0.9896030, 0.9839084, 0.9778396, 0.9713582, 0.9644212, 0.9569781, 0.9489720, 0.9403364,
    0.9309938, 0.9208538, 0.9098098, 0.8977352, 0.8844787, 0.8698580, 0.8536507, 0.8355841, 0.8153186, 0.7924267,
    0.7663628, 0.7364180, 0.7016562, 0.6608133, 0.6121407, 0.5531479, 0.4801637, 0.3875408, 0.2661204, 0.1, 0,
]  # fmt: skip
STEPS_15_HQ = [
    1.0, 0.9934907, 0.9860149, 0.9773396, 0.9671507, 0.9550146, 0.9403136, 0.9221396, 0.8990960, 0.8689231, 0.8277072,
    0.7680275, 0.6738966, 0.5033779, 0.1, 0,
]  # fmt: skip


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (ltx2_sigmas(8), STEPS_8),
        (ltx2_sigmas(8, stretch=False), STEPS_8_PLAIN),
        (ltx2_sigmas(30), STEPS_30),
        (ltx2_sigmas(15, tokens=16 * 17 * 30), STEPS_15_HQ),
    ],
    ids=["8", "8-unstretched", "30", "15-high-quality"],
)
def test_values_of_the_reference(actual: np.ndarray, expected: list[float]) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=6e-8)


def test_ltx2_ends_in_the_terminal_value_and_zero() -> None:
    sigmas = ltx2_sigmas(40)
    assert sigmas.shape == (41,)
    np.testing.assert_allclose(sigmas[:5], [0.9999999, 0.9964492, 0.9927367, 0.9888512, 0.9847801], rtol=0, atol=6e-8)
    np.testing.assert_allclose(
        sigmas[-7:-2], [0.5447712, 0.4884301, 0.4207186, 0.3378086, 0.2339360], rtol=0, atol=6e-8
    )
    assert sigmas[-2] == pytest.approx(0.1, abs=6e-8)
    assert sigmas[-1] == 0
    assert ltx2_sigmas(5, terminal=0.2)[-2] == pytest.approx(0.2, abs=6e-8)


def test_distilled_tables() -> None:
    assert distilled_sigmas().tolist() == [
        np.float32(s) for s in (1, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0)
    ]
    assert distilled_stage_2_sigmas().tolist() == [np.float32(s) for s in (0.909375, 0.725, 0.421875, 0)]


def test_callers_cannot_change_the_tables() -> None:
    distilled_sigmas()[0] = 0
    assert distilled_sigmas()[0] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ltx2_sigmas(0), "at least 1, got 0"),
        (lambda: ltx2_sigmas(8, tokens=0), "at least 1 token, got 0"),
    ],
)
def test_refused_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parity
@pytest.mark.parametrize("steps", [2, 3, 7, 20, 31, 50, 64])
def test_ltx2_has_the_bits_of_torch_arithmetic(steps: int) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'ltx2rt[parity]' to compare with PyTorch")
    factor = float(np.exp(2.05))
    time = torch.linspace(1, 0, steps + 1)[:-1]
    clean = 1 - factor / (factor + (1 / time - 1))
    expected = 1 - clean / (clean[-1] / (1 - 0.1))
    np.testing.assert_array_equal(ltx2_sigmas(steps)[:-1], expected.numpy())
