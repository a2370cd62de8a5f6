"""The audio/video transformer against an independent float64 formula, and what it must keep, reuse and refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy_transformer import NumpyTransformer

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.transformer.model import (
    Modality,
    Perturbation,
    Transformer,
    TransformerConfig,
    block_param_specs,
    param_specs,
)
from ltx2rt.types import LinearWeight

TINY: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "in_channels": 6,
    "out_channels": 6,
    "audio_in_channels": 5,
    "audio_out_channels": 5,
    "cross_attention_dim": 24,
    "audio_cross_attention_dim": 16,
    "caption_channels": 10,
    "norm_eps": 1e-6,
    "positional_embedding_theta": 10000.0,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "audio_positional_embedding_max_pos": [20],
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "rope_type": "split",
    "frequencies_precision": "float64",
    "apply_gated_attention": False,
    "cross_attention_adaln": False,
    "caption_proj_before_connector": False,
}
GATED = {"apply_gated_attention": True, "cross_attention_adaln": True, "caption_proj_before_connector": True}
KEYFRAMES = {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
CONFIGS: dict[str, dict[str, Any]] = {
    "19b": TINY,
    "2.3": TINY | GATED,
    "2.5": TINY | GATED | KEYFRAMES,
    "no prompt adaln": TINY | GATED | {"use_prompt_adaln_single": False},
    "interleaved": TINY | {"rope_type": "interleaved"},
    "gate scale": TINY | {"av_ca_timestep_scale_multiplier": 1.0},
}
GRID = (3, 2, 2)  # latent frames, height, width


def random_weights(config: TransformerConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in param_specs(config):
        values = rng.standard_normal(spec.shape)
        if spec.layout == "linear":
            values /= math.sqrt(spec.shape[1])
        elif spec.name.endswith("norm.weight"):
            values = 1.0 + 0.2 * values
        else:
            values *= 0.3
        weights[spec.name] = values.astype(np.float32)
    return weights


def as_arrays(specs: list[Any], weights: dict[str, np.ndarray]) -> dict[str, Any]:
    return {
        spec.name: LinearWeight("dense", mx.array(weights[spec.name]))
        if spec.layout == "linear"
        else mx.array(weights[spec.name])
        for spec in specs
    }


def video_input(batch: int = 2, seed: int = 1, width: int = 10) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    frames, height, columns = GRID
    tokens = frames * height * columns
    f, h, w = (axis.ravel() for axis in np.meshgrid(*(np.arange(n) for n in GRID), indexing="ij"))
    start = np.stack([np.maximum(8 * f - 7, 0) / 24, 32 * h, 32 * w])
    end = np.stack([(8 * f + 1) / 24, 32 * h + 32, 32 * w + 32])
    sigma = np.linspace(0.9, 0.4, batch).astype(np.float32)
    denoise_mask = np.where(f == 0, 0.0, 1.0)[None]  # a clean first frame
    return {
        "latent": rng.standard_normal((batch, tokens, 6)).astype(np.float32),
        "sigma": sigma,
        "timesteps": (denoise_mask * sigma[:, None]).astype(np.float32),
        "positions": np.repeat(np.stack([start, end], -1)[None], batch, axis=0).astype(np.float32),
        "context": rng.standard_normal((batch, 7, width)).astype(np.float32),
    }


def audio_input(batch: int = 2, seed: int = 2, width: int = 10) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    tokens = 5
    start = np.maximum(0.04 * np.arange(tokens) - 0.03, 0.0)
    sigma = np.linspace(0.7, 0.2, batch).astype(np.float32)
    bounds = np.stack([start, 0.04 * np.arange(tokens) + 0.01], -1)
    return {
        "latent": rng.standard_normal((batch, tokens, 5)).astype(np.float32),
        "sigma": sigma,
        "timesteps": np.repeat(sigma[:, None], tokens, axis=1),
        "positions": np.repeat(bounds[None, None], batch, axis=0).astype(np.float32),
        "context": rng.standard_normal((batch, 7, width)).astype(np.float32),
    }


def inputs(section: dict[str, Any], batch: int = 2) -> tuple[dict[str, Any], dict[str, Any]]:
    projected = section["caption_proj_before_connector"]
    return video_input(batch, width=24 if projected else 10), audio_input(batch, width=16 if projected else 10)


def modality(fields: dict[str, Any] | None) -> Modality | None:
    if fields is None:
        return None
    return Modality(**(fields | {"latent": mx.array(fields["latent"]), "context": mx.array(fields["context"])}))


def perturbations(listed: list[list[tuple[str, set[int] | None]]] | None) -> list[list[Perturbation]] | None:
    if listed is None:
        return None
    return [[Perturbation(kind, None if b is None else frozenset(b)) for kind, b in sample] for sample in listed]


def build(section: dict[str, Any], **options: Any) -> tuple[Transformer, NumpyTransformer]:
    config = TransformerConfig.from_dict(section)
    weights = random_weights(config)
    params = Params(as_arrays(param_specs(config), weights))
    return Transformer(config, params, mx.float32, **options), NumpyTransformer(section, weights)


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        if theirs is None:
            assert ours is None
            continue
        assert ours.shape == theirs.shape
        assert np.abs(np.array(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(np.array(x), np.array(y)) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_velocity_is_that_of_the_formula(name: str) -> None:
    section = CONFIGS[name]
    ours, theirs = build(section)
    video, audio = inputs(section)
    tokens = video["latent"].shape[1]
    rng = np.random.default_rng(3)
    strength = rng.random((2, tokens, tokens)).astype(np.float32)
    strength[strength < 0.3] = 0.0
    strength[:, np.arange(tokens), np.arange(tokens)] = 1.0
    video["attention_mask"] = strength
    video["context_mask"] = np.array([[1] * 7, [0, 0, 1, 1, 1, 0, 1]])
    video["keyframes_mask"] = (np.arange(tokens) < 4)[None].repeat(2, axis=0).astype(np.float32)
    assert_close(ours(modality(video), modality(audio)), theirs(video, audio))


@pytest.mark.parametrize("name", ["19b", "2.3"])
@pytest.mark.parametrize(
    "listed",
    [
        [[("skip_video_self_attn", {1}), ("skip_audio_self_attn", {0})]] * 2,
        [[("skip_a2v_cross_attn", None), ("skip_v2a_cross_attn", None)]] * 2,
        [[], [("skip_video_self_attn", {0}), ("skip_audio_self_attn", None), ("skip_v2a_cross_attn", {1})]],
        [[("skip_a2v_cross_attn", {0})], [("skip_video_self_attn", set())]],
    ],
    ids=["self", "exchange", "mixed", "mixed exchange"],
)
def test_perturbed_samples_are_those_of_the_formula(name: str, listed: Any) -> None:
    section = CONFIGS[name]
    ours, theirs = build(section)
    video, audio = inputs(section)
    perturbed = ours(modality(video), modality(audio), perturbations(listed))
    assert_close(perturbed, theirs(video, audio, listed))
    assert not same(perturbed, ours(modality(video), modality(audio)))


@pytest.mark.parametrize("name", ["19b", "2.3"])
@pytest.mark.parametrize("disabled", ["video", "audio"])
def test_a_disabled_stream_stays_as_it_is_but_is_still_read(name: str, disabled: str) -> None:
    ours, theirs = build(CONFIGS[name])
    video, audio = inputs(CONFIGS[name])
    (video if disabled == "video" else audio)["enabled"] = False
    assert_close(ours(modality(video), modality(audio)), theirs(video, audio))
    first, *_, last = [
        [np.array(stream.x) for stream in streams if stream is not None]
        for streams in ours.states(modality(video), modality(audio))
    ]
    index = 0 if disabled == "video" else 1
    assert np.array_equal(first[index], last[index])
    assert not np.array_equal(first[1 - index], last[1 - index])


@pytest.mark.parametrize("name", ["19b", "2.3"])
def test_one_stream_alone_needs_only_its_own_tensors(name: str) -> None:
    section = CONFIGS[name]
    config = TransformerConfig.from_dict(section)
    weights = random_weights(config)
    theirs = NumpyTransformer(section, weights)
    video, audio = inputs(section)
    for kept, arguments in (("video", (video, None)), ("audio", (None, audio))):
        specs = param_specs(config, video=kept == "video", audio=kept == "audio")
        ours = Transformer(config, Params(as_arrays(specs, weights)), mx.float32)
        assert_close(ours(*(modality(a) for a in arguments)), theirs(*arguments))


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    ours, _ = build(CONFIGS["2.3"])
    video, audio = inputs(CONFIGS["2.3"])
    together = ours(modality(video), modality(audio))
    for sample in range(2):
        one = [modality({k: v[sample : sample + 1] for k, v in fields.items()}) for fields in (video, audio)]
        assert_close([out[0] for out in ours(*one)], [np.array(out)[sample] for out in together], 1e-5)


def test_positions_may_differ_between_samples() -> None:
    ours, theirs = build(TINY)
    video, audio = inputs(TINY)
    video["positions"][1, 0] += 0.5
    assert_close(ours(modality(video), modality(audio)), theirs(video, audio))


def test_modulation_has_one_row_per_distinct_timestep() -> None:
    ours, _ = build(CONFIGS["2.3"])
    video, audio = inputs(CONFIGS["2.3"])
    stream, other = next(ours.states(modality(video), modality(audio)))
    assert stream is not None
    assert other is not None
    assert stream.modulation.rows.shape == (9, 3, 24)  # 0 and two sigmas
    assert stream.cross_modulation is not None
    assert stream.cross_modulation.rows.shape == (4, 3, 24)
    assert other.modulation.rows.shape == (9, 2, 16)


def test_kept_values_never_go_stale() -> None:
    section = CONFIGS["19b"]
    reused, _ = build(section)
    video, audio = inputs(section)
    video["attention_mask"] = np.full((1, 1, 12), 0.5, dtype=np.float32)
    first, other = modality(video), modality(audio)
    assert first is not None
    moved = video | {
        "positions": video["positions"] + np.float32(1.0),
        "context": -video["context"],
        "attention_mask": np.linspace(0.1, 1.0, 12, dtype=np.float32)[None, None],
    }
    second = modality(moved)
    fresh_first = build(section)[0](first, other)
    fresh_second = build(section)[0](second, other)
    assert not same(fresh_first, fresh_second)
    for modal, expected in ((first, fresh_first), (second, fresh_second), (first, fresh_first)):
        assert same(reused(modal, other), expected)


def test_kept_text_keys_do_not_change_a_bit() -> None:
    kept, _ = build(TINY)
    computed, _ = build(TINY, keep_text_keys=False)
    video, audio = (modality(fields) for fields in inputs(TINY))
    expected = computed(video, audio)
    assert same(kept(video, audio), expected)
    assert same(kept(video, audio), expected)


def test_blocks_can_be_streamed_without_changing_a_bit() -> None:
    config = TransformerConfig.from_dict(CONFIGS["2.3"])
    weights = random_weights(config)
    video, audio = (modality(fields) for fields in inputs(CONFIGS["2.3"]))
    resident = Transformer(config, Params(as_arrays(param_specs(config), weights)), mx.float32)
    outside = [s for s in param_specs(config) if not s.name.startswith("transformer_blocks.")]
    slot: dict[str, Any] = {}
    asked = []

    def block(index: int) -> Params:
        asked.append(index)
        slot.clear()  # the block before must not be needed any more
        slot.update(as_arrays(block_param_specs(config, index), weights))
        return Params(slot, f"transformer_blocks.{index}.")

    streamed = Transformer(config, Params(as_arrays(outside, weights)), mx.float32, blocks=block)
    assert same(streamed(video, audio), resident(video, audio))
    assert asked == [0, 1]


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_low_precision_stays_near_float32(dtype: mx.Dtype) -> None:
    config = TransformerConfig.from_dict(CONFIGS["2.3"])
    params = Params(as_arrays(param_specs(config), random_weights(config)))
    video, audio = inputs(CONFIGS["2.3"])
    video["attention_mask"] = np.tril(np.ones((1, 12, 12), dtype=np.float32))
    low = Transformer(config, params, dtype)(modality(video), modality(audio))
    exact = Transformer(config, params, mx.float32)(modality(video), modality(audio))
    for ours, reference in zip(low, exact, strict=True):
        assert ours is not None
        assert ours.dtype == dtype
        error = np.abs(np.array(ours.astype(mx.float32)) - np.array(reference))
        assert error.max() <= 0.05 * np.abs(np.array(reference)).max()


SHIPPED = {"num_layers": 48, "caption_channels": 3840, "frequencies_precision": "float64"}


@pytest.mark.parametrize(
    ("section", "keys", "parameters", "video_parameters", "audio_parameters"),
    [
        (SHIPPED, 3510, 18_876_174_592, 13.04e9, None),
        (SHIPPED | GATED, 4186, 18_988_838_144, 13.12e9, 3.29e9),
        (SHIPPED | GATED | KEYFRAMES, 4091, 18_987_859_200, 13.12e9, 3.29e9),
    ],
    ids=["19b", "2.3", "2.5"],
)
def test_shipped_sizes(
    section: dict[str, Any], keys: int, parameters: int, video_parameters: float, audio_parameters: float | None
) -> None:
    config = TransformerConfig.from_dict(section)

    def size(**streams: bool) -> int:
        return sum(math.prod(spec.shape) for spec in param_specs(config, **streams))

    specs = param_specs(config)
    assert len(specs) == len({spec.name for spec in specs}) == keys
    assert size() == parameters
    assert size(audio=False) == pytest.approx(video_parameters, rel=1e-3)
    if audio_parameters is not None:
        assert size(video=False) == pytest.approx(audio_parameters, rel=2e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dropout", 0.1),
        ("attention_bias", False),
        ("qk_norm", "layer_norm"),
        ("use_middle_indices_grid", False),
        ("rope_type", "spiral"),
        ("num_layers", 0),
        ("num_layers", 1.5),
        ("num_attention_heads", "two"),
        ("audio_num_attention_heads", 4),
        ("cross_attention_dim", 48),
        ("positional_embedding_max_pos", [20, 2048]),
        ("apply_gated_attention", 1),
    ],
)
def test_config_refuses(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=key):
        TransformerConfig.from_dict(TINY | {key: value})


def test_absent_settings_have_the_values_of_the_published_files() -> None:
    config = TransformerConfig.from_dict({})
    assert (config.num_layers, config.video.width, config.audio.width) == (48, 4096, 2048)
    assert config.cross_gate_timestep_scale == config.timestep_scale == 1000
    assert (config.rope_layout, config.rope_float64, config.modulation_rows) == ("split", False, 6)


def changed(field: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    video = video_input() | {"context_mask": np.ones((2, 7), dtype=np.int64)}
    video |= {"attention_mask": np.ones((2, 12, 12)), "keyframes_mask": np.ones((2, 12))}
    return video | {field: change(video[field])}


@pytest.mark.parametrize(
    "field",
    ["latent", "sigma", "timesteps", "positions", "context", "context_mask", "attention_mask", "keyframes_mask"],
)
def test_modality_fields_must_fit(field: str) -> None:
    ours, _ = build(TINY)
    video = changed(field, lambda value: value[..., :-1])
    with pytest.raises(UsageError, match=rf"video\.{field} has shape"):
        ours(modality(video), None)


def test_call_refuses() -> None:
    ours, _ = build(TINY)
    video, audio = inputs(TINY)
    with pytest.raises(UsageError, match="both None"):
        ours(None, None)
    with pytest.raises(UsageError, match="video has 2 samples and audio 1"):
        ours(modality(video), modality(audio_input(1)))
    with pytest.raises(UsageError, match="for 1 samples; the batch has 2"):
        ours(modality(video), modality(audio), [[]])
    with pytest.raises(UsageError, match="latent has shape"):
        ours(modality(video | {"latent": video["latent"][0]}), None)
    with pytest.raises(UsageError, match="unknown perturbation 'skip_everything'"):
        Perturbation("skip_everything")  # type: ignore[arg-type]
