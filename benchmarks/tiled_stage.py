"""Predicted and measured memory of an IC-LoRA stage in tiles, at the real width of the model and with a few blocks.

    python benchmarks/tiled_stage.py FOLDER --manifests DIR [--layers 1] [--size 17 1088 1920] [--tile 1024 1536]
        [--steps 2] [--memory 16GB] [--strength 0.5]

Makes (or reuses) synthetic weight files in FOLDER: the first blocks of LTX-2.3 22B FP8 and of its distilled LoRA, which
stands for an IC-LoRA. Runs ic-lora in one stage at full size with a reference of half the size, zeros in place of the
text, no decoding, in a process of its own, and prints what each stage was predicted to take and took. Exits with 1
where a prediction is more than 5 % off.
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
RATE = 24
TOLERANCE = 0.05

# A run in a process of its own, whose report it prints.
ONE_CALL = """
import json
import sys

import ltx2rt

call = json.loads(sys.argv[1])
settings = call["settings"]
pipeline = ltx2rt.load("ic-lora", checkpoint=call["checkpoint"], loras=[(call["lora"], 0.5)], keep_loaded=False)
videos = [ltx2rt.VideoInput(path, strength) for path, strength in settings.pop("video_conditioning")]
divisor, with_reference, sigmas, tile = call["stage"]
stage = ltx2rt.IcLoraStage(divisor, with_reference, tuple(sigmas), tuple(tile))
clip = pipeline(
    zero_text=True,
    latents_only=True,
    seed=10,
    video_conditioning=videos,
    stages=[stage],
    memory=call["memory"],
    **settings,
)
assert clip.video_latent is not None
print(json.dumps([stage.as_dict() for stage in clip.report]))
"""


def made(folder: Path, manifests: Path, name: str, layers: int) -> Path:
    """So many blocks of the weight file of a manifest, made if it is missing."""
    path = folder / f"{name}-{layers}.safetensors"
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
        Ltx2rtError: the run failed.
    """
    folder, manifests = arguments.folder, arguments.manifests
    frames, height, width = arguments.size
    sigmas = np.linspace(0.909375, 0, arguments.steps + 1)
    call = {
        "checkpoint": str(made(folder, manifests, MODEL, arguments.layers)),
        "lora": str(made(folder, manifests, LORA, arguments.layers)),
        "memory": arguments.memory,
        "stage": [1, True, [float(sigma) for sigma in sigmas], list(arguments.tile)],
        "settings": {
            "video_conditioning": [[str(reference_clip(folder / "reference.mp4", frames)), 1.0]],
            "conditioning_attention_strength": arguments.strength,
            "reference_downscale_factor": 2,
            "num_frames": frames,
            "height": height,
            "width": width,
            "frame_rate": RATE,
        },
    }
    done = subprocess.run([sys.executable, "-c", ONE_CALL, json.dumps(call)], cwd=folder, stdout=subprocess.PIPE)
    if done.returncode:
        raise Ltx2rtError(f"the run ended with exit code {done.returncode}.")
    stages: list[dict[str, Any]] = json.loads(done.stdout)
    return stages


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for weight files and results")
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the tensor manifests")
    parser.add_argument("--layers", type=int, default=1, help="blocks of the transformer")
    parser.add_argument("--size", nargs=3, type=int, default=(17, 1088, 1920), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=2, help="of the sampler")
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
