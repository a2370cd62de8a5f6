"""The diffusion video decoder against a plain computation of the same, and its ways of running against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ltx2rt.errors import CheckpointError, UsageError
from ltx2rt.graph.diffusion.noise import FrameNoise, TorchCpuNoise
from ltx2rt.graph.models.layers.params import Params
from ltx2rt.graph.models.video_vae.config import VideoVaeConfig
from ltx2rt.graph.models.video_vae.diffusion_blocks import Attended, AttentionBlock
from ltx2rt.graph.models.video_vae.diffusion_decoder import DiffusionVideoDecoder, decoder_draws
from ltx2rt.graph.models.video_vae.diffusion_footprint import diffusion_decode_bytes, keyframe_decode_bytes
from ltx2rt.graph.models.video_vae.diffusion_keyframes import KeyFrames
from ltx2rt.graph.models.video_vae.diffusion_streams import BlockFrames, ClipFrames, KeyRing, PlaneKeys, nearest
from ltx2rt.graph.models.video_vae.diffusion_tiling import diffusion_plan
from ltx2rt.graph.models.video_vae.specs import decoder_specs, statistics_specs
from ltx2rt.graph.models.video_vae.tiling import TileCount, TileSize, Tiling
from ltx2rt.types import LinearWeight

CHANNELS = 16
DECODER = {
    "_class_name": "NADiffusionDecoder",
    "in_channels": CHANNELS,
    "head_dim": 16,
    "stage_channels": [64, 32, 16, 16, 16],
    "stage_depths": [1, 1, 1, 1, 2],
    "stage_kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "upsamples": [[[1, 2, 2], 2], [[2, 1, 1], 2], [[2, 2, 2], 1], [[2, 2, 2], 1]],
    "stage5_kernel": [3, 3, 3],
}
STRIDES = ([1, 2, 2], [2, 1, 1], [2, 2, 2], [2, 2, 2])
SECTION: dict[str, Any] = {"_class_name": "CausalDiffusionVAE", "decoder": DECODER}


def small(**changes: Any) -> VideoVaeConfig:
    """A decoder that runs at once."""
    top = {key: changes.pop(key) for key in ("model_output_type",) if key in changes}
    return VideoVaeConfig.from_dict({**SECTION, **top, "decoder": DECODER | changes})


def weights(config: VideoVaeConfig, *, gates: bool = False, marked: bool = True) -> dict[str, mx.array | LinearWeight]:
    """Random values that keep the activations near 1."""
    rng = np.random.default_rng(3)
    arrays: dict[str, mx.array | LinearWeight] = {}
    for spec in decoder_specs(config) + statistics_specs(config.latent_channels):
        fan = spec.shape[-1] if len(spec.shape) > 1 else 4
        values = rng.standard_normal(spec.shape) / np.sqrt(fan)
        if (".gate_" in spec.name and not gates) or (spec.name.endswith("type_emb") and not marked):
            continue
        if len(spec.shape) == 1 and ("norm" in spec.name or spec.name.endswith("std-of-means")):
            values = 1 + 0.2 * values
        array = mx.array(values.astype(np.float32))
        arrays[spec.name] = LinearWeight("dense", array) if spec.layout == "linear" else array
    return arrays


def latent(frames: int, height: int, width: int, seed: int = 0) -> mx.array:
    rng = np.random.default_rng(seed)
    return mx.array(rng.standard_normal((1, frames, height, width, CHANNELS)).astype(np.float32))


def noise() -> FrameNoise:
    return FrameNoise(TorchCpuNoise(7))


def decoded(decoder: DiffusionVideoDecoder, clip: mx.array, *arguments: Any) -> np.ndarray:
    return np.concatenate(list(decoder.stream_frames(clip, *arguments)))


def test_config_of_the_published_file() -> None:
    config = VideoVaeConfig.from_dict({"_class_name": "CausalDiffusionVAE", "decoder": {}})
    decoder = config.require_diffusion()
    assert (config.spatial_factor, config.temporal_factor, config.latent_channels) == (32, 8, 128)
    assert decoder.smallest_latent == (3, 7, 7)
    assert decoder.ghosts == 2
    assert (decoder.tile_margins, decoder.smallest_tile, decoder.tile_cell) == ((20, 20, 20), (6, 6, 6), (2, 8, 8))
    assert decoder.rope_lanes == (16, 24, 24)
    specs = decoder_specs(config) + statistics_specs(config.latent_channels)
    values = sum(int(np.prod(spec.shape)) for spec in specs if not spec.optional)
    assert values == 417_133_872


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model_output_type": "eps"}, "model_output_type is 'eps'; supported are x0 and v"),
        ({"decoder": {"head_dim": 60}}, "head_dim must be a multiple of 16, got 60"),
        ({"decoder": {"resampler_kind": "conv"}}, "resampler_kind is 'conv'; supported is linear"),
        ({"decoder": {"stage_depths": [1, 2]}}, r"stage_depths must list 5 positive integers, got \[1, 2\]"),
        (
            {"decoder": {"stage_channels": [2048, 1024, 512, 256, 256]}},
            "512 channels reduced by 1 are not the next 256",
        ),
        ({"decoder": {"stage5_kernel": [11, 11]}}, r"stage5_kernel must hold three positive integers, got \[11, 11\]"),
        ({"decoder": {"_class_name": "Other"}}, "decoder._class_name is 'Other'; supported is NADiffusionDecoder"),
    ],
)
def test_config_that_cannot_be_built(section: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        VideoVaeConfig.from_dict({"_class_name": "CausalDiffusionVAE", **section})


def attention_by_hand(block: AttentionBlock, x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """x (T, H, W, C) + attention of it, cell by cell: shifted windows, edge columns repeated in the last stage."""
    own = {key.removeprefix(f"{block.path}."): value for key, value in params.items()}

    def array(name: str) -> np.ndarray:
        value = own[name]
        return np.array(value.values if isinstance(value, LinearWeight) else value).astype(np.float64)

    def rms(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return values / np.sqrt((values**2).mean(-1, keepdims=True) + 1e-6) * weight

    beyond = block.window[2] // 2 if block.denoises else 0
    wide = np.pad(x, ((0, 0), (0, 0), (beyond, beyond), (0, 0)), mode="edge")
    projected = rms(wide, array("norm1.weight")) @ array("attn.qkv.weight").T + array("attn.qkv.bias")
    heads = block.channels // block.head_dim
    q, k, v = np.split(projected.reshape(*wide.shape[:3], 3 * heads, block.head_dim), 3, axis=3)
    q, k = rms(q, array("attn.q_norm.weight")), rms(k, array("attn.k_norm.weight"))

    def turned(values: np.ndarray) -> np.ndarray:
        parts, first = [], 0
        for axis, lanes in enumerate(block.lanes):
            angle = np.arange(values.shape[axis])[:, None] * 10000.0 ** (-2 * np.arange(lanes // 2) / lanes)
            shape = [1] * 5
            shape[axis], shape[4] = values.shape[axis], lanes // 2
            cos, sin = np.cos(angle).reshape(shape), np.sin(angle).reshape(shape)
            pairs = values[..., first : first + lanes]
            even, odd = pairs[..., 0::2], pairs[..., 1::2]
            parts.append(np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(pairs.shape))
            first += lanes
        return np.concatenate(parts, axis=-1)

    q, k = turned(q), turned(k)
    out = np.empty_like(x, dtype=np.float64)
    sizes = (*x.shape[:2], wide.shape[2])
    for cell in np.ndindex(*x.shape[:3]):
        place = (cell[0], cell[1], cell[2] + beyond)
        window = tuple(
            slice(start := min(max(i - n // 2, 0), size - n), start + n)
            for i, n, size in zip(place, block.window, sizes, strict=True)
        )
        for head in range(heads):
            keys, values = (a[window][..., head, :].reshape(-1, block.head_dim) for a in (k, v))
            scores = keys @ q[place][head] * block.head_dim**-0.5
            weight = np.exp(scores - scores.max())
            out[cell][head * block.head_dim : (head + 1) * block.head_dim] = weight @ values / weight.sum()
    return x + out @ array("attn.proj.weight").T + array("attn.proj.bias")


@pytest.mark.parametrize("denoises", [False, True])
def test_block_against_a_plain_computation(denoises: bool) -> None:
    block = AttentionBlock("b", 32, 16, (3, 5, 3), (4, 6, 6), denoises)
    rng = np.random.default_rng(1)
    params: dict[str, Any] = {}
    for spec in block.specs():
        if not spec.optional:
            values = mx.array((rng.standard_normal(spec.shape) / 4).astype(np.float32))
            params[spec.name] = LinearWeight("dense", values) if spec.layout == "linear" else values
    params["b.scale_shift_table"] = mx.zeros((7, 32))
    x = rng.standard_normal((1, 7, 6, 5, 32)).astype(np.float32)
    view = Params(params)
    modulation = block.modulation(view, mx.zeros((7, 32)) if denoises else None)
    expected = attention_by_hand(block, x[0], params)
    after = np.array(block.mlp(mx.array(expected[None].astype(np.float32)), view, modulation))
    for limit in (1, 2, 7):
        got = BlockFrames(ClipFrames(mx.array(x)), block, view, modulation, limit).read(7)
        np.testing.assert_allclose(np.array(got), after, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 1, 2), (2, 3, 4), pytest.param(4, 4, 3, marks=pytest.mark.slow)]
)
def test_pieces_do_not_change_the_frames(frames: int, height: int, width: int) -> None:
    config = small()
    params, clip = Params(weights(config)), latent(frames, height, width)
    whole = decoded(DiffusionVideoDecoder(config, params, mx.float32, 100), clip, None, noise())
    factor = config.spatial_factor
    assert whole.shape == (config.pixel_frames(frames), factor * height, factor * width, 3)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert whole.std() > 0.05
    for push in (1, 3):
        for keeps_keys in (True, False):
            decoder = DiffusionVideoDecoder(config, params, mx.float32, push, keeps_keys)
            assert np.array_equal(decoded(decoder, clip, None, noise()), whole)


@pytest.mark.slow
def test_pieces_do_not_change_the_frames_of_bfloat16() -> None:
    config = small(head_dim=64, stage_channels=[64] * 5, upsamples=[[step, 1] for step in STRIDES])
    params, clip = Params(weights(config)), latent(3, 3, 3)
    whole = decoded(DiffusionVideoDecoder(config, params, mx.bfloat16, 100), clip, None, noise())
    for push in (1, 2, 5):
        assert np.array_equal(
            decoded(DiffusionVideoDecoder(config, params, mx.bfloat16, push), clip, None, noise()), whole
        )


def test_noise_is_that_of_one_draw() -> None:
    config = small()
    decoder, clip = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32, 2), latent(3, 3, 3)

    class Whole:
        def normal(self, shape: tuple[int, ...]) -> np.ndarray:
            return TorchCpuNoise(7).normal(shape)

        def frames(self, shape: tuple[int, int, int, int, int]) -> Any:
            draw, position = self.normal(shape), 0

            def part(count: int) -> np.ndarray:
                nonlocal position
                position += count
                return draw[:, :, position - count : position]

            return part

    assert np.array_equal(decoded(decoder, clip, None, noise()), decoded(decoder, clip, None, Whole()))
    other = decoded(decoder, clip, None, FrameNoise(TorchCpuNoise(8)))
    assert np.abs(other - decoded(decoder, clip, None, noise())).max() > 0.01


def test_several_steps_and_velocities() -> None:
    params = Params(weights(small()))
    clip = latent(2, 2, 2)
    one = decoded(DiffusionVideoDecoder(small(), params, mx.float32), clip, None, noise())
    for changes in ({"default_num_inference_steps": 3}, {"model_output_type": "v"}):
        config = small(**changes)
        frames = decoded(DiffusionVideoDecoder(config, params, mx.float32, 2), clip, None, noise())
        assert np.isfinite(frames).all()
        assert np.abs(frames - one).max() > 1e-3
        assert np.array_equal(
            decoded(DiffusionVideoDecoder(config, params, mx.float32, 50), clip, None, noise()), frames
        )


def test_one_step_of_velocity_is_noise_minus_the_prediction() -> None:
    params, clip = Params(weights(small())), latent(3, 3, 3)
    frames = DiffusionVideoDecoder(small(), params, mx.float32)(clip, noise())
    moved = DiffusionVideoDecoder(small(model_output_type="v"), params, mx.float32)(clip, noise())
    drawn = noise().normal((1, 3, 17, 96, 96))
    np.testing.assert_allclose(np.array(moved), np.moveaxis(drawn, 1, -1) - np.array(frames), atol=1e-5)


def test_gates_are_folded() -> None:
    config, clip = small(), latent(1, 2, 2)
    gated = weights(config, gates=True)
    folded = {name: value for name, value in gated.items() if ".gate_" not in name}
    for block in range(2):
        path = f"decoder.diff_blocks.{block}"
        for gate, name in (("gate_msa", "attn.proj"), ("gate_mlp", "mlp.w_down"), ("gate_ctx", "context_proj")):
            factor = gated[f"{path}.{gate}"]
            matrix = gated[f"{path}.{name}.weight"]
            assert isinstance(matrix, LinearWeight)
            assert isinstance(factor, mx.array)
            folded[f"{path}.{name}.weight"] = LinearWeight("dense", matrix.values * factor[:, None])
            if f"{path}.{name}.bias" in gated:
                bias = gated[f"{path}.{name}.bias"]
                assert isinstance(bias, mx.array)
                folded[f"{path}.{name}.bias"] = bias * factor
    first, second = (
        decoded(DiffusionVideoDecoder(config, Params(w), mx.float32), clip, None, noise()) for w in (gated, folded)
    )
    assert np.array_equal(first, second)
    plain = decoded(DiffusionVideoDecoder(config, Params(weights(config)), mx.float32), clip, None, noise())
    assert np.abs(plain - first).max() > 1e-3


# Tiles of the small decoder: overlaps of 4 frames and 16 pixels are what its windows reach.
TILES = Tiling.of(spatial=(48, 16), temporal=(12, 4))


def test_plan_of_tiles() -> None:
    decoder = VideoVaeConfig.from_dict({"_class_name": "CausalDiffusionVAE", "decoder": {}}).require_diffusion()
    plan = diffusion_plan(decoder, (16, 16, 24), Tiling.of(spatial=(384, 160), temporal=(88, 40)))
    assert plan.shape == (121, 512, 768)
    assert [tile.source for tile in plan.frames] == [(0, 44), (24, 61)]
    assert [tile.target for tile in plan.frames] == [(0, 87), (47, 121)]
    assert [tile.target for tile in plan.height] == [(0, 384), (224, 512)]
    assert [tile.target for tile in plan.width] == [(0, 384), (224, 608), (448, 768)]
    assert plan.weights() is None  # the masks sum up to 1 everywhere
    first, second = plan.height
    np.testing.assert_allclose(first.mask[224:] + second.mask[:160], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        (Tiling.of(spatial=(512, 152)), "height tile overlap must be at least 160 for the diffusion .*, got 152"),
        (Tiling.of(temporal=(80, 32)), "temporal tile overlap must be at least 40"),
        (Tiling(width=TileCount(2, 4)), "width tiles .* must overlap by at least 5 latent cells, got 4"),
        (Tiling(height=TileSize(324, 160)), "height tile must be a multiple of 8"),
    ],
)
def test_tiles_that_would_show(tiling: Tiling, message: str) -> None:
    decoder = VideoVaeConfig.from_dict({"_class_name": "CausalDiffusionVAE", "decoder": {}}).require_diffusion()
    with pytest.raises(UsageError, match=message):
        diffusion_plan(decoder, (16, 16, 24), tiling)


class PlacedNoise:
    """Noise that depends on where in the clip a pixel is, so that tiles that overlap have the same."""

    def __init__(self, whole: np.ndarray, places: list[tuple[slice, slice, slice]]) -> None:
        self._whole = whole
        self._places = iter(places)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        frames, rows, columns = next(self._places)
        return self._whole[:, :, frames, rows, columns]

    def frames(self, shape: tuple[int, int, int, int, int]) -> Any:
        draw, position = self.normal(shape), 0
        assert draw.shape == shape

        def part(count: int) -> np.ndarray:
            nonlocal position
            position += count
            return draw[:, :, position - count : position]

        return part


def test_tiles_are_right_in_their_interiors() -> None:
    config = small()
    params, clip = Params(weights(config)), latent(4, 3, 4)
    plan = diffusion_plan(config.require_diffusion(), (4, 3, 4), TILES)
    assert len(plan.frames) > 1
    assert len(plan.width) > 1
    whole = np.random.default_rng(0).standard_normal((1, 3, *plan.shape)).astype(np.float32)
    everything = (slice(None), slice(None), slice(None))
    places = [
        (slice(*tile.frames.target), slice(*tile.height.target), slice(*tile.width.target)) for tile in plan.tiles
    ]
    untiled = decoded(
        DiffusionVideoDecoder(config, params, mx.float32, 2), clip, None, PlacedNoise(whole, [everything])
    )
    tiled = decoded(DiffusionVideoDecoder(config, params, mx.float32, 2), clip, TILES, PlacedNoise(whole, places))
    assert tiled.shape == untiled.shape
    # Far from where tiles end inside of the clip both are the same.
    near_seam = [np.zeros(length, bool) for length in plan.shape]
    reach = [margin * cell for margin, cell in zip(*(config.require_diffusion().tile_margins, (2, 8, 8)), strict=True)]
    for seam, tiles, far in zip(near_seam, (plan.frames, plan.height, plan.width), reach, strict=True):
        for tile in tiles:
            for edge in tile.target:
                if 0 < edge < len(seam):
                    seam[max(0, edge - far) : edge + far] = True
    clear = np.ix_(*(~seam for seam in near_seam))
    assert untiled[clear].size > 0
    np.testing.assert_allclose(tiled[clear], untiled[clear], atol=1e-4)


def test_tiles_draw_their_own_noise_in_their_order() -> None:
    config = small()
    shapes: list[tuple[int, ...]] = []

    class Noted(TorchCpuNoise):
        def normal(self, shape: tuple[int, ...], dtype: Any = "float32") -> np.ndarray:
            shapes.append(shape)
            return super().normal(shape, dtype)

    class Drawn:
        def __init__(self) -> None:
            self.source = Noted(1)

        normal = property(lambda self: self.source.normal)

        def frames(self, shape: tuple[int, int, int, int, int]) -> Any:
            return FrameNoise(_Opaque(self.source)).frames(shape)

    plan = diffusion_plan(config.require_diffusion(), (4, 3, 4), TILES)
    decoder = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32, 2)
    list(decoder.stream_frames(latent(4, 3, 4), TILES, Drawn()))
    expected = [
        (1, 3, *(axis.target[1] - axis.target[0] for axis in (tile.frames, tile.height, tile.width)))
        for tile in plan.tiles
    ]
    assert shapes == expected


@pytest.mark.parametrize(
    ("changes", "tiling", "places"),
    [
        pytest.param({}, None, (), marks=pytest.mark.slow),
        pytest.param({}, None, (1, 24), marks=pytest.mark.slow),
        pytest.param({}, Tiling(TileSize(24, 16)), (), marks=pytest.mark.slow),
        ({}, Tiling(TileSize(24, 16)), (1, 24)),
        ({"model_output_type": "v"}, Tiling(width=TileSize(48, 16)), (24,)),
    ],
    ids=["whole", "key frames", "tiles", "tiles, key frames", "shared noise"],
)
def test_whoever_goes_on_with_the_noise_can_pass_over_what_is_drawn(
    changes: dict[str, Any], tiling: Tiling | None, places: tuple[int, ...]
) -> None:
    config, size = small(**changes), (4, 3, 4)
    seen = keyframes(places, size[1:]) if places else None
    drawn, passed = TorchCpuNoise(5), TorchCpuNoise(5)
    decoder = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32, 3)
    list(decoder.stream_frames(latent(*size), tiling, FrameNoise(drawn), seen))
    for shape in decoder_draws(config.require_diffusion(), size, tiling, seen):
        FrameNoise(passed).skip(shape)
    np.testing.assert_array_equal(passed.normal((40,)), drawn.normal((40,)))


class _Opaque:
    """A source of another kind, whose draws come whole."""

    def __init__(self, source: TorchCpuNoise) -> None:
        self._source = source

    def normal(self, shape: tuple[int, ...], dtype: Any = "float32") -> np.ndarray:
        return self._source.normal(shape, dtype)

    def fork(self) -> _Opaque:
        return _Opaque(self._source.fork())


def test_nearest_key_frames() -> None:
    got = nearest(np.array([0.0, 2.0, 5.0]), np.array([3.0, 1.0, 9.0, 7.0]))
    assert got.tolist() == [[1, 0], [0, 1], [0, 3]]  # the first of equals first
    assert nearest(np.array([4.0]), np.array([1.0])).tolist() == [[0]]


def test_windows_are_cut_where_there_are_key_frames() -> None:
    ring = KeyRing(4, PlaneKeys(mx.zeros((1, 1, 1, 1, 2)), np.array([2.5])))
    ring.put(mx.zeros((1, 4, 1, 1, 2)))
    seen = ring.seen(np.arange(4), 3, 4)
    assert isinstance(seen, Attended)
    assert seen.masked
    assert np.array(seen.key_frames).tolist() == [[4, -1, 0, 1], [4, 0, 1, 2], [4, 1, 2, 3], [4, 2, 3, -1]]


def keyframes(positions: tuple[int, ...], size: tuple[int, int], clip_start: int = 0) -> KeyFrames:
    return KeyFrames(latent(len(positions), *size, seed=5), positions, clip_start)


def test_key_frames_change_the_clip_and_their_order_does_not() -> None:
    config = small()
    decoder, clip = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32, 2), latent(3, 3, 3)
    plain = decoded(decoder, clip, None, noise())
    given = keyframes((3, 12), (3, 3))
    seen = decoded(decoder, clip, None, noise(), given)
    assert seen.shape == plain.shape
    assert np.abs(seen - plain).max() > 1e-3
    again = decoded(DiffusionVideoDecoder(config, Params(weights(config)), mx.float32, 50), clip, None, noise(), given)
    assert np.array_equal(again, seen)

    class Swapped(FrameNoise):
        def normal(self, shape: tuple[int, ...]) -> np.ndarray:
            return super().normal(shape)[:, :, ::-1].copy()

    turned = replace(given, latents=given.latents[:, ::-1], positions=(12, 3))
    other = decoded(decoder, clip, None, Swapped(TorchCpuNoise(7)), turned)
    np.testing.assert_allclose(other, seen, atol=1e-5)


@pytest.mark.parametrize(
    "tiling",
    [
        pytest.param(None, id="whole"),
        pytest.param(Tiling(width=TileSize(48, 16)), id="tiles", marks=pytest.mark.slow),
    ],
)
def test_pieces_do_not_change_what_key_frames_give(tiling: Tiling | None) -> None:
    config = small()
    params, clip, given = Params(weights(config)), latent(3, 3, 4), keyframes((0, 5, 11, 16), (3, 4))
    one, many = (
        decoded(DiffusionVideoDecoder(config, params, mx.float32, push), clip, tiling, noise(), given)
        for push in (1, 7)
    )
    np.testing.assert_array_equal(one, many)


def test_unmarked_key_frames_still_count() -> None:
    config = small()
    clip = latent(3, 3, 3)
    decoder = DiffusionVideoDecoder(config, Params(weights(config, marked=False)), mx.float32)
    zeroed = weights(config) | {"decoder.type_emb": mx.zeros((CHANNELS,))}
    other = DiffusionVideoDecoder(config, Params(zeroed), mx.float32)
    far = keyframes((400,), (3, 3))
    seen = decoded(decoder, clip, None, noise(), far)
    assert np.array_equal(decoded(other, clip, None, noise(), far), seen)
    assert np.abs(seen - decoded(decoder, clip, None, noise())).max() > 1e-4


def test_times_of_key_frames() -> None:
    decoder = VideoVaeConfig.from_dict({"_class_name": "CausalDiffusionVAE", "decoder": {}}).require_diffusion()
    given = KeyFrames(mx.zeros((1, 3, 1, 1, 128)), (0, 5, 40), 16)
    np.testing.assert_allclose(given.times(decoder, 0), [-2.4375, -1.375, 3.0])
    np.testing.assert_allclose(given.times(decoder, 4, 8), [-24, -19, 16])
    assert given.near((0, 8)) == [1, 2]
    assert KeyFrames(mx.zeros((1, 4, 1, 1, 128)), (30, 2, 9, 5), 0).near((4, 10)) == [0, 1, 2, 3]
    assert KeyFrames(mx.zeros((1, 3, 1, 1, 128)), (1, 2, 3), 0).near((10, 20)) == [2]


@pytest.mark.slow
def test_tiles_with_key_frames_are_right_in_their_interiors() -> None:
    config = small()
    params, clip = Params(weights(config)), latent(4, 3, 4)
    given = keyframes((1, 24), (3, 4))
    plan = diffusion_plan(config.require_diffusion(), (4, 3, 4), Tiling(width=TileSize(48, 16)))
    whole = np.random.default_rng(0).standard_normal((1, 3, *plan.shape)).astype(np.float32)
    planes = np.random.default_rng(1).standard_normal((1, 3, 2, *plan.shape[1:])).astype(np.float32)

    class Both(PlacedNoise):
        def normal(self, shape: tuple[int, ...]) -> np.ndarray:
            self._whole = whole if shape[2] == plan.shape[0] else planes
            return super().normal(shape)

    def placed(columns: list[slice]) -> Both:
        return Both(whole, [(slice(None), slice(None), part) for part in columns for _ in range(2)])

    decoder = DiffusionVideoDecoder(config, params, mx.float32, 3)
    untiled = decoded(decoder, clip, None, placed([slice(None)]), given)
    tiling = Tiling(width=TileSize(48, 16))
    tiled = decoded(decoder, clip, tiling, placed([slice(*tile.target) for tile in plan.width]), given)
    inner = plan.width[0].target[1] - 32
    np.testing.assert_allclose(tiled[:, :, : inner - 16], untiled[:, :, : inner - 16], atol=1e-4)
    assert np.abs(tiled - untiled).max() > 1e-5


def test_key_frames_that_do_not_fit() -> None:
    config = small()
    decoder = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32)
    with pytest.raises(UsageError, match=r"P positions, P > 0, got .* and 0 positions"):
        KeyFrames(latent(1, 2, 2), ())
    with pytest.raises(UsageError, match="key frames must have the height and width of the latent"):
        decoded(decoder, latent(1, 2, 2), None, noise(), keyframes((0,), (2, 3)))
    with pytest.raises(UsageError, match=r"latent must be \(1, f, h, w, 16\), got"):
        decoded(decoder, mx.zeros((1, 1, 2, 2, 8)), None, noise())


def test_a_single_frame() -> None:
    config = small()
    decoder = DiffusionVideoDecoder(config, Params(weights(config)), mx.float32)
    frames = [decoded(decoder, latent(2, 2, 2)[:, [i]], None, noise()) for i in range(2)]
    assert all(frame.shape == (1, 64, 64, 3) for frame in frames)
    assert np.abs(frames[0] - frames[1]).max() > 1e-3


def arrays_peak(
    config: VideoVaeConfig,
    frames: int,
    given: KeyFrames | None = None,
    tiling: Tiling | None = None,
    *,
    keeps_keys: bool = True,
    size: tuple[int, int] = (3, 3),
) -> int:
    """Bytes of MLX arrays at the peak of a decode, besides the weights and the latent."""
    params, clip = Params(weights(config)), latent(frames, *size)
    mx.eval([w for w in params._arrays.values() if isinstance(w, mx.array)], clip)
    decoder = DiffusionVideoDecoder(config, params, mx.float32, 3, keeps_keys)
    limit = mx.set_cache_limit(0)
    mx.clear_cache()
    held = mx.get_active_memory()
    mx.reset_peak_memory()
    try:
        for chunk in decoder.stream_frames(clip, tiling, noise(), given):
            del chunk
    finally:
        mx.set_cache_limit(limit)
    return mx.get_peak_memory() - held


def test_memory_is_predicted_and_does_not_grow_with_the_clip() -> None:
    config = small(
        head_dim=32, stage_channels=[128, 64, 64, 64, 64], upsamples=[[STRIDES[0], 2], *([s, 1] for s in STRIDES[1:])]
    )
    decoder = config.require_diffusion()
    peaks = {frames: arrays_peak(config, frames) for frames in (6, 10)}
    assert max(peaks.values()) <= 1.15 * min(peaks.values())
    for frames, peak in peaks.items():
        assert diffusion_decode_bytes(decoder, (frames, 3, 3), 4, None, 3).activations == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
def test_memory_without_kept_keys_and_with_key_frames_is_predicted() -> None:
    config = small(
        head_dim=32, stage_channels=[128, 64, 64, 64, 64], upsamples=[[STRIDES[0], 2], *([s, 1] for s in STRIDES[1:])]
    )
    decoder = config.require_diffusion()
    again = arrays_peak(config, 10, keeps_keys=False)
    assert again < arrays_peak(config, 10)
    predicted = diffusion_decode_bytes(decoder, (10, 3, 3), 4, None, 3, keeps_keys=False)
    assert predicted.activations == pytest.approx(again, rel=0.15)
    given = keyframes((3, 12), (3, 3))
    peak = arrays_peak(config, 6, given)
    assert keyframe_decode_bytes(decoder, (6, 3, 3), 2, 4, None, 3).activations == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
def test_memory_of_tiles_is_predicted() -> None:
    config = small(
        head_dim=32, stage_channels=[128, 64, 64, 64, 64], upsamples=[[STRIDES[0], 2], *([s, 1] for s in STRIDES[1:])]
    )
    decoder, size, tiling = config.require_diffusion(), (4, 3, 6), Tiling(width=TileSize(96, 16))
    peak = arrays_peak(config, size[0], None, tiling, size=size[1:])
    assert diffusion_decode_bytes(decoder, size, 4, tiling, 3).activations == pytest.approx(peak, rel=0.15)
    peak = arrays_peak(config, size[0], keyframes((3, 12), size[1:]), tiling, size=size[1:])
    assert keyframe_decode_bytes(decoder, size, 2, 4, tiling, 3).activations == pytest.approx(peak, rel=0.15)
