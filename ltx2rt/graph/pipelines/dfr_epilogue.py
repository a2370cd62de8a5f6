"""The round of the DFR pipeline that doubles the size: enlarged as latent and key frames as pictures, then sampled part
by part at full size, in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ltx2rt.graph.components import SPATIAL_UPSCALER
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, AppendReferenceVideo
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.diffusion.tiles import TileGrid
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
    reference_scale,
    with_detail,
)
from ltx2rt.graph.pipelines.dfr_plan import Part, whole
from ltx2rt.graph.pipelines.refinement import distilled_sampler, sample_both
from ltx2rt.graph.stages.decode.stage import resample_latent
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.denoise.states import VideoItem
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.enlarged_keyframes import enlarged_keyframes
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run

# Both phases: their steps of the schedule, and tiles along height and width.
_COARSE, _FINE = (slice(0, 2), 2), (slice(1, None), 4)
# Cells that neighbouring tiles share.
OVERLAP = 10
MOST_TILES = _FINE[1]
# Added to the user's seed: for the noise of the steps, one more for each phase of each part; and for the noise that
# both phases of a part start from, with what every part adds to it.
_STEP_SEED, _START_SEED, _START_SEED_OF_PART = 30_000, 2000, 100


def doubled_size(run: Run, context: PromptContext, film: Film) -> Film:
    """The clip at twice its size. The key frames with which it is to be decoded are those that were enlarged.

    Source: Lightricks/LTX-2 ltx_pipelines/dfr_pipeline.py @ 1.4.
    """
    with carrying(run, *film.latents) as carry:
        larger, opening = _enlarged(run, film)
        carry(*larger.latents, opening)
        parts = film.parts or (whole(film.frames),)
        made: list[tuple[Part, Float32Array]] = []
        for index, part in enumerate(parts):
            within = [frame for frame in larger.keyframes if frame <= part.last_frame]
            items: list[VideoItem] = [
                *part_images(run, larger, part, part.resume),
                *part_keyframes(larger, part, within, 1.0),
                *([AppendKeyframe(opening, 0)] if opening is not None and index == 0 else ()),
                AppendReferenceVideo(film.video[:, part.base : part.end], reference_scale(run)),
                *part_prefix(larger.keyframes, part, made[-1] if made else None),
            ]
            made.append((part, _sampled(run, context, larger, part, (index, len(parts)), items)))
            carry(made[-1][1])
    return replace(larger, video=joined(made))


def _enlarged(run: Run, film: Film) -> tuple[Film, Float32Array | None]:
    """The clip before it is sampled, and its first cell as a key frame, where no image stands there."""
    opens_with_image = any(image.frame_index == 0 for image in run.inputs.media.images)
    opening = [] if opens_with_image else [film.video[:, :1]]
    planes = enlarged_keyframes(run, np.concatenate([*film.keyframes.values(), *opening], axis=1))
    video = resample_latent(run, "spatial upscaler 2", SPATIAL_UPSCALER, film.video)
    keyframes = {frame: planes[:, index : index + 1] for index, frame in enumerate(film.keyframes)}
    images = encode_images(run, "image encoder 3", run.inputs.height, run.inputs.width)
    return replace(film, video=video, keyframes=keyframes, images=images), planes[:, -1:] if opening else None


def _sampled(
    run: Run, context: PromptContext, film: Film, part: Part, place: tuple[int, int], items: Sequence[VideoItem]
) -> Float32Array:
    """What part ``place`` (number and how many there are) becomes, in two phases."""
    index, count = place
    targets = part_targets(run, film, part, *film.video.shape[2:4])
    video = part_video(film.video, film.keyframes, part)
    sound = part_sound(run, film, part, targets[1])
    for phase, (name, (steps, tiles)) in enumerate({"coarse": _COARSE, "fine": _FINE}.items()):
        sampling = Sampling(
            distilled_stage_2_sigmas()[steps],
            with_detail(run),
            distilled_sampler(run, _STEP_SEED + 2 * index + phase),
            tiles=TileGrid.by_count(targets[0].shape, tiles, tiles, OVERLAP),
        )
        video = sample_both(
            run,
            f"full size {index + 1} of {count} {name}",
            sampling,
            (context, None),
            targets,
            items,
            video=video,
            sound=sound,
            keeps_sound=True,
            # The second phase goes on from the first one's noise.
            noise_scale=None if phase == 0 else 0.0,
            noise=run.seeded_noise(_START_SEED + _START_SEED_OF_PART * index),
        ).video
    return video
