"""Golden cases of the diffusion layer: positions, schedules, samplers, guidance and conditioning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from ltx2rt.graph.diffusion.attention_masks import mask_video_to_tokens
from ltx2rt.graph.diffusion.conditioning import (
    AppendKeyframe,
    AppendReferenceAudio,
    AppendReferenceVideo,
    ConditioningItem,
    GeneratedKeyframes,
    KeepMasked,
    RegenerateTimeRange,
    ReplaceLatentFrames,
    WithAttentionStrength,
    apply_conditioning,
)
from ltx2rt.graph.diffusion.guidance import (
    GuiderParams,
    MomentumApg,
    combine_predictions,
)
from ltx2rt.graph.diffusion.latent_geometry import (
    AudioLatentShape,
    AudioScale,
    VideoLatentShape,
    VideoScale,
    audio_latent_frames,
)
from ltx2rt.graph.diffusion.latent_state import (
    AudioTarget,
    LatentState,
    VideoTarget,
    add_noise,
    create_audio_state,
    create_video_state,
    drop_conditioning,
    video_latent,
)
from ltx2rt.graph.diffusion.noise import RecordedNoise
from ltx2rt.graph.diffusion.patchify import patchify_audio, patchify_video, unpatchify_audio, unpatchify_video
from ltx2rt.graph.diffusion.positions import audio_positions, video_grid_bounds, video_positions
from ltx2rt.graph.diffusion.predictions import Denoised
from ltx2rt.graph.diffusion.res_2s import (
    Res2sOptions,
    phi_1,
    phi_2,
    res_2s_coefficients,
    res_2s_loop,
    sde_coefficients,
    sde_step,
)
from ltx2rt.graph.diffusion.samplers import (
    SamplerStep,
    ancestral_step,
    euler_loop,
    euler_step,
    gradient_estimation_loop,
)
from ltx2rt.graph.diffusion.schedules import (
    distilled_sigmas,
    distilled_stage_2_sigmas,
    ltx2_sigmas,
)
from ltx2rt.kernels.host import from_numbers
from ltx2rt.types import Array
from ltx2rt.verify.golden import Case, Check, GoldenFile

_ATOL, _RTOL = 2e-5, 1e-4
_TABLE_ATOL = 1e-6
_FRAME_RATE = 24.0
# Of the models that the files were saved with.
_VIDEO_SCALE = VideoScale(8, 32, 32)
_AUDIO_SCALE = AudioScale(16000, 160, 4)


def find_cases(golden: GoldenFile) -> Iterator[Case]:
    """The cases of a golden file of the diffusion layer; none for other files."""
    finders = {
        "positions": _positions_cases,
        "sigmas": _sigmas_cases,
        "sampling": _sampling_cases,
        "guiders": _guiders_cases,
        "conditioning": _conditioning_cases,
    }
    match = re.fullmatch(r"(?:\d\w*_)?([a-z]+)", golden.path.stem)
    finder = finders.get(match[1]) if match else None
    if finder is not None:
        for name, run in finder(golden):
            yield Case(f"{golden.name}/{name}", run)


_Run = Callable[[], Iterable[Check]]
_Named = Iterator[tuple[str, _Run]]


def _channels_last(latent: Array) -> Array:
    """(B, C, ...) as saved -> (B, ..., C) as we keep it."""
    return np.moveaxis(latent, 1, -1)


def _component(golden: GoldenFile, key: str, actual: Array) -> Check:
    return golden.check(key, actual, _ATOL, _RTOL)


def _one(key: str, compute: Callable[[], Array], golden: GoldenFile, atol: float = _ATOL, rtol: float = _RTOL) -> _Run:
    """A case that compares one computed array with the tensor ``key``."""
    return lambda: [golden.check(key, compute(), atol, rtol)]


# Positions and patches


def _positions_cases(golden: GoldenFile) -> _Named:
    keys = golden.keys()
    for key in keys:
        if match := re.fullmatch(r"video(_grid_bounds)?\.(\d+)x(\d+)x(\d+)(?:@([\d.]+))?", key):
            shape = VideoLatentShape(int(match[2]), int(match[3]), int(match[4]))
            if match[1]:
                yield key, _one(key, partial(video_grid_bounds, shape), golden)
            elif match[5]:
                yield key, _one(key, partial(video_positions, shape, float(match[5]), _VIDEO_SCALE), golden)
        elif match := re.fullmatch(r"audio\.(\d+)", key):
            yield key, _one(key, partial(audio_positions, AudioLatentShape(int(match[1])), _AUDIO_SCALE), golden)
        elif key == "audio_frames_for_duration":
            yield key, partial(_audio_frames, golden, key)
        elif match := re.fullmatch(r"patchify_(video|audio)\.in", key):
            yield f"patchify_{match[1]}", partial(_patchify, golden, match[1])


def _audio_frames(golden: GoldenFile, key: str) -> Iterator[Check]:
    table = golden.expected(key)
    counts = [audio_latent_frames(int(frames), float(rate), _AUDIO_SCALE) for frames, rate, _ in table]
    yield Check(key, from_numbers(counts, np.float32), table[:, 2], 0.0)


def _patchify(golden: GoldenFile, stream: str) -> Iterator[Check]:
    saved, expected = golden.given(f"patchify_{stream}.in"), golden.expected(f"patchify_{stream}.out")
    latent = np.moveaxis(saved, 1, -1)
    if stream == "video":
        tokens = patchify_video(latent)
        batch, frames, height, width, channels = latent.shape
        back = unpatchify_video(tokens, VideoLatentShape(frames, height, width, batch, channels))
    else:
        tokens = patchify_audio(latent)
        batch, length, mel_bins, channels = latent.shape
        back = unpatchify_audio(tokens, AudioLatentShape(length, batch, channels, mel_bins))
    yield Check("tokens", tokens, expected, 0.0)
    yield Check("back", back, latent, 0.0)


# Schedules


def _sigmas_cases(golden: GoldenFile) -> _Named:
    keys = golden.keys()
    for key in keys:
        compute: Callable[[], Array] | None = None
        if key == "distilled":
            compute = distilled_sigmas
        elif key == "stage2_distilled":
            compute = distilled_stage_2_sigmas
        elif match := re.fullmatch(r"ltx2\.steps(\d+)\.(?:default(\d+)|tokens(\d+)|nostretch)", key):
            tokens = match[2] or match[3]
            if tokens:
                compute = partial(ltx2_sigmas, int(match[1]), tokens=int(tokens))
            else:
                compute = partial(ltx2_sigmas, int(match[1]), stretch=False)
        if compute is not None:
            yield key, _one(key, compute, golden, _TABLE_ATOL, 0.0)


# Samplers


def _sampling_cases(golden: GoldenFile) -> _Named:
    keys = golden.keys()
    cases: dict[str, _Run] = {}
    for key in keys:
        if match := re.fullmatch(r"(euler|res2s_sde|sde_coeff|ancestral\.eta[\d.]+)\.\d+", key):
            cases[match[1]] = partial(_sampler_steps, golden, match[1])
        elif match := re.fullmatch(r"(loop\.\w+\.(?:plain|masked))\.(euler|ge[\d.]+|res2s\..+)\.(?:video|audio)", key):
            cases[f"{match[1]}.{match[2]}"] = partial(_sampler_loop, golden, match[1], match[2])
    yield from cases.items()
    if "res2s_h_f64" in golden:
        yield "res2s_coefficients", partial(_res_2s_tables, golden)


def _res_2s_tables(golden: GoldenFile) -> Iterator[Check]:
    sizes = [float(h) for h in golden.given("res2s_h_f64")]
    coefficients = from_numbers([res_2s_coefficients(h) for h in sizes])
    yield golden.check("res2s_coeff_a21_b1_b2_f64", coefficients, _TABLE_ATOL)
    key = "phi_1_2_3_of_minus_h_f64"
    # The third function belongs to a third-order sampler, which nothing here uses.
    functions = from_numbers([[phi_1(-h), phi_2(-h)] for h in sizes])
    yield Check(key, functions, golden.expected(key)[:, :2], _TABLE_ATOL)


def _sampler_steps(golden: GoldenFile, name: str) -> Iterator[Check]:
    sigmas = golden.given("sigmas")
    sample, denoised, noise = (golden.given(key) for key in ("sample", "denoised", "noise"))
    for index, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        if name == "euler":
            actual = euler_step(sample, denoised, float(sigma), float(sigma_next))
        elif name == "res2s_sde":
            actual = sde_step(sample, denoised, sigma, sigma_next, noise)
        elif name == "sde_coeff":
            actual = from_numbers(sde_coefficients(sigma_next, 0.5))
        else:
            eta = float(name.removeprefix("ancestral.eta"))
            actual = ancestral_step(sample, denoised, float(sigma), float(sigma_next), noise, eta=eta)
        yield _component(golden, f"{name}.{index}", actual)


def _synthetic_denoiser(video: LatentState | None, audio: LatentState | None, sigma: float, _: int) -> Denoised:
    """The denoiser of the saved loops: smooth, different for the streams, dependent on sigma."""
    level = np.float32(sigma)
    return (
        None if video is None else np.float32(0.5) * np.tanh(video.latent) + np.float32(0.1) * level,
        None if audio is None else np.float32(0.7) * np.sin(audio.latent) - np.float32(0.2) * level,
    )


def _sampler_loop(golden: GoldenFile, prefix: str, kind: str) -> Iterator[Check]:
    sigmas = golden.given(f"{prefix}.sigmas")
    video, audio = (_loop_state(golden, f"{prefix}.{stream}") for stream in ("video", "audio"))
    recorded: list[RecordedNoise] = []
    loop: Iterator[SamplerStep]
    if kind == "euler":
        loop = euler_loop(_synthetic_denoiser, sigmas, video, audio)
    elif kind.startswith("ge"):
        loop = gradient_estimation_loop(_synthetic_denoiser, sigmas, video, audio, gamma=float(kind[2:]))
    else:
        flags = kind.split(".")[1:]
        recorded = [RecordedNoise(draws) for draws in res_2s_draws(golden, f"{prefix}.res2s.noise")]
        step_noise, substep_noise = recorded
        loop = res_2s_loop(
            _synthetic_denoiser,
            sigmas,
            video,
            audio,
            step_noise=step_noise,
            substep_noise=substep_noise,
            options=Res2sOptions(refine_anchor="nobong" not in flags, masked_timesteps="masked_timesteps" in flags),
        )
    *_, last = loop
    for stream, state in (("video", last.video), ("audio", last.audio)):
        assert state is not None
        yield _component(golden, f"{prefix}.{kind}.{stream}", state.latent)
    if recorded:
        yield Check("noise draws left", from_numbers([source.left for source in recorded]), np.zeros(2), 0.0)


def res_2s_draws(golden: GoldenFile, stem: str) -> tuple[list[Array], list[Array]]:
    """The noise of the steps and of the substeps; saved per step as substep video and audio, then step video, audio."""
    draws = [golden.given(key) for key in golden.numbered(stem)]
    return [draw for i, draw in enumerate(draws) if i % 4 >= 2], [draw for i, draw in enumerate(draws) if i % 4 < 2]


def _loop_state(golden: GoldenFile, prefix: str) -> LatentState:
    latent = golden.given(f"{prefix}.latent")
    return LatentState(
        latent=latent,
        denoise_mask=golden.given(f"{prefix}.mask")[..., 0],
        positions=np.zeros((latent.shape[0], 1, latent.shape[1], 2), np.float32),
        clean_latent=golden.given(f"{prefix}.clean"),
    )


# Guidance


def _guiders_cases(golden: GoldenFile) -> _Named:
    keys = golden.keys()
    for key in keys:
        if re.match(r"(multimodal|cfg|stg|apg)\.", key):
            yield key, partial(_guider, golden, key)
    if any(key.startswith("legacy_apg.call") for key in keys):
        yield "legacy_apg", partial(_momentum_apg, golden)
    if "should_skip_step" in golden.metadata:
        yield "should_skip_step", partial(_skipped_steps, golden)


def _guider(golden: GoldenFile, key: str) -> Iterator[Check]:
    """One combination; ``cfg``, ``stg`` and ``apg`` are saved as what they add to the plain prediction."""
    cond, uncond, perturbed = (golden.given(name) for name in ("cond", "uncond", "perturbed"))
    kind, arguments = key.split(".", 1)
    if kind == "multimodal":
        params = _read_params(arguments)
        isolated = golden.given("modality")
        actual = combine_predictions(params, cond, uncond=uncond, perturbed=perturbed, isolated=isolated)
    elif kind == "cfg":
        actual = combine_predictions(GuiderParams(cfg_scale=float(arguments)), cond, uncond=uncond) - cond
    elif kind == "stg":
        actual = combine_predictions(GuiderParams(stg_scale=float(arguments)), cond, perturbed=perturbed) - cond
    else:
        match = re.fullmatch(r"([\d.]+?)(?:\.eta([\d.]+?)\.norm([\d.]+))?", arguments)
        if match is None:
            raise ValueError(f"{golden.name}: cannot read the parameters of {key!r}.")
        # A scale of 1 adds nothing there; the guider with momentum counts from 0.
        guider = MomentumApg(
            float(match[1]) - 1, float(match[2] or 1), norm_threshold=float(match[3] or 0), momentum=0.0
        )
        actual = guider.delta(cond, uncond)
    yield _component(golden, key, actual)


def _read_params(arguments: str) -> GuiderParams:
    """The strengths written as ``name=value,name=value``."""
    values = {name: float(value) for name, value in (pair.split("=") for pair in arguments.split(","))}
    params = GuiderParams(
        cfg_scale=values.pop("cfg_scale", 1.0),
        stg_scale=values.pop("stg_scale", 0.0),
        rescale_scale=values.pop("rescale_scale", 0.0),
        modality_scale=values.pop("modality_scale", 1.0),
    )
    if values:
        raise ValueError(f"Unknown guidance strengths {sorted(values)} in {arguments!r}.")
    return params


def _momentum_apg(golden: GoldenFile) -> Iterator[Check]:
    """Two calls of one guider; what it was given is not in the file but follows from the saved deltas."""
    guider = MomentumApg(4.0, 0.5, norm_threshold=5.0, momentum=0.3)
    calls = (("cond", "uncond"), ("perturbed", "modality"))
    for i, (cond, uncond) in enumerate(calls):
        key = f"legacy_apg.call{i}"
        yield _component(golden, key, guider.delta(golden.given(cond), golden.given(uncond)))


def _skipped_steps(golden: GoldenFile) -> Iterator[Check]:
    for skip, expected in golden.metadata["should_skip_step"].items():
        params = GuiderParams(skip_step=int(skip))
        actual = [params.skips(i) for i in range(len(expected))]
        yield Check(f"skip_step={skip}", from_numbers(actual, np.float32), from_numbers(expected, np.float32), 0.0)


# Conditioning

_FIELDS = ("latent", "clean_latent", "denoise_mask", "positions", "keyframes_mask")


def _conditioning_cases(golden: GoldenFile) -> _Named:
    keys = golden.keys()
    for name in sorted({key.rsplit(".", 1)[0] for key in keys if key.endswith(".clean_latent")}):
        yield name, partial(_conditioned_state, golden, name)
    for key in keys:
        if match := re.fullmatch(r"noised_([\d.]+)\.latent", key):
            yield f"noised_{match[1]}", partial(_noised_state, golden, match[1])
        elif match := re.fullmatch(r"region\.(video|audio)\.([\d.]+)-([\d.]+)", key):
            yield key, partial(_time_range, golden, key, match[1], float(match[2]), float(match[3]))
        elif match := re.fullmatch(r"ic_mask_latent_(\d+)x(\d+)x(\d+)", key):
            shape = VideoLatentShape(int(match[1]), int(match[2]), int(match[3]))
            yield key, partial(_ic_mask, golden, key, shape)
    if "cleared_unpatchified.latent" in golden:
        yield "cleared_unpatchified", partial(_unpatchified, golden)


def _video_target(golden: GoldenFile) -> VideoTarget:
    batch, channels, frames, height, width = golden.given("in.base").shape
    return VideoTarget(VideoLatentShape(frames, height, width, batch, channels), _FRAME_RATE, _VIDEO_SCALE)


def _latent(golden: GoldenFile, name: str) -> Array:
    return _channels_last(golden.given(f"in.{name}"))


def _initial_video(golden: GoldenFile) -> LatentState:
    return create_video_state(_video_target(golden), initial=_latent(golden, "base"))


def _conditioned_state(golden: GoldenFile, name: str) -> Iterator[Check]:
    target = _video_target(golden)
    if name == "cleared":
        state = drop_conditioning(_noise_input(golden), target)
    elif name == "initial_empty":
        state = create_video_state(target)
    elif name.startswith("reference_audio"):
        state = _with_reference_audio(golden, name)
    else:
        state = apply_conditioning(_initial_video(golden), target, _video_items(golden, name))
    return _compare_state(golden, name, state)


def _video_items(golden: GoldenFile, name: str) -> list[ConditioningItem[VideoTarget]]:
    """The conditions that the name of a saved state stands for."""
    image, keyframe = partial(_latent, golden, "img"), partial(_latent, golden, "keyframe")
    if name == "initial":
        return []
    if match := re.fullmatch(r"latent_idx(\d+)_s([\d.]+)", name):
        return [ReplaceLatentFrames(image(), float(match[2]), int(match[1]))]
    if match := re.fullmatch(r"keyframe(2?)_idx(\d+)_s([\d.]+)(?:_(\d+)pixelframes)?", name):
        latent = _latent(golden, "keyframe_2frames") if match[1] else keyframe()
        return [AppendKeyframe(latent, int(match[2]), float(match[3]), int(match[4] or 1))]
    if match := re.fullmatch(r"reference_(full|half)(?:_x(\d+))?(?:_t(\d+))?_s([\d.]+)", name):
        latent = _latent(golden, f"reference_{match[1]}")
        return [AppendReferenceVideo(latent, int(match[2] or 1), int(match[3] or 1), float(match[4]))]
    if match := re.fullmatch(r"by_mask_s([\d.]+)", name):
        return [KeepMasked(_latent(golden, "reference_full"), golden.given("in.region_mask"), float(match[1]))]
    if match := re.fullmatch(r"generated_slots((?:_\d+)+)", name):
        slots = tuple(int(frame) for frame in match[1].split("_")[1:])
        return [ReplaceLatentFrames(image()), GeneratedKeyframes(slots), AppendKeyframe(keyframe(), 16, 0.8)]
    half = partial(_latent, golden, "reference_half")
    if match := re.fullmatch(r"wrapped_reference_(?:([\d.]+)|(mask\d+))", name):
        strength = golden.given(f"in.{match[2]}") if match[2] else float(match[1])
        return [WithAttentionStrength(AppendReferenceVideo(half(), 2), strength)]
    if name == "combo_latent_keyframe_wrappedref_ref":
        return [
            ReplaceLatentFrames(image()),
            AppendKeyframe(keyframe(), 16, 0.8),
            WithAttentionStrength(AppendReferenceVideo(half(), 2), 0.3),
            AppendReferenceVideo(_latent(golden, "reference_full")),
        ]
    if name == "noise_input":
        return [ReplaceLatentFrames(image()), AppendKeyframe(keyframe(), 16, 0.8)]
    raise ValueError(f"{golden.name}: no conditions are known for the saved state {name!r}.")


def _with_reference_audio(golden: GoldenFile, name: str) -> LatentState:
    tokens, positions = golden.given("in.reference_audio_tokens"), golden.given("in.reference_audio_positions")
    # What it is appended to is not saved apart.
    latent = golden.result_as_input(f"{name}.latent")
    length = latent.shape[1] - tokens.shape[1]
    target = AudioTarget(AudioLatentShape(length, tokens.shape[0]), _AUDIO_SCALE)
    item = AppendReferenceAudio(tokens, positions, float(name.rsplit("_s", 1)[1]))
    return item.apply(create_audio_state(target, initial=latent[:, :length]), target)


def _compare_state(golden: GoldenFile, name: str, state: LatentState) -> Iterator[Check]:
    values: dict[str, Array | None] = {field: getattr(state, field) for field in _FIELDS}
    values["attention_mask"] = None if state.attention is None else state.attention.dense()
    for field, actual in values.items():
        key = f"{name}.{field}"
        if actual is None and key not in golden:
            continue
        # A field that only one side has compares with nothing and fails.
        expected = golden.expected(key) if key in golden else np.zeros(0, np.float32)
        if field in ("denoise_mask", "keyframes_mask"):
            expected = expected[..., 0]
        yield Check(key, np.zeros(0, np.float32) if actual is None else actual, expected, _ATOL, _RTOL)


def _noise_input(golden: GoldenFile) -> LatentState:
    target = _video_target(golden)
    return apply_conditioning(_initial_video(golden), target, _video_items(golden, "noise_input"))


def _noised_state(golden: GoldenFile, scale: str) -> Iterator[Check]:
    source = RecordedNoise([golden.given(f"noised_{scale}.noise")])
    noised = add_noise(_noise_input(golden), source, noise_scale=float(scale))
    yield _component(golden, f"noised_{scale}.latent", noised.latent)


def _time_range(golden: GoldenFile, key: str, stream: str, start_s: float, end_s: float) -> Iterator[Check]:
    item = RegenerateTimeRange(start_s, end_s)
    expected = golden.expected(key)[..., 0]
    if stream == "audio":
        audio = AudioTarget(AudioLatentShape(expected.shape[1]), _AUDIO_SCALE)
        state = item.apply(create_audio_state(audio), audio)
    else:
        # Only the frame count matters to the mask; the saved grid is one cell high and two wide.
        video = VideoTarget(VideoLatentShape(expected.shape[1] // 2, 1, 2), _FRAME_RATE, _VIDEO_SCALE)
        state = item.apply(create_video_state(video), video)
    yield Check(key, state.denoise_mask, expected, 0.0)


def _ic_mask(golden: GoldenFile, key: str, shape: VideoLatentShape) -> Iterator[Check]:
    pixels = golden.given("ic_mask_pixels").astype(np.float32)[:, 0]
    yield _component(golden, key, mask_video_to_tokens(pixels, shape))


def _unpatchified(golden: GoldenFile) -> Iterator[Check]:
    target = _video_target(golden)
    latent = video_latent(_noise_input(golden), target)
    yield _component(golden, "cleared_unpatchified.latent", np.moveaxis(latent, -1, 1))
