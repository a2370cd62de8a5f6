"""The steps from a prompt to its contexts; the caller decides in which stage each of them runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.text.connector import Connector
from ltx2rt.graph.models.text.feature_extractor import TextFeatures
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.weights.generations import LTX_2, stated_generation


def check_pairing(metadata: Mapping[str, str], encoder_config: Mapping[str, Any], origin: str) -> None:
    """Check that a checkpoint was made for this text encoder.

    Args:
        metadata: header metadata of the checkpoint (``model_version``, ``gemma_source_checkpoint``).
        encoder_config: the Hugging Face config of the text encoder.
        origin: the checkpoint, for the error.

    Raises:
        CheckpointError: another encoder than the checkpoint declares, or none declared where one must be.

    Source: the encoder check of Lightricks/LTX-2 ltx_pipelines/utils/blocks.py @ v1.2.0.
    """
    generation = stated_generation(metadata) or LTX_2
    declared = metadata.get("gemma_source_checkpoint")
    given = encoder_config.get("gemma_version")
    if declared is not None:
        try:
            wanted = json.loads(declared)["gemma_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{origin}: gemma_source_checkpoint in its header is damaged ({error}).") from error
        if wanted != given:
            raise CheckpointError(
                f"{origin}: needs the text encoder {wanted!r}, got {given or encoder_config.get('model_type')!r}; "
                "give the text encoder that was published with the checkpoint."
            )
    elif generation.declares_text_encoder:
        raise CheckpointError(
            f"{origin}: model version {metadata['model_version']} must declare its text encoder "
            "(gemma_source_checkpoint) but does not; use the published file."
        )
    elif encoder_config.get("model_type") not in generation.text_encoder_types:
        raise CheckpointError(
            f"{origin}: needs the text encoder {generation.text_encoder_name}, got model_type "
            f"{encoder_config.get('model_type')!r}; give the {generation.text_encoder_name} folder."
        )


def connect(features: TextFeatures, video_connector: Connector, audio_connector: Connector) -> PromptContext:
    """Contexts of one prompt, evaluated."""
    video = video_connector(features.video)
    mx.eval(video)  # before the other one begins, whose activations would come on top
    audio = audio_connector(features.audio)
    mx.eval(audio)
    return PromptContext(video, audio)
