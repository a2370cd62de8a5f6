"""The option table: every option of it does what it says, and every option of the other command lines is in it."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from command_inputs import distilled_lora, one_file, upscaler

from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.main import build_parser, run
from ltx2rt.cli.option_docs import options_markdown

# The official command lines of v1.2.0 and of 2026-03 (all pipelines), then those of the MLX family.
OFFICIAL_NAMES = """--checkpoint-path --distilled-checkpoint-path --gemma-root --transformer-path --text-encoder-path
--audio-vae-path --duration-head-path --video-vae-path --prompt --output-path --seed --num-inference-steps --lora
--enhance-prompt --enhance-static-cache --prompt-enhancer-gemma-root --offload --max-batch-size --quantization --compile
--diffvae-optimization --height --width --num-frames --auto-duration --frame-rate --image --hdr
--num-generated-keyframes --negative-prompt --video-cfg-guidance-scale --video-stg-guidance-scale --video-rescale-scale
--video-stg-blocks --a2v-guidance-scale --video-skip-step --audio-cfg-guidance-scale --audio-stg-guidance-scale
--audio-rescale-scale --audio-stg-blocks --v2a-guidance-scale --audio-skip-step --distilled-lora
--distilled-lora-strength-stage-1 --distilled-lora-strength-stage-2 --spatial-upsampler-path --video-conditioning
--conditioning-attention-mask --skip-stage-2 --audio-path --audio-start-time --audio-max-duration --video-path
--start-time --end-time --detailing-lora --temporal-upsampler-path --temporal-upsample-rounds --reference-video
--reference-strength --input --output-dir --hdr-lora --text-embeddings --spatial-tile --skip-mp4
--high-quality --decode-with-keyframes --chunked --chunk-pixel-frames --chunk-carry-frames --chunk-blend-frames
--stage-2-ic-lora --tile --tile-height --tile-width --temporal-upscalings --spatial-upscalings --input-colorspace
--exr-colorspace --no-keyframes --keyframe-strength --no-quantization"""
MLX_NAMES = """--pipeline --height --width --frames --steps --steps-stage1 --steps-stage2 --cfg --cfg-stage1
--guidance-rescale
--seed --fps --speed --output --weights --gemma-path --embedding --no-gemma --placeholder --skip-vae --fp16 --fp32
--no-fp16 --fp8 --model-variant --distilled-lora --distilled-lora-scale --spatial-upscaler-weights
--temporal-upscaler-weights --upscale-spatial --upscale-temporal --generate-audio --low-memory --fast-mode --image
--image-strength --lora --lora-strength --stg-scale --stg-mode --apg-scale --apg-eta --apg-norm-threshold
--apg-momentum --ge-gamma --control-video --control-type --canny-low --canny-high --control-strength --save-control
--ic-lora-weights --keyframe --tiled-vae --early-layers-only --enhance-prompt --cross-attn-scale
--temporal-weights"""

# Options of this command that tests of their own exercise.
TESTED_ELSEWHERE = {
    "--preview-decoder": "../graph/models/test_preview_decoder.py",
    "--activations": "test_activations.py",
    "--split": "test_team_runs.py",
    "--shares": "test_team_runs.py",
    "--patience": "test_two_machines.py",
    "--allow-mixed": "test_team_runs.py",
    "--transformer-path": "test_model_parts.py",
    "--tokenizer-path": "test_model_parts.py",
    "--connectors-path": "test_model_parts.py",
    "--text-projection-path": "test_model_parts.py",
    "--video-vae-path": "test_model_parts.py",
    "--video-decoder": "test_model_parts.py",
    "--audio-vae-path": "test_model_parts.py",
    "--vocoder-path": "test_model_parts.py",
    "--duration-head-path": "test_model_parts.py",
    "--num-generated-keyframes": "test_ltx25.py",
    "--decode-with-keyframes": "test_ltx25.py",
    "--auto-duration": "test_ltx25.py",
    "--prompt-enhancer-gemma-root": "test_ltx25.py",
    "--detailing-lora": "test_ltx25.py",
    "--temporal-upscalings": "test_ltx25.py",
    "--spatial-upscalings": "test_ltx25.py",
    "--audio-max-duration": "test_pipelines.py",
    "--output-path": "test_pipelines.py",
    "--config": "test_config_file.py",
    "--print-config": "test_config_file.py",
    "--from-sidecar": "test_config_file.py",
    "--resume": "test_resume.py",
    "--no-state": "test_resume.py",
    "--report": "test_generate.py",
    "--overwrite": "test_output_rules.py",
    "--no-audio": "test_output_rules.py",
    "--progress": "test_progress.py",
    "--duration": "test_everyday_words.py",
    "--quiet": "test_pipelines.py",
    "--preview": "test_outputs.py",
    "--save-control": "test_outputs.py",
    "--skip-stage-2": "test_pipelines.py",
    "--embedding": "test_encode.py",
    "--prompt-file": "test_generate.py",
    "--memory": "test_pipelines.py",
    "--plan": "test_pipelines.py",
    "--state-folder": "test_state_folder.py",
    "--hosts": "test_hosts_commands.py",
}

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALL = ["--height", "64", "--width", "64", "--frames", "9"]


def resolved(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What --print-config prints, by option, as JSON."""
    assert run(["generate", "--print-config", *arguments]) == 0, capsys.readouterr().err
    return {name: json.dumps(value) for name, value in tomllib.loads(capsys.readouterr().out).items()}


# pipeline -> (options, what --print-config must then say); {w} and {m} are the folders of weights and media.
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "distilled": (
        "words --fps 23.976 --seed 7 --dtype float32 --image {m}/photo.jpg --image-strength 0.5 --tiling 128/64,16/8 "
        "--steps 8 --steps-stage2 3 --codec hevc --crf 20 --preset fast --speed 2 --save-wav s.wav "
        "--save-first-frame f.png --contact-sheet c.png --save-latents l.safetensors --no-sidecar "
        "--temporal-upsampler-path {w}/ltx-2-temporal-upscaler-x2-1.0.safetensors --upscale-spatial --upscale-temporal "
        "--chunked --chunk-pixel-frames 41 --chunk-carry-frames 17 --chunk-blend-frames 8 "
        "--hdr ACEScct --no-prompt-cache",
        {
            "prompt": '"words"',
            "no-prompt-cache": "true",
            "hdr": '"acescct"',
            "chunked": "true",
            "chunk-pixel-frames": "41",
            "chunk-carry-frames": "17",
            "chunk-blend-frames": "8",
            "frame-rate": '"24000/1001"',
            "height": "64",
            "width": "64",
            "num-frames": "9",
            "seed": "7",
            "dtype": '"float32"',
            "image": '[["{m}/photo.jpg", 0, 0.5, 33]]',
            "tiling": '"128/64,16/8"',
            "num-inference-steps": "8",
            "codec": '"hevc"',
            "crf": "20",
            "preset": '"fast"',
            "speed": "2.0",
            "save-wav": '"{cwd}/s.wav"',
            "save-first-frame": '"{cwd}/f.png"',
            "contact-sheet": '"{cwd}/c.png"',
            "save-latents": '"{cwd}/l.safetensors"',
            "no-sidecar": "true",
            "temporal-upsampler-path": '"{w}/ltx-2-temporal-upscaler-x2-1.0.safetensors"',
            "upscale-spatial": "true",
            "upscale-temporal": "true",
        },
    ),
    "one-stage": (
        "{dev} --prompt x --negative-prompt bad --steps 5 --cfg 2 --video-stg-guidance-scale 0.5 "
        "--video-rescale-scale 0.1 --video-stg-blocks 1 2 --a2v-guidance-scale 1.5 --video-skip-step 1 "
        "--audio-cfg-guidance-scale 4 "
        "--audio-stg-guidance-scale 0.6 --audio-rescale-scale 0.2 --audio-stg-blocks 0 --v2a-guidance-scale 2 "
        "--audio-skip-step 2 --max-batch-size 4 --ge-gamma 2 --apg-scale 3 --apg-eta 0.5 --apg-norm-threshold 9 "
        "--apg-momentum 0.1 --lora {w}/style-lora.safetensors --lora-strength 0.7 --fp32 --tiled-vae --skip-vae "
        "--save-latents l.safetensors "
        "--enhance-prompt --enhance-temperature 0 --enhance-top-k 5 --enhance-top-p 0.5 --enhance-seed 6 "
        "--enhance-max-tokens 7",
        {
            "negative-prompt": '"bad"',
            "num-inference-steps": "5",
            "video-cfg-guidance-scale": "2.0",
            "video-stg-guidance-scale": "0.5",
            "video-rescale-scale": "0.1",
            "video-stg-blocks": "[1, 2]",
            "a2v-guidance-scale": "1.5",
            "video-skip-step": "1",
            "audio-cfg-guidance-scale": "4.0",
            "audio-stg-guidance-scale": "0.6",
            "audio-rescale-scale": "0.2",
            "audio-stg-blocks": "[0]",
            "v2a-guidance-scale": "2.0",
            "audio-skip-step": "2",
            "max-batch-size": "4",
            "ge-gamma": "2.0",
            "apg-scale": "3.0",
            "apg-eta": "0.5",
            "apg-norm-threshold": "9.0",
            "apg-momentum": "0.1",
            "lora": '[["{w}/style-lora.safetensors", 0.7]]',
            "dtype": '"float32"',
            "tiling": '"512/64,64/24"',
            "skip-vae": "true",
            "enhance-prompt": "true",
            "enhance-temperature": "0.0",
            "enhance-top-k": "5",
            "enhance-top-p": "0.5",
            "enhance-seed": "6",
            "enhance-max-tokens": "7",
        },
    ),
    "two-stage": (
        "{dev} {upscaler} --distilled-lora {w}/ltx-2-19b-distilled-lora-384.safetensors --distilled-lora-scale 0.8 "
        "--prompt x --steps-stage1 6 --cfg-stage1 2 --stg-scale 0.4 --stg-mode both --guidance-rescale 0.3 --fp16 "
        "--model-variant dev",
        {
            "distilled-lora": '["{w}/ltx-2-19b-distilled-lora-384.safetensors", 0.8]',
            "num-inference-steps": "6",
            "video-cfg-guidance-scale": "2.0",
            "video-stg-guidance-scale": "0.4",
            "audio-stg-guidance-scale": "0.4",
            "video-rescale-scale": "0.3",
            "audio-rescale-scale": "0.3",
            "dtype": '"float16"',
            "model-variant": '"dev"',
        },
    ),
    "two-stage-hq": (
        "{dev} {upscaler} {distilled_lora} --no-gemma --distilled-lora-strength-stage-1 0.3 "
        "--distilled-lora-strength-stage-2 0.4",
        {
            "no-gemma": "true",
            "distilled-lora-strength-stage-1": "0.3",
            "distilled-lora-strength-stage-2": "0.4",
            "num-inference-steps": "15",
            "video-stg-guidance-scale": "0.0",
            "video-rescale-scale": "0.45",
            "audio-rescale-scale": "1.0",
        },
    ),
    "ic-lora": (
        "{distilled} {upscaler} --prompt x --ic-lora-weights {w}/ltx-2-19b-ic-lora-canny-control.safetensors "
        "--control-video {m}/clip.mp4 --control-strength 0.9 --control-type canny --canny-low 50 --canny-high 80 "
        "--video-conditioning {m}/clip.mp4 --conditioning-attention-mask {m}/mask.mp4 "
        "--conditioning-attention-strength 0.4 --reference-downscale-factor 1 --fit pad --no-antialias "
        "--source-color bt601-full --stage-2-ic-lora --tile --tile-height 512 --tile-width 768",
        {
            "stage-2-ic-lora": "true",
            "tile": "true",
            "tile-height": "512",
            "tile-width": "768",
            "checkpoint-path": '"{w}/ltx-2-19b-distilled.safetensors"',
            "model-variant": '"distilled"',
            "gemma-root": '"{w}/gemma-3-12b-it-qat-q4_0-unquantized"',
            "spatial-upsampler-path": '"{w}/ltx-2-spatial-upscaler-x2-1.0.safetensors"',
            "lora": '[["{w}/ltx-2-19b-ic-lora-canny-control.safetensors", 1.0]]',
            "video-conditioning": '[["{m}/clip.mp4", 1.0], ["{m}/clip.mp4", 0.9]]',
            "control-type": '"canny"',
            "canny-low": "50",
            "canny-high": "80",
            "conditioning-attention-mask": '"{m}/mask.mp4"',
            "conditioning-attention-strength": "0.4",
            "reference-downscale-factor": "1",
            "fit": '"pad"',
            "no-antialias": "true",
            "source-color": '"bt601-full"',
        },
    ),
    "dub-it": (
        "{distilled} {upscaler} --prompt x --lora {w}/ltx-2-19b-ic-lora-canny-control.safetensors "
        "--reference-video {m}/clip.mp4 --reference-strength 0.8",
        {"reference-video": '"{m}/clip.mp4"', "reference-strength": "0.8", "height": "64"},
    ),
    "alpha-gen": (
        "{dev} --prompt x --lora {w}/ltx-2-19b-ic-lora-canny-control.safetensors --video-conditioning {m}/clip.mp4 0.5",
        {"video-conditioning": '[["{m}/clip.mp4", 0.5]]', "video-cfg-guidance-scale": "1.0"},
    ),
    "keyframe-interpolation": (
        "{dev} {upscaler} {distilled_lora} --prompt x --keyframe {m}/photo.jpg:0 --keyframe {m}/other.png:8:0.5",
        {"image": '[["{m}/photo.jpg", 0, 0.95, 33], ["{m}/other.png", 8, 0.5, 33]]'},
    ),
    "audio-to-video": (
        "{dev} {upscaler} {distilled_lora} --prompt x --audio-path {m}/music.wav --audio-start-time 0.1",
        {"audio-path": '"{m}/music.wav"', "audio-start-time": "0.1"},
    ),
    "retake": (
        "{distilled} --prompt x --video-path {m}/clip.mp4 --start-time 0.1 --end-time 0.3 --keep-video --kept-from vae",
        {
            "video-path": '"{m}/clip.mp4"',
            "start-time": "0.1",
            "end-time": "0.3",
            "keep-video": "true",
            "kept-from": '"vae"',
        },
    ),
    "extend": (
        "{distilled} --prompt x --video-path {m}/clip.mp4 --extend-frames 16 --direction before",
        {"extend-frames": "16", "direction": '"before"'},
    ),
    "hdr": (
        "{distilled} --no-gemma --hdr-lora {w}/ltx-2-19b-ic-lora-canny-control.safetensors --input {m}/clip.mp4 "
        "--input-colorspace srgb --exr-colorspace SRGB_LINEAR --high-quality --no-keyframes --keyframe-strength 0.5",
        {
            "lora": '[["{w}/ltx-2-19b-ic-lora-canny-control.safetensors", 1.0]]',
            "input": '"{m}/clip.mp4"',
            "input-colorspace": '"srgb"',
            "exr-colorspace": '"srgb_linear"',
            "high-quality": "true",
            "no-keyframes": "true",
            "keyframe-strength": "0.5",
        },
    ),
    "text-to-audio": ("{dev} --prompt x --audio-cfg-guidance-scale 5", {"audio-cfg-guidance-scale": "5.0"}),
}
SIZED = [name for name in CASES if name not in ("retake", "extend", "hdr", "text-to-audio")]


@pytest.mark.parametrize("pipeline", CASES)
def test_options_reach_the_resolved_settings(
    pipeline: str, weights: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "w": weights,
        "m": media,
        "cwd": Path.cwd(),
        "dev": " ".join(one_file(weights, "dev")),
        "distilled": " ".join(one_file(weights, "distilled")).replace("--checkpoint", "--distilled-checkpoint"),
        "upscaler": " ".join(upscaler(weights)),
        "distilled_lora": " ".join(distilled_lora(weights)),
    }
    options, wanted = CASES[pipeline]
    size = [] if pipeline not in SIZED else SMALL[:4] if pipeline == "dub-it" else SMALL
    found = resolved("--pipeline", pipeline, *options.format(**places).split(), *size, capsys=capsys)
    for name, value in wanted.items():
        filled = value
        for place in ("w", "m", "cwd"):
            filled = filled.replace(f"{{{place}}}", str(places[place]))
        assert found.get(name) == filled, name
    if pipeline == "retake":
        assert "keep-audio" not in found


def test_every_option_is_exercised_or_says_why_not() -> None:
    words = {word for options, _ in CASES.values() for word in options.split()}
    words |= {"--pipeline", "--frames", "--height", "--width", "--keep-audio", "--checkpoint-path", "--gemma-root"}
    words |= {"--distilled-checkpoint-path", "--spatial-upsampler-path"}
    for flag in FLAGS:
        if flag.target in ("inert", "refused"):
            assert len(flag.why) > 10, flag.names
        else:
            assert words & set(flag.names) or flag.names[0] in TESTED_ELSEWHERE, flag.names
    here = Path(__file__).parent
    for name, file in TESTED_ELSEWHERE.items():
        spellings = next(flag.names for flag in FLAGS if flag.names[0] == name)
        assert command_words((here / file).read_text()) & set(spellings), f"no test of {file} gives {name} to a command"


def command_words(source: str) -> set[str]:
    """Texts that the tests of a file hand on: in calls, lists and tables, but not in comments or comparisons."""
    words: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                if isinstance(side, ast.Call):  # a command whose exit code is compared
                    visit(side)
            return
        parts = {ast.Call: "args", ast.List: "elts", ast.Tuple: "elts", ast.Dict: "keys"}
        given = getattr(node, parts[type(node)]) if type(node) in parts else []
        words.update(item.value for item in given if isinstance(item, ast.Constant) and isinstance(item.value, str))
        for child in ast.iter_child_nodes(node):
            visit(child)

    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            visit(node)
    return words


def test_an_option_in_a_comment_or_a_comparison_is_not_exercised() -> None:
    source = """
def test_it(capsys):
    "--docstring"
    # "--comment"
    assert run(["generate", "--given", "x"], *more("--passed")) == 0
    assert "--compared" in capsys.readouterr().err

HELPER = ["--constant"]
"""
    assert {word for word in command_words(source) if word.startswith("--")} == {"--given", "--passed"}


def test_no_option_of_the_other_command_lines_is_missing() -> None:
    known = {name for flag in FLAGS for name in flag.names}
    assert set(OFFICIAL_NAMES.split()) - known == set()
    assert set(MLX_NAMES.split()) - known == set()


def test_names_are_unique() -> None:
    names = [name for flag in FLAGS for name in flag.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("flag", [f for f in FLAGS if f.target == "refused"], ids=lambda flag: flag.names[0])
def test_refused_options_say_why(flag: object, capsys: pytest.CaptureFixture[str]) -> None:
    count = {None: 1, "+": 1}.get(flag.nargs, flag.nargs)  # type: ignore[attr-defined]
    values = [] if flag.kind is None else ["1"] * count  # type: ignore[attr-defined]
    assert run(["generate", "--prompt", "x", flag.names[0], *values]) == 2  # type: ignore[attr-defined]
    assert f"{flag.names[0]} is refused: {flag.why}" in capsys.readouterr().err  # type: ignore[attr-defined]


def test_options_without_effect_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    inert = [flag for flag in FLAGS if flag.target == "inert"]
    values = {"--offload": ["cpu"], "--quantization": ["fp8-cast"], "--cross-attn-scale": ["2"]}
    values["--diffvae-optimization"] = ["chunked_eager"]
    words = [word for flag in inert for word in (flag.names[0], *values.get(flag.names[0], []))]
    assert run(["generate", "--prompt", "x", "--print-config", *words]) == 0
    error = capsys.readouterr().err
    for flag in inert:
        assert f"{flag.names[0]} has no effect: {flag.why}" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-frame", "9"], "did you mean --num-frames instead of --num-frame?"),
        (["--sed", "9"], "did you mean --seed instead of --sed?"),
        (["--pipeline", "two-stages"], "unknown pipeline 'two-stages'; did you mean two-stage?"),
        (["--steps", "3", "--num-inference-steps", "4"], "--steps says 3, but --num-inference-steps, another name"),
        (
            ["--fp16", "--dtype", "float32"],
            "--fp16 says float16, but --dtype or another of its short forms says float32",
        ),
        (["--fp16", "--fp32"], "--fp32 says float32"),
        (["--image-strength", "0.5"], "--image-strength goes with --image"),
        (["--lora-strength", "0.5"], "--lora-strength goes with --lora"),
        (["--distilled-lora-scale", "0.5"], "--distilled-lora-scale goes with --distilled-lora"),
        (["--control-strength", "0.5"], "--control-strength goes with --control-video"),
        (["--stg-mode", "both"], "--stg-mode goes with --stg-scale"),
        (["--steps-stage2", "4"], "the second stage is fixed at 3 steps, got 4"),
        (["--keyframe", "a.png"], "--keyframe takes PATH:FRAME"),
        (["--embedding", "e.npz", "--no-gemma"], "contradict each other"),
        (["--no-gemma", "--enhance-prompt"], "--enhance-prompt rewrites a prompt, but --no-gemma"),
        (["--pipeline", "one-stage", "--no-gemma", "--negative-prompt", "x"], "--negative-prompt has no effect with"),
        (["--pipeline", "one-stage", "--apg-eta", "0.5"], "need --apg-scale other than 1"),
        (
            ["--pipeline", "one-stage", "--control-video", "c.mp4"],
            "--control-video has no meaning for the pipeline one-stage",
        ),
        (["--video-cfg-guidance-scale", "3"], "--video-cfg-guidance-scale has no meaning for the pipeline distilled"),
        (["--stg-scale", "3"], "--video-stg-guidance-scale has no meaning for the pipeline distilled"),
    ],
)
def test_unknown_and_contradictory_options_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run(["generate", "--prompt", "x", *words])
    except SystemExit as exit_by_parser:
        code = exit_by_parser.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_help_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["generate", "--help"])
    text = capsys.readouterr().out
    for group in dict.fromkeys(flag.group for flag in FLAGS):
        assert f"\n{group}:\n" in text


def test_the_options_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "options.md"
    assert page.read_text() == options_markdown(), "run: python -m ltx2rt.cli.option_docs > docs/options.md"
