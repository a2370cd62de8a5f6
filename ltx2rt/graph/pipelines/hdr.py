"""The HDR pipeline: a clip, or EXR frames, to high dynamic range with a distilled checkpoint and an IC-LoRA."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction

from ltx2rt.errors import UsageError
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.diffusion.conditioning import AppendKeyframe, AppendReferenceVideo, GeneratedKeyframes
from ltx2rt.graph.diffusion.latent_state import VideoTarget, generated_keyframes, video_latent
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.schedules import distilled_sigmas
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines.checks import check_inputs, check_planes, no_keyframes
from ltx2rt.graph.pipelines.dfr_plan import canvas_of
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import CLIP_COLOURS, HDR_INPUT, RATE, Settings
from ltx2rt.graph.stages.decode.stage import KeyFramePlanes, decode_video
from ltx2rt.graph.stages.denoise.stage import Sampling, denoise
from ltx2rt.graph.stages.denoise.states import VideoItem, video_state
from ltx2rt.graph.stages.encode.stage import encode_pixels
from ltx2rt.graph.stages.hdr_inputs import open_hdr_input
from ltx2rt.graph.stages.inputs import GenerationInputs, HdrInput, Media
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import video_scale, video_shape
from ltx2rt.graph.stages.text.stage import positive_context
from ltx2rt.graph.stages.weight_set import WeightSet
from ltx2rt.spelling import spelled
from ltx2rt.types import Array

log = logging.getLogger(__name__)

# Above so many pixels the official code encodes in tiles.
_ENCODED_WHOLE_PIXELS = 512 * 768
# The transformer is told this rate of every faster clip.
_FASTEST_RATE = Fraction(30)


def seams(num_frames: int) -> tuple[int, ...]:
    """Frames of a clip that get a key frame: where DFR has one, within the clip."""
    return tuple(slot for slot in canvas_of(num_frames).slots if slot < num_frames) if num_frames > 1 else ()


def open_media(settings: Settings, files: WeightSet) -> Media:
    """The input as the model sees it."""
    return open_hdr_input(settings, files, seams)


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    if inputs.context is None:
        raise UsageError(
            f"{PIPELINE.name} reads no prompt but the contexts that its IC-LoRA comes with; give them with "
            f"{spelled('embedding', 'FILE')}."
        )
    if inputs.prompt.strip():
        raise UsageError(f"{PIPELINE.name} reads no prompt; leave {spelled('prompt')} out.")
    check_inputs(inputs, files, stages=1)
    if not files.loras:
        raise UsageError(f"{PIPELINE.name} needs its IC-LoRA; give it with --hdr-lora FILE, in Python with loras.")
    hdr = inputs.media.hdr
    assert hdr is not None  # it has been opened
    if inputs.settings.seam_keyframes and not hdr.seams:
        log.info("a clip of %d frames has no seams: no key frames are made", inputs.num_frames)
    if not hdr.seams:
        return
    named = spelled("seam_keyframes")
    if said := no_keyframes(files):
        raise UsageError(f"key frames at the seams: {said}; give {named}, which does without.")
    if not inputs.settings.latents_only:
        check_planes(files, "those at the seams only guide the transformer", f"give {named}, which does without")


def generate(run: Run) -> GeneratedClip:
    """One stage without sound. Every seam has a guide, its own picture of the input, and a key frame that is made.

    Source: Lightricks/LTX-2 ltx_pipelines/hdr_ic_lora.py @ 1.4.
    """
    inputs, hdr = run.inputs, run.inputs.media.hdr
    assert hdr is not None
    if not run.planning:
        for line in hdr.words:
            log.warning("%s", line)
    context = positive_context(run)
    target = _target(run)
    sampling = Sampling(distilled_sigmas(), run.files.loras)
    reference, *guides = _encoded(run, hdr)
    strength = inputs.settings.keyframe_strength
    items: list[VideoItem] = [AppendReferenceVideo(reference)]
    items += [AppendKeyframe(latent, place, strength) for latent, place in zip(guides, hdr.seams, strict=True)]
    if hdr.seams:
        items.append(GeneratedKeyframes(hdr.seams))
    start = video_state(run, target, noise_scale=sampling.noise_scale, initial=reference, items=items)
    state, _ = denoise(run, "denoise", sampling, start, None, context)
    assert state is not None
    video = video_latent(state, target)
    planes = generated_keyframes(state, target)
    keyframes = None if planes is None else KeyFramePlanes(planes, hdr.seams)
    # The official code draws the decoder's noise from a generator of its own, with the same seed.
    noise = None if inputs.settings.noise is not None else run.seeded_noise(0)
    frames = None
    if not inputs.settings.latents_only:
        frames = _as_input(decode_video(run, video, keyframes, noise=noise), hdr)
    return GeneratedClip(
        frames=frames,
        audio=None,
        sample_rate=0,
        frame_rate=inputs.frame_rate,
        num_frames=(inputs.num_frames - 1) // hdr.every + 1,
        height=hdr.height,
        width=hdr.width,
        video_latent=video,
    )


def _target(run: Run) -> VideoTarget:
    inputs = run.inputs
    rate = min(inputs.frame_rate, _FASTEST_RATE)
    shape = video_shape(run.files, inputs, inputs.height, inputs.width)
    return VideoTarget(shape, float(rate), video_scale(run.files.config(VIDEO_VAE)))


def _encoded(run: Run, hdr: HdrInput) -> list[Float32Array]:
    """Latents of the input and of its frames at the seams, each of these as a clip of one frame."""
    height, width, tiling = run.inputs.height, run.inputs.width, None
    if height * width > _ENCODED_WHOLE_PIXELS:
        tiling = Tiling.auto(height, width, run.files.config(VIDEO_VAE).spatial_factor)
    clips = [hdr.frames, *(hdr.frames.selected([place]) for place in hdr.seams)]
    return encode_pixels(run, "video encoder", clips, hdr.reading_bytes, tiling)


def _as_input(decode: Callable[[], Iterator[Array]], hdr: HdrInput) -> Callable[[], Iterator[Array]]:
    """The frames that the input has, at its size."""

    def frames() -> Iterator[Array]:
        count = 0
        for chunk in decode():
            kept = chunk[-count % hdr.every :: hdr.every, : hdr.height, : hdr.width]
            count += len(chunk)
            if len(kept):
                yield kept

    return frames


PIPELINE = PipelineEntry(
    name="hdr",
    summary="a clip, or EXR frames, to high dynamic range, without sound",
    checkpoint="distilled, with HDR IC-LoRA",
    size="that of the input",
    example="--pipeline hdr --input {clip} --no-gemma --no-keyframes",
    open_media=open_media,
    files=("loras",),
    variant="distilled",
    silent=True,
    aliases=("hdr-ic-lora",),
    topics=frozenset({HDR_INPUT, RATE, CLIP_COLOURS}),
    check=check,
    generate=generate,
)
