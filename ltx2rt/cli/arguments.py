"""From parsed options to what the Python interface is called with."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.api import ImageInput, OutputOptions, VideoInput
from ltx2rt.cli.flag import Flag
from ltx2rt.cli.flags import FLAGS
from ltx2rt.errors import UsageError
from ltx2rt.graph.models.video_vae.tiling import Tiling
from ltx2rt.graph.pipelines import AUTOMATIC, pipelines_taking
from ltx2rt.graph.settings.kinds import Images, path_and_number
from ltx2rt.paths import expanded

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
        return str(self.files.get("pipeline", AUTOMATIC))


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
    for flag in FLAGS:
        _convert_rows(values.get(flag.target, {}), flag)
    command = Command(files, settings, OutputOptions.of(output))
    _check_shorthands(command, arguments)
    return command


def effectless(arguments: argparse.Namespace) -> list[Flag]:
    """The given options that change nothing."""
    return [flag for flag in FLAGS if flag.target == "inert" and getattr(arguments, flag.dest) is not None]


def _convert_rows(values: dict[str, Any], flag: Flag) -> None:
    """Options with several words have rows of them until here."""
    if flag.said is None or flag.said.kind.words is None or not isinstance(values.get(flag.name), list):
        return
    words = values[flag.name]
    try:
        values[flag.name] = flag.said.kind.rows(words if flag.repeat else [words])
    except ValueError as error:
        raise UsageError(f"{flag.names[0]} {error}.") from None


def given_prompt(arguments: argparse.Namespace) -> str | None:
    """The prompt, with or without an option's name.

    Raises:
        UsageError: both are given, and differ.
    """
    values = {} if arguments.prompt is None else {"prompt": arguments.prompt}
    if arguments.positional_prompt is not None:
        _set(values, "prompt", arguments.positional_prompt, "the prompt without an option's name", "--prompt")
    return values.get("prompt")


def _add_prompt(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    prompt = given_prompt(arguments)
    if prompt is not None:
        settings["prompt"] = prompt
    given = [name for name in ("prompt", "prompt_file", "embedding", "zero_text") if settings.get(name) is not None]
    if given or arguments.pipeline in pipelines_taking("input"):  # which reads none, and says what it reads
        return
    swallowed = _swallowed_prompt(arguments)
    if swallowed is None:
        raise UsageError("--prompt is missing; say what to generate, or give a text embedding with --embedding.")
    flag, words = swallowed
    if " " not in words[-1].strip():
        raise UsageError(
            f"--prompt is missing. {flag.names[0]} has taken {words[-1]!r}: if that is the prompt, put it before "
            f"{flag.names[0]}, or give it with --prompt."
        )
    settings["prompt"] = words.pop()


def _swallowed_prompt(arguments: argparse.Namespace) -> tuple[Flag, list[Any]] | None:
    """The option with several words whose last one is no number and no file, and its words; None if there is none."""
    for flag in FLAGS:
        if flag.nargs not in ("+", "*"):
            continue
        values = getattr(arguments, flag.dest)
        for words in (values or []) if flag.repeat else [values or []]:
            least = 1 if flag.nargs == "+" else 0
            last = words[-1] if len(words) > least else None
            if isinstance(last, str) and not _is_number(last) and not os.path.exists(last):
                return flag, words
    return None


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
    loras = [_row(values, "--lora", strength) for values in files.get("loras", ())]
    if arguments.lora_strength is not None and not loras and arguments.ic_lora_weights is None:
        raise UsageError("--lora-strength goes with --lora, which is missing; give the LoRA file.")
    if arguments.ic_lora_weights is not None:
        loras.append((arguments.ic_lora_weights, strength))
    if arguments.hdr_lora is not None:
        loras.append((arguments.hdr_lora, 1.0))
    if loras:
        files["loras"] = tuple(loras)
    if "detailing_lora" in files:
        files["detailing_lora"] = _row(files["detailing_lora"], "--detailing-lora", 1.0)
    scale = 1.0 if arguments.distilled_lora_scale is None else arguments.distilled_lora_scale
    if "distilled_lora" in files:
        files["distilled_lora"] = _row(files["distilled_lora"], "--distilled-lora", scale)
    elif arguments.distilled_lora_scale is not None:
        raise UsageError("--distilled-lora-scale goes with --distilled-lora, which is missing; give the LoRA file.")


def _add_images(settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    strength = 1.0 if arguments.image_strength is None else arguments.image_strength
    images = [_image(values, strength) for values in settings.get("images", ())]
    if arguments.image_strength is not None and not images:
        raise UsageError("--image-strength goes with --image, which is missing; give the image.")
    images += [keyframe(text) for text in arguments.keyframe or ()]
    if images:
        settings["images"] = tuple(images)


def _add_controls(files: dict[str, Any], settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    given = settings.get("video_conditioning", ())
    videos = [VideoInput(*_row(values, "--video-conditioning", 1.0)) for values in given]
    if arguments.control_video is not None:
        strength = CONTROL_STRENGTH if arguments.control_strength is None else arguments.control_strength
        videos.append(VideoInput(arguments.control_video, strength))
    elif arguments.control_strength is not None:
        raise UsageError("--control-strength goes with --control-video, which is missing; give the video.")
    if videos:
        settings["video_conditioning"] = tuple(videos)
    mask = settings.get("conditioning_attention_mask")
    if isinstance(mask, list):
        path, strength = _row(mask, "--conditioning-attention-mask", None)
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
    if command.pipeline == AUTOMATIC:
        return
    for flag in FLAGS:
        if flag.target != "shorthand" or not flag.pipelines or getattr(arguments, flag.dest) is None:
            continue
        if command.pipeline not in flag.pipelines:
            raise UsageError(
                f"{flag.names[0]} has no meaning for the pipeline {command.pipeline}; leave it out or use "
                f"--pipeline {flag.pipelines[0]}."
            )


def _set(values: dict[str, Any], name: str, value: Any, origin: str, other: str) -> None:
    present = values.get(name)
    if present is not None and present != value:
        raise UsageError(f"{origin} says {value}, but {other} says {present}; give one of them.")
    values[name] = value


def _row(values: Sequence[Any], name: str, default: Any) -> tuple[Path, Any]:
    """``PATH [STRENGTH]`` of one option."""
    try:
        return path_and_number(values, default)
    except ValueError as error:
        raise UsageError(f"{name} {error}.") from None


def _image(values: Sequence[Any], strength: float) -> ImageInput:
    """``PATH [FRAME [STRENGTH [CRF]]]`` of one --image."""
    try:
        return Images().row(values, strength)
    except ValueError as error:
        raise UsageError(f"--image {error}.") from None


def keyframe(text: str) -> ImageInput:
    """``PATH:FRAME[:STRENGTH]`` of one --keyframe; the path may hold colons."""
    parts = text.split(":")
    numbers: list[str] = []
    while len(parts) > 1 and len(numbers) < 2 and _is_number(parts[-1]):
        numbers.insert(0, parts.pop())
    if not numbers or not float(numbers[0]).is_integer():
        raise UsageError(f"--keyframe takes PATH:FRAME or PATH:FRAME:STRENGTH, got {text!r}.")
    strength = float(numbers[1]) if len(numbers) == 2 else KEYFRAME_STRENGTH
    return ImageInput(expanded(":".join(parts)), int(float(numbers[0])), strength)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
