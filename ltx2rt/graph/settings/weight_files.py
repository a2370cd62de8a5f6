"""Which weight files a pipeline is loaded from, and how: the arguments of `ltx2rt.load`, each said once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltx2rt.graph.settings.kinds import FilePath, LoraKind, Loras, Text
from ltx2rt.graph.settings.setting import setting

DTYPES = ("bfloat16", "float16", "float32")
VARIANTS = ("distilled", "dev")

_FILE = FilePath()

# ruff: noqa: RUF009  (the calls make dataclass fields)


@dataclass(frozen=True)
class WeightFiles:
    """Paths and LoRA strengths; None: not given."""

    checkpoint: Path | None = setting(
        None,
        _FILE,
        "the model's .safetensors file; without it the small embedded model runs",
        "Weights",
        flags=("--checkpoint-path", "--weights"),
    )
    model_variant: str | None = setting(
        None, Text(), "kind of checkpoint, where the file name does not tell", "Weights", choices=VARIANTS
    )
    text_encoder: Path | None = setting(
        None,
        FilePath("DIR"),
        "folder of the Gemma 3 text encoder",
        "Weights",
        flags=("--gemma-root", "--gemma-path"),
    )
    spatial_upscaler: Path | None = setting(
        None,
        _FILE,
        "latent upscaler x2, for two-stage pipelines and --upscale-spatial",
        "Weights",
        flags=("--spatial-upsampler-path", "--spatial-upscaler-weights"),
    )
    temporal_upscaler: Path | None = setting(
        None,
        _FILE,
        "latent upscaler in time, for --upscale-temporal",
        "Weights",
        flags=("--temporal-upsampler-path", "--temporal-upscaler-weights", "--temporal-weights"),
    )
    loras: tuple[tuple[Path, float], ...] = setting(
        (), Loras(), "LoRA file, or a folder with one, with a strength (default 1)", "Weights", flags=("--lora",)
    )
    distilled_lora: tuple[Path, float] | None = setting(
        None, LoraKind(), "LoRA of the second stage of dev pipelines, with a strength (default 1)", "Weights"
    )
    dtype: str = setting("bfloat16", Text(), "of activations", "Weights", choices=DTYPES)
