"""Resampling of what is written: exact tones, lengths, channels, and nothing done where nothing is asked."""

from __future__ import annotations

import numpy as np
import pytest

from ltx2rt.errors import MediaError
from ltx2rt.graph.models.audio import mel
from ltx2rt.media.resampling import resample

RATES = [(24000, 48000), (30000, 48000), (26400, 24000), (48000, 24000), (24000, 44100)]


def decibels(difference: np.ndarray, sound: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(difference**2)) / np.sqrt(np.mean(sound**2))))


def tones(count: int, rate: int, frequencies: tuple[float, float]) -> np.ndarray:
    """(S, 2) float64: one tone per channel."""
    return 0.5 * np.sin(2 * np.pi * np.arange(count)[:, None] * np.array(frequencies) / rate)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_tones_arrive_in_place_and_on_their_channel(source: int, target: int) -> None:
    frequencies = 0.2 * min(source, target), 0.4 * min(source, target)
    count = 4 * source + 7  # several frames
    made = resample(tones(count, source, frequencies).astype(np.float32), source, target)
    exact = tones(-(-count * target // source), target, frequencies)
    assert made.shape == exact.shape
    assert made.dtype == np.float32
    inside = slice(target // 10, -target // 10)  # the edges ring
    for channel in range(2):
        assert decibels((made - exact)[inside, channel], exact[inside, channel]) < -75


@pytest.mark.parametrize(("source", "target"), RATES)
def test_it_differs_from_the_encoder_input_as_documented(source: int, target: int) -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=(2 * source, 2)).astype(np.float32)
    ours, encoder = resample(noise, source, target), mel.resample(noise, source, target)
    assert ours.shape == encoder.shape
    assert -22 < decibels(ours - encoder, encoder) < -19


@pytest.mark.parametrize("count", [1, 5, 31, 1000])
def test_short_sounds_keep_their_length(count: int) -> None:
    sound = np.full((count, 2), 0.25, np.float32)
    assert resample(sound, 24000, 48000).shape == (2 * count, 2)
    assert resample(sound, 48000, 24000).shape == (-(-count // 2), 2)


def test_sound_at_its_own_rate_keeps_its_bits() -> None:
    sound = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    assert resample(sound, 24000, 24000) is sound
    assert resample(sound[:0], 24000, 48000).shape == (0, 2)


def test_rates_that_are_none() -> None:
    with pytest.raises(MediaError, match="must be positive, got 0 and 48000"):
        resample(np.zeros((4, 2), np.float32), 0, 48000)
