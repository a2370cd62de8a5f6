"""LTX-2.5: the same seed gives the same bits, whatever the number of threads and wherever the weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from ltx25_pack import write_diffusion_vae, write_lora, write_pack

from ltx2rt import _ext, api
from ltx2rt.graph.components import VIDEO_VAE
from ltx2rt.graph.stages.run import Run
from ltx2rt.memory.ledger import Ledger
from ltx2rt.memory.need import Need

SETTINGS = {"height": 64, "width": 128, "num_frames": 9, "seed": 3, "num_generated_keyframes": 2}


class Chooser(Ledger):
    """Takes the first option that is wanted, where a stage has one."""

    def __init__(self, wanted: Callable[[Need], bool]) -> None:
        super().__init__()
        self._wanted = wanted

    def choose(self, options: Iterable[Need]) -> Need:
        ways = list(options)
        return super().choose([need for need in ways if self._wanted(need)] or ways)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = _ext.num_threads()
    yield _ext.set_num_threads
    _ext.set_num_threads(before)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, api.Pipeline]:
    folder = tmp_path_factory.mktemp("packs")
    distilled, dev = write_pack(folder), write_pack(folder, "dev")
    lora = write_lora(folder / "lora.safetensors")
    return {
        "distilled": api.load("distilled", **distilled, loras=[(lora, 0.5)]),
        "two-stage": api.load("two-stage", **dev, distilled_lora=lora),
        "diffusion decoder": api.load("distilled", **{**distilled, "video_vae": write_diffusion_vae(folder)}),
    }


def made(pipeline: api.Pipeline, depth: int) -> tuple[list[np.ndarray], set[int]]:
    """Latents, sound and frames of a run whose weights are resident (0) or streamed, and where they were."""
    more: dict[str, object] = {} if pipeline.has_fixed_schedule else {"num_inference_steps": 2}
    more["decode_with_keyframes"] = pipeline._files.config(VIDEO_VAE).diffusion is not None
    inputs, _ = pipeline._prepare({"prompt": "a red circle", **SETTINGS, **more}, pipeline._files)
    run = Run(pipeline._files, inputs, ledger=Chooser(lambda need: need.settings.get("depth", depth) == depth))
    clip = pipeline.entry.generate(run)
    assert clip.frames is not None
    frames = np.concatenate(list(clip.frames()))
    results = [value for value in (clip.video_latent, clip.audio_latent, clip.audio, frames) if value is not None]
    return results, {need.settings["depth"] for need in run.ledger.needs if need.name.startswith("denoise")}


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("distilled", "two-stage")), "diffusion decoder"]
)
def test_same_bits(name: str, pipelines: dict[str, api.Pipeline], threads: Callable[[int], None]) -> None:
    threads(2)
    expected, _ = made(pipelines[name], 0)
    assert len(expected) == 4
    for count, depth in ((1, 1),) if name == "diffusion decoder" else ((2, 2), (1, 1)):
        threads(count)
        found, depths = made(pipelines[name], depth)
        assert depths == {depth}
        for value, same in zip(found, expected, strict=True):
            np.testing.assert_array_equal(value, same)
