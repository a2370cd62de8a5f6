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
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.saved_run import SavedRun, holds_passes, pipeline_of

# The parts of a run, each with the tensors that it compares. A part is compared when any of them was saved.
PARTS = {
    "states": (
        "noise_scale",
        "noised_latent",
        "denoise_mask",
        "clean_latent",
        "positions",
        "initial_latent",
        "attention_mask",
    ),
    "encoded": ("vae_encode.out",),
    "sound": ("audio_encode.in_logmel", "audio_encode.out"),
    "x0": ("step.x0",),
    "steps": ("step.latent",),
    "evaluations": ("eval.video_in", "eval.audio_in", "eval.video_x0", "eval.audio_x0"),
    "upscaler": ("upsampler.in", "upsampler.out"),
    "audio": ("audio_decode.in", "audio_decode.out", "audio_waveform"),
    "frames": (
        "vae_decode.in",
        "vae_decode.out_last_frame",
        "video_uint8_hwc_first",
        "video_uint8_hwc_last",
        "video_uint8_mean_per_frame",
    ),
}
# The pipeline whose second stage, in the release that was saved, makes sound anew and throws it away.
_KEEPS_SOUND = "two-stage"
LATENT = {"atol": 5e-4}
PIXEL = {"atol": 1e-3}
WAVEFORM = {"atol": 5e-4}

E = TypeVar("E")


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of a file below ``pipelines`` whose pipeline this version has."""
    if golden.path.parent.name != "pipelines" or holds_passes(golden) or pipeline_of(golden) is None:
        return
    comparison = Comparison(golden)
    yield Case(f"{golden.name}/saved", comparison.saved)
    keys = golden.keys()
    stems = {re.sub(r"\.\d+$", "", key) for key in keys}
    for part, compared in PARTS.items():
        if part == "frames" and pipeline_of(golden) == _KEEPS_SOUND:
            continue
        if stems & set(compared):
            yield Case(f"{golden.name}/{part}", getattr(comparison, part))


class Comparison:
    """A saved run beside our own run of the same request with the same noise; run once, compared in parts."""

    def __init__(self, golden: GoldenFile) -> None:
        self._golden = golden
        self._run = SavedRun(golden)
        # A file can say itself that some results of the run are not in it, because others imply or repeat them.
        self._left_out = frozenset(golden.metadata.get("left_out", ()))
        self._superseded = pipeline_of(golden) == _KEEPS_SOUND

    def saved(self) -> Iterator[Check]:
        """What our run made and took, counted beside what was saved, so that a part which is missing shows."""
        evaluations = self._all(Evaluated)
        by_step = not self._golden.numbered("eval.video_x0")
        made = {
            "clean_latent": len(self._all(Noised)),
            "vae_encode.out": len(self._all(VideoEncoded)),
            "audio_encode.out": len(self._all(SoundEncoded)),
            "upsampler.out": len(self._all(LatentUpscaled)),
            "audio_decode.in": len(self._all(AudioDecoded)),
            "audio_decode.out": len(self._all(AudioDecoded)),
            # A first-order sampler's run has its steps saved, a res_2s run its evaluations.
            "step.latent": len(self._latents()) if by_step else 0,
            "eval.video_x0": 0 if by_step else sum(event.video is not None for event in evaluations),
            "eval.audio_x0": 0 if by_step else sum(event.audio is not None for event in evaluations),
        }
        for stem, count in made.items():
            if stem in self._left_out:
                continue
            yield Check(
                f"number of {stem}", from_numbers(count), from_numbers(len(self._golden.numbered(stem))), atol=0
            )
        results = ["audio_waveform"] if self._run.clip.audio is not None else []
        results += ["video_uint8_mean_per_frame"] if self._run.clip.frames is not None else []
        for key in results:
            if key not in self._left_out:
                yield Check(f"{key} saved", from_numbers(key in self._golden), from_numbers(True), atol=0)
        yield Check("noise draws left", from_numbers(self._run.draws_left), np.zeros(3), atol=0)

    def states(self) -> Iterator[Check]:
        """Conditioned and noised states of every noiser call."""
        events = self._all(Noised)
        for i, event in enumerate(events[:-1] if self._superseded else events):
            state = event.state
            results = {
                "noise_scale": np.float32(event.noise_scale),
                "noised_latent": state.latent,
                "denoise_mask": state.denoise_mask[..., None],
                "clean_latent": state.clean_latent,
                "positions": state.positions,
            }
            # Saved where it is not the clean latent and has a share in the noised one.
            if f"initial_latent.{i:02d}" in self._golden:
                results["initial_latent"] = event.before.latent
            elif event.noise_scale < 0.999:  # a first sigma of 0.9999999 stands for 1
                yield self._check(f"clean_latent.{i:02d}", event.before.latent, **LATENT)
            if state.attention is not None:
                results["attention_mask"] = state.attention.dense()
            for name, actual in results.items():
                if name not in self._left_out:
                    yield self._check(f"{name}.{i:02d}", from_numbers(actual), **LATENT)

    def encoded(self) -> Iterator[Check]:
        """Encoded images and videos, in order."""
        latents = [_channels_first(event.latent) for event in self._all(VideoEncoded)]
        yield from self._series("vae_encode.out", latents, **LATENT)

    def sound(self) -> Iterator[Check]:
        """Log-mel spectrogram and latent of encoded sound."""
        events = self._all(SoundEncoded)
        for i, event in enumerate(events):
            # Compared as magnitudes: in bands without energy the logarithm only magnifies the rounding of the
            # Fourier transform (floor 1e-5, differences below 4e-6).
            key = f"audio_encode.in_logmel.{i:02d}"
            magnitude = np.exp(to_numpy(event.log_mel).transpose(0, 3, 1, 2))
            with np.errstate(over="ignore"):  # a damaged file; infinity fails the comparison
                expected = np.exp(self._golden.expected(key))
            yield Check(f"{key} (magnitudes)", magnitude, expected, atol=2e-5)
        yield from self._series("audio_encode.out", [_audio_grid(event.tokens) for event in events], **LATENT)

    def x0(self) -> Iterator[Check]:
        """The first post-processed predictions: two of them, of both streams or of two steps of one."""
        predictions = [x for event in self._all(Evaluated) for x in (event.video_denoised, event.audio_denoised)]
        count = max(2, len(self._golden.numbered("step.x0")))
        yield from self._series("step.x0", [x for x in predictions if x is not None][:count], **LATENT)

    def steps(self) -> Iterator[Check]:
        """Latents after every sampler step, video and audio in turn."""
        if self._superseded:
            for i, latent in enumerate(self._latents("denoise 1")):
                yield self._check(f"step.latent.{i:02d}", latent, **LATENT)
            return
        yield from self._series("step.latent", self._latents(), **LATENT)

    def evaluations(self) -> Iterator[Check]:
        """Inputs and predictions of every model evaluation."""
        events = self._all(Evaluated)
        for name, arrays in (
            ("video_in", [event.video for event in events]),
            ("audio_in", [event.audio for event in events]),
            ("video_x0", [event.video_denoised for event in events]),
            ("audio_x0", [event.audio_denoised for event in events]),
        ):
            yield from self._series(f"eval.{name}", [x for x in arrays if x is not None], **LATENT)

    def upscaler(self) -> Iterator[Check]:
        """Un-normalised latents before and after the spatial upscaler."""
        events = self._all(LatentUpscaled)
        yield from self._series("upsampler.in", [_channels_first(event.before) for event in events], **LATENT)
        yield from self._series("upsampler.out", [_channels_first(event.after) for event in events], **LATENT)

    def audio(self) -> Iterator[Check]:
        """Audio latent, log-mel spectrogram and waveform."""
        events = self._all(AudioDecoded)
        log_mels = [to_numpy(event.log_mel.astype(mx.float32)).transpose(0, 3, 1, 2) for event in events]
        yield from self._series("audio_decode.in", [_audio_grid(event.tokens) for event in events], **LATENT)
        yield from self._series("audio_decode.out", log_mels, atol=5e-4, rtol=1e-4)
        waveform, rate = self._run.clip.audio, self._run.clip.sample_rate
        yield Check(
            "audio_sampling_rate", from_numbers(rate), from_numbers(int(self._metadata("audio_sampling_rate"))), atol=0
        )
        if "audio_waveform" in self._left_out:
            return
        if waveform is None:
            raise ValueError("the run made no sound, but a waveform was saved.")
        expected = self._golden.expected("audio_waveform")
        yield Check("audio_waveform", waveform.T[:, : expected.shape[1]], expected, **WAVEFORM)

    def frames(self) -> Iterator[Check]:
        """Decoder inputs (one per tile), decoded frames as floats and as bytes, chunk lengths."""
        chunks = self._run.chunks
        (started,) = self._all(VideoDecodeStarted)
        latent = to_numpy(started.latent.astype(mx.float32))
        tiling = self._run.inputs.settings.tiling
        vae = self._run.vae
        factors = {"temporal_factor": vae.temporal_factor, "spatial_factor": vae.spatial_factor}
        tiles = decode_plan(latent.shape[1:4], tiling, **factors) if isinstance(tiling, Tiling) else None
        inputs = [_cut(latent, tile) for tile in tiles.tiles] if tiles else [latent]
        yield from self._series("vae_decode.in", [tile.transpose(0, 4, 1, 2, 3) for tile in inputs], **LATENT)
        video = np.concatenate(chunks)
        # The decoder's own output, which a tiled run only has in parts.
        if tiles is None and "vae_decode.out_last_frame" not in self._left_out:
            saved = np.clip((self._golden.expected("vae_decode.out_last_frame.00") + 1) / 2, 0, 1)
            yield Check("vae_decode.out_last_frame.00", video[-1].transpose(2, 0, 1)[None, :, None], saved, **PIXEL)
        # Where the official code has handed on frames, ours are handed on, too; in tiles one by one.
        ends = np.cumsum(self._golden.metadata["chunk_frames"])
        ours = np.cumsum([len(chunk) for chunk in chunks])
        yield Check("chunk_frames", from_numbers(np.isin(ends, [0, *ours])), np.ones(len(ends), bool), atol=0)
        as_bytes = np.floor(np.clip(video, 0, 1) * 255).astype(np.uint8)
        for key, frame in (("video_uint8_hwc_first", as_bytes[0]), ("video_uint8_hwc_last", as_bytes[-1])):
            if key in self._left_out:
                continue
            expected = self._golden.expected(key)
            yield Check(key, frame, expected, atol=1)
            off = np.mean(np.any(frame != expected, axis=-1))
            yield Check(f"{key}: share of pixels off", from_numbers(off), from_numbers(0.0), atol=0.01)
        yield self._check("video_uint8_mean_per_frame", as_bytes.mean(axis=(1, 2, 3)), atol=0.01)

    def _series(self, stem: str, actual: list[Array], **tolerance: float) -> Iterator[Check]:
        if stem not in self._left_out:
            yield from self._golden.check_all(stem, actual, **tolerance)

    def _latents(self, stage: str = "") -> list[Array]:
        """Of the steps of one stage, or of all."""
        steps = [event for event in self._all(StepDone) if stage in ("", event.stage)]
        return [x for event in steps for x in (event.video, event.audio) if x is not None]

    def _all(self, kind: type[E]) -> list[E]:
        return [event for event in self._run.events if isinstance(event, kind)]

    def _metadata(self, key: str) -> int:
        value: int = self._golden.metadata[key]
        return value

    def _check(self, key: str, actual: Array, **tolerance: float) -> Check:
        return self._golden.check(key, actual, **tolerance)


def _audio_grid(tokens: mx.array) -> Array:
    """Tokens (B, L, 128) -> latent (B, 8, L, 16), the layout of the golden files."""
    values = to_numpy(tokens.astype(mx.float32))
    result: Array = values.reshape(*values.shape[:2], 8, 16).transpose(0, 2, 1, 3)
    return result


def _cut(latent: Array, tile: Tile) -> Array:
    frames, height, width = (slice(*axis.source) for axis in (tile.frames, tile.height, tile.width))
    return latent[:, frames, height, width]


def _channels_first(latent: mx.array) -> Array:
    result: Array = to_numpy(latent.astype(mx.float32)).transpose(0, 4, 1, 2, 3)
    return result
