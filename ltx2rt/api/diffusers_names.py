"""What the arguments of diffusers' LTX-2 pipelines are called here: for errors and for docs/python.md."""

from __future__ import annotations

# diffusers' name -> what is said instead. Source: diffusers LTX2Pipeline and its siblings, 0.36.
DIFFUSERS_NAMES = {
    "guidance_scale": "here it is video_cfg_guidance_scale, and audio_cfg_guidance_scale for the sound.",
    "stg_scale": "here it is video_stg_guidance_scale, and audio_stg_guidance_scale for the sound.",
    "modality_scale": "here it is a2v_guidance_scale, and v2a_guidance_scale for the sound.",
    "guidance_rescale": "here it is video_rescale_scale, and audio_rescale_scale for the sound.",
    "audio_guidance_scale": "here it is audio_cfg_guidance_scale.",
    "audio_stg_scale": "here it is audio_stg_guidance_scale.",
    "audio_modality_scale": "here it is v2a_guidance_scale.",
    "audio_guidance_rescale": "here it is audio_rescale_scale.",
    "spatio_temporal_guidance_blocks": "here it is video_stg_blocks, and audio_stg_blocks for the sound.",
    "image": "here it is images, a list; each a path, a PIL image, an array or an ImageInput.",
    "conditions": "here they are images, each an ImageInput(image, frame_index, strength).",
    "video": "here it is video_path for clips that are edited, video_conditioning for control videos, reference_video "
    "for dubbing.",
    "generator": "here a seed decides the noise, seed=10, as torch.Generator('cpu').manual_seed(10) does there.",
    "prompt_embeds": "here it is embedding, a file or what ltx2rt.encode gives.",
    "negative_prompt_embeds": "here the embedding that ltx2rt.encode gives holds that of the negative prompt, too.",
    "prompt_attention_mask": "here an embedding needs no mask: connectors fill it with registers.",
    "output_type": "here a clip gives frames as arrays, clip.frames, and files, clip.save(path).",
    "return_dict": "here a call always gives a Clip.",
    "num_videos_per_prompt": "here a list of prompts, or calls with other seeds, give several clips.",
    "callback_on_step_end": "here it is observer, called with every event; raise ltx2rt.Cancelled from it to stop.",
    "sigmas": "here the schedule is that of the pipeline; num_inference_steps sets its length.",
    "timesteps": "here the schedule is that of the pipeline; num_inference_steps sets its length.",
    "callback_on_step_end_tensor_inputs": "here the event StepDone holds the latents of video and sound.",
    "callback": "here it is observer, called with every event.",
    "conditioning_strength": "here every ImageInput has a strength.",
    "audio": "here it is audio_path.",
    "max_sequence_length": "here prompts have up to 1024 tokens.",
    "noise_scale": "here it follows from the schedule.",
    "decode_timestep": "here it is a constant of the video decoder, as in the official code.",
    "decode_noise_scale": "here it is a constant of the video decoder, as in the official code.",
    "attention_kwargs": "here LoRAs are given to ltx2rt.load(loras=...).",
    "use_cross_timestep": "here the checkpoint's configuration says it.",
    "system_prompt": "here enhance_prompt=True has instructions of its own.",
}

# What other programs call the arguments of `load`.
LOADING_NAMES = {
    "pretrained_model_name_or_path": "here it is checkpoint, a file or folder.",
    "path": "here it is checkpoint, a file or folder.",
    "model": "here it is checkpoint, a file or folder.",
    "torch_dtype": "here it is dtype, 'bfloat16', 'float16' or 'float32'.",
    "variant": "here it is model_variant, 'distilled' or 'dev'.",
    "vae": "here it is video_vae, a file, where it is no part of checkpoint.",
    "scheduler": "here the pipeline has its own.",
    "latent_upsampler": "here it is spatial_upscaler, and temporal_upscaler for the frame rate.",
    "adapter_path": "here it is loras, a list of files.",
    "device_map": "here the device is the one that MLX uses; budgets are given to a call, memory='12GB'.",
    "quantization_config": "here weights are used as their file stores them; give a quantised checkpoint.",
}
