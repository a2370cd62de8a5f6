"""First-order samplers: Euler, its ancestral form and gradient estimation, as generators that yield once per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.diffusion.precision import Float32Array, StateDtype, round_to
from ltx2rt.graph.diffusion.predictions import Denoised, keep_clean, post_process, velocity_from_denoised

# denoise(video_state, audio_state, sigma, step_index) -> predictions (B, T, C) of the streams that are present.
Denoise = Callable[[LatentState | None, LatentState | None, float, int], Denoised]


class Streams(NamedTuple):
    """The states of the two streams; either may be absent."""

    video: LatentState | None
    audio: LatentState | None


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """One finished step.

    Attributes:
        index: number of the step, from 0.
        steps: how many steps the run has.
        sigma: noise level at which the step began.
        sigma_next: noise level it reached.
        video, audio: the states after the step.
        video_denoised, audio_denoised: the clean estimates (B, T, C) of the step, kept tokens put back.
    """

    index: int
    steps: int
    sigma: float
    sigma_next: float
    video: LatentState | None
    audio: LatentState | None
    video_denoised: Float32Array | None
    audio_denoised: Float32Array | None


class SamplerNoise(NamedTuple):
    """Random numbers that a sampler may draw.

    Attributes:
        fixed: gives the step and the substep noise of res_2s, which start anew in every stage.
        seeded: gives a source that starts anew, with the user's seed plus a number.
    """

    fixed: Callable[[], tuple[NoiseSource, NoiseSource]]
    seeded: Callable[[int], NoiseSource]


class Sampler(Protocol):
    """How a denoising stage walks down its noise levels."""

    def steps(self, sigmas: Float32Array) -> int:
        """Steps over ``sigmas``, (N + 1,) falling noise levels: as many as `loop` yields."""

    def evaluations(self, sigmas: Float32Array) -> int:
        """Evaluations of the guided model."""

    def loop(
        self,
        denoise: Denoise,
        sigmas: Float32Array,
        video: LatentState | None,
        audio: LatentState | None,
        noise: SamplerNoise,
    ) -> Iterator[SamplerStep]:
        """The steps; see `euler_loop` for the arguments."""


class _FirstOrder:
    """One evaluation a step."""

    def steps(self, sigmas: Float32Array) -> int:
        return len(sigmas) - 1

    def evaluations(self, sigmas: Float32Array) -> int:
        return len(sigmas) - 1


@dataclass(frozen=True)
class Euler(_FirstOrder):
    """`euler_loop` as a sampler."""

    def loop(
        self,
        denoise: Denoise,
        sigmas: Float32Array,
        video: LatentState | None,
        audio: LatentState | None,
        noise: SamplerNoise,
    ) -> Iterator[SamplerStep]:
        return euler_loop(denoise, sigmas, video, audio)


EULER = Euler()


@dataclass(frozen=True)
class GradientEstimation(_FirstOrder):
    """`gradient_estimation_loop` as a sampler."""

    gamma: float = 2.0

    def loop(
        self,
        denoise: Denoise,
        sigmas: Float32Array,
        video: LatentState | None,
        audio: LatentState | None,
        noise: SamplerNoise,
    ) -> Iterator[SamplerStep]:
        return gradient_estimation_loop(denoise, sigmas, video, audio, gamma=self.gamma)


@dataclass(frozen=True)
class AncestralEuler(_FirstOrder):
    """`ancestral_loop` as a sampler.

    Attributes:
        seed_offset: its noise is that of the user's seed plus this; with 0 the first draw would be the noise that the
            video starts from.
    """

    seed_offset: int
    eta: float = 1.0
    s_noise: float = 1.0

    def loop(
        self,
        denoise: Denoise,
        sigmas: Float32Array,
        video: LatentState | None,
        audio: LatentState | None,
        noise: SamplerNoise,
    ) -> Iterator[SamplerStep]:
        source = noise.seeded(self.seed_offset)
        return ancestral_loop(denoise, sigmas, video, audio, source, eta=self.eta, s_noise=self.s_noise)


def euler_loop(
    denoise: Denoise, sigmas: ArrayLike, video: LatentState | None, audio: LatentState | None
) -> Iterator[SamplerStep]:
    """Sample with the Euler method, one model evaluation per step.

    Args:
        denoise: the model with its guidance.
        sigmas: (N + 1,) falling noise levels.
        video: the noised video state, or None.
        audio: the noised audio state, or None.

    Raises:
        ValueError: if no stream is present or the sigmas do not fall within [0, 1].

    Source: Lightricks/LTX-2 ltx_pipelines/utils/samplers.py @ v1.2.0.
    """

    def advance(state: LatentState, denoised: Float32Array, sigma: float, sigma_next: float) -> LatentState:
        return state.with_latent(euler_step(state.latent, denoised, sigma, sigma_next, state.dtype))

    return _first_order_loop(denoise, sigmas, Streams(video, audio), (advance, advance))


def gradient_estimation_loop(
    denoise: Denoise,
    sigmas: ArrayLike,
    video: LatentState | None,
    audio: LatentState | None,
    *,
    gamma: float = 2.0,
) -> Iterator[SamplerStep]:
    """Euler with each velocity extrapolated from the one before; meant for 20 to 30 steps.

    Args:
        denoise, sigmas, video, audio: see `euler_loop`.
        gamma: weight of the change of velocity; 1 is plain Euler.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/samplers.py @ v1.2.0.
    """
    return _first_order_loop(
        denoise, sigmas, Streams(video, audio), (_GradientEstimation(gamma), _GradientEstimation(gamma))
    )


def ancestral_loop(
    denoise: Denoise,
    sigmas: ArrayLike,
    video: LatentState | None,
    audio: LatentState | None,
    noise: NoiseSource,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[SamplerStep]:
    """Euler steps that go below the next noise level and come back up to it with fresh noise.

    Args:
        denoise, sigmas, video, audio: see `euler_loop`.
        noise: one draw in the dtype of the state per stream and step that does not end at 0, video first.
        eta: share of the ancestral step; 0 is plain Euler and draws nothing.
        s_noise: factor of the noise.

    Source: Lightricks/LTX-2 ltx_pipelines/utils/samplers.py, ltx_core/components/diffusion_steps.py @ v1.2.0.
    """

    def advance(state: LatentState, denoised: Float32Array, sigma: float, sigma_next: float) -> LatentState:
        drawn = noise.normal(state.latent.shape, state.dtype) if eta > 0 else None
        moved = ancestral_step(state.latent, denoised, sigma, sigma_next, drawn, eta=eta, s_noise=s_noise)
        return state.with_latent(keep_clean(moved, state) if eta > 0 else moved)

    return _first_order_loop(denoise, sigmas, Streams(video, audio), (advance, advance), jump_to_clean=True)


def euler_step(
    sample: Float32Array, denoised: Float32Array, sigma: float, sigma_next: float, dtype: StateDtype = "float32"
) -> Float32Array:
    """``sample + v*(sigma_next - sigma)`` with v rounded to ``dtype`` first; float32, result rounded to ``dtype``.

    Args:
        sample: noisy tokens at ``sigma``, any shape.
        denoised: their clean estimate.
        sigma, sigma_next: noise levels; ``sigma`` must not be 0.
        dtype: dtype of the state.
    """
    velocity = velocity_from_denoised(sample, denoised, sigma, dtype)
    return round_to(sample + velocity * (np.float32(sigma_next) - np.float32(sigma)), dtype)


def ancestral_step(
    sample: Float32Array,
    denoised: Float32Array,
    sigma: float,
    sigma_next: float,
    noise: NDArray[Any] | None,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Float32Array:
    """One ancestral Euler step of a rectified flow (signal level 1 - sigma), in float32 and not rounded.

    Args:
        sample: noisy tokens at ``sigma``, any shape.
        denoised: their clean estimate; returned as it is when ``sigma_next`` is 0.
        sigma, sigma_next: noise levels.
        noise: standard normal values of the same shape; may be None when ``eta`` is 0.
        eta: share of the ancestral step.
        s_noise: factor of the noise.

    Raises:
        ValueError: if noise is needed but missing.
    """
    if sigma_next == 0:
        return denoised
    if eta > 0 and noise is None:
        raise ValueError(f"An ancestral step with eta {eta} needs noise; pass it or use eta 0.")
    level, level_next = np.float32(sigma), np.float32(sigma_next)
    one = np.float32(1)
    level_down = level_next * (one + (level_next / level - one) * np.float32(eta))
    ratio = level_down / level
    moved: Float32Array = ratio * sample + (one - ratio) * denoised
    if eta > 0 and noise is not None:
        signal_next, signal_down = one - level_next, one - level_down
        variance = level_next**2 - level_down**2 * signal_next**2 / signal_down**2
        renoise = np.sqrt(np.maximum(variance, np.float32(0)))
        moved = (signal_next / signal_down) * moved + noise * np.float32(s_noise) * renoise
    return moved


def check_sigmas(sigmas: ArrayLike) -> Float32Array:
    """The schedule as float32.

    Raises:
        ValueError: unless it has two or more values within [0, 1] that fall, only the last of which may be 0.
    """
    values = np.asarray(sigmas, np.float32)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"A schedule needs at least two sigmas in one row, got shape {values.shape}.")
    if not (values[0] <= 1 and values[-1] >= 0 and (np.diff(values) < 0).all()):
        raise ValueError(f"Sigmas must fall from at most 1 to at least 0, got {values.tolist()}.")
    return values


def check_streams(streams: Streams) -> None:
    """Raise ``ValueError`` unless at least one stream is present."""
    if streams.video is None and streams.audio is None:
        raise ValueError("A sampler needs a video state, an audio state or both; got neither.")


def denoise_streams(denoise: Denoise, streams: Streams, sigma: float, step_index: int) -> Denoised:
    """Evaluate the model and put kept tokens back; the result has one prediction per present stream.

    Raises:
        ValueError: if the model returned no prediction for a present stream.
    """
    kept: list[Float32Array | None] = []
    for name, state, prediction in zip(
        Streams._fields, streams, denoise(streams.video, streams.audio, sigma, step_index), strict=True
    ):
        if state is not None and prediction is None:
            raise ValueError(f"The denoiser returned no {name} prediction at step {step_index}.")
        kept.append(None if state is None or prediction is None else post_process(prediction, state))
    return kept[0], kept[1]


_Advance = Callable[[LatentState, Float32Array, float, float], LatentState]


def _first_order_loop(
    denoise: Denoise,
    sigmas: ArrayLike,
    streams: Streams,
    advance: tuple[_Advance, _Advance],
    *,
    jump_to_clean: bool = False,
) -> Iterator[SamplerStep]:
    """Evaluate once per step, then move video and audio; ``jump_to_clean`` takes the estimate itself at sigma 0."""
    schedule = [float(s) for s in check_sigmas(sigmas)]
    check_streams(streams)
    for index, (sigma, sigma_next) in enumerate(pairwise(schedule)):
        denoised = denoise_streams(denoise, streams, sigma, index)
        moved: list[LatentState | None] = []
        for state, estimate, move in zip(streams, denoised, advance, strict=True):
            if state is None or estimate is None:
                moved.append(None)
            elif jump_to_clean and sigma_next == 0:
                moved.append(state.with_latent(estimate))
            else:
                moved.append(move(state, estimate, sigma, sigma_next))
        streams = Streams(moved[0], moved[1])
        yield SamplerStep(
            index, len(schedule) - 1, sigma, sigma_next, streams.video, streams.audio, denoised[0], denoised[1]
        )


class _GradientEstimation:
    """Steps of one stream; remembers the last velocity as the model gave it."""

    def __init__(self, gamma: float) -> None:
        self._gamma = np.float32(gamma)
        self._previous: Float32Array | None = None

    def __call__(self, state: LatentState, denoised: Float32Array, sigma: float, sigma_next: float) -> LatentState:
        if sigma_next == 0:
            return state.with_latent(denoised)
        velocity = velocity_from_denoised(state.latent, denoised, sigma, state.dtype)
        if self._previous is not None:
            corrected = round_to(self._gamma * (velocity - self._previous) + self._previous, state.dtype)
            denoised = round_to(state.latent - corrected * np.float32(sigma), state.dtype)
        self._previous = velocity
        return state.with_latent(euler_step(state.latent, denoised, sigma, sigma_next, state.dtype))
