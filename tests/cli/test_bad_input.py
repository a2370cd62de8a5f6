"""Media, weights and numbers that cannot work: each gives one clear error before anything is computed, and no file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_inputs import distilled_lora, lora_file, one_file, upscaler, video_file
from PIL import Image

from ltx2rt.cli.main import run
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors

SMALL = ["--height", "64", "--width", "64", "--num-frames", "9"]
PROMPT = ["--prompt", "a red circle"]


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """Broken and unfitting files."""
    folder = tmp_path_factory.mktemp("bad")
    video_file(folder / "ten-frames.mp4", frames=10)
    video_file(folder / "slow.mp4", rate=12)
    video_file(folder / "silent.mp4", sound=False)
    with VideoWriter(folder / "odd-size.mp4", 80, 64, 24) as writer:
        writer.write(np.zeros((9, 64, 80, 3), np.uint8))
    with VideoWriter(folder / "wide-mask.mp4", 128, 64, 24) as writer:
        writer.write(np.zeros((9, 64, 128, 3), np.uint8))
    with VideoWriter(folder / "short-mask.mp4", 64, 64, 24) as writer:
        writer.write(np.zeros((5, 64, 64, 3), np.uint8))
    whole = (folder / "slow.mp4").read_bytes()
    (folder / "corrupt.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    (folder / "corrupt.wav").write_bytes(b"RIFF\x10\x00\x00\x00WAVEjunk")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "black.png")
    lora_file(folder / "good.safetensors")
    with_pairs = SafetensorsFile(folder / "good.safetensors")
    tensors = {name: with_pairs.numpy(name) for name in with_pairs.tensors}
    with_pairs.close()
    wider = {name: np.concatenate([a, a], axis=1) if ".lora_A." in name else a for name, a in tensors.items()}
    write_safetensors(folder / "other-generation.safetensors", wider)
    first = next(name for name in tensors if ".lora_A." in name)
    write_safetensors(folder / "rank-mismatch.safetensors", {**tensors, first: tensors[first][:1]})
    renamed = {name.replace("transformer_blocks", "double_blocks"): a for name, a in tensors.items()}
    write_safetensors(folder / "other-model.safetensors", renamed)
    return folder


RETAKE = "--pipeline retake {distilled} --start-time 0.1 --end-time 0.3 --video-path "
EXTEND = "--pipeline extend {distilled} --video-path {m}/clip.mp4 "
IC_LORA = "--pipeline ic-lora {distilled} {upscaler} --lora {b}/good.safetensors {small} --video-conditioning "
KEYFRAMES = "--pipeline keyframe-interpolation {dev} {upscaler} {lora} {small} "
SOUND = "--pipeline audio-to-video {dev} {upscaler} {lora} {small} --audio-path "

CASES = {
    "retake of a wrong frame count, not to be fitted": (
        RETAKE + "{b}/ten-frames.mp4 --fit error",
        "has 10 frames of 64x64; with --fit error the number must be 8*k + 1",
    ),
    "retake of a wrong size, not to be fitted": (
        RETAKE + "{b}/odd-size.mp4 --fit error",
        "frames of 80x64; with --fit error the number must be 8*k + 1 and both sides multiples of 32",
    ),
    "retake of a corrupt container": (RETAKE + "{b}/corrupt.mp4", "corrupt.mp4 cannot be read"),
    "retake of a picture": (RETAKE + "{m}/music.wav", "has no video stream"),
    "retake of nothing": (
        "--pipeline retake {distilled} --start-time 0 --end-time 1",
        "no clip to edit; give --video-path FILE",
    ),
    "retake without times": ("--pipeline retake {distilled} --video-path {m}/clip.mp4", "retake needs a time range"),
    "retake that ends before it begins": (
        RETAKE + "{m}/clip.mp4 --start-time 0.3 --end-time 0.2",
        "must begin before it ends, got 0.3 s to 0.2 s",
    ),
    "retake that begins at its end": (RETAKE + "{m}/clip.mp4 --end-time 0.1", "must begin before it ends"),
    "retake outside the clip": (
        RETAKE + "{m}/clip.mp4 --start-time 5 --end-time 6",
        "must lie within the clip, 0 to 0.375 s, got 5.0",
    ),
    "retake of nothing at all": (RETAKE + "{m}/clip.mp4 --keep-video --keep-audio", "changes nothing"),
    "guidance of a distilled retake": (
        RETAKE + "{m}/clip.mp4 --cfg 3",
        "guidance has no meaning for a distilled checkpoint",
    ),
    "extend by a wrong number": (EXTEND + "--extend-frames 12", "positive multiple of 8 frames, got 12; use 8"),
    "control video of another rate": (
        IC_LORA + "{b}/slow.mp4",
        "slow.mp4 has 12 frames/s, the clip 24; give --frame-rate 12",
    ),
    "a fit without pictures": ("--pipeline one-stage {dev} {small} --fit pad", "--fit concerns images and clips"),
    "antialiasing without pictures": (
        "--pipeline one-stage {dev} {small} --no-antialias",
        "--no-antialias concerns images and clips that are read; give one, or leave it out",
    ),
    "control strength": (IC_LORA + "{m}/clip.mp4 1.5", "reference video strength must be between 0 and 1, got 1.5"),
    "mask of another shape": (
        IC_LORA + "{m}/clip.mp4 --conditioning-attention-mask {b}/wide-mask.mp4",
        "is 128x64, which has not the shape of a 64x64 clip",
    ),
    "mask of another length": (
        IC_LORA + "{m}/clip.mp4 --conditioning-attention-mask {b}/short-mask.mp4",
        "has 5 frames, the clip 9",
    ),
    "mask strength": (
        IC_LORA + "{m}/clip.mp4 --conditioning-attention-mask {b}/black.png 2",
        "--conditioning-attention-strength must be 0 to 1, got 2.0",
    ),
    "canny thresholds without canny": (
        IC_LORA + "{m}/clip.mp4 --canny-low 30",
        "--canny-low goes with --control-type canny; give it, too",
    ),
    "canny thresholds": (
        IC_LORA + "{m}/clip.mp4 --control-type canny --canny-low 300",
        "0 <= low <= high, got 300 and 200",
    ),
    "ic-lora without a LoRA": (
        "--pipeline ic-lora {distilled} {upscaler} {small} --video-conditioning {m}/clip.mp4",
        "ic-lora needs an IC-LoRA",
    ),
    "ic-lora without a video": (
        "--pipeline ic-lora {distilled} {upscaler} {small} --lora {b}/good.safetensors",
        "ic-lora needs a control video or an image",
    ),
    "key frame outside the clip": (
        KEYFRAMES + "--image {m}/photo.jpg 9 1.0",
        "image frame index must be 0 to 8 for this clip, got 9",
    ),
    "key frame before the clip": (
        KEYFRAMES + "--keyframe {m}/photo.jpg:-10",
        "must be 0 to 8 for this clip, got -10",
    ),
    "overlapping key frames": (
        KEYFRAMES + "--keyframe {m}/photo.jpg:8 --image {m}/other.png 8",
        "--image: two of them stand at frame 8",
    ),
    "no key frame": (KEYFRAMES, "needs at least one key frame"),
    "image strength": ("{small} --image {m}/photo.jpg 0 1.2", "image strength must be between 0 and 1, got 1.2"),
    "image quality": ("{small} --image {m}/photo.jpg 0 1 60", "image crf must be 0 to 51, got 60"),
    "sound file without sound": (SOUND + "{b}/silent.mp4", "has no sound track"),
    "corrupt sound file": (SOUND + "{b}/corrupt.wav", "corrupt.wav cannot be read"),
    "sound from beyond its end": (SOUND + "{m}/music.wav --audio-start-time 9", "has no sound from 9 s on"),
    "sound from before its beginning": (SOUND + "{m}/music.wav --audio-start-time -1", "start time must be 0 or more"),
    "no sound": (
        "--pipeline a2v {dev} {upscaler} {lora} {small}",
        "no sound to make pictures for; give --audio-path FILE",
    ),
    "LoRA for another generation": (
        "{distilled} {upscaler} --lora {b}/other-generation.safetensors",
        "use a LoRA made for this generation of the model",
    ),
    "LoRA for another model": (
        "{distilled} {upscaler} --lora {b}/other-model.safetensors",
        "modules of this LoRA exists in ltx-2-19b-distilled.safetensors",
    ),
    "LoRA with two ranks": ("{distilled} {upscaler} --lora {b}/rank-mismatch.safetensors", "the ranks of A"),
    "LoRA strength": ("{distilled} {upscaler} --lora {b}/good.safetensors inf", "must be a number, got 'inf'"),
    "distilled LoRA without a use": (
        "--pipeline distilled {distilled} {upscaler} {lora}",
        "this pipeline has no use for the distilled LoRA; leave --distilled-lora out",
    ),
    "two stages without an upscaler": (
        "--pipeline distilled {distilled}",
        "give the upscaler with --spatial-upsampler-path",
    ),
    "two stages with another upscaler": (
        "{distilled} --spatial-upsampler-path {w}/spatial-upscaler-x1.5.safetensors",
        "enlarges 1.5 times; give the x2 upscaler",
    ),
    "a temporal upscaler for a spatial one": (
        "{distilled} --spatial-upsampler-path {w}/ltx-2-temporal-upscaler-x2-1.0.safetensors",
        "a temporal upscaler, but a spatial one is needed",
    ),
    "two stages without the distilled LoRA": (
        "--pipeline two-stage {dev} {upscaler}",
        "needs the distilled LoRA; give it with --distilled-lora",
    ),
    "distilled with other step counts": ("--steps 4", "fixed at 8 + 3 steps, got 4"),
    "a final upscaler that is missing": (
        "{distilled} {upscaler} {small} --upscale-temporal",
        "--upscale-temporal needs its upscaler; give it with --temporal-upsampler-path",
    ),
    "blocks that do not exist": ("--pipeline one-stage {dev} --video-stg-blocks 29", "must name blocks 0 to"),
    "a playback speed": ("{small} --speed 0", "--speed must be 0.1 to 10, got 0.0"),
    "a batch of nothing": ("--pipeline one-stage {dev} --max-batch-size 0", "--max-batch-size must be 1 to 8, got 0"),
    "a quality": ("{small} --crf 60", "--crf must be 0 to 51, got 60"),
    "more frames than there is memory for": (
        "{small} --num-frames 8000000001",
        "the clip is too large: with --height 64, --width 64, --num-frames 8000000001 its latent has 5.1e+11 values",
    ),
    "pictures of any size": ("{small} --height 6400000000 --width 6400000000", "the clip is too large: with --height"),
    "a length in seconds": ("--duration 1e15", "the clip is too large: with --height"),
    "a rate close to none": (
        "--pipeline t2a {dev} --frame-rate 0.001 --num-frames 1000001 -o {out}/x.wav",
        "the clip is too large: with --num-frames 1000001, --frame-rate 1/1000 its latent has 3.2e+12 values",
    ),
    "a text-to-audio clip": ("--pipeline t2a {dev} --num-frames 9 -o {out}/x.mp4", "--output-path must end in .wav"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error_and_no_file(
    case: str, tmp_path: Path, weights: Path, media: Path, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = CASES[case]
    places = {
        "w": str(weights),
        "m": str(media),
        "b": str(bad),
        "out": str(tmp_path),
        "small": " ".join(SMALL),
        "dev": " ".join(one_file(weights, "dev")),
        "distilled": " ".join(one_file(weights, "distilled")),
        "upscaler": " ".join(upscaler(weights)),
        "lora": " ".join(distilled_lora(weights)),
    }
    words = options.format(**places).split()
    suffix = "wav" if "t2a" in options else "mp4"
    output = [] if "-o" in words else ["-o", str(tmp_path / f"clip.{suffix}")]
    assert run(["generate", *PROMPT, *output, *words]) in (1, 2)
    error = capsys.readouterr().err
    (line,) = [text for text in error.splitlines() if text.startswith("error: ")]
    assert message in line
    assert "settings:" not in error
    assert list(tmp_path.iterdir()) == []
