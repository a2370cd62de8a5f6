"""Blocks of the diffusion video decoder of LTX-2.5, at their size within a clip of 25 frames of 256 x 256."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ltx2rt.bench.case import DTYPES, normal
from ltx2rt.bench.stage import Part, StageCase, random_params
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.diffusion_blocks import MODULATION_ROWS, Attended, AttentionBlock, stage_blocks
from ltx2rt.graph.models.video_vae.diffusion_config import DiffusionDecoderConfig, Size
from ltx2rt.kernels import first_frames
from ltx2rt.kernels.host import from_numbers

_STAGES = 5


@dataclass(frozen=True)
class DiffusionBlockCase(StageCase):
    """A block of one stage on all cells of its grid.

    Attributes:
        stage: 1 to 5; the last one has a context and is modulated.
        size: cells along (F, H, W).
    """

    stage: int
    size: Size
    dtype: str = "bf16"
    small: bool = False

    @property
    def name(self) -> str:
        return f"diffusion_block/{self.dtype}/stage{self.stage}/{'x'.join(map(str, self.size))}"

    def reduced(self) -> DiffusionBlockCase:
        return replace(self, size=(4, 12, 12), small=True)

    def part(self) -> Part:
        return DiffusionBlock(self)


class DiffusionBlock:
    """Weights and inputs of one block: its cells, in the last stage also a context and the modulation of all blocks."""

    def __init__(self, case: DiffusionBlockCase) -> None:
        self.case = case
        config = DiffusionDecoderConfig.from_dict({})
        block = stage_blocks(config, case.stage - 1)[0]
        if case.small:
            block = replace(block, channels=2 * config.head_dim, window=(3, *block.window[1:]))
        self.block: AttentionBlock = block
        self.specs = [spec for spec in block.specs() if not spec.optional]
        self.params = random_params(self.specs, case.dtype)
        dtype, shape = DTYPES[case.dtype], (1, *case.size, block.channels)
        self.x = normal(shape, 1, dtype)
        self.context = normal(shape, 2, dtype) if block.denoises else None
        self.shared = normal((MODULATION_ROWS, block.channels), 3, mx.float32, 0.1) if block.denoises else None
        self.times = np.arange(case.size[0])
        first = first_frames(self.times, block.window[0], case.size[0])
        self.key_frames = from_numbers(first[:, None] + np.arange(block.window[0]), dtype=np.int32)

    def build(self) -> mx.array:
        block, params = self.block, Params(self.params)
        modulation = block.modulation(params, self.shared)
        x = self.x if self.context is None else block.with_context(self.x, self.context, params)
        seen = Attended(block.keys_values(x, params, modulation), self.times, mx.array(self.key_frames))
        return block.mlp(block.attend(x, self.times, seen, params, modulation), params, modulation)


def diffusion_cases() -> list[DiffusionBlockCase]:
    """The first stage with its ghost frames, whose layers are wide, and the last one, whose windows are large."""
    return [DiffusionBlockCase(1, (6, 8, 8)), DiffusionBlockCase(_STAGES, (25, 64, 64))]
