"""Options of other LTX-2 command lines that change nothing here or are refused, each with its reason."""

from __future__ import annotations

from ltx2rt.cli.flag import Flag

_INERT_GROUP = "Accepted, without effect"
_REFUSED_GROUP = "Known, but refused"
_DFR = "release 1.4 calls it --temporal-upscalings; give that, with --pipeline dfr"
_HDR = "release 1.4 took it away"


def _inert(name: str, help_line: str, why: str, *aliases: str, **options: object) -> Flag:
    return Flag((name, *aliases), help_line, _INERT_GROUP, "inert", why=why, **options)  # type: ignore[arg-type]


def _refused(name: str, help_line: str, why: str, **options: object) -> Flag:
    return Flag((name,), help_line, _REFUSED_GROUP, "refused", why=why, **options)  # type: ignore[arg-type]


FOREIGN_FLAGS = (
    _inert(
        "--enhance-static-cache",
        "static cache of the prompt enhancement",
        "the room for all tokens is always taken at the start",
        kind=None,
    ),
    _inert(
        "--offload",
        "where weights wait",
        "every stage loads what it needs and frees it at its end",
        choices=("none", "cpu", "disk"),
    ),
    _inert(
        "--quantization",
        "precision of the weights",
        "the weights keep the precision of their file; give the fp8 file for fp8",
        nargs="+",
        metavar="KIND",
    ),
    _inert("--no-quantization", "no FP8 weights", "the weights keep the precision of their file", kind=None),
    _inert("--compile", "torch.compile options", "there is no torch here", nargs="*", metavar="KEY=VALUE"),
    _inert(
        "--diffvae-optimization",
        "mode of the diffusion video decoder",
        "there is one way of computing it, whose memory follows --memory",
        choices=("chunked_eager", "chunked_compile", "combined_compile", "blackwell_dsl"),
    ),
    _inert("--placeholder", "random weights", "without --checkpoint-path the small embedded model runs", kind=None),
    _inert("--fp8", "FP8 checkpoint", "the weights keep the precision of their file", kind=None),
    _inert(
        "--generate-audio",
        "sound with the clip",
        "sound is always generated; --no-audio leaves it out of the file",
        kind=None,
    ),
    _inert("--low-memory", "free memory between stages", "every stage frees its memory", kind=None),
    _inert("--fast-mode", "keep everything loaded", "every stage frees its memory", kind=None),
    _inert(
        "--early-layers-only",
        "use the first layers of the text encoder",
        "it works around a fault of another program",
        kind=None,
    ),
    _inert(
        "--cross-attn-scale",
        "factor of the text attention",
        "it works around a fault of another program",
        kind=float,
        metavar="S",
    ),
    _refused("--temporal-upsample-rounds", "how often the frame rate is doubled", _DFR, metavar="N"),
    _refused("--output-dir", "where converted clips go", f"{_HDR}; --output-path names one", metavar="DIR"),
    _refused("--spatial-tile", "tile size of the conversion", f"{_HDR}; --memory says what it may take", metavar="N"),
    _refused("--skip-mp4", "no master of the conversion", f"{_HDR}; master and EXR frames are both made", kind=None),
)
