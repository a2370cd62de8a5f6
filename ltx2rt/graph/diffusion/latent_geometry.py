"""Sizes of latents: from pixels, frames and seconds to latent cells and back, with checks of what the models accept."""

from __future__ import annotations

from dataclasses import dataclass

from ltx2rt.errors import UsageError
from ltx2rt.spelling import spelled


@dataclass(frozen=True)
class VideoScale:
    """How many frames and pixels one latent cell of the video VAE stands for."""

    time: int
    height: int
    width: int


@dataclass(frozen=True)
class AudioScale:
    """How much sound one latent of the audio VAE stands for.

    Attributes:
        sample_rate: Hz.
        hop: samples between spectrogram frames.
        time: spectrogram frames per latent.
    """

    sample_rate: int
    hop: int
    time: int

    @property
    def latents_per_second(self) -> float:
        return self.sample_rate / self.hop / self.time


@dataclass(frozen=True)
class VideoLatentShape:
    """A video latent (batch, frames, height, width, channels), counted in latent cells."""

    frames: int
    height: int
    width: int
    batch: int = 1
    channels: int = 128

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, self.batch, self.channels) < 1:
            raise UsageError(f"Every dimension of a video latent must be at least 1, got {self.array_shape}.")

    @classmethod
    def from_pixels(
        cls,
        num_frames: int,
        height: int,
        width: int,
        scale: VideoScale,
        *,
        batch: int = 1,
        channels: int = 128,
    ) -> VideoLatentShape:
        """The latent of ``num_frames`` frames of ``height`` x ``width`` pixels.

        Raises:
            UsageError: if frames are not ``scale.time*k + 1`` or a side is not a multiple of the scale.
        """
        check_num_frames(num_frames, scale)
        check_resolution(height, width, multiple=(scale.height, scale.width))
        return cls(
            frames=(num_frames - 1) // scale.time + 1,
            height=height // scale.height,
            width=width // scale.width,
            batch=batch,
            channels=channels,
        )

    @property
    def array_shape(self) -> tuple[int, int, int, int, int]:
        """(B, F, H, W, C)."""
        return (self.batch, self.frames, self.height, self.width, self.channels)

    @property
    def tokens_per_frame(self) -> int:
        return self.height * self.width

    @property
    def tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    def pixel_frames(self, scale: VideoScale) -> int:
        """Frames of the decoded clip: the first latent frame holds one, the others ``scale.time``."""
        return (self.frames - 1) * scale.time + 1


def frames_shown(first: int, last: int, scale: VideoScale) -> range:
    """Frames of the clip that the latent frames ``first`` to ``last`` stand for."""
    return range(max(scale.time * (first - 1) + 1, 0), scale.time * last + 1)


@dataclass(frozen=True)
class AudioLatentShape:
    """An audio latent of ``frames`` time steps; a token has channels * mel_bins features, channel-major."""

    frames: int
    batch: int = 1
    channels: int = 8
    mel_bins: int = 16

    def __post_init__(self) -> None:
        if min(self.frames, self.batch, self.channels, self.mel_bins) < 1:
            raise UsageError(
                f"Every dimension of an audio latent must be at least 1, got batch {self.batch}, frames {self.frames}, "
                f"channels {self.channels}, mel bins {self.mel_bins}; a clip needs at least 0.02 s of sound."
            )

    @property
    def features(self) -> int:
        return self.channels * self.mel_bins

    @property
    def tokens(self) -> int:
        return self.frames


def audio_latent_frames(num_frames: int, frame_rate: float, scale: AudioScale) -> int:
    """Audio latents for a clip of ``num_frames`` at ``frame_rate`` frames/s; ties go to the even count.

    Raises:
        UsageError: if ``frame_rate`` is not positive.

    Source: Lightricks/LTX-2 ltx_core/types.py @ v1.2.0.
    """
    check_frame_rate(frame_rate)
    return round(num_frames / frame_rate * scale.latents_per_second)


def check_frame_rate(frame_rate: float) -> None:
    """Raise `UsageError` unless ``frame_rate`` is a positive finite number of frames/s."""
    if not 0 < frame_rate < float("inf"):
        raise UsageError(f"{spelled('frame_rate')} must be a positive number of frames per second, got {frame_rate}.")


def check_num_frames(num_frames: int, scale: VideoScale) -> None:
    """Raise `UsageError`, naming the nearest good counts, unless ``num_frames`` is ``scale.time*k + 1``."""
    step = scale.time
    if num_frames >= 1 and num_frames % step == 1 % step:
        return
    below = (num_frames - 1) // step * step + 1
    choices = f"{below + step} or {below}" if below >= 1 else "1"
    raise UsageError(f"{spelled('num_frames')} must be {step}*k + 1, got {num_frames}; use {choices}.")


def counted_from_start(frame: int, num_frames: int) -> int:
    """The place of a frame that may be counted from the end, -1 being the last one; others stay as they are."""
    return frame + num_frames if -num_frames <= frame < 0 else frame


def snapped_frames(num_frames: int, step: int) -> int:
    """The largest ``step*k + 1`` that is not more than ``num_frames``; 1 where there is none."""
    return max(1, (num_frames - 1) // step * step + 1)


def check_resolution(height: int, width: int, *, multiple: int | tuple[int, int]) -> None:
    """Raise `UsageError`, naming the nearest good sizes, unless height and width are positive multiples.

    Args:
        height, width: pixels.
        multiple: of which both must be multiples; a pair gives (height, width) separately.
    """
    per_height, per_width = (multiple, multiple) if isinstance(multiple, int) else multiple
    for name, size, step in (("height", height, per_height), ("width", width, per_width)):
        if size > 0 and size % step == 0:
            continue
        below = size // step * step
        choices = f"{below + step} or {below}" if below > 0 else str(step)
        raise UsageError(
            f"{spelled(name)} must be a multiple of {step}, got {size} (of {height}x{width}); use {choices}."
        )
