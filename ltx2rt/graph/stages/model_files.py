"""The opened weight files of a run; opening reads headers only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.transformer.model import TransformerConfig, param_specs
from ltx2rt.graph.models.upscaler.model import LatentUpscalerConfig
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.spelling import spelled
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.lora import LoraFile
from ltx2rt.weights.tokenizer import GemmaTokenizer

LARGEST_LORA_STRENGTH = 2.0


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
    def open(cls, given: WeightFiles) -> ModelFiles:
        """Open the files and check that each is of the kind its place asks for.

        Raises:
            UsageError: no checkpoint, or a LoRA strength outside its range.
            CheckpointError: a file is missing, damaged or of the wrong kind.
        """
        if given.checkpoint is None:
            raise UsageError(f"there is no model; give {spelled('checkpoint', 'FILE')}.")
        model = Checkpoint.open(given.checkpoint)
        _require(model, "transformer", "a model checkpoint")
        distilled = () if given.distilled_lora is None else (given.distilled_lora,)
        for path, strength in (*given.loras, *distilled):
            if not abs(strength) <= LARGEST_LORA_STRENGTH:
                raise UsageError(
                    f"the strength of LoRA {path} must be -{LARGEST_LORA_STRENGTH:g} to {LARGEST_LORA_STRENGTH:g}, "
                    f"got {strength}."
                )
        gemma = None
        if given.text_encoder is not None:
            gemma = Checkpoint.open(given.text_encoder)
            _require(gemma, "text_encoder", "a Gemma text encoder")
        return cls(
            checkpoint=model,
            text_encoder=gemma,
            tokenizer=None if given.text_encoder is None else GemmaTokenizer.from_directory(given.text_encoder),
            spatial_upscaler=_open_upscaler(given.spatial_upscaler, "spatial"),
            temporal_upscaler=_open_upscaler(given.temporal_upscaler, "temporal"),
            loras=tuple((_open_lora(path, model), strength) for path, strength in given.loras),
            distilled_lora=tuple((_open_lora(path, model), strength) for path, strength in distilled),
        )


def _open_lora(path: Path, checkpoint: Checkpoint) -> LoraFile:
    """A LoRA that fits the transformer of the checkpoint, by the names and shapes of what it changes."""
    lora = LoraFile(path)
    config = TransformerConfig.from_dict(checkpoint.section("transformer"))
    modules = {spec.name.removesuffix(".weight"): spec.shape for spec in param_specs(config) if spec.layout == "linear"}
    shapes = {module: lora.delta_shape(module) for module in modules}
    if not any(shapes.values()) and len(lora.unmatched({"transformer": [f"{name}.weight" for name in modules]})) == len(
        lora.pairs
    ):
        raise CheckpointError(
            f"{path}: none of the {len(lora.pairs)} modules of this LoRA exists in {checkpoint.path.name}; "
            "use a LoRA made for this model."
        )
    for module, shape in shapes.items():
        if shape is not None and shape != modules[module]:
            raise CheckpointError(
                f"{path}: {module}: the LoRA is for a weight of {list(shape)}, the model has {list(modules[module])}; "
                "use a LoRA made for this generation of the model."
            )
    return lora


def _open_upscaler(path: Path | None, axis: str) -> Checkpoint | None:
    if path is None:
        return None
    checkpoint = Checkpoint.open(path)
    _require(checkpoint, "upscaler", "a latent upscaler")
    kind = LatentUpscalerConfig.from_dict(checkpoint.section("upscaler")).kind
    if kind not in {"spatial": ("spatial", "rational"), "temporal": ("temporal",)}[axis]:
        raise CheckpointError(f"{path}: a {kind} upscaler, but a {axis} one is needed; give the other file.")
    return checkpoint


def _require(checkpoint: Checkpoint, component: str, kind: str) -> None:
    if component not in checkpoint.components:
        raise CheckpointError(
            f"{checkpoint.path}: not {kind}: it holds {', '.join(sorted(checkpoint.components)) or 'nothing known'}; "
            "see what it is with: ltx2rt inspect FILE"
        )
