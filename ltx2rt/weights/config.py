"""The official configuration of a checkpoint: as stated in the metadata, and as told by tensor names and shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.safetensors import TensorInfo

Tensors = Mapping[str, TensorInfo]


def parse_version(text: str) -> tuple[int, ...]:
    """Leading numeric parts of a model version: ``2.3.0`` -> (2, 3, 0), ``2.5-rc1`` -> (2, 5), anything else -> ()."""
    parts: list[int] = []
    for part in text.replace("-", ".").split("."):
        if not (part.isascii() and part.isdigit()):
            break
        parts.append(int(part))
    return tuple(parts)


def parse_config(metadata: Mapping[str, str], where: str) -> dict[str, Any]:
    """The ``config`` metadata, with ``gemma_config`` as its section ``text_encoder``; empty if neither is stated.

    Raises:
        CheckpointError: the metadata is not a JSON object, or a section is not one.
    """
    config = _parse_object(metadata, "config", where)
    for key, value in config.items():
        if isinstance(value, dict) or key not in ("transformer", "vae", "audio_vae", "vocoder", "duration_head"):
            continue
        if value is not None:
            raise CheckpointError(f"{where}: section {key!r} of the config metadata is a {type(value).__name__}, not an object.")
    if "gemma_config" in metadata:
        config["text_encoder"] = _parse_object(metadata, "gemma_config", where)
    return config


def _parse_object(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    if key not in metadata:
        return {}
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: the {key!r} metadata is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: the {key!r} metadata is a JSON {type(value).__name__}, not an object.")
    return value


def infer_config(stated: Mapping[str, Any], tensors: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """``stated`` for now."""
    return dict(stated)
