"""``ltx2rt generate``: a prompt and images to an .mp4 with sound."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ltx2rt import api, embedded
from ltx2rt.cli.flags import FLAGS, add_flags
from ltx2rt.cli.progress import Progress
from ltx2rt.errors import MediaError, UsageError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="a prompt and images to a clip with sound",
        description="Generate a clip. Messages go to stderr; the path of the written file goes to stdout.",
    )
    add_flags(parser)
    parser.set_defaults(run=run_generate)


def run_generate(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the clip has been written."""
    check_flags(arguments)
    check_output_folder(arguments.output_path or _default("output_path"))
    if arguments.report is not None:
        check_output_folder(arguments.report)
    progress = Progress(quiet=arguments.quiet)
    if arguments.checkpoint_path is None:
        if arguments.gemma_root or arguments.spatial_upsampler_path or arguments.lora:
            raise UsageError(
                "--gemma-root, --spatial-upsampler-path and --lora go with --checkpoint-path, which is missing; "
                "give the model's .safetensors file."
            )
        progress.message(embedded.NOTICE)
    pipeline = api.load(
        arguments.pipeline or _default("pipeline"),
        checkpoint=arguments.checkpoint_path,
        text_encoder=arguments.gemma_root,
        spatial_upscaler=arguments.spatial_upsampler_path,
        loras=[lora(values) for values in arguments.lora or ()],
        dtype=arguments.dtype or _default("dtype"),
    )
    clip = pipeline(
        arguments.prompt,
        observer=progress.observe,
        on_settings=progress.settings,
        embedding=arguments.embedding,
        images=[image(values) for values in arguments.image or ()],
        **{name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name) is not None},
    )
    output = arguments.output_path or _default("output_path")
    clip.save(output)
    progress.finish(clip.report)
    if arguments.report is not None:
        write_report(arguments.report, clip)
    print(output)
    return 0


SETTINGS = (
    "height",
    "width",
    "num_frames",
    "frame_rate",
    "seed",
    "negative_prompt",
    "num_inference_steps",
    "video_cfg_guidance_scale",
    "video_stg_guidance_scale",
    "video_rescale_scale",
    "video_stg_blocks",
    "a2v_guidance_scale",
    "video_skip_step",
    "audio_cfg_guidance_scale",
    "audio_stg_guidance_scale",
    "audio_rescale_scale",
    "audio_stg_blocks",
    "v2a_guidance_scale",
    "audio_skip_step",
    "tiling",
)


def check_flags(arguments: argparse.Namespace) -> None:
    """Refuse options that the chosen pipeline does not use, and a missing prompt."""
    if arguments.prompt is None and arguments.embedding is None:
        raise UsageError("--prompt is missing; say what to generate, or give a text embedding with --embedding.")
    pipeline = arguments.pipeline or _default("pipeline")
    for flag in FLAGS:
        value = getattr(arguments, flag.dest)
        if flag.pipelines and pipeline not in flag.pipelines and value is not None:
            raise UsageError(
                f"{flag.names[0]} has no meaning for the pipeline {pipeline}; leave it out or use "
                f"--pipeline {flag.pipelines[0]}."
            )


def check_output_folder(path: Path) -> None:
    """Fail before any computing when the output cannot be written."""
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"the output {path} is a folder; name a file.")
    if not folder.is_dir():
        raise MediaError(f"the output folder {folder} does not exist; create it or choose another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MediaError(f"cannot write to the output folder {folder}: {error.strerror}.") from error


def lora(values: list[str]) -> tuple[Path, float]:
    """``PATH [STRENGTH]`` of one --lora."""
    if len(values) > 2:
        raise UsageError(f"--lora takes PATH [STRENGTH], got {len(values)} values: {' '.join(values)}.")
    return Path(values[0]), _number(values[1], "--lora STRENGTH") if len(values) == 2 else 1.0


def image(values: list[str]) -> api.ImageInput:
    """``PATH [FRAME [STRENGTH [CRF]]]`` of one --image."""
    if len(values) > 4:
        raise UsageError(f"--image takes PATH [FRAME [STRENGTH [CRF]]], got {len(values)} values: {' '.join(values)}.")
    numbers = [
        _number(text, "--image " + name) for text, name in zip(values[1:], ("FRAME", "STRENGTH", "CRF"), strict=False)
    ]
    for index in (0, 2):
        if len(numbers) > index and numbers[index] != int(numbers[index]):
            raise UsageError(f"--image FRAME and CRF must be whole numbers, got {values[index + 1]!r}.")
    return api.ImageInput(
        path=Path(values[0]),
        frame_index=int(numbers[0]) if numbers else 0,
        strength=numbers[1] if len(numbers) > 1 else 1.0,
        crf=int(numbers[2]) if len(numbers) > 2 else None,
    )


def write_report(path: Path, clip: api.Clip) -> None:
    """Write settings and stage reports as JSON, through a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = {"settings": clip.settings, "stages": [stage.as_dict() for stage in clip.report]}
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MediaError(f"cannot write the report {path}: {error.strerror}.") from error


def _default(dest: str) -> Any:
    return next(flag.default for flag in FLAGS if flag.dest == dest)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name} must be a number, got {text!r}.") from None
