"""The official configuration of what a component's ``config.json`` of diffusers states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Section = dict[str, Any]


def official_config(config: Mapping[str, Any]) -> dict[str, Section]:
    """The sections of the official configuration; empty where the tensors tell everything, or for other classes.

    Args:
        config: of one component, with its ``_class_name``.
    """
    convert = _SECTIONS.get(str(config.get("_class_name")))
    return {} if convert is None else convert(config)


def _transformer(config: Mapping[str, Any]) -> dict[str, Section]:
    video_end = [config.get("pos_embed_max_pos", 20), config.get("base_height", 2048), config.get("base_width", 2048)]
    section = {
        "_class_name": "AVTransformer3DModel",
        "cross_attention_adaln": config.get("cross_attn_mod", False),
        "apply_gated_attention": config.get("gated_attn", False),
        "positional_embedding_theta": config.get("rope_theta", 10000.0),
        "positional_embedding_max_pos": video_end,
        "audio_positional_embedding_max_pos": [config.get("audio_pos_embed_max_pos", 20)],
        "av_ca_timestep_scale_multiplier": config.get("cross_attn_timestep_scale_multiplier", 1000),
        "use_middle_indices_grid": True,
        **_rope(config),
    }
    same = (
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "in_channels",
        "out_channels",
        "cross_attention_dim",
        "audio_num_attention_heads",
        "audio_attention_head_dim",
        "audio_in_channels",
        "audio_out_channels",
        "audio_cross_attention_dim",
        "norm_eps",
        "timestep_scale_multiplier",
        "ff_bias",
        "audio_ff_bias",
        "use_prompt_adaln_single",
        "use_keyframes_abs_pos_embedding",
    )
    section |= {name: config[name] for name in same if name in config}
    if config.get("use_prompt_embeddings", True):
        section["caption_channels"] = config.get("caption_channels", 3840)
    else:
        section |= _PROJECTED_BEFORE
    return {"transformer": section}


# The text path of the later generations.
_PROJECTED_BEFORE: Section = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "text_encoder_norm_type": "per_token_rms",
}


def _connectors(config: Mapping[str, Any]) -> dict[str, Section]:
    section = _rope(config)
    for stream, prefix in (("video", "connector_"), ("audio", "audio_connector_")):
        for name in ("num_layers", "num_attention_heads", "attention_head_dim", "num_learnable_registers"):
            stated = config.get(f"{stream}_connector_{name}")
            if stated is not None:
                section[prefix + name] = stated
    if "video_gated_attn" in config:
        section["connector_apply_gated_attention"] = config["video_gated_attn"]
    if "connector_rope_base_seq_len" in config:
        section["connector_positional_embedding_max_pos"] = [config["connector_rope_base_seq_len"]]
    if config.get("per_modality_projections", False):
        section |= _PROJECTED_BEFORE
    return {"transformer": section}


def _rope(config: Mapping[str, Any]) -> Section:
    section = {"rope_type": config.get("rope_type", "split")}
    if config.get("rope_double_precision", True):
        section["frequencies_precision"] = "float64"
    return section


def _vocoder(config: Mapping[str, Any]) -> dict[str, Section]:
    core = _generator(config, "")
    if config.get("_class_name") != "LTX2VocoderWithBWE":
        return {"vocoder": core}
    extension = {
        **_generator(config, "bwe_"),
        "apply_final_activation": False,
        "input_sampling_rate": config.get("input_sampling_rate", 16000),
        "output_sampling_rate": config.get("output_sampling_rate", 48000),
        "hop_length": config.get("hop_length", 80),
        "n_fft": config.get("filter_length", 512),
        "win_size": config.get("window_length", 512),
        "num_mels": config.get("num_mel_channels", 64),
    }
    return {"vocoder": {"vocoder": core, "bwe": extension}}


def _generator(config: Mapping[str, Any], prefix: str) -> Section:
    def stated(name: str, default: Any) -> Any:
        return config.get(prefix + name, default)

    activation = stated("act_fn", "leaky_relu")
    section: Section = {
        "upsample_initial_channel": stated("hidden_channels", 1024),
        "resblock": "1" if activation == "leaky_relu" else "AMP1",
        "upsample_rates": stated("upsample_factors", [6, 5, 2, 2, 2]),
        "upsample_kernel_sizes": stated("upsample_kernel_sizes", [16, 15, 8, 4, 4]),
        "resblock_kernel_sizes": stated("resnet_kernel_sizes", [3, 7, 11]),
        "resblock_dilation_sizes": stated("resnet_dilations", [[1, 3, 5]] * 3),
        "stereo": stated("out_channels", 2) == 2,
        "use_tanh_at_final": stated("final_act_fn", "tanh") == "tanh",
        "use_bias_at_final": stated("final_bias", True),
    }
    return section if activation == "leaky_relu" else {**section, "activation": activation}


# Of the diffusion decoder: what diffusers calls a value -> its official name. What is not stated is as published.
_DIFFUSION_DECODER = {
    "latent_channels": "in_channels",
    "out_channels": "out_channels",
    "patch_size": "patch_size",
    "decoder_head_dim": "head_dim",
    "decoder_stage_channels": "stage_channels",
    "decoder_stage_depths": "stage_depths",
    "decoder_stage_kernels": "stage_kernels",
    "decoder_stage5_kernel": "stage5_kernel",
    "decoder_timestep_scale_multiplier": "timestep_scale_multiplier",
    "decoder_num_inference_steps": "default_num_inference_steps",
    "decoder_model_output_type": "model_output_type",
}
_UPSAMPLE_STRIDES = ((1, 2, 2), (2, 1, 1), (2, 2, 2), (2, 2, 2))
_UPSAMPLE_REDUCTIONS = (2, 2, 1, 2)


def _diffusion_decoder(config: Mapping[str, Any]) -> dict[str, Section]:
    strides = config.get("decoder_upsample_strides", _UPSAMPLE_STRIDES)
    reductions = config.get("decoder_upsample_channel_reductions", _UPSAMPLE_REDUCTIONS)
    decoder = {official: config[name] for name, official in _DIFFUSION_DECODER.items() if name in config}
    decoder |= {
        "_class_name": "NADiffusionDecoder",
        "upsamples": [list(pair) for pair in zip(strides, reductions, strict=False)],  # their number is checked later
    }
    return {"vae": {"_class_name": "CausalDiffusionVAE", "dims": 3, "decoder": decoder}}


# By class; those whose tensors tell everything are not here.
_SECTIONS: dict[str, Callable[[Mapping[str, Any]], dict[str, Section]]] = {
    "LTX2VideoTransformer3DModel": _transformer,
    "LTX2TextConnectors": _connectors,
    "LTX2VideoDiffusionDecoderModel": _diffusion_decoder,
    "LTX2Vocoder": _vocoder,
    "LTX2VocoderWithBWE": _vocoder,
}
