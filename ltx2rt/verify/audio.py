"""Golden cases of the audio path: mel front-end, audio VAE and vocoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import mlx.core as mx

from ltx2rt.graph.components import AUDIO_VAE, VOCODER
from ltx2rt.graph.models.audio import mel, vocoder
from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.weights.checkpoint import Checkpoint

_ATOL, _STACK_ATOL, _RTOL = 2e-5, 1e-4, 1e-4


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """One case per sample rate, latent length and spectrogram of ``19b_audio*``, ``23_audio*``, ``25_audio*`` files."""
    if not re.fullmatch(r"(19b|23|25)_audio.*", golden.path.stem):
        return
    path = golden.root / golden.metadata["checkpoint"]
    models = lru_cache(maxsize=1)(lambda: _Models(Checkpoint.open(path)))
    runners: tuple[tuple[str, Callable[..., Iterator[Check]]], ...] = (
        (r"(mel\.\d+)\.waveform", _mel),
        (r"(encode)\.in_logmel", _encode),
        (r"(decode\.\d+)\.in", _decode),
        (r"(vocoder\.\d+)\.out", _vocoder),
    )
    keys = golden.keys()
    for key in keys:
        for pattern, runner in runners:
            match = re.fullmatch(pattern, key)
            if match:
                yield Case(f"{golden.name}/{match[1]}", partial(runner, golden, match[1], models))


class _Models:
    """The audio components of one checkpoint in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        config, self.mel = AUDIO_VAE.parse(checkpoint)
        params = Params(checkpoint.load("audio_vae", audio_vae.param_specs(config)))
        self.encoder = audio_vae.AudioEncoder(config, params, mx.float32)
        self.decoder = audio_vae.AudioDecoder(config, params, mx.float32)
        voice = VOCODER.parse(checkpoint)
        self.vocoder = vocoder.Vocoder(voice, Params(checkpoint.load("vocoder", vocoder.param_specs(voice))))


_Source = Callable[[], _Models]


def _mel(golden: GoldenFile, case: str, models: _Source) -> Iterator[Check]:
    config = models().mel
    waveform = golden.given(f"{case}.waveform").transpose(0, 2, 1)
    rate = int(case.partition(".")[2])
    resampled = mel.resample(waveform, rate, config.sample_rate)
    key = f"{case}.resampled_{config.sample_rate}"
    if rate != config.sample_rate:
        yield golden.check(key, resampled.transpose(0, 2, 1), _ATOL, _RTOL)
    spectrum = mel.log_mel(resampled, config)
    yield golden.check(f"{case}.logmel", _spectrum_to_golden(spectrum), _ATOL, _RTOL)
    yield golden.check(f"{case}.latent", _encoded(models(), spectrum), _STACK_ATOL, _RTOL)


def _encode(golden: GoldenFile, case: str, models: _Source) -> Iterator[Check]:
    spectrum = golden.given(f"{case}.in_logmel").transpose(0, 2, 3, 1)
    yield golden.check(f"{case}.out", _encoded(models(), spectrum), _STACK_ATOL, _RTOL)


def _decode(golden: GoldenFile, case: str, models: _Source) -> Iterator[Check]:
    latent = golden.given(f"{case}.in")
    batch, _, frames, _ = latent.shape
    tokens = mx.array(latent.transpose(0, 2, 1, 3).reshape(batch, frames, -1))
    spectrum = to_numpy(models().decoder(tokens))
    yield golden.check(f"{case}.out", _spectrum_to_golden(spectrum), _STACK_ATOL, _RTOL)


def _vocoder(golden: GoldenFile, case: str, models: _Source) -> Iterator[Check]:
    voice = models().vocoder
    length = case.partition(".")[2]
    spectrum = mx.array(golden.result_as_input(f"decode.{length}.out").transpose(0, 2, 3, 1))
    yield golden.check(f"{case}.out", to_numpy(voice(spectrum)).transpose(0, 2, 1), _STACK_ATOL, _RTOL)
    key = f"{case}.base_16k"
    if key in golden:
        yield golden.check(key, to_numpy(voice.narrowband(spectrum)).transpose(0, 2, 1), _STACK_ATOL, _RTOL)
    rate = golden.metadata.get("output_sampling_rate")
    if rate is not None:
        yield Check("output_sampling_rate", from_numbers([voice.sample_rate]), from_numbers([rate]), 0.0)


def _encoded(models: _Models, spectrum: Array) -> Array:
    """The latent of a spectrogram (B, T, bins, 2) in the layout of the golden files (B, channels, L, bins)."""
    config = models.encoder.config
    tokens = to_numpy(models.encoder(mx.array(spectrum)))
    result: Array = tokens.reshape(*tokens.shape[:2], config.latent_channels, config.latent_bins).transpose(0, 2, 1, 3)
    return result


def _spectrum_to_golden(spectrum: Array) -> Array:
    result: Array = spectrum.transpose(0, 3, 1, 2)
    return result
