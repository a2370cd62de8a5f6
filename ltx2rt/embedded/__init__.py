"""Where the small model lies that runs when no weights are given, and what it must be called in front of users."""

from __future__ import annotations

from pathlib import Path

from ltx2rt.embedded.world import known_words, unknown_words

__all__ = [
    "CHECKPOINT",
    "DISTILLED_LORA",
    "FOLDER",
    "IC_LORA",
    "NOTICE",
    "SPATIAL_UPSCALER",
    "TEMPORAL_UPSCALER",
    "TEXT_ENCODER",
    "known_words",
    "notice",
    "unknown_words",
]

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "ltx2rt-embedded-toy-shapes.safetensors"
SPATIAL_UPSCALER = FOLDER / "ltx2rt-embedded-toy-shapes-spatial-upscaler-x2.safetensors"
TEMPORAL_UPSCALER = FOLDER / "ltx2rt-embedded-toy-shapes-temporal-upscaler-x2.safetensors"
DISTILLED_LORA = FOLDER / "ltx2rt-embedded-toy-shapes-distilled-lora.safetensors"
IC_LORA = FOLDER / "ltx2rt-embedded-toy-shapes-ic-lora-silhouette.safetensors"
TEXT_ENCODER = FOLDER / "text_encoder"

NOTICE = (
    "no weights given: running the embedded TOY model. It has the LTX-2 architecture, but was trained by ltx2rt on "
    "moving coloured shapes alone and is no Lightricks model. Give --checkpoint-path, --gemma-root and "
    "--spatial-upsampler-path for the real one."
)


def notice(prompt: str | None) -> str:
    """What is said before the embedded model runs, with the words of the prompt that mean nothing to it."""
    words = unknown_words(prompt or "")
    if not words:
        return NOTICE
    shown = ", ".join(words[:8]) + (", ..." if len(words) > 8 else "")
    return f"{NOTICE} This prompt is outside its world: it does not know {shown}."
