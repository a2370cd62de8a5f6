"""The generations of the model: how each is recognised, and every value that differs between them.

A generation's architecture is not here: it is in the configuration of its checkpoints. What no configuration states is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ltx2rt.weights.tensor_source import TensorInfo


@dataclass(frozen=True)
class Generation:
    """One generation.

    Attributes:
        name: as files of ours and people call it.
        since: the first model version that belongs to it.
        declares_text_encoder: its checkpoints must name their text encoder.
        text_encoder_types: ``model_type`` of the text encoders that go with a checkpoint that names none.
        text_encoder_name: of those, for people.
        num_inference_steps: default of guided pipelines.
        stg_block: the block that guidance perturbs by default.
        image_crf: default H.264 quality of the round trip that image conditions go through.

    Source of the defaults: Lightricks/LTX-2 ltx_pipelines/utils/constants.py @ v1.2.0.
    """

    name: str
    since: tuple[int, ...]
    declares_text_encoder: bool
    text_encoder_types: tuple[str, ...]
    text_encoder_name: str
    num_inference_steps: int
    stg_block: int
    image_crf: int


_GEMMA_3 = ("gemma3", "gemma3_text")

LTX_2 = Generation("19b", (), False, _GEMMA_3, "Gemma 3 12B", num_inference_steps=40, stg_block=29, image_crf=33)
LTX_2_3 = Generation("2.3", (2, 3), False, _GEMMA_3, "Gemma 3 12B", num_inference_steps=30, stg_block=28, image_crf=33)
LTX_2_5 = Generation("2.5", (2, 4), True, (), "Gemma 4 12B", num_inference_steps=30, stg_block=28, image_crf=18)
# Oldest first.
GENERATIONS = (LTX_2, LTX_2_3, LTX_2_5)


def parse_version(text: str) -> tuple[int, ...]:
    """Leading numeric parts of a model version: ``2.3.0`` -> (2, 3, 0), ``2.5-rc1`` -> (2, 5), anything else -> ()."""
    parts: list[int] = []
    for part in text.replace("-", ".").split("."):
        if not (part.isascii() and part.isdigit()):
            break
        parts.append(int(part))
    return tuple(parts)


def stated_generation(metadata: Mapping[str, str]) -> Generation | None:
    """By the ``model_version`` of a file's header; None if it states none."""
    version = parse_version(metadata.get("model_version", ""))
    return next(g for g in reversed(GENERATIONS) if version >= g.since) if version else None


def generation_of(metadata: Mapping[str, str], components: Mapping[str, Mapping[str, TensorInfo]]) -> Generation | None:
    """Of a checkpoint: as its header states, else by its tensors; None where neither tells.

    Args:
        metadata: of the header.
        components: component -> local tensor name -> entry.
    """
    return stated_generation(metadata) or _of_tensors(components)


def _of_tensors(components: Mapping[str, Mapping[str, TensorInfo]]) -> Generation | None:
    """By the tensors that only one generation has."""
    transformer = components.get("transformer", {})
    table = transformer.get("transformer_blocks.0.scale_shift_table")
    if table is not None:
        if "keyframes_abs_pos_embedding" in transformer or "transformer_blocks.0.ff.net.0.proj.bias" not in transformer:
            return LTX_2_5
        return LTX_2_3 if table.shape[:1] == (9,) else LTX_2
    if any(name.endswith(".layer_scalar") for name in components.get("text_encoder", {})):
        return LTX_2_5  # Gemma 4
    projection = components.get("text_projection", {})
    if projection:
        return LTX_2 if "aggregate_embed.weight" in projection else LTX_2_3
    if any(name.startswith("decoder.det_stages.") for name in components.get("video_vae", {})):
        return LTX_2_5
    if "vocoder" in components:
        extended = any(name.startswith("bwe_generator.") for name in components["vocoder"])
        return None if extended else LTX_2  # 2.3 and 2.5 have the same vocoder
    return None
