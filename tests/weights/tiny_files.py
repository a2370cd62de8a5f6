"""Tiny weight files in the official layout, with tensors made from the models' own lists."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.models.audio import vae as audio_vae
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.text import connector, feature_extractor
from ltx2rt.graph.models.transformer import config as transformer_config
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.types import ParamSpec
from ltx2rt.weights.safetensors import write_safetensors

# Head sizes are the published ones: without metadata a file of the first generation cannot tell others.
TRANSFORMER_19B: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "in_channels": 128,
    "out_channels": 128,
    "cross_attention_dim": 128,
    "audio_num_attention_heads": 1,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 64,
    "caption_channels": 128,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "frequencies_precision": "float64",
    "rope_type": "split",
    "connector_num_layers": 1,
    "connector_num_attention_heads": 1,
    "connector_attention_head_dim": 128,
    "connector_num_learnable_registers": 128,
    "connector_positional_embedding_max_pos": [4096],
}
TRANSFORMER_23: dict[str, Any] = {
    **{key: value for key, value in TRANSFORMER_19B.items() if key != "caption_channels"},
    "num_attention_heads": 2,
    "audio_num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 16,
    "apply_gated_attention": True,
    "connector_apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}
TRANSFORMER_25 = {**TRANSFORMER_23, "ff_bias": False, "use_keyframes_abs_pos_embedding": True}
VAE_19B: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder",
    "latent_channels": 32,
    "patch_size": 4,
    "encoder_blocks": [
        ["res_x", {"num_layers": 2}],
        ["compress_space_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_time_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
    "timestep_conditioning": False,
    "encoder_base_channels": 4,
    "decoder_base_channels": 8,
}
VAE_23: dict[str, Any] = {
    **VAE_19B,
    "encoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_space", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "encoder_base_channels": 8,
    "spatial_padding_mode": "zeros",
}
AUDIO_VAE: dict[str, Any] = {
    "model": {
        "params": {
            "ddconfig": {
                "double_z": True,
                "mel_bins": 64,
                "z_channels": 8,
                "in_channels": 2,
                "out_ch": 2,
                "ch": 8,
                "ch_mult": [1, 2, 4],
                "num_res_blocks": 2,
                "attn_resolutions": [],
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
            },
            "sampling_rate": 16000,
        }
    }
}
GENERATOR: dict[str, Any] = {
    "resblock": "1",
    "upsample_initial_channel": 64,
    "upsample_rates": [6, 5, 2, 2, 2],
    "upsample_kernel_sizes": [16, 15, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "stereo": True,
}
ANTIALIASED = {"resblock": "AMP1", "activation": "snakebeta", "use_tanh_at_final": False, "use_bias_at_final": False}
VOCODER_23: dict[str, Any] = {
    "vocoder": {
        **GENERATOR,
        **ANTIALIASED,
        "upsample_rates": [5, 2, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
    },
    "bwe": {
        **GENERATOR,
        **ANTIALIASED,
        "upsample_kernel_sizes": [12, 11, 4, 4, 4],
        "apply_final_activation": False,
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
        "hop_length": 80,
        "n_fft": 512,
        "win_size": 512,
        "num_mels": 64,
    },
}
CONFIG_19B = {"transformer": TRANSFORMER_19B, "vae": VAE_19B, "audio_vae": AUDIO_VAE, "vocoder": GENERATOR}
CONFIG_23 = {"transformer": TRANSFORMER_23, "vae": VAE_23, "audio_vae": AUDIO_VAE, "vocoder": VOCODER_23}


def model_specs(config: dict[str, Any], encoder: tuple[int, int] = (48, 3)) -> dict[str, ParamSpec]:
    """Official full name -> spec of everything a single file of this configuration holds.

    Args:
        config: the sections of its header.
        encoder: width and number of the states of the text encoder.
    """
    transformer = config["transformer"]
    parts: dict[str, Iterable[ParamSpec]] = {
        "model.diffusion_model.": transformer_config.param_specs(
            transformer_config.TransformerConfig.from_dict(transformer)
        ),
        "model.diffusion_model.video_embeddings_connector.": connector.param_specs(
            connector.ConnectorConfig.from_dict(transformer, "video")
        ),
        "model.diffusion_model.audio_embeddings_connector.": connector.param_specs(
            connector.ConnectorConfig.from_dict(transformer, "audio")
        ),
        "text_embedding_projection.": feature_extractor.param_specs(
            feature_extractor.FeatureExtractorConfig.from_dict(
                transformer, encoder_width=encoder[0], encoder_states=encoder[1]
            )
        ),
    }
    if "vae" in config:
        vae = video_vae.VideoVaeConfig.from_dict(config["vae"])
        halves = [*video_vae.encoder_specs(vae), *video_vae.decoder_specs(vae)]
        parts["vae."] = [*video_vae.statistics_specs(vae.latent_channels), *halves]
        parts["audio_vae."] = audio_vae.param_specs(audio_vae.AudioVaeConfig.from_dict(config["audio_vae"]))
        parts["vocoder."] = vocoder.param_specs(vocoder.VocoderConfig.from_dict(config["vocoder"]))
    return {prefix + spec.name: spec for prefix, specs in parts.items() for spec in specs}


def upscaler_specs(config: dict[str, Any]) -> dict[str, ParamSpec]:
    """Name -> spec of a latent upscaler."""
    return {s.name: s for s in upscaler.param_specs(upscaler.LatentUpscalerConfig.from_dict(config))}


def tensors_of(specs: dict[str, ParamSpec], seed: int = 0) -> dict[str, mx.array]:
    """Random values in the dtype of each spec."""
    generator = np.random.default_rng(seed)
    dtypes = {"BF16": mx.bfloat16, "F32": mx.float32}
    return {
        name: mx.array(generator.normal(size=spec.shape).astype(np.float32)).astype(dtypes[spec.dtype])
        for name, spec in specs.items()
    }


def write_model(path: Path, specs: dict[str, ParamSpec], config: dict[str, Any] | None, **metadata: str) -> Path:
    """A weight file of these tensors; ``config`` None leaves the metadata out."""
    stated = {} if config is None else {"config": json.dumps(config)}
    write_safetensors(path, tensors_of(specs), {**stated, **metadata})
    return path
