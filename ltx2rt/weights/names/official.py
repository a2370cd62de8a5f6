"""Official names: which component every tensor belongs to, and its name inside that component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ltx2rt.weights.formats import UNUSED_SUFFIXES
from ltx2rt.weights.names.origin import Origin
from ltx2rt.weights.tensor_source import TensorInfo

TRANSFORMER = "model.diffusion_model."
IGNORED = "ignored"


class _Rule(NamedTuple):
    """Tensors whose name starts with ``prefix`` belong to ``component``, under the name that follows ``dropped``."""

    prefix: str
    component: str
    dropped: str


def _whole(prefix: str, component: str) -> _Rule:
    return _Rule(prefix, component, prefix)


# The first matching rule wins. `IGNORED` tensors are known and not used by any pipeline.
_RULES = (
    _whole(f"{TRANSFORMER}video_embeddings_connector.", "video_connector"),
    _whole(f"{TRANSFORMER}audio_embeddings_connector.", "audio_connector"),
    _whole(f"{TRANSFORMER}embeddings_connector.", "video_connector"),
    _Rule(f"{TRANSFORMER}scaled_fp8", IGNORED, ""),  # marker of ComfyUI FP8 files, no value
    _whole(TRANSFORMER, "transformer"),
    _whole("text_embedding_projection.", "text_projection"),
    _whole("vae.", "video_vae"),
    _whole("audio_vae.", "audio_vae"),
    _whole("vocoder.", "vocoder"),
    _whole("duration_head.", "duration_head"),
    _Rule("scaled_fp8", IGNORED, ""),
    _Rule("tekken_model", IGNORED, ""),  # a tokenizer that Gemma does not have
    # Latent upscalers.
    _Rule("initial_conv.", "upscaler", ""),
    _Rule("initial_norm.", "upscaler", ""),
    _Rule("res_blocks.", "upscaler", ""),
    _Rule("upsampler.", "upscaler", ""),
    _Rule("post_upsample_res_blocks.", "upscaler", ""),
    _Rule("final_conv.", "upscaler", ""),
    # Gemma: Hugging Face shards of either age, then the flat form.
    _whole("language_model.model.", "text_encoder"),
    _Rule("language_model.lm_head.", IGNORED, ""),  # tied to the embedding
    _whole("model.language_model.", "text_encoder"),
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
    # Tokenizer and templates packed into text encoder files as bytes.
    _Rule("tokenizer_json", "text_assets", ""),
    _Rule("spiece_model", "text_assets", ""),
    _Rule("hf_asset__", "text_assets", "hf_asset__"),
)

# What files put before the names of the transformer and the connectors in place of `TRANSFORMER`, longest first.
_WRAPPERS = (TRANSFORMER, "diffusion_model.", "transformer.", "model.", "net.", "")
# A name that begins so, after its wrapper, is one of the transformer or of the connectors.
_ANCHORS = (
    "transformer_blocks.",
    "patchify_proj.",
    "audio_patchify_proj.",
    "video_embeddings_connector.",
    "audio_embeddings_connector.",
    "embeddings_connector.",
)
_ANCHORED = {wrapper: tuple(wrapper + anchor for anchor in _ANCHORS) for wrapper in _WRAPPERS}
# Halves of a VAE without a prefix.
_BARE_VAE = ("encoder.", "decoder.", "per_channel_statistics.")
_BARE_DURATION_HEAD = (
    "attention_pooler.",
    "audio_input_proj.",
    "audio_modality_emb",
    "mlp_hidden.",
    "mlp_out.",
    "video_input_proj.",
    "video_modality_emb",
)
# Class that configurations name of a video VAE with a diffusion decoder, and names that only such have.
DIFFUSION_VAE = "CausalDiffusionVAE"
DIFFUSION_PARTS = ("decoder.diff_blocks.", "decoder.det_stages.")
_DIFFUSION_DECODER = ("decoder.t_embedder.", *DIFFUSION_PARTS)

# Stored by the training code, read by nothing: (component, name).
_UNUSED = {
    ("video_vae", "per_channel_statistics.channel"),
    ("video_vae", "per_channel_statistics.mean-of-stds"),
    ("video_vae", "per_channel_statistics.mean-of-stds_over_std-of-means"),
    ("vocoder", "mel_stft.stft_fn.inverse_basis"),
}


# A head of the diffusion decoder that training alone uses.
_COARSE = "decoder.coarse_"


def is_unused(component: str, name: str) -> bool:
    """Whether a tensor of a component is known and needed by nothing."""
    unused = name.endswith(UNUSED_SUFFIXES) or (component, name) in _UNUSED
    return unused or (component == "video_vae" and name.startswith(_COARSE))


def is_statistic(name: str) -> bool:
    """Whether a tensor of a VAE, by its local name, is one that each half has where these are kept apart."""
    return name.startswith("per_channel_statistics.")


@lru_cache(maxsize=1 << 14)  # every name of a file is asked for several times
def locate(name: str) -> tuple[str, str] | None:
    """(component, local name) of an official tensor name; component `IGNORED` if unused, None if unknown."""
    for prefix, component, dropped in _RULES:
        if name.startswith(prefix):
            return component, name[len(dropped) :]
    return None


# Component -> what stands before its names in official files.
_PREFIXES = {
    "transformer": TRANSFORMER,
    "video_connector": f"{TRANSFORMER}video_embeddings_connector.",
    "audio_connector": f"{TRANSFORMER}audio_embeddings_connector.",
    "text_projection": "text_embedding_projection.",
    "video_vae": "vae.",
    "audio_vae": "audio_vae.",
    "vocoder": "vocoder.",
    "duration_head": "duration_head.",
    "upscaler": "",
    "text_encoder": "model.",
    "text_assets": "hf_asset__",
}
# Assets that stand alone.
_TOKENIZERS = ("tokenizer_json", "spiece_model")


def full_name(component: str, name: str) -> str:
    """The official name of a tensor of a component, the inverse of `locate`."""
    return name if name in _TOKENIZERS else _PREFIXES[component] + name


def wrappers(names: Iterable[str]) -> tuple[str, ...]:
    """What stands before the transformer's and the connectors' names of a file, longest first; empty: it has none.

    Files that were merged have several.
    """
    names = list(names)
    return tuple(w for w, anchored in _ANCHORED.items() if any(name.startswith(anchored) for name in names))


def official_names(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, Origin]]:
    """(official name, origin) of the tensors of a file in official names, whatever stands before those of a component.

    Names that fit nothing are kept as they are.
    """
    before = wrappers(tensors)
    bare_vae = bare_vae_prefix(tensors)
    return [(official_name(name, before, bare_vae), Origin(name)) for name in tensors]


def official_name(name: str, before: tuple[str, ...], bare_vae: str) -> str:
    """The official form of one name; ``before`` as `wrappers` gives it, ``bare_vae`` as `bare_vae_prefix`."""
    if name.startswith("text_encoders."):  # ComfyUI's own checkpoints: text_encoders.KIND.transformer.NAME
        name = name.partition(".transformer.")[2] or name
    if name == "text_embedding_projection.weight":
        return "text_embedding_projection.aggregate_embed.weight"
    if locate(name) is not None:
        return name
    if name.startswith(_BARE_VAE):
        return bare_vae + name
    if name.startswith(_BARE_DURATION_HEAD):
        return f"duration_head.{name}"
    for wrapper in before:
        if name.startswith(wrapper):
            return TRANSFORMER + name.removeprefix(wrapper)
    return name


def bare_vae_prefix(tensors: Mapping[str, TensorInfo]) -> str:
    """The component of names like ``encoder.x``, by the shapes; empty: not known, they may be those of any model.

    Video VAEs of other models, too, begin with such a convolution, and have no statistics.
    """
    ranks = [
        len(tensors[name].shape)
        for name in (f"{half}.conv_in.conv.weight" for half in ("encoder", "decoder"))
        if name in tensors
    ]
    described = any("per_channel_statistics." in name or name == "latents_mean" for name in tensors)
    if (5 in ranks and described) or any(name.startswith(_DIFFUSION_DECODER) for name in tensors):
        return "vae."
    return "audio_vae." if 4 in ranks else ""
