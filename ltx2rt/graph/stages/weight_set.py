"""The weights of a run: which opened file holds which component; opening reads headers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.components import (
    SPATIAL_UPSCALER,
    TEMPORAL_UPSCALER,
    TEXT_ENCODER,
    TRANSFORMER,
    Component,
    Config,
)
from ltx2rt.graph.models.transformer.config import TransformerConfig, param_specs
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.spelling import spelled
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2, Generation
from ltx2rt.weights.kept_weights import Loras, StageWeights
from ltx2rt.weights.lora import LoraFile
from ltx2rt.weights.tokenizer import GemmaTokenizer

LARGEST_LORA_STRENGTH = 2.0

_UPSCALERS = {
    "spatial": (SPATIAL_UPSCALER, ("spatial", "rational")),
    "temporal": (TEMPORAL_UPSCALER, ("temporal",)),
}


def sources_of(checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """A checkpoint as the source of every component it holds."""
    return dict.fromkeys(checkpoint.components, checkpoint)


@dataclass(frozen=True)
class WeightSet:
    """Everything a pipeline may read weights from.

    Attributes:
        sources: name of a component -> what holds it: one file, several, or a folder. Components may share one.
        tokenizer: of the text encoder; None where contexts are given, and in plans.
        loras: LoRA files with their strengths, fused in this order.
        distilled_lora: the LoRA of the second stage of dev pipelines with its strength, or empty.
    """

    sources: Mapping[str, Checkpoint]
    tokenizer: GemmaTokenizer | None = None
    loras: Loras = ()
    distilled_lora: Loras = ()
    _configs: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, given: WeightFiles) -> WeightSet:
        """Open the files and check that each is of the kind its place asks for.

        Raises:
            UsageError: no checkpoint, or a LoRA strength outside its range.
            CheckpointError: a file is missing, damaged or of the wrong kind.
        """
        if given.checkpoint is None:
            raise UsageError(f"there is no model; give {spelled('checkpoint', 'FILE')}.")
        model = Checkpoint.open(given.checkpoint)
        _require(model, TRANSFORMER, "a model checkpoint")
        distilled = () if given.distilled_lora is None else (given.distilled_lora,)
        _check_strengths((*given.loras, *distilled))
        sources = sources_of(model)
        tokenizer = None
        if given.text_encoder is not None:
            sources[TEXT_ENCODER.name] = Checkpoint.open(given.text_encoder)
            _require(sources[TEXT_ENCODER.name], TEXT_ENCODER, "a Gemma text encoder")
            tokenizer = GemmaTokenizer.of(sources[TEXT_ENCODER.name])
        for axis, path in (("spatial", given.spatial_upscaler), ("temporal", given.temporal_upscaler)):
            if path is not None:
                sources[_UPSCALERS[axis][0].name] = _open_upscaler(path, axis)
        weights = cls(sources, tokenizer)
        return replace(weights, loras=weights._open_loras(given.loras), distilled_lora=weights._open_loras(distilled))

    def has(self, component: Component[Any]) -> bool:
        """Whether something holds the component."""
        return component.name in self.sources

    def source(self, component: Component[Any]) -> Checkpoint:
        """What holds the component.

        Raises:
            CheckpointError: nothing does.
        """
        if component.name not in self.sources:
            paths = ", ".join(dict.fromkeys(str(checkpoint.path) for checkpoint in self.sources.values()))
            held = ", ".join(sorted(self.sources)) or "nothing"
            raise CheckpointError(
                f"{paths or 'no weight file'}: there is no {component.name}, only {held}; give the file that has it."
            )
        return self.sources[component.name]

    def config(self, component: Component[Config]) -> Config:
        """The configuration of the component, parsed once.

        Raises:
            CheckpointError: nothing holds the component, or its configuration is not supported.
        """
        if component.name not in self._configs:
            self._configs[component.name] = component.parse(self.source(component))
        config: Config = self._configs[component.name]
        return config

    def weights(
        self,
        component: Component[Any],
        specs: Sequence[ParamSpec],
        loras: Loras = (),
        fuse_dtype: mx.Dtype | None = None,
    ) -> StageWeights:
        """Tensors of the component as a stage wants them; nothing is read. See `Checkpoint.load` for the arguments.

        Raises:
            CheckpointError: nothing holds the component.
        """
        return StageWeights(self.source(component), component.stored_name, specs, loras, fuse_dtype)

    @property
    def checkpoint(self) -> Checkpoint:
        """What holds the transformer; its header says which model this is."""
        return self.source(TRANSFORMER)

    @property
    def generation(self) -> Generation:
        """Of the model; where neither the header nor a tensor tells, the first one."""
        return self.checkpoint.generation or LTX_2

    def with_sources(self, sources: Mapping[str, Checkpoint]) -> WeightSet:
        """The same set, with some components from elsewhere."""
        return replace(self, sources={**self.sources, **sources})

    def with_loras(self, loras: Sequence[tuple[Path, float]]) -> WeightSet:
        """The same set with other LoRAs.

        Raises:
            UsageError, CheckpointError: as `open`.
        """
        _check_strengths(loras)
        return replace(self, loras=self._open_loras(loras))

    def _open_loras(self, loras: Sequence[tuple[Path, float]]) -> Loras:
        config, model = self.config(TRANSFORMER), self.checkpoint.path.name
        return tuple((_fitting_lora(LoraFile(path), config, model), strength) for path, strength in loras)


def _check_strengths(loras: Sequence[tuple[Path, float]]) -> None:
    for path, strength in loras:
        if not abs(strength) <= LARGEST_LORA_STRENGTH:
            raise UsageError(
                f"the strength of LoRA {path} must be -{LARGEST_LORA_STRENGTH:g} to {LARGEST_LORA_STRENGTH:g}, "
                f"got {strength}."
            )


def _fitting_lora(lora: LoraFile, config: TransformerConfig, model: str) -> LoraFile:
    """The LoRA, which fits the transformer by the names and shapes of what it changes."""
    modules = {spec.name.removesuffix(".weight"): spec.shape for spec in param_specs(config) if spec.layout == "linear"}
    shapes = {module: lora.delta_shape(module) for module in modules}
    if not any(shapes.values()) and len(lora.unmatched({"transformer": [f"{name}.weight" for name in modules]})) == len(
        lora.pairs
    ):
        raise CheckpointError(
            f"{lora.path}: none of the {len(lora.pairs)} modules of this LoRA exists in {model}; "
            "use a LoRA made for this model."
        )
    for module, shape in shapes.items():
        if shape is not None and shape != modules[module]:
            raise CheckpointError(
                f"{lora.path}: {module}: the LoRA is for a weight of {list(shape)}, the model has "
                f"{list(modules[module])}; use a LoRA made for this generation of the model."
            )
    return lora


def _open_upscaler(path: Path, axis: str) -> Checkpoint:
    component, kinds = _UPSCALERS[axis]
    checkpoint = Checkpoint.open(path)
    _require(checkpoint, component, "a latent upscaler")
    kind = component.parse(checkpoint).kind
    if kind not in kinds:
        raise CheckpointError(f"{path}: a {kind} upscaler, but a {axis} one is needed; give the other file.")
    return checkpoint


def _require(checkpoint: Checkpoint, component: Component[Any], kind: str) -> None:
    if component.stored_name not in checkpoint.components:
        raise CheckpointError(
            f"{checkpoint.path}: not {kind}: it holds {', '.join(sorted(checkpoint.components)) or 'nothing known'}; "
            "see what it is with: ltx2rt inspect FILE"
        )
