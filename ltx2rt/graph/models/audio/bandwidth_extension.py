"""The 2.3 vocoder around its second generator: causal log-mel analysis before it, the upsampled sound beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.kernels import conv1d, conv2d, quantized_linear
from ltx2rt.types import ParamSpec

LOG_FLOOR = 1e-5
SINC_ZEROS = 6
ROLLOFF = 0.99


@dataclass(frozen=True)
class BandwidthConfig:
    """Rates and analysis of the bandwidth extension.

    Attributes:
        input_rate, output_rate: Hz.
        hop: input samples between spectrogram frames.
        n_fft: transform length.
        window: length of the stored analysis filters.
        num_mels: mel bands.
    """

    input_rate: int
    output_rate: int
    hop: int
    n_fft: int
    window: int
    num_mels: int

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> BandwidthConfig:
        """From ``config["vocoder"]["bwe"]``.

        Raises:
            CheckpointError: a key is missing, or the output rate is no multiple of the input rate.
        """
        try:
            config = cls(
                input_rate=int(section["input_sampling_rate"]),
                output_rate=int(section["output_sampling_rate"]),
                hop=int(section["hop_length"]),
                n_fft=int(section["n_fft"]),
                window=int(section.get("win_size", section["n_fft"])),
                num_mels=int(section["num_mels"]),
            )
        except KeyError as error:
            raise CheckpointError(
                f"vocoder.bwe: the config lacks {error}; the checkpoint's metadata is damaged."
            ) from None
        if config.output_rate % config.input_rate:
            raise CheckpointError(
                f"vocoder.bwe: output rate {config.output_rate} is no multiple of input rate {config.input_rate}; "
                "check the checkpoint's config."
            )
        return config

    @property
    def ratio(self) -> int:
        return self.output_rate // self.input_rate


def bandwidth_specs(config: BandwidthConfig) -> list[ParamSpec]:
    """The stored analysis filters; the synthesis ones are in the files but serve nothing."""
    bins = config.n_fft // 2 + 1
    return [
        ParamSpec("mel_stft.stft_fn.forward_basis", (2 * bins, 1, config.window), layout="conv"),
        ParamSpec("mel_stft.stft_fn.inverse_basis", (2 * bins, 1, config.window), optional=True),
        ParamSpec("mel_stft.mel_basis", (config.num_mels, bins), layout="linear"),
    ]


def causal_log_mel(waveform: mx.array, config: BandwidthConfig, params: Params) -> mx.array:
    """Log-mel frames that end with the hop they describe.

    Args:
        waveform: (B, S, 2) float32, S a multiple of the hop.
        config: the analysis.
        params: ``mel_stft``.

    Returns:
        (B, S / hop, num_mels, 2) float32.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (MelSTFT).
    """
    batch, samples, channels = waveform.shape
    separate = waveform.transpose(0, 2, 1).reshape(batch * channels, samples, 1)
    parts = conv1d(
        separate,
        params["stft_fn.forward_basis"],
        stride=config.hop,
        padding=(max(config.window - config.hop, 0), 0),
    )
    # All real parts come first, then all imaginary ones.
    real, imaginary = mx.split(parts, 2, axis=-1)
    magnitude = mx.sqrt(mx.square(real) + mx.square(imaginary))
    mels = quantized_linear(magnitude, params.weight("mel_basis"))
    logs = mx.log(mx.maximum(mels, LOG_FLOOR))
    return logs.reshape(batch, channels, -1, config.num_mels).transpose(0, 2, 3, 1)


def upsample_waveform(waveform: mx.array, ratio: int) -> mx.array:
    """Hann-windowed sinc interpolation with repeated borders.

    Args:
        waveform: (B, S, C) float32.
        ratio: output samples per input sample.

    Returns:
        (B, ratio * S, C) float32.

    Source: Lightricks/LTX-2 ltx_core/model/audio_vae/vocoder.py @ v1.2.0 (UpSample1d with a Hann window).
    """
    batch, samples, channels = waveform.shape
    kernel = _interpolation_phases(ratio)
    reach = kernel.shape[1] // 2
    phases = conv2d(
        waveform[..., None],
        mx.array(kernel)[..., None, None],
        padding=((reach, reach), (0, 0)),
        padding_mode=("edge", "zeros"),
    )
    return phases.transpose(0, 1, 3, 2).reshape(batch, ratio * samples, channels)


def _interpolation_phases(ratio: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The sinc filter as ``ratio`` output phases, each over the neighbours x[p - reach .. p + reach]."""
    reach = math.ceil(SINC_ZEROS / ROLLOFF)
    t = (np.arange(2 * reach * ratio + 1) / ratio - reach) * ROLLOFF
    window = np.cos(np.clip(t, -SINC_ZEROS, SINC_ZEROS) * (math.pi / SINC_ZEROS / 2)) ** 2
    # The filter is not normalised; the factor `ratio` of interpolation cancels its 1 / ratio.
    taps = np.zeros(((2 * reach + 1) * ratio,), np.float64)
    taps[: t.size] = np.sinc(t) * window * ROLLOFF
    result: np.ndarray[Any, np.dtype[np.float32]] = taps.reshape(2 * reach + 1, ratio)[::-1].T.astype(
        np.float32, order="C"
    )
    return result
