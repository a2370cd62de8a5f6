"""A checkpoint whose video decoder is conditioned on a time step and adds noise of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ltx2rt import embedded
from ltx2rt.graph.models.video_vae.specs import VideoVaeConfig, decoder_specs
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors


def noisy_checkpoint(path: Path) -> Path:
    """The embedded model with such a decoder; what its decoder lacks is random."""
    file = SafetensorsFile(embedded.CHECKPOINT)
    config = json.loads(file.metadata["config"])
    config["vae"]["timestep_conditioning"] = True
    for name, block in config["vae"]["decoder_blocks"]:
        if name == "res_x":
            block["inject_noise"] = True
    tensors = {name: file.mlx(name) for name in file.tensors}
    rng = np.random.default_rng(0)
    for spec in decoder_specs(VideoVaeConfig.from_dict(config["vae"])):
        if f"vae.{spec.name}" not in tensors:
            tensors[f"vae.{spec.name}"] = (rng.standard_normal(spec.shape) * 0.1).astype(np.float32)
    write_safetensors(path, tensors, {**file.metadata, "config": json.dumps(config)})
    return path
