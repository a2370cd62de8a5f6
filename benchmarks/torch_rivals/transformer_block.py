"""A block of the 19B transformer as diffusers writes it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ltx2rt.bench.block_case import Block, BlockCase
from ltx2rt.bench.case import DTYPES, TORCH, Call, Way
from ltx2rt.graph.models.transformer.block import Modulation
from ltx2rt.kernels import RopeTable
from ltx2rt.kernels.reference import rope_lanes

from .arrays import installed, to_torch, torch_module, torch_weights

_TORCH_NAMES = {
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
}


def block_ways(case: BlockCase, part: Block) -> dict[str, Way]:
    if case.generation != "19b" or case.form not in DTYPES or not installed("diffusers"):
        return {}
    return {TORCH: Way(lambda share: block_call(part))}


def block_call(part: Block) -> Call:
    """The block of diffusers with the same weights and inputs."""
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformerBlock

    torch = torch_module()
    video, audio = part.config.video, part.config.audio
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
    weights = torch_weights(part.params, part.specs, _torch_name, part.case.dtype)
    block.load_state_dict(weights, strict=True, assign=True)
    block.eval()
    arguments = block_arguments(part)

    def call() -> Any:
        with torch.inference_mode():
            return torch.cat([x.reshape(-1) for x in block(**arguments)])

    return call


def block_arguments(part: Block) -> dict[str, Any]:
    dtype = DTYPES[part.case.dtype]
    heads = part.config.video.num_heads

    def rows(modulation: Modulation | None) -> Any:
        assert modulation is not None
        return to_torch(modulation.rows.reshape(1, 1, -1).astype(dtype))

    def rotary(table: RopeTable | None, width: int) -> tuple[Any, ...]:
        assert table is not None
        lanes = rope_lanes(table, width // 2)
        return tuple(to_torch(mx.contiguous(a.reshape(1, a.shape[1], heads, -1).transpose(0, 2, 1, 3))) for a in lanes)

    video, audio = part.video, part.audio
    width, audio_width = part.config.video.width, part.config.audio.width
    return {
        "hidden_states": to_torch(video.x),
        "audio_hidden_states": to_torch(audio.x),
        "encoder_hidden_states": to_torch(video.context.tokens),
        "audio_encoder_hidden_states": to_torch(audio.context.tokens),
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


WAYS: dict[type, Any] = {BlockCase: block_ways}
