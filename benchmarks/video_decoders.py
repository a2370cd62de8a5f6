"""Compares the diffusion video decoder of LTX-2.5 with the convolutional one of LTX-2.3, at full width.

    python benchmarks/video_decoders.py [--frames 25] [--size 256] [--rounds 3] [--only diffusion]

Both decode the same latent in one process, in turn, with random weights in bfloat16. Wall and processor time of each
round, their ratios and the peak memory of the process are printed; on a busy machine the processor times say more.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ltx2rt.bench.stage import random_params
from ltx2rt.graph.components import video_decoder
from ltx2rt.graph.diffusion.noise import FrameNoise, TorchCpuNoise
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.memory.allocator import settled

CONVOLUTIONAL: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder",
    "decoder_blocks": [
        ["res_x", {"num_layers": 4}],
        ["compress_space", {"multiplier": 2}],
        ["res_x", {"num_layers": 6}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", {"num_layers": 4}],
        ["compress_all", {"multiplier": 1}],
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 2}],
    ],
    "timestep_conditioning": False,
    "spatial_padding_mode": "zeros",
}
DIFFUSION: dict[str, Any] = {"_class_name": "CausalDiffusionVAE", "decoder": {}}


def decoding(section: dict[str, Any], latent: mx.array) -> Callable[[], int]:
    """What decodes ``latent`` and gives the number of frames."""
    decoder = video_decoder(VideoVaeConfig.from_dict(section))
    params = random_params([spec for spec in decoder.specs() if not spec.optional], "bf16")
    way = next(decoder.ways((latent.shape[1], latent.shape[2], latent.shape[3]), "auto", 2))

    def run() -> int:
        noise = FrameNoise(TorchCpuNoise(0))
        return sum(len(chunk) for chunk in decoder.frames(Params(params), mx.bfloat16, latent, way.settings, noise))

    return run


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=25, help="8*k + 1 (default 25)")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (default 256)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("convolutional", "diffusion"), help="one decoder alone")
    arguments = parser.parse_args(words)
    with settled():  # as in a run
        return compare(arguments)


def compare(arguments: argparse.Namespace) -> int:
    side = arguments.size // 32
    latent = mx.random.normal((1, (arguments.frames - 1) // 8 + 1, side, side, 128)).astype(mx.bfloat16)
    sections = {"convolutional": CONVOLUTIONAL, "diffusion": DIFFUSION}
    names = [name for name in sections if arguments.only in (None, name)]
    runs = {name: decoding(sections[name], latent) for name in names}
    ratios: list[tuple[float, float]] = []
    for _ in range(arguments.rounds):
        times = {}
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            times[name] = time.perf_counter() - wall, time.process_time() - processor
            print(f"{name:14} {times[name][0]:8.2f} s, processor {times[name][1]:8.2f} s", flush=True)
        if arguments.only is not None:
            continue
        first, second = times["convolutional"], times["diffusion"]
        ratios.append((second[0] / first[0], second[1] / first[1]))
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(f"peak memory of the process: {peak / 1e6:.0f} MB")
    if not ratios:
        return 0
    wall_ratio, processor_ratio = (statistics.median(values) for values in zip(*ratios, strict=True))
    print(f"diffusion / convolutional: {wall_ratio:.2f}, processor {processor_ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
