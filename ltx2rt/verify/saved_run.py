"""Repeats a saved pipeline run: its request, its files and its noise, rebuilt from a golden file."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.noise import NoiseSource, RecordedNoise
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.inputs import (
    AttentionMask,
    ImageCondition,
    ReferenceVideo,
    SoundInput,
    SourceClip,
    TimeRange,
)
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.images import load_conditioning_image
from ltx2rt.media.resize import resize_to_cover
from ltx2rt.verify.golden import Array, GoldenFile

# The names of the official pipelines, which a case's own suffix may follow.
PIPELINE_NAMES = {
    "distilled": "distilled",
    "ti2vid_one_stage": "one-stage",
    "ti2vid_two_stages_hq": "two-stage-hq",
    "ti2vid_two_stages": "two-stage",
    "ic_lora": "ic-lora",
    "keyframe_interpolation": "keyframe-interpolation",
    "a2vid_two_stage": "audio-to-video",
    "retake": "retake",
    "t2a_one_stage": "text-to-audio",
}


def pipeline_of(golden: GoldenFile) -> str | None:
    """Our name of the pipeline that a golden file was saved from; None if this version does not have it."""
    saved = str(golden.metadata.get("pipeline"))
    if "checkpoint" not in golden.metadata and "files" not in golden.metadata:
        return None
    if "files" in golden.metadata:
        return None
    for official, ours in PIPELINE_NAMES.items():
        if re.fullmatch(rf"{official}(_[a-z].*)?", saved):
            return ours
    return None


class SavedRun:
    """Our run of a saved request. Reading `clip`, `events` or `chunks` runs it once."""

    def __init__(self, golden: GoldenFile) -> None:
        self._golden = golden
        self._pipeline = pipeline_of(golden) or ""
        self._events: list[Event] = []

    @cached_property
    def clip(self) -> GeneratedClip:
        """What the pipeline returned."""
        pipeline = PIPELINES[self._pipeline]
        pipeline.check(self.request, self._files)
        noise = RecordedNoise([self._golden[key] for key in self._numbered("noise")])
        return pipeline.generate(Run(self._files, self.request, self._events.append, noise, self._sde_noise()))

    @property
    def events(self) -> list[Event]:
        """What the run told its observer so far."""
        assert self.clip is not None
        return self._events

    @cached_property
    def chunks(self) -> list[Array]:
        """Decoded chunks."""
        return list(self.clip.frames or ())

    @cached_property
    def request(self) -> Request:
        """The saved arguments as a request, in float32."""
        arguments = self._arguments
        tiling = arguments.get("tiling")
        request = Request(
            prompt=arguments["prompt"],
            negative_prompt=arguments.get("negative_prompt", ""),
            seed=arguments["seed"],
            height=arguments.get("height", 64),
            width=arguments.get("width", 64),
            num_frames=arguments["num_frames"],
            frame_rate=Fraction(arguments["frame_rate"] if "frame_rate" in arguments else arguments["fps"]),
            num_inference_steps=arguments.get("num_inference_steps", 1),
            video_guider=_guider(arguments.get("video_guider", {})),
            audio_guider=_guider(arguments.get("audio_guider", {})),
            images=tuple(
                ImageCondition(partial(_pixels, self._inputs / name, crf), frame, strength)
                for name, frame, strength, crf in arguments.get("images", [])
            ),
            tiling=None if tiling is None else _tiling(tiling),
            dtype=mx.float32,
        )
        if self._pipeline == "ic-lora":
            return self._with_references(request)
        if self._pipeline == "audio-to-video":
            sound = self._sound(arguments["audio_start_time"], arguments["audio_max_duration"])
            return replace(request, sound=sound)
        if self._pipeline == "retake":
            return self._with_source(request)
        if self._pipeline == "two-stage-hq":
            strengths = [arguments[f"distilled_lora_strength_stage_{i}"] for i in (1, 2)]
            return replace(request, distilled_lora_strengths=(strengths[0], strengths[1]))
        return request

    def _with_references(self, request: Request) -> Request:
        arguments = self._arguments
        _, strength = arguments["video_conditioning"]
        mask = None
        if "conditioning_attention_mask" in arguments:
            saved = self._golden["conditioning_attention_mask_in"][0, 0]
            mask = AttentionMask(weights=lambda height, width, count: _fitted(saved[..., None], height, width)[..., 0])
        elif "conditioning_attention_strength" in arguments:
            mask = AttentionMask(strength=arguments["conditioning_attention_strength"])
        frames = ripple_frames(request.num_frames, request.height, request.width)
        reference = ReferenceVideo(lambda height, width, count: from_uint8_resized(frames, height, width), strength)
        return replace(
            request,
            references=(reference,),
            attention_mask=mask,
            skip_stage_2=bool(arguments.get("skip_stage_2", False)),
        )

    def _with_source(self, request: Request) -> Request:
        arguments = self._arguments
        sound = None
        if arguments["audio"] is not None:
            duration = re.search(r"first ([0-9.]+) s", arguments["audio"])
            sound = self._sound(0.0, float(duration.group(1)) if duration else None)
        return replace(
            request,
            source=SourceClip(ripple_frames(request.num_frames, request.height, request.width), sound),
            region=TimeRange(arguments["start_time"], arguments["end_time"]),
            distilled=bool(arguments["distilled"]),
        )

    def _sound(self, start_s: float, duration_s: float | None) -> SoundInput:
        name = str(self._arguments["audio"]).split()[0]
        sound = read_audio(self._inputs / name, start_s=start_s, duration_s=duration_s)
        return SoundInput(sound.waveform, sound.sample_rate)

    def _sde_noise(self) -> Any:
        """Noise of the res_2s stages as saved: per step substep video and audio, then step video and audio."""
        keys = self._numbered("sde_noise")
        if not keys:
            return None
        draws = [self._golden[key] for key in keys]
        # Every stage takes its own sources; the saved draws of all stages follow each other.
        substep = RecordedNoise([draw for i, draw in enumerate(draws) if i % 4 < 2])
        step = RecordedNoise([draw for i, draw in enumerate(draws) if i % 4 >= 2])

        def sources() -> tuple[NoiseSource, NoiseSource]:
            return step, substep

        return sources

    @cached_property
    def _files(self) -> ModelFiles:
        root, checkpoint = self._golden.root, str(self._golden.metadata["checkpoint"])
        family = checkpoint.removesuffix("-style.safetensors")
        arguments = self._arguments
        loras = [(str(name), float(strength)) for name, strength in arguments.get("loras", [])]
        if self._pipeline == "ic-lora":
            loras.append(("ic-lora", float(arguments["ic_lora_strength"])))
        needs_distilled = self._pipeline in ("two-stage", "two-stage-hq", "keyframe-interpolation", "audio-to-video")
        distilled = [("distilled-lora", float(arguments.get("distilled_lora", 1.0)))] if needs_distilled else []

        def lora_paths(names: list[tuple[str, float]]) -> tuple[tuple[Path, float], ...]:
            return tuple((root / f"{family}-{name}.safetensors", strength) for name, strength in names)

        return ModelFiles.open(
            root / checkpoint,
            root / "tiny-gemma3",
            root / "tiny-spatial-upscaler-x2.safetensors",
            lora_paths(loras),
            lora_paths(distilled),
        )

    @property
    def _inputs(self) -> Path:
        return self._golden.path.parent / "inputs"

    @property
    def _arguments(self) -> dict[str, Any]:
        return dict(self._golden.metadata["args"])

    def _numbered(self, stem: str) -> list[str]:
        return [key for key in self._golden if re.fullmatch(re.escape(stem) + r"\.\d+", key)]


def ripple_frames(frames: int, height: int, width: int) -> Array:
    """The video that stands for a decoded file in the saved runs: uint8 (F, H, W, 3)."""
    f, h, w, c = np.ogrid[0:frames, 0:height, 0:width, 0:3]
    wave = np.sin(0.13 * (c + 1) * h + 0.07 * w + 0.5 * f)
    return np.rint(127.5 + 110 * wave).astype(np.uint8)


def from_uint8_resized(frames: Array, height: int, width: int) -> Array:
    """uint8 frames resized to cover the size, float32 in [-1, 1]."""
    resized: Array = resize_to_cover(frames.astype(np.float32), height, width)
    return resized / np.float32(127.5) - np.float32(1)


def _fitted(values: Array, height: int, width: int) -> Array:
    return values if values.shape[1:3] == (height, width) else resize_to_cover(values, height, width)


def _guider(values: dict[str, Any]) -> GuiderParams:
    return GuiderParams(**{**values, "stg_blocks": tuple(values.get("stg_blocks", ()))})


def _tiling(values: dict[str, Any]) -> Tiling:
    spatial, temporal = values.get("spatial"), values.get("temporal")
    return Tiling.of(
        spatial=None if spatial is None else tuple(spatial), temporal=None if temporal is None else tuple(temporal)
    )


def _pixels(path: Path, crf: int, height: int, width: int) -> Array:
    return load_conditioning_image(path, height, width, crf=crf)
