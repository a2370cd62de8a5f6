"""The weights of a run: which opened file holds which component; opening reads headers only."""

from __future__ import annotations

import math
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
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.fitting_loras import LORA_COMPONENTS, LoraTarget, check_lora
from ltx2rt.spelling import spelled
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.generations import LTX_2, Generation
from ltx2rt.weights.kept_weights import Loras, StageWeights
from ltx2rt.weights.lora.opening import open_lora
from ltx2rt.weights.tokenizer import GemmaTokenizer

_UPSCALERS = {
    "spatial": (SPATIAL_UPSCALER, ("spatial", "rational")),
    "temporal": (TEMPORAL_UPSCALER, ("temporal",)),
}


def fuse_dtype(dtype: mx.Dtype) -> mx.Dtype | None:
    """Of weights that LoRAs change, where the activations are of ``dtype``: exact where these are; None: as the weight
    is stored."""
    return mx.float32 if dtype == mx.float32 else None


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
            UsageError: no checkpoint, or a LoRA strength that is no finite number.
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
            tokenizer = GemmaTokenizer.from_directory(given.text_encoder)
        for axis, path in (("spatial", given.spatial_upscaler), ("temporal", given.temporal_upscaler)):
            if path is not None:
                sources[_UPSCALERS[axis][0].name] = _open_upscaler(path, axis)
        weights = cls(sources, tokenizer)
        return replace(
            weights, loras=weights._open_loras(given.loras), distilled_lora=weights._open_loras(distilled, text=False)
        )

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

    def require_finite_loras(self) -> None:
        """Look at every value of the LoRAs that is used, once.

        Raises:
            CheckpointError: one is NaN or infinite; the message names file and tensor.
        """
        for lora, _ in (*self.loras, *self.distilled_lora):
            lora.require_finite()

    def _open_loras(self, loras: Sequence[tuple[Path, float]], *, text: bool = True) -> Loras:
        """The files, which fit the model; ``text``: what they change in the text path counts."""
        if not loras:
            return ()
        model = LoraTarget(
            self.checkpoint.path.name,
            self.checkpoint.generation,
            {
                component.name: {spec.name: spec.shape for spec in component.specs(self.config(component))}
                for component in LORA_COMPONENTS
                if self.has(component)
            },
        )
        opened = [(open_lora(path), strength) for path, strength in loras]
        for lora, strength in opened:
            check_lora(lora, strength, model, text=text)
        return tuple(opened)


def _check_strengths(loras: Sequence[tuple[Path, float]]) -> None:
    for path, strength in loras:
        if not math.isfinite(strength):
            raise UsageError(f"the strength of LoRA {path} must be a finite number, got {strength}.")


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
