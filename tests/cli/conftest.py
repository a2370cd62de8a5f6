"""Fixtures of the command's tests: folders with media and weights, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_inputs import (
    FRAMES,
    SIDE,
    distilled_lora,
    lora_file,
    one_file,
    tones,
    upscaler,
    upscaler_file,
    video_file,
)
from PIL import Image

from ltx2rt import embedded
from ltx2rt.media.pcm import write_wav
from ltx2rt.media.video_writer import VideoWriter


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photo.jpg, other.png, clip.mp4 (9 frames with sound), mask.mp4 and music.wav."""
    folder = tmp_path_factory.mktemp("media")
    y, x = np.mgrid[0:96, 0:120]
    Image.fromarray(np.stack([x * 2, y * 2, 255 - x], axis=-1).astype(np.uint8)).save(folder / "photo.jpg", quality=92)
    Image.fromarray(np.stack([y * 2, x, x + y], axis=-1).astype(np.uint8)).save(folder / "other.png")
    video_file(folder / "clip.mp4")
    with VideoWriter(folder / "mask.mp4", SIDE, SIDE, 24, crf=5) as writer:
        mask = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
        mask[:, :, SIDE // 2 :] = 255
        writer.write(mask)
    write_wav(folder / "music.wav", tones(0.5, 22050), 22050)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model under the names of published files, and random LoRAs and upscalers for it."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("dev", "distilled"):
        (folder / f"ltx-2-19b-{kind}.safetensors").symlink_to(embedded.CHECKPOINT)
    (folder / "gemma-3-12b-it-qat-q4_0-unquantized").symlink_to(embedded.TEXT_ENCODER)
    (folder / "ltx-2-spatial-upscaler-x2-1.0.safetensors").symlink_to(embedded.SPATIAL_UPSCALER)
    upscaler_file(folder / "ltx-2-temporal-upscaler-x2-1.0.safetensors", spatial_upsample=False, temporal_upsample=True)
    upscaler_file(folder / "spatial-upscaler-x1.5.safetensors", rational_resampler=True, spatial_scale=1.5)
    lora_file(folder / "ltx-2-19b-distilled-lora-384.safetensors", rank=4)
    lora_file(folder / "ltx-2-19b-ic-lora-canny-control.safetensors", reference_downscale_factor="1")
    lora_file(folder / "style-lora.safetensors", rank=3)
    return folder


@pytest.fixture(scope="session")
def dev(weights: Path) -> list[str]:
    """Options for the files of a dev pipeline with two stages."""
    return [*one_file(weights, "dev"), *upscaler(weights), *distilled_lora(weights)]
