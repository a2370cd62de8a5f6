"""Golden cases of whole pipeline runs: every saved state, evaluation and step, decoded pixels and waveform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.video_vae.tiling import Tile, Tiling, decode_plan
from ltx2rt.graph.stages.events import (
    AudioDecoded,
    Evaluated,
    LatentUpscaled,
    Noised,
    SoundEncoded,
    StepDone,
    VideoDecodeStarted,
    VideoEncoded,
)
from ltx2rt.verify.golden import Array, Case, Check, GoldenFile
from ltx2rt.verify.saved_run import SavedRun, pipeline_of

# Each part of a run with a tensor that only files which saved this part hold.
PARTS = (
    ("states", "noised_latent.00"),
    ("encoded", "vae_encode.out.00"),
    ("sound", "audio_encode.out.00"),
    ("x0", "step.x0.00"),
    ("steps", "step.latent.00"),
    ("evaluations", "eval.video_in.00"),
    ("upscaler", "upsampler.in.00"),
    ("audio", "audio_waveform"),
    ("frames", "video_uint8_hwc_first"),
)
LATENT = {"atol": 5e-4}
PIXEL = {"atol": 1e-3}
WAVEFORM = {"atol": 5e-4}

E = TypeVar("E")


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of a file below ``pipelines`` whose pipeline this version has."""
    if golden.path.parent.name != "pipelines" or pipeline_of(golden) is None:
        return
    comparison = Comparison(golden)
    for part, key in PARTS:
        if key in golden:
            yield Case(f"{golden.name}/{part}", getattr(comparison, part))


class Comparison:
    """A saved run beside our own run of the same request with the same noise; run once, compared in parts."""

    def __init__(self, golden: GoldenFile) -> None:
        self._golden = golden
        self._run = SavedRun(golden)

    def states(self) -> Iterator[Check]:
        """Conditioned and noised states of every noiser call."""
        for i, event in enumerate(self._all(Noised)):
            state = event.state
            given = {
                "noise": event.noise,
                "noise_scale": np.float32(event.noise_scale),
                "noised_latent": state.latent,
                "denoise_mask": state.denoise_mask[..., None],
                "clean_latent": state.clean_latent,
                "positions": state.positions,
                "initial_latent": event.before.latent,
                "attention_mask": state.attention_mask,
            }
            for name, actual in given.items():
                key = f"{name}.{i:02d}"
                if key in self._golden and actual is not None:
                    yield self._check(key, np.asarray(actual), **LATENT)

    def encoded(self) -> Iterator[Check]:
        """Encoded images and videos, in order."""
        latents = [_channels_first(event.latent) for event in self._all(VideoEncoded)]
        for key, latent in zip(self._keys("vae_encode.out"), latents, strict=False):
            yield self._check(key, latent, **LATENT)

    def sound(self) -> Iterator[Check]:
        """Log-mel spectrogram and latent of encoded sound."""
        for i, event in enumerate(self._all(SoundEncoded)):
            # Compared as magnitudes: in bands without energy the logarithm only magnifies the rounding of the
            # Fourier transform (floor 1e-5, differences below 4e-6).
            key = f"audio_encode.in_logmel.{i:02d}"
            magnitude = np.exp(np.array(event.log_mel).transpose(0, 3, 1, 2))
            yield Check(f"{key} (magnitudes)", magnitude, np.exp(self._golden[key]), atol=2e-5)
            yield self._check(f"audio_encode.out.{i:02d}", _audio_grid(event.tokens), **LATENT)

    def x0(self) -> Iterator[Check]:
        """The first post-processed predictions of both streams."""
        predictions = [x for event in self._all(Evaluated) for x in (event.video_denoised, event.audio_denoised)]
        keys = self._keys("step.x0")
        for key, prediction in zip(keys, (x for x in predictions if x is not None), strict=False):
            yield self._check(key, prediction, **LATENT)

    def steps(self) -> Iterator[Check]:
        """Latents after every sampler step, video and audio in turn."""
        latents = [x for event in self._all(StepDone) for x in (event.video, event.audio) if x is not None]
        keys = self._keys("step.latent")
        yield Check("number of steps", np.array(len(latents)), np.array(len(keys)), atol=0)
        for key, latent in zip(keys, latents, strict=False):
            yield self._check(key, latent, **LATENT)

    def evaluations(self) -> Iterator[Check]:
        """Inputs and predictions of every model evaluation, and the noise of the res_2s steps."""
        events = self._all(Evaluated)
        yield Check("evaluations", np.array(len(events)), np.array(len(self._keys("eval.video_in"))), atol=0)
        for i, event in enumerate(events):
            given = {
                "video_in": event.video,
                "audio_in": event.audio,
                "video_x0": event.video_denoised,
                "audio_x0": event.audio_denoised,
            }
            for name, actual in given.items():
                if actual is not None:
                    yield self._check(f"eval.{name}.{i:02d}", actual, **LATENT)

    def upscaler(self) -> Iterator[Check]:
        """Un-normalised latents before and after the spatial upscaler."""
        for i, event in enumerate(self._all(LatentUpscaled)):
            yield self._check(f"upsampler.in.{i:02d}", _channels_first(event.before), **LATENT)
            yield self._check(f"upsampler.out.{i:02d}", _channels_first(event.after), **LATENT)

    def audio(self) -> Iterator[Check]:
        """Audio latent, log-mel spectrogram and waveform."""
        for i, event in enumerate(self._all(AudioDecoded)):
            yield self._check(f"audio_decode.in.{i:02d}", _audio_grid(event.tokens), **LATENT)
            log_mel = np.array(event.log_mel.astype(mx.float32)).transpose(0, 3, 1, 2)
            yield self._check(f"audio_decode.out.{i:02d}", log_mel, atol=5e-4, rtol=1e-4)
        waveform, rate = self._run.clip.audio, self._run.clip.sample_rate
        assert waveform is not None
        expected = self._golden["audio_waveform"]
        yield Check("audio_waveform", waveform.T[:, : expected.shape[1]], expected, **WAVEFORM)
        yield Check("audio_sampling_rate", np.array(rate), np.array(int(self._metadata("audio_sampling_rate"))), atol=0)

    def frames(self) -> Iterator[Check]:
        """Decoder inputs (one per tile), decoded frames as floats and as bytes, chunk lengths."""
        chunks = self._run.chunks
        (started,) = self._all(VideoDecodeStarted)
        latent = np.array(started.latent.astype(mx.float32))
        tiling = self._run.request.tiling
        tiles = decode_plan(latent.shape[1:4], tiling) if isinstance(tiling, Tiling) else None
        inputs = [_cut(latent, tile) for tile in tiles.tiles] if tiles else [latent]
        for key, tile in zip(self._keys("vae_decode.in"), inputs, strict=False):
            yield self._check(key, tile.transpose(0, 4, 1, 2, 3), **LATENT)
        video = np.concatenate(chunks)
        if "vae_decode.out_last_frame.00" in self._golden:
            saved = np.clip((self._golden["vae_decode.out_last_frame.00"] + 1) / 2, 0, 1)
            yield Check("vae_decode.out_last_frame.00", video[-1].transpose(2, 0, 1)[None, :, None], saved, **PIXEL)
        lengths = np.array([len(chunk) for chunk in chunks])
        yield Check("chunk_frames", lengths, np.array(self._metadata("chunk_frames")), atol=0)
        as_bytes = np.floor(np.clip(video, 0, 1) * 255).astype(np.uint8)
        for key, frame in (("video_uint8_hwc_first", as_bytes[0]), ("video_uint8_hwc_last", as_bytes[-1])):
            expected = self._golden[key]
            yield Check(key, frame, expected, atol=1)
            off = np.mean(np.any(frame != expected, axis=-1))
            yield Check(f"{key}: share of pixels off", np.array(off), np.array(0.0), atol=0.01)
        yield self._check("video_uint8_mean_per_frame", as_bytes.mean(axis=(1, 2, 3)), atol=0.01)

    def _all(self, kind: type[E]) -> list[E]:
        return [event for event in self._run.events if isinstance(event, kind)]

    def _keys(self, stem: str) -> list[str]:
        return [key for key in self._golden if re.fullmatch(re.escape(stem) + r"\.\d+", key)]

    def _metadata(self, key: str) -> int:
        value: int = self._golden.metadata[key]
        return value

    def _check(self, key: str, actual: Array, **tolerance: float) -> Check:
        return Check(key, actual, self._golden[key], **tolerance)


def _audio_grid(tokens: mx.array) -> Array:
    """Tokens (B, L, 128) -> latent (B, 8, L, 16), the layout of the golden files."""
    values = np.array(tokens.astype(mx.float32))
    return values.reshape(*values.shape[:2], 8, 16).transpose(0, 2, 1, 3)


def _cut(latent: Array, tile: Tile) -> Array:
    frames, height, width = (slice(*axis.source) for axis in (tile.frames, tile.height, tile.width))
    return latent[:, frames, height, width]


def _channels_first(latent: mx.array) -> Array:
    return np.array(latent.astype(mx.float32)).transpose(0, 4, 1, 2, 3)
