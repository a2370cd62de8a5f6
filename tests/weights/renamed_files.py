"""Small models in the names and layouts of other programs, made from official tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from ltx2rt.weights.safetensors import write_safetensors

MODEL = "model.diffusion_model."
CONNECTORS = (f"{MODEL}video_embeddings_connector.", f"{MODEL}audio_embeddings_connector.")
Tensors = Mapping[str, mx.array]
# A tensor with its values, or what a header says of one.
Value = TypeVar("Value")
Save = Callable[..., object]  # (path, tensors, **metadata)

_DIFFUSERS_TOPS = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
}


def is_transformer(name: str) -> bool:
    return name.startswith(MODEL) and not name.startswith(CONNECTORS)


def parts(tensors: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """The files of ComfyUI's split form, in official names: transformer, connectors, projection, vae, audio."""
    rules: dict[str, Callable[[str], bool]] = {
        "transformer": is_transformer,
        "connectors": lambda name: name.startswith(CONNECTORS),
        "projection": lambda name: name.startswith("text_embedding_projection."),
        "vae": lambda name: name.startswith("vae."),
        "audio": lambda name: name.startswith(("audio_vae.", "vocoder.")),
    }
    return {part: {n: value for n, value in tensors.items() if rule(n)} for part, rule in rules.items()}


def write(path: Path, tensors: Tensors, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, dict(tensors), metadata)
    return path


def bare(tensors: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def diffusers_repository(
    folder: Path, tensors: Mapping[str, Any], configs: Mapping[str, dict[str, Any]], save: Save = write
) -> Path:
    """A repository with a folder per component; ``configs`` are their ``config.json``, ``save`` writes a file."""
    split = parts(tensors)
    middle = max(int(found[1]) for n in split["vae"] if (found := re.match(r"vae\.encoder\.down_blocks\.(\d+)", n)))
    renamed = {
        "transformer": {_to_diffusers_transformer(n): v for n, v in split["transformer"].items()},
        "connectors": {_to_diffusers_connectors(n): v for n, v in (split["connectors"] | split["projection"]).items()},
        "vae": {_to_diffusers_vae(n.removeprefix("vae."), middle): v for n, v in split["vae"].items()},
        "audio_vae": {
            _statistics(n.removeprefix("audio_vae.")): v for n, v in tensors.items() if n.startswith("audio_vae.")
        },
        "vocoder": {_to_diffusers_vocoder(n): v for n, v in tensors.items() if n.startswith("vocoder.")},
    }
    for name, found in renamed.items():
        save(folder / name / "diffusion_pytorch_model.safetensors", found, format="pt")
        (folder / name / "config.json").write_text(json.dumps(configs.get(name, {})))
    (folder / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    return folder


def diffusers_configs(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What diffusers states of the components whose tensors do not tell everything."""
    section = config["transformer"]
    later = section.get("caption_proj_before_connector", False)
    same = (
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "cross_attention_dim",
        "audio_num_attention_heads",
        "audio_attention_head_dim",
        "audio_cross_attention_dim",
    )
    transformer = {
        "_class_name": "LTX2VideoTransformer3DModel",
        **{name: section[name] for name in same},
        "gated_attn": later,
        "cross_attn_mod": later,
        "use_prompt_embeddings": not later,
        "caption_channels": section.get("caption_channels"),
        "cross_attn_timestep_scale_multiplier": 1000,
    }
    connectors = {
        "_class_name": "LTX2TextConnectors",
        "video_connector_num_attention_heads": section["connector_num_attention_heads"],
        "video_connector_attention_head_dim": section["connector_attention_head_dim"],
        "video_connector_num_layers": section["connector_num_layers"],
        "video_connector_num_learnable_registers": section["connector_num_learnable_registers"],
        "audio_connector_num_attention_heads": section.get(
            "audio_connector_num_attention_heads", section["connector_num_attention_heads"]
        ),
        "audio_connector_attention_head_dim": section.get(
            "audio_connector_attention_head_dim", section["connector_attention_head_dim"]
        ),
        "video_gated_attn": later,
        "connector_rope_base_seq_len": 4096,
        "per_modality_projections": later,
    }
    return {"transformer": transformer, "connectors": connectors}


def _to_diffusers_transformer(name: str) -> str:
    first, dot, rest = name.removeprefix(MODEL).partition(".")
    rest = rest.replace(".q_norm.", ".norm_q.").replace(".k_norm.", ".norm_k.")
    rest = re.sub(r"scale_shift_table_a2v_ca_(video|audio)$", r"\1_a2v_cross_attn_scale_shift_table", rest)
    return _DIFFUSERS_TOPS.get(first, first) + dot + rest


def _to_diffusers_connectors(name: str) -> str:
    name = name.replace("text_embedding_projection.aggregate_embed", "text_proj_in")
    name = re.sub(r"text_embedding_projection\.(video|audio)_aggregate_embed", r"\1_text_proj_in", name)
    name = name.removeprefix(MODEL).replace("_embeddings_connector.", "_connector.", 1)
    name = name.replace("transformer_1d_blocks.", "transformer_blocks.", 1)
    return name.replace(".q_norm.", ".norm_q.").replace(".k_norm.", ".norm_k.")


def _to_diffusers_vae(name: str, middle: int) -> str:
    name = _statistics(name).replace("res_blocks.", "resnets.")
    found = re.fullmatch(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(.*)", name)
    if not found:
        return name
    half, index, rest = found[1], int(found[2]), found[3]
    if half == "encoder":
        block = f"down_blocks.{index // 2}" + (".downsamplers.0" if index % 2 else "")
        return f"encoder.mid_block.{rest}" if index == middle else f"encoder.{block}.{rest}"
    block = f"up_blocks.{(index - 1) // 2}" + (".upsamplers.0" if index % 2 else "")
    return f"decoder.mid_block.{rest}" if index == 0 else f"decoder.{block}.{rest}"


def _statistics(name: str) -> str:
    return name.replace("per_channel_statistics.mean-of-means", "latents_mean").replace(
        "per_channel_statistics.std-of-means", "latents_std"
    )


def _to_diffusers_vocoder(name: str) -> str:
    names = {"ups": "upsamplers", "resblocks": "resnets", "conv_pre": "conv_in", "conv_post": "conv_out"}
    name = ".".join({**names, "act_post": "act_out"}.get(e, e) for e in name.removeprefix("vocoder.").split("."))
    return name.replace("downsample.lowpass.filter", "downsample.filter")


def mlx_pack(
    folder: Path,
    tensors: Mapping[str, Any],
    config: Mapping[str, Any],
    version: str,
    save: Save = write,
    turned: Callable[[str, Any], Any] | None = None,
) -> Path:
    """A pack with a file per component, as mlx-forge makes it.

    Args:
        folder: where to.
        tensors: official names -> what ``save`` writes.
        config, version: of the model.
        save: writes a file.
        turned: what `channels_last` does, for what ``save`` writes.
    """
    files: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        file, renamed = _to_mlx(name)
        for each in file:
            files.setdefault(each, {})[renamed.replace("FILE", each)] = (turned or channels_last)(name, value)
    for name, found in files.items():
        save(folder / f"{name}.safetensors", found, format="mlx")
    components = [name for name in files if not name.startswith("transformer")]
    split = {"components": ["transformer", *components], "transformer_variants": ["distilled"]}
    (folder / "split_model.json").write_text(json.dumps({**split, "model_version": version}))
    (folder / "config.json").write_text(json.dumps({"model_version": version, "cross_attention_adaln": False}))
    (folder / "embedded_config.json").write_text(json.dumps(config))
    return folder


def channels_last(name: str, value: mx.array) -> mx.array:
    """A tensor with the axes of `mlx_axes`."""
    axes = mlx_axes(name, value.ndim)
    if axes == tuple(range(value.ndim)):
        return value
    return mx.array(np.array(value.astype(mx.float32)).transpose(axes)).astype(value.dtype)


def mlx_axes(name: str, rank: int) -> tuple[int, ...]:
    """The axes of a tensor in the order of MLX: a convolution has its channels at the end, (O, k, I) also where it is a
    transposed one."""
    if rank < 3 or not name.startswith(("vae.", "audio_vae.", "vocoder.", "upsampler.", "initial_conv")):
        return tuple(range(rank))
    if re.search(r"\.ups\.\d+\.weight$", name):
        return (1, 2, 0)
    return (0, *range(2, rank), 1)


def _to_mlx(name: str) -> tuple[tuple[str, ...], str]:
    """The files that hold a tensor, and its name there, in which FILE stands for the file's."""
    if is_transformer(name):
        name = name.removeprefix(MODEL).replace(".to_out.0.", ".to_out.")
        name = name.replace("ff.net.0.proj.", "ff.proj_in.").replace("ff.net.2.", "ff.proj_out.")
        return ("transformer-distilled",), "transformer." + re.sub(r"\.linear_([12])\.", r".linear\1.", name)
    if name.startswith((*CONNECTORS, "text_embedding_projection.")):
        return ("connector",), "connector." + name.removeprefix(MODEL)
    if name.startswith("vae.per_channel_statistics."):
        return ("vae_encoder", "vae_decoder"), "FILE." + _mlx_statistics(name.removeprefix("vae."))
    if name.startswith("vae."):
        half = name.split(".")[1]
        return (f"vae_{half}",), f"vae_{half}." + name.removeprefix(f"vae.{half}.")
    if name.startswith("vocoder."):
        return ("vocoder",), "vocoder." + name.replace("vocoder.", "")
    return ("audio_vae",), _mlx_statistics(name)


def _mlx_statistics(name: str) -> str:
    return name.replace("mean-of-means", "_mean_of_means").replace("std-of-means", "_std_of_means")
