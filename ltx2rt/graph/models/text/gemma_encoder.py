"""Gemma models as text encoders of the stages: their tensors by use, and what encoding takes."""

from __future__ import annotations

from dataclasses import dataclass

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.text import footprint
from ltx2rt.graph.models.text.gemma import EMBEDDING, GemmaConfig, layer_specs, param_specs
from ltx2rt.types import ParamSpec


@dataclass(frozen=True)
class GemmaEncoder:
    """What the encoders of all Gemma models have in common."""

    config: GemmaConfig

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def num_states(self) -> int:
        return self.config.num_states

    def embedding_spec(self) -> ParamSpec:
        (embedding,) = (spec for spec in param_specs(self.config) if spec.name == EMBEDDING)
        return embedding

    def layer_specs(self) -> list[list[ParamSpec]]:
        return [layer_specs(self.config, index) for index in range(self.config.num_layers)]

    def resident_specs(self) -> list[ParamSpec]:
        others = {EMBEDDING} | {spec.name for specs in self.layer_specs() for spec in specs}
        return [spec for spec in param_specs(self.config) if spec.name not in others]

    def encoding_footprint(self, tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
        return footprint.encoder_footprint(self.config, tokens, itemsize, rotation)

    def encoding_flops(self, tokens: int) -> float:
        return footprint.encoder_flops(self.config, tokens)
