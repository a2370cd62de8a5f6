"""First-order samplers: known values of each step, loops against the formulas written out, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import RecordedNoise, TorchCpuNoise
from ltx2rt.graph.diffusion.precision import round_to
from ltx2rt.graph.diffusion.predictions import denoised_from_velocity, post_process, velocity_from_denoised
from ltx2rt.graph.diffusion.res_2s import Res2s
from ltx2rt.graph.diffusion.samplers import (
    EULER,
    AncestralEuler,
    GradientEstimation,
    Sampler,
    SamplerNoise,
    SamplerStep,
    ancestral_loop,
    ancestral_step,
    euler_loop,
    euler_step,
    gradient_estimation_loop,
)

SAMPLE = np.array([1.0, -0.5], np.float32)
CLEAN = np.array([0.4, 0.2], np.float32)
NOISE = np.array([0.3, -1.2], np.float32)
SIGMAS = [1.0, 0.7, 0.3, 0.0]


def make_state(tokens: int, seed: int) -> LatentState:
    values = np.random.default_rng(seed).standard_normal((3, 1, tokens, 4)).astype(np.float32)
    mask = np.ones((1, tokens), np.float32)
    mask[0, :2] = 0, 0.4
    return LatentState(values[0], mask, np.zeros((1, 1, tokens, 2), np.float32), values[1])


def half(video: LatentState | None, audio: LatentState | None, sigma: float, step: int) -> tuple:
    """A denoiser whose answers depend on the latents and sigma."""
    return tuple(None if s is None else np.float32(0.5) * s.latent + np.float32(0.1 * sigma) for s in (video, audio))


def kept(x0: np.ndarray, state: LatentState) -> np.ndarray:
    mask = state.denoise_mask[..., None]
    return x0 * mask + state.clean_latent * (1 - mask)


def test_euler_step_value() -> None:
    np.testing.assert_allclose(euler_step(SAMPLE, CLEAN, 0.9, 0.7), [0.8666667, -0.3444445], rtol=0, atol=1e-7)
    np.testing.assert_allclose(euler_step(SAMPLE, CLEAN, 0.9, 0.0), CLEAN, atol=1e-7)


@pytest.mark.parametrize(("eta", "expected"), [(1.0, [0.6828015, -0.8686045]), (0.5, [0.7958081, -0.8204867])])
def test_ancestral_step_value(eta: float, expected: list[float]) -> None:
    np.testing.assert_allclose(ancestral_step(SAMPLE, CLEAN, 0.9, 0.7, NOISE, eta=eta), expected, rtol=0, atol=2e-7)


def test_ancestral_step_without_noise_is_euler_and_ends_clean() -> None:
    plain = ancestral_step(SAMPLE, CLEAN, 0.9, 0.7, None, eta=0)
    np.testing.assert_allclose(plain, euler_step(SAMPLE, CLEAN, 0.9, 0.7), atol=1e-7)
    np.testing.assert_array_equal(ancestral_step(SAMPLE, CLEAN, 0.9, 0.0, None), CLEAN)
    with pytest.raises(ValueError, match=r"eta 1\.0 needs noise"):
        ancestral_step(SAMPLE, CLEAN, 0.9, 0.7, None)


def test_velocity_and_denoised_are_inverse_and_rounded() -> None:
    velocity = velocity_from_denoised(SAMPLE, CLEAN, 0.9)
    np.testing.assert_allclose(velocity, [0.6 / 0.9, -0.7 / 0.9], rtol=1e-6)
    tokens = denoised_from_velocity(SAMPLE[None, :, None], velocity[None, :, None], np.array([[0.9, 0.0]], np.float32))
    np.testing.assert_allclose(tokens.ravel(), [0.4, -0.5], atol=1e-7)
    coarse = velocity_from_denoised(SAMPLE, CLEAN, 0.9, "bfloat16")
    np.testing.assert_array_equal(coarse, round_to(velocity, "bfloat16"))
    with pytest.raises(ValueError, match="no velocity at sigma 0"):
        velocity_from_denoised(SAMPLE, CLEAN, 0.0)


def test_post_process_keeps_masked_tokens() -> None:
    state = make_state(4, 0)
    x0 = np.ones_like(state.latent)
    done = post_process(x0, state)
    np.testing.assert_array_equal(done[:, 0], state.clean_latent[:, 0])
    np.testing.assert_allclose(done[:, 1], 0.4 + 0.6 * state.clean_latent[:, 1], rtol=1e-6)
    np.testing.assert_array_equal(done[:, 2:], 1)


def test_euler_loop_follows_the_formula_and_reports_each_step() -> None:
    video, audio = make_state(5, 1), make_state(3, 2)
    steps = list(euler_loop(half, SIGMAS, video, audio))
    assert [(s.index, s.steps) for s in steps] == [(0, 3), (1, 3), (2, 3)]
    assert [(s.sigma, s.sigma_next) for s in steps] == [
        (1.0, np.float32(0.7)), (np.float32(0.7), np.float32(0.3)), (np.float32(0.3), 0.0),
    ]  # fmt: skip
    for state, last in ((video, steps[-1].video), (audio, steps[-1].audio)):
        latent = state.latent.astype(np.float64)
        for sigma, sigma_next in pairwise(SIGMAS):
            x0 = kept(0.5 * latent + 0.1 * sigma, state)
            latent = latent + (latent - x0) / sigma * (sigma_next - sigma)
        assert last is not None
        np.testing.assert_allclose(last.latent, latent, atol=1e-6)
        np.testing.assert_allclose(last.latent[:, 0], state.clean_latent[:, 0], atol=1e-6)
    assert steps[0].video_denoised is not None
    np.testing.assert_allclose(steps[0].video_denoised, kept(0.5 * video.latent + np.float32(0.1), video), atol=1e-6)


def test_one_stream_alone() -> None:
    audio = make_state(3, 2)
    alone = list(euler_loop(half, SIGMAS, None, audio))[-1]
    both = list(euler_loop(half, SIGMAS, make_state(5, 1), audio))[-1]
    assert alone.video is None
    assert alone.video_denoised is None
    assert alone.audio is not None
    assert both.audio is not None
    np.testing.assert_array_equal(alone.audio.latent, both.audio.latent)


def test_bfloat16_state_is_rounded_after_every_step() -> None:
    video = replace(make_state(5, 1), dtype="bfloat16")
    for step in euler_loop(half, SIGMAS, video.with_latent(video.latent), None):
        assert step.video is not None
        np.testing.assert_array_equal(step.video.latent, round_to(step.video.latent, "bfloat16"))


def test_gradient_estimation_extrapolates_the_velocity() -> None:
    video = make_state(5, 1)
    last = list(gradient_estimation_loop(half, SIGMAS, video, None, gamma=2.0))[-1].video
    latent, previous = video.latent.astype(np.float64), None
    for sigma, sigma_next in pairwise(SIGMAS):
        x0 = kept(0.5 * latent + 0.1 * sigma, video)
        if sigma_next == 0:
            latent = x0
            break
        velocity = (latent - x0) / sigma
        used = velocity if previous is None else 2.0 * (velocity - previous) + previous
        latent, previous = latent + used * (sigma_next - sigma), velocity
    assert last is not None
    np.testing.assert_allclose(last.latent, latent, atol=1e-6)


def test_gradient_estimation_at_gamma_1_is_euler() -> None:
    audio = make_state(3, 2)
    plain = list(euler_loop(half, SIGMAS, None, audio))[-1].audio
    estimated = list(gradient_estimation_loop(half, SIGMAS, None, audio, gamma=1.0))[-1].audio
    assert plain is not None
    assert estimated is not None
    np.testing.assert_allclose(estimated.latent, plain.latent, atol=1e-6)


def test_ancestral_loop_draws_video_then_audio_and_keeps_masked_tokens() -> None:
    video, audio = make_state(5, 1), make_state(3, 2)
    draws = [TorchCpuNoise(i).normal((1, t, 4)) for i, t in enumerate((5, 3, 5, 3))]
    steps = list(ancestral_loop(half, SIGMAS, video, audio, RecordedNoise(draws), eta=0.5, s_noise=0.9))
    x0 = kept(0.5 * video.latent + np.float32(0.1), video)
    moved = ancestral_step(video.latent, x0, 1.0, 0.7, draws[0], eta=0.5, s_noise=0.9)
    assert steps[0].video is not None
    np.testing.assert_allclose(steps[0].video.latent, kept(moved, video), atol=1e-6)
    last = steps[-1]
    assert last.audio is not None
    assert last.audio_denoised is not None
    np.testing.assert_array_equal(last.audio.latent, last.audio_denoised)


def test_ancestral_loop_at_eta_0_draws_nothing_and_is_euler() -> None:
    video = make_state(5, 1)
    plain = list(euler_loop(half, SIGMAS, video, None))[-1].video
    quiet = list(ancestral_loop(half, SIGMAS, video, None, RecordedNoise([]), eta=0.0))[-1].video
    assert plain is not None
    assert quiet is not None
    np.testing.assert_allclose(quiet.latent, plain.latent, atol=1e-6)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0], "at least two sigmas"),
        ([[1.0, 0.0]], "at least two sigmas"),
        ([1.0, 0.5, 0.5, 0.0], "must fall from at most 1"),
        ([1.5, 0.0], "must fall from at most 1"),
        ([0.5, -0.1], "must fall from at most 1"),
    ],
)
def test_bad_schedules_are_refused(sigmas: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(euler_loop(half, sigmas, make_state(3, 0), None))


def test_missing_streams_and_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="got neither"):
        next(euler_loop(half, SIGMAS, None, None))
    with pytest.raises(ValueError, match="no audio prediction at step 0"):
        next(euler_loop(lambda v, a, s, i: (v.latent, None), SIGMAS, make_state(3, 0), make_state(3, 1)))


@pytest.mark.parametrize("loop", [euler_loop, gradient_estimation_loop])
def test_stopping_early_evaluates_no_further_step(loop: Callable[..., Iterator[SamplerStep]]) -> None:
    calls: list[int] = []

    def counting(video: LatentState | None, audio: LatentState | None, sigma: float, step: int) -> tuple:
        calls.append(step)
        return half(video, audio, sigma, step)

    next(loop(counting, SIGMAS, make_state(3, 0), None))
    assert calls == [0]


def fixed_noise() -> tuple[TorchCpuNoise, TorchCpuNoise]:
    return TorchCpuNoise(1), TorchCpuNoise(2)


@pytest.mark.parametrize("sigmas", [SIGMAS, [0.9, 0.5, 0.2]], ids=["to clean", "to noise"])
@pytest.mark.parametrize(
    "sampler", [EULER, GradientEstimation(1.5), AncestralEuler(1), Res2s()], ids=lambda sampler: type(sampler).__name__
)
def test_samplers_make_the_steps_and_evaluations_they_state(sampler: Sampler, sigmas: list[float]) -> None:
    levels, evaluated = np.array(sigmas, np.float32), []

    def counted(video: LatentState | None, audio: LatentState | None, sigma: float, step: int) -> tuple:
        evaluated.append(sigma)
        return half(video, audio, sigma, step)

    noise = SamplerNoise(fixed_noise, TorchCpuNoise)
    steps = list(sampler.loop(counted, levels, make_state(3, 1), make_state(2, 2), noise))
    assert len(steps) == sampler.steps(levels) == steps[0].steps
    assert len(evaluated) == sampler.evaluations(levels)


def test_the_ancestral_sampler_draws_from_a_source_of_its_own() -> None:
    state, levels = make_state(3, 1), np.array(SIGMAS, np.float32)
    noise = SamplerNoise(fixed_noise, TorchCpuNoise)
    results = [[*AncestralEuler(offset, 0.7).loop(half, levels, state, None, noise)][-1] for offset in (4, 4, 5)]
    *_, expected = ancestral_loop(half, levels, state, None, TorchCpuNoise(4), eta=0.7)
    latents = [result.video.latent for result in (*results, expected) if result.video is not None]
    np.testing.assert_array_equal(latents[0], latents[1])
    np.testing.assert_array_equal(latents[0], latents[3])
    assert np.abs(latents[0] - latents[2]).max() > 1e-3
