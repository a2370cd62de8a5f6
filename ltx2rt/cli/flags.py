"""The table of ``generate`` options: the one source of the parser, ``--help``, the documentation and the tests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2rt.cli import flag_values as values


@dataclass(frozen=True)
class Flag:
    """One option.

    Attributes:
        names: spellings; the first is the one we document, the others belong to other LTX-2 command lines.
        help: one line; the default is appended to it.
        group: heading in ``--help``.
        kind: converter of one value; None for a switch.
        metavar: names of the value(s).
        nargs: as argparse.
        repeat: the option may be given several times.
        default: shown in ``--help``; "model" = decided by the checkpoint's generation.
        pipelines: pipelines that use it; empty = all.
    """

    names: tuple[str, ...]
    help: str
    group: str
    kind: Callable[[str], Any] | None = str
    metavar: str | tuple[str, ...] | None = None
    nargs: str | int | None = None
    repeat: bool = False
    default: Any = None
    choices: tuple[str, ...] | None = None
    pipelines: tuple[str, ...] = ()

    @property
    def dest(self) -> str:
        return self.names[0].lstrip("-").replace("-", "_")


GUIDED = ("one-stage",)
TWO_STAGE = ("distilled",)

FLAGS: tuple[Flag, ...] = (
    Flag(("--prompt",), "what to generate", "Request", metavar="TEXT"),
    Flag(
        ("--pipeline",),
        "distilled: 8 + 3 steps in two stages; one-stage: guided, for dev checkpoints",
        "Request",
        choices=("distilled", "one-stage"),
        default="distilled",
    ),
    Flag(
        ("--output-path", "--output", "-o"),
        "the .mp4 file to write",
        "Request",
        kind=Path,
        metavar="FILE",
        default=Path("output.mp4"),
    ),
    Flag(
        ("--height",),
        "final height in pixels, a multiple of 64 (one-stage: 32)",
        "Request",
        kind=int,
        metavar="N",
        default="model",
    ),
    Flag(
        ("--width",),
        "final width in pixels, a multiple of 64 (one-stage: 32)",
        "Request",
        kind=int,
        metavar="N",
        default="model",
    ),
    Flag(("--num-frames", "--frames"), "number of frames, 8*k + 1", "Request", kind=int, metavar="N", default="model"),
    Flag(
        ("--frame-rate", "--fps"),
        "frames per second",
        "Request",
        kind=values.frame_rate,
        metavar="RATE",
        default="model",
    ),
    Flag(
        ("--seed",),
        "seed of the noise; the same as in the official code on a CPU",
        "Request",
        kind=int,
        metavar="N",
        default="model",
    ),
    Flag(
        ("--image",),
        "condition on an image at a pixel frame (default 0) with a strength (default 1.0)",
        "Request",
        metavar=("PATH", "FRAME STRENGTH CRF"),
        nargs="+",
        repeat=True,
    ),
    Flag(
        ("--checkpoint-path", "--distilled-checkpoint-path", "--weights"),
        "the model's .safetensors file; without it the untrained embedded model runs",
        "Weights",
        kind=Path,
        metavar="FILE",
    ),
    Flag(("--gemma-root", "--gemma-path"), "folder of the Gemma 3 text encoder", "Weights", kind=Path, metavar="DIR"),
    Flag(
        ("--spatial-upsampler-path", "--spatial-upscaler-weights"),
        "latent upscaler x2",
        "Weights",
        kind=Path,
        metavar="FILE",
        pipelines=TWO_STAGE,
    ),
    Flag(
        ("--lora",),
        "LoRA file with a strength (default 1.0)",
        "Weights",
        metavar=("PATH", "STRENGTH"),
        nargs="+",
        repeat=True,
    ),
    Flag(("--embedding",), "text embedding file in place of the text encoder", "Weights", kind=Path, metavar="FILE"),
    Flag(("--dtype",), "of activations", "Weights", choices=("bfloat16", "float16", "float32"), default="bfloat16"),
    Flag(
        ("--num-inference-steps", "--steps"),
        "sampler steps",
        "Guidance",
        kind=int,
        metavar="N",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(("--negative-prompt",), "what to avoid", "Guidance", metavar="TEXT", default="model", pipelines=GUIDED),
    Flag(
        ("--video-cfg-guidance-scale", "--cfg"),
        "classifier-free guidance of the video",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--video-stg-guidance-scale",),
        "spatio-temporal guidance of the video",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--video-rescale-scale",),
        "share of the deviation that guidance gives back to the video",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--video-stg-blocks",),
        "transformer blocks of the video's spatio-temporal guidance",
        "Guidance",
        kind=int,
        metavar="BLOCK",
        nargs="*",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--a2v-guidance-scale",),
        "modality guidance of the video",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--video-skip-step",),
        "reuse the video's prediction for N steps after each computed one",
        "Guidance",
        kind=int,
        metavar="N",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--audio-cfg-guidance-scale",),
        "classifier-free guidance of the sound",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--audio-stg-guidance-scale",),
        "spatio-temporal guidance of the sound",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--audio-rescale-scale",),
        "share of the deviation that guidance gives back to the sound",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--audio-stg-blocks",),
        "transformer blocks of the sound's spatio-temporal guidance",
        "Guidance",
        kind=int,
        metavar="BLOCK",
        nargs="*",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--v2a-guidance-scale",),
        "modality guidance of the sound",
        "Guidance",
        kind=float,
        metavar="S",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--audio-skip-step",),
        "reuse the sound's prediction for N steps after each computed one",
        "Guidance",
        kind=int,
        metavar="N",
        default="model",
        pipelines=GUIDED,
    ),
    Flag(
        ("--tiling",),
        "video decoder tiles: auto (by size), none, or SPATIAL/OVERLAP[,FRAMES/OVERLAP]",
        "Output",
        kind=values.tiling,
        metavar="TILES",
        default="auto",
    ),
    Flag(
        ("--report",),
        "write settings and per-stage seconds and peak memory as JSON",
        "Output",
        kind=Path,
        metavar="FILE",
    ),
    Flag(("--quiet",), "no settings, progress or report on the terminal", "Output", kind=None, default=False),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the table, grouped. A default of None in the result means "not given"."""
    groups: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        arguments: dict[str, Any] = {"dest": flag.dest, "help": help_text(flag), "default": None}
        if flag.kind is None:
            arguments.update(action="store_true", default=False)
        else:
            arguments.update(type=flag.kind, choices=flag.choices, nargs=flag.nargs)
            if flag.metavar is not None:
                arguments["metavar"] = flag.metavar
            if flag.repeat:
                arguments["action"] = "append"
        groups[flag.group].add_argument(*flag.names, **arguments)


def help_text(flag: Flag) -> str:
    """The help line with its default and its pipelines."""
    notes = []
    if flag.default == "model":
        notes.append("default: by model")
    elif flag.default not in (None, False):
        notes.append(f"default: {flag.default}")
    if flag.pipelines:
        notes.append(f"only {', '.join(flag.pipelines)}")
    return flag.help.replace("%", "%%") + (f" ({'; '.join(notes)})" if notes else "")
