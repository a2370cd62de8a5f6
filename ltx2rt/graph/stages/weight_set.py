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
    PROMPT_ENHANCER,
    SPATIAL_UPSCALER,
    TEMPORAL_UPSCALER,
    TEXT_ENCODER,
    TEXT_PROJECTION,
    TRANSFORMER,
    VIDEO_VAE,
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
from ltx2rt.weights.sets.pairing import check_pairing
from ltx2rt.weights.sets.parts import ROLES, Role, find
from ltx2rt.weights.sets.resolution import missing_parts, resolve
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
        enhancer_tokenizer: of the language model that rewrites prompts, where it is another one.
        loras: LoRA files with their strengths, fused in this order.
        distilled_lora: the LoRA of the second stage of dev pipelines with its strength, or empty.
        detailing_lora: the LoRA of DFR with the strength that was given, or empty.
        gaps: setting of a part that the set does not have -> why.
        taken: setting of a part -> the file that was taken for it without having been named.
    """

    sources: Mapping[str, Checkpoint]
    tokenizer: GemmaTokenizer | None = None
    loras: Loras = ()
    distilled_lora: Loras = ()
    detailing_lora: Loras = ()
    gaps: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, Path] = field(default_factory=dict)
    enhancer_tokenizer: GemmaTokenizer | None = None
    _configs: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _whole: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, given: WeightFiles, roles: Sequence[Role] = ROLES) -> WeightSet:
        """Open the files and check that each is of the kind its place asks for.

        Args:
            given: what was named.
            roles: what is looked for beside it; see `resolve`.

        Raises:
            UsageError: no checkpoint, or a LoRA strength that is no finite number.
            CheckpointError: a file is missing, damaged or of the wrong kind.
        """
        if not given.has_model and given.video_vae is None:
            raise UsageError(f"there is no model; give {spelled('checkpoint', 'FILE')}.")
        distilled, detailing = (
            () if lora is None else (lora,) for lora in (given.distilled_lora, given.detailing_lora)
        )
        _check_strengths((*given.loras, *distilled, *detailing))
        model = resolve(given.checkpoint, given.parts, given.model_variant, roles, given.video_decoder)
        sources, gaps = dict(model.sources), dict(model.gaps)
        for axis in _UPSCALERS:
            _check_upscaler(sources, axis)
        tokenizer = None
        if TEXT_ENCODER.name in sources:
            try:
                _check_text_encoder(sources)
                encoder = sources[TEXT_ENCODER.name]
                tokenizer = None if encoder.is_manifest else GemmaTokenizer.of(encoder, given.tokenizer)
            except CheckpointError as error:
                if TEXT_ENCODER.name not in model.taken:
                    raise
                del sources[TEXT_ENCODER.name]  # nobody named it, and a text embedding can stand in its place
                gaps[TEXT_ENCODER.name] = str(error)
        enhancer_tokenizer = None
        if given.prompt_enhancer is not None:
            writer = _language_model(given.prompt_enhancer)
            sources[PROMPT_ENHANCER.name] = writer
            enhancer_tokenizer = None if writer.is_manifest else GemmaTokenizer.of(writer)
        weights = cls(sources, tokenizer, gaps=gaps, taken=model.taken, enhancer_tokenizer=enhancer_tokenizer)
        return replace(
            weights,
            loras=weights._open_loras(given.loras),
            distilled_lora=weights._open_loras(distilled, text=False),
            detailing_lora=weights._open_loras(detailing, text=False),
        )

    def has(self, component: Component[Any]) -> bool:
        """Whether something holds the component."""
        return component.name in self.sources

    def require(self, *settings: str) -> None:
        """Raise CheckpointError if one of these parts, by their settings, is missing; the error names every gap."""
        if any(setting in self.gaps for setting in settings):
            raise missing_parts(self.checkpoint.path, self.gaps.values())

    def require_whole(self, *components: Component[Any]) -> None:
        """Raise CheckpointError if one of these that the set has lacks tensors, or has some of another shape."""
        for component in components:
            if self.has(component) and component.name not in self._whole:
                source = self.source(component)
                source.require(component.stored_name, component.expectation(source).specs)
                self._whole.add(component.name)

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
        """What holds the transformer, or the video VAE of a set without one; its header says which model this is."""
        return self.source(TRANSFORMER if self.has(TRANSFORMER) or not self.has(VIDEO_VAE) else VIDEO_VAE)

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
        for lora, _ in (*self.loras, *self.distilled_lora, *self.detailing_lora):
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


def _language_model(path: Path) -> Checkpoint:
    """The language model in a file or folder, of a kind that rewrites prompts.

    Raises:
        CheckpointError: there is none.
    """
    found = find(path)
    parts = found.of(TEXT_ENCODER.name)
    if len(parts) != 1:
        raise CheckpointError(
            f"{found.path}: no language model: it holds {found.held}; give the folder of one Gemma with "
            f"{spelled('prompt_enhancer', 'FOLDER')}."
        )
    PROMPT_ENHANCER.parse(parts[0].checkpoint)
    return parts[0].checkpoint


def _check_upscaler(sources: Mapping[str, Checkpoint], axis: str) -> None:
    component, kinds = _UPSCALERS[axis]
    checkpoint = sources.get(component.name)
    if checkpoint is not None and (kind := component.parse(checkpoint).kind) not in kinds:
        raise CheckpointError(f"{checkpoint.path}: a {kind} upscaler, but a {axis} one is needed; give the other file.")


def _check_text_encoder(sources: Mapping[str, Checkpoint]) -> None:
    """Raise CheckpointError for a text encoder of another size than the text projection reads."""
    encoder, model = sources[TEXT_ENCODER.name], sources[TRANSFORMER.name]
    generation = model.generation or LTX_2
    check_pairing(model.metadata, encoder.section("text_encoder"), str(model.path), str(encoder.path), generation)
    projection = sources.get(TEXT_PROJECTION.name)
    if projection is None:
        return
    read = TEXT_PROJECTION.parse(projection).encoder_width
    kind = TEXT_ENCODER.parse(encoder)
    if kind.hidden_size * kind.num_states != read:
        raise CheckpointError(
            f"{encoder.path}: this text encoder has {kind.num_states} states of {kind.hidden_size} channels, together "
            f"{kind.hidden_size * kind.num_states}, but the text projection in {projection.path.name} reads {read}; "
            f"give the text encoder of 12B that the model was made for ({generation.text_encoder_name}), not a smaller "
            "or larger one."
        )
