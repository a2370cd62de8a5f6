"""Whether a model was made for a text encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.generations import GENERATIONS, LTX_2, Generation, stated_generation

log = logging.getLogger(__name__)


def check_pairing(
    metadata: Mapping[str, str],
    encoder_config: Mapping[str, Any],
    origin: str,
    encoder: str,
    generation: Generation | None = None,
) -> None:
    """Check that a checkpoint was made for this text encoder; warn where the encoder does not say which one it is.

    Args:
        metadata: header metadata of the checkpoint (``model_version``, ``gemma_source_checkpoint``).
        encoder_config: the Hugging Face config of the text encoder.
        origin: the checkpoint, for the error.
        encoder: the text encoder, for the error.
        generation: of the checkpoint; None: as its metadata say, else the first one.

    Raises:
        CheckpointError: another encoder than the checkpoint declares, or of a kind that its generation does not read.

    Source: the encoder check of Lightricks/LTX-2 ltx_pipelines/utils/blocks.py @ v1.2.0, which refuses encoders that
    declare nothing; files that were converted have often lost that.
    """
    generation = generation or stated_generation(metadata) or LTX_2
    given = encoder_config.get("gemma_version")
    text = encoder_config.get("text_config")
    kind = str(encoder_config.get("model_type") or (text.get("model_type") if isinstance(text, dict) else None))
    wanted = _declared(metadata, origin) or generation.text_encoder_version
    if wanted is None:
        if kind not in generation.text_encoder_types:
            raise CheckpointError(
                f"{encoder}: {origin} needs the text encoder {generation.text_encoder_name}, this is one of model_type "
                f"{kind!r}; give the {generation.text_encoder_name} folder."
            )
    elif given is None and not kind.startswith("gemma3"):
        log.warning(
            "%s does not declare its gemma_version; %s needs %s, and any other text encoder gives clips that do not "
            "follow the prompt",
            encoder,
            origin,
            wanted,
        )
    elif given != wanted:
        raise CheckpointError(
            f"{encoder}: {origin} needs the text encoder {wanted!r}, this is {given or kind!r}; give the text encoder "
            "that was published with the checkpoint."
        )


def check_declared(encoder_config: Mapping[str, Any], encoder: str) -> str:
    """What is to be said about a text encoder alone that only one version of is of use; empty: nothing.

    Raises:
        CheckpointError: it is another version.
    """
    kind = str(encoder_config.get("model_type", ""))
    version = encoder_config.get("gemma_version")
    for generation in GENERATIONS:
        wanted = generation.text_encoder_version
        if wanted is None or not kind.startswith(generation.text_encoder_types):
            continue
        if version is None:
            return f"declares no gemma_version; LTX-{generation.name} needs {wanted}"
        if version != wanted:
            raise CheckpointError(
                f"{encoder}: a stock Gemma ({version}); LTX-{generation.name} needs its fine-tune ({wanted}): use that."
            )
    return ""


def _declared(metadata: Mapping[str, str], origin: str) -> str | None:
    declared = metadata.get("gemma_source_checkpoint")
    if declared is None:
        return None
    try:
        return str(json.loads(declared)["gemma_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{origin}: gemma_source_checkpoint in its header is damaged ({error}).") from error
