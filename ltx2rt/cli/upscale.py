"""``ltx2rt upscale``: an existing clip or saved latent, larger or smoother."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from ltx2rt import api, embedded
from ltx2rt.api import OutputOptions
from ltx2rt.api.latent_file import read_latents
from ltx2rt.cli.flag import add_flags
from ltx2rt.cli.flags import named, weight_flags, weights_given
from ltx2rt.cli.generate import tell_taken, write_report
from ltx2rt.cli.outputs import RULE, Outputs, asks_for_sound, free_outputs
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.cli.progress import Progress
from ltx2rt.errors import UsageError
from ltx2rt.graph.settings.weight_files import DECODING, MODEL, UPSCALING
from ltx2rt.media.clip_reader import has_sound
from ltx2rt.paths import expanded

_TOPICS = (MODEL, DECODING, UPSCALING)
FLAGS = (
    *named("--output-path"),
    *weight_flags(*_TOPICS),
    *named(
        "--fp16",
        "--seed",
        "--tiling",
        "--fit",
        "--source-color",
        "--codec",
        "--crf",
        "--preset",
        "--speed",
        "--save-wav",
        "--save-first-frame",
        "--contact-sheet",
        "--save-latents",
        "--no-audio",
        "--no-sidecar",
        "--memory",
        "--plan",
        "--report",
        "--overwrite",
        "--progress",
        "--quiet",
    ),
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "upscale",
        help="enlarge a clip or double its frame rate",
        description="Run the latent upscalers on a video or on latents that generate --save-latents wrote. The frame "
        f"rate is that of the input, doubled by the temporal upscaler. {RULE}",
    )
    parser.add_argument("source", type=expanded, metavar="INPUT", help="a video, or a latent file (.safetensors)")
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_upscale)


def run_upscale(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the clip has been written."""
    if arguments.output_path is None:
        raise UsageError("--output-path is missing; name the .mp4 file to write.")
    names = [entry.name for entry in fields(OutputOptions)]
    given = {flag.name: getattr(arguments, flag.dest) for flag in FLAGS if flag.name in names}
    options = OutputOptions.of({name: value for name, value in given.items() if value is not None})
    if arguments.fp16 and arguments.dtype not in (None, "float16"):
        raise UsageError(f"--fp16 says float16, but --dtype says {arguments.dtype}; give one of them.")
    progress = Progress(arguments.progress, quiet=bool(arguments.quiet))
    files = weights_given(arguments, *_TOPICS)
    sound = not asks_for_sound(arguments.output_path, options) or _has_sound(arguments.source)
    outputs = Outputs(arguments.output_path, options, sound=sound, report=arguments.report)
    inputs = [arguments.source, *(path for path in files.values() if isinstance(path, Path))]
    if not arguments.plan:
        outputs.check(inputs, overwrite=True)
        if not arguments.overwrite:
            outputs, renamed = free_outputs(outputs, avoid_held=False)
            for line in renamed:
                progress.message(line)
    if "video_vae" not in files and not {"checkpoint", "transformer"}.intersection(files):
        progress.message(embedded.NOTICE)
    wanted: dict[str, Any] = {
        **files,
        "memory": arguments.memory,
        "on_taken": tell_taken(progress),
    }
    if arguments.fp16:
        wanted["dtype"] = "float16"
    optional = {name: getattr(arguments, name) for name in ("seed", "tiling", "fit", "source_color")}
    wanted |= {name: value for name, value in optional.items() if value is not None}
    if arguments.plan:
        print(plan_text(api.plan_upscale(arguments.source, **wanted)))
        return 0
    with outputs.held(), closing(progress):
        outputs.check(inputs, overwrite=bool(arguments.overwrite))
        clip = api.upscale(arguments.source, observer=progress.observe, on_settings=progress.settings, **wanted)
        clip.save(outputs.clip, outputs.options, overwrite=bool(arguments.overwrite))
        if outputs.report is not None:
            write_report(outputs.report, clip)
    progress.finish(clip.report)
    progress.written(outputs.clip)
    print(outputs.clip)
    return 0


def _has_sound(source: Path) -> bool:
    """Whether what is upscaled has sound."""
    if source.suffix == ".safetensors":
        return read_latents(source).audio is not None
    return has_sound(source)
