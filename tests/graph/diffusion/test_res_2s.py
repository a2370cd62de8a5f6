"""res_2s: coefficients and noise step by their known values, the loop against its formulas repeated literally."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import RecordedNoise, TorchCpuNoise
from ltx2rt.graph.diffusion.res_2s import (
    SMALLEST_SIGMA,
    SUBSTEP_NOISE_SEED,
    Res2sOptions,
    phi_1,
    phi_2,
    res_2s_coefficients,
    res_2s_evaluations,
    res_2s_loop,
    sde_coefficients,
    sde_step,
)

SIGMAS = np.array([1.0, 0.8, 0.5, 0.0], np.float32)


@pytest.mark.parametrize(
    ("step", "a21", "b1", "b2"),
    [
        (0.00626961, 0.499217117025, -0.001041665489, 0.997913401568),
        (0.1, 0.487705754993, -0.015857787551, 0.967483607192),
        (0.3, 0.464306745250, -0.043132306311, 0.907071570705),
        (0.5, 0.442398433857, -0.065306597126, 0.852245277701),
        (1.0, 0.393469340287, -0.103638323514, 0.735758882343),
        (3.0, 0.258956613284, -0.138770593538, 0.455508237415),
    ],
)
def test_coefficients(step: float, a21: float, b1: float, b2: float) -> None:
    assert res_2s_coefficients(step) == pytest.approx((a21, b1, b2), abs=1e-11)


def test_functions_at_0() -> None:
    assert (phi_1(0.0), phi_2(1e-12)) == (1.0, 0.5)
    assert res_2s_coefficients(0.0) == (0.5, 0.0, 1.0)


def test_noise_step_value() -> None:
    alpha, sigma_down, sigma_up = sde_coefficients(0.7, 0.5)
    assert (alpha, sigma_down, sigma_up) == pytest.approx((0.9062178, 0.6689538, 0.35), abs=1e-7)
    moved = sde_step(np.array([1, -0.5]), np.array([0.4, 0.2]), 0.9, 0.7, np.array([0.3, -1.2]))
    np.testing.assert_allclose(moved, [0.3830831174, -0.1402851153], atol=1e-9)


def test_fresh_noise_is_limited_and_absent_at_sigma_0() -> None:
    assert sde_coefficients(0.5, 1.0)[2] == pytest.approx(0.49995)
    moved = np.array([0.4, 0.2])
    assert sde_step(np.ones(2), moved, 0.1, 0.0, np.ones(2)) is moved


def test_variance_is_preserved() -> None:
    alpha, sigma_down, sigma_up = sde_coefficients(0.6, 0.5)
    assert math.hypot(alpha * sigma_down, sigma_up) == pytest.approx(0.6)
    assert alpha * (1 - sigma_down) == pytest.approx(0.4)


def make_state(tokens: int, seed: int) -> LatentState:
    values = np.random.default_rng(seed).standard_normal((2, 1, tokens, 4)).astype(np.float32)
    mask = np.ones((1, tokens), np.float32)
    mask[0, :2] = 0, 0.4
    return LatentState(values[0], mask, np.zeros((1, 1, tokens, 2), np.float32), values[1])


def smooth(video: LatentState | None, audio: LatentState | None, sigma: float, step: int) -> tuple:
    return tuple(None if s is None else np.tanh(s.latent) + np.float32(0.1 * sigma) for s in (video, audio))


def expected_run(state: LatentState, substep: list, step: list, refine: bool) -> np.ndarray:
    """The sampler as the specification tells it, one stream, the anchor refined a hundred times in a loop."""
    mask = state.denoise_mask[..., None].astype(np.float64)

    def keep(x: np.ndarray) -> np.ndarray:
        return x * mask + state.clean_latent * (1 - mask)

    def model(x: np.ndarray, sigma: float) -> np.ndarray:
        return keep(np.tanh(x.astype(np.float32)) + 0.1 * sigma)

    levels = [float(s) for s in [*SIGMAS[:-1], np.float32(SMALLEST_SIGMA)]]
    latent = state.latent.astype(np.float64)
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        h = -math.log(sigma_next / sigma)
        a21, b1, b2 = res_2s_coefficients(h)
        anchor, first = latent, model(latent, sigma)
        slope = first - anchor
        middle_sigma = math.sqrt(sigma * sigma_next)
        middle = keep(sde_step(anchor, anchor + h * a21 * slope, sigma, middle_sigma, substep[i]))
        if refine and h < 0.5 and sigma > 0.03:
            for _ in range(100):
                anchor = middle - h * a21 * slope
                slope = first - anchor
        second = model(middle, middle_sigma)
        moved = anchor + h * (b1 * slope + b2 * (second - anchor))
        latent = keep(sde_step(anchor, moved, sigma, sigma_next, step[i]))
    return model(latent, levels[-1])


@pytest.mark.parametrize("refine", [True, False])
def test_loop_follows_the_formulas(refine: bool) -> None:
    video, audio = make_state(5, 0), make_state(3, 1)
    source = TorchCpuNoise(SUBSTEP_NOISE_SEED)
    draws = {(kind, i, t): source.normal((1, t, 4), "float64") for kind in "ab" for i in range(3) for t in (5, 3)}
    recorded = {kind: RecordedNoise([draws[kind, i, t] for i in range(3) for t in (5, 3)]) for kind in "ab"}
    steps = list(
        res_2s_loop(
            smooth,
            SIGMAS,
            video,
            audio,
            step_noise=recorded["b"],
            substep_noise=recorded["a"],
            options=Res2sOptions(refine_anchor=refine),
        )
    )
    assert [(s.index, s.steps) for s in steps] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert (steps[-1].sigma, steps[-1].sigma_next) == (np.float32(SMALLEST_SIGMA), 0.0)
    for state, last in ((video, steps[-1].video), (audio, steps[-1].audio)):
        substep, step = ([draws[kind, i, state.tokens] for i in range(3)] for kind in "ab")
        assert last is not None
        np.testing.assert_allclose(last.latent, expected_run(state, substep, step, refine), atol=2e-6)


def test_evaluations_and_step_indices() -> None:
    seen: list[tuple[float, int]] = []

    def recording(video: LatentState | None, audio: LatentState | None, sigma: float, step: int) -> tuple:
        seen.append((round(sigma, 4), step))
        return smooth(video, audio, sigma, step)

    noise = TorchCpuNoise(0)
    list(res_2s_loop(recording, SIGMAS, None, make_state(4, 1), step_noise=noise, substep_noise=TorchCpuNoise(1)))
    assert seen == [(1.0, 0), (0.8944, 0), (0.8, 1), (0.6325, 0), (0.5, 2), (0.0235, 0), (0.0011, 3)]
    assert len(seen) == res_2s_evaluations(SIGMAS)


def test_masked_timesteps_noise_nothing_while_a_token_is_kept() -> None:
    """A token of sigma 0 takes no noise, and the noise step then leaves all tokens alone."""
    state = make_state(4, 1)
    loud, quiet = (
        list(
            res_2s_loop(
                smooth,
                SIGMAS,
                state,
                None,
                step_noise=TorchCpuNoise(seed),
                substep_noise=TorchCpuNoise(seed),
                options=Res2sOptions(masked_timesteps=True),
            )
        )[-1].video
        for seed in (1, 2)
    )
    assert loud is not None
    assert quiet is not None
    np.testing.assert_array_equal(loud.latent, quiet.latent)


def test_schedule_that_does_not_end_at_0_has_no_last_evaluation() -> None:
    noise = TorchCpuNoise(0)
    steps = list(res_2s_loop(smooth, [0.9, 0.5], make_state(4, 1), None, step_noise=noise, substep_noise=noise))
    assert [(s.index, s.steps, s.sigma_next) for s in steps] == [(0, 1, 0.5)]


def test_no_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="got neither"):
        next(res_2s_loop(smooth, SIGMAS, None, None, step_noise=TorchCpuNoise(0), substep_noise=TorchCpuNoise(1)))


def test_a_sigma_below_the_smallest_one_is_refused() -> None:
    with pytest.raises(ValueError, match="must fall"):
        next(
            res_2s_loop(
                smooth,
                [0.5, 0.001, 0],
                make_state(3, 0),
                None,
                step_noise=TorchCpuNoise(0),
                substep_noise=TorchCpuNoise(1),
            )
        )
