"""A small pack of LTX-2.5 in the official layout, made by tests: a file for every part.

Transformer, connectors, text encoder and duration head are random; VAEs, vocoder and upscalers are the embedded ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt import embedded
from ltx2rt.graph.models.text import connector, duration_head, feature_extractor, gemma
from ltx2rt.graph.models.text.gemma4 import Gemma4Config
from ltx2rt.graph.models.transformer import config as transformer
from ltx2rt.graph.models.video_vae import specs as video_vae
from ltx2rt.types import ParamSpec
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

TRANSFORMER: dict[str, Any] = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "in_channels": 128,
    "out_channels": 128,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
    "apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "ff_bias": False,
    "use_keyframes_abs_pos_embedding": True,
    "connector_num_layers": 1,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": 32,
    "audio_connector_num_attention_heads": 2,
    "audio_connector_attention_head_dim": 16,
    "connector_apply_gated_attention": True,
    "connector_num_learnable_registers": 128,
    "connector_positional_embedding_max_pos": [4096],
}
TEXT: dict[str, Any] = {
    "model_type": "gemma4_unified_text",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "attention_k_eq_v": True,
    "num_hidden_layers": 6,
    "sliding_window": 5,
    "vocab_size": 1100,
}
LTX, STOCK = "gemma4-12b-ltx-v1", "gemma-4-12b-it"


def tensors_of(specs: Iterable[ParamSpec], prefix: str, seed: int) -> dict[str, mx.array]:
    rng = np.random.default_rng(seed)
    return {
        prefix + spec.name: mx.array(rng.standard_normal(spec.shape).astype(np.float32) * 0.2).astype(mx.bfloat16)
        for spec in specs
    }


def write_transformer(folder: Path, variant: str = "distilled") -> Path:
    """A transformer of 2.5 with its connectors."""
    prefix = "model.diffusion_model."
    tensors = tensors_of(transformer.param_specs(transformer.TransformerConfig.from_dict(TRANSFORMER)), prefix, 1)
    for stream in connector.STREAMS:
        specs = connector.param_specs(connector.ConnectorConfig.from_dict(TRANSFORMER, stream))
        tensors |= tensors_of(specs, f"{prefix}{stream}_embeddings_connector.", 2)
    metadata = {
        "config": json.dumps({"transformer": TRANSFORMER}),
        "model_version": "2.5.0",
        "gemma_source_checkpoint": json.dumps({"ltx_version": "2.5.0", "gemma_version": LTX}),
    }
    path = folder / f"ltx-2.5-22b-{variant}-transformer.safetensors"
    write_safetensors(path, tensors, metadata)
    return path


def write_encoder(folder: Path, version: str | None = LTX, *, states: int = 7, name: str = "gemma4") -> Path:
    """A Gemma 4 with its tokenizer and the text projection, in one file; ``states``: what the projection reads."""
    config = {"model_type": "gemma4_unified", "text_config": TEXT} | (
        {} if version is None else {"gemma_version": version}
    )
    tensors: dict[str, Any] = dict(tensors_of(gemma.param_specs(Gemma4Config.from_dict(config)), "model.", 3))
    extractor = feature_extractor.FeatureExtractorConfig.from_dict(TRANSFORMER, encoder_width=64, encoder_states=states)
    tensors |= tensors_of(feature_extractor.param_specs(extractor), "text_embedding_projection.", 4)
    tensors["vision_model.patch_dense.weight"] = mx.zeros((4, 4))
    tensors["tokenizer_json"] = np.frombuffer((embedded.TEXT_ENCODER / "tokenizer.json").read_bytes(), np.uint8)
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, {"gemma_config": json.dumps(config)})
    return path


def write_part(folder: Path, name: str, *prefixes: str, source: Path = embedded.CHECKPOINT, **metadata: str) -> Path:
    """The tensors of the embedded model below some prefixes, in a file that states version 2.5."""
    model = SafetensorsFile(source)
    tensors = {key: model.mlx(key) for key in model.tensors if key.startswith(prefixes)}
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, {**model.metadata, "model_version": "2.5.0", **metadata})
    return path


HEAD = duration_head.DurationHeadConfig(video_width=64, audio_width=32, pooled=16, hidden=8)


# Of the published decoder, with fewer channels and smaller windows.
DIFFUSION_DECODER: dict[str, Any] = {
    "_class_name": "NADiffusionDecoder",
    "in_channels": 128,
    "out_channels": 3,
    "patch_size": 4,
    "head_dim": 16,
    "stage_channels": [128, 64, 32, 32, 16],
    "stage_depths": [1, 1, 1, 1, 2],
    "stage_kernels": [[3, 3, 3], [3, 3, 3], [3, 5, 5], [3, 5, 5], [5, 5, 5]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 2]],
    "stage5_kernel": [5, 5, 5],
}


def write_diffusion_vae(folder: Path, name: str = "ltx-2.5-video-vae-bf16", mark: float | None = 0.5) -> Path:
    """The embedded encoder with a random diffusion decoder; ``mark`` is what it adds to key frames, None: nothing."""
    model = SafetensorsFile(embedded.CHECKPOINT)
    published = json.loads(model.metadata["config"])["vae"]
    encoder = {"_class_name": "Encoder", "blocks": published["encoder_blocks"], "base_channels": 16}
    encoder |= {"in_channels": 3, "out_channels": 128, "patch_size": 4, "norm_layer": "pixel_norm"}
    encoder |= {"latent_log_var": published["latent_log_var"]}
    section = {"_class_name": "CausalDiffusionVAE", "dims": 3, "encoder": encoder, "decoder": DIFFUSION_DECODER}
    specs = video_vae.decoder_specs(video_vae.VideoVaeConfig.from_dict(section))
    kept = ("vae.encoder.", "vae.per_channel_statistics.")
    tensors = {key: model.mlx(key) for key in model.tensors if key.startswith(kept)}
    tensors |= tensors_of([spec for spec in specs if spec.name != "decoder.type_emb"], "vae.", 6)
    if mark is not None:
        tensors["vae.decoder.type_emb"] = mx.full((128,), mark, mx.bfloat16)
    path = folder / f"{name}.safetensors"
    write_safetensors(
        path,
        tensors,
        {"config": json.dumps({"vae": section}), "model_version": "2.5.0"},
    )
    return path


def write_duration_head(folder: Path, seconds: float = 0.7, config: duration_head.DurationHeadConfig = HEAD) -> Path:
    """A head that gives about so many seconds for any prompt: its last bias decides."""
    tensors = tensors_of(duration_head.param_specs(config), "duration_head.", 5)
    tensors["duration_head.mlp_out.weight"] = mx.zeros((1, config.hidden), mx.bfloat16)
    tensors["duration_head.mlp_out.bias"] = mx.array([np.log(seconds)], mx.float32)
    path = folder / "ltx-2.5-duration-head-bf16.safetensors"
    write_safetensors(path, tensors, {"model_version": "2.5.0"})
    return path


def write_pack(folder: Path, variant: str = "distilled", *, head: bool = True) -> dict[str, Path]:
    """The pack as arguments of `ltx2rt.load`, a file for every part."""
    pack = {
        "transformer": write_transformer(folder, variant),
        "text_encoder": write_encoder(folder, name="gemma4-12b-with-proj-ltx-2.5-bf16"),
        "video_vae": write_part(folder, "ltx-2.5-video-vae-conv-bf16", "vae."),
        "audio_vae": write_part(folder, "ltx-2.5-audio-vae-bf16", "audio_vae.", "vocoder."),
        "spatial_upscaler": embedded.SPATIAL_UPSCALER,
    }
    if head:
        pack["duration_head"] = write_duration_head(folder)
    return pack


def write_lora(path: Path, rank: int = 4, **metadata: str) -> Path:
    """A LoRA on the self-attention of every block."""
    specs = transformer.param_specs(transformer.TransformerConfig.from_dict(TRANSFORMER))
    rng = np.random.default_rng(rank)
    tensors = {}
    for spec in specs:
        if spec.layout == "linear" and ".attn1.to_" in spec.name:
            rows, columns = spec.shape
            module = f"diffusion_model.{spec.name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = (rng.standard_normal((rank, columns)) * 0.02).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank)).astype(np.float32)
    write_safetensors(path, tensors, {"model_version": "2.5.0", **metadata})
    return path


def write_official_pack(folder: Path) -> None:
    """The pack as it is published: a folder for each kind of part, both variants, and the distilled LoRA."""
    packs = [write_pack(_made(folder / name), name) for name in ("dev", "distilled")]
    places = {
        f"diffusion_models/ltx-2.5-22b-{name}-transformer-bf16": pack["transformer"]
        for name, pack in zip(("dev", "distilled"), packs, strict=True)
    }
    places |= {f"text_encoders/{packs[0]['text_encoder'].stem}": packs[0]["text_encoder"]}
    vaes = (packs[0]["video_vae"], write_diffusion_vae(folder / "dev"), packs[0]["audio_vae"])
    places |= {f"vae/{path.stem}": path for path in vaes}
    places |= {f"model_patches/{packs[0]['duration_head'].stem}": packs[0]["duration_head"]}
    upscalers = {"spatial": packs[0]["spatial_upscaler"], "temporal": embedded.TEMPORAL_UPSCALER}
    for axis, path in upscalers.items():
        places[f"latent_upscale_models/ltx-2.5-latent-{axis}-upscaler-x2-bf16-1.0"] = path
    for place, path in places.items():
        _made((folder / place).parent)
        shutil.copy(path, folder / f"{place}.safetensors")
    write_lora(_made(folder / "loras") / "ltx-2.5-22b-distilled-lora-450-bf16.safetensors")
    detail = "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0.safetensors"
    write_lora(folder / "loras" / detail, 2, reference_downscale_factor="2")
    for name in ("dev", "distilled"):
        shutil.rmtree(folder / name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
