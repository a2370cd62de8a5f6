"""Golden cases of the DFR pipeline: its plans, the sound of its parts, and runs that were saved pass by pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.statistics import LatentStatistics, statistics_specs
from ltx2rt.graph.pipelines.dfr_plan import Part, canvas_of, doubled, parts_of_round, sound_of_part
from ltx2rt.graph.stages.enlarged_keyframes import as_bytes, enlarged_picture
from ltx2rt.graph.stages.events import Event, KeyFrameDecoded, LatentUpscaled, VideoDecodeStarted, VideoEncoded
from ltx2rt.kernels.host import from_numbers, to_numpy
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.saved_run import holds_passes, pipeline_of
from ltx2rt.verify.stage_passes import PassesRun, check_audio, check_frames, check_pass, saved_parts

_EXACT = {"atol": 0.0}
_LATENT = {"atol": 5e-4}
_PIXEL = {"atol": 1e-3}
# Of latents that pass through pictures of bytes: a value in the middle between two levels may become either. One level
# in a few places moves a latent by 1e-3.
_THROUGH_BYTES = {"atol": 5e-3}
# The saved sound was resampled with places in float32.
_RESAMPLED = {"atol": 2e-5, "rtol": 1e-4}
_WINDOW = re.compile(r"audio_window\.origin(\d+)_frames(\d+)_fps(\d+)_cond(\d+)_dur([\d.]+)")
_LATENTS_PER_SECOND = 25
# An epilogue's passes are saved in files of their own, numbered from 0.
_EPILOGUE = "_epilogue"
_PASSES_OF_STAGES, _PHASES = 2, 2


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of ``plans_*``, ``seams_*`` and saved runs of DFR."""
    stem, keys = golden.path.stem, golden.keys()
    if stem.startswith("plans_") and "dfr" in keys:
        yield Case(f"{golden.name}/dfr", partial(_plans, golden))
    elif stem.startswith("seams_") and any(_WINDOW.fullmatch(key) for key in keys):
        yield Case(f"{golden.name}/audio_window", partial(_windows, golden))
    elif holds_passes(golden) and pipeline_of(golden) == "dfr":
        run = PassesRun(golden)
        yield Case(f"{golden.name}/saved", partial(_saved, golden, run))
        for index in run.saved_passes:
            yield Case(f"{golden.name}/pass.{index:02d}", partial(_pass, golden, run, index))
        parts = (
            ("epilogue", "epilogue.", _epilogue),
            ("latents", ("final_latent", "audio_latent"), _latents),
            ("audio", ("audio_samples", "audio_seam", "audio_waveform"), check_audio),
            ("frames", "video_", check_frames),
        )
        yield from saved_parts(golden, run, parts)


def _plans(golden: GoldenFile) -> Iterator[Check]:
    for entry in golden.entry("dfr"):
        name = f"{entry['frames']} frames, {entry['rounds']} rounds"
        yield from _plan(name, entry["frames"], entry["rounds"], entry["plan"])


def _plan(name: str, frames: int, rounds: int, saved: Mapping[str, Any]) -> Iterator[Check]:
    """Our plan beside a saved one."""
    canvas = canvas_of(frames)
    planes: tuple[int, ...] = canvas.slots
    yield _numbers(f"{name}: clip, canvas, segment", [frames, canvas.frames, canvas.slots[0]], _of(saved))
    yield _numbers(f"{name}: slots", canvas.slots, saved["slots"])
    yield _numbers(f"{name}: frames", doubled(frames, rounds), saved["target"])
    yield _numbers(f"{name}: rounds", rounds, len(saved["rounds"]))
    for number, of_round in enumerate(saved["rounds"], 1):
        seams = tuple(2 * plane for plane in planes)
        parts = parts_of_round(seams, number)
        planes = tuple(sorted({*seams, *(slot for part in parts for slot in part.slots)}))
        told = f"{name}: round {number}"
        yield _numbers(f"{told}: frames", doubled(canvas.frames, number), of_round["frames"])
        yield _numbers(f"{told}: seams", seams, of_round["seams"])
        yield _numbers(f"{told}: planes", planes, of_round["planes"])
        yield _numbers(f"{told}: parts", len(parts), len(of_round["tiles"]))
        for index, (part, tile) in enumerate(zip(parts, of_round["tiles"], strict=False)):
            yield from _part(f"{told}: part {index}", part, tile)


def _of(saved: Mapping[str, Any]) -> list[int]:
    return [saved["requested"], saved["canvas"], saved["segment"]]


def _part(name: str, part: Part, saved: Mapping[str, Any]) -> Iterator[Check]:
    ends = [saved[key] for key in ("start", "end", "pixel_start", "pixel_end")]
    yield _numbers(f"{name}: ends", [part.start, part.end, part.first_frame, part.last_frame], ends)
    yield _numbers(f"{name}: anchors", part.anchors, saved["anchors"])
    yield _numbers(f"{name}: slots", part.slots, saved["slots"])
    prefix: Iterable[int] = () if part.prefix is None else vars(part.prefix).values()
    keys = ("keyframe", "video_start", "cells", "resume")
    yield _numbers(f"{name}: prefix", list(prefix), [saved["prefix"][key] for key in keys] if saved["prefix"] else [])


def _numbers(name: str, actual: Any, saved: Any) -> Check:
    return Check(name, from_numbers(actual), from_numbers(saved), **_EXACT)


def _windows(golden: GoldenFile) -> Iterator[Check]:
    sound = _tokens(golden.given("audio_window.in"))
    keys = golden.keys()
    for key in keys:
        if found := _WINDOW.fullmatch(key):
            origin, frames, rate, told = (int(number) for number in found.groups()[:4])
            count = round(frames / told * _LATENTS_PER_SECOND)
            duration = Fraction(found[5]).limit_denominator(1000)
            window = sound_of_part(sound, origin, frames, Fraction(rate), duration, count)
            yield Check(key, window, _tokens(golden.expected(key)), **_RESAMPLED)


def _tokens(latent: Array) -> Array:
    """As saved, (1, 8, L, 16), to tokens (1, L, 128)."""
    tokens: Array = latent.transpose(0, 2, 1, 3).reshape(1, latent.shape[2], -1)
    return tokens


def _first_pass(golden: GoldenFile) -> int:
    """Of our run, the pass that was saved under the number 0."""
    if _EPILOGUE not in golden.path.stem:
        return 0
    return _PASSES_OF_STAGES + sum(len(of_round["tiles"]) for of_round in golden.metadata["plan"]["rounds"])


def _saved(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    """The plan, how many passes there were, and what the frames were decoded with."""
    plan, settings = golden.metadata["plan"], run.inputs.settings
    yield from _plan("plan", run.inputs.num_frames, settings.temporal_upscalings, plan)
    parts = [len(of_round["tiles"]) for of_round in plan["rounds"]]
    windows = (parts[-1] if parts else 1) if settings.spatial_upscalings == 2 else 0
    passes = _PASSES_OF_STAGES + sum(parts) + _PHASES * windows
    yield _numbers("number of passes", len(run.passes), passes)
    assert run.chunks
    (started,) = _all(run, VideoDecodeStarted)
    yield _numbers("decode planes", started.keyframes, golden.metadata["decode_planes"])


def _pass(golden: GoldenFile, run: PassesRun, index: int) -> Iterator[Check]:
    return check_pass(golden, run, index, _first_pass(golden))


def _latents(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    assert run.clip.video_latent is not None
    assert run.clip.audio_latent is not None
    if "final_latent" in golden:
        yield golden.check("final_latent", _channels_first(run.clip.video_latent), **_LATENT)
    if "audio_latent" in golden:
        sound = run.clip.audio_latent
        yield Check("audio_latent", sound, _tokens(golden.expected("audio_latent")), **_LATENT)


def _epilogue(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    """What the epilogue starts from, and the key frames on their way through pictures."""
    decoded = _all(run, KeyFrameDecoded)
    carried = golden.metadata["decode_planes"]
    planes = np.concatenate([event.latent for event in decoded], axis=1)
    yield golden.check("epilogue.planes_in", _channels_first(planes[:, : len(carried)]), **_LATENT)
    yield golden.check("epilogue.plane_rgb_first", decoded[0].picture, **_PIXEL)
    larger = enlarged_picture(as_bytes(decoded[0].picture))
    yield golden.check("epilogue.plane_rgb_first_x2", larger, atol=1.0)
    last = next(index for index, event in enumerate(run.events) if event is decoded[-1])
    after = run.events[last:]
    encoded = [event for event in after if isinstance(event, VideoEncoded)][: len(decoded)]
    latents = np.concatenate([to_numpy(event.latent.astype(mx.float32)) for event in encoded], axis=1)
    yield golden.check("epilogue.planes_encoded", _channels_first(latents), **_THROUGH_BYTES)
    vae = run.files.source(VIDEO_VAE)
    specs = statistics_specs(run.vae.latent_channels)
    statistics = LatentStatistics(Params(vae.load(VIDEO_VAE.stored_name, specs)))
    video = to_numpy(statistics.normalise(_all(run, LatentUpscaled)[-1].before))
    yield golden.check("epilogue.video_in", _channels_first(video), **_LATENT)


def _channels_first(latent: Array) -> Array:
    values: Array = latent.transpose(0, 4, 1, 2, 3)
    return values


def _all(run: PassesRun, kind: type[Any]) -> list[Any]:
    found: list[Event] = [event for event in run.events if isinstance(event, kind)]
    return found
