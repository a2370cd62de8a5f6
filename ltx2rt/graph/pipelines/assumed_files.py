"""Published sizes of the files that a plan was not given."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from ltx2rt.graph.components import SPATIAL_UPSCALER, TEMPORAL_UPSCALER, TEXT_ENCODER, UPSCALER, text_encoder
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.types import ParamSpec
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.tensor_source import DTYPES, TensorInfo

_GEMMA_3: dict[str, Any] = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
}
_GEMMA_4: dict[str, Any] = {
    "model_type": "gemma4_unified",
    "text_config": {
        "model_type": "gemma4_unified_text",
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 1,
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "vocab_size": 262144,
    },
}
_SPATIAL_UPSCALER: dict[str, Any] = {
    "_class_name": "LatentUpsampler",
    "in_channels": 128,
    "mid_channels": 1024,
    "num_blocks_per_stage": 4,
    "dims": 3,
    "spatial_upsample": True,
}
_TEMPORAL_UPSCALER = _SPATIAL_UPSCALER | {"mid_channels": 512, "spatial_upsample": False, "temporal_upsample": True}


def with_assumed(files: WeightSet) -> tuple[WeightSet, list[str]]:
    """``files`` with manifests in the place of what is missing, and what they stand for, for people."""
    assumed = []
    if not files.has(TEXT_ENCODER):
        config = next(c for c in (_GEMMA_3, _GEMMA_4) if c["model_type"] in files.generation.text_encoder_types)
        encoder = _manifest(
            "assumed text encoder", "language_model.model.", TEXT_ENCODER.specs(text_encoder(config)), config
        )
        files = files.with_sources({TEXT_ENCODER.name: encoder})
        assumed.append(f"text encoder: {files.generation.text_encoder_name}, bf16")
    if not files.has(SPATIAL_UPSCALER):
        files = files.with_sources({SPATIAL_UPSCALER.name: _upscaler(_SPATIAL_UPSCALER)})
        assumed.append("spatial upscaler: LTX-2 x2, bf16")
    if not files.has(TEMPORAL_UPSCALER):
        files = files.with_sources({TEMPORAL_UPSCALER.name: _upscaler(_TEMPORAL_UPSCALER)})
        assumed.append("temporal upscaler: LTX-2 x2, bf16")
    return files, assumed


def _upscaler(config: dict[str, Any]) -> Checkpoint:
    specs = UPSCALER.specs(upscaler.LatentUpscalerConfig.from_dict(config))
    return _manifest("assumed upscaler", "", specs, config)


def _manifest(name: str, prefix: str, specs: Iterable[ParamSpec], config: dict[str, Any] | None) -> Checkpoint:
    tensors = {}
    for spec in specs:
        nbytes = prod(spec.shape) * DTYPES[spec.dtype].itemsize
        tensors[prefix + spec.name] = TensorInfo(spec.dtype, spec.shape, 0, nbytes)
    return Checkpoint(Path(name), (), {}, config, listed=tensors)
