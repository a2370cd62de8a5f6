"""Golden cases of runs that were saved pass by pass: one group ``pass.NN.`` for each call of the diffusion stage.

The run draws its own noise, so that seeds and the order of draws are compared, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ltx2rt.graph.diffusion.latent_state import LatentState
from ltx2rt.graph.diffusion.noise import NoiseDtype, NoiseSource, TorchCpuNoise
from ltx2rt.graph.diffusion.predictions import keep_clean
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.stages.events import Event, Noised, StepDone, VideoDecodeStarted
from ltx2rt.graph.stages.run import GeneratedClip, Run
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile
from ltx2rt.verify.hash_noise import HashNoise
from ltx2rt.verify.saved_run import SavedRun, holds_passes, pipeline_of
from ltx2rt.verify.windows import plan_rows, saved_rows

_LATENT = {"atol": 5e-4}
_PIXEL = {"atol": 1e-3}
_WAVEFORM = {"atol": 5e-4}
# Both sides draw the same bits; logarithm and cosine come from other libraries.
_NOISE = {"atol": 1e-6}
# Of the latent of sound.
_CHANNELS_OF_SOUND = 8


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """Cases of a file below ``pipelines`` that holds passes; of DFR they are in `ltx2rt.verify.dfr`."""
    if not holds_passes(golden) or pipeline_of(golden) in (None, "dfr"):
        return
    run = PassesRun(golden)
    yield Case(f"{golden.name}/saved", partial(_saved, golden, run))
    for index in run.saved_passes:
        yield Case(f"{golden.name}/pass.{index:02d}", partial(check_pass, golden, run, index))
    yield from saved_parts(golden, run, (("audio", "audio_", check_audio), ("frames", "video_", check_frames)))


def saved_parts(golden: GoldenFile, run: PassesRun, parts: Iterable[Part]) -> Iterator[Case]:
    """Cases of what a run ends with, of which a file need not hold everything."""
    keys = golden.keys()
    for name, stems, check in parts:
        if any(key.startswith(stems) for key in keys):
            yield Case(f"{golden.name}/{name}", partial(check, golden, run))


class _Recorded:
    """The draws of another source, kept."""

    def __init__(self, source: NoiseSource, draws: list[NDArray[Any]]) -> None:
        self._source = source
        self._draws = draws

    def normal(self, shape: tuple[int, ...], dtype: NoiseDtype = "float32") -> NDArray[Any]:
        self._draws.append(self._source.normal(shape, dtype))
        return self._draws[-1]

    def fork(self) -> NoiseSource:
        return self._source.fork()


class _NotOfDecoder(TorchCpuNoise):
    """The seed's draws, none of which belong to the decoder: clips with key frames were decoded without the seed."""

    def skip(self, shape: tuple[int, ...]) -> None:
        """Nothing."""


class _Pass(NamedTuple):
    """One call of the diffusion stage: its states, of which the video's is first, its steps, and what they drew."""

    noised: list[Noised]
    steps: list[StepDone]
    draws: list[NDArray[Any]]


class PassesRun(SavedRun):
    """Our run of a saved request with the seed that it was saved with."""

    @cached_property
    def saved_passes(self) -> list[int]:
        """The numbers of the passes that were saved."""
        keys = self._golden.keys()
        return sorted({int(key.split(".")[1]) for key in keys if key.startswith("pass.")})

    @cached_property
    def passes(self) -> list[_Pass]:
        """Every call of the diffusion stage, in order."""
        assert self.chunks is not None  # the windows of a clip pass when its frames are read
        return self._passes

    @cached_property
    def clip(self) -> GeneratedClip:
        """What the pipeline returned."""
        self._passes: list[_Pass] = []
        drawn: list[NDArray[Any]] = []  # from sources of their own, since the last event

        def observe(event: Event) -> None:
            self._events.append(event)
            if isinstance(event, Noised):
                # A pass begins with the video's state, or with the sound's where there is no video.
                if not self._passes or self._passes[-1].steps:
                    self._passes.append(_Pass([], [], []))
                self._passes[-1].noised.append(event)
                drawn.clear()  # what the state was noised with
            elif isinstance(event, StepDone):
                self._passes[-1].steps.append(event)
                self._passes[-1].draws.extend(drawn)
                drawn.clear()

        def seeded(offset: int) -> NoiseSource:
            return _Recorded(TorchCpuNoise((self.inputs.settings.seed or 0) + offset), drawn)

        pipeline = PIPELINES[self._pipeline]
        pipeline.check(self.inputs, self._files)
        # Decoders get the hash noise that the clips were saved with.
        seed, sees_keyframes = self.inputs.settings.seed or 0, self.inputs.settings.decode_with_keyframes
        noise = _NotOfDecoder(seed) if sees_keyframes else TorchCpuNoise(seed)
        return pipeline.generate(
            Run(self._files, self.inputs, observe, noise, seeded_noise=seeded, decoder_noise=HashNoise())
        )


# A name, how the tensors begin that belong to it, and what compares them.
Part = tuple[str, str | tuple[str, ...], Callable[[GoldenFile, PassesRun], Iterator[Check]]]


def _saved(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    """Windows where they were saved, what each was decoded with, and as many passes and samples."""
    if "plan" in golden.metadata:
        windows = from_numbers(plan_rows(run.inputs.windows))
        yield Check("plan", windows, from_numbers(saved_rows(golden.metadata["plan"])), atol=0)
    if "join" in golden.metadata:
        samples = 0 if run.waveform is None else len(run.waveform)
        join = golden.metadata["join"]
        yield Check("samples", from_numbers(samples), from_numbers(join["samples"]), atol=0)
        assert run.chunks
        seen = [event.keyframes for event in run.events if isinstance(event, VideoDecodeStarted)]
        yield Check("decoded windows", from_numbers(len(seen)), from_numbers(len(join["planes"])), atol=0)
        for index, (ours, (planes, _)) in enumerate(zip(seen, join["planes"], strict=False)):
            yield Check(f"decode planes of window {index}", from_numbers(ours), from_numbers(planes), atol=0)
    if "slots" in golden.metadata:
        places = from_numbers(run.inputs.keyframe_positions)
        yield Check("slots", places, from_numbers(golden.metadata["slots"]), atol=0)
    # Of a long run not every pass need be there, but the last one is.
    yield Check("number of passes", from_numbers(len(run.passes)), from_numbers(run.saved_passes[-1] + 1), atol=0)


def check_pass(golden: GoldenFile, run: PassesRun, index: int, first: int = 0) -> Iterator[Check]:
    """What was saved of pass ``index``; ``first``: of our run, the one that was saved under the number 0."""
    made = run.passes[first + index]
    saved = sum(len(golden.numbered(f"pass.{index:02d}.{stream}.step_noise")) for stream in ("video", "audio"))
    yield Check("draws", from_numbers(len(made.draws)), from_numbers(saved), atol=0)
    draws = iter(made.draws)
    for step in range(len(made.steps)):
        for event in made.noised:
            key = f"pass.{index:02d}.{event.modality}.step_noise.{step}"
            if key in golden:
                yield golden.check(key, next(draws), **_NOISE)
    for event in made.noised:
        prefix = f"pass.{index:02d}.{event.modality}."
        yield golden.check(f"{prefix}noise_scale", from_numbers(np.float32(event.noise_scale)), **_NOISE)
        if event.noise_scale > 0:
            yield golden.check(f"{prefix}noise", event.noise, **_NOISE)
        yield from _state(golden, prefix, event)
        first_step, last = (getattr(made.steps[step], event.modality) for step in (0, -1))
        if f"{prefix}after_step_0" in golden:  # of some runs it was saved of the first pass alone, or of none
            stepped = golden.expected(f"{prefix}after_step_0")
            if made.draws:  # an ancestral step was saved before kept tokens were put back into it
                stepped = keep_clean(stepped, event.state)
            yield Check(f"{prefix}after_step_0", first_step, stepped, **_LATENT)
        if f"{prefix}out" in golden:  # not of a stream that is kept as it is
            expected = golden.expected(f"{prefix}out")
            yield Check(f"{prefix}out", _planes(last, expected.shape), expected, **_LATENT)
        slots = event.state.keyframe_slots
        if slots is not None:
            key = f"pass.{index:02d}.keyframes.out"
            tokens = last[:, slots.first_token : slots.stop_token]
            yield Check(key, _planes(tokens, golden.expected(key).shape), golden.expected(key), **_LATENT)


def _state(golden: GoldenFile, prefix: str, event: Noised) -> Iterator[Check]:
    """What was saved of a conditioned state; what was not is what a plain one has."""
    state: LatentState = event.state
    if f"{prefix}positions" in golden:
        yield golden.check(f"{prefix}positions", state.positions, **_NOISE)
    if f"{prefix}denoise_mask" in golden:
        yield golden.check(f"{prefix}denoise_mask", state.denoise_mask[..., None], **_LATENT)
        if f"{prefix}clean_latent" in golden:
            yield golden.check(f"{prefix}clean_latent", state.clean_latent, **_LATENT)
    elif f"{prefix}positions" in golden:
        mask = state.denoise_mask
        yield Check(f"{prefix}denoise_mask (all of it)", mask, np.ones_like(mask), **_NOISE)
    if f"{prefix}initial_latent" in golden:
        yield golden.check(f"{prefix}initial_latent", event.before.latent, **_LATENT)
    attention = None if state.attention is None else state.attention.dense()
    for name, value in (("keyframes_mask", state.keyframes_mask), ("attention_mask", attention)):
        if f"{prefix}{name}" in golden and value is not None:
            yield golden.check(f"{prefix}{name}", value[..., None] if name == "keyframes_mask" else value, **_NOISE)


def check_frames(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    """Single frames, or the middle half of their sides, and the mean of each."""
    video = np.concatenate(run.chunks)
    for key in list(golden.keys()):
        if found := re.fullmatch(r"video_float_fhwc\.frame_(\d+)(\.crop)?", key):
            frame = video[int(found[1])]
            if found[2]:
                height, width = frame.shape[0] // 4, frame.shape[1] // 4
                frame = frame[height:-height, width:-width]
            yield golden.check(key, frame, **_PIXEL)
        elif key == "video_float_fhwc.last_quarter":  # of height and width, the second one, in the last frame
            rows, columns = (slice(length // 4, length // 2) for length in video.shape[1:3])
            yield golden.check(key, video[-1, rows, columns], **_PIXEL)
    if "video_mean_per_frame" in golden:
        yield golden.check("video_mean_per_frame", video.mean(axis=(1, 2, 3)), **_PIXEL)


def _planes(tokens: Array, shape: tuple[int, ...]) -> Array:
    """Tokens (1, T, C), those that were appended left away, as the saved latent: (1, C, f, h, w) or (1, 8, L, 16)."""
    if len(shape) == 5:
        cells = tokens[:, : int(np.prod(shape[2:]))]
        planes: Array = cells.reshape(1, *shape[2:], shape[1]).transpose(0, 4, 1, 2, 3)
    else:
        planes = tokens[:, : shape[2]].reshape(1, shape[2], _CHANNELS_OF_SOUND, -1).transpose(0, 2, 1, 3)
    return planes


def check_audio(golden: GoldenFile, run: PassesRun) -> Iterator[Check]:
    """The waveform, as far as it was saved."""
    waveform, rate = run.waveform, run.clip.sample_rate
    if waveform is None:
        raise ValueError("the run made no sound, but some was saved.")
    if "audio_sampling_rate" in golden.metadata:
        yield Check("rate", from_numbers(rate), from_numbers(int(golden.metadata["audio_sampling_rate"])), atol=0)
    if "audio_samples" in golden:
        yield golden.check("audio_samples", from_numbers(len(waveform)), atol=0)
    for key in golden.numbered("audio_seam"):
        start, stop = (int(sample) for sample in golden.given(f"{key}.range"))
        yield golden.check(key, waveform.T[:, start:stop], **_WAVEFORM)
    if "audio_waveform" in golden:
        expected = golden.expected("audio_waveform")
        yield Check("audio_waveform", waveform.T[:, : expected.shape[1]], expected, **_WAVEFORM)
