"""The official configuration of a checkpoint: as stated in the metadata, and as told by tensor names and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.inferred_config import (
    audio_vae_section,
    text_encoder_section,
    transformer_section,
    upscaler_section,
    vae_section,
    vocoder_section,
)
from ltx2rt.weights.tensor_source import TensorInfo

Tensors = Mapping[str, TensorInfo]

# How the keys of what a model makes many parts of end; published models have up to 60 layers.
_COUNTS = ("layers", "blocks", "num_registers", "learnable_registers")
_MAX_COUNT = 8192
# What stands for a configuration where there was none.
_NO_CONFIG = ("", "null", "None")


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
            raise CheckpointError(
                f"{where}: section {key!r} of the config metadata is a {type(value).__name__}, not an object; convert "
                "or download the file again."
            )
    if is_stated(metadata, "gemma_config"):
        config["text_encoder"] = _parse_object(metadata, "gemma_config", where)
    return config


def is_stated(metadata: Mapping[str, str], key: str) -> bool:
    """Whether metadata hold a configuration under a key, and not what programs write that had none."""
    return metadata.get(key, "").strip() not in _NO_CONFIG


def _parse_object(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    if not is_stated(metadata, key):
        return {}
    try:
        value = json.loads(metadata[key])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: the {key!r} metadata is not valid JSON ({error}); convert or download the file again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{where}: the {key!r} metadata is a JSON {type(value).__name__}, not an object; convert or download the "
            "file again."
        )
    return value


def require_plausible(section: Mapping[str, Any], where: str) -> None:
    """Check that what a configuration counts are numbers of layers and blocks of a model, before it makes as many.

    Raises:
        CheckpointError: a count is no whole number or too large; ``where`` names the configuration.
    """
    waiting: list[Any] = [section]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        if not isinstance(part, Mapping):
            continue
        for key, value in part.items():
            if not key.endswith(_COUNTS) or isinstance(value, (list, Mapping)):
                waiting.append(value)
            elif value is not None and not (isinstance(value, int) and value <= _MAX_COUNT):
                raise CheckpointError(
                    f"{where}: {key} must be a whole number up to {_MAX_COUNT}, got {str(value)[:80]!r}; the file is "
                    "damaged."
                )


def complete_config(stated: Mapping[str, Any], components: Mapping[str, Tensors], where: str) -> dict[str, Any]:
    """``stated`` with everything that only the tensors tell: absent sections, and facts the metadata leaves out.

    Args:
        stated: what the metadata says, possibly nothing.
        components: component -> local tensor name -> entry.
        where: names the file in errors.

    Raises:
        CheckpointError: a section is not stated and cannot be inferred.
    """
    if "upscaler" in components:
        return dict(stated) or upscaler_section(components["upscaler"], where)
    config = dict(stated)
    for section, (described, _) in _INFERRED.items():
        if any(component in components for component in described):
            config[section] = config_section(stated, components, section, where)
    return config


def config_section(
    stated: Mapping[str, Any], components: Mapping[str, Tensors], section: str, where: str
) -> dict[str, Any]:
    """One section of `complete_config`, whatever the state of the others; empty if nothing tells it.

    Raises:
        CheckpointError: it is not stated and cannot be inferred.
    """
    values: dict[str, Any] = stated.get(section) or {}
    if not values and section in _INFERRED:
        values = _INFERRED[section][1](components, where)
    if section == "transformer" and "keyframes_abs_pos_embedding" in components.get("transformer", {}):
        return {**values, "use_keyframes_abs_pos_embedding": True}
    convolutional = values.get("_class_name", "CausalVideoAutoencoder") == "CausalVideoAutoencoder"
    if section == "vae" and convolutional and "timestep_conditioning" not in values:
        conditioned = any(name.startswith("decoder.last_time_embedder.") for name in components.get("video_vae", {}))
        return {**values, "timestep_conditioning": conditioned}
    return values


# Section -> the components it describes, and how it is inferred from their tensors.
_INFERRED: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Tensors], str], dict[str, Any]]]] = {
    "transformer": (("transformer", "video_connector", "audio_connector", "text_projection"), transformer_section),
    "vae": (("video_vae",), vae_section),
    "audio_vae": (("audio_vae",), audio_vae_section),
    "vocoder": (("vocoder",), vocoder_section),
    "text_encoder": (("text_encoder",), text_encoder_section),
}
