"""The Python interface: load a pipeline once, call it for clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ltx2rt import embedded
from ltx2rt.errors import UsageError
from ltx2rt.graph.models.tiling import Tiling
from ltx2rt.graph.models.transformer import TransformerConfig
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.defaults import GenerationDefaults, defaults_for
from ltx2rt.graph.pipelines.events import Event
from ltx2rt.graph.pipelines.model_files import ModelFiles
from ltx2rt.graph.pipelines.prompt_encoding import PromptContext
from ltx2rt.graph.pipelines.request import ImageCondition, Request
from ltx2rt.graph.pipelines.run import GeneratedClip, Run
from ltx2rt.media.images import load_conditioning_image, read_image
from ltx2rt.media.video_writer import VideoWriter, exact_frame_rate
from ltx2rt.memory.stage import StageReport
from ltx2rt.weights.config import parse_version
from ltx2rt.weights.embedding_file import read_embedding

Array = np.ndarray[Any, np.dtype[Any]]
PathLike = str | Path

DTYPES: Mapping[str, mx.Dtype] = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}

# Used where the checkpoint is the embedded test model: a clip that takes seconds on two cores.
EMBEDDED_HEIGHT, EMBEDDED_WIDTH, EMBEDDED_FRAMES = 256, 256, 25


@dataclass(frozen=True)
class ImageInput:
    """An image file as a condition.

    Attributes:
        path: PNG, JPEG or anything Pillow reads.
        frame_index: pixel frame at which the image appears.
        strength: 1 keeps it exactly, 0 ignores it.
        crf: H.264 quality of the round trip it goes through first; 0 = none, None = by model generation.
    """

    path: Path
    frame_index: int = 0
    strength: float = 1.0
    crf: int | None = None


class Clip:
    """A generated clip: the sound is ready, the frames are decoded while they are read, once.

    Attributes:
        audio: float32 (S, 2) in [-1, 1].
        sample_rate: of the sound, in Hz.
        frame_rate: exact frames per second.
        num_frames, height, width: of the video.
        settings: every resolved setting of the run, the seed included.
    """

    def __init__(self, clip: GeneratedClip, run: Run, settings: Mapping[str, Any]) -> None:
        self._frames = clip.frames
        self._run = run
        self.audio = clip.audio
        self.sample_rate = clip.sample_rate
        self.frame_rate = clip.frame_rate
        self.num_frames = clip.num_frames
        self.height = clip.height
        self.width = clip.width
        self.settings = dict(settings)

    @property
    def frames(self) -> Iterator[Array]:
        """Chunks of float32 (f, H, W, 3) in [0, 1], in order. They can be read once."""
        return self._frames

    @property
    def report(self) -> list[StageReport]:
        """What each finished stage cost."""
        return list(self._run.stages.reports)

    def save(self, path: PathLike) -> None:
        """Encode to an .mp4 with H.264 video and AAC sound; a file appears only when it is complete.

        Raises:
            MediaError: the file cannot be written.
        """
        writer = VideoWriter(
            Path(path), width=self.width, height=self.height, frame_rate=self.frame_rate, sample_rate=self.sample_rate
        )
        with writer:
            writer.write_audio(self.audio)
            for chunk in self._frames:
                writer.write(chunk)


class Pipeline:
    """A pipeline with its opened weight files. Calling it loads, runs and frees one stage after the other."""

    def __init__(self, name: str, files: ModelFiles, dtype: mx.Dtype, is_embedded: bool) -> None:
        self.name = name
        self._files = files
        self._dtype = dtype
        self._is_embedded = is_embedded

    @property
    def defaults(self) -> GenerationDefaults:
        """What a call uses for everything it is not given."""
        defaults = defaults_for(parse_version(self._files.checkpoint.metadata.get("model_version", "")))
        if self._is_embedded:
            return replace(defaults, height=EMBEDDED_HEIGHT, width=EMBEDDED_WIDTH, num_frames=EMBEDDED_FRAMES)
        if PIPELINES[self.name].two_stage:
            return replace(defaults, height=2 * defaults.height, width=2 * defaults.width)
        return defaults

    def __call__(
        self,
        prompt: str | None = None,
        *,
        negative_prompt: str | None = None,
        seed: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        frame_rate: float | Fraction | None = None,
        images: Sequence[ImageInput] = (),
        embedding: PathLike | None = None,
        num_inference_steps: int | None = None,
        video_cfg_guidance_scale: float | None = None,
        video_stg_guidance_scale: float | None = None,
        video_rescale_scale: float | None = None,
        video_stg_blocks: Sequence[int] | None = None,
        a2v_guidance_scale: float | None = None,
        video_skip_step: int | None = None,
        audio_cfg_guidance_scale: float | None = None,
        audio_stg_guidance_scale: float | None = None,
        audio_rescale_scale: float | None = None,
        audio_stg_blocks: Sequence[int] | None = None,
        v2a_guidance_scale: float | None = None,
        audio_skip_step: int | None = None,
        tiling: Tiling | Literal["auto"] | None = "auto",
        observer: Callable[[Event], None] | None = None,
        on_settings: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> Clip:
        """Generate a clip.

        Args:
            prompt: what to generate; may be missing when ``embedding`` is given.
            negative_prompt: what to avoid (guided pipelines).
            seed: of the noise.
            height, width: final size in pixels; multiples of 64, of 32 for one-stage pipelines.
            num_frames: 8*k + 1.
            frame_rate: frames per second.
            images: conditions.
            embedding: text embedding file in place of the text encoder.
            num_inference_steps: sampler steps (guided pipelines).
            video_cfg_guidance_scale ... audio_skip_step: guidance of each stream (guided pipelines).
            tiling: of the video decoder: "auto", a `Tiling`, or None for one tile.
            observer: called with every event; raise `Cancelled` from it to stop.
            on_settings: called once with the resolved settings before anything is loaded.

        Returns:
            A `Clip` whose sound is ready and whose frames decode while they are read.

        Raises:
            UsageError: a setting cannot work.
            CheckpointError: a weight file lacks something.
            MediaError: an image cannot be read.
        """
        defaults = self.defaults
        video_guider = _replaced(
            defaults.video_guider,
            cfg_scale=video_cfg_guidance_scale,
            stg_scale=video_stg_guidance_scale,
            rescale_scale=video_rescale_scale,
            stg_blocks=None if video_stg_blocks is None else tuple(video_stg_blocks),
            modality_scale=a2v_guidance_scale,
            skip_step=video_skip_step,
        )
        audio_guider = _replaced(
            defaults.audio_guider,
            cfg_scale=audio_cfg_guidance_scale,
            stg_scale=audio_stg_guidance_scale,
            rescale_scale=audio_rescale_scale,
            stg_blocks=None if audio_stg_blocks is None else tuple(audio_stg_blocks),
            modality_scale=v2a_guidance_scale,
            skip_step=audio_skip_step,
        )
        context, negative_context = (None, None) if embedding is None else self._read_contexts(Path(embedding))
        request = Request(
            prompt=prompt or "",
            negative_prompt=DEFAULT_NEGATIVE_PROMPT if negative_prompt is None else negative_prompt,
            seed=_given(seed, defaults.seed),
            height=_given(height, defaults.height),
            width=_given(width, defaults.width),
            num_frames=_given(num_frames, defaults.num_frames),
            frame_rate=exact_frame_rate(_given(frame_rate, defaults.frame_rate)),
            num_inference_steps=_given(num_inference_steps, defaults.num_inference_steps),
            video_guider=video_guider,
            audio_guider=audio_guider,
            images=tuple(_condition(image, defaults.image_crf) for image in images),
            context=context,
            negative_context=negative_context,
            tiling=tiling,
            dtype=self._dtype,
        )
        pipeline = PIPELINES[self.name]
        pipeline.check(request, self._files)
        settings = self._settings(request, images, embedding)
        if on_settings is not None:
            on_settings(settings)
        run = Run(self._files, request, observer)
        return Clip(pipeline.generate(run), run, settings)

    def _read_contexts(self, path: Path) -> tuple[PromptContext, PromptContext | None]:
        """Contexts of an embedding file, checked against the checkpoint."""
        checkpoint = self._files.checkpoint
        config = TransformerConfig.from_dict(checkpoint.section("transformer"))
        saved = read_embedding(path)
        saved.require_match(
            str(path),
            generation=checkpoint.generation or "19b",
            video_width=config.caption_channels or config.video.context_dim,
            audio_width=config.caption_channels or config.audio.context_dim,
        )
        assert saved.audio_context is not None  # require_match has refused a file without it
        positive = PromptContext(saved.video_context, saved.audio_context)
        if saved.negative_video_context is None or saved.negative_audio_context is None:
            return positive, None
        return positive, PromptContext(saved.negative_video_context, saved.negative_audio_context)

    def _settings(self, request: Request, images: Sequence[ImageInput], embedding: PathLike | None) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "pipeline": self.name,
            "checkpoint": str(self._files.checkpoint.path),
            "embedded_model": self._is_embedded,
            "loras": [[str(lora.path), strength] for lora, strength in self._files.loras],
            "prompt": request.prompt,
            "embedding": None if embedding is None else str(embedding),
            "seed": request.seed,
            "height": request.height,
            "width": request.width,
            "num_frames": request.num_frames,
            "frame_rate": str(request.frame_rate),
            "images": [[str(i.path), i.frame_index, i.strength, i.crf] for i in images],
            "tiling": str(request.tiling),
            "dtype": str(request.dtype).rsplit(".", 1)[-1],
        }
        if PIPELINES[self.name].guided:
            settings |= {
                "negative_prompt": request.negative_prompt,
                "num_inference_steps": request.num_inference_steps,
                "video_guider": str(request.video_guider),
                "audio_guider": str(request.audio_guider),
            }
        return settings


def load(
    pipeline: str = "distilled",
    *,
    checkpoint: PathLike | None = None,
    text_encoder: PathLike | None = None,
    spatial_upscaler: PathLike | None = None,
    loras: Sequence[tuple[PathLike, float]] = (),
    dtype: str = "bfloat16",
) -> Pipeline:
    """Open the files of a pipeline; only headers are read.

    Args:
        pipeline: ``distilled`` or ``one-stage``.
        checkpoint: the model's single .safetensors file. None: the small untrained embedded model with all its parts.
        text_encoder: Gemma folder; may be missing when every call gives an embedding.
        spatial_upscaler: latent upscaler x2, for two-stage pipelines.
        loras: files with strengths.
        dtype: of activations: ``bfloat16``, ``float16`` or ``float32``.

    Raises:
        UsageError: unknown pipeline or dtype, or files that do not go together.
        CheckpointError: a file is missing, damaged or of the wrong kind.
    """
    if pipeline not in PIPELINES:
        raise UsageError(f"unknown pipeline {pipeline!r}; use one of {', '.join(PIPELINES)}.")
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}.")
    if checkpoint is None:
        if text_encoder is not None or spatial_upscaler is not None:
            raise UsageError("text_encoder and spatial_upscaler need a checkpoint; give the model's file.")
        files = ModelFiles.open(
            embedded.CHECKPOINT,
            embedded.TEXT_ENCODER,
            embedded.SPATIAL_UPSCALER,
            tuple((Path(path), strength) for path, strength in loras),
        )
    else:
        files = ModelFiles.open(
            Path(checkpoint),
            None if text_encoder is None else Path(text_encoder),
            None if spatial_upscaler is None else Path(spatial_upscaler),
            tuple((Path(path), strength) for path, strength in loras),
        )
    return Pipeline(pipeline, files, DTYPES[dtype], is_embedded=checkpoint is None)


DEFAULT_NEGATIVE_PROMPT = (
    "low quality, blurry, noisy, flickering, washed-out colours, wrong exposure, distorted faces and hands, "
    "unnatural motion, frozen picture, text overlays, watermarks, muffled or crackling sound, sound out of sync"
)


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _replaced(params: Any, **changes: Any) -> Any:
    return replace(params, **{name: value for name, value in changes.items() if value is not None})


def _condition(image: ImageInput, default_crf: int) -> ImageCondition:
    crf = default_crf if image.crf is None else image.crf
    read_image(image.path)  # unreadable files are reported before anything is loaded
    return ImageCondition(
        pixels=partial(_pixels, Path(image.path), crf), frame_index=image.frame_index, strength=image.strength
    )


def _pixels(path: Path, crf: int, height: int, width: int) -> Array:
    return load_conditioning_image(path, height, width, crf=crf)
