"""Rounds of the DFR pipeline that double the frame rate: upscaled in time, then sampled part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltx2rt.graph.components import TEMPORAL_UPSCALER
from ltx2rt.graph.diffusion.conditioning import GeneratedKeyframes
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.samplers import AncestralEuler
from ltx2rt.graph.diffusion.schedules import distilled_sigmas
from ltx2rt.graph.pipelines.dfr_pass import (
    Film,
    carrying,
    joined,
    part_images,
    part_keyframes,
    part_prefix,
    part_sound,
    part_targets,
    part_video,
    with_keyframes,
)
from ltx2rt.graph.pipelines.dfr_plan import CELL_FRAMES, Part, parts_of_round
from ltx2rt.graph.pipelines.refinement import sample_both
from ltx2rt.graph.stages.decode.stage import resample_latent
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run

# Where in the distilled schedule a round begins.
_FIRST_SIGMA = 4
STEPS_OF_PART = len(distilled_sigmas()) - 1 - _FIRST_SIGMA
# Of models of every version.
_ETA = 0.5
# Added to the user's seed for the noise of the steps, for every round; one more for every part.
_ROUND_SEED = 1000
# How firmly the key frames that are there hold the clip.
_ANCHOR_STRENGTH = 0.95


def doubled_rate(run: Run, context: PromptContext, film: Film) -> Film:
    """The clip at twice its frame rate, with a key frame in the middle of every two that it had.

    Source: Lightricks/LTX-2 ltx_pipelines/dfr_pipeline.py @ 1.4.
    """
    number = film.rounds + 1
    with carrying(run, *film.latents) as carry:
        video = resample_latent(run, f"temporal upscaler {number}", TEMPORAL_UPSCALER, film.video)
        carry(video)
        keyframes = {2 * frame: latent for frame, latent in film.keyframes.items()}
        parts = parts_of_round(tuple(keyframes), number)
        film = replace(film, rounds=number, video=video, keyframes=keyframes, parts=parts)
        made: list[tuple[Part, Float32Array]] = []
        for index, part in enumerate(parts):
            sampling = Sampling(
                distilled_sigmas()[_FIRST_SIGMA:], run.files.loras, AncestralEuler(_ROUND_SEED * number + index, _ETA)
            )
            name = f"round {number} part {index + 1} of {len(parts)}"
            video, slots = _sampled(run, name, sampling, context, film, part, made)
            made.append((part, video))
            film = with_keyframes(film, slots)
            carry(video, *slots.values())
    return replace(film, video=joined(made))


def _sampled(
    run: Run,
    name: str,
    sampling: Sampling,
    context: PromptContext,
    film: Film,
    part: Part,
    made: Sequence[tuple[Part, Float32Array]],
) -> tuple[Float32Array, dict[int, Float32Array]]:
    """What a part becomes, after the parts before it are ``made``, and the key frames in its slots."""
    height, width = film.video.shape[2:4]
    targets = part_targets(run, film, part, height, width)
    video = part_video(film.video, film.keyframes, part)
    local = tuple(frame - part.origin for frame in part.slots)
    started_from = [min(max(round(frame / CELL_FRAMES), 0), part.cells - 1) for frame in local]
    items: list[VideoItem] = [
        *part_images(run, film, part, part.origin),
        *part_keyframes(film, part, part.anchors, _ANCHOR_STRENGTH),
        GeneratedKeyframes(local, video[:, started_from]),
        *part_prefix(film.keyframes, part, made[-1] if made else None),
    ]
    sound = part_sound(run, film, part, targets[1])
    sampled = sample_both(
        run, name, sampling, (context, None), targets, items, video=video, sound=sound, keeps_sound=True
    )
    assert sampled.keyframes is not None
    slots = {frame: sampled.keyframes[:, index : index + 1] for index, frame in enumerate(part.slots)}
    return sampled.video, slots
