"""Writes the embedded model: seeded random weights in the official LTX-2 (19B) layout, far smaller.

Usage: python tools/make_embedded_model.py [FOLDER]     (default: ltx2rt/embedded)

The result depends on the seed and the configuration below alone. A trained model can replace the files without any
other change: everything is read back by the code that reads the real ones.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt import embedded
from ltx2rt.graph.models import (
    audio_vae,
    connector,
    feature_extractor,
    gemma3,
    transformer,
    upscaler,
    video_vae,
    vocoder,
)
from ltx2rt.types import ParamSpec
from ltx2rt.weights.safetensors import write_safetensors

SEED = 20261121

CONFIG: dict[str, Any] = {
    "transformer": {
        "_class_name": "AVTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "av_ca_timestep_scale_multiplier": 1000.0,
        "av_cross_ada_norm": True,
        "caption_channels": 64,
        "connector_num_layers": 2,
        "connector_num_attention_heads": 2,
        "connector_attention_head_dim": 32,
        "connector_num_learnable_registers": 128,
        "connector_positional_embedding_max_pos": [4096],
        "cross_attention_norm": True,
        "dropout": 0.0,
        "frequencies_precision": "float64",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "cross_attention_dim": 64,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 16,
        "audio_cross_attention_dim": 32,
        "in_channels": 128,
        "out_channels": 128,
        "audio_out_channels": 128,
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "audio_positional_embedding_max_pos": [20],
        "qk_norm": "rms_norm",
        "rope_type": "split",
        "standardization_norm": "rms_norm",
        "timestep_scale_multiplier": 1000,
        "use_audio_video_cross_attention": True,
        "use_middle_indices_grid": True,
    },
    "vae": {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "patch_size": 4,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": False,
        "encoder_base_channels": 4,
        "decoder_base_channels": 4,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 1}],
            ["res_x", {"num_layers": 1}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"residual": True, "multiplier": 2}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"residual": True, "multiplier": 2}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"residual": True, "multiplier": 2}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
        ],
    },
    "audio_vae": {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": 64,
                    "z_channels": 8,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": 8,
                    "ch_mult": [1, 2, 4],
                    "num_res_blocks": 2,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": 16000,
            }
        },
        "preprocessing": {
            "audio": {"sampling_rate": 16000, "stereo": True},
            "stft": {"filter_length": 1024, "hop_length": 160, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": 64, "mel_fmin": 0, "mel_fmax": 8000},
        },
    },
    "vocoder": {
        "upsample_initial_channel": 32,
        "resblock": "1",
        "upsample_rates": [6, 5, 2, 2, 2],
        "upsample_kernel_sizes": [16, 15, 8, 4, 4],
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "stereo": True,
    },
}

UPSCALER_CONFIG: dict[str, Any] = {
    "_class_name": "LatentUpsampler",
    "in_channels": 128,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
    "rational_resampler": False,
}

TEXT_ENCODER_CONFIG: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "rms_norm_eps": 1e-6,
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "attention_bias": False,
    },
}


def random_tensor(spec: ParamSpec, rng: np.random.Generator) -> mx.array:
    """Norm weights one, statistics neutral, biases and tables small, matrices scaled by their fan-in."""
    leaf = spec.name.rsplit(".", 1)[-1]
    if leaf == "mean-of-means":
        values = np.zeros(spec.shape)
    elif leaf == "std-of-means" or (leaf == "weight" and len(spec.shape) == 1):
        values = np.ones(spec.shape)
    elif leaf == "weight" and "embed_tokens" not in spec.name:
        values = rng.standard_normal(spec.shape) / math.sqrt(math.prod(spec.shape[1:]))
    else:
        values = 0.05 * rng.standard_normal(spec.shape)
    return mx.array(values.astype(np.float32)).astype(mx.float32 if spec.dtype == "F32" else mx.bfloat16)


def components() -> list[tuple[str, list[ParamSpec]]]:
    """(prefix in the single file, tensors) of everything the single file holds."""
    transformer_config = transformer.TransformerConfig.from_dict(CONFIG["transformer"])
    connectors = [connector.ConnectorConfig.from_dict(CONFIG["transformer"], stream) for stream in ("video", "audio")]
    text = TEXT_ENCODER_CONFIG["text_config"]
    projection = feature_extractor.FeatureExtractorConfig.from_dict(
        CONFIG["transformer"], encoder_width=text["hidden_size"], encoder_states=text["num_hidden_layers"] + 1
    )
    video = video_vae.VideoVaeConfig.from_dict(CONFIG["vae"])
    audio = audio_vae.AudioVaeConfig.from_dict(CONFIG["audio_vae"])
    return [
        ("model.diffusion_model.", transformer.param_specs(transformer_config)),
        ("model.diffusion_model.video_embeddings_connector.", connector.param_specs(connectors[0])),
        ("model.diffusion_model.audio_embeddings_connector.", connector.param_specs(connectors[1])),
        ("text_embedding_projection.", feature_extractor.param_specs(projection)),
        ("vae.", video_vae.param_specs(video)),
        ("audio_vae.", audio_vae.param_specs(audio)),
        ("vocoder.", vocoder.param_specs(vocoder.VocoderConfig.from_dict(CONFIG["vocoder"]))),
    ]


def main(folder: Path) -> None:
    rng = np.random.default_rng(SEED)
    notice = {"license": "Apache-2.0", "ltx2rt_note": "random weights for tests; untrained; not a Lightricks model"}
    tensors = {prefix + spec.name: random_tensor(spec, rng) for prefix, specs in components() for spec in specs}
    write_safetensors(folder / embedded.CHECKPOINT.name, tensors, {"config": json.dumps(CONFIG), **notice})

    upscaler_config = upscaler.LatentUpscalerConfig.from_dict(UPSCALER_CONFIG)
    tensors = {spec.name: random_tensor(spec, rng) for spec in upscaler.param_specs(upscaler_config)}
    write_safetensors(
        folder / embedded.SPATIAL_UPSCALER.name, tensors, {"config": json.dumps(UPSCALER_CONFIG), **notice}
    )

    text_folder = folder / embedded.TEXT_ENCODER.name
    tokenizer = json.loads((text_folder / "tokenizer.json").read_text())
    ids = list(tokenizer["model"]["vocab"].values()) + [token["id"] for token in tokenizer["added_tokens"]]
    TEXT_ENCODER_CONFIG["text_config"]["vocab_size"] = max(ids) + 1
    specs = gemma3.param_specs(gemma3.Gemma3Config.from_dict(TEXT_ENCODER_CONFIG))
    tensors = {f"language_model.model.{spec.name}": random_tensor(spec, rng) for spec in specs}
    write_safetensors(text_folder / "model.safetensors", tensors, notice)
    (text_folder / "config.json").write_text(json.dumps(TEXT_ENCODER_CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else embedded.FOLDER)
