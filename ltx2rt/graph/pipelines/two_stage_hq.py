"""The high-quality two-stage pipeline: the second-order res_2s sampler and the distilled LoRA in both stages."""

from __future__ import annotations

from ltx2rt.graph.diffusion.schedules import distilled_stage_2_sigmas, ltx2_sigmas
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.pipelines.refinement import Conditions, first_stage, second_stage
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import Sampling
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=64, upscaler=True, guided=True, distilled_lora=True)


def generate(run: Run) -> GeneratedClip:
    """The strength given with the distilled LoRA is not used; each stage has its own.

    Source: Lightricks/LTX-2 ltx_pipelines/ti2vid_two_stages_hq.py @ v1.2.0.
    """
    request, files = run.request, run.files
    conditions = Conditions(*guided_contexts(run))
    video_target, _ = targets(request, request.height // 2, request.width // 2)
    strength_1, strength_2 = request.distilled_lora_strengths
    guided = Sampling(
        ltx2_sigmas(request.num_inference_steps, tokens=video_target.shape.tokens),
        (*files.loras, *((lora, strength_1) for lora, _ in files.distilled_lora)),
        sampler="res_2s",
        video_guider=request.video_guider,
        audio_guider=request.audio_guider,
    )
    first = first_stage(run, guided, conditions)
    refine = Sampling(
        distilled_stage_2_sigmas(),
        (*files.loras, *((lora, strength_2) for lora, _ in files.distilled_lora)),
        sampler="res_2s",
    )
    final = second_stage(run, refine, conditions, first)
    return finish(run, final.video, first.audio)
