"""Which weight files a pipeline is loaded from, and how: the arguments of `ltx2rt.load`, each said once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.errors import UsageError
from ltx2rt.graph.settings.kinds import LoraKind, Loras, Text, WeightPath, WeightPaths
from ltx2rt.graph.settings.setting import setting, settings_of, stored_values
from ltx2rt.spelling import spelled
from ltx2rt.weights.sets.parts import VIDEO_DECODERS

DTYPES = ("bfloat16", "float16", "float32")
VARIANTS = ("distilled", "dev")
# Topics: what every reader of weights takes, and what those take that encode texts, that make pictures and sound of
# latents, and that enlarge latents.
MODEL, TEXT, DECODING, UPSCALING = "model", "text", "decoding", "upscaling"
# The settings that bring one part of a model.
PARTS = (
    "transformer",
    "text_encoder",
    "connectors",
    "text_projection",
    "video_vae",
    "audio_vae",
    "vocoder",
    "duration_head",
    "spatial_upscaler",
    "temporal_upscaler",
)

_FILE = WeightPath()

# ruff: noqa: RUF009  (the calls make dataclass fields)


def _part(topic: str, help_line: str, *flags: str) -> Any:
    """The setting of a file that brings one part of a model."""
    return setting(None, WeightPath("PATH"), help_line, "Weights", topic=topic, flags=flags)


@dataclass(frozen=True)
class WeightFiles:
    """Paths and LoRA strengths; None: not given."""

    checkpoint: Path | None = setting(
        None,
        WeightPath("PATH"),
        "the model: a weight file, or a folder with its parts; without it the small embedded model runs",
        "Weights",
        topic=MODEL,
        flags=("--checkpoint-path", "--weights"),
    )
    model_variant: str | None = setting(
        None, Text(), "kind of checkpoint, where the file name does not tell", "Weights", topic=MODEL, choices=VARIANTS
    )
    transformer: Path | None = _part(MODEL, "the transformer, where it is a file of its own", "--transformer-path")
    text_encoder: Path | None = _part(
        TEXT, "the Gemma text encoder: its folder, or one file", "--gemma-root", "--gemma-path", "--text-encoder-path"
    )
    tokenizer: Path | None = setting(
        None,
        WeightPath("PATH"),
        "tokenizer.json of the text encoder, or its folder, where it is neither in the encoder's file nor beside it",
        "Weights",
        topic=TEXT,
        flags=("--tokenizer-path",),
    )
    prompt_enhancer: Path | None = setting(
        None,
        WeightPath("PATH"),
        "another Gemma that rewrites prompts, a Gemma 4 such as E2B-it or a Gemma 3; that of LTX-2.5 cannot",
        "Weights",
        topic=TEXT,
        flags=("--prompt-enhancer-gemma-root",),
    )
    connectors: Path | None = _part(
        TEXT,
        "file with the embeddings connectors",
        "--connectors-path",
        "--embeddings-connectors-path",
        "--embeddings-connectors",
    )
    text_projection: Path | None = _part(
        TEXT, "file with the projection from the text encoder to the connectors", "--text-projection-path"
    )
    video_vae: Path | tuple[Path, ...] | None = setting(
        None,
        WeightPaths(),
        "file with the video VAE; both of LTX-2.5 may be given",
        "Weights",
        topic=DECODING,
        flags=("--video-vae-path",),
    )
    video_decoder: str | None = setting(
        None,
        Text(),
        "decoder of the video, where LTX-2.5 is there with both; by itself the one of the diffusion VAE",
        "Weights",
        topic=DECODING,
        choices=VIDEO_DECODERS,
    )
    audio_vae: Path | None = _part(DECODING, "file with the audio VAE", "--audio-vae-path")
    vocoder: Path | None = _part(DECODING, "file with the vocoder; usually that of the audio VAE", "--vocoder-path")
    duration_head: Path | None = _part("", "file with the duration head of LTX-2.5", "--duration-head-path")
    spatial_upscaler: Path | None = setting(
        None,
        _FILE,
        "latent upscaler x2, for two-stage pipelines and --upscale-spatial",
        "Weights",
        topic=UPSCALING,
        flags=("--spatial-upsampler-path", "--spatial-upscaler-weights"),
    )
    temporal_upscaler: Path | None = setting(
        None,
        _FILE,
        "latent upscaler in time, for --upscale-temporal",
        "Weights",
        topic=UPSCALING,
        flags=("--temporal-upsampler-path", "--temporal-upscaler-weights", "--temporal-weights"),
    )
    loras: tuple[tuple[Path, float], ...] = setting(
        (), Loras(), "LoRA file, or a folder with one, with a strength (default 1)", "Weights", flags=("--lora",)
    )
    distilled_lora: tuple[Path, float] | None = setting(
        None, LoraKind(), "LoRA of the second stage of dev pipelines, with a strength (default 1)", "Weights"
    )
    detailing_lora: tuple[Path, float] | None = setting(
        None, LoraKind(), "detailing LoRA of the pipeline dfr, which always has the strength 0.5 there", "Weights"
    )
    dtype: str = setting("bfloat16", Text(), "of activations", "Weights", topic=MODEL, choices=DTYPES)

    @property
    def has_model(self) -> bool:
        """Whether a model was given; otherwise the small embedded one runs."""
        return self.checkpoint is not None or self.transformer is not None

    @property
    def parts(self) -> dict[str, tuple[Path, ...]]:
        """Setting -> paths of every part that was named by itself."""
        given = {name: getattr(self, name) for name in PARTS}
        return {name: path if isinstance(path, tuple) else (path,) for name, path in given.items() if path is not None}

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file and folder of weights that was given."""
        single_loras = (lora for lora in (self.distilled_lora, self.detailing_lora) if lora is not None)
        with_strength = (*self.loras, *single_loras)
        single = (self.checkpoint, *(path for paths in self.parts.values() for path in paths))
        return tuple(path for path in (*single, *(path for path, _ in with_strength)) if path is not None)

    def require_no_parts(self, *allowed: str) -> None:
        """Raise UsageError for parts without a model, whose place the embedded one takes with parts of its own.

        Args:
            allowed: settings of those that may be given.
        """
        needing = next((name for name in self.parts if name not in allowed), None)
        if needing is not None:
            raise UsageError(
                f"{spelled(needing)} goes with {spelled('checkpoint', 'FILE')}, which is missing; give it, too."
            )


def files_of(topics: tuple[str, ...], values: Mapping[str, Any]) -> WeightFiles:
    """The files for a reader of some topics.

    Args:
        topics: what it takes.
        values: setting -> value; None: not given.

    Raises:
        UsageError: a setting that does not exist or that it has no use for, or a value that does not fit.
    """
    stored = stored_values(WeightFiles, values)
    said = {name: found for name, (_, found) in settings_of(WeightFiles).items()}
    for name in stored:
        if said[name].topic not in topics:
            known = ", ".join(name for name, found in said.items() if found.topic in topics)
            raise UsageError(f"{spelled(name)} has no meaning here; the files that are read are {known}.")
    return WeightFiles(**stored)
