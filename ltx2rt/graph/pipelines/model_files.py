"""The opened weight files of a run; opening reads headers only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.upscaler import LatentUpscalerConfig
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora import LoraFile
from ltx2rt.weights.tokenizer import GemmaTokenizer


@dataclass(frozen=True)
class ModelFiles:
    """Everything a pipeline may read weights from.

    Attributes:
        checkpoint: the single file with transformer, connectors, VAEs and vocoder.
        text_encoder: the Gemma folder; None when text contexts are given.
        tokenizer: of the text encoder.
        spatial_upscaler: needed by two-stage pipelines.
        temporal_upscaler: for doubling the frame rate.
        loras: LoRA files with their strengths, fused in this order.
        distilled_lora: the LoRA of the second stage of dev pipelines with its strength, or empty.
    """

    checkpoint: Checkpoint
    text_encoder: Checkpoint | None = None
    tokenizer: GemmaTokenizer | None = None
    spatial_upscaler: Checkpoint | None = None
    temporal_upscaler: Checkpoint | None = None
    loras: tuple[tuple[LoraFile, float], ...] = ()
    distilled_lora: tuple[tuple[LoraFile, float], ...] = ()

    @classmethod
    def open(
        cls,
        checkpoint: Path,
        text_encoder: Path | None = None,
        spatial_upscaler: Path | None = None,
        loras: tuple[tuple[Path, float], ...] = (),
        distilled_lora: tuple[tuple[Path, float], ...] = (),
        temporal_upscaler: Path | None = None,
    ) -> ModelFiles:
        """Open the files and check that each is of the kind its place asks for.

        Raises:
            CheckpointError: a file is missing, damaged or of the wrong kind.
            UsageError: a LoRA strength is not finite.
        """
        model = Checkpoint.open(checkpoint)
        _require(model, "transformer", "a model checkpoint")
        for path, strength in (*loras, *distilled_lora):
            if not abs(strength) < float("inf"):
                raise UsageError(f"the strength of LoRA {path} must be a finite number, got {strength}.")
        gemma = None
        if text_encoder is not None:
            gemma = Checkpoint.open(text_encoder)
            _require(gemma, "text_encoder", "a Gemma text encoder")
        return cls(
            checkpoint=model,
            text_encoder=gemma,
            tokenizer=None if text_encoder is None else GemmaTokenizer.from_directory(text_encoder),
            spatial_upscaler=None if spatial_upscaler is None else _open_upscaler(spatial_upscaler, "spatial"),
            temporal_upscaler=None if temporal_upscaler is None else _open_upscaler(temporal_upscaler, "temporal"),
            loras=tuple((LoraFile(path), strength) for path, strength in loras),
            distilled_lora=tuple((LoraFile(path), strength) for path, strength in distilled_lora),
        )


def _open_upscaler(path: Path, axis: str) -> Checkpoint:
    checkpoint = Checkpoint.open(path)
    _require(checkpoint, "upscaler", "a latent upscaler")
    kind = LatentUpscalerConfig.from_dict(checkpoint.section("upscaler")).kind
    if (kind == "temporal") != (axis == "temporal"):
        raise CheckpointError(f"{path}: a {kind} upscaler, but a {axis} one is needed; give the other file.")
    return checkpoint


def _require(checkpoint: Checkpoint, component: str, kind: str) -> None:
    if component not in checkpoint.components:
        raise CheckpointError(
            f"{checkpoint.path}: not {kind}: it holds {', '.join(sorted(checkpoint.components)) or 'nothing known'}; "
            "see what it is with: ltx2rt inspect FILE"
        )
