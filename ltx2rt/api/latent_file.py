"""Files that hold the final latents of a clip."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ltx2rt.errors import CheckpointError
from ltx2rt.media.output_file import OutputFile
from ltx2rt.types import Array
from ltx2rt.weights.safetensors import SafetensorsFile, write_tensors

FORMAT = "ltx2rt-latents"


@dataclass(frozen=True)
class Latents:
    """Final latents of a clip.

    Attributes:
        generation: of the model they belong to: ``19b``, ``2.3`` or ``2.5``.
        frame_rate: of the clip.
        video: (1, f, h, w, 128) float32, normalised, or None.
        audio: (1, L, 128) float32, normalised, or None.
    """

    generation: str
    frame_rate: Fraction
    video: Array | None = None
    audio: Array | None = None


def write_latents(path: Path, latents: Latents) -> None:
    """Write ``video`` as (1, 128, f, h, w) and ``audio`` as (1, 8, L, 16), the layout of the official code.

    Raises:
        MediaError: the file cannot be written.
    """
    arrays = {}
    if latents.video is not None:
        arrays["video"] = np.moveaxis(latents.video, -1, 1)
    if latents.audio is not None:
        batch, length, features = latents.audio.shape
        channels = latents.audio.reshape(batch, length, 8, features // 8)
        arrays["audio"] = channels.transpose(0, 2, 1, 3)
    metadata = {"format": FORMAT, "generation": latents.generation, "frame_rate": str(latents.frame_rate)}
    with OutputFile(path) as output:
        write_tensors(output.file, arrays, metadata)


def read_latents(path: Path) -> Latents:
    """Read what `write_latents` wrote.

    Raises:
        CheckpointError: another kind of file, or a damaged one.
    """
    with closing(SafetensorsFile(path)) as file:
        if file.metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path}: not a latent file; make one with generate --save-latents.")
        arrays = {name: file.numpy(name).astype(np.float32) for name in ("video", "audio") if name in file.tensors}
        metadata = file.metadata
    shapes = {"video": 5, "audio": 4}
    for name, array in arrays.items():
        if array.ndim != shapes[name] or array.shape[0] != 1 or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} of shape {array.shape} is damaged; make the file again.")
    try:
        frame_rate = Fraction(metadata["frame_rate"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: states no frame rate ({error}); make the file again.") from error
    video, audio = arrays.get("video"), arrays.get("audio")
    return Latents(
        metadata.get("generation", ""),
        frame_rate,
        None if video is None else np.moveaxis(video, 1, -1).copy(),
        None if audio is None else audio.transpose(0, 2, 1, 3).reshape(1, audio.shape[2], -1),
    )
