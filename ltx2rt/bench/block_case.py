"""One block of the transformer of LTX-2 (19B) or 2.3: video, audio and text together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.attention_cases import AUDIO_TOKENS, TEXT_TOKENS, token_rope
from ltx2rt.bench.case import DTYPES, Call, normal
from ltx2rt.bench.stage import Part, StageCase, random_params, torch_weights
from ltx2rt.bench.torch_arrays import diffusers_installed, to_torch, torch_module
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.block import KeptSamples, Modulation, Stream, TextContext, run_block
from ltx2rt.graph.models.transformer.config import StreamConfig, TransformerConfig, block_param_specs
from ltx2rt.kernels import RopeTable
from ltx2rt.kernels.reference import rope_lanes

_SECTION = {"num_layers": 1, "rope_type": "split", "frequencies_precision": "float64"}
_SECTIONS = {
    "19b": _SECTION,
    "2.3": {
        **_SECTION,
        "cross_attention_adaln": True,
        "apply_gated_attention": True,
        "caption_proj_before_connector": True,
    },
}
_SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "cross_attention_dim": 128,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 32,
    "audio_cross_attention_dim": 64,
}
_TORCH_NAMES = {
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}


@dataclass(frozen=True)
class BlockCase(StageCase):
    """A block with ``tokens`` video tokens, five seconds of audio and a full text context.

    Attributes:
        form: of the linear weights.
        dtype: of the activations.
        generation: of the model, ``19b`` or ``2.3``.
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


class Block:
    """Weights and inputs of one block.

    The text keys and values are computed in every call, as in the first step and as in diffusers; later steps of a
    generation keep them.
    """

    def __init__(self, case: BlockCase) -> None:
        self._case = case
        self._config = TransformerConfig.from_dict({**_SECTIONS[case.generation], **(_SMALL if case.small else {})})
        self._specs = block_param_specs(self._config, 0)
        self._params = random_params(self._specs, case.dtype, None if case.form in DTYPES else case.form)
        self._kept = KeptSamples(*(np.ones(1, dtype=bool) for _ in range(4)))
        audio, text = (24, 40) if case.small else (AUDIO_TOKENS, TEXT_TOKENS)
        self._video = self._stream("video", self._config.video, case.tokens, text, axes=3, seed=100)
        self._audio = self._stream("audio", self._config.audio, audio, text, axes=1, seed=200)

    def _stream(self, name: str, config: StreamConfig, tokens: int, text: int, axes: int, seed: int) -> Stream:
        dtype, width = DTYPES[self._case.dtype], config.width

        def modulation(rows: int, number: int, of: int = tokens) -> Modulation:
            return Modulation(
                normal((rows, 1, width), seed + number, mx.float32, 0.1), mx.zeros((1, of), dtype=mx.int32)
            )

        return Stream(
            name=name,
            x=normal((1, tokens, width), seed, dtype),
            enabled=True,
            context=TextContext(normal((1, text, width), seed + 1, dtype)),
            context_bias=None,
            self_bias=None,
            rope=token_rope(tokens, axes, width),
            modulation=modulation(self._config.modulation_rows, 2),
            embedded=mx.zeros((1, width)),
            prompt=modulation(2, 5, text) if self._config.prompt_adaln else None,
            cross_rope=token_rope(tokens, 1, self._config.audio.width),
            cross_modulation=modulation(4, 3),
            cross_gate=modulation(1, 4),
        )

    def build(self) -> mx.array:
        """Both streams after the block, (1, T, D) side by side as one vector, so that there is one result."""
        video, audio = replace(self._video), replace(self._audio)
        run_block(self._config, Params(self._params, "transformer_blocks.0."), 0, video, audio, self._kept)
        return mx.concatenate([video.x.reshape(-1), audio.x.reshape(-1)])

    def torch_call(self) -> Call | None:
        if self._case.generation != "19b" or self._case.form not in DTYPES or not diffusers_installed():
            return None
        from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformerBlock

        torch = torch_module()
        video, audio = self._config.video, self._config.audio
        with torch.device("meta"):
            block = LTX2VideoTransformerBlock(
                dim=video.width,
                num_attention_heads=video.num_heads,
                attention_head_dim=video.head_dim,
                cross_attention_dim=video.width,
                audio_dim=audio.width,
                audio_num_attention_heads=audio.num_heads,
                audio_attention_head_dim=audio.head_dim,
                audio_cross_attention_dim=audio.width,
                rope_type="split",
            )
        weights = torch_weights(self._params, self._specs, _torch_name, self._case.dtype)
        block.load_state_dict(weights, strict=True, assign=True)
        block.eval()
        arguments = self._torch_arguments(to_torch)

        def call() -> Any:
            with torch.inference_mode():
                return torch.cat([x.reshape(-1) for x in block(**arguments)])

        return call

    def _torch_arguments(self, convert: Callable[[mx.array], Any]) -> dict[str, Any]:
        dtype = DTYPES[self._case.dtype]
        heads = self._config.video.num_heads

        def rows(modulation: Modulation | None) -> Any:
            assert modulation is not None
            return convert(modulation.rows.reshape(1, 1, -1).astype(dtype))

        def rotary(table: RopeTable | None, width: int) -> tuple[Any, ...]:
            assert table is not None
            lanes = rope_lanes(table, width // 2)
            return tuple(
                convert(mx.contiguous(a.reshape(1, a.shape[1], heads, -1).transpose(0, 2, 1, 3))) for a in lanes
            )

        video, audio = self._video, self._audio
        width, audio_width = self._config.video.width, self._config.audio.width
        return {
            "hidden_states": convert(video.x),
            "audio_hidden_states": convert(audio.x),
            "encoder_hidden_states": convert(video.context.tokens),
            "audio_encoder_hidden_states": convert(audio.context.tokens),
            "temb": rows(video.modulation),
            "temb_audio": rows(audio.modulation),
            "temb_ca_scale_shift": rows(video.cross_modulation),
            "temb_ca_audio_scale_shift": rows(audio.cross_modulation),
            "temb_ca_gate": rows(video.cross_gate),
            "temb_ca_audio_gate": rows(audio.cross_gate),
            "video_rotary_emb": rotary(video.rope, width),
            "audio_rotary_emb": rotary(audio.rope, audio_width),
            "ca_video_rotary_emb": rotary(video.cross_rope, audio_width),
            "ca_audio_rotary_emb": rotary(audio.cross_rope, audio_width),
        }


def _torch_name(name: str) -> str:
    name = name.removeprefix("transformer_blocks.0.")
    for ours, theirs in _TORCH_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def block_cases() -> list[BlockCase]:
    """Three clip sizes in bfloat16, the smaller two of 2.3 too; the middle one with E4M3 weights and in float32."""
    return [
        *(BlockCase(tokens) for tokens in (256, 1024, 4096)),
        *(BlockCase(tokens, generation="2.3") for tokens in (256, 1024)),
        BlockCase(1024, form="e4m3"),
        BlockCase(1024, form="f32", dtype="f32"),
    ]
