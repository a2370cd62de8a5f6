"""Which component every tensor of a published file belongs to, and its name inside that component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ltx2rt.errors import CheckpointError
from ltx2rt.weights.formats import UNUSED_SUFFIXES


class _Rule(NamedTuple):
    """Tensors whose name starts with ``prefix`` belong to ``component``, under the name that follows ``dropped``."""

    prefix: str
    component: str
    dropped: str


IGNORED = "ignored"

# The first matching rule wins. `IGNORED` tensors are known and not used by any pipeline.
_RULES = (
    _Rule(
        "model.diffusion_model.video_embeddings_connector.",
        "video_connector",
        "model.diffusion_model.video_embeddings_connector.",
    ),
    _Rule(
        "model.diffusion_model.audio_embeddings_connector.",
        "audio_connector",
        "model.diffusion_model.audio_embeddings_connector.",
    ),
    _Rule(
        "model.diffusion_model.embeddings_connector.", "video_connector", "model.diffusion_model.embeddings_connector."
    ),
    _Rule("model.diffusion_model.scaled_fp8", IGNORED, ""),  # marker of ComfyUI FP8 files, no value
    _Rule("model.diffusion_model.", "transformer", "model.diffusion_model."),
    _Rule("text_embedding_projection.", "text_projection", "text_embedding_projection."),
    _Rule("vae.", "video_vae", "vae."),
    _Rule("audio_vae.", "audio_vae", "audio_vae."),
    _Rule("vocoder.", "vocoder", "vocoder."),
    _Rule("duration_head.", "duration_head", "duration_head."),
    _Rule("scaled_fp8", IGNORED, ""),
    # Files that hold the video VAE alone.
    _Rule("encoder.", "video_vae", ""),
    _Rule("decoder.", "video_vae", ""),
    _Rule("per_channel_statistics.", "video_vae", ""),
    # Latent upscalers.
    _Rule("initial_conv.", "upscaler", ""),
    _Rule("initial_norm.", "upscaler", ""),
    _Rule("res_blocks.", "upscaler", ""),
    _Rule("upsampler.", "upscaler", ""),
    _Rule("post_upsample_res_blocks.", "upscaler", ""),
    _Rule("final_conv.", "upscaler", ""),
    # Gemma: Hugging Face shards of either age, then the flat form.
    _Rule("language_model.model.", "text_encoder", "language_model.model."),
    _Rule("language_model.lm_head.", IGNORED, ""),  # tied to the embedding
    _Rule("model.language_model.", "text_encoder", "model.language_model."),
    _Rule("lm_head.", IGNORED, ""),
    _Rule("vision_tower.", IGNORED, ""),
    _Rule("multi_modal_projector.", IGNORED, ""),
    _Rule("vision_model.", IGNORED, ""),
    _Rule("audio_projector.", IGNORED, ""),
    _Rule("model.vision_tower.", IGNORED, ""),
    _Rule("model.multi_modal_projector.", IGNORED, ""),
    _Rule("model.vision_embedder.", IGNORED, ""),
    _Rule("model.embed_vision.", IGNORED, ""),
    _Rule("model.embed_audio.", IGNORED, ""),
    _Rule("model.embed_tokens.", "text_encoder", "model."),
    _Rule("model.layers.", "text_encoder", "model."),
    _Rule("model.norm.", "text_encoder", "model."),
    # Tokenizer and templates packed into the 2.5 text encoder file as bytes.
    _Rule("tokenizer_json", "text_assets", ""),
    _Rule("hf_asset__", "text_assets", "hf_asset__"),
)

_TRANSFORMER_PREFIX = "model.diffusion_model."
# A transformer saved without the official prefix starts with one of these.
_BARE_TRANSFORMER = ("transformer_blocks.", "diffusion_model.transformer_blocks.")

# Stored by the training code, read by nothing: (component, name).
_UNUSED = {
    ("video_vae", "per_channel_statistics.channel"),
    ("video_vae", "per_channel_statistics.mean-of-stds"),
    ("video_vae", "per_channel_statistics.mean-of-stds_over_std-of-means"),
    ("video_vae", "decoder.type_emb"),
    ("vocoder", "mel_stft.stft_fn.inverse_basis"),
}


def is_unused(component: str, name: str) -> bool:
    """Whether a tensor of a component is known and needed by nothing."""
    return name.endswith(UNUSED_SUFFIXES) or (component, name) in _UNUSED


def official_prefix(names: Iterable[str]) -> str:
    """What must be put before every name to get the official one; for files whose transformer lost its prefix."""
    for name in names:
        if name.startswith(_BARE_TRANSFORMER):
            return "model." if name.startswith("diffusion_model.") else _TRANSFORMER_PREFIX
    return ""


def locate(name: str) -> tuple[str, str] | None:
    """(component, local name) of an official tensor name; component `IGNORED` if unused, None if unknown."""
    for rule in _RULES:
        if name.startswith(rule.prefix):
            return rule.component, name[len(rule.dropped) :]
    return None


@dataclass
class Assignment:
    """Every tensor name of a file, sorted out.

    Attributes:
        components: component -> local name -> name in the file.
        ignored: known tensors that nothing uses (vision tower, markers).
        unknown: names that fit no rule.
    """

    components: dict[str, dict[str, str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def assign(names: Mapping[str, object] | Iterable[str], where: str) -> Assignment:
    """Sort the tensor names of one file or folder into components; ``where`` names it in errors.

    Raises:
        CheckpointError: two tensors of the file would have the same name in a component.
    """
    names = list(names)
    prefix = official_prefix(names)
    result = Assignment()
    for name in names:
        place = locate(prefix + name)
        if place is None:
            result.unknown.append(name)
        elif place[0] == IGNORED:
            result.ignored.append(name)
        else:
            component, local = place
            taken = result.components.setdefault(component, {}).setdefault(local, name)
            if taken != name:
                raise CheckpointError(f"{where}: tensors {taken!r} and {name!r} are both {local!r} of the {component}.")
    return result
