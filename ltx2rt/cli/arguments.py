"""From parsed options to what the Python interface is called with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ltx2rt.api import ImageInput, OutputOptions, VideoInput
from ltx2rt.cli.flag import Flag
from ltx2rt.cli.flags import FLAGS
from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae.tiling import Tiling

KEYFRAME_STRENGTH = 0.95
CONTROL_STRENGTH = 0.95
SECOND_STAGE_STEPS = 3
TILED_VAE = Tiling.of(spatial=(512, 64), temporal=(64, 24))


@dataclass(frozen=True)
class Command:
    """What a command line asks for.

    Attributes:
        files: arguments of `ltx2rt.api.load`.
        settings: arguments of the pipeline call.
        output: how the clip is written.
    """

    files: Mapping[str, Any]
    settings: Mapping[str, Any]
    output: OutputOptions

    @property
    def pipeline(self) -> str:
        """As the user named it."""
        return str(self.files.get("pipeline", "text-to-video"))


def command_of(arguments: argparse.Namespace) -> Command:
    """Expand shorthands, refuse what contradicts itself, and sort the rest by whom it concerns.

    Raises:
        UsageError: options that are refused, contradict each other or have a wrong number of values.
    """
    for flag in FLAGS:
        if flag.target == "refused" and getattr(arguments, flag.dest) is not None:
            raise UsageError(f"{flag.names[0]} is refused: {flag.why}.")
    values = {
        target: {
            flag.name: getattr(arguments, flag.dest)
            for flag in FLAGS
            if flag.target == target and getattr(arguments, flag.dest) is not None
        }
        for target in ("files", "settings", "output")
    }
    files, settings, output = values["files"], values["settings"], values["output"]
    _add_prompt(settings, arguments)
    _add_weights(files, arguments)
    _add_images(settings, arguments)
    _add_controls(files, settings, arguments)
    _add_guidance(settings, arguments)
    if arguments.tiled_vae:
        _set(settings, "tiling", TILED_VAE, "--tiled-vae", "--tiling")
    options = OutputOptions(**{e.name: output[e.name] for e in fields(OutputOptions) if e.name in output})
    command = Command(files, settings, options)
    _check_shorthands(command, arguments)
    return command


def effectless(arguments: argparse.Namespace) -> list[Flag]:
    """The given options that change nothing."""
    return [flag for flag in FLAGS if flag.target == "inert" and getattr(arguments, flag.dest) is not None]


def spelling() -> dict[str, str]:
    """Setting -> the option that sets it, for errors."""
    return {flag.name: flag.names[0] for flag in FLAGS if flag.target == "settings"}


def _add_prompt(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.positional_prompt is not None:
        _set(settings, "prompt", arguments.positional_prompt, "the prompt without an option's name", "--prompt")
    given = [name for name in ("prompt", "embedding", "no_gemma") if settings.get(name) is not None]
    if not given:
        raise UsageError("--prompt is missing; say what to generate, or give a text embedding with --embedding.")


def _add_weights(files: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.distilled_checkpoint_path is not None:
        _set(
            files, "checkpoint", arguments.distilled_checkpoint_path, "--distilled-checkpoint-path", "--checkpoint-path"
        )
        _set(files, "model_variant", "distilled", "--distilled-checkpoint-path", "--model-variant")
    for given, dtype, name in ((arguments.fp16, "float16", "--fp16"), (arguments.fp32, "float32", "--fp32")):
        if given:
            _set(files, "dtype", dtype, name, "--dtype or another of its short forms")
    strength = 1.0 if arguments.lora_strength is None else arguments.lora_strength
    loras = [lora(values, "--lora", strength) for values in files.get("loras", ())]
    if arguments.lora_strength is not None and not loras and arguments.ic_lora_weights is None:
        raise UsageError("--lora-strength goes with --lora, which is missing; give the LoRA file.")
    if arguments.ic_lora_weights is not None:
        loras.append((arguments.ic_lora_weights, strength))
    if loras:
        files["loras"] = loras
    scale = 1.0 if arguments.distilled_lora_scale is None else arguments.distilled_lora_scale
    if "distilled_lora" in files:
        files["distilled_lora"] = lora(files["distilled_lora"], "--distilled-lora", scale)
    elif arguments.distilled_lora_scale is not None:
        raise UsageError("--distilled-lora-scale goes with --distilled-lora, which is missing; give the LoRA file.")
    with_checkpoint = ("text_encoder", "spatial_upscaler", "loras", "distilled_lora", "model_variant")
    if "checkpoint" not in files and any(name in files for name in with_checkpoint):
        raise UsageError(
            "--gemma-root, --spatial-upsampler-path, --lora, --distilled-lora and --model-variant go with "
            "--checkpoint-path, which is missing; give the model's .safetensors file."
        )


def _add_images(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    strength = 1.0 if arguments.image_strength is None else arguments.image_strength
    images = [image(values, strength) for values in settings.get("images", ())]
    if arguments.image_strength is not None and not images:
        raise UsageError("--image-strength goes with --image, which is missing; give the image.")
    images += [keyframe(text) for text in arguments.keyframe or ()]
    if images:
        settings["images"] = images


def _add_controls(files: dict[str, Any], settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    videos = []
    for values in settings.get("video_conditioning", ()):
        path, strength = _path_and_number(values, "--video-conditioning", 1.0)
        videos.append(VideoInput(path, strength))
    if arguments.control_video is not None:
        strength = CONTROL_STRENGTH if arguments.control_strength is None else arguments.control_strength
        videos.append(VideoInput(arguments.control_video, strength))
    elif arguments.control_strength is not None:
        raise UsageError("--control-strength goes with --control-video, which is missing; give the video.")
    if videos:
        settings["video_conditioning"] = videos
    mask = settings.get("conditioning_attention_mask")
    if mask is not None:
        path, strength = _path_and_number(mask, "--conditioning-attention-mask", None)
        settings["conditioning_attention_mask"] = path
        if strength is not None:
            _set(
                settings,
                "conditioning_attention_strength",
                strength,
                "the strength of --conditioning-attention-mask",
                "--conditioning-attention-strength",
            )


def _add_guidance(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.guidance_rescale is not None:
        for name in ("video_rescale_scale", "audio_rescale_scale"):
            _set(settings, name, arguments.guidance_rescale, "--guidance-rescale", f"--{name.replace('_', '-')}")
    if arguments.stg_scale is not None:
        mode = arguments.stg_mode or "video"
        for stream in ("video", "audio"):
            scale = arguments.stg_scale if mode in (stream, "both") else 0.0
            name = f"{stream}_stg_guidance_scale"
            _set(settings, name, scale, "--stg-scale", f"--{name.replace('_', '-')}")
    elif arguments.stg_mode is not None:
        raise UsageError("--stg-mode goes with --stg-scale, which is missing; give the strength.")
    if arguments.steps_stage2 not in (None, SECOND_STAGE_STEPS):
        raise UsageError(
            f"the second stage is fixed at {SECOND_STAGE_STEPS} steps, got {arguments.steps_stage2}; "
            "leave --steps-stage2 out."
        )


def _check_shorthands(command: Command, arguments: argparse.Namespace) -> None:
    name = "distilled" if command.pipeline == "text-to-video" else command.pipeline
    for flag in FLAGS:
        if flag.target != "shorthand" or not flag.pipelines or getattr(arguments, flag.dest) is None:
            continue
        if name not in flag.pipelines and command.pipeline != "text-to-video":
            raise UsageError(
                f"{flag.names[0]} has no meaning for the pipeline {name}; leave it out or use "
                f"--pipeline {flag.pipelines[0]}."
            )


def _set(values: dict[str, Any], name: str, value: Any, origin: str, other: str) -> None:
    present = values.get(name)
    if present is not None and present != value:
        raise UsageError(f"{origin} says {value}, but {other} says {present}; give one of them.")
    values[name] = value


def lora(values: Sequence[str], name: str, strength: float) -> tuple[Path, float]:
    """``PATH [STRENGTH]`` of one option."""
    path, given = _path_and_number(values, name, strength)
    return path, given


def image(values: Sequence[str], strength: float) -> ImageInput:
    """``PATH [FRAME [STRENGTH [CRF]]]`` of one --image."""
    if len(values) > 4:
        raise UsageError(f"--image takes PATH [FRAME [STRENGTH [CRF]]], got {len(values)} values: {' '.join(values)}.")
    numbers = [
        number(text, "--image " + name) for text, name in zip(values[1:], ("FRAME", "STRENGTH", "CRF"), strict=False)
    ]
    for index in (0, 2):
        if len(numbers) > index and numbers[index] != int(numbers[index]):
            raise UsageError(f"--image FRAME and CRF must be whole numbers, got {values[index + 1]!r}.")
    return ImageInput(
        path=Path(values[0]),
        frame_index=int(numbers[0]) if numbers else 0,
        strength=numbers[1] if len(numbers) > 1 else strength,
        crf=int(numbers[2]) if len(numbers) > 2 else None,
    )


def keyframe(text: str) -> ImageInput:
    """``PATH:FRAME[:STRENGTH]`` of one --keyframe; the path may hold colons."""
    parts = text.split(":")
    numbers: list[str] = []
    while len(parts) > 1 and len(numbers) < 2 and _is_number(parts[-1]):
        numbers.insert(0, parts.pop())
    if not numbers or not float(numbers[0]).is_integer():
        raise UsageError(f"--keyframe takes PATH:FRAME or PATH:FRAME:STRENGTH, got {text!r}.")
    strength = float(numbers[1]) if len(numbers) == 2 else KEYFRAME_STRENGTH
    return ImageInput(Path(":".join(parts)), int(float(numbers[0])), strength)


def number(text: str, name: str) -> float:
    """A number given as part of an option."""
    if not _is_number(text):
        raise UsageError(f"{name} must be a number, got {text!r}.")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _path_and_number(values: Sequence[str], name: str, default: Any) -> tuple[Path, Any]:
    if len(values) > 2:
        raise UsageError(f"{name} takes PATH [STRENGTH], got {len(values)} values: {' '.join(values)}.")
    return Path(values[0]), number(values[1], f"{name} STRENGTH") if len(values) == 2 else default
