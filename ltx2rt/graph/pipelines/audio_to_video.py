"""The audio-to-video pipeline: given sound, kept as it is, drives the video; two stages."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, guided_sampling
from ltx2rt.graph.stages.encode.stage import encode_sound
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import PromptContext, Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=64, upscaler=True, guided=True, distilled_lora=True)
    if request.sound is None:
        raise UsageError("audio-to-video needs sound; give --audio-path FILE.")


def generate(run: Run) -> GeneratedClip:
    """The original waveform accompanies the clip, not the decoded one.

    Source: Lightricks/LTX-2 ltx_pipelines/a2vid_two_stage.py @ v1.2.0.
    """
    request, files = run.request, run.files
    assert request.sound is not None
    positive, negative = guided_contexts(run)
    if negative is not None:
        # The sound is not guided; in the unconditional pass it keeps the prompt.
        negative = PromptContext(negative.video, positive.audio)
    _, audio_target = targets(request, request.height, request.width)
    sound = encode_sound(run, request.sound, audio_target.shape.frames)
    conditions = Conditions(positive, negative, sound=sound)
    guided = guided_sampling(request, files.loras, video_guider=request.video_guider)
    first = first_stage(run, guided, conditions)
    refine = Sampling(distilled_stage_2_sigmas(), (*files.loras, *files.distilled_lora))
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, None, waveform=request.sound.waveform, sample_rate=request.sound.sample_rate)
