"""Times denoise steps of a weight file with its blocks resident and streamed, and how much of the machine they use.

    python benchmarks/denoise_step.py CHECKPOINT [--tokens 1024] [--rounds 3] [--cold]

One step is one call of the transformer over video, audio and text tokens, with the keys of the text kept, as in every
step of a generation but the first. The file may have few blocks (`tools/make_synthetic_checkpoint.py --layers 4`): what
is measured holds per block. Prints seconds of resident and streamed steps in interleaved rounds, what reading costs,
and the arithmetic reached against the calibrated peak; --cold adds a streamed step from a file that is not cached.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

from real_scale import disk_rate, forget  # noqa: E402

from ltx2rt.bench.machine import Machine, cpu_name  # noqa: E402
from ltx2rt.graph.components import TRANSFORMER  # noqa: E402
from ltx2rt.graph.models.layers.params import Params  # noqa: E402
from ltx2rt.graph.models.transformer.footprint import CallShape, call_flops  # noqa: E402
from ltx2rt.graph.models.transformer.modality import Modality  # noqa: E402
from ltx2rt.graph.models.transformer.model import Transformer, TransformerConfig, param_specs  # noqa: E402
from ltx2rt.graph.stages.denoise.needs import block_specs, resident_specs  # noqa: E402
from ltx2rt.memory.allocator import settled  # noqa: E402
from ltx2rt.weights.block_stream import BlockStream  # noqa: E402
from ltx2rt.weights.checkpoint import Checkpoint  # noqa: E402

TEXT_TOKENS = 1024
BOTH: dict[str, Any] = {"video": True, "audio": True}


def modality(tokens: int, channels: int, axes: int, context: int) -> Modality:
    """A stream of random latents halfway through the noise."""
    rng = np.random.default_rng(tokens)
    starts = np.arange(tokens, dtype=np.float32)[None, None] / tokens + np.zeros((1, axes, 1), np.float32)
    return Modality(
        latent=mx.array(rng.standard_normal((1, tokens, channels), dtype=np.float32)),
        sigma=np.full(1, 0.5, np.float32),
        timesteps=np.full((1, tokens), 0.5, np.float32),
        positions=np.stack([starts, starts + 1 / tokens], axis=-1),
        context=mx.array(rng.standard_normal((1, TEXT_TOKENS, context), dtype=np.float32)).astype(mx.bfloat16),
    )


def resident(checkpoint: Checkpoint, config: TransformerConfig) -> Transformer:
    return Transformer(config, Params(checkpoint.load("transformer", param_specs(config, **BOTH))))


def streamed(checkpoint: Checkpoint, config: TransformerConfig) -> tuple[Transformer, BlockStream]:
    ends = checkpoint.load("transformer", resident_specs(config, **BOTH))
    stream = checkpoint.stream("transformer", block_specs(config, **BOTH))
    blocks: Callable[[int], Params] = lambda index: Params(stream(index)).at(f"transformer_blocks.{index}")  # noqa: E731
    return Transformer(config, Params(ends), blocks=blocks), stream


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=1024, help="of the video (default 1024)")
    parser.add_argument("--audio-tokens", type=int, default=126, help="default 126, five seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="also streamed steps from a file that is not cached")
    arguments = parser.parse_args(words)
    with settled():
        return compare(arguments)


def compare(arguments: argparse.Namespace) -> int:
    checkpoint = Checkpoint.open(arguments.checkpoint)
    config = TRANSFORMER.parse(checkpoint)
    video = modality(arguments.tokens, config.video.in_channels, 3, config.caption_channels or config.video.context_dim)
    audio = modality(
        arguments.audio_tokens, config.audio.in_channels, 1, config.caption_channels or config.audio.context_dim
    )
    machine = Machine()
    kept = resident(checkpoint, config)
    coming, stream = streamed(checkpoint, config)

    def step(model: Transformer) -> tuple[float, float, list[mx.array]]:
        """Wall seconds, seconds of all threads on a processor, and the velocities."""
        start, start_cpu = time.perf_counter(), time.process_time()
        outputs = [out for out in model(video, audio) if out is not None]
        mx.eval(outputs)
        return time.perf_counter() - start, time.process_time() - start_cpu, outputs

    *_, expected = step(kept)  # the first step also makes the keys of the text
    *_, found = step(coming)
    same = all(bool(mx.array_equal(a, b).item()) for a, b in zip(expected, found, strict=True))
    times: dict[str, list[float]] = {"resident": [], "streamed": []}
    busy: dict[str, list[float]] = {"resident": [], "streamed": []}
    waited = []
    for _ in range(arguments.rounds):
        machine.calibrate()
        before = stream.waited_seconds
        for name, model in (("resident", kept), ("streamed", coming)):
            seconds, cpu_seconds, _ = step(model)
            times[name].append(seconds)
            busy[name].append(cpu_seconds)
        waited.append(stream.waited_seconds - before)
    shape = CallShape(arguments.tokens, arguments.audio_tokens, TEXT_TOKENS)
    flops = call_flops(config, shape, text_keys=config.text_modulation)
    best = machine.best
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{arguments.checkpoint.name}: {config.num_layers} blocks, {arguments.tokens} video, "
          f"{arguments.audio_tokens} audio and {TEXT_TOKENS} text tokens; {cpu_name()}, {mx.__version__}")  # fmt: skip
    print(f"calibrated: bfloat16 {best.bfloat16 / 1e9:.0f}, float32 {best.float32 / 1e9:.0f} GFLOP/s")
    for name, values in times.items():
        rate = flops / middle[name]
        print(
            f"{name}: median {middle[name]:.3f} s ({min(values):.3f} to {max(values):.3f}), {rate / 1e9:.0f} GFLOP/s, "
            f"{rate / best.bfloat16:.1%} of the bfloat16 peak, {rate / best.float32:.1%} of the float32 peak; "
            f"processor time {statistics.median(busy[name]):.2f} s ({min(busy[name]):.2f} to {max(busy[name]):.2f})"
        )
    ratio = statistics.median(busy["streamed"]) / statistics.median(busy["resident"])
    wall = middle["streamed"] / middle["resident"]
    print(f"streamed / resident, page cache warm: {wall:.3f} of the time, {ratio:.3f} of the processor time")
    print(f"waited for the reader {statistics.median(waited):.3f} s; same bits: {'yes' if same else 'NO'}")
    if arguments.cold:
        stream.clear()
        rate = disk_rate(arguments.checkpoint)
        forget([arguments.checkpoint])
        coming, stream = streamed(checkpoint, config)
        seconds, *_ = step(coming)
        reading = stream.bytes_read / stream.read_seconds
        print(f"cold: {seconds:.3f} s, reader {reading / 1e9:.2f} GB/s, disk alone {rate / 1e9:.2f} GB/s, "
              f"waited {stream.waited_seconds:.3f} s")  # fmt: skip
    stream.clear()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
