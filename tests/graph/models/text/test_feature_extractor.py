"""Feature extractor: streaming sums against the direct formula on the whole concatenation, and the V1/V2 rule."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.text.feature_extractor import FeatureExtractor, FeatureExtractorConfig, param_specs

V2_KEYS: dict[str, Any] = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
}
V1 = {"connector_num_attention_heads": 2, "connector_attention_head_dim": 10}
V2 = V1 | V2_KEYS | {"audio_connector_attention_head_dim": 6}


def random_case(config: FeatureExtractorConfig, tokens: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weights, and states (L, n, D) of very different sizes and offsets, as deep layers have them."""
    rng = np.random.default_rng(tokens + config.encoder_states)
    arrays = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in param_specs(config)}
    states = rng.standard_normal((config.encoder_states, tokens, config.encoder_width))
    states = states * rng.uniform(0.1, 50, (config.encoder_states, 1, 1)) + rng.uniform(
        -3, 3, (config.encoder_states, 1, 1)
    )
    return arrays, states.astype(np.float32)


def extract(
    config: FeatureExtractorConfig, arrays: dict[str, np.ndarray], states: np.ndarray, dtype: mx.Dtype = mx.float32
) -> list[np.ndarray]:
    params = Params({name: mx.array(value) for name, value in arrays.items()})
    features = FeatureExtractor(config, params, dtype)(mx.array(state)[None] for state in states)
    assert all(f.dtype == dtype for f in features)
    return [np.array(f[0].astype(mx.float32)) for f in features]


# Fewer states than a slab, one slab, slabs and a rest, whole slabs.
@pytest.mark.parametrize("count", [1, 3, 7, 9, 14])
@pytest.mark.parametrize("tokens", [1, 5])
def test_v1_matches_the_formula(count: int, tokens: int) -> None:
    config = FeatureExtractorConfig.from_dict(V1, encoder_width=12, encoder_states=count)
    arrays, states = random_case(config, tokens)
    x = states.astype(np.float64)
    mean = x.sum(axis=(1, 2), keepdims=True) / (tokens * 12 + 1e-6)
    spread = x.max(axis=(1, 2), keepdims=True) - x.min(axis=(1, 2), keepdims=True)
    rows = (8 * (x - mean) / (spread + 1e-6)).transpose(1, 2, 0).reshape(tokens, -1)
    expected = rows @ arrays["aggregate_embed.weight"].T.astype(np.float64)
    video, audio = extract(config, arrays, states)
    np.testing.assert_allclose(video, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(video, audio)


@pytest.mark.parametrize("count", [2, 7, 10])
def test_v2_matches_the_formula(count: int) -> None:
    config = FeatureExtractorConfig.from_dict(V2, encoder_width=12, encoder_states=count)
    arrays, states = random_case(config, tokens=4)
    x = states.astype(np.float64)
    rows = (x / np.sqrt((x**2).mean(axis=2, keepdims=True) + 1e-6)).transpose(1, 2, 0).reshape(4, -1)
    for name, width, got in zip(("video", "audio"), (20, 12), extract(config, arrays, states), strict=True):
        weight, bias = (arrays[f"{name}_aggregate_embed.{part}"].astype(np.float64) for part in ("weight", "bias"))
        expected = (rows * np.sqrt(width / 12)) @ weight.T + bias
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_sums_are_float32_when_features_are_not() -> None:
    config = FeatureExtractorConfig.from_dict(V1, encoder_width=64, encoder_states=49)
    arrays, states = random_case(config, tokens=3)
    exact, _ = extract(config, arrays, states)
    rounded, _ = extract(config, arrays, states, mx.bfloat16)
    np.testing.assert_array_equal(rounded, np.array(mx.array(exact).astype(mx.bfloat16).astype(mx.float32)))


def test_the_concatenation_never_exists() -> None:
    """Only its normalised form does, once, in slabs; beside it a slab of states and one of weights."""
    config = FeatureExtractorConfig.from_dict(V1, encoder_width=1024, encoder_states=28)
    arrays = {"aggregate_embed.weight": mx.zeros((20, 1024 * 28), dtype=mx.bfloat16)}
    state_bytes = 64 * 1024 * 4

    def states() -> Any:
        for index in range(28):
            yield mx.full((1, 64, 1024), float(index))

    mx.eval(arrays["aggregate_embed.weight"])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    FeatureExtractor(config, Params(arrays), mx.float32)(states())
    # A slab of 7, its normalised copies side by side, the weight's slab (20 rows), and temporaries of one state.
    assert mx.get_peak_memory() - before < (28 + 16) * state_bytes


def test_rule_for_the_normalisation() -> None:
    v1 = FeatureExtractorConfig.from_dict(V1)
    assert v1 == FeatureExtractorConfig(False, 3840, 49, 20, 20)
    assert [(s.name, s.shape) for s in param_specs(v1)] == [("aggregate_embed.weight", (20, 188160))]
    v2 = FeatureExtractorConfig.from_dict(V2)
    assert v2 == FeatureExtractorConfig(True, 3840, 49, 20, 12)
    assert {s.name: s.shape for s in param_specs(v2)} == {
        "video_aggregate_embed.weight": (20, 188160),
        "video_aggregate_embed.bias": (20,),
        "audio_aggregate_embed.weight": (12, 188160),
        "audio_aggregate_embed.bias": (12,),
    }


@pytest.mark.parametrize("change", [{"caption_proj_input_norm": True}, {"caption_proj_before_connector": False}])
def test_other_text_projections_are_refused(change: dict[str, bool]) -> None:
    with pytest.raises(CheckpointError, match="Unknown text projection"):
        FeatureExtractorConfig.from_dict(V2 | change)
    incomplete = {key: value for key, value in V2.items() if key != "caption_proj_input_norm"}
    with pytest.raises(CheckpointError, match="Unknown text projection"):
        FeatureExtractorConfig.from_dict(incomplete)


def test_v1_needs_connectors_of_one_width() -> None:
    with pytest.raises(CheckpointError, match="20 and 12 wide"):
        FeatureExtractorConfig.from_dict(V1 | {"audio_connector_attention_head_dim": 6})


@pytest.mark.parametrize(
    ("count", "message"), [(2, "made for 3 hidden states, got 2"), (4, "made for 3 hidden states, got more")]
)
def test_number_of_states_is_checked(count: int, message: str) -> None:
    config = FeatureExtractorConfig.from_dict(V1, encoder_width=12, encoder_states=3)
    arrays, _ = random_case(config, tokens=1)
    with pytest.raises(ValueError, match=message):
        extract(config, arrays, np.ones((count, 1, 12), dtype=np.float32))


def test_width_of_states_is_checked() -> None:
    config = FeatureExtractorConfig.from_dict(V1, encoder_width=12, encoder_states=3)
    with pytest.raises(ValueError, match=r"must be \(1, n, 12\), got \(1, 2, 11\)"):
        extract(config, {}, np.ones((3, 2, 11), dtype=np.float32))


@pytest.mark.parametrize("section", [V1, V2], ids=["V1", "V2"])
def test_slabs_of_the_weight_give_the_same_bits(section: dict[str, Any]) -> None:
    config = FeatureExtractorConfig.from_dict(section, encoder_width=48, encoder_states=9)
    rng = np.random.default_rng(5)
    arrays = {
        spec.name: mx.array(rng.standard_normal(spec.shape, dtype=np.float32)).astype(mx.bfloat16)
        for spec in param_specs(config)
    }
    texts = [[mx.array(rng.standard_normal((1, n, 48), dtype=np.float32)) for _ in range(9)] for n in (3, 11)]
    whole = [FeatureExtractor(config, Params(arrays), mx.float32)(states) for states in texts]
    asked: list[tuple[int, int]] = []

    def rows(name: str, first: int, last: int) -> mx.array:
        asked.append((first, last))
        return arrays[name][first:last]

    biases = {name: value for name, value in arrays.items() if name.endswith("bias")}
    extractor = FeatureExtractor(config, Params(biases), mx.float32, weight_rows=rows, rows_per_slab=5)
    for streamed, expected in zip(extractor.project(extractor.normalised(texts)), whole, strict=True):
        assert mx.array_equal(streamed.video, expected.video)
        assert mx.array_equal(streamed.audio, expected.audio)
    assert max(last - first for first, last in asked) == 5
    assert len(set(asked)) == len(asked) or section is V2
