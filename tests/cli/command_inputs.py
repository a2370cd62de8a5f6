"""Makes weights and media for the command's tests: LoRAs, upscalers, clips, sound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ltx2rt import embedded
from ltx2rt.graph.models.transformer.model import TransformerConfig, param_specs
from ltx2rt.graph.models.upscaler.model import LatentUpscalerConfig
from ltx2rt.graph.models.upscaler.model import param_specs as upscaler_specs
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import write_safetensors

FRAMES, SIDE = 9, 64


def lora_file(path: Path, rank: int = 2, scale: float = 0.02, **metadata: str) -> Path:
    """A LoRA on the attention of every block of the embedded transformer."""
    config = TransformerConfig.from_dict(Checkpoint.open(embedded.CHECKPOINT).section("transformer"))
    rng = np.random.default_rng(rank)
    tensors = {}
    for spec in param_specs(config):
        if spec.layout == "linear" and ".attn1.to_" in spec.name:
            module = spec.name.removesuffix(".weight")
            rows, columns = spec.shape
            tensors[f"diffusion_model.{module}.lora_A.weight"] = rng.standard_normal((rank, columns)) * scale
            tensors[f"diffusion_model.{module}.lora_B.weight"] = rng.standard_normal((rows, rank))
    write_safetensors(path, {name: value.astype(np.float32) for name, value in tensors.items()}, metadata)
    return path


def upscaler_file(path: Path, **changes: object) -> Path:
    section = {
        "_class_name": "LatentUpsampler",
        "in_channels": 128,
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
        "dims": 3,
        "spatial_upsample": True,
        "temporal_upsample": False,
        **changes,
    }
    rng = np.random.default_rng(0)
    tensors = {
        spec.name: (rng.standard_normal(spec.shape) * 0.05).astype(np.float32)
        for spec in upscaler_specs(LatentUpscalerConfig.from_dict(section))
    }
    write_safetensors(path, tensors, {"config": json.dumps(section)})
    return path


def tones(seconds: float, rate: int = 16000) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 330 * t), 0.3 * np.sin(2 * np.pi * 440 * t)], axis=1).astype(np.float32)


def moving_square(frames: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(F, H, W, 3) uint8: a bright square that walks to the right on a gradient."""
    y, x = np.mgrid[0:height, 0:width]
    clip = np.stack([np.stack([x * 2 % 256, y * 2 % 256, np.full_like(x, 60)], axis=-1)] * frames).astype(np.uint8)
    for index in range(frames):
        left = 4 + 3 * index
        clip[index, 16:40, left : left + 20] = (230, 220, 90)
    return clip


def video_file(path: Path, frames: int = FRAMES, rate: float = 24, sound: bool = True, side: int = SIDE) -> Path:
    with VideoWriter(path, side, side, rate, sample_rate=16000 if sound else None) as writer:
        writer.write(moving_square(frames, side, side))
        if sound:
            writer.write_audio(tones(frames / rate))
    return path


def one_file(weights: Path, kind: str) -> list[str]:
    return [
        "--checkpoint-path",
        str(weights / f"ltx-2-19b-{kind}.safetensors"),
        "--gemma-root",
        str(weights / "gemma-3-12b-it-qat-q4_0-unquantized"),
    ]


def upscaler(weights: Path) -> list[str]:
    return ["--spatial-upsampler-path", str(weights / "ltx-2-spatial-upscaler-x2-1.0.safetensors")]


def distilled_lora(weights: Path) -> list[str]:
    return ["--distilled-lora", str(weights / "ltx-2-19b-distilled-lora-384.safetensors")]
