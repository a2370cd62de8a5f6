"""Gemma 3 as a text encoder of the stages: its tensors by use, what it takes, and its two kinds of work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import footprint, gemma3
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.types import Array, LinearWeight, ParamSpec

_EMBEDDING = "embed_tokens.weight"


class Gemma3TextModel(gemma3.Gemma3):
    """Gemma 3 that writes, too."""

    def written(self, input_ids: Array, stop_ids: Collection[int], options: SamplingOptions) -> Iterator[int]:
        """See `generate_tokens`."""
        return generate_tokens(self, input_ids, stop_ids, options)


@dataclass(frozen=True)
class Gemma3Encoder:
    """The text encoder of a Gemma 3 configuration."""

    config: gemma3.Gemma3Config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma3Encoder:
        """From a Hugging Face ``config.json``; see `Gemma3Config.from_dict`."""
        return cls(gemma3.Gemma3Config.from_dict(config))

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def num_states(self) -> int:
        return self.config.num_states

    def embedding_spec(self) -> ParamSpec:
        (embedding,) = (spec for spec in gemma3.param_specs(self.config) if spec.name == _EMBEDDING)
        return embedding

    def layer_specs(self) -> list[list[ParamSpec]]:
        return [gemma3.layer_specs(self.config, index) for index in range(self.config.num_layers)]

    def resident_specs(self) -> list[ParamSpec]:
        others = {_EMBEDDING} | {spec.name for specs in self.layer_specs() for spec in specs}
        return [spec for spec in gemma3.param_specs(self.config) if spec.name not in others]

    def encoding_footprint(self, tokens: int, itemsize: int) -> Footprint:
        return footprint.encoder_footprint(self.config, tokens, itemsize)

    def encoding_flops(self, tokens: int) -> float:
        return footprint.encoder_flops(self.config, tokens)

    def writing_footprint(self, tokens: int, new_tokens: int, itemsize: int) -> Footprint:
        return footprint.writing_footprint(self.config, tokens, new_tokens, itemsize)

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
    ) -> Gemma3TextModel:
        return Gemma3TextModel(self.config, params, dtype, layers=layers, embedding_rows=embedding_rows)
