"""Measures the memory of the video decoder and encoder of a weight file for clips of several lengths.

    python benchmarks/clip_length.py CHECKPOINT [--size 256] [--frames 25 121]

Every clip is decoded and encoded in a process of its own, as stages of a pipeline; decoded frames go to an H.264
encoder. The peak of the process may differ by 5 % between the lengths, by 15 % with the diffusion decoder, whose first
clip may be shorter than what its windows reach. The prediction shown counts with a sound track, which is not there.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.stages.decode import stage as decode_stages
from ltx2rt.graph.stages.encode import stage as encode_stages
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.weight_set import WeightSet, sources_of
from ltx2rt.media.video_writer import VideoWriter
from ltx2rt.memory.ledger import Ledger
from ltx2rt.weights.checkpoint import Checkpoint

BUDGET = 8 * 10**9
KINDS = ("decode", "encode")


def measure(checkpoint: Path, kind: str, size: int, frames: int) -> None:
    """Run one stage in this process and print its report as JSON."""
    gc.freeze()
    inputs = GenerationInputs(Settings(), size, size, frames, Fraction(24))
    run = Run(WeightSet(sources_of(Checkpoint.open(checkpoint))), inputs, ledger=Ledger(BUDGET))
    rng = np.random.default_rng(0)
    if kind == "decode":
        shape = (1, (frames - 1) // 8 + 1, size // 32, size // 32, 128)
        chunks = decode_stages.decode_video(run, rng.standard_normal(shape, dtype=np.float32))
        with (
            tempfile.TemporaryDirectory() as folder,
            VideoWriter(Path(folder) / "clip.mp4", width=size, height=size, frame_rate=24) as writer,
        ):
            for chunk in chunks():
                writer.write(chunk)
    else:
        # One frame again and again, so that the caller's clip takes no memory that grows.
        frame = rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        encode_stages.encode_pixels(run, "video encoder", [np.broadcast_to(frame, (frames, size, size, 3))])
    (report,) = run.stages.reports
    print(json.dumps(report.as_dict()))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default 256)")
    parser.add_argument("--frames", type=int, nargs="+", default=[25, 121])
    parser.add_argument("--one", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.one:
        measure(arguments.checkpoint, arguments.one, arguments.size, arguments.frames[0])
        return 0
    good = True
    diffusion = VIDEO_VAE.parse(Checkpoint.open(arguments.checkpoint)).diffusion is not None
    for kind in KINDS:
        allowed = 1.15 if diffusion and kind == "decode" else 1.05
        peaks = []
        for frames in arguments.frames:
            command = [sys.executable, __file__, str(arguments.checkpoint), "--size", str(arguments.size)]
            command += ["--frames", str(frames), "--one", kind]
            report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            peak, planned = report["resident_peak_bytes"], report["planned_peak_bytes"]
            peaks.append(peak)
            print(
                f"{kind} {frames:4} frames of {arguments.size}x{arguments.size}: peak {peak / 1e6:.1f} MB, predicted "
                f"{planned / 1e6:.1f} MB ({planned / peak:.3f}), {report['seconds']:.1f} s",
                flush=True,
            )
        ratio = max(peaks) / min(peaks)
        good &= ratio <= allowed
        print(f"{kind}: largest / smallest peak {ratio:.3f}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
