"""Every setting of a pipeline call with its type, for editors and type checkers.

Made from `ltx2rt.graph.settings.settings` by tools/make_call_arguments.py; change it there.
"""

# ruff: noqa: E501  (generated)
from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypedDict

import numpy as np

from ltx2rt.graph.diffusion.noise import NoiseSource
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.settings.inputs import IcLoraStage, ImageInput, VideoInput, VideoSource
from ltx2rt.media.images import ImageSource
from ltx2rt.weights.embedding_file import TextEmbedding


class CallArguments(TypedDict, total=False):
    """What a pipeline call takes besides the prompt; None is the default."""

    prompt_file: str | os.PathLike[str] | None
    """text file that holds the prompt, in place of it (default: None)."""

    height: int | None
    """final height in pixels, a multiple of 64 (one stage: 32), 32 or more (default: model)."""

    width: int | None
    """final width in pixels, a multiple of 64 (one stage: 32), 32 or more (default: model)."""

    num_frames: int | None
    """number of frames, 8*k + 1, 1 or more (default: model)."""

    duration: float | None
    """length in seconds in place of a number of frames: the nearest 8*k + 1 (default: None)."""

    chunked: bool | None
    """make a long clip in windows, one after the other, each of which goes on from the one before (default: False)."""

    chunk_pixel_frames: int | None
    """frames of a window, 8*k + 1; turns --chunked on, 1 or more (default: 97)."""

    chunk_carry_frames: int | None
    """frames that a window has from the one before, 8*k + 1, 17 or more; turns --chunked on, 0 or more (default: 25)."""

    chunk_blend_frames: int | None
    """of these, the last ones in which one window is blended into the next; 0 = a cut; turns --chunked on, 0 or more (default: as many as are carried)."""

    auto_duration: tuple[float, float] | None
    """shortest and longest clip in seconds, of a length that LTX-2.5 predicts from the prompt (default: 1 20 where --num-frames is left out and the model has a duration head)."""

    frame_rate: float | Fraction | None
    """frames per second, 24 or 23.976 or 30000/1001 (default: model)."""

    seed: int | str | None
    """seed of the noise, the same as in the official code on a CPU; random (or -1) draws one, which is shown (default: model)."""

    noise: NoiseSource | Sequence[np.ndarray[Any, np.dtype[Any]]] | None
    """the draws themselves in place of a seed: arrays in the order in which a run asks for them, or a source (default: None)."""

    latents: np.ndarray[Any, np.dtype[Any]] | None
    """noise of the video in the first stage, (1, f, h, w, 128), in place of the first draw (default: None)."""

    negative_prompt: str | None
    """what to avoid; the default is in docs/options.md (default: model)."""

    embedding: str | os.PathLike[str] | TextEmbedding | None
    """text embedding file in place of the text encoder (default: None)."""

    zero_text: bool | None
    """zeros in place of the text encoder's output, to test everything else (default: False)."""

    prompt_cache: bool | None
    """neither keep the encoded prompt on disk for later runs nor take it from there (default: True)."""

    enhance_prompt: bool | None
    """let a language model rewrite the prompt first: the text encoder, or --prompt-enhancer-gemma-root (default: False)."""

    enhance_temperature: float | None
    """how freely it writes; 0 = always the likeliest word, 0 or more (default: usual for the language model, see docs/pipelines/ltx-2.5.md)."""

    enhance_top_k: int | None
    """it chooses among so many words; 0 = all, 0 or more (default: usual for the language model, see docs/pipelines/ltx-2.5.md)."""

    enhance_top_p: float | None
    """and among those that together have this probability, 0 to 1 (default: usual for the language model, see docs/pipelines/ltx-2.5.md)."""

    enhance_seed: int | None
    """seed of its choices; where the official code hands on no seed it is 42 (default: seed)."""

    enhance_max_tokens: int | None
    """longest text it writes, 1 or more (default: usual for the language model, see docs/pipelines/ltx-2.5.md)."""

    images: Sequence[ImageInput | ImageSource] | ImageInput | ImageSource | None
    """condition on an image at a pixel frame (default 0) with a strength (default 1.0) (default: ())."""

    num_generated_keyframes: int | Sequence[int] | None
    """single frames that LTX-2.5 makes besides the clip and keeps it close to: how many, or their places as 24,48 (default: 0)."""

    decode_with_keyframes: bool | None
    """let the diffusion decoder look at the generated key frames (default: False)."""

    video_conditioning: Sequence[VideoInput | VideoSource] | VideoInput | VideoSource | None
    """reference (control) video with a strength (default: ())."""

    control_type: str | None
    """what is made of the control videos: canny finds edges, the others take them as they are; one of raw, canny, depth, pose (default: 'raw')."""

    canny_low: int | None
    """gradient down to which an edge continues, 0 or more (default: 100)."""

    canny_high: int | None
    """gradient from which an edge begins, 0 or more (default: 200)."""

    conditioning_attention_mask: str | os.PathLike[str] | None
    """gray video (or picture): white attends to the references, black does not; a strength may follow (default: None)."""

    conditioning_attention_strength: float | None
    """how strongly the clip attends to the references, 0 to 1 (default: 1.0)."""

    reference_downscale_factor: int | None
    """how many times smaller than the clip the references are read, where the IC-LoRA states nothing or another one, 1 or more (default: as the LoRA states, else 1)."""

    skip_stage_2: bool | None
    """stop after the half-size stage (default: False)."""

    stage_2_ic_lora: bool | None
    """LoRAs and references in the full-size stage, too (default: False)."""

    tile: bool | None
    """show the model one tile of the video after the other in every step, which takes less memory (default: False)."""

    tile_height: int | None
    """height of a tile in pixels, a multiple of 32, 64 or more (default: 1024)."""

    tile_width: int | None
    """width of a tile in pixels, a multiple of 32, 64 or more (default: 1536)."""

    stages: Sequence[IcLoraStage] | None
    """the stages themselves, from small to full size, in place of the usual two (default: ())."""

    reference_video: str | os.PathLike[str] | None
    """the clip to dub, with its sound; size aside, the result is like it (default: None)."""

    reference_strength: float | None
    """how closely its pictures are followed, 0 to 1 (default: 1.0)."""

    audio_path: str | os.PathLike[str] | None
    """sound that drives the video (default: None)."""

    audio_start_time: float | None
    """where in the sound to begin (default: 0.0)."""

    audio_max_duration: float | None
    """how much of it to use; the clip is then as long as that, and --num-frames is left out (default: None)."""

    temporal_upscalings: int | None
    """how often DFR doubles the frame rate, sampling the new frames: 0, 1 or 2, 0 to 2 (default: 0)."""

    spatial_upscalings: int | None
    """how often DFR doubles the size: 2 adds a round at full size, in tiles, 1 to 2 (default: 1)."""

    video_path: str | os.PathLike[str] | None
    """the clip to edit (default: None)."""

    fit: str | None
    """how pictures of other proportions come to the size of the clip; one of crop, pad, stretch, error (default: images and control videos: crop; edited clips: pad)."""

    antialias: bool | None
    """reduce large images and control videos as the official code does, which leaves pixels out (default: True)."""

    source_color: str | None
    """what the colours of clips that are read are: bt601, bt709, bt2020, display-p3, hlg, pq; -limited or -full behind it says the range, too (default: as tagged)."""

    input: str | os.PathLike[str] | None
    """what is converted to high dynamic range: an MP4 or MOV file, or a folder of EXR frames (default: None)."""

    input_colorspace: str | None
    """what its colours are; the first one of clips, the last two of EXR frames; one of srgb_gamma, srgb, acescg, acescct (default: 'srgb_gamma')."""

    high_quality: bool | None
    """work on twice the frames, of which every second one is kept: less flicker, twice the time (default: False)."""

    seam_keyframes: bool | None
    """convert without key frames at fixed distances (default: True)."""

    keyframe_strength: float | None
    """how firmly these keep to what is converted, 0 to 1 (default: 0.95)."""

    kept_from: str | None
    """where what an edit keeps comes from: the clip itself, or through the VAE as all else (the official behaviour); one of source, vae (default: 'source')."""

    start_time: float | None
    """where the part begins that is generated anew (default: None)."""

    end_time: float | None
    """where it ends (default: None)."""

    keep_video: bool | None
    """leave the pictures as they are (default: False)."""

    keep_audio: bool | None
    """leave the sound as it is (default: False)."""

    extend_frames: int | None
    """how many frames to add, a multiple of 8 (default: 48)."""

    direction: str | None
    """where to add them; one of after, before (default: 'after')."""

    num_inference_steps: int | None
    """sampler steps; distilled pipelines always take 8 + 3, 1 to 1000 (default: model)."""

    video_cfg_guidance_scale: float | None
    """classifier-free guidance of the video (default: model)."""

    video_stg_guidance_scale: float | None
    """spatio-temporal guidance of the video (default: model)."""

    video_rescale_scale: float | None
    """share of the deviation that guidance gives back to the video (default: model)."""

    video_stg_blocks: Sequence[int] | None
    """transformer blocks of the video's spatio-temporal guidance (default: model)."""

    a2v_guidance_scale: float | None
    """modality guidance of the video (default: model)."""

    video_skip_step: int | None
    """reuse the video's prediction for N steps after each computed one, 0 or more (default: model)."""

    audio_cfg_guidance_scale: float | None
    """classifier-free guidance of the sound (default: model)."""

    audio_stg_guidance_scale: float | None
    """spatio-temporal guidance of the sound (default: model)."""

    audio_rescale_scale: float | None
    """share of the deviation that guidance gives back to the sound (default: model)."""

    audio_stg_blocks: Sequence[int] | None
    """transformer blocks of the sound's spatio-temporal guidance (default: model)."""

    v2a_guidance_scale: float | None
    """modality guidance of the sound (default: model)."""

    audio_skip_step: int | None
    """reuse the sound's prediction for N steps after each computed one, 0 or more (default: model)."""

    max_batch_size: int | None
    """most guidance passes that go through a block together; without it as many as are fastest and fit, 1 to 8 (default: None)."""

    ge_gamma: float | None
    """gradient estimation in place of Euler steps, 2 is usual; 0 = off, 0 to 10 (default: 0.0)."""

    apg_scale: float | None
    """adaptive projected guidance in place of CFG; 1 = off (default: 1.0)."""

    apg_eta: float | None
    """weight of its part along the prediction (default: 1.0)."""

    apg_norm_threshold: float | None
    """largest norm of its difference; 0 = no limit (default: 0.0)."""

    apg_momentum: float | None
    """weight of the differences of earlier steps (default: 0.0)."""

    distilled_lora_strength_stage_1: float | None
    """strength of the distilled LoRA in the first stage (default: 0.25)."""

    distilled_lora_strength_stage_2: float | None
    """strength of the distilled LoRA in the second stage (default: 0.5)."""

    activations: str | None
    """what 8-bit weights of the transformer are multiplied with: activations as they are, or rows of them as 8-bit codes, which is faster where processors have such products; one of float, int8 (default: 'float')."""

    latents_only: bool | None
    """make latents only, see --save-latents (default: False)."""

    hdr: str | None
    """take the frames as ACEScct: the clip becomes an HLG master with EXR frames of this colour space beside it, in which EXR frames that are read are, too; one of acescg, acescct, srgb_linear (default: None)."""

    exr_colorspace: str | None
    """colour space of the EXR frames beside the master; one of acescg, acescct, srgb_linear (default: 'acescg')."""

    upscale_spatial: bool | None
    """enlarge the final latent with the spatial upscaler, unrefined (default: False)."""

    upscale_temporal: bool | None
    """double the frame rate with the temporal upscaler, unrefined (default: False)."""

    tiling: Tiling | str | None
    """video decoder tiles: auto (by size), none, or SPATIAL/OVERLAP[,FRAMES/OVERLAP] (default: 'auto')."""
