"""One way of decoding a clip, as decoders offer them to the stage that knows how much memory there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltx2rt.graph.models.layers.footprint import Footprint


@dataclass(frozen=True)
class DecodeWay:
    """One way of decoding a clip.

    Attributes:
        settings: what `VideoDecoder.frames` needs to go it.
        choice: the same for people.
        footprint: what it takes besides the weights.
        chunk_frames: frames that become bytes at a time.
    """

    settings: Mapping[str, Any]
    choice: Mapping[str, str]
    footprint: Footprint
    chunk_frames: int
