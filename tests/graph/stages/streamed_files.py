"""The embedded checkpoint in other precisions, and a LoRA for it, for tests of streaming."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from ltx2rt import embedded
from ltx2rt.weights.float8 import E4M3_MAX, encode_e4m3
from ltx2rt.weights.safetensors import RawTensor, SafetensorsFile, write_safetensors

PREFIX = "model.diffusion_model."


def write_checkpoint(folder: Path, precision: str) -> Path:
    """The embedded checkpoint with the matrices of its transformer blocks as bf16, fp8 or int8."""
    source = SafetensorsFile(embedded.CHECKPOINT)
    tensors: dict[str, mx.array | np.ndarray | RawTensor] = {}
    for name, info in source.tensors.items():
        value = source.mlx(name)
        base = name.removesuffix(".weight")
        if ".transformer_blocks." not in name or base == name or len(info.shape) != 2 or precision == "bf16":
            tensors[name] = value
        elif precision == "fp8":
            values = source.numpy(name)
            scale = np.float32(np.abs(values).max() / E4M3_MAX)
            tensors[name] = RawTensor("F8_E4M3", encode_e4m3(values / scale))
            tensors[f"{base}.weight_scale"] = np.array(scale, np.float32)
        else:
            packed, scales, biases = mx.quantize(value, group_size=32, bits=8)
            tensors |= {name: packed, f"{base}.scales": scales, f"{base}.biases": biases}
    path = folder / f"model-{precision}.safetensors"
    write_safetensors(path, tensors, source.metadata)
    return path


def write_lora(folder: Path) -> Path:
    """A LoRA of rank 4 for two layers of every block."""
    source = SafetensorsFile(embedded.CHECKPOINT)
    rng = np.random.default_rng(11)
    tensors: dict[str, mx.array | np.ndarray | RawTensor] = {}
    for name, info in source.tensors.items():
        module = name.removeprefix(PREFIX).removesuffix(".weight")
        if ".transformer_blocks." in name and module.endswith((".attn1.to_q", ".ff.net.2")):
            out_features, in_features = info.shape
            key = f"diffusion_model.{module}"
            tensors[f"{key}.lora_A.weight"] = rng.standard_normal((4, in_features)).astype(np.float32)
            tensors[f"{key}.lora_B.weight"] = 0.05 * rng.standard_normal((out_features, 4)).astype(np.float32)
    path = folder / "lora.safetensors"
    write_safetensors(path, tensors)
    return path
