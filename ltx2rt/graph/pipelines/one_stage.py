"""The one-stage pipeline: guided sampling of a dev checkpoint at full size."""

from __future__ import annotations

from ltx2rt.graph.diffusion.latent_state import audio_latent, generated_keyframes, video_latent
from ltx2rt.graph.pipelines.checks import check_inputs
from ltx2rt.graph.pipelines.pipeline import PipelineEntry
from ltx2rt.graph.settings.settings import DURATION, GENERATED_KEYFRAMES, GUIDANCE, NEW_CLIP
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state, image_items, keyframe_items, video_state
from ltx2rt.graph.stages.encode.stage import encode_images
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts
from ltx2rt.graph.stages.weight_set import WeightSet


def check(inputs: GenerationInputs, files: WeightSet) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_inputs(inputs, files, stages=1, guided=True)


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_one_stage.py @ v1.2.0."""
    inputs = run.inputs
    positive, negative = guided_contexts(run)
    video_target, audio_target = targets(run, inputs.height, inputs.width)
    sampling = guided_sampling(
        inputs,
        run.files.loras,
        video_guider=inputs.video_guider,
        audio_guider=inputs.audio_guider,
    )
    images = encode_images(run, "image encoder", inputs.height, inputs.width)
    items = [*image_items(inputs.media.images, images), *keyframe_items(run)]
    start = video_state(run, video_target, noise_scale=sampling.noise_scale, items=items)
    sound = audio_state(run, audio_target, noise_scale=sampling.noise_scale)
    video, audio = denoise(run, "denoise", sampling, start, sound, positive, negative)
    assert video is not None
    assert audio is not None
    return finish(
        run,
        video_latent(video, video_target),
        audio_latent(audio, audio_target),
        keyframes=generated_keyframes(video, video_target),
    )


PIPELINE = PipelineEntry(
    name="one-stage",
    summary="guided sampling at full size: CFG, spatio-temporal and modality guidance",
    checkpoint="dev",
    size="multiples of 32",
    example='--pipeline one-stage --prompt "a red circle moves left"',
    aliases=("ti2vid-one-stage",),
    automatic=True,
    topics=NEW_CLIP | {DURATION, GENERATED_KEYFRAMES} | GUIDANCE,
    check=check,
    generate=generate,
)
