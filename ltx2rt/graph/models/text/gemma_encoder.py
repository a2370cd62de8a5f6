"""Gemma models as text encoders of the stages: their tensors by use, and what encoding takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import mlx.core as mx

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import footprint
from ltx2rt.graph.models.text.gemma import EMBEDDING, LAYER_INPUTS, Gemma, GemmaConfig, layer_specs, param_specs
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.types import Array, LinearWeight, ParamSpec


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

    def looked_up_specs(self) -> list[ParamSpec]:
        return [spec for spec in param_specs(self.config) if spec.name == LAYER_INPUTS]

    def resident_specs(self) -> list[ParamSpec]:
        others = {EMBEDDING, LAYER_INPUTS} | {spec.name for specs in self.layer_specs() for spec in specs}
        return [spec for spec in param_specs(self.config) if spec.name not in others]

    def encoding_footprint(self, tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
        return footprint.encoder_footprint(self.config, tokens, itemsize, rotation)

    def encoding_flops(self, tokens: int) -> float:
        return footprint.encoder_flops(self.config, tokens)


@dataclass(frozen=True)
class GemmaWriter(GemmaEncoder):
    """What the models have in common that write, too."""

    def writing_footprint(self, tokens: int, new_tokens: int, itemsize: int, rotation: int = 0) -> Footprint:
        return footprint.writing_footprint(self.config, tokens, new_tokens, itemsize, rotation)

    def writing_flops(self, tokens: int, new_tokens: int) -> float:
        each = footprint.encoder_flops(self.config, 1) + footprint.head_flops(self.config)
        return footprint.encoder_flops(self.config, tokens) + new_tokens * each

    def kept_bytes(self, tokens: int, new_tokens: int, itemsize: int) -> int:
        return footprint.key_value_bytes(self.config, tokens, new_tokens, itemsize)

    def model(
        self,
        params: Params,
        dtype: mx.Dtype,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[Array], LinearWeight] | None = None,
        input_rows: Callable[[Array], LinearWeight] | None = None,
    ) -> WritingGemma:
        return WritingGemma(
            self.config, params, dtype, layers=layers, embedding_rows=embedding_rows, input_rows=input_rows
        )


class WritingGemma(Gemma):
    """A Gemma that writes, too."""

    def written(self, input_ids: Array, stop_ids: Collection[int], options: SamplingOptions) -> Iterator[int]:
        """See `generate_tokens`."""
        return generate_tokens(self, input_ids, stop_ids, options)
