"""Predicted and measured memory of IC-LoRA's stages in tiles, at the real width of the model and with a few blocks.

    python benchmarks/tiled_stage.py FOLDER --manifests DIR [--layers 2] [--size 9 1088 1920] [--tile 1024 1536]
        [--memory 16GB] [--strength 0.5]

Makes (or reuses) synthetic weight files in FOLDER: the first blocks of LTX-2.3 22B FP8, of its distilled LoRA, which
stands for an IC-LoRA, and the spatial upscaler. Runs ic-lora with references and tiles in both stages, zeros in place
of the text, no decoding, and prints what each stage was predicted to take and took. Exits with 1 where a prediction is
more than 5 % off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

# After the folder of this checkout stands in the path.
import make_synthetic_checkpoint as synthetic  # noqa: E402

from ltx2rt.errors import Ltx2rtError  # noqa: E402

MODEL, LORA = "ltx-2.3-22b-distilled-fp8", "ltx-2.3-22b-distilled-lora-384"
UPSCALER = "ltx-2.3-spatial-upscaler-x2-1.0"
RATE = 24
TOLERANCE = 0.05


def made(folder: Path, manifests: Path, name: str, layers: int | None) -> Path:
    """The weight file of a manifest, made if it is missing; ``layers``: so many blocks of it."""
    path = folder / f"{name}{'' if layers is None else f'-{layers}'}.safetensors"
    if not path.exists():
        print(f"tiled_stage: making {path}", file=sys.stderr, flush=True)
        synthetic.write_from_manifest(manifests / f"{name}.safetensors.json", path, layers=layers)
    return path


def reference_clip(path: Path, frames: int) -> Path:
    """A control video of moving stripes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 480, 272, "yuv420p"
        for index in range(frames):
            columns = (np.arange(480) + 4 * index) // 16 % 2 * 200
            picture = np.broadcast_to(columns.astype(np.uint8)[None, :, None], (272, 480, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The stages of one run's report.

    Raises:
        Ltx2rtError: the command failed.
    """
    folder, manifests = arguments.folder, arguments.manifests
    frames, height, width = arguments.size
    report = folder / "tiled-stage.json"
    words = [sys.executable, "-m", "ltx2rt.cli", "generate", "stripes that move", "--pipeline", "ic-lora", "--no-gemma"]
    words += ["--checkpoint-path", str(made(folder, manifests, MODEL, arguments.layers))]
    words += ["--lora", str(made(folder, manifests, LORA, arguments.layers)), "0.5"]
    words += ["--spatial-upsampler-path", str(made(folder, manifests, UPSCALER, None))]
    words += ["--video-conditioning", str(reference_clip(folder / "reference.mp4", frames))]
    words += ["--conditioning-attention-strength", str(arguments.strength)]
    words += ["--num-frames", str(frames), "--height", str(height), "--width", str(width), "--frame-rate", str(RATE)]
    words += ["--stage-2-ic-lora", "--tile", "--tile-height", str(arguments.tile[0])]
    words += ["--tile-width", str(arguments.tile[1]), "--memory", arguments.memory, "--seed", "10"]
    words += ["--skip-vae", "--save-latents", str(folder / "latents.safetensors"), "--report", str(report)]
    words += ["--no-state", "--no-sidecar", "--overwrite"]
    done = subprocess.run(words, cwd=folder, check=False)
    if done.returncode:
        raise Ltx2rtError(f"ltx2rt generate ended with exit code {done.returncode}.")
    stages: list[dict[str, Any]] = json.loads(report.read_text())["stages"]
    return stages


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for weight files and results")
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the tensor manifests")
    parser.add_argument("--layers", type=int, default=2, help="blocks of the transformer")
    parser.add_argument("--size", nargs=3, type=int, default=(9, 1088, 1920), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--tile", nargs=2, type=int, default=(1024, 1536), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--memory", default="16GB", help="budget")
    parser.add_argument("--strength", type=float, default=1.0, help="how strongly the clip attends to the reference")
    arguments = parser.parse_args(words)
    arguments.folder = arguments.folder.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        stages = run(arguments)
    except Ltx2rtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| stage | predicted GB | measured GB | ratio | seconds |\n|---|---:|---:|---:|---:|")
    good = True
    for stage in stages:
        planned, measured = stage["planned_peak_bytes"], stage["resident_peak_bytes"]
        ratio = planned / measured
        good &= abs(ratio - 1) <= TOLERANCE
        print(
            f"| {stage['name']} | {planned / 1e9:.3f} | {measured / 1e9:.3f} | {ratio:.3f} | {stage['seconds']:.1f} |"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
