"""The command with a pack of LTX-2.5: what only this generation can do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_inputs import video_file
from ltx25_pack import STOCK, write_diffusion_vae, write_encoder, write_lora, write_pack
from PIL import Image

from ltx2rt import embedded
from ltx2rt.cli.main import run
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.settings import settings

SIZE = ["--height", "64", "--width", "64"]
OPTIONS = {
    "transformer": "--transformer-path",
    "text_encoder": "--text-encoder-path",
    "video_vae": "--video-vae-path",
    "audio_vae": "--audio-vae-path",
    "duration_head": "--duration-head-path",
    "spatial_upscaler": "--spatial-upsampler-path",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pack(tmp_path_factory.mktemp("pack"))


def words(pack: dict[str, Path]) -> list[str]:
    """A pack as options."""
    return [word for name, path in pack.items() for word in (OPTIONS[name], str(path))]


def test_generated_key_frames(pack: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dog", *words(pack), *SIZE, "--num-frames", "17", "--print-config"]
    for places, said in (("2", "= 2"), ("4,11", '= "4,11"'), ("4,", '= "4,"')):
        assert run([*command, "--num-generated-keyframes", places]) == 0
        assert f"num-generated-keyframes {said}" in capsys.readouterr().out
    assert run([*command, "--num-generated-keyframes", "100"]) == 2
    assert "--num-generated-keyframes: 100 between the first and the last frame need" in capsys.readouterr().err
    assert run([*command, "--decode-with-keyframes"]) == 2
    error = capsys.readouterr().err
    assert "--decode-with-keyframes needs key frames to look at; give --num-generated-keyframes" in error


def test_a_predicted_length(pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dog", *words(pack), *SIZE]
    assert run([*command, "--auto-duration", "0.1", "0.5", "--print-config"]) == 0
    assert "auto-duration = [\n    0.1,\n    0.5,\n]" in capsys.readouterr().out
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    saving = ["--skip-vae", "-o", str(tmp_path / "clip.mp4"), "--save-latents"]
    assert run([*command, *saving, str(first), "--auto-duration", "0.1", "0.5"]) == 0
    assert "length: 0.70 s are predicted, 9 frames are made" in capsys.readouterr().err
    # Its record repeats it.
    assert run(["generate", "--from-sidecar", f"{first}.json", *saving, str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()
    capsys.readouterr()
    for seconds, said in (
        (("8", "2"), "--auto-duration: the shortest clip comes first, got 8 s and 2 s; exchange them"),
        (("0", "2"), "--auto-duration must be two numbers of seconds above 0, the shortest first"),
        (("a", "2"), "--auto-duration MIN must be a number, got 'a'"),
    ):
        assert run([*command, "--auto-duration", *seconds, "--print-config"]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of both variants in folders of their own, LoRAs, and media."""
    root = tmp_path_factory.mktemp("models")
    for variant in ("dev", "distilled"):
        (root / variant).mkdir()
        pack = write_pack(root / variant, variant)
        shutil.copy(
            pack["spatial_upscaler"], root / variant / "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors"
        )
    write_lora(root / "ltx-2.5-22b-distilled-lora-450-bf16.safetensors")
    write_lora(root / "ltx-2.5-22b-ic-lora.safetensors", 2, reference_downscale_factor="1")
    video_file(root / "clip.mp4")
    Image.new("RGB", (80, 60), (200, 30, 40)).save(root / "picture.png")
    return root


# Options besides those of the files; {r} is the folder.
_GUIDED = "--num-frames 9 --steps 2"
_REFINED = f"{_GUIDED} --distilled-lora {{r}}/ltx-2.5-22b-distilled-lora-450-bf16.safetensors"
PIPELINE_WORDS = {
    "distilled": "--num-frames 9",
    "one-stage": _GUIDED,
    "two-stage": _REFINED,
    "two-stage-hq": _REFINED,
    "ic-lora": "--num-frames 9 --lora {r}/ltx-2.5-22b-ic-lora.safetensors --video-conditioning {r}/clip.mp4",
    "dfr": "--num-frames 9 --detailing-lora {r}/ltx-2.5-22b-ic-lora.safetensors",
    "dub-it": "--lora {r}/ltx-2.5-22b-ic-lora.safetensors --reference-video {r}/clip.mp4",
    "alpha-gen": f"{_GUIDED} --lora {{r}}/ltx-2.5-22b-ic-lora.safetensors --video-conditioning {{r}}/clip.mp4",
    "keyframe-interpolation": f"{_REFINED} --image {{r}}/picture.png 0",
    "audio-to-video": f"{_REFINED} --audio-path {{r}}/clip.mp4",
    "retake": "--video-path {r}/clip.mp4 --start-time 0.1 --end-time 0.3",
    "extend": "--video-path {r}/clip.mp4 --extend-frames 8",
    "text-to-audio": _GUIDED,
    "hdr": "--no-gemma --lora {r}/ltx-2.5-22b-ic-lora.safetensors --input {r}/clip.mp4",
}


# The tests of the pipelines run the others with such files.
FROM_A_FOLDER = ("keyframe-interpolation",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FROM_A_FOLDER else pytest.mark.slow) for name in PIPELINES]
)
def test_every_pipeline_runs_from_a_folder(name: str, folder: Path, tmp_path: Path) -> None:
    entry = PIPELINES[name]
    variants = ("dev", "distilled") if entry.variant is None else (entry.variant,)
    for variant in variants:
        more = PIPELINE_WORDS[name].format(r=folder).split()
        more += SIZE if settings.SIZE in entry.topics else []
        more += ["--steps", "2"] if entry.variant is None and variant == "dev" else []
        output = tmp_path / f"{variant}{'.wav' if entry.output == 'sound' else '.mp4'}"
        command = ["generate", "--quiet", "--pipeline", name, "--checkpoint-path", str(folder / variant)]
        more += [] if name == "hdr" else ["--prompt", "a dog"]
        assert run([*command, *more, "-o", str(output)]) == 0
        assert json.loads(Path(f"{output}.json").read_text())["files"]["pipeline"] == name


def test_dfr(pack: dict[str, Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "a dog", "--pipeline", "dfr", *words(pack), "--no-gemma", "--num-frames", "9"]
    assert run([*command, *SIZE, "--print-config"]) == 2
    assert "--detailing-lora FILE is required by this pipeline" in capsys.readouterr().err
    command += ["--detailing-lora", str(folder / "ltx-2.5-22b-ic-lora.safetensors"), "0.5"]
    for more, said in (
        (["--temporal-upscalings", "3"], "--temporal-upscalings must be 0 to 2, got 3"),
        (
            ["--temporal-upscalings", "1"],
            "--temporal-upscalings 1 requires the temporal upscaler; give --temporal-upsa",
        ),
        (["--spatial-upscalings", "2"], "--height must be a multiple of 128, got 64"),
        (["--upscale-spatial"], "give --spatial-upscalings in its place"),
    ):
        assert run([*command, *SIZE, *more, "--print-config"]) == 2
        assert said in capsys.readouterr().err
    command += ["--temporal-upsampler-path", str(embedded.TEMPORAL_UPSCALER), "--temporal-upscalings", "1"]
    command += ["--spatial-upscalings", "2", "--height", "128", "--width", "128"]
    assert run([*command, "--plan"]) == 0
    assert "full size 1 of 1 fine" in capsys.readouterr().out
    first = tmp_path / "first.safetensors"
    saving = ["--skip-vae", "-o", str(tmp_path / "clip.mp4"), "--save-latents", str(first)]
    assert run([*command, *saving, "--progress", "json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (coarse,) = (one for one in told if one.get("stage") == "full size 1 of 1 coarse" and one["state"] == "finished")
    # Of the stages, the round, and the first phase of the last one.
    assert (coarse["clip_step"], coarse["clip_of"]) == (8 + 3 + 4 + 1, 8 + 3 + 4 + 3)
    settings = json.loads(Path(f"{first}.json").read_text())["settings"]
    assert (settings["temporal_upscalings"], settings["spatial_upscalings"]) == (1, 2)
    # What a sidecar repeats is the same.
    printed = []
    for words_of_one in (command, ["generate", "--from-sidecar", f"{first}.json"]):
        assert run([*words_of_one, *saving, "--print-config"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_a_text_embedding_goes_with_its_generation_alone(
    pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {name: path for name, path in pack.items() if name in ("transformer", "text_encoder")}
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    assert run(["encode", "a dog", *words(parts), "--output", str(own)]) == 0
    assert run(["encode", "a dog", "--output", str(other)]) == 0
    without = {name: path for name, path in pack.items() if name != "text_encoder"}
    command = ["generate", *words(without), *SIZE, "--num-frames", "9", "--print-config", "--embedding"]
    assert run([*command, str(own)]) == 0
    capsys.readouterr()
    assert run([*command, str(other)]) == 1
    assert "a text embedding for generation 19b, but the checkpoint is 2.5" in capsys.readouterr().err
    # Nor do other models take that of 2.5.
    assert run(["generate", "--embedding", str(own), *SIZE, "--num-frames", "9", "--print-config"]) == 1
    assert "a text embedding for generation 2.5, but the checkpoint is 19b" in capsys.readouterr().err


def test_latents_are_enlarged(pack: dict[str, Path], tmp_path: Path) -> None:
    latents = tmp_path / "small.safetensors"
    making = ["generate", "--quiet", "a dog", *words(pack), *SIZE, "--num-frames", "9", "--skip-vae"]
    assert run([*making, "--save-latents", str(latents), "-o", str(tmp_path / "unused.mp4")]) == 0
    parts = {name: path for name, path in pack.items() if name in ("video_vae", "audio_vae", "spatial_upscaler")}
    assert run(["upscale", str(latents), *words(parts), "-o", str(tmp_path / "large.mp4")]) == 0
    assert (tmp_path / "large.mp4").stat().st_size > 0


def test_other_text_encoders(pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {
        embedded.TEXT_ENCODER: "text encoder of generation 19b or 2.3",
        write_encoder(tmp_path, STOCK): f"this is '{STOCK}'; give the text encoder that was published with",
    }
    for path, said in others.items():
        command = ["generate", "a dog", *words({**pack, "text_encoder": path}), *SIZE, "--num-frames", "9"]
        assert run([*command, "--print-config"]) == 1
        assert said in capsys.readouterr().err


def test_prompts_are_rewritten_by_another_gemma_alone(
    pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "a dog", *words(pack), *SIZE, "--num-frames", "9", "--enhance-prompt"]
    assert run([*command, "--print-config"]) == 2
    assert "give another Gemma with --prompt-enhancer-gemma-root FOLDER, or leave out --enhance-prompt" in (
        capsys.readouterr().err
    )
    other = ["--prompt-enhancer-gemma-root", str(embedded.TEXT_ENCODER)]
    assert run([*command[:-1], *other, "--print-config"]) == 0
    assert "--prompt-enhancer-gemma-root has no effect without --enhance-prompt" in capsys.readouterr().err
    assert run([*command[:-1], *other, "--enhance-seed", "3", "--print-config"]) == 2
    assert "--enhance-seed: no prompt is rewritten; give --enhance-prompt, too" in capsys.readouterr().err
    making = [
        *command,
        *other,
        "--enhance-max-tokens",
        "4",
        "--skip-vae",
        "--save-latents",
        str(tmp_path / "l.safetensors"),
    ]
    assert run([*making, "-o", str(tmp_path / "clip.mp4")]) == 0
    assert json.loads((tmp_path / "l.safetensors.json").read_text())["result"]["enhanced_prompt"] != "a dog"
    assert run([*making, "--plan"]) == 0
    assert "prompt enhancement" in capsys.readouterr().out


def test_two_video_decoders(pack: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_diffusion_vae(tmp_path)
    command = ["generate", "a dog", *words(pack), "--video-vae-path", str(other), *SIZE, "--num-frames", "9", "--plan"]
    peaks = {}
    for choice in ([], ["--video-decoder", "diffusion"], ["--video-decoder", "conv"]):
        assert run([*command, *choice]) == 0
        lines = capsys.readouterr().out.splitlines()
        peaks[tuple(choice)] = next(line for line in lines if line.startswith("video decoder"))
    default, diffusion, conv = peaks.values()
    assert default.split()[2] == diffusion.split()[2] != conv.split()[2]
    alone = ["generate", "a dog", *words({**pack, "video_vae": other}), *SIZE, "--num-frames", "9", "--plan"]
    assert run([*alone, "--video-decoder", "conv"]) == 1
    assert "convolutional decoder (ltx-2.5-video-vae-conv-bf16.safetensors)" in capsys.readouterr().err
    assert run(["generate", "a red circle", "--video-decoder", "diffusion", "--plan"]) == 1
    error = capsys.readouterr().err
    assert "diffusion decoder (ltx-2.5-video-vae-bf16.safetensors)" in error
    assert error.count(f"{embedded.CHECKPOINT.name} (19b)") == 1
    assert error.splitlines()[-1].startswith("error: ")  # in one sentence
