"""The text-to-audio pipeline: guided sampling of the audio stream alone."""

from __future__ import annotations

from dataclasses import replace

from ltx2rt.graph.diffusion.latent_state import audio_latent
from ltx2rt.graph.pipelines.checks import check_request
from ltx2rt.graph.stages.decode.stage import finish
from ltx2rt.graph.stages.denoise.stage import denoise, guided_sampling
from ltx2rt.graph.stages.denoise.states import audio_state
from ltx2rt.graph.stages.model_files import ModelFiles
from ltx2rt.graph.stages.request import Request
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.graph.stages.targets import targets
from ltx2rt.graph.stages.text.stage import guided_contexts

# The size only has to be legal; no video is made.
_UNUSED_SIDE = 64


def check(request: Request, files: ModelFiles) -> None:
    """Raise UsageError or CheckpointError when the run cannot work; loads nothing."""
    check_request(request, files, multiple=None, guided=True)


def generate(run: Run) -> GeneratedClip:
    """The modality scale is 1: there is no video to be isolated from.

    Source: Lightricks/LTX-2 ltx_pipelines/t2a_one_stage.py @ v1.2.0; 19B too, whose audio caption projection that code
    leaves out.
    """
    request = run.request
    positive, negative = guided_contexts(run)
    _, target = targets(request, _UNUSED_SIDE, _UNUSED_SIDE)
    guider = replace(request.audio_guider, modality_scale=1.0)
    sampling = guided_sampling(request, run.files.loras, audio_guider=guider)
    start = audio_state(run, target, noise_scale=sampling.noise_scale)
    _, audio = denoise(run, "denoise", sampling, None, start, positive, negative)
    assert audio is not None
    return finish(run, None, audio_latent(audio, target))
