"""Where the small model lies that runs when no weights are given, and what it must be called in front of users."""

from __future__ import annotations

from pathlib import Path

from ltx2rt.embedded.world import known_words, unknown_words

__all__ = [
    "CHECKPOINT",
    "FOLDER",
    "NOTICE",
    "SPATIAL_UPSCALER",
    "TEXT_ENCODER",
    "known_words",
    "unknown_words",
]

FOLDER = Path(__file__).parent
CHECKPOINT = FOLDER / "ltx2rt-embedded-untrained.safetensors"
SPATIAL_UPSCALER = FOLDER / "ltx2rt-embedded-untrained-spatial-upscaler-x2.safetensors"
TEXT_ENCODER = FOLDER / "text_encoder"

NOTICE = (
    "no weights given: running the embedded test model. It has the LTX-2 architecture but is UNTRAINED (random "
    "weights), so the clip shows noise, not the prompt. Give --checkpoint-path, --gemma-root and "
    "--spatial-upsampler-path for the real model."
)
