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
from ltx2rt.verify.hash_noise import HashNoise
from ltx2rt.weights.checkpoint import Checkpoint

# The text encoders that the transformers were saved with, by folder.
_TEXT_ENCODERS = {"": "tiny-gemma3", "ltx25": "ltx25/tiny-gemma4-with-proj-ltx-2.5.safetensors"}
# Of runs that name none.
_SPATIAL_UPSCALER = "tiny-spatial-upscaler-x2.safetensors"
# Each of them asks for a clip in windows.
_IN_WINDOWS = ("chunked", "chunk_pixel_frames", "chunk_carry_frames", "chunk_blend_frames")


def pipeline_of(golden: GoldenFile) -> str | None:
    """Our name of the pipeline that a golden file was saved from; None if this version does not have it."""
    saved = str(golden.metadata.get("pipeline"))
    if not {"checkpoint", "files"} & golden.metadata.keys():
        return None
    # The official name, which a case's own suffix may follow; the longest of those that fit.
    named = {official.replace("-", "_"): e.name for e in PIPELINES.values() for official in (e.name, *e.aliases)}
    fitting = [official for official in named if re.fullmatch(rf"{official}(_[a-z].*)?", saved)]
    return named[max(fitting, key=len)] if fitting else None


def holds_passes(golden: GoldenFile) -> bool:
    """Whether a file is a run that was saved pass by pass."""
    keys = golden.keys()
    return golden.path.parent.name == "pipelines" and any(key.startswith("pass.") for key in keys)


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
        # A diffusion decoder gets the hash noise that the clips were saved with; the saved draws are the noiser's.
        of_decoder = None if self.vae.diffusion is None else HashNoise()
        return pipeline.generate(
            Run(
                self._files,
                self.inputs,
                self._events.append,
                self._noise,
                self._sde_noise(),
                decoder_noise=of_decoder,
            )
        )

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
        keyframes = arguments.get("num_generated_keyframes", 0)
        settings = Settings(
            prompt=arguments["prompt"],
            negative_prompt=arguments.get("negative_prompt", ""),
            seed=arguments["seed"],
            num_inference_steps=arguments.get("num_inference_steps", 1),
            tiling="none" if tiling is None else _tiling(tiling),
            # A number of them, or the frames at which they stand.
            num_generated_keyframes=tuple(keyframes) if isinstance(keyframes, list) else keyframes,
            decode_with_keyframes=bool(arguments.get("decode_with_keyframes", False)),
            temporal_upscalings=arguments.get("temporal_upscalings", 0),
            spatial_upscalings=arguments.get("spatial_upscalings", 1),
            chunked=any(arguments.get(name, False) is not False for name in _IN_WINDOWS),
            chunk_pixel_frames=arguments.get("chunk_pixel_frames"),
            chunk_carry_frames=arguments.get("chunk_carry_frames"),
            chunk_blend_frames=arguments.get("chunk_blend_frames"),
            skip_stage_2=bool(arguments.get("skip_stage_2", False)),
            stage_2_ic_lora=bool(arguments.get("stage_2_ic_lora", False)),
            tile=tile is not None,
            tile_height=None if tile is None else tile[0],
            tile_width=None if tile is None else tile[1],
            distilled_lora_strength_stage_1=arguments.get("distilled_lora_strength_stage_1", 0.25),
            distilled_lora_strength_stage_2=arguments.get("distilled_lora_strength_stage_2", 0.5),
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
        if self._pipeline == "audio-to-video":
            longest_s = arguments.get("audio_max_duration")
            if longest_s is None:
                longest_s = float(inputs.num_frames / inputs.frame_rate)
            return replace(media, sound=self._sound(arguments.get("audio_start_time", 0.0), longest_s))
        return self._with_source(media, inputs) if "start_time" in arguments else media

    def _with_references(self, media: Media, inputs: GenerationInputs) -> Media:
        arguments = self._arguments
        given = arguments["video_conditioning"]
        strengths = [strength for _, strength in (given if isinstance(given[0], list) else [given])]
        attends = float(arguments.get("conditioning_attention_strength", 1.0))
        mask = None
        if "conditioning_attention_mask" in arguments:
            saved = self._golden.given("conditioning_attention_mask_in")[0, 0]

            def weights(height: int, width: int, part: range) -> Array:
                return _fitted(saved[part.start : part.stop, ..., None], height, width)[..., 0]

            mask = AttentionMask(weights, attends)
        elif "conditioning_attention_strength" in arguments:
            mask = AttentionMask(strength=attends)
        shown = ripple_frames(inputs.num_frames, inputs.height, inputs.width)

        def frames(height: int, width: int, part: range) -> FrameStream:
            return FrameStream.of(from_uint8_resized(shown[part.start : part.stop], height, width))

        references = tuple(ReferenceVideo(frames, strength) for strength in strengths)
        return replace(media, references=references, attention_mask=mask)

    def _with_source(self, media: Media, inputs: GenerationInputs) -> Media:
        arguments = self._arguments
        sound = None
        if "audio" in arguments:
            duration = re.search(r"first ([0-9.]+) s", arguments["audio"])
            sound = self._sound(0.0, float(duration.group(1)) if duration else None)
        frames = ripple_frames(inputs.num_frames, inputs.height, inputs.width)
        fit = GridFit.of(inputs.height, inputs.width, self.vae.spatial_factor, "error", "the clip")
        own = OwnClip("the clip", len(frames), inputs.frame_rate, lambda: iter(frames), fit, sound)
        settings = replace(
            inputs.settings,
            kept_from="vae",
            start_time=arguments["start_time"],
            end_time=arguments["end_time"],
            keep_video=not arguments.get("regenerate_video", True),
            keep_audio=not arguments.get("regenerate_audio", True),
        )
        edited = retake_of(own, settings, self.vae)
        return replace(media, source=edited.source, region=edited.region)

    def _sound(self, start_s: float, duration_s: float | None) -> SoundInput:
        name = str(self._arguments["audio"]).split()[0]
        sound = read_audio(self._inputs / name, start_s=start_s, duration_s=duration_s)
        return SoundInput(sound.waveform, sound.sample_rate)

    def _sde_noise(self) -> Callable[[], tuple[NoiseSource, NoiseSource]] | None:
        return (lambda: self._res_2s_noise) if self._golden.numbered("sde_noise") else None

    @cached_property
    def _files(self) -> WeightSet:
        """The files that ran: each is named, or one that holds all."""
        root, metadata, arguments = self._golden.root, self._golden.metadata, self._arguments
        named = metadata.get("files", {})
        transformer = str(named.get("transformer", metadata.get("checkpoint")))
        # tiny-X-style.safetensors and, in a folder of its own, tiny-X-distilled-transformer.safetensors
        family = re.sub(r"(-style|-distilled-transformer)\.safetensors$", "", transformer)

        def lora(name: str, strength: float | str) -> tuple[Path, float]:
            return root / f"{family}-{name}.safetensors", float(strength)

        loras = [lora(str(name), strength) for name, strength in arguments.get("loras", [])]
        if "ic_lora_strength" in arguments:
            loras.append(lora("ic-lora", arguments["ic_lora_strength"]))
        distilled = None
        if "distilled_lora" in PIPELINES[self._pipeline].files:
            distilled = lora("distilled-lora", arguments.get("distilled_lora", 1.0))
        detailing, temporal = arguments.get("detailing_lora"), metadata.get("temporal_upscaler")
        weights = WeightSet.open(
            WeightFiles(
                checkpoint=root / transformer,
                text_encoder=root / _TEXT_ENCODERS[transformer.rpartition("/")[0]],
                video_vae=root / named["video_vae"] if "video_vae" in named else None,
                spatial_upscaler=root / named.get("upscaler", _SPATIAL_UPSCALER),
                temporal_upscaler=None if temporal is None else root / temporal,
                loras=tuple(loras),
                distilled_lora=distilled,
                detailing_lora=None if detailing is None else lora("ic-lora", detailing),
            )
        )
        if "audio_vae" not in named:
            return weights
        # The sound model may be that of another generation, of equal shapes; a run by itself would refuse it.
        sound = Checkpoint.open(root / named["audio_vae"])
        gaps = {name: why for name, why in weights.gaps.items() if name not in ("audio_vae", "vocoder")}
        return replace(weights.with_sources({"audio_vae": sound, "vocoder": sound}), gaps=gaps)

    @property
    def _inputs(self) -> Path:
        return self._golden.path.parent / "inputs"

    @property
    def _arguments(self) -> dict[str, Any]:
        """Those that were given: null is as if one were not there."""
        return {name: value for name, value in self._golden.metadata["args"].items() if value is not None}


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
    return GuiderParams(**{**values, "stg_blocks": tuple(values.get("stg_blocks") or ())})


def _tiling(values: dict[str, Any]) -> Tiling:
    spatial, temporal = values.get("spatial"), values.get("temporal")
    return Tiling.of(
        spatial=None if spatial is None else tuple(spatial), temporal=None if temporal is None else tuple(temporal)
    )


def _pixels(path: Path, crf: int, height: int, width: int) -> Array:
    return load_conditioning_image(path, height, width, crf=crf)
