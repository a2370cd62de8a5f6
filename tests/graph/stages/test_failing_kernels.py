"""A kernel that fails ends the request with its error, wherever results leave MLX, and the next request is right.

Each place where a stage turns an `mx.array` into numpy meets a kernel that fails as work on a GPU or on MLX's threads
does: its array counts as evaluated afterwards, over memory that nobody wrote. With `np.array` in place of `to_numpy`
the error is lost there, which a test shows.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt import _ext, api
from ltx2rt.graph.diffusion.denoising import GuidancePass, PredictRequest
from ltx2rt.graph.diffusion.latent_geometry import VideoLatentShape, VideoScale
from ltx2rt.graph.diffusion.latent_state import VideoTarget, create_video_state
from ltx2rt.graph.models.audio import vocoder
from ltx2rt.graph.models.upscaler import model as upscaler
from ltx2rt.graph.models.video_vae import tiling
from ltx2rt.graph.stages.decode import stage as decode
from ltx2rt.graph.stages.denoise import passes
from ltx2rt.graph.stages.encode import stage as encode
from ltx2rt.graph.stages.inputs import PromptContext
from ltx2rt.graph.stages.run import Run
from ltx2rt.kernels import host
from ltx2rt.weights.checkpoint import Checkpoint

Array = np.ndarray[Any, np.dtype[Any]]
# Of what converts an array and no more, which shows errors that arrive most of the time alone. Stages add their own
# work, and lose every one where they convert in another way: the default run has few of theirs.
TIMES = 300
TIMES_OF_STAGES = 4


@pytest.fixture(autouse=True)
def _a_hang_ends_with_tracebacks() -> Iterator[None]:
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of the embedded model that reads each component once."""
    pipeline = api.load("distilled")
    settings = {"prompt": "a red circle", "height": 64, "width": 64, "num_frames": 9}
    inputs, _ = pipeline._prepare(settings, pipeline._files)
    loaded: dict[tuple[str, ...], dict[str, Any]] = {}
    load = Checkpoint.load

    def load_once(self: Checkpoint, component: str, specs: Any, **options: Any) -> dict[str, Any]:
        specs = list(specs)
        key = (str(self.path), component, *(spec.name for spec in specs))
        if key not in loaded:
            loaded[key] = load(self, component, specs, **options)
        return dict(loaded[key])

    monkeypatch.setattr(Checkpoint, "load", load_once)
    return Run(pipeline._files, inputs)


class Place:
    """One place: what fails there, the module whose conversion is meant, and a request that goes through it."""

    def __init__(self, fails: tuple[Any, str], module: Any, request: Callable[[Run], Array]) -> None:
        self.fails = fails
        self.module = module
        self.request = request


class OneTransformer:
    """Stands for the transformer, whose last norm and projection are evaluated by the conversion."""

    def guided(self, video: Any, audio: Any, passes: Any, max_batch_size: int) -> list[tuple[mx.array, None]]:
        return [self(video) for _ in passes]

    def __call__(self, video: Any) -> tuple[mx.array, None]:
        return video.latent * 2 + 1, None


def through_passes(run: Run) -> Array:
    state = create_video_state(VideoTarget(VideoLatentShape(2, 2, 2), 24.0, VideoScale(8, 32, 32)))
    context = PromptContext(mx.zeros((1, 4, 8)), mx.zeros((1, 4, 8)))
    predict = passes.TransformerPasses(OneTransformer(), context, None)  # type: ignore[arg-type]
    ((video, _),) = predict(PredictRequest((GuidancePass("cond"),), state, None, 0.5, run_video=True, run_audio=False))
    assert video is not None
    return video


def through_upscaler(run: Run) -> Array:
    latent = np.random.default_rng(0).standard_normal((1, 2, 2, 2, 128)).astype(np.float32)
    return decode.upscale_latents(run, latent, None)[0]


def through_vocoder(run: Run) -> Array:
    tokens = np.random.default_rng(0).standard_normal((1, 1, 128)).astype(np.float32)
    return decode.decode_audio(run, tokens)[0]


def through_encoder(run: Run) -> Array:
    clip = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    return encode.encode_pixels(run, "video encoder", [clip])[0]


class Doubled:
    """Something to convert."""

    def __call__(self, x: mx.array) -> mx.array:
        return x * 2


def through_tiles(run: Run) -> Array:
    return tiling.to_host(Doubled()(mx.arange(24.0).astype(mx.bfloat16)))


def through_the_conversion(run: Run) -> Array:
    return host.to_numpy(Doubled()(mx.arange(24.0)))


PLACES = {
    "velocities": Place((OneTransformer, "__call__"), passes, through_passes),
    "upscaled latent": Place((upscaler.LatentUpscaler, "__call__"), decode, through_upscaler),
    "waveform": Place((vocoder.Vocoder, "__call__"), decode, through_vocoder),
    "encoded latent": Place((encode, "_encode"), encode, through_encoder),
    "tiles": Place((Doubled, "__call__"), tiling, through_tiles),
    "the conversion": Place((Doubled, "__call__"), host, through_the_conversion),
}


def make_fail(place: Place, monkeypatch: pytest.MonkeyPatch, *, late: bool) -> None:
    """The last kernel before the conversion fails from now on; what comes before it is computed once."""
    works = getattr(*place.fails)
    results: list[Any] = []

    def fails(*arguments: Any) -> Any:
        if not results:
            results.append(works(*arguments))
            mx.eval(results[0])
        result = results[0]
        first = result[0] if isinstance(result, tuple) else result
        failing = _ext.failing_kernel(first, late=late)
        return (failing, *result[1:]) if isinstance(result, tuple) else failing

    monkeypatch.setattr(*place.fails, fails)


def errors(place: Place, run: Run, times: int) -> int:
    """How many of so many requests end with the error of the kernel."""
    count = 0
    for _ in range(times):
        try:
            place.request(run)
        except RuntimeError as error:
            count += "[failing_kernel] fails whenever it is evaluated" in str(error)
    return count


@pytest.mark.parametrize("late", [pytest.param(False, marks=pytest.mark.slow), True], ids=["at once", "late"])
@pytest.mark.parametrize(
    ("name", "times"),
    [
        *(
            (name, TIMES if place.fails[0] in (Doubled, OneTransformer) else TIMES_OF_STAGES)
            for name, place in PLACES.items()
        ),
        *(pytest.param(name, TIMES, marks=pytest.mark.slow) for name in PLACES),
    ],
)
def test_every_error_of_a_kernel_arrives(
    name: str, times: int, late: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = PLACES[name]
    expected = place.request(run)
    with monkeypatch.context() as patch:
        make_fail(place, patch, late=late)
        assert errors(place, run, times) == times
    np.testing.assert_array_equal(place.request(run), expected)


@pytest.mark.parametrize("name", [name for name in PLACES if name != "the conversion"])
def test_numpy_alone_loses_them(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the test above can fail: this is what it would see without `to_numpy`."""
    place = PLACES[name]
    make_fail(place, monkeypatch, late=True)
    monkeypatch.setattr(place.module, "to_numpy", np.array)
    monkeypatch.setattr("ltx2rt.graph.stages.decode.stage.require_finite", lambda *_: None)
    monkeypatch.setattr("ltx2rt.graph.stages.encode.stage.require_finite", lambda *_: None)
    assert errors(place, run, TIMES_OF_STAGES) == 0


def test_good_and_bad_requests_in_turn() -> None:
    """The count of MLX's running tasks stays right: nothing waits for a task that will never end."""
    good = mx.arange(1000.0)
    for _ in range(TIMES):
        with pytest.raises(RuntimeError, match="failing_kernel"):
            host.to_numpy(_ext.failing_kernel(good) + 1)
        assert host.to_numpy(good + 1)[999] == 1000
