"""Runs the round of DFR at full size alone, from random latents: what `real_scale.py --epilogue` measures from outside.

    python benchmarks/dfr_epilogue.py --transformer FILE --video-vae FILE --audio-vae FILE --spatial-upscaler FILE
        --detailing-lora FILE --size 2176 3840 --cells 1 --tiles 4 --memory 24GB --report FILE.json

The key frames' way through pictures, the upscaler and both phases in tiles are those of `ltx2rt generate --pipeline dfr
--spatial-upscalings 2`; the stages before them, which other runs measure, are left out. With --tiles the model sees so
many tiles of each phase, and zeros stand for what it would make of the others, which takes no less memory. With --part
keyframes runs their way through pictures alone, with --part sampling all the rest, with random numbers in their place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from weakref import WeakKeyDictionary

import mlx.core as mx
import numpy as np

from ltx2rt.api.planning import ledger
from ltx2rt.graph.components import AUDIO_VAE, VIDEO_VAE
from ltx2rt.graph.diffusion.denoising import PredictRequest
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.pipelines import dfr_epilogue
from ltx2rt.graph.pipelines.dfr_epilogue import doubled_size
from ltx2rt.graph.pipelines.dfr_pass import Film
from ltx2rt.graph.pipelines.dfr_plan import CELL_FRAMES, Canvas
from ltx2rt.graph.pipelines.plan import plan
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.graph.stages.denoise.passes import TransformerPasses
from ltx2rt.graph.stages.enlarged_keyframes import enlarged_keyframes
from ltx2rt.graph.stages.events import Event, StageFinished, StageStarted, TileDone
from ltx2rt.graph.stages.inputs import GenerationInputs
from ltx2rt.graph.stages.run import Run
from ltx2rt.graph.stages.text.stage import zero_context
from ltx2rt.graph.stages.weight_set import WeightSet

SEED = 10
FRAME_RATE = Fraction(24)
STRENGTH = 1.0


def film_of(files: WeightSet, size: tuple[int, int], cells: int) -> Film:
    """A clip of so many latent frames at half of ``size``, without key frames of its own: random numbers."""
    rng = np.random.default_rng(SEED)
    vae, audio = files.config(VIDEO_VAE), files.config(AUDIO_VAE)
    rows, columns = (side // 2 // vae.spatial_factor for side in size)
    video = rng.standard_normal((1, cells, rows, columns, vae.latent_channels)).astype(np.float32)
    frames = CELL_FRAMES * (cells - 1) + 1
    sound = rng.standard_normal((1, max(1, round(frames / 24 * 25)), audio.vae.token_width)).astype(np.float32)
    return Film(Canvas(frames, ()), 0, video, {}, sound, [])


def see_few_tiles(most: int) -> None:
    """Let every stage compute so many tiles; of the others it takes zeros."""
    evaluate, seen = TransformerPasses.__call__, WeakKeyDictionary[TransformerPasses, int]()

    def few(passes: TransformerPasses, request: PredictRequest) -> Sequence[Denoised]:
        seen[passes] = seen.get(passes, 0) + 1
        if seen[passes] <= most:
            return evaluate(passes, request)
        states = (request.video, request.audio)
        video, audio = (None if state is None else np.zeros_like(state.latent) for state in states)
        return [(video, audio) for _ in request.passes]

    TransformerPasses.__call__ = few  # type: ignore[method-assign]  # for this process, which ends with the measure


def put_random_keyframes() -> None:
    """Random numbers stand for the key frames at twice the size."""

    def enlarged(run: Run, latents: Float32Array) -> Float32Array:
        _, count, rows, columns, channels = latents.shape
        shape = (1, count, 2 * rows, 2 * columns, channels)
        return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)

    dfr_epilogue.enlarged_keyframes = enlarged


def tell(event: Event) -> None:
    """Where the run is."""
    if isinstance(event, TileDone):
        print(f"dfr_epilogue: {event.stage}: tile {event.index + 1} of {event.tiles}", file=sys.stderr)
    elif isinstance(event, (StageStarted, StageFinished)):
        done = "begins" if isinstance(event, StageStarted) else "ends"
        print(f"dfr_epilogue: {event.name} {done}", file=sys.stderr)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("transformer", "video-vae", "audio-vae", "spatial-upscaler", "detailing-lora", "report"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--size", nargs=2, type=int, default=(2176, 3840), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--cells", type=int, default=1, help="latent frames")
    parser.add_argument("--tiles", type=int, help="of each phase that the model sees; default: all")
    parser.add_argument("--memory", help="budget; default: as for ltx2rt generate")
    parser.add_argument("--part", choices=("all", "keyframes", "sampling"), default="all", help="that runs (all)")
    arguments = parser.parse_args(words)
    if arguments.part == "sampling":
        put_random_keyframes()
    if arguments.tiles is not None:
        see_few_tiles(arguments.tiles)
    files = WeightSet.open(
        WeightFiles(
            transformer=arguments.transformer,
            video_vae=arguments.video_vae,
            audio_vae=arguments.audio_vae,
            spatial_upscaler=arguments.spatial_upscaler,
            detailing_lora=(arguments.detailing_lora, STRENGTH),
        )
    )
    height, width = arguments.size
    frames = CELL_FRAMES * (arguments.cells - 1) + 1
    settings = Settings(seed=SEED, spatial_upscalings=2)
    inputs = GenerationInputs(settings, height, width, frames, FRAME_RATE, dtype=mx.bfloat16)
    keyframes_alone = arguments.part == "keyframes"
    film, context = film_of(files, (height, width), arguments.cells), zero_context(files)
    accounts = ledger(arguments.memory)

    def made(run: Run) -> Float32Array:
        return enlarged_keyframes(run, film.video) if keyframes_alone else doubled_size(run, context, film).video

    plan(made, files, inputs, accounts.unused())
    run = Run(files, inputs, tell, ledger=accounts)
    if not np.isfinite(made(run)).all():
        print("error: the latent is not finite", file=sys.stderr)
        return 1
    content = {"stages": [stage.as_dict() for stage in run.stages.reports]}
    arguments.report.write_text(json.dumps(content, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
