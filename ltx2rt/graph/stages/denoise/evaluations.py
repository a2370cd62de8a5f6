"""The evaluations of one denoising stage: told to the observer, and kept so that an interrupted stage goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from ltx2rt.graph.diffusion.denoising import GuidedDenoiser
from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.precision import Float32Array
from ltx2rt.graph.diffusion.predictions import Denoised, post_process
from ltx2rt.graph.diffusion.samplers import Denoise
from ltx2rt.graph.stages.events import Evaluated, TileDone
from ltx2rt.graph.stages.finite import require_finite
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels.host import to_numpy


class Evaluations:
    """What happens around the model of a stage.

    Args:
        run: its observer and its journal.
        stage: its name.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._stage = stage
        self._begun = 0

    def observed(self, denoiser: GuidedDenoiser) -> Denoise:
        """The denoiser, with every evaluation told to the observer and kept in the journal, from where it is taken
        again when the stage was interrupted."""
        run = self._run

        def evaluate(video: LatentState | None, audio: LatentState | None, sigma: float, step_index: int) -> Denoised:
            self._begun += 1
            entry = self._entry
            found = None if run.journal is None else run.journal.get(entry)
            if found is not None:
                kept_memory = {key: to_numpy(value) for key, value in found.items()}
                return self._checked(step_index, denoiser.restore(kept_memory))
            x0 = self._checked(step_index, denoiser(video, audio, sigma, step_index))
            if run.journal is not None:
                run.journal.put(entry, denoiser.memory())
                run.journal.drop(entry)
            kept = [
                None if state is None or estimate is None else post_process(estimate, state)
                for state, estimate in zip((video, audio), x0, strict=True)
            ]
            inputs = [None if state is None else state.latent for state in (video, audio)]
            run.emit(Evaluated(sigma, inputs[0], inputs[1], kept[0], kept[1]))
            return x0

        return evaluate

    def tile(self, index: int, count: int, compute: Callable[[], Sequence[Denoised]]) -> Sequence[Denoised]:
        """The estimates of one tile of the evaluation that has begun, kept until it has ended."""
        run, entry = self._run, f"{self._entry}.{index:04d}"
        found = None if run.journal is None else run.journal.get(entry)
        estimates = compute() if found is None else _unpacked(found)
        for pair in estimates:
            self._require_finite(f"tile {index + 1} of {count}", pair)
        if run.journal is not None and found is None:
            run.journal.put(entry, _packed(estimates))
        run.emit(TileDone(self._stage, index, count))
        return estimates

    @property
    def _entry(self) -> str:
        return f"{self._stage}.{self._begun - 1:04d}"

    def _checked(self, step_index: int, x0: Denoised) -> Denoised:
        self._require_finite(f"step {step_index + 1}", x0)
        return x0

    def _require_finite(self, part: str, x0: Denoised) -> None:
        """Estimates that are not finite would spread to every token in the next step."""
        for stream, estimate in zip(("video", "audio"), x0, strict=True):
            if estimate is not None:
                require_finite(f"{self._stage}, {part}", f"the {stream} latent", estimate)


def _packed(estimates: Sequence[Denoised]) -> dict[str, Float32Array]:
    """Under the number of the pass and the name of the stream."""
    return {
        f"{number:04d}.{stream}": values
        for number, pair in enumerate(estimates)
        for stream, values in zip(("video", "audio"), pair, strict=True)
        if values is not None
    }


def _unpacked(kept: dict[str, mx.array]) -> list[Denoised]:
    values = {name: to_numpy(array) for name, array in kept.items()}
    passes = 1 + max(int(name.partition(".")[0]) for name in values)
    return [(values.get(f"{number:04d}.video"), values.get(f"{number:04d}.audio")) for number in range(passes)]
