"""The generations of the model: how each is recognised, and every value that differs between them.

A generation's architecture is not here: it is in the configuration of its checkpoints. What no configuration states is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ltx2rt.weights.tensor_source import TensorInfo

Tensors = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Generation:
    """One generation.

    Attributes:
        name: as files of ours and people call it.
        since: the first model version that belongs to it.
        text_encoder_types: ``model_type`` of its text encoders.
        text_encoder_version: the ``gemma_version`` that the text encoder must declare, unless the checkpoint names
            another; None: any of these types goes.
        text_encoder_name: of those, for people.
        num_inference_steps: default of guided pipelines.
        stg_block: the block that guidance perturbs by default.
        image_crf: default H.264 quality of the round trip that image conditions go through.
        ancestral_since: the first model version whose distilled stages are sampled with fresh noise in every step;
            None: those of none are.

    Source of the defaults: Lightricks/LTX-2 ltx_pipelines/utils/constants.py @ v1.2.0.
    """

    name: str
    since: tuple[int, ...]
    text_encoder_types: tuple[str, ...]
    text_encoder_version: str | None
    text_encoder_name: str
    num_inference_steps: int
    stg_block: int
    image_crf: int
    ancestral_since: tuple[int, ...] | None = None

    def is_ancestral(self, metadata: Mapping[str, str]) -> bool:
        """Whether the distilled stages of a checkpoint of this generation are sampled with fresh noise in every step.

        Args:
            metadata: of the header of the file with the transformer, which need not state a version.
        """
        version = parse_version(metadata.get("model_version", ""))
        return self.ancestral_since is not None and (not version or version >= self.ancestral_since)


_GEMMA_3 = ("gemma3", "gemma3_text")

_GEMMA_4 = ("gemma4", "gemma4_text", "gemma4_unified")

LTX_2 = Generation("19b", (), _GEMMA_3, None, "Gemma 3 12B", num_inference_steps=40, stg_block=29, image_crf=33)
LTX_2_3 = Generation("2.3", (2, 3), _GEMMA_3, None, "Gemma 3 12B", num_inference_steps=30, stg_block=28, image_crf=33)
LTX_2_5 = Generation(
    "2.5",
    (2, 4),
    _GEMMA_4,
    "gemma4-12b-ltx-v1",
    "Gemma 4 12B",
    num_inference_steps=30,
    stg_block=28,
    image_crf=18,
    ancestral_since=(2, 5),
)
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
    possible = possible_generations(metadata, components)
    return possible[0] if len(possible) == 1 else None


def possible_generations(
    metadata: Mapping[str, str], components: Mapping[str, Mapping[str, TensorInfo]]
) -> tuple[Generation, ...]:
    """Those that a file may belong to: the one that its header states, else all that no tensor excludes.

    Arguments as of `generation_of`. Where the tensors of two components exclude each other's, the transformer's count.
    """
    stated = stated_generation(metadata)
    if stated is not None:
        return (stated,)
    possible: tuple[Generation, ...] = GENERATIONS
    for component, evidence in _EVIDENCE.items():
        tensors = components.get(component)
        found = tuple(g for g in possible if g in evidence(tensors)) if tensors else ()
        possible = found or possible
    return possible


def contradiction(metadata: Mapping[str, str], transformer: Tensors) -> str:
    """What the tensors of a transformer say against the generation that its header states; empty if nothing.

    2.3 and 2.5 differ in so little that a header is believed about them.
    """
    stated = stated_generation(metadata)
    shown = _of_transformer(transformer)
    if stated is None or stated in shown or LTX_2 not in (stated, *shown):
        return ""
    return (
        f"the header states model version {metadata['model_version']} ({stated.name}), but the tensors are those of "
        f"{' or '.join(generation.name for generation in shown)}"
    )


def _of_transformer(tensors: Tensors) -> Sequence[Generation]:
    if "keyframes_abs_pos_embedding" in tensors:
        return (LTX_2_5,)
    feed_forward = "transformer_blocks.0.ff.net.0.proj."
    if f"{feed_forward}weight" in tensors and f"{feed_forward}bias" not in tensors:
        return (LTX_2_5,)
    if "caption_projection.linear_1.weight" in tensors:
        return (LTX_2,)
    table = tensors.get("transformer_blocks.0.scale_shift_table")
    if table is not None:
        return (LTX_2_3,) if table.shape[:1] == (9,) else (LTX_2,)
    later = any(".to_gate_logits." in name or name.startswith("prompt_adaln_single.") for name in tensors)
    is_whole = "patchify_proj.weight" in tensors or "audio_patchify_proj.weight" in tensors
    if later:
        return (LTX_2_3,)
    return (LTX_2,) if is_whole else GENERATIONS


def _of_connector(tensors: Tensors) -> Sequence[Generation]:
    if any(".to_gate_logits." in name for name in tensors):
        return (LTX_2_3, LTX_2_5)
    return (LTX_2,) if any(name.startswith("transformer_1d_blocks.") for name in tensors) else GENERATIONS


def _of_projection(tensors: Tensors) -> Sequence[Generation]:
    return (LTX_2,) if "aggregate_embed.weight" in tensors else (LTX_2_3, LTX_2_5)


def _of_text_encoder(tensors: Tensors) -> Sequence[Generation]:
    is_gemma_4 = any(name.endswith(".layer_scalar") for name in tensors)
    return (LTX_2_5,) if is_gemma_4 else (LTX_2, LTX_2_3)


def _of_video_vae(tensors: Tensors) -> Sequence[Generation]:
    return (LTX_2_5,) if any(name.startswith("decoder.det_stages.") for name in tensors) else GENERATIONS


def _of_vocoder(tensors: Tensors) -> Sequence[Generation]:
    extended = any(name.startswith("bwe_generator.") for name in tensors)
    return (LTX_2_3, LTX_2_5) if extended else (LTX_2,)  # 2.3 and 2.5 have the same vocoder


# What the tensors of a component say; the first ones are the surest.
_EVIDENCE: dict[str, Callable[[Tensors], Sequence[Generation]]] = {
    "transformer": _of_transformer,
    "text_encoder": _of_text_encoder,
    "text_projection": _of_projection,
    "video_connector": _of_connector,
    "audio_connector": _of_connector,
    "video_vae": _of_video_vae,
    "vocoder": _of_vocoder,
    "duration_head": lambda _: (LTX_2_5,),
}
