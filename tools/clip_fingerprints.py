"""Prints fingerprints of what every pipeline makes from the embedded model, to compare the bits of two commits.

    python tools/clip_fingerprints.py > before.json       (at one commit)
    python tools/clip_fingerprints.py > after.json        (at the other)
    diff before.json after.json

Latents, decoded frames and samples are hashed before anything is resampled or encoded, in float32 and in bfloat16, with
weight options and without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ltx2rt import api, embedded
from ltx2rt.errors import Ltx2rtError
from ltx2rt.media.video_writer import VideoWriter

PROMPT = "a red circle moves left on a blue background"
SIZE = {"height": 128, "width": 128, "num_frames": 9}
GUIDED = {"num_inference_steps": 2}
MODEL = {"checkpoint": embedded.CHECKPOINT, "text_encoder": embedded.TEXT_ENCODER}
UPSCALER = {"spatial_upscaler": embedded.SPATIAL_UPSCALER}
REFINED = {**UPSCALER, "distilled_lora": (embedded.DISTILLED_LORA, 1.0)}


def cases(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Pipeline -> (files, settings)."""
    picture, clip = folder / "picture.png", folder / "clip.mp4"
    image = api.ImageInput(picture, 0, 0.9)
    edited = {"video_path": clip}
    controlled = {"loras": [(embedded.IC_LORA, 1.0)]}
    return {
        "distilled": (UPSCALER, {**SIZE, "images": [image]}),
        "one-stage": ({}, {**SIZE, **GUIDED}),
        "two-stage": (REFINED, {**SIZE, **GUIDED}),
        "two-stage-hq": (REFINED, {**SIZE, **GUIDED}),
        "ic-lora": ({**UPSCALER, **controlled}, {**SIZE, "video_conditioning": [api.VideoInput(clip)]}),
        "dub-it": ({**UPSCALER, **controlled}, {"height": 128, "width": 128, "reference_video": clip}),
        "alpha-gen": (controlled, {**SIZE, **GUIDED, "video_conditioning": [api.VideoInput(clip)]}),
        "keyframe-interpolation": (REFINED, {**SIZE, **GUIDED, "images": [image, api.ImageInput(picture, 8)]}),
        "audio-to-video": (REFINED, {**SIZE, **GUIDED, "audio_path": clip}),
        "retake": ({"model_variant": "distilled"}, {**edited, "start_time": 0.1, "end_time": 0.3}),
        "extend": ({"model_variant": "dev"}, {**edited, **GUIDED, "extend_frames": 8}),
        "text-to-audio": ({}, {"num_frames": 9, **GUIDED}),
    }


def media(folder: Path) -> None:
    """A picture and a clip with sound."""
    y, x = np.mgrid[0:128, 0:128]
    frame = np.stack([x * 2, y * 2, 255 - x], axis=-1).astype(np.uint8)
    Image.fromarray(frame).save(folder / "picture.png")
    t = np.arange(round(9 / 24 * 16000)) / 16000
    with VideoWriter(folder / "clip.mp4", 128, 128, 24, sample_rate=16000) as writer:
        writer.write(np.stack([np.roll(frame, 4 * index, axis=1) for index in range(9)]))
        writer.write_audio(np.stack([np.sin(2000 * t), np.sin(3000 * t)], axis=1).astype(np.float32) * 0.4)


def fingerprint(values: Any) -> str:
    return "" if values is None else hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def made(name: str, files: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of one clip, or why there is none."""
    try:
        clip = api.load(name, **files)(PROMPT, seed=3, **settings)
        frames = np.concatenate(list(clip.frames)) if clip.has_frames else None
    except Ltx2rtError as error:
        return {"error": type(error).__name__}
    parts = {"video": clip.video_latent, "audio": clip.audio_latent, "frames": frames, "sound": clip.audio}
    return {part: fingerprint(values) for part, values in parts.items()}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        media(Path(name))
        for pipeline, (files, settings) in cases(Path(name)).items():
            for dtype in ("float32", "bfloat16"):
                print(pipeline, dtype, file=sys.stderr)
                found[f"{pipeline} {dtype}"] = made(pipeline, {**MODEL, **files, "dtype": dtype}, settings)
            found[f"{pipeline} without weights"] = made(pipeline, {}, settings)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
