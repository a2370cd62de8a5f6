"""Repeats a saved pipeline run: its request, its files and its noise, rebuilt from a golden file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.diffusion.noise import NoiseSource, RecordedNoise
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.edited_clips import OwnClip, retake_of
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.inputs import (
    AttentionMask,
    FrameStream,
    GenerationInputs,
    ImageCondition,
    Media,
    ReferenceVideo,
    SoundInput,
)
from ltx2rt.graph.stages.run import GeneratedClip, Piece, Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.media.audio_reader import read_audio
from ltx2rt.media.grid_fit import GridFit
from ltx2rt.media.images import load_conditioning_image
from ltx2rt.media.pixel_range import to_signed_range
from ltx2rt.media.resize import resize_to_cover
from ltx2rt.types import Array
from ltx2rt.verify.diffusion import res_2s_draws
from ltx2rt.verify.golden import GoldenFile


def pipeline_of(golden: GoldenFile) -> str | None:
    """Our name of the pipeline that a golden file was saved from; None if this version does not have it."""
    saved = str(golden.metadata.get("pipeline"))
    if not {"checkpoint", "files"} & golden.metadata.keys():
        return None
    # The official name, which a case's own suffix may follow; the longest of those that fit.
    named = {official.replace("-", "_"): e.name for e in PIPELINES.values() for official in (e.name, *e.aliases)}
    fitting = [official for official in named if re.fullmatch(rf"{official}(_[a-z].*)?", saved)]
    return named[max(fitting, key=len)] if fitting else None


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
        pipeline.check(self.inputs, self._files)
        return pipeline.generate(Run(self._files, self.inputs, self._events.append, self._noise, self._sde_noise()))

    @cached_property
    def _noise(self) -> RecordedNoise:
        return RecordedNoise([self._golden.given(key) for key in self._golden.numbered("noise")])

    @cached_property
    def _res_2s_noise(self) -> tuple[RecordedNoise, RecordedNoise]:
        """Of the steps and of the substeps. Every stage takes its own sources; the saved draws follow each other."""
        step, substep = res_2s_draws(self._golden, "sde_noise")
        return RecordedNoise(step), RecordedNoise(substep)

    @property
    def files(self) -> WeightSet:
        """What ran."""
        return self._files

    @property
    def vae(self) -> VideoVaeConfig:
        """Of the checkpoint that ran."""
        return self._files.config(VIDEO_VAE)

    @property
    def draws_left(self) -> tuple[int, int, int]:
        """How many saved draws the run did not ask for: of the noiser, of the res_2s steps and of their substeps."""
        assert self.clip is not None
        return self._noise.left, self._res_2s_noise[0].left, self._res_2s_noise[1].left

    @property
    def events(self) -> list[Event]:
        """What the run told its observer so far."""
        assert self.clip is not None
        return self._events

    @cached_property
    def chunks(self) -> list[Array]:
        """Decoded chunks."""
        return [piece.frames for piece in self._pieces if piece.frames is not None]

    @cached_property
    def waveform(self) -> Array | None:
        """The sound (S, 2)."""
        parts = [piece.sound for piece in self._pieces if piece.sound is not None]
        return np.concatenate(parts) if parts else None

    @cached_property
    def _pieces(self) -> list[Piece]:
        return list(self.clip.pieces())

    @cached_property
    def inputs(self) -> GenerationInputs:
        """The saved arguments as inputs of a run, in float32."""
        arguments = self._arguments
        tiling, tile = arguments.get("tiling"), arguments.get("tile")
        settings = Settings(
            prompt=arguments["prompt"],
            negative_prompt=arguments.get("negative_prompt", ""),
            seed=arguments["seed"],
            num_inference_steps=arguments.get("num_inference_steps", 1),
            tiling="none" if tiling is None else _tiling(tiling),
            num_generated_keyframes=arguments.get("num_generated_keyframes", 0),
            decode_with_keyframes=bool(arguments.get("decode_with_keyframes", False)),
            temporal_upscalings=arguments.get("temporal_upscalings", 0),
            spatial_upscalings=arguments.get("spatial_upscalings", 1),
            chunked="chunk_pixel_frames" in arguments,
            chunk_pixel_frames=arguments.get("chunk_pixel_frames"),
            chunk_carry_frames=arguments.get("chunk_carry_frames"),
            chunk_blend_frames=arguments.get("chunk_blend_frames"),
            skip_stage_2=bool(arguments.get("skip_stage_2", False)),
            stage_2_ic_lora=bool(arguments.get("stage_2_ic_lora", False)),
            tile=tile is not None,
            tile_height=None if tile is None else tile[0],
            tile_width=None if tile is None else tile[1],
            distilled_lora_strength_stage_1=arguments.get("distilled_lora_strength_stage_1", 1.0),
            distilled_lora_strength_stage_2=arguments.get("distilled_lora_strength_stage_2", 1.0),
        )
        inputs = GenerationInputs(
            settings,
            height=arguments.get("height", 64),
            width=arguments.get("width", 64),
            num_frames=arguments["num_frames"],
            frame_rate=Fraction(arguments["frame_rate"] if "frame_rate" in arguments else arguments["fps"]),
            video_guider=_guider(arguments.get("video_guider", {})),
            audio_guider=_guider(arguments.get("audio_guider", {})),
            fixed_schedule=bool(arguments.get("distilled", False)),
            dtype=mx.float32,
        )
        return replace(inputs, media=self._media(inputs))

    def _media(self, inputs: GenerationInputs) -> Media:
        arguments = self._arguments
        media = Media(
            images=tuple(
                ImageCondition(partial(_pixels, self._inputs / name, crf), frame, strength)
                for name, frame, strength, crf in arguments.get("images", [])
            )
        )
        if "video_conditioning" in arguments:
            return self._with_references(media, inputs)
        if "audio_start_time" in arguments:
            sound = self._sound(arguments["audio_start_time"], arguments["audio_max_duration"])
            return replace(media, sound=sound)
        return self._with_source(media, inputs) if "start_time" in arguments else media

    def _with_references(self, media: Media, inputs: GenerationInputs) -> Media:
        arguments = self._arguments
        _, strength = arguments["video_conditioning"]
        mask = None
        if "conditioning_attention_mask" in arguments:
            saved = self._golden.given("conditioning_attention_mask_in")[0, 0]
            mask = AttentionMask(weights=lambda height, width, part: _fitted(saved[..., None], height, width)[..., 0])
        elif "conditioning_attention_strength" in arguments:
            mask = AttentionMask(strength=arguments["conditioning_attention_strength"])
        frames = ripple_frames(inputs.num_frames, inputs.height, inputs.width)
        reference = ReferenceVideo(
            lambda height, width, part: FrameStream.of(from_uint8_resized(frames, height, width)), strength
        )
        return replace(media, references=(reference,), attention_mask=mask)

    def _with_source(self, media: Media, inputs: GenerationInputs) -> Media:
        arguments = self._arguments
        sound = None
        if arguments["audio"] is not None:
            duration = re.search(r"first ([0-9.]+) s", arguments["audio"])
            sound = self._sound(0.0, float(duration.group(1)) if duration else None)
        frames = ripple_frames(inputs.num_frames, inputs.height, inputs.width)
        fit = GridFit.of(inputs.height, inputs.width, self.vae.spatial_factor, "error", "the clip")
        own = OwnClip("the clip", len(frames), inputs.frame_rate, lambda: iter(frames), fit, sound)
        times = {"start_time": arguments["start_time"], "end_time": arguments["end_time"]}
        edited = retake_of(own, replace(inputs.settings, kept_from="vae", **times), self.vae)
        return replace(media, source=edited.source, region=edited.region)

    def _sound(self, start_s: float, duration_s: float | None) -> SoundInput:
        name = str(self._arguments["audio"]).split()[0]
        sound = read_audio(self._inputs / name, start_s=start_s, duration_s=duration_s)
        return SoundInput(sound.waveform, sound.sample_rate)

    def _sde_noise(self) -> Callable[[], tuple[NoiseSource, NoiseSource]] | None:
        return (lambda: self._res_2s_noise) if self._golden.numbered("sde_noise") else None

    @cached_property
    def _files(self) -> WeightSet:
        root, checkpoint = self._golden.root, str(self._golden.metadata["checkpoint"])
        family = checkpoint.removesuffix("-style.safetensors")
        arguments = self._arguments
        loras = [(str(name), float(strength)) for name, strength in arguments.get("loras", [])]
        if "ic_lora_strength" in arguments:
            loras.append(("ic-lora", float(arguments["ic_lora_strength"])))
        needed = "distilled_lora" in PIPELINES[self._pipeline].files
        distilled = [("distilled-lora", float(arguments.get("distilled_lora", 1.0)))] if needed else []

        def lora_paths(names: list[tuple[str, float]]) -> tuple[tuple[Path, float], ...]:
            return tuple((root / f"{family}-{name}.safetensors", strength) for name, strength in names)

        return WeightSet.open(
            WeightFiles(
                checkpoint=root / checkpoint,
                text_encoder=root / "tiny-gemma3",
                spatial_upscaler=root / "tiny-spatial-upscaler-x2.safetensors",
                loras=lora_paths(loras),
                distilled_lora=next(iter(lora_paths(distilled)), None),
            )
        )

    @property
    def _inputs(self) -> Path:
        return self._golden.path.parent / "inputs"

    @property
    def _arguments(self) -> dict[str, Any]:
        return dict(self._golden.metadata["args"])


def ripple_frames(frames: int, height: int, width: int) -> Array:
    """The video that stands for a decoded file in the saved runs: uint8 (F, H, W, 3)."""
    f, h, w, c = np.ogrid[0:frames, 0:height, 0:width, 0:3]
    wave = np.sin(0.13 * (c + 1) * h + 0.07 * w + 0.5 * f)
    return np.rint(127.5 + 110 * wave).astype(np.uint8)


def from_uint8_resized(frames: Array, height: int, width: int) -> Array:
    """uint8 frames resized to cover the size, float32 in [-1, 1]."""
    return to_signed_range(resize_to_cover(frames.astype(np.float32), height, width))


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
