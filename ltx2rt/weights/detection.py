"""What kind of weight file or folder a path is, and a clear refusal of the kinds that cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.names.official import locate
from ltx2rt.weights.tensor_source import TensorInfo

# Of a language model.
_LAYER = re.compile(r"layers\.\d+\.")
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
    lacking = _norms_that_gemma_has(tensors)
    if lacking:
        raise CheckpointError(
            f"{path}: a language model that is neither Gemma 3 nor Gemma 4 (its layers have no {lacking}), perhaps "
            "Qwen, Llama, Mistral or Gemma 2; LTX-2 and 2.3 read prompts with Gemma 3 12B, 2.5 with its Gemma 4: use "
            "that."
        )


def _norms_that_gemma_has(tensors: Mapping[str, TensorInfo]) -> str:
    """Which norms the layers of a language model lack that those of Gemma 3 and 4 have; empty: none, or no such layers.

    Names of Hugging Face alone are looked at; the header of a GGUF file states what it is. Layers that lack even the
    norms of every language model are parts of one.
    """
    layers = [name for name in tensors if _LAYER.search(name) and (locate(name) or ("",))[0] == "text_encoder"]
    if not any(name.endswith(".post_attention_layernorm.weight") for name in layers):
        return ""
    norms = ("pre_feedforward_layernorm", "self_attn.q_norm")
    return " and no ".join(norm for norm in norms if not any(f".{norm}." in name for name in layers))


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
