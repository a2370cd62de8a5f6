"""The options of release 1.4: which pipelines take each, its default, what is said about a value that cannot be.

From the argument parsers of Lightricks/LTX-2 ltx_pipelines @ 1.4.2; options that change nothing here are in
test_flags.py.
"""

from __future__ import annotations

import pytest

from ltx2rt.cli.arguments import command_of
from ltx2rt.cli.flag import Flag
from ltx2rt.cli.flags import FLAGS, spelling
from ltx2rt.cli.main import build_parser
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.spelling import spelled_as

SHORT = {
    "D": "distilled",
    "1S": "one-stage",
    "2S": "two-stage",
    "HQ": "two-stage-hq",
    "IC": "ic-lora",
    "DUB": "dub-it",
    "KF": "keyframe-interpolation",
    "A2": "audio-to-video",
    "RT": "retake",
    "EX": "extend",
    "T2A": "text-to-audio",
    "DFR": "dfr",
    "HDR": "hdr",
    "AG": "alpha-gen",
}
_NEW = "D 1S 2S HQ IC KF A2 DFR AG"  # that make a clip of a size and a length
_GUIDED = "1S 2S HQ KF A2 AG RT EX"
_HEARD = "1S 2S HQ KF T2A RT EX"
_KEYFRAMES = "D 1S 2S HQ IC DUB A2"
_CHUNKS = "D 2S IC DUB A2"
# option -> (pipelines, default as help shows it)
TAKEN: dict[str, tuple[str, object]] = {
    "--height": (f"{_NEW} DUB", "model"),
    "--width": (f"{_NEW} DUB", "model"),
    "--num-frames": (f"{_NEW} T2A", "model"),
    "--frame-rate": (f"{_NEW} T2A HDR RT EX", "model"),
    "--auto-duration": (
        "D 1S 2S HQ T2A DFR AG",
        "1 20 where --num-frames is left out and the model has a duration head",
    ),
    "--image": (_NEW, None),
    "--hdr": (f"{_NEW} RT EX", None),
    "--num-generated-keyframes": (_KEYFRAMES, 0),
    "--decode-with-keyframes": (_KEYFRAMES, None),
    "--chunked": (_CHUNKS, None),
    "--chunk-pixel-frames": (_CHUNKS, "97"),
    "--chunk-carry-frames": (_CHUNKS, "25"),
    "--chunk-blend-frames": (_CHUNKS, "as many as are carried"),
    "--negative-prompt": (f"{_GUIDED} T2A", "model"),
    "--video-cfg-guidance-scale": (_GUIDED, "model"),
    "--video-stg-guidance-scale": (_GUIDED, "model"),
    "--video-rescale-scale": (_GUIDED, "model"),
    "--video-stg-blocks": (_GUIDED, "model"),
    "--a2v-guidance-scale": (_GUIDED, "model"),
    "--video-skip-step": (_GUIDED, "model"),
    "--audio-cfg-guidance-scale": (_HEARD, "model"),
    "--audio-stg-guidance-scale": (_HEARD, "model"),
    "--audio-rescale-scale": (_HEARD, "model"),
    "--audio-stg-blocks": (_HEARD, "model"),
    "--v2a-guidance-scale": ("1S 2S HQ KF RT EX", "model"),
    "--audio-skip-step": (_HEARD, "model"),
    "--distilled-lora-strength-stage-1": ("HQ", 0.25),
    "--distilled-lora-strength-stage-2": ("HQ", 0.5),
    "--video-conditioning": ("IC AG", None),
    "--conditioning-attention-mask": ("IC", None),
    "--skip-stage-2": ("IC", None),
    "--stage-2-ic-lora": ("IC", None),
    "--tile": ("IC", None),
    "--tile-height": ("IC", "1024"),
    "--tile-width": ("IC", "1536"),
    "--audio-path": ("A2", None),
    "--audio-start-time": ("A2", 0.0),
    "--audio-max-duration": ("A2", None),
    "--video-path": ("RT EX", None),
    "--start-time": ("RT", None),
    "--end-time": ("RT", None),
    "--temporal-upscalings": ("DFR", 0),
    "--spatial-upscalings": ("DFR", 1),
    "--reference-video": ("DUB", None),
    "--reference-strength": ("DUB", 1.0),
    "--input": ("HDR", None),
    "--input-colorspace": ("HDR", "srgb_gamma"),
    "--exr-colorspace": ("HDR", "acescg"),
    "--hdr-lora": ("HDR", None),
    "--high-quality": ("HDR", None),
    "--no-keyframes": ("HDR", None),
    "--keyframe-strength": ("HDR", 0.95),
    # Of all pipelines.
    "--seed": ("", "model"),
    "--lora": ("", None),
    "--enhance-prompt": ("", None),
    "--num-inference-steps": ("", "model"),
    "--distilled-checkpoint-path": ("", None),
    "--detailing-lora": ("", None),
    "--prompt-enhancer-gemma-root": ("", None),
}
# Weight files without which a pipeline is refused.
NEEDED = {
    "spatial_upscaler": "D 2S HQ IC DUB KF A2 DFR",
    "distilled_lora": "2S HQ KF A2",
    "detailing_lora": "DFR",
    "loras": "IC DUB HDR AG",
}
# words -> what is said about them
UNFIT = {
    "--num-frames 0": "--num-frames must be 1 or more, got 0",
    "--frame-rate 0": "must be a positive number or ratio such as 24, 23.976 or 30000/1001, got '0'",
    "--auto-duration 5": "expected 2 arguments",
    "--image a.png 0 1 2 3": "--image takes PATH [FRAME [STRENGTH [CRF]]], got 5 values",
    "--lora a.safetensors 1 2": "--lora takes PATH [STRENGTH], got 3 values",
    "--num-generated-keyframes -1": "must be how many key frames, 0 or more, or a list of frames, got '-1'",
    "--chunk-pixel-frames 0": "--chunk-pixel-frames must be 1 or more, got 0",
    "--chunk-carry-frames -1": "--chunk-carry-frames must be 0 or more, got -1",
    "--chunk-blend-frames -1": "--chunk-blend-frames must be 0 or more, got -1",
    "--conditioning-attention-mask a.mp4 1 2": "--conditioning-attention-mask takes PATH [STRENGTH], got 3 values",
    "--video-conditioning a.mp4 x": "--video-conditioning STRENGTH must be a number, got 'x'",
    "--temporal-upscalings 3": "--temporal-upscalings must be 0 to 2, got 3",
    "--spatial-upscalings 0": "--spatial-upscalings must be 1 to 2, got 0",
    "--reference-strength 1.5": "--reference-strength must be 0 to 1, got 1.5",
    "--keyframe-strength 2": "--keyframe-strength must be 0 to 1, got 2",
    "--input-colorspace rec709": "invalid choice: 'rec709'",
    "--exr-colorspace rec709": "invalid choice: 'rec709'",
    "--hdr rec709": "invalid choice: 'rec709'",
    "--num-inference-steps 0": "--num-inference-steps must be 1 to 1000, got 0",
}
# Options of earlier releases, and what release 1.4 has in their place.
REMOVED = {
    "--temporal-upsample-rounds": "--temporal-upscalings",
    "--output-dir": "--output-path",
    "--spatial-tile": "--memory",
    "--skip-mp4": "master and EXR frames are both made",
}
BY_NAME: dict[str, Flag] = {name: flag for flag in FLAGS for name in flag.names}


def long(short: str) -> set[str]:
    return {SHORT[word] for word in short.split()}


def test_the_pipelines_are_those_of_the_release_and_extend() -> None:
    assert set(SHORT.values()) == set(PIPELINES)


@pytest.mark.parametrize("name", TAKEN)
def test_who_takes_an_option_and_its_default(name: str) -> None:
    pipelines, default = TAKEN[name]
    flag = BY_NAME[name]
    assert flag.target not in ("inert", "refused")
    assert set(flag.used_by) == long(pipelines)
    assert flag.default == default


@pytest.mark.parametrize("name", NEEDED)
def test_files_that_pipelines_need(name: str) -> None:
    assert {entry.name for entry in PIPELINES.values() if name in entry.files} == long(NEEDED[name])


@pytest.mark.parametrize("words", UNFIT)
def test_values_that_cannot_be(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with spelled_as(spelling()), pytest.raises((UsageError, SystemExit)) as refused:
        Settings.of(command_of(build_parser().parse_args(["generate", "--prompt", "x", *words.split()])).settings)
    assert UNFIT[words] in str(refused.value) + capsys.readouterr().err


@pytest.mark.parametrize("name", REMOVED)
def test_what_was_removed_is_known_and_says_what_stands_in_its_place(name: str) -> None:
    flag = BY_NAME[name]
    assert flag.target == "refused"
    assert REMOVED[name] in flag.why
    assert flag.why.count(".") - flag.why.count("1.4") <= 1  # one sentence
