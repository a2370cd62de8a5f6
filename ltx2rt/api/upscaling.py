"""Makes an existing clip, or a saved latent, larger or smoother with the latent upscalers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from ltx2rt import embedded
from ltx2rt.api.clip import Clip
from ltx2rt.api.latent_file import Latents, read_latents
from ltx2rt.api.loading import MLX_DTYPES
from ltx2rt.api.planning import ledger
from ltx2rt.api.planning import rates as measured_rates
from ltx2rt.api.record import Record
from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines.decide import with_drawn_seed
from ltx2rt.graph.pipelines.plan import Plan, Rates, plan
from ltx2rt.graph.settings.setting import plain_values
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import DECODING, MODEL, UPSCALING, WeightFiles, files_of
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.edited_clips import open_enlarged
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.events import Event
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.kept_media import finish_edit
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.paths import expanded
from ltx2rt.spelling import spelled
from ltx2rt.types import FilePath
from ltx2rt.weights.sets import parts as roles

log = logging.getLogger(__name__)


def upscale(
    source: FilePath,
    *,
    checkpoint: FilePath | None = None,
    spatial_upscaler: FilePath | None = None,
    temporal_upscaler: FilePath | None = None,
    dtype: str = "bfloat16",
    seed: int | str = 10,
    tiling: Tiling | Literal["auto", "none"] = "auto",
    fit: str | None = None,
    source_color: str | None = None,
    memory: str | int | None = None,
    observer: Callable[[Event], None] | None = None,
    on_settings: Callable[[Mapping[str, Any]], None] | None = None,
    on_taken: Callable[[Mapping[str, Path]], None] | None = None,
    **parts: FilePath | None,
) -> Clip:
    """Enlarge a clip in space, or double its frame rate, or both, without denoising.

    The latents are brought to the upscaler's scale and back with the video VAE's statistics. The sound of a video is
    passed through; that of a saved latent is decoded.

    Args:
        source: a video, or a latent file.
        checkpoint: the model whose video VAE is used, or a video VAE alone; None: the embedded model.
        spatial_upscaler: x2 or x1.5.
        temporal_upscaler: x2: N frames become 2N - 1 at twice the frame rate.
        dtype: of activations.
        seed: of the noise that some video decoders add; ``random`` or -1 draws one.
        tiling: of the video decoder.
        fit: how pictures whose sides are no multiples of 32 come to the model: ``pad``, ``crop``, ``stretch`` or
            ``error``; None: ``pad``. The result is as many times larger as the upscaler says.
        source_color: what the colours of a video are, ``hlg`` or ``bt709-full``; None: what its tags say.
        memory: what the process may take, ``12GB`` or bytes; None: most of what is free. It decides what is worked on
            in parts, not the result; the decoder's tiles, which do change it, are taken only where nothing else fits.
        observer: called with every event; raise `Cancelled` from it to stop.
        on_settings: called once with the settings before anything is loaded.
        on_taken: called once with the files that are taken without having been named: setting -> path.
        parts: ``video_vae``, ``video_decoder``, ``audio_vae``, ``vocoder``, ``transformer``, ``model_variant``: as for
            `load`. A video VAE needs no model beside it.

    Raises:
        UsageError: no upscaler, or a source that does not fit.
        CheckpointError: a file is missing, damaged or of the wrong kind.
        MediaError: the source cannot be read.
        MemoryBudgetError: a stage does not fit; before anything is loaded, unless the system refuses memory later.
    """
    given = {"checkpoint": checkpoint, "spatial_upscaler": spatial_upscaler, "temporal_upscaler": temporal_upscaler}
    task = _prepare(
        source, {**given, "dtype": dtype, **parts}, seed, tiling, {"fit": fit, "source_color": source_color}, on_taken
    )
    accounts = ledger(memory)
    plan(task.work, task.files, task.inputs, accounts.unused())
    if on_settings is not None:
        on_settings({**task.record.files, **task.record.settings})
    run = Run(task.files, task.inputs, observer, ledger=accounts)
    return Clip(task.work(run), run, task.record)


def plan_upscale(
    source: FilePath,
    *,
    checkpoint: FilePath | None = None,
    spatial_upscaler: FilePath | None = None,
    temporal_upscaler: FilePath | None = None,
    dtype: str = "bfloat16",
    seed: int | str = 10,
    tiling: Tiling | Literal["auto", "none"] = "auto",
    fit: str | None = None,
    source_color: str | None = None,
    memory: str | int | None = None,
    rates: Rates | None = None,
    on_taken: Callable[[Mapping[str, Path]], None] | None = None,
    **parts: FilePath | None,
) -> Plan:
    """What `upscale` would take; reads the source and loads no weights.

    Args:
        source, checkpoint, spatial_upscaler, temporal_upscaler, dtype, seed, tiling, fit, source_color, memory,
            on_taken, parts: as for `upscale`.
        rates: speeds to predict seconds with; default: measured and assumed ones.

    Raises:
        UsageError, CheckpointError, MediaError, MemoryBudgetError: as `upscale`.
    """
    given = {"checkpoint": checkpoint, "spatial_upscaler": spatial_upscaler, "temporal_upscaler": temporal_upscaler}
    task = _prepare(
        source, {**given, "dtype": dtype, **parts}, seed, tiling, {"fit": fit, "source_color": source_color}, on_taken
    )
    return plan(task.work, task.files, task.inputs, ledger(memory), measured_rates() if rates is None else rates)


@dataclass(frozen=True)
class _Task:
    """What is to be upscaled, checked.

    Attributes:
        files: opened weight files.
        inputs: what is asked of the stages.
        record: what the clip is made from.
        work: what is done with a run, planned or real.
    """

    files: WeightSet
    inputs: GenerationInputs
    record: Record
    work: Callable[[Run], GeneratedClip]


def _prepare(
    source: FilePath,
    files_given: Mapping[str, Any],
    seed: int | str,
    tiling: Tiling | Literal["auto", "none"],
    reading: Mapping[str, str | None],
    on_taken: Callable[[Mapping[str, Path]], None] | None,
) -> _Task:
    if not isinstance(source, (str, PathLike)):
        raise UsageError(f"the source must be a path, got {source!r}; give a video or a latent file.")
    source = expanded(source)
    given = files_of((MODEL, DECODING, UPSCALING), files_given)
    if not given.has_model and given.video_vae is None:
        given.require_no_parts("spatial_upscaler", "temporal_upscaler")
        given = replace(given, checkpoint=embedded.CHECKPOINT)
        if given.spatial_upscaler is None and given.temporal_upscaler is None:
            given = replace(given, spatial_upscaler=embedded.SPATIAL_UPSCALER)
    if given.spatial_upscaler is None and given.temporal_upscaler is None:
        names = " or ".join(spelled(name) for name in ("spatial_upscaler", "temporal_upscaler"))
        raise UsageError(f"nothing to upscale with; give {names}, or both.")
    asked = Settings.of(
        {
            "seed": seed,
            "tiling": tiling,
            **reading,
            "upscale_spatial": given.spatial_upscaler is not None,
            "upscale_temporal": given.temporal_upscaler is not None,
        }
    )
    wanted = with_drawn_seed(asked)
    saved, clip = None, None
    if source.suffix == ".safetensors":
        for name, value in reading.items():
            if value is not None:
                raise UsageError(f"{spelled(name)} concerns videos, {source} holds latents; leave it out.")
        saved = read_latents(source)
    decoded = (roles.VIDEO_VAE, roles.AUDIO_VAE, roles.VOCODER)
    wanted_roles = decoded if saved is not None and saved.audio is not None else decoded[:1]
    files = WeightSet.open(given, wanted_roles)
    files.require(*(role.setting for role in wanted_roles))
    if on_taken is not None:
        on_taken(files.taken)
    if saved is not None:
        _require_matching(source, saved, files)
        frame_rate = saved.frame_rate
    else:
        clip = open_enlarged(source, wanted, files.config(VIDEO_VAE))
        frame_rate = clip.frame_rate
    named = _named_files(given)
    stored = {name: value for name, value in plain_values(wanted).items() if name in ("seed", "tiling", *reading)}
    record = Record.of(
        {"pipeline": "upscale", **named},
        {"source": str(source.absolute()), "dtype": given.dtype, **stored},
        _weights(given, files),
        [source],
    )
    inputs = GenerationInputs.without_clip(wanted, frame_rate=frame_rate, dtype=MLX_DTYPES[given.dtype])

    def work(run: Run) -> GeneratedClip:
        if saved is not None:
            return finish(run, saved.video, saved.audio)
        assert clip is not None
        if not run.planning:
            for line in clip.edit.words:
                log.warning("%s", line)
        (latent,) = encode_pixels(run, "video encoder", [clip.frames], clip.edit.pictures.reading_bytes)
        return finish_edit(run, clip, latent, None)

    return _Task(files, inputs, record, work)


def _named_files(given: WeightFiles) -> dict[str, Any]:
    """Setting -> what was named, as JSON values."""
    settings = ("checkpoint", *given.parts, "video_decoder")
    return {name: value for name, value in plain_values(given).items() if name in settings}


def _weights(given: WeightFiles, files: WeightSet) -> list[Path]:
    """Every file that is named, and every one that is read; a folder that was named stands for its files."""
    read = [source.path for source in files.sources.values()]
    checkpoint = () if given.checkpoint is None else (given.checkpoint,)
    named = [path.absolute() for paths in (checkpoint, *given.parts.values()) for path in paths]
    return list(dict.fromkeys([*(path for path in named if path in read or not path.is_dir()), *read]))


def _require_matching(path: Path, latents: Latents, files: WeightSet) -> None:
    """Raise UsageError for latents that are none of pictures, or of another model's generation."""
    if latents.video is None:
        raise UsageError(f"{path} holds no video latent; give the latents of a clip with pictures.")
    generations = [generation.name for generation in next(roles.parts_of(files.checkpoint)).generations]
    if latents.generation and generations and latents.generation not in generations:
        raise UsageError(
            f"{path} holds latents of generation {latents.generation}, the checkpoint is {' or '.join(generations)}; "
            "give the checkpoint that made them."
        )
