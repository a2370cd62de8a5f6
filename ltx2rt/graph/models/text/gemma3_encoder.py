"""Gemma 3 as a text encoder of the stages, which writes, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltx2rt.graph.models.text.gemma3 import Gemma3Config
from ltx2rt.graph.models.text.gemma_encoder import GemmaWriter
from ltx2rt.graph.models.text.token_sampling import SamplingOptions


@dataclass(frozen=True)
class Gemma3Encoder(GemmaWriter):
    """The text encoder of a Gemma 3 configuration."""

    config: Gemma3Config

    usual_sampling: ClassVar[SamplingOptions] = SamplingOptions()
    needs_template: ClassVar[bool] = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Gemma3Encoder:
        """From a Hugging Face ``config.json``; see `Gemma3Config.from_dict`."""
        return cls(Gemma3Config.from_dict(config))
