"""The one table of benchmark cases; the command, the plot and the tests read it."""

from __future__ import annotations

from collections.abc import Sequence

from ltx2rt.bench.attention_cases import attention_cases
from ltx2rt.bench.bandwidth_case import MEL_FRAMES, BandwidthCase
from ltx2rt.bench.block_case import block_cases
from ltx2rt.bench.case import Case
from ltx2rt.bench.convolution_cases import convolution_cases
from ltx2rt.bench.decoder_cases import decoder_cases
from ltx2rt.bench.diffusion_cases import diffusion_cases
from ltx2rt.bench.guided_case import guided_cases
from ltx2rt.bench.linear_cases import linear_cases
from ltx2rt.bench.neighborhood_cases import neighborhood_cases
from ltx2rt.bench.norm_cases import norm_cases
from ltx2rt.bench.residency_case import residency_cases
from ltx2rt.bench.text_cases import text_cases
from ltx2rt.errors import UsageError


def all_cases() -> list[Case]:
    """Kernels first, then whole model parts."""
    return [
        *linear_cases(),
        *attention_cases(),
        *neighborhood_cases(),
        *convolution_cases(),
        *norm_cases(),
        *text_cases(),
        *decoder_cases(),
        *diffusion_cases(),
        BandwidthCase(MEL_FRAMES),
        *block_cases(),
        *guided_cases(),
        *residency_cases(),
    ]


SHORT = (
    "linear/bf16/4096x4096/m1",
    "linear/bf16/4096x4096/m1024",
    "linear/f32/4096x4096/m128",
    "linear/e4m3/4096x4096/m1",
    "linear/e4m3/4096x4096/m1024",
    "linear/int8/4096x4096/m128",
    "linear/int4/4096x4096/m1",
    "linear/q4_k/4096x4096/m1",
    "linear/nvfp4/4096x4096/m1",
    "linear/int8-convrot/4096x4096/m512",
    "attention/video/bf16/32x128/q1024-k1024",
    "attention/video-text/bf16/32x128/q1024-k1024",
    "neighborhood_attention/stage-1/bf16/32x64/6x8x8-w3x7x7",
    "conv/video/bf16/512-512/7x16x16",
    "conv/vocoder-k11/f32/256-256/15030",
    "modulated_norm/bf16/1024x4096",
    "text_layer/bf16/128",
    "video_layer/bf16/up_blocks.4.res_blocks.0/13x32x32",
    "diffusion_block/bf16/stage5/25x64x64",
    "audio_decoder/bf16/126",
    "vocoder-2.3/f32/25",
    "transformer_block/bf16/v256-a126-t1024",
)
"""The cases of a run without a choice: every kernel and format, and one of each model part that takes seconds."""


def short_cases() -> list[Case]:
    by_name = {case.name: case for case in all_cases()}
    return [by_name[name] for name in SHORT]


def select(only: Sequence[str]) -> list[Case]:
    """The cases whose name contains one of the texts; all for no text.

    Raises:
        UsageError: for a text that no case contains.
    """
    cases = all_cases()
    for text in only:
        if not any(text in case.name for case in cases):
            raise UsageError(f"no benchmark case contains {text!r}; ltx2rt bench --list shows their names.")
    return [case for case in cases if not only or any(text in case.name for text in only)]
