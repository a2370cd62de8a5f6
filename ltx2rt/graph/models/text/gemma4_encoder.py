"""Gemma 4 in the stages: the fine-tune of LTX-2.5 encodes, and writes nothing of use; the stock models write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx

from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.gemma import Gemma
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.models.text.gemma_encoder import GemmaEncoder, GemmaWriter
from ltx2rt.graph.models.text.token_sampling import SamplingOptions
from ltx2rt.types import Array, LinearWeight


@dataclass(frozen=True)
class Gemma4Encoder(GemmaEncoder):
    """The text encoder of a Gemma 4 configuration."""

    config: Gemma4Config

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma4Encoder:
        """From a Hugging Face ``config.json``; see `Gemma4Config.from_dict`."""
        return cls(Gemma4Config.from_dict(config))

    def model(
        self,
        params: Params,
        dtype: mx.Dtype,
        *,
        layers: Callable[[int], Params] | None = None,
        embedding_rows: Callable[[Array], LinearWeight] | None = None,
    ) -> Gemma:
        return Gemma(self.config, params, dtype, layers=layers, embedding_rows=embedding_rows)


@dataclass(frozen=True)
class Gemma4Writer(GemmaWriter):
    """The language model of a Gemma 4 configuration."""

    config: Gemma4Config

    # As the official code has it write: always the likeliest word, but no five of them twice.
    usual_sampling: ClassVar[SamplingOptions] = SamplingOptions(temperature=0.0, max_new_tokens=600, no_repeat=5)
    needs_template: ClassVar[bool] = True

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma4Writer:
        """From a Hugging Face ``config.json``; see `Gemma4Config.from_dict`."""
        return cls(Gemma4Config.from_dict(config))
