"""What a running pipeline tells its observer: for progress, previews, cancelling and checks against saved runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.graph.diffusion.latent_state import AudioTarget, LatentState, VideoTarget
from ltx2rt.graph.diffusion.windows import Window
from ltx2rt.types import Array


@dataclass(frozen=True)
class WindowStarted:
    """A window of a clip that is made in several begins.

    Attributes:
        window: where it lies, and how many there are.
        steps: sampler steps of each window, those of all stages.
    """

    window: Window
    steps: int


@dataclass(frozen=True)
class StepsCounted:
    """A clip begins whose stages differ with the request: ``steps`` sampler steps in all of them."""

    steps: int


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; ``steps`` is the number of `StepDone` events it will send (0: none)."""

    name: str
    steps: int = 0


@dataclass(frozen=True)
class StageFinished:
    name: str


@dataclass(frozen=True)
class StageRestored:
    """A stage does not run: an interrupted run has left its result. ``steps``: as of `StageStarted`."""

    name: str
    steps: int = 0


@dataclass(frozen=True)
class StepDone:
    """One sampler step of a denoising stage is complete.

    Attributes:
        stage: stage name.
        index: 0-based step.
        steps: number of steps of the stage.
        sigma: noise level the step started from.
        video: video tokens (B, Tv, 128) after the step, or None.
        audio: audio tokens (B, Ta, 128) after the step, or None.
    """

    stage: str
    index: int
    steps: int
    sigma: float
    video: Array | None
    audio: Array | None


@dataclass(frozen=True)
class TileDone:
    """The model has evaluated one tile of a step that is cut into ``tiles`` of them; ``index`` counts from 0."""

    stage: str
    index: int
    tiles: int


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of the guided model: its noisy inputs (B, T, 128) and clean estimates, kept tokens put back."""

    sigma: float
    video: Array | None
    audio: Array | None
    video_denoised: Array | None
    audio_denoised: Array | None


@dataclass(frozen=True)
class Noised:
    """A latent state has been noised: what it will become, the `LatentState` before and after, the drawn Gaussian."""

    target: VideoTarget | AudioTarget
    before: LatentState
    state: LatentState
    noise: Array
    noise_scale: float

    @property
    def modality(self) -> str:
        """``video`` or ``audio``."""
        return "video" if isinstance(self.target, VideoTarget) else "audio"


@dataclass(frozen=True)
class LengthPredicted:
    """The duration head has said how long the clip should be; ``frames`` is what it will have."""

    seconds: float
    frames: int


@dataclass(frozen=True)
class VideoEncoded:
    """An image or a video became a normalised latent (B, f, h, w, 128)."""

    latent: mx.array


@dataclass(frozen=True)
class SoundEncoded:
    """A log-mel spectrogram (B, T, 64, 2) became audio tokens (B, L, 128), not yet cut to the clip's length."""

    log_mel: mx.array
    tokens: mx.array


@dataclass(frozen=True)
class LatentUpscaled:
    """The spatial upscaler ran; both latents are un-normalised, (B, f, h, w, 128)."""

    before: mx.array
    after: mx.array


@dataclass(frozen=True)
class AudioDecoded:
    """Audio tokens (B, L, 128) became a log-mel spectrogram (B, T, 64, 2)."""

    tokens: mx.array
    log_mel: mx.array


@dataclass(frozen=True)
class KeyFrameDecoded:
    """A key frame, a normalised latent (1, 1, h, w, 128), became a picture (H, W, 3) float32 in [0, 1]."""

    latent: Array
    picture: Array


@dataclass(frozen=True)
class VideoDecodeStarted:
    """The final normalised video latent (B, f, h, w, 128) goes to the decoder, which looks at key frames there."""

    latent: mx.array
    keyframes: tuple[int, ...] = ()


@dataclass(frozen=True)
class FramesDecoded:
    """So many of the ``frames`` frames that a stage decodes are there."""

    stage: str
    done: int
    frames: int


Event = (
    WindowStarted
    | StepsCounted
    | StageStarted
    | StageFinished
    | StageRestored
    | StepDone
    | TileDone
    | Evaluated
    | Noised
    | LengthPredicted
    | VideoEncoded
    | SoundEncoded
    | LatentUpscaled
    | AudioDecoded
    | KeyFrameDecoded
    | VideoDecodeStarted
    | FramesDecoded
)
Observer = Callable[[Event], None]
