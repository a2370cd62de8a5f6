"""One block of the transformer of LTX-2 (19B), 2.3 or 2.5: video, audio and text together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ltx2rt.bench.attention_cases import AUDIO_TOKENS, TEXT_TOKENS, token_rope
from ltx2rt.bench.case import BF16, DTYPES, Prepared, Way, normal
from ltx2rt.bench.linear_cases import DOT
from ltx2rt.bench.stage import Part, StageCase, evaluate, random_params
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.block import KeptSamples, Modulation, Stream, TextContext, run_block
from ltx2rt.graph.models.transformer.config import StreamConfig, TransformerConfig, block_param_specs
from ltx2rt.types import Activations

_SECTION = {"num_layers": 1, "rope_type": "split", "frequencies_precision": "float64"}
SECTION_23 = {
    **_SECTION,
    "cross_attention_adaln": True,
    "apply_gated_attention": True,
    "caption_proj_before_connector": True,
}
_SECTIONS = {"19b": _SECTION, "2.3": SECTION_23, "2.5": {**SECTION_23, "ff_bias": False}}
# Widths of whole groups of 256, in which weights may be rotated.
SMALL = {
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "cross_attention_dim": 256,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 256,
}


@dataclass(frozen=True)
class BlockCase(StageCase):
    """A block with ``tokens`` video tokens, five seconds of audio and a full text context.

    Attributes:
        form: of the linear weights.
        dtype: of the activations.
        generation: of the model, ``19b``, ``2.3`` or ``2.5``.
    """

    tokens: int
    form: str = "bf16"
    dtype: str = "bf16"
    small: bool = False
    generation: str = "19b"

    @property
    def name(self) -> str:
        suffix = "" if self.generation == "19b" else f"-{self.generation}"
        return f"transformer_block{suffix}/{self.form}/v{self.tokens}-a{AUDIO_TOKENS}-t{TEXT_TOKENS}"

    def reduced(self) -> BlockCase:
        return replace(self, tokens=48, small=True)

    def part(self) -> Part:
        return Block(self)

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        prepared = super().prepare(wanted)
        if self.form in DOT:
            plain = Block(replace(self, form="bf16"))
            prepared.ways[BF16] = Way(lambda share: lambda: evaluate(plain.build()))
        return prepared


class Block:
    """Weights and inputs of one block.

    The text keys and values are computed in every call, as in the first step and as in diffusers; later steps of a
    generation keep them.
    """

    def __init__(self, case: BlockCase) -> None:
        self.case = case
        self.config = TransformerConfig.from_dict({**_SECTIONS[case.generation], **(SMALL if case.small else {})})
        self.specs = block_param_specs(self.config, 0)
        self.params = random_params(self.specs, case.dtype, None if case.form in DTYPES else case.form)
        self._kept = KeptSamples(*(np.ones(1, dtype=bool) for _ in range(4)))
        audio, text = (24, 40) if case.small else (AUDIO_TOKENS, TEXT_TOKENS)
        self.video = self._stream("video", self.config.video, case.tokens, text, axes=3, seed=100)
        self.audio = self._stream("audio", self.config.audio, audio, text, axes=1, seed=200)

    def _stream(self, name: str, config: StreamConfig, tokens: int, text: int, axes: int, seed: int) -> Stream:
        dtype, width = DTYPES[self.case.dtype], config.width

        def modulation(rows: int, number: int, of: int = tokens) -> Modulation:
            return Modulation(
                normal((rows, 1, width), seed + number, mx.float32, 0.1), mx.zeros((1, of), dtype=mx.int32)
            )

        return Stream(
            name=name,
            x=normal((1, tokens, width), seed, dtype),
            enabled=True,
            contexts=(
                TextContext(
                    normal((1, text, width), seed + 1, dtype),
                    prompt=modulation(2, 5, text) if self.config.prompt_adaln else None,
                ),
            ),
            self_bias=None,
            rope=token_rope(tokens, axes, width),
            modulation=modulation(self.config.modulation_rows, 2),
            embedded=mx.zeros((1, width)),
            cross_rope=token_rope(tokens, 1, self.config.audio.width),
            cross_modulation=modulation(4, 3),
            cross_gate=modulation(1, 4),
        )

    def build(self) -> mx.array:
        """Both streams after the block, (1, T, D) side by side as one vector, so that there is one result."""
        video, audio = replace(self.video), replace(self.audio)
        activations: Activations = "int8" if self.case.form in DOT else "float"
        params = Params(self.params, "transformer_blocks.0.", activations)
        run_block(self.config, params, 0, video, audio, self._kept)
        return mx.concatenate([video.x.reshape(-1), audio.x.reshape(-1)])


def block_cases() -> list[BlockCase]:
    """Three clip sizes in bfloat16, the smaller two of 2.3 and the smallest of 2.5 too, that also with rotated int8
    weights; one of 2.3 with activations as 8-bit codes; the middle one with E4M3 weights and in float32."""
    return [
        *(BlockCase(tokens) for tokens in (256, 1024, 4096)),
        *(BlockCase(tokens, generation="2.3") for tokens in (256, 1024)),
        *(BlockCase(1024, form=form, generation="2.3") for form in DOT),
        *(BlockCase(256, form=form, generation="2.5") for form in ("bf16", "int8-convrot")),
        BlockCase(1024, form="e4m3"),
        BlockCase(1024, form="f32", dtype="f32"),
    ]
