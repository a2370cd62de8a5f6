"""Mel front-end: reference values of a tone and of silence, resampling against the plain sum, rejections."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.audio.mel import MelConfig, log_mel, mel_filterbank, resample


def tone(frequency: float, rate: int, samples: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / rate)).astype(np.float32)


def plain_resample(x: np.ndarray, source: int, target: int) -> np.ndarray:
    """The windowed sinc sum over all input samples, one output at a time, in float64."""
    common = math.gcd(source, target)
    step, phases = source // common, target // common
    base = min(step, phases) * 0.99
    result = np.zeros(math.ceil(len(x) * phases / step))
    for m in range(len(result)):
        t = (np.arange(len(x)) / step - m / phases) * base
        t = t[np.abs(t) < 6]
        values = x[np.abs((np.arange(len(x)) / step - m / phases) * base) < 6]
        result[m] = (values * np.sinc(t) * np.cos(np.pi * t / 12) ** 2).sum() * base / step
    return result


def test_tone_gives_the_reference_spectrum() -> None:
    # 440 Hz at half scale through the official analysis (torchaudio), frames 50 and 0, bands 5 to 14.
    spectrum = log_mel(tone(440, 16000, 16000)[None, :, None], MelConfig())
    assert spectrum.shape == (1, 101, 64, 1)
    middle = [-6.6939, -5.5659, -3.4820, 1.0858, 0.9799, -3.5017, -5.6024, -6.7087, -7.4965, -8.1104]
    border = [-0.4667, -0.1727, 0.3900, 1.2133, 1.1626, 0.2235, -0.4394, -0.8404, -1.1418, -1.3870]
    np.testing.assert_allclose(spectrum[0, 50, 5:15, 0], middle, atol=2e-3)
    np.testing.assert_allclose(spectrum[0, 0, 5:15, 0], border, atol=1e-4)


def test_silence_is_the_floor_everywhere() -> None:
    spectrum = log_mel(np.zeros((1, 800, 2)), MelConfig())
    assert spectrum.shape == (1, 6, 64, 2)
    np.testing.assert_allclose(spectrum, math.log(1e-5), rtol=1e-6)


def test_channels_and_batch_are_separate() -> None:
    rng = np.random.default_rng(0)
    waveform = rng.standard_normal((2, 1000, 2)).astype(np.float32)
    together = log_mel(waveform, MelConfig())
    for item in range(2):
        for channel in range(2):
            alone = log_mel(waveform[item : item + 1, :, channel : channel + 1], MelConfig())
            np.testing.assert_array_equal(together[item, :, :, channel], alone[0, :, :, 0])


def test_filterbank_has_the_reference_edges() -> None:
    bank = mel_filterbank(MelConfig())
    assert bank.shape == (513, 64)
    assert bank.max() == pytest.approx(0.0213312, abs=1e-7)
    hertz = np.linspace(0, 8000, 513)
    # Bands 0, 1 and 63 stand between (0, 92.812), (46.406, 139.217) and (7269.79, 8000) Hz.
    for band, low, high in ((0, 0.0, 92.812), (1, 46.406, 139.217), (63, 7269.79, 8000.0)):
        inside = (hertz > low) & (hertz < high)
        assert (bank[inside, band] > 0).all()
        assert (bank[~inside, band] == 0).all()


@pytest.mark.parametrize(("source", "target"), [(44100, 16000), (48000, 16000), (11025, 16000), (16000, 24000), (7, 5)])
def test_resampling_is_the_windowed_sinc_sum(source: int, target: int) -> None:
    rng = np.random.default_rng(source)
    waveform = rng.standard_normal((733, 2)).astype(np.float32)
    result = resample(waveform, source, target)
    assert result.shape == (math.ceil(733 * target / source), 2)
    for channel in range(2):
        expected = plain_resample(waveform[:, channel].astype(np.float64), source, target)
        np.testing.assert_allclose(result[:, channel], expected, atol=2e-6)


def test_resampling_keeps_a_low_tone_and_the_same_rate_keeps_everything() -> None:
    resampled = resample(tone(200, 44100, 44100)[:, None], 44100, 16000)[:, 0]
    np.testing.assert_allclose(resampled[100:-100], tone(200, 16000, 16000)[100:-100], atol=2e-3)
    waveform = tone(200, 16000, 50)[:, None]
    np.testing.assert_array_equal(resample(waveform, 16000, 16000), waveform)


def test_a_clip_shorter_than_half_a_window_is_refused() -> None:
    with pytest.raises(UsageError, match="longer than 512 samples at 16000 Hz, got 512"):
        log_mel(np.zeros((1, 512, 2)), MelConfig())


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="got 0 and 16000"):
        resample(np.zeros((10, 2)), 0, 16000)


def test_configuration_is_read_from_its_official_places() -> None:
    section = {
        "model": {"params": {"sampling_rate": 8000, "ddconfig": {"mel_bins": 32}}},
        "preprocessing": {
            "stft": {"filter_length": 256, "hop_length": 80, "win_length": 256},
            "mel": {"n_mel_channels": 99, "mel_fmin": 50, "mel_fmax": 3000},
        },
    }
    assert MelConfig.from_dict(section) == MelConfig(8000, 256, 80, 32, 50.0, 3000.0)
    assert MelConfig.from_dict({}) == MelConfig()


def test_a_window_shorter_than_the_transform_is_refused() -> None:
    with pytest.raises(CheckpointError, match="win_length 512 differs from filter_length 1024"):
        MelConfig.from_dict({"preprocessing": {"stft": {"win_length": 512}}})
