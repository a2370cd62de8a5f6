"""The audio front-end of the encoder: resampling to 16 kHz and log-mel analysis, in numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.types import FLOAT32_BYTES, Array

SINC_ZEROS = 6  # Zero crossings of the resampling filter on each side.
ROLLOFF = 0.99  # Its cutoff as a part of the lower Nyquist frequency.
LOG_FLOOR = 1e-5
OUTPUTS_AT_ONCE = 1 << 16  # Bounds the memory of resampling.


@dataclass(frozen=True)
class MelConfig:
    """The analysis that the audio encoder was trained with.

    Attributes:
        sample_rate: Hz.
        n_fft: window and transform length in samples.
        hop: samples between frames.
        num_mels: mel bands.
        f_min, f_max: Hz, edges of the bands.
    """

    sample_rate: int = 16000
    n_fft: int = 1024
    hop: int = 160
    num_mels: int = 64
    f_min: float = 0.0
    f_max: float = 8000.0

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> MelConfig:
        """From ``config["audio_vae"]`` of a checkpoint.

        Raises:
            CheckpointError: the window is shorter than the transform; no published model has that.
        """
        params = section.get("model", {}).get("params", {})
        preprocessing = section.get("preprocessing", {})
        stft, mel = preprocessing.get("stft", {}), preprocessing.get("mel", {})
        n_fft = int(stft.get("filter_length", cls.n_fft))
        window = int(stft.get("win_length", n_fft))
        if window != n_fft:
            raise CheckpointError(
                f"audio_vae.preprocessing.stft: win_length {window} differs from filter_length {n_fft}; "
                "such a model is not known, check the checkpoint's config."
            )
        return cls(
            sample_rate=int(params.get("sampling_rate", cls.sample_rate)),
            n_fft=n_fft,
            hop=int(stft.get("hop_length", cls.hop)),
            num_mels=int(params.get("ddconfig", {}).get("mel_bins", mel.get("n_mel_channels", cls.num_mels))),
            f_min=float(mel.get("mel_fmin", cls.f_min)),
            f_max=float(mel.get("mel_fmax", cls.f_max)),
        )


def resample(waveform: Array, source_rate: int, target_rate: int) -> Array:
    """Change the sample rate with a Hann-windowed sinc filter.

    Args:
        waveform: (..., S, C) float.
        source_rate, target_rate: Hz.

    Returns:
        (..., ceil(S * target_rate / source_rate), C) float32.

    Raises:
        UsageError: a rate is not positive.

    Source: torchaudio.functional.resample (sinc_interp_hann, lowpass_filter_width 6, rolloff 0.99).
    """
    if source_rate < 1 or target_rate < 1:
        raise UsageError(f"sample rates must be positive, got {source_rate} and {target_rate}.")
    waveform = waveform.astype(np.float32)
    step, phases, base, width = _filter(source_rate, target_rate)
    if step == phases:
        return waveform
    samples = waveform.shape[-2]
    count = -(-samples * phases // step)
    # Output j of each group of `phases` lies at input position j * step / phases; the filter reaches `width` samples.
    taps = 2 * width + 1
    first = np.arange(phases) * step // phases
    offsets = first[:, None] + np.arange(-width, width + 1)
    t = np.clip((offsets / step - np.arange(phases)[:, None] / phases) * base, -SINC_ZEROS, SINC_ZEROS)
    kernel = (np.sinc(t) * np.cos(t * (math.pi / SINC_ZEROS / 2)) ** 2 * (base / step)).astype(np.float32)

    margins = [(0, 0)] * (waveform.ndim - 2) + [(width, width + step), (0, 0)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, margins), taps, axis=-2)
    result = np.empty((*waveform.shape[:-2], count, waveform.shape[-1]), np.float32)
    for start in range(0, count, OUTPUTS_AT_ONCE):
        outputs = np.arange(start, min(start + OUTPUTS_AT_ONCE, count))
        phase = outputs % phases
        chosen = windows[..., outputs // phases * step + first[phase], :, :]
        result[..., start : start + len(outputs), :] = np.einsum("...nck,nk->...nc", chosen, kernel[phase])
    return result


def _filter(source_rate: int, target_rate: int) -> tuple[int, int, float, int]:
    """Of `resample`: samples in and out that repeat, the cutoff in them, and the filter's reach on each side."""
    common = math.gcd(source_rate, target_rate)
    step, phases = source_rate // common, target_rate // common
    base = min(step, phases) * ROLLOFF
    return step, phases, base, math.ceil(SINC_ZEROS * step / base)


def resampling_bytes(count: int, channels: int, source_rate: int, target_rate: int) -> int:
    """What `resample` takes at a time besides sound in and out, for ``count`` samples out of each channel."""
    if source_rate == target_rate:
        return 0
    taps = 2 * _filter(source_rate, target_rate)[3] + 1
    return min(count, OUTPUTS_AT_ONCE) * (channels + 1) * taps * FLOAT32_BYTES


def log_mel(waveform: Array, config: MelConfig) -> Array:
    """Natural logarithm of the mel magnitudes.

    The frames are centred (the configuration's ``causal`` concerns only the latents' time stamps) and the borders are
    mirrored by half a window.

    Args:
        waveform: (B, S, C) float at ``config.sample_rate``; S > n_fft / 2.
        config: the analysis.

    Returns:
        (B, S // hop + 1, num_mels, C) float32, at least ln(1e-5).

    Raises:
        UsageError: the clip is too short to be mirrored.

    Source: AudioProcessor of Lightricks/LTX-2 ltx_core/model/audio_vae @ v1.2.0; torchaudio MelSpectrogram.
    """
    batch, samples, channels = waveform.shape
    half = config.n_fft // 2
    if samples <= half:
        raise UsageError(
            f"audio must be longer than {half} samples at {config.sample_rate} Hz, got {samples}; use a longer clip."
        )
    padded = np.pad(waveform.astype(np.float32), [(0, 0), (half, half), (0, 0)], mode="reflect")
    window = (0.5 - 0.5 * np.cos(2.0 * math.pi / config.n_fft * np.arange(config.n_fft))).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, config.n_fft, axis=1)[:, :: config.hop]
    bank = mel_filterbank(config)
    result = np.empty((batch, frames.shape[1], config.num_mels, channels), np.float32)
    for item in range(batch):
        for channel in range(channels):
            magnitude = np.abs(np.fft.rfft(frames[item, :, channel] * window, axis=-1)).astype(np.float32)
            result[item, :, :, channel] = np.log(np.maximum(magnitude @ bank, np.float32(LOG_FLOOR)))
    return result


@lru_cache(maxsize=4)
def mel_filterbank(config: MelConfig) -> Array:
    """Triangular filters on the Slaney mel scale, each of unit area.

    Returns:
        (n_fft / 2 + 1, num_mels) float32.

    Source: torchaudio.functional.melscale_fbanks(norm="slaney", mel_scale="slaney").
    """
    edges = _mel_to_hz(np.linspace(_hz_to_mel(config.f_min), _hz_to_mel(config.f_max), config.num_mels + 2))
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    bank: Array = (np.maximum(triangles, 0.0) * (2.0 / (right - left))).astype(np.float32)
    bank.setflags(write=False)
    return bank


# The Slaney scale: linear (200/3 Hz per mel) below 1 kHz, then 27 mels for each factor of 6.4.
_BREAK_HZ, _BREAK_MEL, _MELS_PER_E = 1000.0, 15.0, 27.0 / math.log(6.4)


def _hz_to_mel(hertz: float) -> float:
    if hertz < _BREAK_HZ:
        return hertz * 3.0 / 200.0
    return _BREAK_MEL + _MELS_PER_E * math.log(hertz / _BREAK_HZ)


def _mel_to_hz(mels: Array) -> Array:
    above: Array = _BREAK_HZ * np.exp((np.maximum(mels, _BREAK_MEL) - _BREAK_MEL) / _MELS_PER_E)
    return np.where(mels < _BREAK_MEL, mels * 200.0 / 3.0, above)
