"""Gemma 3 as a text encoder of the stages, which writes, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ltx2rt.graph.models.layers.footprint import Footprint
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text import footprint
from ltx2rt.graph.models.text.gemma import Gemma
from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.text.gemma_encoder import GemmaEncoder
from ltx2rt.graph.models.text.generation import generate_tokens
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.types import Array, LinearWeight


class Gemma3TextModel(Gemma):
    """Gemma 3 that writes, too."""

    def written(self, input_ids: Array, stop_ids: Collection[int], options: SamplingOptions) -> Iterator[int]:
        """See `generate_tokens`."""
        return generate_tokens(self, input_ids, stop_ids, options)


@dataclass(frozen=True)
class Gemma3Encoder(GemmaEncoder):
    """The text encoder of a Gemma 3 configuration."""

    config: Gemma3Config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma3Encoder:
        """From a Hugging Face ``config.json``; see `Gemma3Config.from_dict`."""
        return cls(Gemma3Config.from_dict(config))

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
    ) -> Gemma3TextModel:
        return Gemma3TextModel(self.config, params, dtype, layers=layers, embedding_rows=embedding_rows)
