"""Makes an existing clip, or a saved latent, larger or smoother with the latent upscalers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ltx2rt import embedded
from ltx2rt.api.clip import Clip
from ltx2rt.api.latent_file import Latents, read_latents
from ltx2rt.api.loading import DTYPES
from ltx2rt.api.media_inputs import source_clip
from ltx2rt.api.record import Record
from ltx2rt.api.settings import Settings, tiling_text
from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.guidance import GuiderParams
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import Run
from ltx2rt.media.video_reader import probe_video

PathLike = str | Path


def upscale(
    source: PathLike,
    *,
    checkpoint: PathLike | None = None,
    spatial_upscaler: PathLike | None = None,
    temporal_upscaler: PathLike | None = None,
    dtype: str = "bfloat16",
    seed: int = 10,
    tiling: Tiling | Literal["auto", "none"] = "auto",
    observer: Callable[[Event], None] | None = None,
    on_settings: Callable[[Mapping[str, Any]], None] | None = None,
) -> Clip:
    """Enlarge a clip in space, or double its frame rate, or both, without denoising.

    The latents are brought to the upscaler's scale and back with the video VAE's statistics. The sound of a video is
    passed through; that of a saved latent is decoded.

    Args:
        source: a video with 8*k + 1 frames and sides that are multiples of 32, or a latent file.
        checkpoint: the model whose video VAE is used; None: the embedded model.
        spatial_upscaler: x2 or x1.5.
        temporal_upscaler: x2: N frames become 2N - 1 at twice the frame rate.
        dtype: of activations.
        seed: of the noise that some video decoders add.
        tiling: of the video decoder.
        observer: called with every event; raise `Cancelled` from it to stop.
        on_settings: called once with the settings before anything is loaded.

    Raises:
        UsageError: no upscaler, or a source that does not fit.
        CheckpointError: a file is missing, damaged or of the wrong kind.
        MediaError: the source cannot be read.
    """
    source = Path(source)
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}.")
    if checkpoint is None and spatial_upscaler is None and temporal_upscaler is None:
        spatial_upscaler = embedded.SPATIAL_UPSCALER
    if spatial_upscaler is None and temporal_upscaler is None:
        raise UsageError("nothing to upscale with; give --spatial-upsampler-path, --temporal-upsampler-path or both.")
    model = embedded.CHECKPOINT if checkpoint is None else Path(checkpoint)
    files = ModelFiles.open(
        model,
        spatial_upscaler=None if spatial_upscaler is None else Path(spatial_upscaler),
        temporal_upscaler=None if temporal_upscaler is None else Path(temporal_upscaler),
    )
    saved, frames, sound = None, None, None
    if source.suffix == ".safetensors":
        saved = _matching_latents(source, files)
        frame_rate = saved.frame_rate
    else:
        info = probe_video(source)
        clip = source_clip(source, info)
        frames, sound, frame_rate = clip.frames, clip.sound, info.frame_rate
    paths = {"checkpoint": model, "spatial_upscaler": spatial_upscaler, "temporal_upscaler": temporal_upscaler}
    given = {name: str(Path(path).absolute()) for name, path in paths.items() if path is not None}
    settings = {
        "source": str(source.absolute()),
        "seed": seed,
        "dtype": dtype,
        "tiling": tiling_text(tiling) if isinstance(tiling, Tiling) else tiling,
    }
    record = Record.of({"pipeline": "upscale", **given}, settings, [Path(path) for path in given.values()], [source])
    if on_settings is not None:
        on_settings({**record.files, **record.settings})
    request = Request(
        prompt="",
        negative_prompt="",
        seed=seed,
        height=64,
        width=64,
        num_frames=1,
        frame_rate=Fraction(frame_rate),
        num_inference_steps=1,
        video_guider=GuiderParams(),
        audio_guider=GuiderParams(),
        upscale_spatial=spatial_upscaler is not None,
        upscale_temporal=temporal_upscaler is not None,
        tiling=None if tiling == "none" else tiling,
        dtype=DTYPES[dtype],
    )
    run = Run(files, request, observer)
    if saved is not None:
        return Clip(finish(run, saved.video, saved.audio), run, Settings(), record)
    assert frames is not None
    (latent,) = encode_pixels(run, "video encoder", [frames])
    waveform, rate = (None, 0) if sound is None else (sound.waveform, sound.sample_rate)
    finished = finish(run, latent, None, waveform=waveform, sample_rate=rate)
    return Clip(finished, run, Settings(), record)


def _matching_latents(path: Path, files: ModelFiles) -> Latents:
    latents = read_latents(path)
    generation = files.checkpoint.generation or "19b"
    if latents.video is None:
        raise UsageError(f"{path} holds no video latent; give the latents of a clip with pictures.")
    if latents.generation not in ("", generation):
        raise UsageError(
            f"{path} holds latents of generation {latents.generation}, the checkpoint is {generation}; "
            "give the checkpoint that made them."
        )
    return latents
