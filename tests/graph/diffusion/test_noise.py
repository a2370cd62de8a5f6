"""The PyTorch-compatible generator by its known values and against PyTorch; recorded and standardised noise."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.noise import (
    FrameNoise,
    NoiseDtype,
    NoiseSource,
    RecordedNoise,
    StandardizedNoise,
    StartingNoise,
    TorchCpuNoise,
)

SEED_10 = [-0.817334, -0.555569, -0.826690, -1.296954, -0.197379, -0.964334, -0.513299, 2.627785]


def test_float32_values_of_seed_10() -> None:
    values = TorchCpuNoise(10).normal((2, 8))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], SEED_10, rtol=0, atol=1e-6)


def test_float64_values_of_seed_10() -> None:
    values = TorchCpuNoise(10).normal((16,), "float64")
    assert values.dtype == np.float64
    np.testing.assert_allclose(values[:4], [-0.784163, 1.031542, -1.170330, -1.203523], rtol=0, atol=1e-6)


def test_a_ragged_end_is_drawn_afresh() -> None:
    whole = TorchCpuNoise(10).normal((16,))
    ragged = TorchCpuNoise(10).normal((20,))
    np.testing.assert_array_equal(ragged[:4], whole[:4])
    assert not np.isin(ragged[4:], whole).any()


def test_calls_continue_the_stream() -> None:
    source = TorchCpuNoise(3)
    joined = np.concatenate([source.normal((32,)), source.normal((48,))])
    np.testing.assert_array_equal(joined, TorchCpuNoise(3).normal((80,)))


def test_same_seed_same_bits_and_only_low_bits_count() -> None:
    np.testing.assert_array_equal(TorchCpuNoise(-1).normal((64,)), TorchCpuNoise(0xFFFFFFFF).normal((64,)))
    np.testing.assert_array_equal(TorchCpuNoise(5).normal((64,)), TorchCpuNoise(5 + 2**32).normal((64,)))
    assert (TorchCpuNoise(5).normal((64,)) != TorchCpuNoise(6).normal((64,))).all()


def test_bfloat16_values_are_rounded_float32_values() -> None:
    fine, coarse = TorchCpuNoise(10).normal((4096,)), TorchCpuNoise(10).normal((4096,), "bfloat16")
    assert (coarse.view(np.uint32) & 0xFFFF == 0).all()
    np.testing.assert_allclose(coarse, fine, rtol=2**-8)


def test_distribution() -> None:
    values = TorchCpuNoise(0).normal((200_000,), "float64")
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01


def test_recorded_noise_plays_back_in_order() -> None:
    draws = [np.full((2, 3), i, np.float32) for i in range(2)]
    source = RecordedNoise(draws)
    np.testing.assert_array_equal(source.normal((2, 3)), draws[0])
    assert source.normal((2, 3), "float64").dtype == np.float64
    with pytest.raises(ValueError, match=r"Only 2 noise draws were recorded, but another \(2, 3\)"):
        source.normal((2, 3))


def test_recorded_noise_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise 0 has shape \(2,\), but \(3,\) was asked for"):
        RecordedNoise([np.zeros(2)]).normal((3,))


def test_standardised_noise_has_mean_0_and_deviation_1_per_row() -> None:
    raw = TorchCpuNoise(9999).normal((2, 5, 8), "float64")
    noise = StandardizedNoise(TorchCpuNoise(9999)).normal((2, 5, 8), "float64")
    np.testing.assert_allclose(noise.mean(axis=(1, 2)), 0, atol=1e-15)
    np.testing.assert_allclose(noise.std(axis=(1, 2), ddof=1), 1, atol=1e-14)
    expected = (raw - raw.mean(axis=(1, 2), keepdims=True)) / raw.std(axis=(1, 2), ddof=1, keepdims=True)
    np.testing.assert_allclose(noise, expected, atol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_stream_is_that_of_torch(dtype: NoiseDtype) -> None:
    torch = pytest.importorskip("torch", reason="pip install 'ltx2rt[parity]' to compare with PyTorch")
    generator = torch.Generator().manual_seed(10)
    source = TorchCpuNoise(10)
    # Small draws keep half a pair for the next small draw; ragged ones redo their end.
    for shape in [(3,), (2,), (5, 7), (4096,), (1,), (17,), (16,), (3,), (100, 3), (1, 5, 128)]:
        expected = torch.randn(shape, generator=generator, dtype=getattr(torch, dtype)).double().numpy()
        tolerance = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 2**-7, "float16": 2**-10}[dtype]
        np.testing.assert_allclose(source.normal(shape, dtype), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "source",
    [
        TorchCpuNoise(3),
        RecordedNoise([np.full((1, 4, 3), float(index), np.float32) for index in range(4)]),
        StandardizedNoise(TorchCpuNoise(3)),
        StartingNoise(np.ones((1, 4, 3), np.float32), TorchCpuNoise(3)),
    ],
)
def test_a_fork_goes_on_by_itself(source: NoiseSource) -> None:
    early = source.fork()
    first = source.normal((1, 4, 3))
    late = source.fork()
    second = source.normal((1, 4, 3))
    assert not np.array_equal(first, second)
    assert np.array_equal(late.normal((1, 4, 3)), second)
    assert [np.array_equal(early.normal((1, 4, 3)), draw) for draw in (first, second)] == [True, True]


def test_starting_noise_stands_for_the_first_draw_only() -> None:
    source = StartingNoise(np.ones((1, 2, 3), np.float32), TorchCpuNoise(3))
    with pytest.raises(UsageError, match=r"has shape \(1, 2, 3\), but \(1, 1, 3\) was asked for"):
        source.normal((1, 1, 3))
    rest = TorchCpuNoise(3)
    drawn = source.normal((1, 4, 3))
    assert (drawn[:, :2] == 1).all()
    assert np.array_equal(drawn[:, 2:], rest.normal((1, 2, 3)))
    assert np.array_equal(source.normal((5,)), rest.normal((5,)))


def test_a_recorded_draw_can_be_passed_over() -> None:
    source = RecordedNoise([np.zeros((2,)), np.ones((3,))])
    source.skip((2,))
    assert source.left == 1
    with pytest.raises(UsageError, match=r"Recorded noise 1 has shape \(3,\), but \(2,\)"):
        source.skip((2,))
    assert [draw.shape for draw in source.draws] == [(3,)]


def test_frames_of_a_draw_are_those_of_the_whole() -> None:
    shape = (1, 3, 7, 8, 16)
    for source in (TorchCpuNoise(3), _after_first(StartingNoise(np.zeros((1, 2, 4), np.float32), TorchCpuNoise(3)))):
        whole = source.fork().normal(shape)
        frames = FrameNoise(source)
        draw = frames.frames(shape)
        assert np.array_equal(np.concatenate([draw(2), draw(4), draw(1)], axis=2), whole)
        # The source has moved on as if the whole had been drawn.
        moved = TorchCpuNoise(3)
        moved.normal(shape)
        assert np.array_equal(frames.normal((20,)), moved.normal((20,)))
    recorded = FrameNoise(RecordedNoise([whole])).frames(shape)
    assert np.array_equal(np.concatenate([recorded(3), recorded(4)], axis=2), whole)


def _after_first(source: StartingNoise) -> StartingNoise:
    source.normal((1, 2, 4))
    return source
