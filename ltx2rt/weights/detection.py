"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.tensor_source import TensorInfo

OFFICIAL = "the official .safetensors file"


def refuse_foreign_tensors(path: Path, tensors: Mapping[str, TensorInfo]) -> None:
    """Raise `CheckpointError` when tensor names show another model that is easily taken for one of ours.

    Args:
        path: named in the error.
        tensors: name -> entry.
    """
    if _is_ltx_video(tensors):
        raise CheckpointError(
            f"{path}: a transformer of LTX-Video (0.9 or 13B), which has no audio layers; LTX-2, 2.3 and 2.5 are "
            "supported: use a checkpoint of LTX-2."
        )
    if is_preview_decoder(tensors):
        raise CheckpointError(
            f"{path}: a preview decoder (tiny autoencoder, taehv), which cannot stand in for the video VAE; use the "
            "video VAE of the model."
        )
    if any(name.startswith("encoder.block.0.layer.0.SelfAttention.") for name in tensors):
        raise CheckpointError(
            f"{path}: a T5 text encoder, not a Gemma; LTX-2 reads prompts with Gemma 3 12B: use that."
        )


def _is_ltx_video(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether these are a whole transformer without anything for sound."""
    wholes = [name for name in tensors if name.endswith(("patchify_proj.weight", "proj_in.weight"))]
    blocks = any("transformer_blocks.0." in name for name in tensors)
    return blocks and any("audio" not in name for name in wholes) and not any("audio_" in name for name in tensors)


def is_preview_decoder(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether these are a tiny autoencoder (taehv), of whatever model."""
    numbered = any(re.match(r"(?:taehv\.)?decoder\.\d+\.(?:weight$|conv\.)", name) for name in tensors)
    return numbered and not any("per_channel_statistics." in name for name in tensors)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; `CheckpointError` if it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, got a {type(value).__name__}.")
    return value
