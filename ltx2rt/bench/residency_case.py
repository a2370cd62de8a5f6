"""A step of LTX-2.3 from a file, with as many blocks in memory as a budget allows, beside all of them streamed."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2rt.bench.block_case import SECTION_23, SMALL
from ltx2rt.bench.case import MLX, OURS, STREAMED, Prepared, Way, Work
from ltx2rt.bench.guided_case import random_modality
from ltx2rt.errors import UsageError
from ltx2rt.graph.components import TRANSFORMER
from ltx2rt.graph.diffusion.denoising import NO_GUIDANCE
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.footprint import CallShape, call_flops
from ltx2rt.graph.models.transformer.model import Transformer, TransformerConfig, param_specs
from ltx2rt.graph.stages.denoise.needs import block_specs, denoise_options, resident_specs
from ltx2rt.graph.stages.denoise.residency import partly_streamed
from ltx2rt.graph.stages.denoise.task import DenoiseTask
from ltx2rt.kernels.selection import forced
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need
from ltx2rt.weights.block_stream import BlockStream
from ltx2rt.weights.checkpoint import Checkpoint
from ltx2rt.weights.safetensors import RawTensor, write_safetensors

LAYERS = 8
_PREFIX = "model.diffusion_model."
_BOTH = {"video": True, "audio": True}


@dataclass(frozen=True)
class ResidencyCase:
    """An unguided step of 8 blocks with E4M3 weights, ``resident`` of them in memory.

    Attributes:
        tokens: of the video; with few of them reading is what takes the time.
        resident: blocks in memory, as many as the budget that is given allows.
        drops_pages: the file's pages leave the system's cache after each block, so that every block comes from disk.
        small: reduced for a test.
    """

    tokens: int
    resident: int
    drops_pages: bool
    small: bool = False

    @property
    def name(self) -> str:
        source = "disk" if self.drops_pages else "cache"
        return f"partial_residency/2.3/e4m3/{source}/v{self.tokens}/{self.resident}-of-{LAYERS}"

    def reduced(self) -> ResidencyCase:
        return replace(self, tokens=32, resident=min(self.resident, 3), small=True)

    def prepare(self, wanted: Sequence[str]) -> Prepared:
        step = _Step(self)
        ways = {OURS: Way(lambda share: step.call(step.chosen), follows_itself=self.drops_pages)}
        if self.resident:
            ways[STREAMED] = Way(lambda share: step.call(step.streamed), follows_itself=self.drops_pages)
        if MLX in wanted:
            ways[MLX] = Way(lambda share: step.plain(step.chosen))
        # Where a block is read in a small part of the time in which one is computed, no way waits for what it reads or
        # reads while the other one computes.
        together = step.together if self.resident and not self.drops_pages else None
        return Prepared(step.work, ways, fields=step.fields, clean=step.clean, together=together)


class _Step:
    """The file, a model over it for each way of holding its blocks, and the inputs of a step."""

    def __init__(self, case: ResidencyCase) -> None:
        self._case = case
        self._path = _checkpoint(case.small)
        self._checkpoint = Checkpoint.open(self._path)
        self._config = TRANSFORMER.parse(self._checkpoint)
        audio, text = (8, 16) if case.tokens < 256 else (126, 1024)
        self._video = random_modality(self._config.video, case.tokens, text, seed=1)
        self._audio = random_modality(self._config.audio, audio, text, seed=2)
        self._task = _task(case.tokens, audio, text)
        self._streams: list[BlockStream] = []
        self._models: dict[tuple[int, ...], Transformer] = {}
        self.chosen, self._budget = self._within(case.resident)
        self.streamed, _ = self._within(0)
        shape = CallShape(case.tokens, audio, text)
        stored = self._checkpoint.loaded_bytes("transformer", param_specs(self._config)).stored
        self.work = Work(call_flops(self._config, shape), stored, "bfloat16")

    def _within(self, resident: int) -> tuple[Need, int]:
        """What the ledger chooses within the smallest budget that has room for so many resident blocks, and that."""
        free = Ledger(None, 0)
        options = denoise_options(self._checkpoint, self._config, self._task)
        need = next(own for own in options if LAYERS - len(own.settings["streamed"]) == resident)
        budget = free.least_budget(need)
        return Ledger(budget, 0).choose(denoise_options(self._checkpoint, self._config, self._task)), budget

    def _model(self, need: Need) -> Transformer:
        streamed = need.settings["streamed"]
        if streamed not in self._models:
            self._models[streamed] = self._loaded(need)
        return self._models[streamed]

    def _loaded(self, need: Need) -> Transformer:
        streamed, specs = need.settings["streamed"], block_specs(self._config, **_BOTH)
        held = resident_specs(self._config, **_BOTH)
        for index, block in enumerate(specs):
            held += [] if index in streamed else block
        params = Params(self._checkpoint.load("transformer", held))
        if not streamed:
            return Transformer(self._config, params)
        stream = self._checkpoint.stream(
            "transformer", [specs[index] for index in streamed], depth=need.settings["depth"]
        )
        self._streams.append(stream)
        blocks = partly_streamed(params, streamed, stream, "float")
        return Transformer(self._config, params, blocks=self._dropping(blocks))

    def _dropping(self, blocks: Callable[[int], Params]) -> Callable[[int], Params]:
        if not self._case.drops_pages:
            return blocks

        def dropping(index: int) -> Params:
            params = blocks(index)
            forget_pages(self._path)
            return params

        return dropping

    def call(self, need: Need) -> Callable[[], mx.array]:
        """A step: both velocities as one vector."""
        model = self._model(need)

        def step() -> mx.array:
            velocities = model(self._video, self._audio)
            vector = mx.concatenate([values.reshape(-1) for values in velocities if values is not None])
            mx.eval(vector)
            return vector

        return step

    def together(self) -> dict[str, float]:
        """Seconds of a step of both ways, which take turns part by part.

        A step takes many seconds, in which a machine that others use changes by more than the ways differ.
        """
        seconds = dict.fromkeys((OURS, STREAMED), 0.0)
        steps = {OURS: self._parts(self._model(self.chosen)), STREAMED: self._parts(self._model(self.streamed))}
        for number in range(LAYERS + 2):
            for name in (OURS, STREAMED) if number % 2 else (STREAMED, OURS):
                start = time.perf_counter()
                next(steps[name])
                seconds[name] += time.perf_counter() - start
        return seconds

    def _parts(self, model: Transformer) -> Iterator[object]:
        """A step: what comes before the blocks, each of these, and what comes after them."""
        for streams in model.states(self._video, self._audio):
            yield streams
        velocities = [velocity for velocity in model.velocities(streams) if velocity is not None]
        mx.eval(velocities)
        yield velocities

    def plain(self, need: Need) -> Callable[[], mx.array]:
        step = self.call(need)

        def plain() -> mx.array:
            with forced("reference"):
                return step()

        return plain

    def fields(self) -> dict[str, Any]:
        """What a step reads, counted over one step of few tokens, and what was planned."""
        found = {
            "resident_blocks": LAYERS - len(self.chosen.settings["streamed"]),
            "budget_bytes": self._budget,
            "bytes_planned": self.chosen.streamed_per_step,
            "bytes_read": 0,
        }
        if self.chosen.settings["streamed"]:
            specs, streamed = block_specs(self._config, **_BOTH), self.chosen.settings["streamed"]
            stream = self._checkpoint.stream(
                "transformer", [specs[index] for index in streamed], depth=2, uses=2 * len(streamed)
            )
            for _ in range(2):
                for place in range(len(streamed)):
                    stream(place)
                    stream.release()
            stream.clear()
            found["bytes_read"] = stream.bytes_read // 2
        return found

    def clean(self) -> None:
        for stream in self._streams:
            stream.clear()


def _task(video: int, audio: int, text: int) -> DenoiseTask:
    return DenoiseTask(
        "denoise",
        video=video,
        audio=audio,
        tiles=(),
        masked=False,
        text=text,
        given_contexts=0,
        prompts=1,
        evaluations=1,
        video_guider=NO_GUIDANCE,
        audio_guider=NO_GUIDANCE,
        max_batch_size=None,
        loras=(),
        advice="",
        dtype=mx.bfloat16,
        activations="float",
    )


def forget_pages(path: Path) -> None:
    """Let the system drop what it has cached of a file."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


@cache
def _checkpoint(small: bool) -> Path:
    """A file of random values, 3.5 GB; all cases of a process have one, which goes with the process.

    Raises:
        UsageError: the disk lacks room.
    """
    folder = Path(tempfile.mkdtemp(prefix="ltx2rt-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    section = {**SECTION_23, **(SMALL if small else {}), "num_layers": LAYERS}
    config = TransformerConfig.from_dict(section)
    rng = np.random.default_rng(1)
    tensors: dict[str, mx.array | np.ndarray[Any, Any] | RawTensor] = {}
    made: dict[tuple[int, ...], RawTensor] = {}
    for spec in param_specs(config):
        name = f"{_PREFIX}{spec.name}"
        if spec.layout == "linear" and spec.name.startswith("transformer_blocks."):
            if spec.shape not in made:
                made[spec.shape] = _eight_bits(rng, spec.shape)
            tensors[name] = made[spec.shape]
            tensors[f"{name}_scale"] = np.full((), spec.shape[1] ** -0.5 / 100, np.float32)
        elif spec.name.endswith("norm.weight"):
            tensors[name] = mx.ones(spec.shape, mx.bfloat16)
        else:
            scale = spec.shape[-1] ** -0.5 if len(spec.shape) > 1 else 0.02
            dtype = mx.float32 if spec.dtype == "F32" else mx.bfloat16
            tensors[name] = mx.random.normal(spec.shape, scale=scale, key=mx.random.key(3)).astype(dtype)
    needed = sum(value.items.nbytes if isinstance(value, RawTensor) else value.nbytes for value in tensors.values())
    if shutil.disk_usage(folder).free < 1.1 * needed:
        raise UsageError(
            f"this case writes {needed / 1e9:.1f} GB to {folder.parent}; set TMPDIR to a folder with room."
        )
    path = folder / "model.safetensors"
    write_safetensors(path, tensors, {"config": json.dumps({"transformer": section})})
    return path


def _eight_bits(rng: np.random.Generator, shape: tuple[int, ...]) -> RawTensor:
    """E4M3 values of about 100, no two rows alike."""
    signs = rng.integers(0, 2, shape, dtype=np.uint8) << 7
    return RawTensor("F8_E4M3", signs | rng.integers(0x5C, 0x78, shape, dtype=np.uint8))


def residency_cases() -> list[ResidencyCase]:
    """From streamed to resident, where reading is the limit, and where the products are; where pages can be dropped."""
    drops = [ResidencyCase(32, resident, drops_pages=True) for resident in (0, 1, 2, 3, 4, 5, 8)]
    cached = [ResidencyCase(1024, resident, drops_pages=False) for resident in (0, 2, 4, 8)]
    return [*(drops if sys.platform.startswith("linux") else []), *cached]
