"""The table of ``generate`` options: the one source of the parser, ``--help``, the documentation and the tests.

Options that set something are derived from what is said about it; what is said here concerns the command itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ltx2rt.api.outputs import OutputOptions
from ltx2rt.cli.flag import Flag, flags_of
from ltx2rt.cli.foreign_flags import FOREIGN_FLAGS
from ltx2rt.cli.shorthands import SHORTHANDS
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import AUTOMATIC, PIPELINE_NAMES, PIPELINES, pipeline_name
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.paths import expanded
from ltx2rt.team.team import DEFAULT_PATIENCE, SPLITS

_FILE = "FILE"
_GROUPS = ("Request", "Text", "Conditions", "Guidance", "Weights", "Output", "Run")
_SOUND_NAMES = [entry.name for entry in PIPELINES.values() if entry.output == "sound"]
_AUTOMATIC_NAMES = {entry.variant: entry.name for entry in PIPELINES.values() if entry.automatic}


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers like 2,1, got {text!r}") from None


def _pipeline(text: str) -> str:
    try:
        return pipeline_name(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


_PIPELINE = Flag(
    ("--pipeline",),
    f"one of {', '.join(PIPELINE_NAMES)}; {AUTOMATIC} is {_AUTOMATIC_NAMES['dev']} for a dev checkpoint, else "
    f"{_AUTOMATIC_NAMES['distilled']}",
    "Request",
    "files",
    kind=_pipeline,
    metavar="NAME",
    default=AUTOMATIC,
)

RUN = (
    Flag(
        ("--output-path", "--output", "-o"),
        f"the .mp4, .m4v or .mov file to write, or .wav for the sound alone ({', '.join(_SOUND_NAMES)}: .wav)",
        "Request",
        "run",
        kind=expanded,
        metavar=_FILE,
        default="output.mp4",
    ),
    Flag(("--save-control",), "write the control video that was used beside the clip", "Conditions", "run", kind=None),
    Flag(
        ("--config",),
        "TOML file with options; those of the command line come first",
        "Run",
        "run",
        kind=expanded,
        metavar=_FILE,
    ),
    Flag(("--print-config",), "print the resolved options as TOML and stop", "Run", "run", kind=None),
    Flag(
        ("--from-sidecar",),
        "repeat the run that wrote this .json; other options change it",
        "Run",
        "run",
        "repeated",
        kind=expanded,
        metavar="FILE.json",
    ),
    Flag(
        ("--memory",),
        "what the process may take, 12GB or 900MB; weights that do not fit are read from disk while computing",
        "Run",
        "run",
        metavar="SIZE",
        default="80 % of what is free",
    ),
    Flag(("--plan",), "print what each stage would take, as ltx2rt plan does, and stop", "Run", "run", kind=None),
    Flag(("--resume",), "continue an interrupted run of the same output", "Run", "run", kind=None),
    Flag(("--no-state",), "keep nothing to resume from", "Run", "run", kind=None),
    Flag(
        ("--state-folder",),
        "where to keep what --resume continues from, for example on storage that other machines share",
        "Run",
        "run",
        kind=expanded,
        metavar="FOLDER",
        default="hidden, beside the clip",
    ),
    Flag(
        ("--preview",),
        "write the first frame as it is after each step",
        "Run",
        "run",
        kind=expanded,
        metavar="FILE.png",
    ),
    Flag(
        ("--preview-decoder",),
        "tiny decoder (taehv: taeltx_2, taeltx2_3, its wide form) that makes previews in place of the video VAE",
        "Run",
        "run",
        kind=expanded,
        metavar=_FILE,
    ),
    Flag(
        ("--report",),
        "write settings and per-stage seconds and peak memory as JSON",
        "Run",
        "run",
        kind=expanded,
        metavar=_FILE,
    ),
    Flag(
        ("--overwrite",),
        "replace files that exist, but never an input; without it the next free name is taken",
        "Run",
        "run",
        kind=None,
    ),
    Flag(
        ("--progress",),
        "on stderr: text for people, or json, one object per line for programs",
        "Run",
        "run",
        choices=("text", "json"),
        default="text",
    ),
    Flag(
        ("--hosts",),
        "run on all machines of this file together, which ssh reaches (docs/many-machines.md); nothing between them is "
        "authenticated or encrypted: trusted networks only",
        "Run",
        "run",
        kind=expanded,
        metavar="FILE.json",
    ),
    Flag(
        ("--split",),
        "what several machines share (MLX_RANK and MLX_HOSTFILE, docs/distributed.md; nothing between them is "
        "authenticated or encrypted: trusted networks only): the guidance passes of a step, the tokens of the video in "
        "every pass, both (groups of machines share passes, and the machines of a group tokens), or what fits each "
        "stage",
        "Run",
        "run",
        choices=SPLITS,
        default="auto",
    ),
    Flag(
        ("--shares",),
        "how fast each machine is beside the others, that of machine 0 first: with 2,1 it works on twice as many "
        "tokens, or on more passes; without, all are alike",
        "Run",
        "run",
        kind=_numbers,
        metavar="NUMBER,NUMBER...",
    ),
    Flag(
        ("--patience",),
        "after how long without a word another machine counts as lost; more than the slowest one needs for a step",
        "Run",
        "run",
        kind=float,
        metavar="SECONDS",
        default=DEFAULT_PATIENCE,
    ),
    Flag(
        ("--allow-mixed",),
        "machines with other processors, GPUs or kernels may take part, though the last bits of a clip then depend on "
        "who computes what",
        "Run",
        "run",
        kind=None,
    ),
    Flag(("--quiet",), "no settings, progress or report on the terminal", "Run", "run", kind=None),
)

_OWN = (
    _PIPELINE,
    *flags_of(Settings, "settings"),
    *flags_of(WeightFiles, "files"),
    *SHORTHANDS,
    *flags_of(OutputOptions, "output"),
    *RUN,
)
FLAGS: tuple[Flag, ...] = (
    *(flag for group in _GROUPS for flag in _OWN if flag.group == group),
    *FOREIGN_FLAGS,
)


def named(*names: str) -> tuple[Flag, ...]:
    """The flags with these first spellings, for other verbs."""
    by_name = {flag.names[0]: flag for flag in FLAGS}
    return tuple(by_name[name] for name in names)


def weight_flags(*topics: str) -> tuple[Flag, ...]:
    """The flags of the weight files of some topics, for other verbs."""
    return tuple(flag for flag in FLAGS if flag.target == "files" and flag.said and flag.said.topic in topics)


def weights_given(arguments: argparse.Namespace, *topics: str) -> dict[str, Any]:
    """Setting -> value of the weight files of some topics that were given."""
    given = {flag.name: getattr(arguments, flag.dest) for flag in weight_flags(*topics)}
    return {name: value for name, value in given.items() if value is not None}


def spelling() -> Mapping[str, str]:
    """Setting -> the option that sets it, for errors."""
    return {flag.name: flag.names[0] for flag in FLAGS if flag.target in ("settings", "files", "output", "run")}
