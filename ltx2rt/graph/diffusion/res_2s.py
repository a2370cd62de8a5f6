"""The res_2s sampler: a second-order exponential step with fresh noise at its midpoint and its end, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised, keep_clean
from ltx2rt.graph.diffusion.samplers import (
    Denoise,
    SamplerNoise,
    SamplerStep,
    Streams,
    check_sigmas,
    check_streams,
    denoise_streams,
)

Float64Array = NDArray[np.float64]

STEP_NOISE_SEED = -1
SUBSTEP_NOISE_SEED = STEP_NOISE_SEED + 10000
SMALLEST_SIGMA = 0.0011

_MIDPOINT = 0.5
_SUBSTEP_ETA = 0.5
_REFINE_BELOW_STEP = 0.5
_REFINE_ABOVE_SIGMA = 0.03


@dataclass(frozen=True)
class Res2sOptions:
    """Settings of the sampler; the defaults are what the pipelines use.

    Attributes:
        eta: share of fresh noise at the end of a step (the midpoint always takes 0.5); 0 = none.
        refine_anchor: whether small steps move their starting point to agree with the noised midpoint ("bongmath").
        refine_iterations: how often.
        masked_timesteps: noise each token by its own sigma (mask * sigma) in place of putting kept tokens back.
    """

    eta: float = 0.5
    refine_anchor: bool = True
    refine_iterations: int = 100
    masked_timesteps: bool = False


def res_2s_evaluations(sigmas: ArrayLike) -> int:
    """Model evaluations of a run over (N + 1,) sigmas: two a step, and one more where they end in 0."""
    schedule = check_sigmas(sigmas)
    return 2 * (schedule.size - 1) + int(schedule[-1] == 0)


@dataclass(frozen=True)
class Res2s:
    """`res_2s_loop` as a sampler."""

    options: Res2sOptions = Res2sOptions()

    def steps(self, sigmas: Float32Array) -> int:
        return len(sigmas) - 1 + int(sigmas[-1] == 0)

    def evaluations(self, sigmas: Float32Array) -> int:
        return res_2s_evaluations(sigmas)

    def loop(
        self,
        denoise: Denoise,
        sigmas: Float32Array,
        video: LatentState | None,
        audio: LatentState | None,
        noise: SamplerNoise,
    ) -> Iterator[SamplerStep]:
        step, substep = noise.fixed()
        return res_2s_loop(denoise, sigmas, video, audio, step_noise=step, substep_noise=substep, options=self.options)


def res_2s_loop(
    denoise: Denoise,
    sigmas: ArrayLike,
    video: LatentState | None,
    audio: LatentState | None,
    *,
    step_noise: NoiseSource,
    substep_noise: NoiseSource,
    options: Res2sOptions = Res2sOptions(),
) -> Iterator[SamplerStep]:
    """Sample with two model evaluations per step and, when the schedule ends in 0, one more at sigma 0.0011.

    The midpoint evaluation passes step index 0 to ``denoise``, so guidance never skips it.

    Args:
        denoise: the model with its guidance.
        sigmas: (N + 1,) falling noise levels.
        video: the noised video state, or None.
        audio: the noised audio state, or None.
        step_noise: float64 draws of shape (B, T, C), video then audio, at the end of each step; pipelines pass
            `StandardizedNoise` over a generator seeded with `STEP_NOISE_SEED`, whatever the user's seed.
        substep_noise: the same for midpoints, with `SUBSTEP_NOISE_SEED`.
        options: see `Res2sOptions`.

    Yields:
        N steps, and one more when the schedule ends in 0.

    Raises:
        ValueError: if no stream is present or the sigmas do not fall within [0, 1].

    Source: Lightricks/LTX-2 ltx_pipelines/utils/samplers.py @ v1.2.0.
    """
    schedule = check_sigmas(sigmas)
    streams = Streams(video, audio)
    check_streams(streams)
    ends_clean = bool(schedule[-1] == 0)
    levels = check_sigmas(np.append(schedule[:-1], SMALLEST_SIGMA)) if ends_clean else schedule
    steps = levels.size - 1
    total = steps + int(ends_clean)
    for index in range(steps):
        sigma, sigma_next = levels[index], levels[index + 1]
        sigma_mid = math.sqrt(float(sigma) * float(sigma_next))
        first = denoise_streams(denoise, streams, float(sigma), index)
        halves = [
            None
            if state is None or estimate is None
            else _HalfStep.start(state, estimate, sigma, sigma_next, sigma_mid, substep_noise, options)
            for state, estimate in zip(streams, first, strict=True)
        ]
        middle = Streams(*(None if half is None else half.state.with_latent(half.middle) for half in halves))
        second = denoise_streams(denoise, middle, sigma_mid, 0)
        streams = Streams(
            *(
                None
                if half is None or estimate is None
                else half.finish(estimate, sigma, sigma_next, step_noise, options)
                for half, estimate in zip(halves, second, strict=True)
            )
        )
        yield _finished(index, total, float(sigma), float(sigma_next), streams, first)
    if ends_clean:
        sigma = levels[-1]
        last = denoise_streams(denoise, streams, float(sigma), steps)
        streams = Streams(
            *(
                None if state is None or estimate is None else state.with_latent(estimate)
                for state, estimate in zip(streams, last, strict=True)
            )
        )
        yield _finished(steps, total, float(sigma), 0.0, streams, last)


def phi_1(z: float) -> float:
    """``(e^z - 1)/z``, 1 at 0."""
    return 1.0 if abs(z) < 1e-10 else (math.exp(z) - 1) / z


def phi_2(z: float) -> float:
    """``(e^z - 1 - z)/z^2``, 1/2 at 0."""
    return 0.5 if abs(z) < 1e-10 else (math.exp(z) - 1 - z) / z**2


def res_2s_coefficients(step: float) -> tuple[float, float, float]:
    """(a21, b1, b2) of a step of size h = -ln(sigma_next/sigma): midpoint weight and the two final weights."""
    a21 = _MIDPOINT * phi_1(-step * _MIDPOINT)
    b2 = phi_2(-step) / _MIDPOINT
    return a21, phi_1(-step) - b2, b2


def sde_coefficients(sigma_next: Any, eta: float) -> tuple[Any, Any, Any]:
    """(alpha, sigma_down, sigma_up): how much signal, old noise and fresh noise make up ``sigma_next``.

    Args:
        sigma_next: noise level after the step, scalar or array; its dtype is that of the result.
        eta: share of fresh noise; limited to 0.9999.
    """
    sigma_up = np.minimum(sigma_next * eta, sigma_next * 0.9999)
    residual = np.sqrt(np.maximum(sigma_next**2 - sigma_up**2, 0))
    alpha = (1 - sigma_next) + residual
    return alpha, residual / alpha, sigma_up


def sde_step(
    sample: NDArray[Any], moved: NDArray[Any], sigma: Any, sigma_next: Any, noise: NDArray[Any], *, eta: float = 0.5
) -> NDArray[Any]:
    """Replace part of the noise that a deterministic step left in ``moved`` by fresh noise.

    Args:
        sample: tokens (B, T, C) the step started from.
        moved: tokens after the deterministic step.
        sigma, sigma_next: noise levels before and after, scalars or arrays that broadcast over the tokens.
        noise: standard normal values like ``sample``.
        eta: share of fresh noise.

    Returns:
        Tokens in the dtype of ``moved``; ``moved`` itself if any token takes no fresh noise.
    """
    alpha, sigma_down, sigma_up = sde_coefficients(sigma_next, eta)
    if np.any(sigma_up == 0):
        return moved
    old_noise = (sample - moved) / (sigma - sigma_next)
    signal = sample - sigma * old_noise
    result: NDArray[Any] = (alpha * (signal + sigma_down * old_noise) + sigma_up * noise).astype(moved.dtype)
    return result


@dataclass(frozen=True, eq=False)
class _HalfStep:
    """One stream between the two evaluations of a step, in float64."""

    state: LatentState
    anchor: Float64Array
    middle: Float64Array
    slope: Float64Array
    step: float

    @classmethod
    def start(
        cls,
        state: LatentState,
        denoised: Float32Array,
        sigma: np.float32,
        sigma_next: np.float32,
        sigma_mid: float,
        noise: NoiseSource,
        options: Res2sOptions,
    ) -> _HalfStep:
        """Go to the noised midpoint, then let the anchor follow it."""
        step = -math.log(float(sigma_next) / float(sigma))
        reach = step * res_2s_coefficients(step)[0]
        anchor = state.latent.astype(np.float64)
        goal = denoised.astype(np.float64)
        middle = _renoise(
            state,
            anchor,
            anchor + reach * (goal - anchor),
            np.float64(sigma),
            np.float64(sigma_mid),
            noise,
            _SUBSTEP_ETA,
            options,
        )
        if options.refine_anchor and step < _REFINE_BELOW_STEP and sigma > _REFINE_ABOVE_SIGMA:
            anchor = _refined_anchor(anchor, middle, goal, reach, options.refine_iterations)
        return cls(state, anchor, middle, goal - anchor, step)

    def finish(
        self,
        denoised: Float32Array,
        sigma: np.float32,
        sigma_next: np.float32,
        noise: NoiseSource,
        options: Res2sOptions,
    ) -> LatentState:
        """Combine both slopes, noise the result and round it to the state."""
        _, b1, b2 = res_2s_coefficients(self.step)
        moved = self.anchor + self.step * (b1 * self.slope + b2 * (denoised - self.anchor))
        # The sigmas stay float32 here, unlike at the midpoint: the reference does its end-of-step noise that way.
        return self.state.with_latent(
            _renoise(self.state, self.anchor, moved, sigma, sigma_next, noise, options.eta, options)
        )


def _renoise(
    state: LatentState,
    anchor: Float64Array,
    moved: Float64Array,
    sigma: np.floating[Any],
    sigma_next: np.floating[Any],
    noise: NoiseSource,
    eta: float,
    options: Res2sOptions,
) -> Float64Array:
    drawn = noise.normal(anchor.shape, "float64")
    if options.masked_timesteps:
        mask = state.denoise_mask[..., None].astype(np.float64)
        return sde_step(anchor, moved, mask * sigma, mask * sigma_next, drawn, eta=eta)
    return keep_clean(sde_step(anchor, moved, sigma, sigma_next, drawn, eta=eta), state)


def _refined_anchor(
    anchor: Float64Array, middle: Float64Array, goal: Float64Array, reach: float, iterations: int
) -> Float64Array:
    """``iterations`` times ``anchor = middle - reach*(goal - anchor)``, summed up as a geometric series.

    reach is below 0.25 here, so the series agrees with the repetition to the last bits of float64 at a hundredth of
    the work.
    """
    power = reach**iterations
    return power * anchor + (1 - power) / (1 - reach) * (middle - reach * goal)


def _finished(
    index: int, total: int, sigma: float, sigma_next: float, streams: Streams, denoised: Denoised
) -> SamplerStep:
    return SamplerStep(index, total, sigma, sigma_next, streams.video, streams.audio, denoised[0], denoised[1])
