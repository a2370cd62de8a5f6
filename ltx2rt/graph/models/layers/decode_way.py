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
        exact: whether the result is that of every other way. Others (tiles for want of memory) are not gone beside
            weights that stay in memory, on which no result may depend.
    """

    settings: Mapping[str, Any]
    choice: Mapping[str, str]
    footprint: Footprint
    chunk_frames: int
    exact: bool = True
