"""Options that stand for others: short forms, and those of other LTX-2 command lines. `arguments` expands them."""

from __future__ import annotations

from ltx2rt.cli.flag import Flag
from ltx2rt.graph.pipelines import PIPELINES, pipelines_taking
from ltx2rt.paths import expanded

_FILE = "FILE"
_WITH_REFERENCES = pipelines_taking("video_conditioning")
_TWO_STAGE = tuple(entry.name for entry in PIPELINES.values() if entry.two_stage)
_GUIDED = tuple(entry.name for entry in PIPELINES.values() if entry.is_guided)

SHORTHANDS = (
    Flag(
        ("--distilled-checkpoint-path",),
        "the same, of a distilled model whatever its name",
        "Weights",
        "shorthand",
        kind=expanded,
        metavar=_FILE,
    ),
    Flag(
        ("--lora-strength",),
        "strength of every --lora that names none",
        "Weights",
        "shorthand",
        kind=float,
        metavar="S",
    ),
    Flag(("--distilled-lora-scale",), "strength of --distilled-lora", "Weights", "shorthand", kind=float, metavar="S"),
    Flag(("--fp16",), "short for --dtype float16", "Weights", "shorthand", kind=None),
    Flag(("--fp32", "--no-fp16"), "short for --dtype float32", "Weights", "shorthand", kind=None),
    Flag(
        ("--image-strength",),
        "strength of every --image that names none",
        "Conditions",
        "shorthand",
        kind=float,
        metavar="S",
    ),
    Flag(
        ("--keyframe",),
        "an image as PATH:FRAME[:STRENGTH], strength 0.95",
        "Conditions",
        "shorthand",
        metavar="PATH:FRAME:STRENGTH",
        repeat=True,
    ),
    Flag(
        ("--control-video",),
        "short for --video-conditioning",
        "Conditions",
        "shorthand",
        kind=expanded,
        metavar=_FILE,
        pipelines=_WITH_REFERENCES,
    ),
    Flag(
        ("--control-strength",),
        "strength of --control-video",
        "Conditions",
        "shorthand",
        kind=float,
        metavar="S",
        default=0.95,
        pipelines=_WITH_REFERENCES,
    ),
    Flag(
        ("--ic-lora-weights",),
        "IC-LoRA file, as --lora",
        "Conditions",
        "shorthand",
        kind=expanded,
        metavar=_FILE,
        pipelines=_WITH_REFERENCES,
    ),
    Flag(
        ("--hdr-lora",),
        "IC-LoRA of the conversion to high dynamic range, as --lora with strength 1",
        "Conditions",
        "shorthand",
        kind=expanded,
        metavar=_FILE,
        pipelines=pipelines_taking("input"),
    ),
    Flag(
        ("--steps-stage2",),
        "steps of the second stage: 3",
        "Guidance",
        "shorthand",
        kind=int,
        metavar="N",
        pipelines=_TWO_STAGE,
    ),
    Flag(
        ("--guidance-rescale",),
        "both rescale scales at once",
        "Guidance",
        "shorthand",
        kind=float,
        metavar="S",
        pipelines=_GUIDED,
    ),
    Flag(
        ("--stg-scale",),
        "spatio-temporal guidance, see --stg-mode",
        "Guidance",
        "shorthand",
        kind=float,
        pipelines=_GUIDED,
    ),
    Flag(
        ("--stg-mode",),
        "which streams --stg-scale concerns",
        "Guidance",
        "shorthand",
        choices=("video", "audio", "both"),
        default="video",
        pipelines=_GUIDED,
    ),
    Flag(("--tiled-vae",), "short for --tiling 512/64,64/24", "Output", "shorthand", kind=None),
)
