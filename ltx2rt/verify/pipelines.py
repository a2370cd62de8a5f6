"""Golden cases of whole pipeline runs: every saved state and step, decoded pixels and waveform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.noise import RecordedNoise
from ltx2rt.graph.models.tiling import Tile, Tiling, decode_plan
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.events import (
    AudioDecoded,
    Denoised,
    Event,
    ImageEncoded,
    LatentUpscaled,
    Noised,
    StepDone,
    VideoDecodeStarted,
)
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.request import ImageCondition, Request
from ltx2rt.graph.pipelines.run import GeneratedClip, Run
from ltx2rt.media.images import load_conditioning_image
from ltx2rt.verify.golden import Array, Case, Check, GoldenFile

PIPELINE_NAMES = ((r"distilled(_.*)?", "distilled"), (r"ti2vid_one_stage(_.*)?", "one-stage"))
# Each part of a run with a tensor that only files which saved this part hold.
PARTS = (
    ("states", "noised_latent.00"),
    ("image_latents", "vae_encode.out.00"),
    ("x0", "step.x0.00"),
    ("steps", "step.latent.00"),
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
    if golden.path.parent.name != "pipelines" or "checkpoint" not in golden.metadata:
        return
    for pattern, name in PIPELINE_NAMES:
        if re.fullmatch(pattern, str(golden.metadata.get("pipeline"))):
            saved = SavedRun(golden, name)
            for part, first_key in PARTS:
                if first_key in golden:
                    yield Case(f"{golden.name}/{part}", getattr(saved, part))


class SavedRun:
    """A golden file beside our own run of the same request with the same noise; run once, compared in parts."""

    def __init__(self, golden: GoldenFile, pipeline: str) -> None:
        self._golden = golden
        self._pipeline = pipeline
        self._events: list[Event] = []

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

    def image_latents(self) -> Iterator[Check]:
        """Encoded image conditions, in order."""
        latents = [_channels_first(event.latent) for event in self._all(ImageEncoded)]
        for key, latent in zip(self._keys("vae_encode.out"), latents, strict=False):
            yield self._check(key, latent, **LATENT)

    def x0(self) -> Iterator[Check]:
        """The first post-processed predictions of both streams."""
        predictions = [x0 for event in self._all(Denoised) for x0 in (event.video, event.audio) if x0 is not None]
        for key, prediction in zip(self._keys("step.x0"), predictions, strict=False):
            yield self._check(key, prediction, **LATENT)

    def steps(self) -> Iterator[Check]:
        """Latents after every sampler step, video and audio in turn."""
        latents = [x for event in self._all(StepDone) for x in (event.video, event.audio) if x is not None]
        keys = self._keys("step.latent")
        yield Check("number of steps", np.array(len(latents)), np.array(len(keys)), atol=0)
        for key, latent in zip(keys, latents, strict=False):
            yield self._check(key, latent, **LATENT)

    def upscaler(self) -> Iterator[Check]:
        """Un-normalised latents before and after the spatial upscaler."""
        for i, event in enumerate(self._all(LatentUpscaled)):
            yield self._check(f"upsampler.in.{i:02d}", _channels_first(event.before), **LATENT)
            yield self._check(f"upsampler.out.{i:02d}", _channels_first(event.after), **LATENT)

    def audio(self) -> Iterator[Check]:
        """Audio latent, log-mel spectrogram and waveform."""
        for i, event in enumerate(self._all(AudioDecoded)):
            tokens = np.array(event.tokens.astype(mx.float32))
            batch, length, _ = tokens.shape
            latent = tokens.reshape(batch, length, 8, 16).transpose(0, 2, 1, 3)
            yield self._check(f"audio_decode.in.{i:02d}", latent, **LATENT)
            log_mel = np.array(event.log_mel.astype(mx.float32)).transpose(0, 3, 1, 2)
            yield self._check(f"audio_decode.out.{i:02d}", log_mel, atol=5e-4, rtol=1e-4)
        expected = self._golden["audio_waveform"]
        waveform = self._clip.audio.T[:, : expected.shape[1]]
        yield Check("audio_waveform", waveform, expected, **WAVEFORM)
        rate = self._golden.metadata["audio_sampling_rate"]
        yield Check("audio_sampling_rate", np.array(self._clip.sample_rate), np.array(int(rate)), atol=0)

    def frames(self) -> Iterator[Check]:
        """Decoder inputs (one per tile), decoded frames as floats and as bytes, chunk lengths."""
        chunks = self._chunks
        (started,) = self._all(VideoDecodeStarted)
        latent = np.array(started.latent.astype(mx.float32))
        tiling = self._request.tiling
        tiles = decode_plan(latent.shape[1:4], tiling) if isinstance(tiling, Tiling) else None
        inputs = [_cut(latent, tile) for tile in tiles.tiles] if tiles else [latent]
        for key, tile in zip(self._keys("vae_decode.in"), inputs, strict=False):
            yield self._check(key, tile.transpose(0, 4, 1, 2, 3), **LATENT)
        video = np.concatenate(chunks)
        if "vae_decode.out_last_frame.00" in self._golden:
            saved = np.clip((self._golden["vae_decode.out_last_frame.00"] + 1) / 2, 0, 1)
            yield Check("vae_decode.out_last_frame.00", video[-1].transpose(2, 0, 1)[None, :, None], saved, **PIXEL)
        lengths = self._golden.metadata["chunk_frames"]
        yield Check("chunk_frames", np.array([len(c) for c in chunks]), np.array(lengths), atol=0)
        as_bytes = np.floor(np.clip(video, 0, 1) * 255).astype(np.uint8)
        for key, frame in (("video_uint8_hwc_first", as_bytes[0]), ("video_uint8_hwc_last", as_bytes[-1])):
            expected = self._golden[key]
            yield Check(key, frame, expected, atol=1)
            off = np.mean(np.any(frame != expected, axis=-1))
            yield Check(f"{key}: share of pixels off", np.array(off), np.array(0.0), atol=0.01)
        yield self._check("video_uint8_mean_per_frame", as_bytes.mean(axis=(1, 2, 3)), atol=0.01)

    @cached_property
    def _clip(self) -> GeneratedClip:
        pipeline = PIPELINES[self._pipeline]
        pipeline.check(self._request, self._files)
        noise = RecordedNoise([self._golden[key] for key in self._keys("noise")])
        return pipeline.generate(Run(self._files, self._request, self._events.append, noise))

    @cached_property
    def _chunks(self) -> list[Array]:
        return list(self._clip.frames)

    @cached_property
    def _files(self) -> ModelFiles:
        root, checkpoint = self._golden.root, self._golden.metadata["checkpoint"]
        family = checkpoint.removesuffix("-style.safetensors")
        loras = self._arguments.get("loras", [])
        return ModelFiles.open(
            root / checkpoint,
            root / "tiny-gemma3",
            root / "tiny-spatial-upscaler-x2.safetensors",
            tuple((root / f"{family}-{name}.safetensors", float(strength)) for name, strength in loras),
        )

    @cached_property
    def _request(self) -> Request:
        arguments = self._arguments
        inputs = self._golden.path.parent / "inputs"
        tiling = arguments.get("tiling")
        return Request(
            prompt=arguments["prompt"],
            negative_prompt=arguments.get("negative_prompt", ""),
            seed=arguments["seed"],
            height=arguments["height"],
            width=arguments["width"],
            num_frames=arguments["num_frames"],
            frame_rate=Fraction(arguments["frame_rate"]),
            num_inference_steps=arguments.get("num_inference_steps", 1),
            video_guider=_guider(arguments.get("video_guider", {})),
            audio_guider=_guider(arguments.get("audio_guider", {})),
            images=tuple(
                ImageCondition(partial(_pixels, inputs / name, crf), frame, strength)
                for name, frame, strength, crf in arguments.get("images", [])
            ),
            tiling=None if tiling is None else _tiling(tiling),
            dtype=mx.float32,
        )

    @property
    def _arguments(self) -> dict[str, Any]:
        return dict(self._golden.metadata["args"])

    def _all(self, kind: type[E]) -> list[E]:
        assert self._clip is not None
        return [event for event in self._events if isinstance(event, kind)]

    def _keys(self, stem: str) -> list[str]:
        return [key for key in self._golden.keys() if re.fullmatch(re.escape(stem) + r"\.\d+", key)]

    def _check(self, key: str, actual: Array, **tolerance: float) -> Check:
        return Check(key, actual, self._golden[key], **tolerance)


def _guider(values: dict[str, Any]) -> GuiderParams:
    return GuiderParams(**{**values, "stg_blocks": tuple(values.get("stg_blocks", ()))})


def _tiling(values: dict[str, Any]) -> Tiling:
    spatial, temporal = values.get("spatial"), values.get("temporal")
    return Tiling.of(
        spatial=None if spatial is None else tuple(spatial), temporal=None if temporal is None else tuple(temporal)
    )


def _pixels(path: Any, crf: int, height: int, width: int) -> Array:
    return load_conditioning_image(path, height, width, crf=crf)


def _cut(latent: Array, tile: Tile) -> Array:
    frames, height, width = (slice(*axis.source) for axis in (tile.frames, tile.height, tile.width))
    return latent[:, frames, height, width]


def _channels_first(latent: mx.array) -> Array:
    return np.array(latent.astype(mx.float32)).transpose(0, 4, 1, 2, 3)
