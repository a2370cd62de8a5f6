"""The keyframe pipeline: a clip between images that are all shown as appended key frames, in two stages."""

from __future__ import annotations

from ltx2rt.errors import UsageError
from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling, guided_sampling
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.text.stage import guided_contexts


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=64, upscaler=True, guided=True, distilled_lora=True)
    if not request.images:
        raise UsageError("keyframe interpolation needs at least one key frame; give --image PATH FRAME STRENGTH.")
    frames = [image.frame_index for image in request.images]
    repeated = sorted({frame for frame in frames if frames.count(frame) > 1})
    if repeated:
        raise UsageError(f"two key frames stand at frame {repeated[0]}; give each its own frame index.")


def generate(run: Run) -> GeneratedClip:
    """Source: Lightricks/LTX-2 ltx_pipelines/keyframe_interpolation.py @ v1.2.0."""
    request, files = run.request, run.files
    conditions = Conditions(*guided_contexts(run), append_all_images=True)
    guided = guided_sampling(
        request,
        files.loras,
        video_guider=request.video_guider,
        audio_guider=request.audio_guider,
    )
    first = first_stage(run, guided, conditions)
    refine = Sampling(distilled_stage_2_sigmas(), (*files.loras, *files.distilled_lora))
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, final.audio)
