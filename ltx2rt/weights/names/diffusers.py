"""Names of diffusers' component folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ltx2rt.weights.names.official import TRANSFORMER
from ltx2rt.weights.names.origin import Origin
from ltx2rt.weights.tensor_source import TensorInfo

# First element of a name -> the official one, where they differ.
TRANSFORMER_TOPS = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
CONNECTOR_TOPS = {
    "video_connector": f"{TRANSFORMER}video_embeddings_connector",
    "audio_connector": f"{TRANSFORMER}audio_embeddings_connector",
    "text_proj_in": "text_embedding_projection.aggregate_embed",
    "video_text_proj_in": "text_embedding_projection.video_aggregate_embed",
    "audio_text_proj_in": "text_embedding_projection.audio_aggregate_embed",
}
# Ends of names.
TABLES = {
    "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
    "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
}
_STATISTICS = {
    "latents_mean": "per_channel_statistics.mean-of-means",
    "latents_std": "per_channel_statistics.std-of-means",
}
_VOCODER_ELEMENTS = {
    "upsamplers": "ups",
    "resnets": "resblocks",
    "conv_in": "conv_pre",
    "conv_out": "conv_post",
    "act_out": "act_post",
}
_ENCODER_DOWN_BLOCKS = 4

Rename = Callable[[str], str]


def component(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Which of diffusers' components these are: ``transformer``, ``vae``, ...; None: not in its names."""
    if "video_connector.learnable_registers" in tensors or "audio_connector.learnable_registers" in tensors:
        return "connectors"
    if "latents_mean" in tensors or "latents_std" in tensors:
        ranks = [len(tensors[n].shape) for n in tensors if n.endswith("coder.conv_in.conv.weight")]
        return "audio_vae" if 4 in ranks else "vae"
    for name in tensors:
        first, _, rest = name.partition(".")
        if first == "transformer_blocks" and rest.endswith((".norm_q.weight", ".norm_k.weight")):
            return "transformer"
        if first in TRANSFORMER_TOPS and first not in ("proj_in", "prompt_adaln"):
            return "transformer"
        if first in ("upsamplers", "resnets") and ("conv_in.weight" in tensors or "conv_out.weight" in tensors):
            return "vocoder"
        if name.startswith(("vocoder.upsamplers.", "bwe_generator.upsamplers.", "vocoder.resnets.")):
            return "vocoder"
        if name.endswith(".resnets.0.conv1.conv.weight") and first in ("encoder", "decoder"):
            return "vae"
    return None


def official_names(tensors: Mapping[str, TensorInfo], kind: str) -> list[tuple[str, Origin]]:
    """(official name, origin) of every tensor of component ``kind``, as `component` gives it."""
    if kind == "vae":
        blocks = (re.match(r"encoder\.down_blocks\.(\d+)\.", name) for name in tensors)
        middle = 2 * max((int(found[1]) + 1 for found in blocks if found), default=_ENCODER_DOWN_BLOCKS)
        return [(_vae(name, middle), Origin(name)) for name in tensors]
    rename = _RENAMES[kind]
    return [(rename(name), Origin(name)) for name in tensors]


def transformer_name(name: str) -> str:
    """The official name, without what stands before it."""
    first, dot, rest = name.partition(".")
    name = TRANSFORMER_TOPS.get(first, first) + dot + _attention(rest)
    head, dot, last = name.rpartition(".")
    return head + dot + TABLES.get(last, last)


def connector_name(name: str) -> str:
    """The official name of a tensor of the connectors' folder."""
    first, dot, rest = name.partition(".")
    rest = _attention(rest.replace("transformer_blocks.", "transformer_1d_blocks.", 1))
    return CONNECTOR_TOPS.get(first, first) + dot + rest


def _attention(name: str) -> str:
    return name.replace(".norm_q.", ".q_norm.").replace(".norm_k.", ".k_norm.")


def _vae(name: str, middle: int) -> str:
    """The official name; ``middle``: the flat block of the encoder that is ``mid_block`` here."""
    if name in _STATISTICS:
        return f"vae.{_STATISTICS[name]}"
    name = name.replace("resnets.", "res_blocks.")
    half, _, rest = name.partition(".")
    if half == "encoder":
        rest = _encoder_block(rest, middle)
    elif half == "decoder":
        rest = _decoder_block(rest)
        if rest.startswith(("time_embedder.", "scale_shift_table")):
            rest = f"last_{rest}"
    return f"vae.{half}.{rest}"


def _encoder_block(name: str, middle: int) -> str:
    """``down_blocks.j`` is the flat block 2j, its downsampler the block 2j + 1, ``mid_block`` the one after them."""
    found = re.fullmatch(r"down_blocks\.(\d+)\.(downsamplers\.0\.)?(.*)", name)
    if found:
        index = 2 * int(found.group(1)) + (1 if found.group(2) else 0)
        return f"down_blocks.{index}.{found.group(3)}"
    return name.replace("mid_block.", f"down_blocks.{middle}.", 1) if name.startswith("mid_block.") else name


def _decoder_block(name: str) -> str:
    """``mid_block`` is the flat block 0, the upsampler of ``up_blocks.j`` the block 2j + 1, its rest 2j + 2."""
    found = re.fullmatch(r"up_blocks\.(\d+)\.(upsamplers\.0\.)?(.*)", name)
    if found:
        index = 2 * int(found.group(1)) + (1 if found.group(2) else 2)
        return f"up_blocks.{index}.{found.group(3)}"
    return name.replace("mid_block.", "up_blocks.0.", 1) if name.startswith("mid_block.") else name


def _audio_vae(name: str) -> str:
    return f"audio_vae.{_STATISTICS.get(name, name)}"


def _vocoder(name: str) -> str:
    elements = [_VOCODER_ELEMENTS.get(element, element) for element in name.split(".")]
    name = ".".join(elements)
    if name.endswith(".downsample.filter"):
        name = name.removesuffix("filter") + "lowpass.filter"
    return f"vocoder.{name}"


_RENAMES: dict[str, Rename] = {
    "transformer": lambda name: TRANSFORMER + transformer_name(name),
    "connectors": connector_name,
    "audio_vae": _audio_vae,
    "vocoder": _vocoder,
}
